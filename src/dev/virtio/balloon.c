/* balloon.c: the memory balloon: its target, pages in and out, statistics (VIRTIO12 5.5). */
#include "dev/virtio/balloon.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/log.h"

/*
 * Pages that the guest puts into the balloon, or reports as free, are punched out of the file
 * behind its RAM; taking one back needs nothing, for a touched page is a new one of zeroes. So the
 * device keeps no list of them, and a guest that lies about its pages loses their contents and
 * nothing else.
 *
 * Punching takes time, and a chain can name gigabytes, so it is done in turns: a turn's worth on
 * the CPU that notified, and the rest from a timer, that is on the loop's thread. A chain that is
 * not finished goes back into the ring, and `at` says how far it was; nothing is ever in flight.
 * Doing a part twice (after a restore) is harmless: the pages are the device's until the chain is
 * returned. The statistics' one buffer stays in the ring too until fresh ones are wanted.
 */

#define BALLOON_F_MUST_TELL_HOST BIT64(0)
#define BALLOON_F_STATS_VQ	 BIT64(1)
#define BALLOON_F_DEFLATE_ON_OOM BIT64(2)
#define BALLOON_F_PAGE_POISON	 BIT64(4)
#define BALLOON_F_REPORTING	 BIT64(5)

/* Configuration (5.5.4); the third word belongs to free page hints, which are not offered. */
enum { CFG_TARGET = 0, CFG_ACTUAL = 4, CFG_HINT = 8, CFG_POISON = 12, CFG_SIZE = 16 };

#define BALLOON_CLASS_CODE 0x00ff00
#define BALLOON_QUEUES	   5
#define BALLOON_QUEUE_SIZE 128
#define PFN_BLOCK	   64 /* page numbers copied at once */
#define STATS_MAX	   64 /* entries looked at */
#define STAT_BYTES	   10 /* le16 tag, le64 value */
#define SECOND_NS	   UINT64_C(1000000000)
/* A turn: pages, and what a system call costs counted as pages. Some 10 ms. */
#define TURN_PAGES 32768u
#define CALL_PAGES 16u

enum role { ROLE_NONE, ROLE_INFLATE, ROLE_DEFLATE, ROLE_STATS, ROLE_REPORT };

struct balloon {
	struct virtio_dev vd; /* first */
	struct balloon_config cfg;
	struct timer work, poll;
	uint64_t at[BALLOON_QUEUES]; /* bytes of the next chain that are done */
	struct balloon_status status;
	uint64_t stats_ns; /* when they came */
};

static struct balloon *balloon_of(struct virtio_dev *vd)
{
	return container_of(vd, struct balloon, vd);
}

/*
 * What queue q is for. By the specification each has its number whether the others exist or not
 * (5.5.2); drivers of the time before number them without gaps. Here both find theirs, as nothing
 * else is in those places.
 */
static enum role role_of(const struct balloon *b, unsigned q)
{
	if (q < 2)
		return q ? ROLE_DEFLATE : ROLE_INFLATE;
	if (q == 2 && virtio_has(&b->vd, BALLOON_F_STATS_VQ))
		return ROLE_STATS;
	return virtio_has(&b->vd, BALLOON_F_REPORTING) ? ROLE_REPORT : ROLE_NONE;
}

/* ---- pages ---- */

struct run {
	uint64_t first, count; /* pages that follow each other */
};

/* True when the guest has such a page and may write it. */
static _Bool page_usable(const struct balloon *b, uint64_t pfn)
{
	const struct gmem_slot *slot = gmem_slot_at(b->vd.mem, gpa(pfn << GMEM_PAGE_SHIFT));

	return slot && !(gmem_slot_flags(slot) & GMEM_READONLY);
}

static void charge(unsigned *budget, uint64_t pages)
{
	*budget -= (unsigned)MIN(pages, (uint64_t)*budget);
}

/* Costs a call; the pages were charged for when they were added up. */
static void discard(struct balloon *b, uint64_t addr, uint64_t len, uint64_t *count,
		    unsigned *budget)
{
	if (!len)
		return;
	charge(budget, CALL_PAGES);
	if (gmem_discard(b->vd.mem, gpa(addr), len))
		log_guest("%s: the guest gives pages that are not its RAM", b->vd.pci.dev.id);
	else
		*count += len;
}

