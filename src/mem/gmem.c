/* gmem.c: guest RAM as shared mappings of one sparse memfd. */
#include "mem/gmem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/lock.h"

#define GMEM_HIGH_BASE (UINT64_C(1) << 32)
#define GMEM_HUGE_SIZE (UINT64_C(2) << 20)
#define GMEM_ADDR_MAX  (UINT64_C(1) << 52) /* SDM3 4.1.4: the most physical address bits */

/*
 * Slots are in order of address and, flags apart, never change while vCPUs run, so readers take no
 * lock. The lock orders starts and stops of the dirty log. A log's words stay allocated until the
 * end: a vCPU may still be marking while the log is being turned off.
 */
struct gmem {
	struct gmem_slot slots[GMEM_MAX_SLOTS];
	_Atomic uint64_t *log[GMEM_MAX_SLOTS];
	unsigned count;
	int fd;
	uint64_t fd_bytes;
	uint64_t ram_bytes;
	_Bool huge;
	atomic_bool logging;
	struct lock lock;
	gmem_listener *listener;
	void *listener_opaque;
	gmem_protector *protector;
	void *protector_opaque;
};

static uint64_t mib(uint64_t bytes)
{
	return (bytes + (1 << 20) - 1) >> 20;
}

/* Nothing is mapped so far before and behind guest memory: what strays from it faults. */
#define GUARD_SIZE UINT64_C(0x10000)

/* Maps file bytes so that file offset, and host address agree modulo 2 MiB: what huge pages need.
 */
static void *slot_map(struct gmem *gm, uint64_t offset, uint64_t size)
{
	uint64_t slack = size >= GMEM_HUGE_SIZE ? GMEM_HUGE_SIZE : 0;
	uint64_t all = size + slack + 2 * GUARD_SIZE;
	uint8_t *hole, *host, *end;
	void *p;

	hole = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (hole == MAP_FAILED)
		return NULL;
	host = hole + GUARD_SIZE;
	if (slack)
		host = (uint8_t *)ALIGN_UP((uintptr_t)host, GMEM_HUGE_SIZE);
	end = host + size + GUARD_SIZE;
	p = mmap(host, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, gm->fd,
		 (off_t)offset);
	if (p == MAP_FAILED) {
		int saved = errno;

		munmap(hole, all);
		errno = saved;
		return NULL;
	}
	if (host - GUARD_SIZE > hole)
		munmap(hole, (size_t)(host - GUARD_SIZE - hole));
	if (hole + all > end)
		munmap(end, (size_t)(hole + all - end));
	madvise(host, size, MADV_DONTDUMP);
	if (gm->huge)
		madvise(host, size, MADV_HUGEPAGE); /* a wish: hosts without it go on with 4 KiB */
	return host;
}

int gmem_add(struct gmem *gm, uint64_t base, uint64_t size, unsigned flags, struct error *err)
{
	uint64_t offset;
	uint8_t *host;
	unsigned at = 0;

	if (!size || (base | size) % GMEM_PAGE_SIZE || !range_fits(base, size, GMEM_ADDR_MAX))
		return error_set(err, -EINVAL,
				 "memory of 0x%llx bytes at 0x%llx is not made of whole pages "
				 "within 52 address bits",
				 (unsigned long long)size, (unsigned long long)base);
	if (gm->count == GMEM_MAX_SLOTS)
		return error_set(err, -ENOSPC, "no more than %u ranges of guest memory",
				 GMEM_MAX_SLOTS);
	while (at < gm->count && gm->slots[at].base < base)
		at++;
	if ((at > 0 && gm->slots[at - 1].base + gm->slots[at - 1].size > base) ||
	    (at < gm->count && base + size > gm->slots[at].base))
		return error_set(err, -EEXIST, "memory at 0x%llx overlaps other guest memory",
				 (unsigned long long)base);
	offset = size >= GMEM_HUGE_SIZE ? ALIGN_UP(gm->fd_bytes, GMEM_HUGE_SIZE) : gm->fd_bytes;
	if (ftruncate(gm->fd, (off_t)(offset + size)) || !(host = slot_map(gm, offset, size)))
		return error_set(err, -ENOMEM,
				 "the host cannot map %llu MiB of guest memory (%s); ask for less",
				 (unsigned long long)mib(size), strerror(errno));
	memmove(&gm->slots[at + 1], &gm->slots[at], (gm->count - at) * sizeof(gm->slots[0]));
	memmove(&gm->log[at + 1], &gm->log[at], (gm->count - at) * sizeof(gm->log[0]));
	gm->slots[at] = (struct gmem_slot){base, size, host, offset, flags};
	gm->log[at] = NULL;
	gm->count++;
	gm->fd_bytes = offset + size;
	return 0;
}

