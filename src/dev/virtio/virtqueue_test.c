/* virtqueue_test.c: rings of both formats: what a driver does right, and all it can do wrong. */
#include "dev/virtio/virtqueue.h"

#include <errno.h>

#include "bus/testing.h"
#include "dev/virtio/virtio.h"
#include "dev/virtio/vq_impl.h"

#define SIZE	  8
#define AT_DESC	  UINT64_C(0x10000)
#define AT_DRIVER UINT64_C(0x11000)
#define AT_DEVICE UINT64_C(0x12000)
#define AT_TABLE  UINT64_C(0x13000)
#define AT_DATA	  UINT64_C(0x20000)

#define CORE (VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC)

struct rig {
	struct bench b;
	struct virtqueue vq;
	struct vq_chain chain;
	uint16_t avail; /* split: the driver's available index */
	const char *why;
};

static void rig_init(struct rig *r, uint64_t features)
{
	memset(r, 0, sizeof(*r));
	bench_init(&r->b);
	vq_init(&r->vq, r->b.mem, SIZE);
	r->vq.desc = AT_DESC;
	r->vq.avail = AT_DRIVER;
	r->vq.used = AT_DEVICE;
	assert_int_equal(vq_start(&r->vq, features, 0), 0);
}

static void rig_fini(struct rig *r)
{
	bench_fini(&r->b);
}

static void put16(struct rig *r, uint64_t at, uint16_t v)
{
	assert_int_equal(gmem_write(r->b.mem, gpa(at), &v, 2), 0);
}

static uint16_t get16(struct rig *r, uint64_t at)
{
	uint16_t v;
	assert_int_equal(gmem_read(r->b.mem, gpa(at), &v, 2), 0);
	return v;
}

static uint32_t get32(struct rig *r, uint64_t at)
{
	uint32_t v;
	assert_int_equal(gmem_read(r->b.mem, gpa(at), &v, 4), 0);
	return v;
}

/* Split: flags and next; packed: id and flags. */
static void desc_at(struct rig *r, uint64_t table, unsigned i, uint64_t addr, uint32_t len,
		    uint16_t word6, uint16_t word7)
{
	uint8_t d[16];
	store_le64(d, addr);
	store_le32(d + 8, len);
	store_le16(d + 12, word6);
	store_le16(d + 14, word7);
	assert_int_equal(gmem_write(r->b.mem, gpa(table + 16 * i), d, 16), 0);
}

static void offer(struct rig *r, uint16_t head)
{
	put16(r, AT_DRIVER + 4 + 2 * (r->avail % SIZE), head);
	put16(r, AT_DRIVER + 2, ++r->avail);
}

static int pop(struct rig *r)
{
	return vq_pop(&r->vq, &r->chain, &r->why);
}

static void malformed(struct rig *r, const char *why)
{
	uint16_t before = r->vq.last_avail;
	assert_int_equal(pop(r), -EPROTO);
	assert_string_equal(r->why, why);
	assert_int_equal(r->vq.last_avail, before);
	assert_int_equal(r->vq.in_flight, 0);
}

/* ---- split ---- */

static void a_split_chain_comes_as_host_memory_and_goes_back_used(void **state)
{
	struct rig r;
	char text[16] = {0};
	rig_init(&r, CORE);
	assert_int_equal(pop(&r), 0);
	assert_int_equal(gmem_write(r.b.mem, gpa(AT_DATA), "hello", 5), 0);
	desc_at(&r, AT_DESC, 3, AT_DATA, 3, DESC_NEXT, 5);
	desc_at(&r, AT_DESC, 5, AT_DATA + 3, 2, DESC_NEXT, 1);
	desc_at(&r, AT_DESC, 1, AT_DATA + 0x100, 8, DESC_WRITE, 0);
	offer(&r, 3);
	assert_int_equal(pop(&r), 1);
	assert_int_equal(r.chain.id, 3);
	assert_int_equal(r.chain.out_bytes, 5);
	assert_int_equal(r.chain.in_bytes, 8);
	assert_int_equal(chain_read(&r.chain, 1, text, sizeof(text)), 4);
	assert_string_equal(text, "ello");
	assert_int_equal(chain_write(r.b.mem, &r.chain, 2, "0123456789", 10), 6);
	assert_int_equal(gmem_read(r.b.mem, gpa(AT_DATA + 0x102), text, 6), 0);
	assert_memory_equal(text, "012345", 6);
	vq_push(&r.vq, &r.chain, 8);
	assert_int_equal(get16(&r, AT_DEVICE + 2), 1);
	assert_int_equal(get32(&r, AT_DEVICE + 4), 3);
	assert_int_equal(get32(&r, AT_DEVICE + 8), 8);
	assert_int_equal(r.vq.in_flight, 0);
	assert_true(vq_wants_interrupt(&r.vq));
	assert_false(vq_wants_interrupt(&r.vq));
	assert_int_equal(pop(&r), 0);
	rig_fini(&r);
}

