/* spec_test.c: parsing and checking a VM's description. */
#include "proto/spec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

static uint64_t memory(const char *text)
{
	uint64_t v = 0;
	return spec_parse_memory(text, &v, NULL) ? 0 : v;
}

static void reads_memory_sizes_with_and_without_units(void **state)
{
	assert_int_equal(memory("256"), 256u << 20);
	assert_int_equal(memory("1G"), 1u << 30);
	assert_int_equal(memory("4096K"), 4u << 20);
	assert_int_equal(memory("2GiB"), UINT64_C(2) << 30);
	assert_int_equal(memory("1t"), UINT64_C(1) << 40);
}

static void refuses_sizes_that_are_not_numbers_or_overflow(void **state)
{
	struct error err;
	uint64_t v = 7;

	static const char *const bad[] = {
	    "",	    "G", "-1", "1X", "1GG", "99999999999999999999", "18446744073709551615T",
	    "0x10", " 1"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(spec_parse_memory(bad[i], &v, &err), -EINVAL);
		assert_int_equal(v, 7);
		assert_true(err.text[0]);
	}
}

static void refuses_cpu_counts_outside_the_range(void **state)
{
	struct vm_spec spec;
	struct error err;

	spec_init(&spec);
	spec.kernel = "k";
	assert_int_equal(spec_check(&spec, &err), 0);
	spec.cpus = 0;
	assert_int_equal(spec_check(&spec, &err), -EINVAL);
	spec.cpus = 10000;
	assert_int_equal(spec_check(&spec, &err), -EINVAL);
}

static void reads_which_blocks_are_traced(void **state)
{
	char all[] = "t", some[] = "a,,b,1000-ffffffffffffffff";
	static const char *const bad[] = {"t,", "t,5", "t,5-", "t,9-5", "t,x-y", "t,1-2z", ""};
	struct vm_spec spec;

	assert_int_equal(spec_parse_trace_blocks(all, &spec, NULL), 0);
	assert_string_equal(spec.trace_blocks, "t");
	assert_true(spec.trace_from == 0 && spec.trace_to == UINT64_MAX);
	assert_int_equal(spec_parse_trace_blocks(some, &spec, NULL), 0);
	assert_string_equal(spec.trace_blocks, "a,b");
	assert_true(spec.trace_from == 0x1000 && spec.trace_to == UINT64_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char text[32];

		snprintf(text, sizeof(text), "%s", bad[i]);
		assert_int_equal(spec_parse_trace_blocks(text, &spec, NULL), -EINVAL);
	}
}

static void refuses_a_machine_without_kernel_or_memory(void **state)
{
	struct vm_spec spec;
	struct error err;

	spec_init(&spec);
	assert_int_equal(spec_check(&spec, &err), -EINVAL);
	spec.kernel = "k";
	spec.memory_bytes = 4096;
	assert_int_equal(spec_check(&spec, &err), -EINVAL);
	spec.memory_bytes = (UINT64_C(64) << 20) + 1;
	assert_int_equal(spec_check(&spec, &err), -EINVAL);
	spec.memory_bytes = UINT64_C(2) << 40;
	assert_int_equal(spec_check(&spec, &err), -EINVAL);
}

static void reads_whole_numbers_in_a_range(void **state)
{
	uint64_t v = 0;
	struct error err;

	assert_int_equal(spec_parse_number("CPUs", "8", 1, 64, &v, &err), 0);
	assert_int_equal(v, 8);
	assert_int_equal(spec_parse_number("CPUs", "0", 1, 64, &v, &err), -EINVAL);
	assert_int_equal(spec_parse_number("CPUs", "8x", 1, 64, &v, &err), -EINVAL);
	assert_int_equal(spec_parse_number("CPUs", "", 1, 64, &v, &err), -EINVAL);
}

