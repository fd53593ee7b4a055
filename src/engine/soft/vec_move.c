/* vec_move.c: the commonest vector instructions without a thunk: moves, PXOR, VZEROUPPER. */
#include "engine/soft/vec.h"

/*
 * r1 and r2 are vector register numbers here (r2 a general register's offset for MOVD and MOVQ);
 * aux as elsewhere. VEX forms clear the rest of the destination, all 512 bits.
 */
static ALWAYS_INLINE void *xmm(struct soft_cpu *cpu, unsigned n)
{
	return cpu->s.fpu.vec[n];
}
static ALWAYS_INLINE void vec_clear_upper(struct soft_cpu *cpu, unsigned n, unsigned from)
{
	memset(cpu->s.fpu.vec[n] + from, 0, 64 - from);
}

static ALWAYS_INLINE void vec_move_align(struct soft_cpu *cpu, const struct insn *i, uint64_t lin,
					 unsigned size)
{
	if ((i->aux & VEC_ALIGN) && UNLIKELY(lin & (size - 1)))
		soft_raise_err(cpu, X86_VEC_GP, 0);
}

#define VEC_MOVE(name, class, size, vex)                                                           \
	static void name##_reg(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		uint8_t t[size];                                                                   \
		vec_check(cpu, class);                                                             \
		memcpy(t, xmm(cpu, i->r2), size);                                                  \
		memcpy(xmm(cpu, i->r1), t, size);                                                  \
		if (vex)                                                                           \
			vec_clear_upper(cpu, i->r1, size);                                         \
	}                                                                                          \
	static void name##_load(struct soft_cpu *cpu, const struct insn *i)                        \
	{                                                                                          \
		uint64_t lin;                                                                      \
		vec_check(cpu, class);                                                             \
		lin = soft_lin(cpu, i, size, 0);                                                   \
		vec_move_align(cpu, i, lin, size);                                                 \
		soft_load_vec(cpu, i->seg, lin, xmm(cpu, i->r1), size);                            \
		if (vex)                                                                           \
			vec_clear_upper(cpu, i->r1, size);                                         \
	}                                                                                          \
	static void name##_store(struct soft_cpu *cpu, const struct insn *i)                       \
	{                                                                                          \
		uint64_t lin;                                                                      \
		vec_check(cpu, class);                                                             \
		lin = soft_lin(cpu, i, size, 1);                                                   \
		vec_move_align(cpu, i, lin, size);                                                 \
		soft_store_vec(cpu, i->seg, lin, xmm(cpu, i->r1), size);                           \
	}
VEC_MOVE(vec_move_sse, VEC_SSE, 16, 0)
VEC_MOVE(vec_move_avx, VEC_AVX, 16, 1)
VEC_MOVE(vec_move_avx256, VEC_AVX, 32, 1)

/* MOVSD, MOVSS, MOVQ, MOVD from memory clear the rest of the register; to memory, they do not. */
#define VEC_SCALAR(name, class, bits, vex)                                                         \
	static void name##_load(struct soft_cpu *cpu, const struct insn *i)                        \
	{                                                                                          \
		uint64_t v[2] = {0, 0};                                                            \
		vec_check(cpu, class);                                                             \
		v[0] = soft_read##bits(cpu, i->seg, soft_lin(cpu, i, bits / 8, 0));                \
		memcpy(xmm(cpu, i->r1), v, 16);                                                    \
		if (vex)                                                                           \
			vec_clear_upper(cpu, i->r1, 16);                                           \
	}                                                                                          \
	static void name##_store(struct soft_cpu *cpu, const struct insn *i)                       \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		vec_check(cpu, class);                                                             \
		memcpy(&v, xmm(cpu, i->r1), sizeof(v));                                            \
		soft_write##bits(cpu, i->seg, soft_lin(cpu, i, bits / 8, 1), v);                   \
	}                                                                                          \
	static void name##_from_gpr(struct soft_cpu *cpu, const struct insn *i)                    \
	{                                                                                          \
		uint64_t v[2] = {0, 0};                                                            \
		vec_check(cpu, class);                                                             \
		v[0] = insn_gpr##bits(cpu, i->r2);                                                 \
		memcpy(xmm(cpu, i->r1), v, 16);                                                    \
		if (vex)                                                                           \
			vec_clear_upper(cpu, i->r1, 16);                                           \
	}                                                                                          \
	static void name##_to_gpr(struct soft_cpu *cpu, const struct insn *i)                      \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		vec_check(cpu, class);                                                             \
		memcpy(&v, xmm(cpu, i->r1), sizeof(v));                                            \
		insn_gpr_set(cpu, i->r2, bits / 8, v);                                             \
	}
VEC_SCALAR(vec_scalar32_sse, VEC_SSE, 32, 0)
VEC_SCALAR(vec_scalar64_sse, VEC_SSE, 64, 0)
VEC_SCALAR(vec_scalar32_avx, VEC_AVX, 32, 1)
VEC_SCALAR(vec_scalar64_avx, VEC_AVX, 64, 1)

static void vec_pxor(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t a[2], b[2];

	vec_check(cpu, VEC_SSE);
	memcpy(a, xmm(cpu, i->r1), 16);
	memcpy(b, xmm(cpu, i->r2), 16);
	a[0] ^= b[0];
	a[1] ^= b[1];
	memcpy(xmm(cpu, i->r1), a, 16);
}

