/* vuser_test.c: block devices and file systems that a back end outside serves, one that is told
 * what to do. */
#include "dev/virtio/vuser.h"

#include <stdlib.h>

#include "dev/virtio/vhost_testing.h"

#define F_FLUSH	    BIT64(9)
#define F_WCE	    BIT64(11)
#define F_MQ	    BIT64(12)
#define F_STRANGE   BIT64(20)
#define CFG_SECTORS 2048

struct rig {
	struct vt t;
	struct fake_vhost *fake;
	/* The last page of data that memory's listener heard of, and how much queue 1's driver saw
	 * as done then. */
	atomic_uint dirty_page, done_then;
};

static struct virtio_dev *vd(struct rig *r)
{
	return virtio_of(r->t.dev);
}

static void listener(void *opaque, struct gpa addr, size_t len)
{
	struct rig *r = opaque;

	if (addr.v >= VT_DATA) {
		uint16_t done;

		assert_int_equal(gmem_read(r->t.b.mem, gpa(VT_RING(1) + 0x802), &done, 2), 0);
		r->dirty_page = (unsigned)(addr.v >> 12);
		r->done_then = done;
	}
}

static void rig_init_with(struct rig *r, enum vuser_kind kind, uint64_t features, unsigned queues)
{
	struct vuser_config cfg = {.place = vt_init(&r->t),
				   .kind = kind,
				   .clock = r->t.b.clock,
				   .queues = queues,
				   .tag = "lab"};

	r->fake = fake_new(features, 8);
	store_le64(r->fake->config, CFG_SECTORS);
	store_le16(r->fake->config + 34, 4);
	cfg.vhost = &r->fake->v;
	r->dirty_page = 0;
	assert_int_equal(vuser_new(&r->t.dev, &cfg, NULL), 0);
	gmem_set_listener(r->t.b.mem, listener, r);
	vt_power_on(&r->t);
}

static void rig_init(struct rig *r)
{
	rig_init_with(r, VUSER_BLK, F_FLUSH | F_WCE | F_MQ | F_STRANGE | VIRTIO_F_INDIRECT_DESC, 2);
}

static void rig_fini(struct rig *r)
{
	vt_fini(&r->t);
	vhost_free(&r->fake->v);
}

/* The driver is ready, and so is the back end. */
static void rig_start(struct rig *r)
{
	unsigned before = r->fake->starts;

	vt_start(&r->t, F_FLUSH & vd(r)->offered, vd(r)->queues);
	until(r->fake->starts == before + 1);
	until(fake_kicked(r->fake, vd(r)->queues - 1));
}

/* Two descriptors from `d` on: 16 bytes out, 512 in, at VT_DATA + 0x1000 * d. */
static void request(struct rig *r, unsigned q, unsigned d)
{
	uint64_t at = VT_DATA + 0x1000 * d;

	assert_int_equal(gmem_write(r->t.b.mem, gpa(at), "request number 1", 16), 0);
	vt_desc(&r->t, q, d, at, 16, 1, (uint16_t)(d + 1));
	vt_desc(&r->t, q, d + 1, at + 0x800, 512, 2, 0);
	vt_offer(&r->t, q, (uint16_t)d);
	vt_notify(&r->t, q);
}

/* The back end finds a request, and does what a disk would: `byte` into its buffer. */
static int serve(struct rig *r, unsigned q, uint8_t byte)
{
	unsigned flags;
	uint8_t *at;
	int head = fake_take(r->fake, q);

	assert_true(head >= 0);
	assert_int_equal(fake_piece(r->fake, q, (unsigned)head, 0, &at, &flags), 16);
	assert_int_equal(flags, 1);
	assert_memory_equal(at, "request number 1", 16);
	assert_int_equal(fake_piece(r->fake, q, (unsigned)head, 1, &at, &flags), 512);
	assert_int_equal(flags, 2);
	memset(at, byte, 512);
	return head;
}

