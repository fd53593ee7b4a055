/* direct_flush_test.c: what the guest's kernel flushes is never seen stale by user code in a helper
 * (SDM3 4.10.4): pages through new entries, rights that were taken away; and a helper that is
 * filled from the tables gets nothing that they do not give.
 *
 * Each case lets user code read a page, changes its entry, flushes in one of the ways there are, in
 * ring 0 and by the guest's own instructions, and lets the same helper's user code look again.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

#define KERNEL	    UINT64_C(0x70000) /* code of ring 0 */
#define OTHER	    UINT64_C(0x58000) /* the frame that a page of USER_DATA moves to */
#define LARGE	    UINT64_C(0x600000)
#define LARGE_OTHER UINT64_C(0x800000)
#define BOARD_PD    UINT64_C(0x102000)
#define USER_PTE(p) ((p) | X86_PTE_P | X86_PTE_W | X86_PTE_U)
#define DESCRIPTOR  UINT64_C(0x78000) /* INVPCID's operand */
#define KEEP	    "bts $63, %rax; mov %rax, %cr3;"

CODE(read_page, "mov (%rdi), %rax; syscall");
CODE(write_page, "mov %rsi, (%rdi); syscall");

/* At address RDI; RSI is for stores. What it ended with, as board_run. */
static int user_access(struct board *b, const uint8_t *code, const uint8_t *end, uint64_t at)
{
	uint64_t entries = b->cpu->stats.direct_entries;

	board_load(b, USER_CODE, code, (size_t)(end - code));
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_RDI] = at;
	b->cpu->s.gpr[X86_RSI] = 333;
	int vector = board_run(b);
	if (b->cpu->direct->refused) {
		print_message("skipped: %s\n", b->cpu->direct->why);
		skip();
	}
	assert_true(b->cpu->stats.direct_entries > entries);
	return vector;
}
static uint64_t user_reads(struct board *b, uint64_t at)
{
	assert_int_equal(user_access(b, read_page, read_page_end, at), 0x80);
	return b->cpu->s.gpr[X86_RAX];
}

/* In ring 0, where a system call or a fault has left the CPU. */
static void kernel_runs(struct board *b, const uint8_t *code, const uint8_t *end, uint64_t rax)
{
	assert_int_equal(b->cpu->cpl, 0);
	board_load(b, KERNEL, code, (size_t)(end - code));
	b->cpu->s.rip = KERNEL;
	b->cpu->s.gpr[X86_RAX] = rax;
	b->cpu->s.activity = X86_RUNNING;
	assert_int_equal(board_run(b), -1);
}
#define KERNEL_RUNS(b, name, rax) kernel_runs(b, name, name##_end, rax)

static int setup(void **state)
{
	board_setup_direct(state);
	struct board *b = *state;
	user_state(b, USER_CODE);
	for (uint64_t off = 0; off < 0x200000; off += 0x1000) {
		board_write(b, LARGE + off, 8, 1000 + off);
		board_write(b, LARGE_OTHER + off, 8, 2000 + off);
	}
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8, USER_PTE(LARGE) | X86_PTE_PS);
	board_pte_set(b, KERNEL, board_pte(b, KERNEL) & ~X86_PTE_U);
	board_write(b, USER_DATA, 8, 111);
	board_write(b, OTHER, 8, 222);
	return 0;
}

/* The page is elsewhere from now on, says its entry. */
static void page_moves(struct board *b, uint64_t bits)
{
	board_pte_set(b, USER_DATA, USER_PTE(OTHER) | bits);
}

/* A fault has dropped its page by itself: its handler may change the entry and do no more, even to
 * one that the access would not be allowed by either (SDM3 4.10.4.1). */