static void slices_of_a_chain_stay_inside_it(void **state)
{
	struct rig r;
	struct iovec iov[4];
	rig_init(&r, CORE);
	desc_at(&r, AT_DESC, 0, AT_DATA, 16, DESC_NEXT, 1);
	desc_at(&r, AT_DESC, 1, AT_DATA + 64, 16, DESC_NEXT, 2);
	desc_at(&r, AT_DESC, 2, AT_DATA + 128, 10, DESC_WRITE, 0);
	offer(&r, 0);
	assert_int_equal(pop(&r), 1);
	assert_int_equal(chain_slice(&r.chain, 0, 10, 12, iov, 4), 2);
	assert_int_equal(iov[0].iov_len, 6);
	assert_int_equal(iov[1].iov_len, 6);
	assert_int_equal(chain_slice(&r.chain, 0, 10, 12, iov, 1), -1);
	assert_int_equal(chain_slice(&r.chain, 0, 10, 23, iov, 4), -1);
	assert_int_equal(chain_slice(&r.chain, 1, 0, 10, iov, 4), 1);
	assert_int_equal(chain_slice(&r.chain, 1, 0, 11, iov, 4), -1);
	rig_fini(&r);
}

static void an_indirect_table_continues_a_split_chain(void **state)
{
	struct rig r;
	rig_init(&r, CORE);
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, DESC_NEXT, 1);
	desc_at(&r, AT_DESC, 1, AT_TABLE, 32, DESC_INDIRECT, 0);
	desc_at(&r, AT_TABLE, 0, AT_DATA + 8, 4, DESC_NEXT, 1);
	desc_at(&r, AT_TABLE, 1, AT_DATA + 16, 4, DESC_WRITE, 0);
	offer(&r, 0);
	assert_int_equal(pop(&r), 1);
	assert_int_equal(r.chain.out_bytes, 8);
	assert_int_equal(r.chain.in_bytes, 4);
	vq_drop(&r.vq, &r.chain);
	rig_fini(&r);
}

