/* relay.c: rings of our own between the driver's queues and a back end outside. */
#include "dev/virtio/relay.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dev/virtio/vq_impl.h"

/* One queue's part of the memfd. Tables have room for the longest chain there is. */
#define AT_DESC	    0x0000
#define AT_AVAIL    0x1000
#define AT_USED	    0x2000
#define AT_TABLES   0x3000
#define TABLE_BYTES 4160
#define RING_BYTES  ALIGN_UP(AT_TABLES + (size_t)RELAY_SIZE * TABLE_BYTES, (size_t)GMEM_PAGE_SIZE)
/* Beyond any RAM (SPEC_MAX_MEMORY), within every host's address space. */
#define RELAY_GUEST_BASE (UINT64_C(1) << 45)

#define RING_FLAGS     0
#define RING_IDX       2
#define RING_ENTRY     4
#define USED_NO_NOTIFY 1

_Static_assert(VQ_SEGS_MAX *DESC_SIZE <= TABLE_BYTES, "a chain fits a table");
_Static_assert(RELAY_SIZE *DESC_SIZE <= AT_AVAIL, "descriptors fit");
_Static_assert(RING_ENTRY + 8 * RELAY_SIZE + 2 <= AT_TABLES - AT_USED, "used entries fit");

/* ---- set-up ---- */

static int ring_init(struct relay *r, struct relay_set *set, struct virtio_dev *vd, unsigned q)
{
	assert(vd->vq[q].max_size <= RELAY_SIZE);
	r->vd = vd;
	r->q = q;
	r->host = set->host + q * RING_BYTES;
	r->guest = RELAY_GUEST_BASE + q * RING_BYTES;
	r->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* Large, and mostly never touched. */
	r->pool = calloc(RELAY_SIZE, sizeof(*r->pool));
	if (r->kick < 0 || r->call < 0 || !r->pool)
		return -ENOMEM;
	for (unsigned i = RELAY_SIZE; i-- > 0;) {
		r->pool[i].next = r->free;
		r->free = &r->pool[i];
	}
	return 0;
}

int relay_init(struct relay_set *set, struct virtio_dev *vd, unsigned count, struct error *err)
{
	int rc = 0;

	assert(count <= VHOST_RINGS_MAX);
	set->bytes = count * RING_BYTES;
	set->host = MAP_FAILED;
	for (unsigned q = 0; q < count; q++)
		set->ring[q].kick = set->ring[q].call = -1;
	set->fd = memfd_create("guest-rings", MFD_CLOEXEC);
	if (set->fd >= 0 && !ftruncate(set->fd, (off_t)set->bytes))
		set->host = mmap(NULL, set->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, set->fd, 0);
	set->count = count;
	rc = set->host == MAP_FAILED ? -ENOMEM : 0;
	for (unsigned q = 0; !rc && q < count; q++)
		rc = ring_init(&set->ring[q], set, vd, q);
	return rc ? error_set(err, rc, "out of memory or descriptors for %u queues", count) : 0;
}

void relay_fini(struct relay_set *set)
{
	if (!set->bytes)
		return;
	for (unsigned q = 0; q < set->count; q++) {
		struct relay *r = &set->ring[q];

		if (r->kick >= 0)
			close(r->kick);
		if (r->call >= 0)
			close(r->call);
		free(r->pool);
	}
	if (set->host != MAP_FAILED)
		munmap(set->host, set->bytes);
	if (set->fd >= 0)
		close(set->fd);
	set->bytes = 0;
}

/* Slots that continue each other in all respects are one region: parts of low memory that are
 * protected apart. */
static _Bool continues(const struct vhost_region *region, const struct gmem_slot *slot)
{
	return region->guest + region->size == slot->base &&
	       region->user + region->size == (uintptr_t)slot->host &&
	       region->offset + region->size == slot->fd_offset;
}

int relay_regions(const struct relay_set *set, const struct gmem *mem,
		  struct vhost_region region[VHOST_REGIONS_MAX], unsigned *count)
{
	unsigned slots, n = 0;
	const struct gmem_slot *slot = gmem_slots(mem, &slots);

	for (unsigned i = 0; i < slots; i++, slot++) {
		if (n && continues(&region[n - 1], slot)) {
			region[n - 1].size += slot->size;
			continue;
		}
		if (n == VHOST_REGIONS_MAX - 1)
			return -E2BIG;
		region[n++] = (struct vhost_region){.guest = slot->base,
						    .size = slot->size,
						    .user = (uintptr_t)slot->host,
						    .offset = slot->fd_offset,
						    .fd = gmem_fd(mem)};
	}
	region[n++] = (struct vhost_region){.guest = RELAY_GUEST_BASE,
					    .size = set->bytes,
					    .user = (uintptr_t)set->host,
					    .fd = set->fd};
	*count = n;
	return 0;
}

