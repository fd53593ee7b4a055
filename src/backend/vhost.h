/* vhost.h: who serves a device's queues instead of this process: another one, over vhost-user, or
 * the host's kernel. */
#ifndef BACKEND_VHOST_H
#define BACKEND_VHOST_H

#include "base/error.h"

#define VHOST_RINGS_MAX	  32
#define VHOST_REGIONS_MAX 8 /* what every back end takes */
#define VHOST_CONFIG_MAX  256
#define VHOST_TIMEOUT_MS  5000 /* for a whole call of those below */

/* Memory that the back end maps: guest-physical address, this process's, and where in a file. */
struct vhost_region {
	uint64_t guest, size, user, offset;
	int fd;
};

/* A split ring at addresses of this process's, empty, indices at zero. Both descriptors are
 * eventfds. */
struct vhost_ring {
	uint16_t size;
	uint64_t desc, avail, used;
	int kick, call;
	_Bool enabled;
};

struct vhost_plan {
	uint64_t features; /* of vhost_features */
	const struct vhost_region *region;
	unsigned regions;
	const struct vhost_ring *ring;
	unsigned rings;
};

/*
 * One back end. Set-up is on any thread; later all calls are one thread's, which they may hold up
 * for VHOST_TIMEOUT_MS each: never called with a lock held. After any failure the back end counts
 * as lost: vhost_disconnect it. What it says is not believed: sizes, kinds, descriptors and the
 * time it takes are checked.
 */
struct vhost;

/* Opens the connection, at first or again. -ENOENT, -ECONNREFUSED, ..., with a sentence. */
NODISCARD int vhost_connect(struct vhost *v, struct error *err);
void vhost_disconnect(struct vhost *v);
_Bool vhost_connected(const struct vhost *v);

/* Of the connection. Feature bits as in VIRTIO; the most rings it serves (of a network card: the
 * most pairs of rings). */
uint64_t vhost_features(const struct vhost *v);
unsigned vhost_rings_max(const struct vhost *v);
/* Device configuration; -ENOTSUP: this back end keeps none. */
NODISCARD int vhost_config_get(struct vhost *v, uint8_t *config, unsigned size, struct error *err);
NODISCARD int vhost_config_set(struct vhost *v, unsigned offset, const uint8_t *config,
			       unsigned size, struct error *err);

NODISCARD int vhost_start(struct vhost *v, const struct vhost_plan *plan, struct error *err);
/* Turns a started ring on or off (network cards with several queue pairs). */
NODISCARD int vhost_enable(struct vhost *v, unsigned ring, _Bool on, struct error *err);
/* When this returns, the back end touches neither rings nor memory any more. */
NODISCARD int vhost_stop(struct vhost *v, unsigned rings, struct error *err);

/* Up to two descriptors to watch for input; -1: none. vhost_events reads what is there. */
#define VHOST_FDS 2
void vhost_fds(const struct vhost *v, int fds[VHOST_FDS]);
enum vhost_event {
	VHOST_LOST = 1 << 0,   /* it is gone, or does not keep to the protocol */
	VHOST_CONFIG = 1 << 1, /* its configuration changed */
};
unsigned vhost_events(struct vhost *v);

void vhost_free(struct vhost *v); /* NULL is fine */

/* ---- another process, behind a Unix socket that it listens at (vhost-user) ---- */

struct vhost_user_config {
	const char *path;	   /* copied */
	_Bool wants_config;	   /* the device's configuration is the back end's */
	unsigned timeout_ms;	   /* 0: VHOST_TIMEOUT_MS */
	int (*open)(void *opaque); /* for tests: a connected socket, or -errno; NULL: `path` */
	void *opaque;
};
NODISCARD int vhost_user_new(struct vhost **v, const struct vhost_user_config *cfg,
			     struct error *err);

/* ---- the host's kernel (/dev/vhost-net), for a tap interface ---- */

/* How the kernel is reached; tests put their own in its place. */
struct vhost_kernel_sys {
	int (*open)(void *opaque); /* a descriptor, or -errno */
	int (*ioctl)(void *opaque, int fd, unsigned long request, void *arg); /* 0, or -errno */
	void *opaque;
};
/* `tap` stays the caller's. `sys` NULL: the real one. */
NODISCARD int vhost_kernel_new(struct vhost **v, int tap, const struct vhost_kernel_sys *sys,
			       struct error *err);

#endif
