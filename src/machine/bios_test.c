/* bios_test.c: tests of firmware images, shadow RAM, and of what firmware is told. */
#include "machine/loader_testing.h"

#include <errno.h>

#include "bus/testing.h"
#include "dev/pc/fw_cfg.h"
#include "dev/pci/mch.h"
#include "machine/acpi_internal.h"
#include "machine/bios.h"

#define MIB (UINT64_C(1) << 20)

/* An image whose every byte tells where it is. */
static struct bios_rom rom_make(uint32_t size)
{
	struct bios_rom rom = {.data = malloc(size), .size = size};

	assert_non_null(rom.data);
	for (uint32_t i = 0; i < size; i++)
		rom.data[i] = (uint8_t)((i >> 12) * 7 + i + 1);
	rom.data[size - 16] = 0xea;
	return rom;
}

static struct gmem *memory_make(const struct bios_rom *rom)
{
	uint64_t cuts[BIOS_CUTS];
	const struct gmem_config cfg = {.ram_bytes = 4 * MIB,
					.low_limit = BOARD_LOW_LIMIT,
					.cuts = cuts,
					.cut_count = BIOS_CUTS};
	struct gmem *mem;

	bios_cuts(cuts);
	assert_int_equal(gmem_new(&mem, &cfg, NULL), 0);
	assert_int_equal(bios_map(rom, mem, NULL), 0);
	assert_int_equal(bios_reset(rom, mem, NULL), 0);
	return mem;
}

static uint8_t byte_at(struct gmem *mem, uint64_t at)
{
	uint8_t b;

	assert_int_equal(gmem_read(mem, gpa(at), &b, 1), 0);
	return b;
}

static void the_rom_ends_at_4_gib_and_its_end_is_seen_below_1_mib(void **state)
{
	struct bios_rom rom = rom_make(256 << 10);
	struct gmem *mem = memory_make(&rom);

	assert_int_equal(byte_at(mem, 0xfffffff0), 0xea);
	assert_int_equal(byte_at(mem, 0xfffc0000), rom.data[0]);
	assert_int_equal(byte_at(mem, 0xffff0), 0xea);
	for (uint64_t at = 0xe0000; at < 0x100000; at += 511)
		assert_int_equal(byte_at(mem, at), byte_at(mem, at + 0xfff00000));
	assert_int_equal(byte_at(mem, 0xc0000), 0xff);
	assert_int_equal(byte_at(mem, 0xdffff), 0xff);
	assert_int_equal(gmem_write(mem, gpa(0xbffff), "x", 1), 0);
	assert_int_equal(gmem_write(mem, gpa(0x100000), "x", 1), 0);
	for (uint64_t at = 0xc0000; at < 0x100000; at += 0x4000)
		assert_int_equal(gmem_write(mem, gpa(at), "x", 1), -EFAULT);
	assert_int_equal(gmem_write(mem, gpa(0xfffffff0), "x", 1), -EFAULT);
	gmem_free(mem);
	bios_close(&rom);
}

static void a_small_rom_leaves_nobody_below_it(void **state)
{
	struct bios_rom rom = rom_make(64 << 10);
	struct gmem *mem = memory_make(&rom);

	assert_int_equal(byte_at(mem, 0xeffff), 0xff);
	assert_int_equal(byte_at(mem, 0xf0000), rom.data[0]);
	assert_null(gmem_slot_at(mem, gpa(0xfffeffff)));
	gmem_free(mem);
	bios_close(&rom);
}

