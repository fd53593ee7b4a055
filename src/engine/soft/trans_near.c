/* trans_near.c: memory operands of 64-bit code by way of soft_cpu.near: copies of TLB entries at
 * fixed places, of which one check does for all operands of a block that share it.
 *
 * An operand, or several with the same base and index, constant displacements, and registers that
 * only had constants added in between, are given an entry. Its check is made once:
 *
 *	lea r11, [lowest operand]
 *	sub r11, [near.base]
 *	cmp r11, [near.limit: read or write]	; unsigned; 0 when empty, else SOFT_NEAR_LIMIT
 *	jae late
 *	cmp r11d, 4096 - span			; only when they span more than 32 bytes
 *	ja  late
 *	test r11b, align - 1			; only when one must be aligned
 *	jnz late
 *
 * and each of them then is at base + disp + [near.addend] without a look at flags. Where registers
 * allow it that is done at the block's beginning, where flags are saved anyway; else before the
 * first of them. A check has no effect that the guest could see, so it does not matter when it is
 * made.
 *
 * Out of line a stub copies the entry from the TLB (trans_near_fill.c), and the check is made
 * again. When the TLB has none, or the operands do not lie in one page, or are not aligned, the
 * rest of the block goes on as plain code: a translation of its own, from this instruction on, that
 * asks the TLB for each operand and is exact.
 *
 * When an entry is filled too often for the time, that is noted in the block for the instruction
 * that the check was made for, and the block is translated anew from where the check is: operands
 * of that instruction are looked for in the TLB, all others keep their checks.
 *
 * Why a check stays true until the block's end: the entry is at a fixed place that only the stub
 * writes, and no other check of the block has the same; a C function that empties entries
 * (soft_near_forget) sets code_stop, and host code looks at that after each C function and leaves
 * the block; one that is in line (tb_handler) ends all sharing besides, and so do instructions that
 * compilers seldom emit. The registers are followed by what Zydis says that an instruction writes,
 * and what it forgets (tb_gprs_written), which a test compares with what the host's CPU writes.
 */
#include <string.h>
#include "engine/soft/trans_impl.h"
#include "engine/soft/vec.h"

#define CC_NA	 6
#define CC_A	 7
#define SPAN_MAX 1024
#define WANDERS	 64
#define ALL_GPRS 0xffffu

static int gpr_of(unsigned unit)
{
	return unit >= SOFT_EA_GPR(0) && unit < SOFT_EA_GPR(16) ? (int)(unit - SOFT_EA_GPR(0)) : -1;
}

/* The host's register that holds it, or -1. */
static int host_of(unsigned unit)
{
	int gpr = gpr_of(unit), host = gpr < 0 ? H_NONE : trans_host((unsigned)gpr);

	return host == H_NONE ? -1 : host;
}

static unsigned gprs_of(const struct insn *m)
{
	int base = gpr_of(m->base), index = gpr_of(m->index);

	return (base >= 0 ? 1u << base : 0) | (index >= 0 ? 1u << index : 0);
}

static _Bool same_key(const struct insn *a, const struct insn *b)
{
	return a->base == b->base && a->index == b->index && a->segbase == b->segbase &&
	       (a->index == SOFT_EA_ZERO || a->scale == b->scale);
}

/* How far the operand's address moves when the instruction has been executed. */
static int64_t key_moves(const struct insn *m, const struct tb_ahead *a)
{
	int64_t by = 0;

	if (a->add_gpr < 0)
		return 0;
	if (gpr_of(m->base) == a->add_gpr)
		by += a->add;
	if (gpr_of(m->index) == a->add_gpr)
		by += (int64_t)a->add << m->scale;
	return by;
}

/* Looking ahead */

static const struct insn top = {
    .base = SOFT_EA_GPR(X86_RSP), .index = SOFT_EA_ZERO, .segbase = SOFT_EA_ZERO, .seg = X86_SS};

