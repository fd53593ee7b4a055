/* trans_late.c: what translated code does out of line, and the stubs that do most of it.
 *
 * Most of what is out of line is never executed, so it is kept short: a call of a stub, and what
 * the stub has to know behind the call, where the return address leads. Where host code comes back
 * to the block, that is the immediate of an instruction that does nothing: MOV of a scratch
 * register (flags stay) or TEST (they go). Host's calls and returns stay in pairs.
 *
 * A miss names its block, not the decoded instruction, which the block may have lost meanwhile
 * (block.c); trans_missed finds it.
 */
#include "engine/soft/trans_impl.h"

/* What trans_missed wants to know, in 32 bits. */
#define SITE_AT	   0xfffu    /* the instruction's offset in the page */
#define SITE_STATE BIT32(12) /* all is to be looked up anew after it */
#define SITE_ENDS  BIT32(13) /* RIP is set by it */
#define SITE_BLOCK 14
_Static_assert(SOFT_BLOCKS <= 1u << (32 - SITE_BLOCK), "a block's number has room");

/* REFUSED: out, and the instruction is executed before anything is looked at. */
enum missed { MISSED_ON, MISSED_OUT, MISSED_STATE, MISSED_REFUSED };

/* By host code: the instruction as a whole. */
static enum missed trans_missed(struct soft_cpu *cpu, uint32_t site)
{
	struct soft_block *b = soft_block_of(cpu->cache, site >> SITE_BLOCK);
	uint64_t at = site & SITE_AT, off = b->phys & 0xfff;
	const struct insn *insn;
	uint64_t next;

	cpu->stats.slow++;
	cpu->s.rip = cpu->page + at;
	/* Code that was changed by others: what it is now is found by a new look, but not by one at
	 * events, as the instruction before may have been STI. */
	if (UNLIKELY(!b->insn) && !soft_block_again(cpu, b))
		return MISSED_REFUSED;
	for (insn = b->insn; off < at; insn++)
		off += insn->len;
	next = at + insn->len;
	insn->fn(cpu, insn);
	if (site & SITE_ENDS)
		return MISSED_OUT;
	if (!(site & SITE_STATE) && LIKELY(!cpu->code_stop))
		return MISSED_ON;
	cpu->s.rip = cpu->page + next;
	return site & SITE_STATE ? MISSED_STATE : MISSED_OUT;
}

static uint32_t site_of(const struct tb *tb, const struct late *l)
{
	assert(l->at >= 0 && l->at <= SITE_AT);
	return (uint32_t)l->at | (l->state ? SITE_STATE : 0) | (l->ends ? SITE_ENDS : 0) |
	       soft_block_number(tb->cpu->cache, tb->block) << SITE_BLOCK;
}

/* Stubs */

#define RETURN_ADDRESS rm_mem(H_RSP, H_NONE, 0, 0)
#define MOV_R11_BYTES  2 /* before its immediate */
#define TEST_BYTES     1

static void state_arg(struct emit *e)
{
	emit_lea(e, H_RDI, rm_mem(T_STATE, H_NONE, 0, -TRANS_BIAS));
}

static void call_c(struct emit *e, uintptr_t fn)
{
	emit_mov_imm(e, H_RAX, fn);
	emit_byte(e, 0xff); /* call rax */
	emit_byte(e, 0xd0);
}

static void movzx(struct emit *e, uint8_t opcode, int to, struct emit_rm rm)
{
	emit_modrm(e, &(struct emit_op){.map = 1, .opcode = opcode, .reg = (uint8_t)to}, rm);
}

/* Comes back with ZF clear, or not at all. */
static void stub_missed(const struct soft_trans *t, struct emit *e)
{
	trans_regs_spill(e);
	emit_op64(e, 0x8b, H_RAX, RETURN_ADDRESS);
	emit_op32(e, 0x8b, H_RSI, rm_mem(H_RAX, H_NONE, 0, MOV_R11_BYTES));
	state_arg(e);
	trans_live_end(t, e);
	call_c(e, (uintptr_t)trans_missed);
	trans_regs_fill(e);
	emit_alu_imm(e, ALU_CMP, H_RAX, MISSED_OUT, 0);
	uint8_t *out = emit_jcc(e, CC_NB);
	emit_byte(e, 0xc3);
	emit_here(e, out);
	emit_patch(emit_jcc(e, CC_Z), t->rw + t->exit_rip);
	emit_alu_imm(e, ALU_CMP, H_RAX, MISSED_STATE, 0);
	emit_patch(emit_jcc(e, CC_Z), t->rw + t->exit_state);
	emit_patch(emit_jmp(e), t->rw + t->exit_refused_rip);
}

