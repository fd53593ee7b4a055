/* direct_exact_test.c: tests that what user code in a helper has in its registers is what a CPU
 * would have there, whatever the host's kernel keeps for itself when it takes over.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

#define ELSEWHERE UINT64_C(0x58000) /* not mapped yet when it is touched */

static int setup(void **state)
{
	board_setup_direct(state);
	user_state(*state, USER_CODE);
	return 0;
}
static int run(struct board *b, const uint8_t *code, const uint8_t *end)
{
	board_load(b, USER_CODE, code, (size_t)(end - code));
	user_again(b, USER_CODE);
	int vector = board_run(b);
	ran(b);
	return vector;
}
#define RUN(b, name) run(b, name, name##_end)

CODE(load_ds, "mov $0x2b, %eax\n"
	      "mov %eax, %ds\n"
	      "mov 0x58000, %rbx\n"
	      "mov %ds, %edx\n"
	      "mov %eax, %es\n"
	      "mov %eax, %fs\n"
	      "mov 0x5a000, %rbx\n"
	      "mov %es, %esi\n"
	      "mov %fs, %edi\n"
	      "syscall");
static void selectors_outlive_page_faults(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, load_ds), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], 0x2b);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 0x2b);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], 0x2b);
	assert_int_equal(b->cpu->s.seg[X86_DS].selector, 0x2b);
}

CODE(nested, "pushf\n"
	     "orl $0x4000, (%rsp)\n"
	     "popf\n"
	     "mov 0x58000, %rbx\n"
	     "pushf\n"
	     "pop %rdx\n"
	     "syscall");
CODE(flags, "pushf\n"
	    "pop %rdx\n"
	    "syscall");
static void the_nested_task_flag_is_its_programs_alone(void **state)
{
	struct board *b = *state;

	for (unsigned i = 0; i < 3; i++) {
		board_pte_set(b, ELSEWHERE, ELSEWHERE | X86_PTE_P | X86_PTE_U);
		soft_tlb_flush_page(b->cpu, ELSEWHERE);
		assert_int_equal(RUN(b, nested), 0x80);
		assert_true(b->cpu->s.gpr[X86_RDX] & X86_NT);
		assert_true(b->cpu->s.gpr[X86_R11] & X86_NT);
		/* Another program gets that helper. */
		for (unsigned k = 0; k < DIRECT_SPACES; k++)
			b->cpu->direct->space[k].used =
			    b->cpu->direct->space[k].asid == b->cpu->asid_user ? 0 : 1000000;
		soft_tlb_flush_all(b->cpu);
		uint64_t helpers = b->cpu->stats.direct_helpers;
		assert_int_equal(RUN(b, flags), 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_RDX] & X86_NT, 0);
		assert_int_equal(b->cpu->s.gpr[X86_R11] & X86_NT, 0);
		assert_in_range(b->cpu->stats.direct_helpers, helpers, helpers + 1);
	}
}

CODE(step_popf, "pushf\n"
		"pushf\n"
		"orl $0x100, (%rsp)\n"
		"popf\n"
		"popf\n"
		"nop\n"
		"syscall");
CODE(int1, "nop\n"
	   ".byte 0xf1\n"
	   "nop\n");
CODE(int1_as_data, "pushf\n"
		   "orl $0x100, (%rsp)\n"
		   "popf\n"
		   ".byte 0xb0, 0xf1\n" /* mov $0xf1, %al */
		   "nop\n");
static void a_step_is_known_by_its_trap_not_by_the_flags_after_it(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, step_popf), X86_VEC_DB);
	assert_int_equal(board_stack(b, 0), USER_CODE + 11);
	assert_true(b->cpu->s.dr6 & X86_DR6_BS);
	assert_int_equal(board_stack(b, 2) & X86_TF, 0);
	b->cpu->s.dr6 &= ~X86_DR6_BS;
	assert_int_equal(RUN(b, int1), X86_VEC_DB);
	assert_int_equal(board_stack(b, 0), USER_CODE + 2);
	assert_false(b->cpu->s.dr6 & X86_DR6_BS);
	assert_int_equal(RUN(b, int1_as_data), X86_VEC_DB);
	assert_int_equal(board_stack(b, 0), USER_CODE + 11);
	assert_int_equal(b->cpu->s.gpr[X86_RAX] & 0xff, 0xf1);
}

