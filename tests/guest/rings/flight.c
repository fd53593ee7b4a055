/* flight.c: what happens while requests are under way: resets, and rings that another CPU changes.
 */
#include "vdrv.h"

#define IN_FLIGHT 5 /* requests of at most three descriptors */

static struct vdesc list[4];

/* Several requests, their data in slots of their own. Returns their queue. */
static unsigned submit(struct vdev *d)
{
	unsigned q = request_queue(d);

	for (unsigned i = 0; i < IN_FLIGHT; i++) {
		unsigned n = request_build(d, i, list);

		chain_put(d, q, i * n, list, n);
	}
	notify(d, q);
	return q;
}

#define CANARY 0xc0ffee1234567890ull

static uint64_t canary_step(void)
{
	return cmdline_has("slow") ? 0x1000 : 0x100;
}

static void canaries(uint64_t at, uint64_t len, bool look)
{
	for (uint64_t i = 0; i < len; i += canary_step()) {
		if (look)
			check_eq(*(volatile uint64_t *)(at + i), CANARY);
		else
			w64(at + i, CANARY);
	}
}

/* Once a reset has ended the device writes nothing more: not to the ring, not to buffers. */
static void quiet(unsigned q)
{
	for (unsigned look = 0; look < 2; look++) {
		uint64_t used = RINGS + 0x4000 * q + 0x3000;

		for (unsigned i = 0; i < IN_FLIGHT; i++)
			canaries(BUFFERS + i * SLOT, SLOT, look);
		canaries(RINGS + 0x4000 * q, 0x1000, look);
		for (uint64_t at = used; at < used + 64; at += 8) {
			if (look)
				check_eq(*(volatile uint64_t *)at, CANARY);
			else
				w64(at, CANARY);
		}
		if (!look)
			delay_us(3000);
	}
}

static void device_resets(struct vdev *d, bool packed)
{
	if (request_queue(d) >= d->queues)
		return;
	for (unsigned n = 0; n < (cmdline_has("slow") ? 1 : 8); n++) {
		unsigned q;

		dev_start(d, packed);
		q = submit(d);
		delay_us(n * 20);
		dev_reset(d);
		quiet(q);
	}
	recover(d, packed);
}

TEST(rings, resets_of_the_device_in_mid_flight)
{
	each_device(device_resets);
}

static void queue_resets(struct vdev *d, bool packed)
{
	if (request_queue(d) >= d->queues || !(d->offered & F_RING_RESET))
		return;
	dev_start(d, packed);
	for (unsigned n = 0; n < (cmdline_has("slow") ? 1 : 8); n++) {
		uint32_t start = pm_timer();
		unsigned q = submit(d);

		delay_us(n * 20);
		queue_reset(d, q);
		while (queue_resetting(d, q))
			check(pm_timer() - start < 5 * 3579545u);
		check_eq(queue_enabled(d, q), 0);
		quiet(q);
		queue_start(d, q);
		check(request_works(d)); /* without a reset of the device */
	}
	recover(d, packed);
}

TEST(rings, resets_of_a_queue_in_mid_flight)
{
	each_device(queue_resets);
}

/* FAILED, no more bus mastering, MSI-X switched: whatever, the reset after it ends. */
static void other_ends(struct vdev *d, bool packed)
{
	uint32_t id, len;
	unsigned q;

	if (request_queue(d) >= d->queues)
		return;
	dev_start(d, packed);
	submit(d);
	dev_status_set(d, 0xff);
	dev_reset(d);
	if (!d->mmio) {
		dev_start(d, packed);
		submit(d);
		pci_write(d->devfn, 4, 2);
		delay_us(500);
		dev_reset(d);
		pci_write(d->devfn, 4, 6);
		/* Who is no bus master leaves memory alone. */
		dev_start(d, packed);
		pci_write(d->devfn, 4, 2);
		q = submit(d);
		check(!chain_await(d, q, 3, &id, &len));
		pci_write(d->devfn, 4, 6);
		/* No registers at all for a while. */
		dev_start(d, packed);
		submit(d);
		pci_write(d->devfn, 4, 0);
		delay_us(500);
		pci_write(d->devfn, 4, 6);
	}
	recover(d, packed);
}

