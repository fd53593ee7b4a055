/* native.c: a child process whose signal handler loads one case after another into the CPU. */
#include "randinsn.h"

#include <cpuid.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include "x86/state.h"

/*
 * The child waits for a byte, then raises a signal. The handler replaces the whole context that it
 * will return to (registers, flags, vector and x87 state, code segment) by a case's; the case ends
 * in an exception, whose handler stores the result and sets up the next. All of a case's
 * instructions run outside of any function of ours, and may destroy the process: the parent then
 * makes a new one.
 */
struct shared {
	unsigned count, done;
	struct ri_case cases[RI_BATCH];
	struct ri_result results[RI_BATCH];
	uint8_t code[RI_CODE_BYTES];
};

struct ri_native {
	struct shared *s;
	int to_child, from_child;
	pid_t pid;
};

/* The child's own; a signal handler has no argument to carry them. */
static struct shared *child_shared;
static uint8_t *child_code;
static sigjmp_buf child_out;

#define XSTATE_YMM    576
#define XSTATE_HEADER 512

/* Where AVX-512's components are: opmask, upper halves, the upper 16 registers. */
static unsigned xstate_at[8];

_Bool ri_native_avx512(void)
{
	unsigned a, b, c, d;

	/* DQ, BW and VL besides, as the guest needs them. */
	if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl") ||
	    !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq"))
		return 0;
	for (unsigned i = 5; i < 8; i++) {
		if (!__get_cpuid_count(0xd, i, &a, &b, &c, &d) || !a)
			return 0;
		xstate_at[i] = b;
	}
	return 1;
}

static const int gpr_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
			       REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
			       REG_R12, REG_R13, REG_R14, REG_R15};

static void child_load(ucontext_t *uc, const struct ri_case *c)
{
	uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;
	greg_t *r = uc->uc_mcontext.gregs;
	uint64_t bv;

	ri_assemble(c, child_code);
	memcpy((void *)(uintptr_t)RI_DATA, c->data, RI_PAGE);
	memset((void *)(uintptr_t)RI_COUNT, RI_ROUNDS, RI_MAX_INSNS);
	for (unsigned i = 0; i < 16; i++)
		r[gpr_of[i]] = (greg_t)c->state.gpr[i];
	r[REG_RIP] = (greg_t)c->state.rip;
	r[REG_EFL] = (greg_t)c->state.rflags;
	r[REG_CSGSFS] = (r[REG_CSGSFS] & ~0xffffll) | (c->mode32 ? RI_CS32 : RI_CS64);
	memcpy(fp, c->state.fx, 28); /* MXCSR_MASK stays */
	memcpy(fp + X86_FX_ST, c->state.fx + X86_FX_ST, 128);
	for (unsigned i = 0; i < 16; i++) {
		memcpy(fp + 160 + i * 16, c->state.vec[i], 16);
		memcpy(fp + XSTATE_YMM + i * 16, c->state.vec[i] + 16, 16);
	}
	bv = 7;
	if (c->avx512) {
		bv = 0xe7;
		memcpy(fp + xstate_at[5], c->state.k, 64);
		for (unsigned i = 0; i < 16; i++) {
			memcpy(fp + xstate_at[6] + i * 32, c->state.vec[i] + 32, 32);
			memcpy(fp + xstate_at[7] + i * 64, c->state.vec[16 + i], 64);
		}
	}
	memcpy(fp + XSTATE_HEADER, &bv, 8);
}

static void child_store(const ucontext_t *uc, struct ri_result *out)
{
	const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;
	const greg_t *r = uc->uc_mcontext.gregs;
	uint64_t bv;

	memcpy(&bv, fp + XSTATE_HEADER, 8);
	for (unsigned i = 0; i < 16; i++)
		out->state.gpr[i] = (uint64_t)r[gpr_of[i]];
	out->state.rip = (uint64_t)r[REG_RIP];
	out->state.rflags = (uint64_t)r[REG_EFL];
	memset(out->state.vec, 0, sizeof(out->state.vec));
	memset(out->state.k, 0, sizeof(out->state.k));
	memset(out->state.fx, 0, sizeof(out->state.fx));
	if (bv & 1)
		memcpy(out->state.fx, fp, RI_FX_BYTES);
	else
		memcpy(out->state.fx, "\x7f\x03", 2);
	memcpy(out->state.fx + X86_FX_MXCSR, fp + X86_FX_MXCSR, 4);
	memset(out->state.fx + X86_FX_MASK, 0, 4);
	for (unsigned i = 0; i < 16; i++) {
		if (bv & 2)
			memcpy(out->state.vec[i], fp + 160 + i * 16, 16);
		if (bv & 4)
			memcpy(out->state.vec[i] + 16, fp + XSTATE_YMM + i * 16, 16);
		if (xstate_at[6] && (bv & 64))
			memcpy(out->state.vec[i] + 32, fp + xstate_at[6] + i * 32, 32);
		if (xstate_at[7] && (bv & 128))
			memcpy(out->state.vec[16 + i], fp + xstate_at[7] + i * 64, 64);
	}
	if (xstate_at[5] && (bv & 32))
		memcpy(out->state.k, fp + xstate_at[5], 64);
	out->vector = (uint32_t)r[REG_TRAPNO];
	out->error = (uint32_t)r[REG_ERR];
	out->cr2 = (uint64_t)r[REG_CR2];
	out->lost = 0;
	memcpy(out->data, (void *)(uintptr_t)RI_DATA, RI_PAGE);
	memcpy(out->code, child_code, RI_CODE_BYTES);
}

