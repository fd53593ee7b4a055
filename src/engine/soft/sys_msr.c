/*
 * sys_msr.c: RDMSR and WRMSR.
 *
 * What is not named here, and no door or local APIC answers, is #GP(0), as are reserved bits
 * (SDM4; APM2 appendix A). A guest that looks at CPUID first never notices. The few MSRs of AMD's
 * and Intel's that systems touch because of the family number alone read as on a machine whose
 * firmware has nothing special set; writing what they already hold is accepted.
 */
#include "engine/soft/sys.h"
#include "engine/soft/io.h"

#define MSR_SMI_COUNT	    0x34u
#define MSR_EBL_CR_POWERON  0x2au
#define MSR_UCODE_TRIGGER   0x79u
#define MSR_PLATFORM_INFO   0xceu
#define MSR_FEATURE_ENABLES 0x140u
#define MSR_LAST_BRANCH	    0x1dbu /* to 0x1de */
#define MSR_AMD_TOP_MEM	    0xc001001au
#define MSR_AMD_TOP_MEM2    0xc001001du
#define MSR_AMD_NB_CFG	    0xc001001fu
#define MSR_AMD_PATCH	    0xc0010020u
#define MSR_AMD_INT_PENDING 0xc0010055u
#define MSR_AMD_TSEG_ADDR   0xc0010112u

#define HWCR_TSC_FREQ_SEL BIT64(24)
/* TlbCacheDis, INVDWBINVD, FFDIS, monitor in user mode, IGNNE, and the two that count retired
 * instructions: accepted, without effect. */
#define HWCR_HARMLESS                                                                              \
	(BIT64(3) | BIT64(4) | BIT64(6) | BIT64(8) | BIT64(10) | BIT64(27) | BIT64(30))
#define MISC_ENABLE_WRITABLE	(BIT64(0) | BIT64(3) | BIT64(18) | BIT64(22) | BIT64(34))
#define MISC_ENABLE_NO_BTS_PEBS (BIT64(11) | BIT64(12))
#define MCG_CAP_VALUE		(UINT64_C(4) | BIT64(8))	      /* four banks, MCG_CTL */
#define MTRR_CAP_VALUE		(X86_MTRR_VAR | BIT64(8) | BIT64(10)) /* fixed ranges, WC */

static _Bool has(const struct soft_cpu *cpu, uint32_t leaf, enum cpuid_reg reg, unsigned bit)
{
	return cpuid_has(sys_policy(cpu), leaf, 0, reg, bit);
}

static _Bool is_amd(const struct soft_cpu *cpu)
{
	return sys_policy(cpu)->amd;
}

static uint64_t spec_ctrl_bits(const struct soft_cpu *cpu)
{
	uint64_t v = 0;

	if (has(cpu, 7, CPUID_EDX, 26) || has(cpu, 0x80000008, CPUID_EBX, 14))
		v |= 1;
	if (has(cpu, 7, CPUID_EDX, 27) || has(cpu, 0x80000008, CPUID_EBX, 15))
		v |= 2;
	if (has(cpu, 7, CPUID_EDX, 31) || has(cpu, 0x80000008, CPUID_EBX, 24))
		v |= 4;
	if (cpuid_has(sys_policy(cpu), 7, 2, CPUID_EDX, 4))
		v |= BIT64(10); /* BHI_DIS_S */
	return v;
}

static _Bool has_ibpb(const struct soft_cpu *cpu)
{
	return has(cpu, 7, CPUID_EDX, 26) || has(cpu, 0x80000008, CPUID_EBX, 12);
}

static _Bool has_xss(const struct soft_cpu *cpu)
{
	return cpuid_has(sys_policy(cpu), 0xd, 1, CPUID_EAX, 3);
}

static _Bool memory_type_valid(unsigned t, _Bool pat)
{
	return t == 0 || t == 1 || (t >= 4 && t <= 6) || (pat && t == 7);
}

static _Bool memory_types_valid(uint64_t v, _Bool pat)
{
	for (unsigned i = 0; i < 64; i += 8)
		if (!memory_type_valid(v >> i & 0xff, pat))
			return 0;
	return 1;
}

