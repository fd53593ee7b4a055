/* signal.c: probes of signals: every one of them, stacks of their own, ways out of handlers, what
 * they say of faults. */
#define _GNU_SOURCE
#include "uspace.h"
#include <fenv.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static uint8_t *stack_area;
static volatile int seen_sig, seen_value, seen_on, depth;
static sigjmp_buf jump;

static void on_any(int sig, siginfo_t *info, void *context)
{
	uint8_t here;

	(void)context;
	seen_sig = sig;
	seen_value = info->si_value.sival_int;
	seen_on = (size_t)(&here - stack_area) < 65536;
}

static void stack_set(int flags)
{
	if (!stack_area)
		stack_area = map_rw(65536);
	stack_t ss = {.ss_sp = stack_area, .ss_size = 65536, .ss_flags = flags};
	CHECK(!sigaltstack(&ss, NULL));
}

static void all_of_them(void)
{
	unsigned count = 0;

	stack_set(0);
	for (int sig = 1; sig <= 64; sig++) {
		struct sigaction act = {.sa_sigaction = on_any,
					.sa_flags = SA_SIGINFO | (sig & 1 ? SA_ONSTACK : 0)};
		if (sigaction(sig, &act, NULL)) {
			say("signal %d cannot be caught", sig);
			continue;
		}
		seen_sig = 0;
		CHECK(!sigqueue(getpid(), sig, (union sigval){.sival_int = sig * 11}));
		CHECK(seen_sig == sig && seen_value == sig * 11 && seen_on == (sig & 1));
		count++;
	}
	say("%u signals", count);
	/* A queue of real-time signals comes in order, and none is lost. */
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < 20; i++)
		sigqueue(getpid(), SIGRTMIN + 1 - i % 2, (union sigval){.sival_int = i});
	siginfo_t info;
	for (int i = 0; i < 20; i++) {
		CHECK(sigwaitinfo(&set, &info) == (i < 10 ? SIGRTMIN : SIGRTMIN + 1));
		CHECK(info.si_value.sival_int == (i < 10 ? i * 2 + 1 : (i - 10) * 2));
	}
	int fd = signalfd(-1, &set, 0);
	struct signalfd_siginfo si;
	sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 5});
	CHECK(read(fd, &si, sizeof(si)) == sizeof(si) && si.ssi_int == 5);
}

static void on_nested(int sig)
{
	if (++depth < 12)
		raise(sig == SIGUSR1 ? SIGUSR2 : SIGUSR1);
	else
		siglongjmp(jump, 7);
}
static void on_jump(int sig)
{
	siglongjmp(jump, sig);
}

static void store_low(void)
{
	__asm__ volatile("movl $1, 8" ::: "memory");
}

static void overflow(volatile int n)
{
	volatile uint8_t more[512];

	more[0] = (uint8_t)n;
	if (n)
		overflow(n | more[0]);
	more[1] = 0;
}

