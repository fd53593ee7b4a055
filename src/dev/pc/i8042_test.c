/* i8042_test.c: tests of the keyboard controller with its keyboard and mouse. */
#include "dev/pc/i8042.h"
#include "bus/testing.h"
#include <errno.h>

#define KBD_IRQ 1
#define AUX_IRQ 12
#define A20	20
#define AUX	0x100 /* in what take() gives */
#define TIMEOUT 0x200

struct fixture {
	struct bench b;
	struct device *dev;
};

static void setup_with(struct fixture *f, _Bool keyboard, _Bool mouse)
{
	bench_init(&f->b);
	const struct i8042_config cfg = {
	    .ports = f->b.ports,
	    .kbd_irq = bench_irq(&f->b, KBD_IRQ),
	    .aux_irq = bench_irq(&f->b, AUX_IRQ),
	    .a20 = bench_irq(&f->b, A20),
	    .power = bench_power(&f->b),
	    .keyboard = keyboard,
	    .mouse = mouse,
	};
	assert_int_equal(i8042_new(&f->dev, &cfg, NULL), 0);
	device_reset(f->dev, RESET_POWER);
}

static void setup(struct fixture *f)
{
	setup_with(f, 1, 1);
}

static void teardown(struct fixture *f)
{
	device_free(f->dev);
	bench_fini(&f->b);
}

static void command(struct fixture *f, uint8_t v)
{
	bench_out(&f->b, 0x64, 1, v);
}

static void data(struct fixture *f, uint8_t v)
{
	bench_out(&f->b, 0x60, 1, v);
}

static void aux(struct fixture *f, uint8_t v)
{
	command(f, 0xd4);
	data(f, v);
}

/* The next byte with its source, -1 for none. */
static int take(struct fixture *f)
{
	uint32_t status = bench_in(&f->b, 0x64, 1);
	if (!(status & 1))
		return -1;
	int v = (int)bench_in(&f->b, 0x60, 1);
	return v | (status & 0x20 ? AUX : 0) | (status & 0x40 ? TIMEOUT : 0);
}

static void expect(struct fixture *f, unsigned n, const int *want)
{
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(take(f), want[i]);
	assert_int_equal(take(f), -1);
}
#define EXPECT(f, ...)                                                                             \
	do {                                                                                       \
		const int want_[] = {__VA_ARGS__};                                                 \
		expect(f, ARRAY_SIZE(want_), want_);                                               \
	} while (0)

static void registers_have_their_reset_values(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(bench_in(&f.b, 0x64, 1), 0x10);
	assert_int_equal(bench_in(&f.b, 0x92, 1), 0x02);
	assert_true(f.b.level[A20]);
	assert_int_equal(take(&f), -1);
	command(&f, 0x20);
	EXPECT(&f, 0x70);
	assert_int_equal(f.b.requests, 0);
	teardown(&f);
}

static void every_offset_answers_at_every_width(void **state)
{
	struct fixture f;
	setup(&f);
	bench_sweep(f.b.ports, 0x60, 1);
	bench_sweep(f.b.ports, 0x64, 1);
	bench_sweep(f.b.ports, 0x92, 1);
	teardown(&f);
}

static void the_controller_passes_its_tests_and_keeps_its_command_byte(void **state)
{
	struct fixture f;
	setup(&f);
	command(&f, 0xaa);
	assert_int_equal(bench_in(&f.b, 0x64, 1) & 0x08, 0x08);
	EXPECT(&f, 0x55);
	assert_int_equal(bench_in(&f.b, 0x64, 1) & 0x04, 0x04);
	command(&f, 0xab);
	EXPECT(&f, 0x00);
	command(&f, 0xa9);
	EXPECT(&f, 0x00);
	command(&f, 0x60);
	data(&f, 0xff);
	command(&f, 0x20);
	EXPECT(&f, 0x7f);
	command(&f, 0x6f);
	data(&f, 0x99);
	command(&f, 0x2f);
	EXPECT(&f, 0x99);
	command(&f, 0xad);
	command(&f, 0xa8);
	command(&f, 0x20);
	EXPECT(&f, 0x5f);
	command(&f, 0xd3);
	data(&f, 0x5a);
	EXPECT(&f, AUX | 0x5a);
	teardown(&f);
}

