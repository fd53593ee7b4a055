/* cpuid.h: what CPUID tells a guest: the host's features that an engine can keep its word on. */
#ifndef X86_CPUID_H
#define X86_CPUID_H

#include "base/error.h"
#include "x86/state.h"

#define CPUID_MAX_LEAVES 96

struct cpuid_leaf {
	uint32_t leaf, subleaf;
	_Bool indexed; /* subleaf matters */
	uint32_t eax, ebx, ecx, edx;
};

/*
 * A VM's CPUID, fixed when it is created. Bits that follow a CPU's state (OSXSAVE, APIC enabled,
 * OSPKE, XSAVE sizes for the present XCR0, APIC id) are filled by cpuid_query.
 */
struct cpuid_policy {
	struct cpuid_leaf leaf[CPUID_MAX_LEAVES];
	unsigned count;
	uint32_t max_basic, max_extended;
	unsigned cpus;
	uint32_t tsc_khz;	    /* of the guest's TSC; leaf 0x40000010 */
	uint64_t xcr0_allowed;	    /* X87 | SSE | AVX as offered */
	uint64_t arch_capabilities; /* MSR 10AH (Intel) of an engine with own_kernel, else 0 */
	uint8_t phys_bits, virt_bits;
	_Bool amd;	    /* AMD's rules where the vendors differ (Hygon as well) */
	char signature[12]; /* hypervisor signature at 0x40000000, or zeroes: no hypervisor bit */
};

enum cpuid_hypervisor { CPUID_HV_NONE, CPUID_HV_KVM };

/*
 * What an engine can execute. For what user code executes the policy is host AND this; for system
 * features that need nothing of the host's CPU (pcid, invpcid, smep, smap, umip, fsgsbase, la57,
 * tsc_deadline, x2apic, mtrr, mce, vme, monitor) the engine's word is enough.
 */
struct cpuid_caps {
	_Bool avx, avx2, fma, avx512, vp2intersect; /* vector sets */
	_Bool avx512_on_request; /* better left out unless somebody asks; the caller's to see to */
	_Bool pcid, invpcid, smep, smap, umip, fsgsbase, la57, pku;
	_Bool tsc_deadline, x2apic;
	_Bool rdrand, rdseed, sha, aes, bmi, adx;
	_Bool mtrr, mce, vme, monitor;
	_Bool invariant_tsc;
	/* The guest's kernel is not executed as itself, and a guest's page tables are in use by no
	 * CPU, so that mitigations of its own against speculation (particular branches, page tables
	 * of its own, emptied buffers) protect nothing: docs/decisions/0009. */
	_Bool own_kernel;
	_Bool arch_capabilities; /* MSR 10AH is there (Intel), with what the host says of itself */
};

struct cpuid_regs {
	uint32_t eax, ebx, ecx, edx;
};

/* From the host's own CPUID, `caps`, the number of CPUs (topology leaves) and the hypervisor
 * leaves. Set-up only. -ENOTSUP or -EINVAL with a sentence. */
NODISCARD int cpuid_policy_init(struct cpuid_policy *p, const struct cpuid_caps *caps,
				unsigned cpus, uint32_t tsc_khz, enum cpuid_hypervisor hv,
				struct error *err);

/* The same from any source of CPUID instead of the host's. */
typedef void cpuid_source(void *opaque, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out);
NODISCARD int cpuid_policy_init_from(struct cpuid_policy *p, cpuid_source *source, void *opaque,
				     const struct cpuid_caps *caps, unsigned cpus, uint32_t tsc_khz,
				     enum cpuid_hypervisor hv, struct error *err);

/* The present answer for one CPU. `apic_enabled` as in cpu_apic_ops.enabled. Never fails: leaves
 * out of range answer as SDM2 CPUID says for the vendor that the host is (Intel: highest basic
 * leaf; AMD: zeroes). */
void cpuid_query(const struct cpuid_policy *p, const struct x86_state *s, unsigned cpu,
		 _Bool apic_enabled, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out);

/* Does the guest have a feature? Named by leaf/subleaf/register/bit. */
enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };
_Bool cpuid_has(const struct cpuid_policy *p, uint32_t leaf, uint32_t subleaf, enum cpuid_reg reg,
		unsigned bit);

#endif
