/* support.c: traps, page tables, ring 3, the local APIC and other CPUs for tests in 64-bit mode. */
#include "g64.h"

#define POOL_PAGES 512
#define AP_START   0x8000u
#define MAX_CPUS   8

const char *guest_cmdline = "";
struct fault fault;
struct jump fault_jump;
volatile int fault_armed;
uint64_t user_rax;
struct gate idt[256] __attribute__((aligned(16)));
uint8_t tss[2][0x2080] __attribute__((aligned(16)));
uint8_t ist_stacks[7][4096] __attribute__((aligned(16)));

static uint8_t pool[POOL_PAGES][4096] __attribute__((aligned(4096)));
static unsigned pool_used;
static uint8_t trap_stack[8192] __attribute__((aligned(16)));
static trap_handler *handlers[256];
static uint64_t gdt_saved[64], boot_cr0, boot_cr4, boot_efer;
static unsigned cpus;
static uint8_t ap_stacks[MAX_CPUS][8192] __attribute__((aligned(16)));
static volatile unsigned ap_up;
static volatile bool draining; /* between tests: interrupts of the last one are let go */
static struct {
	void (*volatile fn)(void *);
	void *volatile arg;
} jobs[MAX_CPUS];

extern const uint8_t ap_start[], ap_start_end[];
extern uint64_t start_info, ap_stack;
void trap(struct frame *f);
void ap_main(void);
void guest64_main(uint32_t info);
void frame_enter(struct frame *f) __attribute__((noreturn));

/* The emulator behind some hosts' /dev/kvm has no INT in ring 3 and reports it as undefined. */
static bool is_user_end(const struct frame *f)
{
	return f->vector == V_UD && f->cs & 3 && cmdline_has("slow") &&
	       *(const uint16_t *)f->rip == 0x80cd;
}

void trap(struct frame *f)
{
	if (is_user_end(f))
		f->vector = 0x80;
	if (draining && f->vector >= 32) {
		apic_write(0xb0, 0);
		return;
	}
	if (handlers[f->vector & 255] && handlers[f->vector & 255](f))
		return;
	if (!fault_armed) {
		print("\n  unexpected trap %u, error 0x%lx, rip 0x%lx, cr2 0x%lx\n",
		      (unsigned)f->vector, f->error, f->rip, read_cr2());
		test_fail("trap", 0, "no trap", f->vector, V_NONE);
	}
	fault = (struct fault){(unsigned)f->vector, f->error, f->rip,	  read_cr2(),
			       f->rflags,	    f->rsp,   read_dr6(), (uint16_t)f->cs};
	user_rax = f->rax;
	fault_armed = 0;
	jump_to(&fault_jump, 1);
}

void set_handler(unsigned vector, trap_handler *fn)
{
	handlers[vector] = fn;
}

void set_gate(unsigned vector, uint64_t target, uint16_t selector, unsigned type, unsigned ist)
{
	idt[vector] = (struct gate){(uint16_t)target,
				    selector,
				    (uint8_t)ist,
				    (uint8_t)type,
				    (uint16_t)(target >> 16),
				    (uint32_t)(target >> 32),
				    0};
}

void *alloc_page(void)
{
	check(pool_used < POOL_PAGES);
	memset(pool[pool_used], 0, 4096);
	return pool[pool_used++];
}

uint64_t *pte(uint64_t va, unsigned level)
{
	uint64_t *table = (uint64_t *)(read_cr3() & 0xffffffffff000ull);

	for (unsigned l = 4; l > level; l--) {
		uint64_t e = table[(va >> (12 + 9 * (l - 1))) & 511];
		if (!(e & PTE_P) || (e & PTE_PS))
			return 0;
		table = (uint64_t *)(e & 0xffffffffff000ull);
	}
	return &table[(va >> (12 + 9 * (level - 1))) & 511];
}

uint64_t *map(uint64_t va, uint64_t pa, uint64_t flags)
{
	uint64_t *e;

	for (unsigned l = 4; l > 1; l--) {
		e = pte(va, l);
		if (!(*e & PTE_P))
			*e = (uint64_t)alloc_page() | PTE_P | PTE_W | PTE_U;
	}
	e = pte(va, 1);
	*e = pa | flags;
	invlpg(va);
	return e;
}

