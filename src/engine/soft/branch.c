/* branch.c: near jumps, calls and returns, loops. */
#include "engine/soft/cond.h"
#include "engine/soft/op.h"
#include "engine/soft/stack.h"

/* imm holds displacement + length. In 64-bit mode nothing can be out of the segment, and an address
 * that is not canonical faults when it is fetched. */
#define JCC64(cc, unused)                                                                          \
	static void j64_##cc(struct soft_cpu *cpu, const struct insn *i)                           \
	{                                                                                          \
		cpu->s.rip += COND_##cc(cpu->af) ? i->imm : i->len;                                \
	}
COND_EACH(JCC64, )

/* Is a near branch target within the code segment? */
static uint64_t target_check(struct soft_cpu *cpu, const struct insn *i, uint64_t target)
{
	if (i->osize == 2)
		target = (uint16_t)target;
	if (soft_is64(cpu)) {
		if (!soft_canonical(target))
			soft_raise_err(cpu, X86_VEC_GP, 0);
		return target;
	}
	target = (uint32_t)target;
	if (target > cpu->s.seg[X86_CS].limit)
		soft_raise_err(cpu, X86_VEC_GP, 0);
	return target;
}

static void branch_rel(struct soft_cpu *cpu, const struct insn *i, _Bool taken)
{
	if (taken)
		cpu->s.rip = target_check(cpu, i, cpu->s.rip + i->imm);
	else
		cpu->s.rip = soft_next_rip(cpu, i);
}

