/* net_impl.h: what the network back ends have in common; for the files of this directory. */
#ifndef BACKEND_NET_IMPL_H
#define BACKEND_NET_IMPL_H

#include <stdatomic.h>
#include "backend/net.h"

struct net_ops {
	_Bool (*send)(struct net *net, const struct iovec *iov, unsigned count, size_t len,
		      const struct net_offload *off);
	void (*want_send)(struct net *net);
	void (*kick)(struct net *net);
	void (*set_offloads)(struct net *net, unsigned can); /* may be NULL */
	void (*free)(struct net *net);
};

/* The head of every back end's private struct. */
struct net {
	const struct net_ops *ops;
	struct net_client client;
	unsigned caps, gives;
	unsigned mtu;
	_Atomic unsigned offloads; /* of the receiving side */
	atomic_bool link;
	_Atomic uint64_t sent, sent_bytes, received, received_bytes, dropped;
};

static inline void net_init(struct net *net, const struct net_ops *ops, unsigned caps,
			    unsigned gives, unsigned mtu)
{
	net->ops = ops;
	net->caps = caps;
	net->gives = gives;
	net->mtu = mtu;
	atomic_init(&net->link, 1);
}

/* Offers a frame to the device; true when it is gone. */
_Bool net_deliver(struct net *net, const uint8_t *frame, size_t len, const struct net_offload *off);
void net_link_set(struct net *net, _Bool up);

/*
 * Frames that wait for the device, oldest first, in one ring of bytes that is never larger than
 * NETQ_BYTES: what does not fit is dropped. On the loop's thread.
 */
#define NETQ_BYTES (4u << 20)
struct netq {
	uint8_t *data;
	size_t start, len; /* bytes */
};
NODISCARD int netq_init(struct netq *q);
void netq_fini(struct netq *q);
/* False when there is no room. */
_Bool netq_put(struct netq *q, const uint8_t *frame, size_t len, const struct net_offload *off);
/* Offers frames to the device until it has no room. True when the queue is empty. */
_Bool netq_deliver(struct netq *q, struct net *net);
static inline _Bool netq_empty(const struct netq *q)
{
	return !q->len;
}

/* Gathers a frame into one piece: its length, at most `max`. */
size_t net_gather(uint8_t *buf, size_t max, const struct iovec *iov, unsigned count);

#endif
