/* pic_test.c: tests of the 8259A pair. */
#include "dev/pc/pic.h"

#include "dev/pc/device_test.h"

struct fixture {
	struct space *ports;
	struct device *pic;
	_Bool out;
	unsigned changes;
};

static void out_set(void *opaque, unsigned line, _Bool level)
{
	struct fixture *f = opaque;

	f->out = level;
	f->changes++;
}

static struct device *make(struct fixture *f)
{
	struct pic_config cfg = {.out = {.set = out_set, .opaque = f}};

	assert_int_equal(space_new(&f->ports, "ports", 65536), 0);
	cfg.ports = f->ports;
	assert_int_equal(pic_new(&f->pic, &cfg, NULL), 0);
	device_reset(f->pic, RESET_POWER);
	return f->pic;
}

static void drop(struct fixture *f)
{
	device_free(f->pic);
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

static void line(struct fixture *f, unsigned n, _Bool level)
{
	struct irq irq = pic_line(f->pic, n);

	irq_set(&irq, level);
}

static void pulse(struct fixture *f, unsigned n)
{
	line(f, n, 1);
	line(f, n, 0);
}

/* As a PC's firmware does: vectors 0x20 and 0x28, everything unmasked. */
static void program(struct fixture *f, uint8_t icw4)
{
	out8(f, 0x20, 0x11);
	out8(f, 0x21, 0x20);
	out8(f, 0x21, 0x04);
	out8(f, 0x21, icw4);
	out8(f, 0xa0, 0x11);
	out8(f, 0xa1, 0x28);
	out8(f, 0xa1, 0x02);
	out8(f, 0xa1, 0x01);
	out8(f, 0x21, 0);
	out8(f, 0xa1, 0);
}

static void has_its_reset_values(void **state)
{
	struct fixture f = {0};

	make(&f);
	assert_int_equal(in8(&f, 0x20), 0);
	assert_int_equal(in8(&f, 0x21), 0);
	assert_int_equal(in8(&f, 0xa1), 0);
	assert_int_equal(in8(&f, 0x4d0), 0);
	assert_int_equal(in8(&f, 0x4d1), 0);
	assert_false(f.out);
	drop(&f);
}

static void answers_every_offset_at_every_width(void **state)
{
	struct fixture f = {0};
	static const uint16_t ports[] = {0x20, 0xa0, 0x4d0};

	make(&f);
	program(&f, 1);
	for (unsigned i = 0; i < 3; i++) {
		for (unsigned off = 0; off < 2; off++) {
			for (unsigned size = 1; size <= 4; size *= 2) {
				space_write(f.ports, ports[i] + off, size, 0xa5a5a5a5);
				space_read(f.ports, ports[i] + off, size);
			}
		}
	}
	program(&f, 1);
	out8(&f, 0x4d0, 0xff);
	out8(&f, 0x4d1, 0xff);
	assert_int_equal(in8(&f, 0x4d0), 0xf8);
	assert_int_equal(in8(&f, 0x4d1), 0xde);
	space_write(f.ports, 0x4d0, 2, 0x0c20);
	assert_int_equal(space_read(f.ports, 0x4d0, 2), 0x0c20);
	drop(&f);
}

static void delivers_by_priority_and_ends(void **state)
{
	struct fixture f = {0};

	make(&f);
	program(&f, 1);
	pulse(&f, 4);
	pulse(&f, 1);
	assert_true(f.out);
	assert_int_equal(in8(&f, 0x20), 0x12); /* IRR */
	assert_int_equal(pic_ack(f.pic), 0x21);
	assert_false(f.out); /* 4 waits behind 1 */
	pulse(&f, 0);
	assert_true(f.out);
	assert_int_equal(pic_ack(f.pic), 0x20);
	out8(&f, 0x20, 0x0b);
	assert_int_equal(in8(&f, 0x20), 0x03); /* ISR */
	out8(&f, 0x20, 0x20);		       /* ends 0 */
	assert_int_equal(in8(&f, 0x20), 0x02);
	out8(&f, 0x20, 0x61); /* ends 1 */
	assert_true(f.out);
	assert_int_equal(pic_ack(f.pic), 0x24);
	out8(&f, 0x20, 0x20);
	assert_int_equal(pic_ack_fn(f.pic), -1);
	drop(&f);
}

static void cascades(void **state)
{
	struct fixture f = {0};

	make(&f);
	program(&f, 1);
	pulse(&f, 12);
	pulse(&f, 8);
	assert_int_equal(in8(&f, 0x20), 0x04);
	assert_int_equal(pic_ack_fn(f.pic), 0x28);
	assert_false(f.out);
	pulse(&f, 3); /* lower than the slave's place */
	assert_false(f.out);
	out8(&f, 0xa0, 0x20);
	out8(&f, 0x20, 0x20);
	assert_int_equal(pic_ack_fn(f.pic), 0x2c);
	out8(&f, 0xa0, 0x20);
	out8(&f, 0x20, 0x20);
	assert_int_equal(pic_ack_fn(f.pic), 0x23);
	drop(&f);
}

static void gives_spurious_vectors(void **state)
{
	struct fixture f = {0};

	make(&f);
	program(&f, 1);
	assert_int_equal(pic_ack(f.pic), 0x27);
	out8(&f, 0x20, 0x0b);
	assert_int_equal(in8(&f, 0x20), 0); /* and nothing is in service */
	out8(&f, 0x4d1, 0x02);		    /* 9 is level-triggered */
	line(&f, 9, 1);
	assert_true(f.out);
	line(&f, 9, 0);
	assert_false(f.out);
	drop(&f);
}

static void asks_again_while_a_level_stays(void **state)
{
	struct fixture f = {0};

	make(&f);
	program(&f, 1);
	out8(&f, 0x4d1, 0x08);
	line(&f, 11, 1);
	assert_int_equal(pic_ack_fn(f.pic), 0x2b);
	out8(&f, 0xa0, 0x20);
	out8(&f, 0x20, 0x20);
	assert_int_equal(pic_ack_fn(f.pic), 0x2b);
	line(&f, 11, 0);
	out8(&f, 0xa0, 0x20);
	out8(&f, 0x20, 0x20);
	assert_false(f.out);
	drop(&f);
}

static void ends_and_rotates_by_itself(void **state)
{
	struct fixture f = {0};

	make(&f);
	program(&f, 3);	      /* AEOI */
	out8(&f, 0x20, 0x80); /* rotate in it */
	pulse(&f, 3);
	assert_int_equal(pic_ack_fn(f.pic), 0x23);
	out8(&f, 0x20, 0x0b);
	assert_int_equal(in8(&f, 0x20), 0);
	pulse(&f, 3);
	pulse(&f, 5); /* 4 is the highest now */
	assert_int_equal(pic_ack_fn(f.pic), 0x25);
	assert_int_equal(pic_ack_fn(f.pic), 0x23);
	program(&f, 1);
	out8(&f, 0x20, 0xc2); /* 2 the lowest, 3 the highest */
	pulse(&f, 1);
	pulse(&f, 3);
	assert_int_equal(pic_ack_fn(f.pic), 0x23);
	out8(&f, 0x20, 0xa0); /* end and rotate: 4 the highest */
	assert_int_equal(pic_ack_fn(f.pic), 0x21);
	drop(&f);
}

static void masks_specially(void **state)
{
	struct fixture f = {0};

	make(&f);
	program(&f, 1);
	pulse(&f, 1);
	assert_int_equal(pic_ack_fn(f.pic), 0x21);
	pulse(&f, 6);
	assert_false(f.out);
	out8(&f, 0x21, 0x02);
	assert_false(f.out);
	out8(&f, 0x20, 0x68);
	assert_true(f.out); /* 1 in service no longer inhibits 6 */
	assert_int_equal(pic_ack_fn(f.pic), 0x26);
	out8(&f, 0x20, 0x20); /* ends 6: 1 is masked */
	out8(&f, 0x20, 0x0b);
	assert_int_equal(in8(&f, 0x20), 0x02);
	drop(&f);
}

static void polls(void **state)
{
	struct fixture f = {0};

	make(&f);
	program(&f, 1);
	pulse(&f, 5);
	out8(&f, 0x20, 0x0c);
	assert_int_equal(in8(&f, 0x20), 0x85);
	assert_false(f.out);
	out8(&f, 0x20, 0x20);
	out8(&f, 0x20, 0x0c);
	assert_int_equal(in8(&f, 0x20), 0);
	assert_int_equal(in8(&f, 0x21), 0); /* polled once only */
	drop(&f);
}

static void survives_hostile_writes(void **state)
{
	struct fixture f = {0};
	uint32_t seed = 1;
	static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1};

	make(&f);
	for (unsigned i = 0; i < 100000; i++) {
		seed = seed * 1664525 + 1013904223;
		out8(&f, ports[(seed >> 8) % 6], (uint8_t)(seed >> 16));
		line(&f, seed >> 28, seed >> 27 & 1);
		if ((seed & 7) == 0)
			assert_in_range(pic_ack(f.pic), 0, 255);
		in8(&f, ports[(seed >> 12) % 6]);
	}
	assert_int_equal(f.out, pic_output(f.pic));
	drop(&f);
}

