/* lapic_bus_test.c: tests of messages between local APICs, x2APIC mode, and the timer. */
#include "dev/pc/lapic_test.h"

/* Which CPUs have an interrupt, as a bit mask; they take it and end it. */
static unsigned got(struct lapic_fixture *f, int vector)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < LAPIC_TEST_CPUS; i++) {
		if (!intr(f, i))
			continue;
		assert_int_equal(ack(f, i), vector);
		if (f->apic[i].ops->mmio_base(f->apic[i].apic) == UINT64_MAX)
			assert_int_equal(wrmsr(f, i, 0x80b, 0), 0);
		else
			wr(f, i, 0x0b0, 0);
		mask |= BIT32(i);
	}
	return mask;
}

static void ipi(struct lapic_fixture *f, unsigned cpu, uint32_t low, uint8_t dest)
{
	wr(f, cpu, 0x310, (uint32_t)dest << 24);
	wr(f, cpu, 0x300, low);
}

static void routes_physical_and_broadcast(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	enable_all(&f);
	msi(&f, 0xfee02000, 0x41);
	assert_int_equal(got(&f, 0x41), 4);
	msi(&f, 0xfee77000, 0x41);
	assert_int_equal(got(&f, 0x41), 0);
	msi(&f, 0xfeeff000, 0x41);
	assert_int_equal(got(&f, 0x41), 15);
	ipi(&f, 1, 0x4042, 3);
	assert_int_equal(got(&f, 0x42), 8);
	assert_int_equal(rd(&f, 1, 0x300), 0x4042);
	ipi(&f, 1, 0x44042, 0); /* self */
	assert_int_equal(got(&f, 0x42), 2);
	ipi(&f, 1, 0x84042, 0);
	assert_int_equal(got(&f, 0x42), 15);
	ipi(&f, 1, 0xc4042, 0);
	assert_int_equal(got(&f, 0x42), 13);
	lapic_drop(&f);
}

static void routes_logical_destinations(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	enable_all(&f);
	for (unsigned i = 0; i < LAPIC_TEST_CPUS; i++)
		wr(&f, i, 0x0d0, 1u << (24 + i));
	msi(&f, 0xfee0a004, 0x41);
	assert_int_equal(got(&f, 0x41), 10);
	ipi(&f, 0, 0x4843, 0x06);
	assert_int_equal(got(&f, 0x43), 6);
	for (unsigned i = 0; i < LAPIC_TEST_CPUS; i++) { /* two clusters of two */
		wr(&f, i, 0x0e0, 0);
		wr(&f, i, 0x0d0, (i / 2) << 28 | 1u << (24 + i % 2));
	}
	msi(&f, 0xfee13004, 0x41);
	assert_int_equal(got(&f, 0x41), 12);
	msi(&f, 0xfeef2004, 0x41); /* all clusters */
	assert_int_equal(got(&f, 0x41), 10);
	lapic_drop(&f);
}

static void finds_the_lowest_priority(void **state)
{
	struct lapic_fixture f = {0};
	unsigned seen = 0;

	lapic_make(&f);
	enable_all(&f);
	for (unsigned i = 0; i < LAPIC_TEST_CPUS; i++) {
		wr(&f, i, 0x0d0, 1u << (24 + i));
		wr(&f, i, 0x080, i == 2 ? 0x20 : 0x30);
	}
	msi(&f, 0xfee0f004, 0x0141);
	assert_int_equal(got(&f, 0x41), 4);
	msi(&f, 0xfee0f00c, 0x0041); /* redirection hint */
	assert_int_equal(got(&f, 0x41), 4);
	wr(&f, 2, 0x080, 0x30);
	for (unsigned i = 0; i < 8; i++) { /* equals take turns */
		unsigned one;

		msi(&f, 0xfee0f004, 0x0141);
		one = got(&f, 0x41);
		assert_int_equal(one & (one - 1), 0);
		seen |= one;
	}
	assert_int_equal(seen, 15);
	wr(&f, 2, 0x0f0, 0xff); /* who takes nothing is not asked */
	wr(&f, 2, 0x080, 0);
	msi(&f, 0xfee0f004, 0x0141);
	seen = got(&f, 0x41);
	assert_true(seen && !(seen & 4));
	lapic_drop(&f);
}

