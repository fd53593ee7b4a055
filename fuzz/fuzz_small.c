/* fuzz_small.c: the entropy device, the balloon and the console as a guest reaches them: registers,
 * rings, chains, resets, saves in the middle. */
#include "dev/virtio/testing.h"

#include <stdlib.h>

#include "base/log.h"
#include "dev/virtio/balloon.h"
#include "dev/virtio/console.h"
#include "dev/virtio/rng.h"
#include "rings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define QUEUES 5

static void setup(struct vt *t, struct chardev *host[2], uint8_t how)
{
	struct virtio_place place = vt_init(t);
	const struct rng_config rng = {
	    .place = place, .clock = t->b.clock, .rate = how & 2 ? 1000 : 0};
	const struct balloon_config balloon = {.place = place,
					       .clock = t->b.clock,
					       .target_bytes = how & 2 ? 1 << 16 : 0,
					       .deflate_on_oom = 1,
					       .free_page_reports = !(how & 4),
					       .interval_s = how & 8 ? 1 : 0};
	struct console_config console = {
	    .place = place, .clock = t->b.clock, .ports = how >> 5 & 1};
	int r;

	if (chardev_mem_new(&host[0], 256) || chardev_mem_new(&host[1], 256))
		abort();
	console.console = host[0];
	console.port[0] = (struct console_port_config){"port", host[1], 1};
	if (how & 16)
		r = console_new(&t->dev, &console, NULL);
	else
		r = how & 1 ? rng_new(&t->dev, &rng, NULL) : balloon_new(&t->dev, &balloon, NULL);

	if (r)
		abort();
	vt_power_on(t);
}

static void operate(struct vt *t, struct chardev *host[2], uint32_t what)
{
	struct balloon_status s;

	if (virtio_of(t->dev)->id == VIRTIO_ID_CONSOLE) {
		if (what & 2)
			console_resize(t->dev, what >> 8 & 0xff, what >> 16);
		chardev_mem_feed(host[what & 1], (const uint8_t *)&what, 4);
	}
	if (virtio_of(t->dev)->id != VIRTIO_ID_BALLOON)
		return;
	balloon_get(t->dev, &s);
	balloon_poll(t->dev, what & 3);
	if (s.actual_bytes > BENCH_RAM || (balloon_set(t->dev, what) && what <= BENCH_RAM))
		abort();
}

static void step(struct vt *t, struct chardev *host[2], uint8_t op, uint16_t where, uint32_t what)
{
	if (op % 10 == 8)
		operate(t, host, what);
	else
		rings_step(t, QUEUES, op, where, what);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct chardev *host[2];
	struct vt t;

	if (!len)
		return 0;
	log_set_level(LOG_ERROR);
	setup(&t, host, data[0]);
	rings_start(&t, 0);
	for (data++, len--; len >= 7; data += 7, len -= 7) {
		uint16_t where;
		uint32_t what;

		memcpy(&where, data + 1, 2);
		memcpy(&what, data + 3, 4);
		step(&t, host, data[0], where, what);
		if (virtio_in_flight(virtio_of(t.dev))) /* nothing is ever kept */
			abort();
	}
	device_reset(t.dev, RESET_SYSTEM);
	vt_power_on(&t);
	rings_start(&t, 0);
	vt_fini(&t);
	chardev_free(host[0]);
	chardev_free(host[1]);
	return 0;
}
