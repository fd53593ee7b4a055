/* devices_virtio.c: the board's small virtio devices: random numbers, balloon, console. */
#include <errno.h>

#include "dev/virtio/console.h"
#include "dev/virtio/rng.h"
#include "dev/virtio/scsi.h"
#include "machine/internal.h"

static int add_rng(struct machine *m, struct error *err)
{
	struct rng_config cfg = {.clock = m->clock, .rate = m->cfg.spec->rng.rate};
	struct device *dev;
	int r;

	if (m->cfg.spec->rng.absent)
		return 0;
	r = machine_next_place(m, &cfg.place, err);
	if (!r)
		r = rng_new(&dev, &cfg, err);
	if (!r)
		machine_add(m, dev);
	return r;
}

static int add_balloon(struct machine *m, struct error *err)
{
	const struct spec_balloon *spec = &m->cfg.spec->balloon;
	struct balloon_config cfg = {
	    .clock = m->clock,
	    .target_bytes = spec->bytes,
	    .deflate_on_oom = spec->deflate_on_oom,
	    .free_page_reports = spec->free_page_reporting,
	    .interval_s = spec->stats_seconds,
	};
	int r;

	if (spec->absent)
		return 0;
	r = machine_next_place(m, &cfg.place, err);
	if (!r)
		r = balloon_new(&m->balloon, &cfg, err);
	if (!r)
		machine_add(m, m->balloon);
	return r;
}

static int add_console(struct machine *m, struct error *err)
{
	const struct vm_spec *spec = m->cfg.spec;
	struct console_config cfg = {
	    .clock = m->clock, .console = m->cfg.virtio_console, .ports = spec->port_count};
	int r;

	if (!cfg.console && !cfg.ports)
		return 0;
	for (unsigned i = 0; i < cfg.ports; i++)
		cfg.port[i] = (struct console_port_config){.name = spec->port[i].name,
							   .chardev = m->cfg.port[i]};
	r = machine_next_place(m, &cfg.place, err);
	if (!r)
		r = console_new(&m->virtio_console, &cfg, err);
	if (!r)
		machine_add(m, m->virtio_console);
	return r;
}

int machine_add_virtio(struct machine *m, struct error *err)
{
	int r = add_rng(m, err);

	if (!r)
		r = add_balloon(m, err);
	return r ? r : add_console(m, err);
}

void machine_console_resize(struct machine *m, unsigned cols, unsigned rows)
{
	if (m->virtio_console && m->cfg.virtio_console)
		console_resize(m->virtio_console, cols, rows);
}

int machine_disc_eject(struct machine *m, unsigned disk, _Bool force)
{
	return scsi_cd_eject(m->cd[disk], force);
}

void machine_disc_insert(struct machine *m, unsigned disk, struct disk *disc)
{
	scsi_cd_insert(m->cd[disk], disc);
}

_Bool machine_disc_none(struct machine *m, unsigned disk)
{
	return scsi_cd_empty(m->cd[disk]);
}

int machine_balloon_get(struct machine *m, struct balloon_status *status)
{
	if (!m->balloon)
		return -ENODEV;
	balloon_get(m->balloon, status);
	return 0;
}

int machine_balloon_set(struct machine *m, uint64_t target_bytes)
{
	return m->balloon ? balloon_set(m->balloon, target_bytes) : -ENODEV;
}

int machine_balloon_poll(struct machine *m, unsigned interval_s)
{
	if (!m->balloon)
		return -ENODEV;
	balloon_poll(m->balloon, interval_s);
	return 0;
}
