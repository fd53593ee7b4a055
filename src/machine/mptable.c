/* mptable.c: Intel MultiProcessor Specification 1.4 tables, for systems that do without ACPI. */
#include "machine/firmware.h"

#include <string.h>

#include "base/le.h"
#include "machine/acpi_internal.h"

#define FLOATING_SIZE 16
#define HEADER_SIZE   44

#define ENTRY_CPU    0
#define ENTRY_BUS    1
#define ENTRY_IOAPIC 2
#define ENTRY_IOINT  3
#define ENTRY_LINT   4
#define BUS_PCI	     0
#define BUS_ISA	     1
#define INT_VECTORED 0
#define INT_NMI	     1
#define INT_EXTINT   3
/* MPS 4.3.4: polarity in bits 1:0, trigger in bits 3:2. */
#define FLAGS_BUS	 0x0
#define FLAGS_LOW_LEVEL	 0xf
#define FLAGS_HIGH_LEVEL 0xd
#define ALL_APICS	 0xff
#define MAX_APIC_ID	 254

static void put_cpu(struct wbuf *out, unsigned id)
{
	wbuf_u8(out, ENTRY_CPU);
	wbuf_u8(out, (uint8_t)id);
	wbuf_u8(out, 0x14);		     /* version of the local APIC */
	wbuf_u8(out, id == 0 ? 0x03 : 0x01); /* enabled; the boot processor */
	wbuf_u32(out, 0x600);
	wbuf_u32(out, 0x201); /* FPU, APIC */
	wbuf_zero(out, 8);
}

static void put_bus(struct wbuf *out, unsigned id, const char type[7])
{
	wbuf_u8(out, ENTRY_BUS);
	wbuf_u8(out, (uint8_t)id);
	wbuf_put(out, type, 6);
}

static void put_interrupt(struct wbuf *out, uint8_t entry, uint8_t type, uint16_t flags,
			  uint8_t bus, unsigned irq, uint8_t apic, unsigned pin)
{
	wbuf_u8(out, entry);
	wbuf_u8(out, type);
	wbuf_u16(out, flags);
	wbuf_u8(out, bus);
	wbuf_u8(out, (uint8_t)irq);
	wbuf_u8(out, apic);
	wbuf_u8(out, (uint8_t)pin);
}

static void put_interrupts(const struct board_layout *l, struct wbuf *out)
{
	for (unsigned slot = 0; slot < 32; slot++)
		for (unsigned pin = 0; pin < 4; pin++)
			put_interrupt(out, ENTRY_IOINT, INT_VECTORED, FLAGS_LOW_LEVEL, BUS_PCI,
				      slot << 2 | pin, l->ioapic_id,
				      BOARD_INTX_GSI + board_intx_line(slot, pin));
	for (unsigned irq = 0; irq < 16; irq++) {
		/* 2 is the second PIC; the timer is on pin 2. */
		if (irq == 2)
			continue;
		put_interrupt(out, ENTRY_IOINT, INT_VECTORED,
			      irq == l->sci_irq ? FLAGS_HIGH_LEVEL : FLAGS_BUS, BUS_ISA, irq,
			      l->ioapic_id, irq == 0 ? 2 : irq);
	}
	put_interrupt(out, ENTRY_LINT, INT_EXTINT, FLAGS_BUS, BUS_ISA, 0, 0, 0);
	put_interrupt(out, ENTRY_LINT, INT_NMI, FLAGS_BUS, BUS_ISA, 0, ALL_APICS, 1);
}

void mptable_build(const struct board_layout *l, uint32_t base, struct wbuf *out)
{
	uint8_t floating[FLOATING_SIZE] = {0};
	unsigned cpus = MIN(l->ncpus, MAX_APIC_ID + 1u), entries;
	size_t header;

	/* MPS 4.1 */
	memcpy(floating, "_MP_", 4);
	store_le32(floating + 4, base + FLOATING_SIZE);
	floating[8] = 1;
	floating[9] = 4;
	floating[10] = table_checksum(floating, sizeof(floating));
	wbuf_put(out, floating, sizeof(floating));

	/* MPS 4.2 */
	header = out->len;
	wbuf_put(out, "PCMP", 4);
	wbuf_u16(out, 0);
	wbuf_u8(out, 4);
	wbuf_u8(out, 0);
	wbuf_put(out, "POLYVM  ", 8);
	wbuf_put(out, "Polyvisor VM", 12);
	wbuf_zero(out, 6);
	wbuf_u16(out, 0);
	wbuf_u32(out, (uint32_t)l->lapic_base);
	wbuf_u32(out, 0);

	for (unsigned id = 0; id < cpus; id++)
		put_cpu(out, id);
	put_bus(out, BUS_PCI, "PCI   ");
	put_bus(out, BUS_ISA, "ISA   ");
	wbuf_u8(out, ENTRY_IOAPIC);
	wbuf_u8(out, l->ioapic_id);
	wbuf_u8(out, 0x20);
	wbuf_u8(out, 1);
	wbuf_u32(out, (uint32_t)l->ioapic_base);
	put_interrupts(l, out);
	if (out->failed)
		return;

	size_t len = out->len - header;
	entries = cpus + 2 + 1 + (unsigned)(len - HEADER_SIZE - 20 * cpus - 2 * 8 - 8) / 8;
	uint8_t *h = out->data + header;
	store_le16(h + 4, (uint16_t)len);
	store_le16(h + 34, (uint16_t)entries);
	h[7] = table_checksum(h, len);
}
