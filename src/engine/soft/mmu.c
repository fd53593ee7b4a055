/* mmu.c: the soft MMU: page-table walks, the TLBs and their invalidation.
 *
 * Every vCPU has a TLB per privilege: user, kernel, and kernel with SMAP overridden by EFLAGS.AC;
 * an entry stands for a 4 KiB page. Tags carry an address-space id ("asid") of 12 bits in the low
 * bits of the page address. Dropping an address space is giving it a new id: nothing is cleared
 * until the ids run out, then all is cleared and ids start over. With CR4.PCIDE every PCID has its
 * id, so that a CR3 load with bit 63 set finds its old translations.
 *
 * Global pages: under CR4.SMAP the kernel's TLB holds nothing of user pages, and mostly pages that
 * are global. It (and the kernel's code) has an id of its own then, which a CR3 load keeps: the few
 * pages under it that are not global are dropped one by one, or all when they are many. All other
 * TLBs have the address space's; there a global page is kept for less long than the architecture
 * allows.
 *
 * INVLPG drops the one entry of its page, whatever its id. When the address may lie in a large page
 * (a small hashed set remembers which regions did) everything is dropped.
 *
 * Accessed and dirty bits are set by compare-and-exchange on the entry as it was read; when it has
 * changed meanwhile the walk starts over. The write tag is only present once the dirty bit is set.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "engine/soft/core.h"
#include "engine/soft/direct.h"
#include "engine/soft/lockstep.h"

struct walk {
	uint64_t lin;
	enum soft_access access;
	_Bool user; /* as ring 3 */
	_Bool smap; /* user pages are forbidden to this supervisor access */
	uint64_t phys;
	_Bool writable, dirty; /* the result: may be written, D is set */
	_Bool global;
	unsigned page_shift;
};

static void entry_clear(struct soft_tlb *tlb, size_t i)
{
	tlb->e[i].read = tlb->e[i].write = SOFT_TLB_INVALID;
	tlb->victim[i].read = tlb->victim[i].write = SOFT_TLB_INVALID;
}

static void tlb_clear(struct soft_mmu *mmu)
{
	/* Only what was filled: SOFT_TLB_NONE stays untouched, its pages shared zeroes, with tag 0
	 * which asid 0 would match: ids start at 1. */
	for (unsigned k = 0; k < SOFT_TLB_NONE; k++)
		for (unsigned i = 0; i < SOFT_TLB_SIZE; i++)
			entry_clear(&mmu->tlb[k], i);
	for (unsigned k = 0; k < 2; k++)
		for (unsigned i = 0; i < SOFT_ITLB_SIZE; i++)
			mmu->itlb[k][i].tag = SOFT_TLB_INVALID;
}

static unsigned asid_new(struct soft_cpu *cpu)
{
	struct soft_mmu *mmu = cpu->mmu;

	if (mmu->next_asid >= 4095) { /* the last page under id 4095 would be SOFT_TLB_INVALID */
		tlb_clear(mmu);
		memset(mmu->asid_of, 0, sizeof(mmu->asid_of));
		mmu->kernel_asid = 0;
		mmu->next_asid = 1;
		soft_cache_forget(cpu);
		if (cpu->direct)
			direct_forget_all(cpu);
	}
	cpu->stats.flushes++;
	return mmu->next_asid++;
}

static unsigned pcid_now(const struct soft_cpu *cpu)
{
	return cpu->s.cr4 & X86_CR4_PCIDE ? (unsigned)cpu->s.cr3 & 0xfff : 0;
}

void soft_asid_select(struct soft_cpu *cpu)
{
	cpu->asid = cpu->tlb == &cpu->mmu->tlb[SOFT_TLB_KERNEL] ? cpu->asid_kernel : cpu->asid_user;
	cpu->asid_code = cpu->cpl == 3 ? cpu->asid_user : cpu->asid_kernel;
	soft_cache_rekey(cpu);
}

