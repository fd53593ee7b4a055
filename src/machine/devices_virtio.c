/* devices_virtio.c: the board's small virtio devices: random numbers, balloon. */
#include <errno.h>

#include "dev/virtio/rng.h"
#include "machine/internal.h"

static int add_rng(struct machine *m, struct error *err)
{
	struct rng_config cfg = {.clock = m->clock, .rate = m->cfg.spec->rng.rate};
	struct device *dev;
	int r;

	if (m->cfg.spec->rng.absent)
		return 0;
	r = machine_next_place(m, &cfg.place, err);
	if (!r)
		r = rng_new(&dev, &cfg, err);
	if (!r)
		machine_add(m, dev);
	return r;
}

static int add_balloon(struct machine *m, struct error *err)
{
	const struct spec_balloon *spec = &m->cfg.spec->balloon;
	struct balloon_config cfg = {
	    .clock = m->clock,
	    .target_bytes = spec->bytes,
	    .deflate_on_oom = spec->deflate_on_oom,
	    .free_page_reports = spec->free_page_reporting,
	    .interval_s = spec->stats_seconds,
	};
	int r;

	if (spec->absent)
		return 0;
	r = machine_next_place(m, &cfg.place, err);
	if (!r)
		r = balloon_new(&m->balloon, &cfg, err);
	if (!r)
		machine_add(m, m->balloon);
	return r;
}

int machine_add_virtio(struct machine *m, struct error *err)
{
	int r = add_rng(m, err);

	return r ? r : add_balloon(m, err);
}

int machine_balloon_get(struct machine *m, struct balloon_status *status)
{
	if (!m->balloon)
		return -ENODEV;
	balloon_get(m->balloon, status);
	return 0;
}

int machine_balloon_set(struct machine *m, uint64_t target_bytes)
{
	return m->balloon ? balloon_set(m->balloon, target_bytes) : -ENODEV;
}

int machine_balloon_poll(struct machine *m, unsigned interval_s)
{
	if (!m->balloon)
		return -ENODEV;
	balloon_poll(m->balloon, interval_s);
	return 0;
}
