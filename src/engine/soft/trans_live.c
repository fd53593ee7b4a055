/* trans_live.c: moves the guest's vector and x87 state between the host's registers and struct
 * soft_cpu.
 *
 * Only host code calls these stubs. While something is live, MXCSR and the x87 control word are the
 * guest's, with every exception masked, so that nothing that host code executes can trap. C code
 * finds its own: vec_save gives them back. Sticky flags of MXCSR do not matter to C, and most
 * guests have no more than those, so it is written only for others.
 *
 * FXSAVE's image is used for the x87 registers alone: the pointers in it stay the guest's, which
 * translated code keeps there (trans_x87.c), and its XMM part belongs to nobody.
 */
#include "engine/soft/trans.h"

#define HOST_MXCSR 0x1f80u
#define MXCSR	   trans_at(offsetof(struct soft_cpu, s.fpu.fx) + X86_FX_MXCSR)
#define FX(field)  trans_at(offsetof(struct soft_cpu, s.fpu.fx) + X86_FX_##field)

/* 0F AE with an operation in ModRM */
enum { FXSAVE, FXRSTOR, LDMXCSR, STMXCSR };
static void emit_0fae(struct emit *e, unsigned op, struct emit_rm rm)
{
	emit_modrm(e,
		   &(struct emit_op){.map = 1,
				     .opcode = 0xae,
				     .wide = op <= FXRSTOR,
				     .reg_is_op = 1,
				     .reg = (uint8_t)op},
		   rm);
}

static void emit_test8(struct emit *e, struct emit_rm rm, unsigned bits)
{
	emit_modrm(e, &(struct emit_op){.opcode = 0xf6, .reg_is_op = 1}, rm);
	emit_byte(e, (uint8_t)bits);
}
static void emit_or_live(struct emit *e, unsigned bits)
{
	emit_modrm(e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = ALU_OR},
		   T_FIELD(vec_live));
	emit_byte(e, (uint8_t)bits);
}
static void emit_ret(struct emit *e)
{
	emit_byte(e, 0xc3);
}

static void emit_vzeroupper(struct emit *e)
{
	emit_byte(e, 0xc5);
	emit_byte(e, 0xf8);
	emit_byte(e, 0x77);
}

#define VECTOR(n)    trans_at(offsetof(struct soft_cpu, s.fpu.vec) + (n)*64)
#define UPPER(n, at) trans_at(offsetof(struct soft_cpu, s.fpu.vec) + (n)*64 + (at))
enum { VEC_READ = 0x10, VEC_WRITE = 0x11, VEC_OR = 0x56 };
/* Bytes of each of 16 registers. */
enum vec_width { VEC_XMM = 16, VEC_YMM = 32, VEC_ZMM = 64 };
static void vectors_move(struct emit *e, uint8_t opcode, unsigned first, enum vec_width width)
{
	for (unsigned n = first; n < first + 16; n++)
		emit_modrm(e,
			   &(struct emit_op){.map = 1,
					     .opcode = opcode,
					     .vex = width == VEC_YMM,
					     .vex256 = width == VEC_YMM,
					     .evex = width == VEC_ZMM,
					     .evex_last = 2 << 5, /* 512 bits */
					     .reg = (uint8_t)n},
			   VECTOR(n));
}

static enum vec_width vectors_width(const struct soft_trans *t)
{
	return t->avx512 ? VEC_ZMM : t->avx ? VEC_YMM : VEC_XMM;
}

static void vectors_store(const struct soft_trans *t, struct emit *e)
{
	vectors_move(e, VEC_WRITE, 0, vectors_width(t));
}

/* Upper halves that were loaded count as in use, be they 0, and then each SSE instruction waits for
 * what its result was before, as it keeps the upper half: a loop may take more than twice as long.
 * So they are loaded when there is anything in them. Flags are lost. */
static void vectors_load(const struct soft_trans *t, struct emit *e)
{
	if (!t->avx) {
		vectors_move(e, VEC_READ, 0, VEC_XMM);
		return;
	}
	/* Of 512 bits the upper 384, as two pieces of 256. */
	for (unsigned k = 0; k < (t->avx512 ? 32u : 16u); k++)
		emit_modrm(
		    e,
		    &(struct emit_op){
			.map = 1, .opcode = k ? VEC_OR : VEC_READ, .vex = 1, .vex256 = t->avx512},
		    UPPER(k % 16, k < 16 ? 16 : 32));
	emit_modrm(e,
		   &(struct emit_op){
		       .map = 2, .opcode = 0x17, .prefix = 0x66, .vex = 1, .vex256 = t->avx512},
		   rm_reg(0)); /* vptest xmm0, xmm0 */
	uint8_t *used = emit_jcc(e, CC_NZ);
	emit_vzeroupper(e);
	vectors_move(e, VEC_READ, 0, VEC_XMM);
	uint8_t *done = emit_jmp(e);
	emit_here(e, used);
	vectors_move(e, VEC_READ, 0, vectors_width(t));
	emit_here(e, done);
}

