/* space.c: who answers at an address, and how an access becomes whole register accesses. */
#include "bus/space.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"

/*
 * Lookup. The regions lie in an array sorted by address, under a sequence count: a writer (one at a
 * time, by the lock) makes the count odd, changes the array, and makes it even again; a reader that
 * saw an odd count or another one at the end tries again. So a reader never waits for a lock, never
 * writes to shared memory (except the hint, and only when it changes), and sees a region together
 * with the address it had at that moment. Every element is an atomic: stores release and loads
 * acquire, which orders them against the count; both are plain moves on x86.
 *
 * A space of 64 KiB is the ports, and has a table of its own with one index a port in front of the
 * search. A region outlives its mapping (it lives as long as the VM), so an access that races with
 * its unmapping ends in the region's hook, as a cycle does that was on the bus already.
 *
 * The writer's lock is the innermost of all: a device may map and unmap under its own.
 */
#define SPACE_PORTS 65536

struct space_entry {
	_Atomic uint64_t base;
	_Atomic uint64_t last;
	struct region *_Atomic region;
};

struct space {
	const char *name;
	uint64_t size;
	_Atomic uint32_t seq;
	_Atomic uint32_t hint;
	_Atomic uint32_t count;
	struct space_entry entries[SPACE_MAX_REGIONS];
	struct lock lock;
	/* Ports: index of the region in `by_index` plus one; an index stays with its region while
	 * it is mapped. */
	_Atomic uint16_t *ports;
	struct region *_Atomic by_index[SPACE_MAX_REGIONS];
};

/* What a lookup found: a region and where in it the address was, or nobody; and for how many bytes
 * that holds. */
struct hit {
	struct region *region;
	uint64_t offset;
	uint64_t run;
};

static uint64_t get64(const _Atomic uint64_t *p)
{
	return atomic_load_explicit(p, memory_order_acquire);
}

int space_new(struct space **out, const char *name, uint64_t size)
{
	struct space *space = calloc(1, sizeof(*space));

	if (!space)
		return -ENOMEM;
	if (size == SPACE_PORTS) {
		space->ports = calloc(SPACE_PORTS, sizeof(*space->ports));
		if (!space->ports) {
			free(space);
			return -ENOMEM;
		}
	}
	space->name = name;
	space->size = size;
	lock_init(&space->lock, RANK_MEM);
	*out = space;
	return 0;
}

void space_free(struct space *space)
{
	if (!space)
		return;
	lock_fini(&space->lock);
	free(space->ports);
	free(space);
}

/* ---- mapping ---- */

static void write_begin(struct space *space)
{
	lock_take(&space->lock);
	atomic_fetch_add_explicit(&space->seq, 1, memory_order_acq_rel);
}

static void write_end(struct space *space)
{
	atomic_fetch_add_explicit(&space->seq, 1, memory_order_release);
	lock_drop(&space->lock);
}

static void entry_set(struct space *space, uint32_t i, uint64_t base, uint64_t last,
		      struct region *region)
{
	atomic_store_explicit(&space->entries[i].base, base, memory_order_release);
	atomic_store_explicit(&space->entries[i].last, last, memory_order_release);
	atomic_store_explicit(&space->entries[i].region, region, memory_order_release);
}

static void entry_copy(struct space *space, uint32_t to, uint32_t from)
{
	const struct space_entry *e = &space->entries[from];

	entry_set(space, to, get64(&e->base), get64(&e->last),
		  atomic_load_explicit(&e->region, memory_order_acquire));
}

static void ports_set(struct space *space, uint64_t base, uint64_t last, uint16_t value)
{
	for (uint64_t p = base; space->ports && p <= last; p++)
		atomic_store_explicit(&space->ports[p], value, memory_order_release);
}

