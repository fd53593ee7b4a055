/* direct_regs.c: registers between the CPU and a helper's signal frame.
 *
 * The frame is what the host's kernel left on the signal stack: general registers, flags, and an
 * XSAVE image in the standard form (Linux's struct rt_sigframe; SDM1 13.4). Guest code may have
 * written to it before it was one, so what comes in is only ever a wish of user code about its own
 * registers.
 */
#include <signal.h>
#include <stddef.h>
#include <ucontext.h>
#include "engine/soft/direct.h"
#include "engine/soft/sys.h"
#include "engine/soft/vec.h"

#define XSAVE_BV   512u
#define XSAVE_YMM  576u
#define XSAVE_SW   464u /* software's: a magic number, sizes, which components */
#define XSAVE_SIZE 832u
#define FX_XMM	   160u
#define SW_MAGIC   0x46505853u
#define SW_END	   0x46505845u /* behind the image */
#define USER_CS	   0x33u
#define USER_SS	   0x2bu

/* What user code may change by itself. RF is what the host pushed for its own fault. */
#define FLAGS_IN ((uint64_t)(X86_ARITH | X86_TF | X86_DF | X86_AC | X86_ID | X86_NT))

static const unsigned greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				     REG_RSI, REG_RDI, REG_R8,	REG_R9,	 REG_R10, REG_R11,
				     REG_R12, REG_R13, REG_R14, REG_R15};

/* Of the whole XSAVE image, once that is known; SW_END follows. */
static uint32_t software_size(const struct direct_helper *h)
{
	uint32_t size;

	memcpy(&size, h->software + 16, sizeof(size));
	return size;
}

/* The frame's parts, if they lie in the signal stack and apart from each other. */
static _Bool frame_find(const struct direct_helper *h, uint64_t size, ucontext_t **uc,
			siginfo_t **info, uint8_t **xsave)
{
	uint8_t *shared = (uint8_t *)h->shared;
	uint64_t low = h->base + DIRECT_CODE_SIZE, at, end;
	/* Return address, context without glibc's own tail, siginfo. */
	const uint64_t head = 8 + offsetof(ucontext_t, uc_sigmask) + 8;

	if (h->frame < DIRECT_STACK ||
	    h->frame > DIRECT_SHARED_SIZE - head - sizeof(siginfo_t) - size || h->frame & 7)
		return 0;
	*uc = (ucontext_t *)(void *)(shared + h->frame + 8);
	*info = (siginfo_t *)(void *)(shared + h->frame + head);
	at =
	    __atomic_load_n((uint64_t *)(void *)&(*uc)->uc_mcontext.fpregs, __ATOMIC_RELAXED) - low;
	size = MAX(size, (uint64_t)software_size(h) + 4);
	end = h->frame + head + sizeof(siginfo_t);
	if (at < end || at > DIRECT_SHARED_SIZE - size || at & 63)
		return 0;
	*xsave = shared + at;
	return 1;
}

/*
 * AVX-512's components are at the offsets that CPUID gives to guest and host alike. Most programs
 * leave them in their initial state, for which a bit of the header is enough.
 */
enum { COMP_OPMASK = 5, COMP_ZMM_HI, COMP_ZMM_16 };

static uint32_t comp_offset(const struct soft_cpu *cpu, unsigned n)
{
	return cpu->vec->xsave[n].offset;
}

/* May the guest's user code use them? Else they are as after reset in each frame. */
static _Bool avx512_used(const struct soft_cpu *cpu)
{
	return cpu->vec->avx512 && (cpu->s.xcr0 & X86_XCR0_AVX512) == X86_XCR0_AVX512;
}

static uint64_t avx512_out(const struct soft_cpu *cpu, uint8_t *xsave)
{
	const struct x86_fpu *f = &cpu->s.fpu;
	uint64_t used;

	if (!avx512_used(cpu))
		return 0;
	used = vec_in_use(cpu) & X86_XCR0_AVX512;
	if (used & BIT64(COMP_OPMASK))
		memcpy(xsave + comp_offset(cpu, COMP_OPMASK), f->k, sizeof(f->k));
	for (unsigned i = 0; i < 16 && (used & BIT64(COMP_ZMM_HI)); i++)
		memcpy(xsave + comp_offset(cpu, COMP_ZMM_HI) + (size_t)i * 32, f->vec[i] + 32, 32);
	if (used & BIT64(COMP_ZMM_16))
		memcpy(xsave + comp_offset(cpu, COMP_ZMM_16), f->vec[16], sizeof(f->vec) / 2);
	return used;
}

