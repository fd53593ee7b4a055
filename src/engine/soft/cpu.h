/* cpu.h: a vCPU of the software engine: live state, memory access, exceptions. */
#ifndef ENGINE_SOFT_CPU_H
#define ENGINE_SOFT_CPU_H

#include <setjmp.h>
#include <string.h>
#include "engine/soft/insn.h"
#include "engine/vcpu.h"
#include "x86/regs.h"

struct soft_engine;
struct soft_cache;
struct soft_trans;
struct soft_lockstep;
struct soft_jump;
struct soft_debug;
struct soft_direct;

/*
 * The TLB: direct-mapped, one entry a 4 KiB page (large pages enter in pieces). A tag is the linear
 * page address with the address-space id in its low 12 bits; SOFT_TLB_INVALID never matches. A load
 * whose last byte is in another page than its first compares unequal, so one comparison checks
 * both presence and page crossing. MMIO and ROM (for writes) have no tag: they take the slow way.
 */
#define SOFT_TLB_BITS	 12
#define SOFT_TLB_SIZE	 (1u << SOFT_TLB_BITS)
#define SOFT_TLB_INVALID UINT64_MAX
struct soft_tlb_entry {
	uint64_t read, write; /* tags */
	uint64_t addend;      /* host address = linear address + addend */
	uint8_t *flags;	      /* the guest-physical page's flags, enum soft_page */
};
/* `victim` holds what was last pushed out of `e`, at the same index; host code and soft_mmu_get
 * look there second, so that two pages that share an index do not push each other out in turn. */
struct soft_tlb {
	struct soft_tlb_entry e[SOFT_TLB_SIZE], victim[SOFT_TLB_SIZE];
};
/*
 * Copies of TLB entries for single memory operands of host code, or several that share a check; see
 * trans_near.c. An operand at `lin` is found here when lin - base < limit: read, write. Empty:
 * limits of 0. Entries [0] are filled and used by ring 0, [1] by ring 3, so neither has to be
 * emptied when the privilege changes.
 */
#define SOFT_NEAR_COUNT 64u
#define SOFT_NEAR_LOOP	8u	     /* more, for the loop under way (trans_loop.c) */
#define SOFT_NEAR_LIMIT (4096u - 31) /* all of 32 bytes lie in the page */
struct soft_near {
	uint64_t base, limit[2], addend, host; /* host: base + addend */
	uint8_t *flags;
	uint64_t unused[2];
};
_Static_assert(sizeof(struct soft_near) == 64, "a cache line");
/* Which TLB the CPU uses now: by privilege, and for ring 0 by whether SMAP forbids user pages. NONE
 * is always empty, for alignment checks and data breakpoints. */
enum soft_tlb_kind { SOFT_TLB_KERNEL, SOFT_TLB_USER, SOFT_TLB_KERNEL_AC, SOFT_TLB_NONE, SOFT_TLBS };

/* One byte per guest-physical page, shared by all vCPUs. Not zero: a store must tell. */
enum soft_page {
	SOFT_PAGE_CODE = 1,	/* instructions of this page are in some decode cache */
	SOFT_PAGE_LOG = 2,	/* the dirty log wants to hear of the next write */
	SOFT_PAGE_SLOW = 4,	/* not a page: a store through a bounce buffer */
	SOFT_PAGE_LOCKSTEP = 8, /* lock-step wants to hear of every write */
};

/* An exception or interrupt on its way. */
struct soft_event {
	_Bool valid;
	_Bool has_error;
	uint8_t vector;
	uint8_t kind; /* enum x86_event_kind */
	uint32_t error;
	_Bool rf;     /* #DB: to be resumed with RF set */
	uint64_t dr6; /* #DB: bits to set in DR6 on delivery */
};

/* Why host code leaves its block after a C function: code was dropped, or entries of `near`, or the
 * jump cache has another key. */
enum soft_stop { STOP_CODE = 1, STOP_NEAR = 2, STOP_KEY = 4 };

/* Why instructions are executed singly. */
enum soft_slow {
	SOFT_SLOW_GUEST = 1, /* TF, RF, or DR7 has a breakpoint */
	SOFT_SLOW_DEBUG = 2, /* a debugger, which often can do with single blocks */
};