static void a_page_fault_flushes_its_page(void **state)
{
	struct board *b = *state;

	board_pte_set(b, USER_DATA, USER_PTE(USER_DATA) & ~X86_PTE_W);
	soft_tlb_flush_all(b->cpu);
	assert_int_equal(user_reads(b, USER_DATA), 111);
	assert_int_equal(user_access(b, write_page, write_page_end, USER_DATA), X86_VEC_PF);
	board_pte_set(b, USER_DATA, USER_PTE(OTHER) & ~X86_PTE_W);
	assert_int_equal(user_reads(b, USER_DATA), 222);
}

CODE(by_invlpg, "invlpg 0x50abc; hlt");
CODE(by_cr3, "mov %cr3, %rax; mov %rax, %cr3; hlt");
CODE(by_pge, "mov %cr4, %rax; btc $7, %rax; mov %rax, %cr4; hlt");
CODE(by_smep, "mov %cr4, %rax; bts $20, %rax; mov %rax, %cr4;"
	      "btr $20, %rax; mov %rax, %cr4; hlt");
CODE(by_invpcid, "invpcid 0x78000, %rax; hlt");
static void every_way_to_flush_a_page_is_seen(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		uint64_t rax, bits; /* in the entry: only some ways flush global pages */
	} ways[] = {
	    {by_invlpg, by_invlpg_end, 0, 0},
	    {by_invlpg, by_invlpg_end, 0, X86_PTE_G},
	    {by_cr3, by_cr3_end, 0, 0},
	    {by_pge, by_pge_end, 0, 0},
	    {by_pge, by_pge_end, 0, X86_PTE_G},
	    {by_smep, by_smep_end, 0, 0},
	    {by_invpcid, by_invpcid_end, 0, 0},
	    {by_invpcid, by_invpcid_end, 1, 0},
	    {by_invpcid, by_invpcid_end, 2, X86_PTE_G},
	    {by_invpcid, by_invpcid_end, 3, 0},
	};
	struct board *b = *state;

	board_write(b, DESCRIPTOR, 8, 0); /* PCID */
	board_write(b, DESCRIPTOR + 8, 8, USER_DATA);
	b->cpu->s.cr4 |= X86_CR4_PGE;
	soft_mode_update(b->cpu);
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		board_pte_set(b, USER_DATA, USER_PTE(USER_DATA) | ways[i].bits);
		soft_tlb_flush_all(b->cpu);
		assert_int_equal(user_reads(b, USER_DATA), 111);
		page_moves(b, ways[i].bits);
		kernel_runs(b, ways[i].code, ways[i].end, ways[i].rax);
		if (user_reads(b, USER_DATA) != 222)
			fail_msg("way %u of flushing was not seen", i);
	}
}

CODE(pcids_on, "mov %cr4, %rax; bts $17, %rax; mov %rax, %cr4; hlt");
CODE(cr3_is, "mov %rax, %cr3; hlt");
CODE(back_with_what_was_kept, "mov $0x100001, %eax;" KEEP "hlt");
CODE(back_without, "mov $0x100001, %eax; mov %rax, %cr3; hlt");
/* From the address space of PCID 2. */
CODE(one_address, "xor %eax, %eax; invpcid 0x78000, %rax; mov $0x100001, %eax;" KEEP "hlt");
CODE(one_pcid, "mov $1, %eax; invpcid 0x78000, %rax; mov $0x100001, %eax;" KEEP "hlt");
CODE(all_with_global, "mov $2, %eax; invpcid 0x78000, %rax; mov $0x100001, %eax;" KEEP "hlt");
CODE(all, "mov $3, %eax; invpcid 0x78000, %rax; mov $0x100001, %eax;" KEEP "hlt");
static void an_address_space_that_was_left_is_flushed_as_asked(void **state)
{
	static const struct {
		const uint8_t *code, *end;
	} ways[] = {{back_without, back_without_end},
		    {one_address, one_address_end},
		    {one_pcid, one_pcid_end},
		    {all_with_global, all_with_global_end},
		    {all, all_end}};
	struct board *b = *state;

	(void)user_reads(b, USER_DATA);
	KERNEL_RUNS(b, pcids_on, 0);
	board_write(b, DESCRIPTOR, 8, 1);
	board_write(b, DESCRIPTOR + 8, 8, USER_DATA);
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		board_pte_set(b, USER_DATA, USER_PTE(USER_DATA));
		KERNEL_RUNS(b, cr3_is, BOARD_PML4 | 1);
		assert_int_equal(user_reads(b, USER_DATA), 111);
		KERNEL_RUNS(b, cr3_is, BOARD_PML4 | 2);
		assert_int_equal(user_reads(b, USER_DATA), 111);
		page_moves(b, 0);
		kernel_runs(b, ways[i].code, ways[i].end, 0);
		if (user_reads(b, USER_DATA) != 222)
			fail_msg("way %u of flushing another address space was not seen", i);
	}
	/* With nothing flushed either is right, and nothing else is. */
	board_pte_set(b, USER_DATA, USER_PTE(USER_DATA));
	KERNEL_RUNS(b, back_with_what_was_kept, 0);
	uint64_t value = user_reads(b, USER_DATA);
	assert_true(value == 111 || value == 222);
}