static void starts_other_cpus(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	ipi(&f, 0, 0xc500, 1); /* INIT, level, assert */
	assert_true(take(&f, 1, CPU_EVENT_INIT));
	ipi(&f, 0, 0x8500, 1); /* de-assert: nothing */
	assert_false(event(&f, 1, CPU_EVENT_INIT));
	ipi(&f, 0, 0x4699, 1);
	assert_true(event(&f, 1, CPU_EVENT_SIPI));
	assert_int_equal(f.link[1].sipi_vector, 0x99);
	ipi(&f, 0, 0x4500, 1); /* INIT after it: the start-up is void */
	assert_false(event(&f, 1, CPU_EVENT_SIPI));
	ipi(&f, 0, 0x4400, 2);
	assert_true(take(&f, 2, CPU_EVENT_NMI));
	ipi(&f, 0, 0xc4400, 0);
	assert_false(event(&f, 0, CPU_EVENT_NMI));
	assert_true(take(&f, 1, CPU_EVENT_NMI) && take(&f, 3, CPU_EVENT_NMI));
	ipi(&f, 0, 0x4200, 1); /* SMI: dropped */
	assert_false(event(&f, 1, CPU_EVENT_SMI));
	ipi(&f, 0, 0x84500, 0); /* "all including self" goes with fixed only */
	assert_false(event(&f, 0, CPU_EVENT_INIT));
	/* An APIC that is off hears nothing. */
	assert_int_equal(wrmsr(&f, 3, MSR_APIC_BASE, 0xfee00000), 0);
	ipi(&f, 0, 0x4400, 3);
	assert_false(event(&f, 3, CPU_EVENT_NMI));
	lapic_drop(&f);
}

static void takes_extint_messages(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	enable_all(&f);
	f.pic_vector = 0x31;
	msi(&f, 0xfee01000, 0x0700);
	assert_true(intr(&f, 1));
	assert_int_equal(ack(&f, 1), 0x31);
	assert_false(intr(&f, 1));
	/* without a request at the PIC, what else is pending comes */
	f.pic_vector = -1;
	msi(&f, 0xfee01000, 0x0700);
	msi(&f, 0xfee01000, 0x52);
	assert_int_equal(ack(&f, 1), 0x52);
	assert_false(intr(&f, 1));
	msi(&f, 0xfee01000, 0x0700);
	assert_int_equal(ack(&f, 1), -1);
	assert_false(intr(&f, 1));
	lapic_drop(&f);
}

static void changes_modes_as_allowed(void **state)
{
	struct lapic_fixture f = {0};
	uint64_t value;

	lapic_make(&f);
	assert_int_equal(wrmsr(&f, 0, MSR_APIC_BASE, 0xfee00d00 | 1), -1);
	assert_int_equal(wrmsr(&f, 0, MSR_APIC_BASE, 0xfee00d00 | BIT64(40)), -1);
	assert_int_equal(wrmsr(&f, 0, MSR_APIC_BASE, 0xfee00500), -1); /* EXTD without EN */
	assert_int_equal(rdmsr(&f, 0, 0x802, &value), -1);	       /* not in x2APIC mode */
	assert_int_equal(wrmsr(&f, 0, MSR_APIC_BASE, 0xfee00d00), 0);
	assert_true(f.apic[0].ops->mmio_base(f.apic[0].apic) == UINT64_MAX);
	assert_false(f.apic[0].ops->mmio_read(f.apic[0].apic, TEST_BASE + 0x20, 4, &value));
	assert_int_equal(rdmsr(&f, 0, 0x802, &value), 0);
	assert_int_equal(wrmsr(&f, 0, MSR_APIC_BASE, 0xfee00900), -1); /* back to xAPIC */
	assert_int_equal(wrmsr(&f, 0, MSR_APIC_BASE, 0xfee00100), 0);
	assert_false(f.apic[0].ops->enabled(f.apic[0].apic));
	assert_int_equal(wrmsr(&f, 0, MSR_APIC_BASE, 0xfee00d00), -1); /* off to x2APIC */
	assert_int_equal(wrmsr(&f, 0, MSR_APIC_BASE, 0xd0000900), 0);  /* relocated */
	assert_true(f.apic[0].ops->mmio_read(f.apic[0].apic, 0xd0000030, 4, &value));
	assert_int_equal(value, 0x01050014);
	assert_false(f.apic[0].ops->mmio_read(f.apic[0].apic, TEST_BASE + 0x30, 4, &value));
	lapic_drop(&f);
}

