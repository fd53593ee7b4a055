/* trans_loop_test.c: tests of blocks that jump to their own beginning: trans_loop.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/soft/testcode.h"
#include "engine/soft/trans.h"
#include "engine/soft/vector.h"

#define PTE(lin) ((uint64_t)(lin) | 3)
#define FIRST	 0x20000u /* linear pages from here to LAST lie in memory the other way round */
#define LAST	 0x27000u

static uint64_t place(uint64_t lin)
{
	return lin >= FIRST && lin < LAST + 0x1000
		   ? (FIRST + LAST - (lin & ~0xfffu)) | (lin & 0xfff)
		   : lin;
}
static uint64_t byte_at(uint64_t lin)
{
	return (lin * 37 + (lin >> 12)) & 0xff;
}
static void pages_turn(struct board *b)
{
	for (uint64_t lin = FIRST; lin <= LAST; lin += 0x1000)
		board_pte_set(b, lin, PTE(place(lin)));
	for (uint64_t lin = FIRST; lin < LAST + 0x1000; lin++)
		board_write(b, place(lin), 1, byte_at(lin));
}
static uint64_t bytes_at(uint64_t lin, unsigned size)
{
	uint64_t v = 0;

	for (unsigned k = size; k-- > 0;)
		v = v << 8 | byte_at(lin + k);
	return v;
}

/* Each sums what it reads between two addresses: RSI, RDI, in steps of its own, from 200 places. */
#define SUM(name, body, step)                                                                      \
	CODE(name,                                                                                 \
	     "xor %eax, %eax; mov $200, %ecx; mov %rdi, %rbx; 2: mov %rbx, %rdi;"                  \
	     "1: " body "; cmp %rsi, %rdi; " step " 1b; inc %rbx; sub $1, %ecx; jne 2b; hlt")
SUM(sum_1, "movzbl (%rdi), %edx; add %rdx, %rax; add $1, %rdi", "jb");
SUM(sum_8, "add (%rdi), %rax; add $8, %rdi", "jb");
SUM(sum_24, "add 4(%rdi), %rax; add 12(%rdi), %rax; add $24, %rdi", "jb");
SUM(sum_192, "add $192, %rdi; add -192(%rdi), %rax", "jb");
SUM(sum_down, "add -8(%rdi), %rax; sub $8, %rdi", "ja");
SUM(sum_far_down, "sub $200, %rdi; add 16(%rdi), %rax", "ja");
SUM(sum_high, "mov %rdi, %r14; add (%r14), %rax; add $8, %rdi", "jb");
SUM(sum_wide, "add 1000(%rdi), %rax; add (%rdi), %rax; add $72, %rdi", "jb");
CODE(sum_index,
     "xor %eax, %eax; mov $200, %ecx; mov %rdi, %rbx; 2: mov %rbx, %r14; xor %r10d, %r10d;"
     "1: add 8(%r14, %r10, 4), %rax; add $16, %r14; add $-2, %r10; cmp %rsi, %r14;"
     "jb 1b; inc %rbx; sub $1, %ecx; jne 2b; hlt");
static void operands_that_move_are_found_in_every_page(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		int step, at, second, size;
	} sums[] = {
	    {sum_1, sum_1_end, 1, 0, -1, 1},
	    {sum_8, sum_8_end, 8, 0, -1, 8},
	    {sum_24, sum_24_end, 24, 4, 12, 8},
	    {sum_192, sum_192_end, 192, 0, -1, 8},
	    {sum_down, sum_down_end, -8, -8, -1, 8},
	    {sum_far_down, sum_far_down_end, -200, -184, -1, 8},
	    {sum_high, sum_high_end, 8, 0, -1, 8},
	    {sum_wide, sum_wide_end, 72, 0, 1000, 8},
	    {sum_index, sum_index_end, 8, 8, -1, 8},
	};
	struct board *b = *state;

	pages_turn(b);
	for (unsigned i = 0; i < ARRAY_SIZE(sums); i++) {
		_Bool down = sums[i].step < 0;
		uint64_t from = down ? LAST + 0x100 : FIRST + 0xe80,
			 to = down ? FIRST + 0x1000 : LAST - 0x1000, sum = 0;
		int step = sums[i].code == sum_index ? 16 : sums[i].step;
		board_load(b, BOARD_CODE, sums[i].code, (size_t)(sums[i].end - sums[i].code));
		board_long(b, BOARD_CODE);
		soft_cache_flush(b->cpu);
		b->cpu->s.gpr[X86_RDI] = from;
		b->cpu->s.gpr[X86_RSI] = to;
		uint64_t loops = b->cpu->stats.loops;
		assert_int_equal(board_run(b), -1);
		for (uint64_t k = from; k < from + 200; k++) {
			uint64_t at = k, lin = k;
			do {
				sum += bytes_at(lin + (uint64_t)(int64_t)sums[i].at,
						(unsigned)sums[i].size);
				if (sums[i].second >= 0)
					sum += bytes_at(lin + (uint64_t)sums[i].second, 8);
				at += (uint64_t)(int64_t)step;
				lin += (uint64_t)(int64_t)sums[i].step;
			} while (down ? at > to : at < to);
		}
		assert_int_equal(b->cpu->s.gpr[X86_RAX], sum);
		assert_true(b->cpu->stats.loops > loops);
	}
}

