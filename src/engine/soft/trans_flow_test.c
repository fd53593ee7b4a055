/* trans_flow_test.c: tests of the ways between translated blocks: returns that are predicted and
 * are not what was predicted, events on the way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "engine/soft/testcode.h"
#include "engine/soft/trans.h"
#include "engine/soft/vector.h"

CODE(fib_code, "mov $18, %edi; call 1f; hlt;"
	       "1: mov %edi, %eax; cmp $2, %edi; jb 2f; push %rbx; push %rdi; dec %edi; call 1b;"
	       "mov %rax, %rbx; pop %rdi; sub $2, %edi; call 1b; add %rbx, %rax; pop %rbx; 2: ret");
static void calls_and_returns_that_match_never_leave_host_code(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, fib_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 2584);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
	/* Those whose calls were made before all code was linked. */
	assert_true(b->cpu->stats.strayed < 100);
	assert_true(b->cpu->stats.entries < 100);
}

/* Deeper than there are frames; the first two times on the way to being linked. */
CODE(deep_code, "mov $0x80000, %esp; mov $5, %edx; 4: mov $6000, %ecx; xor %eax, %eax; call 1f;"
		"dec %edx; jnz 4b; hlt;"
		"1: inc %eax; dec %ecx; jz 2f; call 1b; lea 1(%rax), %eax; 2: ret");
static void recursion_may_be_deeper_than_what_is_predicted(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, deep_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 6000 + 5999);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], 0x80000);
	assert_true(b->cpu->stats.strayed > 5 * 4900);
	assert_true(b->cpu->stats.strayed < 5 * 6000 - 3 * 800);
}

/* The callee returns elsewhere, to its caller's caller, and by a thunk as for retpolines. */
CODE(elsewhere_code, "xor %esi, %esi; mov $40, %ecx; 1: call 2f; add $0x10000, %esi; 5: call 3f;"
		     "add $0x100, %esi; call 6f; lea 8f(%rip), %rax; call 7f; inc %esi; dec %ecx;"
		     "jnz 1b; hlt;"
		     "2: lea 5b(%rip), %rax; mov %rax, (%rsp); ret;"
		     "3: call 4f; add $0x20000, %esi; ret; 4: add $8, %rsp; ret;"
		     "6: ret $0; 7: call 9f; 0: pause; jmp 0b; 9: mov %rax, (%rsp); ret;"
		     "8: add $0x1000000, %esi; ret");
static void a_return_goes_where_the_stack_says(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, elsewhere_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 40 * 0x1000101);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
	assert_in_range(b->cpu->stats.strayed, 40, 400);
}

/* Out of nine calls at once, as longjmp does, and then returns of those before. */
CODE(longjmp_code, "mov $30, %ecx; xor %esi, %esi; 1: call 2f; dec %ecx; jnz 1b; hlt;"
		   "2: call 3f; inc %esi; ret;"
		   "3: mov %rsp, %rbp; lea 5f(%rip), %rbx; mov $9, %edx; call 4f; ud2;"
		   "4: dec %edx; jz 6f; call 4b; ud2; 6: mov %rbp, %rsp; jmp *%rbx;"
		   "5: add $0x100, %esi; ret");
static void a_long_jump_leaves_calls_behind(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, longjmp_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 30 * 0x101);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
}

/* Stacks that are changed between call and return: two threads of one address space. */
CODE(stacks_code,
     "mov $0x30000, %ebp; lea 8f(%rip), %rax; sub $8, %ebp; mov %rax, (%rbp);"
     "mov $50, %ecx; xor %esi, %esi; xor %edi, %edi;"
     "1: inc %esi; call 9f; dec %ecx; jnz 1b; hlt;"
     "8: call 7f; inc %edi; jmp 8b; 7: call 9f; add $2, %edi; ret; 9: xchg %rsp, %rbp; ret");
static void stacks_may_be_changed_in_a_call(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, stacks_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 50);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], 49 * 3);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
}

