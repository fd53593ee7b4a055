/* vcpu.h: a vCPU and its thread: starting, pausing, halting, and the one table of guest exits. */
#ifndef ENGINE_VCPU_H
#define ENGINE_VCPU_H

#include <pthread.h>
#include "base/lock.h"
#include "engine/engine.h"

/* What engine_ops.run returns to the thread. */
enum run_result {
	RUN_KICKED = 0,	  /* look at requests and events, then run again */
	RUN_HALTED = 1,	  /* HLT, or waiting for SIPI: sleep until runnable() */
	RUN_EXIT = 2,	  /* vcpu->exit says what; handled by exit_handle, then run again, even
			     when a request waits: run finishes the instruction and, with
			     CPU_EVENT_KICK set, returns RUN_KICKED before the next one */
	RUN_SHUTDOWN = 3, /* triple fault */
	RUN_DEBUG = 4,	  /* vcpu->stop says what a debugger's request met */
			  /* negative: the host failed */
};

/*
 * One guest exit that the board answers. Engines that leave guest code for it (KVM) fill vcpu->exit
 * and return RUN_EXIT; engines that can call out in the middle of an instruction (soft) call the
 * same functions of exit.c directly.
 */
enum exit_kind {
	EXIT_PORT,
	EXIT_MMIO,
	EXIT_EOI,
	EXIT_MSR_READ,
	EXIT_MSR_WRITE,
	EXIT_HYPERCALL,
	EXIT_KINDS
};
struct vcpu_exit {
	enum exit_kind kind;
	union {
		struct {
			uint16_t port;
			uint8_t size;
			_Bool write;
			uint32_t count; /* string I/O: elements at data */
			uint8_t *data;
		} port;
		struct {
			uint64_t addr;
			uint8_t size;
			_Bool write;
			uint8_t data[8];
		} mmio;
		struct {
			uint8_t vector;
		} eoi;
		struct {
			uint32_t index;
			uint64_t value;
			_Bool fault; /* out: #GP */
		} msr;
		struct {
			struct hypercall_regs regs;
			_Bool fault; /* out: #UD */
		} hypercall;
	};
};

/* The common head of an engine's vCPU struct. */
struct vcpu {
	struct engine *engine;
	unsigned index;
	struct cpu_link link; /* others raise events here; link.wake is vcpu_wake */
	struct cpu_apic
	    apic; /* set by the machine before the first run, unless the engine has its own */
	struct vcpu_exit exit;

	/* the thread's own */
	pthread_t thread;
	_Bool thread_started;
	struct lock lock; /* RANK_VCPU: guards the fields below */
	pthread_cond_t cond;
	_Bool want_pause, want_stop;
	_Bool paused, stopped;	   /* what the thread reports */
	_Atomic uint32_t sleeping; /* a futex: 1 while the thread halts; no lock */
	_Atomic uint64_t exits[EXIT_KINDS];
	/* Set with RUN_DEBUG; read while the vCPU is paused. */
	struct {
		enum engine_stop why;
		struct engine_break at; /* which, unless it was a step */
	} stop;
	/* An engine whose run() fails says here, in one clause, how. */
	char failure[256];
};

/* Common set-up and tear-down, called by engines in vcpu_create/vcpu_destroy. */
void vcpu_init(struct vcpu *vcpu, struct engine *engine, unsigned index);
void vcpu_fini(struct vcpu *vcpu);

/* Threads start paused. start creates the thread; pause returns when the vCPU is outside guest code
 * and stays so; resume lets it go on; stop ends and joins the thread. Called from one controlling
 * thread (the VM's), never from a vCPU's own. */
NODISCARD int vcpu_start(struct vcpu *vcpu, struct error *err);
void vcpu_pause_begin(struct vcpu *vcpu); /* asks, does not wait: so that many are asked first */
void vcpu_pause_wait(struct vcpu *vcpu);
_Bool vcpu_is_paused(struct vcpu *vcpu); /* stands still, and nobody has sent it on */
void vcpu_resume(struct vcpu *vcpu);
void vcpu_stop(struct vcpu *vcpu);

/* link.wake of every vCPU: ends a halt, or makes the engine look at link.events. A leaf call that
 * takes no lock: any thread, under any lock. */
void vcpu_wake(struct cpu_link *link);

/* exit.c: the one place that answers guest exits, by table. */
void exit_handle(struct vcpu *vcpu);
uint64_t exit_port_read(struct vcpu *vcpu, uint16_t port, unsigned size);
void exit_port_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint64_t value);
uint64_t exit_mmio_read(struct vcpu *vcpu, uint64_t addr, unsigned size);
void exit_mmio_write(struct vcpu *vcpu, uint64_t addr, unsigned size, uint64_t value);
/* MSRs that belong to doors (and, for engines without an APIC of their own, to the local APIC). 0,
 * or -1: #GP. */
int exit_msr_read(struct vcpu *vcpu, uint32_t msr, uint64_t *value);
int exit_msr_write(struct vcpu *vcpu, uint32_t msr, uint64_t value);
_Bool exit_hypercall(struct vcpu *vcpu, struct hypercall_regs *regs);

#endif
