/* rtc_test.c: tests of the real-time clock and CMOS memory. */
#include "dev/pc/rtc.h"
#include "bus/testing.h"
#include <errno.h>

#define IRQ    8
#define NMI    30
#define SECOND UINT64_C(1000000000)

struct fixture {
	struct bench b;
	struct device *dev;
};

static void setup(struct fixture *f)
{
	bench_init(&f->b);
	const struct rtc_config cfg = {
	    .ports = f->b.ports,
	    .irq = bench_irq(&f->b, IRQ),
	    .nmi_mask = bench_irq(&f->b, NMI),
	    .clock = f->b.clock,
	    .ram_low_end = UINT64_C(0xb0000000),
	    .ram_high_size = UINT64_C(5) << 30,
	    .ncpus = 4,
	};
	assert_int_equal(rtc_new(&f->dev, &cfg, NULL), 0);
	device_reset(f->dev, RESET_POWER);
}

static void teardown(struct fixture *f)
{
	device_free(f->dev);
	bench_fini(&f->b);
}

static uint8_t get(struct fixture *f, uint8_t index)
{
	bench_out(&f->b, 0x70, 1, index);
	return (uint8_t)bench_in(&f->b, 0x71, 1);
}

static void put(struct fixture *f, uint8_t index, uint8_t v)
{
	bench_out(&f->b, 0x70, 1, index);
	bench_out(&f->b, 0x71, 1, v);
}

/* century, year, month, day, weekday, hours, minutes, seconds */
static void expect_time(struct fixture *f, const uint8_t want[8])
{
	static const uint8_t index[8] = {0x32, 9, 8, 7, 6, 4, 2, 0};
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(get(f, index[i]), want[i]);
}
#define EXPECT_TIME(f, ...) expect_time(f, (const uint8_t[8]){__VA_ARGS__})

static void set_time(struct fixture *f, const uint8_t value[8])
{
	static const uint8_t index[8] = {0x32, 9, 8, 7, 6, 4, 2, 0};
	put(f, 0x0b, get(f, 0x0b) | 0x80);
	for (unsigned i = 0; i < 8; i++)
		put(f, index[i], value[i]);
	put(f, 0x0b, get(f, 0x0b) & 0x7f);
}
#define SET_TIME(f, ...) set_time(f, (const uint8_t[8]){__VA_ARGS__})

static void registers_have_their_reset_values(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(get(&f, 0x0a), 0x26);
	assert_int_equal(get(&f, 0x0b), 0x02);
	assert_int_equal(get(&f, 0x0c), 0x00);
	assert_int_equal(get(&f, 0x0d), 0x80);
	assert_int_equal(bench_in(&f.b, 0x70, 1), 0xff);
	put(&f, 0x0b, 0x7e);
	put(&f, 0x40, 0x99);
	device_reset(f.dev, RESET_SYSTEM);
	assert_int_equal(get(&f, 0x0b), 0x06); /* format stays, enables go */
	assert_int_equal(get(&f, 0x40), 0x99);
	teardown(&f);
}

static void every_offset_answers_at_every_width(void **state)
{
	struct fixture f;
	setup(&f);
	bench_sweep(f.b.ports, 0x70, 4);
	for (unsigned i = 0; i < 128; i++)
		for (unsigned v = 0; v < 256; v += 15) {
			put(&f, (uint8_t)i, (uint8_t)v);
			(void)get(&f, (uint8_t)i);
			clock_advance(f.b.clock, 12345678);
		}
	teardown(&f);
}

static void memory_sizes_are_where_firmware_looks(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(get(&f, 0x15) | get(&f, 0x16) << 8, 640);
	assert_int_equal(get(&f, 0x30) | get(&f, 0x31) << 8, 0xffff);
	assert_int_equal(get(&f, 0x34) | get(&f, 0x35) << 8, 0xb000 - 0x100);
	assert_int_equal(get(&f, 0x5b) | get(&f, 0x5c) << 8 | get(&f, 0x5d) << 16, 5 << 14);
	assert_int_equal(get(&f, 0x5f), 3);
	rtc_cmos_set(f.dev, 0x3d, 0x21);
	assert_int_equal(get(&f, 0x3d), 0x21);
	bench_out(&f.b, 0x72, 1, 0xc5);
	bench_out(&f.b, 0x73, 1, 0x5c);
	assert_int_equal(bench_in(&f.b, 0x72, 1), 0x45);
	assert_int_equal(rtc_cmos_get(f.dev, 0xc5), 0x5c);
	teardown(&f);
}

