/* vq_split.c: split rings (VIRTIO12 2.7): descriptor table, available ring, used ring. */
#include <errno.h>

#include "dev/virtio/vq_impl.h"

/* Offsets in both rings. */
#define RING_FLAGS 0
#define RING_IDX   2
#define RING_ENTRY 4

#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY	   1

static uint16_t avail_idx(const struct virtqueue *vq)
{
	return ring_load(vq->avail_host + RING_IDX);
}

static _Bool split_empty(const struct virtqueue *vq)
{
	return avail_idx(vq) == vq->last_avail;
}

/* NULL, or what is wrong. */
static const char *walk(struct virtqueue *vq, struct vq_chain *c)
{
	const uint8_t *table = vq->desc_host;
	unsigned count = vq->size, index = c->id, steps = 0;

	for (;;) {
		const char *why = NULL;

		if (index >= count)
			return "a descriptor beyond its table";
		if (steps++ >= count)
			return "a chain that loops";
		struct vq_desc d = desc_load(table, index);
		unsigned flags = le16_get(d.word6);

		if (flags & DESC_INDIRECT) {
			if (table != vq->desc_host)
				return "an indirect table in an indirect table";
			if (flags & DESC_NEXT)
				return "an indirect descriptor with a successor";
			why = indirect_table(vq, le64_get(d.addr), le32_get(d.len), &table, &count);
			index = steps = 0;
		} else {
			why =
			    chain_add(vq, c, le64_get(d.addr), le32_get(d.len), flags & DESC_WRITE);
			if (!(flags & DESC_NEXT))
				return why;
			index = le16_get(d.word7);
		}
		if (why)
			return why;
	}
}

static int split_pop(struct virtqueue *vq, struct vq_chain *c, const char **why)
{
	uint16_t waiting = (uint16_t)(avail_idx(vq) - vq->last_avail);

	if (!waiting)
		return 0;
	if (waiting > vq->size) {
		*why = "an available index that jumps";
		return -EPROTO;
	}
	c->id = ring_load(vq->avail_host + RING_ENTRY + 2 * (vq->last_avail & (vq->size - 1u)));
	c->slots = 1;
	*why = walk(vq, c);
	if (!*why)
		*why = chain_fits(vq, c);
	if (*why)
		return -EPROTO;
	vq->last_avail++;
	return 1;
}

static void split_unpop(struct virtqueue *vq, const struct vq_chain *c)
{
	vq->last_avail--;
}

static void split_push_later(struct virtqueue *vq, const struct vq_chain *c, uint32_t written,
			     unsigned index)
{
	uint16_t slot = (uint16_t)(vq->used_idx + index) & (uint16_t)(vq->size - 1);
	uint32_t at = RING_ENTRY + 8u * slot;

	store_le32(vq->used_host + at, c->id);
	store_le32(vq->used_host + at + 4, written);
	gmem_dirty(vq->mem, gpa(vq->used + at), 8);
}

static void split_push_flush(struct virtqueue *vq, unsigned count)
{
	vq->used_idx = (uint16_t)(vq->used_idx + count);
	ring_store(vq->used_host + RING_IDX, vq->used_idx);
	gmem_dirty(vq->mem, gpa(vq->used + RING_IDX), 2);
}

static _Bool split_wants_interrupt(struct virtqueue *vq)
{
	uint16_t before = vq->signalled, event;
	_Bool known = vq->signalled_valid;

	if (!vq->event_idx)
		return !(ring_load(vq->avail_host + RING_FLAGS) & AVAIL_NO_INTERRUPT);
	event = ring_load(vq->avail_host + RING_ENTRY + 2u * vq->size);
	vq->signalled = vq->used_idx;
	vq->signalled_valid = 1;
	return !known || event_passed(event, vq->used_idx, before);
}

static void split_put(struct virtqueue *vq, uint32_t at, uint16_t value)
{
	if (ring_load(vq->used_host + at) == value)
		return;
	ring_store(vq->used_host + at, value);
	gmem_dirty(vq->mem, gpa(vq->used + at), 2);
}

static void split_notify_enable(struct virtqueue *vq)
{
	if (vq->event_idx)
		split_put(vq, RING_ENTRY + 8u * vq->size, vq->last_avail);
	else
		split_put(vq, RING_FLAGS, 0);
}

static void split_notify_disable(struct virtqueue *vq)
{
	/* With an event index: the last one asked for stays, and has been passed. */
	if (!vq->event_idx)
		split_put(vq, RING_FLAGS, USED_NO_NOTIFY);
}

const struct vq_format vq_split = {
    .pop = split_pop,
    .unpop = split_unpop,
    .push_later = split_push_later,
    .push_flush = split_push_flush,
    .wants_interrupt = split_wants_interrupt,
    .notify_enable = split_notify_enable,
    .notify_disable = split_notify_disable,
    .empty = split_empty,
};
