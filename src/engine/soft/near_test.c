/* near_test.c: tests of checks that several memory operands share: soft_cpu.near, trans_near.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "engine/soft/direct.h"
#include "engine/soft/vector.h"
#include "engine/soft/testcode.h"
#include "engine/soft/trans.h"

#define PTE(lin) ((uint64_t)(lin) | 3)

CODE(shared_code,
     "mov $0x20000, %edi; mov $1000, %ecx; 1: mov (%rdi), %rax; add 8(%rdi), %rax;"
     "add $32, %rdi; incl -4(%rdi); mov %rax, -16(%rdi); sub $32, %rdi; dec %ecx; jnz 1b; hlt");
static void operands_in_one_page_share_one_look_at_the_tlb(void **state)
{
	struct board *b = *state;

	board_write(b, 0x20000, 8, 5);
	board_write(b, 0x20008, 8, 7);
	assert_int_equal(RUN_LONG(b, shared_code), -1);
	assert_int_equal(board_read(b, 0x20010, 8), 12);
	assert_int_equal(board_read(b, 0x2001c, 4), 1000);
	assert_in_range(b->cpu->stats.near_fills, 1, 8);
	assert_in_range(b->cpu->stats.slow, 0, 8);
}

/* The same block, where its operands lie in two pages that are not side by side in memory. */
CODE(split_code, "mov $0x20100, %edi; mov $2, %ecx; 1: mov (%rdi), %rax; mov 24(%rdi), %rbx;"
		 "mov %rbx, 8(%rdi); mov %rax, 40(%rdi); add %rax, 21(%rdi); mov $0x20fe8, %edi;"
		 "dec %ecx; jnz 1b; hlt");
static void operands_over_a_page_end_are_each_in_their_own(void **state)
{
	struct board *b = *state;

	board_pte_set(b, 0x21000, PTE(0x31000));
	board_write(b, 0x20fe8, 8, 0x1111);
	board_write(b, 0x31000, 8, 0x2222);
	board_write(b, 0x21000, 8, 0xbad);
	assert_int_equal(RUN_LONG(b, split_code), -1);
	assert_int_equal(board_read(b, 0x20ff0, 8), 0x2222);
	assert_int_equal(board_read(b, 0x31010, 8), 0x1111);
	/* 0x1111 was added at 0x20ffd, across the end: its low bytes, then 0x2222's. */
	assert_int_equal(board_read(b, 0x20ffd, 2), 0x1111);
	assert_int_equal(board_read(b, 0x31000, 8), 0x2222);
	assert_int_equal(board_read(b, 0x21000, 8), 0xbad);
}

/* The lowest operand is 8 bytes below 0 and faults; the others are at 0 and above. */
CODE(wrap_code, "mov $0x20100, %edi; 1: mov 8(%rdi), %rax; mov 16(%rdi), %rbx; mov %rax, 24(%rdi);"
		"mov (%rdi), %rdx; mov $-8, %rdi; jmp 1b");
static void operands_around_0_are_not_one_page(void **state)
{
	struct board *b = *state;

	board_write(b, 0, 8, 0x33);
	board_write(b, 0x20100, 8, 0x44);
	assert_int_equal(RUN_LONG(b, wrap_code), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, UINT64_MAX - 7);
	assert_int_equal(board_read(b, 16, 8), 0x33);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], 0x44);
}

/* Registers change by other means than constants: whole, by half, on a condition, by a pop. */
CODE(changed_code,
     "mov $0x20000, %edi; mov $0x22000, %esi; mov $0x24000, %ebp; mov %rsi, 0x20800; mov $3, %ecx;"
     "1: mov (%rdi), %rax; xchg %rdi, %rsi; add 8(%rdi), %rax; cmp %ecx, %ecx; cmove %rbp, %rdi;"
     "add 16(%rdi), %rax; lea 0x2000(%rdi, %rcx, 8), %rdi; add (%rdi), %rax; push %rsi; pop %rdi;"
     "add 24(%rdi), %rax; mov 0x20800, %rdi; add 32(%rdi), %rax; mov $-0x1000, %rbx;"
     "xadd %rbx, %rdi; add 40(%rdi), %rax; mov $0x20000, %edi; mov $0x22000, %esi; dec %ecx;"
     "jnz 1b; hlt");
