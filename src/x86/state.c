/* state.c: a CPU's state at power-on and INIT, and what the architecture allows it to hold. */
#include "x86/state.h"

#include <errno.h>
#include <string.h>
#include "base/error.h"
#include "base/le.h"
#include "x86/regs.h"

#define PAT_RESET    UINT64_C(0x0007040600070406)
#define MXCSR_RESET  0x1f80u
#define ATTR_DATA16  0x93u /* present, writable, accessed */
#define ATTR_CODE16  0x9bu
#define ATTR_LDT     0x82u
#define ATTR_TSS16_B 0x83u
#define ATTR_TSS32_B 0x8bu

static struct x86_seg seg_make(uint16_t selector, uint64_t base, uint32_t limit, uint32_t attr)
{
	return (struct x86_seg){.base = base, .limit = limit, .attr = attr, .selector = selector};
}

/* What power-on and INIT have in common (SDM3 table 10-1). */
static void state_start(struct x86_state *s, _Bool bsp)
{
	for (unsigned i = 0; i < 6; i++)
		s->seg[i] = seg_make(0, 0, 0xffff, ATTR_DATA16);
	s->seg[X86_CS] = seg_make(0xf000, 0xffff0000, 0xffff, ATTR_CODE16);
	s->ldt = seg_make(0, 0, 0xffff, ATTR_LDT);
	s->tr = seg_make(0, 0, 0xffff, ATTR_TSS32_B);
	s->gdt = s->idt = (struct x86_table){.limit = 0xffff};
	s->rip = 0xfff0;
	s->rflags = X86_FIXED;
	s->dr6 = X86_DR6_FIXED;
	s->dr7 = X86_DR7_FIXED;
	s->activity = bsp ? X86_RUNNING : X86_WAIT_SIPI;
}

void x86_state_reset(struct x86_state *s, _Bool bsp)
{
	memset(s, 0, sizeof(*s));
	state_start(s, bsp);
	s->cr0 = X86_CR0_CD | X86_CR0_NW | X86_CR0_ET;
	s->xcr0 = X86_XCR0_X87;
	s->pat = PAT_RESET;
	s->misc_enable = 1; /* fast strings */
	store_le16(s->fpu.fx + X86_FX_FCW, 0x40);
	s->fpu.fx[X86_FX_FTW] = 0xff; /* tags 5555h: eight zeroes, none empty */
	store_le32(s->fpu.fx + X86_FX_MXCSR, MXCSR_RESET);
	store_le32(s->fpu.fx + X86_FX_MASK, 0xffff);
}

void x86_state_init(struct x86_state *s, _Bool bsp)
{
	uint64_t cache = s->cr0 & (X86_CR0_CD | X86_CR0_NW);

	memset(s->gpr, 0, sizeof(s->gpr));
	memset(s->dr, 0, sizeof(s->dr));
	state_start(s, bsp);
	s->cr0 = cache | X86_CR0_ET;
	s->cr2 = s->cr3 = s->cr4 = 0;
	s->efer = 0;
	s->debugctl = 0;
	s->shadow_sti = s->shadow_ss = s->nmi_masked = 0;
	s->event_valid = s->event_vector = s->event_kind = s->event_has_error = 0;
	s->event_error = 0;
}

static _Bool canonical(const struct x86_state *s, uint64_t a)
{
	unsigned shift = s->cr4 & X86_CR4_LA57 ? 7 : 16;

	return (uint64_t)((int64_t)(a << shift) >> shift) == a;
}

#define CR0_KNOWN                                                                                  \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE |             \
	 X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR4_KNOWN                                                                                  \
	(X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE |        \
	 X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT |           \
	 X86_CR4_UMIP | X86_CR4_LA57 | X86_CR4_FSGSBASE | X86_CR4_PCIDE | X86_CR4_OSXSAVE |        \
	 X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PKE)
#define EFER_KNOWN                                                                                 \
	(X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_FFXSR |              \
	 X86_EFER_AIBRS)
