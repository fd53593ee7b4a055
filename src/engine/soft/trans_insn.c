/* trans_insn.c: straight instructions: the guest's own, with registers and operands replaced. */
#include <string.h>
#include "engine/soft/trans_impl.h"

int tb_flag_use(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_XCHG: return USE_NONE;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_XADD: return USE_OUT;
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_CMPXCHG: return USE_INOUT;
	default: break;
	}
	if (zi->meta.category == ZYDIS_CATEGORY_CMOV || zi->meta.category == ZYDIS_CATEGORY_SETCC)
		return USE_IN;
	return -1;
}

/* An instruction with a ModRM byte, taken apart. */
struct generic {
	struct emit_op op;
	int reg, rm; /* guest registers; -1: none */
	_Bool mem;
	_Bool reg_written, rm_written;
	_Bool acc; /* RAX is an operand beside: MUL, CMPXCHG */
	unsigned size;
	uint8_t imm[4];
	unsigned imm_bytes;
};

static _Bool is_bit_test(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR ||
	       m == ZYDIS_MNEMONIC_BTC;
}

/* A register in the opcode: the long form of MOV r, imm; of 32-bit code's INC and DEC; of XCHG with
 * the accumulator. */
static _Bool short_take(struct generic *g, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *op, int gpr)
{
	g->rm = gpr;
	g->rm_written = 1;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOV: g->op.opcode = op->size == 8 ? 0xc6 : 0xc7; return 1;
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
		g->op.opcode = 0xff;
		g->op.reg = zi->mnemonic == ZYDIS_MNEMONIC_DEC;
		return 1;
	case ZYDIS_MNEMONIC_XCHG: g->op.opcode = 0x87; return 1;
	default: return 0;
	}
}

/* MOV between the accumulator and an address without ModRM. */
static _Bool moffs_is(const ZydisDecodedInstruction *zi)
{
	return zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi->opcode & 0xfc) == 0xa0;
}

static _Bool operand_take(struct generic *g, const ZydisDecodedInstruction *zi,
			  const ZydisDecodedOperand *op)
{
	_Bool written = !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);

	if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return 1;
	if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		g->mem = 1;
		g->rm_written = written;
		g->size = op->size / 8u;
		if (moffs_is(zi)) {
			g->op.opcode = (zi->opcode & 1) | (g->rm_written ? 0x88 : 0x8a);
			return 1;
		}
		return op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
	}
	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return 0;
	int off = soft_gpr_offset(op->reg.value);
	if (op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
	    (zi->mnemonic == ZYDIS_MNEMONIC_MUL || zi->mnemonic == ZYDIS_MNEMONIC_IMUL ||
	     zi->mnemonic == ZYDIS_MNEMONIC_CMPXCHG))
		return 1; /* the accumulator: `acc` */
	if (off < 0 || (off & 1))
		return 0;
	if (op->size == 8)
		g->op.bytes = 1;
	switch (op->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		g->reg = off / 8;
		g->reg_written = written;
		return 1;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		g->rm = off / 8;
		g->rm_written = written;
		return 1;
	case ZYDIS_OPERAND_ENCODING_OPCODE: return short_take(g, zi, op, off / 8);
	default: break;
	}
	if (moffs_is(zi) || (zi->mnemonic == ZYDIS_MNEMONIC_XCHG && off == 0)) {
		g->reg = 0;
		g->reg_written = written;
		return 1;
	}
	/* The count of a shift stays in CL; the accumulator's short forms become long ones. */
	if (op->reg.value == ZYDIS_REGISTER_CL)
		return 1;
	if (off != 0 || zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return 0;
	if (zi->opcode < 0x40 && (zi->opcode & 6) == 4) {
		g->op.opcode = 0x80 | (zi->opcode & 1);
		g->op.reg = (zi->opcode >> 3) & 7;
	} else if ((zi->opcode & 0xfe) == 0xa8) {
		g->op.opcode = 0xf6 | (zi->opcode & 1);
		g->op.reg = 0;
	} else {
		return 0;
	}
	g->rm = 0;
	g->rm_written = written;
	return 1;
}

