/* test_apic.c: local APIC, IOAPIC, PIC and the board's timers. */
#include "g64.h"

#define LVT_TIMER    0x320
#define TIMER_INIT   0x380
#define TIMER_NOW    0x390
#define TIMER_DIV    0x3e0
#define EOI	     0xb0
#define TPR	     0x80
#define ICR	     0x300
#define SVR	     0xf0
#define APIC_BASE    0x1bu
#define TSC_DEADLINE 0x6e0u
#define IOAPIC_SEL   (*(volatile uint32_t *)0xfec00000)
#define IOAPIC_WIN   (*(volatile uint32_t *)0xfec00010)

static volatile int fired;
static bool on_apic(struct frame *f)
{
	fired++;
	apic_write(EOI, 0);
	return 1;
}

static void self_ipi(unsigned vector)
{
	apic_write(ICR, 0x40000 | vector);
}

TEST(apic, one_shot_timer_fires_once)
{
	apic_enable();
	fired = 0;
	set_handler(0x50, on_apic);
	apic_write(TIMER_DIV, 0xb);
	apic_write(LVT_TIMER, 0x50);
	apic_write(TIMER_INIT, 100000);
	wait_for(&fired, 2000);
	delay_us(2000);
	let_in();
	check_eq(fired, 1);
	check_eq(apic_read(TIMER_NOW), 0);
}

TEST(apic, periodic_timer_fires_again_and_stops_at_zero)
{
	apic_enable();
	fired = 0;
	set_handler(0x51, on_apic);
	apic_write(TIMER_DIV, 0xb);
	apic_write(LVT_TIMER, 0x20051);
	apic_write(TIMER_INIT, 500000);
	for (int n = 1; n <= 4; n++) {
		uint32_t start = pm_timer();
		while (fired < n && pm_timer() - start < 3579545u * 2)
			let_in();
	}
	check(fired >= 4);
	apic_write(TIMER_INIT, 0);
	let_in();
	fired = 0;
	delay_us(3000);
	let_in();
	check_eq(fired, 0);
	apic_write(LVT_TIMER, 0x10000);
}

TEST(apic, tsc_deadline_timer_fires_at_its_time)
{
	uint32_t r[4];
	uint64_t deadline;

	cpuid(1, 0, r);
	if (!(r[2] >> 24 & 1))
		test_skip("no TSC deadline");
	apic_enable();
	fired = 0;
	set_handler(0x52, on_apic);
	apic_write(LVT_TIMER, 0x40052);
	__asm__ volatile("mfence");
	deadline = rdtsc() + (1ull << 44); /* hours, before which it is read back on any host */
	wrmsr(TSC_DEADLINE, deadline);
	check_eq(rdmsr(TSC_DEADLINE), deadline);
	check_eq(fired, 0);
	deadline = rdtsc() + 3000000;
	wrmsr(TSC_DEADLINE, deadline);
	wait_for(&fired, 2000);
	check(rdtsc() >= deadline);
	check_eq(rdmsr(TSC_DEADLINE), 0);
	apic_write(LVT_TIMER, 0x10000);
}

TEST(apic, a_masked_timer_does_not_fire)
{
	apic_enable();
	fired = 0;
	set_handler(0x53, on_apic);
	apic_write(TIMER_DIV, 0xb);
	apic_write(LVT_TIMER, 0x10053);
	apic_write(TIMER_INIT, 1000);
	delay_us(2000);
	let_in();
	check_eq(fired, 0);
}

static unsigned order[4], order_count;
static bool on_order(struct frame *f)
{
	if (order_count < 4)
		order[order_count++] = (unsigned)f->vector;
	apic_write(EOI, 0);
	return 1;
}

TEST(apic, higher_vectors_are_delivered_first)
{
	apic_enable();
	order_count = 0;
	for (unsigned v = 0x60; v <= 0x80; v += 0x10)
		set_handler(v, on_order);
	self_ipi(0x60);
	self_ipi(0x80);
	self_ipi(0x70);
	for (int i = 0; i < 4; i++)
		let_in();
	check_eq(order_count, 3);
	check_eq(order[0], 0x80);
	check_eq(order[1], 0x70);
	check_eq(order[2], 0x60);
}

