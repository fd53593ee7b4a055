/*
 * sys_task.c: hardware task switching (SDM3 8.3).
 *
 * Everything that can fault in the old task's context (descriptors, both TSS images, the busy bits)
 * is read or probed before anything changes. From the commit on the CPU runs the new task: what is
 * wrong with its segments is reported there, with the registers already loaded.
 */
#include "engine/soft/sys.h"

struct task {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t seg[6], ldt;
	_Bool trap, wide;
};

/* Offsets in 32- and 16-bit images (SDM3 figures 8-2 and 8-10). */
enum { T32_CR3 = 0x1c, T32_EIP = 0x20, T32_GPR = 0x28, T32_SEG = 0x48, T32_LDT = 0x60 };
enum { T32_TRAP = 0x64, T32_LIMIT = 0x67 };
enum { T16_IP = 0x0e, T16_GPR = 0x12, T16_SEG = 0x22, T16_LDT = 0x2a, T16_LIMIT = 0x2b };

static uint32_t rd(struct soft_cpu *cpu, uint64_t base, uint32_t at, unsigned size)
{
	return (uint32_t)soft_sys_read(cpu, (uint32_t)(base + at), size);
}

static void wr(struct soft_cpu *cpu, uint64_t base, uint32_t at, unsigned size, uint64_t v)
{
	soft_sys_write(cpu, (uint32_t)(base + at), size, v);
}

static _Bool is_wide(uint32_t type)
{
	return type & 8;
}

/* A task register's segment, or one about to be: its descriptor, checked for this kind of switch.
 */
static struct sys_desc tss_desc(struct soft_cpu *cpu, uint16_t sel, enum sys_task_by by,
				uint32_t ext)
{
	_Bool back = by == SYS_TASK_IRET;
	uint32_t error = (sel & 0xfffcu) | ext, type;
	unsigned vector = back ? X86_VEC_TS : X86_VEC_GP;
	struct sys_desc d;

	if (X86_SEL_IS_NULL(sel) || sel & X86_SEL_TI || !sys_desc_read(cpu, sel, &d))
		soft_raise_err(cpu, vector, error);
	type = desc_type(d.lo);
	if (!desc_is_system(d.lo) ||
	    (back ? type != X86_SYS_TSS16_BUSY && type != X86_SYS_TSS32_BUSY
		  : type != X86_SYS_TSS16 && type != X86_SYS_TSS32))
		soft_raise_err(cpu, vector, error);
	if (!desc_present(d.lo))
		soft_raise_err(cpu, X86_VEC_NP, error);
	if (desc_limit(d.lo) < (is_wide(type) ? T32_LIMIT : T16_LIMIT))
		soft_raise_err(cpu, X86_VEC_TS, error);
	return d;
}

static void image_read(struct soft_cpu *cpu, const struct sys_desc *d, struct task *t)
{
	uint64_t base = desc_base(d->lo);
	unsigned n;

	memset(t, 0, sizeof(*t));
	t->wide = is_wide(desc_type(d->lo));
	if (t->wide) {
		t->cr3 = rd(cpu, base, T32_CR3, 4);
		t->eip = rd(cpu, base, T32_EIP, 4);
		t->eflags = rd(cpu, base, T32_EIP + 4, 4);
		for (n = 0; n < 8; n++)
			t->gpr[n] = rd(cpu, base, T32_GPR + 4 * n, 4);
		for (n = 0; n < 6; n++)
			t->seg[n] = (uint16_t)rd(cpu, base, T32_SEG + 4 * n, 2);
		t->ldt = (uint16_t)rd(cpu, base, T32_LDT, 2);
		t->trap = rd(cpu, base, T32_TRAP, 2) & 1;
		return;
	}
	t->eip = rd(cpu, base, T16_IP, 2);
	t->eflags = rd(cpu, base, T16_IP + 2, 2);
	for (n = 0; n < 8; n++)
		t->gpr[n] = rd(cpu, base, T16_GPR + 2 * n, 2) | 0xffff0000;
	for (n = 0; n < 4; n++)
		t->seg[n] = (uint16_t)rd(cpu, base, T16_SEG + 2 * n, 2);
	t->ldt = (uint16_t)rd(cpu, base, T16_LDT, 2);
}

