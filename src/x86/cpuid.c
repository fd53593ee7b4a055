/* cpuid.c: the present answer to CPUID: a VM's fixed policy plus what follows a CPU's state. */
#include "x86/cpuid.h"

#include <string.h>
#include "x86/regs.h"

static const struct cpuid_leaf *leaf_find(const struct cpuid_policy *p, uint32_t leaf,
					  uint32_t subleaf)
{
	for (unsigned i = 0; i < p->count; i++)
		if (p->leaf[i].leaf == leaf &&
		    (!p->leaf[i].indexed || p->leaf[i].subleaf == subleaf))
			return &p->leaf[i];
	return NULL;
}

_Bool cpuid_has(const struct cpuid_policy *p, uint32_t leaf, uint32_t subleaf, enum cpuid_reg reg,
		unsigned bit)
{
	const struct cpuid_leaf *l = leaf_find(p, leaf, subleaf);
	uint32_t v;

	if (!l)
		return 0;
	switch (reg) {
	case CPUID_EAX: v = l->eax; break;
	case CPUID_EBX: v = l->ebx; break;
	case CPUID_ECX: v = l->ecx; break;
	default: v = l->edx; break;
	}
	return v >> bit & 1;
}

static _Bool hypervisor_leaf(const struct cpuid_policy *p, uint32_t leaf)
{
	return p->signature[0] && leaf >= 0x40000000 && leaf < 0x40010000;
}

/* Bytes of an XSAVE area that holds the components of `mask` (SDM1 13.4). */
static uint32_t xsave_bytes(const struct cpuid_policy *p, uint64_t mask, _Bool compacted)
{
	uint32_t end = 512 + 64;

	for (unsigned i = 2; i < 63; i++) {
		const struct cpuid_leaf *l = mask >> i & 1 ? leaf_find(p, 0xd, i) : NULL;

		if (!l)
			continue;
		if (!compacted)
			end = MAX(end, l->ebx + l->eax);
		else
			end = (l->ecx & 2 ? ALIGN_UP(end, 64u) : end) + l->eax;
	}
	return end;
}

static void fill_leaf1(const struct x86_state *s, unsigned cpu, _Bool apic, struct cpuid_regs *out)
{
	out->ebx = (out->ebx & 0x00ffffff) | (uint32_t)cpu << 24;
	if (s->cr4 & X86_CR4_OSXSAVE)
		out->ecx |= BIT32(27);
	if (!apic)
		out->edx &= ~BIT32(9);
}

/* Topology by shifts: the same answer for 0xB and 0x1F (SDM2 CPUID). */
static void fill_topology(unsigned cpu, uint32_t subleaf, struct cpuid_regs *out)
{
	out->ecx = (out->ecx & ~0xffu) | (subleaf & 0xff);
	out->edx = cpu;
}

static void fill_dynamic(const struct cpuid_policy *p, const struct x86_state *s, unsigned cpu,
			 _Bool apic, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
	switch (leaf) {
	case 1: fill_leaf1(s, cpu, apic, out); break;
	case 7:
		if (subleaf == 0 && s->cr4 & X86_CR4_PKE)
			out->ecx |= BIT32(4);
		break;
	case 0xb:
	case 0x1f: fill_topology(cpu, subleaf, out); break;
	case 0xd:
		if (subleaf == 0)
			out->ebx = xsave_bytes(p, s->xcr0, 0);
		else if (subleaf == 1 && out->eax & (BIT32(1) | BIT32(3)))
			out->ebx = xsave_bytes(p, s->xcr0 | s->xss, 1);
		break;
	case 0x80000001:
		if (!apic)
			out->edx &= ~BIT32(9);
		/* Intel shows SYSCALL to 64-bit code only. */
		if (!p->amd && !(s->efer & X86_EFER_LMA && s->seg[X86_CS].attr & X86_SEG_L))
			out->edx &= ~BIT32(11);
		break;
	case 0x8000001e:
		out->eax = cpu;
		out->ebx = (out->ebx & ~0xffu) | (cpu & 0xff);
		break;
	default: break;
	}
}

void cpuid_query(const struct cpuid_policy *p, const struct x86_state *s, unsigned cpu,
		 _Bool apic_enabled, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
	const struct cpuid_leaf *l;

	memset(out, 0, sizeof(*out));
	if (leaf & 0x80000000 ? leaf > p->max_extended
			      : leaf > p->max_basic && !hypervisor_leaf(p, leaf)) {
		if (p->amd)
			return;
		leaf = p->max_basic;
	}
	l = leaf_find(p, leaf, subleaf);
	if (l)
		*out = (struct cpuid_regs){l->eax, l->ebx, l->ecx, l->edx};
	else if (leaf != 0xb && leaf != 0x1f)
		return;
	if ((leaf == 0xb || leaf == 0x1f) && !leaf_find(p, leaf, 0))
		return;
	fill_dynamic(p, s, cpu, apic_enabled, leaf, subleaf, out);
}
