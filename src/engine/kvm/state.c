/* state.c: the whole state of a CPU between KVM's structures and struct x86_state. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "x86/regs.h"

static struct x86_seg seg_from(const struct kvm_segment *k)
{
	return (struct x86_seg){
	    .base = k->base,
	    .limit = k->limit,
	    .selector = k->selector,
	    .attr = (uint32_t)(k->type & 15) | (k->s ? X86_SEG_S : 0) |
		    (uint32_t)(k->dpl & 3) << 5 | (k->present ? X86_SEG_P : 0) |
		    (k->avl ? X86_SEG_AVL : 0) | (k->l ? X86_SEG_L : 0) | (k->db ? X86_SEG_DB : 0) |
		    (k->g ? X86_SEG_G : 0) | (k->unusable ? X86_SEG_UNUSABLE : 0),
	};
}

static struct kvm_segment seg_to(const struct x86_seg *s)
{
	return (struct kvm_segment){
	    .base = s->base,
	    .limit = s->limit,
	    .selector = s->selector,
	    .type = X86_SEG_TYPE(s->attr),
	    .s = !!(s->attr & X86_SEG_S),
	    .dpl = X86_SEG_DPL(s->attr),
	    .present = !!(s->attr & X86_SEG_P),
	    .avl = !!(s->attr & X86_SEG_AVL),
	    .l = !!(s->attr & X86_SEG_L),
	    .db = !!(s->attr & X86_SEG_DB),
	    .g = !!(s->attr & X86_SEG_G),
	    .unusable = !!(s->attr & X86_SEG_UNUSABLE),
	};
}

/* KVM's order of general registers against enum x86_gpr. */
static const uint16_t gpr_at[16] = {
    [X86_RAX] = offsetof(struct kvm_regs, rax), [X86_RCX] = offsetof(struct kvm_regs, rcx),
    [X86_RDX] = offsetof(struct kvm_regs, rdx), [X86_RBX] = offsetof(struct kvm_regs, rbx),
    [X86_RSP] = offsetof(struct kvm_regs, rsp), [X86_RBP] = offsetof(struct kvm_regs, rbp),
    [X86_RSI] = offsetof(struct kvm_regs, rsi), [X86_RDI] = offsetof(struct kvm_regs, rdi),
    [X86_R8] = offsetof(struct kvm_regs, r8),	[X86_R9] = offsetof(struct kvm_regs, r9),
    [X86_R10] = offsetof(struct kvm_regs, r10), [X86_R11] = offsetof(struct kvm_regs, r11),
    [X86_R12] = offsetof(struct kvm_regs, r12), [X86_R13] = offsetof(struct kvm_regs, r13),
    [X86_R14] = offsetof(struct kvm_regs, r14), [X86_R15] = offsetof(struct kvm_regs, r15),
};

static int regs_get(struct kvm_vcpu *v, struct x86_state *s)
{
	struct kvm_regs regs;
	int rc = kvm_ioctl(v->fd, KVM_GET_REGS, &regs);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < 16; i++)
		memcpy(&s->gpr[i], (const uint8_t *)&regs + gpr_at[i], 8);
	s->rip = regs.rip;
	s->rflags = regs.rflags;
	return 0;
}

static int regs_set(struct kvm_vcpu *v, const struct x86_state *s)
{
	struct kvm_regs regs = {.rip = s->rip, .rflags = s->rflags};

	for (unsigned i = 0; i < 16; i++)
		memcpy((uint8_t *)&regs + gpr_at[i], &s->gpr[i], 8);
	return kvm_ioctl(v->fd, KVM_SET_REGS, &regs);
}

static int sregs_get(struct kvm_vcpu *v, struct x86_state *s)
{
	struct kvm_sregs sr;
	int rc = kvm_ioctl(v->fd, KVM_GET_SREGS, &sr);

	if (rc < 0)
		return rc;
	s->seg[X86_ES] = seg_from(&sr.es);
	s->seg[X86_CS] = seg_from(&sr.cs);
	s->seg[X86_SS] = seg_from(&sr.ss);
	s->seg[X86_DS] = seg_from(&sr.ds);
	s->seg[X86_FS] = seg_from(&sr.fs);
	s->seg[X86_GS] = seg_from(&sr.gs);
	s->ldt = seg_from(&sr.ldt);
	s->tr = seg_from(&sr.tr);
	s->gdt = (struct x86_table){.base = sr.gdt.base, .limit = sr.gdt.limit};
	s->idt = (struct x86_table){.base = sr.idt.base, .limit = sr.idt.limit};
	s->cr0 = sr.cr0;
	s->cr2 = sr.cr2;
	s->cr3 = sr.cr3;
	s->cr4 = sr.cr4;
	s->efer = sr.efer;
	return 0;
}

