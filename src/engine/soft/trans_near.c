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
 * the block; one that is in line (tb_handler) ends all sharing besides. The registers are followed
 * by what Zydis says that an instruction writes.
 */
#include <string.h>
#include "engine/soft/trans_impl.h"
#include "engine/soft/vec.h"

#define CC_NA	 6
#define CC_A	 7
#define SPAN_MAX 1024
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
		    !op->actions || op->size > 256 || i->zi.mnemonic == ZYDIS_MNEMONIC_NOP ||
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

static void ahead_take(struct tb *tb, struct tb_ahead *a, const struct insn *n,
		       const struct tb_insn *i, int64_t at)
{
	*a = (struct tb_ahead){.add_gpr = -1};
	for (unsigned k = 0; k < i->zi.operand_count; k++) {
		const ZydisDecodedOperand *op = &i->ops[k];

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		int off = soft_gpr_offset(op->reg.value);
		if (off >= 0)
			a->changed |= (uint16_t)(1u << (off / 8));
		if (ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_SEGMENT)
			a->changed = ALL_GPRS;
	}
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

#define NEAR(slot, f)                                                                              \
	trans_at(offsetof(struct soft_cpu, near) + (slot) * sizeof(struct soft_near) +             \
		 offsetof(struct soft_near, f))

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

/* The check of an operand, and of those that follow and can share it, now. NULL: it has none. */
static struct tb_group *group_make(struct tb *tb, const struct insn *m, int64_t off, unsigned maker,
				   _Bool first)
{
	const struct tb_near *n = &tb->near;
	struct tb_group *g = group_free(tb);
	unsigned uses = 0;
	int64_t moved = 0;

	if (!g || (n->block->apart & BIT64(maker)))
		return NULL;
	*g = (struct tb_group){.lo = off, .hi = off, .m = *m, .maker = (uint8_t)maker};
	for (unsigned k = n->index; k < n->block->count; k++) {
		const struct tb_ahead *a = &n->ahead[k];

		if (a->size && !(n->block->apart & BIT64(k)) && same_key(&a->m, m))
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
	unsigned slot = first ? slot_guess(tb, g) : tb->t->near_next++;
	do {
		g->slot = (uint8_t)(slot++ % SOFT_NEAR_COUNT);
		if (tb->cpu->cpl == 3)
			g->slot += SOFT_NEAR_COUNT;
	} while (slot_taken(tb, g->slot));
	g->on = 1;
	return g;
}

static void group_check(struct tb *tb, const struct tb_group *g)
{
	struct emit *e = &tb->e;
	struct insn m = g->m;
	uint8_t *start;
	struct late *l;

	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	start = e->at;
	m.disp = m.base == SOFT_EA_RIP ? g->lo - tb->at : g->lo;
	tb_ea(tb, &m, H_R11, 0, 1);
	emit_op64(e, 0x2b, H_R11, NEAR(g->slot, base));
	emit_op64(e, 0x3b, H_R11, g->write ? NEAR(g->slot, limit[1]) : NEAR(g->slot, limit[0]));
	l = tb_late(tb, LATE_NEAR, emit_jcc(e, CC_NB));
	l->found = start;
	l->slot = g->slot;
	l->block = tb->near.block;
	l->index = (uint8_t)tb->near.index;
	l->write = g->write;
	l->maker = g->maker;
	if (g->hi - g->lo > 32) {
		emit_alu_imm(e, ALU_CMP, H_R11, (int32_t)(GMEM_PAGE_SIZE - (g->hi - g->lo)), 0);
		l->place_span = emit_jcc(e, CC_A);
	}
	if (g->align) {
		emit_modrm(e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1}, rm_reg(H_R11));
		emit_byte(e, (uint8_t)(g->align - 1)); /* test */
		l->place_align = emit_jcc(e, CC_NZ);
	}
}

void tb_near_end(struct tb *tb)
{
	for (unsigned k = 0; k < TB_GROUPS; k++)
		tb->near.group[k].on = 0;
}

void tb_near_begin(struct tb *tb, struct soft_block *b, const uint8_t *bytes)
{
	struct tb_near *n = &tb->near;
	unsigned changed = 0;
	int64_t at = tb->at;

	tb_near_end(tb);
	if (tb->plain || tb->narrow || tb->alone)
		return;
	n->block = b;
	n->index = tb->from;
	for (unsigned k = tb->from; k < b->count; k++) {
		const struct insn *insn = &b->insn[k];

		n->ahead[k] = (struct tb_ahead){.changed = ALL_GPRS, .add_gpr = -1};
		struct tb_insn room;
		const struct tb_insn *i = soft_zydis(tb->cpu, bytes, insn->len, &room);
		if (i)
			ahead_take(tb, &n->ahead[k], insn, i, at);
		bytes += insn->len;
		at += insn->len;
	}
	int64_t moved[16] = {0};
	for (unsigned k = tb->from; k < b->count; k++) {
		const struct tb_ahead *a = &n->ahead[k];

		if (a->size && !(gprs_of(&a->m) & changed)) {
			int base = gpr_of(a->m.base), index = gpr_of(a->m.index);
			int64_t off = a->m.disp + (base >= 0 ? moved[base] : 0) +
				      (index >= 0 ? moved[index] * (1 << a->m.scale) : 0);
			_Bool has = 0;
			for (unsigned j = 0; j < TB_GROUPS && !has; j++)
				has = covers(&n->group[j], &a->m, off, a->size, a->write, a->align);
			struct tb_group *g = has ? NULL : group_make(tb, &a->m, off, k, 1);
			if (g)
				group_check(tb, g);
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
		g = group_make(tb, m, off, tb->near.index, 0);
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

/* Out of line */

/* What lies behind a late piece of code, for trans_near_missed: offsets in code memory. */
struct near_site {
	struct soft_block *block;
	uint32_t index; /* of its instruction before which the check is */
	uint32_t check; /* where the check begins */
	uint32_t out;	/* where it goes from when it is not worth it */
	uint32_t plain; /* the jump from there, its displacement */
	uint8_t maker;	/* struct tb_group */
};
enum { NEAR_OFTEN = 1 }; /* beside the site's offset: the check is not worth it */

static uint8_t *late_missed(struct tb *tb, const struct late *l)
{
	struct emit *e = &tb->e;
	uint8_t *site = e->at + 1;

	emit_mov_imm(e, H_R11, 0x7fffffff);
	emit_mov_imm(e, H_RAX, (uint64_t)l->at);
	uint8_t *out = emit_jmp(e);
	if (!e->full)
		emit_patch(out, tb->t->rw + tb->t->exit_near);
	return site + 1;
}

void tb_near_late(struct tb *tb, const struct late *l)
{
	struct emit *e = &tb->e;
	uint8_t *back, *often, *plain, *missed, *site[2], *out;

	emit_op64(e, 0x03, H_R11, NEAR(l->slot, base));
	emit_mov_imm(e, H_RAX,
		     (uint64_t)(offsetof(struct soft_cpu, near) - TRANS_BIAS +
				l->slot * sizeof(struct soft_near)));
	tb_stub_call(tb, tb->t->near[l->write]);
	back = emit_jcc(e, CC_Z);
	if (!e->full)
		emit_patch(back, l->found);
	often = emit_jcc(e, CC_B);
	if (l->place_span)
		emit_here(e, l->place_span);
	if (l->place_align)
		emit_here(e, l->place_align);
	out = e->at;
	tb_x87_pointers(tb, &l->x87);
	plain = emit_jmp(e);
	missed = e->at;
	site[0] = late_missed(tb, l);
	emit_here(e, often);
	tb_x87_pointers(tb, &l->x87);
	site[1] = late_missed(tb, l);
	uint32_t here = (uint32_t)(ALIGN_UP((size_t)(e->at - tb->t->rw), 4));
	while (!e->full && (uint32_t)(e->at - tb->t->rw) < here)
		emit_byte(e, 0xcc);
	struct near_site s = {.block = l->block,
			      .index = l->index,
			      .check = (uint32_t)(l->found - tb->t->rw),
			      .out = (uint32_t)(out - tb->t->rw),
			      .plain = (uint32_t)(plain - tb->t->rw),
			      .maker = l->maker};
	for (unsigned k = 0; k < sizeof(s); k++)
		emit_byte(e, ((const uint8_t *)&s)[k]);
	if (e->full)
		return;
	emit_patch(plain, missed);
	for (uint32_t k = 0; k < 2; k++) {
		uint32_t v = here | (k ? NEAR_OFTEN : 0);
		memcpy(site[k], &v, 4);
	}
}

static void jump_put(uint8_t *at, const uint8_t *to)
{
	*at = 0xe9;
	emit_patch(at + 1, to);
}

/* A block has new host code, at rip: the old, which others go to, goes there. */
static void block_replace(struct soft_cpu *cpu, struct soft_block *b, const uint8_t *code)
{
	struct soft_trans *t = cpu->trans;
	struct soft_jump *j = soft_cache_jump(cpu->cache, cpu->s.rip);

	jump_put(t->rw + (b->code - t->rx), t->rw + (code - t->rx));
	b->code = code;
	if (j->block == b)
		j->code = code;
}

const uint8_t *trans_near_missed(struct soft_cpu *cpu)
{
	struct soft_trans *t = cpu->trans;
	uint32_t what = cpu->near_missed;
	struct near_site site;
	struct soft_block *b;
	const uint8_t *plain;

	memcpy(&site, t->rw + (what & ~3u), sizeof(site));
	b = site.block;
	cpu->stats.near_plain++;
	cpu->stats.near_given_up += what & NEAR_OFTEN;
	if (what & NEAR_OFTEN) {
		b->apart |= BIT64(site.maker);
		plain = trans_block_from(cpu, b, site.index, 0);
	} else {
		plain = site.index ? NULL : b->plain;
		if (!plain)
			plain = trans_block_from(cpu, b, site.index, 1);
	}
	if (!plain)
		return NULL;
	/* Events have been looked at, or must not be: after STI. */
	emit_patch(t->rw + site.plain, t->rw + (plain - t->rx) + TRANS_POLL_BYTES);
	if (what & NEAR_OFTEN) {
		jump_put(t->rw + site.check, t->rw + site.out);
		if (!site.index)
			block_replace(cpu, b, plain);
	} else if (!site.index) {
		b->plain = plain;
	}
	return plain;
}
