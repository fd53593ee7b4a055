/* loader_linux_test.c: bzImages: headers, entry states, zero page, initrds, and what is refused. */
#include "machine/loader_testing.h"

#include <errno.h>
#include <zlib.h>

#include "x86/regs.h"

#define MIB	  (UINT64_C(1) << 20)
#define KERNEL_AT 1024 /* setup_sects 1 */
#define BZ_SIZE	  4096
#define PREF	  (2 * MIB)
#define PAYLOAD	  256

/* A bzImage whose payload is test_elf64 at 2 MiB, packed with gzip. */
struct bz {
	uint8_t raw[BZ_SIZE];
};

static void bz_make(struct bz *bz)
{
	uint8_t elf[TEST_ELF_SIZE];
	uint8_t *h = bz->raw;
	z_stream z = {.next_in = elf,
		      .avail_in = sizeof(elf),
		      .next_out = h + KERNEL_AT + PAYLOAD,
		      .avail_out = BZ_SIZE - KERNEL_AT - PAYLOAD};

	memset(bz, 0, sizeof(*bz));
	test_elf64(elf, PREF, 1);
	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, 0), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);

	h[0x1f1] = 1;
	store_le32(h + 0x1f4, (BZ_SIZE - KERNEL_AT) / 16);
	store_le16(h + 0x1fe, 0xaa55);
	h[0x200] = 0xeb;
	h[0x201] = 0x6a;
	memcpy(h + 0x202, "HdrS", 4);
	store_le16(h + 0x206, 0x20f);
	h[0x211] = 1;
	store_le32(h + 0x214, 0x100000);
	store_le32(h + 0x22c, 0x7fffffff);
	store_le32(h + 0x230, 0x200000);
	h[0x234] = 1;
	store_le16(h + 0x236, 0x3);
	store_le32(h + 0x238, 255);
	store_le32(h + 0x248, PAYLOAD);
	store_le32(h + 0x24c, (uint32_t)z.total_out);
	store_le64(h + 0x258, PREF);
	store_le32(h + 0x260, (uint32_t)MIB);
	memset(h + KERNEL_AT, 0xcc, 64);
}

static int bz_boot(struct test_vm *vm, const struct bz *bz, struct boot_config cfg)
{
	struct test_file f = test_file_new(bz->raw, sizeof(bz->raw));
	cfg.kernel = f.path;
	int rc = test_vm_boot(vm, &cfg);
	close(f.fd);
	return rc;
}

/* Follows the page tables that a loader made; 0 when not mapped. */
static uint64_t translate(const struct test_vm *vm, uint64_t va)
{
	uint64_t table = vm->state.cr3;
	for (int shift = 39; shift >= 21; shift -= 9) {
		uint64_t e = ram64(vm, (table & ~UINT64_C(0xfff)) + (va >> shift & 511) * 8);
		if (!(e & X86_PTE_P))
			return 0;
		if (e & X86_PTE_PS)
			return (e & ~UINT64_C(0x1fffff)) | (va & 0x1fffff);
		table = e;
	}
	return 0;
}

static void payload_is_unpacked_and_entered_in_64_bit_mode(void **state)
{
	struct test_vm vm;
	struct bz bz;

	test_vm_init(&vm, 16 * MIB);
	bz_make(&bz);
	assert_int_equal(bz_boot(&vm, &bz, (struct boot_config){.cmdline = "a=b c"}), 0);
	assert_string_equal(vm.what, "bzImage 2.15, gzip payload unpacked, vmlinux's 64-bit entry");
	assert_int_equal(vm.state.rip, PREF + 16);
	assert_int_equal(ram32(&vm, PREF), 0xe1e1e1e1);
	assert_int_equal(ram32(&vm, PREF + 64), 0);
	assert_int_equal(vm.state.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE | X86_CR0_PG);
	assert_int_equal(vm.state.efer, X86_EFER_LME | X86_EFER_LMA);
	assert_int_equal(vm.state.rflags, X86_FIXED);
	assert_true(vm.state.seg[X86_CS].attr & X86_SEG_L);
	assert_int_equal(vm.state.seg[X86_CS].selector, BOOT_CS);
	assert_int_equal(vm.state.seg[X86_DS].selector, BOOT_DS);
	/* Kernel, zero page and command line are mapped to themselves. */
	for (uint64_t va = 0x1000; va < UINT64_C(0x100000000); va += 0x3ff37000)
		assert_int_equal(translate(&vm, va), va);
	test_vm_fini(&vm);
}

