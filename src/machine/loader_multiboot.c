/* loader_multiboot.c: Multiboot 0.6.96 ("Multiboot 1"): header, modules, memory map, entry state.
 */
#include "machine/loader_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/le.h"

#define MB_MAGIC      0x1badb002u
#define MB_BOOT_MAGIC 0x2badb002u
/* Header flags (MB 3.1.2): what the low half asks for must be understood or refused. */
#define MB_ALIGN     BIT32(0)
#define MB_MEMORY    BIT32(1)
#define MB_VIDEO     BIT32(2)
#define MB_ADDRESSES BIT32(16)
#define MB_REQUIRED  0xffffu
/* Information flags and offsets (MB 3.3). */
#define INFO_HAS_MEM   BIT32(0)
#define INFO_HAS_CMD   BIT32(2)
#define INFO_HAS_MODS  BIT32(3)
#define INFO_HAS_MAP   BIT32(6)
#define INFO_HAS_NAME  BIT32(9)
#define INFO_FLAGS     0
#define INFO_MEM_LOWER 4
#define INFO_MEM_UPPER 8
#define INFO_CMDLINE   16
#define INFO_MODS      20
#define INFO_MODS_ADDR 24
#define INFO_MAP_LEN   44
#define INFO_MAP_ADDR  48
#define INFO_NAME      64
#define INFO_SIZE      120
#define MODULE_SIZE    16
#define MAP_SIZE       24

struct mb_header {
	uint32_t flags, header_addr, load_addr, load_end, bss_end, entry;
};

long multiboot_find(const uint8_t *head, size_t len)
{
	for (size_t i = 0; i + 12 <= MIN(len, (size_t)MULTIBOOT_SEARCH); i += 4) {
		uint32_t flags = load_le32(head + i + 4);
		if (load_le32(head + i) != MB_MAGIC ||
		    MB_MAGIC + flags + load_le32(head + i + 8) != 0)
			continue;
		if (flags & MB_ADDRESSES && i + 32 > len)
			continue;
		return (long)i;
	}
	return -1;
}

static int header_read(const struct boot_run *run, struct mb_header *h, long *at, struct error *err)
{
	uint8_t head[MULTIBOOT_SEARCH + 32] = {0};
	size_t len = MIN(run->kernel.size, (uint64_t)sizeof(head));
	int rc = image_read(&run->kernel, 0, head, len, err);
	if (rc)
		return rc;
	*at = multiboot_find(head, len);
	if (*at < 0)
		return error_set(err, -EINVAL, "'%s' has no Multiboot header in its first 8 KiB",
				 run->kernel.name);

	const uint8_t *p = head + *at;
	h->flags = load_le32(p + 4);
	if (h->flags & MB_ADDRESSES) {
		h->header_addr = load_le32(p + 12);
		h->load_addr = load_le32(p + 16);
		h->load_end = load_le32(p + 20);
		h->bss_end = load_le32(p + 24);
		h->entry = load_le32(p + 28);
	}
	if (h->flags & MB_VIDEO)
		return error_set(
		    err, -ENOTSUP,
		    "'%s' requires a video mode from its boot loader, and this machine "
		    "has no display",
		    run->kernel.name);
	if (h->flags & MB_REQUIRED & ~(MB_ALIGN | MB_MEMORY))
		return error_set(err, -ENOTSUP,
				 "'%s' requires Multiboot features that do not exist (flags 0x%x)",
				 run->kernel.name, h->flags);
	return 0;
}

/* The addresses in the header ("a.out kludge") turned into one segment. */
static int header_segment(const struct boot_run *run, const struct mb_header *h, long at,
			  struct elf_image *elf, struct error *err)
{
	const char *name = run->kernel.name;
	uint64_t before = h->header_addr - (uint64_t)h->load_addr;

	if (h->load_addr > h->header_addr || before > (uint64_t)at)
		return error_set(
		    err, -EINVAL,
		    "the Multiboot header of '%s' has a load address that makes no sense", name);
	uint64_t offset = (uint64_t)at - before;
	uint64_t filesz =
	    h->load_end ? h->load_end - (uint64_t)h->load_addr : run->kernel.size - offset;
	if (h->load_end && h->load_end < h->load_addr)
		return error_set(err, -EINVAL, "the Multiboot header of '%s' ends before it begins",
				 name);
	if (!range_fits(offset, filesz, run->kernel.size))
		return error_set(err, -EINVAL,
				 "'%s' is truncated: its Multiboot header promises more", name);
	uint64_t memsz = filesz;
	if (h->bss_end > h->load_addr)
		memsz = MAX(filesz, h->bss_end - (uint64_t)h->load_addr);
	*elf = (struct elf_image){
	    .seg = {{.offset = offset, .paddr = h->load_addr, .filesz = filesz, .memsz = memsz}},
	    .seg_count = 1,
	    .low = h->load_addr,
	    .high = h->load_addr + memsz,
	    .entry = h->entry,
	};
	return 0;
}

static int kernel_load(struct boot_run *run, struct elf_image *elf, _Bool *from_elf,
		       struct error *err)
{
	struct mb_header h = {0};
	long at;
	int rc = header_read(run, &h, &at, err);
	if (rc)
		return rc;
	*from_elf = !(h.flags & MB_ADDRESSES);
	rc = *from_elf ? elf_parse(&run->kernel, elf, err) : header_segment(run, &h, at, elf, err);
	if (rc)
		return rc;
	if (elf->entry >= BOARD_HIGH_BASE || elf->entry < elf->low || elf->entry >= elf->high)
		return error_set(err, -EINVAL,
				 "the entry point of '%s' is outside of what it loads",
				 run->kernel.name);
	return elf_load(run, &run->kernel, elf, err);
}

