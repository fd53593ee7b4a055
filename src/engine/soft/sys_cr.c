/* sys_cr.c: control, debug and extended control registers. */
#include "engine/soft/sys.h"
#include "engine/soft/io.h"

static _Bool has(const struct soft_cpu *cpu, uint32_t leaf, enum cpuid_reg reg, unsigned bit)
{
	return cpuid_has(sys_policy(cpu), leaf, 0, reg, bit);
}

static uint64_t phys_reserved(const struct soft_cpu *cpu)
{
	return ~(BIT64(sys_policy(cpu)->phys_bits) - 1);
}

_Bool sys_pdptes_valid(struct soft_cpu *cpu, uint64_t cr3)
{
	uint64_t reserved = phys_reserved(cpu) | 0x1e6;
	struct gmem *mem = cpu->base.engine->env->mem;
	uint64_t e[4];

	/* where no memory answers, all ones come back, which have reserved bits set */
	if (gmem_read(mem, gpa(cr3 & 0xffffffe0), e, sizeof(e)))
		return 0;
	for (unsigned i = 0; i < 4; i++)
		if (e[i] & X86_PTE_P && e[i] & reserved)
			return 0;
	return 1;
}

static _Bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return cr0 & X86_CR0_PG && cr4 & X86_CR4_PAE && !(efer & X86_EFER_LMA);
}

/* Turning paging on or off may enter or leave long mode (SDM3 10.8.5). */
static uint64_t paging_switch(struct soft_cpu *cpu, uint64_t cr0)
{
	uint64_t efer = cpu->s.efer;
	_Bool on = cr0 & X86_CR0_PG;

	if (on == !!(cpu->s.cr0 & X86_CR0_PG))
		return efer;
	if (!on) {
		if (soft_is64(cpu) || cpu->s.cr4 & X86_CR4_PCIDE)
			sys_gp(cpu, 0);
		return efer & ~X86_EFER_LMA;
	}
	if (!(efer & X86_EFER_LME))
		return efer;
	if (!(cpu->s.cr4 & X86_CR4_PAE) || cpu->s.seg[X86_CS].attr & X86_SEG_L ||
	    X86_SEG_TYPE(cpu->s.tr.attr) == X86_SYS_TSS16_BUSY)
		sys_gp(cpu, 0);
	return efer | X86_EFER_LMA;
}

#define CR0_WRITABLE                                                                               \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_NE | X86_CR0_WP |             \
	 X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

static void cr0_write(struct soft_cpu *cpu, uint64_t v)
{
	const uint64_t flush = X86_CR0_PG | X86_CR0_PE | X86_CR0_WP;
	uint64_t old = cpu->s.cr0, efer;

	if (v >> 32 || (v & X86_CR0_PG && !(v & X86_CR0_PE)) ||
	    (v & X86_CR0_NW && !(v & X86_CR0_CD)))
		sys_gp(cpu, 0);
	v = (v & CR0_WRITABLE) | X86_CR0_ET;
	efer = paging_switch(cpu, v);
	if (pae_paging(v, cpu->s.cr4, efer) && (v ^ old) & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW) &&
	    !sys_pdptes_valid(cpu, cpu->s.cr3))
		sys_gp(cpu, 0);
	cpu->s.cr0 = v;
	cpu->s.efer = efer;
	if ((v ^ old) & flush)
		soft_tlb_flush_all(cpu);
	soft_mode_update(cpu);
}

static void cr3_write(struct soft_cpu *cpu, uint64_t v)
{
	_Bool keep = 0;

	if (cpu->s.cr4 & X86_CR4_PCIDE) {
		keep = v >> 63;
		v &= ~X86_CR3_NOFLUSH;
	}
	if (soft_is_long(cpu) ? v & phys_reserved(cpu) : v >> 32 != 0)
		sys_gp(cpu, 0);
	if (pae_paging(cpu->s.cr0, cpu->s.cr4, cpu->s.efer) && !sys_pdptes_valid(cpu, v))
		sys_gp(cpu, 0);
	cpu->s.cr3 = v;
	soft_tlb_cr3(cpu, keep);
}

