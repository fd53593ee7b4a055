/* kvmclock.h: KVM's paravirtual clock, for guests of the kvm personality on engines other than KVM
 * itself. */
#ifndef DEV_PC_KVMCLOCK_H
#define DEV_PC_KVMCLOCK_H

#include "bus/clock.h"
#include "bus/cpu_link.h"
#include "bus/device.h"
#include "bus/doors.h"
#include "mem/gmem.h"

#define KVMCLOCK_MAX_CPUS 64

struct kvmclock_config {
	struct doors *doors; /* MSRs 0x11, 0x12, 0x4b564d00 and 0x4b564d01 are added */
	struct gmem *mem;
	struct clock *clock;
	struct tsc_source tsc;
	uint32_t tsc_khz;
	unsigned cpus; /* at most KVMCLOCK_MAX_CPUS */
};

NODISCARD int kvmclock_new(struct device **dev, const struct kvmclock_config *cfg,
			   struct error *err);

/* Time goes on after it was stopped, or the TSC was restored: takes a new pair of TSC and time and
 * writes it to every CPU's page that is registered. While vCPUs are paused. */
void kvmclock_resumed(struct device *dev);

#endif