static void reads_disks_with_options_and_doubled_commas(void **state)
{
	struct spec_disk d;
	struct error err;
	char plain[] = "disk.img", all[] = "a,,b,ro,serial=S 1,queues=3,discard=off,direct,mmio";
	char *const bad[] = {(char[]){""},	     (char[]){",ro"},
			     (char[]){"x,"},	     (char[]){"x,serial="},
			     (char[]){"x,queues=0"}, (char[]){"x,discard=maybe"}};

	assert_int_equal(spec_parse_disk(plain, &d, &err), 0);
	assert_string_equal(d.path, "disk.img");
	assert_false(d.read_only || d.no_discard || d.direct || d.queues || d.serial);
	assert_int_equal(spec_parse_disk(all, &d, &err), 0);
	assert_string_equal(d.path, "a,b");
	assert_string_equal(d.serial, "S 1");
	assert_true(d.read_only && d.no_discard && d.direct && d.mmio);
	assert_int_equal(d.queues, 3);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(spec_parse_disk(bad[i], &d, &err), -EINVAL);
	assert_string_equal(d.path, "a,b");
}

static void reads_what_other_processes_serve(void **state)
{
	struct spec_disk d;
	struct spec_fs fs;
	struct error err;
	char disk[] = "vhost-user=/run/a,,b,queues=3,mmio", all[] = "vhost-user=s,tag=lab,queues=2";
	char bad_disk[][40] = {"vhost-user=", "vhost-user=s,ro", "vhost-user=s,serial=1",
			       "vhost-user=s,direct", "vhost-user=s,discard=off"};
	char bad_fs[][64] = {
	    "",
	    "/srv",
	    "vhost-user=,tag=a",
	    "vhost-user=s",
	    "vhost-user=s,tag=",
	    "vhost-user=s,tag=0123456789012345678901234567890123456",
	    "vhost-user=s,tag=a,queues=0",
	    "vhost-user=s,tag=a,ro",
	};

	assert_int_equal(spec_parse_disk(disk, &d, &err), 0);
	assert_true(d.vhost_user && d.mmio);
	assert_string_equal(d.path, "/run/a,b");
	assert_int_equal(d.queues, 3);
	for (unsigned i = 0; i < ARRAY_SIZE(bad_disk); i++)
		assert_int_equal(spec_parse_disk(bad_disk[i], &d, &err), -EINVAL);
	assert_int_equal(spec_parse_fs(all, &fs, &err), 0);
	assert_string_equal(fs.path, "s");
	assert_string_equal(fs.tag, "lab");
	assert_int_equal(fs.queues, 2);
	for (unsigned i = 0; i < ARRAY_SIZE(bad_fs); i++)
		assert_int_equal(spec_parse_fs(bad_fs[i], &fs, &err), -EINVAL);
}

static void cpu_features_are_asked_for_by_name(void **state)
{
	static const char *const bad[] = {"", "avx512", "+avx", "+avx512,", "+avx512f", "*avx512"};
	enum spec_feature f = SPEC_FEATURE_AUTO;
	struct error err;

	(void)state;
	assert_int_equal(spec_parse_cpu_features("+avx512", &f, &err), 0);
	assert_int_equal(f, SPEC_FEATURE_ON);
	assert_int_equal(spec_parse_cpu_features("+avx512,-avx512", &f, &err), 0);
	assert_int_equal(f, SPEC_FEATURE_OFF);
	for (size_t k = 0; k < sizeof(bad) / sizeof(bad[0]); k++)
		assert_int_equal(spec_parse_cpu_features(bad[k], &f, &err), -EINVAL);
	assert_int_equal(f, SPEC_FEATURE_OFF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(reads_memory_sizes_with_and_without_units),
	    cmocka_unit_test(refuses_sizes_that_are_not_numbers_or_overflow),
	    cmocka_unit_test(refuses_cpu_counts_outside_the_range),
	    cmocka_unit_test(reads_which_blocks_are_traced),
	    cmocka_unit_test(refuses_a_machine_without_kernel_or_memory),
	    cmocka_unit_test(reads_whole_numbers_in_a_range),
	    cmocka_unit_test(reads_disks_with_options_and_doubled_commas),
	    cmocka_unit_test(cpu_features_are_asked_for_by_name),
	    cmocka_unit_test(reads_what_other_processes_serve),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
