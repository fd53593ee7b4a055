/* vec_xsave.c: FXSAVE, XSAVE and their kin, LDMXCSR and STMXCSR (SDM1 10.5, 13). */
#include "engine/soft/vec.h"

#include "engine/engine.h"
#include "engine/soft/core.h"

#define XS_XMM	    160u
#define XS_HEADER   512u
#define XS_EXTENDED 576u  /* where components begin that the legacy region has no place for */
#define XS_ROOM	    1024u /* the largest of them */
#define XS_COMPACT  BIT64(63)

enum { XS_FIRST = 2, XS_AVX = 2, XS_OPMASK = 5, XS_ZMM_HI, XS_ZMM_16 };
_Static_assert(XS_ZMM_16 + 1 == VEC_XSAVE_PARTS, "components that are known");

#define XS_KNOWN (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512)

static uint32_t xs_mxcsr(const struct soft_cpu *cpu)
{
	uint32_t v;

	memcpy(&v, cpu->s.fpu.fx + X86_FX_MXCSR, 4);
	return v;
}

static unsigned xs_registers(const struct soft_cpu *cpu)
{
	return soft_is64(cpu) ? 16 : 8;
}

/* The x87 part of an image: bytes 0 to 23. AMD's CPUs give the pointers only while an exception is
 * pending. */
static void xs_put_x87(const struct soft_cpu *cpu, uint8_t *image, _Bool wide)
{
	const uint8_t *fx = cpu->s.fpu.fx;

	memcpy(image, fx, X86_FX_MXCSR);
	memcpy(image + X86_FX_ST, fx + X86_FX_ST, 128);
	image[5] = 0;
	if (soft_amd(cpu) && !vec_x87_pending(cpu)) {
		memset(image + X86_FX_FOP, 0, 18);
		return;
	}
	if (!wide) {
		memset(image + X86_FX_FIP + 4, 0, 4);
		memset(image + X86_FX_FDP + 4, 0, 4);
	}
	if (!wide && !cpu->vec->no_selectors) {
		memcpy(image + X86_FX_FIP + 4, fx + VEC_FX_FCS, 2);
		memcpy(image + X86_FX_FDP + 4, fx + VEC_FX_FDS, 2);
	}
}

static void xs_get_x87(struct soft_cpu *cpu, const uint8_t *image, _Bool wide)
{
	uint8_t *fx = cpu->s.fpu.fx;

	memcpy(fx, image, X86_FX_MXCSR);
	fx[5] = 0;
	memset(fx + VEC_FX_FCS, 0, 4);
	if (!wide) {
		memcpy(fx + VEC_FX_FCS, fx + X86_FX_FIP + 4, 2);
		memcpy(fx + VEC_FX_FDS, fx + X86_FX_FDP + 4, 2);
		memset(fx + X86_FX_FIP + 4, 0, 4);
		memset(fx + X86_FX_FDP + 4, 0, 4);
	}
	/* AMD's CPUs keep 57 bits of an address. */
	for (unsigned at = X86_FX_FIP; wide && soft_amd(cpu) && at <= X86_FX_FDP; at += 8) {
		int64_t v;

		memcpy(&v, fx + at, 8);
		v = (int64_t)((uint64_t)v << 7) >> 7;
		memcpy(fx + at, &v, 8);
	}
	for (unsigned n = 0; n < 8; n++) {
		memcpy(fx + X86_FX_ST + n * 16, image + X86_FX_ST + n * 16, 10);
		memset(fx + X86_FX_ST + n * 16 + 10, 0, 6);
	}
	fx[X86_FX_FOP + 1] &= 7;
	vec_x87_normalize(cpu);
}

static void xs_put_mxcsr(const struct soft_cpu *cpu, uint8_t *image)
{
	memcpy(image + X86_FX_MXCSR, cpu->s.fpu.fx + X86_FX_MXCSR, 4);
	memcpy(image + X86_FX_MASK, &cpu->vec->mxcsr_mask, 4);
}

/* CPUs look at the end first. */
static void xs_probe(struct soft_cpu *cpu, const struct insn *i, uint64_t lin, unsigned len,
		     _Bool write)
{
	soft_probe(cpu, i->seg, lin + len - 1, 1, write);
	soft_probe(cpu, i->seg, lin, len, write);
}

