/* doors.h: MSRs, hypercalls and CPUID leaves that devices and personalities answer. */
#ifndef BUS_DOORS_H
#define BUS_DOORS_H

#include "base/error.h"

#define DOORS_MAX_MSR 64

/* A range of MSRs. Hooks run on the vCPU's thread with no lock held. 0, or -1 for #GP(0). */
struct msr_door {
	uint32_t first, last;
	int (*read)(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value);
	int (*write)(void *opaque, unsigned cpu, uint32_t msr, uint64_t value);
	void *opaque;
	const char *name;
};

/* VMCALL/VMMCALL from ring 0 (or as the personality allows): registers in and out. Returns true
 * when it was answered; false gives #UD. */
struct hypercall_regs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10;
	uint8_t cpl;
	_Bool long_mode; /* 64-bit code */
};
struct hypercall_door {
	_Bool (*call)(void *opaque, unsigned cpu, struct hypercall_regs *regs);
	void *opaque;
};

/* A leaf of CPUID that somebody else than the CPU policy answers (0x40000000 and up). */
struct cpuid_out {
	uint32_t eax, ebx, ecx, edx;
};

struct doors {
	struct msr_door msr[DOORS_MAX_MSR];
	unsigned msr_count;
	struct hypercall_door hypercall;
	/* True when answered. */
	_Bool (*cpuid)(void *opaque, unsigned cpu, uint32_t leaf, uint32_t subleaf,
		       struct cpuid_out *out);
	void *cpuid_opaque;
};

/* Set-up only; -EEXIST on overlap, -ENOSPC. */
NODISCARD int doors_add_msr(struct doors *doors, const struct msr_door *door);
const struct msr_door *doors_find_msr(const struct doors *doors, uint32_t msr);

#endif
