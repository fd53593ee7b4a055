/* virtqueue.c: what split and packed queues have in common: set-up, counting, chains of memory. */
#include "dev/virtio/virtqueue.h"

#include <assert.h>
#include <errno.h>

#include "dev/virtio/virtio.h"
#include "dev/virtio/vq_impl.h"

/* ---- chains ---- */

void chain_clear(struct vq_chain *c)
{
	c->id = c->slots = 0;
	c->out = c->in = 0;
	c->out_bytes = c->in_bytes = 0;
}

const char *chain_add(struct virtqueue *vq, struct vq_chain *c, uint64_t addr, uint32_t len,
		      _Bool write)
{
	unsigned at = c->out + c->in;
	uint32_t *bytes = write ? &c->in_bytes : &c->out_bytes;
	int n;

	if (!write && c->in)
		return "a readable buffer after a writable one"; /* VIRTIO12 2.7.4.2 */
	if (!len)
		return NULL;
	if (__builtin_add_overflow(*bytes, len, bytes))
		return "a chain of more than 4 GiB"; /* VIRTIO12 2.7.5 */
	n = gmem_iov(vq->mem, gpa(addr), len, write, c->iov + at, VQ_SEGS_MAX - at);
	if (n == -E2BIG)
		return "a chain of too many buffers";
	if (n <= 0)
		return "a buffer outside RAM";
	for (int i = 0; i < n; i++) {
		c->addr[at + (unsigned)i] = gpa(addr);
		addr += c->iov[at + (unsigned)i].iov_len;
	}
	*(write ? &c->in : &c->out) += (unsigned)n;
	return NULL;
}

const char *chain_fits(const struct virtqueue *vq, const struct vq_chain *c)
{
	/* A descriptor that the device has not returned yet cannot be made available again. */
	return vq->slots_in_flight + c->slots > vq->size ? "more chains than descriptors" : NULL;
}

const char *indirect_table(struct virtqueue *vq, uint64_t addr, uint32_t len, const uint8_t **table,
			   unsigned *count)
{
	/* VIRTIO12 2.7.5.3 */
	if (!vq->indirect)
		return "an indirect descriptor, which was not negotiated";
	if (!len || len % DESC_SIZE || len / DESC_SIZE > VQ_CHAIN_MAX)
		return "an indirect table of a wrong size";
	*table = gmem_ptr(vq->mem, gpa(addr), len, 0);
	*count = len / DESC_SIZE;
	return *table ? NULL : "an indirect table outside RAM";
}

size_t chain_read(const struct vq_chain *c, size_t offset, void *buf, size_t len)
{
	uint8_t *to = buf;

	for (unsigned i = 0; i < c->out && len; i++) {
		const struct iovec *v = &c->iov[i];
		if (offset >= v->iov_len) {
			offset -= v->iov_len;
			continue;
		}
		size_t n = MIN(v->iov_len - offset, len);
		memcpy(to, (const uint8_t *)v->iov_base + offset, n);
		to += n;
		len -= n;
		offset = 0;
	}
	__asm__ volatile("" ::: "memory");
	return (size_t)(to - (uint8_t *)buf);
}

size_t chain_write(struct gmem *mem, const struct vq_chain *c, size_t offset, const void *buf,
		   size_t len)
{
	const uint8_t *from = buf;

	for (unsigned i = c->out; i < c->out + c->in && len; i++) {
		const struct iovec *v = &c->iov[i];
		if (offset >= v->iov_len) {
			offset -= v->iov_len;
			continue;
		}
		size_t n = MIN(v->iov_len - offset, len);
		memcpy((uint8_t *)v->iov_base + offset, from, n);
		gmem_dirty(mem, gpa(c->addr[i].v + offset), n);
		from += n;
		len -= n;
		offset = 0;
	}
	return (size_t)(from - (const uint8_t *)buf);
}

void chain_dirty(struct gmem *mem, const struct vq_chain *c, size_t len)
{
	for (unsigned i = c->out; i < c->out + c->in && len; i++) {
		size_t n = MIN(c->iov[i].iov_len, len);
		gmem_dirty(mem, c->addr[i], n);
		len -= n;
	}
}

int chain_slice(const struct vq_chain *c, _Bool writable, size_t offset, size_t len,
		struct iovec *iov, unsigned max)
{
	unsigned first = writable ? c->out : 0, count = writable ? c->in : c->out, n = 0;

	for (unsigned i = first; i < first + count && len; i++) {
		const struct iovec *v = &c->iov[i];
		if (offset >= v->iov_len) {
			offset -= v->iov_len;
			continue;
		}
		if (n == max)
			return -1;
		iov[n].iov_base = (uint8_t *)v->iov_base + offset;
		iov[n].iov_len = MIN(v->iov_len - offset, len);
		len -= iov[n++].iov_len;
		offset = 0;
	}
	return len ? -1 : (int)n;
}

/* ---- the queue ---- */

static const struct vq_format *format(const struct virtqueue *vq)
{
	return vq->packed ? &vq_packed : &vq_split;
}

