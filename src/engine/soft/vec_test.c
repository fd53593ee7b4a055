/* vec_test.c: tests of x87, MMX, SSE and AVX instructions in the interpreter (vec_*.c). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include "engine/engine.h"
#include "engine/soft/testcode.h"
#include "engine/soft/vec.h"

/* A page that is there, and the next, which is not. */
#define EDGE (BOARD_DATA + 0x1000)

static void prepare(struct board *b, const uint8_t *code, const uint8_t *end)
{
	board_load(b, BOARD_CODE, code, (size_t)(end - code));
	board_long(b, BOARD_CODE);
	board_pte_set(b, EDGE, 0);
	b->cpu->s.cr4 |= X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	b->cpu->s.xcr0 = b->cpuid.xcr0_allowed & 7;
	vec_x87_init(b->cpu); /* at power-on every exception is unmasked */
	soft_mode_update(b->cpu);
}
#define PREPARE(b, name) prepare(b, name, name##_end)
#define RUN(b, name)	 (PREPARE(b, name), board_run(b))

static _Bool has_avx2(struct board *b)
{
	return cpuid_has(&b->cpuid, 7, 0, CPUID_EBX, 5);
}

static uint32_t fx32(struct board *b, unsigned at)
{
	uint32_t v;

	memcpy(&v, b->cpu->s.fpu.fx + at, 4);
	return v;
}

CODE(addps, "addps %xmm1, %xmm0; hlt");
CODE(paddb_mm, "paddb %mm1, %mm0; hlt");
CODE(fld1, "fld1; hlt");
CODE(fwait, "fwait; hlt");
CODE(vaddps, "vaddps %ymm1, %ymm1, %ymm0; hlt");
CODE(popcnt, "popcnt %eax, %eax; hlt");
/* As a CPU of the past had them: with VEX. */
CODE(vex_popcnt, "mov $5, %ecx; .byte 0xc5, 0xfa, 0xb8, 0xc1; hlt");
CODE(vex_tzcnt, "mov $5, %ecx; .byte 0xc5, 0xfa, 0xbc, 0xc1; hlt");
CODE(vex_lzcnt, "mov $5, %ecx; .byte 0xc5, 0xfa, 0xbd, 0xc1; hlt");
CODE(vex_tzcnt_mem, "mov $5, %ecx; .byte 0xc4, 0xe1, 0xfa, 0xbc, 0x04, 0x24; hlt");
CODE(vex_andn, "mov $5, %ecx; mov $7, %eax; .byte 0xc4, 0xe2, 0x70, 0xf2, 0xc0; hlt");
static void counting_bits_has_no_vex_form(void **state)
{
	struct board *b = *state;
	static const struct {
		const uint8_t *code, *end;
	} codes[] = {{vex_popcnt, vex_popcnt_end},
		     {vex_tzcnt, vex_tzcnt_end},
		     {vex_lzcnt, vex_lzcnt_end},
		     {vex_tzcnt_mem, vex_tzcnt_mem_end}};

	for (unsigned k = 0; k < ARRAY_SIZE(codes); k++) {
		prepare(b, codes[k].code, codes[k].end);
		assert_int_equal(board_run(b), X86_VEC_UD);
		assert_int_equal(board_stack(b, 0), BOARD_CODE + 5);
	}
	if (!cpuid_has(&b->cpuid, 7, 0, CPUID_EBX, 3))
		return;
	assert_int_equal(RUN(b, vex_andn), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 2); /* ~5 & 7 */
}

