/* disk.h: the host's side of a disk: asynchronous reads, writes, flushes; completions by callback.
 */
#ifndef BACKEND_DISK_H
#define BACKEND_DISK_H

#include <sys/uio.h>
#include "base/error.h"

#define DISK_SECTOR 512

enum disk_op {
	DISK_READ,
	DISK_WRITE,
	DISK_FLUSH,   /* everything that was written (and said to be done) before is durable */
	DISK_DISCARD, /* contents are not needed any more; what is read afterwards is zero or old */
	DISK_ZERO,    /* reads as zeroes afterwards */
};

/*
 * A request. The caller owns it and what it points to, and leaves both alone from disk_submit until
 * `done`. `done` is called exactly once, on a thread of the back end, with no lock held, and may
 * submit more. The back end may change `iov`, `offset` and `len` as it goes.
 */
struct disk_req {
	enum disk_op op;
	_Bool unmap;	      /* DISK_ZERO: space may be given back to the host */
	uint64_t offset, len; /* bytes; len is the sum of iov for reads and writes */
	struct iovec *iov;    /* up to DISK_IOV_MAX */
	unsigned iov_count;
	void (*done)(struct disk_req *req, int result); /* 0 or -errno */
	void *opaque;
	/* the back end's: */
	struct disk_req *next;
	int result;
	uint64_t bytes; /* len, as it was submitted */
};
#define DISK_IOV_MAX 1024

struct disk_info {
	uint64_t size_bytes;	 /* a multiple of DISK_SECTOR */
	uint32_t logical_block;	 /* what reads and writes should be aligned to: at least 512 */
	uint32_t physical_block; /* what they had best be aligned to */
	_Bool read_only;	 /* writes, discards and zeroes fail with -EROFS */
	_Bool discard;		 /* discard and zero with unmap give space back */
};

/* Who uses the disk. resized: on the thread that called disk_refresh, no lock held. */
struct disk_client {
	void (*resized)(void *opaque, uint64_t size_bytes);
	void *opaque;
};

struct disk;

void disk_info(const struct disk *disk, struct disk_info *info);
void disk_attach(struct disk *disk, const struct disk_client *client); /* set-up only */

/* What was done since the disk was opened; a request counts when it is over. */
struct disk_counts {
	uint64_t reads, read_bytes, writes, written_bytes, flushes;
	uint64_t discards; /* and requests to zero */
	uint64_t errors;   /* requests that failed */
	unsigned in_flight;
};
void disk_counts(struct disk *disk, struct disk_counts *counts);
/*
 * Somebody who is told of each request that the host could not carry out (those that were refused
 * as wrong, or as beyond what the host can do, are not among them): on a thread of the back end,
 * before the request's own `done`, with no lock held. Set-up only.
 */
void disk_watch(struct disk *disk,
		void (*failed)(void *opaque, enum disk_op op, uint64_t offset, int result),
		void *opaque);
const char *disk_op_name(enum disk_op op);

/*
 * Queues a request; disk_kick starts all that are queued. Any thread, also under a device's lock;
 * neither blocks for the host's I/O. A range beyond the end is -EINVAL (through `done`).
 * Requests that overlap in time are in no order; a flush covers what was done when it was
 * submitted.
 */
void disk_submit(struct disk *disk, struct disk_req *req);
void disk_kick(struct disk *disk);
/* Waits until nothing is in flight and all `done` callbacks have returned. Not from `done`, and
 * with no lock held that `done` takes. */
void disk_drain(struct disk *disk);

/* The image's size may have changed on the host: looks, and tells the client. */
NODISCARD int disk_refresh(struct disk *disk, struct error *err);
/* Makes the image this large (a regular file; growing only) and tells the client. */
NODISCARD int disk_resize(struct disk *disk, uint64_t size_bytes, struct error *err);

/* "io_uring" or "threads": for the person. */
const char *disk_method(const struct disk *disk);
/* Drains, and closes what was opened. NULL is fine. */
void disk_free(struct disk *disk);

/* A raw image: a regular file or a block device. */
struct disk_raw_config {
	const char *path;
	_Bool read_only;
	_Bool discard;	  /* give discarded space back */
	_Bool direct;	  /* O_DIRECT: around the host's page cache */
	_Bool no_uring;	  /* always the thread pool */
	unsigned threads; /* of the pool; 0: four */
};
/*
 * Opens, locks (a writer excludes everybody, readers exclude writers) and looks at an image.
 * Failures leave nothing behind and a sentence: missing, busy, a directory, not writable, not a
 * multiple of 512 bytes.
 */
NODISCARD int disk_raw_open(struct disk **disk, const struct disk_raw_config *cfg,
			    struct error *err);

#endif
