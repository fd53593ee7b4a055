/* lapic_test.c: tests of one local APIC: registers, priorities, pins, errors, saved state. */
#include "dev/pc/lapic_test.h"

#include <errno.h>
#include "base/le.h"

static void has_its_reset_values(void **state)
{
	struct lapic_fixture f = {0};
	uint64_t base;

	lapic_make(&f);
	assert_int_equal(rdmsr(&f, 0, MSR_APIC_BASE, &base), 0);
	assert_int_equal(base, 0xfee00900);
	assert_int_equal(rdmsr(&f, 1, MSR_APIC_BASE, &base), 0);
	assert_int_equal(base, 0xfee00800);
	assert_int_equal(rd(&f, 2, 0x020), 2u << 24);
	assert_int_equal(rd(&f, 0, 0x030), 0x01050014);
	assert_int_equal(rd(&f, 0, 0x0e0), 0xffffffff);
	assert_int_equal(rd(&f, 0, 0x0f0), 0xff);
	for (unsigned reg = 0x320; reg <= 0x370; reg += 0x10)
		assert_int_equal(rd(&f, 0, reg), 0x10000);
	for (unsigned reg = 0x100; reg < 0x280; reg += 0x10)
		assert_int_equal(rd(&f, 0, reg), 0);
	assert_int_equal(f.apic[0].ops->get_cr8(f.apic[0].apic), 0);
	assert_true(f.apic[0].ops->mmio_base(f.apic[0].apic) == TEST_BASE);
	assert_true(f.apic[0].ops->enabled(f.apic[0].apic));
	lapic_drop(&f);
}

static void answers_every_offset_at_every_width(void **state)
{
	struct lapic_fixture f = {0};
	const struct cpu_apic *a = &f.apic[0];
	uint64_t value;

	lapic_make(&f);
	enable_all(&f);
	for (unsigned off = 0; off < 4096; off++) {
		for (unsigned size = 1; size <= 8; size *= 2) {
			assert_true(a->ops->mmio_read(a->apic, TEST_BASE + off, size, &value));
			assert_int_equal(value >> 32, 0);
			assert_true(a->ops->mmio_write(a->apic, TEST_BASE + off, size, value));
			assert_true(a->ops->mmio_write(a->apic, TEST_BASE + off, size, UINT64_MAX));
		}
	}
	assert_false(a->ops->mmio_read(a->apic, TEST_BASE - 1, 1, &value));
	assert_false(a->ops->mmio_write(a->apic, TEST_BASE + 4096, 4, 0));
	assert_int_equal(rd(&f, 0, 0x320), 0x700ff);
	assert_int_equal(rd(&f, 0, 0x330), 0x107ff);
	assert_int_equal(rd(&f, 0, 0x350), 0x1a7ff);
	assert_int_equal(rd(&f, 0, 0x370), 0x100ff);
	assert_int_equal(rd(&f, 0, 0x0f0), 0x13ff);
	assert_int_equal(rd(&f, 0, 0x3e0), 0xb);
	/* A byte of a register can be read. */
	assert_true(a->ops->mmio_read(a->apic, TEST_BASE + 0x0f1, 1, &value));
	assert_int_equal(value, 0x13);
	lapic_drop(&f);
}

static void delivers_by_priority(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	enable_all(&f);
	msi(&f, 0xfee00000, 0x41);
	assert_true(intr(&f, 0));
	assert_false(intr(&f, 1));
	msi(&f, 0xfee00000, 0x52);
	msi(&f, 0xfee00000, 0x45);
	assert_int_equal(ack(&f, 0), 0x52);
	assert_int_equal(rd(&f, 0, 0x0a0), 0x50); /* PPR */
	assert_false(intr(&f, 0));
	assert_int_equal(ack(&f, 0), -1);
	msi(&f, 0xfee00000, 0x5f); /* the same class waits */
	assert_false(intr(&f, 0));
	msi(&f, 0xfee00000, 0x60);
	assert_true(intr(&f, 0));
	assert_int_equal(ack(&f, 0), 0x60);
	wr(&f, 0, 0x0b0, 0);
	wr(&f, 0, 0x0b0, 0);
	assert_int_equal(ack(&f, 0), 0x5f);
	wr(&f, 0, 0x0b0, 0);
	assert_int_equal(ack(&f, 0), 0x45);
	wr(&f, 0, 0x0b0, 0);
	assert_int_equal(ack(&f, 0), 0x41);
	wr(&f, 0, 0x0b0, 0);
	wr(&f, 0, 0x0b0, 0); /* one too many */
	assert_int_equal(f.eois, 0);
	lapic_drop(&f);
}

