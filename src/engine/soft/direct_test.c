/* direct_test.c: tests of direct execution: user code in helper processes, and what it may not do.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/soft/direct.h"
#include "engine/soft/vec.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

CODE(all_registers, "fninit\n"
		    "mov $0x50000, %edi\n"
		    "movups (%rdi), %xmm3\n"
		    "paddd %xmm3, %xmm3\n"
		    "movups %xmm3, 16(%rdi)\n"
		    "mov $1000, %ecx\n"
		    "xor %eax, %eax\n"
		    "1: add %rcx, %rax\n"
		    "dec %ecx\n"
		    "jnz 1b\n"
		    "fld1\n"
		    "fadd %st(0), %st(0)\n"
		    "wrfsbase %rdi\n"
		    "mov %fs:0, %rdx\n"
		    "lea 7(%rax), %r15\n"
		    "stc\n"
		    "std\n"
		    "syscall\n");
static void user_code_runs_in_a_helper_and_its_registers_come_back(void **state)
{
	struct board *b = *state;
	struct x86_state *s = &b->cpu->s;

	board_write(b, USER_DATA, 8, UINT64_C(0x0000000300000005));
	board_write(b, USER_DATA + 8, 8, 0);
	assert_int_equal(RUN_USER(b, all_registers), 0x80);
	ran(b);
	assert_int_equal(s->gpr[X86_RAX], 500500);
	assert_int_equal(s->gpr[X86_R15], 500507);
	assert_int_equal(s->gpr[X86_RDX], UINT64_C(0x0000000300000005));
	assert_int_equal(s->seg[X86_FS].base, USER_DATA);
	assert_int_equal(s->gpr[X86_RCX],
			 USER_CODE + (uint64_t)(all_registers_end - all_registers));
	assert_int_equal(s->gpr[X86_R11] & (X86_CF | X86_DF | X86_IF), X86_CF | X86_DF | X86_IF);
	assert_int_equal(board_read(b, USER_DATA + 16, 8), UINT64_C(0x000000060000000a));
	uint64_t lane;
	memcpy(&lane, s->fpu.vec[3], 8);
	assert_int_equal(lane, UINT64_C(0x000000060000000a));
	uint16_t exponent;
	memcpy(&exponent, s->fpu.fx + X86_FX_ST + 8, 2);
	assert_int_equal(exponent, 0x4000); /* 2.0 */
}

CODE(wide, "vpaddd %zmm1, %zmm1, %zmm1{%k1}\n"
	   "vpaddd %zmm30, %zmm30, %zmm30\n"
	   "kmovq %k1, %rax\n"
	   "kaddq %k1, %k1, %k7\n"
	   "syscall\n");
static void avx512_registers_go_to_a_helper_and_come_back(void **state)
{
	struct board *b = *state;
	struct x86_fpu *f = &b->cpu->s.fpu;
	_Bool offered = b->cpu->vec->avx512;

	if (!__builtin_cpu_supports("avx512bw") || !offered) {
		print_message("skipped: this host has no AVX-512\n");
		skip();
	}
	for (unsigned enabled = 0; enabled < 2; enabled++) {
		board_load(b, USER_CODE, wide, (size_t)(wide_end - wide));
		user_state(b, USER_CODE);
		b->cpu->s.xcr0 = enabled ? 0xe7 : 7;
		memset(f->vec, 1, sizeof(f->vec));
		f->k[1] = 0x8001;
		f->k[7] = 5;
		assert_int_equal(board_run(b), 0x80);
		ran(b);
		/* Else what the guest's kernel keeps is neither seen nor changed. */
		assert_int_equal(b->cpu->s.gpr[X86_RAX], enabled ? 0x8001 : 0);
		assert_int_equal(f->vec[1][63], enabled ? 2 : 1);
		assert_int_equal(f->vec[1][59], 1);
		assert_int_equal(f->vec[30][0], enabled ? 2 : 1);
		assert_int_equal(f->k[7], enabled ? 0x10002 : 5);
	}
}

CODE(store, "mov $0x50000, %edi\n"
	    "movl $1, 8(%rdi)\n"
	    "syscall\n");