/* APIC base and CR8 belong to the local APIC and stay; see kvm_apic_set. */
static int sregs_set(struct kvm_vcpu *v, const struct x86_state *s)
{
	struct kvm_sregs sr;
	int rc = kvm_ioctl(v->fd, KVM_GET_SREGS, &sr);

	if (rc < 0)
		return rc;
	sr.es = seg_to(&s->seg[X86_ES]);
	sr.cs = seg_to(&s->seg[X86_CS]);
	sr.ss = seg_to(&s->seg[X86_SS]);
	sr.ds = seg_to(&s->seg[X86_DS]);
	sr.fs = seg_to(&s->seg[X86_FS]);
	sr.gs = seg_to(&s->seg[X86_GS]);
	sr.ldt = seg_to(&s->ldt);
	sr.tr = seg_to(&s->tr);
	sr.gdt = (struct kvm_dtable){.base = s->gdt.base, .limit = s->gdt.limit};
	sr.idt = (struct kvm_dtable){.base = s->idt.base, .limit = s->idt.limit};
	sr.cr0 = s->cr0;
	sr.cr2 = s->cr2;
	sr.cr3 = s->cr3;
	sr.cr4 = s->cr4;
	sr.efer = s->efer;
	/* What is in delivery comes through events_set. */
	memset(sr.interrupt_bitmap, 0, sizeof(sr.interrupt_bitmap));
	return kvm_ioctl(v->fd, KVM_SET_SREGS, &sr);
}

/* After a triple fault KVM for AMD (6.1) clears what it tells the CPU, and with paging off forgets
 * to name the nested page tables again. A change of CR0 makes it. */
static int paging_again(struct kvm_vcpu *v)
{
	struct kvm_sregs sr;
	int rc = kvm_ioctl(v->fd, KVM_GET_SREGS, &sr);

	if (rc < 0)
		return rc;
	sr.cr0 ^= X86_CR0_WP;
	memset(sr.interrupt_bitmap, 0, sizeof(sr.interrupt_bitmap));
	return kvm_ioctl(v->fd, KVM_SET_SREGS, &sr);
}

static int fpu_get(struct kvm_vcpu *v, struct x86_state *s)
{
	_Bool big = v->xsave_bytes > sizeof(struct kvm_xsave);
	struct kvm_xcrs xcrs = {0};
	int rc = kvm_ioctl(v->fd, big ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, v->xsave);

	if (rc < 0)
		return rc;
	kvm_xsave_load(v, s);
	s->xcr0 = X86_XCR0_X87;
	rc = kvm_ioctl(v->fd, KVM_GET_XCRS, &xcrs);
	for (unsigned i = 0; rc >= 0 && i < MIN(xcrs.nr_xcrs, (uint32_t)KVM_MAX_XCRS); i++)
		if (xcrs.xcrs[i].xcr == 0)
			s->xcr0 = xcrs.xcrs[i].value;
	return 0; /* without XCR0 the host has no XSAVE and the guest none either */
}

static int fpu_set(struct kvm_vcpu *v, const struct x86_state *s)
{
	const struct kvm_engine *k = kvm_engine_of(v->vcpu.engine);
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0].value = s->xcr0};
	int rc;

	kvm_xsave_store(v, k->xfeatures, s);
	rc = kvm_ioctl(v->fd, KVM_SET_XSAVE, v->xsave);
	if (rc < 0)
		return rc;
	rc = kvm_ioctl(v->fd, KVM_SET_XCRS, &xcrs);
	return s->xcr0 == X86_XCR0_X87 ? 0 : rc;
}

static int debug_get(struct kvm_vcpu *v, struct x86_state *s)
{
	struct kvm_debugregs d;
	int rc = kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &d);

	if (rc < 0)
		return rc;
	memcpy(s->dr, d.db, sizeof(s->dr));
	s->dr6 = d.dr6;
	s->dr7 = d.dr7;
	return 0;
}

static int debug_set(struct kvm_vcpu *v, const struct x86_state *s)
{
	struct kvm_debugregs d = {.dr6 = s->dr6, .dr7 = s->dr7};

	memcpy(d.db, s->dr, sizeof(d.db));
	return kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &d);
}

static void event_put(struct x86_state *s, enum x86_event_kind kind, uint8_t vector)
{
	s->event_valid = 1;
	s->event_kind = kind;
	s->event_vector = vector;
}

