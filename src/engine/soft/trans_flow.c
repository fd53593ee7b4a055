/* trans_flow.c: the ways between blocks: jumps, calls and returns.
 *
 * A call in 64-bit or 32-bit code is the host's own call, so that the host predicts the return.
 * Above the host's return address lies the guest's, linear; both are a frame on the host's stack. A
 * return compares the guest's return address, as it was just read from the guest's stack, with that
 * of the last frame, and is the host's own return when they are equal; else the frame is dropped
 * and the address looked up as any other. A frame says that under the present key (address space,
 * mode, privilege, generation of the translations) there is host code for the address, valid until
 * something drops it. All of that makes host code leave: a change of the key and a drop set
 * code_stop, which every handler's caller looks at, and what other CPUs do comes with an event,
 * which the block that the call returns to begins with a look at. Who leaves host code leaves all
 * frames, and an instruction that may change the key without leaving it (trans_state) drops them.
 * So no frame is ever stale. Nothing else is carried from a call to its return: neither checks of
 * soft_cpu.near nor live vector registers, as what is returned to is a block's beginning.
 */
#include "engine/soft/trans_impl.h"

/* Looks R11 up in the jump cache; on success its entry is in RAX. */
static void jump_find(struct tb *tb, enum late_kind miss)
{
	struct emit *e = &tb->e;

	emit_mov(e, H_RAX, H_R11);
	emit_op64(e, 0xc1, 5, rm_reg(H_RAX)); /* shr rax, 12 */
	emit_byte(e, 12);
	emit_op32(e, 0x33, H_RAX, rm_reg(H_R11));
	emit_alu_imm(e, ALU_AND, H_RAX, SOFT_JUMP_SIZE - 1, 0);
	emit_op32(e, 0xc1, 4, rm_reg(H_RAX)); /* shl eax, 5 */
	emit_byte(e, 5);
	emit_op64(e, 0x03, H_RAX, T_FIELD(jump_table));
	emit_op64(e, 0x3b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_jump, lin)));
	struct late *l[2];
	l[0] = tb_late(tb, miss, emit_jcc(e, CC_NZ));
	emit_op64(e, 0x8b, H_R11, T_FIELD(jump_key));
	emit_op64(e, 0x3b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_jump, key)));
	l[1] = tb_late(tb, miss, emit_jcc(e, CC_NZ));
	l[1]->key = 1;
	for (unsigned i = 0; i < 2; i++) {
		l[i]->ends = miss == LATE_MISS;
		l[i]->jump = 1;
		l[i]->found = e->at;
	}
}
_Static_assert(sizeof(struct soft_jump) == 32, "the index is shifted for it");

enum { GO_CALL = 2, GO_JUMP = 4 };

/* Goes to the entry in RAX. */
static void jump_go(struct tb *tb, uint8_t how)
{
	struct emit *e = &tb->e;

	emit_op64(e, 0x8b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_jump, lin)));
	emit_alu_imm(e, ALU_AND, H_R11, -4096, 1);
	emit_op64(e, 0x89, H_R11, T_FIELD(page));
	emit_op64(e, 0xff, how, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_jump, code)));
}

void tb_exit_r11(struct tb *tb)
{
	jump_find(tb, LATE_FAR);
	jump_go(tb, GO_JUMP);
}

/* A direct jump to an offset is linked within the page only, whose blocks are dropped together. An
 * instruction in two pages is dropped with neither: it looks its target up each time. */
static _Bool linkable(const struct tb *tb, int64_t target)
{
	return (uint64_t)target < GMEM_PAGE_SIZE && !tb->alone;
}

/* R11: the linear address of an offset that is not in the page. */
static void far_address(struct tb *tb, int64_t target)
{
	emit_op64(&tb->e, 0x8b, H_R11, T_FIELD(page));
	if (target == (int32_t)target) {
		tb_lea(tb, H_R11, rm_mem(H_R11, H_NONE, 0, (int32_t)target));
	} else {
		emit_mov_imm(&tb->e, H_RAX, (uint64_t)target);
		emit_op64(&tb->e, 0x03, H_R11, rm_reg(H_RAX));
	}
}

