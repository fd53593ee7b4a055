/* trans_vec_test.c: tests of vector and x87 instructions in translated code. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "engine/soft/testcode.h"
#include "engine/soft/trans.h"
#include "engine/soft/vec.h"

static void prepare(struct board *b, const uint8_t *code, const uint8_t *end)
{
	struct x86_fpu *f = &b->cpu->s.fpu;
	const uint32_t mxcsr = 0x1f80;

	board_load(b, BOARD_CODE, code, (size_t)(end - code));
	board_long(b, BOARD_CODE);
	b->cpu->s.cr4 |= X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	b->cpu->s.xcr0 = b->cpuid.xcr0_allowed & 7;
	vec_x87_init(b->cpu);
	memcpy(f->fx + X86_FX_MXCSR, &mxcsr, 4);
	memset(f->vec, 0, sizeof(f->vec));
	soft_mode_update(b->cpu);
}
static int run(struct board *b, const uint8_t *code, const uint8_t *end)
{
	prepare(b, code, end);
	return board_run(b);
}
#define RUN(b, name) run(b, name, name##_end)

static uint64_t xmm(struct board *b, unsigned n)
{
	uint64_t v;

	memcpy(&v, b->cpu->s.fpu.vec[n], 8);
	return v;
}
static uint32_t fx32(struct board *b, unsigned at)
{
	uint32_t v;

	memcpy(&v, b->cpu->s.fpu.fx + at, 4);
	return v;
}

CODE(sum_code, "mov $1000, %ecx; mov $1, %eax; cvtsi2sd %eax, %xmm1; xorpd %xmm0, %xmm0;"
	       "mov $0x20000, %ebx; movsd %xmm0, (%rbx);"
	       "1: movsd (%rbx), %xmm0; addsd %xmm1, %xmm0; movsd %xmm0, (%rbx); dec %ecx; jnz 1b;"
	       "cvttsd2si %xmm0, %r10; hlt");
static void floating_point_runs_as_host_code(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, sum_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_R10], 1000);
	assert_true(b->cpu->stats.retired < 20);
	assert_true(b->cpu->stats.lookups < 12);
}

/* A device's access is a C function's, in the middle of a block. */
CODE(across_code, "mov $0xe000000, %ebx; mov $7, %eax; movd %eax, %xmm0; pshufd $0, %xmm0, %xmm15;"
		  "fld1; movdq2q %xmm0, %mm5; vinserti128 $1, %xmm15, %ymm15, %ymm14;"
		  "mov %eax, (%rbx); mov (%rbx), %edx;"
		  "paddd %xmm15, %xmm0; vextracti128 $1, %ymm14, %xmm13; movd %mm5, %rsi;"
		  "mov %eax, 8(%rbx); movd %xmm0, %eax; movd %xmm13, %edi; emms; hlt");
static void vector_registers_survive_what_is_done_in_c(void **state)
{
	struct board *b = *state;

	if (!cpuid_has(&b->cpuid, 7, 0, CPUID_EBX, 5))
		skip();
	assert_int_equal(RUN(b, across_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 14);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], 7);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 7);
	assert_int_equal(xmm(b, 15), UINT64_C(0x700000007));
	assert_int_equal(b->cpu->vec_live, 0);
}

/* 1/3 towards plus infinity, flushing denormals; then a C function. */
CODE(
    round_code,
    "mov $0x20000, %ebx; movl $0xdf80, (%rbx); ldmxcsr (%rbx); movw $0xf7f, 8(%rbx); fldcw 8(%rbx);"
    "mov $1, %eax; cvtsi2sd %eax, %xmm0; mov $3, %eax; cvtsi2sd %eax, %xmm1; divsd %xmm1, %xmm0;"
    "mov $0xe000000, %esi; mov (%rsi), %esi; fldpi; fistpl 16(%rbx); movl 16(%rbx), %edi; hlt");
static void rounding_is_the_guests_in_the_guest_and_the_hosts_in_c(void **state)
{
	struct board *b = *state;
	volatile double one = 1, three = 3;
	double nearest = one / three;
	uint64_t bits;

	memcpy(&bits, &nearest, 8);
	assert_int_equal(RUN(b, round_code), -1);
	assert_int_equal(xmm(b, 0), bits + 1);
	assert_int_equal(fx32(b, X86_FX_MXCSR), 0xdfa0);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], 3); /* towards zero */
	assert_int_equal(__builtin_ia32_stmxcsr() & 0xffc0, 0x1f80);
	assert_true(one / three == nearest);
}

