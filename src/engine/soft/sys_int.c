/* sys_int.c: software interrupts, and their redirection in virtual-8086 mode. */
#include "engine/soft/sys.h"

static void int_deliver(struct soft_cpu *cpu, const struct insn *i, unsigned vector, _Bool soft)
{
	struct sys_delivery d = {
	    .vector = vector,
	    .soft = soft,
	    .ext = !soft,
	    .rip = soft_next_rip(cpu, i),
	    .flags = soft_flags_get(cpu) & ~(uint64_t)X86_RF,
	};

	sys_deliver_event(cpu, &d);
	cpu->step_trap = 0; /* TF was cleared on the way in */
}

/* VME's bitmap: 32 bytes right below the I/O bitmap of a 32-bit TSS; a clear bit sends the vector
 * to the 8086 program's own table (SDM3 20.3.3). */
static _Bool int_redirected(struct soft_cpu *cpu, unsigned vector)
{
	const struct x86_seg *tr = &cpu->s.tr;
	uint32_t map;

	if (X86_SEG_TYPE(tr->attr) != X86_SYS_TSS32_BUSY || tr->limit < 103)
		sys_gp(cpu, 0);
	map = (uint32_t)soft_sys_read(cpu, (uint32_t)(tr->base + 102), 2);
	if (map < 32 || map - 32 + vector / 8 > tr->limit)
		sys_gp(cpu, 0);
	map += vector / 8 - 32;
	return !(soft_sys_read(cpu, (uint32_t)(tr->base + map), 1) >> (vector & 7) & 1);
}

/* As a real-address mode interrupt, within virtual-8086 mode (SDM3 20.3.3.4). */
static void int_8086(struct soft_cpu *cpu, const struct insn *i, unsigned vector)
{
	uint64_t flags = soft_flags_get(cpu);
	struct x86_seg cs = cpu->s.seg[X86_CS];
	struct sys_stack st;
	uint32_t far = (uint32_t)soft_read32(cpu, X86_DS, 4 * vector);

	if (sys_iopl(cpu) < 3) {
		flags = (flags & ~(uint64_t)X86_IF) | X86_IOPL;
		if (flags & X86_VIF)
			flags |= X86_IF;
	}
	sys_stack_current(cpu, &st);
	sys_push(cpu, &st, 2, flags);
	sys_push(cpu, &st, 2, cs.selector);
	sys_push(cpu, &st, 2, soft_next_rip(cpu, i));
	seg_load_real(&cs, (uint16_t)(far >> 16), 1);
	cpu->s.gpr[X86_RSP] = sys_stack_rsp(&st);
	cpu->s.seg[X86_CS] = cs;
	cpu->s.rip = far & 0xffff;
	cpu->s.rflags &= ~(uint64_t)(X86_TF | X86_NT | X86_RF);
	cpu->s.rflags &= ~(uint64_t)(sys_iopl(cpu) < 3 ? X86_VIF : X86_IF);
	soft_mode_update(cpu);
	cpu->step_trap = 0;
}

void sys_insn_int(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned vector = i->imm & 0xff;

	if (soft_is_v86(cpu)) {
		if (cpu->s.cr4 & X86_CR4_VME && int_redirected(cpu, vector)) {
			int_8086(cpu, i, vector);
			return;
		}
		if (sys_iopl(cpu) < 3)
			sys_gp(cpu, 0);
	}
	int_deliver(cpu, i, vector, 1);
}

void sys_insn_int3(struct soft_cpu *cpu, const struct insn *i)
{
	int_deliver(cpu, i, X86_VEC_BP, 1);
}

void sys_insn_into(struct soft_cpu *cpu, const struct insn *i)
{
	if (cpu->af & SOFT_AF_OF)
		int_deliver(cpu, i, X86_VEC_OF, 1);
	else
		cpu->s.rip = soft_next_rip(cpu, i);
}

/* Like a debug exception from outside: no check of the gate's DPL, DR6 untouched. */
void sys_insn_int1(struct soft_cpu *cpu, const struct insn *i)
{
	int_deliver(cpu, i, X86_VEC_DB, 0);
}
