/* trans.h: the translator: hot blocks of 64-bit and flat 32-bit code as host code.
 * docs/translator.md is the design.
 */
#ifndef ENGINE_SOFT_TRANS_H
#define ENGINE_SOFT_TRANS_H

#include "engine/soft/core.h"
#include "engine/soft/trans_emit.h"

/* Host code of one vCPU: one memfd, mapped once to write and once to execute. Only the vCPU's own
 * thread writes and runs it. Emptied whole, together with the decode cache. A quarter of the
 * guest's RAM for all vCPUs together, between these bounds for each; host memory is taken as it is
 * filled. */
#define TRANS_CODE_LEAST (48u << 20)
#define TRANS_CODE_MOST	 (256u << 20)
#define TRANS_HOT	 16u   /* the default of `hot` */
#define TRANS_FRAMES	 1024u /* calls whose returns are known beforehand, see trans_flow.c */
struct soft_trans {
	uint8_t *rw, *rx;
	size_t size, used; /* bytes */
	unsigned hot;	   /* a block is translated at this execution */
	size_t fixed;	   /* what the stubs take */
	/* Stubs: offsets from the start. */
	uint32_t enter, handler, handler_state, stored, exit_rip, exit_off, exit_state, cold,
	    exit_refused, exit_refused_rip, no_frame, stack, near[2], exit_near, vec_save, vec_load,
	    zmm_load, x87_load, str_stored, string[2][2][4];
	/* For code out of line, see trans_late.c. */
	uint32_t missed, missed_tlb[2], missed_stack[2][7], stored_at, link_at, stop_at;
	uint32_t far_again, missed_jump;
	unsigned near_next; /* the entry of soft_cpu.near that is given to host code next */
	_Bool avx, avx512;  /* the guest has them, and so has the host */
};

/* Results of host code. REFUSED: the block at rip needs vector registers that cannot be live now;
 * the interpreter has it. */
enum trans_exit { TRANS_LOOKUP, TRANS_STATE, TRANS_REFUSED, TRANS_NEAR };

/*
 * What of the guest's vector state is in the host's registers: soft_cpu.vec_live. Host code loads
 * it where a block first needs it, and stores it before anything of C runs. What is set here
 * has been checked: the instructions of its classes are neither #UD nor #NM, and no exception of
 * theirs is unmasked. Nothing but C functions can change that.
 */
enum trans_live {
	LIVE_SSE = 1, /* MXCSR and the first 16 vectors, as long as the guest has them */
	LIVE_AVX = 2, /* AVX may be used; with LIVE_SSE */
	LIVE_X87 = 4, /* x87 and MMX; with LIVE_SSE */
	LIVE_512 = 8, /* all 32, opmasks, and AVX-512 may be used; with LIVE_SSE and LIVE_AVX */
};

/* Code that can be translated: 64-bit, or 32-bit with flat segments and a 32-bit stack. */
static inline _Bool trans_mode(uint32_t mode)
{
	const uint32_t flat = SOFT_MODE_32 | SOFT_MODE_FLAT | SOFT_MODE_SS32;

	return (mode & SOFT_MODE_64) ||
	       (mode & (SOFT_MODE_SIZE | SOFT_MODE_FLAT | SOFT_MODE_SS32 | SOFT_MODE_REAL)) == flat;
}

int trans_init(struct soft_cpu *cpu);
/* Bytes of host code for each of so many CPUs of a guest with so much RAM. */
size_t trans_code_size(uint64_t ram, unsigned cpus);
void trans_fini(struct soft_cpu *cpu);
/* Everything translated is forgotten; only between blocks. */
void trans_empty(struct soft_cpu *cpu);
/* Executes blocks as blocks_run of run.c does, translating those that are hot. In a
 * trans_mode only. */
void trans_run(struct soft_cpu *cpu);
/* The steps of that, for lock-step. Host code of b, translated now when it has become hot; NULL:
 * interpreted. */
const uint8_t *trans_code(struct soft_cpu *cpu, struct soft_block *b);
/* Empties code memory when it is nearly full: then blocks are to be looked up anew. */
_Bool trans_room(struct soft_cpu *cpu);
/* Executes the block at rip. */
enum trans_exit trans_enter(struct soft_cpu *cpu, const uint8_t *code);
/* What stands behind a branch that is not linked: where it is in code memory; the offset that it
 * goes to; the number of its block. */
#define TRANS_LINK_PLACE 32
#define TRANS_LINK_AT	 12
/* That branch, soft_cpu.trans_link as host code was left, goes straight to `to` from now on, when
 * that is in the same page of memory: then both are dropped together. */
