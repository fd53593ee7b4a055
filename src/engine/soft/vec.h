/* vec.h: shared by the files that execute x87, MMX, SSE and AVX instructions (vec_*.c). */
#ifndef ENGINE_SOFT_VEC_H
#define ENGINE_SOFT_VEC_H

#include <Zydis/Zydis.h>
#include "engine/soft/cpu.h"
#include "engine/soft/thunk.h"

/* Where XSAVE has a component; from CPUID. */
struct vec_xsave {
	uint32_t offset, size;
	_Bool align; /* to 64 bytes in the compacted form */
};
#define VEC_XSAVE_PARTS 8u

struct soft_vec {
	struct thunk_cache *thunks;
	uint32_t mxcsr_mask;
	_Bool avx512; /* offered */
	/* The x87's opcode, its data pointer, are of the last instruction that raised an unmasked
	 * exception, not of the last at all; its selectors are 0 (CPUID.7.EBX[6] and [13]). */
	_Bool fop_late, fdp_late, no_selectors;
	struct vec_xsave xsave[VEC_XSAVE_PARTS];
	alignas(64) uint8_t buf[128]; /* a memory operand that cannot be used in place */
};

/* What must hold before an instruction runs (SDM3 2.5, 13.1; SDM2 2.4). */
enum vec_class {
	VEC_INT,    /* general registers only: nothing */
	VEC_X87,    /* CR0.EM and TS: #NM */
	VEC_WAIT,   /* FWAIT: CR0.MP with TS: #NM */
	VEC_MMX,    /* CR0.EM: #UD; TS: #NM */
	VEC_SSE,    /* CR0.EM, no CR4.OSFXSR: #UD; TS: #NM */
	VEC_SSEMMX, /* both of these */
	VEC_AVX,    /* no CR4.OSXSAVE, XCR0 without SSE and AVX: #UD; TS: #NM */
	VEC_AVX512, /* ... or without the three of AVX-512 */
	VEC_FXSAVE, /* as x87 */
	VEC_XSAVE,  /* no CR4.OSXSAVE: #UD; TS: #NM */
	VEC_CLASSES,
};

/* struct insn.aux of vector instructions */
#define VEC_SIZE      0xffu	/* bytes of the memory operand */
#define VEC_ALIGN     BIT32(8)	/* #GP when it is not aligned to its size */
#define VEC_ALIGN_MM  BIT32(9)	/* ... unless MXCSR.MM is set (AMD's misaligned SSE mode) */
#define VEC_CONTROL   BIT32(10) /* x87: leaves the instruction and data pointers alone */
#define VEC_NOWAIT    BIT32(11) /* x87: does not look at pending exceptions */
#define VEC_OP_SHIFT  12	/* x87: 3 low bits of the opcode; ModRM is in r1 */
#define VEC_ANY_ALIGN BIT32(15) /* no #AC whatever its size */
#define VEC_OPERAND16 BIT32(16) /* x87 environment in its 16-bit form */
#define VEC_WIDE      BIT32(17) /* REX.W: 64-bit pointers */
/* EVEX with a mask, which is in r2; 7 bits each: elements in memory; bits of the mask that choose
 * whether there is an access at all, 0: there always is. */
#define VEC_ELEMENTS 18
#define VEC_CHOOSERS 25
#define VEC_XCR0_512 (X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512)

/* Does CPUID offer the instruction's feature? And its class. */
_Bool vec_feature(const struct cpuid_policy *policy, const ZydisDecodedInstruction *zi);
enum vec_class vec_class_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops);

