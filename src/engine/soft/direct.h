/* direct.h: direct execution: ring-3 code of 64-bit guests on the real CPU, in helper processes.
 *
 * A helper is a process whose address space is that of the guest's user code: pages of the guest's
 * RAM, mapped as the guest's page tables say, when they are touched. Anything else than plain user
 * code (a system call, a fault, an interrupt) becomes a signal there; the helper stops with its
 * registers in the signal frame, and the vCPU goes on in the layers below at that instruction. So
 * nothing is emulated here: what the real CPU may not do is left to who can.
 */
#ifndef ENGINE_SOFT_DIRECT_H
#define ENGINE_SOFT_DIRECT_H

#include <sched.h>
#include "engine/soft/core.h"
#include "engine/soft/direct_abi.h"

#define DIRECT_SPACES 8u

/* A page in a helper: the guest-physical page address, and: */
#define DIRECT_MAPPED BIT64(0)
#define DIRECT_WRITE  BIT64(1)
#define DIRECT_EXEC   BIT64(2)
#define DIRECT_KEPT   BIT64(3) /* it would be executable but for what is in it */
#define DIRECT_BROKEN BIT64(4) /* it is executable, with breakpoints at what is in it */
struct direct_leaf {
	uint64_t region; /* linear address of its 2 MiB */
	unsigned writable;
	struct direct_leaf *next;
	uint64_t page[512];
};

/* What is looked for in pages of code, besides what always is: what stores tables' addresses,
 * CPUID, SYSENTER. */
#define DIRECT_SEEK_TABLES   BIT32(0)
#define DIRECT_SEEK_CPUID    BIT32(1)
#define DIRECT_SEEK_SYSENTER BIT32(2)

/* The sensitive instructions of a page: where the first bytes of their opcodes are. More of them
 * than there is room for are `count`ed one more. */
struct direct_found {
	unsigned count;
	uint16_t at[32];
};

/* Breakpoints that keep all of them from running natively (direct_cover.c), as offsets in the page;
 * and functions of which only the first one has got one, so that they are not to be entered by a
 * helper anywhere else: [first, end). */
#define DIRECT_BREAKS 4u /* that an x86 CPU has */
struct direct_cover {
	unsigned breaks, shuts;
	uint16_t at[DIRECT_BREAKS];
	struct {
		uint16_t first, end;
	} shut[DIRECT_BREAKS];
};

/* The breakpoints of a helper (direct_break.c). They are by linear address, and what is there is
 * known by its content, so that they stay when address spaces come and go. */
struct direct_breaks {
	struct direct_broken {
		uint64_t lin;  /* of the page */
		uint64_t name; /* of what is in it: direct_seen_sensitive */
		struct direct_cover cover;
		uint64_t hits; /* stops there */
	} page[DIRECT_BREAKS];
	unsigned pages; /* the first ones are the oldest */
	/* Pages at which the helper has stopped for what is in them; by a hash of the address. */
	struct direct_wish {
		uint64_t lin;
		unsigned stops, wait; /* since the last wish that was heard; until the next one */
	} wish[16];
};

struct direct_helper {
	int pid, pidfd; /* pid 0: none */
	int event;
	int core;		      /* its vCPU's thread's, plus 1; 0: not said yet */
	_Bool apart;		      /* it is to run anywhere but there, not there */
	struct direct_shared *shared; /* hostile */
	uint64_t base;
	uint64_t token[3];
	uint32_t go;	   /* what it must tell of its next stop; never 0 */
	uint32_t pool[64]; /* random numbers for that, of which `pooled` are left */
	unsigned pooled;
	int number;	      /* the process in /proc, which may count others than we do; 0: ? */
	uint64_t frame;	      /* offset in the shared part of the frame it stopped with */
	uint64_t top;	      /* ... of the frames of signals on an empty signal stack */
	uint64_t uc_flags;    /* of a frame that the kernel made, and ... */
	uint8_t software[48]; /* ... what it says there of its XSAVE image */
	uint16_t cs, ss;      /* as it stopped */
	uint64_t used_ns;     /* time that it has run, when that was last looked at */
	_Bool cpuid_faults;
	_Bool ran; /* since it was made: it has been told to go on */
	struct direct_breaks breaks;
};

