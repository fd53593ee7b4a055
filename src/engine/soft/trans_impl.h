/* trans_impl.h: what the files that make host code of a block share. */
#ifndef ENGINE_SOFT_TRANS_IMPL_H
#define ENGINE_SOFT_TRANS_IMPL_H

#include "engine/soft/trans.h"

/* Where the guest's arithmetic flags are. */
enum tb_flags {
	FLAGS_SAVED, /* soft_cpu.af; the host's are free */
	FLAGS_HOST,  /* the host's flags; af is stale */
	FLAGS_BOTH,
	FLAGS_DEAD, /* nowhere: they are overwritten before anybody looks; only in loops */
};

/* Code out of line, emitted after the block. */
enum late_kind {
	LATE_MISS,   /* the instruction as a whole by its handler, then on; or out, when `ends` */
	LATE_STORED, /* soft_stored, then on */
	LATE_STOP,   /* out, to `next` */
	LATE_LINK,   /* out, to `next`; the branch is linked */
	LATE_CALL,   /* a call from another linear address */
	LATE_CALLED, /* a pushed return address: soft_stored, then on */
	LATE_DEEP,   /* drops all frames, then on */
	LATE_BACK,   /* a return to another linear address */
	LATE_RETURN, /* a return that is not the last frame's */
	LATE_FAR,    /* on if the jump cache has it in its second place; or out, to that address */
	LATE_OUT,    /* out, rip is set */
	LATE_NEAR,   /* an entry of soft_cpu.near is filled; or on without */
	LATE_LIVE,   /* loads `vec`, then on; or out, as refused */
};

/* The x87 instruction pointers that the block's code so far has not stored yet, see trans_x87.c. */
struct tb_x87 {
	_Bool set, mem;
	uint8_t seg; /* of the memory operand */
	uint16_t fop;
	int64_t at; /* the instruction's offset from the page */
};
struct late {
	enum late_kind kind;
	uint8_t *place, *back;
	const struct insn *insn;
	int64_t at, next; /* offsets from the page: of the instruction, of what follows it */
	_Bool reload;	  /* host flags are wanted back */
	_Bool ends;
	_Bool to_hit; /* `next` is the jump cache's entry in jump_hit */
	_Bool simple; /* the written address is `addr`, RAX being the addend */
	struct emit_rm addr;
	uint8_t size;
	uint8_t vec; /* what is live there: enum trans_live */
	/* The lookup that missed (tag in R11, entry in RAX): where it goes on after a hit; or NULL.
	 */
	uint8_t *found;
	_Bool write;
	_Bool jump; /* it was one in the jump cache (target in R11; with `key`, in the entry) */
	_Bool key;
	_Bool stack; /* the entry was soft_cpu.stack, for `size` bytes at RSP + `disp` */
	int32_t disp;
	_Bool state;	    /* all is to be looked up anew, after the handler if there is one */
	struct late *chain; /* others that come back to the same place */
	struct tb_x87 x87;
	/* LATE_NEAR: of those at hand for 16 and 32 bytes */
	uint8_t *place_span, *place_align; /* more jumps that nothing can be filled for; or NULL */
	struct soft_block *block;	   /* the instruction's */
	uint8_t index, slot;		   /* its number there */
	uint8_t maker;			   /* that of the operand that the check was made for */
	_Bool tlb;			   /* not an entry of soft_cpu.near: a TLB entry in RAX */
};
#define TB_LOOP_TAIL 8u /* instructions of a loop that there are twice */
#define TB_LATES     ((SOFT_BLOCK_MAX + TB_LOOP_TAIL) * 6 + 16)

/* What matters of an instruction for sharing checks, known beforehand. */
struct tb_ahead {
	uint16_t changed; /* general registers, by bits; not counting `add` */
	int8_t add_gpr;	  /* -1: none */
	int32_t add;	  /* to that register */
	uint8_t size;	  /* of the operand, 0: none that may be shared */
	_Bool write, align;
	struct insn m; /* the operand's address; RIP's: from the page's start */
};
/* Operands whose check has been made: at offsets [lo, hi) from what the registers are now. */
struct tb_group {
	_Bool on, write;
	uint8_t maker;	     /* the instruction that it was made for */
	uint8_t slot, align; /* an address with offset `aligned` is a multiple of `align`; or 0 */
	_Bool tlb;	     /* the entry is filled from the TLB at each check */
	int64_t lo, hi, aligned;
	struct insn m; /* base, index, scale, segbase */
};
#define TB_GROUPS 8u
_Static_assert(TB_GROUPS == SOFT_NEAR_LOOP, "an entry for each");
struct tb_near {
	struct soft_block *block;
	unsigned index; /* the present instruction's */
	struct tb_ahead ahead[SOFT_BLOCK_MAX];
	unsigned groups;
	struct tb_group group[TB_GROUPS];
};

