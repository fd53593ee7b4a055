/* pci_msi.c: message-signalled interrupts: MSI and MSI-X with masking and pending bits. */
#include "dev/pci/pci.h"
#include <assert.h>
#include <errno.h>
#include <string.h>
#include "dev/pci/pci_bus.h"

/* MSI capability with 64-bit address and per-vector masking (PCI3 6.8.1). */
#define MSI_CONTROL 2
#define MSI_ADDRESS 4
#define MSI_UPPER   8
#define MSI_DATA    12
#define MSI_MASK    16
#define MSI_PENDING 20
#define MSI_LEN	    24
#define MSI_ENABLE  0x0001

/* MSI-X (PCI3 6.8.2). */
#define MSIX_CONTROL  2
#define MSIX_ENABLE   0x8000
#define MSIX_FN_MASK  0x4000
#define MSIX_LEN      12
#define MSIX_ENTRY    16
#define MSIX_VEC_MASK 1u

static void send(struct pci_dev *pd, uint64_t addr, uint32_t data)
{
	/* A message is a memory write: it takes bus mastering (PCI3 6.8.3). */
	if (pci_bus_master(pd))
		msi_send(&pci_bus_of(pd->bus)->cfg.msi, addr, data);
}

/* --- MSI ----------------------------------------------------------------------------------- */

unsigned pci_add_msi(struct pci_dev *pd, unsigned vectors)
{
	assert(!pd->msi_cap && vectors && vectors <= PCI_MSI_MAX && !(vectors & (vectors - 1)));
	unsigned at = pci_add_capability(pd, PCI_CAP_MSI, MSI_LEN);
	unsigned log2 = (unsigned)__builtin_ctz(vectors);
	pci_config_init(pd, at + MSI_CONTROL, 2, 0x0180 | log2 << 1, 0x0071);
	pci_config_init(pd, at + MSI_ADDRESS, 4, 0, ~UINT32_C(3));
	pci_config_init(pd, at + MSI_UPPER, 4, 0, ~UINT32_C(0));
	pci_config_init(pd, at + MSI_DATA, 2, 0, 0xffff);
	pci_config_init(pd, at + MSI_MASK, 4, 0, (uint32_t)(BIT64(vectors) - 1));
	pd->msi_cap = (uint8_t)at;
	return at;
}

_Bool pci_msi_enabled(const struct pci_dev *pd)
{
	return pd->msi_cap && (pci_config_get(pd, pd->msi_cap + MSI_CONTROL, 2) & MSI_ENABLE);
}

/* Vectors that software allocated: never more than there are. */
static unsigned msi_allocated(const struct pci_dev *pd)
{
	unsigned control = pci_config_get(pd, pd->msi_cap + MSI_CONTROL, 2);
	unsigned log2 = MIN(control >> 4 & 7, control >> 1 & 7);
	return 1u << log2;
}

static void msi_deliver(struct pci_dev *pd, unsigned vector)
{
	unsigned cap = pd->msi_cap;
	uint64_t addr = pci_config_get(pd, cap + MSI_ADDRESS, 4) |
			(uint64_t)pci_config_get(pd, cap + MSI_UPPER, 4) << 32;
	uint32_t data = pci_config_get(pd, cap + MSI_DATA, 2);
	send(pd, addr, (data & ~(msi_allocated(pd) - 1)) | vector);
}

void pci_msi_raise(struct pci_dev *pd, unsigned vector)
{
	if (!pci_msi_enabled(pd) || vector >= PCI_MSI_MAX)
		return;
	/* With fewer messages than asked for, events share them (PCI3 6.8.3.1). */
	vector &= msi_allocated(pd) - 1;
	unsigned pending = pd->msi_cap + MSI_PENDING;
	if (pci_config_get(pd, pd->msi_cap + MSI_MASK, 4) & BIT32(vector))
		pci_config_set(pd, pending, 4, pci_config_get(pd, pending, 4) | BIT32(vector));
	else
		msi_deliver(pd, vector);
}

static void msi_send_pending(struct pci_dev *pd)
{
	unsigned at = pd->msi_cap + MSI_PENDING;
	uint32_t pending = pci_config_get(pd, at, 4);
	uint32_t due = pending & ~pci_config_get(pd, pd->msi_cap + MSI_MASK, 4);
	if (!due || !pci_msi_enabled(pd))
		return;
	pci_config_set(pd, at, 4, pending & ~due);
	for (unsigned v = 0; v < PCI_MSI_MAX; v++)
		if (due & BIT32(v))
			msi_deliver(pd, v & (msi_allocated(pd) - 1));
}

/* --- MSI-X --------------------------------------------------------------------------------- */

_Bool pci_msix_enabled(const struct pci_dev *pd)
{
	return pd->msix_cap && (pci_config_get(pd, pd->msix_cap + MSIX_CONTROL, 2) & MSIX_ENABLE);
}

static _Bool msix_masked(const struct pci_dev *pd, unsigned vector)
{
	return (pci_config_get(pd, pd->msix_cap + MSIX_CONTROL, 2) & MSIX_FN_MASK) ||
	       (pd->msix_table[vector * 4 + 3] & MSIX_VEC_MASK);
}

static void msix_deliver(struct pci_dev *pd, unsigned vector)
{
	const uint32_t *e = pd->msix_table + vector * 4;
	send(pd, e[0] | (uint64_t)e[1] << 32, e[2]);
}

