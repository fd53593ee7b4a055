/* control_test.c: the control socket's clients: several, greedy, silent, gone. */
#include "vmm/control.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/accept_testing.h"
#include "base/unix_socket.h"
#include "vmm/control_client.h"

struct rig {
	char dir[32], path[64];
	struct loop *loop;
	struct control *control;
	struct loop_work shout;
	unsigned shouts;
	pthread_t thread;
	int calls;
};

static json_t *cmd_count(void *opaque, json_t *arguments, struct control_error *err)
{
	struct rig *r = opaque;

	return json_pack("{s:i}", "calls", ++r->calls);
}

/* A result of 60 KiB. */
static json_t *cmd_big(void *opaque, json_t *arguments, struct control_error *err)
{
	char text[60 << 10];

	memset(text, 'x', sizeof(text));
	return json_stringn(text, sizeof(text));
}

static json_t *cmd_shout(void *opaque, json_t *arguments, struct control_error *err)
{
	struct rig *r = opaque;

	for (unsigned i = 0; i < 1000; i++)
		control_event(r->control, "noise", json_pack("{s:s%}", "t", "0123456789", 10));
	return json_object();
}

static const struct control_command commands[] = {
    {"count", "counts", NULL, cmd_count},
    {"big", "is big", NULL, cmd_big},
    {"shout", "sends events", NULL, cmd_shout},
};

static void *run_loop(void *arg)
{
	struct rig *r = arg;

	loop_run(r->loop);
	return NULL;
}

static int set_up(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	const struct control_table table = {commands, ARRAY_SIZE(commands), r};
	struct error err;

	strcpy(r->dir, "/tmp/control-test-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/s", r->dir);
	assert_int_equal(loop_new(&r->loop, &err), 0);
	assert_int_equal(control_new(&r->control, r->loop, r->path, &table, &err), 0);
	pthread_create(&r->thread, NULL, run_loop, r);
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;

	loop_stop(r->loop, 0);
	pthread_join(r->thread, NULL);
	control_free(r->control);
	loop_free(r->loop);
	assert_int_equal(rmdir(r->dir), 0); /* the socket is gone */
	free(r);
	return 0;
}

static int dial(struct rig *r)
{
	const struct timeval tv = {.tv_sec = 60};
	struct error err;
	int fd = unix_connect(r->path, 0, &err);

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Reads up to the next newline. Returns the length; 0 at the end. */
static size_t hear(int fd, char *line, size_t len)
{
	size_t n = 0;

	while (n + 1 < len && recv(fd, line + n, 1, 0) == 1 && line[n] != '\n')
		n++;
	line[n] = 0;
	return n;
}

static void answers_several_clients_and_broken_lines(void **state)
{
	struct rig *r = *state;
	int a = dial(r), b = dial(r);
	char line[256];

	say(a, "{\"id\":1,\"comm");
	say(b, "{\"id\":2,\"command\":\"count\"}\n\n\r\n{\"id\":3,\"command\":\"count\"}\n");
	hear(b, line, sizeof(line));
	assert_string_equal(line, "{\"id\":2,\"result\":{\"calls\":1}}");
	hear(b, line, sizeof(line));
	assert_string_equal(line, "{\"id\":3,\"result\":{\"calls\":2}}");
	say(a, "and\":\"count\"}\n");
	hear(a, line, sizeof(line));
	assert_string_equal(line, "{\"id\":1,\"result\":{\"calls\":3}}");
	close(a);
	close(b);
}

static void answers_what_was_sent_before_the_end_of_input(void **state)
{
	struct rig *r = *state;
	int fd = dial(r);
	char line[256];

	say(fd, "{\"id\":1,\"command\":\"count\"}\n{\"id\":2,\"command\":\"count\"}");
	shutdown(fd, SHUT_WR);
	assert_true(hear(fd, line, sizeof(line)));
	assert_true(hear(fd, line, sizeof(line)));
	assert_string_equal(line, "{\"id\":2,\"result\":{\"calls\":2}}");
	assert_false(hear(fd, line, sizeof(line)));
	close(fd);
}

static void a_line_too_long_ends_the_connection_with_a_word(void **state)
{
	struct rig *r = *state;
	char *junk = malloc(CONTROL_LINE_MAX), line[256];
	int fd = dial(r);

	memset(junk, 'a', CONTROL_LINE_MAX);
	assert_int_equal(send(fd, junk, CONTROL_LINE_MAX, MSG_NOSIGNAL), CONTROL_LINE_MAX);
	assert_true(hear(fd, line, sizeof(line)));
	assert_non_null(strstr(line, "too-long"));
	assert_false(hear(fd, line, sizeof(line)));
	close(fd);
	free(junk);
}

static void more_clients_than_there_is_room_for_are_turned_away(void **state)
{
	struct rig *r = *state;
	int fds[CONTROL_MAX_CLIENTS], late;
	char line[256];

	for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++) {
		fds[i] = dial(r);
		say(fds[i], "{\"command\":\"count\"}\n");
		assert_true(hear(fds[i], line, sizeof(line)));
	}
	late = dial(r);
	assert_true(hear(late, line, sizeof(line)));
	assert_non_null(strstr(line, "busy"));
	assert_false(hear(late, line, sizeof(line)));
	close(late);
	for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++)
		close(fds[i]);
}

