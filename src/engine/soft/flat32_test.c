/* flat32_test.c: tests of 32-bit code with flat segments: addresses that wrap, thread-local
 * operands, what is above 4 GiB. They pass by the interpreter, by translated code and in lock-step.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "engine/soft/testcode.h"
#include "engine/soft/trans.h"

static void load(struct board *b, const uint8_t *code, const uint8_t *end)
{
	board_load(b, BOARD_CODE, code, (size_t)(end - code));
}
#define LOAD(b, name) load(b, name, name##_end)

/* 32-bit protected mode, or 32-bit code of a 64-bit kernel, ring 0; with paging in the latter. */
static void start(struct board *b, _Bool compat)
{
	struct x86_seg *cs = &b->cpu->s.seg[X86_CS];

	if (!compat) {
		board_prot(b, BOARD_CODE);
		return;
	}
	board_long(b, BOARD_CODE);
	cs->attr = 0xc09b;
	cs->selector = BOARD_CS32;
	soft_mode_update(b->cpu);
}

/* In both ways; what the code leaves in EAX. */
static void expect_eax(struct board *b, uint32_t eax)
{
	for (unsigned compat = 0; compat < 2; compat++) {
		start(b, compat);
		b->cpu->s.gpr[X86_RAX] = 0;
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], eax);
	}
	if (b->cpu->trans)
		assert_true(b->cpu->stats.translated > 0);
}

CODE_BITS(loop_code, 32,
	  "mov $10, %ecx; 1: add %ecx, %eax; call 2f; dec %ecx; jnz 1b; inc %eax; hlt;"
	  "2: push %ecx; push $7; push 4(%esp); pop %edx; pop %ebx; pop %esi; push %ebp;"
	  "mov %esp, %ebp; leave; add %ebx, %eax; sub %esi, %edx; sub %edx, %eax; ret");
static void calls_and_the_stack_have_words_of_4_bytes(void **state)
{
	struct board *b = *state;

	LOAD(b, loop_code);
	expect_eax(b, 55 + 70 + 1);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
}

CODE_BITS(wrap_code, 32,
	  "movl $0x1234, 0x20000; mov $-16, %ebx; mov $0x20010, %ecx; mov (%ebx,%ecx), %eax;"
	  "add 0x20010(%ebx), %eax; lea 0x40000(%ebx), %edx; shl $4, %edx; add (%ebx,%ecx,1), %eax;"
	  "mov $0x80010000, %edx; add (%ebx,%edx,2), %eax; mov $0x20000, %esi;"
	  "add 16(%ebx,%esi), %eax; movl $1, 0x20010(%ebx); add 0x20000, %eax; hlt");
static void an_address_is_its_sum_modulo_4_gib(void **state)
{
	struct board *b = *state;

	LOAD(b, wrap_code);
	/* The fourth one is at -16 + 0x20000, which is not written. */
	board_write(b, 0x1fff0, 4, 0x100);
	expect_eax(b, 4 * 0x1234 + 0x100 + 1);
}

CODE(above_code,
     "mov $0x100020000, %rax; mov (%rax), %rdx; mov %rdx, (%rax); push $0x10;"
     "lea 1f(%rip), %rax; push %rax; lretq; .code32; 1: mov $-16, %ebx;"
     "mov $0x20010, %ecx; mov (%ebx,%ecx), %eax; movl $5, (%ebx,%ecx); mov $0x1fffc, %edi;"
     "mov $2, %ecx; mov %eax, %esi; mov $9, %eax; rep stosl; mov %esi, %eax; hlt");
static void what_is_mapped_above_4_gib_is_never_seen(void **state)
{
	struct board *b = *state;

	LOAD(b, above_code);
	/* 4 GiB are at physical 4 MiB. */
	board_write(b, BOARD_PML4 + 0x1000 + 4 * 8, 8, 0x110000 | 7);
	board_write(b, 0x110000, 8, 0x400000 | 0x87);
	board_write(b, 0x420000, 4, 0xbad);
	board_write(b, BOARD_DATA, 4, 0x600d);
	board_long(b, BOARD_CODE);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 0x600d);
	assert_int_equal(board_read(b, 0x420000, 4), 0xbad);
	assert_int_equal(board_read(b, BOARD_DATA, 4), 9);
	assert_int_equal(board_read(b, BOARD_DATA - 4, 4), 9);
}