static void add_take(struct tb_ahead *a, unsigned gpr, int64_t n)
{
	if (n != (int32_t)n)
		return;
	a->changed &= (uint16_t) ~(1u << gpr);
	a->add_gpr = (int8_t)gpr;
	a->add = (int32_t)n;
}

static void stack_take(struct tb_ahead *a, const struct insn *n, const struct tb_insn *i)
{
	const ZydisDecodedOperand *op = &i->ops[0];
	int64_t by = i->zi.mnemonic == ZYDIS_MNEMONIC_PUSH ? -8 : 8;
	int off = op->type == ZYDIS_OPERAND_TYPE_REGISTER ? soft_gpr_offset(op->reg.value) : 0;

	if (n->osize != 8 || op->type == ZYDIS_OPERAND_TYPE_MEMORY || off < 0)
		return;
	a->m = top;
	a->size = 8;
	a->write = by < 0;
	if (by < 0)
		a->m.disp = by;
	if (by < 0 || off / 8 != X86_RSP)
		add_take(a, X86_RSP, by);
}

/* Adding a constant to a register. */
static void constant_take(struct tb_ahead *a, const struct insn *n, const struct tb_insn *i)
{
	const ZydisDecodedOperand *to = &i->ops[0], *from = &i->ops[1];
	int off;

	if (to->type != ZYDIS_OPERAND_TYPE_REGISTER || to->size != 64)
		return;
	off = soft_gpr_offset(to->reg.value);
	if (off < 0)
		return;
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			add_take(a, (unsigned)off / 8,
				 i->zi.mnemonic == ZYDIS_MNEMONIC_ADD ? from->imm.value.s
								      : -from->imm.value.s);
		break;
	case ZYDIS_MNEMONIC_INC: add_take(a, (unsigned)off / 8, 1); break;
	case ZYDIS_MNEMONIC_DEC: add_take(a, (unsigned)off / 8, -1); break;
	case ZYDIS_MNEMONIC_LEA:
		if (n->base == SOFT_EA_GPR((unsigned)off / 8) && n->index == SOFT_EA_ZERO &&
		    n->asize == 8)
			add_take(a, (unsigned)off / 8, n->disp);
		break;
	default: break;
	}
}

static void operand_take(struct tb *tb, struct tb_ahead *a, const struct insn *n,
			 const struct tb_insn *i, int64_t at)
{
	for (unsigned k = 0; k < i->zi.operand_count_visible; k++) {
		const ZydisDecodedOperand *op = &i->ops[k];

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
		    !(n->flags & INSN_MEM) || op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
		    !op->actions || op->size > 512 || i->zi.mnemonic == ZYDIS_MNEMONIC_NOP ||
		    !tb_ea_possible(tb, n))
			continue;
		a->size = (uint8_t)(op->size / 8);
		a->write = !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
		a->align = (n->aux & VEC_ALIGN) && i->zi.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT;
		a->m = *n;
		if (n->base == SOFT_EA_RIP)
			a->m.disp += at;
	}
}

