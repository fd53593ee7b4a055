/* vm.c: one VM's life. The thread that calls vm_run is its event loop and the only one that starts,
 * pauses, resets or ends it. */
#include "vmm/vm.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/host_time.h"
#include "base/log.h"
#include "base/trace.h"
#include "vmm/engines.h"
#include "vmm/vm_impl.h"

/* Triple faults this close together, and this many, are a crash rather than a way to reboot. */
#define CRASH_WINDOW_NS UINT64_C(1000000000)
#define CRASH_LIMIT	3

const char *vm_state_name(enum vm_state state)
{
	static const char *const names[] = {"created", "running", "paused", "shut down", "crashed"};
	return names[state];
}

const char *vm_engine_line(const struct vm *vm)
{
	return vm->engine_why;
}

static void set_state(struct vm *vm, enum vm_state state)
{
	trace(TRACE_VM, "%s -> %s", vm_state_name(vm->state), vm_state_name(state));
	vm->state = state;
}

/* Any thread, any lock below RANK_VCPU. */
void vm_request(struct vm *vm, unsigned request)
{
	atomic_fetch_or(&vm->requests, request);
	for (unsigned i = 0; vm->machine && i < machine_cpus(vm->machine); i++)
		vcpu_pause_begin(machine_vcpu(vm->machine, i));
	loop_post(vm->loop, &vm->work);
}

static _Bool has_ended(const struct vm *vm)
{
	return vm->state == VM_SHUT_DOWN || vm->state == VM_CRASHED;
}

void vm_pause_cpus(struct vm *vm)
{
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++)
		vcpu_pause_begin(machine_vcpu(vm->machine, i));
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++)
		vcpu_pause_wait(machine_vcpu(vm->machine, i));
}

static _Bool cpus_paused(const struct vm *vm)
{
	_Bool all = 1;

	for (unsigned i = 0; i < machine_cpus(vm->machine); i++)
		all = all && vcpu_is_paused(machine_vcpu(vm->machine, i));
	return all;
}

/* What the CPUs were stopped for comes first (a CPU that a debugger stopped would go on as if it
 * had been told to): handle_requests is on its way, and resumes them itself. */
void vm_resume_cpus(struct vm *vm)
{
	if (has_ended(vm) || atomic_load(&vm->requests))
		return;
	for (unsigned i = 0; !vm->holds && i < machine_cpus(vm->machine); i++) {
		if (!(vm->frozen >> i & 1))
			vcpu_resume(machine_vcpu(vm->machine, i));
	}
}

void vm_hold(struct vm *vm, enum vm_hold why)
{
	_Bool held = vm->holds != 0;

	vm->holds |= why;
	if (held || has_ended(vm))
		return;
	vm_pause_cpus(vm);
	machine_time_stop(vm->machine);
	set_state(vm, VM_PAUSED);
	control_event(vm->control, "paused", NULL);
}

void vm_release(struct vm *vm, enum vm_hold why)
{
	_Bool held = vm->holds != 0;

	vm->holds &= ~(unsigned)why;
	if (!held || vm->holds || has_ended(vm))
		return;
	set_state(vm, VM_RUNNING);
	machine_time_go(vm->machine);
	vm_resume_cpus(vm);
	control_event(vm->control, "resumed", NULL);
}

static void on_power(void *opaque, enum power_request what, unsigned arg)
{
	struct vm *vm = opaque;

	switch (what) {
	case POWER_OFF: vm_request(vm, REQ_POWER_OFF); break;
	case POWER_RESET: vm_request(vm, REQ_RESET); break;
	case POWER_PANIC: vm_request(vm, REQ_PANIC); break;
	case POWER_CRASH_LOADED: break; /* the guest's crash kernel takes over */
	case POWER_EXIT:
		atomic_store(&vm->debug_code, arg);
		vm_request(vm, REQ_DEBUG_EXIT);
		break;
	}
}

