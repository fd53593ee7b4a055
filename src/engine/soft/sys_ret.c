/* sys_ret.c: IRET and far RET. */
#include "engine/soft/sys.h"

/* Flags that both load at any privilege. */
#define FLAGS_USER (X86_ARITH | X86_TF | X86_DF | X86_NT)

uint64_t sys_flags_merge(struct soft_cpu *cpu, uint64_t value, unsigned size, _Bool iret)
{
	uint64_t old = soft_flags_get(cpu), mask = FLAGS_USER;
	unsigned cpl = cpu->cpl;

	if (size > 2)
		mask |= X86_AC | X86_ID | (iret ? X86_RF : 0);
	if (soft_is_v86(cpu)) {
		mask |= X86_IF; /* the callers have checked IOPL */
	} else {
		if (cpl <= sys_iopl(cpu))
			mask |= X86_IF;
		if (cpl == 0)
			mask |= X86_IOPL;
		if (cpl == 0 && size > 2 && iret && !soft_is_real(cpu))
			mask |= X86_VIF | X86_VIP;
	}
	return ((old & ~mask) | (value & mask) | X86_FIXED) & ~(iret ? 0 : (uint64_t)X86_RF);
}

static void iret_real(struct soft_cpu *cpu, const struct insn *i)
{
	struct x86_seg cs = cpu->s.seg[X86_CS];
	struct sys_stack st;
	uint64_t rip, sel, flags;

	sys_stack_current(cpu, &st);
	rip = sys_pop(cpu, &st, i->osize);
	sel = sys_pop(cpu, &st, i->osize);
	flags = sys_pop(cpu, &st, i->osize);
	seg_load_real(&cs, (uint16_t)sel, soft_is_v86(cpu));
	sys_check_rip(cpu, &cs, rip, 0);
	flags = sys_flags_merge(cpu, flags, i->osize, 1);
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	cpu->s.seg[X86_CS] = cs;
	cpu->s.rip = rip;
	soft_flags_set(cpu, flags);
	soft_mode_update(cpu);
}

/* Virtual-8086 mode with VME and IOPL below 3: 16-bit, and IF is VIF (SDM3 20.3.2). */
static void iret_vme(struct soft_cpu *cpu, const struct insn *i)
{
	const uint64_t mask = FLAGS_USER;
	struct x86_seg cs = cpu->s.seg[X86_CS];
	uint64_t rip, sel, image, flags;
	struct sys_stack st;

	if (!(cpu->s.cr4 & X86_CR4_VME) || i->osize != 2)
		sys_gp(cpu, 0);
	sys_stack_current(cpu, &st);
	rip = sys_pop(cpu, &st, 2);
	sel = sys_pop(cpu, &st, 2);
	image = sys_pop(cpu, &st, 2);
	if (image & X86_TF || (image & X86_IF && cpu->s.rflags & X86_VIP))
		sys_gp(cpu, 0);
	seg_load_real(&cs, (uint16_t)sel, 1);
	sys_check_rip(cpu, &cs, rip, 0);
	flags = (soft_flags_get(cpu) & ~(mask | X86_VIF)) | (image & mask);
	if (image & X86_IF)
		flags |= X86_VIF;
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	cpu->s.seg[X86_CS] = cs;
	cpu->s.rip = rip;
	soft_flags_set(cpu, flags);
	soft_mode_update(cpu);
}

/* From ring 0 into virtual-8086 mode: nine dwords in all. */
static void iret_to_v86(struct soft_cpu *cpu, struct sys_stack *st, uint32_t rip, uint16_t cs,
			uint64_t flags)
{
	static const uint8_t order[] = {X86_ES, X86_DS, X86_FS, X86_GS};
	uint16_t sel[6] = {0};
	uint64_t rsp = sys_pop(cpu, st, 4);

	sel[X86_CS] = cs;
	sel[X86_SS] = (uint16_t)sys_pop(cpu, st, 4);
	for (unsigned i = 0; i < sizeof(order); i++)
		sel[order[i]] = (uint16_t)sys_pop(cpu, st, 4);
	if (rip > 0xffff)
		sys_gp(cpu, 0);
	for (unsigned i = 0; i < 6; i++)
		seg_load_real(&cpu->s.seg[i], sel[i], 1);
	cpu->s.gpr[X86_RSP] = rsp;
	cpu->s.rip = rip;
	soft_flags_set(cpu, (flags & (FLAGS_USER | X86_IF | X86_IOPL | X86_RF | X86_VM | X86_AC |
				      X86_VIF | X86_VIP | X86_ID)) |
				X86_FIXED);
	soft_mode_update(cpu);
}

