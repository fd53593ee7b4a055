/* vm_stop.c: signals, and ending a VM with the guest's help where it gives any. */
#include <errno.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/log.h"
#include "vmm/vm_impl.h"

void vm_stop_now(struct vm *vm, unsigned signal)
{
	vm->signal = signal;
	vm_request(vm, REQ_QUIT);
}

static void on_grace(struct loop_fd *lfd, uint32_t events)
{
	struct vm *vm = lfd->opaque;
	uint64_t count;

	if (read(lfd->fd, &count, sizeof(count)) < 0)
		return;
	log_warn("the guest has not powered off in time: it is ended");
	vm_stop_now(vm, vm->signal);
}

/* The host's time, not the guest's: a guest that stands still is ended as well. */
static int arm_grace(struct vm *vm, unsigned seconds)
{
	const struct itimerspec when = {.it_value.tv_sec = (time_t)seconds};

	vm->grace =
	    (struct loop_fd){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC),
			     .fn = on_grace,
			     .opaque = vm};
	if (vm->grace.fd < 0)
		return -errno;
	if (timerfd_settime(vm->grace.fd, 0, &when, NULL))
		return -errno;
	vm->grace_added = !loop_fd_add(vm->loop, &vm->grace, EPOLLIN);
	return vm->grace_added ? 0 : -ENOMEM;
}

_Bool vm_stop_gently(struct vm *vm, unsigned seconds, unsigned signal)
{
	if (vm->stopping || !seconds || vm->holds & ~(unsigned)HOLD_USER ||
	    !machine_press_power(vm->machine)) {
		vm_stop_now(vm, signal);
		return 0;
	}
	vm->stopping = 1;
	vm->signal = signal;
	if (arm_grace(vm, seconds)) {
		vm_stop_now(vm, signal);
		return 0;
	}
	control_event(vm->control, "stopping", json_pack("{s:i}", "grace", (int)seconds));
	/* A paused guest could not do it. */
	vm_release(vm, HOLD_USER);
	return 1;
}

static void on_signal(struct loop_fd *lfd, uint32_t events)
{
	struct vm *vm = lfd->opaque;
	struct signalfd_siginfo info;

	while (read(lfd->fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo != SIGTERM)
			vm_stop_now(vm, info.ssi_signo);
		else if (vm_stop_gently(vm, vm->spec.grace_seconds, SIGTERM))
			log_warn("the guest is asked to power off and has %u seconds for it; "
				 "another SIGTERM ends it at once",
				 vm->spec.grace_seconds);
	}
}

/* SIGTERM asks the guest first; SIGINT, SIGHUP and SIGQUIT end the VM in order; SIGPIPE is an error
 * of a write. Threads made later inherit the mask. */
int vm_signals_add(struct vm *vm, struct error *err)
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

void vm_signals_remove(struct vm *vm)
{
	if (vm->grace_added)
		loop_fd_del(vm->loop, &vm->grace);
	if (vm->grace.fd >= 0)
		close(vm->grace.fd);
	if (vm->signals_added)
		loop_fd_del(vm->loop, &vm->signals);
	if (vm->signals.fd >= 0)
		close(vm->signals.fd);
	if (vm->mask_set)
		pthread_sigmask(SIG_SETMASK, &vm->old_mask, NULL);
}
