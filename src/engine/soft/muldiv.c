/* muldiv.c: multiplication and division by the host's instructions; #DE is found beforehand. */
#include "engine/soft/op.h"

/* Flags first (some stay undefined and the host says how), then the operation on rDX:rAX. */
#define WIDE_DO(op, w, rax, rdx, s, af)                                                            \
	__asm__("movl %[f], %%eax\n\t" FLAGS_LOAD "movq %[a], %%rax\n\t" op SFX_##w                \
		" %[src]\n\tmovq %%rax, %[a]" FLAGS_SAVE "\n\tmovl %%eax, %[f]"                    \
		: [a] "+r"(rax), "+d"(rdx), [f] "+r"(af)                                           \
		: [src] "r"(s)                                                                     \
		: "rax", "cc")

#define MUL_FORM(name, w, form, src)                                                               \
	static void name##_##form##_##w(struct soft_cpu *cpu, const struct insn *i)                \
	{                                                                                          \
		uint##w##_t s = src;                                                               \
		uint64_t a = cpu->s.gpr[X86_RAX], d = cpu->s.gpr[X86_RDX];                         \
		uint32_t af = cpu->af;                                                             \
		WIDE_DO(#name, w, a, d, s, af);                                                    \
		cpu->s.gpr[X86_RAX] = a;                                                           \
		cpu->s.gpr[X86_RDX] = d;                                                           \
		cpu->af = af;                                                                      \
	}
#define MUL(name, w)                                                                               \
	MUL_FORM(name, w, r, insn_gpr##w(cpu, i->r1))                                              \
	MUL_FORM(name, w, m, MEM_READ(cpu, i, w))
OP_WIDTHS(MUL, mul)
OP_WIDTHS(MUL, imul)

/* The dividend of a width, as two halves. */
static uint64_t dividend_low(const struct soft_cpu *cpu, unsigned w)
{
	return w == 8 ? cpu->s.gpr[X86_RAX] & 0xff : cpu->s.gpr[X86_RAX] & size_mask(w / 8);
}
static uint64_t dividend_high(const struct soft_cpu *cpu, unsigned w)
{
	return w == 8 ? (cpu->s.gpr[X86_RAX] >> 8) & 0xff : cpu->s.gpr[X86_RDX] & size_mask(w / 8);
}

/* Raises #DE when the quotient does not fit. */
static void div_check(struct soft_cpu *cpu, uint64_t s, unsigned w)
{
	if (dividend_high(cpu, w) >= s)
		soft_raise(cpu, X86_VEC_DE);
}
static void idiv_check(struct soft_cpu *cpu, uint64_t s, unsigned w)
{
	unsigned __int128 n = (unsigned __int128)dividend_high(cpu, w) << w | dividend_low(cpu, w);
	unsigned shift = 128 - 2 * w;
	__int128 v = (__int128)(n << shift) >> shift;
	int64_t div = (int64_t)(s << (64 - w)) >> (64 - w);
	unsigned __int128 un = v < 0 ? -(unsigned __int128)v : (unsigned __int128)v;
	unsigned __int128 ud = div < 0 ? -(uint64_t)div : (uint64_t)div;

	if (!ud)
		soft_raise(cpu, X86_VEC_DE);
	unsigned __int128 q = un / ud, max = (unsigned __int128)1 << (w - 1);
	if ((v < 0) != (div < 0) ? q > max : q >= max)
		soft_raise(cpu, X86_VEC_DE);
}

#define DIV_FORM(name, w, form, src)                                                               \
	static void name##_##form##_##w(struct soft_cpu *cpu, const struct insn *i)                \
	{                                                                                          \
		uint##w##_t s = src;                                                               \
		uint64_t a = cpu->s.gpr[X86_RAX], d = cpu->s.gpr[X86_RDX];                         \
		uint32_t af = cpu->af;                                                             \
		name##_check(cpu, s, w);                                                           \
		WIDE_DO(#name, w, a, d, s, af);                                                    \
		cpu->s.gpr[X86_RAX] = a;                                                           \
		cpu->s.gpr[X86_RDX] = d;                                                           \
		cpu->af = af;                                                                      \
	}
#define DIV(name, w)                                                                               \
	DIV_FORM(name, w, r, insn_gpr##w(cpu, i->r1))                                              \
	DIV_FORM(name, w, m, MEM_READ(cpu, i, w))
OP_WIDTHS(DIV, div)
OP_WIDTHS(DIV, idiv)

/* IMUL with two operands, and with three. */
#define IMUL_DO(w, d, s, af)                                                                       \
	__asm__(FLAGS_LOAD "imul" SFX_##w " %2, %0" FLAGS_SAVE                                     \
		: "+r"(d), "+&a"(af)                                                               \
		: "r"(s)                                                                           \
		: "c"                                                                              \
		  "c")
#define IMUL_FORM(w, form, a, b)                                                                   \
	static void imul_##form##_##w(struct soft_cpu *cpu, const struct insn *i)                  \
	{                                                                                          \
		uint##w##_t s = b, d = (uint##w##_t)(a);                                           \
		uint32_t af = cpu->af;                                                             \
		IMUL_DO(w, d, s, af);                                                              \
		REG_SET_##w(cpu, i->r1, d);                                                        \
		cpu->af = af;                                                                      \
	}
#define IMUL(unused, w)                                                                            \
	IMUL_FORM(w, rr, insn_gpr##w(cpu, i->r1), insn_gpr##w(cpu, i->r2))                         \
	IMUL_FORM(w, rm, insn_gpr##w(cpu, i->r1), MEM_READ(cpu, i, w))                             \
	IMUL_FORM(w, rri, i->imm, insn_gpr##w(cpu, i->r2))                                         \
	IMUL_FORM(w, rmi, i->imm, MEM_READ(cpu, i, w))
OP_WIDTHS_16(IMUL, )

static insn_fn *const wide_table[4][2][4] = {
    {OP_NAMES(mul_r), OP_NAMES(mul_m)},
    {OP_NAMES(imul_r), OP_NAMES(imul_m)},
    {OP_NAMES(div_r), OP_NAMES(div_m)},
    {OP_NAMES(idiv_r), OP_NAMES(idiv_m)},
};
static insn_fn *const imul_table[2][2][4] = {
    {OP_NAMES_16(imul_rr), OP_NAMES_16(imul_rm)},
    {OP_NAMES_16(imul_rri), OP_NAMES_16(imul_rmi)},
};

_Bool decode_muldiv(struct soft_decode *d)
{
	unsigned row, explicit_ = 0;

	for (unsigned k = 0; k < d->zi->operand_count_visible; k++)
		explicit_ += d->op[k].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT;
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_MUL: row = 0; break;
	case ZYDIS_MNEMONIC_IMUL: row = 1; break;
	case ZYDIS_MNEMONIC_DIV: row = 2; break;
	case ZYDIS_MNEMONIC_IDIV: row = 3; break;
	default: return 0;
	}
	if (row == 1 && explicit_ > 1)
		d->out->fn = imul_table[explicit_ == 3][d->mem1][d->size];
	else
		d->out->fn = wide_table[row][d->mem0][d->size];
	return 1;
}
