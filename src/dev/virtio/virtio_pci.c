/* virtio_pci.c: the modern PCI transport (VIRTIO12 4.1). */
#include "dev/virtio/virtio_pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"

#define PCI_VENDOR_VIRTIO  0x1af4
#define PCI_DEVICE_MODERN  0x1040 /* plus the device type (4.1.2) */
#define PCI_CAP_VENDOR	   0x09
#define PCI_SUBSYSTEM_MARK 0x1100 /* not the legacy range below 0x40 (4.1.2.1) */

#define BAR_MSIX      1
#define BAR_MSIX_SIZE 0x1000
#define MSIX_PBA      0x800
#define BAR_REGS      4
#define BAR_REGS_SIZE 0x4000

/* Structures and where they are in BAR_REGS (4.1.4). */
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_CFG = 5 };
#define AT_COMMON	0x0000
#define AT_ISR		0x1000
#define AT_DEVICE	0x2000
#define AT_NOTIFY	0x3000
#define COMMON_SIZE	0x40
#define NOTIFY_MULTIPLE 4

/* struct virtio_pci_cap and what follows it in two of them. */
#define CAP_LEN	       16
#define CAP_BAR	       4
#define CAP_OFFSET     8
#define CAP_LENGTH     12
#define CAP_NOTIFY_MUL 16
#define CAP_CFG_DATA   16

#define ISR_QUEUE  1
#define ISR_CONFIG 2

struct virtio_pci {
	struct region common, isr, device, notify;
	unsigned cfg_cap; /* offset of CAP_PCI_CFG */
};

static struct virtio_pci *pci_of(const struct virtio_dev *vd)
{
	return vd->transport_data;
}

/* ---- the common configuration structure (4.1.4.3) ---- */

enum {
	DEVICE_FEATURE_SELECT = 0,
	DEVICE_FEATURE = 4,
	DRIVER_FEATURE_SELECT = 8,
	DRIVER_FEATURE = 12,
	CONFIG_VECTOR = 16,
	NUM_QUEUES = 18,
	DEVICE_STATUS = 20,
	GENERATION = 21,
	QUEUE_SELECT = 22,
	QUEUE_SIZE = 24,
	QUEUE_VECTOR = 26,
	QUEUE_ENABLE = 28,
	QUEUE_NOTIFY_OFF = 30,
	QUEUE_DESC = 32,
	QUEUE_DRIVER = 40,
	QUEUE_DEVICE = 48,
	QUEUE_RESET = 58,
	COMMON_END = 60,
};

/* Registers that can be written; 64-bit ones in halves (4.1.3.1). */
static const struct {
	uint8_t offset, size;
} common_regs[] = {
    {DEVICE_FEATURE_SELECT, 4},
    {DRIVER_FEATURE_SELECT, 4},
    {DRIVER_FEATURE, 4},
    {CONFIG_VECTOR, 2},
    {DEVICE_STATUS, 1},
    {QUEUE_SELECT, 2},
    {QUEUE_SIZE, 2},
    {QUEUE_VECTOR, 2},
    {QUEUE_DESC, 4},
    {QUEUE_DESC + 4, 4},
    {QUEUE_DRIVER, 4},
    {QUEUE_DRIVER + 4, 4},
    {QUEUE_DEVICE, 4},
    {QUEUE_DEVICE + 4, 4},
    {QUEUE_ENABLE, 2},
    {QUEUE_RESET, 2},
};

static void common_image(struct virtio_dev *vd, uint8_t image[COMMON_SIZE])
{
	const struct virtqueue *vq = virtio_selected(vd);

	memset(image, 0, COMMON_SIZE);
	store_le32(image + DEVICE_FEATURE_SELECT, vd->feature_select);
	store_le32(image + DEVICE_FEATURE, virtio_features_read(vd, vd->feature_select));
	store_le32(image + DRIVER_FEATURE_SELECT, vd->driver_feature_select);
	store_le32(image + DRIVER_FEATURE,
		   virtio_driver_features_read(vd, vd->driver_feature_select));
	store_le16(image + CONFIG_VECTOR, vd->config_vector);
	store_le16(image + NUM_QUEUES, (uint16_t)vd->queues);
	image[DEVICE_STATUS] = virtio_status_read(vd);
	image[GENERATION] = vd->generation;
	store_le16(image + QUEUE_SELECT, vd->queue_select);
	if (!vq) {
		store_le16(image + QUEUE_VECTOR, VIRTIO_NO_VECTOR);
		return;
	}
	store_le16(image + QUEUE_SIZE, vq->size);
	store_le16(image + QUEUE_VECTOR, vq->vector);
	store_le16(image + QUEUE_ENABLE, vq->ready);
	store_le16(image + QUEUE_NOTIFY_OFF, vd->queue_select);
	store_le64(image + QUEUE_DESC, vq->desc);
	store_le64(image + QUEUE_DRIVER, vq->avail);
	store_le64(image + QUEUE_DEVICE, vq->used);
	store_le16(image + QUEUE_RESET, vq->stopping);
}

