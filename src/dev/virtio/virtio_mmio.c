/* virtio_mmio.c: the memory-mapped transport (VIRTIO12 4.2). */
#include "dev/virtio/virtio_mmio.h"

#include <errno.h>
#include <stdlib.h>

/* Registers (4.2.2). */
enum {
	MAGIC = 0x000,
	VERSION = 0x004,
	DEVICE_ID = 0x008,
	VENDOR_ID = 0x00c,
	DEVICE_FEATURES = 0x010,
	DEVICE_FEATURES_SEL = 0x014,
	DRIVER_FEATURES = 0x020,
	DRIVER_FEATURES_SEL = 0x024,
	QUEUE_SEL = 0x030,
	QUEUE_NUM_MAX = 0x034,
	QUEUE_NUM = 0x038,
	QUEUE_READY = 0x044,
	QUEUE_NOTIFY = 0x050,
	INTERRUPT_STATUS = 0x060,
	INTERRUPT_ACK = 0x064,
	STATUS = 0x070,
	QUEUE_DESC_LOW = 0x080,
	QUEUE_DRIVER_LOW = 0x090,
	QUEUE_DEVICE_LOW = 0x0a0,
	SHM_LEN_LOW = 0x0b0,
	SHM_BASE_HIGH = 0x0bc,
	QUEUE_RESET = 0x0c0,
	CONFIG_GENERATION = 0x0fc,
	CONFIG = 0x100,
};

#define MAGIC_VALUE   0x74726976u /* "virt" */
#define VERSION_VALUE 2
#define VENDOR_VALUE  0x1af4

#define ISR_QUEUE  1
#define ISR_CONFIG 2

struct virtio_mmio {
	struct space *memory;
	struct region region;
	struct irq irq;
};

static struct virtio_mmio *mmio_of(const struct virtio_dev *vd)
{
	return vd->transport_data;
}

static uint32_t queue_reg_read(struct virtio_dev *vd, unsigned offset)
{
	const struct virtqueue *vq = virtio_selected(vd);

	if (!vq)
		return 0;
	switch (offset) {
	case QUEUE_NUM_MAX: return vq->max_size;
	case QUEUE_READY: return vq->ready;
	case QUEUE_RESET: return vq->stopping;
	default: return 0;
	}
}

static uint32_t reg_value(struct virtio_dev *vd, unsigned offset)
{
	switch (offset) {
	case MAGIC: return MAGIC_VALUE;
	case VERSION: return VERSION_VALUE;
	case DEVICE_ID: return vd->id;
	case VENDOR_ID: return VENDOR_VALUE;
	case DEVICE_FEATURES: return virtio_features_read(vd, vd->feature_select);
	case INTERRUPT_STATUS: return vd->isr;
	case STATUS: return virtio_status_read(vd);
	case CONFIG_GENERATION: return vd->generation;
	default: break;
	}
	if (offset >= SHM_LEN_LOW && offset <= SHM_BASE_HIGH)
		return UINT32_MAX; /* no shared memory regions (4.2.2.1) */
	return queue_reg_read(vd, offset);
}

