/* vsockdev.h: virtio sockets: streams between the guest and this host (VIRTIO12 5.10). */
#ifndef DEV_VIRTIO_VSOCKDEV_H
#define DEV_VIRTIO_VSOCKDEV_H

#include "backend/vsock.h"
#include "dev/virtio/virtio.h"

struct vsockdev_config {
	struct virtio_place place;
	struct vsock *vsock; /* not owned */
	uint32_t cid;	     /* of the guest: from 3 on */
};
NODISCARD int vsockdev_new(struct device **dev, const struct vsockdev_config *cfg,
			   struct error *err);

#endif
