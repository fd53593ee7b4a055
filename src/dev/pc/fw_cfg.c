/* fw_cfg.c: firmware configuration device: selector and data ports, DMA, file directory. */
#include "dev/pc/fw_cfg.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/le.h"

/* The interface is the one that QEMU documents in its docs/specs/fw_cfg (FWCFG below); firmware and
 * Linux's driver speak it. Numbers in the directory and in DMA are big-endian. */

#define KEY_MASK       0x3fff /* bit 14 meant "write" once, bit 15 is the architecture's */
#define LOCAL_KEYS     16
#define ID_TRADITIONAL 1u
#define ID_DMA	       2u
#define DMA_ERROR      1u
#define DMA_READ       2u
#define DMA_SKIP       4u
#define DMA_SELECT     8u
#define DMA_WRITE      16u
#define NAME_FIELD     (FW_CFG_NAME_MAX + 1)
#define DIR_ENTRY      (4 + 2 + 2 + NAME_FIELD)
#define GENERAL_KEYS   (FW_CFG_FILE_FIRST + FW_CFG_FILE_SLOTS)
#define WRITABLE_BYTES 4096	    /* of all writable files together */
#define ZEROES_MAX     (256u << 10) /* that one request may read past an item's end */

struct item {
	const uint8_t *data;
	uint8_t *owned; /* to be freed, or NULL */
	uint32_t len;
	uint32_t writable_at; /* offset in `writable` + 1; 0: read-only */
	char name[NAME_FIELD];
};

struct fw_cfg {
	struct device dev;
	struct fw_cfg_config cfg;
	struct region port_region, dma_region;
	struct item general[GENERAL_KEYS], local[LOCAL_KEYS];
	unsigned files;
	uint8_t dir[4 + FW_CFG_FILE_SLOTS * DIR_ENTRY];
	uint16_t key;
	uint32_t offset;   /* in the selected item */
	uint32_t dma_high; /* upper half of the DMA address */
	uint32_t writable_used;
	uint8_t writable[WRITABLE_BYTES];
};

/* The descriptor in guest memory. */
struct dma_desc {
	uint8_t control[4], length[4], address[8];
};
_Static_assert(sizeof(struct dma_desc) == 16, "FWCFG: DMA structure");

static const uint8_t signature[4] = {'Q', 'E', 'M', 'U'};
static const uint8_t dma_signature[8] = {'Q', 'E', 'M', 'U', ' ', 'C', 'F', 'G'};

static struct fw_cfg *fw_of(struct device *dev)
{
	return container_of(dev, struct fw_cfg, dev);
}

static void store_be(uint8_t *at, unsigned size, uint64_t v)
{
	for (unsigned i = 0; i < size; i++)
		at[i] = (uint8_t)(v >> (8 * (size - 1 - i)));
}

static uint64_t load_be(const uint8_t *at, unsigned size)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < size; i++)
		v = v << 8 | at[i];
	return v;
}

/* --- Items --------------------------------------------------------------------------------- */

static struct item *item_at(struct fw_cfg *fw, uint16_t key)
{
	unsigned index = key & KEY_MASK;
	if (key & FW_CFG_ARCH_LOCAL)
		return index < LOCAL_KEYS ? &fw->local[index] : NULL;
	return index < GENERAL_KEYS ? &fw->general[index] : NULL;
}

static void item_clear(struct item *it)
{
	free(it->owned);
	it->owned = NULL;
	it->data = NULL;
	it->len = 0;
}

static int item_set_writable(struct fw_cfg *fw, struct item *it, const void *data, size_t len,
			     const char *what, struct error *err)
{
	if (!it->writable_at) {
		if (len > WRITABLE_BYTES - fw->writable_used)
			return error_set(err, -ENOSPC,
					 "no room for %zu writable bytes of firmware item %s", len,
					 what);
		item_clear(it);
		it->writable_at = fw->writable_used + 1;
		fw->writable_used += (uint32_t)len;
	} else if (len != it->len) {
		return error_set(err, -EINVAL, "writable firmware item %s cannot change its size",
				 what);
	}
	memcpy(fw->writable + it->writable_at - 1, data, len);
	it->data = fw->writable + it->writable_at - 1;
	it->len = (uint32_t)len;
	return 0;
}