static void a_base_that_changed_is_looked_for_anew(void **state)
{
	struct board *b = *state;

	board_write(b, 0x20000, 8, 0x1);
	board_write(b, 0x22008, 8, 0x10);
	board_write(b, 0x24010, 8, 0x100);
	board_write(b, 0x26008, 8, 0x1000);
	board_write(b, 0x20018, 8, 0x10000);
	board_write(b, 0x22020, 8, 0x100000);
	board_write(b, 0x21028, 8, 0x1000000);
	assert_int_equal(RUN_LONG(b, changed_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 0x1111111);
}

/* Another page comes in the place of one that a check was made for, in every way. */
CODE(flushed_code,
     "mov $0x20000, %edi; mov $1, %ebx; 1: mov (%rdi), %rax; mov 8(%rdi), %rdx; mov %rax, 16(%rdi);"
     "cmp $1, %ebx; je 2f; cmp $2, %ebx; je 3f; cmp $3, %ebx; je 4f; hlt;"
     "2: movq $0x30003, 0x103100; invlpg (%rdi); inc %ebx; jmp 1b;"
     "3: movq $0x40003, 0x103100; mov %cr3, %rcx; mov %rcx, %cr3; inc %ebx; jmp 1b;"
     "4: movq $0x40001, 0x103100; invlpg (%rdi); mov %cr0, %rcx; or $0x10000, %ecx; mov %rcx, %cr0;"
     "inc %ebx; jmp 1b");
static void a_page_that_changed_is_seen_at_once(void **state)
{
	struct board *b = *state;

	for (uint64_t k = 2; k <= 4; k++)
		board_write(b, k << 16, 8, k);
	/* At last it is read-only: the loads are done, the store faults. */
	assert_int_equal(RUN_LONG(b, flushed_code), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, 0x20010);
	for (uint64_t k = 2; k <= 4; k++)
		assert_int_equal(board_read(b, (k << 16) + 16, 8), k);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 4);
}

/* Stores with a shared check into the code that follows them. */
CODE(own_code, "lea 2f(%rip), %rdi; mov $2, %ecx; 1: mov -8(%rdi), %rax; movb $0x42, 1(%rdi);"
	       "2: mov $0x11, %bl; movb $0x43, 1(%rdi); add %ebx, %edx; dec %ecx; jnz 1b; hlt");
static void stores_into_the_block_itself_are_seen_by_the_next_instruction(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, own_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RBX] & 0xff, 0x42);
}

/* Flags that no check may lose: of the instruction before an operand, when that faults. */
CODE(flags_code, "mov $0x20000, %edi; 1: mov (%rdi), %rax; cmp $-1, %al; mov 8(%rdi), %rbx;"
		 "mov 16(%rdi), %rdx; jne 2f; hlt; 2: mov $0x7fffffffffffffff, %rcx; add $1, %rcx;"
		 "mov %rcx, 24(%rdi); mov $0x0fff000000000000, %rdi; add $1, %rcx; sub $2, %rcx;"
		 "mov (%rdi), %rax");
static void flags_are_exact_where_an_operand_faults(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, flags_code), X86_VEC_GP);
	assert_int_equal(board_stack(b, 3) & X86_ARITH, X86_OF | X86_AF | X86_PF);
}

/* SMAP: what is open between STAC and CLAC is closed after it, whatever was looked up meanwhile. */
CODE(smap_code, "mov $0x20000, %edi; mov $0x30000, %esi; mov %cr4, %rax; or $0x200000, %eax;"
		"mov %rax, %cr4; mov $5, %ecx; 1: stac; mov (%rdi), %rax; mov 8(%rdi), %rbx;"
		"mov %rax, (%rsi); mov %rbx, 8(%rsi); clac; mov (%rsi), %rax; mov %rax, 16(%rsi);"
		"dec %ecx; jnz 1b; mov 8(%rdi), %rbx; hlt");
static void a_user_page_is_closed_again_by_clac(void **state)
{
	struct board *b = *state;

	board_user(b, BOARD_CODE);
	for (uint64_t lin = 0; lin < 4 << 20; lin += 4096)
		if (lin != 0x20000)
			board_pte_set(b, lin, PTE(lin));
	board_write(b, 0x20000, 8, 77);
	b->cpuid = b->cpuid;
	assert_int_equal(RUN_LONG(b, smap_code), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, 0x20008);
	assert_int_equal(board_read(b, 0x30010, 8), 77);
}

/* An operand that hops between pages is no longer given an entry; results stay right. */
CODE(hopping_code,
     "mov $200000, %ecx; mov $0x20000, %edi; xor %eax, %eax; 1: add (%rdi), %rax; incq 8(%rdi);"
     "imul $1103515245, %ebx, %ebx; add $12345, %ebx; mov %ebx, %edi; shr $16, %edi;"
     "and $0xf, %edi; shl $13, %edi; add $0x20000, %edi; dec %ecx; jnz 1b; hlt");