/* Ids for the present address space; new ones where there is none. */
static void asid_use(struct soft_cpu *cpu)
{
	const uint64_t both = X86_CR4_SMAP | X86_CR4_PGE;
	_Bool split = (cpu->s.cr4 & both) == both;
	struct soft_mmu *mmu = cpu->mmu;
	uint16_t *asid = &mmu->asid_of[pcid_now(cpu)];

	/* A new id may have emptied the table. */
	while (!*asid || (split && !mmu->kernel_asid)) {
		if (!*asid) {
			*asid = (uint16_t)asid_new(cpu);
		} else {
			mmu->kernel_asid = (uint16_t)asid_new(cpu);
			mmu->locals = 0;
		}
	}
	cpu->asid_user = *asid;
	cpu->asid_kernel = split ? mmu->kernel_asid : *asid;
	soft_near_forget(cpu);
	soft_asid_select(cpu);
}

static void entries_drop(struct soft_mmu *mmu, uint64_t lin)
{
	for (unsigned k = 0; k < SOFT_TLB_NONE; k++)
		entry_clear(&mmu->tlb[k], (lin >> 12) % SOFT_TLB_SIZE);
	for (unsigned k = 0; k < 2; k++)
		mmu->itlb[k][(lin >> 12) % SOFT_ITLB_SIZE].tag = SOFT_TLB_INVALID;
}

/* One page of 4 KiB, under whatever id. */
static void page_drop(struct soft_cpu *cpu, uint64_t lin)
{
	entries_drop(cpu->mmu, lin);
	soft_cache_forget_page(cpu, lin);
}

/* A page that is not global was entered under the kernel's id. */
static void kernel_note(struct soft_mmu *mmu, uint64_t lin, _Bool code)
{
	if (mmu->locals < ARRAY_SIZE(mmu->local))
		mmu->local[mmu->locals] = (lin & ~UINT64_C(0xfff)) | code;
	if (mmu->locals <= ARRAY_SIZE(mmu->local))
		mmu->locals++;
}

/* Drops those again: Linux patches its code through such a page, twice per patch. */
static void kernel_drop(struct soft_cpu *cpu)
{
	struct soft_mmu *mmu = cpu->mmu;

	if (mmu->locals > ARRAY_SIZE(mmu->local))
		mmu->kernel_asid = 0;
	else
		while (mmu->locals) {
			uint64_t local = mmu->local[--mmu->locals];
			if (local & 1)
				page_drop(cpu, local);
			else
				entries_drop(mmu, local);
		}
}

void soft_tlb_flush_all(struct soft_cpu *cpu)
{
	struct soft_mmu *mmu = cpu->mmu;

	memset(mmu->asid_of, 0, sizeof(mmu->asid_of));
	memset(mmu->large_2m, 0, sizeof(mmu->large_2m));
	memset(mmu->large_1g, 0, sizeof(mmu->large_1g));
	mmu->kernel_asid = 0;
	asid_use(cpu);
}

void soft_tlb_flush_pcid(struct soft_cpu *cpu, unsigned pcid)
{
	cpu->mmu->asid_of[pcid & 0xfff] = 0;
	kernel_drop(cpu);
	asid_use(cpu);
}

void soft_tlb_cr3(struct soft_cpu *cpu, _Bool keep)
{
	if (!keep)
		cpu->mmu->asid_of[pcid_now(cpu)] = 0;
	kernel_drop(cpu);
	asid_use(cpu);
}

/* Where a region's bit is in large_2m; in large_1g, which takes less. */
static uint64_t *large_2m(struct soft_mmu *mmu, uint64_t lin, uint64_t *bit)
{
	uint64_t h = ((lin >> 21) * UINT64_C(0x9e3779b97f4a7c15)) >> 48;

	*bit = BIT64(h % 64);
	return &mmu->large_2m[h / 64];
}

static uint64_t *large_1g(struct soft_mmu *mmu, uint64_t lin, uint64_t *bit)
{
	uint64_t h = ((lin >> 30) * UINT64_C(0x9e3779b97f4a7c15)) >> 54;

	*bit = BIT64(h % 64);
	return &mmu->large_1g[h / 64];
}