static void control_registers_decide_what_may_run(void **state)
{
	struct board *b = *state;
	uint64_t *cr0 = &b->cpu->s.cr0, *cr4 = &b->cpu->s.cr4;
	static const struct {
		const uint8_t *code, *end;
		uint64_t set_cr0, clear_cr4;
		int vector;
	} cases[] = {
	    {addps, addps_end, 0, 0, -1},
	    {addps, addps_end, X86_CR0_TS, 0, X86_VEC_NM},
	    {addps, addps_end, X86_CR0_EM, 0, X86_VEC_UD},
	    {addps, addps_end, X86_CR0_EM | X86_CR0_TS, 0, X86_VEC_UD},
	    {addps, addps_end, 0, X86_CR4_OSFXSR, X86_VEC_UD},
	    {paddb_mm, paddb_mm_end, X86_CR0_EM, 0, X86_VEC_UD},
	    {paddb_mm, paddb_mm_end, X86_CR0_TS, 0, X86_VEC_NM},
	    {paddb_mm, paddb_mm_end, 0, X86_CR4_OSFXSR, -1},
	    {fld1, fld1_end, X86_CR0_EM, 0, X86_VEC_NM},
	    {fld1, fld1_end, X86_CR0_TS, 0, X86_VEC_NM},
	    {fwait, fwait_end, X86_CR0_TS, 0, -1},
	    {fwait, fwait_end, X86_CR0_TS | X86_CR0_MP, 0, X86_VEC_NM},
	    {popcnt, popcnt_end, X86_CR0_TS | X86_CR0_EM, X86_CR4_OSFXSR, -1},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		prepare(b, cases[i].code, cases[i].end);
		*cr0 |= cases[i].set_cr0;
		*cr4 &= ~cases[i].clear_cr4;
		soft_mode_update(b->cpu);
		assert_int_equal(board_run(b), cases[i].vector);
	}
}

static void avx_needs_osxsave_and_xcr0(void **state)
{
	struct board *b = *state;

	if (!has_avx2(b))
		skip();
	assert_int_equal(RUN(b, vaddps), -1);
	PREPARE(b, vaddps);
	b->cpu->s.cr4 &= ~X86_CR4_OSXSAVE;
	assert_int_equal(board_run(b), X86_VEC_UD);
	PREPARE(b, vaddps);
	b->cpu->s.xcr0 = 3;
	assert_int_equal(board_run(b), X86_VEC_UD);
	PREPARE(b, vaddps);
	b->cpu->s.cr0 |= X86_CR0_TS;
	assert_int_equal(board_run(b), X86_VEC_NM);
}

CODE_BITS(addps_real, 16, "vaddps %xmm1, %xmm1, %xmm0; hlt");
static void vex_is_invalid_in_real_mode(void **state)
{
	struct board *b = *state;

	board_load(b, BOARD_CODE, addps_real, (size_t)(addps_real_end - addps_real));
	board_real(b, BOARD_CODE);
	b->cpu->s.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
	b->cpu->s.xcr0 = 7;
	assert_int_equal(board_run(b), X86_VEC_UD);
}

CODE(movaps_load, "mov $0x20008, %ebx; movaps (%rbx), %xmm0; hlt");
CODE(addps_load, "mov $0x20008, %ebx; addps (%rbx), %xmm0; hlt");
CODE(movups_load, "mov $0x20008, %ebx; movups (%rbx), %xmm0; hlt");
CODE(sse_mm, "mov $0x20008, %ebx; cvttpd2pi (%rbx), %mm0; hlt");
static void legacy_operands_must_be_aligned(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, movaps_load), X86_VEC_GP);
	assert_int_equal(board_stack(b, 0), 0);
	assert_int_equal(RUN(b, addps_load), X86_VEC_GP);
	assert_int_equal(RUN(b, sse_mm), X86_VEC_GP);
	assert_int_equal(RUN(b, movups_load), -1);
}

CODE(movups_edge, "mov $0x20ff8, %ebx; movups %xmm0, (%rbx); hlt");
CODE(fstp_edge, "fld1; mov $0x20ffc, %ebx; fstpl (%rbx); hlt");
CODE(load_edge, "mov $0x20ff8, %ebx; movdqu (%rbx), %xmm1; paddb (%rbx), %xmm0; hlt");
static void a_fault_at_a_pages_edge_changes_nothing(void **state)
{
	struct board *b = *state;

	board_write(b, EDGE - 8, 8, 0x1111);
	assert_int_equal(RUN(b, movups_edge), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, EDGE);
	assert_int_equal(board_read(b, EDGE - 8, 8), 0x1111);
	assert_int_equal(RUN(b, fstp_edge), X86_VEC_PF);
	assert_int_equal(b->cpu->s.fpu.fx[X86_FX_FTW], 0x80);
	assert_int_equal(board_read(b, EDGE - 8, 8), 0x1111);
	assert_int_equal(RUN(b, load_edge), X86_VEC_PF);
}