CODE(xm_code, "mov $0x20000, %ebx; movl $0x1d80, (%rbx); mov $1, %eax; cvtsi2sd %eax, %xmm0;"
	      "xorpd %xmm1, %xmm1; movapd %xmm0, %xmm2; ldmxcsr (%rbx); addsd %xmm2, %xmm2;"
	      "1: divsd %xmm1, %xmm0; hlt");
static void an_unmasked_simd_exception_is_the_guests(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, xm_code), X86_VEC_XM);
	assert_int_equal(xmm(b, 2), UINT64_C(0x4000000000000000));
	assert_int_equal(xmm(b, 0), UINT64_C(0x3ff0000000000000));
	assert_int_equal(board_stack(b, 0), BOARD_CODE + (uint64_t)(xm_code_end - xm_code) - 5);
	assert_int_equal(fx32(b, X86_FX_MXCSR), 0x1d84);
}

CODE(mf_code, "mov $0x20000, %ebx; movw $0x37b, (%rbx); fldz; fld1; fldcw (%rbx); fdiv %st(1);"
	      "mov $5, %esi; fwait; mov $6, %esi; hlt");
static void an_unmasked_x87_exception_waits_for_the_next_instruction(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, mf_code), X86_VEC_MF);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 5);
}

/* The pointers as FNSTENV shows them, of an instruction in the block before, and of one in its
 * own; the second operand is missed, a load in between too. */
CODE(env_code,
     "mov $0x20000, %ebx; mov $0x30000, %edx; 1: fldl (%rbx); mov (%rdx), %eax; jmp 2f; 2: nop;"
     "fnstenv 32(%rbx); 3: fadd %st(0); 4: fstpl 0x1008(%rdx); fnstcw 8(%rbx); fnstenv 64(%rbx);"
     "hlt");
static void the_pointers_are_those_of_the_last_instruction(void **state)
{
	struct board *b = *state;
	struct soft_vec *v = b->cpu->vec;
	uint64_t env = BOARD_DATA + 32;

	/* As they are without CPUID's bits that say less; what Intel's CPUs leave is vendor_test's.
	 */
	v->fop_late = v->fdp_late = v->no_selectors = 0;
	assert_int_equal(RUN(b, env_code), -1);
	assert_int_equal(board_read(b, env + 12, 4), BOARD_CODE + 10);
	assert_int_equal(board_read(b, env + 16, 4), BOARD_CS64 | 0x503 << 16);
	assert_int_equal(board_read(b, env + 20, 4), BOARD_DATA);
	assert_int_equal(board_read(b, env + 24, 2), BOARD_DS);
	env += 32;
	assert_int_equal(board_read(b, env + 12, 4), BOARD_CODE + 22);
	assert_int_equal(board_read(b, env + 16, 4), BOARD_CS64 | 0x59a << 16);
	assert_int_equal(board_read(b, env + 20, 4), 0x31008);
}

CODE(ts_code, "addps %xmm1, %xmm1; mov %cr0, %rax; or $8, %rax; mov %rax, %cr0; mov $3, %ecx;"
	      "1: addps %xmm0, %xmm0; dec %ecx; jnz 1b; hlt");
static void a_change_of_cr0_is_heeded_by_code_that_ran_before(void **state)
{
	struct board *b = *state;

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(RUN(b, ts_code), X86_VEC_NM);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 3);
}

/* Sixteen bytes over the instruction after the store: mov $5, %eax twice, six times nop. */
CODE(smc_code,
     "lea 3f(%rip), %rsi; movdqu (%rsi), %xmm0; mov $4, %ecx; xor %edx, %edx;"
     "1: movdqu %xmm0, 2f(%rip); 2: mov $7, %eax; mov $7, %eax; nop; nop; nop; nop; nop; nop;"
     "add %eax, %edx; paddb %xmm15, %xmm0; dec %ecx; jnz 1b; hlt;"
     "3: mov $5, %eax; mov $5, %eax; nop; nop; nop; nop; nop; nop");
static void a_vector_store_into_the_running_block_is_seen_at_once(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, smc_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], 20);
	assert_true(b->cpu->stats.invalidations >= 4);
}

CODE(align_code, "mov $0x20000, %ebx; movaps (%rbx), %xmm0; addps 16(%rbx), %xmm0;"
		 "movups 1(%rbx), %xmm0; 1: addps 24(%rbx), %xmm0; hlt");
static void only_what_must_be_aligned_faults_when_it_is_not(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, align_code), X86_VEC_GP);
	assert_int_equal(board_stack(b, 1),
			 BOARD_CODE + (uint64_t)(align_code_end - align_code) - 5);
}

