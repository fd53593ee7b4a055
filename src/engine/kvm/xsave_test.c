/* xsave_test.c: images as KVM may hand them out, made by hand. */
#include "engine/kvm/kvm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/le.h"

#define BV  512
#define XMM 160

static void load(struct x86_state *s, uint64_t bv)
{
	struct kvm_vcpu v = {.xsave_bytes = sizeof(struct kvm_xsave)};

	v.xsave = malloc(v.xsave_bytes);
	memset(v.xsave, 0xa5, BV);
	memset(v.xsave + BV, 0, v.xsave_bytes - BV);
	store_le32(v.xsave + X86_FX_MXCSR, 0x1fa0);
	store_le64(v.xsave + BV, bv);
	memset(s, 0x77, sizeof(*s));
	kvm_xsave_load(&v, s);
	free(v.xsave);
}

static _Bool all(const uint8_t *p, size_t len, uint8_t value)
{
	for (size_t i = 0; i < len; i++) {
		if (p[i] != value)
			return 0;
	}
	return 1;
}

static void what_is_in_its_initial_state_is_not_what_was_there_before(void **state)
{
	struct x86_state *s = malloc(sizeof(*s));

	for (unsigned bv = 0; bv < 4; bv++) {
		uint8_t *fx = s->fpu.fx;

		load(s, bv);
		assert_int_equal(load_le32(fx + X86_FX_MXCSR), 0x1fa0);
		if (bv & 1) {
			assert_true(all(fx, X86_FX_MXCSR, 0xa5));
			assert_true(all(fx + X86_FX_ST, XMM - X86_FX_ST, 0xa5));
		} else {
			assert_int_equal(load_le16(fx + X86_FX_FCW), 0x37f);
			assert_true(all(fx + X86_FX_FSW, X86_FX_MXCSR - X86_FX_FSW, 0));
			assert_true(all(fx + X86_FX_ST, XMM - X86_FX_ST, 0));
		}
		for (unsigned i = 0; i < 16; i++) {
			assert_true(all(s->fpu.vec[i], 16, bv & 2 ? 0xa5 : 0));
			assert_true(all(s->fpu.vec[i] + 16, 48, 0));
			assert_true(all(s->fpu.vec[16 + i], 64, 0));
		}
	}
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_in_its_initial_state_is_not_what_was_there_before),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
