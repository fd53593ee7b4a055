/* blk.c: the block device: configuration, resize, life (VIRTIO12 5.2). */
#include "dev/virtio/blk.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "dev/virtio/blk_impl.h"

/* Configuration layout (5.2.4). */
enum {
	CFG_CAPACITY = 0,
	CFG_SIZE_MAX = 8,
	CFG_SEG_MAX = 12,
	CFG_BLK_SIZE = 20,
	CFG_PHYSICAL_EXP = 24,
	CFG_ALIGNMENT_OFFSET = 25,
	CFG_MIN_IO = 26,
	CFG_OPT_IO = 28,
	CFG_WRITEBACK = 32,
	CFG_NUM_QUEUES = 34,
	CFG_MAX_DISCARD = 36,
	CFG_MAX_DISCARD_SEG = 40,
	CFG_DISCARD_ALIGN = 44,
	CFG_MAX_ZEROES = 48,
	CFG_MAX_ZEROES_SEG = 52,
	CFG_ZEROES_UNMAP = 56,
	CFG_SIZE = 60,
};

#define BLK_CLASS_CODE 0x010000 /* mass storage, SCSI: what drivers expect of virtio-blk */

static void config_fill(const struct blk *blk, uint8_t *c)
{
	const struct disk_info *info = &blk->info;
	uint32_t per_physical = info->physical_block / info->logical_block;

	memset(c, 0, CFG_SIZE);
	store_le64(c + CFG_CAPACITY, info->size_bytes / DISK_SECTOR);
	store_le32(c + CFG_SIZE_MAX, BLK_SIZE_MAX);
	store_le32(c + CFG_SEG_MAX, BLK_SEG_MAX);
	store_le32(c + CFG_BLK_SIZE, info->logical_block);
	c[CFG_PHYSICAL_EXP] = (uint8_t)__builtin_ctz(per_physical);
	store_le16(c + CFG_MIN_IO, (uint16_t)per_physical);
	c[CFG_WRITEBACK] = 1;
	store_le16(c + CFG_NUM_QUEUES, (uint16_t)blk->queues);
	store_le32(c + CFG_MAX_DISCARD, BLK_RANGE_SECTORS);
	store_le32(c + CFG_MAX_DISCARD_SEG, BLK_RANGES_MAX);
	store_le32(c + CFG_DISCARD_ALIGN, info->physical_block / DISK_SECTOR);
	store_le32(c + CFG_MAX_ZEROES, BLK_RANGE_SECTORS);
	store_le32(c + CFG_MAX_ZEROES_SEG, BLK_RANGES_MAX);
	c[CFG_ZEROES_UNMAP] = info->discard;
}

_Bool blk_writethrough(const struct blk *blk)
{
	/* 5.2.5.2: without either feature the driver cannot ask for durability; with CONFIG_WCE
	 * it says what it wants. */
	if (virtio_has(&blk->vd, BLK_F_CONFIG_WCE))
		return !blk->vd.config[CFG_WRITEBACK];
	return !virtio_has(&blk->vd, BLK_F_FLUSH);
}

static void blk_config_written(struct virtio_dev *vd, unsigned offset, unsigned size)
{
	vd->config[CFG_WRITEBACK] &= 1;
}

static void blk_notify(struct virtio_dev *vd, unsigned q)
{
	struct blk *blk = blk_of(vd);

	blk_queue_run(blk, q);
	disk_kick(blk->disk);
}

static void blk_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	struct blk *blk = blk_of(vd);

	disk_info(blk->disk, &blk->info);
	config_fill(blk, vd->config);
	blk->starved = 0;
}

/* On the thread that resized the disk. */
static void blk_resized(void *opaque, uint64_t size_bytes)
{
	struct blk *blk = opaque;

	lock_take(&blk->vd.pci.dev.lock);
	blk->info.size_bytes = size_bytes;
	store_le64(blk->vd.config + CFG_CAPACITY, size_bytes / DISK_SECTOR);
	virtio_config_changed(&blk->vd);
	lock_drop(&blk->vd.pci.dev.lock);
}

static const struct virtio_ops blk_ops = {
    .config_written = blk_config_written,
    .notify = blk_notify,
    .reset = blk_reset,
};

/* ---- the device's class ---- */

static void blk_quiesce(struct device *dev)
{
	disk_drain(blk_of(virtio_of(dev))->disk);
}