static int events_get(struct kvm_vcpu *v, struct x86_state *s)
{
	struct kvm_vcpu_events e;
	int rc = kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e);

	if (rc < 0)
		return rc;
	s->event_valid = s->event_kind = s->event_vector = s->event_has_error = 0;
	s->event_error = 0;
	if (e.exception.injected) {
		event_put(s, X86_EVENT_EXCEPTION, e.exception.nr);
		s->event_has_error = !!e.exception.has_error_code;
		s->event_error = e.exception.has_error_code ? e.exception.error_code : 0;
	} else if (e.interrupt.injected) {
		event_put(s, e.interrupt.soft ? X86_EVENT_SOFT : X86_EVENT_INTR, e.interrupt.nr);
	} else if (e.nmi.injected) {
		event_put(s, X86_EVENT_NMI, X86_VEC_NMI);
	}
	/* AMD's CPUs do not tell which of the two it is and KVM says both; it is nearly always STI.
	 */
	s->shadow_sti = !!(e.interrupt.shadow & KVM_X86_SHADOW_INT_STI);
	s->shadow_ss = !s->shadow_sti && e.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
	s->nmi_masked = !!e.nmi.masked;
	s->in_smm = 0;
	if (!e.nmi.pending)
		return 0;
	/* An NMI that waits belongs to the CPU's link, from where it comes back. */
	e.nmi.pending = 0;
	e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
	rc = kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e);
	if (rc >= 0)
		atomic_fetch_or(&v->vcpu.link.events, CPU_EVENT_NMI);
	return rc;
}

static int events_set(struct kvm_vcpu *v, const struct x86_state *s)
{
	struct kvm_vcpu_events e = {.flags = KVM_VCPUEVENT_VALID_NMI_PENDING |
					     KVM_VCPUEVENT_VALID_SHADOW};

	if (s->event_valid) {
		switch (s->event_kind) {
		case X86_EVENT_EXCEPTION:
			e.exception.injected = 1;
			e.exception.nr = s->event_vector;
			e.exception.has_error_code = s->event_has_error;
			e.exception.error_code = s->event_error;
			break;
		case X86_EVENT_NMI: e.nmi.injected = 1; break;
		default:
			e.interrupt.injected = 1;
			e.interrupt.soft = s->event_kind == X86_EVENT_SOFT;
			e.interrupt.nr = s->event_vector;
			break;
		}
	}
	e.interrupt.shadow = (s->shadow_sti ? KVM_X86_SHADOW_INT_STI : 0) |
			     (s->shadow_ss ? KVM_X86_SHADOW_INT_MOV_SS : 0);
	e.nmi.masked = s->nmi_masked;
	return kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e);
}

static int activity_get(struct kvm_vcpu *v, struct x86_state *s)
{
	struct kvm_mp_state mp;
	int rc = kvm_ioctl(v->fd, KVM_GET_MP_STATE, &mp);

	if (rc < 0)
		return rc;
	switch (mp.mp_state) {
	case KVM_MP_STATE_RUNNABLE: s->activity = X86_RUNNING; break;
	case KVM_MP_STATE_HALTED: s->activity = X86_HALTED; break;
	default: s->activity = X86_WAIT_SIPI; break;
	}
	if (v->shutdown)
		s->activity = X86_SHUTDOWN;
	return 0;
}

static int activity_set(struct kvm_vcpu *v, const struct x86_state *s)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};

	if (s->activity == X86_HALTED)
		mp.mp_state = KVM_MP_STATE_HALTED;
	else if (s->activity == X86_WAIT_SIPI)
		mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	v->shutdown = s->activity == X86_SHUTDOWN;
	return kvm_ioctl(v->fd, KVM_SET_MP_STATE, &mp);
}

/* Model-specific registers that are kept, with how many follow one another in both places. */
struct msr_field {
	uint32_t msr;
	uint16_t offset, count, stride;
};
#define FIELD(msr_, f)                                                                             \
	{                                                                                          \
		msr_, offsetof(struct x86_state, f), 1, 1                                          \
	}
#define ARRAY(msr_, f, count_, step)                                                               \
	{                                                                                          \
		msr_, offsetof(struct x86_state, f), count_, step                                  \
	}
