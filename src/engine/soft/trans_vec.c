/* trans_vec.c: MMX, SSE and AVX instructions as themselves, and the integer instructions that share
 * their encodings (BMI, CRC32, MOVBE ...).
 *
 * Vector registers are the host's of the same number, so an instruction is emitted with its own
 * prefixes and opcode; general registers and memory operands are replaced as in trans_insn.c.
 */
#include <string.h>
#include "engine/engine.h"
#include "engine/soft/thunk_plan.h"
#include "engine/soft/trans_impl.h"
#include "engine/soft/vec.h"

void tb_live(struct tb *tb, unsigned need)
{
	unsigned bit = need & LIVE_X87	 ? LIVE_X87
		       : need & LIVE_512 ? LIVE_512
		       : need & LIVE_AVX ? LIVE_AVX
					 : LIVE_SSE;
	struct late *l;

	if ((tb->vec & need) == need)
		return;
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	emit_modrm(&tb->e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1}, T_FIELD(vec_live));
	emit_byte(&tb->e, (uint8_t)bit);
	l = tb_late(tb, LATE_LIVE, emit_jcc(&tb->e, CC_Z));
	tb->vec |= (uint8_t)need;
	l->vec = tb->vec;
	l->back = tb->e.at;
}

uint8_t *tb_live_again(struct tb *tb, unsigned need)
{
	struct emit *e = &tb->e;

	if (need & LIVE_512)
		tb_stub_call(tb, tb->t->zmm_load);
	if (!(need & LIVE_512) || (need & LIVE_X87))
		tb_stub_call(tb, need & LIVE_X87 ? tb->t->x87_load : tb->t->vec_load);
	emit_modrm(e, &(struct emit_op){.map = 1, .opcode = 0xb6, .reg = H_RAX}, T_FIELD(vec_live));
	emit_alu_imm(e, ALU_AND, H_RAX, (int32_t)need, 0);
	emit_alu_imm(e, ALU_CMP, H_RAX, (int32_t)need, 0);
	return emit_jcc(e, CC_Z);
}

/* An instruction taken apart. Registers by their place in its encoding. */
enum { AT_REG, AT_RM, AT_VVVV, AT_COUNT };
struct vop {
	struct emit_op op;
	struct {
		int gpr, vec; /* number, or -1 */
		_Bool read, written;
	} at[AT_COUNT];
	_Bool mem, mem_written, align;
	unsigned size;
	int registers; /* a mask */
	_Bool acc;     /* the guest's RAX is wanted in the host's */
	_Bool flags_in, flags_out;
	uint8_t tail[4];
	unsigned tail_bytes;
};

static _Bool hidden_take(struct vop *v, const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *op)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM: v->acc = 1; return 1;
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_VPCMPISTRI:
	case ZYDIS_MNEMONIC_MULX: return 1; /* RCX and RDX are in their own places */
	default: return 0;
	}
}

static _Bool register_take(struct vop *v, const ZydisDecodedInstruction *zi,
			   const ZydisDecodedOperand *op)
{
	ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);
	_Bool gpr = 0;
	unsigned at;

	switch (class) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: gpr = 1; break;
	case ZYDIS_REGCLASS_MMX:
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
	case ZYDIS_REGCLASS_ZMM:
	case ZYDIS_REGCLASS_MASK: break;
	case ZYDIS_REGCLASS_FLAGS: return 1;
	default: return op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN; /* MXCSR and such */
	}
	switch (op->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG: at = AT_REG; break;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM: at = AT_RM; break;
	case ZYDIS_OPERAND_ENCODING_NDSNDD: at = AT_VVVV; break;
	case ZYDIS_OPERAND_ENCODING_IS4: return !gpr;
	default: return !gpr || hidden_take(v, zi, op);
	}
	if (!gpr) {
		v->at[at].vec = ZydisRegisterGetId(op->reg.value) & v->registers;
		return 1;
	}
	int off = soft_gpr_offset(op->reg.value);
	if (off < 0 || (off & 1))
		return 0;
	if (class == ZYDIS_REGCLASS_GPR8)
		v->op.bytes = 1;
	v->at[at].gpr = off / 8;
	v->at[at].written = !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	/* A short result leaves the rest of its register. */
	v->at[at].read = op->size < 32 || (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ);
	return 1;
}

