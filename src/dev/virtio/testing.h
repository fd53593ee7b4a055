/* testing.h: a driver's side of a virtio device over PCI or MMIO, for unit tests. */
#ifndef DEV_VIRTIO_TESTING_H
#define DEV_VIRTIO_TESTING_H

#include "bus/testing.h"
#include "base/le.h"
#include "dev/virtio/virtio.h"

/*
 * The device sits in slot 1; its registers are at VT_BAR, MSI-X at VT_MSIX, bus mastering is on.
 * Queue q has split rings of VT_SIZE at VT_RING(q) and data from VT_DATA on, unless the test says
 * otherwise before vt_start (size[q], ring[q]; rings of more than 64 take more than 0x1000 bytes).
 */
#define VT_BAR	   UINT64_C(0xe0000000)
#define VT_MSIX	   UINT64_C(0xe0010000)
#define VT_MMIO	   UINT64_C(0xe0020000)
#define VT_SIZE	   16
#define VT_RING(q) (UINT64_C(0x10000) + (q)*UINT64_C(0x1000))
#define VT_DATA	   UINT64_C(0x80000)

struct vt {
	struct bench b;
	struct device *bus, *dev;
	uint16_t avail[VIRTIO_QUEUES_MAX], used[VIRTIO_QUEUES_MAX];
	unsigned size[VIRTIO_QUEUES_MAX]; /* 0: VT_SIZE */
	uint64_t ring[VIRTIO_QUEUES_MAX]; /* 0: VT_RING(q) */
};

static inline unsigned vt_size(const struct vt *t, unsigned q)
{
	return t->size[q] ? t->size[q] : VT_SIZE;
}

/* Where the three parts of a queue are. */
static inline uint64_t vt_desc_at(const struct vt *t, unsigned q)
{
	return t->ring[q] ? t->ring[q] : VT_RING(q);
}

static inline uint64_t vt_avail_at(const struct vt *t, unsigned q)
{
	return vt_desc_at(t, q) + (vt_size(t, q) > 64 ? 16 * vt_size(t, q) : 0x400);
}

static inline uint64_t vt_used_at(const struct vt *t, unsigned q)
{
	return vt_avail_at(t, q) + 0x400;
}

static inline void vt_config_write(struct vt *t, unsigned offset, unsigned size, uint32_t value)
{
	bench_out(&t->b, 0xcf8, 4, 0x80000000u | 1 << 11 | (offset & 0xfc));
	bench_out(&t->b, 0xcfc + (offset & 3), size, value);
}

static inline uint32_t vt_config_read(struct vt *t, unsigned offset, unsigned size)
{
	bench_out(&t->b, 0xcf8, 4, 0x80000000u | 1 << 11 | (offset & 0xfc));
	return bench_in(&t->b, 0xcfc + (offset & 3), size);
}

/* Before the device is made: a bus, and where the device goes. */
static inline struct virtio_place vt_init(struct vt *t)
{
	memset(t, 0, sizeof(*t));
	bench_init(&t->b);
	struct pci_bus_config bc = {
	    .ports = t->b.ports,
	    .memory = t->b.memory,
	    .msi = bench_msi(&t->b),
	    .intx_count = 8,
	};
	for (unsigned i = 0; i < 8; i++)
		bc.intx[i] = bench_irq(&t->b, 16 + i);
	assert_int_equal(pci_bus_new(&t->bus, &bc, NULL), 0);
	device_reset(t->bus, RESET_POWER);
	return (struct virtio_place){.mem = t->b.mem, .bus = t->bus, .slot = 1};
}

/* After it was made: as firmware leaves it. */
static inline void vt_power_on(struct vt *t)
{
	device_reset(t->dev, RESET_POWER);
	vt_config_write(t, 0x14, 4, VT_MSIX);
	vt_config_write(t, 0x20, 4, VT_BAR);
	vt_config_write(t, 0x04, 2, 6);
}

static inline void vt_fini(struct vt *t)
{
	device_free(t->dev);
	device_free(t->bus);
	bench_fini(&t->b);
}

static inline uint32_t vt_in(struct vt *t, unsigned offset, unsigned size)
{
	return (uint32_t)space_read(t->b.memory, VT_BAR + offset, size);
}

static inline void vt_out(struct vt *t, unsigned offset, unsigned size, uint32_t value)
{
	space_write(t->b.memory, VT_BAR + offset, size, value);
}

static inline void vt_status(struct vt *t, uint8_t value)
{
	vt_out(t, 20, 1, value);
}

static inline uint64_t vt_offered(struct vt *t)
{
	vt_out(t, 0, 4, 0);
	uint64_t f = vt_in(t, 4, 4);
	vt_out(t, 0, 4, 1);
	return f | (uint64_t)vt_in(t, 4, 4) << 32;
}

