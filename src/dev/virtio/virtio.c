/* virtio.c: what all virtio devices share: negotiation, status, reset, configuration, saved state.
 */
#include "dev/virtio/virtio.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/trace.h"
#include "dev/virtio/virtio_mmio.h"
#include "dev/virtio/virtio_pci.h"

/*
 * Reset with requests in flight. A back end may still be reading into guest memory when the driver
 * resets the device or a queue. The registers go to their reset values at once, but the reset is
 * not over (status, or queue_reset, does not read as zero: VIRTIO12 2.4, 2.6.1) until the last of
 * those requests has come back; what the driver writes to the status in between is ignored. Rings
 * are no longer touched: a chain that comes back is only counted.
 */

int virtio_init(struct virtio_dev *vd, const struct virtio_place *place,
		const struct virtio_setup *setup, struct error *err)
{
	assert(setup->queues && setup->queues <= VIRTIO_QUEUES_MAX);
	assert(setup->config_size <= VIRTIO_CONFIG_MAX);
	vd->ops = setup->ops;
	vd->mem = place->mem;
	vd->id = setup->id;
	vd->queues = setup->queues;
	vd->config_size = setup->config_size;
	vd->offered = setup->features | (VIRTIO_CORE_FEATURES & ~setup->without);
	vd->config_vector = VIRTIO_NO_VECTOR;
	for (unsigned q = 0; q < vd->queues; q++)
		vq_init(&vd->vq[q], place->mem, setup->queue_sizes[q]);
	return place->bus ? virtio_pci_init(vd, place, setup, err)
			  : virtio_mmio_init(vd, place, setup, err);
}

void virtio_fini(struct virtio_dev *vd)
{
	if (vd->transport)
		vd->transport->fini(vd);
}

/* ---- readiness ---- */

_Bool virtio_ready(const struct virtio_dev *vd)
{
	return (vd->status & (VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET | VIRTIO_FAILED)) ==
		   VIRTIO_DRIVER_OK &&
	       !vd->resetting && vd->transport->may_dma(vd);
}

_Bool virtio_queue_ready(const struct virtio_dev *vd, unsigned q)
{
	return q < vd->queues && vd->vq[q].ready && virtio_ready(vd);
}

unsigned virtio_in_flight(const struct virtio_dev *vd)
{
	unsigned n = 0;

	for (unsigned q = 0; q < vd->queues; q++)
		n += vd->vq[q].in_flight;
	return n;
}

static void tell_status(struct virtio_dev *vd)
{
	if (vd->ops->status)
		vd->ops->status(vd);
}

void virtio_broken(struct virtio_dev *vd, const char *why)
{
	if (vd->status & VIRTIO_NEEDS_RESET)
		return;
	log_guest("%s: the guest's driver gave the device %s; it waits for a reset", vd->pci.dev.id,
		  why);
	vd->status |= VIRTIO_NEEDS_RESET;
	if (vd->status & VIRTIO_DRIVER_OK)
		vd->transport->config_interrupt(vd); /* VIRTIO12 2.1.2 */
	tell_status(vd);
}

/* ---- queues, for device types ---- */

_Bool virtio_pop(struct virtio_dev *vd, unsigned q, struct vq_chain *chain)
{
	const char *why;
	int r;

	if (!virtio_queue_ready(vd, q))
		return 0;
	r = vq_pop(&vd->vq[q], chain, &why);
	if (r < 0)
		virtio_broken(vd, why);
	return r == 1;
}

/* A chain came back: is that the end of a reset? */
static void settle(struct virtio_dev *vd, struct virtqueue *vq)
{
	if (vq->stopping && !vq->in_flight)
		vq->stopping = 0;
	if (vd->resetting && !virtio_in_flight(vd))
		vd->resetting = 0;
}

void virtio_push(struct virtio_dev *vd, unsigned q, const struct vq_chain *chain, uint32_t written)
{
	vq_push(&vd->vq[q], chain, written);
	settle(vd, &vd->vq[q]);
}

void virtio_drop(struct virtio_dev *vd, unsigned q, const struct vq_chain *chain)
{
	vq_drop(&vd->vq[q], chain);
	settle(vd, &vd->vq[q]);
}

void virtio_interrupt(struct virtio_dev *vd, unsigned q)
{
	if ((vd->status & VIRTIO_DRIVER_OK) && vq_wants_interrupt(&vd->vq[q]))
		vd->transport->queue_interrupt(vd, q);
}

/* Chains may be there whose notification came too early, or before the state was saved. */
static void look_at_queues(struct virtio_dev *vd)
{
	for (unsigned q = 0; q < vd->queues; q++) {
		if (virtio_queue_ready(vd, q) && !vq_empty(&vd->vq[q]))
			virtio_queue_notified(vd, q);
	}
}

/* ---- reset ---- */

