/* setup.c: negotiation in the wrong order, queues that cannot be, registers at all widths, MSI-X.
 */
#include "vdrv.h"

#define NEGOTIATED (ST_ACK | ST_DRIVER | ST_FEATURES_OK)
#define RUNNING	   (NEGOTIATED | ST_DRIVER_OK)

/* ---- features and status (VIRTIO12 3.1) ---- */

static void features(struct vdev *d, bool packed)
{
	const uint64_t type = packed ? F_PACKED : 0;

	/* Without VERSION_1: not acceptable. */
	dev_reset(d);
	dev_status_set(d, ST_ACK | ST_DRIVER);
	dev_features_set(d, (d->offered & ~F_VERSION_1 & ~F_PACKED) | type);
	dev_status_set(d, NEGOTIATED);
	check_eq(dev_status(d), ST_ACK | ST_DRIVER);
	/* DRIVER_OK all the same: nothing works, nothing is touched. */
	dev_status_set(d, RUNNING);
	check(!(dev_status(d) & (ST_FEATURES_OK | ST_DRIVER_OK)));

	/* Each bit that was not offered. */
	for (unsigned bit = 0; bit < 64; bit++) {
		if (d->offered >> bit & 1 || cmdline_has("slow"))
			continue;
		dev_reset(d);
		dev_status_set(d, ST_ACK | ST_DRIVER);
		dev_features_set(d, F_VERSION_1 | type | 1ull << bit);
		dev_status_set(d, NEGOTIATED);
		check_eq(dev_status(d), ST_ACK | ST_DRIVER);
	}

	/* They cannot be changed any more. */
	dev_start(d, packed);
	dev_features_set(d, 0);
	check_eq(dev_status(d), RUNNING);
	if (!d->mmio)
		check_eq(dev_driver_features(d), d->features);
	check(request_works(d));
	recover(d, packed);
}

TEST(rings, features_that_do_not_fit)
{
	each_device(features);
}

/* Nothing of these may make the device look at its rings. */
static void silent(struct vdev *d, unsigned status)
{
	unsigned q = request_queue(d);
	struct vdesc list[4];
	uint32_t id, len;

	if (q >= d->queues)
		return;
	chain_put(d, q, 0, list, request_build(d, 0, list));
	notify(d, q);
	delay_us(200);
	check(!chain_used(d, q, &id, &len));
	check_eq(dev_status(d), status);
}

static void statuses(struct vdev *d, bool packed)
{
	/* DRIVER_OK first, alone. */
	dev_reset(d);
	dev_status_set(d, ST_DRIVER_OK);
	check(!(dev_status(d) & ST_DRIVER_OK));
	/* Queues before features. */
	dev_reset(d);
	dev_status_set(d, ST_ACK | ST_DRIVER);
	queue_set(d, 0, Q_SIZE, RINGS, RINGS + 0x2000, RINGS + 0x3000);
	queue_enable(d, 0, 1);
	check_eq(queue_enabled(d, 0), 0);

	/* Queues are ready, the driver is not. */
	dev_negotiate(d, packed);
	for (unsigned q = 0; q < d->queues; q++)
		queue_start(d, q);
	silent(d, NEGOTIATED);
	/* Now it is: what was made available before counts from here on (3.1.1 step 8). */
	dev_status_set(d, RUNNING);
	check_eq(dev_status(d), RUNNING);

	/* It gave up. */
	dev_start(d, packed);
	dev_status_set(d, RUNNING | ST_FAILED);
	silent(d, RUNNING | ST_FAILED);

	/* No bit is taken back but by a reset. */
	dev_start(d, packed);
	dev_status_set(d, ST_ACK);
	check_eq(dev_status(d), RUNNING);
	check(request_works(d));
	/* The device's own bit, and those that are nothing. */
	dev_status_set(d, RUNNING | 0x30 | ST_NEEDS_RESET);
	check_eq(dev_status(d), RUNNING);
	check(request_works(d));

	for (unsigned v = 0; v < 256; v += cmdline_has("slow") ? 37 : 1) {
		dev_status_set(d, v);
		dev_status_set(d, (uint8_t)~v);
	}
	recover(d, packed);
}

TEST(rings, statuses_in_any_order)
{
	each_device(statuses);
}

/* ---- queues ---- */

static void bad_queue(struct vdev *d, bool packed, unsigned size, uint64_t desc, uint64_t avail,
		      uint64_t used)
{
	dev_negotiate(d, packed);
	queue_set(d, 0, size, desc, avail, used);
	queue_enable(d, 0, 1);
	if (queue_enabled(d, 0) || !(dev_status(d) & ST_NEEDS_RESET))
		print("[size %u at 0x%lx 0x%lx 0x%lx] ", size, desc, avail, used);
	check_eq(queue_enabled(d, 0), 0);
	check(dev_status(d) & ST_NEEDS_RESET);
	dev_status_set(d, RUNNING);
	notify(d, 0);
}

