/* spec_vsock_test.c: parsing of the virtio socket device. */
#include "proto/spec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static int parse(const char *text, struct spec_vsock *v, struct error *err)
{
	static char copy[256];

	snprintf(copy, sizeof(copy), "%s", text);
	return spec_parse_vsock(copy, v, err);
}

static void reads_number_and_path(void **state)
{
	struct spec_vsock v;

	assert_int_equal(parse("3,unix:/run/v", &v, NULL), 0);
	assert_int_equal(v.cid, 3);
	assert_string_equal(v.path, "/run/v");
	assert_int_equal(parse("4294967294,unix:a,b", &v, NULL), 0);
	assert_int_equal(v.cid, 4294967294u);
	assert_string_equal(v.path, "a,b");
}

static void refuses_others_with_a_sentence(void **state)
{
	static const char *const bad[] = {
	    "",		"3",	    "3,",	"3,/run/v",  "3,unix:",		 ",unix:a",
	    "x,unix:a", "2,unix:a", "0,unix:a", "-1,unix:a", "4294967295,unix:a"};
	struct spec_vsock v = {.cid = 77};
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(parse(bad[i], &v, &err), -EINVAL);
		assert_non_null(strstr(err.text, "--vsock"));
		assert_int_equal(v.cid, 77);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(reads_number_and_path),
	    cmocka_unit_test(refuses_others_with_a_sentence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
