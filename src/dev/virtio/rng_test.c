/* rng_test.c: the entropy device over PCI and MMIO, with a source that counts. */
#include "dev/virtio/rng.h"

#include <errno.h>

#include "dev/virtio/testing.h"

#define NS_PER_S UINT64_C(1000000000)

struct rig {
	struct vt t;
	uint64_t given;
	int fail; /* what the source answers, or 0 */
};

static int source(void *opaque, uint8_t *buf, size_t len)
{
	struct rig *r = opaque;

	if (r->fail)
		return r->fail;
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(0x40 | (r->given + i));
	r->given += len;
	return (int)len;
}

static void rig_init(struct rig *r, uint64_t rate)
{
	struct rng_config cfg = {.place = vt_init(&r->t), .rate = rate};

	r->given = 0;
	r->fail = 0;
	cfg.clock = r->t.b.clock;
	cfg.fill = source;
	cfg.opaque = r;
	assert_int_equal(rng_new(&r->t.dev, &cfg, NULL), 0);
	vt_power_on(&r->t);
}

static void offer(struct rig *r, unsigned i, uint32_t len)
{
	vt_desc(&r->t, 0, i, VT_DATA + 0x1000 * i, len, 2, 0);
	vt_offer(&r->t, 0, (uint16_t)i);
}

/* The length of the next buffer that came back, or -1. */
static int back(struct rig *r)
{
	uint32_t head, len;

	return vt_used(&r->t, 0, &head, &len) ? (int)len : -1;
}

static void is_an_entropy_device_with_nothing_set(void **state)
{
	struct rig r;

	rig_init(&r, 0);
	assert_int_equal(vt_config_read(&r.t, 0, 4), 0x10441af4);
	assert_int_equal(vt_offered(&r.t), VIRTIO_CORE_FEATURES);
	assert_int_equal(vt_in(&r.t, 18, 2), 1);
	assert_int_equal(vt_in(&r.t, 20, 1), 0);
	vt_fini(&r.t);
}

static void survives_every_offset_at_every_width(void **state)
{
	struct rig r;

	rig_init(&r, 0);
	bench_sweep(r.t.b.memory, VT_BAR, 0x40);
	bench_sweep(r.t.b.memory, VT_BAR + 0x2000, 0x10);
	bench_sweep(r.t.b.memory, VT_BAR + 0x3000, 0x10);
	vt_fini(&r.t);
}

static void fills_buffers_and_interrupts(void **state)
{
	uint8_t bytes[101];
	struct rig r;

	rig_init(&r, 0);
	vt_start(&r.t, 0, 1);
	offer(&r, 0, 100);
	offer(&r, 1, 5000);
	vt_notify(&r.t, 0);
	assert_int_equal(r.t.b.messages, 1);
	assert_int_equal(r.t.b.msi_data, 0x41);
	assert_int_equal(back(&r), 100);
	assert_int_equal(back(&r), 1024); /* fewer than asked for */
	assert_int_equal(back(&r), -1);
	assert_int_equal(gmem_read(r.t.b.mem, gpa(VT_DATA), bytes, 101), 0);
	assert_true(bytes[0] == 0x40 && bytes[99] == (0x40 | 99) && bytes[100] == 0);
	vt_fini(&r.t);
}

static void the_hosts_numbers_are_random(void **state)
{
	struct rng_config cfg;
	uint64_t words[4];
	struct rig r;

	cfg = (struct rng_config){.place = vt_init(&r.t)};
	cfg.clock = r.t.b.clock;
	assert_int_equal(rng_new(&r.t.dev, &cfg, NULL), 0);
	vt_power_on(&r.t);
	vt_start(&r.t, 0, 1);
	offer(&r, 0, sizeof(words));
	vt_notify(&r.t, 0);
	assert_int_equal(back(&r), sizeof(words));
	assert_int_equal(gmem_read(r.t.b.mem, gpa(VT_DATA), words, sizeof(words)), 0);
	for (unsigned i = 0; i < 4; i++)
		for (unsigned j = 0; j <= i; j++)
			assert_true(words[i] && (i == j || words[i] != words[j]));
	vt_fini(&r.t);
}