static void a_write_to_a_readonly_page_faults_as_on_hardware(void **state)
{
	struct board *b = *state;

	board_load(b, USER_CODE, store, (size_t)(store_end - store));
	user_state(b, USER_CODE);
	board_pte_set(b, USER_DATA, USER_DATA | X86_PTE_P | X86_PTE_U);
	assert_int_equal(board_run(b), X86_VEC_PF);
	ran(b);
	assert_int_equal(b->cpu->s.cr2, USER_DATA + 8);
	assert_int_equal(board_stack(b, 0), X86_PFERR_P | X86_PFERR_W | X86_PFERR_U);
	assert_int_equal(board_stack(b, 1), USER_CODE + 5);
	/* And when the kernel has made it writable, without a flush: none is needed for that. */
	user_state(b, USER_CODE + 5);
	b->cpu->s.gpr[X86_RDI] = USER_DATA;
	board_pte_set(b, USER_DATA, USER_DATA | X86_PTE_P | X86_PTE_U | X86_PTE_W);
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(board_read(b, USER_DATA + 8, 4), 1);
}

CODE(load_then_store, "mov $0x50000, %edi\n"
		      "mov (%rdi), %eax\n"
		      "syscall\n"
		      "mov %eax, (%rdi)\n"
		      "syscall\n");
static void accessed_and_dirty_are_set_when_a_cpu_would_set_them(void **state)
{
	struct board *b = *state;
	const uint64_t ad = X86_PTE_A | X86_PTE_D;

	board_load(b, USER_CODE, load_then_store, (size_t)(load_then_store_end - load_then_store));
	user_state(b, USER_CODE);
	board_pte_set(b, USER_DATA, USER_DATA | X86_PTE_P | X86_PTE_U | X86_PTE_W);
	board_pte_set(b, USER_DATA + 0x1000, USER_DATA | X86_PTE_P | X86_PTE_U | X86_PTE_W);
	assert_int_equal(board_run(b), 0x80);
	ran(b);
	assert_int_equal(board_pte(b, USER_DATA) & ad, X86_PTE_A);
	assert_int_equal(board_pte(b, USER_DATA + 0x1000) & ad, 0);
	user_state(b, USER_CODE + 9);
	b->cpu->s.gpr[X86_RDI] = USER_DATA;
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(board_pte(b, USER_DATA) & ad, ad);
}

CODE(load, "mov $0x50000, %edi\n"
	   "mov (%rdi), %rax\n"
	   "syscall\n");
static void a_flushed_page_is_read_through_its_new_entry(void **state)
{
	struct board *b = *state;

	board_write(b, USER_DATA, 8, 111);
	board_write(b, USER_DATA + 0x8000, 8, 222);
	assert_int_equal(RUN_USER(b, load), 0x80);
	ran(b);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 111);
	uint64_t entries = b->cpu->stats.direct_entries;
	/* INVLPG, with everything else as it was: the same address space goes on. */
	board_pte_set(b, USER_DATA, (USER_DATA + 0x8000) | 7);
	soft_tlb_flush_page(b->cpu, USER_DATA);
	b->cpu->s.seg[X86_CS].attr = 0xa0fb;
	b->cpu->s.seg[X86_CS].selector = 0x33;
	b->cpu->s.seg[X86_SS] =
	    (struct x86_seg){.limit = UINT32_MAX, .attr = 0xc0f3, .selector = 0x2b};
	b->cpu->s.rip = USER_CODE;
	soft_flags_set(b->cpu, X86_IF | X86_FIXED);
	soft_mode_update(b->cpu);
	b->cpu->s.activity = X86_RUNNING;
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 222);
	assert_true(b->cpu->stats.direct_entries > entries);
}

CODE(patch_own_code, "lea 2f(%rip), %rdi\n"
		     "mov $5, %ecx\n"
		     "xor %eax, %eax\n"
		     "1: incb 1(%rdi)\n"
		     "2: mov $1, %dl\n"
		     "movzx %dl, %edx\n"
		     "add %edx, %eax\n"
		     "dec %ecx\n"
		     "jnz 1b\n"
		     "syscall\n");
