/* trans_byte.c: instructions on AH, CH, DH and BH.
 *
 * One that names them has no REX prefix, so its other register is one of the first four, too. CH,
 * DH and BH are where the host has them; the guest's RAX is copied to the host's. Then, between
 * registers, the instruction is its own bytes. A memory operand's address needs REX, so there the
 * byte takes a way over AL, or the operand over another register.
 */
#include "engine/soft/trans_impl.h"

#define HIGH(n) ((n) + 4) /* of register n, in an encoding */

static _Bool is_high(const ZydisDecodedOperand *op)
{
	int off = op->type == ZYDIS_OPERAND_TYPE_REGISTER ? soft_gpr_offset(op->reg.value) : -1;

	return off >= 0 && (off & 1);
}

static void byte_op(struct tb *tb, uint8_t map, uint8_t opcode, unsigned reg, unsigned rm)
{
	if (map)
		emit_byte(&tb->e, 0x0f);
	emit_byte(&tb->e, opcode);
	emit_byte(&tb->e, (uint8_t)(0xc0 | reg << 3 | rm));
}

/* As it stands; `written`: the guest's RAX may be. */
static void verbatim(struct tb *tb, const struct tb_insn *i, _Bool rax, _Bool written)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	struct emit *e = &tb->e;

	if (rax)
		emit_mov(e, H_RAX, T_GRAX);
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F)
		emit_byte(e, 0x0f);
	emit_byte(e, zi->opcode);
	unsigned at = zi->length - zi->raw.imm[0].size / 8u;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)
		emit_byte(e, tb->bytes[zi->raw.modrm.offset]);
	for (; at < zi->length; at++)
		emit_byte(e, tb->bytes[at]);
	if (rax && written)
		emit_mov(e, T_GRAX, H_RAX);
}

static unsigned byte_gpr(const ZydisDecodedOperand *op)
{
	return (unsigned)soft_gpr_offset(op->reg.value) / 8;
}

/* A high byte's value into EAX, extended by MOVZX or MOVSX. */
static void high_get(struct tb *tb, unsigned gpr, uint8_t opcode)
{
	if (gpr == X86_RAX)
		emit_mov(&tb->e, H_RAX, T_GRAX);
	byte_op(tb, 1, opcode, H_RAX, HIGH(gpr));
}

static _Bool extend(struct tb *tb, const struct tb_insn *i)
{
	unsigned to = byte_gpr(&i->ops[0]);

	if (i->ops[0].size != 32)
		return 0;
	high_get(tb, byte_gpr(&i->ops[1]), i->zi.opcode);
	if (trans_host(to) == H_NONE)
		emit_op64(&tb->e, 0x89, H_RAX, trans_gpr(to));
	else
		emit_op64(&tb->e, 0x89, H_RAX, rm_reg(trans_host(to)));
	return 1;
}

/* OP [mem], AH and the like: opcode with AL in place of it. */
static void to_memory(struct tb *tb, const struct tb_insn *i, int use, struct tb_mem *mem)
{
	tb_mem(tb, mem);
	if (use == USE_IN || use == USE_INOUT)
		tb_flags_host(tb);
	high_get(tb, byte_gpr(&i->ops[1]), 0xb6);
	emit_modrm(&tb->e, &(struct emit_op){.opcode = i->zi.opcode, .reg = H_RAX}, mem->rm);
	if (use == USE_OUT || use == USE_INOUT)
		tb->flags = FLAGS_HOST;
	if (mem->write)
		tb_mem_written(tb, mem, 0);
	tb_mem_end(tb, mem);
}

/* OP AH, [mem] and the like: the operand by way of CL, or DL when CH is meant. */
static void from_memory(struct tb *tb, const struct tb_insn *i, int use, struct tb_mem *mem)
{
	unsigned gpr = byte_gpr(&i->ops[0]), by = gpr == X86_RCX ? H_RDX : H_RCX;
	struct emit *e = &tb->e;

	tb_mem(tb, mem);
	if (use == USE_IN || use == USE_INOUT)
		tb_flags_host(tb);
	emit_byte(e, (uint8_t)(0x50 | by)); /* push */
	emit_modrm(e, &(struct emit_op){.map = 1, .opcode = 0xb6, .reg = (uint8_t)by}, mem->rm);
	if (gpr == X86_RAX)
		emit_mov(e, H_RAX, T_GRAX);
	byte_op(tb, 0, i->zi.opcode, HIGH(gpr), by);
	if (gpr == X86_RAX)
		emit_mov(e, T_GRAX, H_RAX);
	emit_byte(e, (uint8_t)(0x58 | by)); /* pop */
	if (use == USE_OUT || use == USE_INOUT)
		tb->flags = FLAGS_HOST;
	tb_mem_end(tb, mem);
}

static _Bool memory(struct tb *tb, const struct tb_insn *i, int use)
{
	_Bool source = is_high(&i->ops[1]);
	const ZydisDecodedOperand *op = &i->ops[source ? 0 : 1];
	struct tb_mem mem = {
	    .m = tb->insn, .size = 1, .write = !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)};

	/* The two-operand ALU operations, TEST, MOV; not XCHG, XADD and so on. */
	if (i->zi.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || i->zi.operand_count_visible != 2 ||
	    (i->zi.attributes & ZYDIS_ATTRIB_HAS_LOCK) ||
	    !(i->zi.opcode < 0x40 || i->zi.opcode == 0x84 || i->zi.opcode == 0x88 ||
	      i->zi.opcode == 0x8a) ||
	    !tb_ea_possible(tb, tb->insn))
		return 0;
	/* TEST has but one form, and Zydis may call either operand the first. */
	if (i->zi.opcode == 0x84 && !source)
		return 0;
	if (source)
		to_memory(tb, i, use, &mem);
	else
		from_memory(tb, i, use, &mem);
	return 1;
}

_Bool tb_high(struct tb *tb, const struct tb_insn *i, int use)
{
	_Bool high = 0, mem = 0, rax = 0, written = 0;

	if (i->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return 0;
	for (unsigned k = 0; k < i->zi.operand_count_visible; k++) {
		const ZydisDecodedOperand *op = &i->ops[k];
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			mem = 1;
		} else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			int off = soft_gpr_offset(op->reg.value);
			if (off < 0)
				return 0;
			high |= off & 1;
			if (off / 8 == X86_RAX) {
				rax = 1;
				written |= !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
			}
		}
	}
	if (!high)
		return 0;
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX: return extend(tb, i);
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_CMPXCHG: return 0; /* RAX is in them besides */
	default: break;
	}
	if (mem)
		return memory(tb, i, use);
	if (use == USE_IN || use == USE_INOUT)
		tb_flags_host(tb);
	verbatim(tb, i, rax, written);
	if (use == USE_OUT || use == USE_INOUT)
		tb->flags = FLAGS_HOST;
	return 1;
}