static void vec_zeroupper(struct soft_cpu *cpu, const struct insn *i)
{
	vec_check(cpu, VEC_AVX);
	for (unsigned n = 0; n < (soft_is64(cpu) ? 16u : 8u); n++)
		vec_clear_upper(cpu, n, 16);
}

static void vec_zeroall(struct soft_cpu *cpu, const struct insn *i)
{
	vec_check(cpu, VEC_AVX);
	for (unsigned n = 0; n < (soft_is64(cpu) ? 16u : 8u); n++)
		memset(cpu->s.fpu.vec[n], 0, 64);
}

/* Which operand is what: vector register number, or -1. */
static int vec_number(const ZydisDecodedOperand *op)
{
	ZydisRegisterClass class;

	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return -1;
	class = ZydisRegisterGetClass(op->reg.value);
	return class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM
		   ? ZydisRegisterGetId(op->reg.value)
		   : -1;
}

static _Bool vec_decode_whole(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			      struct insn *out, _Bool aligned)
{
	static insn_fn *const table[3][3] = {
	    {vec_move_sse_reg, vec_move_sse_load, vec_move_sse_store},
	    {vec_move_avx_reg, vec_move_avx_load, vec_move_avx_store},
	    {vec_move_avx256_reg, vec_move_avx256_load, vec_move_avx256_store},
	};
	insn_fn *const *row = table[0];
	int a = vec_number(&ops[0]), b = vec_number(&ops[1]);

	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		row = table[zi->avx.vector_length == 256 ? 2 : 1];
	out->aux = aligned ? VEC_ALIGN : 0;
	if (a >= 0 && b >= 0) {
		out->r1 = (uint8_t)a;
		out->r2 = (uint8_t)b;
		out->fn = row[0];
	} else if (a >= 0) {
		out->r1 = (uint8_t)a;
		out->fn = row[1];
	} else {
		out->r1 = (uint8_t)b;
		out->fn = row[2];
	}
	return 1;
}

static _Bool vec_decode_scalar(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			       struct insn *out, unsigned bits)
{
	static insn_fn *const table[2][2][4] = {
	    {{vec_scalar32_sse_load, vec_scalar32_sse_store, vec_scalar32_sse_from_gpr,
	      vec_scalar32_sse_to_gpr},
	     {vec_scalar64_sse_load, vec_scalar64_sse_store, vec_scalar64_sse_from_gpr,
	      vec_scalar64_sse_to_gpr}},
	    {{vec_scalar32_avx_load, vec_scalar32_avx_store, vec_scalar32_avx_from_gpr,
	      vec_scalar32_avx_to_gpr},
	     {vec_scalar64_avx_load, vec_scalar64_avx_store, vec_scalar64_avx_from_gpr,
	      vec_scalar64_avx_to_gpr}},
	};
	insn_fn *const *row = table[zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX][bits == 64];
	int a, b;

	if (zi->operand_count_visible != 2)
		return 0;
	a = vec_number(&ops[0]);
	b = vec_number(&ops[1]);
	if ((a < 0) == (b < 0)) /* MMX, or between two vector registers: a thunk's */
		return 0;
	if (ops[a >= 0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
		if (ops[a >= 0].size != bits)
			return 0;
		out->fn = row[a < 0];
	} else {
		if (ops[a >= 0].size != bits ||
		    ZydisRegisterGetClass(ops[a >= 0].reg.value) !=
			(bits == 64 ? ZYDIS_REGCLASS_GPR64 : ZYDIS_REGCLASS_GPR32))
			return 0;
		out->r2 = (uint8_t)(8 * ZydisRegisterGetId(ops[a >= 0].reg.value));
		out->fn = row[a < 0 ? 3 : 2];
	}
	out->r1 = (uint8_t)(a >= 0 ? a : b);
	return 1;
}

_Bool vec_move_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		      struct insn *out)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA: return vec_decode_whole(zi, ops, out, 1);
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_VMOVUPS:
	case ZYDIS_MNEMONIC_VMOVUPD:
	case ZYDIS_MNEMONIC_VMOVDQU: return vec_decode_whole(zi, ops, out, 0);
	case ZYDIS_MNEMONIC_MOVSS:
	case ZYDIS_MNEMONIC_MOVD:
	case ZYDIS_MNEMONIC_VMOVSS:
	case ZYDIS_MNEMONIC_VMOVD: return vec_decode_scalar(zi, ops, out, 32);
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVQ:
	case ZYDIS_MNEMONIC_VMOVSD:
	case ZYDIS_MNEMONIC_VMOVQ: return vec_decode_scalar(zi, ops, out, 64);
	case ZYDIS_MNEMONIC_PXOR:
	case ZYDIS_MNEMONIC_XORPS:
		if (vec_number(&ops[0]) < 0 || vec_number(&ops[1]) < 0)
			return 0;
		out->r1 = (uint8_t)vec_number(&ops[0]);
		out->r2 = (uint8_t)vec_number(&ops[1]);
		out->fn = vec_pxor;
		return 1;
	case ZYDIS_MNEMONIC_VZEROUPPER: out->fn = vec_zeroupper; return 1;
	case ZYDIS_MNEMONIC_VZEROALL: out->fn = vec_zeroall; return 1;
	default: return 0;
	}
}