void tb_exit_to(struct tb *tb, int64_t target)
{
	if (linkable(tb, target)) {
		tb_late(tb, LATE_LINK, emit_jmp(&tb->e))->next = target;
		return;
	}
	far_address(tb, target);
	tb_exit_r11(tb);
}

/* A conditional branch near or far, by host flags that are at hand; the guest's are saved. */
static void branch_on(struct tb *tb, unsigned cc, int64_t target)
{
	uint8_t *taken = emit_jcc(&tb->e, cc);
	if (linkable(tb, target)) {
		tb_late(tb, LATE_LINK, taken)->next = target;
		tb_exit_to(tb, tb->next);
		return;
	}
	tb_exit_to(tb, tb->next);
	emit_here(&tb->e, taken);
	tb_exit_to(tb, target);
}

static void branch_if(struct tb *tb, unsigned cc, int64_t target)
{
	tb_flags_host(tb);
	if (tb_loop_branch(tb, cc, target))
		return;
	tb_flags_save(tb);
	branch_on(tb, cc, target);
}

/* Calls and returns */

static const struct insn top = {
    .base = SOFT_EA_GPR(X86_RSP), .index = SOFT_EA_ZERO, .segbase = SOFT_EA_ZERO, .seg = X86_SS};

static void jump_back(struct tb *tb, const uint8_t *to)
{
	uint8_t *place = emit_jmp(&tb->e);

	if (!tb->e.full)
		emit_patch(place, to);
}

static void next_from_page(struct tb *tb)
{
	emit_op64(&tb->e, 0x8b, H_R11, T_FIELD(page));
	tb_lea(tb, H_R11, rm_mem(H_R11, H_NONE, 0, (int32_t)tb->next));
}

/*
 * R11: the return address. Taken from the state, and `page` from the frame afterwards, each call
 * would wait for the one before, through memory. So both are constants, compared with what they
 * stand for; code that is mapped at another address than when it was translated does it out of
 * line.
 */
static void return_address(struct tb *tb)
{
	struct emit *e = &tb->e;

	emit_mov_imm(e, H_R11, tb->lin);
	emit_op64(e, 0x3b, H_R11, T_FIELD(page));
	struct late *l = tb_late(tb, LATE_CALL, emit_jcc(e, CC_NZ));
	tb_lea(tb, H_R11, rm_mem(H_R11, H_NONE, 0, (int32_t)tb->next));
	l->back = e->at;
}

void tb_late_call(struct tb *tb, const struct late *l)
{
	next_from_page(tb);
	jump_back(tb, l->back);
}

/* Pushes the return address, which is in R11 then. */
static struct late *call_push(struct tb *tb)
{
	struct emit *e = &tb->e;
	struct insn m = top;
	struct tb_mem mem = {.m = &m, .size = tb->word, .write = 1, .simple = 1, .bare = 1};

	m.disp = -tb->word;
	tb_mem(tb, &mem);
	tb_mem_ends(&mem);
	if (tb->narrow) {
		emit_op32(e, 0x8d, H_R11, rm_mem(T_GRSP, H_NONE, 0, -4));
		emit_op64(e, 0x03, H_RAX, rm_reg(H_R11));
		mem.rm = rm_mem(H_RAX, H_NONE, 0, 0);
	}
	return_address(tb);
	tb_op(tb, 0x89, H_R11, mem.rm);
	tb_lea(tb, T_GRSP, rm_mem(T_GRSP, H_NONE, 0, -tb->word));
	tb_mem_flags(tb, &mem, H_RAX);
	emit_modrm(e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = ALU_CMP},
		   rm_mem(H_RAX, H_NONE, 0, 0));
	emit_byte(e, 0);
	struct late *l = tb_late(tb, LATE_CALLED, emit_jcc(e, CC_NZ));
	l->back = e->at;
	return l;
}

