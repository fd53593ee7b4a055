/* chardev_term_test.c: tests of the terminal, on a pseudo terminal. */
#include "backend/chardev.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct env {
	struct loop *loop;
	struct chardev *ch;
	int person, tty;
	struct termios before;
	char got[64], commands[16];
	size_t got_len, room;
	unsigned cols, rows, sizes;
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

	memcpy(e->got + e->got_len, data, len);
	e->got_len += len;
	e->room -= len;
}
static void env_command(void *opaque, char key)
{
	struct env *e = opaque;

	e->commands[strlen(e->commands)] = key;
}
static void env_resized(void *opaque, unsigned cols, unsigned rows)
{
	struct env *e = opaque;

	e->cols = cols;
	e->rows = rows;
	e->sizes++;
}
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
	e->ticks = 50;
	loop_post(e->loop, &e->tick);
	loop_run(e->loop);
}

/* A pseudo terminal hands bytes over when the kernel gets round to it. */
#define PATIENCE 300000
#define WAIT_FOR(cond)                                                                             \
	do {                                                                                       \
		for (int i_ = 0; i_ < PATIENCE && !(cond); i_++) {                                 \
			spin(e);                                                                   \
			if (!(cond))                                                               \
				usleep(200);                                                       \
		}                                                                                  \
		assert_true(cond);                                                                 \
	} while (0)

static int term_open(struct env *e)
{
	const struct term_config cfg = {e->tty, e->tty, env_command, env_resized, e};
	const struct chardev_client client = {env_room, env_receive, NULL, e};
	int rc = chardev_term_new(&e->ch, e->loop, &cfg, NULL);

	if (!rc)
		chardev_attach(e->ch, &client);
	return rc;
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	*state = e;
	e->room = sizeof(e->got);
	e->tick = (struct loop_work){.fn = on_tick, .opaque = e};
	if (openpty(&e->person, &e->tty, NULL, NULL, &(struct winsize){.ws_row = 24, .ws_col = 80}))
		return -1;
	fcntl(e->person, F_SETFL, O_NONBLOCK);
	return tcgetattr(e->tty, &e->before) || loop_new(&e->loop, NULL);
}

static int teardown(void **state)
{
	struct env *e = *state;

	chardev_free(e->ch);
	loop_free(e->loop);
	close(e->person);
	close(e->tty);
	free(e);
	return 0;
}

/* Never blocks: the other end of the terminal is read by this very thread. */
static void type(struct env *e, const char *keys, size_t len)
{
	size_t done = 0;

	for (int i = 0; i < PATIENCE && done < len; i++) {
		ssize_t n = write(e->person, keys + done, len - done);

		if (n > 0)
			done += (size_t)n;
		else
			usleep(200);
		spin(e);
	}
	assert_int_equal(done, len);
}

static _Bool is_cooked(const struct env *e)
{
	struct termios now;

	assert_int_equal(tcgetattr(e->tty, &now), 0);
	return now.c_lflag == e->before.c_lflag && now.c_oflag == e->before.c_oflag &&
	       now.c_iflag == e->before.c_iflag;
}

static void is_raw_while_open_and_restored_after(void **state)
{
	struct env *e = *state;
	struct termios now;

	assert_int_equal(term_open(e), 0);
	assert_int_equal(tcgetattr(e->tty, &now), 0);
	assert_int_equal(now.c_lflag & (ICANON | ECHO | ISIG), 0);
	assert_int_equal(now.c_oflag & OPOST, 0);
	assert_int_equal(fcntl(e->tty, F_GETFL) & O_NONBLOCK, 0);
	type(e, "\3\32\r", 3); /* Ctrl-C, Ctrl-Z and Return are the guest's */
	WAIT_FOR(e->got_len == 3);
	assert_memory_equal(e->got, "\3\32\r", 3);
	chardev_free(e->ch);
	e->ch = NULL;
	assert_true(is_cooked(e));
	assert_int_equal(term_open(e), 0); /* and can be opened again */
}

static void ctrl_a_leads_to_the_menu(void **state)
{
	struct env *e = *state;
	char help[1024];
	int waiting = 0;
	ssize_t n;

	assert_int_equal(term_open(e), 0);
	type(e, "ab\1xc\1\1\1ad\1", 11);
	type(e, "s\1h", 3);
	WAIT_FOR(e->got_len == 6 && e->commands[1]);
	WAIT_FOR(!ioctl(e->person, FIONREAD, &waiting) && waiting > 100);
	assert_memory_equal(e->got, "abc\1\1d", 6);
	assert_string_equal(e->commands, "xs");
	n = read(e->person, help, sizeof(help) - 1);
	assert_true(n > 0);
	help[n] = 0;
	assert_non_null(strstr(help, "Ctrl-A x"));
}

