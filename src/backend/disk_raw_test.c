/* disk_raw_test.c: raw images through both methods: contents, limits, locks, sizes, sentences. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/disk.h"

#define BYTES (1u << 20)

struct rig {
	char dir[64], path[96];
	struct disk *disk;
};

static void image(struct rig *r, off_t bytes)
{
	snprintf(r->dir, sizeof(r->dir), "/tmp/disk-test.XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/disk", r->dir);
	int fd = open(r->path, O_CREAT | O_RDWR, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	close(fd);
}

static void cleanup(struct rig *r)
{
	unlink(r->path);
	rmdir(r->dir);
}

struct wait {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	unsigned left;
	int result;
};

static void on_done(struct disk_req *req, int result)
{
	struct wait *w = req->opaque;
	pthread_mutex_lock(&w->mutex);
	w->left--;
	if (result)
		w->result = result;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->mutex);
}

static struct wait wait_for(unsigned n)
{
	return (struct wait){PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, n, 0};
}

static int waited(struct wait *w)
{
	pthread_mutex_lock(&w->mutex);
	while (w->left)
		pthread_cond_wait(&w->cond, &w->mutex);
	pthread_mutex_unlock(&w->mutex);
	return w->result;
}

/* One request to its end. */
static int run(struct disk *disk, enum disk_op op, uint64_t offset, void *buf, uint64_t len,
	       _Bool unmap)
{
	struct wait w = wait_for(1);
	/* In three pieces, the first of odd length. */
	const size_t third = len / 3;
	struct iovec iov[3] = {{buf, third}, {buf, third}, {buf, len - 2 * third}};
	struct disk_req req = {.op = op,
			       .unmap = unmap,
			       .offset = offset,
			       .len = len,
			       .iov = iov,
			       .iov_count = buf ? 3 : 0,
			       .done = on_done,
			       .opaque = &w};
	for (unsigned i = 1; buf && i < 3; i++)
		iov[i].iov_base = (char *)buf + i * third;
	disk_submit(disk, &req);
	disk_kick(disk);
	int result = waited(&w);
	disk_drain(disk);
	return result;
}

static void contents_survive(const struct disk_raw_config *how, const char *method)
{
	static uint8_t out[BYTES / 4], in[BYTES / 4], zero[8192];
	struct disk_raw_config cfg = *how;
	struct rig r;
	struct error err;
	struct stat st;
	image(&r, BYTES);
	cfg.path = r.path;
	if (disk_raw_open(&r.disk, &cfg, &err)) {
		assert_true(cfg.direct); /* not on every file system */
		cleanup(&r);
		return;
	}
	if (method)
		assert_string_equal(disk_method(r.disk), method);
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7 + i / 251);
	assert_int_equal(run(r.disk, DISK_WRITE, 4096, out, sizeof(out), 0), 0);
	assert_int_equal(run(r.disk, DISK_FLUSH, 0, NULL, 0, 0), 0);
	assert_int_equal(run(r.disk, DISK_READ, 4096, in, sizeof(in), 0), 0);
	assert_memory_equal(in, out, sizeof(out));
	assert_int_equal(run(r.disk, DISK_ZERO, 8192, NULL, 8192, 0), 0);
	assert_int_equal(run(r.disk, DISK_ZERO, 16384, NULL, 8192, 1), 0);
	assert_int_equal(run(r.disk, DISK_READ, 8192, in, 8192, 0), 0);
	assert_memory_equal(in, zero, sizeof(zero));
	assert_int_equal(run(r.disk, DISK_READ, 16384, in, 8192, 0), 0);
	assert_memory_equal(in, zero, sizeof(zero));
	assert_int_equal(run(r.disk, DISK_DISCARD, 4096, NULL, BYTES / 8, 0), 0);
	/* The end, and beyond it. */
	assert_int_equal(run(r.disk, DISK_READ, BYTES - 4096, in, 4096, 0), 0);
	assert_int_equal(run(r.disk, DISK_READ, BYTES - 4096, in, 8192, 0), -EINVAL);
	assert_int_equal(run(r.disk, DISK_WRITE, BYTES, in, 4096, 0), -EINVAL);
	assert_int_equal(run(r.disk, DISK_ZERO, UINT64_MAX - 4095, NULL, 8192, 0), -EINVAL);
	assert_int_equal(stat(r.path, &st), 0);
	assert_int_equal(st.st_size, BYTES);
	disk_free(r.disk);
	cleanup(&r);
}