static void run_end(struct balloon *b, struct run *run, unsigned *budget)
{
	discard(b, run->first << GMEM_PAGE_SHIFT, run->count << GMEM_PAGE_SHIFT,
		&b->status.inflated_bytes, budget);
	run->count = 0;
}

static void run_add(struct balloon *b, struct run *run, uint64_t pfn, unsigned *budget)
{
	if (!page_usable(b, pfn)) {
		log_guest("%s: the guest gives page 0x%llx, which is not its RAM", b->vd.pci.dev.id,
			  (unsigned long long)pfn);
		return;
	}
	/* At once, and not when the run ends: one may be as long as all RAM. */
	charge(budget, 1);
	if (run->count && pfn == run->first + run->count) {
		run->count++;
	} else if (run->count && pfn == run->first - 1) {
		run->first--;
		run->count++;
	} else {
		run_end(b, run, budget);
		*run = (struct run){pfn, 1};
	}
}

/* A chain of page numbers, from byte *at on. True when all of it is done. */
static _Bool inflate(struct balloon *b, const struct vq_chain *c, uint64_t *at, unsigned *budget)
{
	struct run run = {0};
	uint8_t block[4 * PFN_BLOCK];

	while (*budget) {
		size_t n = chain_read(c, *at, block, sizeof(block)) / 4;

		for (size_t i = 0; i < n; i++)
			run_add(b, &run, load_le32(block + 4 * i), budget);
		*at += 4 * n;
		/* Page numbers that are not RAM cost as well. */
		charge(budget, 4);
		if (n < PFN_BLOCK) {
			run_end(b, &run, budget);
			return 1;
		}
	}
	run_end(b, &run, budget);
	return 0;
}

