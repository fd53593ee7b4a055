/* loader_testing.h: kernels and RAM made up for the boot loaders' tests. */
#ifndef MACHINE_LOADER_TESTING_H
#define MACHINE_LOADER_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/le.h"
#include "machine/loader_internal.h"

/* A file without a name in any directory; its path lives as long as the process keeps the
 * descriptor. */
struct test_file {
	int fd;
	char path[64];
};

static inline struct test_file test_file_new(const void *data, size_t len)
{
	struct test_file f;
	f.fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(f.fd >= 0);
	if (len)
		assert_int_equal(write(f.fd, data, len), (ssize_t)len);
	snprintf(f.path, sizeof(f.path), "/proc/self/fd/%d", f.fd);
	return f;
}

struct test_vm {
	struct board_layout layout;
	struct gmem *mem;
	struct x86_state state;
	struct boot_files *files;
	char what[128];
	struct error err;
};

static inline void test_vm_init(struct test_vm *vm, uint64_t ram)
{
	memset(vm, 0, sizeof(*vm));
	assert_int_equal(board_layout_init(&vm->layout, ram, 1, 40, &vm->err), 0);
	struct gmem_config cfg = {.ram_bytes = ram, .low_limit = BOARD_LOW_LIMIT};
	assert_int_equal(gmem_new(&vm->mem, &cfg, &vm->err), 0);
	x86_state_reset(&vm->state, 1);
	boot_state_common(&vm->layout, &vm->state);
}

static inline void test_vm_fini(struct test_vm *vm)
{
	boot_close(vm->files);
	gmem_free(vm->mem);
}

/* Open and load; the first error code. */
static inline int test_vm_boot(struct test_vm *vm, const struct boot_config *cfg)
{
	int rc = boot_open(&vm->files, cfg, &vm->err);
	if (rc) {
		vm->files = NULL;
		return rc;
	}
	rc = boot_load(vm->files, vm->mem, &vm->layout, 0xf0000, &vm->state, vm->what, &vm->err);
	/* What a loader hands over is always something a CPU can be in. */
	if (!rc)
		assert_int_equal(x86_state_check(&vm->state, NULL), 0);
	return rc;
}

static inline uint32_t ram32(const struct test_vm *vm, uint64_t at)
{
	uint8_t b[4];
	assert_int_equal(gmem_read(vm->mem, gpa(at), b, sizeof(b)), 0);
	return load_le32(b);
}
static inline uint64_t ram64(const struct test_vm *vm, uint64_t at)
{
	return ram32(vm, at) | (uint64_t)ram32(vm, at + 4) << 32;
}
static inline void assert_ram_string(const struct test_vm *vm, uint64_t at, const char *text)
{
	char b[256];
	assert_true(strlen(text) < sizeof(b));
	assert_int_equal(gmem_read(vm->mem, gpa(at), b, strlen(text) + 1), 0);
	assert_string_equal(b, text);
}

/*
 * A 64-bit ELF program: one segment of 64 bytes of 0xe1 (and 64 more of zeroes) at `paddr`, entry
 * 16 bytes into it, and a note segment with a PVH entry 32 bytes into it.
 */
#define TEST_ELF_SIZE 512
#define TEST_ELF_DATA 320
static inline void test_elf64(uint8_t out[TEST_ELF_SIZE], uint64_t paddr, _Bool with_note)
{
	Elf64_Ehdr eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
			 .e_type = ET_EXEC,
			 .e_machine = EM_X86_64,
			 .e_version = EV_CURRENT,
			 .e_entry = paddr + 16,
			 .e_phoff = sizeof(Elf64_Ehdr),
			 .e_ehsize = sizeof(Elf64_Ehdr),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = with_note ? 2 : 1};
	Elf64_Phdr ph[2] = {
	    {.p_type = PT_LOAD,
	     .p_offset = TEST_ELF_DATA,
	     .p_vaddr = paddr + UINT64_C(0xffffffff80000000),
	     .p_paddr = paddr,
	     .p_filesz = 64,
	     .p_memsz = 128},
	    {.p_type = PT_NOTE, .p_offset = 256, .p_filesz = 20},
	};
	memset(out, 0, TEST_ELF_SIZE);
	memcpy(out, &eh, sizeof(eh));
	memcpy(out + sizeof(eh), ph, sizeof(ph));
	store_le32(out + 256, 4);
	store_le32(out + 260, 4);
	store_le32(out + 264, 18);
	memcpy(out + 268, "Xen", 4);
	store_le32(out + 272, (uint32_t)paddr + 32);
	memset(out + TEST_ELF_DATA, 0xe1, 64);
}

#endif
