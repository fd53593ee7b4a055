/*
 * sys_deliver.c: exceptions and interrupts are delivered: real-address, protected and IA-32e mode.
 *
 * An event that cannot be delivered raises another one, which is delivered in its place, or becomes
 * a double fault, or (when that fails as well) shuts the CPU down (SDM3 6.15, #DF). cpu->delivering
 * is what makes the difference: it holds the event under way while its gate, its stack and its
 * segments are looked at, and is empty at all other times.
 */
#include "base/trace.h"
#include "engine/soft/sys.h"

/* SDM3 table 6-4 */
enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE };

static enum fault_class event_class(const struct soft_event *e)
{
	if (e->kind != X86_EVENT_EXCEPTION)
		return CLASS_BENIGN;
	switch (e->vector) {
	case X86_VEC_DE:
	case X86_VEC_TS:
	case X86_VEC_NP:
	case X86_VEC_SS:
	case X86_VEC_GP: return CLASS_CONTRIBUTORY;
	case X86_VEC_PF: return CLASS_PAGE;
	default: return CLASS_BENIGN;
	}
}

/* What `second` becomes when it came up while `first` was being delivered. */
static void event_combine(struct soft_cpu *cpu, const struct soft_event *first,
			  struct soft_event *second)
{
	enum fault_class a = event_class(first), b = event_class(second);

	if (first->kind == X86_EVENT_EXCEPTION && first->vector == X86_VEC_DF && b != CLASS_BENIGN)
		soft_shutdown(cpu);
	if ((a == CLASS_CONTRIBUTORY && b == CLASS_CONTRIBUTORY) ||
	    (a == CLASS_PAGE && b != CLASS_BENIGN))
		*second = (struct soft_event){
		    .valid = 1, .has_error = 1, .vector = X86_VEC_DF, .kind = X86_EVENT_EXCEPTION};
}

/* Faults are resumed with RF set, so that an instruction breakpoint does not hit twice; #DB says
 * itself what it is (SDM3 17.3.1.1). */
static _Bool event_is_fault(const struct soft_event *e)
{
	switch (e->vector) {
	case X86_VEC_DB: return e->rf;
	case X86_VEC_NMI:
	case X86_VEC_BP:
	case X86_VEC_OF:
	case X86_VEC_DF:
	case X86_VEC_MC: return 0;
	default: return 1;
	}
}

void sys_settle(struct soft_cpu *cpu)
{
	if (cpu->delivering.valid)
		event_combine(cpu, &cpu->delivering, &cpu->exc);
	cpu->delivering.valid = 0;
}

#define DEBUGCTL_LBR 1u

static void debug_registers(struct soft_cpu *cpu, uint64_t hits)
{
	cpu->s.dr6 = (cpu->s.dr6 & ~UINT64_C(15)) | hits;
	cpu->s.dr7 &= ~X86_DR7_GD;
	cpu->s.debugctl &= ~(uint64_t)(DEBUGCTL_LBR | X86_DEBUGCTL_BTF);
	soft_mode_update(cpu);
}

void sys_deliver(struct soft_cpu *cpu)
{
	struct sys_delivery d;
	struct soft_event e;
	_Bool between;

	sys_settle(cpu);
	e = cpu->exc;
	cpu->exc.valid = 0;
	between = cpu->rep_rip != UINT64_MAX && cpu->rep_rip == cpu->s.rip;
	cpu->rep_rip = UINT64_MAX;
	cpu->delivering = e;
	cpu->s.activity = X86_RUNNING;
	cpu->s.shadow_sti = cpu->s.shadow_ss = 0;
	if (e.vector == X86_VEC_DB && e.kind == X86_EVENT_EXCEPTION)
		debug_registers(cpu, e.dr6);
	d = (struct sys_delivery){
	    .vector = e.vector,
	    .soft = e.kind == X86_EVENT_SOFT,
	    .has_error = e.has_error,
	    .error = e.error,
	    .ext = e.kind != X86_EVENT_SOFT,
	    .rip = cpu->s.rip,
	    .flags = soft_flags_get(cpu),
	};
	/* Traps as well, between the iterations of a repeated instruction: on Intel's CPUs. */
	if (e.kind == X86_EVENT_EXCEPTION &&
	    (event_is_fault(&e) || (between && e.vector == X86_VEC_DB && !sys_policy(cpu)->amd)))
		d.flags |= X86_RF;
	trace(TRACE_INT, "cpu%u: exception %u error %#x at %#llx cr2 %#llx", cpu->base.index,
	      e.vector, e.error, (unsigned long long)cpu->s.rip, (unsigned long long)cpu->s.cr2);
	sys_deliver_event(cpu, &d);
	cpu->delivering.valid = 0;
}

