/* sys_misc.c: CPUID, HLT, TLB and cache control, bases, hypercalls, INIT and SIPI, port rights. */
#include "engine/soft/sys.h"
#include "engine/soft/io.h"

static _Bool has(const struct soft_cpu *cpu, uint32_t leaf, enum cpuid_reg reg, unsigned bit)
{
	return cpuid_has(sys_policy(cpu), leaf, 0, reg, bit);
}

static _Bool cpuid_door(struct soft_cpu *cpu, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *r)
{
	const struct doors *doors = cpu->base.engine->env->doors;
	struct cpuid_out out;

	if (leaf >> 28 != 4 || !doors || !doors->cpuid ||
	    !doors->cpuid(doors->cpuid_opaque, cpu->base.index, leaf, subleaf, &out))
		return 0;
	*r = (struct cpuid_regs){out.eax, out.ebx, out.ecx, out.edx};
	return 1;
}

void sys_insn_cpuid(struct soft_cpu *cpu, const struct insn *i)
{
	const struct cpu_apic *apic = &cpu->base.apic;
	uint32_t leaf = (uint32_t)cpu->s.gpr[X86_RAX], subleaf = (uint32_t)cpu->s.gpr[X86_RCX];
	_Bool enabled = apic->ops && apic->ops->enabled(apic->apic);
	struct cpuid_regs r;

	if (!cpuid_door(cpu, leaf, subleaf, &r))
		cpuid_query(sys_policy(cpu), &cpu->s, cpu->base.index, enabled, leaf, subleaf, &r);
	cpu->s.gpr[X86_RAX] = r.eax;
	cpu->s.gpr[X86_RBX] = r.ebx;
	cpu->s.gpr[X86_RCX] = r.ecx;
	cpu->s.gpr[X86_RDX] = r.edx;
}

void sys_insn_hlt(struct soft_cpu *cpu, const struct insn *i)
{
	sys_need_ring0(cpu);
	cpu->s.activity = X86_HALTED;
}

void sys_insn_wbinvd(struct soft_cpu *cpu, const struct insn *i)
{
	sys_need_ring0(cpu);
}

/* No limit and no canonical fault: an address that cannot be mapped has nothing to drop. */
void sys_insn_invlpg(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t lin = soft_ea_offset(cpu, i);

	sys_need_ring0(cpu);
	if (!soft_is64(cpu))
		lin = (uint32_t)(lin + cpu->s.seg[i->seg].base);
	else if (i->seg == X86_FS || i->seg == X86_GS)
		lin += cpu->s.seg[i->seg].base;
	if (!soft_is_long(cpu) || sys_canonical(cpu, lin))
		soft_tlb_flush_page(cpu, lin);
}

/* r1: the type; memory: PCID and address (SDM2 INVPCID). */
void sys_insn_invpcid(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t type = insn_gpr(cpu, i->r1, soft_is64(cpu) ? 8 : 4), d[2];
	_Bool pcide = cpu->s.cr4 & X86_CR4_PCIDE;

	if (!has(cpu, 7, CPUID_EBX, 10) || soft_is_real(cpu))
		sys_ud(cpu);
	sys_need_ring0(cpu);
	soft_load(cpu, i->seg, soft_lin(cpu, i, 16, 0), d, 16);
	if (type > 3 || (type < 2 && (d[0] >> 12 || (d[0] && !pcide))) ||
	    (type == 0 && !sys_canonical(cpu, d[1])))
		sys_gp(cpu, 0);
	if (type > 1)
		soft_tlb_flush_all(cpu);
	else if (type == 0 && (!pcide || d[0] == (cpu->s.cr3 & 0xfff)))
		soft_tlb_flush_page(cpu, d[1]);
	else
		soft_tlb_flush_pcid(cpu, (unsigned)d[0]);
}

void sys_insn_swapgs(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t base = cpu->s.seg[X86_GS].base;

	if (!soft_is64(cpu))
		sys_ud(cpu);
	sys_need_ring0(cpu);
	cpu->s.seg[X86_GS].base = cpu->s.kernel_gs_base;
	cpu->s.kernel_gs_base = base;
}

static void need_fsgsbase(struct soft_cpu *cpu)
{
	if (!soft_is64(cpu) || !(cpu->s.cr4 & X86_CR4_FSGSBASE))
		sys_ud(cpu);
}

/* aux: X86_FS or X86_GS */
void sys_insn_rdbase(struct soft_cpu *cpu, const struct insn *i)
{
	need_fsgsbase(cpu);
	insn_gpr_set(cpu, i->r1, i->osize, cpu->s.seg[i->aux].base);
}

void sys_insn_wrbase(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = insn_gpr(cpu, i->r1, i->osize);

	need_fsgsbase(cpu);
	if (!sys_canonical(cpu, v))
		sys_gp(cpu, 0);
	cpu->s.seg[i->aux].base = v;
}