static uint64_t cr4_offered(const struct soft_cpu *cpu)
{
	uint64_t v = X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE |
		     X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;

	if (has(cpu, 1, CPUID_EDX, 1))
		v |= X86_CR4_VME | X86_CR4_PVI;
	if (has(cpu, 1, CPUID_EDX, 7))
		v |= X86_CR4_MCE;
	if (has(cpu, 1, CPUID_ECX, 17))
		v |= X86_CR4_PCIDE;
	if (has(cpu, 1, CPUID_ECX, 26))
		v |= X86_CR4_OSXSAVE;
	if (has(cpu, 7, CPUID_EBX, 0))
		v |= X86_CR4_FSGSBASE;
	if (has(cpu, 7, CPUID_EBX, 7))
		v |= X86_CR4_SMEP;
	if (has(cpu, 7, CPUID_EBX, 20))
		v |= X86_CR4_SMAP;
	if (has(cpu, 7, CPUID_ECX, 2))
		v |= X86_CR4_UMIP;
	if (has(cpu, 7, CPUID_ECX, 3))
		v |= X86_CR4_PKE;
	if (has(cpu, 7, CPUID_ECX, 16))
		v |= X86_CR4_LA57;
	return v;
}

static void cr4_write(struct soft_cpu *cpu, uint64_t v)
{
	const uint64_t flush = X86_CR4_PGE | X86_CR4_PAE | X86_CR4_PSE | X86_CR4_PCIDE |
			       X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PKE | X86_CR4_LA57;
	const uint64_t pdpte = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP;
	uint64_t change = v ^ cpu->s.cr4;

	if (v & ~cr4_offered(cpu))
		sys_gp(cpu, 0);
	if (soft_is_long(cpu) && (!(v & X86_CR4_PAE) || change & X86_CR4_LA57))
		sys_gp(cpu, 0);
	if (change & v & X86_CR4_PCIDE && (!soft_is_long(cpu) || cpu->s.cr3 & 0xfff))
		sys_gp(cpu, 0);
	if (pae_paging(cpu->s.cr0, v, cpu->s.efer) && change & pdpte &&
	    !sys_pdptes_valid(cpu, cpu->s.cr3))
		sys_gp(cpu, 0);
	cpu->s.cr4 = v;
	if (change & flush)
		soft_tlb_flush_all(cpu);
	soft_mode_update(cpu);
}

static void cr8_write(struct soft_cpu *cpu, uint64_t v)
{
	if (v > 15)
		sys_gp(cpu, 0);
	soft_cr8_write(cpu, (uint8_t)v);
}

static uint64_t gpr_operand(struct soft_cpu *cpu, const struct insn *i)
{
	return soft_is64(cpu) ? insn_gpr64(cpu, i->r1) : insn_gpr32(cpu, i->r1);
}

static void gpr_result(struct soft_cpu *cpu, const struct insn *i, uint64_t v)
{
	insn_gpr_set(cpu, i->r1, soft_is64(cpu) ? 8 : 4, v);
}

/* A register that there is not comes before the privilege, as for the CPUs. */
static void cr_check(struct soft_cpu *cpu, unsigned n)
{
	if (n > 8 || !(BIT32(n) & (BIT32(0) | BIT32(2) | BIT32(3) | BIT32(4) | BIT32(8))))
		sys_ud(cpu);
	sys_need_ring0(cpu);
}

void sys_insn_mov_to_cr(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = gpr_operand(cpu, i);

	cr_check(cpu, i->aux);
	switch (i->aux) {
	case 0: cr0_write(cpu, v); break;
	case 2: cpu->s.cr2 = v; break;
	case 3: cr3_write(cpu, v); break;
	case 4: cr4_write(cpu, v); break;
	default: cr8_write(cpu, v); break;
	}
}

void sys_insn_mov_from_cr(struct soft_cpu *cpu, const struct insn *i)
{
	cr_check(cpu, i->aux);
	switch (i->aux) {
	case 0: gpr_result(cpu, i, cpu->s.cr0); break;
	case 2: gpr_result(cpu, i, cpu->s.cr2); break;
	case 3: gpr_result(cpu, i, cpu->s.cr3); break;
	case 4: gpr_result(cpu, i, cpu->s.cr4); break;
	default: gpr_result(cpu, i, soft_cr8_read(cpu)); break;
	}
}

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE says otherwise (SDM3 17.2.2). */
static unsigned dr_number(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned n = i->aux;

	if (n > 7)
		sys_ud(cpu);
	if (n == 4 || n == 5) {
		if (cpu->s.cr4 & X86_CR4_DE)
			sys_ud(cpu);
		n += 2;
	}
	sys_need_ring0(cpu);
	if (cpu->s.dr7 & X86_DR7_GD)
		soft_raise_db(cpu, X86_DR6_BD, 1);
	return n;
}