static void shadow_ram_is_switched_on_filled_locked_and_reset(void **state)
{
	struct bios_rom rom = rom_make(256 << 10);
	struct gmem *mem = memory_make(&rom);

	/* Reads from ROM, writes to RAM: how a ROM is copied onto itself. */
	bios_shadow(&rom, mem, 12, 0, MCH_SHADOW_WRITE);
	assert_int_equal(byte_at(mem, 0xffff0), 0xea);
	assert_int_equal(gmem_write(mem, gpa(0xf0000), "a", 1), 0);
	bios_shadow(&rom, mem, 12, MCH_SHADOW_WRITE, MCH_SHADOW_WRITE | MCH_SHADOW_READ);
	assert_int_equal(byte_at(mem, 0xf0000), 'a');
	bios_shadow(&rom, mem, 12, 3, MCH_SHADOW_READ);
	assert_int_equal(gmem_write(mem, gpa(0xf0000), "b", 1), -EFAULT);
	assert_int_equal(byte_at(mem, 0xf0000), 'a');
	/* Its neighbours were not touched. */
	assert_int_equal(gmem_write(mem, gpa(0xec000), "b", 1), -EFAULT);
	/* After a load of saved state RAM holds what was seen. */
	bios_shadow(&rom, mem, 12, 0, 0);
	assert_int_equal(byte_at(mem, 0xf0000), 'a');
	bios_shadow(&rom, mem, 12, MCH_SHADOW_READ, 0);
	assert_int_equal(byte_at(mem, 0xf0000), rom.data[0x30000]);

	bios_shadow(&rom, mem, 0, 0, 3);
	assert_int_equal(gmem_write(mem, gpa(0xc3fff), "c", 1), 0);
	assert_int_equal(gmem_write(mem, gpa(0xc4000), "c", 1), -EFAULT);
	assert_int_equal(bios_reset(&rom, mem, NULL), 0);
	assert_int_equal(byte_at(mem, 0xc3fff), 0xff);
	assert_int_equal(gmem_write(mem, gpa(0xc3fff), "c", 1), -EFAULT);
	gmem_free(mem);
	bios_close(&rom);
}

static void opens_an_image_and_refuses_what_is_none(void **state)
{
	struct bios_rom made = rom_make(128 << 10), rom = {0};
	struct error err;
	struct test_file good = test_file_new(made.data, made.size);
	struct test_file odd = test_file_new(made.data, made.size - 1);
	struct test_file small = test_file_new(made.data, 512);

	assert_int_equal(bios_open(&rom, good.path, &err), 0);
	assert_int_equal(rom.size, made.size);
	assert_memory_equal(rom.data, made.data, made.size);
	bios_close(&rom);
	assert_null(rom.data);

	assert_int_equal(bios_open(&rom, odd.path, &err), -EINVAL);
	assert_int_equal(bios_open(&rom, small.path, &err), -EINVAL);
	assert_non_null(strstr(err.text, "64 KiB"));
	made.data[made.size - 16] = 0xff;
	struct test_file blank = test_file_new(made.data, made.size);
	assert_int_equal(bios_open(&rom, blank.path, &err), -EINVAL);
	memcpy(made.data + 0x28, "_FVH", 4);
	struct test_file uefi = test_file_new(made.data, made.size);
	assert_int_equal(bios_open(&rom, uefi.path, &err), -EINVAL);
	assert_non_null(strstr(err.text, "UEFI"));
	assert_int_equal(bios_open(&rom, "/", &err), -EINVAL);
	assert_int_equal(bios_open(&rom, "/nowhere/bios.bin", &err), -ENOENT);
	assert_null(rom.data);

	close(good.fd);
	close(odd.fd);
	close(small.fd);
	close(blank.fd);
	close(uefi.fd);
	bios_close(&made);
}

/* ---- the table loader's script, carried out as firmware does ---- */

struct placed {
	uint8_t *data;
	uint64_t at;
};
static struct placed *placed_of(struct placed files[2], const uint8_t *name)
{
	assert_true(!strcmp((const char *)name, "etc/acpi/tables") ||
		    !strcmp((const char *)name, "etc/acpi/rsdp"));
	return &files[!strcmp((const char *)name, "etc/acpi/rsdp")];
}

static void run_entry(const uint8_t *e, struct placed files[2], unsigned *allocated)
{
	struct placed *f = placed_of(files, e + 4);
	const uint8_t *a = e + 60;

	switch (load_le32(e)) {
	case 1:
		(*allocated)++;
		assert_int_equal(f->at % load_le32(a), 0);
		assert_int_equal(a[4], f == files ? 1 : 2);
		break;
	case 2: {
		uint64_t base = placed_of(files, a)->at;
		uint8_t *p = f->data + load_le32(a + 56);
		if (a[60] == 8)
			store_le64(p, load_le64(p) + base);
		else
			store_le32(p, load_le32(p) + (uint32_t)base);
		break;
	}
	case 3:
		f->data[load_le32(a)] =
		    (uint8_t)(f->data[load_le32(a)] +
			      table_checksum(f->data + load_le32(a + 4), load_le32(a + 8)));
		break;
	default: fail();
	}
}

