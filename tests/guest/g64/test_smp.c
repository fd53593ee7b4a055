/* test_smp.c: several CPUs: atomics, memory order, interprocessor interrupts, TLB shoot-down. */
#include "g64.h"

/* On an emulator of a million instructions a second a tenth has to do. */
#define ROUNDS (cmdline_has("slow") || cmdline_has("few") ? 1000 : 20000)

static volatile uint64_t counter __attribute__((aligned(64)));
static volatile uint32_t lock_word __attribute__((aligned(64)));
static volatile int stop;

static void add_locked(void *arg)
{
	for (int i = 0; i < ROUNDS; i++)
		__asm__ volatile("lock incq %0" : "+m"(counter));
}

TEST_SMP(smp, locked_increments_of_two_cpus_add_up)
{
	counter = 0;
	cpu_run(1, add_locked, 0);
	add_locked(0);
	cpu_join(1);
	check_eq(counter, 2 * ROUNDS);
}

static void add_under_xchg(void *arg)
{
	for (int i = 0; i < ROUNDS / 4; i++) {
		uint32_t v;
		do {
			v = 1;
			__asm__ volatile("xchg %0, %1" : "+r"(v), "+m"(lock_word));
			if (v)
				__asm__ volatile("pause");
		} while (v);
		counter = counter + 1;
		__asm__ volatile("" : : : "memory");
		lock_word = 0;
	}
}

TEST_SMP(smp, an_xchg_spin_lock_excludes)
{
	counter = 0;
	lock_word = 0;
	cpu_run(1, add_under_xchg, 0);
	add_under_xchg(0);
	cpu_join(1);
	check_eq(counter, 2 * (ROUNDS / 4));
}

static void add_by_cmpxchg(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t old = counter;
		bool ok;
		do
			__asm__ volatile("lock cmpxchg %3, %1; setz %2"
					 : "+a"(old), "+m"(counter), "=qm"(ok)
					 : "r"(old + 1));
		while (!ok);
	}
}

TEST_SMP(smp, compare_and_exchange_loops_lose_nothing)
{
	counter = 0;
	cpu_run(1, add_by_cmpxchg, 0);
	add_by_cmpxchg(0);
	cpu_join(1);
	check_eq(counter, 2 * ROUNDS);
}

static volatile uint64_t pair[2] __attribute__((aligned(16)));
static void add_by_cmpxchg16b(void *arg)
{
	for (int i = 0; i < ROUNDS / 2; i++) {
		uint64_t lo = pair[0], hi = pair[1];
		bool ok;
		do
			__asm__ volatile("lock cmpxchg16b %0; setz %1"
					 : "+m"(pair), "=qm"(ok), "+a"(lo), "+d"(hi)
					 : "b"(lo + 1), "c"(hi - 1));
		while (!ok);
	}
}

TEST_(smp, cmpxchg16b_keeps_both_halves_together, NEEDS_SMP | NEEDS_REAL)
{
	pair[0] = pair[1] = 0;
	cpu_run(1, add_by_cmpxchg16b, 0);
	add_by_cmpxchg16b(0);
	cpu_join(1);
	check_eq(pair[0], ROUNDS);
	check_eq(pair[0] + pair[1], 0);
}

static uint8_t split[128] __attribute__((aligned(64)));
static void add_split(void *arg)
{
	for (int i = 0; i < 2000; i++)
		__asm__ volatile("lock incq %0" : "+m"(*(volatile uint64_t *)(split + 60)));
}

TEST_SMP(smp, locked_increments_across_a_cache_line_add_up)
{
	*(volatile uint64_t *)(split + 60) = 0;
	cpu_run(1, add_split, 0);
	add_split(0);
	cpu_join(1);
	check_eq(*(volatile uint64_t *)(split + 60), 4000);
}

#define PAGE_SPLIT (FREE_VA + 0xffc)
static void add_page_split(void *arg)
{
	write_cr3((uint64_t)pml4);
	for (int i = 0; i < 1000; i++)
		__asm__ volatile("lock incq (%0)" : : "r"(PAGE_SPLIT) : "memory");
}

TEST_(smp, locked_increments_across_two_distant_frames_add_up, NEEDS_SMP | NEEDS_REAL)
{
	uint8_t *b = alloc_page(), *gap = alloc_page(), *a = alloc_page();

	(void)gap;
	map(FREE_VA, (uint64_t)a, PTE_P | PTE_W);
	map(FREE_VA + 0x1000, (uint64_t)b, PTE_P | PTE_W);
	cpu_run(1, add_page_split, 0);
	add_page_split(0);
	cpu_join(1);
	check_eq(*(volatile uint64_t *)PAGE_SPLIT, 2000);
}

static volatile uint32_t x, y, r0, r1;

