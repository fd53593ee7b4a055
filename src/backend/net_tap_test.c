/* net_tap_test.c: what is said when a tap interface cannot be opened. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "backend/net.h"

static void an_interface_that_is_not_there_is_named_and_not_made(void **state)
{
	struct loop *loop;
	struct error err;
	struct net *net;

	assert_int_equal(loop_new(&loop, NULL), 0);
	assert_int_equal(net_tap_new(&net, loop, "pvnosuch0", &err), -ENODEV);
	assert_non_null(strstr(err.text, "there is no tap interface 'pvnosuch0'"));
	assert_int_equal(net_tap_new(&net, loop, "pvnosuch0", &err), -ENODEV);
	loop_free(loop);
}

static void names_that_no_interface_has_are_refused(void **state)
{
	static const char *const bad[] = {"", "a/b", "tap%d", "sixteen-letters-x"};
	struct loop *loop;
	struct error err;
	struct net *net;

	assert_int_equal(loop_new(&loop, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(net_tap_new(&net, loop, bad[i], &err), -EINVAL);
	loop_free(loop);
}

static void an_interface_that_is_no_tap_is_refused(void **state)
{
	struct loop *loop;
	struct error err;
	struct net *net;

	assert_int_equal(loop_new(&loop, NULL), 0);
	assert_true(net_tap_new(&net, loop, "lo", &err) < 0);
	assert_true(err.text[0]);
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(an_interface_that_is_not_there_is_named_and_not_made),
	    cmocka_unit_test(names_that_no_interface_has_are_refused),
	    cmocka_unit_test(an_interface_that_is_no_tap_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
