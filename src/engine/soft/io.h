/* io.h: what instructions ask of the board, the local APIC and the clock. */
#ifndef ENGINE_SOFT_IO_H
#define ENGINE_SOFT_IO_H

#include "engine/soft/cpu.h"

/* As the functions of engine/vcpu.h with these names. */
uint64_t soft_port_read(struct soft_cpu *cpu, uint16_t port, unsigned size);
void soft_port_write(struct soft_cpu *cpu, uint16_t port, unsigned size, uint64_t value);
uint64_t soft_mmio_read(struct soft_cpu *cpu, uint64_t addr, unsigned size);
void soft_mmio_write(struct soft_cpu *cpu, uint64_t addr, unsigned size, uint64_t value);
int soft_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value);
int soft_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value);
_Bool soft_hypercall(struct soft_cpu *cpu, struct hypercall_regs *regs);
/* CR8, which is the local APIC's; 0 without one. */
uint64_t soft_cr8_read(struct soft_cpu *cpu);
void soft_cr8_write(struct soft_cpu *cpu, uint8_t value);
/* RDRAND and RDSEED: the low bytes count; *af as the instruction leaves the flags. */
uint64_t soft_random(struct soft_cpu *cpu, _Bool seed, unsigned size, uint32_t *af);

#endif
