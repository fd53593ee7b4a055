/* pci_bus.c: PCI bus 0: configuration access through ports and memory, shared INTx lines, reset
 * control register. */
#include "dev/pci/pci_bus.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "base/log.h"
#include "dev/pci/pci.h"

#define ADDRESS_ENABLE UINT32_C(0x80000000)
#define ADDRESS_RW     UINT32_C(0x80fffffc) /* PCI3 3.2.2.3.2 */

/* RST_CNT (ICH9 13.7.5) shares its dword with CONFIG_ADDRESS, which answers to whole dwords only.
 */
#define RST_OFFSET 1
#define RST_CPU	   0x04
#define RST_RW	   0x0e

#define ECAM_BUS_SHIFT 20
#define ECAM_FN_SHIFT  12

static uint32_t config_read(struct pci_bus *bus, unsigned busno, unsigned devfn, unsigned offset,
			    unsigned size)
{
	struct pci_dev *pd = busno == 0 ? bus->fn[devfn] : NULL;
	if (!pd || offset + size > pd->config_size)
		return (uint32_t)size_mask(size);
	return pci_dev_config_read(pd, offset, size);
}

static void config_write(struct pci_bus *bus, unsigned busno, unsigned devfn, unsigned offset,
			 unsigned size, uint32_t value)
{
	struct pci_dev *pd = busno == 0 ? bus->fn[devfn] : NULL;
	if (pd && offset + size <= pd->config_size)
		pci_dev_config_write(pd, offset, size, value);
}

static uint64_t address_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct pci_bus *bus = pci_bus_of(dev);
	if (size == 4)
		return bus->address;
	if (size == 1 && offset == RST_OFFSET)
		return bus->reset_ctl;
	return size_mask(size);
}

static void address_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			  uint64_t value)
{
	struct pci_bus *bus = pci_bus_of(dev);
	if (size == 4) {
		bus->address = (uint32_t)value & ADDRESS_RW;
	} else if (size == 1 && offset == RST_OFFSET) {
		bus->reset_ctl = value & RST_RW;
		if (value & RST_CPU)
			power_request(&bus->cfg.power, POWER_RESET, POWER_CAUSE_CF9);
	}
}

static uint64_t data_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct pci_bus *bus = pci_bus_of(dev);
	uint32_t a = bus->address;
	if (!(a & ADDRESS_ENABLE))
		return size_mask(size);
	return config_read(bus, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (unsigned)offset, size);
}

static void data_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct pci_bus *bus = pci_bus_of(dev);
	uint32_t a = bus->address;
	if (a & ADDRESS_ENABLE)
		config_write(bus, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (unsigned)offset,
			     size, (uint32_t)value);
}

static uint64_t ecam_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return config_read(pci_bus_of(dev), (unsigned)(offset >> ECAM_BUS_SHIFT),
			   offset >> ECAM_FN_SHIFT & 0xff, offset & 0xfff, size);
}

static void ecam_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	config_write(pci_bus_of(dev), (unsigned)(offset >> ECAM_BUS_SHIFT),
		     offset >> ECAM_FN_SHIFT & 0xff, offset & 0xfff, size, (uint32_t)value);
}

static const struct region_ops address_ops = {
    .read = address_read, .write = address_write, .max_size = 4};
static const struct region_ops data_ops = {.read = data_read, .write = data_write, .max_size = 4};
static const struct region_ops ecam_ops = {.read = ecam_read, .write = ecam_write, .max_size = 4};

int pci_bus_set_ecam(struct device *dev, _Bool enabled, uint64_t base, unsigned buses)
{
	struct pci_bus *bus = pci_bus_of(dev);
	struct region *r = &bus->ecam_region;
	uint64_t size = (uint64_t)buses << ECAM_BUS_SHIFT;
	if (r->mapped && enabled && r->base == base && r->size == size)
		return 0;
	if (r->mapped)
		space_unmap(bus->cfg.memory, r);
	if (!enabled)
		return 0;
	r->size = size;
	int rc = space_map(bus->cfg.memory, r, base);
	if (rc)
		log_guest("PCI configuration window does not fit at 0x%llx",
			  (unsigned long long)base);
	return rc;
}

int pci_bus_attach(struct pci_bus *bus, struct pci_dev *pd, struct error *err)
{
	if (bus->fn[pd->devfn])
		return error_set(err, -EBUSY, "PCI slot %u function %u is taken by %s",
				 pd->devfn >> 3, pd->devfn & 7, bus->fn[pd->devfn]->dev.id);
	bus->fn[pd->devfn] = pd;
	pd->added = 1;
	/* PCI3 6.2.1: function 0 tells whether there are others. */
	struct pci_dev *first = bus->fn[pd->devfn & ~7u];
	_Bool others = 0;
	for (unsigned f = 1; f < 8; f++)
		others |= bus->fn[(pd->devfn & ~7u) + f] != NULL;
	if (first && others) {
		first->init[PCI_HEADER_TYPE] |= PCI_MULTIFUNCTION;
		first->config[PCI_HEADER_TYPE] |= PCI_MULTIFUNCTION;
	}
	return 0;
}