/* A block that jumps to its own beginning, see trans_loop.c. */
struct tb_loop {
	_Bool off; /* is not one, or is not made one */
	/* What the tries so far found that the way in has to load. */
	_Bool flags;
	uint8_t vec;
	/* This try. */
	_Bool on;
	_Bool again;	/* to be tried once more */
	_Bool broken;	/* cannot be */
	_Bool guarded;	/* the guard is behind */
	_Bool tail;	/* what the guard goes to is emitted */
	_Bool pending;	/* RAX has the number of iterations */
	unsigned guard; /* the instruction before which it is */
	int64_t start;	/* the block's offset from the page */
	/* What an iteration adds to registers, and which change by other means. */
	int64_t moves[16];
	uint16_t varies;
	unsigned groups, slots;
	int gpr;	/* the register that the guard looks at, or -1 */
	int64_t before; /* what has been added to it there */
	const uint8_t *head;
	uint8_t *place; /* the guard's jump */
	/* As they are at the guard. */
	const uint8_t *bytes;
	int64_t at;
	uint8_t guard_vec;
};

struct tb {
	struct soft_cpu *cpu;
	struct soft_trans *t;
	struct emit e;
	struct soft_block *block;
	const struct insn *insn; /* the one at work */
	const uint8_t *bytes;	 /* its bytes */
	int64_t at, next;	 /* its offset from the page, and its successor's */
	uint64_t lin;		 /* of the page, as it was entered now */
	unsigned mnemonic;	 /* ZydisMnemonic of it */
	_Bool alone;		 /* an instruction in two pages */
	_Bool narrow;		 /* 32-bit code: addresses are cut to 32 bits */
	uint8_t word;		 /* bytes of an address and of what is pushed: 8 or 4 */
	enum tb_flags flags;
	uint8_t vec; /* enum trans_live: what is known to be live */
	struct tb_x87 x87;
	_Bool plain;   /* soft_cpu.near is not used */
	unsigned from; /* the first instruction of the block that is translated */
	struct tb_near near;
	struct tb_loop loop;
	unsigned lates;
	struct late late[TB_LATES];
	/* Instructions that handlers in line are given: copies behind the block, by displacements
	 * that are to be filled in. */
	unsigned kepts;
	struct tb_kept {
		uint8_t *place;
		const struct insn *insn;
	} kept[SOFT_BLOCK_MAX + TB_LOOP_TAIL];
	/* Where the host code of each instruction begins; of what follows the last; out of line. */
	const uint8_t *host[SOFT_BLOCK_MAX + 2];
};

/* An instruction on what has the size of an address: registers that hold one keep 32 bits in 32-bit
 * code, the upper half being 0. */
static inline void tb_op(struct tb *tb, uint8_t opcode, int reg, struct emit_rm rm)
{
	emit_modrm(&tb->e,
		   &(struct emit_op){.opcode = opcode, .wide = !tb->narrow, .reg = (uint8_t)reg},
		   rm);
}
static inline void tb_lea(struct tb *tb, int to, struct emit_rm rm)
{
	tb_op(tb, 0x8d, to, rm);
}

/* trans_block.c */
struct late *tb_late(struct tb *tb, enum late_kind kind, uint8_t *place);
void tb_flags_save(struct tb *tb); /* af is right afterwards; uses RAX */
void tb_flags_host(struct tb *tb); /* host flags are right afterwards; uses RAX */
/* Calls the instruction's handler; everything is in the state afterwards. */
void tb_handler(struct tb *tb);
void tb_stub_jmp(struct tb *tb, uint32_t stub);
/* Adds one to a counter of the state; flags are lost. */
void tb_count(struct tb *tb, size_t offset);

/* trans_late.c: what is out of line. */
void tb_late_emit(struct tb *tb, const struct late *l);

/* trans_trace.c: tells whoever wants to know of a block, at cpu->s.rip, that was translated; its
 * host code begins at that offset. */
void trans_trace(const struct tb *tb, const struct soft_block *b, const uint8_t *bytes,
		 size_t begin);
