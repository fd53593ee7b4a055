/* trans_str.c: REP MOVS and REP STOS as the host's own, page by page.
 *
 * A stub per operation and element size does the repetition: it looks both operands' pages up in
 * the TLB as any access does, cuts the count to what lies in them, and lets the host's instruction
 * do that many elements on the translated addresses; nothing of it can fault, and elements are
 * written in the order that the guest asked for, whatever overlaps. The guest's registers are exact
 * between the pieces, so whatever is special (a miss, an element across a page's end, downward, a
 * page that wants to hear of stores) is left to the handler, which goes on from there.
 *
 * This is, beside trans_mem.c, code that guest addresses go through: a piece begins at an address
 * whose page's tag was compared, and its length is at most the distance to that page's end.
 */
#include "engine/soft/trans_impl.h"

/* Offsets in the low byte's neighbour: RFLAGS.DF. */
#define DF_BYTE 1u
#define DF_BIT	4u

static void shift(struct emit *e, unsigned op, int reg, unsigned count, _Bool wide)
{
	emit_modrm(
	    e, &(struct emit_op){.opcode = 0xc1, .wide = wide, .reg_is_op = 1, .reg = (uint8_t)op},
	    rm_reg(reg));
	emit_byte(e, (uint8_t)count);
}
enum { SHL = 4, SHR = 5 };

static void cmov(struct emit *e, unsigned cc, int to, int from)
{
	emit_modrm(e,
		   &(struct emit_op){
		       .map = 1, .opcode = (uint8_t)(0x40 | cc), .wide = 1, .reg = (uint8_t)to},
		   rm_reg(from));
}
static void push(struct emit *e, int reg)
{
	emit_byte(e, (uint8_t)(0x50 | reg));
}
static void pop(struct emit *e, int reg)
{
	emit_byte(e, (uint8_t)(0x58 | reg));
}
/* Uses the flags. The jump when the upper half of an index or of the count is not 0; 32-bit code
 * does not see that. */
static uint8_t *upper_check(struct emit *e, _Bool movs)
{
	emit_mov(e, H_R11, H_RCX);
	emit_op64(e, 0x0b, H_R11, rm_reg(H_RDI)); /* or */
	if (movs)
		emit_op64(e, 0x0b, H_R11, rm_reg(H_RSI));
	shift(e, SHR, H_R11, 32, 1);
	return emit_jcc(e, CC_NZ);
}
static void emit_cmp(struct emit *e, int a, int b)
{
	emit_op64(e, 0x3b, a, rm_reg(b));
}

#define ENTRY(reg, f) rm_mem(reg, H_NONE, 0, offsetof(struct soft_tlb_entry, f))

/* The TLB entry of the element at `lin` into `entry`; uses R11. The place of a jump when it is not
 * the one. */
static uint8_t *entry_find(struct emit *e, int lin, int entry, unsigned size, _Bool write)
{
	emit_mov(e, entry, lin);
	shift(e, SHR, entry, 12 - 5, 0);
	emit_alu_imm(e, ALU_AND, entry, (SOFT_TLB_SIZE - 1) << 5, 0);
	emit_op64(e, 0x03, entry, T_FIELD(tlb));
	emit_lea(e, H_R11, rm_mem(lin, H_NONE, 0, (int32_t)size - 1));
	emit_alu_imm(e, ALU_AND, H_R11, -4096, 1);
	emit_op64(e, 0x0b, H_R11, T_FIELD(asid));
	emit_op64(e, 0x3b, H_R11, write ? ENTRY(entry, write) : ENTRY(entry, read));
	uint8_t *found = emit_jcc(e, CC_Z);
	emit_alu_imm(e, ALU_ADD, entry, offsetof(struct soft_tlb, victim), 1);
	emit_op64(e, 0x3b, H_R11, write ? ENTRY(entry, write) : ENTRY(entry, read));
	uint8_t *miss = emit_jcc(e, CC_NZ);
	emit_here(e, found);
	return miss;
}

/* RBP becomes the number of elements from `lin` to its page's end if it is less. */
static void count_cut(struct emit *e, int lin, unsigned log2)
{
	emit_op32(e, 0x8b, H_R11, rm_reg(lin));
	emit_alu_imm(e, ALU_OR, H_R11, -4096, 0);
	emit_op32(e, 0xf7, 3, rm_reg(H_R11)); /* neg: 1 to 4096 */
	if (log2)
		shift(e, SHR, H_R11, log2, 0);
	emit_cmp(e, H_RBP, H_R11);
	cmov(e, 7, H_RBP, H_R11); /* above */
}

/*
 * Called by host code. Afterwards: ZF and not CF: done; CF: to be left and come back to, with the
 * same RIP; neither: the handler is to go on.
 */
