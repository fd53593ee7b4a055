/* net_data.c: the network card's frames: transmit and receive queues. */
#include "dev/virtio/net_impl.h"

#include <string.h>

#include "base/le.h"

/*
 * Both directions run on the event loop's thread, under the device's lock: a notification only asks
 * for that. While the loop is at work on a queue it tells the driver not to notify; before it
 * leaves it says the opposite and looks once more. A chain is taken and returned within one hold of
 * the lock, so that nothing is ever in flight when the device is reset or saved.
 */
#define TX_BURST 128 /* frames of one pair in a turn */

/* ---- flows (5.1.6.5.6: receive on the pair that the flow is sent on) ---- */

/* The same for both directions of a flow. */
static unsigned flow_of(const uint8_t *head, size_t len)
{
	uint32_t h = 0, a, b;

	if (len >= 38 && head[12] == 8 && !head[13]) { /* IPv4: addresses, and ports if any */
		memcpy(&a, head + 26, 4);
		memcpy(&b, head + 30, 4);
		h = a ^ b;
		if ((head[14] & 15) == 5 && (head[23] == 6 || head[23] == 17))
			h ^= (uint32_t)((head[34] ^ head[36]) << 8 | (head[35] ^ head[37]));
	} else if (len >= 58 && head[12] == 0x86 && head[13] == 0xdd) {
		for (unsigned i = 22; i < 54; i += 4) {
			memcpy(&a, head + i, 4);
			h ^= a;
		}
		h ^= (uint32_t)((head[54] ^ head[56]) << 8 | (head[55] ^ head[57]));
	}
	h *= 0x9e3779b1;
	return h >> 25;
}

/* ---- transmit ---- */

enum frame_fate { FRAME_SEND, FRAME_DROP, FRAME_BROKEN };

static uint64_t gso_feature(uint8_t gso)
{
	switch (gso & ~NET_GSO_ECN) {
	case NET_GSO_TCP4: return NET_F_HOST_TSO4;
	case NET_GSO_TCP6: return NET_F_HOST_TSO6;
	default: return 0;
	}
}

/* Takes the header apart and checks it against the frame behind it (5.1.6.2). */
static enum frame_fate header_take(const struct vnet *n, const struct vq_chain *c,
				   struct net_offload *off, size_t *len)
{
	uint8_t hdr[VNET_HDR_LEN];
	uint64_t need;

	if (chain_read(c, 0, hdr, sizeof(hdr)) != sizeof(hdr))
		return FRAME_BROKEN;
	*len = c->out_bytes - VNET_HDR_LEN;
	*off = (struct net_offload){
	    .flags = hdr[0] & NET_NEEDS_CSUM,
	    .gso = hdr[1],
	    .hdr_len = (uint16_t)MIN(load_le16(hdr + 2), *len),
	    .gso_size = load_le16(hdr + 4),
	    .csum_start = load_le16(hdr + 6),
	    .csum_offset = load_le16(hdr + 8),
	};
	if (*len < NET_FRAME_MIN || *len > NET_FRAME_MAX)
		return FRAME_DROP;
	if (off->flags) {
		size_t end = (size_t)off->csum_start + off->csum_offset + 2;

		if (!virtio_has(&n->vd, NET_F_CSUM) || end > *len)
			return FRAME_DROP;
	} else {
		off->csum_start = off->csum_offset = 0;
	}
	if (off->gso == NET_GSO_NONE) {
		off->gso_size = 0;
		return FRAME_SEND;
	}
	need = gso_feature(off->gso);
	if (!need || !virtio_has(&n->vd, need) || !off->flags || !off->gso_size ||
	    off->gso_size >= *len)
		return FRAME_DROP;
	if ((off->gso & NET_GSO_ECN) && !virtio_has(&n->vd, NET_F_HOST_ECN))
		return FRAME_DROP;
	return FRAME_SEND;
}

static void flow_learn(struct vnet *n, unsigned pair, const struct vq_chain *c)
{
	uint8_t head[58];

	if (n->pairs > 1)
		n->flows[flow_of(head, chain_read(c, VNET_HDR_LEN, head, sizeof(head)))] =
		    (uint8_t)pair;
}

/* False: the back end has no room. */
static _Bool frame_send(struct vnet *n, unsigned pair, const struct vq_chain *c)
{
	unsigned q = tx_queue(pair);
	struct iovec iov[NET_IOV_MAX];
	struct net_offload off;
	size_t len;
	int count;

	switch (header_take(n, c, &off, &len)) {
	case FRAME_BROKEN:
		virtio_broken(&n->vd, "a frame without its header");
		virtio_drop(&n->vd, q, c);
		return 1;
	case FRAME_DROP: break;
	case FRAME_SEND:
		count = chain_slice(c, 0, VNET_HDR_LEN, len, iov, NET_IOV_MAX);
		if (count > 0 && !net_send(n->net, iov, (unsigned)count, &off)) {
			vq_unpop(&n->vd.vq[q], c);
			return 0;
		}
		flow_learn(n, pair, c);
		break;
	}
	virtio_push(&n->vd, q, c, 0);
	return 1;
}

