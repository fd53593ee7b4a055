/* doors_test.c: tests of the MSR doors. */
#include "bus/doors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>

static void finds_the_door_of_a_range(void **state)
{
	struct doors doors = {0};
	const struct msr_door a = {.first = 0x40000000, .last = 0x400000ff, .name = "a"};
	const struct msr_door b = {.first = 0x11, .last = 0x12, .name = "b"};

	assert_int_equal(doors_add_msr(&doors, &a), 0);
	assert_int_equal(doors_add_msr(&doors, &b), 0);
	assert_string_equal(doors_find_msr(&doors, 0x40000000)->name, "a");
	assert_string_equal(doors_find_msr(&doors, 0x400000ff)->name, "a");
	assert_string_equal(doors_find_msr(&doors, 0x12)->name, "b");
	assert_null(doors_find_msr(&doors, 0x13));
	assert_null(doors_find_msr(&doors, 0x40000100));
}

static void refuses_overlap_and_overflow(void **state)
{
	struct doors doors = {0};
	const struct msr_door all = {.first = 0, .last = UINT32_MAX};

	for (uint32_t i = 0; i < DOORS_MAX_MSR; i++) {
		const struct msr_door one = {.first = i * 2, .last = i * 2};

		assert_int_equal(doors_add_msr(&doors, &one), 0);
		assert_int_equal(doors_add_msr(&doors, &one), -EEXIST);
	}
	assert_int_equal(doors_add_msr(&doors, &all), -EEXIST);
	assert_int_equal(doors_add_msr(&doors, &(struct msr_door){.first = 1, .last = 1}), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(finds_the_door_of_a_range),
	    cmocka_unit_test(refuses_overlap_and_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
