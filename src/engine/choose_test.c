/* choose_test.c: which engine is chosen, and what is said about it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "engine/choose.h"

static void probe_slow(struct engine_probe *out)
{
	*out = (struct engine_probe){.usable = 1, .why = "it crawls"};
}

static void probe_absent(struct engine_probe *out)
{
	*out = (struct engine_probe){.why = "there is none"};
}

static void probe_good(struct engine_probe *out)
{
	*out = (struct engine_probe){.usable = 1, .advisable = 1, .why = "it runs anywhere"};
}

static const struct engine_ops slow = {.name = "slow", .probe = probe_slow};
static const struct engine_ops absent = {.name = "absent", .probe = probe_absent};
static const struct engine_ops good = {.name = "good", .probe = probe_good};
static const struct engine_ops *const all[] = {&slow, &absent, &good};
static const struct engine_list list = {all, 3}, without_good = {all, 2}, empty = {all, 0};

static void auto_takes_the_first_that_is_advised_and_says_why_not_the_others(void **state)
{
	const struct engine_ops *ops = NULL;
	char why[512];

	assert_int_equal(engine_choose(&list, "auto", &ops, why, NULL), 0);
	assert_ptr_equal(ops, &good);
	assert_string_equal(why, "engine good: not slow (it crawls); not absent (there is none); "
				 "it runs anywhere");
	(void)state;
}

static void auto_refuses_when_none_is_advised(void **state)
{
	const struct engine_ops *ops = NULL;
	struct error err;

	assert_int_equal(engine_choose(&without_good, "auto", &ops, NULL, &err), -ENODEV);
	assert_null(ops);
	assert_non_null(strstr(err.text, "it crawls"));
	assert_non_null(strstr(err.text, "there is none"));
	assert_int_equal(engine_choose(&empty, "auto", &ops, NULL, &err), -ENODEV);
	(void)state;
}

static void a_named_engine_is_taken_if_it_works_at_all(void **state)
{
	const struct engine_ops *ops = NULL;
	struct error err;
	char why[512];

	assert_int_equal(engine_choose(&list, "slow", &ops, why, NULL), 0);
	assert_ptr_equal(ops, &slow);
	assert_non_null(strstr(why, "it crawls"));
	assert_int_equal(engine_choose(&list, "good", &ops, why, NULL), 0);
	assert_string_equal(why, "engine good: as asked");
	assert_int_equal(engine_choose(&list, "absent", &ops, why, &err), -ENODEV);
	assert_ptr_equal(ops, &good);
	assert_non_null(strstr(err.text, "there is none"));
	(void)state;
}

static void an_unknown_name_is_answered_with_the_known_ones(void **state)
{
	const struct engine_ops *ops = NULL;
	struct error err;

	assert_int_equal(engine_choose(&list, "xen", &ops, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "\"xen\""));
	assert_non_null(strstr(err.text, "auto, slow, absent, good"));
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(auto_takes_the_first_that_is_advised_and_says_why_not_the_others),
	    cmocka_unit_test(auto_refuses_when_none_is_advised),
	    cmocka_unit_test(a_named_engine_is_taken_if_it_works_at_all),
	    cmocka_unit_test(an_unknown_name_is_answered_with_the_known_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
