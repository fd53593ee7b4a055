/* thunk_emit.c: the host code of a thunk. */
#include "engine/soft/thunk_plan.h"

#include <assert.h>
#include <string.h>
#include "engine/soft/cpu.h"

/*
 * Shape of a thunk, called as fn(CPU in RDI, memory operand in RSI):
 *
 *   push what the C side wants kept and the instruction uses
 *   state and memory operand to the registers that the plan chose
 *   fxrstor (x87), vector registers, MXCSR, flags, general registers
 *   the instruction
 *   general registers, flags, vector registers, MXCSR, fxsave
 *   the host's MXCSR and x87 control word
 *   pop; eax = 0; ret
 *
 * A fault in the instruction continues at `fault`: only MXCSR is stored (an unmasked SIMD exception
 * sets its flags, SDM3 11.5.4), the host's state comes back, EAX is the status that the signal
 * handler put there. No store comes before the instruction, so the guest's state is as it was.
 */
struct emit {
	uint8_t *start, *p;
	uint64_t at;
	uint8_t state;
};

static void emit_bytes(struct emit *e, const void *bytes, size_t count)
{
	assert((size_t)(e->p - e->start) + count <= THUNK_MAX_CODE);
	memcpy(e->p, bytes, count);
	e->p += count;
}
#define EMIT(e, ...)                                                                               \
	do {                                                                                       \
		const uint8_t b_[] = {__VA_ARGS__};                                                \
		emit_bytes(e, b_, sizeof(b_));                                                     \
	} while (0)

static void emit_u32(struct emit *e, uint32_t v)
{
	emit_bytes(e, &v, 4);
}

/* ModRM and displacement for [state + off]. */
static void emit_state_operand(struct emit *e, uint8_t reg, size_t off)
{
	EMIT(e, (uint8_t)(0x80 | (reg & 7) << 3 | (e->state & 7)));
	emit_u32(e, (uint32_t)off);
}

static void emit_gpr(struct emit *e, uint8_t opcode, uint8_t host, size_t off)
{
	EMIT(e, (uint8_t)(0x49 | (host >> 3) << 2), opcode);
	emit_state_operand(e, host, off);
}

/* movups, or a 256-bit or 512-bit vmovups; opcode 10 loads, 11 stores. */
static void emit_vec(struct emit *e, _Bool vex, _Bool evex, uint8_t opcode, uint8_t n)
{
	size_t off = offsetof(struct soft_cpu, s.fpu.vec) + n * 64u;

	if (evex)
		EMIT(e, 0x62, (uint8_t)(0x41 | (n & 8 ? 0 : 0x80) | (n & 16 ? 0 : 0x10)), 0x7c,
		     0x48, opcode);
	else if (vex)
		EMIT(e, 0xc4, (uint8_t)(0x41 | (n >> 3 ? 0 : 0x80)), 0x7c, opcode);
	else
		EMIT(e, (uint8_t)(0x41 | (n >> 3) << 2), 0x0f, opcode);
	emit_state_operand(e, n, off);
}

/* kmovq; opcode 90 loads, 91 stores. */
static void emit_mask(struct emit *e, uint8_t opcode, uint8_t n)
{
	EMIT(e, 0xc4, 0xc1, 0xf8, opcode);
	emit_state_operand(e, n, offsetof(struct soft_cpu, s.fpu.k) + n * 8u);
}

/* 0F AE /digit [state + off], with REX.W for the 64-bit FXSAVE forms. */
static void emit_fpu(struct emit *e, uint8_t digit, size_t off)
{
	_Bool wide = digit <= 1;

	EMIT(e, (uint8_t)(wide ? 0x49 : 0x41), 0x0f, 0xae);
	emit_state_operand(e, digit, off);
}
enum { FXSAVE, FXRSTOR, LDMXCSR, STMXCSR };

static void emit_mov(struct emit *e, uint8_t dst, uint8_t src)
{
	if (dst != src)
		EMIT(e, (uint8_t)(0x48 | (src >> 3) << 2 | dst >> 3), 0x89,
		     (uint8_t)(0xc0 | (src & 7) << 3 | (dst & 7)));
}

static void emit_push(struct emit *e, uint8_t opcode, uint8_t reg)
{
	if (reg >= 8)
		EMIT(e, 0x41);
	EMIT(e, (uint8_t)(opcode | (reg & 7)));
}

static uint8_t host_register(const struct thunk_plan *p, unsigned guest)
{
	return guest == X86_RSP ? p->rsp_alias : (uint8_t)guest;
}

/* The registers of the host's that C wants back (psABI 3.2.1) among those that are written. */
static uint16_t emit_saved(const struct thunk_plan *p)
{
	uint16_t used = p->gpr_used & (uint16_t) ~(1u << X86_RSP);

	if (p->rsp_alias != 0xff)
		used |= (uint16_t)(1u << p->rsp_alias);
	if (p->mem_reg != 0xff)
		used |= (uint16_t)(1u << p->mem_reg);
	return used & (1u << X86_RBX | 1u << X86_RBP | 0xf000);
}

