/* move.c: moves, extensions, exchanges of bytes, conditional moves and sets, LEA. */
#include "engine/soft/cond.h"
#include "engine/soft/op.h"

#define MOV(w)                                                                                     \
	static void mov_rr_##w(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		REG_SET_##w(cpu, i->r1, insn_gpr##w(cpu, i->r2));                                  \
	}                                                                                          \
	static void mov_ri_##w(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		REG_SET_##w(cpu, i->r1, i->imm);                                                   \
	}                                                                                          \
	static void mov_rm_##w(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		REG_SET_##w(cpu, i->r1, MEM_READ(cpu, i, w));                                      \
	}                                                                                          \
	static void mov_mr_##w(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		soft_write##w(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), insn_gpr##w(cpu, i->r1));   \
	}                                                                                          \
	static void mov_mi_##w(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		soft_write##w(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), (uint##w##_t)i->imm);       \
	}
MOV(8)
MOV(16)
MOV(32)
MOV(64)

/* Extensions: from width f to width t. */
#define EXTEND(name, type, f, t)                                                                   \
	static void name##_r_##f##_##t(struct soft_cpu *cpu, const struct insn *i)                 \
	{                                                                                          \
		REG_SET_##t(cpu, i->r1, (uint##t##_t)(type##f##_t)insn_gpr##f(cpu, i->r2));        \
	}                                                                                          \
	static void name##_m_##f##_##t(struct soft_cpu *cpu, const struct insn *i)                 \
	{                                                                                          \
		REG_SET_##t(cpu, i->r1, (uint##t##_t)(type##f##_t)MEM_READ(cpu, i, f));            \
	}
EXTEND(movzx, uint, 8, 16)
EXTEND(movzx, uint, 8, 32)
EXTEND(movzx, uint, 8, 64)
EXTEND(movzx, uint, 16, 16)
EXTEND(movzx, uint, 16, 32)
EXTEND(movzx, uint, 16, 64)
EXTEND(movsx, int, 8, 16)
EXTEND(movsx, int, 8, 32)
EXTEND(movsx, int, 8, 64)
EXTEND(movsx, int, 16, 16)
EXTEND(movsx, int, 16, 32)
EXTEND(movsx, int, 16, 64)
EXTEND(movsx, int, 32, 16)
EXTEND(movsx, int, 32, 32)
EXTEND(movsx, int, 32, 64)

#define EXTEND_ROW(name, f)                                                                        \
	{                                                                                          \
		NULL, name##_##f##_16, name##_##f##_32, name##_##f##_64                            \
	}
static insn_fn *const movzx_table[2][2][4] = {
    {EXTEND_ROW(movzx_r, 8), EXTEND_ROW(movzx_m, 8)},
    {EXTEND_ROW(movzx_r, 16), EXTEND_ROW(movzx_m, 16)},
};
static insn_fn *const movsx_table[3][2][4] = {
    {EXTEND_ROW(movsx_r, 8), EXTEND_ROW(movsx_m, 8)},
    {EXTEND_ROW(movsx_r, 16), EXTEND_ROW(movsx_m, 16)},
    {EXTEND_ROW(movsx_r, 32), EXTEND_ROW(movsx_m, 32)},
};

static void lea_16(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_16(cpu, i->r1, soft_ea_offset(cpu, i));
}
static void lea_32(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_32(cpu, i->r1, soft_ea_offset(cpu, i));
}
static void lea_64(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_64(cpu, i->r1, soft_ea_offset(cpu, i));
}
static void lea_fast_64(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_64(cpu, i->r1,
		   SOFT_UNIT(cpu, i->base) + (SOFT_UNIT(cpu, i->index) << i->scale) +
		       (uint64_t)i->disp);
}
static insn_fn *const lea_table[4] = {NULL, lea_16, lea_32, lea_64};

/* CMOVcc always reads its source; a 32-bit one clears the upper half even when it does not move.
 */
#define CMOV(cc, w)                                                                                \
	static void cmov##cc##_r_##w(struct soft_cpu *cpu, const struct insn *i)                   \
	{                                                                                          \
		uint##w##_t v = insn_gpr##w(cpu, i->r2), old = insn_gpr##w(cpu, i->r1);            \
		REG_SET_##w(cpu, i->r1, COND_##cc(cpu->af) ? v : old);                             \
	}                                                                                          \
	static void cmov##cc##_m_##w(struct soft_cpu *cpu, const struct insn *i)                   \
	{                                                                                          \
		uint##w##_t v = MEM_READ(cpu, i, w), old = insn_gpr##w(cpu, i->r1);                \
		REG_SET_##w(cpu, i->r1, COND_##cc(cpu->af) ? v : old);                             \
	}