static void malformed_split_rings_are_refused_and_nothing_is_taken(void **state)
{
	struct rig r;
	rig_init(&r, CORE);
	offer(&r, SIZE);
	malformed(&r, "a descriptor beyond its table");
	r.avail = 0;
	offer(&r, 0);
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, DESC_NEXT, SIZE);
	malformed(&r, "a descriptor beyond its table");
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, DESC_NEXT, 0);
	malformed(&r, "a chain that loops");
	desc_at(&r, AT_DESC, 0, AT_DATA, 0, DESC_NEXT, 0);
	malformed(&r, "a chain that loops");
	desc_at(&r, AT_DESC, 0, BENCH_RAM - 4, 8, 0, 0);
	malformed(&r, "a buffer outside RAM");
	desc_at(&r, AT_DESC, 0, UINT64_MAX - 3, 8, 0, 0);
	malformed(&r, "a buffer outside RAM");
	desc_at(&r, AT_DESC, 0, AT_DATA, UINT32_MAX, 0, 0);
	malformed(&r, "a buffer outside RAM");
	desc_at(&r, AT_DESC, 0, AT_DATA, 8, DESC_WRITE | DESC_NEXT, 1);
	desc_at(&r, AT_DESC, 1, AT_DATA, 8, 0, 0);
	malformed(&r, "a readable buffer after a writable one");
	desc_at(&r, AT_DESC, 0, AT_TABLE, 16, DESC_INDIRECT | DESC_NEXT, 1);
	malformed(&r, "an indirect descriptor with a successor");
	desc_at(&r, AT_DESC, 0, AT_TABLE, 0, DESC_INDIRECT, 0);
	malformed(&r, "an indirect table of a wrong size");
	desc_at(&r, AT_DESC, 0, AT_TABLE, 24, DESC_INDIRECT, 0);
	malformed(&r, "an indirect table of a wrong size");
	desc_at(&r, AT_DESC, 0, AT_TABLE, 16 * (VQ_CHAIN_MAX + 1), DESC_INDIRECT, 0);
	malformed(&r, "an indirect table of a wrong size");
	desc_at(&r, AT_DESC, 0, BENCH_RAM - 16, 32, DESC_INDIRECT, 0);
	malformed(&r, "an indirect table outside RAM");
	desc_at(&r, AT_DESC, 0, AT_TABLE, 16, DESC_INDIRECT, 0);
	desc_at(&r, AT_TABLE, 0, AT_TABLE, 16, DESC_INDIRECT, 0);
	malformed(&r, "an indirect table in an indirect table");
	desc_at(&r, AT_TABLE, 0, AT_DATA, 16, DESC_NEXT, 1);
	malformed(&r, "a descriptor beyond its table");
	put16(&r, AT_DRIVER + 2, SIZE + 1);
	malformed(&r, "an available index that jumps");
	rig_fini(&r);
}

static void an_indirect_table_that_was_not_negotiated_is_refused(void **state)
{
	struct rig r;
	rig_init(&r, VIRTIO_F_VERSION_1);
	desc_at(&r, AT_DESC, 0, AT_TABLE, 16, DESC_INDIRECT, 0);
	offer(&r, 0);
	malformed(&r, "an indirect descriptor, which was not negotiated");
	rig_fini(&r);
}

static void a_chain_of_more_pieces_than_fit_is_refused(void **state)
{
	struct rig r;
	rig_init(&r, CORE);
	desc_at(&r, AT_DESC, 0, AT_TABLE, 16 * (VQ_SEGS_MAX + 1), DESC_INDIRECT, 0);
	for (unsigned i = 0; i <= VQ_SEGS_MAX; i++)
		desc_at(&r, AT_TABLE, i, AT_DATA, 1, i < VQ_SEGS_MAX ? DESC_NEXT : 0,
			(uint16_t)(i + 1));
	offer(&r, 0);
	malformed(&r, "a chain of too many buffers");
	desc_at(&r, AT_DESC, 0, AT_TABLE + 16, 16 * VQ_SEGS_MAX, DESC_INDIRECT, 0);
	for (unsigned i = 0; i < VQ_SEGS_MAX; i++)
		desc_at(&r, AT_TABLE + 16, i, AT_DATA, 1, i < VQ_SEGS_MAX - 1 ? DESC_NEXT : 0,
			(uint16_t)(i + 1));
	assert_int_equal(pop(&r), 1);
	assert_int_equal(r.chain.out, VQ_SEGS_MAX);
	rig_fini(&r);
}

static void chains_beyond_the_ring_are_refused_while_all_are_in_flight(void **state)
{
	struct rig r;
	rig_init(&r, CORE);
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, 0, 0);
	for (unsigned i = 0; i < SIZE; i++) {
		offer(&r, 0);
		assert_int_equal(pop(&r), 1);
	}
	offer(&r, 0);
	assert_int_equal(pop(&r), -EPROTO);
	assert_string_equal(r.why, "more chains than descriptors");
	assert_int_equal(r.vq.in_flight, SIZE);
	vq_push(&r.vq, &r.chain, 0);
	assert_int_equal(pop(&r), 1);
	rig_fini(&r);
}

