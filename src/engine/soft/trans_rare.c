/* trans_rare.c: what compilers seldom emit and kernels and libraries do now and then: single string
 * instructions, LAHF and SAHF, flags of their own, segment and control registers that are read,
 * PAUSE, counted branches.
 */
#include "engine/engine.h"
#include "engine/soft/sys.h"
#include "engine/soft/trans_impl.h"

/* Carry alone. */
static _Bool carry(struct tb *tb, uint8_t opcode)
{
	tb_flags_host(tb);
	emit_byte(&tb->e, opcode);
	tb->flags = FLAGS_HOST;
	return 1;
}

/* Both work on AH; OF stays what it was. */
static _Bool flags_to_ah(struct tb *tb)
{
	tb_flags_host(tb);
	emit_mov(&tb->e, H_RAX, T_GRAX);
	emit_byte(&tb->e, 0x9f);
	emit_mov(&tb->e, T_GRAX, H_RAX);
	return 1;
}
static _Bool flags_from_ah(struct tb *tb)
{
	tb_flags_host(tb);
	emit_mov(&tb->e, H_RAX, T_GRAX);
	emit_byte(&tb->e, 0x9e);
	tb->flags = FLAGS_HOST;
	return 1;
}

static void result(struct tb *tb, int from)
{
	unsigned gpr = tb->insn->r1 / 8u;

	if (trans_host(gpr) == H_NONE)
		emit_op64(&tb->e, 0x89, from, trans_gpr(gpr));
	else
		emit_mov(&tb->e, trans_host(gpr), from);
}

/* MOV of a selector to a 32- or 64-bit register */
static _Bool selector(struct tb *tb)
{
	const struct insn *n = tb->insn;

	if ((n->flags & INSN_MEM) || n->osize < 4)
		return 0;
	emit_modrm(&tb->e, &(struct emit_op){.map = 1, .opcode = 0xb7, .reg = H_RAX},
		   trans_at(offsetof(struct soft_cpu, s.seg) + n->aux * sizeof(struct x86_seg) +
			    offsetof(struct x86_seg, selector)));
	result(tb, H_RAX);
	return 1;
}

/* Only for ring 0. */
static _Bool control(struct tb *tb)
{
	size_t field;

	switch (tb->insn->aux) {
	case 0: field = offsetof(struct soft_cpu, s.cr0); break;
	case 2: field = offsetof(struct soft_cpu, s.cr2); break;
	case 3: field = offsetof(struct soft_cpu, s.cr3); break;
	case 4: field = offsetof(struct soft_cpu, s.cr4); break;
	default: return 0;
	}
	struct late *l = tb_ring0_check(tb);
	tb_op(tb, 0x8b, H_RAX, trans_at(field));
	result(tb, H_RAX);
	l->back = tb->e.at;
	return 1;
}

/* FS's or GS's base, when CR4 lets programs read it. */
static _Bool segment_base(struct tb *tb)
{
	const struct insn *n = tb->insn;

	if (tb->narrow)
		return 0;
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	emit_modrm(&tb->e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1},
		   trans_at(offsetof(struct soft_cpu, s.cr4) + 2)); /* test */
	emit_byte(&tb->e, X86_CR4_FSGSBASE >> 16);
	struct late *l = tb_late(tb, LATE_MISS, emit_jcc(&tb->e, CC_Z));
	emit_modrm(&tb->e, &(struct emit_op){.opcode = 0x8b, .wide = n->osize == 8, .reg = H_RAX},
		   trans_at(offsetof(struct soft_cpu, s.seg) + n->aux * sizeof(struct x86_seg) +
			    offsetof(struct x86_seg, base)));
	result(tb, H_RAX);
	l->back = tb->e.at;
	return 1;
}
_Static_assert(!(X86_CR4_FSGSBASE & ~UINT64_C(0xff0000)), "tested in the third byte");

/* With other CPUs the handler lets the host run one now and then. */
static _Bool pause(struct tb *tb)
{
	struct emit *e = &tb->e;

	if (tb->cpu->engine->cpus > 1) {
		tb_flags_save(tb);
		tb->flags = FLAGS_SAVED;
		emit_modrm(e, &(struct emit_op){.opcode = 0xfe, .reg_is_op = 1}, T_FIELD(pauses));
		emit_modrm(e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1}, T_FIELD(pauses));
		emit_byte(e, PAUSE_YIELD - 1); /* test */
		struct late *l = tb_late(tb, LATE_MISS, emit_jcc(e, CC_Z));
		emit_byte(e, 0xf3);
		emit_byte(e, 0x90);
		l->back = e->at;
		return 1;
	}
	emit_byte(e, 0xf3);
	emit_byte(e, 0x90);
	return 1;
}

/* Single string instructions */

static const struct insn source = {
    .base = SOFT_EA_GPR(X86_RSI), .index = SOFT_EA_ZERO, .segbase = SOFT_EA_ZERO, .seg = X86_DS};
static const struct insn target = {
    .base = SOFT_EA_GPR(X86_RDI), .index = SOFT_EA_ZERO, .segbase = SOFT_EA_ZERO, .seg = X86_ES};

