/* vhost_impl.h: what the kinds of vhost back ends share. */
#ifndef BACKEND_VHOST_IMPL_H
#define BACKEND_VHOST_IMPL_H

#include "backend/vhost.h"

struct vhost_ops {
	int (*connect)(struct vhost *v, struct error *err);
	void (*disconnect)(struct vhost *v);
	int (*config_get)(struct vhost *v, uint8_t *config, unsigned size, struct error *err);
	int (*config_set)(struct vhost *v, unsigned offset, const uint8_t *config, unsigned size,
			  struct error *err);
	int (*start)(struct vhost *v, const struct vhost_plan *plan, struct error *err);
	int (*enable)(struct vhost *v, unsigned ring, _Bool on, struct error *err);
	int (*stop)(struct vhost *v, unsigned rings, struct error *err);
	void (*fds)(const struct vhost *v, int fds[VHOST_FDS]);
	unsigned (*events)(struct vhost *v);
	void (*free)(struct vhost *v);
};

struct vhost {
	const struct vhost_ops *ops;
	_Bool connected;
	uint64_t features;
	unsigned rings_max;
};

#endif