/* The jump cache's entry that missed is at RAX, the linear address in R11. ZF: the second place has
 * it, and RAX points there; else R11 is as it was. */
static void jump_again(struct emit *e)
{
	const int32_t more = offsetof(struct soft_cache, more) - offsetof(struct soft_cache, jump);

	emit_op64(e, 0x2b, H_RAX, T_FIELD(jump_table)); /* sub */
	emit_alu_imm(e, ALU_AND, H_RAX, (SOFT_JUMP_MORE - 1) * sizeof(struct soft_jump), 0);
	emit_op64(e, 0x03, H_RAX, T_FIELD(jump_table)); /* add */
	emit_alu_imm(e, ALU_ADD, H_RAX, more, 1);
	emit_op64(e, 0x3b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_jump, lin)));
	uint8_t *no = emit_jcc(e, CC_NZ);
	emit_op64(e, 0x8b, H_R11, T_FIELD(jump_key));
	emit_op64(e, 0x3b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_jump, key)));
	emit_op64(e, 0x8b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_jump, lin)));
	emit_here(e, no);
}

/* Comes back when it is there. */
static void stub_far_again(const struct soft_trans *t, struct emit *e)
{
	jump_again(e);
	uint8_t *out = emit_jcc(e, CC_NZ);
	emit_byte(e, 0xc3);
	emit_here(e, out);
	emit_op64(e, 0x89, H_R11, T_FIELD(s.rip));
	emit_patch(emit_jmp(e), t->rw + t->exit_rip);
}

static void stub_missed_jump(const struct soft_trans *t, struct emit *e)
{
	jump_again(e);
	emit_patch(emit_jcc(e, CC_NZ), t->rw + t->missed);
	emit_byte(e, 0xc3);
}

/* The entry that missed is at RAX, the tag in R11: its victim is the second place to look. ZF: it
 * was there, and RAX points to it. */
static void stub_missed_tlb(const struct soft_trans *t, struct emit *e, _Bool write)
{
	size_t tag =
	    write ? offsetof(struct soft_tlb_entry, write) : offsetof(struct soft_tlb_entry, read);

	emit_alu_imm(e, ALU_ADD, H_RAX, offsetof(struct soft_tlb, victim), 1);
	emit_op64(e, 0x3b, H_R11, rm_mem(H_RAX, H_NONE, 0, (int32_t)tag));
	emit_patch(emit_jcc(e, CC_NZ), t->rw + t->missed);
	emit_byte(e, 0xc3);
}

/* R11: the address of an operand of the stack. ZF: soft_cpu.stack holds its page now. */
static void stub_missed_stack(const struct soft_trans *t, struct emit *e, _Bool write, unsigned log)
{
	emit_lea(e, H_RAX, rm_mem(H_R11, H_NONE, 0, (1 << log) - 1));
	emit_patch(emit_call(e), t->rw + t->stack);
	emit_patch(emit_jcc(e, CC_NZ), t->rw + t->missed);
	if (write) {
		/* Not to be written. */
		emit_modrm(
		    e, &(struct emit_op){.opcode = 0x83, .wide = 1, .reg_is_op = 1, .reg = ALU_CMP},
		    T_FIELD(stack.write));
		emit_byte(e, (uint8_t)-1);
		emit_patch(emit_jcc(e, CC_Z), t->rw + t->missed);
		emit_op32(e, 0x33, H_RAX, rm_reg(H_RAX)); /* xor */
	}
	emit_byte(e, 0xc3);
}

/* RAX: the page's flags; R11: the host address that was written. Behind the call: the offset of
 * what follows, and the size. */
static void stub_stored_at(const struct soft_trans *t, struct emit *e)
{
	trans_regs_spill(e);
	state_arg(e);
	emit_mov(e, H_RSI, H_RAX);
	emit_mov(e, H_RDX, H_R11);
	trans_live_end(t, e);
	emit_op64(e, 0xff, 0, T_FIELD(stats.told)); /* inc */
	emit_op64(e, 0x8b, H_RAX, RETURN_ADDRESS);
	movzx(e, 0xb6, H_RCX, rm_mem(H_RAX, H_NONE, 0, TEST_BYTES + 2));
	call_c(e, (uintptr_t)soft_stored);
	trans_regs_fill(e);
	emit_modrm(e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = ALU_CMP},
		   T_FIELD(code_stop));
	emit_byte(e, 0);
	uint8_t *out = emit_jcc(e, CC_NZ);
	emit_byte(e, 0xc3);
	emit_here(e, out);
	emit_op64(e, 0x8b, H_RAX, RETURN_ADDRESS);
	movzx(e, 0xb7, H_RAX, rm_mem(H_RAX, H_NONE, 0, TEST_BYTES));
	emit_patch(emit_jmp(e), t->rw + t->exit_off);
}