void sys_interrupt(struct soft_cpu *cpu, unsigned vector, unsigned kind)
{
	struct sys_delivery d = {
	    .vector = vector, .ext = 1, .rip = cpu->s.rip, .flags = soft_flags_get(cpu)};

	/* Between the iterations of a repeated instruction (SDM3 18.3.1.1). */
	if (cpu->rep_rip == cpu->s.rip)
		d.flags |= X86_RF;
	cpu->rep_rip = UINT64_MAX;
	cpu->delivering =
	    (struct soft_event){.valid = 1, .vector = (uint8_t)vector, .kind = (uint8_t)kind};
	cpu->s.activity = X86_RUNNING;
	if (kind == X86_EVENT_NMI)
		cpu->s.nmi_masked = 1;
	trace(TRACE_INT, "cpu%u: interrupt %u at %#llx", cpu->base.index, vector,
	      (unsigned long long)cpu->s.rip);
	sys_deliver_event(cpu, &d);
	cpu->delivering.valid = 0;
}

/* Real-address mode: a table of far pointers, three words on the stack, no error codes. */
static void deliver_real(struct soft_cpu *cpu, const struct sys_delivery *d)
{
	struct x86_seg cs = cpu->s.seg[X86_CS];
	struct sys_stack st;
	uint32_t far;

	if (4 * d->vector + 3 > cpu->s.idt.limit)
		sys_gp(cpu, 8 * d->vector + 2 + d->ext);
	far = (uint32_t)soft_sys_read(cpu, (uint32_t)(cpu->s.idt.base + 4 * d->vector), 4);
	seg_load_real(&cs, (uint16_t)(far >> 16), 0);
	sys_check_rip(cpu, &cs, far & 0xffff, d->ext);
	sys_stack_current(cpu, &st);
	sys_push(cpu, &st, 2, d->flags);
	sys_push(cpu, &st, 2, cpu->s.seg[X86_CS].selector);
	sys_push(cpu, &st, 2, d->rip);
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	cpu->s.seg[X86_CS] = cs;
	cpu->s.rip = far & 0xffff;
	cpu->s.rflags &= ~(uint64_t)(X86_IF | X86_TF | X86_AC | X86_RF);
	soft_mode_update(cpu);
}

struct target {
	struct x86_gate gate;
	struct x86_seg cs;
	unsigned cpl;
	_Bool inner; /* to a more privileged ring */
};

static struct x86_gate gate_read(struct soft_cpu *cpu, const struct sys_delivery *d)
{
	_Bool wide = soft_is_long(cpu);
	uint32_t offset = (wide ? 16 : 8) * d->vector, error = 8 * d->vector + 2 + d->ext;
	uint64_t lin = cpu->s.idt.base + offset, low, high = 0;
	struct x86_gate gate;

	if (offset + (wide ? 15 : 7) > cpu->s.idt.limit)
		sys_gp(cpu, error);
	low = soft_sys_read(cpu, wide ? lin : (uint32_t)lin, 8);
	if (wide)
		high = soft_sys_read(cpu, lin + 8, 8);
	gate = gate_decode(low, high);
	if (!desc_is_system(low))
		sys_gp(cpu, error);
	switch (gate.type) {
	case X86_SYS_TASK:
	case X86_SYS_INT16:
	case X86_SYS_TRAP16:
		if (wide)
			sys_gp(cpu, error);
		break;
	case X86_SYS_INT32:
	case X86_SYS_TRAP32: break;
	default: sys_gp(cpu, error);
	}
	if (d->soft && gate.dpl < cpu->cpl)
		sys_gp(cpu, error);
	if (!gate.present)
		soft_raise_err(cpu, X86_VEC_NP, error);
	return gate;
}

