/* seg.c: segmentation as data accesses see it, and what the CPU's mode means to the core. */
#include "engine/soft/core.h"

static NORETURN void seg_fault(struct soft_cpu *cpu, unsigned seg)
{
	soft_raise_err(cpu, seg == X86_SS ? X86_VEC_SS : X86_VEC_GP, 0);
}

/* Limit and type (SDM3 5.3, 5.5). */
static void seg_check(struct soft_cpu *cpu, unsigned seg, uint32_t offset, unsigned size,
		      _Bool write)
{
	const struct x86_seg *s = &cpu->s.seg[seg];
	uint32_t last = offset + (size - 1);

	if (s->attr & X86_SEG_UNUSABLE)
		seg_fault(cpu, seg);
	_Bool code = !!(s->attr & 8);
	if (!(cpu->mode & SOFT_MODE_REAL)) {
		if (write ? code || !(s->attr & 2) : code && !(s->attr & 2))
			seg_fault(cpu, seg);
	}
	if (!code && (s->attr & 4)) { /* expand-down: valid above the limit */
		uint32_t top = s->attr & X86_SEG_DB ? UINT32_MAX : 0xffff;
		if (offset <= s->limit || last < offset || last > top)
			seg_fault(cpu, seg);
	} else if (last < offset ? s->limit != UINT32_MAX : last > s->limit) {
		seg_fault(cpu, seg);
	}
}

uint64_t soft_seg_lin(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size,
		      _Bool write)
{
	if (soft_is64(cpu))
		return seg >= X86_FS ? cpu->s.seg[seg].base + offset : offset;
	if (!(cpu->mode & SOFT_MODE_FLAT) || seg >= X86_FS || (seg == X86_CS && write))
		seg_check(cpu, seg, (uint32_t)offset, size, write);
	return (uint32_t)(cpu->s.seg[seg].base + offset);
}

uint64_t soft_ea_offset(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t ea =
	    SOFT_UNIT(cpu, i->base) + (SOFT_UNIT(cpu, i->index) << i->scale) + (uint64_t)i->disp;

	return i->asize == 8 ? ea : i->asize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

uint64_t soft_ea(struct soft_cpu *cpu, const struct insn *i, unsigned size, _Bool write)
{
	return soft_seg_lin(cpu, i->seg, soft_ea_offset(cpu, i), size, write);
}

/* A segment that data accesses need not check: the whole 4 GiB, read and write. */
static _Bool seg_open(const struct x86_seg *s)
{
	return s->limit == UINT32_MAX &&
	       (s->attr & (X86_SEG_UNUSABLE | X86_SEG_P | 8 | 4 | 2)) == (X86_SEG_P | 2);
}
static _Bool seg_flat(const struct x86_seg *s)
{
	return !s->base && seg_open(s);
}

void soft_mode_update(struct soft_cpu *cpu)
{
	const struct x86_state *s = &cpu->s;
	const struct x86_seg *cs = &s->seg[X86_CS], *ss = &s->seg[X86_SS];
	uint32_t mode;
	_Bool v86 = soft_is_v86(cpu);

	cpu->cpl = soft_is_real(cpu) ? 0 : v86 ? 3 : X86_SEG_DPL(ss->attr);
	if (soft_is_long(cpu) && (cs->attr & X86_SEG_L)) {
		mode = SOFT_MODE_64 | SOFT_MODE_FLAT | (cpu->cpl == 3 ? SOFT_MODE_USER : 0);
	} else {
		mode = cs->attr & X86_SEG_DB ? SOFT_MODE_32 : SOFT_MODE_16;
		if (ss->attr & X86_SEG_DB)
			mode |= SOFT_MODE_SS32;
		if (soft_is_real(cpu) || v86)
			mode |= SOFT_MODE_REAL;
		if (soft_is_long(cpu))
			mode |= SOFT_MODE_COMPAT;
		/* CS is readable code; writes through it are checked at decoding. */
		if (seg_flat(&s->seg[X86_DS]) && seg_flat(&s->seg[X86_ES]) && seg_flat(ss) &&
		    !cs->base && cs->limit == UINT32_MAX && (cs->attr & 10) == 10)
			mode |= SOFT_MODE_FLAT;
	}
	cpu->mode = mode;
	cpu->seg_open = (uint8_t)(seg_open(&s->seg[X86_FS]) | seg_open(&s->seg[X86_GS]) << 1);
	cpu->align_check = cpu->cpl == 3 && (s->cr0 & X86_CR0_AM) && (s->rflags & X86_AC);
	cpu->data_bp = cpu->io_bp = 0;
	cpu->slow = s->rflags & (X86_TF | X86_RF) ? SOFT_SLOW_GUEST : 0;
	if (UNLIKELY(cpu->debug)) {
		cpu->slow |= SOFT_SLOW_DEBUG;
		cpu->data_bp = soft_debug_watches(cpu);
	}
	if (UNLIKELY(s->dr7 & 0xff)) {
		cpu->slow |= SOFT_SLOW_GUEST;
		for (unsigned i = 0; i < 4; i++)
			if (((s->dr7 >> (i * 2)) & 3) && ((s->dr7 >> (16 + i * 4)) & 3) == 2)
				cpu->io_bp = !!(s->cr4 & X86_CR4_DE);
			else if (((s->dr7 >> (i * 2)) & 3) && ((s->dr7 >> (16 + i * 4)) & 3))
				cpu->data_bp = 1;
	}
	soft_mmu_control(cpu);
	cpu->itlb = cpu->mmu->itlb[cpu->cpl == 3];
	cpu->tlb =
	    &cpu->mmu->tlb[cpu->align_check || cpu->data_bp ? SOFT_TLB_NONE : soft_mmu_kind(cpu)];
	if (cpu->align_check || cpu->data_bp)
		soft_near_forget(cpu);
	soft_asid_select(cpu);
}