/* The frame below all others says 0. */
static void a_return_to_the_address_0_is_one_as_any_other(void **state)
{
	static const uint8_t push_ret[] = {0x6a, 0, 0xc3}, there[] = {0xb8, 42, 0, 0, 0, 0xf4};
	struct board *b = *state;

	board_load(b, 0, there, sizeof(there));
	board_load(b, BOARD_CODE, push_ret, sizeof(push_ret));
	for (unsigned i = 0; i < 3; i++) {
		board_long(b, BOARD_CODE);
		b->cpu->s.gpr[X86_RAX] = 0;
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 42);
		assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
		assert_int_equal(b->cpu->s.rip, 6);
	}
}

/* An address that is not canonical is #GP before anything changed, wherever the frame points. */
CODE(noncanonical_code, "call 1f; hlt; 1: movb $0x12, 7(%rsp); ret");
static void a_return_to_no_address_faults_at_the_return(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, noncanonical_code), X86_VEC_GP);
	assert_int_equal(board_stack(b, 1), BOARD_CODE + 5 + 1 + 5);
	assert_int_equal(board_stack(b, 4), BOARD_STACK - 8);
}

/* The callee lies in another page, and changes what its caller's call is followed by. */
CODE(rewrite_code, "mov $0x20000, %ebx; mov $20, %ecx; xor %esi, %esi;"
		   "1: lea 2f+2(%rip), %rdi; call *%rbx; 2: add $1, %esi; dec %ecx; jnz 1b; hlt");
static void a_callee_may_rewrite_what_it_returns_to(void **state)
{
	static const uint8_t callee[] = {0xfe, 0x07, 0xc3}; /* incb (%rdi); ret */
	struct board *b = *state;

	board_load(b, 0x20000, callee, sizeof(callee));
	assert_int_equal(RUN_LONG(b, rewrite_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 20 + 20 * 21 / 2);
	assert_true(b->cpu->stats.invalidations >= 20);
}

/* Code at 0x30000: call *%rbx; add $n, %esi; jmp *%rdx, with another n at 0x31000. */
static void two_callers(struct board *b)
{
	uint8_t caller[] = {0xff, 0xd3, 0x83, 0xc6, 1, 0xff, 0xe2};

	board_load(b, 0x30000, caller, sizeof(caller));
	caller[4] = 0x10;
	board_load(b, 0x31000, caller, sizeof(caller));
}

/* The callee puts the other page in the place of its caller's. */
CODE(remap_code, "mov $0x30000, %ebp; lea 3f(%rip), %rbx; lea 2f(%rip), %rdx; mov $16, %ecx;"
		 "xor %esi, %esi; 1: jmp *%rbp; 2: dec %ecx; jnz 1b; hlt;"
		 "3: test $1, %cl; jz 4f; xorl $0x1000, 0x103180; invlpg (%rbp); 4: ret");
static void a_callee_may_remap_what_it_returns_to(void **state)
{
	struct board *b = *state;

	two_callers(b);
	assert_int_equal(RUN_LONG(b, remap_code), -1);
	/* 16: as it was; 15, 14: the other; 13, 12 ... */
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 1 + 8 * 0x10 + 7 * 1);
}

/* As many tables again, in which the caller's page is the other; process-context identifiers keep
 * translations of both. At first it is not changed, then always, and what follows a change is
 * executed in one address space only: so host code finds its way under the new key and is not left,
 * once more pages were touched than are dropped one by one (mmu.c). */
#define OTHER_PML4 0x200000u
CODE(cr3_code,
     "mov $0x40000, %edx; mov $70, %ecx; 0: mov (%rdx), %eax; add $0x1000, %edx;"
     "dec %ecx; jnz 0b; mov $0x30000, %ebp; lea 3f(%rip), %rbx; lea 2f(%rip), %rdx;"
     "mov $64, %ecx; xor %esi, %esi; mov %cr3, %rdi; bts $63, %rdi; jmp 1f; .skip 256;"
     "1: jmp *%rbp;"
     "2: cmp $32, %ecx; ja 4f; xor $0x300001, %rdi; mov %rdi, %cr3; 4: dec %ecx; jnz 1b; hlt;"
     "3: cmp $32, %ecx; ja 5f; xor $0x300001, %rdi; mov %rdi, %cr3; 5: ret");
