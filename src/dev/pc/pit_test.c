/* pit_test.c: tests of the 8254 and port 0x61. */
#include "dev/pc/pit.h"

#include "dev/pc/device_test.h"
#include "dev/pc/pit_impl.h"

struct fixture {
	struct space *ports;
	struct clock *clock;
	struct device *pit;
	_Bool irq;
	unsigned edges, hz;
};

static void irq_changed(void *opaque, unsigned line, _Bool level)
{
	struct fixture *f = opaque;

	f->edges += level && !f->irq;
	f->irq = level;
}

static void speaker(void *opaque, unsigned hz)
{
	((struct fixture *)opaque)->hz = hz;
}

static void make(struct fixture *f)
{
	struct pit_config cfg = {
	    .irq = {.set = irq_changed, .opaque = f}, .speaker = speaker, .opaque = f};

	assert_int_equal(space_new(&f->ports, "ports", 65536), 0);
	assert_int_equal(clock_new(&f->clock, CLOCK_MANUAL), 0);
	cfg.ports = f->ports;
	cfg.clock = f->clock;
	assert_int_equal(pit_new(&f->pit, &cfg, NULL), 0);
	device_reset(f->pit, RESET_POWER);
}

static void drop(struct fixture *f)
{
	device_free(f->pit);
	clock_free(f->clock);
	space_free(f->ports);
}

static void out8(struct fixture *f, uint16_t port, uint8_t value)
{
	space_write(f->ports, port, 1, value);
}

static uint8_t in8(struct fixture *f, uint16_t port)
{
	return (uint8_t)space_read(f->ports, port, 1);
}

/* Sets a channel up: mode, and a count as two bytes. */
static void start(struct fixture *f, unsigned n, unsigned mode, uint16_t count)
{
	out8(f, 0x43, (uint8_t)(n << 6 | 0x30 | mode << 1));
	out8(f, (uint16_t)(0x40 + n), (uint8_t)count);
	out8(f, (uint16_t)(0x40 + n), (uint8_t)(count >> 8));
}

static uint16_t count(struct fixture *f, unsigned n)
{
	uint8_t low;

	out8(f, 0x43, (uint8_t)(n << 6));
	low = in8(f, (uint16_t)(0x40 + n));
	return (uint16_t)(in8(f, (uint16_t)(0x40 + n)) << 8 | low);
}

/* Moves on to just after `ticks` from VM time 0. */
static void tick_to(struct fixture *f, uint64_t ticks)
{
	clock_advance(f->clock, pit_ticks_ns(ticks) - clock_now_ns(f->clock));
}

static uint8_t status(struct fixture *f, unsigned n)
{
	out8(f, 0x43, (uint8_t)(0xe0 | 2 << n));
	return in8(f, (uint16_t)(0x40 + n));
}

static void has_its_reset_values(void **state)
{
	struct fixture f = {0};

	make(&f);
	assert_false(f.irq);
	assert_int_equal(in8(&f, 0x61) & 0xdf, 0);
	assert_int_equal(clock_next_ns(f.clock), UINT64_MAX);
	drop(&f);
}

static void answers_every_offset_at_every_width(void **state)
{
	struct fixture f = {0};

	make(&f);
	for (unsigned port = 0x40; port < 0x44; port++) {
		for (unsigned size = 1; size <= 4; size *= 2) {
			space_write(f.ports, port, size, 0x34343434);
			space_read(f.ports, port, size);
		}
	}
	assert_int_equal(in8(&f, 0x43), 0xff);
	out8(&f, 0x61, 0xff);
	assert_int_equal(in8(&f, 0x61) & 0xcf, 0x0f);
	drop(&f);
}

static void ticks_in_the_periodic_modes(void **state)
{
	for (unsigned mode = 2; mode <= 3; mode++) {
		struct fixture f = {0};

		make(&f);
		start(&f, 0, mode, 11932); /* 100 Hz, as near as it gets */
		f.edges = 0;
		clock_advance(f.clock, 1000050000);
		assert_int_equal(f.edges, 100);
		drop(&f);
	}
}

static void counts_down_and_wraps(void **state)
{
	struct fixture f = {0};

	make(&f);
	start(&f, 0, 2, 1000);
	assert_int_equal(count(&f, 0), 1000);
	tick_to(&f, 10);
	assert_int_equal(count(&f, 0), 990);
	tick_to(&f, 1001);
	assert_int_equal(count(&f, 0), 999);
	start(&f, 1, 3, 1000); /* by two, twice a period */
	tick_to(&f, 1001 + 10);
	assert_int_equal(count(&f, 1), 980);
	drop(&f);
}