#define RFLAGS_KNOWN                                                                               \
	(X86_ARITH | X86_FIXED | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_RF | X86_VM |  \
	 X86_AC | X86_VIF | X86_VIP | X86_ID)

static const char *check_control(const struct x86_state *s)
{
	_Bool lma = s->efer & X86_EFER_LMA;

	if (s->cr0 & ~CR0_KNOWN || !(s->cr0 & X86_CR0_ET))
		return "CR0 has reserved bits";
	if (s->cr0 & X86_CR0_PG && !(s->cr0 & X86_CR0_PE))
		return "CR0 has paging without protection";
	if (s->cr0 & X86_CR0_NW && !(s->cr0 & X86_CR0_CD))
		return "CR0 has NW without CD";
	if (s->cr4 & ~CR4_KNOWN)
		return "CR4 has reserved bits";
	if (s->efer & ~EFER_KNOWN)
		return "EFER has reserved bits";
	if (lma != (s->efer & X86_EFER_LME && s->cr0 & X86_CR0_PG))
		return "EFER.LMA disagrees with LME and CR0.PG";
	if (lma && !(s->cr4 & X86_CR4_PAE))
		return "long mode is active without CR4.PAE";
	if (s->cr4 & X86_CR4_PCIDE && !lma)
		return "CR4.PCIDE is set outside of long mode";
	if (s->cr3 >> 52)
		return "CR3 has reserved bits";
	if (s->rflags & ~(uint64_t)RFLAGS_KNOWN || !(s->rflags & X86_FIXED))
		return "RFLAGS has reserved bits";
	if (s->rflags & X86_VM && (lma || !(s->cr0 & X86_CR0_PE)))
		return "virtual-8086 mode is set where it cannot be";
	/* In long mode it may be anything: AMD's CPUs go there and fault at the fetch. */
	if (!lma && s->rip >> 32)
		return "the instruction pointer is out of range";
	if (s->xcr0 & ~(X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512 | BIT64(9)) ||
	    !(s->xcr0 & X86_XCR0_X87) || (s->xcr0 & X86_XCR0_AVX && !(s->xcr0 & X86_XCR0_SSE)) ||
	    (s->xcr0 & X86_XCR0_AVX512 &&
	     ((s->xcr0 & X86_XCR0_AVX512) != X86_XCR0_AVX512 || !(s->xcr0 & X86_XCR0_AVX))))
		return "XCR0 is not a combination that exists";
	if (s->dr6 >> 32 || s->dr7 >> 32)
		return "a debug register has reserved bits";
	return NULL;
}

static const char *check_one_segment(const struct x86_seg *g)
{
	if (g->attr & ~0x1f0ffu)
		return "a segment's attributes have reserved bits";
	if (g->attr & X86_SEG_UNUSABLE)
		return NULL;
	if (g->attr & X86_SEG_G ? (g->limit & 0xfff) != 0xfff : g->limit > 0xfffff)
		return "a segment's limit disagrees with its granularity";
	return NULL;
}

/* Bases beyond 4 GiB are loaded in long mode, and stay when it is left. Not those that only
 * descriptors load. */
static _Bool base_is_low(const struct x86_state *s, unsigned i)
{
	return i >= X86_FS || s->efer & X86_EFER_LMA || s->seg[i].attr & X86_SEG_UNUSABLE ||
	       !(s->seg[i].base >> 32);
}

