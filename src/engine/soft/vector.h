/* vector.h: what the core asks of the vector part: x87, MMX, SSE, AVX and rare integer
 * instructions by executing them on the host (vec_*.c). */
#ifndef ENGINE_SOFT_VECTOR_H
#define ENGINE_SOFT_VECTOR_H

#include <Zydis/Zydis.h>
#include "engine/soft/cpu.h"

/*
 * Called for instructions that neither the integer nor the system part knows: x87, MMX, SSE, AVX,
 * AES, SHA, FXSAVE and XSAVE families, LDMXCSR ..., EMMS, FWAIT, and the BMI1, BMI2, ADX, CRC32,
 * MOVBE instructions. Called on the thread that will execute (it attaches it to the SIGFPE
 * handler). `bytes` are the zi->length raw bytes; `out` is as sys_decode gets it. The
 * function sets fn, flags, and may use imm and aux freely. False: the instruction is #UD.
 */
_Bool vec_decode(struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
		 const ZydisDecodedOperand *ops, const uint8_t *bytes, struct insn *out);

/* cpu->vec: made and freed with the vCPU. 0 or a negative errno. */
NODISCARD int vec_init(struct soft_cpu *cpu);
void vec_fini(struct soft_cpu *cpu);
/* Can the host's CPU have a state's MXCSR? A bit that it does not know would fault in host code. */
_Bool vec_state_ok(const struct soft_cpu *cpu, const struct x86_state *s);
/* The decode cache was emptied: whatever vec_decode made for it (host code) may go. */
void vec_flush(struct soft_cpu *cpu);
/* The core's part of it (cache.c): empties the decode cache and calls vec_flush. Legal in a handler
 * that ends with soft_restart. */
void soft_cache_flush(struct soft_cpu *cpu);

#endif