static void interrupts_once_on_terminal_count(void **state)
{
	struct fixture f = {0};

	make(&f);
	start(&f, 0, 0, 100);
	assert_false(f.irq);
	tick_to(&f, 99);
	assert_false(f.irq);
	assert_int_equal(status(&f, 0), 0x30);
	tick_to(&f, 100);
	assert_true(f.irq);
	assert_int_equal(status(&f, 0), 0xb0);
	tick_to(&f, 200);
	assert_int_equal(f.edges, 1);
	assert_int_equal(count(&f, 0), 0xffff - 99); /* goes on counting */
	out8(&f, 0x40, 50);			     /* half a count takes the output down */
	assert_false(f.irq);
	out8(&f, 0x40, 0);
	tick_to(&f, 251);
	assert_true(f.irq);
	drop(&f);
}

static void strobes(void **state)
{
	struct fixture f = {0};

	make(&f);
	start(&f, 0, 4, 100);
	f.edges = 0;
	tick_to(&f, 500);
	assert_int_equal(f.edges, 1);
	/* Channel 2, by its gate (mode 5). */
	start(&f, 2, 5, 100);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0x20);
	out8(&f, 0x61, 1);
	tick_to(&f, 600);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0);
	tick_to(&f, 601);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0x20);
	drop(&f);
}

static void shoots_once_by_the_gate(void **state)
{
	struct fixture f = {0};

	make(&f);
	start(&f, 2, 1, 100);
	tick_to(&f, 500);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0x20);
	out8(&f, 0x61, 1);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0);
	tick_to(&f, 550);
	out8(&f, 0x61, 0);
	out8(&f, 0x61, 1); /* again, before the end */
	tick_to(&f, 640);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0);
	tick_to(&f, 660);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0x20);
	drop(&f);
}

/* How Linux measures the TSC: channel 2, mode 0, gate up, until bit 5 of port 0x61. */
static void times_by_channel_two(void **state)
{
	struct fixture f = {0};

	make(&f);
	out8(&f, 0x61, 1);
	start(&f, 2, 0, 11931);
	clock_advance(f.clock, 9998000);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0);
	clock_advance(f.clock, 3000);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0x20);
	/* A gate that falls holds the count. */
	start(&f, 2, 0, 1000);
	clock_advance(f.clock, 100000);
	out8(&f, 0x61, 0);
	clock_advance(f.clock, 5000000);
	assert_int_equal(in8(&f, 0x61) & 0x20, 0);
	assert_int_equal(count(&f, 2), 1000 - pit_ticks(100000));
	drop(&f);
}

static void latches_and_reads_back(void **state)
{
	struct fixture f = {0};

	make(&f);
	start(&f, 0, 2, 1000);
	tick_to(&f, 10);
	out8(&f, 0x43, 0xc2); /* count and status */
	tick_to(&f, 20);
	out8(&f, 0x43, 0x00); /* the first latch stands */
	assert_int_equal(in8(&f, 0x40), 0xb4);
	assert_int_equal(in8(&f, 0x40), 990 & 0xff);
	assert_int_equal(in8(&f, 0x40), 990 >> 8);
	assert_int_equal(in8(&f, 0x40), 980 & 0xff); /* live again */
	out8(&f, 0x43, 0x34);
	assert_int_equal(status(&f, 0) & 0x40, 0x40); /* no count yet */
	drop(&f);
}

static void counts_in_decimal(void **state)
{
	struct fixture f = {0};

	make(&f);
	out8(&f, 0x43, 0x35);
	out8(&f, 0x40, 0x00);
	out8(&f, 0x40, 0x10);
	tick_to(&f, 1);
	assert_int_equal(count(&f, 0), 0x0999);
	out8(&f, 0x43, 0x31); /* mode 0 wraps at 9999 */
	out8(&f, 0x40, 0x05);
	out8(&f, 0x40, 0x00);
	tick_to(&f, 8);
	assert_int_equal(count(&f, 0), 0x9998);
	drop(&f);
}

static void changes_its_count_at_the_end_of_a_period(void **state)
{
	struct fixture f = {0};

	make(&f);
	start(&f, 0, 2, 10000);
	tick_to(&f, 100);
	out8(&f, 0x40, 20000 & 0xff);
	out8(&f, 0x40, 20000 >> 8);
	f.edges = 0;
	assert_int_equal(count(&f, 0), 9900);
	tick_to(&f, 10001);
	assert_int_equal(f.edges, 1);
	assert_int_equal(count(&f, 0), 19999);
	tick_to(&f, 29999);
	assert_int_equal(f.edges, 1);
	tick_to(&f, 30001);
	assert_int_equal(f.edges, 2);
	drop(&f);
}

static void drives_the_speaker(void **state)
{
	struct fixture f = {0};

	make(&f);
	start(&f, 2, 3, 1193);
	out8(&f, 0x61, 3);
	assert_int_equal(f.hz, 1000);
	out8(&f, 0x61, 1);
	assert_int_equal(f.hz, 0);
	drop(&f);
}

