/* blk.h: the block device (VIRTIO12 5.2). */
#ifndef DEV_VIRTIO_BLK_H
#define DEV_VIRTIO_BLK_H

#include "backend/disk.h"
#include "dev/virtio/virtio.h"

#define BLK_MAX_QUEUES 16
#define BLK_SERIAL_MAX 20

struct blk_config {
	struct virtio_place place;
	struct disk *disk;  /* not owned; this device becomes its client */
	const char *serial; /* up to 20 bytes; NULL or "": none */
	unsigned queues;    /* 1 to BLK_MAX_QUEUES */
};
NODISCARD int blk_new(struct device **dev, const struct blk_config *cfg, struct error *err);

#endif
