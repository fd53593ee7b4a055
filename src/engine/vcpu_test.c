/* vcpu_test.c: vCPU threads on an engine that runs nothing: pausing, halting, waking, failing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <cmocka.h>
#include "engine/vcpu.h"

/* What the next run returns is set by the test; a "busy" one goes on until it is kicked. */
enum { DO_BUSY = 100 };

struct fake {
	struct engine engine;
	struct engine_env env;
	struct vcpu vcpu;
	_Atomic int todo;
	_Atomic unsigned runs, kicks, triple_faults, errors, handled;
	_Atomic _Bool kicked;
	char text[512];
};

#define PATIENCE_MS 60000 /* for a busy host */

static struct fake *fake_of(struct vcpu *vcpu)
{
	return container_of(vcpu, struct fake, vcpu);
}

static void pass_ms(unsigned ms)
{
	const struct timespec t = {.tv_nsec = ms * 1000000l};

	nanosleep(&t, NULL);
}

static int fake_run(struct vcpu *vcpu)
{
	struct fake *f = fake_of(vcpu);

	f->runs++;
	if (f->todo != DO_BUSY)
		return f->todo;
	while (!atomic_exchange(&f->kicked, 0)) {
		if (atomic_load(&vcpu->link.events) & CPU_EVENT_KICK)
			break;
	}
	return RUN_KICKED;
}

static _Bool fake_runnable(struct vcpu *vcpu)
{
	if (!(atomic_load(&vcpu->link.events) & (CPU_EVENT_INTR | CPU_EVENT_NMI)))
		return 0;
	cpu_link_clear(&vcpu->link, CPU_EVENT_INTR | CPU_EVENT_NMI);
	return 1;
}

static void fake_kick(struct vcpu *vcpu)
{
	fake_of(vcpu)->kicks++;
	fake_of(vcpu)->kicked = 1;
}

static const struct engine_ops fake_ops = {
    .name = "fake", .run = fake_run, .runnable = fake_runnable, .kick = fake_kick};

static void fake_event(void *opaque, enum engine_event event, unsigned cpu, const char *text)
{
	struct fake *f = opaque;

	assert_int_equal(cpu, 3);
	if (event == ENGINE_EVENT_ERROR) {
		snprintf(f->text, sizeof(f->text), "%s", text);
		f->errors++;
	} else {
		f->triple_faults++;
	}
}

static void fake_eoi(void *opaque, unsigned vector)
{
	struct fake *f = opaque;

	/* One exit, then busy; and a request comes while the exit is being answered. */
	assert_int_equal(vector, 9);
	f->todo = DO_BUSY;
	vcpu_pause_begin(&f->vcpu);
	f->handled++;
}

static struct fake *fake_new(int todo)
{
	struct fake *f = calloc(1, sizeof(*f));

	f->env = (struct engine_env){.event = fake_event, .eoi = fake_eoi, .opaque = f};
	f->engine = (struct engine){.ops = &fake_ops, .env = &f->env};
	vcpu_init(&f->vcpu, &f->engine, 3);
	f->todo = todo;
	assert_int_equal(vcpu_start(&f->vcpu, NULL), 0);
	return f;
}

static void fake_free(struct fake *f)
{
	vcpu_stop(&f->vcpu);
	vcpu_fini(&f->vcpu);
	free(f);
}

static void wait_for(_Atomic unsigned *what, unsigned value)
{
	for (unsigned i = 0; i < PATIENCE_MS && *what < value; i++)
		pass_ms(1);
	assert_true(*what >= value);
}

static void pause_now(struct fake *f)
{
	vcpu_pause_begin(&f->vcpu);
	vcpu_pause_wait(&f->vcpu);
	assert_true(vcpu_is_paused(&f->vcpu));
}

/* Until the thread sleeps as halted. */
static void wait_asleep(struct fake *f)
{
	for (unsigned i = 0; i < PATIENCE_MS && !atomic_load(&f->vcpu.sleeping); i++)
		pass_ms(1);
	assert_true(atomic_load(&f->vcpu.sleeping));
}

static void a_thread_starts_paused(void **state)
{
	struct fake *f = fake_new(DO_BUSY);

	vcpu_pause_wait(&f->vcpu);
	assert_int_equal(f->runs, 0);
	assert_true(vcpu_is_paused(&f->vcpu));
	vcpu_resume(&f->vcpu);
	assert_false(vcpu_is_paused(&f->vcpu));
	wait_for(&f->runs, 1);
	fake_free(f);
	(void)state;
}

static void pause_holds_a_busy_cpu_out_of_guest_code(void **state)
{
	struct fake *f = fake_new(DO_BUSY);
	unsigned runs;

	for (unsigned i = 0; i < 200; i++) {
		vcpu_resume(&f->vcpu);
		pause_now(f);
		runs = f->runs;
		assert_int_equal(f->runs, runs);
	}
	vcpu_resume(&f->vcpu);
	fake_free(f);
	(void)state;
}

static void pausing_twice_and_resuming_early_are_harmless(void **state)
{
	struct fake *f = fake_new(DO_BUSY);

	pause_now(f);
	pause_now(f);
	vcpu_resume(&f->vcpu);
	vcpu_resume(&f->vcpu);
	vcpu_pause_begin(&f->vcpu);
	vcpu_resume(&f->vcpu); /* before the thread saw the request */
	wait_for(&f->runs, 1);
	pause_now(f);
	fake_free(f); /* and a paused one is stopped */
	(void)state;
}

static void a_cpu_that_was_never_started_can_be_stopped(void **state)
{
	struct fake *f = calloc(1, sizeof(*f));

	f->engine = (struct engine){.ops = &fake_ops, .env = &f->env};
	vcpu_init(&f->vcpu, &f->engine, 3);
	vcpu_pause_begin(&f->vcpu);
	vcpu_pause_wait(&f->vcpu);
	fake_free(f);
	(void)state;
}

