/* pci_dev.c: a PCI function: configuration space as bytes with masks, capabilities, INTx, reset. */
#include "dev/pci/pci.h"
#include <assert.h>
#include <errno.h>
#include <string.h>
#include "base/le.h"
#include "dev/pci/pci_bus.h"

#define CAP_FIRST     0x40
#define CAP_END	      0x100
#define EXT_CAP_FIRST 0x100

static void bytes_put(uint8_t *at, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t bytes_get(const uint8_t *at, unsigned size)
{
	uint32_t v = 0;
	for (unsigned i = 0; i < size; i++)
		v |= (uint32_t)at[i] << (8 * i);
	return v;
}

uint32_t pci_config_get(const struct pci_dev *pd, unsigned offset, unsigned size)
{
	assert(size <= 4 && offset + size <= PCI_CONFIG_SIZE);
	return bytes_get(pd->config + offset, size);
}

void pci_config_set(struct pci_dev *pd, unsigned offset, unsigned size, uint32_t value)
{
	assert(size <= 4 && offset + size <= PCI_CONFIG_SIZE);
	bytes_put(pd->config + offset, size, value);
}

void pci_config_init(struct pci_dev *pd, unsigned offset, unsigned size, uint32_t value,
		     uint32_t rw_mask)
{
	assert(size <= 4 && offset + size <= PCI_CONFIG_SIZE);
	bytes_put(pd->init + offset, size, value);
	bytes_put(pd->config + offset, size, value);
	bytes_put(pd->rw + offset, size, rw_mask);
}

int pci_dev_init(struct pci_dev *pd, const struct device_class *cls, const struct pci_ops *ops,
		 struct device *bus, unsigned slot, unsigned function, const struct pci_ids *ids,
		 unsigned instance, const char *id, struct error *err)
{
	assert(slot < PCI_SLOTS && function < 8 && ids->intx_pin <= 4);
	memset(pd, 0, sizeof(*pd));
	device_init(&pd->dev, cls, RANK_DEVICE, instance, id);
	pd->bus = bus;
	pd->ops = ops;
	pd->devfn = (uint8_t)(slot << 3 | function);
	pd->config_size = 256;
	pd->cap_next = CAP_FIRST;
	pd->ext_next = EXT_CAP_FIRST;
	/* PCI3 6.1 */
	pci_config_init(pd, PCI_VENDOR, 2, ids->vendor, 0);
	pci_config_init(pd, PCI_DEVICE, 2, ids->device, 0);
	pci_config_init(pd, PCI_COMMAND, 2, 0, PCI_COMMAND_RW);
	pci_config_init(pd, PCI_STATUS, 2, 0, 0);
	bytes_put(pd->w1c + PCI_STATUS, 2, PCI_STATUS_W1C);
	pci_config_init(pd, PCI_REVISION, 4, ids->class_code << 8 | ids->revision, 0);
	pci_config_init(pd, PCI_CACHE_LINE, 1, 0, 0xff);
	pci_config_init(pd, PCI_SUBSYSTEM, 2, ids->subsys_vendor, 0);
	pci_config_init(pd, PCI_SUBSYSTEM + 2, 2, ids->subsys_device, 0);
	pci_config_init(pd, PCI_INT_LINE, 1, 0, 0xff);
	pci_config_init(pd, PCI_INT_PIN, 1, ids->intx_pin, 0);
	int rc = pci_bus_attach(pci_bus_of(bus), pd, err);
	if (rc)
		device_fini(&pd->dev);
	return rc;
}

void pci_dev_fini(struct pci_dev *pd)
{
	if (!pd->added)
		return;
	pci_bars_unmap(pd);
	pci_bus_wire(pci_bus_of(pd->bus), pd, 0);
	pci_bus_detach(pci_bus_of(pd->bus), pd);
	device_fini(&pd->dev);
}

unsigned pci_add_capability(struct pci_dev *pd, uint8_t id, unsigned len)
{
	unsigned at = ALIGN_UP((unsigned)pd->cap_next, 4u);
	assert(len >= 2 && at + len <= CAP_END);
	pci_config_init(pd, at, 1, id, 0);
	pci_config_init(pd, at + 1, 1, 0, 0);
	if (pd->cap_last)
		pci_config_init(pd, pd->cap_last + 1u, 1, at, 0);
	else
		pci_config_init(pd, PCI_CAP_POINTER, 1, at, 0);
	pd->init[PCI_STATUS] |= PCI_STATUS_CAPS;
	pd->config[PCI_STATUS] |= PCI_STATUS_CAPS;
	pd->cap_last = (uint16_t)at;
	pd->cap_next = (uint16_t)(at + len);
	return at;
}

unsigned pci_add_ext_capability(struct pci_dev *pd, uint16_t id, uint8_t version, unsigned len)
{
	unsigned at = ALIGN_UP((unsigned)pd->ext_next, 4u);
	assert(pd->exp_cap && len >= 4 && at + len <= PCI_CONFIG_SIZE);
	/* PCIE4 7.6.3: the list starts at 0x100; next pointers are in bits 31:20. */
	pci_config_init(pd, at, 4, id | (uint32_t)(version & 0xf) << 16, 0);
	if (pd->ext_last) {
		uint32_t before = bytes_get(pd->init + pd->ext_last, 4) & 0xfffff;
		pci_config_init(pd, pd->ext_last, 4, before | at << 20, 0);
	}
	pd->ext_last = (uint16_t)at;
	pd->ext_next = (uint16_t)(at + len);
	return at;
}

unsigned pci_add_express(struct pci_dev *pd)
{
	assert(!pd->exp_cap);
	unsigned at = pci_add_capability(pd, PCI_CAP_EXP, 0x3c);
	/* PCIE4 7.5.3: version 2, root complex integrated endpoint: no link, no slot. */
	pci_config_init(pd, at + 2, 2, 0x0092, 0);
	/* 7.5.3.3: role-based error reporting, function level reset; payload of 128 bytes. */
	pci_config_init(pd, at + 4, 4, 0x10008000, 0);
	/* 7.5.3.4: error reporting enables, relaxed ordering, no snoop, read request size. */
	pci_config_init(pd, at + PCI_EXP_DEVCTL, 2, 0x2810, 0x781f);
	bytes_put(pd->w1c + at + 0x0a, 2, 0x000f);
	pd->exp_cap = (uint8_t)at;
	pd->config_size = PCI_CONFIG_SIZE;
	return at;
}

/* --- Interrupt pin ------------------------------------------------------------------------- */

void pci_dev_update_intx(struct pci_dev *pd)
{
	/* PCI3 6.2.2, 6.2.3: the status bit shows the request even while the pin is disabled. */
	if (pd->intx_level)
		pd->config[PCI_STATUS] |= PCI_STATUS_INTX;
	else
		pd->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
	_Bool off = pci_config_get(pd, PCI_COMMAND, 2) & PCI_COMMAND_INTX_OFF;
	_Bool drive = pd->intx_level && !off && !pci_msi_enabled(pd) && !pci_msix_enabled(pd);
	pci_bus_wire(pci_bus_of(pd->bus), pd, drive);
}

void pci_set_intx(struct pci_dev *pd, _Bool level)
{
	if (level == pd->intx_level)
		return;
	pd->intx_level = level;
	pci_dev_update_intx(pd);
}

_Bool pci_bus_master(const struct pci_dev *pd)
{
	return pci_config_get(pd, PCI_COMMAND, 2) & PCI_COMMAND_MASTER;
}

/* --- A guest's access ---------------------------------------------------------------------- */

uint32_t pci_dev_config_read(struct pci_dev *pd, unsigned offset, unsigned size)
{
	lock_take(&pd->dev.lock);
	if (pd->ops && pd->ops->config_reading)
		pd->ops->config_reading(pd, offset, size);
	uint32_t v = bytes_get(pd->config + offset, size);
	lock_drop(&pd->dev.lock);
	return v;
}

static _Bool asks_flr(const struct pci_dev *pd, unsigned offset, unsigned size, uint32_t value)
{
	unsigned at = pd->exp_cap + PCI_EXP_DEVCTL + 1u;
	if (!pd->exp_cap || !pci_touches(offset, size, at, 1))
		return 0;
	return value >> (8 * (at - offset)) & (PCI_EXP_DEVCTL_FLR >> 8);
}

void pci_dev_config_write(struct pci_dev *pd, unsigned offset, unsigned size, uint32_t value)
{
	lock_take(&pd->dev.lock);
	for (unsigned i = 0; i < size; i++) {
		unsigned at = offset + i;
		uint8_t v = (uint8_t)(value >> (8 * i));
		uint8_t now = (uint8_t)((pd->config[at] & ~pd->rw[at]) | (v & pd->rw[at]));
		pd->config[at] = (uint8_t)(now & ~(v & pd->w1c[at]));
	}
	if (asks_flr(pd, offset, size, value)) {
		pd->dev.cls->reset(&pd->dev, RESET_SYSTEM);
	} else {
		if (pci_touches(offset, size, PCI_COMMAND, 2) ||
		    pci_touches(offset, size, PCI_BAR0, 4 * PCI_BARS))
			pci_bars_update(pd);
		pci_msi_written(pd, offset, size);
		pci_dev_update_intx(pd);
		if (pd->ops && pd->ops->config_written)
			pd->ops->config_written(pd, offset, size);
	}
	lock_drop(&pd->dev.lock);
}

/* --- Reset and state ----------------------------------------------------------------------- */

void pci_dev_reset(struct pci_dev *pd)
{
	memcpy(pd->config, pd->init, sizeof(pd->config));
	pd->intx_level = 0;
	pci_msi_reset(pd);
	pci_bars_update(pd);
	pci_dev_update_intx(pd);
}

void pci_dev_post_load(struct pci_dev *pd)
{
	pci_bars_update(pd);
	pci_dev_update_intx(pd);
}

int pci_dev_check(const struct pci_dev *pd, struct error *err)
{
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
		unsigned may = pd->rw[i] | pd->w1c[i];
		if (i == PCI_STATUS)
			may |= PCI_STATUS_INTX;
		if (pd->msi_cap && i >= pd->msi_cap + 20u && i < pd->msi_cap + 24u)
			may = 0xff; /* pending bits: pci_msi_check looks at them */
		if ((pd->config[i] ^ pd->init[i]) & ~may)
			return error_set(
			    err, -EINVAL,
			    "saved configuration space of %s differs at 0x%x from what "
			    "this device has there",
			    pd->dev.id, i);
	}
	_Bool status = pd->config[PCI_STATUS] & PCI_STATUS_INTX;
	if (status != pd->intx_level)
		return error_set(err, -EINVAL, "saved interrupt status of %s contradicts itself",
				 pd->dev.id);
	return pci_msi_check(pd, err);
}
