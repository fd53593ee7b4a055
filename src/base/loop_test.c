/* loop_test.c: tests of the event loop. */
#include "base/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/host_time.h"

struct env {
	struct loop *loop;
	struct loop_fd a, b;
	struct loop_work work;
	int pipe[2];
	unsigned ran, got;
	atomic_uint count;
};

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	*state = e;
	e->a.fd = e->b.fd = -1;
	return pipe(e->pipe) || loop_new(&e->loop, NULL);
}

static int teardown(void **state)
{
	struct env *e = *state;

	loop_fd_del(e->loop, &e->a);
	loop_fd_del(e->loop, &e->b);
	loop_free(e->loop);
	close(e->pipe[0]);
	if (e->pipe[1] >= 0)
		close(e->pipe[1]);
	free(e);
	return 0;
}

static void read_and_stop(struct loop_fd *lfd, uint32_t events)
{
	struct env *e = lfd->opaque;
	char c;

	e->ran++;
	e->got = events;
	if (read(lfd->fd, &c, 1) <= 0)
		loop_fd_del(e->loop, lfd);
	loop_stop(e->loop, 5);
}

static void calls_back_when_a_descriptor_is_ready(void **state)
{
	struct env *e = *state;

	e->a = (struct loop_fd){.fd = e->pipe[0], .fn = read_and_stop, .opaque = e};
	assert_int_equal(loop_fd_add(e->loop, &e->a, EPOLLIN), 0);
	assert_int_equal(write(e->pipe[1], "x", 1), 1);
	assert_int_equal(loop_run(e->loop), 5);
	assert_int_equal(e->ran, 1);
	assert_true(e->got & EPOLLIN);
}

static void stop_work(struct loop_work *work)
{
	struct env *e = work->opaque;

	if (++e->ran < 3)
		loop_post(e->loop, work);
	else
		loop_stop(e->loop, 0);
}

static void a_watch_that_wants_nothing_is_not_woken_by_a_hang_up(void **state)
{
	struct env *e = *state;

	e->a = (struct loop_fd){.fd = e->pipe[0], .fn = read_and_stop, .opaque = e};
	e->work = (struct loop_work){.fn = stop_work, .opaque = e};
	assert_int_equal(loop_fd_add(e->loop, &e->a, EPOLLIN), 0);
	assert_int_equal(loop_fd_mod(e->loop, &e->a, 0), 0);
	close(e->pipe[1]);
	e->pipe[1] = -1;
	loop_post(e->loop, &e->work);
	assert_int_equal(loop_run(e->loop), 0);
	assert_int_equal(e->ran, 3);
	assert_int_equal(loop_fd_mod(e->loop, &e->a, EPOLLIN), 0);
	assert_int_equal(loop_run(e->loop), 5);
	assert_true(e->got & EPOLLHUP);
}

static void a_regular_file_is_always_ready(void **state)
{
	struct env *e = *state;
	FILE *file = tmpfile();

	assert_non_null(file);
	assert_int_equal(fputs("xy", file), 1);
	rewind(file);
	e->a = (struct loop_fd){.fd = fileno(file), .fn = read_and_stop, .opaque = e};
	assert_int_equal(loop_fd_add(e->loop, &e->a, EPOLLIN), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(loop_run(e->loop), 5);
	assert_int_equal(e->ran, 3);
	assert_false(e->a.added); /* the third read found the end */
	fclose(file);
}

static void refuses_a_bad_descriptor(void **state)
{
	struct env *e = *state;

	e->a.fd = 9999;
	assert_int_equal(loop_fd_add(e->loop, &e->a, EPOLLIN), -EBADF);
	assert_false(e->a.added);
}

static void remove_other(struct loop_fd *lfd, uint32_t events)
{
	struct env *e = lfd->opaque;

	e->ran++;
	loop_fd_del(e->loop, &e->a);
	loop_fd_del(e->loop, &e->b);
	loop_stop(e->loop, 0);
}

static void a_watch_removed_in_the_same_round_does_not_run(void **state)
{
	struct env *e = *state;
	int ea = eventfd(1, 0), eb = eventfd(1, 0);

	e->a = (struct loop_fd){.fd = ea, .fn = remove_other, .opaque = e};
	e->b = (struct loop_fd){.fd = eb, .fn = remove_other, .opaque = e};
	assert_int_equal(loop_fd_add(e->loop, &e->a, EPOLLIN), 0);
	assert_int_equal(loop_fd_add(e->loop, &e->b, EPOLLIN), 0);
	loop_run(e->loop);
	assert_int_equal(e->ran, 1);
	close(ea);
	close(eb);
}

static void posted_work_runs_once_a_burst_and_may_post_itself(void **state)
{
	struct env *e = *state;

	e->work = (struct loop_work){.fn = stop_work, .opaque = e};
	loop_post(e->loop, &e->work);
	loop_post(e->loop, &e->work);
	loop_run(e->loop);
	assert_int_equal(e->ran, 3);
	assert_false(e->work.queued);
}

static void count_work(struct loop_work *work)
{
	struct env *e = work->opaque;

	atomic_fetch_add(&e->count, 1);
}

static void cancelled_work_does_not_run(void **state)
{
	struct env *e = *state;
	struct loop_work other[3];

	for (int i = 0; i < 3; i++) {
		other[i] = (struct loop_work){.fn = count_work, .opaque = e};
		loop_post(e->loop, &other[i]);
	}
	e->ran = 2;
	e->work = (struct loop_work){.fn = stop_work, .opaque = e};
	loop_post(e->loop, &e->work);
	loop_cancel(e->loop, &other[0]);
	loop_cancel(e->loop, &other[2]);
	loop_cancel(e->loop, &other[2]);
	loop_run(e->loop);
	assert_int_equal(atomic_load(&e->count), 1);
}

static void *run_loop(void *opaque)
{
	struct env *e = opaque;

	loop_run(e->loop);
	return NULL;
}

/* After a cancel from another thread the owner may free the work. */
static void cancel_from_outside_waits_for_the_callback(void **state)
{
	struct env *e = *state;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, run_loop, e), 0);
	for (int i = 0; i < 2000; i++) {
		struct loop_work *work = calloc(1, sizeof(*work));

		work->fn = count_work;
		work->opaque = e;
		loop_post(e->loop, work);
		if (i % 2)
			while (atomic_load(&e->count) == 0)
				;
		loop_cancel(e->loop, work);
		memset(work, 0xee, sizeof(*work));
		free(work);
	}
	loop_stop(e->loop, 0);
	pthread_join(thread, NULL);
}

