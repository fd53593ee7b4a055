/* lpc.h: ISA bridge of the ICH9 kind (8086:2918) at 00:1f.0: says where the power block is. */
#ifndef DEV_PCI_LPC_H
#define DEV_PCI_LPC_H

#include "dev/pci/pci.h"

struct lpc_config {
	struct device *bus;
	uint16_t pm_base; /* ACPI power management block, 128 ports; fixed */
	uint8_t sci_irq;  /* 9, 10, 11, 20..23 */
	/* PIC input of PIRQA..PIRQH, fixed; 0: not routed to the PIC. Tells software what the board
	 * does. */
	uint8_t pirq[8];
};
NODISCARD int lpc_new(struct device **dev, const struct lpc_config *cfg, struct error *err);

#endif
