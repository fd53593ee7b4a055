/* acpi_pm_test.c: tests of the ACPI power management block. */
#include "dev/pc/acpi_pm.h"
#include "bus/testing.h"
#include <errno.h>

#define BASE 0x600
#define SCI  9

struct fixture {
	struct bench b;
	struct device *dev;
};

static void setup_mode(struct fixture *f, _Bool acpi_on)
{
	bench_init(&f->b);
	const struct acpi_pm_config cfg = {
	    .ports = f->b.ports,
	    .base = BASE,
	    .sci = bench_irq(&f->b, SCI),
	    .clock = f->b.clock,
	    .power = bench_power(&f->b),
	    .acpi_enable = 0xa0,
	    .acpi_disable = 0xa1,
	    .slp_typ_s5 = 5,
	    .acpi_on = acpi_on,
	};
	assert_int_equal(acpi_pm_new(&f->dev, &cfg, NULL), 0);
	device_reset(f->dev, RESET_POWER);
}

static void setup(struct fixture *f)
{
	setup_mode(f, 1);
}

static void teardown(struct fixture *f)
{
	device_free(f->dev);
	bench_fini(&f->b);
}

static uint32_t in(struct fixture *f, unsigned at, unsigned size)
{
	return bench_in(&f->b, BASE + at, size);
}

static void out(struct fixture *f, unsigned at, unsigned size, uint32_t v)
{
	bench_out(&f->b, BASE + at, size, v);
}

static void registers_have_their_reset_values(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(in(&f, 0, 2), 0);
	assert_int_equal(in(&f, 2, 2), 0);
	assert_int_equal(in(&f, 4, 2), 1);
	assert_int_equal(in(&f, 8, 4), 0);
	assert_int_equal(in(&f, 0x20, 4), 0);
	assert_int_equal(in(&f, 0x28, 4), 0);
	assert_int_equal(in(&f, 0x30, 4), 0x20);
	assert_int_equal(bench_in(&f.b, 0xb2, 1), 0);
	assert_int_equal(bench_in(&f.b, 0xb3, 1), 0);
	teardown(&f);
	setup_mode(&f, 0);
	assert_int_equal(in(&f, 4, 2), 0);
	teardown(&f);
}

static void every_offset_answers_at_every_width(void **state)
{
	struct fixture f;
	setup(&f);
	bench_sweep(f.b.ports, BASE, ACPI_PM_PORTS);
	bench_sweep(f.b.ports, 0xb2, 2);
	out(&f, 2, 2, 0xffff);
	assert_int_equal(in(&f, 2, 2), 0x0721);
	assert_int_equal(in(&f, 3, 1), 0x07);
	out(&f, 4, 2, 0x1c02);
	assert_int_equal(in(&f, 4, 2) & ~1u, 0x1c02);
	teardown(&f);
}

static void the_timer_counts_at_its_rate_and_wraps(void **state)
{
	struct fixture f;
	setup(&f);
	clock_advance(f.b.clock, 1000000000);
	assert_int_equal(in(&f, 8, 4), 3579545);
	clock_advance(f.b.clock, UINT64_C(1199000000000));
	assert_int_equal(in(&f, 8, 4), (uint32_t)(UINT64_C(3579545) * 1200));
	assert_int_equal(in(&f, 8, 2), (uint16_t)(UINT64_C(3579545) * 1200));
	teardown(&f);
}

static void timer_status_follows_the_highest_bit(void **state)
{
	struct fixture f;
	setup(&f);
	out(&f, 2, 2, 1);
	clock_advance(f.b.clock, UINT64_C(599000000000));
	assert_false(f.b.level[SCI]);
	assert_int_equal(in(&f, 0, 2), 0);
	clock_advance(f.b.clock, UINT64_C(1000000000)); /* 2^31 ticks are 599.9 s */
	assert_true(f.b.level[SCI]);
	assert_int_equal(in(&f, 0, 2), 1);
	out(&f, 0, 2, 1);
	assert_false(f.b.level[SCI]);
	assert_int_equal(in(&f, 0, 2), 0);
	clock_advance(f.b.clock, UINT64_C(600000000000));
	assert_true(f.b.level[SCI]);
	teardown(&f);
}

