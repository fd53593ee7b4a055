/* bios.c: BIOS firmware's ROM, shadow RAM, and the items that it reads from fw_cfg. */
#include "machine/bios.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/le.h"
#include "base/log.h"
#include "dev/pc/fw_cfg.h"
#include "dev/pci/mch.h"

#define ROM_END	   (UINT64_C(1) << 32)
#define ALIAS_BASE 0xe0000u /* of the ROM's last 128 KiB */
#define ALIAS_END  0x100000u

/* Where distributions install SeaBIOS for machines of this kind. */
static const char *const places[] = {
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/bios-256k.bin",
    "/usr/share/seabios/bios.bin",
};

/* ---- the image ---- */

static int find_bios(const char **path, struct error *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		if (!access(places[i], R_OK)) {
			*path = places[i];
			return 0;
		}
	}
	return error_set(err, -ENOENT,
			 "booting a disk needs BIOS firmware, and SeaBIOS is not installed: "
			 "apt-get install seabios (or name an image with --firmware FILE)");
}

static int check_size(const char *path, const struct stat *st, struct error *err)
{
	if (!S_ISREG(st->st_mode))
		return error_set(err, -EINVAL, "firmware '%s' is not a file", path);
	if (st->st_size < BIOS_MIN_SIZE || st->st_size > BIOS_MAX_SIZE ||
	    st->st_size % BIOS_MIN_SIZE)
		return error_set(err, -EINVAL,
				 "firmware '%s' has %lld bytes: a BIOS image is a multiple of 64 "
				 "KiB and at most 16 MiB",
				 path, (long long)st->st_size);
	return 0;
}

