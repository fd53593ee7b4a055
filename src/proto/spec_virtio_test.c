/* spec_virtio_test.c: parsing of ports, the balloon and the source of random numbers. */
#include "proto/spec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void reads_ports(void **state)
{
	char text[] = "org.example.agent.0=unix:/tmp/a=b", long_name[120];
	static const char *const bad[] = {
	    "",	    "x",	   "x=",	  "x=unix:",	"=unix:/a",
	    "x=/a", "a/b=unix:/a", "a b=unix:/a", "..=unix:/a",
	};
	struct spec_port p = {0};
	struct error err;

	assert_int_equal(spec_parse_port(text, &p, &err), 0);
	assert_string_equal(p.name, "org.example.agent.0");
	assert_string_equal(p.path, "/tmp/a=b");
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		char copy[32];

		snprintf(copy, sizeof(copy), "%s", bad[i]);
		assert_int_equal(spec_parse_port(copy, &p, &err), -EINVAL);
		assert_non_null(strstr(err.text, "--port"));
	}
	memset(long_name, 'n', 64);
	memcpy(long_name + 64, "=unix:/a", 9);
	assert_int_equal(spec_parse_port(long_name, &p, &err), -EINVAL);
	assert_string_equal(p.path, "/tmp/a=b");
}

static void reads_balloons(void **state)
{
	static const char *const bad[] = {
	    "",
	    ",",
	    "big",
	    "64X",
	    "stats",
	    "stats=x",
	    "stats=86401",
	    "deflate-on-oom,64M",
	    "none,64M",
	    "64M,",
	    "64M,free-page-reporting=on",
	};
	struct spec_balloon b = {.stats_seconds = 10};
	struct error err;

	assert_int_equal(
	    spec_parse_balloon("64M,free-page-reporting,deflate-on-oom,stats=0", &b, &err), 0);
	assert_true(b.bytes == 64 << 20 && b.free_page_reporting && b.deflate_on_oom && !b.absent);
	assert_int_equal(b.stats_seconds, 0);
	b = (struct spec_balloon){.stats_seconds = 10};
	assert_int_equal(spec_parse_balloon("deflate-on-oom", &b, &err), 0);
	assert_true(!b.bytes && !b.free_page_reporting && b.deflate_on_oom);
	assert_int_equal(b.stats_seconds, 10);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		if (spec_parse_balloon(bad[i], &b, &err) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
	assert_true(b.deflate_on_oom && !b.absent);
	assert_int_equal(spec_parse_balloon("none", &b, &err), 0);
	assert_true(b.absent);
}

static void reads_rates(void **state)
{
	static const char *const bad[] = {
	    "", "on", "rate", "rate=", "rate=0", "rate=2G", "rate=1Q"};
	struct spec_rng r = {0};
	struct error err;

	assert_int_equal(spec_parse_rng("rate=64K", &r, &err), 0);
	assert_true(r.rate == 64 << 10 && !r.absent);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(spec_parse_rng(bad[i], &r, &err), -EINVAL);
		assert_non_null(strstr(err.text, "--rng"));
	}
	assert_int_equal(spec_parse_rng("none", &r, &err), 0);
	assert_true(r.absent);
}

static void checks_what_belongs_together(void **state)
{
	struct vm_spec spec;
	struct error err;

	spec_init(&spec);
	spec.balloon.bytes = spec.memory_bytes;
	assert_int_equal(spec_check_virtio(&spec, &err), 0);
	spec.balloon.bytes++;
	assert_int_equal(spec_check_virtio(&spec, &err), -EINVAL);
	spec.balloon.bytes = 0;
	spec.port[0] = (struct spec_port){"a", "/a"};
	spec.port[1] = (struct spec_port){"b", "/a"};
	spec.port_count = 2;
	assert_int_equal(spec_check_virtio(&spec, &err), 0);
	spec.port[1].name = "a";
	assert_int_equal(spec_check_virtio(&spec, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(reads_ports),
	    cmocka_unit_test(reads_balloons),
	    cmocka_unit_test(reads_rates),
	    cmocka_unit_test(checks_what_belongs_together),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