/* What only AVX-512 has. KMOVQ's opcodes are 90 and 91. */
static void upper_move(struct emit *e, uint8_t opcode)
{
	vectors_move(e, opcode, 16, VEC_ZMM);
	for (unsigned n = 0; n < 8; n++)
		emit_modrm(
		    e,
		    &(struct emit_op){
			.map = 1, .opcode = opcode | 0x80, .vex = 1, .wide = 1, .reg = (uint8_t)n},
		    trans_at(offsetof(struct soft_cpu, s.fpu.k) + n * 8));
}

/* All general registers but RAX, RCX and R11 are kept. */
static void stub_save(const struct soft_trans *t, struct emit *e)
{
	vectors_store(t, e);
	if (t->avx512) {
		emit_test8(e, T_FIELD(vec_live), LIVE_512);
		uint8_t *no_upper = emit_jcc(e, CC_Z);
		upper_move(e, VEC_WRITE);
		emit_here(e, no_upper);
	}
	emit_0fae(e, STMXCSR, MXCSR);
	emit_test8(e, T_FIELD(vec_live), LIVE_X87);
	uint8_t *no_x87 = emit_jcc(e, CC_Z);
	emit_op64(e, 0x8b, H_RAX, FX(FIP));
	emit_op64(e, 0x8b, H_R11, FX(FDP));
	emit_modrm(e, &(struct emit_op){.map = 1, .opcode = 0xb7, .reg = H_RCX}, FX(FOP));
	emit_0fae(e, FXSAVE, FX(FCW));
	emit_op64(e, 0x89, H_RAX, FX(FIP));
	emit_op64(e, 0x89, H_R11, FX(FDP));
	emit_modrm(e, &(struct emit_op){.opcode = 0x89, .osize16 = 1, .reg = H_RCX}, FX(FOP));
	emit_byte(e, 0xdb); /* fninit */
	emit_byte(e, 0xe3);
	emit_here(e, no_x87);
	emit_op32(e, 0x8b, H_RAX, MXCSR);
	emit_alu_imm(e, ALU_AND, H_RAX, ~0x3f, 0);
	emit_alu_imm(e, ALU_CMP, H_RAX, HOST_MXCSR, 0);
	uint8_t *same = emit_jcc(e, CC_Z);
	emit_byte(e, 0x68); /* push */
	emit_32(e, HOST_MXCSR);
	emit_0fae(e, LDMXCSR, rm_mem(H_RSP, H_NONE, 0, 0));
	emit_byte(e, 0x58); /* pop rax */
	emit_here(e, same);
	if (t->avx) /* C may mix in instructions that are slow with upper halves in use */
		emit_vzeroupper(e);
	emit_modrm(e, &(struct emit_op){.opcode = 0xc6, .reg_is_op = 1}, T_FIELD(vec_live));
	emit_byte(e, 0);
	emit_ret(e);
}

/* The upper bytes of a control register, in which there is one bit to look at. */
#define BIT_AT(field, bit) trans_at(offsetof(struct soft_cpu, field) + (bit) / 8), 1u << ((bit) % 8)

