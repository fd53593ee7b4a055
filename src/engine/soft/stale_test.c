/* stale_test.c: tests of what is remembered of code and of pages, and must not be used any more. */
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

/* Goes on at rip, with nothing flushed. */
static void run_on(struct board *b, uint64_t rip)
{
	b->cpu->s.rip = rip;
	b->cpu->s.activity = X86_RUNNING;
	assert_int_equal(board_run(b), -1);
}

static void vectors_on(struct board *b, uint64_t rip)
{
	board_long(b, rip);
	b->cpu->s.cr4 |= X86_CR4_OSFXSR;
	vec_x87_init(b->cpu);
	soft_mode_update(b->cpu);
}

/* The cache is full where an instruction of a device is decoded: it is not executed by what was
 * made for it before the cache was emptied, and is somebody else's afterwards. */
CODE(other_code, "paddw %xmm6, %xmm7; pxor %xmm1, %xmm1; psubb %xmm2, %xmm3; por %xmm1, %xmm2;"
		 "pand %xmm4, %xmm5; movhlps %xmm1, %xmm2; hlt");
static void what_is_decoded_when_the_cache_is_full_stays(void **state)
{
	static const uint8_t code[] = {0x66, 0x0f, 0xfc, 0xc1, 0xf4}; /* paddb %xmm1, %xmm0; hlt */
	struct board *b = *state;
	struct soft_cache *c = b->cpu->cache;
	uint8_t *xmm0 = (uint8_t *)&b->cpu->s.fpu.vec[0], *xmm1 = (uint8_t *)&b->cpu->s.fpu.vec[1];

	board_device_code(b, code, sizeof(code));
	board_load(b, BOARD_CODE, other_code, (size_t)(other_code_end - other_code));
	vectors_on(b, BOARD_MMIO);
	c->blocks_used = SOFT_BLOCKS - 1;
	uint64_t emptied = c->emptied;
	assert_int_equal(board_run(b), -1);
	assert_true(c->emptied > emptied);
	vectors_on(b, BOARD_CODE);
	assert_int_equal(board_run(b), -1);
	vectors_on(b, BOARD_MMIO);
	memset(xmm0, 1, 16);
	memset(xmm1, 2, 16);
	assert_int_equal(board_run(b), -1);
	for (unsigned k = 0; k < 16; k++)
		assert_int_equal(xmm0[k], 3);
}

/* A page table changes between two blocks of a page: the second is that of another page, which is
 * right until somebody flushes, and not after that. */
#define LIN  0x30000u
#define LAST (LIN + SOFT_ITLB_SIZE * 0x1000u) /* shares its place in the ITLB */
CODE(from_code, "test %edi, %edi; jz 1f; hlt; .org from_code + 0x100; 1: mov $1, %eax; hlt");
CODE(to_code, "hlt; .org to_code + 0x100; mov $2, %eax; hlt");
static void blocks_of_two_pages_are_not_linked(void **state)
{
	struct board *b = *state;
	uint64_t pte = board_pte(b, LIN);

	board_load(b, LIN, from_code, (size_t)(from_code_end - from_code));
	board_load(b, LIN + 0x1000, to_code, (size_t)(to_code_end - to_code));
	board_load(b, LAST, "\xf4", 1);
	board_long(b, LIN);
	b->cpu->s.gpr[X86_RDI] = 1;
	for (unsigned k = 0; k < 3; k++)
		run_on(b, LIN);
	board_pte_set(b, LIN, (pte & 0xfff) | (LIN + 0x1000));
	run_on(b, LAST);
	b->cpu->s.gpr[X86_RDI] = 0;
	run_on(b, LIN);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 2);
	board_pte_set(b, LIN, pte);
	for (unsigned k = 0; k < 3; k++) {
		soft_tlb_flush_all(b->cpu);
		b->cpu->s.gpr[X86_RAX] = 0;
		run_on(b, LIN);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 1);
	}
}

/* A jump whose last four bytes are of another page: first of RAM, where it is translated, then of a
 * device, which reads as the same. */
