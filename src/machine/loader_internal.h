/* loader_internal.h: what the boot loaders share among themselves. */
#ifndef MACHINE_LOADER_INTERNAL_H
#define MACHINE_LOADER_INTERNAL_H

#include "machine/loader.h"

/* ---- files (loader_file.c) ---- */

/* One opened file. `args` is what followed the path of a module, "" for none. */
struct boot_file {
	int fd;
	char *path;
	char *args;
};

/* Bytes to load from: an open file, or memory. `name` is for sentences. */
struct image {
	const char *name;
	const uint8_t *mem; /* NULL: read from fd */
	int fd;
	uint64_t size;
};

#define BOOT_MAX_KERNEL (UINT64_C(2) << 30)

/* Opens a regular file for reading; `what` is "kernel" or "initrd". */
NODISCARD int boot_file_open(const char *path, const char *what, struct boot_file *file,
			     struct error *err);
void boot_file_close(struct boot_file *file);
/* Fresh size each time: the file may have changed since it was opened. */
NODISCARD int boot_file_image(const struct boot_file *file, const char *what, struct image *image,
			      struct error *err);
/* Copies [off, off+len); -EINVAL with "is truncated" when the image ends before. */
NODISCARD int image_read(const struct image *image, uint64_t off, void *buf, size_t len,
			 struct error *err);
/* The same straight into guest RAM. -ENOMEM with a sentence when there is no RAM at `addr`. */
NODISCARD int image_load(const struct image *image, uint64_t off, uint64_t len, struct gmem *mem,
			 uint64_t addr, struct error *err);

/* Temporary memory that goes back to the host when freed. */
struct scratch {
	uint8_t *data;
	size_t size;
};
NODISCARD int scratch_alloc(struct scratch *scratch, size_t size, struct error *err);
void scratch_free(struct scratch *scratch);

/* ---- places in RAM (loader_place.c) ---- */

#define PLACE_MAX 64

/* What is taken. Searches see RAM below the EBDA, and from 1 MiB on; never the first page, nor the
 * firmware tables. */
struct place {
	const struct board_layout *layout;
	struct {
		uint64_t base, end;
	} taken[PLACE_MAX];
	unsigned count;
};
void place_init(struct place *place, const struct board_layout *layout);
NODISCARD int place_take(struct place *place, uint64_t base, uint64_t size);
_Bool place_is_ram(const struct place *place, uint64_t base, uint64_t size);
/* Finds room in [lo, hi) and takes it: the lowest, or the highest. -ENOSPC. align: power of two. */
NODISCARD int place_find(struct place *place, uint64_t size, uint64_t align, uint64_t lo,
			 uint64_t hi, _Bool high, uint64_t *base);
/* Small things for the loaders: page-aligned, below 640 KiB, with a sentence on failure. */
NODISCARD int place_low(struct place *place, uint64_t size, uint64_t *base, struct error *err);
/* Takes low memory and stores `data` there. */
NODISCARD int place_blob(struct place *place, struct gmem *mem, const void *data, size_t size,
			 uint64_t *base, struct error *err);

/* ---- one boot (loader.c) ---- */

struct boot_files {
	struct boot_file kernel;
	struct boot_file initrd[BOOT_MAX_INITRDS];
	unsigned initrd_count;
	char *cmdline;
	enum boot_protocol protocol; /* as asked, then as found */
	enum unpack_mode unpack;
	_Bool is_bzimage;
};

struct boot_run {
	const struct boot_files *files;
	struct gmem *mem;
	const struct board_layout *layout;
	uint64_t rsdp;
	struct image kernel;
	struct place place;
	struct e820_map e820;
	struct x86_state state; /* copied to the caller's when all is well */
	char what[128];
};

/* ---- ELF (loader_elf.c) ---- */

#define ELF_MAX_SEGS 32
struct elf_seg {
	uint64_t offset, vaddr, paddr, filesz, memsz;
};
struct elf_image {
	_Bool is64;
	uint16_t machine;
	uint64_t entry;	    /* as the header has it, physical where a segment's addresses say so */
	uint64_t pvh_entry; /* 0: no note */
	_Bool is_linux;	    /* a Xen note says so */
	struct elf_seg seg[ELF_MAX_SEGS];
	unsigned seg_count;
	uint64_t low, high; /* physical hull of the segments */
};
_Bool elf_magic(const uint8_t *head, size_t len);
NODISCARD int elf_parse(const struct image *image, struct elf_image *elf, struct error *err);
/* Loads by physical addresses, zeroes what the file does not hold, and takes the places. */
NODISCARD int elf_load(struct boot_run *run, const struct image *image, const struct elf_image *elf,
		       struct error *err);

/* ---- payloads (loader_unpack.c) ---- */

enum payload_format {
	PAYLOAD_UNKNOWN,
	PAYLOAD_ELF,
	PAYLOAD_GZIP,
	PAYLOAD_BZIP2,
	PAYLOAD_LZMA,
	PAYLOAD_XZ,
	PAYLOAD_LZO,
	PAYLOAD_LZ4,
	PAYLOAD_ZSTD,
};
enum payload_format payload_detect(const uint8_t *head, size_t len);
const char *payload_name(enum payload_format format);
_Bool payload_known(enum payload_format format); /* can payload_unpack do it? */
/* Unpacks the whole of `in`, which gives exactly `out_len` bytes. -EINVAL "is damaged", -EFBIG,
 * -ENOMEM. */
NODISCARD int payload_unpack(enum payload_format format, const uint8_t *in, size_t in_len,
			     uint8_t *out, size_t out_len, struct error *err);

/* ---- protocols ---- */

#define LINUX_CMDLINE 2047 /* COMMAND_LINE_SIZE on x86, less the end */
_Bool linux_magic(const uint8_t *head, size_t len);
NODISCARD int linux_check(const struct boot_files *files, const struct image *image,
			  struct error *err); /* what can be said without RAM */
NODISCARD int linux_boot(struct boot_run *run, struct error *err);
/* The vmlinux inside a bzImage, unpacked into scratch memory. */
NODISCARD int linux_unpack(const struct boot_run *run, struct scratch *vmlinux, struct image *image,
			   char format[16], struct error *err);
/* All initrds as one, 4-byte aligned; nothing and size 0 when there are none. */
NODISCARD int linux_initrd(struct boot_run *run, uint64_t limit, _Bool above_4g, uint64_t *base,
			   uint64_t *size, struct error *err);

NODISCARD int pvh_boot(struct boot_run *run, const struct image *image, const struct elf_image *elf,
		       struct error *err);

/* Offset of a Multiboot header in the first 8 KiB, or -1. */
#define MULTIBOOT_SEARCH 8192
long multiboot_find(const uint8_t *head, size_t len);
NODISCARD int multiboot_boot(struct boot_run *run, struct error *err);

/* ---- entry states (loader_state.c) ---- */

#define BOOT_CS 0x10
#define BOOT_DS 0x18
/* Protected mode without paging, flat segments. `gdt` (0: none in memory) is where boot_gdt lies.
 */
void state_enter_32(struct x86_state *state, uint64_t gdt, uint32_t entry);
/* 64-bit mode on page tables at `cr3`. */
void state_enter_64(struct x86_state *state, uint64_t gdt, uint64_t cr3, uint64_t entry);
/* A GDT with flat code at 0x10 (64- or 32-bit) and data at 0x18. */
NODISCARD int state_place_gdt(struct boot_run *run, _Bool is64, uint64_t *base, struct error *err);
/* Page tables that map the first 4 GiB to themselves. */
NODISCARD int state_place_identity(struct boot_run *run, uint64_t *cr3, struct error *err);

#endif