static void reads_what_was_written_through_io_uring(void **state)
{
	const struct disk_raw_config cfg = {.discard = 1};
	contents_survive(&cfg, NULL); /* threads, where io_uring is refused */
}

static void reads_what_was_written_through_threads(void **state)
{
	const struct disk_raw_config cfg = {.no_uring = 1, .threads = 2};
	contents_survive(&cfg, "threads");
}

static void reads_what_was_written_around_the_page_cache(void **state)
{
	const struct disk_raw_config cfg = {.direct = 1, .discard = 1};
	contents_survive(&cfg, "threads");
}

static void many_requests_at_once_all_finish(void **state)
{
	enum { COUNT = 700 };
	static uint8_t data[COUNT][512];
	static struct disk_req req[COUNT];
	static struct iovec iov[COUNT];
	for (unsigned no_uring = 0; no_uring < 2; no_uring++) {
		struct rig r;
		struct wait w = wait_for(COUNT);
		image(&r, COUNT * 512);
		const struct disk_raw_config cfg = {.path = r.path, .no_uring = no_uring};
		assert_int_equal(disk_raw_open(&r.disk, &cfg, NULL), 0);
		for (unsigned i = 0; i < COUNT; i++) {
			memset(data[i], (int)(i % 255) + 1, 512);
			iov[i] = (struct iovec){data[i], 512};
			req[i] = (struct disk_req){.op = DISK_WRITE,
						   .offset = i * 512u,
						   .len = 512,
						   .iov = &iov[i],
						   .iov_count = 1,
						   .done = on_done,
						   .opaque = &w};
			disk_submit(r.disk, &req[i]);
		}
		disk_kick(r.disk);
		assert_int_equal(waited(&w), 0);
		disk_drain(r.disk);
		for (unsigned i = 0; i < COUNT; i += 13) {
			uint8_t back[512];
			assert_int_equal(run(r.disk, DISK_READ, i * 512u, back, 512, 0), 0);
			assert_memory_equal(back, data[i], 512);
		}
		disk_free(r.disk);
		cleanup(&r);
	}
}

static void an_image_that_was_cut_is_an_io_error(void **state)
{
	struct rig r;
	uint8_t buf[4096];
	image(&r, BYTES);
	const struct disk_raw_config cfg = {.path = r.path};
	assert_int_equal(disk_raw_open(&r.disk, &cfg, NULL), 0);
	assert_int_equal(truncate(r.path, BYTES / 2), 0);
	assert_int_equal(run(r.disk, DISK_READ, BYTES - 4096, buf, 4096, 0), -EIO);
	disk_free(r.disk);
	cleanup(&r);
}

struct failures {
	unsigned count;
	enum disk_op op;
	uint64_t offset;
	int result;
};

static void on_failed(void *opaque, enum disk_op op, uint64_t offset, int result)
{
	struct failures *f = opaque;

	f->count++;
	f->op = op;
	f->offset = offset;
	f->result = result;
}

static void what_was_done_is_counted_and_errors_of_the_host_are_told(void **state)
{
	for (unsigned no_uring = 0; no_uring < 2; no_uring++) {
		struct failures failures = {0};
		struct disk_counts c;
		struct rig r;
		char buf[4096] = {1};

		image(&r, BYTES);
		const struct disk_raw_config cfg = {
		    .path = r.path, .discard = 1, .no_uring = no_uring};
		assert_int_equal(disk_raw_open(&r.disk, &cfg, NULL), 0);
		disk_watch(r.disk, on_failed, &failures);
		assert_int_equal(run(r.disk, DISK_WRITE, 0, buf, 4096, 0), 0);
		assert_int_equal(run(r.disk, DISK_WRITE, 4096, buf, 1024, 0), 0);
		assert_int_equal(run(r.disk, DISK_READ, 0, buf, 512, 0), 0);
		assert_int_equal(run(r.disk, DISK_FLUSH, 0, NULL, 0, 0), 0);
		assert_int_equal(run(r.disk, DISK_ZERO, 0, NULL, 4096, 1), 0);
		/* A mistake of the caller's, not of the host's. */
		assert_int_equal(run(r.disk, DISK_READ, BYTES, buf, 512, 0), -EINVAL);
		disk_drain(r.disk);
		assert_int_equal(failures.count, 0);
		assert_int_equal(truncate(r.path, 8192), 0);
		assert_int_equal(run(r.disk, DISK_READ, 65536, buf, 512, 0), -EIO);
		disk_drain(r.disk);
		disk_counts(r.disk, &c);
		assert_int_equal(c.writes, 2);
		assert_int_equal(c.written_bytes, 5120);
		assert_int_equal(c.reads, 1);
		assert_int_equal(c.read_bytes, 512);
		assert_int_equal(c.flushes, 1);
		assert_int_equal(c.discards, 1);
		assert_int_equal(c.errors, 2);
		assert_int_equal(c.in_flight, 0);
		assert_int_equal(failures.count, 1);
		assert_int_equal(failures.op, DISK_READ);
		assert_int_equal(failures.offset, 65536);
		assert_int_equal(failures.result, -EIO);
		disk_free(r.disk);
		cleanup(&r);
	}
}