/* Stores, two of them in turn, into pages that are then compared. */
CODE(store_code, "mov $0x20008, %edi; mov $0x24000, %ebp; mov $2000, %ecx; 1: mov %rcx, (%rdi);"
		 "mov (%rdi), %rax; add %rax, 0x40000; mov %eax, (%rbp, %rcx, 4); add $8, %rdi;"
		 "sub $1, %rcx; jne 1b; hlt");
static void stores_that_move_are_made_in_every_page(void **state)
{
	struct board *b = *state;

	pages_turn(b);
	board_pte_set(b, 0x25000, PTE(0x31000));
	assert_int_equal(RUN_LONG(b, store_code), -1);
	for (uint64_t k = 0; k < 2000; k++)
		assert_int_equal(board_read(b, place(0x20008 + k * 8), 8), 2000 - k);
	assert_int_equal(board_read(b, 0x40000, 8), 2000 * 2001 / 2);
	assert_int_equal(board_read(b, 0x31004, 4), 0x401);
	assert_int_equal(board_read(b, place(0x24ffc), 4), 0x3ff);
	assert_true(b->cpu->stats.loops > 0);
}

/* Behind the last page there is none: registers and flags are those of the iteration before. */
CODE(fault_code, "mov $0x26fc0, %edi; xor %ecx, %ecx; xor %ebx, %ebx; 1: lea 1(%rcx), %ecx;"
		 "mov (%rdi), %rax; lea 8(%rdi), %rdi; add $3, %rbx; cmp $25, %rbx; jne 1b; hlt");
CODE(wrap_code, "mov $64, %edi; 1: mov (%rdi), %rax; sub $8, %rdi; cmp $8, %rbx; jne 1b; hlt");
static void a_fault_in_an_iteration_is_exact(void **state)
{
	struct board *b = *state;

	pages_turn(b);
	board_pte_set(b, 0x27000, 0);
	assert_int_equal(RUN_LONG(b, fault_code), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, 0x27000);
	assert_int_equal(b->cpu->s.gpr[X86_RBX], 24);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 9);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], 0x27000);
	/* of 24 - 25 */
	assert_int_equal(board_stack(b, 3) & X86_ARITH, X86_CF | X86_PF | X86_AF | X86_SF);
	assert_true(b->cpu->stats.loops > 0);
	/* Down through 0 to the other end, where nothing is. */
	assert_int_equal(RUN_LONG(b, wrap_code), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, UINT64_MAX - 7);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], UINT64_MAX - 7);
}

/* The first instruction of an iteration wants flags of the one before; the very first CF of STC. */
CODE(carry_code, "mov $0x20000, %edi; mov $0x23000, %esi; xor %eax, %eax; xor %ecx, %ecx; stc;"
		 "1: adc $0, %rax; adc (%rdi), %cl; lea 8(%rdi), %rdi; cmp %rsi, %rdi; jb 1b;"
		 "setz %dl; hlt");
static void flags_go_from_one_iteration_to_the_next(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, carry_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 0x3000 / 8);
	assert_int_equal(b->cpu->s.gpr[X86_RDX] & 0xff, 1);
	assert_true(b->cpu->stats.loops > 0);
}

/* Stores go through memory until they reach the loop itself, whose next instruction they change. */
CODE(walk_code, "lea 3f(%rip), %rdi; sub $800, %rdi; mov $0x42, %esi; jmp 1f; 1: mov %sil, (%rdi);"
		".byte 0xbb; 3: .long 0x11; add %ebx, %edx; add $4, %rdi; cmp $0x42, %ebx; jne 1b;"
		"mov %rdi, %rax; hlt");
static void a_loop_that_changes_itself_sees_it_at_once(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, walk_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RBX], 0x42);
	assert_int_equal((uint32_t)b->cpu->s.gpr[X86_RDX], 200 * 0x11 + 0x42);
}

