/* string.c: string instructions, repeated or not, with ports or not.
 *
 * A repeated instruction commits its registers after every element, so a fault in the middle leaves
 * them exact. It runs at most CHUNK elements before it looks for events, and one that went to a
 * device, which may take its time: if there are any it ends with rip where it was. MOVS and STOS
 * that go upward through ordinary pages are done a page at a time.
 */
#include "engine/soft/cond.h"
#include "engine/soft/io.h"
#include "engine/soft/op.h"
#include "engine/soft/system.h"

#define CHUNK 4096u

/* Index registers and count in the address size. */
static ALWAYS_INLINE uint64_t index_get(struct soft_cpu *cpu, const struct insn *i, unsigned r)
{
	return i->asize == 8   ? cpu->s.gpr[r]
	       : i->asize == 4 ? (uint32_t)cpu->s.gpr[r]
			       : (uint16_t)cpu->s.gpr[r];
}
static ALWAYS_INLINE void index_add(struct soft_cpu *cpu, const struct insn *i, unsigned r,
				    uint64_t n)
{
	if (i->asize == 8)
		cpu->s.gpr[r] += n;
	else
		insn_gpr_set(cpu, r * 8, i->asize, cpu->s.gpr[r] + n);
}
static ALWAYS_INLINE uint64_t step_of(const struct soft_cpu *cpu, unsigned size)
{
	return cpu->s.rflags & X86_DF ? -(uint64_t)size : size;
}

static uint64_t read_n(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned size)
{
	return size == 8   ? soft_read64(cpu, seg, lin)
	       : size == 4 ? soft_read32(cpu, seg, lin)
	       : size == 2 ? soft_read16(cpu, seg, lin)
			   : soft_read8(cpu, seg, lin);
}
static void write_n(struct soft_cpu *cpu, uint64_t lin, unsigned size, uint64_t v)
{
	if (size == 8)
		soft_write64(cpu, X86_ES, lin, v);
	else if (size == 4)
		soft_write32(cpu, X86_ES, lin, (uint32_t)v);
	else if (size == 2)
		soft_write16(cpu, X86_ES, lin, (uint16_t)v);
	else
		soft_write8(cpu, X86_ES, lin, (uint8_t)v);
}
static uint64_t src_lin(struct soft_cpu *cpu, const struct insn *i, unsigned size)
{
	return soft_seg_lin(cpu, i->seg, index_get(cpu, i, X86_RSI), size, 0);
}
static uint64_t dst_lin(struct soft_cpu *cpu, const struct insn *i, unsigned size, _Bool write)
{
	return soft_seg_lin(cpu, X86_ES, index_get(cpu, i, X86_RDI), size, write);
}

/* One element each; i->aux is its size. */
static void movs_one(struct soft_cpu *cpu, const struct insn *i)
{
	unsigned size = i->aux;
	uint64_t v = read_n(cpu, i->seg, src_lin(cpu, i, size), size);

	write_n(cpu, dst_lin(cpu, i, size, 1), size, v);
	index_add(cpu, i, X86_RSI, step_of(cpu, size));
	index_add(cpu, i, X86_RDI, step_of(cpu, size));
}
static void stos_one(struct soft_cpu *cpu, const struct insn *i)
{
	write_n(cpu, dst_lin(cpu, i, i->aux, 1), i->aux, cpu->s.gpr[X86_RAX]);
	index_add(cpu, i, X86_RDI, step_of(cpu, i->aux));
}
static void lods_one(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t v = read_n(cpu, i->seg, src_lin(cpu, i, i->aux), i->aux);

	insn_gpr_set(cpu, 0, i->aux, v);
	index_add(cpu, i, X86_RSI, step_of(cpu, i->aux));
}
static uint32_t compare(uint64_t a, uint64_t b, unsigned size)
{
	uint32_t af;
	unsigned shift = 64 - size * 8;

	/* The adjust flag comes from the low bits, so compare at the true width. */
	if (size == 1)
		__asm__("cmpb %b2, %b1" FLAGS_SAVE : "=&a"(af) : "q"(a), "q"(b) : "cc");
	else if (size == 2)
		__asm__("cmpw %w2, %w1" FLAGS_SAVE : "=&a"(af) : "r"(a), "r"(b) : "cc");
	else if (size == 4)
		__asm__("cmpl %k2, %k1" FLAGS_SAVE : "=&a"(af) : "r"(a), "r"(b) : "cc");
	else
		__asm__("cmpq %2, %1" FLAGS_SAVE : "=&a"(af) : "r"(a << shift), "r"(b) : "cc");
	return af;
}
/* Which operand is read first shows in CR2 when both fault: the second, and on AMD's CPUs for REPE
 * CMPSB the first. */