struct soft_stats {
	uint64_t retired, blocks, flushes, invalidations, tlb_misses, mmio, ports, interrupts,
	    exceptions, single_steps, lookups, translated;
	/* Of the translator: blocks that were decoded again, bytes of guest code translated and of
	 * host code made for them, blocks that were interpreted, entries into host code and why it
	 * was left, branches linked, code memory emptied, memory operands and branches left to
	 * handlers, stores that had to tell, returns to elsewhere than the last call's. */
	uint64_t decoded_again, guest_bytes, host_bytes, cold, entries, left_state, left_refused,
	    linked, emptied, slow, told, strayed;
	/* Of soft_cpu.near: entries filled, checks left for plain code by way of C, checks given
	 * up, times that all were emptied. */
	uint64_t near_fills, near_plain, near_given_up, near_emptied;
	uint64_t loops; /* blocks that were made loops (trans_loop.c) */
	/* Of direct execution (direct.h): times user code was let go, stops, system calls, faults,
	 * helpers made, lost. */
	uint64_t direct_entries, direct_exits, direct_calls, direct_faults, direct_helpers,
	    direct_moves, direct_apart, direct_large, direct_lost, direct_refused;
	/* ... and its chooser's reasons and comparisons (direct_choose.c). */
	uint64_t direct_at_once, direct_by_length, direct_kept, direct_trials, direct_verdicts;
	uint64_t direct_scans, direct_renewed, direct_crossing;
	uint64_t direct_broken, direct_broken_hits; /* direct_break.c */
};
#define SOFT_MNEMONICS 2048 /* more than the decoder knows */

struct soft_cpu {
	uint64_t zero; /* stays 0: the base of what has none */
	/* Arithmetic flags as LAHF; SETO AL leave them: bit 0 OF, 8 CF, 10 PF, 12 AF, 14 ZF, 15 SF;
	 * other bits are rubbish. s.rflags's arithmetic bits are stale: use soft_flags_get and
	 * soft_flags_set. */
	uint32_t af;
	uint32_t mode;	    /* enum soft_mode bits: what decoding depends on */
	uint64_t asid;	    /* the id under which the TLB in use is filled, below 4096; see mmu.c */
	uint64_t asid_code; /* likewise of the TLB for fetching */
	/* of all TLBs but the kernel's, and of those */
	uint64_t asid_user, asid_kernel;
	struct soft_tlb *tlb;	      /* the one in use */
	struct soft_itlb_entry *itlb; /* likewise, for fetching */
	/* A copy of the entry of the page that RSP points into, for host code: tags without an
	 * address space. Empty after whatever makes any entry stale. */
	struct soft_tlb_entry stack;
	uint8_t *rmw;	     /* flags of the page of the read-modify-write under way */
	uint8_t cpl;	     /* cached by soft_mode_update from SS's DPL */
	uint8_t slow;	     /* enum soft_slow: step singly */
	uint8_t data_bp;     /* DR7 has a data breakpoint */
	uint8_t align_check; /* CR0.AM, EFLAGS.AC, ring 3 */
	uint8_t io_bp;	     /* CR4.DE, and DR7 has a port breakpoint */
	uint8_t seg_open;    /* FS: 1, GS: 2: its limit is 4 GiB and its data may be written */
	uint8_t code_stop;   /* enum soft_stop: translated code has to look anew */
	uint8_t vec_live;    /* enum trans_live: what of s.fpu is in host registers; 0 in C */
	uint64_t page;	     /* linear address of the page that translated code runs in */
	uint64_t jump_key;   /* the cache's, for translated code */
	struct x86_state s;  /* rip, gpr and the rest are live here */

	struct soft_event exc;	      /* raised, not delivered */
	struct soft_event delivering; /* being delivered: a fault now is a double fault */
	uint64_t debug_hits;	      /* DR6 bits of data breakpoints that this instruction hit */
	struct soft_debug *debug;     /* a debugger's wishes, debug.c; or NULL */
	_Bool stepping;		      /* soft_run_steps is under way */
	_Bool alone;	/* the instruction is executed by itself: events may be taken after it */
	uint8_t pauses; /* PAUSE instructions, to yield now and then */
	unsigned steps_left;
	uint64_t block_rip; /* where the block under execution began */
	_Bool step_trap;    /* TF's trap after this instruction; who delivers an event clears it */
	_Bool rf_loaded;    /* this instruction has loaded RF, which is then the next one's */
	/* The repeated instruction that was left between two iterations, with breakpoints set or
	 * single-stepping: an event that comes there pushes RF. UINT64_MAX: none. */
	uint64_t rep_rip;
	uint64_t tsc_offset;

