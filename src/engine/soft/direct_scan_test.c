/* direct_scan_test.c: tests that user code in a helper does not learn what the host's CPU is. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

CODE(has_cpuid, "mov %eax, %ebx\n.rept 30\nadd %rbx, %rax\n.endr\ncpuid\nret\n");
CODE(has_none, ".rept 30\nadd %rbx, %rax\n.endr\nmov $0xa20f, %eax\nmov $0xa20f, %ebx\nret\n");
CODE(has_lsl, ".rept 30\nadd %rbx, %rax\n.endr\nlsl %eax, %eax\nret\n");
CODE(has_rdtscp, ".rept 30\nadd %rbx, %rax\n.endr\nrdtscp\nret\n");
CODE(has_rdpid, ".rept 30\nadd %rbx, %rax\n.endr\nrdpid %rax\nret\n");
CODE(has_xsavec, ".rept 30\nadd %rbx, %rax\n.endr\nxsavec 0x40(%rsp)\nret\n");
CODE(has_xrstor, ".rept 30\nadd %rbx, %rax\n.endr\nxrstor 0x40(%rsp)\nret\n");
CODE(has_lfence, ".rept 30\nadd %rbx, %rax\n.endr\nlfence\nfxsave (%rsp)\nret\n");
static void instructions_that_would_tell_of_the_host_are_found(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		_Bool is;
	} rows[] = {
	    {has_cpuid, has_cpuid_end, 1},   {has_none, has_none_end, 0},
	    {has_lsl, has_lsl_end, 1},	     {has_rdtscp, has_rdtscp_end, 1},
	    {has_rdpid, has_rdpid_end, 1},   {has_xsavec, has_xsavec_end, 1},
	    {has_xrstor, has_xrstor_end, 1}, {has_lfence, has_lfence_end, 0},
	};
	static uint8_t page[4096];
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		memset(page, 0x90, sizeof(page));
		memcpy(page + 1000, rows[i].code, (size_t)(rows[i].end - rows[i].code));
		assert_int_equal(direct_sensitive(&d, page, page), rows[i].is);
	}
	/* Anywhere in a page. */
	memset(page, 0x90, sizeof(page));
	for (unsigned at = 0; at + 2 <= sizeof(page); at++) {
		page[at] = 0x0f;
		page[at + 1] = 0xa2;
		assert_int_equal(direct_sensitive(&d, page, page), 1);
		page[at] = page[at + 1] = 0x90;
	}
	assert_int_equal(direct_sensitive(&d, page, page), 0);
	/* Across the end of a page. */
	memset(page, 0x90, sizeof(page));
	page[4095] = 0x0f;
	assert_int_equal(direct_sensitive(&d, page, (const uint8_t *)"\xa2"), 1);
	assert_int_equal(direct_sensitive(&d, page, (const uint8_t *)"\x90\x90"), 0);
	assert_int_equal(direct_sensitive(&d, page, (const uint8_t *)"\x01\xf9"), 1);
	page[4094] = 0x0f;
	page[4095] = 0x01;
	assert_int_equal(direct_sensitive(&d, page, (const uint8_t *)"\xf9\x90"), 1);
	assert_int_equal(direct_sensitive(&d, page, (const uint8_t *)"\xf8\x90"), 0);
}
CODE(identify, "mov $0x40000000, %eax\n"
	       "cpuid\n"
	       "mov %ebx, %r8d\n"
	       "mov $1, %eax\n"
	       "cpuid\n"
	       "mov %ecx, %r9d\n"
	       "syscall\n");
/* By a function (CPUID, RET) that it writes first, from bytes that are none yet. */
CODE(write_and_identify, "mov $0x50000, %edi\n"
			 "movl $~0x90c3a20f, (%rdi)\n"
			 "notl (%rdi)\n"
			 "mov $0x40000000, %eax\n"
			 "call *%rdi\n"
			 "mov %ebx, %r8d\n"
			 "mov $1, %eax\n"
			 "call *%rdi\n"
			 "mov %ecx, %r9d\n"
			 "syscall\n");

static void same_as_interpreted(struct board *b, const uint8_t *code, const uint8_t *end)
{
	assert_int_equal(run_user(b, code, end), 0x80);
	ran(b);
	uint64_t direct[2] = {b->cpu->s.gpr[X86_R8], b->cpu->s.gpr[X86_R9]};
	setenv("BOARD_SOFT", "interp", 1);
	struct board *other = board_new(1);
	setenv("BOARD_SOFT", "direct", 1);
	assert_int_equal(run_user(other, code, end), 0x80);
	assert_int_equal(direct[0], other->cpu->s.gpr[X86_R8]);
	assert_int_equal(direct[1], other->cpu->s.gpr[X86_R9]);
	board_free(other);
}

static void cpuid_is_the_guests(void **state)
{
	same_as_interpreted(*state, identify, identify_end);
}

/* The page is fresh, may be written and executed, and has nothing in it when it is first touched.
 */
static void cpuid_is_the_guests_in_code_that_was_written_just_now(void **state)
{
	struct board *b = *state;

	board_write(b, USER_DATA, 8, 0);
	same_as_interpreted(b, write_and_identify, write_and_identify_end);
}

CODE(plain, "mov $77, %r8d\n"
	    "syscall\n");
static void
a_page_that_is_none_for_helpers_is_tried_once_and_again_when_it_has_changed(void **state)
{
	struct board *b = *state;
	const struct soft_stats *stats = &b->cpu->stats;

	assert_int_equal(run_user(b, identify, identify_end), 0x80);
	ran(b);
	assert_int_equal(stats->direct_faults, 1);
	for (unsigned i = 0; i < 5; i++) {
		user_again(b, USER_CODE);
		assert_int_equal(board_run(b), 0x80);
	}
	assert_int_equal(stats->direct_entries, 1);
	assert_int_equal(stats->direct_faults, 1);
	for (unsigned at = 0; at < 64; at += 8)
		board_write(b, USER_CODE + at, 8, 0);
	board_load(b, USER_CODE, plain, (size_t)(plain_end - plain));
	user_again(b, USER_CODE);
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_R8], 77);
	assert_int_equal(stats->direct_entries, 2);
	assert_int_equal(stats->direct_calls, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_direct, board_teardown)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(instructions_that_would_tell_of_the_host_are_found),
	    T(cpuid_is_the_guests),
	    T(cpuid_is_the_guests_in_code_that_was_written_just_now),
	    T(a_page_that_is_none_for_helpers_is_tried_once_and_again_when_it_has_changed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
