/* generate.c: random states and instructions that user code may execute on any host alike. */
#include "randinsn.h"

#include <string.h>
#include "x86/regs.h"
#include "x86/state.h"

/*
 * Instructions are sampled from the opcode space itself: random prefixes, map, opcode, ModRM and
 * immediates, with memory operands that mostly point into the data page. What the decoder knows and
 * `allowed` lets through is kept. So every encoding of every instruction has its turn.
 */

struct gen {
	struct ri_random r;
	struct ri_case *c;
	ZydisDecoder decoder;
	unsigned pointers; /* registers that point into the data at the start */
	unsigned small;	   /* ... that hold small numbers */
	/* VZEROALL and XSAVE in one case would show how a CPU comes to know that its registers are
	 * in their initial state, which is its own business (SDM1 13.6); so would VZEROUPPER in
	 * 32-bit code, of which Intel's CPUs learn nothing, as it leaves the other 8 registers
	 * alone. */
	_Bool zeroall, xsave;
	_Bool program;
	/* In some programs most operands are reached through one register, around its page's ends.
	 */
	unsigned hot; /* its number and 1, or 0 */
};

void ri_decoder(ZydisDecoder *decoder, _Bool mode32)
{
	ZydisDecoderInit(decoder,
			 mode32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
			 mode32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES,
			       __builtin_cpu_is("amd") ? ZYAN_TRUE : ZYAN_FALSE);
}

/* States */

static uint64_t special(struct ri_random *r)
{
	static const uint64_t table[] = {
	    0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
	    0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0x100000000,
	    /* floats: 1.0f, inf, denormal, quiet and signalling NaN; doubles likewise */
	    0x3f8000003f800000, 0x7f8000007f800000, 0x0000000100000001, 0x7fc000007fc00000,
	    0x7fa000017fa00001, 0x8000000080000000, 0xff800000bf800000, 0x3ff0000000000000,
	    0x7ff0000000000000, 0x000fffffffffffff, 0x7ff8000000000000, 0x7ff4000000000000,
	    0xbff8000000000000, 0x4330000000000001, 0x41dfffffffc00000};

	return table[ri_below(r, ARRAY_SIZE(table))];
}

static uint64_t value(struct ri_random *r)
{
	switch (ri_below(r, 4)) {
	case 0: return special(r);
	case 1: return ri_next(r) & 0xff;
	default: return ri_next(r);
	}
}

/* Number-like bits: a plain float or double half of the time. */
static uint64_t number(struct ri_random *r)
{
	double d = (double)(int64_t)(ri_next(r) >> 40) / 1024.0 - 4096.0;
	float f[2] = {(float)d, (float)(d * 3 + 1)};
	uint64_t v;

	switch (ri_below(r, 4)) {
	case 0: memcpy(&v, &d, 8); return v;
	case 1: memcpy(&v, f, 8); return v;
	default: return value(r);
	}
}

static uint64_t pointer(struct ri_random *r, _Bool program)
{
	unsigned at = ri_below(r, RI_PAGE - 512) + 256;

	switch (ri_below(r, 8)) {
	case 0: return RI_DATA + at;
	case 4:
	case 5:
		if (!program)
			return RI_DATA + (at & ~63u);
		return RI_DATA + RI_PAGE - ri_below(r, 48);
	case 6:
		if (!program)
			return RI_DATA + (at & ~63u);
		return RI_CONST + (ri_chance(r, 50) ? RI_PAGE : 0) - ri_below(r, 64) + 32;
	case 1: return RI_DATA + (ri_chance(r, 50) ? ri_below(r, 64) : RI_PAGE - ri_below(r, 64));
	case 2: return RI_CONST + at;
	default: return RI_DATA + (at & ~63u);
	}
}

static void make_x87(struct gen *g)
{
	uint8_t *fx = g->c->state.fx;
	struct ri_random *r = &g->r;
	uint16_t fcw = 0x37f, fsw = 0;
	uint32_t mxcsr = 0x1f80;

	if (ri_chance(r, 30))
		fcw = (uint16_t)((ri_next(r) & 0xf00) | 0x40 |
				 (ri_chance(r, 50) ? 0x3f : ri_next(r) & 0x3f));
	if (ri_chance(r, 50))
		fsw = (uint16_t)(ri_next(r) & 0x7f00);
	if (ri_chance(r, 20))
		fsw |= (uint16_t)(ri_next(r) & (ri_chance(r, 20) ? 0x7f : fcw & 0x3f));
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	if (ri_chance(r, 25))
		mxcsr = (uint32_t)(ri_next(r) & 0xe07f) |
			(ri_chance(r, 60) ? 0x1f80 : ri_next(r) & 0x1f80);
	memcpy(fx + X86_FX_FCW, &fcw, 2);
	memcpy(fx + X86_FX_FSW, &fsw, 2);
	memcpy(fx + X86_FX_MXCSR, &mxcsr, 4);
	fx[X86_FX_FTW] =
	    ri_chance(r, 50) ? (uint8_t)ri_next(r) : (uint8_t)(0xff00 >> ri_below(r, 9));
	for (unsigned i = 0; i < 8; i++) {
		uint64_t m = value(r);
		uint16_t e = (uint16_t)(ri_chance(r, 70) ? 0x3fff + ri_below(r, 80) - 40
							 : (unsigned)ri_next(r));

		if (ri_chance(r, 80))
			m |= BIT64(63);
		if (ri_chance(r, 10))
			m = e = 0;
		if (ri_chance(r, 10))
			e = (uint16_t)(0x7fff | (ri_next(r) & 0x8000));
		memcpy(fx + X86_FX_ST + i * 16, &m, 8);
		memcpy(fx + X86_FX_ST + i * 16 + 8, &e, 2);
	}
}

