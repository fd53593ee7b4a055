/* step_test.c: tests of what happens between instructions and between the iterations of repeated
 * ones. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/soft/core.h"
#include "engine/soft/testcode.h"

/* A piece of guest code. */
#define LOAD(b, at, name) board_load(b, at, name, (size_t)(name##_end - name))

CODE(rep_break_code, "rep stosb; hlt");
static void rep_start(struct board *b, uint64_t count)
{
	LOAD(b, BOARD_CODE, rep_break_code);
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RDI] = BOARD_DATA;
	b->cpu->s.gpr[X86_RCX] = count;
}

CODE(rep_break_handler, "inc %r15; orl $0x10000, 0x10(%rsp); iretq");
static void rf_lasts_for_all_iterations(void **state)
{
	struct board *b = *state;

	LOAD(b, BOARD_HANDLERS + 16 * X86_VEC_DB, rep_break_handler);
	rep_start(b, 10);
	b->cpu->s.dr[0] = BOARD_CODE;
	b->cpu->s.dr7 = 0x401;
	soft_mode_update(b->cpu);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_R15], 1);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 0);
	assert_false(b->cpu->s.rflags & X86_RF);
}

/* As after a page fault in a large copy, with nobody looking. */
static void without_breakpoints_rf_does_not_make_iterations_single_steps(void **state)
{
	struct board *b = *state;

	rep_start(b, 3000);
	b->cpu->s.rflags |= X86_RF;
	soft_mode_update(b->cpu);
	uint64_t steps = b->cpu->stats.single_steps;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 0);
	assert_in_range(b->cpu->stats.single_steps - steps, 1, 3);
	assert_false(b->cpu->s.rflags & X86_RF);
}

/* As the host's CPU has it (randinsn): the trap comes before the next iteration, and without RF on
 * AMD's CPUs. */
static void a_single_step_between_iterations_pushes_no_rf_but_on_intel(void **state)
{
	struct board *b = *state;

	rep_start(b, 10);
	b->cpu->s.rflags |= X86_TF;
	soft_mode_update(b->cpu);
	assert_int_equal(board_run(b), X86_VEC_DB);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 9);
	assert_int_equal(board_stack(b, 0), BOARD_CODE);
	assert_int_equal(board_stack(b, 2) & (X86_TF | X86_RF),
			 b->cpuid.amd ? X86_TF : X86_TF | X86_RF);
}

CODE(iret_rf_code, "iretq; nop; hlt");
static void iret_loads_rf_even_when_it_runs_with_it(void **state)
{
	struct board *b = *state;

	for (uint64_t flags = X86_FIXED; flags <= (X86_FIXED | X86_RF); flags += X86_RF) {
		const uint64_t frame[] = {BOARD_CODE + 3, BOARD_CS64, flags, BOARD_STACK, BOARD_DS};

		LOAD(b, BOARD_CODE, iret_rf_code);
		board_long(b, BOARD_CODE);
		board_load(b, BOARD_STACK - sizeof(frame), frame, sizeof(frame));
		b->cpu->s.gpr[X86_RSP] = BOARD_STACK - sizeof(frame);
		b->cpu->s.rflags |= X86_RF; /* as after a page fault on its stack */
		b->cpu->s.dr[0] = BOARD_CODE + 3;
		b->cpu->s.dr7 = 0x401;
		soft_mode_update(b->cpu);
		assert_int_equal(board_run(b), flags & X86_RF ? -1 : X86_VEC_DB);
		assert_false(b->cpu->s.rflags & X86_RF);
	}
}

CODE(btf_code, "nop; jz 1f; xor %eax, %eax; jnz 1f; jz 1f; nop; 1: nop; hlt");
CODE(btf_call_code, "nop; call 1f; 1: nop; hlt");
CODE(btf_rep_code, "mov $3, %ecx; mov $0x20000, %edi; rep stosb; jmp 1f; nop; 1: hlt");
static void single_steps_on_branches_stop_after_taken_ones(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		unsigned stop;
	} cases[] = {{btf_code, btf_code_end, 10},
		     {btf_call_code, btf_call_code_end, 6},
		     {btf_rep_code, btf_rep_code_end, 15}};
	struct board *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		board_load(b, BOARD_CODE, cases[i].code, (size_t)(cases[i].end - cases[i].code));
		board_long(b, BOARD_CODE);
		b->cpu->s.debugctl = X86_DEBUGCTL_BTF;
		b->cpu->s.rflags |= X86_TF;
		soft_mode_update(b->cpu);
		assert_int_equal(board_run(b), X86_VEC_DB);
		assert_int_equal(board_stack(b, 0), BOARD_CODE + cases[i].stop);
		assert_int_equal(b->cpu->s.debugctl, 0);
	}
}

