/* vec.c: decoding of x87, MMX, SSE, AVX and rare integer instructions for the interpreter. */
#include "engine/soft/vec.h"

#include <errno.h>
#include <stdlib.h>
#include "engine/engine.h"
#include "engine/soft/vector.h"

/* Legacy SSE with a 16-byte operand that may lie anywhere (SDM2 table 2-21, type 4's exceptions).
 */
static _Bool vec_unaligned(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM: return 1;
	default: return 0;
	}
}

static uint32_t vec_alignment(const struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
			      enum vec_class class, unsigned size)
{
	/* What Intel's CPUs do not ask #AC of. */
	if (!soft_amd(cpu) && (zi->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH ||
			       zi->mnemonic == ZYDIS_MNEMONIC_VCVTPH2PS || vec_is_packed(zi)))
		return VEC_ANY_ALIGN;
	switch (zi->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE1:
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF: return VEC_ALIGN;
	default: break;
	}
	/* AMD's CPUs do not ask it of the SHA instructions. */
	if (zi->meta.isa_set == ZYDIS_ISA_SET_SHA && cpu->base.engine->env->cpuid->amd)
		return 0;
	if ((class == VEC_SSE || class == VEC_SSEMMX) && size == 16 && !vec_unaligned(zi->mnemonic))
		return VEC_ALIGN | VEC_ALIGN_MM;
	return 0;
}

/* x87 instructions that leave the pointers alone (SDM1 8.1.8), and those that do not wait. */
static uint32_t vec_x87_kind(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP: return VEC_CONTROL | VEC_NOWAIT;
	case ZYDIS_MNEMONIC_FLDCW: return VEC_CONTROL;
	default: return 0;
	}
}

static void vec_nothing(struct soft_cpu *cpu, const struct insn *i)
{
}

static void vec_fence(struct soft_cpu *cpu, const struct insn *i)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The cache of thunks is full: everything decoded goes, and so do all thunks (vec_flush). */
static void vec_full(struct soft_cpu *cpu, const struct insn *i)
{
	soft_cache_flush(cpu);
	soft_restart(cpu);
}

static _Bool vec_decode_simple(const ZydisDecodedInstruction *zi, struct insn *out)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE: out->fn = vec_fence; return 1;
	default: break;
	}
	if (zi->meta.isa_set == ZYDIS_ISA_SET_SSE_PREFETCH) {
		out->fn = vec_nothing;
		return 1;
	}
	return 0;
}