static NORETURN void xs_misaligned(struct soft_cpu *cpu, const struct insn *i, uint64_t lin)
{
	if (soft_is64(cpu) && !soft_canonical(lin))
		soft_raise_err(cpu, i->seg == X86_SS ? X86_VEC_SS : X86_VEC_GP, 0);
	/* #GP; where #AC is on, that when not even a doubleword is aligned. */
	soft_align(cpu, i->seg, lin, 4);
	soft_raise_err(cpu, X86_VEC_GP, 0);
}

static void xs_align16(struct soft_cpu *cpu, const struct insn *i, uint64_t lin)
{
	if (lin & 15)
		xs_misaligned(cpu, i, lin);
}

static void vec_fxsave(struct soft_cpu *cpu, const struct insn *i)
{
	uint8_t image[XS_XMM + 256];
	uint64_t lin;

	vec_check(cpu, VEC_FXSAVE);
	lin = soft_lin(cpu, i, 512, 1);
	xs_align16(cpu, i, lin);
	xs_probe(cpu, i, lin, 512, 1);
	xs_put_x87(cpu, image, i->aux & VEC_WIDE);
	xs_put_mxcsr(cpu, image);
	for (unsigned n = 0; n < xs_registers(cpu); n++)
		memcpy(image + XS_XMM + n * 16, cpu->s.fpu.vec[n], 16);
	soft_store(cpu, i->seg, lin, image, XS_XMM + xs_registers(cpu) * 16);
}

static void vec_fxrstor(struct soft_cpu *cpu, const struct insn *i)
{
	uint8_t image[512];
	uint32_t mxcsr;
	uint64_t lin;

	vec_check(cpu, VEC_FXSAVE);
	lin = soft_lin(cpu, i, 512, 0);
	xs_align16(cpu, i, lin);
	xs_probe(cpu, i, lin, 512, 0);
	soft_load(cpu, i->seg, lin, image, 512);
	memcpy(&mxcsr, image + X86_FX_MXCSR, 4);
	if (!vec_mxcsr_ok(cpu, mxcsr))
		soft_raise_err(cpu, X86_VEC_GP, 0);
	memcpy(cpu->s.fpu.fx + X86_FX_MXCSR, &mxcsr, 4);
	xs_get_x87(cpu, image, i->aux & VEC_WIDE);
	for (unsigned n = 0; n < xs_registers(cpu); n++)
		memcpy(cpu->s.fpu.vec[n], image + XS_XMM + n * 16, 16);
}

static uint64_t xs_requested(const struct soft_cpu *cpu)
{
	uint64_t mask = (uint32_t)cpu->s.gpr[X86_RAX] | cpu->s.gpr[X86_RDX] << 32;

	return mask & cpu->s.xcr0 & XS_KNOWN;
}

static _Bool xs_all_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (p[i])
			return 0;
	}
	return 1;
}

/* Is any bit set in `count` pieces of `size` bytes, 64 apart? */
static _Bool xs_any(const uint8_t *p, unsigned count, unsigned size)
{
	uint64_t any = 0, v;

	for (unsigned n = 0; n < count; n++, p += 64) {
		for (unsigned k = 0; k < size; k += 8) {
			memcpy(&v, p + k, 8);
			any |= v;
		}
	}
	return any != 0;
}

uint64_t vec_in_use(const struct soft_cpu *cpu)
{
	const struct x86_fpu *f = &cpu->s.fpu;
	uint64_t used = 0;

	if (f->fx[0] != 0x7f || f->fx[1] != 3 || !xs_all_zero(f->fx + 2, X86_FX_MXCSR - 2) ||
	    !xs_all_zero(f->fx + X86_FX_ST, 128))
		used |= X86_XCR0_X87;
	if (xs_any(f->vec[0], 16, 16))
		used |= X86_XCR0_SSE;
	if (xs_any(f->vec[0] + 16, 16, 16))
		used |= X86_XCR0_AVX;
	if (!cpu->vec->avx512)
		return used;
	if (!xs_all_zero((const uint8_t *)f->k, sizeof(f->k)))
		used |= BIT64(XS_OPMASK);
	if (xs_any(f->vec[0] + 32, 16, 32))
		used |= BIT64(XS_ZMM_HI);
	if (xs_any(f->vec[16], 16, 64))
		used |= BIT64(XS_ZMM_16);
	return used;
}