static void who_does_not_read_is_not_read_from(void **state)
{
	static const char big[] = "{\"command\":\"big\"}\n";
	struct rig *r = *state;
	int fd = dial(r), other = dial(r);
	unsigned sent = 0, replies = 0;
	char *line = malloc(128 << 10);
	ssize_t n;

	while (send(fd, big, sizeof(big) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(big) - 1)
		assert_true(++sent < 200000);
	/* Others are served meanwhile. */
	say(other, "{\"command\":\"count\"}\n");
	assert_true(hear(other, line, 128 << 10));
	close(other);
	/* And nothing was lost. */
	while (replies < 40 && (n = recv(fd, line, 128 << 10, 0)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			replies += line[i] == '\n';
	}
	assert_true(replies >= 40);
	close(fd);
	free(line);
}

static void a_subscriber_that_does_not_read_is_dropped(void **state)
{
	struct rig *r = *state;
	int deaf = dial(r), loud = dial(r);
	char line[512], *bulk = malloc(1 << 20);
	ssize_t n, total = 0;

	say(deaf, "{\"command\":\"events\"}\n");
	assert_true(hear(deaf, line, sizeof(line)));
	for (unsigned i = 0; i < 60; i++) {
		say(loud, "{\"command\":\"shout\"}\n");
		assert_true(hear(loud, line, sizeof(line)));
	}
	while ((n = recv(deaf, bulk, 1 << 20, 0)) > 0)
		total += n;
	assert_true(total < 60 * 1000 * 36);
	close(deaf);
	close(loud);
	free(bulk);
}

static void a_subscriber_hears_events_between_replies(void **state)
{
	struct control_client c;
	struct rig *r = *state;
	json_t *message;
	struct error err;

	assert_int_equal(control_client_open(&c, r->path, &err), 0);
	message = control_client_call(&c, "events", NULL, &err);
	assert_true(
	    json_is_true(json_object_get(json_object_get(message, "result"), "subscribed")));
	json_decref(message);
	message = control_client_call(&c, "shout", NULL, &err);
	assert_non_null(json_object_get(message, "result"));
	json_decref(message);
	control_client_close(&c);
}

/* A descriptor made before there are none left connects. */
static void dial_with(struct rig *r, int fd)
{
	const struct timeval tv = {.tv_sec = 60};
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	strcpy(addr.sun_path, r->path);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
}

static void without_descriptors_some_are_served_and_others_hear_why(void **state)
{
	enum { SERVED = 3, CLIENTS = 6, FILL = 256 };
	struct rlimit before, few = {.rlim_cur = FILL};
	int fd[CLIENTS], fill[FILL], n = 0;
	struct rig *r = *state;
	char line[256];

	for (unsigned i = 0; i < CLIENTS; i++)
		fd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	few.rlim_max = before.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	while (n < FILL && (fill[n] = dup(fd[0])) >= 0)
		n++;
	assert_in_range(n, 1, FILL - 1);
	for (unsigned i = 0; i < SERVED; i++) {
		dial_with(r, fd[i]);
		say(fd[i], "{\"command\":\"count\"}\n");
		assert_true(hear(fd[i], line, sizeof(line)));
		assert_non_null(strstr(line, "calls"));
	}
	for (unsigned i = SERVED; i + 1 < CLIENTS; i++) {
		dial_with(r, fd[i]);
		assert_true(hear(fd[i], line, sizeof(line)));
		assert_non_null(strstr(line, "\"busy\""));
		assert_non_null(strstr(line, "no descriptor left"));
		assert_false(hear(fd[i], line, sizeof(line)));
	}
	/* One who goes makes room for another. */
	shutdown(fd[0], SHUT_RDWR);
	assert_false(hear(fd[0], line, sizeof(line)));
	dial_with(r, fd[CLIENTS - 1]);
	say(fd[CLIENTS - 1], "{\"command\":\"count\"}\n");
	assert_true(hear(fd[CLIENTS - 1], line, sizeof(line)));
	assert_non_null(strstr(line, "calls"));
	while (n)
		close(fill[--n]);
	for (unsigned i = 0; i < CLIENTS; i++)
		close(fd[i]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void who_cannot_be_let_in_is_looked_at_again_later(void **state)
{
	struct rig *r = *state;
	uint64_t begin = host_time_ms();
	char line[256];
	int fd;

	accepts_denied = 6; /* twice each time, the second one in the place of a spare */
	fd = dial(r);
	say(fd, "{\"command\":\"count\"}\n");
	assert_true(hear(fd, line, sizeof(line)));
	assert_int_equal(accepts_denied, 0);
	assert_true(host_time_ms() - begin >= 3 * UNIX_ACCEPT_REST_MS - 1);
	close(fd);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    TEST(answers_several_clients_and_broken_lines),
	    TEST(answers_what_was_sent_before_the_end_of_input),
	    TEST(a_line_too_long_ends_the_connection_with_a_word),
	    TEST(more_clients_than_there_is_room_for_are_turned_away),
	    TEST(who_does_not_read_is_not_read_from),
	    TEST(a_subscriber_that_does_not_read_is_dropped),
	    TEST(a_subscriber_hears_events_between_replies),
	    TEST(without_descriptors_some_are_served_and_others_hear_why),
	    TEST(who_cannot_be_let_in_is_looked_at_again_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