/* Free pages, each piece a writable buffer (5.5.6.7); of those only whole pages. */
static _Bool report(struct balloon *b, const struct vq_chain *c, uint64_t *at, unsigned *budget)
{
	uint64_t skip = *at, start, end;

	/* They have to come back as they were: zeroes when they are not poisoned. */
	if (virtio_has(&b->vd, BALLOON_F_PAGE_POISON) && load_le32(b->vd.config + CFG_POISON))
		return 1;
	for (unsigned i = c->out; i < c->out + c->in; i++) {
		uint64_t len = c->iov[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		if (!*budget)
			return 0;
		start = ALIGN_UP(c->addr[i].v + skip, GMEM_PAGE_SIZE);
		end = (c->addr[i].v + len) & ~(GMEM_PAGE_SIZE - 1);
		if (end > start && (end - start) >> GMEM_PAGE_SHIFT > *budget) {
			uint64_t part = (uint64_t)*budget << GMEM_PAGE_SHIFT;

			*at += start + part - (c->addr[i].v + skip);
			charge(budget, part >> GMEM_PAGE_SHIFT);
			discard(b, start, part, &b->status.reported_bytes, budget);
			return 0;
		}
		charge(budget, end > start ? (end - start) >> GMEM_PAGE_SHIFT : 1);
		if (end > start)
			discard(b, start, end - start, &b->status.reported_bytes, budget);
		*at += len - skip;
		skip = 0;
	}
	return 1;
}

/* ---- statistics ---- */

static void stats_take(struct balloon *b, const struct vq_chain *c)
{
	uint8_t bytes[STATS_MAX * STAT_BYTES];
	size_t n = chain_read(c, 0, bytes, sizeof(bytes)) / STAT_BYTES;

	for (size_t i = 0; i < n; i++) {
		uint16_t tag = load_le16(bytes + i * STAT_BYTES);

		if (tag >= BALLOON_STATS)
			continue;
		b->status.stat[tag] = load_le64(bytes + i * STAT_BYTES + 2);
		b->status.stats_known |= BIT32(tag);
	}
	b->stats_ns = clock_now_ns(b->cfg.clock);
}

/* The driver has filled its buffer: read, and left in the ring. */
static void stats_look(struct balloon *b)
{
	struct vq_chain chain;

	if (!virtio_pop(&b->vd, 2, &chain))
		return;
	stats_take(b, &chain);
	vq_unpop(&b->vd.vq[2], &chain);
}

/* Returning the buffer asks for it again with fresh contents (5.5.6.3). */
static void stats_ask(struct balloon *b)
{
	struct vq_chain chain;

	if (role_of(b, 2) != ROLE_STATS || !virtio_pop(&b->vd, 2, &chain))
		return;
	virtio_push(&b->vd, 2, &chain, 0);
	virtio_interrupt(&b->vd, 2);
	stats_look(b); /* empty as a rule: this makes the driver notify */
}

/* ---- what drives it ---- */

/* True when the queue is done with. */
static _Bool queue_run(struct balloon *b, unsigned q, unsigned *budget)
{
	enum role role = role_of(b, q);
	struct vq_chain chain;
	unsigned pushed = 0;
	_Bool all = 1;

	while (all && virtio_pop(&b->vd, q, &chain)) {
		all = *budget != 0;
		if (all && role == ROLE_INFLATE)
			all = inflate(b, &chain, &b->at[q], budget);
		else if (all && role == ROLE_REPORT)
			all = report(b, &chain, &b->at[q], budget);
		if (!all) {
			vq_unpop(&b->vd.vq[q], &chain);
			break;
		}
		charge(budget, CALL_PAGES);
		b->at[q] = 0;
		virtio_push(&b->vd, q, &chain, 0);
		pushed++;
	}
	if (pushed)
		virtio_interrupt(&b->vd, q);
	return all;
}

static void balloon_notify(struct virtio_dev *vd, unsigned q)
{
	struct balloon *b = balloon_of(vd);
	unsigned budget = TURN_PAGES;

	if (role_of(b, q) == ROLE_STATS)
		stats_look(b);
	else if (role_of(b, q) != ROLE_NONE && !queue_run(b, q, &budget))
		timer_arm(&b->work, clock_now_ns(b->cfg.clock));
}

static void work_due(void *opaque)
{
	struct balloon *b = opaque;
	unsigned budget = TURN_PAGES;
	_Bool all = 1;

	lock_take(&b->vd.pci.dev.lock);
	for (unsigned q = 0; q < BALLOON_QUEUES; q++) {
		enum role role = role_of(b, q);

		if (role != ROLE_NONE && role != ROLE_STATS)
			all &= queue_run(b, q, &budget);
	}
	if (!all)
		timer_arm(&b->work, clock_now_ns(b->cfg.clock));
	lock_drop(&b->vd.pci.dev.lock);
}

static void poll_arm(struct balloon *b)
{
	if (b->status.interval_s && virtio_ready(&b->vd))
		timer_arm(&b->poll, clock_now_ns(b->cfg.clock) + b->status.interval_s * SECOND_NS);
	else
		timer_cancel(&b->poll);
}

static void poll_due(void *opaque)
{
	struct balloon *b = opaque;

	lock_take(&b->vd.pci.dev.lock);
	stats_ask(b);
	poll_arm(b);
	lock_drop(&b->vd.pci.dev.lock);
}

static void balloon_status_changed(struct virtio_dev *vd)
{
	poll_arm(balloon_of(vd));
}

static void balloon_queue_stop(struct virtio_dev *vd, unsigned q)
{
	balloon_of(vd)->at[q] = 0;
}

/* After a reset nothing is in the balloon; the operator's wish stays until power-on. */
static void balloon_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	struct balloon *b = balloon_of(vd);
	uint32_t target = load_le32(vd->config + CFG_TARGET);

	if (kind == RESET_POWER)
		target = (uint32_t)(b->cfg.target_bytes >> GMEM_PAGE_SHIFT);
	memset(vd->config, 0, CFG_SIZE);
	store_le32(vd->config + CFG_TARGET, target);
	b->status.stats_known = 0;
	timer_cancel(&b->work);
}

static void balloon_post_load(struct virtio_dev *vd)
{
	struct balloon *b = balloon_of(vd);

	memset(b->at, 0, sizeof(b->at));
	b->status.stats_known = 0;
	timer_cancel(&b->work);
}

static const struct virtio_ops balloon_ops = {
    .status = balloon_status_changed,
    .notify = balloon_notify,
    .queue_stop = balloon_queue_stop,
    .reset = balloon_reset,
    .post_load = balloon_post_load,
};

/* ---- for the operator ---- */

void balloon_get(struct device *dev, struct balloon_status *status)
{
	struct balloon *b = balloon_of(virtio_of(dev));
	uint64_t ram = gmem_ram_bytes(b->vd.mem);

	lock_take(&dev->lock);
	*status = b->status;
	status->driver = virtio_ready(&b->vd);
	status->target_bytes = (uint64_t)load_le32(b->vd.config + CFG_TARGET) << GMEM_PAGE_SHIFT;
	status->actual_bytes = (uint64_t)load_le32(b->vd.config + CFG_ACTUAL) << GMEM_PAGE_SHIFT;
	status->actual_bytes = MIN(status->actual_bytes, ram); /* the guest says what it likes */
	status->stats_age_ns = clock_now_ns(b->cfg.clock) - b->stats_ns;
	lock_drop(&dev->lock);
}

