/* scsi.h: a SCSI host with one CD-ROM drive (VIRTIO12 5.6). */
#ifndef DEV_VIRTIO_SCSI_H
#define DEV_VIRTIO_SCSI_H

#include "backend/disk.h"
#include "dev/virtio/virtio.h"

/* The drive is target 0, LUN 0. Its disc is `disk`, in blocks of 2048 bytes; what is over is not
 * seen. It cannot be taken out. */
struct scsi_cd_config {
	struct virtio_place place;
	struct disk *disk; /* not owned; read-only use */
};
NODISCARD int scsi_cd_new(struct device **dev, const struct scsi_cd_config *cfg, struct error *err);

#endif
