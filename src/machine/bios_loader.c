/* bios_loader.c: the script by which firmware places and connects the ACPI tables. */
#include <assert.h>
#include <string.h>

#include "base/le.h"
#include "machine/acpi_internal.h"
#include "machine/bios.h"

/*
 * Each entry is a little-endian command, its arguments, and zeroes up to 128 bytes; file names take
 * 56 bytes. ALLOCATE: file, alignment, zone. ADD_POINTER: the file to patch, the file whose address
 * is added, offset, size. ADD_CHECKSUM: file, offset of the checksum, start and length of what it
 * is for.
 */
enum loader_command { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER = 2, LOADER_ADD_CHECKSUM = 3 };
enum loader_zone { LOADER_HIGH = 1, LOADER_FSEG = 2 };
#define LOADER_NAME 56

#define TABLES_FILE "etc/acpi/tables"
#define RSDP_FILE   "etc/acpi/rsdp"

static void entry_put(struct wbuf *out, enum loader_command command, const char *file,
		      const uint8_t *args, size_t len)
{
	uint8_t e[LOADER_ENTRY_SIZE] = {0};

	store_le32(e, command);
	memcpy(e + 4, file, strlen(file));
	memcpy(e + 4 + LOADER_NAME, args, len);
	wbuf_put(out, e, sizeof(e));
}

static void put_allocate(struct wbuf *out, const char *file, uint32_t align, enum loader_zone zone)
{
	uint8_t args[5];

	store_le32(args, align);
	args[4] = (uint8_t)zone;
	entry_put(out, LOADER_ALLOCATE, file, args, sizeof(args));
}

/* What is at `offset` of `file` points into the tables. */
static void put_pointer(struct wbuf *out, const char *file, size_t offset, unsigned size)
{
	uint8_t args[LOADER_NAME + 5] = TABLES_FILE;

	store_le32(args + LOADER_NAME, (uint32_t)offset);
	args[LOADER_NAME + 4] = (uint8_t)size;
	entry_put(out, LOADER_ADD_POINTER, file, args, sizeof(args));
}

static void put_checksum(struct wbuf *out, const char *file, size_t at, size_t start, size_t len)
{
	uint8_t args[12];

	store_le32(args, (uint32_t)at);
	store_le32(args + 4, (uint32_t)start);
	store_le32(args + 8, (uint32_t)len);
	entry_put(out, LOADER_ADD_CHECKSUM, file, args, sizeof(args));
}

/* The checksum of the table at `at`. */
static void put_table_checksum(struct wbuf *out, const uint8_t *tables, size_t at)
{
	put_checksum(out, TABLES_FILE, at + 9, at, load_le32(tables + at + 4));
}

/* RSDT or XSDT: all that follows the header is pointers. */
static void put_root(struct wbuf *out, const uint8_t *tables, size_t at, unsigned size)
{
	size_t len = load_le32(tables + at + 4);

	for (size_t off = ACPI_HEADER_SIZE; off < len; off += size)
		put_pointer(out, TABLES_FILE, at + off, size);
	put_table_checksum(out, tables, at);
}

/* FADT (ACPI6.5 5.2.9): FIRMWARE_CTRL, DSDT, X_DSDT. */
static void put_fadt(struct wbuf *out, const uint8_t *tables, size_t at)
{
	put_pointer(out, TABLES_FILE, at + 36, 4);
	put_pointer(out, TABLES_FILE, at + 40, 4);
	put_pointer(out, TABLES_FILE, at + 140, 8);
	put_table_checksum(out, tables, at);
}

void bios_table_loader(const uint8_t *tables, size_t len, uint64_t xsdt, uint64_t rsdt,
		       struct wbuf *out)
{
	size_t roots = load_le32(tables + xsdt + 4);

	assert(xsdt + roots <= len);
	put_allocate(out, RSDP_FILE, 16, LOADER_FSEG);
	put_allocate(out, TABLES_FILE, 64, LOADER_HIGH);
	for (size_t off = ACPI_HEADER_SIZE; off < roots; off += 8) {
		uint64_t at = load_le64(tables + xsdt + off);

		if (!memcmp(tables + at, "FACP", 4))
			put_fadt(out, tables, at);
	}
	put_root(out, tables, rsdt, 4);
	put_root(out, tables, xsdt, 8);
	/* ACPI6.5 5.2.5.3 */
	put_pointer(out, RSDP_FILE, 16, 4);
	put_pointer(out, RSDP_FILE, 24, 8);
	put_checksum(out, RSDP_FILE, 8, 0, 20);
	put_checksum(out, RSDP_FILE, 32, 0, ACPI_RSDP_SIZE);
}