#define CMOV_SET(cc, unused)                                                                       \
	OP_WIDTHS_16(CMOV, cc)                                                                     \
	static void set##cc##_r(struct soft_cpu *cpu, const struct insn *i)                        \
	{                                                                                          \
		REG_SET_8(cpu, i->r1, COND_##cc(cpu->af));                                         \
	}                                                                                          \
	static void set##cc##_m(struct soft_cpu *cpu, const struct insn *i)                        \
	{                                                                                          \
		soft_write8(cpu, i->seg, soft_lin(cpu, i, 1, 1), COND_##cc(cpu->af));              \
	}
COND_EACH(CMOV_SET, )

#define CC_ROW(cc, unused)                                                                         \
	{ZYDIS_MNEMONIC_CMOV##cc,                                                                  \
	 ZYDIS_MNEMONIC_SET##cc,                                                                   \
	 {OP_NAMES_16(cmov##cc##_r), OP_NAMES_16(cmov##cc##_m)},                                   \
	 {set##cc##_r, set##cc##_m}},
static const struct {
	ZydisMnemonic cmov, set;
	insn_fn *cmov_fn[2][4];
	insn_fn *set_fn[2];
} cc_table[] = {COND_EACH(CC_ROW, )};

#define BSWAP(w)                                                                                   \
	static void bswap_##w(struct soft_cpu *cpu, const struct insn *i)                          \
	{                                                                                          \
		REG_SET_##w(cpu, i->r1, __builtin_bswap##w(insn_gpr##w(cpu, i->r1)));              \
	}
BSWAP(32)
BSWAP(64)
/* With a 16-bit operand the result is undefined; CPUs clear the register. */
static void bswap_16(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_16(cpu, i->r1, 0);
}

/* CBW, CWDE, CDQE; CWD, CDQ, CQO */
static void cbw(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_16(cpu, 0, (int16_t)(int8_t)cpu->s.gpr[X86_RAX]);
}
static void cwde(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_32(cpu, 0, (int32_t)(int16_t)cpu->s.gpr[X86_RAX]);
}
static void cdqe(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->s.gpr[X86_RAX] = (uint64_t)(int32_t)cpu->s.gpr[X86_RAX];
}
static void cwd(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_16(cpu, X86_RDX * 8, (int16_t)cpu->s.gpr[X86_RAX] >> 15);
}
static void cdq(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_32(cpu, X86_RDX * 8, (int32_t)cpu->s.gpr[X86_RAX] >> 31);
}
static void cqo(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->s.gpr[X86_RDX] = (uint64_t)((int64_t)cpu->s.gpr[X86_RAX] >> 63);
}

static insn_fn *const mov_table[5][4] = {
    OP_NAMES(mov_rr), OP_NAMES(mov_ri), OP_NAMES(mov_rm), OP_NAMES(mov_mr), OP_NAMES(mov_mi),
};

static _Bool decode_mov(struct soft_decode *d)
{
	if (d->reg0 && (d->reg1 || d->mem1 || d->imm1))
		d->out->fn = mov_table[d->reg1 ? 0 : d->imm1 ? 1 : 2][d->size];
	else if (d->mem0 && (d->reg1 || d->imm1))
		d->out->fn = mov_table[d->reg1 ? 3 : 4][d->size];
	else
		return 0; /* segment, control and debug registers */
	return 1;
}

static unsigned bits_log2(unsigned bits)
{
	return bits == 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : 3;
}

_Bool decode_move(struct soft_decode *d)
{
	struct insn *out = d->out;

	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVNTI: return decode_mov(d);
	case ZYDIS_MNEMONIC_MOVZX:
		out->fn = movzx_table[bits_log2(d->op[1].size)][d->mem1][d->size];
		return 1;
	case ZYDIS_MNEMONIC_MOVSXD:
		/* To 16 bits Intel's CPUs read no more than these (SDM2 MOVSX). */
		if (d->size == 1 && !soft_amd(d->cpu)) {
			out->fn = movsx_table[1][d->mem1][1];
			return 1;
		}
		__attribute__((fallthrough));
	case ZYDIS_MNEMONIC_MOVSX:
		out->fn = movsx_table[bits_log2(d->op[1].size)][d->mem1][d->size];
		return 1;
	case ZYDIS_MNEMONIC_LEA:
		out->fn = lea_table[d->size];
		if (d->size == 3 && out->asize == 8)
			out->fn = lea_fast_64;
		return 1;
	case ZYDIS_MNEMONIC_BSWAP:
		out->fn = d->size == 3 ? bswap_64 : d->size == 2 ? bswap_32 : bswap_16;
		return 1;
	case ZYDIS_MNEMONIC_CBW: out->fn = cbw; return 1;
	case ZYDIS_MNEMONIC_CWDE: out->fn = cwde; return 1;
	case ZYDIS_MNEMONIC_CDQE: out->fn = cdqe; return 1;
	case ZYDIS_MNEMONIC_CWD: out->fn = cwd; return 1;
	case ZYDIS_MNEMONIC_CDQ: out->fn = cdq; return 1;
	case ZYDIS_MNEMONIC_CQO: out->fn = cqo; return 1;
	default: break;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(cc_table); k++) {
		if (cc_table[k].cmov == d->zi->mnemonic)
			out->fn = cc_table[k].cmov_fn[d->mem1][d->size];
		else if (cc_table[k].set == d->zi->mnemonic)
			out->fn = cc_table[k].set_fn[d->mem0];
		else
			continue;
		return 1;
	}
	return 0;
}
