/* lapic_test.h: a few local APICs on a bus, with fake CPUs, PIC, IOAPIC and TSC. */
#ifndef DEV_PC_LAPIC_TEST_H
#define DEV_PC_LAPIC_TEST_H

#include "dev/pc/device_test.h"
#include "dev/pc/lapic.h"
#include "x86/regs.h"

#define LAPIC_TEST_CPUS 4
#define TEST_BASE	UINT64_C(0xfee00000)

struct lapic_fixture {
	struct lapic_bus *bus;
	struct clock *clock;
	struct cpu_link link[LAPIC_TEST_CPUS];
	struct device *dev[LAPIC_TEST_CPUS];
	struct cpu_apic apic[LAPIC_TEST_CPUS];
	unsigned eois, acks;
	unsigned eoi_vector;
	int pic_vector;
	uint64_t tsc_offset;
	struct lapic_remote remote;
};

static inline void test_eoi(void *opaque, unsigned vector)
{
	struct lapic_fixture *f = opaque;

	f->eois++;
	f->eoi_vector = vector;
}

static inline int test_pic_ack(void *opaque)
{
	struct lapic_fixture *f = opaque;

	f->acks++;
	return f->pic_vector;
}

/* A TSC of 2 GHz. */
static inline uint64_t test_tsc_read(void *opaque, unsigned cpu)
{
	struct lapic_fixture *f = opaque;

	return clock_now_ns(f->clock) * 2 + f->tsc_offset;
}

static inline uint64_t test_tsc_ns(void *opaque, unsigned cpu, uint64_t tsc)
{
	struct lapic_fixture *f = opaque;
	uint64_t now = test_tsc_read(opaque, cpu);

	/* The first nanosecond at which the counter has got there. */
	return tsc_due_ns(tsc > now ? tsc + (tsc != UINT64_MAX) : tsc, now, clock_now_ns(f->clock),
			  2000000);
}

static inline void lapic_make(struct lapic_fixture *f)
{
	const struct lapic_bus_config bus = {test_eoi, f, test_pic_ack, f};

	assert_int_equal(clock_new(&f->clock, CLOCK_MANUAL), 0);
	assert_int_equal(lapic_bus_new(&f->bus), 0);
	lapic_bus_configure(f->bus, &bus);
	for (unsigned i = 0; i < LAPIC_TEST_CPUS; i++) {
		struct lapic_config cfg = {
		    .bus = f->bus,
		    .clock = f->clock,
		    .link = &f->link[i],
		    .tsc = {test_tsc_read, test_tsc_ns, f},
		    .cpu = i,
		    .apic_id = i,
		    .bsp = i == 0,
		    .x2apic = 1,
		    .phys_bits = 40,
		    .remote = f->remote,
		};

		assert_int_equal(lapic_new(&f->dev[i], &cfg, NULL), 0);
		if (!f->remote.get)
			f->apic[i] = lapic_cpu_apic(f->dev[i]);
		device_reset(f->dev[i], RESET_POWER);
	}
}

static inline void lapic_drop(struct lapic_fixture *f)
{
	for (unsigned i = 0; i < LAPIC_TEST_CPUS; i++)
		device_free(f->dev[i]);
	lapic_bus_free(f->bus);
	clock_free(f->clock);
}

static inline uint32_t rd(struct lapic_fixture *f, unsigned cpu, unsigned reg)
{
	uint64_t value = 0;

	assert_true(f->apic[cpu].ops->mmio_read(f->apic[cpu].apic, TEST_BASE + reg, 4, &value));
	return (uint32_t)value;
}

static inline void wr(struct lapic_fixture *f, unsigned cpu, unsigned reg, uint32_t value)
{
	assert_true(f->apic[cpu].ops->mmio_write(f->apic[cpu].apic, TEST_BASE + reg, 4, value));
}

static inline int rdmsr(struct lapic_fixture *f, unsigned cpu, uint32_t msr, uint64_t *value)
{
	return f->apic[cpu].ops->msr_read(f->apic[cpu].apic, msr, value);
}

static inline int wrmsr(struct lapic_fixture *f, unsigned cpu, uint32_t msr, uint64_t value)
{
	return f->apic[cpu].ops->msr_write(f->apic[cpu].apic, msr, value);
}

static inline int ack(struct lapic_fixture *f, unsigned cpu)
{
	return f->apic[cpu].ops->ack(f->apic[cpu].apic);
}

static inline _Bool event(struct lapic_fixture *f, unsigned cpu, uint32_t events)
{
	return f->link[cpu].events & events;
}

static inline _Bool intr(struct lapic_fixture *f, unsigned cpu)
{
	return event(f, cpu, CPU_EVENT_INTR);
}

/* Takes an event as a CPU does. */
static inline _Bool take(struct lapic_fixture *f, unsigned cpu, uint32_t events)
{
	_Bool there = event(f, cpu, events);

	cpu_link_clear(&f->link[cpu], events);
	return there;
}

static inline void enable_all(struct lapic_fixture *f)
{
	for (unsigned i = 0; i < LAPIC_TEST_CPUS; i++)
		wr(f, i, 0x0f0, 0x1ff);
}

static inline void msi(struct lapic_fixture *f, uint32_t addr, uint32_t data)
{
	struct msi_sink sink = lapic_bus_sink(f->bus);

	msi_send(&sink, addr, data);
}

#endif
