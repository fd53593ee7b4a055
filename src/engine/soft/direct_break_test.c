/* direct_break_test.c: tests of pages that a helper has because their sensitive instructions have
 * breakpoints: which ones those are, and that the guest's user code still does not learn what the
 * host's CPU is.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

#define STOPS 17u /* enough for a page to be given breakpoints */

/* As CODE, at an address that is a multiple of 16, as functions are. */
#define ALIGNED(name, text)                                                                        \
	__asm__(".pushsection .rodata\n.balign 16\n.popsection\n");                                \
	CODE(name, text)

/* Functions for covers; each begins behind another one. */
#define BEFORE "mov %rdi, %rax\nret\n.balign 16, 0x90\n"
#define AFTER  "ret\n.balign 16, 0x90\n1: mov %rdi, %rax\nret\n"
#define ASK    "mov $1, %eax\ncpuid\n"
ALIGNED(three, BEFORE ASK ASK ASK AFTER);
ALIGNED(row, BEFORE "push %rbx\n" ASK ASK ASK "mov %ecx, %eax\ntest %eax, %eax\njz 2f\n" ASK ASK
		    "2: " ASK "pop %rbx\n" AFTER);
ALIGNED(two_ways,
	BEFORE "test %edi, %edi\njz 2f\n" ASK ASK ASK "jmp 3f\n2: " ASK ASK ASK "3: nop\n" AFTER);
ALIGNED(two_functions, BEFORE ASK ASK ASK "ret\n.balign 16, 0xcc\n" ASK ASK ASK AFTER);
ALIGNED(calls_others, BEFORE ASK ASK ASK "call 1f\n" ASK ASK AFTER);
ALIGNED(leaves, BEFORE ASK ASK "test %eax, %eax\njz .+20000\n" ASK ASK ASK AFTER);
ALIGNED(goes_anywhere, BEFORE ASK ASK ASK ASK ASK "jmp *%rdx\n.balign 16, 0x90\n" AFTER);
ALIGNED(is_jumped_into, "jmp 2f\n" BEFORE ASK ASK ASK "2: " ASK ASK AFTER);
ALIGNED(is_called_into, "call 2f\n" BEFORE ASK ASK ASK "2: " ASK ASK AFTER);
ALIGNED(is_called, "call 2f\n" BEFORE "2: " ASK ASK ASK ASK ASK AFTER);
ALIGNED(is_not_led_to, BEFORE ASK ASK ASK ASK "ret\n" ASK AFTER);
ALIGNED(has_prefixes, BEFORE ASK ".byte 0x66\n" ASK "mov $0x40000000, %eax\ncpuid\n" AFTER);
ALIGNED(ends_by_itself, BEFORE ASK ASK ASK ASK ASK "ret\n");
ALIGNED(runs_into_no_code, BEFORE ASK ASK ASK ASK ASK "jmp 2f\n2: .byte 0x06\n" AFTER);