/* Prefixes of the older encoding; of F2 and F3 the last one counts. */
static void prefixes_take(struct vop *v, const ZydisDecodedInstruction *zi)
{
	for (unsigned k = 0; k < zi->raw.prefix_count; k++) {
		uint8_t p = zi->raw.prefixes[k].value;

		if (p == 0x66)
			v->op.osize16 = 1;
		else if (p == 0xf2 || p == 0xf3)
			v->op.prefix = p;
	}
	v->op.wide = zi->raw.rex.W;
}

static const uint8_t prefix_of[4] = {0, 0x66, 0xf3, 0xf2};

static void vex_take(struct vop *v, const struct tb_insn *i, _Bool narrow)
{
	const ZydisDecodedInstruction *zi = &i->zi;

	v->op.vex = 1;
	v->op.vex256 = zi->raw.vex.L;
	v->op.wide = zi->raw.vex.W && !(narrow && thunk_plan_w_is_gpr(zi, i->ops));
	v->op.prefix = prefix_of[zi->raw.vex.pp];
}

static void evex_take(struct vop *v, const struct tb *tb, const struct tb_insn *i)
{
	const ZydisDecodedInstruction *zi = &i->zi;

	v->op.evex = 1;
	v->op.evex_last = tb->bytes[zi->raw.evex.offset + 3];
	v->op.wide = zi->raw.evex.W && !(tb->narrow && thunk_plan_w_is_gpr(zi, i->ops));
	v->op.prefix = prefix_of[zi->raw.evex.pp];
	v->registers = tb->narrow ? 7 : 31;
}

static void flags_take(struct vop *v, const ZydisDecodedInstruction *zi)
{
	const ZydisAccessedFlags *f = zi->cpu_flags;
	uint32_t known;

	if (!f)
		return;
	known = (f->modified | f->set_0 | f->set_1) & X86_ARITH;
	v->flags_out = known || (f->undefined & X86_ARITH);
	v->flags_in = (f->tested & X86_ARITH) || (v->flags_out && known != X86_ARITH);
}

static _Bool vop_take(const struct tb *tb, const struct tb_insn *i, struct vop *v)
{
	const ZydisDecodedInstruction *zi = &i->zi;

	*v = (struct vop){.at = {{-1, -1}, {-1, -1}, {-1, -1}}, .registers = tb->narrow ? 7 : 15};
	switch (zi->opcode_map) {
	case ZYDIS_OPCODE_MAP_0F: v->op.map = 1; break;
	case ZYDIS_OPCODE_MAP_0F38: v->op.map = 2; break;
	case ZYDIS_OPCODE_MAP_0F3A: v->op.map = 3; break;
	default: return 0;
	}
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		vex_take(v, i, tb->narrow);
	else if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		evex_take(v, tb, i);
	else
		prefixes_take(v, zi);
	v->op.opcode = zi->opcode;
	for (unsigned k = 0; k < zi->operand_count; k++) {
		const ZydisDecodedOperand *op = &i->ops[k];

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			if (!register_take(v, zi, op))
				return 0;
		} else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
			    op->mem.type != ZYDIS_MEMOP_TYPE_MEM || op->size > 512)
				return 0;
			v->mem = 1;
			v->mem_written = !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
			v->size = op->size / 8u;
			if (zi->raw.disp.size == 8 && zi->raw.disp.value)
				v->op.evex_unit =
				    (uint8_t)(op->mem.disp.value / zi->raw.disp.value);
		}
	}
	v->align = v->mem && (tb->insn->aux & VEC_ALIGN);
	flags_take(v, zi);
	/* What follows the operand: an immediate. */
	unsigned at =
	    zi->raw.modrm.offset + 1u + (zi->raw.sib.offset ? 1 : 0) + zi->raw.disp.size / 8u;
	v->tail_bytes = zi->length - at;
	if (!(zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) || v->tail_bytes > sizeof(v->tail))
		return 0;
	memcpy(v->tail, tb->bytes + at, v->tail_bytes);
	for (unsigned k = 0; k < zi->operand_count && tb->narrow; k++)
		if (i->ops[k].encoding == ZYDIS_OPERAND_ENCODING_IS4)
			v->tail[0] &= 0x7f; /* eight registers */
	v->op.reg_is_op = v->at[AT_REG].gpr < 0 && v->at[AT_REG].vec < 0;
	v->op.reg = zi->raw.modrm.reg & 7;
	return !v->mem || tb_ea_possible(tb, tb->insn);
}

/* How many scratch registers the general registers that live in memory need: sources each their
 * own, results any, as they come after. */