static void split_notifications_are_armed_when_the_ring_is_found_empty(void **state)
{
	struct rig r;
	rig_init(&r, CORE);
	vq_notify_disable(&r.vq);
	assert_int_equal(get16(&r, AT_DEVICE), 1);
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, 0, 0);
	offer(&r, 0);
	assert_true(vq_notify_enable(&r.vq));
	assert_int_equal(get16(&r, AT_DEVICE), 0);
	rig_fini(&r);

	rig_init(&r, CORE | VIRTIO_F_EVENT_IDX);
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, 0, 0);
	offer(&r, 0);
	offer(&r, 0);
	assert_int_equal(pop(&r), 1);
	assert_int_equal(pop(&r), 1);
	assert_int_equal(pop(&r), 0);
	assert_int_equal(get16(&r, AT_DEVICE + 4 + 8 * SIZE), 2);
	rig_fini(&r);
}

static void the_driver_chooses_when_split_rings_interrupt(void **state)
{
	struct rig r;
	rig_init(&r, CORE);
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, 0, 0);
	put16(&r, AT_DRIVER, 1);
	offer(&r, 0);
	assert_int_equal(pop(&r), 1);
	vq_push(&r.vq, &r.chain, 0);
	assert_false(vq_wants_interrupt(&r.vq));
	rig_fini(&r);

	rig_init(&r, CORE | VIRTIO_F_EVENT_IDX);
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, 0, 0);
	put16(&r, AT_DRIVER + 4 + 2 * SIZE, 2); /* after the third */
	for (unsigned i = 0; i < 4; i++) {
		offer(&r, 0);
		assert_int_equal(pop(&r), 1);
		vq_push(&r.vq, &r.chain, 0);
		/* The first is always told: what the driver knows is not known. */
		assert_int_equal(vq_wants_interrupt(&r.vq), i == 0 || i == 2);
	}
	rig_fini(&r);
}

static void batches_become_visible_together(void **state)
{
	struct rig r;
	struct vq_chain second;
	rig_init(&r, CORE);
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, DESC_WRITE, 0);
	desc_at(&r, AT_DESC, 1, AT_DATA, 4, DESC_WRITE, 0);
	offer(&r, 0);
	offer(&r, 1);
	assert_int_equal(pop(&r), 1);
	assert_int_equal(vq_pop(&r.vq, &second, &r.why), 1);
	vq_push_later(&r.vq, &r.chain, 4, 0);
	vq_push_later(&r.vq, &second, 2, 1);
	assert_int_equal(get16(&r, AT_DEVICE + 2), 0);
	vq_push_flush(&r.vq, 2);
	assert_int_equal(get16(&r, AT_DEVICE + 2), 2);
	assert_int_equal(get32(&r, AT_DEVICE + 12), 1);
	assert_int_equal(get32(&r, AT_DEVICE + 16), 2);
	rig_fini(&r);
}

static void a_chain_that_was_given_back_comes_again(void **state)
{
	struct rig r;
	for (unsigned packed = 0; packed < 2; packed++) {
		rig_init(&r, CORE | (packed ? VIRTIO_F_RING_PACKED : 0));
		if (packed) {
			desc_at(&r, AT_DESC, 0, AT_DATA, 4, 7, 0x80);
		} else {
			desc_at(&r, AT_DESC, 0, AT_DATA, 4, 0, 0);
			offer(&r, 0);
		}
		assert_int_equal(pop(&r), 1);
		vq_unpop(&r.vq, &r.chain);
		assert_int_equal(r.vq.in_flight, 0);
		assert_int_equal(pop(&r), 1);
		assert_int_equal(r.chain.id, packed ? 7 : 0);
		assert_int_equal(pop(&r), 0);
		rig_fini(&r);
	}
}

/* ---- packed ---- */

#define P (CORE | VIRTIO_F_RING_PACKED)

/* Flags that make a descriptor available with this wrap counter. */
static uint16_t avail_flags(_Bool wrap)
{
	return wrap ? 0x0080 : 0x8000;
}