/* Out of line: the page's flags are in RAX. */
void tb_late_called(struct tb *tb, const struct late *l)
{
	emit_mov(&tb->e, H_R11, T_GRSP);
	tb_late_stored(tb, l, tb->word);
	next_from_page(tb);
	jump_back(tb, l->back);
}

/* The guest's part of a frame, from R11; when there are too many, all others are dropped. */
static void frame_push(struct tb *tb)
{
	struct emit *e = &tb->e;

	emit_op64(e, 0x3b, H_RSP, T_FIELD(frame_limit));
	struct late *l = tb_late(tb, LATE_DEEP, emit_jcc(e, CC_B));
	l->back = e->at;
	emit_byte(e, 0x41); /* push r11 */
	emit_byte(e, 0x53);
}

void tb_late_deep(struct tb *tb, const struct late *l)
{
	emit_op64(&tb->e, 0x8b, H_RSP, T_FIELD(frame_base));
	jump_back(tb, l->back);
}

/* What the call returns to: the rest of the frame goes, and `page` comes back. */
static void call_back(struct tb *tb)
{
	struct emit *e = &tb->e;

	emit_byte(e, 0x58); /* pop rax */
	emit_mov_imm(e, H_R11, tb->lin + (uint64_t)tb->next);
	emit_op64(e, 0x3b, H_R11, rm_reg(H_RAX));
	struct late *l = tb_late(tb, LATE_BACK, emit_jcc(e, CC_NZ));
	l->back = e->at;
	emit_alu_imm(e, ALU_AND, H_R11, -4096, 1);
	emit_op64(e, 0x89, H_R11, T_FIELD(page));
	tb_exit_to(tb, tb->next);
}

void tb_late_back(struct tb *tb, const struct late *l)
{
	emit_mov(&tb->e, H_R11, H_RAX);
	jump_back(tb, l->back);
}

/* `hit`: the target's entry is in jump_hit. A return to another page is not predicted. */
static void call_near(struct tb *tb, _Bool hit, int64_t target)
{
	_Bool frame = linkable(tb, tb->next);
	struct emit *e = &tb->e;
	struct late *l = call_push(tb);

	l->to_hit = hit;
	l->next = target;
	if (frame)
		frame_push(tb);
	if (hit) {
		emit_op64(e, 0x8b, H_RAX, T_FIELD(jump_hit));
		jump_go(tb, frame ? GO_CALL : GO_JUMP);
	} else if (linkable(tb, target)) {
		uint8_t *place = frame ? emit_call(e) : emit_jmp(e);
		tb_late(tb, LATE_LINK, place)->next = target;
	} else {
		far_address(tb, target);
		jump_find(tb, LATE_FAR);
		jump_go(tb, frame ? GO_CALL : GO_JUMP);
	}
	if (frame)
		call_back(tb);
}

#define FRAME rm_mem(H_RSP, H_NONE, 0, 8) /* the guest's return address in the last frame */

static void ret_near(struct tb *tb)
{
	struct tb_mem mem = {.m = &top, .size = tb->word, .simple = 1};
	struct emit *e = &tb->e;

	tb_mem(tb, &mem);
	tb_mem_ends(&mem);
	tb_op(tb, 0x8b, H_R11, mem.rm);
	emit_op64(e, 0x3b, H_R11, FRAME);
	tb_late(tb, LATE_RETURN, emit_jcc(e, CC_NZ));
	tb_lea(tb, T_GRSP, rm_mem(T_GRSP, H_NONE, 0, tb->word + (int32_t)tb->insn->imm));
	emit_byte(e, 0xc3);
}

/* Out of line: another address, in R11, than that of the last frame. The frame is dropped by a
 * return, so that the host's predictor keeps step. */
