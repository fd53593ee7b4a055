/* loader_test.c: files that are not kernels, PVH and Multiboot images. */
#include "machine/loader_testing.h"

#include <errno.h>
#include <sys/stat.h>

#include "x86/regs.h"

#define MIB  (UINT64_C(1) << 20)
#define BASE (2 * MIB)

static int open_kernel(const char *path, struct error *err)
{
	struct boot_files *files = NULL;
	int rc = boot_open(&files, &(struct boot_config){.kernel = path}, err);
	if (!rc)
		boot_close(files);
	return rc;
}

static void files_that_cannot_be_read_are_named(void **state)
{
	struct error err;
	struct test_file empty = test_file_new(NULL, 0);

	assert_int_equal(open_kernel("/nonexistent/kernel", &err), -ENOENT);
	assert_string_equal(err.text, "kernel '/nonexistent/kernel' does not exist");
	assert_int_equal(open_kernel("", &err), -EINVAL);
	assert_int_equal(open_kernel("/", &err), -EISDIR);
	assert_non_null(strstr(err.text, "is a directory"));
	assert_int_equal(open_kernel("/dev/null", &err), -EINVAL);
	assert_non_null(strstr(err.text, "not a regular file"));
	assert_int_equal(open_kernel("/dev/null/x", &err), -ENOTDIR);
	assert_int_equal(open_kernel(empty.path, &err), -EINVAL);
	assert_non_null(strstr(err.text, "is empty"));
	close(empty.fd);
}

static void files_in_no_known_format_are_refused(void **state)
{
	const struct {
		const char *data;
		size_t len;
		const char *word;
	} cases[] = {
	    {"hello", 5, "no known format"},
	    {"\x1f\x8b\x08zzzz", 7, "gzip-compressed"},
	    {"MZ", 2, "EFI"},
	    {"\x7f"
	     "ELF",
	     4, "truncated"},
	};
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error err;
		struct test_file f = test_file_new(cases[i].data, cases[i].len);
		assert_int_equal(open_kernel(f.path, &err), -EINVAL);
		assert_non_null(strstr(err.text, cases[i].word));
		close(f.fd);
	}
}

static void a_missing_initrd_is_named(void **state)
{
	uint8_t elf[TEST_ELF_SIZE];
	const char *paths[] = {"/nonexistent/initrd with arguments"};
	struct boot_files *files = NULL;
	struct error err;

	test_elf64(elf, BASE, 1);
	struct test_file f = test_file_new(elf, sizeof(elf));
	struct boot_config cfg = {.kernel = f.path, .initrds = paths, .initrd_count = 1};
	assert_int_equal(boot_open(&files, &cfg, &err), -ENOENT);
	assert_non_null(strstr(err.text, "initrd '/nonexistent/initrd' does not exist"));
	cfg.initrd_count = BOOT_MAX_INITRDS + 1;
	assert_int_equal(boot_open(&files, &cfg, &err), -EINVAL);
	close(f.fd);
}

