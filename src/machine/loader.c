/*
 * loader.c: opens a kernel and its initrds, finds out what they are, and starts them without
 * firmware.
 *
 * With BOOT_AUTO the first of these that fits decides: a Linux boot header (64-bit entry where
 * there is one, else 32-bit); an ELF file with a PVH note; a Multiboot header; anything else is
 * refused.
 */
#include "machine/loader.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/loader_internal.h"

static int files_open_initrd(struct boot_files *f, const char *text, struct error *err)
{
	struct boot_file *file = &f->initrd[f->initrd_count];
	int rc = boot_file_open(text, "initrd", file, err);
	const char *space = strchr(text, ' ');

	/* "PATH ARGUMENTS", for modules, when there is no file of the whole name. */
	if (rc == -ENOENT && space && space != text) {
		char *path = strndup(text, (size_t)(space - text));
		if (!path)
			return error_set(err, -ENOMEM, "out of memory");
		rc = boot_file_open(path, "initrd", file, err);
		free(path);
		if (!rc) {
			file->args = strdup(space + 1);
			if (!file->args) {
				boot_file_close(file);
				return error_set(err, -ENOMEM, "out of memory");
			}
		}
	}
	if (!rc)
		f->initrd_count++;
	return rc;
}

/* A sentence for files that people take for kernels. */
static int kernel_unknown(const char *path, const uint8_t *head, size_t len, struct error *err)
{
	enum payload_format format = payload_detect(head, len);

	if (format != PAYLOAD_UNKNOWN && format != PAYLOAD_ELF)
		return error_set(err, -EINVAL,
				 "kernel '%s' is a %s-compressed file: unpack it first", path,
				 payload_name(format));
	if (format == PAYLOAD_ELF)
		return error_set(err, -EINVAL,
				 "kernel '%s' is an ELF file with neither a PVH note nor a "
				 "Multiboot header",
				 path);
	if (len >= 2 && head[0] == 'M' && head[1] == 'Z')
		return error_set(err, -EINVAL,
				 "kernel '%s' is a program for EFI firmware without a Linux boot "
				 "header",
				 path);
	return error_set(err, -EINVAL,
			 "kernel '%s' is in no known format: it should be a Linux bzImage, an ELF "
			 "file with a PVH note, or a Multiboot kernel",
			 path);
}

/* Turns BOOT_AUTO into a protocol, and refuses what cannot be. */
static int kernel_identify(struct boot_files *f, struct error *err)
{
	uint8_t head[MULTIBOOT_SEARCH + 32] = {0};
	struct image image;
	struct elf_image elf = {0};
	int rc = boot_file_image(&f->kernel, "kernel", &image, err);
	if (rc)
		return rc;
	if (image.size > BOOT_MAX_KERNEL)
		return error_set(err, -EFBIG, "kernel '%s' is larger than 2 GiB", image.name);
	size_t len = MIN(image.size, (uint64_t)sizeof(head));
	rc = image_read(&image, 0, head, len, err);
	if (rc)
		return rc;

	_Bool is_elf = elf_magic(head, len);
	f->is_bzimage = !is_elf && linux_magic(head, len);
	if (f->is_bzimage && f->protocol != BOOT_MULTIBOOT) {
		if (f->protocol == BOOT_PVH && f->unpack == UNPACK_GUEST)
			return error_set(
			    err, -EINVAL,
			    "the PVH entry of '%s' is inside its payload: it cannot be "
			    "left to the guest to unpack it",
			    image.name);
		return linux_check(f, &image, err);
	}
	if (f->protocol == BOOT_LINUX32 || (f->protocol == BOOT_LINUX64 && !is_elf))
		return error_set(err, -EINVAL, "kernel '%s' has no Linux boot header", image.name);
	if (is_elf) {
		rc = elf_parse(&image, &elf, err);
		if (rc)
			return rc;
	}
	if (f->protocol == BOOT_PVH && !elf.pvh_entry)
		return error_set(err, -EINVAL, "kernel '%s' has no PVH entry point", image.name);
	if (f->protocol == BOOT_MULTIBOOT && multiboot_find(head, len) < 0)
		return error_set(err, -EINVAL,
				 "kernel '%s' has no Multiboot header in its first 8 KiB",
				 image.name);
	if (f->protocol != BOOT_AUTO)
		return 0;
	if (elf.pvh_entry)
		f->protocol = BOOT_PVH;
	else if (multiboot_find(head, len) >= 0)
		f->protocol = BOOT_MULTIBOOT;
	else
		return kernel_unknown(image.name, head, len, err);
	return 0;
}

