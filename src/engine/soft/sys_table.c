/* sys_table.c: GDTR, IDTR, LDTR and TR. */
#include "engine/soft/sys.h"

static void table_load(struct soft_cpu *cpu, const struct insn *i, struct x86_table *table)
{
	unsigned size = soft_is64(cpu) ? 8 : 4;
	uint8_t buf[10];
	uint64_t base = 0;

	sys_need_ring0(cpu);
	soft_load(cpu, i->seg, soft_lin(cpu, i, size + 2, 0), buf, size + 2);
	memcpy(&base, buf + 2, size);
	if (size == 4 && i->osize == 2)
		base &= 0xffffff;
	if (size == 8 && !sys_canonical(cpu, base))
		sys_gp(cpu, 0);
	table->base = base;
	table->limit = (uint16_t)(buf[0] | buf[1] << 8);
}

static void need_no_umip(struct soft_cpu *cpu)
{
	if (cpu->cpl && cpu->s.cr4 & X86_CR4_UMIP)
		sys_gp(cpu, 0);
}

static void table_store(struct soft_cpu *cpu, const struct insn *i, const struct x86_table *table)
{
	unsigned size = soft_is64(cpu) ? 8 : 4;
	uint8_t buf[10];

	need_no_umip(cpu);
	memcpy(buf, &table->limit, 2);
	memcpy(buf + 2, &table->base, size);
	soft_store(cpu, i->seg, soft_lin(cpu, i, size + 2, 1), buf, size + 2);
}

void sys_insn_lgdt(struct soft_cpu *cpu, const struct insn *i)
{
	table_load(cpu, i, &cpu->s.gdt);
}

void sys_insn_lidt(struct soft_cpu *cpu, const struct insn *i)
{
	table_load(cpu, i, &cpu->s.idt);
}

void sys_insn_sgdt(struct soft_cpu *cpu, const struct insn *i)
{
	table_store(cpu, i, &cpu->s.gdt);
}

void sys_insn_sidt(struct soft_cpu *cpu, const struct insn *i)
{
	table_store(cpu, i, &cpu->s.idt);
}

static uint16_t source(struct soft_cpu *cpu, const struct insn *i)
{
	if (!sys_has_selectors(cpu))
		sys_ud(cpu);
	sys_need_ring0(cpu);
	if (i->flags & INSN_MEM)
		return soft_read16(cpu, i->seg, soft_lin(cpu, i, 2, 0));
	return insn_gpr16(cpu, i->r1);
}

/* The descriptor of an LDT or an available TSS; they live in the GDT alone. */
static struct sys_desc system_desc(struct soft_cpu *cpu, uint16_t sel)
{
	uint32_t error = sel & 0xfffcu;
	struct sys_desc d;

	if (sel & X86_SEL_TI || !sys_desc_read_system(cpu, sel, &d) || !desc_is_system(d.lo))
		sys_gp(cpu, error);
	if (soft_is_long(cpu) &&
	    ((d.hi >> 40 & 31) || !sys_canonical(cpu, desc_base(d.lo) | d.hi << 32)))
		sys_gp(cpu, error);
	return d;
}

void sys_insn_lldt(struct soft_cpu *cpu, const struct insn *i)
{
	uint16_t sel = source(cpu, i);
	struct sys_desc d;

	if (X86_SEL_IS_NULL(sel)) {
		cpu->s.ldt = seg_null(sel, 0);
		return;
	}
	d = system_desc(cpu, sel);
	if (desc_type(d.lo) != X86_SYS_LDT)
		sys_gp(cpu, sel & 0xfffcu);
	if (!desc_present(d.lo))
		soft_raise_err(cpu, X86_VEC_NP, sel & 0xfffcu);
	cpu->s.ldt = seg_from_desc(sel, d.lo, (uint32_t)d.hi);
}

void sys_insn_ltr(struct soft_cpu *cpu, const struct insn *i)
{
	uint16_t sel = source(cpu, i);
	struct sys_desc d;
	unsigned type;

	if (X86_SEL_IS_NULL(sel))
		sys_gp(cpu, 0);
	d = system_desc(cpu, sel);
	type = desc_type(d.lo);
	if (type != X86_SYS_TSS32 && (soft_is_long(cpu) || type != X86_SYS_TSS16))
		sys_gp(cpu, sel & 0xfffcu);
	if (!desc_present(d.lo))
		soft_raise_err(cpu, X86_VEC_NP, sel & 0xfffcu);
	sys_desc_set(cpu, &d, SYS_DESC_BUSY, 0);
	cpu->s.tr = seg_from_desc(sel, d.lo, (uint32_t)d.hi);
}

static void selector_store(struct soft_cpu *cpu, const struct insn *i, uint16_t sel)
{
	if (!sys_has_selectors(cpu))
		sys_ud(cpu);
	need_no_umip(cpu);
	if (i->flags & INSN_MEM)
		soft_write16(cpu, i->seg, soft_lin(cpu, i, 2, 1), sel);
	else
		insn_gpr_set(cpu, i->r1, i->osize, sel);
}

void sys_insn_sldt(struct soft_cpu *cpu, const struct insn *i)
{
	selector_store(cpu, i, cpu->s.ldt.selector);
}

void sys_insn_str(struct soft_cpu *cpu, const struct insn *i)
{
	selector_store(cpu, i, cpu->s.tr.selector);
}
