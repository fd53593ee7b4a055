/* stack.c: push, pop, enter, leave. */
#include "engine/soft/stack.h"
#include "engine/soft/op.h"

static void push64(struct soft_cpu *cpu, uint64_t v)
{
	uint64_t sp = cpu->s.gpr[X86_RSP] - 8;

	soft_write64(cpu, X86_SS, sp, v);
	cpu->s.gpr[X86_RSP] = sp;
}
static void push_r64(struct soft_cpu *cpu, const struct insn *i)
{
	push64(cpu, insn_gpr64(cpu, i->r1));
}
static void push_i64(struct soft_cpu *cpu, const struct insn *i)
{
	push64(cpu, i->imm);
}
static void push_m64(struct soft_cpu *cpu, const struct insn *i)
{
	push64(cpu, MEM_READ(cpu, i, 64));
}
static void pop_r64(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = soft_read64(cpu, X86_SS, cpu->s.gpr[X86_RSP]);

	cpu->s.gpr[X86_RSP] += 8;
	*(uint64_t *)soft_reg(cpu, i->r1) = v;
}

static void push_r(struct soft_cpu *cpu, const struct insn *i)
{
	stack_push(cpu, insn_gpr(cpu, i->r1, i->osize), i->osize);
}
static void push_i(struct soft_cpu *cpu, const struct insn *i)
{
	stack_push(cpu, i->imm, i->osize);
}
static void push_m(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t lin = soft_lin(cpu, i, i->osize, 0);

	stack_push(cpu,
		   i->osize == 4 ? soft_read32(cpu, i->seg, lin) : soft_read16(cpu, i->seg, lin),
		   i->osize);
}
static void pop_r(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = stack_read(cpu, 0, i->osize);

	stack_add(cpu, i->osize);
	insn_gpr_set(cpu, i->r1, i->osize, v);
}
/* The address of POP's memory operand is formed with the stack pointer already moved (SDM2 POP). */
static void pop_m(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = stack_read(cpu, 0, i->osize), sp = cpu->s.gpr[X86_RSP];

	stack_add(cpu, i->osize);
	uint64_t ea = soft_ea_offset(cpu, i), moved = cpu->s.gpr[X86_RSP];
	cpu->s.gpr[X86_RSP] = sp;
	uint64_t lin = soft_seg_lin(cpu, i->seg, ea, i->osize, 1);
	if (i->osize == 8)
		soft_write64(cpu, i->seg, lin, v);
	else if (i->osize == 4)
		soft_write32(cpu, i->seg, lin, (uint32_t)v);
	else
		soft_write16(cpu, i->seg, lin, (uint16_t)v);
	cpu->s.gpr[X86_RSP] = moved;
}

static void leave_64(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t bp = cpu->s.gpr[X86_RBP], v = soft_read64(cpu, X86_SS, bp);

	cpu->s.gpr[X86_RSP] = bp + 8;
	cpu->s.gpr[X86_RBP] = v;
}
static void leave(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = stack_read(cpu, cpu->s.gpr[X86_RBP] - cpu->s.gpr[X86_RSP], i->osize);

	stack_set(cpu, cpu->s.gpr[X86_RBP] + i->osize);
	insn_gpr_set(cpu, X86_RBP * 8, i->osize, v);
}

/* imm: bytes to allocate; aux: nesting level. */
static void enter(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = i->osize, level = i->aux & 31;
	uint64_t off = -(uint64_t)size, bp = cpu->s.gpr[X86_RBP];
	uint64_t frame = cpu->s.gpr[X86_RSP] - size;

	/* Below the stack pointer nothing is anybody's: what was written there before a fault does
	 * no harm, and registers change last. */
	stack_write(cpu, off, size, bp);
	for (unsigned k = 1; k < level; k++) {
		uint64_t v = stack_read(cpu, bp - k * size - cpu->s.gpr[X86_RSP], size);
		off -= size;
		stack_write(cpu, off, size, v);
	}
	if (level) {
		off -= size;
		stack_write(cpu, off, size, frame);
	}
	/* The new top must be writable (SDM2 ENTER); then it is committed. */
	uint64_t top = (cpu->s.gpr[X86_RSP] + off - (i->imm & 0xffff)) & size_mask(stack_size(cpu));
	uint64_t lin = soft_seg_lin(cpu, X86_SS, top, size, 1);

	soft_align(cpu, X86_SS, lin, size);
	soft_probe(cpu, X86_SS, lin, size, 1);
	insn_gpr_set(cpu, X86_RBP * 8, size, frame);
	stack_set(cpu, top);
}

static void pusha(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = i->osize;

	/* A fault on the way leaves what was pushed; RSP has not moved. */
	for (unsigned r = 0; r < 8; r++)
		stack_write(cpu, -(uint64_t)((r + 1) * size), size, cpu->s.gpr[r]);
	stack_add(cpu, -(uint64_t)(8 * size));
}
/* A fault on the way leaves what was loaded; RSP has not moved. */
static void popa(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = i->osize;

	for (unsigned r = 8; r-- > 0;) {
		uint64_t v = stack_read(cpu, (7 - r) * size, size);

		if (r != X86_RSP)
			insn_gpr_set(cpu, r * 8, size, v);
	}
	stack_add(cpu, 8 * size);
}

_Bool decode_stack(struct soft_decode *d)
{
	struct insn *out = d->out;
	_Bool mem = d->mem0,
	      imm = d->zi->operand_count_visible && d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		if (!mem && !imm && !d->reg0)
			return 0; /* a segment register */
		if (out->osize == 8)
			out->fn = mem ? push_m64 : imm ? push_i64 : push_r64;
		else
			out->fn = mem ? push_m : imm ? push_i : push_r;
		return 1;
	case ZYDIS_MNEMONIC_POP:
		if (!mem && !d->reg0)
			return 0;
		out->fn = mem ? pop_m : out->osize == 8 ? pop_r64 : pop_r;
		return 1;
	case ZYDIS_MNEMONIC_LEAVE: out->fn = out->osize == 8 ? leave_64 : leave; return 1;
	case ZYDIS_MNEMONIC_ENTER:
		out->fn = enter;
		out->imm = d->op[0].imm.value.u;
		out->aux = (uint32_t)d->op[1].imm.value.u;
		return 1;
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD: out->fn = pusha; return 1;
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD: out->fn = popa; return 1;
	default: return 0;
	}
}