static void ways_out(void)
{
	struct sigaction act = {.sa_handler = on_nested, .sa_flags = SA_ONSTACK | SA_NODEFER};

	stack_set(0);
	sigaction(SIGUSR1, &act, NULL);
	sigaction(SIGUSR2, &act, NULL);
	for (volatile unsigned i = 0; i < 100; i++) {
		depth = 0;
		int how = sigsetjmp(jump, 1);
		if (!how)
			raise(SIGUSR1);
		CHECK(how == 0 || how == 7);
		CHECK(depth == 12);
	}
	/* The stack overflows; the handler runs on the other one and jumps out. */
	act.sa_handler = on_jump;
	act.sa_flags = SA_ONSTACK;
	sigaction(SIGSEGV, &act, NULL);
	for (volatile unsigned i = 0; i < (quick ? 1 : 5); i++) {
		volatile int how = sigsetjmp(jump, 1);
		if (!how)
			overflow(1);
		CHECK(how == SIGSEGV);
	}
	say("overflow caught");
	/* SS_AUTODISARM: the handler may leave the stack altogether and take signals again. */
	stack_set((int)(1u << 31));
	for (volatile unsigned i = 0; i < 50; i++) {
		int how = sigsetjmp(jump, 1);
		if (!how)
			store_low();
		stack_set((int)(1u << 31));
		CHECK(how == 0 || how == SIGSEGV);
	}
	/* A handler without a usable stack ends the process. */
	pid_t pid = fork();
	int status;
	if (!pid) {
		stack_t off = {.ss_flags = SS_DISABLE};
		sigaltstack(&off, NULL);
		__asm__ volatile("mov $0x10, %%rsp\n\tmovl $0, 0x20" ::: "memory");
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	say("without a stack: SIG%s", signal_short(WIFSIGNALED(status) ? WTERMSIG(status) : 0));
}

static void do_divide(void *p)
{
	__asm__ volatile("xor %%edx, %%edx\n\tdivl (%0)" ::"r"(p) : "eax", "edx");
}
static void do_divide_over(void *p)
{
	__asm__ volatile("mov $5, %%edx\n\tmov $1, %%eax\n\tmov $2, %%ecx\n\tdivl %%ecx" ::"r"(p)
			 : "eax", "ecx", "edx");
}
static void do_ud2(void *p)
{
	(void)p;
	__asm__ volatile("ud2");
}
static void do_int3(void *p)
{
	(void)p;
	__asm__ volatile("int3");
}
static void do_int3_long(void *p)
{
	(void)p;
	__asm__ volatile(".byte 0xcd, 3");
}
static void do_int4(void *p)
{
	(void)p;
	__asm__ volatile("int $4");
}
static void do_int1(void *p)
{
	(void)p;
	__asm__ volatile(".byte 0xf1");
}
static void do_hlt(void *p)
{
	(void)p;
	__asm__ volatile("hlt");
}
static void do_int13(void *p)
{
	(void)p;
	__asm__ volatile("int $0x0d");
}
static void do_in(void *p)
{
	(void)p;
	__asm__ volatile("in $0x80, %%al" ::: "eax");
}
static void do_cli(void *p)
{
	(void)p;
	__asm__ volatile("cli");
}
static void do_cr(void *p)
{
	(void)p;
	__asm__ volatile("mov %%cr0, %%rax" ::: "rax");
}
static void do_dr(void *p)
{
	(void)p;
	__asm__ volatile("mov %%dr7, %%rax" ::: "rax");
}
static void do_dr_write(void *p)
{
	__asm__ volatile("mov %0, %%dr0" ::"r"(p));
}
static void do_msr(void *p)
{
	(void)p;
	__asm__ volatile("mov $0x10, %%ecx\n\trdmsr" ::: "rax", "rcx", "rdx");
}
static void do_invlpg(void *p)
{
	__asm__ volatile("invlpg (%0)" ::"r"(p));
}
static void do_noncanonical(void *p)
{
	(void)p;
	__asm__ volatile("mov (%0), %%rax" ::"r"(UINT64_C(1) << 60) : "rax");
}
static void do_noncanonical_stack(void *p)
{
	(void)p;
	__asm__ volatile("mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\tpop %%rax\n\tmov %%rbx, %%rsp" ::"r"(
			     UINT64_C(1) << 60)
			 : "rax", "rbx");
}
static void do_sse(void *p)
{
	static const uint32_t csr = 0x1d00;
	(void)p;
	__asm__ volatile("ldmxcsr %0\n\txorps %%xmm0, %%xmm0\n\tdivss %%xmm0, %%xmm0" ::"m"(csr)
			 : "xmm0");
}
static void do_x87(void *p)
{
	static const uint16_t cw = 0x37b;
	(void)p;
	__asm__ volatile("fldcw %0\n\tfld1\n\tfldz\n\tfdivrp\n\tfwait" ::"m"(cw));
}
static void do_unaligned(void *p)
{
	__asm__ volatile("movaps 1(%0), %%xmm0" ::"r"(p) : "xmm0");
}
static void do_csr(void *p)
{
	static const uint32_t csr = 0x80000000;
	(void)p;
	__asm__ volatile("ldmxcsr %0" ::"m"(csr));
}
static void do_far(void *p)
{
	static const struct {
		uint64_t ip;
		uint16_t cs;
	} target = {0x1000, 0x7777};
	(void)p;
	__asm__ volatile("rex.w ljmp *%0" ::"m"(target));
}
static void do_segment(void *p)
{
	(void)p;
	__asm__ volatile("mov %0, %%ds" ::"r"(0x4321));
}
static void do_iret(void *p)
{
	(void)p;
	__asm__ volatile("push $0\n\tpush $0\n\tpush $2\n\tpush $0x10\n\tpush $0\n\tiretq");
}
static void do_sysret(void *p)
{
	(void)p;
	__asm__ volatile("sysretq");
}
static void do_lock(void *p)
{
	(void)p;
	__asm__ volatile(".byte 0xf0, 0x90");
}
static void do_long(void *p)
{
	(void)p;
	__asm__ volatile(
	    ".byte "
	    "0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
}

static void faults(void)
{
	static const struct {
		const char *name;
		void (*fn)(void *);
	} rows[] = {{"divide", do_divide},
		    {"divide-over", do_divide_over},
		    {"ud2", do_ud2},
		    {"int3", do_int3},
		    {"int3-long", do_int3_long},
		    {"int4", do_int4},
		    {"int1", do_int1},
		    {"hlt", do_hlt},
		    {"int13", do_int13},
		    {"in", do_in},
		    {"cli", do_cli},
		    {"cr", do_cr},
		    {"dr", do_dr},
		    {"dr-write", do_dr_write},
		    {"msr", do_msr},
		    {"invlpg", do_invlpg},
		    {"noncanonical", do_noncanonical},
		    {"noncanonical-stack", do_noncanonical_stack},
		    {"sse", do_sse},
		    {"x87", do_x87},
		    {"unaligned", do_unaligned},
		    {"mxcsr", do_csr},
		    {"far", do_far},
		    {"segment", do_segment},
		    {"iret", do_iret},
		    {"sysret", do_sysret},
		    {"lock", do_lock},
		    {"long", do_long}};
	static uint64_t zero[4] __attribute__((aligned(32)));

	stack_set(0);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		uint32_t csr = 0x1f80;
		struct caught c = caught_in(rows[i].fn, zero);
		__asm__ volatile("fninit\n\tldmxcsr %0" ::"m"(csr));
		if (rows[i].fn ==
		    do_int1) { /* some hypervisors of hosts leave RIP at the instruction */
			CHECK(c.sig == SIGTRAP && c.reg[REG_TRAPNO] == 1);
			continue;
		}
		say("%s: SIG%s code %d at +%ld address %s trap %ld error %ld", rows[i].name,
		    signal_short(c.sig), c.code,
		    (long)(c.reg[REG_RIP] - (greg_t)(uintptr_t)rows[i].fn),
		    c.addr == (uint64_t)c.reg[REG_RIP] ? "rip"
		    : c.addr			       ? "other"
						       : "0",
		    c.sig ? (long)c.reg[REG_TRAPNO] : 0, c.sig ? (long)c.reg[REG_ERR] : 0);
	}
}

static void on_skip(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
	uc->uc_mcontext.gregs[REG_RIP] += 2;
	uc->uc_mcontext.gregs[REG_RBX] = 1234;
	uc->uc_mcontext.gregs[REG_EFL] |= 1;
	uc->uc_mcontext.fpregs->_xmm[3].element[0] += 5;
	uc->uc_mcontext.fpregs->mxcsr ^= 0x6000;
}
/* A handler that changes the registers of what it interrupted. */
static void changed_context(void)
{
	struct sigaction act = {.sa_sigaction = on_skip, .sa_flags = SA_SIGINFO};
	uint64_t rbx, xmm;
	uint32_t csr;
	uint8_t carry;

	sigaction(SIGILL, &act, NULL);
	for (unsigned i = 0; i < 200; i++) {
		__asm__ volatile("xor %%ebx, %%ebx\n\tmov $100, %%eax\n\tmovq %%rax, "
				 "%%xmm3\n\tud2\n\tsetc %2\n\tmovq %%xmm3, %1\n\tmov %%rbx, %0"
				 : "=r"(rbx), "=r"(xmm), "=r"(carry)::"rax", "rbx", "xmm3");
		__asm__ volatile("stmxcsr %0" : "=m"(csr));
		CHECK(rbx == 1234 && xmm == 105 && carry && (csr & 0x6000) == (i & 1 ? 0 : 0x6000));
	}
}

static volatile unsigned ticks;
static void on_tick(int sig)
{
	(void)sig;
	ticks++;
	__asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0\n\tvmovdqa %%ymm0, %%ymm15\n\tvmovdqa "
			 "%%ymm0, %%ymm7\n\tstd\n\tcld" ::
			     : "xmm0", "xmm7", "xmm15");
}
/* A computation over all registers, interrupted all the time, comes out the same. */
static void under_timers(void)
{
	struct itimerval iv = {{0, 1700}, {0, 1700}};
	struct sigaction act = {.sa_handler = on_tick, .sa_flags = SA_ONSTACK | SA_RESTART};
	uint64_t first = 0;

	stack_set(0);
	sigaction(SIGVTALRM, &act, NULL);
	sigaction(SIGALRM, &act, NULL);
	for (unsigned round = 0; round < 6; round++) {
		uint64_t n = quick ? 100000 : 3000000, sum;
		__asm__ volatile(
		    "mov %1, %%rcx\n\t"
		    "mov $1, %%eax\n\tmov $2, %%ebx\n\tmov $3, %%edx\n\tmov $4, %%esi\n\tmov $5, "
		    "%%edi\n\t"
		    "mov $6, %%r8d\n\tmov $7, %%r9d\n\tmov $8, %%r10d\n\tmov $9, %%r11d\n\tmov "
		    "$10, %%r12d\n\t"
		    "vpxor %%xmm0, %%xmm0, %%xmm0\n\tvpxor %%xmm7, %%xmm7, %%xmm7\n\tvpcmpeqd "
		    "%%ymm15, %%ymm15, %%ymm15\n\tvpsrlq $63, %%ymm15, %%ymm15\n\t"
		    "fninit\n\tfldz\n\tfld1\n\t"
		    "1: add %%rax, %%rbx\n\tadc %%rbx, %%rdx\n\trol $7, %%rdx\n\txor %%rdx, "
		    "%%rsi\n\tsbb %%rsi, %%rdi\n\t"
		    "add %%rdi, %%r8\n\tadc %%r8, %%r9\n\txor %%r9, %%r10\n\tsub %%r10, "
		    "%%r11\n\tsbb %%r11, %%r12\n\tror $3, %%r12\n\t"
		    "add %%r12, %%rax\n\tvpaddq %%ymm15, %%ymm0, %%ymm0\n\tvpaddq %%ymm0, %%ymm7, "
		    "%%ymm7\n\tfadd %%st(0), %%st(1)\n\t"
		    "dec %%rcx\n\tjnz 1b\n\t"
		    "fstp %%st(0)\n\tfistpll -8(%%rsp)\n\txor -8(%%rsp), %%rax\n\t"
		    "vextracti128 $1, %%ymm0, %%xmm1\n\tvmovq %%xmm1, %%rcx\n\txor %%rcx, "
		    "%%rax\n\tvzeroupper\n\tmov %%rax, %0"
		    : "=r"(sum)
		    : "r"(n)
		    : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
		      "cc", "memory", "xmm0", "xmm1", "xmm7", "xmm15");
		if (!round) {
			first = sum;
			say("sum %lx", (unsigned long)sum);
			setitimer(ITIMER_REAL, &iv, NULL);
			setitimer(ITIMER_VIRTUAL, &iv, NULL);
		}
		CHECK(sum == first);
	}
	while (ticks < 3)
		getpid();
}