#define SPLIT  0x40fffu
#define TARGET (SPLIT + 5 + 0x11111111u)
static void an_instruction_whose_end_comes_from_a_device_is_executed(void **state)
{
	struct board *b = *state;
	uint64_t pte = board_pte(b, SPLIT + 1);

	board_load(b, SPLIT, "\xe9\x11\x11\x11\x11", 5);
	for (unsigned k = 0; k < 6; k++) {
		board_long(b, SPLIT);
		board_pte_set(b, SPLIT + 1, k == 3 || k == 4 ? BOARD_MMIO | 3 : pte);
		soft_tlb_flush_all(b->cpu);
		b->cpu->s.cr2 = 0;
		unsigned count = board_access(b)->count;
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, TARGET);
		assert_int_equal(board_stack(b, 1), TARGET);
		assert_int_equal(board_access(b)->count > count, k == 3 || k == 4);
	}
}

/* Ring 3 reads a page it may not write, then writes it; the handler gives it another one, without
 * INVLPG, as the fault itself has dropped what the CPU knew. */
CODE(user_code, "1: mov (%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; dec %ebx; jnz 1b;"
		"mov %rsi, (%rbp); jmp 2f; 2: mov (%rdi), %r8; mov 8(%rdi), %r9; hlt");
CODE(handler_code, "mov %r13, (%r12); add $8, %rsp; iretq");
#define FAULTING UINT64_C(0x50000)
#define OTHER	 UINT64_C(0x51000)
/* Ring 3 at such code, with FAULTING read-only: whose fault gives it the entry `then`. */
static void faulting_start(struct board *b, const uint8_t *code, const uint8_t *end,
			   const uint8_t *handler, const uint8_t *handler_end, uint64_t then)
{
	board_load(b, BOARD_CODE, code, (size_t)(end - code));
	board_load(b, BOARD_HANDLERS + X86_VEC_PF * 16, handler, (size_t)(handler_end - handler));
	board_user(b, BOARD_CODE);
	board_pte_set(b, FAULTING, FAULTING | 5);
	soft_tlb_flush_all(b->cpu);
	uint64_t *gpr = b->cpu->s.gpr;
	gpr[X86_RDI] = FAULTING;
	gpr[X86_RBX] = 60;
	gpr[X86_R12] = BOARD_PT + (FAULTING >> 12) * 8;
	gpr[X86_R13] = then;
}

static void a_page_fault_drops_what_is_known_of_its_page(void **state)
{
	struct board *b = *state;
	uint64_t *gpr = b->cpu->s.gpr;

	for (unsigned k = 0; k < 2; k++) {
		for (unsigned n = 0; n < 2; n++) {
			board_write(b, FAULTING + n * 8, 8, 111 + n);
			board_write(b, OTHER + n * 8, 8, 221 + n);
		}
		faulting_start(b, user_code, user_code_end, handler_code, handler_code_end,
			       OTHER | 7);
		gpr[X86_RBP] = FAULTING + 0x20;
		gpr[X86_RSI] = 7;
		assert_int_equal(board_run(b), X86_VEC_GP); /* HLT */
		assert_int_equal(gpr[X86_RAX], 111);
		assert_int_equal(gpr[X86_R8], 221);
		assert_int_equal(gpr[X86_R9], 222);
		assert_int_equal(board_read(b, OTHER + 0x20, 8), 7);
	}
}

/* The handler gives it one that may be read only, too, and skips the instruction. */
CODE(skipped_code, "1: mov (%rdi), %rax; dec %ebx; jnz 1b; movb $7, (%rdi); mov (%rdi), %r8; hlt");
CODE(skip_handler, "mov %r13, (%r12); add $8, %rsp; addq $3, (%rsp); iretq");
static void a_page_fault_that_is_skipped_drops_its_page_as_well(void **state)
{
	struct board *b = *state;

	board_write(b, FAULTING, 8, 111);
	board_write(b, OTHER, 8, 221);
	faulting_start(b, skipped_code, skipped_code_end, skip_handler, skip_handler_end,
		       OTHER | 5);
	assert_int_equal(board_run(b), X86_VEC_GP); /* HLT */
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 111);
	assert_int_equal(b->cpu->s.gpr[X86_R8], 221);
}

/* The same with code, which is found by its address without a look at the TLB. */
CODE(calls_code, "1: call *%rdi; dec %ebx; jnz 1b; mov %rax, %r8;"
		 "mov %rsi, (%rbp); call *%rdi; mov %rax, %r9; hlt");
CODE(one_code, "mov $1, %eax; ret");
CODE(two_code, "mov $2, %eax; ret");
static void a_page_fault_drops_the_code_of_its_page(void **state)
{
	struct board *b = *state;

	board_load(b, FAULTING, one_code, (size_t)(one_code_end - one_code));
	board_load(b, OTHER, two_code, (size_t)(two_code_end - two_code));
	faulting_start(b, calls_code, calls_code_end, handler_code, handler_code_end, OTHER | 7);
	b->cpu->s.gpr[X86_RBP] = FAULTING + 0x800;
	assert_int_equal(board_run(b), X86_VEC_GP); /* HLT */
	assert_int_equal(b->cpu->s.gpr[X86_R8], 1);
	assert_int_equal(b->cpu->s.gpr[X86_R9], 2);
}

