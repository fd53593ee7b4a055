/* rng.h: the entropy device (VIRTIO12 5.4). */
#ifndef DEV_VIRTIO_RNG_H
#define DEV_VIRTIO_RNG_H

#include "bus/clock.h"
#include "dev/virtio/virtio.h"

#define RNG_RATE_MAX (UINT64_C(1) << 30)

struct rng_config {
	struct virtio_place place;
	struct clock *clock;
	uint64_t rate; /* bytes a second, up to RNG_RATE_MAX; 0: as fast as the guest asks */
	/* Where the bytes come from: how many were put into buf, 1 to len, or a negative errno.
	 * Never waits. NULL: the host's getrandom. */
	int (*fill)(void *opaque, uint8_t *buf, size_t len);
	void *opaque;
};
NODISCARD int rng_new(struct device **dev, const struct rng_config *cfg, struct error *err);

#endif
