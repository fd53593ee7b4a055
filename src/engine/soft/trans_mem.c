/* trans_mem.c: memory operands in translated code: addresses, the inline TLB lookup, stores.
 *
 * The only addresses that translated code ever accesses are the state block's, with constant
 * displacements, and linear address + addend of a TLB entry whose tag was just compared with the
 * page of the operand's last byte while the entry was chosen by the page of its first: an equal tag
 * says that all bytes lie in the page of guest RAM that the entry is of. The address is formed
 * twice, for the lookup and for the access, from registers that do not change in between.
 */
#include "engine/soft/trans_impl.h"

#define EA_NONE (-1)
#define EA_RIP	16

static int ea_part(unsigned unit)
{
	if (unit == SOFT_EA_RIP)
		return EA_RIP;
	return unit >= SOFT_EA_GPR(0) && unit < SOFT_EA_GPR(16) ? (int)(unit - SOFT_EA_GPR(0))
								: EA_NONE;
}
static int ea_host(int part)
{
	return part >= 0 && part < 16 ? trans_host((unsigned)part) : H_NONE;
}
static _Bool ea_resident(int part) /* in memory */
{
	return part >= 0 && part < 16 && ea_host(part) == H_NONE;
}

_Bool tb_ea_possible(const struct tb *tb, const struct insn *m)
{
	int64_t room = 1 << 16;

	if (tb->narrow)
		return !(m->flags & INSN_SLOW_EA) || (m->flags & INSN_EA32);
	return !(m->flags & INSN_SLOW_EA) && m->disp > INT32_MIN + room &&
	       m->disp < INT32_MAX - room && ea_part(m->index) != EA_RIP &&
	       !(ea_part(m->base) == EA_RIP && ea_part(m->index) != EA_NONE);
}

_Bool tb_ea_clobbers(const struct insn *m, _Bool segment)
{
	return (segment && m->segbase != SOFT_EA_ZERO) ||
	       (ea_resident(ea_part(m->base)) && ea_resident(ea_part(m->index)));
}

void tb_ea(struct tb *tb, const struct insn *m, int dst, int32_t extra, _Bool segment)
{
	struct emit *e = &tb->e;
	int base = ea_part(m->base), index = ea_part(m->index);
	int hb = ea_host(base), hx = ea_host(index);
	int32_t disp = (int32_t)((uint32_t)m->disp + (uint32_t)extra);

	if (base == EA_RIP) {
		emit_op64(e, 0x8b, dst, T_FIELD(page));
		emit_lea(e, dst, rm_mem(dst, H_NONE, 0, disp + (int32_t)tb->at));
	} else if (base == EA_NONE && index == EA_NONE) {
		emit_mov_imm(e, dst, tb->narrow ? (uint32_t)disp : (uint64_t)(int64_t)disp);
	} else if (index == EA_NONE) {
		if (hb == H_NONE) {
			emit_op64(e, 0x8b, dst, trans_gpr((unsigned)base));
			hb = dst;
		}
		if (disp)
			tb_lea(tb, dst, rm_mem(hb, H_NONE, 0, disp));
		else if (hb != dst)
			tb_op(tb, 0x8b, dst, rm_reg(hb));
	} else if (hx != H_NONE) {
		if (ea_resident(base)) {
			emit_op64(e, 0x8b, dst, trans_gpr((unsigned)base));
			hb = dst;
		}
		tb_lea(tb, dst, rm_mem(hb, hx, m->scale, disp));
	} else {
		emit_op64(e, 0x8b, dst, trans_gpr((unsigned)index));
		emit_lea(e, dst, rm_mem(hb, dst, m->scale, disp));
		if (ea_resident(base))
			emit_op64(e, 0x03, dst, trans_gpr((unsigned)base));
	}
	if (segment && m->segbase != SOFT_EA_ZERO)
		tb_op(tb, 0x03, dst, trans_at(m->segbase * 8u));
}

/* In 32-bit code the sum may leave 32 bits where the address may not. */
_Bool tb_mem_simple(const struct tb *tb, const struct insn *m)
{
	return !tb->narrow && ea_host(ea_part(m->base)) != H_NONE && ea_part(m->index) == EA_NONE &&
	       m->segbase == SOFT_EA_ZERO;
}

#define STACK(f) T_FIELD(stack.f)

/* Is soft_cpu.stack worth a look: RSP points into few pages, and what is pushed is aligned. */
static _Bool mem_stack(const struct tb_mem *mem)
{
	const struct insn *m = mem->m;

	return ea_part(m->base) == X86_RSP && ea_part(m->index) == EA_NONE &&
	       m->segbase == SOFT_EA_ZERO && !mem->align && !mem->kept &&
	       !(mem->size & (mem->size - 1));
}

/* The bits that say where in the operand's size the address is are kept, so what is not aligned
 * compares unequal, and with it whatever crosses the page's end. */
