/* spec_share_test.c: parsing of shared directories. */
#include "proto/spec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static int parse(const char *text, struct spec_share *share, struct error *err)
{
	static char copy[256];

	snprintf(copy, sizeof(copy), "%s", text);
	return spec_parse_share(copy, share, err);
}

static void reads_directory_tag_and_mode(void **state)
{
	static const struct {
		const char *text, *path, *tag;
		_Bool ro;
	} good[] = {
	    {"/srv/data", "/srv/data", "data", 0},
	    {"/srv/data/", "/srv/data/", "data", 0},
	    {"data:ro", "data", "data", 1},
	    {"/srv/data:work", "/srv/data", "work", 0},
	    {"/srv/data:work:ro", "/srv/data", "work", 1},
	    {"/srv/a:b/:ro", "/srv/a:b/", "a:b", 1},
	    {"/srv/a:b/:c", "/srv/a:b/", "c", 0},
	    {".:here", ".", "here", 0},
	    {"/:root:ro", "/", "root", 1},
	};
	struct spec_share s;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse(good[i].text, &s, NULL), 0);
		assert_string_equal(s.path, good[i].path);
		assert_string_equal(s.tag, good[i].tag);
		assert_int_equal(s.read_only, good[i].ro);
	}
}

static void refuses_what_is_no_share_with_a_sentence(void **state)
{
	static const char *const bad[] = {
	    "",
	    ":",
	    ":ro",
	    ":tag",
	    "/",
	    ".",
	    "..",
	    "/srv/a b",
	    "/srv:",
	    "/srv::ro",
	    "/srv:a b",
	    "/srv:a,b",
	    "/srv:a-tag-of-thirty-two-bytes-1234567",
	    "/srv/a-directory-with-a-name-that-is-too-long-for-a-tag",
	};
	struct spec_share s = {.tag = "before"};
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		err.text[0] = 0;
		assert_int_equal(parse(bad[i], &s, &err), -EINVAL);
		assert_non_null(strstr(err.text, "--share"));
		assert_string_equal(s.tag, "before");
	}
}

static void two_shares_need_two_tags(void **state)
{
	struct vm_spec spec;
	struct error err;

	spec_init(&spec);
	assert_int_equal(parse("/a/x", &spec.share[0], NULL), 0);
	assert_int_equal(parse("/b/y", &spec.share[1], NULL), 0);
	spec.share_count = 2;
	assert_int_equal(spec_check_shares(&spec, NULL), 0);
	assert_int_equal(parse("/b/x", &spec.share[1], NULL), 0);
	assert_int_equal(spec_check_shares(&spec, &err), -EINVAL);
	assert_non_null(strstr(err.text, "'x'"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(reads_directory_tag_and_mode),
	    cmocka_unit_test(refuses_what_is_no_share_with_a_sentence),
	    cmocka_unit_test(two_shares_need_two_tags),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
