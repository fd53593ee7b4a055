/* misc.c: flags, decimal arithmetic, ports, time stamps, random numbers, hints. */
#include <sched.h>
#include "engine/soft/op.h"
#include "engine/soft/io.h"
#include "engine/soft/system.h"

static void nop(struct soft_cpu *cpu, const struct insn *i)
{
}
/* A CPU that spins may be waiting for one that the host does not run now. */
static void pause_(struct soft_cpu *cpu, const struct insn *i)
{
	__builtin_ia32_pause();
	if (cpu->engine->cpus > 1 && !(cpu->pauses++ % PAUSE_YIELD))
		sched_yield();
}
/* F3 90 with REX.B is an exchange with R8 all the same. */
static void xchg_r8(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned r8 = 8 * X86_R8;
	uint64_t a = insn_gpr(cpu, 0, i->osize), b = insn_gpr(cpu, r8, i->osize);

	insn_gpr_set(cpu, 0, i->osize, b);
	insn_gpr_set(cpu, r8, i->osize, a);
}
static void mfence(struct soft_cpu *cpu, const struct insn *i)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
/* CLFLUSH and friends are checked like a load of a byte; caches need nothing here. */
static void clflush(struct soft_cpu *cpu, const struct insn *i)
{
	soft_probe(cpu, i->seg, soft_lin(cpu, i, 1, 0), 1, 0);
}

static void clc(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->af &= ~SOFT_AF_CF;
}
static void stc(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->af |= SOFT_AF_CF;
}
static void cmc(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->af ^= SOFT_AF_CF;
}
static void cld(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->s.rflags &= ~(uint64_t)X86_DF;
}
static void std(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->s.rflags |= X86_DF;
}
static void lahf(struct soft_cpu *cpu, const struct insn *i)
{
	*(uint8_t *)soft_reg(cpu, 1) = (uint8_t)(soft_af_to(cpu->af) | X86_FIXED);
}
static void sahf(struct soft_cpu *cpu, const struct insn *i)
{
	cpu->af = (cpu->af & SOFT_AF_OF) | (uint32_t)(*(uint8_t *)soft_reg(cpu, 1) & 0xd5) << 8;
}
static void salc(struct soft_cpu *cpu, const struct insn *i)
{
	REG_SET_8(cpu, 0, cpu->af & SOFT_AF_CF ? 0xff : 0);
}
static void xlat(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t ea = cpu->s.gpr[X86_RBX] + (uint8_t)cpu->s.gpr[X86_RAX];

	ea &= size_mask(i->asize);
	REG_SET_8(cpu, 0, soft_read8(cpu, i->seg, soft_seg_lin(cpu, i->seg, ea, 1, 0)));
}

/* Decimal arithmetic (SDM2): flags that are not said to be undefined come from the rules given, the
 * others as the vendor's CPUs leave them (the instructions cannot be executed in 64-bit mode to
 * see): Intel's clear OF. */
static uint32_t result_flags(uint8_t v)
{
	return soft_af_of((v ? 0 : X86_ZF) | (v & 0x80 ? X86_SF : 0) |
			  (__builtin_parity(v) ? 0 : X86_PF));
}
static void daa_das(struct soft_cpu *cpu, _Bool sub)
{
	uint8_t old = (uint8_t)cpu->s.gpr[X86_RAX], fix = 0;
	_Bool cf = !!(cpu->af & SOFT_AF_CF), af = !!(cpu->af & SOFT_AF_AF), carry = 0;
	uint32_t flags;

	if ((old & 15) > 9 || af) {
		carry = cf || (sub ? old < 6 : old > 0xf9);
		fix = 6;
		af = 1;
	}
	if (old > 0x99 || cf) {
		fix = (uint8_t)(fix + 0x60);
		carry = 1;
	}
	uint8_t al = (uint8_t)(sub ? old - fix : old + fix);
	flags = result_flags(al) | (carry ? SOFT_AF_CF : 0) | (af ? SOFT_AF_AF : 0);
	if (soft_amd(cpu) && (sub ? (old ^ fix) & (old ^ al) : ~(old ^ fix) & (old ^ al)) & 0x80)
		flags |= SOFT_AF_OF;
	REG_SET_8(cpu, 0, al);
	cpu->af = flags;
}
static void daa(struct soft_cpu *cpu, const struct insn *i)
{
	daa_das(cpu, 0);
}
static void das(struct soft_cpu *cpu, const struct insn *i)
{
	daa_das(cpu, 1);
}
static void aaa_aas(struct soft_cpu *cpu, _Bool sub)
{
	uint16_t old = (uint16_t)cpu->s.gpr[X86_RAX], fix = 0, ax;

	if ((old & 15) > 9 || (cpu->af & SOFT_AF_AF))
		fix = 0x106;
	ax = (uint16_t)(sub ? old - fix : old + fix);
	/* Undefined: on Intel's CPUs those of AL at the end, on AMD's those of the 16-bit sum
	 * before its high digit goes. */
	uint32_t flags = result_flags(ax & 15);
	if (soft_amd(cpu)) {
		flags = (result_flags((uint8_t)ax) & SOFT_AF_PF) | (ax ? 0 : SOFT_AF_ZF) |
			(ax & 0x8000 ? SOFT_AF_SF : 0);
		if ((sub ? (old ^ fix) & (old ^ ax) : ~(old ^ fix) & (old ^ ax)) & 0x8000)
			flags |= SOFT_AF_OF;
	}
	cpu->af = flags | (fix ? SOFT_AF_CF | SOFT_AF_AF : 0);
	REG_SET_16(cpu, 0, ax & 0xff0f);
}
static void aaa(struct soft_cpu *cpu, const struct insn *i)
{
	aaa_aas(cpu, 0);
}
static void aas(struct soft_cpu *cpu, const struct insn *i)
{
	aaa_aas(cpu, 1);
}
static void aam(struct soft_cpu *cpu, const struct insn *i)
{
	uint8_t base = (uint8_t)i->imm, al = (uint8_t)cpu->s.gpr[X86_RAX];

	if (!base)
		soft_raise(cpu, X86_VEC_DE);
	REG_SET_16(cpu, 0, (al / base) << 8 | al % base);
	cpu->af = result_flags(al % base);
}
/* The flags are those of the addition. */
static void aad(struct soft_cpu *cpu, const struct insn *i)
{
	uint16_t ax = (uint16_t)cpu->s.gpr[X86_RAX];
	uint8_t low = (uint8_t)ax, high = (uint8_t)((ax >> 8) * (uint8_t)i->imm);
	uint8_t al = (uint8_t)(low + high);
	uint32_t flags = result_flags(al);

	if (al < low)
		flags |= SOFT_AF_CF;
	if ((low ^ high ^ al) & 0x10)
		flags |= SOFT_AF_AF;
	if (~(low ^ high) & (low ^ al) & 0x80)
		flags |= SOFT_AF_OF;
	REG_SET_16(cpu, 0, al);
	cpu->af = flags;
}

