/* shape.h: what Zydis says of instructions, kept by their shape. */
#ifndef ENGINE_SOFT_SHAPE_H
#define ENGINE_SOFT_SHAPE_H

#include <Zydis/Zydis.h>
#include "engine/soft/insn.h"

/* One instruction, by Zydis. */
struct tb_insn {
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand *ops; /* SHAPE_OPERANDS at least; behind zi's they are zero */
};
/* ... and where it may be put. */
struct tb_room {
	struct tb_insn i;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

/* All but 6 of the 3937 shapes of a boot have no more operands, hidden ones counted. */
#define SHAPE_OPERANDS 5u

/* Where a value lies in the instruction, and in what Zydis says of it. */
struct soft_shape_value {
	uint8_t at, bytes; /* 0 bytes: there is none */
	_Bool is_signed;
	int8_t op; /* the operand that has it; -1: none */
};
struct soft_shape {
	uint64_t key;	 /* the bytes that are no values; 0: free */
	uint8_t decoder; /* soft_cache.decoder's index */
	uint8_t len;
	_Bool whole;	/* `insn` may be taken, with these values: */
	_Bool relative; /* its immediate counts from the instruction's address */
	struct soft_shape_value disp, imm;
	struct insn insn;
	struct tb_insn i;
	ZydisDecodedOperand ops[SHAPE_OPERANDS];
};
#define SOFT_SHAPES 4096u

struct soft_cpu;
/* The shape of the instruction at `bytes`, when it is kept. NULL: it is not, or needs more bytes
 * than `avail`. */
struct soft_shape *soft_shape_find(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail);
/* What Zydis says, with the values of `bytes`; true until the next call of these functions. */
const struct tb_insn *soft_shape_zydis(struct soft_shape *s, const uint8_t *bytes);
/* The instruction as decoded, with the values of `bytes`. Only if `whole`. */
struct insn soft_shape_insn(const struct soft_shape *s, const uint8_t *bytes);
/* Keeps what Zydis said of `bytes`, if it can be. NULL: it cannot. */
struct soft_shape *soft_shape_keep(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
				   const struct tb_insn *i);
/* Says how `s`, which was just found or kept, is decoded, if that depends on nothing but the shape,
 * the immediate being the instruction's own value. */
void soft_shape_decoded(struct soft_shape *s, const struct insn *insn, _Bool relative);
/* What Zydis says, kept or decoded into `room`, and then kept if it can be. True until the next
 * call of these functions. NULL: nothing. */
const struct tb_insn *soft_zydis(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
				 struct tb_room *room);

#endif