/* Indexes of gathers are mostly small. */
static void make_avx512(struct gen *g)
{
	struct ri_state *s = &g->c->state;
	struct ri_random *r = &g->r;

	for (unsigned i = 0; i < 32; i++) {
		unsigned from = i < 16 ? 4 : 0;
		_Bool index = ri_chance(r, 25);

		for (unsigned k = from; k < 8 && (!g->c->mode32 || i < 8); k++) {
			uint64_t v =
			    index ? (uint64_t)ri_below(r, 512) << 32 | ri_below(r, 512) : number(r);

			memcpy(s->vec[i] + k * 8, &v, 8);
		}
	}
	for (unsigned i = 0; i < 8; i++) {
		unsigned kind = ri_below(r, 4);

		s->k[i] = kind == 0   ? ri_next(r)
			  : kind == 1 ? ri_next(r) & ri_next(r) & ri_next(r)
			  : kind == 2 ? UINT64_MAX << ri_below(r, 64)
				      : BIT64(ri_below(r, 64)) | special(r);
	}
}

static void make_state(struct gen *g)
{
	struct ri_state *s = &g->c->state;
	struct ri_random *r = &g->r;

	for (unsigned i = 0; i < 16; i++) {
		unsigned kind = ri_below(r, 100);

		if (i == X86_RSP || kind < 40) {
			s->gpr[i] = pointer(r, g->program);
			g->pointers |= 1u << i;
		} else if (kind < 65) {
			s->gpr[i] = ri_below(r, 64);
			g->small |= 1u << i;
		} else {
			s->gpr[i] = value(r);
		}
		if (g->c->mode32)
			s->gpr[i] = i < 8 ? (uint32_t)s->gpr[i] : 0;
	}
	if (ri_chance(r, 90))
		s->gpr[X86_RSP] = RI_DATA + 1024 + 16 * ri_below(r, 128);
	g->c->start = RI_START;
	if (g->program && ri_chance(r, 40))
		g->c->start = RI_PAGE - ri_below(r, 100);
	s->rip = RI_CODE + g->c->start;
	s->rflags = X86_FIXED | X86_IF | (ri_next(r) & X86_ARITH);
	if (ri_chance(r, 20))
		s->rflags |= X86_DF;
	if (ri_chance(r, 3))
		s->rflags |= X86_AC;
	if (ri_chance(r, 1))
		s->rflags |= X86_TF;
	for (unsigned i = 0; i < 16; i++) {
		for (unsigned k = 0; k < 4; k++) {
			uint64_t v = number(r);

			if (!g->c->mode32 || i < 8)
				memcpy(s->vec[i] + k * 8, &v, 8);
		}
	}
	make_x87(g);
	for (unsigned i = 0; i < RI_PAGE; i += 8) {
		uint64_t v = i % 64 ? number(r) : ri_next(r);

		memcpy(g->c->data + i, &v, 8);
	}
	if (g->c->avx512)
		make_avx512(g);
}

/* Instructions */

/* Sets that the interpreter offers whatever the host is, or that the host has been asked for by the
 * policy. */
