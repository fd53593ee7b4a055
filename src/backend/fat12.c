/* fat12.c: makes a small FAT12 file system in memory. FAT is Microsoft's FAT32 File System
 * Specification 1.03 (December 2000), with long names as in its chapter on them. */
#include "backend/fat12.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/le.h"

#define SECTOR		512u
#define CLUSTER_SECTORS 4u
#define CLUSTER		(SECTOR * CLUSTER_SECTORS)
#define ROOT_ENTRIES	64u
#define ENTRY		32u
#define FAT_COPIES	2u
#define RESERVED	1u /* the boot sector */
#define MIN_CLUSTERS	64u
#define MAX_CLUSTERS	4084u /* more would make it FAT16 */

#define ATTR_READ_ONLY 0x01
#define ATTR_LABEL     0x08
#define ATTR_LONG_NAME 0x0f
#define LONG_LAST      0x40
#define LONG_CHARS     13u
#define NAME_MAX_CHARS 63u
#define MEDIA	       0xf8
#define CHAIN_END      0xfffu
/* 1980-01-01: the first day that FAT knows. */
#define DATE_FIRST 0x0021

struct volume {
	unsigned clusters, fat_sectors, sectors;
};

static unsigned clusters_of(size_t len)
{
	return (unsigned)((len + CLUSTER - 1) / CLUSTER);
}

static struct volume volume_plan(const struct fat12_file *files, unsigned count)
{
	struct volume v = {0};

	for (unsigned i = 0; i < count; i++)
		v.clusters += clusters_of(files[i].len);
	v.clusters = MAX(v.clusters, MIN_CLUSTERS);
	/* 12 bits for each cluster, and for two that are not there. */
	v.fat_sectors = ((v.clusters + 2) * 3 / 2 + SECTOR) / SECTOR;
	v.sectors = RESERVED + FAT_COPIES * v.fat_sectors + ROOT_ENTRIES * ENTRY / SECTOR +
		    v.clusters * CLUSTER_SECTORS;
	return v;
}

static void put_padded(uint8_t *to, const char *text, size_t width)
{
	size_t n = strlen(text);

	memset(to, ' ', width);
	memcpy(to, text, MIN(n, width));
}

/* A number that goes with the content: FNV-1a. */
static uint32_t serial_of(const struct fat12_file *files, unsigned count)
{
	uint32_t h = 0x811c9dc5;

	for (unsigned i = 0; i < count; i++)
		for (size_t j = 0; j < files[i].len; j++)
			h = (h ^ ((const uint8_t *)files[i].data)[j]) * 0x01000193;
	return h;
}

static void put_boot_sector(uint8_t *b, const struct volume *v, const char *label, uint32_t serial)
{
	static const uint8_t jump[3] = {0xeb, 0x3c, 0x90};
	static const uint8_t stay[4] = {0xf4, 0xeb, 0xfd, 0}; /* whoever boots this halts */

	memcpy(b, jump, sizeof(jump));
	put_padded(b + 3, "POLYVISR", 8);
	store_le16(b + 11, SECTOR);
	b[13] = CLUSTER_SECTORS;
	store_le16(b + 14, RESERVED);
	b[16] = FAT_COPIES;
	store_le16(b + 17, ROOT_ENTRIES);
	store_le16(b + 19, (uint16_t)v->sectors);
	b[21] = MEDIA;
	store_le16(b + 22, (uint16_t)v->fat_sectors);
	store_le16(b + 24, 32); /* sectors a track, heads: of no meaning */
	store_le16(b + 26, 2);
	b[36] = 0x80;
	b[38] = 0x29;
	store_le32(b + 39, serial);
	put_padded(b + 43, label, 11);
	put_padded(b + 54, "FAT12", 8);
	memcpy(b + 62, stay, sizeof(stay));
	store_le16(b + 510, 0xaa55);
}

static void fat_set(uint8_t *fat, unsigned cluster, unsigned value)
{
	uint8_t *p = fat + cluster * 3 / 2;
	unsigned old = load_le16(p);

	store_le16(p,
		   (uint16_t)(cluster & 1 ? (old & 0x000f) | value << 4 : (old & 0xf000) | value));
}

/* The 8.3 name: letters in upper case, cut, and numbered by its place: USER-D~1. */
static void short_name(const char *name, unsigned number, uint8_t out[11])
{
	unsigned n = 0;

	memset(out, ' ', 11);
	for (const char *p = name; *p && n < 6; p++)
		if (isalnum((unsigned char)*p) || *p == '-' || *p == '_')
			out[n++] = (uint8_t)toupper((unsigned char)*p);
	out[n++] = '~';
	out[n] = (uint8_t)('1' + number);
}