static void drain_event(struct loop_fd *lfd, uint32_t events)
{
	struct env *e = lfd->opaque;
	uint64_t n;

	if (read(lfd->fd, &n, sizeof(n)) == sizeof(n))
		atomic_fetch_add(&e->count, 1);
}

static void watches_come_and_go_from_another_thread(void **state)
{
	struct env *e = *state;
	pthread_t thread;
	uint64_t one = 1;

	assert_int_equal(pthread_create(&thread, NULL, run_loop, e), 0);
	for (int i = 0; i < 500; i++) {
		struct loop_fd *lfd = calloc(1, sizeof(*lfd));

		*lfd = (struct loop_fd){
		    .fd = eventfd(0, EFD_NONBLOCK), .fn = drain_event, .opaque = e};
		assert_int_equal(loop_fd_add(e->loop, lfd, EPOLLIN), 0);
		assert_int_equal(write(lfd->fd, &one, sizeof(one)), sizeof(one));
		loop_fd_del(e->loop, lfd);
		close(lfd->fd);
		memset(lfd, 0xee, sizeof(*lfd));
		free(lfd);
	}
	loop_stop(e->loop, 0);
	pthread_join(thread, NULL);
}

static void a_stop_before_the_run_is_kept(void **state)
{
	struct env *e = *state;

	loop_stop(e->loop, 9);
	assert_int_equal(loop_run(e->loop), 9);
}

static void rest_and_stop(struct loop_fd *lfd, uint32_t events)
{
	struct env *e = lfd->opaque;

	if (++e->ran < 3)
		loop_fd_rest(e->loop, lfd, 20);
	else
		loop_stop(e->loop, 5);
}

static void a_watch_that_rests_is_left_alone_until_its_time_is_over(void **state)
{
	struct env *e = *state;
	uint64_t begin = host_time_ms();

	e->a = (struct loop_fd){.fd = e->pipe[0], .fn = rest_and_stop, .opaque = e};
	assert_int_equal(loop_fd_add(e->loop, &e->a, EPOLLIN), 0);
	assert_int_equal(write(e->pipe[1], "x", 1), 1);
	assert_int_equal(loop_run(e->loop), 5);
	assert_int_equal(e->ran, 3);
	assert_true(host_time_ms() - begin >= 39); /* two rests */
	/* What is changed meanwhile counts afterwards, and who has gone does not come back. */
	loop_fd_rest(e->loop, &e->a, 20);
	assert_int_equal(loop_fd_mod(e->loop, &e->a, 0), 0);
	assert_int_equal(loop_fd_mod(e->loop, &e->a, EPOLLIN), 0);
	assert_int_equal(loop_run(e->loop), 5);
	assert_int_equal(e->ran, 4);
	loop_fd_rest(e->loop, &e->a, 0);
	loop_fd_del(e->loop, &e->a);
	e->work = (struct loop_work){.fn = stop_work, .opaque = e};
	loop_post(e->loop, &e->work);
	assert_int_equal(loop_run(e->loop), 0);
	assert_int_equal(e->ran, 5);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(calls_back_when_a_descriptor_is_ready),
	    T(a_watch_that_wants_nothing_is_not_woken_by_a_hang_up),
	    T(a_regular_file_is_always_ready),
	    T(refuses_a_bad_descriptor),
	    T(a_watch_removed_in_the_same_round_does_not_run),
	    T(posted_work_runs_once_a_burst_and_may_post_itself),
	    T(cancelled_work_does_not_run),
	    T(cancel_from_outside_waits_for_the_callback),
	    T(watches_come_and_go_from_another_thread),
	    T(a_stop_before_the_run_is_kept),
	    T(a_watch_that_rests_is_left_alone_until_its_time_is_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
