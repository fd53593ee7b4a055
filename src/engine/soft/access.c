/* access.c: guest memory accesses that the TLB's fast path could not make. */
#include <sys/mman.h>
#include "engine/soft/core.h"
#include "engine/soft/io.h"

/* One piece of an access: within a page. */
struct piece {
	uint8_t *host; /* NULL: MMIO, or a write to ROM */
	uint8_t *flags;
	uint64_t phys;
	uint64_t lin;
	unsigned len;
};

static void piece_get(struct soft_cpu *cpu, enum soft_tlb_kind kind, unsigned seg, uint64_t lin,
		      unsigned len, _Bool write, struct piece *p)
{
	struct soft_tlb_entry *e =
	    soft_mmu_get(cpu, kind, seg, lin, write ? SOFT_WRITE : SOFT_READ, &p->phys);

	p->host = e ? (uint8_t *)(uintptr_t)(lin + e->addend) : NULL;
	p->flags = e ? e->flags : NULL;
	p->lin = lin;
	p->len = len;
}

/* Beside a segment, for accesses of the CPU's own: in IA-32e mode with 64-bit addresses whatever
 * the code segment is. */
#define SEG_WIDE   16u
#define SEG_SYSTEM (SEG_WIDE | X86_DS)

/* Splits [lin, lin+len), at most a page long, in pages. Every fault comes from here. */
static unsigned pieces_get(struct soft_cpu *cpu, enum soft_tlb_kind kind, unsigned seg,
			   uint64_t lin, unsigned len, _Bool write, struct piece p[2])
{
	unsigned first = (unsigned)(GMEM_PAGE_SIZE - (lin & 0xfff));

	_Bool narrow = !soft_is64(cpu) && !((seg & SEG_WIDE) && soft_is_long(cpu));

	seg &= ~SEG_WIDE;
	if (narrow)
		lin = (uint32_t)lin;
	if (len <= first) {
		piece_get(cpu, kind, seg, lin, len, write, &p[0]);
		return 1;
	}
	/* Flat segments are not checked before; their limit is here. On Intel's CPUs what follows
	 * their last byte is the first (SDM3 5.3 leaves it open). */
	if (narrow && (cpu->mode & SOFT_MODE_FLAT) && seg <= X86_DS && lin + len - 1 > UINT32_MAX &&
	    soft_amd(cpu))
		soft_raise_err(cpu, seg == X86_SS ? X86_VEC_SS : X86_VEC_GP, 0);
	if (!narrow && soft_canonical(lin) && !soft_canonical(lin + len - 1))
		soft_raise_err(cpu, seg == X86_SS ? X86_VEC_SS : X86_VEC_GP, 0);
	uint64_t next = lin + first;
	if (narrow)
		next = (uint32_t)next;
	piece_get(cpu, kind, seg, lin, first, write, &p[0]);
	piece_get(cpu, kind, seg, next, len - first, write, &p[1]);
	return 2;
}

static uint64_t mmio_read(struct soft_cpu *cpu, uint64_t phys, unsigned size)
{
	cpu->stats.mmio++;
	return soft_mmio_read(cpu, phys, size);
}

static void mmio_write(struct soft_cpu *cpu, uint64_t phys, unsigned size, uint64_t value)
{
	/* ROM drops what is written to it. */
	if (soft_ram_slot(&cpu->engine->ram, phys) &&
	    (phys & ~UINT64_C(0xfff)) != cpu->mmu->apic_page)
		return;
	cpu->stats.mmio++;
	soft_mmio_write(cpu, phys, size, value);
}

/* The largest power of two that is no more than len and 8, and to which addr is aligned. Whole
 * accesses of a device register's size go out as they are, even when they are not aligned. */
static unsigned mmio_step(uint64_t addr, unsigned len)
{
	if (len == 1 || len == 2 || len == 4 || len == 8)
		return len;
	for (unsigned n = 8; n > 1; n /= 2)
		if (n <= len && !(addr % n))
			return n;
	return 1;
}

