/* vm_impl.h: the VM's own struct, shared by the files that make up its life. */
#ifndef VMM_VM_IMPL_H
#define VMM_VM_IMPL_H

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/loop.h"
#include "machine/machine.h"
#include "vmm/control.h"
#include "vmm/vm.h"

/*
 * Requests. Devices, engines and the terminal ask for things from their own threads and under their
 * own locks; they only set a bit here, ask the vCPUs to leave guest code, and post `work`. The
 * loop's thread acts on them in the order of this list: an end wins over a reset.
 */
enum vm_request {
	REQ_DEBUG = 1 << 7, /* not an end: a CPU met what a debugger asked for */
	REQ_ERROR = 1 << 0,
	REQ_DEBUG_EXIT = 1 << 1,
	REQ_PANIC = 1 << 2,
	REQ_POWER_OFF = 1 << 3,
	REQ_QUIT = 1 << 4,
	REQ_CRASH = 1 << 5,
	REQ_RESET = 1 << 6,
};

/* Why a VM is paused: it runs when no reason is left. */
enum vm_hold {
	HOLD_USER = 1 << 0, /* a person or a program asked for it */
	HOLD_GDB = 1 << 1,  /* a debugger looks at it, or is waited for */
};

/* Failed requests of a disk, on their way to the loop's thread. */
struct vm_disk_watch {
	struct vm *vm; /* NULL: not used */
	unsigned index;
	struct loop_work work;
	struct lock lock; /* RANK_BACKEND: the last of them */
	enum disk_op op;
	uint64_t offset;
	int result;
	uint64_t said_ns; /* the loop's thread's: when one was last told of */
};

struct vm {
	struct vm_spec spec;
	enum vm_state state;
	const struct engine_ops *ops;
	char engine_why[512];
	struct loop *loop;
	struct chardev *console;
	struct chardev *port[SPEC_MAX_PORTS];
	struct disk *disk[SPEC_MAX_DISKS];
	struct vm_disk_watch watch[SPEC_MAX_DISKS];
	char *disc_path[SPEC_MAX_DISKS]; /* NULL, or spec.disk[i].path: of a disc that was put in */
	struct loop_work disc_work;	 /* a guest has taken a disc out */
	char seed_path[32];
	FILE *trace_blocks, *perf_map; /* NULL: none */
	struct net *net[SPEC_MAX_NETS];
	struct vhost *vhost_disk[SPEC_MAX_DISKS], *vhost_fs[SPEC_MAX_FS]; /* NULL: none */
	struct vhost *vhost_net[SPEC_MAX_NETS];
	struct p9 *share[SPEC_MAX_SHARES];
	struct vsock *vsock; /* NULL: none */
	struct machine *machine;
	struct control *control; /* NULL: none */
	struct vm_gdb *gdb;	 /* NULL: none */
	struct loop_fd timer, signals;
	sigset_t old_mask;
	_Bool mask_set, timer_added, signals_added;

	struct loop_work work;
	_Atomic unsigned requests;
	_Atomic unsigned debug_code;
	_Atomic uint64_t debug_cpus; /* whose RUN_DEBUG is not yet handled, a bit each */
	char error_text[256];	     /* written once, before REQ_ERROR is set */
	_Atomic _Bool error_taken;

	/* All below belong to the loop's thread. */
	uint64_t last_crash_ns;
	unsigned crashes;
	unsigned holds;	 /* enum vm_hold */
	uint64_t frozen; /* CPUs that a debugger keeps from running, a bit each */
	uint64_t started_ns;
	/* The guest was asked to power off; when `grace` fires it is ended as `signal` says. */
	struct loop_fd grace;
	_Bool grace_added, stopping;
	unsigned signal; /* 0: ended by a command */
	struct vm_result *result;
};

/* vm.c. Any thread, any lock below RANK_VCPU. */
void vm_request(struct vm *vm, unsigned request);

/* vm.c, on the loop's thread as all that follow. */
void vm_hold(struct vm *vm, enum vm_hold why);
void vm_release(struct vm *vm, enum vm_hold why);
void vm_pause_cpus(struct vm *vm);
void vm_resume_cpus(struct vm *vm); /* unless it is held, asked for something, or over */

/* vm_limit.c: as many descriptors as an ordinary user may have. */
void vm_limits_raise(void);

