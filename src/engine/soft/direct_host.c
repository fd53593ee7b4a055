/* direct_host.c: helper processes: making one, letting it run, stopping it for certain.
 *
 * A helper is stopped when its event descriptor says so: only the stub's one system call at its one
 * address can write there, and behind it the stub does nothing but wait. Memory that the helper
 * shares is never evidence: guest code could have written it.
 */
#include "engine/soft/direct.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "engine/soft/direct_stub.h"

#define USER_TOP    UINT64_C(0x7ffffffff000)
#define START_MS    10000
#define KICK_ROUNDS 500 /* of 10 ms */
#define TOLD_LOOKS  50

struct filter {
	struct sock_filter f[128];
	unsigned n;
};

static void put(struct filter *p, uint16_t code, uint32_t k, unsigned jt, unsigned jf)
{
	p->f[p->n++] = (struct sock_filter){code, (uint8_t)jt, (uint8_t)jf, k};
}

#define DATA(field) ((uint32_t)offsetof(struct seccomp_data, field))
#define HIGH	    4u

/* Goes on when the 32 bits at `at` are `value`; else the call is a trap. */
static void need(struct filter *p, uint32_t at, uint32_t value)
{
	put(p, BPF_LD | BPF_W | BPF_ABS, at, 0, 0);
	put(p, BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0);
	put(p, BPF_RET | BPF_K, SECCOMP_RET_TRAP, 0, 0);
}

static void need64(struct filter *p, uint32_t at, uint64_t value)
{
	need(p, at, (uint32_t)value);
	need(p, at + HIGH, (uint32_t)(value >> 32));
}

/* Opens the part for one system call; returns where to note its end. */
static unsigned call_begin(struct filter *p, uint32_t nr, uint64_t ip)
{
	put(p, BPF_LD | BPF_W | BPF_ABS, DATA(nr), 0, 0);
	unsigned at = p->n;
	put(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0);
	need64(p, DATA(instruction_pointer), ip);
	return at;
}

static void call_end(struct filter *p, unsigned at)
{
	put(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
	p->f[at].jf = (uint8_t)(p->n - at - 1);
}

/*
 * Lets through the five calls of the stub at their addresses. mmap and sigreturn ask for the token
 * besides, as guest code can jump to these addresses, too; what it can do with the other three, it
 * does to itself.
 */
static void filter_make(struct filter *p, const struct direct_helper *h)
{
	struct direct_layout at;
	unsigned c;

	memcpy(&at, direct_stub + DIRECT_FILE_OFFSET, sizeof(at));
	p->n = 0;
	need(p, DATA(arch), AUDIT_ARCH_X86_64);
	c = call_begin(p, SYS_rt_sigreturn, h->base + at.leave);
	need64(p, DATA(args[0]), h->token[0]);
	need64(p, DATA(args[1]), h->token[1]);
	need64(p, DATA(args[2]), h->token[2]);
	call_end(p, c);
	c = call_begin(p, SYS_write, h->base + at.tell);
	need64(p, DATA(args[0]), DIRECT_FD_EVENT);
	call_end(p, c);
	c = call_begin(p, SYS_futex, h->base + at.wait);
	need64(p, DATA(args[0]), h->base + DIRECT_CODE_SIZE + offsetof(struct direct_shared, go));
	need64(p, DATA(args[1]), FUTEX_WAIT);
	call_end(p, c);
	c = call_begin(p, SYS_mmap, h->base + at.map);
	need(p, DATA(args[2]) + HIGH, (uint32_t)h->token[0]);
	need(p, DATA(args[3]) + HIGH, (uint32_t)h->token[1]);
	need(p, DATA(args[4]) + HIGH, (uint32_t)h->token[2]);
	call_end(p, c);
	c = call_begin(p, SYS_munmap, h->base + at.unmap);
	call_end(p, c);
	put(p, BPF_RET | BPF_K, SECCOMP_RET_TRAP, 0, 0);
}

/* In a child that shares our memory until it is another program: nothing but system calls. */
static NORETURN void child_exec(const int fds[4], pid_t parent)
{
	static char *const none[] = {NULL};

	/* Without it, a root user that has given its capabilities up would get them back by exec,
	 * and the death signal be forgotten on that account. */
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) /* it has died before that */
		_exit(6);
	/* Where 0 to 3 are to be may be in use by one of the others: first out of the way. */
	int high[4];
	for (unsigned i = 0; i < 4; i++) {
		high[i] = fcntl(fds[i], F_DUPFD, 16);
		if (high[i] < 0)
			_exit(3);
	}
	for (unsigned i = 0; i < 4; i++)
		if (dup2(high[i], (int)i) < 0)
			_exit(3);
	if (syscall(SYS_close_range, 4, ~0u, 0))
		_exit(4);
	/* Signals stay blocked until the program has said what becomes of them. */
	syscall(SYS_execveat, DIRECT_FD_CODE, "", none, none, AT_EMPTY_PATH);
	_exit(5);
}