/* What one address space (soft_cpu.asid_user) has mapped. */
struct direct_space {
	struct direct_helper helper;
	uint64_t asid; /* 0: none */
	uint64_t root; /* of its page tables: CR3 without the rest */
	uint64_t used;
	uint64_t ran, renewing; /* cycles: in the helper since it was renewed; what that took */
	_Bool clear;		/* unmap everything first */
	_Bool empty;		/* nothing is mapped, or will be when it has done that */
	unsigned ops;
	struct direct_op op[DIRECT_OPS];
	unsigned vmas; /* at most so many since the last clear */
	struct direct_leaf *leaf[256];
	struct direct_leaf *spare;
	unsigned leaves;
};

/* Why the helper stopped. */
struct direct_exit {
	unsigned signal; /* 0: it is no more */
	int code;	 /* si_code */
	uint64_t trap, error, address;
	uint64_t call; /* SIGSYS: where the kernel says that the call was */
};

/* Where the vCPU's thread and its helpers run (direct_core.c). */
struct direct_core {
	int held;	  /* the only core that the thread may run on, plus 1; 0: it is free */
	cpu_set_t before; /* where it may when it is free */
	cpu_set_t asked;  /* what `before` was when it was asked whether that is ... */
	_Bool everywhere; /* ... all that the host lets it have */
	_Bool contended;  /* others wanted that core in the last window */
	_Bool slept;	  /* ... in which the thread did not want to run all the time */
	/* TSC, which may go back when the host sleeps: only differences are looked at. */
	uint64_t begun;		       /* the window's beginning */
	uint64_t entered;	       /* when a helper was last entered */
	uint64_t looked_ns, thread_ns; /* at the window's beginning */
};

/* Do the two look at memory while they wait for each other, on two cores (direct_spin.c)? */
enum direct_crossing { CROSSING_TOGETHER, CROSSING_QUICK, CROSSING_SLOW, CROSSING_KINDS };
struct direct_spin {
	_Bool apart;
	enum direct_crossing kind;  /* of the last one: on one core, or on two and one was woken */
	unsigned crossings, slow;   /* in this window; in which one of them had to be woken */
	unsigned pause, left;	    /* windows until that is tried again; and so many are left */
	struct direct_helper *last; /* that was entered; NULL: it does not look any more */
};

/* Large pages of the guest that the host is to have as such, too (direct_large.c). */
struct direct_large {
	uint64_t wish[64]; /* guest-physical */
	unsigned wishes;
	unsigned failed;       /* in a row */
	uint64_t since, pause; /* TSC: none for so long from then on */
	uint8_t *done;	       /* a bit for each 2 MiB of RAM that was a wish once; or NULL */
};

/* The next instruction is for the layers below: for a while, or it alone. */
enum direct_once { DIRECT_ONCE_NOT, DIRECT_ONCE, DIRECT_ONCE_ALONE };

struct soft_direct {
	struct direct_space space[DIRECT_SPACES];
	_Atomic int running;	/* pidfd of the helper that runs guest code, plus 1; 0: none */
	_Atomic unsigned kicks; /* so many threads are about to use it, or what it was */
	int code;		/* the stub's program, a memfd; or -1 */
	const char *why;	/* ... for this reason */
	_Bool refused;		/* helpers cannot be made here, or not now: */
	uint64_t refused_at, refused_for; /* TSC; for so long, 0: for ever */
	_Bool umip;			  /* the host's CPU has it */
	_Bool tables;	   /* SGDT and its like do not run in helpers: host or guest has no UMIP */
	_Bool sysenter;	   /* CPUs of the guest's vendor have SYSENTER in 64-bit mode */
	_Bool cpuid_runs;  /* new helpers are to have CPUID as where CPUs cannot make it fault */
	_Bool always;	   /* whenever it is possible at all */
	_Bool breaks_seen; /* a breakpoint has stopped a helper */
	uint64_t breakless_at,
	    breakless_for; /* TSC: the host sets none since; for so long; 0: it does */
	unsigned killed;   /* lately */
	/* A fault of the guest's that a helper met: when its handler is done, the page will be
	 * there. */
	uint64_t expect, expect_asid;
	enum soft_access expect_access;
	enum direct_once once;
	uint64_t clock;
	uint64_t lowest;  /* linear address that the host lets a helper map */
	uint64_t decoded; /* instructions, to find the sensitive ones in pages of code */
	/* Others' wishes; guarded by engine->code_lock, see soft_cache_take_pending. */
	uint64_t revoke[32];
	unsigned revokes;
	_Bool revoke_all;
	_Atomic unsigned taken; /* so often were they taken */
	struct direct_core core;
	struct direct_spin spin;
	struct direct_large large;
	struct direct_seen *seen; /* direct_seen.c; or NULL */
	/* The chooser's: direct_choose.c */
	struct direct_choose *choose;
};

