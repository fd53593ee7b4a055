/* threads.c: probes of several threads at once: atomics of every width, locks that sleep, code made
 * for each other, memory protected, unmapped and copied under each other's hands, signals in tight
 * loops. */
#define _GNU_SOURCE
#include "uspace.h"
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4

static unsigned scaled(unsigned n)
{
	return quick ? n / 10 : n;
}

/* Runs fn in `n` threads, each with its number; any of them but the caller's may end by itself. */
static void in_threads(unsigned n, void *(*fn)(void *))
{
	pthread_t thread[THREADS];

	for (uintptr_t i = 0; i < n; i++)
		CHECK(!pthread_create(&thread[i], NULL, fn, (void *)i));
	for (unsigned i = 0; i < n; i++)
		CHECK(!pthread_join(thread[i], NULL));
}

/* Atomics */

static struct {
	_Alignas(64) uint8_t b8;
	uint16_t b16;
	uint32_t b32;
	uint64_t b64, swapped;
	_Alignas(16) uint64_t pair[2];
	_Alignas(64) uint8_t split[128];
} shared;

static void *count_all(void *arg)
{
	unsigned n = scaled(40000);

	for (unsigned i = 0; i < n; i++) {
		uint64_t old = shared.swapped, lo = shared.pair[0], hi = shared.pair[1];
		uint32_t five = 5;
		_Bool done;

		__asm__ volatile("lock incb %0" : "+m"(shared.b8));
		__asm__ volatile("lock addw $3, %0" : "+m"(shared.b16));
		__asm__ volatile("lock xaddl %1, %0" : "+m"(shared.b32), "+r"(five));
		__asm__ volatile("lock subq $-7, %0" : "+m"(shared.b64));
		do
			__asm__ volatile("lock cmpxchgq %3, %1; sete %2"
					 : "+a"(old), "+m"(shared.swapped), "=q"(done)
					 : "r"(old + 1));
		while (!done);
		do
			__asm__ volatile("lock cmpxchg16b %0; sete %1"
					 : "+m"(shared.pair), "=q"(done), "+a"(lo), "+d"(hi)
					 : "b"(lo + 1), "c"(hi - 1));
		while (!done);
		if ((uintptr_t)arg < 2 && i < 500) /* a lock over two lines stops the machine */
			__asm__ volatile("lock incq %0"
					 : "+m"(*(uint64_t *)(void *)(shared.split + 60)));
	}
	return NULL;
}

static void atomics(void)
{
	uint64_t n = THREADS * (uint64_t)scaled(40000), split;

	in_threads(THREADS, count_all);
	memcpy(&split, shared.split + 60, 8);
	CHECK(shared.b8 == (uint8_t)n && shared.b16 == (uint16_t)(3 * n));
	CHECK(shared.b32 == (uint32_t)(5 * n) && shared.b64 == 7 * n && shared.swapped == n);
	CHECK(shared.pair[0] == n && shared.pair[1] == -n);
	CHECK(split == 1000);
}

/* A lock of XCHG that spins and yields, and one of the C library's that sleeps. */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static volatile uint32_t spin_word;
static uint64_t under_spin, under_mutex;
static unsigned next_turn;

