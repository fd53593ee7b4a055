/* gmem.h: guest-physical memory: RAM regions, checked access, dirty log. */
#ifndef MEM_GMEM_H
#define MEM_GMEM_H

#include "base/error.h"

/* A guest-physical address. A type of its own, so that it mixes with neither integers nor pointers.
 */
struct gpa {
	uint64_t v;
};
static inline struct gpa gpa(uint64_t v)
{
	return (struct gpa){v};
}

#define GMEM_PAGE_SHIFT 12
#define GMEM_PAGE_SIZE	(UINT64_C(1) << GMEM_PAGE_SHIFT)
#define GMEM_MAX_SLOTS	64

enum gmem_flags {
	GMEM_READONLY = 1 << 0, /* guest writes are dropped (ROM) */
};

/*
 * One contiguous range of RAM or ROM. `host` is page-aligned and is a shared mapping of the gmem's
 * memfd at `fd_offset`, so that another process (or a second mapping) can see the same bytes. A
 * slot never moves or disappears while vCPUs run; its flags may change (gmem_protect), so read them
 * with gmem_slot_flags.
 */
struct gmem_slot {
	uint64_t base, size;
	uint8_t *host;
	uint64_t fd_offset;
	unsigned flags;
};
static inline unsigned gmem_slot_flags(const struct gmem_slot *slot)
{
	return __atomic_load_n(&slot->flags, __ATOMIC_RELAXED);
}

struct gmem_config {
	uint64_t ram_bytes; /* multiple of 4 KiB */
	uint64_t low_limit; /* RAM below this address; the rest goes to 4 GiB and up. The board's
			       PCI hole starts here (3 GiB) */
	_Bool huge;	    /* ask for transparent huge pages */
	/* Where low RAM begins a new slot, in ascending order and page-aligned, so that parts of it
	 * can be protected (gmem_protect). Cuts outside of low RAM are left out. */
	const uint64_t *cuts;
	unsigned cut_count;
};

struct gmem;

/* Allocates sparse RAM: nothing is resident until touched. -ENOMEM with a sentence when the host
 * cannot map so much. */
NODISCARD int gmem_new(struct gmem **gm, const struct gmem_config *cfg, struct error *err);
void gmem_free(struct gmem *gm);

/* Adds a ROM or an extra RAM range, zero-filled. Set-up only. */
NODISCARD int gmem_add(struct gmem *gm, uint64_t base, uint64_t size, unsigned flags,
		       struct error *err);

/* Slots in order of address; constant while vCPUs run, but for flags. Engines map these. */
const struct gmem_slot *gmem_slots(const struct gmem *gm, unsigned *count);
int gmem_fd(const struct gmem *gm);
uint64_t gmem_ram_bytes(const struct gmem *gm);

/* The slot that holds an address, or NULL. */
const struct gmem_slot *gmem_slot_at(const struct gmem *gm, struct gpa addr);

/*
 * Checked access: the whole range must lie in RAM (or ROM, for reads); it may span adjacent slots.
 * 0, or -EFAULT and nothing done. Writes are marked dirty. Other vCPUs may write at the same time:
 * what is read is copied once, so check the copy. gmem_write refuses ROM; gmem_load (set-up,
 * loaders) writes ROM as well.
 */
NODISCARD int gmem_read(const struct gmem *gm, struct gpa addr, void *buf, size_t len);
NODISCARD int gmem_write(struct gmem *gm, struct gpa addr, const void *buf, size_t len);
NODISCARD int gmem_load(struct gmem *gm, struct gpa addr, const void *buf, size_t len);
NODISCARD int gmem_fill(struct gmem *gm, struct gpa addr, uint8_t byte, size_t len);

/*
 * A host pointer to [addr, addr+len) when it lies in one slot and (for writes) is not ROM; else
 * NULL. For engines, loaders and I/O vectors. Whoever writes through it calls gmem_dirty
 * afterwards.
 */
void *gmem_ptr(const struct gmem *gm, struct gpa addr, size_t len, _Bool write);

/*
 * Gives the host memory behind these pages back (a balloon's work): they read as zeroes from now on
 * and take memory again when they are touched. Whoever reads or writes them meanwhile, a vCPU or
 * the host's disk code, goes on without a fault. Like a device's write for engines and dirty log.
 * -EFAULT when a page is not writable RAM, -EINVAL when the range is not whole pages; nothing is
 * done then. The time it takes grows with the memory that was there: the caller bounds `len`.
 */
NODISCARD int gmem_discard(struct gmem *gm, struct gpa addr, size_t len);

/*
 * Called after every store that does not come from a vCPU's own engine path (gmem_write does it):
 * marks pages dirty while logging is on, and tells the listener (an engine that caches code) what
 * changed. Any thread.
 */
void gmem_dirty(struct gmem *gm, struct gpa addr, size_t len);
typedef void gmem_listener(void *opaque, struct gpa addr, size_t len);
void gmem_set_listener(struct gmem *gm, gmem_listener *fn, void *opaque);

/*
 * Makes the slot that begins at `base` read-only for guests (GMEM_READONLY) or writable (0), while
 * vCPUs run: shadow RAM. The engine is told by its protector before this returns; other vCPUs may
 * write for a few instructions more. One caller at a time per slot. -ENOENT: no slot begins there.
 */
NODISCARD int gmem_protect(struct gmem *gm, struct gpa base, unsigned flags);
/* The engine's: `slot` has new flags. 0, or what gmem_protect returns. */
typedef int gmem_protector(void *opaque, unsigned slot);
void gmem_set_protector(struct gmem *gm, gmem_protector *fn, void *opaque);

/* Dirty log: one bit a page per slot. start clears it; harvest ORs into and clears (atomically per
 * word). */
NODISCARD int gmem_log_start(struct gmem *gm);
void gmem_log_stop(struct gmem *gm);
_Bool gmem_log_on(const struct gmem *gm);
/* Copies and clears the log of slot `i` into bits (one per page, (size/4096+63)/64 words); returns
 * the number of dirty pages. */
uint64_t gmem_log_harvest(struct gmem *gm, unsigned slot, uint64_t *bits);
/* Marks dirty only (no listener): for engines. Cheap when logging is off. */
void gmem_log_mark(struct gmem *gm, struct gpa addr, size_t len);

/* Scatter list: splits a guest range into host I/O vectors. Returns the count, or -EFAULT, or
 * -E2BIG past max. */
struct iovec;
NODISCARD int gmem_iov(const struct gmem *gm, struct gpa addr, size_t len, _Bool write,
		       struct iovec *iov, unsigned max);

#endif
