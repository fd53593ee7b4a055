/* vec_mask.c: masked moves and gathers: only the elements chosen touch memory. */
#include "engine/soft/vec.h"

/*
 * r1: register that is read or written, r2: mask, r3: index of a gather. aux: bytes of an element
 * (bits 0-3) and of an index (4-7), of the whole operand (8-15).
 */
static unsigned element_size(const struct insn *i)
{
	return i->aux & 15;
}
static unsigned index_size(const struct insn *i)
{
	return (i->aux >> 4) & 15;
}
static unsigned operand_size(const struct insn *i)
{
	return (i->aux >> 8) & 255;
}

static _Bool chosen(const uint8_t *mask, unsigned at, unsigned size)
{
	return mask[at + size - 1] & 0x80;
}

/* The run of chosen elements at or after `at`: its start and length in bytes; 0: none. */
static unsigned mask_run(const uint8_t *mask, unsigned size, unsigned total, unsigned *at)
{
	unsigned end;

	while (*at < total && !chosen(mask, *at, size))
		*at += size;
	for (end = *at; end < total && chosen(mask, end, size);)
		end += size;
	return end - *at;
}

/* Intel's CPUs report the first byte that a store chooses; if that is not in the page at fault, the
 * last. */
static void mask_probe_ends(struct soft_cpu *cpu, const struct insn *i, uint64_t lin,
			    const uint8_t *mask)
{
	unsigned size = element_size(i), total = operand_size(i), first = 0, last = total;

	if (!mask_run(mask, size, total, &first))
		return;
	while (!chosen(mask, last - size, size))
		last -= size;
	soft_probe(cpu, i->seg, lin + first, 1, 1);
	soft_probe(cpu, i->seg, lin + last - 1, 1, 1);
}

static void mask_store(struct soft_cpu *cpu, const struct insn *i, uint64_t lin,
		       const uint8_t *data, const uint8_t *mask)
{
	unsigned size = element_size(i), total = operand_size(i), len;

	/* CPUs look at all of MASKMOVQ's and MASKMOVDQU's operand, whatever the mask; Intel's at
	 * the upper half first. */
	if (size == 1) {
		soft_align(cpu, i->seg, lin, 8);
		if (total == 16 && !soft_amd(cpu))
			soft_probe(cpu, i->seg, lin + 8, 8, 1);
		soft_probe(cpu, i->seg, lin, total, 1);
	}

	if (size > 1 && !soft_amd(cpu))
		mask_probe_ends(cpu, i, lin, mask);
	for (unsigned at = 0; (len = mask_run(mask, size, total, &at)) != 0; at += len)
		soft_probe(cpu, i->seg, lin + at, len, 1);
	for (unsigned at = 0; (len = mask_run(mask, size, total, &at)) != 0; at += len)
		soft_store_bytes(cpu, i->seg, lin + at, data + at, len);
}

static void vec_maskmov_store(struct soft_cpu *cpu, const struct insn *i)
{
	vec_check(cpu, VEC_AVX);
	mask_store(cpu, i, soft_lin(cpu, i, operand_size(i), 1), cpu->s.fpu.vec[i->r1],
		   cpu->s.fpu.vec[i->r2]);
}

static void vec_maskmov_load(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = element_size(i), total = operand_size(i), len;
	const uint8_t *mask = cpu->s.fpu.vec[i->r2];
	uint8_t data[64] = {0};
	uint64_t lin;

	vec_check(cpu, VEC_AVX);
	lin = soft_lin(cpu, i, total, 0);
	for (unsigned at = 0; (len = mask_run(mask, size, total, &at)) != 0; at += len)
		soft_load_bytes(cpu, i->seg, lin + at, data + at, len);
	memcpy(cpu->s.fpu.vec[i->r1], data, sizeof(data));
}

static uint64_t cut_address(const struct insn *i, uint64_t v)
{
	return i->asize == 8 ? v : i->asize == 4 ? (uint32_t)v : (uint16_t)v;
}

/* MASKMOVDQU and MASKMOVQ: the operand is at DS:rDI. */
static void vec_maskmov_bytes(struct soft_cpu *cpu, const struct insn *i, enum vec_class class)
{
	uint64_t lin;

	vec_check(cpu, class);
	lin = soft_seg_lin(cpu, i->seg, cut_address(i, cpu->s.gpr[X86_RDI]), operand_size(i), 1);
	mask_store(cpu, i, lin, cpu->s.fpu.vec[i->r1], cpu->s.fpu.vec[i->r2]);
}
static void vec_maskmovdqu_sse(struct soft_cpu *cpu, const struct insn *i)
{
	vec_maskmov_bytes(cpu, i, VEC_SSE);
}
static void vec_maskmovdqu_avx(struct soft_cpu *cpu, const struct insn *i)
{
	vec_maskmov_bytes(cpu, i, VEC_AVX);
}

/* An MMX register is the mantissa of a physical x87 register; TOP is 0 here. */
static const uint8_t *mmx_register(const struct soft_cpu *cpu, unsigned n)
{
	return cpu->s.fpu.fx + X86_FX_ST + n * 16;
}

