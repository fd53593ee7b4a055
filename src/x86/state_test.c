/* state_test.c: power-on values, INIT, and states that cannot be. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "base/le.h"
#include "x86/regs.h"
#include "x86/state.h"

static void power_on_state_is_valid_and_as_documented(void **state)
{
	struct x86_state s;

	x86_state_reset(&s, 1);
	assert_int_equal(x86_state_check(&s, NULL), 0);
	assert_int_equal(s.rip, 0xfff0);
	assert_int_equal(s.cr0, 0x60000010);
	assert_int_equal(s.seg[X86_CS].base, 0xffff0000);
	assert_int_equal(s.seg[X86_CS].selector, 0xf000);
	assert_int_equal(s.pat, 0x0007040600070406);
	assert_int_equal(load_le32(s.fpu.fx + X86_FX_MXCSR), 0x1f80);
	assert_int_equal(s.activity, X86_RUNNING);
	x86_state_reset(&s, 0);
	assert_int_equal(s.activity, X86_WAIT_SIPI);
	assert_int_equal(x86_state_check(&s, NULL), 0);
	(void)state;
}

static void init_keeps_msrs_and_vectors(void **state)
{
	struct x86_state s;

	x86_state_reset(&s, 1);
	s.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_CD;
	s.lstar = 0x1234;
	s.fpu.vec[3][5] = 7;
	s.efer = X86_EFER_LME;
	s.gpr[3] = 9;
	s.nmi_masked = 1;
	x86_state_init(&s, 0);
	assert_int_equal(s.cr0, X86_CR0_ET | X86_CR0_CD);
	assert_int_equal(s.lstar, 0x1234);
	assert_int_equal(s.fpu.vec[3][5], 7);
	assert_int_equal(s.efer, 0);
	assert_int_equal(s.gpr[3], 0);
	assert_int_equal(s.nmi_masked, 0);
	assert_int_equal(s.activity, X86_WAIT_SIPI);
	(void)state;
}

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		struct x86_state s;                                                                \
		x86_state_reset(&s, 1);                                                            \
		change;                                                                            \
		assert_int_equal(x86_state_check(&s, NULL), -22);                                  \
	} while (0)

static void refuses_states_that_cannot_be(void **state)
{
	REFUSED(s.cr0 |= X86_CR0_PG);
	REFUSED(s.cr0 = X86_CR0_ET | X86_CR0_NW);
	REFUSED(s.cr0 |= BIT64(40));
	REFUSED(s.cr4 = BIT64(63));
	REFUSED(s.cr4 = X86_CR4_PCIDE);
	REFUSED(s.efer = X86_EFER_LMA);
	REFUSED(s.efer = X86_EFER_LME; s.cr0 |= X86_CR0_PE | X86_CR0_PG);
	REFUSED(s.rflags = 0);
	REFUSED(s.rflags |= X86_VM);
	REFUSED(s.rip = BIT64(32));
	REFUSED(s.seg[X86_DS].limit = 0x100000);
	REFUSED(s.seg[X86_DS].base = BIT64(40));
	REFUSED(s.seg[X86_DS].attr = 0x82);
	REFUSED(s.seg[X86_CS].attr |= X86_SEG_UNUSABLE);
	REFUSED(s.tr.attr = 0x89);
	REFUSED(s.lstar = BIT64(50));
	REFUSED(s.pat = 2);
	REFUSED(s.mtrr_def = 0x1000);
	REFUSED(s.xcr0 = 5);
	REFUSED(s.xcr0 = 0x27);
	REFUSED(s.activity = 4);
	REFUSED(s.nmi_masked = 2);
	REFUSED(s.event_kind = 4);
	REFUSED(s.dr7 = BIT64(32));
	REFUSED(store_le32(s.fpu.fx + X86_FX_MXCSR, 0xffffffff));
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(power_on_state_is_valid_and_as_documented),
	    cmocka_unit_test(init_keeps_msrs_and_vectors),
	    cmocka_unit_test(refuses_states_that_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
