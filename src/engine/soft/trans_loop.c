/* trans_loop.c: blocks of 64-bit code that jump to their own beginning: what they begin with is
 *done once for many iterations.
 *
 *	poll; vector registers are live; checks of operands		; the way in
 *	lea  rax, [how often they hold]					; limit
 * head:
 *	instructions
 *	cmp  reg, [limit]						; the guard
 *	je   tail
 *	cmp  ...							; the last that sets flags
 *	jcc  head
 *	(flags are saved, what follows)
 * tail:
 *	cmp  ...							; again, out of line
 *	(flags are saved, to the way in or what follows)
 *
 * An operand whose registers only have constants added in an iteration moves by a constant, so from
 * where it is at first follows in how many iterations it lies in its page. The fewest of all
 * operands are those that the way in is good for: `limit` is what one of the registers will be in
 *the last of them, and the guard compares it for equality, which nothing can pass by, as it is only
 * ever changed by that constant. Operands that do not move are checked in the way in as well; those
 * whose registers change otherwise, in each iteration. A loop without an operand that moves has a
 * look at events for its guard. So events wait for 4096 iterations at most, as operands move by a
 * byte at least.
 *
 * Why the checks stay true: those in each iteration for the reasons of trans_near.c, and so do the
 * others, as the loop has no way in but this, and registers are followed through all of it. An
 * operand that moves and was found not worth an entry of soft_cpu.near has one of near_loop, which
 * is filled from the TLB in the way in; `near_filled` says so to soft_near_forget, which makes host
 * code leave.
 *
 * The guard stands where flags are dead: before an instruction that overwrites them all and cannot
 * fault. So no iteration saves flags for its end. Where the first instructions need those of the
 * iteration before, the way in loads them. Neither that nor what must be live is known before the
 * block was emitted; it is emitted again when the guess was wrong.
 *
 * In lock-step the way in is good for one iteration.
 */
#include "engine/soft/trans_impl.h"

#define CC_A	 7
#define MOVE_MAX 2048 /* what moves farther is checked in each iteration */

static int gpr_of(unsigned unit)
{
	return unit >= SOFT_EA_GPR(0) && unit < SOFT_EA_GPR(16) ? (int)(unit - SOFT_EA_GPR(0)) : -1;
}

/* Looking ahead */

