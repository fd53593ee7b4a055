/* vec_evex_test.c: AVX-512: what must be enabled, masks and faults, state images. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/soft/testcode.h"
#include "engine/soft/vec.h"

/* A page that is there, and the next, which is not. */
#define EDGE (BOARD_DATA + 0x1000)

static void prepare(struct board *b, const uint8_t *code, const uint8_t *end)
{
	struct x86_fpu *f = &b->cpu->s.fpu;
	const uint32_t mxcsr = 0x1f80;

	if (!b->cpu->vec->avx512) {
		print_message("skipped: this host has no AVX-512\n");
		skip();
	}
	board_load(b, BOARD_CODE, code, (size_t)(end - code));
	board_long(b, BOARD_CODE);
	board_pte_set(b, EDGE, 0);
	b->cpu->s.cr4 |= X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	b->cpu->s.xcr0 = 0xe7;
	vec_x87_init(b->cpu);
	memset(f->vec, 0, sizeof(f->vec));
	memset(f->k, 0, sizeof(f->k));
	memcpy(f->fx + X86_FX_MXCSR, &mxcsr, 4);
	soft_mode_update(b->cpu);
}
#define PREPARE(b, name) prepare(b, name, name##_end)
#define RUN(b, name)	 (PREPARE(b, name), board_run(b))

static uint32_t *lanes(struct board *b, unsigned n)
{
	return (uint32_t *)(void *)b->cpu->s.fpu.vec[n];
}
static uint64_t *masks(struct board *b)
{
	return b->cpu->s.fpu.k;
}
static void numbers(struct board *b, unsigned n)
{
	for (unsigned i = 0; i < 16; i++)
		lanes(b, n)[i] = i + 1;
}

CODE(vpaddd, "vpaddd %zmm1, %zmm1, %zmm17; hlt");
CODE(kmov, "mov $5, %eax; kmovd %eax, %k3; hlt");
CODE(vpxor, "vpxor %ymm1, %ymm1, %ymm1; hlt");
static void all_of_its_state_must_be_enabled(void **state)
{
	struct board *b = *state;
	static const struct {
		uint64_t xcr0, set_cr0, clear_cr4;
		int vector;
	} cases[] = {
	    {0xe7, 0, 0, -1},
	    {7, 0, 0, X86_VEC_UD},
	    {3, 0, 0, X86_VEC_UD},
	    {0xe7, X86_CR0_TS, 0, X86_VEC_NM},
	    {7, X86_CR0_TS, 0, X86_VEC_UD},
	    {0xe7, X86_CR0_EM, 0, -1},
	    {0xe7, 0, X86_CR4_OSXSAVE, X86_VEC_UD},
	};

	for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		size_t n = i / 2;

		if (i & 1)
			PREPARE(b, kmov);
		else
			PREPARE(b, vpaddd);
		b->cpu->s.xcr0 = cases[n].xcr0;
		b->cpu->s.cr0 |= cases[n].set_cr0;
		b->cpu->s.cr4 &= ~cases[n].clear_cr4;
		soft_mode_update(b->cpu);
		assert_int_equal(board_run(b), cases[n].vector);
	}
	PREPARE(b, vpxor);
	b->cpu->s.xcr0 = 7;
	assert_int_equal(board_run(b), -1);
}

static void nothing_is_there_that_is_not_offered(void **state)
{
	struct board *b = *state;

	PREPARE(b, vpaddd);
	for (unsigned i = 0; i < b->cpuid.count; i++)
		if (b->cpuid.leaf[i].leaf == 7)
			b->cpuid.leaf[i].ebx &= ~BIT32(16);
	assert_int_equal(board_run(b), X86_VEC_UD);
	PREPARE(b, kmov);
	assert_int_equal(board_run(b), X86_VEC_UD);
}

CODE(all_32, "vpaddd %zmm1, %zmm1, %zmm31{%k2}; vpcmpud $1, %zmm31, %zmm1, %k5; kmovw %k5, %eax;"
	     "vpxor %xmm1, %xmm1, %xmm1; hlt");
static void masks_and_all_32_registers_are_kept(void **state)
{
	struct board *b = *state;

	PREPARE(b, all_32);
	numbers(b, 1);
	masks(b)[2] = 0xffff00000000f00f;
	lanes(b, 31)[4] = 77;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(lanes(b, 31)[0], 2);
	assert_int_equal(lanes(b, 31)[4], 77);
	assert_int_equal(lanes(b, 31)[15], 32);
	assert_int_equal(masks(b)[5], 0xf01f); /* what is larger than in zmm1 */
	assert_int_equal((uint32_t)b->cpu->s.gpr[X86_RAX], 0xf01f);
	/* VEX clears all of the rest. */
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(lanes(b, 1)[i], 0);
}