static void zero_page_tells_all(void **state)
{
	struct test_vm vm;
	struct bz bz;
	struct e820_map map;

	test_vm_init(&vm, 16 * MIB);
	bz_make(&bz);
	assert_int_equal(bz_boot(&vm, &bz, (struct boot_config){.cmdline = "a=b c"}), 0);
	uint64_t zp = vm.state.gpr[X86_RSI];
	assert_int_equal(ram32(&vm, zp + 0x202), 0x53726448);
	assert_int_equal(ram32(&vm, zp + 0x210) & 0xff, 0xff);
	assert_ram_string(&vm, ram32(&vm, zp + 0x228), "a=b c");
	assert_int_equal(ram64(&vm, zp + 0x70), 0xf0000);
	assert_int_equal(ram32(&vm, zp + 0x218), 0);
	assert_int_equal(ram32(&vm, zp + 0x21c), 0);
	assert_int_equal(ram32(&vm, zp + 0x1ec) >> 24, 0); /* sentinel */

	board_e820(&vm.layout, &map);
	assert_int_equal(ram32(&vm, zp + 0x1e8) & 0xff, map.count);
	for (unsigned i = 0; i < map.count; i++) {
		assert_int_equal(ram64(&vm, zp + 0x2d0 + 20 * i), map.entry[i].base);
		assert_int_equal(ram64(&vm, zp + 0x2d8 + 20 * i), map.entry[i].size);
		assert_int_equal(ram32(&vm, zp + 0x2e0 + 20 * i), map.entry[i].type);
	}
	test_vm_fini(&vm);
}

static void guest_may_unpack_for_itself(void **state)
{
	struct test_vm vm;
	struct bz bz;

	test_vm_init(&vm, 16 * MIB);
	bz_make(&bz);
	assert_int_equal(bz_boot(&vm, &bz, (struct boot_config){.unpack = UNPACK_GUEST}), 0);
	assert_string_equal(vm.what, "bzImage 2.15, 64-bit entry");
	assert_int_equal(vm.state.rip, PREF + 0x200);
	assert_int_equal(ram32(&vm, PREF), 0xcccccccc);
	assert_int_equal(ram32(&vm, vm.state.gpr[X86_RSI] + 0x214), PREF);
	test_vm_fini(&vm);

	/* So does one whose format we do not know. */
	test_vm_init(&vm, 16 * MIB);
	memset(bz.raw + KERNEL_AT + PAYLOAD, 0x11, 8);
	assert_int_equal(bz_boot(&vm, &bz, (struct boot_config){0}), 0);
	assert_int_equal(vm.state.rip, PREF + 0x200);
	test_vm_fini(&vm);
}

