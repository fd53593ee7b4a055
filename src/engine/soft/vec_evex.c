/* vec_evex.c: AVX-512 with memory operands of which a mask chooses elements, gathers and scatters.
 *
 * Which bytes a masked instruction touches, and which address a fault reports, depends on the
 * instruction, its kind of tuple, broadcasts, and on the CPU. So the CPU says: an operand that is
 * not wholly in the TLB is laid into two pages of ours at the same offset, of which those are open
 * whose guest page is known to be accessible. Where the instruction touches a closed one, the
 * guest's page is probed at that very address, which raises, or opens it.
 */
#include "engine/soft/vec.h"

struct masked {
	uint64_t lin;
	unsigned size, offset, pages;
	_Bool open[THUNK_GUARD_PAGES];
	uint8_t *guard;
	unsigned seg;
	_Bool write;
};

static thunk_fn *masked_thunk(const struct insn *i)
{
	return (thunk_fn *)(uintptr_t)i->imm;
}

static unsigned masked_size(const struct insn *i)
{
	return i->aux & VEC_SIZE;
}

static uint64_t mask_bits(unsigned count)
{
	return count >= 64 ? UINT64_MAX : BIT64(count) - 1;
}

/* r2 is 8 where there is none. */
static uint64_t masked_mask(const struct soft_cpu *cpu, const struct insn *i)
{
	return i->r2 < 8 ? cpu->s.fpu.k[i->r2] : UINT64_MAX;
}

/* Every element in memory is chosen: as without a mask. */
static _Bool masked_whole(const struct soft_cpu *cpu, const struct insn *i)
{
	return !(~masked_mask(cpu, i) & mask_bits(i->aux >> VEC_ELEMENTS & 127));
}

/* #AC is about elements, and none that is not chosen; about the whole where the mask does not
 * matter. On Intel's CPUs it is always about the whole. */
static void masked_align(struct soft_cpu *cpu, const struct insn *i, uint64_t lin)
{
	unsigned choosers = i->aux >> VEC_CHOOSERS & 127;
	unsigned size = masked_size(i);

	if (i->aux & VEC_ALIGN) /* #GP, as the CPU will say */
		return;
	if (choosers && !(masked_mask(cpu, i) & mask_bits(choosers)))
		return;
	if (i->aux & VEC_ANY_ALIGN)
		return;
	soft_align(cpu, i->seg, lin,
		   choosers && soft_amd(cpu) ? size / (i->aux >> VEC_ELEMENTS & 127) : size);
}

/* The part of the operand that lies in one of the pages. */
static unsigned masked_part(const struct masked *m, unsigned page, unsigned *at)
{
	unsigned first = MIN(m->size, 4096 - m->offset);

	*at = page ? first : 0;
	return page ? m->size - first : first;
}

/* Beyond the last byte of 32-bit code's segments; on Intel's CPUs what follows is the first. */
static _Bool masked_wraps(const struct soft_cpu *cpu, uint64_t lin, unsigned size)
{
	return soft_amd(cpu) && !soft_is64(cpu) && (uint32_t)lin > UINT32_MAX - size + 1;
}

/* What needs no look at what the CPU does: all of the operand is accessed. Intel's CPUs report the
 * last byte of a page that a masked store would have written, even then. */
static void masked_probe(struct soft_cpu *cpu, const struct insn *i, uint64_t lin, _Bool write)
{
	unsigned size = masked_size(i), elements = i->aux >> VEC_ELEMENTS & 127;

	if (write && !soft_amd(cpu))
		return;

	if (masked_wraps(cpu, lin, size)
		? !(i->aux >> VEC_CHOOSERS) || (elements == 1 && masked_whole(cpu, i))
		: masked_whole(cpu, i) && !(i->aux & VEC_ALIGN))
		soft_probe(cpu, i->seg, lin, size, write);
}

static uint64_t masked_lin(const struct soft_cpu *cpu, uint64_t lin)
{
	return soft_is64(cpu) ? lin : (uint32_t)lin;
}

