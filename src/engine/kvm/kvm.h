/* kvm.h: what the files of the KVM engine share. */
#ifndef ENGINE_KVM_KVM_H
#define ENGINE_KVM_KVM_H

#include <linux/kvm.h>
#include <signal.h>
#include "engine/vcpu.h"

/* Routes 0 to 23 are kept for the IOAPIC's level-triggered vectors (see irq.c); messages of irqfds
 * follow. */
#define KVM_EOI_ROUTES	 24
#define KVM_IRQFD_MAX	 1024
#define KVM_MSRS_MAX	 96
#define KVM_EXIT_REASONS 64

/* The signal that ends KVM_RUN. It is blocked on vCPU threads everywhere else. */
#define KVM_KICK_SIGNAL (SIGRTMIN + 5)

/* TSC and VM clock: see tsc.c. */
struct kvm_tsc {
	int64_t applied_ns; /* the clock's lag behind the host's that the TSC offset accounts for */
	uint64_t value;	    /* what set_state gave, until the CPU runs */
	_Bool set;
	_Bool check; /* the VM may have been stopped: compare before guest code runs */
};

struct kvm_vcpu {
	struct vcpu vcpu; /* first */
	int fd;
	struct kvm_run *run;
	size_t run_bytes;
	uint32_t xsave_bytes; /* of KVM's XSAVE image, at least 4096 */
	uint8_t *xsave;
	_Bool finish;		 /* vcpu.exit waits to be handed back to KVM */
	_Bool shutdown;		 /* a triple fault; guest code runs no more until set_state */
	struct kvm_debug *debug; /* a debugger's wishes, debug.c; or NULL */
	int pic_vector;		 /* acknowledged, and not KVM's yet; -1: none */
	_Bool mask_set;		 /* the thread that runs is prepared for the kick signal */
	pthread_t runner;
	_Atomic _Bool in_run, kick_sent;
	struct kvm_tsc tsc;
	_Atomic int64_t tsc_offset; /* guest TSC - host TSC, as last seen; for tsc_source */
	_Atomic uint64_t reasons[KVM_EXIT_REASONS];
};

struct kvm_route {
	_Bool used;
	int fd;
	uint64_t addr;
	uint32_t data;
};

struct kvm_engine {
	struct engine engine; /* first */
	int sys_fd, vm_fd;
	struct kvm_vcpu *vcpu[ENGINE_MAX_CPUS];
	uint32_t tsc_khz;
	_Bool tsc_attr;	    /* KVM_VCPU_TSC_OFFSET */
	int64_t stopped_ns; /* under lock, as is the next; see tsc.c */
	uint64_t stopped_tsc;
	uint64_t pv_clock_ns; /* when time was stopped; see pv.c */
	_Bool pv_clock_lost;
	_Atomic _Bool sealed; /* the MSR filter is in place */
	_Bool logging;
	_Atomic _Bool extint;
	_Atomic uint64_t msi_refused;
	uint64_t xfeatures; /* XSAVE components that KVM takes */
	uint32_t msrs[KVM_MSRS_MAX];
	unsigned msr_count;
	struct lock lock; /* RANK_LAPIC: routes, seal, TSC */
	uint64_t eoi_bitmap[4];
	struct kvm_route *route;       /* KVM_IRQFD_MAX */
	struct kvm_irq_routing *table; /* all routes, as handed to KVM */
	struct kvm_cpuid2 *supported;  /* KVM_GET_SUPPORTED_CPUID */
};

static inline struct kvm_vcpu *kvm_vcpu_of(struct vcpu *vcpu)
{
	return container_of(vcpu, struct kvm_vcpu, vcpu);
}
static inline struct kvm_engine *kvm_engine_of(struct engine *engine)
{
	return container_of(engine, struct kvm_engine, engine);
}

/* host.c: ioctl with EINTR retried; the result, or a negative errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
int kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
/* Opens /dev/kvm and checks all that the engine needs; the descriptor, or a negative errno with a
 * sentence that names what is missing. */