static void reset(struct virtio_dev *vd, enum reset_kind kind, _Bool hard)
{
	uint8_t before = vd->resetting ? vd->resetting : vd->status;

	for (unsigned q = 0; q < vd->queues; q++) {
		if (vd->ops->queue_stop)
			vd->ops->queue_stop(vd, q);
		vq_reset(&vd->vq[q]);
	}
	vd->features = 0;
	vd->status = vd->isr = vd->generation = 0;
	vd->config_vector = VIRTIO_NO_VECTOR;
	vd->queue_select = 0;
	vd->feature_select = vd->driver_feature_select = 0;
	vd->resetting = virtio_in_flight(vd) ? MAX(before, VIRTIO_ACKNOWLEDGE) : 0;
	vd->transport->reset(vd, hard);
	if (vd->ops->reset)
		vd->ops->reset(vd, kind);
	tell_status(vd);
}

void virtio_device_reset(struct device *dev, enum reset_kind kind)
{
	reset(virtio_of(dev), kind, 1);
}

/* ---- status and features (VIRTIO12 2.1, 2.2, 3.1) ---- */

uint8_t virtio_status_read(const struct virtio_dev *vd)
{
	return vd->resetting ? vd->resetting : vd->status;
}

static _Bool features_fit(struct virtio_dev *vd)
{
	if (vd->features & ~vd->offered || !(vd->features & VIRTIO_F_VERSION_1))
		return 0;
	return !vd->ops->features || vd->ops->features(vd, vd->features);
}

void virtio_status_write(struct virtio_dev *vd, uint8_t value)
{
	const uint8_t drivers = VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK |
				VIRTIO_FEATURES_OK | VIRTIO_FAILED;
	uint8_t before = vd->status;

	trace(TRACE_PCI, "%s: status 0x%x", vd->pci.dev.id, value);
	if (vd->resetting)
		return;
	if (!value) {
		reset(vd, RESET_SYSTEM, 0);
		return;
	}
	/* A driver takes no bit back but by a reset. */
	vd->status |= value & drivers;
	if (!(before & VIRTIO_FEATURES_OK) && (vd->status & VIRTIO_FEATURES_OK) &&
	    !features_fit(vd))
		vd->status &= (uint8_t)~VIRTIO_FEATURES_OK;
	if (!(vd->status & VIRTIO_FEATURES_OK))
		vd->status &= (uint8_t)~VIRTIO_DRIVER_OK;
	if ((vd->status ^ before) & (VIRTIO_DRIVER_OK | VIRTIO_FAILED)) {
		tell_status(vd);
		look_at_queues(vd);
	}
}

uint32_t virtio_features_read(const struct virtio_dev *vd, unsigned half)
{
	return half < 2 ? (uint32_t)(vd->offered >> (32 * half)) : 0;
}

uint32_t virtio_driver_features_read(const struct virtio_dev *vd, unsigned half)
{
	return half < 2 ? (uint32_t)(vd->features >> (32 * half)) : 0;
}

void virtio_features_write(struct virtio_dev *vd, unsigned half, uint32_t value)
{
	if (half >= 2 || vd->resetting || (vd->status & VIRTIO_FEATURES_OK))
		return;
	vd->features &= ~((uint64_t)UINT32_MAX << (32 * half));
	vd->features |= (uint64_t)value << (32 * half);
}

/* ---- configuration space ---- */

uint64_t virtio_config_read(struct virtio_dev *vd, unsigned offset, unsigned size)
{
	uint64_t v = 0;

	if (vd->ops->config_reading)
		vd->ops->config_reading(vd);
	for (unsigned i = 0; i < size && offset + i < vd->config_size; i++)
		v |= (uint64_t)vd->config[offset + i] << (8 * i);
	return v;
}

void virtio_config_write(struct virtio_dev *vd, unsigned offset, unsigned size, uint64_t value)
{
	for (unsigned i = 0; i < size && offset + i < vd->config_size; i++) {
		uint8_t *at = &vd->config[offset + i], rw = vd->config_rw[offset + i];
		*at = (uint8_t)((*at & ~rw) | ((value >> (8 * i)) & rw));
	}
	if (vd->ops->config_written)
		vd->ops->config_written(vd, offset, size);
}

void virtio_config_changed(struct virtio_dev *vd)
{
	vd->generation++;
	if (vd->status & VIRTIO_DRIVER_OK)
		vd->transport->config_interrupt(vd);
}

/* ---- queues, for transports ---- */

struct virtqueue *virtio_selected(struct virtio_dev *vd)
{
	return vd->queue_select < vd->queues ? &vd->vq[vd->queue_select] : NULL;
}

void virtio_queue_notified(struct virtio_dev *vd, unsigned q)
{
	if (virtio_queue_ready(vd, q) && vd->ops->notify)
		vd->ops->notify(vd, q);
}