static int item_set(struct fw_cfg *fw, struct item *it, const void *data, size_t len,
		    unsigned flags, const char *what, struct error *err)
{
	if (len > FW_CFG_MAX_FILE)
		return error_set(err, -EINVAL, "firmware item %s is larger than %u bytes", what,
				 FW_CFG_MAX_FILE);
	if ((flags & FW_CFG_WRITABLE) || it->writable_at)
		return item_set_writable(fw, it, data, len, what, err);
	uint8_t *copy = NULL;
	if (!(flags & FW_CFG_REFER) && len) {
		copy = malloc(len);
		if (!copy)
			return error_set(err, -ENOMEM, "no memory for firmware item %s", what);
		memcpy(copy, data, len);
	}
	item_clear(it);
	it->owned = copy;
	it->data = copy ? copy : data;
	it->len = (uint32_t)len;
	return 0;
}

int fw_cfg_item(struct device *dev, uint16_t key, const void *data, size_t len, unsigned flags,
		struct error *err)
{
	struct fw_cfg *fw = fw_of(dev);
	struct item *it = item_at(fw, key);
	assert(it && (key & FW_CFG_ARCH_LOCAL || key < FW_CFG_FILE_FIRST));
	char what[16] = "0x0000";
	static const char hex[] = "0123456789abcdef";
	for (unsigned i = 0; i < 4; i++)
		what[2 + i] = hex[key >> (12 - 4 * i) & 15];
	return item_set(fw, it, data, len, flags, what, err);
}

int fw_cfg_u16(struct device *dev, uint16_t key, uint16_t value, struct error *err)
{
	uint8_t b[2];
	store_le16(b, value);
	return fw_cfg_item(dev, key, b, sizeof(b), 0, err);
}

int fw_cfg_u32(struct device *dev, uint16_t key, uint32_t value, struct error *err)
{
	uint8_t b[4];
	store_le32(b, value);
	return fw_cfg_item(dev, key, b, sizeof(b), 0, err);
}

int fw_cfg_u64(struct device *dev, uint16_t key, uint64_t value, struct error *err)
{
	uint8_t b[8];
	store_le64(b, value);
	return fw_cfg_item(dev, key, b, sizeof(b), 0, err);
}

/* --- Files --------------------------------------------------------------------------------- */

/* FWCFG "Guest-side File Operations": count, then size, key, reserved, name of each. */
static void dir_rebuild(struct fw_cfg *fw)
{
	memset(fw->dir, 0, sizeof(fw->dir));
	store_be(fw->dir, 4, fw->files);
	for (unsigned i = 0; i < fw->files; i++) {
		const struct item *it = &fw->general[FW_CFG_FILE_FIRST + i];
		uint8_t *e = fw->dir + 4 + i * DIR_ENTRY;
		store_be(e, 4, it->len);
		store_be(e + 4, 2, FW_CFG_FILE_FIRST + i);
		memcpy(e + 8, it->name, NAME_FIELD);
	}
	struct item *dir = &fw->general[FW_CFG_FILE_DIR];
	dir->data = fw->dir;
	dir->len = 4 + fw->files * DIR_ENTRY;
}

/* The file's place in order of name, and whether it is there already. */
static unsigned file_place(const struct fw_cfg *fw, const char *name, _Bool *found)
{
	unsigned i = 0;
	int order = 1;
	for (; i < fw->files; i++) {
		order = strcmp(fw->general[FW_CFG_FILE_FIRST + i].name, name);
		if (order >= 0)
			break;
	}
	*found = i < fw->files && order == 0;
	return i;
}

