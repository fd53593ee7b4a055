/* core.h: what the files of the interpreter's core share: MMU, decode cache, engine. */
#ifndef ENGINE_SOFT_CORE_H
#define ENGINE_SOFT_CORE_H

#include <Zydis/Zydis.h>
#include "engine/soft/cpu.h"
#include "engine/soft/shape.h"

/* The MMU (mmu.c) */

#define SOFT_ITLB_SIZE 256
struct soft_itlb_entry {
	uint64_t tag;	/* as in the TLB */
	uint64_t phys;	/* guest-physical page address */
	uint8_t *host;	/* NULL: not RAM or ROM */
	uint8_t *flags; /* soft_page flags of the page */
};
struct soft_mmu {
	struct soft_tlb tlb[SOFT_TLBS];
	struct soft_itlb_entry itlb[2][SOFT_ITLB_SIZE]; /* kernel, user */
	uint16_t asid_of[4096];				/* by PCID; 0: none yet */
	unsigned next_asid;
	uint16_t
	    kernel_asid; /* of SOFT_TLB_KERNEL and the kernel's code, under CR4.SMAP; 0: none */
	/* Pages under it that are not global, bit 0: code; one more than fit: many. Linux has page
	 * tables and per-CPU data in such pages, a dozen between two changes of address space. */
	unsigned locals;
	uint64_t local[64];
	uint64_t control;  /* the control bits that the TLBs were filled under */
	uint64_t reserved; /* bits that no entry may have under them (soft_mmu_reserved) */
	/* Which 2 MiB and 1 GiB regions may have been entered from a large page: INVLPG in such a
	 * region has to drop all of its pieces. Hashed, so it may say yes too often: some hundred
	 * regions that Linux maps all memory in are not to make many of the others look so. */
	uint64_t large_2m[1024], large_1g[16];
	uint64_t apic_page; /* page of the xAPIC registers, or UINT64_MAX */
	uint8_t *alias;	    /* two pages of address space for locked accesses across pages */
	uint64_t alias_page[2];
};

enum soft_access { SOFT_READ, SOFT_WRITE, SOFT_EXEC };

/* After a change of the TLB in use or of the CPL. */
void soft_asid_select(struct soft_cpu *cpu);
int soft_mmu_init(struct soft_cpu *cpu);
void soft_mmu_fini(struct soft_cpu *cpu);
/* The TLB entry for lin under `kind`, filled; NULL when it is not RAM (writes: not writable RAM),
 * with the physical address in *phys. Raises faults. */
struct soft_tlb_entry *soft_mmu_get(struct soft_cpu *cpu, enum soft_tlb_kind kind, unsigned seg,
				    uint64_t lin, enum soft_access access, uint64_t *phys);
struct soft_itlb_entry *soft_mmu_fetch(struct soft_cpu *cpu, uint64_t lin);
/* What the guest's tables say of a page now, without side effects; 4-level paging only. False: it
 * is not there. */
struct soft_view {
	uint64_t phys; /* of the 4 KiB page */
	_Bool user, writable, nx, accessed, dirty;
	unsigned shift;
};
_Bool soft_mmu_peek(struct soft_cpu *cpu, uint64_t lin, struct soft_view *out);
/* The soft TLBs have nothing of the page any more: the next access walks the tables, and sets A and
 * D. Less than a flush: who is right as long as nothing was flushed stays as he is. */
void soft_mmu_drop_page(struct soft_cpu *cpu, uint64_t lin);
/* Bits of a PAE or 4-level entry `e` for 1 << shift bytes that must be 0 (SDM3 tables 4-8 to 4-20).
 */
uint64_t soft_mmu_reserved(const struct soft_cpu *cpu, uint64_t e, unsigned shift);
/* Translations of a page of 1 << shift bytes at lin are kept outside of the TLBs, too: INVLPG must
 * find all of it. */
void soft_mmu_large(struct soft_cpu *cpu, uint64_t lin, unsigned shift);
/* After a change of control bits that translations depend on: drops them. */
void soft_mmu_control(struct soft_cpu *cpu);
/* The TLB for explicit accesses at the present privilege, when none is disabled. */
enum soft_tlb_kind soft_mmu_kind(const struct soft_cpu *cpu);

/*
 * A debugger's wishes (debug.c); all but the first only while cpu->debug is set. before: is there a
 * breakpoint at rip, else the instruction counts as begun. after: was a step completed or a
 * watchpoint hit. within: must the code in the `bytes` from rip on be executed singly.
 */
