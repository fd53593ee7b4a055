/* loader.h: starting a kernel without firmware: Linux bzImage, ELF with a PVH note, Multiboot 1. */
#ifndef MACHINE_LOADER_H
#define MACHINE_LOADER_H

#include "machine/layout.h"
#include "mem/gmem.h"
#include "x86/state.h"

enum boot_protocol {
	BOOT_AUTO,	/* by what the file is; see loader.c for the order */
	BOOT_LINUX64,	/* Linux boot protocol, 64-bit entry */
	BOOT_LINUX32,	/* Linux boot protocol, 32-bit entry */
	BOOT_PVH,	/* Xen's PVH entry point, 32-bit */
	BOOT_MULTIBOOT, /* Multiboot 0.6.96 */
};

/* Who unpacks a bzImage's payload: we, with the real libraries, when we know the format; or always
 * the guest's own stub (slower, and it may place the kernel at a random address). */
enum unpack_mode { UNPACK_HOST, UNPACK_GUEST };

#define BOOT_MAX_INITRDS 16
#define BOOT_MAX_CMDLINE 65536

/* Strings are copied by boot_open. */
struct boot_config {
	const char *kernel;
	const char *const *initrds; /* initial RAM disks, concatenated; Multiboot: modules, "PATH
				       ARGUMENTS" */
	unsigned initrd_count;
	const char *cmdline; /* NULL is "" */
	enum boot_protocol protocol;
	enum unpack_mode unpack;
};

/*
 * Opens the files and keeps them open (so that a reset finds them even when they were deleted, and
 * after the sandbox has closed the file system), and looks at the kernel's format. Everything that
 * can be wrong without guest RAM at hand is found here. -ENOENT, -EISDIR, -EACCES, -EINVAL, ...
 * with a sentence.
 */
struct boot_files;
NODISCARD int boot_open(struct boot_files **files, const struct boot_config *cfg,
			struct error *err);
void boot_close(struct boot_files *files);

/*
 * Reads kernel and initrds into RAM and sets the boot CPU's entry state in `bsp`, which must hold
 * power-on state. Can be called again for every reset; keeps nothing in memory but the descriptors.
 * `rsdp` is the address that firmware_tables_load gave, 0 for none. No vCPU may run. `what` (may be
 * NULL) gets one clause on what was done ("bzImage 2.15, lz4 payload unpacked, 64-bit entry").
 * On failure RAM holds a part of the kernel and `bsp` is untouched.
 */
NODISCARD int boot_load(struct boot_files *files, struct gmem *mem,
			const struct board_layout *layout, uint64_t rsdp, struct x86_state *bsp,
			char what[128], struct error *err);

/* What firmware leaves in every CPU, boot CPU and others: MTRRs that say write-back for RAM and
 * uncached for devices. For power-on state, before boot_load. */
void boot_state_common(const struct board_layout *layout, struct x86_state *state);

#endif