static void queues(struct vdev *d, bool packed)
{
	const uint64_t bad[] = {RAM_END,    RAM_END - 4, 0xfee00000, 0x100000000, ~0ull << 4,
				1ull << 52, 0xb0000000,	 d->common,  RINGS + 1};
	const uint64_t at = RINGS, a = RINGS + 0x2000, u = RINGS + 0x3000;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (cmdline_has("slow") && i % 3)
			continue;
		bad_queue(d, packed, Q_SIZE, bad[i], a, u);
		/* Four bytes of a packed ring's parts fit there. */
		if (!packed || bad[i] != RAM_END - 4) {
			bad_queue(d, packed, Q_SIZE, at, bad[i], u);
			bad_queue(d, packed, Q_SIZE, at, a, bad[i]);
		}
	}
	bad_queue(d, packed, Q_SIZE, at + 8, a, u);
	bad_queue(d, packed, Q_SIZE, at, a, u + 2);
	bad_queue(d, packed, 0, at, a, u);
	bad_queue(d, packed, queue_max(d, 0) * 2, at, a, u);
	bad_queue(d, packed, 0x8000, at, a, u);
	bad_queue(d, packed, 0xffff, at, a, u);
	if (!packed) {
		bad_queue(d, 0, 3, at, a, u);
		bad_queue(d, 0, Q_SIZE - 1, at, a, u);
	}

	/* A queue that works is not moved by writing to its registers. */
	dev_start(d, packed);
	for (unsigned q = 0; q < d->queues; q++) {
		queue_set(d, q, 1, RAM_END, 0xfee00000, ~0ull);
		queue_enable(d, q, 1);
	}
	check(request_works(d));

	/* Queues that do not exist. */
	for (unsigned q = d->queues; q < 0x10000; q = q * 2 + 1) {
		check_eq(queue_max(d, q), 0);
		queue_set(d, q, Q_SIZE, at, a, u);
		queue_enable(d, q, 1);
		queue_reset(d, q);
		check_eq(queue_enabled(d, q), 0);
		if (d->mmio || (uint64_t)d->notify_mul * q < d->notify_len)
			notify(d, q);
	}
	if (d->mmio)
		notify(d, 0xffffffff);
	check_eq(dev_status(d), RUNNING);
	check(request_works(d));
	recover(d, packed);
}

TEST(rings, queues_that_cannot_be)
{
	each_device(queues);
}

/* ---- registers at all widths ---- */

static void read_all(uint64_t at, unsigned len)
{
	for (unsigned i = 0; i < len; i++) {
		(void)r8(at + i);
		(void)r16(at + i);
		(void)r32(at + i);
		(void)*(volatile uint64_t *)(at + i);
	}
}

/* `spare`: the register that would set a queue of random addresses to work. */
static void write_all(uint64_t at, unsigned len, unsigned spare)
{
	for (unsigned i = 0; i < len; i++) {
		uint64_t v = noise();

		if (i < spare + 4 && i + 8 > spare)
			continue;
		w8(at + i, (uint8_t)v);
		w16(at + i, (uint16_t)(v >> 8));
		w32(at + i, (uint32_t)(v >> 16));
		w64(at + i, v);
	}
}

#define PAGE_STEP(n) (cmdline_has("slow") ? (n) / 8 : (n))

static void registers(struct vdev *d, bool packed)
{
	unsigned spare = d->mmio ? 0x44 : 28;

	for (unsigned round = 0; round < (cmdline_has("slow") ? 1 : 4); round++) {
		read_all(d->common, d->mmio ? PAGE_STEP(0x200) : 60);
		write_all(d->common, d->mmio ? 0x100 : 60, spare);
		read_all(d->config, PAGE_STEP(d->config_len + 16));
		write_all(d->config, d->config_len, 0x10000);
		if (!d->mmio) {
			read_all(d->isr, 8);
			write_all(d->isr, 8, 0x10000);
			read_all(d->notify, PAGE_STEP(d->notify_len + 16));
			write_all(d->notify, d->notify_len, 0x10000);
		}
		dev_start(d, packed);
		/* Again, while it runs. */
		read_all(d->common, 60);
		read_all(d->config, PAGE_STEP(d->config_len));
		write_all(d->config, d->config_len, 0x10000);
	}
	recover(d, packed);
}

TEST(rings, registers_at_every_width)
{
	each_device(registers);
}

