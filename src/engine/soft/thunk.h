/* thunk.h: one guest instruction, executed by the host's own CPU between a load and a store. */
#ifndef ENGINE_SOFT_THUNK_H
#define ENGINE_SOFT_THUNK_H

#include <Zydis/Zydis.h>
#include "base/error.h"
#include "x86/state.h"

/*
 * x87, MMX, SSE, AVX and the bit-manipulation instructions need no arithmetic of ours: a thunk
 * loads the registers that the instruction names from a struct soft_cpu, executes the very
 * instruction (same opcode bytes, its memory operand replaced by a buffer), and stores back what it
 * wrote. Results, undefined flags included, are those of the host's CPU.
 *
 * The caller does everything else: #UD and #NM checks, addresses, alignment checks, faults.
 */
enum thunk_status {
	THUNK_DONE,
	THUNK_XM, /* unmasked SIMD exception; MXCSR has its flags, nothing else changed */
	THUNK_MF, /* an x87 exception was pending; nothing changed */
	THUNK_UD, /* the host's CPU refuses the instruction; nothing changed */
	THUNK_GP, /* its operand is not aligned; nothing changed */
	THUNK_PF, /* it touched a guard page; nothing changed */
};

struct soft_cpu;
struct thunk_cache;
/* `mem` is where the operand is, aligned as the instruction asks; NULL when there is none. It is
 * read and written exactly as the instruction does. */
typedef unsigned thunk_fn(struct soft_cpu *cpu, void *mem);

/*
 * Two pages side by side, for operands of which the CPU itself is to say what it touches: a thunk
 * that touches one that is not open comes back with THUNK_PF, and thunk_guard_hit says where.
 */
#define THUNK_GUARD_PAGES 2u
uint8_t *thunk_guard(struct thunk_cache *cache);
void thunk_guard_open(struct thunk_cache *cache, unsigned page, _Bool open);
/* The offset from thunk_guard of what the last THUNK_PF was about. */
unsigned thunk_guard_hit(const struct thunk_cache *cache);

/* What vec_decode learns about a thunk besides its code. */
struct thunk {
	thunk_fn *fn;
	const uint8_t *at; /* where in it the instruction is: what the CPU leaves in FIP */
};

/*
 * A bounded cache of thunks, one mapping to write and another to execute; equal instructions share
 * one. It belongs to one thread (a vCPU's); nothing is locked. A thunk stays until the cache is
 * emptied.
 */
#define THUNK_CACHE_BYTES (2u << 20)
NODISCARD int thunk_cache_new(struct thunk_cache **cache, size_t bytes, struct error *err);
void thunk_cache_free(struct thunk_cache *cache);
/* Before the first thunk: the guest has AVX-512. -ENOMEM. */
NODISCARD int thunk_cache_avx512(struct thunk_cache *cache);
void thunk_cache_empty(struct thunk_cache *cache);

/* The calling thread will run this cache's thunks (NULL: none any more). Exceptions inside them
 * then come back as a status. Installs the process's SIGFPE, SIGILL and SIGSEGV handlers on first
 * use; signals from elsewhere go to the handlers that were there before. */
void thunk_cache_attach(struct thunk_cache *cache);

/*
 * The thunk of a decoded instruction. `ops`: all operands, hidden ones too. -EINVAL when it cannot
 * be executed this way (no such form; AVX-512 that the host's CPU refuses), -ENOSPC when the cache
 * is full. Instructions whose memory access is not one plain operand (gathers, masked moves, state
 * saving) are the caller's.
 */
NODISCARD int thunk_get(struct thunk_cache *cache, const ZydisDecodedInstruction *insn,
			const ZydisDecodedOperand *ops, const uint8_t *bytes, struct thunk *out);

#endif