/* Upper halves that are loaded count as in use even when they are 0, and then Intel's CPUs let each
 * SSE instruction wait for what its result was before. */
static uint64_t avx_out(const struct soft_cpu *cpu, uint8_t *xsave)
{
	const struct x86_fpu *f = &cpu->s.fpu;
	uint64_t any = 0, upper[2];

	for (unsigned i = 0; i < 16; i++) {
		memcpy(upper, f->vec[i] + 16, 16);
		memcpy(xsave + XSAVE_YMM + (size_t)i * 16, upper, 16);
		any |= upper[0] | upper[1];
	}
	return any ? X86_XCR0_AVX : 0;
}

static void avx512_in(struct soft_cpu *cpu, const uint8_t *xsave, uint64_t bv)
{
	struct x86_fpu *f = &cpu->s.fpu;

	if (!avx512_used(cpu))
		return;
	if (bv & BIT64(COMP_OPMASK))
		memcpy(f->k, xsave + comp_offset(cpu, COMP_OPMASK), sizeof(f->k));
	else
		memset(f->k, 0, sizeof(f->k));
	for (unsigned i = 0; i < 16; i++) {
		if (bv & BIT64(COMP_ZMM_HI))
			memcpy(f->vec[i] + 32,
			       xsave + comp_offset(cpu, COMP_ZMM_HI) + (size_t)i * 32, 32);
		else
			memset(f->vec[i] + 32, 0, 32);
	}
	if (bv & BIT64(COMP_ZMM_16))
		memcpy(f->vec[16], xsave + comp_offset(cpu, COMP_ZMM_16), sizeof(f->vec) / 2);
	else
		memset(f->vec[16], 0, sizeof(f->vec) / 2);
}

/* How much of the image is read or written. */
static uint64_t xsave_size(const struct soft_cpu *cpu)
{
	uint64_t size = XSAVE_SIZE;

	for (unsigned n = COMP_OPMASK; cpu && cpu->vec->avx512 && n <= COMP_ZMM_16; n++)
		size = MAX(size, (uint64_t)cpu->vec->xsave[n].offset + cpu->vec->xsave[n].size);
	return size;
}

void direct_regs_out(struct soft_cpu *cpu, struct direct_helper *h)
{
	struct direct_shared *s = h->shared;
	const struct x86_state *x = &cpu->s;
	ucontext_t *uc;
	siginfo_t *info;
	uint8_t *xsave;
	const uint32_t end = SW_END;
	uint64_t bv;

	if (!frame_find(h, xsave_size(cpu), &uc, &info, &xsave))
		return; /* found when it was read in */
	for (unsigned i = 0; i < 16; i++)
		uc->uc_mcontext.gregs[greg_of[i]] = (greg_t)x->gpr[i];
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)x->rip;
	uc->uc_mcontext.gregs[REG_EFL] = (greg_t)((soft_flags_get(cpu) & FLAGS_IN) | X86_IF);
	uc->uc_mcontext.gregs[REG_CSGSFS] = (greg_t)((uint64_t)USER_CS | (uint64_t)USER_SS << 48);
	/* Guest code may have made this frame: nothing else in it may be its own. */
	uc->uc_flags = h->uc_flags;
	uc->uc_link = NULL;
	uc->uc_stack =
	    (stack_t){.ss_sp = (void *)(uintptr_t)(h->base + DIRECT_CODE_SIZE + DIRECT_STACK),
		      .ss_size = DIRECT_SHARED_SIZE - DIRECT_STACK};
	memset(&uc->uc_sigmask, 0, 8);
	memcpy(xsave + XSAVE_SW, h->software, sizeof(h->software));
	s->flags = (uint32_t)(x->rflags & DIRECT_FLAGS);
	memcpy(xsave, x->fpu.fx, X86_FX_MASK);
	memcpy(xsave + X86_FX_ST, x->fpu.fx + X86_FX_ST, FX_XMM - X86_FX_ST);
	for (unsigned i = 0; i < 16; i++)
		memcpy(xsave + FX_XMM + (size_t)i * 16, x->fpu.vec[i], 16);
	/* Whatever else the host has is as after reset, protection keys too: user code that has
	 * locked itself out by them goes on, and nobody else gets them. */
	bv = X86_XCR0_X87 | X86_XCR0_SSE | avx_out(cpu, xsave) | avx512_out(cpu, xsave);
	memcpy(xsave + XSAVE_BV, &bv, 8);
	memset(xsave + XSAVE_BV + 8, 0, 56); /* the standard form */
	memcpy(xsave + software_size(h), &end, sizeof(end));
	s->fs_base = x->seg[X86_FS].base;
	s->gs_base = x->seg[X86_GS].base;
}