static void the_power_button_raises_the_sci_when_enabled(void **state)
{
	struct fixture f;
	setup(&f);
	assert_false(acpi_pm_power_button(f.dev));
	assert_int_equal(in(&f, 0, 2), 0x100);
	assert_false(f.b.level[SCI]);
	out(&f, 0, 2, 0x100);
	out(&f, 2, 2, 0x100);
	assert_true(acpi_pm_power_button(f.dev));
	assert_true(f.b.level[SCI]);
	out(&f, 0, 1, 0xff); /* other byte: stays */
	assert_true(f.b.level[SCI]);
	out(&f, 1, 1, 0x01);
	assert_false(f.b.level[SCI]);
	teardown(&f);
}

static void the_smi_command_port_switches_acpi_mode(void **state)
{
	struct fixture f;
	setup_mode(&f, 0);
	out(&f, 2, 2, 0x100);
	assert_false(acpi_pm_power_button(f.dev));
	assert_false(f.b.level[SCI]);
	out(&f, 4, 2, 1); /* not this way */
	assert_int_equal(in(&f, 4, 2), 0);
	bench_out(&f.b, 0xb2, 1, 0xa0);
	assert_int_equal(in(&f, 4, 2), 1);
	assert_true(f.b.level[SCI]);
	bench_out(&f.b, 0xb2, 1, 0xa1);
	assert_int_equal(in(&f, 4, 2), 0);
	assert_false(f.b.level[SCI]);
	bench_out(&f.b, 0xb2, 1, 0x55);
	assert_int_equal(bench_in(&f.b, 0xb2, 1), 0x55);
	teardown(&f);
}

static void soft_off_is_s5_only(void **state)
{
	struct fixture f;
	setup(&f);
	out(&f, 4, 2, 5 << 10);
	assert_int_equal(f.b.requests, 0);
	for (unsigned typ = 0; typ < 8; typ++)
		if (typ != 5)
			out(&f, 4, 2, typ << 10 | 0x2000);
	assert_int_equal(f.b.requests, 0);
	out(&f, 4, 2, 5 << 10 | 0x2000);
	assert_int_equal(f.b.requests, 1);
	assert_int_equal(f.b.request, POWER_OFF);
	assert_int_equal(in(&f, 4, 2) & 0x2000, 0);
	out(&f, 5, 1, 0x34); /* the high byte alone does it as well */
	assert_int_equal(f.b.requests, 2);
	teardown(&f);
}

static void general_purpose_events_are_level_and_write_1_clear(void **state)
{
	struct fixture f;
	setup(&f);
	acpi_pm_gpe(f.dev, 33);
	assert_int_equal(in(&f, 0x24, 4), 2);
	assert_false(f.b.level[SCI]);
	out(&f, 0x2c, 4, 2);
	assert_true(f.b.level[SCI]);
	out(&f, 0x24, 1, 2);
	assert_false(f.b.level[SCI]);
	assert_int_equal(in(&f, 0x24, 4), 0);
	teardown(&f);
}

static void state_survives_and_corrupt_state_changes_nothing(void **state)
{
	struct fixture f, g;
	setup(&f);
	setup(&g);
	out(&f, 2, 2, 0x101);
	out(&f, 0x28, 4, 0x80);
	acpi_pm_gpe(f.dev, 7);
	acpi_pm_power_button(f.dev);
	clock_advance(f.b.clock, UINT64_C(700000000000));
	clock_set_ns(g.b.clock, clock_now_ns(f.b.clock));
	bench_round_trip(f.dev, g.dev);
	assert_true(g.b.level[SCI]);
	assert_int_equal(in(&g, 0, 2), 0x101);
	bench_corrupt(g.dev);
	teardown(&f);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(registers_have_their_reset_values),
	    cmocka_unit_test(every_offset_answers_at_every_width),
	    cmocka_unit_test(the_timer_counts_at_its_rate_and_wraps),
	    cmocka_unit_test(timer_status_follows_the_highest_bit),
	    cmocka_unit_test(the_power_button_raises_the_sci_when_enabled),
	    cmocka_unit_test(the_smi_command_port_switches_acpi_mode),
	    cmocka_unit_test(soft_off_is_s5_only),
	    cmocka_unit_test(general_purpose_events_are_level_and_write_1_clear),
	    cmocka_unit_test(state_survives_and_corrupt_state_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
