/* balloon_test.c: the balloon over PCI, with a driver that counts the host's memory. */
#include "dev/virtio/balloon.h"

#include <errno.h>
#include <sys/stat.h>

#include "dev/virtio/testing.h"

#define NS_PER_S UINT64_C(1000000000)
#define F_ALL	 (UINT64_C(0x37))
#define F_STATS	 UINT64_C(2)
#define F_POISON UINT64_C(0x10)
#define F_REPORT UINT64_C(0x20)
#define CFG(o)	 (0x2000 + (o))
#define MIB	 (UINT64_C(1) << 20)
#define BIG_RAM	 (UINT64_C(256) << 20)
#define PFNS	 VT_DATA /* what the tests' chains hold */

struct rig {
	struct vt t;
};

static void rig_init(struct rig *r, uint64_t target)
{
	struct balloon_config cfg = {.place = vt_init(&r->t),
				     .target_bytes = target,
				     .deflate_on_oom = 1,
				     .free_page_reports = 1,
				     .interval_s = 5};

	cfg.clock = r->t.b.clock;
	assert_int_equal(balloon_new(&r->t.dev, &cfg, NULL), 0);
	vt_power_on(&r->t);
}

/* With more RAM than a turn's work. */
static void rig_init_big(struct rig *r)
{
	const struct gmem_config ram = {.ram_bytes = BIG_RAM, .low_limit = UINT64_C(3) << 30};
	struct balloon_config cfg = {.place = vt_init(&r->t), .free_page_reports = 1};

	gmem_free(r->t.b.mem);
	assert_int_equal(gmem_new(&r->t.b.mem, &ram, NULL), 0);
	cfg.place.mem = r->t.b.mem;
	cfg.clock = r->t.b.clock;
	assert_int_equal(balloon_new(&r->t.dev, &cfg, NULL), 0);
	vt_power_on(&r->t);
}

static struct balloon_status status_of(struct rig *r)
{
	struct balloon_status s;

	balloon_get(r->t.dev, &s);
	return s;
}