/* The code segment that a far return goes to: its checks (SDM2 RET, IRET). */
static struct x86_seg return_code(struct soft_cpu *cpu, uint16_t sel)
{
	unsigned rpl = X86_SEL_RPL(sel), dpl;
	uint32_t error = sel & 0xfffcu;
	struct sys_desc d;

	if (X86_SEL_IS_NULL(sel))
		sys_gp(cpu, 0);
	if (!sys_desc_read(cpu, sel, &d) || !desc_is_code(d.lo) || rpl < cpu->cpl)
		sys_gp(cpu, error);
	dpl = desc_dpl(d.lo);
	if (desc_type(d.lo) & X86_TYPE_C ? dpl > rpl : dpl != rpl)
		sys_gp(cpu, error);
	if (soft_is_long(cpu) && desc_attr(d.lo) & X86_SEG_L && desc_attr(d.lo) & X86_SEG_DB)
		sys_gp(cpu, error);
	if (!desc_present(d.lo))
		soft_raise_err(cpu, X86_VEC_NP, error);
	sys_desc_touch(cpu, &d);
	return seg_from_desc(sel, d.lo, 0);
}

/* The stack segment it goes to. Null is fine in 64-bit code of rings 0 to 2. */
static struct x86_seg return_stack(struct soft_cpu *cpu, uint16_t sel, const struct x86_seg *cs)
{
	unsigned rpl = X86_SEL_RPL(cs->selector);
	struct sys_desc d;
	int vector;

	if (X86_SEL_IS_NULL(sel)) {
		if (!sys_code64(cpu, cs) || rpl == 3 || X86_SEL_RPL(sel) != rpl)
			sys_gp(cpu, sel & 0xfffcu);
		return seg_null(sel, rpl);
	}
	if (!sys_desc_read(cpu, sel, &d))
		sys_gp(cpu, sel & 0xfffcu);
	vector = seg_check_stack(d.lo, rpl, X86_SEL_RPL(sel));
	if (vector >= 0)
		soft_raise_err(cpu, (unsigned)vector, sel & 0xfffcu);
	sys_desc_touch(cpu, &d);
	return seg_from_desc(sel, d.lo, 0);
}

/* Writes the stack pointer of the segment returned to: all of it, or SP alone. */
static void rsp_commit(struct soft_cpu *cpu, const struct x86_seg *cs, const struct x86_seg *ss,
		       uint64_t rsp)
{
	uint64_t *reg = &cpu->s.gpr[X86_RSP];

	if (sys_code64(cpu, cs))
		*reg = rsp;
	else if (ss->attr & X86_SEG_DB)
		*reg = (uint32_t)rsp;
	else
		*reg = (*reg & ~UINT64_C(0xffff)) | (rsp & 0xffff);
}

static void iret_protected(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = i->osize, rpl;
	struct x86_seg cs, ss = cpu->s.seg[X86_SS];
	uint64_t rip, flags, rsp;
	struct sys_stack st;
	_Bool outer;
	uint16_t sel;

	sys_stack_current(cpu, &st);
	rip = sys_pop(cpu, &st, size);
	sel = (uint16_t)sys_pop(cpu, &st, size);
	flags = sys_pop(cpu, &st, size);
	if (flags & X86_VM && size == 4 && cpu->cpl == 0 && !soft_is_long(cpu)) {
		iret_to_v86(cpu, &st, (uint32_t)rip, sel, flags);
		return;
	}
	cs = return_code(cpu, sel);
	rpl = X86_SEL_RPL(sel);
	outer = rpl > cpu->cpl;
	if (outer || soft_is64(cpu)) {
		rsp = sys_pop(cpu, &st, size);
		ss = return_stack(cpu, (uint16_t)sys_pop(cpu, &st, size), &cs);
	} else {
		rsp = sys_stack_rsp(&st);
	}
	sys_check_rip(cpu, &cs, rip, 0);
	flags = sys_flags_merge(cpu, flags, size, 1);
	if (outer || soft_is64(cpu))
		rsp_commit(cpu, &cs, &ss, rsp);
	else
		cpu->s.gpr[X86_RSP] = rsp;
	cpu->s.seg[X86_CS] = cs;
	cpu->s.seg[X86_SS] = ss;
	cpu->s.rip = rip;
	if (outer)
		sys_seg_hide(cpu, rpl);
	soft_flags_set(cpu, flags);
	soft_mode_update(cpu);
}