void pci_msix_raise(struct pci_dev *pd, unsigned vector)
{
	if (!pci_msix_enabled(pd) || vector >= pd->msix_count)
		return;
	if (msix_masked(pd, vector))
		pd->msix_pba[vector / 64] |= BIT64(vector % 64);
	else
		msix_deliver(pd, vector);
}

static void msix_send_pending(struct pci_dev *pd, unsigned vector)
{
	uint64_t bit = BIT64(vector % 64);
	if (!(pd->msix_pba[vector / 64] & bit) || msix_masked(pd, vector) || !pci_msix_enabled(pd))
		return;
	pd->msix_pba[vector / 64] &= ~bit;
	msix_deliver(pd, vector);
}

static uint64_t table_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	const struct pci_dev *pd = container_of(dev, struct pci_dev, dev);
	return pd->msix_table[offset / 4];
}

static void table_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			uint64_t value)
{
	struct pci_dev *pd = container_of(dev, struct pci_dev, dev);
	static const uint32_t writable[4] = {~UINT32_C(3), ~UINT32_C(0), ~UINT32_C(0),
					     MSIX_VEC_MASK};
	pd->msix_table[offset / 4] = (uint32_t)value & writable[offset / 4 % 4];
	msix_send_pending(pd, (unsigned)(offset / MSIX_ENTRY));
}

static uint64_t pba_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	const struct pci_dev *pd = container_of(dev, struct pci_dev, dev);
	return pd->msix_pba[offset / 8] >> (offset % 8 * 8);
}

static void pba_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	/* PCI3 6.8.2.9: read-only. */
}

static const struct region_ops table_ops = {
    .read = table_read, .write = table_write, .min_size = 4, .max_size = 4};
static const struct region_ops pba_ops = {
    .read = pba_read, .write = pba_write, .min_size = 4, .max_size = 4};

unsigned pci_add_msix(struct pci_dev *pd, unsigned vectors, unsigned bar, uint32_t table_offset,
		      uint32_t pba_offset)
{
	assert(!pd->msix_cap && vectors && vectors <= PCI_MSIX_MAX);
	assert(!(table_offset & 7) && !(pba_offset & 7));
	unsigned at = pci_add_capability(pd, PCI_CAP_MSIX, MSIX_LEN);
	pci_config_init(pd, at + MSIX_CONTROL, 2, vectors - 1, MSIX_ENABLE | MSIX_FN_MASK);
	pci_config_init(pd, at + 4, 4, table_offset | bar, 0);
	pci_config_init(pd, at + 8, 4, pba_offset | bar, 0);
	pd->msix_cap = (uint8_t)at;
	pd->msix_count = vectors;
	pd->msix_table_region = (struct region){.name = "msix-table",
						.dev = &pd->dev,
						.ops = &table_ops,
						.size = (uint64_t)vectors * MSIX_ENTRY};
	pd->msix_pba_region = (struct region){.name = "msix-pba",
					      .dev = &pd->dev,
					      .ops = &pba_ops,
					      .size = ALIGN_UP(vectors, 64u) / 8};
	pci_bar_attach(pd, bar, &pd->msix_table_region, table_offset);
	pci_bar_attach(pd, bar, &pd->msix_pba_region, pba_offset);
	return at;
}

/* --- Common -------------------------------------------------------------------------------- */

void pci_msi_written(struct pci_dev *pd, unsigned offset, unsigned size)
{
	if (pd->msi_cap && pci_touches(offset, size, pd->msi_cap, MSI_LEN))
		msi_send_pending(pd);
	if (pd->msix_cap && pci_touches(offset, size, pd->msix_cap + MSIX_CONTROL, 2))
		for (unsigned v = 0; v < pd->msix_count; v++)
			msix_send_pending(pd, v);
}

void pci_msi_reset(struct pci_dev *pd)
{
	memset(pd->msix_table, 0, sizeof(pd->msix_table));
	memset(pd->msix_pba, 0, sizeof(pd->msix_pba));
	for (unsigned v = 0; v < pd->msix_count; v++)
		pd->msix_table[v * 4 + 3] = MSIX_VEC_MASK;
}

int pci_msi_check(const struct pci_dev *pd, struct error *err)
{
	for (unsigned v = 0; v < PCI_MSIX_MAX; v++) {
		const uint32_t *e = pd->msix_table + v * 4;
		_Bool pending = pd->msix_pba[v / 64] >> (v % 64) & 1;
		_Bool blank = !(e[0] | e[1] | e[2] | e[3]) && !pending;
		if (v < pd->msix_count ? (e[0] & 3) || (e[3] & ~MSIX_VEC_MASK) : !blank)
			return error_set(err, -EINVAL, "saved MSI-X table of %s is wrong at %u",
					 pd->dev.id, v);
	}
	if (pd->msi_cap) {
		unsigned vectors = 1u << (pd->init[pd->msi_cap + MSI_CONTROL] >> 1 & 7);
		uint32_t pending = pci_config_get(pd, pd->msi_cap + MSI_PENDING, 4);
		if (pending & ~(uint32_t)(BIT64(vectors) - 1))
			return error_set(err, -EINVAL,
					 "saved MSI state of %s has vectors that do not exist",
					 pd->dev.id);
	}
	return 0;
}
