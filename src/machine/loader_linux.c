/* loader_linux.c: Linux's x86 boot protocol 2.06 to 2.15 (Documentation/arch/x86/boot.rst,
 * zero-page.rst). */
#include "machine/loader_internal.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/le.h"
#include "base/log.h"
#include "x86/regs.h"

/* The setup header, by offset in the file and in the zero page. */
#define HDR_SETUP_SECTS	 0x1f1
#define HDR_SYSSIZE	 0x1f4
#define HDR_BOOT_FLAG	 0x1fe
#define HDR_JUMP	 0x201 /* header's end is 0x202 + this byte */
#define HDR_MAGIC	 0x202
#define HDR_VERSION	 0x206
#define HDR_LOADER	 0x210
#define HDR_LOADFLAGS	 0x211
#define HDR_CODE32_START 0x214
#define HDR_RAMDISK	 0x218
#define HDR_RAMDISK_SIZE 0x21c
#define HDR_CMDLINE	 0x228
#define HDR_INITRD_MAX	 0x22c
#define HDR_ALIGNMENT	 0x230 /* 2.05 */
#define HDR_RELOCATABLE	 0x234 /* 2.05 */
#define HDR_XLOADFLAGS	 0x236 /* 2.12 */
#define HDR_CMDLINE_SIZE 0x238 /* 2.06 */
#define HDR_PAYLOAD	 0x248 /* 2.08 */
#define HDR_PAYLOAD_LEN	 0x24c
#define HDR_PREF_ADDRESS 0x258 /* 2.10 */
#define HDR_INIT_SIZE	 0x260
#define HDR_END_MAX	 0x290
/* The zero page's own fields. */
#define ZP_RSDP		   0x070
#define ZP_EXT_RAMDISK	   0x0c0
#define ZP_EXT_RAMDISK_LEN 0x0c4
#define ZP_E820_COUNT	   0x1e8
#define ZP_E820		   0x2d0
#define ZP_SIZE		   4096

#define LOADED_HIGH	   BIT32(0)
#define XLF_KERNEL_64	   BIT32(0)
#define XLF_ABOVE_4G	   BIT32(1)
#define LOADER_UNDEFINED   0xff
#define ENTRY_64	   0x200
#define VMLINUX_INITRD_MAX 0x7fffffffu
#define UNPACK_MAX	   (UINT64_C(512) << 20)
#define UNPACK_SLACK	   (UINT64_C(16) << 20) /* relocations behind the ELF file, notes */

struct setup {
	uint8_t raw[HDR_END_MAX];
	unsigned end; /* of the header's bytes */
	unsigned version;
	uint64_t kernel_at, kernel_len; /* protected-mode part, in the file */
	uint32_t xloadflags, cmdline_size, alignment, payload, payload_len;
	uint64_t initrd_max, pref_address, init_size;
	_Bool relocatable;
};

_Bool linux_magic(const uint8_t *head, size_t len)
{
	return len >= HDR_VERSION + 2 && load_le16(head + HDR_BOOT_FLAG) == 0xaa55 &&
	       !memcmp(head + HDR_MAGIC, "HdrS", 4);
}

static int setup_refuse(const struct image *image, const char *why, struct error *err)
{
	return error_set(err, -EINVAL, "'%s' is not a kernel this machine can start: %s",
			 image->name, why);
}

static void setup_fields(struct setup *s)
{
	const uint8_t *h = s->raw;

	s->initrd_max = load_le32(h + HDR_INITRD_MAX);
	s->alignment = load_le32(h + HDR_ALIGNMENT);
	s->relocatable = h[HDR_RELOCATABLE] != 0;
	s->cmdline_size = load_le32(h + HDR_CMDLINE_SIZE);
	if (s->version >= 0x208) {
		s->payload = load_le32(h + HDR_PAYLOAD);
		s->payload_len = load_le32(h + HDR_PAYLOAD_LEN);
	}
	if (s->version >= 0x20a) {
		s->pref_address = load_le64(h + HDR_PREF_ADDRESS);
		s->init_size = load_le32(h + HDR_INIT_SIZE);
	}
	if (s->version >= 0x20c)
		s->xloadflags = load_le16(h + HDR_XLOADFLAGS);
	/* Before 2.10 a kernel runs where it is loaded, and needs room for itself. */
	if (!s->pref_address)
		s->pref_address = BOARD_SMBIOS_END;
	s->init_size = MAX(s->init_size, s->kernel_len);
}