static void saves_and_loads(void **state)
{
	struct fixture f = {0}, g = {0};

	make(&f);
	make(&g);
	program(&f, 1);
	out8(&f, 0x4d1, 0x08);
	pulse(&f, 3);
	pic_ack(f.pic);
	line(&f, 11, 1);
	pulse(&f, 0);
	out8(&f, 0xa0, 0x11); /* in the middle of a sequence */
	out8(&f, 0xa1, 0x70);
	device_test_roundtrip(f.pic, g.pic);
	assert_true(g.out);
	assert_int_equal(pic_ack_fn(g.pic), 0x20);
	assert_true(device_test_corrupt(f.pic) > 100);
	drop(&f);
	drop(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(has_its_reset_values),
	    cmocka_unit_test(answers_every_offset_at_every_width),
	    cmocka_unit_test(delivers_by_priority_and_ends),
	    cmocka_unit_test(cascades),
	    cmocka_unit_test(gives_spurious_vectors),
	    cmocka_unit_test(asks_again_while_a_level_stays),
	    cmocka_unit_test(ends_and_rotates_by_itself),
	    cmocka_unit_test(masks_specially),
	    cmocka_unit_test(polls),
	    cmocka_unit_test(survives_hostile_writes),
	    cmocka_unit_test(saves_and_loads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
