/* trans_near_fill.c: the stubs that fill entries of soft_cpu.near from the TLB. */
#include "engine/soft/trans_impl.h"

#define CC_B	   2
#define CC_NA	   6
#define LOOK	   16u	/* a power of two */
#define FILL_TICKS 100u /* of the TSC, for each: what one costs is about half of that */

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
	emit_op32(e, 0xc1, 5, rm_reg(H_RAX)); /* shr eax, 7 */
	emit_byte(e, 12 - 5);
	emit_alu_imm(e, ALU_AND, H_RAX, (SOFT_TLB_SIZE - 1) << 5, 0);
	emit_op64(e, 0x03, H_RAX, T_FIELD(tlb));
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
	emit_alu_imm(e, ALU_CMP, H_RAX, TRANS_NEAR_FILLS * FILL_TICKS, 1);
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