/*
 * Components behind the header. In the compacted form they follow each other in the order of their
 * numbers, those that XCOMP_BV names (SDM1 13.4.3); else they are where CPUID says.
 */
static unsigned xs_offset(const struct soft_cpu *cpu, unsigned n, uint64_t layout)
{
	const struct vec_xsave *x = cpu->vec->xsave;
	unsigned at = XS_EXTENDED;

	if (!(layout & XS_COMPACT))
		return x[n].offset;
	for (unsigned k = XS_FIRST; k < n; k++) {
		if (!(layout >> k & 1))
			continue;
		at = (x[k].align ? ALIGN_UP(at, 64u) : at) + x[k].size;
	}
	return x[n].align ? ALIGN_UP(at, 64u) : at;
}

static unsigned xs_end(const struct soft_cpu *cpu, uint64_t mask, uint64_t layout)
{
	unsigned end = XS_EXTENDED;

	for (unsigned n = XS_FIRST; n < VEC_XSAVE_PARTS; n++) {
		if (mask >> n & 1)
			end = MAX(end, xs_offset(cpu, n, layout) + cpu->vec->xsave[n].size);
	}
	return end;
}

/* What a component holds: pieces of `size` bytes, `count` of them, 64 apart but for the masks, of
 * which there is one piece. Outside of 64-bit mode the upper registers are left alone. */
static uint8_t *xs_pieces(struct soft_cpu *cpu, unsigned n, unsigned *count, unsigned *size)
{
	struct x86_fpu *f = &cpu->s.fpu;

	*count = xs_registers(cpu);
	switch (n) {
	case XS_AVX: *size = 16; return f->vec[0] + 16;
	case XS_OPMASK:
		*count = 1;
		*size = 64;
		return (uint8_t *)f->k;
	case XS_ZMM_HI: *size = 32; return f->vec[0] + 32;
	default:
		*count = soft_is64(cpu) ? 16 : 0;
		*size = 64;
		return f->vec[16];
	}
}

static uint64_t xs_area(struct soft_cpu *cpu, const struct insn *i, _Bool write)
{
	uint64_t lin;

	vec_check(cpu, VEC_XSAVE);
	lin = soft_lin(cpu, i, XS_EXTENDED, write);
	if (lin & 63) {
		if (!soft_amd(cpu))
			xs_misaligned(cpu, i, lin);
		soft_raise_err(cpu, X86_VEC_GP, 0);
	}
	return lin;
}

/* The segment must hold what is touched, and not the smallest area alone. */
static void xs_area_check(struct soft_cpu *cpu, const struct insn *i, unsigned len, _Bool write)
{
	if (len > XS_EXTENDED)
		(void)soft_lin(cpu, i, len, write);
}

/* Where XSAVE and XRSTOR begin: at MXCSR without x87 state, at the header when they need none of
 * the legacy region. The compacted form has MXCSR with the SSE state only. */
static unsigned xs_begin(uint64_t mask, _Bool compact)
{
	if (mask & X86_XCR0_X87)
		return 0;
	return mask & (X86_XCR0_SSE | (compact ? 0 : X86_XCR0_AVX)) ? X86_FX_MXCSR : XS_HEADER;
}

/* XSAVE's area: Intel's CPUs look at the end, then at what they write; AMD's at the beginning, the
 * end and all. */
static void xs_probe_area(struct soft_cpu *cpu, const struct insn *i, uint64_t lin, uint64_t mask,
			  uint64_t layout)
{
	unsigned begin = 0, end = xs_end(cpu, mask, layout);

	xs_area_check(cpu, i, end, 1);
	if (soft_amd(cpu))
		soft_probe(cpu, i->seg, lin, 1, 1);
	else
		begin = xs_begin(mask, !!(layout & XS_COMPACT));
	xs_probe(cpu, i, lin + begin, end - begin, 1);
}

/* Writes the components of `mask`, MXCSR if asked; everything has been probed. `layout` is what
 * goes to XCOMP_BV. */
