/* trans_emit.h: host instructions, byte by byte, as the translator writes them. */
#ifndef ENGINE_SOFT_TRANS_EMIT_H
#define ENGINE_SOFT_TRANS_EMIT_H

#include "base/util.h"

/* Host registers by their number in encodings. */
enum host_reg {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15,
	H_NONE = -1,
};

/* Where the next byte goes. When the end is reached, nothing more is written and `full` is set:
 * the caller looks once, at the end. */
struct emit {
	uint8_t *at, *end;
	_Bool full;
};
void emit_byte(struct emit *e, uint8_t byte);
void emit_32(struct emit *e, uint32_t v);
void emit_64(struct emit *e, uint64_t v);

/* The second operand: a register, or memory at base + index << scale + disp. */
struct emit_rm {
	_Bool mem;
	int8_t reg; /* when not mem */
	int8_t base, index;
	uint8_t scale;
	int32_t disp;
};
static inline struct emit_rm rm_reg(int reg)
{
	return (struct emit_rm){.reg = (int8_t)reg};
}
static inline struct emit_rm rm_mem(int base, int index, unsigned scale, int32_t disp)
{
	return (struct emit_rm){.mem = 1,
				.base = (int8_t)base,
				.index = (int8_t)index,
				.scale = (uint8_t)scale,
				.disp = disp};
}

/* An instruction with a ModRM byte. */
struct emit_op {
	uint8_t map;	 /* 0: one byte; 1: 0F; 2: 0F 38; 3: 0F 3A */
	uint8_t opcode;	 /* last byte */
	uint8_t prefix;	 /* 0, F2 or F3 */
	_Bool osize16;	 /* prefix 66 */
	_Bool wide;	 /* REX.W */
	_Bool lock;	 /* prefix F0 */
	_Bool bytes;	 /* names byte registers 4 to 7 as SPL to DIL: a REX prefix is needed */
	_Bool reg_is_op; /* `reg` extends the opcode */
	uint8_t reg;
	_Bool vex;	  /* a VEX prefix; `prefix` may be 66, too */
	_Bool vex256;	  /* VEX.L */
	uint8_t vex_vvvv; /* the register there; 0 when there is none */
	/* An EVEX prefix instead: registers up to 31, its last byte but for V', and what a
	 * displacement of one byte counts (0: it is not used). */
	_Bool evex;
	uint8_t evex_last, evex_unit;
};
void emit_modrm(struct emit *e, const struct emit_op *op, struct emit_rm rm);

/* Shorthands with 64-bit operands, one-byte opcodes. */
void emit_op64(struct emit *e, uint8_t opcode, int reg, struct emit_rm rm);
void emit_op32(struct emit *e, uint8_t opcode, int reg, struct emit_rm rm);
static inline void emit_mov(struct emit *e, int to, int from)
{
	emit_op64(e, 0x8b, to, rm_reg(from));
}
static inline void emit_lea(struct emit *e, int to, struct emit_rm rm)
{
	emit_op64(e, 0x8d, to, rm);
}
/* ALU operations by their number in encodings, with a sign-extended immediate. */
enum host_alu { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };
void emit_alu_imm(struct emit *e, enum host_alu op, int reg, int32_t imm, _Bool wide);
void emit_mov_imm(struct emit *e, int reg, uint64_t imm);

/* Branches with a 32-bit displacement: the place to fill in is given back. */
enum host_cc { CC_B = 2, CC_NB = 3, CC_Z = 4, CC_NZ = 5 };
uint8_t *emit_jcc(struct emit *e, unsigned cc);
uint8_t *emit_jmp(struct emit *e);
uint8_t *emit_call(struct emit *e);
/* LEA of an address in the code, likewise. */
uint8_t *emit_lea_rip(struct emit *e, int to);
/* Makes the branch whose displacement is at `place` go to `target`. */
void emit_patch(uint8_t *place, const uint8_t *target);
static inline void emit_here(struct emit *e, uint8_t *place)
{
	if (!e->full)
		emit_patch(place, e->at);
}

#endif