unsigned tb_gprs_written(const struct tb_insn *i)
{
	unsigned written = 0;

	for (unsigned k = 0; k < i->zi.operand_count; k++) {
		const ZydisDecodedOperand *op = &i->ops[k];
		int off =
		    op->type == ZYDIS_OPERAND_TYPE_REGISTER ? soft_gpr_offset(op->reg.value) : -1;

		if (off >= 0 && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			written |= 1u << (off / 8);
	}
	switch (i->zi.meta.category) {
	/* Zydis 4.0 does not say that CMPS and SCAS move on. */
	case ZYDIS_CATEGORY_STRINGOP:
	case ZYDIS_CATEGORY_IOSTRINGOP:
		written |= 1u << X86_RSI | 1u << X86_RDI | 1u << X86_RCX;
		break;
	default: break;
	}
	/* XCHG with R8, by its name. */
	if (i->zi.mnemonic == ZYDIS_MNEMONIC_PAUSE)
		written |= 1u << X86_RAX | 1u << X86_R8;
	return written;
}

static void ahead_take(struct tb *tb, struct tb_ahead *a, const struct insn *n,
		       const struct tb_insn *i, int64_t at)
{
	*a = (struct tb_ahead){.changed = (uint16_t)tb_gprs_written(i), .add_gpr = -1};
	for (unsigned k = 0; k < i->zi.operand_count; k++)
		if (i->ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (i->ops[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
		    ZydisRegisterGetClass(i->ops[k].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			a->changed = ALL_GPRS;
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE: a->changed = ALL_GPRS; return;
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP: stack_take(a, n, i); break;
	case ZYDIS_MNEMONIC_RET:
		a->m = top;
		a->size = 8;
		break;
	default:
		operand_take(tb, a, n, i, at);
		constant_take(a, n, i);
		break;
	}
}

/* Checks */

#define NEAR(slot, f) TB_NEAR(slot, f)

static _Bool covers(const struct tb_group *g, const struct insn *m, int64_t off, unsigned size,
		    _Bool write, _Bool align)
{
	return g->on && same_key(&g->m, m) && off >= g->lo && off + size <= g->hi &&
	       (g->write || !write) &&
	       (!align || (g->align >= size && !((off - g->aligned) & (size - 1))));
}

/* Takes an operand in, when it is near enough. */
static _Bool group_widen(struct tb_group *g, const struct tb_ahead *a, int64_t off)
{
	int64_t lo = MIN(g->lo, off), hi = MAX(g->hi, off + a->size);

	if (hi - lo > SPAN_MAX)
		return 0;
	if (a->align) {
		unsigned both = g->align ? MIN(g->align, a->size) : 1;
		if ((off - g->aligned) & (both - 1))
			return 0;
		if (a->size > g->align) {
			g->align = a->size;
			g->aligned = off;
		}
	}
	g->lo = lo;
	g->hi = hi;
	g->write |= a->write;
	return 1;
}

static struct tb_group *group_free(struct tb *tb)
{
	struct tb_near *n = &tb->near;

	for (unsigned k = 0; k < TB_GROUPS; k++)
		if (!n->group[k].on)
			return &n->group[k];
	return NULL;
}

static _Bool slot_taken(const struct tb *tb, unsigned slot)
{
	for (unsigned k = 0; k < TB_GROUPS; k++)
		if (tb->near.group[k].on && tb->near.group[k].slot == slot)
			return 1;
	return 0;
}

/* An entry for the page that the operand is in now: others in that page, of whatever block, find it
 * there. */
static unsigned slot_guess(const struct tb *tb, const struct tb_group *g)
{
	const uint64_t *gpr = tb->cpu->s.gpr;
	int base = gpr_of(g->m.base), index = gpr_of(g->m.index);
	uint64_t lin = (uint64_t)g->lo + (base >= 0 ? gpr[base] : 0) +
		       (index >= 0 ? gpr[index] << g->m.scale : 0) +
		       SOFT_UNIT(tb->cpu, g->m.segbase) +
		       (g->m.base == SOFT_EA_RIP ? tb->cpu->s.rip & ~UINT64_C(0xfff) : 0);

	return (unsigned)(((lin >> 12) * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

/* Where a check is made: with its operand; at the block's beginning; there for several iterations,
 * when what is not worth an entry of `near` is looked for in the TLB. */
enum make { MAKE_HERE, MAKE_FIRST, MAKE_MOVING };

/* An entry that no other group has. */
static void slot_take(struct tb *tb, struct tb_group *g, enum make where)
{
	unsigned slot;

	if (g->tlb) {
		assert(tb->loop.slots < SOFT_NEAR_LOOP);
		g->slot = (uint8_t)(2 * SOFT_NEAR_COUNT + tb->loop.slots++);
		return;
	}
	slot = where == MAKE_HERE ? tb->t->near_next++ : slot_guess(tb, g);
	do {
		g->slot = (uint8_t)(slot++ % SOFT_NEAR_COUNT);
		if (tb->cpu->cpl == 3)
			g->slot += SOFT_NEAR_COUNT;
	} while (slot_taken(tb, g->slot));
}

/* Goes through a page so fast that an entry of `near` would not last. */
static _Bool wanders(const struct tb *tb, const struct insn *m)
{
	int64_t by = tb_loop_moves(tb, m);

	return by <= -WANDERS || by >= WANDERS;
}

/* The check of an operand, and of those that follow and can share it, now. NULL: it has none. */
static struct tb_group *group_make(struct tb *tb, const struct insn *m, int64_t off, unsigned maker,
				   enum make where)
{
	const struct tb_near *n = &tb->near;
	struct tb_group *g = group_free(tb);
	uint64_t apart = where == MAKE_MOVING ? 0 : n->block->apart;
	unsigned uses = 0;
	int64_t moved = 0;

	if (!g || (apart & BIT64(maker)))
		return NULL;
	*g = (struct tb_group){.lo = off,
			       .hi = off,
			       .m = *m,
			       .maker = (uint8_t)maker,
			       .tlb = where == MAKE_MOVING &&
				      ((n->block->apart & BIT64(maker)) || wanders(tb, m))};
	for (unsigned k = n->index; k < n->block->count; k++) {
		const struct tb_ahead *a = &n->ahead[k];

		if (a->size && !(apart & BIT64(k)) && same_key(&a->m, m))
			uses += group_widen(g, a, a->m.disp + moved);
		if (a->changed & gprs_of(m))
			break;
		moved += key_moves(m, a);
	}
	if (g->align)
		g->lo -= (g->lo - g->aligned) & (g->align - 1);
	/* What is pushed or popped alone has an entry of its own. */
	if (!uses || g->hi - g->lo > 2 * SPAN_MAX || g->lo != (int32_t)g->lo ||
	    g->hi != (int32_t)g->hi ||
	    (uses == 1 && gprs_of(m) == 1u << X86_RSP && m->segbase == SOFT_EA_ZERO))
		return NULL;
	slot_take(tb, g, where);
	g->on = 1;
	return g;
}

/* The lowest operand's address into a register, `disp` being counted from the page. */
static void group_ea(struct tb *tb, const struct tb_group *g, int to)
{
	struct insn m = g->m;

	m.disp = m.base == SOFT_EA_RIP ? g->lo - tb->at : g->lo;
	tb_ea(tb, &m, to, 0, 1);
}

static void group_aligned(struct tb *tb, const struct tb_group *g, struct late *l)
{
	if (!g->align)
		return;
	emit_modrm(&tb->e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1}, rm_reg(H_R11));
	emit_byte(&tb->e, (uint8_t)(g->align - 1)); /* test */
	l->place_align = emit_jcc(&tb->e, CC_NZ);
}

static struct late *group_late(struct tb *tb, const struct tb_group *g, uint8_t *place)
{
	struct late *l = tb_late(tb, LATE_NEAR, place);

	l->slot = g->slot;
	l->block = tb->near.block;
	l->index = (uint8_t)tb->near.index;
	l->write = g->write;
	l->maker = g->maker;
	l->tlb = g->tlb;
	return l;
}

/* R11 is the offset in the page then. */
static void group_check(struct tb *tb, const struct tb_group *g)
{
	struct emit *e = &tb->e;
	uint8_t *start;
	struct late *l;

	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	start = e->at;
	group_ea(tb, g, H_R11);
	emit_op64(e, 0x2b, H_R11, NEAR(g->slot, base));
	emit_op64(e, 0x3b, H_R11, g->write ? NEAR(g->slot, limit[1]) : NEAR(g->slot, limit[0]));
	l = group_late(tb, g, emit_jcc(e, CC_NB));
	l->found = start;
	if (g->hi - g->lo > 32) {
		emit_alu_imm(e, ALU_CMP, H_R11, (int32_t)(GMEM_PAGE_SIZE - (g->hi - g->lo)), 0);
		l->place_span = emit_jcc(e, CC_A);
	}
	group_aligned(tb, g, l);
}

#define ENTRY(f) rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_tlb_entry, f))
/* The same by the TLB: what each iteration wants of its entry is copied. */
static void group_fetch(struct tb *tb, const struct tb_group *g)
{
	struct emit *e = &tb->e;
	struct late *l;

	group_ea(tb, g, H_RAX);
	trans_tlb_entry(e);
	group_ea(tb, g, H_R11);
	emit_alu_imm(e, ALU_AND, H_R11, -4096, 1);
	emit_op64(e, 0x0b, H_R11, T_FIELD(asid));
	emit_op64(e, 0x3b, H_R11, g->write ? ENTRY(write) : ENTRY(read));
	l = group_late(tb, g, emit_jcc(e, CC_NZ));
	l->found = e->at;
	if (g->write) {
		emit_op64(e, 0x8b, H_R11, ENTRY(flags));
		emit_op64(e, 0x89, H_R11, NEAR(g->slot, flags));
	}
	emit_op64(e, 0x8b, H_R11, ENTRY(addend));
	emit_op64(e, 0x89, H_R11, NEAR(g->slot, addend));
	emit_modrm(e, &(struct emit_op){.opcode = 0xc6, .reg_is_op = 1}, T_FIELD(near_filled));
	emit_byte(e, 1);
	group_ea(tb, g, H_R11);
	emit_alu_imm(e, ALU_AND, H_R11, GMEM_PAGE_SIZE - 1, 0);
	emit_alu_imm(e, ALU_CMP, H_R11, (int32_t)(GMEM_PAGE_SIZE - (g->hi - g->lo)), 0);
	l->place_span = emit_jcc(e, CC_A);
	group_aligned(tb, g, l);
}

void tb_near_end(struct tb *tb)
{
	for (unsigned k = 0; k < TB_GROUPS; k++)
		tb->near.group[k].on = 0;
}

void tb_near_look(struct tb *tb, struct soft_block *b, const uint8_t *bytes)
{
	struct tb_near *n = &tb->near;
	int64_t at = tb->at;

	tb_near_end(tb);
	if (tb->plain || tb->narrow || tb->alone)
		return;
	n->block = b;
	n->index = tb->from;
	for (unsigned k = tb->from; k < b->count; k++) {
		const struct insn *insn = &b->insn[k];

		n->ahead[k] = (struct tb_ahead){.changed = ALL_GPRS, .add_gpr = -1};
		struct tb_room room;
		const struct tb_insn *i = soft_zydis(tb->cpu, bytes, insn->len, &room);
		if (i)
			ahead_take(tb, &n->ahead[k], insn, i, at);
		tb->insn = insn;
		tb_loop_look(tb, k, i, at, k + 1u == b->count);
		bytes += insn->len;
		at += insn->len;
	}
	tb->insn = NULL;
}

/* An operand at the block's beginning, where registers are what they were but for `off`. */
static void first_check(struct tb *tb, unsigned k, int64_t off)
{
	const struct tb_ahead *a = &tb->near.ahead[k];
	int64_t by = tb_loop_moves(tb, &a->m);
	struct tb_group *g;

	if (tb_loop_varies(tb, &a->m))
		return;
	for (unsigned j = 0; j < TB_GROUPS; j++)
		if (covers(&tb->near.group[j], &a->m, off, a->size, a->write, a->align))
			return;
	g = group_make(tb, &a->m, off, k, by ? MAKE_MOVING : MAKE_FIRST);
	if (!g)
		return;
	tb_loop_spill(tb);
	if (g->tlb)
		group_fetch(tb, g);
	else
		group_check(tb, g);
	if (by)
		tb_loop_room(tb, g, by);
}

void tb_near_begin(struct tb *tb)
{
	const struct tb_near *n = &tb->near;
	int64_t moved[16] = {0};
	unsigned changed = 0;

	if (tb->plain || tb->narrow || tb->alone)
		return;
	for (unsigned k = tb->from; k < n->block->count; k++) {
		const struct tb_ahead *a = &n->ahead[k];

		if (a->size && !(gprs_of(&a->m) & changed)) {
			int base = gpr_of(a->m.base), index = gpr_of(a->m.index);
			first_check(tb, k,
				    a->m.disp + (base >= 0 ? moved[base] : 0) +
					(index >= 0 ? moved[index] * (1 << a->m.scale) : 0));
		}
		changed |= a->changed;
		if (a->add_gpr >= 0)
			moved[a->add_gpr] += a->add;
	}
}

void tb_near_after(struct tb *tb)
{
	struct tb_near *n = &tb->near;
	const struct tb_ahead *a;

	if (tb->plain || tb->narrow || tb->alone)
		return;
	a = &n->ahead[n->index++];
	for (unsigned k = 0; k < TB_GROUPS; k++) {
		struct tb_group *g = &n->group[k];
		int64_t by = key_moves(&g->m, a);

		if ((a->changed & gprs_of(&g->m)) || a->changed == ALL_GPRS)
			g->on = 0;
		g->lo -= by;
		g->hi -= by;
		g->aligned -= by;
	}
}

_Bool tb_near_mem(struct tb *tb, struct tb_mem *mem)
{
	const struct insn *m = mem->m;
	struct emit *e = &tb->e;
	struct tb_group *g = NULL;
	_Bool made = 0;

	if (tb->plain || tb->narrow || tb->alone || mem->kept)
		return 0;
	int64_t off = m->disp + (m->base == SOFT_EA_RIP ? tb->at : 0);
	for (unsigned k = 0; k < TB_GROUPS && !g; k++)
		if (covers(&tb->near.group[k], m, off, mem->size, mem->write, mem->align))
			g = &tb->near.group[k];
	if (!g) {
		g = group_make(tb, m, off, tb->near.index, MAKE_HERE);
		if (!g)
			return 0;
		if (!covers(g, m, off, mem->size, mem->write, mem->align)) {
			g->on = 0;
			return 0;
		}
		group_check(tb, g);
		made = 1;
	}
	/* RAX is wanted for the address afterwards. */
	if (!mem->keeps || (mem->write && mem->simple) || (!mem->simple && tb_ea_clobbers(m, 1)))
		tb_flags_save(tb);
	if (!mem->keeps || (!mem->simple && tb_ea_clobbers(m, 1)))
		tb->flags = FLAGS_SAVED;
	mem->near = g;
	if (mem->simple) {
		emit_op64(e, 0x8b, H_RAX, NEAR(g->slot, addend));
		mem->rm = rm_mem(trans_host((unsigned)gpr_of(m->base)), H_RAX, 0, (int32_t)m->disp);
		return 1;
	}
	mem->rm = rm_mem(H_R11, H_NONE, 0, 0);
	if (made && off == g->lo) {
		emit_op64(e, 0x03, H_R11, NEAR(g->slot, host));
	} else if (mem->keeps && !mem->write && m->segbase == SOFT_EA_ZERO &&
		   host_of(m->base) >= 0 && host_of(m->index) >= 0) {
		/* The caller accesses it once, all registers being as they are. */
		emit_op64(e, 0x8b, H_R11, NEAR(g->slot, addend));
		emit_lea(e, H_R11, rm_mem(H_R11, host_of(m->base), 0, (int32_t)m->disp));
		mem->rm = rm_mem(H_R11, host_of(m->index), m->scale, 0);
	} else {
		tb_ea(tb, m, H_R11, 0, 1);
		if (tb->flags == FLAGS_SAVED) {
			emit_op64(e, 0x03, H_R11, NEAR(g->slot, addend));
		} else {
			emit_op64(e, 0x8b, H_RAX, NEAR(g->slot, addend));
			emit_lea(e, H_R11, rm_mem(H_R11, H_RAX, 0, 0));
		}
	}
	return 1;
}

void tb_near_flags(struct tb *tb, const struct tb_mem *mem, int to)
{
	emit_op64(&tb->e, 0x8b, to, NEAR(mem->near->slot, flags));
}
