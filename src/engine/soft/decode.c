/* decode.c: from bytes to struct insn, by Zydis; what the parts have in common. */
#include "engine/soft/core.h"
#include "engine/soft/system.h"
#include "engine/soft/vector.h"

void op_ud(struct soft_cpu *cpu, const struct insn *i)
{
	soft_raise(cpu, X86_VEC_UD);
}

void op_gp(struct soft_cpu *cpu, const struct insn *i)
{
	soft_raise_err(cpu, X86_VEC_GP, 0);
}

/* What is left of a block whose page was changed. */
void op_stop(struct soft_cpu *cpu, const struct insn *i)
{
	soft_restart(cpu);
}

int soft_gpr_offset(ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
		return (int)(reg - ZYDIS_REGISTER_RAX) * 8;
	if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
		return (int)(reg - ZYDIS_REGISTER_EAX) * 8;
	if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
		return (int)(reg - ZYDIS_REGISTER_AX) * 8;
	if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
		return (int)(reg - ZYDIS_REGISTER_AH) * 8 + 1;
	if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
		return (int)(reg - ZYDIS_REGISTER_AL) * 8;
	if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
		return (int)(reg - ZYDIS_REGISTER_SPL + 4) * 8;
	return -1;
}
_Static_assert(ZYDIS_REGISTER_AH == ZYDIS_REGISTER_AL + 4 &&
		   ZYDIS_REGISTER_SPL == ZYDIS_REGISTER_AL + 8,
	       "the order of Zydis's byte registers");

static unsigned seg_of(ZydisRegister reg)
{
	switch (reg) {
	case ZYDIS_REGISTER_ES: return X86_ES;
	case ZYDIS_REGISTER_CS: return X86_CS;
	case ZYDIS_REGISTER_SS: return X86_SS;
	case ZYDIS_REGISTER_FS: return X86_FS;
	case ZYDIS_REGISTER_GS: return X86_GS;
	default: return X86_DS;
	}
}

/* An address register: its place in struct soft_cpu. */
static uint8_t ea_unit(ZydisRegister reg)
{
	int off = soft_gpr_offset(reg);

	if (off >= 0)
		return (uint8_t)(SOFT_EA_GPR(off / 8));
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return SOFT_EA_RIP;
	return SOFT_EA_ZERO;
}

static void mem_operand(struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *op, struct insn *out)
{
	const ZydisDecodedOperandMem *m = &op->mem;
	_Bool is64 = !!(cpu->mode & SOFT_MODE_64);

	out->flags |= INSN_MEM;
	out->seg = (uint8_t)seg_of(m->segment);
	/* Zydis 4.0 takes R13D as the base where there is none. */
	out->base = zi->raw.sib.offset && zi->raw.modrm.mod == 0 && zi->raw.sib.base == 5
			? SOFT_EA_ZERO
			: ea_unit(m->base);
	/* A vector index (VSIB) is not ours to read. */
	out->index = ea_unit(m->index);
	out->scale = (uint8_t)(m->scale <= 1 ? 0 : m->scale == 2 ? 1 : m->scale == 4 ? 2 : 3);
	/* EVEX scales it. */
	out->disp = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? m->disp.value
		    : zi->raw.disp.size				    ? zi->raw.disp.value
		    : m->disp.has_displacement			    ? m->disp.value
								    : 0;
	if (out->base == SOFT_EA_RIP)
		out->disp += zi->length;
	out->segbase = SOFT_EA_ZERO;
	if (out->seg >= X86_FS)
		out->segbase = (uint8_t)SOFT_EA_SEG(out->seg) + offsetof(struct x86_seg, base) / 8;
	if (is64) {
		if (out->asize != 8)
			out->flags |= INSN_SLOW_EA;
		return;
	}
	_Bool write_cs = out->seg == X86_CS && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	if ((cpu->mode & SOFT_MODE_FLAT) && out->asize == 4 && !write_cs)
		out->flags |= INSN_EA32;
	/* Addresses that leave 32 bits miss the TLB and are cut on the slow way; in long mode there
	 * may be something. A small negative displacement stays negative, others are taken as
	 * large. */
	if (!(cpu->mode & SOFT_MODE_FLAT) || (cpu->mode & SOFT_MODE_COMPAT) || out->seg >= X86_FS ||
	    out->asize != 4)
		out->flags |= INSN_SLOW_EA;
	else if (out->disp < -0x100000 || (out->base == SOFT_EA_ZERO && out->index == SOFT_EA_ZERO))
		out->disp = (uint32_t)out->disp;
	/* Only reads go through a flat CS. */
	if (write_cs)
		out->flags |= INSN_SLOW_EA;
}

static unsigned log2_bytes(unsigned bits)
{
	return bits >= 64 ? 3 : bits >= 32 ? 2 : bits >= 16 ? 1 : 0;
}

/* Integer instructions that a host, and so the guest's CPUID, may be without: the host's own are
 * executed for them. BMI, ADX and MOVBE are vec_decode's; LZCNT and TZCNT are others without. */