/* The second space's number is less by just as much as the operand is misaligned. */
CODE(touch_code, "mov $0x20000, %ebx; mov (%rbx), %eax; hlt");
CODE(misaligned_code, "mov $0x20000, %ebx; addps 8(%rbx), %xmm0; hlt");
static void a_misaligned_operand_is_not_taken_for_another_spaces(void **state)
{
	struct board *b = *state;

	for (unsigned k = 0; k < 10; k++)
		assert_int_equal(RUN(b, touch_code), -1);
	uint64_t asid = b->cpu->asid;
	assert_true(asid > 8);
	prepare(b, misaligned_code, misaligned_code_end);
	b->cpu->asid = asid - 8;
	soft_cache_rekey(b->cpu);
	assert_int_equal(board_run(b), X86_VEC_GP);
}

/* One after the other each register alone has an upper half, in one byte. */
CODE(upper_code,
     "mov $0xe000000, %ebx; mov $0x20000, %esi; .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"
     "11, 12, 13, 14, 15; vzeroall; vmovdqu (%rsi), %ymm\\n; mov (%rbx), %eax;"
     "por %xmm3, %xmm3; vmovdqu %ymm\\n, 0x1000(%rsi); mov (%rbx), %eax; fld1;"
     "por %xmm3, %xmm3; vmovdqu %ymm\\n, 0x2000(%rsi); fstp %st(0); add $32, %rsi; .endr;"
     "hlt");
static void upper_halves_survive_in_whatever_register_they_are(void **state)
{
	struct board *b = *state;

	if (!cpuid_has(&b->cpuid, 7, 0, CPUID_EBX, 5))
		skip();
	for (unsigned n = 0; n < 16; n++)
		board_write(b, 0x20000 + n * 32 + 16 + n, 1, 0x80 >> (n & 7));
	assert_int_equal(RUN(b, upper_code), -1);
	for (unsigned k = 0; k < 16 * 32; k++) {
		assert_int_equal(board_read(b, 0x21000 + k, 1), board_read(b, 0x20000 + k, 1));
		assert_int_equal(board_read(b, 0x22000 + k, 1), board_read(b, 0x20000 + k, 1));
	}
}

/* Both halves of a product go to registers that live in memory; the operand is on the stack, on a
 * page that is found by a check of its own, and has an index. Or both are one register. */
CODE(product_code, "mov $0x8000000000000003, %rdx; mov %rdx, 0x20010; mov $0x20000, %ebx;"
		   "mov $2, %ecx; push %rdx; mov $100, %esi;"
		   "1: mulx (%rsp), %r10, %r11; mulx 16(%rbx), %r14, %r15;"
		   "mulx (%rbx, %rcx, 8), %r15, %r14; mulx 16(%rbx), %r10, %r10; dec %esi; jnz 1b;"
		   "mov (%rsp), %rax; mul %rdx; pop %rcx; hlt");
static void a_product_may_go_to_any_two_registers(void **state)
{
	struct board *b = *state;
	const uint64_t *gpr = b->cpu->s.gpr;

	assert_int_equal(RUN(b, product_code), -1);
	assert_true(gpr[X86_R11] == gpr[X86_RDX] && gpr[X86_R14] == gpr[X86_RDX]);
	assert_true(gpr[X86_R15] == gpr[X86_RAX] && gpr[X86_R10] == gpr[X86_RDX]);
	assert_true(gpr[X86_RAX] == 9 && gpr[X86_RDX] == UINT64_C(0x4000000000000003));
	assert_true(b->cpu->handled[ZYDIS_MNEMONIC_MULX] < 8);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_translate, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(floating_point_runs_as_host_code),
	    T(a_product_may_go_to_any_two_registers),
	    T(vector_registers_survive_what_is_done_in_c),
	    T(upper_halves_survive_in_whatever_register_they_are),
	    T(rounding_is_the_guests_in_the_guest_and_the_hosts_in_c),
	    T(an_unmasked_simd_exception_is_the_guests),
	    T(an_unmasked_x87_exception_waits_for_the_next_instruction),
	    T(the_pointers_are_those_of_the_last_instruction),
	    T(a_change_of_cr0_is_heeded_by_code_that_ran_before),
	    T(a_vector_store_into_the_running_block_is_seen_at_once),
	    T(only_what_must_be_aligned_faults_when_it_is_not),
	    T(a_misaligned_operand_is_not_taken_for_another_spaces),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
