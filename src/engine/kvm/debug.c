/* debug.c: a debugger's breakpoints and steps under KVM, by KVM_SET_GUEST_DEBUG. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "x86/regs.h"

/*
 * While a debugger has breakpoints, KVM puts its own addresses into the debug registers in place of
 * the guest's and hands every #DB over; so a guest that debugs itself at the same time misses its
 * breakpoints. INT3s are the caller's: #BP comes out as well, and one that is the guest's own goes
 * back in.
 */
struct kvm_debug {
	struct engine_debug wish;
	uint8_t slot[4]; /* which of wish.at is in a debug register */
	unsigned slots;
};

static uint64_t dr7_of(const struct engine_break *b, unsigned slot)
{
	unsigned rw = b->kind == ENGINE_BREAK_EXEC ? 0 : b->kind == ENGINE_BREAK_WRITE ? 1 : 3;
	unsigned len = rw == 0 || b->len == 1 ? 0 : b->len == 2 ? 1 : b->len == 8 ? 2 : 3;

	return BIT64(1 + 2 * slot) | (uint64_t)(rw | len << 2) << (16 + 4 * slot);
}

/* Interrupts wait for the end of a step where KVM can do that. */
static uint32_t step_flags(const struct kvm_engine *k)
{
	int known = kvm_cap(k->vm_fd, KVM_CAP_SET_GUEST_DEBUG2);

	return KVM_GUESTDBG_SINGLESTEP | (known > 0 ? (uint32_t)known & KVM_GUESTDBG_BLOCKIRQ : 0u);
}

int kvm_debug_set(struct vcpu *vcpu, const struct engine_debug *wish)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	struct kvm_guest_debug arch = {0};
	struct kvm_debug *d = NULL;
	int rc;

	if (wish) {
		d = calloc(1, sizeof(*d));
		if (!d)
			return -ENOMEM;
		d->wish = *wish;
		arch.control = KVM_GUESTDBG_ENABLE;
		arch.arch.debugreg[7] = X86_DR7_FIXED;
	}
	for (unsigned i = 0; wish && i < wish->count; i++) {
		const struct engine_break *b = &wish->at[i];

		if (b->kind == ENGINE_BREAK_INT3) {
			arch.control |= KVM_GUESTDBG_USE_SW_BP;
			continue;
		}
		if (b->kind == ENGINE_BREAK_READ || d->slots == KVM_BREAK_MAX) {
			free(d); /* SDM3 17.2.4: writes, or reads and writes */
			return b->kind == ENGINE_BREAK_READ ? -EOPNOTSUPP : -ENOSPC;
		}
		arch.control |= KVM_GUESTDBG_USE_HW_BP;
		arch.arch.debugreg[d->slots] = b->addr;
		arch.arch.debugreg[7] |= dr7_of(b, d->slots);
		d->slot[d->slots++] = (uint8_t)i;
	}
	if (wish && wish->step)
		arch.control |= step_flags(kvm_engine_of(vcpu->engine));
	rc = kvm_ioctl(v->fd, KVM_SET_GUEST_DEBUG, &arch);
	if (rc < 0) {
		free(d);
		return rc;
	}
	free(v->debug);
	v->debug = d;
	return 0;
}

static int stopped(struct kvm_vcpu *v, enum engine_stop why, const struct engine_break *at)
{
	v->vcpu.stop.why = why;
	if (at)
		v->vcpu.stop.at = *at;
	return RUN_DEBUG;
}

/* Gives the guest an exception that was its own. */
static int reinject(struct kvm_vcpu *v, unsigned vector)
{
	struct kvm_vcpu_events e;
	int rc = kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e);

	if (rc < 0)
		return rc;
	e.exception.injected = 1;
	e.exception.nr = (uint8_t)vector;
	e.exception.has_error_code = 0;
	rc = kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e);
	return rc < 0 ? rc : RUN_KICKED;
}

int kvm_debug_exit(struct kvm_vcpu *v)
{
	const struct kvm_debug_exit_arch *exit = &v->run->debug.arch;
	const struct kvm_debug *d = v->debug;

	if (!d)
		return reinject(v, exit->exception);
	if (exit->exception == X86_VEC_BP) {
		for (unsigned i = 0; i < d->wish.count; i++) {
			const struct engine_break *b = &d->wish.at[i];

			if (b->kind == ENGINE_BREAK_INT3 && b->addr == exit->pc)
				return stopped(v, ENGINE_STOP_BREAK, b);
		}
		return reinject(v, X86_VEC_BP);
	}
	for (unsigned i = 0; i < d->slots; i++) {
		const struct engine_break *b = &d->wish.at[d->slot[i]];

		if (exit->dr6 & BIT64(i))
			return stopped(
			    v, b->kind == ENGINE_BREAK_EXEC ? ENGINE_STOP_BREAK : ENGINE_STOP_WATCH,
			    b);
	}
	return d->wish.step ? stopped(v, ENGINE_STOP_STEP, NULL) : reinject(v, X86_VEC_DB);
}