static void vec_operand(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			unsigned *size, _Bool *reads, _Bool *writes)
{
	for (unsigned i = 0; i < zi->operand_count_visible; i++) {
		if (ops[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		*size = ops[i].size / 8;
		*reads = ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_READ;
		*writes = ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	}
}

static _Bool vec_decode_thunk(struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
			      const ZydisDecodedOperand *ops, const uint8_t *bytes,
			      struct insn *out, enum vec_class class)
{
	_Bool reads = 0, writes = 0;
	unsigned size = 0;
	struct thunk thunk;

	vec_operand(zi, ops, &size, &reads, &writes);
	if (size > 64)
		return 0;
	switch (thunk_get(cpu->vec->thunks, zi, ops, bytes, &thunk)) {
	case 0: break;
	case -ENOSPC:
		out->fn = vec_full;
		out->flags |= INSN_BRANCH | INSN_STATE;
		return 1;
	default: return 0;
	}
	thunk_cache_attach(cpu->vec->thunks);
	out->imm = (uint64_t)(uintptr_t)thunk.fn;
	out->aux = size | vec_alignment(cpu, zi, class, size);
	if (class == VEC_X87) {
		out->aux |= vec_x87_kind(zi) | (uint32_t)(zi->opcode & 7) << VEC_OP_SHIFT;
		out->r1 =
		    (uint8_t)(zi->raw.modrm.mod << 6 | zi->raw.modrm.reg << 3 | zi->raw.modrm.rm);
	}
	if (size && (vec_is_masked(zi) || vec_is_packed(zi))) {
		vec_masked_decode(zi, ops, out, writes);
		return 1;
	}
	out->fn = vec_run_handler(class, reads, writes);
	return out->fn != NULL;
}

/* VEX.W set where it would choose a 64-bit general register is ignored outside 64-bit mode, but on
 * AMD's CPUs not in these. */
static _Bool vec_w_reserved(const struct soft_cpu *cpu, const ZydisDecodedInstruction *zi)
{
	return soft_amd(cpu) && !soft_is64(cpu) && zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
	       zi->raw.vex.W &&
	       (zi->mnemonic == ZYDIS_MNEMONIC_VPINSRD || zi->mnemonic == ZYDIS_MNEMONIC_VPEXTRD);
}

_Bool vec_decode(struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
		 const ZydisDecodedOperand *ops, const uint8_t *bytes, struct insn *out)
{
	enum vec_class class;

	if (!vec_feature(cpu->base.engine->env->cpuid, zi))
		return 0;
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && (cpu->mode & SOFT_MODE_REAL))
		return 0;
	if (vec_w_reserved(cpu, zi))
		return 0;
	class = vec_class_of(zi, ops);
	if (class == VEC_AVX512)
		return vec_vsib_decode(zi, ops, out) ||
		       vec_decode_thunk(cpu, zi, ops, bytes, out, class);
	return vec_decode_simple(zi, out) || vec_move_decode(zi, ops, out) ||
	       vec_mask_decode(zi, ops, out) || vec_env_decode(zi, ops, out) ||
	       vec_xsave_decode(zi, out) || vec_decode_thunk(cpu, zi, ops, bytes, out, class);
}

static void vec_init_xsave(struct soft_cpu *cpu)
{
	for (unsigned n = 2; n < VEC_XSAVE_PARTS; n++) {
		struct cpuid_regs r;

		cpuid_query(cpu->base.engine->env->cpuid, &cpu->s, 0, 1, 0xd, n, &r);
		cpu->vec->xsave[n] = (struct vec_xsave){r.ebx, r.eax, !!(r.ecx & 2)};
	}
}

static int vec_init_avx512(struct soft_cpu *cpu)
{
	cpu->vec->avx512 = cpuid_has(cpu->base.engine->env->cpuid, 7, 0, CPUID_EBX, 16);
	return cpu->vec->avx512 ? thunk_cache_avx512(cpu->vec->thunks) : 0;
}

int vec_init(struct soft_cpu *cpu)
{
	struct soft_vec *v = aligned_alloc(64, ALIGN_UP(sizeof(*v), 64));
	alignas(16) uint8_t fx[512];
	int ret;

	if (!v)
		return -ENOMEM;
	memset(v, 0, sizeof(*v));
	ret = thunk_cache_new(&v->thunks, THUNK_CACHE_BYTES, NULL);
	if (ret < 0) {
		free(v);
		return ret;
	}
	/* Of the opcode no bit tells: Intel's CPUs do so since the Pentium 4 (SDM1 8.1.9.1). */
	v->fop_late = !soft_amd(cpu);
	v->fdp_late = v->fop_late && cpuid_has(cpu->base.engine->env->cpuid, 7, 0, CPUID_EBX, 6);
	v->no_selectors =
	    v->fop_late && cpuid_has(cpu->base.engine->env->cpuid, 7, 0, CPUID_EBX, 13);
	__asm__ volatile("fxsave64 %0" : "=m"(fx));
	memcpy(&v->mxcsr_mask, fx + X86_FX_MASK, 4);
	if (!v->mxcsr_mask)
		v->mxcsr_mask = 0xffbf; /* SDM1 11.6.6 */
	cpu->vec = v;
	vec_init_xsave(cpu);
	return vec_init_avx512(cpu);
}

_Bool vec_state_ok(const struct soft_cpu *cpu, const struct x86_state *s)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, s->fpu.fx + X86_FX_MXCSR, sizeof(mxcsr));
	return vec_mxcsr_ok(cpu, mxcsr);
}

void vec_fini(struct soft_cpu *cpu)
{
	if (!cpu->vec)
		return;
	thunk_cache_free(cpu->vec->thunks);
	free(cpu->vec);
	cpu->vec = NULL;
}

void vec_flush(struct soft_cpu *cpu)
{
	thunk_cache_empty(cpu->vec->thunks);
}
