/* cpu.c: guests that turn the CPU against the hypervisor: tables, stacks and code where there is no
 * memory, faults without an end, storms of interrupts and of writes to code. */
#include "../g64/g64.h"

#define HOLE   0xd0000000ull /* nothing answers there */
#define IOAPIC 0xfec00000ull
#define HPET   0xfed00000ull
#define LAPIC  0xfee00000ull
#define ROM    0xfffff000ull

static const uint64_t odd_places[] = {HOLE, IOAPIC, HPET, LAPIC, ROM, 0xb0000000, 0x7fffff000};

struct table {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

static uint64_t noise_state = 88172645463325252;
static uint64_t noise(void)
{
	noise_state ^= noise_state << 13;
	noise_state ^= noise_state >> 7;
	return noise_state ^= noise_state << 17;
}
static unsigned rounds(unsigned n)
{
	return cmdline_has("slow") ? n / 50 + 1 : n;
}

/* The whole of what the page tables say, for places above 4 GiB too. */
static void reach(uint64_t pa)
{
	if (pa >> 32)
		map(FREE_VA, pa, PTE_P | PTE_W);
}
static uint64_t address_of(uint64_t pa)
{
	return pa >> 32 ? FREE_VA : pa;
}

TEST(hostile, triple_fault)
{
	const struct table none = {0, 0};

	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

TEST(hostile, jump_to_nothing)
{
	for (unsigned i = 0; i < sizeof(odd_places) / sizeof(odd_places[0]); i++) {
		reach(odd_places[i]);
		if (odd_places[i] == ROM)
			continue;
		CATCH(((void (*)(void))address_of(odd_places[i]))());
		print("%u ", fault.vector);
	}
}

TEST(hostile, run_off_the_end_of_memory)
{
	/* The last bytes of RAM begin an instruction that ends in nothing. */
	uint8_t *end = (uint8_t *)0x4000000; /* -m 64M */

	end[-2] = 0x48;
	end[-1] = 0xb8;
	CATCH(((void (*)(void))(end - 2))());
	print("%u ", fault.vector);
}

TEST(hostile, stack_in_nothing)
{
	for (unsigned i = 0; i < sizeof(odd_places) / sizeof(odd_places[0]); i++) {
		reach(odd_places[i]);
		CATCH(__asm__ volatile("mov %0, %%rsp; push $1; push $2; pop %%rax; ud2"
				       :
				       : "r"(address_of(odd_places[i]) + 0x800)
				       : "rax"));
	}
}

TEST(hostile, gdt_in_nothing)
{
	struct table old;

	__asm__ volatile("sgdt %0" : "=m"(old));
	for (unsigned i = 0; i < sizeof(odd_places) / sizeof(odd_places[0]); i++) {
		const struct table t = {0xffff, odd_places[i]};

		if (odd_places[i] >> 32)
			continue; /* not mapped, and faults have no GDT to go to */
		__asm__ volatile("lgdt %0" : : "m"(t));
		__asm__ volatile("verw %w0; verr %w0; lar %w0, %%eax; lsl %w0, %%eax"
				 :
				 : "r"(0x28)
				 : "eax");
		fault_armed = 0;
		__asm__ volatile("lgdt %0" : : "m"(old));
	}
}

TEST(hostile, gdt_in_nothing_and_used)
{
	const struct table t = {0xffff, HOLE};

	__asm__ volatile("lgdt %0; mov %w1, %%ds; lretq" : : "m"(t), "r"(0x28));
}

TEST(hostile, idt_in_nothing)
{
	const struct table t = {0xffff, HOLE};

	__asm__ volatile("lidt %0; ud2" : : "m"(t));
}

TEST(hostile, idt_in_the_apic)
{
	const struct table t = {0xffff, LAPIC};

	__asm__ volatile("lidt %0; ud2" : : "m"(t));
}

TEST(hostile, tss_in_nothing)
{
	gdt[SEL_FREE / 8] =
	    0xffffull | (HOLE & 0xffffff) << 16 | 0x89ull << 40 | (HOLE >> 24 & 0xff) << 56;
	gdt[SEL_FREE / 8 + 1] = 0;
	__asm__ volatile("ltr %w0" : : "r"(SEL_FREE) : "memory");
	set_gate(V_UD, (uint64_t)trap_stubs + 16 * V_UD, SEL_CODE64, 0x8e,
		 1); /* a stack out of it */
	CATCH(__asm__ volatile("ud2"));
}

TEST(hostile, page_tables_in_nothing)
{
	write_cr3(HOLE);
}

TEST(hostile, page_tables_in_the_apic)
{
	write_cr3(LAPIC);
}

TEST(hostile, page_table_entries_that_lead_astray)
{
	for (unsigned i = 0; i < sizeof(odd_places) / sizeof(odd_places[0]); i++) {
		pml4[300] = odd_places[i] | PTE_P | PTE_W;
		write_cr3(read_cr3());
		for (unsigned k = 0; k < 16; k++) {
			uint64_t va = 0xffff960000000000ull + (noise() & 0x7fffffffffull);

			CATCH(*(volatile uint64_t *)va);
			CATCH(*(volatile uint64_t *)va = noise());
		}
	}
	/* At itself: every table is the same page, and a write through it changes it. */
	for (volatile unsigned n = 256; n < 512; n++) {
		pml4[n] = (uint64_t)pml4 | PTE_P | PTE_W;
		write_cr3(read_cr3());
		CATCH((void)*(volatile uint64_t *)(0xffff000000000000ull | (uint64_t)n << 39 |
						   (uint64_t)n << 30 | (uint64_t)n << 21 |
						   (uint64_t)n << 12 | 8 * n));
	}
}

TEST(hostile, random_page_tables)
{
	uint64_t *tables = alloc_page();

	for (unsigned i = 0; i < 63; i++)
		alloc_page();
	for (unsigned n = 0; n < rounds(2000); n++) {
		for (unsigned i = 0; i < 64; i++)
			tables[noise() % (64 * 512)] = noise() & noise();
		for (unsigned i = 0; i < 512; i++)
			if (noise() & 1)
				tables[i] = ((uint64_t)tables + 4096 * (noise() & 63)) | 0x67;
		pml4[256 + (n & 255)] = (uint64_t)tables | PTE_P | PTE_W;
		write_cr3(read_cr3());
		for (unsigned k = 0; k < 8; k++) {
			uint64_t va = 0xffff800000000000ull | (uint64_t)(n & 255) << 39 |
				      (noise() & 0x7fffffffffull);
			CATCH((void)*(volatile uint64_t *)va);
		}
	}
}

static volatile unsigned taken;
static bool on_any(struct frame *f)
{
	taken++;
	apic_write(0xb0, 0);
	return 1;
}

TEST(hostile, interrupts_to_itself_of_every_kind)
{
	apic_enable();
	for (unsigned v = 0; v < 256; v++)
		set_handler(v, on_any);
	/* As interrupts these have no error code. */
	set_gate(17, (uint64_t)trap_stubs + 16 * 18, SEL_CODE64, 0x8e, 0);
	set_gate(21, (uint64_t)trap_stubs + 16 * 22, SEL_CODE64, 0x8e, 0);
	for (unsigned mode = 0; mode < 8; mode++) {
		if (mode == 5)
			continue; /* INIT: the end of this CPU's day */
		for (unsigned v = 0; v < 256; v++)
			for (unsigned hand = 0; hand < 4; hand++) {
				apic_write(0x300, hand == 3 ? 0x40000 | mode << 8 | v
							    : hand << 14 | 0x40000 | mode << 8 | v);
				let_in();
			}
	}
	print("%u ", taken);
}

TEST(hostile, timers_at_full_speed)
{
	uint32_t start;

	apic_enable();
	for (unsigned v = 32; v < 256; v++)
		set_handler(v, on_any);
	apic_write(0x3e0, 0xb);
	apic_write(0x320, 0x20050);
	apic_write(0x380, 1);
	*(volatile uint64_t *)(HPET + 0x10) = 0;
	*(volatile uint64_t *)(HPET + 0x100) = 0x4c | 2ull << 9;
	*(volatile uint64_t *)(HPET + 0x108) = 1;
	*(volatile uint64_t *)(HPET + 0x10) = 1;
	outb(0x43, 0x34);
	outb(0x40, 1);
	outb(0x40, 0);
	for (unsigned i = 0; i < 24; i++) {
		*(volatile uint32_t *)IOAPIC = 0x10 + 2 * i;
		*(volatile uint32_t *)(IOAPIC + 0x10) = 0x40 + i;
	}
	start = pm_timer();
	while (pm_timer() - start < 3579545u)
		let_in();
	print("%u ", taken);
}

TEST_SMP(hostile, init_and_startup_storm)
{
	uint8_t *low = (uint8_t *)0x8000;

	apic_enable();
	memcpy(low, "\xfa\xeb\xfe", 3);		      /* cli; jmp . */
	memcpy((uint8_t *)0x9000, "\xf4\xeb\xfd", 3); /* hlt; jmp back */
	memcpy((uint8_t *)0xa000, "\x0f\x0b", 2);     /* ud2: through an empty table */
	for (unsigned n = 0; n < rounds(20000); n++) {
		uint64_t r = noise();

		apic_write(0x310, (uint32_t)(r & 3) << 24);
		if ((r & 3) == 0)
			apic_write(0x310, 1u << 24);
		switch (r >> 8 & 3) {
		case 0: apic_write(0x300, 0x4500); break;
		case 1: apic_write(0x300, 0x4608 + (r >> 16 & 3)); break;
		case 2: apic_write(0x300, 0xc4500); break; /* all but this one */
		default: apic_write(0x300, 0x4400); break;
		}
	}
}

static volatile int stop_writing;
static uint8_t code[4096] __attribute__((aligned(4096)));
static void write_code(void *arg)
{
	while (!stop_writing) {
		uint64_t r = noise();
		((volatile uint8_t *)code)[64 * (r & 31)] = r & 64 ? 0x90 : 0x40;
	}
}
TEST_SMP(hostile, one_cpu_writes_what_the_other_executes)
{
	memset(code, 0x90, sizeof(code));
	for (unsigned i = 0; i < 32; i++)
		memcpy(code + 64 * i, "\x90\x90\xff\xc0", 4); /* 40 90 is one instruction too */
	code[4000] = 0xc3;
	stop_writing = 0;
	cpu_run(1, write_code, 0);
	for (unsigned n = 0; n < rounds(3000); n++)
		__asm__ volatile("call *%0" : : "r"(code) : "rax", "memory");
	stop_writing = 1;
	cpu_join(1);
}

TEST(hostile, code_that_rewrites_itself_on_every_round)
{
	for (unsigned n = 0; n < rounds(100000); n++) {
		uint32_t v;

		code[0] = 0xb8;
		*(volatile uint32_t *)(code + 1) = n;
		code[5] = 0xc3;
		__asm__ volatile("call *%1" : "=a"(v) : "r"(code) : "memory");
		if (v != n)
			test_fail(__FILE__, __LINE__, "stale code", v, n);
	}
}

TEST(hostile, cpu_off)
{
	__asm__ volatile("cli; hlt");
}

TEST(hostile, timers_off_and_halt)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	apic_write(0x320, 0x10000);
	apic_write(0x380, 0);
	for (;;)
		__asm__ volatile("sti; hlt");
}

TEST(hostile, spin)
{
	for (;;)
		;
}

TEST(hostile, repeat_without_end)
{
	/* An address space full of one page, as long as RCX can say. */
	uint64_t *page = alloc_page(), *t1 = alloc_page(), *t2 = alloc_page(), *t3 = alloc_page();

	for (unsigned i = 0; i < 512; i++) {
		t1[i] = (uint64_t)page | PTE_P | PTE_W;
		t2[i] = (uint64_t)t1 | PTE_P | PTE_W;
		t3[i] = (uint64_t)t2 | PTE_P | PTE_W;
	}
	for (unsigned i = 1; i < 256; i++)
		pml4[i] = (uint64_t)t3 | PTE_P | PTE_W;
	__asm__ volatile("cli; rep stosb"
			 :
			 : "D"(FREE_VA), "c"(0x600000000000ull), "a"(0)
			 : "memory");
}

TEST(hostile, repeat_over_nothing_without_end)
{
	uint64_t *t1 = alloc_page(), *t2 = alloc_page(), *t3 = alloc_page();

	for (unsigned i = 0; i < 512; i++) {
		t1[i] = HOLE | PTE_P | PTE_W;
		t2[i] = (uint64_t)t1 | PTE_P | PTE_W;
		t3[i] = (uint64_t)t2 | PTE_P | PTE_W;
	}
	for (unsigned i = 1; i < 256; i++)
		pml4[i] = (uint64_t)t3 | PTE_P | PTE_W;
	__asm__ volatile("cli; rep movsb"
			 :
			 : "S"(FREE_VA), "D"(FREE_VA + 0x100000000000ull), "c"(0x300000000000ull)
			 : "memory");
}

/* Values of which many are nearly right. */
static uint64_t value(uint64_t old)
{
	uint64_t r = noise();

	switch (r >> 60) {
	case 0: return 0;
	case 1: return ~0ull;
	case 2: return HOLE | 1;
	case 3: return r & 0xfff;
	case 4:
	case 5:
	case 6: return old ^ 1ull << (r & 63);
	default: return r;
	}
}
static void scan(uint32_t from, uint32_t to)
{
	for (uint32_t msr = from; msr < to; msr++) {
		volatile uint64_t old = 0;

		CATCH(old = rdmsr(msr));
		/* Not what this code stands on: the APIC's base, EFER; nor what stops this CPU. */
		if (msr == 0x1b || msr == 0xc0000080 || msr == 0x830)
			continue;
		for (unsigned i = 0; i < 4; i++)
			CATCH(wrmsr(msr, value(old)));
		CATCH(wrmsr(msr, old));
	}
}
TEST(hostile, every_msr)
{
	scan(0, rounds(0x2000));
	scan(0xc0000000, 0xc0000000 + rounds(0x2000));
	scan(0xc0010000, 0xc0010000 + rounds(0x400));
	scan(0x40000000, 0x40000000 + rounds(0x400));
	scan(0x4b564d00, 0x4b564d10);
}

TEST(hostile, every_msr_in_x2apic_mode)
{
	apic_enable();
	for (unsigned v = 32; v < 256; v++)
		set_handler(v, on_any);
	wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
	for (unsigned n = 0; n < rounds(50); n++)
		scan(0x800, 0x840);
	wrmsr(0x80b, 0);
}

TEST(hostile, control_registers_at_random)
{
	for (unsigned n = 0; n < rounds(20000); n++) {
		uint64_t cr0 = read_cr0(), cr4 = read_cr4();

		/* Some combinations end this program, and may; here only what does not. */
		CATCH(write_cr4(cr4 ^ (1ull << (noise() & 63) & ~0x300020ull)));
		write_cr4(cr4);
		CATCH(write_cr0(cr0 ^ (1ull << (noise() & 63) & ~0x80000001ull)));
		write_cr0(cr0);
		CATCH(write_dr7(noise() & noise() & 0xffffffff & ~0x20ffull));
		write_dr7(0x400);
	}
}
