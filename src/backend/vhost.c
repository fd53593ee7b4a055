/* vhost.c: dispatch to the kind of vhost back end. */
#include "backend/vhost.h"

#include <assert.h>
#include <errno.h>

#include "backend/vhost_impl.h"

int vhost_connect(struct vhost *v, struct error *err)
{
	int r;

	assert(!v->connected);
	r = v->ops->connect(v, err);
	if (r)
		v->ops->disconnect(v);
	v->connected = !r;
	return r;
}

void vhost_disconnect(struct vhost *v)
{
	v->ops->disconnect(v);
	v->connected = 0;
}

_Bool vhost_connected(const struct vhost *v)
{
	return v->connected;
}

uint64_t vhost_features(const struct vhost *v)
{
	return v->features;
}

unsigned vhost_rings_max(const struct vhost *v)
{
	return v->rings_max;
}

int vhost_config_get(struct vhost *v, uint8_t *config, unsigned size, struct error *err)
{
	assert(size && size <= VHOST_CONFIG_MAX);
	if (!v->ops->config_get)
		return error_set(err, -ENOTSUP, "this back end keeps no configuration");
	return v->ops->config_get(v, config, size, err);
}

int vhost_config_set(struct vhost *v, unsigned offset, const uint8_t *config, unsigned size,
		     struct error *err)
{
	assert(size && offset + size <= VHOST_CONFIG_MAX);
	if (!v->ops->config_set)
		return error_set(err, -ENOTSUP, "this back end keeps no configuration");
	return v->ops->config_set(v, offset, config, size, err);
}

int vhost_start(struct vhost *v, const struct vhost_plan *plan, struct error *err)
{
	assert(plan->rings && plan->rings <= VHOST_RINGS_MAX);
	assert(plan->regions && plan->regions <= VHOST_REGIONS_MAX);
	assert(!(plan->features & ~v->features));
	return v->ops->start(v, plan, err);
}

int vhost_enable(struct vhost *v, unsigned ring, _Bool on, struct error *err)
{
	return v->ops->enable ? v->ops->enable(v, ring, on, err) : 0;
}

int vhost_stop(struct vhost *v, unsigned rings, struct error *err)
{
	return v->ops->stop(v, rings, err);
}

void vhost_fds(const struct vhost *v, int fds[VHOST_FDS])
{
	fds[0] = fds[1] = -1;
	if (v->connected && v->ops->fds)
		v->ops->fds(v, fds);
}

unsigned vhost_events(struct vhost *v)
{
	return v->connected && v->ops->events ? v->ops->events(v) : 0;
}

void vhost_free(struct vhost *v)
{
	if (!v)
		return;
	vhost_disconnect(v);
	v->ops->free(v);
}