/* Entering a space anew with bit 63 must find what belongs to its tables, not to another's. */
static void address_spaces_do_not_see_each_others_pages(void **state)
{
	const uint64_t tables = 0x900000; /* copies of PML4, PDPT, PD and the first page table */
	struct board *b = *state;

	for (unsigned level = 0; level < 4; level++)
		for (unsigned i = 0; i < 512; i++) {
			uint64_t e =
			    board_read(b, BOARD_PML4 + level * UINT64_C(0x1000) + i * 8, 8);
			if (level < 3 && i == 0)
				e = USER_PTE(tables + (level + 1) * 0x1000);
			board_write(b, tables + level * 0x1000 + i * 8, 8, e);
		}
	board_write(b, tables + 0x3000 + (USER_DATA >> 12) * 8, 8, USER_PTE(OTHER));
	(void)user_reads(b, USER_DATA);
	KERNEL_RUNS(b, pcids_on, 0);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t keep = i > 1 ? BIT64(63) : 0;
		KERNEL_RUNS(b, cr3_is, BOARD_PML4 | 1 | keep);
		assert_int_equal(user_reads(b, USER_DATA), 111);
		KERNEL_RUNS(b, cr3_is, tables | 2 | keep);
		assert_int_equal(user_reads(b, USER_DATA), 222);
	}
}

CODE(by_invlpg_in_the_large_page, "invlpg 0x7ff000; hlt");
static void a_large_page_is_flushed_whole(void **state)
{
	struct board *b = *state;

	for (uint64_t off = 0; off < 0x200000; off += 0x35000)
		assert_int_equal(user_reads(b, LARGE + off), 1000 + off);
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8, USER_PTE(LARGE_OTHER) | X86_PTE_PS);
	KERNEL_RUNS(b, by_invlpg_in_the_large_page, 0);
	for (uint64_t off = 0; off < 0x200000; off += 0x35000)
		assert_int_equal(user_reads(b, LARGE + off), 2000 + off);
}

/* The page is mapped because of a fault that the guest's kernel has answered: no walk has seen it.
 */
static void a_large_page_that_was_only_looked_at_is_flushed_whole(void **state)
{
	struct board *b = *state;

	(void)user_reads(b, USER_DATA);
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8, 0);
	KERNEL_RUNS(b, by_cr3, 0);
	assert_int_equal(user_access(b, read_page, read_page_end, LARGE), X86_VEC_PF);
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8,
		    USER_PTE(LARGE) | X86_PTE_PS | X86_PTE_A | X86_PTE_D);
	assert_int_equal(user_reads(b, LARGE), 1000);
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8, 0);
	KERNEL_RUNS(b, by_invlpg_in_the_large_page, 0);
	for (uint64_t off = 0; off < 0x200000; off += 0x35000) {
		assert_int_equal(user_access(b, read_page, read_page_end, LARGE + off), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, LARGE + off);
	}
}