static _Bool allowed_set(ZydisISASet set, _Bool avx512)
{
	static const uint8_t table[] = {
	    ZYDIS_ISA_SET_I86,	     ZYDIS_ISA_SET_I186,	 ZYDIS_ISA_SET_I386,
	    ZYDIS_ISA_SET_I486,	     ZYDIS_ISA_SET_I486REAL,	 ZYDIS_ISA_SET_PENTIUMREAL,
	    ZYDIS_ISA_SET_PPRO,	     ZYDIS_ISA_SET_CMOV,	 ZYDIS_ISA_SET_LONGMODE,
	    ZYDIS_ISA_SET_LAHF,	     ZYDIS_ISA_SET_FAT_NOP,	 ZYDIS_ISA_SET_PREFETCH_NOP,
	    ZYDIS_ISA_SET_PAUSE,     ZYDIS_ISA_SET_CMPXCHG16B,	 ZYDIS_ISA_SET_CLFSH,
	    ZYDIS_ISA_SET_X87,	     ZYDIS_ISA_SET_FCMOV,	 ZYDIS_ISA_SET_PENTIUMMMX,
	    ZYDIS_ISA_SET_FXSAVE,    ZYDIS_ISA_SET_FXSAVE64,	 ZYDIS_ISA_SET_SSE,
	    ZYDIS_ISA_SET_SSEMXCSR,  ZYDIS_ISA_SET_SSE_PREFETCH, ZYDIS_ISA_SET_SSE2,
	    ZYDIS_ISA_SET_SSE2MMX,   ZYDIS_ISA_SET_SSE3,	 ZYDIS_ISA_SET_SSE3X87,
	    ZYDIS_ISA_SET_PCLMULQDQ, ZYDIS_ISA_SET_SSSE3,	 ZYDIS_ISA_SET_SSSE3MMX,
	    ZYDIS_ISA_SET_FMA,	     ZYDIS_ISA_SET_SSE4,	 ZYDIS_ISA_SET_SSE42,
	    ZYDIS_ISA_SET_MOVBE,     ZYDIS_ISA_SET_POPCNT,	 ZYDIS_ISA_SET_AES,
	    ZYDIS_ISA_SET_AVXAES,    ZYDIS_ISA_SET_AVX,		 ZYDIS_ISA_SET_F16C,
	    ZYDIS_ISA_SET_BMI1,	     ZYDIS_ISA_SET_AVX2,	 ZYDIS_ISA_SET_AVX2GATHER,
	    ZYDIS_ISA_SET_BMI2,	     ZYDIS_ISA_SET_ADOX_ADCX,	 ZYDIS_ISA_SET_SHA,
	    ZYDIS_ISA_SET_LZCNT};
	static const struct {
		uint8_t first, last;
	} wide[] = {{ZYDIS_ISA_SET_AVX512BW_128, ZYDIS_ISA_SET_AVX512DQ_SCALAR},
		    {ZYDIS_ISA_SET_AVX512F_128, ZYDIS_ISA_SET_AVX512F_SCALAR},
		    {ZYDIS_ISA_SET_AVX512_BF16_128, ZYDIS_ISA_SET_AVX512_BITALG_512},
		    {ZYDIS_ISA_SET_AVX512_GFNI_128, ZYDIS_ISA_SET_AVX512_VNNI_512},
		    {ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128, ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512},
		    {ZYDIS_ISA_SET_AVX_GFNI, ZYDIS_ISA_SET_AVX_GFNI},
		    {ZYDIS_ISA_SET_GFNI, ZYDIS_ISA_SET_GFNI},
		    {ZYDIS_ISA_SET_VAES, ZYDIS_ISA_SET_VAES},
		    {ZYDIS_ISA_SET_VPCLMULQDQ, ZYDIS_ISA_SET_VPCLMULQDQ}};

	for (size_t i = 0; i < sizeof(table); i++) {
		if (table[i] == set)
			return 1;
	}
	for (size_t i = 0; avx512 && i < ARRAY_SIZE(wide); i++) {
		if (set >= wide[i].first && set <= wide[i].last)
			return 1;
	}
	return 0;
}

static _Bool allowed_mnemonic(ZydisMnemonic m)
{
	switch (m) {
	/* What differs between any two CPUs, or between a process and a bare guest. */
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_ARPL:
	/* Would go on in the kernel or with other flags than a signal frame can carry. */
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1: /* hypervisors under the host get its RIP wrong */
	/* Load segment registers from a descriptor table that is not the same. */
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ: return 0;
	default: return 1;
	}
}

static _Bool allowed_operands(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < zi->operand_count; i++) {
		const ZydisDecodedOperand *op = &ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_POINTER)
			return 0;
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_SEGMENT &&
		    (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return 0;
		/* FS is the host's thread pointer. */
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.segment == ZYDIS_REGISTER_FS)
			return 0;
	}
	return 1;
}

static _Bool allowed(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		     _Bool avx512)
{
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
	    zi->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return 0;
	if (!allowed_set(zi->meta.isa_set, avx512) || !allowed_mnemonic(zi->mnemonic))
		return 0;
	switch (zi->meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_UNCOND_BR:
		/* Relative ones are made by make_branch. */
		if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ||
		    (ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[0].imm.is_relative))
			return 0;
		break;
	case ZYDIS_CATEGORY_COND_BR: return 0;
	default: break;
	}
	return allowed_operands(zi, ops);
}

static unsigned pick(struct gen *g, unsigned mask, unsigned limit)
{
	unsigned n;

	for (unsigned tries = 0; tries < 64; tries++) {
		n = ri_below(&g->r, limit);
		if (mask >> n & 1)
			return n;
	}
	return X86_RBX;
}