static uint8_t short_sum(const uint8_t name[11])
{
	uint8_t sum = 0;

	for (unsigned i = 0; i < 11; i++)
		sum = (uint8_t)((sum >> 1 | sum << 7) + name[i]);
	return sum;
}

/* One part of a long name: 13 characters of UTF-16, an end, and ones. */
static void put_long_part(uint8_t *e, const char *name, unsigned part, _Bool last, uint8_t sum)
{
	static const uint8_t places[LONG_CHARS] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
	size_t len = strlen(name);

	e[0] = (uint8_t)((part + 1) | (last ? LONG_LAST : 0));
	e[11] = ATTR_LONG_NAME;
	e[13] = sum;
	for (unsigned i = 0; i < LONG_CHARS; i++) {
		size_t at = part * LONG_CHARS + i;
		store_le16(e + places[i], at < len ? (uint8_t)name[at] : at == len ? 0 : 0xffff);
	}
}

/* A file's entries, the long name's last part first; gives what comes after them. */
static uint8_t *put_file(uint8_t *e, const struct fat12_file *file, unsigned number,
			 unsigned cluster)
{
	unsigned parts = (unsigned)(strlen(file->name) + LONG_CHARS - 1) / LONG_CHARS;
	uint8_t name[11];

	assert(*file->name && strlen(file->name) <= NAME_MAX_CHARS);
	short_name(file->name, number, name);
	for (unsigned part = parts; part-- > 0; e += ENTRY)
		put_long_part(e, file->name, part, part + 1 == parts, short_sum(name));
	memcpy(e, name, sizeof(name));
	e[11] = ATTR_READ_ONLY;
	store_le16(e + 16, DATE_FIRST);
	store_le16(e + 18, DATE_FIRST);
	store_le16(e + 24, DATE_FIRST);
	store_le16(e + 26, (uint16_t)(file->len ? cluster : 0));
	store_le32(e + 28, (uint32_t)file->len);
	return e + ENTRY;
}

static void fill(uint8_t *image, const struct volume *v, const char *label,
		 const struct fat12_file *files, unsigned count)
{
	uint8_t *fat = image + RESERVED * SECTOR;
	uint8_t *root = fat + FAT_COPIES * v->fat_sectors * SECTOR;
	uint8_t *data = root + ROOT_ENTRIES * ENTRY, *e = root;
	unsigned cluster = 2;

	put_boot_sector(image, v, label, serial_of(files, count));
	fat_set(fat, 0, 0xf00 | MEDIA);
	fat_set(fat, 1, CHAIN_END);
	put_padded(e, label, 11);
	e[11] = ATTR_LABEL;
	store_le16(e + 24, DATE_FIRST);
	e += ENTRY;
	for (unsigned i = 0; i < count; i++) {
		unsigned n = clusters_of(files[i].len);

		e = put_file(e, &files[i], i, cluster);
		if (n)
			memcpy(data + (cluster - 2) * CLUSTER, files[i].data, files[i].len);
		for (unsigned k = 0; k < n; k++, cluster++)
			fat_set(fat, cluster, k + 1 < n ? cluster + 1 : CHAIN_END);
	}
	memcpy(fat + v->fat_sectors * SECTOR, fat, v->fat_sectors * SECTOR);
}

int fat12_make(const char *label, const struct fat12_file *files, unsigned count, struct wbuf *out,
	       struct error *err)
{
	size_t total = 0, start = out->len;

	assert(count <= FAT12_MAX_FILES);
	for (unsigned i = 0; i < count; i++) {
		if (files[i].len > FAT12_MAX_BYTES || total + files[i].len > FAT12_MAX_BYTES)
			return error_set(err, -EFBIG, "the files are larger than %u MiB together",
					 FAT12_MAX_BYTES >> 20);
		total += files[i].len;
	}
	struct volume v = volume_plan(files, count);
	assert(v.clusters <= MAX_CLUSTERS && v.sectors <= UINT16_MAX);
	wbuf_zero(out, (size_t)v.sectors * SECTOR);
	if (out->failed)
		return error_set(err, -ENOMEM, "out of memory for a small disk");
	fill(out->data + start, &v, label, files, count);
	return 0;
}
