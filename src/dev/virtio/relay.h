/* relay.h: queues that somebody outside serves: rings of this process's between the driver's and
 * the back end's. */
#ifndef DEV_VIRTIO_RELAY_H
#define DEV_VIRTIO_RELAY_H

#include "backend/vhost.h"
#include "dev/virtio/virtio.h"

/*
 * A back end outside (vhost.h) writes guest memory behind this process's back. Were it given the
 * driver's rings, a driver could see data before the engine has been told to forget code that it
 * cached from there, and before the dirty log knows of it. So it gets split rings of our own
 * (VIRTIO12 2.7), in a memfd beside guest RAM:
 *
 *   driver's ring --virtio_pop--> chain, checked --> descriptors in our ring --> back end
 *   driver's ring <--vq_push--- chain <-- memory marked dirty <-- used entries <-- back end
 *
 * What this gives besides: the driver may use any ring format; a driver cannot point the back end
 * outside RAM; a back end's false used entries break no driver; and what the back end holds is
 * known here, so it can be offered again to one that has taken its place, and taken back for a
 * save.
 *
 * All functions are called under the device's lock.
 */
#define RELAY_SIZE 256 /* descriptors; the device's queues are no larger */

struct relay_chain {
	struct relay_chain *next, *prev; /* in the order they were taken from the driver */
	uint32_t number;		 /* counted in that order */
	uint16_t head;			 /* of its descriptors in our ring */
	struct vq_chain chain;
};

struct relay {
	struct virtio_dev *vd;
	unsigned q;
	uint8_t *host;	/* descriptors, available, used, tables */
	uint64_t guest; /* the same as the back end sees it */
	int kick, call; /* eventfds */
	_Bool indirect; /* the back end takes tables */

	struct relay_chain *pool, *free; /* `free` by `next` */
	struct relay_chain *first, *last;
	struct relay_chain *by_head[RELAY_SIZE];
	uint16_t desc_next[RELAY_SIZE]; /* free descriptors, and those of a chain, in lists */
	uint16_t desc_free, desc_left;
	uint16_t avail, used;
	unsigned in_flight;
	uint32_t taken; /* number of the next chain; those that are answered here count */
	/* May answer a chain in the back end's place: true, with the bytes written. NULL: none. */
	_Bool (*intercept)(void *opaque, const struct vq_chain *c, uint32_t *written);
	void *opaque;
};

/* The rings of a device's first `count` queues, and the memory that they and the tables are in. */
struct relay_set {
	unsigned count;
	struct relay ring[VHOST_RINGS_MAX];
	uint8_t *host;
	size_t bytes;
	int fd;
};
/* On a zeroed struct; relay_fini also after a failure. */
NODISCARD int relay_init(struct relay_set *set, struct virtio_dev *vd, unsigned count,
			 struct error *err);
void relay_fini(struct relay_set *set);
/* What the back end has to map: guest RAM and these rings. -E2BIG: in too many pieces. */
NODISCARD int relay_regions(const struct relay_set *set, const struct gmem *mem,
			    struct vhost_region region[VHOST_REGIONS_MAX], unsigned *count);

/* An empty ring for a back end that knows nothing yet; what is in flight is offered again, but it
 * looks only when it is kicked. */
void relay_begin(struct relay *r, _Bool indirect);
struct vhost_ring relay_ring(const struct relay *r);
/* Offers what the driver has made available. True: the back end is to be kicked (relay_kick). */
_Bool relay_offer(struct relay *r);
void relay_kick(const struct relay *r);
/* Gives the driver what the back end has done: how many, or -EPROTO when it did what it must not.
 */
NODISCARD int relay_collect(struct relay *r);
/*
 * The back end is at rest. Gives what is left back to the driver's ring, as if it had not been
 * taken. -EBUSY: that cannot be, for later ones were answered; it stays in flight.
 */
NODISCARD int relay_rewind(struct relay *r);
/* The same after a reset of the device: what is left is gone. */
void relay_drop(struct relay *r);
/* Answers the oldest chain that the back end holds, with what was put into it; only while there is
 * no back end. */
void relay_answer(struct relay *r, uint32_t written);

#endif
