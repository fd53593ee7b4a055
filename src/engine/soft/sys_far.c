/* sys_far.c: far JMP and CALL: code segments, call gates, tasks. */
#include "engine/soft/sys.h"

uint16_t sys_far_load(struct soft_cpu *cpu, const struct insn *i, unsigned size, uint64_t *offset)
{
	uint64_t lin = soft_lin(cpu, i, size + 2, 0);
	uint8_t buf[10];

	/* Intel's CPUs ask alignment of the offset, AMD's of the whole where it has a power's size.
	 */
	if (soft_amd(cpu)) {
		soft_load(cpu, i->seg, lin, buf, size + 2);
	} else {
		soft_align(cpu, i->seg, lin, size);
		soft_load_bytes(cpu, i->seg, lin, buf, size + 2);
	}
	*offset = 0;
	memcpy(offset, buf, size);
	return (uint16_t)(buf[size] | buf[size + 1] << 8);
}

/* Where the pointer comes from: the instruction itself (aux: selector, imm: offset; no INSN_MEM) or
 * memory. */
static uint16_t far_pointer(struct soft_cpu *cpu, const struct insn *i, unsigned size,
			    uint64_t *offset)
{
	if (i->flags & INSN_MEM)
		return sys_far_load(cpu, i, size, offset);
	*offset = i->imm & size_mask(size);
	return (uint16_t)i->aux;
}

/* AMD has no 64-bit far pointers: REX.W is ignored (APM3 CALL, JMP). */
static unsigned far_size(const struct soft_cpu *cpu, const struct insn *i)
{
	return i->osize == 8 && sys_policy(cpu)->amd ? 4 : i->osize;
}

static void push_return(struct soft_cpu *cpu, const struct insn *i, struct sys_stack *st,
			unsigned size)
{
	sys_push(cpu, st, size, cpu->s.seg[X86_CS].selector);
	sys_push(cpu, st, size, soft_next_rip(cpu, i));
}

static void go(struct soft_cpu *cpu, const struct x86_seg *cs, uint64_t rip)
{
	cpu->s.seg[X86_CS] = *cs;
	cpu->s.rip = rip;
	soft_mode_update(cpu);
}

static void far_real(struct soft_cpu *cpu, const struct insn *i, uint16_t sel, uint64_t offset,
		     _Bool call)
{
	struct x86_seg cs = cpu->s.seg[X86_CS];
	struct sys_stack st;

	seg_load_real(&cs, sel, soft_is_v86(cpu));
	sys_check_rip(cpu, &cs, offset, 0);
	if (call) {
		sys_stack_current(cpu, &st);
		push_return(cpu, i, &st, i->osize);
		cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	}
	go(cpu, &cs, offset);
}

static void far_code(struct soft_cpu *cpu, const struct insn *i, uint16_t sel, struct sys_desc *d,
		     uint64_t offset, _Bool call)
{
	uint32_t error = sel & 0xfffcu;
	unsigned dpl = desc_dpl(d->lo);
	struct x86_seg cs;
	struct sys_stack st;

	if (desc_type(d->lo) & X86_TYPE_C ? dpl > cpu->cpl
					  : X86_SEL_RPL(sel) > cpu->cpl || dpl != cpu->cpl)
		sys_gp(cpu, error);
	if (soft_is_long(cpu) && desc_attr(d->lo) & X86_SEG_L && desc_attr(d->lo) & X86_SEG_DB)
		sys_gp(cpu, error);
	if (!desc_present(d->lo))
		soft_raise_err(cpu, X86_VEC_NP, error);
	cs = seg_from_desc((uint16_t)((sel & ~3u) | cpu->cpl), d->lo, 0);
	sys_check_rip(cpu, &cs, offset, 0);
	sys_desc_touch(cpu, d);
	if (call) {
		sys_stack_current(cpu, &st);
		push_return(cpu, i, &st, far_size(cpu, i));
		cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	}
	go(cpu, &cs, offset);
}

/* The code segment behind a call gate; its DPL decides the new privilege level. */
static struct x86_seg gate_code(struct soft_cpu *cpu, const struct x86_gate *gate, _Bool call)
{
	uint16_t sel = gate->selector;
	uint32_t error = sel & 0xfffcu;
	struct sys_desc d;
	unsigned dpl, cpl;

