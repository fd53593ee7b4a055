/* balloon.h: the memory balloon: RAM that the guest lends to the host (VIRTIO12 5.5). */
#ifndef DEV_VIRTIO_BALLOON_H
#define DEV_VIRTIO_BALLOON_H

#include "bus/clock.h"
#include "dev/virtio/virtio.h"

#define BALLOON_INTERVAL_MAX 86400

struct balloon_config {
	struct virtio_place place;
	struct clock *clock;
	uint64_t target_bytes;	 /* from power-on on; whole pages, at most the guest's RAM */
	_Bool deflate_on_oom;	 /* the guest may take memory back rather than kill processes */
	_Bool free_page_reports; /* the guest tells which memory it does not use */
	unsigned interval_s;	 /* statistics are asked for this often; 0: only on demand */
};
NODISCARD int balloon_new(struct device **dev, const struct balloon_config *cfg, struct error *err);

/* What the guest may tell of its memory, in the order of VIRTIO12 5.5.6.4. */
enum balloon_stat {
	BALLOON_SWAP_IN,
	BALLOON_SWAP_OUT,
	BALLOON_MAJOR_FAULTS,
	BALLOON_MINOR_FAULTS,
	BALLOON_FREE,
	BALLOON_TOTAL,
	BALLOON_AVAILABLE,
	BALLOON_CACHES,
	BALLOON_HUGETLB_ALLOCATIONS,
	BALLOON_HUGETLB_FAILURES,
	BALLOON_STATS,
};

struct balloon_status {
	_Bool driver;	       /* the guest has a driver for it, which is ready */
	uint64_t target_bytes; /* what is asked for */
	uint64_t actual_bytes; /* what the guest says it has given */
	/* Bytes given back to the host since the start: through the balloon, and of free pages. */
	uint64_t inflated_bytes, reported_bytes;
	unsigned interval_s;
	uint64_t stats_age_ns;	      /* of the statistics */
	uint32_t stats_known;	      /* a bit for each that the guest has told */
	uint64_t stat[BALLOON_STATS]; /* bytes, or a count of events */
};

/* All three take the device's lock; any thread. */
void balloon_get(struct device *dev, struct balloon_status *status);
/* -EINVAL: more than the guest's RAM. Rounded down to whole pages. */
NODISCARD int balloon_set(struct device *dev, uint64_t target_bytes);
/* How often to ask for statistics from now on; and ask now. */
void balloon_poll(struct device *dev, unsigned interval_s);

#endif
