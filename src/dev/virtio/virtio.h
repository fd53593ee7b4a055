/* virtio.h: what every virtio device is: features, status, queues, configuration, transport. */
#ifndef DEV_VIRTIO_VIRTIO_H
#define DEV_VIRTIO_VIRTIO_H

#include "dev/pci/pci.h"
#include "dev/virtio/virtqueue.h"

#define VIRTIO_QUEUES_MAX 64
#define VIRTIO_NO_VECTOR  0xffff

/* Device types (VIRTIO12 5). */
enum virtio_id {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_RNG = 4,
	VIRTIO_ID_BALLOON = 5,
	VIRTIO_ID_SCSI = 8,
	VIRTIO_ID_9P = 9,
	VIRTIO_ID_VSOCK = 19,
	VIRTIO_ID_FS = 26,
};

/* Status bits (VIRTIO12 2.1). */
enum {
	VIRTIO_ACKNOWLEDGE = 1,
	VIRTIO_DRIVER = 2,
	VIRTIO_DRIVER_OK = 4,
	VIRTIO_FEATURES_OK = 8,
	VIRTIO_NEEDS_RESET = 64,
	VIRTIO_FAILED = 128,
};

/* Feature bits that belong to no device type (VIRTIO12 6). */
#define VIRTIO_F_INDIRECT_DESC BIT64(28)
#define VIRTIO_F_EVENT_IDX     BIT64(29)
#define VIRTIO_F_VERSION_1     BIT64(32)
#define VIRTIO_F_RING_PACKED   BIT64(34)
#define VIRTIO_F_IN_ORDER      BIT64(35)
#define VIRTIO_F_RING_RESET    BIT64(40)
/* What the core offers for every device, beside the device's own bits. */
#define VIRTIO_CORE_FEATURES                                                                       \
	(VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED | \
	 VIRTIO_F_RING_RESET)

struct virtio_dev;

/*
 * A device type's callbacks; all but config_size may be NULL. Everything is under the device's
 * lock. None may block.
 */
struct virtio_ops {
	/* The driver set FEATURES_OK with these bits (a subset of what is offered, VERSION_1
	 * among them). False refuses the combination. */
	_Bool (*features)(struct virtio_dev *vd, uint64_t features);
	/* Configuration space: `vd->config` holds it; refresh it before a read, act after a write
	 * (only bytes of `config_rw` change). */
	void (*config_reading)(struct virtio_dev *vd);
	void (*config_written)(struct virtio_dev *vd, unsigned offset, unsigned size);
	/* The driver is ready (DRIVER_OK), or not any more (reset, needs reset, failed): ask
	 * virtio_ready. */
	void (*status)(struct virtio_dev *vd);
	/* The driver notified queue q, which is ready; the driver is too. */
	void (*notify)(struct virtio_dev *vd, unsigned q);
	/* Queue q is about to be reset: drop (virtio_drop) chains that are held with no I/O in
	 * flight. Those in flight are pushed when they are finished, as always; the reset ends
	 * with the last of them. Called for every queue on a device reset. */
	void (*queue_stop)(struct virtio_dev *vd, unsigned q);
	/* Device reset (also power-on): the type's own state to its reset values; after queue_stop
	 * of all queues. vd->config must be filled here. */
	void (*reset)(struct virtio_dev *vd, enum reset_kind kind);
	/* After saved state was committed. */
	void (*post_load)(struct virtio_dev *vd);
};

/* How a device reaches its driver: PCI or MMIO. Under the device's lock; leaf calls. */
struct virtio_transport {
	void (*queue_interrupt)(struct virtio_dev *vd, unsigned q);
	void (*config_interrupt)(struct virtio_dev *vd);
	/* May the device read and write guest memory? */
	_Bool (*may_dma)(const struct virtio_dev *vd);
	/* hard: the whole function, not only what a driver's reset touches. */
	void (*reset)(struct virtio_dev *vd, _Bool hard);
	void (*post_load)(struct virtio_dev *vd);
	void (*fini)(struct virtio_dev *vd);
	int (*check)(const struct virtio_dev *shadow, struct error *err);
};