static void an_address_space_may_change_between_call_and_return(void **state)
{
	struct board *b = *state;

	two_callers(b);
	for (unsigned i = 0; i < 5 * 512; i++) {
		uint64_t v = board_read(b, BOARD_PML4 + i * 8, 8);
		/* Tables that point to tables point to the copies. */
		if (i / 512 < 3 && (v & 1) && !(v & 0x80))
			v += OTHER_PML4 - BOARD_PML4;
		board_write(b, OTHER_PML4 + i * 8, 8, v);
	}
	board_write(b, OTHER_PML4 + 0x3000 + 0x30 * 8, 8, 0x31003);
	board_load(b, BOARD_CODE, cr3_code, (size_t)(cr3_code_end - cr3_code));
	board_long(b, BOARD_CODE);
	b->cpu->s.cr4 |= X86_CR4_PCIDE;
	soft_mode_update(b->cpu);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 32 + 32 * 0x10);
	assert_in_range(b->cpu->stats.entries, 1, 40);
}

/* One page at two addresses, at 0x30000 and 0x50000; the callee returns to the other one. */
CODE(twice_code, "mov $0x30000, %ebp; mov $40, %ecx; xor %esi, %esi; xor %edi, %edi;"
		 "lea 2f(%rip), %rdx; mov $0x60000, %ebx; 1: jmp *%rbp;"
		 "2: dec %ecx; jz 3f; test $1, %cl; jnz 1b; xor %rbx, %rbp; jmp 1b; 3: hlt");
CODE(twice_page, "call 1f; 0: lea 0b(%rip), %rax; add %rax, %rsi; imul $3, %rsi, %rsi; call 2f;"
		 "0: lea 0b(%rip), %rax; add %rax, %rsi; jmp *%rdx;"
		 "1: add (%rsp), %rdi; imul $3, %rdi, %rdi; ret;"
		 "2: xor %rbx, (%rsp); add (%rsp), %rdi; ret");
static void code_at_two_addresses_returns_to_that_of_its_call(void **state)
{
	struct board *b = *state;

	board_pte_set(b, 0x50000, 0x30003);
	board_load(b, 0x30000, twice_page, (size_t)(twice_page_end - twice_page));
	assert_int_equal(RUN_LONG(b, twice_code), -1);
	/* Twice at the one, twice at the other: returns of the first call stay, of the second go
	 * over. */
	uint64_t at = 0x30000, sum = 0;
	for (unsigned i = 40; i; i--) {
		sum = (sum + at + 5) * 3 + (at ^ 0x60000) + 24;
		if (!((i - 1) & 1))
			at ^= 0x60000;
	}
	assert_int_equal(b->cpu->s.gpr[X86_RDI], sum);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], sum);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
}

/* Its stack lies in its code's page, behind the code, in the same 64 bytes of it or not. */
CODE(told_code, "9: lea 9b+64(%rip), %rsp; mov $20, %ecx; xor %esi, %esi; lea 3f(%rip), %rbx;"
		"1: call 3f; call *%rbx; dec %ecx; jnz 1b; hlt; 3: inc %esi; ret");
CODE(told_more_code, "9: lea 9b+192(%rip), %rsp; mov $20, %ecx; xor %esi, %esi; lea 3f(%rip), %rbx;"
		     "1: call 3f; call *%rbx; dec %ecx; jnz 1b; hlt; 3: inc %esi; ret");
static void a_call_may_push_into_a_page_of_code(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, told_more_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 40);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_CODE + 192);
	assert_in_range(b->cpu->stats.told, 30, 60);
	assert_in_range(b->cpu->stats.strayed, 0, 10);
	assert_int_equal(b->cpu->stats.invalidations, 0);
	soft_cache_flush(b->cpu);
	assert_int_equal(RUN_LONG(b, told_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 40);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_CODE + 64);
	assert_true(b->cpu->stats.invalidations >= 40);
}

/* Calls that end with their page, or lie across its end, by three ways. */
CODE(edge_code, "lea 2f(%rip), %rbx; lea 3f(%rip), %rdx; mov $20, %ecx; xor %esi, %esi;"
		"1: jmp *%rbp; 2: incl %esi; ret; 3: dec %ecx; jnz 1b; hlt");
