/* loader_place_test.c: room in RAM for boot loaders. */
#include "machine/loader_testing.h"

#include <errno.h>

#define MIB (UINT64_C(1) << 20)

static void place_setup(struct place *place, struct board_layout *layout, uint64_t ram)
{
	assert_int_equal(board_layout_init(layout, ram, 1, 40, NULL), 0);
	place_init(place, layout);
}

static void finds_the_lowest_and_the_highest_place(void **state)
{
	struct board_layout l;
	struct place p;
	uint64_t at;

	place_setup(&p, &l, 64 * MIB);
	assert_int_equal(place_find(&p, 4096, 4096, 0, BOARD_EBDA, 0, &at), 0);
	assert_int_equal(at, 0x1000);
	assert_int_equal(place_find(&p, 4096, 4096, 0, BOARD_EBDA, 0, &at), 0);
	assert_int_equal(at, 0x2000);
	assert_int_equal(place_find(&p, MIB + 1, 4096, MIB, 64 * MIB, 1, &at), 0);
	assert_int_equal(at, 63 * MIB - 4096);
	assert_int_equal(place_find(&p, 1, 4096, MIB, 64 * MIB, 1, &at), 0);
	assert_int_equal(at, 63 * MIB - 8192);
}

static void goes_around_what_is_taken(void **state)
{
	struct board_layout l;
	struct place p;
	uint64_t at;

	place_setup(&p, &l, 64 * MIB);
	assert_int_equal(place_take(&p, 16 * MIB, 48 * MIB), 0);
	assert_int_equal(place_find(&p, 8 * MIB, MIB, MIB, 64 * MIB, 1, &at), 0);
	assert_int_equal(at, 8 * MIB);
	assert_int_equal(place_find(&p, 8 * MIB, MIB, MIB, 64 * MIB, 1, &at), -ENOSPC);
	assert_int_equal(place_find(&p, 7 * MIB, MIB, MIB, 64 * MIB, 0, &at), 0);
	assert_int_equal(at, MIB);
}

static void never_gives_the_first_page_the_tables_or_what_is_not_ram(void **state)
{
	struct board_layout l;
	struct place p;
	uint64_t at;

	place_setup(&p, &l, 4 * MIB);
	assert_int_equal(place_find(&p, BOARD_EBDA, 1, 0, MIB, 0, &at), -ENOSPC);
	assert_int_equal(place_find(&p, 4096, 1, BOARD_EBDA, MIB, 0, &at), -ENOSPC);
	assert_int_equal(place_find(&p, 4 * MIB, 1, MIB, 16 * MIB, 0, &at), -ENOSPC);
	assert_int_equal(place_find(&p, 0, 1, MIB, 16 * MIB, 0, &at), -ENOSPC);
	assert_int_equal(place_find(&p, UINT64_MAX, 1, MIB, 16 * MIB, 1, &at), -ENOSPC);
	assert_false(place_is_ram(&p, 4 * MIB - 1, 2));
	assert_false(place_is_ram(&p, UINT64_MAX, 2));
	assert_true(place_is_ram(&p, 4 * MIB - 1, 1));
}

static void gives_up_cleanly_when_the_list_is_full(void **state)
{
	struct board_layout l;
	struct place p;
	uint64_t at;

	place_setup(&p, &l, 64 * MIB);
	while (!place_find(&p, 4096, 4096, MIB, 64 * MIB, 0, &at))
		;
	assert_int_equal(p.count, PLACE_MAX);
	assert_int_equal(place_take(&p, 0, 1), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(finds_the_lowest_and_the_highest_place),
	    cmocka_unit_test(goes_around_what_is_taken),
	    cmocka_unit_test(never_gives_the_first_page_the_tables_or_what_is_not_ram),
	    cmocka_unit_test(gives_up_cleanly_when_the_list_is_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