CODE(crossing,
     "mov $0x21ffc, %ebx; movups %xmm0, (%rbx); movups (%rbx), %xmm1; fldpi; fstpt (%rbx);"
     "fldt (%rbx); fstpl 16(%rbx); hlt");
static void operands_may_cross_pages(void **state)
{
	struct board *b = *state;

	PREPARE(b, crossing);
	board_pte_set(b, BOARD_DATA + 0x2000,
		      (BOARD_DATA + 0x5000) | X86_PTE_P | X86_PTE_W | X86_PTE_A | X86_PTE_D);
	board_pte_set(b, EDGE, EDGE | X86_PTE_P | X86_PTE_W | X86_PTE_A | X86_PTE_D);
	memset(b->cpu->s.fpu.vec[0], 0x5a, 16);
	assert_int_equal(board_run(b), -1);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(b->cpu->s.fpu.vec[1][i], 0x5a);
	assert_int_equal(board_read(b, BOARD_DATA + 0x500c, 8), 0x400921fb54442d18);
}

CODE(divps, "divps %xmm1, %xmm0; hlt");
static void unmasked_simd_exceptions_are_delivered(void **state)
{
	struct board *b = *state;
	const uint32_t mxcsr = 0x1d80;

	for (int i = 0; i < 2; i++) {
		PREPARE(b, divps);
		memcpy(b->cpu->s.fpu.fx + X86_FX_MXCSR, &mxcsr, 4);
		memset(b->cpu->s.fpu.vec[0], 0x3f, 16);
		if (i)
			b->cpu->s.cr4 &= ~X86_CR4_OSXMMEXCPT;
		assert_int_equal(board_run(b), i ? X86_VEC_UD : X86_VEC_XM);
		assert_int_equal(fx32(b, X86_FX_MXCSR), 0x1d84);
		assert_int_equal(b->cpu->s.fpu.vec[0][0], 0x3f);
	}
}

CODE_BITS(
    fdiv0, 64,
    "movl $0x37b, (%rsp); fldcw (%rsp); fld1; fldz; fdivr %st, %st(1); nop; fnstsw %ax; fwait;"
    "hlt");
static void an_x87_exception_waits_for_the_next_waiting_instruction(void **state)
{
	struct board *b = *state;

	PREPARE(b, fdiv0);
	b->cpu->s.gpr[X86_RSP] -= 64;
	assert_int_equal(board_run(b), X86_VEC_MF);
	assert_int_equal(b->cpu->s.gpr[X86_RAX] & 0x8084, 0x8084);
	assert_int_equal(board_stack(b, 0), BOARD_CODE + (uint64_t)(fdiv0_end - fdiv0) - 2);
	assert_int_equal(fx32(b, X86_FX_FIP), BOARD_CODE + 14);
}

CODE(fist_mmio, "movl $0x37e, (%rsp); fldcw (%rsp); movl $0x7f000000, (%rsp); flds (%rsp);"
		"mov $0xe000000, %ebx; fistpl (%rbx); hlt");
CODE(fist_ok, "fld1; mov $0xe000000, %ebx; fistpl (%rbx); hlt");
static void a_store_that_faults_unmasked_does_not_reach_a_device(void **state)
{
	struct board *b = *state;
	unsigned before;

	PREPARE(b, fist_mmio);
	b->cpu->s.gpr[X86_RSP] -= 64;
	before = board_access(b)->count;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(board_access(b)->count, before);
	assert_int_equal(fx32(b, X86_FX_FSW) & 0x8081, 0x8081);
	PREPARE(b, fist_ok);
	before = board_access(b)->count;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(board_access(b)->count, before + 1);
	assert_int_equal(board_access(b)->value, 1);
}

