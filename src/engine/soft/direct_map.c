/* direct_map.c: which pages of the guest a helper has mapped, and how it gets them.
 *
 * A space is what a helper has mapped for one address space of the guest, named by
 * soft_cpu.asid_user. Dropping translations gives the guest's address space a new id (mmu.c), so a
 * space with an old id is never entered again and is simply taken for another; only INVLPG names
 * single pages. A page is mapped when it is touched, with those around it whose entries say that
 * they were used: writable once its dirty bit is set, so that A and D are what a TLB's would be.
 *
 * Code that some vCPU has decoded and a page that a helper may write exclude each other: of both,
 * ram.direct says so under code_lock, beside SOFT_PAGE_CODE. Decoding takes the right to write from
 * all helpers first; a write to decoded code drops it first.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <x86intrin.h>
#include "engine/soft/direct.h"

#define USER_TOP   UINT64_C(0x7ffffffff000)
#define LOWEST	   UINT64_C(0x10000) /* vm.mmap_min_addr is no higher than that anywhere */
#define VMAS_MAX   20000u
#define LEAVES_MAX 4096u
#define AROUND	   16u	/* pages */
#define AROUND_BIG 512u /* in large pages, of data */

/* What a helper is filled with at most, and how much is looked at for that: the tables, and what
 * is in the pages of code, are the guest's choice. */
#define FILL_OPS     100u
#define FILL_TABLES  64u
#define FILL_CODE    1024u  /* pages */
#define FILL_DECODED 32768u /* instructions */

/* So much is compared with the guest's tables at most for a helper to keep its pages over a flush.
 */
#define RENEW_LEAVES 1024u
#define RENEW_PAGES  65536u
#define RENEW_CODE   16384u /* pages of code, for which they are read */

uint64_t direct_map_lowest(void)
{
	unsigned long lowest = LOWEST;
	FILE *f = fopen("/proc/sys/vm/mmap_min_addr", "re");

	if (!f)
		return LOWEST;
	if (fscanf(f, "%lu", &lowest) != 1)
		lowest = LOWEST;
	fclose(f);
	return MAX(ALIGN_UP(lowest, 4096), UINT64_C(4096));
}

