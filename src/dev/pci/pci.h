/* pci.h: what a PCI function is and what the bus gives it. */
#ifndef DEV_PCI_PCI_H
#define DEV_PCI_PCI_H

#include "bus/irq.h"
#include "bus/power.h"
#include "bus/space.h"

/*
 * One bus (number 0) of 32 slots with 8 functions each, reached through ports 0xCF8/0xCFC and
 * through a memory window (ECAM). The bus device's lock has RANK_BOARD: a configuration access
 * takes the bus's lock and then the function's, so topology (where BARs are mapped) changes under
 * the bus's lock, or while no vCPU runs (reset, load of saved state).
 */
#define PCI_SLOTS	32
#define PCI_FUNCTIONS	256
#define PCI_BARS	6
#define PCI_CONFIG_SIZE 4096
#define PCI_INTX_MAX	8
#define PCI_BAR_PARTS	8   /* regions in all BARs of one function */
#define PCI_MSIX_MAX	128 /* vectors of one function */
#define PCI_MSI_MAX	32

struct pci_bus_config {
	struct space *ports, *memory;
	struct msi_sink msi;
	/* INTx lines, level-triggered and shared: pin P of slot S is on line (S + P) % intx_count.
	 */
	struct irq intx[PCI_INTX_MAX];
	unsigned intx_count;	 /* 4 to 8 */
	struct power_sink power; /* for the reset control register at port 0xCF9 */
};

/* Maps ports 0xCF8..0xCFF. ECAM is mapped by the host bridge (mch.h). */
NODISCARD int pci_bus_new(struct device **bus, const struct pci_bus_config *cfg, struct error *err);

/* Maps, moves (enabled) or removes the ECAM window of `buses` MiB. Under the bus's lock or while no
 * vCPU runs. A window that would overlap something else stays unmapped: -EEXIST. */
int pci_bus_set_ecam(struct device *bus, _Bool enabled, uint64_t base, unsigned buses);

/* Where a device sits on the bus: slot << 3 | function, or -1 when it is not on it. */
int pci_address(struct device *bus, const struct device *dev);

enum pci_bar_kind {
	PCI_BAR_NONE,
	PCI_BAR_IO,
	PCI_BAR_MEM32,
	PCI_BAR_MEM64, /* takes two registers */
};

struct pci_bar {
	enum pci_bar_kind kind;
	_Bool prefetch;
	uint64_t size; /* a power of two */
};

struct pci_part {
	struct region *region;
	uint64_t offset; /* in the BAR */
	unsigned bar;
};

struct pci_dev;

struct pci_ops {
	/* After a guest's write to configuration space was stored; under the function's lock. */
	void (*config_written)(struct pci_dev *pd, unsigned offset, unsigned size);
	/* Before a guest's read of configuration space: may refresh bytes of pd->config. */
	void (*config_reading)(struct pci_dev *pd, unsigned offset, unsigned size);
};

/*
 * A function; the first member of its device's private struct. `config` is what a guest reads;
 * `rw` has a 1 for every bit that a guest may write, `w1c` for every bit that writing 1 clears;
 * everything else is read-only. `init` is the content after reset. All four are set up by
 * pci_dev_init, pci_add_... and the device itself (before it is first reset), then constant but for
 * `config`.
 */
struct pci_dev {
	struct device dev;
	struct device *bus;
	const struct pci_ops *ops; /* may be NULL */
	uint8_t devfn;		   /* slot << 3 | function */
	_Bool added;
	_Bool intx_level; /* what the device asks for; the wire also depends on the command register
			   */
	_Bool intx_driven;	     /* what the wire has */
	uint16_t cap_last, cap_next; /* capability list under construction */
	uint16_t ext_last, ext_next;
	uint8_t msi_cap, msix_cap, exp_cap; /* offsets in config, 0: none */
	uint16_t config_size;		    /* 256, or 4096 with PCI Express */
	struct pci_bar bar[PCI_BARS];
	struct pci_part part[PCI_BAR_PARTS];
	unsigned part_count;
	unsigned msix_count;
	struct region msix_table_region, msix_pba_region;
	uint32_t msix_table[PCI_MSIX_MAX * 4];
	uint64_t msix_pba[PCI_MSIX_MAX / 64];
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t init[PCI_CONFIG_SIZE];
	uint8_t rw[PCI_CONFIG_SIZE];
	uint8_t w1c[PCI_CONFIG_SIZE];
};

