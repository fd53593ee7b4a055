/* direct_work_test.c: what a guest has in its tables and pages does not make the work without bound
 * that is done for a helper: to fill one, to look for sensitive instructions, to map what is around
 * a page.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

#define BOARD_PD    UINT64_C(0x102000)
#define TABLES	    UINT64_C(0x130000)
#define REGION	    UINT64_C(0x6000000) /* user addresses, by tables of a test's own */
#define FRAMES	    UINT64_C(0x800000)
#define LARGE	    UINT64_C(0x600000)
#define NO_RAM	    UINT64_C(0x100000000)
#define TABLE	    (X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A)
#define CODE_PAGE   (X86_PTE_P | X86_PTE_U | X86_PTE_A)
#define FILL_TABLES 64u /* what a helper is filled from at most */
#define FILL_CODE   1024u

static int setup(void **state)
{
	board_setup_direct(state);
	user_state(*state, USER_CODE);
	return 0;
}

CODE(read_page, "mov (%rdi), %rax; syscall");
/* In a helper that has nothing yet, if `fresh`; how often it stops for mappings. */
static uint64_t reads(struct board *b, uint64_t at, uint64_t value, _Bool fresh)
{
	uint64_t faults = b->cpu->stats.direct_faults;

	if (fresh)
		helpers_empty(b);
	board_load(b, USER_CODE, read_page, (size_t)(read_page_end - read_page));
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_RDI] = at;
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], value);
	ran(b);
	return b->cpu->stats.direct_faults - faults;
}

/* Tables that stand for 10^10 pages: each level's entries all name the one table below. */
static void tables_that_name_a_few_tables_everywhere_take_no_time(void **state)
{
	static const uint64_t last[] = {NO_RAM | CODE_PAGE, NO_RAM | (CODE_PAGE & ~X86_PTE_A)};
	struct board *b = *state;

	board_write(b, USER_DATA, 8, 4711);
	(void)reads(b, USER_DATA, 4711, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(last); i++) {
		for (unsigned level = 0; level < 3; level++)
			for (unsigned e = 0; e < 512; e++)
				board_write(b, TABLES + level * 0x1000 + e * 8, 8,
					    level == 2 ? last[i]
						       : (TABLES + (level + 1) * 0x1000) | TABLE);
		for (unsigned e = 1; e < 256; e++) /* not where helpers' programs are */
			if (e < 64 || e >= 144)
				board_write(b, BOARD_PML4 + e * 8, 8, TABLES | TABLE);
		assert_in_range(reads(b, USER_DATA, 4711, 1), 1, 2);
		assert_int_equal(reads(b, USER_DATA, 4711, 0), 0);
	}
}

/* `n` tables in a row, each with one page that was used. */
static void tables_make(struct board *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		board_write(b, BOARD_PD + ((REGION >> 21) + i) * 8, 8, TABLES | TABLE);
	board_write(b, TABLES, 8, FRAMES | CODE_PAGE | X86_PTE_NX);
}

static void a_new_helper_is_given_nothing_from_too_many_tables(void **state)
{
	struct board *b = *state;

	board_write(b, USER_DATA, 8, 4711);
	(void)reads(b, USER_DATA, 4711, 0);
	board_write(b, FRAMES, 8, 815);
	/* Beside the few that the board has. */
	tables_make(b, FILL_TABLES / 2);
	assert_int_equal(reads(b, REGION + 0x200000, 815, 1), 0);
	tables_make(b, FILL_TABLES);
	assert_in_range(reads(b, REGION + 0x200000, 815, 1), 1, 2);
}

/* `n` pages of code, neighbours in memory: one mapping. */
static void code_make(struct board *b, unsigned n)
{
	for (unsigned i = 0; i < n; i += 512)
		board_write(b, BOARD_PD + ((REGION >> 21) + i / 512) * 8, 8,
			    (TABLES + i / 512 * 0x1000) | TABLE);
	for (unsigned i = 0; i < n; i++)
		board_write(b, TABLES + i * 8, 8, (FRAMES + i * UINT64_C(0x1000)) | CODE_PAGE);
}

static void a_new_helper_is_given_nothing_from_too_many_pages_of_code(void **state)
{
	struct board *b = *state;

	board_write(b, USER_DATA, 8, 4711);
	(void)reads(b, USER_DATA, 4711, 0);
	board_write(b, FRAMES + 0x5000, 8, 815);
	code_make(b, FILL_CODE / 2);
	assert_int_equal(reads(b, REGION + 0x5000, 815, 1), 0);
	code_make(b, FILL_CODE + 1);
	assert_in_range(reads(b, REGION + 0x5000, 815, 1), 1, 2);
}