static void is_there_with_the_configuration_of_its_back_end(void **state)
{
	struct rig r;

	rig_init(&r);
	assert_int_equal(vt_in(&r.t, 20, 1), 0);
	assert_int_equal(vt_in(&r.t, 18, 2), 2);
	assert_int_equal(vt_in(&r.t, 0x2000, 4), CFG_SECTORS);
	assert_int_equal(vt_in(&r.t, 0x2000 + 34, 2), 2); /* as many as were asked for */
	assert_true(vt_offered(&r.t) & F_FLUSH);
	assert_true(vt_offered(&r.t) & VIRTIO_F_RING_PACKED); /* that is between driver and us */
	assert_false(vt_offered(&r.t) & (F_STRANGE | VIRTIO_F_RING_RESET));
	rig_fini(&r);
	rig_init_with(&r, VUSER_FS, F_STRANGE, 1);
	assert_int_equal(vt_in(&r.t, 0x2000, 4), 0x62616c); /* "lab" */
	assert_int_equal(vt_in(&r.t, 0x2000 + 36, 4), 1);
	assert_int_equal(vt_in(&r.t, 18, 2), 2);
	assert_false(vt_offered(&r.t) & (F_STRANGE | VIRTIO_F_INDIRECT_DESC));
	rig_fini(&r);
}

static void every_register_takes_every_width(void **state)
{
	struct rig r;

	rig_init(&r);
	bench_sweep(r.t.b.memory, VT_BAR, 0x40);
	bench_sweep(r.t.b.memory, VT_BAR + 0x1000, 4);
	bench_sweep(r.t.b.memory, VT_BAR + 0x2000, 64);
	rig_fini(&r);
}

static void more_queues_than_the_back_end_has_are_refused(void **state)
{
	struct vt t;
	struct vuser_config cfg = {.place = vt_init(&t), .kind = VUSER_BLK, .clock = t.b.clock};
	struct fake_vhost *f = fake_new(F_MQ, 8);
	struct error err;

	store_le16(f->config + 34, 4);
	cfg.vhost = &f->v;
	cfg.queues = 5;
	assert_int_equal(vuser_new(&t.dev, &cfg, &err), -EINVAL);
	assert_non_null(strstr(err.text, "has 4 request queues, not 5"));
	cfg.queues = 9;
	assert_int_equal(vuser_new(&t.dev, &cfg, &err), -EINVAL);
	f->v.features = F_MQ;
	assert_int_equal(vuser_new(&t.dev, &cfg, &err), -EINVAL);
	assert_non_null(strstr(err.text, "virtio 1"));
	vhost_free(&f->v);
	device_free(t.bus);
	bench_fini(&t.b);
}

static void a_request_goes_out_and_its_answer_comes_back(void **state)
{
	struct rig r;
	uint32_t head, len;
	uint8_t byte;
	unsigned before;
	int there;

	rig_init(&r);
	rig_start(&r);
	assert_int_equal(r.fake->plan.features & F_FLUSH, F_FLUSH);
	assert_false(r.fake->plan.features & (F_WCE | VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX));
	request(&r, 1, 4);
	assert_true(fake_kicked(r.fake, 1));
	before = r.t.b.messages;
	r.dirty_page = 0;
	r.done_then = 99;
	there = serve(&r, 1, 0x5a);
	assert_false(vt_used(&r.t, 1, &head, &len));
	fake_answer(r.fake, 1, (uint32_t)there, 512);
	fake_call(r.fake, 1);
	until(r.t.b.messages == before + 1);
	assert_int_equal(r.t.b.msi_data, 0x42);
	/* Who caches code heard of it before the driver. */
	assert_int_equal(r.dirty_page, VT_DATA / 0x1000 + 4);
	assert_int_equal(r.done_then, 0);
	assert_true(vt_used(&r.t, 1, &head, &len));
	assert_int_equal(head, 4);
	assert_int_equal(len, 512);
	assert_int_equal(gmem_read(r.t.b.mem, gpa(VT_DATA + 0x4800 + 511), &byte, 1), 0);
	assert_int_equal(byte, 0x5a);
	rig_fini(&r);
}