int direct_init(struct soft_cpu *cpu);
void direct_fini(struct soft_cpu *cpu);
/* Runs user code if it may and should. Else nothing was done, and the layers below take over, or
 * one instruction is theirs. May raise. */
enum direct_went { DIRECT_BELOW, DIRECT_BELOW_ALONE, DIRECT_RAN };
enum direct_went direct_run(struct soft_cpu *cpu);

/* Helper processes (direct_host.c). `ram` is the memory file that they may map; `code` that of
 * their program, made when it is -1. Returns 0 or a negative errno; *why is set to a constant then.
 */
int direct_helper_start(const struct soft_cpu *cpu, struct direct_helper *h, int ram, int *code,
			const char **why);
void direct_helper_kill(struct direct_helper *h);
/* Has the process that there is ended? It has not been waited for. */
_Bool direct_helper_ended(const struct direct_helper *h);
/* Does the helper, which has told of a stop, wait in the handler of a signal, as the host's kernel
 * knows and not as the helper says? 0: no; -1: there is no telling. */
int direct_helper_waits(const struct direct_helper *h);
/* Lets the helper do `ops`, take over the registers in its frame and run, until it stops or is no
 * more (pid is 0). False: it is no more, and user code has not run since its last stop. */
_Bool direct_helper_run(struct soft_cpu *cpu, struct direct_helper *h, const struct direct_op *op,
			unsigned ops);

/* Cores (direct_core.c), on the vCPU's thread. A helper is entered: it is brought to this thread's
 * core, and the thread is kept there unless others want that core, too. The engine returns (_left),
 * or an interrupt comes (_rest, which lets go what was not in a helper for long). _calm: has who
 * has run for so long in that time got a core for himself? */
void direct_core_enter(struct soft_cpu *cpu, struct direct_helper *h);
void direct_core_left(struct soft_direct *d, _Bool sleeps);
void direct_core_rest(struct soft_direct *d);
void direct_core_hold(struct soft_direct *d);
void direct_core_release(struct soft_direct *d);
_Bool direct_core_calm(uint64_t used_ns, uint64_t passed_ns);

/* Spinning (direct_spin.c), on the vCPU's thread. _enter: before each `go`, and after
 * direct_core's; _crossed: one is over, for which one of the two was woken, or none; _rest: the
 * thread does not want a helper soon. _wait: looks at memory until the helper that runs has
 * stopped, as far as it says so itself. False: that is not done now, or was not seen. _look: a
 * window is over, in which the thread and its helpers have run for used_ns. _judge: what follows
 * from that; `possible`: two cores may be used, and are free. */
void direct_spin_enter(struct soft_cpu *cpu, struct direct_helper *h);
void direct_spin_crossed(struct soft_cpu *cpu, _Bool woken);
void direct_spin_rest(struct soft_direct *d);
_Bool direct_spin_wait(struct soft_cpu *cpu, const struct direct_helper *h);
void direct_spin_judge(struct direct_spin *s, uint64_t used_ns, uint64_t passed_ns, _Bool possible);
void direct_spin_look(struct soft_direct *d, uint64_t used_ns, uint64_t passed_ns);

