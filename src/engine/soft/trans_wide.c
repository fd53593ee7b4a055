/* trans_wide.c: division, bit strings, CMPXCHG8B and CMPXCHG16B. */
#include "engine/soft/trans_impl.h"

static void miss_if(struct tb *tb, unsigned cc, struct late **list)
{
	struct late *l = tb_late(tb, LATE_MISS, emit_jcc(&tb->e, cc));

	l->chain = *list;
	*list = l;
}

/* All of them come back here. */
static void miss_end(struct tb *tb, struct late *list)
{
	for (; list; list = list->chain) {
		list->back = tb->e.at;
		list->reload = tb->flags != FLAGS_SAVED;
	}
}

static void op_rr(struct tb *tb, uint8_t opcode, int reg, int rm, _Bool wide)
{
	emit_modrm(&tb->e, &(struct emit_op){.opcode = opcode, .wide = wide, .reg = (uint8_t)reg},
		   rm_reg(rm));
}

/*
 * A division that might not fit its quotient is the handler's: of unsigned ones where the upper
 * half is not less than the divisor; of signed ones all whose dividend is more than its lower half,
 * or whose divisor is 0 or -1.
 */
static void divide_check(struct tb *tb, int src, _Bool sign, _Bool wide, struct late **misses)
{
	struct emit *e = &tb->e;

	if (!sign) {
		op_rr(tb, 0x3b, H_RDX, src, wide); /* cmp */
		miss_if(tb, CC_NB, misses);
		return;
	}
	emit_mov(e, H_RAX, T_GRAX);
	emit_modrm(e, &(struct emit_op){.opcode = 0xc1, .wide = wide, .reg_is_op = 1, .reg = 7},
		   rm_reg(H_RAX)); /* sar */
	emit_byte(e, wide ? 63 : 31);
	op_rr(tb, 0x3b, H_RAX, H_RDX, wide);
	miss_if(tb, CC_NZ, misses);
	emit_modrm(e, &(struct emit_op){.opcode = 0x8d, .wide = wide, .reg = H_RAX},
		   rm_mem(src, H_NONE, 0, 1)); /* lea */
	emit_alu_imm(e, ALU_CMP, H_RAX, 1, wide);
	miss_if(tb, 6, misses); /* not above */
}

static _Bool divide(struct tb *tb, const struct tb_insn *i, _Bool sign)
{
	const ZydisDecodedOperand *op = &i->ops[0];
	_Bool wide = op->size == 64, memory = op->type == ZYDIS_OPERAND_TYPE_MEMORY;
	struct tb_mem mem = {.m = tb->insn, .size = op->size / 8u};
	struct emit *e = &tb->e;
	struct late *misses = NULL;
	int src = H_R11;

	if (op->size < 32 || (memory && !tb_ea_possible(tb, tb->insn)))
		return 0;
	if (memory) {
		tb_mem(tb, &mem);
		emit_modrm(e, &(struct emit_op){.opcode = 0x8b, .wide = wide, .reg = H_R11},
			   mem.rm);
	} else {
		unsigned gpr = tb->insn->r1 / 8u;
		tb_flags_save(tb);
		tb->flags = FLAGS_SAVED;
		if (trans_host(gpr) == H_NONE)
			emit_op64(e, 0x8b, H_R11, trans_gpr(gpr));
		else
			src = trans_host(gpr);
	}
	divide_check(tb, src, sign, wide, &misses);
	tb_flags_host(tb); /* what it leaves in them is the host's business */
	emit_mov(e, H_RAX, T_GRAX);
	emit_modrm(
	    e, &(struct emit_op){.opcode = 0xf7, .wide = wide, .reg_is_op = 1, .reg = sign ? 7 : 6},
	    rm_reg(src));
	emit_mov(e, T_GRAX, H_RAX);
	tb->flags = FLAGS_HOST;
	if (memory)
		tb_mem_end(tb, &mem);
	miss_end(tb, misses);
	return 1;
}