/* What CR2 is when a masked store of so many bytes in a page faults: on Intel's CPUs the last of
 * them. */
static uint64_t stored_at(const struct board *b, uint64_t lin, unsigned size)
{
	return b->cpuid.amd ? lin : lin + size - 1;
}

CODE(load_all, "mov $0x20fe0, %ebx; vmovdqu32 (%rbx), %zmm3{%k1}{z}; hlt");
CODE(store_all, "mov $0x20fe0, %ebx; vmovdqu32 %zmm3, (%rbx){%k1}; hlt");
static void only_chosen_elements_fault(void **state)
{
	struct board *b = *state;

	for (unsigned store = 0; store < 2; store++) {
		if (store)
			PREPARE(b, store_all);
		else
			PREPARE(b, load_all);
		numbers(b, 3);
		for (unsigned i = 0; i < 8; i++)
			board_write(b, EDGE - 32 + i * 4, 4, 100 + i);
		masks(b)[1] = 0x0081;
		assert_int_equal(board_run(b), -1);
		if (store) {
			assert_int_equal(board_read(b, EDGE - 32, 4), 1);
			assert_int_equal(board_read(b, EDGE - 28, 4), 101);
			assert_int_equal(board_read(b, EDGE - 4, 4), 8);
		} else {
			assert_int_equal(lanes(b, 3)[0], 100);
			assert_int_equal(lanes(b, 3)[1], 0);
			assert_int_equal(lanes(b, 3)[7], 107);
			assert_int_equal(lanes(b, 3)[8], 0);
		}
		if (store)
			PREPARE(b, store_all);
		else
			PREPARE(b, load_all);
		numbers(b, 3);
		board_write(b, EDGE - 32, 4, 100);
		masks(b)[1] = 0x0101;
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, store ? stored_at(b, EDGE, 4) : EDGE);
		assert_int_equal(board_read(b, EDGE - 32, 4), 100);
		assert_int_equal(lanes(b, 3)[1], 2);
	}
}

CODE(load_gone, "mov $0x21000, %ebx; vmovdqu8 (%rbx), %zmm3{%k1}; hlt");
static void an_empty_mask_touches_nothing(void **state)
{
	struct board *b = *state;

	PREPARE(b, load_gone);
	numbers(b, 3);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(lanes(b, 3)[15], 16);
	PREPARE(b, load_gone);
	masks(b)[1] = BIT64(63);
	assert_int_equal(board_run(b), X86_VEC_PF);
}

CODE(broadcast, "mov $0x20ffc, %ebx; vpaddd (%rbx){1to16}, %zmm1, %zmm2; hlt");
static void a_broadcast_reads_one_element(void **state)
{
	struct board *b = *state;

	PREPARE(b, broadcast);
	numbers(b, 1);
	board_write(b, EDGE - 4, 4, 1000);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(lanes(b, 2)[0], 1001);
	assert_int_equal(lanes(b, 2)[15], 1016);
}

CODE(compress, "mov $0x20ff8, %ebx; vpcompressd %zmm1, (%rbx){%k1}; hlt");
CODE(expand, "mov $0x20ff8, %ebx; vpexpandd (%rbx), %zmm2{%k1}{z}; hlt");
static void compressed_elements_are_counted_by_the_mask(void **state)
{
	struct board *b = *state;

	PREPARE(b, compress);
	numbers(b, 1);
	masks(b)[1] = 0x8010;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(board_read(b, EDGE - 8, 8), 0x0000001000000005);
	PREPARE(b, expand);
	masks(b)[1] = 0x0420;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(lanes(b, 2)[5], 5);
	assert_int_equal(lanes(b, 2)[10], 16);
	PREPARE(b, compress);
	masks(b)[1] = 0x0007;
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, stored_at(b, EDGE, 4));
	assert_int_equal(board_read(b, EDGE - 8, 4), 5);
}