/* Loads what may be loaded; RAX is lost. */
static void stub_load(const struct soft_trans *t, struct emit *e)
{
	uint8_t *out[5];
	unsigned outs = 0;

	emit_test8(e, T_FIELD(vec_live), LIVE_SSE);
	out[outs++] = emit_jcc(e, CC_NZ);
	emit_test8(e, T_FIELD(s.cr0), X86_CR0_EM | X86_CR0_TS);
	out[outs++] = emit_jcc(e, CC_NZ);
	emit_test8(e, BIT_AT(s.cr4, 9)); /* OSFXSR */
	out[outs++] = emit_jcc(e, CC_Z);
	emit_op32(e, 0x8b, H_RAX, MXCSR);
	emit_op32(e, 0xf7, 2, rm_reg(H_RAX)); /* not eax */
	emit_byte(e, 0xa9);		      /* test eax */
	emit_32(e, HOST_MXCSR);
	out[outs++] = emit_jcc(e, CC_NZ);
	vectors_load(t, e);
	emit_0fae(e, LDMXCSR, MXCSR);
	emit_or_live(e, LIVE_SSE);
	if (t->avx) {
		emit_test8(e, BIT_AT(s.cr4, 18)); /* OSXSAVE */
		out[outs++] = emit_jcc(e, CC_Z);
		emit_op32(e, 0x8b, H_RAX, T_FIELD(s.xcr0));
		emit_alu_imm(e, ALU_AND, H_RAX, X86_XCR0_SSE | X86_XCR0_AVX, 0);
		emit_alu_imm(e, ALU_CMP, H_RAX, X86_XCR0_SSE | X86_XCR0_AVX, 0);
		uint8_t *no_avx = emit_jcc(e, CC_NZ);
		emit_or_live(e, LIVE_AVX);
		emit_here(e, no_avx);
	}
	while (outs)
		emit_here(e, out[--outs]);
	emit_ret(e);
}
_Static_assert((X86_CR4_OSFXSR | X86_CR4_OSXSAVE) == 0x40200, "as tested above");

/* What only AVX-512 has, after the rest: whose conditions are part of its own. */
static void stub_load_upper(const struct soft_trans *t, struct emit *e, const uint8_t *load)
{
	uint8_t *out[3];

	emit_test8(e, T_FIELD(vec_live), LIVE_512);
	out[0] = emit_jcc(e, CC_NZ);
	emit_patch(emit_call(e), load);
	emit_test8(e, T_FIELD(vec_live), LIVE_AVX);
	out[1] = emit_jcc(e, CC_Z);
	emit_op32(e, 0x8b, H_RAX, T_FIELD(s.xcr0));
	emit_alu_imm(e, ALU_AND, H_RAX, X86_XCR0_AVX512, 0);
	emit_alu_imm(e, ALU_CMP, H_RAX, X86_XCR0_AVX512, 0);
	out[2] = emit_jcc(e, CC_NZ);
	upper_move(e, VEC_READ);
	emit_or_live(e, LIVE_512);
	for (unsigned k = 0; k < ARRAY_SIZE(out); k++)
		emit_here(e, out[k]);
	emit_ret(e);
}

/* FXRSTOR takes XMM along, so they are stored before and loaded again. */
static void stub_load_x87(const struct soft_trans *t, struct emit *e, const uint8_t *load)
{
	uint8_t *out[3];

	emit_test8(e, T_FIELD(vec_live), LIVE_X87);
	out[0] = emit_jcc(e, CC_NZ);
	emit_op32(e, 0x8b, H_RAX, FX(FCW));
	emit_op32(e, 0xf7, 2, rm_reg(H_RAX)); /* not eax */
	emit_byte(e, 0xa8);		      /* test al */
	emit_byte(e, 0x3f);
	out[1] = emit_jcc(e, CC_NZ);
	emit_patch(emit_call(e), load);
	emit_test8(e, T_FIELD(vec_live), LIVE_SSE);
	out[2] = emit_jcc(e, CC_Z);
	vectors_store(t, e);
	emit_0fae(e, STMXCSR, MXCSR);
	emit_0fae(e, FXRSTOR, FX(FCW));
	vectors_load(t, e);
	emit_or_live(e, LIVE_X87);
	for (unsigned k = 0; k < ARRAY_SIZE(out); k++)
		emit_here(e, out[k]);
	emit_ret(e);
}

void trans_stubs_live(struct soft_trans *t, struct emit *e)
{
	const uint8_t *load;

	t->vec_save = (uint32_t)(e->at - t->rw);
	stub_save(t, e);
	load = e->at;
	t->vec_load = (uint32_t)(e->at - t->rw);
	stub_load(t, e);
	t->zmm_load = (uint32_t)(e->at - t->rw);
	if (t->avx512)
		stub_load_upper(t, e, load);
	t->x87_load = (uint32_t)(e->at - t->rw);
	stub_load_x87(t, e, load);
}

void trans_live_end(const struct soft_trans *t, struct emit *e)
{
	emit_modrm(e, &(struct emit_op){.opcode = 0x80, .reg_is_op = 1, .reg = ALU_CMP},
		   T_FIELD(vec_live));
	emit_byte(e, 0);
	uint8_t *none = emit_jcc(e, CC_Z);
	emit_patch(emit_call(e), t->rw + t->vec_save);
	emit_here(e, none);
}