static void an_entry_with_reserved_bits_is_no_page(void **state)
{
	const uint64_t used = X86_PTE_A | X86_PTE_D;
	struct board *b = *state;

	(void)user_reads(b, USER_DATA);
	/* Neither at first nor when its fault was answered by going back to it, nor with a helper
	 * that has nothing yet. */
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8,
		    USER_PTE(LARGE) | X86_PTE_PS | used | BIT64(13));
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(user_access(b, read_page, read_page_end, LARGE), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, LARGE);
		assert_int_equal(board_stack(b, 0), X86_PFERR_P | X86_PFERR_U | X86_PFERR_RSVD);
		if (i & 1)
			KERNEL_RUNS(b, by_cr3, 0);
	}
	b->cpu->s.efer &= ~X86_EFER_NXE;
	board_pte_set(b, USER_DATA, USER_PTE(USER_DATA) | used | X86_PTE_NX);
	soft_tlb_flush_all(b->cpu);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(user_access(b, read_page, read_page_end, USER_DATA), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, USER_DATA);
		assert_int_equal(board_stack(b, 0), X86_PFERR_P | X86_PFERR_U | X86_PFERR_RSVD);
	}
}

static void the_host_is_asked_once_for_a_large_page_and_when_there_is_time(void **state)
{
	struct board *b = *state;
	struct direct_large *l = &b->cpu->direct->large;

	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8, USER_PTE(LARGE) | X86_PTE_PS | X86_PTE_NX);
	l->since = __builtin_ia32_rdtsc();
	l->pause = UINT64_MAX >> 1;
	assert_int_equal(user_reads(b, LARGE), 1000);
	assert_int_equal(l->wishes, 1);
	assert_int_equal(user_reads(b, LARGE + 0x5000), 1000 + 0x5000);
	direct_large_take(b->cpu);
	assert_int_equal(l->wishes, 1);
	l->since += UINT64_MAX >> 2; /* the TSC has gone back */
	l->pause = UINT64_MAX >> 3;
	direct_large_take(b->cpu);
	for (uint64_t off = 0; off < 0x200000; off += 0x35000)
		assert_int_equal(user_reads(b, LARGE + off), 1000 + off);
	assert_int_equal(l->wishes, 0);
	assert_int_equal(b->cpu->stats.direct_large + l->failed, 1); /* old hosts refuse */
	assert_in_range(l->pause, 1, UINT64_MAX >> 4);
	/* Mapped anew, it is what it has become. */
	KERNEL_RUNS(b, by_invlpg_in_the_large_page, 0);
	assert_int_equal(user_reads(b, LARGE + 0x6000), 1000 + 0x6000);
	assert_int_equal(l->wishes, 0);
	assert_int_equal(b->cpu->stats.direct_large + l->failed, 1);
}

static void a_host_that_cannot_make_large_pages_is_not_asked_for_ever(void **state)
{
	struct board *b = *state;
	struct direct_large *l = &b->cpu->direct->large;
	const struct soft_slot *slot = soft_ram_slot(&b->cpu->engine->ram, LARGE);

	/* None, whatever the host's kernel can do. */
	(void)madvise(slot->host, BOARD_RAM, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < 4; i++)
		direct_large_note(b->cpu, LARGE + i * 0x200000);
	if (!l->wishes) {
		print_message("skipped: this memory cannot have large pages\n");
		skip();
	}
	assert_int_equal(l->wishes, 4);
	l->failed = 14;
	for (unsigned failed = 15; failed <= 16; failed++) {
		l->pause = 0;
		direct_large_take(b->cpu);
		assert_int_equal(l->failed, failed);
		assert_int_equal(l->wishes, failed == 15 ? 3 : 0);
	}
	/* Nor when it was asked more often than that. */
	for (; l->failed < 20; l->failed++) {
		direct_large_note(b->cpu, LARGE + 0x800000);
		assert_int_equal(l->wishes, 0);
	}
	assert_int_equal(b->cpu->stats.direct_large, 0);
}

