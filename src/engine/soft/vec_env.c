/* vec_env.c: the x87 environment: FNSTENV, FLDENV, FNSAVE, FRSTOR, FNINIT (SDM1 8.1.10). */
#include "engine/soft/vec.h"

#define ENV32	 28u
#define ENV16	 14u
#define ENV_REGS 80u

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, 2);
	return v;
}
static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}
static void put16(uint8_t *p, uint32_t v)
{
	uint16_t w = (uint16_t)v;

	memcpy(p, &w, 2);
}
static void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, 4);
}

void vec_x87_normalize(struct soft_cpu *cpu)
{
	uint8_t *fx = cpu->s.fpu.fx, keep[18];
	const uint32_t host_mxcsr = 0x1f80;

	/* The pointers do not survive on AMD's CPUs; Intel's extend the sign of FIP. */
	memcpy(keep, fx + X86_FX_FOP, sizeof(keep));
	__asm__ volatile("fxrstor64 (%0)\n\tfxsave64 (%0)\n\tfninit\n\tldmxcsr %1"
			 :
			 : "r"(fx), "m"(host_mxcsr)
			 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
			   "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	if (soft_amd(cpu))
		memcpy(fx + X86_FX_FOP, keep, sizeof(keep));
}

void vec_x87_init(struct soft_cpu *cpu)
{
	uint8_t *fx = cpu->s.fpu.fx;

	memset(fx, 0, X86_FX_MXCSR);
	memset(fx + VEC_FX_FCS, 0, 4);
	put16(fx + X86_FX_FCW, 0x37f);
}

/* The registers' slots, which are in order from TOP, rotate. */
void vec_x87_top_zero(struct soft_cpu *cpu)
{
	uint8_t *fx = cpu->s.fpu.fx, regs[8][16];
	unsigned top = (get16(fx + X86_FX_FSW) >> 11) & 7;

	if (!top)
		return;
	for (unsigned n = 0; n < 8; n++)
		memcpy(regs[n], fx + X86_FX_ST + ((n - top) & 7) * 16, 16);
	memcpy(fx + X86_FX_ST, regs, sizeof(regs));
	put16(fx + X86_FX_FSW, get16(fx + X86_FX_FSW) & ~0x3800u);
}

void vec_x87_enter_mmx(struct soft_cpu *cpu)
{
	vec_x87_top_zero(cpu);
	cpu->s.fpu.fx[X86_FX_FTW] = 0xff;
}

/* The full tag word from the abridged one and the registers. */
static uint16_t x87_tags(const uint8_t *fx)
{
	unsigned top = (get16(fx + X86_FX_FSW) >> 11) & 7, tags = 0;

	for (unsigned n = 0; n < 8; n++) {
		const uint8_t *r = fx + X86_FX_ST + ((n - top) & 7) * 16;
		unsigned exp = get16(r + 8) & 0x7fff, tag;
		uint64_t m;

		memcpy(&m, r, 8);
		if (!(fx[X86_FX_FTW] >> n & 1))
			tag = 3;
		else if (exp == 0 && m == 0)
			tag = 1;
		else
			tag = exp == 0 || exp == 0x7fff || !(m >> 63) ? 2 : 0;
		tags |= tag << (2 * n);
	}
	return (uint16_t)tags;
}

static void env_build(const struct soft_cpu *cpu, uint8_t *env, _Bool small)
{
	const uint8_t *fx = cpu->s.fpu.fx;
	uint32_t fip = get32(fx + X86_FX_FIP), fdp = get32(fx + X86_FX_FDP);
	uint32_t fop = get16(fx + X86_FX_FOP) & 0x7ff;
	uint32_t fcs = cpu->vec->no_selectors ? 0 : get16(fx + VEC_FX_FCS);
	uint32_t fds = cpu->vec->no_selectors ? 0 : get16(fx + VEC_FX_FDS);
	_Bool real = cpu->mode & SOFT_MODE_REAL;

	if (small) {
		put16(env, get16(fx + X86_FX_FCW));
		put16(env + 2, get16(fx + X86_FX_FSW));
		put16(env + 4, x87_tags(fx));
		put16(env + 6, fip);
		put16(env + 8, real ? fop | (fip >> 4 & 0xf000) : fcs);
		put16(env + 10, fdp);
		put16(env + 12, real ? fdp >> 4 & 0xf000 : fds);
		return;
	}
	put32(env, get16(fx + X86_FX_FCW) | 0xffff0000);
	put32(env + 4, get16(fx + X86_FX_FSW) | 0xffff0000);
	put32(env + 8, x87_tags(fx) | 0xffff0000);
	put32(env + 12, real ? (fip & 0xffff) | 0xffff0000 : fip);
	put32(env + 16, real ? fop | (fip >> 4 & 0x0ffff000) : fcs | fop << 16);
	put32(env + 20, real ? (fdp & 0xffff) | 0xffff0000 : fdp);
	put32(env + 24, real ? fdp >> 4 & 0x0ffff000 : fds | 0xffff0000);
}

static void env_apply(struct soft_cpu *cpu, const uint8_t *env, _Bool small)
{
	uint8_t *fx = cpu->s.fpu.fx;
	_Bool real = cpu->mode & SOFT_MODE_REAL;
	unsigned step = small ? 2 : 4;
	uint16_t tags = get16(env + 2 * step);
	uint64_t fip, fdp;
	uint32_t fop;

	if (small) {
		fip = get16(env + 6) | (real ? (uint32_t)(get16(env + 8) & 0xf000) << 4 : 0);
		fop = real ? get16(env + 8) : 0;
		fdp = get16(env + 10) | (real ? (uint32_t)(get16(env + 12) & 0xf000) << 4 : 0);
	} else if (real) {
		fip = get16(env + 12) | (get32(env + 16) & 0x0ffff000) << 4;
		fop = get32(env + 16);
		fdp = get16(env + 20) | (get32(env + 24) & 0x0ffff000) << 4;
	} else {
		fip = get32(env + 12);
		fop = get32(env + 16) >> 16;
		fdp = get32(env + 20);
	}
	put16(fx + VEC_FX_FCS, real ? 0 : get16(env + (small ? 8 : 16)));
	put16(fx + VEC_FX_FDS, real ? 0 : get16(env + (small ? 12 : 24)));
	put16(fx + X86_FX_FCW, get16(env));
	put16(fx + X86_FX_FSW, get16(env + step));
	fx[X86_FX_FTW] = 0;
	for (unsigned n = 0; n < 8; n++)
		fx[X86_FX_FTW] |= (uint8_t)(((tags >> (2 * n) & 3) != 3) << n);
	put16(fx + X86_FX_FOP, fop & 0x7ff);
	memcpy(fx + X86_FX_FIP, &fip, 8);
	memcpy(fx + X86_FX_FDP, &fdp, 8);
}

/* What is accessed first, then the end: as AMD's CPUs show in CR2. */
static void env_probe(struct soft_cpu *cpu, const struct insn *i, uint64_t lin, unsigned len,
		      _Bool write)
{
	unsigned word = i->aux & VEC_OPERAND16 ? 2 : 4;

	soft_align(cpu, i->seg, lin, word);
	soft_probe(cpu, i->seg, lin, word, write);
	soft_probe(cpu, i->seg, lin + len - 1, 1, write);
}

static void vec_fnstenv(struct soft_cpu *cpu, const struct insn *i)
{
	_Bool small = i->aux & VEC_OPERAND16;
	uint8_t env[ENV32], *fx = cpu->s.fpu.fx;
	unsigned len = small ? ENV16 : ENV32;
	uint64_t lin;

	vec_check(cpu, VEC_X87);
	env_build(cpu, env, small);
	lin = soft_lin(cpu, i, len, 1);
	env_probe(cpu, i, lin, len, 1);
	soft_store(cpu, i->seg, lin, env, len);
	put16(fx + X86_FX_FCW, get16(fx + X86_FX_FCW) | 0x3f);
	vec_x87_normalize(cpu);
}

static void vec_fnsave(struct soft_cpu *cpu, const struct insn *i)
{
	_Bool small = i->aux & VEC_OPERAND16;
	unsigned env = small ? ENV16 : ENV32;
	uint8_t image[ENV32 + ENV_REGS];
	uint64_t lin;

	vec_check(cpu, VEC_X87);
	env_build(cpu, image, small);
	for (unsigned n = 0; n < 8; n++)
		memcpy(image + env + n * 10, cpu->s.fpu.fx + X86_FX_ST + n * 16, 10);
	lin = soft_lin(cpu, i, env + ENV_REGS, 1);
	env_probe(cpu, i, lin, env + ENV_REGS, 1);
	soft_store(cpu, i->seg, lin, image, env + ENV_REGS);
	vec_x87_top_zero(cpu);
	vec_x87_init(cpu);
}

static void vec_fldenv(struct soft_cpu *cpu, const struct insn *i)
{
	_Bool small = i->aux & VEC_OPERAND16;
	unsigned len = small ? ENV16 : ENV32;
	uint8_t env[ENV32], *fx = cpu->s.fpu.fx, regs[8][16];
	unsigned top;
	uint64_t lin;

	vec_check(cpu, VEC_X87);
	vec_x87_check_pending(cpu);
	lin = soft_lin(cpu, i, len, 0);
	env_probe(cpu, i, lin, len, 0);
	soft_load(cpu, i->seg, lin, env, len);
	/* A new TOP renames the registers; they stay where they are. */
	top = (get16(fx + X86_FX_FSW) >> 11) & 7;
	for (unsigned n = 0; n < 8; n++)
		memcpy(regs[(n + top) & 7], fx + X86_FX_ST + n * 16, 16);
	env_apply(cpu, env, small);
	top = (get16(fx + X86_FX_FSW) >> 11) & 7;
	for (unsigned n = 0; n < 8; n++)
		memcpy(fx + X86_FX_ST + n * 16, regs[(n + top) & 7], 16);
	vec_x87_normalize(cpu);
}

static void vec_frstor(struct soft_cpu *cpu, const struct insn *i)
{
	_Bool small = i->aux & VEC_OPERAND16;
	unsigned env = small ? ENV16 : ENV32;
	uint8_t image[ENV32 + ENV_REGS];
	uint64_t lin;

	vec_check(cpu, VEC_X87);
	vec_x87_check_pending(cpu);
	lin = soft_lin(cpu, i, env + ENV_REGS, 0);
	env_probe(cpu, i, lin, env + ENV_REGS, 0);
	soft_load(cpu, i->seg, lin, image, env + ENV_REGS);
	env_apply(cpu, image, small);
	memset(cpu->s.fpu.fx + X86_FX_ST, 0, 128);
	for (unsigned n = 0; n < 8; n++)
		memcpy(cpu->s.fpu.fx + X86_FX_ST + n * 16, image + env + n * 10, 10);
	vec_x87_normalize(cpu);
}

static void vec_fninit(struct soft_cpu *cpu, const struct insn *i)
{
	vec_check(cpu, VEC_X87);
	vec_x87_top_zero(cpu);
	vec_x87_init(cpu);
}

_Bool vec_env_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		     struct insn *out)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_FNSTENV: out->fn = vec_fnstenv; break;
	case ZYDIS_MNEMONIC_FNSAVE: out->fn = vec_fnsave; break;
	case ZYDIS_MNEMONIC_FLDENV: out->fn = vec_fldenv; break;
	case ZYDIS_MNEMONIC_FRSTOR: out->fn = vec_frstor; break;
	case ZYDIS_MNEMONIC_FNINIT: out->fn = vec_fninit; return 1;
	default: return 0;
	}
	out->aux =
	    ops[0].size == ENV16 * 8 || ops[0].size == (ENV16 + ENV_REGS) * 8 ? VEC_OPERAND16 : 0;
	return 1;
}
