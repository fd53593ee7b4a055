/* vsockdev.c: the virtio socket device: packets between the rings and the host's side. */
#include "dev/virtio/vsockdev.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"

/*
 * Both directions run on the event loop's thread under the device's lock; a notification only asks
 * for that. A chain is taken and returned within one hold of the lock: nothing is ever in flight.
 */
enum { Q_RX, Q_TX, Q_EVENT, QUEUES };
#define VSOCKDEV_QUEUE_SIZE 128
#define VSOCKDEV_CLASS_CODE 0x028000 /* network, other */
#define VSOCKDEV_BURST	    256	     /* packets each way in a turn */
#define CFG_SIZE	    8
#define EVENT_RESET	    0

struct packet_header {
	struct le64 src_cid, dst_cid;
	struct le32 src_port, dst_port, len;
	struct le16 type, op;
	struct le32 flags, buf_alloc, fwd_cnt;
};
#define HDR_SIZE 44
_Static_assert(sizeof(struct packet_header) == HDR_SIZE, "VIRTIO12 5.10.6");

struct vsockdev {
	struct virtio_dev vd; /* first */
	struct vsock *vsock;
	uint32_t cid;
	_Bool event_wanted; /* connections were lost: the driver is to be told */
	uint8_t data[VSOCK_BUF];
};

static struct vsockdev *vsockdev_of(struct virtio_dev *vd)
{
	return container_of(vd, struct vsockdev, vd);
}

/* ---- packets; on the loop's thread under the lock ---- */

/* False: it has to wait. */
static _Bool packet_take(struct vsockdev *d, const struct vq_chain *c)
{
	struct packet_header h;
	struct vsock_packet p;

	if (chain_read(c, 0, &h, sizeof(h)) != sizeof(h)) {
		virtio_broken(&d->vd, "a packet without its header");
		return 1;
	}
	p = (struct vsock_packet){
	    .src_port = le32_get(h.src_port),
	    .dst_port = le32_get(h.dst_port),
	    .len = le32_get(h.len),
	    .flags = le32_get(h.flags),
	    .buf_alloc = le32_get(h.buf_alloc),
	    .fwd_cnt = le32_get(h.fwd_cnt),
	    .type = le16_get(h.type),
	    .op = le16_get(h.op),
	};
	/* Not to us, not from it, or with a length that lies: nobody can answer that. */
	if (le64_get(h.src_cid) != d->cid || le64_get(h.dst_cid) != VSOCK_HOST_CID ||
	    p.len > VSOCK_BUF || p.len > c->out_bytes - HDR_SIZE)
		return 1;
	if (p.op != VSOCK_RW)
		p.len = 0;
	chain_read(c, HDR_SIZE, d->data, p.len);
	return vsock_take(d->vsock, &p, d->data);
}

/* True: the turn is over, and there may be more. *took: it took packets. */
static _Bool transmit(struct vsockdev *d, _Bool *took)
{
	struct virtqueue *vq = &d->vd.vq[Q_TX];
	unsigned n = 0;
	struct vq_chain c;

	*took = 0;
	if (!virtio_queue_ready(&d->vd, Q_TX))
		return 0;
	vq_notify_disable(vq);
	for (; n < VSOCKDEV_BURST; n++) {
		if (!virtio_pop(&d->vd, Q_TX, &c)) {
			if (!virtio_ready(&d->vd) || !vq_notify_enable(vq))
				break;
			vq_notify_disable(vq);
			continue;
		}
		if (!packet_take(d, &c)) {
			vq_unpop(vq, &c);
			break;
		}
		if (!virtio_ready(&d->vd)) {
			virtio_drop(&d->vd, Q_TX, &c);
			break;
		}
		virtio_push(&d->vd, Q_TX, &c, 0);
		*took = 1;
	}
	virtio_interrupt(&d->vd, Q_TX);
	return n == VSOCKDEV_BURST;
}

static void packet_give(struct vsockdev *d, const struct vq_chain *c, const struct vsock_packet *p)
{
	const struct packet_header h = {
	    .src_cid = le64_make(VSOCK_HOST_CID),
	    .dst_cid = le64_make(d->cid),
	    .src_port = le32_make(p->src_port),
	    .dst_port = le32_make(p->dst_port),
	    .len = le32_make(p->len),
	    .type = le16_make(p->type),
	    .op = le16_make(p->op),
	    .flags = le32_make(p->flags),
	    .buf_alloc = le32_make(p->buf_alloc),
	    .fwd_cnt = le32_make(p->fwd_cnt),
	};

	chain_write(d->vd.mem, c, 0, &h, sizeof(h));
	chain_write(d->vd.mem, c, sizeof(h), d->data, p->len);
	virtio_push(&d->vd, Q_RX, c, (uint32_t)sizeof(h) + p->len);
}

static _Bool receive(struct vsockdev *d)
{
	struct virtqueue *vq = &d->vd.vq[Q_RX];
	struct vsock_packet p;
	unsigned n = 0;
	struct vq_chain c;

	if (!virtio_queue_ready(&d->vd, Q_RX))
		return 0;
	for (; n < VSOCKDEV_BURST; n++) {
		if (!virtio_pop(&d->vd, Q_RX, &c))
			break;
		if (c.in_bytes <= HDR_SIZE) {
			virtio_drop(&d->vd, Q_RX, &c);
			virtio_broken(&d->vd, "a receive buffer without room for a packet");
			break;
		}
		if (!vsock_fetch(d->vsock, &p, d->data,
				 MIN(c.in_bytes - HDR_SIZE, (uint32_t)VSOCK_BUF))) {
			vq_unpop(vq, &c);
			break;
		}
		packet_give(d, &c, &p);
	}
	virtio_interrupt(&d->vd, Q_RX);
	return n == VSOCKDEV_BURST;
}