/* Queues in saved form: filled by virtio_pre_save, taken by virtio_post_load. */
struct virtio_saved {
	uint16_t size[VIRTIO_QUEUES_MAX], vector[VIRTIO_QUEUES_MAX];
	uint8_t ready[VIRTIO_QUEUES_MAX];
	uint64_t desc[VIRTIO_QUEUES_MAX], avail[VIRTIO_QUEUES_MAX], used[VIRTIO_QUEUES_MAX];
	uint16_t last_avail[VIRTIO_QUEUES_MAX], used_idx[VIRTIO_QUEUES_MAX];
	uint8_t avail_wrap[VIRTIO_QUEUES_MAX], used_wrap[VIRTIO_QUEUES_MAX];
};

#define VIRTIO_CONFIG_MAX 256

/*
 * The head of every virtio device's private struct (its first member). Its own head is a PCI
 * function, whose head is the device; over MMIO the function is on no bus and stays zero but for
 * the device.
 */
struct virtio_dev {
	struct pci_dev pci;
	const struct virtio_ops *ops;
	const struct virtio_transport *transport;
	void *transport_data; /* the transport's own, allocated */
	struct gmem *mem;
	enum virtio_id id;
	unsigned queues; /* that exist */
	uint64_t offered;
	unsigned config_size;		      /* bytes of the type's configuration space */
	uint8_t config_rw[VIRTIO_CONFIG_MAX]; /* 0xff for bytes that the driver may write */

	uint64_t features; /* the driver's; in force from FEATURES_OK on */
	uint8_t status;
	uint8_t isr;
	uint8_t generation; /* of the configuration */
	uint16_t config_vector;
	uint16_t queue_select;
	uint8_t feature_select, driver_feature_select; /* 0 or 1; other values read as 2 */
	uint8_t resetting; /* device reset waits for requests in flight; reads as this status */
	uint8_t config[VIRTIO_CONFIG_MAX];
	struct virtqueue vq[VIRTIO_QUEUES_MAX];
	struct virtio_saved saved;
};

static inline struct virtio_dev *virtio_of(struct device *dev)
{
	return container_of(dev, struct virtio_dev, pci.dev);
}

/* Where a device goes: filled by the board, handed to a device's *_new function. */
struct virtio_place {
	struct gmem *mem;
	/* PCI when `bus` is set ... */
	struct device *bus;
	unsigned slot, function;
	/* ... else MMIO: a window of 512 bytes in `memory`, and a level-triggered line. */
	struct space *memory;
	uint64_t base;
	struct irq irq;
	unsigned instance; /* of its kind, for ids and saved state */
};

struct virtio_setup {
	const struct device_class *cls;
	const struct virtio_ops *ops;
	enum virtio_id id;
	const char *name;    /* "blk0", ... */
	uint32_t class_code; /* PCI, 24 bits */
	uint64_t features;   /* the type's own */
	uint64_t without;    /* core features that are not offered */
	unsigned queues;
	const uint16_t *queue_sizes; /* powers of two, up to VQ_SIZE_MAX */
	unsigned config_size;
};

/*
 * For a type's *_new: initializes the common part and puts the device at its place. After a failure
 * only the struct's memory is left to free. `vd` is the head of a zeroed private struct.
 */
NODISCARD int virtio_init(struct virtio_dev *vd, const struct virtio_place *place,
			  const struct virtio_setup *setup, struct error *err);
void virtio_fini(struct virtio_dev *vd); /* also on a zeroed struct */