void virtio_queue_enable(struct virtio_dev *vd, unsigned q)
{
	struct virtqueue *vq = &vd->vq[q];

	if (q >= vd->queues || vq->ready || vq->stopping || !(vd->status & VIRTIO_FEATURES_OK))
		return;
	if (vq_start(vq, vd->features, 0))
		virtio_broken(vd, "a queue whose rings are not in RAM or not aligned");
}

void virtio_queue_reset(struct virtio_dev *vd, unsigned q)
{
	if (q >= vd->queues || !virtio_has(vd, VIRTIO_F_RING_RESET) ||
	    !(vd->status & VIRTIO_FEATURES_OK))
		return;
	if (vd->ops->queue_stop)
		vd->ops->queue_stop(vd, q);
	vq_reset(&vd->vq[q]);
}

/* ---- saved state ---- */

void virtio_pre_save(struct device *dev)
{
	struct virtio_dev *vd = virtio_of(dev);
	struct virtio_saved *s = &vd->saved;

	assert(!virtio_in_flight(vd) && !vd->resetting); /* the class's quiesce came before */
	memset(s, 0, sizeof(*s));
	for (unsigned q = 0; q < vd->queues; q++) {
		const struct virtqueue *vq = &vd->vq[q];
		s->size[q] = vq->size;
		s->vector[q] = vq->vector;
		s->ready[q] = vq->ready;
		s->desc[q] = vq->desc;
		s->avail[q] = vq->avail;
		s->used[q] = vq->used;
		s->last_avail[q] = vq->last_avail;
		s->used_idx[q] = vq->used_idx;
		s->avail_wrap[q] = vq->avail_wrap;
		s->used_wrap[q] = vq->used_wrap;
	}
}

static void queue_from_saved(struct virtqueue *vq, const struct virtio_saved *s, unsigned q)
{
	vq_reset(vq);
	vq->size = s->size[q];
	vq->vector = s->vector[q];
	vq->desc = s->desc[q];
	vq->avail = s->avail[q];
	vq->used = s->used[q];
	vq->last_avail = s->last_avail[q];
	vq->used_idx = s->used_idx[q];
	vq->avail_wrap = s->avail_wrap[q];
	vq->used_wrap = s->used_wrap[q];
}

void virtio_post_load(struct device *dev)
{
	struct virtio_dev *vd = virtio_of(dev);

	for (unsigned q = 0; q < vd->queues; q++) {
		queue_from_saved(&vd->vq[q], &vd->saved, q);
		/* virtio_check has tried it. */
		if (vd->saved.ready[q] && vq_start(&vd->vq[q], vd->features, 1))
			virtio_broken(vd, "saved queues that are not in RAM");
	}
	vd->transport->post_load(vd);
	if (vd->ops->post_load)
		vd->ops->post_load(vd);
	tell_status(vd);
	look_at_queues(vd);
}

static int bad(const struct virtio_dev *vd, struct error *err, const char *what)
{
	return error_set(err, -EINVAL, "saved state of %s: %s", vd->pci.dev.id, what);
}

static int check_queue(const struct virtio_dev *vd, unsigned q, struct error *err)
{
	const struct virtio_saved *s = &vd->saved;
	struct virtqueue vq = vd->vq[q];

	if (s->ready[q] > 1 || s->avail_wrap[q] > 1 || s->used_wrap[q] > 1)
		return bad(vd, err, "a flag of a queue is neither 0 nor 1");
	if (q >= vd->queues)
		return s->ready[q] ? bad(vd, err, "a queue that it does not have") : 0;
	if (!s->ready[q]) /* the driver may have written any size; it is judged when it enables */
		return 0;
	if (!s->size[q] || s->size[q] > vd->vq[q].max_size)
		return bad(vd, err, "a queue's size");
	if (!(vd->status & VIRTIO_FEATURES_OK))
		return bad(vd, err, "a queue that is ready before the driver is");
	queue_from_saved(&vq, s, q);
	return vq_start(&vq, vd->features, 1) ? bad(vd, err, "a queue outside RAM") : 0;
}

int virtio_check(const struct virtio_dev *vd, struct error *err)
{
	const uint8_t known = VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK |
			      VIRTIO_FEATURES_OK | VIRTIO_NEEDS_RESET | VIRTIO_FAILED;
	int r = 0;

	if (vd->status & ~known ||
	    (vd->status & (VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK)) == VIRTIO_DRIVER_OK)
		return bad(vd, err, "the status contradicts itself");
	if ((vd->status & VIRTIO_FEATURES_OK) &&
	    (vd->features & ~vd->offered || !(vd->features & VIRTIO_F_VERSION_1)))
		return bad(vd, err, "features that it does not have");
	if (vd->feature_select > 2 || vd->driver_feature_select > 2 || vd->isr > 3)
		return bad(vd, err, "a register is out of range");
	for (unsigned q = 0; !r && q < VIRTIO_QUEUES_MAX; q++)
		r = check_queue(vd, q, err);
	return r ? r : vd->transport->check(vd, err);
}
