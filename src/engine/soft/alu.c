/* alu.c: two-operand and one-operand arithmetic, executed by the host's own instruction. */
#include "engine/soft/op.h"

/* How each operation becomes a host instruction: d is read and written, s read, af in and out. */
#define ALU_PLAIN(op, w, d, s, af)                                                                 \
	__asm__(op SFX_##w " %2, %0" FLAGS_SAVE : "+r"(d), "=a"(af) : "r"(s) : "cc")
#define ALU_CARRY(op, w, d, s, af)                                                                 \
	__asm__("btl $8, %1\n\t" op SFX_##w " %2, %0" FLAGS_SAVE                                   \
		: "+r"(d), "+a"(af)                                                                \
		: "r"(s)                                                                           \
		: "cc")
#define ALU_PLAIN_LOCK(op, w, p, s, af)                                                            \
	__asm__ volatile("lock " op SFX_##w " %2, %1" FLAGS_SAVE                                   \
			 : "=a"(af), "+m"(*(p))                                                    \
			 : "r"(s)                                                                  \
			 : "cc", "memory")
#define ALU_CARRY_LOCK(op, w, p, s, af)                                                            \
	__asm__ volatile("btl $8, %0\n\tlock " op SFX_##w " %2, %1" FLAGS_SAVE                     \
			 : "+a"(af), "+m"(*(p))                                                    \
			 : "r"(s)                                                                  \
			 : "cc", "memory")

/* Forms in which the destination is only read as well (cmp, test). */
#define ALU_READ(name, how, op, w)                                                                 \
	static void name##_rr_##w(struct soft_cpu *cpu, const struct insn *i)                      \
	{                                                                                          \
		uint##w##_t d = insn_gpr##w(cpu, i->r1), s = insn_gpr##w(cpu, i->r2);              \
		uint32_t af = cpu->af;                                                             \
		how(op, w, d, s, af);                                                              \
		ALU_WB_##name(w, cpu, i->r1, d);                                                   \
		cpu->af = af;                                                                      \
	}                                                                                          \
	static void name##_ri_##w(struct soft_cpu *cpu, const struct insn *i)                      \
	{                                                                                          \
		uint##w##_t d = insn_gpr##w(cpu, i->r1), s = (uint##w##_t)i->imm;                  \
		uint32_t af = cpu->af;                                                             \
		how(op, w, d, s, af);                                                              \
		ALU_WB_##name(w, cpu, i->r1, d);                                                   \
		cpu->af = af;                                                                      \
	}                                                                                          \
	static void name##_rm_##w(struct soft_cpu *cpu, const struct insn *i)                      \
	{                                                                                          \
		uint##w##_t s = MEM_READ(cpu, i, w), d = insn_gpr##w(cpu, i->r1);                  \
		uint32_t af = cpu->af;                                                             \
		how(op, w, d, s, af);                                                              \
		ALU_WB_##name(w, cpu, i->r1, d);                                                   \
		cpu->af = af;                                                                      \
	}

#define ALU_STORE_FORM(name, form, how, op, w, src)                                                \
	static void name##_m##form##_##w(struct soft_cpu *cpu, const struct insn *i)               \
	{                                                                                          \
		soft_u##w *p = soft_rmw(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), w / 8, 0);        \
		uint##w##_t d = *p, s = (uint##w##_t)(src);                                        \
		uint32_t af = cpu->af;                                                             \
		how(op, w, d, s, af);                                                              \
		*p = d;                                                                            \
		soft_rmw_done(cpu);                                                                \
		cpu->af = af;                                                                      \
	}                                                                                          \
	static void name##_lm##form##_##w(struct soft_cpu *cpu, const struct insn *i)              \
	{                                                                                          \
		soft_u##w *p = soft_rmw(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), w / 8, 1);        \
		uint##w##_t s = (uint##w##_t)(src);                                                \
		uint32_t af = cpu->af;                                                             \
		how##_LOCK(op, w, p, s, af);                                                       \
		soft_rmw_done(cpu);                                                                \
		cpu->af = af;                                                                      \
	}
#define ALU_COMPARE_FORM(name, form, how, op, w, src)                                              \
	static void name##_m##form##_##w(struct soft_cpu *cpu, const struct insn *i)               \
	{                                                                                          \
		uint##w##_t d = MEM_READ(cpu, i, w), s = (uint##w##_t)(src);                       \
		uint32_t af = cpu->af;                                                             \
		how(op, w, d, s, af);                                                              \
		cpu->af = af;                                                                      \
	}

#define ALU_WRITE(name, how, op, w)                                                                \
	ALU_READ(name, how, op, w)                                                                 \
	ALU_STORE_FORM(name, r, how, op, w, insn_gpr##w(cpu, i->r1))                               \
	ALU_STORE_FORM(name, i, how, op, w, i->imm)
#define ALU_COMPARE(name, how, op, w)                                                              \
	ALU_READ(name, how, op, w)                                                                 \
	ALU_COMPARE_FORM(name, r, how, op, w, insn_gpr##w(cpu, i->r1))                             \
	ALU_COMPARE_FORM(name, i, how, op, w, i->imm)

#define WB_YES(w, cpu, r, d) REG_SET_##w(cpu, r, d)
#define WB_NO(w, cpu, r, d)  ((void)(d))
#define ALU_WB_add	     WB_YES
#define ALU_WB_or	     WB_YES
#define ALU_WB_adc	     WB_YES
#define ALU_WB_sbb	     WB_YES
#define ALU_WB_and	     WB_YES
#define ALU_WB_sub	     WB_YES
#define ALU_WB_xor	     WB_YES
#define ALU_WB_cmp	     WB_NO
#define ALU_WB_test	     WB_NO

OP_WIDTHS(ALU_WRITE, add, ALU_PLAIN, "add")
OP_WIDTHS(ALU_WRITE, or, ALU_PLAIN, "or")
OP_WIDTHS(ALU_WRITE, adc, ALU_CARRY, "adc")
OP_WIDTHS(ALU_WRITE, sbb, ALU_CARRY, "sbb")
OP_WIDTHS(ALU_WRITE, and, ALU_PLAIN, "and")
OP_WIDTHS(ALU_WRITE, sub, ALU_PLAIN, "sub")
OP_WIDTHS(ALU_WRITE, xor, ALU_PLAIN, "xor")
OP_WIDTHS(ALU_COMPARE, cmp, ALU_PLAIN, "cmp")
OP_WIDTHS(ALU_COMPARE, test, ALU_PLAIN, "test")

/* One operand. INC and DEC keep CF; NOT keeps all. */
#define UNARY_FORMS(name, asm_, w)                                                                 \
	static void name##_r_##w(struct soft_cpu *cpu, const struct insn *i)                       \
	{                                                                                          \
		uint##w##_t d = insn_gpr##w(cpu, i->r1);                                           \
		uint32_t af = cpu->af;                                                             \
		__asm__(asm_(name, "", w) : "+r"(d), "+a"(af) : : "cc");                           \
		REG_SET_##w(cpu, i->r1, d);                                                        \
		cpu->af = af;                                                                      \
	}                                                                                          \
	static void name##_m_##w(struct soft_cpu *cpu, const struct insn *i)                       \
	{                                                                                          \
		soft_u##w *p = soft_rmw(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), w / 8, 0);        \
		uint##w##_t d = *p;                                                                \
		uint32_t af = cpu->af;                                                             \
		__asm__(asm_(name, "", w) : "+r"(d), "+a"(af) : : "cc");                           \
		*p = d;                                                                            \
		soft_rmw_done(cpu);                                                                \
		cpu->af = af;                                                                      \
	}                                                                                          \
	static void name##_lm_##w(struct soft_cpu *cpu, const struct insn *i)                      \
	{                                                                                          \
		soft_u##w *p = soft_rmw(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), w / 8, 1);        \
		uint32_t af = cpu->af;                                                             \
		__asm__ volatile(asm_(name, "lock ", w) : "+m"(*p), "+a"(af) : : "cc", "memory");  \
		soft_rmw_done(cpu);                                                                \
		cpu->af = af;                                                                      \
	}
#define UNARY_KEEP_CF(name, lock, w) "btl $8, %1\n\t" lock #name SFX_##w " %0" FLAGS_SAVE
#define UNARY_ALL(name, lock, w)     lock #name SFX_##w " %0" FLAGS_SAVE
#define UNARY_NONE(name, lock, w)    lock #name SFX_##w " %0"

OP_WIDTHS(UNARY_FORMS, inc, UNARY_KEEP_CF)
OP_WIDTHS(UNARY_FORMS, dec, UNARY_KEEP_CF)
OP_WIDTHS(UNARY_FORMS, neg, UNARY_ALL)
OP_WIDTHS(UNARY_FORMS, not, UNARY_NONE)

/* Common idioms: a register cleared by XOR or SUB with itself has no input. */
static void zero_32(struct soft_cpu *cpu, const struct insn *i)
{
	*(uint64_t *)soft_reg(cpu, i->r1) = 0;
	cpu->af = SOFT_AF_ZF | SOFT_AF_PF;
}

enum alu_form { ALU_RR, ALU_RI, ALU_RM, ALU_MR, ALU_MI, ALU_LMR, ALU_LMI, ALU_FORMS };
#define ALU_ROW(name)                                                                              \
	{                                                                                          \
		OP_NAMES(name##_rr), OP_NAMES(name##_ri), OP_NAMES(name##_rm),                     \
		    OP_NAMES(name##_mr), OP_NAMES(name##_mi), OP_NAMES(name##_lmr),                \
		    OP_NAMES(name##_lmi)                                                           \
	}
#define ALU_ROW_COMPARE(name)                                                                      \
	{                                                                                          \
		OP_NAMES(name##_rr), OP_NAMES(name##_ri), OP_NAMES(name##_rm),                     \
		    OP_NAMES(name##_mr), OP_NAMES(name##_mi), {0},                                 \
		{                                                                                  \
			0                                                                          \
		}                                                                                  \
	}

static const struct {
	ZydisMnemonic mnemonic;
	insn_fn *fn[ALU_FORMS][4];
} alu_table[] = {
    {ZYDIS_MNEMONIC_ADD, ALU_ROW(add)},		  {ZYDIS_MNEMONIC_OR, ALU_ROW(or)},
    {ZYDIS_MNEMONIC_ADC, ALU_ROW(adc)},		  {ZYDIS_MNEMONIC_SBB, ALU_ROW(sbb)},
    {ZYDIS_MNEMONIC_AND, ALU_ROW(and)},		  {ZYDIS_MNEMONIC_SUB, ALU_ROW(sub)},
    {ZYDIS_MNEMONIC_XOR, ALU_ROW(xor)},		  {ZYDIS_MNEMONIC_CMP, ALU_ROW_COMPARE(cmp)},
    {ZYDIS_MNEMONIC_TEST, ALU_ROW_COMPARE(test)},
};

static const struct {
	ZydisMnemonic mnemonic;
	insn_fn *fn[3][4]; /* register, memory, locked memory */
} unary_table[] = {
    {ZYDIS_MNEMONIC_INC, {OP_NAMES(inc_r), OP_NAMES(inc_m), OP_NAMES(inc_lm)}},
    {ZYDIS_MNEMONIC_DEC, {OP_NAMES(dec_r), OP_NAMES(dec_m), OP_NAMES(dec_lm)}},
    {ZYDIS_MNEMONIC_NEG, {OP_NAMES(neg_r), OP_NAMES(neg_m), OP_NAMES(neg_lm)}},
    {ZYDIS_MNEMONIC_NOT, {OP_NAMES(not_r), OP_NAMES(not_m), OP_NAMES(not_lm)}},
};

_Bool decode_alu(struct soft_decode *d)
{
	ZydisMnemonic m = d->zi->mnemonic;
	_Bool lock = !!(d->out->flags & INSN_LOCK);

	for (unsigned k = 0; k < ARRAY_SIZE(unary_table); k++) {
		if (unary_table[k].mnemonic != m)
			continue;
		d->out->fn = unary_table[k].fn[d->reg0 ? 0 : 1 + lock][d->size];
		return 1;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(alu_table); k++) {
		if (alu_table[k].mnemonic != m)
			continue;
		enum alu_form form = d->reg0   ? (d->reg1   ? ALU_RR
						  : d->mem1 ? ALU_RM
							    : ALU_RI)
				     : d->reg1 ? (lock ? ALU_LMR : ALU_MR)
					       : (lock ? ALU_LMI : ALU_MI);
		d->out->fn = alu_table[k].fn[form][d->size];
		if ((m == ZYDIS_MNEMONIC_XOR || m == ZYDIS_MNEMONIC_SUB) && form == ALU_RR &&
		    d->size >= 2 && d->out->r1 == d->out->r2)
			d->out->fn = zero_32;
		return 1;
	}
	return 0;
}
