/* pv.c: what KVM itself offers its guests: its clock over a pause, and all of it at a reset. */
#include "engine/kvm/kvm.h"

/*
 * A guest that knows KVM names places in its memory, by MSRs of KVM's own, into which KVM then
 * writes: the time, what was stolen from a CPU, whether a page is under way. None of it is in
 * struct x86_state: it is between the guest and KVM.
 */
#define PV_WALL_CLOCK_OLD  0x11u
#define PV_SYSTEM_TIME_OLD 0x12u
#define PV_WALL_CLOCK	   0x4b564d00u
#define PV_SYSTEM_TIME	   0x4b564d01u
#define PV_ASYNC_PF	   0x4b564d02u
#define PV_STEAL_TIME	   0x4b564d03u
#define PV_EOI		   0x4b564d04u
#define PV_POLL_CONTROL	   0x4b564d05u
#define PV_ASYNC_PF_VECTOR 0x4b564d06u

/*
 * KVM's clock is the host's and an offset, and the guest's is made of it and of the TSC when a CPU
 * next enters guest code, which is after kvm_tsc_resume. The guest is told that it stood still, so
 * that its watchdogs do not count the pause.
 */
void kvm_time(struct engine *engine, _Bool running)
{
	struct kvm_engine *k = kvm_engine_of(engine);
	struct kvm_clock_data data = {0};

	if (!running) {
		k->pv_clock_lost = kvm_ioctl(k->vm_fd, KVM_GET_CLOCK, &data) < 0;
		k->pv_clock_ns = data.clock;
		return;
	}
	data = (struct kvm_clock_data){.clock = k->pv_clock_ns};
	if (!k->pv_clock_lost)
		(void)kvm_ioctl(k->vm_fd, KVM_SET_CLOCK, &data);
	for (unsigned i = 0; i < ENGINE_MAX_CPUS; i++) {
		/* -EINVAL: this guest does not look at that clock. */
		if (k->vcpu[i])
			(void)kvm_ioctl_value(k->vcpu[i]->fd, KVM_KVMCLOCK_CTRL, 0);
	}
}

/* Else KVM would go on writing into the memory of the guest that comes next. What this KVM does not
 * know, or has at that value, is left alone: it would complain in the host's log. */
void kvm_vcpu_reset(struct vcpu *vcpu)
{
	static const struct {
		uint32_t msr, value;
	} pv[] = {
	    {PV_WALL_CLOCK_OLD, 0},
	    {PV_SYSTEM_TIME_OLD, 0},
	    {PV_WALL_CLOCK, 0},
	    {PV_SYSTEM_TIME, 0},
	    {PV_ASYNC_PF, 0},
	    {PV_STEAL_TIME, 0},
	    {PV_EOI, 0},
	    {PV_POLL_CONTROL, 1},
	    {PV_ASYNC_PF_VECTOR, 0},
	};
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	uint64_t has;

	for (unsigned i = 0; i < ARRAY_SIZE(pv); i++)
		if (!kvm_msr_get(v, pv[i].msr, &has) && has != pv[i].value)
			(void)kvm_msr_set(v, pv[i].msr, pv[i].value);
	v->pic_vector = -1;
}
