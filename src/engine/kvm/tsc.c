/* tsc.c: the guest's time stamp counter, which stands still with the VM's clock. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <unistd.h>
#include <x86intrin.h>
#include "x86/regs.h"

/*
 * KVM's guest TSC is the host's plus an offset, and so goes on while a VM is stopped. The VM's
 * clock knows for how long it was stopped: its lag behind the host's monotonic clock. When a CPU
 * is about to run guest code after it was out of it, the lag is compared with the one that its
 * offset accounts for, and the TSC is set back by the difference. While the clock goes the lag is
 * one value for all CPUs, so that their TSCs stay as far apart as they were: zero.
 */

static const struct clock *clock_of(const struct kvm_vcpu *v)
{
	return v->vcpu.engine->env->clock;
}

static int64_t lag_ns(const struct kvm_vcpu *v)
{
	return clock_lag_ns(clock_of(v));
}

static int64_t ticks(const struct kvm_engine *k, int64_t ns)
{
	return (int64_t)((__int128)ns * k->tsc_khz / 1000000);
}

uint32_t kvm_tsc_khz(void)
{
	int sys = kvm_open(NULL), vm, cpu, khz = -1;

	if (sys < 0)
		return 0;
	vm = kvm_ioctl_value(sys, KVM_CREATE_VM, 0);
	if (vm >= 0) {
		cpu = kvm_ioctl_value(vm, KVM_CREATE_VCPU, 0);
		if (cpu >= 0) {
			khz = kvm_ioctl_value(cpu, KVM_GET_TSC_KHZ, 0);
			close(cpu);
		}
		close(vm);
	}
	close(sys);
	return khz > 0 ? (uint32_t)khz : 0;
}

static void offset_note(struct kvm_vcpu *v, uint64_t tsc)
{
	atomic_store_explicit(&v->tsc_offset, (int64_t)(tsc - __rdtsc()), memory_order_relaxed);
}

int kvm_tsc_get(struct kvm_vcpu *v, uint64_t *tsc)
{
	uint64_t now;
	int64_t lag = lag_ns(v);
	int rc;

	if (v->tsc.set) {
		*tsc = v->tsc.value;
		return 0;
	}
	rc = kvm_msr_get(v, MSR_TSC, &now);
	if (rc)
		return rc;
	offset_note(v, now);
	/* What passed while the clock stood still is not the guest's. */
	if (clock_mode(clock_of(v)) != CLOCK_MANUAL)
		now -= (uint64_t)ticks(kvm_engine_of(v->vcpu.engine), lag - v->tsc.applied_ns);
	*tsc = now;
	return 0;
}

/* KVM has worked out from the TSC when a TSC deadline is due; after the TSC has jumped it must do
 * so again. */
static void deadline_again(struct kvm_vcpu *v)
{
	uint64_t deadline;

	if (!kvm_msr_get(v, MSR_TSC_DEADLINE, &deadline) && deadline)
		(void)kvm_msr_set(v, MSR_TSC_DEADLINE, deadline);
}

/* The TSC is `value` when the host's is `host`. Through the offset where KVM gives it: a written
 * MSR it may take for an attempt to synchronize CPUs, and give it the offset of the write before.
 */
static int tsc_write(struct kvm_vcpu *v, uint64_t value, uint64_t host)
{
	uint64_t offset = value - host;
	struct kvm_device_attr attr = {
	    .group = KVM_VCPU_TSC_CTRL,
	    .attr = KVM_VCPU_TSC_OFFSET,
	    .addr = (uintptr_t)&offset,
	};
	int rc;

	if (kvm_engine_of(v->vcpu.engine)->tsc_attr)
		rc = kvm_ioctl(v->fd, KVM_SET_DEVICE_ATTR, &attr);
	else
		rc = kvm_msr_set(v, MSR_TSC, value);
	deadline_again(v);
	atomic_store_explicit(&v->tsc_offset, (int64_t)offset, memory_order_relaxed);
	return rc;
}

/* The value counts from when the CPU runs, whatever is done to the clock in between; so it is
 * written again then. */
int kvm_tsc_set(struct kvm_vcpu *v, uint64_t tsc)
{
	int rc = tsc_write(v, tsc, __rdtsc());

	v->tsc = (struct kvm_tsc){.applied_ns = lag_ns(v), .value = tsc, .set = 1, .check = 1};
	return rc;
}

static void tsc_move(struct kvm_vcpu *v, int64_t delta)
{
	struct kvm_engine *k = kvm_engine_of(v->vcpu.engine);
	uint64_t value;
	struct kvm_device_attr attr = {
	    .group = KVM_VCPU_TSC_CTRL,
	    .attr = KVM_VCPU_TSC_OFFSET,
	    .addr = (uintptr_t)&value,
	};

	if (k->tsc_attr && kvm_ioctl(v->fd, KVM_GET_DEVICE_ATTR, &attr) >= 0) {
		value += (uint64_t)delta;
		(void)kvm_ioctl(v->fd, KVM_SET_DEVICE_ATTR, &attr);
	} else if (!kvm_msr_get(v, MSR_TSC, &value)) {
		(void)kvm_msr_set(v, MSR_TSC, value + (uint64_t)delta);
	}
	deadline_again(v);
	if (!kvm_msr_get(v, MSR_TSC, &value))
		offset_note(v, value);
}

/* The clock's lag, and the host's TSC when the first CPU saw it. */
static int64_t lag_shared(struct kvm_vcpu *v, uint64_t *host_tsc)
{
	struct kvm_engine *k = kvm_engine_of(v->vcpu.engine);
	int64_t lag;

	lock_take(&k->lock);
	lag = lag_ns(v);
	if (lag != k->stopped_ns) {
		k->stopped_ns = lag;
		k->stopped_tsc = __rdtsc();
	}
	lag = k->stopped_ns;
	*host_tsc = k->stopped_tsc;
	lock_drop(&k->lock);
	return lag;
}

void kvm_tsc_resume(struct kvm_vcpu *v)
{
	_Bool set = v->tsc.set;
	uint64_t host_tsc;
	int64_t lag;

	v->tsc.set = 0;
	if (clock_mode(clock_of(v)) != CLOCK_REAL)
		return;
	v->tsc.check = 0;
	lag = lag_shared(v, &host_tsc);
	if (set)
		(void)tsc_write(v, v->tsc.value, host_tsc);
	else if (lag != v->tsc.applied_ns)
		tsc_move(v, -ticks(kvm_engine_of(v->vcpu.engine), lag - v->tsc.applied_ns));
	v->tsc.applied_ns = lag;
}

static uint64_t source_read(void *opaque, unsigned cpu)
{
	struct kvm_engine *k = opaque;

	if (cpu >= ENGINE_MAX_CPUS || !k->vcpu[cpu])
		return 0;
	return __rdtsc() +
	       (uint64_t)atomic_load_explicit(&k->vcpu[cpu]->tsc_offset, memory_order_relaxed);
}

static uint64_t source_to_ns(void *opaque, unsigned cpu, uint64_t tsc)
{
	struct kvm_engine *k = opaque;
	uint64_t now_ns = clock_now_ns(k->engine.env->clock);

	return tsc_due_ns(tsc, source_read(k, cpu), now_ns, k->tsc_khz);
}

void kvm_tsc_source(struct engine *engine, struct tsc_source *out)
{
	*out = (struct tsc_source){
	    .read = source_read, .to_ns = source_to_ns, .opaque = kvm_engine_of(engine)};
}