static void kernel_without_64_bit_entry_starts_in_protected_mode(void **state)
{
	struct test_vm vm;
	struct bz bz;

	test_vm_init(&vm, 16 * MIB);
	bz_make(&bz);
	store_le16(bz.raw + 0x236, 0);
	bz.raw[0x234] = 0; /* and not relocatable: at 1 MiB */
	assert_int_equal(bz_boot(&vm, &bz, (struct boot_config){0}), 0);
	assert_int_equal(vm.state.rip, MIB);
	assert_int_equal(vm.state.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
	assert_true(vm.state.seg[X86_CS].attr & X86_SEG_DB);
	assert_int_equal(vm.state.seg[X86_CS].selector, BOOT_CS);
	assert_int_equal(vm.state.seg[X86_SS].selector, BOOT_DS);
	assert_int_equal(vm.state.seg[X86_CS].limit, 0xffffffff);
	/* boot.rst: EBX, EBP and EDI are zero; the GDT is in memory. */
	assert_int_equal(vm.state.gpr[X86_RBX] | vm.state.gpr[X86_RBP] | vm.state.gpr[X86_RDI], 0);
	assert_int_equal(ram64(&vm, vm.state.gdt.base + BOOT_CS), 0x00cf9b000000ffff);
	assert_int_equal(ram64(&vm, vm.state.gdt.base + BOOT_DS), 0x00cf93000000ffff);
	test_vm_fini(&vm);

	test_vm_init(&vm, 16 * MIB);
	assert_int_equal(bz_boot(&vm, &bz, (struct boot_config){.protocol = BOOT_LINUX64}),
			 -EINVAL);
	assert_non_null(strstr(vm.err.text, "no 64-bit entry"));
	test_vm_fini(&vm);
}

static void initrds_are_joined_at_4_byte_boundaries(void **state)
{
	struct test_vm vm;
	struct bz bz;
	struct test_file a = test_file_new("07070AAAA", 9), b = test_file_new("07070BBB", 8);
	const char *paths[] = {a.path, b.path};
	char got[20];

	test_vm_init(&vm, 16 * MIB);
	bz_make(&bz);
	assert_int_equal(
	    bz_boot(&vm, &bz, (struct boot_config){.initrds = paths, .initrd_count = 2}), 0);
	uint64_t zp = vm.state.gpr[X86_RSI], at = ram32(&vm, zp + 0x218);
	assert_int_equal(ram32(&vm, zp + 0x21c), 20);
	assert_int_equal(at, 16 * MIB - 4096);
	assert_int_equal(gmem_read(vm.mem, gpa(at), got, sizeof(got)), 0);
	assert_memory_equal(got,
			    "07070AAAA\0\0\0"
			    "07070BBB",
			    20);
	test_vm_fini(&vm);

	/* The kernel's own limit is kept. */
	test_vm_init(&vm, 16 * MIB);
	store_le32(bz.raw + 0x22c, 8 * MIB - 1);
	assert_int_equal(
	    bz_boot(&vm, &bz, (struct boot_config){.initrds = paths, .initrd_count = 1}), 0);
	assert_int_equal(ram32(&vm, vm.state.gpr[X86_RSI] + 0x218), 8 * MIB - 4096);
	test_vm_fini(&vm);
	close(a.fd);
	close(b.fd);
}

static void too_large_initrd_is_refused(void **state)
{
	struct test_vm vm;
	struct bz bz;
	struct test_file a = test_file_new("0707", 4);
	const char *paths[] = {a.path};

	assert_int_equal(ftruncate(a.fd, 64 * MIB), 0);
	test_vm_init(&vm, 16 * MIB);
	bz_make(&bz);
	assert_int_equal(
	    bz_boot(&vm, &bz, (struct boot_config){.initrds = paths, .initrd_count = 1}), -ENOMEM);
	assert_non_null(strstr(vm.err.text, "64 MiB"));
	test_vm_fini(&vm);
	close(a.fd);
}

static void reset_loads_again_even_when_the_file_has_gone(void **state)
{
	struct test_vm vm;
	struct bz bz;

	test_vm_init(&vm, 16 * MIB);
	bz_make(&bz);
	assert_int_equal(bz_boot(&vm, &bz, (struct boot_config){0}), 0);
	struct x86_state first = vm.state;
	assert_int_equal(gmem_fill(vm.mem, gpa(PREF), 0xaa, 4096), 0);
	x86_state_reset(&vm.state, 1);
	boot_state_common(&vm.layout, &vm.state);
	assert_int_equal(boot_load(vm.files, vm.mem, &vm.layout, 0xf0000, &vm.state, NULL, &vm.err),
			 0);
	assert_memory_equal(&vm.state, &first, sizeof(first));
	assert_int_equal(ram32(&vm, PREF), 0xe1e1e1e1);
	assert_int_equal(ram32(&vm, PREF + 64), 0);
	test_vm_fini(&vm);
}

/* One change to the header each, and a word of the sentence that must come of it. */
static void damaged_kernels_are_refused_with_a_sentence(void **state)
{
	const struct {
		unsigned offset, size;
		uint64_t value;
		const char *word;
	} changes[] = {
	    {0x206, 2, 0x0205, "protocol 2.05"},
	    {0x211, 1, 0, "zImage"},
	    {0x1f4, 4, 0x10000, "truncated"},
	    {0x1f1, 1, 200, "truncated"},
	    {0x230, 4, 3, "alignment"},
	    {0x248, 4, 0xfffff000, "payload"},
	    {0x24c, 4, 0xffffffff, "payload"},
	    {0x258, 8, UINT64_MAX, "preferred address"},
	    {0x260, 4, 0xfff00000, "-m"},
	    {KERNEL_AT + PAYLOAD + 12, 4, 0xdeadbeef, "damaged"},
	    {0x24c, 4, 100, "payload"},
	};
	struct bz good;

	bz_make(&good);
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
		struct test_vm vm;
		struct bz bz = good;
		for (unsigned j = 0; j < changes[i].size; j++)
			bz.raw[changes[i].offset + j] = (uint8_t)(changes[i].value >> (8 * j));
		test_vm_init(&vm, 16 * MIB);
		struct x86_state before = vm.state;
		assert_true(bz_boot(&vm, &bz, (struct boot_config){0}) < 0);
		if (!strstr(vm.err.text, changes[i].word))
			fail_msg("change %u: '%s' not in: %s", i, changes[i].word, vm.err.text);
		assert_memory_equal(&vm.state, &before, sizeof(before));
		test_vm_fini(&vm);
	}
}

