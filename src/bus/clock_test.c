/* clock_test.c: tests of VM time and timers. */
#include "bus/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"

struct probe {
	struct clock *clock;
	struct timer timer;
	uint64_t seen[16];
	unsigned count;
	uint64_t period;
	unsigned *sequence; /* where this one came among several */
	unsigned place;
};

static void on_timer(void *opaque)
{
	struct probe *p = opaque;

	if (p->count < ARRAY_SIZE(p->seen))
		p->seen[p->count] = clock_now_ns(p->clock);
	p->count++;
	if (p->sequence)
		p->place = ++*p->sequence;
	if (p->period)
		timer_arm(&p->timer, p->timer.deadline_ns + p->period);
}

static struct probe *probe_new(struct clock *clock)
{
	struct probe *p = calloc(1, sizeof(*p));

	p->clock = clock;
	timer_init(&p->timer, clock, on_timer, p);
	return p;
}

static void probe_free(struct probe *p)
{
	timer_fini(&p->timer);
	free(p);
}

static struct clock *manual(void)
{
	struct clock *clock;

	assert_int_equal(clock_new(&clock, CLOCK_MANUAL), 0);
	return clock;
}

static void each_timer_sees_its_own_deadline(void **state)
{
	struct clock *c = manual();
	struct probe *a = probe_new(c), *b = probe_new(c);

	timer_arm(&a->timer, 300);
	timer_arm(&b->timer, 100);
	assert_int_equal(clock_next_ns(c), 100);
	clock_advance(c, 99);
	assert_int_equal(b->count, 0);
	clock_advance(c, 901);
	assert_int_equal(a->seen[0], 300);
	assert_int_equal(b->seen[0], 100);
	assert_int_equal(clock_now_ns(c), 1000);
	assert_true(clock_next_ns(c) == UINT64_MAX);
	timer_arm(&a->timer, 5); /* past: runs in the present */
	clock_advance(c, 0);
	assert_int_equal(a->seen[1], 1000);
	probe_free(a);
	probe_free(b);
	clock_free(c);
}

static void a_timer_may_rearm_itself(void **state)
{
	struct clock *c = manual();
	struct probe *p = probe_new(c);

	p->period = 10;
	timer_arm(&p->timer, 10);
	clock_advance(c, 55);
	assert_int_equal(p->count, 5);
	assert_int_equal(p->seen[4], 50);
	assert_int_equal(clock_next_ns(c), 60);
	timer_cancel(&p->timer);
	timer_cancel(&p->timer);
	clock_advance(c, 100);
	assert_int_equal(p->count, 5);
	probe_free(p);
	clock_free(c);
}

/* Against a plain array: many timers armed, moved and cancelled at random run in order. */
static void many_timers_run_in_order(void **state)
{
	enum { N = 200 };
	struct clock *c = manual();
	struct probe *p[N];
	unsigned sequence = 0;

	srandom(1);
	for (int i = 0; i < N; i++) {
		p[i] = probe_new(c);
		p[i]->sequence = &sequence;
	}
	for (int i = 0; i < 5000; i++) {
		struct timer *t = &p[random() % N]->timer;

		if (random() % 4)
			timer_arm(t, 1 + (uint64_t)random() % 50);
		else
			timer_cancel(t);
	}
	clock_advance(c, 100);
	for (int i = 0; i < N; i++) {
		assert_true(p[i]->count <= 1);
		for (int j = 0; p[i]->count && j < N; j++) {
			const struct timer *a = &p[i]->timer, *b = &p[j]->timer;

			if (p[j]->count &&
			    (a->deadline_ns < b->deadline_ns ||
			     (a->deadline_ns == b->deadline_ns && a->order < b->order)))
				assert_true(p[i]->place < p[j]->place);
		}
	}
	assert_true(sequence > N / 2);
	for (int i = 0; i < N; i++)
		probe_free(p[i]);
	clock_free(c);
}

static void time_goes_on_from_where_it_stopped(void **state)
{
	struct clock *c;
	uint64_t a, b;

	assert_int_equal(clock_new(&c, CLOCK_STOPPED), 0);
	assert_int_equal(clock_now_ns(c), 0);
	clock_set_ns(c, 5000000000);
	assert_true(clock_now_ns(c) == 5000000000);
	clock_set_mode(c, CLOCK_REAL);
	assert_int_equal(clock_mode(c), CLOCK_REAL);
	a = clock_now_ns(c);
	assert_true(a >= 5000000000 && a < 15000000000);
	clock_set_mode(c, CLOCK_STOPPED);
	a = clock_now_ns(c);
	b = clock_now_ns(c);
	assert_true(a == b);
	clock_set_wall_base_ns(c, 1000);
	assert_true(clock_wall_base_ns(c) == 1000);
	assert_true(clock_wall_now_ns(c) == (int64_t)a + 1000);
	clock_free(c);
	clock_free(NULL);
}

static void its_lag_is_one_value_while_it_goes(void **state)
{
	struct clock *c;
	int64_t lag, stopped;

	assert_int_equal(clock_new(&c, CLOCK_REAL), 0);
	lag = clock_lag_ns(c);
	for (unsigned i = 0; i < 10000; i++)
		assert_true(clock_lag_ns(c) == lag);
	clock_set_mode(c, CLOCK_STOPPED);
	stopped = clock_lag_ns(c);
	assert_true(stopped >= lag);
	while (clock_lag_ns(c) == stopped)
		;
	assert_true(clock_lag_ns(c) > stopped);
	clock_set_mode(c, CLOCK_REAL);
	assert_true(clock_lag_ns(c) > stopped);
	lag = clock_lag_ns(c);
	for (unsigned i = 0; i < 10000; i++)
		assert_true(clock_lag_ns(c) == lag);
	clock_free(c);
}

