/* bit.c: bit tests, bit scans and counts. */
#include "engine/soft/op.h"

#define BIT_DO(op, w, d, n, af)                                                                    \
	__asm__(FLAGS_LOAD op SFX_##w " %2, %0" FLAGS_SAVE : "+r"(d), "+&a"(af) : "r"(n) : "cc")
#define BIT_LOCK(op, w, p, n, af)                                                                  \
	__asm__ volatile(FLAGS_LOAD "lock " op SFX_##w " %2, %0" FLAGS_SAVE                        \
			 : "+m"(*(p)), "+&a"(af)                                                   \
			 : "r"(n)                                                                  \
			 : "cc", "memory")

/* With a register as bit offset, memory is a bit string around the operand's address. The byte
 * displacement goes into the offset within the segment, before it is cut to the address size. */
static uint64_t bit_lin(struct soft_cpu *cpu, const struct insn *i, int64_t bit, unsigned w,
			_Bool write)
{
	struct insn at = *i;
	unsigned shift = w == 64 ? 6 : w == 32 ? 5 : 4;

	at.disp += (int64_t)((uint64_t)(bit >> shift) * (w / 8));
	return soft_lin(cpu, &at, w / 8, write);
}

#define BIT_READ(name, w)                                                                          \
	static void name##_rr_##w(struct soft_cpu *cpu, const struct insn *i)                      \
	{                                                                                          \
		uint##w##_t d = insn_gpr##w(cpu, i->r1), n = insn_gpr##w(cpu, i->r2);              \
		uint32_t af = cpu->af;                                                             \
		BIT_DO(#name, w, d, n, af);                                                        \
		REG_SET_BT_##name(w, cpu, i->r1, d);                                               \
		cpu->af = af;                                                                      \
	}                                                                                          \
	static void name##_ri_##w(struct soft_cpu *cpu, const struct insn *i)                      \
	{                                                                                          \
		uint##w##_t d = insn_gpr##w(cpu, i->r1), n = (uint##w##_t)i->imm;                  \
		uint32_t af = cpu->af;                                                             \
		BIT_DO(#name, w, d, n, af);                                                        \
		REG_SET_BT_##name(w, cpu, i->r1, d);                                               \
		cpu->af = af;                                                                      \
	}
#define BIT_TEST_M(w, form, n_, lin)                                                               \
	static void bt_m##form##_##w(struct soft_cpu *cpu, const struct insn *i)                   \
	{                                                                                          \
		uint##w##_t n = (uint##w##_t)(n_), d = soft_read##w(cpu, i->seg, lin);             \
		uint32_t af = cpu->af;                                                             \
		BIT_DO("bt", w, d, n, af);                                                         \
		cpu->af = af;                                                                      \
	}
#define BIT_MODIFY_M(name, w, form, n_, lin)                                                       \
	static void name##_m##form##_##w(struct soft_cpu *cpu, const struct insn *i)               \
	{                                                                                          \
		uint##w##_t n = (uint##w##_t)(n_);                                                 \
		soft_u##w *p = soft_rmw(cpu, i->seg, lin, w / 8, 0);                               \
		uint##w##_t d = *p;                                                                \
		uint32_t af = cpu->af;                                                             \
		BIT_DO(#name, w, d, n, af);                                                        \
		*p = d;                                                                            \
		soft_rmw_done(cpu);                                                                \
		cpu->af = af;                                                                      \
	}                                                                                          \
	static void name##_lm##form##_##w(struct soft_cpu *cpu, const struct insn *i)              \
	{                                                                                          \
		uint##w##_t n = (uint##w##_t)(n_) & (w - 1);                                       \
		soft_u##w *p = soft_rmw(cpu, i->seg, lin, w / 8, 1);                               \
		uint32_t af = cpu->af;                                                             \
		BIT_LOCK(#name, w, p, n, af);                                                      \
		soft_rmw_done(cpu);                                                                \
		cpu->af = af;                                                                      \
	}
#define BIT_REG(w)    insn_gpr##w(cpu, i->r1)
#define BIT_LIN(w, k) bit_lin(cpu, i, (int##w##_t)BIT_REG(w), w, k)

#define BIT_TEST(unused, w)                                                                        \
	BIT_READ(bt, w)                                                                            \
	BIT_TEST_M(w, r, BIT_REG(w), BIT_LIN(w, 0))                                                \
	BIT_TEST_M(w, i, i->imm, soft_lin(cpu, i, w / 8, 0))
#define BIT_MODIFY(name, w)                                                                        \
	BIT_READ(name, w)                                                                          \
	BIT_MODIFY_M(name, w, r, BIT_REG(w), BIT_LIN(w, 1))                                        \
	BIT_MODIFY_M(name, w, i, i->imm, soft_lin(cpu, i, w / 8, 1))
#define REG_SET_BT_bt(w, cpu, r, d)  ((void)(d))
#define REG_SET_BT_bts(w, cpu, r, d) REG_SET_##w(cpu, r, d)
#define REG_SET_BT_btr(w, cpu, r, d) REG_SET_##w(cpu, r, d)
#define REG_SET_BT_btc(w, cpu, r, d) REG_SET_##w(cpu, r, d)
OP_WIDTHS_16(BIT_TEST, )
OP_WIDTHS_16(BIT_MODIFY, bts)
OP_WIDTHS_16(BIT_MODIFY, btr)
OP_WIDTHS_16(BIT_MODIFY, btc)

/* Scans and counts work on the whole destination register, so that what the host does with it when
 * the source is zero, and with its upper half, is what the guest sees. */
#define SCAN_FORM(name, w, form, src, mod)                                                         \
	static void name##_##form##_##w(struct soft_cpu *cpu, const struct insn *i)                \
	{                                                                                          \
		uint##w##_t s = src;                                                               \
		uint64_t d = insn_gpr64(cpu, i->r1);                                               \
		uint32_t af = cpu->af;                                                             \
		__asm__(FLAGS_LOAD #name SFX_##w " %2, %" mod "0" FLAGS_SAVE                       \
			: "+r"(d), "+&a"(af)                                                       \
			: "r"(s)                                                                   \
			: "cc");                                                                   \
		*(uint64_t *)soft_reg(cpu, i->r1) = d;                                             \
		cpu->af = af;                                                                      \
	}
#define SCAN_MOD_16 "w"
#define SCAN_MOD_32 "k"
#define SCAN_MOD_64 "q"
#define SCAN(name, w)                                                                              \
	SCAN_FORM(name, w, r, insn_gpr##w(cpu, i->r2), SCAN_MOD_##w)                               \
	SCAN_FORM(name, w, m, MEM_READ(cpu, i, w), SCAN_MOD_##w)
OP_WIDTHS_16(SCAN, bsf)
OP_WIDTHS_16(SCAN, bsr)
OP_WIDTHS_16(SCAN, popcnt)
OP_WIDTHS_16(SCAN, lzcnt)
OP_WIDTHS_16(SCAN, tzcnt)

#define BIT_ROW(m, name)                                                                           \
	{                                                                                          \
		ZYDIS_MNEMONIC_##m,                                                                \
		{                                                                                  \
			OP_NAMES_16(name##_rr), OP_NAMES_16(name##_ri), OP_NAMES_16(name##_mr),    \
			    OP_NAMES_16(name##_mi), OP_NAMES_16(name##_lmr),                       \
			    OP_NAMES_16(name##_lmi)                                                \
		}                                                                                  \
	}
static const struct {
	ZydisMnemonic mnemonic;
	insn_fn *fn[6][4];
} bit_table[] = {
    {ZYDIS_MNEMONIC_BT,
     {OP_NAMES_16(bt_rr), OP_NAMES_16(bt_ri), OP_NAMES_16(bt_mr), OP_NAMES_16(bt_mi)}},
    BIT_ROW(BTS, bts),
    BIT_ROW(BTR, btr),
    BIT_ROW(BTC, btc),
};
static const struct {
	ZydisMnemonic mnemonic;
	insn_fn *fn[2][4];
} scan_table[] = {
    {ZYDIS_MNEMONIC_BSF, {OP_NAMES_16(bsf_r), OP_NAMES_16(bsf_m)}},
    {ZYDIS_MNEMONIC_BSR, {OP_NAMES_16(bsr_r), OP_NAMES_16(bsr_m)}},
    {ZYDIS_MNEMONIC_POPCNT, {OP_NAMES_16(popcnt_r), OP_NAMES_16(popcnt_m)}},
    {ZYDIS_MNEMONIC_LZCNT, {OP_NAMES_16(lzcnt_r), OP_NAMES_16(lzcnt_m)}},
    {ZYDIS_MNEMONIC_TZCNT, {OP_NAMES_16(tzcnt_r), OP_NAMES_16(tzcnt_m)}},
};

_Bool decode_bit(struct soft_decode *d)
{
	for (unsigned k = 0; k < ARRAY_SIZE(bit_table); k++) {
		if (bit_table[k].mnemonic != d->zi->mnemonic)
			continue;
		unsigned form = (d->mem0 ? (d->out->flags & INSN_LOCK ? 4 : 2) : 0) + d->imm1;
		d->out->fn = bit_table[k].fn[form][d->size];
		return 1;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(scan_table); k++) {
		if (scan_table[k].mnemonic != d->zi->mnemonic)
			continue;
		d->out->fn = scan_table[k].fn[d->mem1][d->size];
		return 1;
	}
	return 0;
}