void trans_link(struct soft_cpu *cpu, uint64_t site, const struct soft_block *to);
/* By host code: executes an instruction with INSN_STATE; RIP is set afterwards. code_stop: the loop
 * of run.c has something to look at before the next instruction. True: the key has changed, so the
 * frames (trans_flow.c) go. */
_Bool trans_state(struct soft_cpu *cpu, const struct insn *insn);
/* Where jumps go that the jump cache knows but that are not translated. */
const uint8_t *trans_cold(const struct soft_trans *t);

/* trans_stub.c */
void trans_stubs(const struct soft_cpu *cpu, struct soft_trans *t, struct emit *e);
/* trans_live.c: the stubs vec_save, vec_load and x87_load. */
void trans_stubs_live(struct soft_trans *t, struct emit *e);
/* trans_str.c: the stubs string[32-bit code][movs, not stos][log2 of an element's size]. */
void trans_stubs_string(struct soft_trans *t, struct emit *e);
/* trans_mem.c: the stub stack. */
void trans_stub_stack(struct emit *e);
/* trans_late.c: the stubs missed, missed_..., stored_at, link_at, stop_at and far_again. */
void trans_stubs_late(struct soft_trans *t, struct emit *e);
/* trans_stub.c: all guest registers to and from the state. */
void trans_regs_spill(struct emit *e);
void trans_regs_fill(struct emit *e);
/* Calls vec_save when anything is live. */
void trans_live_end(const struct soft_trans *t, struct emit *e);

/* After so many wandering fills of soft_cpu.near the clock is looked at. */
#define TRANS_NEAR_FILLS 128u
/* ... and when they took less than this (of the TSC) the check under way is given up: what a fill
 * costs is about half of a hundred ticks. Where helpers have what computes (direct.h), more: what
 * is left are the short stretches between system calls and faults, which go through many pages, and
 * come back to few. */
#define TRANS_NEAR_TICKS	(TRANS_NEAR_FILLS * 100u)
#define TRANS_NEAR_TICKS_DIRECT (TRANS_NEAR_FILLS * 400u)
/* trans_near_fill.c: the stubs near[write]. */
void trans_stub_near(const struct soft_cpu *cpu, struct emit *e, _Bool write);
/* After TRANS_NEAR, at rip: the code that does not use soft_cpu.near, or NULL. */
const uint8_t *trans_near_missed(struct soft_cpu *cpu);

/* trans_block.c: host code of a block (executable address), or NULL: no room, or memory is not
 * what was decoded any more.  */
const uint8_t *trans_block(struct soft_cpu *cpu, struct soft_block *b);
/* The same from its instruction number `from` on, at rip; `plain`: without soft_cpu.near. */
const uint8_t *trans_block_from(struct soft_cpu *cpu, struct soft_block *b, unsigned from,
				_Bool plain);

/* trans_trace.c: the stubs' line in the map for perf. */
void trans_trace_init(const struct soft_cpu *cpu);

/* How the host's registers hold the guest's: the state pointer is R15, biased so that what is used
 * most has a short displacement; RAX and R11 are scratch; the guest's RAX is in R10, its RSP in
 * R14, R10, R11, R14 and R15 stay in memory; all others are in the register of their name. */
#define TRANS_BIAS 128
#define T_STATE	   H_R15
#define T_GRAX	   H_R10
#define T_GRSP	   H_R14
static inline int trans_host(unsigned gpr)
{
	switch (gpr) {
	case X86_RAX: return T_GRAX;
	case X86_RSP: return T_GRSP;
	case X86_R10:
	case X86_R11:
	case X86_R14:
	case X86_R15: return H_NONE;
	default: return (int)gpr;
	}
}
static inline struct emit_rm trans_at(size_t offset)
{
	return rm_mem(T_STATE, H_NONE, 0, (int32_t)offset - TRANS_BIAS);
}
#define T_FIELD(f) trans_at(offsetof(struct soft_cpu, f))
static inline struct emit_rm trans_gpr(unsigned gpr)
{
	return trans_at(offsetof(struct soft_cpu, s.gpr) + gpr * 8);
}
/* Arithmetic flags between the host and soft_cpu.af; both use RAX. */
void trans_flags_load(struct emit *e);
void trans_flags_save(struct emit *e);

/* RAX: from a linear address the TLB's entry for it. Flags are lost. */
void trans_tlb_entry(struct emit *e);

/* Bytes of the look at events that every block starts with; whoever comes from C skips it. */
#define TRANS_POLL_BYTES 14u

#endif
