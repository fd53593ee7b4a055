/* firmware.c: puts the firmware's tables where operating systems look for them. */
#include "machine/firmware.h"

#include <errno.h>

#include "base/le.h"

/* In the last 64 KiB below 1 MiB, on the 16-byte boundaries that scans step by. */
#define AT_RSDP	   (BOARD_SMBIOS + 0x00)
#define AT_SMBIOS3 (BOARD_SMBIOS + 0x30)
#define AT_SMBIOS2 (BOARD_SMBIOS + 0x50)
#define AT_TABLE   (BOARD_SMBIOS + 0x100) /* SMBIOS structures */
#define AT_MP	   (BOARD_SMBIOS + 0x8000)

/* BIOS data area: segment of the extended BIOS data area, KiB of base memory. */
#define BDA_EBDA 0x40e
#define BDA_BASE 0x413

static int place(struct gmem *mem, uint64_t at, const void *data, size_t len, uint64_t end,
		 struct error *err)
{
	if (at + len > end)
		return error_set(err, -ENOSPC,
				 "the firmware tables of this VM do not fit below 1 MiB");
	if (gmem_load(mem, gpa(at), data, len))
		return error_set(err, -EFAULT, "there is no RAM for the firmware tables at 0x%llx",
				 (unsigned long long)at);
	return 0;
}

static int place_buf(struct gmem *mem, uint64_t at, const struct wbuf *buf, uint64_t end,
		     struct error *err)
{
	if (buf->failed)
		return error_set(err, -ENOMEM, "out of memory while making firmware tables");
	return place(mem, at, buf->data, buf->len, end, err);
}

static int load_acpi(struct gmem *mem, const struct board_layout *layout, struct error *err)
{
	struct wbuf buf;
	uint64_t xsdt, rsdt;
	uint8_t rsdp[ACPI_RSDP_SIZE];

	wbuf_init(&buf, BOARD_TABLES_END - BOARD_TABLES);
	acpi_build(layout, BOARD_TABLES, &buf, &xsdt, &rsdt);
	acpi_build_rsdp(xsdt, rsdt, rsdp);
	int rc = place_buf(mem, BOARD_TABLES, &buf, BOARD_TABLES_END, err);
	if (!rc)
		rc = place(mem, AT_RSDP, rsdp, sizeof(rsdp), AT_SMBIOS3, err);
	wbuf_fini(&buf);
	return rc;
}

static int load_smbios(struct gmem *mem, const struct board_layout *layout,
		       const struct firmware_ident *ident, struct error *err)
{
	struct wbuf buf;
	unsigned largest, count;
	uint8_t entry2[SMBIOS_ENTRY2_SIZE], entry3[SMBIOS_ENTRY3_SIZE];

	wbuf_init(&buf, AT_MP - AT_TABLE);
	smbios_build(layout, ident, &buf, &largest, &count);
	smbios_build_entry2(AT_TABLE, (unsigned)buf.len, largest, count, entry2);
	smbios_build_entry3(AT_TABLE, (unsigned)buf.len, entry3);
	int rc = place_buf(mem, AT_TABLE, &buf, AT_MP, err);
	if (!rc)
		rc = place(mem, AT_SMBIOS2, entry2, sizeof(entry2), AT_TABLE, err);
	if (!rc)
		rc = place(mem, AT_SMBIOS3, entry3, sizeof(entry3), AT_SMBIOS2, err);
	wbuf_fini(&buf);
	return rc;
}

static int load_mptable(struct gmem *mem, const struct board_layout *layout, struct error *err)
{
	struct wbuf buf;

	wbuf_init(&buf, BOARD_SMBIOS_END - AT_MP);
	mptable_build(layout, AT_MP, &buf);
	int rc = place_buf(mem, AT_MP, &buf, BOARD_SMBIOS_END, err);
	wbuf_fini(&buf);
	return rc;
}

/* What is left of a BIOS below 1 KiB, for those who look there for the end of base memory. */
static int load_bda(struct gmem *mem, struct error *err)
{
	uint8_t ebda[2], base[2], size = (BOARD_VGA - BOARD_EBDA) >> 10;

	store_le16(ebda, BOARD_EBDA >> 4);
	store_le16(base, BOARD_EBDA >> 10);
	int rc = place(mem, BDA_EBDA, ebda, sizeof(ebda), 0x500, err);
	if (!rc)
		rc = place(mem, BDA_BASE, base, sizeof(base), 0x500, err);
	if (!rc)
		rc = place(mem, BOARD_EBDA, &size, 1, BOARD_VGA, err);
	return rc;
}

int firmware_tables_load(struct gmem *mem, const struct board_layout *layout,
			 const struct firmware_ident *ident, uint64_t *rsdp, struct error *err)
{
	int rc = load_bda(mem, err);

	if (!rc)
		rc = load_acpi(mem, layout, err);
	if (!rc)
		rc = load_smbios(mem, layout, ident, err);
	if (!rc)
		rc = load_mptable(mem, layout, err);
	if (!rc)
		*rsdp = AT_RSDP;
	return rc;
}
