/* direct_life_test.c: tests of what becomes of helpers when the host sends signals to all that
 * belongs to a VM, has no room for processes, or ends helpers; and when another CPU wants a right
 * back that they have.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
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

/* The first number behind `key` in a file of the helper's under /proc. */
static long proc_number(int pid, const char *name, const char *key, int base)
{
	char path[64], line[256];
	long number = -1;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	FILE *f = fopen(path, "re");
	assert_non_null(f);
	while (number < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			number = strtol(line + strlen(key), NULL, base);
	fclose(f);
	return number;
}

static void a_helper_leaves_no_core_of_the_guests_memory(void **state)
{
	struct board *b = *state;

	program_runs(b);
	ran(b);
	struct direct_helper *h = helper_of(b);
	assert_non_null(h);
	assert_in_range(proc_number(h->pid, "limits", "Max core file size", 10), 0, 1);
	assert_int_equal(proc_number(h->pid, "coredump_filter", "", 16), 0);
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

/* It has no registers but those that the engine has, too. */
static void a_helper_that_ends_while_it_waits_takes_nothing_with_it(void **state)
{
	struct board *b = *state;

	program_runs(b);
	ran(b);
	for (unsigned i = 1; i < 4; i++) {
		int pid = helper_of(b)->pid, pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		struct pollfd ended = {.fd = pidfd, .events = POLLIN};
		assert_true(pidfd >= 0);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(poll(&ended, 1, -1), 1);
		close(pidfd);
		program_runs(b);
		program_runs(b);
		assert_int_equal(b->cpu->stats.direct_lost, 0);
		assert_int_equal(b->cpu->direct->killed, i);
		assert_non_null(helper_of(b));
		assert_int_equal(b->cpu->stats.direct_helpers, i + 1);
	}
}

struct other {
	struct soft_cpu *cpu;
	_Atomic _Bool back; /* who asked has gone on */
	_Bool early, late;
};

static uint64_t seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec;
}

/* Its first page is none for helpers: it is made, and not entered. */
CODE(not_there, "xgetbv\n"
		"syscall\n");
static void a_helper_that_has_run_nothing_goes_to_the_next_program(void **state)
{
	struct board *b = *state;

	program_runs(b);
	ran(b);
	direct_helper_kill(user_helper(b));
	uint64_t entries = b->cpu->stats.direct_entries;
	board_pte_set(b, USER_CODE, USER_CODE | X86_PTE_P | X86_PTE_U | X86_PTE_A);
	board_load(b, USER_CODE, not_there, (size_t)(not_there_end - not_there));
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_RCX] = 0;
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(b->cpu->stats.direct_entries, entries);
	assert_int_equal(b->cpu->stats.direct_helpers, 2);
	int pid = user_helper(b)->pid;
	soft_tlb_flush_all(b->cpu);
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		if (!b->cpu->direct->space[i].helper.pid)
			b->cpu->direct->space[i].used = UINT64_MAX;
	program_runs(b);
	assert_int_equal(user_helper(b)->pid, pid);
	assert_int_equal(b->cpu->direct->killed, 0);
}

/* Another CPU's thread: it leaves its helper, takes what is asked of it, and is in one again. So
 * quickly that nobody has seen it outside. */
static void *takes_it_and_goes_on(void *arg)
{
	struct other *o = arg;
	struct soft_direct *d = o->cpu->direct;

	while (!(atomic_load(&o->cpu->base.link.events) & CPU_EVENT_ENGINE))
		sched_yield();
	for (unsigned i = 0; i < 100; i++)
		sched_yield();
	o->early = atomic_load(&o->back);
	soft_cache_take_pending(o->cpu);
	for (uint64_t end = seconds() + 20; !atomic_load(&o->back) && !o->late;) {
		o->late = seconds() > end;
		sched_yield();
	}
	atomic_store(&d->running, 0);
	return NULL;
}
static void
who_asks_for_a_right_back_waits_until_the_other_cpu_has_left_its_helper_once(void **state)
{
	setenv("BOARD_SOFT", "direct", 1);
	struct board *b = board_new(2);
	struct other o = {0};
	struct vcpu *vcpu;
	pthread_t thread;

	assert_int_equal(engine_soft.vcpu_create(b->engine, 1, &vcpu, NULL), 0);
	atomic_store(&vcpu->link.events, 0);
	o.cpu = soft_cpu_of(vcpu);
	assert_non_null(o.cpu->direct);
	for (unsigned i = 0; i < 2; i++) { /* one page, all pages */
		atomic_store(&o.back, 0);
		atomic_store(&o.cpu->direct->running, INT_MAX); /* no process's descriptor */
		assert_int_equal(pthread_create(&thread, NULL, takes_it_and_goes_on, &o), 0);
		direct_revoke(b->cpu->engine, b->cpu, i ? UINT64_MAX : USER_DATA);
		atomic_store(&o.back, 1);
		pthread_join(thread, NULL);
		assert_false(o.early);
		assert_false(o.late);
	}
	engine_soft.vcpu_destroy(&o.cpu->base);
	board_free(b);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(a_helper_that_has_run_nothing_goes_to_the_next_program),
	    T(signals_that_are_meant_for_the_machine_do_nothing_to_its_helpers),
	    T(a_helper_leaves_no_core_of_the_guests_memory),
	    T(stop_and_continue_are_the_helpers_too),
	    T(where_the_host_had_no_room_it_is_asked_again_later),
	    T(many_ended_helpers_are_forgotten_in_time),
	    T(a_helper_that_ends_while_it_waits_takes_nothing_with_it),
	    cmocka_unit_test(
		who_asks_for_a_right_back_waits_until_the_other_cpu_has_left_its_helper_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
