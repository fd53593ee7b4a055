/* rundir_test.c: names of VMs and where their sockets are. */
#include "vmm/rundir.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static int set_up(void **state)
{
	static char dir[32];

	strcpy(dir, "/tmp/rundir-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	setenv("XDG_RUNTIME_DIR", dir, 1);
	*state = dir;
	return 0;
}

static int tear_down(void **state)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/polyvisor", (char *)*state);
	rmdir(path);
	return rmdir(*state);
}

static void names_are_plain(void **state)
{
	static const char *const good[] = {"a", "web-1", "Test_2.b", "0"};
	static const char *const bad[] = {"", ".", "..", ".a", "-a", "a/b", "a b", "\xc3\xa4"};
	char longest[RUNDIR_NAME_MAX + 2];
	struct error err;

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(rundir_check_name(good[i], &err), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(rundir_check_name(bad[i], &err), -EINVAL);
	memset(longest, 'a', sizeof(longest));
	longest[RUNDIR_NAME_MAX + 1] = 0;
	assert_int_equal(rundir_check_name(longest, &err), -EINVAL);
	longest[RUNDIR_NAME_MAX] = 0;
	assert_int_equal(rundir_check_name(longest, &err), 0);
}

static void the_directory_is_this_users_alone(void **state)
{
	char path[108], expected[108], dir[64];
	struct error err;
	struct stat st;

	snprintf(dir, sizeof(dir), "%s/polyvisor", (char *)*state);
	assert_int_equal(rundir_socket("vm", path, sizeof(path), &err), 0);
	snprintf(expected, sizeof(expected), "%s/vm.sock", dir);
	assert_string_equal(path, expected);
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(chmod(dir, 0755), 0);
	assert_int_equal(rundir_socket("vm", path, sizeof(path), &err), -EPERM);
	assert_non_null(strstr(err.text, dir));
}

static void note(void *opaque, const char *name, const char *path)
{
	strcat(strcat(opaque, name), " ");
}

static void lists_sockets_by_name(void **state)
{
	static const char *const files[] = {"b.sock", "a.sock", "c.txt", ".d.sock", ".sock"};
	char path[128], names[64] = "";
	struct error err;

	assert_int_equal(rundir_each(note, names, &err), 0);
	assert_string_equal(names, "");
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/polyvisor/%s", (char *)*state, files[i]);
		fclose(fopen(path, "w"));
	}
	assert_int_equal(rundir_each(note, names, &err), 0);
	assert_string_equal(names, "a b ");
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/polyvisor/%s", (char *)*state, files[i]);
		unlink(path);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(names_are_plain),
	    cmocka_unit_test_setup_teardown(the_directory_is_this_users_alone, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(lists_sockets_by_name, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
