/* direct_renew_test.c: what a helper keeps when the guest flushes its address space: all that the
 * tables still give, and nothing else.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

#define BOARD_PDPT UINT64_C(0x101000)
#define BOARD_PD   UINT64_C(0x102000)
#define PDS	   UINT64_C(0x120000)
#define TABLE	   UINT64_C(0x130000)
#define REGION	   UINT64_C(0x6000000) /* the 2 MiB of that table */
#define FRAMES	   UINT64_C(0x800000)
#define FRAME(i)   (FRAMES + (511 - (i)) * UINT64_C(0x1000)) /* no two are neighbours */
#define OTHER	   UINT64_C(0xb00000)
#define LARGE	   UINT64_C(0x600000)
#define WRITABLE   (X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D)
#define READABLE   (X86_PTE_P | X86_PTE_U | X86_PTE_A | X86_PTE_NX)
#define CODE_PAGE  (X86_PTE_P | X86_PTE_U | X86_PTE_A)
#define PAGES	   64u

static void entry_set(struct board *b, unsigned i, uint64_t entry)
{
	board_write(b, TABLE + i * UINT64_C(8), 8, entry);
}

CODE(read_page, "mov (%rdi), %rax; syscall");
CODE(write_page, "mov %rdi, (%rdi); syscall");
static int user_does(struct board *b, const uint8_t *code, const uint8_t *end, uint64_t at)
{
	board_load(b, USER_CODE, code, (size_t)(end - code));
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_RDI] = at;
	int vector = board_run(b);
	ran(b);
	return vector;
}
static uint64_t user_reads(struct board *b, uint64_t at)
{
	assert_int_equal(user_does(b, read_page, read_page_end, at), 0x80);
	return b->cpu->s.gpr[X86_RAX];
}

/* A helper has `n` pages of REGION mapped, each with a number in it. */
static void pages_map(struct board *b, unsigned n, uint64_t bits)
{
	for (unsigned i = 0; i < n; i++) {
		entry_set(b, i, FRAME(i) | bits);
		board_write(b, FRAME(i), 8, 1000 + i);
	}
	board_write(b, OTHER, 8, 7);
	helpers_empty(b);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(user_reads(b, REGION + i * UINT64_C(0x1000)), 1000 + i);
	b->cpu->stats.direct_renewed = 0;
}

/* However slow this machine is: it is worth it to keep what is there. */
static void flush(struct board *b)
{
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		b->cpu->direct->space[i].renewing = 0;
	soft_tlb_flush_all(b->cpu);
}

static int setup(void **state)
{
	board_setup_direct(state);
	struct board *b = *state;
	b->cpu->direct->cpuid_runs = 1; /* so that pages with it are not for helpers */
	user_state(b, USER_CODE);
	board_write(b, BOARD_PD + (REGION >> 21) * 8, 8, TABLE | WRITABLE);
	return 0;
}

/* Stops for mappings while all `n` pages are read. */
static uint64_t stops_for(struct board *b, unsigned n)
{
	uint64_t faults = b->cpu->stats.direct_faults;

	for (unsigned i = 0; i < n; i++)
		assert_int_equal(user_reads(b, REGION + i * UINT64_C(0x1000)), 1000 + i);
	return b->cpu->stats.direct_faults - faults;
}

static void what_the_tables_still_give_stays_mapped(void **state)
{
	struct board *b = *state;

	/* More than a helper that has nothing is given at once. */
	pages_map(b, 200, WRITABLE);
	uint64_t helpers = b->cpu->stats.direct_helpers;
	for (unsigned i = 1; i < 4; i++) {
		flush(b);
		assert_int_equal(stops_for(b, 200), 0);
		assert_int_equal(b->cpu->stats.direct_renewed, i);
	}
	assert_int_equal(b->cpu->stats.direct_helpers, helpers);
	/* New rights come when they are asked for. */
	pages_map(b, PAGES, READABLE);
	entry_set(b, 5, FRAME(5) | WRITABLE);
	flush(b);
	assert_int_equal(user_does(b, write_page, write_page_end, REGION + 0x5000), 0x80);
	assert_int_equal(board_read(b, FRAME(5), 8), REGION + 0x5000);
	assert_int_equal(b->cpu->stats.direct_renewed, 1);
}