CODE(gather, "mov $0x20ff8, %ebx; vpgatherdd (%rbx,%zmm1,4), %zmm2{%k1}; hlt");
CODE(scatter, "mov $0x20ff8, %ebx; vpscatterdd %zmm2, (%rbx,%zmm1,4){%k1}; hlt");
static void gathers_and_scatters_go_on_where_a_fault_left_them(void **state)
{
	static const uint32_t index[4] = {0, 1, 2, 0};
	struct board *b = *state;

	PREPARE(b, gather);
	board_write(b, EDGE - 8, 8, 0x0000000200000001);
	memcpy(lanes(b, 1), index, 16);
	masks(b)[1] = 0xf;
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, EDGE);
	assert_int_equal(masks(b)[1], 0xc);
	assert_true(lanes(b, 2)[0] == 1 && lanes(b, 2)[1] == 2 && lanes(b, 2)[2] == 0);
	PREPARE(b, scatter);
	memcpy(lanes(b, 1), index, 16);
	numbers(b, 2);
	masks(b)[1] = 0xb;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(masks(b)[1], 0);
	assert_int_equal(board_read(b, EDGE - 8, 8), 0x0000000200000004);
	PREPARE(b, scatter);
	memcpy(lanes(b, 1), index, 16);
	numbers(b, 2);
	masks(b)[1] = 0xf;
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(masks(b)[1], 0xc);
	assert_int_equal(board_read(b, EDGE - 8, 4), 1);
}

CODE(aligned, "mov $0x20020, %ebx; vmovdqa32 (%rbx), %zmm1{%k1}; hlt");
CODE(unaligned, "mov $0x20001, %ebx; vpaddd (%rbx), %zmm1, %zmm1; hlt");
static void aligned_moves_ask_for_64_bytes(void **state)
{
	struct board *b = *state;

	PREPARE(b, aligned);
	masks(b)[1] = 1;
	assert_int_equal(board_run(b), X86_VEC_GP);
	assert_int_equal(RUN(b, unaligned), -1);
}

CODE(narrowing, "mov $0x20001, %ebx; vcvtpd2udq (%rbx){1to2}, %xmm2{%k1}; ud2");
static void a_broadcast_that_is_for_nobody_may_be_misaligned(void **state)
{
	struct board *b = *state;

	for (unsigned chosen = 0; chosen < 2; chosen++) {
		PREPARE(b, narrowing);
		board_user(b, BOARD_CODE);
		b->cpu->s.cr0 |= X86_CR0_AM;
		b->cpu->s.cr4 |= X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
		b->cpu->s.rflags |= X86_AC;
		b->cpu->s.xcr0 = 0xe7;
		soft_mode_update(b->cpu);
		masks(b)[1] = 0xc | chosen; /* two are converted */
		assert_int_equal(board_run(b), chosen ? X86_VEC_AC : X86_VEC_UD);
	}
}

CODE(divps, "vdivps %zmm1, %zmm2, %zmm3; hlt");
CODE(divps_sae, "vdivps {rz-sae}, %zmm1, %zmm2, %zmm3; hlt");
static void unmasked_exceptions_are_delivered_unless_suppressed(void **state)
{
	const uint32_t mxcsr = 0x1f80 & ~0x200u; /* division by 0 */
	struct board *b = *state;

	for (unsigned sae = 0; sae < 2; sae++) {
		if (sae)
			PREPARE(b, divps_sae);
		else
			PREPARE(b, divps);
		memcpy(b->cpu->s.fpu.fx + X86_FX_MXCSR, &mxcsr, 4);
		lanes(b, 2)[9] = 0x3f800000;
		lanes(b, 3)[0] = 5;
		assert_int_equal(board_run(b), sae ? -1 : X86_VEC_XM);
		assert_int_equal(lanes(b, 3)[0], sae ? 0xffc00000 : 5);
		assert_int_equal(lanes(b, 3)[9], sae ? 0x7f800000 : 0);
	}
}

CODE(fpclass, "vfpclassss $2, %xmm1, %k1; hlt");
static void a_denormal_is_of_the_class_that_mxcsr_says(void **state)
{
	struct board *b = *state;

	for (unsigned daz = 0; daz < 2; daz++) {
		const uint32_t mxcsr = 0x1f80 | daz << 6;

		PREPARE(b, fpclass);
		lanes(b, 1)[0] = 1;
		memcpy(b->cpu->s.fpu.fx + X86_FX_MXCSR, &mxcsr, 4);
		assert_int_equal(board_run(b), -1);
		assert_int_equal(masks(b)[1], daz); /* +0 */
	}
}

CODE(to_device, "mov $0x21000, %ebx; vmovdqu32 %zmm1, (%rbx){%k1}; hlt");
static void a_device_sees_chosen_elements_only(void **state)
{
	struct board *b = *state;
	unsigned before = board_access(b)->count;

	PREPARE(b, to_device);
	board_pte_set(b, EDGE, BOARD_MMIO | X86_PTE_P | X86_PTE_W);
	numbers(b, 1);
	masks(b)[1] = 4;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(board_access(b)->count, before + 1);
	assert_int_equal(board_access(b)->offset, 8);
	assert_int_equal(board_access(b)->size, 4);
	assert_int_equal(board_access(b)->value, 3);
}