static uint64_t with_half(uint64_t old, unsigned offset, uint32_t value)
{
	unsigned shift = offset & 4 ? 32 : 0;

	return (old & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

static void queue_reg_write(struct virtio_dev *vd, struct virtqueue *vq, unsigned offset,
			    uint32_t value)
{
	if (offset == QUEUE_RESET && value == 1) {
		virtio_queue_reset(vd, vd->queue_select);
	} else if (offset == QUEUE_READY && (value & 1)) {
		virtio_queue_enable(vd, vd->queue_select);
	} else if (offset == QUEUE_READY) {
		/* 4.2.2.2: the driver takes the queue away; its rings stay set. */
		if (vd->ops->queue_stop)
			vd->ops->queue_stop(vd, vd->queue_select);
		vq_reset(vq);
	}
	if (vq->ready || vq->stopping)
		return;
	switch (offset) {
	case QUEUE_NUM: vq->size = (uint16_t)MIN(value, UINT16_MAX); break;
	case QUEUE_DESC_LOW:
	case QUEUE_DESC_LOW + 4: vq->desc = with_half(vq->desc, offset, value); break;
	case QUEUE_DRIVER_LOW:
	case QUEUE_DRIVER_LOW + 4: vq->avail = with_half(vq->avail, offset, value); break;
	case QUEUE_DEVICE_LOW:
	case QUEUE_DEVICE_LOW + 4: vq->used = with_half(vq->used, offset, value); break;
	default: break;
	}
}

static void reg_set(struct virtio_dev *vd, unsigned offset, uint32_t value)
{
	struct virtqueue *vq = virtio_selected(vd);

	switch (offset) {
	case DEVICE_FEATURES_SEL: vd->feature_select = (uint8_t)MIN(value, 2u); break;
	case DRIVER_FEATURES_SEL: vd->driver_feature_select = (uint8_t)MIN(value, 2u); break;
	case DRIVER_FEATURES: virtio_features_write(vd, vd->driver_feature_select, value); break;
	case QUEUE_SEL: vd->queue_select = (uint16_t)MIN(value, UINT16_MAX); break;
	case QUEUE_NOTIFY: virtio_queue_notified(vd, value); break;
	case INTERRUPT_ACK:
		vd->isr &= (uint8_t)~value;
		irq_set(&mmio_of(vd)->irq, vd->isr != 0);
		break;
	case STATUS: virtio_status_write(vd, (uint8_t)value); break;
	default:
		if (vq)
			queue_reg_write(vd, vq, offset, value);
	}
}

/* 4.2.2.2: registers are 32 bits wide and only accessed so; the configuration takes any width. */
static uint64_t mmio_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_dev *vd = virtio_of(dev);

	if (offset >= CONFIG)
		return virtio_config_read(vd, (unsigned)offset - CONFIG, size);
	return size == 4 ? reg_value(vd, (unsigned)offset) : 0;
}

static void mmio_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct virtio_dev *vd = virtio_of(dev);

	if (offset >= CONFIG)
		virtio_config_write(vd, (unsigned)offset - CONFIG, size, value);
	else if (size == 4)
		reg_set(vd, (unsigned)offset, (uint32_t)value);
}

static const struct region_ops mmio_ops = {.read = mmio_read, .write = mmio_write, .max_size = 4};

/* ---- the transport ---- */

static void interrupt(struct virtio_dev *vd, uint8_t isr)
{
	vd->isr |= isr;
	irq_set(&mmio_of(vd)->irq, 1);
}

static void queue_interrupt(struct virtio_dev *vd, unsigned q)
{
	interrupt(vd, ISR_QUEUE);
}

static void config_interrupt(struct virtio_dev *vd)
{
	interrupt(vd, ISR_CONFIG);
}

static _Bool may_dma(const struct virtio_dev *vd)
{
	return 1;
}

/* The status bits and the line always agree. */
static void follow_isr(struct virtio_dev *vd)
{
	irq_set(&mmio_of(vd)->irq, vd->isr != 0);
}

static void transport_reset(struct virtio_dev *vd, _Bool hard)
{
	follow_isr(vd);
}

static void transport_fini(struct virtio_dev *vd)
{
	struct virtio_mmio *vm = mmio_of(vd);

	if (vm->region.mapped)
		space_unmap(vm->memory, &vm->region);
	device_fini(&vd->pci.dev);
	free(vm);
	vd->transport_data = NULL;
}

static int transport_check(const struct virtio_dev *vd, struct error *err)
{
	_Bool fits = vd->config_vector == VIRTIO_NO_VECTOR;

	for (unsigned q = 0; q < vd->queues; q++)
		fits &= vd->saved.vector[q] == VIRTIO_NO_VECTOR;
	return fits ? 0
		    : error_set(err, -EINVAL, "saved state of %s: vectors, which MMIO has not",
				vd->pci.dev.id);
}

static const struct virtio_transport mmio_transport = {
    .queue_interrupt = queue_interrupt,
    .config_interrupt = config_interrupt,
    .may_dma = may_dma,
    .reset = transport_reset,
    .post_load = follow_isr,
    .fini = transport_fini,
    .check = transport_check,
};

int virtio_mmio_init(struct virtio_dev *vd, const struct virtio_place *place,
		     const struct virtio_setup *setup, struct error *err)
{
	struct virtio_mmio *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return error_set(err, -ENOMEM, "out of memory");
	device_init(&vd->pci.dev, setup->cls, RANK_DEVICE, place->instance, setup->name);
	vm->memory = place->memory;
	vm->irq = place->irq;
	vm->region = (struct region){
	    .name = "virtio-mmio", .dev = &vd->pci.dev, .ops = &mmio_ops, .size = VIRTIO_MMIO_SIZE};
	r = space_map(place->memory, &vm->region, place->base);
	if (r) {
		device_fini(&vd->pci.dev);
		free(vm);
		return error_set(err, r, "%s: its window at 0x%llx is taken", setup->name,
				 (unsigned long long)place->base);
	}
	vd->transport = &mmio_transport;
	vd->transport_data = vm;
	return 0;
}