static void toggles_the_refresh_bit(void **state)
{
	struct fixture f = {0};
	uint8_t before;

	make(&f);
	before = in8(&f, 0x61) & 0x10;
	clock_advance(f.clock, 15100);
	assert_int_not_equal(in8(&f, 0x61) & 0x10, before);
	drop(&f);
}

static void is_not_flooded_by_a_tiny_count(void **state)
{
	struct fixture f = {0};

	make(&f);
	start(&f, 0, 2, 2);
	f.edges = 0;
	clock_advance(f.clock, 10000000);
	assert_in_range(f.edges, 100, 200);
	drop(&f);
}

static void survives_hostile_writes(void **state)
{
	struct fixture f = {0};
	uint32_t seed = 3;

	make(&f);
	for (unsigned i = 0; i < 100000; i++) {
		seed = seed * 1664525 + 1013904223;
		out8(&f, seed >> 30 ? 0x40 + (seed >> 30) : 0x61, (uint8_t)(seed >> 16));
		out8(&f, 0x40, (uint8_t)(seed >> 8));
		in8(&f, 0x40 + (seed >> 28 & 3));
		in8(&f, 0x61);
		if (!(seed >> 24 & 15))
			clock_advance(f.clock, seed >> 10);
		if (!(seed >> 20 & 255))
			device_test_roundtrip(f.pit, f.pit);
	}
	drop(&f);
}

static void saves_and_loads(void **state)
{
	struct fixture f = {0}, g = {0};

	make(&f);
	make(&g);
	clock_advance(g.clock, 77);
	start(&f, 0, 2, 10000);
	tick_to(&f, 2000);
	out8(&f, 0x40, 1);
	out8(&f, 0x40, 0x40);
	start(&f, 2, 0, 500);
	out8(&f, 0x61, 1);
	out8(&f, 0x43, 0xc2);
	in8(&f, 0x40);
	device_test_roundtrip(f.pit, g.pit);
	f.edges = g.edges = 0;
	clock_advance(f.clock, 100000000);
	clock_advance(g.clock, 100000000);
	assert_true(f.edges > 2);
	assert_int_equal(f.edges, g.edges);
	assert_int_equal(count(&f, 2), count(&g, 2));
	assert_true(device_test_corrupt(f.pit) > 100);
	drop(&f);
	drop(&g);
}

/* Where the saved state has the number of channel 0's interrupts. */
static uint8_t *saved_done(const struct wbuf *w)
{
	static const uint8_t head[] = {6, 0, 8, 0, 1, 0, 0, 0};
	uint8_t *at = memmem(w->data, w->len, head, sizeof(head));

	assert_non_null(at);
	return at + sizeof(head);
}

static void refuses_more_interrupts_than_there_were_periods(void **state)
{
	static const struct {
		unsigned mode;
		uint64_t done;
	} bad[] = {{2, UINT64_C(1) << 62}, {3, 5}, {2, UINT64_MAX}, {0, 2}, {4, 2}};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct state_shadow *shadow;
		struct fixture f = {0};
		struct wbuf w;
		struct rbuf in;
		uint64_t done;

		make(&f);
		start(&f, 0, bad[i].mode, 0);
		tick_to(&f, 3 * 65536);
		w = device_test_save(f.pit);
		memcpy(&done, saved_done(&w), 8);
		assert_int_equal(done, bad[i].mode & 2 ? 3 : 1);
		rbuf_init(&in, w.data, w.len);
		assert_int_equal(device_decode(f.pit, &in, &shadow, NULL), 0);
		state_discard(shadow);
		memcpy(saved_done(&w), &bad[i].done, 8);
		rbuf_init(&in, w.data, w.len);
		assert_int_not_equal(device_decode(f.pit, &in, &shadow, NULL), 0);
		wbuf_fini(&w);
		drop(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(has_its_reset_values),
	    cmocka_unit_test(answers_every_offset_at_every_width),
	    cmocka_unit_test(ticks_in_the_periodic_modes),
	    cmocka_unit_test(counts_down_and_wraps),
	    cmocka_unit_test(interrupts_once_on_terminal_count),
	    cmocka_unit_test(strobes),
	    cmocka_unit_test(shoots_once_by_the_gate),
	    cmocka_unit_test(times_by_channel_two),
	    cmocka_unit_test(latches_and_reads_back),
	    cmocka_unit_test(counts_in_decimal),
	    cmocka_unit_test(changes_its_count_at_the_end_of_a_period),
	    cmocka_unit_test(drives_the_speaker),
	    cmocka_unit_test(toggles_the_refresh_bit),
	    cmocka_unit_test(is_not_flooded_by_a_tiny_count),
	    cmocka_unit_test(survives_hostile_writes),
	    cmocka_unit_test(saves_and_loads),
	    cmocka_unit_test(refuses_more_interrupts_than_there_were_periods),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
