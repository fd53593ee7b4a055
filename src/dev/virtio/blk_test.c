/* blk_test.c: the block device over PCI, with a disk in memory that finishes when it is told to. */
#include "dev/virtio/blk.h"

#include <errno.h>
#include <stdlib.h>

#include "backend/disk_impl.h"
#include "dev/virtio/blk_impl.h"
#include "dev/virtio/testing.h"

#define DISK_BYTES (UINT64_C(1) << 20)

struct fake {
	struct disk disk; /* first */
	struct disk_req *waiting, **last;
	uint8_t data[DISK_BYTES];
	unsigned flushes, discards, zeroes;
	unsigned asked; /* requests that came here, wrong ones too */
	int fail;	/* what every request ends with */
};

static void fake_submit(struct disk *disk, struct disk_req *req)
{
	struct fake *f = (struct fake *)disk;
	f->asked++;
	req->next = NULL;
	*f->last = req;
	f->last = &req->next;
}

static void fake_kick(struct disk *disk)
{
}

static int fake_do(struct fake *f, struct disk_req *req)
{
	uint64_t at = req->offset;
	if (f->fail || req->result)
		return f->fail ? f->fail : req->result;
	f->flushes += req->op == DISK_FLUSH;
	f->discards += req->op == DISK_DISCARD;
	f->zeroes += req->op == DISK_ZERO;
	if (req->op == DISK_ZERO)
		memset(f->data + at, 0, req->len);
	for (unsigned i = 0; i < req->iov_count; i++) {
		if (req->op == DISK_READ)
			memcpy(req->iov[i].iov_base, f->data + at, req->iov[i].iov_len);
		else
			memcpy(f->data + at, req->iov[i].iov_base, req->iov[i].iov_len);
		at += req->iov[i].iov_len;
	}
	return 0;
}

/* Finishes what is waiting, and what that leads to. */
static unsigned fake_run(struct fake *f)
{
	unsigned n = 0;
	for (; f->waiting; n++) {
		struct disk_req *req = f->waiting;
		f->waiting = req->next;
		if (!f->waiting)
			f->last = &f->waiting;
		disk_complete(&f->disk, req, fake_do(f, req));
	}
	return n;
}

static const struct disk_ops fake_ops = {
    .submit = fake_submit, .kick = fake_kick, .refuse = fake_submit};

struct rig {
	struct vt t;
	struct fake *fake;
};

static struct blk *blk(struct rig *r)
{
	return (struct blk *)r->t.dev;
}

static void rig_init(struct rig *r, _Bool read_only, unsigned queues)
{
	struct blk_config cfg = {.place = vt_init(&r->t), .serial = "disk-7", .queues = queues};
	r->fake = calloc(1, sizeof(*r->fake));
	disk_init(&r->fake->disk, &fake_ops);
	r->fake->last = &r->fake->waiting;
	r->fake->disk.info = (struct disk_info){.size_bytes = DISK_BYTES,
						.logical_block = 512,
						.physical_block = 4096,
						.read_only = read_only,
						.discard = !read_only};
	for (unsigned i = 0; i < DISK_BYTES; i++)
		r->fake->data[i] = (uint8_t)(i / 512 + i);
	cfg.disk = &r->fake->disk;
	assert_int_equal(blk_new(&r->t.dev, &cfg, NULL), 0);
	vt_power_on(&r->t);
}

static void rig_fini(struct rig *r)
{
	fake_run(r->fake);
	vt_fini(&r->t);
	disk_fini(&r->fake->disk);
	free(r->fake);
}

#define HEADER(i) (VT_DATA + 0x100 * (i))
#define BUFFER	  (VT_DATA + 0x10000)

/* A request in descriptors 0 to 2 of queue q: header, `len` bytes at BUFFER, status. */
static void request(struct rig *r, unsigned q, uint32_t type, uint64_t sector, uint32_t len)
{
	_Bool in = type == BLK_T_IN || type == BLK_T_GET_ID;
	uint8_t h[16] = {0};
	store_le32(h, type);
	store_le64(h + 8, sector);
	assert_int_equal(gmem_write(r->t.b.mem, gpa(HEADER(q)), h, 16), 0);
	assert_int_equal(gmem_fill(r->t.b.mem, gpa(HEADER(q) + 16), 0xee, 1), 0);
	vt_desc(&r->t, q, 0, HEADER(q), 16, 1, len ? 1 : 2);
	vt_desc(&r->t, q, 1, BUFFER, len, in ? 3 : 1, 2);
	vt_desc(&r->t, q, 2, HEADER(q) + 16, 1, 2, 0);
	vt_offer(&r->t, q, 0);
	vt_notify(&r->t, q);
}

