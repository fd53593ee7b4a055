/* vq_impl.h: what the files of the queue core share: both ring formats' parts. */
#ifndef DEV_VIRTIO_VQ_IMPL_H
#define DEV_VIRTIO_VQ_IMPL_H

#include <string.h>
#include "base/le.h"
#include "dev/virtio/virtqueue.h"

/* A descriptor, of both formats (VIRTIO12 2.7.5, 2.8.13): the last two fields differ. */
#define DESC_SIZE     16
#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

struct vq_desc {
	struct le64 addr;
	struct le32 len;
	struct le16 word6, word7; /* split: flags, next; packed: id, flags */
};
_Static_assert(sizeof(struct vq_desc) == DESC_SIZE, "VIRTIO12 2.7.5");

/* The guest's CPUs change rings while they are read: one access of the natural size for each index
 * and flag word, and one copy of each descriptor. The x86 host is little-endian. */
static inline uint16_t ring_load(const uint8_t *at)
{
	return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE);
}
static inline void ring_store(uint8_t *at, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELEASE);
}
static inline struct vq_desc desc_load(const uint8_t *table, unsigned index)
{
	struct vq_desc d;
	memcpy(&d, table + (size_t)index * DESC_SIZE, sizeof(d));
	__asm__ volatile("" ::: "memory"); /* not read again */
	return d;
}
static inline void ring_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* VIRTIO12 2.7.10: has the index gone past `event` on its way from `before` to `now`? */
static inline _Bool event_passed(uint16_t event, uint16_t now, uint16_t before)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

/* virtqueue.c: building a chain. NULL, or what is wrong. */
void chain_clear(struct vq_chain *c);
const char *chain_add(struct virtqueue *vq, struct vq_chain *c, uint64_t addr, uint32_t len,
		      _Bool write);
/* Is there room for this chain beside those in flight? */
const char *chain_fits(const struct virtqueue *vq, const struct vq_chain *c);
/* An indirect table, checked, in host memory; `count` is its number of descriptors. */
const char *indirect_table(struct virtqueue *vq, uint64_t addr, uint32_t len, const uint8_t **table,
			   unsigned *count);

/* A ring format. Chains that these give and take are in flight already, or not any more. */
struct vq_format {
	int (*pop)(struct virtqueue *vq, struct vq_chain *c, const char **why);
	void (*unpop)(struct virtqueue *vq, const struct vq_chain *c);
	void (*push_later)(struct virtqueue *vq, const struct vq_chain *c, uint32_t written,
			   unsigned index);
	void (*push_flush)(struct virtqueue *vq, unsigned count);
	_Bool (*wants_interrupt)(struct virtqueue *vq);
	void (*notify_enable)(struct virtqueue *vq);
	void (*notify_disable)(struct virtqueue *vq);
	_Bool (*empty)(const struct virtqueue *vq);
};
extern const struct vq_format vq_split, vq_packed;

#endif