static void image_write(struct soft_cpu *cpu, uint32_t eip, uint32_t eflags)
{
	uint64_t base = cpu->s.tr.base;
	unsigned n;

	if (is_wide(X86_SEG_TYPE(cpu->s.tr.attr))) {
		wr(cpu, base, T32_EIP, 4, eip);
		wr(cpu, base, T32_EIP + 4, 4, eflags);
		for (n = 0; n < 8; n++)
			wr(cpu, base, T32_GPR + 4 * n, 4, cpu->s.gpr[n]);
		for (n = 0; n < 6; n++)
			wr(cpu, base, T32_SEG + 4 * n, 2, cpu->s.seg[n].selector);
		return;
	}
	wr(cpu, base, T16_IP, 2, eip);
	wr(cpu, base, T16_IP + 2, 2, eflags);
	for (n = 0; n < 8; n++)
		wr(cpu, base, T16_GPR + 2 * n, 2, cpu->s.gpr[n]);
	for (n = 0; n < 4; n++)
		wr(cpu, base, T16_SEG + 2 * n, 2, cpu->s.seg[n].selector);
}

/* What the old task's image must be able to take. */
static void image_probe(struct soft_cpu *cpu)
{
	_Bool wide = is_wide(X86_SEG_TYPE(cpu->s.tr.attr));
	uint32_t at = wide ? T32_EIP : T16_IP, end = wide ? T32_LDT : T16_LDT;

	soft_sys_probe(cpu, (uint32_t)(cpu->s.tr.base + at), end - at, 1);
}

static void ldt_load(struct soft_cpu *cpu, uint16_t sel, uint32_t ext)
{
	uint32_t error = (sel & 0xfffcu) | ext;
	struct sys_desc d;

	cpu->s.ldt = seg_null(sel, 0);
	if (X86_SEL_IS_NULL(sel))
		return;
	if (sel & X86_SEL_TI || !sys_desc_read(cpu, sel, &d) || !desc_is_system(d.lo) ||
	    desc_type(d.lo) != X86_SYS_LDT || !desc_present(d.lo))
		soft_raise_err(cpu, X86_VEC_TS, error);
	cpu->s.ldt = seg_from_desc(sel, d.lo, 0);
}

static void code_load(struct soft_cpu *cpu, uint16_t sel, uint32_t ext)
{
	uint32_t error = (sel & 0xfffcu) | ext;
	unsigned rpl = X86_SEL_RPL(sel), dpl;
	struct sys_desc d;

	if (X86_SEL_IS_NULL(sel) || !sys_desc_read(cpu, sel, &d) || !desc_is_code(d.lo))
		soft_raise_err(cpu, X86_VEC_TS, error);
	dpl = desc_dpl(d.lo);
	if (desc_type(d.lo) & X86_TYPE_C ? dpl > rpl : dpl != rpl)
		soft_raise_err(cpu, X86_VEC_TS, error);
	if (!desc_present(d.lo))
		soft_raise_err(cpu, X86_VEC_NP, error);
	sys_desc_touch(cpu, &d);
	cpu->s.seg[X86_CS] = seg_from_desc(sel, d.lo, 0);
}

static void data_load(struct soft_cpu *cpu, unsigned seg, uint16_t sel, uint32_t ext)
{
	uint32_t error = (sel & 0xfffcu) | ext;
	unsigned rpl = X86_SEL_RPL(sel), cpl = X86_SEL_RPL(cpu->s.seg[X86_CS].selector);
	struct sys_desc d;
	int vector;

	if (X86_SEL_IS_NULL(sel) && seg != X86_SS)
		return; /* null already */
	if (X86_SEL_IS_NULL(sel) || !sys_desc_read(cpu, sel, &d))
		soft_raise_err(cpu, X86_VEC_TS, error);
	vector = seg == X86_SS ? seg_check_stack(d.lo, cpl, rpl) : seg_check_data(d.lo, cpl, rpl);
	if (vector == X86_VEC_GP)
		vector = X86_VEC_TS;
	if (vector >= 0)
		soft_raise_err(cpu, (unsigned)vector, error);
	sys_desc_touch(cpu, &d);
	cpu->s.seg[seg] = seg_from_desc(sel, d.lo, 0);
}

static void segments_load(struct soft_cpu *cpu, const struct task *t, uint32_t ext)
{
	static const uint8_t order[] = {X86_SS, X86_DS, X86_ES, X86_FS, X86_GS};

	ldt_load(cpu, t->ldt, ext);
	if (cpu->s.rflags & X86_VM)
		return;
	code_load(cpu, t->seg[X86_CS], ext);
	soft_mode_update(cpu);
	for (unsigned i = 0; i < sizeof(order); i++)
		data_load(cpu, order[i], t->seg[order[i]], ext);
	soft_mode_update(cpu);
}