static int setup_read(const struct image *image, struct setup *s, struct error *err)
{
	*s = (struct setup){0};
	if (image->size < HDR_END_MAX)
		return error_set(err, -EINVAL, "'%s' is truncated: it ends inside its boot header",
				 image->name);
	int rc = image_read(image, 0, s->raw, sizeof(s->raw), err);
	if (rc)
		return rc;
	if (!linux_magic(s->raw, sizeof(s->raw)))
		return setup_refuse(image, "it has no Linux boot header", err);

	s->version = load_le16(s->raw + HDR_VERSION);
	if (s->version < 0x206)
		return error_set(err, -EINVAL,
				 "'%s' speaks Linux boot protocol %u.%02u; this machine starts "
				 "2.06 (Linux 2.6.22) and later",
				 image->name, s->version >> 8, s->version & 255);
	if (!(s->raw[HDR_LOADFLAGS] & LOADED_HIGH))
		return setup_refuse(image, "it is a zImage; build a bzImage", err);

	s->end = MIN(HDR_MAGIC + (unsigned)s->raw[HDR_JUMP], (unsigned)HDR_END_MAX);
	unsigned sects = s->raw[HDR_SETUP_SECTS];
	s->kernel_at = ((sects ? sects : 4) + 1) * 512u;
	uint64_t len = (uint64_t)load_le32(s->raw + HDR_SYSSIZE) * 16;
	/* syssize is rounded up, and signatures may follow the kernel. */
	if (image->size <= s->kernel_at || image->size - s->kernel_at + 15 < len)
		return error_set(err, -EINVAL,
				 "'%s' is truncated: its header says %llu bytes and it has %llu",
				 image->name, (unsigned long long)(s->kernel_at + len),
				 (unsigned long long)image->size);
	s->kernel_len = image->size - s->kernel_at;
	if (len && len < s->kernel_len)
		s->kernel_len = len;
	setup_fields(s);
	if (s->alignment & (s->alignment - 1))
		return setup_refuse(image, "its boot header is damaged (alignment)", err);
	if (!range_fits(s->payload, s->payload_len, s->kernel_len))
		return setup_refuse(image, "its boot header is damaged (payload)", err);
	if (s->pref_address > BOARD_HIGH_BASE)
		return setup_refuse(image, "its boot header is damaged (preferred address)", err);
	return 0;
}

static int cmdline_check(const char *cmdline, uint32_t limit, struct error *err)
{
	size_t len = strlen(cmdline);

	if (len > limit)
		return error_set(err, -EINVAL,
				 "the kernel command line has %zu characters, and this kernel "
				 "takes at most %u",
				 len, limit);
	return 0;
}

int linux_check(const struct boot_files *files, const struct image *image, struct error *err)
{
	struct setup s;
	int rc = setup_read(image, &s, err);
	if (rc)
		return rc;

	if (files->protocol == BOOT_LINUX64 && !(s.xloadflags & XLF_KERNEL_64))
		return error_set(err, -EINVAL,
				 "'%s' has no 64-bit entry point: it is a 32-bit kernel or older "
				 "than Linux 3.8",
				 image->name);
	return cmdline_check(files->cmdline, s.cmdline_size, err);
}

