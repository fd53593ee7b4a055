/* direct_stub.c: the program of a helper process: sets itself up, then only moves between guest
 * code and the engine.
 *
 * It is an executable of its own, without a library and independent of where it lies. Guest code
 * runs in this very address space with these very rights, so the code trusts nothing that guest
 * code could have changed, except that what it does then may harm the guest's process alone. It
 * touches no vector register: those are the guest's.
 *
 * The token's rule: it is in memory from the engine's `go` to the return into guest code, and in
 * registers only within one asm statement that clears them, so that it never gets onto a stack.
 *
 * The tell's rule: guest code can jump to the system call that tells the engine of a stop, with any
 * registers, any memory and signals open. So what stands behind that call takes nothing from
 * registers, not even its stack; a `go` that guest code has forged gets it no further than to a
 * system call without the token; and what it tells is what it found in `go`, which the engine makes
 * another number each time, so that a stop that is told twice is not taken for the next one.
 *
 * The way back: from the stub's calls no way leads to guest code but sigreturn with the token:
 * behind them there is no return and no indirect jump. So who has jumped there stays in the stub,
 * and the host's kernel can be asked whether that has happened (direct_helper_waits).
 */
#include <asm/prctl.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "engine/soft/direct_abi.h"

#define HIDDEN __attribute__((visibility("hidden")))

/* Laid out by the linker script: the shared part, DIRECT_CODE_SIZE behind the first byte of code.
 */
extern HIDDEN uint8_t direct_code[];
extern HIDDEN struct direct_shared direct_shared;

struct kernel_action {
	void (*handler)(void);
	uint64_t flags;
	void (*restorer)(void);
	uint64_t mask;
};
#define SA_SIGINFO_  4u
#define SA_ONSTACK_  0x08000000u
#define SA_RESTORER_ 0x04000000u

struct kernel_stack {
	void *sp;
	int flags;
	uint64_t size;
};

static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#define CALL(n, a, b, c, d, e) call6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* One operation on the address space, with the token in the upper halves of arguments whose upper
 * halves the kernel ignores (mmap) or in arguments it has not (munmap). */
static inline __attribute__((always_inline)) long op_run(const struct direct_shared *s,
							 const struct direct_op *op)
{
	uint64_t offset = op->offset & ~DIRECT_POPULATE;
	uint64_t flags = MAP_SHARED | MAP_FIXED;
	long ret;

	if (op->offset & DIRECT_POPULATE)
		flags |= MAP_POPULATE;
	if (!op->prot) {
		__asm__ volatile("syscall\n\t"
				 ".globl direct_at_unmap\n"
				 "direct_at_unmap:"
				 : "=a"(ret)
				 : "a"((long)SYS_munmap), "D"(op->addr), "S"(op->len)
				 : "rcx", "r11", "memory");
		return ret;
	}
	__asm__ volatile(
	    "mov %[offset], %%r9\n\t"
	    "mov %[t0], %%rdx\n\t"
	    "shl $32, %%rdx\n\t"
	    "or %[prot], %%rdx\n\t"
	    "mov %[t1], %%r10\n\t"
	    "shl $32, %%r10\n\t"
	    "or %[flags], %%r10\n\t"
	    "mov %[t2], %%r8\n\t"
	    "shl $32, %%r8\n\t" /* the descriptor is 0 */
	    "syscall\n\t"
	    ".globl direct_at_map\n"
	    "direct_at_map:\n\t"
	    "xor %%edx, %%edx\n\t"
	    "xor %%r10d, %%r10d\n\t"
	    "xor %%r8d, %%r8d"
	    : "=a"(ret)
	    : "a"((long)SYS_mmap), "D"(op->addr),
	      "S"(op->len), [prot] "m"(op->prot), [offset] "m"(offset), [flags] "m"(flags),
	      [t0] "m"(s->held[0]), [t1] "m"(s->held[1]), [t2] "m"(s->held[2])
	    : "rdx", "r10", "r8", "r9", "rcx", "r11", "memory");
	return ret;
}

/* Guest-physical addresses are nothing for user code, its own or the next one's. */
static inline void op_wipe(struct direct_op *op)
{
	*op = (struct direct_op){0, 0, 0, 0};
}

/* Tells the engine of a stop, and waits. Only from this address may the descriptor be written: that
 * it was shows that this process is in direct_go, not in guest code. */
