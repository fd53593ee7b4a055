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
	REFUSED(s.nmi_pending = 2);
	REFUSED(s.init_pending = 2);
	REFUSED(s.sipi_pending = 2);
	REFUSED(s.event_kind = 4);
	REFUSED(s.dr7 = BIT64(32));
	REFUSED(store_le32(s.fpu.fx + X86_FX_MXCSR, 0xffffffff));
	(void)state;
}

#define TAKEN(change)                                                                              \
	do {                                                                                       \
		struct x86_state s;                                                                \
		x86_state_reset(&s, 1);                                                            \
		change;                                                                            \
		assert_int_equal(x86_state_check(&s, NULL), 0);                                    \
	} while (0)
#define LONG(s)                                                                                    \
	((s).efer = X86_EFER_LME | X86_EFER_LMA, (s).cr0 |= X86_CR0_PE | X86_CR0_PG,               \
	 (s).cr4 |= X86_CR4_PAE)

static void takes_states_that_guests_reach(void **state)
{
	/* Long mode was left with them. */
	TAKEN(s.seg[X86_FS].base = BIT64(40));
	TAKEN(s.seg[X86_GS].base = UINT64_C(0xffff888000000000));
	TAKEN(s.tr.base = UINT64_C(0xfffffe0000000000));
	TAKEN(s.ldt.base = BIT64(33));
	/* SYSRET and JMP of AMD's CPUs fault behind the branch. */
	TAKEN(LONG(s); s.rip = BIT64(50));
	TAKEN(s.nmi_pending = s.init_pending = s.sipi_pending = 1; s.sipi_vector = 0x9f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(power_on_state_is_valid_and_as_documented),
	    cmocka_unit_test(init_keeps_msrs_and_vectors),
	    cmocka_unit_test(refuses_states_that_cannot_be),
	    cmocka_unit_test(takes_states_that_guests_reach),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