int boot_open(struct boot_files **out, const struct boot_config *cfg, struct error *err)
{
	const char *cmdline = cfg->cmdline ? cfg->cmdline : "";

	if (cfg->initrd_count > BOOT_MAX_INITRDS)
		return error_set(err, -EINVAL, "%u initrds: at most %d can be given",
				 cfg->initrd_count, BOOT_MAX_INITRDS);
	if (strlen(cmdline) >= BOOT_MAX_CMDLINE)
		return error_set(err, -EINVAL,
				 "the kernel command line has %zu characters: at most %d can be "
				 "given",
				 strlen(cmdline), BOOT_MAX_CMDLINE - 1);

	struct boot_files *f = calloc(1, sizeof(*f));
	if (!f)
		return error_set(err, -ENOMEM, "out of memory");
	f->protocol = cfg->protocol;
	f->unpack = cfg->unpack;
	f->cmdline = strdup(cmdline);
	int rc = f->cmdline ? boot_file_open(cfg->kernel, "kernel", &f->kernel, err)
			    : error_set(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = kernel_identify(f, err);
	for (unsigned i = 0; i < cfg->initrd_count && !rc; i++)
		rc = files_open_initrd(f, cfg->initrds[i], err);
	if (rc) {
		boot_close(f);
		return rc;
	}
	*out = f;
	return 0;
}

void boot_close(struct boot_files *f)
{
	if (!f)
		return;
	boot_file_close(&f->kernel);
	for (unsigned i = 0; i < f->initrd_count; i++)
		boot_file_close(&f->initrd[i]);
	free(f->cmdline);
	free(f);
}

static int run_pvh(struct boot_run *run, struct error *err)
{
	struct scratch scratch = {0};
	struct image image = run->kernel;
	struct elf_image elf;
	char format[16] = "";
	int rc = 0;

	if (run->files->is_bzimage)
		rc = linux_unpack(run, &scratch, &image, format, err);
	if (!rc)
		rc = elf_parse(&image, &elf, err);
	if (!rc)
		rc = pvh_boot(run, &image, &elf, err);
	scratch_free(&scratch);
	if (!rc && *format)
		snprintf(run->what, sizeof(run->what), "bzImage, %s payload unpacked, PVH entry",
			 format);
	else if (!rc)
		snprintf(run->what, sizeof(run->what), "%s-bit ELF, PVH entry",
			 elf.is64 ? "64" : "32");
	return rc;
}

int boot_load(struct boot_files *files, struct gmem *mem, const struct board_layout *layout,
	      uint64_t rsdp, struct x86_state *bsp, char what[128], struct error *err)
{
	struct boot_run frame = {
	    .files = files, .mem = mem, .layout = layout, .rsdp = rsdp, .state = *bsp};
	struct boot_run *run = &frame;

	place_init(&run->place, layout);
	board_e820(layout, &run->e820);

	int rc = boot_file_image(&files->kernel, "kernel", &run->kernel, err);
	if (!rc) {
		switch (files->protocol) {
		case BOOT_PVH: rc = run_pvh(run, err); break;
		case BOOT_MULTIBOOT: rc = multiboot_boot(run, err); break;
		case BOOT_AUTO:
		case BOOT_LINUX64:
		case BOOT_LINUX32: rc = linux_boot(run, err); break;
		}
	}
	if (!rc) {
		*bsp = run->state;
		if (what)
			memcpy(what, run->what, sizeof(run->what));
	}
	return rc;
}
