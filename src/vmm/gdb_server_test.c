/* gdb_server_test.c: a debugger that comes while there is no descriptor for it. */
#include "vmm/gdb_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/accept_testing.h"
#include "base/unix_socket.h"

static void on_attached(void *opaque)
{
	loop_stop(opaque, 1);
}

static void on_lost(void *opaque)
{
	loop_stop(opaque, 2);
}

static void it_waits_until_there_is_one(void **state)
{
	char dir[] = "/tmp/gdb-server-XXXXXX", where[64];
	struct gdb_server_config cfg = {
	    .where = where, .target.cpus = 1, .attached = on_attached, .lost = on_lost};
	struct gdb_server *server;
	uint64_t begin = host_time_ms();
	int fd;

	assert_non_null(mkdtemp(dir));
	snprintf(where, sizeof(where), "unix:%s/s", dir);
	assert_int_equal(loop_new(&cfg.loop, NULL), 0);
	cfg.opaque = cfg.loop;
	assert_int_equal(gdb_server_new(&server, &cfg, NULL), 0);
	accepts_denied = 2;
	fd = unix_connect(where + 5, 0, NULL);
	assert_true(fd >= 0);
	assert_int_equal(loop_run(cfg.loop), 1);
	assert_int_equal(accepts_denied, 0);
	assert_true(host_time_ms() - begin >= 2 * UNIX_ACCEPT_REST_MS - 1);
	close(fd);
	assert_int_equal(loop_run(cfg.loop), 2);
	gdb_server_free(server);
	loop_free(cfg.loop);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(it_waits_until_there_is_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