static int read_whole(int fd, const char *path, struct bios_rom *rom, struct error *err)
{
	for (uint32_t done = 0; done < rom->size;) {
		ssize_t n = pread(fd, rom->data + done, rom->size - done, done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_set(err, n ? -errno : -EIO, "cannot read firmware '%s': %s",
					 path, n ? strerror(errno) : "it ends early");
		done += (uint32_t)n;
	}
	return 0;
}

/* A CPU starts 16 bytes below the end: there is a jump, unless this is no BIOS. UEFI images begin
 * with a firmware volume's header (PI 1.7 volume 3, 3.2.1). */
static int check_content(const char *path, const struct bios_rom *rom, struct error *err)
{
	if (!memcmp(rom->data + 0x28, "_FVH", 4))
		return error_set(err, -EINVAL,
				 "firmware '%s' is UEFI; this machine starts with a BIOS so far, "
				 "such as SeaBIOS (--firmware bios)",
				 path);
	uint8_t first = rom->data[rom->size - 16];
	if (first == 0x00 || first == 0xff)
		return error_set(err, -EINVAL,
				 "firmware '%s' is no BIOS image: there is no code where a CPU "
				 "starts",
				 path);
	return 0;
}

int bios_open(struct bios_rom *rom, const char *name, struct error *err)
{
	const char *path = name;
	struct bios_rom image = {0};
	struct stat st;
	int rc = strcmp(name, "bios") ? 0 : find_bios(&path, err);

	if (rc)
		return rc;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return error_set(err, -errno, "cannot open firmware '%s': %s", path,
				 strerror(errno));
	rc = fstat(fd, &st)
		 ? error_set(err, -errno, "cannot look at firmware '%s': %s", path, strerror(errno))
		 : check_size(path, &st, err);
	if (!rc) {
		image.size = (uint32_t)st.st_size;
		image.data = malloc(image.size);
		rc = image.data ? read_whole(fd, path, &image, err)
				: error_set(err, -ENOMEM, "out of memory");
	}
	if (!rc)
		rc = check_content(path, &image, err);
	close(fd);
	if (rc)
		bios_close(&image);
	else
		*rom = image;
	return rc;
}

void bios_close(struct bios_rom *rom)
{
	free(rom->data);
	*rom = (struct bios_rom){0};
}

/* ---- guest memory ---- */

void bios_cuts(uint64_t cuts[BIOS_CUTS])
{
	for (unsigned s = 0; s < MCH_SHADOW_SEGMENTS; s++)
		cuts[s] = mch_shadow_base(s);
	cuts[MCH_SHADOW_SEGMENTS] = ALIAS_END;
}
_Static_assert(BIOS_CUTS == MCH_SHADOW_SEGMENTS + 1,
	       "a cut before each segment and after the last");

int bios_map(const struct bios_rom *rom, struct gmem *mem, struct error *err)
{
	uint64_t base = ROM_END - rom->size;
	int rc = gmem_add(mem, base, rom->size, GMEM_READONLY, err);

	if (!rc && gmem_load(mem, gpa(base), rom->data, rom->size))
		rc = error_set(err, -EFAULT, "there is no room for the firmware below 4 GiB");
	return rc;
}

/* Has a segment read as when it is not RAM. */
static int segment_load(const struct bios_rom *rom, struct gmem *mem, unsigned segment)
{
	uint64_t base = mch_shadow_base(segment), end = base + mch_shadow_size(segment);
	uint64_t from = MAX(ALIAS_BASE, ALIAS_END - MIN(rom->size, ALIAS_END - ALIAS_BASE));
	static const uint8_t nobody[4096] = {[0 ... 4095] = 0xff};
	int rc = 0;

	for (uint64_t at = base; !rc && at < end; at += sizeof(nobody))
		rc = gmem_load(mem, gpa(at),
			       at < from ? nobody : rom->data + rom->size - (ALIAS_END - at),
			       sizeof(nobody));
	return rc;
}

static int segment_protect(struct gmem *mem, unsigned segment, unsigned now)
{
	return gmem_protect(mem, gpa(mch_shadow_base(segment)),
			    now & MCH_SHADOW_WRITE ? 0 : GMEM_READONLY);
}

int bios_reset(const struct bios_rom *rom, struct gmem *mem, struct error *err)
{
	int rc = 0;

	for (unsigned s = 0; !rc && s < MCH_SHADOW_SEGMENTS; s++) {
		rc = segment_load(rom, mem, s);
		if (!rc)
			rc = segment_protect(mem, s, 0);
	}
	return rc ? error_set(err, rc, "cannot put the firmware below 1 MiB: %s", strerror(-rc))
		  : 0;
}

void bios_shadow(const struct bios_rom *rom, struct gmem *mem, unsigned segment, unsigned old,
		 unsigned now)
{
	int rc = 0;

	if ((old & MCH_SHADOW_READ) && !(now & MCH_SHADOW_READ))
		rc = segment_load(rom, mem, segment);
	if (!rc)
		rc = segment_protect(mem, segment, now);
	if (rc)
		log_guest("shadow RAM at 0x%llx cannot be switched: %s",
			  (unsigned long long)mch_shadow_base(segment), strerror(-rc));
}

/* ---- what it is told ---- */

#define SERIAL_PORT	 0x3f8 /* its console */
#define MENU_WAIT_MS	 5000
#define FAIL_WAIT_NEVER	 UINT32_MAX /* after "No bootable device." it stays, and does not reboot */
#define MAX_TABLES	 (128u << 10)
#define SMBIOS_MAX_BYTES (64u << 10)

static int file_number(struct device *fw, const char *name, uint64_t value, size_t size,
		       struct error *err)
{
	uint8_t b[8];

	store_le64(b, value);
	return fw_cfg_file(fw, name, b, size, 0, err);
}

static int file_buf(struct device *fw, const char *name, const struct wbuf *buf, struct error *err)
{
	if (buf->failed)
		return error_set(err, -ENOMEM, "out of memory while making firmware tables");
	return fw_cfg_file(fw, name, buf->data, buf->len, 0, err);
}

/* RAM only: the firmware itself adds what it reserves. */
static int tell_memory(struct device *fw, const struct board_layout *l, struct error *err)
{
	uint8_t map[40];

	store_le64(map, 0);
	store_le64(map + 8, l->ram_low_end);
	store_le32(map + 16, E820_RAM);
	store_le64(map + 20, l->ram_high_base);
	store_le64(map + 28, l->ram_high_size);
	store_le32(map + 36, E820_RAM);
	return fw_cfg_file(fw, "etc/e820", map, l->ram_high_size ? 40 : 20, 0, err);
}

static int tell_acpi(struct device *fw, const struct board_layout *l, struct error *err)
{
	uint8_t rsdp[ACPI_RSDP_SIZE];
	struct wbuf tables, script;
	uint64_t xsdt, rsdt;

	wbuf_init(&tables, MAX_TABLES);
	wbuf_init(&script, 64 * LOADER_ENTRY_SIZE);
	acpi_build(l, 0, &tables, &xsdt, &rsdt);
	acpi_build_rsdp(xsdt, rsdt, rsdp);
	if (!tables.failed)
		bios_table_loader(tables.data, tables.len, xsdt, rsdt, &script);
	int rc = file_buf(fw, "etc/acpi/tables", &tables, err);
	if (!rc)
		rc = fw_cfg_file(fw, "etc/acpi/rsdp", rsdp, sizeof(rsdp), 0, err);
	if (!rc)
		rc = file_buf(fw, "etc/table-loader", &script, err);
	wbuf_fini(&tables);
	wbuf_fini(&script);
	return rc;
}

static int tell_smbios(struct device *fw, const struct bios_items *items, struct error *err)
{
	uint8_t anchor[SMBIOS_ENTRY2_SIZE];
	unsigned largest, count;
	struct wbuf tables;

	wbuf_init(&tables, SMBIOS_MAX_BYTES);
	smbios_build(items->layout, items->ident, &tables, &largest, &count);
	smbios_build_entry2(0, (unsigned)tables.len, largest, count, anchor);
	int rc = file_buf(fw, "etc/smbios/smbios-tables", &tables, err);
	if (!rc)
		rc = fw_cfg_file(fw, "etc/smbios/smbios-anchor", anchor, sizeof(anchor), 0, err);
	wbuf_fini(&tables);
	return rc;
}

static int tell_boot(struct device *fw, const struct bios_items *items, struct error *err)
{
	/* Of S0 to S5, which there are (bit 7): S0 and S5. */
	static const uint8_t states[6] = {0x80, 0, 0, 1, 0, 0x80};
	int rc = fw_cfg_file(fw, "etc/system-states", states, sizeof(states), 0, err);

	if (!rc)
		rc = file_number(fw, "etc/sercon-port", SERIAL_PORT, 2, err);
	if (!rc)
		rc = file_number(fw, "etc/boot-fail-wait", FAIL_WAIT_NEVER, 4, err);
	if (!rc)
		rc = fw_cfg_u16(fw, FW_CFG_BOOT_MENU, items->boot_menu, err);
	if (!rc && items->boot_menu)
		rc = file_number(fw, "etc/boot-menu-wait", MENU_WAIT_MS, 4, err);
	if (!rc && items->boot_order)
		rc = fw_cfg_file(fw, "bootorder", items->boot_order, strlen(items->boot_order) + 1,
				 0, err);
	return rc;
}

int bios_tell(struct device *fw, const struct bios_items *items, struct error *err)
{
	static const uint8_t irq0_override = 1; /* the timer is on IOAPIC input 2 */
	int rc = fw_cfg_item(fw, FW_CFG_IRQ0_OVERRIDE, &irq0_override, 1, 0, err);

	if (!rc)
		rc = tell_memory(fw, items->layout, err);
	if (!rc)
		rc = tell_acpi(fw, items->layout, err);
	if (!rc)
		rc = tell_smbios(fw, items, err);
	if (!rc)
		rc = tell_boot(fw, items, err);
	return rc;
}