static _Bool large_may_be(struct soft_mmu *mmu, uint64_t lin)
{
	uint64_t bit;

	return (*large_2m(mmu, lin, &bit) & bit) || (*large_1g(mmu, lin, &bit) & bit);
}

void soft_tlb_flush_page(struct soft_cpu *cpu, uint64_t lin)
{
	soft_stack_forget(cpu);
	soft_near_forget(cpu);
	if (!soft_is64(cpu))
		lin = (uint32_t)lin;
	if (large_may_be(cpu->mmu, lin)) {
		soft_tlb_flush_all(cpu);
		return;
	}
	page_drop(cpu, lin);
	if (cpu->direct)
		direct_forget_page(cpu, lin);
}

/* Bits that must be 0 in the entries of all levels. */
static uint64_t reserved_always(const struct soft_cpu *cpu)
{
	const struct cpuid_policy *policy = cpu->base.engine->env->cpuid;
	uint64_t frame = BIT64(policy->phys_bits ? policy->phys_bits : 40) - 1;
	uint64_t bad = (BIT64(52) - 1) & ~frame;

	if (!(cpu->s.efer & X86_EFER_NXE))
		bad |= X86_PTE_NX;
	if (!soft_is_long(cpu))
		bad |= UINT64_C(0x7ff) << 52;
	return bad;
}

void soft_mmu_control(struct soft_cpu *cpu)
{
	const struct x86_state *s = &cpu->s;
	uint64_t control = (s->cr0 & (X86_CR0_PG | X86_CR0_WP)) |
			   (s->cr4 & (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP |
				      X86_CR4_SMAP | X86_CR4_PCIDE | X86_CR4_LA57))
			       << 32 |
			   (s->efer & (X86_EFER_LMA | X86_EFER_NXE));

	if (control == cpu->mmu->control)
		return;
	cpu->mmu->control = control;
	cpu->mmu->reserved = reserved_always(cpu);
	soft_tlb_flush_all(cpu);
}

void soft_mmu_apic(struct soft_cpu *cpu)
{
	const struct cpu_apic *apic = &cpu->base.apic;
	uint64_t page = apic->ops ? apic->ops->mmio_base(apic->apic) : UINT64_MAX;

	if (page != UINT64_MAX)
		page &= ~UINT64_C(0xfff);
	if (page == cpu->mmu->apic_page)
		return;
	cpu->mmu->apic_page = page;
	soft_tlb_flush_all(cpu);
}

int soft_mmu_init(struct soft_cpu *cpu)
{
	struct soft_mmu *mmu =
	    mmap(NULL, sizeof(*mmu), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mmu == MAP_FAILED)
		return -ENOMEM;
	mmu->alias = mmap(NULL, 2 * GMEM_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mmu->alias == MAP_FAILED) {
		munmap(mmu, sizeof(*mmu));
		return -ENOMEM;
	}
	mmu->alias_page[0] = mmu->alias_page[1] = UINT64_MAX;
	mmu->apic_page = UINT64_MAX;
	mmu->next_asid = 1;
	tlb_clear(mmu);
	cpu->mmu = mmu;
	return 0;
}

void soft_mmu_fini(struct soft_cpu *cpu)
{
	if (!cpu->mmu)
		return;
	munmap(cpu->mmu->alias, 2 * GMEM_PAGE_SIZE);
	munmap(cpu->mmu, sizeof(*cpu->mmu));
	cpu->mmu = NULL;
}

enum soft_tlb_kind soft_mmu_kind(const struct soft_cpu *cpu)
{
	if (cpu->cpl == 3)
		return SOFT_TLB_USER;
	return (cpu->s.cr4 & X86_CR4_SMAP) && (cpu->s.rflags & X86_AC) ? SOFT_TLB_KERNEL_AC
								       : SOFT_TLB_KERNEL;
}

static void fault_drop(struct soft_cpu *cpu, uint64_t lin)
{
	entries_drop(cpu->mmu, lin);
	soft_cache_forget_here(cpu, lin);
	if (cpu->direct)
		direct_forget_here(cpu, lin);
}