static void rights_that_were_taken_away_are_gone(void **state)
{
	static const struct {
		uint64_t set, clear;
		uint32_t error; /* of a store */
	} ways[] = {
	    {0, X86_PTE_P, X86_PFERR_W | X86_PFERR_U},
	    {0, X86_PTE_W, X86_PFERR_P | X86_PFERR_W | X86_PFERR_U},
	    {0, X86_PTE_U, X86_PFERR_P | X86_PFERR_W | X86_PFERR_U},
	};
	struct board *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		board_pte_set(b, USER_DATA, USER_PTE(USER_DATA));
		assert_int_equal(user_access(b, write_page, write_page_end, USER_DATA), 0x80);
		assert_int_equal(board_read(b, USER_DATA, 8), 333);
		board_write(b, USER_DATA, 8, 111);
		board_pte_set(b, USER_DATA,
			      (board_pte(b, USER_DATA) | ways[i].set) & ~ways[i].clear);
		KERNEL_RUNS(b, by_invlpg, 0);
		assert_int_equal(user_access(b, write_page, write_page_end, USER_DATA), X86_VEC_PF);
		assert_int_equal(board_stack(b, 0), ways[i].error);
		assert_int_equal(board_read(b, USER_DATA, 8), 111);
	}
}

CODE(by_invlpg_of_the_code, "invlpg 0x40000; hlt");
static void code_that_may_no_longer_run_does_not(void **state)
{
	struct board *b = *state;

	(void)user_reads(b, USER_DATA);
	board_pte_set(b, USER_CODE, board_pte(b, USER_CODE) | X86_PTE_NX);
	KERNEL_RUNS(b, by_invlpg_of_the_code, 0);
	user_again(b, USER_CODE);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, USER_CODE);
	assert_int_equal(board_stack(b, 0), X86_PFERR_P | X86_PFERR_U | X86_PFERR_I);
}

/* Far from each other and from the code: nothing is mapped along with its neighbours. */
#define PAGE(n)	    (UINT64_C(0x140000) + (n)*0x10000)
#define TABLE	    UINT64_C(0x130000)
#define BELOW_TABLE UINT64_C(0xa00000) /* 2 MiB, with a table of its own */
#define USED	    (X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D)

/* What an access in a helper that has nothing yet ends with, and how often it stops for mappings.
 */
static int fresh_access(struct board *b, const uint8_t *code, const uint8_t *end, uint64_t at,
			uint64_t *stops)
{
	uint64_t before = b->cpu->stats.direct_faults;

	helpers_empty(b);
	int vector = user_access(b, code, end, at);
	*stops = b->cpu->stats.direct_faults - before;
	return vector;
}

static void a_new_helper_has_what_was_used(void **state)
{
	struct board *b = *state;
	uint64_t stops;

	(void)user_reads(b, USER_DATA); /* the code's page is used from here on */
	board_pte_set(b, PAGE(0), PAGE(0) | USED);
	board_pte_set(b, PAGE(1), PAGE(1) | (USED & ~X86_PTE_W));
	board_pte_set(b, PAGE(2), PAGE(2) | (USED & ~X86_PTE_D));
	for (unsigned i = 0; i < 3; i++) {
		board_write(b, PAGE(i), 8, 500 + i);
		assert_int_equal(fresh_access(b, read_page, read_page_end, PAGE(i), &stops), 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 500 + i);
		assert_int_equal(stops, 0);
	}
	assert_int_equal(fresh_access(b, write_page, write_page_end, PAGE(0), &stops), 0x80);
	assert_int_equal(stops, 0);
	assert_int_equal(board_read(b, PAGE(0), 8), 333);
}

