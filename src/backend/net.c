/* net.c: what all network back ends share: dispatch, counters, checksums, the queue of frames. */
#include "backend/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/net_impl.h"

void net_attach(struct net *net, const struct net_client *client)
{
	static const struct net_client nobody;

	net->client = client ? *client : nobody;
	net_kick(net);
}

_Bool net_send(struct net *net, const struct iovec *iov, unsigned count,
	       const struct net_offload *off)
{
	size_t len = 0;

	for (unsigned i = 0; i < count; i++)
		len += iov[i].iov_len;
	if (len < NET_FRAME_MIN || len > NET_FRAME_MAX || !atomic_load(&net->link)) {
		atomic_fetch_add(&net->dropped, 1);
		return 1;
	}
	if (!net->ops->send(net, iov, count, len, off))
		return 0;
	atomic_fetch_add(&net->sent, 1);
	atomic_fetch_add(&net->sent_bytes, len);
	return 1;
}

void net_want_send(struct net *net)
{
	net->ops->want_send(net);
}

void net_kick(struct net *net)
{
	net->ops->kick(net);
}

unsigned net_caps(const struct net *net)
{
	return net->caps;
}

void net_set_offloads(struct net *net, unsigned can)
{
	if (atomic_exchange(&net->offloads, can) != can && net->ops->set_offloads)
		net->ops->set_offloads(net, can);
}

_Bool net_link(const struct net *net)
{
	return atomic_load(&net->link);
}

unsigned net_gives(const struct net *net)
{
	return net->gives;
}

unsigned net_mtu(const struct net *net)
{
	return net->mtu;
}

void net_counts(const struct net *net, struct net_counts *counts)
{
	*counts = (struct net_counts){
	    .sent = atomic_load(&net->sent),
	    .sent_bytes = atomic_load(&net->sent_bytes),
	    .received = atomic_load(&net->received),
	    .received_bytes = atomic_load(&net->received_bytes),
	    .dropped = atomic_load(&net->dropped),
	};
}

void net_free(struct net *net)
{
	if (net)
		net->ops->free(net);
}

_Bool net_deliver(struct net *net, const uint8_t *frame, size_t len, const struct net_offload *off)
{
	if (!net->client.receive)
		return 1;
	if (!net->client.receive(net->client.opaque, frame, len, off))
		return 0;
	atomic_fetch_add(&net->received, 1);
	atomic_fetch_add(&net->received_bytes, len);
	return 1;
}

void net_link_set(struct net *net, _Bool up)
{
	if (atomic_exchange(&net->link, up) != up && net->client.link_changed)
		net->client.link_changed(net->client.opaque);
}

size_t net_gather(uint8_t *buf, size_t max, const struct iovec *iov, unsigned count)
{
	size_t len = 0;

	for (unsigned i = 0; i < count && len < max; i++) {
		size_t n = MIN(iov[i].iov_len, max - len);

		memcpy(buf + len, iov[i].iov_base, n);
		len += n;
	}
	return len;
}

/* The ones' complement sum (RFC 1071) of bytes as they lie in memory; the order of bytes comes out
 * as it went in. */
static uint16_t ones_sum(const uint8_t *p, size_t len)
{
	uint64_t sum = 0;

	for (; len >= 4; p += 4, len -= 4) {
		uint32_t v;

		memcpy(&v, p, 4);
		sum += v;
	}
	if (len >= 2) {
		uint16_t v;

		memcpy(&v, p, 2);
		sum += v;
		p += 2;
		len -= 2;
	}
	if (len)
		sum += *p;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

_Bool net_csum_finish(uint8_t *frame, size_t len, struct net_offload *off)
{
	size_t at = (size_t)off->csum_start + off->csum_offset;
	uint16_t sum;

	if (!(off->flags & NET_NEEDS_CSUM))
		return 1;
	if (off->csum_start > len || at + 2 > len)
		return 0;
	/* The field holds the pseudo-header's sum. */
	sum = (uint16_t)~ones_sum(frame + off->csum_start, len - off->csum_start);
	if (!sum) /* as UDP wants it; for TCP it is the same number */
		sum = 0xffff;
	memcpy(frame + at, &sum, 2);
	off->flags = (uint8_t)(off->flags & ~NET_NEEDS_CSUM);
	return 1;
}

/* ---- frames that wait ---- */

struct netq_head {
	uint32_t len;
	struct net_offload off;
};

int netq_init(struct netq *q)
{
	memset(q, 0, sizeof(*q));
	q->data = malloc(NETQ_BYTES);
	return q->data ? 0 : -ENOMEM;
}

void netq_fini(struct netq *q)
{
	free(q->data);
	q->data = NULL;
}

static void ring_copy_in(struct netq *q, const void *data, size_t len)
{
	size_t at = (q->start + q->len) % NETQ_BYTES, first = MIN(len, NETQ_BYTES - at);

	memcpy(q->data + at, data, first);
	memcpy(q->data, (const uint8_t *)data + first, len - first);
	q->len += len;
}

static void ring_copy_out(const struct netq *q, size_t skip, void *data, size_t len)
{
	size_t at = (q->start + skip) % NETQ_BYTES, first = MIN(len, NETQ_BYTES - at);

	memcpy(data, q->data + at, first);
	memcpy((uint8_t *)data + first, q->data, len - first);
}

_Bool netq_put(struct netq *q, const uint8_t *frame, size_t len, const struct net_offload *off)
{
	struct netq_head head = {.len = (uint32_t)len, .off = *off};

	if (len > NET_FRAME_MAX || NETQ_BYTES - q->len < sizeof(head) + len)
		return 0;
	ring_copy_in(q, &head, sizeof(head));
	ring_copy_in(q, frame, len);
	return 1;
}

_Bool netq_deliver(struct netq *q, struct net *net)
{
	static const struct netq_head none;
	uint8_t joined[NET_FRAME_MAX];

	while (q->len) {
		struct netq_head head = none;
		const uint8_t *frame;
		size_t at;

		ring_copy_out(q, 0, &head, sizeof(head));
		at = (q->start + sizeof(head)) % NETQ_BYTES;
		frame = q->data + at;
		if (at + head.len > NETQ_BYTES) {
			ring_copy_out(q, sizeof(head), joined, head.len);
			frame = joined;
		}
		if (!net_deliver(net, frame, head.len, &head.off))
			return 0;
		q->start = (q->start + sizeof(head) + head.len) % NETQ_BYTES;
		q->len -= sizeof(head) + head.len;
	}
	q->start = 0;
	return 1;
}