static uint64_t with_half(uint64_t old, unsigned offset, uint32_t value)
{
	unsigned shift = offset & 4 ? 32 : 0;

	return (old & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

static uint16_t vector_or_none(const struct virtio_dev *vd, uint32_t value)
{
	return value < vd->pci.msix_count ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static void queue_set(struct virtio_dev *vd, struct virtqueue *vq, unsigned offset, uint32_t value)
{
	if (offset == QUEUE_VECTOR)
		vq->vector = vector_or_none(vd, value);
	else if (offset == QUEUE_RESET && value == 1)
		virtio_queue_reset(vd, vd->queue_select);
	else if (offset == QUEUE_ENABLE && value == 1)
		virtio_queue_enable(vd, vd->queue_select);
	if (vq->ready || vq->stopping)
		return; /* 4.1.4.3.2: set before it is enabled */
	switch (offset) {
	case QUEUE_SIZE: vq->size = (uint16_t)value; break;
	case QUEUE_DESC:
	case QUEUE_DESC + 4: vq->desc = with_half(vq->desc, offset, value); break;
	case QUEUE_DRIVER:
	case QUEUE_DRIVER + 4: vq->avail = with_half(vq->avail, offset, value); break;
	case QUEUE_DEVICE:
	case QUEUE_DEVICE + 4: vq->used = with_half(vq->used, offset, value); break;
	default: break;
	}
}

static void common_set(struct virtio_dev *vd, unsigned offset, uint32_t value)
{
	struct virtqueue *vq = virtio_selected(vd);

	switch (offset) {
	case DEVICE_FEATURE_SELECT: vd->feature_select = (uint8_t)MIN(value, 2u); break;
	case DRIVER_FEATURE_SELECT: vd->driver_feature_select = (uint8_t)MIN(value, 2u); break;
	case DRIVER_FEATURE: virtio_features_write(vd, vd->driver_feature_select, value); break;
	case CONFIG_VECTOR: vd->config_vector = vector_or_none(vd, value); break;
	case DEVICE_STATUS: virtio_status_write(vd, (uint8_t)value); break;
	case QUEUE_SELECT: vd->queue_select = (uint16_t)value; break;
	default:
		if (vq)
			queue_set(vd, vq, offset, value);
	}
}

static uint64_t common_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	uint8_t image[COMMON_SIZE];
	uint64_t v = 0;

	common_image(virtio_of(dev), image);
	memcpy(&v, image + offset, size);
	return v;
}

/* Every register that the write touches gets its old value with the written bytes in it. */
static void common_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			 uint64_t value)
{
	struct virtio_dev *vd = virtio_of(dev);
	uint8_t image[COMMON_SIZE];

	common_image(vd, image);
	memcpy(image + offset, &value, size);
	for (unsigned i = 0; i < ARRAY_SIZE(common_regs); i++) {
		unsigned at = common_regs[i].offset, len = common_regs[i].size;
		uint32_t v = 0;

		if (offset >= at + len || at >= offset + size)
			continue;
		memcpy(&v, image + at, len);
		common_set(vd, at, v);
	}
}

/* ---- the other structures ---- */

static uint64_t isr_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_dev *vd = virtio_of(dev);
	uint8_t isr = vd->isr;

	if (offset)
		return 0;
	vd->isr = 0; /* 4.1.4.5.1 */
	pci_set_intx(&vd->pci, 0);
	return isr;
}

static void isr_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
}

static uint64_t device_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return virtio_config_read(virtio_of(dev), (unsigned)offset, size);
}

static void device_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			 uint64_t value)
{
	virtio_config_write(virtio_of(dev), (unsigned)offset, size, value);
}

static uint64_t notify_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return 0;
}

/* 4.1.5.2: the place says which queue. */
static void notify_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			 uint64_t value)
{
	virtio_queue_notified(virtio_of(dev), (unsigned)(offset / NOTIFY_MULTIPLE));
}

static const struct region_ops common_ops = {
    .read = common_read, .write = common_write, .max_size = 4};
static const struct region_ops isr_ops = {.read = isr_read, .write = isr_write, .max_size = 4};
static const struct region_ops device_ops = {
    .read = device_read, .write = device_write, .max_size = 4};
static const struct region_ops notify_ops = {
    .read = notify_read, .write = notify_write, .max_size = 4};