static int memory_file(const char *name, size_t size)
{
	const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	/* Newer kernels want to be told that it is not, or is, a program. */
	int fd = memfd_create(name, flags | 0x10u /* MFD_EXEC */);

	if (fd < 0)
		fd = memfd_create(name, flags);
	if (fd >= 0 && ftruncate(fd, (off_t)size)) {
		close(fd);
		return -1;
	}
	return fd;
}

enum told { TOLD_NOTHING, TOLD_STOP, TOLD_LIE };

/* What the event descriptor, which is readable, says: that the helper has stopped since its last
 * `go`, or something that only guest code can have told. */
static enum told event_read(const struct direct_helper *h)
{
	uint64_t value;

	if (read(h->event, &value, sizeof(value)) != sizeof(value))
		return TOLD_NOTHING;
	return value == (DIRECT_TOLD | h->go) ? TOLD_STOP : TOLD_LIE;
}

/* Waits for the helper to tell something. It is no more when it tells nothing but `ms` have not
 * passed. */
static enum told wait_told(struct direct_helper *h, int ms)
{
	struct pollfd p[2] = {{.fd = h->event, .events = POLLIN},
			      {.fd = h->pidfd, .events = POLLIN}};

	for (;;) {
		int n = poll(p, 2, ms);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return TOLD_NOTHING;
		if (p[0].revents & POLLIN) {
			enum told t = event_read(h);
			if (t != TOLD_NOTHING)
				return t;
		}
		if (p[1].revents)
			return TOLD_NOTHING;
	}
}

/* The next number for `go`. False: the host has no random numbers. */
static _Bool go_next(struct direct_helper *h)
{
	do {
		if (!h->pooled) {
			if (getrandom(h->pool, sizeof(h->pool), GRND_NONBLOCK) != sizeof(h->pool))
				return 0;
			h->pooled = ARRAY_SIZE(h->pool);
		}
		h->go = h->pool[--h->pooled];
	} while (!h->go);
	return 1;
}

static void descriptors_close(struct direct_helper *h)
{
	if (h->pidfd >= 0)
		close(h->pidfd);
	if (h->event >= 0)
		close(h->event);
	if (h->shared)
		munmap(h->shared, DIRECT_SHARED_SIZE);
	h->shared = NULL;
	h->pidfd = h->event = -1;
	h->pid = 0;
}

static void process_end(const struct direct_helper *h)
{
	siginfo_t info;

	syscall(SYS_pidfd_send_signal, h->pidfd, SIGKILL, NULL, 0);
	while (waitid(P_PIDFD, (id_t)h->pidfd, &info, WEXITED) && errno == EINTR)
		;
}

