/* scsi.h: a SCSI host with one CD-ROM drive (VIRTIO12 5.6). */
#ifndef DEV_VIRTIO_SCSI_H
#define DEV_VIRTIO_SCSI_H

#include "backend/disk.h"
#include "dev/virtio/virtio.h"

/*
 * The drive is target 0, LUN 0. Its disc is `disk` (NULL: none), in blocks of 2048 bytes; what is
 * over is not seen. The guest may take the disc out, and keep others from doing so
 * (PREVENT ALLOW MEDIUM REMOVAL).
 */
struct scsi_cd_config {
	struct virtio_place place;
	struct disk *disk; /* not owned; read-only use */
	/* The guest has taken the disc out, and nothing of it is being read. Under the device's
	 * lock, on any thread. May be NULL. */
	void (*ejected)(void *opaque);
	void *opaque;
};
NODISCARD int scsi_cd_new(struct device **dev, const struct scsi_cd_config *cfg, struct error *err);

/*
 * Takes the disc out. -EBUSY: the guest holds it; it has been asked to let go (MMC-6 6.6.2,
 * EjectRequest), and `force` takes it all the same. 0 also where there is none. Reads of it
 * may still be under way until disk_drain. Any thread.
 */
NODISCARD int scsi_cd_eject(struct device *dev, _Bool force);
/* Puts a disc into the empty drive and closes its tray; the guest is told. Any thread. */
void scsi_cd_insert(struct device *dev, struct disk *disk);
_Bool scsi_cd_empty(struct device *dev);

#endif