struct prefix {
	_Bool rex, w, r, x, b; /* what REX or VEX carries */
	uint8_t modrm[7], len; /* ModRM, SIB, displacement */
};

static void put_disp(struct gen *g, struct prefix *p, unsigned bytes, uint32_t v)
{
	memcpy(p->modrm + p->len, &v, bytes);
	p->len = (uint8_t)(p->len + bytes);
}

/* A memory operand: mostly a pointer with a small displacement. `vsib`: a vector is the index. */
static void make_memory(struct gen *g, struct prefix *p, unsigned reg, _Bool vsib)
{
	unsigned limit = g->c->mode32 ? 8 : 16, base = pick(g, g->pointers, limit), index = 4;
	unsigned mod = ri_below(&g->r, 3), kind = ri_below(&g->r, 100);
	uint32_t disp = (uint32_t)ri_below(&g->r, 48) - 16;

	if (ri_chance(&g->r, 70))
		disp &= ~15u;
	p->len = 1;
	if (kind < 5 && !vsib) { /* RIP-relative, or absolute in 32-bit code */
		p->modrm[0] = (uint8_t)(reg << 3 | 5);
		put_disp(g, p, 4,
			 g->c->mode32 ? (uint32_t)RI_DATA + ri_below(&g->r, RI_PAGE)
				      : (uint32_t)(RI_DATA - RI_CODE - RI_START) +
					    ri_below(&g->r, RI_PAGE) / 16 * 16);
		return;
	}
	if (kind < 8)
		base = ri_below(&g->r, limit);
	else if (g->hot && ri_chance(&g->r, 70)) {
		base = g->hot - 1;
		if (ri_chance(&g->r, 40))
			disp = mod == 2 && ri_chance(&g->r, 50)
				   ? (uint32_t)(ri_below(&g->r, 2 * RI_PAGE) - RI_PAGE)
				   : (uint32_t)ri_below(&g->r, 256) - 128;
	}
	if (mod == 0 && (base & 7) == 5)
		mod = 1;
	if (vsib || (base & 7) == 4 || kind < 30) {
		if (vsib || kind < 20)
			index = vsib ? ri_below(&g->r, limit) : pick(g, g->small, limit);
		p->x = index >> 3;
		p->modrm[0] = (uint8_t)(mod << 6 | reg << 3 | 4);
		p->modrm[p->len++] =
		    (uint8_t)(ri_below(&g->r, vsib ? 2 : 4) << 6 | (index & 7) << 3 | (base & 7));
	} else {
		p->modrm[0] = (uint8_t)(mod << 6 | reg << 3 | (base & 7));
	}
	p->b = base >> 3;
	if (mod == 1)
		put_disp(g, p, 1, disp);
	else if (mod == 2)
		put_disp(g, p, 4, disp);
}

static void make_modrm(struct gen *g, struct prefix *p, _Bool vsib)
{
	unsigned reg = ri_below(&g->r, 8);

	memset(p, 0, sizeof(*p));
	if (ri_chance(&g->r, 50) && !vsib) {
		p->modrm[0] = (uint8_t)(0xc0 | reg << 3 | ri_below(&g->r, 8));
		p->len = 1;
		p->b = ri_chance(&g->r, 40);
	} else {
		make_memory(g, p, reg, vsib);
	}
	p->r = ri_chance(&g->r, 40);
	p->w = ri_chance(&g->r, 40);
	p->rex = p->r || p->b || p->x || p->w || ri_chance(&g->r, 10);
}

static uint8_t *put_legacy(struct gen *g, uint8_t *out, const struct prefix *p, unsigned map)
{
	static const uint8_t mandatory[] = {0x66, 0xf2, 0xf3};
	_Bool sse = map != 0;

	if (ri_chance(&g->r, 4))
		*out++ = 0xf0;
	if (ri_chance(&g->r, sse ? 60 : 20))
		*out++ = mandatory[ri_below(&g->r, sse || ri_chance(&g->r, 30) ? 3 : 1)];
	if (ri_chance(&g->r, 4))
		*out++ = mandatory[ri_below(&g->r, 3)];
	if (ri_chance(&g->r, 3))
		*out++ = ri_chance(&g->r, 50) ? 0x67 : ri_chance(&g->r, 50) ? 0x3e : 0x65;
	if (p->rex && !g->c->mode32)
		*out++ = (uint8_t)(0x40 | p->w << 3 | p->r << 2 | p->x << 1 | p->b);
	if (map)
		*out++ = 0x0f;
	if (map == 2)
		*out++ = 0x38;
	if (map == 3)
		*out++ = 0x3a;
	*out++ = map == 0 && ri_chance(&g->r, 25) ? (uint8_t)(0xd8 + ri_below(&g->r, 8))
						  : (uint8_t)ri_next(&g->r);
	return out;
}