static void pvh_kernel_gets_its_start_info(void **state)
{
	struct test_vm vm;
	uint8_t elf[TEST_ELF_SIZE];
	struct e820_map map;

	test_elf64(elf, BASE, 1);
	struct test_file f = test_file_new(elf, sizeof(elf)), m = test_file_new("module", 6);
	char module[128];
	snprintf(module, sizeof(module), "%s x=1 y", m.path);
	const char *paths[] = {module};
	struct boot_config cfg = {
	    .kernel = f.path, .cmdline = "quiet", .initrds = paths, .initrd_count = 1};

	test_vm_init(&vm, 16 * MIB);
	assert_int_equal(test_vm_boot(&vm, &cfg), 0);
	assert_string_equal(vm.what, "64-bit ELF, PVH entry");
	assert_int_equal(vm.state.rip, BASE + 32);
	assert_int_equal(vm.state.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
	assert_int_equal(vm.state.cr4 | vm.state.efer, 0);
	assert_int_equal(vm.state.seg[X86_CS].limit, 0xffffffff);
	assert_true(vm.state.seg[X86_CS].attr & X86_SEG_DB);

	uint64_t info = vm.state.gpr[X86_RBX];
	assert_int_equal(ram32(&vm, info), 0x336ec578);
	assert_int_equal(ram32(&vm, info + 4), 1);
	assert_int_equal(ram32(&vm, info + 12), 1);
	uint64_t list = ram64(&vm, info + 16);
	assert_int_equal(ram64(&vm, list + 8), 6);
	assert_int_equal(ram32(&vm, ram64(&vm, list)), 0x75646f6d);
	assert_ram_string(&vm, ram64(&vm, list + 16), "x=1 y");
	assert_ram_string(&vm, ram64(&vm, info + 24), "quiet");
	assert_int_equal(ram64(&vm, info + 32), 0xf0000);
	board_e820(&vm.layout, &map);
	assert_int_equal(ram32(&vm, info + 48), map.count);
	uint64_t at = ram64(&vm, info + 40);
	for (unsigned i = 0; i < map.count; i++, at += 24) {
		assert_int_equal(ram64(&vm, at), map.entry[i].base);
		assert_int_equal(ram64(&vm, at + 8), map.entry[i].size);
		assert_int_equal(ram32(&vm, at + 16), map.entry[i].type);
	}
	test_vm_fini(&vm);
	close(f.fd);
	close(m.fd);
}

/* One change to the ELF file each, and a word of what must be said. */
static void damaged_elf_files_are_refused(void **state)
{
	const struct {
		unsigned offset, size;
		uint64_t value;
		const char *word;
	} changes[] = {
	    {offsetof(Elf64_Ehdr, e_machine), 2, EM_AARCH64, "not x86"},
	    {offsetof(Elf64_Ehdr, e_type), 2, ET_REL, "object"},
	    {offsetof(Elf64_Ehdr, e_phnum), 2, 0xffff, "program headers"},
	    {offsetof(Elf64_Ehdr, e_phnum), 2, 0, "program headers"},
	    {offsetof(Elf64_Ehdr, e_phoff), 8, UINT64_MAX - 8, "truncated"},
	    {64 + offsetof(Elf64_Phdr, p_offset), 8, 1000, "truncated"},
	    {64 + offsetof(Elf64_Phdr, p_filesz), 8, 1000, "larger in the file"},
	    {64 + offsetof(Elf64_Phdr, p_memsz), 8, UINT64_MAX, "wraps"},
	    {64 + offsetof(Elf64_Phdr, p_memsz), 8, 64 * MIB, "-m"},
	    {64 + offsetof(Elf64_Phdr, p_paddr), 8, 0xf0000, "tables"},
	    {64 + offsetof(Elf64_Phdr, p_type), 4, PT_NULL, "nothing to load"},
	    {120 + offsetof(Elf64_Phdr, p_filesz), 8, 4096, "truncated"},
	    {256 + 4, 4, 2, "neither"},
	    {272, 4, 0x100, "outside"},
	};
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
		struct test_vm vm;
		uint8_t elf[TEST_ELF_SIZE];
		test_elf64(elf, BASE, 1);
		for (unsigned j = 0; j < changes[i].size; j++)
			elf[changes[i].offset + j] = (uint8_t)(changes[i].value >> (8 * j));
		if (changes[i].value == 0xf0000) /* keep the entry inside */
			store_le32(elf + 272, 0xf0000 + 32);
		struct test_file f = test_file_new(elf, sizeof(elf));
		test_vm_init(&vm, 16 * MIB);
		assert_true(test_vm_boot(&vm, &(struct boot_config){.kernel = f.path}) < 0);
		if (!strstr(vm.err.text, changes[i].word))
			fail_msg("change %u: '%s' not in: %s", i, changes[i].word, vm.err.text);
		test_vm_fini(&vm);
		close(f.fd);
	}
}