static void a_back_end_without_tables_gets_chains_of_descriptors(void **state)
{
	struct rig r;
	uint32_t head, len;
	unsigned before;

	rig_init_with(&r, VUSER_BLK, F_FLUSH, 1);
	assert_false(vt_offered(&r.t) & VIRTIO_F_INDIRECT_DESC);
	rig_start(&r);
	for (unsigned round = 0; round < 300; round++) {
		for (unsigned i = 0; i < 8; i++)
			request(&r, 0, 2 * i);
		before = r.t.b.messages;
		int there[8];
		for (unsigned i = 0; i < 8; i++)
			there[i] = serve(&r, 0, 1);
		assert_int_equal(fake_take(r.fake, 0), -1);
		for (unsigned i = 0; i < 8; i++) /* in another order */
			fake_answer(r.fake, 0, (uint32_t)there[i ^ 5], 512);
		fake_call(r.fake, 0);
		until(r.t.b.messages != before);
		for (unsigned i = 0; i < 8; i++) {
			assert_true(vt_used(&r.t, 0, &head, &len));
			assert_int_equal(head, 2 * (i ^ 5));
		}
	}
	rig_fini(&r);
}

static void a_driver_cannot_point_the_back_end_outside_ram(void **state)
{
	struct rig r;

	rig_init(&r);
	rig_start(&r);
	vt_desc(&r.t, 0, 0, BENCH_RAM - 8, 16, 2, 0);
	vt_offer(&r.t, 0, 0);
	vt_notify(&r.t, 0);
	assert_true(vt_in(&r.t, 20, 1) & VIRTIO_NEEDS_RESET);
	assert_int_equal(fake_take(r.fake, 0), -1);
	until(r.fake->stops == 1);
	/* A reset, and all is well. */
	rig_start(&r);
	request(&r, 0, 0);
	serve(&r, 0, 1);
	rig_fini(&r);
}

static void false_answers_cost_the_back_end_its_place_and_nobody_a_request(void **state)
{
	static const uint32_t lies[] = {77, 0x10000, 0xffffffff};

	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		struct rig r;
		uint32_t head, len;

		rig_init(&r);
		rig_start(&r);
		request(&r, 0, 2);
		(void)serve(&r, 0, 1);
		fake_answer(r.fake, 0, lies[i], 512);
		fake_call(r.fake, 0);
		until(r.fake->connects == 2 && r.fake->starts == 2);
		assert_false(vt_used(&r.t, 0, &head, &len));
		int there = serve(&r, 0, 1);
		/* More answers than questions are no better. */
		fake_answer(r.fake, 0, (uint32_t)there, 512);
		fake_answer(r.fake, 0, (uint32_t)there, 512);
		fake_call(r.fake, 0);
		until(r.fake->starts == 3);
		there = serve(&r, 0, 1);
		/* A length beyond the buffer is cut. */
		unsigned before = r.t.b.messages;
		fake_answer(r.fake, 0, (uint32_t)there, 0xffffffff);
		fake_call(r.fake, 0);
		until(r.t.b.messages != before);
		assert_true(vt_used(&r.t, 0, &head, &len));
		assert_int_equal(len, 512);
		assert_false(vt_used(&r.t, 0, &head, &len));
		rig_fini(&r);
	}
}

static void a_reset_lasts_until_the_back_end_is_at_rest(void **state)
{
	struct rig r;
	uint32_t head, len;

	rig_init(&r);
	rig_start(&r);
	request(&r, 0, 0);
	vt_status(&r.t, 0);
	until(vt_in(&r.t, 20, 1) == 0);
	assert_int_equal(r.fake->stops, 1);
	assert_int_equal(virtio_in_flight(vd(&r)), 0);
	rig_start(&r);
	assert_int_equal(fake_take(r.fake, 0), -1);
	assert_false(vt_used(&r.t, 0, &head, &len));
	request(&r, 0, 0);
	serve(&r, 0, 1);
	rig_fini(&r);
}