/* Behind the kernel, from below: kernels that map only the first megabytes expect it there. */
static int module_place(struct boot_run *run, const struct boot_file *file, uint8_t *entry,
			struct error *err)
{
	char text[4096];
	struct image image;
	uint64_t at, string;
	int rc = boot_file_image(file, "module", &image, err);
	if (rc)
		return rc;
	if (place_find(&run->place, image.size, GMEM_PAGE_SIZE, BOARD_SMBIOS_END,
		       run->layout->ram_low_end, 0, &at))
		return error_set(err, -ENOMEM,
				 "module '%s' (%llu MiB) does not fit into the VM's RAM: give it "
				 "more with -m",
				 image.name, (unsigned long long)(image.size >> 20));
	rc = image_load(&image, 0, image.size, run->mem, at, err);
	if (rc)
		return rc;
	snprintf(text, sizeof(text), "%s%s%s", file->path, file->args ? " " : "",
		 file->args ? file->args : "");
	rc = place_blob(&run->place, run->mem, text, strlen(text) + 1, &string, err);
	if (rc)
		return rc;
	store_le32(entry, (uint32_t)at);
	store_le32(entry + 4, (uint32_t)(at + image.size));
	store_le32(entry + 8, (uint32_t)string);
	return 0;
}

static int info_map(struct boot_run *run, uint8_t *info, struct error *err)
{
	uint8_t map[E820_MAX * MAP_SIZE] = {0};
	uint64_t at;

	for (unsigned i = 0; i < run->e820.count; i++) {
		uint8_t *e = map + i * MAP_SIZE;
		store_le32(e, MAP_SIZE - 4);
		store_le64(e + 4, run->e820.entry[i].base);
		store_le64(e + 12, run->e820.entry[i].size);
		store_le32(e + 20, run->e820.entry[i].type);
	}
	int rc = place_blob(&run->place, run->mem, map, run->e820.count * MAP_SIZE, &at, err);
	store_le32(info + INFO_MAP_LEN, run->e820.count * MAP_SIZE);
	store_le32(info + INFO_MAP_ADDR, (uint32_t)at);
	store_le32(info + INFO_MEM_LOWER, BOARD_EBDA >> 10);
	store_le32(info + INFO_MEM_UPPER,
		   (uint32_t)((run->layout->ram_low_end - BOARD_SMBIOS_END) >> 10));
	return rc;
}

/* The command line begins with the kernel's name, as GRUB and its kin have it. */
static int info_strings(struct boot_run *run, uint8_t *info, struct error *err)
{
	static const char loader[] = "Polyvisor";
	const char *path = run->files->kernel.path, *args = run->files->cmdline;
	uint64_t at, room = strlen(path) + strlen(args) + 2;
	int rc = place_low(&run->place, room, &at, err);

	if (!rc) {
		uint64_t pos = at;
		rc |= gmem_load(run->mem, gpa(pos), path, strlen(path));
		pos += strlen(path);
		rc |= gmem_load(run->mem, gpa(pos), " ", 1);
		rc |= gmem_load(run->mem, gpa(pos + (*args ? 1 : 0)), args, strlen(args) + 1);
		store_le32(info + INFO_CMDLINE, (uint32_t)at);
		if (rc)
			return error_set(err, -ENOMEM, "no RAM for the kernel command line");
	}
	if (!rc)
		rc = place_blob(&run->place, run->mem, loader, sizeof(loader), &at, err);
	store_le32(info + INFO_NAME, (uint32_t)at);
	return rc;
}

int multiboot_boot(struct boot_run *run, struct error *err)
{
	const struct boot_files *f = run->files;
	struct elf_image elf;
	_Bool from_elf;
	int rc = kernel_load(run, &elf, &from_elf, err);
	if (rc)
		return rc;

	uint8_t info[INFO_SIZE] = {0}, mods[BOOT_MAX_INITRDS * MODULE_SIZE] = {0};
	uint64_t at;
	for (unsigned i = 0; i < f->initrd_count && !rc; i++)
		rc = module_place(run, &f->initrd[i], mods + i * MODULE_SIZE, err);
	if (!rc && f->initrd_count) {
		rc = place_blob(&run->place, run->mem, mods, f->initrd_count * MODULE_SIZE, &at,
				err);
		store_le32(info + INFO_MODS, f->initrd_count);
		store_le32(info + INFO_MODS_ADDR, (uint32_t)at);
	}
	if (!rc)
		rc = info_map(run, info, err);
	if (!rc)
		rc = info_strings(run, info, err);
	store_le32(info + INFO_FLAGS,
		   INFO_HAS_MEM | INFO_HAS_CMD | INFO_HAS_MODS | INFO_HAS_MAP | INFO_HAS_NAME);
	if (!rc)
		rc = place_blob(&run->place, run->mem, info, sizeof(info), &at, err);
	if (rc)
		return rc;
	state_enter_32(&run->state, 0, (uint32_t)elf.entry);
	run->state.gpr[X86_RAX] = MB_BOOT_MAGIC;
	run->state.gpr[X86_RBX] = at;
	snprintf(run->what, sizeof(run->what), "Multiboot kernel%s",
		 from_elf ? " (ELF)" : ", loaded by its header's addresses");
	return 0;
}