static uint8_t status(struct rig *r, unsigned q)
{
	uint8_t s;
	assert_int_equal(gmem_read(r->t.b.mem, gpa(HEADER(q) + 16), &s, 1), 0);
	return s;
}

/* The whole way; the status, and the length the device reports. */
static uint8_t done(struct rig *r, uint32_t type, uint64_t sector, uint32_t len, uint32_t *used)
{
	uint32_t head;
	request(r, 0, type, sector, len);
	fake_run(r->fake);
	assert_true(vt_used(&r->t, 0, &head, used));
	assert_int_equal(head, 0);
	return status(r, 0);
}

static void resets_to_the_announced_configuration(void **state)
{
	struct rig r;
	rig_init(&r, 0, 3);
	assert_int_equal(vt_config_read(&r.t, 0, 4), 0x10421af4);
	assert_int_equal(vt_config_read(&r.t, 8, 4) >> 8, 0x010000);
	uint64_t f = vt_offered(&r.t);
	assert_true(f == (VIRTIO_CORE_FEATURES | 0x7e46));
	assert_int_equal(vt_in(&r.t, 18, 2), 3);
	assert_int_equal(vt_in(&r.t, 0x2000, 4), DISK_BYTES / 512);
	assert_int_equal(vt_in(&r.t, 0x2004, 4), 0);
	assert_int_equal(vt_in(&r.t, 0x200c, 4), BLK_SEG_MAX);
	assert_int_equal(vt_in(&r.t, 0x2014, 4), 512);
	assert_int_equal(vt_in(&r.t, 0x2018, 1), 3);
	assert_int_equal(vt_in(&r.t, 0x201a, 2), 8);
	assert_int_equal(vt_in(&r.t, 0x2020, 1), 1);
	assert_int_equal(vt_in(&r.t, 0x2022, 2), 3);
	rig_fini(&r);
	rig_init(&r, 1, 1);
	assert_true(vt_offered(&r.t) == (VIRTIO_CORE_FEATURES | 0x666));
	rig_fini(&r);
}

static void every_register_takes_every_width(void **state)
{
	struct rig r;
	rig_init(&r, 0, 2);
	bench_sweep(r.t.b.memory, VT_BAR, 0x80);
	bench_sweep(r.t.b.memory, VT_BAR + 0x1000, 8);
	bench_sweep(r.t.b.memory, VT_BAR + 0x2000, 0x48);
	bench_sweep(r.t.b.memory, VT_BAR + 0x3000, 0x10);
	/* Only the cache mode can be written. */
	vt_out(&r.t, 0x2000, 4, 77);
	assert_int_equal(vt_in(&r.t, 0x2000, 4), DISK_BYTES / 512);
	vt_out(&r.t, 0x2020, 1, 2);
	assert_int_equal(vt_in(&r.t, 0x2020, 1), 0);
	rig_fini(&r);
}

/* A migration would miss it otherwise. */
static void what_was_read_is_marked_dirty(void **state)
{
	uint64_t *bits = calloc(BENCH_RAM / 4096 / 64 + 1, sizeof(*bits));
	unsigned first = BUFFER / 4096;
	struct rig r;
	uint32_t used;

	assert_non_null(bits);
	rig_init(&r, 0, 1);
	vt_start(&r.t, BLK_F_FLUSH, 1);
	assert_int_equal(gmem_log_start(r.t.b.mem), 0);
	assert_int_equal(done(&r, BLK_T_IN, 0, 8192, &used), BLK_S_OK);
	gmem_log_harvest(r.t.b.mem, 0, bits);
	for (unsigned page = first; page < first + 2; page++)
		assert_true(bits[page / 64] >> (page % 64) & 1);
	free(bits);
	rig_fini(&r);
}

