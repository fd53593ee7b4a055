/* sys_flags.c: CLI, STI, PUSHF, POPF, STAC and CLAC, with IOPL and the virtual interrupt flag. */
#include "engine/soft/sys.h"

/* Who may touch IF itself: everybody up to IOPL; else VIF where VME or PVI says so; else #GP
 * (SDM2 CLI, STI; SDM3 20.3.2, 20.4). True: IF. */
static _Bool if_or_vif(struct soft_cpu *cpu)
{
	_Bool v86 = soft_is_v86(cpu), virtual;

	if (soft_is_real(cpu) || (v86 ? 3 : cpu->cpl) <= sys_iopl(cpu))
		return 1;
	virtual = v86 ? cpu->s.cr4 & X86_CR4_VME : cpu->cpl == 3 && cpu->s.cr4 & X86_CR4_PVI;
	if (!virtual)
		sys_gp(cpu, 0);
	return 0;
}

void sys_insn_cli(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->s.rflags &= ~(uint64_t)(if_or_vif(cpu) ? X86_IF : X86_VIF);
}

void sys_insn_sti(struct soft_cpu *cpu, const struct insn *i)
{
	if (if_or_vif(cpu)) {
		if (!(cpu->s.rflags & X86_IF))
			cpu->s.shadow_sti = 1;
		cpu->s.rflags |= X86_IF;
	} else {
		if (cpu->s.rflags & X86_VIP)
			sys_gp(cpu, 0);
		cpu->s.rflags |= X86_VIF;
	}
}

/* STI with the next instruction in its block: that one is executed before events are looked at, so
 * it needs no note of the shadow. */
void sys_insn_sti_within(struct soft_cpu *cpu, const struct insn *i)
{
	if (cpu->alone || !if_or_vif(cpu))
		sys_insn_sti(cpu, i);
	else
		cpu->s.rflags |= X86_IF;
}

/* Virtual-8086 mode below IOPL 3: #GP, or with VME the 16-bit forms act on VIF. */
static _Bool flags_virtual(struct soft_cpu *cpu, const struct insn *i)
{
	if (!soft_is_v86(cpu) || sys_iopl(cpu) == 3)
		return 0;
	if (!(cpu->s.cr4 & X86_CR4_VME) || i->osize != 2)
		sys_gp(cpu, 0);
	return 1;
}

void sys_insn_pushf(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t flags = soft_flags_get(cpu) & ~(uint64_t)(X86_RF | X86_VM);
	struct sys_stack st;

	if (flags_virtual(cpu, i)) {
		_Bool vif = flags & X86_VIF;

		flags = (flags & ~(uint64_t)X86_IF) | X86_IOPL | (vif ? X86_IF : 0);
	}
	sys_stack_current(cpu, &st);
	sys_push(cpu, &st, i->osize, flags);
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
}

static uint64_t popf_vme(struct soft_cpu *cpu, uint64_t v)
{
	const uint64_t mask = X86_ARITH | X86_TF | X86_DF | X86_NT;
	uint64_t flags = (soft_flags_get(cpu) & ~(mask | X86_VIF | X86_RF)) | (v & mask);

	if (v & X86_TF || (v & X86_IF && cpu->s.rflags & X86_VIP))
		sys_gp(cpu, 0);
	return v & X86_IF ? flags | X86_VIF : flags;
}

void sys_insn_popf(struct soft_cpu *cpu, const struct insn *i)
{
	_Bool vme = flags_virtual(cpu, i);
	struct sys_stack st;
	uint64_t v;

	sys_stack_current(cpu, &st);
	v = sys_pop(cpu, &st, i->osize);
	v = vme ? popf_vme(cpu, v) : sys_flags_merge(cpu, v, i->osize, 0);
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	soft_flags_set(cpu, v);
	soft_mode_update(cpu);
}

static void ac_write(struct soft_cpu *cpu, uint64_t ac)
{
	if (!cpuid_has(sys_policy(cpu), 7, 0, CPUID_EBX, 20) || cpu->cpl)
		sys_ud(cpu);
	cpu->s.rflags = (cpu->s.rflags & ~(uint64_t)X86_AC) | ac;
	soft_mode_update(cpu);
}

void sys_insn_stac(struct soft_cpu *cpu, const struct insn *i)
{
	ac_write(cpu, X86_AC);
}

void sys_insn_clac(struct soft_cpu *cpu, const struct insn *i)
{
	ac_write(cpu, 0);
}
