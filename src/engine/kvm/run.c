/* run.c: a vCPU under KVM: running it, what its exits mean, and what is given to it on entry. */
#include "engine/kvm/kvm.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/log.h"
#include "x86/regs.h"

static int vcpu_open(struct kvm_engine *k, struct kvm_vcpu *v, struct error *err)
{
	int bytes = kvm_ioctl_value(k->sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	unsigned index = v->vcpu.index;
	void *run;
	int rc;

	v->fd = kvm_ioctl_value(k->vm_fd, KVM_CREATE_VCPU, index);
	if (v->fd < 0)
		return error_set(err, v->fd, "KVM cannot create CPU %u: %s", index,
				 strerror(-v->fd));
	run = bytes < (int)sizeof(struct kvm_run)
		  ? MAP_FAILED
		  : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return error_set(err, -ENOMEM, "cannot map what KVM shares of CPU %u", index);
	v->run = run;
	v->run_bytes = (size_t)bytes;
	rc = kvm_cap(k->vm_fd, KVM_CAP_XSAVE2);
	v->xsave_bytes = MAX(rc > 0 ? (uint32_t)rc : 0, (uint32_t)sizeof(struct kvm_xsave));
	v->xsave = calloc(1, v->xsave_bytes);
	if (!v->xsave)
		return error_set(err, -ENOMEM, "out of memory for CPU %u", index);
	rc = kvm_cpuid_set(k, v);
	if (rc < 0)
		return error_set(err, rc, "KVM refuses the CPUID of CPU %u: %s", index,
				 strerror(-rc));
	return 0;
}

/*
 * IA32_TSX_CTRL is not offered: it is not in the state, and there is nothing to control. CPUID has
 * no RTM, for which KVM disables it (SET_CPUID2, Linux 5.5); a guest that saw the register would
 * clear buffers for what cannot run, or set it, and be without it after a restore.
 */
void kvm_tsx_ctrl_hide(struct kvm_vcpu *v)
{
	uint64_t cap;
	int rc = kvm_msr_get(v, MSR_ARCH_CAP, &cap);

	if (rc || !(cap & X86_ARCH_TSX_CTRL))
		return;
	rc = kvm_msr_set(v, MSR_ARCH_CAP, cap & ~X86_ARCH_TSX_CTRL);
	if (rc)
		log_debug("KVM keeps TSX_CTRL in what CPU %u can do: %s", v->vcpu.index,
			  strerror(-rc));
}

/* Machine-check banks, so that the guest's MCE code finds what CPUID promises. KVM may have fewer.
 */
static void vcpu_setup_mce(struct kvm_vcpu *v)
{
	uint64_t cap = 4 | BIT64(8); /* banks; MCG_CTL is there (SDM3 16.3.1.1) */

	(void)kvm_ioctl(v->fd, KVM_X86_SETUP_MCE, &cap);
}

static int vcpu_power_on(struct kvm_vcpu *v)
{
	struct x86_state *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	x86_state_reset(s, v->vcpu.index == 0);
	rc = kvm_set_state(&v->vcpu, s);
	free(s);
	return rc;
}

int kvm_vcpu_create(struct engine *engine, unsigned index, struct vcpu **vcpu, struct error *err)
{
	struct kvm_engine *k = kvm_engine_of(engine);
	struct kvm_vcpu *v;
	int rc;

	assert(index < ENGINE_MAX_CPUS && !k->vcpu[index]);
	v = calloc(1, sizeof(*v));
	if (!v)
		return error_set(err, -ENOMEM, "out of memory for CPU %u", index);
	vcpu_init(&v->vcpu, engine, index);
	v->fd = v->pic_vector = -1;
	rc = vcpu_open(k, v, err);
	if (!rc) {
		struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL,
					       .attr = KVM_VCPU_TSC_OFFSET};

		kvm_tsx_ctrl_hide(v);
		vcpu_setup_mce(v);
		if (!k->msr_count)
			kvm_msrs_find(k, v);
		k->tsc_attr = kvm_ioctl(v->fd, KVM_HAS_DEVICE_ATTR, &attr) == 0;
		rc = vcpu_power_on(v);
		if (rc)
			error_set(err, rc, "KVM refuses the power-on state of CPU %u: %s", index,
				  strerror(-rc));
	}
	if (rc) {
		kvm_vcpu_destroy(&v->vcpu);
		return rc;
	}
	k->vcpu[index] = v;
	*vcpu = &v->vcpu;
	return 0;
}

