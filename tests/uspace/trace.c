/* trace.c: probes of tracing: single step, breakpoints of both kinds, another's registers and
 * memory, debug registers. */
#define _GNU_SOURCE
#include "uspace.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile uint64_t watched[8] __attribute__((aligned(64)));
static volatile unsigned steps;
static uint64_t step_hash, step_first;

static void on_step(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];

	(void)sig;
	if (!steps++)
		step_first = rip;
	step_hash = (step_hash ^ (rip - step_first) ^ (uint64_t)info->si_code << 32 ^
		     (uint64_t)uc->uc_mcontext.gregs[REG_RCX] << 40) *
		    UINT64_C(0x100000001b3);
}

/* A program that steps itself, through whatever behaves differently under TF. */
static void own_steps(void)
{
	struct sigaction act = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
	static uint8_t from[64], to[64];

	sigaction(SIGTRAP, &act, NULL);
	for (unsigned round = 0; round < 3; round++) {
		steps = 0;
		step_hash = 0;
		__asm__ volatile(
		    "xor %%ecx, %%ecx\n\tpushf\n\torl $0x100, (%%rsp)\n\tpopf\n\t"
		    "nop\n\tmov $5, %%ecx\n\tmov %0, %%rsi\n\tmov %1, %%rdi\n\trep movsb\n\t"
		    "mov $39, %%eax\n\txor %%ecx, %%ecx\n\tsyscall\n\tmov $7, %%ecx\n\t"
		    "1: dec %%ecx\n\tjnz 1b\n\t"
		    "mov %%ss, %%eax\n\tmov %%eax, %%ss\n\tnop\n\tnop\n\t"
		    "pushf\n\tpopf\n\tpush %%rbx\n\tpop %%rbx\n\tcall 2f\n\tjmp 3f\n\t2: ret\n\t3:"
		    "vpxor %%xmm0, %%xmm0, %%xmm0\n\tfninit\n\tlea 4f(%%rip), %%rax\n\tjmp "
		    "*%%rax\n\t4:"
		    "xor %%eax, %%eax\n\txor %%ecx, %%ecx\n\t"
		    "pushf\n\tandl $~0x100, (%%rsp)\n\tpopf\n\tnop\n\tnop" ::"r"(from),
		    "r"(to)
		    : "rax", "rcx", "rsi", "rdi", "r11", "memory", "cc", "xmm0");
		say("%u steps, %016lx", steps, step_hash);
	}
}

static __attribute__((noinline)) unsigned traced_work(unsigned n)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < n; i++) {
		__asm__ volatile("add %1, %0\n\trol $3, %0" : "+r"(sum) : "r"(i));
		watched[i % 8] = sum;
	}
	return sum;
}
extern uint8_t trace_here[];
static __attribute__((noinline)) unsigned traced_place(unsigned v)
{
	__asm__ volatile(".globl trace_here\ntrace_here: add $1, %0" : "+r"(v));
	return v;
}

static pid_t tracee(void)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			_exit(99);
		raise(SIGSTOP);
		unsigned v = traced_work(20);
		for (unsigned i = 0; i < 5; i++)
			v = traced_place(v);
		getppid();
		_exit((int)(v & 0x7f));
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 99)
		return 0;
	CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	return pid;
}

static int stop_next(pid_t pid, int how)
{
	int status;

	CHECK(!ptrace(how, pid, 0, 0) && waitpid(pid, &status, 0) == pid);
	return status;
}

