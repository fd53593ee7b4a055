/* vm.c: one VM's life. The thread that calls vm_run is its event loop and the only one that starts,
 * pauses, resets or ends it. */
#include "vmm/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "vmm/engines.h"

/*
 * Requests. Devices, engines and the terminal ask for things from their own threads and under their
 * own locks; they only set a bit here, ask the vCPUs to leave guest code, and post `work`. The
 * loop's thread acts on them in the order of this list: an end wins over a reset.
 */
enum vm_request {
	REQ_ERROR = 1 << 0,
	REQ_DEBUG_EXIT = 1 << 1,
	REQ_PANIC = 1 << 2,
	REQ_POWER_OFF = 1 << 3,
	REQ_QUIT = 1 << 4,
	REQ_CRASH = 1 << 5,
	REQ_RESET = 1 << 6,
};

/* Triple faults this close together, and this many, are a crash rather than a way to reboot. */
#define CRASH_WINDOW_NS UINT64_C(1000000000)
#define CRASH_LIMIT	3

struct vm {
	struct vm_spec spec;
	enum vm_state state;
	const struct engine_ops *ops;
	char engine_why[512];
	struct loop *loop;
	struct chardev *console;
	struct machine *machine;
	struct loop_fd timer, signals;
	sigset_t old_mask;
	_Bool mask_set, timer_added, signals_added;

	struct loop_work work;
	_Atomic unsigned requests;
	_Atomic unsigned debug_code;
	_Atomic unsigned signal;
	char error_text[256]; /* written once, before REQ_ERROR is set */
	_Atomic _Bool error_taken;

	uint64_t last_crash_ns;
	unsigned crashes;
	_Bool user_paused;
	struct vm_result *result;
};

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
static void vm_request(struct vm *vm, unsigned request)
{
	atomic_fetch_or(&vm->requests, request);
	for (unsigned i = 0; vm->machine && i < machine_cpus(vm->machine); i++)
		vcpu_pause_begin(machine_vcpu(vm->machine, i));
	loop_post(vm->loop, &vm->work);
}

static void pause_all(struct vm *vm)
{
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++)
		vcpu_pause_begin(machine_vcpu(vm->machine, i));
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++)
		vcpu_pause_wait(machine_vcpu(vm->machine, i));
}

static void resume_all(struct vm *vm)
{
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++)
		vcpu_resume(machine_vcpu(vm->machine, i));
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
	if (!vm->user_paused)
		resume_all(vm);
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

	if (!requests || vm->state == VM_SHUT_DOWN || vm->state == VM_CRASHED)
		return;
	pause_all(vm);
	requests = atomic_load(&vm->requests);
	if (requests & REQ_ERROR)
		end_with(vm, VM_END_ERROR, VM_CRASHED, vm->error_text);
	else if (requests & REQ_DEBUG_EXIT)
		end(vm, VM_END_DEBUG_EXIT, atomic_load(&vm->debug_code), VM_SHUT_DOWN);
	else if (requests & REQ_PANIC)
		end_with(vm, VM_END_PANIC, VM_CRASHED, "the guest's kernel panicked");
	else if (requests & REQ_POWER_OFF)
		end(vm, VM_END_POWER_OFF, 0, VM_SHUT_DOWN);
	else if (requests & REQ_QUIT)
		end(vm, atomic_load(&vm->signal) ? VM_END_SIGNAL : VM_END_QUIT,
		    atomic_load(&vm->signal), VM_SHUT_DOWN);
	else if (requests & REQ_CRASH)
		vm_crash(vm);
	else if (requests & REQ_RESET)
		vm_reset(vm);
}

static void toggle_pause(struct vm *vm)
{
	if (vm->state == VM_RUNNING) {
		pause_all(vm);
		machine_time_stop(vm->machine);
		vm->user_paused = 1;
		set_state(vm, VM_PAUSED);
		log_msg(LOG_WARN, "paused; Ctrl-A P goes on");
	} else if (vm->state == VM_PAUSED) {
		vm->user_paused = 0;
		set_state(vm, VM_RUNNING);
		machine_time_go(vm->machine);
		resume_all(vm);
		log_msg(LOG_WARN, "running");
	}
}

static void print_stats(struct vm *vm)
{
	struct wbuf out;

	wbuf_init(&out, 64 << 10);
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++) {
		static const char *const kinds[EXIT_KINDS] = {"port",	  "mmio",      "eoi",
							      "msr_read", "msr_write", "hypercall"};
		struct vcpu *vcpu = machine_vcpu(vm->machine, i);
		for (unsigned k = 0; k < EXIT_KINDS; k++) {
			char line[80];
			int n = snprintf(line, sizeof(line), "cpu%u_exit_%s %llu\n", i, kinds[k],
					 (unsigned long long)atomic_load(&vcpu->exits[k]));
			wbuf_put(&out, line, (size_t)n);
		}
	}
	if (vm->ops->stats)
		vm->ops->stats(machine_engine(vm->machine), &out);
	if (!out.failed)
		fprintf(stderr, "%.*s", (int)out.len, (const char *)out.data);
	wbuf_fini(&out);
}