static _Bool generic_take(struct tb *tb, const struct tb_insn *i, struct generic *g)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	unsigned map = zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? 0
		       : zi->opcode_map == ZYDIS_OPCODE_MAP_0F	  ? 1
								  : 9;

	if (map > 1 || zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return 0;
	*g = (struct generic){.reg = -1, .rm = -1};
	g->op.map = (uint8_t)map;
	g->op.opcode = zi->opcode;
	g->op.osize16 = zi->operand_width == 16;
	g->op.wide = zi->raw.rex.W;
	g->op.lock = !!(zi->attributes & ZYDIS_ATTRIB_HAS_LOCK);
	g->op.reg = zi->raw.modrm.reg & 7;
	if (zi->mnemonic == ZYDIS_MNEMONIC_TZCNT || zi->mnemonic == ZYDIS_MNEMONIC_LZCNT ||
	    zi->mnemonic == ZYDIS_MNEMONIC_POPCNT)
		g->op.prefix = 0xf3;
	for (unsigned k = 0; k < zi->operand_count_visible; k++)
		if (!operand_take(g, zi, &i->ops[k]))
			return 0;
	if (g->rm < 0 && !g->mem)
		return 0;
	g->op.reg_is_op = g->reg < 0;
	g->imm_bytes = zi->raw.imm[0].size / 8u;
	if (zi->raw.imm[1].size || g->imm_bytes > 4)
		return 0;
	memcpy(g->imm, tb->bytes + zi->raw.imm[0].offset, g->imm_bytes);
	/* A bit string reaches beyond its operand. */
	if (is_bit_test(zi->mnemonic) && g->mem && g->reg >= 0)
		return 0;
	_Bool two = g->reg >= 0 && g->rm >= 0 && g->reg_written && g->rm_written;
	if (two && g->reg == g->rm)
		return 0;
	if (zi->mnemonic == ZYDIS_MNEMONIC_CMPXCHG) {
		if (!g->mem || g->reg < 0 || trans_host((unsigned)g->reg) == H_NONE)
			return 0;
		g->acc = 1;
		g->rm_written = 1;
	}
	if (zi->mnemonic == ZYDIS_MNEMONIC_MUL ||
	    (zi->mnemonic == ZYDIS_MNEMONIC_IMUL && map == 0 && zi->opcode >= 0xf6)) {
		g->acc = 1;
		g->reg = -1;
		g->op.reg_is_op = 1;
		g->op.reg = zi->raw.modrm.reg & 7;
	}
	return !g->mem || ((g->size == 1 || g->size == 2 || g->size == 4 || g->size == 8) &&
			   tb_ea_possible(tb, tb->insn));
}

/* The operation itself, on registers or with the memory operand in `rm`. */
static void generic_core(struct tb *tb, struct generic *g, struct emit_rm rm, int scratch)
{
	struct emit *e = &tb->e;
	int hr = g->reg >= 0 ? trans_host((unsigned)g->reg) : g->op.reg;
	_Bool resident = g->reg >= 0 && hr == H_NONE;

	if (resident) {
		hr = scratch;
		emit_op64(e, 0x8b, hr, trans_gpr((unsigned)g->reg));
	}
	if (g->acc)
		emit_mov(e, H_RAX, T_GRAX);
	g->op.reg = (uint8_t)hr;
	emit_modrm(e, &g->op, rm);
	for (unsigned k = 0; k < g->imm_bytes; k++)
		emit_byte(e, g->imm[k]);
	if (g->acc)
		emit_mov(e, T_GRAX, H_RAX);
	if (resident && g->reg_written)
		emit_op64(e, 0x89, hr, trans_gpr((unsigned)g->reg));
}

static void generic_reg(struct tb *tb, struct generic *g, enum flag_use use)
{
	int hm = trans_host((unsigned)g->rm);
	_Bool resident = hm == H_NONE;

	if (use == USE_IN || use == USE_INOUT)
		tb_flags_host(tb);
	if (resident) {
		hm = H_R11;
		emit_op64(&tb->e, 0x8b, hm, trans_gpr((unsigned)g->rm));
	}
	generic_core(tb, g, rm_reg(hm), H_RAX);
	if (resident && g->rm_written)
		emit_op64(&tb->e, 0x89, hm, trans_gpr((unsigned)g->rm));
	if (use == USE_OUT || use == USE_INOUT)
		tb->flags = FLAGS_HOST;
}

