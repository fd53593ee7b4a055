/* sys_seg.c: instructions on segment registers and selectors. */
#include "engine/soft/sys.h"

/* A 16-bit source operand: a register or memory. */
static uint16_t source16(struct soft_cpu *cpu, const struct insn *i, unsigned reg)
{
	if (i->flags & INSN_MEM)
		return soft_read16(cpu, i->seg, soft_lin(cpu, i, 2, 0));
	return insn_gpr16(cpu, reg);
}

void sys_insn_mov_to_seg(struct soft_cpu *cpu, const struct insn *i)
{
	sys_seg_load(cpu, i->aux, source16(cpu, i, i->r1));
	if (i->aux == X86_SS)
		cpu->s.shadow_ss = 1;
}

void sys_insn_mov_from_seg(struct soft_cpu *cpu, const struct insn *i)
{
	uint16_t sel = cpu->s.seg[i->aux].selector;

	if (i->flags & INSN_MEM)
		soft_write16(cpu, i->seg, soft_lin(cpu, i, 2, 1), sel);
	else
		insn_gpr_set(cpu, i->r1, i->osize, sel);
}

void sys_insn_push_seg(struct soft_cpu *cpu, const struct insn *i)
{
	struct sys_stack st;

	sys_stack_current(cpu, &st);
	sys_push_selector(cpu, &st, i->osize, cpu->s.seg[i->aux].selector);
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
}

void sys_insn_pop_seg(struct soft_cpu *cpu, const struct insn *i)
{
	struct sys_stack st;
	uint16_t sel;

	sys_stack_current(cpu, &st);
	sel = (uint16_t)sys_pop(cpu, &st, i->osize);
	sys_seg_load(cpu, i->aux, sel);
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	if (i->aux == X86_SS)
		cpu->s.shadow_ss = 1;
}

/* LDS, LES, LSS, LFS, LGS. AMD ignores REX.W. */
void sys_insn_load_far(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = i->osize == 8 && sys_policy(cpu)->amd ? 4 : i->osize;
	uint64_t offset;

	sys_seg_load(cpu, i->aux, sys_far_load(cpu, i, size, &offset));
	insn_gpr_set(cpu, i->r1, size, offset);
}

static void zf_set(struct soft_cpu *cpu, _Bool on)
{
	cpu->af = on ? cpu->af | SOFT_AF_ZF : cpu->af & ~SOFT_AF_ZF;
}

static void need_selectors(struct soft_cpu *cpu)
{
	if (!sys_has_selectors(cpu))
		sys_ud(cpu);
}

/* Is the descriptor visible at the present privilege, for LAR, LSL, VERR, VERW? Conforming code
 * always is. */
static _Bool desc_visible(const struct soft_cpu *cpu, uint16_t sel, uint64_t d)
{
	if (desc_is_code(d) && desc_type(d) & X86_TYPE_C)
		return 1;
	return desc_dpl(d) >= cpu->cpl && desc_dpl(d) >= X86_SEL_RPL(sel);
}

/* The system descriptors that LAR (and, with `limits`, LSL) answer for (SDM2 tables 3-53, 3-55). */
static _Bool type_known(const struct soft_cpu *cpu, unsigned type, _Bool limits)
{
	switch (type) {
	case X86_SYS_LDT:
	case X86_SYS_TSS32:
	case X86_SYS_TSS32_BUSY: return 1;
	case X86_SYS_TSS16:
	case X86_SYS_TSS16_BUSY: return !soft_is_long(cpu);
	case X86_SYS_CALL32: return !limits;
	case X86_SYS_CALL16:
	case X86_SYS_TASK: return !limits && !soft_is_long(cpu);
	default: return 0;
	}
}

static _Bool desc_inspect(struct soft_cpu *cpu, uint16_t sel, _Bool limits, uint64_t *out)
{
	struct sys_desc d;

	if (X86_SEL_IS_NULL(sel) || !sys_desc_read(cpu, sel, &d))
		return 0;
	if (desc_is_system(d.lo)) {
		if (!type_known(cpu, desc_type(d.lo), limits))
			return 0;
		/* the upper half must lie inside the table as well */
		if (soft_is_long(cpu) && !sys_desc_read_system(cpu, sel, &d))
			return 0;
	}
	*out = d.lo;
	return desc_visible(cpu, sel, d.lo);
}

void sys_insn_lar(struct soft_cpu *cpu, const struct insn *i)
{
	uint16_t sel;
	uint64_t d;
	_Bool ok;

	need_selectors(cpu);
	sel = source16(cpu, i, i->r2);
	ok = desc_inspect(cpu, sel, 0, &d);
	if (ok)
		insn_gpr_set(cpu, i->r1, i->osize, d >> 32 & (i->osize == 2 ? 0xff00 : 0xffff00));
	zf_set(cpu, ok);
}

void sys_insn_lsl(struct soft_cpu *cpu, const struct insn *i)
{
	uint16_t sel;
	uint64_t d;
	_Bool ok;

	need_selectors(cpu);
	sel = source16(cpu, i, i->r2);
	ok = desc_inspect(cpu, sel, 1, &d);
	if (ok)
		insn_gpr_set(cpu, i->r1, i->osize, desc_limit(d));
	zf_set(cpu, ok);
}

/* VERR (aux 0) and VERW (aux 1). */
void sys_insn_verr(struct soft_cpu *cpu, const struct insn *i)
{
	struct sys_desc d;
	uint16_t sel;
	_Bool ok = 0;

	need_selectors(cpu);
	sel = source16(cpu, i, i->r1);
	if (!X86_SEL_IS_NULL(sel) && sys_desc_read(cpu, sel, &d) && !desc_is_system(d.lo) &&
	    desc_visible(cpu, sel, d.lo)) {
		unsigned type = desc_type(d.lo);

		if (i->aux)
			ok = !(type & X86_TYPE_CODE) && type & X86_TYPE_W;
		else
			ok = !(type & X86_TYPE_CODE) || type & X86_TYPE_R;
	}
	zf_set(cpu, ok);
}

void sys_insn_arpl(struct soft_cpu *cpu, const struct insn *i)
{
	_Bool mem = i->flags & INSN_MEM, raise;
	uint64_t lin = 0;
	uint16_t dst, src;

	need_selectors(cpu);
	if (mem) {
		lin = soft_lin(cpu, i, 2, 1);
		dst = soft_read16(cpu, i->seg, lin);
		src = insn_gpr16(cpu, i->r1);
	} else {
		dst = insn_gpr16(cpu, i->r1);
		src = insn_gpr16(cpu, i->r2);
	}
	raise = X86_SEL_RPL(dst) < X86_SEL_RPL(src);
	dst = (uint16_t)((dst & ~3u) | X86_SEL_RPL(src));
	if (raise && mem)
		soft_write16(cpu, i->seg, lin, dst);
	else if (raise)
		insn_gpr_set(cpu, i->r1, 2, dst);
	zf_set(cpu, raise);
}
