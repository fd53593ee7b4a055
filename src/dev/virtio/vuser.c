/* vuser.c: block devices and file systems that another process serves: what is theirs and not the
 * back end's. VIRTIO12 5.2, 5.11. */
#include "dev/virtio/vuser.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "dev/virtio/vhost_dev.h"

#define VUSER_QUEUE_SIZE 256
_Static_assert(VUSER_QUEUE_SIZE <= RELAY_SIZE, "the rings of our own are large enough");

/* Block device (5.2.3, 5.2.4): what is the back end's to do, with its configuration. */
#define BLK_CLASS_CODE	 0x010000
#define BLK_F_CONFIG_WCE BIT64(11)
#define BLK_F_MQ	 BIT64(12)
#define BLK_FEATURES                                                                               \
	(BIT64(1) | BIT64(2) | BIT64(4) | BIT64(5) | BIT64(6) | BIT64(9) | BIT64(10) |             \
	 BLK_F_CONFIG_WCE | BLK_F_MQ | BIT64(13) | BIT64(14))
#define BLK_CONFIG_SIZE	   60
#define BLK_CFG_WRITEBACK  32
#define BLK_CFG_NUM_QUEUES 34

/* File system (5.11.4): a queue of high priority, then request queues. */
#define FS_CLASS_CODE	    0x018000
#define FS_CFG_NUM_REQUESTS 36
#define FS_CONFIG_SIZE	    40

/* What of FUSE is looked at (linux/fuse.h): the heads of requests and replies. */
#define FUSE_IN_HEAD  40 /* length, opcode, unique (at 8), ... */
#define FUSE_OUT_HEAD 16 /* length, error, unique */
#define FUSE_INIT     26
#define FUSE_ENOTCONN 107

struct vuser {
	struct virtio_dev vd; /* first */
	struct vhost_dev vh;
	enum vuser_kind kind;
	unsigned queues; /* request queues */
	char tag[VUSER_TAG_MAX];
	/* File system: what the back end knows of the guest's mount went with a back end that was
	 * lost. Requests are answered here until the guest begins anew. */
	_Bool stranded;
};

static struct vuser *vuser_of(struct virtio_dev *vd)
{
	return container_of(vd, struct vuser, vd);
}

static struct vuser *of_vh(struct vhost_dev *vh)
{
	return container_of(vh, struct vuser, vh);
}

/* ---- configuration ---- */

static void config_fill(struct vuser *u)
{
	uint8_t *c = u->vd.config;

	memset(c, 0, u->vd.config_size);
	if (u->kind == VUSER_FS) {
		memcpy(c, u->tag, sizeof(u->tag));
		store_le32(c + FS_CFG_NUM_REQUESTS, u->queues);
		return;
	}
	memcpy(c, u->vh.config, BLK_CONFIG_SIZE);
	store_le16(c + BLK_CFG_NUM_QUEUES, (uint16_t)u->queues);
}

/* A driver that negotiated so decides about the write cache: what it was told at first or has
 * written since holds for whichever back end there is. Else data that it believes to be on the disk
 * may be in another one's cache. */
static _Bool wce_is_drivers(const struct vuser *u)
{
	return u->kind == VUSER_BLK && virtio_has(&u->vd, BLK_F_CONFIG_WCE);
}

static _Bool vuser_settings(const struct vhost_dev *vh, unsigned *at, unsigned *len)
{
	*at = BLK_CFG_WRITEBACK;
	*len = 1;
	return wce_is_drivers(container_of(vh, const struct vuser, vh));
}

static void vuser_config(struct vhost_dev *vh, const uint8_t *config)
{
	struct vuser *u = of_vh(vh);
	uint8_t writeback = u->vd.config[BLK_CFG_WRITEBACK];

	config_fill(u);
	if (wce_is_drivers(u))
		u->vd.config[BLK_CFG_WRITEBACK] = writeback;
	virtio_config_changed(vh->vd);
}