	struct vcpu base;
	struct soft_engine *engine;
	struct soft_cache *cache;
	struct soft_trans *trans;   /* the translator, or NULL */
	struct soft_direct *direct; /* user code on the real CPU (direct.h), or NULL */
	struct soft_jump *jump_table;
	struct soft_jump *jump_hit; /* an indirect call's target, while it pushes */
	/* Host code's stack: where it began, that without frames (trans_flow.c), and where there
	 * are too many. */
	uint64_t frame_host, frame_base, frame_limit;
	uint64_t trans_link; /* TRANS_LINK_...: the branch that host code was left by; or 0 */
	struct soft_lockstep *lockstep; /* or NULL */
	struct soft_mmu *mmu;
	struct soft_vec *vec; /* vec*.c's own, made by vec_init */
	struct soft_stats stats;
	jmp_buf jmp;
	uint8_t rmw_slow; /* SOFT_PAGE_SLOW; `rmw` points here when rmw_* is in use */
	uint8_t rmw_kind, rmw_size, rmw_seg;
	uint64_t rmw_lin, rmw_old;
	alignas(16) uint8_t rmw_buf[64];
	uint32_t near_missed; /* what trans_near_missed wants to know */
	_Bool near_filled;    /* any of `near` was filled; never copied back, as `near` is not */
	/* Times until the clock is looked at that an entry becomes another's page, when it was, and
	 * how long it must have been for checks to pay. */
	uint64_t near_left, near_stamp, near_ticks;
	/* TSC at which translated user code asks direct execution again; UINT64_MAX: never. */
	uint64_t direct_at;
	/* Of the loop under way (trans_loop.c): in how many iterations its checks hold, and what
	 * the register that the guard looks at is in the last of them. */
	uint64_t loop_rounds, loop_limit;
	alignas(64) struct soft_near near[2][SOFT_NEAR_COUNT];
	struct soft_near near_loop[SOFT_NEAR_LOOP]; /* addresses as if they were of `near` */
	uint64_t handled[SOFT_MNEMONICS]; /* calls of handlers by host code, by mnemonic */
};

/* struct soft_cpu.mode: the key of decoded code beside its address */
enum soft_mode {
	SOFT_MODE_16 = 0,
	SOFT_MODE_32 = 1,
	SOFT_MODE_64 = 2,
	SOFT_MODE_SIZE = 3,    /* mask */
	SOFT_MODE_FLAT = 4,    /* ES, CS, SS, DS: base 0, limit 4 GiB, usual types (always in 64) */
	SOFT_MODE_SS32 = 8,    /* SS.B: ESP, not SP (not in 64) */
	SOFT_MODE_REAL = 16,   /* real-address or virtual-8086 mode */
	SOFT_MODE_COMPAT = 32, /* 16- or 32-bit code in long mode */
	SOFT_MODE_USER = 64,   /* ring 3, of 64-bit code: host code depends on it */
};

#define SOFT_EA_UNIT(field) (offsetof(struct soft_cpu, field) / 8)
#define SOFT_EA_ZERO	    SOFT_EA_UNIT(zero)
#define SOFT_EA_GPR(n)	    (SOFT_EA_UNIT(s.gpr) + (n))
#define SOFT_EA_RIP	    SOFT_EA_UNIT(s.rip)
#define SOFT_EA_SEG(n)	    (SOFT_EA_UNIT(s.seg) + (n) * (sizeof(struct x86_seg) / 8))
_Static_assert(offsetof(struct soft_cpu, s.seg[5].base) / 8 < 256, "ea offsets are bytes");

static inline struct soft_cpu *soft_cpu_of(struct vcpu *vcpu)
{
	return container_of(vcpu, struct soft_cpu, base);
}

/*
 * Exceptions. Never return: the instruction is abandoned with the state as it is in cpu->s, which
 * must be that before the instruction, and delivery starts from the run loop. soft_raise is for
 * vectors without an error code, soft_raise_err for those with.
 */