static void a_back_end_in_the_place_of_another_gets_what_that_had(void **state)
{
	struct rig r;
	uint32_t head, len;
	unsigned before;

	rig_init(&r);
	rig_start(&r);
	request(&r, 0, 0);
	request(&r, 0, 2);
	request(&r, 0, 4);
	int first = serve(&r, 0, 1), second = serve(&r, 0, 2);
	before = r.t.b.messages;
	fake_answer(r.fake, 0, (uint32_t)second, 512);
	/* It dies before it calls; what it has done counts. */
	fake_event(r.fake, VHOST_LOST);
	until(r.fake->starts == 2);
	until(r.t.b.messages == before + 1);
	assert_true(vt_used(&r.t, 0, &head, &len));
	assert_int_equal(head, 2);
	first = serve(&r, 0, 1);
	int third = serve(&r, 0, 3);
	assert_int_equal(fake_take(r.fake, 0), -1);
	before = r.t.b.messages;
	fake_answer(r.fake, 0, (uint32_t)first, 512);
	fake_answer(r.fake, 0, (uint32_t)third, 512);
	fake_call(r.fake, 0);
	until(r.t.b.messages != before);
	assert_true(vt_used(&r.t, 0, &head, &len));
	assert_int_equal(head, 0);
	assert_true(vt_used(&r.t, 0, &head, &len));
	assert_int_equal(head, 4);
	rig_fini(&r);
}

static void a_lesser_back_end_does_not_take_the_place(void **state)
{
	struct rig r;

	rig_init(&r);
	rig_start(&r);
	r.fake->offers &= ~F_FLUSH;
	fake_event(r.fake, VHOST_LOST);
	until(r.fake->connects >= 2);
	r.fake->offers |= F_FLUSH;
	until(r.fake->starts == 2);
	assert_true(r.fake->connects >= 3);
	rig_fini(&r);
}

static void the_driver_is_told_of_a_new_configuration(void **state)
{
	struct rig r;
	unsigned before;

	rig_init(&r);
	rig_start(&r);
	before = r.t.b.messages;
	store_le64(r.fake->config, 2 * CFG_SECTORS);
	fake_event(r.fake, VHOST_CONFIG);
	until(r.t.b.messages == before + 1);
	assert_int_equal(r.t.b.msi_data, 0x40);
	assert_int_equal(vt_in(&r.t, 0x2000, 4), 2 * CFG_SECTORS);
	assert_int_equal(vt_in(&r.t, 0x2000 + 34, 2), 2);
	rig_fini(&r);
}

static void what_the_driver_writes_reaches_the_back_end(void **state)
{
	struct rig r;

	rig_init(&r);
	rig_start(&r);
	vt_out(&r.t, 0x2000 + 32, 1, 1);
	until(r.fake->writes == 1);
	assert_int_equal(r.fake->written, 1);
	vt_out(&r.t, 0x2000, 1, 1); /* not to be written */
	assert_int_equal(vt_in(&r.t, 0x2000, 4), CFG_SECTORS);
	rig_fini(&r);
}

