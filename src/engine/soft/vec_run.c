/* vec_run.c: handlers that run a thunk, with its memory operand in guest RAM or in a buffer. */
#include "engine/soft/vec.h"

/*
 * The operand is used in place when its page is in the TLB (the instruction then touches exactly
 * the bytes it should), else through vec->buf: a load before, or a probe before and a store after,
 * so that faults come before any change.
 */

void vec_failed(struct soft_cpu *cpu, unsigned status)
{
	switch (status) {
	case THUNK_MF: soft_raise(cpu, X86_VEC_MF);
	case THUNK_XM: soft_raise(cpu, cpu->s.cr4 & X86_CR4_OSXMMEXCPT ? X86_VEC_XM : X86_VEC_UD);
	case THUNK_GP: soft_raise_err(cpu, X86_VEC_GP, 0);
	default: soft_raise(cpu, X86_VEC_UD);
	}
}

/*
 * x87: the host's instruction and data pointers are those of the thunk; the guest's are kept here,
 * as the last instruction that was not a control instruction leaves them (SDM1 8.1.8). `opcode` is
 * the low bits of the first byte and the guest's own ModRM byte.
 */
struct vec_pointers {
	uint64_t fip, fdp;
	uint16_t fop;
};

static ALWAYS_INLINE void vec_selector_set(struct soft_cpu *cpu, unsigned at, unsigned seg)
{
	memcpy(cpu->s.fpu.fx + at, &cpu->s.seg[seg].selector, 2);
}

static ALWAYS_INLINE void vec_pointers_get(const struct soft_cpu *cpu, struct vec_pointers *p)
{
	memcpy(&p->fop, cpu->s.fpu.fx + X86_FX_FOP, 2);
	memcpy(&p->fip, cpu->s.fpu.fx + X86_FX_FIP, 8);
	memcpy(&p->fdp, cpu->s.fpu.fx + X86_FX_FDP, 8);
}

static ALWAYS_INLINE void vec_pointers_set(struct soft_cpu *cpu, const struct vec_pointers *p)
{
	memcpy(cpu->s.fpu.fx + X86_FX_FOP, &p->fop, 2);
	memcpy(cpu->s.fpu.fx + X86_FX_FIP, &p->fip, 8);
	memcpy(cpu->s.fpu.fx + X86_FX_FDP, &p->fdp, 8);
}

static ALWAYS_INLINE void vec_run_class(struct soft_cpu *cpu, const struct insn *i, void *mem,
					enum vec_class class)
{
	thunk_fn *fn = (thunk_fn *)(uintptr_t)i->imm;
	struct vec_pointers p;
	unsigned status;

	if (class == VEC_MMX || class == VEC_SSEMMX)
		vec_pointers_get(cpu, &p);
	status = fn(cpu, mem);
	if (class == VEC_MMX || class == VEC_SSEMMX)
		vec_pointers_set(cpu, &p);
	if (LIKELY(status == THUNK_DONE))
		return;
	/* The change to MMX state comes first. */
	if (class == VEC_SSEMMX && status == THUNK_XM)
		vec_x87_enter_mmx(cpu);
	vec_failed(cpu, status);
}

static ALWAYS_INLINE void vec_run(struct soft_cpu *cpu, const struct insn *i, void *mem)
{
	vec_run_class(cpu, i, mem, VEC_SSE);
}

/* An operand that is not aligned though it should be: #GP, or a load through the buffer. */
static COLD _Bool vec_misaligned(struct soft_cpu *cpu, const struct insn *i)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, cpu->s.fpu.fx + X86_FX_MXCSR, 4);
	if (!(i->aux & VEC_ALIGN_MM) || !(mxcsr & BIT32(17)))
		soft_raise_err(cpu, X86_VEC_GP, 0);
	return 1;
}
static ALWAYS_INLINE _Bool vec_align(struct soft_cpu *cpu, const struct insn *i, uint64_t lin)
{
	if ((i->aux & VEC_ALIGN) && UNLIKELY(lin & ((i->aux & VEC_SIZE) - 1)))
		return vec_misaligned(cpu, i);
	return 0;
}

static ALWAYS_INLINE void *vec_source(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = i->aux & VEC_SIZE;
	uint64_t lin = soft_lin(cpu, i, size, 0);
	_Bool copy = vec_align(cpu, i, lin);
	const struct soft_tlb_entry *e = soft_tlb_at(cpu, lin);

	if (LIKELY(e->read == soft_tlb_tag(cpu, lin, size) && !copy))
		return (void *)(uintptr_t)(lin + e->addend);
	/* The mantissa first, when the operand leaves the segment. */
	if (size == 10) {
		soft_align(cpu, i->seg, lin, 8);
		soft_probe(cpu, i->seg, lin, 8, 0);
	}
	if (!(i->aux & VEC_ANY_ALIGN))
		soft_align(cpu, i->seg, lin, size);
	soft_load_bytes(cpu, i->seg, lin, cpu->vec->buf, size);
	return cpu->vec->buf;
}