/* The gate's code segment: its checks, and which ring it runs in. */
static void target_find(struct soft_cpu *cpu, const struct sys_delivery *d, struct target *t)
{
	uint16_t sel = t->gate.selector;
	uint32_t error = (sel & 0xfffcu) | d->ext;
	struct sys_desc desc;
	unsigned dpl;

	if (X86_SEL_IS_NULL(sel))
		sys_gp(cpu, d->ext);
	if (!sys_desc_read(cpu, sel, &desc) || !desc_is_code(desc.lo))
		sys_gp(cpu, error);
	dpl = desc_dpl(desc.lo);
	if (dpl > cpu->cpl)
		sys_gp(cpu, error);
	if (soft_is_long(cpu) && (desc_attr(desc.lo) & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
		sys_gp(cpu, error);
	if (!desc_present(desc.lo))
		soft_raise_err(cpu, X86_VEC_NP, error);
	t->cpl = desc_type(desc.lo) & X86_TYPE_C ? cpu->cpl : dpl;
	t->inner = t->cpl < cpu->cpl;
	if (cpu->s.rflags & X86_VM && t->cpl != 0)
		sys_gp(cpu, error);
	sys_desc_touch(cpu, &desc);
	t->cs = seg_from_desc((uint16_t)((sel & ~3u) | t->cpl), desc.lo, 0);
	sys_check_rip(cpu, &t->cs, t->gate.offset, d->ext);
}

static void commit(struct soft_cpu *cpu, const struct target *t, const struct sys_stack *st)
{
	uint64_t clear = X86_TF | X86_NT | X86_RF | X86_VM;

	if (!(t->gate.type & 1)) /* an interrupt gate, not a trap gate */
		clear |= X86_IF;
	if (t->inner)
		cpu->s.seg[X86_SS] = st->ss;
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(st);
	cpu->s.seg[X86_CS] = t->cs;
	cpu->s.rip = t->gate.offset;
	cpu->s.rflags &= ~clear;
	soft_mode_update(cpu);
}

static void deliver_protected(struct soft_cpu *cpu, const struct sys_delivery *d)
{
	_Bool v86 = cpu->s.rflags & X86_VM;
	struct target t = {.gate = gate_read(cpu, d)};
	unsigned size = t.gate.type & 8 ? 4 : 2;
	const struct x86_seg *seg = cpu->s.seg;
	struct sys_stack st;

	if (t.gate.type == X86_SYS_TASK) {
		sys_task_switch(cpu, t.gate.selector, SYS_TASK_INT, d->rip, d->flags,
				d->has_error ? &d->error : NULL, d->ext);
		return;
	}
	target_find(cpu, d, &t);
	if (t.inner)
		sys_stack_inner(cpu, t.cpl, d->ext, &st);
	else
		sys_stack_current(cpu, &st);
	st.error |= d->ext;
	if (v86) {
		sys_push(cpu, &st, size, seg[X86_GS].selector);
		sys_push(cpu, &st, size, seg[X86_FS].selector);
		sys_push(cpu, &st, size, seg[X86_DS].selector);
		sys_push(cpu, &st, size, seg[X86_ES].selector);
	}
	if (t.inner) {
		sys_push(cpu, &st, size, seg[X86_SS].selector);
		sys_push(cpu, &st, size, cpu->s.gpr[X86_RSP]);
	}
	sys_push(cpu, &st, size, d->flags);
	sys_push(cpu, &st, size, seg[X86_CS].selector);
	sys_push(cpu, &st, size, d->rip);
	if (d->has_error)
		sys_push(cpu, &st, size, d->error);
	if (v86)
		for (unsigned i = 0; i < 6; i++)
			if (i != X86_CS && i != X86_SS)
				cpu->s.seg[i] = seg_null(0, 0);
	commit(cpu, &t, &st);
}

/* IA-32e mode: always five quadwords or six, on a stack aligned to 16 (SDM3 6.14). */
static void deliver_long(struct soft_cpu *cpu, const struct sys_delivery *d)
{
	struct target t = {.gate = gate_read(cpu, d)};
	struct sys_stack st;

	target_find(cpu, d, &t);
	if (t.inner) {
		st = (struct sys_stack){.ss = seg_null((uint16_t)t.cpl, t.cpl)};
	} else {
		sys_stack_current(cpu, &st);
		st.sp = cpu->s.gpr[X86_RSP];
	}
	st.flat = 1;
	st.mask = UINT64_MAX;
	st.error = d->ext;
	if (t.gate.ist)
		st.sp = sys_tss_rsp(cpu, t.gate.ist + 3u, d->ext);
	else if (t.inner)
		st.sp = sys_tss_rsp(cpu, t.cpl, d->ext);
	st.sp &= ~UINT64_C(15);
	sys_push(cpu, &st, 8, cpu->s.seg[X86_SS].selector);
	sys_push(cpu, &st, 8, cpu->s.gpr[X86_RSP]);
	sys_push(cpu, &st, 8, d->flags);
	sys_push(cpu, &st, 8, cpu->s.seg[X86_CS].selector);
	sys_push(cpu, &st, 8, d->rip);
	if (d->has_error)
		sys_push(cpu, &st, 8, d->error);
	commit(cpu, &t, &st);
}

void sys_deliver_event(struct soft_cpu *cpu, const struct sys_delivery *d)
{
	if (soft_is_real(cpu))
		deliver_real(cpu, d);
	else if (soft_is_long(cpu))
		deliver_long(cpu, d);
	else
		deliver_protected(cpu, d);
}
