/* io.c: what instructions ask of the board, the local APIC and the clock; in lock-step once. */
#include "engine/soft/io.h"
#include "engine/soft/lockstep.h"

/* Answered already, or to be recorded once `io` is complete. */
static _Bool replayed(struct soft_cpu *cpu, struct soft_io *io)
{
	return UNLIKELY(cpu->lockstep != NULL) && lockstep_replay(cpu, io);
}
static void done(struct soft_cpu *cpu, const struct soft_io *io)
{
	if (UNLIKELY(cpu->lockstep != NULL))
		lockstep_record(cpu, io);
}

uint64_t soft_port_read(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	struct soft_io io = {.kind = SOFT_IO_PORT_READ, .address = port, .size = size};

	if (!replayed(cpu, &io)) {
		io.value = exit_port_read(&cpu->base, port, size);
		done(cpu, &io);
	}
	return io.value;
}

void soft_port_write(struct soft_cpu *cpu, uint16_t port, unsigned size, uint64_t value)
{
	struct soft_io io = {
	    .kind = SOFT_IO_PORT_WRITE, .address = port, .size = size, .value = value};

	if (!replayed(cpu, &io)) {
		exit_port_write(&cpu->base, port, size, value);
		done(cpu, &io);
	}
}

uint64_t soft_mmio_read(struct soft_cpu *cpu, uint64_t addr, unsigned size)
{
	struct soft_io io = {.kind = SOFT_IO_MMIO_READ, .address = addr, .size = size};

	if (!replayed(cpu, &io)) {
		io.value = exit_mmio_read(&cpu->base, addr, size);
		done(cpu, &io);
	}
	return io.value;
}

void soft_mmio_write(struct soft_cpu *cpu, uint64_t addr, unsigned size, uint64_t value)
{
	struct soft_io io = {
	    .kind = SOFT_IO_MMIO_WRITE, .address = addr, .size = size, .value = value};

	if (!replayed(cpu, &io)) {
		exit_mmio_write(&cpu->base, addr, size, value);
		done(cpu, &io);
	}
}

int soft_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
	struct soft_io io = {.kind = SOFT_IO_MSR_READ, .address = msr};

	if (!replayed(cpu, &io)) {
		io.rc = exit_msr_read(&cpu->base, msr, &io.value);
		done(cpu, &io);
	}
	if (!io.rc)
		*value = io.value;
	return io.rc;
}

int soft_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
	struct soft_io io = {.kind = SOFT_IO_MSR_WRITE, .address = msr, .value = value};

	if (!replayed(cpu, &io)) {
		io.rc = exit_msr_write(&cpu->base, msr, value);
		done(cpu, &io);
	}
	return io.rc;
}

_Bool soft_hypercall(struct soft_cpu *cpu, struct hypercall_regs *regs)
{
	struct soft_io io = {.kind = SOFT_IO_HYPERCALL, .value = regs->rax, .regs = *regs};

	if (!replayed(cpu, &io)) {
		io.rc = exit_hypercall(&cpu->base, &io.regs);
		done(cpu, &io);
	}
	*regs = io.regs;
	return io.rc != 0;
}

uint64_t soft_cr8_read(struct soft_cpu *cpu)
{
	const struct cpu_apic *apic = &cpu->base.apic;
	struct soft_io io = {.kind = SOFT_IO_CR8_READ};

	if (!replayed(cpu, &io)) {
		io.value = apic->ops ? apic->ops->get_cr8(apic->apic) : 0;
		done(cpu, &io);
	}
	return io.value;
}

void soft_cr8_write(struct soft_cpu *cpu, uint8_t value)
{
	const struct cpu_apic *apic = &cpu->base.apic;
	struct soft_io io = {.kind = SOFT_IO_CR8_WRITE, .value = value};

	if (!replayed(cpu, &io)) {
		if (apic->ops)
			apic->ops->set_cr8(apic->apic, value);
		done(cpu, &io);
	}
}

/* The host's. The flags are those of the instruction: CF says whether there was one. */
static uint64_t random_host(_Bool seed, unsigned size, uint32_t *af)
{
	uint64_t v = 0;
	uint32_t flags;

#define RANDOM(insn, type)                                                                         \
	({                                                                                         \
		type r_;                                                                           \
		__asm__ volatile(insn " %0; lahf; seto %%al" : "=&r"(r_), "=&a"(flags) : : "cc");  \
		v = r_;                                                                            \
	})
	if (size == 2)
		seed ? RANDOM("rdseed", uint16_t) : RANDOM("rdrand", uint16_t);
	else if (size == 4)
		seed ? RANDOM("rdseed", uint32_t) : RANDOM("rdrand", uint32_t);
	else
		seed ? RANDOM("rdseed", uint64_t) : RANDOM("rdrand", uint64_t);
#undef RANDOM
	*af = flags;
	return v;
}

uint64_t soft_random(struct soft_cpu *cpu, _Bool seed, unsigned size, uint32_t *af)
{
	struct soft_io io = {.kind = SOFT_IO_RANDOM, .size = size};

	if (!replayed(cpu, &io)) {
		uint32_t flags;

		io.value = random_host(seed, size, &flags);
		io.rc = (int)flags;
		done(cpu, &io);
	}
	*af = (uint32_t)io.rc;
	return io.value;
}