static void code_that_changes_itself_sees_its_changes(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_USER(b, patch_own_code), 0x80);
	ran(b);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 2 + 3 + 4 + 5 + 6);
}

CODE(write_code, "mov $0x50000, %edi\n"
		 "movb $0x77, 1(%rdi)\n"
		 "syscall\n");
static void code_written_by_a_helper_is_what_the_layers_below_run(void **state)
{
	struct board *b = *state;
	static const uint8_t kernel[] = {0xb0, 0x11, 0xf4}; /* mov $0x11, %al; hlt */

	for (unsigned round = 0; round < 3; round++) {
		board_load(b, USER_DATA, kernel, sizeof(kernel));
		board_long(b, USER_DATA);
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RAX] & 0xff, 0x11);
		assert_int_equal(RUN_USER(b, write_code), 0x80);
		ran(b);
		board_long(b, USER_DATA);
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RAX] & 0xff, 0x77);
	}
}

CODE(divide, "xor %ecx, %ecx\nnop\ndiv %ecx\n");
CODE(undefined, "nop\nud2\n");
CODE(breakpoint, "nop\nint3\n");
CODE(breakpoint_long, "nop\n.byte 0xcd, 3\n");
CODE(halt, "nop\nhlt\n");
CODE(far_away, "movabs $0x8000000000000000, %rax\nnop\nmov (%rax), %rax\n");
CODE(simd, "movl $0x1d00, -8(%rsp)\nldmxcsr -8(%rsp)\nxorps %xmm0, %xmm0\ndivss %xmm0, %xmm0\n");
CODE(system_int, "nop\nint $0x80\n");
static void every_fault_is_the_guests_at_its_instruction(void **state)
{
	struct board *b = *state;
	static const struct {
		const uint8_t *code, *end;
		int vector;
		uint64_t rip;
		_Bool error;
	} rows[] = {
	    {divide, divide_end, X86_VEC_DE, 3, 0},
	    {undefined, undefined_end, X86_VEC_UD, 1, 0},
	    /* The gates are the kernel's alone: INT n is refused. */
	    {breakpoint, breakpoint_end, X86_VEC_GP, 1, 1},
	    {breakpoint_long, breakpoint_long_end, X86_VEC_GP, 1, 1},
	    {system_int, system_int_end, X86_VEC_GP, 1, 1},
	    {halt, halt_end, X86_VEC_GP, 1, 1},
	    {far_away, far_away_end, X86_VEC_GP, 11, 1},
	    {simd, simd_end, X86_VEC_XM, 16, 0},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(run_user(b, rows[i].code, rows[i].end), rows[i].vector);
		ran(b);
		assert_int_equal(board_stack(b, rows[i].error), USER_CODE + rows[i].rip);
	}
}

CODE(single_step, "pushf\n"
		  "orl $0x100, (%rsp)\n"
		  "popf\n"
		  "inc %eax\n"
		  "inc %eax\n");
static void the_trap_flag_traps_after_the_next_instruction(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_USER(b, single_step), X86_VEC_DB);
	ran(b);
	assert_true(b->cpu->s.dr6 & X86_DR6_BS);
	assert_int_equal(board_stack(b, 0), USER_CODE + 11);
}

CODE(any_call, "mov %r12d, %eax\nsyscall\n");
CODE(any_call32, "mov %r12d, %eax\nint $0x80\n");
static void no_system_call_of_the_guest_is_the_hosts(void **state)
{
	struct board *b = *state;

	/* mmap, munmap, sigreturn, futex, write and exit among them, with any arguments. */
	board_load(b, USER_CODE, any_call, (size_t)(any_call_end - any_call));
	for (unsigned nr = 0; nr < 512; nr++) {
		user_state(b, USER_CODE);
		b->cpu->s.gpr[X86_R12] = nr;
		assert_int_equal(board_run(b), 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], nr);
	}
	ran(b);
	board_load(b, USER_CODE, any_call32, (size_t)(any_call32_end - any_call32));
	for (unsigned nr = 0; nr < 64; nr++) {
		user_state(b, USER_CODE);
		b->cpu->s.gpr[X86_R12] = nr;
		assert_int_equal(board_run(b), X86_VEC_GP);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], nr);
	}
	assert_int_equal(b->cpu->direct->killed, 0);
}