static void reset_lines_ask_for_a_reset(void **state)
{
	struct fixture f;
	setup(&f);
	command(&f, 0xff);
	command(&f, 0xf1);
	assert_int_equal(f.b.requests, 0);
	command(&f, 0xfe);
	assert_int_equal(f.b.requests, 1);
	assert_int_equal(f.b.request, POWER_RESET);
	assert_int_equal(f.b.request_arg, POWER_CAUSE_KEYBOARD);
	command(&f, 0xd1);
	data(&f, 0x02);
	assert_int_equal(f.b.requests, 2);
	bench_out(&f.b, 0x92, 1, 0x03);
	assert_int_equal(f.b.requests, 3);
	assert_int_equal(f.b.request_arg, POWER_CAUSE_FAST);
	teardown(&f);
}

static void both_ways_drive_the_same_a20_gate(void **state)
{
	struct fixture f;
	setup(&f);
	bench_out(&f.b, 0x92, 1, 0);
	assert_false(f.b.level[A20]);
	command(&f, 0xd0);
	EXPECT(&f, 0xc1);
	command(&f, 0xd1);
	data(&f, 0xdf);
	assert_true(f.b.level[A20]);
	assert_int_equal(bench_in(&f.b, 0x92, 1), 2);
	command(&f, 0xdd);
	assert_false(f.b.level[A20]);
	command(&f, 0xdf);
	assert_true(f.b.level[A20]);
	assert_int_equal(f.b.requests, 0);
	teardown(&f);
}

static void the_keyboard_answers_what_drivers_ask(void **state)
{
	struct fixture f;
	setup(&f);
	command(&f, 0x60);
	data(&f, 0x00); /* no translation */
	data(&f, 0xff);
	EXPECT(&f, 0xfa, 0xaa);
	data(&f, 0xf2);
	EXPECT(&f, 0xfa, 0xab, 0x83);
	data(&f, 0xed);
	EXPECT(&f, 0xfa);
	data(&f, 0x07);
	EXPECT(&f, 0xfa);
	data(&f, 0xf0);
	EXPECT(&f, 0xfa);
	data(&f, 0x00);
	EXPECT(&f, 0xfa, 0x02);
	data(&f, 0xee);
	EXPECT(&f, 0xee);
	data(&f, 0xfe);
	EXPECT(&f, 0xee);
	data(&f, 0x01);
	EXPECT(&f, 0xfe);
	teardown(&f);
}

static void keys_come_translated_with_one_edge_a_byte(void **state)
{
	static const uint8_t press[] = {0xe0, 0x75}, release[] = {0xe0, 0xf0, 0x75};
	struct fixture f;
	setup(&f);
	command(&f, 0x60);
	data(&f, 0x41);
	i8042_key(f.dev, press, sizeof(press));
	i8042_key(f.dev, release, sizeof(release));
	i8042_key(f.dev, press, sizeof(press));
	assert_true(f.b.level[KBD_IRQ]);
	EXPECT(&f, 0xe0, 0x48, 0xe0, 0xc8, 0xe0, 0x48);
	assert_int_equal(f.b.raised[KBD_IRQ], 6);
	assert_false(f.b.level[KBD_IRQ]);
	data(&f, 0xf5); /* keys off */
	EXPECT(&f, 0xfa);
	i8042_key(f.dev, press, sizeof(press));
	assert_int_equal(take(&f), -1);
	teardown(&f);
}

static void a_disabled_interface_keeps_keys_until_it_is_enabled(void **state)
{
	static const uint8_t key[] = {0x1c};
	struct fixture f;
	setup(&f);
	command(&f, 0x60);
	data(&f, 0x51);
	i8042_key(f.dev, key, 1);
	assert_int_equal(take(&f), -1);
	command(&f, 0xae);
	assert_true(f.b.level[KBD_IRQ]);
	EXPECT(&f, 0x1e);
	for (unsigned i = 0; i < 1000; i++)
		i8042_key(f.dev, key, 1);
	unsigned n = 0;
	while (take(&f) == 0x1e)
		n++;
	assert_int_equal(n, 33); /* output buffer and queue */
	teardown(&f);
}