int linux_unpack(const struct boot_run *run, struct scratch *vmlinux, struct image *image,
		 char format[16], struct error *err)
{
	struct scratch packed = {0};
	struct setup s;
	int rc = setup_read(&run->kernel, &s, err);
	if (rc)
		return rc;
	if (s.payload_len < 8)
		return setup_refuse(&run->kernel, "it does not say where its payload is", err);

	/* The last four bytes are the unpacked size, for gzip as its own trailer. */
	rc = scratch_alloc(&packed, s.payload_len, err);
	if (!rc)
		rc = image_read(&run->kernel, s.kernel_at + s.payload, packed.data, s.payload_len,
				err);
	if (rc)
		goto out;
	enum payload_format kind = payload_detect(packed.data, s.payload_len);
	if (!payload_known(kind)) {
		rc = error_set(err, -ENOTSUP,
			       "the payload of '%s' is in a format (%s) that cannot "
			       "be unpacked here",
			       run->kernel.name, payload_name(kind));
		goto out;
	}
	size_t in_len = kind == PAYLOAD_GZIP ? s.payload_len : s.payload_len - 4;
	uint64_t out_len = load_le32(packed.data + s.payload_len - 4);
	if (kind == PAYLOAD_ELF)
		out_len = in_len = s.payload_len;
	if (!out_len || out_len > UNPACK_MAX || out_len > run->layout->ram_bytes + UNPACK_SLACK) {
		rc = error_set(err, -ENOMEM,
			       "'%s' says that it unpacks to %llu MiB, too much for "
			       "this VM's %llu MiB of RAM",
			       run->kernel.name, (unsigned long long)(out_len >> 20),
			       (unsigned long long)(run->layout->ram_bytes >> 20));
		goto out;
	}
	rc = scratch_alloc(vmlinux, out_len, err);
	if (!rc) {
		rc = payload_unpack(kind, packed.data, in_len, vmlinux->data, out_len, err);
		if (rc) {
			error_prefix(err, "'%s'", run->kernel.name);
			scratch_free(vmlinux);
		}
	}
	if (!rc) {
		*image =
		    (struct image){.name = run->kernel.name, .mem = vmlinux->data, .size = out_len};
		snprintf(format, 16, "%s", payload_name(kind));
	}
out:
	scratch_free(&packed);
	return rc;
}

/* Linux unpacks cpio archives, compressed or not, and mounts old-style file system images; the rest
 * is not an error, since a guest's driver may know better. */
static void initrd_look(const struct image *image)
{
	uint8_t head[1084] = {0};
	size_t len = MIN(image->size, (uint64_t)sizeof(head));

	if (image_read(image, 0, head, len, NULL) || payload_detect(head, len) != PAYLOAD_UNKNOWN)
		return;
	if (!memcmp(head, "07070", 5) || !memcmp(head, "\x04\x22\x4d\x18", 4) ||
	    !memcmp(head, "hsqs", 4) || !memcmp(head, "-rom1fs-", 8) || !head[0] ||
	    load_le16(head + 1080) == 0xef53)
		return;
	log_warn(
	    "initrd '%s' looks like neither a cpio archive nor a compressed one: Linux may not "
	    "find its init in it",
	    image->name);
}

int linux_initrd(struct boot_run *run, uint64_t limit, _Bool above_4g, uint64_t *base,
		 uint64_t *size, struct error *err)
{
	const struct boot_files *f = run->files;
	struct image images[BOOT_MAX_INITRDS];
	uint64_t total = 0;

	*base = *size = 0;
	for (unsigned i = 0; i < f->initrd_count; i++) {
		if (f->initrd[i].args)
			return error_set(err, -ENOENT, "initrd '%s %s' does not exist",
					 f->initrd[i].path, f->initrd[i].args);
		int rc = boot_file_image(&f->initrd[i], "initrd", &images[i], err);
		if (rc)
			return rc;
		initrd_look(&images[i]);
		total += ALIGN_UP(images[i].size, 4);
		if (images[i].size > BOARD_MAX_RAM || total > BOARD_MAX_RAM)
			return error_set(err, -EFBIG, "initrd '%s' is too large", images[i].name);
	}
	if (!total)
		return 0;

	uint64_t at;
	const struct board_layout *l = run->layout;
	int rc = place_find(&run->place, total, GMEM_PAGE_SIZE, BOARD_SMBIOS_END,
			    MIN(limit, l->ram_low_end), 1, &at);
	if (rc && above_4g)
		rc = place_find(&run->place, total, GMEM_PAGE_SIZE, l->ram_high_base,
				l->ram_high_base + l->ram_high_size, 1, &at);
	if (rc)
		return error_set(
		    err, -ENOMEM,
		    "the initrd has %llu MiB, which do not fit next to the kernel into "
		    "%llu MiB of RAM: give the VM more with -m",
		    (unsigned long long)(total >> 20), (unsigned long long)(l->ram_bytes >> 20));
	*base = at;
	*size = total;
	for (unsigned i = 0; i < f->initrd_count; i++) {
		rc = image_load(&images[i], 0, images[i].size, run->mem, at, err);
		uint64_t pad = ALIGN_UP(images[i].size, 4) - images[i].size;
		if (!rc && pad && gmem_fill(run->mem, gpa(at + images[i].size), 0, (size_t)pad))
			rc = error_set(err, -ENOMEM, "no RAM for the initrd");
		if (rc)
			return rc;
		at += ALIGN_UP(images[i].size, 4);
	}
	return 0;
}