static void the_menu_works_with_a_guest_that_takes_nothing(void **state)
{
	struct env *e = *state;
	char text[1000];

	memset(text, 't', sizeof(text));
	e->room = 0;
	assert_int_equal(term_open(e), 0);
	for (int i = 0; i < 100; i++)
		type(e, text, sizeof(text));
	type(e, "\1x", 2);
	WAIT_FOR(e->commands[0] == 'x');
	assert_int_equal(e->got_len, 0);
	e->room = 3;
	chardev_kick_input(e->ch);
	WAIT_FOR(e->got_len == 3);
	assert_memory_equal(e->got, "ttt", 3);
}

static void tells_the_size_of_the_window(void **state)
{
	struct env *e = *state;
	struct winsize ws = {.ws_row = 50, .ws_col = 132};

	assert_int_equal(term_open(e), 0);
	WAIT_FOR(e->sizes == 1);
	assert_int_equal(e->cols, 80);
	assert_int_equal(e->rows, 24);
	assert_int_equal(ioctl(e->person, TIOCSWINSZ, &ws), 0);
	raise(SIGWINCH);
	WAIT_FOR(e->sizes == 2);
	assert_int_equal(e->cols, 132);
	assert_int_equal(e->rows, 50);
}

static void one_terminal_at_a_time(void **state)
{
	struct env *e = *state;
	struct chardev *second = NULL;
	const struct term_config cfg = {.in_fd = e->tty, .out_fd = e->tty};

	assert_int_equal(term_open(e), 0);
	assert_int_equal(chardev_term_new(&second, e->loop, &cfg, NULL), -EBUSY);
}

static void the_person_going_away_is_quiet(void **state)
{
	struct env *e = *state;

	assert_int_equal(term_open(e), 0);
	close(e->person);
	spin(e);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"x", 1), 1);
	spin(e);
	assert_int_equal(chardev_write(e->ch, (const uint8_t *)"x", 1), 1);
	e->person = dup(e->tty);
}

/* What the child does: opens the terminal and ends in some way. A fresh process, for cmocka has
 * handlers of its own for the signals in question. */
static int child(int tty, int how)
{
	struct env e = {.tty = tty};
	const struct rlimit none = {0, 0};

	setrlimit(RLIMIT_CORE, &none);
	if (how)
		signal(how, SIG_DFL); /* a sanitizer has its own */
	if (tcgetattr(tty, &e.before) || loop_new(&e.loop, NULL) || term_open(&e) || is_cooked(&e))
		return 99;
	if (how)
		raise(how);
	return 0;
}

static void child_ends(struct env *e, int how)
{
	char tty[16], way[16];
	pid_t pid;
	int status;

	snprintf(tty, sizeof(tty), "%d", e->tty);
	snprintf(way, sizeof(way), "%d", how);
	pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", "child", tty, way, NULL);
		_exit(97);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (how) {
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), how);
	} else {
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	assert_true(is_cooked(e));
}

static void is_restored_on_every_way_out(void **state)
{
	static const int ways[] = {0,	    SIGTERM, SIGINT,  SIGHUP, SIGQUIT,
				   SIGSEGV, SIGBUS,  SIGABRT, SIGILL, SIGFPE};

	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		child_ends(*state, ways[i]);
}

static void a_pipe_is_no_terminal(void **state)
{
	struct env *e = *state;
	int in[2];
	struct term_config cfg = {.out_fd = e->tty, .command = env_command, .opaque = e};
	const struct chardev_client client = {env_room, env_receive, NULL, e};

	assert_int_equal(pipe(in), 0);
	cfg.in_fd = in[0];
	assert_int_equal(chardev_term_new(&e->ch, e->loop, &cfg, NULL), 0);
	assert_true(is_cooked(e));
	chardev_attach(e->ch, &client);
	assert_int_equal(write(in[1], "\1x", 2), 2);
	WAIT_FOR(e->got_len == 2);
	assert_memory_equal(e->got, "\1x", 2);
	assert_string_equal(e->commands, "");
	close(in[0]);
	close(in[1]);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    T(is_raw_while_open_and_restored_after),
	    T(ctrl_a_leads_to_the_menu),
	    T(the_menu_works_with_a_guest_that_takes_nothing),
	    T(tells_the_size_of_the_window),
	    T(one_terminal_at_a_time),
	    T(the_person_going_away_is_quiet),
	    T(is_restored_on_every_way_out),
	    T(a_pipe_is_no_terminal),
	};

	if (argc == 3)
		return child(atoi(argv[1]), atoi(argv[2]));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