NORETURN void soft_raise(struct soft_cpu *cpu, unsigned vector);
NORETURN void soft_raise_err(struct soft_cpu *cpu, unsigned vector, uint32_t error);
NORETURN void soft_raise_pf(struct soft_cpu *cpu, uint64_t lin, uint32_t error); /* sets CR2 */
/* #DB with bits for DR6. `rf`: as the fault it is, with RF set in the frame (general detect). */
NORETURN void soft_raise_db(struct soft_cpu *cpu, uint64_t dr6, _Bool rf);
/* Abandons the instruction without an event: execution goes on at cpu->s.rip after events were
 * looked at. For repeated string instructions, and after code was changed under the CPU. */
NORETURN void soft_restart(struct soft_cpu *cpu);
/* The guest entered shutdown (triple fault): sets the activity and leaves. */
NORETURN void soft_shutdown(struct soft_cpu *cpu);
/* The host failed. `text` is a constant. */
NORETURN void soft_fail(struct soft_cpu *cpu, const char *text);

/* RFLAGS with the arithmetic flags folded in, and the reverse (all bits; the caller has masked). */
uint64_t soft_flags_get(const struct soft_cpu *cpu);
void soft_flags_set(struct soft_cpu *cpu, uint64_t rflags);
static inline uint32_t soft_af_of(uint64_t rflags)
{
	return (uint32_t)((rflags & 0xd5) << 8 | ((rflags >> 11) & 1));
}
static inline uint64_t soft_af_to(uint32_t af)
{
	return ((af >> 8) & 0xd5) | (uint64_t)(af & 1) << 11;
}
/* For handlers that only set a flag or two: CF, ZF ... of af */
#define SOFT_AF_OF BIT32(0)
#define SOFT_AF_CF BIT32(8)
#define SOFT_AF_PF BIT32(10)
#define SOFT_AF_AF BIT32(12)
#define SOFT_AF_ZF BIT32(14)
#define SOFT_AF_SF BIT32(15)

/*
 * Must be called after any change of: a segment register's hidden part, CR0, CR4, EFER,
 * RFLAGS.{TF,AC,VM} or DR7. Recomputes mode, cpl, slow, the TLB in use. The CPL is the DPL in
 * s.seg[X86_SS].attr, always (0 in real mode, 3 in virtual-8086 mode whatever SS says).
 */
void soft_mode_update(struct soft_cpu *cpu);

static inline void soft_stack_forget(struct soft_cpu *cpu)
{
	cpu->stack.read = cpu->stack.write = SOFT_TLB_INVALID;
}

/* Empties `near`. Host code that has looked there is left: it goes on without looking again. */
static inline void soft_near_forget(struct soft_cpu *cpu)
{
	if (!cpu->near_filled)
		return;
	cpu->near_filled = 0;
	cpu->stats.near_emptied++;
	cpu->code_stop |= STOP_NEAR;
	for (unsigned k = 0; k < 2; k++)
		for (unsigned i = 0; i < SOFT_NEAR_COUNT; i++)
			cpu->near[k][i].limit[0] = cpu->near[k][i].limit[1] = 0;
}

/* TLB maintenance (mmu.c). All drop at least what the architecture asks. */
void soft_tlb_flush_all(struct soft_cpu *cpu); /* every address space, global pages too */
void soft_tlb_flush_page(struct soft_cpu *cpu, uint64_t lin);
void soft_tlb_flush_pcid(struct soft_cpu *cpu, unsigned pcid);
/* s.cr3 was loaded. `keep`: bit 63 of the source was set with CR4.PCIDE. PAE's PDPTEs are loaded
 * by the walker at use, from the present memory. */
void soft_tlb_cr3(struct soft_cpu *cpu, _Bool keep);
/* The local APIC's page may have moved. */
void soft_mmu_apic(struct soft_cpu *cpu);
/* Linear to physical without side effects, as an explicit supervisor read (debuggers): 0 or -1. */
int soft_translate(struct soft_cpu *cpu, uint64_t lin, uint64_t *phys);