/* Else what the guest wrote through may be in the cache of one that did not hear of it. */
static void every_back_end_hears_of_the_cache_before_it_has_work(void **state)
{
	struct rig r, twin;
	uint8_t page[4096];
	unsigned before;

	rig_init(&r);
	vt_start(&r.t, F_FLUSH | F_WCE, 2);
	until(r.fake->starts == 1);
	until(fake_kicked(r.fake, 1));
	before = r.fake->writes;
	vt_out(&r.t, 0x2000 + 32, 1, 0);
	until(r.fake->writes == before + 1);
	assert_int_equal(r.fake->written, 0);
	request(&r, 0, 0);
	/* The other one caches by itself, and is larger. */
	r.fake->written = 0xee;
	r.fake->config[32] = 1;
	store_le64(r.fake->config, 2 * CFG_SECTORS);
	fake_event(r.fake, VHOST_LOST);
	until(r.fake->starts == 2);
	until(fake_kicked(r.fake, 1));
	assert_int_equal(r.fake->writes, before + 2);
	assert_int_equal(r.fake->written, 0);
	assert_false(r.fake->rung);
	assert_int_equal(vt_in(&r.t, 0x2000, 4), 2 * CFG_SECTORS);
	assert_int_equal(vt_in(&r.t, 0x2000 + 32, 1), 0);
	(void)serve(&r, 0, 1);
	/* And that of a machine that is restored. */
	rig_init(&twin);
	store_le64(twin.fake->config, 2 * CFG_SECTORS);
	fake_event(twin.fake, VHOST_CONFIG);
	until(vt_in(&twin.t, 0x2000, 4) == 2 * CFG_SECTORS);
	device_quiesce(r.t.dev);
	for (uint64_t at = VT_RING(0); at < VT_RING(2); at += 4096) {
		assert_int_equal(gmem_read(r.t.b.mem, gpa(at), page, 4096), 0);
		assert_int_equal(gmem_write(twin.t.b.mem, gpa(at), page, 4096), 0);
	}
	device_quiesce(twin.t.dev);
	bench_round_trip(r.t.dev, twin.t.dev);
	twin.fake->written = 0xee;
	clock_advance(twin.t.b.clock, 1);
	until(twin.fake->starts == 1);
	until(fake_kicked(twin.fake, 1));
	assert_int_equal(twin.fake->writes, 1);
	assert_int_equal(twin.fake->written, 0);
	/* A driver that has not negotiated it has no say. */
	clock_advance(r.t.b.clock, 1);
	until(r.fake->starts == 3);
	until(fake_kicked(r.fake, 1));
	before = r.fake->writes;
	vt_status(&r.t, 0);
	until(vt_in(&r.t, 20, 1) == 0);
	rig_start(&r);
	assert_int_equal(r.fake->writes, before);
	rig_fini(&r);
	rig_fini(&twin);
}

static void a_save_takes_back_what_is_not_done_and_offers_it_again(void **state)
{
	struct rig r;

	rig_init(&r);
	rig_start(&r);
	request(&r, 0, 0);
	request(&r, 0, 2);
	device_quiesce(r.t.dev);
	assert_int_equal(virtio_in_flight(vd(&r)), 0);
	assert_int_equal(r.fake->stops, 1);
	assert_int_equal(vd(&r)->vq[0].last_avail, 0);
	request(&r, 0, 4); /* nobody looks while it rests */
	assert_int_equal(r.fake->starts, 1);
	clock_advance(r.t.b.clock, 1);
	until(r.fake->starts == 2);
	until(fake_kicked(r.fake, 1));
	for (unsigned i = 0; i < 3; i++)
		(void)serve(&r, 0, 1);
	assert_int_equal(fake_take(r.fake, 0), -1);
	rig_fini(&r);
}

static void a_save_without_a_back_end_breaks_what_cannot_be_taken_back(void **state)
{
	struct rig r;
	unsigned before;

	rig_init(&r);
	rig_start(&r);
	request(&r, 0, 0);
	request(&r, 0, 2);
	(void)serve(&r, 0, 1);
	before = r.t.b.messages;
	fake_answer(r.fake, 0, (uint32_t)serve(&r, 0, 1), 512);
	fake_call(r.fake, 0);
	until(r.t.b.messages != before);
	device_quiesce(r.t.dev);
	assert_int_equal(virtio_in_flight(vd(&r)), 0);
	assert_true(vt_in(&r.t, 20, 1) & VIRTIO_NEEDS_RESET);
	rig_fini(&r);
}

/* What was answered here and not there counts as well: the ring's last one is not the one that is
 * to be taken back. */
static void a_save_cannot_take_back_what_is_behind_an_empty_request(void **state)
{
	struct rig r;
	uint32_t head, len;

	rig_init(&r);
	rig_start(&r);
	request(&r, 0, 0);
	vt_desc(&r.t, 0, 2, VT_DATA, 0, 0, 0);
	vt_offer(&r.t, 0, 2);
	vt_notify(&r.t, 0);
	assert_true(vt_used(&r.t, 0, &head, &len));
	assert_int_equal(head, 2);
	assert_int_equal(virtio_in_flight(vd(&r)), 1);
	device_quiesce(r.t.dev);
	assert_int_equal(virtio_in_flight(vd(&r)), 0);
	assert_true(vt_in(&r.t, 20, 1) & VIRTIO_NEEDS_RESET);
	/* In front of all it is no matter. */
	clock_advance(r.t.b.clock, 1);
	rig_start(&r);
	vt_desc(&r.t, 0, 2, VT_DATA, 0, 0, 0);
	vt_offer(&r.t, 0, 2);
	request(&r, 0, 0);
	assert_true(vt_used(&r.t, 0, &head, &len));
	device_quiesce(r.t.dev);
	assert_int_equal(vt_in(&r.t, 20, 1), 15);
	assert_int_equal(vd(&r)->vq[0].last_avail, 1);
	rig_fini(&r);
}