/* A Multiboot image that is not ELF: header at 64, loaded from the file's start to 1 MiB. */
#define FLAT_SIZE 4096
static void flat_make(uint8_t out[FLAT_SIZE], uint32_t flags)
{
	memset(out, 0x90, FLAT_SIZE);
	store_le32(out + 64, 0x1badb002);
	store_le32(out + 68, flags);
	store_le32(out + 72, -(0x1badb002u + flags));
	store_le32(out + 76, 0x100000 + 64);
	store_le32(out + 80, 0x100000);
	store_le32(out + 84, 0x100000 + FLAT_SIZE);
	store_le32(out + 88, 0x100000 + 2 * FLAT_SIZE);
	store_le32(out + 92, 0x100000 + 512);
}

static int flat_boot(struct test_vm *vm, const uint8_t flat[FLAT_SIZE], struct boot_config cfg)
{
	struct test_file f = test_file_new(flat, FLAT_SIZE);
	cfg.kernel = f.path;
	int rc = test_vm_boot(vm, &cfg);
	close(f.fd);
	return rc;
}

static void multiboot_kernel_is_loaded_by_its_header(void **state)
{
	struct test_vm vm;
	uint8_t flat[FLAT_SIZE];
	struct test_file m = test_file_new("module", 6);
	char module[128], line[160];
	snprintf(module, sizeof(module), "%s args", m.path);
	const char *paths[] = {module};

	flat_make(flat, BIT32(16) | BIT32(1) | BIT32(0));
	test_vm_init(&vm, 16 * MIB);
	assert_int_equal(gmem_fill(vm.mem, gpa(0x101000), 0xaa, 4096), 0);
	assert_int_equal(flat_boot(&vm, flat,
				   (struct boot_config){
				       .cmdline = "one two", .initrds = paths, .initrd_count = 1}),
			 0);
	assert_int_equal(vm.state.rip, 0x100200);
	assert_int_equal(vm.state.gpr[X86_RAX], 0x2badb002);
	assert_int_equal(ram32(&vm, 0x100000), 0x90909090);
	assert_int_equal(ram32(&vm, 0x101000), 0); /* bss */

	uint64_t info = vm.state.gpr[X86_RBX];
	assert_int_equal(ram32(&vm, info), BIT32(0) | BIT32(2) | BIT32(3) | BIT32(6) | BIT32(9));
	assert_int_equal(ram32(&vm, info + 4), BOARD_EBDA >> 10);
	assert_int_equal(ram32(&vm, info + 8), 15 * 1024);
	snprintf(line, sizeof(line), "%s one two", vm.files->kernel.path);
	assert_ram_string(&vm, ram32(&vm, info + 16), line);
	assert_int_equal(ram32(&vm, info + 20), 1);
	uint64_t mod = ram32(&vm, info + 24);
	assert_int_equal(ram32(&vm, mod) % 4096, 0);
	assert_int_equal(ram32(&vm, mod + 4) - ram32(&vm, mod), 6);
	assert_true(ram32(&vm, mod) >= 0x100000 + 2 * FLAT_SIZE);
	assert_ram_string(&vm, ram32(&vm, mod + 8), module);
	assert_ram_string(&vm, ram32(&vm, info + 64), "Polyvisor");
	assert_int_equal(ram32(&vm, info + 44) % 24, 0);
	assert_int_equal(ram32(&vm, ram32(&vm, info + 48)), 20);
	test_vm_fini(&vm);
	close(m.fd);
}