/* ---- access through configuration space (4.1.4.9) ---- */

static struct region *region_at(struct virtio_pci *vp, uint64_t *offset)
{
	struct region *const all[] = {&vp->common, &vp->isr, &vp->device, &vp->notify};
	static const uint32_t at[] = {AT_COMMON, AT_ISR, AT_DEVICE, AT_NOTIFY};

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		if (*offset >= at[i] && *offset < at[i] + all[i]->size) {
			*offset -= at[i];
			return all[i];
		}
	}
	return NULL;
}

/* The window that the driver has set up, or NULL when it is none. */
static struct region *cfg_window(struct pci_dev *pd, uint64_t *offset, unsigned *size)
{
	struct virtio_pci *vp = pci_of(container_of(pd, struct virtio_dev, pci));
	struct region *r;

	*offset = pci_config_get(pd, vp->cfg_cap + CAP_OFFSET, 4);
	*size = pci_config_get(pd, vp->cfg_cap + CAP_LENGTH, 4);
	if (pci_config_get(pd, vp->cfg_cap + CAP_BAR, 1) != BAR_REGS ||
	    (*size != 1 && *size != 2 && *size != 4) || *offset % *size)
		return NULL;
	r = region_at(vp, offset);
	return r && *offset + *size <= r->size ? r : NULL;
}

static _Bool touches_data(const struct pci_dev *pd, unsigned offset, unsigned size)
{
	unsigned at = pci_of(container_of(pd, struct virtio_dev, pci))->cfg_cap + CAP_CFG_DATA;

	return offset < at + 4 && at < offset + size;
}

static unsigned cfg_data(const struct pci_dev *pd)
{
	return pci_of(container_of(pd, struct virtio_dev, pci))->cfg_cap + CAP_CFG_DATA;
}

static void config_reading(struct pci_dev *pd, unsigned offset, unsigned size)
{
	uint64_t at;
	unsigned len;
	struct region *r;

	if (!touches_data(pd, offset, size))
		return;
	r = cfg_window(pd, &at, &len);
	if (r)
		pci_config_set(pd, cfg_data(pd), 4,
			       (uint32_t)r->ops->read(&pd->dev, NULL, at, len));
}

static void config_written(struct pci_dev *pd, unsigned offset, unsigned size)
{
	uint64_t at;
	unsigned len;
	struct region *r;

	if (!touches_data(pd, offset, size))
		return;
	r = cfg_window(pd, &at, &len);
	if (r)
		r->ops->write(&pd->dev, NULL, at, len,
			      pci_config_get(pd, cfg_data(pd), 4) & size_mask(len));
}

static const struct pci_ops pci_hooks = {.config_reading = config_reading,
					 .config_written = config_written};

/* ---- the transport ---- */

/* 4.1.5.3, 4.1.5.4: a message when MSI-X is on, else the status byte and the pin. */
static void interrupt(struct virtio_dev *vd, uint16_t vector, uint8_t isr)
{
	if (pci_msix_enabled(&vd->pci)) {
		if (vector != VIRTIO_NO_VECTOR)
			pci_msix_raise(&vd->pci, vector);
		return;
	}
	vd->isr |= isr;
	pci_set_intx(&vd->pci, 1);
}

static void queue_interrupt(struct virtio_dev *vd, unsigned q)
{
	interrupt(vd, vd->vq[q].vector, ISR_QUEUE);
}

static void config_interrupt(struct virtio_dev *vd)
{
	interrupt(vd, vd->config_vector, ISR_CONFIG);
}

static _Bool may_dma(const struct virtio_dev *vd)
{
	return pci_bus_master(&vd->pci);
}

static void transport_reset(struct virtio_dev *vd, _Bool hard)
{
	pci_set_intx(&vd->pci, 0);
	if (hard)
		pci_dev_reset(&vd->pci);
}

static void transport_post_load(struct virtio_dev *vd)
{
	pci_dev_post_load(&vd->pci);
}

static void transport_fini(struct virtio_dev *vd)
{
	pci_dev_fini(&vd->pci);
	free(vd->transport_data);
	vd->transport_data = NULL;
}

static _Bool vector_fits(const struct virtio_dev *vd, uint16_t vector)
{
	return vector == VIRTIO_NO_VECTOR || vector < vd->pci.msix_count;
}

static int transport_check(const struct virtio_dev *vd, struct error *err)
{
	_Bool fits = vector_fits(vd, vd->config_vector);

	for (unsigned q = 0; q < vd->queues; q++)
		fits &= vector_fits(vd, vd->saved.vector[q]);
	if (!fits)
		return error_set(err, -EINVAL, "saved state of %s: a vector that it does not have",
				 vd->pci.dev.id);
	return pci_dev_check(&vd->pci, err);
}