static void a_new_helper_has_nothing_that_was_not_used(void **state)
{
	struct board *b = *state;
	uint64_t stops;

	(void)user_reads(b, USER_DATA);
	board_pte_set(b, PAGE(0), PAGE(0) | (USED & ~(X86_PTE_A | X86_PTE_D)));
	board_pte_set(b, PAGE(1), PAGE(1) | (USED & ~X86_PTE_D));
	assert_int_equal(fresh_access(b, read_page, read_page_end, PAGE(0), &stops), 0x80);
	assert_int_equal(stops, 1);
	assert_int_equal(board_pte(b, PAGE(0)), PAGE(0) | (USED & ~X86_PTE_D));
	assert_int_equal(fresh_access(b, write_page, write_page_end, PAGE(1), &stops), 0x80);
	assert_int_equal(stops, 1);
	assert_int_equal(board_pte(b, PAGE(1)), PAGE(1) | USED);
	/* The table above it was not: the CPU sets its bit when it uses it. */
	board_write(b, BOARD_PD + (BELOW_TABLE >> 21) * 8, 8, USER_PTE(TABLE));
	board_write(b, TABLE, 8, PAGE(2) | USED);
	assert_int_equal(fresh_access(b, read_page, read_page_end, BELOW_TABLE, &stops), 0x80);
	assert_int_equal(stops, 1);
	assert_int_equal(board_read(b, BOARD_PD + (BELOW_TABLE >> 21) * 8, 8),
			 USER_PTE(TABLE) | X86_PTE_A);
}

CODE(jump_to_page, "jmp *%rdi");
/* Kernels clear A to see what is used, and do not flush (SDM3 4.8): the soft TLB still has the
 * page, a helper that has lost its mappings has not. */
static void a_page_whose_bits_were_cleared_without_a_flush_is_mapped_again(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		uint64_t clear;
	} ways[] = {{read_page, read_page_end, X86_PTE_A},
		    {write_page, write_page_end, X86_PTE_A | X86_PTE_D},
		    {write_page, write_page_end, X86_PTE_D},
		    {jump_to_page, jump_to_page_end, X86_PTE_A}};
	struct board *b = *state;
	const struct soft_stats *stats = &b->cpu->stats;

	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		uint64_t bits = X86_PTE_A | (ways[i].code == write_page ? X86_PTE_D : 0);
		board_pte_set(b, PAGE(i), USER_PTE(PAGE(i)));
		board_load(b, PAGE(i), "\x0f\x05", 2); /* SYSCALL */
		assert_int_equal(user_access(b, ways[i].code, ways[i].end, PAGE(i)), 0x80);
		board_pte_set(b, PAGE(i), board_pte(b, PAGE(i)) & ~ways[i].clear);
		direct_forget_page(b->cpu, PAGE(i));
		assert_int_equal(user_access(b, ways[i].code, ways[i].end, PAGE(i)), 0x80);
		assert_int_equal(board_pte(b, PAGE(i)) & (X86_PTE_A | X86_PTE_D), bits);
		/* Before, each touch was a stop. */
		uint64_t faults = stats->direct_faults;
		assert_int_equal(user_access(b, ways[i].code, ways[i].end, PAGE(i)), 0x80);
		assert_int_equal(stats->direct_faults, faults);
	}
}