/* TSC of this CPU now. */
uint64_t soft_tsc(struct soft_cpu *cpu);
/* Makes soft_tsc(cpu) be `value` from now on (WRMSR TSC, TSC_ADJUST, set_state). */
void soft_tsc_set(struct soft_cpu *cpu, uint64_t value);

/* Of so many PAUSE instructions one yields the host's CPU. */
#define PAUSE_YIELD 64u

/* Register operands */
static ALWAYS_INLINE void *soft_reg(struct soft_cpu *cpu, unsigned offset)
{
	return (uint8_t *)cpu->s.gpr + offset;
}
static ALWAYS_INLINE uint8_t insn_gpr8(struct soft_cpu *cpu, unsigned r)
{
	return *(uint8_t *)soft_reg(cpu, r);
}
static ALWAYS_INLINE uint16_t insn_gpr16(struct soft_cpu *cpu, unsigned r)
{
	return *(uint16_t *)soft_reg(cpu, r);
}
static ALWAYS_INLINE uint32_t insn_gpr32(struct soft_cpu *cpu, unsigned r)
{
	return *(uint32_t *)soft_reg(cpu, r);
}
static ALWAYS_INLINE uint64_t insn_gpr64(struct soft_cpu *cpu, unsigned r)
{
	return *(uint64_t *)soft_reg(cpu, r);
}
/* By operand size in bytes; writing 4 bytes clears the upper half, as the architecture does. */
static inline uint64_t insn_gpr(struct soft_cpu *cpu, unsigned r, unsigned size)
{
	return size == 8   ? insn_gpr64(cpu, r)
	       : size == 4 ? insn_gpr32(cpu, r)
	       : size == 2 ? insn_gpr16(cpu, r)
			   : insn_gpr8(cpu, r);
}
static inline void insn_gpr_set(struct soft_cpu *cpu, unsigned r, unsigned size, uint64_t v)
{
	if (size == 8)
		*(uint64_t *)soft_reg(cpu, r) = v;
	else if (size == 4)
		*(uint64_t *)soft_reg(cpu, r) = (uint32_t)v;
	else if (size == 2)
		*(uint16_t *)soft_reg(cpu, r) = (uint16_t)v;
	else
		*(uint8_t *)soft_reg(cpu, r) = (uint8_t)v;
}

/* Notes a port access for breakpoints; called before the access. */
void soft_io_breakpoint(struct soft_cpu *cpu, uint16_t port, unsigned size);

/* AMD's ways, else Intel's, where the architecture leaves something open. */
static inline _Bool soft_amd(const struct soft_cpu *cpu)
{
	return cpu->base.engine->env->cpuid->amd;
}

static inline _Bool soft_is64(const struct soft_cpu *cpu)
{
	return cpu->mode & SOFT_MODE_64;
}
/* Real-address mode (not virtual-8086). */
static inline _Bool soft_is_real(const struct soft_cpu *cpu)
{
	return !(cpu->s.cr0 & X86_CR0_PE);
}
static inline _Bool soft_is_v86(const struct soft_cpu *cpu)
{
	return (cpu->s.cr0 & X86_CR0_PE) && (cpu->s.rflags & X86_VM);
}
static inline _Bool soft_is_long(const struct soft_cpu *cpu)
{
	return cpu->s.efer & X86_EFER_LMA;
}

/* The next instruction's address, cut to the code size. */
static inline uint64_t soft_next_rip(const struct soft_cpu *cpu, const struct insn *i)
{
	uint64_t rip = cpu->s.rip + i->len;
	return cpu->mode & SOFT_MODE_64 ? rip : (uint32_t)rip;
}

/*
 * Linear addresses. soft_lin: of the instruction's memory operand for an access of `size` bytes;
 * checks segment limit and type where they matter and raises #GP or #SS. soft_seg_lin: of an offset
 * in a segment (the caller has cut it to the address size); in 64-bit mode it adds FS or GS base
 * only. The canonical check is made by the access itself, which is why accesses take the segment.
 * soft_ea_offset: the operand's offset within its segment (LEA, INVLPG's checks, far pointers).
 */
uint64_t soft_ea(struct soft_cpu *cpu, const struct insn *i, unsigned size, _Bool write);
uint64_t soft_ea_offset(struct soft_cpu *cpu, const struct insn *i);
uint64_t soft_seg_lin(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size,
		      _Bool write);