static void vec_maskmovq(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t lin;

	vec_check(cpu, VEC_MMX);
	vec_x87_check_pending(cpu);
	/* The x87 state changes even when the store faults. */
	vec_x87_enter_mmx(cpu);
	lin = soft_seg_lin(cpu, i->seg, cut_address(i, cpu->s.gpr[X86_RDI]), 8, 1);
	mask_store(cpu, i, lin, mmx_register(cpu, i->r1), mmx_register(cpu, i->r2));
}

/* Intel's CPUs extend each element's sign in the mask and clear what lies above the vector before
 * they load anything, as a fault shows. */
static void gather_mask(uint8_t *mask, unsigned es, unsigned total)
{
	for (unsigned at = 0; at < total; at += es)
		memset(mask + at, chosen(mask, at, es) ? 0xff : 0, es);
	memset(mask + total, 0, 64 - total);
}

/*
 * Gathers clear an element's mask once it is loaded, so that they go on where a fault left them
 * (SDM2 VPGATHER).
 */
static void vec_gather(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned es = element_size(i), is = index_size(i), count = operand_size(i) / MAX(es, is);
	uint8_t *dst = cpu->s.fpu.vec[i->r1], *mask = cpu->s.fpu.vec[i->r2];
	const uint8_t *index = cpu->s.fpu.vec[i->r3];
	unsigned scale = (unsigned)i->imm;

	vec_check(cpu, VEC_AVX);
	if (!soft_amd(cpu))
		gather_mask(mask, es, operand_size(i));
	for (unsigned n = 0; n < count; n++) {
		int64_t at = 0;
		uint64_t offset, lin;
		uint8_t v[8];

		if (!chosen(mask, n * es, es)) {
			memset(mask + n * es, 0, es);
			continue;
		}
		memcpy(&at, index + n * is, is);
		if (is == 4)
			at = (int32_t)at;
		offset = soft_ea_offset(cpu, i) + ((uint64_t)at << scale);
		lin = soft_seg_lin(cpu, i->seg, cut_address(i, offset), es, 0);
		soft_load_bytes(cpu, i->seg, lin, v, es);
		memcpy(dst + n * es, v, es);
		memset(mask + n * es, 0, es);
		if (!soft_amd(cpu)) /* the first one clears what lies above */
			memset(dst + operand_size(i), 0, 64 - operand_size(i));
	}
	memset(mask, 0, 64);
	memset(dst + count * es, 0, 64 - count * es);
}

static uint8_t number(const ZydisDecodedOperand *op)
{
	return (uint8_t)ZydisRegisterGetId(op->reg.value);
}

static uint8_t segment(ZydisRegister reg)
{
	return (uint8_t)ZydisRegisterGetId(reg);
}

static _Bool decode_gather(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			   struct insn *out, unsigned es, unsigned is)
{
	const ZydisDecodedOperandMem *m = &ops[1].mem;

	/* The destination, the index and the mask are three registers, or #UD; Zydis has seen to
	 * it. */
	out->aux = es | is << 4 | (zi->avx.vector_length / 8u) << 8;
	out->r1 = number(&ops[0]);
	out->r2 = number(&ops[2]);
	out->r3 = (uint8_t)ZydisRegisterGetId(m->index);
	out->index = SOFT_EA_ZERO;
	out->scale = 0;
	out->imm = (uint64_t)__builtin_ctz(m->scale ? m->scale : 1);
	out->fn = vec_gather;
	return 1;
}

static _Bool decode_maskmov(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			    struct insn *out, unsigned es)
{
	_Bool store = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;

	out->aux = es | (zi->avx.vector_length / 8u) << 8;
	out->r1 = number(&ops[store ? 2 : 0]);
	out->r2 = number(&ops[1]);
	out->fn = store ? vec_maskmov_store : vec_maskmov_load;
	return 1;
}

static _Bool decode_bytes(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			  struct insn *out, unsigned size, insn_fn *fn)
{
	out->aux = 1 | size << 8;
	out->r1 = number(&ops[0]);
	out->r2 = number(&ops[1]);
	out->seg = X86_DS;
	for (unsigned i = 0; i < zi->operand_count; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			out->seg = segment(ops[i].mem.segment);
	}
	out->asize = (zi->address_width / 8) & 15;
	out->fn = fn;
	return 1;
}

_Bool vec_mask_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		      struct insn *out)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVDQU: return decode_bytes(zi, ops, out, 16, vec_maskmovdqu_sse);
	case ZYDIS_MNEMONIC_VMASKMOVDQU: return decode_bytes(zi, ops, out, 16, vec_maskmovdqu_avx);
	case ZYDIS_MNEMONIC_MASKMOVQ: return decode_bytes(zi, ops, out, 8, vec_maskmovq);
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD: return decode_maskmov(zi, ops, out, 4);
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ: return decode_maskmov(zi, ops, out, 8);
	case ZYDIS_MNEMONIC_VPGATHERDD:
	case ZYDIS_MNEMONIC_VGATHERDPS: return decode_gather(zi, ops, out, 4, 4);
	case ZYDIS_MNEMONIC_VPGATHERDQ:
	case ZYDIS_MNEMONIC_VGATHERDPD: return decode_gather(zi, ops, out, 8, 4);
	case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VGATHERQPS: return decode_gather(zi, ops, out, 4, 8);
	case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VGATHERQPD: return decode_gather(zi, ops, out, 8, 8);
	default: return 0;
	}
}