void sys_insn_hypercall(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t *g = cpu->s.gpr;
	struct hypercall_regs r = {
	    .rax = g[X86_RAX],
	    .rbx = g[X86_RBX],
	    .rcx = g[X86_RCX],
	    .rdx = g[X86_RDX],
	    .rsi = g[X86_RSI],
	    .rdi = g[X86_RDI],
	    .rbp = g[X86_RBP],
	    .r8 = g[X86_R8],
	    .r9 = g[X86_R9],
	    .r10 = g[X86_R10],
	    .cpl = cpu->cpl,
	    .long_mode = soft_is64(cpu),
	};

	if (!soft_hypercall(cpu, &r))
		sys_ud(cpu);
	g[X86_RAX] = r.rax;
	g[X86_RBX] = r.rbx;
	g[X86_RCX] = r.rcx;
	g[X86_RDX] = r.rdx;
	g[X86_RSI] = r.rsi;
	g[X86_RDI] = r.rdi;
	g[X86_RBP] = r.rbp;
	g[X86_R8] = r.r8;
	g[X86_R9] = r.r9;
	g[X86_R10] = r.r10;
}

/* There are no counters: every index is out of range. */
void sys_insn_rdpmc(struct soft_cpu *cpu, const struct insn *i)
{
	sys_gp(cpu, 0);
}

static void need_monitor(struct soft_cpu *cpu)
{
	if (!has(cpu, 1, CPUID_ECX, 3) || cpu->cpl)
		sys_ud(cpu);
}

void sys_insn_monitor(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t offset = cpu->s.gpr[X86_RAX] & size_mask(i->asize);

	need_monitor(cpu);
	if ((uint32_t)cpu->s.gpr[X86_RCX])
		sys_gp(cpu, 0);
	(void)soft_read8(cpu, i->seg, soft_seg_lin(cpu, i->seg, offset, 1, 0));
}

/* May return at any time, for any reason (SDM2 MWAIT): it does at once. */
void sys_insn_mwait(struct soft_cpu *cpu, const struct insn *i)
{
	need_monitor(cpu);
	if (cpu->s.gpr[X86_RCX] & 0xfffffffe)
		sys_gp(cpu, 0);
}

static int32_t bound_read(struct soft_cpu *cpu, const struct insn *i, uint64_t lin)
{
	return i->osize == 2 ? (int16_t)soft_read16(cpu, i->seg, lin)
			     : (int32_t)soft_read32(cpu, i->seg, lin);
}

/* Intel's CPUs do not read the upper bound of what is below the lower. */
void sys_insn_bound(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t lin = soft_lin(cpu, i, 2u * i->osize, 0);
	int32_t v =
	    i->osize == 2 ? (int16_t)insn_gpr16(cpu, i->r1) : (int32_t)insn_gpr32(cpu, i->r1);
	int32_t low = bound_read(cpu, i, lin), high;

	if (v < low && !sys_policy(cpu)->amd)
		soft_raise(cpu, X86_VEC_BR);
	high = bound_read(cpu, i, lin + i->osize);
	if (v < low || v > high)
		soft_raise(cpu, X86_VEC_BR);
}

void sys_init(struct soft_cpu *cpu)
{
	struct cpuid_regs one;

	x86_state_init(&cpu->s, cpu->base.index == 0);
	cpuid_query(sys_policy(cpu), &cpu->s, cpu->base.index, 1, 1, 0, &one);
	cpu->s.gpr[X86_RDX] = one.eax;
	soft_flags_set(cpu, X86_FIXED);
	cpu->exc.valid = cpu->delivering.valid = 0;
	cpu->debug_hits = 0;
	soft_tlb_flush_all(cpu);
	soft_mode_update(cpu);
}

void sys_sipi(struct soft_cpu *cpu, uint8_t vector)
{
	struct x86_seg *cs = &cpu->s.seg[X86_CS];

	if (cpu->s.activity != X86_WAIT_SIPI)
		return;
	cs->selector = (uint16_t)(vector << 8);
	cs->base = (uint64_t)vector << 12;
	cpu->s.rip = 0;
	cpu->s.activity = X86_RUNNING;
	soft_mode_update(cpu);
}

/* The bitmap at the end of a 32- or 64-bit TSS: every bit of the access must be clear, and two
 * bytes are always read (SDM1 19.5.2). */
void sys_io_check(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	const struct x86_seg *tr = &cpu->s.tr;
	uint64_t base = soft_is_long(cpu) ? tr->base : (uint32_t)tr->base;
	uint32_t at, bits;

	if (soft_is_real(cpu) || (!soft_is_v86(cpu) && cpu->cpl <= sys_iopl(cpu)))
		return;
	if (tr->attr & X86_SEG_UNUSABLE || !(X86_SEG_TYPE(tr->attr) & 8) || tr->limit < 103)
		sys_gp(cpu, 0);
	at = (uint32_t)soft_sys_read(cpu, base + 102, 2) + port / 8;
	if (at + 1 > tr->limit)
		sys_gp(cpu, 0);
	bits = (uint32_t)soft_sys_read(cpu, base + at, 2) >> (port & 7);
	if (bits & ((1u << size) - 1))
		sys_gp(cpu, 0);
}
