/* devices_vhost.c: the board's devices that another process serves. */
#include "dev/virtio/vuser.h"
#include "machine/internal.h"

static int add(struct machine *m, const struct vuser_config *cfg, struct error *err)
{
	struct device *dev;
	int r = vuser_new(&dev, cfg, err);

	if (!r)
		machine_add(m, dev);
	return r;
}

int machine_add_vhost_disk(struct machine *m, unsigned i, const struct virtio_place *place,
			   struct error *err)
{
	const struct vuser_config cfg = {
	    .place = *place,
	    .kind = VUSER_BLK,
	    .vhost = m->cfg.vhost_disk[i],
	    .clock = m->clock,
	    .queues = m->cfg.spec->disk[i].queues,
	    .cpus = MIN(m->env.cpus, 4u),
	};

	return add(m, &cfg, err);
}

int machine_add_vhost_fs(struct machine *m, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; !r && i < m->cfg.spec->fs_count; i++) {
		const struct spec_fs *spec = &m->cfg.spec->fs[i];
		struct vuser_config cfg = {
		    .kind = VUSER_FS,
		    .vhost = m->cfg.vhost_fs[i],
		    .clock = m->clock,
		    .queues = spec->queues ? spec->queues : 1,
		    .tag = spec->tag,
		};

		r = machine_next_place(m, &cfg.place, err);
		cfg.place.instance = i;
		if (!r)
			r = add(m, &cfg, err);
	}
	return r;
}