static void what_they_do_not_give_any_more_is_gone(void **state)
{
	static const struct {
		uint64_t entry; /* 0: the same with the bits cleared */
		uint64_t clear;
		int reads, writes;
	} ways[] = {
	    {OTHER | WRITABLE, 0, 0x80, 0x80},
	    {0, X86_PTE_P, X86_VEC_PF, X86_VEC_PF},
	    {0, X86_PTE_U, X86_VEC_PF, X86_VEC_PF},
	    {0, X86_PTE_W, 0x80, X86_VEC_PF},
	};
	struct board *b = *state;

	for (unsigned w = 0; w < ARRAY_SIZE(ways); w++) {
		pages_map(b, PAGES, WRITABLE);
		assert_int_equal(user_does(b, write_page, write_page_end, REGION + 0x7000), 0x80);
		board_write(b, FRAME(7), 8, 1007);
		/* The first, the last, two in a row and one alone. */
		static const unsigned which[] = {0, 7, 8, 20, PAGES - 1};
		for (unsigned i = 0; i < ARRAY_SIZE(which); i++)
			entry_set(b, which[i],
				  ways[w].entry ? ways[w].entry
						: (FRAME(which[i]) | WRITABLE) & ~ways[w].clear);
		flush(b);
		for (unsigned i = 0; i < ARRAY_SIZE(which); i++) {
			uint64_t at = REGION + which[i] * UINT64_C(0x1000);
			assert_int_equal(user_does(b, read_page, read_page_end, at), ways[w].reads);
			if (ways[w].reads == 0x80)
				assert_int_equal(b->cpu->s.gpr[X86_RAX],
						 ways[w].entry ? 7 : 1000 + which[i]);
			assert_int_equal(user_does(b, write_page, write_page_end, at),
					 ways[w].writes);
			board_write(b, OTHER, 8, 7);
			assert_int_equal(board_read(b, FRAME(which[i]), 8), 1000 + which[i]);
		}
		for (unsigned i = 0; i < PAGES; i++)
			if (i && i != 7 && i != 8 && i != 20 && i != PAGES - 1)
				assert_int_equal(user_reads(b, REGION + i * UINT64_C(0x1000)),
						 1000 + i);
		assert_int_equal(b->cpu->stats.direct_renewed, 1);
	}
}

/* As a guest's kernel does that looks what is in use. */
static void a_page_whose_accessed_bit_was_cleared_sets_it_again(void **state)
{
	struct board *b = *state;

	pages_map(b, PAGES, WRITABLE);
	entry_set(b, 9, FRAME(9) | (WRITABLE & ~X86_PTE_A));
	flush(b);
	assert_int_equal(stops_for(b, PAGES), 1);
	assert_true(board_read(b, TABLE + 9 * 8, 8) & X86_PTE_A);
	/* Nor is it written to without its dirty bit. */
	entry_set(b, 9, FRAME(9) | (WRITABLE & ~X86_PTE_D));
	flush(b);
	assert_int_equal(user_does(b, write_page, write_page_end, REGION + 0x9000), 0x80);
	assert_true(board_read(b, TABLE + 9 * 8, 8) & X86_PTE_D);
	assert_int_equal(b->cpu->stats.direct_renewed, 2);
}

CODE(returns, "syscall; .fill 62, 1, 0x90");
CODE(tells_of_the_cpu,
     "xor %eax, %eax; nop; nop; nop; nop; nop; nop; nop; nop; nop; cpuid; syscall");