static void stack_find(struct tb *tb, struct tb_mem *mem)
{
	struct emit *e = &tb->e;

	tb_ea(tb, mem->m, H_R11, 0, 0);
	emit_alu_imm(e, ALU_AND, H_R11, -4096 | (int32_t)(mem->size - 1), 1);
	emit_op64(e, 0x3b, H_R11, mem->write ? STACK(write) : STACK(read));
	mem->miss = tb_late(tb, LATE_MISS, emit_jcc(e, CC_NZ));
	mem->miss->stack = 1;
	mem->miss->size = (uint8_t)mem->size;
	mem->miss->disp = (int32_t)mem->m->disp;
	mem->miss->found = e->at;
	mem->miss->write = mem->write;
	if (mem->write && !mem->bare)
		emit_op64(e, 0x8b, H_R11, STACK(flags));
}

#define ENTRY(f) rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_tlb_entry, f))
_Static_assert(sizeof(struct soft_tlb_entry) == 32, "the index is shifted for it");

void trans_tlb_entry(struct emit *e)
{
	emit_op32(e, 0xc1, 5, rm_reg(H_RAX)); /* shr eax, 7 */
	emit_byte(e, 12 - 5);
	emit_alu_imm(e, ALU_AND, H_RAX, (SOFT_TLB_SIZE - 1) << 5, 0);
	emit_op64(e, 0x03, H_RAX, T_FIELD(tlb));
}

static void mem_ea(struct tb *tb, const struct tb_mem *mem, int dst, int32_t extra)
{
	if (!mem->kept) {
		tb_ea(tb, mem->m, dst, extra, 1);
		return;
	}
	emit_op64(&tb->e, 0x8b, dst, T_FIELD(rmw_lin));
	if (extra)
		tb_lea(tb, dst, rm_mem(dst, H_NONE, 0, extra));
}

/* The operand's host address, the page's flags being in R11. */
static void mem_address(struct tb *tb, struct tb_mem *mem, struct emit_rm addend)
{
	struct emit *e = &tb->e;
	const struct insn *m = mem->m;

	if (mem->write && !mem->simple && !mem->bare)
		emit_op64(e, 0x89, H_R11, T_FIELD(rmw));
	emit_op64(e, 0x8b, H_RAX, addend);
	if (mem->simple) {
		mem->rm = rm_mem(ea_host(ea_part(m->base)), H_RAX, 0, (int32_t)m->disp);
	} else {
		mem_ea(tb, mem, H_R11, 0);
		emit_op64(e, 0x03, H_R11, rm_reg(H_RAX));
		mem->rm = rm_mem(H_R11, H_NONE, 0, 0);
	}
}

/* An operand in FS or GS of 32-bit code: the handler's, should the segment have a limit or a type
 * that must be looked at. */
static struct late *segment_check(struct tb *tb, unsigned seg)
{
	emit_modrm(&tb->e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1}, T_FIELD(seg_open));
	emit_byte(&tb->e, (uint8_t)(1u << (seg - X86_FS))); /* test */
	return tb_late(tb, LATE_MISS, emit_jcc(&tb->e, CC_Z));
}

void tb_mem(struct tb *tb, struct tb_mem *mem)
{
	struct emit *e = &tb->e;

	mem->misaligned = mem->closed = NULL;
	mem->simple &= !tb->narrow;
	mem->near = NULL;
	mem->miss = NULL;
	if (tb_near_mem(tb, mem))
		return;
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	if (tb->narrow && mem->m->segbase != SOFT_EA_ZERO)
		mem->closed = segment_check(tb, mem->m->seg);
	if (mem_stack(mem)) {
		stack_find(tb, mem);
		mem_address(tb, mem, STACK(addend));
		return;
	}
	mem_ea(tb, mem, H_RAX, 0);
	trans_tlb_entry(e);
	/* An aligned operand lies in one page. */
	mem_ea(tb, mem, H_R11, mem->align ? 0 : (int32_t)mem->size - 1);
	if (mem->align) {
		emit_modrm(e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1}, rm_reg(H_R11));
		emit_byte(e, (uint8_t)(mem->size - 1)); /* test r11b */
		mem->misaligned = tb_late(tb, LATE_MISS, emit_jcc(e, CC_NZ));
	}
	emit_alu_imm(e, ALU_AND, H_R11, -4096, 1);
	emit_op64(e, 0x0b, H_R11, T_FIELD(asid));
	emit_op64(e, 0x3b, H_R11, mem->write ? ENTRY(write) : ENTRY(read));
	mem->miss = tb_late(tb, LATE_MISS, emit_jcc(e, CC_NZ));
	mem->miss->found = e->at;
	mem->miss->write = mem->write;
	if (mem->write)
		emit_op64(e, 0x8b, H_R11, ENTRY(flags));
	mem_address(tb, mem, ENTRY(addend));
}