/* The hooks of the type's device_class, and what its state table and check include. */
void virtio_device_reset(struct device *dev, enum reset_kind kind);
void virtio_pre_save(struct device *dev);
void virtio_post_load(struct device *dev);
NODISCARD int virtio_check(const struct virtio_dev *shadow, struct error *err);
#define VIRTIO_SAVED_(tag, type, vd, f) STATE_ARRAY(tag, type, vd.saved.f, VIRTIO_QUEUES_MAX)
#define VIRTIO_STATE(type, vd)                                                                     \
	PCI_DEV_STATE(type, vd.pci), STATE_SCALAR(0xe001, type, vd.features),                      \
	    STATE_SCALAR(0xe002, type, vd.status), STATE_SCALAR(0xe003, type, vd.isr),             \
	    STATE_SCALAR(0xe004, type, vd.generation),                                             \
	    STATE_SCALAR(0xe005, type, vd.config_vector),                                          \
	    STATE_SCALAR(0xe006, type, vd.queue_select),                                           \
	    STATE_SCALAR(0xe007, type, vd.feature_select),                                         \
	    STATE_SCALAR(0xe008, type, vd.driver_feature_select),                                  \
	    STATE_ARRAY(0xe009, type, vd.config, VIRTIO_CONFIG_MAX),                               \
	    VIRTIO_SAVED_(0xe010, type, vd, size), VIRTIO_SAVED_(0xe011, type, vd, vector),        \
	    VIRTIO_SAVED_(0xe012, type, vd, ready), VIRTIO_SAVED_(0xe013, type, vd, desc),         \
	    VIRTIO_SAVED_(0xe014, type, vd, avail), VIRTIO_SAVED_(0xe015, type, vd, used),         \
	    VIRTIO_SAVED_(0xe016, type, vd, last_avail),                                           \
	    VIRTIO_SAVED_(0xe017, type, vd, used_idx),                                             \
	    VIRTIO_SAVED_(0xe018, type, vd, avail_wrap),                                           \
	    VIRTIO_SAVED_(0xe019, type, vd, used_wrap)

/* ---- for device types, under the device's lock ---- */

/* DRIVER_OK, not broken, and allowed to use memory: queues may be processed. */
_Bool virtio_ready(const struct virtio_dev *vd);
_Bool virtio_queue_ready(const struct virtio_dev *vd, unsigned q);
static inline _Bool virtio_has(const struct virtio_dev *vd, uint64_t feature)
{
	return vd->features & feature;
}

/* The next chain of a ready queue: true when there is one. A malformed ring breaks the device. */
NODISCARD _Bool virtio_pop(struct virtio_dev *vd, unsigned q, struct vq_chain *chain);
/* The chain is done: `written` bytes of its writable part were filled (and marked dirty). After a
 * reset in the meantime it vanishes. */
void virtio_push(struct virtio_dev *vd, unsigned q, const struct vq_chain *chain, uint32_t written);
/* A chain will not be answered (only in queue_stop, or when the device is broken). */
void virtio_drop(struct virtio_dev *vd, unsigned q, const struct vq_chain *chain);
/* Interrupts the driver if it wants that for what was pushed: once per batch. */
void virtio_interrupt(struct virtio_dev *vd, unsigned q);
/* Chains in flight in all queues. */
unsigned virtio_in_flight(const struct virtio_dev *vd);

/* vd->config changed: a new generation, and the driver is told. */
void virtio_config_changed(struct virtio_dev *vd);
/* The driver did what it must not: NEEDS_RESET, once; queues rest until it resets the device. */
void virtio_broken(struct virtio_dev *vd, const char *why);

/* ---- for transports, under the device's lock ---- */

uint8_t virtio_status_read(const struct virtio_dev *vd);
void virtio_status_write(struct virtio_dev *vd, uint8_t value);
uint32_t virtio_features_read(const struct virtio_dev *vd, unsigned half);
void virtio_features_write(struct virtio_dev *vd, unsigned half, uint32_t value);
uint32_t virtio_driver_features_read(const struct virtio_dev *vd, unsigned half);
uint64_t virtio_config_read(struct virtio_dev *vd, unsigned offset, unsigned size);
void virtio_config_write(struct virtio_dev *vd, unsigned offset, unsigned size, uint64_t value);
void virtio_queue_notified(struct virtio_dev *vd, unsigned q);
void virtio_queue_enable(struct virtio_dev *vd, unsigned q);
void virtio_queue_reset(struct virtio_dev *vd, unsigned q);
/* The queue that the driver has selected, or NULL. */
struct virtqueue *virtio_selected(struct virtio_dev *vd);

#endif
