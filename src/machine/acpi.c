/* acpi.c: the fixed ACPI tables (ACPI 6.5 chapter 5) for the board's layout, around the compiled
 * DSDT. */
#include "machine/acpi_internal.h"

#include <string.h>

#include "base/le.h"
#include "machine/dsdt_aml.h"

/* What hpet.h says of the device (IA-PC HPET 1.0a 3.2.4). */
#define HPET_BLOCK_ID 0x8086a201u
#define HPET_MIN_TICK 0x80u

#define MADT_LAPIC	0
#define MADT_IOAPIC	1
#define MADT_OVERRIDE	2
#define MADT_LAPIC_NMI	4
#define MADT_X2APIC	9
#define MADT_X2APIC_NMI 10
#define XAPIC_MAX_ID	254
/* Flags of interrupt overrides (ACPI6.5 5.2.12.5): active high, level-triggered. */
#define INTI_HIGH_LEVEL 0x000d

#define GAS_SIZE 12
#define GAS_IO	 1

uint8_t table_checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	return (uint8_t)-sum;
}

size_t acpi_begin(struct wbuf *out, const char signature[5], uint8_t revision)
{
	size_t start = out->len;

	wbuf_put(out, signature, 4);
	wbuf_u32(out, 0);
	wbuf_u8(out, revision);
	wbuf_u8(out, 0);
	wbuf_put(out, "POLYVM", 6);
	wbuf_put(out, "POLY", 4);
	wbuf_put(out, signature, 4);
	wbuf_u32(out, 1);
	wbuf_put(out, "POLY", 4);
	wbuf_u32(out, 1);
	return start;
}

void acpi_end(struct wbuf *out, size_t start)
{
	if (out->failed)
		return;
	uint8_t *table = out->data + start;
	size_t len = out->len - start;
	store_le32(table + 4, (uint32_t)len);
	table[9] = 0;
	table[9] = table_checksum(table, len);
}

/* FACS: 64 bytes, 64-byte aligned, no checksum (ACPI6.5 5.2.10). */
static void build_facs(struct wbuf *out)
{
	wbuf_put(out, "FACS", 4);
	wbuf_u32(out, 64);
	wbuf_zero(out, 24);
	wbuf_u8(out, 2);
	wbuf_zero(out, 31);
}

/* ACPI6.5 5.2.3.2. access: 1 byte, 2 word, 3 double word. */
static void gas_io(uint8_t *gas, uint16_t port, unsigned bits, unsigned access)
{
	if (!port)
		return;
	gas[0] = GAS_IO;
	gas[1] = (uint8_t)bits;
	gas[3] = (uint8_t)access;
	store_le64(gas + 4, port);
}

