/* acpi_internal.h: what the files that make ACPI tables share. */
#ifndef MACHINE_ACPI_INTERNAL_H
#define MACHINE_ACPI_INTERNAL_H

#include "machine/firmware.h"

#define ACPI_HEADER_SIZE 36

/* Appends a table's header with length and checksum still zero and gives its offset; acpi_end fills
 * both in. */
size_t acpi_begin(struct wbuf *out, const char signature[5], uint8_t revision);
void acpi_end(struct wbuf *out, size_t start);

/* The SSDT that goes with acpi/dsdt.asl: the numbers it refers to, and the processors. */
void acpi_ssdt(const struct board_layout *layout, struct wbuf *out);

/* The byte that makes the sum of all bytes, itself included, zero. */
uint8_t table_checksum(const void *data, size_t len);

#endif