static void the_mouse_reports_motion_and_learns_the_wheel(void **state)
{
	static const uint8_t knock[] = {0xf3, 200, 0xf3, 100, 0xf3, 80};
	struct fixture f;
	setup(&f);
	command(&f, 0x60);
	data(&f, 0x03);
	aux(&f, 0xff);
	EXPECT(&f, AUX | 0xfa, AUX | 0xaa, AUX | 0x00);
	i8042_mouse(f.dev, 1, 1, 0, 0);
	assert_int_equal(take(&f), -1); /* not enabled yet */
	aux(&f, 0xf4);
	EXPECT(&f, AUX | 0xfa);
	i8042_mouse(f.dev, 5, -3, 0, 1);
	assert_true(f.b.level[AUX_IRQ]);
	EXPECT(&f, AUX | 0x29, AUX | 0x05, AUX | 0xfd);
	for (unsigned i = 0; i < sizeof(knock); i++) {
		aux(&f, knock[i]);
		EXPECT(&f, AUX | 0xfa);
	}
	aux(&f, 0xf2);
	EXPECT(&f, AUX | 0xfa, AUX | 0x03);
	i8042_mouse(f.dev, 300, 0, 2, 1);
	EXPECT(&f, AUX | 0x09, AUX | 0xff, AUX | 0x00, AUX | 0xfe, AUX | 0x09, AUX | 45, AUX | 0,
	       AUX | 0);
	aux(&f, 0xe9);
	EXPECT(&f, AUX | 0xfa, AUX | 0x24, AUX | 2, AUX | 80);
	teardown(&f);
}

static void absent_devices_are_told_at_once(void **state)
{
	struct fixture f;
	setup_with(&f, 0, 0);
	command(&f, 0x60);
	data(&f, 0x43);
	command(&f, 0xd3);
	data(&f, 0x5a);
	EXPECT(&f, 0x5a); /* no auxiliary port */
	command(&f, 0xa9);
	EXPECT(&f, 0x01);
	data(&f, 0xf2);
	EXPECT(&f, TIMEOUT | 0xfe);
	aux(&f, 0xf2);
	EXPECT(&f, AUX | TIMEOUT | 0xfe);
	i8042_mouse(f.dev, 1, 1, 1, 7);
	i8042_key(f.dev, (const uint8_t *)"\x1c", 1);
	assert_int_equal(take(&f), -1);
	teardown(&f);
}

static void random_bytes_do_no_harm(void **state)
{
	struct fixture f;
	uint32_t x = 1;
	setup(&f);
	for (unsigned i = 0; i < 200000; i++) {
		x = x * 1664525 + 1013904223;
		switch (x >> 29) {
		case 0: command(&f, (uint8_t)(x >> 8)); break;
		case 1: data(&f, (uint8_t)(x >> 8)); break;
		case 2: aux(&f, (uint8_t)(x >> 8)); break;
		case 3: i8042_mouse(f.dev, (int)x, (int)(x << 7), (int)x % 3, x >> 5); break;
		case 4: i8042_key(f.dev, (const uint8_t *)&x, x >> 10 & 3); break;
		default: (void)take(&f); break;
		}
	}
	teardown(&f);
}

static void state_survives_and_corrupt_state_changes_nothing(void **state)
{
	struct fixture f, g;
	setup(&f);
	setup(&g);
	command(&f, 0x60);
	data(&f, 0x43);
	aux(&f, 0xf4);
	i8042_mouse(f.dev, 700, 2, 0, 2);
	i8042_key(f.dev, (const uint8_t *)"\xf0\x1c", 2);
	bench_out(&f.b, 0x92, 1, 0);
	bench_round_trip(f.dev, g.dev);
	assert_false(g.b.level[A20]);
	assert_true(g.b.level[AUX_IRQ]);
	bench_corrupt(g.dev);
	for (int v; (v = take(&f)) != -1;)
		assert_int_equal(take(&g), v);
	teardown(&f);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(registers_have_their_reset_values),
	    cmocka_unit_test(every_offset_answers_at_every_width),
	    cmocka_unit_test(the_controller_passes_its_tests_and_keeps_its_command_byte),
	    cmocka_unit_test(reset_lines_ask_for_a_reset),
	    cmocka_unit_test(both_ways_drive_the_same_a20_gate),
	    cmocka_unit_test(the_keyboard_answers_what_drivers_ask),
	    cmocka_unit_test(keys_come_translated_with_one_edge_a_byte),
	    cmocka_unit_test(a_disabled_interface_keeps_keys_until_it_is_enabled),
	    cmocka_unit_test(the_mouse_reports_motion_and_learns_the_wheel),
	    cmocka_unit_test(absent_devices_are_told_at_once),
	    cmocka_unit_test(random_bytes_do_no_harm),
	    cmocka_unit_test(state_survives_and_corrupt_state_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