void soft_mmu_drop_page(struct soft_cpu *cpu, uint64_t lin)
{
	entries_drop(cpu->mmu, lin);
}

/* A page fault drops what is known of its page in this address space (SDM3 4.10.4.1): its handler
 * may change the entry and do no more. Others' code at that address stays: each program that starts
 * faults for pages that those before it have had there. */
static NORETURN void walk_fault(struct soft_cpu *cpu, const struct walk *w, uint32_t bits)
{
	soft_stack_forget(cpu);
	soft_near_forget(cpu);
	if (w->page_shift > 12)
		soft_tlb_flush_all(cpu);
	else
		fault_drop(cpu, w->lin);
	if (w->access == SOFT_WRITE)
		bits |= X86_PFERR_W;
	if (w->user)
		bits |= X86_PFERR_U;
	if (w->access == SOFT_EXEC &&
	    ((cpu->s.cr4 & X86_CR4_SMEP) ||
	     ((cpu->s.cr4 & X86_CR4_PAE) && (cpu->s.efer & X86_EFER_NXE))))
		bits |= X86_PFERR_I;
	soft_raise_pf(cpu, w->lin, bits);
}

/* Where a page-table entry is in the host, or NULL (then it reads as all ones). */
static void *entry_at(struct soft_cpu *cpu, uint64_t phys, _Bool *readonly, uint8_t **flags)
{
	const struct soft_slot *slot = soft_ram_slot(&cpu->engine->ram, phys);

	if (!slot)
		return NULL;
	*readonly = soft_slot_readonly(slot);
	*flags = soft_ram_flags(&cpu->engine->ram, slot, phys);
	return slot->host + (phys - slot->base);
}

struct level {
	void *host;
	uint8_t *flags;
	uint64_t value, phys;
	_Bool readonly;
};

static uint64_t entry_read(struct soft_cpu *cpu, struct level *l, uint64_t phys, unsigned size)
{
	l->phys = phys;
	l->host = entry_at(cpu, phys, &l->readonly, &l->flags);
	if (!l->host)
		l->value = size_mask(size);
	else if (size == 8)
		l->value = __atomic_load_n((uint64_t *)l->host, __ATOMIC_RELAXED);
	else
		l->value = __atomic_load_n((uint32_t *)l->host, __ATOMIC_RELAXED);
	return l->value;
}