static void a_stopped_clock_runs_nothing(void **state)
{
	struct clock *c;
	struct probe *p;

	assert_int_equal(clock_new(&c, CLOCK_STOPPED), 0);
	p = probe_new(c);
	timer_arm(&p->timer, 0);
	assert_true(clock_next_ns(c) == UINT64_MAX);
	clock_run_due(c);
	assert_int_equal(p->count, 0);
	clock_set_mode(c, CLOCK_REAL);
	assert_int_equal(clock_next_ns(c), 0);
	clock_run_due(c);
	assert_int_equal(p->count, 1);
	probe_free(p);
	clock_free(c);
}

static void a_fast_timer_cannot_keep_the_loop(void **state)
{
	struct clock *c = manual();
	struct probe *p = probe_new(c);

	clock_set_ns(c, 1000000);
	p->period = 1;
	timer_arm(&p->timer, 1);
	clock_run_due(c);
	assert_int_equal(p->count, CLOCK_RUN_MAX);
	assert_int_equal(clock_next_ns(c), CLOCK_RUN_MAX + 1);
	probe_free(p);
	clock_free(c);
}

static void count_wake(void *opaque, uint64_t delay_ns)
{
	++*(unsigned *)opaque;
}

static void wakes_when_the_earliest_moves_forward(void **state)
{
	struct clock *c = manual();
	struct probe *a = probe_new(c), *b = probe_new(c);
	struct lock device;
	unsigned wakes = 0;

	lock_init(&device, RANK_LAPIC);
	clock_set_wake(c, count_wake, &wakes);
	lock_take(&device); /* arming is legal under any device's lock */
	wakes = 0;	    /* setting it told the present once */
	timer_arm(&a->timer, 100);
	assert_int_equal(wakes, 1);
	timer_arm(&b->timer, 200);
	assert_int_equal(wakes, 1);
	timer_arm(&b->timer, 50);
	assert_int_equal(wakes, 2);
	timer_arm(&b->timer, 300);
	assert_int_equal(wakes, 2);
	lock_drop(&device);
	lock_fini(&device);
	probe_free(a);
	probe_free(b);
	clock_free(c);
}

static void note_delay(void *opaque, uint64_t delay_ns)
{
	*(uint64_t *)opaque = delay_ns;
}

static void says_how_long_the_driver_may_sleep(void **state)
{
	struct clock *c;
	struct probe *p;
	uint64_t delay = 1;

	assert_int_equal(clock_new(&c, CLOCK_STOPPED), 0);
	p = probe_new(c);
	clock_set_wake(c, note_delay, &delay);
	assert_true(delay == UINT64_MAX);
	timer_arm(&p->timer, UINT64_C(1) << 40);
	assert_true(delay == UINT64_MAX); /* a stopped clock never comes there */
	clock_set_mode(c, CLOCK_REAL);
	assert_true(delay > 0 && delay <= UINT64_C(1) << 40);
	timer_arm(&p->timer, 0);
	assert_int_equal(delay, 0);
	clock_run_due(c);
	assert_int_equal(p->count, 1);
	assert_true(delay == UINT64_MAX);
	probe_free(p);
	clock_free(c);
}

struct slow {
	struct timer timer;
	atomic_int stage; /* 1: the callback runs; 2: it may return; 3: it has */
};

static void on_slow(void *opaque)
{
	struct slow *s = opaque;

	atomic_store(&s->stage, 1);
	while (atomic_load(&s->stage) != 2)
		;
	atomic_store(&s->stage, 3);
}

static void *run_due(void *clock)
{
	clock_run_due(clock);
	return NULL;
}

static void *release(void *opaque)
{
	struct slow *s = opaque;

	atomic_store(&s->stage, 2);
	return NULL;
}

static void fini_waits_for_a_running_callback(void **state)
{
	struct clock *c = manual();
	struct slow *s = calloc(1, sizeof(*s));
	pthread_t runner, releaser;

	timer_init(&s->timer, c, on_slow, s);
	timer_arm(&s->timer, 0);
	assert_int_equal(pthread_create(&runner, NULL, run_due, c), 0);
	while (atomic_load(&s->stage) != 1)
		;
	assert_int_equal(pthread_create(&releaser, NULL, release, s), 0);
	timer_fini(&s->timer);
	assert_int_equal(atomic_load(&s->stage), 3);
	pthread_join(releaser, NULL);
	memset(s, 0xee, sizeof(*s));
	free(s);
	pthread_join(runner, NULL);
	clock_free(c);
}

static void on_suicide(void *opaque)
{
	probe_free(opaque);
}

static void a_callback_may_free_its_own_timer(void **state)
{
	struct clock *c = manual();
	struct probe *p = probe_new(c);
	struct timer untouched = {0};

	p->timer.fn = on_suicide;
	timer_arm(&p->timer, 1);
	clock_advance(c, 1);
	timer_fini(&untouched); /* of a half-built owner */
	clock_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_timer_sees_its_own_deadline),
	    cmocka_unit_test(a_timer_may_rearm_itself),
	    cmocka_unit_test(many_timers_run_in_order),
	    cmocka_unit_test(time_goes_on_from_where_it_stopped),
	    cmocka_unit_test(its_lag_is_one_value_while_it_goes),
	    cmocka_unit_test(a_stopped_clock_runs_nothing),
	    cmocka_unit_test(a_fast_timer_cannot_keep_the_loop),
	    cmocka_unit_test(wakes_when_the_earliest_moves_forward),
	    cmocka_unit_test(says_how_long_the_driver_may_sleep),
	    cmocka_unit_test(fini_waits_for_a_running_callback),
	    cmocka_unit_test(a_callback_may_free_its_own_timer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