static void vuser_config_written(struct virtio_dev *vd, unsigned offset, unsigned size)
{
	vd->config[BLK_CFG_WRITEBACK] &= 1;
	if (offset <= BLK_CFG_WRITEBACK && offset + size > BLK_CFG_WRITEBACK)
		vhost_dev_config_written(&vuser_of(vd)->vh, BLK_CFG_WRITEBACK, 1);
}

/* ---- a file system without its back end ---- */

/*
 * A file system's back end keeps what the guest's mount consists of: numbers of files, open files.
 * Another one knows none of it. So when one is lost, its requests are answered as those of a
 * connection that has ended (ENOTCONN), and all that come later, until the guest mounts anew.
 */
static uint32_t strand(struct vuser *u, const struct vq_chain *c)
{
	uint8_t in[FUSE_IN_HEAD], out[FUSE_OUT_HEAD];

	/* Some want no answer, and have no room for one. */
	if (c->in_bytes < sizeof(out) || chain_read(c, 0, in, sizeof(in)) != sizeof(in))
		return 0;
	store_le32(out, sizeof(out));
	store_le32(out + 4, (uint32_t)-FUSE_ENOTCONN);
	memcpy(out + 8, in + 8, 8);
	return (uint32_t)chain_write(u->vd.mem, c, 0, out, sizeof(out));
}

static _Bool begins_anew(const struct vq_chain *c)
{
	uint8_t in[FUSE_IN_HEAD];

	return chain_read(c, 0, in, sizeof(in)) == sizeof(in) && load_le32(in + 4) == FUSE_INIT;
}

static _Bool vuser_intercept(struct vhost_dev *vh, const struct vq_chain *c, uint32_t *written)
{
	struct vuser *u = of_vh(vh);

	if (!u->stranded)
		return 0;
	if (begins_anew(c)) {
		u->stranded = 0;
		return 0;
	}
	*written = strand(u, c);
	return 1;
}

static void vuser_away(struct vhost_dev *vh, unsigned q)
{
	struct vuser *u = of_vh(vh);
	unsigned answered = 0;
	struct vq_chain c;

	if (!u->stranded)
		return;
	while (virtio_pop(&u->vd, q, &c)) {
		_Bool turn_over = answered++ == VUSER_QUEUE_SIZE;

		if (turn_over) /* a look for a back end, and the rest */
			loop_post(vh->loop, &vh->work);
		if (turn_over || begins_anew(&c)) { /* a mount waits until there is somebody */
			vq_unpop(&u->vd.vq[q], &c);
			break;
		}
		virtio_push(&u->vd, q, &c, strand(u, &c));
	}
	virtio_interrupt(&u->vd, q);
}

static void vuser_lost(struct vhost_dev *vh)
{
	struct vuser *u = of_vh(vh);

	/* Not those of a driver that has reset the device. */
	if (u->kind != VUSER_FS || vh->flight != vh->epoch || !vh->live)
		return;
	u->stranded = 1;
	for (unsigned q = 0; q < vh->rings.count; q++) {
		struct relay *r = &vh->rings.ring[q];

		while (r->first)
			relay_answer(r, strand(u, &r->first->chain));
		vuser_away(vh, q);
	}
}

static const struct vhost_dev_hooks vuser_hooks = {
    .lost = vuser_lost,
    .config = vuser_config,
    .settings = vuser_settings,
    .intercept = vuser_intercept,
    .away = vuser_away,
};

/* ---- what the transport and the driver ask for ---- */

static void vuser_notify(struct virtio_dev *vd, unsigned q)
{
	vhost_dev_notify(&vuser_of(vd)->vh, q);
}

static void vuser_status(struct virtio_dev *vd)
{
	vhost_dev_status(&vuser_of(vd)->vh);
}

static void vuser_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	struct vuser *u = vuser_of(vd);

	config_fill(u);
	u->stranded = 0;
}

