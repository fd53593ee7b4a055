/* lockstep_test.c: what agrees goes on as one; what differs is found and shown. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/soft/lockstep.h"
#include "engine/soft/testcode.h"

static void load(struct board *b, const uint8_t *code, const uint8_t *end)
{
	board_load(b, BOARD_CODE, code, (size_t)(end - code));
	board_long(b, BOARD_CODE);
}
#define LOAD(b, name) load(b, name, name##_end)

static uint64_t compared(struct board *b, uint64_t *repeated)
{
	uint64_t blocks;

	lockstep_counts(b->cpu, &blocks, repeated);
	return blocks;
}

/* Each pass would add once; a device is written once; a port gives another value each time. */
CODE(once_code, "mov $0xe000000, %rbx; mov $0x20000, %rdx; mov $10, %ecx;"
		"1: addl $3, (%rdx); mov (%rdx), %eax; mov %eax, 8(%rbx); loop 1b; rdtsc; hlt");
static void what_a_block_does_is_done_once(void **state)
{
	struct board *b = *state;
	uint64_t repeated;

	board_write(b, BOARD_DATA, 4, 5);
	LOAD(b, once_code);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(board_read(b, BOARD_DATA, 4), 35);
	assert_int_equal(board_access(b)->value, 35);
	assert_int_equal(board_access(b)->count, 10);
	assert_true(compared(b, &repeated) >= 2);
	assert_int_equal(repeated, 0);
}

/* Stores that overlap, that fault in the middle of the block, and that change the block itself. */
CODE(store_code, "mov $0x20000, %rdx; movl $0x11223344, (%rdx); movl $0x55667788, 1(%rdx);"
		 "mov %rdx, %rdi; mov $0x3000, %ecx; mov $7, %eax; rep stosb;"
		 "movb $5, 1f+1(%rip); 1: mov $1, %al; mov $0x5000000000, %rbx; mov %al, (%rbx)");
static void stores_are_undone_and_done_again(void **state)
{
	struct board *b = *state;
	uint64_t repeated;

	LOAD(b, store_code);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.gpr[X86_RAX] & 0xff, 5);
	assert_int_equal(board_read(b, BOARD_DATA + 0x2fff, 1), 7);
	compared(b, &repeated);
	assert_int_equal(repeated, 0);
}

/* Every addition of 0 to a byte of the block drops the block: host code goes on in a new one to the
 * old one's end; for the interpreter each time is a new look, and so is the last. */
CODE(drop_code, "mov $0x8100, %eax; .fill 200, 2, 0; hlt");
static void a_block_that_is_dropped_by_each_of_its_instructions_agrees(void **state)
{
	struct board *b = *state;

	LOAD(b, drop_code);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.rip, BOARD_CODE + 5 + 400 + 1);
}

/* A walk sets accessed bits in an entry that the same block has changed: the change is undone, the
 * bits are not. It is of the frame's bit 32, where there is no RAM. */
CODE(frame_code, "mov $0x30000, %edx; xorb $1, 0x103184; mov (%rdx), %eax; hlt");
static void a_changed_page_table_entry_is_undone_without_its_accessed_bit(void **state)
{
	struct board *b = *state;
	uint64_t repeated;

	board_pte_set(b, 0x30000, 0x30000 | X86_PTE_P | X86_PTE_W);
	LOAD(b, frame_code);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(board_read(b, 0x103180, 8),
			 0x100030000 | X86_PTE_P | X86_PTE_W | X86_PTE_A);
	compared(b, &repeated);
	assert_int_equal(repeated, 0);
}

CODE(adc_code, "mov $5, %eax; mov $0x20000, %rdx; mov $9, %ebx; mov %ebx, (%rdx);"
	       "stc; adc %ebx, %eax; mov %eax, 8(%rdx); hlt");
static void a_planted_bug_is_shown_with_both_codes_and_both_states(void **state)
{
	struct board *b = *state;
	char text[32768] = "";
	FILE *f = tmpfile();

	b->engine->cfg.plant = 1;
	LOAD(b, adc_code);
	b->engine->cfg.trace.blocks = f;
	b->engine->cfg.trace.from = 1; /* nothing but the report */
	assert_int_equal(engine_soft.run(&b->cpu->base), -EIO);
	b->engine->cfg.trace = (struct engine_trace){0};
	rewind(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = 0;
	fclose(f);
	assert_non_null(strstr(b->cpu->base.failure, "differ in the block at 8000"));
	assert_non_null(strstr(text, "adc eax, ebx"));	/* the guest's */
	assert_non_null(strstr(text, "sbb r10d, ebx")); /* what was made of it */
	const char *rax = strstr(text, "\nrax ");
	assert_non_null(rax);
	assert_int_equal(strncmp(rax + 37, "00000000fffffffb", 16), 0);
	assert_int_equal(strncmp(rax + 56, "000000000000000f", 16), 0);
	assert_non_null(strstr(rax, "<-- differs"));
	assert_non_null(strstr(text, "host code stored 4 bytes at physical 20008: fb ff ff ff"));
	assert_non_null(strstr(text, "interpreter stored 4 bytes at physical 20008: 0f 00 00 00"));
	/* Nothing of it was done. */
	assert_int_equal(board_read(b, BOARD_DATA, 4), 0);
	assert_int_equal(b->cpu->s.rip, BOARD_CODE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_lockstep, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(what_a_block_does_is_done_once),
	    T(stores_are_undone_and_done_again),
	    T(a_block_that_is_dropped_by_each_of_its_instructions_agrees),
	    T(a_changed_page_table_entry_is_undone_without_its_accessed_bit),
	    T(a_planted_bug_is_shown_with_both_codes_and_both_states),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
