/* p9dev.c: the 9P transport: requests from the ring to the server, one at a time, and answers back.
 */
#include "dev/virtio/p9dev.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/log.h"

/*
 * The server's thread fetches a chain, works on a copy of the request, and answers into the chain:
 * vCPUs only ring its bell. One chain is in flight at most. While the thread is at work the driver
 * need not notify; before it rests it says the opposite and looks once more.
 */
#define P9_F_MOUNT_TAG	 BIT64(0)
#define P9DEV_QUEUE_SIZE 128
#define P9DEV_CLASS_CODE 0x018000 /* mass storage, other */
#define CFG_SIZE	 (2 + P9DEV_TAG_MAX)

/* Why the saved list of what the guest holds is not whole. */
enum { SAVED_ALL = 0, SAVED_TOO_MANY = 1, SAVED_BUSY = 2 };

struct p9dev {
	struct virtio_dev vd; /* first */
	struct p9 *p9;
	char tag[P9DEV_TAG_MAX + 1];
	struct vq_chain chain; /* the one in flight */
	uint32_t saved_len;
	uint8_t saved_how;
	uint8_t saved[P9_SAVE_MAX];
};

static struct p9dev *p9dev_of(struct virtio_dev *vd)
{
	return container_of(vd, struct p9dev, vd);
}

static void config_fill(const struct p9dev *d, uint8_t *c)
{
	size_t len = strlen(d->tag);

	memset(c, 0, CFG_SIZE);
	store_le16(c, (uint16_t)len);
	memcpy(c + 2, d->tag, len);
}

static void p9dev_notify(struct virtio_dev *vd, unsigned q)
{
	vq_notify_disable(&vd->vq[q]);
	p9_kick(p9dev_of(vd)->p9);
}

static void p9dev_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	struct p9dev *d = p9dev_of(vd);

	config_fill(d, vd->config);
	p9_reset(d->p9);
}

/* The back end waits: no lock is missing here, its thread is idle (quiesce came before). */
static void p9dev_post_load(struct virtio_dev *vd)
{
	struct p9dev *d = p9dev_of(vd);

	p9_load(d->p9, d->saved, d->saved_len);
}

static const struct virtio_ops p9dev_ops = {
    .notify = p9dev_notify,
    .reset = p9dev_reset,
    .post_load = p9dev_post_load,
};

/* ---- on the server's thread ---- */

static _Bool next_chain(struct p9dev *d)
{
	struct virtqueue *vq = &d->vd.vq[0];

	if (virtio_pop(&d->vd, 0, &d->chain))
		return 1;
	return virtio_queue_ready(&d->vd, 0) && vq_notify_enable(vq) &&
	       virtio_pop(&d->vd, 0, &d->chain);
}

static size_t client_fetch(void *opaque, uint8_t *msg, size_t *room)
{
	struct p9dev *d = opaque;
	size_t len = 0;

	lock_take(&d->vd.pci.dev.lock);
	if (next_chain(d)) {
		vq_notify_disable(&d->vd.vq[0]);
		*room = d->chain.in_bytes;
		if (!d->chain.out_bytes || *room < P9_REPLY_MIN) {
			virtio_drop(&d->vd, 0, &d->chain);
			virtio_broken(&d->vd, "a 9P request that is empty or cannot be answered");
		} else {
			len = chain_read(&d->chain, 0, msg,
					 MIN(d->chain.out_bytes, (uint32_t)P9_MSG_MAX));
		}
	}
	lock_drop(&d->vd.pci.dev.lock);
	return len;
}

static void client_answer(void *opaque, const uint8_t *msg, size_t len)
{
	struct p9dev *d = opaque;

	lock_take(&d->vd.pci.dev.lock);
	chain_write(d->vd.mem, &d->chain, 0, msg, len);
	virtio_push(&d->vd, 0, &d->chain, (uint32_t)len);
	virtio_interrupt(&d->vd, 0);
	lock_drop(&d->vd.pci.dev.lock);
}

/* ---- the device's class ---- */

static void p9dev_quiesce(struct device *dev)
{
	p9_drain(p9dev_of(virtio_of(dev))->p9);
}