static void vuser_post_load(struct virtio_dev *vd)
{
	struct vuser *u = vuser_of(vd);

	/* The mount that the state knows of is not the one that the back end knows of. */
	u->stranded = u->kind == VUSER_FS && virtio_ready(vd);
}

static const struct virtio_ops blk_ops = {
    .config_written = vuser_config_written,
    .notify = vuser_notify,
    .status = vuser_status,
    .reset = vuser_reset,
    .post_load = vuser_post_load,
};
static const struct virtio_ops fs_ops = {
    .notify = vuser_notify,
    .status = vuser_status,
    .reset = vuser_reset,
    .post_load = vuser_post_load,
};

/* ---- the device's class ---- */

static void vuser_quiesce(struct device *dev)
{
	vhost_dev_quiesce(&vuser_of(virtio_of(dev))->vh);
}

static void vuser_free(struct device *dev)
{
	struct vuser *u = vuser_of(virtio_of(dev));

	vhost_dev_fini(&u->vh);
	virtio_fini(&u->vd);
	free(u);
}

static int vuser_check(const void *shadow, struct error *err)
{
	const struct vuser *u = shadow;
	uint8_t expected[VIRTIO_CONFIG_MAX];
	unsigned size = u->vd.config_size;

	memcpy(expected, u->vh.config, sizeof(expected));
	if (u->kind == VUSER_FS) {
		memcpy(expected, u->tag, sizeof(u->tag));
		store_le32(expected + FS_CFG_NUM_REQUESTS, u->queues);
	} else {
		store_le16(expected + BLK_CFG_NUM_QUEUES, (uint16_t)u->queues);
		expected[BLK_CFG_WRITEBACK] = u->vd.config[BLK_CFG_WRITEBACK];
		if (expected[BLK_CFG_WRITEBACK] > 1)
			return error_set(err, -EINVAL,
					 "saved state of %s: its cache mode is unknown",
					 u->vd.pci.dev.id);
	}
	if (memcmp(expected, u->vd.config, size))
		return error_set(err, -EINVAL,
				 "saved state of %s: its back end was of another kind",
				 u->vd.pci.dev.id);
	return virtio_check(&u->vd, err);
}

static const struct state_field vuser_fields[] = {
    VIRTIO_STATE(struct vuser, vd),
    STATE_END,
};
static const struct state_desc blk_state = {
    .name = "vhost-user-blk",
    .fields = vuser_fields,
    .size = sizeof(struct vuser),
    .check = vuser_check,
};
static const struct state_desc fs_state = {
    .name = "vhost-user-fs",
    .fields = vuser_fields,
    .size = sizeof(struct vuser),
    .check = vuser_check,
};

static const struct device_class blk_class = {
    .name = "vhost-user-blk",
    .reset = virtio_device_reset,
    .free = vuser_free,
    .quiesce = vuser_quiesce,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
    .state = &blk_state,
};
static const struct device_class fs_class = {
    .name = "vhost-user-fs",
    .reset = virtio_device_reset,
    .free = vuser_free,
    .quiesce = vuser_quiesce,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
    .state = &fs_state,
};

/* ---- set-up ---- */

static int check_backend(const struct vuser_config *cfg, struct error *err)
{
	uint64_t features = vhost_features(cfg->vhost);
	unsigned extra = cfg->kind == VUSER_FS, max = vhost_rings_max(cfg->vhost);

	if (!(features & VIRTIO_F_VERSION_1))
		return error_set(err, -EINVAL, "the vhost-user back end does not know virtio 1");
	if (max <= extra)
		return error_set(err, -EINVAL, "the vhost-user back end has too few queues");
	if (cfg->queues > max - extra)
		return error_set(err, -EINVAL,
				 "the vhost-user back end has %u request queues, not %u",
				 max - extra, cfg->queues);
	return 0;
}