/* BT and its like with a bit number in a register: the word that it lies in is found first. */
static _Bool bit_string(struct tb *tb, const struct tb_insn *i)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	struct emit *e = &tb->e;
	unsigned size = i->ops[0].size / 8u;
	_Bool wide = size == 8, lock = !!(zi->attributes & ZYDIS_ATTRIB_HAS_LOCK);
	_Bool write = zi->mnemonic != ZYDIS_MNEMONIC_BT;
	struct tb_mem mem = {.m = tb->insn, .size = size, .write = write, .kept = 1};
	int off;

	if (zi->opcode_map != ZYDIS_OPCODE_MAP_0F || zi->opcode == 0xba ||
	    i->ops[0].type != ZYDIS_OPERAND_TYPE_MEMORY || size < 4 ||
	    !tb_ea_possible(tb, tb->insn))
		return 0;
	off = soft_gpr_offset(i->ops[1].reg.value);
	if (off < 0)
		return 0;
	int bit = trans_host((unsigned)off / 8);
	struct emit_rm bit_rm = bit == H_NONE ? trans_gpr((unsigned)off / 8) : rm_reg(bit);
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	if (wide)
		emit_op64(e, 0x8b, H_R11, bit_rm);
	else
		emit_op64(e, 0x63, H_R11, bit_rm); /* movsxd */
	emit_modrm(e, &(struct emit_op){.opcode = 0xc1, .wide = 1, .reg_is_op = 1, .reg = 7},
		   rm_reg(H_R11)); /* sar */
	emit_byte(e, wide ? 6 : 5);
	/* The address may be formed in either register while the other is kept. */
	tb_ea(tb, tb->insn, H_RAX, 0, 1);
	tb_lea(tb, H_RAX, rm_mem(H_RAX, H_R11, wide ? 3 : 2, 0));
	emit_op64(e, 0x89, H_RAX, T_FIELD(rmw_lin));
	if (lock) {
		emit_op32(e, 0x8b, H_RAX, bit_rm);
		emit_alu_imm(e, ALU_AND, H_RAX, wide ? 63 : 31, 0);
		emit_op32(e, 0x89, H_RAX, T_FIELD(rmw_old));
	}
	tb_mem(tb, &mem);
	tb_flags_host(tb);
	struct emit_op op = {.map = 1, .opcode = zi->opcode, .wide = wide, .lock = lock};
	if (lock) {
		emit_op32(e, 0x8b, H_RAX, T_FIELD(rmw_old));
		op.reg = H_RAX;
		emit_modrm(e, &op, mem.rm);
	} else if (bit == H_NONE) {
		/* There is no third scratch register; RCX stands in for the bit number. */
		emit_byte(e, 0x51); /* push rcx */
		emit_op64(e, 0x8b, H_RCX, bit_rm);
		emit_modrm(e, &(struct emit_op){.opcode = 0x8b, .wide = wide, .reg = H_RAX},
			   mem.rm);
		op.reg = H_RCX;
		emit_modrm(e, &op, rm_reg(H_RAX));
		emit_byte(e, 0x59); /* pop rcx */
	} else {
		emit_modrm(e, &(struct emit_op){.opcode = 0x8b, .wide = wide, .reg = H_RAX},
			   mem.rm);
		op.reg = (uint8_t)bit;
		emit_modrm(e, &op, rm_reg(H_RAX));
	}
	if (write && !lock)
		emit_modrm(e, &(struct emit_op){.opcode = 0x89, .wide = wide, .reg = H_RAX},
			   mem.rm);
	tb->flags = FLAGS_HOST;
	if (write)
		tb_mem_written(tb, &mem, 0);
	tb_mem_end(tb, &mem);
	return 1;
}

static _Bool cmpxchg_pair(struct tb *tb, const struct tb_insn *i)
{
	_Bool wide = i->zi.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
	struct tb_mem mem = {.m = tb->insn, .size = wide ? 16 : 8, .write = 1, .align = wide};
	struct emit *e = &tb->e;

	if (!tb_ea_possible(tb, tb->insn))
		return 0;
	tb_mem(tb, &mem);
	tb_flags_host(tb);
	emit_mov(e, H_RAX, T_GRAX);
	emit_modrm(e,
		   &(struct emit_op){.map = 1,
				     .opcode = 0xc7,
				     .wide = wide,
				     .lock = !!(i->zi.attributes & ZYDIS_ATTRIB_HAS_LOCK),
				     .reg_is_op = 1,
				     .reg = 1},
		   mem.rm);
	emit_mov(e, T_GRAX, H_RAX);
	tb->flags = FLAGS_HOST;
	tb_mem_written(tb, &mem, 0);
	tb_mem_end(tb, &mem);
	return 1;
}

_Bool tb_wide(struct tb *tb, const struct tb_insn *i)
{
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_DIV: return divide(tb, i, 0);
	case ZYDIS_MNEMONIC_IDIV: return divide(tb, i, 1);
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC: return bit_string(tb, i);
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B: return cmpxchg_pair(tb, i);
	default: return 0;
	}
}