/* Cuts the slot that holds `at` in two; both are parts of one mapping. */
static int slot_cut(struct gmem *gm, uint64_t at, struct error *err)
{
	unsigned i = 0;

	while (i < gm->count &&
	       !(gm->slots[i].base < at && at - gm->slots[i].base < gm->slots[i].size))
		i++;
	if (i == gm->count)
		return 0;
	if (at % GMEM_PAGE_SIZE || gm->count == GMEM_MAX_SLOTS)
		return error_set(err, -EINVAL, "guest memory cannot be cut at 0x%llx",
				 (unsigned long long)at);
	memmove(&gm->slots[i + 1], &gm->slots[i], (gm->count - i) * sizeof(gm->slots[0]));
	memmove(&gm->log[i + 1], &gm->log[i], (gm->count - i) * sizeof(gm->log[0]));
	gm->count++;

	uint64_t first = at - gm->slots[i].base;
	struct gmem_slot *rest = &gm->slots[i + 1];
	gm->slots[i].size = first;
	rest->base += first;
	rest->size -= first;
	rest->host += first;
	rest->fd_offset += first;
	return 0;
}

static int config_check(const struct gmem_config *cfg, struct error *err)
{
	unsigned long long want = cfg->ram_bytes;
	struct sysinfo si;
	uint64_t have;

	if (!want || want % GMEM_PAGE_SIZE || cfg->low_limit % GMEM_PAGE_SIZE)
		return error_set(err, -EINVAL,
				 "guest memory of %llu bytes is not a whole number of 4 KiB pages",
				 want);
	if (!cfg->low_limit || cfg->low_limit > GMEM_HIGH_BASE)
		return error_set(err, -EINVAL, "the low part of guest memory must end below 4 GiB");
	if (sysinfo(&si))
		return 0;
	have = ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
	if (want > have)
		return error_set(err, -ENOMEM,
				 "guest memory of %llu MiB is more than this host's %llu MiB of "
				 "memory and swap; ask for less",
				 (unsigned long long)mib(want), (unsigned long long)mib(have));
	return 0;
}

int gmem_new(struct gmem **out, const struct gmem_config *cfg, struct error *err)
{
	uint64_t low = MIN(cfg->ram_bytes, cfg->low_limit);
	struct gmem *gm;
	int rc = config_check(cfg, err);

	if (rc)
		return rc;
	gm = calloc(1, sizeof(*gm));
	if (!gm)
		return error_set(err, -ENOMEM, "out of memory for the guest memory's tables");
	lock_init(&gm->lock, RANK_MEM);
	gm->ram_bytes = cfg->ram_bytes;
	gm->huge = cfg->huge;
	gm->fd = memfd_create("guest-ram", MFD_CLOEXEC);
	if (gm->fd < 0) {
		rc = error_set(err, -errno, "cannot create guest memory: %s", strerror(errno));
		goto fail;
	}
	rc = gmem_add(gm, 0, low, 0, err);
	for (unsigned i = 0; !rc && i < cfg->cut_count; i++)
		rc = slot_cut(gm, cfg->cuts[i], err);
	if (!rc && cfg->ram_bytes > low)
		rc = gmem_add(gm, GMEM_HIGH_BASE, cfg->ram_bytes - low, 0, err);
	if (rc)
		goto fail;
	*out = gm;
	return 0;
fail:
	gmem_free(gm);
	return rc;
}

void gmem_free(struct gmem *gm)
{
	if (!gm)
		return;
	for (unsigned i = 0, next; i < gm->count; i = next) {
		uint8_t *host = gm->slots[i].host, *end = host;

		/* One mapping may have been cut into several slots. */
		for (next = i; next < gm->count && gm->slots[next].host == end; next++) {
			end += gm->slots[next].size;
			free(gm->log[next]);
		}
		munmap(host - GUARD_SIZE, (size_t)(end - host) + 2 * GUARD_SIZE);
	}
	if (gm->fd >= 0)
		close(gm->fd);
	lock_fini(&gm->lock);
	free(gm);
}

const struct gmem_slot *gmem_slots(const struct gmem *gm, unsigned *count)
{
	*count = gm->count;
	return gm->slots;
}

int gmem_fd(const struct gmem *gm)
{
	return gm->fd;
}

uint64_t gmem_ram_bytes(const struct gmem *gm)
{
	return gm->ram_bytes;
}