uint32_t tb_mem_again(struct tb *tb, const struct late *l)
{
	if (!l->stack)
		return tb->t->missed_tlb[l->write];
	unsigned log = (unsigned)__builtin_ctz(l->size);
	assert(log < ARRAY_SIZE(tb->t->missed_stack[0]));
	tb_lea(tb, H_R11, rm_mem(T_GRSP, H_NONE, 0, l->disp));
	return tb->t->missed_stack[l->write][log];
}

void tb_mem_victim(struct tb *tb, const struct late *l)
{
	struct emit *e = &tb->e;

	emit_alu_imm(e, ALU_ADD, H_RAX, offsetof(struct soft_tlb, victim), 1);
	emit_op64(e, 0x3b, H_R11, l->write ? ENTRY(write) : ENTRY(read));
	uint8_t *found = emit_jcc(e, CC_Z);
	if (!e->full)
		emit_patch(found, l->found);
}

struct late *tb_mem_written(struct tb *tb, struct tb_mem *mem, int32_t moved)
{
	struct emit *e = &tb->e;
	int flags = H_R11;

	if (mem->near) {
		tb_flags_save(tb);
		flags = mem->simple ? H_R11 : H_RAX;
		tb_near_flags(tb, mem, flags);
	} else if (!mem->simple) {
		tb_flags_save(tb);
		emit_op64(e, 0x8b, H_RAX, T_FIELD(rmw));
		flags = H_RAX;
	}
	tb->flags = FLAGS_SAVED;
	emit_modrm(e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = ALU_CMP},
		   rm_mem(flags, H_NONE, 0, 0));
	emit_byte(e, 0);
	struct late *l = tb_late(tb, LATE_STORED, emit_jcc(e, CC_NZ));
	l->simple = mem->simple;
	l->addr = mem->rm;
	l->addr.disp -= moved;
	l->size = (uint8_t)mem->size;
	l->back = e->at;
	return l;
}

void tb_mem_flags(struct tb *tb, const struct tb_mem *mem, int to)
{
	if (mem->near)
		tb_near_flags(tb, mem, to);
	else
		emit_op64(&tb->e, 0x8b, to, STACK(flags));
}

void tb_mem_ends(struct tb_mem *mem)
{
	if (mem->miss)
		mem->miss->ends = 1;
	if (mem->closed)
		mem->closed->ends = 1;
}

void tb_mem_end(struct tb *tb, struct tb_mem *mem)
{
	if (!mem->miss)
		return;
	mem->miss->back = tb->e.at;
	mem->miss->reload = tb->flags != FLAGS_SAVED;
	if (mem->misaligned) {
		mem->misaligned->back = mem->miss->back;
		mem->misaligned->reload = mem->miss->reload;
	}
	if (mem->closed) {
		mem->closed->back = mem->miss->back;
		mem->closed->reload = mem->miss->reload;
	}
}

/* R11, RAX: linear addresses of the operand's first and last byte. ZF: soft_cpu.stack holds their
 * page now. */
void trans_stub_stack(struct emit *e)
{
	uint8_t *crosses, *found, *missing, *readonly;

	emit_op64(e, 0x33, H_RAX, rm_reg(H_R11)); /* xor */
	emit_alu_imm(e, ALU_AND, H_RAX, -4096, 1);
	crosses = emit_jcc(e, CC_NZ);
	emit_op32(e, 0x8b, H_RAX, rm_reg(H_R11));
	trans_tlb_entry(e);
	emit_alu_imm(e, ALU_AND, H_R11, -4096, 1);
	emit_op64(e, 0x0b, H_R11, T_FIELD(asid));
	emit_op64(e, 0x3b, H_R11, ENTRY(read));
	found = emit_jcc(e, CC_Z);
	emit_alu_imm(e, ALU_ADD, H_RAX, offsetof(struct soft_tlb, victim), 1);
	emit_op64(e, 0x3b, H_R11, ENTRY(read));
	missing = emit_jcc(e, CC_NZ);
	emit_here(e, found);
	emit_alu_imm(e, ALU_AND, H_R11, -4096, 1);
	emit_op64(e, 0x89, H_R11, STACK(read));
	emit_op64(e, 0x8b, H_R11, ENTRY(write));
	emit_alu_imm(e, ALU_CMP, H_R11, -1, 1);
	readonly = emit_jcc(e, CC_Z);
	emit_alu_imm(e, ALU_AND, H_R11, -4096, 1);
	emit_here(e, readonly);
	emit_op64(e, 0x89, H_R11, STACK(write));
	emit_op64(e, 0x8b, H_R11, ENTRY(addend));
	emit_op64(e, 0x89, H_R11, STACK(addend));
	emit_op64(e, 0x8b, H_R11, ENTRY(flags));
	emit_op64(e, 0x89, H_R11, STACK(flags));
	emit_op32(e, 0x33, H_RAX, rm_reg(H_RAX)); /* ZF */
	emit_here(e, crosses);
	emit_here(e, missing);
	emit_byte(e, 0xc3);
}