	if (X86_SEL_IS_NULL(sel))
		sys_gp(cpu, 0);
	if (!sys_desc_read(cpu, sel, &d) || !desc_is_code(d.lo))
		sys_gp(cpu, error);
	dpl = desc_dpl(d.lo);
	if (dpl > cpu->cpl || (!call && !(desc_type(d.lo) & X86_TYPE_C) && dpl != cpu->cpl))
		sys_gp(cpu, error);
	if (soft_is_long(cpu) && (desc_attr(d.lo) & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
		sys_gp(cpu, error);
	if (!desc_present(d.lo))
		soft_raise_err(cpu, X86_VEC_NP, error);
	sys_desc_touch(cpu, &d);
	cpl = desc_type(d.lo) & X86_TYPE_C ? cpu->cpl : dpl;
	return seg_from_desc((uint16_t)((sel & ~3u) | cpl), d.lo, 0);
}

/* Parameters go from the old stack to the new one, in their order (SDM3 5.8.5). */
static void copy_parameters(struct soft_cpu *cpu, struct sys_stack *to, unsigned count,
			    unsigned size)
{
	uint64_t v[31];
	struct sys_stack from;

	sys_stack_current(cpu, &from);
	for (unsigned n = 0; n < count; n++)
		v[n] = sys_pop(cpu, &from, size);
	while (count)
		sys_push(cpu, to, size, v[--count]);
}

static void far_gate(struct soft_cpu *cpu, const struct insn *i, const struct sys_desc *d,
		     _Bool call)
{
	struct x86_gate gate = gate_decode(d->lo, d->hi & 0xffffffff);
	struct x86_seg cs = gate_code(cpu, &gate, call);
	unsigned cpl = X86_SEL_RPL(cs.selector);
	unsigned size = soft_is_long(cpu) ? 8 : gate.type & 8 ? 4 : 2;
	_Bool inner = cpl < cpu->cpl;
	struct sys_stack st;

	sys_check_rip(cpu, &cs, gate.offset, 0);
	if (!call) {
		go(cpu, &cs, gate.offset);
		return;
	}
	if (inner) {
		sys_stack_inner(cpu, cpl, 0, &st);
		sys_push(cpu, &st, size, cpu->s.seg[X86_SS].selector);
		sys_push(cpu, &st, size, cpu->s.gpr[X86_RSP]);
		if (!soft_is_long(cpu))
			copy_parameters(cpu, &st, gate.count, size);
	} else {
		sys_stack_current(cpu, &st);
		if (soft_is_long(cpu)) { /* the gate leads to 64-bit code, whatever runs now */
			st.flat = 1;
			st.mask = UINT64_MAX;
			st.sp = cpu->s.gpr[X86_RSP];
		}
	}
	push_return(cpu, i, &st, size);
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	if (inner)
		cpu->s.seg[X86_SS] = st.ss;
	go(cpu, &cs, gate.offset);
}

/* A task gate's TSS selector, or the TSS descriptor itself. */
static void far_task(struct soft_cpu *cpu, const struct insn *i, uint16_t sel, _Bool call)
{
	sys_task_switch(cpu, sel, call ? SYS_TASK_CALL : SYS_TASK_JMP, soft_next_rip(cpu, i),
			soft_flags_get(cpu), NULL, 0);
}

static void far_system(struct soft_cpu *cpu, const struct insn *i, uint16_t sel, _Bool call)
{
	uint32_t error = sel & 0xfffcu;
	struct sys_desc d;
	unsigned dpl;

	if (!sys_desc_read_system(cpu, sel, &d))
		sys_gp(cpu, error);
	dpl = desc_dpl(d.lo);
	switch (desc_type(d.lo)) {
	case X86_SYS_CALL32: break;
	case X86_SYS_TSS16:
	case X86_SYS_CALL16:
	case X86_SYS_TASK:
	case X86_SYS_TSS32:
		if (!soft_is_long(cpu))
			break;
		sys_gp(cpu, error);
	default: sys_gp(cpu, error);
	}
	if (dpl < cpu->cpl || dpl < X86_SEL_RPL(sel) || (d.hi >> 40 & 31))
		sys_gp(cpu, error);
	if (!desc_present(d.lo))
		soft_raise_err(cpu, X86_VEC_NP, error);
	if (desc_type(d.lo) == X86_SYS_TASK)
		far_task(cpu, i, (uint16_t)(d.lo >> 16), call);
	else if (desc_type(d.lo) == X86_SYS_TSS16 || desc_type(d.lo) == X86_SYS_TSS32)
		far_task(cpu, i, sel, call);
	else
		far_gate(cpu, i, &d, call);
}

static void far_transfer(struct soft_cpu *cpu, const struct insn *i, _Bool call)
{
	uint64_t offset;
	uint16_t sel = far_pointer(cpu, i, far_size(cpu, i), &offset);
	struct sys_desc d;

	if (!sys_has_selectors(cpu)) {
		far_real(cpu, i, sel, offset, call);
		return;
	}
	if (X86_SEL_IS_NULL(sel))
		sys_gp(cpu, 0);
	if (!sys_desc_read(cpu, sel, &d))
		sys_gp(cpu, sel & 0xfffcu);
	if (desc_is_code(d.lo))
		far_code(cpu, i, sel, &d, offset, call);
	else if (desc_is_system(d.lo))
		far_system(cpu, i, sel, call);
	else
		sys_gp(cpu, sel & 0xfffcu);
}

void sys_insn_jmp_far(struct soft_cpu *cpu, const struct insn *i)
{
	far_transfer(cpu, i, 0);
}

void sys_insn_call_far(struct soft_cpu *cpu, const struct insn *i)
{
	far_transfer(cpu, i, 1);
}