static void xs_store(struct soft_cpu *cpu, const struct insn *i, uint64_t lin, uint64_t mask,
		     uint64_t layout, _Bool mxcsr)
{
	unsigned regs = xs_registers(cpu);
	uint8_t image[XS_ROOM];

	if (mask & X86_XCR0_X87) {
		xs_put_x87(cpu, image, i->aux & VEC_WIDE);
		soft_store(cpu, i->seg, lin, image, X86_FX_MXCSR);
		soft_store(cpu, i->seg, lin + X86_FX_ST, image + X86_FX_ST, 128);
	}
	if (mxcsr) {
		xs_put_mxcsr(cpu, image);
		soft_store(cpu, i->seg, lin + X86_FX_MXCSR, image + X86_FX_MXCSR, 8);
	}
	if (mask & X86_XCR0_SSE) {
		for (unsigned n = 0; n < regs; n++)
			memcpy(image + n * 16, cpu->s.fpu.vec[n], 16);
		soft_store(cpu, i->seg, lin + XS_XMM, image, regs * 16);
	}
	for (unsigned n = XS_FIRST; n < VEC_XSAVE_PARTS; n++) {
		unsigned count, size;
		const uint8_t *from = xs_pieces(cpu, n, &count, &size);

		if (!(mask >> n & 1) || !count)
			continue;
		for (unsigned k = 0; k < count; k++)
			memcpy(image + k * size, from + k * 64, size);
		soft_store(cpu, i->seg, lin + xs_offset(cpu, n, layout), image, count * size);
	}
}

/* XSAVE, and XSAVEOPT with its init optimization; the modified optimization, which a CPU may make,
 * is not made. */
static void xs_save(struct soft_cpu *cpu, const struct insn *i, _Bool optimize)
{
	uint64_t lin = xs_area(cpu, i, 1), mask = xs_requested(cpu), used = vec_in_use(cpu), bv;

	xs_probe_area(cpu, i, lin, mask, 0);
	bv = soft_read64(cpu, i->seg, lin + XS_HEADER);
	xs_store(cpu, i, lin, optimize ? mask & used : mask, 0,
		 mask & (X86_XCR0_SSE | X86_XCR0_AVX));
	soft_write64(cpu, i->seg, lin + XS_HEADER, (bv & ~mask) | (mask & used));
}

static void vec_xsave(struct soft_cpu *cpu, const struct insn *i)
{
	xs_save(cpu, i, 0);
}
static void vec_xsaveopt(struct soft_cpu *cpu, const struct insn *i)
{
	xs_save(cpu, i, 1);
}

static void vec_xsavec(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t lin = xs_area(cpu, i, 1), mask = xs_requested(cpu), used = vec_in_use(cpu);

	if (xs_mxcsr(cpu) != 0x1f80)
		used |= X86_XCR0_SSE;
	xs_probe_area(cpu, i, lin, mask, mask | XS_COMPACT);
	xs_store(cpu, i, lin, mask & used, mask | XS_COMPACT, mask & used & X86_XCR0_SSE);
	soft_write64(cpu, i->seg, lin + XS_HEADER, mask & used);
	soft_write64(cpu, i->seg, lin + XS_HEADER + 8, mask | XS_COMPACT);
}

/* SDM1 13.8: what makes a header #GP. */
static _Bool xs_header_ok(const struct soft_cpu *cpu, const uint8_t *header)
{
	const struct cpuid_policy *policy = cpu->base.engine->env->cpuid;
	uint64_t bv, comp;

	memcpy(&bv, header, 8);
	memcpy(&comp, header + 8, 8);
	if (comp & XS_COMPACT) {
		return cpuid_has(policy, 0xd, 1, CPUID_EAX, 1) &&
		       !(comp & ~XS_COMPACT & ~cpu->s.xcr0) && !(bv & ~comp) &&
		       xs_all_zero(header + 16, 48);
	}
	return !(bv & ~cpu->s.xcr0) && xs_all_zero(header + 8, 16);
}

/* From where soft_load has put it, or the initial state. */
static void xs_load(struct soft_cpu *cpu, unsigned n, const uint8_t *from)
{
	unsigned count, size;
	uint8_t *to = xs_pieces(cpu, n, &count, &size);

	for (unsigned k = 0; k < count; k++) {
		if (from)
			memcpy(to + k * 64, from + k * size, size);
		else
			memset(to + k * 64, 0, size);
	}
}

