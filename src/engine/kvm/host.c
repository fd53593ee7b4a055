/* host.c: /dev/kvm: opening it, what it must offer, and the signal that ends KVM_RUN. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KVM_DEVICE "/dev/kvm"

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int rc;

	do
		rc = ioctl(fd, request, arg);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : rc;
}

int kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
	int rc;

	do
		rc = ioctl(fd, request, value);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : rc;
}

int kvm_cap(int fd, unsigned cap)
{
	return kvm_ioctl_value(fd, KVM_CHECK_EXTENSION, cap);
}

/* What the engine cannot do without, and what for. docs/kvm.md says the same. */
static const struct kvm_need {
	unsigned cap;
	const char *name, *what;
} needs[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "guest memory"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "pausing between instructions"},
    {KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP", "a local APIC without KVM's IOAPIC and PIC"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING", "interrupt messages"},
    {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI", "interrupt messages"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "interrupts from descriptors"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "doorbells"},
    {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM", "ROM"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE", "vector state"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS", "debug registers"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS", "pending exceptions"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE", "halted CPUs"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", "CPUID"},
    {KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ", "the time stamp counter's rate"},
    {KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR", "MSRs of devices"},
    {KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER", "MSRs of devices"},
};

static int kvm_open_failed(int code, struct error *err)
{
	struct stat st;
	struct group group, *found = NULL;
	char buf[1024];

	if (code == ENOENT)
		return error_set(err, -code,
				 "there is no " KVM_DEVICE ": the CPU offers no virtualization to "
				 "this host, or the kvm_intel or kvm_amd module is not loaded");
	if (code == ENODEV || code == ENXIO)
		return error_set(err, -code,
				 KVM_DEVICE " is there but nothing answers: the CPU offers no "
					    "virtualization, or it is off in the firmware");
	if ((code != EACCES && code != EPERM) || stat(KVM_DEVICE, &st))
		return error_set(err, -code, "cannot open " KVM_DEVICE ": %s", strerror(code));
	if (!(st.st_mode & S_IWGRP) || getgrgid_r(st.st_gid, &group, buf, sizeof(buf), &found) ||
	    !found)
		return error_set(err, -code,
				 KVM_DEVICE " may not be opened by this user (mode %03o, owner %u)",
				 (unsigned)st.st_mode & 0777, (unsigned)st.st_uid);
	return error_set(err, -code,
			 KVM_DEVICE " may only be opened by members of group %s: add this user to "
				    "it (usermod -aG %s USER) and log in again",
			 group.gr_name, group.gr_name);
}

static int kvm_check(int fd, struct error *err)
{
	int version = kvm_ioctl_value(fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return error_set(err, -ENOTSUP,
				 KVM_DEVICE " speaks version %d of its interface, not %d", version,
				 KVM_API_VERSION);
	for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
		if (kvm_cap(fd, needs[i].cap) <= 0)
			return error_set(err, -ENOTSUP,
					 "this kernel's KVM lacks %s, needed for %s; Linux 5.10 or "
					 "newer has it",
					 needs[i].name, needs[i].what);
	return 0;
}

int kvm_open(struct error *err)
{
	int fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC), rc;

	if (fd < 0)
		return kvm_open_failed(errno, err);
	rc = kvm_check(fd, err);
	if (rc) {
		close(fd);
		return rc;
	}
	return fd;
}

/*
 * The kick signal. On vCPU threads it is blocked, so that it cuts short no system call of a device;
 * KVM opens it for the time of KVM_RUN only. A pending one ends KVM_RUN at once, so that there is
 * no moment in which a kick is lost. It is then taken off the queue; the handler, which does
 * nothing, is for the thread that is not prepared.
 */
static void kick_handler(int signal)
{
	(void)signal;
}

int kvm_signal_init(void)
{
	struct sigaction action = {.sa_handler = kick_handler};

	sigfillset(&action.sa_mask);
	return sigaction(KVM_KICK_SIGNAL, &action, NULL) ? -errno : 0;
}

int kvm_signal_prepare(int vcpu_fd)
{
	union {
		struct kvm_signal_mask mask;
		uint8_t bytes[sizeof(struct kvm_signal_mask) + 8];
	} arg = {.mask.len = 8}; /* the kernel's sigset_t */
	sigset_t set, old;
	int rc;

	sigemptyset(&set);
	sigaddset(&set, KVM_KICK_SIGNAL);
	rc = pthread_sigmask(SIG_BLOCK, &set, &old);
	if (rc)
		return -rc;
	sigdelset(&old, KVM_KICK_SIGNAL);
	memcpy(arg.bytes + sizeof(struct kvm_signal_mask), &old, 8);
	return kvm_ioctl(vcpu_fd, KVM_SET_SIGNAL_MASK, &arg);
}

void kvm_signal_drain(void)
{
	const struct timespec now = {0};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, KVM_KICK_SIGNAL);
	while (sigtimedwait(&set, NULL, &now) > 0)
		;
}
