/* atomic.c: exchanges. On memory they run as the host's own locked instructions. */
#include "engine/soft/op.h"

#define XCHG(w)                                                                                    \
	static void xchg_rr_##w(struct soft_cpu *cpu, const struct insn *i)                        \
	{                                                                                          \
		uint##w##_t a = insn_gpr##w(cpu, i->r1), b = insn_gpr##w(cpu, i->r2);              \
		REG_SET_##w(cpu, i->r1, b);                                                        \
		REG_SET_##w(cpu, i->r2, a);                                                        \
	}                                                                                          \
	static void xchg_m_##w(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		soft_u##w *p = soft_rmw(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), w / 8, 1);        \
		uint##w##_t v = insn_gpr##w(cpu, i->r1);                                           \
		__asm__ volatile("xchg" SFX_##w " %0, %1" : "+r"(v), "+m"(*p) : : "memory");       \
		soft_rmw_done(cpu);                                                                \
		REG_SET_##w(cpu, i->r1, v);                                                        \
	}
XCHG(8)
XCHG(16)
XCHG(32)
XCHG(64)

#define XADD_MEM(form, lock, locked, w)                                                            \
	static void xadd_##form##_##w(struct soft_cpu *cpu, const struct insn *i)                  \
	{                                                                                          \
		soft_u##w *p = soft_rmw(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), w / 8, locked);   \
		uint##w##_t v = insn_gpr##w(cpu, i->r1);                                           \
		uint32_t af;                                                                       \
		__asm__ volatile(lock "xadd" SFX_##w " %0, %1" FLAGS_SAVE                          \
				 : "+r"(v), "+m"(*p), "=&a"(af)                                    \
				 :                                                                 \
				 : "cc", "memory");                                                \
		soft_rmw_done(cpu);                                                                \
		REG_SET_##w(cpu, i->r1, v);                                                        \
		cpu->af = af;                                                                      \
	}
#define XADD(w)                                                                                    \
	static void xadd_rr_##w(struct soft_cpu *cpu, const struct insn *i)                        \
	{                                                                                          \
		uint##w##_t d = insn_gpr##w(cpu, i->r1), s = insn_gpr##w(cpu, i->r2);              \
		uint32_t af;                                                                       \
		__asm__("xadd" SFX_##w " %1, %0" FLAGS_SAVE                                        \
			: "+r"(d), "+r"(s), "=&a"(af)                                              \
			:                                                                          \
			: "cc");                                                                   \
		REG_SET_##w(cpu, i->r2, s);                                                        \
		REG_SET_##w(cpu, i->r1, d);                                                        \
		cpu->af = af;                                                                      \
	}                                                                                          \
	XADD_MEM(m, "", 0, w)                                                                      \
	XADD_MEM(lm, "lock ", 1, w)
XADD(8)
XADD(16)
XADD(32)
XADD(64)

/* The accumulator and a register destination take whatever the host leaves in all 64 bits. */
#define CMPXCHG_MOD_8  "b"
#define CMPXCHG_MOD_16 "w"
#define CMPXCHG_MOD_32 "k"
#define CMPXCHG_MOD_64 "q"
#define CMPXCHG_MEM(form, lock, locked, w)                                                         \
	static void cmpxchg_##form##_##w(struct soft_cpu *cpu, const struct insn *i)               \
	{                                                                                          \
		soft_u##w *p = soft_rmw(cpu, i->seg, soft_lin(cpu, i, w / 8, 1), w / 8, locked);   \
		uint64_t a = cpu->s.gpr[X86_RAX];                                                  \
		uint##w##_t s = insn_gpr##w(cpu, i->r1);                                           \
		uint32_t af;                                                                       \
		__asm__ volatile("movq %0, %%rax\n\t" lock "cmpxchg" SFX_##w                       \
				 " %3, %1\n\tmovq %%rax, %0" FLAGS_SAVE "\n\tmovl %%eax, %2"       \
				 : "+&r"(a), "+m"(*p), "=&r"(af)                                   \
				 : "r"(s)                                                          \
				 : "rax", "cc", "memory");                                         \
		soft_rmw_done(cpu);                                                                \
		cpu->s.gpr[X86_RAX] = a;                                                           \
		cpu->af = af;                                                                      \
	}
