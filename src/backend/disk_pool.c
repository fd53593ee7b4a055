/* disk_pool.c: threads that do disk requests with plain system calls. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/disk_impl.h"

#define POOL_MAX_THREADS 16
#define BOUNCE_SIZE	 (256u << 10)
#define RETRY_NS	 2000000

struct worker {
	struct disk_pool *pool;
	pthread_t thread;
	uint8_t *bounce; /* with O_DIRECT, and for zeroes */
};

struct disk_pool {
	struct disk *disk;
	int fd;
	unsigned align;
	struct lock lock; /* RANK_BACKEND */
	pthread_cond_t work;
	struct disk_req *first, **last;
	void (*later)(struct disk *disk);
	_Bool stop;
	struct worker worker[POOL_MAX_THREADS];
	unsigned workers;
};

static _Bool aligned(const struct disk_pool *pool, const struct disk_req *req)
{
	for (unsigned i = 0; pool->align > 1 && i < req->iov_count; i++) {
		if (((uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len) & (pool->align - 1))
			return 0;
	}
	return 1;
}

/* Copies between a request's first vectors and a flat buffer. */
static void iov_copy(const struct disk_req *req, uint8_t *flat, size_t len, _Bool to_flat)
{
	for (unsigned i = 0; len; i++) {
		size_t n = MIN(req->iov[i].iov_len, len);
		if (to_flat)
			memcpy(flat, req->iov[i].iov_base, n);
		else
			memcpy(req->iov[i].iov_base, flat, n);
		flat += n;
		len -= n;
	}
}

/* Bytes moved, or -1 with errno. */
static ssize_t move_once(struct worker *w, struct disk_req *req)
{
	struct disk_pool *pool = w->pool;
	_Bool write = req->op == DISK_WRITE;
	off_t at = (off_t)req->offset;
	size_t n;
	ssize_t r;

	if (aligned(pool, req))
		return write ? pwritev(pool->fd, req->iov, (int)req->iov_count, at)
			     : preadv(pool->fd, req->iov, (int)req->iov_count, at);
	n = MIN(req->len, BOUNCE_SIZE);
	if (write)
		iov_copy(req, w->bounce, n, 1);
	r = write ? pwrite(pool->fd, w->bounce, n, at) : pread(pool->fd, w->bounce, n, at);
	if (!write && r > 0)
		iov_copy(req, w->bounce, (size_t)r, 0);
	return r;
}

static int move(struct worker *w, struct disk_req *req)
{
	while (req->len) {
		ssize_t n = move_once(w, req);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return -EIO; /* the image became shorter behind our back */
		disk_req_advance(req, (uint64_t)n);
	}
	return 0;
}

static int write_zeroes(struct worker *w, struct disk_req *req)
{
	memset(w->bounce, 0, BOUNCE_SIZE);
	while (req->len) {
		size_t len = MIN(req->len, BOUNCE_SIZE);
		ssize_t n = pwrite(w->pool->fd, w->bounce, len, (off_t)req->offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		req->offset += (uint64_t)n;
		req->len -= (uint64_t)n;
	}
	return 0;
}

static _Bool unsupported(int e)
{
	return e == EOPNOTSUPP || e == ENOSYS || e == EINVAL || e == ENODEV;
}

static int do_fallocate(struct worker *w, const struct disk_req *req, int mode)
{
	int r;

	do
		r = fallocate(w->pool->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)req->offset,
			      (off_t)req->len);
	while (r && errno == EINTR);
	return r ? errno : 0;
}

static int do_discard(struct worker *w, struct disk_req *req)
{
	int e = w->pool->disk->info.discard ? do_fallocate(w, req, FALLOC_FL_PUNCH_HOLE) : 0;

	return unsupported(e) ? 0 : -e; /* a hint that this host cannot take */
}

static int do_zero(struct worker *w, struct disk_req *req)
{
	int e = EOPNOTSUPP;

	if (req->unmap && w->pool->disk->info.discard)
		e = do_fallocate(w, req, FALLOC_FL_PUNCH_HOLE);
	if (unsupported(e))
		e = do_fallocate(w, req, FALLOC_FL_ZERO_RANGE);
	return unsupported(e) ? write_zeroes(w, req) : -e;
}

static int do_req(struct worker *w, struct disk_req *req)
{
	if (req->result)
		return req->result;
	switch (req->op) {
	case DISK_READ:
	case DISK_WRITE: return move(w, req);
	case DISK_FLUSH: return fdatasync(w->pool->fd) ? -errno : 0;
	case DISK_DISCARD: return req->len ? do_discard(w, req) : 0;
	case DISK_ZERO: return req->len ? do_zero(w, req) : 0;
	}
	return -EINVAL;
}

static void *worker_main(void *opaque)
{
	struct worker *w = opaque;
	struct disk_pool *pool = w->pool;
	const struct timespec moment = {.tv_nsec = RETRY_NS};

	lock_take(&pool->lock);
	for (;;) {
		struct disk_req *req = pool->first;
		void (*later)(struct disk *) = pool->later;

		if (req) {
			pool->first = req->next;
			if (!pool->first)
				pool->last = &pool->first;
			lock_drop(&pool->lock);
			disk_complete(pool->disk, req, do_req(w, req));
		} else if (later) {
			pool->later = NULL;
			lock_drop(&pool->lock);
			nanosleep(&moment, NULL);
			later(pool->disk);
		} else if (pool->stop) {
			break;
		} else {
			pthread_cond_wait(&pool->work, &pool->lock.mutex);
			continue;
		}
		lock_take(&pool->lock);
	}
	lock_drop(&pool->lock);
	return NULL;
}

void disk_pool_add(struct disk_pool *pool, struct disk_req *req)
{
	req->next = NULL;
	lock_take(&pool->lock);
	*pool->last = req;
	pool->last = &req->next;
	pthread_cond_signal(&pool->work);
	lock_drop(&pool->lock);
}

void disk_pool_later(struct disk_pool *pool, void (*fn)(struct disk *disk))
{
	lock_take(&pool->lock);
	pool->later = fn;
	pthread_cond_signal(&pool->work);
	lock_drop(&pool->lock);
}

/* Signals are for other threads. */
static int thread_start(struct worker *w)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&w->thread, NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!r)
		pthread_setname_np(w->thread, "disk-pool");
	return r;
}