TEST(rings, other_ends_in_mid_flight)
{
	each_device(other_ends);
}

/* ---- another CPU writes to what the device reads ---- */

static struct vdev *target;
static unsigned target_q;

static uint64_t spin_state;
static uint64_t spin_noise(void)
{
	spin_state ^= spin_state << 13;
	spin_state ^= spin_state >> 7;
	return spin_state ^= spin_state << 17;
}

/* Addresses of buffers or of no memory; lengths that stay in the buffers; any flags. */
static void scribble(void *arg)
{
	const struct vqueue *v = &vq[target_q];
	static const uint64_t far[] = {RAM_END, ~0ull - 15, 0xfee00000, BUFFERS};
	static const uint32_t lens[] = {0, 1, 16, 4096, 65536, 0xffffffff, 0x80000000};

	while (!meddle_stop) {
		for (unsigned n = 0; n < 64 && !meddle_stop; n++) {
			uint64_t r = spin_noise();
			uint64_t table = r & 0x100 ? v->desc : TABLES, at = table + 16 * (r & 15);

			switch (r >> 16 & 7) {
			case 0: w64(at, far[r >> 20 & 3]); break;
			case 1: w64(at, BUFFERS + (r >> 24 & 0xffff0)); break;
			case 2: w32(at + 8, lens[(r >> 24) % 7]); break;
			case 3:
				w16(at + 12, target->packed ? (uint16_t)(r >> 24) & 15
							    : (uint16_t)(r >> 24) & 7);
				break;
			case 4: /* next, or the flags of a packed ring */
				w16(at + 14, target->packed ? (uint16_t)(r >> 24) & 0x8087
							    : (uint16_t)(r >> 24) & 31);
				break;
			case 5: w16(v->avail + 4 + 2 * (r & 15), (uint16_t)(r >> 24) & 31); break;
			case 6: w32(BUFFERS + (r >> 24 & 0x3c), (uint32_t)(r >> 32) & 0x3f); break;
			case 7:
				if (r >> 24 & 1)
					w16(v->used + 2, (uint16_t)(r >> 32));
				else if (!(r >> 24 & 63) && !target->packed)
					w16(v->avail + 2, (uint16_t)(r >> 32));
			}
		}
	}
}

static void races(struct vdev *d, bool packed)
{
	unsigned q = request_queue(d), rounds = cmdline_has("long") ? 20000 : 150;

	if (q >= d->queues || d->id == ID_BALLOON) /* any page is its to take */
		return;
	target = d;
	target_q = q;
	spin_state = noise() | 1;
	meddle_stop = 0;
	dev_start(d, packed);
	cpu_run(1, scribble, 0);
	for (unsigned n = 0; n < rounds; n++) {
		unsigned count = request_build(d, 0, list);

		if (n & 1) {
			for (unsigned i = 0; i < count; i++) {
				struct vdesc e = list[i];
				desc_write(d, TABLES, i, &e, 0, 0);
			}
			list[0] = (struct vdesc){TABLES, 16 * count, D_INDIRECT, 0};
			count = 1;
		}
		chain_put(d, q, 0, list, count);
		notify(d, q);
		if (dev_status(d) & ST_NEEDS_RESET || !(n & 31)) {
			dev_reset(d);
			dev_start(d, packed);
		}
	}
	meddle_stop = 1;
	cpu_join(1);
	recover(d, packed);
}

TEST_SMP(rings, races_with_another_cpu)
{
	each_device(races);
}

/* Every notification at once, from both CPUs, with resets in between. */
static void ring_bells(void *arg)
{
	while (!meddle_stop)
		for (unsigned q = 0; q < target->queues; q++)
			notify(target, q);
}

static void bells(struct vdev *d, bool packed)
{
	target = d;
	meddle_stop = 0;
	dev_start(d, packed);
	cpu_run(1, ring_bells, 0);
	for (unsigned n = 0; n < 30; n++) {
		dev_start(d, packed);
		if (request_queue(d) < d->queues)
			submit(d);
	}
	for (unsigned n = 0; n < 10; n++)
		recover(d, packed);
	meddle_stop = 1;
	cpu_join(1);
	recover(d, packed);
}

TEST_SMP(rings, notifications_from_another_cpu)
{
	each_device(bells);
}