static void piece_read(struct soft_cpu *cpu, const struct piece *p, uint8_t *buf)
{
	if (p->host) {
		/* Sizes that the architecture reads at once. */
		switch (p->len) {
		case 8: *(soft_u64 *)buf = *(volatile soft_u64 *)p->host; return;
		case 4: *(soft_u32 *)buf = *(volatile soft_u32 *)p->host; return;
		case 2: *(soft_u16 *)buf = *(volatile soft_u16 *)p->host; return;
		default: memcpy(buf, p->host, p->len); return;
		}
	}
	for (unsigned at = 0, n; at < p->len; at += n) {
		n = mmio_step(p->phys + at, p->len - at);
		uint64_t v = mmio_read(cpu, p->phys + at, n);
		memcpy(buf + at, &v, n);
	}
}

static void piece_write(struct soft_cpu *cpu, const struct piece *p, const uint8_t *buf)
{
	if (p->host) {
		switch (p->len) {
		case 8: *(volatile soft_u64 *)p->host = *(const soft_u64 *)buf; break;
		case 4: *(volatile soft_u32 *)p->host = *(const soft_u32 *)buf; break;
		case 2: *(volatile soft_u16 *)p->host = *(const soft_u16 *)buf; break;
		default: memcpy(p->host, buf, p->len); break;
		}
		__asm__ volatile("" ::: "memory");
		if (UNLIKELY(*(volatile uint8_t *)p->flags))
			soft_stored(cpu, p->flags, p->lin, p->len);
		return;
	}
	for (unsigned at = 0, n; at < p->len; at += n) {
		uint64_t v = 0;
		n = mmio_step(p->phys + at, p->len - at);
		memcpy(&v, buf + at, n);
		mmio_write(cpu, p->phys + at, n, v);
	}
}

/* DR6 bits of the breakpoints of some kinds (a mask by DR7's R/W field) that lie in a range. */
static uint64_t breakpoints(const struct soft_cpu *cpu, uint64_t addr, unsigned len, unsigned kinds)
{
	uint64_t hits = 0;

	for (unsigned i = 0; i < 4; i++) {
		unsigned control = (unsigned)(cpu->s.dr7 >> (16 + i * 4)) & 15;
		unsigned size = (control >> 2) == 2 ? 8 : (control >> 2) + 1;
		if (!((cpu->s.dr7 >> (i * 2)) & 3) || !(kinds & BIT32(control & 3)))
			continue;
		uint64_t at = cpu->s.dr[i] & ~(uint64_t)(size - 1);
		if (addr < at + size && at < addr + len)
			hits |= BIT64(i);
	}
	return hits;
}

void soft_io_breakpoint(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	if (UNLIKELY(cpu->io_bp))
		cpu->debug_hits |= breakpoints(cpu, port, size, BIT32(2));
}

void soft_align_slow(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned len)
{
	_Bool amd = soft_amd(cpu);
	unsigned align = len == 10 ? 8 : len > 64 || (len & (len - 1)) ? 1 : MIN(len, 16u);

	if (align == 16 && !amd)
		return;
	if (!(lin & (align - 1)))
		return;
	if (soft_is64(cpu)
		? !soft_canonical(lin)
		: amd && (cpu->mode & SOFT_MODE_FLAT) && (uint32_t)lin > UINT32_MAX - len + 1)
		soft_raise_err(cpu, seg == X86_SS ? X86_VEC_SS : X86_VEC_GP, 0);
	soft_raise_err(cpu, X86_VEC_AC, 0);
}

/* Data breakpoints that an access hits (SDM3 17.2.4: R/W 1 is writes, 3 is both). */
static void breakpoint_check(struct soft_cpu *cpu, uint64_t lin, unsigned len, _Bool write)
{
	if (cpu->data_bp)
		cpu->debug_hits |=
		    breakpoints(cpu, lin, len, write ? BIT32(1) | BIT32(3) : BIT32(3));
	if (cpu->debug)
		soft_debug_access(cpu, lin, len, write);
}

static void access_read(struct soft_cpu *cpu, enum soft_tlb_kind kind, unsigned seg, uint64_t lin,
			void *buf, unsigned len)
{
	struct piece p[2];
	unsigned n = pieces_get(cpu, kind, seg, lin, len, 0, p);

	piece_read(cpu, &p[0], buf);
	if (n == 2)
		piece_read(cpu, &p[1], (uint8_t *)buf + p[0].len);
}

