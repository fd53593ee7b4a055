/* devices_net.c: the board's network cards. */
#include "dev/virtio/net.h"
#include "machine/internal.h"

#include <assert.h>
#include <string.h>

int machine_add_nets(struct machine *m, struct error *err)
{
	const struct vm_spec *spec = m->cfg.spec;
	unsigned instance = 0;

	for (unsigned i = 0; i < spec->net_count; i++) {
		struct vnet_config cfg = {
		    .net = m->cfg.net[i],
		    .pairs = spec->net[i].queues,
		    .vhost = m->cfg.vhost_net[i],
		    .clock = m->clock,
		};
		struct device *dev;
		int r;

		if (!cfg.net)
			continue;
		r = machine_next_place(m, &cfg.place, err);
		if (r)
			return r;
		cfg.place.instance = instance++;
		memcpy(cfg.mac, spec->net[i].mac, NET_MAC_LEN);
		r = vnet_new(&dev, &cfg, err);
		if (r)
			return r;
		machine_add(m, dev);
	}
	return 0;
}
