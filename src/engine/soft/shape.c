/* shape.c: what Zydis says of instructions, kept by their shape: everything but displacement and
 * immediate.
 *
 * Decoding is most of what code costs that is made and run a few times, and hot code is decoded up
 * to three times. What Zydis says depends on prefixes, opcode, ModRM and SIB and the decoder alone;
 * displacement and immediate come last and are values that are only copied. So results are kept
 * with those bytes as the key, and the values are filled in.
 *
 * shape_bytes guesses how many bytes the key has. A guess needs not be right: it looks at no byte
 * behind those that it counts, so the same bytes give the same guess (no key is the beginning of
 * another), and a result is kept only when Zydis says that the values begin there, and that each is
 * the value of one operand. So these are not kept: 3DNow!, whose opcode comes last; registers that
 * an immediate names; two immediates; far pointers. Nor are displacements that are scaled (EVEX),
 * 16-bit code and addresses, whose ModRM has no SIB, keys of more than 8 bytes, and more than
 * SHAPE_OPERANDS operands (REP MOVSB, CMPXCHG16B).
 *
 * The decoded instruction (struct insn) is kept besides, for 64-bit code and the handlers that
 * depend on the shape alone (decode_shaped).
 */
#include "engine/soft/shape.h"
#include <string.h>
#include "engine/soft/core.h"

/* Opcodes with ModRM, one bit each, by rows of 16. */
static const uint16_t has_modrm[16] = {0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0,      0, 0x0a08, 0, 0xffff,
				       0,      0,      0,      0x00f3, 0xff0f, 0, 0xc0c0};
static const uint16_t has_modrm_0f[16] = {0x200f, 0xffff, 0xff0f, 0,	  0xffff, 0xffff,
					  0xffff, 0xff7f, 0,	  0xffff, 0xf838, 0xffff,
					  0x00ff, 0xffff, 0xffff, 0xffff};

static _Bool bit_of(const uint16_t *rows, uint8_t opcode)
{
	return rows[opcode >> 4] >> (opcode & 15) & 1;
}

static _Bool is_prefix(uint8_t b, _Bool is64)
{
	return b == 0x66 || b == 0xf0 || (b | 1) == 0xf3 || (b | 1) == 0x65 || (b & 0xe7) == 0x26 ||
	       (is64 && (b & 0xf0) == 0x40);
}

/* How many bytes come before the values, if nothing is unusual; else 0. */
static unsigned shape_bytes(const uint8_t *p, unsigned avail, _Bool is64)
{
	unsigned n = 0;
	_Bool modrm;

	while (n < avail && is_prefix(p[n], is64))
		n++;
	if (n >= avail || p[n] == 0x67)
		return 0;
	uint8_t op = p[n++];
	modrm = bit_of(has_modrm, op);
	if (op == 0x0f) {
		if (n >= avail)
			return 0;
		op = p[n++];
		modrm = bit_of(has_modrm_0f, op);
		if (op == 0x38 || op == 0x3a) {
			modrm = 1;
			n++;
		}
	} else if ((op & 0xfe) == 0xc4 && n < avail && (is64 || p[n] >= 0xc0)) {
		n += op == 0xc4 ? 3 : 2;
		modrm = n <= avail && p[n - 1] != 0x77; /* VZEROUPPER, VZEROALL */
	}
	if (modrm) {
		if (n >= avail)
			return 0;
		uint8_t rm = p[n++];
		n += (rm & 7) == 4 && rm < 0xc0;
	}
	return n <= avail && n <= 8 ? n : 0;
}

/* Those bytes, or 0. */
static uint64_t shape_key(const uint8_t *bytes, unsigned avail, _Bool is64)
{
	unsigned n = shape_bytes(bytes, avail, is64);
	uint32_t low, high;

	if (n >= 4) {
		memcpy(&low, bytes, 4);
		memcpy(&high, bytes + n - 4, 4);
		return low | (uint64_t)high << (8 * n - 32);
	}
	if (!n)
		return 0;
	return bytes[0] | (uint32_t)bytes[n / 2] << (8 * (n / 2)) |
	       (uint32_t)bytes[n - 1] << (8 * (n - 1));
}

static unsigned decoder_index(const struct soft_cpu *cpu)
{
	return (unsigned)(soft_decoder(cpu) - cpu->cache->decoder);
}

static struct soft_shape *shape_place(struct soft_cpu *cpu, uint64_t key)
{
	uint64_t h = key * UINT64_C(0x9e3779b97f4a7c15);

	return &cpu->cache->shape[h >> 40 & (SOFT_SHAPES - 1)];
}

struct soft_shape *soft_shape_find(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail)
{
	uint64_t key;

	if (UNLIKELY(!(cpu->mode & (SOFT_MODE_64 | SOFT_MODE_32))))
		return NULL;
	key = shape_key(bytes, avail, soft_is64(cpu));
	if (!key)
		return NULL;
	unsigned decoder = decoder_index(cpu);
	struct soft_shape *s = shape_place(cpu, key);
	return s->key == key && s->decoder == decoder && s->len <= avail ? s : NULL;
}

