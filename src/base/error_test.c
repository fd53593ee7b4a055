/* error_test.c: tests of sentences. */
#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

static void keeps_code_and_sentence(void **state)
{
	struct error err;

	assert_int_equal(error_set(&err, -ENOENT, "no %s at %d", "file", 7), -ENOENT);
	assert_int_equal(err.code, -ENOENT);
	assert_string_equal(err.text, "no file at 7");
	assert_int_equal(error_prefix(&err, "disk %u", 2u), -ENOENT);
	assert_string_equal(err.text, "disk 2: no file at 7");
}

static void drops_the_sentence_when_nobody_listens(void **state)
{
	assert_int_equal(error_set(NULL, -EIO, "x"), -EIO);
	assert_int_equal(error_prefix(NULL, "x"), 0);
}

static void cuts_what_is_too_long(void **state)
{
	char longer[2000];
	struct error err;

	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	assert_int_equal(error_set(&err, -EIO, "%s", longer), -EIO);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	assert_int_equal(error_prefix(&err, "%s", longer), -EIO);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(keeps_code_and_sentence),
	    cmocka_unit_test(drops_the_sentence_when_nobody_listens),
	    cmocka_unit_test(cuts_what_is_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
