/* blk_impl.h: the block device's private struct, shared by its files. */
#ifndef DEV_VIRTIO_BLK_IMPL_H
#define DEV_VIRTIO_BLK_IMPL_H

#include "base/le.h"
#include "dev/virtio/blk.h"

/* Feature bits (VIRTIO12 5.2.3). */
#define BLK_F_SIZE_MAX	   BIT64(1)
#define BLK_F_SEG_MAX	   BIT64(2)
#define BLK_F_RO	   BIT64(5)
#define BLK_F_BLK_SIZE	   BIT64(6)
#define BLK_F_FLUSH	   BIT64(9)
#define BLK_F_TOPOLOGY	   BIT64(10)
#define BLK_F_CONFIG_WCE   BIT64(11)
#define BLK_F_MQ	   BIT64(12)
#define BLK_F_DISCARD	   BIT64(13)
#define BLK_F_WRITE_ZEROES BIT64(14)

/* Request types and statuses (5.2.6). */
enum {
	BLK_T_IN = 0,
	BLK_T_OUT = 1,
	BLK_T_FLUSH = 4,
	BLK_T_GET_ID = 8,
	BLK_T_DISCARD = 11,
	BLK_T_WRITE_ZEROES = 13,
};
enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };

/* Header of a request, and a range of a discard or write-zeroes. */
struct blk_header {
	struct le32 type, reserved;
	struct le64 sector;
};
_Static_assert(sizeof(struct blk_header) == 16, "VIRTIO12 5.2.6");
struct blk_range {
	struct le64 sector;
	struct le32 sectors, flags;
};
_Static_assert(sizeof(struct blk_range) == 16, "VIRTIO12 5.2.6");
#define BLK_RANGE_UNMAP 1u

/* Limits that the configuration announces. */
#define BLK_QUEUE_SIZE	  256
#define BLK_SEG_MAX	  (VQ_SEGS_MAX - 4) /* header, status, and a buffer across two slots */
#define BLK_SIZE_MAX	  (UINT32_C(4) << 20)
#define BLK_RANGES_MAX	  16
#define BLK_RANGE_SECTORS (UINT32_C(1) << 22) /* 2 GiB */
#define BLK_REQUESTS	  128		      /* in flight, all queues together */

/* A request in flight; they wait in a list of free ones. */
struct blk_req {
	struct disk_req io; /* first */
	struct blk *blk;
	struct blk_req *next;
	unsigned queue;
	uint32_t type;
	unsigned range, ranges; /* being done, and all */
	_Bool flushing;		/* the write is done; it becomes durable now */
	struct blk_range list[BLK_RANGES_MAX];
	struct vq_chain chain;
	struct iovec iov[VQ_SEGS_MAX];
};

struct blk {
	struct virtio_dev vd; /* first */
	struct disk *disk;
	struct disk_info info;
	char serial[BLK_SERIAL_MAX];
	unsigned queues;
	struct blk_req *requests, *free;
	_Bool starved; /* a queue was left because no request was free */
};

static inline struct blk *blk_of(struct virtio_dev *vd)
{
	return container_of(vd, struct blk, vd);
}

/* blk_req.c, under the device's lock: takes what is in the queue and submits it. The caller kicks
 * the disk. */
void blk_queue_run(struct blk *blk, unsigned q);
/* blk.c: writes are to be durable when they are done (5.2.5.2). */
_Bool blk_writethrough(const struct blk *blk);

#endif