/* Behind the call: the offset to go on at. */
static void stub_stop_at(const struct soft_trans *t, struct emit *e)
{
	emit_op64(e, 0x8b, H_RAX, RETURN_ADDRESS);
	movzx(e, 0xb7, H_RAX, rm_mem(H_RAX, H_NONE, 0, 0));
	emit_patch(emit_jmp(e), t->rw + t->exit_off);
}

/* Behind the call: what trans_link wants, the offset to go on at in its midst. */
static void stub_link_at(const struct soft_trans *t, struct emit *e)
{
	emit_op64(e, 0x8b, H_RAX, RETURN_ADDRESS);
	emit_op64(e, 0x8b, H_R11, rm_mem(H_RAX, H_NONE, 0, 0));
	emit_op64(e, 0x89, H_R11, T_FIELD(trans_link));
	movzx(e, 0xb7, H_RAX, rm_mem(H_RAX, H_NONE, 0, TRANS_LINK_PLACE / 8));
	emit_alu_imm(e, ALU_AND, H_RAX, (1 << TRANS_LINK_AT) - 1, 0);
	emit_patch(emit_jmp(e), t->rw + t->exit_off);
}
_Static_assert(SOFT_BLOCKS <= 1u << (32 - TRANS_LINK_AT), "a block's number has room");

void trans_stubs_late(struct soft_trans *t, struct emit *e)
{
	t->missed = (uint32_t)(e->at - t->rw);
	stub_missed(t, e);
	for (unsigned write = 0; write < 2; write++) {
		t->missed_tlb[write] = (uint32_t)(e->at - t->rw);
		stub_missed_tlb(t, e, write);
		for (unsigned log = 0; log < ARRAY_SIZE(t->missed_stack[0]); log++) {
			t->missed_stack[write][log] = (uint32_t)(e->at - t->rw);
			stub_missed_stack(t, e, write, log);
		}
	}
	t->missed_jump = (uint32_t)(e->at - t->rw);
	stub_missed_jump(t, e);
	t->far_again = (uint32_t)(e->at - t->rw);
	stub_far_again(t, e);
	t->stored_at = (uint32_t)(e->at - t->rw);
	stub_stored_at(t, e);
	t->stop_at = (uint32_t)(e->at - t->rw);
	stub_stop_at(t, e);
	t->link_at = (uint32_t)(e->at - t->rw);
	stub_link_at(t, e);
}

/* In the block */

static void go(struct tb *tb, uint8_t *place, const uint8_t *to)
{
	if (!tb->e.full)
		emit_patch(place, to);
}

static void emit_16(struct emit *e, unsigned v)
{
	emit_byte(e, (uint8_t)v);
	emit_byte(e, (uint8_t)(v >> 8));
}

/* Out, to an offset from the page. */
static void exit_offset(struct tb *tb, int64_t offset)
{
	if (offset == (uint16_t)offset) {
		tb_stub_call(tb, tb->t->stop_at);
		emit_16(&tb->e, (unsigned)offset);
		return;
	}
	emit_mov_imm(&tb->e, H_RAX, (uint64_t)offset);
	tb_stub_jmp(tb, tb->t->exit_off);
}

/* The linear address that is looked for is the entry's. */
static void jump_address(struct tb *tb)
{
	emit_op64(&tb->e, 0x8b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_jump, lin)));
}

static void late_far(struct tb *tb, const struct late *l)
{
	if (l->key)
		jump_address(tb);
	tb_stub_call(tb, tb->t->far_again);
	go(tb, emit_jmp(&tb->e), l->found);
}

static void late_link(struct tb *tb, const struct late *l)
{
	tb_stub_call(tb, tb->t->link_at);
	emit_32(&tb->e, (uint32_t)(l->place - tb->t->rw));
	assert(l->next >= 0 && l->next < 1 << TRANS_LINK_AT);
	emit_32(&tb->e, (uint32_t)l->next | soft_block_number(tb->cpu->cache, tb->block)
						<< TRANS_LINK_AT);
}

/* On when code was not dropped (ZF), else out. */
static void late_stop(struct tb *tb, const struct late *l)
{
	uint8_t *on = emit_jcc(&tb->e, CC_Z);

	if (l->to_hit) {
		emit_op64(&tb->e, 0x8b, H_RAX, T_FIELD(jump_hit));
		jump_address(tb);
		emit_op64(&tb->e, 0x89, H_R11, T_FIELD(s.rip));
		tb_stub_jmp(tb, tb->t->exit_rip);
	} else {
		exit_offset(tb, l->next);
	}
	emit_here(&tb->e, on);
}