#define DR6_WRITABLE UINT64_C(0xe00f)
#define DR7_WRITABLE UINT64_C(0xffff23ff)

void sys_insn_mov_to_dr(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned n = dr_number(cpu, i);
	uint64_t v = gpr_operand(cpu, i);

	if (n < 4) {
		cpu->s.dr[n] = v;
	} else {
		if (v >> 32)
			sys_gp(cpu, 0);
		if (n == 6)
			cpu->s.dr6 = (v & DR6_WRITABLE) | X86_DR6_FIXED;
		else
			cpu->s.dr7 = (v & DR7_WRITABLE) | X86_DR7_FIXED;
	}
	soft_mode_update(cpu);
}

void sys_insn_mov_from_dr(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned n = dr_number(cpu, i);

	gpr_result(cpu, i, n < 4 ? cpu->s.dr[n] : n == 6 ? cpu->s.dr6 : cpu->s.dr7);
}

void sys_insn_smsw(struct soft_cpu *cpu, const struct insn *i)
{
	if (cpu->cpl && cpu->s.cr4 & X86_CR4_UMIP)
		sys_gp(cpu, 0);
	if (i->flags & INSN_MEM)
		soft_write16(cpu, i->seg, soft_lin(cpu, i, 2, 1), (uint16_t)cpu->s.cr0);
	else
		insn_gpr_set(cpu, i->r1, i->osize, cpu->s.cr0);
}

/* Sets PE, never clears it; MP, EM and TS as given. */
void sys_insn_lmsw(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v;

	sys_need_ring0(cpu);
	if (i->flags & INSN_MEM)
		v = soft_read16(cpu, i->seg, soft_lin(cpu, i, 2, 0));
	else
		v = insn_gpr16(cpu, i->r1);
	cr0_write(cpu, (cpu->s.cr0 & ~UINT64_C(14)) | (v & 15));
}

void sys_insn_clts(struct soft_cpu *cpu, const struct insn *i)
{
	sys_need_ring0(cpu);
	cpu->s.cr0 &= ~X86_CR0_TS;
	soft_mode_update(cpu);
}

static void need_osxsave(struct soft_cpu *cpu)
{
	if (!(cpu->s.cr4 & X86_CR4_OSXSAVE))
		sys_ud(cpu);
}

static void edx_eax(struct soft_cpu *cpu, uint64_t v)
{
	cpu->s.gpr[X86_RAX] = (uint32_t)v;
	cpu->s.gpr[X86_RDX] = v >> 32;
}

/* ECX 1 asks which components are in use: saying "all" is always allowed (SDM1 13.6). */
void sys_insn_xgetbv(struct soft_cpu *cpu, const struct insn *i)
{
	uint32_t ecx = (uint32_t)cpu->s.gpr[X86_RCX];

	need_osxsave(cpu);
	if (ecx > 1 || (ecx == 1 && !cpuid_has(sys_policy(cpu), 0xd, 1, CPUID_EAX, 2)))
		sys_gp(cpu, 0);
	edx_eax(cpu, cpu->s.xcr0);
}

void sys_insn_xsetbv(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = (cpu->s.gpr[X86_RDX] << 32) | (uint32_t)cpu->s.gpr[X86_RAX];

	need_osxsave(cpu);
	sys_need_ring0(cpu);
	if ((uint32_t)cpu->s.gpr[X86_RCX] != 0 || v & ~sys_policy(cpu)->xcr0_allowed ||
	    !(v & X86_XCR0_X87) || (v & X86_XCR0_AVX && !(v & X86_XCR0_SSE)) ||
	    (v & X86_XCR0_AVX512 &&
	     ((v & X86_XCR0_AVX512) != X86_XCR0_AVX512 || !(v & X86_XCR0_AVX))))
		sys_gp(cpu, 0);
	cpu->s.xcr0 = v;
	soft_mode_update(cpu);
}