static const struct virtio_transport pci_transport = {
    .queue_interrupt = queue_interrupt,
    .config_interrupt = config_interrupt,
    .may_dma = may_dma,
    .reset = transport_reset,
    .post_load = transport_post_load,
    .fini = transport_fini,
    .check = transport_check,
};

/* ---- set-up ---- */

static unsigned add_structure(struct virtio_dev *vd, uint8_t type, unsigned len, uint32_t offset,
			      uint32_t length)
{
	struct pci_dev *pd = &vd->pci;
	unsigned at = pci_add_capability(pd, PCI_CAP_VENDOR, len);

	pci_config_init(pd, at + 2, 1, len, 0);
	pci_config_init(pd, at + 3, 1, type, 0);
	pci_config_init(pd, at + CAP_BAR, 1, BAR_REGS, 0);
	pci_config_init(pd, at + CAP_OFFSET, 4, offset, 0);
	pci_config_init(pd, at + CAP_LENGTH, 4, length, 0);
	return at;
}

static void attach(struct virtio_dev *vd, struct region *r, const char *name,
		   const struct region_ops *ops, uint32_t at, uint64_t size)
{
	*r = (struct region){.name = name, .dev = &vd->pci.dev, .ops = ops, .size = size};
	pci_bar_attach(&vd->pci, BAR_REGS, r, at);
}

static void add_structures(struct virtio_dev *vd, struct virtio_pci *vp)
{
	uint32_t notify = vd->queues * NOTIFY_MULTIPLE, config = MAX(vd->config_size, 4u);
	struct pci_dev *pd = &vd->pci;
	unsigned at;

	pci_add_bar(pd, BAR_MSIX, PCI_BAR_MEM32, BAR_MSIX_SIZE, 0);
	pci_add_bar(pd, BAR_REGS, PCI_BAR_MEM64, BAR_REGS_SIZE, 1);
	attach(vd, &vp->common, "virtio-common", &common_ops, AT_COMMON, COMMON_SIZE);
	attach(vd, &vp->isr, "virtio-isr", &isr_ops, AT_ISR, 4);
	attach(vd, &vp->device, "virtio-config", &device_ops, AT_DEVICE, ALIGN_UP(config, 4u));
	attach(vd, &vp->notify, "virtio-notify", &notify_ops, AT_NOTIFY, notify);

	add_structure(vd, CAP_COMMON, CAP_LEN, AT_COMMON, COMMON_END);
	add_structure(vd, CAP_ISR, CAP_LEN, AT_ISR, 1);
	add_structure(vd, CAP_DEVICE, CAP_LEN, AT_DEVICE, ALIGN_UP(config, 4u));
	at = add_structure(vd, CAP_NOTIFY, CAP_LEN + 4, AT_NOTIFY, notify);
	pci_config_init(pd, at + CAP_NOTIFY_MUL, 4, NOTIFY_MULTIPLE, 0);
	at = vp->cfg_cap = add_structure(vd, CAP_PCI_CFG, CAP_LEN + 4, 0, 0);
	pci_config_init(pd, at + CAP_BAR, 1, 0, 0xff);
	pci_config_init(pd, at + CAP_OFFSET, 4, 0, UINT32_MAX);
	pci_config_init(pd, at + CAP_LENGTH, 4, 0, UINT32_MAX);
	pci_config_init(pd, at + CAP_CFG_DATA, 4, 0, UINT32_MAX);
	pci_add_msix(pd, vd->queues + 1, BAR_MSIX, 0, MSIX_PBA);
	pci_add_express(pd);
}

int virtio_pci_init(struct virtio_dev *vd, const struct virtio_place *place,
		    const struct virtio_setup *setup, struct error *err)
{
	const struct pci_ids ids = {
	    .vendor = PCI_VENDOR_VIRTIO,
	    .device = (uint16_t)(PCI_DEVICE_MODERN + setup->id),
	    .revision = 1,
	    .class_code = setup->class_code,
	    .subsys_vendor = PCI_VENDOR_VIRTIO,
	    .subsys_device = PCI_SUBSYSTEM_MARK,
	    .intx_pin = 1,
	};
	struct virtio_pci *vp = calloc(1, sizeof(*vp));
	int r;

	if (!vp)
		return error_set(err, -ENOMEM, "out of memory");
	r = pci_dev_init(&vd->pci, setup->cls, &pci_hooks, place->bus, place->slot, place->function,
			 &ids, place->instance, setup->name, err);
	if (r) {
		free(vp);
		return r;
	}
	vd->transport = &pci_transport;
	vd->transport_data = vp;
	add_structures(vd, vp);
	return 0;
}