static void command_line_is_held_to_the_kernels_limit(void **state)
{
	struct test_vm vm;
	struct bz bz;
	char line[300];

	memset(line, 'x', sizeof(line));
	bz_make(&bz);
	line[255] = 0;
	test_vm_init(&vm, 16 * MIB);
	assert_int_equal(bz_boot(&vm, &bz, (struct boot_config){.cmdline = line}), 0);
	test_vm_fini(&vm);
	line[255] = 'x';
	line[256] = 0;
	test_vm_init(&vm, 16 * MIB);
	assert_int_equal(bz_boot(&vm, &bz, (struct boot_config){.cmdline = line}), -EINVAL);
	assert_non_null(strstr(vm.err.text, "256 characters"));
	test_vm_fini(&vm);
}

static void bare_vmlinux_can_be_started_by_its_64_bit_entry(void **state)
{
	struct test_vm vm;
	uint8_t elf[TEST_ELF_SIZE];

	test_elf64(elf, PREF, 0);
	struct test_file f = test_file_new(elf, sizeof(elf));
	test_vm_init(&vm, 16 * MIB);
	assert_int_equal(
	    test_vm_boot(&vm, &(struct boot_config){.kernel = f.path, .protocol = BOOT_LINUX64}),
	    0);
	assert_int_equal(vm.state.rip, PREF + 16);
	assert_int_equal(ram32(&vm, vm.state.gpr[X86_RSI] + 0x202), 0x53726448);
	test_vm_fini(&vm);
	close(f.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(payload_is_unpacked_and_entered_in_64_bit_mode),
	    cmocka_unit_test(zero_page_tells_all),
	    cmocka_unit_test(guest_may_unpack_for_itself),
	    cmocka_unit_test(kernel_without_64_bit_entry_starts_in_protected_mode),
	    cmocka_unit_test(initrds_are_joined_at_4_byte_boundaries),
	    cmocka_unit_test(too_large_initrd_is_refused),
	    cmocka_unit_test(reset_loads_again_even_when_the_file_has_gone),
	    cmocka_unit_test(damaged_kernels_are_refused_with_a_sentence),
	    cmocka_unit_test(command_line_is_held_to_the_kernels_limit),
	    cmocka_unit_test(bare_vmlinux_can_be_started_by_its_64_bit_entry),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
