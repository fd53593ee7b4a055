/* vhost_dev.h: a virtio device whose queues a back end outside serves: its thread, its life. */
#ifndef DEV_VIRTIO_VHOST_DEV_H
#define DEV_VIRTIO_VHOST_DEV_H

#include <pthread.h>

#include "base/loop.h"
#include "bus/clock.h"
#include "dev/virtio/relay.h"

struct vhost_dev;

/* What a device type adds. Under the device's lock, on the back end's thread; any may be NULL. */
struct vhost_dev_hooks {
	/* How many of the first queues are the back end's, given the driver's features, and how
	 * many of those are on. NULL: all. */
	unsigned (*queues)(const struct vhost_dev *vh);
	unsigned (*enabled)(const struct vhost_dev *vh);
	/* The back end serves the queues from now on (again), or is gone with what it had. */
	void (*up)(struct vhost_dev *vh);
	void (*lost)(struct vhost_dev *vh);
	/* Its configuration is another one. */
	void (*config)(struct vhost_dev *vh, const uint8_t *config);
	/* What the driver has set of its configuration, if it may: `len` bytes from `at` on. Every
	 * back end is told of them before it is given anything to do. */
	_Bool (*settings)(const struct vhost_dev *vh, unsigned *at, unsigned *len);
	/* A chain on its way to the back end. True: answered here, with `written` bytes. */
	_Bool (*intercept)(struct vhost_dev *vh, const struct vq_chain *c, uint32_t *written);
	/* There is something in queue q, and no back end. It will be offered to the next one. */
	void (*away)(struct vhost_dev *vh, unsigned q);
};

struct vhost_dev_config {
	struct virtio_dev *vd; /* initialized; all of its queues have at most RELAY_SIZE entries */
	struct vhost *v;       /* connected; not owned */
	unsigned queues;       /* relayed ones, the first of the device's */
	unsigned config_size;  /* of the back end's configuration; 0: it has none */
	struct clock *clock;
	const struct vhost_dev_hooks *hooks;
};

/*
 * A thread of its own speaks to the back end, for that may take long, and moves what has been done
 * to the driver; the driver's notifications move what is to be done on the vCPU's thread. The
 * device's lock orders both.
 *
 * `epoch` counts the times that the driver became ready or ceased to be. A back end is started for
 * an epoch, and stopped before it is started for another one. So a reset costs the vCPU nothing: if
 * chains are in flight it lasts (virtio.c) until the thread has stopped the back end and dropped
 * them. A back end that is lost leaves its chains in flight; whoever takes its place gets them all
 * again, in the order of the driver's, as does the same one after a save.
 */
struct vhost_dev {
	struct virtio_dev *vd;
	struct vhost *v;
	const struct vhost_dev_hooks *hooks;
	struct relay_set rings;
	struct vhost_region region[VHOST_REGIONS_MAX];
	unsigned regions, config_size;
	uint64_t required; /* features that were there at first, so that any other must have them */

	struct loop *loop;
	pthread_t thread;
	_Bool started;
	struct loop_work work;
	struct loop_fd fd[VHOST_FDS], call[VHOST_RINGS_MAX], retry;
	struct timer resume;

	/* Under the device's lock. */
	pthread_cond_t rest;
	uint32_t epoch, served; /* served: that of the running back end */
	uint32_t flight;	/* that of the chains in flight */
	_Bool live, running, held, resting, recount, told;
	unsigned reports;
	unsigned write_at, write_len; /* of the configuration: for the back end */
	uint8_t config[VIRTIO_CONFIG_MAX];
};

/* For a type's *_new, on a zeroed struct; vhost_dev_fini also after a failure. The back end's
 * configuration is in vh->config then. */
NODISCARD int vhost_dev_init(struct vhost_dev *vh, const struct vhost_dev_config *cfg,
			     struct error *err);
/* No vCPU runs. Before virtio_fini. */
void vhost_dev_fini(struct vhost_dev *vh);
/* For the class's quiesce: returns with nothing in flight; the back end goes on when the VM's clock
 * does. */
void vhost_dev_quiesce(struct vhost_dev *vh);

/* Under the device's lock, for the type's virtio_ops. */
void vhost_dev_status(struct vhost_dev *vh);
void vhost_dev_notify(struct vhost_dev *vh, unsigned q);
/* The driver wrote its configuration: these bytes of vd->config go to the back end. */
void vhost_dev_config_written(struct vhost_dev *vh, unsigned offset, unsigned size);
/* hooks->enabled has another answer. */
void vhost_dev_enabled(struct vhost_dev *vh);
static inline _Bool vhost_dev_running(const struct vhost_dev *vh)
{
	return vh->running && vh->served == vh->epoch && !vh->held;
}

#endif
