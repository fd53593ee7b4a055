/* sys_stack.c: pushes and pops of control transfers, and the stacks of inner rings. */
#include "engine/soft/sys.h"

static uint64_t stack_mask(const struct soft_cpu *cpu, const struct x86_seg *ss)
{
	if (soft_is64(cpu))
		return UINT64_MAX;
	return ss->attr & X86_SEG_DB ? 0xffffffff : 0xffff;
}

void sys_stack_current(struct soft_cpu *cpu, struct sys_stack *st)
{
	st->ss = cpu->s.seg[X86_SS];
	st->flat = soft_is64(cpu);
	st->mask = stack_mask(cpu, &st->ss);
	st->high = cpu->s.gpr[X86_RSP];
	st->sp = st->high & st->mask;
	st->same = 1;
	st->user = cpu->cpl == 3;
	st->error = 0;
}

uint64_t sys_stack_rsp(const struct sys_stack *st)
{
	if (st->mask == 0xffff)
		return (st->high & ~UINT64_C(0xffff)) | (st->sp & 0xffff);
	return st->sp & st->mask;
}

/* The linear address of `size` bytes at `sp`; #SS where the segment or the address space ends. */
static uint64_t stack_lin(struct soft_cpu *cpu, const struct sys_stack *st, uint64_t sp,
			  unsigned size)
{
	if (st->flat) {
		if (!sys_canonical(cpu, sp) || !sys_canonical(cpu, sp + size - 1))
			soft_raise_err(cpu, X86_VEC_SS, st->error);
		return sp;
	}
	/* As with all accesses, what follows the last byte of 4 GiB is the first on Intel's CPUs.
	 */
	if (st->ss.limit == UINT32_MAX && !(st->ss.attr & (X86_SEG_UNUSABLE | 4)) &&
	    !sys_policy(cpu)->amd)
		return (uint32_t)(st->ss.base + sp);
	if (st->ss.attr & X86_SEG_UNUSABLE || !seg_limit_allows(&st->ss, (uint32_t)sp, size))
		soft_raise_err(cpu, X86_VEC_SS, st->error);
	return (uint32_t)(st->ss.base + sp);
}

/* Moves the stack pointer by `step`. */
static void push(struct soft_cpu *cpu, struct sys_stack *st, unsigned step, unsigned size,
		 uint64_t v)
{
	uint64_t sp = (st->sp - step) & st->mask;
	uint64_t lin = stack_lin(cpu, st, sp, size);

	v &= size_mask(size);
	if (!st->same || (st->flat && !soft_is64(cpu)))
		soft_as_write(cpu, st->user, X86_SS, lin, size, v);
	else if (size == 8)
		soft_write64(cpu, X86_SS, lin, v);
	else if (size == 4)
		soft_write32(cpu, X86_SS, lin, (uint32_t)v);
	else
		soft_write16(cpu, X86_SS, lin, (uint16_t)v);
	st->sp = sp;
}

void sys_push(struct soft_cpu *cpu, struct sys_stack *st, unsigned size, uint64_t v)
{
	push(cpu, st, size, size, v);
}

void sys_push_selector(struct soft_cpu *cpu, struct sys_stack *st, unsigned size, uint16_t sel)
{
	push(cpu, st, size, size == 4 && !sys_policy(cpu)->amd ? 2 : size, sel);
}

uint64_t sys_pop(struct soft_cpu *cpu, struct sys_stack *st, unsigned size)
{
	uint64_t lin = stack_lin(cpu, st, st->sp, size), v;

	if (!st->same || (st->flat && !soft_is64(cpu)))
		v = soft_as_read(cpu, st->user, X86_SS, lin, size);
	else if (size == 8)
		v = soft_read64(cpu, X86_SS, lin);
	else if (size == 4)
		v = soft_read32(cpu, X86_SS, lin);
	else
		v = soft_read16(cpu, X86_SS, lin);
	st->sp = (st->sp + size) & st->mask;
	return v;
}

static _Bool tss_is_32(const struct soft_cpu *cpu)
{
	return X86_SEG_TYPE(cpu->s.tr.attr) & 8;
}

static uint64_t tss_lin(const struct soft_cpu *cpu, uint32_t offset)
{
	uint64_t lin = cpu->s.tr.base + offset;

	return soft_is_long(cpu) ? lin : (uint32_t)lin;
}

static void tss_need(struct soft_cpu *cpu, uint32_t offset, uint32_t size, uint32_t ext)
{
	if (cpu->s.tr.attr & X86_SEG_UNUSABLE || offset + size - 1 > cpu->s.tr.limit)
		soft_raise_err(cpu, X86_VEC_TS, (cpu->s.tr.selector & 0xfffcu) | ext);
}

uint64_t sys_tss_rsp(struct soft_cpu *cpu, unsigned slot, uint32_t ext)
{
	uint32_t offset = 4 + 8 * slot;
	uint64_t rsp;

	tss_need(cpu, offset, 8, ext);
	rsp = soft_sys_read(cpu, tss_lin(cpu, offset), 8);
	if (!sys_canonical(cpu, rsp))
		soft_raise_err(cpu, X86_VEC_SS, ext);
	return rsp;
}

/* The selector and pointer for a ring in a 16- or 32-bit TSS (SDM3 8.2.1, 8.6). */
static uint16_t tss_stack(struct soft_cpu *cpu, unsigned cpl, uint32_t ext, uint64_t *sp)
{
	unsigned word = tss_is_32(cpu) ? 4 : 2;
	uint32_t offset = word + 2 * word * cpl;

	tss_need(cpu, offset, word + 2, ext);
	*sp = soft_sys_read(cpu, tss_lin(cpu, offset), word);
	return (uint16_t)soft_sys_read(cpu, tss_lin(cpu, offset + word), 2);
}

void sys_stack_inner(struct soft_cpu *cpu, unsigned cpl, uint32_t ext, struct sys_stack *st)
{
	struct sys_desc d;
	uint16_t sel;
	uint32_t error;

	*st = (struct sys_stack){.user = 0};
	if (soft_is_long(cpu)) {
		st->sp = sys_tss_rsp(cpu, cpl, ext);
		st->mask = UINT64_MAX;
		st->flat = 1;
		st->ss = seg_null((uint16_t)cpl, cpl);
		st->error = ext;
		return;
	}
	sel = tss_stack(cpu, cpl, ext, &st->sp);
	error = (sel & 0xfffcu) | ext;
	if (X86_SEL_IS_NULL(sel) || !sys_desc_read(cpu, sel, &d))
		soft_raise_err(cpu, X86_VEC_TS, error);
	switch (seg_check_stack(d.lo, cpl, X86_SEL_RPL(sel))) {
	case -1: break;
	case X86_VEC_SS: soft_raise_err(cpu, X86_VEC_SS, error);
	default: soft_raise_err(cpu, X86_VEC_TS, error);
	}
	sys_desc_touch(cpu, &d);
	st->ss = seg_from_desc(sel, d.lo, 0);
	st->mask = st->ss.attr & X86_SEG_DB ? 0xffffffff : 0xffff;
	st->high = st->sp;
	st->sp &= st->mask;
	st->error = error;
}

void sys_check_rip(struct soft_cpu *cpu, const struct x86_seg *cs, uint64_t rip, uint32_t ext)
{
	_Bool good =
	    sys_code64(cpu, cs) ? sys_canonical(cpu, rip) : rip <= cs->limit && !(rip >> 32);

	if (!good)
		sys_gp(cpu, ext);
}