TEST(apic, the_task_priority_holds_lower_vectors_back)
{
	apic_enable();
	fired = 0;
	set_handler(0x61, on_apic);
	apic_write(TPR, 0x60);
	check_eq(read_cr8(), 6);
	self_ipi(0x61);
	let_in();
	check_eq(fired, 0);
	check(apic_read(0x200 + 0x10 * (0x61 / 32)) >> (0x61 % 32) & 1); /* IRR */
	write_cr8(0);
	check_eq(apic_read(TPR), 0);
	let_in();
	check_eq(fired, 1);
}

TEST(apic, eoi_clears_the_in_service_bit)
{
	apic_enable();
	fired = 0;
	set_handler(0x62, on_apic);
	self_ipi(0x62);
	let_in();
	check_eq(fired, 1);
	check_eq(apic_read(0x100 + 0x10 * (0x62 / 32)), 0); /* ISR clear after EOI */
}

TEST(apic, a_disabled_and_re_enabled_apic_works_again)
{
	uint64_t base = rdmsr(APIC_BASE);
	uint32_t r[4];

	check(base & 0x800);
	wrmsr(APIC_BASE, base & ~0x800ull);
	cpuid(1, 0, r);
	check(!(r[3] >> 9 & 1));
	wrmsr(APIC_BASE, base);
	cpuid(1, 0, r);
	check(r[3] >> 9 & 1);
	apic_enable();
	fired = 0;
	set_handler(0x63, on_apic);
	self_ipi(0x63);
	let_in();
	check_eq(fired, 1);
}

TEST(apic, a_relocated_apic_answers_at_its_new_place)
{
	uint64_t base = rdmsr(APIC_BASE);
	uint32_t version = apic_read(0x30);

	wrmsr(APIC_BASE, (base & 0xfff) | 0xfe000000);
	check_eq(*(volatile uint32_t *)0xfe000030, version);
	wrmsr(APIC_BASE, base);
	check_eq(apic_read(0x30), version);
}

TEST(apic, x2apic_mode_uses_msrs_and_refuses_bad_transitions)
{
	uint64_t base = rdmsr(APIC_BASE);
	uint32_t r[4];

	cpuid(1, 0, r);
	if (!(r[2] >> 21 & 1))
		test_skip("no x2APIC");
	CATCH(rdmsr(0x802));
	check_fault(V_GP, 0);
	apic_enable();
	wrmsr(APIC_BASE, base | 0x400);
	wrmsr(0x80f, 0x1ff);
	check_eq(rdmsr(0x802), 0);
	CATCH(wrmsr(0x802, 1)); /* the id is read-only */
	check_fault(V_GP, 0);
	CATCH(wrmsr(APIC_BASE, base)); /* straight back to xAPIC */
	check_fault(V_GP, 0);
	wrmsr(APIC_BASE, base & ~0xc00ull);
	wrmsr(APIC_BASE, base);
	apic_enable();
	check_eq(apic_read(0x20), 0);
}

TEST_OWN_APIC(apic, an_illegal_vector_sets_the_error_register)
{
	apic_enable();
	apic_write(0x280, 0);
	self_ipi(5);
	apic_write(0x280, 0);
	check_eq(apic_read(0x280) & 0x60, 0x20 | (apic_read(0x280) & 0x40));
	apic_write(0x280, 0);
}

static void ioapic_entry(unsigned pin, uint64_t v)
{
	IOAPIC_SEL = 0x11 + 2 * pin;
	IOAPIC_WIN = (uint32_t)(v >> 32);
	IOAPIC_SEL = 0x10 + 2 * pin;
	IOAPIC_WIN = (uint32_t)v;
}

static void pit_one_shot(uint16_t count)
{
	outb(0x43, 0x30);
	outb(0x40, (uint8_t)count);
	outb(0x40, (uint8_t)(count >> 8));
}

TEST(timers, the_pit_interrupts_through_the_ioapic)
{
	apic_enable();
	fired = 0;
	set_handler(0x54, on_apic);
	ioapic_entry(2, 0x54);
	pit_one_shot(2000);
	wait_for(&fired, 2000);
	check_eq(fired, 1);
	ioapic_entry(2, 0x10000);
}

static bool on_pic(struct frame *f)
{
	fired++;
	outb(0x20, 0x20);
	return 1;
}

TEST(timers, the_pit_interrupts_through_the_pic)
{
	apic_enable();
	fired = 0;
	set_handler(0x20, on_pic);
	apic_write(0x350, 0x700); /* LINT0: ExtINT */
	outb(0x20, 0x11);
	outb(0x21, 0x20);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0x21, 0xfe);
	pit_one_shot(2000);
	wait_for(&fired, 2000);
	outb(0x21, 0xff);
	apic_write(0x350, 0x10700);
	check_eq(fired, 1);
}