struct vhost_ring relay_ring(const struct relay *r)
{
	return (struct vhost_ring){.size = RELAY_SIZE,
				   .desc = (uintptr_t)r->host + AT_DESC,
				   .avail = (uintptr_t)r->host + AT_AVAIL,
				   .used = (uintptr_t)r->host + AT_USED,
				   .kick = r->kick,
				   .call = r->call};
}

/* ---- our ring ---- */

static void desc_put(uint8_t *at, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	store_le64(at, addr);
	store_le32(at + 8, len);
	store_le16(at + 12, flags);
	store_le16(at + 14, next);
}

static unsigned pieces(const struct vq_chain *c)
{
	return c->out + c->in;
}

/* Descriptors of our ring that a chain takes. */
static unsigned descs_of(const struct relay *r, const struct vq_chain *c)
{
	return r->indirect ? 1 : pieces(c);
}

static uint16_t desc_flags(const struct vq_chain *c, unsigned i)
{
	return (uint16_t)((i >= c->out ? DESC_WRITE : 0) | (i + 1 < pieces(c) ? DESC_NEXT : 0));
}

static void put_table(struct relay *r, const struct relay_chain *rc)
{
	const struct vq_chain *c = &rc->chain;
	size_t table = AT_TABLES + (size_t)rc->head * TABLE_BYTES;

	for (unsigned i = 0; i < pieces(c); i++)
		desc_put(r->host + table + i * DESC_SIZE, c->addr[i].v, (uint32_t)c->iov[i].iov_len,
			 desc_flags(c, i), (uint16_t)(i + 1));
	desc_put(r->host + AT_DESC + rc->head * DESC_SIZE, r->guest + table, pieces(c) * DESC_SIZE,
		 DESC_INDIRECT, 0);
}

/* Takes descriptors, fills them, and makes the chain available; there are enough of them. */
static void chain_put(struct relay *r, struct relay_chain *rc)
{
	const struct vq_chain *c = &rc->chain;
	unsigned count = descs_of(r, c);
	uint16_t at = r->desc_free;

	assert(count && count <= r->desc_left);
	rc->head = at;
	for (unsigned i = 0; i < count; i++) {
		uint16_t next = r->desc_next[at];

		if (!r->indirect)
			desc_put(r->host + AT_DESC + at * DESC_SIZE, c->addr[i].v,
				 (uint32_t)c->iov[i].iov_len, desc_flags(c, i), next);
		r->desc_free = next;
		if (i + 1 < count)
			at = next;
	}
	if (r->indirect)
		put_table(r, rc);
	r->desc_left = (uint16_t)(r->desc_left - count);
	r->by_head[rc->head] = rc;
	store_le16(r->host + AT_AVAIL + RING_ENTRY + 2 * (r->avail % RELAY_SIZE), rc->head);
	r->avail++;
	ring_store(r->host + AT_AVAIL + RING_IDX, r->avail);
}

static void chain_unput(struct relay *r, struct relay_chain *rc)
{
	unsigned count = descs_of(r, &rc->chain);
	uint16_t last = rc->head;

	for (unsigned i = 1; i < count; i++)
		last = r->desc_next[last];
	r->desc_next[last] = r->desc_free;
	r->desc_free = rc->head;
	r->desc_left = (uint16_t)(r->desc_left + count);
	r->by_head[rc->head] = NULL;
}

void relay_begin(struct relay *r, _Bool indirect)
{
	eventfd_t kicks;

	(void)eventfd_read(r->kick, &kicks); /* meant for the one before */
	memset(r->host, 0, AT_TABLES);
	memset(r->by_head, 0, sizeof(r->by_head));
	for (unsigned i = 0; i < RELAY_SIZE; i++)
		r->desc_next[i] = (uint16_t)(i + 1);
	r->desc_free = 0;
	r->desc_left = RELAY_SIZE;
	r->avail = r->used = 0;
	r->indirect = indirect;
	/* As many as fitted before: a back end in the place of another takes tables if that did. */
	for (struct relay_chain *rc = r->first; rc; rc = rc->next)
		chain_put(r, rc);
}

/* ---- chains in flight ---- */

static void chain_link(struct relay *r, struct relay_chain *rc)
{
	rc->number = r->taken++;
	rc->next = NULL;
	rc->prev = r->last;
	*(r->last ? &r->last->next : &r->first) = rc;
	r->last = rc;
	r->in_flight++;
}

