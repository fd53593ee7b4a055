/* trans_stub.c: the fixed pieces of host code: ways in, ways out, calls of C functions. */
#include "engine/soft/trans.h"

void trans_flags_load(struct emit *e)
{
	emit_op32(e, 0x8b, H_RAX, T_FIELD(af));
	emit_byte(e, 0x24); /* and al, 1 */
	emit_byte(e, 1);
	emit_byte(e, 0x04); /* add al, 0x7f: OF */
	emit_byte(e, 0x7f);
	emit_byte(e, 0x9e); /* sahf */
}

void trans_flags_save(struct emit *e)
{
	emit_byte(e, 0x9f); /* lahf */
	emit_byte(e, 0x0f); /* seto al */
	emit_byte(e, 0x90);
	emit_byte(e, 0xc0);
	emit_op32(e, 0x89, H_RAX, T_FIELD(af));
}

static void regs_move(struct emit *e, uint8_t opcode)
{
	for (unsigned r = 0; r < 16; r++)
		if (trans_host(r) != H_NONE)
			emit_op64(e, opcode, trans_host(r), trans_gpr(r));
}
void trans_regs_spill(struct emit *e)
{
	regs_move(e, 0x89);
}
void trans_regs_fill(struct emit *e)
{
	regs_move(e, 0x8b);
}

static const uint8_t saved[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

static void push(struct emit *e, unsigned reg)
{
	if (reg & 8)
		emit_byte(e, 0x41);
	emit_byte(e, (uint8_t)(0x50 | (reg & 7)));
}
static void pop(struct emit *e, unsigned reg)
{
	if (reg & 8)
		emit_byte(e, 0x41);
	emit_byte(e, (uint8_t)(0x58 | (reg & 7)));
}

static void push_imm(struct emit *e, uint8_t imm)
{
	emit_byte(e, 0x6a);
	emit_byte(e, imm);
}

/* unsigned enter(struct soft_cpu *, const uint8_t *code): six pushes and the return address leave
 * the stack 8 bytes off, so that a call from host code finds it aligned in its callee's callee;
 * frames are of 16 bytes. */
static void stub_enter(const struct soft_trans *t, struct emit *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
		push(e, saved[i]);
	emit_lea(e, T_STATE, rm_mem(H_RDI, H_NONE, 0, TRANS_BIAS));
	emit_op64(e, 0x89, H_RSP, T_FIELD(frame_host));
	push_imm(e, 0);
	emit_mov_imm(e, H_RAX, (uint64_t)(uintptr_t)(t->rx + t->no_frame));
	push(e, H_RAX);
	emit_op64(e, 0x89, H_RSP, T_FIELD(frame_base));
	emit_lea(e, H_RAX, rm_mem(H_RSP, H_NONE, 0, -(int32_t)TRANS_FRAMES * 16));
	emit_op64(e, 0x89, H_RAX, T_FIELD(frame_limit));
	emit_mov(e, H_RAX, H_RSI);
	trans_regs_fill(e);
	emit_byte(e, 0xff); /* jmp rax */
	emit_byte(e, 0xe0);
}

static void stub_leave(const struct soft_trans *t, struct emit *e, enum trans_exit why)
{
	trans_regs_spill(e);
	emit_op64(e, 0x8b, H_RSP, T_FIELD(frame_host));
	trans_live_end(t, e);
	emit_mov_imm(e, H_RAX, why);
	for (unsigned i = ARRAY_SIZE(saved); i-- > 0;)
		pop(e, saved[i]);
	emit_byte(e, 0xc3);
}

/* After a C function: registers back, ZF says whether code was dropped meanwhile. */
static void stub_return(struct emit *e)
{
	trans_regs_fill(e);
	emit_modrm(e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = 7},
		   T_FIELD(code_stop));
	emit_byte(e, 0);
	emit_byte(e, 0xc3);
}

static void state_arg(struct emit *e)
{
	emit_lea(e, H_RDI, rm_mem(T_STATE, H_NONE, 0, -TRANS_BIAS));
}

static void rip_from_offset(struct emit *e)
{
	emit_op64(e, 0x03, H_RAX, T_FIELD(page));
	emit_op64(e, 0x89, H_RAX, T_FIELD(s.rip));
}

