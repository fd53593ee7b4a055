/* direct_gain_test.c: tests of which way user code is run, with programs that are simulated. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/util.h"
#include "engine/soft/direct_gain.h"

#define US 1000u

/* A program whose user code needs `native` between two crossings, `slower`/8 times that when it is
 * translated; every `rare`-th stretch is `tail` long instead. */
struct program {
	uint64_t native, tail;
	unsigned slower, rare;
	unsigned noise; /* percent that a stretch may take more */
};
struct world {
	struct gain gain;
	struct gain_unit unit;
	uint32_t random;
	uint64_t total, translated, helper; /* as it was run; had it always been one */
	unsigned trials, verdicts, stretches;
};

static void world_init(struct world *w)
{
	*w = (struct world){.unit = {.us = US, .cost = 18 * US}, .random = 1};
	gain_init(&w->gain);
}

static uint64_t noise(struct world *w, const struct program *p, uint64_t cycles)
{
	w->random = w->random * 1664525 + 1013904223;
	return cycles + cycles * ((w->random >> 16) * p->noise >> 16) / 100;
}

static void run(struct world *w, const struct program *p, unsigned stretches)
{
	w->total = w->translated = w->helper = w->trials = w->verdicts = 0;
	for (unsigned i = 0; i < stretches; i++) {
		w->stretches++;
		uint64_t t =
		    noise(w, p, p->rare && w->stretches % p->rare == 0 ? p->tail : p->native);
		uint64_t alone = gain_limit(&w->gain, &w->unit), slow = t * p->slower / 8;
		uint64_t cycles =
		    slow <= alone ? slow : alone + w->unit.cost + (slow - alone) * 8 / p->slower;
		enum gain_news news = gain_ended(&w->gain, &w->unit, cycles, MIN(slow, alone));
		w->trials += news == GAIN_TRIAL;
		w->verdicts += news == GAIN_VERDICT;
		w->total += cycles;
		w->translated += slow;
		w->helper += t + w->unit.cost;
	}
}

/* At most `percent` more than the better of the two ways. */
static void assert_close(const struct world *w, unsigned percent)
{
	uint64_t better = MIN(w->translated, w->helper);

	assert_in_range(w->total, 1, better + better * percent / 100);
}

static void what_only_crosses_stays_translated_without_a_trial(void **state)
{
	const struct program getpid = {.native = US / 10, .slower = 16, .noise = 50};
	struct world w;

	(void)state;
	world_init(&w);
	run(&w, &getpid, 10000);
	assert_int_equal(w.total, w.translated);
	assert_int_equal(w.trials, 0);
}

static void long_stretches_go_to_a_helper(void **state)
{
	const struct program python = {.native = 150 * US, .slower = 40, .noise = 50};
	struct world w;

	(void)state;
	world_init(&w);
	run(&w, &python, 200);
	assert_close(&w, 60); /* with all that has to be learned */
	run(&w, &python, 20000);
	assert_close(&w, 4);
	assert_int_equal(w.gain.best, GAIN_AT_ONCE);
}

static void code_that_is_nearly_as_fast_translated_stays_there(void **state)
{
	const struct program digest = {.native = 60 * US, .slower = 9, .noise = 20};
	struct world w;

	(void)state;
	world_init(&w);
	run(&w, &digest, 200);
	run(&w, &digest, 20000);
	assert_close(&w, 4);
	assert_int_equal(w.gain.best, GAIN_STAY);
}

static void of_short_and_long_stretches_only_the_long_ones_go(void **state)
{
	const struct program gcc = {
	    .native = US / 2, .slower = 64, .rare = 8, .tail = 100 * US, .noise = 90};
	struct world w;

	(void)state;
	world_init(&w);
	run(&w, &gcc, 20000);
	assert_int_equal(w.gain.best, GAIN_SOON);
	assert_true(w.total < w.translated / 2);
	assert_true(w.total < w.helper);
}

/* Most of its code is executed for the first time, in stretches of all lengths. */
static void cold_code_is_at_once_in_a_helper(void **state)
{
	struct world w;

	(void)state;
	for (unsigned seed = 1; seed <= 20; seed++) {
		uint64_t total = 0, helper = 0;
		unsigned at_once = 0, soon = 0;
		world_init(&w);
		w.random = seed;
		for (unsigned i = 0; i < 20000; i++) {
			w.random = w.random * 1664525 + 1013904223;
			unsigned kind = w.random >> 16 & 7;
			const struct program p = {.native = kind < 2   ? 2 * US
							    : kind < 7 ? 60 * US
								       : 700 * US,
						  .slower = kind < 2 ? 40 : 64,
						  .noise = 200};
			run(&w, &p, 1);
			total += i < 2000 ? 0 : w.total;
			helper += i < 2000 ? 0 : w.helper;
			at_once += w.gain.best == GAIN_AT_ONCE;
			soon += w.gain.trial == GAIN_SOON;
		}
		assert_true(at_once > 19900);
		assert_int_equal(soon, 0);
		assert_in_range(total, 1, helper + helper / 25);
	}
}