static void access_write(struct soft_cpu *cpu, enum soft_tlb_kind kind, unsigned seg, uint64_t lin,
			 const void *buf, unsigned len)
{
	struct piece p[2];
	unsigned n = pieces_get(cpu, kind, seg, lin, len, 1, p);

	piece_write(cpu, &p[0], buf);
	if (n == 2)
		piece_write(cpu, &p[1], (const uint8_t *)buf + p[0].len);
}

uint64_t soft_read_slow(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned size)
{
	uint64_t v = 0;

	if (UNLIKELY(cpu->tlb == &cpu->mmu->tlb[SOFT_TLB_NONE])) {
		soft_align(cpu, seg, lin, size);
		breakpoint_check(cpu, lin, size, 0);
	}
	access_read(cpu, soft_mmu_kind(cpu), seg, lin, &v, size);
	return v;
}

void soft_write_slow(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned size, uint64_t v)
{
	if (UNLIKELY(cpu->tlb == &cpu->mmu->tlb[SOFT_TLB_NONE])) {
		soft_align(cpu, seg, lin, size);
		breakpoint_check(cpu, lin, size, 1);
	}
	access_write(cpu, soft_mmu_kind(cpu), seg, lin, &v, size);
}

void soft_load(struct soft_cpu *cpu, unsigned seg, uint64_t lin, void *buf, unsigned len)
{
	if (UNLIKELY(cpu->tlb == &cpu->mmu->tlb[SOFT_TLB_NONE])) {
		soft_align(cpu, seg, lin, len);
		breakpoint_check(cpu, lin, len, 0);
	}
	access_read(cpu, soft_mmu_kind(cpu), seg, lin, buf, len);
}

void soft_store(struct soft_cpu *cpu, unsigned seg, uint64_t lin, const void *buf, unsigned len)
{
	if (UNLIKELY(cpu->tlb == &cpu->mmu->tlb[SOFT_TLB_NONE])) {
		soft_align(cpu, seg, lin, len);
		breakpoint_check(cpu, lin, len, 1);
	}
	access_write(cpu, soft_mmu_kind(cpu), seg, lin, buf, len);
}

void soft_load_bytes(struct soft_cpu *cpu, unsigned seg, uint64_t lin, void *buf, unsigned len)
{
	if (UNLIKELY(cpu->data_bp))
		breakpoint_check(cpu, lin, len, 0);
	access_read(cpu, soft_mmu_kind(cpu), seg, lin, buf, len);
}

void soft_store_bytes(struct soft_cpu *cpu, unsigned seg, uint64_t lin, const void *buf,
		      unsigned len)
{
	if (UNLIKELY(cpu->data_bp))
		breakpoint_check(cpu, lin, len, 1);
	access_write(cpu, soft_mmu_kind(cpu), seg, lin, buf, len);
}

void soft_probe(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned len, _Bool write)
{
	struct piece p[2];

	pieces_get(cpu, soft_mmu_kind(cpu), seg, lin, len, write, p);
}

uint64_t soft_sys_read(struct soft_cpu *cpu, uint64_t lin, unsigned size)
{
	uint64_t v = 0;

	access_read(cpu, SOFT_TLB_KERNEL, SEG_SYSTEM, lin, &v, size);
	return v;
}

void soft_sys_write(struct soft_cpu *cpu, uint64_t lin, unsigned size, uint64_t v)
{
	access_write(cpu, SOFT_TLB_KERNEL, SEG_SYSTEM, lin, &v, size);
}

void soft_sys_probe(struct soft_cpu *cpu, uint64_t lin, unsigned len, _Bool write)
{
	struct piece p[2];

	pieces_get(cpu, SOFT_TLB_KERNEL, SEG_SYSTEM, lin, len, write, p);
}

uint64_t soft_as_read(struct soft_cpu *cpu, _Bool user, unsigned seg, uint64_t lin, unsigned size)
{
	uint64_t v = 0;

	access_read(cpu, user ? SOFT_TLB_USER : SOFT_TLB_KERNEL, seg | SEG_WIDE, lin, &v, size);
	return v;
}