static void a_new_helper_has_no_rights_that_the_tables_do_not_give(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		uint64_t lacks, has, error;
	} ways[] = {
	    {read_page, read_page_end, X86_PTE_U, 0, X86_PFERR_P | X86_PFERR_U},
	    {read_page, read_page_end, X86_PTE_P, 0, X86_PFERR_U},
	    {write_page, write_page_end, X86_PTE_W, 0, X86_PFERR_P | X86_PFERR_W | X86_PFERR_U},
	    {jump_to_page, jump_to_page_end, X86_PTE_W, X86_PTE_NX,
	     X86_PFERR_P | X86_PFERR_U | X86_PFERR_I},
	};
	struct board *b = *state;
	const uint64_t code = 0x050f90909090; /* NOPs: CR2 tells how far it has come */
	uint64_t stops, upper = BOARD_PD + (BELOW_TABLE >> 21) * 8;

	(void)user_reads(b, USER_DATA);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(ways); i++) {
		uint64_t bits = (USED & ~ways[i / 2].lacks) | ways[i / 2].has;
		/* In the entry itself, in one of a level above. */
		board_write(b, upper, 8, TABLE | (i % 2 ? bits : USED));
		board_write(b, TABLE, 8, PAGE(0) | (i % 2 ? USED : bits));
		board_write(b, PAGE(0), 8, code);
		int vector =
		    fresh_access(b, ways[i / 2].code, ways[i / 2].end, BELOW_TABLE, &stops);
		assert_int_equal(vector, X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, BELOW_TABLE);
		assert_int_equal(board_stack(b, 0), ways[i / 2].error);
		assert_int_equal(board_read(b, PAGE(0), 8), code);
	}
}

/* What user code can write in a large page is no page table. */
static void what_a_large_page_holds_gives_a_new_helper_nothing(void **state)
{
	struct board *b = *state;
	uint64_t stops;

	(void)user_reads(b, USER_DATA);
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8, LARGE | USED | X86_PTE_PS);
	for (unsigned i = 0; i < 512; i++)
		board_write(b, LARGE + i * 8, 8, KERNEL | USED);
	assert_int_equal(fresh_access(b, read_page, read_page_end, LARGE + 0x3000, &stops), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 1000 + 0x3000);
	assert_int_equal(stops, 1);
}

/* More than fits into one order to a helper: a guess which will be needed. */
static void a_new_helper_is_given_none_of_many_pages(void **state)
{
	struct board *b = *state;
	uint64_t stops;

	(void)user_reads(b, USER_DATA);
	board_write(b, BOARD_PD + (BELOW_TABLE >> 21) * 8, 8, TABLE | USED);
	for (unsigned i = 0; i < 512; i++) /* no two of them are neighbours in memory */
		board_write(b, TABLE + i * 8, 8, (0x200000 + ((511 - i) << 12)) | USED);
	for (unsigned i = 0; i < 512; i += 17) {
		board_write(b, 0x200000 + ((511 - i) << 12), 8, 700 + i);
		assert_int_equal(fresh_access(b, read_page, read_page_end,
					      BELOW_TABLE + ((uint64_t)i << 12), &stops),
				 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 700 + i);
		assert_in_range(stops, 1, 2); /* and one for the code */
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(a_page_fault_flushes_its_page),
	    T(every_way_to_flush_a_page_is_seen),
	    T(an_address_space_that_was_left_is_flushed_as_asked),
	    T(address_spaces_do_not_see_each_others_pages),
	    T(a_large_page_is_flushed_whole),
	    T(a_large_page_that_was_only_looked_at_is_flushed_whole),
	    T(an_entry_with_reserved_bits_is_no_page),
	    T(the_host_is_asked_once_for_a_large_page_and_when_there_is_time),
	    T(a_host_that_cannot_make_large_pages_is_not_asked_for_ever),
	    T(a_page_whose_bits_were_cleared_without_a_flush_is_mapped_again),
	    T(rights_that_were_taken_away_are_gone),
	    T(code_that_may_no_longer_run_does_not),
	    T(a_new_helper_has_what_was_used),
	    T(a_new_helper_has_nothing_that_was_not_used),
	    T(a_new_helper_has_no_rights_that_the_tables_do_not_give),
	    T(what_a_large_page_holds_gives_a_new_helper_nothing),
	    T(a_new_helper_is_given_none_of_many_pages),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