/* Constants with the bytes of LAR, which take long to be told from it. Each page is another one. */
CODE(constants, ".rept 409\nmovabs $0x9090c0020fc0020f, %rax\n.endr\n");
static void constants_make(struct board *b, uint64_t at, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		board_load(b, at + i * UINT64_C(0x1000), constants,
			   (size_t)(constants_end - constants));
		board_write(b, at + i * UINT64_C(0x1000) + 0xffc, 4, 0x50 + i);
	}
}

static void a_new_helper_is_given_nothing_when_its_code_takes_long_to_look_through(void **state)
{
	struct board *b = *state;
	struct soft_direct *d = b->cpu->direct;
	uint64_t value;

	memcpy(&value, constants, sizeof(value));
	board_write(b, USER_DATA, 8, 4711);
	(void)reads(b, USER_DATA, 4711, 0);
	constants_make(b, FRAMES, 64);
	code_make(b, 4);
	assert_int_equal(reads(b, REGION, value, 1), 0);
	code_make(b, 64);
	uint64_t decoded = d->decoded;
	/* What is around the page that is read is looked through for it. */
	assert_in_range(reads(b, REGION, value, 1), 1, 2);
	assert_in_range(d->decoded - decoded, 1, 32768 + 4096 + 2 * 16 * 4096);
	assert_int_equal(reads(b, REGION, value, 0), 0);
}

static unsigned mapped_in(struct board *b, uint64_t region)
{
	struct direct_space *s = direct_space_get(b->cpu);
	unsigned n = 0;

	for (unsigned h = 0; h < ARRAY_SIZE(s->leaf); h++)
		for (const struct direct_leaf *l = s->leaf[h]; l; l = l->next)
			for (unsigned i = 0; i < 512 && l->region == region >> 21; i++)
				n += !!l->page[i];
	return n;
}

CODE(cpuid, "nop; nop; nop; nop; nop; nop; nop; nop; cpuid; ret");
static void what_is_around_a_page_is_looked_through_within_bounds(void **state)
{
	struct board *b = *state;
	struct soft_ram *ram = &b->cpu->engine->ram;
	const struct soft_slot *slot = soft_ram_slot(ram, LARGE);
	const uint64_t nops = UINT64_C(0x9090909090909090);

	board_load(b, LARGE, cpuid, (size_t)(cpuid_end - cpuid));
	board_load(b, LARGE + 0x1ff000, cpuid, (size_t)(cpuid_end - cpuid));
	/* In a large page that may be executed, and in which that page may not be. */
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8, LARGE | CODE_PAGE | X86_PTE_PS);
	(void)reads(b, LARGE, nops, 1);
	assert_int_equal(mapped_in(b, LARGE), 16);
	(void)reads(b, LARGE + 0x1ff000, nops, 0);
	assert_int_equal(mapped_in(b, LARGE), 32);
	/* In one that may be written, too, but for the pages whose code is decoded: all the others.
	 */
	for (uint64_t off = 0; off < 0x1ff000; off += 0x1000)
		*soft_ram_flags(ram, slot, LARGE + off) |= SOFT_PAGE_CODE;
	board_write(b, BOARD_PD + (LARGE >> 21) * 8, 8,
		    LARGE | CODE_PAGE | X86_PTE_W | X86_PTE_D | X86_PTE_PS);
	(void)reads(b, LARGE + 0x1ff000, nops, 1);
	assert_int_equal(mapped_in(b, LARGE), 17);
	/* Where there is none, it is mapped as a whole. */
	for (uint64_t off = 0; off < 0x1ff000; off += 0x1000)
		*soft_ram_flags(ram, slot, LARGE + off) &= (uint8_t)~SOFT_PAGE_CODE;
	(void)reads(b, LARGE + 0x1ff000, nops, 1);
	assert_int_equal(mapped_in(b, LARGE), 512);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(a_new_helper_is_given_nothing_from_too_many_tables),
	    T(tables_that_name_a_few_tables_everywhere_take_no_time),
	    T(a_new_helper_is_given_nothing_from_too_many_pages_of_code),
	    T(a_new_helper_is_given_nothing_when_its_code_takes_long_to_look_through),
	    T(what_is_around_a_page_is_looked_through_within_bounds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
