/* chardev_test.c: tests of the character back ends without a terminal. */
#include "backend/chardev.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct env {
	struct loop *loop;
	struct chardev *ch;
	int in[2], out[2];
	/* the device's side */
	uint8_t got[200000];
	size_t got_len, room;
	unsigned can_writes;
	/* when the loop is left */
	struct loop_work tick;
	unsigned ticks;
};

static size_t env_room(void *opaque)
{
	struct env *e = opaque;

	return e->room;
}
static void env_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct env *e = opaque;

	assert_true(len <= e->room);
	memcpy(e->got + e->got_len, data, len);
	e->got_len += len;
	e->room -= len;
}
static void env_can_write(void *opaque)
{
	struct env *e = opaque;

	e->can_writes++;
}

/* Leaves the loop after some rounds, in which everything that is ready has run. */
static void on_tick(struct loop_work *work)
{
	struct env *e = work->opaque;

	if (--e->ticks)
		loop_post(e->loop, work);
	else
		loop_stop(e->loop, 0);
}
static void spin(struct env *e)
{
	e->ticks = 100;
	loop_post(e->loop, &e->tick);
	loop_run(e->loop);
}

static void attach(struct env *e)
{
	const struct chardev_client client = {env_room, env_receive, env_can_write, e};

	chardev_attach(e->ch, &client);
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	*state = e;
	e->tick = (struct loop_work){.fn = on_tick, .opaque = e};
	e->room = sizeof(e->got);
	return pipe(e->in) || pipe(e->out) || loop_new(&e->loop, NULL);
}

static int teardown(void **state)
{
	struct env *e = *state;

	chardev_free(e->ch);
	loop_free(e->loop);
	for (int i = 0; i < 2; i++) {
		close(e->in[i]);
		close(e->out[i]);
	}
	free(e);
	return 0;
}

static void pipes(struct env *e)
{
	assert_int_equal(chardev_fd_new(&e->ch, e->loop, e->in[0], e->out[1], NULL), 0);
	attach(e);
}

static void put(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void null_swallows_everything(void **state)
{
	struct env *e = *state;

	assert_int_equal(chardev_null_new(&e->ch), 0);
	attach(e);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"abc", 3), 3);
	chardev_flush(e->ch, 0);
	assert_int_equal(e->got_len, 0);
}

static void memory_keeps_the_last_bytes(void **state)
{
	struct env *e = *state;
	char buf[8] = "";

	assert_int_equal(chardev_mem_new(&e->ch, 4), 0);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"abcdef", 6), 6);
	assert_int_equal(chardev_mem_read(e->ch, buf, 3), 3);
	assert_string_equal(buf, "cde");
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"gh", 2), 2);
	assert_int_equal(chardev_mem_read(e->ch, buf, 8), 3);
	assert_memory_equal(buf, "fgh", 3);
	assert_int_equal(chardev_mem_feed(e->ch, (const uint8_t *)"x", 1), 0);
	attach(e);
	e->room = 2;
	assert_int_equal(chardev_mem_feed(e->ch, (const uint8_t *)"xyz", 3), 2);
	assert_memory_equal(e->got, "xy", 2);
}

static void bytes_go_both_ways(void **state)
{
	struct env *e = *state;
	char buf[8] = "";

	pipes(e);
	put(e->in[1], "hello");
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"world", 5), 5);
	spin(e);
	assert_int_equal(e->got_len, 5);
	assert_memory_equal(e->got, "hello", 5);
	assert_int_equal(read(e->out[0], buf, 8), 5);
	assert_string_equal(buf, "world");
}

static void input_waits_until_the_device_has_room(void **state)
{
	struct env *e = *state;

	e->room = 2;
	pipes(e);
	put(e->in[1], "hello");
	spin(e);
	assert_int_equal(e->got_len, 2);
	spin(e);
	assert_int_equal(e->got_len, 2);
	e->room = 10;
	chardev_kick_input(e->ch);
	chardev_kick_input(e->ch);
	spin(e);
	assert_int_equal(e->got_len, 5);
	put(e->in[1], "!");
	spin(e);
	assert_memory_equal(e->got, "hello!", 6);
}

static void a_sender_is_held_back_while_the_device_is_full(void **state)
{
	struct env *e = *state;
	uint8_t block[4096];
	size_t sent = 0;
	ssize_t n;

	memset(block, 'x', sizeof(block));
	e->room = 0;
	pipes(e);
	fcntl(e->in[1], F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 100; i++) {
		while ((n = write(e->in[1], block, sizeof(block))) > 0)
			sent += (size_t)n;
		spin(e);
	}
	assert_true(sent < 100000); /* the pipe and our reading ahead */
	e->room = sizeof(e->got);
	chardev_kick_input(e->ch);
	spin(e);
	assert_int_equal(e->got_len, sent);
}