/* Guest and host code side by side. `host` as in struct tb; `at` is where host[0] is executed. */
void trans_show(FILE *f, uint64_t lin, const struct soft_block *b, const uint8_t *bytes,
		const uint8_t *const *host, const uint8_t *end, const uint8_t *at);

/* trans_flow.c */
/* A branch that ends a block. False: by its handler. */
_Bool tb_branch(struct tb *tb, const struct tb_insn *i);
/* To an offset from the page; to the linear address in R11. Everything is saved. */
void tb_exit_to(struct tb *tb, int64_t target);
void tb_exit_r11(struct tb *tb);
/* Out of line, by the kinds of their names. */
void tb_late_call(struct tb *tb, const struct late *l);
void tb_late_called(struct tb *tb, const struct late *l);
void tb_late_deep(struct tb *tb, const struct late *l);
void tb_late_back(struct tb *tb, const struct late *l);
void tb_late_return(struct tb *tb, const struct late *l);
/* trans_late.c: tells of `size` bytes at R11, the page's flags being in RAX; out when code was
 * dropped. */
void tb_late_stored(struct tb *tb, const struct late *l, uint8_t size);

/* trans_mem.c */
/* Can the translator form this operand's address? */
_Bool tb_ea_possible(const struct tb *tb, const struct insn *m);
/* The linear address plus `extra` into RAX or R11 (the other is kept). Flags change when
 * `tb_ea_clobbers`. */
void tb_ea(struct tb *tb, const struct insn *m, int dst, int32_t extra, _Bool segment);
_Bool tb_ea_clobbers(const struct insn *m, _Bool segment);
/*
 * A memory operand. After tb_mem the operand is at the returned host address:
 * simple: base + RAX + disp, R11 is free, or for writes points to the page's flags;
 * else: R11, RAX is free. Misses go to the handler.
 */
struct tb_mem {
	const struct insn *m;
	unsigned size;
	_Bool write, simple;
	_Bool kept;  /* the address is in rmw_lin, for the operand's size */
	_Bool align; /* must be aligned to its size, a power of two; else it misses */
	_Bool bare;  /* a push: the caller looks at the page's flags; R11 stays free */
	/* The caller leaves host flags alone: they need not be saved; what is not written it
	 * accesses once, before any register but the scratch ones changes. */
	_Bool keeps;
	struct late *miss, *misaligned, *closed;
	const struct tb_group *near; /* the access is made with this check; `miss` is NULL */
	struct emit_rm rm;
};
void tb_mem(struct tb *tb, struct tb_mem *mem);
/* The page's flags of a `bare` operand into a register. */
void tb_mem_flags(struct tb *tb, const struct tb_mem *mem, int to);
_Bool tb_mem_simple(const struct tb *tb, const struct insn *m);
/* The handler, where it takes over, ends the block. */
void tb_mem_ends(struct tb_mem *mem);
/* Out of line: the second place to look, before the miss is one, by the stub that is given back,
 * which comes back with ZF when it was there, else when the handler was called. */
uint32_t tb_mem_again(struct tb *tb, const struct late *l);
/* The same of an entry of the TLB in line, on when it is not there. */
void tb_mem_victim(struct tb *tb, const struct late *l);
/* After a write, all registers but the scratch ones being as after the instruction: looks at the
 * page's flags. `moved`: how much the base register has grown since. Flags are saved, then lost. */
struct late *tb_mem_written(struct tb *tb, struct tb_mem *mem, int32_t moved);
/* The instruction is complete: where its out-of-line code comes back to. */
void tb_mem_end(struct tb *tb, struct tb_mem *mem);

/* trans_near.c */
/* Before a block, whose bytes are given: looks what operands can share checks, and whether it is a
 * loop. */
void tb_near_look(struct tb *tb, struct soft_block *b, const uint8_t *bytes);
/* Then: makes the checks that can be made now. */
void tb_near_begin(struct tb *tb);
/* After its next instruction. */
void tb_near_after(struct tb *tb);
/* What has been checked does not count any more. */
void tb_near_end(struct tb *tb);
/* The general registers that an instruction may write, by bits: no fewer than it does. */
unsigned tb_gprs_written(const struct tb_insn *i);
/* An operand. False: to be looked for in the TLB. */
_Bool tb_near_mem(struct tb *tb, struct tb_mem *mem);
/* Its page's flags into a register. */
void tb_near_flags(struct tb *tb, const struct tb_mem *mem, int to);
/* trans_near_fill.c: out of line. */
void tb_near_late(struct tb *tb, const struct late *l);
/* Field `f` of an entry. */
#define TB_NEAR(slot, f)                                                                           \
	trans_at(offsetof(struct soft_cpu, near) + (slot) * sizeof(struct soft_near) +             \
		 offsetof(struct soft_near, f))