static void multiboot_elf_is_loaded_by_its_segments(void **state)
{
	struct test_vm vm;
	uint8_t elf[TEST_ELF_SIZE];

	test_elf64(elf, BASE, 0);
	store_le32(elf + TEST_ELF_DATA + 64, 0x1badb002);
	store_le32(elf + TEST_ELF_DATA + 68, 0);
	store_le32(elf + TEST_ELF_DATA + 72, -0x1badb002u);
	struct test_file f = test_file_new(elf, sizeof(elf));
	test_vm_init(&vm, 16 * MIB);
	assert_int_equal(test_vm_boot(&vm, &(struct boot_config){.kernel = f.path}), 0);
	assert_string_equal(vm.what, "Multiboot kernel (ELF)");
	assert_int_equal(vm.state.rip, BASE + 16);
	test_vm_fini(&vm);
	close(f.fd);
}

static void multiboot_wishes_that_cannot_be_met_are_refused(void **state)
{
	const struct {
		uint32_t flags;
		unsigned offset;
		uint32_t value;
		const char *word;
	} cases[] = {
	    {BIT32(16) | BIT32(2), 0, 0x90909090, "display"},
	    {BIT32(16) | BIT32(5), 0, 0x90909090, "do not exist"},
	    {BIT32(16), 80, 0x200000, "load address"},		/* above the header */
	    {BIT32(16), 80, 0x0f0000, "load address"},		/* before the file */
	    {BIT32(16), 84, 0x0fffff, "ends before it begins"}, /* load end */
	    {BIT32(16), 84, 0x200000, "truncated"},
	    {BIT32(16), 88, 0xfff00000, "-m"},
	    {BIT32(16), 92, 0x10, "entry point"},
	};
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct test_vm vm;
		uint8_t flat[FLAT_SIZE];
		flat_make(flat, cases[i].flags);
		store_le32(flat + cases[i].offset, cases[i].value);
		test_vm_init(&vm, 16 * MIB);
		assert_true(flat_boot(&vm, flat, (struct boot_config){0}) < 0);
		if (!strstr(vm.err.text, cases[i].word))
			fail_msg("case %u: '%s' not in: %s", i, cases[i].word, vm.err.text);
		test_vm_fini(&vm);
	}
}

static void multiboot_header_must_be_in_the_first_8_kib(void **state)
{
	uint8_t head[MULTIBOOT_SEARCH + 32] = {0};

	assert_int_equal(multiboot_find(head, sizeof(head)), -1);
	store_le32(head + 8184, 0x1badb002);
	store_le32(head + 8192, -0x1badb002u);
	assert_int_equal(multiboot_find(head, sizeof(head)), -1);
	store_le32(head + 8180, 0x1badb002);
	store_le32(head + 8184, 0);
	store_le32(head + 8188, -0x1badb002u);
	assert_int_equal(multiboot_find(head, sizeof(head)), 8180);
	assert_int_equal(multiboot_find(head, 8191), -1);
}

static void cpu_state_from_firmware_has_mtrrs(void **state)
{
	struct board_layout l;
	struct x86_state s;

	assert_int_equal(board_layout_init(&l, 64 * MIB, 1, 40, NULL), 0);
	x86_state_reset(&s, 0);
	boot_state_common(&l, &s);
	assert_int_equal(s.mtrr_def, 0xc06);
	assert_int_equal(s.mtrr_base[0], l.ecam_base);
	assert_int_equal(s.mtrr_mask[0], 0xfff0000800);
	assert_int_equal(x86_state_check(&s, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(files_that_cannot_be_read_are_named),
	    cmocka_unit_test(files_in_no_known_format_are_refused),
	    cmocka_unit_test(a_missing_initrd_is_named),
	    cmocka_unit_test(pvh_kernel_gets_its_start_info),
	    cmocka_unit_test(damaged_elf_files_are_refused),
	    cmocka_unit_test(multiboot_kernel_is_loaded_by_its_header),
	    cmocka_unit_test(multiboot_elf_is_loaded_by_its_segments),
	    cmocka_unit_test(multiboot_wishes_that_cannot_be_met_are_refused),
	    cmocka_unit_test(multiboot_header_must_be_in_the_first_8_kib),
	    cmocka_unit_test(cpu_state_from_firmware_has_mtrrs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