static void packed_chains_go_round_the_ring(void **state)
{
	struct rig r;
	_Bool wrap = 1;
	unsigned at = 0;
	rig_init(&r, P);
	for (unsigned n = 0; n < 3 * SIZE; n++) {
		unsigned first = at;
		uint16_t id = (uint16_t)(100 + n), done = wrap ? 0x8080 : 0;
		for (unsigned i = 0; i < 3; i++) {
			uint16_t flags = avail_flags(wrap) | (i < 2 ? DESC_NEXT : DESC_WRITE);
			desc_at(&r, AT_DESC, at, AT_DATA + 16 * i, 8, id, flags);
			at = at + 1 == SIZE ? 0 : at + 1;
			wrap ^= !at;
		}
		assert_int_equal(pop(&r), 1);
		assert_int_equal(r.chain.id, id);
		assert_int_equal(r.chain.slots, 3);
		assert_int_equal(r.chain.out_bytes, 16);
		assert_int_equal(r.chain.in_bytes, 8);
		assert_int_equal(pop(&r), 0);
		vq_push(&r.vq, &r.chain, 5);
		assert_int_equal(get32(&r, AT_DESC + 16 * first + 8), 5);
		assert_int_equal(get16(&r, AT_DESC + 16 * first + 12), id);
		assert_int_equal(get16(&r, AT_DESC + 16 * first + 14), done | DESC_WRITE);
		assert_true(vq_wants_interrupt(&r.vq));
	}
	rig_fini(&r);
}

static void a_packed_indirect_table_is_a_chain(void **state)
{
	struct rig r;
	rig_init(&r, P);
	desc_at(&r, AT_TABLE, 0, AT_DATA, 8, 0, 0);
	desc_at(&r, AT_TABLE, 1, AT_DATA + 8, 8, 0, DESC_WRITE);
	desc_at(&r, AT_DESC, 0, AT_TABLE, 32, 9, 0x80 | DESC_INDIRECT);
	assert_int_equal(pop(&r), 1);
	assert_int_equal(r.chain.slots, 1);
	assert_int_equal(r.chain.id, 9);
	assert_int_equal(r.chain.out_bytes, 8);
	assert_int_equal(r.chain.in_bytes, 8);
	rig_fini(&r);
}

static void malformed_packed_rings_are_refused_and_nothing_is_taken(void **state)
{
	struct rig r;
	rig_init(&r, P);
	for (unsigned i = 0; i < SIZE; i++)
		desc_at(&r, AT_DESC, i, AT_DATA, 8, 0, 0x80 | DESC_NEXT);
	malformed(&r, "a chain longer than the ring");
	desc_at(&r, AT_DESC, 0, AT_TABLE, 16, 0, 0x80 | DESC_INDIRECT | DESC_NEXT);
	malformed(&r, "an indirect descriptor in a chain");
	desc_at(&r, AT_DESC, 0, AT_DATA, 8, 0, 0x80 | DESC_NEXT);
	desc_at(&r, AT_DESC, 1, AT_TABLE, 16, 0, 0x80 | DESC_INDIRECT);
	malformed(&r, "an indirect descriptor in a chain");
	desc_at(&r, AT_DESC, 0, AT_TABLE, 16, 0, 0x80 | DESC_INDIRECT);
	desc_at(&r, AT_TABLE, 0, AT_TABLE, 16, 0, DESC_INDIRECT);
	malformed(&r, "an indirect table in an indirect table");
	desc_at(&r, AT_DESC, 0, AT_TABLE, 17, 0, 0x80 | DESC_INDIRECT);
	malformed(&r, "an indirect table of a wrong size");
	desc_at(&r, AT_DESC, 0, BENCH_RAM, 16, 0, 0x80);
	malformed(&r, "a buffer outside RAM");
	desc_at(&r, AT_DESC, 0, AT_DATA, 8, 0, 0x80 | DESC_WRITE | DESC_NEXT);
	desc_at(&r, AT_DESC, 1, AT_DATA, 8, 0, 0x80);
	malformed(&r, "a readable buffer after a writable one");
	rig_fini(&r);
}

