/* acpi_ssdt.c: the part of the ACPI namespace that differs between VMs, in AML (ACPI6.5 20). */
#include "machine/acpi_internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define AML_NAME       0x08
#define AML_BYTE       0x0a
#define AML_DWORD      0x0c
#define AML_BUFFER     0x11
#define AML_STRING     0x0d
#define AML_QWORD      0x0e
#define AML_SCOPE      0x10
#define AML_EXT	       0x5b
#define AML_EXT_DEVICE 0x82

/* One CPU's device takes 32 bytes, a memory-mapped virtio device 80. */
#define SCOPE_LIMIT (BOARD_MAX_CPUS * 32 + BOARD_VIRTIO_MMIO_MAX * 80 + 64)

/* Resource descriptors (ACPI6.5 6.4.3). */
#define RES_MEMORY32_FIXED 0x86
#define RES_INTERRUPT	   0x89
#define RES_END		   0x79
#define VIRTIO_CRS_SIZE	   23
#define VIRTIO_WINDOW_SIZE 0x200

/* Name (NAME, value) */
static void aml_name_int(struct wbuf *out, const char *name, uint64_t value)
{
	wbuf_u8(out, AML_NAME);
	wbuf_put(out, name, strlen(name));
	if (value <= UINT8_MAX) {
		wbuf_u8(out, AML_BYTE);
		wbuf_u8(out, (uint8_t)value);
	} else if (value <= UINT32_MAX) {
		wbuf_u8(out, AML_DWORD);
		wbuf_u32(out, (uint32_t)value);
	} else {
		wbuf_u8(out, AML_QWORD);
		wbuf_u64(out, value);
	}
}

static void aml_name_string(struct wbuf *out, const char *name, const char *value)
{
	wbuf_u8(out, AML_NAME);
	wbuf_put(out, name, strlen(name));
	wbuf_u8(out, AML_STRING);
	wbuf_put(out, value, strlen(value) + 1);
}

/* PkgLength counts its own bytes; two of them say up to 4095 (ACPI6.5 20.2.4). */
static void aml_package_length(struct wbuf *out, size_t content)
{
	size_t len = content + 1;

	if (len > 0x3f) {
		len++;
		assert(len <= 0xfff);
		wbuf_u8(out, (uint8_t)(0x40 | (len & 15)));
		wbuf_u8(out, (uint8_t)(len >> 4));
	} else {
		wbuf_u8(out, (uint8_t)len);
	}
}

static void aml_device(struct wbuf *out, const struct wbuf *body)
{
	wbuf_u8(out, AML_EXT);
	wbuf_u8(out, AML_EXT_DEVICE);
	aml_package_length(out, body->len);
	wbuf_put(out, body->data, body->len);
	out->failed |= body->failed;
}

/* Device (CPxx) { Name (_HID, "ACPI0007") Name (_UID, xx) }: the MADT ties the _UID to an APIC id.
 */
static void aml_processor(struct wbuf *out, unsigned cpu)
{
	char name[5];
	struct wbuf body;

	wbuf_init(&body, 64);
	snprintf(name, sizeof(name), "CP%02X", cpu & 0xff);
	wbuf_put(&body, name, 4);
	aml_name_string(&body, "_HID", "ACPI0007");
	aml_name_int(&body, "_UID", cpu);

	aml_device(out, &body);
	wbuf_fini(&body);
}

/* Device (VRxx) { _HID "LNRO0005", _UID xx, _CRS: the window and the interrupt, level-triggered,
 * active low and shared as the PCI lines on the same pins are }. */
static void aml_virtio(struct wbuf *out, unsigned index)
{
	char name[5];
	struct wbuf body;

	wbuf_init(&body, 96);
	snprintf(name, sizeof(name), "VR%02X", index & 0xff);
	wbuf_put(&body, name, 4);
	aml_name_string(&body, "_HID", "LNRO0005");
	aml_name_int(&body, "_UID", index);
	wbuf_u8(&body, AML_NAME);
	wbuf_put(&body, "_CRS", 4);
	wbuf_u8(&body, AML_BUFFER);
	aml_package_length(&body, 2 + VIRTIO_CRS_SIZE);
	wbuf_u8(&body, AML_BYTE);
	wbuf_u8(&body, VIRTIO_CRS_SIZE);
	wbuf_u8(&body, RES_MEMORY32_FIXED);
	wbuf_u16(&body, 9);
	wbuf_u8(&body, 1); /* read and write */
	wbuf_u32(&body, (uint32_t)board_virtio_base(index));
	wbuf_u32(&body, VIRTIO_WINDOW_SIZE);
	wbuf_u8(&body, RES_INTERRUPT);
	wbuf_u16(&body, 6);
	wbuf_u8(&body, 0x0d); /* consumer, level, low, shared */
	wbuf_u8(&body, 1);
	wbuf_u32(&body, board_virtio_gsi(index));
	wbuf_u8(&body, RES_END);
	wbuf_u8(&body, 0);
	aml_device(out, &body);
	wbuf_fini(&body);
}

void acpi_ssdt(const struct board_layout *l, struct wbuf *out)
{
	const struct {
		const char *name;
		uint64_t value;
	} facts[] = {
	    {"M32B", l->pci32_base},  {"M32L", l->pci32_size},
	    {"M64B", l->pci64_base},  {"M64L", l->pci64_size},
	    {"ECMB", l->ecam_base},   {"ECML", (uint64_t)l->ecam_buses << 20},
	    {"HPTB", l->hpet_base},   {"COMC", l->com_count},
	    {"KBDP", l->has_i8042},   {"FWCP", l->has_fw_cfg},
	    {"PVPP", l->has_pvpanic},
	};
	struct wbuf body;
	size_t start = acpi_begin(out, "SSDT", 2);

	for (unsigned i = 0; i < ARRAY_SIZE(facts); i++)
		aml_name_int(out, facts[i].name, facts[i].value);

	wbuf_init(&body, SCOPE_LIMIT);
	wbuf_put(&body, "\\_SB_", 5);
	for (unsigned i = 0; i < l->ncpus; i++)
		aml_processor(&body, i);
	for (unsigned i = 0; i < l->virtio_mmio; i++)
		aml_virtio(&body, i);
	wbuf_u8(out, AML_SCOPE);
	aml_package_length(out, body.len);
	wbuf_put(out, body.data, body.len);
	out->failed |= body.failed;
	wbuf_fini(&body);
	acpi_end(out, start);
}
