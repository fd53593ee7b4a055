/* direct_core_test.c: tests of where a vCPU's thread may run while its user code is in a helper. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

CODE(load, "mov $0x50000, %edi\n"
	   "mov (%rdi), %rax\n"
	   "syscall\n");
CODE(forever, "1: jmp 1b\n");

/* How many cores a thread may run on. */
static unsigned cores(pid_t thread)
{
	cpu_set_t set;

	assert_int_equal(sched_getaffinity(thread, sizeof(set), &set), 0);
	return (unsigned)CPU_COUNT(&set);
}

struct watcher {
	struct soft_cpu *cpu;
	pid_t thread;
	unsigned cores;
};

/* Notes on how many cores the thread may run while its user code does, and ends that. */
static void *cores_note(void *arg)
{
	struct watcher *w = arg;
	struct timespec pause = {.tv_nsec = 100000};

	while (!atomic_load(&w->cpu->direct->running))
		sched_yield();
	/* It is kept just after it says that it runs; or it is not, this time. */
	for (unsigned i = 0; i < 1000 && (w->cores = cores(w->thread)) != 1; i++)
		nanosleep(&pause, NULL);
	cpu_link_raise(&w->cpu->base.link, CPU_EVENT_KICK);
	return NULL;
}

static void a_thread_is_kept_on_its_core_only_while_it_runs_guest_code(void **state)
{
	struct board *b = *state;
	struct watcher w = {.cpu = b->cpu, .thread = gettid()};
	pthread_t thread;
	cpu_set_t all;

	/* Whatever the tests before have left behind. */
	memset(&all, 0xff, sizeof(all));
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	unsigned before = cores(0);

	assert_int_equal(RUN_USER(b, load), 0x80);
	ran(b);
	assert_int_equal(cores(0), before);
	/* Others may want that core just now: then the thread is let go, and this tells nothing. */
	for (unsigned i = 0; i < 50 && w.cores != 1; i++) {
		board_load(b, USER_CODE, forever, (size_t)(forever_end - forever));
		user_state(b, USER_CODE);
		b->cpu->direct->core.contended = 0;
		assert_int_equal(pthread_create(&thread, NULL, cores_note, &w), 0);
		assert_int_equal(engine_soft.run(&b->cpu->base), RUN_KICKED);
		pthread_join(thread, NULL);
		cpu_link_clear(&b->cpu->base.link, CPU_EVENT_KICK);
		assert_int_equal(cores(0), before);
	}
	assert_int_equal(w.cores, 1);
}

static void a_core_that_others_want_too_is_let_go(void **state)
{
	struct soft_cpu *cpu = calloc(1, sizeof(*cpu));
	pid_t parent = getpid();
	struct direct_helper h = {.pid = fork()};
	struct soft_direct d = {0};
	unsigned before = cores(0);

	(void)state;
	if (!h.pid) {
		/* Not longer than the test, whose output it holds open. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(0);
	}
	assert_true(h.pid > 0);
	assert_non_null(cpu);
	assert_true(direct_core_calm(1000000, 1000000));
	assert_true(direct_core_calm(880000, 1000000));
	assert_false(direct_core_calm(870000, 1000000));
	cpu->direct = &d;
	d.core.slept = 1;
	direct_core_enter(cpu, &h);
	assert_int_equal(cores(0), 1);
	/* As if it had got little of the last window. */
	d.core.begun = 0;
	d.core.looked_ns = 0;
	direct_core_enter(cpu, &h);
	assert_true(d.core.contended);
	assert_int_equal(cores(0), before);
	/* Nothing was learnt while it slept. */
	direct_core_left(&d, 1);
	d.core.begun = 0;
	direct_core_enter(cpu, &h);
	assert_int_equal(cores(0), 1);
	direct_core_rest(&d);
	if (__builtin_ia32_rdtsc() - d.core.entered < (uint64_t)50 * soft_tsc_khz())
		assert_int_equal(cores(0), 1);
	d.core.entered -= (uint64_t)100 * soft_tsc_khz();
	d.spin.apart = 1;
	direct_core_rest(&d);
	assert_int_equal(cores(0), before);
	assert_false(d.spin.apart);
	/* Also where the thread was let go before, as it slept. */
	d.spin.apart = 1;
	direct_core_rest(&d);
	assert_false(d.spin.apart);
	/* Who says meanwhile where it is to run, is heard. */
	direct_core_hold(&d);
	cpu_set_t set, before_set = d.core.before;
	CPU_ZERO(&set);
	for (int i = CPU_SETSIZE - 1; i >= 0 && !CPU_COUNT(&set); i--)
		if (CPU_ISSET(i, &before_set) && i != d.core.held - 1)
			CPU_SET(i, &set);
	if (CPU_COUNT(&set)) {
		assert_int_equal(sched_setaffinity(0, sizeof(set), &set), 0);
		direct_core_release(&d);
		assert_int_equal(cores(0), 1);
		/* Who was told where to run is told that again; who was not may run everywhere. */
		d.core.asked = before_set;
		direct_core_hold(&d);
		assert_false(d.core.everywhere);
		direct_core_release(&d);
		assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
		assert_true(CPU_EQUAL(&set, &d.core.before));
		memset(&set, 0xff, sizeof(set));
		assert_int_equal(sched_setaffinity(0, sizeof(set), &set), 0);
		direct_core_hold(&d);
		assert_true(d.core.everywhere);
		direct_core_release(&d);
		assert_int_equal(sched_setaffinity(0, sizeof(before_set), &before_set), 0);
	}
	kill(h.pid, SIGKILL);
	waitpid(h.pid, NULL, 0);
	free(cpu);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(
		a_thread_is_kept_on_its_core_only_while_it_runs_guest_code, board_setup_direct,
		board_teardown),
	    cmocka_unit_test(a_core_that_others_want_too_is_let_go),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
