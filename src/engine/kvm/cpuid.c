/* cpuid.c: CPUID under KVM: what KVM supports, and a VM's policy held to it. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "x86/regs.h"

#define KVM_CPUID_MAX 256

struct kvm_cpuid2 *kvm_cpuid_supported(int sys_fd)
{
	struct kvm_cpuid2 *c =
	    calloc(1, sizeof(*c) + KVM_CPUID_MAX * sizeof(struct kvm_cpuid_entry2));

	if (!c)
		return NULL;
	c->nent = KVM_CPUID_MAX;
	if (kvm_ioctl(sys_fd, KVM_GET_SUPPORTED_CPUID, c) < 0)
		c->nent = 0;
	return c;
}

const struct kvm_cpuid_entry2 *kvm_cpuid_find(const struct kvm_cpuid2 *c, uint32_t leaf,
					      uint32_t subleaf)
{
	for (unsigned i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function == leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
			return e;
	}
	return NULL;
}

/* One of cpuid_caps: a bit of KVM's CPUID. */
struct cap_bit {
	uint16_t offset;
	uint8_t bit;
	enum cpuid_reg reg;
	uint32_t leaf;
};
#define CAP(field, leaf_, reg_, bit_)                                                              \
	{                                                                                          \
		offsetof(struct cpuid_caps, field), bit_, CPUID_##reg_, leaf_                      \
	}
static const struct cap_bit cap_bits[] = {
    CAP(monitor, 1, ECX, 3),
    CAP(fma, 1, ECX, 12),
    CAP(pcid, 1, ECX, 17),
    CAP(x2apic, 1, ECX, 21),
    CAP(aes, 1, ECX, 25),
    CAP(avx, 1, ECX, 28),
    CAP(rdrand, 1, ECX, 30),
    CAP(vme, 1, EDX, 1),
    CAP(mce, 1, EDX, 7),
    CAP(mtrr, 1, EDX, 12),
    CAP(fsgsbase, 7, EBX, 0),
    CAP(bmi, 7, EBX, 8),
    CAP(avx2, 7, EBX, 5),
    CAP(smep, 7, EBX, 7),
    CAP(invpcid, 7, EBX, 10),
    CAP(avx512, 7, EBX, 16),
    CAP(vp2intersect, 7, EDX, 8),
    CAP(rdseed, 7, EBX, 18),
    CAP(adx, 7, EBX, 19),
    CAP(smap, 7, EBX, 20),
    CAP(sha, 7, EBX, 29),
    CAP(umip, 7, ECX, 2),
    CAP(pku, 7, ECX, 3),
    CAP(la57, 7, ECX, 16),
    CAP(arch_capabilities, 7, EDX, 29),
};

static uint32_t entry_reg(const struct kvm_cpuid_entry2 *e, enum cpuid_reg reg)
{
	switch (reg) {
	case CPUID_EAX: return e->eax;
	case CPUID_EBX: return e->ebx;
	case CPUID_ECX: return e->ecx;
	default: return e->edx;
	}
}