static void blk_free(struct device *dev)
{
	struct blk *blk = blk_of(virtio_of(dev));
	const struct disk_client nobody = {0};

	disk_drain(blk->disk);
	disk_attach(blk->disk, &nobody);
	virtio_fini(&blk->vd);
	free(blk->requests);
	free(blk);
}

static int blk_check(const void *shadow, struct error *err)
{
	const struct blk *blk = shadow;
	const uint8_t *saved = blk->vd.config;
	uint8_t expected[CFG_SIZE];

	config_fill(blk, expected);
	if (saved[CFG_WRITEBACK] > 1)
		return error_set(err, -EINVAL, "saved state of %s: its cache mode is unknown",
				 blk->vd.pci.dev.id);
	expected[CFG_WRITEBACK] = saved[CFG_WRITEBACK];
	if (memcmp(saved, expected, CFG_CAPACITY + 8))
		return error_set(err, -EINVAL,
				 "saved state of %s: its disk had %llu bytes then and has %llu now",
				 blk->vd.pci.dev.id,
				 (unsigned long long)load_le64(saved + CFG_CAPACITY) * DISK_SECTOR,
				 (unsigned long long)blk->info.size_bytes);
	if (memcmp(saved, expected, CFG_SIZE))
		return error_set(err, -EINVAL, "saved state of %s: its disk was of another kind",
				 blk->vd.pci.dev.id);
	return virtio_check(&blk->vd, err);
}

static const struct state_field blk_fields[] = {
    VIRTIO_STATE(struct blk, vd),
    STATE_END,
};
static const struct state_desc blk_state = {
    .name = "virtio-blk",
    .fields = blk_fields,
    .size = sizeof(struct blk),
    .check = blk_check,
};
static const struct device_class blk_class = {
    .name = "virtio-blk",
    .reset = virtio_device_reset,
    .free = blk_free,
    .quiesce = blk_quiesce,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
    .state = &blk_state,
};

static uint64_t features_of(const struct blk *blk)
{
	uint64_t f = BLK_F_SIZE_MAX | BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_TOPOLOGY | BLK_F_FLUSH;

	if (blk->queues > 1)
		f |= BLK_F_MQ;
	if (blk->info.read_only)
		return f | BLK_F_RO;
	f |= BLK_F_CONFIG_WCE | BLK_F_WRITE_ZEROES;
	return blk->info.discard ? f | BLK_F_DISCARD : f;
}

static int requests_make(struct blk *blk, struct error *err)
{
	blk->requests = calloc(BLK_REQUESTS, sizeof(*blk->requests));
	if (!blk->requests)
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < BLK_REQUESTS; i++) {
		blk->requests[i].next = blk->free;
		blk->free = &blk->requests[i];
	}
	return 0;
}

int blk_new(struct device **dev, const struct blk_config *cfg, struct error *err)
{
	uint16_t sizes[BLK_MAX_QUEUES];
	char name[24];
	struct virtio_setup setup = {
	    .cls = &blk_class,
	    .ops = &blk_ops,
	    .id = VIRTIO_ID_BLOCK,
	    .name = name,
	    .class_code = BLK_CLASS_CODE,
	    .queues = cfg->queues,
	    .queue_sizes = sizes,
	    .config_size = CFG_SIZE,
	};
	struct blk *blk = calloc(1, sizeof(*blk));
	int r;

	if (!blk)
		return error_set(err, -ENOMEM, "out of memory");
	assert(cfg->queues && cfg->queues <= BLK_MAX_QUEUES);
	blk->disk = cfg->disk;
	blk->queues = cfg->queues;
	disk_info(cfg->disk, &blk->info);
	if (cfg->serial) /* padded with zeroes, not terminated when full (5.2.6.1) */
		memcpy(blk->serial, cfg->serial, strnlen(cfg->serial, BLK_SERIAL_MAX));
	snprintf(name, sizeof(name), "blk%u", cfg->place.instance);
	for (unsigned q = 0; q < cfg->queues; q++)
		sizes[q] = BLK_QUEUE_SIZE;
	setup.features = features_of(blk);
	blk->vd.config_rw[CFG_WRITEBACK] = blk->info.read_only ? 0 : 0xff;
	r = requests_make(blk, err);
	if (!r)
		r = virtio_init(&blk->vd, &cfg->place, &setup, err);
	if (r) {
		free(blk->requests);
		free(blk);
		return r;
	}
	const struct disk_client client = {blk_resized, blk};
	disk_attach(blk->disk, &client);
	*dev = &blk->vd.pci.dev;
	return 0;
}
