/* pci_bar.c: base address registers: sized, moved and switched by the guest. */
#include "dev/pci/pci.h"
#include <assert.h>
#include "base/log.h"
#include "dev/pci/pci_bus.h"

#define NOWHERE UINT64_MAX

void pci_add_bar(struct pci_dev *pd, unsigned bar, enum pci_bar_kind kind, uint64_t size,
		 _Bool prefetch)
{
	assert(bar < PCI_BARS && kind != PCI_BAR_NONE && pd->bar[bar].kind == PCI_BAR_NONE);
	assert(size && !(size & (size - 1)));
	assert(size >= (kind == PCI_BAR_IO ? 4 : 16));
	unsigned at = PCI_BAR0 + 4 * bar;
	uint64_t mask = ~(size - 1);
	pd->bar[bar] = (struct pci_bar){.kind = kind, .size = size, .prefetch = prefetch};
	/* PCI3 6.2.5.1 */
	switch (kind) {
	case PCI_BAR_IO:
		assert(size <= 256);
		pci_config_init(pd, at, 4, 1, (uint32_t)mask & ~UINT32_C(3));
		break;
	case PCI_BAR_MEM32:
		assert(size <= BIT32(31));
		pci_config_init(pd, at, 4, prefetch ? 8 : 0, (uint32_t)mask);
		break;
	case PCI_BAR_MEM64:
		assert(bar + 1 < PCI_BARS && pd->bar[bar + 1].kind == PCI_BAR_NONE);
		pci_config_init(pd, at, 4, 4 | (prefetch ? 8 : 0), (uint32_t)mask);
		pci_config_init(pd, at + 4, 4, 0, (uint32_t)(mask >> 32));
		break;
	case PCI_BAR_NONE: break;
	}
}

void pci_bar_attach(struct pci_dev *pd, unsigned bar, struct region *region, uint64_t offset)
{
	assert(bar < PCI_BARS && pd->bar[bar].kind != PCI_BAR_NONE);
	assert(pd->part_count < PCI_BAR_PARTS);
	assert(range_fits(offset, region->size, pd->bar[bar].size));
	pd->part[pd->part_count++] =
	    (struct pci_part){.region = region, .offset = offset, .bar = bar};
}

uint64_t pci_bar_address(const struct pci_dev *pd, unsigned bar)
{
	const struct pci_bar *b = &pd->bar[bar];
	uint32_t command = pci_config_get(pd, PCI_COMMAND, 2);
	uint64_t base = pci_config_get(pd, PCI_BAR0 + 4 * bar, 4);
	uint64_t limit = UINT64_C(1) << 32;
	_Bool on = command & PCI_COMMAND_MEMORY;
	switch (b->kind) {
	case PCI_BAR_IO:
		base &= ~UINT64_C(3);
		limit = 0x10000;
		on = command & PCI_COMMAND_IO;
		break;
	case PCI_BAR_MEM64:
		base |= (uint64_t)pci_config_get(pd, PCI_BAR0 + 4 * bar + 4, 4) << 32;
		limit = UINT64_C(1) << 52;
		base &= ~UINT64_C(15);
		break;
	case PCI_BAR_MEM32: base &= ~UINT64_C(15); break;
	case PCI_BAR_NONE: return NOWHERE;
	}
	/* 0 is "not assigned yet": nothing may answer over RAM and the system's own ports. */
	return on && base && range_fits(base, b->size, limit) ? base : NOWHERE;
}

static struct space *part_space(const struct pci_dev *pd, const struct pci_part *part)
{
	const struct pci_bus_config *cfg = &pci_bus_of(pd->bus)->cfg;
	return pd->bar[part->bar].kind == PCI_BAR_IO ? cfg->ports : cfg->memory;
}

static uint64_t part_wanted(const struct pci_dev *pd, const struct pci_part *part)
{
	uint64_t base = pci_bar_address(pd, part->bar);
	return base == NOWHERE ? NOWHERE : base + part->offset;
}

static void parts_map(struct pci_dev *pd)
{
	for (unsigned i = 0; i < pd->part_count; i++) {
		struct pci_part *part = &pd->part[i];
		uint64_t want = part_wanted(pd, part);
		if (part->region->mapped || want == NOWHERE)
			continue;
		if (space_map(part_space(pd, part), part->region, want))
			log_guest("%s: BAR %u does not fit at 0x%llx", pd->dev.id, part->bar,
				  (unsigned long long)want);
	}
}

void pci_bars_update(struct pci_dev *pd)
{
	_Bool freed = 0;
	for (unsigned i = 0; i < pd->part_count; i++) {
		struct pci_part *part = &pd->part[i];
		if (part->region->mapped && part->region->base != part_wanted(pd, part)) {
			space_unmap(part_space(pd, part), part->region);
			freed = 1;
		}
	}
	parts_map(pd);
	if (!freed)
		return;
	/* Somebody else's BAR may have been waiting for the place. Their command and address
	 * registers change under the bus's lock only, so that they can be looked at here. */
	struct pci_bus *bus = pci_bus_of(pd->bus);
	for (unsigned f = 0; f < PCI_FUNCTIONS; f++)
		if (bus->fn[f] && bus->fn[f] != pd)
			parts_map(bus->fn[f]);
}

void pci_bars_unmap(struct pci_dev *pd)
{
	for (unsigned i = 0; i < pd->part_count; i++)
		if (pd->part[i].region->mapped)
			space_unmap(part_space(pd, &pd->part[i]), pd->part[i].region);
}