static void breakpoints_are_where_nothing_sensitive_can_be_reached_without_them(void **state)
{
	static const struct {
		const char *name;
		const uint8_t *code, *end;
		unsigned found, breaks, shuts; /* breaks 0: it cannot be covered */
	} rows[] = {
#define R(name, ...) {#name, name, name##_end, __VA_ARGS__}
	    R(three, 3, 3, 0),
	    R(row, 6, 1, 1),
	    R(two_ways, 6, 2, 1),
	    R(two_functions, 6, 2, 2),
	    R(calls_others, 5, 0, 0),
	    R(leaves, 5, 0, 0),
	    R(goes_anywhere, 5, 0, 0),
	    R(is_jumped_into, 5, 0, 0),
	    R(is_called_into, 5, 0, 0),
	    R(is_called, 5, 1, 1),
	    R(is_not_led_to, 5, 0, 0),
	    R(ends_by_itself, 5, 1, 1),
	    R(runs_into_no_code, 5, 0, 0),
	};
	static uint8_t page[4096];
	struct direct_found found;
	struct direct_cover cover;
	ZydisDecoder d;

	(void)state;
	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		memset(page, 0x90, sizeof(page));
		memcpy(page + 1024, rows[i].code, (size_t)(rows[i].end - rows[i].code));
		assert_true(direct_scan(&d, page, page, DIRECT_SEEK_CPUID, &found));
		_Bool can = direct_cover(&d, page, &found, &cover);
		if (found.count != rows[i].found || can != !!rows[i].breaks ||
		    (can && (cover.breaks != rows[i].breaks || cover.shuts != rows[i].shuts)))
			fail_msg("%s: %u found, %u breakpoints, %u shut", rows[i].name, found.count,
				 can ? cover.breaks : 0, cover.shuts);
		for (unsigned n = 0; can && n < cover.breaks; n++)
			assert_memory_equal(page + cover.at[n], "\x0f\xa2", 2);
		for (unsigned n = 0; can && n < cover.shuts; n++) {
			assert_int_equal(cover.shut[n].first % 16, 0);
			assert_int_equal(cover.shut[n].end % 16, 0);
		}
	}
	/* Where prefixes may belong to it, its beginning is not known. */
	memset(page, 0x90, sizeof(page));
	memcpy(page + 1024, has_prefixes, (size_t)(has_prefixes_end - has_prefixes));
	assert_true(direct_scan(&d, page, page, DIRECT_SEEK_CPUID, &found));
	assert_false(direct_cover(&d, page, &found, &cover));
	/* What ends in the next page, or began in the one before, is no whole function. */
	memset(page, 0x90, sizeof(page));
	memcpy(page + 4096 - (row_end - row), row, (size_t)(row_end - row));
	assert_true(direct_scan(&d, page, page, DIRECT_SEEK_CPUID, &found));
	assert_true(direct_cover(&d, page, &found, &cover));
	memcpy(page + 4096 - (ends_by_itself_end - ends_by_itself), ends_by_itself,
	       (size_t)(ends_by_itself_end - ends_by_itself));
	assert_true(direct_scan(&d, page, page, DIRECT_SEEK_CPUID, &found));
	assert_false(direct_cover(&d, page, &found, &cover));
	/* More than anybody notes. */
	for (unsigned at = 1024; at < 1024 + 33 * 8; at += 8)
		memcpy(page + at, "\x0f\xa2", 2);
	assert_false(direct_scan(&d, page, page, DIRECT_SEEK_CPUID, &found));
}

/* What the sweep takes for part of an instruction that began in the page before, or behind what is
 * no code, may be a jump. */
static void a_jump_into_a_function_is_seen_wherever_the_page_is_out_of_step(void **state)
{
	static uint8_t page[4096];
	static const unsigned places[] = {0, 2048};
	struct direct_found found;
	struct direct_cover cover;
	ZydisDecoder d;

	(void)state;
	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		uint8_t *at = page + places[i];
		memset(page, 0x90, sizeof(page));
		memcpy(page + 1024, ends_by_itself, (size_t)(ends_by_itself_end - ends_by_itself));
		if (i) /* no code */
			*at++ = 0x06;
		memcpy(at, "\x48\xb8", 2); /* a constant of eight bytes follows */
		assert_true(direct_scan(&d, page, page, DIRECT_SEEK_CPUID, &found));
		assert_true(direct_cover(&d, page, &found, &cover));
		at[2] = 0xe9; /* JMP behind the first question */
		int32_t by = (int32_t)(found.at[0] + 2) - (int32_t)(at + 7 - page);
		memcpy(at + 3, &by, 4);
		assert_true(direct_scan(&d, page, page, DIRECT_SEEK_CPUID, &found));
		assert_false(direct_cover(&d, page, &found, &cover));
	}
}

/* A program with a function that asks more often than there are breakpoints, and one beside it that
 * does not: what RDI says. (Of leaves that there are not, ECX counts on Intel's CPUs: they answer
 * by the last one that there is.) */
ALIGNED(program, "test %edi, %edi\n"
		 "jz 1f\n"
		 "mov $1000, %ecx\n"
		 "2: add %rcx, %rdx\n"
		 "dec %ecx\n"
		 "jnz 2b\n"
		 "mov $77, %r8d\n"
		 "syscall\n"
		 "1: call 3f\n"
		 "syscall\n"
		 "ud2\n"
		 ".balign 16, 0x90\n"
		 "3: mov $0x40000000, %ebp\n" /* a hypervisor's name, the guest's or the host's */
		 "mov %ebp, %eax\nxor %ecx, %ecx\ncpuid\nmov %ebx, %r8d\n"
		 "mov $1, %eax\ncpuid\nmov %ecx, %r9d\n"
		 "mov %ebp, %eax\nxor %ecx, %ecx\ncpuid\nmov %ecx, %r10d\n"
		 "mov $7, %eax\nxor %ecx, %ecx\ncpuid\nmov %ebx, %r13d\n"
		 "xor %eax, %eax\ncpuid\nmov %ebx, %r12d\n"
		 "ret\n"
		 ".balign 16, 0x90\n"
		 "4: ret\n");

