/* cpu_link.h: what a CPU and its interrupt controller ask of each other, whoever implements either
 * side. */
#ifndef BUS_CPU_LINK_H
#define BUS_CPU_LINK_H

#include <stdatomic.h>
#include "base/util.h"

/* Events at a CPU. Set by anybody with an atomic OR, then wake. */
enum cpu_event {
	CPU_EVENT_INTR = 1 << 0, /* level: the local APIC (or PIC through LINT0) has an interrupt
				    above the CPU's priority */
	CPU_EVENT_NMI = 1 << 1,	 /* edge; the CPU clears it when it takes the NMI */
	CPU_EVENT_SMI = 1 << 2,	 /* edge; no SMM here: counted and dropped */
	CPU_EVENT_INIT = 1 << 3, /* edge */
	CPU_EVENT_SIPI = 1 << 4, /* edge; vector in sipi_vector; ignored unless waiting for it */
	CPU_EVENT_KICK =
	    1 << 8, /* leave guest code: somebody has a request for the vCPU's thread */
	CPU_EVENT_ENGINE = 1 << 9, /* the engine's own (TLB or code shoot-down) */
	CPU_EVENT_ONE = 1 << 10,   /* the engine's own: one block, then a look */
};

struct cpu_link {
	_Atomic uint32_t events;
	_Atomic uint8_t sipi_vector;
	/* Makes a halted or running CPU look at `events` soon. A leaf call, any thread, any lock
	 * below RANK_VCPU. */
	void (*wake)(struct cpu_link *link);
};

static inline void cpu_link_raise(struct cpu_link *link, uint32_t events)
{
	atomic_fetch_or_explicit(&link->events, events, memory_order_acq_rel);
	if (link->wake)
		link->wake(link);
}
static inline void cpu_link_clear(struct cpu_link *link, uint32_t events)
{
	atomic_fetch_and_explicit(&link->events, ~events, memory_order_acq_rel);
}

/* What a CPU asks of its local APIC. All take the APIC's own lock; called with no lock held, on
 * that CPU's thread unless said otherwise. */
struct cpu_apic_ops {
	/* The interrupt acknowledge cycle: the vector to deliver now, moving it from IRR to ISR, or
	 * asking the PIC for ExtINT; -1 when nothing is left (the line fell in between). */
	int (*ack)(void *apic);
	/* CR8 is TPR[7:4] (SDM3 11.8.6). */
	uint8_t (*get_cr8)(void *apic);
	void (*set_cr8)(void *apic, uint8_t value);
	/* IA32_APIC_BASE, IA32_TSC_DEADLINE and MSRs 0x800-0x8FF (which fault outside of x2APIC
	 * mode). 0, or -1 for #GP. */
	int (*msr_read)(void *apic, uint32_t msr, uint64_t *value);
	int (*msr_write)(void *apic, uint32_t msr, uint64_t value);
	/* The 4 KiB register page at APIC_BASE: true when `addr` is inside it and the APIC is
	 * enabled in xAPIC mode. Each CPU sees its own. */
	_Bool (*mmio_read)(void *apic, uint64_t addr, unsigned size, uint64_t *value);
	_Bool (*mmio_write)(void *apic, uint64_t addr, unsigned size, uint64_t value);
	/* The base of that page when enabled in xAPIC mode, else UINT64_MAX: an engine may keep it
	 * as a hint and refresh it after msr_write. */
	uint64_t (*mmio_base)(void *apic);
	/* Present bits for CPUID: is the APIC globally enabled (CPUID.1:EDX.APIC follows,
	 * SDM3 11.4.3). */
	_Bool (*enabled)(void *apic);
	/* INIT reached this CPU: called by it when it takes CPU_EVENT_INIT. */
	void (*init)(void *apic);
	/* The CPU's TSC jumped (written, adjusted, restored): a TSC deadline is worked out anew. */
	void (*tsc_moved)(void *apic);
};

struct cpu_apic {
	const struct cpu_apic_ops
	    *ops; /* NULL: the engine has its own (KVM's in-kernel APIC) or there is none */
	void *apic;
};

/* A CPU's time stamp counter as a device sees it (for the TSC-deadline timer): value now, and VM
 * time at which it will reach a value. */
struct tsc_source {
	uint64_t (*read)(void *opaque, unsigned cpu);
	uint64_t (*to_ns)(void *opaque, unsigned cpu,
			  uint64_t tsc); /* VM clock time, ns; past values give the present */
	void *opaque;
};

/* to_ns of every source: `now` is the counter at VM time `now_ns`. Values are unsigned: one that is
 * centuries ahead has not passed. */
static inline uint64_t tsc_due_ns(uint64_t tsc, uint64_t now, uint64_t now_ns, uint32_t khz)
{
	unsigned __int128 wait;

	if (tsc <= now)
		return now_ns;
	wait = (unsigned __int128)(tsc - now) * 1000000 / khz;
	return wait > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + (uint64_t)wait;
}

#endif