/* The upper halves are left over from 64-bit code. */
CODE(upper_code,
     "mov $0x500020000, %rdi; mov $0x700000004, %rcx; mov $0x900000041, %rax; push $0x10;"
     "lea 1f(%rip), %rdx; push %rdx; lretq; .code32; 1: rep stosb; mov $0x20000, %esi;"
     "mov -4(%edi), %eax; hlt");
static void upper_halves_of_registers_do_not_matter(void **state)
{
	struct board *b = *state;

	LOAD(b, upper_code);
	board_long(b, BOARD_CODE);
	assert_int_equal(board_run(b), -1);
	assert_int_equal((uint32_t)b->cpu->s.gpr[X86_RAX], 0x41414141);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], BOARD_DATA + 4);
}

CODE_BITS(tls_code, 32,
	  "mov %gs:0, %eax; add %gs:(%eax,%ecx), %eax; movl $3, %gs:8; lea %gs:12, %edx;"
	  "add %edx, %eax; call *%gs:16; hlt; 1: inc %eax; ret");
static void tls_start(struct board *b, _Bool compat, uint32_t limit)
{
	start(b, compat);
	b->cpu->s.seg[X86_GS] =
	    (struct x86_seg){.base = BOARD_DATA, .limit = limit, .attr = 0xc093, .selector = 0x18};
	b->cpu->s.gpr[X86_RCX] = (uint32_t)-4;
	soft_mode_update(b->cpu);
}
static void operands_in_gs_have_its_base(void **state)
{
	struct board *b = *state;

	LOAD(b, tls_code);
	board_write(b, BOARD_DATA, 4, 8);
	board_write(b, BOARD_DATA + 4, 4, 0x10000);
	board_write(b, BOARD_DATA + 16, 4, BOARD_CODE + (uint64_t)(tls_code_end - tls_code) - 2);
	for (unsigned compat = 0; compat < 2; compat++) {
		tls_start(b, compat, UINT32_MAX);
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 8 + 0x10000 + 12 + 1);
		assert_int_equal(board_read(b, BOARD_DATA + 8, 4), 3);
	}
	if (b->cpu->trans)
		assert_int_equal(b->cpu->handled[ZYDIS_MNEMONIC_MOV], 0);
}
static void a_limit_of_gs_is_kept_in_code_that_knew_none(void **state)
{
	struct board *b = *state;

	operands_in_gs_have_its_base(state);
	tls_start(b, 1, 7);
	assert_int_equal(board_run(b), X86_VEC_GP);
	assert_int_equal(board_read(b, BOARD_DATA + 8, 4), 3);
	tls_start(b, 1, 15);
	assert_int_equal(board_run(b), X86_VEC_GP);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 8 + 0x10000 + 12);
	tls_start(b, 1, UINT32_MAX);
	b->cpu->s.seg[X86_GS].attr = 0xc091; /* read-only */
	soft_mode_update(b->cpu);
	board_write(b, BOARD_DATA + 8, 4, 0);
	assert_int_equal(board_run(b), X86_VEC_GP);
	assert_int_equal(board_read(b, BOARD_DATA + 8, 4), 0);
}

CODE_BITS(
    forms_code, 32,
    "movl $6, 0x20000; mov 0x20000, %eax; mov %al, 0x20004; inc %eax; dec %ebx; xchg %eax, %ebx;"
    "xchg %eax, %ebx; .byte 0x82, 0xc0, 0x01; .byte 0x82, 0xec, 0x01; add 0x20004, %eax;"
    "pushfl; pop %edx; and $1, %edx; add %edx, %eax; mov $0x20000, %esi; mov $0x20008, %edi;"
    "mov $2, %ecx; rep movsl; add 0x20008, %eax; hlt");
static void encodings_that_64_bit_code_lacks_do_what_they_say(void **state)
{
	struct board *b = *state;

	LOAD(b, forms_code);
	/* 82 EC takes 1 from AH, which borrows from nothing: 0 becomes FF, with a carry. The
	 * addition after it has none. */
	expect_eax(b, 0xff08 + 6 + 0 + 6);
}

