/* reg_test.c: tests of register tables. */
#include "bus/space.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

struct chip {
	struct device dev;
	uint32_t control, status;
	uint8_t small;
	uint64_t wide;
	uint64_t old, written;
	unsigned writes;
};

static uint64_t live_read(struct device *dev, const struct reg *reg)
{
	return 0x1234567890;
}
static void control_write(struct device *dev, const struct reg *reg, uint64_t old, uint64_t written)
{
	struct chip *chip = (struct chip *)dev;

	chip->old = old;
	chip->written = written;
	chip->writes++;
}

#define F(f) offsetof(struct chip, f)
static const struct reg table[] = {
    {"control", 0, 4, REG_WRITE_HOOK, F(control), 0x80000001, 0x0000ffff, 0, NULL, control_write,
     "1"},
    {"status", 4, 4, 0, F(status), 0xff, 0xf000, 0xff, NULL, NULL, "2"},
    {"small", 8, 1, 0, F(small), 0x5a, 0xff, 0, NULL, NULL, "3"},
    {"live", 12, 4, REG_READ_HOOK, 0, 0, 0, 0, live_read, NULL, "4"},
    {"wide", 16, 8, 0, F(wide), 0x1122334455667788, UINT64_MAX, 0, NULL, NULL, "5"},
};
#define N ARRAY_SIZE(table)

static void finds_the_register_that_holds_an_offset(void **state)
{
	assert_ptr_equal(reg_find(table, N, 0), &table[0]);
	assert_ptr_equal(reg_find(table, N, 3), &table[0]);
	assert_ptr_equal(reg_find(table, N, 23), &table[4]);
	assert_null(reg_find(table, N, 9));
	assert_null(reg_find(table, N, 24));
	assert_null(reg_find(table, 0, 0));
}

static void reset_gives_the_values_of_the_table(void **state)
{
	struct chip c = {.control = 7};
	struct device head = c.dev;

	reg_reset(&c.dev, table, N);
	assert_int_equal(reg_read(&c.dev, table, N, 0, 4), 0x80000001);
	assert_int_equal(reg_read(&c.dev, table, N, 4, 4), 0xff);
	assert_int_equal(reg_read(&c.dev, table, N, 8, 1), 0x5a);
	assert_true(reg_read(&c.dev, table, N, 16, 8) == 0x1122334455667788);
	assert_memory_equal(&c.dev, &head, sizeof(head)); /* "live" has no field */
}

static void masks_hold(void **state)
{
	struct chip c = {0};

	reg_reset(&c.dev, table, N);
	reg_write(&c.dev, table, N, 0, 4, 0xffff5555);
	assert_int_equal(c.control, 0x80005555);
	assert_int_equal(c.old, 0x80000001);
	assert_int_equal(c.written, 0xffff5555);
	reg_write(&c.dev, table, N, 4, 4, 0xabcd1203);
	assert_int_equal(c.status, 0x10fc);
	reg_write(&c.dev, table, N, 12, 4, 0xffffffff);
	assert_int_equal(reg_read(&c.dev, table, N, 12, 4), 0x34567890);
}

static void other_sizes_are_composed(void **state)
{
	struct chip c = {0};

	reg_reset(&c.dev, table, N);
	assert_int_equal(reg_read(&c.dev, table, N, 3, 1), 0x80);
	assert_true(reg_read(&c.dev, table, N, 0, 8) == 0xff80000001);
	assert_int_equal(reg_read(&c.dev, table, N, 8, 4), 0x5a); /* a gap reads 0 */
	assert_int_equal(reg_read(&c.dev, table, N, 14, 4), 0x77883456);
	reg_write(&c.dev, table, N, 1, 1, 0x77);
	assert_int_equal(c.control, 0x80007701);
	assert_int_equal(c.written, 0x7700);
	reg_write(&c.dev, table, N, 5, 1, 0xff); /* clears no bit of the byte below */
	assert_int_equal(c.status, 0xf0ff);
	reg_write(&c.dev, table, N, 20, 4, 0xcafe);
	assert_true(c.wide == 0xcafe55667788);
	reg_write(&c.dev, table, N, 24, 8, UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(finds_the_register_that_holds_an_offset),
	    cmocka_unit_test(reset_gives_the_values_of_the_table),
	    cmocka_unit_test(masks_hold),
	    cmocka_unit_test(other_sizes_are_composed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