static const unsigned asked[] = {X86_R8, X86_R9, X86_R10, X86_R13, X86_R12};

static void program_load(struct board *b, uint64_t at)
{
	board_pte_set(b, at, at | X86_PTE_P | X86_PTE_U | X86_PTE_A);
	board_load(b, at, program, (size_t)(program_end - program));
}

static void program_run(struct board *b, uint64_t at, _Bool ask)
{
	user_again(b, at);
	b->cpu->s.gpr[X86_RDI] = !ask;
	for (unsigned i = 0; i < ARRAY_SIZE(asked); i++)
		b->cpu->s.gpr[asked[i]] = 0;
	assert_int_equal(board_run(b), 0x80);
}

static int setup(void **state)
{
	board_setup_direct(state);
	struct board *b = *state;
	b->cpu->direct->cpuid_runs = 1; /* elsewhere it needs no breakpoints */
	user_state(b, USER_CODE);
	program_load(b, USER_CODE);
	return 0;
}

/* What the guest's CPUID says to the program. */
static void answers_learn(uint64_t *answers)
{
	setenv("BOARD_SOFT", "interp", 1);
	struct board *b = board_new(1);
	setenv("BOARD_SOFT", "direct", 1);
	user_state(b, USER_CODE);
	program_load(b, USER_CODE);
	b->cpu->s.gpr[X86_RDI] = 0;
	assert_int_equal(board_run(b), 0x80);
	for (unsigned i = 0; i < ARRAY_SIZE(asked); i++)
		answers[i] = b->cpu->s.gpr[asked[i]];
	board_free(b);
}

static void answers_are_the_guests(struct board *b)
{
	static uint64_t answers[ARRAY_SIZE(asked)];

	if (!answers[4])
		answers_learn(answers);
	for (unsigned i = 0; i < ARRAY_SIZE(asked); i++)
		assert_int_equal(b->cpu->s.gpr[asked[i]], answers[i]);
}

/* Often enough for breakpoints to be set; skips where the host sets none. */
static void program_wished(struct board *b, uint64_t at)
{
	uint64_t before = b->cpu->stats.direct_broken;

	for (unsigned i = 0; i < STOPS; i++)
		program_run(b, at, 0);
	ran(b);
	breaks_needed(b);
	assert_int_equal(b->cpu->stats.direct_broken, before + 1);
}

static void a_page_that_is_stopped_at_often_runs_in_the_helper_and_asks_the_guest(void **state)
{
	struct board *b = *state;
	const struct soft_stats *stats = &b->cpu->stats;

	program_run(b, USER_CODE, 1);
	answers_are_the_guests(b);
	program_wished(b, USER_CODE);
	uint64_t faults = stats->direct_faults, calls = stats->direct_calls;
	for (unsigned i = 0; i < 5; i++)
		program_run(b, USER_CODE, 0);
	assert_int_equal(b->cpu->s.gpr[X86_R8], 77);
	/* It was there, from its beginning to its system call. */
	assert_int_equal(stats->direct_faults, faults);
	assert_int_equal(stats->direct_calls, calls + 5);
	assert_int_equal(stats->direct_broken_hits, 0);
	for (unsigned i = 0; i < 5; i++) {
		program_run(b, USER_CODE, 1);
		answers_are_the_guests(b);
	}
	assert_int_equal(stats->direct_broken_hits, 5);
	assert_int_equal(stats->direct_broken, 1);
}

/* As where CPUID faults: what is left to look for has breakpoints beside it. */
ALIGNED(asks_xcr0, "test %edi, %edi\n"
		   "jz 1f\n"
		   "mov $77, %r8d\n"
		   "syscall\n"
		   "1: call 3f\n"
		   "call 4f\n"
		   "syscall\n"
		   "ud2\n"
		   ".balign 16, 0x90\n"
		   "3: xor %ecx, %ecx\n"
		   "xgetbv\nmov %eax, %r8d\n"
		   "xgetbv\nmov %eax, %r9d\n"
		   "xgetbv\nmov %eax, %r10d\n"
		   "xgetbv\nmov %eax, %r13d\n"
		   "xgetbv\nmov %eax, %r12d\n"
		   "ret\n"
		   ".balign 16, 0x90\n"
		   "4: mov $0x40000000, %eax\nxor %ecx, %ecx\ncpuid\nmov %ebx, %r14d\n"
		   "ret\n"
		   ".balign 16, 0x90\n"
		   "5: ret\n");
