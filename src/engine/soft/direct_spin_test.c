/* direct_spin_test.c: tests of a helper and its vCPU's thread on two cores: when that is tried,
 * when it is given up, and that user code does the same there.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

static void window(struct direct_spin *s, unsigned crossings, unsigned slow, _Bool possible)
{
	s->crossings = crossings;
	s->slow = slow;
	direct_spin_judge(s, 40000000, 20000000, possible);
	assert_int_equal(s->crossings, 0);
	assert_int_equal(s->slow, 0);
}

static void many_crossings_are_tried_on_two_cores_while_they_are_quick(void **state)
{
	struct direct_spin s = {0};

	(void)state;
	window(&s, 39, 0, 1);
	assert_false(s.apart);
	window(&s, 40, 0, 0);
	assert_false(s.apart);
	window(&s, 40, 0, 1);
	assert_true(s.apart);
	/* It makes crossings fewer where they are not what costs; but not few. */
	window(&s, 20, 10, 1);
	assert_true(s.apart);
	window(&s, 19, 0, 1);
	assert_false(s.apart);
	/* That was no failure. */
	window(&s, 40, 0, 1);
	assert_true(s.apart);
	window(&s, 400, 201, 1);
	assert_false(s.apart);
	window(&s, 400, 0, 1);
	assert_false(s.apart);
	window(&s, 400, 0, 1);
	assert_true(s.apart);
	/* There is only one core just now. */
	window(&s, 400, 0, 0);
	assert_false(s.apart);
	window(&s, 400, 0, 1);
	assert_false(s.apart);
	window(&s, 400, 0, 1);
	assert_true(s.apart);
}

static void two_cores_that_others_want_too_are_given_up(void **state)
{
	struct direct_spin s = {.apart = 1};

	(void)state;
	s.crossings = 400;
	direct_spin_judge(&s, 25000000, 20000000, 1);
	assert_true(s.apart);
	s.crossings = 400;
	direct_spin_judge(&s, 24000000, 20000000, 1);
	assert_false(s.apart);
	assert_int_equal(s.left, 1);
}

static void what_was_not_quick_is_tried_more_and_more_rarely_until_it_is(void **state)
{
	struct direct_spin s = {0};
	unsigned waited = 0;

	(void)state;
	for (unsigned trial = 0; trial < 12; trial++) {
		for (waited = 0; !s.apart; waited++)
			window(&s, 1000, 0, 1);
		window(&s, 1000, 900, 1);
		assert_int_equal(waited, trial ? MIN(1u << (trial - 1), 256u) + 1 : 1);
	}
	for (waited = 0; !s.apart; waited++)
		window(&s, 1000, 0, 1);
	assert_int_equal(waited, 257);
	/* What is quick once, after that, may have been chance. */
	window(&s, 1000, 10, 1);
	assert_true(s.apart);
	window(&s, 1000, 900, 1);
	for (waited = 0; !s.apart; waited++)
		window(&s, 1000, 0, 1);
	assert_int_equal(waited, 257);
	for (unsigned i = 0; i < 9; i++)
		window(&s, 1000, 10, 1);
	window(&s, 1000, 900, 1);
	for (waited = 0; !s.apart; waited++)
		window(&s, 1000, 0, 1);
	assert_int_equal(waited, 2);
}

/* As if the thread were kept on one of two cores. */
static void two_cores(struct soft_direct *d)
{
	d->core.held = 1;
	CPU_ZERO(&d->core.before);
	CPU_SET(0, &d->core.before);
	CPU_SET(1, &d->core.before);
	d->spin.apart = 1;
	d->core.begun = __builtin_ia32_rdtsc();
}

static void only_the_helper_that_was_left_last_looks(void **state)
{
	struct soft_cpu *cpu = calloc(1, sizeof(*cpu));
	struct direct_shared *shared = calloc(2, sizeof(*shared));
	struct direct_helper h[2] = {{.shared = shared}, {.shared = shared + 1}};
	struct soft_direct d = {0};

	(void)state;
	assert_non_null(cpu);
	assert_non_null(shared);
	cpu->direct = &d;
	two_cores(&d);
	direct_spin_enter(cpu, &h[0]);
	assert_int_equal(shared[0].spin, DIRECT_SPIN_MAX);
	direct_spin_enter(cpu, &h[1]);
	assert_int_equal(shared[0].spin, 0);
	assert_int_equal(shared[1].spin, DIRECT_SPIN_MAX);
	/* It is no more: its memory is not there either. */
	h[1].shared = NULL;
	direct_spin_enter(cpu, &h[0]);
	assert_int_equal(shared[0].spin, DIRECT_SPIN_MAX);
	direct_spin_rest(&d);
	assert_int_equal(shared[0].spin, 0);
	free(shared);
	free(cpu);
}

