/* walk.c: a page-table walk over a read callback. */
#include "x86/walk.h"

#include <errno.h>
#include <string.h>
#include "base/le.h"
#include "x86/regs.h"

struct walk {
	const struct x86_state *s;
	unsigned phys_bits;
	uint64_t linear;
	walk_read *read;
	void *opaque;
	struct walk_result *out;
};

static uint64_t bits(unsigned high, unsigned low)
{
	return (BIT64(high) - BIT64(low)) | BIT64(high);
}

static int entry_read(struct walk *w, uint64_t addr, unsigned size)
{
	uint8_t buf[8] = {0};

	if (w->read(w->opaque, addr, buf, size) < 0)
		return -EIO;
	w->out->entry_addr = addr;
	w->out->entry = load_le64(buf);
	return 0;
}

static int fault(struct walk *w, uint32_t error)
{
	w->out->fault_error = error;
	return -EFAULT;
}

static int page_found(struct walk *w, uint64_t frame, uint64_t bytes)
{
	w->out->page_bytes = bytes;
	w->out->addr = frame | (w->linear & (bytes - 1));
	w->out->global = w->out->entry & X86_PTE_G && w->s->cr4 & X86_CR4_PGE;
	w->out->dirty = w->out->entry & X86_PTE_D;
	return 0;
}

/* 32-bit paging (SDM3 4.3): two levels of 4-byte entries; 4 MiB pages reach 40 bits (PSE-36). */
static int walk_32bit(struct walk *w)
{
	uint64_t table = w->s->cr3 & 0xfffff000;
	int r;

	for (unsigned level = 2; level; level--) {
		unsigned index = w->linear >> (level == 2 ? 22 : 12) & 0x3ff;
		uint64_t e;

		w->out->level = level;
		r = entry_read(w, table + 4 * index, 4);
		if (r)
			return r;
		e = w->out->entry;
		if (!(e & X86_PTE_P))
			return fault(w, 0);
		w->out->writable &= !!(e & X86_PTE_W);
		w->out->user &= !!(e & X86_PTE_U);
		if (level == 2 && e & X86_PTE_PS && w->s->cr4 & X86_CR4_PSE) {
			unsigned top = MIN(w->phys_bits, 40u);

			if (e & BIT32(21) || (top < 40 && e >> (top - 32 + 13) & bits(39 - top, 0)))
				return fault(w, X86_PFERR_P | X86_PFERR_RSVD);
			return page_found(w, (e & 0xffc00000) | (e >> 13 & 0xff) << 32, 4u << 20);
		}
		table = e & 0xfffff000;
	}
	return page_found(w, table, 4096);
}

static uint64_t reserved_bits(const struct walk *w, unsigned level, uint64_t e)
{
	_Bool pae = !(w->s->efer & X86_EFER_LMA);
	uint64_t reserved = w->phys_bits < 52 ? bits(51, w->phys_bits) : 0;

	if (!(w->s->efer & X86_EFER_NXE))
		reserved |= X86_PTE_NX;
	if (pae && level == 3)
		return (bits(62, 52) | X86_PTE_NX | reserved | bits(8, 5) | 6);
	if (pae)
		reserved |= bits(62, 52);
	if (e & X86_PTE_PS && level > 1) {
		if (level > 3 || (level == 3 && pae))
			reserved |= X86_PTE_PS;
		else
			reserved |= level == 3 ? bits(29, 13) : bits(20, 13);
	}
	return reserved;
}

/* PAE, 4-level and 5-level paging: 8-byte entries, 512 a table (4 at the top of PAE). */
static int walk_64bit(struct walk *w, unsigned levels)
{
	uint64_t table = levels == 3 ? w->s->cr3 & 0xffffffe0 : w->s->cr3 & bits(51, 12);
	int r;

	for (unsigned level = levels; level; level--) {
		unsigned shift = 12 + 9 * (level - 1);
		_Bool pdpte = levels == 3 && level == 3;
		uint64_t e;

		w->out->level = level;
		r = entry_read(w, table + 8 * (w->linear >> shift & (pdpte ? 3 : 511)), 8);
		if (r)
			return r;
		e = w->out->entry;
		if (!(e & X86_PTE_P))
			return fault(w, 0);
		if (e & reserved_bits(w, level, e))
			return fault(w, X86_PFERR_P | X86_PFERR_RSVD);
		if (!pdpte) {
			w->out->writable &= !!(e & X86_PTE_W);
			w->out->user &= !!(e & X86_PTE_U);
			w->out->execute &= !(e & X86_PTE_NX);
		}
		if (level == 1 || (level <= 3 && !pdpte && e & X86_PTE_PS))
			return page_found(w, e & bits(51, shift), BIT64(shift));
		table = e & bits(51, 12);
	}
	return -EIO; /* not reached: level 1 ends the walk */
}

static _Bool canonical(uint64_t a, unsigned width)
{
	return (uint64_t)((int64_t)(a << (64 - width)) >> (64 - width)) == a;
}

int x86_walk(const struct x86_state *s, unsigned phys_bits, uint64_t linear, walk_read *read,
	     void *opaque, struct walk_result *out)
{
	struct walk w = {s, phys_bits, linear, read, opaque, out};
	unsigned levels = s->cr4 & X86_CR4_LA57 ? 5 : 4;

	memset(out, 0, sizeof(*out));
	out->writable = out->user = out->execute = 1;
	if (!(s->efer & X86_EFER_LMA))
		w.linear = linear & 0xffffffff;
	if (!(s->cr0 & X86_CR0_PG)) {
		out->addr = w.linear;
		return 0;
	}
	if (!(s->cr4 & X86_CR4_PAE))
		return walk_32bit(&w);
	if (!(s->efer & X86_EFER_LMA))
		return walk_64bit(&w, 3);
	if (!canonical(linear, levels == 5 ? 57 : 48))
		return -EINVAL;
	return walk_64bit(&w, levels);
}
