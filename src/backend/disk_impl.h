/* disk_impl.h: what disk back ends are made of. */
#ifndef BACKEND_DISK_IMPL_H
#define BACKEND_DISK_IMPL_H

#include "backend/disk.h"
#include "base/lock.h"

/* submit and kick: any thread. Every request that was submitted ends in one disk_complete. */
struct disk_ops {
	void (*submit)(struct disk *disk, struct disk_req *req);
	void (*kick)(struct disk *disk);
	/* Ends a request at once, on a thread of the back end, with req->result. */
	void (*refuse)(struct disk *disk, struct disk_req *req);
	int (*look)(struct disk *disk, uint64_t *size_bytes, struct error *err);
	int (*resize)(struct disk *disk, uint64_t size_bytes, struct error *err);
	const char *(*method)(const struct disk *disk);
	void (*free)(struct disk *disk);
};

/* The head of every back end's struct. */
struct disk {
	const struct disk_ops *ops;
	struct disk_info info; /* size_bytes: atomic; the rest is constant */
	struct disk_client client;
	void (*failed)(void *opaque, enum disk_op op, uint64_t offset, int result);
	void *failed_opaque;
	struct lock lock; /* RANK_BACKEND: counts, in_flight among them */
	pthread_cond_t idle;
	struct disk_counts counts;
};

void disk_init(struct disk *disk, const struct disk_ops *ops);
void disk_fini(struct disk *disk);
/* On a thread of the back end, no lock held. */
void disk_complete(struct disk *disk, struct disk_req *req, int result);

/* Has `bytes` of a transfer done: the request's offset, length and vectors move on. */
void disk_req_advance(struct disk_req *req, uint64_t bytes);

/*
 * disk_pool.c: threads that do requests the plain way, one each at a time, on a file descriptor.
 * `align` is what O_DIRECT demands of memory, offsets and lengths; 1: nothing.
 */
struct disk_pool;
NODISCARD int disk_pool_new(struct disk_pool **pool, struct disk *disk, int fd, unsigned threads,
			    unsigned align, struct error *err);
void disk_pool_free(struct disk_pool *pool); /* nothing is in flight; NULL is fine */
void disk_pool_add(struct disk_pool *pool, struct disk_req *req);
/* A function that a thread of the pool calls a moment later, once. */
void disk_pool_later(struct disk_pool *pool, void (*fn)(struct disk *disk));

/*
 * disk_uring.c: reads, writes and flushes through io_uring. -ENOSYS, -EPERM and the like when the
 * host refuses it: then there is the pool. What it cannot do itself it hands to `pool`.
 */
struct disk_uring;
NODISCARD int disk_uring_new(struct disk_uring **ring, struct disk *disk, int fd,
			     struct disk_pool *pool);
void disk_uring_free(struct disk_uring *ring); /* nothing is in flight; NULL is fine */
void disk_uring_add(struct disk_uring *ring, struct disk_req *req);
void disk_uring_kick(struct disk_uring *ring);

#endif