static void xs_load_xmm(struct soft_cpu *cpu, const uint8_t *from)
{
	for (unsigned n = 0; n < xs_registers(cpu); n++) {
		if (from)
			memcpy(cpu->s.fpu.vec[n], from + n * 16, 16);
		else
			memset(cpu->s.fpu.vec[n], 0, 16);
	}
}

/* The legacy region and the header. AMD's CPUs look at the beginning of both, then load all, and
 * check the header. */
static void xs_load_amd(struct soft_cpu *cpu, const struct insn *i, uint64_t lin, uint64_t mask,
			uint8_t image[XS_EXTENDED])
{
	uint64_t bv, comp;

	soft_probe(cpu, i->seg, lin, 1, 0);
	soft_probe(cpu, i->seg, lin + XS_HEADER, 1, 0);
	soft_load(cpu, i->seg, lin, image, XS_EXTENDED);
	if (!xs_header_ok(cpu, image + XS_HEADER))
		soft_raise_err(cpu, X86_VEC_GP, 0);
	memcpy(&bv, image + XS_HEADER, 8);
	memcpy(&comp, image + XS_HEADER + 8, 8);
	xs_area_check(cpu, i, xs_end(cpu, mask & bv, comp), 0);
}

/* Intel's CPUs look at XCOMP_BV, then at all that is asked for whether or not XSTATE_BV has it: its
 * end, then its beginning. The rest of the header is checked last. */
static void xs_load_intel(struct soft_cpu *cpu, const struct insn *i, uint64_t lin, uint64_t mask,
			  uint8_t image[XS_EXTENDED])
{
	unsigned begin, end;
	uint64_t comp;

	soft_probe(cpu, i->seg, lin + XS_HEADER + 8, 1, 0);
	soft_load(cpu, i->seg, lin + XS_HEADER, image + XS_HEADER, XS_EXTENDED - XS_HEADER);
	memcpy(&comp, image + XS_HEADER + 8, 8);
	if (comp & XS_COMPACT) {
		if (comp & ~XS_COMPACT & ~cpu->s.xcr0)
			soft_raise_err(cpu, X86_VEC_GP, 0);
		mask &= comp;
	}
	begin = xs_begin(mask, !!(comp & XS_COMPACT));
	end = xs_end(cpu, mask, comp);
	xs_area_check(cpu, i, end, 0);
	xs_probe(cpu, i, lin + begin, end - begin, 0);
	if (!xs_header_ok(cpu, image + XS_HEADER))
		soft_raise_err(cpu, X86_VEC_GP, 0);
	/* The header stays the one that was checked: others may change memory meanwhile. */
	memset(image, 0, begin);
	if (begin < XS_HEADER)
		soft_load(cpu, i->seg, lin + begin, image + begin, XS_HEADER - begin);
}

static void vec_xrstor(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t lin = xs_area(cpu, i, 0), mask = xs_requested(cpu), bv, comp;
	uint32_t mxcsr = xs_mxcsr(cpu);
	uint8_t image[XS_EXTENDED], part[VEC_XSAVE_PARTS][XS_ROOM];
	_Bool compact;

	if (soft_amd(cpu))
		xs_load_amd(cpu, i, lin, mask, image);
	else
		xs_load_intel(cpu, i, lin, mask, image);
	memcpy(&bv, image + XS_HEADER, 8);
	memcpy(&comp, image + XS_HEADER + 8, 8);
	compact = comp & XS_COMPACT;
	for (unsigned n = XS_FIRST; n < VEC_XSAVE_PARTS; n++) {
		unsigned count, size;

		xs_pieces(cpu, n, &count, &size);
		if ((mask & bv) >> n & 1 && count)
			soft_load(cpu, i->seg, lin + xs_offset(cpu, n, comp), part[n],
				  count * size);
	}
	/* The standard form loads MXCSR whatever XSTATE_BV says. */
	if (compact ? mask & bv & X86_XCR0_SSE : mask & (X86_XCR0_SSE | X86_XCR0_AVX))
		memcpy(&mxcsr, image + X86_FX_MXCSR, 4);
	else if (compact && (mask & X86_XCR0_SSE))
		mxcsr = 0x1f80;
	if (!vec_mxcsr_ok(cpu, mxcsr))
		soft_raise_err(cpu, X86_VEC_GP, 0);

	memcpy(cpu->s.fpu.fx + X86_FX_MXCSR, &mxcsr, 4);
	if (mask & X86_XCR0_X87) {
		if (bv & X86_XCR0_X87) {
			xs_get_x87(cpu, image, i->aux & VEC_WIDE);
		} else {
			vec_x87_init(cpu);
			memset(cpu->s.fpu.fx + X86_FX_ST, 0, 128);
		}
	}
	if (mask & X86_XCR0_SSE)
		xs_load_xmm(cpu, bv & X86_XCR0_SSE ? image + XS_XMM : NULL);
	for (unsigned n = XS_FIRST; n < VEC_XSAVE_PARTS; n++)
		if (mask >> n & 1)
			xs_load(cpu, n, bv >> n & 1 ? part[n] : NULL);
}