static void state_survives_a_round_trip_and_corruption_changes_nothing(void **state)
{
	struct rig a, b;
	uint8_t page[4096];

	rig_init(&a);
	rig_init(&b);
	rig_start(&a);
	request(&a, 0, 0);
	device_quiesce(a.t.dev);
	for (uint64_t at = VT_RING(0); at < VT_RING(2); at += 4096) {
		assert_int_equal(gmem_read(a.t.b.mem, gpa(at), page, 4096), 0);
		assert_int_equal(gmem_write(b.t.b.mem, gpa(at), page, 4096), 0);
	}
	assert_int_equal(gmem_write(b.t.b.mem, gpa(VT_DATA), "request number 1", 16), 0);
	device_quiesce(b.t.dev);
	bench_round_trip(a.t.dev, b.t.dev);
	bench_corrupt(a.t.dev);
	bench_refuses(a.t.dev, struct virtio_dev, status, 4);
	bench_refuses(a.t.dev, struct virtio_dev, saved.desc[0], 8);
	bench_refuses(a.t.dev, struct virtio_dev, config[0], 1);
	bench_refuses(a.t.dev, struct virtio_dev, config[32], 2);
	/* The twin goes on where the first one was. */
	clock_advance(b.t.b.clock, 1);
	until(b.fake->starts == 1);
	until(fake_kicked(b.fake, 1));
	(void)serve(&b, 0, 1);
	rig_fini(&a);
	rig_fini(&b);
}

/* ---- file systems ---- */

/* A FUSE request: 40 bytes out with this opcode, 16 in. */
static void fuse_request(struct rig *r, unsigned d, uint32_t opcode)
{
	uint64_t at = VT_DATA + 0x1000 * d;
	uint8_t in[40] = {0}, out[16] = {0};

	store_le32(in, sizeof(in));
	store_le32(in + 4, opcode);
	store_le64(in + 8, 0x1122334455667788 + d);
	assert_int_equal(gmem_write(r->t.b.mem, gpa(at), in, sizeof(in)), 0);
	assert_int_equal(gmem_write(r->t.b.mem, gpa(at + 0x800), out, sizeof(out)), 0);
	vt_desc(&r->t, 1, d, at, sizeof(in), 1, (uint16_t)(d + 1));
	vt_desc(&r->t, 1, d + 1, at + 0x800, sizeof(out), 2, 0);
	vt_offer(&r->t, 1, (uint16_t)d);
	vt_notify(&r->t, 1);
}

static void expect_not_connected(struct rig *r, unsigned d)
{
	uint8_t out[16];
	uint32_t head, len;

	assert_true(vt_used(&r->t, 1, &head, &len));
	assert_int_equal(head, d);
	assert_int_equal(len, 16);
	assert_int_equal(gmem_read(r->t.b.mem, gpa(VT_DATA + 0x1000 * d + 0x800), out, 16), 0);
	assert_int_equal(load_le32(out), 16);
	assert_int_equal((int32_t)load_le32(out + 4), -107);
	assert_int_equal(load_le64(out + 8), 0x1122334455667788 + d);
}