static void has_the_registers_of_x2apic(void **state)
{
	struct lapic_fixture f = {0};
	uint64_t value;
	static const uint16_t readable[] = {0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f,
					    0x828, 0x830, 0x832, 0x833, 0x834, 0x835,
					    0x836, 0x837, 0x838, 0x839, 0x83e};

	lapic_make(&f);
	assert_int_equal(wrmsr(&f, 3, MSR_APIC_BASE, 0xfee00c00), 0);
	for (uint32_t msr = 0x800; msr <= 0x8ff; msr++) {
		_Bool there = msr >= 0x810 && msr <= 0x827;

		for (unsigned i = 0; i < ARRAY_SIZE(readable); i++)
			there |= msr == readable[i];
		assert_int_equal(rdmsr(&f, 3, msr, &value), there ? 0 : -1);
	}
	rdmsr(&f, 3, 0x802, &value);
	assert_int_equal(value, 3);
	rdmsr(&f, 3, 0x80d, &value);
	assert_int_equal(value, 8);
	/* Read-only registers and reserved bits fault. */
	assert_int_equal(wrmsr(&f, 3, 0x802, 0), -1);
	assert_int_equal(wrmsr(&f, 3, 0x80d, 0), -1);
	assert_int_equal(wrmsr(&f, 3, 0x839, 0), -1);
	assert_int_equal(wrmsr(&f, 3, 0x820, 0), -1);
	assert_int_equal(wrmsr(&f, 3, 0x80e, 0), -1);
	assert_int_equal(wrmsr(&f, 3, 0x80b, 1), -1);
	assert_int_equal(wrmsr(&f, 3, 0x828, 1), -1);
	assert_int_equal(wrmsr(&f, 3, 0x808, 0x100), -1);
	assert_int_equal(wrmsr(&f, 3, 0x80f, 0x400), -1);
	assert_int_equal(wrmsr(&f, 3, 0x80f, BIT64(32) | 0x1ff), -1);
	assert_int_equal(wrmsr(&f, 3, 0x830, 0x1000), -1);
	assert_int_equal(wrmsr(&f, 3, 0x832, 0x80000), -1);
	assert_int_equal(wrmsr(&f, 3, 0x83e, 4), -1);
	assert_int_equal(wrmsr(&f, 3, 0x83f, 0x100), -1);
	assert_int_equal(wrmsr(&f, 3, 0x80f, 0x1ff), 0);
	assert_int_equal(wrmsr(&f, 3, 0x83f, 0x55), 0);
	assert_int_equal(ack(&f, 3), 0x55);
	assert_int_equal(wrmsr(&f, 3, 0x80b, 0), 0);
	lapic_drop(&f);
}

static void sends_between_x2apics(void **state)
{
	struct lapic_fixture f = {0};
	uint64_t value;

	lapic_make(&f);
	for (unsigned i = 0; i < LAPIC_TEST_CPUS; i++) {
		assert_int_equal(wrmsr(&f, i, MSR_APIC_BASE, 0xfee00c00), 0);
		assert_int_equal(wrmsr(&f, i, 0x80f, 0x1ff), 0);
	}
	assert_int_equal(wrmsr(&f, 0, 0x830, UINT64_C(0x0000000200004061)), 0);
	assert_int_equal(got(&f, 0x61), 4);
	assert_int_equal(rdmsr(&f, 0, 0x830, &value), 0);
	assert_true(value == UINT64_C(0x0000000200004061));
	assert_int_equal(wrmsr(&f, 0, 0x830, UINT64_C(0x0000000a00004861)), 0); /* logical */
	assert_int_equal(got(&f, 0x61), 10);
	assert_int_equal(wrmsr(&f, 0, 0x830, UINT64_C(0x0001000a00004861)), 0); /* cluster 1 */
	assert_int_equal(got(&f, 0x61), 0);
	assert_int_equal(wrmsr(&f, 0, 0x830, UINT64_C(0xffffffff00004061)), 0);
	assert_int_equal(got(&f, 0x61), 15);
	assert_int_equal(wrmsr(&f, 0, 0x830, UINT64_C(0x000000ff00004061)), 0); /* no broadcast */
	assert_int_equal(got(&f, 0x61), 0);
	msi(&f, 0xfeeff000, 0x61); /* but here */
	assert_int_equal(got(&f, 0x61), 15);
	lapic_drop(&f);
}

static void times_once(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	enable_all(&f);
	wr(&f, 0, 0x320, 0x40);
	wr(&f, 0, 0x3e0, 0x3); /* by 16 */
	wr(&f, 0, 0x380, 1000);
	assert_int_equal(rd(&f, 0, 0x390), 1000);
	clock_advance(f.clock, 1600);
	assert_int_equal(rd(&f, 0, 0x390), 900);
	clock_advance(f.clock, 14399);
	assert_false(intr(&f, 0));
	assert_int_equal(rd(&f, 0, 0x390), 1);
	clock_advance(f.clock, 1);
	assert_int_equal(got(&f, 0x40), 1);
	assert_int_equal(rd(&f, 0, 0x390), 0);
	clock_advance(f.clock, 100000);
	assert_false(intr(&f, 0));
	wr(&f, 0, 0x380, 1000);
	wr(&f, 0, 0x380, 0); /* stopped */
	clock_advance(f.clock, 100000);
	assert_false(intr(&f, 0));
	lapic_drop(&f);
}