static void code_that_may_have_been_written_is_looked_through_again(void **state)
{
	struct board *b = *state;

	for (unsigned dirty = 0; dirty < 2; dirty++) {
		board_load(b, FRAMES, returns, (size_t)(returns_end - returns));
		for (unsigned i = 0; i < PAGES; i++)
			entry_set(b, i, FRAME(i) | CODE_PAGE);
		entry_set(b, 2, FRAMES | CODE_PAGE | (dirty ? X86_PTE_D : 0));
		helpers_empty(b);
		user_again(b, REGION + 0x2000);
		assert_int_equal(board_run(b), 0x80);
		ran(b);
		board_load(b, FRAMES, tells_of_the_cpu,
			   (size_t)(tells_of_the_cpu_end - tells_of_the_cpu));
		uint64_t renewed = b->cpu->stats.direct_renewed;
		flush(b);
		(void)direct_space_get(b->cpu);
		assert_int_equal(b->cpu->stats.direct_renewed, renewed + 1);
		uint64_t faults = b->cpu->stats.direct_faults;
		user_again(b, REGION + 0x2000);
		assert_int_equal(board_run(b), 0x80);
		/* It is the helper's no more, as a stop shows: the guest's kernel fills pages of
		 * files by other entries than this one. */
		assert_int_equal(b->cpu->stats.direct_faults - faults, 1);
	}
}

/* Its breakpoints are at what was in the page when they were set. */
CODE(tells_elsewhere, "syscall; .fill 18, 1, 0x90; xor %eax, %eax; cpuid; ret; .fill 18, 1, 0x90");
CODE(tells_later, "syscall; .fill 38, 1, 0x90; xor %eax, %eax; cpuid; ret; .fill 18, 1, 0x90");
static void code_with_breakpoints_is_what_it_was(void **state)
{
	struct board *b = *state;

	pages_map(b, PAGES, READABLE);
	entry_set(b, 70, FRAMES | CODE_PAGE);
	board_load(b, FRAMES, tells_elsewhere, (size_t)(tells_elsewhere_end - tells_elsewhere));
	for (unsigned i = 0; i < 40; i++) {
		user_again(b, REGION + 70 * 0x1000);
		assert_int_equal(board_run(b), 0x80);
	}
	breaks_needed(b);
	assert_true(direct_map_broken(direct_space_get(b->cpu), REGION + 70 * 0x1000));
	flush(b);
	assert_true(direct_map_broken(direct_space_get(b->cpu), REGION + 70 * 0x1000));
	board_load(b, FRAMES, tells_later, (size_t)(tells_later_end - tells_later));
	flush(b);
	assert_false(direct_map_broken(direct_space_get(b->cpu), REGION + 70 * 0x1000));
	assert_int_equal(b->cpu->stats.direct_renewed, 2);
}

CODE(returns_late, ".fill 30, 1, 0x90; syscall");
static void code_that_may_no_longer_run_does_not(void **state)
{
	struct board *b = *state;

	board_load(b, FRAMES, returns_late, (size_t)(returns_late_end - returns_late));
	pages_map(b, PAGES, READABLE);
	entry_set(b, 70, FRAMES | CODE_PAGE);
	user_again(b, REGION + 70 * 0x1000);
	assert_int_equal(board_run(b), 0x80);
	entry_set(b, 70, FRAMES | CODE_PAGE | X86_PTE_NX);
	flush(b);
	user_again(b, REGION + 70 * 0x1000);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, REGION + 70 * 0x1000);
	assert_int_equal(board_stack(b, 0), X86_PFERR_P | X86_PFERR_U | X86_PFERR_I);
	assert_int_equal(b->cpu->stats.direct_renewed, 1);
}

/* What is kept of one counts as entered from one: INVLPG of any part is of all. */
CODE(by_invlpg_in_the_large_page, "invlpg 0x7ff000; hlt");
static void a_large_page_that_was_kept_is_still_flushed_whole(void **state)
{
	struct board *b = *state;

	board_write(b, LARGE, 8, 1);
	board_write(b, FRAMES, 8, 2);
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8, LARGE | WRITABLE | X86_PTE_PS);
	assert_int_equal(user_reads(b, LARGE), 1);
	flush(b);
	assert_int_equal(user_reads(b, LARGE), 1);
	assert_int_equal(b->cpu->stats.direct_renewed, 1);
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8, FRAMES | WRITABLE | X86_PTE_PS);
	board_load(b, 0x70000, by_invlpg_in_the_large_page,
		   (size_t)(by_invlpg_in_the_large_page_end - by_invlpg_in_the_large_page));
	board_pte_set(b, 0x70000, board_pte(b, 0x70000) & ~X86_PTE_U);
	b->cpu->s.rip = 0x70000;
	b->cpu->s.activity = X86_RUNNING;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(user_reads(b, LARGE), 2);
}