void soft_as_write(struct soft_cpu *cpu, _Bool user, unsigned seg, uint64_t lin, unsigned size,
		   uint64_t v)
{
	access_write(cpu, user ? SOFT_TLB_USER : SOFT_TLB_KERNEL, seg | SEG_WIDE, lin, &v, size);
}

/*
 * Read-modify-write. rmw_kind says what the pointer given out was.
 */
enum rmw_kind { RMW_BOUNCE, RMW_ALIAS };

/* Maps the two frames side by side, so that one host instruction reaches both. */
static uint8_t *alias_map(struct soft_cpu *cpu, const struct piece p[2])
{
	struct soft_mmu *mmu = cpu->mmu;
	const struct soft_ram *ram = &cpu->engine->ram;

	for (unsigned i = 0; i < 2; i++) {
		uint64_t page = p[i].phys & ~UINT64_C(0xfff);
		if (mmu->alias_page[i] == page)
			continue;
		const struct soft_slot *slot = soft_ram_slot(ram, page);
		if (mmap(mmu->alias + i * GMEM_PAGE_SIZE, GMEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, ram->fd,
			 (off_t)(slot->fd_offset + (page - slot->base))) == MAP_FAILED)
			soft_fail(cpu, "the host refused to map two guest pages side by side");
		mmu->alias_page[i] = page;
	}
	return mmu->alias + (p[0].lin & 0xfff);
}

void *soft_rmw_slow(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned size, _Bool locked)
{
	struct piece p[2];

	if (UNLIKELY(cpu->tlb == &cpu->mmu->tlb[SOFT_TLB_NONE])) {
		soft_align(cpu, seg, lin, size);
		breakpoint_check(cpu, lin, size, 1);
		if (cpu->debug)
			soft_debug_access(cpu, lin, size, 0); /* it reads as well */
	}
	unsigned n = pieces_get(cpu, soft_mmu_kind(cpu), seg, lin, size, 1, p);
	cpu->rmw_lin = p[0].lin;
	cpu->rmw_size = (uint8_t)size;
	if (n == 1 && p[0].host) {
		cpu->rmw = p[0].flags;
		return p[0].host;
	}
	cpu->rmw = &cpu->rmw_slow;
	cpu->rmw_slow = SOFT_PAGE_SLOW;
	cpu->rmw_seg = (uint8_t)seg;
	if (n == 2 && locked && p[0].host && p[1].host) {
		/* A TLB hit leaves phys alone: ask the entry's flags instead. */
		soft_ram_slot_of_flags(&cpu->engine->ram, p[0].flags, &p[0].phys);
		soft_ram_slot_of_flags(&cpu->engine->ram, p[1].flags, &p[1].phys);
		cpu->rmw_kind = RMW_ALIAS;
		return alias_map(cpu, p);
	}
	cpu->rmw_kind = RMW_BOUNCE;
	piece_read(cpu, &p[0], cpu->rmw_buf);
	if (n == 2)
		piece_read(cpu, &p[1], cpu->rmw_buf + p[0].len);
	return cpu->rmw_buf;
}

void soft_rmw_finish(struct soft_cpu *cpu)
{
	if (cpu->rmw != &cpu->rmw_slow) {
		soft_stored(cpu, cpu->rmw, cpu->rmw_lin, cpu->rmw_size);
		return;
	}
	struct piece p[2];
	unsigned n =
	    pieces_get(cpu, soft_mmu_kind(cpu), cpu->rmw_seg, cpu->rmw_lin, cpu->rmw_size, 1, p);
	if (cpu->rmw_kind == RMW_BOUNCE) {
		piece_write(cpu, &p[0], cpu->rmw_buf);
		if (n == 2)
			piece_write(cpu, &p[1], cpu->rmw_buf + p[0].len);
		return;
	}
	for (unsigned i = 0; i < n; i++)
		if (p[i].flags && *(volatile uint8_t *)p[i].flags)
			soft_stored(cpu, p[i].flags, p[i].lin, p[i].len);
}