/* Back into the block. */
static void late_back(struct tb *tb, const struct late *l)
{
	if (l->vec) {
		uint8_t *live = tb_live_again(tb, l->vec);
		exit_offset(tb, l->next);
		emit_here(&tb->e, live);
	}
	if (l->reload)
		trans_flags_load(&tb->e);
	go(tb, emit_jmp(&tb->e), l->back);
}

static void late_miss(struct tb *tb, const struct late *l)
{
	struct emit *e = &tb->e;
	uint32_t stub = tb->t->missed;

	if (l->x87.set) {
		emit_byte(e, 0x50); /* push rax */
		tb_x87_pointers(tb, &l->x87);
		emit_byte(e, 0x58); /* pop rax */
	}
	if (l->key)
		jump_address(tb);
	if (l->found)
		stub = l->jump ? tb->t->missed_jump : tb_mem_again(tb, l);
	tb_stub_call(tb, stub);
	emit_byte(e, 0x41); /* mov r11d, imm */
	emit_byte(e, 0xbb);
	emit_32(e, site_of(tb, l));
	if (l->found)
		go(tb, emit_jcc(e, CC_Z), l->found);
	if (!l->ends && !l->state)
		late_back(tb, l);
}

/* Tells of `size` bytes; what follows is at the offset `next`. */
static void stored_at(struct tb *tb, unsigned next, uint8_t size)
{
	tb_stub_call(tb, tb->t->stored_at);
	emit_byte(&tb->e, 0xa9); /* test eax, imm */
	emit_32(&tb->e, next | (uint32_t)size << 16);
}

/* The same, with what is to be done before the block may be left. */
static void stored_call(struct tb *tb, uint8_t size)
{
	emit_modrm(&tb->e, &(struct emit_op){.opcode = 0xc6, .reg_is_op = 1}, T_FIELD(rmw_size));
	emit_byte(&tb->e, size);
	tb_count(tb, offsetof(struct soft_cpu, stats.told));
	tb_stub_call(tb, tb->t->stored);
}

static void late_stored(struct tb *tb, const struct late *l)
{
	struct emit *e = &tb->e;

	if (l->simple) {
		emit_lea(e, H_RAX, l->addr);
		emit_op64(e, 0x87, H_RAX, rm_reg(H_R11));
	}
	assert(l->next == (uint16_t)l->next);
	if (l->x87.set) {
		stored_call(tb, l->size);
		tb_x87_pointers(tb, &l->x87);
		late_stop(tb, l);
	} else {
		stored_at(tb, (unsigned)l->next, l->size);
	}
	late_back(tb, l);
}

void tb_late_stored(struct tb *tb, const struct late *l, uint8_t size)
{
	if (!l->to_hit && l->next == (uint16_t)l->next) {
		stored_at(tb, (unsigned)l->next, size);
	} else {
		stored_call(tb, size);
		late_stop(tb, l);
	}
}

static void late_live(struct tb *tb, const struct late *l)
{
	uint8_t *live = tb_live_again(tb, l->vec);

	tb_x87_pointers(tb, &l->x87);
	emit_mov_imm(&tb->e, H_RAX, (uint64_t)l->at);
	tb_stub_jmp(tb, tb->t->exit_refused);
	go(tb, live, l->back);
}

void tb_late_emit(struct tb *tb, const struct late *l)
{
	struct emit *e = &tb->e;

	if (e->full)
		return;
	emit_here(e, l->place);
	tb->insn = l->insn;
	tb->at = l->at;
	tb->next = l->insn ? l->at + l->insn->len : l->at;
	switch (l->kind) {
	case LATE_MISS: late_miss(tb, l); break;
	case LATE_STORED: late_stored(tb, l); break;
	case LATE_STOP: exit_offset(tb, l->next); break;
	case LATE_LINK: late_link(tb, l); break;
	case LATE_CALL: tb_late_call(tb, l); break;
	case LATE_CALLED: tb_late_called(tb, l); break;
	case LATE_DEEP: tb_late_deep(tb, l); break;
	case LATE_BACK: tb_late_back(tb, l); break;
	case LATE_RETURN: tb_late_return(tb, l); break;
	case LATE_FAR: late_far(tb, l); break;
	case LATE_OUT: tb_stub_jmp(tb, l->state ? tb->t->exit_state : tb->t->exit_rip); break;
	case LATE_NEAR: tb_near_late(tb, l); break;
	case LATE_LIVE: late_live(tb, l); break;
	}
}