static void packed_descriptors_cannot_be_offered_again_before_they_are_used(void **state)
{
	struct rig r;
	rig_init(&r, P);
	for (unsigned i = 0; i < SIZE; i++) {
		desc_at(&r, AT_DESC, i, AT_DATA, 8, (uint16_t)i, 0x80);
		assert_int_equal(pop(&r), 1);
	}
	for (unsigned i = 0; i < SIZE; i++)
		desc_at(&r, AT_DESC, i, AT_DATA, 8, (uint16_t)i,
			0x8000 | (i < SIZE - 1 ? DESC_NEXT : 0));
	assert_int_equal(pop(&r), -EPROTO);
	assert_string_equal(r.why, "more chains than descriptors");
	rig_fini(&r);
}

static void packed_event_suppression_is_kept_by_both_sides(void **state)
{
	struct rig r;
	rig_init(&r, P | VIRTIO_F_EVENT_IDX);
	assert_int_equal(pop(&r), 0);
	assert_int_equal(get16(&r, AT_DEVICE), 0x8000); /* next: descriptor 0, wrap 1 */
	assert_int_equal(get16(&r, AT_DEVICE + 2), 2);
	put16(&r, AT_DRIVER, 0x8000 | 2);
	put16(&r, AT_DRIVER + 2, 2);
	for (unsigned i = 0; i < 4; i++) {
		desc_at(&r, AT_DESC, i, AT_DATA, 8, 0, 0x80);
		assert_int_equal(pop(&r), 1);
		vq_push(&r.vq, &r.chain, 0);
		assert_int_equal(vq_wants_interrupt(&r.vq), i == 0 || i == 2);
	}
	vq_notify_disable(&r.vq);
	assert_int_equal(get16(&r, AT_DEVICE + 2), 1);
	put16(&r, AT_DRIVER + 2, 1);
	desc_at(&r, AT_DESC, 4, AT_DATA, 8, 0, 0x80);
	assert_int_equal(pop(&r), 1);
	vq_push(&r.vq, &r.chain, 0);
	assert_false(vq_wants_interrupt(&r.vq));
	rig_fini(&r);
}

/* ---- both ---- */

static void queues_that_are_misplaced_do_not_start(void **state)
{
	struct rig r;
	rig_init(&r, CORE);
	struct virtqueue *vq = &r.vq;
	const struct virtqueue good = *vq;
	for (unsigned packed = 0; packed < 2; packed++) {
		uint64_t f = packed ? P : CORE;
		*vq = good;
		vq->desc += 8;
		assert_int_equal(vq_start(vq, f, 0), -EINVAL);
		*vq = good;
		vq->avail += 1;
		assert_int_equal(vq_start(vq, f, 0), -EINVAL);
		*vq = good;
		vq->used += 2;
		assert_int_equal(vq_start(vq, f, 0), -EINVAL);
		*vq = good;
		vq->desc = BENCH_RAM - 64;
		assert_int_equal(vq_start(vq, f, 0), -EINVAL);
		*vq = good;
		vq->used = UINT64_MAX - 3;
		assert_int_equal(vq_start(vq, f, 0), -EINVAL);
		*vq = good;
		vq->size = 0;
		assert_int_equal(vq_start(vq, f, 0), -EINVAL);
		vq->size = 16;
		assert_int_equal(vq_start(vq, f, 0), -EINVAL);
		vq->size = 6;
		assert_int_equal(vq_start(vq, f, 0), packed ? 0 : -EINVAL);
		assert_int_equal(vq->ready, packed);
	}
	rig_fini(&r);
}

