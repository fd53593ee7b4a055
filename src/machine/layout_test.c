/* layout_test.c: where RAM and windows are, and the memory map. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "machine/layout.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static void small_ram_lies_below_the_holes(void **state)
{
	struct board_layout l;

	assert_int_equal(board_layout_init(&l, 512 * MIB, 2, 40, NULL), 0);
	assert_int_equal(l.ram_low_end, 512 * MIB);
	assert_int_equal(l.ram_high_size, 0);
	assert_int_equal(l.ncpus, 2);
}

static void the_rest_of_large_ram_begins_at_4_gib(void **state)
{
	struct board_layout l;

	assert_int_equal(board_layout_init(&l, 100 * GIB, 1, 40, NULL), 0);
	assert_int_equal(l.ram_low_end, BOARD_LOW_LIMIT);
	assert_int_equal(l.ram_high_base, 4 * GIB);
	assert_int_equal(l.ram_low_end + l.ram_high_size, 100 * GIB);
	assert_true(l.pci64_base >= l.ram_high_base + l.ram_high_size);
	assert_int_equal(l.pci64_base % l.pci64_size, 0);
}

static void refuses_what_no_board_can_have(void **state)
{
	struct board_layout l;
	struct error err;

	assert_int_equal(board_layout_init(&l, 512 * MIB, 0, 40, &err), -EINVAL);
	assert_int_equal(board_layout_init(&l, 512 * MIB, 10000, 40, &err), -EINVAL);
	assert_non_null(strstr(err.text, "10000 CPUs"));
	assert_int_equal(board_layout_init(&l, 512 * MIB + 1, 1, 40, &err), -EINVAL);
	assert_int_equal(board_layout_init(&l, 0, 1, 40, &err), -EINVAL);
	assert_int_equal(board_layout_init(&l, 1 * MIB, 1, 40, &err), -EINVAL);
	assert_int_equal(board_layout_init(&l, 2048 * GIB, 1, 48, &err), -EINVAL);
	assert_int_equal(board_layout_init(&l, 64 * GIB, 1, 36, &err), -EINVAL);
	assert_non_null(strstr(err.text, "36 address bits"));
}

static void the_memory_map_is_sorted_and_holds_all_ram(void **state)
{
	const uint64_t sizes[] = {2 * MIB,    16 * MIB, 640 * MIB, 2816 * MIB,
				  2817 * MIB, 4 * GIB,	12 * GIB,  512 * GIB};

	for (unsigned n = 0; n < ARRAY_SIZE(sizes); n++) {
		struct board_layout l;
		struct e820_map map;
		uint64_t ram = 0, last = 0;

		assert_int_equal(board_layout_init(&l, sizes[n], 1, 46, NULL), 0);
		board_e820(&l, &map);
		for (unsigned i = 0; i < map.count; i++) {
			assert_true(map.entry[i].base >= last);
			assert_true(map.entry[i].size > 0);
			last = map.entry[i].base + map.entry[i].size;
			if (map.entry[i].type == E820_RAM)
				ram += map.entry[i].size;
		}
		/* All but the top kilobyte of base memory and the area up to 1 MiB. */
		assert_int_equal(ram, sizes[n] - (BOARD_SMBIOS_END - BOARD_EBDA));
	}
}

static void every_pin_of_every_slot_has_a_line(void **state)
{
	assert_int_equal(board_intx_line(0, 0), 0);
	assert_int_equal(board_intx_line(31, 3), 2);
	for (unsigned line = 0; line < BOARD_INTX_LINES; line++)
		assert_int_equal(board_intx_pic(line), line % 4 < 2 ? 10 : 11);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(small_ram_lies_below_the_holes),
	    cmocka_unit_test(the_rest_of_large_ram_begins_at_4_gib),
	    cmocka_unit_test(refuses_what_no_board_can_have),
	    cmocka_unit_test(the_memory_map_is_sorted_and_holds_all_ram),
	    cmocka_unit_test(every_pin_of_every_slot_has_a_line),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