static const char *check_segments(const struct x86_state *s)
{
	const struct x86_seg *cs = &s->seg[X86_CS];
	const char *why;

	for (unsigned i = 0; i < 6; i++) {
		why = check_one_segment(&s->seg[i]);
		if (why)
			return why;
		if (!(s->seg[i].attr & (X86_SEG_UNUSABLE | X86_SEG_S)))
			return "a segment register holds a system segment";
		if (!base_is_low(s, i))
			return "a segment's base is beyond 4 GiB outside of long mode";
		if (!canonical(s, s->seg[i].base))
			return "a segment's base is not canonical";
	}
	why = check_one_segment(&s->ldt);
	if (!why)
		why = check_one_segment(&s->tr);
	if (why)
		return why;
	if (cs->attr & X86_SEG_UNUSABLE)
		return "CS is unusable";
	if (s->efer & X86_EFER_LMA && cs->attr & X86_SEG_L && cs->attr & X86_SEG_DB)
		return "CS is both 64-bit and 32-bit";
	if (!(s->ldt.attr & X86_SEG_UNUSABLE) && (s->ldt.attr & 0x9f) != ATTR_LDT)
		return "LDTR does not hold an LDT";
	if (!(s->tr.attr & X86_SEG_UNUSABLE) && (s->tr.attr & 0x9f) != ATTR_TSS32_B &&
	    (s->tr.attr & 0x9f) != ATTR_TSS16_B)
		return "TR does not hold a busy task";
	if (s->rflags & X86_VM && X86_SEG_DPL(s->seg[X86_SS].attr) != 3)
		return "virtual-8086 mode is set below privilege level 3";
	if (!canonical(s, s->ldt.base) || !canonical(s, s->tr.base) || !canonical(s, s->gdt.base) ||
	    !canonical(s, s->idt.base))
		return "a descriptor table's base is not canonical";
	return NULL;
}

static _Bool memory_types_valid(uint64_t v, _Bool pat)
{
	for (unsigned i = 0; i < 8; i++) {
		unsigned t = (v >> (8 * i)) & 0xff;

		if (t > 7 || t == 2 || t == 3 || (t == 7 && !pat))
			return 0;
	}
	return 1;
}

static const char *check_msrs(const struct x86_state *s)
{
	const uint64_t addresses[] = {s->lstar, s->cstar, s->kernel_gs_base, s->sysenter_esp,
				      s->sysenter_eip};

	for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++)
		if (!canonical(s, addresses[i]))
			return "an MSR that holds an address is not canonical";
	if (!memory_types_valid(s->pat, 1))
		return "PAT has a memory type that does not exist";
	for (unsigned i = 0; i < ARRAY_SIZE(s->mtrr_fixed); i++)
		if (!memory_types_valid(s->mtrr_fixed[i], 0))
			return "a fixed-range MTRR has a memory type that does not exist";
	if (!memory_types_valid(s->mtrr_def & 0xff, 0) || s->mtrr_def & ~UINT64_C(0xcff))
		return "the default MTRR has reserved bits";
	for (unsigned i = 0; i < X86_MTRR_VAR; i++)
		if (!memory_types_valid(s->mtrr_base[i] & 0xff, 0) ||
		    s->mtrr_base[i] & ~UINT64_C(0xffffffffff0ff) ||
		    s->mtrr_mask[i] & ~UINT64_C(0xffffffffff800))
			return "a variable-range MTRR has reserved bits";
	if (s->sfmask >> 32 || s->tsc_aux >> 32 || s->sysenter_cs >> 32)
		return "an MSR has reserved bits";
	return NULL;
}

static const char *check_activity(const struct x86_state *s)
{
	if (s->activity > X86_SHUTDOWN)
		return "the activity is not one that exists";
	if (s->shadow_sti > 1 || s->shadow_ss > 1 || s->nmi_masked > 1 || s->in_smm ||
	    s->event_valid > 1 || s->event_has_error > 1 || s->nmi_pending > 1 ||
	    s->init_pending > 1 || s->sipi_pending > 1)
		return "a flag is neither 0 nor 1";
	if (s->event_kind > X86_EVENT_SOFT ||
	    (s->event_valid && s->event_kind == X86_EVENT_EXCEPTION && s->event_vector > 31))
		return "the pending event is not one that exists";
	if (load_le32(s->fpu.fx + X86_FX_MXCSR) & ~0x2ffffu)
		return "MXCSR has reserved bits";
	return NULL;
}

int x86_state_check(const struct x86_state *s, struct error *err)
{
	const char *why = check_control(s);

	if (!why)
		why = check_segments(s);
	if (!why)
		why = check_msrs(s);
	if (!why)
		why = check_activity(s);
	if (why)
		return error_set(err, -EINVAL, "The CPU state is not valid: %s.", why);
	return 0;
}
