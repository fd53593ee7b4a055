/* sys_call.c: SYSCALL, SYSRET, SYSENTER and SYSEXIT, with the vendors' differences (SDM2, APM3). */
#include "engine/soft/sys.h"

#define ATTR_CODE64 0xa09bu
#define ATTR_CODE32 0xc09bu
#define ATTR_DATA   0xc093u

static struct x86_seg flat(unsigned selector, uint32_t attr, unsigned dpl)
{
	return (struct x86_seg){
	    .limit = 0xffffffff, .attr = attr | dpl << 5, .selector = (uint16_t)selector};
}

static void need_sce(struct soft_cpu *cpu)
{
	if (!(cpu->s.efer & X86_EFER_SCE))
		sys_ud(cpu);
}

void sys_insn_syscall(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned sel = cpu->s.star >> 32 & 0xfffc;
	uint64_t next = soft_next_rip(cpu, i), flags;

	need_sce(cpu);
	if (!soft_is64(cpu) && (!sys_policy(cpu)->amd || soft_is_real(cpu)))
		sys_ud(cpu);
	flags = soft_flags_get(cpu) & ~(uint64_t)X86_RF;
	cpu->s.gpr[X86_RCX] = next;
	if (soft_is_long(cpu)) {
		cpu->s.gpr[X86_R11] = flags;
		cpu->s.rip = soft_is64(cpu) ? cpu->s.lstar : cpu->s.cstar;
		cpu->s.seg[X86_CS] = flat(sel, ATTR_CODE64, 0);
		flags = (flags & ~cpu->s.sfmask) | X86_FIXED;
	} else {
		cpu->s.rip = (uint32_t)cpu->s.star;
		cpu->s.seg[X86_CS] = flat(sel, ATTR_CODE32, 0);
		flags &= ~(uint64_t)(X86_IF | X86_VM);
	}
	cpu->s.seg[X86_SS] = flat(sel + 8, ATTR_DATA, 0);
	soft_flags_set(cpu, flags);
	soft_mode_update(cpu);
	cpu->step_trap = !!(flags & X86_TF); /* what SFMASK clears does not trap either */
}

/* AMD loads SS's selector alone and keeps the hidden part (APM3 SYSRET); the privilege level, which
 * this engine keeps in SS, changes with it. */
static struct x86_seg sysret_stack(const struct soft_cpu *cpu, unsigned selector)
{
	struct x86_seg ss = flat(selector, ATTR_DATA, 3);

	if (sys_policy(cpu)->amd) {
		ss = cpu->s.seg[X86_SS];
		ss.selector = (uint16_t)selector;
		ss.attr |= 3u << 5;
	}
	return ss;
}

#define SYSRET_FLAGS                                                                               \
	(X86_ARITH | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_AC | X86_VIF | X86_VIP |   \
	 X86_ID)

void sys_insn_sysret(struct soft_cpu *cpu, const struct insn *i)
{
	_Bool amd = sys_policy(cpu)->amd;
	unsigned sel = (cpu->s.star >> 48 & 0xfffc) | 3;
	uint64_t rcx = cpu->s.gpr[X86_RCX], flags;

	need_sce(cpu);
	if (!soft_is64(cpu) && (!amd || !sys_has_selectors(cpu)))
		sys_ud(cpu);
	sys_need_ring0(cpu);
	if (i->osize == 8) {
		if (!amd && !sys_canonical(cpu, rcx))
			sys_gp(cpu, 0);
		cpu->s.seg[X86_CS] = flat(sel + 16, ATTR_CODE64, 3);
		cpu->s.rip = rcx;
	} else {
		cpu->s.seg[X86_CS] = flat(sel, ATTR_CODE32, 3);
		cpu->s.rip = (uint32_t)rcx;
	}
	cpu->s.seg[X86_SS] = sysret_stack(cpu, sel + 8);
	if (soft_is_long(cpu))
		flags = (cpu->s.gpr[X86_R11] & SYSRET_FLAGS) | X86_FIXED;
	else
		flags = soft_flags_get(cpu) | X86_IF;
	soft_flags_set(cpu, flags);
	soft_mode_update(cpu);
}

static void need_sysenter(struct soft_cpu *cpu)
{
	if (soft_is_long(cpu) && sys_policy(cpu)->amd)
		sys_ud(cpu);
	if (soft_is_real(cpu) || !(cpu->s.sysenter_cs & 0xfffc))
		sys_gp(cpu, 0);
}

void sys_insn_sysenter(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned sel = cpu->s.sysenter_cs & 0xfffc;
	_Bool wide = soft_is_long(cpu);

	need_sysenter(cpu);
	cpu->s.rflags &= ~(uint64_t)(X86_VM | X86_IF | X86_RF);
	cpu->s.gpr[X86_RSP] = wide ? cpu->s.sysenter_esp : (uint32_t)cpu->s.sysenter_esp;
	cpu->s.rip = wide ? cpu->s.sysenter_eip : (uint32_t)cpu->s.sysenter_eip;
	cpu->s.seg[X86_CS] = flat(sel, wide ? ATTR_CODE64 : ATTR_CODE32, 0);
	cpu->s.seg[X86_SS] = flat(sel + 8, ATTR_DATA, 0);
	soft_mode_update(cpu);
}

void sys_insn_sysexit(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned sel = (cpu->s.sysenter_cs & 0xfffc) | 3;
	uint64_t rip = cpu->s.gpr[X86_RDX], rsp = cpu->s.gpr[X86_RCX];
	_Bool wide = i->osize == 8;

	sys_need_ring0(cpu);
	need_sysenter(cpu);
	if (wide && (!sys_canonical(cpu, rip) || !sys_canonical(cpu, rsp)))
		sys_gp(cpu, 0);
	cpu->s.rip = wide ? rip : (uint32_t)rip;
	cpu->s.gpr[X86_RSP] = wide ? rsp : (uint32_t)rsp;
	cpu->s.seg[X86_CS] = flat(sel + (wide ? 32 : 16), wide ? ATTR_CODE64 : ATTR_CODE32, 3);
	cpu->s.seg[X86_SS] = flat(sel + (wide ? 40 : 24), ATTR_DATA, 3);
	soft_mode_update(cpu);
}