static const struct msr_field msr_fields[] = {
    FIELD(MSR_STAR, star),
    FIELD(MSR_LSTAR, lstar),
    FIELD(MSR_CSTAR, cstar),
    FIELD(MSR_SFMASK, sfmask),
    FIELD(MSR_KERNEL_GS_BASE, kernel_gs_base),
    FIELD(MSR_SYSENTER_CS, sysenter_cs),
    FIELD(MSR_SYSENTER_ESP, sysenter_esp),
    FIELD(MSR_SYSENTER_EIP, sysenter_eip),
    FIELD(MSR_PAT, pat),
    FIELD(MSR_TSC_AUX, tsc_aux),
    FIELD(MSR_MISC_ENABLE, misc_enable),
    FIELD(MSR_SPEC_CTRL, spec_ctrl),
    FIELD(MSR_TSC_ADJUST, tsc_adjust),
    FIELD(MSR_DEBUGCTL, debugctl),
    FIELD(0x34, smi_count),
    FIELD(MSR_XSS, xss),
    ARRAY(MSR_MTRR_PHYSBASE0, mtrr_base, X86_MTRR_VAR, 2),
    ARRAY(MSR_MTRR_PHYSBASE0 + 1, mtrr_mask, X86_MTRR_VAR, 2),
    FIELD(MSR_MTRR_FIX64K, mtrr_fixed[0]),
    FIELD(MSR_MTRR_FIX16K_8, mtrr_fixed[1]),
    FIELD(MSR_MTRR_FIX16K_A, mtrr_fixed[2]),
    ARRAY(MSR_MTRR_FIX4K_C0, mtrr_fixed[3], 8, 1),
    FIELD(MSR_MTRR_DEF, mtrr_def),
    FIELD(MSR_MCG_STATUS, mcg_status),
    FIELD(MSR_MCG_CTL, mcg_ctl),
    ARRAY(MSR_MC0_CTL, mc_bank, 16, 1),
};

static uint64_t *msr_slot(const struct x86_state *s, uint32_t msr)
{
	for (unsigned i = 0; i < ARRAY_SIZE(msr_fields); i++) {
		const struct msr_field *f = &msr_fields[i];
		uint32_t n = msr - f->msr;

		if (msr >= f->msr && n % f->stride == 0 && n / f->stride < f->count)
			return (uint64_t *)((uintptr_t)s + f->offset) + n / f->stride;
	}
	return NULL;
}

/* struct kvm_msrs with room behind its head. */
union msr_list {
	struct kvm_msrs msrs;
	struct {
		uint32_t nmsrs, pad;
		struct kvm_msr_entry entry[KVM_MSRS_MAX];
	} flat;
};
_Static_assert(offsetof(union msr_list, flat.entry) == offsetof(struct kvm_msrs, entries),
	       "the head is two words");

int kvm_msr_get(struct kvm_vcpu *v, uint32_t msr, uint64_t *value)
{
	union msr_list l = {.flat = {.nmsrs = 1, .entry[0].index = msr}};
	int rc = kvm_ioctl(v->fd, KVM_GET_MSRS, &l);

	if (rc < 1)
		return rc < 0 ? rc : -EINVAL;
	*value = l.flat.entry[0].data;
	return 0;
}

int kvm_msr_set(struct kvm_vcpu *v, uint32_t msr, uint64_t value)
{
	union msr_list l = {.flat = {.nmsrs = 1, .entry[0] = {.index = msr, .data = value}}};
	int rc = kvm_ioctl(v->fd, KVM_SET_MSRS, &l);

	return rc < 1 ? (rc < 0 ? rc : -EINVAL) : 0;
}

/* KVM's own list (KVM_GET_MSR_INDEX_LIST) leaves out MTRRs and machine checks, so each is tried. */
void kvm_msrs_find(struct kvm_engine *k, struct kvm_vcpu *v)
{
	for (unsigned i = 0; i < ARRAY_SIZE(msr_fields); i++) {
		const struct msr_field *f = &msr_fields[i];

		for (uint32_t n = 0; n < f->count && k->msr_count < KVM_MSRS_MAX; n++) {
			uint32_t msr = f->msr + n * f->stride;
			uint64_t value;

			if (!kvm_msr_get(v, msr, &value))
				k->msrs[k->msr_count++] = msr;
		}
	}
}

static int msrs_get(struct kvm_vcpu *v, struct x86_state *s)
{
	const struct kvm_engine *k = kvm_engine_of(v->vcpu.engine);
	union msr_list l = {.flat.nmsrs = k->msr_count};
	int rc;

	for (unsigned i = 0; i < k->msr_count; i++)
		l.flat.entry[i].index = k->msrs[i];
	rc = k->msr_count ? kvm_ioctl(v->fd, KVM_GET_MSRS, &l) : 0;
	if (rc < (int)k->msr_count)
		return rc < 0 ? rc : -EIO;
	for (unsigned i = 0; i < k->msr_count; i++)
		*msr_slot(s, k->msrs[i]) = l.flat.entry[i].data;
	return 0;
}

