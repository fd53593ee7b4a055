/* layout.c: places RAM and device windows, and describes them as firmware would. */
#include "machine/layout.h"

#include <assert.h>
#include <errno.h>

int board_layout_init(struct board_layout *layout, uint64_t ram_bytes, unsigned ncpus,
		      unsigned phys_bits, struct error *err)
{
	if (ncpus < 1 || ncpus > BOARD_MAX_CPUS)
		return error_set(err, -EINVAL, "%u CPUs: a VM has 1 to %d", ncpus, BOARD_MAX_CPUS);
	if (ram_bytes % 4096)
		return error_set(err, -EINVAL, "%llu bytes of RAM is not a whole number of pages",
				 (unsigned long long)ram_bytes);
	if (ram_bytes < BOARD_MIN_RAM || ram_bytes > BOARD_MAX_RAM)
		return error_set(err, -EINVAL,
				 "%llu MiB of RAM: a VM has at least %llu MiB and at most %llu GiB",
				 (unsigned long long)(ram_bytes >> 20),
				 (unsigned long long)(BOARD_MIN_RAM >> 20),
				 (unsigned long long)(BOARD_MAX_RAM >> 30));

	struct board_layout l = {
	    .ram_bytes = ram_bytes,
	    .ram_low_end = MIN(ram_bytes, BOARD_LOW_LIMIT),
	    .ram_high_base = BOARD_HIGH_BASE,
	    .ram_high_size = ram_bytes - MIN(ram_bytes, BOARD_LOW_LIMIT),
	    .pci32_base = UINT64_C(0xc0000000),
	    .pci32_size = UINT64_C(0xfec00000) - UINT64_C(0xc0000000),
	    .pci64_size = BOARD_PCI64_SIZE,
	    .ecam_base = BOARD_LOW_LIMIT,
	    .ecam_buses = 256,
	    .ioapic_base = 0xfec00000,
	    .lapic_base = 0xfee00000,
	    .hpet_base = 0xfed00000,
	    .pm_base = 0x600,
	    .sci_irq = 9,
	    .ioapic_id = 0, /* the register's reset value */
	    .ncpus = ncpus,
	    .phys_bits = phys_bits,
	    .com_port = {0x3f8, 0x2f8, 0x3e8, 0x2e8},
	    .com_irq = {4, 3, 4, 3},
	    .com_count = 1,
	    .has_fw_cfg = 1,
	    .has_pvpanic = 1,
	};
	l.pci64_base = ALIGN_UP(l.ram_high_base + l.ram_high_size, BOARD_PCI64_SIZE);

	if (phys_bits < 64 && l.pci64_base + l.pci64_size > BIT64(phys_bits))
		return error_set(err, -EINVAL,
				 "%llu GiB of RAM do not fit into the %u address bits of this "
				 "host's CPU together with 64 GiB for devices",
				 (unsigned long long)(ram_bytes >> 30), phys_bits);
	*layout = l;
	return 0;
}

static void map_add(struct e820_map *map, uint64_t base, uint64_t end, enum e820_type type)
{
	if (base >= end)
		return;
	assert(map->count < E820_MAX);
	map->entry[map->count++] = (struct e820_entry){base, end - base, type};
}

void board_e820(const struct board_layout *layout, struct e820_map *map)
{
	map->count = 0;
	map_add(map, 0, BOARD_EBDA, E820_RAM);
	map_add(map, BOARD_EBDA, BOARD_VGA, E820_RESERVED);
	map_add(map, BOARD_TABLES, BOARD_SMBIOS_END, E820_RESERVED);
	map_add(map, BOARD_SMBIOS_END, layout->ram_low_end, E820_RAM);
	/* Linux uses ECAM only when the map or ACPI reserves it. */
	map_add(map, layout->ecam_base, layout->ecam_base + ((uint64_t)layout->ecam_buses << 20),
		E820_RESERVED);
	map_add(map, layout->ioapic_base, layout->ioapic_base + 4096, E820_RESERVED);
	if (layout->hpet_base)
		map_add(map, layout->hpet_base, layout->hpet_base + 4096, E820_RESERVED);
	map_add(map, layout->lapic_base, layout->lapic_base + 4096, E820_RESERVED);
	map_add(map, 0xff000000, BOARD_HIGH_BASE, E820_RESERVED);
	map_add(map, layout->ram_high_base, layout->ram_high_base + layout->ram_high_size,
		E820_RAM);
}
