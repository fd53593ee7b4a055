/* p9dev.h: the 9P transport: a directory of the host's in the guest (VIRTIO12 5, device type 9). */
#ifndef DEV_VIRTIO_P9DEV_H
#define DEV_VIRTIO_P9DEV_H

#include "backend/p9.h"
#include "dev/virtio/virtio.h"

#define P9DEV_TAG_MAX 31

struct p9dev_config {
	struct virtio_place place;
	struct p9 *p9;	 /* not owned, attached to nobody */
	const char *tag; /* 1 to P9DEV_TAG_MAX bytes: what the guest mounts */
};
NODISCARD int p9dev_new(struct device **dev, const struct p9dev_config *cfg, struct error *err);

#endif