/* cpu->af is what LAHF and SETO AL leave; the way back is a sum that overflows when AL is 1. */
static void emit_flags_load(struct emit *e)
{
	EMIT(e, 0x41, 0x8b); /* mov eax, [af] */
	emit_state_operand(e, X86_RAX, offsetof(struct soft_cpu, af));
	EMIT(e, 0x04, 0x7f, 0x9e); /* add al, 0x7f; sahf */
}

static void emit_flags_store(struct emit *e)
{
	EMIT(e, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	EMIT(e, 0x41, 0x89);		 /* mov [af], eax */
	emit_state_operand(e, X86_RAX, offsetof(struct soft_cpu, af));
}

static void emit_load(struct emit *e, const struct thunk_plan *p)
{
	emit_mov(e, p->state_reg, X86_RDI);
	if (p->mem_reg != 0xff)
		emit_mov(e, p->mem_reg, X86_RSI);
	if (p->x87)
		emit_fpu(e, FXRSTOR, offsetof(struct soft_cpu, s.fpu.fx));
	for (uint8_t i = 0; i < 32; i++) {
		if (p->vec_used & (1u << i))
			emit_vec(e, p->vex, p->evex, 0x10, i);
	}
	for (uint8_t i = 0; i < 8; i++) {
		if (p->k_used & (1u << i))
			emit_mask(e, 0x90, i);
	}
	if (p->mxcsr)
		emit_fpu(e, LDMXCSR, offsetof(struct soft_cpu, s.fpu.fx) + X86_FX_MXCSR);
}

static void emit_host_fpu(struct emit *e, const struct thunk_plan *p, uint64_t host_mxcsr)
{
	if (p->mxcsr || p->x87) {
		EMIT(e, 0x0f, 0xae, 0x15); /* ldmxcsr [rip + d] */
		emit_u32(e, (uint32_t)(host_mxcsr - (e->at + (uint64_t)(e->p - e->start) + 4)));
	}
	if (p->x87)
		EMIT(e, 0xdb, 0xe3); /* fninit: the control word that C expects */
	if (p->vex || p->evex)
		EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
}

static void emit_store(struct emit *e, const struct thunk_plan *p)
{
	for (unsigned i = 0; i < 16; i++) {
		if (p->gpr_written & (1u << i))
			emit_gpr(e, 0x89, host_register(p, i),
				 offsetof(struct soft_cpu, s.gpr) + i * 8);
	}
	if (p->flags_out)
		emit_flags_store(e);
	for (uint8_t i = 0; i < 32; i++) {
		if (p->vec_written & (1u << i))
			emit_vec(e, p->vex, p->wide, 0x11, i);
	}
	for (uint8_t i = 0; i < 8; i++) {
		if (p->k_written & (1u << i))
			emit_mask(e, 0x91, i);
	}
	if (p->mxcsr)
		emit_fpu(e, STMXCSR, offsetof(struct soft_cpu, s.fpu.fx) + X86_FX_MXCSR);
	if (p->x87)
		emit_fpu(e, FXSAVE, offsetof(struct soft_cpu, s.fpu.fx));
}

static void emit_leave(struct emit *e, uint16_t saved)
{
	for (unsigned i = 16; i-- > 0;) {
		if (saved & (1u << i))
			emit_push(e, 0x58, (uint8_t)i);
	}
	EMIT(e, 0xc3);
}

void thunk_emit(const struct thunk_plan *p, uint8_t *code, uint64_t at, uint64_t host_mxcsr,
		struct thunk_code *out)
{
	struct emit e = {.start = code, .p = code, .at = at, .state = p->state_reg};
	uint16_t saved = emit_saved(p);

	for (unsigned i = 0; i < 16; i++) {
		if (saved & (1u << i))
			emit_push(&e, 0x50, (uint8_t)i);
	}
	emit_load(&e, p);
	if (p->flags_in)
		emit_flags_load(&e);
	for (unsigned i = 0; i < 16; i++) {
		if (p->gpr_used & (1u << i))
			emit_gpr(&e, 0x8b, host_register(p, i),
				 offsetof(struct soft_cpu, s.gpr) + i * 8);
	}
	out->insn = (uint32_t)(e.p - code);
	emit_bytes(&e, p->bytes, p->length);
	emit_store(&e, p);
	emit_host_fpu(&e, p, host_mxcsr);
	EMIT(&e, 0x31, 0xc0); /* xor eax, eax */
	emit_leave(&e, saved);

	out->fault = (uint32_t)(e.p - code);
	if (p->mxcsr || p->x87)
		emit_fpu(&e, STMXCSR, offsetof(struct soft_cpu, s.fpu.fx) + X86_FX_MXCSR);
	emit_host_fpu(&e, p, host_mxcsr);
	emit_leave(&e, saved);
	out->size = (uint32_t)(e.p - code);
}
