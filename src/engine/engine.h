/* engine.h: the engine contract: what runs guest code, and what it may ask of the VM around it. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdio.h>

#include "bus/clock.h"
#include "bus/cpu_link.h"
#include "bus/doors.h"
#include "bus/space.h"
#include "mem/gmem.h"
#include "x86/cpuid.h"
#include "x86/state.h"

#define ENGINE_MAX_CPUS 64

struct engine;
struct vcpu;

/*
 * What a debugger wants of a vCPU. Addresses are linear. An instruction breakpoint stops the CPU
 * before the instruction, a watchpoint after the one that touched the bytes; the guest sees nothing
 * of either, and keeps its own debug registers.
 */
enum engine_break_kind {
	ENGINE_BREAK_EXEC,
	ENGINE_BREAK_INT3, /* the caller has put an INT3 there (see engine_ops.break_max) */
	ENGINE_BREAK_WRITE,
	ENGINE_BREAK_READ,   /* engines whose break_max is ENGINE_MAX_BREAKS; others: -EOPNOTSUPP */
	ENGINE_BREAK_ACCESS, /* reads and writes */
};
struct engine_break {
	uint64_t addr;
	uint32_t len; /* of a watchpoint: 1, 2, 4 or 8 */
	enum engine_break_kind kind;
};
#define ENGINE_MAX_BREAKS 128
struct engine_debug {
	/* Stop after one instruction, or after an exception it raised was delivered. Interrupts
	 * wait meanwhile, and a breakpoint at this instruction is passed over. */
	_Bool step;
	unsigned count;
	struct engine_break at[ENGINE_MAX_BREAKS];
};
/* Why run returned RUN_DEBUG. */
enum engine_stop { ENGINE_STOP_STEP, ENGINE_STOP_BREAK, ENGINE_STOP_WATCH };

/* What can happen to a VM because of its CPUs; told to engine_env.event on the vCPU's thread with
 * no lock held. */
enum engine_event {
	ENGINE_EVENT_TRIPLE_FAULT, /* the CPU entered shutdown; the board decides (a PC resets) */
	ENGINE_EVENT_DEBUG,	   /* what engine_ops.debug asked for came true; the VM pauses */
	ENGINE_EVENT_ERROR,	   /* the host failed: `text` says how; the VM must stop */
};

/* What the VM around gives an engine. Constant while the engine lives. */
struct engine_env {
	struct gmem *mem;
	struct space *ports, *memory;
	struct doors *doors;
	struct clock *clock;
	struct cpuid_policy
	    *cpuid; /* filled by the machine from engine_ops.caps before vCPUs are created */
	unsigned cpus;
	/* For engines with a local APIC of their own: the PIC's acknowledge cycle (vector, or -1),
	 * and an end-of-interrupt broadcast for the IOAPIC. */
	int (*pic_ack)(void *opaque);
	void (*eoi)(void *opaque, unsigned vector);
	/* ... and which vectors want that broadcast: asked when routing changed. Bit set per
	 * vector. */
	void (*event)(void *opaque, enum engine_event event, unsigned cpu, const char *text);
	void *opaque;
};

/* LOCKSTEP: every block by the two before it, compared; one CPU. DIRECT: the translator and user
 * code on the CPU, chosen while it runs; ALWAYS is for tests. */
enum engine_options_soft {
	SOFT_INTERP,
	SOFT_TRANSLATE,
	SOFT_LOCKSTEP,
	SOFT_DIRECT,
	SOFT_DIRECT_ALWAYS
};
/* What the translator tells about itself, for those who work on it. Streams are the caller's. */
struct engine_trace {
	FILE *blocks;	   /* guest and host code of what is translated; NULL: no */
	uint64_t from, to; /* of `blocks`: only blocks that have bytes in here (linear) */
	FILE *perf_map;	   /* one line a block, as perf reads them; NULL: no */
	_Bool count;	   /* host code counts the instructions it stands for */
};
struct engine_config {
	enum engine_options_soft soft;
	_Bool soft_named; /* a person asked for it: when the host forbids helpers, they are told */
	struct engine_trace trace;
	unsigned translate_at; /* at which execution a block is translated; 0: the default */
	_Bool plant;	 /* the translator has a bug (ADC is SBB): for tests of what finds such */
	_Bool trace_int; /* log every interrupt and exception delivered */
};

/* What a probe found; `why` is one clause for the person ("/dev/kvm runs SSE through an emulator").
 */
struct engine_probe {
	_Bool usable;	 /* it would work at all */
	_Bool advisable; /* auto may choose it */
	char why[256];
};