static void *lock_all(void *arg)
{
	for (unsigned i = 0; i < scaled(10000); i++) {
		uint32_t v;

		for (unsigned tries = 1;; tries++) {
			v = 1;
			__asm__ volatile("xchg %0, %1" : "+r"(v), "+m"(spin_word)::"memory");
			if (!v)
				break;
			if (tries % 64 == 0)
				sched_yield();
			else
				__asm__ volatile("pause");
		}
		under_spin++;
		__asm__ volatile("" ::: "memory");
		spin_word = 0;
		pthread_mutex_lock(&mutex);
		under_mutex++;
		pthread_mutex_unlock(&mutex);
	}
	for (unsigned i = 0; i < scaled(2000); i++) { /* in turn: a futex wakes each */
		pthread_mutex_lock(&mutex);
		while (next_turn % THREADS != (uintptr_t)arg)
			pthread_cond_wait(&changed, &mutex);
		next_turn++;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

static void locks(void)
{
	in_threads(THREADS, lock_all);
	CHECK(under_spin == (uint64_t)THREADS * scaled(10000) && under_mutex == under_spin);
	CHECK(next_turn == THREADS * scaled(2000));
}

/* Dekker's pattern, one side without a fence of its own: membarrier() is one on both. */

static volatile uint32_t flag_a, flag_b, saw_a, saw_b;
static atomic_uint barrier_round, barrier_done;
static void *fast_side(void *arg)
{
	(void)arg;
	for (unsigned i = 1; i <= scaled(3000); i++) {
		while (barrier_round != i)
			sched_yield();
		flag_a = 1;
		__asm__ volatile("" ::: "memory");
		saw_b = flag_b;
		barrier_done = i;
	}
	return NULL;
}

static void barriers(void)
{
	pthread_t thread;

	CHECK(!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
	CHECK(!pthread_create(&thread, NULL, fast_side, NULL));
	for (unsigned i = 1; i <= scaled(3000); i++) {
		flag_a = flag_b = saw_a = saw_b = 0;
		barrier_round = i;
		flag_b = 1;
		CHECK(!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
		saw_a = flag_a;
		while (barrier_done != i)
			sched_yield();
		CHECK(saw_a || saw_b);
	}
	CHECK(!pthread_join(thread, NULL));
}

/* Code: two threads write functions and call the other's, each in memory that is writable or
 * executable in turn. */

#define SLOTS 64
static uint8_t *code_write, *code_run;
static _Atomic(uint32_t) published[2]; /* how many functions each has written */

static void *write_and_call(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg, other = !me;
	uint32_t called = 0, n = scaled(40000);

	for (uint32_t i = 0; i < n || called < n;) {
		/* not more than half the slots ahead of who calls them */
		if (i < n && i < called + SLOTS / 2) {
			uint8_t *at = code_write + me * PAGE + i % SLOTS * 64;

			at[0] = 0xb8;
			memcpy(at + 1, &i, 4);
			at[5] = 0xc3;
			published[me] = ++i;
		}
		if (called < published[other]) {
			uint32_t (*fn)(void) = (uint32_t(*)(void))(
			    uintptr_t)(code_run + other * PAGE + called % SLOTS * 64);
			uint32_t r[4] = {0};

			__asm__ volatile("cpuid"
					 : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]),
					   "=d"(r[3])::"memory");
			CHECK(fn() == called);
			called++;
		}
	}
	return NULL;
}

static void code_for_each_other(void)
{
	int fd = memory_file(2 * PAGE);

	code_write = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	code_run = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	CHECK(code_write != MAP_FAILED && code_run != MAP_FAILED);
	in_threads(2, write_and_call);
}

/* Memory that loses rights, or goes, while other threads use it: their faults wait for its return.
 */

static uint8_t *volatile contested;
static atomic_uint away, worked;
static atomic_int over;
static void on_loss(int sig, siginfo_t *info, void *context)
{
	int saved = errno;

	(void)sig;
	(void)context;
	if ((uintptr_t)info->si_addr - (uintptr_t)contested >= 4 * PAGE)
		_exit(2);
	while (away && !over)
		sched_yield();
	errno = saved;
}

static void *work_on_pages(void *arg)
{
	volatile uint64_t *mine = (volatile uint64_t *)(void *)(contested + 64 * (uintptr_t)arg);

	while (!over) {
		for (unsigned page = 0; page < 4; page++)
			mine[page * PAGE / 8]++;
		worked++;
	}
	return NULL;
}

static void lose_pages(int unmap)
{
	struct sigaction act = {.sa_sigaction = on_loss, .sa_flags = SA_SIGINFO | SA_NODEFER};
	int fd = memory_file(4 * PAGE);
	pthread_t thread[3];

	contested = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	const uint64_t *view = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(contested != MAP_FAILED && view != MAP_FAILED);
	sigaction(SIGSEGV, &act, NULL);
	for (uintptr_t i = 0; i < 3; i++)
		CHECK(!pthread_create(&thread[i], NULL, work_on_pages, (void *)i));
	for (unsigned i = 0; i < scaled(1500); i++) {
		uint64_t before[3];

		away = 1;
		if (!unmap)
			CHECK(!mprotect(contested, 4 * PAGE, i & 1 ? PROT_READ : PROT_NONE));
		else /* nothing is there, but the place stays ours */
			CHECK(mmap(contested, 4 * PAGE, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == contested);
		for (unsigned k = 0; k < 3; k++)
			before[k] = *(volatile const uint64_t *)&view[8 * k];
		sched_yield();
		for (unsigned k = 0; k < 3; k++)
			CHECK(*(volatile const uint64_t *)&view[8 * k] == before[k]);
		if (!unmap)
			CHECK(!mprotect(contested, 4 * PAGE, PROT_READ | PROT_WRITE));
		else
			CHECK(mmap(contested, 4 * PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_FIXED, fd, 0) == contested);
		away = 0;
		unsigned from = worked;
		while (worked == from)
			sched_yield();
	}
	over = 1;
	for (unsigned i = 0; i < 3; i++)
		CHECK(!pthread_join(thread[i], NULL));
	for (unsigned k = 0; k < 3; k++) /* no addition was lost or made twice */
		for (unsigned page = 1; page < 4; page++)
			CHECK(view[8 * k] == view[8 * k + page * PAGE / 8]);
}

static void rights_lost(void)
{
	lose_pages(0);
}

static void pages_lost(void)
{
	lose_pages(1);
}

/* fork() under threads that write: the child's memory stays as it is. */

static void copies(void)
{
	pthread_t thread[3];

	contested = map_rw(4 * PAGE);
	for (uintptr_t i = 0; i < 3; i++)
		CHECK(!pthread_create(&thread[i], NULL, work_on_pages, (void *)i));
	for (unsigned i = 0; i < scaled(300); i++) {
		int status;
		pid_t pid = fork();

		if (!pid) {
			const volatile uint64_t *word =
			    (const volatile uint64_t *)(void *)contested;
			uint64_t seen[3][4];

			for (unsigned k = 0; k < 12; k++)
				seen[k / 4][k % 4] = word[k / 4 * 8 + k % 4 * PAGE / 8];
			for (unsigned k = 0; k < 12; k++) {
				/* in order: a later page is at most one behind */
				if (seen[k / 4][0] - seen[k / 4][k % 4] > 1)
					_exit(3);
				if (word[k / 4 * 8 + k % 4 * PAGE / 8] != seen[k / 4][k % 4])
					_exit(4);
			}
			memset(contested, 0xee, 4 * PAGE); /* its own */
			_exit(0);
		}
		CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
		unsigned from = worked;
		while (worked == from)
			sched_yield();
	}
	over = 1;
	for (unsigned i = 0; i < 3; i++)
		CHECK(!pthread_join(thread[i], NULL));
	for (unsigned k = 0; k < 3; k++)
		CHECK(*(uint64_t *)(void *)(contested + 64 * k) ==
		      *(uint64_t *)(void *)(contested + 64 * k + 3 * PAGE));
}

/* Signals in tight loops: registers as at some instruction's start, and the loop goes on. */

static volatile uint64_t cut_count, cut_wrong;
static void on_cut(int sig, siginfo_t *info, void *context)
{
	const greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint64_t done, sum, rip = (uint64_t)r[REG_RIP];
	extern const char cut_first[], cut_last[];

	(void)sig;
	(void)info;
	if (rip < (uintptr_t)cut_first || rip > (uintptr_t)cut_last)
		return;
	/* r8 goes up, then r12 down, then r9 up by 3 */
	done = (uint64_t)r[REG_R8];
	if ((uint64_t)r[REG_R12] != -done && (uint64_t)r[REG_R12] != -(done - 1))
		cut_wrong++;
	sum = (uint64_t)r[REG_R9];
	if (sum != 3 * done && sum != 3 * (done - 1))
		cut_wrong++;
	if ((uint64_t)r[REG_RBX] != 0x1122334455667788)
		cut_wrong++;
	cut_count++;
}

static volatile uint32_t loops_end;
static void *loop_for_signals(void *arg)
{
	uint64_t n = 0, sum = 0, down = 0;

	(void)arg;
	while (!loops_end) {
		__asm__ volatile("xor %%r8d, %%r8d; xor %%r9d, %%r9d; xor %%r12d, %%r12d\n"
				 "movabs $0x1122334455667788, %%rbx\n"
				 "mov $20000, %%ecx\n"
				 "cut_first: .globl cut_first\n"
				 /* C keeps what it likes below the stack pointer */
				 "sub $128, %%rsp\n"
				 "1: inc %%r8; dec %%r12; call 2f; jmp 3f\n"
				 "2: lea 3(%%r9), %%r9; ret\n"
				 "3: dec %%ecx; jnz 1b\n"
				 "add $128, %%rsp\n"
				 "cut_last: .globl cut_last\n"
				 "mov %%r8, %0; mov %%r9, %1; mov %%r12, %2\n"
				 : "=r"(n), "=r"(sum), "=r"(down)
				 :
				 : "rbx", "rcx", "r8", "r9", "r12", "memory", "cc");
		CHECK(n == 20000 && sum == 60000 && down == -n);
	}
	return NULL;
}

static void signals_in_loops(void)
{
	struct sigaction act = {.sa_sigaction = on_cut, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	pthread_t thread[2];

	sigaction(SIGUSR1, &act, NULL);
	for (unsigned i = 0; i < 2; i++)
		CHECK(!pthread_create(&thread[i], NULL, loop_for_signals, NULL));
	for (unsigned i = 0; cut_count < scaled(5000); i++) {
		pthread_kill(thread[i & 1], SIGUSR1);
		if (i % 16 == 0)
			sched_yield();
	}
	loops_end = 1;
	for (unsigned i = 0; i < 2; i++)
		CHECK(!pthread_join(thread[i], NULL));
	CHECK(!cut_wrong);
}

const struct probe probes_threads[] = {
    {"atomics", atomics, 0},
    {"locks", locks, 0},
    {"barriers", barriers, 0},
    {"code-for-each-other", code_for_each_other, 0},
    {"rights-lost", rights_lost, 0},
    {"pages-lost", pages_lost, 0},
    {"copies", copies, 0},
    {"signals-in-loops", signals_in_loops, 0},
    {NULL, NULL, 0},
};