/* Large pages (direct_large.c): a helper has the 2 MiB at phys mapped as a whole; an interrupt
 * comes, so that there is time to make one. */
void direct_large_note(struct soft_cpu *cpu, uint64_t phys);
void direct_large_take(struct soft_cpu *cpu);
void direct_large_fini(struct soft_direct *d);

/* Registers (direct_regs.c): from the CPU to the frame and back. -1: what the frame says cannot be
 * (a hostile helper). */
void direct_regs_out(struct soft_cpu *cpu, struct direct_helper *h);
/* Notes of the first frame of a helper what guest code must not change later. -1: it has not got
 * the vector state that is needed. */
int direct_regs_learn(const struct soft_cpu *cpu, struct direct_helper *h);
int direct_regs_in(struct soft_cpu *cpu, struct direct_helper *h, struct direct_exit *exit);
/* Is the frame one that a signal to code outside of the stub has left? */
_Bool direct_regs_whole(const struct direct_helper *h);
/* Nothing of the program that it has run is left in such a frame and in the shared part. -1: there
 * is no frame. */
int direct_regs_wipe(struct direct_helper *h);
/* Segment registers that user code has loaded, through the guest's tables. May raise. */
void direct_selectors_in(struct soft_cpu *cpu, const struct direct_helper *h);

/* Mappings (direct_map.c). _lowest: the lowest address that the host lets processes map. */
uint64_t direct_map_lowest(void);
/* That of the present address space, with nothing mapped that its tables do not give. */
struct direct_space *direct_space_get(struct soft_cpu *cpu);
/* Guest code touched lin: maps it and what is around it. False: not for a helper. Raises the
 * guest's faults. */
_Bool direct_map_fault(struct soft_cpu *cpu, struct direct_space *s, uint64_t lin,
		       enum soft_access access);
/* Is the code at RIP in a page that has turned out to be none for helpers, and still is none? */
_Bool direct_map_kept(struct soft_cpu *cpu, struct direct_space *s);
/* Under the present id no helper was entered yet: is the address space, which was flushed, one that
 * has a helper, as far as its stack's page tells? A guess. */
_Bool direct_map_follows(struct soft_cpu *cpu);
/* Before user code runs: a helper that has nothing mapped is given what the guest's tables say was
 * used, unless that is much. */
void direct_map_fill(struct soft_cpu *cpu, struct direct_space *s);
/* The same before guest code has touched lin again, where that is possible without a fault. */
void direct_map_expected(struct soft_cpu *cpu, struct direct_space *s, uint64_t lin,
			 enum soft_access access);
/* The translation of one page, or all of them (the ids of address spaces start over), are dropped.
 */
void direct_forget_page(struct soft_cpu *cpu, uint64_t lin);
void direct_forget_here(struct soft_cpu *cpu, uint64_t lin); /* ... in the present address space */
void direct_forget_all(struct soft_cpu *cpu);
/* Nobody may write to a page (or, UINT64_MAX, any page) any more without a new fault. Returns when
 * no helper of any vCPU does. Not under code_lock. */
void direct_revoke(struct soft_engine *engine, struct soft_cpu *self, uint64_t phys);
void direct_take_revoked(struct soft_cpu *cpu);
void direct_space_fini(struct direct_space *s);
/* The helper is to lose a page, or (UINT64_MAX) all of them, before it runs again. */
void direct_space_drop(struct direct_space *s, uint64_t lin);
/* The helper could execute at lin, but is to stay away from there (direct_break_open). */
_Bool direct_map_shut(const struct direct_space *s, uint64_t lin);
/* Is the page at lin executable because its sensitive instructions have breakpoints? */
_Bool direct_map_broken(const struct direct_space *s, uint64_t lin);
/* The helper is new: it has nothing mapped. */
void direct_space_reset(struct direct_space *s);
/* Brings the helper's mappings up to date and lets it run until it stops (helper.pid is 0 when it
 * is dead). False: user code did not run, as the host has refused a mapping or had ended the helper
 * before (helper.pid is 0). */
_Bool direct_space_run(struct soft_cpu *cpu, struct direct_space *s);

