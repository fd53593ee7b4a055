/* hpet_test.c: tests of the HPET. */
#include "dev/pc/hpet.h"

#include "dev/pc/device_test.h"

#define BASE 0xfed00000u

struct fixture {
	struct space *memory;
	struct clock *clock;
	struct device *hpet;
	_Bool pin[32], legacy[2];
	unsigned edges[32], legacy_edges[2], messages;
	uint64_t addr;
	uint32_t data;
};

static void pin_set(void *opaque, unsigned line, _Bool level)
{
	struct fixture *f = opaque;

	f->edges[line] += level && !f->pin[line];
	f->pin[line] = level;
}

static void legacy_set(void *opaque, unsigned line, _Bool level)
{
	struct fixture *f = opaque;

	f->legacy_edges[line] += level && !f->legacy[line];
	f->legacy[line] = level;
}

static void sink_send(void *opaque, uint64_t addr, uint32_t data)
{
	struct fixture *f = opaque;

	f->messages++;
	f->addr = addr;
	f->data = data;
}

static void make(struct fixture *f)
{
	struct hpet_config cfg = {
	    .base = BASE,
	    .ioapic = {.set = pin_set, .opaque = f},
	    .legacy = {{.set = legacy_set, .opaque = f, .line = 0},
		       {.set = legacy_set, .opaque = f, .line = 1}},
	    .msi = {.send = sink_send, .opaque = f},
	};

	assert_int_equal(space_new(&f->memory, "memory", UINT64_C(1) << 40), 0);
	assert_int_equal(clock_new(&f->clock, CLOCK_MANUAL), 0);
	cfg.memory = f->memory;
	cfg.clock = f->clock;
	assert_int_equal(hpet_new(&f->hpet, &cfg, NULL), 0);
	device_reset(f->hpet, RESET_POWER);
}

static void drop(struct fixture *f)
{
	device_free(f->hpet);
	clock_free(f->clock);
	space_free(f->memory);
}

static uint64_t get(struct fixture *f, unsigned reg)
{
	return space_read(f->memory, BASE + reg, 8);
}

static void put(struct fixture *f, unsigned reg, uint64_t value)
{
	space_write(f->memory, BASE + reg, 8, value);
}

static void put32(struct fixture *f, unsigned reg, uint32_t value)
{
	space_write(f->memory, BASE + reg, 4, value);
}

static void has_its_reset_values(void **state)
{
	struct fixture f = {0};

	make(&f);
	assert_true(get(&f, 0) == UINT64_C(0x009896808086a201));
	assert_true(get(&f, 0x10) == 0);
	assert_true(get(&f, 0x20) == 0);
	assert_true(get(&f, 0xf0) == 0);
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		assert_true(get(&f, 0x100 + n * 32) == (UINT64_C(0x00f0000000008030) | 20u << 9));
		assert_true(get(&f, 0x108 + n * 32) == UINT64_MAX);
		assert_true(get(&f, 0x110 + n * 32) == 0);
	}
	drop(&f);
}

static void answers_every_offset_at_every_width(void **state)
{
	struct fixture f = {0};

	make(&f);
	for (unsigned off = 0; off < HPET_SIZE; off++) {
		for (unsigned size = 1; size <= 8; size *= 2) {
			space_read(f.memory, BASE + off, size);
			space_write(f.memory, BASE + off, size, UINT64_MAX);
			space_read(f.memory, BASE + off, size);
		}
	}
	assert_true(get(&f, 0) == UINT64_C(0x009896808086a201));
	assert_true(get(&f, 0x10) == 3);
	put(&f, 0x10, 0);
	put(&f, 0xf0, UINT64_C(0x1122334455667788));
	assert_int_equal(space_read(f.memory, BASE + 0xf4, 4), 0x11223344);
	put32(&f, 0xf4, 7);
	assert_true(get(&f, 0xf0) == UINT64_C(0x0000000755667788));
	drop(&f);
}

static void counts_while_enabled(void **state)
{
	struct fixture f = {0};

	make(&f);
	clock_advance(f.clock, 1000);
	assert_true(get(&f, 0xf0) == 0);
	put(&f, 0x10, 1);
	clock_advance(f.clock, 1000);
	assert_true(get(&f, 0xf0) == 100);
	put(&f, 0x10, 0);
	clock_advance(f.clock, 1000);
	assert_true(get(&f, 0xf0) == 100);
	put(&f, 0x10, 1);
	clock_advance(f.clock, 10);
	assert_true(get(&f, 0xf0) == 101);
	drop(&f);
}