static void the_time_is_the_clocks_in_every_format(void **state)
{
	struct fixture f;
	setup(&f);
	EXPECT_TIME(&f, 0x20, 0x23, 0x11, 0x14, 0x03, 0x22, 0x13, 0x20);
	put(&f, 0x0b, 0x00);
	assert_int_equal(get(&f, 4), 0x90);
	put(&f, 0x0b, 0x06);
	EXPECT_TIME(&f, 20, 23, 11, 14, 3, 22, 13, 20);
	put(&f, 0x0b, 0x04);
	assert_int_equal(get(&f, 4), 0x8a);
	clock_advance(f.b.clock, 2 * 3600 * SECOND); /* past midnight */
	assert_int_equal(get(&f, 4), 12);
	put(&f, 0x0b, 0x02);
	EXPECT_TIME(&f, 0x20, 0x23, 0x11, 0x15, 0x04, 0x00, 0x13, 0x20);
	teardown(&f);
}

static void a_set_time_goes_on_from_there(void **state)
{
	struct fixture f;
	setup(&f);
	SET_TIME(&f, 0x20, 0x24, 0x02, 0x28, 0x04, 0x23, 0x59, 0x59);
	clock_advance(f.b.clock, SECOND);
	EXPECT_TIME(&f, 0x20, 0x24, 0x02, 0x29, 0x05, 0x00, 0x00, 0x00);
	SET_TIME(&f, 0x20, 0x99, 0x12, 0x31, 0x05, 0x23, 0x59, 0x59);
	clock_advance(f.b.clock, SECOND);
	EXPECT_TIME(&f, 0x21, 0x00, 0x01, 0x01, 0x06, 0x00, 0x00, 0x00);
	put(&f, 2, 0x30); /* without SET */
	clock_advance(f.b.clock, SECOND);
	EXPECT_TIME(&f, 0x21, 0x00, 0x01, 0x01, 0x06, 0x00, 0x30, 0x01);
	teardown(&f);
}

static void set_holds_the_clock(void **state)
{
	struct fixture f;
	setup(&f);
	put(&f, 0x0b, 0x82);
	clock_advance(f.b.clock, 100 * SECOND);
	assert_int_equal(get(&f, 0), 0x20);
	put(&f, 0x0b, 0x02);
	assert_int_equal(get(&f, 0), 0x20);
	put(&f, 0x0a, 0x76); /* divider in reset */
	put(&f, 0, 0x45);
	clock_advance(f.b.clock, 100 * SECOND);
	put(&f, 0x0a, 0x26);
	clock_advance(f.b.clock, SECOND / 2 - 1);
	assert_int_equal(get(&f, 0), 0x45);
	clock_advance(f.b.clock, 1);
	assert_int_equal(get(&f, 0), 0x46);
	teardown(&f);
}

static void update_in_progress_precedes_each_second(void **state)
{
	struct fixture f;
	setup(&f);
	clock_advance(f.b.clock, SECOND - 244001);
	assert_int_equal(get(&f, 0x0a), 0x26);
	clock_advance(f.b.clock, 1);
	assert_int_equal(get(&f, 0x0a), 0xa6);
	clock_advance(f.b.clock, 244000);
	assert_int_equal(get(&f, 0x0a), 0x26);
	teardown(&f);
}

static void periodic_interrupts_come_at_the_chosen_rate(void **state)
{
	struct fixture f;
	setup(&f);
	put(&f, 0x0b, 0x42); /* 1024 Hz */
	for (unsigned i = 1; i <= 1024; i++) {
		clock_advance(f.b.clock, 976563);
		assert_true(f.b.level[IRQ]);
		assert_int_equal(get(&f, 0x0c) & 0xc0, 0xc0);
		assert_false(f.b.level[IRQ]);
	}
	assert_int_equal(f.b.raised[IRQ], 1024);
	put(&f, 0x0a, 0x2f); /* 2 Hz */
	(void)get(&f, 0x0c);
	f.b.raised[IRQ] = 0;
	for (unsigned i = 0; i < 20; i++) {
		clock_advance(f.b.clock, SECOND / 2);
		(void)get(&f, 0x0c);
	}
	assert_int_equal(f.b.raised[IRQ], 20);
	put(&f, 0x0a, 0x20); /* none */
	clock_advance(f.b.clock, 10 * SECOND);
	assert_int_equal(f.b.raised[IRQ], 20);
	teardown(&f);
}

static void unread_interrupts_cost_no_timers(void **state)
{
	struct fixture f;
	setup(&f);
	put(&f, 0x0a, 0x23);
	put(&f, 0x0b, 0x52);
	clock_advance(f.b.clock, 2 * SECOND);
	assert_int_equal(f.b.raised[IRQ], 1);
	assert_true(clock_next_ns(f.b.clock) == UINT64_MAX);
	assert_int_equal(get(&f, 0x0c), 0xd0);
	assert_true(clock_next_ns(f.b.clock) != UINT64_MAX);
	teardown(&f);
}

static void flags_are_set_without_their_interrupts(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(get(&f, 0x0c), 0);
	clock_advance(f.b.clock, SECOND);
	assert_int_equal(get(&f, 0x0c), 0x50);
	assert_int_equal(get(&f, 0x0c), 0);
	assert_int_equal(f.b.raised[IRQ], 0);
	teardown(&f);
}