const struct gmem_slot *gmem_slot_at(const struct gmem *gm, struct gpa addr)
{
	unsigned lo = 0, hi = gm->count;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct gmem_slot *slot = &gm->slots[mid];

		if (addr.v < slot->base)
			hi = mid;
		else if (addr.v - slot->base >= slot->size)
			lo = mid + 1;
		else
			return slot;
	}
	return NULL;
}

/* Bytes from addr to the slot's end, at most len. */
static size_t slot_run(const struct gmem_slot *slot, uint64_t addr, size_t len)
{
	return (size_t)MIN((uint64_t)len, slot->size - (addr - slot->base));
}

/* The whole range is guest memory, none of it with a flag of `refuse`. */
static _Bool range_ok(const struct gmem *gm, uint64_t addr, size_t len, unsigned refuse)
{
	while (len) {
		const struct gmem_slot *slot = gmem_slot_at(gm, gpa(addr));
		size_t n;

		if (!slot || gmem_slot_flags(slot) & refuse)
			return 0;
		n = slot_run(slot, addr, len);
		addr += n; /* no wrap-around: slots end at 2^52 */
		len -= n;
	}
	return 1;
}

int gmem_read(const struct gmem *gm, struct gpa addr, void *buf, size_t len)
{
	uint8_t *to = buf;

	if (!range_ok(gm, addr.v, len, 0))
		return -EFAULT;
	while (len) {
		const struct gmem_slot *slot = gmem_slot_at(gm, addr);
		size_t n = slot_run(slot, addr.v, len);

		memcpy(to, slot->host + (addr.v - slot->base), n);
		to += n;
		addr.v += n;
		len -= n;
	}
	return 0;
}

static int gmem_store(struct gmem *gm, struct gpa addr, const void *buf, size_t len,
		      unsigned refuse)
{
	const uint8_t *from = buf;

	if (!range_ok(gm, addr.v, len, refuse))
		return -EFAULT;
	for (size_t left = len, n; left; left -= n, from += n) {
		struct gpa at = gpa(addr.v + (len - left));
		const struct gmem_slot *slot = gmem_slot_at(gm, at);

		n = slot_run(slot, at.v, left);
		memcpy(slot->host + (at.v - slot->base), from, n);
	}
	gmem_dirty(gm, addr, len);
	return 0;
}

int gmem_write(struct gmem *gm, struct gpa addr, const void *buf, size_t len)
{
	return gmem_store(gm, addr, buf, len, GMEM_READONLY);
}

int gmem_load(struct gmem *gm, struct gpa addr, const void *buf, size_t len)
{
	return gmem_store(gm, addr, buf, len, 0);
}

int gmem_fill(struct gmem *gm, struct gpa addr, uint8_t byte, size_t len)
{
	if (!range_ok(gm, addr.v, len, GMEM_READONLY))
		return -EFAULT;
	for (size_t left = len, n; left; left -= n) {
		struct gpa at = gpa(addr.v + (len - left));
		const struct gmem_slot *slot = gmem_slot_at(gm, at);

		n = slot_run(slot, at.v, left);
		memset(slot->host + (at.v - slot->base), byte, n);
	}
	gmem_dirty(gm, addr, len);
	return 0;
}

int gmem_discard(struct gmem *gm, struct gpa addr, size_t len)
{
	if (addr.v % GMEM_PAGE_SIZE || len % GMEM_PAGE_SIZE)
		return -EINVAL;
	if (!range_ok(gm, addr.v, len, GMEM_READONLY))
		return -EFAULT;
	for (size_t left = len, n; left; left -= n) {
		uint64_t at = addr.v + (len - left);
		const struct gmem_slot *slot = gmem_slot_at(gm, gpa(at));

		n = slot_run(slot, at, left);
		/* Takes the pages out of every mapping of the memfd, KVM's among them. */
		if (fallocate(gm->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)(slot->fd_offset + (at - slot->base)), (off_t)n))
			memset(slot->host + (at - slot->base), 0, n);
	}
	gmem_dirty(gm, addr, len);
	return 0;
}

void *gmem_ptr(const struct gmem *gm, struct gpa addr, size_t len, _Bool write)
{
	const struct gmem_slot *slot = gmem_slot_at(gm, addr);

	if (!slot || (write && gmem_slot_flags(slot) & GMEM_READONLY) ||
	    slot_run(slot, addr.v, len) < len)
		return NULL;
	return slot->host + (addr.v - slot->base);
}

