/* exit.c: the one table of guest exits: what the board answers, whichever engine asks. */
#include "engine/vcpu.h"

#include <assert.h>
#include <string.h>
#include "base/trace.h"
#include "x86/regs.h"

static void exit_count(struct vcpu *vcpu, enum exit_kind kind)
{
	atomic_fetch_add_explicit(&vcpu->exits[kind], 1, memory_order_relaxed);
}

/* Elements sit little-endian in exit data, as on the host. */
static uint64_t elem_load(const uint8_t *data, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, data, size);
	return value;
}

uint64_t exit_port_read(struct vcpu *vcpu, uint16_t port, unsigned size)
{
	uint64_t value;

	exit_count(vcpu, EXIT_PORT);
	value = space_read(vcpu->engine->env->ports, port, size) & size_mask(size);
	trace(TRACE_IO, "cpu%u in%u %04x -> %llx", vcpu->index, size, port,
	      (unsigned long long)value);
	return value;
}

void exit_port_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint64_t value)
{
	exit_count(vcpu, EXIT_PORT);
	value &= size_mask(size);
	trace(TRACE_IO, "cpu%u out%u %04x <- %llx", vcpu->index, size, port,
	      (unsigned long long)value);
	space_write(vcpu->engine->env->ports, port, size, value);
}

uint64_t exit_mmio_read(struct vcpu *vcpu, uint64_t addr, unsigned size)
{
	const struct cpu_apic *apic = &vcpu->apic;
	uint64_t value;

	exit_count(vcpu, EXIT_MMIO);
	/* Each CPU sees its own local APIC, before anything that the board has there. */
	if (!apic->ops || !apic->ops->mmio_read(apic->apic, addr, size, &value))
		value = space_read(vcpu->engine->env->memory, addr, size);
	value &= size_mask(size);
	trace(TRACE_IO, "cpu%u read%u %llx -> %llx", vcpu->index, size, (unsigned long long)addr,
	      (unsigned long long)value);
	return value;
}

void exit_mmio_write(struct vcpu *vcpu, uint64_t addr, unsigned size, uint64_t value)
{
	const struct cpu_apic *apic = &vcpu->apic;

	exit_count(vcpu, EXIT_MMIO);
	value &= size_mask(size);
	trace(TRACE_IO, "cpu%u write%u %llx <- %llx", vcpu->index, size, (unsigned long long)addr,
	      (unsigned long long)value);
	if (!apic->ops || !apic->ops->mmio_write(apic->apic, addr, size, value))
		space_write(vcpu->engine->env->memory, addr, size, value);
}

static _Bool msr_is_apic(uint32_t msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
	       (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST);
}

int exit_msr_read(struct vcpu *vcpu, uint32_t msr, uint64_t *value)
{
	const struct msr_door *door = doors_find_msr(vcpu->engine->env->doors, msr);
	int rc = -1;

	exit_count(vcpu, EXIT_MSR_READ);
	if (door) {
		if (door->read)
			rc = door->read(door->opaque, vcpu->index, msr, value);
	} else if (vcpu->apic.ops && msr_is_apic(msr)) {
		rc = vcpu->apic.ops->msr_read(vcpu->apic.apic, msr, value);
	}
	trace(TRACE_MSR, "cpu%u rdmsr %x -> %llx%s", vcpu->index, msr,
	      rc ? 0 : (unsigned long long)*value, rc ? " #GP" : "");
	return rc ? -1 : 0;
}

int exit_msr_write(struct vcpu *vcpu, uint32_t msr, uint64_t value)
{
	const struct msr_door *door = doors_find_msr(vcpu->engine->env->doors, msr);
	int rc = -1;

	exit_count(vcpu, EXIT_MSR_WRITE);
	if (door) {
		if (door->write)
			rc = door->write(door->opaque, vcpu->index, msr, value);
	} else if (vcpu->apic.ops && msr_is_apic(msr)) {
		rc = vcpu->apic.ops->msr_write(vcpu->apic.apic, msr, value);
	}
	trace(TRACE_MSR, "cpu%u wrmsr %x <- %llx%s", vcpu->index, msr, (unsigned long long)value,
	      rc ? " #GP" : "");
	return rc ? -1 : 0;
}

_Bool exit_hypercall(struct vcpu *vcpu, struct hypercall_regs *regs)
{
	const struct hypercall_door *door = &vcpu->engine->env->doors->hypercall;

	exit_count(vcpu, EXIT_HYPERCALL);
	return door->call && door->call(door->opaque, vcpu->index, regs);
}

static void handle_port(struct vcpu *vcpu, struct vcpu_exit *e)
{
	uint8_t *data = e->port.data;

	for (uint32_t i = 0; i < e->port.count; i++, data += e->port.size) {
		if (e->port.write) {
			exit_port_write(vcpu, e->port.port, e->port.size,
					elem_load(data, e->port.size));
		} else {
			uint64_t value = exit_port_read(vcpu, e->port.port, e->port.size);

			memcpy(data, &value, e->port.size);
		}
	}
}

/* An access that an engine cut at a page boundary may have any size up to 8; the spaces take powers
 * of two. */
static void handle_mmio(struct vcpu *vcpu, struct vcpu_exit *e)
{
	unsigned done = 0;

	while (done < e->mmio.size) {
		unsigned left = e->mmio.size - done;
		unsigned size = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;

		if (e->mmio.write) {
			exit_mmio_write(vcpu, e->mmio.addr + done, size,
					elem_load(e->mmio.data + done, size));
		} else {
			uint64_t value = exit_mmio_read(vcpu, e->mmio.addr + done, size);

			memcpy(e->mmio.data + done, &value, size);
		}
		done += size;
	}
}

static void handle_eoi(struct vcpu *vcpu, struct vcpu_exit *e)
{
	const struct engine_env *env = vcpu->engine->env;

	exit_count(vcpu, EXIT_EOI);
	trace(TRACE_IRQ, "cpu%u eoi vector %02x", vcpu->index, e->eoi.vector);
	if (env->eoi)
		env->eoi(env->opaque, e->eoi.vector);
}

static void handle_msr_read(struct vcpu *vcpu, struct vcpu_exit *e)
{
	e->msr.value = 0;
	e->msr.fault = exit_msr_read(vcpu, e->msr.index, &e->msr.value) < 0;
}

static void handle_msr_write(struct vcpu *vcpu, struct vcpu_exit *e)
{
	e->msr.fault = exit_msr_write(vcpu, e->msr.index, e->msr.value) < 0;
}

static void handle_hypercall(struct vcpu *vcpu, struct vcpu_exit *e)
{
	e->hypercall.fault = !exit_hypercall(vcpu, &e->hypercall.regs);
}

static void (*const exit_table[EXIT_KINDS])(struct vcpu *vcpu, struct vcpu_exit *e) = {
    [EXIT_PORT] = handle_port,
    [EXIT_MMIO] = handle_mmio,
    [EXIT_EOI] = handle_eoi,
    [EXIT_MSR_READ] = handle_msr_read,
    [EXIT_MSR_WRITE] = handle_msr_write,
    [EXIT_HYPERCALL] = handle_hypercall,
};

void exit_handle(struct vcpu *vcpu)
{
	assert(vcpu->exit.kind < EXIT_KINDS);
	exit_table[vcpu->exit.kind](vcpu, &vcpu->exit);
}
