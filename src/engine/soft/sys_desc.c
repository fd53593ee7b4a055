/* sys_desc.c: descriptor tables and segment loads. */
#include <stdatomic.h>
#include "engine/soft/sys.h"

void sys_gp(struct soft_cpu *cpu, uint32_t error)
{
	soft_raise_err(cpu, X86_VEC_GP, error);
}

void sys_ud(struct soft_cpu *cpu)
{
	soft_raise(cpu, X86_VEC_UD);
}

static uint64_t table_lin(const struct soft_cpu *cpu, uint64_t lin)
{
	return soft_is_long(cpu) ? lin : (uint32_t)lin;
}

static _Bool desc_locate(struct soft_cpu *cpu, uint16_t sel, unsigned size, struct sys_desc *d)
{
	uint64_t base = cpu->s.gdt.base;
	uint32_t limit = cpu->s.gdt.limit;

	if (sel & X86_SEL_TI) {
		if (cpu->s.ldt.attr & X86_SEG_UNUSABLE)
			return 0;
		base = cpu->s.ldt.base;
		limit = cpu->s.ldt.limit;
	}
	if (X86_SEL_INDEX(sel) + size - 1 > limit)
		return 0;
	d->lin = table_lin(cpu, base + X86_SEL_INDEX(sel));
	return 1;
}

_Bool sys_desc_read(struct soft_cpu *cpu, uint16_t sel, struct sys_desc *d)
{
	if (!desc_locate(cpu, sel, 8, d))
		return 0;
	d->lo = soft_sys_read(cpu, d->lin, 8);
	d->hi = 0;
	return 1;
}

_Bool sys_desc_read_system(struct soft_cpu *cpu, uint16_t sel, struct sys_desc *d)
{
	if (!soft_is_long(cpu))
		return sys_desc_read(cpu, sel, d);
	if (!desc_locate(cpu, sel, 16, d))
		return 0;
	d->lo = soft_sys_read(cpu, d->lin, 8);
	d->hi = soft_sys_read(cpu, d->lin + 8, 8);
	return 1;
}

/*
 * Other CPUs share the tables, so the update is one atomic operation on RAM. The probe has raised
 * what a write would raise; after it the translation is good. Where the table is in no RAM (a ROM),
 * a plain write does what the bus does.
 */
void sys_desc_set(struct soft_cpu *cpu, struct sys_desc *d, uint32_t set, uint32_t clear)
{
	struct gmem *mem = cpu->base.engine->env->mem;
	uint64_t lin = table_lin(cpu, d->lin + 4), phys;
	_Atomic uint32_t *p = NULL;

	soft_sys_probe(cpu, lin, 4, 1);
	/* Lock-step has to hear of the store. */
	if (!cpu->lockstep && !(lin & 3) && !soft_translate(cpu, lin, &phys))
		p = gmem_ptr(mem, gpa(phys), 4, 1);
	if (p && set)
		atomic_fetch_or(p, set);
	if (p && clear)
		atomic_fetch_and(p, ~clear);
	d->lo = (d->lo | (uint64_t)set << 32) & ~((uint64_t)clear << 32);
	if (p)
		gmem_dirty(mem, gpa(phys), 4);
	else
		soft_sys_write(cpu, lin, 4, d->lo >> 32);
}

void sys_desc_touch(struct soft_cpu *cpu, struct sys_desc *d)
{
	if (!(desc_type(d->lo) & X86_TYPE_A))
		sys_desc_set(cpu, d, BIT32(8), 0);
}

static struct x86_seg seg_make_null(struct soft_cpu *cpu, unsigned seg, uint16_t sel)
{
	if (seg == X86_SS && (!soft_is64(cpu) || cpu->cpl == 3 || X86_SEL_RPL(sel) != cpu->cpl))
		sys_gp(cpu, 0);
	return seg_null(sel, seg == X86_SS ? cpu->cpl : 0);
}

struct x86_seg sys_seg_make(struct soft_cpu *cpu, unsigned seg, uint16_t sel)
{
	struct sys_desc d;
	int vector;

	if (!sys_has_selectors(cpu)) {
		struct x86_seg s = cpu->s.seg[seg];

		seg_load_real(&s, sel, soft_is_v86(cpu));
		return s;
	}
	if (X86_SEL_IS_NULL(sel))
		return seg_make_null(cpu, seg, sel);
	if (!sys_desc_read(cpu, sel, &d))
		sys_gp(cpu, sel & 0xfffcu);
	vector = seg == X86_SS ? seg_check_stack(d.lo, cpu->cpl, X86_SEL_RPL(sel))
			       : seg_check_data(d.lo, cpu->cpl, X86_SEL_RPL(sel));
	if (vector >= 0)
		soft_raise_err(cpu, (unsigned)vector, sel & 0xfffcu);
	sys_desc_touch(cpu, &d);
	return seg_from_desc(sel, d.lo, 0);
}

void sys_seg_load(struct soft_cpu *cpu, unsigned seg, uint16_t sel)
{
	cpu->s.seg[seg] = sys_seg_make(cpu, seg, sel);
	soft_mode_update(cpu);
}

void sys_seg_hide(struct soft_cpu *cpu, unsigned new_cpl)
{
	static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};

	for (unsigned i = 0; i < sizeof(data); i++) {
		struct x86_seg *s = &cpu->s.seg[data[i]];

		if (!seg_hidden_from(s, new_cpl))
			continue;
		if (s->attr & X86_SEG_UNUSABLE)
			s->selector = 0; /* a base that WRFSBASE made stays */
		else
			*s = seg_null(0, 0);
	}
}