static void a_page_is_broken_for_what_else_is_asked_where_cpuid_faults(void **state)
{
	struct board *b = *state;
	const struct soft_stats *stats = &b->cpu->stats;
	uint64_t answers[ARRAY_SIZE(asked)];

	answers_learn(answers);
	b->cpu->direct->cpuid_runs = 0;
	board_load(b, USER_CODE, asks_xcr0, (size_t)(asks_xcr0_end - asks_xcr0));
	program_wished(b, USER_CODE);
	uint64_t calls = stats->direct_calls, faults = stats->direct_faults;
	for (unsigned i = 0; i < 5; i++)
		program_run(b, USER_CODE, 0);
	assert_int_equal(stats->direct_calls, calls + 5);
	assert_int_equal(stats->direct_faults, faults);
	for (unsigned i = 0; i < 5; i++) {
		b->cpu->s.gpr[X86_R14] = 0;
		program_run(b, USER_CODE, 1);
		for (unsigned k = 0; k < ARRAY_SIZE(asked); k++)
			assert_int_equal(b->cpu->s.gpr[asked[k]], b->cpu->s.xcr0);
		assert_int_equal(b->cpu->s.gpr[X86_R14], answers[0]);
	}
	/* CPUID in the function behind has a breakpoint of its own where it does not fault. */
	assert_in_range(stats->direct_broken_hits, 5, user_helper(b)->cpuid_faults ? 5 : 10);
	assert_int_equal(stats->direct_broken, 1);
}

/* Where `bytes` are in the program for the nth time. */
static unsigned program_at(const char *bytes, unsigned nth)
{
	for (unsigned at = 0;; at++) {
		assert_true(at + 2 < program_end - program);
		if (!memcmp(program + at, bytes, 2) && !nth--)
			return at;
	}
}

/* From behind one of the questions; it returns to the system call. */
static void program_go_on(struct board *b, unsigned question)
{
	user_again(b, USER_CODE + program_at("\x0f\xa2", question) + 2);
	for (unsigned i = 0; i < ARRAY_SIZE(asked); i++)
		b->cpu->s.gpr[asked[i]] = 0;
	b->cpu->s.gpr[X86_RBX] = b->cpu->s.gpr[X86_RCX] = 0;
	b->cpu->s.gpr[X86_RBP] = 0x40000000;
	b->cpu->s.gpr[X86_RSP] -= 8;
	board_write(b, b->cpu->s.gpr[X86_RSP], 8, USER_CODE + program_at("\x0f\x05", 1));
	assert_int_equal(board_run(b), 0x80);
}

/* An interrupt, or another thread's turn, can be anywhere in the function that has one breakpoint
 * for all it asks. */
static void a_helper_is_not_entered_behind_the_only_breakpoint(void **state)
{
	struct board *b = *state;
	uint64_t answers[ARRAY_SIZE(asked)];

	answers_learn(answers);
	program_wished(b, USER_CODE);
	for (unsigned n = 0; n + 1 < ARRAY_SIZE(asked); n++) {
		program_run(b, USER_CODE, 0);
		program_go_on(b, n);
		for (unsigned i = 0; i < ARRAY_SIZE(asked); i++)
			assert_int_equal(b->cpu->s.gpr[asked[i]], i > n ? answers[i] : 0);
	}
	assert_int_equal(b->cpu->stats.direct_broken_hits, 0);
}

/* Another address space, whose pages are others; it gets the helper that there is. */
static void space_next(struct board *b)
{
	direct_forget_all(b->cpu);
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		if (!b->cpu->direct->space[i].helper.pid)
			b->cpu->direct->space[i].used = UINT64_MAX;
}

static void what_is_written_into_the_page_later_is_seen(void **state)
{
	struct board *b = *state;

	program_wished(b, USER_CODE);
	/* A sixth question, in place of two instructions of the function that asks nothing. */
	board_write(b, USER_CODE + 0x300, 8, UINT64_C(0x050fa20f));
	space_next(b);
	user_again(b, USER_CODE + 0x300);
	b->cpu->s.gpr[X86_RAX] = 0x40000000;
	b->cpu->s.gpr[X86_RCX] = 0;
	assert_int_equal(board_run(b), 0x80);
	uint64_t answer = b->cpu->s.gpr[X86_RBX];
	program_run(b, USER_CODE, 1);
	answers_are_the_guests(b);
	assert_int_equal(b->cpu->s.gpr[asked[0]], answer);
	assert_int_equal(b->cpu->stats.direct_broken_hits, 0);
}

