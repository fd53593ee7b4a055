/* probe_test.c: what the probe says of this host, whatever it is. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "engine/kvm/kvm.h"

static void the_probe_ends_soon_and_says_why(void **state)
{
	struct engine_probe probe;
	struct timespec a, b;
	long ms = LONG_MAX;

	/* 40 ms and some; and a busy host may have to try again. */
	for (unsigned i = 0; i < 10 && ms >= 2000; i++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		engine_kvm.probe(&probe);
		clock_gettime(CLOCK_MONOTONIC, &b);
		ms = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
		printf("%s (%ld ms)\n", probe.why, ms);
	}
	assert_true(probe.why[0] != 0);
	assert_true(strlen(probe.why) < sizeof(probe.why) - 1);
	assert_false(probe.advisable && !probe.usable);
	assert_true(ms < 2000);
	(void)state;
}

static void opening_succeeds_or_says_what_is_missing(void **state)
{
	struct error err = {0};
	int fd = kvm_open(&err);

	if (fd >= 0) {
		assert_int_equal(err.code, 0);
		close(fd);
	} else {
		assert_int_equal(err.code, fd);
		assert_true(strlen(err.text) > 20);
	}
	(void)state;
}

static void capabilities_and_tsc_rate_go_with_the_device(void **state)
{
	struct cpuid_caps caps;
	int fd = kvm_open(NULL);

	engine_kvm.caps(&caps);
	assert_int_equal(fd >= 0, engine_kvm.tsc_khz() != 0);
	if (fd < 0)
		assert_false(caps.avx);
	else
		close(fd);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_probe_ends_soon_and_says_why),
	    cmocka_unit_test(opening_succeeds_or_says_what_is_missing),
	    cmocka_unit_test(capabilities_and_tsc_rate_go_with_the_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