static void masked_page_open(struct soft_cpu *cpu, struct masked *m, unsigned page)
{
	unsigned at, len = masked_part(m, page, &at);

	thunk_guard_open(cpu->vec->thunks, page, 1);
	m->open[page] = 1;
	if (!m->write)
		soft_load_bytes(cpu, m->seg, masked_lin(cpu, m->lin + at),
				m->guard + m->offset + at, len);
}

static void masked_begin(struct soft_cpu *cpu, const struct insn *i, uint64_t lin, _Bool write,
			 struct masked *m)
{
	*m = (struct masked){.lin = lin,
			     .size = masked_size(i),
			     .offset = lin & 4095,
			     .guard = thunk_guard(cpu->vec->thunks),
			     .seg = i->seg,
			     .write = write};
	m->pages = m->offset + m->size > 4096 ? 2 : 1;
	for (unsigned p = 0; p < THUNK_GUARD_PAGES; p++) {
		unsigned at;
		_Bool some = masked_part(m, p, &at) != 0;
		uint64_t first = masked_lin(cpu, lin + at);
		const struct soft_tlb_entry *e = soft_tlb_at(cpu, first);

		if (some && !(p && masked_wraps(cpu, lin, m->size)) &&
		    (write ? e->write : e->read) == soft_tlb_tag(cpu, first, 1))
			masked_page_open(cpu, m, p);
		else
			thunk_guard_open(cpu->vec->thunks, p, 0);
	}
}

/* Runs the thunk until everything that it touches is open. */
static void masked_run(struct soft_cpu *cpu, const struct insn *i, struct masked *m)
{
	unsigned status;

	while ((status = masked_thunk(i)(cpu, m->guard + m->offset)) != THUNK_DONE) {
		unsigned hit = thunk_guard_hit(cpu->vec->thunks);

		if (status != THUNK_PF)
			vec_failed(cpu, status);
		/* The element's end, as a whole is beyond the segment if that is. */
		unsigned element = m->size / (i->aux >> VEC_ELEMENTS & 127);
		unsigned end = hit < m->offset ? hit : hit - (hit - m->offset) % element + element;
		if (end > 4096 && masked_wraps(cpu, m->lin, m->size))
			soft_raise_err(cpu, m->seg == X86_SS ? X86_VEC_SS : X86_VEC_GP, 0);
		soft_probe(cpu, m->seg, masked_lin(cpu, (m->lin & ~UINT64_C(4095)) + hit), 1,
			   m->write);
		masked_page_open(cpu, m, hit / 4096);
	}
}

static void vec_masked_load(struct soft_cpu *cpu, const struct insn *i)
{
	const struct soft_tlb_entry *e;
	unsigned status, size = masked_size(i);
	struct masked m;
	uint64_t lin;

	vec_check(cpu, VEC_AVX512);
	lin = soft_lin(cpu, i, size, 0);
	e = soft_tlb_at(cpu, lin);
	if (UNLIKELY(e->read != soft_tlb_tag(cpu, lin, size))) {
		masked_align(cpu, i, lin);
		masked_probe(cpu, i, lin, 0);
		masked_begin(cpu, i, lin, 0, &m);
		masked_run(cpu, i, &m);
		return;
	}
	status = masked_thunk(i)(cpu, (void *)(uintptr_t)(lin + e->addend));
	if (UNLIKELY(status != THUNK_DONE))
		vec_failed(cpu, status);
}

/* What was stored is what two runs over different bytes both leave. */
static COLD void masked_store_slow(struct soft_cpu *cpu, const struct insn *i, uint64_t lin)
{
	struct masked m;
	uint8_t first[64];
	_Bool stored[64] = {0};

	masked_align(cpu, i, lin);
	masked_probe(cpu, i, lin, 1);
	masked_begin(cpu, i, lin, 1, &m);
	masked_run(cpu, i, &m);
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned p = 0; p < m.pages; p++) {
			unsigned at, len = masked_part(&m, p, &at);

			if (m.open[p])
				memset(m.guard + m.offset + at, pass ? 0xff : 0, len);
		}
		masked_run(cpu, i, &m);
		for (unsigned p = 0; p < m.pages; p++) {
			unsigned at, len = masked_part(&m, p, &at);

			for (unsigned k = at; m.open[p] && k < at + len; k++) {
				if (pass)
					stored[k] = m.guard[m.offset + k] == first[k];
				else
					first[k] = m.guard[m.offset + k];
			}
		}
	}
	for (unsigned at = 0, end; at < m.size; at = end) {
		end = at + 1;
		if (!stored[at])
			continue;
		while (end < m.size && stored[end])
			end++;
		soft_store_bytes(cpu, i->seg, masked_lin(cpu, lin + at), first + at, end - at);
	}
}

