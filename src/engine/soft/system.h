/* system.h: what the core asks of the system part: delivery, privileged instructions (sys_*.c). */
#ifndef ENGINE_SOFT_SYSTEM_H
#define ENGINE_SOFT_SYSTEM_H

#include <Zydis/Zydis.h>
#include "engine/soft/cpu.h"

/*
 * Decoding: called for instructions that the integer part does not know. `out` comes with len,
 * imm, the memory operand, osize, asize, seg and r1/r2/r3 (the first three visible GPR operands in
 * order) filled in; the function sets fn and adds flags (INSN_END | INSN_STATE for everything that
 * may change mode, privilege, address space, IF, TF or activity). False: not one of its own.
 * Its instructions: int n, int3, into, int1, iret*, far jmp/call/ret, syscall, sysret, sysenter,
 * sysexit, mov to and from segment registers, push/pop of them, lds..lgs, ltr/lldt/lgdt/lidt and
 * their stores, smsw, lmsw, mov cr/dr, clts, rdmsr, wrmsr, cpuid, xgetbv, xsetbv, lar, lsl, verr,
 * verw, arpl, bound, invlpg, invpcid, invd, wbinvd, swapgs, rd/wr fs/gs base, hlt, cli, sti,
 * pushf, popf, stac, clac, vmcall, vmmcall, monitor, mwait, rdpmc, rsm, and those of features that
 * are not offered (#UD). The core does: in, out, ins, outs, rdtsc, rdtscp, rdpid, rdrand, rdseed,
 * ud0-2.
 */
_Bool sys_decode(struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
		 const ZydisDecodedOperand *ops, struct insn *out);

/*
 * Delivers the exception in cpu->exc (valid; the function clears it), raised by the instruction
 * at cpu->s.rip (faults) or before it (traps: #DB by kind of dr6). Combines with cpu->delivering
 * into #DF or shutdown. May raise: it is then called again with the new exception and `delivering`
 * still set. On success clears `delivering`.
 */
void sys_deliver(struct soft_cpu *cpu);
/* What sys_deliver begins with: cpu->exc becomes what is to be delivered, with `delivering` taken
 * into account, and cleared. May end in shutdown, and does not return then. */
void sys_settle(struct soft_cpu *cpu);
/* An external interrupt or NMI (kind X86_EVENT_INTR or X86_EVENT_NMI) between instructions. The
 * core has acknowledged it and cleared the shadows; the activity becomes running. May raise. */
void sys_interrupt(struct soft_cpu *cpu, unsigned vector, unsigned kind);
/* INIT and SIPI have reached the CPU. */
void sys_init(struct soft_cpu *cpu);
void sys_sipi(struct soft_cpu *cpu, uint8_t vector);

/* May the CPU touch these ports now? Raises #GP(0) otherwise (IOPL, the TSS's bitmap). */
void sys_io_check(struct soft_cpu *cpu, uint16_t port, unsigned size);

#endif
