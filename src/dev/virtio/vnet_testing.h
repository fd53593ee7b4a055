/* vnet_testing.h: a small driver of a virtio network card over MMIO, for tests and fuzzing. */
#ifndef DEV_VIRTIO_VNET_TESTING_H
#define DEV_VIRTIO_VNET_TESTING_H

#include <errno.h>

#include "base/le.h"
#include "bus/testing.h"
#include "dev/virtio/net_impl.h"

#define RIG_BASE   UINT64_C(0xd0000000)
#define RIG_SIZE   16 /* of each ring, unless a test says otherwise before rig_start */
#define RIG_RING   0x1000
#define RIG_BUF	   0x40000 /* buffers; each descriptor's is 0x1000 long */
#define RIG_QUEUES (2 * VNET_PAIRS_MAX + 1)

struct rig {
	struct bench b;
	struct net *net;
	struct device *dev;
	uint16_t avail[RIG_QUEUES], used[RIG_QUEUES];
	/* 0: RIG_SIZE. Up to 128: only 64 of the descriptors can be used, in as many chains as one
	 * likes. */
	unsigned size[RIG_QUEUES];
};

static inline unsigned rig_size(const struct rig *r, unsigned q)
{
	return r->size[q] ? r->size[q] : RIG_SIZE;
}

static const uint8_t rig_mac[NET_MAC_LEN] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

static inline void rig_reg(struct rig *r, unsigned offset, uint32_t value)
{
	space_write(r->b.memory, RIG_BASE + offset, 4, value);
}

static inline uint32_t rig_get(struct rig *r, unsigned offset)
{
	return (uint32_t)space_read(r->b.memory, RIG_BASE + offset, 4);
}

static inline uint8_t rig_config(struct rig *r, unsigned offset)
{
	return (uint8_t)space_read(r->b.memory, RIG_BASE + 0x100 + offset, 1);
}

static inline struct vnet *rig_vnet(struct rig *r)
{
	return vnet_of(virtio_of(r->dev));
}

static inline void rig_init(struct rig *r, unsigned pairs, unsigned caps)
{
	struct vnet_config cfg = {.pairs = pairs};

	memset(r, 0, sizeof(*r));
	bench_init(&r->b);
	assert_int_equal(net_mem_new(&r->net, caps), 0);
	cfg.place = (struct virtio_place){
	    .mem = r->b.mem, .memory = r->b.memory, .base = RIG_BASE, .irq = bench_irq(&r->b, 5)};
	cfg.net = r->net;
	cfg.clock = r->b.clock;
	memcpy(cfg.mac, rig_mac, NET_MAC_LEN);
	assert_int_equal(vnet_new(&r->dev, &cfg, NULL), 0);
	device_reset(r->dev, RESET_POWER);
}

static inline void rig_fini(struct rig *r)
{
	device_free(r->dev);
	net_free(r->net);
	bench_fini(&r->b);
}

static inline uint64_t rig_offered(struct rig *r)
{
	uint64_t f;

	rig_reg(r, 0x14, 1);
	f = (uint64_t)rig_get(r, 0x10) << 32;
	rig_reg(r, 0x14, 0);
	return f | rig_get(r, 0x10);
}

static inline uint64_t rig_desc(unsigned q)
{
	return RIG_RING + (uint64_t)q * 0x1000;
}

static inline void rig_queue(struct rig *r, unsigned q)
{
	rig_reg(r, 0x30, q);
	rig_reg(r, 0x38, rig_size(r, q));
	rig_reg(r, 0x80, (uint32_t)rig_desc(q));
	rig_reg(r, 0x84, 0);
	rig_reg(r, 0x90, (uint32_t)rig_desc(q) + 0x400);
	rig_reg(r, 0x94, 0);
	rig_reg(r, 0xa0, (uint32_t)rig_desc(q) + 0x800);
	rig_reg(r, 0xa4, 0);
	rig_reg(r, 0x44, 1);
	r->avail[q] = r->used[q] = 0;
}

/* Negotiates; false when the device refuses. All queues are set up. */
static inline _Bool rig_start(struct rig *r, uint64_t features)
{
	features |= VIRTIO_F_VERSION_1;
	rig_reg(r, 0x70, 0);
	for (unsigned q = 0; q < RIG_QUEUES; q++)
		assert_int_equal(gmem_fill(r->b.mem, gpa(rig_desc(q)), 0, 0x1000), 0);
	rig_reg(r, 0x70, 3);
	rig_reg(r, 0x24, 0);
	rig_reg(r, 0x20, (uint32_t)features);
	rig_reg(r, 0x24, 1);
	rig_reg(r, 0x20, (uint32_t)(features >> 32));
	rig_reg(r, 0x70, 11);
	if (!(rig_get(r, 0x70) & VIRTIO_FEATURES_OK))
		return 0;
	for (unsigned q = 0; q < virtio_of(r->dev)->queues; q++)
		rig_queue(r, q);
	rig_reg(r, 0x70, 15);
	return 1;
}