CODE(maskmov, "mov $0x20ff0, %ebx; vpmaskmovd %ymm1, %ymm0, (%rbx); hlt");
CODE(maskload, "mov $0x20ff0, %ebx; vpmaskmovd (%rbx), %ymm0, %ymm1; hlt");
static void masked_moves_touch_only_what_is_chosen(void **state)
{
	struct board *b = *state;
	static const uint32_t low[8] = {0x80000000, 0, 0xffffffff, 0, 0, 0, 0, 0};
	static const uint32_t high[8] = {0x80000000, 0, 0, 0, 0x80000000};

	if (!has_avx2(b))
		skip();
	PREPARE(b, maskmov);
	board_write(b, EDGE - 12, 4, 0x7777);
	memcpy(b->cpu->s.fpu.vec[0], low, 32);
	memset(b->cpu->s.fpu.vec[1], 0x11, 32);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(board_read(b, EDGE - 16, 4), 0x11111111);
	assert_int_equal(board_read(b, EDGE - 12, 4), 0x7777);
	PREPARE(b, maskload);
	memcpy(b->cpu->s.fpu.vec[0], low, 32);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.fpu.vec[1][0], 0x11);
	assert_int_equal(b->cpu->s.fpu.vec[1][4], 0);
	PREPARE(b, maskmov);
	board_write(b, EDGE - 16, 4, 0x2222);
	memcpy(b->cpu->s.fpu.vec[0], high, 32);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(board_read(b, EDGE - 16, 4), 0x2222);
}

CODE(gather, "mov $0x20ff8, %ebx; vpgatherdd %xmm2, (%rbx,%xmm1,4), %xmm0; hlt");
static void a_gather_goes_on_where_a_fault_left_it(void **state)
{
	static const uint32_t index[4] = {0, 1, 2, 0};
	struct board *b = *state;
	uint32_t v[4];

	if (!has_avx2(b))
		skip();
	board_write(b, EDGE - 8, 8, 0x0000000200000001);
	PREPARE(b, gather);
	memcpy(b->cpu->s.fpu.vec[1], index, 16);
	memset(b->cpu->s.fpu.vec[2], 0xff, 32);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, EDGE);
	memcpy(v, b->cpu->s.fpu.vec[0], 16);
	assert_true(v[0] == 1 && v[1] == 2);
	memcpy(v, b->cpu->s.fpu.vec[2], 16);
	assert_true(v[0] == 0 && v[1] == 0 && v[2] == 0xffffffff);
}

static void a_state_with_mxcsr_bits_that_the_host_does_not_have_is_refused(void **state)
{
	struct board *b = *state;
	struct x86_state s;
	uint32_t mxcsr = 0x21f80, mask = b->cpu->vec->mxcsr_mask;

	assert_int_equal(engine_soft.get_state(&b->cpu->base, &s), 0);
	memcpy(s.fpu.fx + X86_FX_MXCSR, &mxcsr, sizeof(mxcsr));
	b->cpu->vec->mxcsr_mask = 0xffff;
	assert_int_equal(engine_soft.set_state(&b->cpu->base, &s), -EINVAL);
	b->cpu->vec->mxcsr_mask = 0x2ffff;
	assert_int_equal(engine_soft.set_state(&b->cpu->base, &s), 0);
	b->cpu->vec->mxcsr_mask = mask;
}

CODE_BITS(xsave_limit, 32, "xor %edx, %edx; mov $7, %eax; xsave (%edx); hlt");
CODE_BITS(xrstor_limit, 32, "xor %edx, %edx; mov $7, %eax; xrstor (%edx); hlt");
static void xsave_areas_are_within_their_segments(void **state)
{
	struct board *b = *state;
	const uint32_t end = 576 + 256;

	if (!has_avx2(b))
		skip();
	for (unsigned i = 0; i < 4; i++) {
		if (i & 2)
			board_load(b, BOARD_CODE, xrstor_limit,
				   (size_t)(xrstor_limit_end - xrstor_limit));
		else
			board_load(b, BOARD_CODE, xsave_limit,
				   (size_t)(xsave_limit_end - xsave_limit));
		board_prot(b, BOARD_CODE);
		b->cpu->s.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
		b->cpu->s.xcr0 = 7;
		b->cpu->s.seg[X86_DS].base = BOARD_DATA;
		b->cpu->s.seg[X86_DS].limit = end - 1 - (i & 1);
		b->cpu->s.seg[X86_DS].attr &= ~X86_SEG_G;
		memset(b->cpu->s.fpu.vec, 0x77, sizeof(b->cpu->s.fpu.vec));
		board_write(b, BOARD_DATA + 512, 8, 7);
		board_write(b, BOARD_DATA + 24, 8, 0x1f80);
		soft_mode_update(b->cpu);
		assert_int_equal(board_run(b), i & 1 ? X86_VEC_GP : -1);
	}
}