static void others_steps(void)
{
	struct user_regs_struct r;
	pid_t pid = tracee();
	uint64_t hash = 0;
	unsigned n = 0, inside = 0;
	int status;

	if (!pid)
		return;
	for (; n < (quick ? 1500 : 5000); n++) {
		status = stop_next(pid, PTRACE_SINGLESTEP);
		if (!WIFSTOPPED(status))
			break;
		CHECK(WSTOPSIG(status) == SIGTRAP);
		CHECK(!ptrace(PTRACE_GETREGS, pid, 0, &r));
		if (r.rip - (uint64_t)(uintptr_t)traced_work < 128) {
			inside++;
			hash = (hash ^ (r.rip - (uint64_t)(uintptr_t)traced_work) ^ (r.rax << 20)) *
			       UINT64_C(0x100000001b3);
		}
	}
	if (WIFSTOPPED(status))
		status = stop_next(pid, PTRACE_CONT);
	say("%s steps in the function, exit %d", inside > 100 ? "many" : "few",
	    WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	say("cpu: hash %016lx of %u", hash, inside);
}

static void breakpoints(void)
{
	struct user_regs_struct r;
	struct user_fpregs_struct fp;
	pid_t pid = tracee();
	unsigned hits = 0;
	int status;

	if (!pid)
		return;
	long word = ptrace(PTRACE_PEEKTEXT, pid, trace_here, 0), broken = (word & ~0xffl) | 0xcc;
	CHECK((uint8_t)word == trace_here[0]);
	CHECK(!ptrace(PTRACE_POKETEXT, pid, trace_here, broken));
	for (;;) {
		status = stop_next(pid, PTRACE_CONT);
		if (!WIFSTOPPED(status))
			break;
		CHECK(WSTOPSIG(status) == SIGTRAP && !ptrace(PTRACE_GETREGS, pid, 0, &r));
		CHECK(r.rip == (uint64_t)(uintptr_t)trace_here + 1);
		hits++;
		r.rip--;
		CHECK(!ptrace(PTRACE_SETREGS, pid, 0, &r) &&
		      !ptrace(PTRACE_POKETEXT, pid, trace_here, word));
		CHECK(!ptrace(PTRACE_GETFPREGS, pid, 0, &fp));
		fp.xmm_space[60] = hits;
		CHECK(!ptrace(PTRACE_SETFPREGS, pid, 0, &fp));
		status = stop_next(pid, PTRACE_SINGLESTEP);
		CHECK(WIFSTOPPED(status) && !ptrace(PTRACE_GETFPREGS, pid, 0, &fp) &&
		      fp.xmm_space[60] == hits);
		CHECK(!ptrace(PTRACE_POKETEXT, pid, trace_here, broken));
	}
	say("int3: %u hits, exit %d", hits, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	CHECK(trace_here[0] == (uint8_t)word);
}

static long dr_set(pid_t pid, unsigned n, uint64_t v)
{
	return ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + n * 8, v);
}

static void hardware(const char *what, uint64_t address, uint64_t control)
{
	pid_t pid = tracee();
	unsigned hits = 0;
	uint64_t dr6 = 0, where = 0;
	struct user_regs_struct r;
	int status;

	if (!pid)
		return;
	if (dr_set(pid, 1, address) || dr_set(pid, 7, control)) {
		say("cpu: %s: %s", what, strerror(errno));
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return;
	}
	for (;;) {
		status = stop_next(pid, PTRACE_CONT);
		if (!WIFSTOPPED(status) || hits > 100)
			break;
		CHECK(WSTOPSIG(status) == SIGTRAP && !ptrace(PTRACE_GETREGS, pid, 0, &r));
		dr6 |= (uint64_t)ptrace(PTRACE_PEEKUSER, pid,
					offsetof(struct user, u_debugreg) + 6 * 8, 0) &
		       0xf;
		CHECK(!dr_set(pid, 6, 0));
		where = r.rip;
		hits++;
	}
	if (WIFSTOPPED(status))
		kill(pid, SIGKILL);
	say("%s: %u hits, dr6 %lx, at %s, exit %d", what, hits, dr6,
	    where == (uint64_t)(uintptr_t)trace_here ? "the place" : "another",
	    WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

static void debug_registers(void)
{
	hardware("execution", (uint64_t)(uintptr_t)trace_here, 1u << 2);
	hardware("write of 8", (uint64_t)(uintptr_t)&watched[2], 1u << 2 | 9u << 20);
	hardware("access of 1", (uint64_t)(uintptr_t)&watched[3] + 5, 1u << 2 | 3u << 20);
	hardware("nothing", (uint64_t)(uintptr_t)&watched[2] + 640, 1u << 2 | 1u << 20);
}

static void system_calls(void)
{
	pid_t pid = tracee();
	uint64_t hash = 0;
	unsigned stops = 0;
	int status;

	if (!pid)
		return;
	CHECK(!ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
	for (;;) {
		struct user_regs_struct r;
		status = stop_next(pid, PTRACE_SYSCALL);
		if (!WIFSTOPPED(status))
			break;
		CHECK(WSTOPSIG(status) == (SIGTRAP | 0x80) && !ptrace(PTRACE_GETREGS, pid, 0, &r));
		if (r.orig_rax == 110 && stops++ == 0) { /* getppid becomes getpid */
			r.orig_rax = 39;
			CHECK(!ptrace(PTRACE_SETREGS, pid, 0, &r));
		}
		hash = hash * 31 + r.orig_rax;
	}
	say("hash %lx, exit %d", hash, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

const struct probe probes_trace[] = {
    {"own-steps", own_steps, 0},       {"others-steps", others_steps, 0},
    {"breakpoints", breakpoints, 0},   {"debug-registers", debug_registers, 0},
    {"system-calls", system_calls, 0}, {0},
};