int soft_debug_set(struct vcpu *vcpu, const struct engine_debug *wish);
_Bool soft_debug_before(struct soft_cpu *cpu);
_Bool soft_debug_after(struct soft_cpu *cpu);
_Bool soft_debug_within(const struct soft_cpu *cpu, unsigned bytes);
_Bool soft_debug_watches(const struct soft_cpu *cpu);
uint32_t soft_debug_events(const struct soft_cpu *cpu, uint32_t events);
void soft_debug_access(struct soft_cpu *cpu, uint64_t lin, unsigned len, _Bool write);

/* Guest-physical memory as the engine sees it (ram.c) */

struct soft_slot {
	uint64_t base, size;
	uint8_t *host;
	uint64_t fd_offset;
	uint64_t first_page; /* index into flags and chunks */
	_Bool readonly;	     /* may change: soft_slot_readonly */
};
static inline _Bool soft_slot_readonly(const struct soft_slot *slot)
{
	return __atomic_load_n(&slot->readonly, __ATOMIC_ACQUIRE);
}
struct soft_ram {
	struct soft_slot slot[GMEM_MAX_SLOTS];
	unsigned slots;
	uint64_t pages;
	int fd;
	uint8_t *flags;	 /* enum soft_page, by page index */
	uint8_t *direct; /* may be written by a helper (direct.h); guarded by code_lock */
	uint8_t *coders; /* whose caches may hold code of it, a bit each; likewise guarded */
	_Atomic uint64_t *chunks; /* decoded bytes, one bit per 64 bytes, by page index */
};
const struct soft_slot *soft_ram_slot(const struct soft_ram *ram, uint64_t phys);
const struct soft_slot *soft_ram_slot_of_flags(const struct soft_ram *ram, const uint8_t *flags,
					       uint64_t *phys);
static inline uint8_t *soft_ram_flags(const struct soft_ram *ram, const struct soft_slot *slot,
				      uint64_t phys)
{
	return ram->flags + slot->first_page + ((phys - slot->base) >> 12);
}

/* The decode cache (cache.c, block.c) */

#define SOFT_BLOCK_MAX	 48u	    /* instructions */
#define SOFT_BLOCKS	 (1u << 18) /* host code names them with 18 bits */
#define SOFT_CODE_PAGES	 32768u
#define SOFT_POOL_BYTES	 (2u << 20)  /* with the translator, for what is not hot: at first */
#define SOFT_POOL_MOST	 (16u << 20) /* ... and at most */
#define SOFT_POOL_INTERP (32u << 20) /* without */
#define SOFT_POOL_PARTS	 16u	     /* at first */
#define SOFT_PARTS_MOST	 (SOFT_POOL_MOST / SOFT_POOL_BYTES * SOFT_POOL_PARTS)
#define SOFT_BLOCK_HASH	 65536u /* at first; then as many as there may be blocks */
#define SOFT_GHOSTS	 65536u
#define SOFT_PAGE_HASH	 8192u
#define SOFT_JUMP_SIZE	 32768u
#define SOFT_JUMP_MORE	 8192u /* for what shares its place in the former */
#define SOFT_CROSS_SIZE	 256u
#define SOFT_PENDING_MAX 256u

#define BLOCK_ALONE 0x8000 /* belongs to no page: never linked to */
#define BLOCK_FREE  0x4000 /* dropped; it stays as it is until the next one is made */
/* Blocks name each other by their numbers in soft_cache.blocks; 0: none. */
struct soft_block {
	uint64_t phys;	      /* BLOCK_ALONE: the offset in the page */
	struct insn *insn;    /* NULL: soft_block_ready decodes them again */
	const uint8_t *code;  /* translated, or NULL; right before it are the guest's bytes */
	const uint8_t *plain; /* likewise, without soft_cpu.near */
	uint64_t apart; /* instructions, by bits, whose operands share no check; set with `code` */
	uint32_t hash_next, page_next;
	uint32_t link[2];    /* successors within the page */
	uint16_t bytes;	     /* of code */
	uint16_t flags;	     /* insn_flags of the last one; BLOCK_ALONE, BLOCK_FREE */
	uint16_t heat;	     /* executions so far, for the translator */
	uint8_t mode, count; /* count: of instructions */
};
_Static_assert(sizeof(struct soft_block) == 64, "a cache line");
struct soft_code_page {
	uint64_t phys;
	uint32_t next, blocks;
};
/* Instructions of a block in the pool: the latest ones that were decoded. */
struct soft_decoded {
	uint32_t block, count;
	struct insn insn[];
};
struct soft_jump {
	uint64_t lin, key;
	struct soft_block
	    *block; /* NULL: to be looked up; `code` looks for itself whether it is valid */
	const uint8_t *code; /* what translated code jumps to */
};
/* An instruction that lies in two pages: valid when the bytes are still these. Translated code of
 * it outlives its place here, and has a copy of the instruction. */