struct pci_ids {
	uint16_t vendor, device;
	uint8_t revision;
	uint32_t class_code; /* 24 bits: base class, subclass, interface */
	uint16_t subsys_vendor, subsys_device;
	uint8_t intx_pin; /* 0: none, 1: INTA# ... 4: INTD# */
};

/* Initializes the common part (RANK_DEVICE) and puts the function on the bus. -EBUSY with a
 * sentence when the place is taken; then nothing needs to be undone. Set-up only. */
NODISCARD int pci_dev_init(struct pci_dev *pd, const struct device_class *cls,
			   const struct pci_ops *ops, struct device *bus, unsigned slot,
			   unsigned function, const struct pci_ids *ids, unsigned instance,
			   const char *id, struct error *err);
/* Unmaps BARs and takes the function off the bus. Also on one that pci_dev_init refused or that is
 * all zeroes. */
void pci_dev_fini(struct pci_dev *pd);

/* Set-up; wrong arguments are bugs. A BAR, and then the regions in it (they may leave gaps; a guest
 * maps and moves them). The regions must stay in place. */
void pci_add_bar(struct pci_dev *pd, unsigned bar, enum pci_bar_kind kind, uint64_t size,
		 _Bool prefetch);
void pci_bar_attach(struct pci_dev *pd, unsigned bar, struct region *region, uint64_t offset);
/* Where a BAR is mapped now, or UINT64_MAX when it is not decoded. */
uint64_t pci_bar_address(const struct pci_dev *pd, unsigned bar);

/* Capabilities: give the offset of a zeroed one of `len` bytes (with id and link filled). */
unsigned pci_add_capability(struct pci_dev *pd, uint8_t id, unsigned len);
unsigned pci_add_ext_capability(struct pci_dev *pd, uint16_t id, uint8_t version, unsigned len);
/* PCI Express root complex integrated endpoint with function level reset: makes the extended
 * configuration space visible. FLR runs the class's reset hook with RESET_SYSTEM. */
unsigned pci_add_express(struct pci_dev *pd);
/* MSI with 64-bit address and per-vector masking; `vectors` a power of two up to 32. */
unsigned pci_add_msi(struct pci_dev *pd, unsigned vectors);
/* MSI-X whose table and pending bits live in a BAR that was added before. */
unsigned pci_add_msix(struct pci_dev *pd, unsigned vectors, unsigned bar, uint32_t table_offset,
		      uint32_t pba_offset);

/* Little-endian access to configuration bytes, from the device's side. Bits that are set so must be
 * rw or w1c bits (or those that this library keeps): saved state with other bits is refused. */
uint32_t pci_config_get(const struct pci_dev *pd, unsigned offset, unsigned size);
void pci_config_set(struct pci_dev *pd, unsigned offset, unsigned size, uint32_t value);
/* The same for the reset content and the write mask, at set-up. */
void pci_config_init(struct pci_dev *pd, unsigned offset, unsigned size, uint32_t value,
		     uint32_t rw_mask);

/* Interrupts, under the function's lock. Leaf calls. A vector that is masked becomes pending and is
 * sent when it is unmasked; one that does not exist is dropped. */
void pci_set_intx(struct pci_dev *pd, _Bool level);
_Bool pci_msi_enabled(const struct pci_dev *pd);
_Bool pci_msix_enabled(const struct pci_dev *pd);
void pci_msi_raise(struct pci_dev *pd, unsigned vector);
void pci_msix_raise(struct pci_dev *pd, unsigned vector);
/* May the function read and write guest memory (bus master enable)? */
_Bool pci_bus_master(const struct pci_dev *pd);

/* For the class: reset (configuration space, BARs unmapped, interrupts quiet), post_load (BARs
 * mapped, line driven), and the fields and the check of saved state. */
void pci_dev_reset(struct pci_dev *pd);
void pci_dev_post_load(struct pci_dev *pd);
NODISCARD int pci_dev_check(const struct pci_dev *shadow, struct error *err);
#define PCI_DEV_STATE(type, member)                                                                \
	STATE_ARRAY(0xf001, type, member.config, PCI_CONFIG_SIZE),                                 \
	    STATE_ARRAY(0xf002, type, member.msix_table, PCI_MSIX_MAX * 4),                        \
	    STATE_ARRAY(0xf003, type, member.msix_pba, PCI_MSIX_MAX / 64),                         \
	    STATE_BOOL(0xf004, type, member.intx_level)

#endif