static void where_most_is_gone_a_helper_begins_anew(void **state)
{
	struct board *b = *state;

	pages_map(b, 200, WRITABLE);
	for (unsigned i = 0; i < 120; i++)
		entry_set(b, i, OTHER | WRITABLE);
	flush(b);
	assert_int_equal(user_reads(b, REGION), 7);
	assert_int_equal(b->cpu->stats.direct_renewed, 0);
	/* And where too many orders would be needed to say what is. */
	pages_map(b, 300, WRITABLE);
	for (unsigned i = 0; i < 300; i += 2)
		entry_set(b, i, OTHER | WRITABLE);
	flush(b);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(user_reads(b, REGION + i * UINT64_C(0x1000)),
				 i % 2 ? 1000 + i : 7);
	assert_int_equal(b->cpu->stats.direct_renewed, 0);
}

static void what_takes_longer_than_the_helper_has_run_is_not_done_again(void **state)
{
	struct board *b = *state;

	pages_map(b, 200, WRITABLE);
	soft_tlb_flush_all(b->cpu);
	(void)user_reads(b, REGION);
	assert_int_equal(b->cpu->stats.direct_renewed, 1);
	struct direct_space *s = direct_space_get(b->cpu);
	assert_in_range(s->renewing, 1, UINT64_MAX / 2);
	assert_in_range(s->ran, 1, UINT64_MAX / 2);
	s->renewing = UINT64_MAX;
	soft_tlb_flush_all(b->cpu);
	assert_int_equal(user_reads(b, REGION + 0x1000), 1001);
	assert_int_equal(b->cpu->stats.direct_renewed, 1);
	/* With what it uses then, it is. */
	soft_tlb_flush_all(b->cpu);
	assert_int_equal(stops_for(b, 2), 0);
	assert_int_equal(b->cpu->stats.direct_renewed, 2);
}

/* Pages by the thousand: 65,536 are compared, and 1,024 times 2 MiB. */
static void what_is_compared_has_bounds(void **state)
{
	struct board *b = *state;

	for (unsigned n = 127; n < 130; n += 2) { /* large pages, all of one frame */
		for (unsigned i = 0; i < n; i++)
			board_write(b, BOARD_PD + (100 + i) * UINT64_C(8), 8,
				    LARGE | WRITABLE | X86_PTE_PS | X86_PTE_NX);
		helpers_empty(b);
		for (unsigned i = 0; i < n; i++)
			(void)user_reads(b, (100 + i) * UINT64_C(0x200000));
		b->cpu->stats.direct_renewed = 0;
		flush(b);
		(void)user_reads(b, 100 * UINT64_C(0x200000));
		assert_int_equal(b->cpu->stats.direct_renewed, n == 127);
	}
	for (unsigned few = 0; few < 2; few++) {
		for (unsigned i = 0; i < 512; i++)
			board_write(b, PDS + i * 8, 8, TABLE | WRITABLE);
		for (unsigned i = 1; i < 4; i++)
			board_write(b, BOARD_PDPT + i * 8, 8, PDS | WRITABLE);
		entry_set(b, 0, FRAMES | READABLE);
		helpers_empty(b);
		for (unsigned i = 0; i < 1030 - few * 20; i++)
			(void)user_reads(b, (UINT64_C(1) << 30) + ((uint64_t)i << 21));
		b->cpu->stats.direct_renewed = 0;
		flush(b);
		(void)user_reads(b, UINT64_C(1) << 30);
		assert_int_equal(b->cpu->stats.direct_renewed, few);
	}
}

