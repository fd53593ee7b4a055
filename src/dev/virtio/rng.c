/* rng.c: the entropy device: the host's random numbers for the guest (VIRTIO12 5.4). */
#include "dev/virtio/rng.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#define RNG_QUEUE_SIZE 64
#define RNG_CLASS_CODE 0x00ff00 /* what drivers of other machines see here: unclassified */
#define RNG_PORTION    1024	/* bytes for one buffer: a device may fill fewer (5.4.6.2) */
#define RNG_TURN       64	/* buffers in one go; what is left waits for the loop's turn */
#define RETRY_NS       (UINT64_C(100) * 1000 * 1000) /* the host has no entropy itself yet */
#define SECOND_NS      UINT64_C(1000000000)

struct rng {
	struct virtio_dev vd; /* first */
	struct rng_config cfg;
	struct timer timer;
	_Bool waiting;		     /* the timer will look at the queue */
	uint64_t tokens, counted_ns; /* bytes that may be given, as of then */
};

static struct rng *rng_of(struct virtio_dev *vd)
{
	return container_of(vd, struct rng, vd);
}

static int host_fill(void *opaque, uint8_t *buf, size_t len)
{
	size_t done = 0;

	/* A signal may cut it short. */
	while (done < len) {
		ssize_t n = getrandom(buf + done, len - done, GRND_NONBLOCK);

		if (n < 0 && errno != EINTR)
			return done ? (int)done : -errno;
		done += n > 0 ? (size_t)n : 0;
	}
	return (int)done;
}

static void wait_until(struct rng *r, uint64_t when_ns)
{
	r->waiting = 1;
	timer_arm(&r->timer, when_ns);
}

/* Up to a second's worth is saved up. What is left of a byte stays in the time not yet counted. */
static void tokens_count(struct rng *r)
{
	uint64_t now = clock_now_ns(r->cfg.clock), past = now - r->counted_ns, more;

	if (past >= SECOND_NS) {
		r->tokens = r->cfg.rate;
		r->counted_ns = now;
		return;
	}
	more = past * r->cfg.rate / SECOND_NS;
	r->counted_ns += more * SECOND_NS / r->cfg.rate;
	r->tokens = MIN(r->tokens + more, r->cfg.rate);
}

/* May so many bytes go out now? If not, the timer is set for when they may. A buffer is filled
 * whole or not at all: drivers are not at their best with scraps (Linux 6.1.192 waits for ever). */
static _Bool tokens_for(struct rng *r, size_t len)
{
	if (!r->cfg.rate)
		return 1;
	tokens_count(r);
	if (r->tokens >= len)
		return 1;
	wait_until(r, r->counted_ns + (len - r->tokens) * SECOND_NS / r->cfg.rate + 1);
	return 0;
}

/* Fills one buffer. False: not now, and the timer is set. */
static _Bool fill_one(struct rng *r, const struct vq_chain *chain)
{
	uint8_t bytes[RNG_PORTION];
	size_t len = MIN((size_t)chain->in_bytes, sizeof(bytes));
	int n;

	if (r->cfg.rate)
		len = MIN(len, (size_t)r->cfg.rate);

	if (!chain->in_bytes) {
		virtio_push(&r->vd, 0, chain, 0); /* nothing to fill: an odd driver */
		return 1;
	}
	if (!tokens_for(r, len))
		return 0;
	n = r->cfg.fill(r->cfg.opaque, bytes, len);
	if (n <= 0) {
		wait_until(r, clock_now_ns(r->cfg.clock) + RETRY_NS);
		return 0;
	}
	assert((size_t)n <= len);
	if (r->cfg.rate)
		r->tokens -= (size_t)n;
	chain_write(r->vd.mem, chain, 0, bytes, (size_t)n);
	virtio_push(&r->vd, 0, chain, (uint32_t)n);
	return 1;
}

static void rng_run(struct rng *r)
{
	struct vq_chain chain;
	unsigned done = 0;

	while (!r->waiting && virtio_pop(&r->vd, 0, &chain)) {
		if (done == RNG_TURN)
			wait_until(r, clock_now_ns(r->cfg.clock));
		if (done == RNG_TURN || !fill_one(r, &chain)) {
			vq_unpop(&r->vd.vq[0], &chain);
			break;
		}
		done++;
	}
	if (done)
		virtio_interrupt(&r->vd, 0);
}

static void rng_notify(struct virtio_dev *vd, unsigned q)
{
	rng_run(rng_of(vd));
}

static void rng_due(void *opaque)
{
	struct rng *r = opaque;

	lock_take(&r->vd.pci.dev.lock);
	r->waiting = 0;
	rng_run(r);
	lock_drop(&r->vd.pci.dev.lock);
}

static void rng_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	struct rng *r = rng_of(vd);

	timer_cancel(&r->timer);
	r->waiting = 0;
}

static const struct virtio_ops rng_ops = {
    .notify = rng_notify,
    .reset = rng_reset,
};

/* ---- the device's class ---- */

static void rng_free(struct device *dev)
{
	struct rng *r = rng_of(virtio_of(dev));

	timer_fini(&r->timer);
	virtio_fini(&r->vd);
	free(r);
}

/* A load begins with what the rate allows in a second; nothing is owed from before. */
static void rng_post_load(struct device *dev)
{
	struct rng *r = rng_of(virtio_of(dev));

	timer_cancel(&r->timer);
	r->waiting = 0;
	r->tokens = r->cfg.rate;
	r->counted_ns = clock_now_ns(r->cfg.clock);
	virtio_post_load(dev);
}

static int rng_check(const void *shadow, struct error *err)
{
	const struct rng *r = shadow;

	return virtio_check(&r->vd, err);
}

static const struct state_field rng_fields[] = {
    VIRTIO_STATE(struct rng, vd),
    STATE_END,
};
static const struct state_desc rng_state = {
    .name = "virtio-rng",
    .fields = rng_fields,
    .size = sizeof(struct rng),
    .check = rng_check,
};
static const struct device_class rng_class = {
    .name = "virtio-rng",
    .reset = virtio_device_reset,
    .free = rng_free,
    .pre_save = virtio_pre_save,
    .post_load = rng_post_load,
    .state = &rng_state,
};

int rng_new(struct device **dev, const struct rng_config *cfg, struct error *err)
{
	static const uint16_t sizes[] = {RNG_QUEUE_SIZE};
	char name[24];
	const struct virtio_setup setup = {
	    .cls = &rng_class,
	    .ops = &rng_ops,
	    .id = VIRTIO_ID_RNG,
	    .name = name,
	    .class_code = RNG_CLASS_CODE,
	    .queues = 1,
	    .queue_sizes = sizes,
	};
	struct rng *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return error_set(err, -ENOMEM, "out of memory");
	assert(cfg->rate <= RNG_RATE_MAX);
	r->cfg = *cfg;
	if (!r->cfg.fill)
		r->cfg.fill = host_fill;
	r->tokens = cfg->rate;
	snprintf(name, sizeof(name), "rng%u", cfg->place.instance);
	rc = virtio_init(&r->vd, &cfg->place, &setup, err);
	if (rc) {
		free(r);
		return rc;
	}
	timer_init(&r->timer, cfg->clock, rng_due, r);
	*dev = &r->vd.pci.dev;
	return 0;
}
