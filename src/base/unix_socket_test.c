/* unix_socket_test.c: listening at a path: modes, stale files, other people's files. */
#include "base/unix_socket.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

struct place {
	char dir[32], path[64];
};

static int set_up(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	strcpy(p->dir, "/tmp/unix-socket-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/s", p->dir);
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;

	unlink(p->path);
	assert_int_equal(rmdir(p->dir), 0);
	free(p);
	return 0;
}

static void listens_for_its_user_alone_and_removes_the_file(void **state)
{
	struct place *p = *state;
	struct unix_listener l;
	struct error err;
	struct stat st;
	int client, server;

	assert_int_equal(unix_listen(&l, p->path, &err), 0);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(unix_accept(&l), -EAGAIN);
	client = unix_connect(p->path, 0, &err);
	assert_true(client >= 0);
	server = unix_accept(&l);
	assert_true(server >= 0);
	assert_int_equal(write(client, "x", 1), 1);
	close(client);
	close(server);
	unix_listener_close(&l);
	assert_int_equal(access(p->path, F_OK), -1);
	unix_listener_close(&l);
}

static void replaces_a_stale_socket_but_not_a_living_one(void **state)
{
	struct place *p = *state;
	struct unix_listener first, second;
	struct error err;

	assert_int_equal(unix_listen(&first, p->path, &err), 0);
	assert_int_equal(unix_listen(&second, p->path, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "another process listens there"));
	assert_int_equal(second.fd, -1);
	close(first.fd); /* as a killed process leaves it */
	assert_int_equal(unix_connect(p->path, 0, &err), -ECONNREFUSED);
	assert_int_equal(unix_listen(&second, p->path, &err), 0);
	unix_listener_close(&second);
}

static void does_not_remove_what_took_its_place(void **state)
{
	struct place *p = *state;
	struct unix_listener l;
	struct error err;
	FILE *f;

	assert_int_equal(unix_listen(&l, p->path, &err), 0);
	unlink(p->path);
	f = fopen(p->path, "w");
	assert_non_null(f);
	fclose(f);
	unix_listener_close(&l);
	assert_int_equal(access(p->path, F_OK), 0);
	assert_int_equal(unix_listen(&l, p->path, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "not a socket"));
}

static void says_what_is_wrong_with_a_path(void **state)
{
	char path[UNIX_PATH_MAX_LEN + 2];
	struct unix_listener l;
	struct error err;

	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 1] = 0;
	assert_int_equal(unix_listen(&l, path, &err), -ENAMETOOLONG);
	assert_int_equal(unix_listen(&l, "", &err), -EINVAL);
	assert_int_equal(unix_listen(&l, "/nonexistent/dir/s", &err), -ENOENT);
	assert_int_equal(unix_connect("/nonexistent/dir/s", 0, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/dir/s"));
}

static void a_listener_that_takes_nobody_keeps_nobody_waiting(void **state)
{
	struct place *p = *state;
	struct unix_listener l, second;
	struct error err;
	int fd[64], n = 0;

	assert_int_equal(unix_listen(&l, p->path, &err), 0);
	while (n < 64 && (fd[n] = unix_connect(p->path, 10, &err)) >= 0)
		n++;
	assert_in_range(n, 1, 63);
	assert_int_equal(fd[n], -ETIMEDOUT);
	assert_non_null(strstr(err.text, "nobody answers at"));
	assert_int_equal(unix_listen(&second, p->path, &err), -EADDRINUSE);
	while (n)
		close(fd[--n]);
	unix_listener_close(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(listens_for_its_user_alone_and_removes_the_file, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(replaces_a_stale_socket_but_not_a_living_one, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(does_not_remove_what_took_its_place, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(a_listener_that_takes_nobody_keeps_nobody_waiting,
					    set_up, tear_down),
	    cmocka_unit_test(says_what_is_wrong_with_a_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