/*
 * An engine. All functions are called with no lock held. `run` is called on the vCPU's own thread;
 * get/set only while the vCPU is paused or on its thread outside of run. Errors are negative
 * errnos.
 */
struct engine_ops {
	const char *name;
	void (*probe)(struct engine_probe *out);
	/* Creates the VM side; `env` stays valid. */
	int (*create)(struct engine **engine, const struct engine_env *env,
		      const struct engine_config *cfg, struct error *err);
	void (*destroy)(struct engine *engine);
	/* What the CPUID policy may offer on this engine. Called before create. */
	void (*caps)(struct cpuid_caps *caps);

	/* A vCPU, in power-on state. vcpu_new has set up the common part. */
	int (*vcpu_create)(struct engine *engine, unsigned index, struct vcpu **vcpu,
			   struct error *err);
	void (*vcpu_destroy)(struct vcpu *vcpu);
	/* Runs guest code until something that the vCPU's thread must see; see enum run_result. */
	int (*run)(struct vcpu *vcpu);
	/* Would a halted vCPU go on, given link.events and its state? Called on its thread. */
	_Bool (*runnable)(struct vcpu *vcpu);
	/* Makes a vCPU that is inside run return soon, having set CPU_EVENT_KICK in link.events.
	 * Any thread. */
	void (*kick)(struct vcpu *vcpu);
	int (*get_state)(struct vcpu *vcpu, struct x86_state *out);
	int (*set_state)(struct vcpu *vcpu, const struct x86_state *in);
	/* Called before the state of a machine that was just switched on or reset is set: what the
	 * guest before had agreed on with the engine itself is over. NULL: there is no such thing.
	 */
	void (*reset)(struct vcpu *vcpu);

	/*
	 * Debugging, with the vCPU paused: NULL ends it. An engine takes at most `break_max`
	 * breakpoints other than INT3s (-ENOSPC past that), which are any number; one with a
	 * break_max of ENGINE_MAX_BREAKS needs no INT3s. NULL: this engine cannot be debugged.
	 */
	int (*debug)(struct vcpu *vcpu, const struct engine_debug *debug);
	unsigned break_max;

	/* TSC as a device sees it; called on any thread. */
	void (*tsc_source)(struct engine *engine, struct tsc_source *out);
	uint32_t (*tsc_khz)(void); /* rate of the guest's TSC; callable before create */
	/* The VM's clock was stopped or goes on: the TSC with it. While vCPUs are paused. NULL: the
	 * engine follows the clock by itself. */
	void (*time)(struct engine *engine, _Bool running);

	/* Engines with a local APIC in the host kernel only (else NULL): */
	_Bool own_apic;
	void (*msi)(struct engine *engine, uint64_t addr, uint32_t data);
	void (*extint)(struct engine *engine, _Bool level); /* PIC output at the boot CPU */
	int (*apic_get)(struct vcpu *vcpu, uint8_t page[1024], uint64_t *apic_base,
			uint64_t *tsc_deadline);
	int (*apic_set)(struct vcpu *vcpu, const uint8_t page[1024], uint64_t apic_base,
			uint64_t tsc_deadline);
	/* Bits of the vectors whose EOI must reach env->eoi; called by the machine when an IOAPIC
	 * entry changed. */
	void (*eoi_vectors)(struct engine *engine, const uint64_t bitmap[4]);
	/* A guest write to (addr, size[, value]) signals `fd` without leaving the kernel; -ENOSYS
	 * where an engine has none (the bus then does it). */
	int (*doorbell)(struct engine *engine, _Bool port, uint64_t addr, unsigned size,
			const uint64_t *value, int fd, _Bool add);
	/* A message sent when `fd` is signalled; returns a handle for irqfd_set/irqfd_del. */
	int (*irqfd_add)(struct engine *engine, int fd, uint64_t addr, uint32_t data);
	int (*irqfd_set)(struct engine *engine, int handle, uint64_t addr, uint32_t data);
	void (*irqfd_del)(struct engine *engine, int handle);

	/* Memory: slots come from gmem at create. Dirty pages that only the engine knows of are
	 * pushed into gmem's log. */
	int (*dirty_log)(struct engine *engine, _Bool on);
	int (*dirty_sync)(struct engine *engine);

	/* Human-readable counters, one "name value" per line. May be NULL. */
	void (*stats)(struct engine *engine, struct wbuf *out);
};

struct engine {
	const struct engine_ops *ops;
	const struct engine_env *env;
	struct engine_config cfg;
};

extern const struct engine_ops engine_soft;
extern const struct engine_ops engine_kvm;

#endif