void kvm_vcpu_destroy(struct vcpu *vcpu)
{
	struct kvm_vcpu *v;

	if (!vcpu)
		return;
	v = kvm_vcpu_of(vcpu);
	kvm_engine_of(vcpu->engine)->vcpu[vcpu->index] = NULL;
	if (v->run)
		munmap(v->run, v->run_bytes);
	if (v->fd >= 0)
		close(v->fd);
	free(v->xsave);
	free(v->debug);
	vcpu_fini(vcpu);
	free(v);
}

_Bool kvm_vcpu_runnable(struct vcpu *vcpu)
{
	/* KVM halts and wakes its CPUs itself, inside of KVM_RUN. */
	(void)vcpu;
	return 1;
}

void kvm_vcpu_kick(struct vcpu *vcpu)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);

	/* The runner sets in_run before it looks at what a kick is about, so one that finds it
	 * clear has nothing to interrupt. One signal on its way is enough. */
	if (atomic_load(&v->in_run) && !atomic_exchange(&v->kick_sent, 1))
		pthread_kill(v->runner, KVM_KICK_SIGNAL);
}

/*
 * MSRs that belong to doors leave the kernel. The filter is set when the first CPU runs: by then
 * every device has added its doors. MSRs that KVM does not know come out as well.
 */
static int engine_seal(struct kvm_engine *k)
{
	static const uint8_t none[256]; /* a clear bit: the access leaves the kernel */
	const struct doors *d = k->engine.env->doors;
	struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
	unsigned n = 0;
	int rc = 0;

	lock_take(&k->lock);
	if (atomic_load(&k->sealed))
		goto out;
	for (unsigned i = 0; i < d->msr_count && n < KVM_MSR_FILTER_MAX_RANGES; i++) {
		uint32_t count = MIN(d->msr[i].last - d->msr[i].first + 1, 8u * sizeof(none));

		filter.ranges[n++] = (struct kvm_msr_filter_range){
		    .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
		    .nmsrs = count,
		    .base = d->msr[i].first,
		    .bitmap = (uint8_t *)(uintptr_t)none,
		};
	}
	if (n)
		rc = kvm_ioctl(k->vm_fd, KVM_X86_SET_MSR_FILTER, &filter);
	if (rc >= 0)
		atomic_store(&k->sealed, 1);
out:
	lock_drop(&k->lock);
	return rc < 0 ? rc : 0;
}

static int runner_prepare(struct kvm_engine *k, struct kvm_vcpu *v)
{
	int rc;

	if (!atomic_load_explicit(&k->sealed, memory_order_acquire)) {
		rc = engine_seal(k);
		if (rc) {
			snprintf(v->vcpu.failure, sizeof(v->vcpu.failure),
				 "KVM refuses the filter of MSRs: %s", strerror(-rc));
			return rc;
		}
	}
	if (LIKELY(v->mask_set && pthread_equal(v->runner, pthread_self())))
		return 0;
	v->runner = pthread_self();
	rc = kvm_signal_prepare(v->fd);
	v->mask_set = rc >= 0;
	return rc < 0 ? rc : 0;
}

/* Hands the board's answer back; KVM completes the instruction when it is entered next. */
static void exit_finish(struct kvm_vcpu *v)
{
	const struct vcpu_exit *e = &v->vcpu.exit;

	switch (e->kind) {
	case EXIT_MMIO:
		if (!e->mmio.write)
			memcpy(v->run->mmio.data, e->mmio.data, sizeof(v->run->mmio.data));
		break;
	case EXIT_MSR_READ:
	case EXIT_MSR_WRITE:
		v->run->msr.data = e->msr.value;
		v->run->msr.error = e->msr.fault;
		break;
	default: break;
	}
}

