/* disk_uring.c: disk requests through io_uring: submitted by whoever asks, reaped by one thread. */
#include <errno.h>
#include <liburing.h>
#include <signal.h>
#include <stdlib.h>

#include "backend/disk_impl.h"

#define RING_ENTRIES 256
#define LARGE_BYTES  (128 << 10)

/*
 * Requests wait in a list until disk_uring_kick puts them into the submission queue; what does not
 * fit stays in the list, and the reaping thread kicks again when there is room. When the kernel
 * takes nothing for a moment (memory is short), a thread of the pool tries again. The submission
 * side is under `lock`, the completion side belongs to the reaping thread alone.
 *
 * What the host's page cache holds, the kernel copies while a request is submitted, on the thread
 * that submits: most often a vCPU's. That is the quickest way for one request, which the guest
 * waits for anyway. A large one that comes while another is under way goes to the kernel's own
 * workers instead: they copy side by side, and the vCPU goes on.
 */
struct disk_uring {
	struct disk *disk;
	struct disk_pool *pool;
	int fd;
	struct io_uring ring;
	struct lock lock; /* RANK_BACKEND */
	struct disk_req *first, **last;
	unsigned under_way; /* submitted and not reaped; atomic */
	pthread_t thread;
	void (*retry)(struct disk *disk);
};

static void sqe_fill(struct disk_uring *u, struct io_uring_sqe *sqe, struct disk_req *req)
{
	switch (req->op) {
	case DISK_READ:
		io_uring_prep_readv(sqe, u->fd, req->iov, req->iov_count, req->offset);
		break;
	case DISK_WRITE:
		io_uring_prep_writev(sqe, u->fd, req->iov, req->iov_count, req->offset);
		break;
	default: io_uring_prep_fsync(sqe, u->fd, IORING_FSYNC_DATASYNC); break;
	}
	if (__atomic_fetch_add(&u->under_way, 1, __ATOMIC_RELAXED) && req->op == DISK_READ &&
	    req->len >= LARGE_BYTES)
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data(sqe, req);
}

static void append(struct disk_uring *u, struct disk_req *req)
{
	req->next = NULL;
	*u->last = req;
	u->last = &req->next;
}

/* Under the lock. False: the kernel takes nothing now. */
static _Bool push(struct disk_uring *u)
{
	int r;

	while (u->first) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
		if (!sqe)
			break;
		sqe_fill(u, sqe, u->first);
		u->first = u->first->next;
		if (!u->first)
			u->last = &u->first;
	}
	do
		r = io_uring_submit(&u->ring);
	while (r == -EINTR);
	return r >= 0;
}

void disk_uring_add(struct disk_uring *u, struct disk_req *req)
{
	if (req->op == DISK_DISCARD || req->op == DISK_ZERO) {
		disk_pool_add(u->pool, req); /* rare, and has fallbacks */
		return;
	}
	lock_take(&u->lock);
	append(u, req);
	lock_drop(&u->lock);
}

void disk_uring_kick(struct disk_uring *u)
{
	_Bool pushed = 1, progress = 1;

	lock_take(&u->lock);
	while (pushed && progress && (u->first || io_uring_sq_ready(&u->ring))) {
		const struct disk_req *before = u->first;
		pushed = push(u);
		progress = u->first != before;
	}
	lock_drop(&u->lock);
	if (!pushed)
		disk_pool_later(u->pool, u->retry);
}

/* Done, or off again with the rest. */
static void reap(struct disk_uring *u, struct disk_req *req, int res)
{
	_Bool moves;

	/* The submitter wrote the request before it held this lock: the memory model (and a
	 * thread sanitizer) sees no other order between the two, since it goes through the kernel.
	 */
	lock_take(&u->lock);
	lock_drop(&u->lock);
	moves = req->op == DISK_READ || req->op == DISK_WRITE;
	if (moves && res > 0) {
		disk_req_advance(req, (uint64_t)res);
		res = 0;
	} else if (moves && !res) {
		res = -EIO; /* the image became shorter behind our back */
	}
	if (res == -EAGAIN || res == -EINTR || (moves && !res && req->len)) {
		disk_uring_add(u, req);
		disk_uring_kick(u);
		return;
	}
	disk_complete(u->disk, req, MIN(res, 0));
}

static void *reaper_main(void *opaque)
{
	struct disk_uring *u = opaque;
	struct io_uring_cqe *cqe;

	for (;;) {
		struct disk_req *req;
		int res, r = io_uring_wait_cqe(&u->ring, &cqe);

		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r)
			abort(); /* the ring itself is gone: nothing would ever complete */
		req = io_uring_cqe_get_data(cqe);
		res = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		if (!req)
			return NULL;
		__atomic_fetch_sub(&u->under_way, 1, __ATOMIC_RELAXED);
		reap(u, req, res);
		disk_uring_kick(u);
	}
}

static int thread_start(struct disk_uring *u)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&u->thread, NULL, reaper_main, u);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!r)
		pthread_setname_np(u->thread, "disk-uring");
	return r;
}

/* The operations that are used here, all of Linux 5.1. */
static _Bool can_do(struct io_uring *ring)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	_Bool can = probe && io_uring_opcode_supported(probe, IORING_OP_READV) &&
		    io_uring_opcode_supported(probe, IORING_OP_WRITEV) &&
		    io_uring_opcode_supported(probe, IORING_OP_FSYNC);

	if (probe)
		io_uring_free_probe(probe);
	return can && (ring->features & IORING_FEAT_NODROP);
}

static void retry_kick(struct disk *disk)
{
	disk_kick(disk);
}

int disk_uring_new(struct disk_uring **out, struct disk *disk, int fd, struct disk_pool *pool)
{
	struct disk_uring *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return -ENOMEM;
	u->disk = disk;
	u->pool = pool;
	u->fd = fd;
	u->last = &u->first;
	u->retry = retry_kick;
	r = io_uring_queue_init(RING_ENTRIES, &u->ring, 0);
	if (r) {
		free(u);
		return r;
	}
	lock_init(&u->lock, RANK_BACKEND);
	r = can_do(&u->ring) ? -thread_start(u) : -ENOSYS;
	if (r) {
		io_uring_queue_exit(&u->ring);
		lock_fini(&u->lock);
		free(u);
		return r;
	}
	*out = u;
	return 0;
}

void disk_uring_free(struct disk_uring *u)
{
	struct io_uring_sqe *sqe;

	if (!u)
		return;
	lock_take(&u->lock);
	sqe = io_uring_get_sqe(&u->ring);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	while (io_uring_submit(&u->ring) < 0)
		sched_yield();
	lock_drop(&u->lock);
	pthread_join(u->thread, NULL);
	io_uring_queue_exit(&u->ring);
	lock_fini(&u->lock);
	free(u);
}