/* The last page: 0xfffff000 is mapped to the code, 0 to what follows it. */
CODE_BITS(last_code, 32, "nop; nop; nop; nop; mov $1, %eax; nop; nop; nop");
CODE_BITS(first_code, 32, "add $2, %eax; hlt");
static void execution_goes_on_at_0_after_the_last_byte(void **state)
{
	struct board *b = *state;

	for (unsigned cut = 0; cut < 4; cut++) { /* `cut` bytes of the addition in the last page */
		uint32_t entry = (uint32_t) - (12 + (int)cut);
		uint8_t code[64];

		memcpy(code, last_code, 12);
		memcpy(code + 12, first_code, (size_t)(first_code_end - first_code));
		board_load(b, 0x210000 - 12 - cut, code, 12 + cut);
		board_load(b, 0, code + 12 + cut, 16);
		start(b, 1);
		/* 3 GiB to 4 GiB, its last 2 MiB: physical 0x200000 and 64 KiB before. */
		board_write(b, BOARD_PML4 + 0x1000 + 3 * 8, 8, 0x111000 | 7);
		board_write(b, 0x111000 + 511 * 8, 8, 0x112000 | 7);
		board_write(b, 0x112000 + 511 * 8, 8, 0x20f000 | 7);
		for (unsigned again = 0; again < 3; again++) {
			b->cpu->s.activity = X86_RUNNING;
			b->cpu->s.rip = entry;
			b->cpu->s.gpr[X86_RAX] = 0;
			assert_int_equal(board_run(b), -1);
			assert_int_equal(b->cpu->s.gpr[X86_RAX], 3);
			assert_int_equal(b->cpu->s.rip, first_code_end - first_code - cut);
		}
	}
}

CODE_BITS(
    vector_code, 32,
    "fninit; movups 0x20000, %xmm0; paddd %xmm0, %xmm0; movd %xmm0, %eax; movups %xmm0, 0x20010;"
    "fildl 0x20000; fistpl 0x20020; fwait; add 0x20020, %eax; hlt");
static void vector_and_x87_code_runs_as_itself(void **state)
{
	struct board *b = *state;

	LOAD(b, vector_code);
	board_write(b, BOARD_DATA, 8, 0x600000005);
	for (unsigned compat = 0; compat < 2; compat++) {
		start(b, compat);
		b->cpu->s.cr4 |= X86_CR4_OSFXSR;
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 15);
		assert_int_equal(board_read(b, BOARD_DATA + 0x10, 8), 0xc0000000a);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, board_setup, board_teardown)
CODE_BITS(zero_code, 32, "1: vzeroupper; vzeroall; dec %ecx; jnz 1b; hlt");
static void vzeroall_leaves_registers_that_32_bit_code_has_not(void **state)
{
	struct board *b = *state;
	struct x86_fpu *f = &b->cpu->s.fpu;

	if (!(b->cpuid.xcr0_allowed & X86_XCR0_AVX))
		skip();
	LOAD(b, zero_code);
	for (unsigned compat = 0; compat < 2; compat++) {
		start(b, compat);
		b->cpu->s.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
		b->cpu->s.xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
		b->cpu->s.gpr[X86_RCX] = 3;
		soft_mode_update(b->cpu);
		memset(f->vec, 0x5a, sizeof(f->vec));
		assert_int_equal(board_run(b), -1);
		for (unsigned n = 0; n < 16; n++)
			for (unsigned at = 0; at < 32; at++)
				assert_int_equal(((const uint8_t *)f->vec[n])[at],
						 n < 8 ? 0 : 0x5a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(calls_and_the_stack_have_words_of_4_bytes),
	    T(an_address_is_its_sum_modulo_4_gib),
	    T(what_is_mapped_above_4_gib_is_never_seen),
	    T(upper_halves_of_registers_do_not_matter),
	    T(operands_in_gs_have_its_base),
	    T(a_limit_of_gs_is_kept_in_code_that_knew_none),
	    T(encodings_that_64_bit_code_lacks_do_what_they_say),
	    T(execution_goes_on_at_0_after_the_last_byte),
	    T(vector_and_x87_code_runs_as_itself),
	    T(vzeroall_leaves_registers_that_32_bit_code_has_not),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