/* trans_loop.c */
/* Looking ahead: instruction `k` of the block, decoded as `i` (or NULL), at an offset from the
 * page; `last` of the block. */
void tb_loop_look(struct tb *tb, unsigned k, const struct tb_insn *i, int64_t at, _Bool last);
/* How far an operand's address moves in an iteration; 0 also when it is not known. */
int64_t tb_loop_moves(const struct tb *tb, const struct insn *m);
_Bool tb_loop_varies(const struct tb *tb, const struct insn *m);
/* Before a check: RAX is free then. */
void tb_loop_spill(struct tb *tb);
/* After the check of operands that move: their offset from the page is in R11. */
void tb_loop_room(struct tb *tb, const struct tb_group *g, int64_t by);
/* What each iteration begins with. */
void tb_loop_head(struct tb *tb);
/* Before the instruction of that number. */
void tb_loop_guard(struct tb *tb, unsigned k);
/* The branch that ends the block, with host flags at hand. False: an ordinary one. */
_Bool tb_loop_branch(struct tb *tb, unsigned cc, int64_t target);
/* Before the last instruction. */
void tb_loop_end(struct tb *tb);
/* After the block: before the instructions from the guard on are emitted again. */
void tb_loop_tail(struct tb *tb);
/* Somebody wants flags that are dead. */
void tb_loop_flags(struct tb *tb);
/* The block was emitted. True: it is to be emitted anew, otherwise. */
_Bool tb_loop_again(struct tb *tb);

/* What an instruction does with the arithmetic flags. */
enum flag_use {
	USE_NONE,
	USE_IN,	  /* reads some, changes none */
	USE_OUT,  /* sets all, whatever they were */
	USE_INOUT /* reads some, or leaves or may leave some as they were */
};
/* trans_insn.c: that of an integer instruction; -1: not known. */
int tb_flag_use(const ZydisDecodedInstruction *zi);

/* trans_byte.c: with an operand AH, CH, DH or BH; `use`: enum flag_use. As tb_insn. */
_Bool tb_high(struct tb *tb, const struct tb_insn *i, int use);

/* trans_sys.c: as tb_insn; and instructions that end a block, which then goes on to its successor.
 */
_Bool tb_sys(struct tb *tb, const struct tb_insn *i);
_Bool tb_sys_last(struct tb *tb, const struct tb_insn *i);

/* What follows is for ring 0: the handler's elsewhere. The flags are saved. */
struct late *tb_ring0_check(struct tb *tb);

/* trans_rare.c: as tb_insn; as tb_sys_last; LOOP and JrCXZ up to their branch: the condition of the
 * host's flags under which it is taken, or -1. Guest flags are saved. */
_Bool tb_rare(struct tb *tb, const struct tb_insn *i);
_Bool tb_rare_last(struct tb *tb, const struct tb_insn *i);
int tb_counted(struct tb *tb, const struct tb_insn *i);

/* trans_wide.c: division, bit strings, CMPXCHG16B. As tb_insn. */
_Bool tb_wide(struct tb *tb, const struct tb_insn *i);

/* trans_vec.c: vector and x87 instructions, and integer ones of their encodings. As tb_insn. */
_Bool tb_vec(struct tb *tb, const struct tb_insn *i);
/* From here on `need` is live, or the block has been left. */
void tb_live(struct tb *tb, unsigned need);
/* Out of line: makes `need` live and jumps to what the caller puts at the place given back; what
 * follows is for when it cannot be. */
uint8_t *tb_live_again(struct tb *tb, unsigned need);
void tb_stub_call(struct tb *tb, uint32_t stub);

/* trans_str.c: a repeated string instruction; the block then goes on to its successor. */
_Bool tb_string(struct tb *tb, const struct tb_insn *i);

/* trans_x87.c */
_Bool tb_x87(struct tb *tb, const struct tb_insn *i);
/* Stores the pointers; uses RAX, leaves flags. */
void tb_x87_pointers(struct tb *tb, const struct tb_x87 *p);

/* trans_insn.c: straight instructions. False: none that it knows; nothing was emitted. */
_Bool tb_insn(struct tb *tb, const struct tb_insn *i);

#endif