/* Where a plain value lives that reads and writes without further thought; NULL for others. */
static uint64_t *plain(struct soft_cpu *cpu, uint32_t msr)
{
	struct x86_state *s = &cpu->s;

	switch (msr) {
	case MSR_STAR: return &s->star;
	case MSR_LSTAR: return &s->lstar;
	case MSR_CSTAR: return &s->cstar;
	case MSR_SFMASK: return &s->sfmask;
	case MSR_FS_BASE: return &s->seg[X86_FS].base;
	case MSR_GS_BASE: return &s->seg[X86_GS].base;
	case MSR_KERNEL_GS_BASE: return &s->kernel_gs_base;
	case MSR_SYSENTER_CS: return &s->sysenter_cs;
	case MSR_SYSENTER_ESP: return &s->sysenter_esp;
	case MSR_SYSENTER_EIP: return &s->sysenter_eip;
	case MSR_PAT: return &s->pat;
	case MSR_DEBUGCTL: return &s->debugctl;
	default: return NULL;
	}
}

/* The fixed-range MTRRs in the order of struct x86_state: 64K, two 16K, eight 4K. -1: none. */
static int fixed_index(uint32_t msr)
{
	if (msr == MSR_MTRR_FIX64K)
		return 0;
	if (msr == MSR_MTRR_FIX16K_8 || msr == MSR_MTRR_FIX16K_A)
		return (int)(1 + msr - MSR_MTRR_FIX16K_8);
	if (msr >= MSR_MTRR_FIX4K_C0 && msr < MSR_MTRR_FIX4K_C0 + 8)
		return (int)(3 + msr - MSR_MTRR_FIX4K_C0);
	return -1;
}

static uint64_t *mtrr(struct soft_cpu *cpu, uint32_t msr)
{
	int n = fixed_index(msr);

	if (!has(cpu, 1, CPUID_EDX, 12))
		return NULL;
	if (n >= 0)
		return &cpu->s.mtrr_fixed[n];
	if (msr == MSR_MTRR_DEF)
		return &cpu->s.mtrr_def;
	if (msr < MSR_MTRR_PHYSBASE0 || msr >= MSR_MTRR_PHYSBASE0 + 2 * X86_MTRR_VAR)
		return NULL;
	n = (int)(msr - MSR_MTRR_PHYSBASE0) / 2;
	return msr & 1 ? &cpu->s.mtrr_mask[n] : &cpu->s.mtrr_base[n];
}

static int mtrr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t *p, uint64_t v)
{
	uint64_t reserved = ~(BIT64(sys_policy(cpu)->phys_bits) - 1);

	if (fixed_index(msr) >= 0) {
		if (!memory_types_valid(v, 0))
			return -1;
	} else if (msr == MSR_MTRR_DEF) {
		if (v & ~UINT64_C(0xcff) || !memory_type_valid(v & 0xff, 0))
			return -1;
	} else if (msr & 1) {
		if (v & (reserved | 0x7ff))
			return -1;
	} else if (v & (reserved | 0xf00) || !memory_type_valid(v & 0xff, 0)) {
		return -1;
	}
	*p = v;
	return 0;
}

/* Machine check: banks that never report (SDM3 16.3). */
static uint64_t *mce(struct soft_cpu *cpu, uint32_t msr)
{
	if (!has(cpu, 1, CPUID_EDX, 14))
		return NULL;
	if (msr == MSR_MCG_STATUS)
		return &cpu->s.mcg_status;
	if (msr == MSR_MCG_CTL)
		return &cpu->s.mcg_ctl;
	if (msr >= MSR_MC0_CTL && msr < MSR_MC0_CTL + ARRAY_SIZE(cpu->s.mc_bank))
		return &cpu->s.mc_bank[msr - MSR_MC0_CTL];
	return NULL;
}

static int mce_write(uint32_t msr, uint64_t *p, uint64_t v)
{
	_Bool status = msr >= MSR_MC0_CTL && (msr & 3) == 1;

	if (status && v)
		return -1;
	if (msr == MSR_MCG_CTL && v && ~v)
		return -1;
	if (msr == MSR_MCG_STATUS && v & ~UINT64_C(15))
		return -1;
	*p = v;
	return 0;
}

static int read_intel(struct soft_cpu *cpu, uint32_t msr, uint64_t *v)
{
	switch (msr) {
	case MSR_PLATFORM_ID:
	case MSR_EBL_CR_POWERON:
	case MSR_PLATFORM_INFO:
	case MSR_FEATURE_ENABLES: *v = 0; return 0;
	case MSR_FEATURE_CTL: *v = 1; return 0; /* locked: no VMX, no SGX */
	case MSR_ARCH_CAP:
		*v = sys_policy(cpu)->arch_capabilities;
		return has(cpu, 7, CPUID_EDX, 29) ? 0 : -1;
	case MSR_SMI_COUNT: *v = cpu->s.smi_count; return 0;
	case MSR_BIOS_SIGN: *v = UINT64_C(1) << 32; return 0;
	case MSR_MISC_ENABLE: *v = cpu->s.misc_enable | MISC_ENABLE_NO_BTS_PEBS; return 0;
	default: return soft_msr_read(cpu, msr, v);
	}
}

