/* misc_test.c: tests of the small ports. */
#include "dev/pc/misc.h"
#include "bus/testing.h"
#include <errno.h>

struct fixture {
	struct bench b;
	struct device *exit, *panic, *post, *con;
	struct chardev *out;
};

static void setup(struct fixture *f)
{
	bench_init(&f->b);
	assert_int_equal(chardev_mem_new(&f->out, 64), 0);
	const struct debug_exit_config ec = {f->b.ports, 0xf4, bench_power(&f->b)};
	const struct pvpanic_config pc = {f->b.ports, 0x505, bench_power(&f->b)};
	const struct post_config oc = {f->b.ports, 0x80};
	const struct debug_con_config cc = {f->b.ports, 0x402, f->out};
	assert_int_equal(debug_exit_new(&f->exit, &ec, NULL), 0);
	assert_int_equal(pvpanic_new(&f->panic, &pc, NULL), 0);
	assert_int_equal(post_new(&f->post, &oc, NULL), 0);
	assert_int_equal(debug_con_new(&f->con, &cc, NULL), 0);
	struct device *all[] = {f->exit, f->panic, f->post, f->con};
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		device_reset(all[i], RESET_POWER);
}

static void teardown(struct fixture *f)
{
	device_free(f->exit);
	device_free(f->panic);
	device_free(f->post);
	device_free(f->con);
	chardev_free(f->out);
	bench_fini(&f->b);
}

static void ports_have_their_reset_values(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(bench_in(&f.b, 0xf4, 4), 0);
	assert_int_equal(bench_in(&f.b, 0x505, 1), 3);
	assert_int_equal(bench_in(&f.b, 0x80, 1), 0);
	assert_int_equal(bench_in(&f.b, 0x402, 1), 0xe9);
	assert_int_equal(f.b.requests, 0);
	teardown(&f);
}

static void every_offset_answers_at_every_width(void **state)
{
	struct fixture f;
	setup(&f);
	bench_sweep(f.b.ports, 0xf4, 4);
	bench_sweep(f.b.ports, 0x505, 1);
	bench_sweep(f.b.ports, 0x80, 1);
	bench_sweep(f.b.ports, 0x402, 1);
	teardown(&f);
}

static void debug_exit_asks_for_the_end_with_the_value(void **state)
{
	struct fixture f;
	setup(&f);
	bench_out(&f.b, 0xf4, 4, 0x12345678);
	assert_int_equal(f.b.request, POWER_EXIT);
	assert_int_equal(f.b.request_arg, 0x12345678);
	bench_out(&f.b, 0xf4, 1, 7);
	assert_int_equal(f.b.request_arg, 7);
	assert_int_equal(f.b.requests, 2);
	teardown(&f);
}

static void panic_events_are_told_apart(void **state)
{
	struct fixture f;
	setup(&f);
	bench_out(&f.b, 0x505, 1, 0);
	bench_out(&f.b, 0x505, 1, 0xfc); /* unknown events */
	assert_int_equal(f.b.requests, 0);
	bench_out(&f.b, 0x505, 1, 1);
	assert_int_equal(f.b.request, POWER_PANIC);
	bench_out(&f.b, 0x505, 1, 2);
	assert_int_equal(f.b.request, POWER_CRASH_LOADED);
	assert_int_equal(f.b.requests, 2);
	teardown(&f);
}

static void the_post_port_keeps_the_last_code(void **state)
{
	struct fixture f;
	setup(&f);
	bench_out(&f.b, 0x80, 1, 0xa5);
	assert_int_equal(bench_in(&f.b, 0x80, 1), 0xa5);
	assert_int_equal(post_code(f.post), 0xa5);
	device_reset(f.post, RESET_SYSTEM);
	assert_int_equal(post_code(f.post), 0);
	teardown(&f);
}

static void the_debug_console_writes_to_its_back_end(void **state)
{
	struct fixture f;
	char text[16] = "";
	setup(&f);
	for (const char *s = "hello\n"; *s; s++)
		bench_out(&f.b, 0x402, 1, (uint8_t)*s);
	assert_int_equal(chardev_mem_read(f.out, text, sizeof(text)), 6);
	assert_string_equal(text, "hello\n");
	teardown(&f);
}

static void a_flood_without_a_back_end_is_harmless(void **state)
{
	struct fixture f;
	setup(&f);
	struct device *dev;
	const struct debug_con_config cfg = {f.b.ports, 0xe9, NULL};
	assert_int_equal(debug_con_new(&dev, &cfg, NULL), 0);
	device_reset(dev, RESET_POWER);
	for (unsigned i = 0; i < 100000; i++)
		bench_out(&f.b, 0xe9, 1, i);
	assert_int_equal(bench_in(&f.b, 0xe9, 1), 0xe9);
	device_free(dev);
	teardown(&f);
}

static void a_taken_port_is_an_error_with_a_sentence(void **state)
{
	struct fixture f;
	setup(&f);
	struct device *dev;
	struct error err = {0};
	const struct post_config cfg = {f.b.ports, 0x80};
	assert_int_equal(post_new(&dev, &cfg, &err), -EEXIST);
	assert_non_null(strstr(err.text, "0x80"));
	teardown(&f);
}

static void state_survives_and_corrupt_state_changes_nothing(void **state)
{
	struct fixture f, g;
	setup(&f);
	setup(&g);
	bench_out(&f.b, 0x80, 1, 0x77);
	bench_round_trip(f.post, g.post);
	assert_int_equal(post_code(g.post), 0x77);
	bench_round_trip(f.exit, g.exit);
	bench_round_trip(f.panic, g.panic);
	bench_round_trip(f.con, g.con);
	bench_corrupt(g.post);
	bench_corrupt(g.con);
	struct wbuf w;
	bench_save(f.exit, &w);
	assert_int_equal(bench_load(g.panic, w.data, w.len), -EINVAL);
	wbuf_fini(&w);
	teardown(&f);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(ports_have_their_reset_values),
	    cmocka_unit_test(every_offset_answers_at_every_width),
	    cmocka_unit_test(debug_exit_asks_for_the_end_with_the_value),
	    cmocka_unit_test(panic_events_are_told_apart),
	    cmocka_unit_test(the_post_port_keeps_the_last_code),
	    cmocka_unit_test(the_debug_console_writes_to_its_back_end),
	    cmocka_unit_test(a_flood_without_a_back_end_is_harmless),
	    cmocka_unit_test(a_taken_port_is_an_error_with_a_sentence),
	    cmocka_unit_test(state_survives_and_corrupt_state_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