/* How many request queues; a block device says it in its configuration. */
static int count_queues(struct vuser *u, const struct vuser_config *cfg, struct error *err)
{
	unsigned extra = cfg->kind == VUSER_FS;
	unsigned max = MIN(vhost_rings_max(cfg->vhost) - extra, (unsigned)VUSER_QUEUES_MAX);
	uint8_t config[BLK_CONFIG_SIZE];

	if (cfg->kind == VUSER_BLK) {
		int r = vhost_config_get(cfg->vhost, config, sizeof(config), err);

		if (r)
			return r;
		if (vhost_features(cfg->vhost) & BLK_F_MQ)
			max = MIN(max, MAX(load_le16(config + BLK_CFG_NUM_QUEUES), 1u));
		else
			max = 1;
		if (cfg->queues > max)
			return error_set(err, -EINVAL,
					 "the vhost-user back end has %u request queues, not %u",
					 max, cfg->queues);
	}
	u->queues = cfg->queues ? cfg->queues : MIN(max, MAX(cfg->cpus, 1u));
	return 0;
}

static uint64_t features_of(const struct vuser *u, const struct vuser_config *cfg)
{
	uint64_t f = vhost_features(cfg->vhost);

	if (u->kind == VUSER_FS)
		return 0;
	return f & (u->queues > 1 ? BLK_FEATURES : BLK_FEATURES & ~BLK_F_MQ);
}

/* The half that can fail before there is a device. */
static int vuser_build(struct vuser *u, const struct vuser_config *cfg, struct error *err)
{
	_Bool fs = cfg->kind == VUSER_FS;
	uint16_t sizes[VUSER_QUEUES_MAX + 1];
	char name[24];
	struct virtio_setup setup = {
	    .cls = fs ? &fs_class : &blk_class,
	    .ops = fs ? &fs_ops : &blk_ops,
	    .id = fs ? VIRTIO_ID_FS : VIRTIO_ID_BLOCK,
	    .name = name,
	    .class_code = fs ? FS_CLASS_CODE : BLK_CLASS_CODE,
	    .without = VIRTIO_F_RING_RESET,
	    .queue_sizes = sizes,
	    .config_size = fs ? FS_CONFIG_SIZE : BLK_CONFIG_SIZE,
	};
	int r = check_backend(cfg, err);

	u->kind = cfg->kind;
	if (!r)
		r = count_queues(u, cfg, err);
	if (r)
		return r;
	setup.queues = u->queues + fs;
	setup.features = features_of(u, cfg);
	/* Without tables a chain has to fit the ring that the back end sees. */
	if (!(vhost_features(cfg->vhost) & VIRTIO_F_INDIRECT_DESC))
		setup.without |= VIRTIO_F_INDIRECT_DESC;
	if (setup.features & BLK_F_CONFIG_WCE)
		u->vd.config_rw[BLK_CFG_WRITEBACK] = 0xff;
	if (fs)
		memcpy(u->tag, cfg->tag, strnlen(cfg->tag, sizeof(u->tag)));
	snprintf(name, sizeof(name), "%s%u", fs ? "fs" : "blk", cfg->place.instance);
	for (unsigned q = 0; q < setup.queues; q++)
		sizes[q] = VUSER_QUEUE_SIZE;
	return virtio_init(&u->vd, &cfg->place, &setup, err);
}

int vuser_new(struct device **dev, const struct vuser_config *cfg, struct error *err)
{
	struct vuser *u = calloc(1, sizeof(*u));
	int r = u ? vuser_build(u, cfg, err) : error_set(err, -ENOMEM, "out of memory");

	if (r) {
		free(u);
		return r;
	}
	const struct vhost_dev_config vh = {
	    .vd = &u->vd,
	    .v = cfg->vhost,
	    .queues = u->vd.queues,
	    .config_size = u->kind == VUSER_BLK ? BLK_CONFIG_SIZE : 0,
	    .clock = cfg->clock,
	    .hooks = &vuser_hooks,
	};
	r = vhost_dev_init(&u->vh, &vh, err);
	if (r) {
		vuser_free(&u->vd.pci.dev);
		return r;
	}
	*dev = &u->vd.pci.dev;
	return 0;
}