static ALWAYS_INLINE void vec_store(struct soft_cpu *cpu, const struct insn *i,
				    enum vec_class class)
{
	unsigned size = i->aux & VEC_SIZE;
	const struct soft_tlb_entry *e;
	uint64_t lin;

	if (class == VEC_MMX && !soft_amd(cpu)) /* Intel's CPUs have done so when it faults */
		vec_x87_top_zero(cpu);
	lin = soft_lin(cpu, i, size, 1);
	vec_align(cpu, i, lin);
	e = soft_tlb_at(cpu, lin);
	if (LIKELY(e->write == soft_tlb_tag(cpu, lin, size))) {
		vec_run_class(cpu, i, (void *)(uintptr_t)(lin + e->addend), class);
		__asm__ volatile("" ::: "memory");
		if (UNLIKELY(*(volatile uint8_t *)e->flags))
			soft_stored(cpu, e->flags, lin, size);
		return;
	}
	if (i->aux & VEC_ANY_ALIGN) { /* VCVTPS2PH: its flags are set when it faults */
		vec_run_class(cpu, i, cpu->vec->buf, class);
	} else {
		soft_align(cpu, i->seg, lin, size);
		soft_probe(cpu, i->seg, lin, size, 1);
		vec_run_class(cpu, i, cpu->vec->buf, class);
	}
	soft_store_bytes(cpu, i->seg, lin, cpu->vec->buf, size);
}

#define VEC_HANDLERS(name, class)                                                                  \
	static void name##_reg(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		vec_check(cpu, class);                                                             \
		if (class == VEC_MMX || class == VEC_SSEMMX)                                       \
			vec_x87_check_pending(cpu);                                                \
		vec_run_class(cpu, i, NULL, class);                                                \
	}                                                                                          \
	static void name##_load(struct soft_cpu *cpu, const struct insn *i)                        \
	{                                                                                          \
		vec_check(cpu, class);                                                             \
		if (class == VEC_MMX || class == VEC_SSEMMX)                                       \
			vec_x87_check_pending(cpu);                                                \
		vec_run_class(cpu, i, vec_source(cpu, i), class);                                  \
	}                                                                                          \
	static void name##_store(struct soft_cpu *cpu, const struct insn *i)                       \
	{                                                                                          \
		vec_check(cpu, class);                                                             \
		if (class == VEC_MMX || class == VEC_SSEMMX)                                       \
			vec_x87_check_pending(cpu);                                                \
		vec_store(cpu, i, class);                                                          \
	}
VEC_HANDLERS(vec_int, VEC_INT)
VEC_HANDLERS(vec_mmx, VEC_MMX)
VEC_HANDLERS(vec_sse, VEC_SSE)
VEC_HANDLERS(vec_ssemmx, VEC_SSEMMX)
VEC_HANDLERS(vec_avx, VEC_AVX)
VEC_HANDLERS(vec_evex, VEC_AVX512)

static void vec_wait(struct soft_cpu *cpu, const struct insn *i)
{
	vec_check(cpu, VEC_WAIT);
	vec_x87_check_pending(cpu);
}

static ALWAYS_INLINE uint16_t vec_opcode(const struct insn *i)
{
	return (uint16_t)(((i->aux >> VEC_OP_SHIFT) & 7) << 8 | i->r1);
}

static ALWAYS_INLINE void vec_x87_begin(struct soft_cpu *cpu, const struct insn *i,
					struct vec_pointers *p)
{
	vec_check(cpu, VEC_X87);
	if (!(i->aux & VEC_NOWAIT))
		vec_x87_check_pending(cpu);
	vec_pointers_get(cpu, p);
	if (i->aux & VEC_CONTROL)
		return;
	p->fip = cpu->s.rip;
	if (!cpu->vec->no_selectors)
		vec_selector_set(cpu, VEC_FX_FCS, X86_CS);
	if (!cpu->vec->fop_late)
		p->fop = vec_opcode(i);
}

static ALWAYS_INLINE void vec_x87_operand(struct soft_cpu *cpu, const struct insn *i,
					  struct vec_pointers *p)
{
	if (i->aux & VEC_CONTROL)
		return;
	if (!cpu->vec->fdp_late)
		p->fdp = soft_ea_offset(cpu, i);
	if (!cpu->vec->no_selectors)
		vec_selector_set(cpu, VEC_FX_FDS, i->seg);
}

/* The instruction has been executed; with an operand in memory if `mem`. */
static ALWAYS_INLINE void vec_x87_end(struct soft_cpu *cpu, const struct insn *i,
				      struct vec_pointers *p, _Bool mem)
{
	if (UNLIKELY(vec_x87_pending(cpu)) && !(i->aux & VEC_CONTROL)) {
		p->fop = vec_opcode(i);
		if (mem)
			p->fdp = soft_ea_offset(cpu, i);
	}
	vec_pointers_set(cpu, p);
}

static void vec_x87_reg(struct soft_cpu *cpu, const struct insn *i)
{
	struct vec_pointers p;

	vec_x87_begin(cpu, i, &p);
	vec_run(cpu, i, NULL);
	vec_x87_end(cpu, i, &p, 0);
}

