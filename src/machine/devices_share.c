/* devices_share.c: the board's shared directories and virtio sockets. */
#include "dev/virtio/p9dev.h"
#include "dev/virtio/vsockdev.h"
#include "machine/internal.h"

_Static_assert(SPEC_MAX_SHARE_TAG == P9DEV_TAG_MAX, "what a person may ask for fits the device");

int machine_add_shares(struct machine *m, struct error *err)
{
	for (unsigned i = 0; i < m->cfg.spec->share_count; i++) {
		struct p9dev_config cfg = {.p9 = m->cfg.share[i], .tag = m->cfg.spec->share[i].tag};
		struct device *dev;
		int r = machine_next_place(m, &cfg.place, err);

		cfg.place.instance = i;
		if (!r)
			r = p9dev_new(&dev, &cfg, err);
		if (r)
			return r;
		machine_add(m, dev);
	}
	return 0;
}

int machine_add_vsock(struct machine *m, struct error *err)
{
	struct vsockdev_config cfg = {.vsock = m->cfg.vsock, .cid = m->cfg.spec->vsock.cid};
	struct device *dev;
	int r;

	if (!cfg.vsock)
		return 0;
	r = machine_next_place(m, &cfg.place, err);
	if (!r)
		r = vsockdev_new(&dev, &cfg, err);
	if (!r)
		machine_add(m, dev);
	return r;
}