static void pages_that_want_more_breakpoints_than_there_are_take_turns(void **state)
{
	struct board *b = *state;
	const struct soft_stats *stats = &b->cpu->stats;

	for (unsigned i = 0; i < 5; i++) {
		program_load(b, USER_CODE + i * 0x1000);
		program_wished(b, USER_CODE + i * 0x1000);
	}
	assert_int_equal(stats->direct_broken, 5);
	/* The first one has lost its: it is kept from the helper again, whatever it asks. */
	uint64_t calls = stats->direct_calls;
	program_run(b, USER_CODE, 0);
	assert_int_equal(stats->direct_calls, calls);
	program_run(b, USER_CODE + 0x1000, 0);
	assert_int_equal(stats->direct_calls, calls + 1);
	for (unsigned i = 0; i < 5; i++) {
		program_run(b, USER_CODE + i * 0x1000, 1);
		answers_are_the_guests(b);
	}
	assert_int_equal(stats->direct_broken_hits, 4);
	/* Who asks most is least worth them; and it takes longer each time for who has lost them.
	 */
	for (unsigned i = 0; i < 2; i++)
		program_run(b, USER_CODE + 0x2000, 1);
	for (unsigned i = 0; i < STOPS; i++)
		program_run(b, USER_CODE, 0);
	assert_int_equal(stats->direct_broken, 5);
	for (unsigned i = 0; i < STOPS; i++)
		program_run(b, USER_CODE, 0);
	assert_int_equal(stats->direct_broken, 6);
	for (unsigned i = 0; i < 5; i++) {
		calls = stats->direct_calls;
		program_run(b, USER_CODE + i * 0x1000, 0);
		assert_int_equal(stats->direct_calls, calls + (i != 2));
	}
	for (unsigned i = 0; i < 5; i++) {
		program_run(b, USER_CODE + i * 0x1000, 1);
		answers_are_the_guests(b);
	}
}

ALIGNED(other, ".rept 256\nnop\n.endr\nadd $128, %r8\nsyscall\n");
static void a_breakpoint_of_the_last_program_is_no_more_than_a_stop_to_the_next(void **state)
{
	struct board *b = *state;
	const struct soft_stats *stats = &b->cpu->stats;

	program_wished(b, USER_CODE);
	board_load(b, USER_CODE, other, (size_t)(other_end - other));
	space_next(b);
	for (unsigned i = 0; i < 3; i++) {
		user_again(b, USER_CODE);
		b->cpu->s.gpr[X86_R8] = 0;
		assert_int_equal(board_run(b), 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_R8], 128);
	}
	assert_int_equal(stats->direct_broken_hits, 1);
	assert_int_equal(stats->direct_lost, 0);
}

/* It is entered where nothing was known of the page, stops there because it has lost it, and would
 * go on with it: Linux has cleared the page's A bit, so that it was not filled in. */
static void a_helper_does_not_go_on_behind_the_only_breakpoint_after_a_fault(void **state)
{
	struct board *b = *state;
	uint64_t answers[ARRAY_SIZE(asked)];

	answers_learn(answers);
	program_wished(b, USER_CODE);
	program_run(b, USER_CODE, 1);
	space_next(b);
	board_pte_set(b, USER_CODE, USER_CODE | X86_PTE_P | X86_PTE_U);
	program_go_on(b, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(asked); i++)
		assert_int_equal(b->cpu->s.gpr[asked[i]], i ? answers[i] : 0);
}

static void a_helper_that_has_ended_is_no_refusal_of_the_hosts(void **state)
{
	struct board *b = *state;

	for (unsigned runs = STOPS - 5; runs < STOPS; runs++) {
		for (unsigned i = 0; i < runs; i++)
			program_run(b, USER_CODE, 0);
		ran(b);
		struct direct_helper *h = user_helper(b);
		if (!h)
			continue;
		struct pollfd ended = {.fd = h->pidfd, .events = POLLIN};
		kill(h->pid, SIGKILL);
		assert_int_equal(poll(&ended, 1, 10000), 1);
		program_run(b, USER_CODE, 0);
		assert_int_equal(b->cpu->direct->breakless_for, 0);
	}
	program_run(b, USER_CODE, 1);
	answers_are_the_guests(b);
}

/* Another CPU writes to the page between the look at what is in it and the choice of breakpoints.
 */