/* ACPI6.5 5.2.9, revision 6. Offsets are from the table's start. */
static void build_fadt(const struct board_layout *l, struct wbuf *out, uint64_t facs, uint64_t dsdt)
{
	uint8_t f[276] = {0};
	size_t start = acpi_begin(out, "FACP", 6);
	uint16_t pm = l->pm_base;

	store_le32(f + 36, (uint32_t)facs);
	store_le32(f + 40, (uint32_t)dsdt);
	store_le16(f + 46, l->sci_irq);
	store_le32(f + 48, BOARD_PORT_SMI_CMD);
	f[52] = BOARD_ACPI_ENABLE;
	f[53] = BOARD_ACPI_DISABLE;
	store_le32(f + 56, pm + BOARD_PM1_EVT);
	store_le32(f + 64, pm + BOARD_PM1_CNT);
	store_le32(f + 76, pm + BOARD_PM_TMR);
	store_le32(f + 80, pm + BOARD_GPE0);
	f[88] = 4;
	f[89] = 2;
	f[91] = 4;
	f[92] = BOARD_GPE0_LEN;
	store_le16(f + 96, 0xfff); /* no C2 */
	store_le16(f + 98, 0xfff); /* no C3 */
	f[108] = 0x32;		   /* century, in CMOS */
	/* Legacy devices; keyboard controller if there is one; no VGA. */
	store_le16(f + 109, (uint16_t)(BIT32(0) | (l->has_i8042 ? BIT32(1) : 0) | BIT32(2)));
	/* WBINVD works; C1 on all; no sleep button; no RTC wake status; 32-bit timer; reset
	 * register; no display or keyboard. The power button is the fixed one. */
	store_le32(f + 112, BIT32(0) | BIT32(2) | BIT32(5) | BIT32(6) | BIT32(8) | BIT32(10) |
				(l->has_i8042 ? 0 : BIT32(12)));
	gas_io(f + 116, BOARD_PORT_RESET, 8, 1);
	f[128] = BOARD_RESET_VALUE;
	store_le64(f + 140, dsdt);
	gas_io(f + 148, (uint16_t)(pm + BOARD_PM1_EVT), 32, 2);
	gas_io(f + 172, (uint16_t)(pm + BOARD_PM1_CNT), 16, 2);
	gas_io(f + 208, (uint16_t)(pm + BOARD_PM_TMR), 32, 3);
	gas_io(f + 220, (uint16_t)(pm + BOARD_GPE0), BOARD_GPE0_LEN * 8, 1);
	memcpy(f + 268, "POLYVISR", 8); /* hypervisor vendor */
	wbuf_put(out, f + ACPI_HEADER_SIZE, sizeof(f) - ACPI_HEADER_SIZE);
	acpi_end(out, start);
}

static void madt_override(struct wbuf *out, uint8_t source, uint32_t gsi, uint16_t flags)
{
	wbuf_u8(out, MADT_OVERRIDE);
	wbuf_u8(out, 10);
	wbuf_u8(out, 0);
	wbuf_u8(out, source);
	wbuf_u32(out, gsi);
	wbuf_u16(out, flags);
}

/* ACPI6.5 5.2.12 */
static void build_madt(const struct board_layout *l, struct wbuf *out)
{
	size_t start = acpi_begin(out, "APIC", 5);

	wbuf_u32(out, (uint32_t)l->lapic_base);
	wbuf_u32(out, 1); /* there are two 8259s as well */
	for (unsigned id = 0; id < l->ncpus; id++) {
		if (id <= XAPIC_MAX_ID) {
			wbuf_u8(out, MADT_LAPIC);
			wbuf_u8(out, 8);
			wbuf_u8(out, (uint8_t)id);
			wbuf_u8(out, (uint8_t)id);
			wbuf_u32(out, 1);
		} else {
			wbuf_u8(out, MADT_X2APIC);
			wbuf_u8(out, 16);
			wbuf_u16(out, 0);
			wbuf_u32(out, id);
			wbuf_u32(out, 1);
			wbuf_u32(out, id);
		}
	}
	wbuf_u8(out, MADT_IOAPIC);
	wbuf_u8(out, 12);
	wbuf_u8(out, l->ioapic_id);
	wbuf_u8(out, 0);
	wbuf_u32(out, (uint32_t)l->ioapic_base);
	wbuf_u32(out, 0);
	madt_override(out, 0, 2, 0);
	madt_override(out, l->sci_irq, l->sci_irq, INTI_HIGH_LEVEL);

	/* LINT1 is NMI on all. */
	wbuf_u8(out, MADT_LAPIC_NMI);
	wbuf_u8(out, 6);
	wbuf_u8(out, 0xff);
	wbuf_u16(out, 0);
	wbuf_u8(out, 1);
	if (l->ncpus > XAPIC_MAX_ID + 1) {
		wbuf_u8(out, MADT_X2APIC_NMI);
		wbuf_u8(out, 12);
		wbuf_u16(out, 0);
		wbuf_u32(out, UINT32_MAX);
		wbuf_u8(out, 1);
		wbuf_zero(out, 3);
	}
	acpi_end(out, start);
}