static void holds_back_below_the_task_priority(void **state)
{
	struct lapic_fixture f = {0};
	const struct cpu_apic *a = &f.apic[0];

	lapic_make(&f);
	enable_all(&f);
	a->ops->set_cr8(a->apic, 5);
	assert_int_equal(rd(&f, 0, 0x080), 0x50);
	msi(&f, 0xfee00000, 0x5f);
	assert_false(intr(&f, 0));
	assert_int_equal(rd(&f, 0, 0x090), 0x50); /* APR: not below the request's class */
	a->ops->set_cr8(a->apic, 4);
	assert_true(intr(&f, 0));
	wr(&f, 0, 0x080, 0x67);
	assert_false(intr(&f, 0));
	assert_int_equal(a->ops->get_cr8(a->apic), 6);
	assert_int_equal(rd(&f, 0, 0x0a0), 0x67);
	lapic_drop(&f);
}

static void broadcasts_the_end_of_levels(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	enable_all(&f);
	msi(&f, 0xfee00000, 0xc000 | 0x71);
	assert_int_equal(rd(&f, 0, 0x1b0), BIT32(17)); /* TMR */
	assert_int_equal(ack(&f, 0), 0x71);
	wr(&f, 0, 0x0b0, 0);
	assert_int_equal(f.eois, 1);
	assert_int_equal(f.eoi_vector, 0x71);
	wr(&f, 0, 0x0f0, 0x11ff); /* suppressed */
	msi(&f, 0xfee00000, 0xc000 | 0x71);
	assert_int_equal(ack(&f, 0), 0x71);
	wr(&f, 0, 0x0b0, 0);
	assert_int_equal(f.eois, 1);
	msi(&f, 0xfee00000, 0x8071); /* a de-assert message is nothing */
	assert_false(intr(&f, 0));
	lapic_drop(&f);
}

static void masks_its_table_while_disabled(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	msi(&f, 0xfee00000, 0x41);
	assert_false(intr(&f, 0));
	wr(&f, 0, 0x320, 0x41);
	assert_int_equal(rd(&f, 0, 0x320), 0x10041);
	wr(&f, 0, 0x0f0, 0x1ff);
	wr(&f, 0, 0x320, 0x41);
	assert_int_equal(rd(&f, 0, 0x320), 0x41);
	msi(&f, 0xfee00000, 0x51);
	wr(&f, 0, 0x0f0, 0xff);
	assert_int_equal(rd(&f, 0, 0x320), 0x10041);
	assert_int_equal(ack(&f, 0), 0x51); /* what was accepted is held (SDM3 11.4.7.2) */
	lapic_drop(&f);
}

static void passes_the_pic_through(void **state)
{
	struct lapic_fixture f = {0};
	struct irq lint0;

	lapic_make(&f);
	lint0 = lapic_bus_lint0(f.bus);
	f.pic_vector = 0x33;
	irq_set(&lint0, 1);
	assert_false(intr(&f, 0));
	lapic_virtual_wire(f.dev[0]);
	lapic_virtual_wire(f.dev[1]);
	assert_true(intr(&f, 0));
	assert_false(intr(&f, 1));
	assert_int_equal(ack(&f, 0), 0x33);
	assert_int_equal(f.acks, 1);
	irq_set(&lint0, 0);
	assert_false(intr(&f, 0));
	assert_int_equal(ack(&f, 0), -1);
	irq_set(&lint0, 1);
	wr(&f, 0, 0x350, 0x10700);
	assert_false(intr(&f, 0));
	/* With the APIC off, LINT0 is the CPU's INTR. */
	assert_int_equal(wrmsr(&f, 0, MSR_APIC_BASE, 0xfee00100), 0);
	assert_true(intr(&f, 0));
	assert_int_equal(ack(&f, 0), 0x33);
	irq_set(&lint0, 0);
	assert_false(intr(&f, 0));
	lapic_drop(&f);
}

static void takes_its_pins_in_other_modes(void **state)
{
	struct lapic_fixture f = {0};
	struct irq lint0, lint1;

	lapic_make(&f);
	lint0 = lapic_bus_lint0(f.bus);
	lint1 = lapic_bus_lint1(f.bus);
	enable_all(&f);
	wr(&f, 0, 0x360, 0x400);
	irq_set(&lint1, 1);
	assert_true(take(&f, 0, CPU_EVENT_NMI));
	assert_false(take(&f, 1, CPU_EVENT_NMI));
	irq_set(&lint1, 1);
	assert_false(take(&f, 0, CPU_EVENT_NMI));
	wr(&f, 0, 0x350, 0x8045); /* fixed, level */
	irq_set(&lint0, 1);
	assert_int_equal(rd(&f, 0, 0x350), 0xc045);
	assert_int_equal(ack(&f, 0), 0x45);
	wr(&f, 0, 0x0b0, 0);
	assert_int_equal(ack(&f, 0), 0x45);
	irq_set(&lint0, 0);
	wr(&f, 0, 0x0b0, 0);
	assert_int_equal(ack(&f, 0), -1);
	wr(&f, 0, 0x350, 0x46); /* fixed, edge */
	irq_pulse(&lint0);
	assert_int_equal(ack(&f, 0), 0x46);
	lapic_drop(&f);
}