int disk_pool_new(struct disk_pool **out, struct disk *disk, int fd, unsigned threads,
		  unsigned align, struct error *err)
{
	struct disk_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return error_set(err, -ENOMEM, "out of memory");
	assert(threads && threads <= POOL_MAX_THREADS);
	pool->disk = disk;
	pool->fd = fd;
	pool->align = align;
	pool->last = &pool->first;
	lock_init(&pool->lock, RANK_BACKEND);
	pthread_cond_init(&pool->work, NULL);
	for (unsigned i = 0; i < threads; i++) {
		struct worker *w = &pool->worker[i];
		w->pool = pool;
		if (posix_memalign((void **)&w->bounce, 4096, BOUNCE_SIZE) || thread_start(w)) {
			free(w->bounce);
			disk_pool_free(pool);
			return error_set(err, -ENOMEM, "cannot start a thread for disk I/O");
		}
		pool->workers++;
	}
	*out = pool;
	return 0;
}

void disk_pool_free(struct disk_pool *pool)
{
	if (!pool)
		return;
	lock_take(&pool->lock);
	pool->stop = 1;
	pthread_cond_broadcast(&pool->work);
	lock_drop(&pool->lock);
	for (unsigned i = 0; i < pool->workers; i++) {
		pthread_join(pool->worker[i].thread, NULL);
		free(pool->worker[i].bounce);
	}
	pthread_cond_destroy(&pool->work);
	lock_fini(&pool->lock);
	free(pool);
}
