/* process.c: probes of processes and threads: many of them, and one memory seen by several. */
#define _GNU_SOURCE
#include "uspace.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned work(unsigned seed)
{
	unsigned v = seed;

	for (unsigned i = 0; i < 2000; i++)
		v = v * 1103515245 + 12345;
	return v;
}

/* All alive at once, each with memory of its own. */
static void at_once(unsigned count)
{
	unsigned *common = mmap(NULL, count * sizeof(unsigned) + PAGE, PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned *own = map_rw(8 * PAGE), good = 0;
	int go[2];
	char c;

	CHECK(!pipe(go));
	for (unsigned i = 0; i < count; i++) {
		own[5000] = i;
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid)
			continue;
		close(go[1]);
		own[1] = i * 3;
		common[i] = work(i);
		while (read(go[0], &c, 1) > 0)
			;
		_exit(own[5000] == i && own[1] == i * 3 && common[i] == work(i) ? (int)(i % 100)
										: 101);
	}
	for (unsigned i = 0; i < count; i++)
		while (!__atomic_load_n(&common[i], __ATOMIC_ACQUIRE))
			sched_yield();
	close(go[1]);
	unsigned sum = 0;
	for (unsigned i = 0; i < count; i++) {
		int status;
		CHECK(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) < 100);
		sum += (unsigned)WEXITSTATUS(status);
		good++;
	}
	say("%u of %u, %u", good, count, sum);
}
static void processes(void)
{
	at_once(quick ? 40 : 200);
}
static void processes_1000(void)
{
	at_once(1000);
}

static void one_by_one(unsigned count)
{
	unsigned *own = map_rw(4 * PAGE);

	for (unsigned i = 0; i < count; i++) {
		int status = -1;
		own[i % 4096] = i;
		pid_t pid = fork();
		if (!pid) {
			unsigned got = own[i % 4096];
			own[i % 4096] = 0;
			_exit(got == i ? (int)(i % 200) : 255);
		}
		CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
		      WEXITSTATUS(status) == (int)(i % 200));
		CHECK(own[i % 4096] == i);
	}
	say("%u", count);
}
static void forks(void)
{
	one_by_one(quick ? 200 : 1000);
}
static void forks_100000(void)
{
	one_by_one(100000);
}

static void programs(void)
{
	for (volatile unsigned i = 0; i < (quick ? 20 : 100); i++) {
		int status;
		pid_t pid = i & 1 ? vfork() : fork();
		if (!pid) {
			execl("/proc/self/exe", "uspace", "--nothing", NULL);
			_exit(9);
		}
		CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
		      WEXITSTATUS(status) == 42);
	}
	/* A whole generation ends at once. */
	pid_t leader = fork();
	if (!leader) {
		setpgid(0, 0);
		for (unsigned i = 0; i < 5; i++)
			fork();
		for (;;)
			work(1);
	}
	setpgid(leader, leader);
	usleep(50000);
	int status;
	kill(-leader, SIGKILL);
	CHECK(waitpid(leader, &status, 0) == leader && WIFSIGNALED(status));
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned guarded;
static _Atomic unsigned counted;
static _Thread_local unsigned mine;
static void *counter(void *arg)
{
	for (unsigned i = 0; i < 2000; i++) {
		pthread_mutex_lock(&lock);
		guarded++;
		pthread_mutex_unlock(&lock);
		counted++;
		mine++;
	}
	return mine == 2000 ? arg : NULL;
}
static void threads(void)
{
	pthread_t t[8];
	void *r;

	for (unsigned round = 0; round < (quick ? 2 : 10); round++) {
		for (unsigned i = 0; i < 8; i++)
			CHECK(!pthread_create(&t[i], NULL, counter, t));
		for (unsigned i = 0; i < 8; i++)
			CHECK(!pthread_join(t[i], &r) && r == t);
	}
	say("%u %u", guarded, counted);
	CHECK(guarded == counted);
}

/*
 * One thread takes a page away and puts another there, with a number in it that is told afterwards;
 * the other may never read a number that is older than what was told before it looked.
 */
static volatile uint64_t *stage;
static _Atomic uint64_t told;
static atomic_int over;
static sigjmp_buf away;
static void on_away(int sig)
{
	siglongjmp(away, sig);
}
static void *looker(void *arg)
{
	uint64_t *result = arg, looks = 0;
	struct sigaction act = {.sa_handler = on_away, .sa_flags = SA_NODEFER};

	sigaction(SIGSEGV, &act, NULL);
	while (!atomic_load(&over)) {
		uint64_t before = atomic_load(&told);
		if (sigsetjmp(away, 0))
			continue;
		uint64_t now = stage[7];
		if (now && now < before) { /* DONTNEED gives 0 for a moment */
			result[0] = before;
			result[1] = now;
			break;
		}
		looks++;
	}
	return arg;
}
static void shot_down(void)
{
	uint64_t bad[2] = {0};
	pthread_t t;

	stage = map_rw(PAGE);
	CHECK(!pthread_create(&t, NULL, looker, bad));
	for (uint64_t i = 1; i < (quick ? 300u : 3000u); i++) {
		uint64_t *fresh = map_rw(PAGE);
		fresh[7] = i;
		if (i % 3 == 0)
			mprotect((void *)stage, PAGE, PROT_NONE);
		if (i % 3 == 1)
			munmap((void *)stage, PAGE);
		CHECK(mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, stage) ==
		      (void *)stage);
		atomic_store(&told, i);
		for (unsigned k = 0; k < 200; k++)
			__asm__ volatile("pause");
		if (i % 5 == 0) {
			madvise((void *)stage, PAGE, MADV_DONTNEED);
			stage[7] = i;
		}
	}
	atomic_store(&over, 1);
	pthread_join(t, NULL);
	CHECK(!bad[0]);
}

static void *spinner(void *arg)
{
	while (!atomic_load(&over))
		work(3);
	return arg;
}
/* Descriptors and mappings until there are no more. */
static void exhaustion(void)
{
	struct rlimit nofile = {200, 200};
	unsigned n = 0;
	pthread_t t;

	CHECK(!pthread_create(&t, NULL, spinner, NULL));
	setrlimit(RLIMIT_NOFILE, &nofile);
	while (dup(1) >= 0)
		n++;
	say("descriptors end with %s", strerror(errno));
	CHECK(n > 100 && n < 200);
	struct rlimit as = {256u << 20, 256u << 20};
	setrlimit(RLIMIT_AS, &as);
	n = 0;
	while (n < 1000 &&
	       mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
		n++;
	say("memory ends with %s", strerror(errno));
	atomic_store(&over, 1);
	pthread_join(t, NULL);
}

const struct probe probes_process[] = {
    {"processes", processes, 0},
    {"processes-1000", processes_1000, 1},
    {"forks", forks, 0},
    {"forks-100000", forks_100000, 1},
    {"programs", programs, 0},
    {"threads", threads, 0},
    {"shot-down", shot_down, 0},
    {"exhaustion", exhaustion, 0},
    {0},
};
