/* thunk_plan.c: from a decoded guest instruction to what a thunk loads, executes and stores. */
#include "engine/soft/thunk_plan.h"

#include <string.h>
#include "x86/regs.h"
#include "x86/state.h"

enum { RSP = X86_RSP, NONE = 0xff };

static void plan_register(struct thunk_plan *p, const ZydisDecodedOperand *op, _Bool *rsp)
{
	ZydisRegister reg = op->reg.value;
	_Bool write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	unsigned id;

	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		reg = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
		id = (unsigned)ZydisRegisterGetId(reg);
		p->gpr_used |= 1u << id;
		if (write)
			p->gpr_written |= 1u << id;
		*rsp |= id == RSP;
		break;
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
	case ZYDIS_REGCLASS_ZMM:
		id = (unsigned)ZydisRegisterGetId(reg);
		p->vec_used |= 1u << id;
		if (write)
			p->vec_written |= 1u << id;
		break;
	case ZYDIS_REGCLASS_MASK:
		id = (unsigned)ZydisRegisterGetId(reg);
		p->k_used |= (uint8_t)(1u << id);
		if (write)
			p->k_written |= (uint8_t)(1u << id);
		break;
	case ZYDIS_REGCLASS_MMX:
	case ZYDIS_REGCLASS_X87: p->x87 = 1; break;
	default: break;
	}
}

/* Does MXCSR matter? The exception classes say which instructions can raise SIMD exceptions; those
 * alone read its rounding and denormal controls (SDM2 2.4). When in doubt, yes. */
static _Bool plan_mxcsr(const struct thunk_plan *p, const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_RCPPS:
	case ZYDIS_MNEMONIC_RCPSS:
	case ZYDIS_MNEMONIC_RSQRTPS:
	case ZYDIS_MNEMONIC_RSQRTSS:
	case ZYDIS_MNEMONIC_VRCPPS:
	case ZYDIS_MNEMONIC_VRCPSS:
	case ZYDIS_MNEMONIC_VRSQRTPS:
	case ZYDIS_MNEMONIC_VRSQRTSS:
	case ZYDIS_MNEMONIC_VRCP14PS:
	case ZYDIS_MNEMONIC_VRCP14PD:
	case ZYDIS_MNEMONIC_VRSQRT14PS:
	case ZYDIS_MNEMONIC_VRSQRT14PD:
	case ZYDIS_MNEMONIC_VRCP14SS:
	case ZYDIS_MNEMONIC_VRCP14SD:
	case ZYDIS_MNEMONIC_VRSQRT14SS:
	case ZYDIS_MNEMONIC_VRSQRT14SD:
	case ZYDIS_MNEMONIC_VFPCLASSSS:
	case ZYDIS_MNEMONIC_VFPCLASSSD:
	case ZYDIS_MNEMONIC_VFPCLASSPS:
	case ZYDIS_MNEMONIC_VFPCLASSPD: return 1;
	default: break;
	}
	switch (insn->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE1:
	case ZYDIS_EXCEPTION_CLASS_SSE4:
	case ZYDIS_EXCEPTION_CLASS_SSE5:
	case ZYDIS_EXCEPTION_CLASS_SSE7:
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_AVX4:
	case ZYDIS_EXCEPTION_CLASS_AVX5:
	case ZYDIS_EXCEPTION_CLASS_AVX6:
	case ZYDIS_EXCEPTION_CLASS_AVX7:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E4:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E7NM:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_K20:
	case ZYDIS_EXCEPTION_CLASS_K21: return 0;
	case ZYDIS_EXCEPTION_CLASS_NONE: return p->vec_used != 0;
	default: return 1;
	}
}

static void plan_flags(struct thunk_plan *p, const ZydisDecodedInstruction *insn)
{
	const ZydisAccessedFlags *f = insn->cpu_flags;
	uint32_t written, known;

	if (!f)
		return;
	known = (f->modified | f->set_0 | f->set_1) & X86_ARITH;
	written = known | (f->undefined & X86_ARITH);
	p->flags_out = written != 0;
	p->flags_in = (f->tested & X86_ARITH) || (written && known != X86_ARITH);
}

/* The lowest host register in `order` that the instruction does not use. */
static uint8_t plan_free(const struct thunk_plan *p, const uint8_t *order, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (!(p->gpr_used & (1u << order[i])) && order[i] != p->rsp_alias)
			return order[i];
	}
	return NONE;
}