/* Ports: r1 unused, the size is in aux, the port in imm or DX. */
static void in(struct soft_cpu *cpu, const struct insn *i, uint16_t port)
{
	sys_io_check(cpu, port, i->aux);
	soft_io_breakpoint(cpu, port, i->aux);
	cpu->stats.ports++;
	insn_gpr_set(cpu, 0, i->aux, soft_port_read(cpu, port, i->aux));
}
static void out(struct soft_cpu *cpu, const struct insn *i, uint16_t port)
{
	sys_io_check(cpu, port, i->aux);
	soft_io_breakpoint(cpu, port, i->aux);
	cpu->stats.ports++;
	soft_port_write(cpu, port, i->aux, cpu->s.gpr[X86_RAX] & size_mask(i->aux));
}
static void in_i(struct soft_cpu *cpu, const struct insn *i)
{
	in(cpu, i, (uint8_t)i->imm);
}
static void in_dx(struct soft_cpu *cpu, const struct insn *i)
{
	in(cpu, i, (uint16_t)cpu->s.gpr[X86_RDX]);
}
static void out_i(struct soft_cpu *cpu, const struct insn *i)
{
	out(cpu, i, (uint8_t)i->imm);
}
static void out_dx(struct soft_cpu *cpu, const struct insn *i)
{
	out(cpu, i, (uint16_t)cpu->s.gpr[X86_RDX]);
}

static void tsc_check(struct soft_cpu *cpu)
{
	if ((cpu->s.cr4 & X86_CR4_TSD) && cpu->cpl)
		soft_raise_err(cpu, X86_VEC_GP, 0);
}
static void rdtsc(struct soft_cpu *cpu, const struct insn *i)
{
	tsc_check(cpu);
	uint64_t tsc = soft_tsc(cpu);
	cpu->s.gpr[X86_RAX] = (uint32_t)tsc;
	cpu->s.gpr[X86_RDX] = tsc >> 32;
}
static void rdtscp(struct soft_cpu *cpu, const struct insn *i)
{
	rdtsc(cpu, i);
	cpu->s.gpr[X86_RCX] = (uint32_t)cpu->s.tsc_aux;
}
static void rdpid(struct soft_cpu *cpu, const struct insn *i)
{
	*(uint64_t *)soft_reg(cpu, i->r1) = cpu->s.tsc_aux;
}

#define RANDOM(name, w)                                                                            \
	static void name##_##w(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		_Bool seed = sizeof(#name) == sizeof("rdseed") && #name[2] == 's';                 \
		uint64_t v = soft_random(cpu, seed, w / 8, &cpu->af);                              \
		REG_SET_##w(cpu, i->r1, (uint##w##_t)v);                                           \
	}
OP_WIDTHS_16(RANDOM, rdrand)
OP_WIDTHS_16(RANDOM, rdseed)
static insn_fn *const rdrand_table[4] = OP_NAMES_16(rdrand);
static insn_fn *const rdseed_table[4] = OP_NAMES_16(rdseed);