static void fires_once(void **state)
{
	struct fixture f = {0};

	make(&f);
	put(&f, 0x120, 4 | 21 << 9);
	put(&f, 0x128, 5000);
	put(&f, 0x10, 1);
	clock_advance(f.clock, 49990);
	assert_int_equal(f.edges[21], 0);
	clock_advance(f.clock, 10);
	assert_int_equal(f.edges[21], 1);
	clock_advance(f.clock, UINT64_C(100000000000));
	assert_int_equal(f.edges[21], 1);
	put(&f, 0x128, 5000); /* behind: 64 bits do not wrap soon */
	clock_advance(f.clock, UINT64_C(100000000000));
	assert_int_equal(f.edges[21], 1);
	drop(&f);
}

static void fires_again_when_32_bits_wrap(void **state)
{
	struct fixture f = {0};

	make(&f);
	put(&f, 0x100, 4 | 1 << 8 | 20 << 9);
	put(&f, 0x108, 5000);
	put(&f, 0x10, 1);
	clock_advance(f.clock, UINT64_C(50000));
	assert_int_equal(f.edges[20], 1);
	clock_advance(f.clock, UINT64_C(42949672960) - 10);
	assert_int_equal(f.edges[20], 1);
	clock_advance(f.clock, 10);
	assert_int_equal(f.edges[20], 2);
	drop(&f);
}

/* As Linux sets it up: accumulator first, then the period, in 32-bit writes. */
static void fires_periodically(void **state)
{
	struct fixture f = {0};

	make(&f);
	put(&f, 0x10, 1);
	put32(&f, 0x100, 4 | 8 | 0x40 | 0x100 | 22 << 9);
	put32(&f, 0x108, 150000);
	put32(&f, 0x108, 100000);
	assert_int_equal(get(&f, 0x100) & 0x40, 0);
	clock_advance(f.clock, 1500000);
	assert_int_equal(f.edges[22], 1);
	assert_true(get(&f, 0x108) == 250000);
	clock_advance(f.clock, 10000000);
	assert_int_equal(f.edges[22], 11);
	drop(&f);
}

static void holds_a_level_until_it_is_cleared(void **state)
{
	struct fixture f = {0};

	make(&f);
	put(&f, 0x140, 4 | 2 | 23 << 9);
	put(&f, 0x148, 100);
	put(&f, 0x10, 1);
	clock_advance(f.clock, 1000);
	assert_true(f.pin[23]);
	assert_true(get(&f, 0x20) == 4);
	put(&f, 0x20, 3);
	assert_true(f.pin[23]);
	put(&f, 0x140, 4 | 2 | 21 << 9); /* the line goes with the route */
	assert_false(f.pin[23]);
	assert_true(f.pin[21]);
	put(&f, 0x20, 4);
	assert_false(f.pin[21]);
	drop(&f);
}

static void a_timer_that_interrupts_nobody_wakes_nobody(void **state)
{
	struct fixture f = {0};

	make(&f);
	put(&f, 0x10, 1);
	put32(&f, 0x100, 8 | 0x40 | 0x100 | 22 << 9);
	put32(&f, 0x108, 150000);
	put32(&f, 0x108, 100000);
	put(&f, 0x140, 2 | 23 << 9); /* level, one shot */
	put(&f, 0x148, 300000);
	assert_true(clock_next_ns(f.clock) == UINT64_MAX);
	/* What has matched meanwhile is seen all the same. */
	clock_advance(f.clock, 5000000);
	assert_true(get(&f, 0x108) == 550000);
	assert_true(get(&f, 0x20) == 4);
	put(&f, 0x20, 4);
	assert_true(get(&f, 0x20) == 0);
	assert_int_equal(f.edges[22], 0);
	/* Enabled, it goes on from there, without what it has missed. */
	put32(&f, 0x100, 4 | 8 | 0x100 | 22 << 9);
	assert_true(clock_next_ns(f.clock) == 5500000);
	assert_int_equal(f.edges[22], 0);
	clock_advance(f.clock, 600000);
	assert_int_equal(f.edges[22], 1);
	put32(&f, 0x100, 8 | 0x100 | 22 << 9);
	assert_true(clock_next_ns(f.clock) == UINT64_MAX);
	drop(&f);
}

static void a_match_that_nobody_saw_is_cleared_with_the_others(void **state)
{
	struct fixture f = {0};

	make(&f);
	put(&f, 0x140, 2 | 23 << 9);
	put(&f, 0x148, 100);
	put(&f, 0x10, 1);
	clock_advance(f.clock, 2000);
	put(&f, 0x20, 4);
	assert_true(get(&f, 0x20) == 0);
	drop(&f);
}

static void keeps_a_route_it_can_reach(void **state)
{
	struct fixture f = {0};

	make(&f);
	put(&f, 0x100, 4 | 5 << 9);
	assert_int_equal(get(&f, 0x100) >> 9 & 31, 20);
	drop(&f);
}