/* Sets bits in an entry unless it has changed since it was read: then false. */
static _Bool entry_set(struct soft_cpu *cpu, struct level *l, uint64_t bits, unsigned size)
{
	_Bool ok;

	if ((l->value & bits) == bits || !l->host || l->readonly)
		return 1;
	if (size == 8) {
		uint64_t old = l->value;
		ok = __atomic_compare_exchange_n((uint64_t *)l->host, &old, old | bits, 0,
						 __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	} else {
		uint32_t old = (uint32_t)l->value;
		ok = __atomic_compare_exchange_n((uint32_t *)l->host, &old, old | (uint32_t)bits, 0,
						 __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	}
	if (ok && UNLIKELY(*l->flags)) {
		if (cpu->lockstep)
			lockstep_marked(cpu, l->flags, (unsigned)l->phys & 0xfff, size, bits);
		if (*l->flags & ~SOFT_PAGE_LOCKSTEP)
			soft_stored(cpu, l->flags, l->phys, size);
	}
	return ok;
}

/* Checks the rights that a walk found and sets A and D. False: start over. */
static _Bool walk_finish(struct soft_cpu *cpu, struct walk *w, struct level *level, unsigned levels,
			 unsigned size, _Bool writable, _Bool user, _Bool nx, _Bool paedir)
{
	struct level *leaf = &level[levels - 1];
	_Bool wp = w->user || (cpu->s.cr0 & X86_CR0_WP);

	if ((w->user && !user) || (w->access == SOFT_WRITE && !writable && wp) ||
	    (w->access == SOFT_EXEC && nx) ||
	    (!w->user && user &&
	     (w->access == SOFT_EXEC ? !!(cpu->s.cr4 & X86_CR4_SMEP) : w->smap)))
		walk_fault(cpu, w, X86_PFERR_P);
	for (unsigned i = paedir; i + 1 < levels; i++)
		if (!entry_set(cpu, &level[i], X86_PTE_A, size))
			return 0;
	uint64_t bits = X86_PTE_A | (w->access == SOFT_WRITE ? X86_PTE_D : 0);
	if (!entry_set(cpu, leaf, bits, size))
		return 0;
	w->writable = writable || !wp;
	w->dirty = ((leaf->value | bits) & X86_PTE_D) != 0;
	w->global = (cpu->s.cr4 & X86_CR4_PGE) && (leaf->value & X86_PTE_G);
	return 1;
}

/* 32-bit paging (SDM3 4.3) */
static _Bool walk_32(struct soft_cpu *cpu, struct walk *w)
{
	struct level l[2];
	uint64_t e = entry_read(cpu, &l[0], (cpu->s.cr3 & 0xfffff000) + (w->lin >> 22 << 2), 4);
	_Bool writable = !!(e & X86_PTE_W), user = !!(e & X86_PTE_U);

	if (!(e & X86_PTE_P))
		walk_fault(cpu, w, 0);
	if ((e & X86_PTE_PS) && (cpu->s.cr4 & X86_CR4_PSE)) {
		if (e & BIT32(21))
			walk_fault(cpu, w, X86_PFERR_P | X86_PFERR_RSVD);
		w->phys = (e & 0xffc00000) | ((e >> 13) & 0xff) << 32 | (w->lin & 0x3fffff);
		w->page_shift = 22;
		return walk_finish(cpu, w, l, 1, 4, writable, user, 0, 0);
	}
	e = entry_read(cpu, &l[1], (e & 0xfffff000) + ((w->lin >> 12) & 0x3ff) * 4, 4);
	if (!(e & X86_PTE_P))
		walk_fault(cpu, w, 0);
	writable &= !!(e & X86_PTE_W);
	user &= !!(e & X86_PTE_U);
	w->phys = (e & 0xfffff000) | (w->lin & 0xfff);
	w->page_shift = 12;
	return walk_finish(cpu, w, l, 2, 4, writable, user, 0, 0);
}

uint64_t soft_mmu_reserved(const struct soft_cpu *cpu, uint64_t e, unsigned shift)
{
	uint64_t bad = cpu->mmu->reserved;

	if (shift > 12 && e & X86_PTE_PS)
		/* PS is reserved in a PML4E; frame bits below the size, without PAT */
		bad |= shift == 39 ? X86_PTE_PS : (BIT64(shift) - 1) & ~UINT64_C(0x1fff);
	return bad;
}

/* PAE and 4-level paging (SDM3 4.4, 4.5) */
static _Bool walk_64(struct soft_cpu *cpu, struct walk *w)
{
	const struct cpuid_policy *policy = cpu->base.engine->env->cpuid;
	_Bool lma = soft_is_long(cpu);
	uint64_t frame = BIT64(policy->phys_bits ? policy->phys_bits : 40) - 1;
	uint64_t table = lma ? cpu->s.cr3 & frame & ~UINT64_C(0xfff) : cpu->s.cr3 & 0xffffffe0;
	_Bool writable = 1, user = 1, nx = 0;
	unsigned shift = lma ? 39 : 30, n = 0;
	struct level l[4];

	for (;; shift -= 9, n++) {
		unsigned index = (unsigned)(w->lin >> shift) & (!lma && shift == 30 ? 3 : 511);
		uint64_t e = entry_read(cpu, &l[n], table + index * 8, 8);
		if (!(e & X86_PTE_P))
			walk_fault(cpu, w, 0);
		if (!lma && shift == 30) { /* a PDPTE has no rights and no accessed bit */
			if (e & ((BIT64(63) - 1 + BIT64(63)) & ~frame))
				walk_fault(cpu, w, X86_PFERR_P | X86_PFERR_RSVD);
			table = e & frame & ~UINT64_C(0xfff);
			continue;
		}
		_Bool large = shift > 12 && (e & X86_PTE_PS);
		if (e & soft_mmu_reserved(cpu, e, shift))
			walk_fault(cpu, w, X86_PFERR_P | X86_PFERR_RSVD);
		writable &= !!(e & X86_PTE_W);
		user &= !!(e & X86_PTE_U);
		nx |= !!(e & X86_PTE_NX);
		table = e & frame & ~UINT64_C(0xfff);
		if (shift == 12 || large)
			break;
	}
	w->page_shift = shift;
	w->phys = (table & ~(BIT64(shift) - 1)) | (w->lin & (BIT64(shift) - 1));
	return walk_finish(cpu, w, l, n + 1, 8, writable, user, nx, !lma);
}

void soft_mmu_large(struct soft_cpu *cpu, uint64_t lin, unsigned shift)
{
	uint64_t bit, *place;

	if (shift == 30) {
		place = large_1g(cpu->mmu, lin, &bit);
		*place |= bit;
	} else if (shift > 12) {
		place = large_2m(cpu->mmu, lin, &bit);
		*place |= bit;
		if (shift == 22) {
			place = large_2m(cpu->mmu, lin ^ (1u << 21), &bit);
			*place |= bit;
		}
	}
}

static void walk(struct soft_cpu *cpu, struct walk *w)
{
	if (!(cpu->s.cr0 & X86_CR0_PG)) {
		w->phys = (uint32_t)w->lin;
		w->writable = w->dirty = w->global = 1;
		w->page_shift = 12;
		return;
	}
	while (!(cpu->s.cr4 & X86_CR4_PAE ? walk_64(cpu, w) : walk_32(cpu, w)))
		;
	soft_mmu_large(cpu, w->lin, w->page_shift);
}

static void check_canonical(struct soft_cpu *cpu, unsigned seg, uint64_t lin)
{
	if (soft_canonical(lin) || !soft_is_long(cpu))
		return;
	soft_raise_err(cpu, seg == X86_SS ? X86_VEC_SS : X86_VEC_GP, 0);
}

struct soft_tlb_entry *soft_mmu_get(struct soft_cpu *cpu, enum soft_tlb_kind kind, unsigned seg,
				    uint64_t lin, enum soft_access access, uint64_t *phys)
{
	struct soft_tlb_entry *e = &cpu->mmu->tlb[kind].e[(lin >> 12) % SOFT_TLB_SIZE];
	struct soft_tlb_entry *v = &cpu->mmu->tlb[kind].victim[(lin >> 12) % SOFT_TLB_SIZE];
	uint64_t tag = (lin & ~UINT64_C(0xfff)) |
		       (kind == SOFT_TLB_KERNEL ? cpu->asid_kernel : cpu->asid_user);

	if (LIKELY((access == SOFT_WRITE ? e->write : e->read) == tag))
		return e;
	if ((access == SOFT_WRITE ? v->write : v->read) == tag) {
		struct soft_tlb_entry t = *e;
		*e = *v;
		*v = t;
		return e;
	}
	check_canonical(cpu, seg, lin);
	struct walk w = {
	    .lin = lin,
	    .access = access,
	    .user = kind == SOFT_TLB_USER,
	    .smap = kind == SOFT_TLB_KERNEL && (cpu->s.cr4 & X86_CR4_SMAP),
	};
	cpu->stats.tlb_misses++;
	walk(cpu, &w);
	*phys = w.phys;
	const struct soft_slot *slot = soft_ram_slot(&cpu->engine->ram, w.phys);
	if (!slot || (w.phys & ~UINT64_C(0xfff)) == cpu->mmu->apic_page ||
	    (access == SOFT_WRITE && soft_slot_readonly(slot)))
		return NULL;
	if (kind == SOFT_TLB_KERNEL && !w.global)
		kernel_note(cpu->mmu, lin, 0);
	if (e->read != tag)
		*v = *e;
	/* The two tags always speak of the same page. */
	e->write = w.writable && w.dirty && !soft_slot_readonly(slot) ? tag : SOFT_TLB_INVALID;
	e->read = tag;
	e->addend = (uint64_t)(uintptr_t)slot->host + (w.phys - slot->base) - lin;
	e->flags = soft_ram_flags(&cpu->engine->ram, slot, w.phys);
	return e;
}

struct soft_itlb_entry *soft_mmu_fetch(struct soft_cpu *cpu, uint64_t lin)
{
	struct soft_itlb_entry *e = &cpu->mmu->itlb[cpu->cpl == 3][(lin >> 12) % SOFT_ITLB_SIZE];
	uint64_t tag = (lin & ~UINT64_C(0xfff)) | cpu->asid_code;

	if (LIKELY(e->tag == tag))
		return e;
	check_canonical(cpu, X86_CS, lin);
	struct walk w = {.lin = lin, .access = SOFT_EXEC, .user = cpu->cpl == 3};
	cpu->stats.tlb_misses++;
	walk(cpu, &w);
	if (cpu->cpl != 3 && !w.global)
		kernel_note(cpu->mmu, lin, 1);
	const struct soft_slot *slot = soft_ram_slot(&cpu->engine->ram, w.phys);
	e->tag = tag;
	e->phys = w.phys & ~UINT64_C(0xfff);
	e->host = slot ? slot->host + (e->phys - slot->base) : NULL;
	e->flags = slot ? soft_ram_flags(&cpu->engine->ram, slot, e->phys) : NULL;
	return e;
}

_Bool soft_mmu_peek(struct soft_cpu *cpu, uint64_t lin, struct soft_view *out)
{
	uint64_t table = cpu->s.cr3 & UINT64_C(0xffffffffff000), e;
	struct soft_view v = {.user = 1, .writable = 1};
	struct level l;
	unsigned shift = 39;

	for (;; shift -= 9) {
		e = entry_read(cpu, &l, table + ((lin >> shift) & 511) * 8, 8);
		if (!l.host || !(e & X86_PTE_P) || e & soft_mmu_reserved(cpu, e, shift))
			return 0;
		v.user &= !!(e & X86_PTE_U);
		v.writable &= !!(e & X86_PTE_W);
		v.nx |= !!(e & X86_PTE_NX);
		table = e & UINT64_C(0xffffffffff000);
		if (shift == 12 || (shift < 39 && (e & X86_PTE_PS)))
			break;
	}
	v.accessed = !!(e & X86_PTE_A);
	v.dirty = !!(e & X86_PTE_D);
	v.shift = shift;
	v.phys = (table & ~(BIT64(shift) - 1)) | (lin & (BIT64(shift) - 1) & ~UINT64_C(0xfff));
	*out = v;
	return 1;
}

int soft_translate(struct soft_cpu *cpu, uint64_t lin, uint64_t *phys)
{
	uint64_t table;
	struct level l;

	if (!(cpu->s.cr0 & X86_CR0_PG)) {
		*phys = (uint32_t)lin;
		return 0;
	}
	_Bool wide = !!(cpu->s.cr4 & X86_CR4_PAE), lma = soft_is_long(cpu);
	unsigned bits = wide ? 9 : 10, size = wide ? 8 : 4;
	unsigned shift = lma ? 39 : wide ? 30 : 22;

	table = lma ? cpu->s.cr3 & UINT64_C(0xffffffffff000)
		    : cpu->s.cr3 & (wide ? 0xffffffe0 : 0xfffff000);
	for (;; shift -= bits) {
		unsigned mask = wide && !lma && shift == 30 ? 3 : (1u << bits) - 1;
		uint64_t e = entry_read(cpu, &l, table + ((lin >> shift) & mask) * size, size);
		if (!l.host || !(e & X86_PTE_P))
			return -1;
		table = e & UINT64_C(0xffffffffff000);
		if (shift == 12 || ((e & X86_PTE_PS) && shift < 39 &&
				    (wide ? lma || shift != 30 : !!(cpu->s.cr4 & X86_CR4_PSE))))
			break;
	}
	uint64_t low = BIT64(shift) - 1;
	*phys = (table & ~low) | (lin & low);
	if (!wide && shift == 22)
		*phys |= ((l.value >> 13) & 0xff) << 32;
	return 0;
}