/* Each access kicks the CPU. */
static uint64_t kick_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct board *b = opaque;

	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_KICK);
	return 0;
}
static void kick_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	(void)kick_read(dev, opaque, offset, size);
}
static const struct region_ops kick_ops = {.read = kick_read, .write = kick_write};

static void a_kick_ends_a_repeated_access_to_a_device_after_one_element(void **state)
{
	static const uint8_t codes[2][3] = {{0xf3, 0x6c, 0xf4},
					    {0xf3, 0xaa, 0xf4}}; /* INSB, STOSB */
	struct board *b = *state;
	struct region port = {.name = "k", .dev = b->dev, .opaque = b, .ops = &kick_ops, .size = 8};
	struct region mmio = {
	    .name = "k", .dev = b->dev, .opaque = b, .ops = &kick_ops, .size = 4096};

	assert_int_equal(space_map(b->ports, &port, 0x300), 0);
	assert_int_equal(space_map(b->memory, &mmio, BOARD_MMIO + 0x1000), 0);
	for (unsigned k = 0; k < 2; k++) {
		board_load(b, BOARD_CODE + k * 16, codes[k], sizeof(codes[k]));
		board_pte_set(b, BOARD_DATA, (k ? BOARD_MMIO + 0x1000 : BOARD_DATA) | 3);
		board_long(b, BOARD_CODE + k * 16);
		b->cpu->s.gpr[X86_RDX] = 0x300;
		b->cpu->s.gpr[X86_RDI] = BOARD_DATA;
		b->cpu->s.gpr[X86_RCX] = 100;
		for (unsigned i = 0; i < 100; i++) {
			cpu_link_clear(&b->cpu->base.link, CPU_EVENT_KICK);
			assert_int_equal(engine_soft.run(&b->cpu->base), RUN_KICKED);
			assert_int_equal(b->cpu->s.gpr[X86_RCX], 99 - i);
		}
		cpu_link_clear(&b->cpu->base.link, CPU_EVENT_KICK);
		assert_int_equal(board_run(b), -1);
	}
	space_unmap(b->ports, &port);
	space_unmap(b->memory, &mmio);
}

static uint64_t interrupt_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct board *b = opaque;

	b->pending_vector = 0x50;
	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_INTR);
	return 0;
}
static const struct region_ops interrupt_ops = {.read = interrupt_read};

static void an_interrupt_between_iterations_is_returned_from_with_rf(void **state)
{
	static const uint8_t code[] = {0xf3, 0x6c, 0xf4}; /* REP INSB */
	struct board *b = *state;
	struct region port = {
	    .name = "i", .dev = b->dev, .opaque = b, .ops = &interrupt_ops, .size = 8};

	assert_int_equal(space_map(b->ports, &port, 0x300), 0);
	for (unsigned left = 0; left < 2; left++) {
		board_load(b, BOARD_CODE, code, sizeof(code));
		board_long(b, BOARD_CODE);
		b->cpu->s.gpr[X86_RDX] = 0x300;
		b->cpu->s.gpr[X86_RDI] = BOARD_DATA;
		b->cpu->s.gpr[X86_RCX] = 1 + left;
		b->cpu->s.rflags |= X86_IF;
		b->cpu->s.dr[0] = BOARD_CODE + 0x80;
		b->cpu->s.dr7 = 0x401;
		soft_mode_update(b->cpu);
		assert_int_equal(board_run(b), 0x50);
		assert_int_equal(b->cpu->s.gpr[X86_RCX], left);
		assert_int_equal(board_stack(b, 0), BOARD_CODE + (left ? 0 : 2));
		assert_int_equal(board_stack(b, 2) & X86_RF, left ? X86_RF : 0);
	}
	space_unmap(b->ports, &port);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(rf_lasts_for_all_iterations),
	    T(a_single_step_between_iterations_pushes_no_rf_but_on_intel),
	    T(without_breakpoints_rf_does_not_make_iterations_single_steps),
	    T(iret_loads_rf_even_when_it_runs_with_it),
	    T(single_steps_on_branches_stop_after_taken_ones),
	    T(a_kick_ends_a_repeated_access_to_a_device_after_one_element),
	    T(an_interrupt_between_iterations_is_returned_from_with_rf),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