struct soft_cross {
	uint64_t lin;
	uint32_t mode;
	uint8_t bytes[16];
	struct soft_block *block; /* or NULL */
	struct insn insn;
};
struct soft_cache {
	struct soft_block *blocks;
	uint32_t blocks_used, blocks_free; /* the first never used; a list by hash_next */
	uint32_t pages_used;
	uint8_t *pool;
	size_t part_bytes, part_used[SOFT_PARTS_MOST];
	unsigned part, part_next; /* being filled; to be emptied next, then filled */
	unsigned parts, parts_due, parts_most;
	/* Samples of blocks that went when parts were emptied, by a hash: in this turn and the one
	 * before; how many were decoded in this turn, and how many of these were among them. */
	uint64_t ghosts[2][SOFT_GHOSTS / 64];
	unsigned decoded, returned;
	uint64_t jump_key, jump_gen;
	/* Linear pages that the table may have blocks of, by a hash; and such pages of an address
	 * space. */
	uint64_t jump_pages[1024], jump_spaces[8192];
	uint64_t jump_paid; /* lookups that page_forget has made use of */
	uint32_t *hash;	    /* memory for SOFT_BLOCKS */
	unsigned hash_bits;
	uint32_t pages[SOFT_PAGE_HASH];
	struct soft_code_page page[SOFT_CODE_PAGES];
	struct soft_jump jump[SOFT_JUMP_SIZE];
	struct soft_jump more[SOFT_JUMP_MORE]; /* right behind it: what was there before */
	struct soft_cross cross[SOFT_CROSS_SIZE];
	struct soft_block *current; /* being executed, or NULL */
	uint64_t emptied;	    /* how often anything was, so that blocks went */
	ZydisDecoder decoder[5];
	struct soft_shape shape[SOFT_SHAPES];
	/* Pages that others changed; guarded by engine->code_lock. */
	uint64_t pending[SOFT_PENDING_MAX];
	unsigned pending_count;
	_Bool pending_all;
	_Bool pending_tlb; /* every translation, too */
};
static ALWAYS_INLINE struct soft_jump *soft_cache_jump(struct soft_cache *c, uint64_t lin)
{
	return &c->jump[(lin ^ lin >> 12) % SOFT_JUMP_SIZE];
}
static inline struct soft_block *soft_block_of(const struct soft_cache *c, uint32_t number)
{
	return &c->blocks[number];
}
static inline uint32_t soft_block_number(const struct soft_cache *c, const struct soft_block *b)
{
	return (uint32_t)(b - c->blocks);
}
int soft_cache_init(struct soft_cpu *cpu);
void soft_cache_fini(struct soft_cpu *cpu);
/* The bytes of a block in two pages that was just looked up at lin. */
static inline const uint8_t *soft_cache_cross_bytes(const struct soft_cache *c, uint64_t lin)
{
	return c->cross[(lin ^ lin >> 12) % SOFT_CROSS_SIZE].bytes;
}
/* The block at cpu->s.rip; raises fetch faults. */
struct soft_block *soft_cache_lookup(struct soft_cpu *cpu);
/* A block at cpu->s.rip, where `b` is, that has its decoded instructions. */
struct soft_block *soft_block_ready(struct soft_cpu *cpu, struct soft_block *b);
/* Decodes those of a block anew that has lost them. False: its code has changed, and was dropped.
 */
_Bool soft_block_again(struct soft_cpu *cpu, struct soft_block *b);
/* Do these bytes decode to the instructions that the block has? */
_Bool soft_block_same(struct soft_cpu *cpu, const struct soft_block *b, const uint8_t *bytes,
		      unsigned avail);
/* Drops the blocks of one page from this vCPU's cache. */
void soft_cache_drop(struct soft_cpu *cpu, uint64_t phys);

/* block.c: for cache.c. */
int soft_blocks_init(struct soft_cpu *cpu);
void soft_blocks_fini(struct soft_cpu *cpu);
void soft_blocks_empty(struct soft_cache *c);
/* There are a few blocks left, and a page. */
_Bool soft_blocks_room(const struct soft_cache *c);
/* Memory that blocks and decoded instructions take, at most since all was emptied. */
size_t soft_blocks_bytes(const struct soft_cache *c);
/* An unused block, which stays one until soft_block_add. NULL: soft_blocks_room was not asked. */
struct soft_block *soft_block_new(struct soft_cache *c);
/* Finds it by phys and mode, and with its page. */
struct soft_block *soft_block_find(struct soft_cache *c, uint64_t phys, uint32_t mode);
void soft_block_add(struct soft_cache *c, struct soft_block *b);
/* Decodes at most `avail` bytes into the pool, for the block of this number when that is kept. */
struct soft_decoded *soft_pool_decode(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
				      unsigned *used);