/* As a guest's timer does: who waits in the stub waits for no longer than that. */
struct ticker {
	struct soft_cpu *cpu;
	_Atomic _Bool done;
};
static void *ticks(void *arg)
{
	struct ticker *t = arg;

	while (!atomic_load(&t->done)) {
		poll(NULL, 0, 5);
		cpu_link_raise(&t->cpu->base.link, CPU_EVENT_KICK);
	}
	return NULL;
}

/* As board_run, for as long as it takes. */
static int run_ticking(struct board *b, const uint8_t *code, const uint8_t *end)
{
	board_load(b, USER_CODE, code, (size_t)(end - code));
	while (engine_soft.run(&b->cpu->base) == RUN_KICKED)
		cpu_link_clear(&b->cpu->base.link, CPU_EVENT_KICK);
	return (int)(b->cpu->s.rip - BOARD_HANDLERS) / 16;
}

CODE(jump_there, "mov %r12, %rax\njmp *%rax\n");
static void who_jumps_into_the_stub_gets_a_page_fault(void **state)
{
	struct board *b = *state;
	struct ticker t = {.cpu = b->cpu};
	pthread_t thread;

	assert_int_equal(RUN_USER(b, load), 0x80);
	ran(b);
	assert_int_equal(pthread_create(&thread, NULL, ticks, &t), 0);
	/* At every byte, with registers that make a system call of it where there is one. */
	for (unsigned off = 0; off < 0x700; off += 3) {
		do { /* who is kicked before he enters a helper goes on without one */
			user_state(b, USER_CODE);
			assert_int_equal(run_ticking(b, load, load_end), 0x80);
			assert_false(b->cpu->direct->refused);
		} while (!user_helper(b));
		user_again(b, USER_CODE);
		b->cpu->s.gpr[X86_R12] = user_helper(b)->base + off;
		b->cpu->s.gpr[X86_RDI] = USER_DATA;
		int vector = run_ticking(b, jump_there, jump_there_end);
		/* Code that it runs into there may do other things first, to itself. */
		assert_true(vector == X86_VEC_PF || vector == X86_VEC_GP || vector == 0x80 ||
			    vector == X86_VEC_UD);
		if (b->cpu->direct->killed > 32)
			b->cpu->direct->killed = 0;
	}
	atomic_store(&t.done, 1);
	pthread_join(thread, NULL);
}

CODE(forever, "1: jmp 1b\n");
static void *kick_later(void *arg)
{
	struct soft_cpu *cpu = arg;

	while (!atomic_load(&cpu->direct->running))
		sched_yield();
	cpu_link_raise(&cpu->base.link, CPU_EVENT_KICK);
	return NULL;
}
static void a_kick_stops_user_code_that_never_ends(void **state)
{
	struct board *b = *state;
	pthread_t thread;

	board_load(b, USER_CODE, forever, (size_t)(forever_end - forever));
	assert_int_equal(RUN_USER(b, load), 0x80);
	ran(b);
	board_load(b, USER_CODE, forever, (size_t)(forever_end - forever));
	user_state(b, USER_CODE);
	assert_int_equal(pthread_create(&thread, NULL, kick_later, b->cpu), 0);
	assert_int_equal(engine_soft.run(&b->cpu->base), RUN_KICKED);
	pthread_join(thread, NULL);
	cpu_link_clear(&b->cpu->base.link, CPU_EVENT_KICK);
	assert_int_equal(b->cpu->s.rip, USER_CODE);
}

CODE(load_low, "mov 0xf000, %rax\nsyscall\n");
static void the_lowest_pages_are_read_whatever_the_host_lets_helpers_map(void **state)
{
	struct board *b = *state;

	assert_in_range(b->cpu->direct->lowest, 4096, 1u << 20);
	board_write(b, 0xf000, 8, 4711);
	/* As the host says; and where it refuses what it has said. */
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(RUN_USER(b, load_low), 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 4711);
		b->cpu->direct->lowest = 4096;
		direct_forget_all(b->cpu);
	}
	assert_true(b->cpu->direct->lowest == 4096 || b->cpu->direct->lowest == 0x10000);
}