/* LL is 3, which no CPU has; a mask for an instruction that takes none; V' without a register. */
CODE(bad_length, ".byte 0x62, 0xf1, 0x75, 0x68, 0xfe, 0xd1; hlt");
CODE(bad_mask, ".byte 0x62, 0xf1, 0x7d, 0x49, 0x7e, 0xc8; hlt");
CODE(bad_vvvv, ".byte 0x62, 0xf1, 0x7c, 0x40, 0x10, 0x0b; hlt");
CODE(bad_zeroing, ".byte 0x62, 0xf1, 0x7c, 0xc9, 0x11, 0x0b; hlt");
static void encodings_that_do_not_exist_are_undefined(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, bad_length), X86_VEC_UD);
	assert_int_equal(RUN(b, bad_mask), X86_VEC_UD);
	assert_int_equal(RUN(b, bad_vvvv), X86_VEC_UD);
	assert_int_equal(RUN(b, bad_zeroing), X86_VEC_UD);
}

CODE(xsave, "mov $0x20000, %ebx; mov $0xe7, %eax; xor %edx, %edx; xsave (%rbx); hlt");
CODE(xsavec, "mov $0x20000, %ebx; mov $0xe7, %eax; xor %edx, %edx; xsavec (%rbx); hlt");
CODE(xrstor, "mov $0x20000, %ebx; mov $0xe7, %eax; xor %edx, %edx; xrstor (%rbx); hlt");
static void state_goes_to_memory_and_back_in_both_forms(void **state)
{
	struct board *b = *state;
	struct x86_fpu before, *f = &b->cpu->s.fpu;
	const struct vec_xsave *x = b->cpu->vec->xsave;

	for (unsigned compact = 0; compact < 2; compact++) {
		if (compact)
			PREPARE(b, xsavec);
		else
			PREPARE(b, xsave);
		for (unsigned at = 0; at < 4096; at += 8)
			board_write(b, BOARD_DATA + at, 8, 0);
		for (unsigned n = 0; n < 32; n++)
			for (unsigned i = 0; i < 64; i++)
				f->vec[n][i] = (uint8_t)(n * 7 + i + 1);
		for (unsigned n = 0; n < 8; n++)
			f->k[n] = UINT64_C(0x0123456789abcdef) << n;
		before = *f;
		assert_int_equal(board_run(b), -1);
		assert_int_equal(board_read(b, BOARD_DATA + 512, 8) & 0xe6, 0xe6);
		if (compact) /* YMM, masks, ZMM's upper halves, the upper 16 */
			assert_int_equal(board_read(b, BOARD_DATA + 576 + 256, 8), before.k[0]);
		else
			assert_int_equal(board_read(b, BOARD_DATA + x[5].offset, 8), before.k[0]);
		assert_int_equal(RUN(b, xrstor), -1);
		assert_memory_equal(f->vec, before.vec, sizeof(f->vec));
		assert_memory_equal(f->k, before.k, sizeof(f->k));
		/* Nothing in use: everything back to its initial state. */
		board_write(b, BOARD_DATA + 512, 8, 0);
		PREPARE(b, xrstor);
		memset(f->vec, 0x55, sizeof(f->vec));
		memset(f->k, 0x55, sizeof(f->k));
		assert_int_equal(board_run(b), -1);
		memset(&before, 0, sizeof(before));
		assert_memory_equal(f->vec, before.vec, sizeof(f->vec));
		assert_memory_equal(f->k, before.k, sizeof(f->k));
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, board_setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    TEST(all_of_its_state_must_be_enabled),
	    TEST(nothing_is_there_that_is_not_offered),
	    TEST(masks_and_all_32_registers_are_kept),
	    TEST(only_chosen_elements_fault),
	    TEST(an_empty_mask_touches_nothing),
	    TEST(a_broadcast_reads_one_element),
	    TEST(compressed_elements_are_counted_by_the_mask),
	    TEST(gathers_and_scatters_go_on_where_a_fault_left_them),
	    TEST(aligned_moves_ask_for_64_bytes),
	    TEST(a_broadcast_that_is_for_nobody_may_be_misaligned),
	    TEST(unmasked_exceptions_are_delivered_unless_suppressed),
	    TEST(a_denormal_is_of_the_class_that_mxcsr_says),
	    TEST(a_device_sees_chosen_elements_only),
	    TEST(encodings_that_do_not_exist_are_undefined),
	    TEST(state_goes_to_memory_and_back_in_both_forms),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