static void dekker_other(void *arg)
{
	__asm__ volatile("movl $1, %0; mfence; movl %2, %%eax; movl %%eax, %1"
			 : "=m"(y), "=m"(r1)
			 : "m"(x)
			 : "eax", "memory");
}

TEST_SMP(smp, a_fence_orders_a_store_before_a_later_load)
{
	/* Dekker's pattern with fences: both zero is forbidden. A fresh job a round keeps the CPUs
	 * in step. */
	for (unsigned i = 0; i < 200; i++) {
		x = y = r0 = r1 = 0;
		cpu_run(1, dekker_other, 0);
		__asm__ volatile("movl $1, %0; mfence; movl %2, %%eax; movl %%eax, %1"
				 : "=m"(x), "=m"(r0)
				 : "m"(y)
				 : "eax", "memory");
		cpu_join(1);
		check(r0 || r1);
	}
}

static volatile int ipi_seen;
static bool on_ipi(struct frame *f)
{
	ipi_seen++;
	apic_write(0xb0, 0);
	return 1;
}

static void wait_for_ipi(void *arg)
{
	apic_write(0xf0, 0x1ff);
	ipi_seen = -1;
	while (ipi_seen < 1)
		let_in();
}

TEST_SMP(smp, an_interprocessor_interrupt_arrives)
{
	uint32_t start;

	set_handler(0x58, on_ipi);
	ipi_seen = 0;
	cpu_run(1, wait_for_ipi, 0);
	while (ipi_seen != -1)
		__asm__ volatile("pause");
	ipi_seen = 0;
	apic_write(0x310, 1u << 24);
	apic_write(0x300, 0x58);
	start = pm_timer();
	while (!ipi_seen && pm_timer() - start < 3579545u * 5)
		__asm__ volatile("pause");
	check_eq(ipi_seen, 1);
	cpu_join(1);
}

static void hlt_until_ipi(void *arg)
{
	apic_write(0xf0, 0x1ff);
	ipi_seen = -1;
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

TEST_SMP(smp, an_interprocessor_interrupt_wakes_a_halted_cpu)
{
	set_handler(0x59, on_ipi);
	ipi_seen = 0;
	cpu_run(1, hlt_until_ipi, 0);
	while (ipi_seen != -1)
		__asm__ volatile("pause");
	delay_us(3000);
	apic_write(0x310, 1u << 24);
	apic_write(0x300, 0x59);
	cpu_join(1);
	check_eq(ipi_seen, 0);
}

static volatile uint64_t shoot_seen;
static bool on_shoot_down(struct frame *f)
{
	invlpg(FREE_VA);
	ipi_seen = 1;
	apic_write(0xb0, 0);
	return 1;
}

static void read_on(void *arg)
{
	apic_write(0xf0, 0x1ff);
	write_cr3((uint64_t)pml4);
	while (!stop) {
		shoot_seen = *(volatile uint64_t *)FREE_VA;
		let_in();
	}
}

TEST_SMP(smp, a_tlb_shoot_down_by_interrupt_reaches_the_other_cpu)
{
	uint64_t *a = alloc_page(), *b = alloc_page();

	*a = 1;
	*b = 2;
	stop = 0;
	shoot_seen = 0;
	map(FREE_VA, (uint64_t)a, PTE_P | PTE_W);
	set_handler(0x5a, on_shoot_down);
	cpu_run(1, read_on, 0);
	while (shoot_seen != 1)
		__asm__ volatile("pause");
	for (unsigned i = 0; i < 100; i++) {
		uint64_t want = 2 - i % 2;

		*pte(FREE_VA, 1) = (uint64_t)(want == 2 ? b : a) | PTE_P | PTE_W;
		ipi_seen = 0;
		apic_write(0x310, 1u << 24);
		apic_write(0x300, 0x5a);
		while (!ipi_seen)
			__asm__ volatile("pause");
		shoot_seen = 0;
		while (!shoot_seen)
			__asm__ volatile("pause");
		check_eq(shoot_seen, want);
	}
	stop = 1;
	cpu_join(1);
}

static volatile int nmi_seen;
static bool on_nmi(struct frame *f)
{
	nmi_seen++;
	return 1;
}

static void spin_for_nmi(void *arg)
{
	nmi_seen = -1;
	while (nmi_seen < 0)
		__asm__ volatile("pause");
}

TEST_SMP(smp, an_nmi_gets_through_with_interrupts_off)
{
	set_handler(V_NMI, on_nmi);
	nmi_seen = 0;
	cpu_run(1, spin_for_nmi, 0);
	while (nmi_seen != -1)
		__asm__ volatile("pause");
	apic_write(0x310, 1u << 24);
	apic_write(0x300, 0x4400);
	cpu_join(1);
	check_eq(nmi_seen, 0);
}