/* Of code, which is read for it, 16,384 pages, and 32,768 instructions that have to be decoded. */
CODE(constants, ".rept 409; movabs $0x9090c0020fc0020f, %rax; .endr");
static void code_that_is_looked_through_again_has_bounds(void **state)
{
	struct board *b = *state;

	for (unsigned n = 1020; n < 1030; n += 8) {
		for (unsigned i = 0; i < 33; i++)
			board_write(b, BOARD_PD + (100 + i) * UINT64_C(8), 8,
				    LARGE | CODE_PAGE | X86_PTE_PS);
		helpers_empty(b);
		for (unsigned i = 0; i < n; i++) /* each with those around it */
			(void)user_reads(b, 100 * UINT64_C(0x200000) + i * UINT64_C(0x10000));
		b->cpu->stats.direct_renewed = 0;
		flush(b);
		(void)user_reads(b, 100 * UINT64_C(0x200000));
		assert_int_equal(b->cpu->stats.direct_renewed, n == 1020);
	}
	for (unsigned many = 0; many < 2; many++) {
		for (unsigned i = 0; i < 33; i++)
			board_write(b, BOARD_PD + (100 + i) * UINT64_C(8), 8, 0);
		for (unsigned i = 0; i < PAGES; i++)
			board_load(b, FRAME(i), returns, (size_t)(returns_end - returns));
		pages_map(b, PAGES, CODE_PAGE);
		for (unsigned i = 0; i < (many ? PAGES : 4); i++)
			board_load(b, FRAME(i), constants, (size_t)(constants_end - constants));
		uint64_t decoded = b->cpu->direct->decoded;
		flush(b);
		(void)direct_space_get(b->cpu);
		assert_in_range(b->cpu->direct->decoded - decoded, 1, 32768 + 4096);
		assert_int_equal(b->cpu->stats.direct_renewed, !many);
	}
}

/* By what its stack tells. */
static void a_flushed_address_space_is_known_again(void **state)
{
	struct board *b = *state;

	pages_map(b, 200, WRITABLE);
	b->cpu->s.gpr[X86_RSP] = REGION + 0x3008;
	flush(b);
	assert_true(direct_map_follows(b->cpu));
	entry_set(b, 3, OTHER | WRITABLE);
	assert_false(direct_map_follows(b->cpu));
	entry_set(b, 3, 0);
	assert_false(direct_map_follows(b->cpu));
	entry_set(b, 3, FRAME(3) | WRITABLE);
	assert_true(direct_map_follows(b->cpu));
	b->cpu->s.gpr[X86_RSP] = REGION + 0x1ff000; /* no helper has seen it */
	assert_false(direct_map_follows(b->cpu));
	b->cpu->s.gpr[X86_RSP] = REGION + 0x3008;
	/* Tables that give the same, of another process. */
	for (unsigned i = 0; i < 512; i++)
		board_write(b, PDS + i * 8, 8, board_read(b, BOARD_PML4 + i * 8, 8));
	b->cpu->s.cr3 = PDS;
	assert_false(direct_map_follows(b->cpu));
	b->cpu->s.cr3 = BOARD_PML4;
	direct_forget_all(b->cpu);
	assert_false(direct_map_follows(b->cpu));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(what_the_tables_still_give_stays_mapped),
	    T(what_they_do_not_give_any_more_is_gone),
	    T(a_page_whose_accessed_bit_was_cleared_sets_it_again),
	    T(code_that_may_have_been_written_is_looked_through_again),
	    T(code_that_may_no_longer_run_does_not),
	    T(code_with_breakpoints_is_what_it_was),
	    T(a_large_page_that_was_kept_is_still_flushed_whole),
	    T(where_most_is_gone_a_helper_begins_anew),
	    T(what_takes_longer_than_the_helper_has_run_is_not_done_again),
	    T(what_is_compared_has_bounds),
	    T(code_that_is_looked_through_again_has_bounds),
	    T(a_flushed_address_space_is_known_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