static void the_alarm_matches_with_wildcards(void **state)
{
	struct fixture f;
	setup(&f);
	put(&f, 5, 0x23);
	put(&f, 3, 0x00);
	put(&f, 1, 0x05);
	put(&f, 0x0b, 0x22);
	(void)get(&f, 0x0c);
	clock_advance(f.b.clock, (46 * 60 + 44) * SECOND);
	assert_false(f.b.level[IRQ]);
	clock_advance(f.b.clock, SECOND);
	assert_true(f.b.level[IRQ]);
	assert_int_equal(get(&f, 0x0c) & 0xa0, 0xa0);
	put(&f, 5, 0xff);
	put(&f, 3, 0xc0);
	for (unsigned i = 0; i < 5; i++) {
		clock_advance(f.b.clock, 60 * SECOND);
		assert_int_equal(get(&f, 0x0c) & 0xa0, 0xa0);
	}
	put(&f, 1, 0x77); /* never */
	f.b.raised[IRQ] = 0;
	clock_advance(f.b.clock, 48 * 3600 * SECOND);
	assert_int_equal(f.b.raised[IRQ], 0);
	teardown(&f);
}

static void the_update_interrupt_comes_every_second_until_set(void **state)
{
	struct fixture f;
	setup(&f);
	put(&f, 0x0b, 0x12);
	for (unsigned i = 0; i < 5; i++) {
		clock_advance(f.b.clock, SECOND);
		assert_int_equal(get(&f, 0x0c) & 0x90, 0x90);
	}
	put(&f, 0x0b, 0x92);
	assert_int_equal(get(&f, 0x0b), 0x82);
	clock_advance(f.b.clock, 5 * SECOND);
	assert_int_equal(f.b.raised[IRQ], 5);
	teardown(&f);
}

static void impossible_times_stay_in_range(void **state)
{
	struct fixture f;
	setup(&f);
	put(&f, 0x0b, 0x06);
	SET_TIME(&f, 255, 255, 255, 255, 255, 255, 255, 255);
	clock_advance(f.b.clock, 86400 * SECOND);
	assert_int_equal(get(&f, 0x32), 22);
	assert_int_equal(get(&f, 0x09), 0);
	SET_TIME(&f, 0, 0, 0, 0, 0, 0, 0, 0);
	EXPECT_TIME(&f, 19, 0, 1, 1, 2, 0, 0, 0);
	put(&f, 0x0b, 0x72);
	for (unsigned i = 0; i < 16; i++)
		put(&f, 0x0a, (uint8_t)(i * 17));
	clock_advance(f.b.clock, SECOND);
	teardown(&f);
}

static void bit_7_of_the_index_masks_nmi(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(get(&f, 0x8d), 0x80);
	assert_true(f.b.level[NMI]);
	(void)get(&f, 0x0d);
	assert_false(f.b.level[NMI]);
	teardown(&f);
}

static void state_survives_and_corrupt_state_changes_nothing(void **state)
{
	struct fixture f, g;
	setup(&f);
	setup(&g);
	SET_TIME(&f, 0x20, 0x30, 0x06, 0x15, 0x07, 0x12, 0x34, 0x56);
	put(&f, 0x0b, 0x42);
	put(&f, 0x50, 0xaa);
	clock_advance(f.b.clock, 3 * SECOND + 1000);
	(void)get(&f, 0xff);
	clock_set_ns(g.b.clock, clock_now_ns(f.b.clock));
	bench_round_trip(f.dev, g.dev);
	assert_true(g.b.level[NMI]);
	assert_true(g.b.level[IRQ]);
	bench_corrupt(g.dev);
	EXPECT_TIME(&g, 0x20, 0x30, 0x06, 0x15, 0x07, 0x12, 0x34, 0x59);
	assert_int_equal(get(&g, 0x50), 0xaa);
	(void)get(&g, 0x0c);
	clock_advance(g.b.clock, 1000000);
	assert_true(g.b.level[IRQ]);
	teardown(&f);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(registers_have_their_reset_values),
	    cmocka_unit_test(every_offset_answers_at_every_width),
	    cmocka_unit_test(memory_sizes_are_where_firmware_looks),
	    cmocka_unit_test(the_time_is_the_clocks_in_every_format),
	    cmocka_unit_test(a_set_time_goes_on_from_there),
	    cmocka_unit_test(set_holds_the_clock),
	    cmocka_unit_test(update_in_progress_precedes_each_second),
	    cmocka_unit_test(periodic_interrupts_come_at_the_chosen_rate),
	    cmocka_unit_test(unread_interrupts_cost_no_timers),
	    cmocka_unit_test(flags_are_set_without_their_interrupts),
	    cmocka_unit_test(the_alarm_matches_with_wildcards),
	    cmocka_unit_test(the_update_interrupt_comes_every_second_until_set),
	    cmocka_unit_test(impossible_times_stay_in_range),
	    cmocka_unit_test(bit_7_of_the_index_masks_nmi),
	    cmocka_unit_test(state_survives_and_corrupt_state_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
