/* firmware.h: the tables that firmware leaves for an operating system: ACPI, SMBIOS, MP. */
#ifndef MACHINE_FIRMWARE_H
#define MACHINE_FIRMWARE_H

#include "base/buf.h"
#include "machine/layout.h"
#include "mem/gmem.h"

/* What SMBIOS tells of this VM. */
struct firmware_ident {
	uint8_t uuid[16];	/* RFC 4122 byte order */
	const char *name;	/* VM's name, as the system's serial number; NULL for none */
	char cpu_brand[49];	/* CPUID 0x80000002..4; "" for unknown */
	uint32_t cpu_signature; /* CPUID 1, EAX and EDX */
	uint32_t cpu_features;
	unsigned cpu_mhz;
};

/* Writes all of them into RAM below 1 MiB where operating systems look for them, and gives the
 * RSDP's address. After every reset, before boot_load. Not for a VM that starts with firmware. */
NODISCARD int firmware_tables_load(struct gmem *mem, const struct board_layout *layout,
				   const struct firmware_ident *ident, uint64_t *rsdp,
				   struct error *err);

/* All ACPI tables but the RSDP in one blob whose pointers assume that it lies at `base` (64-byte
 * aligned); *xsdt and *rsdt are its root tables' addresses. */
void acpi_build(const struct board_layout *layout, uint64_t base, struct wbuf *out, uint64_t *xsdt,
		uint64_t *rsdt);
#define ACPI_RSDP_SIZE 36
void acpi_build_rsdp(uint64_t xsdt, uint64_t rsdt, uint8_t out[ACPI_RSDP_SIZE]);

/* The SMBIOS structure table; `largest` is the size of its largest structure, `count` how many. */
void smbios_build(const struct board_layout *layout, const struct firmware_ident *ident,
		  struct wbuf *out, unsigned *largest, unsigned *count);
#define SMBIOS_ENTRY2_SIZE 31
#define SMBIOS_ENTRY3_SIZE 24
void smbios_build_entry2(uint32_t table, unsigned len, unsigned largest, unsigned count,
			 uint8_t out[SMBIOS_ENTRY2_SIZE]);
void smbios_build_entry3(uint64_t table, unsigned len, uint8_t out[SMBIOS_ENTRY3_SIZE]);

/* MP configuration table and floating pointer (MPS 1.4), the pointer first; CPUs past 254 and other
 * things it has no words for are left out. */
void mptable_build(const struct board_layout *layout, uint32_t base, struct wbuf *out);

#endif