/* The same registers through configuration space (VIRTIO12 4.1.4.9). */
static void window(struct vdev *d, bool packed)
{
	if (d->mmio)
		return;
	check(d->window);
	dev_start(d, packed);
	for (unsigned n = 0; n < (cmdline_has("slow") ? 20 : 600); n++) {
		uint64_t r = noise();

		pci_write(d->devfn, d->window + 4, r & 3 ? 4 : (uint32_t)(r >> 8));
		pci_write(d->devfn, d->window + 8,
			  r & 12 ? (uint32_t)(r >> 16 & 0x3fff) : (uint32_t)(r >> 16));
		pci_write(d->devfn, d->window + 12,
			  r & 0x30 ? 1u << (r >> 6 & 3) : (uint32_t)(r >> 9));
		(void)pci_read(d->devfn, d->window + 16);
		/* Queues stay where they are. */
		if ((r >> 16 & 0x3fff) < 24 || (r >> 16 & 0x3fff) >= 64)
			pci_write(d->devfn, d->window + 16, (uint32_t)(r >> 32));
		if (!(n & 31))
			dev_start(d, packed);
	}
	/* And as it is meant: the status. */
	dev_start(d, packed);
	pci_write(d->devfn, d->window + 4, 4);
	pci_write(d->devfn, d->window + 8, 20);
	pci_write(d->devfn, d->window + 12, 1);
	check_eq(pci_read(d->devfn, d->window + 16) & 0xff, RUNNING);
	recover(d, packed);
}

TEST(rings, window_in_configuration_space)
{
	each_device(window);
}

/* ---- MSI-X ---- */

#define MSIX_VECTOR 0x50
static volatile int messages;
static bool message(struct frame *f)
{
	messages = messages + 1;
	apic_write(0xb0, 0);
	return 1;
}

static void msix_switch(struct vdev *d, bool on)
{
	uint32_t head = pci_read(d->devfn, d->msix_cap) & 0x3fffffff;

	pci_write(d->devfn, d->msix_cap, head | (on ? 0x80000000 : 0));
}

static void msix_noise(struct vdev *d)
{
	for (unsigned i = 0; i < d->msix_count * 16; i++) {
		uint64_t r = noise();
		/* No NMI, INIT or the like: fixed messages to whom they may concern. */
		uint32_t v = (uint32_t)r & ~0x700u;

		if ((i & 15) == 0)
			v = r >> 32 & 3 ? (v & 0xfffff) | 0xfee00000 : v;
		w8(d->msix + i, (uint8_t)(r >> 40));
		if (!(i & 3))
			w32(d->msix + i, v);
		(void)r32(d->msix + i);
		(void)r16(d->msix + i);
	}
	for (unsigned i = 0; i < d->msix_count; i++)
		w32(d->msix + 16 * i + 8, MSIX_VECTOR | (uint32_t)(noise() & 0xfffff800));
	w64(d->pba, ~0ull);
}

static void msix(struct vdev *d, bool packed)
{
	unsigned q = request_queue(d);
	uint32_t start;

	if (d->mmio)
		return;
	/* A vector that does not exist becomes none (4.1.5.1.2). */
	dev_start(d, packed);
	for (unsigned v = 0; v < 0x10000; v = v * 2 + 1) {
		w16(d->common + 16, (uint16_t)v);
		check_eq(r16(d->common + 16), v < d->msix_count ? v : 0xffff);
		w16(d->common + 22, 0);
		w16(d->common + 26, (uint16_t)v);
		check_eq(r16(d->common + 26), v < d->msix_count ? v : 0xffff);
	}
	/* Any table: requests go on. */
	for (unsigned n = 0; n < (cmdline_has("slow") ? 1 : 20); n++) {
		msix_noise(d);
		dev_start(d, packed);
		if (q < d->queues) {
			w16(d->common + 22, (uint16_t)q);
			w16(d->common + 26, (uint16_t)(n % d->msix_count));
		}
		msix_switch(d, 1);
		check(request_works(d));
		msix_switch(d, n & 1);
		msix_noise(d);
	}
	msix_switch(d, 0);
	apic_enable();
	set_handler(MSIX_VECTOR, message);
	for (unsigned i = 0; i < 8; i++)
		let_in();

	/* And as it is meant: a masked vector waits in the pending bits. */
	if (q >= d->queues)
		return;
	dev_start(d, packed);
	w16(d->common + 22, (uint16_t)q);
	w16(d->common + 26, 1);
	w32(d->msix + 16, 0xfee00000);
	w32(d->msix + 20, 0);
	w32(d->msix + 24, MSIX_VECTOR);
	w32(d->msix + 28, 1);
	msix_switch(d, 1);
	check(request_works(d));
	start = pm_timer();
	while (!(r32(d->pba) & 2)) /* it comes after the used element */
		check(pm_timer() - start < 5 * 3579545u);
	messages = 0;
	w32(d->msix + 28, 0);
	wait_for(&messages, 1000);
	check_eq(messages, 1);
	check(!(r32(d->pba) & 2));
	msix_switch(d, 0);
	recover(d, packed);
}

TEST(rings, msix_tables)
{
	each_device(msix);
}