TEST(timers, pit_and_pm_timer_agree)
{
	uint32_t start, end;
	uint8_t status;

	outb(0x61, (uint8_t)((inb(0x61) & ~2) | 1));
	outb(0x43, 0xb0);
	outb(0x42, 0xff);
	outb(0x42, 0x5f); /* 24575 ticks: 20.6 ms */
	start = pm_timer();
	do
		status = inb(0x61);
	while (!(status & 0x20) && pm_timer() - start < 3579545u * 2);
	end = pm_timer();
	check(end - start > 73725 - 7000);
	check(end - start < 3579545); /* a busy host may look late, never early */
}

TEST(timers, the_hpet_counts_at_its_stated_rate)
{
	volatile uint64_t *hpet = (volatile uint64_t *)0xfed00000;
	uint64_t period = hpet[0] >> 32, before, after;

	check(period && period <= 100000000);
	hpet[2] = 1;
	before = hpet[0x1e];
	delay_us(10000);
	after = hpet[0x1e];
	hpet[2] = 0;
	check((after - before) * period / 1000000000 > 9000);
}

TEST(timers, an_hpet_comparator_interrupts)
{
	volatile uint64_t *hpet = (volatile uint64_t *)0xfed00000;
	uint32_t routes = (uint32_t)(hpet[0x20] >> 32);
	unsigned pin = 23;

	apic_enable();
	while (pin && !(routes >> pin & 1))
		pin--;
	check(routes >> pin & 1);
	fired = 0;
	set_handler(0x55, on_apic);
	ioapic_entry(pin, 0x55);
	hpet[2] = 0;
	hpet[0x1e] = 0;
	hpet[0x20] = pin << 9 | 4;
	hpet[0x21] = 100000;
	hpet[2] = 1;
	wait_for(&fired, 2000);
	hpet[2] = 0;
	hpet[0x20] = 0;
	ioapic_entry(pin, 0x10000);
	check_eq(fired, 1);
}

TEST(timers, the_rtc_updates_and_interrupts)
{
	apic_enable();
	fired = 0;
	set_handler(0x56, on_apic);
	ioapic_entry(8, 0x56);
	outb(0x70, 0x0a);
	outb(0x71, 0x26); /* 1024 Hz */
	outb(0x70, 0x0c);
	inb(0x71);
	outb(0x70, 0x0b);
	outb(0x71, 0x42); /* periodic, 24 h */
	wait_for(&fired, 2000);
	outb(0x70, 0x0c);
	check(inb(0x71) & 0x40);
	outb(0x70, 0x0b);
	outb(0x71, 0x02);
	outb(0x70, 0x0c);
	inb(0x71);
	ioapic_entry(8, 0x10000);
}

TEST(timers, the_tsc_goes_forward)
{
	uint64_t last = rdtsc();

	for (int i = 0; i < 1000; i++) {
		uint64_t now = rdtsc();
		check(now >= last);
		last = now;
	}
	CATCH({
		write_cr4(read_cr4() | 4); /* TSD concerns ring 3 only */
		rdtsc();
	});
	check_no_fault();
}

TEST(timers, hlt_wakes_for_an_interrupt)
{
	apic_enable();
	fired = 0;
	set_handler(0x57, on_apic);
	apic_write(TIMER_DIV, 0xb);
	apic_write(LVT_TIMER, 0x57);
	apic_write(TIMER_INIT, 3000000);
	__asm__ volatile("sti; hlt; cli" : : : "memory");
	check_eq(fired, 1);
}

static unsigned pci_read(unsigned devfn, unsigned reg)
{
	outl(0xcf8, 0x80000000 | devfn << 8 | reg);
	return inl(0xcfc);
}

TEST(pci, configuration_space_is_the_same_through_ports_and_ecam)
{
	unsigned host = pci_read(0, 0);
	volatile uint32_t *ecam;

	check(host != 0xffffffff && host != 0);
	check_eq(pci_read(0x1e << 3, 0), 0xffffffff);
	ecam = (volatile uint32_t *)((uint64_t)(pci_read(0, 0x60) & 0xf0000000));
	if (!(pci_read(0, 0x60) & 1))
		test_skip("no ECAM");
	check_eq(*ecam, host);
}