static void zero_page_e820(const struct boot_run *run, uint8_t *zp)
{
	zp[ZP_E820_COUNT] = (uint8_t)run->e820.count;
	for (unsigned i = 0; i < run->e820.count; i++) {
		uint8_t *e = zp + ZP_E820 + 20 * i;
		store_le64(e, run->e820.entry[i].base);
		store_le64(e + 8, run->e820.entry[i].size);
		store_le32(e + 16, run->e820.entry[i].type);
	}
}

/* Everything around the kernel itself: command line, initrd, zero page; then the entry. */
static int linux_enter(struct boot_run *run, const struct setup *s, uint64_t kernel, uint64_t entry,
		       _Bool is64, struct error *err)
{
	uint8_t zp[ZP_SIZE] = {0};
	uint64_t cmdline, initrd, initrd_size, page, gdt, cr3 = 0;
	int rc = cmdline_check(run->files->cmdline, s->cmdline_size, err);

	if (!rc)
		rc = linux_initrd(run, s->initrd_max + 1, is64 && s->xloadflags & XLF_ABOVE_4G,
				  &initrd, &initrd_size, err);
	if (!rc)
		rc = place_blob(&run->place, run->mem, run->files->cmdline,
				strlen(run->files->cmdline) + 1, &cmdline, err);
	if (rc)
		return rc;

	memcpy(zp + HDR_SETUP_SECTS, s->raw + HDR_SETUP_SECTS, s->end - HDR_SETUP_SECTS);
	zp[HDR_LOADER] = LOADER_UNDEFINED;
	store_le32(zp + HDR_CODE32_START, (uint32_t)kernel);
	store_le32(zp + HDR_CMDLINE, (uint32_t)cmdline);
	store_le32(zp + HDR_RAMDISK, (uint32_t)initrd);
	store_le32(zp + HDR_RAMDISK_SIZE, (uint32_t)initrd_size);
	store_le32(zp + ZP_EXT_RAMDISK, (uint32_t)(initrd >> 32));
	store_le32(zp + ZP_EXT_RAMDISK_LEN, (uint32_t)(initrd_size >> 32));
	store_le64(zp + ZP_RSDP, run->rsdp);
	zero_page_e820(run, zp);

	rc = place_blob(&run->place, run->mem, zp, sizeof(zp), &page, err);
	if (!rc)
		rc = state_place_gdt(run, is64, &gdt, err);
	if (!rc && is64)
		rc = state_place_identity(run, &cr3, err);
	if (rc)
		return rc;
	if (is64)
		state_enter_64(&run->state, gdt, cr3, entry);
	else
		state_enter_32(&run->state, gdt, (uint32_t)entry);
	run->state.gpr[X86_RSI] = page;
	return 0;
}

static int ram_too_small(const struct boot_run *run, uint64_t from, uint64_t to, struct error *err)
{
	return error_set(
	    err, -ENOMEM,
	    "'%s' needs RAM from 0x%llx to 0x%llx while it starts, and this VM has %llu "
	    "MiB: give it more with -m",
	    run->kernel.name, (unsigned long long)from, (unsigned long long)to,
	    (unsigned long long)(run->layout->ram_bytes >> 20));
}

/* The kernel unpacks itself: load it where it prefers to run, and enter its stub. */
static int linux_stub(struct boot_run *run, const struct setup *s, _Bool is64, struct error *err)
{
	uint64_t at = s->relocatable ? s->pref_address : BOARD_SMBIOS_END;
	uint64_t need =
	    MAX(s->init_size + s->pref_address - MIN(at, s->pref_address), s->kernel_len);

	if (!range_fits(at, need, run->layout->ram_low_end) || at < BOARD_SMBIOS_END)
		return error_set(
		    err, -ENOMEM,
		    "'%s' needs RAM from 0x%llx to 0x%llx while it unpacks, and this VM "
		    "has %llu MiB: give it more with -m",
		    run->kernel.name, (unsigned long long)at, (unsigned long long)(at + need),
		    (unsigned long long)(run->layout->ram_bytes >> 20));
	int rc = image_load(&run->kernel, s->kernel_at, s->kernel_len, run->mem, at, err);
	if (!rc)
		rc = place_take(&run->place, at, need);
	if (!rc)
		rc = linux_enter(run, s, at, at + (is64 ? ENTRY_64 : 0), is64, err);
	if (!rc)
		snprintf(run->what, sizeof(run->what), "bzImage %u.%02u, %s-bit entry",
			 s->version >> 8, s->version & 255, is64 ? "64" : "32");
	return rc;
}