_Bool direct_helper_ended(const struct direct_helper *h)
{
	struct pollfd p = {.fd = h->pidfd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

void direct_helper_kill(struct direct_helper *h)
{
	if (!h->pid)
		return;
	process_end(h);
	descriptors_close(h);
}

/* Of a process that has ended: has it left the token where the engine had put it with the last
 * `go`? Who lets user code run takes it away first, and user code, which may write there, does not
 * know it. */
static _Bool token_left(const struct direct_helper *h)
{
	return !memcmp(h->shared->token, h->token, sizeof(h->token));
}

/* The beginning of a small file under /proc, with a 0 behind it. */
static _Bool proc_read(const char *dir, int number, const char *name, char *text, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s%d%s", dir, number, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, size - 1);
	close(fd);
	text[MAX(n, 0)] = 0;
	return n > 0;
}

/* What /proc calls the process, which may be another PID namespace's. */
static int number_in_proc(int pidfd)
{
	char text[512];
	const char *at;
	int number = 0;

	if (!proc_read("self/fdinfo/", pidfd, "", text, sizeof(text)) ||
	    !(at = strstr(text, "\nPid:")) || sscanf(at + 5, "%d", &number) != 1)
		return 0;
	return MAX(number, 0);
}

/* All that can be: only while a handler of the stub's runs, which ends with a sigreturn and the
 * token. And whoever has jumped into the stub gets no further there than to a signal of his own,
 * whose frame says so. */
int direct_helper_waits(const struct direct_helper *h)
{
	const uint64_t all = 0x7fffffff & ~BIT64(SIGKILL - 1) & ~BIT64(SIGSTOP - 1);
	char text[1024], *at;
	unsigned long long blocked = 0;

	if (!h->ran) /* it waits in set-up's frame */
		return 1;
	if (!h->number || !proc_read("", h->number, "/stat", text, sizeof(text)) ||
	    !(at = strrchr(text, ')')))
		return -1;
	for (unsigned field = 2; at && field < 32; field++)
		at = strchr(at + 1, ' ');
	if (!at || sscanf(at, "%llu", &blocked) != 1)
		return -1;
	/* The frame is looked at last, as the kernel writes it before it blocks signals. */
	return blocked == all && direct_regs_whole(h);
}

/* No page of the guest's memory in a core, not even where cores go through a pipe, for which the
 * limit that the stub sets need not be allowed. */
static void cores_forbid(const struct direct_helper *h)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/coredump_filter", h->number);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)!write(fd, "0", 1);
	close(fd);
}

static int program_file(int *code)
{
	if (*code >= 0)
		return 0;
	int fd = memory_file("polyvisor-direct", 0);
	if (fd < 0)
		return -errno;
	if (write(fd, direct_stub, sizeof(direct_stub)) != (ssize_t)sizeof(direct_stub)) {
		close(fd);
		return -ENOSPC;
	}
	/* It runs before there is a filter: nobody changes it, whatever he has got hold of. */
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)) {
		int error = errno;
		close(fd);
		return -error;
	}
	*code = fd;
	return 0;
}