static void times_periodically(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	enable_all(&f);
	wr(&f, 0, 0x320, 0x20040);
	wr(&f, 0, 0x3e0, 0xb); /* by 1 */
	wr(&f, 0, 0x380, 100000);
	for (unsigned i = 0; i < 10; i++) {
		clock_advance(f.clock, 99999);
		assert_int_equal(got(&f, 0x40), 0);
		clock_advance(f.clock, 1);
		assert_int_equal(got(&f, 0x40), 1);
	}
	wr(&f, 0, 0x320, 0x30040); /* masked: counts on */
	clock_advance(f.clock, 250000);
	assert_int_equal(rd(&f, 0, 0x390), 50000);
	assert_false(intr(&f, 0));
	wr(&f, 0, 0x320, 0x20040);
	clock_advance(f.clock, 49999);
	assert_false(intr(&f, 0));
	clock_advance(f.clock, 1);
	assert_int_equal(got(&f, 0x40), 1);
	lapic_drop(&f);
}

static void times_by_the_tsc(void **state)
{
	struct lapic_fixture f = {0};
	uint64_t value;

	lapic_make(&f);
	enable_all(&f);
	assert_int_equal(wrmsr(&f, 0, MSR_TSC_DEADLINE, 5), 0); /* not in that mode: ignored */
	assert_int_equal(rdmsr(&f, 0, MSR_TSC_DEADLINE, &value), 0);
	assert_int_equal(value, 0);
	wr(&f, 0, 0x320, 0x40040);
	wr(&f, 0, 0x380, 7);
	assert_int_equal(rd(&f, 0, 0x380), 0);
	assert_int_equal(wrmsr(&f, 0, MSR_TSC_DEADLINE, 20000), 0);
	clock_advance(f.clock, 9999);
	assert_false(intr(&f, 0));
	assert_int_equal(rdmsr(&f, 0, MSR_TSC_DEADLINE, &value), 0);
	assert_int_equal(value, 20000);
	clock_advance(f.clock, 1);
	assert_int_equal(got(&f, 0x40), 1);
	assert_int_equal(rdmsr(&f, 0, MSR_TSC_DEADLINE, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(wrmsr(&f, 0, MSR_TSC_DEADLINE, 3), 0); /* past: at once */
	assert_int_equal(got(&f, 0x40), 1);
	assert_int_equal(wrmsr(&f, 0, MSR_TSC_DEADLINE, 40000), 0);
	f.tsc_offset = 10000; /* the TSC jumps by 5 us */
	f.apic[0].ops->tsc_moved(f.apic[0].apic);
	clock_advance(f.clock, 4999);
	assert_false(intr(&f, 0));
	clock_advance(f.clock, 1);
	assert_int_equal(got(&f, 0x40), 1);
	/* So far ahead that the difference is negative: not past, and nothing is due soon. */
	assert_int_equal(wrmsr(&f, 0, MSR_TSC_DEADLINE, UINT64_MAX), 0);
	assert_true(clock_next_ns(f.clock) > UINT64_MAX / 4);
	clock_advance(f.clock, 1000000000);
	assert_false(intr(&f, 0));
	assert_int_equal(rdmsr(&f, 0, MSR_TSC_DEADLINE, &value), 0);
	assert_true(value == UINT64_MAX);
	wr(&f, 0, 0x320, 0x40); /* another mode disarms */
	assert_int_equal(clock_next_ns(f.clock), UINT64_MAX);
	lapic_drop(&f);
}

static void is_not_flooded_by_a_tiny_period(void **state)
{
	struct lapic_fixture f = {0};
	unsigned taken = 0;

	lapic_make(&f);
	enable_all(&f);
	wr(&f, 0, 0x320, 0x20040);
	wr(&f, 0, 0x3e0, 0xb);
	wr(&f, 0, 0x380, 1);
	for (unsigned i = 0; i < 10000; i++) {
		clock_advance(f.clock, 1000);
		taken += got(&f, 0x40);
	}
	assert_in_range(taken, 400, 600);
	lapic_drop(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(routes_physical_and_broadcast),
	    cmocka_unit_test(routes_logical_destinations),
	    cmocka_unit_test(finds_the_lowest_priority),
	    cmocka_unit_test(starts_other_cpus),
	    cmocka_unit_test(takes_extint_messages),
	    cmocka_unit_test(changes_modes_as_allowed),
	    cmocka_unit_test(has_the_registers_of_x2apic),
	    cmocka_unit_test(sends_between_x2apics),
	    cmocka_unit_test(times_once),
	    cmocka_unit_test(times_periodically),
	    cmocka_unit_test(times_by_the_tsc),
	    cmocka_unit_test(is_not_flooded_by_a_tiny_period),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
