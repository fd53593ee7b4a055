/* kvmclock.h: KVM's paravirtual clock for engines that have none in the host kernel (Linux
 * Documentation/virt/kvm/x86/msr.rst). */
#ifndef DEV_PC_KVMCLOCK_H
#define DEV_PC_KVMCLOCK_H

#include "bus/clock.h"
#include "bus/cpu_link.h"
#include "bus/device.h"
#include "bus/doors.h"
#include "mem/gmem.h"

#define KVMCLOCK_MAX_CPUS 64

#define MSR_KVM_WALL_CLOCK	0x11u
#define MSR_KVM_SYSTEM_TIME	0x12u
#define MSR_KVM_WALL_CLOCK_NEW	0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u

struct kvmclock_config {
	struct doors *doors;
	struct gmem *mem;
	struct clock *clock;
	struct tsc_source tsc;
	uint32_t tsc_khz;
	unsigned cpus;
};

/* Adds the four MSRs and, where nobody has one, a hypercall door that knows no call. */
NODISCARD int kvmclock_new(struct device **dev, const struct kvmclock_config *cfg,
			   struct error *err);

/* Time goes on after a pause or a restore: relates TSC and VM time anew and rewrites what guests
 * have registered, with "the guest was stopped" set for their watchdogs. Called before vCPUs run.
 */
void kvmclock_resumed(struct device *dev);

#endif
