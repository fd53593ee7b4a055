/* pci_bus.h: the bus's private struct, shared by the files of this directory. */
#ifndef DEV_PCI_PCI_BUS_H
#define DEV_PCI_PCI_BUS_H

#include "dev/pci/pci.h"

#define PCI_VENDOR	0x00
#define PCI_DEVICE	0x02
#define PCI_COMMAND	0x04
#define PCI_STATUS	0x06
#define PCI_REVISION	0x08
#define PCI_CACHE_LINE	0x0c
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0	0x10
#define PCI_SUBSYSTEM	0x2c
#define PCI_CAP_POINTER 0x34
#define PCI_INT_LINE	0x3c
#define PCI_INT_PIN	0x3d

#define PCI_COMMAND_IO	     0x0001
#define PCI_COMMAND_MEMORY   0x0002
#define PCI_COMMAND_MASTER   0x0004
#define PCI_COMMAND_INTX_OFF 0x0400
#define PCI_COMMAND_RW	     0x0547
#define PCI_STATUS_INTX	     0x0008
#define PCI_STATUS_CAPS	     0x0010
#define PCI_STATUS_W1C	     0xf900
#define PCI_MULTIFUNCTION    0x80

#define PCI_CAP_MSI  0x05
#define PCI_CAP_EXP  0x10
#define PCI_CAP_MSIX 0x11

#define PCI_EXP_DEVCTL	   0x08
#define PCI_EXP_DEVCTL_FLR 0x8000

struct pci_bus {
	struct device dev;
	struct pci_bus_config cfg;
	struct pci_dev *fn[PCI_FUNCTIONS];
	uint32_t address;  /* CONFIG_ADDRESS */
	uint8_t reset_ctl; /* RST_CNT */
	struct region address_region, data_region, ecam_region;
	struct lock wire_lock;
	uint16_t wire_count[PCI_INTX_MAX]; /* functions that pull the line */
};

static inline struct pci_bus *pci_bus_of(struct device *dev)
{
	return container_of(dev, struct pci_bus, dev);
}

/* pci_bus.c */
NODISCARD int pci_bus_attach(struct pci_bus *bus, struct pci_dev *pd, struct error *err);
void pci_bus_detach(struct pci_bus *bus, struct pci_dev *pd);
void pci_bus_wire(struct pci_bus *bus, struct pci_dev *pd, _Bool level);

/* pci_dev.c: a guest's access to configuration space, under the bus's lock. */
uint32_t pci_dev_config_read(struct pci_dev *pd, unsigned offset, unsigned size);
void pci_dev_config_write(struct pci_dev *pd, unsigned offset, unsigned size, uint32_t value);
/* Drives the INTx wire to what it should be. */
void pci_dev_update_intx(struct pci_dev *pd);

/* pci_bar.c: maps and unmaps after the command register or a BAR changed. */
void pci_bars_update(struct pci_dev *pd);
void pci_bars_unmap(struct pci_dev *pd);

/* pci_msi.c */
void pci_msi_written(struct pci_dev *pd, unsigned offset, unsigned size);
void pci_msi_reset(struct pci_dev *pd);
NODISCARD int pci_msi_check(const struct pci_dev *shadow, struct error *err);

static inline _Bool pci_touches(unsigned offset, unsigned size, unsigned at, unsigned len)
{
	return offset < at + len && at < offset + size;
}

#endif
