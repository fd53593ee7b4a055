/* loader_pvh.c: Xen's PVH start of day (xen/include/public/arch-x86/hvm/start_info.h,
 * docs/misc/pvh). */
#include "machine/loader_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/le.h"

/* struct hvm_start_info, version 1 */
#define INFO_MAGIC    0x00 /* 0x336ec578 */
#define INFO_VERSION  0x04
#define INFO_FLAGS    0x08
#define INFO_MODULES  0x0c
#define INFO_MODLIST  0x10
#define INFO_CMDLINE  0x18
#define INFO_RSDP     0x20
#define INFO_MAP      0x28
#define INFO_MAP_LEN  0x30
#define INFO_SIZE     0x38
#define MODULE_SIZE   32 /* address, size, command line, reserved */
#define MAP_SIZE      24 /* address, size, type, reserved */
#define INFO_MAGIC_ID 0x336ec578u

static int module_place(struct boot_run *run, const struct boot_file *file, uint8_t *entry,
			struct error *err)
{
	struct image image;
	uint64_t at, args = 0;
	int rc = boot_file_image(file, "module", &image, err);
	if (rc)
		return rc;
	if (place_find(&run->place, image.size, GMEM_PAGE_SIZE, BOARD_SMBIOS_END,
		       run->layout->ram_low_end, 1, &at))
		return error_set(err, -ENOMEM,
				 "module '%s' (%llu MiB) does not fit into the VM's RAM: give it "
				 "more with -m",
				 image.name, (unsigned long long)(image.size >> 20));
	rc = image_load(&image, 0, image.size, run->mem, at, err);
	if (!rc && file->args)
		rc = place_blob(&run->place, run->mem, file->args, strlen(file->args) + 1, &args,
				err);
	store_le64(entry, at);
	store_le64(entry + 8, image.size);
	store_le64(entry + 16, args);
	return rc;
}

/* Linux takes one module, its initial RAM disk; others get every file as a module of its own. */
static int modules_place(struct boot_run *run, _Bool is_linux, uint8_t *list, unsigned *count,
			 struct error *err)
{
	const struct boot_files *f = run->files;
	uint64_t base, size;
	int rc = 0;

	*count = is_linux ? f->initrd_count > 0 : f->initrd_count;
	if (is_linux) {
		rc = linux_initrd(run, BOARD_HIGH_BASE, 0, &base, &size, err);
		if (!rc) {
			store_le64(list, base);
			store_le64(list + 8, size);
		}
		return rc;
	}
	for (unsigned i = 0; i < f->initrd_count && !rc; i++)
		rc = module_place(run, &f->initrd[i], list + i * MODULE_SIZE, err);
	return rc;
}

int pvh_boot(struct boot_run *run, const struct image *image, const struct elf_image *elf,
	     struct error *err)
{
	if (!elf->pvh_entry)
		return error_set(err, -EINVAL, "'%s' has no PVH entry point (Xen note 18)",
				 image->name);
	if (elf->pvh_entry >= BOARD_HIGH_BASE || elf->pvh_entry < elf->low ||
	    elf->pvh_entry >= elf->high)
		return error_set(err, -EINVAL,
				 "the PVH entry point of '%s' is outside of what it loads",
				 image->name);
	if (elf->is_linux && strlen(run->files->cmdline) > LINUX_CMDLINE)
		return error_set(err, -EINVAL,
				 "the kernel command line has %zu characters, and Linux takes at "
				 "most %d",
				 strlen(run->files->cmdline), LINUX_CMDLINE);
	int rc = elf_load(run, image, elf, err);
	if (rc)
		return rc;

	uint8_t info[INFO_SIZE] = {0}, list[BOOT_MAX_INITRDS * MODULE_SIZE] = {0};
	uint8_t map[E820_MAX * MAP_SIZE] = {0};
	unsigned modules = 0;
	uint64_t cmdline, modlist = 0, map_at, info_at;
	rc = modules_place(run, elf->is_linux, list, &modules, err);
	if (!rc)
		rc = place_blob(&run->place, run->mem, run->files->cmdline,
				strlen(run->files->cmdline) + 1, &cmdline, err);
	if (!rc && modules)
		rc = place_blob(&run->place, run->mem, list, modules * MODULE_SIZE, &modlist, err);
	for (unsigned i = 0; i < run->e820.count; i++) {
		store_le64(map + i * MAP_SIZE, run->e820.entry[i].base);
		store_le64(map + i * MAP_SIZE + 8, run->e820.entry[i].size);
		store_le32(map + i * MAP_SIZE + 16, run->e820.entry[i].type);
	}
	if (!rc)
		rc = place_blob(&run->place, run->mem, map, run->e820.count * MAP_SIZE, &map_at,
				err);
	if (rc)
		return rc;

	store_le32(info + INFO_MAGIC, INFO_MAGIC_ID);
	store_le32(info + INFO_VERSION, 1);
	store_le32(info + INFO_MODULES, modules);
	store_le64(info + INFO_MODLIST, modlist);
	store_le64(info + INFO_CMDLINE, cmdline);
	store_le64(info + INFO_RSDP, run->rsdp);
	store_le64(info + INFO_MAP, map_at);
	store_le32(info + INFO_MAP_LEN, run->e820.count);
	rc = place_blob(&run->place, run->mem, info, sizeof(info), &info_at, err);
	if (rc)
		return rc;
	state_enter_32(&run->state, 0, (uint32_t)elf->pvh_entry);
	run->state.gpr[X86_RBX] = info_at;
	return 0;
}