static void a_call_may_end_with_its_page_or_behind_it(void **state)
{
	/* call *%rbx, or call to 0x31005; add $0x100, %esi; jmp *%rdx; jmp *%rbx */
	static const uint8_t follows[] = {0x81, 0xc6, 0, 1, 0, 0, 0xff, 0xe2, 0xff, 0xe3};
	static const uint8_t indirect[] = {0xff, 0xd3};
	struct board *b = *state;

	for (unsigned i = 0; i < 4; i++) {
		_Bool direct = i & 1;
		uint32_t beyond = i / 2, len = direct ? 5 : 2;
		uint32_t at = 0x31000 + beyond - len;
		const uint8_t call[] = {0xe8, 8, 0, 0, 0};
		board_load(b, at, direct ? call : indirect, len);
		board_load(b, 0x31000 + beyond, follows, sizeof(follows));
		board_load(b, BOARD_CODE, edge_code, (size_t)(edge_code_end - edge_code));
		board_long(b, BOARD_CODE);
		b->cpu->s.gpr[X86_RBP] = at;
		soft_cache_flush(b->cpu);
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RSI], 20 * 0x101);
		assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
	}
}

/* RET with an operand, where it was predicted and where not. */
CODE(operand_code, "mov $30, %ecx; xor %esi, %esi; 1: push %rcx; push %rcx; call 2f; incl %esi;"
		   "push %rcx; call 3f; ud2; 4: add $0x100, %esi; dec %ecx; jnz 1b; hlt;"
		   "2: ret $16; 3: lea 4b(%rip), %rax; mov %rax, (%rsp); ret $8");
static void a_return_may_drop_arguments(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, operand_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 30 * 0x101);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
	assert_in_range(b->cpu->stats.strayed, 25, 40);
}

/* A return to elsewhere takes the last call's frame and no other. */
CODE(inner_code, "mov $50, %ecx; xor %esi, %esi; 1: call 2f; dec %ecx; jnz 1b; hlt;"
		 "2: call 3f; ud2; 3: lea 4f(%rip), %rax; mov %rax, (%rsp); ret; 4: inc %esi; ret");
static void a_return_to_elsewhere_takes_one_frame(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, inner_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 50);
	assert_in_range(b->cpu->stats.strayed, 45, 60);
}

/* The block that follows is changed by the one before, behind branches not taken and taken. */
CODE(next_code,
     "mov $30, %ecx; xor %esi, %esi; xor %edx, %edx;"
     "1: incb 2f+2(%rip); test %ecx, %ecx; jz 9f; 2: add $0, %esi; jmp 3f; ud2;"
     "3: incb 4f+2(%rip); cmp %ecx, %ecx; jnz 9f; 4: add $0, %edx; dec %ecx; jnz 1b; 9: hlt");
static void a_store_into_the_block_that_is_next_is_seen(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, next_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 30 * 31 / 2);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], 30 * 31 / 2);
}

/* Flags are looked at where branches go to, both ways, after one and after several branches. */
CODE(flags_code,
     "mov $200, %ecx; xor %esi, %esi; xor %r8d, %r8d; xor %r9d, %r9d;"
     "1: imul $0x343fd, %esi, %esi; add $0x269ec3, %esi; mov %esi, %eax; shr $16, %eax;"
     "cmp $0x30, %al; ja 2f; jp 3f; jz 4f; jmp 5f;"
     "2: pushfq; jmp 6f; 3: pushfq; inc %r9d; jmp 6f; 4: pushfq; jmp 6f; 5: pushfq;"
     "6: pop %rdi; and $0x8d5, %edi; cmp $0x30, %al; pushfq; pop %rdx; and $0x8d5, %edx;"
     "cmp %edi, %edx; je 7f; ud2; 7: inc %r8d; dec %ecx; jnz 1b; hlt");
static void flags_are_exact_wherever_a_branch_goes(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, flags_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_R8], 200);
	assert_true(b->cpu->s.gpr[X86_R9] > 10);
}

/* Functions whose places in the jump cache are the same: called, called by address and returned to.
 * Then the pages of both become others. */