static void on_engine_event(void *opaque, enum engine_event event, unsigned cpu, const char *text)
{
	struct vm *vm = opaque;

	if (event == ENGINE_EVENT_TRIPLE_FAULT) {
		vm_request(vm, REQ_CRASH);
		return;
	}
	if (event == ENGINE_EVENT_DEBUG) {
		atomic_fetch_or(&vm->debug_cpus, BIT64(cpu));
		vm_request(vm, REQ_DEBUG);
		return;
	}
	if (!atomic_exchange(&vm->error_taken, 1))
		snprintf(vm->error_text, sizeof(vm->error_text), "CPU %u: %s", cpu,
			 text ? text : "the engine failed");
	vm_request(vm, REQ_ERROR);
}

static void end(struct vm *vm, enum vm_end end, unsigned code, enum vm_state state)
{
	vm->result->end = end;
	vm->result->code = code;
	set_state(vm, state);
	loop_stop(vm->loop, 0);
}

static void end_with(struct vm *vm, enum vm_end how, enum vm_state state, const char *text)
{
	snprintf(vm->result->text, sizeof(vm->result->text), "%s", text);
	end(vm, how, 0, state);
}

static void vm_reset(struct vm *vm)
{
	struct error err;

	assert(cpus_paused(vm));
	if (vm->spec.no_reboot) {
		end_with(vm, VM_END_RESET, VM_SHUT_DOWN,
			 "the guest asked for a reset; ended because of --no-reboot");
		return;
	}
	if (machine_boot(vm->machine, RESET_SYSTEM, NULL, &err)) {
		end_with(vm, VM_END_ERROR, VM_CRASHED, err.text);
		return;
	}
	atomic_fetch_and(&vm->requests, ~(unsigned)(REQ_RESET | REQ_CRASH));
	vm_gdb_changed(vm);
	control_event(vm->control, "reset", NULL);
	vm_resume_cpus(vm);
}

/* Where the boot CPU was when it shut down, for the person. */
static void describe_crash(struct vm *vm, char *text, size_t len)
{
	struct x86_state *s = malloc(sizeof(*s));

	snprintf(text, len, "the guest's CPU shut down (triple fault)");
	for (unsigned i = 0; s && i < machine_cpus(vm->machine); i++) {
		struct vcpu *vcpu = machine_vcpu(vm->machine, i);
		if (vm->ops->get_state(vcpu, s) || s->activity != X86_SHUTDOWN)
			continue;
		snprintf(text, len,
			 "the guest's CPU %u shut down (triple fault): rip=%#llx cs=%#x rsp=%#llx "
			 "cr0=%#llx cr2=%#llx cr3=%#llx",
			 i, (unsigned long long)s->rip, s->seg[X86_CS].selector,
			 (unsigned long long)s->gpr[X86_RSP], (unsigned long long)s->cr0,
			 (unsigned long long)s->cr2, (unsigned long long)s->cr3);
		break;
	}
	free(s);
}

static void vm_crash(struct vm *vm)
{
	uint64_t now = clock_now_ns(machine_clock(vm->machine));

	if (vm->crashes && now - vm->last_crash_ns > CRASH_WINDOW_NS)
		vm->crashes = 0;
	vm->last_crash_ns = now;
	if (!vm->spec.no_reboot && ++vm->crashes < CRASH_LIMIT) {
		vm_reset(vm);
		return;
	}
	describe_crash(vm, vm->result->text, sizeof(vm->result->text));
	end(vm, VM_END_CRASH, 0, VM_CRASHED);
}