/*
 * The PIC's interrupt reaches the boot CPU's LINT0. KVM says when the CPU would take it: ExtINT
 * open in the local APIC, interrupts on, nothing else in delivery. What the PIC has handed out is
 * in service there, so it is kept until KVM has room for it, and only asked for when guest code is
 * about to run and take it.
 */
static void inject_extint(struct kvm_engine *k, struct kvm_vcpu *v)
{
	const struct engine_env *env = k->engine.env;

	v->run->request_interrupt_window = 0;
	if (v->vcpu.index != 0 || !env->pic_ack)
		return;
	if (v->run->ready_for_interrupt_injection) {
		if (v->pic_vector < 0 && atomic_load(&k->extint))
			v->pic_vector = env->pic_ack(env->opaque);
		if (v->pic_vector >= 0) {
			struct kvm_interrupt irq = {.irq = (uint32_t)v->pic_vector};

			if (kvm_ioctl(v->fd, KVM_INTERRUPT, &irq) != -EEXIST)
				v->pic_vector = -1;
			v->run->ready_for_interrupt_injection = 0;
		}
	}
	/* The PIC may have another one behind it. */
	if (v->pic_vector >= 0 || atomic_load(&k->extint))
		v->run->request_interrupt_window = 1;
}

static void inject(struct kvm_engine *k, struct kvm_vcpu *v, uint32_t events)
{
	if (events & CPU_EVENT_NMI) {
		cpu_link_clear(&v->vcpu.link, CPU_EVENT_NMI);
		(void)kvm_ioctl_value(v->fd, KVM_NMI, 0);
	}
	inject_extint(k, v);
}

static int fail(struct kvm_vcpu *v, const char *fmt, ...) PRINTF(2, 3);
static int fail(struct kvm_vcpu *v, const char *fmt, ...)
{
	struct kvm_regs regs = {0};
	size_t len;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v->vcpu.failure, sizeof(v->vcpu.failure), fmt, ap);
	va_end(ap);
	len = strlen(v->vcpu.failure);
	if (!kvm_ioctl(v->fd, KVM_GET_REGS, &regs))
		snprintf(v->vcpu.failure + len, sizeof(v->vcpu.failure) - len, " (RIP %llx)",
			 (unsigned long long)regs.rip);
	return -EIO;
}

