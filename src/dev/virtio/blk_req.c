/* blk_req.c: the block device's requests, from the ring to the disk and back (VIRTIO12 5.2.6). */
#include <errno.h>

#include "base/le.h"
#include "base/trace.h"
#include "dev/virtio/blk_impl.h"

/*
 * A request is parsed and submitted on the vCPU thread that notified, and finished on a thread of
 * the back end, both under the device's lock. The last byte of the writable part is the status; it
 * is written last, just before the chain goes back.
 */

static void req_free(struct blk *blk, struct blk_req *r)
{
	r->next = blk->free;
	blk->free = r;
}

/* Under the lock: the chain goes back to the driver with its status. */
static void req_finish(struct blk *blk, struct blk_req *r, uint8_t status)
{
	const struct vq_chain *c = &r->chain;
	uint32_t written = c->in_bytes == 1;

	chain_write(blk->vd.mem, c, c->in_bytes - 1, &status, 1);
	if (status == BLK_S_OK && (r->type == BLK_T_IN || r->type == BLK_T_GET_ID))
		written = c->in_bytes;
	if (r->type == BLK_T_IN)
		chain_dirty(blk->vd.mem, c, c->in_bytes - 1);
	virtio_push(&blk->vd, r->queue, c, written);
	req_free(blk, r);
}

static uint8_t status_of(int result)
{
	if (!result)
		return BLK_S_OK;
	return result == -EOPNOTSUPP ? BLK_S_UNSUPP : BLK_S_IOERR;
}

/* ---- ranges: discard and write zeroes (5.2.6) ---- */

static void range_submit(struct blk *blk, struct blk_req *r)
{
	const struct blk_range *range = &r->list[r->range];

	r->io.op = r->type == BLK_T_DISCARD ? DISK_DISCARD : DISK_ZERO;
	r->io.unmap = le32_get(range->flags) & BLK_RANGE_UNMAP;
	r->io.offset = le64_get(range->sector) * DISK_SECTOR;
	r->io.len = (uint64_t)le32_get(range->sectors) * DISK_SECTOR;
	r->io.iov = NULL;
	r->io.iov_count = 0;
	disk_submit(blk->disk, &r->io);
}

static _Bool sectors_fit(const struct blk *blk, uint64_t sector, uint64_t sectors)
{
	return range_fits(sector, sectors, blk->info.size_bytes / DISK_SECTOR);
}

/* BLK_S_OK when all ranges can be done. They were copied from the guest before. */
static uint8_t ranges_check(const struct blk *blk, const struct blk_req *r)
{
	uint32_t allowed = r->type == BLK_T_DISCARD ? 0 : BLK_RANGE_UNMAP;

	for (unsigned i = 0; i < r->ranges; i++) {
		if (le32_get(r->list[i].flags) & ~allowed)
			return BLK_S_UNSUPP;
		if (le32_get(r->list[i].sectors) > BLK_RANGE_SECTORS ||
		    !sectors_fit(blk, le64_get(r->list[i].sector), le32_get(r->list[i].sectors)))
			return BLK_S_IOERR;
	}
	return BLK_S_OK;
}

/* BLK_S_OK: submitted. */
static uint8_t ranges_start(struct blk *blk, struct blk_req *r)
{
	size_t bytes = r->chain.out_bytes - sizeof(struct blk_header);
	uint8_t status;

	if (!virtio_has(&blk->vd, r->type == BLK_T_DISCARD ? BLK_F_DISCARD : BLK_F_WRITE_ZEROES))
		return BLK_S_UNSUPP;
	if (!bytes || bytes % sizeof(struct blk_range) || bytes > sizeof(r->list))
		return BLK_S_IOERR;
	r->ranges = (unsigned)(bytes / sizeof(struct blk_range));
	r->range = 0;
	chain_read(&r->chain, sizeof(struct blk_header), r->list, bytes);
	status = ranges_check(blk, r);
	if (status == BLK_S_OK)
		range_submit(blk, r);
	return status;
}

/* ---- the other types ---- */

static uint8_t transfer_start(struct blk *blk, struct blk_req *r, uint64_t sector)
{
	_Bool in = r->type == BLK_T_IN;
	uint64_t len = in ? r->chain.in_bytes - 1 : r->chain.out_bytes - sizeof(struct blk_header);
	int n;

	if (len % DISK_SECTOR || !sectors_fit(blk, sector, len / DISK_SECTOR))
		return BLK_S_IOERR;
	n = chain_slice(&r->chain, in, in ? 0 : sizeof(struct blk_header), len, r->iov,
			VQ_SEGS_MAX);
	if (n < 0)
		return BLK_S_IOERR;
	r->io.op = in ? DISK_READ : DISK_WRITE;
	r->io.offset = sector * DISK_SECTOR;
	r->io.len = len;
	r->io.iov = r->iov;
	r->io.iov_count = (unsigned)n;
	disk_submit(blk->disk, &r->io);
	return BLK_S_OK;
}