/* What compresses reads, writes, and computes now and then, for most of its time. */
static void a_few_long_stretches_among_many_short_ones_do_not_wait(void **state)
{
	const struct program gzip = {
	    .native = US / 2, .slower = 24, .rare = 16, .tail = 300 * US, .noise = 200};
	struct world w;

	(void)state;
	for (unsigned seed = 1; seed <= 20; seed++) {
		world_init(&w);
		w.random = seed;
		run(&w, &gzip, 2000);
		run(&w, &gzip, 20000);
		assert_int_equal(w.gain.best, GAIN_SOON);
		assert_true(w.total < w.translated / 2);
		assert_true(w.total < w.helper);
	}
}

/* A shell's children: each starts up with many short stretches and does its work in longer ones. */
static void what_comes_in_phases_is_compared_within_each(void **state)
{
	const struct program start = {.native = US, .slower = 24, .noise = 90};
	const struct program work = {.native = 25 * US, .slower = 10, .noise = 30};
	struct world w;
	uint64_t total = 0, translated = 0;

	(void)state;
	for (unsigned seed = 1; seed <= 20; seed++) {
		world_init(&w);
		w.random = seed;
		total = translated = 0;
		for (unsigned i = 0; i < 40; i++) {
			run(&w, &start, 40);
			run(&w, &work, 120);
			total += i < 4 ? 0 : w.total;
			translated += i < 4 ? 0 : w.translated;
			assert_true(i < 4 || w.gain.best == GAIN_STAY);
		}
		assert_in_range(total, 1, translated + translated / 20);
	}
}

static void a_few_stretches_cost_twice_the_better_way_at_most(void **state)
{
	static const unsigned native[] = {1, 5, 17, 18, 19, 40, 80, 200, 1000, 10000};
	static const unsigned slower[] = {8, 9, 12, 16, 32, 64, 80};
	struct world w;

	(void)state;
	for (unsigned n = 0; n < ARRAY_SIZE(native); n++)
		for (unsigned s = 0; s < ARRAY_SIZE(slower); s++) {
			const struct program p = {.native = native[n] * US, .slower = slower[s]};
			world_init(&w);
			run(&w, &p, 30);
			assert_close(&w, 101);
			/* And in the long run next to nothing. */
			run(&w, &p, 20000);
			run(&w, &p, 20000);
			assert_close(&w, 15);
		}
}

static void a_program_that_changes_is_followed(void **state)
{
	const struct program parse = {.native = 2 * US, .slower = 16, .noise = 50};
	const struct program compute = {.native = 200 * US, .slower = 32, .noise = 50};
	struct world w;

	(void)state;
	world_init(&w);
	for (unsigned i = 0; i < 5; i++) {
		run(&w, &parse, 5000);
		assert_close(&w, 20);
		run(&w, &compute, 2000);
		assert_close(&w, 20);
	}
}

static void computations_now_and_then_say_nothing_of_the_rest(void **state)
{
	const struct program shell = {
	    .native = US, .slower = 16, .rare = 100, .tail = 4000000 * (uint64_t)US};
	struct world w;

	(void)state;
	world_init(&w);
	run(&w, &shell, 20000);
	/* Beside the computations themselves. */
	uint64_t tails = 200 * shell.tail;
	assert_in_range(w.total - tails, 1, 2 * (w.translated - 2 * tails));
}

static void time_that_the_host_takes_away_says_nothing(void **state)
{
	/* 20 ms, once in 48 stretches. */
	const struct program getpid = {
	    .native = US / 10, .slower = 16, .rare = 48, .tail = 20000 * (uint64_t)US};
	struct world w;

	(void)state;
	world_init(&w);
	run(&w, &getpid, 100000);
	assert_int_equal(w.trials, 0);
}

static void trials_get_rare(void **state)
{
	const struct program even = {.native = 40 * US, .slower = 16, .noise = 30};
	struct world w;

	(void)state;
	world_init(&w);
	run(&w, &even, 32 * 200);
	run(&w, &even, 32 * 1000);
	assert_in_range(w.trials, 2, 60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_only_crosses_stays_translated_without_a_trial),
	    cmocka_unit_test(long_stretches_go_to_a_helper),
	    cmocka_unit_test(code_that_is_nearly_as_fast_translated_stays_there),
	    cmocka_unit_test(of_short_and_long_stretches_only_the_long_ones_go),
	    cmocka_unit_test(cold_code_is_at_once_in_a_helper),
	    cmocka_unit_test(a_few_long_stretches_among_many_short_ones_do_not_wait),
	    cmocka_unit_test(what_comes_in_phases_is_compared_within_each),
	    cmocka_unit_test(a_few_stretches_cost_twice_the_better_way_at_most),
	    cmocka_unit_test(a_program_that_changes_is_followed),
	    cmocka_unit_test(computations_now_and_then_say_nothing_of_the_rest),
	    cmocka_unit_test(time_that_the_host_takes_away_says_nothing),
	    cmocka_unit_test(trials_get_rare),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
