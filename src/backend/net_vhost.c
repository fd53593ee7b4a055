/* net_vhost.c: a network whose frames another process moves: what it can do. */
#include <errno.h>
#include <linux/virtio_net.h>
#include <stdlib.h>

#include "backend/net_impl.h"
#include "backend/vhost.h"

static _Bool vhost_send(struct net *net, const struct iovec *iov, unsigned count, size_t len,
			const struct net_offload *off)
{
	return 1; /* nobody sends here */
}

static void vhost_nothing(struct net *net)
{
}

static void vhost_net_free(struct net *net)
{
	free(net);
}

static const struct net_ops vhost_net_ops = {
    .send = vhost_send, .want_send = vhost_nothing, .kick = vhost_nothing, .free = vhost_net_free};

static unsigned can(uint64_t features, unsigned csum, unsigned tso4, unsigned tso6, unsigned ecn)
{
	unsigned c = features & BIT64(csum) ? NET_CAN_CSUM : 0;

	if (!c)
		return 0;
	c |= features & BIT64(tso4) ? NET_CAN_TSO4 : 0;
	c |= features & BIT64(tso6) ? NET_CAN_TSO6 : 0;
	return c == NET_CAN_CSUM || !(features & BIT64(ecn)) ? c : c | NET_CAN_ECN;
}

int net_vhost_new(struct net **out, const struct vhost *vhost, struct error *err)
{
	uint64_t f = vhost_features(vhost);
	struct net *net = calloc(1, sizeof(*net));

	if (!net)
		return error_set(err, -ENOMEM, "out of memory");
	net_init(net, &vhost_net_ops,
		 can(f, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
		     VIRTIO_NET_F_HOST_ECN),
		 can(f, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
		     VIRTIO_NET_F_GUEST_ECN),
		 0);
	*out = net;
	return 0;
}