static void element(struct tb *tb, uint8_t opcode, unsigned size, int reg, struct emit_rm rm)
{
	emit_modrm(&tb->e,
		   &(struct emit_op){.opcode = (uint8_t)(opcode | (size > 1)),
				     .osize16 = size == 2,
				     .wide = size == 8,
				     .bytes = size == 1,
				     .reg = (uint8_t)reg},
		   rm);
}
static void advance(struct tb *tb, int reg, unsigned size)
{
	tb_lea(tb, reg, rm_mem(reg, H_NONE, 0, (int32_t)size));
}

/* Downward is the handler's. */
static struct late *upward(struct tb *tb)
{
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	emit_modrm(&tb->e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1},
		   trans_at(offsetof(struct soft_cpu, s.rflags) + 1)); /* test */
	emit_byte(&tb->e, X86_DF >> 8);
	return tb_late(tb, LATE_MISS, emit_jcc(&tb->e, CC_NZ));
}

/* The source's element into rmw_old. */
static void source_keep(struct tb *tb, struct tb_mem *mem)
{
	tb_mem(tb, mem);
	element(tb, 0x8a, mem->size, H_RAX, mem->rm);
	emit_op64(&tb->e, 0x89, H_RAX, T_FIELD(rmw_old));
}

enum string { MOVS, STOS, LODS, SCAS, CMPS };
static void string_one(struct tb *tb, enum string what, unsigned size)
{
	_Bool from = what == MOVS || what == LODS || what == CMPS, write = what <= STOS;
	struct tb_mem src = {.m = &source, .size = size};
	struct tb_mem dst = {.m = &target, .size = size, .write = write};
	struct emit *e = &tb->e;
	struct late *down = upward(tb);

	if (from)
		source_keep(tb, &src);
	if (what != LODS)
		tb_mem(tb, &dst);
	if (what == MOVS || what == CMPS)
		emit_op64(e, 0x8b, H_RAX, T_FIELD(rmw_old));
	switch (what) {
	case MOVS: element(tb, 0x88, size, H_RAX, dst.rm); break;
	case STOS: element(tb, 0x88, size, T_GRAX, dst.rm); break;
	case LODS: element(tb, 0x8a, size, T_GRAX, T_FIELD(rmw_old)); break;
	case SCAS: element(tb, 0x3a, size, T_GRAX, dst.rm); break;
	case CMPS: element(tb, 0x3a, size, H_RAX, dst.rm); break;
	}
	if (what == SCAS || what == CMPS)
		tb->flags = FLAGS_HOST;
	if (from)
		advance(tb, H_RSI, size);
	if (what != LODS)
		advance(tb, H_RDI, size);
	if (write)
		tb_mem_written(tb, &dst, 0);
	down->back = e->at;
	down->reload = tb->flags != FLAGS_SAVED;
	if (from)
		tb_mem_end(tb, &src);
	if (what != LODS)
		tb_mem_end(tb, &dst);
}

static _Bool string(struct tb *tb, const struct tb_insn *i)
{
	const struct insn *n = tb->insn;
	enum string what;

	/* Not repeated; MOVSD and CMPSD are SSE instructions, too. A source in FS or GS is rare. */
	if (i->zi.meta.category != ZYDIS_CATEGORY_STRINGOP || n->asize != tb->word ||
	    n->seg >= X86_FS)
		return 0;
	switch (i->zi.opcode & 0xfe) {
	case 0xa4: what = MOVS; break;
	case 0xaa: what = STOS; break;
	case 0xac: what = LODS; break;
	case 0xae: what = SCAS; break;
	case 0xa6: what = CMPS; break;
	default: return 0;
	}
	string_one(tb, what, n->aux);
	return 1;
}

_Bool tb_rare(struct tb *tb, const struct tb_insn *i)
{
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_CLC: return carry(tb, 0xf8);
	case ZYDIS_MNEMONIC_STC: return carry(tb, 0xf9);
	case ZYDIS_MNEMONIC_CMC: return carry(tb, 0xf5);
	case ZYDIS_MNEMONIC_LAHF: return flags_to_ah(tb);
	case ZYDIS_MNEMONIC_SAHF: return flags_from_ah(tb);
	case ZYDIS_MNEMONIC_MOV:
		if (tb->insn->fn == sys_insn_mov_from_seg)
			return selector(tb);
		return tb->insn->fn == sys_insn_mov_from_cr && control(tb);
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE: return segment_base(tb);
	default: return string(tb, i);
	}
}

_Bool tb_rare_last(struct tb *tb, const struct tb_insn *i)
{
	return i->zi.mnemonic == ZYDIS_MNEMONIC_PAUSE && !(i->zi.raw.rex.B && soft_amd(tb->cpu)) &&
	       pause(tb);
}

int tb_counted(struct tb *tb, const struct tb_insn *i)
{
	_Bool loop = i->zi.mnemonic == ZYDIS_MNEMONIC_LOOP;

	if (tb->insn->asize != tb->word || (!loop && i->zi.mnemonic != ZYDIS_MNEMONIC_JECXZ &&
					    i->zi.mnemonic != ZYDIS_MNEMONIC_JRCXZ))
		return -1;
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	if (loop)
		tb_lea(tb, H_RCX, rm_mem(H_RCX, H_NONE, 0, -1));
	tb_op(tb, 0x85, H_RCX, rm_reg(H_RCX)); /* test */
	return loop ? CC_NZ : CC_Z;
}