static ALWAYS_INLINE void cmps(struct soft_cpu *cpu, const struct insn *i, _Bool first)
{
	unsigned size = i->aux;
	uint64_t a = 0, b;

	if (first)
		a = read_n(cpu, i->seg, src_lin(cpu, i, size), size);
	b = read_n(cpu, X86_ES, dst_lin(cpu, i, size, 0), size);
	if (!first)
		a = read_n(cpu, i->seg, src_lin(cpu, i, size), size);
	cpu->af = compare(a, b, size);
	index_add(cpu, i, X86_RSI, step_of(cpu, size));
	index_add(cpu, i, X86_RDI, step_of(cpu, size));
}
static void cmps_alone(struct soft_cpu *cpu, const struct insn *i)
{
	cmps(cpu, i, 0);
}
static void cmps_one(struct soft_cpu *cpu, const struct insn *i)
{
	cmps(cpu, i, i->aux == 1 && (i->flags & INSN_REP) && soft_amd(cpu));
}
static void scas_one(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t b = read_n(cpu, X86_ES, dst_lin(cpu, i, i->aux, 0), i->aux);

	cpu->af = compare(cpu->s.gpr[X86_RAX], b, i->aux);
	index_add(cpu, i, X86_RDI, step_of(cpu, i->aux));
}
static void ins_one(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t lin = dst_lin(cpu, i, i->aux, 1);
	uint16_t port = (uint16_t)cpu->s.gpr[X86_RDX];

	sys_io_check(cpu, port, i->aux);
	/* The port is only read when the store cannot fault. */
	soft_probe(cpu, X86_ES, lin, i->aux, 1);
	soft_io_breakpoint(cpu, port, i->aux);
	cpu->stats.ports++;
	write_n(cpu, lin, i->aux, soft_port_read(cpu, port, i->aux));
	index_add(cpu, i, X86_RDI, step_of(cpu, i->aux));
}
static void outs_one(struct soft_cpu *cpu, const struct insn *i)
{
	uint16_t port = (uint16_t)cpu->s.gpr[X86_RDX];

	sys_io_check(cpu, port, i->aux);
	uint64_t v = read_n(cpu, i->seg, src_lin(cpu, i, i->aux), i->aux);
	soft_io_breakpoint(cpu, port, i->aux);
	cpu->stats.ports++;
	soft_port_write(cpu, port, i->aux, v);
	index_add(cpu, i, X86_RSI, step_of(cpu, i->aux));
}

static _Bool event_pending(struct soft_cpu *cpu)
{
	return atomic_load_explicit(&cpu->base.link.events, memory_order_relaxed) != 0;
}

/* Accesses to devices so far. */
static uint64_t outside(const struct soft_cpu *cpu)
{
	return cpu->stats.mmio + cpu->stats.ports;
}

/* How many elements fit from a linear address to its page's end. */
static uint64_t page_room(uint64_t lin, unsigned size)
{
	return (GMEM_PAGE_SIZE - (lin & 0xfff)) / size;
}

/* The page of an element: from the TLB's first or second place, as the two pages of a move may
 * share an index. NULL: it has to be asked for. */