static void a_lost_file_system_ends_its_requests_until_it_is_mounted_anew(void **state)
{
	struct rig r;
	unsigned before;
	uint32_t head, len;

	rig_init_with(&r, VUSER_FS, VIRTIO_F_INDIRECT_DESC, 1);
	rig_start(&r);
	fuse_request(&r, 0, 26);
	fuse_request(&r, 2, 3);
	before = r.t.b.messages;
	fake_answer(r.fake, 1, (uint32_t)fake_take(r.fake, 1), 16);
	fake_call(r.fake, 1);
	until(r.t.b.messages == before + 1);
	assert_true(vt_used(&r.t, 1, &head, &len));
	/* What was asked is answered, and what is asked while nobody is there. */
	r.fake->refuse = -ENOENT;
	before = r.t.b.messages;
	fake_event(r.fake, VHOST_LOST);
	until(r.t.b.messages != before);
	expect_not_connected(&r, 2);
	fuse_request(&r, 4, 3);
	expect_not_connected(&r, 4);
	/* A mount waits. */
	fuse_request(&r, 6, 26);
	fuse_request(&r, 8, 3);
	assert_false(vt_used(&r.t, 1, &head, &len));
	(void)fake_kicked(r.fake, 1); /* what came before does not count */
	r.fake->refuse = 0;
	until(r.fake->starts == 2);
	until(fake_kicked(r.fake, 1));
	assert_int_equal(virtio_in_flight(vd(&r)), 2);
	assert_true(fake_take(r.fake, 1) >= 0);
	assert_true(fake_take(r.fake, 1) >= 0);
	rig_fini(&r);
}

/* As many as fit a ring while nobody is there: none is forgotten, and the next one is noticed. */
static void a_full_ring_of_a_lost_file_system_is_answered_whole(void **state)
{
	const unsigned n = 256;
	struct rig r;
	unsigned done = 0, before;
	uint32_t head, len;

	rig_init_with(&r, VUSER_FS, VIRTIO_F_INDIRECT_DESC, 1);
	r.t.size[1] = n;
	r.t.ring[1] = 0x20000;
	before = r.fake->starts;
	vt_start(&r.t, VIRTIO_F_EVENT_IDX, 2);
	until(r.fake->starts == before + 1);
	until(fake_kicked(r.fake, 1));
	r.fake->refuse = -ENOENT;
	fuse_request(&r, 4, 3);
	fake_event(r.fake, VHOST_LOST);
	until(vt_used(&r.t, 1, &head, &len)); /* it is lost */
	for (unsigned i = 0; i < n; i++)
		vt_offer(&r.t, 1, 4);
	vt_notify(&r.t, 1);
	while (vt_used(&r.t, 1, &head, &len))
		done++;
	assert_int_equal(done, n);
	assert_int_equal(vt_avail_event(&r.t, 1), n + 1);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(is_there_with_the_configuration_of_its_back_end),
	    cmocka_unit_test(every_register_takes_every_width),
	    cmocka_unit_test(more_queues_than_the_back_end_has_are_refused),
	    cmocka_unit_test(a_request_goes_out_and_its_answer_comes_back),
	    cmocka_unit_test(a_back_end_without_tables_gets_chains_of_descriptors),
	    cmocka_unit_test(a_driver_cannot_point_the_back_end_outside_ram),
	    cmocka_unit_test(false_answers_cost_the_back_end_its_place_and_nobody_a_request),
	    cmocka_unit_test(a_reset_lasts_until_the_back_end_is_at_rest),
	    cmocka_unit_test(a_back_end_in_the_place_of_another_gets_what_that_had),
	    cmocka_unit_test(a_lesser_back_end_does_not_take_the_place),
	    cmocka_unit_test(the_driver_is_told_of_a_new_configuration),
	    cmocka_unit_test(what_the_driver_writes_reaches_the_back_end),
	    cmocka_unit_test(every_back_end_hears_of_the_cache_before_it_has_work),
	    cmocka_unit_test(a_save_takes_back_what_is_not_done_and_offers_it_again),
	    cmocka_unit_test(a_save_without_a_back_end_breaks_what_cannot_be_taken_back),
	    cmocka_unit_test(a_save_cannot_take_back_what_is_behind_an_empty_request),
	    cmocka_unit_test(state_survives_a_round_trip_and_corruption_changes_nothing),
	    cmocka_unit_test(a_lost_file_system_ends_its_requests_until_it_is_mounted_anew),
	    cmocka_unit_test(a_full_ring_of_a_lost_file_system_is_answered_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