static inline void vt_features(struct vt *t, uint64_t features)
{
	vt_out(t, 8, 4, 0);
	vt_out(t, 12, 4, (uint32_t)features);
	vt_out(t, 8, 4, 1);
	vt_out(t, 12, 4, (uint32_t)(features >> 32));
}

/* Queue q as a split ring, with MSI-X vector q + 1. */
static inline void vt_queue(struct vt *t, unsigned q)
{
	uint64_t len = vt_size(t, q) > 64 ? 24 * vt_size(t, q) + 0x410 : 0x1000;
	assert_int_equal(gmem_fill(t->b.mem, gpa(vt_desc_at(t, q)), 0, len), 0);
	t->avail[q] = t->used[q] = 0;
	vt_out(t, 22, 2, q);
	vt_out(t, 24, 2, vt_size(t, q));
	vt_out(t, 26, 2, q + 1);
	vt_out(t, 32, 4, (uint32_t)vt_desc_at(t, q));
	vt_out(t, 36, 4, 0);
	vt_out(t, 40, 4, (uint32_t)vt_avail_at(t, q));
	vt_out(t, 44, 4, 0);
	vt_out(t, 48, 4, (uint32_t)vt_used_at(t, q));
	vt_out(t, 52, 4, 0);
	vt_out(t, 28, 2, 1);
}

/* The whole of VIRTIO12 3.1.1 with these features and so many queues; MSI-X on. */
static inline void vt_start(struct vt *t, uint64_t features, unsigned queues)
{
	unsigned msix = ((struct virtio_dev *)t->dev)->pci.msix_cap;
	vt_status(t, 0);
	assert_int_equal(vt_in(t, 20, 1), 0);
	vt_status(t, 1);
	vt_status(t, 3);
	vt_features(t, features | VIRTIO_F_VERSION_1);
	vt_status(t, 11);
	assert_int_equal(vt_in(t, 20, 1), 11);
	vt_config_write(t, msix + 2, 2, 0x8000);
	for (unsigned v = 0; v <= queues; v++) {
		space_write(t->b.memory, VT_MSIX + 16 * v, 4, 0xfee00000);
		space_write(t->b.memory, VT_MSIX + 16 * v + 8, 4, 0x40 + v);
		space_write(t->b.memory, VT_MSIX + 16 * v + 12, 4, 0);
	}
	vt_out(t, 16, 2, 0);
	for (unsigned q = 0; q < queues; q++)
		vt_queue(t, q);
	vt_status(t, 15);
	assert_int_equal(vt_in(t, 20, 1), 15);
}

static inline void vt_desc(struct vt *t, unsigned q, unsigned i, uint64_t addr, uint32_t len,
			   uint16_t flags, uint16_t next)
{
	uint8_t d[16];
	store_le64(d, addr);
	store_le32(d + 8, len);
	store_le16(d + 12, flags);
	store_le16(d + 14, next);
	assert_int_equal(gmem_write(t->b.mem, gpa(vt_desc_at(t, q) + 16 * i), d, 16), 0);
}

static inline void vt_offer(struct vt *t, unsigned q, uint16_t head)
{
	uint16_t slot = (uint16_t)(t->avail[q]++ % vt_size(t, q));
	uint64_t ring = vt_avail_at(t, q);
	assert_int_equal(gmem_write(t->b.mem, gpa(ring + 4 + 2 * slot), &head, 2), 0);
	assert_int_equal(gmem_write(t->b.mem, gpa(ring + 2), &t->avail[q], 2), 0);
}

/* Where the device asks to be told of a chain (EVENT_IDX): avail_event. */
static inline uint16_t vt_avail_event(struct vt *t, unsigned q)
{
	uint16_t event;
	uint64_t at = vt_used_at(t, q) + 4 + 8 * vt_size(t, q);
	assert_int_equal(gmem_read(t->b.mem, gpa(at), &event, 2), 0);
	return event;
}

static inline void vt_notify(struct vt *t, unsigned q)
{
	vt_out(t, 0x3000 + 4 * q, 2, q);
}

/* The next used entry: true and its head and length, or false. */
static inline _Bool vt_used(struct vt *t, unsigned q, uint32_t *head, uint32_t *len)
{
	uint64_t ring = vt_used_at(t, q);
	uint16_t idx;
	assert_int_equal(gmem_read(t->b.mem, gpa(ring + 2), &idx, 2), 0);
	if (idx == t->used[q])
		return 0;
	uint64_t at = ring + 4 + 8 * (t->used[q]++ % vt_size(t, q));
	assert_int_equal(gmem_read(t->b.mem, gpa(at), head, 4), 0);
	assert_int_equal(gmem_read(t->b.mem, gpa(at + 4), len, 4), 0);
	return 1;
}

#endif