static void generic_mem(struct tb *tb, struct generic *g, enum flag_use use)
{
	_Bool in = use == USE_IN || use == USE_INOUT, out = use == USE_OUT || use == USE_INOUT;
	_Bool resident = g->reg >= 0 && trans_host((unsigned)g->reg) == H_NONE;
	_Bool simple =
	    tb_mem_simple(tb, tb->insn) && !in && !g->acc && !(g->rm_written && (out || resident));
	struct tb_mem mem = {
	    .m = tb->insn, .keeps = 1, .size = g->size, .write = g->rm_written, .simple = simple};

	tb_mem(tb, &mem);
	if (in)
		tb_flags_host(tb);
	generic_core(tb, g, mem.rm, simple ? H_R11 : H_RAX);
	if (out)
		tb->flags = FLAGS_HOST;
	if (g->rm_written)
		tb_mem_written(tb, &mem, 0);
	tb_mem_end(tb, &mem);
}

static _Bool generic(struct tb *tb, const struct tb_insn *i)
{
	struct generic g;
	int use = tb_flag_use(&i->zi);

	if (use >= 0 && tb_high(tb, i, use))
		return 1;
	if (use < 0 || !generic_take(tb, i, &g))
		return 0;
	if (g.mem)
		generic_mem(tb, &g, (enum flag_use)use);
	else
		generic_reg(tb, &g, (enum flag_use)use);
	return 1;
}

static void gpr_store(struct tb *tb, unsigned gpr, int from)
{
	if (trans_host(gpr) == H_NONE)
		emit_op64(&tb->e, 0x89, from, trans_gpr(gpr));
	else
		emit_mov(&tb->e, trans_host(gpr), from);
}