static void what_turns_out_to_be_slow_is_given_up_before_the_window_ends(void **state)
{
	struct soft_cpu *cpu = calloc(1, sizeof(*cpu));
	struct direct_shared *shared = calloc(1, sizeof(*shared));
	struct direct_helper h = {.shared = shared};
	struct soft_direct d = {0};

	(void)state;
	assert_non_null(cpu);
	assert_non_null(shared);
	cpu->direct = &d;
	two_cores(&d);
	for (unsigned i = 0; i < 64; i++) {
		direct_spin_enter(cpu, &h);
		assert_true(d.spin.apart);
		direct_spin_crossed(cpu, i % 3 != 0);
	}
	assert_int_equal(cpu->stats.direct_apart, 22);
	direct_spin_enter(cpu, &h);
	assert_false(d.spin.apart);
	assert_int_equal(shared->spin, 0);
	assert_int_equal(d.spin.left, 1);
	/* Nor does it go on where the thread is on no core of its own. */
	two_cores(&d);
	d.core.held = 0;
	direct_spin_enter(cpu, &h);
	assert_false(d.spin.apart);
	two_cores(&d);
	CPU_CLR(1, &d.core.before);
	direct_spin_enter(cpu, &h);
	assert_false(d.spin.apart);
	free(shared);
	free(cpu);
}

CODE(add, "mov $0x50000, %edi\n"
	  "mov (%rdi), %rax\n"
	  "add $3, %rax\n"
	  "mov %rax, (%rdi)\n"
	  "syscall\n");

static void crossings(struct board *b, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		user_again(b, USER_CODE);
		assert_int_equal(board_run(b), 0x80);
	}
}

static void on_two_cores_user_code_does_the_same(void **state)
{
	struct board *b = *state;
	struct soft_direct *d = b->cpu->direct;
	cpu_set_t all, set;

	memset(&all, 0xff, sizeof(all));
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	if (CPU_COUNT(&all) < 2) {
		print_message("skipped: there is one core\n");
		skip();
	}
	assert_int_equal(RUN_USER(b, add), 0x80);
	ran(b);
	uint64_t value = board_read(b, USER_DATA, 8);
	struct direct_helper *h = user_helper(b);
	assert_non_null(h);
	/* No window ends, and nothing is found to be slow. */
	for (unsigned i = 1; i <= 300; i++) {
		d->core.begun = __builtin_ia32_rdtsc();
		d->spin.apart = 1;
		d->spin.crossings = 0;
		d->core.contended = 0;
		d->core.begun = d->core.begun;
		crossings(b, 1);
		assert_int_equal(board_read(b, USER_DATA, 8), value + i * 3);
	}
	if (d->spin.apart) { /* the host may have moved the thread just then */
		assert_int_equal(sched_getaffinity(h->pid, sizeof(set), &set), 0);
		assert_int_equal(CPU_COUNT(&set), CPU_COUNT(&all) - 1);
		assert_false(CPU_ISSET((size_t)h->core - 1, &set));
	}
	/* The helper does not look for work that nobody has for it. */
	assert_int_equal(atomic_load(&h->shared->spin), 0);
	assert_null(d->spin.last);
	d->spin.apart = 0;
	d->core.begun = __builtin_ia32_rdtsc();
	crossings(b, 1);
	assert_int_equal(sched_getaffinity(h->pid, sizeof(set), &set), 0);
	assert_int_equal(CPU_COUNT(&set), 1);
	assert_int_equal(b->cpu->stats.direct_lost, 0);
}

/* `go`, which says that a helper has stopped, is in memory that user code may write. */
CODE(forge, "movl $0, (%rsi)\n"
	    "mov $100000, %ecx\n"
	    "1: dec %ecx\n"
	    "jnz 1b\n"
	    "mov $77, %r8d\n"
	    "syscall\n");
static void who_says_that_it_has_stopped_and_has_not_is_not_believed(void **state)
{
	struct board *b = *state;
	struct soft_direct *d = b->cpu->direct;

	assert_int_equal(RUN_USER(b, add), 0x80);
	ran(b);
	struct direct_helper *h = user_helper(b);
	assert_non_null(h);
	uint64_t go = h->base + DIRECT_CODE_SIZE + offsetof(struct direct_shared, go);
	board_load(b, USER_CODE, forge, (size_t)(forge_end - forge));
	for (unsigned i = 0; i < 20; i++) {
		user_again(b, USER_CODE);
		b->cpu->s.gpr[X86_RSI] = go;
		b->cpu->s.gpr[X86_R8] = 0;
		d->core.begun = __builtin_ia32_rdtsc();
		d->spin.apart = 1;
		/* What it then tells of its stop is not the number that it was given: its program
		 * is at an end. */
		int vector = board_run(b);
		assert_true(vector == X86_VEC_GP || vector == 0x80);
		if (vector == X86_VEC_GP)
			break;
		assert_int_equal(b->cpu->s.gpr[X86_R8], 77);
	}
	/* Others are not. */
	board_load(b, USER_CODE, add, (size_t)(add_end - add));
	uint64_t value = board_read(b, USER_DATA, 8);
	crossings(b, 3);
	assert_int_equal(board_read(b, USER_DATA, 8), value + 9);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_direct, board_teardown)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(many_crossings_are_tried_on_two_cores_while_they_are_quick),
	    cmocka_unit_test(two_cores_that_others_want_too_are_given_up),
	    cmocka_unit_test(what_was_not_quick_is_tried_more_and_more_rarely_until_it_is),
	    cmocka_unit_test(only_the_helper_that_was_left_last_looks),
	    cmocka_unit_test(what_turns_out_to_be_slow_is_given_up_before_the_window_ends),
	    T(on_two_cores_user_code_does_the_same),
	    T(who_says_that_it_has_stopped_and_has_not_is_not_believed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