static unsigned leaf_hash(uint64_t lin)
{
	return (unsigned)(((lin >> 21) * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static struct direct_leaf *leaf_find(const struct direct_space *s, uint64_t lin)
{
	struct direct_leaf *l = s->leaf[leaf_hash(lin)];

	while (l && l->region != lin >> 21)
		l = l->next;
	return l;
}

static struct direct_leaf *leaf_get(struct direct_space *s, uint64_t lin)
{
	struct direct_leaf *l = leaf_find(s, lin);

	if (l)
		return l;
	if (s->spare) {
		l = s->spare;
		s->spare = l->next;
	} else if (s->leaves >= LEAVES_MAX || !(l = malloc(sizeof(*l)))) {
		return NULL;
	} else {
		s->leaves++;
	}
	memset(l, 0, sizeof(*l));
	l->region = lin >> 21;
	l->next = s->leaf[leaf_hash(lin)];
	s->leaf[leaf_hash(lin)] = l;
	return l;
}

/* Forgets all mappings; the helper is told at its next entry. */
static void space_clear(struct direct_space *s)
{
	for (unsigned i = 0; i < ARRAY_SIZE(s->leaf); i++)
		while (s->leaf[i]) {
			struct direct_leaf *l = s->leaf[i];
			s->leaf[i] = l->next;
			l->next = s->spare;
			s->spare = l;
		}
	s->clear = 1;
	s->empty = 1;
	s->renewing = 0;
	s->ops = 0;
	s->vmas = 0;
}

void direct_space_fini(struct direct_space *s)
{
	space_clear(s);
	while (s->spare) {
		struct direct_leaf *l = s->spare;
		s->spare = l->next;
		free(l);
	}
	s->leaves = 0;
}

static void op_add(struct direct_space *s, uint64_t addr, uint64_t len, uint64_t prot,
		   uint64_t offset)
{
	s->op[s->ops++] = (struct direct_op){addr, len, prot, offset};
	s->vmas++;
}

/* Is there room for `n` more operations beside the two that clear? Else everything is forgotten. */
static _Bool ops_room(struct direct_space *s, unsigned n)
{
	if (s->ops + n <= DIRECT_OPS - 2 && s->vmas <= VMAS_MAX)
		return 1;
	space_clear(s);
	return 0;
}

/* False: it was better to forget everything. */
static _Bool unmap_page(struct direct_space *s, uint64_t lin)
{
	struct direct_leaf *l = leaf_find(s, lin);
	uint64_t *page = l ? &l->page[(lin >> 12) % 512] : NULL;

	if (!page || !*page)
		return 1;
	if (!ops_room(s, 1))
		return 0;
	l->writable -= !!(*page & DIRECT_WRITE);
	*page = 0;
	op_add(s, lin & ~UINT64_C(0xfff), 4096, 0, 0);
	return 1;
}

void direct_forget_page(struct soft_cpu *cpu, uint64_t lin)
{
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		if (cpu->direct->space[i].asid)
			(void)unmap_page(&cpu->direct->space[i], lin);
}

void direct_forget_here(struct soft_cpu *cpu, uint64_t lin)
{
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		if (cpu->direct->space[i].asid == cpu->asid_user)
			(void)unmap_page(&cpu->direct->space[i], lin);
}

void direct_forget_all(struct soft_cpu *cpu)
{
	for (unsigned i = 0; i < DIRECT_SPACES; i++) {
		space_clear(&cpu->direct->space[i]);
		cpu->direct->space[i].asid = 0;
	}
}

void direct_space_drop(struct direct_space *s, uint64_t lin)
{
	if (lin == UINT64_MAX)
		space_clear(s);
	else
		(void)unmap_page(s, lin);
}

static void revoke_in(struct direct_space *s, uint64_t phys)
{
	for (unsigned h = 0; h < ARRAY_SIZE(s->leaf); h++)
		for (struct direct_leaf *l = s->leaf[h]; l; l = l->next)
			for (unsigned i = 0; l->writable && i < 512; i++)
				if (l->page[i] & DIRECT_WRITE &&
				    (l->page[i] & ~UINT64_C(0xfff)) == phys &&
				    !unmap_page(s, l->region << 21 | (uint64_t)i << 12))
					return;
}

static void revoke_own(struct soft_cpu *cpu, uint64_t phys)
{
	for (unsigned i = 0; i < DIRECT_SPACES; i++) {
		struct direct_space *s = &cpu->direct->space[i];
		if (phys == UINT64_MAX)
			space_clear(s);
		else if (s->asid)
			revoke_in(s, phys);
	}
}

void direct_revoke(struct soft_engine *engine, struct soft_cpu *self, uint64_t phys)
{
	unsigned taken[ENGINE_MAX_CPUS] = {0};

	if (self)
		revoke_own(self, phys);
	lock_take(&engine->code_lock);
	for (unsigned i = 0; i < engine->cpus; i++) {
		struct soft_cpu *cpu = engine->cpu[i];
		if (!cpu || cpu == self || !cpu->direct)
			continue;
		if (phys == UINT64_MAX || cpu->direct->revokes == ARRAY_SIZE(cpu->direct->revoke))
			cpu->direct->revoke_all = 1;
		else
			cpu->direct->revoke[cpu->direct->revokes++] = phys;
		taken[i] = atomic_load(&cpu->direct->taken);
		cpu_link_raise(&cpu->base.link, CPU_EVENT_ENGINE);
	}
	lock_drop(&engine->code_lock);
	/* Raised events have kicked; a helper that does not stop is killed by its vCPU. Who has
	 * taken the wish was in no helper then, and drops the page before it enters one: it may be
	 * in one again whenever this thread looks. */
	for (unsigned i = 0; i < engine->cpus; i++) {
		struct soft_cpu *cpu = engine->cpu[i];
		while (cpu && cpu != self && cpu->direct && atomic_load(&cpu->direct->running) &&
		       atomic_load(&cpu->direct->taken) == taken[i])
			sched_yield();
	}
}

void direct_take_revoked(struct soft_cpu *cpu)
{
	struct soft_direct *d = cpu->direct;
	uint64_t list[ARRAY_SIZE(d->revoke)];
	unsigned count;
	_Bool all;

	lock_take(&cpu->engine->code_lock);
	count = d->revokes;
	all = d->revoke_all;
	memcpy(list, d->revoke, count * sizeof(list[0]));
	d->revokes = 0;
	d->revoke_all = 0;
	/* Nothing but this thread lets a helper run, and not before what follows. */
	atomic_fetch_add(&d->taken, 1);
	lock_drop(&cpu->engine->code_lock);
	if (all)
		revoke_own(cpu, UINT64_MAX);
	for (unsigned i = 0; i < count && !all; i++)
		revoke_own(cpu, list[i]);
}

/* A page as the guest's tables, which say `v`, give it to user code; 0: not, or not so that a
 * helper can have it. */
static uint64_t page_given(struct soft_cpu *cpu, uint64_t lin, const struct soft_view *v,
			   uint64_t *offset)
{
	struct soft_engine *e = cpu->engine;

	if (lin < cpu->direct->lowest || lin >= USER_TOP || !v->user || !v->accessed)
		return 0;
	const struct soft_slot *slot = soft_ram_slot(&e->ram, v->phys);
	if (!slot || v->phys == cpu->mmu->apic_page)
		return 0;
	*offset = slot->fd_offset + (v->phys - slot->base);
	uint64_t page = v->phys | DIRECT_MAPPED;
	if (v->writable && v->dirty && !soft_slot_readonly(slot))
		page |= DIRECT_WRITE;
	if (!v->nx)
		page |= DIRECT_EXEC;
	return page;
}

/* The same by a look at the tables, without side effects. */
static uint64_t page_peek(struct soft_cpu *cpu, uint64_t lin, uint64_t *offset, unsigned *shift)
{
	struct soft_view v;

	if (!soft_mmu_peek(cpu, lin, &v))
		return 0;
	*shift = v.shift;
	return page_given(cpu, lin, &v, offset);
}

/* May helpers write to the page from now on? Not while its code is decoded or its writes logged. */
static _Bool write_claim(struct soft_cpu *cpu, uint64_t phys, uint64_t lin, _Bool insist)
{
	struct soft_ram *ram = &cpu->engine->ram;
	const struct soft_slot *slot = soft_ram_slot(ram, phys);
	uint8_t *flags = soft_ram_flags(ram, slot, phys);
	_Bool ok;

	if (ram->direct[flags - ram->flags] && !__atomic_load_n(flags, __ATOMIC_ACQUIRE))
		return 1; /* who takes it away waits for this vCPU to have looked at it */
	if (insist && __atomic_load_n(flags, __ATOMIC_ACQUIRE))
		soft_stored(cpu, flags, lin & ~UINT64_C(0xfff), 4096);
	lock_take(&cpu->engine->code_lock);
	ok = !__atomic_load_n(flags, __ATOMIC_ACQUIRE);
	if (ok)
		ram->direct[flags - ram->flags] = 1;
	lock_drop(&cpu->engine->code_lock);
	return ok;
}

static uint64_t root_of(const struct soft_cpu *cpu)
{
	return cpu->s.cr3 & UINT64_C(0xffffffffff000);
}

static const uint8_t *host_of(struct soft_cpu *cpu, uint64_t phys)
{
	const struct soft_slot *slot = soft_ram_slot(&cpu->engine->ram, phys);

	return slot ? slot->host + (phys - slot->base) : NULL;
}

/* What the helper gets of a page: without what it may not have. A page that can be written and
 * executed is looked at for sensitive instructions when it is to be executed: what is written there
 * before that is seen. */
static uint64_t page_trim(struct soft_cpu *cpu, struct direct_space *s, uint64_t page, uint64_t lin,
			  enum soft_access access, _Bool touched)
{
	uint64_t phys = page & ~UINT64_C(0xfff);

	if (page & DIRECT_WRITE && !write_claim(cpu, phys, lin, touched && access == SOFT_WRITE))
		page &= ~DIRECT_WRITE;
	if (page & DIRECT_WRITE && !(touched && access == SOFT_EXEC))
		page &= ~DIRECT_EXEC;
	if (page & DIRECT_EXEC) {
		static const uint8_t nothing[2];
		struct soft_view v;
		uint64_t name;
		const uint8_t *next =
		    soft_mmu_peek(cpu, lin + 4096, &v) ? host_of(cpu, v.phys) : NULL;
		const uint8_t *bytes = host_of(cpu, phys);
		next = next ? next : nothing;
		unsigned seek = direct_seek(cpu->direct, &s->helper);
		if (!direct_seen_sensitive(cpu, seek, phys, bytes, next, &name))
			return page;
		/* What a program writes there later has no breakpoints. */
		if (soft_mmu_peek(cpu, lin, &v) && !v.writable &&
		    (direct_break_have(&s->helper, lin, name) ||
		     (touched && access == SOFT_EXEC &&
		      direct_break_wish(cpu, s, lin, name, bytes, next))))
			page |= DIRECT_BROKEN;
		else
			page = (page & ~DIRECT_EXEC) | DIRECT_KEPT;
	}
	return page;
}

/* Has page_trim looked for sensitive instructions in it? */
static _Bool looked_through(uint64_t page)
{
	return !!(page & (DIRECT_EXEC | DIRECT_KEPT));
}

static uint64_t prot_of(uint64_t page)
{
	return 1u /* PROT_READ */ | (page & DIRECT_WRITE ? 2u : 0) | (page & DIRECT_EXEC ? 4u : 0);
}

/* Pages that follow each other in both address spaces and become one mapping. */
struct run {
	uint64_t lin, offset, prot;
	unsigned pages;
};

static _Bool run_joins(const struct run *r, uint64_t page, uint64_t lin, uint64_t offset)
{
	uint64_t len = r->pages * UINT64_C(4096);

	return r->pages && lin == r->lin + len && offset == r->offset + len &&
	       prot_of(page) == r->prot;
}

/* `touched`: it is put into the host's page tables at once if that is in it. */
static void run_map(struct direct_space *s, struct run *r, uint64_t touched)
{
	uint64_t len = r->pages * UINT64_C(4096);

	if (len)
		op_add(s, r->lin, len, r->prot,
		       r->offset | (touched - r->lin < len ? DIRECT_POPULATE : 0));
	r->pages = 0;
}

static void run_take(struct run *r, struct direct_leaf *leaf, uint64_t page, uint64_t lin,
		     uint64_t offset)
{
	uint64_t *have = &leaf->page[(lin >> 12) % 512];

	leaf->writable += !!(page & DIRECT_WRITE) - !!(*have & DIRECT_WRITE);
	*have = page;
	if (!r->pages)
		*r = (struct run){lin, offset, prot_of(page), 0};
	r->pages++;
}

static _Bool in_stub(const struct direct_space *s, uint64_t lin)
{
	return lin - s->helper.base < DIRECT_REGION;
}

/* Whatever is mapped of the page stays as it is. */
static void kept_note(struct direct_space *s, uint64_t page, uint64_t lin)
{
	struct direct_leaf *leaf = leaf_get(s, lin);
	uint64_t *have = leaf ? &leaf->page[(lin >> 12) % 512] : NULL;

	if (have)
		*have |= DIRECT_KEPT | (*have ? 0 : (page & ~UINT64_C(0xfff)) | DIRECT_MAPPED);
}

/* Maps lin and what is around it as the tables are now. False: not for such an access. */
static _Bool map_around(struct soft_cpu *cpu, struct direct_space *s, uint64_t lin,
			enum soft_access access)
{
	struct run run = {0};
	uint64_t offset, first, last;
	unsigned shift, looked = 0;

	lin &= ~UINT64_C(0xfff);
	/* The stub's pages stay the stub's, whatever the guest's tables have said meanwhile:
	 * direct_run finds the stub another place. */
	if (in_stub(s, lin))
		return 0;
	uint64_t page = page_peek(cpu, lin, &offset, &shift);
	uint64_t want = access == SOFT_WRITE ? DIRECT_WRITE : access == SOFT_EXEC ? DIRECT_EXEC : 1;
	if (!(page & want))
		return 0;
	soft_mmu_large(cpu, lin, shift);
	page = page_trim(cpu, s, page, lin, access, 1);
	if (!(page & want)) {
		if (page & DIRECT_KEPT)
			kept_note(s, page, lin);
		return 0;
	}
	(void)ops_room(s, AROUND * 4);
	unsigned around = shift > 12 && !looked_through(page) ? AROUND_BIG : AROUND;
	first = lin & ~(uint64_t)(around * 4096 - 1);
	last = first + around * 4096 - 4096;
	struct direct_leaf *leaf = leaf_get(s, lin);
	if (!leaf) {
		space_clear(s);
		leaf = leaf_get(s, lin);
		if (!leaf)
			return 0;
	}
	/* In a large page the runs that decoded code or the stub break up have no bound; and what
	 * may be written and executed becomes code to be looked through where code is decoded. */
	for (uint64_t at = first; at <= last && s->ops < DIRECT_OPS - 4; at += 4096) {
		uint64_t p = 0, o = 0;
		unsigned sh;
		if (at == lin) {
			p = page;
			o = offset;
		} else if (looked < AROUND && !leaf->page[(at >> 12) % 512] && !in_stub(s, at)) {
			p = page_peek(cpu, at, &o, &sh);
			if (p)
				p = page_trim(cpu, s, p, at, access, 0);
			looked += looked_through(p);
		}
		if (!p)
			continue;
		if (!run_joins(&run, p, at, o))
			run_map(s, &run, lin);
		run_take(&run, leaf, p, at, o);
	}
	if (run.pages == AROUND_BIG) /* of which `page` is one */
		direct_large_note(cpu, page & ~UINT64_C(0x1fffff));
	run_map(s, &run, lin);
	return 1;
}

static const struct soft_view whole = {.user = 1, .writable = 1, .accessed = 1, .shift = 12};

/* Goes on from *v, what the levels above give, to what a table's entry for 1 << shift bytes gives
 * of it that was used. False: nothing, or a large page. */
static _Bool entry_given(struct soft_cpu *cpu, const uint64_t *entry, unsigned shift,
			 struct soft_view *v)
{
	const uint64_t need = X86_PTE_P | X86_PTE_U | X86_PTE_A;
	uint64_t e = __atomic_load_n(entry, __ATOMIC_RELAXED);

	if ((e & need) != need || (shift > 12 && e & X86_PTE_PS) ||
	    e & soft_mmu_reserved(cpu, e, shift))
		return 0;
	v->writable &= !!(e & X86_PTE_W);
	v->nx |= !!(e & X86_PTE_NX);
	v->dirty = !!(e & X86_PTE_D);
	v->phys = e & UINT64_C(0xffffffffff000);
	return 1;
}

/* What a helper that has nothing yet is given before it runs. */
struct fill {
	struct soft_cpu *cpu;
	struct direct_space *space;
	struct direct_leaf *leaf;
	struct run run;
	unsigned tables, code; /* so many were looked at: tables, pages of code */
	uint64_t decoded;      /* direct.decoded at the beginning */
};

static _Bool fill_page(struct fill *f, uint64_t lin, const struct soft_view *v)
{
	uint64_t offset, page = page_given(f->cpu, lin, v, &offset);

	if (!page || in_stub(f->space, lin))
		return 1;
	if (!f->leaf || f->leaf->region != lin >> 21)
		f->leaf = leaf_get(f->space, lin);
	if (!f->leaf)
		return 0;
	if (f->leaf->page[(lin >> 12) % 512])
		return 1;
	page = page_trim(f->cpu, f->space, page, lin, SOFT_READ, 0);
	f->code += looked_through(page);
	if (f->code > FILL_CODE || f->cpu->direct->decoded - f->decoded > FILL_DECODED)
		return 0;
	if (!run_joins(&f->run, page, lin, offset)) {
		run_map(f->space, &f->run, 0);
		if (f->space->ops >= FILL_OPS)
			return 0;
	}
	run_take(&f->run, f->leaf, page, lin, offset);
	return 1;
}

/* All pages that the table at `phys`, of entries for 1 << shift bytes each, says were used, as far
 * as there is room. `v` is what the levels above it give. */
static _Bool fill_table(struct fill *f, uint64_t phys, unsigned shift, uint64_t lin,
			const struct soft_view *v)
{
	const uint64_t *table = (const void *)host_of(f->cpu, phys);

	if (f->tables++ == FILL_TABLES)
		return 0;
	for (unsigned i = 0; table && i < (shift == 39 ? 256 : 512); i++) {
		struct soft_view below = *v;
		if (!entry_given(f->cpu, &table[i], shift, &below))
			continue;
		uint64_t at = lin | (uint64_t)i << shift;
		if (!(shift > 12 ? fill_table(f, below.phys, shift - 9, at, &below)
				 : fill_page(f, at, &below)))
			return 0;
	}
	return 1;
}

void direct_map_fill(struct soft_cpu *cpu, struct direct_space *s)
{
	struct fill f = {.cpu = cpu, .space = s, .decoded = cpu->direct->decoded};

	if (!s->empty)
		return;
	/* Of a large program it would be guesses. */
	if (fill_table(&f, root_of(cpu), 39, 0, &whole))
		run_map(s, &f.run, 0);
	else
		space_clear(s);
	s->empty = 0;
}

static uint64_t page_have(const struct direct_space *s, uint64_t lin)
{
	const struct direct_leaf *leaf = leaf_find(s, lin);

	return leaf ? leaf->page[(lin >> 12) % 512] : 0;
}

_Bool direct_map_broken(const struct direct_space *s, uint64_t lin)
{
	return page_have(s, lin) & DIRECT_BROKEN;
}

_Bool direct_map_shut(const struct direct_space *s, uint64_t lin)
{
	return direct_map_broken(s, lin) && !direct_break_open(&s->helper, lin);
}

_Bool direct_map_kept(struct soft_cpu *cpu, struct direct_space *s)
{
	if (page_have(s, cpu->s.rip) & DIRECT_KEPT && !map_around(cpu, s, cpu->s.rip, SOFT_EXEC))
		return 1;
	return direct_map_shut(s, cpu->s.rip);
}

/* Raises what the guest is to see; sets A and D if the soft TLB has nothing of the page. */
static void fault_walk(struct soft_cpu *cpu, uint64_t lin, enum soft_access access)
{
	uint64_t phys;

	if (access == SOFT_EXEC)
		(void)soft_mmu_fetch(cpu, lin);
	else
		(void)soft_mmu_get(cpu, SOFT_TLB_USER, X86_DS, lin, access, &phys);
}

/* Do the tables allow such an access, but for A or D, which it would set? */
static _Bool unused_yet(struct soft_cpu *cpu, uint64_t lin, enum soft_access access)
{
	struct soft_view v;

	if (!soft_mmu_peek(cpu, lin, &v) || !v.user || (access == SOFT_WRITE && !v.writable) ||
	    (access == SOFT_EXEC && v.nx))
		return 0;
	return !v.accessed || (access == SOFT_WRITE && !v.dirty);
}

_Bool direct_map_fault(struct soft_cpu *cpu, struct direct_space *s, uint64_t lin,
		       enum soft_access access)
{
	fault_walk(cpu, lin, access);
	if (map_around(cpu, s, lin, access))
		return 1;
	if (!unused_yet(cpu, lin, access))
		return 0;
	/* The guest's kernel has cleared A to see what is used, without a flush (SDM3 4.8), and the
	 * soft TLB still has the page from before that. */
	soft_mmu_drop_page(cpu, lin);
	fault_walk(cpu, lin, access);
	return map_around(cpu, s, lin, access);
}

void direct_map_expected(struct soft_cpu *cpu, struct direct_space *s, uint64_t lin,
			 enum soft_access access)
{
	uint64_t page = page_have(s, lin);
	uint64_t want = access == SOFT_WRITE ? DIRECT_WRITE : access == SOFT_EXEC ? DIRECT_EXEC : 1;

	/* A and D are only looked at: the guest's handler has mostly set them. */
	if (!(page & want))
		(void)map_around(cpu, s, lin, access);
}

/* The table of 4 KiB pages that says what is at lin, and in *above what the levels before it give.
 * NULL: there is none, or a large page. */
static const uint64_t *table_find(struct soft_cpu *cpu, uint64_t lin, struct soft_view *above)
{
	const uint64_t *table = (const void *)host_of(cpu, root_of(cpu));

	*above = whole;
	for (unsigned shift = 39; table && shift > 12; shift -= 9)
		table = entry_given(cpu, &table[(lin >> shift) % 512], shift, above)
			    ? (const void *)host_of(cpu, above->phys)
			    : NULL;
	return table;
}

/* Is what a helper has of the page no more than the tables give now? Code is looked through again:
 * nothing says that it is still the same. */
static _Bool page_stands(struct soft_cpu *cpu, struct direct_space *s, uint64_t have, uint64_t now,
			 uint64_t lin)
{
	const uint64_t code = DIRECT_EXEC | DIRECT_BROKEN;

	if (!now || (now ^ have) & ~UINT64_C(0xfff) || have & ~now & (DIRECT_WRITE | DIRECT_EXEC))
		return 0;
	if (!(have & DIRECT_EXEC))
		return 1;
	now = page_trim(cpu, s, now & ~DIRECT_WRITE, lin, SOFT_READ, 0);
	return (now & code) == (have & code);
}

struct renewal {
	unsigned leaves, pages, code, dropped; /* looked at; of these pages */
	uint64_t decoded;		       /* direct.decoded at the beginning */
};

/* Drops what the tables do not give any more of 2 MiB. False: it is too much. */
static _Bool leaf_renew(struct soft_cpu *cpu, struct direct_space *s, struct direct_leaf *l,
			struct renewal *r)
{
	uint64_t begin = l->region << 21, from = 0, to = 0, offset;
	struct soft_view above;
	const uint64_t *table = table_find(cpu, begin, &above);
	unsigned shift;

	for (unsigned i = 0; i < 512; i++) {
		uint64_t have = l->page[i], at = begin | (uint64_t)i << 12, now = 0;
		struct soft_view v = above;
		if (!have) /* nor is anything mapped: a range goes on over it */
			continue;
		if (!table && (now = page_peek(cpu, at, &offset, &shift)))
			soft_mmu_large(cpu, at, shift);
		else if (table && entry_given(cpu, &table[i], 12, &v))
			now = page_given(cpu, at, &v, &offset);
		_Bool stands = page_stands(cpu, s, have, now, at);
		if (stands && to > from)
			op_add(s, from, to - from, 0, 0);
		r->code += !!(have & DIRECT_EXEC);
		if (++r->pages > RENEW_PAGES || r->code > RENEW_CODE || s->ops >= DIRECT_OPS - 4 ||
		    cpu->direct->decoded - r->decoded > FILL_DECODED)
			return 0;
		if (stands) {
			from = to = 0;
			continue;
		}
		r->dropped++;
		from = to ? from : at;
		to = at + 4096;
		l->writable -= !!(have & DIRECT_WRITE);
		l->page[i] = 0;
	}
	if (to > from)
		op_add(s, from, to - from, 0, 0);
	return 1;
}

/* The guest has flushed what a helper has mapped: that is compared with its tables, and what they
 * do not give any more is dropped. False: it is much, or most of it, or took longer the last time
 * than the helper has run since: then nothing is worth keeping, and it gets what it uses. */
static _Bool space_renew(struct soft_cpu *cpu, struct direct_space *s)
{
	uint64_t first = s->helper.base >> 21, last = (s->helper.base + DIRECT_REGION - 1) >> 21;
	uint64_t begin = __rdtsc();
	struct renewal r = {.decoded = cpu->direct->decoded};

	if (s->ran < s->renewing)
		return 0;
	for (unsigned h = 0; h < ARRAY_SIZE(s->leaf); h++)
		for (struct direct_leaf *l = s->leaf[h]; l; l = l->next)
			if (++r.leaves > RENEW_LEAVES || l->region == first || l->region == last ||
			    !leaf_renew(cpu, s, l, &r))
				return 0;
	s->ran = 0;
	s->renewing = __rdtsc() - begin;
	return r.dropped <= r.pages / 2;
}

/* The helper that the present page tables had before they were flushed; or NULL. */
static struct direct_space *space_before(struct soft_cpu *cpu)
{
	struct direct_space *before = NULL;

	for (unsigned i = 0; i < DIRECT_SPACES; i++) {
		struct direct_space *s = &cpu->direct->space[i];
		if (!s->empty && s->helper.pid && s->root == root_of(cpu) &&
		    (!before || before->used < s->used))
			before = s;
	}
	return before;
}

struct direct_space *direct_space_get(struct soft_cpu *cpu)
{
	struct soft_direct *d = cpu->direct;
	struct direct_space *s = &d->space[0], *before;

	for (unsigned i = 0; i < DIRECT_SPACES; i++) {
		if (d->space[i].asid == cpu->asid_user) {
			s = &d->space[i];
			goto out;
		}
		if (d->space[i].used < s->used)
			s = &d->space[i];
	}
	before = space_before(cpu);
	if (before && space_renew(cpu, before)) {
		s = before;
		cpu->stats.direct_renewed++;
	} else {
		s = before ? before : s;
		space_clear(s);
	}
	s->asid = cpu->asid_user;
	s->root = root_of(cpu);
	/* A helper goes on to another program of the guest only if what it stopped with was not
	 * forged: else it is as its last program has left it. */
	if (s->helper.pid) {
		int waits = direct_helper_waits(&s->helper);
		if (waits <= 0 || direct_regs_wipe(&s->helper))
			direct_helper_kill(&s->helper);
		d->killed += !waits;
	}
out:
	s->used = ++d->clock;
	return s;
}

_Bool direct_map_follows(struct soft_cpu *cpu)
{
	const struct direct_space *s = space_before(cpu);
	const struct direct_leaf *leaf = s ? leaf_find(s, cpu->s.gpr[X86_RSP]) : NULL;
	uint64_t have = leaf ? leaf->page[(cpu->s.gpr[X86_RSP] >> 12) % 512] : 0, offset;
	unsigned shift;

	return have &&
	       !((have ^ page_peek(cpu, cpu->s.gpr[X86_RSP], &offset, &shift)) & ~UINT64_C(0xfff));
}

void direct_space_reset(struct direct_space *s)
{
	space_clear(s);
	s->clear = 0;
}

_Bool direct_space_run(struct soft_cpu *cpu, struct direct_space *s)
{
	struct direct_helper *h = &s->helper;
	struct direct_op op[DIRECT_OPS];
	uint64_t end = h->base + DIRECT_REGION;
	unsigned n = 0;

	if (s->clear) {
		op[n++] = (struct direct_op){0, h->base, 0, 0};
		op[n++] = (struct direct_op){end, USER_TOP - end, 0, 0};
	}
	memcpy(&op[n], s->op, s->ops * sizeof(op[0]));
	n += s->ops;
	s->clear = 0;
	s->ops = 0;
	if (!direct_helper_run(cpu, h, op, n))
		return 0;
	if (!h->pid || !h->shared->out_failed)
		return 1;
	/* Too many mappings, most likely; or a security module has a lowest address of its own. */
	for (unsigned i = 0; i < n; i++)
		if (op[i].prot && op[i].addr < LOWEST)
			cpu->direct->lowest = LOWEST;
	space_clear(s);
	return 0;
}