/*
 * We have unpacked: enter vmlinux as its stub would. startup_64 wants 64-bit mode, an identity map,
 * the zero page in RSI, and itself at its link address or shifted by a multiple of 2 MiB. It is
 * loaded at its link address, because only the stub applies relocations: so no KASLR.
 */
static int linux_vmlinux(struct boot_run *run, const struct setup *s, const struct image *vmlinux,
			 const char *format, struct error *err)
{
	struct elf_image elf;
	int rc = elf_parse(vmlinux, &elf, err);
	if (rc)
		return rc;
	if (!elf.is64 || elf.machine != EM_X86_64)
		return setup_refuse(&run->kernel, "its 64-bit entry needs an x86-64 vmlinux", err);
	if (elf.high > BOARD_HIGH_BASE || elf.entry < elf.low || elf.entry >= elf.high)
		return setup_refuse(&run->kernel, "its entry point is outside of what it loads",
				    err);

	rc = elf_load(run, vmlinux, &elf, err);
	/* Up to init_size the kernel may use RAM behind its image before it has a map. */
	uint64_t end = s->pref_address + s->init_size;
	if (!rc && end > elf.high) {
		if (!place_is_ram(&run->place, elf.high, end - elf.high))
			return ram_too_small(run, elf.low, end, err);
		rc = place_take(&run->place, elf.high, end - elf.high);
	}
	if (!rc)
		rc = linux_enter(run, s, elf.low, elf.entry, 1, err);
	if (!rc && format)
		snprintf(run->what, sizeof(run->what),
			 "bzImage %u.%02u, %s payload unpacked, vmlinux's 64-bit entry",
			 s->version >> 8, s->version & 255, format);
	else if (!rc)
		snprintf(run->what, sizeof(run->what), "vmlinux, 64-bit entry");
	return rc;
}

/* A bare vmlinux has no setup header: the smallest one that its startup code accepts. */
static void setup_made_up(struct setup *s)
{
	*s = (struct setup){
	    .end = HDR_END_MAX,
	    .version = 0x20f,
	    .xloadflags = XLF_KERNEL_64 | XLF_ABOVE_4G,
	    .cmdline_size = LINUX_CMDLINE,
	    .initrd_max = VMLINUX_INITRD_MAX,
	};
	store_le16(s->raw + HDR_BOOT_FLAG, 0xaa55);
	memcpy(s->raw + HDR_MAGIC, "HdrS", 4);
	store_le16(s->raw + HDR_VERSION, (uint16_t)s->version);
	s->raw[HDR_LOADFLAGS] = LOADED_HIGH;
	store_le16(s->raw + HDR_XLOADFLAGS, (uint16_t)s->xloadflags);
	store_le32(s->raw + HDR_ALIGNMENT, 0x1000000);
	store_le32(s->raw + HDR_CMDLINE_SIZE, s->cmdline_size);
	store_le32(s->raw + HDR_INITRD_MAX, (uint32_t)s->initrd_max);
}

int linux_boot(struct boot_run *run, struct error *err)
{
	struct setup s;
	if (!run->files->is_bzimage) {
		setup_made_up(&s);
		return linux_vmlinux(run, &s, &run->kernel, NULL, err);
	}

	int rc = setup_read(&run->kernel, &s, err);
	if (rc)
		return rc;
	_Bool is64 = run->files->protocol != BOOT_LINUX32 && s.xloadflags & XLF_KERNEL_64;
	if (!is64 || run->files->unpack == UNPACK_GUEST)
		return linux_stub(run, &s, is64, err);

	uint8_t head[16] = {0};
	size_t head_len = MIN((size_t)s.payload_len, sizeof(head));
	rc = image_read(&run->kernel, s.kernel_at + s.payload, head, head_len, err);
	if (rc)
		return rc;
	if (!payload_known(payload_detect(head, head_len)))
		return linux_stub(run, &s, is64, err);

	struct scratch scratch = {0};
	struct image vmlinux;
	char format[16];
	rc = linux_unpack(run, &scratch, &vmlinux, format, err);
	if (!rc)
		rc = linux_vmlinux(run, &s, &vmlinux, format, err);
	scratch_free(&scratch);
	return rc;
}