static uint8_t *put_vex(struct gen *g, uint8_t *out, const struct prefix *p, _Bool vsib)
{
	unsigned map = vsib ? 2 : 1 + ri_below(&g->r, 3);
	_Bool m32 = g->c->mode32;

	*out++ = 0xc4;
	*out++ = (uint8_t)((p->r && !m32 ? 0 : 0x80) | (p->x && !m32 ? 0 : 0x40) |
			   (p->b && !m32 ? 0 : 0x20) | map);
	*out++ = (uint8_t)(p->w << 7 | (ri_chance(&g->r, 30) ? 15 : ri_below(&g->r, 16)) << 3 |
			   ri_below(&g->r, 2) << 2 | (vsib ? 1 : ri_below(&g->r, 4)));
	*out++ = vsib ? (uint8_t)(0x90 + ri_below(&g->r, 4)) : (uint8_t)ri_next(&g->r);
	return out;
}

/* A displacement of one byte counts operands, so it is small. */
static uint8_t *put_evex(struct gen *g, uint8_t *out, struct prefix *p, _Bool vsib)
{
	static const uint8_t masks[] = {0, 0, 0, 1, 2, 3, 4, 5, 6, 7};
	struct ri_random *r = &g->r;
	unsigned map = vsib ? 2 : 1 + ri_below(r, 3), high = ri_below(r, 4);
	_Bool m32 = g->c->mode32, mem = p->modrm[0] < 0xc0;

	if (!mem)
		p->x = ri_chance(r, 50);
	*out++ = 0x62;
	*out++ = (uint8_t)((p->r && !m32 ? 0 : 0x80) | (p->x && !m32 ? 0 : 0x40) |
			   (p->b && (!m32 || ri_chance(r, 5)) ? 0 : 0x20) |
			   ((high & 1) && !m32 ? 0 : 0x10) | map);
	*out++ = (uint8_t)(p->w << 7 | (ri_chance(r, 30) ? 15 : ri_below(r, 16)) << 3 | 4 |
			   (vsib ? 1 : ri_below(r, 4)));
	*out++ = (uint8_t)(ri_chance(r, vsib ? 2 : 30) << 7 |
			   (ri_chance(r, 3) ? 3 : ri_below(r, 3)) << 5 |
			   ri_chance(r, vsib ? 2 : 25) << 4 |
			   ((high & 2) && (!m32 || ri_chance(r, 5)) ? 0 : 8) |
			   (vsib ? 1 + ri_below(r, 7) : masks[ri_below(r, ARRAY_SIZE(masks))]));
	*out++ =
	    vsib ? (uint8_t)(0x90 + ri_below(r, 4) + ri_below(r, 2) * 16) : (uint8_t)ri_next(r);
	if (mem && p->modrm[0] >> 6 == 1 && ri_chance(r, 90))
		p->modrm[p->len - 1] = (uint8_t)(ri_below(r, 6) - 2);
	return out;
}

/* Instructions on opmask registers, of which random opcodes give few. */
static uint8_t *put_mask(struct gen *g, uint8_t *out, const struct prefix *p)
{
	static const uint8_t opcodes[] = {0x41, 0x42, 0x44, 0x45, 0x46, 0x47, 0x4a, 0x4b, 0x90,
					  0x91, 0x92, 0x93, 0x98, 0x99, 0x30, 0x31, 0x32, 0x33};
	uint8_t opcode = opcodes[ri_below(&g->r, ARRAY_SIZE(opcodes))];
	_Bool m32 = g->c->mode32;

	*out++ = 0xc4;
	*out++ = (uint8_t)((p->r && !m32 && ri_chance(&g->r, 20) ? 0 : 0x80) |
			   (p->x && !m32 ? 0 : 0x40) | (p->b && !m32 ? 0 : 0x20) |
			   (opcode < 0x40 ? 3 : 1));
	*out++ = (uint8_t)(p->w << 7 |
			   (opcode >= 0x90 || opcode < 0x40
				? 15
				: ri_below(&g->r, 8) + (ri_chance(&g->r, 95) ? 8 : 0))
			       << 3 |
			   ri_below(&g->r, 2) << 2 | ri_below(&g->r, 4));
	*out++ = opcode;
	return out;
}