static void p9dev_free(struct device *dev)
{
	struct p9dev *d = p9dev_of(virtio_of(dev));

	p9_detach(d->p9);
	virtio_fini(&d->vd);
	free(d);
}

static void p9dev_pre_save(struct device *dev)
{
	struct p9dev *d = p9dev_of(virtio_of(dev));
	int r;

	virtio_pre_save(dev);
	memset(d->saved, 0, sizeof(d->saved));
	r = p9_save(d->p9, d->saved);
	d->saved_how = r == -E2BIG ? SAVED_TOO_MANY : r < 0 ? SAVED_BUSY : SAVED_ALL;
	d->saved_len = r < 0 ? 0 : (uint32_t)r;
	if (r < 0) {
		memset(d->saved, 0, sizeof(d->saved));
		log_guest("%s: the guest holds %s of the share; what is saved now cannot be loaded",
			  dev->id,
			  r == -E2BIG ? "too many files" : "an unfinished extended attribute");
	}
}

static int p9dev_check(const void *shadow, struct error *err)
{
	const struct p9dev *d = shadow;
	const char *id = d->vd.pci.dev.id;
	uint8_t expected[CFG_SIZE];

	config_fill(d, expected);
	if (memcmp(d->vd.config, expected, CFG_SIZE))
		return error_set(err, -EINVAL, "saved state of %s: its share had another tag", id);
	if (d->saved_how == SAVED_TOO_MANY)
		return error_set(err, -EINVAL,
				 "saved state of %s: the guest held more files of the share than "
				 "can be saved; unmount it before saving",
				 id);
	if (d->saved_how == SAVED_BUSY)
		return error_set(err, -EINVAL,
				 "saved state of %s: the guest was amid an extended attribute", id);
	if (d->saved_how || d->saved_len > P9_SAVE_MAX || !p9_saved_good(d->saved, d->saved_len))
		return error_set(err, -EINVAL, "saved state of %s: its list of files", id);
	return virtio_check(&d->vd, err);
}

static const struct state_field p9dev_fields[] = {
    VIRTIO_STATE(struct p9dev, vd),
    STATE_SCALAR(1, struct p9dev, saved_len),
    STATE_SCALAR(2, struct p9dev, saved_how),
    STATE_ARRAY(3, struct p9dev, saved, P9_SAVE_MAX),
    STATE_END,
};
static const struct state_desc p9dev_state = {
    .name = "virtio-9p",
    .fields = p9dev_fields,
    .size = sizeof(struct p9dev),
    .check = p9dev_check,
};
static const struct device_class p9dev_class = {
    .name = "virtio-9p",
    .reset = virtio_device_reset,
    .free = p9dev_free,
    .quiesce = p9dev_quiesce,
    .pre_save = p9dev_pre_save,
    .post_load = virtio_post_load,
    .state = &p9dev_state,
};

int p9dev_new(struct device **dev, const struct p9dev_config *cfg, struct error *err)
{
	static const uint16_t sizes[] = {P9DEV_QUEUE_SIZE};
	struct p9_client client = {.fetch = client_fetch, .answer = client_answer};
	struct p9dev *d = calloc(1, sizeof(*d));
	char name[24];
	const struct virtio_setup setup = {
	    .cls = &p9dev_class,
	    .ops = &p9dev_ops,
	    .id = VIRTIO_ID_9P,
	    .name = name,
	    .class_code = P9DEV_CLASS_CODE,
	    .features = P9_F_MOUNT_TAG,
	    .queues = 1,
	    .queue_sizes = sizes,
	    .config_size = CFG_SIZE,
	};
	int r;

	assert(cfg->tag[0] && strlen(cfg->tag) <= P9DEV_TAG_MAX);
	if (!d)
		return error_set(err, -ENOMEM, "out of memory");
	d->p9 = cfg->p9;
	strcpy(d->tag, cfg->tag);
	snprintf(name, sizeof(name), "share%u", cfg->place.instance);
	r = virtio_init(&d->vd, &cfg->place, &setup, err);
	if (r) {
		free(d);
		return r;
	}
	client.opaque = d;
	r = p9_attach(d->p9, &client, err);
	if (r) {
		virtio_fini(&d->vd);
		free(d);
		return r;
	}
	*dev = &d->vd.pci.dev;
	return 0;
}