int direct_regs_learn(const struct soft_cpu *cpu, struct direct_helper *h)
{
	uint64_t need = X86_XCR0_AVX | (cpu && cpu->vec->avx512 ? X86_XCR0_AVX512 : 0);
	ucontext_t *uc;
	siginfo_t *info;
	uint8_t *xsave;
	uint32_t magic;
	uint64_t features;

	if (!frame_find(h, xsave_size(cpu), &uc, &info, &xsave))
		return -1;
	h->uc_flags = uc->uc_flags;
	memcpy(h->software, xsave + XSAVE_SW, sizeof(h->software));
	memcpy(&magic, h->software, 4);
	memcpy(&features, h->software + 8, 8);
	h->top = h->frame;
	return magic == SW_MAGIC && (features & need) == need &&
		       software_size(h) < DIRECT_SHARED_SIZE - DIRECT_STACK &&
		       software_size(h) >= xsave_size(cpu) &&
		       frame_find(h, xsave_size(cpu), &uc, &info, &xsave)
		   ? 0
		   : -1;
}

_Bool direct_regs_whole(const struct direct_helper *h)
{
	const greg_t *g =
	    ((ucontext_t *)(void *)((uint8_t *)h->shared + h->top + 8))->uc_mcontext.gregs;

	return h->frame == h->top &&
	       (uint64_t)__atomic_load_n(&g[REG_RIP], __ATOMIC_ACQUIRE) - h->base >= DIRECT_REGION;
}

int direct_regs_wipe(struct direct_helper *h)
{
	const uint64_t handler = 0x400; /* what the stub's handler has of the stack, and more */
	struct direct_shared *s = h->shared;
	ucontext_t *uc;
	siginfo_t *info;
	uint8_t *xsave;

	if (!frame_find(h, software_size(h), &uc, &info, &xsave))
		return -1;
	fpregset_t place = uc->uc_mcontext.fpregs;
	uint64_t from = h->frame - MIN(handler, h->frame - DIRECT_STACK);
	memset((uint8_t *)s + from, 0, DIRECT_SHARED_SIZE - from);
	uc->uc_mcontext.fpregs = place;
	s->fs_base = s->gs_base = s->out_fs_base = s->out_gs_base = 0;
	s->out_frame = 0;
	s->out_signal = 0;
	/* Not null, whatever they were: the stub loads them anew. */
	memset(s->out_sel, 0xff, sizeof(s->out_sel));
	return 0;
}

static void vectors_in(struct soft_cpu *cpu, const uint8_t *xsave)
{
	struct x86_fpu *f = &cpu->s.fpu;
	uint64_t bv;

	memcpy(&bv, xsave + XSAVE_BV, 8);
	memcpy(f->fx, xsave, X86_FX_MXCSR);
	memcpy(f->fx + X86_FX_ST, xsave + X86_FX_ST, FX_XMM - X86_FX_ST);
	uint32_t mxcsr;
	memcpy(&mxcsr, xsave + X86_FX_MXCSR, 4);
	mxcsr &= 0xffff; /* a forged one; the others' upper bits are 0 */
	memcpy(f->fx + X86_FX_MXCSR, &mxcsr, 4);
	for (unsigned i = 0; i < 16; i++) {
		memcpy(f->vec[i], xsave + FX_XMM + (size_t)i * 16, 16);
		if (bv & X86_XCR0_AVX)
			memcpy(f->vec[i] + 16, xsave + XSAVE_YMM + (size_t)i * 16, 16);
		else
			memset(f->vec[i] + 16, 0, 16);
	}
	avx512_in(cpu, xsave, bv);
}

