/* trans_sys.c: what kernels do at every turn, in line: CLI and STI, PUSHF, SWAPGS, STAC and CLAC.
 *
 * Only for ring 0, which is looked at each time, as a block does not know its privilege; else it is
 * the handler's.
 */
#include "engine/engine.h"
#include "engine/soft/trans_impl.h"

#define RFLAGS_BYTE(n) trans_at(offsetof(struct soft_cpu, s.rflags) + (n))

struct late *tb_ring0_check(struct tb *tb)
{
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	emit_modrm(&tb->e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = ALU_CMP},
		   T_FIELD(cpl));
	emit_byte(&tb->e, 0);
	return tb_late(tb, LATE_MISS, emit_jcc(&tb->e, CC_NZ));
}

static void byte_alu(struct tb *tb, enum host_alu op, struct emit_rm rm, unsigned imm)
{
	emit_modrm(&tb->e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = op}, rm);
	emit_byte(&tb->e, (uint8_t)imm);
}

#define IF_BIT (X86_IF >> 8)
#define DF_BIT (X86_DF >> 8)
#define AC_BIT (X86_AC >> 16)

/* STI stands in a block's midst only when the instruction in its shadow follows in the block, see
 * block_decode of cache.c. */
static void interrupts(struct tb *tb, _Bool on)
{
	struct late *l = tb_ring0_check(tb);

	byte_alu(tb, on ? ALU_OR : ALU_AND, RFLAGS_BYTE(1), on ? IF_BIT : ~IF_BIT);
	l->back = tb->e.at;
}

static void direction(struct tb *tb, _Bool down)
{
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	byte_alu(tb, down ? ALU_OR : ALU_AND, RFLAGS_BYTE(1), down ? DF_BIT : ~DF_BIT);
}

static void swapgs(struct tb *tb)
{
	struct late *l = tb_ring0_check(tb);
	struct emit *e = &tb->e;

	emit_op64(e, 0x8b, H_RAX, T_FIELD(s.seg[X86_GS].base));
	emit_op64(e, 0x8b, H_R11, T_FIELD(s.kernel_gs_base));
	emit_op64(e, 0x89, H_RAX, T_FIELD(s.kernel_gs_base));
	emit_op64(e, 0x89, H_R11, T_FIELD(s.seg[X86_GS].base));
	l->back = e->at;
}

static const struct insn pushed = {
    .base = SOFT_EA_GPR(X86_RSP), .index = SOFT_EA_ZERO, .segbase = SOFT_EA_ZERO, .seg = X86_SS};

/* Pushes what is in rmw_old. */
static void push_kept(struct tb *tb, struct tb_mem *also)
{
	struct insn m = pushed;
	struct tb_mem mem = {.m = &m, .size = tb->word, .write = 1};
	struct emit *e = &tb->e;

	m.disp = -tb->word;
	tb_mem(tb, &mem);
	emit_op64(e, 0x8b, H_RAX, T_FIELD(rmw_old));
	tb_op(tb, 0x89, H_RAX, mem.rm);
	tb_lea(tb, T_GRSP, rm_mem(T_GRSP, H_NONE, 0, -tb->word));
	tb_mem_written(tb, &mem, -tb->word);
	tb_mem_end(tb, &mem);
	if (also)
		tb_mem_end(tb, also);
}

/* RFLAGS from its two parts; RF and VM are pushed as 0. */
static void flags_push(struct tb *tb)
{
	struct emit *e = &tb->e;

	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	emit_op32(e, 0x8b, H_RAX, T_FIELD(af));
	emit_op32(e, 0x8b, H_R11, rm_reg(H_RAX));
	emit_op32(e, 0xc1, 5, rm_reg(H_R11)); /* shr r11d, 8 */
	emit_byte(e, 8);
	emit_alu_imm(e, ALU_AND, H_R11, 0xd5, 0);
	emit_alu_imm(e, ALU_AND, H_RAX, 1, 0);
	emit_op32(e, 0xc1, 4, rm_reg(H_RAX)); /* shl eax, 11 */
	emit_byte(e, 11);
	emit_op32(e, 0x0b, H_RAX, rm_reg(H_R11)); /* or */
	emit_op64(e, 0x8b, H_R11, T_FIELD(s.rflags));
	emit_alu_imm(e, ALU_AND, H_R11, ~(int32_t)(X86_ARITH | X86_RF | X86_VM), 1);
	emit_alu_imm(e, ALU_OR, H_R11, X86_FIXED, 1);
	emit_op64(e, 0x0b, H_R11, rm_reg(H_RAX));
	emit_op64(e, 0x89, H_R11, T_FIELD(rmw_old));
	push_kept(tb, NULL);
}