/* On the loop's thread: what was asked for, the most final first. */
static void handle_requests(struct loop_work *work)
{
	struct vm *vm = work->opaque;
	unsigned requests = atomic_load(&vm->requests);

	if (!requests || has_ended(vm))
		return;
	vm_pause_cpus(vm);
	requests = atomic_load(&vm->requests);
	if (requests & REQ_DEBUG) {
		atomic_fetch_and(&vm->requests, ~(unsigned)REQ_DEBUG);
		vm_gdb_met(vm, atomic_exchange(&vm->debug_cpus, 0));
	}
	if (requests & REQ_ERROR)
		end_with(vm, VM_END_ERROR, VM_CRASHED, vm->error_text);
	else if (requests & REQ_DEBUG_EXIT)
		end(vm, VM_END_DEBUG_EXIT, atomic_load(&vm->debug_code), VM_SHUT_DOWN);
	else if (requests & REQ_PANIC)
		end_with(vm, VM_END_PANIC, VM_CRASHED, "the guest's kernel panicked");
	else if (requests & REQ_POWER_OFF)
		end(vm, VM_END_POWER_OFF, 0, VM_SHUT_DOWN);
	else if (requests & REQ_QUIT)
		end(vm, vm->signal ? VM_END_SIGNAL : VM_END_QUIT, vm->signal, VM_SHUT_DOWN);
	else if (requests & REQ_CRASH)
		vm_crash(vm);
	else if (requests & REQ_RESET)
		vm_reset(vm);
}

/* How long the loop may sleep before timers are due: any thread, under RANK_CLOCK. */
static void arm_timerfd(void *opaque, uint64_t delay_ns)
{
	struct vm *vm = opaque;
	struct itimerspec when = {0};

	if (delay_ns != UINT64_MAX) {
		delay_ns = MAX(delay_ns, 1); /* zero would disarm it */
		when.it_value.tv_sec = (time_t)MIN(delay_ns / 1000000000, (uint64_t)INT32_MAX);
		when.it_value.tv_nsec = (long)(delay_ns % 1000000000);
	}
	timerfd_settime(vm->timer.fd, 0, &when, NULL);
}

static void on_timer(struct loop_fd *lfd, uint32_t events)
{
	struct vm *vm = lfd->opaque;
	uint64_t count;

	if (read(lfd->fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_error("timerfd: %s", strerror(errno));
	clock_run_due(machine_clock(vm->machine));
}

static int add_timer(struct vm *vm, struct error *err)
{
	vm->timer =
	    (struct loop_fd){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC),
			     .fn = on_timer,
			     .opaque = vm};
	if (vm->timer.fd < 0)
		return error_set(err, -errno, "cannot create a timer: %s", strerror(errno));
	if (loop_fd_add(vm->loop, &vm->timer, EPOLLIN))
		return error_set(err, -ENOMEM, "cannot watch a timer: out of memory");
	vm->timer_added = 1;
	clock_set_wake(machine_clock(vm->machine), arm_timerfd, vm);
	return 0;
}

static int vm_build(struct vm *vm, struct error *err)
{
	struct machine_config cfg = {
	    .spec = &vm->spec,
	    .power = {on_power, vm},
	    .clock = CLOCK_STOPPED,
	    .disc_ejected = vm_disc_ejected,
	    .event = on_engine_event,
	    .opaque = vm,
	};
	int r = engine_choose(&vmm_engines, vm->spec.engine, &vm->ops, vm->engine_why, err);

	if (!r)
		r = loop_new(&vm->loop, err);
	if (!r)
		r = vm_signals_add(vm, err);
	if (!r)
		r = vm_console_open(vm, err);
	if (!r)
		r = vm_ports_open(vm, err);
	if (!r)
		r = vm_disks_open(vm, err);
	memcpy(cfg.disk, vm->disk, sizeof(cfg.disk));
	if (!r)
		r = vm_nets_open(vm, err);
	memcpy(cfg.net, vm->net, sizeof(cfg.net));
	if (!r)
		r = vm_shares_open(vm, err);
	memcpy(cfg.share, vm->share, sizeof(cfg.share));
	if (!r && vm->spec.vsock.cid)
		r = vsock_new(&vm->vsock, vm->loop, vm->spec.vsock.path, err);
	cfg.vsock = vm->vsock;
	if (!r)
		r = vm_trace_open(vm, &cfg.trace, err);
	if (!r)
		r = vm_vhosts_open(vm, err);
	memcpy(cfg.vhost_disk, vm->vhost_disk, sizeof(cfg.vhost_disk));
	memcpy(cfg.vhost_fs, vm->vhost_fs, sizeof(cfg.vhost_fs));
	memcpy(cfg.vhost_net, vm->vhost_net, sizeof(cfg.vhost_net));
	cfg.engine = vm->ops;
	if (vm->spec.console == SPEC_CONSOLE_VIRTIO)
		cfg.virtio_console = vm->console;
	else
		cfg.console = vm->console;
	memcpy(cfg.port, vm->port, sizeof(cfg.port));
	if (!r)
		r = machine_new(&vm->machine, &cfg, err);
	if (!r)
		r = add_timer(vm, err);
	if (!r)
		r = machine_boot(vm->machine, RESET_POWER, NULL, err);
	if (!r)
		r = vm_control_open(vm, err);
	if (!r)
		r = vm_gdb_open(vm, err);
	return r;
}

int vm_new(struct vm **out, const struct vm_spec *spec, struct error *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return error_set(err, -ENOMEM, "out of memory");
	vm_limits_raise();
	vm->spec = *spec;
	vm->holds = (spec->paused ? HOLD_USER : 0) | (spec->gdb_wait ? HOLD_GDB : 0);
	vm->timer.fd = vm->signals.fd = vm->grace.fd = -1;
	vm->work = (struct loop_work){.fn = handle_requests, .opaque = vm};
	vm_discs_init(vm);
	r = vm_build(vm, err);
	if (r) {
		vm_free(vm);
		return r;
	}
	*out = vm;
	return 0;
}

static int start_vcpus(struct vm *vm, struct error *err)
{
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++) {
		int r = vcpu_start(machine_vcpu(vm->machine, i), err);
		if (r)
			return r;
	}
	return 0;
}

