/* sys.h: what the files of the system part (sys_*.c) share: descriptors, stacks, transfers. */
#ifndef ENGINE_SOFT_SYS_H
#define ENGINE_SOFT_SYS_H

#include "engine/soft/system.h"
#include "x86/seg.h"

/*
 * The rule of all these files: read and check everything first, write guest memory next, and change
 * registers last, so that a raise (which never returns) leaves the registers as they were. `ext` is
 * bit 0 of an error code: the fault came up while an event from outside of the program was being
 * delivered (SDM3 6.13).
 */

static inline _Bool sys_canonical(const struct soft_cpu *cpu, uint64_t a)
{
	unsigned shift = cpu->s.cr4 & X86_CR4_LA57 ? 7 : 16;

	return (uint64_t)((int64_t)(a << shift) >> shift) == a;
}
static inline unsigned sys_iopl(const struct soft_cpu *cpu)
{
	return (cpu->s.rflags & X86_IOPL) >> 12;
}
/* Protected mode that is not virtual-8086: where selectors mean descriptors. */
static inline _Bool sys_has_selectors(const struct soft_cpu *cpu)
{
	return !soft_is_real(cpu) && !(cpu->s.rflags & X86_VM);
}
static inline const struct cpuid_policy *sys_policy(const struct soft_cpu *cpu)
{
	return cpu->base.engine->env->cpuid;
}
/* #GP(0) unless at privilege level 0. */
static inline void sys_need_ring0(struct soft_cpu *cpu)
{
	if (cpu->cpl)
		soft_raise_err(cpu, X86_VEC_GP, 0);
}
NORETURN void sys_gp(struct soft_cpu *cpu, uint32_t error);
NORETURN void sys_ud(struct soft_cpu *cpu);

/* sys_desc.c: descriptor tables */
struct sys_desc {
	uint64_t lo, hi; /* hi: second half of a 16-byte system descriptor */
	uint64_t lin;	 /* where it is */
};
/* False when the selector lies outside of its table. Null selectors are the caller's business. */
_Bool sys_desc_read(struct soft_cpu *cpu, uint16_t sel, struct sys_desc *d);
/* As above; in IA-32e mode 16 bytes (LDT, TSS, call gates). */
_Bool sys_desc_read_system(struct soft_cpu *cpu, uint16_t sel, struct sys_desc *d);
/* Atomically sets or clears bits of the descriptor's upper dword, in memory and in *d. */
void sys_desc_set(struct soft_cpu *cpu, struct sys_desc *d, uint32_t set, uint32_t clear);
/* Sets the accessed bit where it is clear. */
void sys_desc_touch(struct soft_cpu *cpu, struct sys_desc *d);
#define SYS_DESC_BUSY BIT32(9)

/* Loads DS, ES, FS, GS or SS as MOV does, in every mode. Commits; calls soft_mode_update. */
void sys_seg_load(struct soft_cpu *cpu, unsigned seg, uint16_t sel);
/* What a segment register would hold: every check of sys_seg_load without the commit. */
struct x86_seg sys_seg_make(struct soft_cpu *cpu, unsigned seg, uint16_t sel);
/* After a return to an outer ring: data segments that it may not use become null. */
void sys_seg_hide(struct soft_cpu *cpu, unsigned new_cpl);

/* A stack being pushed to or popped from; commits nothing by itself. */
struct sys_stack {
	struct x86_seg ss;
	uint64_t sp, mask;
	uint64_t high;	/* what a 16-bit stack pointer leaves alone */
	_Bool flat;	/* 64-bit: no limits */
	_Bool same;	/* accessed with the CPU's present privilege */
	_Bool user;	/* else: as ring 3 or as supervisor */
	uint32_t error; /* for #SS */
};
void sys_stack_current(struct soft_cpu *cpu, struct sys_stack *st);
void sys_push(struct soft_cpu *cpu, struct sys_stack *st, unsigned size, uint64_t v);
/* A selector in `size` bytes of the stack. Of 4 Intel's CPUs write 2 (SDM2 PUSH). */
void sys_push_selector(struct soft_cpu *cpu, struct sys_stack *st, unsigned size, uint16_t sel);
uint64_t sys_pop(struct soft_cpu *cpu, struct sys_stack *st, unsigned size);
/* The stack pointer register as it would be with st->sp. */
uint64_t sys_stack_rsp(const struct sys_stack *st);

/* SS:ESP (or RSP) for an inner ring out of the TSS, checked (#TS, #SS with `ext`). The returned
 * stack's error code is that of its selector. */
