/* block_test.c: tests of where blocks and their decoded instructions are kept. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "engine/soft/testcode.h"
#include "engine/soft/trans.h"
#include "engine/soft/vector.h"

#define LONG_CODE 0x400000u
#define BLOCKS	  60000u

/* So many blocks in a row, each adding its number to RCX; then HLT. */
static uint64_t code_put(struct board *b, uint64_t at, unsigned count)
{
	uint64_t sum = 0;

	for (uint32_t k = 1; k <= count; k++) {
		uint8_t code[] = {0x48, 0x81, 0xc1, 0, 0, 0, 0, 0xeb, 0}; /* add rcx, k; jmp */

		memcpy(code + 3, &k, 4);
		board_load(b, at, code, sizeof(code));
		at += sizeof(code);
		sum += k;
	}
	board_load(b, at, "\xf4", 1);
	return sum;
}

static unsigned live_blocks(const struct board *b)
{
	const struct soft_cache *c = b->cpu->cache;
	unsigned n = c->blocks_used - 1;

	for (uint32_t k = c->blocks_free; k; k = soft_block_of(c, k)->hash_next)
		n--;
	return n;
}

static void run_at(struct board *b, uint64_t rip)
{
	board_long(b, rip);
	b->cpu->s.gpr[X86_RCX] = 0;
	assert_int_equal(board_run(b), -1);
}

static void run_blocks(struct board *b, uint64_t sum)
{
	run_at(b, LONG_CODE);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], sum);
}

static void code_that_runs_once_leaves_nothing_behind(void **state)
{
	struct board *b = *state;

	b->cpu->trans->hot = 1000;
	run_blocks(b, code_put(b, LONG_CODE, BLOCKS));
	assert_in_range(live_blocks(b), 1, SOFT_POOL_BYTES / (2 * sizeof(struct insn)));
	assert_in_range(b->cpu->cache->blocks_used, 1, BLOCKS / 2);
	assert_int_equal(b->cpu->cache->parts, SOFT_POOL_PARTS);
	assert_int_equal(b->cpu->stats.translated, 0);
}

/* Not much more than the pool holds: what is needed next went not long ago. */
static void code_that_comes_back_gets_room(void **state)
{
	struct board *b = *state;
	uint64_t sum = code_put(b, LONG_CODE, BLOCKS / 2), decoded;

	b->cpu->trans->hot = 1000;
	for (unsigned i = 0; i < 10; i++)
		run_blocks(b, sum);
	assert_in_range(b->cpu->cache->parts, SOFT_POOL_PARTS + 1, SOFT_PARTS_MOST - 1);
	decoded = b->cpu->stats.blocks;
	run_blocks(b, sum);
	assert_in_range(b->cpu->stats.blocks - decoded, 0, BLOCKS / 100);
	assert_int_equal(b->cpu->stats.translated, 0);
	soft_cache_flush(b->cpu);
	run_blocks(b, sum);
}

/* More than the hash has buckets for at first; each is found again. And so when all was emptied:
 * then nothing of before is found. */
static void many_blocks_are_found_again(void **state)
{
	struct board *b = *state;
	struct soft_cache *c = b->cpu->cache;
	const uint32_t many = SOFT_BLOCK_HASH + 10000;
	uint64_t sum = code_put(b, LONG_CODE, many);

	for (unsigned round = 0; round < 2; round++) {
		run_blocks(b, sum);
		assert_true(c->blocks_used > SOFT_BLOCK_HASH);
		uint64_t decoded = b->cpu->stats.blocks;
		for (uint32_t i = 0; i < many; i++) {
			uint64_t at = LONG_CODE + i * 9;

			if ((at & 0xfff) <= 0x1000 - 9) /* else in two pages, and not kept here */
				assert_non_null(soft_block_find(c, at, b->cpu->mode));
		}
		soft_cache_forget(b->cpu);
		run_blocks(b, sum);
		assert_int_equal(b->cpu->stats.blocks, decoded);
		soft_cache_flush(b->cpu);
		for (uint32_t i = 0; i < SOFT_BLOCKS; i++)
			assert_int_equal(c->hash[i], 0);
	}
}

/* Calls something, then all of the long code, which takes the place of its block, then again. */
CODE(call_code, "call *%rsi; call *%rdi; call *%rsi; hlt");
CODE(called_code, "inc %rbx; ret");
static void a_block_that_went_is_not_found_by_its_address(void **state)
{
	struct board *b = *state;

	b->cpu->trans->hot = 1000;
	code_put(b, LONG_CODE, BLOCKS);
	board_load(b, LONG_CODE + BLOCKS * 9, "\xc3", 1); /* ret */
	board_load(b, BOARD_CODE, call_code, (size_t)(call_code_end - call_code));
	board_load(b, BOARD_DATA, called_code, (size_t)(called_code_end - called_code));
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RBX] = 0;
	b->cpu->s.gpr[X86_RSI] = BOARD_DATA;
	b->cpu->s.gpr[X86_RDI] = LONG_CODE;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.rip, BOARD_CODE + (uint64_t)(call_code_end - call_code));
	assert_int_equal(b->cpu->s.gpr[X86_RBX], 2);
}