static _Bool memory_push(struct tb *tb)
{
	struct tb_mem mem = {
	    .m = tb->insn, .size = tb->word, .simple = tb_mem_simple(tb, tb->insn)};

	if (!tb_ea_possible(tb, tb->insn))
		return 0;
	tb_mem(tb, &mem);
	tb_op(tb, 0x8b, H_R11, mem.rm);
	emit_op64(&tb->e, 0x89, H_R11, T_FIELD(rmw_old));
	push_kept(tb, &mem);
	return 1;
}

_Bool tb_sys(struct tb *tb, const struct tb_insn *i)
{
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_CLI: interrupts(tb, 0); return 1;
	case ZYDIS_MNEMONIC_STI: interrupts(tb, 1); return 1;
	case ZYDIS_MNEMONIC_CLD: direction(tb, 0); return 1;
	case ZYDIS_MNEMONIC_STD: direction(tb, 1); return 1;
	case ZYDIS_MNEMONIC_SWAPGS: swapgs(tb); return 1;
	case ZYDIS_MNEMONIC_PUSHFQ: flags_push(tb); return 1;
	case ZYDIS_MNEMONIC_PUSHFD: return tb->narrow && (flags_push(tb), 1);
	case ZYDIS_MNEMONIC_PUSH:
		return tb->insn->osize == tb->word && i->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		       memory_push(tb);
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHWT1: return 1;
	default: return 0;
	}
}

/* In ring 0 EFLAGS.AC decides about user pages under SMAP, and nothing else. */
_Bool tb_sys_last(struct tb *tb, const struct tb_insn *i)
{
	_Bool on = i->zi.mnemonic == ZYDIS_MNEMONIC_STAC;
	struct emit *e = &tb->e;
	struct late *l, *bp, *smap;

	if ((!on && i->zi.mnemonic != ZYDIS_MNEMONIC_CLAC) || tb->insn->fn == op_ud ||
	    !cpuid_has(tb->cpu->base.engine->env->cpuid, 7, 0, CPUID_EBX, 20))
		return 0;
	l = tb_ring0_check(tb);
	byte_alu(tb, ALU_CMP, T_FIELD(data_bp), 0);
	bp = tb_late(tb, LATE_MISS, emit_jcc(e, CC_NZ));
	emit_modrm(e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1},
		   trans_at(offsetof(struct soft_cpu, s.cr4) + 2)); /* test SMAP */
	emit_byte(e, X86_CR4_SMAP >> 16);
	smap = tb_late(tb, LATE_MISS, emit_jcc(e, CC_Z));
	l->state = bp->state = smap->state = 1;
	byte_alu(tb, on ? ALU_OR : ALU_AND, RFLAGS_BYTE(2), on ? AC_BIT : ~AC_BIT);
	emit_mov_imm(
	    e, H_RAX,
	    (uint64_t)(uintptr_t)&tb->cpu->mmu->tlb[on ? SOFT_TLB_KERNEL_AC : SOFT_TLB_KERNEL]);
	emit_op64(e, 0x89, H_RAX, T_FIELD(tlb));
	emit_op64(e, 0x8b, H_RAX, on ? T_FIELD(asid_user) : T_FIELD(asid_kernel));
	emit_op64(e, 0x89, H_RAX, T_FIELD(asid));
	emit_mov_imm(e, H_RAX, SOFT_TLB_INVALID);
	emit_op64(e, 0x89, H_RAX, T_FIELD(stack.read));
	emit_op64(e, 0x89, H_RAX, T_FIELD(stack.write));
	return 1;
}
_Static_assert(!(X86_CR4_SMAP & ~UINT64_C(0xff0000)), "tested in the third byte");