/* When user code runs, not only its helper: before that nothing would be lost. */
static void *kill_later(void *arg)
{
	struct board *b = arg;
	struct soft_cpu *cpu = b->cpu;

	while (!atomic_load(&cpu->direct->running) || !board_read(b, USER_DATA, 4))
		sched_yield();
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		if (cpu->direct->space[i].helper.pid)
			kill(cpu->direct->space[i].helper.pid, SIGKILL);
	return NULL;
}
CODE(count, "mov $0x50000, %edi\n"
	    "1: incl (%rdi)\n"
	    "jmp 1b\n");
static void a_killed_helper_ends_the_program_not_the_machine(void **state)
{
	struct board *b = *state;
	pthread_t thread;

	assert_int_equal(RUN_USER(b, load), 0x80);
	ran(b);
	board_write(b, USER_DATA, 4, 0);
	board_load(b, USER_CODE, count, (size_t)(count_end - count));
	user_state(b, USER_CODE);
	assert_int_equal(pthread_create(&thread, NULL, kill_later, b), 0);
	assert_int_equal(board_run(b), X86_VEC_GP);
	pthread_join(thread, NULL);
	assert_int_equal(b->cpu->stats.direct_lost, 1);
	board_write(b, USER_DATA, 8, 5);
	assert_int_equal(RUN_USER(b, load), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 5);
}

static struct direct_helper *helper_of(struct board *b)
{
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		if (b->cpu->direct->space[i].helper.pid)
			return &b->cpu->direct->space[i].helper;
	return NULL;
}

static void no_helper_outlives_its_machine(void **state)
{
	setenv("BOARD_SOFT", "direct", 1);
	struct board *b = board_new(1);

	assert_int_equal(RUN_USER(b, load), 0x80);
	int pid = b->cpu->direct->refused ? 0 : helper_of(b)->pid;
	board_free(b);
	if (pid) {
		assert_int_equal(kill(pid, 0), -1);
		assert_int_equal(errno, ESRCH);
	}
}

/* User code for `us` microseconds, then a system call or an interrupt. True: it was to go to a
 * helper when it came back. */
static _Bool stretch(struct soft_cpu *cpu, unsigned us, _Bool interrupted)
{
	uint64_t end = __builtin_ia32_rdtsc() + (uint64_t)us * soft_tsc_khz() / 1000;

	direct_choose_user(cpu);
	while (__builtin_ia32_rdtsc() < end)
		;
	direct_choose_kernel(cpu, interrupted);
	direct_choose_user(cpu);
	return direct_choose_wants(cpu);
}

/* The guest's kernel changes address spaces. */
static void enter_space(struct soft_cpu *cpu, uint64_t cr3)
{
	direct_choose_kernel(cpu, 0);
	cpu->s.cr3 = cr3;
}