static void chain_unlink(struct relay *r, struct relay_chain *rc)
{
	*(rc->prev ? &rc->prev->next : &r->first) = rc->next;
	*(rc->next ? &rc->next->prev : &r->last) = rc->prev;
	rc->next = r->free;
	r->free = rc;
	r->in_flight--;
}

_Bool relay_offer(struct relay *r)
{
	struct virtio_dev *vd = r->vd;
	uint16_t before = r->avail;
	unsigned answered = 0;

	while (r->free && r->desc_left) {
		struct relay_chain *rc = r->free;
		struct vq_chain *c = &rc->chain;
		uint32_t written = 0;

		if (!virtio_pop(vd, r->q, c))
			break;
		/* No bytes at all are no descriptors either. */
		if (!pieces(c) || (r->intercept && r->intercept(r->opaque, c, &written))) {
			virtio_push(vd, r->q, c, written);
			r->taken++; /* it has its place in the order, for relay_rewind */
			if (++answered < RELAY_SIZE)
				continue;
			eventfd_write(r->call, 1); /* enough for one turn: look again later */
			break;
		}
		if (descs_of(r, c) > r->desc_left) {
			_Bool never = descs_of(r, c) > RELAY_SIZE;

			vq_unpop(&vd->vq[r->q], c);
			if (never)
				virtio_broken(vd, "a chain that is too long for its back end");
			break;
		}
		r->free = rc->next;
		chain_link(r, rc);
		chain_put(r, rc);
	}
	if (answered)
		virtio_interrupt(vd, r->q);
	if (r->avail == before)
		return 0;
	ring_fence(); /* the available index is visible before the back end's wish is read */
	return !(ring_load(r->host + AT_USED + RING_FLAGS) & USED_NO_NOTIFY);
}

void relay_kick(const struct relay *r)
{
	uint64_t one = 1;

	/* Full means that the back end is far behind, and sees one that was there before. */
	while (write(r->kick, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/*
 * All used entries that one look at the index finds become visible to the driver together: a back
 * end spreads a received frame over several that belong together (VIRTIO12 5.1.6.4).
 */
int relay_collect(struct relay *r)
{
	struct virtio_dev *vd = r->vd;
	struct virtqueue *vq = &vd->vq[r->q];
	uint16_t count = (uint16_t)(ring_load(r->host + AT_USED + RING_IDX) - r->used);

	if (count > r->in_flight)
		return -EPROTO;
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *entry = r->host + AT_USED + RING_ENTRY + 8 * (r->used % RELAY_SIZE);
		uint32_t head = load_le32(entry), len = load_le32(entry + 4);
		struct relay_chain *rc = head < RELAY_SIZE ? r->by_head[head] : NULL;

		if (!rc) {
			vq_push_flush(vq, i);
			return -EPROTO;
		}
		r->used++;
		/* Whatever it says it wrote: all that it may have written. */
		chain_dirty(vd->mem, &rc->chain, rc->chain.in_bytes);
		if (vq->ready)
			vq_push_later(vq, &rc->chain, MIN(len, rc->chain.in_bytes), i);
		else
			virtio_drop(vd, r->q, &rc->chain);
		chain_unput(r, rc);
		chain_unlink(r, rc);
	}
	vq_push_flush(vq, count);
	if (count)
		virtio_interrupt(vd, r->q);
	return count;
}

int relay_rewind(struct relay *r)
{
	struct virtqueue *vq = &r->vd->vq[r->q];

	if (!r->first)
		return 0;
	if (!vq->ready || r->first->number != r->taken - r->in_flight)
		return -EBUSY;
	while (r->last) {
		struct relay_chain *rc = r->last;

		/* The back end may have begun to write. */
		chain_dirty(r->vd->mem, &rc->chain, rc->chain.in_bytes);
		vq_unpop(vq, &rc->chain);
		chain_unlink(r, rc);
		r->taken--;
	}
	return 0;
}

void relay_drop(struct relay *r)
{
	while (r->first) {
		struct relay_chain *rc = r->first;

		chain_dirty(r->vd->mem, &rc->chain, rc->chain.in_bytes);
		virtio_drop(r->vd, r->q, &rc->chain);
		chain_unlink(r, rc);
	}
}

void relay_answer(struct relay *r, uint32_t written)
{
	struct relay_chain *rc = r->first;

	virtio_push(r->vd, r->q, &rc->chain, written);
	chain_unlink(r, rc);
}
