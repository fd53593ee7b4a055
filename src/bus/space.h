/* space.h: port and memory space: who answers at an address. */
#ifndef BUS_SPACE_H
#define BUS_SPACE_H

#include "bus/device.h"

/*
 * What a region delivers. Offsets are relative to the region; sizes are powers of two between
 * min_size and max_size and never cross the region's end, and are aligned to their size unless
 * `unaligned`. The bus splits what is larger; for what is smaller than min_size it reads the whole
 * register and picks the bytes (reads), or widens by zeroes per `narrow` (writes). Hooks run under
 * the device's lock.
 */
enum narrow_write {
	NARROW_DROP = 0,  /* writes smaller than min_size are ignored */
	NARROW_MERGE = 1, /* read, merge, write: only where reads have no side effect */
};
struct region_ops {
	uint64_t (*read)(struct device *dev, void *opaque, uint64_t offset, unsigned size);
	void (*write)(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value);
	uint8_t min_size, max_size; /* 0 means 1 and 8 */
	_Bool unaligned;
	enum narrow_write narrow;
};

/* A device embeds one per BAR or fixed range. `opaque` is passed through. */
struct region {
	const char *name;
	struct device *dev;
	const struct region_ops *ops;
	void *opaque;
	uint64_t size;
	/* set by the space: */
	uint64_t base;
	_Bool mapped;
};

#define SPACE_MAX_REGIONS 512

/* One address space: ports (size 65536) or memory. Lookup is lock-free and O(log n), with mapping
 * changes seen at once by later accesses. */
struct space;
NODISCARD int space_new(struct space **space, const char *name, uint64_t size);
void space_free(struct space *space);

/*
 * Maps and unmaps a region; any thread, also from within a hook (a BAR being moved). -EEXIST when
 * it would overlap an already mapped region (the caller keeps it unmapped; a guest can cause this),
 * -ENOSPC, -EINVAL out of the space.
 */
NODISCARD int space_map(struct space *space, struct region *region, uint64_t base);
void space_unmap(struct space *space, struct region *region);

/*
 * A guest's access: 1, 2, 4 or 8 bytes at any address; may straddle regions. Where nobody answers,
 * reads give all ones and writes vanish. Ports wrap within 64 KiB. Called by engines on a vCPU's
 * thread, with no lock held.
 */
uint64_t space_read(struct space *space, uint64_t addr, unsigned size);
void space_write(struct space *space, uint64_t addr, unsigned size, uint64_t value);

/* Who is at an address, for listings and doorbells; NULL for nobody. */
const struct region *space_lookup(struct space *space, uint64_t addr);
/* Calls fn for every mapped region in order of address. */
void space_each(struct space *space, void (*fn)(void *opaque, const struct region *region),
		void *opaque);

/*
 * Register tables: what most devices hand to region_ops. One row per register, in order of offset;
 * `bits` sit in a 32- or 64-bit little-endian field of the private struct.
 */
enum reg_flags {
	REG_READ_HOOK = 1 << 0,	 /* value comes from the hook */
	REG_WRITE_HOOK = 1 << 1, /* hook is told the new (masked) value after it was stored */
};
struct reg {
	const char *name;
	uint32_t offset; /* in the region */
	uint8_t size;	 /* 1, 2, 4, 8 */
	uint8_t flags;
	uint32_t field; /* offsetof in the private struct; its width is `size` */
	uint64_t reset;
	uint64_t rw;  /* bits a guest may write */
	uint64_t w1c; /* bits that writing 1 clears */
	uint64_t (*read)(struct device *dev, const struct reg *reg);
	/* `old` is the value before; the field already holds the new one; `written` is what the
	 * guest wrote, unmasked */
	void (*write)(struct device *dev, const struct reg *reg, uint64_t old, uint64_t written);
	const char *spec; /* section */
};
const struct reg *reg_find(const struct reg *table, unsigned count, uint64_t offset);
void reg_reset(struct device *dev, const struct reg *table, unsigned count);
/* Whole-register access; a size other than the register's is composed: reads shift and mask or join
 * neighbours, writes merge. Gaps read 0. */
uint64_t reg_read(struct device *dev, const struct reg *table, unsigned count, uint64_t offset,
		  unsigned size);
void reg_write(struct device *dev, const struct reg *table, unsigned count, uint64_t offset,
	       unsigned size, uint64_t value);

#endif