static void a_check_that_does_not_pay_is_given_up(void **state)
{
	struct board *b = *state;
	uint64_t sum = 0;

	for (unsigned k = 0; k < 16; k++)
		board_write(b, 0x20000 + k * 0x2000, 8, 1);
	assert_int_equal(RUN_LONG(b, hopping_code), -1);
	for (unsigned k = 0; k < 16; k++)
		sum += board_read(b, 0x20008 + k * 0x2000, 8);
	assert_int_equal(sum, 200000);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 200000);
}

/* Instructions whose operands the block's code looks for in the TLB by themselves. */
static unsigned apart(struct board *b, const uint8_t *code, const uint8_t *at)
{
	b->cpu->s.rip = BOARD_CODE + (uint64_t)(at - code);
	return (unsigned)__builtin_popcountll(soft_cache_lookup(b->cpu)->apart);
}

/* One operand hops, the others stay where they are, before and after it. */
CODE(mixed_code, "mov $200000, %ecx; mov $0x60000, %esi; xor %eax, %eax; mov $0x20000, %edi;"
		 "jmp mixed_loop; mixed_loop: add (%rsi), %rax; mov %rax, 8(%rsi); incq 8(%rdi);"
		 "mov 8(%rsi), %rax; incq 16(%rsi); imul $1103515245, %ebx, %ebx;"
		 "add $12345, %ebx; mov %ebx, %edi; shr $16, %edi; and $0xf, %edi; shl $13, %edi;"
		 "add $0x20000, %edi; dec %ecx; jnz mixed_loop; hlt");
extern const uint8_t mixed_loop[];
static void an_operand_that_hops_is_looked_for_by_itself(void **state)
{
	struct board *b = *state;
	uint64_t sum = 0;

	board_write(b, 0x60000, 8, 3);
	assert_int_equal(RUN_LONG(b, mixed_code), -1);
	for (unsigned k = 0; k < 16; k++)
		sum += board_read(b, 0x20008 + k * 0x2000, 8);
	assert_int_equal(sum, 200000);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 600000);
	assert_int_equal(board_read(b, 0x60010, 8), 200000);
	assert_in_range(apart(b, mixed_code, mixed_loop), 0, 1);
	assert_int_equal(apart(b, mixed_code, mixed_loop), b->cpu->stats.near_given_up);
}

/* Whatever the time: always, never. */
static void checks_are_given_up_by_the_time_that_fills_take(void **state)
{
	struct board *b = *state;

	assert_int_equal(b->cpu->near_ticks, TRANS_NEAR_TICKS);
	for (unsigned k = 0; k < 2; k++) {
		uint64_t before = b->cpu->stats.near_given_up;
		uint64_t fills = b->cpu->stats.near_fills;
		soft_cache_flush(b->cpu);
		b->cpu->near_ticks = k ? UINT64_MAX : 0;
		assert_int_equal(RUN_LONG(b, mixed_code), -1);
		assert_int_equal(b->cpu->stats.near_given_up - before, k);
		assert_int_equal(b->cpu->stats.near_fills - fills < 10000, k);
	}
}

/* Where helpers have what computes, and where there are none. */
static void how_long_they_may_take_depends_on_helpers(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, hopping_code), -1);
	if (b->cpu->direct->refused) {
		print_message("skipped: %s\n", b->cpu->direct->why);
		skip();
	}
	assert_int_equal(b->cpu->near_ticks, TRANS_NEAR_TICKS_DIRECT);
	b->cpu->direct->refused = 1;
	assert_int_equal(RUN_LONG(b, hopping_code), -1);
	assert_int_equal(b->cpu->near_ticks, TRANS_NEAR_TICKS);
}

/* FABS's address is what is told of the x87's last instruction, whatever way its block goes on. */
CODE(pointer_code,
     "mov $0x600, %eax; mov %cr4, %rbx; or %rax, %rbx; mov %rbx, %cr4; mov %cr0, %rax;"
     "and $~12, %eax; mov %rax, %cr0; fninit; fld1; mov $50000, %ecx; xor %ebx, %ebx;"
     "1: fchs; jmp pointer_abs; pointer_abs: fabs; imul $1103515245, %ebx, %ebx;"
     "add $12345, %ebx; mov %ebx, %edi; shr $16, %edi; and $0xf, %edi; shl $13, %edi;"
     "incq 0x20000(%rdi); dec %ecx; jz 2f; mov $1, %eax; test $1, %al; jnz 1b;"
     "2: fnstenv 0x60000; mov 0x6000c, %edx; hlt");