void vq_init(struct virtqueue *vq, struct gmem *mem, unsigned max_size)
{
	assert(max_size && max_size <= VQ_SIZE_MAX && !(max_size & (max_size - 1)));
	memset(vq, 0, sizeof(*vq));
	vq->mem = mem;
	vq->max_size = (uint16_t)max_size;
	vq_reset(vq);
}

void vq_reset(struct virtqueue *vq)
{
	const struct virtqueue blank = {.mem = vq->mem,
					.max_size = vq->max_size,
					.size = vq->max_size,
					.vector = VIRTIO_NO_VECTOR,
					.in_flight = vq->in_flight,
					.stopping = vq->in_flight != 0};

	*vq = blank;
}

/* Rings are powers of two only when split (VIRTIO12 2.7, 2.8.10.1). */
static _Bool size_fits(const struct virtqueue *vq)
{
	return vq->size && vq->size <= vq->max_size && (vq->packed || !(vq->size & (vq->size - 1)));
}

int vq_start(struct virtqueue *vq, uint64_t features, _Bool resume)
{
	unsigned n = vq->size;

	vq->packed = !!(features & VIRTIO_F_RING_PACKED);
	vq->event_idx = !!(features & VIRTIO_F_EVENT_IDX);
	vq->indirect = !!(features & VIRTIO_F_INDIRECT_DESC);
	vq->ready = 0;
	vq->notify_off = vq->signalled_valid = vq->pushed = 0;
	/* VIRTIO12 2.7, 2.8: alignment of the parts. */
	if (!size_fits(vq) || (vq->desc & 15) || (vq->avail & (vq->packed ? 3 : 1)) ||
	    (vq->used & 3))
		return -EINVAL;
	vq->desc_host = gmem_ptr(vq->mem, gpa(vq->desc), (size_t)n * DESC_SIZE, vq->packed);
	vq->avail_host = gmem_ptr(vq->mem, gpa(vq->avail), vq->packed ? 4 : 6 + 2 * n, 0);
	vq->used_host = gmem_ptr(vq->mem, gpa(vq->used), vq->packed ? 4 : 6 + 8 * n, 1);
	if (!vq->desc_host || !vq->avail_host || !vq->used_host)
		return -EINVAL;
	if (!resume) {
		vq->last_avail = vq->used_idx = 0;
		vq->avail_wrap = vq->used_wrap = 1; /* VIRTIO12 2.8.1 */
	} else if (vq->packed && (vq->last_avail >= n || vq->used_idx >= n)) {
		return -EINVAL;
	}
	vq->ready = 1;
	return 0;
}

static void taken(struct virtqueue *vq, const struct vq_chain *c)
{
	vq->in_flight++;
	vq->slots_in_flight += c->slots;
}

static void returned(struct virtqueue *vq, const struct vq_chain *c)
{
	assert(vq->in_flight);
	vq->in_flight--;
	if (vq->ready)
		vq->slots_in_flight -= c->slots;
}

int vq_pop(struct virtqueue *vq, struct vq_chain *c, const char **why)
{
	int r;

	*why = NULL;
	if (!vq->ready)
		return 0;
	if (format(vq)->empty(vq) && (vq->notify_off || !vq_notify_enable(vq)))
		return 0;
	chain_clear(c);
	r = format(vq)->pop(vq, c, why);
	if (r == 1)
		taken(vq, c);
	return r;
}

void vq_unpop(struct virtqueue *vq, const struct vq_chain *c)
{
	assert(vq->ready);
	returned(vq, c);
	format(vq)->unpop(vq, c);
}

void vq_push_later(struct virtqueue *vq, const struct vq_chain *c, uint32_t written, unsigned index)
{
	returned(vq, c);
	if (vq->ready)
		format(vq)->push_later(vq, c, written, index);
}

void vq_push_flush(struct virtqueue *vq, unsigned count)
{
	if (!vq->ready || !count)
		return;
	format(vq)->push_flush(vq, count);
	vq->pushed = 1;
}

void vq_push(struct virtqueue *vq, const struct vq_chain *c, uint32_t written)
{
	vq_push_later(vq, c, written, 0);
	vq_push_flush(vq, 1);
}

void vq_drop(struct virtqueue *vq, const struct vq_chain *c)
{
	returned(vq, c);
}

_Bool vq_wants_interrupt(struct virtqueue *vq)
{
	if (!vq->ready || !vq->pushed)
		return 0;
	vq->pushed = 0;
	ring_fence(); /* the used index is visible before the driver's wish is read */
	return format(vq)->wants_interrupt(vq);
}

void vq_notify_disable(struct virtqueue *vq)
{
	if (!vq->ready)
		return;
	vq->notify_off = 1;
	format(vq)->notify_disable(vq);
}

_Bool vq_notify_enable(struct virtqueue *vq)
{
	if (!vq->ready)
		return 0;
	vq->notify_off = 0;
	format(vq)->notify_enable(vq);
	ring_fence(); /* the wish is visible before the ring is looked at again */
	return !format(vq)->empty(vq);
}

_Bool vq_empty(const struct virtqueue *vq)
{
	return !vq->ready || format(vq)->empty(vq);
}