static inline __attribute__((noreturn)) void engine_tell(struct direct_shared *s)
{
	s->one = DIRECT_TOLD | atomic_exchange(&s->go, 0);
	__asm__ volatile("mov %[nr], %%eax\n\t"
			 "mov %[fd], %%edi\n\t"
			 "lea direct_shared+%c[one](%%rip), %%rsi\n\t"
			 "mov $8, %%edx\n\t"
			 "syscall\n\t"
			 ".globl direct_at_tell\n"
			 "direct_at_tell:\n\t"
			 "lea direct_shared+%c[stack](%%rip), %%rsp\n\t"
			 "jmp direct_go" ::[nr] "i"(SYS_write),
			 [fd] "i"(DIRECT_FD_EVENT), [one] "i"(offsetof(struct direct_shared, one)),
			 [stack] "i"(DIRECT_STACK - 8)
			 : "memory");
	__builtin_unreachable();
}

static inline void engine_wait(struct direct_shared *s)
{
	/* Who has forged `spin` does not look for longer either. */
	for (uint32_t i = 0; i < DIRECT_SPIN_MAX && i < atomic_load(&s->spin); i++) {
		if (atomic_load(&s->go))
			return;
		__asm__ volatile("pause");
	}
	atomic_store(&s->asleep, 1);
	while (!atomic_load(&s->go)) {
		register long r10 __asm__("r10") = 0;
		long ret;
		__asm__ volatile("syscall\n\t"
				 ".globl direct_at_wait\n"
				 "direct_at_wait:"
				 : "=a"(ret)
				 : "a"((long)SYS_futex), "D"(&s->go), "S"((long)FUTEX_WAIT),
				   "d"(0l), "r"(r10)
				 : "rcx", "r11", "memory");
	}
	atomic_store_explicit(&s->asleep, 0, memory_order_relaxed);
}

/* Takes the token over: what is done from here on, it was given for. It is read before anything
 * else that came with it, as the engine writes it after that. */
static inline void token_take(struct direct_shared *s)
{
	__asm__ volatile(
	    "mov %[t0], %%rax\n\t"
	    "mov %%rax, %[h0]\n\t"
	    "mov %[t1], %%rax\n\t"
	    "mov %%rax, %[h1]\n\t"
	    "mov %[t2], %%rax\n\t"
	    "mov %%rax, %[h2]\n\t"
	    "xor %%eax, %%eax\n\t"
	    "mov %%rax, %[t0]\n\t"
	    "mov %%rax, %[t1]\n\t"
	    "mov %%rax, %[t2]"
	    : [h0] "=m"(s->held[0]), [h1] "=m"(s->held[1]), [h2] "=m"(s->held[2]),
	      [t0] "+m"(s->token[0]), [t1] "+m"(s->token[1]), [t2] "+m"(s->token[2])::"rax",
	      "memory");
}

/* Waits for the engine, does what it says, and returns into guest code. */
HIDDEN __attribute__((noreturn, used)) void direct_go(void)
{
	struct direct_shared *s = &direct_shared;
	const uint64_t region = (uint64_t)(uintptr_t)direct_code;
	uint32_t ops, i;
	long rc = 0;

	engine_wait(s);
	token_take(s);
	ops = s->ops;
	for (i = 0; i < ops && i < DIRECT_OPS; i++) {
		struct direct_op *op = &s->op[i];
		/* What the token is used on is never replaced: the engine does not ask for it. */
		rc = op->prot && op->addr < region + DIRECT_REGION && op->addr + op->len > region
			 ? -EINVAL
			 : op_run(s, op);
		op_wipe(op);
		if (rc < 0 && rc > -4096) {
			s->out_failed = i + 1;
			s->out_error = (int32_t)rc;
			s->held[0] = s->held[1] = s->held[2] = 0;
			while (++i < ops && i < DIRECT_OPS)
				op_wipe(&s->op[i]);
			engine_tell(s);
		}
	}
	/* The engine only lets go of code whose selectors are null. */
	if (s->out_sel[0] | s->out_sel[1] | s->out_sel[2] | s->out_sel[3])
		__asm__ volatile("mov %0, %%ds\n\t"
				 "mov %0, %%es\n\t"
				 "mov %0, %%fs\n\t"
				 "mov %0, %%gs" ::"r"(0));
	__asm__ volatile("wrfsbase %0" ::"r"(s->fs_base));
	__asm__ volatile("wrgsbase %0" ::"r"(s->gs_base));
	/* Not the frame's: sigreturn leaves them as they are. */
	__asm__ volatile("pushf\n\t"
			 "andl %1, (%%rsp)\n\t"
			 "or %0, (%%rsp)\n\t"
			 "popf" ::"r"((uint64_t)s->flags & DIRECT_FLAGS),
			 "i"(~(int32_t)DIRECT_FLAGS)
			 : "memory", "cc");
	__asm__ volatile("mov %[frame], %%rsp\n\t"
			 "mov %[t0], %%rdi\n\t"
			 "mov %[t1], %%rsi\n\t"
			 "mov %[t2], %%rdx\n\t"
			 "movq $0, %[t0]\n\t"
			 "movq $0, %[t1]\n\t"
			 "movq $0, %[t2]\n\t"
			 "mov %[nr], %%eax\n\t"
			 "syscall\n\t"
			 ".globl direct_at_return\n"
			 "direct_at_return:\n\t"
			 "ud2" ::[frame] "r"(s->frame + 8),
			 [t0] "m"(s->held[0]), [t1] "m"(s->held[1]), [t2] "m"(s->held[2]),
			 [nr] "i"(SYS_rt_sigreturn)
			 : "memory");
	__builtin_unreachable();
}