void pci_bus_detach(struct pci_bus *bus, struct pci_dev *pd)
{
	if (bus->fn[pd->devfn] == pd)
		bus->fn[pd->devfn] = NULL;
	pd->added = 0;
}

void pci_bus_wire(struct pci_bus *bus, struct pci_dev *pd, _Bool level)
{
	unsigned pin = pd->config[PCI_INT_PIN];
	if (pin == 0 || level == pd->intx_driven)
		return;
	pd->intx_driven = level;
	unsigned line = ((pd->devfn >> 3) + pin - 1) % bus->cfg.intx_count;
	/* Counting and driving are one step: else a late 0 could overtake another function's 1. */
	lock_take(&bus->wire_lock);
	unsigned before = bus->wire_count[line];
	assert(level || before > 0);
	bus->wire_count[line] = (uint16_t)(level ? before + 1 : before - 1);
	if (before == (level ? 0 : 1))
		irq_set(&bus->cfg.intx[line], level);
	lock_drop(&bus->wire_lock);
}

static void pci_bus_reset(struct device *dev, enum reset_kind kind)
{
	struct pci_bus *bus = pci_bus_of(dev);
	bus->address = 0;
	bus->reset_ctl = 0;
}

static void pci_bus_free(struct device *dev)
{
	struct pci_bus *bus = pci_bus_of(dev);
	if (bus->address_region.mapped)
		space_unmap(bus->cfg.ports, &bus->address_region);
	if (bus->data_region.mapped)
		space_unmap(bus->cfg.ports, &bus->data_region);
	if (bus->ecam_region.mapped)
		space_unmap(bus->cfg.memory, &bus->ecam_region);
	lock_fini(&bus->wire_lock);
	device_fini(dev);
	free(bus);
}

static int pci_bus_check(const void *shadow, struct error *err)
{
	const struct pci_bus *bus = shadow;
	if (bus->address & ~ADDRESS_RW || bus->reset_ctl & ~RST_RW)
		return error_set(err, -EINVAL, "saved PCI bus has reserved bits set");
	return 0;
}

static const struct state_field pci_bus_fields[] = {
    STATE_SCALAR(1, struct pci_bus, address),
    STATE_SCALAR(2, struct pci_bus, reset_ctl),
    STATE_END,
};
static const struct state_desc pci_bus_state = {
    .name = "pci-bus",
    .fields = pci_bus_fields,
    .size = sizeof(struct pci_bus),
    .check = pci_bus_check,
};
static const struct device_class pci_bus_class;

int pci_address(struct device *bus, const struct device *dev)
{
	const struct pci_bus *b = pci_bus_of(bus);

	for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
		if (b->fn[i] && &b->fn[i]->dev == dev)
			return (int)i;
	}
	return -1;
}

int pci_bus_new(struct device **out, const struct pci_bus_config *cfg, struct error *err)
{
	assert(cfg->intx_count >= 1 && cfg->intx_count <= PCI_INTX_MAX);
	struct pci_bus *bus = calloc(1, sizeof(*bus));
	if (!bus)
		return error_set(err, -ENOMEM, "no memory for the PCI bus");
	device_init(&bus->dev, &pci_bus_class, RANK_BOARD, 0, "pci0");
	lock_init(&bus->wire_lock, RANK_PCI_WIRE);
	bus->cfg = *cfg;
	bus->address_region = (struct region){
	    .name = "pci-config-address", .dev = &bus->dev, .ops = &address_ops, .size = 4};
	bus->data_region = (struct region){
	    .name = "pci-config-data", .dev = &bus->dev, .ops = &data_ops, .size = 4};
	bus->ecam_region = (struct region){.name = "pci-ecam", .dev = &bus->dev, .ops = &ecam_ops};
	int rc = space_map(cfg->ports, &bus->address_region, 0xcf8);
	if (!rc)
		rc = space_map(cfg->ports, &bus->data_region, 0xcfc);
	if (rc) {
		pci_bus_free(&bus->dev);
		return error_set(err, rc, "the PCI configuration ports 0xcf8 to 0xcff are taken");
	}
	*out = &bus->dev;
	return 0;
}

static const struct device_class pci_bus_class = {
    .name = "pci-bus",
    .reset = pci_bus_reset,
    .free = pci_bus_free,
    .state = &pci_bus_state,
};