static const struct soft_tlb_entry *run_page(struct soft_cpu *cpu, uint64_t lin, unsigned size,
					     _Bool write)
{
	const struct soft_tlb_entry *e = soft_tlb_at(cpu, lin), *v = e + SOFT_TLB_SIZE;
	uint64_t tag = soft_tlb_tag(cpu, lin, size);

	_Static_assert(offsetof(struct soft_tlb, victim) == SOFT_TLB_SIZE * sizeof(*e), "behind e");
	if ((write ? e->write : e->read) == tag)
		return e;
	return (write ? v->write : v->read) == tag ? v : NULL;
}

/* A run of elements upward that lies in one page each; 0 when it must go one by one. */
static ALWAYS_INLINE uint64_t run_begin(struct soft_cpu *cpu, const struct insn *i, uint64_t count,
					uint64_t *dst, const struct soft_tlb_entry **page)
{
	if (i->asize == 2 || !(cpu->mode & SOFT_MODE_FLAT) || (cpu->s.rflags & X86_DF) ||
	    cpu->tlb == &cpu->mmu->tlb[SOFT_TLB_NONE] || count < 2)
		return 0;
	*dst = index_get(cpu, i, X86_RDI);
	*page = run_page(cpu, *dst, i->aux, 1);
	return *page ? MIN(count, page_room(*dst, i->aux)) : 0;
}

static void run_end(struct soft_cpu *cpu, const struct insn *i, uint64_t dst,
		    const struct soft_tlb_entry *page, uint64_t n)
{
	__asm__ volatile("" ::: "memory");
	if (UNLIKELY(*(volatile uint8_t *)page->flags))
		soft_stored(cpu, page->flags, dst, (unsigned)(n * i->aux));
	index_add(cpu, i, X86_RDI, n * i->aux);
	index_add(cpu, i, X86_RCX, -n);
}

static uint64_t movs_run(struct soft_cpu *cpu, const struct insn *i, uint64_t count)
{
	const struct soft_tlb_entry *s, *d;
	uint64_t dst, n = run_begin(cpu, i, count, &dst, &d), src = index_get(cpu, i, X86_RSI);

	if (!n || i->seg >= X86_FS)
		return 0;
	s = run_page(cpu, src, i->aux, 0);
	n = MIN(n, page_room(src, i->aux));
	if (!s || !n)
		return 0;
	uint8_t *to = (uint8_t *)(uintptr_t)(dst + d->addend);
	const uint8_t *from = (const uint8_t *)(uintptr_t)(src + s->addend);
	/* A destination just above its source repeats a pattern: element by element, then. */
	if (to > from && to < from + n * i->aux)
		return 0;
	memmove(to, from, n * i->aux);
	run_end(cpu, i, dst, d, n);
	index_add(cpu, i, X86_RSI, n * i->aux);
	return n;
}

static uint64_t stos_run(struct soft_cpu *cpu, const struct insn *i, uint64_t count)
{
	const struct soft_tlb_entry *d;
	uint64_t dst, n = run_begin(cpu, i, count, &dst, &d), v = cpu->s.gpr[X86_RAX];

	if (!n)
		return 0;
	uint8_t *to = (uint8_t *)(uintptr_t)(dst + d->addend);
	switch (i->aux) {
	case 1: memset(to, (int)(v & 0xff), n); break;
	case 2:
		for (uint64_t k = 0; k < n; k++)
			((soft_u16 *)to)[k] = (uint16_t)v;
		break;
	case 4:
		for (uint64_t k = 0; k < n; k++)
			((soft_u32 *)to)[k] = (uint32_t)v;
		break;
	default:
		for (uint64_t k = 0; k < n; k++)
			((soft_u64 *)to)[k] = v;
	}
	run_end(cpu, i, dst, d, n);
	return n;
}

/* Where the instruction is. */
static uint64_t code_lin(const struct soft_cpu *cpu)
{
	return soft_is64(cpu) ? cpu->s.rip : (uint32_t)(cpu->s.seg[X86_CS].base + cpu->s.rip);
}