static void vec_masked_store(struct soft_cpu *cpu, const struct insn *i)
{
	const struct soft_tlb_entry *e;
	unsigned status, size = masked_size(i);
	uint64_t lin;

	vec_check(cpu, VEC_AVX512);
	lin = soft_lin(cpu, i, size, 1);
	e = soft_tlb_at(cpu, lin);
	if (UNLIKELY(e->write != soft_tlb_tag(cpu, lin, size))) {
		masked_store_slow(cpu, i, lin);
		return;
	}
	status = masked_thunk(i)(cpu, (void *)(uintptr_t)(lin + e->addend));
	if (UNLIKELY(status != THUNK_DONE))
		vec_failed(cpu, status);
	__asm__ volatile("" ::: "memory");
	if (UNLIKELY(*(volatile uint8_t *)e->flags))
		soft_stored(cpu, e->flags, lin, size);
}

/* Classes of which SDM2 says that the mask suppresses no faults (2.8.2). */
static _Bool masked_always(const ZydisDecodedInstruction *zi)
{
	/* Zydis has others for these. */
	if (zi->mnemonic == ZYDIS_MNEMONIC_VCVTNE2PS2BF16 ||
	    zi->mnemonic == ZYDIS_MNEMONIC_VDBPSADBW ||
	    zi->mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEQB ||
	    zi->mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB)
		return 1;
	switch (zi->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_E10NF: return 1;
	default: return 0;
	}
}

/* Those that access one element after the other, as #AC shows even without a mask. */
_Bool vec_is_packed(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_VCOMPRESSPS:
	case ZYDIS_MNEMONIC_VCOMPRESSPD:
	case ZYDIS_MNEMONIC_VPCOMPRESSB:
	case ZYDIS_MNEMONIC_VPCOMPRESSW:
	case ZYDIS_MNEMONIC_VPCOMPRESSD:
	case ZYDIS_MNEMONIC_VPCOMPRESSQ:
	case ZYDIS_MNEMONIC_VEXPANDPS:
	case ZYDIS_MNEMONIC_VEXPANDPD:
	case ZYDIS_MNEMONIC_VPEXPANDB:
	case ZYDIS_MNEMONIC_VPEXPANDW:
	case ZYDIS_MNEMONIC_VPEXPANDD:
	case ZYDIS_MNEMONIC_VPEXPANDQ: return 1;
	default: return 0;
	}
}

/* One element may be for all of those of the result. */
static unsigned masked_choosers(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
				const ZydisDecodedOperand *mem)
{
	ZydisRegisterClass class = ZydisRegisterGetClass(ops[0].reg.value);
	unsigned count = zi->avx.vector_length / mem->element_size;

	if (masked_always(zi))
		return 0;
	if (!zi->avx.broadcast.mode)
		return mem->element_count;
	/* The result's elements may be larger than those in memory, or there may be room for more.
	 */
	return class == ZYDIS_REGCLASS_MASK ? count : MIN(ops[0].element_count, count);
}

void vec_masked_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		       struct insn *out, _Bool writes)
{
	const ZydisDecodedOperand *mem = ops;

	while (mem->type != ZYDIS_OPERAND_TYPE_MEMORY)
		mem++;
	out->r2 = vec_is_masked(zi) ? (uint8_t)(zi->avx.mask.reg - ZYDIS_REGISTER_K0) : 8;
	out->aux |= mem->element_count << VEC_ELEMENTS;
	out->aux |= masked_choosers(zi, ops, mem) << VEC_CHOOSERS;
	out->fn = writes ? vec_masked_store : vec_masked_load;
}