static void breakpoints_are_for_what_the_name_says_and_for_nothing_else(void **state)
{
	struct board *b = *state;
	static uint8_t page[4096], next[2];
	struct direct_space *s = NULL;
	uint64_t name;

	program_wished(b, USER_CODE);
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		if (b->cpu->direct->space[i].helper.pid)
			s = &b->cpu->direct->space[i];
	assert_non_null(s);
	memset(page, 0x90, sizeof(page));
	memcpy(page + 1000, "\x0f\xa2", 2);
	assert_true(direct_seen_sensitive(b->cpu, DIRECT_SEEK_CPUID, 0x7000, page, next, &name));
	memset(page, 0x90, sizeof(page));
	memcpy(page + 2000, "\x0f\xa2", 2);
	for (unsigned n = 0; n < 6; n++)
		for (unsigned i = 0; i < 40; i++)
			assert_false(
			    direct_break_wish(b->cpu, s, 0x100000 + n * 0x1000, name, page, next));
	assert_int_equal(s->helper.breaks.pages, 1);
	/* Nor where there is nothing at all in it. */
	memset(page, 0x90, sizeof(page));
	name = direct_seen_name(b->cpu, DIRECT_SEEK_CPUID, page, next);
	for (unsigned n = 0; n < 6; n++)
		for (unsigned i = 0; i < 40; i++)
			assert_false(
			    direct_break_wish(b->cpu, s, 0x200000 + n * 0x1000, name, page, next));
	assert_int_equal(s->helper.breaks.pages, 1);
}

static void sixteen_pages_are_counted_side_by_side(void **state)
{
	struct board *b = *state;

	for (unsigned i = 0; i < 15; i++)
		program_load(b, USER_CODE + i * 0x1000);
	for (unsigned round = 0; round < STOPS; round++)
		for (unsigned i = 0; i < 15; i++)
			program_run(b, USER_CODE + i * 0x1000, 0);
	ran(b);
	breaks_needed(b);
	assert_true(b->cpu->stats.direct_broken >= 15);
}

static void what_may_be_written_and_executed_gets_no_breakpoints(void **state)
{
	struct board *b = *state;

	board_pte_set(b, USER_CODE,
		      USER_CODE | X86_PTE_P | X86_PTE_U | X86_PTE_W | X86_PTE_A | X86_PTE_D);
	for (unsigned i = 0; i < 2 * STOPS; i++)
		program_run(b, USER_CODE, 0);
	ran(b);
	assert_int_equal(b->cpu->stats.direct_broken, 0);
	program_run(b, USER_CODE, 1);
	answers_are_the_guests(b);
}

static _Bool ptrace_forbid(void)
{
	struct sock_filter f[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = {ARRAY_SIZE(f), f};

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	       !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p);
}

static void where_the_host_sets_none_the_page_stays_with_the_layers_below(void **state)
{
	(void)state;
	pid_t child = fork();
	assert_true(child >= 0);
	if (!child) {
		void *mine;
		if (!ptrace_forbid())
			_exit(2);
		setup(&mine);
		struct board *b = mine;
		for (unsigned i = 0; i < 2 * STOPS; i++)
			program_run(b, USER_CODE, 0);
		if (b->cpu->direct->refused)
			_exit(2);
		if (!b->cpu->direct->breakless_for || b->cpu->stats.direct_broken)
			_exit(1);
		program_run(b, USER_CODE, 1);
		answers_are_the_guests(b);
		board_teardown(&mine);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 2)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(breakpoints_are_where_nothing_sensitive_can_be_reached_without_them),
	    T(a_page_that_is_stopped_at_often_runs_in_the_helper_and_asks_the_guest),
	    T(a_page_is_broken_for_what_else_is_asked_where_cpuid_faults),
	    T(a_helper_is_not_entered_behind_the_only_breakpoint),
	    T(what_is_written_into_the_page_later_is_seen),
	    T(pages_that_want_more_breakpoints_than_there_are_take_turns),
	    T(a_breakpoint_of_the_last_program_is_no_more_than_a_stop_to_the_next),
	    T(what_may_be_written_and_executed_gets_no_breakpoints),
	    T(a_helper_does_not_go_on_behind_the_only_breakpoint_after_a_fault),
	    T(a_helper_that_has_ended_is_no_refusal_of_the_hosts),
	    T(breakpoints_are_for_what_the_name_says_and_for_nothing_else),
	    T(sixteen_pages_are_counted_side_by_side),
	    cmocka_unit_test(a_jump_into_a_function_is_seen_wherever_the_page_is_out_of_step),
	    cmocka_unit_test(where_the_host_sets_none_the_page_stays_with_the_layers_below),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