static const struct {
	ZydisMnemonic mnemonic;
	insn_fn *fn;
	uint16_t flags;
} misc_table[] = {
    {ZYDIS_MNEMONIC_NOP, nop, 0},
    {ZYDIS_MNEMONIC_PAUSE, pause_, INSN_END},
    {ZYDIS_MNEMONIC_MFENCE, mfence, 0},
    {ZYDIS_MNEMONIC_LFENCE, nop, 0},
    {ZYDIS_MNEMONIC_SFENCE, nop, 0},
    {ZYDIS_MNEMONIC_PREFETCH, nop, 0},
    {ZYDIS_MNEMONIC_PREFETCHW, nop, 0},
    {ZYDIS_MNEMONIC_PREFETCHWT1, nop, 0},
    {ZYDIS_MNEMONIC_PREFETCHNTA, nop, 0},
    {ZYDIS_MNEMONIC_PREFETCHT0, nop, 0},
    {ZYDIS_MNEMONIC_PREFETCHT1, nop, 0},
    {ZYDIS_MNEMONIC_PREFETCHT2, nop, 0},
    {ZYDIS_MNEMONIC_CLFLUSH, clflush, 0},
    {ZYDIS_MNEMONIC_CLFLUSHOPT, clflush, 0},
    {ZYDIS_MNEMONIC_CLWB, clflush, 0},
    {ZYDIS_MNEMONIC_CLC, clc, 0},
    {ZYDIS_MNEMONIC_STC, stc, 0},
    {ZYDIS_MNEMONIC_CMC, cmc, 0},
    {ZYDIS_MNEMONIC_CLD, cld, 0},
    {ZYDIS_MNEMONIC_STD, std, 0},
    {ZYDIS_MNEMONIC_LAHF, lahf, 0},
    {ZYDIS_MNEMONIC_SAHF, sahf, 0},
    {ZYDIS_MNEMONIC_SALC, salc, 0},
    {ZYDIS_MNEMONIC_XLAT, xlat, 0},
    {ZYDIS_MNEMONIC_DAA, daa, 0},
    {ZYDIS_MNEMONIC_DAS, das, 0},
    {ZYDIS_MNEMONIC_AAA, aaa, 0},
    {ZYDIS_MNEMONIC_AAS, aas, 0},
    {ZYDIS_MNEMONIC_AAM, aam, 0},
    {ZYDIS_MNEMONIC_AAD, aad, 0},
    {ZYDIS_MNEMONIC_RDTSC, rdtsc, INSN_END},
    {ZYDIS_MNEMONIC_RDTSCP, rdtscp, INSN_END},
    {ZYDIS_MNEMONIC_RDPID, rdpid, 0},
    {ZYDIS_MNEMONIC_UD0, op_ud, INSN_BRANCH | INSN_STATE},
    {ZYDIS_MNEMONIC_UD1, op_ud, INSN_BRANCH | INSN_STATE},
    {ZYDIS_MNEMONIC_UD2, op_ud, INSN_BRANCH | INSN_STATE},
};

static _Bool decode_port(struct soft_decode *d, unsigned value, insn_fn *imm, insn_fn *dx)
{
	_Bool by_imm = d->op[1 - value].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	d->out->aux = d->op[value].size / 8;
	if (by_imm)
		d->out->imm = d->op[1 - value].imm.value.u;
	d->out->fn = by_imm ? imm : dx;
	d->out->flags |= INSN_END;
	return 1;
}

_Bool decode_misc(struct soft_decode *d)
{
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_IN: return decode_port(d, 0, in_i, in_dx);
	case ZYDIS_MNEMONIC_OUT: return decode_port(d, 1, out_i, out_dx);
	case ZYDIS_MNEMONIC_RDRAND: d->out->fn = rdrand_table[d->size]; return 1;
	case ZYDIS_MNEMONIC_RDSEED: d->out->fn = rdseed_table[d->size]; return 1;
	/* With REX.B XCHG R8, but for Intel's CPUs. */
	case ZYDIS_MNEMONIC_PAUSE:
		if (d->zi->raw.rex.B && soft_amd(d->cpu)) {
			d->out->fn = xchg_r8;
			return 1;
		}
		break;
	/* PREFETCHW's code with a register: reserved on AMD's CPUs. */
	case ZYDIS_MNEMONIC_NOP:
		if (d->zi->opcode_map == ZYDIS_OPCODE_MAP_0F && d->zi->opcode == 0x0d &&
		    d->cpu->base.engine->env->cpuid->amd) {
			d->out->fn = op_ud;
			return 1;
		}
		break;
	default: break;
	}
	for (unsigned k = 0; k < ARRAY_SIZE(misc_table); k++) {
		if (misc_table[k].mnemonic != d->zi->mnemonic)
			continue;
		d->out->fn = misc_table[k].fn;
		d->out->flags |= misc_table[k].flags;
		return 1;
	}
	return 0;
}
