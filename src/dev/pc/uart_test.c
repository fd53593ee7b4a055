/* uart_test.c: tests of the serial port. */
#include "dev/pc/uart.h"
#include "bus/testing.h"
#include <errno.h>
#include "backend/chardev_impl.h"

#define COM1	0x3f8
#define IRQ	4
#define FIFO_ON 0x01

/* A back end that takes as much as the test allows. */
struct pipe_end {
	struct chardev ch;
	size_t space;
	char got[256];
	size_t len;
	unsigned kicks;
};

static size_t pipe_write(struct chardev *ch, const uint8_t *data, size_t len)
{
	struct pipe_end *p = container_of(ch, struct pipe_end, ch);
	len = MIN(len, p->space);
	memcpy(p->got + p->len, data, len);
	p->len += len;
	p->space -= len;
	return len;
}

static void pipe_kick(struct chardev *ch)
{
	container_of(ch, struct pipe_end, ch)->kicks++;
}

static const struct chardev_ops pipe_ops = {.write = pipe_write, .kick_input = pipe_kick};

struct fixture {
	struct bench b;
	struct pipe_end pipe;
	struct device *dev;
};

static void setup_port(struct fixture *f, _Bool hold_input)
{
	memset(f, 0, sizeof(*f));
	bench_init(&f->b);
	f->pipe.ch.ops = &pipe_ops;
	f->pipe.space = 200;
	const struct uart_config cfg = {
	    .ports = f->b.ports,
	    .base = COM1,
	    .irq = bench_irq(&f->b, IRQ),
	    .clock = f->b.clock,
	    .chardev = &f->pipe.ch,
	    .hold_input = hold_input,
	};
	assert_int_equal(uart_new(&f->dev, &cfg, NULL), 0);
	device_reset(f->dev, RESET_POWER);
}

static void setup(struct fixture *f)
{
	setup_port(f, 0);
}

static void teardown(struct fixture *f)
{
	device_free(f->dev);
	bench_fini(&f->b);
}

static uint8_t in(struct fixture *f, unsigned reg)
{
	return (uint8_t)bench_in(&f->b, COM1 + reg, 1);
}

static void out(struct fixture *f, unsigned reg, uint8_t v)
{
	bench_out(&f->b, COM1 + reg, 1, v);
}

static size_t feed(struct fixture *f, const char *text)
{
	const struct chardev_client *c = &f->pipe.ch.client;
	size_t n = MIN(c->room(c->opaque), strlen(text));
	c->receive(c->opaque, (const uint8_t *)text, n);
	return n;
}

static void drain(struct fixture *f, size_t space)
{
	f->pipe.space = space;
	f->pipe.ch.client.can_write(f->pipe.ch.client.opaque);
}

static void registers_have_their_reset_values(void **state)
{
	static const uint8_t want[8] = {0, 0, 0x01, 0, 0, 0x60, 0xb0, 0};
	struct fixture f;
	setup(&f);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(in(&f, i), want[i]);
	out(&f, 7, 0x42);
	out(&f, 3, 0x83);
	device_reset(f.dev, RESET_SYSTEM);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(in(&f, i), want[i]);
	assert_int_equal(f.b.raised[IRQ], 0);
	teardown(&f);
}

static void every_offset_answers_at_every_width(void **state)
{
	struct fixture f;
	setup(&f);
	bench_sweep(f.b.ports, COM1, UART_PORTS);
	teardown(&f);
}

static void masks_hold_and_the_divisor_hides_behind_dlab(void **state)
{
	struct fixture f;
	setup(&f);
	out(&f, 1, 0xff);
	assert_int_equal(in(&f, 1), 0x0f);
	out(&f, 4, 0xff);
	assert_int_equal(in(&f, 4), 0x1f);
	out(&f, 3, 0x83);
	out(&f, 0, 0x34);
	out(&f, 1, 0x12);
	assert_int_equal(in(&f, 0), 0x34);
	assert_int_equal(in(&f, 1), 0x12);
	out(&f, 3, 0x03);
	assert_int_equal(in(&f, 1), 0x0f);
	assert_int_equal(f.pipe.len, 0);
	teardown(&f);
}

static void a_word_written_to_the_port_is_two_bytes(void **state)
{
	struct fixture f;
	setup(&f);
	bench_out(&f.b, COM1 + 6, 2, 0x5a00);
	assert_int_equal(in(&f, 7), 0x5a);
	teardown(&f);
}

static void output_reaches_the_back_end_and_raises_thr_empty(void **state)
{
	struct fixture f;
	setup(&f);
	out(&f, 4, 0x08);
	out(&f, 1, 0x02);
	assert_true(f.b.level[IRQ]);
	assert_int_equal(in(&f, 2), 0x02);
	assert_false(f.b.level[IRQ]);
	assert_int_equal(in(&f, 2), 0x01);
	out(&f, 0, 'A');
	assert_true(f.b.level[IRQ]);
	assert_int_equal(f.pipe.len, 1);
	assert_int_equal(f.pipe.got[0], 'A');
	teardown(&f);
}