CODE(fxsave,
     "fld1; mov $0x20000, %ebx; fxsave64 (%rbx); fninit; pxor %xmm3, %xmm3; fxrstor64 (%rbx);"
     "hlt");
static void fxsave_and_fxrstor_are_inverse(void **state)
{
	struct board *b = *state;

	PREPARE(b, fxsave);
	for (unsigned i = 0x1a0; i < 0x200; i += 8)
		board_write(b, BOARD_DATA + i, 8, 0x1234);
	memset(b->cpu->s.fpu.vec[3], 0x33, 16);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.fpu.vec[3][7], 0x33);
	assert_int_equal(b->cpu->s.fpu.fx[X86_FX_FTW], 0x80);
	assert_int_equal(board_read(b, BOARD_DATA, 2), 0x37f);
	assert_int_equal(board_read(b, BOARD_DATA + 24, 4), 0x1f80);
	assert_int_equal(board_read(b, BOARD_DATA + 32, 8), BIT64(63));
	assert_int_equal(board_read(b, BOARD_DATA + 160 + 48, 1), 0x33);
	assert_int_equal(board_read(b, BOARD_DATA + 0x1a0, 8), 0x1234);
}

CODE(xrstor, "mov $7, %eax; xor %edx, %edx; mov $0x20000, %ebx; xrstor (%rbx); hlt");
static void xrstor_refuses_a_bad_header(void **state)
{
	static const struct {
		uint64_t bv, comp, next;
		uint32_t mxcsr;
		int vector;
	} cases[] = {
	    {0, 0, 0, 0x1f80, -1},
	    {7, 0, 0, 0x1f80, -1},
	    {8, 0, 0, 0x1f80, X86_VEC_GP},     /* a component that is not enabled */
	    {0, 1, 0, 0x1f80, X86_VEC_GP},     /* XCOMP_BV in the standard form */
	    {0, 0, 1, 0x1f80, X86_VEC_GP},     /* bytes 16 to 23 */
	    {2, 0, 0, 0xffff0000, X86_VEC_GP}, /* MXCSR's reserved bits */
	    {3, BIT64(63) | 3, 0, 0x1f80, -1},
	    {4, BIT64(63) | 3, 0, 0x1f80, X86_VEC_GP}, /* XSTATE_BV beyond XCOMP_BV */
	    {0, BIT64(63) | 0x100, 0, 0x1f80, X86_VEC_GP},
	};
	struct board *b = *state;

	if (!cpuid_has(&b->cpuid, 0xd, 1, CPUID_EAX, 1))
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		PREPARE(b, xrstor);
		for (unsigned at = 0; at < 832; at += 8)
			board_write(b, BOARD_DATA + at, 8, 0);
		board_write(b, BOARD_DATA, 2, 0x37f);
		board_write(b, BOARD_DATA + 24, 4, cases[i].mxcsr);
		board_write(b, BOARD_DATA + 512, 8, cases[i].bv);
		board_write(b, BOARD_DATA + 520, 8, cases[i].comp);
		board_write(b, BOARD_DATA + 528, 8, cases[i].next);
		memset(b->cpu->s.fpu.vec[5], 0x55, 32);
		assert_int_equal(board_run(b), cases[i].vector);
		if (cases[i].vector != -1)
			assert_int_equal(b->cpu->s.fpu.vec[5][20], 0x55);
		else if (!(cases[i].bv & 2))
			assert_int_equal(b->cpu->s.fpu.vec[5][0], 0);
	}
}