/* NT: back to the task whose selector is in the first word of this one's TSS (SDM3 8.4). */
static void iret_task(struct soft_cpu *cpu, const struct insn *i)
{
	uint16_t link;

	if (soft_is_long(cpu))
		sys_gp(cpu, 0);
	link = (uint16_t)soft_sys_read(cpu, (uint32_t)cpu->s.tr.base, 2);
	sys_task_switch(cpu, link, SYS_TASK_IRET, soft_next_rip(cpu, i), soft_flags_get(cpu), NULL,
			0);
}

void sys_insn_iret(struct soft_cpu *cpu, const struct insn *i)
{
	/* Even an IRET that faults lets NMIs in again (SDM3 6.7.1). */
	cpu->s.nmi_masked = 0;
	cpu->rf_loaded = i->osize > 2; /* unless it faults */
	if (soft_is_v86(cpu) && sys_iopl(cpu) < 3)
		iret_vme(cpu, i);
	else if (!sys_has_selectors(cpu))
		iret_real(cpu, i);
	else if (cpu->s.rflags & X86_NT)
		iret_task(cpu, i);
	else
		iret_protected(cpu, i);
}

static void retf_real(struct soft_cpu *cpu, const struct insn *i)
{
	struct x86_seg cs = cpu->s.seg[X86_CS];
	struct sys_stack st;
	uint64_t rip;

	sys_stack_current(cpu, &st);
	rip = sys_pop(cpu, &st, i->osize);
	seg_load_real(&cs, (uint16_t)sys_pop(cpu, &st, i->osize), soft_is_v86(cpu));
	sys_check_rip(cpu, &cs, rip, 0);
	st.sp = (st.sp + i->imm) & st.mask;
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	cpu->s.seg[X86_CS] = cs;
	cpu->s.rip = rip;
	soft_mode_update(cpu);
}

static void retf_outer(struct soft_cpu *cpu, const struct insn *i, struct sys_stack *st,
		       const struct x86_seg *cs, uint64_t rip)
{
	uint64_t rsp;
	struct x86_seg ss;

	st->sp = (st->sp + i->imm) & st->mask;
	rsp = sys_pop(cpu, st, i->osize);
	ss = return_stack(cpu, (uint16_t)sys_pop(cpu, st, i->osize), cs);
	sys_check_rip(cpu, cs, rip, 0);
	rsp_commit(cpu, cs, &ss, rsp);
	rsp_commit(cpu, cs, &ss, cpu->s.gpr[X86_RSP] + i->imm);
	cpu->s.seg[X86_CS] = *cs;
	cpu->s.seg[X86_SS] = ss;
	cpu->s.rip = rip;
	sys_seg_hide(cpu, X86_SEL_RPL(cs->selector));
	soft_mode_update(cpu);
}

void sys_insn_retf(struct soft_cpu *cpu, const struct insn *i)
{
	struct sys_stack st;
	struct x86_seg cs;
	uint64_t rip;
	uint16_t sel;

	if (!sys_has_selectors(cpu)) {
		retf_real(cpu, i);
		return;
	}
	sys_stack_current(cpu, &st);
	rip = sys_pop(cpu, &st, i->osize);
	sel = (uint16_t)sys_pop(cpu, &st, i->osize);
	cs = return_code(cpu, sel);
	if (X86_SEL_RPL(sel) > cpu->cpl) {
		retf_outer(cpu, i, &st, &cs, rip);
		return;
	}
	sys_check_rip(cpu, &cs, rip, 0);
	st.sp = (st.sp + i->imm) & st.mask;
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	cpu->s.seg[X86_CS] = cs;
	cpu->s.rip = rip;
	soft_mode_update(cpu);
}
