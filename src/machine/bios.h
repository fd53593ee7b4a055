/* bios.h: BIOS firmware: its ROM, the shadow RAM under 1 MiB, and what it is told. */
#ifndef MACHINE_BIOS_H
#define MACHINE_BIOS_H

#include "bus/device.h"
#include "machine/firmware.h"

#define BIOS_MIN_SIZE (UINT32_C(64) << 10)
#define BIOS_MAX_SIZE (UINT32_C(16) << 20)

/* A firmware image. It ends at 4 GiB, and its last 128 KiB are seen at 0xe0000 as well until the
 * firmware switches shadow RAM on. All zeroes: none. */
struct bios_rom {
	uint8_t *data;
	uint32_t size;
};

/* Reads the image: a file, or "bios" for the SeaBIOS that the system has installed. -ENOENT,
 * -EACCES, -EINVAL, ... with a sentence. */
NODISCARD int bios_open(struct bios_rom *rom, const char *name, struct error *err);
void bios_close(struct bios_rom *rom);

/* Where gmem_new must cut low RAM so that bios_shadow can protect its segments. */
#define BIOS_CUTS 14
void bios_cuts(uint64_t cuts[BIOS_CUTS]);

/* Puts the ROM into guest memory, once, at set-up. */
NODISCARD int bios_map(const struct bios_rom *rom, struct gmem *mem, struct error *err);

/* What is at 0xc0000 to 0xfffff after a reset: the ROM's end, read-only, and nobody below it. */
NODISCARD int bios_reset(const struct bios_rom *rom, struct gmem *mem, struct error *err);

/*
 * mch_config.shadow's work. The segments are RAM slots that hold what a read shall see. Reads
 * switched from RAM to ROM: the ROM's bytes are copied there, and what the RAM held is lost. Writes
 * switched on while reads come from ROM: they land on that copy and are seen at once.
 */
void bios_shadow(const struct bios_rom *rom, struct gmem *mem, unsigned segment, unsigned old,
		 unsigned now);

/* What the firmware asks the host for. */
struct bios_items {
	const struct board_layout *layout;
	const struct firmware_ident *ident;
	_Bool boot_menu;
	/* Which disks to boot from, in this order: lines of Open Firmware paths; NULL: the
	 * firmware's own order. */
	const char *boot_order;
};
NODISCARD int bios_tell(struct device *fw_cfg, const struct bios_items *items, struct error *err);

/* The script that has firmware place the ACPI tables of acpi_build, made for base 0, and connect
 * them. */
#define LOADER_ENTRY_SIZE 128
void bios_table_loader(const uint8_t *tables, size_t len, uint64_t xsdt, uint64_t rsdt,
		       struct wbuf *out);

#endif
