/* virtio_mmio.h: the memory-mapped transport (VIRTIO12 4.2), version 2. */
#ifndef DEV_VIRTIO_VIRTIO_MMIO_H
#define DEV_VIRTIO_VIRTIO_MMIO_H

#include "dev/virtio/virtio.h"

#define VIRTIO_MMIO_SIZE 0x200

/* Maps the window at place->base of place->memory; ACPI's LNRO0005 announces it (the board does).
 */
NODISCARD int virtio_mmio_init(struct virtio_dev *vd, const struct virtio_place *place,
			       const struct virtio_setup *setup, struct error *err);

#endif