static void on_resized(void *opaque, uint64_t size)
{
	*(uint64_t *)opaque = size;
}

static void growing_tells_the_client(void **state)
{
	struct rig r;
	struct error err;
	uint64_t size = 0;
	const struct disk_client client = {on_resized, &size};
	struct disk_info info;
	image(&r, BYTES);
	const struct disk_raw_config cfg = {.path = r.path};
	assert_int_equal(disk_raw_open(&r.disk, &cfg, NULL), 0);
	disk_attach(r.disk, &client);
	assert_int_equal(disk_refresh(r.disk, &err), 0);
	assert_int_equal(size, 0);
	assert_int_equal(disk_resize(r.disk, 2 * BYTES, &err), 0);
	assert_int_equal(size, 2 * BYTES);
	assert_int_equal(truncate(r.path, 3 * BYTES), 0);
	assert_int_equal(disk_refresh(r.disk, &err), 0);
	assert_int_equal(size, 3 * BYTES);
	disk_info(r.disk, &info);
	assert_int_equal(info.size_bytes, 3 * BYTES);
	assert_int_equal(disk_resize(r.disk, BYTES, &err), -EINVAL);
	assert_int_equal(disk_resize(r.disk, 4 * BYTES + 1, &err), -EINVAL);
	disk_free(r.disk);
	cleanup(&r);
}

static void a_writer_excludes_everybody_and_readers_exclude_writers(void **state)
{
	struct rig r;
	struct disk *second, *third;
	struct error err;
	image(&r, BYTES);
	const struct disk_raw_config rw = {.path = r.path}, ro = {.path = r.path, .read_only = 1};
	assert_int_equal(disk_raw_open(&r.disk, &rw, &err), 0);
	assert_int_equal(disk_raw_open(&second, &rw, &err), -EBUSY);
	assert_non_null(strstr(err.text, "is in use"));
	assert_int_equal(disk_raw_open(&second, &ro, &err), -EBUSY);
	disk_free(r.disk);
	assert_int_equal(disk_raw_open(&second, &ro, &err), 0);
	assert_int_equal(disk_raw_open(&third, &ro, &err), 0);
	assert_int_equal(disk_raw_open(&r.disk, &rw, &err), -EBUSY);
	uint8_t buf[512] = {0};
	assert_int_equal(run(second, DISK_WRITE, 0, buf, 512, 0), -EROFS);
	assert_int_equal(run(second, DISK_READ, 0, buf, 512, 0), 0);
	disk_free(second);
	disk_free(third);
	cleanup(&r);
}

static void expect_refused(const char *path, _Bool read_only, int code, const char *text)
{
	const struct disk_raw_config cfg = {.path = path, .read_only = read_only};
	struct disk *disk;
	struct error err;
	assert_int_equal(disk_raw_open(&disk, &cfg, &err), code);
	if (!strstr(err.text, text))
		fail_msg("'%s' does not say '%s'", err.text, text);
}

