/* acpi_test.c: ACPI, SMBIOS and MP tables: sums, links, what they say, and that iasl can read them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/le.h"
#include "machine/acpi_internal.h"

#define MIB  (UINT64_C(1) << 20)
#define BASE 0xe0000u

struct tables {
	struct board_layout layout;
	struct wbuf buf;
	uint64_t xsdt, rsdt;
};

static void tables_make(struct tables *t, uint64_t ram, unsigned cpus)
{
	assert_int_equal(board_layout_init(&t->layout, ram, cpus, 46, NULL), 0);
	wbuf_init(&t->buf, 65536);
	acpi_build(&t->layout, BASE, &t->buf, &t->xsdt, &t->rsdt);
	assert_false(t->buf.failed);
}

static const uint8_t *table_at(const struct tables *t, uint64_t addr)
{
	assert_in_range(addr, BASE, BASE + t->buf.len - 36);
	const uint8_t *p = t->buf.data + (addr - BASE);
	assert_in_range(load_le32(p + 4), 36, t->buf.len - (addr - BASE));
	return p;
}

static const uint8_t *table_find(const struct tables *t, const char *signature)
{
	const uint8_t *xsdt = table_at(t, t->xsdt);

	for (uint32_t at = 36; at < load_le32(xsdt + 4); at += 8) {
		const uint8_t *p = table_at(t, load_le64(xsdt + at));
		if (!memcmp(p, signature, 4))
			return p;
	}
	return NULL;
}

static void sums_are_zero_and_roots_agree(void **state)
{
	struct tables t;
	uint8_t rsdp[ACPI_RSDP_SIZE];

	tables_make(&t, 64 * MIB, 3);
	const uint8_t *xsdt = table_at(&t, t.xsdt), *rsdt = table_at(&t, t.rsdt);
	assert_int_equal(table_checksum(xsdt, load_le32(xsdt + 4)), 0);
	assert_int_equal(table_checksum(rsdt, load_le32(rsdt + 4)), 0);
	unsigned count = (load_le32(xsdt + 4) - 36) / 8;
	assert_int_equal((load_le32(rsdt + 4) - 36) / 4, count);
	for (unsigned i = 0; i < count; i++) {
		uint64_t addr = load_le64(xsdt + 36 + 8 * i);
		const uint8_t *p = table_at(&t, addr);
		assert_int_equal(load_le32(rsdt + 36 + 4 * i), addr);
		assert_int_equal(table_checksum(p, load_le32(p + 4)), 0);
	}
	acpi_build_rsdp(t.xsdt, t.rsdt, rsdp);
	assert_int_equal(table_checksum(rsdp, 20), 0);
	assert_int_equal(table_checksum(rsdp, sizeof(rsdp)), 0);
	wbuf_fini(&t.buf);
}

static void fadt_names_the_boards_ports(void **state)
{
	struct tables t;

	tables_make(&t, 64 * MIB, 1);
	const uint8_t *f = table_find(&t, "FACP");
	assert_non_null(f);
	assert_int_equal(load_le32(f + 4), 276);
	assert_int_equal(load_le32(f + 36) % 64, 0);
	assert_memory_equal(t.buf.data + (load_le32(f + 36) - BASE), "FACS", 4);
	assert_memory_equal(table_at(&t, load_le32(f + 40)), "DSDT", 4);
	assert_int_equal(load_le64(f + 140), load_le32(f + 40));
	assert_int_equal(load_le32(f + 56), 0x600);
	assert_int_equal(load_le32(f + 64), 0x604);
	assert_int_equal(load_le32(f + 76), 0x608);
	assert_int_equal(load_le64(f + 120), BOARD_PORT_RESET);
	assert_int_equal(f[128], BOARD_RESET_VALUE);
	wbuf_fini(&t.buf);
}

static void madt_has_every_cpu_once(void **state)
{
	struct tables t;
	unsigned cpus = 0, ioapics = 0, overrides = 0;

	tables_make(&t, 64 * MIB, BOARD_MAX_CPUS);
	const uint8_t *m = table_find(&t, "APIC");
	assert_non_null(m);
	for (uint32_t at = 44; at < load_le32(m + 4); at += m[at + 1]) {
		assert_true(m[at + 1] >= 6);
		if (m[at] == 0)
			assert_int_equal(m[at + 3], cpus++);
		ioapics += m[at] == 1;
		overrides += m[at] == 2;
	}
	assert_int_equal(cpus, BOARD_MAX_CPUS);
	assert_int_equal(ioapics, 1);
	assert_int_equal(overrides, 2);
	wbuf_fini(&t.buf);
}

static void hpet_can_be_left_out(void **state)
{
	struct tables t;

	tables_make(&t, 64 * MIB, 1);
	assert_non_null(table_find(&t, "HPET"));
	t.layout.hpet_base = 0;
	wbuf_fini(&t.buf);
	wbuf_init(&t.buf, 65536);
	acpi_build(&t.layout, BASE, &t.buf, &t.xsdt, &t.rsdt);
	assert_null(table_find(&t, "HPET"));
	wbuf_fini(&t.buf);
}

static void dump(const char *dir, const char *name, const void *data, size_t len)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

/* Disassembles every table, with the namespace of both AML tables at hand, and compiles the two
 * again. */