static void stub_string(const struct soft_trans *t, struct emit *e, unsigned log2, _Bool movs,
			_Bool narrow)
{
	unsigned size = 1u << log2;
	uint8_t *done, *down, *upper = NULL, *miss[3], *events, *stored;
	const uint8_t *again;

	emit_modrm(e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1},
		   trans_at(offsetof(struct soft_cpu, s.rflags) + DF_BYTE));
	emit_byte(e, DF_BIT);
	down = emit_jcc(e, CC_NZ);
	if (narrow)
		upper = upper_check(e, movs);
	again = e->at;
	emit_op64(e, 0x85, H_RCX, rm_reg(H_RCX)); /* test */
	done = emit_jcc(e, CC_Z);
	push(e, H_RDX);
	push(e, H_RBX);
	push(e, H_RBP);
	miss[0] = entry_find(e, H_RDI, H_RDX, size, 1);
	miss[1] = movs ? entry_find(e, H_RSI, H_RBX, size, 0) : NULL;
	emit_op64(e, 0x8b, H_R11, ENTRY(H_RDX, flags));
	emit_modrm(e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = ALU_CMP},
		   rm_mem(H_R11, H_NONE, 0, 0));
	emit_byte(e, 0);
	miss[2] = emit_jcc(e, CC_NZ);
	emit_mov(e, H_RBP, H_RCX);
	count_cut(e, H_RDI, log2);
	if (movs) {
		count_cut(e, H_RSI, log2);
		emit_op64(e, 0x8b, H_RBX, ENTRY(H_RBX, addend));
		emit_op64(e, 0x03, H_RSI, rm_reg(H_RBX));
	}
	emit_op64(e, 0x8b, H_R11, ENTRY(H_RDX, addend));
	emit_op64(e, 0x03, H_RDI, rm_reg(H_R11));
	emit_op64(e, 0x2b, H_RCX, rm_reg(H_RBP)); /* what is left, */
	emit_op64(e, 0x87, H_RCX, rm_reg(H_RBP)); /* and what is done now */
	if (!movs)
		emit_mov(e, H_RAX, T_GRAX);
	emit_byte(e, 0xf3);
	if (log2 == 1)
		emit_byte(e, 0x66);
	if (log2 == 3)
		emit_byte(e, 0x48);
	emit_byte(e, (uint8_t)((movs ? 0xa4 : 0xaa) | (log2 != 0)));
	emit_op64(e, 0x2b, H_RDI, rm_reg(H_R11));
	if (movs)
		emit_op64(e, 0x2b, H_RSI, rm_reg(H_RBX));
	if (narrow) {
		emit_op32(e, 0x8b, H_RDI, rm_reg(H_RDI));
		if (movs)
			emit_op32(e, 0x8b, H_RSI, rm_reg(H_RSI));
	}
	emit_mov(e, H_RCX, H_RBP);
	emit_op64(e, 0x8b, H_RAX, ENTRY(H_RDX, flags));
	pop(e, H_RBP);
	pop(e, H_RBX);
	pop(e, H_RDX);
	emit_modrm(e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = ALU_CMP},
		   rm_mem(H_RAX, H_NONE, 0, 0));
	emit_byte(e, 0);
	stored = emit_jcc(e, CC_NZ);
	emit_modrm(e, &(struct emit_op){.opcode = 0x83, .reg_is_op = 1, .reg = ALU_CMP},
		   T_FIELD(base.link.events));
	emit_byte(e, 0);
	events = emit_jcc(e, CC_NZ);
	emit_patch(emit_jmp(e), again);
	emit_here(e, done);
	emit_op32(e, 0x33, H_RAX, rm_reg(H_RAX)); /* xor */
	emit_byte(e, 0xc3);
	for (unsigned k = 0; k < ARRAY_SIZE(miss); k++)
		if (miss[k])
			emit_here(e, miss[k]);
	pop(e, H_RBP);
	pop(e, H_RBX);
	pop(e, H_RDX);
	emit_here(e, down);
	if (upper)
		emit_here(e, upper);
	emit_mov_imm(e, H_RAX, 1);
	emit_op32(e, 0x85, H_RAX, rm_reg(H_RAX));
	emit_byte(e, 0xc3);
	/* Marked meanwhile by another CPU: this page is told of as a whole. */
	emit_here(e, stored);
	emit_lea(e, H_R11, rm_mem(H_RDI, H_NONE, 0, -1));
	emit_patch(emit_call(e), t->rw + t->str_stored);
	emit_here(e, events);
	emit_byte(e, 0xf9); /* stc */
	emit_byte(e, 0xc3);
}

void trans_stubs_string(struct soft_trans *t, struct emit *e)
{
	for (unsigned way = 0; way < 4; way++)
		for (unsigned k = 0; k < 4; k++) {
			t->string[way / 2][way % 2][k] = (uint32_t)(e->at - t->rw);
			stub_string(t, e, k, way % 2, way / 2);
		}
}

_Bool tb_string(struct tb *tb, const struct tb_insn *i)
{
	const struct insn *n = tb->insn;
	struct emit *e = &tb->e;
	_Bool movs = 0;
	unsigned log2;

	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_MOVSB:
	case ZYDIS_MNEMONIC_MOVSW:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVSQ: movs = 1; break;
	case ZYDIS_MNEMONIC_STOSB:
	case ZYDIS_MNEMONIC_STOSW:
	case ZYDIS_MNEMONIC_STOSD:
	case ZYDIS_MNEMONIC_STOSQ: break;
	default: return 0;
	}
	/* MOVSD is an SSE instruction, too; a source in FS or GS is rare. */
	if (i->zi.meta.category != ZYDIS_CATEGORY_STRINGOP || n->asize != tb->word ||
	    !(n->flags & (INSN_REP | INSN_REPNE)) || (movs && n->seg >= X86_FS))
		return 0;
	log2 = (unsigned)__builtin_ctz(n->aux);
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	tb_stub_call(tb, tb->t->string[tb->narrow][movs][log2]);
	tb_late(tb, LATE_STOP, emit_jcc(e, CC_B))->next = tb->at;
	tb_late(tb, LATE_MISS, emit_jcc(e, CC_NZ))->ends = 1;
	return 1;
}
