/* trans_emit.c: encodes host instructions (SDM2 2.1, 2.2). */
#include "engine/soft/trans_emit.h"
#include <string.h>

void emit_byte(struct emit *e, uint8_t byte)
{
	if (e->at < e->end)
		*e->at++ = byte;
	else
		e->full = 1;
}

void emit_32(struct emit *e, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		emit_byte(e, (uint8_t)(v >> (i * 8)));
}

void emit_64(struct emit *e, uint64_t v)
{
	emit_32(e, (uint32_t)v);
	emit_32(e, (uint32_t)(v >> 32));
}

/* ModRM, SIB and displacement of a memory operand. */
static void emit_address(struct emit *e, unsigned reg, const struct emit_rm *m, int unit)
{
	_Bool sib = m->index != H_NONE || m->base == H_NONE || (m->base & 7) == 4;
	unsigned mod = 2;

	if (m->base == H_NONE)
		mod = 0;
	else if (!m->disp && (m->base & 7) != 5)
		mod = 0;
	else if (unit && m->disp % unit == 0 && m->disp / unit == (int8_t)(m->disp / unit))
		mod = 1;
	emit_byte(e, (uint8_t)(mod << 6 | (reg & 7) << 3 | (sib ? 4 : m->base & 7)));
	if (sib)
		emit_byte(e,
			  (uint8_t)(m->scale << 6 | (m->index == H_NONE ? 4 : m->index & 7) << 3 |
				    (m->base == H_NONE ? 5 : m->base & 7)));
	if (mod == 1)
		emit_byte(e, (uint8_t)(m->disp / unit));
	else if (mod == 2 || m->base == H_NONE)
		emit_32(e, (uint32_t)m->disp);
}

/* A VEX prefix; REX's bits are inverted in it. */
static void emit_vex(struct emit *e, const struct emit_op *op, unsigned rex)
{
	unsigned pp = op->prefix == 0x66 ? 1 : op->prefix == 0xf3 ? 2 : op->prefix == 0xf2 ? 3 : 0;

	unsigned last = (~op->vex_vvvv & 15u) << 3 | (unsigned)op->vex256 << 2 | pp;

	if (op->map == 1 && !(rex & 0xb)) {
		emit_byte(e, 0xc5);
		emit_byte(e, (uint8_t)((~rex & 4) << 5 | last));
	} else {
		emit_byte(e, 0xc4);
		emit_byte(e, (uint8_t)((~rex & 7) << 5 | op->map));
		emit_byte(e, (uint8_t)((rex & 8) << 4 | last));
	}
}

/* An EVEX prefix: inverted as well, each register with a fifth bit (SDM2 2.7.1). */
static void emit_evex(struct emit *e, const struct emit_op *op, const struct emit_rm *rm)
{
	unsigned pp = op->prefix == 0x66 ? 1 : op->prefix == 0xf3 ? 2 : op->prefix == 0xf2 ? 3 : 0;
	unsigned x = 0, b = 0;

	if (!rm->mem) {
		x = (unsigned)rm->reg >> 4;
		b = (unsigned)rm->reg >> 3;
	} else {
		x = rm->index == H_NONE ? 0 : (unsigned)rm->index >> 3;
		b = rm->base == H_NONE ? 0 : (unsigned)rm->base >> 3;
	}
	emit_byte(e, 0x62);
	emit_byte(e, (uint8_t)((~(unsigned)op->reg >> 3 & 1) << 7 | (~x & 1) << 6 | (~b & 1) << 5 |
			       (~(unsigned)op->reg >> 4 & 1) << 4 | op->map));
	emit_byte(e, (uint8_t)((unsigned)op->wide << 7 | (~op->vex_vvvv & 15u) << 3 | 4 | pp));
	emit_byte(e, (uint8_t)((op->evex_last & 0xf7u) | (~(unsigned)op->vex_vvvv >> 4 & 1) << 3));
}

static void emit_legacy(struct emit *e, const struct emit_op *op, unsigned rex)
{
	if (op->lock)
		emit_byte(e, 0xf0);
	if (op->osize16)
		emit_byte(e, 0x66);
	if (op->prefix)
		emit_byte(e, op->prefix);
	if (rex)
		emit_byte(e, (uint8_t)rex);
	if (op->map)
		emit_byte(e, 0x0f);
	if (op->map > 1)
		emit_byte(e, op->map == 2 ? 0x38 : 0x3a);
}