static _Bool plan_host_registers(struct thunk_plan *p, _Bool has_mem, _Bool rsp)
{
	/* RSP stays the host's; whatever stands for it needs no REX bit either. */
	static const uint8_t alias[] = {X86_RBP, X86_RBX, X86_RDI, X86_RDX};
	/* As a base without displacement or SIB byte, and without a REX bit. */
	static const uint8_t mem[] = {X86_RSI, X86_RDI, X86_RDX, X86_RCX, X86_RAX, X86_RBX};
	static const uint8_t state[] = {X86_R11, X86_R10, X86_R9, X86_R8};

	p->rsp_alias = NONE;
	p->mem_reg = NONE;
	if (rsp) {
		p->rsp_alias = plan_free(p, alias, ARRAY_SIZE(alias));
		if (p->rsp_alias == NONE)
			return 0;
	}
	if (has_mem) {
		p->mem_reg = plan_free(p, mem, ARRAY_SIZE(mem));
		if (p->mem_reg == NONE)
			return 0;
	}
	p->state_reg = plan_free(p, state, ARRAY_SIZE(state));
	return p->state_reg != NONE;
}

_Bool thunk_plan_w_is_gpr(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTUSI2SS:
	case ZYDIS_MNEMONIC_VCVTUSI2SD: return 1;
	/* Only Intel's CPUs ignore it here, whatever the upper halves of registers are good for. */
	case ZYDIS_MNEMONIC_KMOVD:
		if (!__builtin_cpu_is("intel"))
			return 0;
		break;
	default: break;
	}
	for (unsigned i = 0; i < insn->operand_count_visible; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_GPR32)
			return 1;
	}
	return 0;
}

static _Bool plan_is_16bit(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < insn->operand_count_visible; i++) {
		if (ops[i].type != ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[i].size == 16)
			return 1;
	}
	return 0;
}

/* Instructions whose general operands follow the code segment's size, so that 66 means the opposite
 * in 16-bit code. */
static _Bool plan_osz(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_POPCNT:
	case ZYDIS_ISA_SET_LZCNT:
	case ZYDIS_ISA_SET_MOVBE: return 1;
	default:
		return insn->mnemonic == ZYDIS_MNEMONIC_TZCNT ||
		       insn->mnemonic == ZYDIS_MNEMONIC_CRC32;
	}
}

static uint8_t *plan_prefixes(uint8_t *out, const ZydisDecodedInstruction *insn,
			      const ZydisDecodedOperand *ops)
{
	_Bool osz = insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && plan_osz(insn);
	_Bool have_f2 = 0, have_f3 = 0, have_66 = 0;

	/* Repeated prefixes: the last of F2 and F3 counts, as Zydis has decided; one of each. */
	for (unsigned i = 0; i < insn->raw.prefix_count; i++) {
		uint8_t v = insn->raw.prefixes[i].value;

		if (v == 0x66)
			have_66 = 1;
		else if (v == 0xf2)
			have_f2 = 1, have_f3 = 0;
		else if (v == 0xf3)
			have_f3 = 1, have_f2 = 0;
	}
	if (osz)
		have_66 = plan_is_16bit(insn, ops);
	if (have_66)
		*out++ = 0x66;
	if (have_f2)
		*out++ = 0xf2;
	if (have_f3)
		*out++ = 0xf3;
	return out;
}

static uint8_t *plan_opcode(uint8_t *out, const ZydisDecodedInstruction *insn)
{
	switch (insn->opcode_map) {
	case ZYDIS_OPCODE_MAP_0F: *out++ = 0x0f; break;
	case ZYDIS_OPCODE_MAP_0F38:
		*out++ = 0x0f;
		*out++ = 0x38;
		break;
	case ZYDIS_OPCODE_MAP_0F3A:
		*out++ = 0x0f;
		*out++ = 0x3a;
		break;
	default: break;
	}
	*out++ = insn->opcode;
	return out;
}

static _Bool plan_operand_is_rsp(const ZydisDecodedInstruction *insn,
				 const ZydisDecodedOperand *ops, ZydisOperandEncoding encoding)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->encoding == encoding)
			return ZydisRegisterGetLargestEnclosing(
				   ZYDIS_MACHINE_MODE_LONG_64, op->reg.value) == ZYDIS_REGISTER_RSP;
	}
	return 0;
}

/* A VEX prefix in its three-byte form. Bits are the bytes' own: R, X, B and vvvv inverted. */
static uint8_t *plan_vex(uint8_t *out, const struct thunk_plan *p,
			 const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
			 const uint8_t *bytes)
{
	const uint8_t *vex = bytes + insn->raw.vex.offset;
	uint8_t first = vex[1], last = vex[insn->raw.vex.size - 1];

	if (insn->raw.vex.size == 2) {
		first = (uint8_t)((first & 0x80) | 0x61);
		last &= 0x7f;
	}
	/* Outside 64-bit mode there are eight registers: B and the top bit of vvvv are ignored. */
	if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64) {
		first |= 0xe0;
		last |= 0x40;
		if (thunk_plan_w_is_gpr(insn, ops))
			last &= 0x7f;
	}
	if (p->rsp_alias != NONE && plan_operand_is_rsp(insn, ops, ZYDIS_OPERAND_ENCODING_NDSNDD))
		last = (uint8_t)((last & 0x87) | (~p->rsp_alias & 15) << 3);
	if (p->mem_reg != NONE)
		first |= 0x60;
	*out++ = 0xc4;
	*out++ = first;
	*out++ = last;
	*out++ = insn->opcode;
	return out;
}

