/* direct_life_test.c: tests of what becomes of helpers when the host sends signals to all that
 * belongs to a VM, has no room for processes, or ends helpers often.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

static int setup(void **state)
{
	board_setup_direct(state);
	user_state(*state, USER_CODE);
	return 0;
}

CODE(load, "mov $0x50000, %edi\n"
	   "mov (%rdi), %rax\n"
	   "syscall\n");
static void program_runs(struct board *b)
{
	board_load(b, USER_CODE, load, (size_t)(load_end - load));
	user_again(b, USER_CODE);
	board_write(b, USER_DATA, 8, 4711);
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 4711);
}

static struct direct_helper *helper_of(struct board *b)
{
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		if (b->cpu->direct->space[i].helper.pid)
			return &b->cpu->direct->space[i].helper;
	return NULL;
}

static const int signals[] = {SIGHUP,  SIGINT,	SIGQUIT, SIGABRT, SIGUSR2, SIGPIPE,   SIGALRM,
			      SIGTERM, SIGXCPU, SIGXFSZ, SIGPROF, SIGPWR,  SIGVTALRM, 34};
CODE(forever, "1: jmp 1b\n");
static void *signal_then_kick(void *arg)
{
	struct soft_cpu *cpu = arg;
	unsigned i = 0;

	while (!atomic_load(&cpu->direct->running))
		sched_yield();
	/* It may just have been about to run: once more for each. */
	for (; i < 2 * ARRAY_SIZE(signals); i++)
		syscall(SYS_pidfd_send_signal, atomic_load(&cpu->direct->running) - 1,
			signals[i % ARRAY_SIZE(signals)], NULL, 0);
	cpu_link_raise(&cpu->base.link, CPU_EVENT_KICK);
	return NULL;
}
static void signals_that_are_meant_for_the_machine_do_nothing_to_its_helpers(void **state)
{
	struct board *b = *state;
	pthread_t thread;

	program_runs(b);
	ran(b);
	int pid = helper_of(b)->pid;
	/* While it waits, ... */
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		assert_int_equal(kill(pid, signals[i]), 0);
	program_runs(b);
	/* ... and while it runs. */
	board_load(b, USER_CODE, forever, (size_t)(forever_end - forever));
	user_again(b, USER_CODE);
	assert_int_equal(pthread_create(&thread, NULL, signal_then_kick, b->cpu), 0);
	assert_int_equal(engine_soft.run(&b->cpu->base), RUN_KICKED);
	pthread_join(thread, NULL);
	cpu_link_clear(&b->cpu->base.link, CPU_EVENT_KICK);
	program_runs(b);
	assert_int_equal(helper_of(b)->pid, pid);
	assert_int_equal(b->cpu->direct->killed, 0);
	assert_int_equal(b->cpu->stats.direct_lost, 0);
}

static void stop_and_continue_are_the_helpers_too(void **state)
{
	struct board *b = *state;

	program_runs(b);
	ran(b);
	int pid = helper_of(b)->pid;
	assert_int_equal(kill(pid, SIGSTOP), 0);
	assert_int_equal(kill(pid, SIGCONT), 0);
	program_runs(b);
	assert_int_equal(helper_of(b)->pid, pid);
}

/* As if so much time had passed. */
static void time_passes(struct soft_direct *d)
{
	d->refused_at = __rdtsc() - d->refused_for;
}

static void where_the_host_had_no_room_it_is_asked_again_later(void **state)
{
	struct board *b = *state;
	struct soft_direct *d = b->cpu->direct;
	struct rlimit limit, none;

	program_runs(b); /* the tables of decoded instructions, and so on, are there */
	ran(b);
	direct_helper_kill(helper_of(b));
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){0, limit.rlim_max};
	uint64_t second = (uint64_t)soft_tsc_khz() * 1000, helpers = b->cpu->stats.direct_helpers;
	for (unsigned i = 0; i < 9; i++) {
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
		program_runs(b);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		assert_true(d->refused);
		assert_int_equal(b->cpu->stats.direct_refused, 1);
		assert_int_equal(d->refused_for, MIN(second << i, 64 * second));
		program_runs(b); /* not yet */
		assert_int_equal(b->cpu->stats.direct_helpers, helpers);
		time_passes(d);
	}
	program_runs(b);
	assert_false(d->refused);
	assert_int_equal(b->cpu->stats.direct_refused, 0);
	assert_int_equal(b->cpu->stats.direct_helpers, helpers + 1);
	/* When it was well for long, it begins with a short time again. */
	d->refused_at = __rdtsc() - 9 * d->refused_for;
	direct_helper_kill(helper_of(b));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	program_runs(b);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(d->refused_for, second);
}

static void many_ended_helpers_are_forgotten_in_time(void **state)
{
	struct board *b = *state;
	struct soft_direct *d = b->cpu->direct;

	program_runs(b);
	ran(b);
	d->killed = 65;
	uint64_t entries = b->cpu->stats.direct_entries;
	program_runs(b);
	assert_true(d->refused);
	assert_int_equal(b->cpu->stats.direct_entries, entries);
	time_passes(d);
	program_runs(b);
	assert_false(d->refused);
	assert_int_equal(d->killed, 32);
	assert_true(b->cpu->stats.direct_entries > entries);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(signals_that_are_meant_for_the_machine_do_nothing_to_its_helpers),
	    T(stop_and_continue_are_the_helpers_too),
	    T(where_the_host_had_no_room_it_is_asked_again_later),
	    T(many_ended_helpers_are_forgotten_in_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