/* True: the turn is over, and there may be more. */
static _Bool pair_transmit(struct vnet *n, unsigned pair)
{
	struct virtqueue *vq = &n->vd.vq[tx_queue(pair)];
	unsigned sent = 0;
	struct vq_chain c;

	if (!virtio_queue_ready(&n->vd, tx_queue(pair)))
		return 0;
	vq_notify_disable(vq);
	while (sent < TX_BURST) {
		if (!virtio_pop(&n->vd, tx_queue(pair), &c)) {
			if (!virtio_ready(&n->vd) || !vq_notify_enable(vq))
				break;
			vq_notify_disable(vq);
			sent++; /* so that this ends, whatever the ring says */
			continue;
		}
		if (!frame_send(n, pair, &c))
			break;
		sent++;
	}
	virtio_interrupt(&n->vd, tx_queue(pair));
	return sent >= TX_BURST;
}

_Bool vnet_transmit(struct vnet *n)
{
	_Bool more = 0;

	for (unsigned i = 0; i < n->pairs; i++)
		more |= pair_transmit(n, (n->tx_turn + i) % n->pairs);
	n->tx_turn = (n->tx_turn + 1) % n->pairs;
	return more;
}

/* ---- receive ---- */

static void header_store(const struct vnet *n, uint8_t hdr[VNET_HDR_LEN],
			 const struct net_offload *off, unsigned buffers)
{
	memset(hdr, 0, VNET_HDR_LEN);
	store_le16(hdr + 10, (uint16_t)buffers);
	if (!(n->guest_offloads & NET_F_GUEST_CSUM))
		return;
	hdr[0] = off->flags;
	hdr[1] = off->gso;
	store_le16(hdr + 2, off->hdr_len);
	store_le16(hdr + 4, off->gso_size);
	store_le16(hdr + 6, off->csum_start);
	store_le16(hdr + 8, off->csum_offset);
}

enum room { ROOM_YES, ROOM_NONE, ROOM_NEVER };

/* Takes buffers for `need` bytes: how many, in *count, with ROOM_YES; else none are taken. */
static enum room room_take(struct vnet *n, unsigned q, size_t need, unsigned *count)
{
	unsigned max = virtio_has(&n->vd, NET_F_MRG_RXBUF) ? VNET_MERGE_MAX : 1, got = 0;
	enum room room = ROOM_NEVER;
	size_t bytes = 0;

	while (bytes < need && got < max) {
		struct vq_chain *c = &n->merge[got];

		if (!virtio_pop(&n->vd, q, c)) {
			room = virtio_ready(&n->vd) ? ROOM_NONE : ROOM_NEVER;
			break;
		}
		bytes += c->in_bytes;
		got++;
		/* 5.1.6.3.1: the first holds the whole header at least. */
		if (n->merge[0].in_bytes < VNET_HDR_LEN)
			virtio_broken(&n->vd, "a receive buffer shorter than the header");
		if (!virtio_ready(&n->vd))
			break;
	}
	*count = got;
	if (bytes >= need && virtio_ready(&n->vd))
		return ROOM_YES;
	while (got)
		vq_unpop(&n->vd.vq[q], &n->merge[--got]);
	return room;
}

/* Fills the buffers with header and frame, and returns them together. */
static void frame_spread(struct vnet *n, unsigned q, const uint8_t *frame, size_t len,
			 const struct net_offload *off, unsigned count)
{
	uint8_t hdr[VNET_HDR_LEN];
	size_t done = 0;

	header_store(n, hdr, off, count);
	for (unsigned i = 0; i < count; i++) {
		const struct vq_chain *c = &n->merge[i];
		size_t at = 0, part;

		if (!i)
			at = chain_write(n->vd.mem, c, 0, hdr, sizeof(hdr));
		part = chain_write(n->vd.mem, c, at, frame + done, len - done);
		done += part;
		vq_push_later(&n->vd.vq[q], c, (uint32_t)(at + part), i);
	}
	vq_push_flush(&n->vd.vq[q], count);
}

_Bool vnet_receive(struct vnet *n, const uint8_t *frame, size_t len, const struct net_offload *off)
{
	unsigned pair = n->pairs > 1 ? n->flows[flow_of(frame, len)] % n->pairs : 0;
	unsigned q = rx_queue(pair), count;
	struct virtqueue *vq = &n->vd.vq[q];
	enum room room;

	if (!virtio_queue_ready(&n->vd, q) || !vnet_wants(n, frame, len))
		return 1;
	if (!vq->notify_off)
		vq_notify_disable(vq);
	room = room_take(n, q, len + VNET_HDR_LEN, &count);
	if (room == ROOM_NONE) {
		/* The driver shall notify when there is more; and look again. */
		if (vq_notify_enable(vq))
			room = room_take(n, q, len + VNET_HDR_LEN, &count);
	}
	if (room != ROOM_YES)
		return room == ROOM_NEVER;
	frame_spread(n, q, frame, len, off, count);
	virtio_interrupt(&n->vd, q);
	return 1;
}