static _Bool make_insn(struct gen *g, struct ri_insn *out)
{
	uint8_t bytes[40], *p = bytes;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	unsigned kind = ri_below(&g->r, 100);
	unsigned wide = g->c->avx512 ? ri_below(&g->r, 100) : 100;
	_Bool vsib = wide < 100 ? wide < 4 : kind < 1;
	struct prefix x;

	make_modrm(g, &x, vsib);
	if (wide < 62)
		p = put_evex(g, p, &x, vsib);
	else if (wide < 76)
		p = put_mask(g, p, &x);
	else if (kind < 22)
		p = put_vex(g, p, &x, vsib);
	else
		p = put_legacy(g, p, &x, kind < 60 ? 0 : kind < 84 ? 1 : kind < 93 ? 2 : 3);
	memcpy(p, x.modrm, x.len);
	p += x.len;
	for (unsigned i = 0; i < 8; i++)
		*p++ =
		    ri_chance(&g->r, 50) ? (uint8_t)ri_below(&g->r, 40) : (uint8_t)ri_next(&g->r);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, bytes, 15, &zi, ops)) ||
	    !allowed(&zi, ops, g->c->avx512))
		return 0;
	/* With X, which does not count for general registers, Zen 4 takes RSP without what pushes
	 * and pops have done to it since it was last used. */
	if (zi.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && !g->c->mode32 &&
	    !(bytes[zi.raw.evex.offset + 1] & 0x40) && (bytes[zi.raw.modrm.offset] & 0xc7) == 0xc4)
		return 0;
	/* In 32-bit code AMD's CPUs take W, and leave an RSP that no exception shows. */
	if (g->c->mode32 && zi.mnemonic == ZYDIS_MNEMONIC_KMOVD &&
	    ops[0].reg.value == ZYDIS_REGISTER_ESP)
		return 0;
	if (zi.mnemonic == ZYDIS_MNEMONIC_VZEROALL || (zi.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER &&
						       g->c->mode32 && __builtin_cpu_is("intel"))) {
		if (g->xsave)
			return 0;
		g->zeroall = 1;
	}
	memset(out, 0, sizeof(*out));
	memcpy(out->bytes, bytes, zi.length);
	out->len = zi.length;
	return 1;
}

/* Jcc, JMP, LOOP, JRCXZ and CALL, forwards over some instructions. */
static void make_branch(struct gen *g, struct ri_insn *out)
{
	unsigned kind = ri_below(&g->r, 10), n = 0;

	memset(out, 0, sizeof(*out));
	if (kind < 4) {
		out->bytes[n++] = (uint8_t)(0x70 | ri_below(&g->r, 16));
	} else if (kind < 6) {
		out->bytes[n++] = 0x0f;
		out->bytes[n++] = (uint8_t)(0x80 | ri_below(&g->r, 16));
		n += 3;
	} else if (kind < 7) {
		out->bytes[n++] = (uint8_t)(0xe0 | ri_below(&g->r, 4));
	} else if (kind < 8) {
		out->bytes[n++] = 0xeb;
	} else {
		out->bytes[n++] = kind < 9 ? 0xe9 : 0xe8;
		n += 3;
	}
	out->len = (uint8_t)(n + 1);
	out->skip = (uint8_t)(1 + ri_below(&g->r, 3));
}

/* subb $1, counter; jg back. Each loop has its counter, which once at 0 stays below it for long:
 * loops in loops come to an end. */
static void make_loop(struct gen *g, struct ri_insn *out, unsigned index)
{
	uint32_t counter = (uint32_t)RI_COUNT + index;
	uint8_t *p = out->bytes;

	memset(out, 0, sizeof(*out));
	*p++ = 0x80;
	*p++ = g->c->mode32 ? 0x2d : 0x2c;
	if (!g->c->mode32)
		*p++ = 0x25;
	memcpy(p, &counter, 4);
	p += 4;
	*p++ = 1;
	*p++ = 0x0f;
	*p++ = 0x8f;
	p += 4;
	out->len = (uint8_t)(p - out->bytes);
	out->back = (uint8_t)(1 + ri_below(&g->r, MIN(index, 12u) + 1));
}

/* add r, imm8 to a register that points into the data: before the branch of a loop, so that
 * operands go through memory. */
static void make_walk(struct gen *g, struct ri_insn *out)
{
	static const uint8_t steps[] = {1, 2,  4,  8,  16,  32,	 64,   127,
					3, 24, -1, -8, -16, -32, -128, -7};
	unsigned reg = pick(g, g->pointers & ~(1u << X86_RSP), g->c->mode32 ? 8 : 16);
	uint8_t *p = out->bytes;

	memset(out, 0, sizeof(*out));
	if (!g->c->mode32)
		*p++ = (uint8_t)(0x48 | reg >> 3);
	*p++ = 0x83;
	*p++ = (uint8_t)(0xc0 | (reg & 7));
	*p++ = steps[ri_below(&g->r, ARRAY_SIZE(steps))];
	out->len = (uint8_t)(p - out->bytes);
}

/* mov r, imm32 or alu r, imm32: any value will do. */
static void make_patchable(struct gen *g, struct ri_insn *out)
{
	unsigned reg = pick(g, ~(1u << X86_RSP) & ~g->pointers, 8);
	uint8_t *p = out->bytes;

	memset(out, 0, sizeof(*out));
	if (ri_chance(&g->r, 50)) {
		*p++ = (uint8_t)(0xb8 | reg);
	} else {
		*p++ = 0x81;
		*p++ = (uint8_t)(0xc0 | ri_below(&g->r, 8) << 3 | reg);
	}
	for (unsigned i = 0; i < 4; i++)
		*p++ = (uint8_t)ri_next(&g->r);
	out->len = (uint8_t)(p - out->bytes);
	out->patchable = 1;
}