static inline void rig_put16(struct rig *r, uint64_t at, uint16_t v)
{
	uint8_t le[2];

	store_le16(le, v);
	assert_int_equal(gmem_write(r->b.mem, gpa(at), le, 2), 0);
}

static inline uint16_t rig_get16(struct rig *r, uint64_t at)
{
	uint8_t le[2];

	assert_int_equal(gmem_read(r->b.mem, gpa(at), le, 2), 0);
	return load_le16(le);
}

static inline void rig_desc_put(struct rig *r, unsigned q, unsigned d, uint64_t addr, uint32_t len,
				uint16_t flags, uint16_t next)
{
	uint8_t le[16];

	store_le64(le, addr);
	store_le32(le + 8, len);
	store_le16(le + 12, flags);
	store_le16(le + 14, next);
	assert_int_equal(gmem_write(r->b.mem, gpa(rig_desc(q) + 16 * d), le, 16), 0);
}

static inline uint64_t rig_buf(unsigned q, unsigned d)
{
	return RIG_BUF + (uint64_t)(q * RIG_SIZE + d) * 0x1000;
}

/* Makes the chain that begins at descriptor d available. */
static inline void rig_offer(struct rig *r, unsigned q, unsigned d)
{
	uint64_t avail = rig_desc(q) + 0x400;

	rig_put16(r, avail + 4 + 2 * (r->avail[q] % rig_size(r, q)), (uint16_t)d);
	rig_put16(r, avail + 2, ++r->avail[q]);
}

static inline void rig_notify(struct rig *r, unsigned q)
{
	rig_reg(r, 0x50, q);
	net_mem_run(r->net);
}

/* The next chain that came back: its length in *len, or false. */
static inline _Bool rig_take(struct rig *r, unsigned q, unsigned *id, uint32_t *len)
{
	uint64_t used = rig_desc(q) + 0x800;
	uint8_t le[8];

	if (rig_get16(r, used + 2) == r->used[q])
		return 0;
	assert_int_equal(
	    gmem_read(r->b.mem, gpa(used + 4 + 8 * (r->used[q] % rig_size(r, q))), le, 8), 0);
	r->used[q]++;
	*id = load_le32(le);
	*len = load_le32(le + 4);
	return 1;
}

/* A buffer of `len` bytes for received frames, in descriptor d of queue q. */
static inline void rig_room(struct rig *r, unsigned q, unsigned d, uint32_t len)
{
	rig_desc_put(r, q, d, rig_buf(q, d), len, 2, 0);
	rig_offer(r, q, d);
}

/* A frame to send, header and all, in descriptor 0 of queue q; runs the device. */
static inline void rig_send(struct rig *r, unsigned q, const uint8_t *hdr, const void *frame,
			    size_t len)
{
	assert_int_equal(gmem_write(r->b.mem, gpa(rig_buf(q, 0)), hdr, VNET_HDR_LEN), 0);
	assert_int_equal(gmem_write(r->b.mem, gpa(rig_buf(q, 0) + VNET_HDR_LEN), frame, len), 0);
	rig_desc_put(r, q, 0, rig_buf(q, 0), (uint32_t)len + VNET_HDR_LEN, 0, 0);
	rig_offer(r, q, 0);
	rig_notify(r, q);
}

/* Runs a control command of `len` bytes; its status, or 0xff when none came. */
static inline uint8_t rig_command(struct rig *r, const void *cmd, size_t len)
{
	unsigned q = ctrl_queue(rig_vnet(r)), id;
	uint8_t ack = 0xff;
	uint32_t used;

	assert_int_equal(gmem_write(r->b.mem, gpa(rig_buf(q, 0)), cmd, len), 0);
	assert_int_equal(gmem_write(r->b.mem, gpa(rig_buf(q, 1)), &ack, 1), 0);
	rig_desc_put(r, q, 0, rig_buf(q, 0), (uint32_t)len, 1, 1);
	rig_desc_put(r, q, 1, rig_buf(q, 1), 1, 2, 0);
	rig_offer(r, q, 0);
	rig_notify(r, q);
	if (rig_take(r, q, &id, &used))
		assert_int_equal(gmem_read(r->b.mem, gpa(rig_buf(q, 1)), &ack, 1), 0);
	return ack;
}

#endif
