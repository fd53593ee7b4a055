/* machine.h: the board: one PC with its CPUs, RAM, devices and the wiring between them. */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "backend/chardev.h"
#include "backend/disk.h"
#include "backend/net.h"
#include "backend/p9.h"
#include "backend/vhost.h"
#include "backend/vsock.h"
#include "bus/power.h"
#include "dev/virtio/balloon.h"
#include "engine/vcpu.h"
#include "machine/layout.h"
#include "machine/loader.h"
#include "proto/spec.h"

struct machine_config {
	const struct vm_spec *spec; /* borrowed for the machine's life */
	const struct engine_ops *engine;
	struct chardev *console;	      /* COM1's other side, or NULL; not owned */
	struct chardev *virtio_console;	      /* hvc0's, or NULL */
	struct chardev *port[SPEC_MAX_PORTS]; /* as spec->port; not owned */
	struct disk *disk[SPEC_MAX_DISKS];    /* as spec->disk; not owned */
	struct net *net[SPEC_MAX_NETS];	      /* the other sides of spec->net; not owned */
	struct p9 *share[SPEC_MAX_SHARES];    /* as spec->share; not owned */
	struct vsock *vsock;		      /* NULL: none; not owned */
	/* Connected back ends of those of spec->disk, spec->fs and spec->net that have one; not
	 * owned. */
	struct vhost *vhost_disk[SPEC_MAX_DISKS];
	struct vhost *vhost_fs[SPEC_MAX_FS];
	struct vhost *vhost_net[SPEC_MAX_NETS]; /* beside net[] */
	struct power_sink power;		/* power-off, reset, panic, debug exit */
	enum clock_mode
	    clock; /* CLOCK_STOPPED for a VM that starts paused, CLOCK_MANUAL for tests */
	struct engine_trace trace;
	/* The guest has taken the disc out of a drive, as scsi_cd_config.ejected. */
	void (*disc_ejected)(void *opaque);
	/* As engine_env.event. */
	void (*event)(void *opaque, enum engine_event event, unsigned cpu, const char *text);
	void *opaque;
};

struct machine;

/* Builds everything; no guest code runs and no thread exists. On failure nothing is left behind. */
NODISCARD int machine_new(struct machine **m, const struct machine_config *cfg, struct error *err);
void machine_free(struct machine *m); /* vCPU threads have been stopped */

/* Power-on or system reset: every device and CPU to its reset state, tables and kernel into RAM,
 * the boot CPU at the kernel's entry. No vCPU may be in guest code. `what` (may be NULL) as in
 * boot_load. */
NODISCARD int machine_boot(struct machine *m, enum reset_kind kind, char what[128],
			   struct error *err);

/* The power button: the guest gets an ACPI event (and may ignore it). False when it would not
 * notice: ACPI is off, or it has not enabled the event. */
_Bool machine_press_power(struct machine *m);

/* A break condition on the console's serial line. */
void machine_send_break(struct machine *m);

/* The terminal behind the virtio console has another size. */
void machine_console_resize(struct machine *m, unsigned cols, unsigned rows);

/* The memory balloon, as dev/virtio/balloon.h has it. -ENODEV: the machine has none. */
NODISCARD int machine_balloon_get(struct machine *m, struct balloon_status *status);
NODISCARD int machine_balloon_set(struct machine *m, uint64_t target_bytes);
NODISCARD int machine_balloon_poll(struct machine *m, unsigned interval_s);

/* The CD drive that is the VM's disk `disk`, as dev/virtio/scsi.h has it. */
NODISCARD int machine_disc_eject(struct machine *m, unsigned disk, _Bool force);
void machine_disc_insert(struct machine *m, unsigned disk, struct disk *disc);
_Bool machine_disc_none(struct machine *m, unsigned disk);

unsigned machine_cpus(const struct machine *m);
struct vcpu *machine_vcpu(struct machine *m, unsigned index);
struct engine *machine_engine(struct machine *m);
struct clock *machine_clock(struct machine *m);
struct gmem *machine_mem(struct machine *m);

/* One device, for listings. `range` holds at most MACHINE_RANGES of its ports and memory. */
#define MACHINE_RANGES 16
struct machine_range {
	_Bool port;
	const char *name;
	uint64_t base, size;
};
struct machine_device {
	const char *kind, *id;
	unsigned instance;
	int pci; /* slot << 3 | function on bus 0, or -1 */
	unsigned range_count;
	struct machine_range range[MACHINE_RANGES];
};
/* Calls fn for every device in the order of the board. The VM's thread. */
void machine_each_device(struct machine *m,
			 void (*fn)(void *opaque, const struct machine_device *device),
			 void *opaque);

/* Stops and continues guest time: clock, TSC, paravirtual clocks. vCPUs are paused around both. */
void machine_time_stop(struct machine *m);
void machine_time_go(struct machine *m);

/*
 * The state of all devices and CPUs (not RAM), with every vCPU paused. machine_load refuses hostile
 * or foreign state whole: either all of it is taken or nothing changes. -EINVAL with a sentence.
 */
NODISCARD int machine_save(struct machine *m, struct wbuf *out, struct error *err);
NODISCARD int machine_load(struct machine *m, struct rbuf *in, struct error *err);

#endif
