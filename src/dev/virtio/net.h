/* net.h: virtio network card (VIRTIO12 5.1). */
#ifndef DEV_VIRTIO_NET_H
#define DEV_VIRTIO_NET_H

#include "backend/net.h"
#include "backend/vhost.h"
#include "bus/clock.h"
#include "dev/virtio/virtio.h"

#define VNET_PAIRS_MAX 8

struct vnet_config {
	struct virtio_place place;
	struct net *net; /* not owned; outlives the device */
	uint8_t mac[NET_MAC_LEN];
	unsigned pairs; /* of queues: 1 to VNET_PAIRS_MAX */
	/* Who moves the frames instead of `net`; NULL: nobody. Connected; not owned; outlives the
	 * device. */
	struct vhost *vhost;
	struct clock *clock;
};

NODISCARD int vnet_new(struct device **dev, const struct vnet_config *cfg, struct error *err);

#endif