static uint64_t dst_next(struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t at = index_get(cpu, i, X86_RDI);

	return soft_is64(cpu) ? at : (uint32_t)(cpu->s.seg[X86_ES].base + at);
}

/* Would one of `count` stores, at least one, reach a byte of the instruction? */
static _Bool over_itself(struct soft_cpu *cpu, const struct insn *i, uint64_t count)
{
	uint64_t at = code_lin(cpu), end = at + i->len, dst = dst_next(cpu, i);
	unsigned log2 = (unsigned)__builtin_ctz(i->aux);

	if (cpu->s.rflags & X86_DF)
		return at < dst + i->aux && (end > dst || (dst - end) >> log2 < count - 1);
	return end > dst && (at <= dst || (at - dst) >> log2 < count);
}

/* Intel's CPUs cut the count to the address size before anything else, and what MOVS and STOS go
 * through, in 64-bit code. */
static void cut(struct soft_cpu *cpu, _Bool rsi, _Bool rdi)
{
	uint64_t *gpr = cpu->s.gpr;

	gpr[X86_RCX] = (uint32_t)gpr[X86_RCX];
	if (rsi)
		gpr[X86_RSI] = (uint32_t)gpr[X86_RSI];
	if (rdi)
		gpr[X86_RDI] = (uint32_t)gpr[X86_RDI];
}

/*
 * The repetition. `run` does many elements at once or none; `stop` is 0, or for CMPS and SCAS the
 * value of ZF that goes on, plus 1. While single-stepping, each element is an instruction. Faults
 * and traps on the way show the flags of the last element, on Intel's CPUs those of before. When
 * MOVS and STOS have written over the instruction, Intel's CPUs go on with what is there now, AMD's
 * with the repetition.
 */
static ALWAYS_INLINE void repeat(struct soft_cpu *cpu, const struct insn *i, insn_fn *one,
				 uint64_t (*run)(struct soft_cpu *, const struct insn *, uint64_t),
				 unsigned stop)
{
	uint64_t budget = cpu->slow ? 1 : CHUNK, seen = outside(cpu);
	const _Bool keep = stop && !soft_amd(cpu);
	const uint32_t before = cpu->af;

	if (UNLIKELY(i->asize == 4) && soft_is64(cpu) && !soft_amd(cpu))
		cut(cpu, one == movs_one, one == movs_one || one == stos_one);
	const _Bool itself = (one == movs_one || one == stos_one) && !soft_amd(cpu) &&
			     over_itself(cpu, i, index_get(cpu, i, X86_RCX));

	for (uint64_t count; (count = index_get(cpu, i, X86_RCX)) != 0;) {
		const _Bool last = itself && over_itself(cpu, i, 1);
		uint64_t n = run && !cpu->slow && !itself ? run(cpu, i, count) : 0;
		if (!n) {
			one(cpu, i);
			index_add(cpu, i, X86_RCX, -UINT64_C(1));
			n = 1;
		}
		if (UNLIKELY(last) && count > 1)
			return;
		if (stop && COND_Z(cpu->af) != stop - 1)
			break;
		if (keep && count > n)
			cpu->af = before;
		if (n >= budget && index_get(cpu, i, X86_RCX)) {
			if (cpu->slow || cpu->stepping || event_pending(cpu))
				return; /* to be continued */
			n = 0;
			budget = CHUNK;
		}
		if (UNLIKELY(outside(cpu) != seen)) {
			seen = outside(cpu);
			if (event_pending(cpu) && index_get(cpu, i, X86_RCX))
				return;
		}
		budget -= MIN(n, budget);
	}
	cpu->s.rip = soft_next_rip(cpu, i);
}

#define STRING(name, run)                                                                          \
	static void name##_rep(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		repeat(cpu, i, name##_one, run, 0);                                                \
	}