static const struct {
	uint16_t mnemonic; /* ZydisMnemonic */
	uint8_t reg, bit;
	uint32_t leaf;
} features[] = {
    {ZYDIS_MNEMONIC_MONITOR, CPUID_ECX, 3, 1},
    {ZYDIS_MNEMONIC_MWAIT, CPUID_ECX, 3, 1},
    {ZYDIS_MNEMONIC_CMPXCHG16B, CPUID_ECX, 13, 1},
    {ZYDIS_MNEMONIC_POPCNT, CPUID_ECX, 23, 1},
    {ZYDIS_MNEMONIC_RDRAND, CPUID_ECX, 30, 1},
    {ZYDIS_MNEMONIC_INVPCID, CPUID_EBX, 10, 7},
    {ZYDIS_MNEMONIC_RDSEED, CPUID_EBX, 18, 7},
    {ZYDIS_MNEMONIC_CLFLUSHOPT, CPUID_EBX, 23, 7},
    {ZYDIS_MNEMONIC_CLWB, CPUID_EBX, 24, 7},
    {ZYDIS_MNEMONIC_RDPID, CPUID_ECX, 22, 7},
    {ZYDIS_MNEMONIC_RDTSCP, CPUID_EDX, 27, 0x80000001},
};

static _Bool feature_missing(const struct soft_cpu *cpu, ZydisMnemonic mnemonic)
{
	const struct cpuid_policy *policy = cpu->base.engine->env->cpuid;

	for (unsigned k = 0; k < ARRAY_SIZE(features); k++)
		if (features[k].mnemonic == mnemonic)
			return !cpuid_has(policy, features[k].leaf, 0,
					  (enum cpuid_reg)features[k].reg, features[k].bit);
	return 0;
}

/* The operands that every part finds filled in. */
static void insn_common(struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *ops, struct insn *out)
{
	unsigned regs = 0;

	memset(out, 0, sizeof(*out));
	out->fn = op_ud;
	out->len = zi->length;
	out->osize = zi->operand_width >= 64 ? 8 : zi->operand_width == 32 ? 4 : 2;
	out->asize = zi->address_width == 64 ? 8 : zi->address_width == 32 ? 4 : 2;
	out->base = out->index = out->segbase = SOFT_EA_ZERO;
	out->seg = X86_DS;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		out->flags |= INSN_LOCK;
	if (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		out->flags |= INSN_REP;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_REPNE)
		out->flags |= INSN_REPNE;
	for (unsigned k = 0; k < zi->operand_count; k++) {
		const ZydisDecodedOperand *op = &ops[k];
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && !(out->flags & INSN_MEM))
			mem_operand(cpu, zi, op, out);
		if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			int off = soft_gpr_offset(op->reg.value);
			if (off < 0)
				continue;
			uint8_t *r = regs == 0 ? &out->r1 : regs == 1 ? &out->r2 : &out->r3;
			if (regs++ < 3)
				*r = (uint8_t)off;
		} else if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
			out->imm = op->imm.value.u;
		}
	}
}

/* Parts of which, in 64-bit code, what they make depends on no more than the instruction's shape,
 * but for the values of displacement and immediate, as insn_common takes them. */
static _Bool decode_shaped(struct soft_decode *d)
{
	return decode_alu(d) || decode_move(d) || decode_branch(d) || decode_stack(d) ||
	       decode_shift(d);
}

static _Bool decode_integer(struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
			    const ZydisDecodedOperand *ops, struct soft_shape *shape,
			    struct insn *out)
{
	struct soft_decode d = {.cpu = cpu, .zi = zi, .op = ops, .out = out};
	unsigned n = zi->operand_count_visible;

	/* By their names the parts would take for their own what Zydis knows from CPUs that are no
	 * more: TZCNT, LZCNT and POPCNT with VEX. BMI's are vec_decode's. */
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return 0;
	if (n > 0) {
		d.size = log2_bytes(ops[0].size);
		d.reg0 = ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			 soft_gpr_offset(ops[0].reg.value) >= 0;
		d.mem0 = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
	}
	if (n > 1) {
		d.reg1 = ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
			 soft_gpr_offset(ops[1].reg.value) >= 0;
		d.mem1 = ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
		d.imm1 = ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	}
	if (decode_shaped(&d)) {
		if (shape && soft_is64(cpu))
			soft_shape_decoded(shape, out, zi->raw.imm[0].is_relative);
		return 1;
	}
	return decode_muldiv(&d) || decode_bit(&d) || decode_string(&d) || decode_atomic(&d) ||
	       decode_misc(&d);
}

const ZydisDecoder *soft_decoder(const struct soft_cpu *cpu)
{
	if (cpu->mode & SOFT_MODE_64)
		return &cpu->cache->decoder[2];
	if (cpu->mode & SOFT_MODE_32)
		return &cpu->cache->decoder[cpu->mode & SOFT_MODE_COMPAT ? 4 : 1];
	return &cpu->cache->decoder[cpu->mode & SOFT_MODE_REAL ? 3 : 0];
}