void sys_stack_inner(struct soft_cpu *cpu, unsigned cpl, uint32_t ext, struct sys_stack *st);
/* IA-32e mode: pointer number `slot` (0 to 2: RSPn, 4 to 10: ISTn as slot n + 3). */
uint64_t sys_tss_rsp(struct soft_cpu *cpu, unsigned slot, uint32_t ext);

/* Is `rip` allowed in the code segment `cs` (canonical, or inside the limit)? Else #GP(ext). */
void sys_check_rip(struct soft_cpu *cpu, const struct x86_seg *cs, uint64_t rip, uint32_t ext);
/* L is set and long mode is active: 64-bit code. */
static inline _Bool sys_code64(const struct soft_cpu *cpu, const struct x86_seg *cs)
{
	return soft_is_long(cpu) && cs->attr & X86_SEG_L;
}

/* sys_deliver.c */
struct sys_delivery {
	unsigned vector;
	_Bool soft; /* INT n, INT3, INTO: the gate's DPL counts */
	_Bool has_error;
	uint32_t error, ext;
	uint64_t rip, flags; /* as pushed */
};
void sys_deliver_event(struct soft_cpu *cpu, const struct sys_delivery *d);

/* sys_task.c */
enum sys_task_by { SYS_TASK_JMP, SYS_TASK_CALL, SYS_TASK_INT, SYS_TASK_IRET };
/* Switches to the task behind a TSS selector whose privilege was checked. `rip` and `flags` are
 * saved as the old task's; for interrupts `error` (or NULL) is pushed on the new task's stack. */
void sys_task_switch(struct soft_cpu *cpu, uint16_t sel, enum sys_task_by by, uint64_t rip,
		     uint64_t flags, const uint32_t *error, uint32_t ext);

/* sys_cr.c: are PAE's four pointers at `cr3` loadable? (SDM3 4.4.1) */
_Bool sys_pdptes_valid(struct soft_cpu *cpu, uint64_t cr3);

/* sys_ret.c: POPF's and IRET's view of which flags may change. `old` with the changeable bits of
 * `value`. */
uint64_t sys_flags_merge(struct soft_cpu *cpu, uint64_t value, unsigned size, _Bool iret);

/* sys_msr.c: 0, or -1 for #GP. */
int sys_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value);
int sys_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value);

/* Handlers, by file; sys_decode.c names them. */
insn_fn sys_insn_int, sys_insn_int3, sys_insn_into, sys_insn_int1; /* sys_int.c */
insn_fn sys_insn_iret, sys_insn_retf;				   /* sys_ret.c */
/* The far pointer in memory: its selector, and an offset of so many bytes. */
uint16_t sys_far_load(struct soft_cpu *cpu, const struct insn *i, unsigned size, uint64_t *offset);
insn_fn sys_insn_jmp_far, sys_insn_call_far;					/* sys_far.c */
insn_fn sys_insn_syscall, sys_insn_sysret, sys_insn_sysenter, sys_insn_sysexit; /* sys_call.c */
insn_fn sys_insn_mov_to_seg, sys_insn_mov_from_seg, sys_insn_push_seg,
    sys_insn_pop_seg; /* sys_seg.c */
insn_fn sys_insn_load_far, sys_insn_lar, sys_insn_lsl, sys_insn_verr, sys_insn_arpl;
insn_fn sys_insn_lgdt, sys_insn_lidt, sys_insn_sgdt, sys_insn_sidt; /* sys_table.c */
insn_fn sys_insn_lldt, sys_insn_ltr, sys_insn_sldt, sys_insn_str;
insn_fn sys_insn_mov_to_cr, sys_insn_mov_from_cr, sys_insn_mov_to_dr, sys_insn_mov_from_dr;
insn_fn sys_insn_smsw, sys_insn_lmsw, sys_insn_clts, sys_insn_xgetbv, sys_insn_xsetbv;
insn_fn sys_insn_rdmsr, sys_insn_wrmsr; /* sys_msr.c */
insn_fn sys_insn_cli, sys_insn_sti, sys_insn_sti_within, sys_insn_pushf, sys_insn_popf,
    sys_insn_stac; /* sys_flags.c */
insn_fn sys_insn_clac;
insn_fn sys_insn_cpuid, sys_insn_hlt, sys_insn_invlpg, sys_insn_invpcid, sys_insn_wbinvd;
insn_fn sys_insn_swapgs, sys_insn_rdbase, sys_insn_wrbase, sys_insn_hypercall, sys_insn_rdpmc;
insn_fn sys_insn_monitor, sys_insn_mwait, sys_insn_bound; /* sys_misc.c */

#endif