/* Raises #UD or #NM for a class whose conditions do not hold. */
NORETURN void vec_refuse(struct soft_cpu *cpu, enum vec_class class);
static ALWAYS_INLINE void vec_check(struct soft_cpu *cpu, enum vec_class class)
{
	const struct x86_state *s = &cpu->s;
	_Bool bad = 0;

	switch (class) {
	case VEC_X87:
	case VEC_MMX:
	case VEC_FXSAVE: bad = s->cr0 & (X86_CR0_EM | X86_CR0_TS); break;
	case VEC_WAIT:
		bad = (s->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS);
		break;
	case VEC_SSE:
	case VEC_SSEMMX:
		bad = (s->cr0 & (X86_CR0_EM | X86_CR0_TS)) || !(s->cr4 & X86_CR4_OSFXSR);
		break;
	case VEC_AVX:
		bad = (s->cr0 & X86_CR0_TS) || !(s->cr4 & X86_CR4_OSXSAVE) ||
		      (~s->xcr0 & (X86_XCR0_SSE | X86_XCR0_AVX));
		break;
	case VEC_AVX512:
		bad = (s->cr0 & X86_CR0_TS) || !(s->cr4 & X86_CR4_OSXSAVE) ||
		      (~s->xcr0 & VEC_XCR0_512);
		break;
	case VEC_XSAVE: bad = (s->cr0 & X86_CR0_TS) || !(s->cr4 & X86_CR4_OSXSAVE); break;
	default: break;
	}
	if (UNLIKELY(bad))
		vec_refuse(cpu, class);
}

/* An x87 exception is pending: #MF at the next instruction that waits. */
static inline _Bool vec_x87_pending(const struct soft_cpu *cpu)
{
	uint16_t fcw, fsw;

	memcpy(&fcw, cpu->s.fpu.fx + X86_FX_FCW, 2);
	memcpy(&fsw, cpu->s.fpu.fx + X86_FX_FSW, 2);
	return fsw & ~fcw & 0x3f;
}
/* #MF whatever CR0.NE says: a CPU whose FERR# is not wired to an interrupt controller, as under
 * VMX, where CR0.NE is always 1. */
static inline void vec_x87_check_pending(struct soft_cpu *cpu)
{
	if (UNLIKELY(vec_x87_pending(cpu)))
		soft_raise(cpu, X86_VEC_MF);
}

/*
 * The selectors beside the x87 pointers, which only the 32-bit forms of FXSAVE, XSAVE and FNSTENV
 * show, are kept in bytes of the image that belong to software: FXSAVE64's form has no room.
 */
#define VEC_FX_FCS 416
#define VEC_FX_FDS 418

/* Lets the host turn fx's x87 part into what a CPU would have after loading it: reserved bits,
 * summary bits. */
void vec_x87_normalize(struct soft_cpu *cpu);
/* TOP becomes 0; the registers stay where they are. */
void vec_x87_top_zero(struct soft_cpu *cpu);
/* What every MMX instruction does: TOP 0, all registers valid (SDM1 9.5.1). */
void vec_x87_enter_mmx(struct soft_cpu *cpu);
/* XINUSE: components that are not in their initial state (SDM1 13.6). */
uint64_t vec_in_use(const struct soft_cpu *cpu);
/* FNINIT's state (SDM2 FINIT). */
void vec_x87_init(struct soft_cpu *cpu);

/* The handler that runs a thunk; NULL when the class has none. */
insn_fn *vec_run_handler(enum vec_class class, _Bool reads, _Bool writes);
/* Raises what a thunk's status says; not for THUNK_DONE. */
COLD NORETURN void vec_failed(struct soft_cpu *cpu, unsigned status);
/* The instruction is one of AVX-512: encoded with EVEX, or works on opmask registers. */
_Bool vec_is_avx512(const ZydisDecodedInstruction *zi);
/* ... and has a memory operand of which only some elements count. */
static inline _Bool vec_is_masked(const ZydisDecodedInstruction *zi)
{
	return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
	       zi->avx.mask.reg > ZYDIS_REGISTER_K0 && zi->avx.mask.reg <= ZYDIS_REGISTER_K7;
}
/* vec_evex.c: as if all were chosen by a mask. */
_Bool vec_is_packed(const ZydisDecodedInstruction *zi);
/* For both, and a memory operand, the handler that runs a thunk. */
void vec_masked_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		       struct insn *out, _Bool writes);
/* Each is 0 when the instruction is none of its own. */
_Bool vec_move_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		      struct insn *out);
_Bool vec_mask_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		      struct insn *out);
_Bool vec_vsib_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		      struct insn *out);
_Bool vec_env_decode(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
		     struct insn *out);
_Bool vec_xsave_decode(const ZydisDecodedInstruction *zi, struct insn *out);

/* LDMXCSR's rule: reserved bits are #GP. */
static inline _Bool vec_mxcsr_ok(const struct soft_cpu *cpu, uint32_t v)
{
	return !(v & ~cpu->vec->mxcsr_mask);
}

#endif