/* It sets all flags, reads none, and nothing can come in between. */
static _Bool guard_possible(const struct tb_insn *i)
{
	if (tb_flag_use(&i->zi) != USE_OUT)
		return 0;
	for (unsigned k = 0; k < i->zi.operand_count; k++)
		if (i->ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return 0;
	return 1;
}

static _Bool ends_in_itself(const struct tb *tb, const struct tb_insn *i, int64_t at)
{
	return i->zi.meta.category == ZYDIS_CATEGORY_COND_BR && tb->insn->osize == tb->word &&
	       i->zi.mnemonic != ZYDIS_MNEMONIC_LOOP && i->zi.mnemonic != ZYDIS_MNEMONIC_LOOPE &&
	       i->zi.mnemonic != ZYDIS_MNEMONIC_LOOPNE && i->zi.mnemonic != ZYDIS_MNEMONIC_JCXZ &&
	       i->zi.mnemonic != ZYDIS_MNEMONIC_JECXZ && i->zi.mnemonic != ZYDIS_MNEMONIC_JRCXZ &&
	       at + (int64_t)tb->insn->imm == tb->loop.start;
}

/* The register that the guard looks at: rather one that the host has in a register. */
static int gpr_choose(const struct tb_loop *l)
{
	int found = -1;

	for (int k = 0; k < 16; k++) {
		if (!l->moves[k] || (l->varies & (1u << k)) || l->moves[k] != (int32_t)l->moves[k])
			continue;
		if (trans_host((unsigned)k) != H_NONE)
			return k;
		found = k;
	}
	return found;
}

/* Before all others: most blocks are no loops. */
static void look_begin(struct tb *tb, int64_t at)
{
	const struct soft_block *b = tb->near.block;
	const struct insn *last = &b->insn[b->count - 1u];
	struct tb_loop *l = &tb->loop;

	*l = (struct tb_loop){
	    .off = l->off, .flags = l->flags, .vec = l->vec, .start = at, .guard = SOFT_BLOCK_MAX};
	if (tb->from || !(last->flags & INSN_BRANCH) ||
	    (int64_t)(b->phys & 0xfff) + b->bytes - last->len + (int64_t)last->imm != at)
		l->off = 1;
}

void tb_loop_look(struct tb *tb, unsigned k, const struct tb_insn *i, int64_t at, _Bool last)
{
	struct tb_loop *l = &tb->loop;
	const struct tb_ahead *a = &tb->near.ahead[k];

	if (k == tb->from)
		look_begin(tb, at);
	if (l->off)
		return;
	l->varies |= a->changed;
	if (a->add_gpr >= 0)
		l->moves[a->add_gpr] += a->add;
	if (i && guard_possible(i) && !last)
		l->guard = k;
	if (!last)
		return;
	l->off = !i || l->guard + TB_LOOP_TAIL < k || l->guard > k || !ends_in_itself(tb, i, at);
	l->on = !l->off;
	l->gpr = gpr_choose(l);
	for (unsigned j = 0; l->on && l->gpr >= 0 && j < l->guard; j++)
		if (tb->near.ahead[j].add_gpr == l->gpr)
			l->before += tb->near.ahead[j].add;
}

_Bool tb_loop_varies(const struct tb *tb, const struct insn *m)
{
	int base = gpr_of(m->base), index = gpr_of(m->index);
	int64_t by = tb_loop_moves(tb, m);

	return tb->loop.on && ((base >= 0 && (tb->loop.varies & (1u << base))) ||
			       (index >= 0 && (tb->loop.varies & (1u << index))) ||
			       by <= -MOVE_MAX || by >= MOVE_MAX);
}

int64_t tb_loop_moves(const struct tb *tb, const struct insn *m)
{
	int base = gpr_of(m->base), index = gpr_of(m->index);

	if (!tb->loop.on)
		return 0;
	return (base >= 0 ? tb->loop.moves[base] : 0) +
	       (index >= 0 ? tb->loop.moves[index] * (1 << m->scale) : 0);
}

/* The way in */

void tb_loop_spill(struct tb *tb)
{
	if (tb->loop.pending)
		emit_op64(&tb->e, 0x89, H_RAX, T_FIELD(loop_rounds));
	tb->loop.pending = 0;
}

static _Bool power_of_two(uint64_t n)
{
	return !(n & (n - 1));
}

/* RAX *= n: three operands. */
static void times(struct emit *e, int32_t n)
{
	emit_op64(e, 0x69, H_RAX, rm_reg(H_RAX));
	emit_32(e, (uint32_t)n);
}

void tb_loop_room(struct tb *tb, const struct tb_group *g, int64_t by)
{
	struct tb_loop *l = &tb->loop;
	struct emit *e = &tb->e;
	uint32_t step = (uint32_t)(by < 0 ? -by : by);

	/* What is aligned must stay so. */
	if ((g->align && (step & (g->align - 1u))) || l->gpr < 0)
		l->broken = 1;
	if (by > 0) {
		emit_mov_imm(e, H_RAX, (uint64_t)(GMEM_PAGE_SIZE - (g->hi - g->lo)));
		emit_op32(e, 0x2b, H_RAX, rm_reg(H_R11));
	} else {
		emit_op32(e, 0x8b, H_RAX, rm_reg(H_R11));
	}
	if (step == 1) {
		/* as it is */
	} else if (power_of_two(step)) {
		emit_op32(e, 0xc1, 5, rm_reg(H_RAX)); /* shr */
		emit_byte(e, (uint8_t)__builtin_ctz(step));
	} else {
		/* Right for all up to 4096 and steps below that. */
		times(e, (1 << 24) / (int32_t)step + 1);
		emit_op64(e, 0xc1, 5, rm_reg(H_RAX)); /* shr */
		emit_byte(e, 24);
	}
	if (l->groups++) {
		emit_op64(e, 0x3b, H_RAX, T_FIELD(loop_rounds));
		/* cmova */
		emit_modrm(e, &(struct emit_op){.map = 1, .opcode = 0x47, .wide = 1, .reg = H_RAX},
			   T_FIELD(loop_rounds));
	}
	l->pending = 1;
}

/* From how often the checks hold after the first iteration. */
static void limit_set(struct tb *tb)
{
	const struct tb_loop *l = &tb->loop;
	struct emit *e = &tb->e;
	int64_t by = l->moves[l->gpr];
	int host = trans_host((unsigned)l->gpr);
	unsigned scale = 0;

	if (tb->cpu->lockstep)
		emit_mov_imm(e, H_RAX, 0);
	else if (!l->pending)
		emit_op64(e, 0x8b, H_RAX, T_FIELD(loop_rounds));
	if (by == 2 || by == 4 || by == 8)
		scale = (unsigned)__builtin_ctz((unsigned)by);
	else if (by != 1)
		times(e, (int32_t)by);
	if (host == H_NONE) {
		host = H_R11;
		emit_op64(e, 0x8b, host, trans_gpr((unsigned)l->gpr));
	}
	emit_lea(e, H_RAX, rm_mem(host, H_RAX, scale, (int32_t)l->before));
	emit_op64(e, 0x89, H_RAX, T_FIELD(loop_limit));
}

void tb_loop_head(struct tb *tb)
{
	struct tb_loop *l = &tb->loop;

	if (l->before != (int32_t)l->before)
		l->broken = 1;
	if (l->groups && l->gpr >= 0)
		limit_set(tb);
	if (l->flags)
		trans_flags_load(&tb->e);
	tb->flags = l->flags ? FLAGS_HOST : FLAGS_DEAD;
	l->head = tb->e.at;
}

/* The loop itself */

void tb_loop_guard(struct tb *tb, unsigned k)
{
	struct tb_loop *l = &tb->loop;
	struct emit *e = &tb->e;
	int host;

	if (!l->on || l->tail || k != l->guard)
		return;
	l->bytes = tb->bytes;
	l->at = tb->at;
	l->guard_vec = tb->vec;
	l->guarded = 1;
	if (tb->x87.set)
		l->broken = 1;
	if (l->groups && l->gpr >= 0) {
		host = trans_host((unsigned)l->gpr);
		if (host == H_NONE) {
			host = H_RAX;
			emit_op64(e, 0x8b, host, trans_gpr((unsigned)l->gpr));
		}
		emit_op64(e, 0x3b, host, T_FIELD(loop_limit));
		l->place = emit_jcc(e, CC_Z);
	} else {
		emit_modrm(e, &(struct emit_op){.opcode = 0x83, .reg_is_op = 1, .reg = ALU_CMP},
			   T_FIELD(base.link.events));
		emit_byte(e, 0);
		l->place = emit_jcc(e, CC_NZ);
	}
	tb->flags = FLAGS_DEAD;
}

void tb_loop_end(struct tb *tb)
{
	struct tb_loop *l = &tb->loop;

	if (!l->on || l->tail)
		return;
	if (tb->x87.set || (tb->vec & LIVE_X87))
		l->broken = 1;
	if (tb->vec != l->vec)
		l->again = 1;
	l->vec = tb->vec;
}

_Bool tb_loop_branch(struct tb *tb, unsigned cc, int64_t target)
{
	const struct tb_loop *l = &tb->loop;
	uint8_t *place;

	if (!l->on || l->tail)
		return 0;
	assert(target == l->start);
	place = emit_jcc(&tb->e, cc);
	if (!tb->e.full)
		emit_patch(place, l->head);
	tb_flags_save(tb);
	tb_exit_to(tb, tb->next);
	return 1;
}

void tb_loop_tail(struct tb *tb)
{
	struct tb_loop *l = &tb->loop;

	l->tail = 1;
	if (!tb->e.full)
		emit_here(&tb->e, l->place);
	tb->at = l->at;
	tb->vec = l->guard_vec;
	tb->flags = FLAGS_DEAD;
	tb->plain = 1;
}

void tb_loop_flags(struct tb *tb)
{
	struct tb_loop *l = &tb->loop;

	if (l->guarded)
		l->broken = 1;
	l->again |= !l->flags;
	l->flags = 1;
	tb->flags = FLAGS_HOST;
}

_Bool tb_loop_again(struct tb *tb)
{
	struct tb_loop *l = &tb->loop;

	if (!l->on || !(l->again || l->broken))
		return 0;
	l->off |= l->broken;
	return 1;
}
