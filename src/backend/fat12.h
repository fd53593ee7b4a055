/* fat12.h: makes a small FAT12 file system in memory: a few files in its root directory. */
#ifndef BACKEND_FAT12_H
#define BACKEND_FAT12_H

#include "base/buf.h"
#include "base/error.h"

struct fat12_file {
	const char *name; /* up to 63 ASCII characters, kept as they are; no two alike */
	const void *data;
	size_t len;
};

#define FAT12_MAX_FILES 8
#define FAT12_MAX_BYTES (UINT32_C(4) << 20) /* of all files together */

/*
 * Writes the whole image into `out` (which must take FAT12_MAX_BYTES and 64 KiB more), whole
 * sectors of 512 bytes. The same files give the same bytes. -EFBIG, -ENOMEM with a sentence; names
 * that are not as above are bugs.
 */
NODISCARD int fat12_make(const char *label, const struct fat12_file *files, unsigned count,
			 struct wbuf *out, struct error *err);

#endif