static int spawn(struct direct_helper *h, int ram, int shared, int code)
{
	int fds[4] = {ram, shared, h->event, code};
	sigset_t all, old;

	/* No handler of ours may run in the child while it shares our memory. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid_t self = getpid(), pid = vfork();
	if (!pid)
		child_exec(fds, self);
	int error = errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return -error;
	h->pid = pid;
	h->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (h->pidfd < 0) {
		error = errno;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		h->pid = 0;
		return -error;
	}
	h->number = number_in_proc(h->pidfd);
	cores_forbid(h);
	return 0;
}

/* Somewhere in the middle of user space, where programs, heaps and libraries are not; in a 512 GiB
 * of its own, so that one look into the guest's page tables tells whether it is free. */
static uint64_t base_choose(void)
{
	uint64_t r = 0;

	if (getrandom(&r, sizeof(r), GRND_NONBLOCK) != sizeof(r))
		r = (uint64_t)(uintptr_t)&r * UINT64_C(0x9e3779b97f4a7c15);
	return (UINT64_C(64) + r % 80) << 39 | ((r >> 16) & 0x3fffff) << 12;
}

int direct_helper_start(const struct soft_cpu *cpu, struct direct_helper *h, int ram, int *code,
			const char **why)
{
	struct direct_shared *s;
	struct filter filter;
	int fd, rc;

	*h = (struct direct_helper){.pidfd = -1, .event = -1};
	*why = "this CPU, or its kernel, has no FSGSBASE";
	if (!(getauxval(AT_HWCAP2) & BIT32(1)))
		return -ENOTSUP;
	*why = "no memory file";
	rc = program_file(code);
	if (rc)
		return rc;
	fd = memory_file("polyvisor-direct-state", DIRECT_SHARED_SIZE);
	if (fd < 0)
		return -errno;
	s = mmap(NULL, DIRECT_SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	h->shared = s == MAP_FAILED ? NULL : s;
	h->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!h->shared || h->event < 0 ||
	    getrandom(h->token, sizeof(h->token), GRND_NONBLOCK) != sizeof(h->token) ||
	    !go_next(h)) {
		close(fd);
		descriptors_close(h);
		return -ENOMEM;
	}
	h->base = base_choose();
	filter_make(&filter, h);
	memcpy(s->filter, filter.f, filter.n * sizeof(filter.f[0]));
	s->filter_len = (uint16_t)filter.n;
	s->base = h->base;
	s->top = USER_TOP;
	s->parent = getpid();
	s->cpuid_faults = !(cpu && cpu->direct->cpuid_runs);
	atomic_store(&s->go, h->go);
	*why = "a helper process could not be started";
	rc = spawn(h, ram, fd, *code);
	close(fd);
	if (rc) {
		descriptors_close(h);
		return rc;
	}
	_Bool stopped = wait_told(h, START_MS) == TOLD_STOP;
	if (!stopped || s->setup_error) {
		rc = stopped ? s->setup_error : -ECHILD;
		*why = !stopped		    ? "a helper process ended while it started"
		       : s->setup_step == 6 ? "the host refuses seccomp filters"
					    : "a helper process could not set itself up";
		direct_helper_kill(h);
		return rc;
	}
	memset(s->filter, 0, sizeof(s->filter));
	h->cpuid_faults = !!s->cpuid_faults;
	h->frame = s->out_frame - h->base - DIRECT_CODE_SIZE;
	if (direct_regs_learn(cpu, h)) {
		*why = "this CPU, or its kernel, does not have all vector registers of the guest";
		direct_helper_kill(h);
		return -ENOTSUP;
	}
	return 0;
}

/* Returns whether it had to be woken. */
static _Bool helper_go(struct soft_cpu *cpu, struct direct_helper *h)
{
	struct direct_shared *s = h->shared;

	s->frame = h->base + DIRECT_CODE_SIZE + h->frame;
	h->ran = 1;
	direct_core_enter(cpu, h);
	direct_spin_enter(cpu, h);
	/* The token comes after all that it is given for. */
	for (unsigned i = 0; i < ARRAY_SIZE(h->token); i++)
		__atomic_store_n(&s->token[i], h->token[i], __ATOMIC_RELEASE);
	atomic_store(&s->go, h->go);
	if (!atomic_load(&s->asleep))
		return 0;
	syscall(SYS_futex, &s->go, FUTEX_WAKE, 1, NULL, NULL, 0);
	return 1;
}

void direct_kick(struct soft_cpu *cpu)
{
	struct soft_direct *d = cpu->direct;

	atomic_fetch_add(&d->kicks, 1);
	int running = atomic_load(&d->running);
	if (running)
		syscall(SYS_pidfd_send_signal, running - 1, SIGUSR1, NULL, 0);
	atomic_fetch_sub(&d->kicks, 1);
}

_Bool direct_helper_run(struct soft_cpu *cpu, struct direct_helper *h, const struct direct_op *op,
			unsigned ops)
{
	struct soft_direct *d = cpu->direct;
	enum told told = TOLD_NOTHING;

	if (!go_next(h)) {
		direct_helper_kill(h);
		return 0;
	}
	memcpy(h->shared->op, op, ops * sizeof(*op));
	h->shared->ops = ops;
	atomic_store(&d->running, h->pidfd + 1);
	/* Who raises an event then looks at `running`; we look at events now. A signal to a helper
	 * that still waits is taken when it goes. */
	if (atomic_load(&cpu->base.link.events))
		direct_kick(cpu);
	_Bool slow = helper_go(cpu, h);
	/* It says so a moment before it can be read that it does. */
	if (direct_spin_wait(cpu, h))
		for (unsigned i = 0; i < TOLD_LOOKS && told == TOLD_NOTHING; i++)
			told = event_read(h);
	direct_spin_crossed(cpu, slow || told == TOLD_NOTHING);
	for (unsigned rounds = 0; told == TOLD_NOTHING;) {
		told = wait_told(h, 10);
		if (told != TOLD_NOTHING || direct_helper_ended(h))
			break;
		/* The kick may have come before the last signal was handled; and who does not react
		 * to any has got hold of its signal mask. */
		if (atomic_load(&cpu->base.link.events)) {
			direct_kick(cpu);
			if (++rounds > KICK_ROUNDS)
				break;
		}
	}
	atomic_store(&d->running, 0);
	/* From here on the descriptor may be closed, and its number be another process's. */
	while (atomic_load(&d->kicks))
		sched_yield();
	if (told == TOLD_STOP)
		return 1;
	process_end(h);
	/* What is not true is told by user code that has run, and that is at its end by it. */
	_Bool has_run = told == TOLD_LIE || !token_left(h);
	descriptors_close(h);
	return has_run;
}
