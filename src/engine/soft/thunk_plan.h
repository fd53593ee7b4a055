/* thunk_plan.h: what a thunk must load, execute and store; between thunk.c and its two halves. */
#ifndef ENGINE_SOFT_THUNK_PLAN_H
#define ENGINE_SOFT_THUNK_PLAN_H

#include <Zydis/Zydis.h>
#include "base/util.h"

#define THUNK_MAX_INSN 18   /* a VEX prefix may grow by a byte, 66 may be added */
#define THUNK_MAX_CODE 1024 /* no thunk is longer */

/* Equal plans have equal code: the struct is the cache's key, so it has no padding. */
struct thunk_plan {
	uint8_t bytes[THUNK_MAX_INSN]; /* the instruction to execute */
	uint8_t length;
	uint8_t state_reg; /* host register that points to the state; r8 to r11 */
	uint8_t mem_reg;   /* ... to the memory operand; 0xff: none */
	uint8_t rsp_alias; /* host register that stands for the guest's RSP; 0xff: unused */
	uint16_t gpr_used, gpr_written; /* by guest number */
	uint8_t k_used, k_written;	/* opmask registers */
	uint32_t vec_used, vec_written;
	uint8_t vex;   /* 256-bit loads and stores */
	uint8_t evex;  /* 512-bit ones */
	uint8_t wide;  /* registers are stored with the 512 bits that VEX clears */
	uint8_t x87;   /* needs the x87 state */
	uint8_t mxcsr; /* depends on MXCSR or changes it */
	uint8_t flags_in, flags_out;
	uint8_t pad;
};
_Static_assert(sizeof(struct thunk_plan) == 44, "no hidden padding");

/* VEX.W chooses a 64-bit general register; it is ignored outside 64-bit mode. */
_Bool thunk_plan_w_is_gpr(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops);
/* `zmm`: the guest has AVX-512. */
_Bool thunk_plan_make(struct thunk_plan *plan, const ZydisDecodedInstruction *insn,
		      const ZydisDecodedOperand *ops, const uint8_t *bytes, _Bool zmm);

/* Where things are in emitted code, from its start. */
struct thunk_code {
	uint32_t size;
	uint32_t insn;	/* the guest's instruction */
	uint32_t fault; /* where a fault continues, with the status in EAX */
};
/* `code` has room for THUNK_MAX_CODE bytes; `at` is the address it will run at, `host_mxcsr` that
 * of a 32-bit constant within 2 GiB of it. */
void thunk_emit(const struct thunk_plan *plan, uint8_t *code, uint64_t at, uint64_t host_mxcsr,
		struct thunk_code *out);

#endif