int fw_cfg_file(struct device *dev, const char *name, const void *data, size_t len, unsigned flags,
		struct error *err)
{
	struct fw_cfg *fw = fw_of(dev);
	if (!*name || strlen(name) > FW_CFG_NAME_MAX)
		return error_set(err, -EINVAL, "a firmware file's name has 1 to %d bytes: %s",
				 FW_CFG_NAME_MAX, name);
	_Bool found;
	unsigned place = file_place(fw, name, &found);
	struct item *it = &fw->general[FW_CFG_FILE_FIRST + place];
	if (found) {
		int rc = item_set(fw, it, data, len, flags, name, err);
		if (!rc)
			dir_rebuild(fw);
		return rc;
	}
	if (fw->files == FW_CFG_FILE_SLOTS)
		return error_set(err, -ENOSPC, "there are already %d firmware files",
				 FW_CFG_FILE_SLOTS);
	struct item fresh = {0};
	strcpy(fresh.name, name);
	int rc = item_set(fw, &fresh, data, len, flags, name, err);
	if (rc)
		return rc;
	memmove(it + 1, it, (fw->files - place) * sizeof(*it));
	*it = fresh;
	fw->files++;
	dir_rebuild(fw);
	return 0;
}

long fw_cfg_file_read(struct device *dev, const char *name, void *buf, size_t len)
{
	struct fw_cfg *fw = fw_of(dev);
	lock_take(&dev->lock);
	_Bool found;
	const struct item *it = &fw->general[FW_CFG_FILE_FIRST + file_place(fw, name, &found)];
	long n = -ENOENT;
	if (found) {
		n = (long)MIN(len, (size_t)it->len);
		memcpy(buf, it->data, (size_t)n);
	}
	lock_drop(&dev->lock);
	return n;
}

/* --- Ports --------------------------------------------------------------------------------- */

static void select_key(struct fw_cfg *fw, uint16_t key)
{
	fw->key = key;
	fw->offset = 0;
}

static uint64_t port_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct fw_cfg *fw = fw_of(dev);
	const struct item *it = item_at(fw, fw->key);
	if (size != 1 || !it || fw->offset >= it->len)
		return 0;
	return it->data[fw->offset++];
}

static void port_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	/* Writing data through the port went out of the interface; a byte is ignored. */
	if (size == 2)
		select_key(fw_of(dev), (uint16_t)value);
}

/* --- DMA ----------------------------------------------------------------------------------- */

/* Copies from the item to guest memory; past the item's end a guest reads zeroes. A request for all
 * of RAM full of them is an error: nobody needs it, and the vCPU could not be stopped meanwhile. */
static int dma_read(struct fw_cfg *fw, const struct item *it, struct gpa to, uint32_t len)
{
	uint32_t have = it && fw->offset < it->len ? MIN(len, it->len - fw->offset) : 0;
	if (len - have > ZEROES_MAX)
		return -EINVAL;
	if (have && gmem_write(fw->cfg.mem, to, it->data + fw->offset, have))
		return -EFAULT;
	if (len > have)
		return gmem_fill(fw->cfg.mem, gpa(to.v + have), 0, len - have);
	return 0;
}

static int dma_write(struct fw_cfg *fw, const struct item *it, struct gpa from, uint32_t len)
{
	if (!it || !it->writable_at || fw->offset > it->len || len > it->len - fw->offset)
		return -EINVAL;
	uint8_t *to = fw->writable + it->writable_at - 1 + fw->offset;
	return gmem_read(fw->cfg.mem, from, to, len);
}

static int dma_transfer(struct fw_cfg *fw, uint32_t control, uint32_t len, struct gpa addr)
{
	const struct item *it = item_at(fw, fw->key);
	int rc = 0;
	if (!range_fits(addr.v, len, UINT64_MAX))
		return -EFAULT;
	if (control & DMA_READ)
		rc = dma_read(fw, it, addr, len);
	else if (control & DMA_WRITE)
		rc = dma_write(fw, it, addr, len);
	else if (!(control & DMA_SKIP))
		return 0;
	if (!rc)
		fw->offset = len > UINT32_MAX - fw->offset ? UINT32_MAX : fw->offset + len;
	return rc;
}

static void dma_run(struct fw_cfg *fw, struct gpa at)
{
	struct dma_desc d;
	if (!fw->cfg.mem || gmem_read(fw->cfg.mem, at, &d, sizeof(d)))
		return; /* nowhere to tell it */
	uint32_t control = (uint32_t)load_be(d.control, 4);
	if (control & DMA_SELECT)
		select_key(fw, (uint16_t)(control >> 16));
	int rc =
	    dma_transfer(fw, control, (uint32_t)load_be(d.length, 4), gpa(load_be(d.address, 8)));
	store_be(d.control, 4, rc ? DMA_ERROR : 0);
	/* The transfer may have written over the descriptor; that is the guest's own doing. A
	 * descriptor in ROM is not told. */
	(void)!gmem_write(fw->cfg.mem, at, d.control, sizeof(d.control));
}