void emit_modrm(struct emit *e, const struct emit_op *op, struct emit_rm rm)
{
	unsigned rex = op->wide ? 0x48 : 0;

	if (op->reg & 8)
		rex |= 0x44;
	if (rm.mem) {
		if (rm.base != H_NONE && (rm.base & 8))
			rex |= 0x41;
		if (rm.index != H_NONE && (rm.index & 8))
			rex |= 0x42;
	} else if (rm.reg & 8) {
		rex |= 0x41;
	}
	if (op->bytes && ((!op->reg_is_op && op->reg >= 4) || (!rm.mem && rm.reg >= 4)))
		rex |= 0x40;
	if (op->evex)
		emit_evex(e, op, &rm);
	else if (op->vex)
		emit_vex(e, op, rex);
	else
		emit_legacy(e, op, rex);
	emit_byte(e, op->opcode);
	if (rm.mem)
		emit_address(e, op->reg, &rm, op->evex ? op->evex_unit : 1);
	else
		emit_byte(e, (uint8_t)(0xc0 | (op->reg & 7) << 3 | (rm.reg & 7)));
}

void emit_op64(struct emit *e, uint8_t opcode, int reg, struct emit_rm rm)
{
	emit_modrm(e, &(struct emit_op){.opcode = opcode, .wide = 1, .reg = (uint8_t)reg}, rm);
}

void emit_op32(struct emit *e, uint8_t opcode, int reg, struct emit_rm rm)
{
	emit_modrm(e, &(struct emit_op){.opcode = opcode, .reg = (uint8_t)reg}, rm);
}

void emit_alu_imm(struct emit *e, enum host_alu op, int reg, int32_t imm, _Bool wide)
{
	_Bool small = imm == (int8_t)imm;
	struct emit_op o = {
	    .opcode = small ? 0x83 : 0x81, .wide = wide, .reg_is_op = 1, .reg = (uint8_t)op};

	emit_modrm(e, &o, rm_reg(reg));
	if (small)
		emit_byte(e, (uint8_t)imm);
	else
		emit_32(e, (uint32_t)imm);
}

void emit_mov_imm(struct emit *e, int reg, uint64_t imm)
{
	if (imm == (uint32_t)imm) { /* B8+r with 32 bits clears the upper half */
		if (reg & 8)
			emit_byte(e, 0x41);
		emit_byte(e, (uint8_t)(0xb8 | (reg & 7)));
		emit_32(e, (uint32_t)imm);
	} else if (imm == (uint64_t)(int64_t)(int32_t)imm) {
		emit_op64(e, 0xc7, 0, rm_reg(reg));
		emit_32(e, (uint32_t)imm);
	} else {
		emit_byte(e, reg & 8 ? 0x49 : 0x48);
		emit_byte(e, (uint8_t)(0xb8 | (reg & 7)));
		emit_64(e, imm);
	}
}

static uint8_t *emit_place(struct emit *e)
{
	emit_32(e, 0);
	return e->at - 4;
}

uint8_t *emit_jcc(struct emit *e, unsigned cc)
{
	emit_byte(e, 0x0f);
	emit_byte(e, (uint8_t)(0x80 | cc));
	return emit_place(e);
}

uint8_t *emit_jmp(struct emit *e)
{
	emit_byte(e, 0xe9);
	return emit_place(e);
}

uint8_t *emit_call(struct emit *e)
{
	emit_byte(e, 0xe8);
	return emit_place(e);
}

uint8_t *emit_lea_rip(struct emit *e, int to)
{
	emit_byte(e, (uint8_t)(0x48 | (to & 8) >> 1));
	emit_byte(e, 0x8d);
	emit_byte(e, (uint8_t)((to & 7) << 3 | 5));
	emit_32(e, 0);
	return e->at - 4;
}

void emit_patch(uint8_t *place, const uint8_t *target)
{
	int32_t disp = (int32_t)(target - (place + 4));

	memcpy(place, &disp, 4);
}