static void reads_writes_and_flushes_move_the_right_bytes(void **state)
{
	struct rig r;
	uint8_t buf[1024];
	uint32_t used;
	rig_init(&r, 0, 1);
	vt_start(&r.t, BLK_F_FLUSH, 1);
	unsigned before = r.t.b.messages;
	assert_int_equal(done(&r, BLK_T_IN, 5, 1024, &used), BLK_S_OK);
	assert_int_equal(used, 1025);
	assert_int_equal(r.t.b.messages, before + 1);
	assert_int_equal(r.t.b.msi_data, 0x41);
	assert_int_equal(gmem_read(r.t.b.mem, gpa(BUFFER), buf, 1024), 0);
	assert_memory_equal(buf, r.fake->data + 5 * 512, 1024);
	memset(buf, 0xab, sizeof(buf));
	assert_int_equal(gmem_write(r.t.b.mem, gpa(BUFFER), buf, 1024), 0);
	assert_int_equal(done(&r, BLK_T_OUT, 2046, 1024, &used), BLK_S_OK);
	assert_int_equal(used, 1);
	assert_memory_equal(buf, r.fake->data + 2046 * 512, 1024);
	assert_int_equal(r.fake->flushes, 0);
	assert_int_equal(done(&r, BLK_T_FLUSH, 0, 0, &used), BLK_S_OK);
	assert_int_equal(r.fake->flushes, 1);
	assert_int_equal(done(&r, BLK_T_GET_ID, 0, 20, &used), BLK_S_OK);
	assert_int_equal(gmem_read(r.t.b.mem, gpa(BUFFER), buf, 20), 0);
	assert_memory_equal(buf, "disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	rig_fini(&r);
}

static void writes_are_durable_when_the_driver_cannot_flush(void **state)
{
	struct rig r;
	uint32_t used;
	rig_init(&r, 0, 1);
	vt_start(&r.t, 0, 1);
	assert_int_equal(done(&r, BLK_T_OUT, 0, 512, &used), BLK_S_OK);
	assert_int_equal(r.fake->flushes, 1);
	vt_start(&r.t, BLK_F_FLUSH | BLK_F_CONFIG_WCE, 1);
	assert_int_equal(done(&r, BLK_T_OUT, 0, 512, &used), BLK_S_OK);
	assert_int_equal(r.fake->flushes, 1);
	vt_out(&r.t, 0x2020, 1, 0);
	assert_int_equal(done(&r, BLK_T_OUT, 0, 512, &used), BLK_S_OK);
	assert_int_equal(r.fake->flushes, 2);
	rig_fini(&r);
}

static void wrong_requests_get_the_status_of_the_specification(void **state)
{
	struct rig r;
	uint32_t used;
	rig_init(&r, 0, 1);
	vt_start(&r.t, BLK_F_FLUSH, 1);
	assert_int_equal(done(&r, BLK_T_IN, 2048, 512, &used), BLK_S_IOERR);
	assert_int_equal(done(&r, BLK_T_IN, 2047, 1024, &used), BLK_S_IOERR);
	assert_int_equal(done(&r, BLK_T_OUT, UINT64_MAX, 512, &used), BLK_S_IOERR);
	assert_int_equal(done(&r, BLK_T_OUT, UINT64_MAX / 512, 512, &used), BLK_S_IOERR);
	assert_int_equal(done(&r, BLK_T_IN, 0, 511, &used), BLK_S_IOERR);
	assert_int_equal(done(&r, 2, 0, 512, &used), BLK_S_UNSUPP);
	assert_int_equal(done(&r, 0x80000000, 0, 512, &used), BLK_S_UNSUPP);
	assert_int_equal(done(&r, BLK_T_DISCARD, 0, 16, &used), BLK_S_UNSUPP);
	/* Not even where the offset in bytes would wrap around into the disk. */
	assert_int_equal(done(&r, BLK_T_IN, UINT64_C(1) << 55, 512, &used), BLK_S_IOERR);
	assert_int_equal(done(&r, BLK_T_OUT, (UINT64_C(1) << 55) + 3, 512, &used), BLK_S_IOERR);
	assert_int_equal(r.fake->asked, 0);
	r.fake->fail = -EIO;
	assert_int_equal(done(&r, BLK_T_IN, 0, 512, &used), BLK_S_IOERR);
	assert_int_equal(used, 0);
	r.fake->fail = -ENOSPC;
	assert_int_equal(done(&r, BLK_T_OUT, 0, 512, &used), BLK_S_IOERR);
	assert_int_equal(vt_in(&r.t, 20, 1), 15);
	rig_fini(&r);
	rig_init(&r, 1, 1);
	vt_start(&r.t, 0, 1);
	/* Whatever writes is an error, done by the device: the disk is not even asked. */
	assert_int_equal(done(&r, BLK_T_OUT, 0, 512, &used), BLK_S_IOERR);
	assert_int_equal(done(&r, BLK_T_OUT, 0, 0, &used), BLK_S_IOERR);
	assert_int_equal(done(&r, BLK_T_DISCARD, 0, 16, &used), BLK_S_IOERR);
	assert_int_equal(done(&r, BLK_T_WRITE_ZEROES, 0, 16, &used), BLK_S_IOERR);
	assert_int_equal(r.fake->asked, 0);
	assert_int_equal(done(&r, BLK_T_IN, 0, 512, &used), BLK_S_OK);
	rig_fini(&r);
}

static uint8_t ranges(struct rig *r, uint32_t type, unsigned count, uint64_t sector,
		      uint32_t sectors, uint32_t flags)
{
	uint32_t used;
	for (unsigned i = 0; i < count; i++) {
		uint8_t d[16];
		store_le64(d, sector + i * sectors);
		store_le32(d + 8, sectors);
		store_le32(d + 12, flags);
		assert_int_equal(gmem_write(r->t.b.mem, gpa(BUFFER + 16 * i), d, 16), 0);
	}
	return done(r, type, 0, 16 * count, &used);
}

static void discards_and_zeroes_are_done_range_by_range(void **state)
{
	struct rig r;
	rig_init(&r, 0, 1);
	vt_start(&r.t, BLK_F_FLUSH | BLK_F_DISCARD | BLK_F_WRITE_ZEROES, 1);
	assert_int_equal(ranges(&r, BLK_T_DISCARD, 3, 8, 8, 0), BLK_S_OK);
	assert_int_equal(r.fake->discards, 3);
	assert_int_equal(ranges(&r, BLK_T_WRITE_ZEROES, 2, 100, 2, 1), BLK_S_OK);
	assert_int_equal(r.fake->zeroes, 2);
	for (unsigned i = 0; i < 4 * 512; i++)
		assert_int_equal(r.fake->data[100 * 512 + i], 0);
	assert_int_equal(ranges(&r, BLK_T_DISCARD, 1, 0, 8, 1), BLK_S_UNSUPP);
	assert_int_equal(ranges(&r, BLK_T_WRITE_ZEROES, 1, 0, 8, 2), BLK_S_UNSUPP);
	assert_int_equal(ranges(&r, BLK_T_WRITE_ZEROES, 2, 2040, 8, 0), BLK_S_IOERR);
	assert_int_equal(ranges(&r, BLK_T_WRITE_ZEROES, 1, 0, BLK_RANGE_SECTORS + 1, 0),
			 BLK_S_IOERR);
	assert_int_equal(ranges(&r, BLK_T_WRITE_ZEROES, BLK_RANGES_MAX + 1, 0, 1, 0), BLK_S_IOERR);
	assert_int_equal(r.fake->zeroes, 2);
	/* On a disk that has so many, one more than announced is too much (5.2.6.1). */
	r.fake->disk.info.size_bytes = UINT64_C(2) * BLK_RANGE_SECTORS * DISK_SECTOR;
	r.fake->disk.client.resized(r.fake->disk.client.opaque, r.fake->disk.info.size_bytes);
	assert_int_equal(vt_in(&r.t, 0x2024, 4), BLK_RANGE_SECTORS);
	assert_int_equal(ranges(&r, BLK_T_DISCARD, 1, 8, BLK_RANGE_SECTORS, 0), BLK_S_OK);
	assert_int_equal(r.fake->discards, 4);
	assert_int_equal(ranges(&r, BLK_T_DISCARD, 1, 8, BLK_RANGE_SECTORS + 1, 0), BLK_S_IOERR);
	assert_int_equal(ranges(&r, BLK_T_WRITE_ZEROES, 1, 8, BLK_RANGE_SECTORS + 1, 0),
			 BLK_S_IOERR);
	assert_int_equal(r.fake->discards, 4);
	assert_int_equal(r.fake->zeroes, 2);
	/* The host may not be able to. */
	r.fake->fail = -EOPNOTSUPP;
	assert_int_equal(ranges(&r, BLK_T_DISCARD, 1, 0, 8, 0), BLK_S_UNSUPP);
	rig_fini(&r);
}

static void a_request_without_header_or_status_breaks_the_device(void **state)
{
	struct rig r;
	uint32_t head, len;
	for (unsigned i = 0; i < 3; i++) {
		rig_init(&r, 0, 1);
		vt_start(&r.t, 0, 1);
		unsigned before = r.t.b.messages;
		if (i == 0)
			vt_desc(&r.t, 0, 0, BUFFER, 15, 1, 1);
		else
			vt_desc(&r.t, 0, 0, BUFFER, 16, i == 1 ? 0 : 1, 1);
		vt_desc(&r.t, 0, 1, BUFFER, 1, i == 2 ? 0 : 2, 0);
		vt_offer(&r.t, 0, 0);
		vt_notify(&r.t, 0);
		assert_int_equal(vt_in(&r.t, 20, 1), 15 | VIRTIO_NEEDS_RESET);
		assert_int_equal(r.t.b.messages, before + 1);
		assert_int_equal(r.t.b.msi_data, 0x40);
		assert_false(vt_used(&r.t, 0, &head, &len));
		/* Nothing more is taken until a reset. */
		request(&r, 0, BLK_T_IN, 0, 512);
		assert_int_equal(fake_run(r.fake), 0);
		vt_start(&r.t, 0, 1);
		assert_int_equal(done(&r, BLK_T_IN, 0, 512, &len), BLK_S_OK);
		rig_fini(&r);
	}
}

static void a_reset_waits_for_requests_in_flight(void **state)
{
	struct rig r;
	uint32_t used;
	rig_init(&r, 0, 1);
	vt_start(&r.t, 0, 1);
	request(&r, 0, BLK_T_IN, 0, 512);
	vt_status(&r.t, 0);
	assert_int_not_equal(vt_in(&r.t, 20, 1), 0);
	vt_status(&r.t, 1);
	fake_run(r.fake);
	assert_int_equal(vt_in(&r.t, 20, 1), 0);
	assert_false(vt_used(&r.t, 0, &used, &used));
	vt_start(&r.t, 0, 1);
	assert_int_equal(done(&r, BLK_T_IN, 0, 512, &used), BLK_S_OK);
	rig_fini(&r);
}

static void one_queue_is_reset_while_another_works(void **state)
{
	struct rig r;
	uint32_t head, len;
	rig_init(&r, 0, 2);
	vt_start(&r.t, BLK_F_MQ | VIRTIO_F_RING_RESET, 2);
	request(&r, 0, BLK_T_IN, 0, 512);
	request(&r, 1, BLK_T_IN, 0, 512);
	vt_out(&r.t, 22, 2, 1);
	vt_out(&r.t, 58, 2, 1);
	assert_int_equal(vt_in(&r.t, 58, 2), 1);
	assert_int_equal(vt_in(&r.t, 28, 2), 0);
	fake_run(r.fake);
	assert_int_equal(vt_in(&r.t, 58, 2), 0);
	assert_true(vt_used(&r.t, 0, &head, &len));
	assert_false(vt_used(&r.t, 1, &head, &len));
	vt_queue(&r.t, 1);
	assert_int_equal(vt_in(&r.t, 28, 2), 1);
	request(&r, 1, BLK_T_IN, 0, 512);
	fake_run(r.fake);
	assert_true(vt_used(&r.t, 1, &head, &len));
	rig_fini(&r);
}

static void more_requests_than_slots_wait_in_the_ring(void **state)
{
	struct rig r;
	uint32_t head, len;
	rig_init(&r, 0, BLK_MAX_QUEUES);
	vt_start(&r.t, BLK_F_MQ, BLK_MAX_QUEUES);
	for (unsigned q = 0; q < BLK_MAX_QUEUES; q++) {
		request(&r, q, BLK_T_IN, 0, 512);
		for (unsigned i = 1; i < VT_SIZE; i++)
			vt_offer(&r.t, q, 0);
		vt_notify(&r.t, q);
	}
	assert_null(blk(&r)->free);
	assert_int_equal(virtio_in_flight(&blk(&r)->vd), BLK_REQUESTS);
	assert_int_equal(fake_run(r.fake), BLK_MAX_QUEUES * VT_SIZE);
	for (unsigned q = 0; q < BLK_MAX_QUEUES; q++)
		for (unsigned i = 0; i < VT_SIZE; i++)
			assert_true(vt_used(&r.t, q, &head, &len));
	rig_fini(&r);
}

static void the_driver_is_told_of_a_new_size(void **state)
{
	struct rig r;
	rig_init(&r, 0, 1);
	vt_start(&r.t, 0, 1);
	uint32_t generation = vt_in(&r.t, 21, 1);
	unsigned before = r.t.b.messages;
	r.fake->disk.client.resized(r.fake->disk.client.opaque, 2 * DISK_BYTES);
	assert_int_equal(vt_in(&r.t, 0x2000, 4), 2 * DISK_BYTES / 512);
	assert_int_not_equal(vt_in(&r.t, 21, 1), generation);
	assert_int_equal(r.t.b.messages, before + 1);
	assert_int_equal(r.t.b.msi_data, 0x40);
	rig_fini(&r);
}

static void state_survives_a_round_trip_and_corruption_changes_nothing(void **state)
{
	struct rig a, b;
	uint32_t head, len;
	rig_init(&a, 0, 2);
	rig_init(&b, 0, 2);
	vt_start(&a.t, BLK_F_MQ | BLK_F_FLUSH | BLK_F_CONFIG_WCE, 2);
	assert_int_equal(done(&a, BLK_T_IN, 3, 512, &len), BLK_S_OK);
	vt_out(&a.t, 0x2020, 1, 0);
	/* RAM comes first. */
	for (uint64_t at = VT_RING(0); at < VT_RING(2); at += 4096) {
		uint8_t page[4096];
		assert_int_equal(gmem_read(a.t.b.mem, gpa(at), page, 4096), 0);
		assert_int_equal(gmem_write(b.t.b.mem, gpa(at), page, 4096), 0);
	}
	bench_round_trip(a.t.dev, b.t.dev);
	bench_corrupt(a.t.dev);
	bench_refuses(a.t.dev, struct blk, vd.status, 4);
	bench_refuses(a.t.dev, struct blk, vd.features, BIT64(63) | VIRTIO_F_VERSION_1);
	bench_refuses(a.t.dev, struct blk, vd.saved.desc[1], 8);
	bench_refuses(a.t.dev, struct blk, vd.saved.used[1], BENCH_RAM);
	bench_refuses(a.t.dev, struct blk, vd.saved.size[0], 3);
	bench_refuses(a.t.dev, struct blk, vd.saved.ready[2], 1);
	bench_refuses(a.t.dev, struct blk, vd.saved.vector[0], 3);
	bench_refuses(a.t.dev, struct blk, vd.config[0], 1);
	bench_refuses(a.t.dev, struct blk, vd.isr, 4);
	/* The twin goes on where the first one was. */
	memcpy(b.t.avail, a.t.avail, sizeof(b.t.avail));
	memcpy(b.t.used, a.t.used, sizeof(b.t.used));
	assert_int_equal(done(&b, BLK_T_OUT, 3, 512, &len), BLK_S_OK);
	assert_int_equal(b.fake->flushes, 1);
	assert_false(vt_used(&b.t, 0, &head, &len));
	rig_fini(&a);
	rig_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(resets_to_the_announced_configuration),
	    cmocka_unit_test(every_register_takes_every_width),
	    cmocka_unit_test(what_was_read_is_marked_dirty),
	    cmocka_unit_test(reads_writes_and_flushes_move_the_right_bytes),
	    cmocka_unit_test(writes_are_durable_when_the_driver_cannot_flush),
	    cmocka_unit_test(wrong_requests_get_the_status_of_the_specification),
	    cmocka_unit_test(discards_and_zeroes_are_done_range_by_range),
	    cmocka_unit_test(a_request_without_header_or_status_breaks_the_device),
	    cmocka_unit_test(a_reset_waits_for_requests_in_flight),
	    cmocka_unit_test(one_queue_is_reset_while_another_works),
	    cmocka_unit_test(more_requests_than_slots_wait_in_the_ring),
	    cmocka_unit_test(the_driver_is_told_of_a_new_size),
	    cmocka_unit_test(state_survives_a_round_trip_and_corruption_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