static void flush_submit(struct blk *blk, struct blk_req *r)
{
	r->io.op = DISK_FLUSH;
	r->io.offset = r->io.len = 0;
	r->io.iov_count = 0;
	disk_submit(blk->disk, &r->io);
}

static void serial_give(struct blk *blk, struct blk_req *r)
{
	size_t len = MIN(r->chain.in_bytes - 1u, (uint32_t)sizeof(blk->serial));

	chain_write(blk->vd.mem, &r->chain, 0, blk->serial, len);
	req_finish(blk, r, BLK_S_OK);
}

static _Bool writes(uint32_t type)
{
	return type == BLK_T_OUT || type == BLK_T_DISCARD || type == BLK_T_WRITE_ZEROES;
}

/* A chain with room for header and status: it is submitted, or finished at once. */
static void req_start(struct blk *blk, struct blk_req *r)
{
	struct blk_header h;
	uint8_t status = BLK_S_OK;

	chain_read(&r->chain, 0, &h, sizeof(h));
	r->type = le32_get(h.type);
	r->flushing = 0;
	r->ranges = r->range = 0;
	trace(TRACE_IO, "%s: type %u sector %llu out %u in %u", blk->vd.pci.dev.id, r->type,
	      (unsigned long long)le64_get(h.sector), r->chain.out_bytes, r->chain.in_bytes);
	if (writes(r->type) && blk->info.read_only) {
		req_finish(blk, r, BLK_S_IOERR); /* 5.2.6.2 */
		return;
	}
	switch (r->type) {
	case BLK_T_IN:
	case BLK_T_OUT: status = transfer_start(blk, r, le64_get(h.sector)); break;
	case BLK_T_FLUSH: flush_submit(blk, r); break;
	case BLK_T_GET_ID: serial_give(blk, r); break;
	case BLK_T_DISCARD:
	case BLK_T_WRITE_ZEROES: status = ranges_start(blk, r); break;
	default: status = BLK_S_UNSUPP;
	}
	if (status != BLK_S_OK)
		req_finish(blk, r, status);
}

/* ---- completion ---- */

/* Is there more to do for this request? Then it was submitted. */
static _Bool req_goes_on(struct blk *blk, struct blk_req *r, int result)
{
	if (result || r->flushing)
		return 0;
	if (r->ranges && ++r->range < r->ranges) {
		range_submit(blk, r);
		return 1;
	}
	if (writes(r->type) && blk_writethrough(blk)) {
		r->flushing = 1;
		flush_submit(blk, r);
		return 1;
	}
	return 0;
}

/* On a thread of the back end. */
static void req_done(struct disk_req *io, int result)
{
	struct blk_req *r = container_of(io, struct blk_req, io);
	struct blk *blk = r->blk;
	unsigned q = r->queue;

	lock_take(&blk->vd.pci.dev.lock);
	if (!req_goes_on(blk, r, result)) {
		req_finish(blk, r, status_of(result));
		if (blk->starved) {
			blk->starved = 0;
			for (unsigned i = 0; i < blk->queues; i++)
				blk_queue_run(blk, i);
		}
		virtio_interrupt(&blk->vd, q);
	}
	lock_drop(&blk->vd.pci.dev.lock);
	disk_kick(blk->disk);
}

/* ---- the queue ---- */

void blk_queue_run(struct blk *blk, unsigned q)
{
	while (virtio_queue_ready(&blk->vd, q)) {
		struct blk_req *r = blk->free;

		if (!r) {
			blk->starved = 1;
			break;
		}
		if (!virtio_pop(&blk->vd, q, &r->chain))
			break;
		blk->free = r->next;
		r->blk = blk;
		r->queue = q;
		r->io.done = req_done;
		if (r->chain.out_bytes < sizeof(struct blk_header) || !r->chain.in_bytes) {
			virtio_drop(&blk->vd, q, &r->chain);
			req_free(blk, r);
			virtio_broken(&blk->vd, "a request without header or status");
			break;
		}
		req_start(blk, r);
	}
	/* What was finished at once. */
	if (blk->vd.vq[q].ready)
		virtio_interrupt(&blk->vd, q);
}
