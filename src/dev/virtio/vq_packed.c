/* vq_packed.c: packed rings (VIRTIO12 2.8): one ring of descriptors that both sides write. */
#include <errno.h>

#include "dev/virtio/vq_impl.h"

#define DESC_LEN   8
#define DESC_ID	   12
#define DESC_FLAGS 14

#define DESC_AVAIL 0x0080
#define DESC_USED  0x8000

/* Event suppression structures (VIRTIO12 2.8.14). */
#define EVENT_OFF     0
#define EVENT_FLAGS   2
#define EVENT_ENABLE  0
#define EVENT_DISABLE 1
#define EVENT_DESC    2

static uint8_t *desc_at(const struct virtqueue *vq, unsigned index)
{
	return vq->desc_host + (size_t)index * DESC_SIZE;
}

/* VIRTIO12 2.8.1: available when its bit agrees with the wrap counter and the used bit does not. */
static _Bool available(uint16_t flags, _Bool wrap)
{
	return !!(flags & DESC_AVAIL) == wrap && !!(flags & DESC_USED) != wrap;
}

static _Bool packed_empty(const struct virtqueue *vq)
{
	return !available(ring_load(desc_at(vq, vq->last_avail) + DESC_FLAGS), vq->avail_wrap);
}

static void advance(const struct virtqueue *vq, unsigned slots, uint16_t *index, _Bool *wrap)
{
	unsigned at = *index + slots;

	if (at >= vq->size) {
		at -= vq->size;
		*wrap = !*wrap;
	}
	*index = (uint16_t)at;
}

/* VIRTIO12 2.8.7: the table's descriptors in their order, without links. */
static const char *walk_indirect(struct virtqueue *vq, struct vq_chain *c, const struct vq_desc *d)
{
	const uint8_t *table;
	unsigned count;
	const char *why = indirect_table(vq, le64_get(d->addr), le32_get(d->len), &table, &count);

	for (unsigned i = 0; !why && i < count; i++) {
		struct vq_desc e = desc_load(table, i);
		if (le16_get(e.word7) & DESC_INDIRECT)
			return "an indirect table in an indirect table";
		why = chain_add(vq, c, le64_get(e.addr), le32_get(e.len),
				le16_get(e.word7) & DESC_WRITE);
	}
	return why;
}

static const char *walk(struct virtqueue *vq, struct vq_chain *c)
{
	unsigned index = vq->last_avail;

	for (c->slots = 1; c->slots <= vq->size; c->slots++) {
		struct vq_desc d = desc_load(vq->desc_host, index);
		unsigned flags = le16_get(d.word7);
		const char *why;

		c->id = le16_get(d.word6);
		if (!(flags & DESC_INDIRECT)) {
			why =
			    chain_add(vq, c, le64_get(d.addr), le32_get(d.len), flags & DESC_WRITE);
		} else if (c->slots > 1 || (flags & DESC_NEXT)) {
			return "an indirect descriptor in a chain";
		} else {
			why = walk_indirect(vq, c, &d);
		}
		if (why || !(flags & DESC_NEXT))
			return why;
		index = index + 1 == vq->size ? 0 : index + 1;
	}
	return "a chain longer than the ring";
}

static int packed_pop(struct virtqueue *vq, struct vq_chain *c, const char **why)
{
	if (packed_empty(vq))
		return 0;
	*why = walk(vq, c);
	if (!*why)
		*why = chain_fits(vq, c);
	if (*why)
		return -EPROTO;
	advance(vq, c->slots, &vq->last_avail, &vq->avail_wrap);
	return 1;
}

static void packed_unpop(struct virtqueue *vq, const struct vq_chain *c)
{
	if (vq->last_avail < c->slots) {
		vq->last_avail = (uint16_t)(vq->last_avail + vq->size);
		vq->avail_wrap = !vq->avail_wrap;
	}
	vq->last_avail = (uint16_t)(vq->last_avail - c->slots);
}

static void put_flags(struct virtqueue *vq, unsigned index, uint16_t flags)
{
	ring_store(desc_at(vq, index) + DESC_FLAGS, flags);
	gmem_dirty(vq->mem, gpa(vq->desc + (uint64_t)index * DESC_SIZE), DESC_SIZE);
}

/* The flags of the first are held back: the driver reads in order, so the rest waits behind it. */
static void packed_push_later(struct virtqueue *vq, const struct vq_chain *c, uint32_t written,
			      unsigned index)
{
	uint16_t at = vq->used_idx, flags = written ? DESC_WRITE : 0;
	_Bool wrap = vq->used_wrap;

	if (!index)
		vq->later_slots = 0;
	advance(vq, vq->later_slots, &at, &wrap);
	store_le32(desc_at(vq, at) + DESC_LEN, written);
	store_le16(desc_at(vq, at) + DESC_ID, c->id);
	if (wrap)
		flags |= DESC_AVAIL | DESC_USED;
	if (index)
		put_flags(vq, at, flags);
	else
		vq->later_flags = flags;
	vq->later_slots = (uint16_t)(vq->later_slots + c->slots);
}

static void packed_push_flush(struct virtqueue *vq, unsigned count)
{
	_Bool wrap = vq->used_wrap;

	put_flags(vq, vq->used_idx, vq->later_flags);
	advance(vq, vq->later_slots, &vq->used_idx, &vq->used_wrap);
	vq->later_slots = 0;
	if (wrap != vq->used_wrap)
		vq->signalled_valid = 0; /* one interrupt too many beats arithmetic over the wrap */
}

static _Bool packed_wants_interrupt(struct virtqueue *vq)
{
	uint16_t flags = ring_load(vq->avail_host + EVENT_FLAGS) & 3, before = vq->signalled, event;
	_Bool known = vq->signalled_valid;

	vq->signalled = vq->used_idx;
	vq->signalled_valid = 1;
	if (flags != EVENT_DESC || !vq->event_idx)
		return flags != EVENT_DISABLE;
	event = ring_load(vq->avail_host + EVENT_OFF);
	_Bool wrap = event >> 15;
	event &= 0x7fff;
	if (wrap != vq->used_wrap)
		event = (uint16_t)(event - vq->size);
	return !known || event_passed(event, vq->used_idx, before);
}

static void packed_put(struct virtqueue *vq, unsigned at, uint16_t value)
{
	if (ring_load(vq->used_host + at) == value)
		return;
	ring_store(vq->used_host + at, value);
	gmem_dirty(vq->mem, gpa(vq->used + at), 2);
}

static void packed_notify_enable(struct virtqueue *vq)
{
	if (vq->event_idx)
		packed_put(vq, EVENT_OFF, (uint16_t)(vq->last_avail | vq->avail_wrap << 15));
	packed_put(vq, EVENT_FLAGS, vq->event_idx ? EVENT_DESC : EVENT_ENABLE);
}

static void packed_notify_disable(struct virtqueue *vq)
{
	packed_put(vq, EVENT_FLAGS, EVENT_DISABLE);
}

const struct vq_format vq_packed = {
    .pop = packed_pop,
    .unpop = packed_unpop,
    .push_later = packed_push_later,
    .push_flush = packed_push_flush,
    .wants_interrupt = packed_wants_interrupt,
    .notify_enable = packed_notify_enable,
    .notify_disable = packed_notify_disable,
    .empty = packed_empty,
};