static void links_lead_to_live_blocks_of_the_page(const struct board *b)
{
	const struct soft_cache *c = b->cpu->cache;

	for (uint32_t n = 1; n < c->blocks_used; n++) {
		const struct soft_block *from = soft_block_of(c, n);

		for (unsigned k = 0; k < 2; k++) {
			const struct soft_block *to = soft_block_of(c, from->link[k]);

			if ((from->flags & BLOCK_FREE) || !from->link[k])
				continue;
			assert_false(to->flags & BLOCK_FREE);
			assert_int_equal(to->phys >> 12, from->phys >> 12);
		}
	}
}

/* The first half of the blocks is decoded after the second, which goes before it. */
static void a_block_that_went_is_linked_to_no_more(void **state)
{
	struct board *b = *state;
	struct soft_cache *c = b->cpu->cache;
	size_t bytes = c->part_bytes;

	c->part_bytes = 8192;
	code_put(b, BOARD_CODE, 40);
	for (unsigned i = 0; i < 60; i++)
		code_put(b, LONG_CODE + i * 0x1000, 50);
	run_at(b, BOARD_CODE + 20 * 9);
	for (unsigned i = 0; i < 60; i++) {
		run_at(b, LONG_CODE + i * 0x1000);
		assert_int_equal(b->cpu->s.gpr[X86_RCX], 50 * 51 / 2);
		if (i == 10)
			run_at(b, BOARD_CODE);
		links_lead_to_live_blocks_of_the_page(b);
	}
	run_at(b, BOARD_CODE);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 40 * 41 / 2);
	c->part_bytes = bytes;
}

/* Its decoded instructions go while its host code stays. */
CODE(load_code, "mov (%rdi), %rax; jmp *%rsi");
static void load_then_long_code(struct board *b)
{
	code_put(b, LONG_CODE, BLOCKS);
	board_load(b, BOARD_CODE, load_code, (size_t)(load_code_end - load_code));
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RDI] = BOARD_DATA;
	b->cpu->s.gpr[X86_RSI] = LONG_CODE;
	assert_int_equal(board_run(b), -1);
	assert_true(b->cpu->stats.translated >= BLOCKS);
}

static void a_translated_block_is_decoded_again_for_a_fault(void **state)
{
	struct board *b = *state;

	load_then_long_code(b);
	assert_null(soft_block_find(b->cpu->cache, BOARD_CODE, b->cpu->mode)->insn);
	uint64_t before = b->cpu->stats.decoded_again;
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RDI] = UINT64_C(0x5000000000);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(board_stack(b, 1), BOARD_CODE);
	assert_int_equal(b->cpu->s.cr2, UINT64_C(0x5000000000));
	assert_true(b->cpu->stats.decoded_again > before);
}

static void a_translated_block_is_decoded_again_for_single_steps(void **state)
{
	struct board *b = *state;

	load_then_long_code(b);
	board_write(b, BOARD_DATA, 8, 77);
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RDI] = BOARD_DATA;
	assert_int_equal(soft_run_steps(&b->cpu->base, 1), RUN_KICKED);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 77);
	assert_int_equal(b->cpu->s.rip, BOARD_CODE + 3);
}

static uint8_t *host_of(const struct board *b, uint64_t phys)
{
	const struct soft_slot *slot = soft_ram_slot(&b->cpu->engine->ram, phys);

	return slot->host + (phys - slot->base);
}

/* As another CPU's store is whose event is on its way. */
static void code_that_was_changed_meanwhile_is_what_it_is_now(void **state)
{
	struct board *b = *state;

	load_then_long_code(b);
	memcpy(host_of(b, BOARD_CODE), "\x90\x90\xf4", 3);
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RDI] = UINT64_C(0x5000000000);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.rip, BOARD_CODE + 3);
}

/* DIV, whose quotient might not fit, misses; RDI is checked at the beginning, for both loads. What
 * DIV has become changes RDI. */
CODE(checked_code, "mov (%rdi), %rax; div %rsi; mov 8(%rdi), %rcx; jmp *%r8");
CODE(becomes_code, "mov %rsi, %rdi");
static void start_checked(struct board *b, uint64_t rdx, uint64_t rsi)
{
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RDI] = BOARD_DATA;
	b->cpu->s.gpr[X86_RDX] = rdx;
	b->cpu->s.gpr[X86_RSI] = rsi;
	b->cpu->s.gpr[X86_R8] = LONG_CODE;
}