/* Every signal arrives here, with `frame` the kernel's signal frame. */
HIDDEN __attribute__((noreturn, used)) void direct_signal(uint64_t frame, uint64_t signal)
{
	struct direct_shared *s = &direct_shared;
	uint64_t base;

	__asm__ volatile("rdfsbase %0" : "=r"(base));
	s->out_fs_base = base;
	__asm__ volatile("rdgsbase %0" : "=r"(base));
	s->out_gs_base = base;
	__asm__ volatile("mov %%ds, %0" : "=m"(s->out_sel[0]));
	__asm__ volatile("mov %%es, %0" : "=m"(s->out_sel[1]));
	__asm__ volatile("mov %%fs, %0" : "=m"(s->out_sel[2]));
	__asm__ volatile("mov %%gs, %0" : "=m"(s->out_sel[3]));
	s->out_frame = frame;
	s->out_signal = (uint32_t)signal;
	s->out_failed = 0;
	engine_tell(s);
}

/* A signal frame begins with the return address that the kernel was given. The AC flag is still as
 * guest code had it. */
__asm__(".globl direct_entry\n"
	".hidden direct_entry\n"
	"direct_entry:\n\t"
	"mov %rdi, %rsi\n\t"
	"mov %rsp, %rdi\n\t"
	"and $-16, %rsp\n\t"
	"pushf\n\t"
	"andl $~0x40000, (%rsp)\n\t"
	"popf\n\t"
	"call direct_signal\n");
extern HIDDEN void direct_entry(void);

static __attribute__((noreturn)) void setup_failed(struct direct_shared *s, unsigned step, long rc)
{
	s->setup_step = step;
	s->setup_error = (int32_t)rc;
	s->one = DIRECT_TOLD | atomic_load(&s->go);
	CALL(SYS_write, DIRECT_FD_EVENT, &s->one, 8, 0, 0);
	for (;;)
		CALL(SYS_exit_group, 1, 0, 0, 0, 0);
}

#define SIGNAL(n) (UINT64_C(1) << ((n)-1))
#define SIGNALS	  64u
/* ILL TRAP BUS FPE USR1 SEGV SYS: user code's own, and the kick. */
#define HANDLED                                                                                    \
	(SIGNAL(4) | SIGNAL(5) | SIGNAL(7) | SIGNAL(8) | SIGNAL(10) | SIGNAL(11) | SIGNAL(31))
/* KILL CONT STOP TSTP TTIN TTOU: who stops all processes of a VM stops this one, too. */
#define KEPT (SIGNAL(9) | SIGNAL(18) | SIGNAL(19) | SIGNAL(20) | SIGNAL(21) | SIGNAL(22))

/* What is meant for the VM often comes to all its processes: it ends, and they with it, or it does
 * not. So nothing of that kind is for a helper. They are blocked yet, and are until user code runs,
 * but for the one that the first frame comes from. */
static long signals_setup(void)
{
	uint64_t mask = ~SIGNAL(4);
	long rc = 0;

	for (unsigned n = 1; n <= SIGNALS && !rc; n++) {
		struct kernel_action action = {
		    .handler = direct_entry,
		    .flags = SA_SIGINFO_ | SA_ONSTACK_ | SA_RESTORER_,
		    .restorer = direct_entry,
		    .mask = ~UINT64_C(0),
		};
		if (SIGNAL(n) & KEPT)
			continue;
		if (!(SIGNAL(n) & HANDLED)) {
			action.handler = (void (*)(void))1; /* ignored */
			action.flags = SA_RESTORER_;
		}
		rc = CALL(SYS_rt_sigaction, n, &action, 0, 8, 0);
	}
	return rc ? rc : CALL(SYS_rt_sigprocmask, 2, &mask, 0, 8, 0); /* SIG_SETMASK */
}