/* mov patchable's byte, al to bl or an immediate. The address is worked out later. */
static void make_patch(struct gen *g, struct ri_insn *out)
{
	_Bool imm = ri_chance(&g->r, 50);
	uint8_t *p = out->bytes;

	memset(out, 0, sizeof(*out));
	*p++ = imm ? 0xc6 : 0x88;
	*p++ = (uint8_t)((imm ? 0 : ri_below(&g->r, 4)) << 3 | (g->c->mode32 ? 5 : 4));
	if (!g->c->mode32)
		*p++ = 0x25;
	p += 4;
	if (imm)
		*p++ = (uint8_t)ri_next(&g->r);
	out->len = (uint8_t)(p - out->bytes);
	out->patches = 1;
	out->patch = (int8_t)((int)ri_below(&g->r, 13) - 6);
}

/* A jump to a later instruction: push its address; ret, or mov it to a register; jmp or call there.
 * Or a return to whatever lies on the stack: mostly behind a call that went before. */
static void make_indirect(struct gen *g, struct ri_insn *out)
{
	unsigned reg = pick(g, ~(1u << X86_RSP) & ~g->pointers, 8), kind = ri_below(&g->r, 4);
	uint8_t *p = out->bytes;

	memset(out, 0, sizeof(*out));
	if (kind == 0) {
		*p++ = 0xc3;
	} else {
		*p++ = kind == 1 ? 0x68 : (uint8_t)(0xb8 | reg);
		p += 4;
		if (kind > 1)
			*p++ = 0xff;
		*p++ = kind == 1 ? 0xc3 : (uint8_t)(0xc0 | (kind == 2 ? 4 : 2) << 3 | reg);
		out->skip = (uint8_t)(1 + ri_below(&g->r, 4));
		out->absolute = 1;
	}
	out->len = (uint8_t)(p - out->bytes);
}

/* What only programs have: how many instructions there are now. */
static unsigned make_program(struct gen *g, struct ri_insn *out, unsigned index)
{
	unsigned kind = ri_below(&g->r, 100), count = 1;

	if (kind < 3)
		make_loop(g, out, index);
	else if (kind < 5 && index + 1 < g->c->count) {
		make_walk(g, out);
		make_loop(g, out + 1, index + 1);
		count = 2;
	} else if (kind < 14)
		make_patchable(g, out);
	else if (kind < 21)
		make_patch(g, out);
	else if (kind < 27)
		make_branch(g, out);
	else if (kind < 33)
		make_indirect(g, out);
	else
		return 0;
	return count;
}

/* mov eax, 0 to 7; cdq; an instruction of the XSAVE family, mostly on a 64-byte boundary. All in
 * one, as the host may have more components than the guest. */
static void make_xsave(struct gen *g, struct ri_insn *out)
{
	/* XSAVE, XRSTOR, XSAVEOPT, XSAVEC */
	static const uint8_t ops[4][2] = {{0xae, 4}, {0xae, 5}, {0xae, 6}, {0xc7, 4}};
	const uint8_t *op = ops[ri_below(&g->r, 4)];
	/* Not RAX and RDX; not RSP and R12, which need a SIB byte. */
	unsigned base = pick(g, g->pointers & ~0x1015u, g->c->mode32 ? 8 : 16);
	uint8_t *p = out->bytes;

	memset(out, 0, sizeof(*out));
	*p++ = 0xb8;
	*p = (uint8_t)ri_below(&g->r, 8);
	if (g->c->avx512)
		*p |= (uint8_t)ri_next(&g->r) & 0xe0;
	p += 4;
	*p++ = 0x99;
	if (!g->c->mode32)
		*p++ = (uint8_t)(0x40 | ri_below(&g->r, 2) << 3 | base >> 3);
	*p++ = 0x0f;
	*p++ = op[0];
	*p++ = (uint8_t)(0x40 | op[1] << 3 | (base & 7));
	*p++ = ri_chance(&g->r, 90) ? 0 : (uint8_t)ri_next(&g->r);
	out->len = (uint8_t)(p - out->bytes);
}

/* Bytes that the decoder refuses though there are enough: invalid opcodes, LOCK where it may not
 * be, prefixes before VEX, instructions that are too long. */