static int fail_internal(struct kvm_vcpu *v)
{
	const struct kvm_run *run = v->run;
	char bytes[3 * 15 + 1] = "";
	unsigned n = 0;

	switch (run->internal.suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		if (run->internal.ndata >= 4 &&
		    run->emulation_failure.flags &
			KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
			n = MIN(run->emulation_failure.insn_size, (uint8_t)15);
		for (unsigned i = 0; i < n; i++)
			snprintf(bytes + 3 * i, 4, " %02x", run->emulation_failure.insn_bytes[i]);
		return fail(v, "KVM cannot emulate a guest instruction%s%s", n ? ":" : "", bytes);
	case KVM_INTERNAL_ERROR_SIMUL_EX:
		return fail(v, "KVM met an exception that it cannot deliver");
	case KVM_INTERNAL_ERROR_DELIVERY_EV:
		return fail(v, "KVM could not deliver an event: its handler or stack lies in a "
			       "device's memory");
	default: return fail(v, "KVM reports internal error %u", run->internal.suberror);
	}
}

static int exit_port(struct kvm_vcpu *v)
{
	struct kvm_run *run = v->run;

	v->vcpu.exit.kind = EXIT_PORT;
	v->vcpu.exit.port.port = run->io.port;
	v->vcpu.exit.port.size = run->io.size;
	v->vcpu.exit.port.write = run->io.direction == KVM_EXIT_IO_OUT;
	v->vcpu.exit.port.count = run->io.count;
	v->vcpu.exit.port.data = (uint8_t *)run + run->io.data_offset;
	return RUN_EXIT;
}

static int exit_mmio(struct kvm_vcpu *v)
{
	struct kvm_run *run = v->run;

	v->vcpu.exit.kind = EXIT_MMIO;
	v->vcpu.exit.mmio.addr = run->mmio.phys_addr;
	v->vcpu.exit.mmio.size = (uint8_t)MIN(run->mmio.len, 8u);
	v->vcpu.exit.mmio.write = run->mmio.is_write;
	memcpy(v->vcpu.exit.mmio.data, run->mmio.data, 8);
	return RUN_EXIT;
}

static int exit_msr(struct kvm_vcpu *v, enum exit_kind kind)
{
	v->vcpu.exit.kind = kind;
	v->vcpu.exit.msr.index = v->run->msr.index;
	v->vcpu.exit.msr.value = v->run->msr.data;
	return RUN_EXIT;
}

static int exit_decode(struct kvm_vcpu *v)
{
	struct kvm_run *run = v->run;
	uint32_t reason = run->exit_reason;

	atomic_fetch_add_explicit(&v->reasons[MIN(reason, KVM_EXIT_REASONS - 1u)], 1,
				  memory_order_relaxed);
	switch (reason) {
	case KVM_EXIT_IO: return exit_port(v);
	case KVM_EXIT_MMIO: return exit_mmio(v);
	case KVM_EXIT_X86_RDMSR: return exit_msr(v, EXIT_MSR_READ);
	case KVM_EXIT_X86_WRMSR: return exit_msr(v, EXIT_MSR_WRITE);
	case KVM_EXIT_IOAPIC_EOI:
		v->vcpu.exit.kind = EXIT_EOI;
		v->vcpu.exit.eoi.vector = run->eoi.vector;
		return RUN_EXIT;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR: return RUN_KICKED;
	case KVM_EXIT_DEBUG: return kvm_debug_exit(v);
	case KVM_EXIT_SHUTDOWN: v->shutdown = 1; return RUN_SHUTDOWN;
	case KVM_EXIT_FAIL_ENTRY:
		return fail(v, "the CPU refuses to enter the guest, reason 0x%llx",
			    (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
	case KVM_EXIT_INTERNAL_ERROR: return fail_internal(v);
	case KVM_EXIT_UNKNOWN:
		return fail(v, "KVM does not know the hardware's exit 0x%llx",
			    (unsigned long long)run->hw.hardware_exit_reason);
	default: return fail(v, "KVM stopped for a reason unknown to this program: %u", reason);
	}
}

/* A KVM_RUN that came back with an error. */
static int run_error(struct kvm_vcpu *v, int code)
{
	if (code == EINTR) {
		kvm_signal_drain();
		atomic_store(&v->kick_sent, 0);
		return RUN_KICKED;
	}
	if (code == EAGAIN) /* a CPU that waits for SIPI was looked at */
		return RUN_KICKED;
	if (code == EFAULT)
		return fail(v, "KVM cannot reach guest memory; the host may be out of memory");
	return fail(v, "KVM_RUN failed: %s", strerror(code));
}

int kvm_vcpu_run(struct vcpu *vcpu)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	struct kvm_engine *k = kvm_engine_of(vcpu->engine);
	uint32_t events;
	int rc = runner_prepare(k, v);

	if (UNLIKELY(rc))
		return rc;
	if (UNLIKELY(v->shutdown))
		return RUN_SHUTDOWN;
	if (UNLIKELY(v->tsc.check))
		kvm_tsc_resume(v);
	atomic_store(&v->in_run, 1);
	events = atomic_load(&vcpu->link.events);
	if (UNLIKELY(events & CPU_EVENT_KICK) && !v->finish) {
		atomic_store(&v->in_run, 0);
		v->tsc.check = 1;
		return RUN_KICKED;
	}
	/* A request is waiting, but the instruction that the board answered is half done: with
	 * immediate_exit KVM completes it and comes back. */
	v->run->immediate_exit = !!(events & CPU_EVENT_KICK);
	if (v->finish)
		exit_finish(v);
	v->finish = 0;
	if (!v->run->immediate_exit)
		inject(k, v, events);
	rc = ioctl(v->fd, KVM_RUN, 0) < 0 ? errno : 0;
	atomic_store_explicit(&v->in_run, 0, memory_order_relaxed);
	v->run->immediate_exit = 0;
	if (rc) {
		rc = run_error(v, rc);
		v->tsc.check = 1;
		return rc;
	}
	rc = exit_decode(v);
	v->finish = rc == RUN_EXIT;
	return rc;
}