extern const uint8_t pointer_abs[];
static void the_last_x87_instruction_is_known_after_a_check_is_given_up(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, pointer_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], BOARD_CODE + (pointer_abs - pointer_code));
}

/* Ring 3. String instructions move what a check was made for, over the end of its page: the next is
 * mapped elsewhere, and its neighbour in memory is not the program's. The first block has the TLB
 * filled. */
#define STRING_CODE(name, text)                                                                    \
	CODE(name,                                                                                 \
	     "mov (%rdi), %rax; mov %rax, (%rdi); mov (%rsi), %rax; mov %rax, (%rsi); jmp 1f;"     \
	     "1: mov (%rdi), %rax; mov (%rsi), %rbx; " text                                        \
	     "mov (%rdi), %rcx; mov (%rsi), %rbp; mov %rdx, (%rdi); mov %rdx, (%rsi); hlt")
STRING_CODE(scas_code, "scasq; scasq; scasq; scasq; lea 0x2000(%rdi), %rsi;");
STRING_CODE(cmps_code, "cmpsq; cmpsq; cmpsq; cmpsq;");
STRING_CODE(movs_code, "movsq; movsq; movsq; movsq;");
STRING_CODE(lods_code, "lodsq; lodsq; lodsq; lodsq; lea -0x2000(%rsi), %rdi;");
STRING_CODE(stos_code, "stosq; stosq; stosq; stosq; lea 0x2000(%rdi), %rsi;");
static void string_instructions_move_what_was_checked(void **state)
{
	struct board *b = *state;
	static const struct {
		const uint8_t *code, *end;
	} codes[] = {{scas_code, scas_code_end},
		     {cmps_code, cmps_code_end},
		     {movs_code, movs_code_end},
		     {lods_code, lods_code_end},
		     {stos_code, stos_code_end}};

	for (unsigned n = 0; n < 3 * ARRAY_SIZE(codes); n++) {
		unsigned k = n % ARRAY_SIZE(codes);

		board_load(b, BOARD_CODE, codes[k].code, (size_t)(codes[k].end - codes[k].code));
		board_user(b, BOARD_CODE);
		board_pte_set(b, 0x21000, 0x30007);
		board_pte_set(b, 0x23000, 0x31007);
		soft_tlb_flush_all(b->cpu);
		for (unsigned page = 0; page < 2; page++) {
			board_write(b, 0x21000 + page * 0x2000, 8, 0x5ec2e7);
			board_write(b, 0x30000 + page * 0x1000, 8, 0x2222 + page);
		}
		b->cpu->s.gpr[X86_RDI] = 0x20fe0;
		b->cpu->s.gpr[X86_RSI] = 0x22fe0;
		b->cpu->s.gpr[X86_RDX] = 0x77;
		/* HLT in ring 3. */
		assert_int_equal(board_run(b), X86_VEC_GP);
		assert_int_equal(b->cpu->s.gpr[X86_RDI], 0x21000);
		assert_int_equal(b->cpu->s.gpr[X86_RCX], 0x2222);
		assert_int_equal(b->cpu->s.gpr[X86_RBP], 0x2223);
		assert_int_equal(board_read(b, 0x30000, 8), 0x77);
		assert_int_equal(board_read(b, 0x21000, 8), 0x5ec2e7);
		assert_int_equal(board_read(b, 0x23000, 8), 0x5ec2e7);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_translate, board_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(operands_in_one_page_share_one_look_at_the_tlb),
	    T(operands_over_a_page_end_are_each_in_their_own),
	    T(operands_around_0_are_not_one_page),
	    T(a_base_that_changed_is_looked_for_anew),
	    T(a_page_that_changed_is_seen_at_once),
	    T(stores_into_the_block_itself_are_seen_by_the_next_instruction),
	    T(flags_are_exact_where_an_operand_faults),
	    T(a_user_page_is_closed_again_by_clac),
	    T(a_check_that_does_not_pay_is_given_up),
	    T(checks_are_given_up_by_the_time_that_fills_take),
	    cmocka_unit_test_setup_teardown(how_long_they_may_take_depends_on_helpers,
					    board_setup_direct, board_teardown),
	    T(an_operand_that_hops_is_looked_for_by_itself),
	    T(the_last_x87_instruction_is_known_after_a_check_is_given_up),
	    T(string_instructions_move_what_was_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