/*
 * Gathers and scatters. r1: the vector that is loaded or stored, r2: the mask, r3: the indexes;
 * aux: bytes of an element (bits 0-3) and of an index (4-7), how many (8-15), bytes of a
 * vector (16-23). A mask's bit is cleared when its element is done, so that they go on where a
 * fault left them (SDM2 VPGATHER). The first element written clears what lies above that length.
 */
static uint64_t vsib_lin(struct soft_cpu *cpu, const struct insn *i, unsigned n, _Bool write)
{
	unsigned is = i->aux >> 4 & 15;
	int64_t at = 0;
	uint64_t offset;

	memcpy(&at, cpu->s.fpu.vec[i->r3] + n * is, is);
	if (is == 4)
		at = (int32_t)at;
	offset = soft_ea_offset(cpu, i) + ((uint64_t)at << i->imm);
	if (i->asize == 4)
		offset = (uint32_t)offset;
	return soft_seg_lin(cpu, i->seg, offset, i->aux & 15, write);
}

static void vec_vsib_gather(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned es = i->aux & 15, count = i->aux >> 8 & 255;
	unsigned above = i->aux >> 16;
	uint64_t *mask = &cpu->s.fpu.k[i->r2];
	uint8_t *dst = cpu->s.fpu.vec[i->r1];

	vec_check(cpu, VEC_AVX512);
	for (unsigned n = 0; n < count; n++) {
		uint8_t v[8];

		if (!(*mask & BIT64(n)))
			continue;
		soft_load_bytes(cpu, i->seg, vsib_lin(cpu, i, n, 0), v, es);
		memcpy(dst + n * es, v, es);
		memset(dst + above, 0, 64 - above);
		*mask &= ~BIT64(n);
	}
	*mask = 0;
	memset(dst + count * es, 0, 64 - count * es);
}

static void vec_vsib_scatter(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned es = i->aux & 15, count = i->aux >> 8 & 255;
	uint64_t *mask = &cpu->s.fpu.k[i->r2];

	vec_check(cpu, VEC_AVX512);
	for (unsigned n = 0; n < count; n++) {
		if (!(*mask & BIT64(n)))
			continue;
		soft_store_bytes(cpu, i->seg, vsib_lin(cpu, i, n, 1),
				 cpu->s.fpu.vec[i->r1] + n * es, es);
		*mask &= ~BIT64(n);
	}
	*mask = 0;
}

static _Bool vsib_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			 struct insn *out, unsigned es, unsigned is)
{
	_Bool scatter = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
	const ZydisDecodedOperandMem *m = &ops[scatter ? 0 : 2].mem;

	if (!vec_is_masked(zi))
		return 0;
	out->aux = es | is << 4 | (zi->avx.vector_length / 8u / MAX(es, is)) << 8 |
		   (zi->avx.vector_length / 8u) << 16;
	out->r1 = (uint8_t)ZydisRegisterGetId(ops[scatter ? 2 : 0].reg.value);
	out->r2 = (uint8_t)(zi->avx.mask.reg - ZYDIS_REGISTER_K0);
	out->r3 = (uint8_t)ZydisRegisterGetId(m->index);
	out->index = SOFT_EA_ZERO;
	out->scale = 0;
	out->imm = (uint64_t)__builtin_ctz(m->scale ? m->scale : 1);
	out->fn = scatter ? vec_vsib_scatter : vec_vsib_gather;
	return 1;
}

_Bool vec_vsib_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		      struct insn *out)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_VPGATHERDD:
	case ZYDIS_MNEMONIC_VGATHERDPS:
	case ZYDIS_MNEMONIC_VPSCATTERDD:
	case ZYDIS_MNEMONIC_VSCATTERDPS: return vsib_decode(zi, ops, out, 4, 4);
	case ZYDIS_MNEMONIC_VPGATHERDQ:
	case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VPSCATTERDQ:
	case ZYDIS_MNEMONIC_VSCATTERDPD: return vsib_decode(zi, ops, out, 8, 4);
	case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VPSCATTERQD:
	case ZYDIS_MNEMONIC_VSCATTERQPS: return vsib_decode(zi, ops, out, 4, 8);
	case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPSCATTERQQ:
	case ZYDIS_MNEMONIC_VSCATTERQPD: return vsib_decode(zi, ops, out, 8, 8);
	default: return 0;
	}
}