void vm_run(struct vm *vm, struct vm_result *result)
{
	struct error err;

	memset(result, 0, sizeof(*result));
	vm->result = result;
	vm->started_ns = host_time_ns();
	if (start_vcpus(vm, &err)) {
		end_with(vm, VM_END_ERROR, VM_CRASHED, err.text);
	} else {
		if (vm->holds) {
			set_state(vm, VM_PAUSED);
		} else {
			set_state(vm, VM_RUNNING);
			machine_time_go(vm->machine);
			vm_resume_cpus(vm);
		}
		loop_run(vm->loop);
	}
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++)
		vcpu_stop(machine_vcpu(vm->machine, i));
	chardev_flush(vm->console, 1000);
	chardev_term_restore();
	vm_control_ended(vm);
	vm_gdb_ended(vm, result->end == VM_END_POWER_OFF || result->end == VM_END_QUIT ? 0 : 1);
	if (vm->spec.stats)
		vm_stats_print(vm);
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	if (vm->machine)
		clock_set_wake(machine_clock(vm->machine), NULL, NULL);
	control_free(vm->control);
	vm_gdb_close(vm);
	machine_free(vm->machine);
	vm->machine = NULL;
	vm_trace_close(vm);
	vm_disks_close(vm);
	vm_discs_fini(vm);
	vm_nets_close(vm);
	vm_ports_close(vm);
	vm_vhosts_close(vm);
	vm_shares_close(vm);
	vsock_free(vm->vsock);
	vm->vsock = NULL;
	if (vm->loop)
		loop_cancel(vm->loop, &vm->work);
	chardev_free(vm->console);
	if (vm->timer_added)
		loop_fd_del(vm->loop, &vm->timer);
	if (vm->timer.fd >= 0)
		close(vm->timer.fd);
	vm_signals_remove(vm);
	loop_free(vm->loop);
	free(vm);
}