int balloon_set(struct device *dev, uint64_t target_bytes)
{
	struct balloon *b = balloon_of(virtio_of(dev));

	if (target_bytes > gmem_ram_bytes(b->vd.mem))
		return -EINVAL;
	lock_take(&dev->lock);
	store_le32(b->vd.config + CFG_TARGET, (uint32_t)(target_bytes >> GMEM_PAGE_SHIFT));
	virtio_config_changed(&b->vd);
	lock_drop(&dev->lock);
	return 0;
}

void balloon_poll(struct device *dev, unsigned interval_s)
{
	struct balloon *b = balloon_of(virtio_of(dev));

	assert(interval_s <= BALLOON_INTERVAL_MAX);
	lock_take(&dev->lock);
	b->status.interval_s = interval_s;
	stats_ask(b);
	poll_arm(b);
	lock_drop(&dev->lock);
}

/* ---- the device's class ---- */

static void balloon_free(struct device *dev)
{
	struct balloon *b = balloon_of(virtio_of(dev));

	timer_fini(&b->work);
	timer_fini(&b->poll);
	virtio_fini(&b->vd);
	free(b);
}

static int balloon_check(const void *shadow, struct error *err)
{
	const struct balloon *b = shadow;
	const uint8_t *c = b->vd.config;

	if (load_le32(c + CFG_TARGET) > gmem_ram_bytes(b->vd.mem) >> GMEM_PAGE_SHIFT)
		return error_set(err, -EINVAL,
				 "saved state of %s: a target of more pages than there are",
				 b->vd.pci.dev.id);
	if (load_le32(c + CFG_HINT))
		return error_set(err, -EINVAL, "saved state of %s: a hint that was never asked for",
				 b->vd.pci.dev.id);
	return virtio_check(&b->vd, err);
}

static const struct state_field balloon_fields[] = {
    VIRTIO_STATE(struct balloon, vd),
    STATE_END,
};
static const struct state_desc balloon_state = {
    .name = "virtio-balloon",
    .fields = balloon_fields,
    .size = sizeof(struct balloon),
    .check = balloon_check,
};
static const struct device_class balloon_class = {
    .name = "virtio-balloon",
    .reset = virtio_device_reset,
    .free = balloon_free,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
    .state = &balloon_state,
};

int balloon_new(struct device **dev, const struct balloon_config *cfg, struct error *err)
{
	static const uint16_t sizes[BALLOON_QUEUES] = {
	    BALLOON_QUEUE_SIZE, BALLOON_QUEUE_SIZE, BALLOON_QUEUE_SIZE,
	    BALLOON_QUEUE_SIZE, BALLOON_QUEUE_SIZE,
	};
	char name[24];
	const struct virtio_setup setup = {
	    .cls = &balloon_class,
	    .ops = &balloon_ops,
	    .id = VIRTIO_ID_BALLOON,
	    .name = name,
	    .class_code = BALLOON_CLASS_CODE,
	    .features = BALLOON_F_MUST_TELL_HOST | BALLOON_F_STATS_VQ |
			(cfg->deflate_on_oom ? BALLOON_F_DEFLATE_ON_OOM : 0) |
			(cfg->free_page_reports ? BALLOON_F_PAGE_POISON | BALLOON_F_REPORTING : 0),
	    .queues = BALLOON_QUEUES,
	    .queue_sizes = sizes,
	    .config_size = CFG_SIZE,
	};
	struct balloon *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return error_set(err, -ENOMEM, "out of memory");
	assert(cfg->target_bytes <= gmem_ram_bytes(cfg->place.mem));
	b->cfg = *cfg;
	b->status.interval_s = cfg->interval_s;
	memset(b->vd.config_rw + CFG_ACTUAL, 0xff, 4);
	memset(b->vd.config_rw + CFG_POISON, 0xff, 4);
	snprintf(name, sizeof(name), "balloon%u", cfg->place.instance);
	timer_init(&b->work, cfg->clock, work_due, b);
	timer_init(&b->poll, cfg->clock, poll_due, b);
	r = virtio_init(&b->vd, &cfg->place, &setup, err);
	if (r) {
		free(b);
		return r;
	}
	*dev = &b->vd.pci.dev;
	return 0;
}