/* The first entry that ends at or behind an address. Under the lock or inside a read section. */
static uint32_t entry_search(const struct space *space, uint64_t addr)
{
	uint32_t lo = 0, hi = atomic_load_explicit(&space->count, memory_order_acquire);

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (get64(&space->entries[mid].last) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static uint32_t index_take(struct space *space, struct region *region)
{
	uint32_t i = 0;

	while (atomic_load_explicit(&space->by_index[i], memory_order_relaxed))
		i++;
	atomic_store_explicit(&space->by_index[i], region, memory_order_release);
	return i;
}

static int map_locked(struct space *space, struct region *region, uint64_t base)
{
	uint64_t last = base + region->size - 1;
	uint32_t count = atomic_load_explicit(&space->count, memory_order_relaxed);
	uint32_t at = entry_search(space, base);

	if (region->mapped || (at < count && get64(&space->entries[at].base) <= last))
		return -EEXIST;
	if (count == SPACE_MAX_REGIONS)
		return -ENOSPC;
	for (uint32_t i = count; i > at; i--)
		entry_copy(space, i, i - 1);
	entry_set(space, at, base, last, region);
	atomic_store_explicit(&space->count, count + 1, memory_order_release);
	if (space->ports)
		ports_set(space, base, last, (uint16_t)(index_take(space, region) + 1));
	__atomic_store_n(&region->base, base, __ATOMIC_RELEASE);
	region->mapped = 1;
	return 0;
}

int space_map(struct space *space, struct region *region, uint64_t base)
{
	int rc;

	if (!region->size || !range_fits(base, region->size, space->size))
		return -EINVAL;
	write_begin(space);
	rc = map_locked(space, region, base);
	write_end(space);
	return rc;
}

void space_unmap(struct space *space, struct region *region)
{
	write_begin(space);
	if (region->mapped) {
		uint32_t count = atomic_load_explicit(&space->count, memory_order_relaxed);
		uint32_t at = entry_search(space, region->base);

		assert(at < count && atomic_load(&space->entries[at].region) == region);
		for (uint32_t i = at; i + 1 < count; i++)
			entry_copy(space, i, i + 1);
		atomic_store_explicit(&space->count, count - 1, memory_order_release);
		if (space->ports) {
			uint16_t index =
			    atomic_load_explicit(&space->ports[region->base], memory_order_relaxed);

			ports_set(space, region->base, region->base + region->size - 1, 0);
			atomic_store_explicit(&space->by_index[index - 1], NULL,
					      memory_order_release);
		}
		region->mapped = 0;
	}
	write_end(space);
}

/* ---- lookup ---- */

static struct hit ports_find(const struct space *space, uint64_t addr)
{
	struct hit hit = {0};
	uint16_t index = atomic_load_explicit(&space->ports[addr], memory_order_acquire);

	if (!index)
		return hit;
	hit.region = atomic_load_explicit(&space->by_index[index - 1], memory_order_acquire);
	if (!hit.region)
		return hit; /* changed meanwhile: the count will tell */
	hit.offset = addr - __atomic_load_n(&hit.region->base, __ATOMIC_ACQUIRE);
	hit.run = hit.region->size - hit.offset;
	return hit;
}

static struct hit entry_hit(const struct space_entry *e, uint64_t addr)
{
	return (struct hit){.region = atomic_load_explicit(&e->region, memory_order_acquire),
			    .offset = addr - get64(&e->base),
			    .run = get64(&e->last) - addr + 1};
}

static struct hit entries_find(struct space *space, uint64_t addr)
{
	uint32_t count = atomic_load_explicit(&space->count, memory_order_acquire);
	uint32_t i = atomic_load_explicit(&space->hint, memory_order_relaxed);
	uint64_t end = space->size;

	if (i < count && addr >= get64(&space->entries[i].base) &&
	    addr <= get64(&space->entries[i].last))
		return entry_hit(&space->entries[i], addr);
	i = entry_search(space, addr);
	if (i < count)
		end = get64(&space->entries[i].base);
	if (i == count || addr < end)
		return (struct hit){.run = end - addr};
	atomic_store_explicit(&space->hint, i, memory_order_relaxed);
	return entry_hit(&space->entries[i], addr);
}

static struct hit space_find(struct space *space, uint64_t addr)
{
	for (;;) {
		uint32_t seq = atomic_load_explicit(&space->seq, memory_order_acquire);
		struct hit hit = {0};

		if (UNLIKELY(seq & 1)) {
			__builtin_ia32_pause();
			continue;
		}
		if (space->ports)
			hit = ports_find(space, addr);
		if (!hit.region)
			hit = entries_find(space, addr);
		if (LIKELY(atomic_load_explicit(&space->seq, memory_order_relaxed) == seq))
			return hit;
	}
}

const struct region *space_lookup(struct space *space, uint64_t addr)
{
	return addr < space->size ? space_find(space, addr).region : NULL;
}

void space_each(struct space *space, void (*fn)(void *opaque, const struct region *region),
		void *opaque)
{
	const struct region *regions[SPACE_MAX_REGIONS];
	uint32_t count;

	lock_take(&space->lock);
	count = atomic_load_explicit(&space->count, memory_order_relaxed);
	for (uint32_t i = 0; i < count; i++)
		regions[i] = atomic_load_explicit(&space->entries[i].region, memory_order_relaxed);
	lock_drop(&space->lock);
	for (uint32_t i = 0; i < count; i++)
		fn(opaque, regions[i]);
}

/* ---- access ---- */

/* One piece of an access that a device can be asked in one go: hook offset and size, and which of
 * its bytes are meant. */
struct piece {
	uint64_t offset;
	unsigned size; /* what the hook is given */
	unsigned skip; /* bytes of it before the guest's */
	unsigned len;  /* bytes that the guest means */
};

static unsigned pow2_below(uint64_t n)
{
	return 1u << (63 - __builtin_clzll(n));
}

/* The largest piece at the start of [offset, offset + len). */
static struct piece piece_next(const struct region *region, uint64_t offset, unsigned len)
{
	unsigned min = region->ops->min_size ? region->ops->min_size : 1;
	unsigned max = region->ops->max_size ? region->ops->max_size : 8;
	unsigned size = MIN(pow2_below(len), max);
	struct piece piece;

	while (!region->ops->unaligned && offset % size)
		size /= 2;
	if (size >= min)
		return (struct piece){offset, size, 0, size};
	piece.offset = ALIGN_DOWN(offset, min);
	piece.size = min;
	piece.skip = (unsigned)(offset - piece.offset);
	piece.len = MIN(len, min - piece.skip);
	return piece;
}

static uint64_t region_ask(const struct region *region, uint64_t offset, unsigned size)
{
	if (!region->ops->read || !range_fits(offset, size, region->size))
		return size_mask(size);
	return region->ops->read(region->dev, region->opaque, offset, size) & size_mask(size);
}

static void region_tell(const struct region *region, uint64_t offset, unsigned size, uint64_t value)
{
	if (region->ops->write && range_fits(offset, size, region->size))
		region->ops->write(region->dev, region->opaque, offset, size,
				   value & size_mask(size));
}

/* len bytes that lie in the region. */
static uint64_t region_read(const struct region *region, uint64_t offset, unsigned len)
{
	uint64_t value = 0;

	for (unsigned done = 0; done < len;) {
		struct piece p = piece_next(region, offset + done, len - done);
		uint64_t part = region_ask(region, p.offset, p.size) >> (8 * p.skip);

		value |= (part & size_mask(p.len)) << (8 * done);
		done += p.len;
	}
	return value;
}

static void region_write(const struct region *region, uint64_t offset, unsigned len, uint64_t value)
{
	for (unsigned done = 0; done < len;) {
		struct piece p = piece_next(region, offset + done, len - done);
		uint64_t part = value >> (8 * done), mask = size_mask(p.len) << (8 * p.skip);

		done += p.len;
		if (p.len == p.size) {
			region_tell(region, p.offset, p.size, part);
		} else if (region->ops->narrow == NARROW_MERGE) {
			uint64_t old = region_ask(region, p.offset, p.size);

			region_tell(region, p.offset, p.size,
				    (old & ~mask) | (part << (8 * p.skip) & mask));
		}
	}
}

static void region_enter(const struct region *region)
{
	if (region->dev)
		lock_take(&region->dev->lock);
}

static void region_leave(const struct region *region)
{
	if (region->dev)
		lock_drop(&region->dev->lock);
}

/* Who answers at the start of an access, and for how many of its bytes. */
static struct hit access_start(struct space *space, uint64_t addr, unsigned size, unsigned *len)
{
	struct hit hit = {.run = 1};

	if (space->size == SPACE_PORTS)
		addr &= SPACE_PORTS - 1;
	if (addr < space->size)
		hit = space_find(space, addr);
	*len = (unsigned)MIN((uint64_t)size, hit.run);
	return hit;
}

uint64_t space_read(struct space *space, uint64_t addr, unsigned size)
{
	uint64_t value = 0;

	for (unsigned done = 0, n; done < size; done += n) {
		struct hit hit = access_start(space, addr + done, size - done, &n);
		uint64_t part = size_mask(n);

		if (hit.region) {
			region_enter(hit.region);
			part = region_read(hit.region, hit.offset, n);
			region_leave(hit.region);
		}
		value |= part << (8 * done);
	}
	trace(TRACE_IO, "%s read %#llx size %u: %#llx", space->name, (unsigned long long)addr, size,
	      (unsigned long long)value);
	return value;
}

void space_write(struct space *space, uint64_t addr, unsigned size, uint64_t value)
{
	trace(TRACE_IO, "%s write %#llx size %u: %#llx", space->name, (unsigned long long)addr,
	      size, (unsigned long long)value);
	for (unsigned done = 0, n; done < size; done += n) {
		struct hit hit = access_start(space, addr + done, size - done, &n);

		if (!hit.region)
			continue;
		region_enter(hit.region);
		region_write(hit.region, hit.offset, n, value >> (8 * done));
		region_leave(hit.region);
	}
}