#define STRING_COMPARE(name)                                                                       \
	static void name##_repe(struct soft_cpu *cpu, const struct insn *i)                        \
	{                                                                                          \
		repeat(cpu, i, name##_one, NULL, 2);                                               \
	}                                                                                          \
	static void name##_repne(struct soft_cpu *cpu, const struct insn *i)                       \
	{                                                                                          \
		repeat(cpu, i, name##_one, NULL, 1);                                               \
	}
STRING(movs, movs_run)
STRING(stos, stos_run)
STRING(lods, NULL)
/* The port's permission comes before the count. */
#define STRING_PORT(name)                                                                          \
	static void name##_rep(struct soft_cpu *cpu, const struct insn *i)                         \
	{                                                                                          \
		sys_io_check(cpu, (uint16_t)cpu->s.gpr[X86_RDX], i->aux);                          \
		repeat(cpu, i, name##_one, NULL, 0);                                               \
	}
STRING_PORT(ins)
STRING_PORT(outs)
STRING_COMPARE(cmps)
STRING_COMPARE(scas)

#define M(x) ZYDIS_MNEMONIC_##x
static const struct {
	ZydisMnemonic mnemonic[4];
	insn_fn *one, *rep, *repne;
} string_table[] = {
    {{M(MOVSB), M(MOVSW), M(MOVSD), M(MOVSQ)}, movs_one, movs_rep, movs_rep},
    {{M(STOSB), M(STOSW), M(STOSD), M(STOSQ)}, stos_one, stos_rep, stos_rep},
    {{M(LODSB), M(LODSW), M(LODSD), M(LODSQ)}, lods_one, lods_rep, lods_rep},
    {{M(CMPSB), M(CMPSW), M(CMPSD), M(CMPSQ)}, cmps_alone, cmps_repe, cmps_repne},
    {{M(SCASB), M(SCASW), M(SCASD), M(SCASQ)}, scas_one, scas_repe, scas_repne},
    {{M(INSB), M(INSW), M(INSD), M(INVALID)}, ins_one, ins_rep, ins_rep},
    {{M(OUTSB), M(OUTSW), M(OUTSD), M(INVALID)}, outs_one, outs_rep, outs_rep},
};
#undef M

_Bool decode_string(struct soft_decode *d)
{
	struct insn *out = d->out;

	if (d->zi->meta.category != ZYDIS_CATEGORY_STRINGOP &&
	    d->zi->meta.category != ZYDIS_CATEGORY_IOSTRINGOP)
		return 0; /* MOVSD and CMPSD are SSE instructions as well */
	for (unsigned k = 0; k < ARRAY_SIZE(string_table); k++)
		for (unsigned n = 0; n < 4; n++) {
			if (string_table[k].mnemonic[n] != d->zi->mnemonic)
				continue;
			_Bool rep = !!(out->flags & INSN_REP), repne = !!(out->flags & INSN_REPNE);
			out->aux = 1u << n;
			out->fn = rep	  ? string_table[k].rep
				  : repne ? string_table[k].repne
					  : string_table[k].one;
			out->flags |= rep || repne ? INSN_BRANCH : k >= 5 ? INSN_END : 0;
			/* The source's segment may be overridden, the destination's is ES. */
			for (unsigned m = 0; m < d->zi->operand_count; m++)
				if (d->op[m].type == ZYDIS_OPERAND_TYPE_MEMORY &&
				    d->op[m].mem.base != ZYDIS_REGISTER_RDI &&
				    d->op[m].mem.base != ZYDIS_REGISTER_EDI &&
				    d->op[m].mem.base != ZYDIS_REGISTER_DI)
					switch (d->op[m].mem.segment) {
					case ZYDIS_REGISTER_ES: out->seg = X86_ES; break;
					case ZYDIS_REGISTER_CS: out->seg = X86_CS; break;
					case ZYDIS_REGISTER_SS: out->seg = X86_SS; break;
					case ZYDIS_REGISTER_FS: out->seg = X86_FS; break;
					case ZYDIS_REGISTER_GS: out->seg = X86_GS; break;
					default: out->seg = X86_DS;
					}
			return 1;
		}
	return 0;
}
