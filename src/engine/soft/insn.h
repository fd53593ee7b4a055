/* insn.h: one decoded instruction, as the decode cache keeps it and handlers take it. */
#ifndef ENGINE_SOFT_INSN_H
#define ENGINE_SOFT_INSN_H

#include <stdalign.h>
#include "base/util.h"

struct soft_cpu;
struct insn;

/*
 * Executes one instruction. On entry cpu->s.rip is the address of the instruction itself and all
 * state is as before it; a handler that raises (soft_raise never returns) must not have changed
 * anything yet. Arithmetic flags live in cpu->af (see cpu.h). After a plain handler the dispatcher
 * advances rip by insn->len; a handler with INSN_BRANCH sets cpu->s.rip itself in every case.
 */
typedef void insn_fn(struct soft_cpu *cpu, const struct insn *insn);

enum insn_flags {
	INSN_BRANCH = 1 << 0, /* sets rip; ends the block */
	INSN_END = 1 << 1,    /* ends the block; rip is advanced */
	/* After it, everything is looked up anew: the mode, the address space, interrupt shadows,
	 * pending events or the activity may have changed. Implies the end of a block; set it
	 * together with INSN_BRANCH or INSN_END. */
	INSN_STATE = 1 << 2,
	/* The address of the memory operand needs soft_ea: an address size other than 64 bits in
	 * 64-bit mode, or a segment that is not flat. */
	INSN_SLOW_EA = 1 << 3,
	INSN_MEM = 1 << 4,  /* has a memory operand */
	INSN_LOCK = 1 << 5, /* LOCK prefix (already known to be legal) */
	INSN_REP = 1 << 6,  /* F3 on a string instruction: REP/REPE */
	INSN_REPNE = 1 << 7,
	/* Whatever INSN_SLOW_EA says: the operand has a 32-bit address in 32-bit code, in a segment
	 * that is flat, or in FS or GS. */
	INSN_EA32 = 1 << 8,
	INSN_JUMP = 1 << 9, /* a near branch that is always taken */
};

/*
 * Registers r1, r2, r3 are byte offsets into cpu->s.gpr: register number * 8, and + 1 for AH, CH,
 * DH, BH; insn_gpr8..64 in cpu.h read them. `base`, `index` and `segbase` are offsets from the
 * start of struct soft_cpu in units of 8 bytes (SOFT_EA_*), so that an address is three loads and
 * no branch. For RIP-relative operands base is SOFT_EA_RIP and disp already contains the length.
 */
struct insn {
	insn_fn *fn;
	uint64_t imm;		    /* immediate, sign-extended to 64 bits; or whatever fn wants */
	int64_t disp;		    /* displacement of the memory operand; branches: see branch.c */
	uint8_t base, index, scale; /* scale is a shift: 0 to 3 */
	uint8_t segbase;
	uint8_t r1, r2, r3;
	uint8_t len;	/* of the instruction in bytes, 1 to 15 */
	uint16_t flags; /* enum insn_flags */
	uint8_t seg;	/* enum x86_segreg of the memory operand, for checks and for #SS or #GP */
	uint8_t osize : 4, asize : 4; /* operand and address size in bytes: 2, 4 or 8 */
	uint32_t aux;		      /* whatever fn wants */
};
_Static_assert(sizeof(struct insn) == 40, "the decode cache's size is counted in these");

#endif