#define ONE 0x10000u
#define TWO 0x18008u
CODE(places_code, "0: mov $1000, %ecx; 1: call 0b + 0x8000; call 0b + 0x10008; dec %ecx; jnz 1b;"
		  "mov $1000, %ecx; mov $0x10000, %eax; mov $0x18008, %ebx;"
		  "2: call *%rax; call *%rbx; dec %ecx; jnz 2b;"
		  "mov $1000, %ecx; 3: lea 4f(%rip), %rdx; push %rdx; push %rax; ret;"
		  "4: lea 5f(%rip), %rdx; push %rdx; push %rbx; ret; 5: dec %ecx; jnz 3b;"
		  "mov $0x103080, %edx; addq $0x1000, (%rdx); addq $0x1000, 0x40(%rdx);"
		  "invlpg (%rbx); invlpg (%rax); call *%rbx; call *%rax;"
		  "call 0b + 0x8000; call 0b + 0x10008; hlt");
static void two_targets_may_have_the_same_place(void **state)
{
	static const uint8_t one[] = {0xff, 0xc6, 0xc3}, two[] = {0xff, 0xc7, 0xc3},
			     other_one[] = {0x81, 0xc6, 0, 0, 1, 0, 0xc3},
			     other_two[] = {0x81, 0xc7, 0, 0, 1, 0, 0xc3};
	struct board *b = *state;

	assert_ptr_equal(soft_cache_jump(b->cpu->cache, ONE), soft_cache_jump(b->cpu->cache, TWO));
	board_load(b, ONE, one, sizeof(one));
	board_load(b, TWO, two, sizeof(two));
	board_load(b, ONE + 0x1000, other_one, sizeof(other_one));
	board_load(b, TWO + 0x1000, other_two, sizeof(other_two));
	assert_int_equal(RUN_LONG(b, places_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 3000 + 2 * 0x10000);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], 3000 + 2 * 0x10000);
	assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK);
	assert_true(b->cpu->stats.entries < 100);
}

/* Events reach code that does nothing but go round. */
CODE(spin_code, "1: jmp 1b");
CODE(spin_far_code, "1: jmp 2f; 3: jmp 1b; 2: test %rsp, %rsp; jz 1b; jmp 3b");
CODE(spin_call_code, "1: call 2f; jmp 1b; 2: call 3f; ret; 3: ret");
CODE(spin_jump_code, "lea 1f(%rip), %rax; 1: jmp *%rax");
CODE(spin_deep_code,
     "mov %rsp, %rbp; 1: mov %rbp, %rsp; mov $100, %ecx; 2: call 3f; 3: dec %ecx; jnz 2b;"
     "jmp 1b");
static void a_kick_ends_every_loop(void **state)
{
	static const struct {
		const uint8_t *code, *end;
	} loops[] = {
	    {spin_code, spin_code_end},		  {spin_far_code, spin_far_code_end},
	    {spin_call_code, spin_call_code_end}, {spin_jump_code, spin_jump_code_end},
	    {spin_deep_code, spin_deep_code_end},
	};
	struct board *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(loops); i++)
		board_kick_loop(b, loops[i].code, loops[i].end);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_translate, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(calls_and_returns_that_match_never_leave_host_code),
	    T(recursion_may_be_deeper_than_what_is_predicted),
	    T(a_return_goes_where_the_stack_says),
	    T(a_long_jump_leaves_calls_behind),
	    T(stacks_may_be_changed_in_a_call),
	    T(a_return_to_the_address_0_is_one_as_any_other),
	    T(a_return_to_no_address_faults_at_the_return),
	    T(a_callee_may_rewrite_what_it_returns_to),
	    T(a_callee_may_remap_what_it_returns_to),
	    T(an_address_space_may_change_between_call_and_return),
	    T(code_at_two_addresses_returns_to_that_of_its_call),
	    T(a_call_may_push_into_a_page_of_code),
	    T(a_call_may_end_with_its_page_or_behind_it),
	    T(a_return_may_drop_arguments),
	    T(a_return_to_elsewhere_takes_one_frame),
	    T(a_store_into_the_block_that_is_next_is_seen),
	    T(two_targets_may_have_the_same_place),
	    T(flags_are_exact_wherever_a_branch_goes),
	    T(a_kick_ends_every_loop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