static void a_rate_is_kept(void **state)
{
	uint64_t got = 0;
	struct rig r;
	int n;

	rig_init(&r, 1000);
	vt_start(&r.t, 0, 1);
	for (unsigned i = 0; i < 3; i++)
		offer(&r, i, 600);
	vt_notify(&r.t, 0);
	assert_int_equal(back(&r), 600);
	assert_int_equal(back(&r), -1); /* 400 are left of a second's worth */
	vt_notify(&r.t, 0);		/* impatience does not help */
	assert_int_equal(back(&r), -1);
	clock_advance(r.t.b.clock, NS_PER_S / 10);
	assert_int_equal(back(&r), -1);
	clock_advance(r.t.b.clock, NS_PER_S / 10 + 10);
	assert_int_equal(back(&r), 600); /* whole buffers only */
	clock_advance(r.t.b.clock, NS_PER_S);
	assert_int_equal(back(&r), 600);
	/* However it is asked, the sum is right. */
	r.given = 0;
	for (unsigned ms = 0; ms < 10000; ms += 5) {
		offer(&r, 0, 64);
		vt_notify(&r.t, 0);
		clock_advance(r.t.b.clock, NS_PER_S / 200);
		while ((n = back(&r)) >= 0)
			got += (unsigned)n;
		r.t.avail[0] = r.t.used[0]; /* withdraws what was not answered */
		assert_int_equal(gmem_write(r.t.b.mem, gpa(VT_RING(0) + 0x402), &r.t.avail[0], 2),
				 0);
	}
	assert_int_equal(r.given, got);
	assert_in_range(got, 10000, 10500);
	vt_fini(&r.t);
}

static void tries_again_when_the_host_has_none(void **state)
{
	struct rig r;

	rig_init(&r, 0);
	vt_start(&r.t, 0, 1);
	r.fail = -EAGAIN;
	offer(&r, 0, 16);
	vt_notify(&r.t, 0);
	assert_int_equal(back(&r), -1);
	assert_int_equal(virtio_in_flight(virtio_of(r.t.dev)), 0);
	r.fail = 0;
	clock_advance(r.t.b.clock, NS_PER_S);
	assert_int_equal(back(&r), 16);
	/* Not after a reset. */
	r.fail = -EAGAIN;
	offer(&r, 0, 16);
	vt_notify(&r.t, 0);
	vt_status(&r.t, 0);
	r.fail = 0;
	clock_advance(r.t.b.clock, NS_PER_S);
	assert_int_equal(r.given, 16);
	vt_fini(&r.t);
}

static void refuses_what_is_malformed(void **state)
{
	struct rig r;

	rig_init(&r, 0);
	vt_start(&r.t, 0, 1);
	vt_desc(&r.t, 0, 0, VT_DATA, 64, 0, 0); /* readable: nothing to fill */
	vt_offer(&r.t, 0, 0);
	vt_desc(&r.t, 0, 1, BENCH_RAM, 64, 2, 0); /* outside RAM */
	vt_offer(&r.t, 0, 1);
	vt_notify(&r.t, 0);
	assert_int_equal(back(&r), 0);
	assert_int_equal(back(&r), -1);
	assert_int_equal(r.given, 0);
	assert_true(vt_in(&r.t, 20, 1) & VIRTIO_NEEDS_RESET);
	vt_start(&r.t, 0, 1);
	offer(&r, 0, 8);
	vt_notify(&r.t, 0);
	assert_int_equal(back(&r), 8);
	vt_fini(&r.t);
}

static void a_waiting_request_survives_a_save(void **state)
{
	struct wbuf w;
	struct rig r;

	rig_init(&r, 100);
	vt_start(&r.t, 0, 1);
	offer(&r, 0, 100);
	offer(&r, 1, 10);
	vt_notify(&r.t, 0);
	assert_int_equal(back(&r), 100);
	bench_save(r.t.dev, &w);
	vt_status(&r.t, 0);
	assert_int_equal(bench_load(r.t.dev, w.data, w.len), 0);
	assert_int_equal(back(&r), 10);
	assert_int_equal(back(&r), -1);
	wbuf_fini(&w);
	bench_corrupt(r.t.dev);
	bench_refuses(r.t.dev, struct virtio_dev, status, 0x20);
	vt_fini(&r.t);
}

static void state_makes_the_round_trip(void **state)
{
	struct rig a, b;

	rig_init(&a, 0);
	rig_init(&b, 0);
	vt_start(&a.t, VIRTIO_F_EVENT_IDX, 1);
	assert_int_equal(gmem_fill(b.t.b.mem, gpa(0), 0, BENCH_RAM), 0);
	bench_round_trip(a.t.dev, b.t.dev);
	vt_fini(&a.t);
	vt_fini(&b.t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(is_an_entropy_device_with_nothing_set),
	    cmocka_unit_test(survives_every_offset_at_every_width),
	    cmocka_unit_test(fills_buffers_and_interrupts),
	    cmocka_unit_test(the_hosts_numbers_are_random),
	    cmocka_unit_test(a_rate_is_kept),
	    cmocka_unit_test(tries_again_when_the_host_has_none),
	    cmocka_unit_test(refuses_what_is_malformed),
	    cmocka_unit_test(a_waiting_request_survives_a_save),
	    cmocka_unit_test(state_makes_the_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