/* An EVEX prefix (SDM2 2.7.1). As with VEX: inverted bits, eight registers outside 64-bit mode. */
static uint8_t *plan_evex(uint8_t *out, const struct thunk_plan *p,
			  const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
			  const uint8_t *bytes)
{
	uint8_t prefix[3];

	memcpy(prefix, bytes + insn->raw.evex.offset + 1, 3);
	if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64) {
		prefix[0] |= 0xf0;
		prefix[1] |= 0x40;
		prefix[2] |= 0x08;
		if (thunk_plan_w_is_gpr(insn, ops))
			prefix[1] &= 0x7f;
	}
	if (p->mem_reg != NONE)
		prefix[0] |= 0x60;
	*out++ = 0x62;
	memcpy(out, prefix, 3);
	out[3] = insn->opcode;
	return out + 4;
}

static uint8_t *plan_modrm(uint8_t *out, const struct thunk_plan *p,
			   const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	uint8_t mod = insn->raw.modrm.mod, reg = insn->raw.modrm.reg, rm = insn->raw.modrm.rm;

	if (p->rsp_alias != NONE) {
		if (plan_operand_is_rsp(insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_REG))
			reg = p->rsp_alias;
		if (mod == 3 && plan_operand_is_rsp(insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_RM))
			rm = p->rsp_alias;
	}
	if (p->mem_reg != NONE) {
		mod = 0;
		rm = p->mem_reg;
	}
	*out++ = (uint8_t)(mod << 6 | reg << 3 | rm);
	return out;
}

/* The instruction anew: same opcode, memory operand [mem_reg], RSP renamed. */
static void plan_bytes(struct thunk_plan *p, const ZydisDecodedInstruction *insn,
		       const ZydisDecodedOperand *ops, const uint8_t *bytes)
{
	uint8_t *out = p->bytes;
	unsigned tail = insn->length;

	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		out = plan_vex(out, p, insn, ops, bytes);
	} else if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		out = plan_evex(out, p, insn, ops, bytes);
	} else {
		out = plan_prefixes(out, insn, ops);
		if (insn->attributes & ZYDIS_ATTRIB_HAS_REX)
			*out++ = (uint8_t)(0x40 | insn->raw.rex.W << 3 | insn->raw.rex.R << 2 |
					   (p->mem_reg == NONE ? insn->raw.rex.B : 0));
		out = plan_opcode(out, insn);
	}
	if (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		out = plan_modrm(out, p, insn, ops);
		tail = insn->raw.modrm.offset + 1u + (insn->raw.sib.offset ? 1 : 0) +
		       insn->raw.disp.size / 8u;
	}
	/* What is left is immediate; outside 64-bit mode the top bit of a register in it (is4) is
	 * ignored. */
	for (; tail < insn->length; tail++) {
		uint8_t v = bytes[tail];

		for (unsigned i = 0; i < insn->operand_count; i++) {
			if (ops[i].encoding == ZYDIS_OPERAND_ENCODING_IS4 &&
			    insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
				v &= 0x7f;
		}
		*out++ = v;
	}
	p->length = (uint8_t)(out - p->bytes);
}

_Bool thunk_plan_make(struct thunk_plan *p, const ZydisDecodedInstruction *insn,
		      const ZydisDecodedOperand *ops, const uint8_t *bytes, _Bool zmm)
{
	_Bool has_mem = 0, rsp = 0;

	memset(p, 0, sizeof(*p));
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return 0;
	if (insn->opcode_map > ZYDIS_OPCODE_MAP_0F3A)
		return 0;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
			plan_register(p, &ops[i], &rsp);
		else if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (ops[i].encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
			    ops[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
				return 0;
			has_mem = 1;
		}
	}
	p->vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && p->vec_used;
	p->evex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
	p->wide = p->evex || (p->vex && zmm);
	p->x87 |=
	    insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT || insn->mnemonic == ZYDIS_MNEMONIC_EMMS;
	plan_flags(p, insn);
	p->mxcsr = !p->x87 && plan_mxcsr(p, insn);
	if (!plan_host_registers(p, has_mem, rsp))
		return 0;
	plan_bytes(p, insn, ops, bytes);
	return 1;
}