static void iasl_reads_every_table(void **state)
{
	static const char *const names[] = {"FACP", "APIC", "MCFG", "HPET", "WAET", "SSDT"};
	const unsigned counts[] = {1, 2, BOARD_MAX_CPUS};
	char dir[] = "/tmp/acpi-test-XXXXXX", command[512];

	assert_non_null(mkdtemp(dir));
	for (unsigned n = 0; n < ARRAY_SIZE(counts); n++) {
		struct tables t;
		tables_make(&t, n == 2 ? 8192 * MIB : 64 * MIB, counts[n]);
		const uint8_t *fadt = table_find(&t, "FACP");
		assert_non_null(fadt);
		const uint8_t *dsdt = table_at(&t, load_le32(fadt + 40));
		dump(dir, "DSDT", dsdt, load_le32(dsdt + 4));
		for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
			const uint8_t *p = table_find(&t, names[i]);
			assert_non_null(p);
			dump(dir, names[i], p, load_le32(p + 4));
		}
		snprintf(command, sizeof(command),
			 "cd %s && iasl -d FACP APIC MCFG HPET WAET >log 2>&1 && "
			 "iasl -e SSDT -d DSDT >>log 2>&1 && iasl -e DSDT -d SSDT >>log 2>&1 && "
			 "iasl -we -ve DSDT.dsl >>log 2>&1 && iasl -we -ve SSDT.dsl >>log 2>&1 && "
			 "! grep -i -e 'invalid' -e 'checksum' log || { cat log; exit 1; }",
			 dir);
		assert_int_equal(system(command), 0);
		wbuf_fini(&t.buf);
	}
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	assert_int_equal(system(command), 0);
}

