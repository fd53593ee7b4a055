/* mch.h: host bridge of the 82G33/Q35 kind (8086:29c0) at 00:00.0: places the ECAM window. */
#ifndef DEV_PCI_MCH_H
#define DEV_PCI_MCH_H

#include "dev/pci/pci.h"

struct mch_config {
	struct device *bus;
	uint64_t ecam_base;  /* aligned to the window's size; enabled from reset on */
	unsigned ecam_buses; /* 64, 128 or 256 */
};
NODISCARD int mch_new(struct device **dev, const struct mch_config *cfg, struct error *err);

#endif