CODE(ldmxcsr, "mov $0x20000, %ebx; ldmxcsr (%rbx); stmxcsr 4(%rbx); hlt");
static void ldmxcsr_refuses_reserved_bits(void **state)
{
	struct board *b = *state;

	board_write(b, BOARD_DATA, 4, 0x9fc0);
	assert_int_equal(RUN(b, ldmxcsr), -1);
	assert_int_equal(board_read(b, BOARD_DATA + 4, 4), 0x9fc0);
	board_write(b, BOARD_DATA, 4, 0x80001f80);
	assert_int_equal(RUN(b, ldmxcsr), X86_VEC_GP);
	assert_int_equal(fx32(b, X86_FX_MXCSR), 0x1f80);
}

CODE_BITS(fnstenv, 32,
	  "fld1; fldz; mov $0x20000, %ebx; fnstenv (%ebx); fninit; fldenv (%ebx); fnsave 64(%ebx);"
	  "frstor 64(%ebx); hlt");
static void the_x87_environment_goes_to_memory_and_back(void **state)
{
	struct board *b = *state;

	board_load(b, BOARD_CODE, fnstenv, (size_t)(fnstenv_end - fnstenv));
	board_prot(b, BOARD_CODE);
	vec_x87_init(b->cpu);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(board_read(b, BOARD_DATA, 4), 0xffff037f);
	assert_int_equal(board_read(b, BOARD_DATA + 8, 4), 0xffff1fff); /* valid, zero, empty ... */
	assert_int_equal(board_read(b, BOARD_DATA + 12, 4), BOARD_CODE + 2); /* fldz */
	assert_int_equal(board_read(b, BOARD_DATA + 16, 2),
			 b->cpu->vec->no_selectors ? 0 : BOARD_CS32);
	assert_int_equal(b->cpu->s.fpu.fx[X86_FX_FTW], 0xc0);
	assert_int_equal(b->cpu->s.fpu.fx[X86_FX_ST + 16 + 9], 0x3f);
}

static void a_full_cache_of_thunks_is_emptied_on_the_way(void **state)
{
	struct board *b = *state;
	uint8_t code[5 * 1024 + 1];

	thunk_cache_free(b->cpu->vec->thunks);
	assert_int_equal(thunk_cache_new(&b->cpu->vec->thunks, 16 << 10, NULL), 0);
	for (unsigned i = 0; i < 1024; i++) {
		const uint8_t shufpd[5] = {0x66, 0x0f, 0xc6, (uint8_t)(0xc0 | (i & 63)),
					   (uint8_t)(i >> 6)};

		memcpy(code + i * 5, shufpd, 5);
	}
	code[5 * 1024] = 0xf4;
	prepare(b, code, code + sizeof(code));
	assert_int_equal(board_run(b), -1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, board_setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    TEST(counting_bits_has_no_vex_form),
	    TEST(control_registers_decide_what_may_run),
	    TEST(avx_needs_osxsave_and_xcr0),
	    TEST(vex_is_invalid_in_real_mode),
	    TEST(legacy_operands_must_be_aligned),
	    TEST(a_fault_at_a_pages_edge_changes_nothing),
	    TEST(operands_may_cross_pages),
	    TEST(unmasked_simd_exceptions_are_delivered),
	    TEST(an_x87_exception_waits_for_the_next_waiting_instruction),
	    TEST(a_store_that_faults_unmasked_does_not_reach_a_device),
	    TEST(masked_moves_touch_only_what_is_chosen),
	    TEST(a_gather_goes_on_where_a_fault_left_it),
	    TEST(a_state_with_mxcsr_bits_that_the_host_does_not_have_is_refused),
	    TEST(xsave_areas_are_within_their_segments),
	    TEST(fxsave_and_fxrstor_are_inverse),
	    TEST(xrstor_refuses_a_bad_header),
	    TEST(ldmxcsr_refuses_reserved_bits),
	    TEST(the_x87_environment_goes_to_memory_and_back),
	    TEST(a_full_cache_of_thunks_is_emptied_on_the_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
