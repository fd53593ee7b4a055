/* virtqueue.h: a queue between driver and device: split and packed rings, checked as hostile input.
 */
#ifndef DEV_VIRTIO_VIRTQUEUE_H
#define DEV_VIRTIO_VIRTQUEUE_H

#include <sys/uio.h>
#include "mem/gmem.h"

#define VQ_SIZE_MAX  1024 /* descriptors in a ring */
#define VQ_CHAIN_MAX 1024 /* descriptors in a chain, also in an indirect table */
#define VQ_SEGS_MAX  258  /* pieces of host memory that a chain may come to */

/*
 * A chain of buffers that the driver has made available, as pieces of host memory: first `out`
 * pieces that the device reads (the driver's output), then `in` pieces that it writes. Every piece
 * lies whole in RAM. The bytes belong to the guest, whose CPUs may change them at any time: copy a
 * structure once (chain_read), check the copy, use the copy.
 */
struct vq_chain {
	uint16_t id;	/* split: head descriptor; packed: buffer id */
	uint16_t slots; /* ring descriptors taken (packed) */
	unsigned out, in;
	uint32_t out_bytes, in_bytes;
	struct iovec iov[VQ_SEGS_MAX]; /* in's begin at iov[out] */
	struct gpa addr[VQ_SEGS_MAX];
};

/* Copies from the readable part at `offset`, or to the writable part; gives the bytes copied, fewer
 * at the part's end. chain_write marks memory dirty. */
size_t chain_read(const struct vq_chain *c, size_t offset, void *buf, size_t len);
size_t chain_write(struct gmem *mem, const struct vq_chain *c, size_t offset, const void *buf,
		   size_t len);
/* Marks the first `len` bytes of the writable part dirty, after something else (a readv) has
 * filled them. */
void chain_dirty(struct gmem *mem, const struct vq_chain *c, size_t len);
/* I/O vectors for [offset, offset + len) of the readable or the writable part; gives their number,
 * or -1 when the part is shorter or `max` is too small. */
int chain_slice(const struct vq_chain *c, _Bool writable, size_t offset, size_t len,
		struct iovec *iov, unsigned max);

/*
 * The queue. Everything is under its device's lock. Fields from `size` to `used_wrap` are what is
 * saved; the rest follows from them (vq_start).
 */
struct virtqueue {
	struct gmem *mem;
	uint16_t max_size;	    /* constant; 0: no such queue */
	uint16_t size;		    /* as set by the driver */
	uint16_t vector;	    /* MSI-X vector; 0xffff: none */
	_Bool ready;		    /* enabled by the driver */
	uint64_t desc, avail, used; /* packed: descriptors, driver area, device area */
	uint16_t last_avail;	    /* split: next avail entry; packed: next descriptor */
	uint16_t used_idx; /* split: as in the ring; packed: next descriptor to write back */
	_Bool avail_wrap, used_wrap;

	_Bool packed, event_idx, indirect;
	_Bool stopping;	  /* reset asked for while chains are in flight */
	_Bool notify_off; /* the driver was told not to notify */
	_Bool signalled_valid;
	uint16_t signalled;		   /* used_idx at the last interrupt decision */
	_Bool pushed;			   /* something, since then */
	uint16_t later_slots, later_flags; /* vq_push_later: ring entries, and flags held back */
	unsigned in_flight;		   /* chains popped and not yet pushed or dropped */
	unsigned slots_in_flight;	   /* ring entries that those take */
	uint8_t *desc_host, *avail_host, *used_host;
};

void vq_init(struct virtqueue *vq, struct gmem *mem, unsigned max_size);
/* Back to reset values; chains in flight are forgotten by the ring but still counted. */
void vq_reset(struct virtqueue *vq);
/*
 * The driver enables the queue (or saved state was loaded: `resume`): checks alignment and that the
 * rings lie in RAM. -EINVAL: the queue cannot work; it stays disabled.
 */
NODISCARD int vq_start(struct virtqueue *vq, uint64_t features, _Bool resume);

/*
 * Takes the next chain. 1: there it is; 0: the ring is empty, and (unless notifications are
 * disabled) the driver will notify when that changes; -EPROTO: the ring is malformed and nothing
 * was taken (`why` says how): the device needs a reset (VIRTIO12 2.1.1).
 */
NODISCARD int vq_pop(struct virtqueue *vq, struct vq_chain *chain, const char **why);
/* Gives back the chain that was popped last, as if it had not been. */
void vq_unpop(struct virtqueue *vq, const struct vq_chain *chain);
/* Returns a chain to the driver with `written` bytes filled in its writable part. The memory must
 * have been marked dirty. Visible at once; no interrupt. */
void vq_push(struct virtqueue *vq, const struct vq_chain *chain, uint32_t written);
/* Several chains that become visible together (VIRTIO12 5.1.6.4, mergeable buffers): push each with
 * vq_push_later, numbered from 0, then vq_push_flush with their count. */
void vq_push_later(struct virtqueue *vq, const struct vq_chain *chain, uint32_t written,
		   unsigned index);
void vq_push_flush(struct virtqueue *vq, unsigned count);

/* Does the driver want an interrupt for what was pushed since the last time this was asked? */
_Bool vq_wants_interrupt(struct virtqueue *vq);
/* Whether the driver is to notify. Switching it on gives true when chains are already there (look
 * again: their notification may be lost). */
void vq_notify_disable(struct virtqueue *vq);
NODISCARD _Bool vq_notify_enable(struct virtqueue *vq);
/* The chain will not be answered. */
void vq_drop(struct virtqueue *vq, const struct vq_chain *chain);
/* No chain is available (a malformed ring counts as empty). */
_Bool vq_empty(const struct virtqueue *vq);

#endif
