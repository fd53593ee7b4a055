/* layout.h: where everything is on the board: RAM, holes, device windows, interrupt numbers. */
#ifndef MACHINE_LAYOUT_H
#define MACHINE_LAYOUT_H

#include "base/error.h"

/*
 * The map, from below:
 *   0x00000000  RAM up to ram_low_end (at most BOARD_LOW_LIMIT)
 *   0x000a0000  .. 0x000bffff  legacy video window: the E820 map leaves it out
 *   0x000e0000  .. 0x000fffff  ACPI, SMBIOS and MP tables when there is no firmware
 *   0xb0000000  ECAM, 256 buses
 *   0xc0000000  32-bit PCI window, up to the IOAPIC
 *   0xfec00000  IOAPIC;  0xfed00000 HPET;  0xfee00000 local APICs;  0xff000000 firmware
 *   4 GiB       the rest of RAM, then (aligned to its size, so that one MTRR covers it) the
 *               64-bit PCI window
 *
 * Low RAM ends as late as a full ECAM window allows (2.75 GiB), because guests that use neither PAE
 * nor 64 bits see no other.
 */
#define BOARD_LOW_LIMIT	 UINT64_C(0xb0000000)
#define BOARD_HIGH_BASE	 UINT64_C(0x100000000)
#define BOARD_MIN_RAM	 (UINT64_C(2) << 20)
#define BOARD_MAX_RAM	 (UINT64_C(1) << 40)
#define BOARD_PCI64_SIZE (UINT64_C(64) << 30)
#define BOARD_MAX_CPUS	 64

/* Below 1 MiB. */
#define BOARD_EBDA	 0x9fc00u
#define BOARD_VGA	 0xa0000u
#define BOARD_TABLES	 0xe0000u /* ACPI tables, then the MP table */
#define BOARD_TABLES_END 0xf0000u
#define BOARD_SMBIOS	 0xf0000u /* SMBIOS tables, RSDP, entry points: where scans look */
#define BOARD_SMBIOS_END 0x100000u

/* Ports. */
#define BOARD_PORT_SMI_CMD 0xb2
#define BOARD_PORT_RESET   0xcf9
#define BOARD_RESET_VALUE  6
#define BOARD_PORT_PVPANIC 0x505
#define BOARD_PORT_FW_CFG  0x510

/* ACPI power management block: offsets from pm_base (ACPI6.5 4.8). */
#define BOARD_PM1_EVT	   0x00 /* 4 bytes: status, enable */
#define BOARD_PM1_CNT	   0x04 /* 2 bytes */
#define BOARD_PM_TMR	   0x08 /* 4 bytes, 32 bits count */
#define BOARD_GPE0	   0x20 /* status, then enable: 8 bytes each */
#define BOARD_GPE0_LEN	   16
#define BOARD_PM_SIZE	   0x80
#define BOARD_ACPI_ENABLE  0xa0 /* written to the SMI command port */
#define BOARD_ACPI_DISABLE 0xa1
#define BOARD_SLP_TYP_S5   5 /* \_S5's SLP_TYPa */

/* PCI INTx: four pins of 32 slots on eight lines, IOAPIC pins 16 to 23; with the PIC, on two of its
 * inputs. */
#define BOARD_INTX_LINES 8
#define BOARD_INTX_GSI	 16

/* Memory-mapped virtio devices: a page each from here on, between IOAPIC and HPET; they share the
 * IOAPIC pins of the INTx lines. */
#define BOARD_VIRTIO_MMIO     UINT64_C(0xfec10000)
#define BOARD_VIRTIO_MMIO_MAX 16
static inline uint64_t board_virtio_base(unsigned index)
{
	return BOARD_VIRTIO_MMIO + index * UINT64_C(0x1000);
}
static inline unsigned board_virtio_gsi(unsigned index)
{
	return BOARD_INTX_GSI + index % BOARD_INTX_LINES;
}

struct board_layout {
	uint64_t ram_bytes;
	uint64_t ram_low_end;
	uint64_t ram_high_base, ram_high_size; /* size 0: none */
	uint64_t pci32_base, pci32_size;
	uint64_t pci64_base, pci64_size;
	uint64_t ecam_base;
	unsigned ecam_buses;
	uint64_t ioapic_base;
	uint64_t lapic_base;
	uint64_t hpet_base; /* 0: no HPET */
	uint16_t pm_base;
	uint8_t ioapic_id;
	uint8_t sci_irq;
	unsigned ncpus;	    /* APIC id of CPU n is n */
	unsigned phys_bits; /* MAXPHYADDR that the guest sees */
	uint16_t com_port[4];
	uint8_t com_irq[4];
	unsigned com_count;
	unsigned virtio_mmio; /* how many there are; set by whoever adds them */
	_Bool has_i8042;      /* keyboard and mouse are there, not only the reset line */
	_Bool has_fw_cfg, has_pvpanic;
};

/* Fills a layout for so much RAM (a multiple of 4 KiB) and so many CPUs: COM1, HPET, fw_cfg and
 * pvpanic present, no keyboard. -EINVAL with a sentence when it is too much or too little. */
NODISCARD int board_layout_init(struct board_layout *layout, uint64_t ram_bytes, unsigned ncpus,
				unsigned phys_bits, struct error *err);

/* INTx line (0 to 7) of a slot's pin (0 = INTA#) on bus 0; add BOARD_INTX_GSI for the GSI. */
static inline unsigned board_intx_line(unsigned slot, unsigned pin)
{
	return (slot + pin) % BOARD_INTX_LINES;
}
/* The PIC input of an INTx line: level-triggered; 10, 10, 11, 11 and again, which is how firmware
 * for this chipset routes them. */
static inline unsigned board_intx_pic(unsigned line)
{
	return 10 + (line >> 1 & 1);
}

/* The memory map as firmware reports it (ACPI6.5 15). Sorted, without overlaps. */
enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };
struct e820_entry {
	uint64_t base, size;
	enum e820_type type;
};
#define E820_MAX 16
struct e820_map {
	struct e820_entry entry[E820_MAX];
	unsigned count;
};
void board_e820(const struct board_layout *layout, struct e820_map *map);

#endif