static void collects_errors(void **state)
{
	struct lapic_fixture f = {0};

	lapic_make(&f);
	enable_all(&f);
	wr(&f, 0, 0x370, 0xfe);
	wr(&f, 0, 0x300, 0x05); /* illegal vector sent */
	assert_int_equal(ack(&f, 0), 0xfe);
	assert_int_equal(rd(&f, 0, 0x280), 0); /* not before a write */
	wr(&f, 0, 0x280, 0);
	assert_int_equal(rd(&f, 0, 0x280), 0x20);
	msi(&f, 0xfee00000, 0x0f); /* received */
	rd(&f, 0, 0x040);	   /* no such register */
	wr(&f, 0, 0x280, 0);
	assert_int_equal(rd(&f, 0, 0x280), 0xc0);
	wr(&f, 0, 0x280, 0);
	assert_int_equal(rd(&f, 0, 0x280), 0);
	wr(&f, 0, 0x370, 0x01); /* its own vector is illegal: no endless error */
	rd(&f, 0, 0x040);
	wr(&f, 0, 0x280, 0);
	assert_int_equal(rd(&f, 0, 0x280), 0xc0);
	lapic_drop(&f);
}

static void resets_on_init(void **state)
{
	struct lapic_fixture f = {0};
	uint64_t value;

	lapic_make(&f);
	enable_all(&f);
	assert_int_equal(wrmsr(&f, 1, MSR_APIC_BASE, 0xfee00c00), 0);
	msi(&f, 0xfee01000, 0x41);
	assert_true(intr(&f, 1));
	f.apic[1].ops->init(f.apic[1].apic);
	assert_false(intr(&f, 1));
	assert_int_equal(rdmsr(&f, 1, 0x80f, &value), 0); /* still in x2APIC mode */
	assert_int_equal(value, 0xff);
	lapic_drop(&f);
}

static void survives_hostile_writes(void **state)
{
	struct lapic_fixture f = {0};
	uint64_t seed = 11, value;

	lapic_make(&f);
	for (unsigned i = 0; i < 200000; i++) {
		unsigned cpu;
		const struct cpu_apic *a;
		uint64_t base;

		seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
		cpu = seed >> 62;
		a = &f.apic[cpu];
		base = a->ops->mmio_base(a->apic);
		if (base != UINT64_MAX)
			a->ops->mmio_write(a->apic, base + ((seed >> 40) & 0xff0), 4, seed >> 24);
		a->ops->msr_write(a->apic, 0x800 + (seed >> 50 & 0x3f), seed >> 32 & 0xfff);
		if (!(seed >> 30 & 63))
			a->ops->msr_write(a->apic, MSR_APIC_BASE,
					  (seed >> 32 & 0xd00) | 0xfee00000);
		a->ops->msr_write(a->apic, MSR_TSC_DEADLINE, seed >> 36);
		a->ops->msr_read(a->apic, 0x800 + (seed >> 44 & 0xff), &value);
		msi(&f, (uint32_t)(0xfee00000 | (seed >> 12 & 0xfffff)), (uint32_t)(seed >> 22));
		ack(&f, cpu);
		if (!(seed >> 28 & 31))
			clock_advance(f.clock, seed >> 44);
		if (!(seed >> 20 & 1023))
			device_test_roundtrip(f.dev[cpu], f.dev[cpu]);
	}
	lapic_drop(&f);
}

static void saves_and_loads(void **state)
{
	struct lapic_fixture f = {0}, g = {0};

	lapic_make(&f);
	lapic_make(&g);
	clock_advance(g.clock, 999);
	enable_all(&f);
	wr(&f, 0, 0x080, 0x20);
	msi(&f, 0xfee00000, 0xc051);
	msi(&f, 0xfee00000, 0x61);
	assert_int_equal(ack(&f, 0), 0x61);
	wr(&f, 0, 0x3e0, 0x3);
	wr(&f, 0, 0x320, 0x20041);
	wr(&f, 0, 0x380, 1000);
	clock_advance(f.clock, 4000);
	device_test_roundtrip(f.dev[0], g.dev[0]);
	assert_int_equal(rd(&f, 0, 0x390), rd(&g, 0, 0x390));
	assert_false(intr(&g, 0));
	wr(&g, 0, 0x0b0, 0);
	assert_int_equal(ack(&g, 0), 0x51);
	wr(&g, 0, 0x0b0, 0);
	assert_int_equal(g.eois, 1);
	clock_advance(g.clock, 12000);
	assert_int_equal(ack(&g, 0), 0x41);
	assert_true(device_test_corrupt(f.dev[0]) > 100);
	lapic_drop(&f);
	lapic_drop(&g);
}