static volatile int kicks;
static void on_kick(int sig)
{
	(void)sig;
	kicks++;
}
static void *kicker(void *arg)
{
	for (unsigned i = 0; i < (quick ? 200 : 2000); i++)
		pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return NULL;
}
/* A thread showers another with signals while that makes system calls. */
static void showers(void)
{
	pthread_t self = pthread_self(), other;
	struct sigaction act = {.sa_handler = on_kick, .sa_flags = SA_ONSTACK | SA_RESTART};
	int p[2];

	stack_set(0);
	sigaction(SIGUSR1, &act, NULL);
	CHECK(!pipe(p) && !pthread_create(&other, NULL, kicker, &self));
	for (unsigned i = 0; i < (quick ? 200 : 2000); i++) {
		uint32_t v = i, w = 0;
		CHECK(write(p[1], &v, 4) == 4 && read(p[0], &w, 4) == 4 && w == i);
	}
	pthread_join(other, NULL);
	CHECK(kicks > 0);
}

const struct probe probes_signal[] = {
    {"all-signals", all_of_them, 0},
    {"ways-out", ways_out, 0},
    {"faults", faults, 0},
    {"changed-context", changed_context, 0},
    {"under-timers", under_timers, 0},
    {"showers", showers, 0},
    {0},
};