static void the_chooser_takes_user_code_by_how_long_it_runs(void **state)
{
	struct soft_cpu *cpu = calloc(1, sizeof(*cpu));
	struct soft_direct d = {0};

	(void)state;
	assert_non_null(cpu);
	cpu->direct = &d;
	cpu->cpl = 3;
	assert_int_equal(direct_choose_init(&d), 0);
	enter_space(cpu, 0x1000);
	/* Many calls: not. The time that this host takes away may make single ones long. */
	unsigned taken = 0;
	for (unsigned i = 0; i < 64; i++)
		taken += stretch(cpu, 0, 0);
	assert_in_range(taken, 0, 32);
	assert_in_range(cpu->stats.direct_kept, 32, 64);
	/* A computation that only interrupts break: soon. */
	enter_space(cpu, 0x2000);
	assert_true(stretch(cpu, 500, 1));
	assert_true(cpu->stats.direct_by_length > 0);
	/* Each address space has its own: that one is interrupted, this one is new. */
	direct_choose_kernel(cpu, 1);
	enter_space(cpu, 0x3000);
	direct_choose_user(cpu);
	assert_true(cpu->direct_at < UINT64_MAX);
	enter_space(cpu, 0x2000);
	direct_choose_user(cpu);
	assert_true(direct_choose_wants(cpu));
	/* What a helper cannot do is for the layers below, for a while. */
	uint64_t before = __builtin_ia32_rdtsc();
	direct_choose_below(cpu, 1);
	assert_in_range(cpu->direct_at, before + 1, UINT64_MAX - 1);
	for (unsigned i = 0; i < 4; i++)
		direct_choose_left(cpu, 1000, 0);
	direct_choose_below(cpu, 1);
	assert_true(cpu->direct_at < UINT64_MAX);
	direct_choose_below(cpu, 0);
	assert_true(cpu->direct_at == UINT64_MAX);
	/* Long stretches between calls: trials, and helpers. */
	enter_space(cpu, 0x3000);
	for (unsigned i = 0; i < 80; i++)
		(void)stretch(cpu, 50, 0);
	assert_true(cpu->stats.direct_trials > 0);
	enter_space(cpu, 0x4000);
	assert_true(cpu->direct_at == UINT64_MAX);
	/* One that helpers have nothing of is translated for longer (a crossing costs 1000 here).
	 */
	cpu->asid_user = 7;
	before = __builtin_ia32_rdtsc();
	direct_choose_user(cpu);
	assert_in_range(cpu->direct_at, before + 20000, UINT64_MAX - 1);
	/* Where all are short most are not measured, but one that gets long is. */
	enter_space(cpu, 0x5000);
	uint64_t kept = cpu->stats.direct_kept;
	for (unsigned i = 0; i < 1000; i++) {
		cpu->cpl = 3;
		assert_false(direct_choose_state(cpu));
		cpu->cpl = 0;
		assert_false(direct_choose_state(cpu));
		assert_true(cpu->direct_at == UINT64_MAX);
	}
	assert_int_equal(cpu->stats.direct_kept, kept + 1000);
	for (unsigned i = 0; i < 10; i++) {
		cpu->cpl = 3;
		assert_false(direct_choose_state(cpu));
		assert_true(cpu->direct_at < UINT64_MAX);
		while (__builtin_ia32_rdtsc() < cpu->direct_at)
			;
		direct_choose_user(cpu);
		while (__builtin_ia32_rdtsc() < cpu->direct_at)
			;
		assert_true(direct_choose_wants(cpu));
		direct_choose_kernel(cpu, 0);
	}
	/* What a crossing costs is not learned from what computes there for seconds. */
	for (unsigned i = 0; i < 5000; i++)
		direct_choose_left(cpu, 4000 * (uint64_t)soft_tsc_khz() / 1000, 0);
	assert_in_range(cpu->stats.direct_crossing, 1, 50000);
	/* "Always" is always. */
	d.always = 1;
	enter_space(cpu, 0x4000);
	assert_true(stretch(cpu, 0, 0));
	assert_true(cpu->stats.direct_at_once > 0);
	direct_choose_fini(&d);
	free(cpu);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_direct, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(user_code_runs_in_a_helper_and_its_registers_come_back),
	    T(avx512_registers_go_to_a_helper_and_come_back),
	    T(a_write_to_a_readonly_page_faults_as_on_hardware),
	    T(accessed_and_dirty_are_set_when_a_cpu_would_set_them),
	    T(a_flushed_page_is_read_through_its_new_entry),
	    T(code_that_changes_itself_sees_its_changes),
	    T(code_written_by_a_helper_is_what_the_layers_below_run),
	    T(every_fault_is_the_guests_at_its_instruction),
	    T(the_trap_flag_traps_after_the_next_instruction),
	    T(no_system_call_of_the_guest_is_the_hosts),
	    T(who_jumps_into_the_stub_gets_a_page_fault),
	    T(a_kick_stops_user_code_that_never_ends),
	    T(the_lowest_pages_are_read_whatever_the_host_lets_helpers_map),
	    T(a_killed_helper_ends_the_program_not_the_machine),
	    cmocka_unit_test(no_helper_outlives_its_machine),
	    cmocka_unit_test(the_chooser_takes_user_code_by_how_long_it_runs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
