/* state.h: the whole architectural state of one CPU, in a form that belongs to no engine. */
#ifndef X86_STATE_H
#define X86_STATE_H

#include <stdalign.h>
#include "base/util.h"

enum x86_gpr {
	X86_RAX,
	X86_RCX,
	X86_RDX,
	X86_RBX,
	X86_RSP,
	X86_RBP,
	X86_RSI,
	X86_RDI,
	X86_R8,
	X86_R9,
	X86_R10,
	X86_R11,
	X86_R12,
	X86_R13,
	X86_R14,
	X86_R15
};
enum x86_segreg { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS };

/*
 * A segment register with its hidden part. `attr` is the descriptor's second dword shifted right by
 * 8, without the limit bits, plus "unusable" in bit 16 (SDM3 25.4.1): type 3:0, S 4, DPL 6:5, P 7,
 * AVL 12, L 13, D/B 14, G 15. `limit` is in bytes, already scaled by G.
 */
struct x86_seg {
	uint64_t base;
	uint32_t limit;
	uint32_t attr;
	uint16_t selector;
	uint16_t pad[3];
};
#define X86_SEG_TYPE(a)	 ((a)&15)
#define X86_SEG_S	 BIT32(4)
#define X86_SEG_DPL(a)	 (((a) >> 5) & 3)
#define X86_SEG_P	 BIT32(7)
#define X86_SEG_AVL	 BIT32(12)
#define X86_SEG_L	 BIT32(13)
#define X86_SEG_DB	 BIT32(14)
#define X86_SEG_G	 BIT32(15)
#define X86_SEG_UNUSABLE BIT32(16)

struct x86_table {
	uint64_t base;
	uint16_t limit;
	uint16_t pad[3];
};

/* What a CPU is doing between instructions (SDM3 9.4, KVM's mp_state). */
enum x86_activity { X86_RUNNING, X86_HALTED, X86_WAIT_SIPI, X86_SHUTDOWN };

/*
 * Floating-point and vector registers. `vec` holds XMM, YMM and ZMM contiguously (zmm n = vec[n],
 * ymm its low 32 bytes, xmm its low 16). `fx` is an FXSAVE image of which only the x87 part and
 * MXCSR are live (bytes 0-159: FCW, FSW, FTW, FOP, FIP, FDP, MXCSR, MXCSR_MASK, ST0-7); its XMM
 * part is not kept. MMX registers are the low halves of the ST slots in physical order, as FXSAVE
 * has it relative to TOP.
 */
struct x86_fpu {
	alignas(64) uint8_t vec[32][64];
	alignas(64) uint8_t fx[512];
	uint64_t k[8];
};
#define X86_FX_FCW   0
#define X86_FX_FSW   2
#define X86_FX_FTW   4
#define X86_FX_FOP   6
#define X86_FX_FIP   8
#define X86_FX_FDP   16
#define X86_FX_MXCSR 24
#define X86_FX_MASK  28
#define X86_FX_ST    32

#define X86_MTRR_VAR 8

struct x86_state {
	uint64_t gpr[16];
	uint64_t rip;
	uint64_t rflags;
	struct x86_seg seg[6];
	struct x86_seg ldt, tr;
	struct x86_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4; /* CR8 lives in the local APIC's TPR */
	uint64_t efer;
	uint64_t xcr0;
	uint64_t xss;
	uint64_t dr[4], dr6, dr7;
	uint32_t pkru;

	/* MSRs */
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux, misc_enable, spec_ctrl, tsc_adjust, debugctl, smi_count;
	uint64_t mtrr_def, mtrr_fixed[11], mtrr_base[X86_MTRR_VAR], mtrr_mask[X86_MTRR_VAR];
	uint64_t mcg_status, mcg_ctl, mc_bank[4 * 4];
	uint64_t tsc; /* the value at the time the state was taken */

	uint32_t activity;  /* enum x86_activity */
	uint8_t shadow_sti; /* interrupts are held off for one instruction after STI */
	uint8_t shadow_ss;  /* ... and debug traps as well after MOV SS/POP SS */
	uint8_t nmi_masked; /* from an NMI to the next IRET */
	uint8_t in_smm;	    /* always 0 */
	/* An event taken but not yet delivered (KVM reports such): valid bit, vector, has error
	 * code. */
	uint8_t event_valid, event_vector, event_kind, event_has_error;
	uint32_t event_error;
	/* Edges that the CPU has not taken yet, and the SIPI's vector. They live in the CPU's link;
	 * here only where a state is saved (machine_state.c). */
	uint8_t nmi_pending, init_pending, sipi_pending, sipi_vector;

	struct x86_fpu fpu;
};

/* event_kind */
enum x86_event_kind { X86_EVENT_INTR, X86_EVENT_NMI, X86_EVENT_EXCEPTION, X86_EVENT_SOFT };

/* Power-on (SDM3 table 10-1) for any CPU; the boot CPU then starts, others wait for SIPI. */
void x86_state_reset(struct x86_state *s, _Bool bsp);
/* INIT: as above, but keeps FPU, MSRs that INIT keeps, CR0.CD/NW. */
void x86_state_init(struct x86_state *s, _Bool bsp);

/* Is every field something the architecture allows (canonical addresses, reserved bits, modes that
 * go together)? For saved state, which is hostile. 0 or -EINVAL with a sentence. */
struct error;
NODISCARD int x86_state_check(const struct x86_state *s, struct error *err);

#endif
