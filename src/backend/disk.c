/* disk.c: what all disk back ends share: checks of requests, counting, waiting for the last. */
#include "backend/disk.h"

#include <assert.h>
#include <errno.h>

#include "backend/disk_impl.h"

void disk_init(struct disk *disk, const struct disk_ops *ops)
{
	disk->ops = ops;
	lock_init(&disk->lock, RANK_BACKEND);
	pthread_cond_init(&disk->idle, NULL);
}

void disk_fini(struct disk *disk)
{
	pthread_cond_destroy(&disk->idle);
	lock_fini(&disk->lock);
}

static uint64_t size_now(const struct disk *disk)
{
	return __atomic_load_n(&disk->info.size_bytes, __ATOMIC_RELAXED);
}

void disk_info(const struct disk *disk, struct disk_info *info)
{
	*info = disk->info;
	info->size_bytes = size_now(disk);
}

void disk_attach(struct disk *disk, const struct disk_client *client)
{
	disk->client = *client;
}

static int req_check(const struct disk *disk, const struct disk_req *req)
{
	if (req->op != DISK_READ && req->op != DISK_FLUSH && disk->info.read_only)
		return -EROFS;
	if (req->op != DISK_FLUSH && !range_fits(req->offset, req->len, size_now(disk)))
		return -EINVAL;
	return 0;
}

void disk_submit(struct disk *disk, struct disk_req *req)
{
	assert(req->iov_count <= DISK_IOV_MAX);
	lock_take(&disk->lock);
	disk->counts.in_flight++;
	lock_drop(&disk->lock);
	req->bytes = req->len;
	req->result = req_check(disk, req);
	if (req->result || (req->op != DISK_FLUSH && !req->len))
		disk->ops->refuse(disk, req);
	else
		disk->ops->submit(disk, req);
}

void disk_kick(struct disk *disk)
{
	disk->ops->kick(disk);
}

static void count(struct disk_counts *c, enum disk_op op, uint64_t bytes, int result)
{
	if (result) {
		c->errors += result != -EOPNOTSUPP;
		return;
	}
	switch (op) {
	case DISK_READ:
		c->reads++;
		c->read_bytes += bytes;
		break;
	case DISK_WRITE:
		c->writes++;
		c->written_bytes += bytes;
		break;
	case DISK_FLUSH: c->flushes++; break;
	case DISK_DISCARD:
	case DISK_ZERO: c->discards++; break;
	}
}

void disk_complete(struct disk *disk, struct disk_req *req, int result)
{
	enum disk_op op = req->op;
	uint64_t bytes = req->bytes;

	/* The request is its owner's again once it is told: what is needed of it was taken. */
	if (disk->failed && result && result != -EOPNOTSUPP && !req->result)
		disk->failed(disk->failed_opaque, op, req->offset, result);
	req->done(req, result);
	lock_take(&disk->lock);
	assert(disk->counts.in_flight);
	count(&disk->counts, op, bytes, result);
	if (!--disk->counts.in_flight)
		pthread_cond_broadcast(&disk->idle);
	lock_drop(&disk->lock);
}

void disk_counts(struct disk *disk, struct disk_counts *counts)
{
	lock_take(&disk->lock);
	*counts = disk->counts;
	lock_drop(&disk->lock);
}

void disk_watch(struct disk *disk,
		void (*failed)(void *opaque, enum disk_op op, uint64_t offset, int result),
		void *opaque)
{
	disk->failed = failed;
	disk->failed_opaque = opaque;
}

const char *disk_op_name(enum disk_op op)
{
	static const char *const names[] = {
	    [DISK_READ] = "read",	[DISK_WRITE] = "write", [DISK_FLUSH] = "flush",
	    [DISK_DISCARD] = "discard", [DISK_ZERO] = "zero",
	};

	return names[op];
}

void disk_drain(struct disk *disk)
{
	disk_kick(disk);
	lock_take(&disk->lock);
	while (disk->counts.in_flight)
		pthread_cond_wait(&disk->idle, &disk->lock.mutex);
	lock_drop(&disk->lock);
}

void disk_req_advance(struct disk_req *req, uint64_t bytes)
{
	req->offset += bytes;
	req->len -= bytes;
	while (bytes && req->iov_count) {
		size_t n = MIN(bytes, req->iov->iov_len);
		req->iov->iov_base = (char *)req->iov->iov_base + n;
		req->iov->iov_len -= n;
		bytes -= n;
		if (!req->iov->iov_len) {
			req->iov++;
			req->iov_count--;
		}
	}
}

static int set_size(struct disk *disk, uint64_t size)
{
	if (size != size_now(disk)) {
		__atomic_store_n(&disk->info.size_bytes, size, __ATOMIC_RELAXED);
		if (disk->client.resized)
			disk->client.resized(disk->client.opaque, size);
	}
	return 0;
}

int disk_refresh(struct disk *disk, struct error *err)
{
	uint64_t size;
	int r = disk->ops->look(disk, &size, err);

	return r ? r : set_size(disk, size);
}

int disk_resize(struct disk *disk, uint64_t size_bytes, struct error *err)
{
	int r;

	if (!size_bytes || size_bytes % DISK_SECTOR)
		return error_set(err, -EINVAL, "a disk's size must be a multiple of %d bytes",
				 DISK_SECTOR);
	if (size_bytes < size_now(disk))
		return error_set(err, -EINVAL,
				 "a disk in use cannot be made smaller (it has %llu bytes)",
				 (unsigned long long)size_now(disk));
	if (disk->info.read_only)
		return error_set(err, -EROFS, "a read-only disk cannot be resized");
	r = disk->ops->resize(disk, size_bytes, err);
	return r ? r : set_size(disk, size_bytes);
}

const char *disk_method(const struct disk *disk)
{
	return disk->ops->method(disk);
}

void disk_free(struct disk *disk)
{
	if (!disk)
		return;
	disk_drain(disk);
	disk->ops->free(disk);
}