/* Runs where the region is to be, on a stack of its own. */
HIDDEN __attribute__((noreturn, used)) void direct_setup(void)
{
	struct direct_shared *s = &direct_shared;
	uint64_t begin = s->base, end = begin + DIRECT_REGION;
	struct sock_fprog program = {.len = s->filter_len,
				     .filter = (struct sock_filter *)(uintptr_t)s->filter};
	struct kernel_stack stack = {.sp = (uint8_t *)s + DIRECT_STACK,
				     .size = DIRECT_SHARED_SIZE - DIRECT_STACK};
	const struct rlimit64 core = {1, 1};
	long rc;

	CALL(SYS_prctl, PR_SET_PDEATHSIG, 9, 0, 0, 0);
	if (CALL(SYS_getppid, 0, 0, 0, 0, 0) != s->parent)
		CALL(SYS_exit_group, 6, 0, 0, 0, 0);
	rc = CALL(SYS_munmap, 0, begin, 0, 0, 0);
	if (!rc)
		rc = CALL(SYS_munmap, end, s->top - end, 0, 0, 0);
	if (rc)
		setup_failed(s, 1, rc);
	rc = CALL(SYS_sigaltstack, &stack, 0, 0, 0, 0);
	if (rc)
		setup_failed(s, 2, rc);
	rc = signals_setup();
	if (rc)
		setup_failed(s, 3, rc);
	rc = CALL(SYS_prctl, PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
	if (rc)
		setup_failed(s, 4, rc);
	/* What is not needed any more cannot be used by anybody. */
	CALL(SYS_close, DIRECT_FD_SHARED, 0, 0, 0, 0);
	CALL(SYS_close, DIRECT_FD_CODE, 0, 0, 0, 0);
	if (s->cpuid_faults)
		/* What answers all that it does not know with 0 has not made it fault. */
		s->cpuid_faults = CALL(SYS_arch_prctl, ARCH_GET_CPUID, 0, 0, 0, 0) == 1 &&
				  !CALL(SYS_arch_prctl, ARCH_SET_CPUID, 0, 0, 0, 0) &&
				  !CALL(SYS_arch_prctl, ARCH_GET_CPUID, 0, 0, 0, 0);
	/* No core of the guest's memory, not even through a pipe. Not dumpable is more than that:
	 * it would keep the engine from setting breakpoints. */
	CALL(SYS_prlimit64, 0, RLIMIT_CORE, &core, 0, 0);
	/* What is outside of the code below becomes a signal before anything else is asked: newer
	 * kernels answer a few calls without asking the filter. Older ones have not got this; the
	 * filter is what the guest's isolation rests on. */
	CALL(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, begin, DIRECT_CODE_SIZE,
	     0);
	rc = CALL(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (rc)
		setup_failed(s, 5, rc);
	rc = CALL(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program, 0,
		  0);
	if (rc)
		setup_failed(s, 6, rc);
	for (;;) /* the first signal frame */
		__asm__ volatile("ud2");
}

HIDDEN __attribute__((noreturn, used)) void direct_begin(void)
{
	long at = CALL(SYS_mmap, 0, DIRECT_SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
		       DIRECT_FD_SHARED);
	struct direct_shared *s = (struct direct_shared *)at;
	uint64_t base;
	long rc;

	if (at < 0 && at > -4096)
		CALL(SYS_exit_group, 2, 0, 0, 0, 0);
	base = s->base;
	/* The code's pages of this very executable, whose first bytes are direct_code. */
	rc = call6(SYS_mmap, (long)base, DIRECT_CODE_SIZE, PROT_READ | PROT_EXEC,
		   MAP_PRIVATE | MAP_FIXED_NOREPLACE, DIRECT_FD_CODE, DIRECT_FILE_OFFSET);
	if (rc != (long)base)
		setup_failed(s, 7, rc);
	rc = call6(SYS_mmap, (long)(base + DIRECT_CODE_SIZE), DIRECT_SHARED_SIZE,
		   PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, DIRECT_FD_SHARED, 0);
	if (rc != (long)(base + DIRECT_CODE_SIZE))
		setup_failed(s, 8, rc);
	__asm__ volatile("lea direct_setup(%%rip), %%rax\n\t"
			 "lea direct_code(%%rip), %%rcx\n\t"
			 "sub %%rcx, %%rax\n\t"
			 "add %0, %%rax\n\t"
			 "mov %1, %%rsp\n\t"
			 "jmp *%%rax" ::"r"(base),
			 "r"(base + DIRECT_CODE_SIZE + DIRECT_STACK - 8)
			 : "rax", "rcx", "memory");
	__builtin_unreachable();
}

__asm__(".globl _start\n"
	"_start:\n\t"
	"xor %ebp, %ebp\n\t"
	"and $-16, %rsp\n\t"
	"call direct_begin\n");
