/* lock_test.c: tests of ranked locks. */
#include "base/lock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs fn in a child; true when it died of an assertion. */
static _Bool asserts(void (*fn)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct rlimit none = {0, 0};

		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void pair_take(enum lock_rank first, enum lock_rank second)
{
	struct lock a, b;

	lock_init(&a, first);
	lock_init(&b, second);
	lock_take(&a);
	lock_take(&b);
}

static void upwards(void)
{
	pair_take(RANK_DEVICE, RANK_INTC);
}
static void downwards(void)
{
	pair_take(RANK_LAPIC, RANK_DEVICE);
}
static void same(void)
{
	pair_take(RANK_DEVICE, RANK_DEVICE);
}
static void drop_untaken(void)
{
	struct lock a;

	lock_init(&a, RANK_VM);
	lock_drop(&a);
}

static void order_is_asserted(void **state)
{
	assert_false(asserts(upwards));
#ifndef NDEBUG
	assert_true(asserts(downwards));
	assert_true(asserts(same));
	assert_true(asserts(drop_untaken));
#else
	(void)downwards, (void)same, (void)drop_untaken;
#endif
}

static void knows_which_are_held(void **state)
{
	struct lock a, b, c;

	lock_init(&a, RANK_VM);
	lock_init(&b, RANK_DEVICE);
	lock_init(&c, RANK_CLOCK);
	lock_take(&a);
	lock_take(&b);
	lock_drop(&a); /* out of order is fine */
	lock_take(&c);
	assert_true(lock_held(&b));
	assert_true(lock_held(&c));
#ifndef NDEBUG
	assert_false(lock_held(&a));
#endif
	lock_drop(&b);
	lock_drop(&c);
	lock_take(&a);
	lock_drop(&a);
	lock_fini(&a);
	lock_fini(&b);
	lock_fini(&c);
}

struct counter {
	struct lock lock;
	unsigned n;
};

static void *count_up(void *opaque)
{
	struct counter *c = opaque;

	for (int i = 0; i < 10000; i++) {
		lock_take(&c->lock);
		c->n++;
		lock_drop(&c->lock);
	}
	return NULL;
}

static void excludes_other_threads(void **state)
{
	struct counter c = {.n = 0};
	pthread_t thread;

	lock_init(&c.lock, RANK_DEVICE);
	assert_int_equal(pthread_create(&thread, NULL, count_up, &c), 0);
	count_up(&c);
	pthread_join(thread, NULL);
	assert_int_equal(c.n, 20000);
	lock_fini(&c.lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(order_is_asserted),
	    cmocka_unit_test(knows_which_are_held),
	    cmocka_unit_test(excludes_other_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
