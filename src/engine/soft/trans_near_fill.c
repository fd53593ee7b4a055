/* trans_near_fill.c: checks by soft_cpu.near that fail: the stubs that fill entries from the TLB,
 * and the ways to code that does without. */
#include <string.h>
#include "engine/soft/trans_impl.h"

#define CC_B  2
#define CC_NA 6
#define LOOK  16u /* a power of two */

/* R11: a linear address; RAX: the offset of an entry of soft_cpu.near from the state's register.
 * ZF: it holds the page now. CF: it has been filled too often. */
#define SLOT(f) rm_mem(T_STATE, H_RCX, 0, offsetof(struct soft_near, f))
#define TLB(f)	rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_tlb_entry, f))
static void cmp8(struct emit *e, struct emit_rm rm, int8_t imm)
{
	emit_modrm(e, &(struct emit_op){.opcode = 0x83, .wide = 1, .reg_is_op = 1, .reg = ALU_CMP},
		   rm);
	emit_byte(e, (uint8_t)imm);
}

/* One page: RDX, whose entry is at RAX. */
static void fill_page(struct emit *e)
{
	uint8_t *writable;

	emit_op64(e, 0x89, H_RDX, SLOT(base));
	emit_op64(e, 0x8b, H_R11, TLB(addend));
	emit_op64(e, 0x89, H_R11, SLOT(addend));
	emit_op64(e, 0x03, H_R11, rm_reg(H_RDX));
	emit_op64(e, 0x89, H_R11, SLOT(host));
	emit_op64(e, 0x8b, H_R11, TLB(flags));
	emit_op64(e, 0x89, H_R11, SLOT(flags));
	emit_mov_imm(e, H_RDX, SOFT_NEAR_LIMIT);
	emit_op64(e, 0x89, H_RDX, SLOT(limit[0]));
	cmp8(e, TLB(write), -1);
	writable = emit_jcc(e, CC_NZ);
	emit_op32(e, 0x33, H_RDX, rm_reg(H_RDX)); /* xor */
	emit_here(e, writable);
	emit_op64(e, 0x89, H_RDX, SLOT(limit[1]));
}

/* Every LOOK fills: has user code been translated for as long as it should? Then an event has it
 * leave before the next block. RAX and RDX are lost. */
static void look(struct emit *e)
{
	emit_modrm(e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1}, T_FIELD(stats.near_fills));
	emit_byte(e, LOOK - 1); /* test */
	uint8_t *seldom = emit_jcc(e, CC_NZ);
	emit_byte(e, 0x0f); /* rdtsc */
	emit_byte(e, 0x31);
	emit_op64(e, 0xc1, 4, rm_reg(H_RDX)); /* shl rdx, 32 */
	emit_byte(e, 32);
	emit_op64(e, 0x0b, H_RDX, rm_reg(H_RAX));
	emit_op64(e, 0x3b, H_RDX, T_FIELD(direct_at));
	uint8_t *early = emit_jcc(e, CC_B);
	emit_modrm(e, &(struct emit_op){.opcode = 0x81, .lock = 1, .reg_is_op = 1, .reg = ALU_OR},
		   T_FIELD(base.link.events));
	emit_32(e, CPU_EVENT_ENGINE);
	emit_here(e, early);
	emit_here(e, seldom);
}