static uint64_t allocated(struct rig *r)
{
	struct stat st;

	assert_int_equal(fstat(gmem_fd(r->t.b.mem), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static uint8_t byte_at(struct rig *r, uint64_t addr)
{
	uint8_t b = 0xee;

	assert_int_equal(gmem_read(r->t.b.mem, gpa(addr), &b, 1), 0);
	return b;
}

/* Gives page numbers in one buffer of queue q. */
static void give(struct rig *r, unsigned q, const uint32_t *pfn, unsigned count)
{
	assert_int_equal(gmem_write(r->t.b.mem, gpa(PFNS), pfn, 4 * count), 0);
	vt_desc(&r->t, q, 0, PFNS, 4 * count, 0, 0);
	vt_offer(&r->t, q, 0);
	vt_notify(&r->t, q);
}

static _Bool back(struct rig *r, unsigned q)
{
	uint32_t head, len;

	return vt_used(&r->t, q, &head, &len);
}

static void wants_what_the_operator_wants(void **state)
{
	struct rig r;

	rig_init(&r, 16 * 4096);
	assert_int_equal(vt_config_read(&r.t, 0, 4), 0x10451af4);
	assert_int_equal(vt_offered(&r.t), VIRTIO_CORE_FEATURES | F_ALL);
	assert_int_equal(vt_in(&r.t, 18, 2), 5);
	assert_int_equal(vt_in(&r.t, CFG(0), 4), 16);
	assert_int_equal(vt_in(&r.t, CFG(4), 4), 0);
	assert_int_equal(vt_in(&r.t, CFG(8), 4), 0);
	assert_int_equal(vt_in(&r.t, CFG(12), 4), 0);
	assert_false(status_of(&r).driver);
	assert_int_equal(status_of(&r).target_bytes, 16 * 4096);
	vt_fini(&r.t);
}

static void survives_every_offset_at_every_width(void **state)
{
	struct rig r;

	rig_init(&r, 0);
	bench_sweep(r.t.b.memory, VT_BAR, 0x40);
	bench_sweep(r.t.b.memory, VT_BAR + 0x2000, 0x18);
	bench_sweep(r.t.b.memory, VT_BAR + 0x3000, 0x20);
	/* The driver says what it has given and its poison; the rest is not its to write. */
	vt_out(&r.t, CFG(0), 4, 7);
	vt_out(&r.t, CFG(8), 4, 7);
	assert_int_equal(vt_in(&r.t, CFG(0), 4), 0);
	assert_int_equal(vt_in(&r.t, CFG(8), 4), 0);
	vt_fini(&r.t);
}

static void tells_the_driver_of_a_new_target(void **state)
{
	struct rig r;
	uint8_t before;

	rig_init(&r, 0);
	vt_start(&r.t, F_ALL, 5);
	assert_true(status_of(&r).driver);
	before = (uint8_t)vt_in(&r.t, 21, 1);
	assert_int_equal(balloon_set(r.t.dev, 100 * 4096 + 5), 0);
	assert_int_equal(r.t.b.messages, 1);
	assert_int_equal(r.t.b.msi_data, 0x40);
	assert_int_equal(vt_in(&r.t, CFG(0), 4), 100);
	assert_int_not_equal(vt_in(&r.t, 21, 1), before);
	assert_int_equal(balloon_set(r.t.dev, BENCH_RAM + 4096), -EINVAL);
	assert_int_equal(vt_in(&r.t, CFG(0), 4), 100);
	vt_out(&r.t, CFG(4), 4, 90);
	assert_int_equal(status_of(&r).actual_bytes, 90 * 4096);
	vt_out(&r.t, CFG(4), 4, UINT32_MAX); /* as if */
	assert_int_equal(status_of(&r).actual_bytes, BENCH_RAM);
	/* A reset empties the balloon, and the wish stays. */
	vt_status(&r.t, 0);
	assert_int_equal(status_of(&r).actual_bytes, 0);
	assert_int_equal(status_of(&r).target_bytes, 100 * 4096);
	device_reset(r.t.dev, RESET_POWER);
	assert_int_equal(status_of(&r).target_bytes, 0);
	vt_fini(&r.t);
}

static void pages_in_the_balloon_are_the_hosts(void **state)
{
	static const uint32_t up[] = {0xa0, 0xa1, 0xa2, 0xb0}, down[] = {0xc2, 0xc1, 0xc0};
	struct rig r;
	uint64_t before;

	rig_init(&r, 0);
	vt_start(&r.t, F_ALL, 5);
	assert_int_equal(gmem_fill(r.t.b.mem, gpa(PFNS), 0x77, 0x70000), 0);
	before = allocated(&r);
	give(&r, 0, up, 4);
	assert_true(back(&r, 0));
	assert_int_equal(r.t.b.msi_data, 0x41);
	assert_int_equal(before - allocated(&r), 4 * 4096);
	give(&r, 0, down, 3);
	assert_int_equal(before - allocated(&r), 7 * 4096);
	for (uint64_t pfn = 0x90; pfn < 0xf0; pfn++) {
		_Bool gone =
		    (pfn >= 0xa0 && pfn <= 0xa2) || pfn == 0xb0 || (pfn >= 0xc0 && pfn <= 0xc2);
		assert_int_equal(byte_at(&r, pfn << 12), gone ? 0 : 0x77);
		assert_int_equal(byte_at(&r, (pfn << 12) + 4095), gone ? 0 : 0x77);
	}
	assert_int_equal(status_of(&r).inflated_bytes, 7 * 4096);
	/* And back: nothing to do but to say so. */
	give(&r, 1, up, 4);
	assert_true(back(&r, 1));
	assert_int_equal(virtio_in_flight(virtio_of(r.t.dev)), 0);
	vt_fini(&r.t);
}

static void pages_that_are_not_ram_are_passed_over(void **state)
{
	static const uint32_t bad[] = {0xffffffff, 0xc0000, BENCH_RAM >> 12, 0xa0, 0x80000000};
	struct rig r;

	rig_init(&r, 0);
	vt_start(&r.t, F_ALL, 5);
	assert_int_equal(gmem_fill(r.t.b.mem, gpa(0xa0000), 0x77, 0x1000), 0);
	give(&r, 0, bad, 5);
	assert_true(back(&r, 0));
	assert_int_equal(byte_at(&r, 0xa0000), 0);
	assert_int_equal(status_of(&r).inflated_bytes, 4096);
	/* A part of a number, no number, a writable buffer: nothing to inflate. */
	vt_desc(&r.t, 0, 0, PFNS, 3, 0, 0);
	vt_offer(&r.t, 0, 0);
	vt_desc(&r.t, 0, 1, PFNS, 4, 2, 0);
	vt_offer(&r.t, 0, 1);
	vt_notify(&r.t, 0);
	assert_true(back(&r, 0));
	assert_true(back(&r, 0));
	assert_int_equal(status_of(&r).inflated_bytes, 4096);
	assert_int_equal(vt_in(&r.t, 20, 1), 15);
	vt_desc(&r.t, 0, 0, PFNS, 4, 1, 0); /* a loop */
	vt_offer(&r.t, 0, 0);
	vt_notify(&r.t, 0);
	assert_true(vt_in(&r.t, 20, 1) & VIRTIO_NEEDS_RESET);
	vt_fini(&r.t);
}

/* A guest may give away the ring itself: zeroes then, an empty ring. */
static void the_ring_itself_may_go(void **state)
{
	static const uint32_t ring[] = {VT_RING(0) >> 12, PFNS >> 12};
	struct rig r;

	rig_init(&r, 0);
	vt_start(&r.t, F_ALL, 5);
	give(&r, 0, ring, 2);
	vt_notify(&r.t, 0);
	vt_start(&r.t, F_ALL, 5);
	assert_int_equal(virtio_in_flight(virtio_of(r.t.dev)), 0);
	vt_fini(&r.t);
}

static void free_pages_are_reported_in_either_place(void **state)
{
	/* Without statistics an old driver numbers its queues 0, 1, 2; with them 3; by the
	 * specification it is 4. */
	static const struct {
		uint64_t features;
		unsigned q;
	} ways[] = {{F_REPORT, 2}, {F_REPORT | F_STATS, 3}, {F_REPORT | F_STATS, 4}};

	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		struct rig r;
		uint64_t before;

		rig_init(&r, 0);
		vt_start(&r.t, ways[i].features, 5);
		assert_int_equal(gmem_fill(r.t.b.mem, gpa(0x90000), 0x77, 0x60000), 0);
		before = allocated(&r);
		/* Half pages at the ends stay. */
		vt_desc(&r.t, ways[i].q, 0, 0x90000, 0x8000, 3, 1);
		vt_desc(&r.t, ways[i].q, 1, 0xa0800, 0x3000, 2, 0);
		vt_offer(&r.t, ways[i].q, 0);
		vt_notify(&r.t, ways[i].q);
		assert_true(back(&r, ways[i].q));
		assert_int_equal(before - allocated(&r), 0xa000);
		assert_int_equal(status_of(&r).reported_bytes, 0xa000);
		assert_int_equal(byte_at(&r, 0xa0fff), 0x77);
		assert_int_equal(byte_at(&r, 0xa1000), 0);
		assert_int_equal(byte_at(&r, 0xa2fff), 0);
		assert_int_equal(byte_at(&r, 0xa3000), 0x77);
		vt_fini(&r.t);
	}
}

static void poisoned_pages_stay_as_they_are(void **state)
{
	struct rig r;

	rig_init(&r, 0);
	vt_start(&r.t, F_REPORT | F_POISON, 5);
	vt_out(&r.t, CFG(12), 4, 0xaaaaaaaa);
	assert_int_equal(gmem_fill(r.t.b.mem, gpa(0x90000), 0xaa, 0x1000), 0);
	for (unsigned i = 0; i < 2; i++) {
		vt_desc(&r.t, 4, 0, 0x90000, 0x1000, 2, 0);
		vt_offer(&r.t, 4, 0);
		vt_notify(&r.t, 4);
		assert_true(back(&r, 4));
		assert_int_equal(byte_at(&r, 0x90000), i ? 0 : 0xaa);
		vt_out(&r.t, CFG(12), 4, 0); /* zeroes are what a new page has */
	}
	vt_fini(&r.t);
}

static void queues_that_were_not_negotiated_rest(void **state)
{
	struct rig r;

	rig_init(&r, 0);
	vt_start(&r.t, 0, 5);
	for (unsigned q = 2; q < 5; q++) {
		vt_desc(&r.t, q, 0, 0x90000, 0x1000, 2, 0);
		vt_offer(&r.t, q, 0);
		vt_notify(&r.t, q);
		assert_false(back(&r, q));
	}
	assert_int_equal(status_of(&r).reported_bytes, 0);
	vt_fini(&r.t);
}

/* The driver's statistics buffer with one entry. */
static void tell(struct rig *r, uint16_t tag, uint64_t value)
{
	uint8_t entry[10];

	store_le16(entry, tag);
	store_le64(entry + 2, value);
	assert_int_equal(gmem_write(r->t.b.mem, gpa(PFNS), entry, 10), 0);
	vt_desc(&r->t, 2, 0, PFNS, 10, 0, 0);
	vt_offer(&r->t, 2, 0);
	vt_notify(&r->t, 2);
}

static void statistics_are_asked_for_at_intervals(void **state)
{
	struct rig r;

	rig_init(&r, 0);
	vt_start(&r.t, F_ALL, 5);
	assert_int_equal(status_of(&r).stats_known, 0);
	tell(&r, BALLOON_FREE, 1234);
	assert_false(back(&r, 2)); /* kept until fresh ones are wanted */
	assert_int_equal(status_of(&r).stats_known, BIT32(BALLOON_FREE));
	assert_int_equal(status_of(&r).stat[BALLOON_FREE], 1234);
	clock_advance(r.t.b.clock, 4 * NS_PER_S);
	assert_false(back(&r, 2));
	assert_int_equal(status_of(&r).stats_age_ns, 4 * NS_PER_S);
	clock_advance(r.t.b.clock, NS_PER_S);
	assert_true(back(&r, 2));
	assert_int_equal(r.t.b.msi_data, 0x43);
	clock_advance(r.t.b.clock, 60 * NS_PER_S); /* a slow driver is not asked twice */
	assert_false(back(&r, 2));
	tell(&r, BALLOON_TOTAL, 77);
	assert_int_equal(status_of(&r).stat[BALLOON_TOTAL], 77);
	assert_int_equal(status_of(&r).stat[BALLOON_FREE], 1234);
	/* Not at all, but for this once. */
	balloon_poll(r.t.dev, 0);
	assert_true(back(&r, 2));
	tell(&r, BALLOON_STATS, 5); /* an unknown kind */
	tell(&r, 0xffff, 5);
	clock_advance(r.t.b.clock, 60 * NS_PER_S);
	assert_false(back(&r, 2));
	assert_int_equal(status_of(&r).stats_known, BIT32(BALLOON_FREE) | BIT32(BALLOON_TOTAL));
	vt_fini(&r.t);
}

static void much_work_is_done_in_turns(void **state)
{
	const uint64_t from = 16 * MIB, bytes = 160 * MIB;
	struct rig r;
	unsigned turns = 0;
	uint64_t inflated;

	rig_init_big(&r);
	vt_start(&r.t, F_REPORT, 5);
	assert_int_equal(gmem_fill(r.t.b.mem, gpa(from), 0x77, bytes), 0);
	vt_desc(&r.t, 4, 0, from, (uint32_t)bytes, 2, 0);
	vt_offer(&r.t, 4, 0);
	vt_notify(&r.t, 4);
	assert_false(back(&r, 4));
	assert_int_equal(virtio_in_flight(virtio_of(r.t.dev)), 0);
	assert_in_range(status_of(&r).reported_bytes, 64 * MIB, 128 * MIB);
	for (; !back(&r, 4); turns++)
		clock_advance(r.t.b.clock, 1);
	assert_in_range(turns, 1, 4);
	assert_int_equal(status_of(&r).reported_bytes, bytes);
	assert_true(allocated(&r) < MIB);

	/* The same for page numbers, each of its own. */
	for (uint32_t i = 0; i < 4096; i++) {
		uint8_t le[4];

		store_le32(le, (uint32_t)(from >> 12) + 2 * i);
		assert_int_equal(gmem_write(r.t.b.mem, gpa(PFNS + 4 * i), le, 4), 0);
	}
	vt_desc(&r.t, 0, 0, PFNS, 4 * 4096, 0, 0);
	vt_offer(&r.t, 0, 0);
	vt_notify(&r.t, 0);
	assert_false(back(&r, 0));
	for (turns = 0; !back(&r, 0); turns++)
		clock_advance(r.t.b.clock, 1);
	assert_in_range(turns, 1, 4);
	assert_int_equal(status_of(&r).inflated_bytes, 4096 * 4096);
	/* And for page numbers that follow each other, in a chain that names all RAM five times. */
	for (uint32_t i = 0; i < BIG_RAM >> 12; i++) {
		uint8_t le[4];

		store_le32(le, 0x1000 + i % 0xf000);
		assert_int_equal(gmem_write(r.t.b.mem, gpa(MIB + 4 * i), le, 4), 0);
	}
	for (uint16_t i = 0; i < 5; i++)
		vt_desc(&r.t, 0, i, MIB, BIG_RAM >> 10, i < 4, (uint16_t)(i + 1));
	inflated = status_of(&r).inflated_bytes;
	vt_offer(&r.t, 0, 0);
	vt_notify(&r.t, 0);
	assert_false(back(&r, 0));
	assert_in_range(status_of(&r).inflated_bytes, inflated + 64 * MIB, inflated + 128 * MIB);
	for (turns = 0; !back(&r, 0); turns++)
		clock_advance(r.t.b.clock, 1);
	assert_int_equal(status_of(&r).inflated_bytes, inflated + 5 * BIG_RAM);
	/* A reset in the middle ends it. */
	vt_desc(&r.t, 4, 0, from, (uint32_t)bytes, 2, 0);
	vt_offer(&r.t, 4, 0);
	vt_notify(&r.t, 4);
	vt_status(&r.t, 0);
	clock_advance(r.t.b.clock, NS_PER_S);
	assert_true(status_of(&r).reported_bytes < 2 * bytes);
	vt_fini(&r.t);
}

static void saved_in_the_middle_of_work_it_is_finished_after(void **state)
{
	const uint64_t from = 16 * MIB, bytes = 160 * MIB;
	struct wbuf w;
	struct rig r;

	rig_init_big(&r);
	vt_start(&r.t, F_REPORT, 5);
	assert_int_equal(balloon_set(r.t.dev, MIB), 0);
	assert_int_equal(gmem_fill(r.t.b.mem, gpa(from), 0x77, bytes), 0);
	vt_desc(&r.t, 4, 0, from, (uint32_t)bytes, 2, 0);
	vt_offer(&r.t, 4, 0);
	vt_notify(&r.t, 4);
	assert_false(back(&r, 4));
	bench_save(r.t.dev, &w);
	assert_int_equal(balloon_set(r.t.dev, 0), 0);
	vt_status(&r.t, 0);
	assert_int_equal(bench_load(r.t.dev, w.data, w.len), 0);
	clock_advance(r.t.b.clock, NS_PER_S);
	assert_true(back(&r, 4));
	assert_false(back(&r, 4));
	assert_true(allocated(&r) < MIB);
	assert_int_equal(status_of(&r).target_bytes, MIB);
	wbuf_fini(&w);
	vt_fini(&r.t);
}

static void state_makes_the_round_trip_and_corrupt_state_is_refused(void **state)
{
	struct rig a, b;
	struct virtio_dev *vd;
	struct wbuf w;

	rig_init(&a, 0);
	rig_init(&b, 0);
	vt_start(&a.t, F_ALL, 5);
	assert_int_equal(balloon_set(a.t.dev, 50 * 4096), 0);
	vt_out(&a.t, CFG(4), 4, 40);
	bench_round_trip(a.t.dev, b.t.dev);
	assert_int_equal(status_of(&b).target_bytes, 50 * 4096);
	assert_int_equal(status_of(&b).actual_bytes, 40 * 4096);
	bench_corrupt(a.t.dev);
	vd = virtio_of(a.t.dev);
	for (unsigned at = 0; at <= 8; at += 8) { /* a target past RAM; a hint */
		vd->config[at + 3] = 0x7f;
		wbuf_init(&w, 1 << 20);
		state_save(a.t.dev->cls->state, 0, vd, &w);
		vd->config[at + 3] = 0;
		assert_int_equal(bench_load(a.t.dev, w.data, w.len), -EINVAL);
		wbuf_fini(&w);
	}
	assert_int_equal(status_of(&a).target_bytes, 50 * 4096);
	vt_fini(&a.t);
	vt_fini(&b.t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(wants_what_the_operator_wants),
	    cmocka_unit_test(survives_every_offset_at_every_width),
	    cmocka_unit_test(tells_the_driver_of_a_new_target),
	    cmocka_unit_test(pages_in_the_balloon_are_the_hosts),
	    cmocka_unit_test(pages_that_are_not_ram_are_passed_over),
	    cmocka_unit_test(the_ring_itself_may_go),
	    cmocka_unit_test(free_pages_are_reported_in_either_place),
	    cmocka_unit_test(poisoned_pages_stay_as_they_are),
	    cmocka_unit_test(queues_that_were_not_negotiated_rest),
	    cmocka_unit_test(statistics_are_asked_for_at_intervals),
	    cmocka_unit_test(much_work_is_done_in_turns),
	    cmocka_unit_test(saved_in_the_middle_of_work_it_is_finished_after),
	    cmocka_unit_test(state_makes_the_round_trip_and_corrupt_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