static void host_code_does_not_go_on_after_another_instruction_than_its_own(void **state)
{
	const uint64_t nowhere = UINT64_C(0x5000000000);
	struct board *b = *state;

	code_put(b, LONG_CODE, BLOCKS);
	board_load(b, BOARD_CODE, checked_code, (size_t)(checked_code_end - checked_code));
	start_checked(b, 0, 1);
	assert_int_equal(board_run(b), -1);
	const struct soft_block *block = soft_block_find(b->cpu->cache, BOARD_CODE, b->cpu->mode);
	assert_non_null(block->code);
	assert_null(block->insn);
	assert_int_equal(becomes_code_end - becomes_code, 3);
	memcpy(host_of(b, BOARD_CODE + 3), becomes_code, 3);
	uint64_t slow = b->cpu->stats.slow, dropped = b->cpu->stats.invalidations;
	start_checked(b, 1, nowhere);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, nowhere + 8);
	assert_int_equal(board_stack(b, 1), BOARD_CODE + 6);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], nowhere);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], 1);
	assert_true(b->cpu->stats.slow > slow);
	assert_true(b->cpu->stats.invalidations > dropped);
}

/* STI, and what was a load in its shadow has become something else: that is still in it. */
CODE(shadow_code, "sti; mov (%rdi), %rax; jmp *%r8");
static void what_follows_sti_is_in_its_shadow_whatever_it_has_become(void **state)
{
	struct board *b = *state;

	code_put(b, LONG_CODE, BLOCKS);
	board_load(b, BOARD_CODE, shadow_code, (size_t)(shadow_code_end - shadow_code));
	start_checked(b, 0, 0);
	assert_int_equal(board_run(b), -1);
	const struct soft_block *block = soft_block_find(b->cpu->cache, BOARD_CODE, b->cpu->mode);
	assert_non_null(block->code);
	assert_null(block->insn);
	memcpy(host_of(b, BOARD_CODE + 1), "\x48\xff\xc3", 3); /* inc %rbx */
	start_checked(b, 0, 0);
	b->cpu->s.gpr[X86_RDI] = UINT64_C(0x5000000000);
	b->cpu->s.gpr[X86_RBX] = 0;
	b->pending_vector = 0x40;
	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_INTR);
	assert_int_equal(board_run(b), 0x40);
	assert_int_equal(b->cpu->s.gpr[X86_RBX], 1);
	assert_int_not_equal(board_stack(b, 0), BOARD_CODE + 1);
}

CODE(first_code, "mov %rax, %rbx; hlt");
CODE(then_code, "mov %rax, %rcx; hlt");
static void run_moves(struct board *b, uint64_t rbx, uint64_t rcx)
{
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RAX] = 5;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RBX], rbx);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], rcx);
}

static void what_changed_since_it_was_decoded_is_not_translated(void **state)
{
	struct board *b = *state;

	b->cpu->trans->hot = 2;
	board_load(b, BOARD_CODE, first_code, (size_t)(first_code_end - first_code));
	run_moves(b, 5, 0);
	memcpy(host_of(b, BOARD_CODE), then_code, (size_t)(then_code_end - then_code));
	for (unsigned i = 0; i < 4; i++)
		run_moves(b, 5, 0);
	assert_int_equal(b->cpu->stats.translated, 0);
	/* The event is here. */
	soft_cache_drop(b->cpu, BOARD_CODE);
	for (unsigned i = 0; i < 2; i++)
		run_moves(b, 0, 5);
	assert_int_equal(b->cpu->stats.translated, 1);
}

static int setup_interp(void **state)
{
	unsetenv("BOARD_SOFT");
	return board_setup(state);
}

#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_translate, board_teardown)
#define I(f) cmocka_unit_test_setup_teardown(f, setup_interp, board_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(code_that_runs_once_leaves_nothing_behind),
	    T(code_that_comes_back_gets_room),
	    T(a_block_that_went_is_not_found_by_its_address),
	    T(many_blocks_are_found_again),
	    I(a_block_that_went_is_linked_to_no_more),
	    T(a_translated_block_is_decoded_again_for_a_fault),
	    T(a_translated_block_is_decoded_again_for_single_steps),
	    T(code_that_was_changed_meanwhile_is_what_it_is_now),
	    T(host_code_does_not_go_on_after_another_instruction_than_its_own),
	    T(what_follows_sti_is_in_its_shadow_whatever_it_has_become),
	    T(what_changed_since_it_was_decoded_is_not_translated),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