static void out2_gates_the_interrupt_line(void **state)
{
	struct fixture f;
	setup(&f);
	out(&f, 1, 0x02);
	assert_false(f.b.level[IRQ]);
	out(&f, 4, 0x08);
	assert_true(f.b.level[IRQ]);
	out(&f, 4, 0x00);
	assert_false(f.b.level[IRQ]);
	teardown(&f);
}

static void a_full_back_end_holds_thr_empty_back_and_loses_nothing(void **state)
{
	struct fixture f;
	setup(&f);
	f.pipe.space = 3;
	out(&f, 2, FIFO_ON);
	out(&f, 4, 0x08);
	out(&f, 1, 0x02);
	(void)in(&f, 2);
	for (unsigned i = 0; i < 10; i++)
		out(&f, 0, (uint8_t)('a' + i));
	assert_int_equal(f.pipe.len, 3);
	assert_int_equal(in(&f, 5) & 0x60, 0);
	assert_false(f.b.level[IRQ]);
	drain(&f, 4);
	assert_int_equal(in(&f, 5) & 0x60, 0);
	out(&f, 2, FIFO_ON | 0x04); /* what is on the line stays on it */
	drain(&f, 100);
	assert_int_equal(in(&f, 5) & 0x60, 0x60);
	assert_true(f.b.level[IRQ]);
	assert_memory_equal(f.pipe.got, "abcdefghij", 10);
	teardown(&f);
}

static void a_guest_that_ignores_thr_empty_loses_only_its_own_bytes(void **state)
{
	struct fixture f;
	setup(&f);
	f.pipe.space = 0;
	for (unsigned i = 0; i < 100000; i++)
		out(&f, 0, (uint8_t)('0' + i % 10));
	drain(&f, 200);
	assert_int_equal(f.pipe.len, 16);
	assert_memory_equal(f.pipe.got, "0123456789012345", 16);
	teardown(&f);
}

static void input_respects_the_room_and_the_trigger_level(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(feed(&f, "xy"), 1); /* without FIFOs */
	assert_int_equal(in(&f, 0), 'x');
	out(&f, 2, FIFO_ON | 0x40); /* trigger at 4 */
	out(&f, 4, 0x08);
	out(&f, 1, 0x01);
	assert_int_equal(feed(&f, "abc"), 3);
	assert_false(f.b.level[IRQ]);
	assert_int_equal(feed(&f, "d"), 1);
	assert_int_equal(in(&f, 2), 0xc4);
	assert_int_equal(feed(&f, "0123456789abcdef"), 12);
	unsigned kicks = f.pipe.kicks;
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(in(&f, 0), "abcd0123456789ab"[i]);
	assert_int_equal(in(&f, 5) & 1, 0);
	assert_int_equal(f.pipe.kicks, kicks + 1);
	assert_false(f.b.level[IRQ]);
	teardown(&f);
}

static void waiting_characters_time_out_after_four_character_times(void **state)
{
	struct fixture f;
	setup(&f);
	out(&f, 3, 0x83);
	out(&f, 0, 1); /* 115200 */
	out(&f, 3, 0x03);
	out(&f, 2, FIFO_ON | 0xc0);
	out(&f, 4, 0x08);
	out(&f, 1, 0x01);
	feed(&f, "ab");
	clock_advance(f.b.clock, 347000);
	assert_false(f.b.level[IRQ]);
	clock_advance(f.b.clock, 1000);
	assert_true(f.b.level[IRQ]);
	assert_int_equal(in(&f, 2), 0xcc);
	assert_int_equal(in(&f, 0), 'a');
	assert_false(f.b.level[IRQ]);
	clock_advance(f.b.clock, 400000);
	assert_true(f.b.level[IRQ]);
	assert_int_equal(in(&f, 0), 'b');
	clock_advance(f.b.clock, 400000);
	assert_false(f.b.level[IRQ]);
	teardown(&f);
}

static void loop_back_returns_bytes_and_modem_lines(void **state)
{
	struct fixture f;
	setup(&f);
	(void)in(&f, 6);
	out(&f, 4, 0x10);
	assert_int_equal(in(&f, 6), 0x0b); /* all went off */
	out(&f, 4, 0x1f);
	assert_int_equal(in(&f, 6), 0xfb);
	assert_int_equal(in(&f, 6), 0xf0);
	out(&f, 4, 0x1b); /* RI goes off: trailing edge */
	assert_int_equal(in(&f, 6), 0xb4);
	out(&f, 0, 0x77);
	assert_int_equal(in(&f, 5), 0x61);
	assert_int_equal(feed(&f, "n"), 0);
	assert_int_equal(in(&f, 0), 0x77);
	assert_int_equal(f.pipe.len, 0);
	out(&f, 0, 1);
	out(&f, 0, 2);
	assert_int_equal(in(&f, 5) & 0x02, 0x02); /* overrun */
	assert_int_equal(in(&f, 5) & 0x02, 0);
	teardown(&f);
}