void kvm_caps(struct cpuid_caps *caps)
{
	int fd = kvm_open(NULL);
	struct kvm_cpuid2 *c;

	memset(caps, 0, sizeof(*caps));
	if (fd < 0)
		return;
	c = kvm_cpuid_supported(fd);
	if (c) {
		for (unsigned i = 0; i < ARRAY_SIZE(cap_bits); i++) {
			const struct cap_bit *b = &cap_bits[i];
			const struct kvm_cpuid_entry2 *e = kvm_cpuid_find(c, b->leaf, 0);

			*((_Bool *)caps + b->offset) = e && entry_reg(e, b->reg) >> b->bit & 1;
		}
		/* KVM wants to be asked for this one apart. A guest that uses MONITOR would wait
		 * for another CPU on a host that KVM does not let it wait on. */
		caps->tsc_deadline = kvm_cap(fd, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
		caps->monitor = 0;
		/* Five levels of tables are not in the state that other engines take. */
		caps->la57 = 0;
		free(c);
	}
	close(fd);
}

/* Leaves whose registers are sets of features: a bit is there when policy and KVM have it. */
static void entry_narrow(const struct kvm_cpuid2 *supported, struct kvm_cpuid_entry2 *e)
{
	const struct kvm_cpuid_entry2 none = {0};
	const struct kvm_cpuid_entry2 *s = kvm_cpuid_find(supported, e->function, e->index);
	/* Answered by KVM's local APIC or by the VM's topology, not listed by every KVM: APIC,
	 * TSC deadline, x2APIC, HTT, hypervisor present. */
	const uint32_t ecx1 = BIT32(21) | BIT32(24) | BIT32(31);
	const uint32_t edx1 = BIT32(9) | BIT32(28);

	if (!s)
		s = &none;
	switch (e->function) {
	case 1:
		e->ecx &= s->ecx | ecx1;
		e->edx &= s->edx | edx1;
		break;
	case 7:
		e->eax = e->index == 0 ? MIN(e->eax, s->eax) : e->eax & s->eax;
		e->ebx &= s->ebx;
		e->ecx &= s->ecx;
		e->edx &= s->edx;
		break;
	case 0xd:
		if (e->index <= 1)
			e->eax &= s->eax;
		break;
	case 0x40000001: e->eax &= s->eax; break;
	case 0x80000001:
		e->ecx &= s->ecx;
		e->edx &= s->edx | BIT32(9);
		break;
	case 0x80000007: e->edx &= s->edx | BIT32(8); break;
	case 0x80000008: e->ebx &= s->ebx; break;
	default: break;
	}
}

static void put(struct kvm_cpuid2 *c, const struct kvm_cpuid2 *supported,
		const struct kvm_cpuid_entry2 *e)
{
	if (c->nent < KVM_CPUID_MAX) {
		c->entries[c->nent] = *e;
		if (supported)
			entry_narrow(supported, &c->entries[c->nent]);
		c->nent++;
	}
}

/* Bits that follow the CPU's state are KVM's business from here on; what is left of cpuid_query's
 * work is the CPU's number. */
static void put_policy(struct kvm_cpuid2 *c, const struct kvm_engine *k, unsigned cpu)
{
	const struct cpuid_policy *p = k->engine.env->cpuid;
	struct x86_state *s = calloc(1, sizeof(*s));

	if (!s)
		return;
	s->efer = X86_EFER_LMA;
	s->seg[X86_CS].attr = X86_SEG_L;
	s->xcr0 = X86_XCR0_X87;
	for (unsigned i = 0; i < p->count; i++) {
		const struct cpuid_leaf *l = &p->leaf[i];
		struct cpuid_regs r;

		cpuid_query(p, s, cpu, 1, l->leaf, l->subleaf, &r);
		put(c, k->supported,
		    &(struct kvm_cpuid_entry2){
			.function = l->leaf,
			.index = l->subleaf,
			.flags = l->indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = r.eax,
			.ebx = r.ebx,
			.ecx = r.ecx,
			.edx = r.edx,
		    });
	}
	free(s);
}

/* Leaves of a personality, in its range of 256. */
static void put_doors(struct kvm_cpuid2 *c, const struct kvm_engine *k, unsigned cpu)
{
	const struct doors *d = k->engine.env->doors;
	uint32_t last = 0x40000000;

	for (uint32_t leaf = 0x40000000; d->cpuid && leaf <= last; leaf++) {
		struct cpuid_out r;

		if (!d->cpuid(d->cpuid_opaque, cpu, leaf, 0, &r))
			continue;
		if (leaf == 0x40000000)
			last = MIN(r.eax, 0x400000ffu);
		put(c, NULL,
		    &(struct kvm_cpuid_entry2){
			.function = leaf, .eax = r.eax, .ebx = r.ebx, .ecx = r.ecx, .edx = r.edx});
	}
}

/* XSAVE components that hang on a feature that KVM took away go with it. */
static void drop_xsave(struct kvm_cpuid2 *c)
{
	const struct kvm_cpuid_entry2 *one = kvm_cpuid_find(c, 1, 0);
	unsigned n = 0;

	if (!one || one->ecx & BIT32(26))
		return;
	for (unsigned i = 0; i < c->nent; i++) {
		struct kvm_cpuid_entry2 e = c->entries[i];

		if (e.function == 1)
			e.ecx &= ~(BIT32(12) | BIT32(28) | BIT32(29));
		if (e.function == 7 && e.index == 0)
			e.ebx &= ~(BIT32(5) | BIT32(16) | BIT32(17) | BIT32(21) | BIT32(28) |
				   BIT32(30) | BIT32(31));
		if (e.function != 0xd)
			c->entries[n++] = e;
	}
	c->nent = n;
}

int kvm_cpuid_set(struct kvm_engine *k, struct kvm_vcpu *v)
{
	struct kvm_cpuid2 *c =
	    calloc(1, sizeof(*c) + KVM_CPUID_MAX * sizeof(struct kvm_cpuid_entry2));
	int rc;

	if (!c)
		return -ENOMEM;
	put_doors(c, k, v->vcpu.index);
	put_policy(c, k, v->vcpu.index);
	drop_xsave(c);
	rc = kvm_ioctl(v->fd, KVM_SET_CPUID2, c);
	free(c);
	return rc;
}