static void smbios_structures_are_well_formed(void **state)
{
	struct board_layout l;
	struct wbuf buf;
	unsigned largest, count, seen = 0;
	struct firmware_ident id = {.name = "a vm", .cpu_brand = "A CPU", .cpu_mhz = 3000};
	uint8_t entry2[SMBIOS_ENTRY2_SIZE], entry3[SMBIOS_ENTRY3_SIZE];
	_Bool types[128] = {0};

	for (unsigned i = 0; i < 16; i++)
		id.uuid[i] = (uint8_t)i;
	assert_int_equal(board_layout_init(&l, UINT64_C(64) << 30, 4, 46, NULL), 0);
	wbuf_init(&buf, 32768);
	smbios_build(&l, &id, &buf, &largest, &count);
	assert_false(buf.failed);

	size_t at = 0;
	while (at < buf.len) {
		size_t start = at;
		uint8_t type = buf.data[at], len = buf.data[at + 1];
		types[type] = 1;
		if (type == 1)
			assert_memory_equal(buf.data + at + 8, "\3\2\1\0\5\4\7\6\10\11", 10);
		for (at += len; buf.data[at] || buf.data[at + 1]; at++)
			assert_true(at + 2 < buf.len);
		at += 2;
		assert_true(at - start <= largest);
		seen++;
	}
	assert_int_equal(seen, count);
	const uint8_t wanted[] = {0, 1, 3, 4, 16, 17, 19, 32, 127};
	for (unsigned i = 0; i < sizeof(wanted); i++)
		assert_true(types[wanted[i]]);

	smbios_build_entry2(0xf0100, (unsigned)buf.len, largest, count, entry2);
	smbios_build_entry3(0xf0100, (unsigned)buf.len, entry3);
	assert_int_equal(table_checksum(entry2, sizeof(entry2)), 0);
	assert_int_equal(table_checksum(entry2 + 16, 15), 0);
	assert_int_equal(table_checksum(entry3, sizeof(entry3)), 0);
	wbuf_fini(&buf);
}

static void mp_table_counts_its_entries(void **state)
{
	struct board_layout l;
	struct wbuf buf;
	unsigned entries = 0;

	assert_int_equal(board_layout_init(&l, 64 * MIB, 5, 46, NULL), 0);
	wbuf_init(&buf, 32768);
	mptable_build(&l, 0xf8000, &buf);
	const uint8_t *h = buf.data + 16;
	assert_int_equal(load_le32(buf.data + 4), 0xf8010);
	assert_int_equal(table_checksum(buf.data, 16), 0);
	assert_int_equal(load_le16(h + 4), buf.len - 16);
	assert_int_equal(table_checksum(h, load_le16(h + 4)), 0);
	for (size_t at = 44; at < load_le16(h + 4); entries++)
		at += h[at] == 0 ? 20 : 8;
	assert_int_equal(load_le16(h + 34), entries);
	wbuf_fini(&buf);
}

static void all_tables_fit_below_1_mib_and_can_be_found(void **state)
{
	struct board_layout l;
	struct gmem *mem;
	struct firmware_ident id = {.name = "a vm"};
	uint64_t rsdp = 0;
	uint8_t area[65536];

	assert_int_equal(board_layout_init(&l, 64 * MIB, BOARD_MAX_CPUS, 46, NULL), 0);
	struct gmem_config cfg = {.ram_bytes = 64 * MIB, .low_limit = BOARD_LOW_LIMIT};
	assert_int_equal(gmem_new(&mem, &cfg, NULL), 0);
	assert_int_equal(firmware_tables_load(mem, &l, &id, &rsdp, NULL), 0);
	assert_int_equal(gmem_read(mem, gpa(0xf0000), area, sizeof(area)), 0);
	unsigned found = 0;
	for (unsigned at = 0; at < sizeof(area); at += 16) {
		if (!memcmp(area + at, "RSD PTR ", 8)) {
			assert_int_equal(rsdp, 0xf0000 + at);
			found |= 1;
		}
		if (!memcmp(area + at, "_SM_", 4))
			found |= 2;
		if (!memcmp(area + at, "_SM3_", 5))
			found |= 4;
		if (!memcmp(area + at, "_MP_", 4))
			found |= 8;
	}
	assert_int_equal(found, 15);
	gmem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sums_are_zero_and_roots_agree),
	    cmocka_unit_test(fadt_names_the_boards_ports),
	    cmocka_unit_test(madt_has_every_cpu_once),
	    cmocka_unit_test(hpet_can_be_left_out),
	    cmocka_unit_test(iasl_reads_every_table),
	    cmocka_unit_test(smbios_structures_are_well_formed),
	    cmocka_unit_test(mp_table_counts_its_entries),
	    cmocka_unit_test(all_tables_fit_below_1_mib_and_can_be_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
