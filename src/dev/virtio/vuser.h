/* vuser.h: virtio devices that are another process's (vhost-user): block device, file system. */
#ifndef DEV_VIRTIO_VUSER_H
#define DEV_VIRTIO_VUSER_H

#include "backend/vhost.h"
#include "bus/clock.h"
#include "dev/virtio/virtio.h"

#define VUSER_QUEUES_MAX 16
#define VUSER_TAG_MAX	 36 /* bytes of a file system's tag (VIRTIO12 5.11.4) */

enum vuser_kind { VUSER_BLK, VUSER_FS };

struct vuser_config {
	struct virtio_place place;
	enum vuser_kind kind;
	struct vhost *vhost; /* connected; not owned; outlives the device */
	struct clock *clock;
	/* Request queues: no more than the back end has; 0: as many as it has, up to `cpus`. */
	unsigned queues, cpus;
	const char *tag; /* file system */
};

NODISCARD int vuser_new(struct device **dev, const struct vuser_config *cfg, struct error *err);

#endif