static _Bool make_invalid(struct gen *g, struct ri_insn *out)
{
	static const uint8_t prefix[] = {0xf0, 0x66, 0xf2, 0xf3, 0x48, 0x67, 0x2e, 0x36};
	ZydisDecodedInstruction zi;
	uint8_t *p = out->bytes;

	memset(out, 0, sizeof(*out));
	for (unsigned n = ri_below(&g->r, 4); n; n--)
		*p++ = prefix[ri_below(&g->r, ARRAY_SIZE(prefix))];
	if (g->c->avx512)
		*p++ = 0x62;
	else if (ri_chance(&g->r, 60))
		*p++ = 0x0f;
	while (p < out->bytes + sizeof(out->bytes))
		*p++ = (uint8_t)ri_next(&g->r);
	out->len = sizeof(out->bytes);
	/* 3DNow's opcode is its last byte, and may be the sixteenth. LOCK with a move to or from
	 * CR0 is AMD's other name of CR8, and with VERW faults later. */
	for (unsigned k = 0; k + 1 < sizeof(out->bytes); k++) {
		uint8_t op = out->bytes[k + 1];

		if (out->bytes[k] == 0x0f && (op == 0x0f || op == 0x00 || (op & 0xfd) == 0x20))
			return 0;
	}
	switch (ZydisDecoderDecodeInstruction(&g->decoder, NULL, out->bytes, 15, &zi)) {
	case ZYDIS_STATUS_ILLEGAL_LOCK:
	case ZYDIS_STATUS_ILLEGAL_LEGACY_PFX:
	case ZYDIS_STATUS_ILLEGAL_REX: return 1;
	case ZYDIS_STATUS_DECODING_ERROR:
	case ZYDIS_STATUS_BAD_REGISTER:
	case ZYDIS_STATUS_MALFORMED_EVEX:
	case ZYDIS_STATUS_INVALID_MAP:
	case ZYDIS_STATUS_INVALID_MASK: return g->c->avx512;
	default: return 0;
	}
}

void ri_generate(struct ri_case *c, uint64_t seed, _Bool program, _Bool avx512)
{
	struct gen g = {.c = c, .program = program};

	memset(c, 0, sizeof(*c));
	ri_seed(&g.r, seed);
	c->seed = seed;
	c->avx512 = avx512;
	c->mode32 = ri_chance(&g.r, 20);
	ri_decoder(&g.decoder, c->mode32);
	make_state(&g);
	if (program && ri_chance(&g.r, 40))
		g.hot = 1 + pick(&g, g.pointers & ~(1u << X86_RSP), c->mode32 ? 8 : 16);
	c->count = 1 + ri_below(&g.r, ri_chance(&g.r, 50) ? 8 : RI_MAX_INSNS);
	for (unsigned i = 0; i < c->count;) {
		unsigned kind = ri_below(&g.r, 400);

		unsigned made = program ? make_program(&g, &c->insn[i], i) : 0;

		i += made;
		if (made)
			continue;
		if (kind < 4)
			make_branch(&g, &c->insn[i++]);
		else if (kind < 8 && !g.zeroall) {
			g.xsave = 1;
			make_xsave(&g, &c->insn[i++]);
		} else if (kind < 9)
			i += make_invalid(&g, &c->insn[i]);
		else if (make_insn(&g, &c->insn[i]))
			i++;
	}
}

/* Where a store of instruction i goes: when the one that it names is not to be changed, to an
 * unused byte of the counters' page. */
static uint32_t patch_address(const struct ri_case *c, const unsigned *at, unsigned i)
{
	unsigned target = i + (unsigned)(int)c->insn[i].patch;

	if (target < c->count && c->insn[target].patchable)
		return (uint32_t)RI_CODE + at[target] + c->insn[target].len - 1;
	return (uint32_t)RI_COUNT + 2048;
}

unsigned ri_assemble(const struct ri_case *c, uint8_t code[RI_CODE_BYTES])
{
	unsigned at[RI_MAX_INSNS + 1], off = c->start;

	memset(code, 0xcc, RI_CODE_BYTES);
	for (unsigned i = 0; i < c->count; i++) {
		at[i] = off;
		off += c->insn[i].len;
	}
	at[c->count] = off;
	for (unsigned i = 0; i < c->count; i++) {
		const struct ri_insn *in = &c->insn[i];

		memcpy(code + at[i], in->bytes, in->len);
		if (in->patches) {
			uint32_t to = patch_address(c, at, i);

			memcpy(code + at[i] + (c->mode32 ? 2 : 3), &to, 4);
		}
		if (in->skip || in->back) {
			unsigned target = in->back ? i + 1u - MIN(i + 1u, in->back)
						   : MIN(i + 1u + in->skip, c->count);
			uint32_t rel = at[target] - at[i] - in->len;
			unsigned size = in->len >= 5 ? 4 : 1;

			if (in->absolute)
				rel = (uint32_t)RI_CODE + at[target];
			memcpy(code + at[i] + (in->absolute ? 1 : in->len - size), &rel, size);
		}
	}
	return off - c->start;
}