#define SOFT_UNIT(cpu, n) (((const uint64_t *)(const void *)(cpu))[n])
static ALWAYS_INLINE uint64_t soft_lin(struct soft_cpu *cpu, const struct insn *i, unsigned size,
				       _Bool write)
{
	if (UNLIKELY(i->flags & INSN_SLOW_EA))
		return soft_ea(cpu, i, size, write);
	return SOFT_UNIT(cpu, i->base) + (SOFT_UNIT(cpu, i->index) << i->scale) +
	       (uint64_t)i->disp + SOFT_UNIT(cpu, i->segbase);
}

/*
 * Memory at a linear address, with the CPU's present privilege. Any alignment; every fault comes
 * before any side effect. `seg` only decides between #GP and #SS when the address is not canonical.
 * soft_load and soft_store take any length up to 4096; both pages are probed first. They reach MMIO
 * in aligned pieces of up to 8 bytes.
 */
uint64_t soft_read_slow(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned size);
void soft_write_slow(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned size, uint64_t v);
void soft_load(struct soft_cpu *cpu, unsigned seg, uint64_t lin, void *buf, unsigned len);
void soft_store(struct soft_cpu *cpu, unsigned seg, uint64_t lin, const void *buf, unsigned len);
/* The same without an alignment check: gathers and masked moves have none. */
void soft_load_bytes(struct soft_cpu *cpu, unsigned seg, uint64_t lin, void *buf, unsigned len);
void soft_store_bytes(struct soft_cpu *cpu, unsigned seg, uint64_t lin, const void *buf,
		      unsigned len);
/* #AC: ring 3 with CR0.AM and EFLAGS.AC. By natural alignment; an x87 register counts as 8 bytes, a
 * 256-bit vector as 16 on AMD's CPUs; Intel's do not ask it of 16 bytes and more. Accesses make it
 * themselves; for those that probe first. */
void soft_align_slow(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned len);
static inline void soft_align(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned len)
{
	if (UNLIKELY(cpu->align_check))
		soft_align_slow(cpu, seg, lin, len);
}
/* Raises what an access would raise but for #AC; no other effect than A and D bits. len up to 4096.
 */
void soft_probe(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned len, _Bool write);
/* The CPU's own accesses to GDT, LDT, IDT, TSS and inner stacks: supervisor whatever the CPL, not
 * subject to SMAP-by-AC rules for explicit accesses. size 1 to 8. */
uint64_t soft_sys_read(struct soft_cpu *cpu, uint64_t lin, unsigned size);
void soft_sys_write(struct soft_cpu *cpu, uint64_t lin, unsigned size, uint64_t v);
void soft_sys_probe(struct soft_cpu *cpu, uint64_t lin, unsigned len, _Bool write);
/* As if at another privilege: user = 1: as ring 3 (stack pushes on an outer stack), 0: ring 0. */
uint64_t soft_as_read(struct soft_cpu *cpu, _Bool user, unsigned seg, uint64_t lin, unsigned size);
void soft_as_write(struct soft_cpu *cpu, _Bool user, unsigned seg, uint64_t lin, unsigned size,
		   uint64_t v);
/* A store through `flags` has been made: code caches and the dirty log hear of it. */
void soft_stored(struct soft_cpu *cpu, uint8_t *flags, uint64_t lin, unsigned size);

static ALWAYS_INLINE struct soft_tlb_entry *soft_tlb_at(struct soft_cpu *cpu, uint64_t lin)
{
	return &cpu->tlb->e[(lin >> 12) & (SOFT_TLB_SIZE - 1)];
}
static ALWAYS_INLINE uint64_t soft_tlb_tag(struct soft_cpu *cpu, uint64_t lin, unsigned size)
{
	return ((lin + (size - 1)) & ~UINT64_C(0xfff)) | cpu->asid;
}

/* Guest operands in host memory: of any alignment. */
typedef uint8_t soft_u8;
typedef uint16_t soft_u16 __attribute__((aligned(1), may_alias));
typedef uint32_t soft_u32 __attribute__((aligned(1), may_alias));
typedef uint64_t soft_u64 __attribute__((aligned(1), may_alias));