static void the_end_of_the_input_is_quiet(void **state)
{
	struct env *e = *state;

	pipes(e);
	put(e->in[1], "bye");
	close(e->in[1]);
	spin(e);
	assert_memory_equal(e->got, "bye", 3);
	/* A loop that spun on the hang-up would never wait: only the eventfd ends this run. */
	spin(e);
	e->in[1] = dup(e->in[0]);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"x", 1), 1);
	chardev_flush(e->ch, 1000);
}

static void output_is_bounded_and_says_when_it_goes_on(void **state)
{
	struct env *e = *state;
	static uint8_t block[300000];
	static char sink[65536];
	size_t taken, total, read_back = 0;
	ssize_t n;

	pipes(e);
	memset(block, 'y', sizeof(block));
	taken = chardev_write(e->ch, block, sizeof(block));
	assert_int_equal(taken, 65536);
	assert_int_equal(chardev_write(e->ch, block, 1), 0);
	total = taken;
	for (int i = 0; i < 20 && !e->can_writes; i++) {
		spin(e);
		while (fcntl(e->out[0], F_SETFL, O_NONBLOCK),
		       (n = read(e->out[0], sink, sizeof(sink))) > 0)
			read_back += (size_t)n;
	}
	assert_int_equal(e->can_writes, 1);
	total += chardev_write(e->ch, block, 100);
	for (int i = 0; i < 20; i++) {
		spin(e);
		while ((n = read(e->out[0], sink, sizeof(sink))) > 0)
			read_back += (size_t)n;
	}
	assert_int_equal(read_back, total);
}

static void a_broken_pipe_swallows_the_rest(void **state)
{
	struct env *e = *state;
	static uint8_t block[100000];

	pipes(e);
	close(e->out[0]);
	e->out[0] = dup(e->in[0]);
	assert_int_equal(chardev_write(e->ch, block, 10), 10);
	spin(e);
	assert_int_equal(chardev_write(e->ch, block, sizeof(block)), sizeof(block));
	chardev_flush(e->ch, 1000);
	spin(e);
}

static void files_work_as_both_ends(void **state)
{
	struct env *e = *state;
	FILE *in = tmpfile(), *out = tmpfile();
	char buf[8] = "";

	assert_true(fputs("from a file", in) >= 0);
	rewind(in);
	assert_int_equal(chardev_fd_new(&e->ch, e->loop, fileno(in), fileno(out), NULL), 0);
	attach(e);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"to a", 4), 4);
	spin(e);
	assert_int_equal(e->got_len, 11);
	assert_memory_equal(e->got, "from a file", 11);
	assert_int_equal(pread(fileno(out), buf, 8, 0), 4);
	assert_string_equal(buf, "to a");
	chardev_free(e->ch);
	e->ch = NULL;
	fclose(in);
	fclose(out);
}

static void one_socket_serves_both_ways(void **state)
{
	struct env *e = *state;
	int pair[2];
	char buf[8] = "";

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(chardev_fd_new(&e->ch, e->loop, pair[0], pair[0], NULL), 0);
	attach(e);
	put(pair[1], "in");
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"out", 3), 3);
	spin(e);
	assert_int_equal(e->got_len, 2);
	assert_int_equal(read(pair[1], buf, 8), 3);
	chardev_free(e->ch);
	e->ch = NULL;
	close(pair[0]);
	close(pair[1]);
}

static void the_given_descriptors_keep_their_mode(void **state)
{
	struct env *e = *state;

	pipes(e);
	assert_int_equal(fcntl(e->in[0], F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(e->out[1], F_GETFL) & O_NONBLOCK, 0);
	chardev_free(e->ch);
	e->ch = NULL;
	put(e->out[1], "still open");
}

static void flush_writes_out_without_a_loop(void **state)
{
	struct env *e = *state;
	char buf[8] = "";

	pipes(e);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"last", 4), 4);
	chardev_flush(e->ch, 1000);
	assert_int_equal(read(e->out[0], buf, 8), 4);
	assert_string_equal(buf, "last");
}

static void output_alone_is_enough(void **state)
{
	struct env *e = *state;

	assert_int_equal(chardev_fd_new(&e->ch, e->loop, -1, e->out[1], NULL), 0);
	attach(e);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"x", 1), 1);
	spin(e);
	chardev_free(e->ch);
	assert_int_equal(chardev_fd_new(&e->ch, e->loop, e->in[0], -1, NULL), 0);
	attach(e);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"x", 1), 1);
	put(e->in[1], "y");
	spin(e);
	assert_int_equal(e->got_len, 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(null_swallows_everything),
	    T(memory_keeps_the_last_bytes),
	    T(bytes_go_both_ways),
	    T(input_waits_until_the_device_has_room),
	    T(a_sender_is_held_back_while_the_device_is_full),
	    T(the_end_of_the_input_is_quiet),
	    T(output_is_bounded_and_says_when_it_goes_on),
	    T(a_broken_pipe_swallows_the_rest),
	    T(files_work_as_both_ends),
	    T(one_socket_serves_both_ways),
	    T(the_given_descriptors_keep_their_mode),
	    T(flush_writes_out_without_a_loop),
	    T(output_alone_is_enough),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