/* Vectors that must be aligned, and are until the register moves by half of that. */
CODE(vector_code,
     "mov $0x600, %eax; mov %cr4, %rbx; or %rax, %rbx; mov %rbx, %cr4; mov %cr0, %rax;"
     "and $~12, %eax; mov %rax, %cr0; mov $0x20010, %edi; pxor %xmm0, %xmm0; mov $1000, %ecx;"
     "1: paddq (%rdi), %xmm0; add $16, %rdi; sub $1, %ecx; jne 1b; movq %xmm0, %rbx;"
     "2: paddq (%rdi), %xmm0; add $8, %rdi; sub $1, %ecx; jne 2b; hlt");
static void a_vector_that_is_not_aligned_faults_in_a_loop(void **state)
{
	struct board *b = *state;
	uint64_t sum = 0;

	pages_turn(b);
	assert_int_equal(RUN_LONG(b, vector_code), X86_VEC_GP);
	for (uint64_t k = 0; k < 1000; k++)
		sum += bytes_at(0x20010 + k * 16, 8);
	assert_int_equal(b->cpu->s.gpr[X86_RBX], sum);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], 0x20010 + 16000 + 8);
	assert_true(b->cpu->stats.loops > 0);
}

/* What is not known before: a register that changes by others, a base that is loaded, a count that
 * is shifted; and a page that goes away between the iterations, by an INVLPG that is in the loop.
 */
CODE(other_code, "mov $0x20000, %edi; mov $24, %ebp; mov $600, %ecx; mov $0x20800, %esi;"
		 "mov %rsi, 0x40000; 1: mov 8(%rdi), %rax; add %rax, 0x40008; add %rbp, %rdi;"
		 "mov 0x40000, %rbx; add (%rbx), %rdx; add $8, %rbx; mov %rbx, 0x40000;"
		 "sub $1, %ecx; jne 1b; hlt");
CODE(gone_code, "mov $0x20000, %edi; mov $0x103000 + 0x23 * 8, %esi; mov $3000, %ecx;"
		"1: mov (%rdi), %rax; invlpg 0x23000; cmp $1500, %ecx; mov $0, %edx;"
		"cmovb %rdx, %r8; mov %r8, (%rsi); add $8, %rdi; sub $1, %ecx; jne 1b; hlt");
static void what_is_not_a_constant_is_checked_each_time(void **state)
{
	struct board *b = *state;
	uint64_t sum = 0, next = 0;

	pages_turn(b);
	assert_int_equal(RUN_LONG(b, other_code), -1);
	for (uint64_t k = 0; k < 600; k++) {
		sum += bytes_at(0x20008 + k * 24, 8);
		next += bytes_at(0x20800 + k * 8, 8);
	}
	assert_int_equal(board_read(b, 0x40008, 8), sum);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], next);
	b->cpu->s.gpr[X86_R8] = PTE(place(0x23000));
	board_load(b, BOARD_CODE, gone_code, (size_t)(gone_code_end - gone_code));
	board_long(b, BOARD_CODE);
	soft_cache_flush(b->cpu);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, 0x23000);
}

CODE(spin_code, "1: add $1, %rax; test %rsp, %rsp; jne 1b");
CODE(spin_walk_code, "mov $0x20000, %edi; 1: mov (%rdi), %rax; mov 4(%rbp), %rdx; add $8, %rdi;"
		     "and $0xfff, %edi; or $0x20000, %edi; test %rsp, %rsp; jne 1b");
CODE(spin_up_code, "mov $0x20000, %edi; 2: mov $0x20000, %edi; 1: mov (%rdi), %rax; add $1, %rdi;"
		   "cmp $0x27000, %rdi; jne 1b; jmp 2b");
static void a_kick_ends_a_loop(void **state)
{
	static const struct {
		const uint8_t *code, *end;
	} loops[] = {
	    {spin_code, spin_code_end},
	    {spin_walk_code, spin_walk_code_end},
	    {spin_up_code, spin_up_code_end},
	};
	struct board *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(loops); i++) {
		uint64_t before = b->cpu->stats.loops;
		board_kick_loop(b, loops[i].code, loops[i].end);
		assert_true(b->cpu->stats.loops > before);
	}
}

#define T(f)                                                                                       \
	cmocka_unit_test_setup_teardown(f, board_setup_translate, board_teardown),                 \
	{                                                                                          \
#f " (lock-step)", f, board_setup_lockstep, board_teardown, NULL                   \
	}
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(operands_that_move_are_found_in_every_page),
	    T(stores_that_move_are_made_in_every_page),
	    T(a_fault_in_an_iteration_is_exact),
	    T(flags_go_from_one_iteration_to_the_next),
	    T(a_loop_that_changes_itself_sees_it_at_once),
	    T(a_vector_that_is_not_aligned_faults_in_a_loop),
	    T(what_is_not_a_constant_is_checked_each_time),
	    cmocka_unit_test_setup_teardown(a_kick_ends_a_loop, board_setup_translate,
					    board_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