static void child_signal(int sig, siginfo_t *info, void *ctx)
{
	struct shared *s = child_shared;

	/* Bits of the case's RFLAGS that a signal leaves: AC, NT, ID; and its data segments. */
	__asm__ volatile("pushfq; andq %0, (%%rsp); popfq; movl %1, %%ds; movl %1, %%es"
			 :
			 : "i"(~0x244000), "r"(RI_SS)
			 : "cc", "memory");
	(void)info;
	if (sig != SIGUSR1) {
		child_store(ctx, &s->results[s->done]);
		s->done++;
	}
	if (s->done == s->count)
		siglongjmp(child_out, 1);
	child_load(ctx, &s->cases[s->done]);
}

static void child_map(void)
{
	int fd = memfd_create("code", MFD_CLOEXEC);
	uint8_t *constant;

	if (fd < 0 || ftruncate(fd, RI_CODE_BYTES) < 0)
		_exit(1);
	child_code = mmap(NULL, RI_CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	/* Programs write to their code through the address at which they execute it. */
	if (mmap((void *)(uintptr_t)RI_CODE, RI_CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
		 MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) == MAP_FAILED ||
	    mmap((void *)(uintptr_t)RI_COUNT, RI_PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED ||
	    mmap((void *)(uintptr_t)RI_DATA, 2 * RI_PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		_exit(1);
	constant = (uint8_t *)(uintptr_t)RI_CONST;
	ri_const_page(constant);
	mprotect(constant, RI_PAGE, PROT_READ);
}

static NORETURN void child_main(struct shared *s, int in, int out)
{
	static const int signals[] = {SIGUSR1, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
	struct sigaction sa = {.sa_sigaction = child_signal,
			       .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	stack_t stack = {.ss_size = 1 << 16, .ss_sp = malloc(1 << 16)};
	uint8_t byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	child_shared = s;
	child_map();
	if (syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, RI_GS_BASE) != 0)
		_exit(1);
	sigaltstack(&stack, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
	while (read(in, &byte, 1) == 1) {
		if (!sigsetjmp(child_out, 1))
			raise(SIGUSR1);
		if (write(out, &byte, 1) != 1)
			break;
	}
	_exit(0);
}

static int native_spawn(struct ri_native *n)
{
	int down[2], up[2];

	if (pipe(down) < 0 || pipe(up) < 0)
		return -errno;
	fflush(NULL);
	n->pid = fork();
	if (n->pid < 0)
		return -errno;
	if (n->pid == 0) {
		close(down[1]);
		close(up[0]);
		child_main(n->s, down[0], up[1]);
	}
	close(down[0]);
	close(up[1]);
	n->to_child = down[1];
	n->from_child = up[0];
	return 0;
}

static void native_reap(struct ri_native *n)
{
	close(n->to_child);
	close(n->from_child);
	kill(n->pid, SIGKILL);
	waitpid(n->pid, NULL, 0);
}

int ri_native_new(struct ri_native **out)
{
	struct ri_native *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	n->s = mmap(NULL, sizeof(*n->s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (n->s == MAP_FAILED || native_spawn(n) < 0) {
		free(n);
		return -ENOMEM;
	}
	*out = n;
	return 0;
}

void ri_native_free(struct ri_native *n)
{
	if (!n)
		return;
	native_reap(n);
	munmap(n->s, sizeof(*n->s));
	free(n);
}

void ri_native_start(struct ri_native *n, const struct ri_case *cases, unsigned count)
{
	n->s->count = count;
	n->s->done = 0;
	memcpy(n->s->cases, cases, count * sizeof(*cases));
	if (write(n->to_child, "", 1) != 1)
		n->s->count = 0;
}

/* Nanoseconds of a CPU that the child has used. */
static uint64_t native_cpu_ns(const struct ri_native *n)
{
	struct timespec t = {0};
	clockid_t clock;

	if (!clock_getcpuclockid(n->pid, &clock))
		(void)clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Waits until it is through with all cases: 0 when it has ended, or one case goes on and on. By the
 * CPU's time, as on a busy host it may get none for long; a case that does nothing at all has a
 * minute. */
static _Bool native_ends(struct ri_native *n)
{
	const volatile unsigned *done = &n->s->done;
	struct pollfd fd = {.fd = n->from_child, .events = POLLIN};
	uint8_t byte;

	for (;;) {
		uint64_t began = native_cpu_ns(n);
		unsigned at = *done;

		for (unsigned s = 0; *done == at; s++) {
			if (poll(&fd, 1, 1000) == 1)
				return read(n->from_child, &byte, 1) == 1;
			if (*done == at &&
			    (s == 60 || native_cpu_ns(n) - began > UINT64_C(2000000000)))
				return 0;
		}
	}
}

/* A case that ends the child, or does not end, is lost; the rest go to a new child. */
const struct ri_result *ri_native_wait(struct ri_native *n)
{
	for (;;) {
		if (native_ends(n))
			return n->s->results;
		native_reap(n);
		if (n->s->done < n->s->count)
			n->s->results[n->s->done++].lost = 1;
		if (native_spawn(n) < 0 || write(n->to_child, "", 1) != 1) {
			fprintf(stderr, "randinsn: cannot start a process: %s\n", strerror(errno));
			exit(2);
		}
	}
}