/* PCI firmware specification 4.1.2 */
static void build_mcfg(const struct board_layout *l, struct wbuf *out)
{
	size_t start = acpi_begin(out, "MCFG", 1);

	wbuf_zero(out, 8);
	wbuf_u64(out, l->ecam_base);
	wbuf_u16(out, 0);
	wbuf_u8(out, 0);
	wbuf_u8(out, (uint8_t)(l->ecam_buses - 1));
	wbuf_u32(out, 0);
	acpi_end(out, start);
}

/* IA-PC HPET 1.0a 3.2.4 */
static void build_hpet(const struct board_layout *l, struct wbuf *out)
{
	size_t start = acpi_begin(out, "HPET", 1);

	wbuf_u32(out, HPET_BLOCK_ID);
	wbuf_zero(out, 4); /* memory space, and the address */
	wbuf_u64(out, l->hpet_base);
	wbuf_u8(out, 0);
	wbuf_u16(out, HPET_MIN_TICK);
	wbuf_u8(out, 0);
	acpi_end(out, start);
}

/* Windows ACPI emulated devices table: RTC and PM timer need no work-arounds. */
static void build_waet(struct wbuf *out)
{
	size_t start = acpi_begin(out, "WAET", 1);

	wbuf_u32(out, 3);
	acpi_end(out, start);
}

#define MAX_ROOT 8
struct roots {
	uint64_t addr[MAX_ROOT];
	unsigned count;
};

static void root_table(struct wbuf *out, const struct roots *roots, _Bool wide)
{
	size_t start = acpi_begin(out, wide ? "XSDT" : "RSDT", 1);

	for (unsigned i = 0; i < roots->count; i++) {
		if (wide)
			wbuf_u64(out, roots->addr[i]);
		else
			wbuf_u32(out, (uint32_t)roots->addr[i]);
	}
	acpi_end(out, start);
}

/* The address of the next table, 16-byte aligned. */
static uint64_t next_table(struct wbuf *out, uint64_t base)
{
	wbuf_zero(out, ALIGN_UP(out->len, 16) - out->len);
	return base + out->len;
}

void acpi_build(const struct board_layout *layout, uint64_t base, struct wbuf *out, uint64_t *xsdt,
		uint64_t *rsdt)
{
	struct roots roots = {0};
	uint64_t facs = base + out->len;

	build_facs(out);
	uint64_t dsdt = next_table(out, base);
	wbuf_put(out, dsdt_aml, sizeof(dsdt_aml));
	roots.addr[roots.count++] = next_table(out, base);
	build_fadt(layout, out, facs, dsdt);
	roots.addr[roots.count++] = next_table(out, base);
	acpi_ssdt(layout, out);
	roots.addr[roots.count++] = next_table(out, base);
	build_madt(layout, out);
	roots.addr[roots.count++] = next_table(out, base);
	build_mcfg(layout, out);
	if (layout->hpet_base) {
		roots.addr[roots.count++] = next_table(out, base);
		build_hpet(layout, out);
	}
	roots.addr[roots.count++] = next_table(out, base);
	build_waet(out);
	*rsdt = next_table(out, base);
	root_table(out, &roots, 0);
	*xsdt = next_table(out, base);
	root_table(out, &roots, 1);
}

/* ACPI6.5 5.2.5.3 */
void acpi_build_rsdp(uint64_t xsdt, uint64_t rsdt, uint8_t out[ACPI_RSDP_SIZE])
{
	memset(out, 0, ACPI_RSDP_SIZE);
	memcpy(out, "RSD PTR ", 8);
	memcpy(out + 9, "POLYVM", 6);
	out[15] = 2;
	store_le32(out + 16, (uint32_t)rsdt);
	store_le32(out + 20, ACPI_RSDP_SIZE);
	store_le64(out + 24, xsdt);
	out[8] = table_checksum(out, 20);
	out[32] = table_checksum(out, ACPI_RSDP_SIZE);
}