static ALWAYS_INLINE void xs_ldmxcsr(struct soft_cpu *cpu, const struct insn *i,
				     enum vec_class class)
{
	uint32_t v;

	vec_check(cpu, class);
	v = soft_read32(cpu, i->seg, soft_lin(cpu, i, 4, 0));
	if (!vec_mxcsr_ok(cpu, v))
		soft_raise_err(cpu, X86_VEC_GP, 0);
	memcpy(cpu->s.fpu.fx + X86_FX_MXCSR, &v, 4);
}
static void vec_ldmxcsr(struct soft_cpu *cpu, const struct insn *i)
{
	xs_ldmxcsr(cpu, i, VEC_SSE);
}
static void vec_vldmxcsr(struct soft_cpu *cpu, const struct insn *i)
{
	xs_ldmxcsr(cpu, i, VEC_AVX);
}
static void vec_stmxcsr(struct soft_cpu *cpu, const struct insn *i)
{
	vec_check(cpu, VEC_SSE);
	soft_write32(cpu, i->seg, soft_lin(cpu, i, 4, 1), xs_mxcsr(cpu));
}
static void vec_vstmxcsr(struct soft_cpu *cpu, const struct insn *i)
{
	vec_check(cpu, VEC_AVX);
	soft_write32(cpu, i->seg, soft_lin(cpu, i, 4, 1), xs_mxcsr(cpu));
}

_Bool vec_xsave_decode(const ZydisDecodedInstruction *zi, struct insn *out)
{
	out->aux = 0;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE64: out->aux = VEC_WIDE; __attribute__((fallthrough));
	case ZYDIS_MNEMONIC_FXSAVE: out->fn = vec_fxsave; return 1;
	case ZYDIS_MNEMONIC_FXRSTOR64: out->aux = VEC_WIDE; __attribute__((fallthrough));
	case ZYDIS_MNEMONIC_FXRSTOR: out->fn = vec_fxrstor; return 1;
	case ZYDIS_MNEMONIC_XSAVE64: out->aux = VEC_WIDE; __attribute__((fallthrough));
	case ZYDIS_MNEMONIC_XSAVE: out->fn = vec_xsave; return 1;
	case ZYDIS_MNEMONIC_XSAVEOPT64: out->aux = VEC_WIDE; __attribute__((fallthrough));
	case ZYDIS_MNEMONIC_XSAVEOPT: out->fn = vec_xsaveopt; return 1;
	case ZYDIS_MNEMONIC_XSAVEC64: out->aux = VEC_WIDE; __attribute__((fallthrough));
	case ZYDIS_MNEMONIC_XSAVEC: out->fn = vec_xsavec; return 1;
	case ZYDIS_MNEMONIC_XRSTOR64: out->aux = VEC_WIDE; __attribute__((fallthrough));
	case ZYDIS_MNEMONIC_XRSTOR: out->fn = vec_xrstor; return 1;
	case ZYDIS_MNEMONIC_LDMXCSR: out->fn = vec_ldmxcsr; return 1;
	case ZYDIS_MNEMONIC_STMXCSR: out->fn = vec_stmxcsr; return 1;
	case ZYDIS_MNEMONIC_VLDMXCSR: out->fn = vec_vldmxcsr; return 1;
	case ZYDIS_MNEMONIC_VSTMXCSR: out->fn = vec_vstmxcsr; return 1;
	default: return 0;
	}
}