static int read_amd(struct soft_cpu *cpu, uint32_t msr, uint64_t *v)
{
	switch (msr) {
	case MSR_SYSCFG:
	case MSR_AMD_TOP_MEM:
	case MSR_AMD_TOP_MEM2:
	case MSR_AMD_NB_CFG:
	case MSR_AMD_INT_PENDING:
	case MSR_AMD_TSEG_ADDR: *v = 0; return 0;
	case MSR_BIOS_SIGN: *v = 0x01000065; return 0;
	case MSR_HWCR: *v = HWCR_TSC_FREQ_SEL; return 0;
	case MSR_VM_CR: *v = BIT64(4); return 0;  /* SVM disabled */
	case MSR_DE_CFG: *v = BIT64(1); return 0; /* LFENCE serializes */
	default: return soft_msr_read(cpu, msr, v);
	}
}

int sys_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *v)
{
	uint64_t *p = plain(cpu, msr);

	if (!p)
		p = mtrr(cpu, msr);
	if (!p)
		p = mce(cpu, msr);
	if (p) {
		*v = *p;
		return 0;
	}
	switch (msr) {
	case MSR_TSC: *v = soft_tsc(cpu); return 0;
	case MSR_TSC_ADJUST: *v = cpu->s.tsc_adjust; return 0;
	case MSR_EFER: *v = cpu->s.efer; return 0;
	case MSR_TSC_AUX: *v = cpu->s.tsc_aux; return 0;
	case MSR_MTRR_CAP: *v = MTRR_CAP_VALUE; return has(cpu, 1, CPUID_EDX, 12) ? 0 : -1;
	case MSR_MCG_CAP: *v = MCG_CAP_VALUE; return has(cpu, 1, CPUID_EDX, 14) ? 0 : -1;
	case MSR_SPEC_CTRL: *v = cpu->s.spec_ctrl; return spec_ctrl_bits(cpu) ? 0 : -1;
	case MSR_XSS: *v = cpu->s.xss; return has_xss(cpu) ? 0 : -1;
	case MSR_LAST_BRANCH:
	case MSR_LAST_BRANCH + 1:
	case MSR_LAST_BRANCH + 2:
	case MSR_LAST_BRANCH + 3: *v = 0; return 0;
	default: return is_amd(cpu) ? read_amd(cpu, msr, v) : read_intel(cpu, msr, v);
	}
}

static int efer_write(struct soft_cpu *cpu, uint64_t v)
{
	uint64_t allowed = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA, old = cpu->s.efer;

	if (has(cpu, 0x80000001, CPUID_EDX, 20))
		allowed |= X86_EFER_NXE;
	if (has(cpu, 0x80000001, CPUID_EDX, 25))
		allowed |= X86_EFER_FFXSR;
	if (is_amd(cpu) && has(cpu, 0x80000021, CPUID_EAX, 8))
		allowed |= X86_EFER_AIBRS; /* nothing to do: see docs/decisions/0009 */
	if (v & ~allowed || ((v ^ old) & X86_EFER_LME && cpu->s.cr0 & X86_CR0_PG))
		return -1;
	v = (v & ~X86_EFER_LMA) | (old & X86_EFER_LMA);
	cpu->s.efer = v;
	if ((v ^ old) & X86_EFER_NXE)
		soft_tlb_flush_all(cpu);
	soft_mode_update(cpu);
	return 0;
}

static int plain_write(struct soft_cpu *cpu, uint32_t msr, uint64_t *p, uint64_t v)
{
	switch (msr) {
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
		if (!sys_canonical(cpu, v))
			return -1;
		break;
	case MSR_SYSENTER_CS: v = (uint32_t)v; break;
	case MSR_SFMASK:
		if (v >> 32 && !is_amd(cpu))
			return -1;
		v = (uint32_t)v;
		break;
	case MSR_PAT:
		if (!memory_types_valid(v, 1))
			return -1;
		break;
	case MSR_DEBUGCTL:
		if (v & ~UINT64_C(3)) /* LBR (always empty) and BTF */
			return -1;
		break;
	default: break;
	}
	*p = v;
	if (msr == MSR_FS_BASE || msr == MSR_GS_BASE || msr == MSR_DEBUGCTL)
		soft_mode_update(cpu);
	return 0;
}