int gmem_iov(const struct gmem *gm, struct gpa addr, size_t len, _Bool write, struct iovec *iov,
	     unsigned max)
{
	unsigned count = 0;

	if (!range_ok(gm, addr.v, len, write ? GMEM_READONLY : 0))
		return -EFAULT;
	while (len) {
		const struct gmem_slot *slot = gmem_slot_at(gm, addr);
		size_t n = slot_run(slot, addr.v, len);

		if (count == max)
			return -E2BIG;
		iov[count].iov_base = slot->host + (addr.v - slot->base);
		iov[count++].iov_len = n;
		addr.v += n;
		len -= n;
	}
	return (int)count;
}

void gmem_set_listener(struct gmem *gm, gmem_listener *fn, void *opaque)
{
	gm->listener = fn;
	gm->listener_opaque = opaque;
}

void gmem_dirty(struct gmem *gm, struct gpa addr, size_t len)
{
	if (!len)
		return;
	gmem_log_mark(gm, addr, len);
	if (gm->listener)
		gm->listener(gm->listener_opaque, addr, len);
}

void gmem_set_protector(struct gmem *gm, gmem_protector *fn, void *opaque)
{
	gm->protector = fn;
	gm->protector_opaque = opaque;
}

int gmem_protect(struct gmem *gm, struct gpa base, unsigned flags)
{
	struct gmem_slot *slot = NULL;

	for (unsigned i = 0; i < gm->count && !slot; i++)
		if (gm->slots[i].base == base.v)
			slot = &gm->slots[i];
	if (!slot)
		return -ENOENT;
	if (__atomic_exchange_n(&slot->flags, flags, __ATOMIC_ACQ_REL) == flags || !gm->protector)
		return 0;
	return gm->protector(gm->protector_opaque, (unsigned)(slot - gm->slots));
}

/* ---- the dirty log ---- */

static size_t slot_words(const struct gmem_slot *slot)
{
	return (size_t)((slot->size / GMEM_PAGE_SIZE + 63) / 64);
}

int gmem_log_start(struct gmem *gm)
{
	int rc = 0;

	lock_take(&gm->lock);
	for (unsigned i = 0; i < gm->count; i++) {
		size_t words = slot_words(&gm->slots[i]);

		if (!gm->log[i])
			gm->log[i] = calloc(words, sizeof(*gm->log[i]));
		if (!gm->log[i]) {
			rc = -ENOMEM;
			break;
		}
		for (size_t w = 0; w < words; w++) {
			if (atomic_load_explicit(&gm->log[i][w], memory_order_relaxed))
				atomic_store_explicit(&gm->log[i][w], 0, memory_order_relaxed);
		}
	}
	if (!rc)
		atomic_store_explicit(&gm->logging, 1, memory_order_release);
	lock_drop(&gm->lock);
	return rc;
}

void gmem_log_stop(struct gmem *gm)
{
	lock_take(&gm->lock);
	atomic_store_explicit(&gm->logging, 0, memory_order_release);
	lock_drop(&gm->lock);
}

_Bool gmem_log_on(const struct gmem *gm)
{
	return atomic_load_explicit(&gm->logging, memory_order_acquire);
}

void gmem_log_mark(struct gmem *gm, struct gpa addr, size_t len)
{
	if (LIKELY(!gmem_log_on(gm)))
		return;
	while (len) {
		const struct gmem_slot *slot = gmem_slot_at(gm, addr);
		uint64_t page, last;
		size_t n;

		if (!slot)
			return;
		n = slot_run(slot, addr.v, len);
		page = (addr.v - slot->base) >> GMEM_PAGE_SHIFT;
		last = (addr.v - slot->base + n - 1) >> GMEM_PAGE_SHIFT;
		/* Not "only when clear": the locked OR also orders the data before the bit, so that
		 * whoever harvests the bit and then copies the page copies the new data. */
		for (; page <= last; page++)
			atomic_fetch_or(&gm->log[slot - gm->slots][page / 64], BIT64(page % 64));
		addr.v += n;
		len -= n;
	}
}

uint64_t gmem_log_harvest(struct gmem *gm, unsigned slot, uint64_t *bits)
{
	uint64_t pages = 0;

	assert(slot < gm->count);
	for (size_t w = 0; w < slot_words(&gm->slots[slot]); w++) {
		_Atomic uint64_t *word = gm->log[slot] ? &gm->log[slot][w] : NULL;

		bits[w] = word && atomic_load_explicit(word, memory_order_relaxed)
			      ? atomic_exchange(word, 0)
			      : 0;
		pages += (uint64_t)__builtin_popcountll(bits[w]);
	}
	return pages;
}