NODISCARD int kvm_open(struct error *err);
int kvm_cap(int fd, unsigned cap);
NODISCARD int kvm_signal_init(void);
/* Blocks the kick signal on this thread and opens it within KVM_RUN on the vCPU. */
NODISCARD int kvm_signal_prepare(int vcpu_fd);
void kvm_signal_drain(void);

/* cpuid.c */
struct kvm_cpuid2 *kvm_cpuid_supported(int sys_fd); /* malloc'd; NULL when out of memory */
const struct kvm_cpuid_entry2 *kvm_cpuid_find(const struct kvm_cpuid2 *c, uint32_t leaf,
					      uint32_t subleaf);
void kvm_caps(struct cpuid_caps *caps);
NODISCARD int kvm_cpuid_set(struct kvm_engine *k, struct kvm_vcpu *v);
void kvm_tsx_ctrl_hide(struct kvm_vcpu *v); /* of a new CPU; run.c */

/* probe.c */
void kvm_probe(struct engine_probe *out);

/* run.c */
int kvm_vcpu_create(struct engine *engine, unsigned index, struct vcpu **vcpu, struct error *err);
void kvm_vcpu_destroy(struct vcpu *vcpu);
int kvm_vcpu_run(struct vcpu *vcpu);
_Bool kvm_vcpu_runnable(struct vcpu *vcpu);
void kvm_vcpu_kick(struct vcpu *vcpu);

/* state.c */
void kvm_msrs_find(struct kvm_engine *k, struct kvm_vcpu *v);
int kvm_get_state(struct vcpu *vcpu, struct x86_state *out);
int kvm_set_state(struct vcpu *vcpu, const struct x86_state *in);
int kvm_apic_get(struct vcpu *vcpu, uint8_t page[1024], uint64_t *apic_base,
		 uint64_t *tsc_deadline);
int kvm_apic_set(struct vcpu *vcpu, const uint8_t page[1024], uint64_t apic_base,
		 uint64_t tsc_deadline);
/* One MSR. 0, or -EINVAL when KVM has none such or refuses the value. */
int kvm_msr_get(struct kvm_vcpu *v, uint32_t msr, uint64_t *value);
int kvm_msr_set(struct kvm_vcpu *v, uint32_t msr, uint64_t value);

/* debug.c */
#define KVM_BREAK_MAX 4 /* debug registers */
int kvm_debug_set(struct vcpu *vcpu, const struct engine_debug *wish);
int kvm_debug_exit(struct kvm_vcpu *v); /* KVM_EXIT_DEBUG: a run_result */

/* xsave.c */
void kvm_xsave_load(const struct kvm_vcpu *v, struct x86_state *out);
void kvm_xsave_store(struct kvm_vcpu *v, uint64_t xfeatures, const struct x86_state *in);

/* tsc.c */
uint32_t kvm_tsc_khz(void);
void kvm_tsc_source(struct engine *engine, struct tsc_source *out);
int kvm_tsc_get(struct kvm_vcpu *v, uint64_t *tsc);
int kvm_tsc_set(struct kvm_vcpu *v, uint64_t tsc);
void kvm_tsc_resume(struct kvm_vcpu *v);

/* pv.c */
void kvm_time(struct engine *engine, _Bool running);
void kvm_vcpu_reset(struct vcpu *vcpu);

/* irq.c */
void kvm_msi(struct engine *engine, uint64_t addr, uint32_t data);
void kvm_extint(struct engine *engine, _Bool level);
void kvm_eoi_vectors(struct engine *engine, const uint64_t bitmap[4]);
int kvm_doorbell(struct engine *engine, _Bool port, uint64_t addr, unsigned size,
		 const uint64_t *value, int fd, _Bool add);
int kvm_irqfd_add(struct engine *engine, int fd, uint64_t addr, uint32_t data);
int kvm_irqfd_set(struct engine *engine, int handle, uint64_t addr, uint32_t data);
void kvm_irqfd_del(struct engine *engine, int handle);

#endif