CODE(int3_short, "int3\nmov $77, %r8d\nsyscall\n");
CODE(int3_long, ".byte 0xcd, 3\nmov $77, %r8d\nsyscall\n");
CODE(int4, "int $4\nmov $77, %r8d\nsyscall\n");
CODE(int_system_call, "int $0x80\nmov $77, %r8d\nsyscall\n");
CODE(int_other, "int $0x30\nmov $77, %r8d\nsyscall\n");
/* The host's kernel lets user code use three of its own gates, too. */
static void software_interrupts_are_the_guests_by_its_own_gates(void **state)
{
	struct board *b = *state;
	static const struct {
		const uint8_t *code, *end;
	} rows[] = {
	    {int3_short, int3_short_end},	    {int3_long, int3_long_end}, {int4, int4_end},
	    {int_system_call, int_system_call_end}, {int_other, int_other_end},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		size_t size = (size_t)(rows[i].end - rows[i].code);
		setenv("BOARD_SOFT", "interp", 1);
		struct board *other = board_new(1);
		setenv("BOARD_SOFT", "direct", 1);
		board_load(other, USER_CODE, rows[i].code, size);
		user_state(other, USER_CODE);
		int vector = board_run(other);
		board_load(b, USER_CODE, rows[i].code, size);
		user_state(b, USER_CODE);
		b->cpu->s.gpr[X86_R8] = 0;
		uint64_t entries = b->cpu->stats.direct_entries;
		assert_int_equal(board_run(b), vector);
		ran(b);
		assert_int_equal(b->cpu->stats.direct_entries, entries + 1);
		assert_int_equal(b->cpu->s.gpr[X86_R8], other->cpu->s.gpr[X86_R8]);
		for (unsigned n = 0; n < 5; n++)
			assert_int_equal(board_stack(b, n), board_stack(other, n));
		board_free(other);
	}
}

/* Linux's page of old system calls, which its own user code may have at the same place. */
CODE(vsyscall, "call *%rax\n"
	       "nop\n"
	       "syscall");
static void a_call_into_the_vsyscall_page_is_the_guests(void **state)
{
	static const uint64_t calls[] = {UINT64_C(0xffffffffff600000), UINT64_C(0xffffffffff600400),
					 UINT64_C(0xffffffffff600800)};
	struct board *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(calls); i++) {
		b->cpu->s.gpr[X86_RAX] = calls[i];
		b->cpu->s.gpr[X86_RDI] = 0;
		b->cpu->s.gpr[X86_RSI] = 0;
		assert_int_equal(RUN(b, vsyscall), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, calls[i]);
		assert_int_equal(board_stack(b, 1), calls[i]);
		assert_int_equal(board_stack(b, 4), USER_STACK - 8);
		assert_int_equal(board_read(b, USER_STACK - 8, 8), USER_CODE + 2);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], calls[i]);
	}
}

CODE(count, "mov $1000, %ecx\n"
	    "1: loop 1b\n"
	    "syscall");
static void a_masked_nmi_keeps_no_program_from_going_on(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN(b, count), 0x80);
	b->cpu->s.nmi_masked = 1;
	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_NMI);
	assert_int_equal(RUN(b, count), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], USER_CODE + (uint64_t)(count_end - count));
	uint64_t entries = b->cpu->stats.direct_entries;
	cpu_link_clear(&b->cpu->base.link, CPU_EVENT_NMI);
	b->cpu->s.nmi_masked = 0;
	assert_int_equal(RUN(b, count), 0x80);
	assert_true(b->cpu->stats.direct_entries > entries);
}

/* RDTSC faults there. After a computation that instruction is all that the layers below do. */
CODE(compute_and_ask, "mov $10, %esi\n"
		      "1: mov $3000000, %ecx\n"
		      "2: loop 2b\n"
		      "rdtsc\n"
		      "dec %esi\n"
		      "jnz 1b\n"
		      "syscall");
static void an_instruction_that_a_helper_cannot_do_is_done_alone(void **state)
{
	struct board *b = *state;
	const struct soft_stats *stats = &b->cpu->stats;

	for (unsigned n = 1; n < 4; n++) {
		assert_int_equal(RUN(b, compute_and_ask), 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_RSI], 0);
		/* One that comes late on a busy host is done with what is around it. */
		assert_in_range(stats->single_steps, 9 * n, 10 * n);
		assert_int_equal(stats->direct_calls, n);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(selectors_outlive_page_faults),
	    T(the_nested_task_flag_is_its_programs_alone),
	    T(a_step_is_known_by_its_trap_not_by_the_flags_after_it),
	    T(software_interrupts_are_the_guests_by_its_own_gates),
	    T(a_call_into_the_vsyscall_page_is_the_guests),
	    T(a_masked_nmi_keeps_no_program_from_going_on),
	    T(an_instruction_that_a_helper_cannot_do_is_done_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