static void a_halted_cpu_sleeps_without_using_the_processor(void **state)
{
	struct fake *f = fake_new(RUN_HALTED);
	struct rusage a, b;
	unsigned runs;

	vcpu_resume(&f->vcpu);
	wait_asleep(f);
	runs = f->runs;
	getrusage(RUSAGE_SELF, &a);
	pass_ms(30);
	getrusage(RUSAGE_SELF, &b);
	assert_int_equal(f->runs, runs);
	assert_true(b.ru_utime.tv_usec - a.ru_utime.tv_usec +
			(b.ru_utime.tv_sec - a.ru_utime.tv_sec) * 1000000 <
		    20000);
	fake_free(f);
	(void)state;
}

static void an_interrupt_wakes_a_halted_cpu_each_time(void **state)
{
	struct fake *f = fake_new(RUN_HALTED);

	vcpu_resume(&f->vcpu);
	/* As fast as it goes, so that some fall between the look and the sleep. */
	for (unsigned i = 0; i < 2000; i++) {
		unsigned runs = f->runs;

		cpu_link_raise(&f->vcpu.link, CPU_EVENT_INTR);
		for (unsigned n = 0; f->runs == runs && n < 100000; n++)
			;
		wait_for(&f->runs, runs + 1); /* a host that is busy, or has one CPU */
	}
	fake_free(f);
	(void)state;
}

static void a_halted_cpu_obeys_pause_and_stop(void **state)
{
	struct fake *f = fake_new(RUN_HALTED);

	for (unsigned i = 0; i < 50; i++) {
		vcpu_resume(&f->vcpu);
		if (i % 2)
			wait_asleep(f);
		pause_now(f);
	}
	vcpu_resume(&f->vcpu);
	wait_asleep(f);
	fake_free(f);
	(void)state;
}

static void waking_a_sleeper_needs_no_kick_and_a_runner_gets_one(void **state)
{
	struct fake *f = fake_new(RUN_HALTED);
	unsigned kicks;

	vcpu_resume(&f->vcpu);
	wait_asleep(f);
	kicks = f->kicks;
	cpu_link_raise(&f->vcpu.link, CPU_EVENT_NMI);
	wait_for(&f->runs, 2);
	assert_int_equal(f->kicks, kicks);
	pause_now(f);
	f->todo = DO_BUSY;
	kicks = f->runs;
	vcpu_resume(&f->vcpu);
	wait_for(&f->runs, kicks + 1);
	kicks = f->kicks;
	cpu_link_raise(&f->vcpu.link, CPU_EVENT_INTR);
	assert_int_equal(f->kicks, kicks + 1);
	fake_free(f);
	(void)state;
}

static void a_triple_fault_is_told_once_and_waits_for_the_vm(void **state)
{
	struct fake *f = fake_new(RUN_SHUTDOWN);
	unsigned runs;

	vcpu_resume(&f->vcpu);
	wait_for(&f->triple_faults, 1);
	wait_asleep(f);
	cpu_link_raise(&f->vcpu.link, CPU_EVENT_INTR | CPU_EVENT_NMI);
	cpu_link_raise(&f->vcpu.link, CPU_EVENT_KICK); /* by no means a reset */
	pass_ms(5);
	assert_int_equal(f->triple_faults, 1);
	assert_int_equal(f->runs, 1);
	pause_now(f);
	f->todo = DO_BUSY;
	runs = f->runs;
	vcpu_resume(&f->vcpu);
	wait_for(&f->runs, runs + 1);
	fake_free(f);
	(void)state;
}

static void a_failing_host_is_told_in_the_engines_words(void **state)
{
	struct fake *f = fake_new(-EIO);

	snprintf(f->vcpu.failure, sizeof(f->vcpu.failure), "the moon is full");
	vcpu_resume(&f->vcpu);
	wait_for(&f->errors, 1);
	assert_string_equal(f->text, "the moon is full");
	pause_now(f);
	f->vcpu.failure[0] = 0;
	vcpu_resume(&f->vcpu);
	wait_for(&f->errors, 2);
	assert_non_null(strstr(f->text, strerror(EIO)));
	fake_free(f);
	(void)state;
}

static void an_exit_is_answered_before_a_pause(void **state)
{
	struct fake *f = fake_new(RUN_EXIT);

	f->vcpu.exit.kind = EXIT_EOI;
	f->vcpu.exit.eoi.vector = 9;
	vcpu_resume(&f->vcpu);
	wait_for(&f->handled, 1);
	vcpu_pause_wait(&f->vcpu);
	/* The engine was entered once more, to complete the instruction. */
	assert_int_equal(f->runs, 2);
	assert_int_equal(f->vcpu.exits[EXIT_EOI], 1);
	fake_free(f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_thread_starts_paused),
	    cmocka_unit_test(pause_holds_a_busy_cpu_out_of_guest_code),
	    cmocka_unit_test(pausing_twice_and_resuming_early_are_harmless),
	    cmocka_unit_test(a_cpu_that_was_never_started_can_be_stopped),
	    cmocka_unit_test(a_halted_cpu_sleeps_without_using_the_processor),
	    cmocka_unit_test(an_interrupt_wakes_a_halted_cpu_each_time),
	    cmocka_unit_test(a_halted_cpu_obeys_pause_and_stop),
	    cmocka_unit_test(waking_a_sleeper_needs_no_kick_and_a_runner_gets_one),
	    cmocka_unit_test(a_triple_fault_is_told_once_and_waits_for_the_vm),
	    cmocka_unit_test(a_failing_host_is_told_in_the_engines_words),
	    cmocka_unit_test(an_exit_is_answered_before_a_pause),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
