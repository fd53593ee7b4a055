/* seg_test.c: descriptor decoding, limits and access checks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "x86/seg.h"

#define FLAT_DATA  UINT64_C(0x00cf93000000ffff)
#define FLAT_CODE  UINT64_C(0x00cf9b000000ffff)
#define USER_DATA  UINT64_C(0x00cff3000000ffff)
#define CONFORMING UINT64_C(0x00cf9f000000ffff)
#define EXEC_ONLY  UINT64_C(0x00cf99000000ffff)

static void decodes_and_encodes_back(void **state)
{
	const uint64_t d = UINT64_C(0x12c59a3456789abc) | UINT64_C(1) << 52;
	struct x86_seg s = seg_from_desc(0x1b, d, 0);

	assert_int_equal(s.base, 0x12345678);
	assert_int_equal(s.limit, 0x59abcfff);
	assert_int_equal(s.attr, 0xd09a);
	assert_int_equal(seg_to_desc(&s), d);
	assert_int_equal(seg_from_desc(0, d, 0xffff8000).base, UINT64_C(0xffff800012345678));
	(void)state;
}

static void limits_of_expand_up_and_down(void **state)
{
	struct x86_seg up = {.limit = 0xfff, .attr = 0x93};
	struct x86_seg down = {.limit = 0xfff, .attr = 0x97};

	assert_true(seg_limit_allows(&up, 0xffc, 4));
	assert_false(seg_limit_allows(&up, 0xffd, 4));
	assert_false(seg_limit_allows(&up, 0xffffffff, 2));
	assert_false(seg_limit_allows(&down, 0xfff, 1));
	assert_true(seg_limit_allows(&down, 0x1000, 4));
	assert_true(seg_limit_allows(&down, 0xfffe, 2));
	assert_false(seg_limit_allows(&down, 0xfffe, 4));
	down.attr |= X86_SEG_DB;
	assert_true(seg_limit_allows(&down, 0xfffffffe, 2));
	assert_false(seg_limit_allows(&down, 0xfffffffe, 4));
	(void)state;
}

static void data_and_stack_checks(void **state)
{
	assert_int_equal(seg_check_data(FLAT_DATA, 0, 0), -1);
	assert_int_equal(seg_check_data(FLAT_DATA, 3, 3), X86_VEC_GP);
	assert_int_equal(seg_check_data(FLAT_DATA, 0, 3), X86_VEC_GP);
	assert_int_equal(seg_check_data(CONFORMING, 3, 3), -1);
	assert_int_equal(seg_check_data(EXEC_ONLY, 0, 0), X86_VEC_GP);
	assert_int_equal(seg_check_data(FLAT_DATA & ~BIT64(47), 0, 0), X86_VEC_NP);
	assert_int_equal(seg_check_data(BIT64(47) | (uint64_t)X86_SYS_TSS32 << 40, 0, 0),
			 X86_VEC_GP);
	assert_int_equal(seg_check_stack(FLAT_DATA, 0, 0), -1);
	assert_int_equal(seg_check_stack(FLAT_DATA, 0, 3), X86_VEC_GP);
	assert_int_equal(seg_check_stack(USER_DATA, 3, 3), -1);
	assert_int_equal(seg_check_stack(FLAT_CODE, 0, 0), X86_VEC_GP);
	assert_int_equal(seg_check_stack(FLAT_DATA & ~BIT64(47), 0, 0), X86_VEC_SS);
	(void)state;
}

static void gates_of_both_sizes(void **state)
{
	struct x86_gate g = gate_decode(UINT64_C(0x8765ee0300104321), UINT64_C(0xffff8000));

	assert_int_equal(g.offset, UINT64_C(0xffff800087654321));
	assert_int_equal(g.selector, 0x10);
	assert_int_equal(g.type, X86_SYS_INT32);
	assert_int_equal(g.dpl, 3);
	assert_int_equal(g.ist, 3);
	assert_true(g.present);
	g = gate_decode(UINT64_C(0x8765860000104321), 0);
	assert_int_equal(g.offset, 0x4321);
	(void)state;
}

static void real_mode_loads_keep_the_limit(void **state)
{
	struct x86_seg s = {.limit = 0xffffffff, .attr = 0xc093};

	seg_load_real(&s, 0x1234, 0);
	assert_int_equal(s.base, 0x12340);
	assert_int_equal(s.limit, 0xffffffff);
	seg_load_real(&s, 0x1234, 1);
	assert_int_equal(s.limit, 0xffff);
	assert_int_equal(s.attr, 0xf3);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(decodes_and_encodes_back),
	    cmocka_unit_test(limits_of_expand_up_and_down),
	    cmocka_unit_test(data_and_stack_checks),
	    cmocka_unit_test(gates_of_both_sizes),
	    cmocka_unit_test(real_mode_loads_keep_the_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
