/* stack.h: the stack in any mode. */
#ifndef ENGINE_SOFT_STACK_H
#define ENGINE_SOFT_STACK_H

#include "engine/soft/core.h"

/* Bytes of the stack pointer: 8 in 64-bit mode, else by SS.B. */
static inline unsigned stack_size(const struct soft_cpu *cpu)
{
	return cpu->mode & SOFT_MODE_64 ? 8 : cpu->mode & SOFT_MODE_SS32 ? 4 : 2;
}
static inline void stack_set(struct soft_cpu *cpu, uint64_t sp)
{
	insn_gpr_set(cpu, X86_RSP * 8, stack_size(cpu), sp);
}
static inline void stack_add(struct soft_cpu *cpu, uint64_t bytes)
{
	stack_set(cpu, cpu->s.gpr[X86_RSP] + bytes);
}
/* The linear address of SP + off, checked for an access of `size` bytes. */
static inline uint64_t stack_lin(struct soft_cpu *cpu, uint64_t off, unsigned size, _Bool write)
{
	uint64_t sp = (cpu->s.gpr[X86_RSP] + off) & size_mask(stack_size(cpu));

	return soft_seg_lin(cpu, X86_SS, sp, size, write);
}
static inline uint64_t stack_read(struct soft_cpu *cpu, uint64_t off, unsigned size)
{
	uint64_t lin = stack_lin(cpu, off, size, 0);

	return size == 8   ? soft_read64(cpu, X86_SS, lin)
	       : size == 4 ? soft_read32(cpu, X86_SS, lin)
			   : soft_read16(cpu, X86_SS, lin);
}
/* Writes below the stack pointer without moving it. */
static inline void stack_write(struct soft_cpu *cpu, uint64_t off, unsigned size, uint64_t v)
{
	uint64_t lin = stack_lin(cpu, off, size, 1);

	if (size == 8)
		soft_write64(cpu, X86_SS, lin, v);
	else if (size == 4)
		soft_write32(cpu, X86_SS, lin, (uint32_t)v);
	else
		soft_write16(cpu, X86_SS, lin, (uint16_t)v);
}
static inline void stack_push(struct soft_cpu *cpu, uint64_t v, unsigned size)
{
	stack_write(cpu, -(uint64_t)size, size, v);
	stack_add(cpu, -(uint64_t)size);
}

#endif