#define CMPXCHG(w)                                                                                 \
	static void cmpxchg_rr_##w(struct soft_cpu *cpu, const struct insn *i)                     \
	{                                                                                          \
		uint64_t a = cpu->s.gpr[X86_RAX];                                                  \
		uint##w##_t s = insn_gpr##w(cpu, i->r2), *d8 = soft_reg(cpu, i->r1);               \
		uint64_t d = w == 8 ? *d8 : insn_gpr64(cpu, i->r1);                                \
		uint32_t af;                                                                       \
		__asm__("movq %0, %%rax\n\tcmpxchg" SFX_##w " %3, %" CMPXCHG_MOD_##w               \
			"1\n\tmovq %%rax, %0" FLAGS_SAVE "\n\tmovl %%eax, %2"                      \
			: "+&r"(a), "+&r"(d), "=&r"(af)                                            \
			: "r"(s)                                                                   \
			: "rax", "cc");                                                            \
		cpu->s.gpr[X86_RAX] = a;                                                           \
		if (w == 8)                                                                        \
			*d8 = (uint##w##_t)d;                                                      \
		else if (!(i->r1 == X86_RAX * 8 && !COND_ZF(af)))                                  \
			*(uint64_t *)soft_reg(cpu, i->r1) = d;                                     \
		cpu->af = af;                                                                      \
	}                                                                                          \
	CMPXCHG_MEM(m, "", 0, w)                                                                   \
	CMPXCHG_MEM(lm, "lock ", 1, w)
#define COND_ZF(af) ((af)&SOFT_AF_ZF)
CMPXCHG(8)
CMPXCHG(16)
CMPXCHG(32)
CMPXCHG(64)

/* CMPXCHG8B and 16B change ZF only. */
#define CMPXCHG2(name, op, w)                                                                      \
	static void name(struct soft_cpu *cpu, const struct insn *i)                               \
	{                                                                                          \
		uint64_t *g = cpu->s.gpr, lin = soft_lin(cpu, i, w / 4, 1);                        \
		if (w == 64 && (lin & 15))                                                         \
			soft_raise_err(cpu, X86_VEC_GP, 0);                                        \
		void *p = soft_rmw(cpu, i->seg, lin, w / 4, 1);                                    \
		uint##w##_t a = (uint##w##_t)g[X86_RAX], d = (uint##w##_t)g[X86_RDX];              \
		_Bool z;                                                                           \
		__asm__ volatile("lock " op " %3"                                                  \
				 : "=@ccz"(z), "+a"(a), "+d"(d), "+m"(*(uint8_t(*)[w / 4]) p)      \
				 : "b"((uint##w##_t)g[X86_RBX]), "c"((uint##w##_t)g[X86_RCX])      \
				 : "memory");                                                      \
		soft_rmw_done(cpu);                                                                \
		if (!z) {                                                                          \
			g[X86_RAX] = a;                                                            \
			g[X86_RDX] = d;                                                            \
		}                                                                                  \
		cpu->af = (cpu->af & ~SOFT_AF_ZF) | (z ? SOFT_AF_ZF : 0);                          \
	}
CMPXCHG2(cmpxchg8b, "cmpxchg8b", 32)
CMPXCHG2(cmpxchg16b, "cmpxchg16b", 64)

static insn_fn *const xchg_table[2][4] = {OP_NAMES(xchg_rr), OP_NAMES(xchg_m)};
static insn_fn *const xadd_table[3][4] = {OP_NAMES(xadd_rr), OP_NAMES(xadd_m), OP_NAMES(xadd_lm)};
static insn_fn *const cmpxchg_table[3][4] = {OP_NAMES(cmpxchg_rr), OP_NAMES(cmpxchg_m),
					     OP_NAMES(cmpxchg_lm)};

_Bool decode_atomic(struct soft_decode *d)
{
	struct insn *out = d->out;
	unsigned form = d->mem0 ? (out->flags & INSN_LOCK ? 2 : 1) : 0;

	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_XCHG:
		/* Zydis may name the memory operand first or second. */
		if (d->mem1)
			out->fn = xchg_table[1][d->size];
		else
			out->fn = xchg_table[d->mem0][d->size];
		return 1;
	case ZYDIS_MNEMONIC_XADD: out->fn = xadd_table[form][d->size]; return 1;
	case ZYDIS_MNEMONIC_CMPXCHG: out->fn = cmpxchg_table[form][d->size]; return 1;
	case ZYDIS_MNEMONIC_CMPXCHG8B: out->fn = cmpxchg8b; return 1;
	case ZYDIS_MNEMONIC_CMPXCHG16B: out->fn = cmpxchg16b; return 1;
	default: return 0;
	}
}