/* MOV of an immediate to a 32- or 64-bit register */
static _Bool mov_imm(struct tb *tb, const struct tb_insn *i)
{
	const struct insn *n = tb->insn;

	if (i->zi.mnemonic != ZYDIS_MNEMONIC_MOV || i->ops[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    i->ops[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || i->ops[0].size < 32)
		return 0;
	unsigned gpr = n->r1 / 8u;
	int h = trans_host(gpr) == H_NONE ? H_RAX : trans_host(gpr);
	emit_mov_imm(&tb->e, h, i->ops[0].size == 32 ? (uint32_t)n->imm : n->imm);
	if (trans_host(gpr) == H_NONE)
		gpr_store(tb, gpr, h);
	return 1;
}

static _Bool lea(struct tb *tb, const struct tb_insn *i)
{
	const struct insn *n = tb->insn;
	struct insn m = *n, near;

	if (i->ops[0].size < 32 || n->asize != tb->word)
		return 0;
	m.segbase = SOFT_EA_ZERO;
	m.flags &= (uint16_t)~INSN_SLOW_EA;
	/* Nothing is added to its displacement, unless RIP, so that any has room: compilers compare
	 * with INT_MAX so. */
	near = m;
	if (n->base != SOFT_EA_RIP)
		near.disp = 0;
	if (!tb_ea_possible(tb, &near))
		return 0;
	if (tb_ea_clobbers(&m, 0)) {
		tb_flags_save(tb);
		tb->flags = FLAGS_SAVED;
	}
	tb_ea(tb, &m, H_R11, 0, 0);
	if (i->ops[0].size == 32)
		emit_op32(&tb->e, 0x8b, H_R11, rm_reg(H_R11));
	gpr_store(tb, n->r1 / 8u, H_R11);
	return 1;
}

/* CBW and its like work on the accumulator. */
static _Bool widen(struct tb *tb, const struct tb_insn *i)
{
	emit_mov(&tb->e, H_RAX, T_GRAX);
	if (i->zi.operand_width == 16)
		emit_byte(&tb->e, 0x66);
	if (i->zi.raw.rex.W)
		emit_byte(&tb->e, 0x48);
	emit_byte(&tb->e, i->zi.opcode);
	emit_mov(&tb->e, T_GRAX, H_RAX);
	return 1;
}

static _Bool bswap(struct tb *tb, const struct tb_insn *i)
{
	unsigned gpr = tb->insn->r1 / 8u;
	int h = trans_host(gpr) == H_NONE ? H_R11 : trans_host(gpr);

	if (i->ops[0].size < 32)
		return 0;
	if (h == H_R11)
		emit_op64(&tb->e, 0x8b, h, trans_gpr(gpr));
	unsigned rex = (i->zi.raw.rex.W ? 0x48u : 0) | (h & 8 ? 0x41u : 0);
	if (rex)
		emit_byte(&tb->e, (uint8_t)rex);
	emit_byte(&tb->e, 0x0f);
	emit_byte(&tb->e, (uint8_t)(0xc8 | (h & 7)));
	if (h == H_R11)
		emit_op64(&tb->e, 0x89, h, trans_gpr(gpr));
	return 1;
}

static const struct insn top = {
    .base = SOFT_EA_GPR(X86_RSP), .index = SOFT_EA_ZERO, .segbase = SOFT_EA_ZERO, .seg = X86_SS};

static void rsp_add(struct tb *tb, int32_t n)
{
	tb_lea(tb, T_GRSP, rm_mem(T_GRSP, H_NONE, 0, n));
}

static _Bool push(struct tb *tb, const struct tb_insn *i)
{
	struct insn m = top;
	struct tb_mem mem = {.m = &m, .keeps = 1, .size = tb->word, .write = 1, .simple = 1};
	const ZydisDecodedOperand *op = &i->ops[0];
	_Bool imm = op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	int h = H_RAX;

	m.disp = -tb->word;
	if (tb->insn->osize != tb->word || op->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return 0;
	if (!imm) {
		int off = soft_gpr_offset(op->reg.value);
		if (off < 0)
			return 0;
		h = trans_host((unsigned)off / 8);
		mem.simple = h != H_NONE;
	}
	tb_mem(tb, &mem);
	if (imm) {
		tb_op(tb, 0xc7, 0, mem.rm);
		emit_32(&tb->e, (uint32_t)tb->insn->imm);
	} else if (h == H_NONE) {
		emit_op64(&tb->e, 0x8b, H_RAX, trans_gpr(tb->insn->r1 / 8u));
		emit_op64(&tb->e, 0x89, H_RAX, mem.rm);
	} else {
		tb_op(tb, 0x89, h, mem.rm);
	}
	rsp_add(tb, -tb->word);
	tb_mem_written(tb, &mem, -tb->word);
	tb_mem_end(tb, &mem);
	return 1;
}

static _Bool pop(struct tb *tb, const struct tb_insn *i)
{
	struct tb_mem mem = {.m = &top, .keeps = 1, .size = tb->word, .simple = 1};
	const ZydisDecodedOperand *op = &i->ops[0];

	if (tb->insn->osize != tb->word || op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    soft_gpr_offset(op->reg.value) < 0)
		return 0;
	unsigned gpr = tb->insn->r1 / 8u;
	tb_mem(tb, &mem);
	tb_op(tb, 0x8b, H_R11, mem.rm);
	rsp_add(tb, tb->word);
	gpr_store(tb, gpr, H_R11);
	tb_mem_end(tb, &mem);
	return 1;
}

static _Bool leave(struct tb *tb)
{
	struct insn m = top;
	struct tb_mem mem = {.m = &m, .size = tb->word, .simple = 1};

	if (tb->insn->osize != tb->word)
		return 0;
	m.base = SOFT_EA_GPR(X86_RBP);
	tb_mem(tb, &mem);
	tb_op(tb, 0x8b, H_R11, mem.rm);
	tb_lea(tb, T_GRSP, rm_mem(H_RBP, H_NONE, 0, tb->word));
	emit_mov(&tb->e, H_RBP, H_R11);
	tb_mem_end(tb, &mem);
	return 1;
}

/* Not in loops: they may wait, or change what is checked where a loop begins. So rare that nothing
 * is lost by not relying on what is known of the registers that they write either. */
static _Bool unusual(struct tb *tb, const struct tb_insn *i)
{
	if (!tb_sys(tb, i) && !tb_rare(tb, i))
		return 0;
	tb->loop.broken = 1;
	tb_near_end(tb);
	return 1;
}

_Bool tb_insn(struct tb *tb, const struct tb_insn *i)
{
	if (tb->insn->fn == op_ud || tb->insn->fn == op_gp ||
	    (tb->insn->flags & (INSN_BRANCH | INSN_END | INSN_STATE)))
		return 0;
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_NOP: return 1;
	case ZYDIS_MNEMONIC_LEA: return lea(tb, i);
	case ZYDIS_MNEMONIC_BSWAP: return bswap(tb, i);
	case ZYDIS_MNEMONIC_PUSH: return push(tb, i) || unusual(tb, i);
	case ZYDIS_MNEMONIC_POP: return pop(tb, i);
	case ZYDIS_MNEMONIC_LEAVE: return leave(tb);
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO: return widen(tb, i);
	default:
		return mov_imm(tb, i) || generic(tb, i) || tb_wide(tb, i) || unusual(tb, i) ||
		       tb_vec(tb, i);
	}
}