static void replaces_the_legacy_timers(void **state)
{
	struct fixture f = {0};
	struct irq pit, rtc;

	make(&f);
	pit = hpet_legacy_line(f.hpet, 0);
	rtc = hpet_legacy_line(f.hpet, 1);
	irq_set(&pit, 1);
	assert_true(f.legacy[0]);
	put(&f, 0x100, 4);
	put(&f, 0x108, 100);
	put(&f, 0x10, 3);
	assert_false(f.legacy[0]);
	irq_pulse(&rtc);
	assert_int_equal(f.legacy_edges[1], 0);
	f.legacy_edges[0] = 0;
	clock_advance(f.clock, 1000);
	assert_int_equal(f.legacy_edges[0], 1);
	assert_int_equal(f.edges[20], 0);
	put(&f, 0x10, 0);
	assert_true(f.legacy[0]); /* the PIT has it back */
	drop(&f);
}

static void sends_messages(void **state)
{
	struct fixture f = {0};

	make(&f);
	put(&f, 0x110, UINT64_C(0xfee0100000004041));
	put(&f, 0x100, 4 | 0x4000 | 20 << 9);
	put(&f, 0x108, 100);
	put(&f, 0x10, 1);
	clock_advance(f.clock, 1000);
	assert_int_equal(f.messages, 1);
	assert_int_equal(f.addr, 0xfee01000);
	assert_int_equal(f.data, 0x4041);
	assert_int_equal(f.edges[20], 0);
	drop(&f);
}

static void is_not_flooded_by_a_tiny_period(void **state)
{
	struct fixture f = {0};

	make(&f);
	put(&f, 0x10, 1);
	put(&f, 0x100, 4 | 8 | 0x40 | 20 << 9);
	put(&f, 0x108, 1);
	clock_advance(f.clock, 10000000);
	assert_in_range(f.edges[20], 100, 501);
	put(&f, 0x100, 4 | 8 | 0x40 | 20 << 9);
	put(&f, 0x108, 0);
	clock_advance(f.clock, 1000000);
	drop(&f);
}

static void survives_hostile_writes(void **state)
{
	struct fixture f = {0};
	uint64_t seed = 5;

	make(&f);
	for (unsigned i = 0; i < 100000; i++) {
		unsigned reg;

		seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
		reg = (unsigned)(seed >> 33) % 0x180;
		space_write(f.memory, BASE + reg, 1u << (seed >> 60 & 3),
			    seed >> 59 & 1 ? seed >> 20 : (seed >> 40 & 0xffff));
		space_read(f.memory, BASE + (seed >> 50) % 0x180, 8);
		if (!(seed >> 55 & 15))
			clock_advance(f.clock, seed >> 44);
		if (!(seed >> 52 & 255))
			device_test_roundtrip(f.hpet, f.hpet);
	}
	drop(&f);
}

static void saves_and_loads(void **state)
{
	struct fixture f = {0}, g = {0};

	make(&f);
	make(&g);
	clock_advance(g.clock, 1234567);
	put(&f, 0x10, 1);
	put(&f, 0x100, 4 | 8 | 0x40 | 20 << 9);
	put(&f, 0x108, 100000);
	put(&f, 0x120, 4 | 2 | 21 << 9);
	put(&f, 0x128, 50);
	put(&f, 0x148, 77);
	clock_advance(f.clock, 300000);
	assert_true(f.pin[21]);
	device_test_roundtrip(f.hpet, g.hpet);
	assert_true(g.pin[21]);
	assert_true(get(&f, 0xf0) == get(&g, 0xf0));
	clock_advance(f.clock, 10000000);
	clock_advance(g.clock, 10000000);
	assert_int_equal(f.edges[20], 10);
	assert_int_equal(g.edges[20], 10);
	assert_true(device_test_corrupt(f.hpet) > 100);
	drop(&f);
	drop(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(has_its_reset_values),
	    cmocka_unit_test(answers_every_offset_at_every_width),
	    cmocka_unit_test(counts_while_enabled),
	    cmocka_unit_test(fires_once),
	    cmocka_unit_test(fires_again_when_32_bits_wrap),
	    cmocka_unit_test(fires_periodically),
	    cmocka_unit_test(holds_a_level_until_it_is_cleared),
	    cmocka_unit_test(a_timer_that_interrupts_nobody_wakes_nobody),
	    cmocka_unit_test(a_match_that_nobody_saw_is_cleared_with_the_others),
	    cmocka_unit_test(keeps_a_route_it_can_reach),
	    cmocka_unit_test(replaces_the_legacy_timers),
	    cmocka_unit_test(sends_messages),
	    cmocka_unit_test(is_not_flooded_by_a_tiny_period),
	    cmocka_unit_test(survives_hostile_writes),
	    cmocka_unit_test(saves_and_loads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