/* ROM may be read: descriptors, an available ring, data. Nothing of it is ever written. */
static void rom_is_read_and_never_written(void **state)
{
	const uint64_t rom = UINT64_C(0xfffc0000);
	static const uint16_t one[] = {0, 1, 0};
	uint8_t before[4096], after[4096], d[16] = {0};
	struct rig r;

	rig_init(&r, CORE);
	assert_int_equal(gmem_add(r.b.mem, rom, 4096, GMEM_READONLY, NULL), 0);
	store_le64(d, rom + 0x100);
	store_le32(d + 8, 16);
	assert_int_equal(gmem_load(r.b.mem, gpa(rom), d, 16), 0);
	assert_int_equal(gmem_load(r.b.mem, gpa(rom + 0x800), one, sizeof(one)), 0);
	assert_int_equal(gmem_read(r.b.mem, gpa(rom), before, sizeof(before)), 0);

	r.vq.used = rom + 0x400;
	assert_int_equal(vq_start(&r.vq, CORE, 0), -EINVAL);
	r.vq.used = AT_DEVICE;
	r.vq.desc = rom;
	assert_int_equal(vq_start(&r.vq, CORE | VIRTIO_F_RING_PACKED, 0), -EINVAL);
	r.vq.avail = rom + 0x800;
	assert_int_equal(vq_start(&r.vq, CORE, 0), 0);
	assert_int_equal(pop(&r), 1);
	assert_int_equal(r.chain.out_bytes, 16);
	vq_push(&r.vq, &r.chain, 0);
	assert_int_equal(get16(&r, AT_DEVICE + 2), 1);

	vq_reset(&r.vq);
	r.avail = 0;
	r.vq.desc = AT_DESC;
	r.vq.avail = AT_DRIVER;
	r.vq.used = AT_DEVICE;
	assert_int_equal(vq_start(&r.vq, CORE, 0), 0);
	desc_at(&r, AT_DESC, 0, rom + 0x100, 16, DESC_WRITE, 0);
	offer(&r, 0);
	malformed(&r, "a buffer outside RAM");
	assert_int_equal(gmem_read(r.b.mem, gpa(rom), after, sizeof(after)), 0);
	assert_memory_equal(before, after, sizeof(before));
	rig_fini(&r);
}

static void a_reset_forgets_the_ring_but_counts_what_is_in_flight(void **state)
{
	struct rig r;
	rig_init(&r, CORE);
	desc_at(&r, AT_DESC, 0, AT_DATA, 4, 0, 0);
	offer(&r, 0);
	assert_int_equal(pop(&r), 1);
	vq_reset(&r.vq);
	assert_true(r.vq.stopping);
	assert_int_equal(r.vq.in_flight, 1);
	vq_push(&r.vq, &r.chain, 0);
	assert_int_equal(r.vq.in_flight, 0);
	assert_int_equal(get16(&r, AT_DEVICE + 2), 0);
	assert_false(vq_wants_interrupt(&r.vq));
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_split_chain_comes_as_host_memory_and_goes_back_used),
	    cmocka_unit_test(slices_of_a_chain_stay_inside_it),
	    cmocka_unit_test(an_indirect_table_continues_a_split_chain),
	    cmocka_unit_test(malformed_split_rings_are_refused_and_nothing_is_taken),
	    cmocka_unit_test(an_indirect_table_that_was_not_negotiated_is_refused),
	    cmocka_unit_test(a_chain_of_more_pieces_than_fit_is_refused),
	    cmocka_unit_test(chains_beyond_the_ring_are_refused_while_all_are_in_flight),
	    cmocka_unit_test(split_notifications_are_armed_when_the_ring_is_found_empty),
	    cmocka_unit_test(the_driver_chooses_when_split_rings_interrupt),
	    cmocka_unit_test(batches_become_visible_together),
	    cmocka_unit_test(a_chain_that_was_given_back_comes_again),
	    cmocka_unit_test(packed_chains_go_round_the_ring),
	    cmocka_unit_test(a_packed_indirect_table_is_a_chain),
	    cmocka_unit_test(malformed_packed_rings_are_refused_and_nothing_is_taken),
	    cmocka_unit_test(packed_descriptors_cannot_be_offered_again_before_they_are_used),
	    cmocka_unit_test(packed_event_suppression_is_kept_by_both_sides),
	    cmocka_unit_test(queues_that_are_misplaced_do_not_start),
	    cmocka_unit_test(rom_is_read_and_never_written),
	    cmocka_unit_test(a_reset_forgets_the_ring_but_counts_what_is_in_flight),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