static unsigned scratch_count(const struct vop *v, unsigned *read)
{
	unsigned written = 0;

	*read = 0;
	for (unsigned k = 0; k < AT_COUNT; k++) {
		if (v->at[k].gpr < 0 || trans_host((unsigned)v->at[k].gpr) != H_NONE)
			continue;
		*read += v->at[k].read;
		written += v->at[k].written;
	}
	return MAX(*read, written);
}

/* Are there enough? The address of a memory operand is in one or both, but nobody needs it once
 * there are results, unless the operand is one. */
static _Bool scratch_enough(const struct vop *v)
{
	unsigned read, need = scratch_count(v, &read);

	return need < 2 || (need == 2 && (!v->mem || (!read && !v->mem_written)));
}

/* The operation, with the memory operand in `rm`; `scratch` are registers to use. */
static void vop_core(struct tb *tb, struct vop *v, struct emit_rm rm, const uint8_t scratch[2])
{
	struct emit *e = &tb->e;
	unsigned used = 0, given = 0;
	int host[AT_COUNT];

	for (unsigned k = 0; k < AT_COUNT; k++) {
		host[k] = v->at[k].vec >= 0 ? v->at[k].vec : 0;
		if (v->at[k].gpr < 0)
			continue;
		host[k] = trans_host((unsigned)v->at[k].gpr);
		if (host[k] == H_NONE && v->at[k].read) {
			host[k] = scratch[used++];
			emit_op64(e, 0x8b, host[k], trans_gpr((unsigned)v->at[k].gpr));
			if (v->at[k].written)
				given = used;
		}
	}
	for (unsigned k = 0; k < AT_COUNT; k++)
		if (host[k] == H_NONE)
			host[k] = scratch[given++];
	if (v->acc)
		emit_mov(e, H_RAX, T_GRAX);
	if (!v->op.reg_is_op)
		v->op.reg = (uint8_t)host[AT_REG];
	v->op.vex_vvvv = (uint8_t)host[AT_VVVV];
	emit_modrm(e, &v->op, v->mem ? rm : rm_reg(host[AT_RM]));
	for (unsigned k = 0; k < v->tail_bytes; k++)
		emit_byte(e, v->tail[k]);
	/* ModRM.reg last: of two results in one register it is the one that stays (MULX). */
	for (unsigned k = AT_COUNT; k-- > 0;)
		if (v->at[k].gpr >= 0 && v->at[k].written &&
		    trans_host((unsigned)v->at[k].gpr) == H_NONE)
			emit_op64(e, 0x89, host[k], trans_gpr((unsigned)v->at[k].gpr));
}

static _Bool vop_reg(struct tb *tb, struct vop *v)
{
	static const uint8_t scratch[2] = {H_RAX, H_R11};

	if (v->flags_in)
		tb_flags_host(tb);
	vop_core(tb, v, rm_reg(0), scratch);
	if (v->flags_out)
		tb->flags = FLAGS_HOST;
	return 1;
}

static _Bool vop_mem(struct tb *tb, struct vop *v)
{
	static const uint8_t simple_scratch[2] = {H_R11, H_RAX}, scratch[2] = {H_RAX, H_R11};
	unsigned read, need = scratch_count(v, &read);
	struct tb_mem mem = {.m = tb->insn,
			     .keeps = 1,
			     .size = v->size,
			     .write = v->mem_written,
			     .align = v->align,
			     .simple = tb_mem_simple(tb, tb->insn) && !v->flags_in && !v->acc &&
				       (!need || !v->mem_written)};

	tb_mem(tb, &mem);
	if (v->flags_in)
		tb_flags_host(tb);
	vop_core(tb, v, mem.rm, mem.simple ? simple_scratch : scratch);
	if (v->flags_out)
		tb->flags = FLAGS_HOST;
	if (v->mem_written)
		tb_mem_written(tb, &mem, 0);
	tb_mem_end(tb, &mem);
	return 1;
}