static int write_intel(struct soft_cpu *cpu, uint32_t msr, uint64_t v)
{
	switch (msr) {
	case MSR_BIOS_SIGN:
	case MSR_UCODE_TRIGGER: return 0;
	case MSR_EBL_CR_POWERON:
	case MSR_FEATURE_ENABLES: return v ? -1 : 0;
	case MSR_MISC_ENABLE:
		if (v & ~(MISC_ENABLE_WRITABLE | MISC_ENABLE_NO_BTS_PEBS))
			return -1;
		cpu->s.misc_enable = v & MISC_ENABLE_WRITABLE;
		return 0;
	default: return soft_msr_write(cpu, msr, v);
	}
}

static int write_amd(struct soft_cpu *cpu, uint32_t msr, uint64_t v)
{
	switch (msr) {
	case MSR_AMD_PATCH:
	case MSR_BIOS_SIGN:
	case MSR_AMD_NB_CFG:
	case MSR_AMD_INT_PENDING:
	case MSR_DE_CFG: return 0;
	case MSR_SYSCFG:
	case MSR_AMD_TOP_MEM:
	case MSR_AMD_TOP_MEM2:
	case MSR_AMD_TSEG_ADDR: return v ? -1 : 0;
	case MSR_HWCR: return v & ~(HWCR_HARMLESS | HWCR_TSC_FREQ_SEL) ? -1 : 0;
	default: return soft_msr_write(cpu, msr, v);
	}
}

static int aux_write(struct soft_cpu *cpu, uint64_t v)
{
	if (v >> 32 && !is_amd(cpu))
		return -1;
	cpu->s.tsc_aux = (uint32_t)v;
	return 0;
}

static void tsc_write(struct soft_cpu *cpu, uint64_t v)
{
	cpu->s.tsc_adjust += v - soft_tsc(cpu);
	soft_tsc_set(cpu, v);
}

static void tsc_adjust_write(struct soft_cpu *cpu, uint64_t v)
{
	soft_tsc_set(cpu, soft_tsc(cpu) + (v - cpu->s.tsc_adjust));
	cpu->s.tsc_adjust = v;
}

static int store_if(_Bool ok, uint64_t *p, uint64_t v)
{
	if (!ok)
		return -1;
	*p = v;
	return 0;
}

int sys_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t v)
{
	uint64_t *p = plain(cpu, msr);

	if (p)
		return plain_write(cpu, msr, p, v);
	p = mtrr(cpu, msr);
	if (p)
		return mtrr_write(cpu, msr, p, v);
	p = mce(cpu, msr);
	if (p)
		return mce_write(msr, p, v);
	switch (msr) {
	case MSR_TSC: tsc_write(cpu, v); return 0;
	case MSR_TSC_ADJUST: tsc_adjust_write(cpu, v); return 0;
	case MSR_EFER: return efer_write(cpu, v);
	case MSR_TSC_AUX: return aux_write(cpu, v);
	case MSR_SPEC_CTRL:
		return store_if(spec_ctrl_bits(cpu) && !(v & ~spec_ctrl_bits(cpu)),
				&cpu->s.spec_ctrl, v);
	case MSR_PRED_CMD: return has_ibpb(cpu) && !(v & ~UINT64_C(1)) ? 0 : -1;
	case MSR_XSS: return has_xss(cpu) && !v ? 0 : -1;
	case MSR_APIC_BASE: {
		int rc = soft_msr_write(cpu, msr, v);
		soft_mmu_apic(cpu);
		return rc;
	}
	default: return is_amd(cpu) ? write_amd(cpu, msr, v) : write_intel(cpu, msr, v);
	}
}

void sys_insn_rdmsr(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = 0;

	sys_need_ring0(cpu);
	if (sys_msr_read(cpu, (uint32_t)cpu->s.gpr[X86_RCX], &v))
		sys_gp(cpu, 0);
	cpu->s.gpr[X86_RAX] = (uint32_t)v;
	cpu->s.gpr[X86_RDX] = v >> 32;
}

void sys_insn_wrmsr(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = (cpu->s.gpr[X86_RDX] << 32) | (uint32_t)cpu->s.gpr[X86_RAX];

	sys_need_ring0(cpu);
	if (sys_msr_write(cpu, (uint32_t)cpu->s.gpr[X86_RCX], v))
		sys_gp(cpu, 0);
}
