/* device.c: the device contract: every call with the device's lock held. */
#include "bus/device.h"

#include <stdio.h>

void device_init(struct device *dev, const struct device_class *cls, enum lock_rank rank,
		 unsigned instance, const char *id)
{
	dev->cls = cls;
	dev->instance = instance;
	dev->next = NULL;
	snprintf(dev->id, sizeof(dev->id), "%s", id);
	lock_init(&dev->lock, rank);
}

void device_fini(struct device *dev)
{
	lock_fini(&dev->lock);
}

void device_reset(struct device *dev, enum reset_kind kind)
{
	lock_take(&dev->lock);
	if (dev->cls->reset)
		dev->cls->reset(dev, kind);
	lock_drop(&dev->lock);
}

void device_free(struct device *dev)
{
	if (dev)
		dev->cls->free(dev);
}

void device_quiesce(struct device *dev)
{
	if (dev->cls->quiesce)
		dev->cls->quiesce(dev);
}

void device_save(struct device *dev, struct wbuf *out)
{
	if (!dev->cls->state)
		return;
	lock_take(&dev->lock);
	if (dev->cls->pre_save)
		dev->cls->pre_save(dev);
	state_save(dev->cls->state, dev->instance, dev, out);
	lock_drop(&dev->lock);
}

int device_decode(struct device *dev, struct rbuf *in, struct state_shadow **shadow,
		  struct error *err)
{
	int rc;

	if (!dev->cls->state) {
		*shadow = NULL;
		return 0;
	}
	lock_take(&dev->lock);
	rc = state_decode(dev->cls->state, dev->instance, dev, in, shadow, err);
	lock_drop(&dev->lock);
	return rc;
}

void device_commit(struct device *dev, struct state_shadow *shadow)
{
	lock_take(&dev->lock);
	if (shadow)
		state_commit(shadow, dev);
	if (dev->cls->post_load)
		dev->cls->post_load(dev);
	lock_drop(&dev->lock);
}