/* Keys after Ctrl-A, on the loop's thread. */
static void on_key(void *opaque, char key)
{
	struct vm *vm = opaque;

	switch (key) {
	case 'x': vm_request(vm, REQ_QUIT); break;
	case 'r': vm_request(vm, REQ_RESET); break;
	case 'p': toggle_pause(vm); break;
	case 'b': machine_press_power(vm->machine); break;
	case 's':
		log_msg(LOG_WARN, "%s, %u CPU(s), engine %s", vm_state_name(vm->state),
			machine_cpus(vm->machine), vm->ops->name);
		break;
	default: break;
	}
}

static void on_signal(struct loop_fd *lfd, uint32_t events)
{
	struct vm *vm = lfd->opaque;
	struct signalfd_siginfo info;

	while (read(lfd->fd, &info, sizeof(info)) == sizeof(info)) {
		atomic_store(&vm->signal, info.ssi_signo);
		vm_request(vm, REQ_QUIT);
	}
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

/* SIGINT, SIGTERM, SIGHUP and SIGQUIT end the VM in order; SIGPIPE is an error of a write. Threads
 * made later inherit the mask. */
static int add_signals(struct vm *vm, struct error *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	vm->signals = (struct loop_fd){
	    .fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), .fn = on_signal, .opaque = vm};
	if (vm->signals.fd < 0)
		return error_set(err, -errno, "cannot receive signals: %s", strerror(errno));
	if (loop_fd_add(vm->loop, &vm->signals, EPOLLIN))
		return error_set(err, -ENOMEM, "cannot watch signals: out of memory");
	vm->signals_added = 1;
	sigaddset(&set, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &set, &vm->old_mask);
	vm->mask_set = 1;
	return 0;
}

static int open_console(struct vm *vm, struct error *err)
{
	const struct term_config term = {
	    .in_fd = STDIN_FILENO, .out_fd = STDOUT_FILENO, .command = on_key, .opaque = vm};

	if (isatty(STDIN_FILENO))
		return chardev_term_new(&vm->console, vm->loop, &term, err);
	return chardev_fd_new(&vm->console, vm->loop, STDIN_FILENO, STDOUT_FILENO, err);
}

static int vm_build(struct vm *vm, struct error *err)
{
	struct machine_config cfg = {
	    .spec = &vm->spec,
	    .power = {on_power, vm},
	    .clock = CLOCK_STOPPED,
	    .event = on_engine_event,
	    .opaque = vm,
	};
	int r = engine_choose(&vmm_engines, vm->spec.engine, &vm->ops, vm->engine_why, err);

	if (!r)
		r = loop_new(&vm->loop, err);
	if (!r)
		r = add_signals(vm, err);
	if (!r)
		r = open_console(vm, err);
	cfg.engine = vm->ops;
	cfg.console = vm->console;
	if (!r)
		r = machine_new(&vm->machine, &cfg, err);
	if (!r)
		r = add_timer(vm, err);
	if (!r)
		r = machine_boot(vm->machine, RESET_POWER, NULL, err);
	return r;
}

int vm_new(struct vm **out, const struct vm_spec *spec, struct error *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return error_set(err, -ENOMEM, "out of memory");
	vm->spec = *spec;
	vm->timer.fd = vm->signals.fd = -1;
	vm->work = (struct loop_work){.fn = handle_requests, .opaque = vm};
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
	if (start_vcpus(vm, &err)) {
		end_with(vm, VM_END_ERROR, VM_CRASHED, err.text);
	} else {
		set_state(vm, VM_RUNNING);
		machine_time_go(vm->machine);
		resume_all(vm);
		loop_run(vm->loop);
	}
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++)
		vcpu_stop(machine_vcpu(vm->machine, i));
	chardev_flush(vm->console, 1000);
	chardev_term_restore();
	if (vm->spec.stats)
		print_stats(vm);
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	if (vm->machine)
		clock_set_wake(machine_clock(vm->machine), NULL, NULL);
	machine_free(vm->machine);
	if (vm->loop)
		loop_cancel(vm->loop, &vm->work);
	chardev_free(vm->console);
	if (vm->timer_added)
		loop_fd_del(vm->loop, &vm->timer);
	if (vm->timer.fd >= 0)
		close(vm->timer.fd);
	if (vm->signals_added)
		loop_fd_del(vm->loop, &vm->signals);
	if (vm->signals.fd >= 0)
		close(vm->signals.fd);
	if (vm->mask_set)
		pthread_sigmask(SIG_SETMASK, &vm->old_mask, NULL);
	loop_free(vm->loop);
	free(vm);
}