/* How many targets in a page the jump cache has under a key. */
static unsigned jumps_of(struct board *b, uint64_t lin, uint64_t key)
{
	const struct soft_cache *c = b->cpu->cache;
	unsigned count = 0;

	for (unsigned i = 0; i < SOFT_JUMP_SIZE + SOFT_JUMP_MORE; i++) {
		const struct soft_jump *j =
		    i < SOFT_JUMP_SIZE ? &c->jump[i] : &c->more[i - SOFT_JUMP_SIZE];
		count += !((j->lin ^ lin) >> 12) && j->key == key;
	}
	return count;
}

/* Targets of two pages that share their places in the jump cache, in two address spaces; what is
 * forgotten is those of one page, of all address spaces or of the present one. */
CODE(share_code, "mov $0x300000, %edi; mov $0x308008, %esi; call *%rdi; call *%rsi; call *%rdi;"
		 "mov $0x310000, %edi; call *%rdi; hlt");
#define SHARING	      UINT64_C(0x300000) /* lin ^ lin >> 12 is the same in the lowest 15 bits as of */
#define SHARING_OTHER UINT64_C(0x308008)
#define SHARING_NONE  UINT64_C(0x310000)
_Static_assert(!((SHARING ^ SHARING >> 12 ^ SHARING_OTHER ^ SHARING_OTHER >> 12) % SOFT_JUMP_SIZE),
	       "they share a place");
static void only_what_belongs_to_a_page_is_forgotten_with_it(void **state)
{
	struct board *b = *state;
	uint64_t key[2];

	board_load(b, BOARD_CODE, share_code, (size_t)(share_code_end - share_code));
	board_load(b, SHARING, "\xc3", 1);
	board_load(b, SHARING_OTHER, "\xc3", 1);
	board_load(b, SHARING_NONE, "\xc3", 1);
	board_long(b, BOARD_CODE);
	for (unsigned k = 0; k < 2; k++) {
		soft_tlb_flush_all(b->cpu); /* a new id */
		run_on(b, BOARD_CODE);
		key[k] = b->cpu->cache->jump_key;
		assert_int_equal(jumps_of(b, SHARING, key[k]), 1);
	}
	uint64_t gen = b->cpu->cache->jump_gen;
	unsigned other = jumps_of(b, SHARING_OTHER, key[1]);
	assert_int_equal(other, 1);
	assert_int_not_equal(key[0], key[1]);
	b->cpu->code_stop = 0;
	b->cpu->stats.lookups += 1000; /* else everything is forgotten: there is little */
	assert_int_equal(jumps_of(b, SHARING_NONE, key[0]), 1);
	assert_int_equal(jumps_of(b, SHARING_NONE, key[1]), 1);
	soft_cache_forget_here(b->cpu, SHARING_NONE);
	assert_int_equal(jumps_of(b, SHARING_NONE, key[0]), 1);
	assert_int_equal(jumps_of(b, SHARING_NONE, key[1]), 0);
	soft_cache_forget_here(b->cpu, SHARING + 0x123);
	assert_int_not_equal(b->cpu->code_stop, 0);
	assert_int_equal(jumps_of(b, SHARING, key[1]), 0);
	assert_int_equal(jumps_of(b, SHARING_OTHER, key[1]), other);
	unsigned before = jumps_of(b, SHARING, key[0]) + jumps_of(b, SHARING_OTHER, key[0]);
	soft_cache_forget_page(b->cpu, SHARING_OTHER);
	assert_int_equal(jumps_of(b, SHARING_OTHER, key[0]), 0);
	assert_int_equal(jumps_of(b, SHARING_OTHER, key[1]), 0);
	assert_in_range(before, jumps_of(b, SHARING, key[0]), 2);
	assert_int_equal(b->cpu->cache->jump_gen, gen);
	/* The filters still say that there might be some, and not for ever: to look again and again
	 * costs more than what there is to be lost. */
	for (unsigned k = 0; k < 8 && b->cpu->cache->jump_gen == gen; k++)
		soft_cache_forget_page(b->cpu, SHARING_OTHER);
	assert_int_equal(b->cpu->cache->jump_gen, gen + 1);
	b->cpu->stats.lookups += 1000;
	for (unsigned k = 0; k < 100; k++)
		soft_cache_forget_page(b->cpu, SHARING_OTHER);
	assert_int_equal(b->cpu->cache->jump_gen, gen + 1);
}