/* 5.10.6.7: the driver drops its connections, and asks for its CID again. */
static void tell_event(struct vsockdev *d)
{
	struct le32 event = le32_make(EVENT_RESET);
	struct vq_chain c;

	if (!d->event_wanted || !virtio_pop(&d->vd, Q_EVENT, &c))
		return;
	d->event_wanted = 0;
	chain_write(d->vd.mem, &c, 0, &event, sizeof(event));
	virtio_push(&d->vd, Q_EVENT, &c, MIN(c.in_bytes, (uint32_t)sizeof(event)));
	virtio_interrupt(&d->vd, Q_EVENT);
}

static void client_run(void *opaque)
{
	struct vsockdev *d = opaque;
	_Bool more, took;

	lock_take(&d->vd.pci.dev.lock);
	tell_event(d);
	more = transmit(d, &took);
	more |= receive(d);
	/*
	 * What was fetched may have made room for what waits to be taken; and that has answers,
	 * which have to be fetched again. When nothing was taken, the answers wait for buffers, and
	 * the driver notifies of those.
	 */
	if (!more && virtio_queue_ready(&d->vd, Q_TX) && !vq_empty(&d->vd.vq[Q_TX]))
		more = transmit(d, &took) || took;
	vsock_rest(d->vsock, virtio_ready(&d->vd));
	lock_drop(&d->vd.pci.dev.lock);
	if (more)
		vsock_kick(d->vsock);
}

/* ---- what the transport and the driver ask for ---- */

static void vsockdev_notify(struct virtio_dev *vd, unsigned q)
{
	vsock_kick(vsockdev_of(vd)->vsock);
}

static void vsockdev_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	struct vsockdev *d = vsockdev_of(vd);

	store_le64(vd->config, d->cid);
	d->event_wanted = 0;
	vsock_reset(d->vsock);
}

static void vsockdev_post_load(struct virtio_dev *vd)
{
	struct vsockdev *d = vsockdev_of(vd);

	/* The host's ends of all connections are gone. */
	d->event_wanted = virtio_ready(vd);
	vsock_reset(d->vsock);
}

static const struct virtio_ops vsockdev_ops = {
    .notify = vsockdev_notify,
    .reset = vsockdev_reset,
    .post_load = vsockdev_post_load,
};

/* ---- the device's class ---- */

static void vsockdev_free(struct device *dev)
{
	struct vsockdev *d = vsockdev_of(virtio_of(dev));

	vsock_attach(d->vsock, NULL);
	virtio_fini(&d->vd);
	free(d);
}

static int vsockdev_check(const void *shadow, struct error *err)
{
	const struct vsockdev *d = shadow;

	if (load_le64(d->vd.config) != d->cid)
		return error_set(err, -EINVAL, "saved state of %s: its CID was %llu and is %u",
				 d->vd.pci.dev.id, (unsigned long long)load_le64(d->vd.config),
				 d->cid);
	return virtio_check(&d->vd, err);
}

static const struct state_field vsockdev_fields[] = {
    VIRTIO_STATE(struct vsockdev, vd),
    STATE_END,
};
static const struct state_desc vsockdev_state = {
    .name = "virtio-vsock",
    .fields = vsockdev_fields,
    .size = sizeof(struct vsockdev),
    .check = vsockdev_check,
};
static const struct device_class vsockdev_class = {
    .name = "virtio-vsock",
    .reset = virtio_device_reset,
    .free = vsockdev_free,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
    .state = &vsockdev_state,
};

int vsockdev_new(struct device **dev, const struct vsockdev_config *cfg, struct error *err)
{
	static const uint16_t sizes[] = {VSOCKDEV_QUEUE_SIZE, VSOCKDEV_QUEUE_SIZE,
					 VSOCKDEV_QUEUE_SIZE};
	struct vsockdev *d = calloc(1, sizeof(*d));
	char name[24];
	const struct virtio_setup setup = {
	    .cls = &vsockdev_class,
	    .ops = &vsockdev_ops,
	    .id = VIRTIO_ID_VSOCK,
	    .name = name,
	    .class_code = VSOCKDEV_CLASS_CODE,
	    .queues = QUEUES,
	    .queue_sizes = sizes,
	    .config_size = CFG_SIZE,
	};
	int r;

	assert(cfg->cid > VSOCK_HOST_CID);
	if (!d)
		return error_set(err, -ENOMEM, "out of memory");
	d->vsock = cfg->vsock;
	d->cid = cfg->cid;
	snprintf(name, sizeof(name), "vsock%u", cfg->place.instance);
	r = virtio_init(&d->vd, &cfg->place, &setup, err);
	if (r) {
		free(d);
		return r;
	}
	const struct vsock_client client = {client_run, d};
	vsock_attach(d->vsock, &client);
	*dev = &d->vd.pci.dev;
	return 0;
}
