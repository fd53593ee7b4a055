/* trans_x87.c: x87 instructions as themselves, and the pointers that they leave.
 *
 * They run with all exceptions masked (trans_live.c), so none ever traps or finds one pending. The
 * guest's instruction and data pointers stay in memory, where the interpreter keeps them. (Those
 * that only an unmasked exception changes are left alone.) The
 * data pointer is stored by each instruction with an operand; address, opcode and selectors of the
 * last instruction are known at translation and stored once, at the block's end or out of line
 * before a C function may look.
 */
#include "engine/soft/trans_impl.h"
#include "engine/soft/vec.h"

#define FX_AT(at) trans_at(offsetof(struct soft_cpu, s.fpu.fx) + (at))

static void store16(struct emit *e, int reg, struct emit_rm rm)
{
	emit_modrm(e, &(struct emit_op){.opcode = 0x89, .osize16 = 1, .reg = (uint8_t)reg}, rm);
}

static void selector_store(struct emit *e, unsigned seg, unsigned at)
{
	emit_modrm(e, &(struct emit_op){.map = 1, .opcode = 0xb7, .reg = H_RAX},
		   trans_at(offsetof(struct soft_cpu, s.seg) + seg * sizeof(struct x86_seg) +
			    offsetof(struct x86_seg, selector)));
	store16(e, H_RAX, FX_AT(at));
}

void tb_x87_pointers(struct tb *tb, const struct tb_x87 *p)
{
	struct emit *e = &tb->e;

	if (!p->set)
		return;
	emit_op64(e, 0x8b, H_RAX, T_FIELD(page));
	emit_lea(e, H_RAX, rm_mem(H_RAX, H_NONE, 0, (int32_t)p->at));
	emit_op64(e, 0x89, H_RAX, FX_AT(X86_FX_FIP));
	if (!tb->cpu->vec->fop_late) {
		emit_mov_imm(e, H_RAX, p->fop);
		store16(e, H_RAX, FX_AT(X86_FX_FOP));
	}
	if (tb->cpu->vec->no_selectors)
		return;
	selector_store(e, X86_CS, VEC_FX_FCS);
	if (p->mem)
		selector_store(e, p->seg, VEC_FX_FDS);
}

/* The instruction at work has been executed. */
static void pointers_note(struct tb *tb, _Bool mem)
{
	const struct insn *n = tb->insn;

	if (n->aux & VEC_CONTROL)
		return;
	/* An operand's segment stays that of the last one that had any. */
	if (!tb->x87.set)
		tb->x87.mem = 0;
	if (mem) {
		tb->x87.mem = 1;
		tb->x87.seg = n->seg;
	}
	tb->x87.set = 1;
	tb->x87.at = tb->at;
	tb->x87.fop = (uint16_t)(((n->aux >> VEC_OP_SHIFT) & 7) << 8 | n->r1);
}

static void x87_registers(struct tb *tb, const struct tb_insn *i)
{
	struct emit *e = &tb->e;
	const ZydisAccessedFlags *f = i->zi.cpu_flags;
	_Bool out = f && ((f->modified | f->set_0 | f->set_1 | f->undefined) & X86_ARITH);

	/* FCMOV reads flags, FCOMI may leave some. */
	if (out || (f && (f->tested & X86_ARITH)))
		tb_flags_host(tb);
	emit_byte(e, i->zi.opcode);
	emit_byte(e, (uint8_t)(0xc0 | i->zi.raw.modrm.reg << 3 | i->zi.raw.modrm.rm));
	if (out)
		tb->flags = FLAGS_HOST;
	if (i->zi.mnemonic == ZYDIS_MNEMONIC_FNSTSW)
		emit_modrm(e, &(struct emit_op){.opcode = 0x8b, .osize16 = 1, .reg = T_GRAX},
			   rm_reg(H_RAX));
	pointers_note(tb, 0);
}

/* A control word in RAX that unmasks an exception is the handler's. */
static struct late *control_check(struct tb *tb, struct emit_rm rm)
{
	struct emit *e = &tb->e;

	emit_modrm(e, &(struct emit_op){.map = 1, .opcode = 0xb7, .reg = H_RAX}, rm);
	emit_op32(e, 0xf7, 2, rm_reg(H_RAX)); /* not eax */
	emit_byte(e, 0xa8);		      /* test al */
	emit_byte(e, 0x3f);
	return tb_late(tb, LATE_MISS, emit_jcc(e, CC_NZ));
}

static void x87_memory(struct tb *tb, const struct tb_insn *i, unsigned size, _Bool write)
{
	struct emit *e = &tb->e;
	_Bool control = tb->insn->aux & VEC_CONTROL,
	      load_cw = i->zi.mnemonic == ZYDIS_MNEMONIC_FLDCW;
	struct tb_mem mem = {.m = tb->insn,
			     .keeps = !load_cw,
			     .size = size,
			     .write = write,
			     .simple = tb_mem_simple(tb, tb->insn) && !write && !load_cw};
	struct late *checked = NULL;
	struct insn m = *tb->insn;

	tb_mem(tb, &mem);
	if (load_cw)
		checked = control_check(tb, mem.rm);
	if (!control && !tb->cpu->vec->fdp_late) {
		int scratch = mem.simple ? H_R11 : H_RAX;
		m.segbase = SOFT_EA_ZERO;
		tb_ea(tb, &m, scratch, 0, 0);
		emit_op64(e, 0x89, scratch, FX_AT(X86_FX_FDP));
	}
	emit_modrm(e,
		   &(struct emit_op){.opcode = i->zi.opcode,
				     .reg_is_op = 1,
				     .reg = (uint8_t)(i->zi.raw.modrm.reg & 7)},
		   mem.rm);
	pointers_note(tb, 1);
	if (write)
		tb_mem_written(tb, &mem, 0);
	tb_mem_end(tb, &mem);
	if (checked) {
		checked->back = e->at;
		checked->reload = tb->flags != FLAGS_SAVED;
	}
}

_Bool tb_x87(struct tb *tb, const struct tb_insn *i)
{
	const ZydisDecodedOperand *op = NULL;

	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_FWAIT: tb_live(tb, LIVE_SSE | LIVE_X87); return 1;
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNINIT: return 0;
	default: break;
	}
	for (unsigned k = 0; k < i->zi.operand_count_visible; k++)
		if (i->ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			op = &i->ops[k];
	if (op && !tb_ea_possible(tb, tb->insn))
		return 0;
	tb_live(tb, LIVE_SSE | LIVE_X87);
	if (op)
		x87_memory(tb, i, op->size / 8u, !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE));
	else
		x87_registers(tb, i);
	return 1;
}