void trans_stubs(const struct soft_cpu *cpu, struct soft_trans *t, struct emit *e)
{
	uint8_t *start = e->at;

	trans_stubs_live(t, e);
	t->stack = (uint32_t)(e->at - start);
	trans_stub_stack(e);
	for (unsigned k = 0; k < 2; k++) {
		t->near[k] = (uint32_t)(e->at - start);
		trans_stub_near(cpu, e, k);
	}
	/* RAX: the instruction's offset from the page; R11: its struct insn. */
	t->handler = (uint32_t)(e->at - start);
	trans_regs_spill(e);
	rip_from_offset(e);
	state_arg(e);
	emit_mov(e, H_RSI, H_R11);
	trans_live_end(t, e);
	emit_byte(e, 0xff); /* call [rsi] */
	emit_byte(e, 0x16);
	stub_return(e);
	t->handler_state = (uint32_t)(e->at - start);
	trans_regs_spill(e);
	rip_from_offset(e);
	state_arg(e);
	emit_mov(e, H_RSI, H_R11);
	trans_live_end(t, e);
	emit_mov_imm(e, H_RAX, (uint64_t)(uintptr_t)trans_state);
	emit_byte(e, 0xff); /* call rax */
	emit_byte(e, 0xd0);
	emit_byte(e, 0x84); /* test al */
	emit_byte(e, 0xc0);
	uint8_t *kept = emit_jcc(e, CC_Z);
	pop(e, H_RAX);
	emit_op64(e, 0x8b, H_RSP, T_FIELD(frame_base));
	push(e, H_RAX);
	emit_here(e, kept);
	stub_return(e);
	/* RAX: the page's flags; R11: the host address that was written. */
	t->stored = (uint32_t)(e->at - start);
	trans_regs_spill(e);
	state_arg(e);
	emit_mov(e, H_RSI, H_RAX);
	emit_mov(e, H_RDX, H_R11);
	trans_live_end(t, e);
	emit_modrm(e, &(struct emit_op){.map = 1, .opcode = 0xb6, .reg = H_RCX}, T_FIELD(rmw_size));
	emit_mov_imm(e, H_RAX, (uint64_t)(uintptr_t)soft_stored);
	emit_byte(e, 0xff); /* call rax */
	emit_byte(e, 0xd0);
	stub_return(e);
	/* RAX: the page's flags; R11: an address in it. */
	t->str_stored = (uint32_t)(e->at - start);
	trans_regs_spill(e);
	state_arg(e);
	emit_mov(e, H_RSI, H_RAX);
	emit_mov(e, H_RDX, H_R11);
	emit_alu_imm(e, ALU_AND, H_RDX, -4096, 1);
	trans_live_end(t, e);
	emit_mov_imm(e, H_RCX, GMEM_PAGE_SIZE);
	emit_mov_imm(e, H_RAX, (uint64_t)(uintptr_t)soft_stored);
	emit_byte(e, 0xff); /* call rax */
	emit_byte(e, 0xd0);
	stub_return(e);
	trans_stubs_string(t, e);
	/* RAX: an offset from the page. */
	t->exit_off = (uint32_t)(e->at - start);
	rip_from_offset(e);
	t->exit_rip = (uint32_t)(e->at - start);
	stub_leave(t, e, TRANS_LOOKUP);
	/* The frame below all others says 0, and a return to 0 is one as any other; R11 is 0. */
	t->no_frame = (uint32_t)(e->at - start);
	emit_op64(e, 0x89, H_R11, T_FIELD(s.rip));
	emit_patch(emit_jmp(e), start + t->exit_rip);
	t->enter = (uint32_t)(e->at - start);
	stub_enter(t, e);
	t->exit_state = (uint32_t)(e->at - start);
	stub_leave(t, e, TRANS_STATE);
	t->exit_refused = (uint32_t)(e->at - start);
	rip_from_offset(e);
	t->exit_refused_rip = (uint32_t)(e->at - start);
	stub_leave(t, e, TRANS_REFUSED);
	trans_stubs_late(t, e);
	/* R11: what trans_near_missed wants to know; RAX: the instruction's offset from the page.
	 */
	t->exit_near = (uint32_t)(e->at - start);
	emit_op32(e, 0x89, H_R11, T_FIELD(near_missed));
	rip_from_offset(e);
	stub_leave(t, e, TRANS_NEAR);
	/* RAX: the jump cache's entry. */
	t->cold = (uint32_t)(e->at - start);
	emit_op64(e, 0x8b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_jump, lin)));
	emit_op64(e, 0x89, H_R11, T_FIELD(s.rip));
	emit_patch(emit_jmp(e), start + t->exit_rip);
}