static _Bool is_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65:
	case 0x67: return 1;
	default: return 0;
	}
}

/*
 * XOP is no more, but AMD's CPUs still measure its encodings before they refuse them: 8F and two
 * more bytes, opcode, ModRM and what it asks for, four bytes of immediate in map 10 (found by
 * trying all maps on a CPU). Prefixes that VEX does not allow either, and REX, are refused at once.
 * True: such an encoding of more than 15 bytes.
 */
static _Bool xop_too_long(const struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail)
{
	unsigned n = 0, base, mod;

	if (avail < 15 || !soft_is64(cpu) || !cpu->base.engine->env->cpuid->amd)
		return 0;
	while (n < 15 && is_prefix(bytes[n]))
		n++;
	if (n + 5 > 15 || bytes[n] != 0x8f || (bytes[n + 1] & 31) < 8)
		return 0;
	unsigned map = bytes[n + 1] & 31;
	n += 4;
	mod = bytes[n] >> 6;
	base = bytes[n++] & 7;
	if (mod != 3 && base == 4) {
		base = n < 15 ? bytes[n] & 7 : 0;
		n++;
	}
	n += mod == 1 ? 1 : mod == 2 || (mod == 0 && base == 5) ? 4 : 0;
	return n + (map == 10 ? 4 : 0) > 15;
}

/* Outside of 64-bit mode there are eight registers, and EVEX's bits for more are ignored, but V' by
 * AMD's CPUs only. Zydis wants them to be 1. False: they are, or it is something else. */
static _Bool evex_ignore(const struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
			 uint8_t copy[15])
{
	unsigned n = 0, count = MIN(avail, 15u);

	while (n < count && is_prefix(bytes[n]))
		n++;
	if (soft_is64(cpu) || n + 4 > count || bytes[n] != 0x62 || (bytes[n + 1] & 0xc0) != 0xc0)
		return 0;
	memcpy(copy, bytes, count);
	copy[n + 1] |= 0x30;
	if (soft_amd(cpu))
		copy[n + 3] |= 0x08;
	return memcmp(copy, bytes, count) != 0;
}

/* How many bytes tell that they are no instruction: when one of them changes, it may be one. */
static uint8_t bad_length(const struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail)
{
	ZydisDecodedInstruction zi;
	unsigned n = 1;

	while (n < avail && ZydisDecoderDecodeInstruction(soft_decoder(cpu), NULL, bytes, n, &zi) ==
				ZYDIS_STATUS_NO_MORE_DATA)
		n++;
	return (uint8_t)n;
}

/* Instructions that Zydis decodes with LOCK where the CPU does not allow it, and those that it
 * knows from CPUs that the host is not, are left to the parts. */
int soft_decode(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail, struct insn *out)
{
	struct soft_shape *shape = soft_shape_find(cpu, bytes, avail);
	ZyanStatus status = ZYAN_STATUS_SUCCESS;
	const struct tb_insn *i;
	struct tb_room room;
	uint8_t copy[15];

	if (LIKELY(shape != NULL)) {
		if (LIKELY(shape->whole)) {
			*out = soft_shape_insn(shape, bytes);
			return 0;
		}
		i = soft_shape_zydis(shape, bytes);
	} else {
		i = &room.i;
		room.i.ops = room.ops;
		status = ZydisDecoderDecodeFull(soft_decoder(cpu), bytes, MIN(avail, 15u),
						&room.i.zi, room.ops);
		if (UNLIKELY(!ZYAN_SUCCESS(status)) && evex_ignore(cpu, bytes, avail, copy)) {
			bytes = copy;
			status = ZydisDecoderDecodeFull(soft_decoder(cpu), bytes, MIN(avail, 15u),
							&room.i.zi, room.ops);
		}
		if (ZYAN_SUCCESS(status))
			shape = soft_shape_keep(cpu, bytes, avail, i);
	}
	if (ZYAN_SUCCESS(status)) {
		insn_common(cpu, &i->zi, i->ops, out);
		if (!feature_missing(cpu, i->zi.mnemonic) &&
		    (decode_integer(cpu, &i->zi, i->ops, shape, out) ||
		     sys_decode(cpu, &i->zi, i->ops, out) ||
		     vec_decode(cpu, &i->zi, i->ops, bytes, out)))
			return 0;
		out->fn = op_ud;
		out->flags = INSN_BRANCH | INSN_STATE;
		return 0;
	}
	if (status == ZYDIS_STATUS_NO_MORE_DATA && avail < 15)
		return 1;
	memset(out, 0, sizeof(*out));
	out->flags = INSN_BRANCH | INSN_STATE;
	/* More than 15 bytes are #GP (SDM3 6.15, vector 13). */
	out->fn = status == ZYDIS_STATUS_NO_MORE_DATA ||
			  status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ||
			  xop_too_long(cpu, bytes, avail)
		      ? op_gp
		      : op_ud;
	out->len =
	    out->fn == op_gp ? (uint8_t)MIN(avail, 15u) : bad_length(cpu, bytes, MIN(avail, 15u));
	return 0;
}