static void vec_x87_load(struct soft_cpu *cpu, const struct insn *i)
{
	struct vec_pointers p;

	vec_x87_begin(cpu, i, &p);
	vec_x87_operand(cpu, i, &p);
	vec_run(cpu, i, vec_source(cpu, i));
	vec_x87_end(cpu, i, &p, 1);
}

/* A store through the buffer may turn out not to happen, when it raises an unmasked exception: then
 * two runs with different bytes in the buffer both leave them. */
static COLD _Bool vec_x87_stores(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = i->aux & VEC_SIZE;
	uint8_t before[X86_FX_ST + 128], first[16], *buf = cpu->vec->buf;

	memcpy(before, cpu->s.fpu.fx, sizeof(before));
	memset(buf, 0x55, size);
	vec_run(cpu, i, buf);
	if (!vec_x87_pending(cpu))
		return 1;
	memcpy(first, buf, size);
	memcpy(cpu->s.fpu.fx, before, sizeof(before));
	memset(buf, 0xaa, size);
	vec_run(cpu, i, buf);
	return memcmp(first, buf, size) == 0;
}

/* Intel's CPUs have stored the mantissa when they look at the rest of the operand. */
static COLD void vec_x87_mantissa(struct soft_cpu *cpu, const struct insn *i, uint64_t lin)
{
	uint8_t before[X86_FX_ST + 128];
	_Bool stores;

	memcpy(before, cpu->s.fpu.fx, sizeof(before));
	stores = vec_x87_stores(cpu, i);
	memcpy(cpu->s.fpu.fx, before, sizeof(before));
	if (stores)
		soft_store_bytes(cpu, i->seg, lin, cpu->vec->buf, 8);
}

static COLD void vec_x87_store_slow(struct soft_cpu *cpu, const struct insn *i, uint64_t lin)
{
	unsigned size = i->aux & VEC_SIZE;

	soft_align(cpu, i->seg, lin, size);
	if (size == 10) { /* the mantissa first, as in loads */
		soft_probe(cpu, i->seg, lin, 8, 1);
		if (!soft_amd(cpu))
			vec_x87_mantissa(cpu, i, lin);
	}
	soft_probe(cpu, i->seg, lin, size, 1);
	if (vec_x87_stores(cpu, i))
		soft_store(cpu, i->seg, lin, cpu->vec->buf, size);
}

/* Intel's CPUs do not look at the operand when they do not store, so nothing can be wrong with it.
 */
static COLD _Bool vec_x87_store_vain(struct soft_cpu *cpu, const struct insn *i)
{
	uint8_t before[X86_FX_ST + 128];

	if (soft_amd(cpu))
		return 0;
	memcpy(before, cpu->s.fpu.fx, sizeof(before));
	if (!vec_x87_stores(cpu, i))
		return 1;
	memcpy(cpu->s.fpu.fx, before, sizeof(before));
	return 0;
}

static void vec_x87_store(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = i->aux & VEC_SIZE;
	const struct soft_tlb_entry *e;
	struct vec_pointers p;
	uint64_t lin;

	vec_x87_begin(cpu, i, &p);
	vec_x87_operand(cpu, i, &p);
	if (UNLIKELY(~cpu->s.fpu.fx[X86_FX_FCW] & 0x3f) && !(i->aux & VEC_CONTROL) &&
	    vec_x87_store_vain(cpu, i)) {
		vec_x87_end(cpu, i, &p, 1);
		return;
	}
	lin = soft_lin(cpu, i, size, 1);
	e = soft_tlb_at(cpu, lin);
	if (LIKELY(e->write == soft_tlb_tag(cpu, lin, size))) {
		vec_run(cpu, i, (void *)(uintptr_t)(lin + e->addend));
		vec_x87_end(cpu, i, &p, 1);
		__asm__ volatile("" ::: "memory");
		if (UNLIKELY(*(volatile uint8_t *)e->flags))
			soft_stored(cpu, e->flags, lin, size);
		return;
	}
	vec_x87_store_slow(cpu, i, lin);
	vec_x87_end(cpu, i, &p, 1);
}

insn_fn *vec_run_handler(enum vec_class class, _Bool reads, _Bool writes)
{
	static insn_fn *const table[VEC_CLASSES][3] = {
	    [VEC_INT] = {vec_int_reg, vec_int_load, vec_int_store},
	    [VEC_WAIT] = {vec_wait, vec_wait, vec_wait},
	    [VEC_X87] = {vec_x87_reg, vec_x87_load, vec_x87_store},
	    [VEC_MMX] = {vec_mmx_reg, vec_mmx_load, vec_mmx_store},
	    [VEC_SSE] = {vec_sse_reg, vec_sse_load, vec_sse_store},
	    [VEC_SSEMMX] = {vec_ssemmx_reg, vec_ssemmx_load, vec_ssemmx_store},
	    [VEC_AVX] = {vec_avx_reg, vec_avx_load, vec_avx_store},
	    [VEC_AVX512] = {vec_evex_reg, vec_evex_load, vec_evex_store},
	};

	return table[class][writes ? 2 : reads ? 1 : 0];
}