void run_user(const uint8_t *code, const uint8_t *end, const struct user_regs *regs)
{
	uint8_t *page = alloc_page();
	struct frame f = {0};

	memcpy(page, code, (unsigned long)(end - code));
	map(USER_CODE, (uint64_t)page, PTE_P | PTE_U);
	map(USER_STACK - 4096, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	f.rax = regs->rax;
	f.rbx = regs->rbx;
	f.rcx = regs->rcx;
	f.rdx = regs->rdx;
	f.rsi = regs->rsi;
	f.rdi = regs->rdi;
	f.rip = USER_CODE;
	f.rsp = USER_STACK;
	f.cs = regs->cs ? regs->cs : SEL_UCODE64;
	f.ss = SEL_UDATA;
	f.rflags = regs->rflags | 2;
	CATCH(frame_enter(&f));
}

void apic_enable(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	apic_write(0xf0, 0x1ff);
	apic_write(0x80, 0);
}

uint32_t pm_timer(void)
{
	return inl(PM_TIMER);
}

void delay_us(unsigned us)
{
	uint32_t start = pm_timer(), ticks = us * 4 - us * 2 / 5;

	while (pm_timer() - start < ticks)
		__asm__ volatile("pause");
}

void wait_for(volatile int *flag, unsigned ms)
{
	uint32_t start = pm_timer();

	while (!*flag) {
		let_in();
		if (pm_timer() - start > ms * 3580)
			break;
	}
	check(*flag);
}

void ap_main(void)
{
	unsigned n = ++ap_up;

	__asm__ volatile("lidt %0"
			 :
			 : "m"(*(const struct {
				 uint16_t l;
				 uint64_t b;
			 } __attribute__((packed)) *)&(const struct {
				 uint16_t l;
				 uint64_t b;
			 } __attribute__((packed))){sizeof(idt) - 1, (uint64_t)idt}));
	for (;;) {
		while (!jobs[n].fn)
			__asm__ volatile("pause");
		jobs[n].fn(jobs[n].arg);
		__asm__ volatile("" : : : "memory");
		jobs[n].fn = 0;
	}
}

static void start_cpu(unsigned n)
{
	uint32_t start;

	ap_stack = (uint64_t)ap_stacks[n] + sizeof(ap_stacks[n]);
	apic_write(0x310, n << 24);
	apic_write(0x300, 0x4500); /* INIT */
	delay_us(200);
	apic_write(0x310, n << 24);
	apic_write(0x300, 0x4600 | AP_START >> 12); /* SIPI */
	start = pm_timer();
	while (ap_up < n && pm_timer() - start < 3579545u * 2)
		__asm__ volatile("pause");
	check_eq(ap_up, n);
}

void cpu_run(unsigned n, void (*fn)(void *arg), void *arg)
{
	check(n < cpus && n < MAX_CPUS);
	apic_enable();
	memcpy((void *)(uint64_t)AP_START, ap_start, (unsigned long)(ap_start_end - ap_start));
	while (ap_up < n)
		start_cpu(ap_up + 1);
	jobs[n].arg = arg;
	__asm__ volatile("" : : : "memory");
	jobs[n].fn = fn;
}

void cpu_join(unsigned n)
{
	uint32_t start = pm_timer();

	while (jobs[n].fn) {
		check(pm_timer() - start < 3579545u * 60);
		__asm__ volatile("pause");
	}
}

unsigned cpu_count(void)
{
	return cpus;
}

static void reset_idt(void)
{
	for (unsigned v = 0; v < 256; v++)
		set_gate(v, (uint64_t)trap_stubs + 16 * v, SEL_CODE64,
			 v == 3 || v == 0x80 ? 0xee : 0x8e, v == 8 ? 1 : 0);
	memset(handlers, 0, sizeof(handlers));
}

static void load_tss(unsigned n)
{
	uint64_t base = (uint64_t)tss[n];
	uint64_t limit = sizeof(tss[n]) - 1;

	memset(tss[n], 0, 0x68);
	memset(tss[n] + 0x68, 0xff, sizeof(tss[n]) - 0x68);
	*(uint64_t *)(tss[n] + 4) = (uint64_t)trap_stack + sizeof(trap_stack);
	for (unsigned i = 1; i <= 7; i++)
		*(uint64_t *)(tss[n] + 0x24 + 8 * (i - 1)) = IST_STACK_TOP(i);
	*(uint16_t *)(tss[n] + 0x66) = 0x68;
	gdt[8 + 2 * n] =
	    limit | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[9 + 2 * n] = base >> 32;
}

void test_cleanup(void)
{
	__asm__ volatile("cli; cld");
	fault_armed = 0;
	write_cr0(boot_cr0);
	write_cr4(boot_cr4);
	wrmsr(0xc0000080, boot_efer);
	memcpy(gdt, gdt_saved, sizeof(gdt_saved));
	load_tss(0);
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
	reset_idt();
	for (unsigned i = 1; i < 512; i++)
		pml4[i] = 0;
	write_cr3((uint64_t)pml4);
	write_dr7(0x400);
	write_dr6(0xffff0ff0);
	pool_used = 0;
	draining = 1;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	for (unsigned i = 0; i < 4; i++)
		let_in();
	draining = 0;
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" : : "r"(SEL_DATA));
}

/* The MADT is not read here: CPUID says how many there are (leaf 1, EBX bits 23:16). */
static unsigned count_cpus(void)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	r[1] = r[1] >> 16 & 0xff;
	return r[1] ? r[1] : 1;
}

void guest64_main(uint32_t info)
{
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) pointer = {sizeof(idt) - 1, (uint64_t)idt};

	static char cmdline[512]; /* a copy: tests write to low memory */

	if (*(uint32_t *)(uint64_t)info == 0x336ec578 && *(uint64_t *)(uint64_t)(info + 24)) {
		memcpy(cmdline, (const char *)*(uint64_t *)(uint64_t)(info + 24),
		       sizeof(cmdline) - 1);
		guest_cmdline = cmdline;
	}
	cpus = count_cpus();
	reset_idt();
	load_tss(0);
	memcpy(gdt_saved, gdt, sizeof(gdt_saved));
	__asm__ volatile("lidt %0; ltr %w1" : : "m"(pointer), "r"(SEL_TSS));
	boot_cr0 = read_cr0();
	boot_cr4 = read_cr4();
	boot_efer = rdmsr(0xc0000080);
	test_cleanup();
	run_tests();
}
