/* direct_warm_test.c: who gets a helper, and after how long. */
#include "engine/soft/direct_warm.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define COST UINT64_C(1000)
#define MAPS 80u /* operations that give a helper its pages: 40 * COST */

/* A process with so many stretches that would take `length` cycles each, translated, and half of
 * that in a helper. */
static void process(struct warm *w, unsigned stretches, uint64_t length)
{
	uint64_t wait = warm_wait(w, COST), ran = 0;
	_Bool in = 0;

	for (unsigned i = 0; i < stretches; i++) {
		if (!in && ran + length <= wait) {
			ran += length;
			warm_stayed(w, COST, length);
			continue;
		}
		uint64_t before = in ? COST : wait - ran + COST;
		if (before >= length)
			continue;
		if (!in)
			warm_entered(w, COST, before);
		warm_ran(w, COST, COST, COST + (length - before) / 2 + (in ? 0 : MAPS * COST / 2),
			 in ? 0 : MAPS, 100);
		in = 1;
	}
	warm_ended(w, COST);
}

static uint64_t least(void)
{
	return warm_wait(&(struct warm){0}, COST);
}

static void who_gains_nothing_waits_longer_but_not_for_ever(void **state)
{
	struct warm w = {0};
	uint64_t last = least();

	(void)state;
	for (unsigned i = 0; i < 30; i++) {
		process(&w, 100000, 3 * COST);
		assert_true(warm_wait(&w, COST) >= last);
		last = warm_wait(&w, COST);
	}
	assert_int_equal(last, 64 * least());
}

static void who_ends_soon_has_no_helper_in_the_end(void **state)
{
	struct warm w = {0};
	uint64_t wait;

	(void)state;
	for (unsigned i = 0; i < 10; i++)
		process(&w, 125, 3 * COST + 200);
	wait = warm_wait(&w, COST);
	assert_true(wait > 125 * 3 * COST);
	for (unsigned i = 0; i < 10; i++)
		process(&w, 125, 3 * COST + 200);
	assert_int_equal(warm_wait(&w, COST), wait);
}

static void who_computes_soon_waits_no_longer_than_at_first(void **state)
{
	(void)state;
	/* However long it has become, and also if the process ends before that. */
	for (uint64_t length = 200 * COST; length <= 5000 * COST; length += 100 * COST) {
		struct warm w = {.wait = 64 * least()};
		for (unsigned i = 0; i < 7; i++)
			process(&w, 1, length);
		assert_int_equal(warm_wait(&w, COST), least());
		for (unsigned i = 0; i < 7; i++)
			process(&w, 1, length);
		assert_int_equal(warm_wait(&w, COST), least());
	}
}

static void stops_that_only_map_are_no_gain(void **state)
{
	struct warm w = {0};

	(void)state;
	/* A stop for each four pages that are touched: the host's time for them is not the
	 * program's. */
	for (unsigned i = 0; i < 40; i++)
		warm_ran(&w, COST, COST, COST + 4 * COST / 2 + 500, 4, 300);
	warm_ended(&w, COST);
	assert_int_equal(warm_wait(&w, COST), 2 * least());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_gains_nothing_waits_longer_but_not_for_ever),
	    cmocka_unit_test(who_ends_soon_has_no_helper_in_the_end),
	    cmocka_unit_test(who_computes_soon_waits_no_longer_than_at_first),
	    cmocka_unit_test(stops_that_only_map_are_no_gain),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