static uint64_t dma_port_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)dma_signature[offset + i] << (8 * i);
	return v;
}

static void dma_port_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			   uint64_t value)
{
	struct fw_cfg *fw = fw_of(dev);
	if (size != 4)
		return;
	uint32_t half = __builtin_bswap32((uint32_t)value);
	if (offset == 0) {
		fw->dma_high = half;
		return;
	}
	struct gpa at = gpa((uint64_t)fw->dma_high << 32 | half);
	fw->dma_high = 0;
	dma_run(fw, at);
}

static const struct region_ops port_ops = {.read = port_read, .write = port_write, .max_size = 2};
static const struct region_ops dma_ops = {
    .read = dma_port_read, .write = dma_port_write, .max_size = 4};

/* --- Life ---------------------------------------------------------------------------------- */

static void fw_reset(struct device *dev, enum reset_kind kind)
{
	struct fw_cfg *fw = fw_of(dev);
	select_key(fw, 0);
	fw->dma_high = 0;
}

static void fw_free(struct device *dev)
{
	struct fw_cfg *fw = fw_of(dev);
	if (fw->port_region.mapped)
		space_unmap(fw->cfg.ports, &fw->port_region);
	if (fw->dma_region.mapped)
		space_unmap(fw->cfg.ports, &fw->dma_region);
	for (unsigned i = 0; i < GENERAL_KEYS; i++)
		item_clear(&fw->general[i]);
	for (unsigned i = 0; i < LOCAL_KEYS; i++)
		item_clear(&fw->local[i]);
	device_fini(dev);
	free(fw);
}

static const struct state_field fw_fields[] = {
    STATE_SCALAR(1, struct fw_cfg, key),
    STATE_SCALAR(2, struct fw_cfg, offset),
    STATE_SCALAR(3, struct fw_cfg, dma_high),
    STATE_ARRAY(4, struct fw_cfg, writable, WRITABLE_BYTES),
    STATE_END,
};
/* Every value of these fields is legal: keys and offsets are checked where they are used. */
static const struct state_desc fw_state = {
    .name = "fw-cfg", .fields = fw_fields, .size = sizeof(struct fw_cfg)};
static const struct device_class fw_class;

int fw_cfg_new(struct device **out, const struct fw_cfg_config *cfg, struct error *err)
{
	struct fw_cfg *fw = calloc(1, sizeof(*fw));
	if (!fw)
		return error_set(err, -ENOMEM, "no memory for the firmware configuration device");
	device_init(&fw->dev, &fw_class, RANK_DEVICE, 0, "fw_cfg");
	fw->cfg = *cfg;
	fw->port_region =
	    (struct region){.name = "fw_cfg", .dev = &fw->dev, .ops = &port_ops, .size = 2};
	fw->dma_region =
	    (struct region){.name = "fw_cfg-dma", .dev = &fw->dev, .ops = &dma_ops, .size = 8};
	int rc = space_map(cfg->ports, &fw->port_region, cfg->base);
	if (!rc && cfg->mem)
		rc = space_map(cfg->ports, &fw->dma_region, cfg->base + 4u);
	if (rc) {
		error_set(err, rc, "a port of the firmware configuration device at 0x%x is taken",
			  cfg->base);
		fw_free(&fw->dev);
		return rc;
	}
	dir_rebuild(fw);
	rc = fw_cfg_item(&fw->dev, FW_CFG_SIGNATURE, signature, sizeof(signature), FW_CFG_REFER,
			 err);
	if (!rc)
		rc = fw_cfg_u32(&fw->dev, FW_CFG_ID, ID_TRADITIONAL | (cfg->mem ? ID_DMA : 0), err);
	if (rc) {
		fw_free(&fw->dev);
		return rc;
	}
	*out = &fw->dev;
	return 0;
}

static const struct device_class fw_class = {
    .name = "fw-cfg",
    .reset = fw_reset,
    .free = fw_free,
    .state = &fw_state,
};