/* vm_stop.c: signals; ending a VM with the guest's help. */
NODISCARD int vm_signals_add(struct vm *vm, struct error *err);
void vm_signals_remove(struct vm *vm);
/*
 * Presses the power button, and ends the VM after `seconds` if the guest has not done it by then;
 * at once when the guest would not notice the button or this is the second time. Returns whether
 * the guest has time.
 */
_Bool vm_stop_gently(struct vm *vm, unsigned seconds, unsigned signal);
void vm_stop_now(struct vm *vm, unsigned signal);

/* vm_disk.c: the images behind --disk: opened in order, locked until they are closed. */
NODISCARD int vm_disks_open(struct vm *vm, struct error *err);
void vm_disks_close(struct vm *vm);

/*
 * vm_net.c: what the network cards are connected to; ports are published on the first user network.
 * Cards without an address get one, in vm->spec. After a failure what was opened is there all the
 * same, for vm_nets_close.
 */
NODISCARD int vm_nets_open(struct vm *vm, struct error *err);
void vm_nets_close(struct vm *vm); /* the machine is gone */

/* vm_vhost.c: back ends in other processes. After a failure as with networks. */
NODISCARD int vm_vhosts_open(struct vm *vm, struct error *err);
void vm_vhosts_close(struct vm *vm); /* the machine is gone */

/* vm_share.c: the directories behind --share. */
NODISCARD int vm_shares_open(struct vm *vm, struct error *err);
void vm_shares_close(struct vm *vm); /* the machine is gone */

/* vm_console.c: the terminal or pipes behind COM1 or the virtio console. */
NODISCARD int vm_console_open(struct vm *vm, struct error *err);
/* The sockets behind the guest's named ports. */
NODISCARD int vm_ports_open(struct vm *vm, struct error *err);
void vm_ports_close(struct vm *vm); /* the machine is gone */

/* vm_disc.c: the CD drives' discs: two commands, and what the machine calls when a guest ejects. */
void vm_discs_init(struct vm *vm);
void vm_discs_fini(struct vm *vm); /* the machine is gone */
void vm_disc_ejected(void *opaque);
json_t *vm_disc_eject(void *opaque, json_t *arguments, struct control_error *err);
json_t *vm_disc_insert(void *opaque, json_t *arguments, struct control_error *err);

/* vm_balloon.c: the control socket's command, and its part of the statistics (NULL: no balloon). */
json_t *vm_balloon_command(void *opaque, json_t *arguments, struct control_error *err);
json_t *vm_balloon_json(struct vm *vm);

/* vm_stats.c: "name value" lines: exits and the engine's counters. */
void vm_stats_write(struct vm *vm, struct wbuf *out);
void vm_stats_print(struct vm *vm);

/* vm_trace.c: the files that --trace-blocks and --perf-map write to. */
NODISCARD int vm_trace_open(struct vm *vm, struct engine_trace *trace, struct error *err);
void vm_trace_close(struct vm *vm); /* the engine is gone */

/* vm_gdb.c: a debugger, where --gdb asked for one. */
NODISCARD int vm_gdb_open(struct vm *vm, struct error *err);
void vm_gdb_close(struct vm *vm);
void vm_gdb_met(struct vm *vm, uint64_t cpus); /* these CPUs met what it asked for */
void vm_gdb_changed(struct vm *vm);	       /* registers changed behind its back */
void vm_gdb_ended(struct vm *vm, unsigned status);

/* vm_io.c: disks and network cards as the control socket shows them. */
void vm_disk_watch_start(struct vm *vm, unsigned i);
void vm_disk_watch_stop(struct vm *vm, unsigned i); /* nothing is in flight; NULL disks are fine */
json_t *vm_disks_json(struct vm *vm);
json_t *vm_nets_json(struct vm *vm);
void vm_io_stats_write(struct vm *vm, struct wbuf *out);
/* `size` 0: as large as its image is now. NULL with `err` set. */
const char *vm_disk_id(const struct vm *vm, unsigned i, char id[24]); /* as `devices` has it */
json_t *vm_disk_resize(struct vm *vm, const char *name, uint64_t size, struct control_error *err);

/* vm_control.c: the commands of the control socket. */
NODISCARD int vm_control_open(struct vm *vm, struct error *err);
void vm_control_ended(struct vm *vm); /* tells subscribers how it ended */

#endif
