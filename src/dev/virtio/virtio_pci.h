/* virtio_pci.h: the modern PCI transport (VIRTIO12 4.1): capabilities, registers, MSI-X. */
#ifndef DEV_VIRTIO_VIRTIO_PCI_H
#define DEV_VIRTIO_VIRTIO_PCI_H

#include "dev/virtio/virtio.h"

/*
 * The function is 1af4:1040+type. BAR 1 (4 KiB) has the MSI-X table and pending bits: a vector for
 * each queue and one for the configuration. BAR 4 (16 KiB, 64 bits, prefetchable) has the four
 * structures, a page each; queue q is notified at 4 * q of the last one. INTx and the ISR byte
 * serve drivers without MSI-X.
 */
NODISCARD int virtio_pci_init(struct virtio_dev *vd, const struct virtio_place *place,
			      const struct virtio_setup *setup, struct error *err);

#endif