struct far_apic {
	uint8_t page[LAPIC_PAGE_BYTES];
	uint64_t base, deadline;
	unsigned sets;
};
struct far_apics {
	struct far_apic cpu[LAPIC_TEST_CPUS];
};

static int far_get(void *opaque, unsigned cpu, uint8_t page[LAPIC_PAGE_BYTES], uint64_t *base,
		   uint64_t *deadline)
{
	struct far_apic *a = &((struct far_apics *)opaque)->cpu[cpu];

	memcpy(page, a->page, LAPIC_PAGE_BYTES);
	*base = a->base;
	*deadline = a->deadline;
	return 0;
}

static int far_set(void *opaque, unsigned cpu, const uint8_t page[LAPIC_PAGE_BYTES], uint64_t base,
		   uint64_t deadline)
{
	struct far_apic *a = &((struct far_apics *)opaque)->cpu[cpu];

	memcpy(a->page, page, LAPIC_PAGE_BYTES);
	a->base = base;
	a->deadline = deadline;
	a->sets++;
	return 0;
}

static void moves_between_here_and_a_remote_apic(void **state)
{
	static struct far_apics far;
	struct lapic_fixture here = {0}, there = {.remote = {far_get, far_set, &far}}, back = {0};
	struct wbuf a, b, c;
	uint64_t deadline;

	lapic_make(&here);
	lapic_make(&there);
	lapic_make(&back);
	assert_int_equal(load_le32(far.cpu[0].page + 0x0f0), 0xff);
	assert_int_equal(far.cpu[2].base, 0xfee00800);
	enable_all(&here);
	wr(&here, 0, 0x0d0, 0x01000000);
	wr(&here, 0, 0x350, 0x8045);
	wr(&here, 0, 0x310, 0x02000000);
	wr(&here, 0, 0x300, 0x4031);
	wr(&here, 0, 0x320, 0x40055);
	msi(&here, 0xfee00000, 0xc051);
	msi(&here, 0xfee00000, 0xef);
	assert_int_equal(ack(&here, 0), 0xef);
	assert_int_equal(wrmsr(&here, 0, MSR_TSC_DEADLINE, 123456789), 0);
	a = device_test_save(here.dev[0]);
	device_test_load(there.dev[0], &a);
	assert_int_equal(load_le32(far.cpu[0].page + 0x170), 0x8000);
	assert_int_equal(load_le32(far.cpu[0].page + 0x220), BIT32(17));
	assert_int_equal(far.cpu[0].deadline, 123456789);
	/* What changed over there while it ran is what is saved. */
	far.cpu[0].deadline = 987654321;
	store_le32(far.cpu[0].page + 0x080, 0x30);
	b = device_test_save(there.dev[0]);
	device_test_load(back.dev[0], &b);
	wbuf_fini(&b);
	assert_int_equal(rd(&back, 0, 0x080), 0x30);
	assert_int_equal(rdmsr(&back, 0, MSR_TSC_DEADLINE, &deadline), 0);
	assert_int_equal(deadline, 987654321);
	device_test_load(there.dev[0], &a);
	b = device_test_save(there.dev[0]);
	device_test_assert_same(&a, &b);
	device_test_load(back.dev[0], &b);
	c = device_test_save(back.dev[0]);
	device_test_assert_same(&a, &c);
	wbuf_fini(&a);
	wbuf_fini(&b);
	wbuf_fini(&c);
	lapic_drop(&here);
	lapic_drop(&there);
	lapic_drop(&back);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(has_its_reset_values),
	    cmocka_unit_test(answers_every_offset_at_every_width),
	    cmocka_unit_test(delivers_by_priority),
	    cmocka_unit_test(holds_back_below_the_task_priority),
	    cmocka_unit_test(broadcasts_the_end_of_levels),
	    cmocka_unit_test(masks_its_table_while_disabled),
	    cmocka_unit_test(passes_the_pic_through),
	    cmocka_unit_test(takes_its_pins_in_other_modes),
	    cmocka_unit_test(collects_errors),
	    cmocka_unit_test(resets_on_init),
	    cmocka_unit_test(survives_hostile_writes),
	    cmocka_unit_test(saves_and_loads),
	    cmocka_unit_test(moves_between_here_and_a_remote_apic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