/* MXCSR is loaded when it masks all exceptions and has no reserved bit set. */
static _Bool ldmxcsr(struct tb *tb)
{
	struct emit *e = &tb->e;
	struct tb_mem mem = {.m = tb->insn, .size = 4};
	uint32_t reserved = ~tb->cpu->vec->mxcsr_mask;

	if (!tb_ea_possible(tb, tb->insn))
		return 0;
	tb_live(tb, LIVE_SSE);
	tb_mem(tb, &mem);
	emit_op32(e, 0x8b, H_RAX, mem.rm);
	emit_op32(e, 0xf7, 2, rm_reg(H_RAX)); /* not eax */
	emit_alu_imm(e, ALU_AND, H_RAX, (int32_t)(reserved | 0x1f80), 0);
	emit_alu_imm(e, ALU_CMP, H_RAX, (int32_t)reserved, 0);
	struct late *refused = tb_late(tb, LATE_MISS, emit_jcc(e, CC_NZ));
	emit_modrm(e, &(struct emit_op){.map = 1, .opcode = 0xae, .reg_is_op = 1, .reg = 2},
		   mem.rm);
	tb_mem_end(tb, &mem);
	refused->back = e->at;
	refused->reload = tb->flags != FLAGS_SAVED;
	return 1;
}

/* Without ModRM. */
static _Bool short_take(struct tb *tb, const struct tb_insn *i)
{
	struct emit *e = &tb->e;

	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_EMMS:
		tb_live(tb, LIVE_SSE | LIVE_X87);
		emit_byte(e, 0x0f);
		break;
	case ZYDIS_MNEMONIC_VZEROUPPER:
	case ZYDIS_MNEMONIC_VZEROALL:
		tb_live(tb, LIVE_SSE | LIVE_AVX);
		emit_byte(e, 0xc5);
		emit_byte(e, i->zi.raw.vex.L ? 0xfc : 0xf8);
		break;
	default: return 0;
	}
	emit_byte(e, 0x77);
	return 1;
}

/* Those whose handlers do more than execute them: masked moves, state. */
static _Bool is_special(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64:
	case ZYDIS_ISA_SET_XSAVE:
	case ZYDIS_ISA_SET_XSAVEOPT:
	case ZYDIS_ISA_SET_XSAVEC:
	case ZYDIS_ISA_SET_AVX2GATHER: return 1;
	default: break;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_VLDMXCSR:
	case ZYDIS_MNEMONIC_VSTMXCSR:
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ: return 1;
	default: return 0;
	}
}

static _Bool fence(struct tb *tb, const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE: break;
	default: return zi->meta.isa_set == ZYDIS_ISA_SET_SSE_PREFETCH;
	}
	emit_modrm(&tb->e,
		   &(struct emit_op){
		       .map = 1, .opcode = 0xae, .reg_is_op = 1, .reg = zi->raw.modrm.reg & 7},
		   rm_reg(0));
	return 1;
}

/* Those of 32-bit code that are more in the host's 64-bit code. */
static _Bool is_wide(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_KMOVD:	/* Upper halves of registers are kept 0; it has 64 bits. */
	case ZYDIS_MNEMONIC_VZEROUPPER: /* of 16 registers instead of 8 */
	case ZYDIS_MNEMONIC_VZEROALL: return 1;
	default: return 0;
	}
}

_Bool tb_vec(struct tb *tb, const struct tb_insn *i)
{
	const ZydisDecodedInstruction *zi = &i->zi;
	enum vec_class class;
	unsigned need = 0;
	struct vop v;

	if ((zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	     zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
	     zi->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX) ||
	    is_special(zi) || !vec_feature(tb->cpu->base.engine->env->cpuid, zi))
		return 0;
	class = vec_class_of(zi, i->ops);
	if (tb->narrow && is_wide(zi))
		return 0;
	if (class == VEC_X87 || class == VEC_WAIT)
		return (zi->opcode == 0x9b || (zi->opcode & 0xf8) == 0xd8) && tb_x87(tb, i);
	if (fence(tb, zi) || short_take(tb, i))
		return 1;
	if (zi->mnemonic == ZYDIS_MNEMONIC_LDMXCSR)
		return ldmxcsr(tb);
	if (!vop_take(tb, i, &v) || !scratch_enough(&v))
		return 0;
	switch (class) {
	case VEC_INT: break;
	case VEC_SSE: need = LIVE_SSE; break;
	case VEC_AVX: need = LIVE_SSE | LIVE_AVX; break;
	case VEC_AVX512: need = LIVE_SSE | LIVE_AVX | LIVE_512; break;
	case VEC_MMX:
	case VEC_SSEMMX: need = LIVE_SSE | LIVE_X87; break;
	default: return 0;
	}
	tb_live(tb, need);
	return v.mem ? vop_mem(tb, &v) : vop_reg(tb, &v);
}