/* Registers of the new task, with segments that hold selectors alone until they are loaded. */
static void registers_load(struct soft_cpu *cpu, const struct task *t, uint32_t eflags)
{
	unsigned cpl = X86_SEL_RPL(t->seg[X86_CS]);

	for (unsigned n = 0; n < 8; n++)
		cpu->s.gpr[n] = t->gpr[n];
	cpu->s.rip = t->eip;
	for (unsigned n = 0; n < 6; n++) {
		if (eflags & X86_VM)
			seg_load_real(&cpu->s.seg[n], t->seg[n], 1);
		else
			cpu->s.seg[n] = seg_null(t->seg[n], n == X86_SS ? cpl : 0);
	}
	soft_flags_set(cpu, (eflags & (X86_ARITH | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT |
				       X86_RF | X86_VM | X86_AC | X86_VIF | X86_VIP | X86_ID)) |
				X86_FIXED);
	cpu->rf_loaded = 1;
	cpu->s.dr7 &= ~UINT64_C(0x155); /* local breakpoints and LE */
}

static void space_load(struct soft_cpu *cpu, const struct task *t)
{
	if (!t->wide || !(cpu->s.cr0 & X86_CR0_PG))
		return;
	cpu->s.cr3 = t->cr3;
	soft_tlb_cr3(cpu, 0);
}

static void error_push(struct soft_cpu *cpu, const struct task *t, uint32_t error)
{
	struct sys_stack st;

	sys_stack_current(cpu, &st);
	sys_push(cpu, &st, t->wide ? 4 : 2, error);
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
}

/* Frees the old task (unless it stays busy below a nested one), links and busies the new one. */
static void tasks_mark(struct soft_cpu *cpu, struct sys_desc *d, enum sys_task_by by,
		       struct sys_desc *old, _Bool old_found)
{
	if ((by == SYS_TASK_JMP || by == SYS_TASK_IRET) && old_found)
		sys_desc_set(cpu, old, 0, SYS_DESC_BUSY);
	if (by == SYS_TASK_CALL || by == SYS_TASK_INT)
		wr(cpu, desc_base(d->lo), 0, 2, cpu->s.tr.selector);
	if (by != SYS_TASK_IRET)
		sys_desc_set(cpu, d, SYS_DESC_BUSY, 0);
}

void sys_task_switch(struct soft_cpu *cpu, uint16_t sel, enum sys_task_by by, uint64_t rip,
		     uint64_t flags, const uint32_t *error, uint32_t ext)
{
	struct sys_desc d = tss_desc(cpu, sel, by, ext), old;
	_Bool old_found = sys_desc_read(cpu, cpu->s.tr.selector, &old);
	uint32_t new_flags;
	struct task t;

	image_read(cpu, &d, &t);
	if (t.wide && cpu->s.cr0 & X86_CR0_PG && cpu->s.cr4 & X86_CR4_PAE &&
	    !sys_pdptes_valid(cpu, t.cr3))
		soft_raise_err(cpu, X86_VEC_TS, (sel & 0xfffcu) | ext);
	image_probe(cpu);
	soft_sys_probe(cpu, (uint32_t)d.lin, 8, 1);
	if (old_found)
		soft_sys_probe(cpu, (uint32_t)old.lin, 8, 1);
	soft_sys_probe(cpu, desc_base(d.lo), 2, by == SYS_TASK_CALL || by == SYS_TASK_INT);

	if (by == SYS_TASK_IRET)
		flags &= ~(uint64_t)X86_NT;
	image_write(cpu, (uint32_t)rip, (uint32_t)flags);
	tasks_mark(cpu, &d, by, &old, old_found);
	new_flags = t.eflags;
	if (by == SYS_TASK_CALL || by == SYS_TASK_INT)
		new_flags |= X86_NT;

	cpu->s.tr = seg_from_desc(sel, d.lo | BIT64(41), 0);
	cpu->s.cr0 |= X86_CR0_TS;
	space_load(cpu, &t);
	registers_load(cpu, &t, new_flags);
	soft_mode_update(cpu);
	segments_load(cpu, &t, ext);
	if (error)
		error_push(cpu, &t, *error);
	sys_check_rip(cpu, &cpu->s.seg[X86_CS], cpu->s.rip, ext);
	if (t.trap)
		soft_raise_db(cpu, X86_DR6_BT, 0);
}
