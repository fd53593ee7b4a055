/* vdrv.h: a small virtio driver for guests that mean harm: any device type, both transports, both
 * ring formats, and nothing that stops the caller from doing it wrong. */
#ifndef GUEST_RINGS_VDRV_H
#define GUEST_RINGS_VDRV_H

#include "../g64/g64.h"

/* Memory that devices may be pointed at: the program itself ends far below. */
#define RAM_END	    0x4000000ull /* the run gives the machine 64 MiB */
#define RINGS	    0x1000000ull
#define RINGS_END   0x1200000ull
#define TABLES	    0x1200000ull /* indirect tables */
#define BUFFERS	    0x1400000ull
#define BUFFERS_END 0x1800000ull
#define SLOT	    0x20000ull /* of BUFFERS, one request's */

enum virtio_id {
	ID_NET = 1,
	ID_BLK = 2,
	ID_CONSOLE = 3,
	ID_RNG = 4,
	ID_BALLOON = 5,
	ID_SCSI = 8,
	ID_9P = 9,
	ID_VSOCK = 19,
};

enum {
	ST_ACK = 1,
	ST_DRIVER = 2,
	ST_DRIVER_OK = 4,
	ST_FEATURES_OK = 8,
	ST_NEEDS_RESET = 64,
	ST_FAILED = 128
};
#define F_INDIRECT   (1ull << 28)
#define F_VERSION_1  (1ull << 32)
#define F_EVENT_IDX  (1ull << 29)
#define F_PACKED     (1ull << 34)
#define F_RING_RESET (1ull << 40)

enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4 };

struct vdev {
	unsigned id;
	bool mmio;
	unsigned devfn;
	uint64_t common, isr, config, notify; /* MMIO: `common` is its page */
	uint32_t config_len, notify_len, notify_mul;
	unsigned window; /* offset of the capability that looks at registers, or 0 */
	uint64_t msix;	 /* its table */
	uint64_t pba;
	unsigned msix_cap, msix_count;
	char name[24];
	uint64_t offered;
	unsigned queues;

	/* Where its rings are, 16 KiB for each queue, and what is known of them; all devices share
	 * one place unless a test wants to use several at a time. */
	uint64_t rings;
	struct vqueue *vq;
	uint64_t without; /* features that are not taken */

	/* Since the last dev_start. */
	uint64_t features;
	bool packed;
};

/* A descriptor in neither format. In split rings `next` counts from the chain's first. */
struct vdesc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

#define QUEUES_MAX 64
#define Q_SIZE	   16
struct vqueue {
	unsigned size;
	uint64_t desc, avail, used;
	uint16_t avail_idx, used_idx; /* packed: next slots */
	bool avail_wrap, used_wrap;
	uint16_t slots[Q_SIZE]; /* packed: that a chain took, by its id */
};
extern struct vqueue vq[QUEUES_MAX]; /* the shared one: of the device that was started last */

/* What another CPU does meanwhile ends when this is set. */
extern volatile bool meddle_stop;

#define DEVS_MAX 48
extern struct vdev devs[DEVS_MAX];
extern unsigned dev_count;
/* Finds all devices and gives them their addresses; again after something has moved them. */
void devs_find(void);

uint32_t pci_read(unsigned devfn, unsigned reg);
void pci_write(unsigned devfn, unsigned reg, uint32_t v);
uint64_t noise(void);

static inline uint32_t r32(uint64_t at)
{
	return *(volatile uint32_t *)at;
}
static inline uint16_t r16(uint64_t at)
{
	return *(volatile uint16_t *)at;
}
static inline uint8_t r8(uint64_t at)
{
	return *(volatile uint8_t *)at;
}
static inline void w32(uint64_t at, uint32_t v)
{
	*(volatile uint32_t *)at = v;
}
static inline void w16(uint64_t at, uint16_t v)
{
	*(volatile uint16_t *)at = v;
}
static inline void w8(uint64_t at, uint8_t v)
{
	*(volatile uint8_t *)at = v;
}
static inline void w64(uint64_t at, uint64_t v)
{
	*(volatile uint64_t *)at = v;
}

/* Registers of either transport. */
unsigned dev_status(const struct vdev *d);
void dev_status_set(const struct vdev *d, unsigned v);
uint64_t dev_driver_features(const struct vdev *d); /* PCI only */
void dev_features_set(const struct vdev *d, uint64_t v);
unsigned queue_max(const struct vdev *d, unsigned q);
void queue_set(const struct vdev *d, unsigned q, unsigned size, uint64_t desc, uint64_t avail,
	       uint64_t used);
void queue_enable(const struct vdev *d, unsigned q, unsigned v);
unsigned queue_enabled(const struct vdev *d, unsigned q);
void queue_reset(const struct vdev *d, unsigned q);
unsigned queue_resetting(const struct vdev *d, unsigned q);
void notify(const struct vdev *d, unsigned q);

/* Resets; the status reads as zero at the latest after a while, or the test fails. */
void dev_reset(const struct vdev *d);
/* ... and up to FEATURES_OK with everything that is offered (the ring format as asked), and then
 * all queues and DRIVER_OK. */
void dev_negotiate(struct vdev *d, bool packed);
void dev_start(struct vdev *d, bool packed);
void queue_start(const struct vdev *d, unsigned q);

/* Makes a chain available: `first` is the descriptor index (split) or ignored (packed). Its id is
 * `first` as well. No notification. */
void chain_put(struct vdev *d, unsigned q, unsigned first, const struct vdesc *list, unsigned n);
/* Writes a descriptor in the ring's format; `set`: flags that a packed ring's entry has besides. */
void desc_write(const struct vdev *d, uint64_t table, unsigned index, const struct vdesc *e,
		uint16_t id, uint16_t set);
/* Takes a used element. */
bool chain_used(struct vdev *d, unsigned q, uint32_t *id, uint32_t *len);
/* ... within so many milliseconds; ends early when the device breaks. */
bool chain_await(struct vdev *d, unsigned q, unsigned ms, uint32_t *id, uint32_t *len);

/* requests.c: what a type takes for a request that succeeds. */
/* The queue of it; QUEUES_MAX: the type is unknown here. */
unsigned request_queue(const struct vdev *d);
/* Descriptors for it, with its buffers in a slot; their number. */
unsigned request_build(const struct vdev *d, unsigned slot, struct vdesc *list);
/* Makes one, and says whether it succeeded. True for a type that is unknown here unless the device
 * is broken. */
bool request_works(struct vdev *d);
/* Does the device look at this queue as soon as it is notified? */
bool queue_eager(const struct vdev *d, unsigned q);

/* From reset to a request that succeeds, or the test fails. */
void recover(struct vdev *d, bool packed);

/* Calls fn for every device in both ring formats, its name printed first. */
void each_device(void (*fn)(struct vdev *d, bool packed));
/* ... and for the queues of each that are worth it. */
void each_queue(void (*fn)(struct vdev *d, bool packed, unsigned q));

#endif