static void a_break_is_a_zero_with_an_error_in_its_turn(void **state)
{
	struct fixture f;
	setup(&f);
	out(&f, 2, FIFO_ON);
	out(&f, 4, 0x08);
	out(&f, 1, 0x04);
	feed(&f, "a");
	uart_break(f.dev);
	assert_int_equal(in(&f, 5), 0xe1); /* not at the top yet */
	assert_int_equal(in(&f, 0), 'a');
	assert_int_equal(in(&f, 2), 0xc6);
	assert_int_equal(in(&f, 5), 0xf1);
	assert_int_equal(in(&f, 5), 0x61);
	assert_int_equal(in(&f, 0), 0);
	teardown(&f);
}

static void an_unplugged_port_swallows_output_and_shows_no_lines(void **state)
{
	struct fixture f;
	setup(&f);
	struct device *dev;
	const struct uart_config cfg = {.ports = f.b.ports, .base = 0x2f8, .clock = f.b.clock};
	assert_int_equal(uart_new(&dev, &cfg, NULL), 0);
	device_reset(dev, RESET_POWER);
	bench_out(&f.b, 0x2f8, 1, 'x');
	assert_int_equal(bench_in(&f.b, 0x2fd, 1), 0x60);
	assert_int_equal(bench_in(&f.b, 0x2fe, 1), 0);
	device_free(dev);
	struct error err;
	const struct uart_config twice = {.ports = f.b.ports, .base = COM1 + 4, .clock = f.b.clock};
	assert_int_equal(uart_new(&dev, &twice, &err), -EEXIST);
	teardown(&f);
}

static void state_survives_and_corrupt_state_changes_nothing(void **state)
{
	struct fixture f, g;
	setup(&f);
	setup(&g);
	f.pipe.space = 0;
	g.pipe.space = 0;
	out(&f, 2, FIFO_ON | 0xc0);
	out(&f, 4, 0x0b);
	out(&f, 1, 0x05);
	out(&f, 0, 'q');
	feed(&f, "pending");
	uart_break(f.dev);
	bench_round_trip(f.dev, g.dev);
	bench_corrupt(g.dev);
	clock_advance(g.b.clock, 100000000);
	assert_true(g.b.level[IRQ]);
	for (unsigned i = 0; i < 7; i++)
		assert_int_equal(in(&g, 0), "pending"[i]);
	drain(&g, 10);
	assert_int_equal(g.pipe.got[0], 'q');
	teardown(&f);
	teardown(&g);
}

static void the_port_gives_the_back_end_back(void **state)
{
	struct fixture f;
	setup(&f);
	device_free(f.dev);
	assert_null(f.pipe.ch.client.room);
	assert_null(space_lookup(f.b.ports, COM1));
	bench_fini(&f.b);
}

static void held_input_waits_until_the_guest_listens(void **state)
{
	struct fixture f;
	setup_port(&f, 1);
	assert_int_equal(feed(&f, "lost?"), 0);
	/* a console that only sends polls for THR-empty before each byte */
	for (unsigned i = 0; i < 500; i++) {
		in(&f, 5);
		out(&f, 0, 'x');
	}
	assert_int_equal(feed(&f, "lost?"), 0);
	/* a probe of the part */
	out(&f, 1, 0x0f);
	out(&f, 1, 0);
	assert_int_equal(feed(&f, "lost?"), 0);
	out(&f, 4, 0x0b);
	out(&f, 1, 0x05);
	assert_true(f.pipe.kicks > 0);
	assert_int_equal(feed(&f, "k"), 1);
	assert_int_equal(in(&f, 0), 'k');
	/* after a reset it waits again; then a reader that polls is heard */
	device_reset(f.dev, RESET_SYSTEM);
	assert_int_equal(feed(&f, "p"), 0);
	for (unsigned i = 0; i < 64; i++)
		in(&f, 5);
	assert_int_equal(feed(&f, "p"), 1);
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(registers_have_their_reset_values),
	    cmocka_unit_test(every_offset_answers_at_every_width),
	    cmocka_unit_test(masks_hold_and_the_divisor_hides_behind_dlab),
	    cmocka_unit_test(a_word_written_to_the_port_is_two_bytes),
	    cmocka_unit_test(output_reaches_the_back_end_and_raises_thr_empty),
	    cmocka_unit_test(out2_gates_the_interrupt_line),
	    cmocka_unit_test(a_full_back_end_holds_thr_empty_back_and_loses_nothing),
	    cmocka_unit_test(a_guest_that_ignores_thr_empty_loses_only_its_own_bytes),
	    cmocka_unit_test(input_respects_the_room_and_the_trigger_level),
	    cmocka_unit_test(waiting_characters_time_out_after_four_character_times),
	    cmocka_unit_test(loop_back_returns_bytes_and_modem_lines),
	    cmocka_unit_test(a_break_is_a_zero_with_an_error_in_its_turn),
	    cmocka_unit_test(an_unplugged_port_swallows_output_and_shows_no_lines),
	    cmocka_unit_test(state_survives_and_corrupt_state_changes_nothing),
	    cmocka_unit_test(the_port_gives_the_back_end_back),
	    cmocka_unit_test(held_input_waits_until_the_guest_listens),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