/*
 * Only what differs is written: KVM complains in the host's log of registers that it has in name
 * only, even when they are given the value that they have. One that it refuses keeps KVM's value,
 * which is worth a word.
 */
static int msrs_set(struct kvm_vcpu *v, const struct x86_state *s)
{
	const struct kvm_engine *k = kvm_engine_of(v->vcpu.engine);
	struct x86_state *has = calloc(1, sizeof(*has));
	int rc = has ? msrs_get(v, has) : -ENOMEM;

	for (unsigned i = 0; !rc && i < k->msr_count; i++) {
		uint64_t want = *msr_slot(s, k->msrs[i]), old = *msr_slot(has, k->msrs[i]);

		if (want != old && kvm_msr_set(v, k->msrs[i], want))
			log_debug("KVM refuses %llx for MSR %x of CPU %u and keeps %llx",
				  (unsigned long long)want, k->msrs[i], v->vcpu.index,
				  (unsigned long long)old);
	}
	free(has);
	return rc;
}

int kvm_get_state(struct vcpu *vcpu, struct x86_state *out)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	int rc;

	memset(out, 0, sizeof(*out));
	/* First the activity: asking makes KVM take a pending INIT or SIPI. */
	rc = activity_get(v, out);
	if (!rc)
		rc = regs_get(v, out);
	if (!rc)
		rc = sregs_get(v, out);
	if (!rc)
		rc = fpu_get(v, out);
	if (!rc)
		rc = debug_get(v, out);
	if (!rc)
		rc = msrs_get(v, out);
	if (!rc)
		rc = kvm_tsc_get(v, &out->tsc);
	if (!rc)
		rc = events_get(v, out);
	return rc < 0 ? rc : 0;
}

int kvm_set_state(struct vcpu *vcpu, const struct x86_state *in)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	int rc = v->shutdown ? paging_again(v) : 0;

	if (rc >= 0)
		rc = sregs_set(v, in);
	if (rc >= 0)
		rc = regs_set(v, in);
	if (rc >= 0)
		rc = fpu_set(v, in);
	if (rc >= 0)
		rc = debug_set(v, in);
	if (rc >= 0)
		rc = msrs_set(v, in);
	if (rc >= 0)
		rc = kvm_tsc_set(v, in->tsc);
	if (rc >= 0)
		rc = activity_set(v, in);
	if (rc >= 0)
		rc = events_set(v, in);
	v->finish = 0;
	v->run->ready_for_interrupt_injection = 0;
	return rc < 0 ? rc : 0;
}

int kvm_apic_get(struct vcpu *vcpu, uint8_t page[1024], uint64_t *apic_base, uint64_t *tsc_deadline)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	struct kvm_lapic_state lapic;
	struct kvm_sregs sr;
	int rc = kvm_ioctl(v->fd, KVM_GET_LAPIC, &lapic);

	if (rc >= 0)
		rc = kvm_ioctl(v->fd, KVM_GET_SREGS, &sr);
	if (rc < 0)
		return rc;
	if (kvm_msr_get(v, MSR_TSC_DEADLINE, tsc_deadline))
		*tsc_deadline = 0;
	memcpy(page, lapic.regs, sizeof(lapic.regs));
	*apic_base = sr.apic_base;
	return 0;
}

int kvm_apic_set(struct vcpu *vcpu, const uint8_t page[1024], uint64_t apic_base,
		 uint64_t tsc_deadline)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	struct kvm_lapic_state lapic;
	struct kvm_sregs sr;
	int rc = kvm_ioctl(v->fd, KVM_GET_SREGS, &sr);

	if (rc < 0)
		return rc;
	sr.apic_base = apic_base;
	sr.cr8 = (uint8_t)page[0x80] >> 4; /* the task priority: one register, two names */
	memset(sr.interrupt_bitmap, 0, sizeof(sr.interrupt_bitmap));
	rc = kvm_ioctl(v->fd, KVM_SET_SREGS, &sr);
	if (rc < 0)
		return rc;
	memcpy(lapic.regs, page, sizeof(lapic.regs));
	rc = kvm_ioctl(v->fd, KVM_SET_LAPIC, &lapic);
	if (rc < 0)
		return rc;
	/* Last: it is only kept in TSC-deadline mode, which the page has set. */
	(void)kvm_msr_set(v, MSR_TSC_DEADLINE, tsc_deadline);
	return 0;
}