void tb_late_return(struct tb *tb, const struct late *l)
{
	struct emit *e = &tb->e;

	emit_op64(e, 0xff, 0, T_FIELD(stats.strayed)); /* inc */
	emit_op64(e, 0x3b, H_RSP, T_FIELD(frame_base));
	uint8_t *none = emit_jcc(e, CC_Z);
	uint8_t *dropped = emit_lea_rip(e, H_RAX);
	emit_op64(e, 0x89, H_RAX, rm_mem(H_RSP, H_NONE, 0, 0));
	emit_byte(e, 0xc3);
	emit_here(e, dropped);
	emit_lea(e, H_RSP, rm_mem(H_RSP, H_NONE, 0, 8));
	emit_here(e, none);
	jump_find(tb, LATE_MISS);
	tb_lea(tb, T_GRSP, rm_mem(T_GRSP, H_NONE, 0, tb->word + (int32_t)l->insn->imm));
	jump_go(tb, GO_JUMP);
}

/* The target of an indirect branch into R11. Its entry is looked for before anything is changed, so
 * that a miss can be left to the handler. */
static _Bool indirect_find(struct tb *tb, const ZydisDecodedOperand *op)
{
	struct tb_mem mem = {.m = tb->insn, .size = tb->word};

	if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		unsigned gpr = tb->insn->r1 / 8u;
		tb_flags_save(tb);
		if (trans_host(gpr) == H_NONE)
			emit_op64(&tb->e, 0x8b, H_R11, trans_gpr(gpr));
		else
			tb_op(tb, 0x8b, H_R11, rm_reg(trans_host(gpr)));
	} else {
		if (!tb_ea_possible(tb, tb->insn))
			return 0;
		tb_mem(tb, &mem);
		tb_mem_ends(&mem);
		tb_op(tb, 0x8b, H_R11, mem.rm);
	}
	tb->flags = FLAGS_SAVED;
	jump_find(tb, LATE_MISS);
	return 1;
}

static _Bool jmp_indirect(struct tb *tb, const ZydisDecodedOperand *op)
{
	if (!indirect_find(tb, op))
		return 0;
	jump_go(tb, GO_JUMP);
	return 1;
}

static _Bool call_indirect(struct tb *tb, const ZydisDecodedOperand *op)
{
	if (!indirect_find(tb, op))
		return 0;
	emit_op64(&tb->e, 0x89, H_RAX, T_FIELD(jump_hit));
	call_near(tb, 1, 0);
	return 1;
}

_Bool tb_branch(struct tb *tb, const struct tb_insn *i)
{
	const ZydisDecodedOperand *op = &i->ops[0];
	_Bool direct = i->zi.operand_count_visible && op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	int64_t target = tb->at + (int64_t)tb->insn->imm;

	/* Modulo 4 GiB: the nearest. */
	if (tb->narrow)
		target = (int32_t)target;

	if (tb_string(tb, i) || tb_sys_last(tb, i) || tb_rare_last(tb, i)) {
		tb_flags_save(tb);
		tb_exit_to(tb, tb->next);
		return 1;
	}

	if (!(tb->insn->flags & INSN_BRANCH) || (tb->insn->flags & INSN_STATE) ||
	    tb->insn->osize != tb->word || i->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return 0;
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		if (!direct)
			return jmp_indirect(tb, op);
		tb_flags_save(tb);
		tb_exit_to(tb, target);
		return 1;
	case ZYDIS_MNEMONIC_CALL:
		if (!direct)
			return call_indirect(tb, op);
		call_near(tb, 0, target);
		return 1;
	case ZYDIS_MNEMONIC_RET: ret_near(tb); return 1;
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ: {
		int cc = tb_counted(tb, i);
		if (cc < 0)
			return 0;
		branch_on(tb, (unsigned)cc, target);
		return 1;
	}
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE:
	case ZYDIS_MNEMONIC_JCXZ: return 0;
	default: break;
	}
	if (i->zi.meta.category != ZYDIS_CATEGORY_COND_BR)
		return 0;
	branch_if(tb, i->zi.opcode & 15, target);
	return 1;
}