/* User code loaded another code segment: a far jump or return. */
static void code_segment_in(struct soft_cpu *cpu, uint16_t sel)
{
	struct sys_desc d;

	if (!(sel & 0xfffc) || (sel & 3) != 3 || !sys_desc_read(cpu, sel, &d))
		sys_gp(cpu, sel & 0xfffc);
	/* The checks of a far jump in ring 3: what the frame says may be a lie. */
	if (!desc_is_code(d.lo) || !desc_present(d.lo) ||
	    (!(desc_type(d.lo) & X86_TYPE_C) && desc_dpl(d.lo) != 3) ||
	    (desc_attr(d.lo) & X86_SEG_L && desc_attr(d.lo) & X86_SEG_DB))
		sys_gp(cpu, sel & 0xfffc);
	sys_desc_touch(cpu, &d);
	cpu->s.seg[X86_CS] = seg_from_desc(sel, d.lo, 0);
	soft_mode_update(cpu);
}

void direct_selectors_in(struct soft_cpu *cpu, const struct direct_helper *h)
{
	static const uint8_t seg[4] = {X86_DS, X86_ES, X86_FS, X86_GS};
	const struct direct_shared *s = h->shared;
	uint16_t sel[4], cs = h->cs, ss = h->ss;

	memcpy(sel, s->out_sel, sizeof(sel));
	if (LIKELY(cs == USER_CS && ss == USER_SS && !(sel[0] | sel[1] | sel[2] | sel[3])))
		return;
	/* The host's kernel tells of SYSENTER before it returns to 32-bit code, with an address
	 * that is cut only by returning. */
	if (cs != USER_CS)
		cpu->s.rip = (uint32_t)cpu->s.rip;
	for (unsigned i = 0; i < 4; i++) {
		if (!sel[i])
			continue;
		uint64_t base = cpu->s.seg[seg[i]].base;
		sys_seg_load(cpu, seg[i], sel[i]);
		if (seg[i] == X86_FS || seg[i] == X86_GS) /* may have been written since */
			cpu->s.seg[seg[i]].base = base;
	}
	if (ss != USER_SS)
		sys_seg_load(cpu, X86_SS, ss);
	if (cs != USER_CS)
		code_segment_in(cpu, cs);
}

int direct_regs_in(struct soft_cpu *cpu, struct direct_helper *h, struct direct_exit *exit)
{
	struct direct_shared *s = h->shared;
	struct x86_state *x = &cpu->s;
	greg_t g[NGREG];
	ucontext_t *uc;
	siginfo_t *info;
	uint8_t *xsave;

	h->frame = __atomic_load_n(&s->out_frame, __ATOMIC_ACQUIRE) - h->base - DIRECT_CODE_SIZE;
	if (!frame_find(h, xsave_size(cpu), &uc, &info, &xsave))
		return -1;
	memcpy(g, uc->uc_mcontext.gregs, sizeof(g));
	for (unsigned i = 0; i < 16; i++)
		x->gpr[i] = (uint64_t)g[greg_of[i]];
	x->rip = (uint64_t)g[REG_RIP];
	soft_flags_set(cpu, (soft_flags_get(cpu) & ~FLAGS_IN) | ((uint64_t)g[REG_EFL] & FLAGS_IN) |
				X86_FIXED);
	vectors_in(cpu, xsave);
	/* Bases that are not canonical cannot come from a CPU. */
	if (soft_canonical(s->out_fs_base))
		x->seg[X86_FS].base = s->out_fs_base;
	if (soft_canonical(s->out_gs_base))
		x->seg[X86_GS].base = s->out_gs_base;
	h->cs = (uint16_t)g[REG_CSGSFS];
	h->ss = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
	*exit = (struct direct_exit){
	    .signal = s->out_signal,
	    .code = info->si_code,
	    .trap = (uint64_t)g[REG_TRAPNO],
	    .error = (uint64_t)g[REG_ERR],
	    .address = (uint64_t)g[REG_CR2],
	    .call = (uint64_t)(uintptr_t)info->si_call_addr,
	};
	soft_mode_update(cpu);
	return 0;
}
