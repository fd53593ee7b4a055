/* vm.h: one VM's life: made from a description, run, paused, reset, ended. */
#ifndef VMM_VM_H
#define VMM_VM_H

#include "base/error.h"
#include "proto/spec.h"

struct vm;

/*
 *   created --run--> running <--pause/resume--> paused
 *                      |  ^
 *                      |  reset
 *                      v
 *            shut down (power-off, quit, signal) or crashed (panic, triple faults, engine error)
 */
enum vm_state { VM_CREATED, VM_RUNNING, VM_PAUSED, VM_SHUT_DOWN, VM_CRASHED };
const char *vm_state_name(enum vm_state state);

/* Why a VM ended. */
enum vm_end {
	VM_END_POWER_OFF,  /* the guest turned itself off */
	VM_END_QUIT,	   /* the person at the terminal did */
	VM_END_SIGNAL,	   /* `code` is the signal's number */
	VM_END_RESET,	   /* the guest asked for a reset, and --no-reboot was given */
	VM_END_PANIC,	   /* the guest's kernel said that it panicked */
	VM_END_CRASH,	   /* triple fault: with --no-reboot, or again and again */
	VM_END_DEBUG_EXIT, /* `code` is what the guest wrote */
	VM_END_ERROR,	   /* the host failed; `text` says how */
};
struct vm_result {
	enum vm_end end;
	unsigned code;
	char text[512]; /* one sentence for the person where there is something to say, else "" */
};

/*
 * Makes the VM: opens the kernel, chooses the engine, builds the board, loads the guest. Nothing
 * runs yet. On failure nothing is left behind and `err` has the sentence. The calling thread
 * becomes the VM's: all calls below come from it.
 */
NODISCARD int vm_new(struct vm **vm, const struct vm_spec *spec, struct error *err);

/* Runs until the VM ends; this thread is its event loop meanwhile. */
void vm_run(struct vm *vm, struct vm_result *result);

void vm_free(struct vm *vm);

/* Which engine was chosen and why: one line. */
const char *vm_engine_line(const struct vm *vm);

#endif