#define SOFT_ACCESS(bits)                                                                          \
	static ALWAYS_INLINE uint##bits##_t soft_read##bits(struct soft_cpu *cpu, unsigned seg,    \
							    uint64_t lin)                          \
	{                                                                                          \
		const struct soft_tlb_entry *e = soft_tlb_at(cpu, lin);                            \
		if (LIKELY(e->read == soft_tlb_tag(cpu, lin, bits / 8)))                           \
			return *(volatile soft_u##bits *)(uintptr_t)(lin + e->addend);             \
		return (uint##bits##_t)soft_read_slow(cpu, seg, lin, bits / 8);                    \
	}                                                                                          \
	static ALWAYS_INLINE void soft_write##bits(struct soft_cpu *cpu, unsigned seg,             \
						   uint64_t lin, uint##bits##_t v)                 \
	{                                                                                          \
		const struct soft_tlb_entry *e = soft_tlb_at(cpu, lin);                            \
		if (LIKELY(e->write == soft_tlb_tag(cpu, lin, bits / 8))) {                        \
			*(volatile soft_u##bits *)(uintptr_t)(lin + e->addend) = v;                \
			if (UNLIKELY(*(volatile uint8_t *)e->flags))                               \
				soft_stored(cpu, e->flags, lin, bits / 8);                         \
			return;                                                                    \
		}                                                                                  \
		soft_write_slow(cpu, seg, lin, bits / 8, v);                                       \
	}
SOFT_ACCESS(8)
SOFT_ACCESS(16)
SOFT_ACCESS(32)
SOFT_ACCESS(64)

/* 16, 32 or 64 bytes (`len` constant at the call). No alignment is asked; who wants #GP checks. */
static ALWAYS_INLINE void soft_load_vec(struct soft_cpu *cpu, unsigned seg, uint64_t lin, void *buf,
					unsigned len)
{
	const struct soft_tlb_entry *e = soft_tlb_at(cpu, lin);
	if (LIKELY(e->read == soft_tlb_tag(cpu, lin, len)))
		memcpy(buf, (const void *)(uintptr_t)(lin + e->addend), len);
	else
		soft_load(cpu, seg, lin, buf, len);
}
static ALWAYS_INLINE void soft_store_vec(struct soft_cpu *cpu, unsigned seg, uint64_t lin,
					 const void *buf, unsigned len)
{
	const struct soft_tlb_entry *e = soft_tlb_at(cpu, lin);
	if (LIKELY(e->write == soft_tlb_tag(cpu, lin, len))) {
		memcpy((void *)(uintptr_t)(lin + e->addend), buf, len);
		__asm__ volatile("" ::: "memory");
		if (UNLIKELY(*(volatile uint8_t *)e->flags))
			soft_stored(cpu, e->flags, lin, len);
	} else {
		soft_store(cpu, seg, lin, buf, len);
	}
}

/*
 * Read-modify-write in place: soft_rmw gives a host pointer at which the operand (1 to 64 bytes)
 * can be read and written, by a host LOCK instruction if wished, having raised every fault a write
 * would raise; soft_rmw_done ends it. Nothing may raise in between, and no other access may be
 * made. The pointer is into guest RAM, or into an alias of two frames side by side when a locked
 * operand crosses pages, or into a bounce buffer for MMIO and ROM.
 */
void *soft_rmw_slow(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned size, _Bool locked);
void soft_rmw_finish(struct soft_cpu *cpu);
static ALWAYS_INLINE void *soft_rmw(struct soft_cpu *cpu, unsigned seg, uint64_t lin, unsigned size,
				    _Bool locked)
{
	const struct soft_tlb_entry *e = soft_tlb_at(cpu, lin);
	if (LIKELY(e->write == soft_tlb_tag(cpu, lin, size))) {
		cpu->rmw = e->flags;
		cpu->rmw_lin = lin;
		cpu->rmw_size = (uint8_t)size;
		return (void *)(uintptr_t)(lin + e->addend);
	}
	return soft_rmw_slow(cpu, seg, lin, size, locked);
}
static ALWAYS_INLINE void soft_rmw_done(struct soft_cpu *cpu)
{
	__asm__ volatile("" ::: "memory");
	if (UNLIKELY(*(volatile uint8_t *)cpu->rmw))
		soft_rmw_finish(cpu);
}

#endif