static void what_is_no_raw_image_gets_a_sentence(void **state)
{
	struct rig r;
	image(&r, 1000);
	expect_refused(r.path, 0, -EINVAL, "not a multiple of 512");
	assert_int_equal(truncate(r.path, 0), 0);
	expect_refused(r.path, 0, -EINVAL, "is empty");
	expect_refused(r.dir, 0, -EISDIR, "is a directory");
	expect_refused("/dev/null", 0, -EINVAL, "neither a file nor a block device");
	int fd = open(r.path, O_WRONLY);
	assert_int_equal(write(fd, "QFI\xfb", 4), 4);
	assert_int_equal(ftruncate(fd, 4096), 0);
	expect_refused(r.path, 0, -EINVAL, "is a qcow2 image");
	close(fd);
	unlink(r.path);
	expect_refused(r.path, 0, -ENOENT, "there is no disk image");
	cleanup(&r);
}

/*
 * Three functions that the back end calls are this program's, while a test says so: a submission
 * fails, the moment until it is tried again is seen, and so is the end of the ring.
 */
static struct {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	pthread_key_t key; /* of the thread that tries again: its end is seen, too */
	_Bool on, fail, retrying, retried, early;
} hook = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void hook_set(_Bool *what)
{
	pthread_mutex_lock(&hook.mutex);
	*what = 1;
	pthread_cond_broadcast(&hook.cond);
	pthread_mutex_unlock(&hook.mutex);
}

static void on_thread_end(void *opaque)
{
	hook_set(opaque);
}

int io_uring_submit(struct io_uring *ring)
{
	int (*real)(struct io_uring *);
	_Bool fail;

	pthread_mutex_lock(&hook.mutex);
	fail = hook.on && hook.fail;
	hook.fail = 0;
	pthread_mutex_unlock(&hook.mutex);
	if (fail)
		return -EAGAIN;
	*(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit");
	return real(ring);
}

int nanosleep(const struct timespec *time, struct timespec *left)
{
	if (hook.on) {
		pthread_setspecific(hook.key, &hook.retried);
		hook_set(&hook.retrying);
	}
	return 0;
}

void io_uring_queue_exit(struct io_uring *ring)
{
	void (*real)(struct io_uring *);

	pthread_mutex_lock(&hook.mutex);
	while (hook.on && !hook.retrying)
		pthread_cond_wait(&hook.cond, &hook.mutex);
	hook.early = hook.on && !hook.retried;
	pthread_mutex_unlock(&hook.mutex);
	*(void **)&real = dlsym(RTLD_NEXT, "io_uring_queue_exit");
	real(ring);
}

static void a_ring_that_is_to_be_tried_again_outlives_who_tries(void **state)
{
	struct rig r;
	uint8_t buf[512] = {1};
	struct wait w = wait_for(1);
	struct iovec iov = {buf, sizeof(buf)};
	struct disk_req req = {.op = DISK_WRITE,
			       .len = sizeof(buf),
			       .iov = &iov,
			       .iov_count = 1,
			       .done = on_done,
			       .opaque = &w};

	image(&r, BYTES);
	const struct disk_raw_config cfg = {.path = r.path};
	assert_int_equal(disk_raw_open(&r.disk, &cfg, NULL), 0);
	if (strcmp(disk_method(r.disk), "io_uring")) { /* the host refuses it */
		disk_free(r.disk);
		cleanup(&r);
		skip();
	}
	assert_int_equal(pthread_key_create(&hook.key, on_thread_end), 0);
	hook.on = hook.fail = 1;
	disk_submit(r.disk, &req);
	disk_kick(r.disk); /* fails: a thread of the pool is to try again in a moment */
	disk_kick(r.disk); /* ... and this does it first */
	assert_int_equal(waited(&w), 0);
	disk_drain(r.disk);
	disk_free(r.disk);
	assert_true(hook.retried);
	assert_false(hook.early);
	hook.on = 0;
	pthread_key_delete(hook.key);
	cleanup(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(reads_what_was_written_through_io_uring),
	    cmocka_unit_test(reads_what_was_written_through_threads),
	    cmocka_unit_test(reads_what_was_written_around_the_page_cache),
	    cmocka_unit_test(many_requests_at_once_all_finish),
	    cmocka_unit_test(an_image_that_was_cut_is_an_io_error),
	    cmocka_unit_test(what_was_done_is_counted_and_errors_of_the_host_are_told),
	    cmocka_unit_test(growing_tells_the_client),
	    cmocka_unit_test(a_writer_excludes_everybody_and_readers_exclude_writers),
	    cmocka_unit_test(what_is_no_raw_image_gets_a_sentence),
	    cmocka_unit_test(a_ring_that_is_to_be_tried_again_outlives_who_tries),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
