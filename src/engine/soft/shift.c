/* shift.c: shifts and rotates by the host's instructions; a count of zero leaves the flags alone.
 */
#include "engine/soft/op.h"

#define SHIFT_DO(op, w, d, count, af)                                                              \
	__asm__(FLAGS_LOAD op SFX_##w " %%cl, %0" FLAGS_SAVE                                       \
		: "+r"(d), "+&a"(af)                                                               \
		: "c"(count)                                                                       \
		: "cc")
#define SHIFT_MASK(w) (w == 64 ? 63 : 31)

#define SHIFT_FORM(name, form, w, count_expr)                                                      \
	static void name##_r##form##_##w(struct soft_cpu *cpu, const struct insn *i)               \
	{                                                                                          \
		uint##w##_t d = insn_gpr##w(cpu, i->r1);                                           \
		uint8_t count = (uint8_t)(count_expr)&SHIFT_MASK(w);                               \
		uint32_t af = cpu->af;                                                             \
		if (count)                                                                         \
			SHIFT_DO(#name, w, d, count, af);                                          \
		REG_SET_##w(cpu, i->r1, d);                                                        \
		cpu->af = af;                                                                      \
	}                                                                                          \
	static void name##_m##form##_##w(struct soft_cpu *cpu, const struct insn *i)               \
	{                                                                                          \
		soft_u##w *p = soft_rmw(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), w / 8, 0);        \
		uint##w##_t d = *p;                                                                \
		uint8_t count = (uint8_t)(count_expr)&SHIFT_MASK(w);                               \
		uint32_t af = cpu->af;                                                             \
		if (count) {                                                                       \
			SHIFT_DO(#name, w, d, count, af);                                          \
			*p = d;                                                                    \
		}                                                                                  \
		soft_rmw_done(cpu);                                                                \
		cpu->af = af;                                                                      \
	}
#define SHIFT(name, w)                                                                             \
	SHIFT_FORM(name, i, w, i->imm)                                                             \
	SHIFT_FORM(name, c, w, cpu->s.gpr[X86_RCX])
OP_WIDTHS(SHIFT, shl)
OP_WIDTHS(SHIFT, shr)
OP_WIDTHS(SHIFT, sar)
OP_WIDTHS(SHIFT, rol)
OP_WIDTHS(SHIFT, ror)
OP_WIDTHS(SHIFT, rcl)
OP_WIDTHS(SHIFT, rcr)

/* By an immediate of more than 1, where OF is undefined: Intel's CPUs leave it alone in a
 * register's rotation, and there only. */
#define ROTATE(name, w)                                                                            \
	static void name##_rk_##w(struct soft_cpu *cpu, const struct insn *i)                      \
	{                                                                                          \
		uint32_t of = cpu->af & SOFT_AF_OF;                                                \
		name##_ri_##w(cpu, i);                                                             \
		if ((i->imm & SHIFT_MASK(w)) > 1)                                                  \
			cpu->af = (cpu->af & ~SOFT_AF_OF) | of;                                    \
	}
OP_WIDTHS(ROTATE, rol)
OP_WIDTHS(ROTATE, ror)

#define DOUBLE_DO(op, w, d, s, count, af)                                                          \
	__asm__(FLAGS_LOAD op SFX_##w " %%cl, %2, %0" FLAGS_SAVE                                   \
		: "+r"(d), "+&a"(af)                                                               \
		: "r"(s), "c"(count)                                                               \
		: "cc")
#define DOUBLE_FORM(name, form, w, count_expr)                                                     \
	static void name##_r##form##_##w(struct soft_cpu *cpu, const struct insn *i)               \
	{                                                                                          \
		uint##w##_t d = insn_gpr##w(cpu, i->r1), s = insn_gpr##w(cpu, i->r2);              \
		uint8_t count = (uint8_t)(count_expr)&SHIFT_MASK(w);                               \
		uint32_t af = cpu->af;                                                             \
		if (count)                                                                         \
			DOUBLE_DO(#name, w, d, s, count, af);                                      \
		REG_SET_##w(cpu, i->r1, d);                                                        \
		cpu->af = af;                                                                      \
	}                                                                                          \
	static void name##_m##form##_##w(struct soft_cpu *cpu, const struct insn *i)               \
	{                                                                                          \
		soft_u##w *p = soft_rmw(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), w / 8, 0);        \
		uint##w##_t d = *p, s = insn_gpr##w(cpu, i->r1);                                   \
		uint8_t count = (uint8_t)(count_expr)&SHIFT_MASK(w);                               \
		uint32_t af = cpu->af;                                                             \
		if (count) {                                                                       \
			DOUBLE_DO(#name, w, d, s, count, af);                                      \
			*p = d;                                                                    \
		}                                                                                  \
		soft_rmw_done(cpu);                                                                \
		cpu->af = af;                                                                      \
	}
#define DOUBLE(name, w)                                                                            \
	DOUBLE_FORM(name, i, w, i->imm)                                                            \
	DOUBLE_FORM(name, c, w, cpu->s.gpr[X86_RCX])
OP_WIDTHS_16(DOUBLE, shld)
OP_WIDTHS_16(DOUBLE, shrd)

#define SHIFT_ROW(m, name)                                                                         \
	{                                                                                          \
		ZYDIS_MNEMONIC_##m,                                                                \
		{                                                                                  \
			OP_NAMES(name##_ri), OP_NAMES(name##_rc), OP_NAMES(name##_mi),             \
			    OP_NAMES(name##_mc)                                                    \
		}                                                                                  \
	}
#define DOUBLE_ROW(m, name)                                                                        \
	{                                                                                          \
		ZYDIS_MNEMONIC_##m,                                                                \
		{                                                                                  \
			OP_NAMES_16(name##_ri), OP_NAMES_16(name##_rc), OP_NAMES_16(name##_mi),    \
			    OP_NAMES_16(name##_mc)                                                 \
		}                                                                                  \
	}
static const struct {
	ZydisMnemonic mnemonic;
	insn_fn *fn[4][4];
} shift_table[] = {
    SHIFT_ROW(SHL, shl), SHIFT_ROW(SHR, shr),	 SHIFT_ROW(SAR, sar),
    SHIFT_ROW(ROL, rol), SHIFT_ROW(ROR, ror),	 SHIFT_ROW(RCL, rcl),
    SHIFT_ROW(RCR, rcr), DOUBLE_ROW(SHLD, shld), DOUBLE_ROW(SHRD, shrd),
};

static insn_fn *rotate_of(const struct soft_decode *d)
{
	static insn_fn *const fn[2][4] = {OP_NAMES(rol_rk), OP_NAMES(ror_rk)};

	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_ROL: return fn[0][d->size];
	case ZYDIS_MNEMONIC_ROR: return fn[1][d->size];
	default: return NULL;
	}
}

_Bool decode_shift(struct soft_decode *d)
{
	const ZydisDecodedOperand *count = &d->op[d->zi->operand_count_visible - 1];

	for (unsigned k = 0; k < ARRAY_SIZE(shift_table); k++) {
		if (shift_table[k].mnemonic != d->zi->mnemonic)
			continue;
		_Bool by_cl = count->type == ZYDIS_OPERAND_TYPE_REGISTER;
		if (!by_cl)
			d->out->imm = count->imm.value.u;
		d->out->fn = shift_table[k].fn[(d->mem0 ? 2 : 0) + by_cl][d->size];
		if (!by_cl && !d->mem0 && !soft_amd(d->cpu) && rotate_of(d))
			d->out->fn = rotate_of(d);
		return 1;
	}
	return 0;
}