void soft_pool_keep(struct soft_cache *c, struct soft_decoded *d, uint32_t number);
/* Host code finds the code of the block at rip, which lies in two pages, by itself. */
void soft_cache_cross_jump(struct soft_cpu *cpu, const struct soft_block *b);
/* Blocks found by linear address are looked up anew: mode, asid or translations changed. */
void soft_cache_rekey(struct soft_cpu *cpu);
void soft_cache_forget(struct soft_cpu *cpu);	   /* new generation of linear addresses */
void soft_cache_forget_free(struct soft_cpu *cpu); /* those of blocks that are no more */
void soft_cache_forget_page(struct soft_cpu *cpu, uint64_t lin); /* at least those of one page */
void soft_cache_forget_here(struct soft_cpu *cpu, uint64_t lin); /* ... in this address space */
/* Code in a page was changed, by whomever: drops it in every vCPU's cache. `self` may be NULL. */
struct soft_engine;
void soft_code_changed(struct soft_engine *engine, struct soft_cpu *self, uint8_t *flags,
		       uint64_t phys, unsigned len);
/* Every vCPU drops its translations at its next block. Any thread. */
void soft_tlb_shootdown(struct soft_engine *engine);
/* Takes what others have put on this vCPU's list (CPU_EVENT_ENGINE). */
void soft_cache_take_pending(struct soft_cpu *cpu);

/* Decoding (decode.c, decode_*.c): fills `out` from at most `avail` bytes. Returns 0; 1 when the
 * instruction needs more bytes than there are. What cannot be executed decodes to a handler that
 * raises. */
int soft_decode(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail, struct insn *out);
/* The decoder for the present mode. */
const ZydisDecoder *soft_decoder(const struct soft_cpu *cpu);
/* What each part of the integer decoder gets. True: done. */
struct soft_decode {
	struct soft_cpu *cpu;
	const ZydisDecodedInstruction *zi;
	const ZydisDecodedOperand *op; /* visible operands first */
	struct insn *out;
	unsigned size; /* log2 of the first operand's bytes: 0 to 3 */
	/* first operand, second operand: */
	_Bool reg0, mem0, reg1, mem1, imm1;
};
_Bool decode_alu(struct soft_decode *d);
_Bool decode_shift(struct soft_decode *d);
_Bool decode_muldiv(struct soft_decode *d);
_Bool decode_move(struct soft_decode *d);
_Bool decode_stack(struct soft_decode *d);
_Bool decode_branch(struct soft_decode *d);
_Bool decode_string(struct soft_decode *d);
_Bool decode_bit(struct soft_decode *d);
_Bool decode_atomic(struct soft_decode *d);
_Bool decode_misc(struct soft_decode *d);
/* A Zydis register's offset from s.gpr, or -1 when it is no general register. */
int soft_gpr_offset(ZydisRegister reg);
insn_fn op_ud, op_gp, op_stop;

/* Running (run.c) */
int soft_run(struct vcpu *vcpu);
/* Executes a block; true when everything is to be looked up anew after it. Not for code segments
 * with a limit. */
_Bool soft_block_run(struct soft_cpu *cpu, struct soft_block *b);
/* Only its instructions that begin in its first `bytes` bytes, of which there are some. */
_Bool soft_block_part(struct soft_cpu *cpu, struct soft_block *b, unsigned bytes);
/* As soft_run, but RUN_KICKED after `count` instructions (an abandoned one counts; so does one
 * chunk of a repeated one). */
int soft_run_steps(struct vcpu *vcpu, unsigned count);
_Bool soft_runnable(struct vcpu *vcpu);
enum soft_jmp { JMP_NONE, JMP_RAISE, JMP_RESTART, JMP_SHUTDOWN, JMP_FAIL };

/* Counters as lines of text (stats.c) */
struct wbuf;
void soft_stats_write(const struct soft_cpu *cpu, struct wbuf *out);

/* The engine (soft.c) */
struct soft_engine {
	struct engine base;
	struct soft_ram ram;
	struct lock code_lock; /* RANK_MEM: page flags' CODE bit against pending lists */
	struct soft_cpu *cpu[ENGINE_MAX_CPUS];
	unsigned cpus;
	_Bool logging;
	_Bool membarrier; /* registered for expedited barriers */
	/* Guest TSC = host TSC + tsc_offset + the CPU's own; tsc_frozen stands for the first two
	 * while the VM's time is stopped. */
	_Atomic uint64_t tsc_offset, tsc_frozen;
	_Atomic _Bool tsc_stopped;
};
uint32_t soft_tsc_khz(void);
uint64_t soft_tsc_base(struct soft_engine *engine);	       /* TSC without a CPU's own offset */
void soft_tsc_time(struct soft_engine *engine, _Bool running); /* engine_ops.time */
void soft_barrier(struct soft_engine *engine);

static inline _Bool soft_canonical(uint64_t lin)
{
	return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

#endif