static void the_script_gives_the_tables_that_are_made_for_their_place(void **state)
{
	struct board_layout layout;
	struct wbuf zero, there, script;
	uint64_t xsdt, rsdt, x2, r2;
	uint8_t rsdp[ACPI_RSDP_SIZE], want[ACPI_RSDP_SIZE];
	unsigned allocated = 0;
	const uint64_t base = 0x1ffe0000;

	assert_int_equal(board_layout_init(&layout, 512 * MIB, 4, 40, NULL), 0);
	wbuf_init(&zero, 1 << 20);
	wbuf_init(&there, 1 << 20);
	wbuf_init(&script, 1 << 20);
	acpi_build(&layout, 0, &zero, &xsdt, &rsdt);
	acpi_build_rsdp(xsdt, rsdt, rsdp);
	acpi_build(&layout, base, &there, &x2, &r2);
	acpi_build_rsdp(x2, r2, want);
	bios_table_loader(zero.data, zero.len, xsdt, rsdt, &script);
	assert_int_equal(script.len % LOADER_ENTRY_SIZE, 0);

	struct placed files[2] = {{zero.data, base}, {rsdp, 0xf5a00}};
	for (size_t off = 0; off < script.len; off += LOADER_ENTRY_SIZE)
		run_entry(script.data + off, files, &allocated);
	assert_int_equal(allocated, 2);
	assert_int_equal(zero.len, there.len);
	assert_memory_equal(zero.data, there.data, there.len);
	assert_memory_equal(rsdp, want, sizeof(want));
	wbuf_fini(&zero);
	wbuf_fini(&there);
	wbuf_fini(&script);
}

static void firmware_is_told_of_memory_console_and_boot_order(void **state)
{
	struct bench b;
	struct device *fw;
	struct board_layout layout;
	struct firmware_ident ident = {.name = "vm"};
	struct bios_items items = {
	    .layout = &layout, .ident = &ident, .boot_menu = 1, .boot_order = "/a\n/b"};
	uint8_t buf[64];

	bench_init(&b);
	const struct fw_cfg_config cfg = {b.ports, 0x510, b.mem};
	assert_int_equal(fw_cfg_new(&fw, &cfg, NULL), 0);
	assert_int_equal(board_layout_init(&layout, 4096 * MIB, 2, 40, NULL), 0);
	assert_int_equal(bios_tell(fw, &items, NULL), 0);
	assert_int_equal(fw_cfg_file_read(fw, "etc/e820", buf, sizeof(buf)), 40);
	assert_true(load_le64(buf + 8) == layout.ram_low_end);
	assert_true(load_le64(buf + 20) == UINT64_C(1) << 32);
	assert_true(load_le64(buf + 28) == layout.ram_high_size);
	assert_int_equal(fw_cfg_file_read(fw, "etc/sercon-port", buf, sizeof(buf)), 2);
	assert_int_equal(load_le16(buf), 0x3f8);
	assert_int_equal(fw_cfg_file_read(fw, "bootorder", buf, sizeof(buf)), 6);
	assert_string_equal((char *)buf, "/a\n/b");
	assert_int_equal(fw_cfg_file_read(fw, "etc/smbios/smbios-anchor", buf, sizeof(buf)), 31);
	assert_memory_equal(buf, "_SM_", 4);
	assert_true(fw_cfg_file_read(fw, "etc/smbios/smbios-tables", buf, sizeof(buf)) > 0);
	assert_true(fw_cfg_file_read(fw, "etc/acpi/tables", buf, sizeof(buf)) > 0);
	assert_int_equal(fw_cfg_file_read(fw, "etc/acpi/rsdp", buf, sizeof(buf)), 36);
	assert_true(fw_cfg_file_read(fw, "etc/table-loader", buf, sizeof(buf)) > 0);

	layout.ram_high_size = 0;
	assert_int_equal(bios_tell(fw, &items, NULL), 0);
	assert_int_equal(fw_cfg_file_read(fw, "etc/e820", buf, sizeof(buf)), 20);
	device_free(fw);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_rom_ends_at_4_gib_and_its_end_is_seen_below_1_mib),
	    cmocka_unit_test(a_small_rom_leaves_nobody_below_it),
	    cmocka_unit_test(shadow_ram_is_switched_on_filled_locked_and_reset),
	    cmocka_unit_test(opens_an_image_and_refuses_what_is_none),
	    cmocka_unit_test(the_script_gives_the_tables_that_are_made_for_their_place),
	    cmocka_unit_test(firmware_is_told_of_memory_console_and_boot_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