/* As Linux has all memory in large pages: INVLPG elsewhere drops one page. */
static void large_pages_elsewhere_do_not_make_each_invlpg_drop_everything(void **state)
{
	struct board *b = *state;

	board_long(b, BOARD_CODE);
	uint64_t flushes = b->cpu->stats.flushes - 1, first = flushes + 1;
	for (uint64_t k = 0; k < 1000; k++) {
		if (b->cpu->stats.flushes != flushes) { /* it has forgotten them */
			for (uint64_t n = 0; n < 512; n++)
				soft_mmu_large(b->cpu, UINT64_C(0xffff888000000000) + (n << 21),
					       21);
			for (uint64_t n = 0; n < 8; n++)
				soft_mmu_large(b->cpu, UINT64_C(0xffffea0000000000) + (n << 30),
					       30);
		}
		flushes = b->cpu->stats.flushes;
		soft_tlb_flush_page(b->cpu, UINT64_C(0x7f0000000000) + k * 0x7654321000);
	}
	assert_in_range(b->cpu->stats.flushes - first, 0, 40);
	flushes = b->cpu->stats.flushes;
	soft_mmu_large(b->cpu, 0x600000, 21);
	soft_tlb_flush_page(b->cpu, 0x7ff000);
	assert_true(b->cpu->stats.flushes > flushes);
	flushes = b->cpu->stats.flushes;
	soft_mmu_large(b->cpu, 0x400000, 22);
	soft_tlb_flush_page(b->cpu, 0x600000);
	assert_true(b->cpu->stats.flushes > flushes);
	flushes = b->cpu->stats.flushes;
	soft_mmu_large(b->cpu, UINT64_C(5) << 30, 30);
	soft_tlb_flush_page(b->cpu, (UINT64_C(6) << 30) - 1);
	assert_true(b->cpu->stats.flushes > flushes);
}

/* Its first byte stays: the one that makes it none changes, in its page or in the next. */
static void what_was_no_instruction_may_become_one(void **state)
{
	static const uint8_t bad[] = {0x0f, 0x04, 0xf4}; /* and CLTS */
	struct board *b = *state;

	for (uint64_t rip = 0x8ffe; rip <= 0x8fff; rip++) {
		board_load(b, rip, bad, sizeof(bad));
		board_long(b, rip);
		assert_int_equal(board_run(b), X86_VEC_UD);
		board_write(b, rip + 1, 1, 0x06);
		board_long(b, rip);
		assert_int_equal(board_run(b), -1);
	}
}

static int setup_interp(void **state)
{
	unsetenv("BOARD_SOFT");
	return board_setup(state);
}

#define I(f) cmocka_unit_test_setup_teardown(f, setup_interp, board_teardown)
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_translate, board_teardown)
#define L(f) cmocka_unit_test_setup_teardown(f, board_setup_lockstep, board_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    I(what_is_decoded_when_the_cache_is_full_stays),
	    T(what_is_decoded_when_the_cache_is_full_stays),
	    T(only_what_belongs_to_a_page_is_forgotten_with_it),
	    I(large_pages_elsewhere_do_not_make_each_invlpg_drop_everything),
	    I(what_was_no_instruction_may_become_one),
	    T(what_was_no_instruction_may_become_one),
	    I(blocks_of_two_pages_are_not_linked),
	    T(blocks_of_two_pages_are_not_linked),
	    I(an_instruction_whose_end_comes_from_a_device_is_executed),
	    T(an_instruction_whose_end_comes_from_a_device_is_executed),
	    I(a_page_fault_drops_what_is_known_of_its_page),
	    T(a_page_fault_drops_what_is_known_of_its_page),
	    L(a_page_fault_drops_what_is_known_of_its_page),
	    I(a_page_fault_that_is_skipped_drops_its_page_as_well),
	    I(a_page_fault_drops_the_code_of_its_page),
	    T(a_page_fault_that_is_skipped_drops_its_page_as_well),
	    T(a_page_fault_drops_the_code_of_its_page),
	    L(a_page_fault_that_is_skipped_drops_its_page_as_well),
	    L(a_page_fault_drops_the_code_of_its_page),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
