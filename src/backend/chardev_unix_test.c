/* chardev_unix_test.c: the back end behind a listening socket, with clients that come and go. */
#include "backend/chardev.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/accept_testing.h"
#include "base/unix_socket.h"

struct env {
	struct loop *loop;
	struct chardev *ch;
	char dir[32], path[48];
	uint8_t got[400000];
	size_t got_len, room;
	unsigned can_writes, came, went;
	struct loop_work tick;
	unsigned ticks;
};

static size_t env_room(void *opaque)
{
	return ((struct env *)opaque)->room;
}

static void env_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct env *e = opaque;

	assert_true(len <= e->room && e->got_len + len <= sizeof(e->got));
	memcpy(e->got + e->got_len, data, len);
	e->got_len += len;
	e->room -= len;
}

static void env_can_write(void *opaque)
{
	((struct env *)opaque)->can_writes++;
}

static void env_connected(void *opaque, _Bool on)
{
	struct env *e = opaque;

	e->came += on;
	e->went += !on;
	assert_true(e->came - e->went == on); /* one at a time */
}

static void on_tick(struct loop_work *work)
{
	struct env *e = work->opaque;

	if (--e->ticks)
		loop_post(e->loop, work);
	else
		loop_stop(e->loop, 0);
}

/* Rounds in which everything that is ready runs. */
static void spin(struct env *e)
{
	e->ticks = 300;
	loop_post(e->loop, &e->tick);
	loop_run(e->loop);
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));
	const struct chardev_client client = {env_room, env_receive, env_can_write, e,
					      env_connected};

	*state = e;
	e->tick = (struct loop_work){.fn = on_tick, .opaque = e};
	e->room = sizeof(e->got);
	snprintf(e->dir, sizeof(e->dir), "/tmp/chardev-XXXXXX");
	if (!mkdtemp(e->dir))
		return -1;
	snprintf(e->path, sizeof(e->path), "%s/port", e->dir);
	if (loop_new(&e->loop, NULL) || chardev_unix_new(&e->ch, e->loop, e->path, NULL))
		return -1;
	chardev_attach(e->ch, &client);
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	chardev_free(e->ch);
	loop_free(e->loop);
	assert_int_equal(rmdir(e->dir), 0); /* the socket is gone */
	free(e);
	return 0;
}

static int dial(struct env *e)
{
	int fd = unix_connect(e->path, 0, NULL);

	assert_true(fd >= 0);
	spin(e);
	return fd;
}

static void carries_both_ways(void **state)
{
	struct env *e = *state;
	char text[8];
	int fd;

	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"lost", 4), 4); /* nobody is there */
	fd = dial(e);
	assert_int_equal(e->came, 1);
	assert_int_equal(send(fd, "hello", 5, 0), 5);
	spin(e);
	assert_int_equal(e->got_len, 5);
	assert_memory_equal(e->got, "hello", 5);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"back", 4), 4);
	spin(e);
	assert_int_equal(recv(fd, text, sizeof(text), MSG_DONTWAIT), 4);
	close(fd);
	spin(e);
	assert_int_equal(e->went, 1);
}

static void what_was_sent_before_closing_arrives(void **state)
{
	struct env *e = *state;
	static uint8_t bytes[100000];
	int fd, next;

	e->room = 0;
	fd = dial(e);
	assert_int_equal(send(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	close(fd);
	next = unix_connect(e->path, 0, NULL); /* waits */
	assert_int_equal(send(next, "next", 4, 0), 4);
	spin(e);
	assert_int_equal(e->got_len, 0);
	assert_int_equal(e->went, 0);
	e->room = 60000;
	chardev_kick_input(e->ch);
	spin(e);
	assert_int_equal(e->got_len, 60000);
	e->room = sizeof(e->got) - 60000;
	chardev_kick_input(e->ch);
	spin(e);
	assert_int_equal(e->got_len, sizeof(bytes) + 4);
	assert_memory_equal(e->got + sizeof(bytes), "next", 4);
	assert_true(e->went == 1 && e->came == 2);
	close(next);
}

static void half_a_close_still_receives(void **state)
{
	struct env *e = *state;
	char text[8];
	int fd = dial(e);

	assert_int_equal(send(fd, "ask", 3, 0), 3);
	shutdown(fd, SHUT_WR);
	spin(e);
	assert_int_equal(e->got_len, 3);
	assert_int_equal(e->went, 0);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"answer", 6), 6);
	spin(e);
	assert_int_equal(recv(fd, text, sizeof(text), MSG_DONTWAIT), 6);
	close(fd);
	spin(e);
	assert_int_equal(e->went, 1);
}

static void who_does_not_read_stops_the_writer_until_it_goes(void **state)
{
	static uint8_t bytes[65536];
	struct env *e = *state;
	int fd = dial(e);
	unsigned rounds = 0;

	while (chardev_write(e->ch, bytes, sizeof(bytes)) == sizeof(bytes)) {
		spin(e);
		assert_true(++rounds < 100);
	}
	spin(e);
	assert_int_equal(e->can_writes, 0);
	close(fd);
	spin(e);
	assert_int_equal(e->can_writes, 1);
	assert_int_equal(e->went, 1);
	assert_int_equal(chardev_write(e->ch, bytes, sizeof(bytes)), sizeof(bytes));
	close(dial(e));
	spin(e);
	assert_int_equal(e->went, 2);
}

static void a_flood_waits_in_its_own_socket(void **state)
{
	static uint8_t bytes[65536];
	struct env *e = *state;
	int fd;

	e->room = 10;
	fd = dial(e);
	for (unsigned i = 0; i < 100; i++) {
		spin(e);
		if (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) < 0)
			break;
		assert_true(i < 20);
	}
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(e->got_len, 10);
	close(fd);
}

static void a_client_waits_while_there_is_no_descriptor(void **state)
{
	struct env *e = *state;
	uint64_t begin = host_time_ms();
	int fd;

	accepts_denied = 2;
	fd = dial(e);
	while (!e->came)
		spin(e);
	assert_int_equal(accepts_denied, 0);
	assert_true(host_time_ms() - begin >= 2 * UNIX_ACCEPT_REST_MS - 1);
	close(fd);
	spin(e);
	assert_int_equal(e->went, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(carries_both_ways, setup, teardown),
	    cmocka_unit_test_setup_teardown(what_was_sent_before_closing_arrives, setup, teardown),
	    cmocka_unit_test_setup_teardown(half_a_close_still_receives, setup, teardown),
	    cmocka_unit_test_setup_teardown(who_does_not_read_stops_the_writer_until_it_goes, setup,
					    teardown),
	    cmocka_unit_test_setup_teardown(a_flood_waits_in_its_own_socket, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_client_waits_while_there_is_no_descriptor, setup,
					    teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