/* Is there something in the page that must not run natively (direct_scan.c)? `next`: the first two
 * bytes behind it. `seek`: DIRECT_SEEK_*. *decoded grows by the number of instructions that were
 * decoded to find out: no more than the page has bytes. _scan finds all of them. False: there are
 * more than are noted. */
_Bool direct_sensitive(const ZydisDecoder *decoder, const uint8_t *page, const uint8_t *next,
		       unsigned seek, uint64_t *decoded);
_Bool direct_scan(const ZydisDecoder *decoder, const uint8_t *page, const uint8_t *next,
		  unsigned seek, struct direct_found *found);
/* What has to be looked for in the pages of this helper. */
static inline unsigned direct_seek(const struct soft_direct *d, const struct direct_helper *h)
{
	return (d->tables ? DIRECT_SEEK_TABLES : 0) | (d->sysenter ? DIRECT_SEEK_SYSENTER : 0) |
	       (h->cpuid_faults ? 0 : DIRECT_SEEK_CPUID);
}
/* The same of the page of the guest's memory at phys, remembered (direct_seen.c). *name tells what
 * is in it from what else could be; 0: that could not be said. */
_Bool direct_seen_sensitive(struct soft_cpu *cpu, unsigned seek, uint64_t phys, const uint8_t *page,
			    const uint8_t *next, uint64_t *name);
/* May the byte be a prefix of the instruction that goes on behind it? */
_Bool direct_prefix(uint8_t byte);
/* Which breakpoints cover what was found in the page? False: none, or more than there are. */
_Bool direct_cover(const ZydisDecoder *decoder, const uint8_t *page,
		   const struct direct_found *found, struct direct_cover *cover);

/* The name of what these bytes are; 0: that could not be said. */
uint64_t direct_seen_name(struct soft_cpu *cpu, unsigned seek, const uint8_t *page,
			  const uint8_t *next);
void direct_seen_fini(struct soft_direct *d);

/* Breakpoints (direct_break.c), of a helper that waits. _have: has it got them for the page at lin,
 * with this in it? _wish: code there is to be executed: sets them if that was wished often enough.
 * True: it has got them now; others may have lost theirs, and their pages. _open: may the helper be
 * entered at rip, which is in a page with breakpoints? _hit: it has stopped at one (`broken`: in a
 * page that is executable because of it). _probe: NULL: this process may set breakpoints there;
 * else why not. */
_Bool direct_break_have(const struct direct_helper *h, uint64_t lin, uint64_t name);
_Bool direct_break_wish(struct soft_cpu *cpu, struct direct_space *s, uint64_t lin, uint64_t name,
			const uint8_t *page, const uint8_t *next);
_Bool direct_break_open(const struct direct_helper *h, uint64_t rip);
void direct_break_hit(struct soft_cpu *cpu, struct direct_space *s, uint64_t rip, _Bool broken);
const char *direct_break_probe(struct direct_helper *h);

/* The chooser (direct_choose.c): user code begins or goes on; it was left (`interrupted`: from
 * outside, so that it goes on some time); should the helper have it (counted); the layers below
 * have it instead (`once`: for what a helper cannot do; else until its next crossing); the helper
 * has stopped after so many TSC cycles, in which it did so many operations (_left); it has got far
 * until then (_far). */
int direct_choose_init(struct soft_direct *d);
void direct_choose_fini(struct soft_direct *d);
void direct_choose_user(struct soft_cpu *cpu);
void direct_choose_kernel(struct soft_cpu *cpu, _Bool interrupted);
_Bool direct_choose_wants(struct soft_cpu *cpu);
void direct_choose_below(struct soft_cpu *cpu, _Bool once);
/* Translated code has changed the CPU's state: does direct_run have to be asked? */
_Bool direct_choose_state(struct soft_cpu *cpu);
void direct_choose_left(struct soft_cpu *cpu, uint64_t cycles, unsigned ops);
_Bool direct_choose_far(const struct soft_cpu *cpu);

/* Makes user code stop soon, having raised an event. Any thread. */
void direct_kick(struct soft_cpu *cpu);

#endif