static int64_t value_get(const struct soft_shape_value *v, const uint8_t *bytes)
{
	const uint8_t *p = bytes + v->at;
	uint64_t u = 0;

	switch (v->bytes) {
	case 1: return v->is_signed ? (int8_t)*p : *p;
	case 2: memcpy(&u, p, 2); return v->is_signed ? (int16_t)u : (int64_t)u;
	case 4: memcpy(&u, p, 4); return v->is_signed ? (int32_t)u : (int64_t)u;
	default: memcpy(&u, p, 8); return (int64_t)u;
	}
}

const struct tb_insn *soft_shape_zydis(struct soft_shape *s, const uint8_t *bytes)
{
	struct tb_insn *i = &s->i;

	if (s->disp.bytes) {
		i->zi.raw.disp.value = value_get(&s->disp, bytes);
		i->ops[s->disp.op].mem.disp.value = i->zi.raw.disp.value;
	}
	if (s->imm.bytes) {
		i->zi.raw.imm[0].value.s = value_get(&s->imm, bytes);
		i->ops[s->imm.op].imm.value.s = i->zi.raw.imm[0].value.s;
	}
	return i;
}

struct insn soft_shape_insn(const struct soft_shape *s, const uint8_t *bytes)
{
	struct insn out = s->insn;

	if (s->disp.bytes)
		out.disp = value_get(&s->disp, bytes) + (out.base == SOFT_EA_RIP ? out.len : 0);
	if (s->imm.bytes)
		out.imm = (uint64_t)value_get(&s->imm, bytes) + (s->relative ? out.len : 0);
	return out;
}

void soft_shape_decoded(struct soft_shape *s, const struct insn *insn, _Bool relative)
{
	s->insn = *insn;
	s->relative = relative;
	s->whole = 1;
}

/* The displacement, the immediate, and the one operand that each is. False: it is something else.
 */
static _Bool disp_of(const struct tb_insn *i, struct soft_shape_value *v)
{
	*v = (struct soft_shape_value){.at = i->zi.raw.disp.offset,
				       .bytes = i->zi.raw.disp.size / 8,
				       .is_signed = 1,
				       .op = -1};
	for (unsigned k = 0; k < i->zi.operand_count; k++) {
		const ZydisDecodedOperand *op = &i->ops[k];

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || !op->mem.disp.has_displacement)
			continue;
		if (v->op >= 0 || op->mem.disp.value != i->zi.raw.disp.value)
			return 0;
		v->op = (int8_t)k;
	}
	return (v->op >= 0) == (v->bytes != 0);
}

static _Bool imm_of(const struct tb_insn *i, struct soft_shape_value *v)
{
	const ZydisDecodedInstructionRaw *raw = &i->zi.raw;

	*v = (struct soft_shape_value){.at = raw->imm[0].offset,
				       .bytes = raw->imm[0].size / 8,
				       .is_signed = raw->imm[0].is_signed,
				       .op = -1};
	for (unsigned k = 0; k < i->zi.operand_count; k++) {
		const ZydisDecodedOperand *op = &i->ops[k];

		/* The 1 of a short shift belongs to the shape. */
		if (op->type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !v->bytes)
			continue;
		if (v->op >= 0 || op->imm.value.u != raw->imm[0].value.u)
			return 0;
		v->op = (int8_t)k;
	}
	return (v->op >= 0) == (v->bytes != 0);
}

struct soft_shape *soft_shape_keep(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
				   const struct tb_insn *i)
{
	struct soft_shape_value disp, imm;
	unsigned values = i->zi.length;

	if (!(cpu->mode & (SOFT_MODE_64 | SOFT_MODE_32)) ||
	    (i->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	     i->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) ||
	    i->zi.operand_count > SHAPE_OPERANDS || !disp_of(i, &disp) || !imm_of(i, &imm))
		return NULL;
	if (imm.bytes)
		values = imm.at;
	if (disp.bytes)
		values = disp.at;
	_Bool is64 = soft_is64(cpu);
	if (shape_bytes(bytes, avail, is64) != values)
		return NULL;
	unsigned decoder = decoder_index(cpu);
	uint64_t key = shape_key(bytes, avail, is64);
	struct soft_shape *s = shape_place(cpu, key);
	if (!key)
		return NULL;
	s->key = key;
	s->decoder = (uint8_t)decoder;
	s->len = i->zi.length;
	s->whole = 0;
	s->disp = disp;
	s->imm = imm;
	s->i = *i;
	s->i.ops = s->ops;
	memcpy(s->ops, i->ops, sizeof(s->ops));
	return s;
}

const struct tb_insn *soft_zydis(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
				 struct tb_room *room)
{
	struct soft_shape *s = soft_shape_find(cpu, bytes, avail);

	if (LIKELY(s != NULL))
		return soft_shape_zydis(s, bytes);
	if (!ZYAN_SUCCESS(
		ZydisDecoderDecodeFull(soft_decoder(cpu), bytes, avail, &room->i.zi, room->ops)))
		return NULL;
	room->i.ops = room->ops;
	soft_shape_keep(cpu, bytes, avail, &room->i);
	return &room->i;
}