#define JCC(cc, unused)                                                                            \
	static void j_##cc(struct soft_cpu *cpu, const struct insn *i)                             \
	{                                                                                          \
		branch_rel(cpu, i, COND_##cc(cpu->af));                                            \
	}
COND_EACH(JCC, )

#define JCC_ROW(cc, unused) {ZYDIS_MNEMONIC_J##cc, j64_##cc, j_##cc},
static const struct {
	ZydisMnemonic mnemonic;
	insn_fn *fn64, *fn;
} jcc_table[] = {COND_EACH(JCC_ROW, )};

static void jmp_rel64(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->s.rip += i->imm;
}
static void jmp_rel(struct soft_cpu *cpu, const struct insn *i)
{
	branch_rel(cpu, i, 1);
}
static void jmp_r(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->s.rip = target_check(cpu, i, insn_gpr(cpu, i->r1, i->osize));
}

static uint64_t mem_target(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t lin = soft_lin(cpu, i, i->osize, 0);

	return i->osize == 8   ? soft_read64(cpu, i->seg, lin)
	       : i->osize == 4 ? soft_read32(cpu, i->seg, lin)
			       : soft_read16(cpu, i->seg, lin);
}
static void jmp_m(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->s.rip = target_check(cpu, i, mem_target(cpu, i));
}

static void call_rel64(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t sp = cpu->s.gpr[X86_RSP] - 8;

	soft_write64(cpu, X86_SS, sp, cpu->s.rip + i->len);
	cpu->s.gpr[X86_RSP] = sp;
	cpu->s.rip += i->imm;
}

static void call_to(struct soft_cpu *cpu, const struct insn *i, uint64_t target)
{
	uint64_t lin = stack_lin(cpu, -(uint64_t)i->osize, i->osize, 1);

	/* The push's faults come before the target's. Intel's CPUs have written by then. */
	if (soft_amd(cpu)) {
		soft_align(cpu, X86_SS, lin, i->osize);
		soft_probe(cpu, X86_SS, lin, i->osize, 1);
	} else {
		stack_write(cpu, -(uint64_t)i->osize, i->osize, soft_next_rip(cpu, i));
	}
	target = target_check(cpu, i, target);
	if (soft_amd(cpu))
		stack_push(cpu, soft_next_rip(cpu, i), i->osize);
	else
		stack_add(cpu, -(uint64_t)i->osize);
	cpu->s.rip = target;
}
static void call_rel(struct soft_cpu *cpu, const struct insn *i)
{
	call_to(cpu, i, cpu->s.rip + i->imm);
}
static void call_r(struct soft_cpu *cpu, const struct insn *i)
{
	call_to(cpu, i, insn_gpr(cpu, i->r1, i->osize));
}
static void call_m(struct soft_cpu *cpu, const struct insn *i)
{
	call_to(cpu, i, mem_target(cpu, i));
}

static void ret_64(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t target = soft_read64(cpu, X86_SS, cpu->s.gpr[X86_RSP]);

	if (UNLIKELY(!soft_canonical(target)))
		soft_raise_err(cpu, X86_VEC_GP, 0);
	cpu->s.gpr[X86_RSP] += 8 + i->imm;
	cpu->s.rip = target;
}
static void ret(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t target = target_check(cpu, i, stack_read(cpu, 0, i->osize));

	stack_add(cpu, i->osize + i->imm);
	cpu->s.rip = target;
}

/* LOOP and JrCXZ count in the address size. */
static uint64_t count_get(struct soft_cpu *cpu, const struct insn *i)
{
	return insn_gpr(cpu, X86_RCX * 8, i->asize);
}
static void jcxz(struct soft_cpu *cpu, const struct insn *i)
{
	branch_rel(cpu, i, !count_get(cpu, i));
}
static void loop_if(struct soft_cpu *cpu, const struct insn *i, _Bool cond)
{
	uint64_t count = (count_get(cpu, i) - 1) & size_mask(i->asize);

	branch_rel(cpu, i, count && cond); /* may raise */
	insn_gpr_set(cpu, X86_RCX * 8, i->asize, count);
}
static void loop(struct soft_cpu *cpu, const struct insn *i)
{
	loop_if(cpu, i, 1);
}
static void loope(struct soft_cpu *cpu, const struct insn *i)
{
	loop_if(cpu, i, COND_Z(cpu->af));
}
static void loopne(struct soft_cpu *cpu, const struct insn *i)
{
	loop_if(cpu, i, COND_NZ(cpu->af));
}

static _Bool branch_near(struct soft_decode *d, insn_fn *rel64, insn_fn *rel, insn_fn *r,
			 insn_fn *m)
{
	struct insn *out = d->out;

	if (d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return 0;
	if (d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		out->fn = out->osize == 8 ? rel64 : rel;
	else
		out->fn = d->reg0 ? r : m;
	return 1;
}

_Bool decode_branch(struct soft_decode *d)
{
	struct insn *out = d->out;
	_Bool is64 = !!(d->cpu->mode & SOFT_MODE_64), found = 1;

	uint8_t osize =
	    is64 ? (d->zi->operand_width == 16 ? 2 : 8) : (d->zi->operand_width == 16 ? 2 : 4);
	/* The decoder has the vendors' difference for relative branches only. */
	if (is64 && (d->zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) && !d->zi->raw.rex.W &&
	    soft_amd(d->cpu))
		osize = 2;
	uint8_t old = out->osize;
	uint64_t imm = out->imm;
	out->osize = osize & 15;
	if (d->zi->operand_count_visible && d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
	    d->op[0].imm.is_relative)
		out->imm = (uint64_t)d->op[0].imm.value.s + d->zi->length;
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		found = branch_near(d, jmp_rel64, jmp_rel, jmp_r, jmp_m);
		out->flags |= found ? INSN_JUMP : 0;
		break;
	case ZYDIS_MNEMONIC_CALL:
		found = branch_near(d, call_rel64, call_rel, call_r, call_m);
		out->flags |= found ? INSN_JUMP : 0;
		break;
	case ZYDIS_MNEMONIC_RET:
		if (d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
			found = 0;
			break;
		}
		out->imm &= 0xffff;
		out->fn = osize == 8 ? ret_64 : ret;
		out->flags |= INSN_JUMP;
		break;
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ:
		out->asize = d->zi->mnemonic == ZYDIS_MNEMONIC_JCXZ    ? 2
			     : d->zi->mnemonic == ZYDIS_MNEMONIC_JECXZ ? 4
								       : 8;
		out->fn = jcxz;
		break;
	case ZYDIS_MNEMONIC_LOOP: out->fn = loop; break;
	case ZYDIS_MNEMONIC_LOOPE: out->fn = loope; break;
	case ZYDIS_MNEMONIC_LOOPNE: out->fn = loopne; break;
	default: found = 0;
	}
	for (unsigned k = 0; !found && k < ARRAY_SIZE(jcc_table); k++) {
		if (jcc_table[k].mnemonic != d->zi->mnemonic)
			continue;
		out->fn = out->osize == 8 ? jcc_table[k].fn64 : jcc_table[k].fn;
		found = 1;
	}
	if (found) {
		out->flags |= INSN_BRANCH;
	} else {
		out->osize = old & 15;
		out->imm = imm;
	}
	return found;
}