void trans_stub_near(const struct soft_cpu *cpu, struct emit *e, _Bool write)
{
	const struct soft_tlb *user_pages = &cpu->mmu->tlb[SOFT_TLB_KERNEL_AC];
	uint8_t *fail[3], *found, *time, *seldom, *beside;
	struct emit_rm tag = write ? TLB(write) : TLB(read);

	emit_byte(e, 0x51); /* push rcx */
	emit_byte(e, 0x52); /* push rdx */
	emit_mov(e, H_RCX, H_RAX);
	emit_op32(e, 0x8b, H_RAX, rm_reg(H_R11));
	emit_alu_imm(e, ALU_AND, H_RAX, GMEM_PAGE_SIZE - 1, 0);
	emit_alu_imm(e, ALU_CMP, H_RAX, SOFT_NEAR_LIMIT, 0);
	fail[0] = emit_jcc(e, CC_NB);
	/* What AC opens must not stay open. */
	emit_mov_imm(e, H_RAX, (uint64_t)(uintptr_t)user_pages);
	emit_op64(e, 0x3b, H_RAX, T_FIELD(tlb));
	fail[1] = emit_jcc(e, CC_Z);
	emit_op32(e, 0x8b, H_RAX, rm_reg(H_R11));
	trans_tlb_entry(e);
	emit_alu_imm(e, ALU_AND, H_R11, -4096, 1);
	emit_mov(e, H_RDX, H_R11);
	emit_op64(e, 0x0b, H_R11, T_FIELD(asid));
	emit_op64(e, 0x3b, H_R11, tag);
	found = emit_jcc(e, CC_Z);
	emit_alu_imm(e, ALU_ADD, H_RAX, offsetof(struct soft_tlb, victim), 1);
	emit_op64(e, 0x3b, H_R11, tag);
	fail[2] = emit_jcc(e, CC_NZ);
	emit_here(e, found);
	emit_op64(e, 0xff, 6, SLOT(base)); /* push: what it was */
	fill_page(e);
	emit_modrm(e, &(struct emit_op){.opcode = 0xc6, .reg_is_op = 1}, T_FIELD(near_filled));
	emit_byte(e, 1);
	emit_op64(e, 0xff, 0, T_FIELD(stats.near_fills)); /* inc */
	look(e);
	emit_byte(e, 0x41); /* pop r11 */
	emit_byte(e, 0x5b);
	/* The same page, or one beside it: it was emptied, or memory is gone through. */
	emit_op64(e, 0x2b, H_R11, SLOT(base));
	emit_alu_imm(e, ALU_ADD, H_R11, GMEM_PAGE_SIZE, 1);
	emit_alu_imm(e, ALU_CMP, H_R11, 2 * GMEM_PAGE_SIZE, 1);
	beside = emit_jcc(e, CC_NA);
	emit_op64(e, 0xff, 1, T_FIELD(near_left)); /* dec */
	time = emit_jcc(e, CC_Z);
	emit_here(e, beside);
	const uint8_t *good = e->at;
	emit_op32(e, 0x33, H_RAX, rm_reg(H_RAX)); /* xor: ZF, not CF */
	emit_byte(e, 0x5a);
	emit_byte(e, 0x59);
	emit_byte(e, 0xc3);
	emit_here(e, time);
	emit_mov_imm(e, H_RAX, TRANS_NEAR_FILLS);
	emit_op64(e, 0x89, H_RAX, T_FIELD(near_left));
	emit_byte(e, 0x0f); /* rdtsc */
	emit_byte(e, 0x31);
	emit_op64(e, 0xc1, 4, rm_reg(H_RDX)); /* shl rdx, 32 */
	emit_byte(e, 32);
	emit_op64(e, 0x0b, H_RDX, rm_reg(H_RAX));
	emit_mov(e, H_RAX, H_RDX);
	emit_op64(e, 0x2b, H_RAX, T_FIELD(near_stamp));
	emit_op64(e, 0x89, H_RDX, T_FIELD(near_stamp));
	emit_op64(e, 0x3b, H_RAX, T_FIELD(near_ticks));
	seldom = emit_jcc(e, CC_NB);
	emit_patch(seldom, good);
	emit_alu_imm(e, ALU_OR, H_RAX, 1, 0); /* not ZF */
	emit_byte(e, 0xf9);		      /* stc */
	uint8_t *out = emit_jmp(e);
	for (unsigned k = 0; k < ARRAY_SIZE(fail); k++)
		emit_here(e, fail[k]);
	emit_mov_imm(e, H_RAX, 1);
	emit_op32(e, 0x85, H_RAX, rm_reg(H_RAX)); /* test: neither */
	emit_here(e, out);
	emit_byte(e, 0x5a);
	emit_byte(e, 0x59);
	emit_byte(e, 0xc3);
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
	uint8_t *back, *often = NULL, *plain, *missed, *site[2], *out;

	if (l->tlb) {
		tb_mem_victim(tb, l);
	} else {
		emit_op64(e, 0x03, H_R11, TB_NEAR(l->slot, base));
		emit_mov_imm(e, H_RAX,
			     (uint64_t)(offsetof(struct soft_cpu, near) - TRANS_BIAS +
					l->slot * sizeof(struct soft_near)));
		tb_stub_call(tb, tb->t->near[l->write]);
		back = emit_jcc(e, CC_Z);
		if (!e->full)
			emit_patch(back, l->found);
		often = emit_jcc(e, CC_B);
	}
	if (l->place_span)
		emit_here(e, l->place_span);
	if (l->place_align)
		emit_here(e, l->place_align);
	out = e->at;
	tb_x87_pointers(tb, &l->x87);
	plain = emit_jmp(e);
	missed = e->at;
	site[0] = late_missed(tb, l);
	if (often)
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
