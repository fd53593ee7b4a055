/* lockstep_impl.h: what lock-step and its report share. */
#ifndef ENGINE_SOFT_LOCKSTEP_IMPL_H
#define ENGINE_SOFT_LOCKSTEP_IMPL_H

#include "engine/soft/lockstep.h"

/* Everything of a CPU that instructions change, but for vector registers: the start of struct
 * soft_cpu. */
#define LS_STATE_BYTES offsetof(struct soft_cpu, s.fpu)
struct ls_state {
	alignas(64) uint8_t bytes[LS_STATE_BYTES];
	struct soft_event exc, delivering;
	uint64_t debug_hits;
};
/* How a pass ended. */
struct ls_end {
	enum soft_jmp why; /* JMP_NONE: the block's end */
	_Bool state;	   /* everything is to be looked up anew */
};

/* A store: a place in RAM by page index, as in soft_ram.flags. */
struct ls_range {
	uint64_t at; /* page index * 4096 + offset */
	uint32_t len;
	uint32_t data; /* where in `bytes` */
};
#define LS_RANGES 8192
#define LS_BYTES  (1u << 20)
struct ls_log {
	unsigned count;
	uint32_t used;
	_Bool full;
	struct ls_range range[LS_RANGES];
	uint8_t bytes[LS_BYTES];
};
#define LS_IOS 4096

enum ls_mode {
	LS_DIRECT, /* not compared: memory's copy follows */
	LS_HOST,   /* host code; what it asks of the world is done */
	LS_AGAIN,  /* one of the two once more: answers come from the list */
};

struct soft_lockstep {
	enum ls_mode mode;
	_Bool fresh; /* the copy is a copy */
	uint8_t *copy;
	uint64_t copy_bytes;
	uint64_t blocks, repeated;
	unsigned left;		      /* blocks until a kick; 0: none comes */
	unsigned block_bytes;	      /* of the block under way */
	struct ls_state before, host; /* before the block, and after host code's pass */
	struct x86_fpu fpu_before, fpu_host;
	struct ls_end host_end;
	/* Of the interpreter's pass after one block, for the report: all of it may be longer. */
	struct ls_state interp;
	struct x86_fpu fpu_interp;
	struct ls_end interp_end;
	unsigned interp_stores;
	_Bool interp_asked;   /* the same as host code did */
	struct ls_log log[2]; /* of host code, of the interpreter */
	struct ls_log *now;
	struct soft_io io[LS_IOS];
	unsigned ios, io_at;
	_Bool io_differs;
	/* A branch that host code left for want of a target, where it went. */
	uint64_t site;
	uint64_t site_rip, site_emptied;
};

/* lockstep_report.c: guest code, host code and both states, to cfg.trace.blocks or stderr. */
void lockstep_report(struct soft_cpu *cpu);
/* Where a place of RAM is. */
uint8_t *lockstep_ram(struct soft_cpu *cpu, uint64_t at, uint64_t *phys);
static inline const struct soft_cpu *ls_cpu(const struct ls_state *s)
{
	return (const struct soft_cpu *)(const void *)s->bytes; /* only what is before s.fpu */
}
_Bool ls_fpu_equal(const struct x86_fpu *a, const struct x86_fpu *b);

#endif
