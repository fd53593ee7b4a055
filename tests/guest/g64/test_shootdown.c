/* test_shootdown.c: page tables changed under code that another CPU is running, with the
 * interprocessor interrupt that architecture demands; never a moment more is forgiven. */
#include "code.h"

#define VECTOR 0x72
#define VA     (FREE_VA + 0x20000)

static volatile unsigned acks, sequence, value, faults;
static volatile bool started, stop, hold, flush_all;

static bool on_shoot_down(struct frame *f)
{
	if (flush_all)
		write_cr3(read_cr3());
	else
		invlpg(VA);
	acks++;
	apic_write(0xb0, 0);
	return 1;
}

static void shoot_down(void)
{
	unsigned before = acks;
	uint32_t start = pm_timer();

	apic_write(0x310, 1u << 24);
	apic_write(0x300, VECTOR);
	while (acks == before && pm_timer() - start < 3579545u * 10)
		__asm__ volatile("pause");
	check(acks != before);
}

/* Calls rbx for ever, notes what it gives, and counts; until *rdi. */
BLOB(call_on, "1: call *%rbx; mov %eax, (%rsi); incl (%r8); cmpb $0, (%rdi); je 1b; ret\n");
/* Adds to what is at rbx for ever; until *rdi. */
BLOB(add_on, "1: incq (%rbx); mov (%rbx), %rax; add $1, %rcx; cmpb $0, (%rdi); je 1b; ret\n");
/* The same without a look at anything: ended by a change of its code. */
BLOB(store_on, "mov $1, %eax; 1: mov %rax, 8(%rbx); inc %rax; jmp 1b; ret\n");
BLOB(give, "mov $1, %eax; ret\n");

static void run_code(void *arg)
{
	struct regs r = {.rip = (uint64_t)arg,
			 .rbx = VA,
			 .rsi = (uint64_t)&value,
			 .rdi = (uint64_t)&stop,
			 .r8 = (uint64_t)&sequence,
			 .rflags = RFLAGS_IF};

	apic_write(0xf0, 0x1ff);
	write_cr3((uint64_t)pml4);
	started = 1;
	regs_call(&r);
	__asm__ volatile("cli");
}

/* Until the other CPU has gone round twice: the second is wholly after this call. */
static void wait_many(void)
{
	unsigned from = sequence;
	uint32_t start = pm_timer();

	while (sequence - from < 2 && pm_timer() - start < 3579545u * 10)
		__asm__ volatile("pause");
	check(sequence - from >= 2);
}

/* Its APIC must be on before anything is sent to it. */
static void start_code(const uint8_t *code)
{
	cpu_run(1, run_code, (void *)code);
	while (!started)
		__asm__ volatile("pause");
}

static void begin(void)
{
	acks = sequence = value = faults = 0;
	started = stop = hold = flush_all = 0;
	set_handler(VECTOR, on_shoot_down);
	apic_enable();
}

TEST_SMP(shootdown, code_remapped_under_a_loop_is_the_new_code_after_the_interrupt)
{
	uint8_t *page[2] = {PLACE(give, 0), PLACE(give, 0)};

	page[1][1] = 2;
	begin();
	map(VA, (uint64_t)page[0], PTE_P);
	start_code(PLACE(call_on, 0));
	for (unsigned i = 1; i < many(400); i++) {
		flush_all = i % 3 == 0;
		*pte(VA, 1) = (uint64_t)page[i & 1] | PTE_P;
		shoot_down();
		wait_many();
		check_eq(value, 1 + (i & 1));
	}
	stop = 1;
	cpu_join(1);
}

/* A page taken from a CPU: its fault waits until it gets the page back. */
static bool wait_for_page(struct frame *f)
{
	faults++;
	while (hold)
		__asm__ volatile("sti; pause; cli");
	invlpg(VA);
	return 1;
}

static void take_away(uint64_t taken, const uint8_t *code)
{
	volatile uint64_t *page = alloc_page();
	unsigned n = many(200);

	begin();
	set_handler(V_PF, wait_for_page);
	map(VA, (uint64_t)page, PTE_P | PTE_W);
	start_code(code);
	for (unsigned i = 0; i < n; i++) {
		uint64_t seen[2];
		unsigned before = faults;
		uint32_t start = pm_timer();

		hold = 1;
		*pte(VA, 1) = (uint64_t)page | taken;
		shoot_down();
		seen[0] = page[0];
		seen[1] = page[1];
		for (unsigned k = 0; k < 2000; k++)
			__asm__ volatile("pause");
		check_eq(page[0], seen[0]);
		check_eq(page[1], seen[1]);
		while (faults == before && pm_timer() - start < 3579545u * 10)
			__asm__ volatile("pause");
		check(faults != before);
		*pte(VA, 1) = (uint64_t)page | PTE_P | PTE_W;
		hold = 0;
		start = pm_timer();
		while (page[0] == seen[0] && page[1] == seen[1] &&
		       pm_timer() - start < 3579545u * 10)
			__asm__ volatile("pause");
		check(page[0] != seen[0] || page[1] != seen[1]);
	}
}

TEST_SMP(shootdown, no_store_arrives_in_a_page_made_read_only_after_the_interrupt)
{
	take_away(PTE_P, PLACE(add_on, 0));
	stop = 1;
	cpu_join(1);
}

TEST_SMP(shootdown, no_store_arrives_in_a_page_taken_away_after_the_interrupt)
{
	take_away(0, PLACE(add_on, 0x700));
	stop = 1;
	cpu_join(1);
}

TEST_SMP(shootdown, a_loop_of_stores_without_another_exit_loses_its_page_and_then_its_code)
{
	uint8_t *code = PLACE(store_on, 0);

	take_away(PTE_P, code);
	/* its jump becomes two NOPs, before the RET */
	check_eq(code[12], 0xeb);
	*(volatile uint16_t *)(code + 12) = 0x9090;
	cpu_join(1);
}

/* The page's right to be executed goes, and comes back. */
TEST_SMP(shootdown, no_call_arrives_in_a_page_closed_to_execution_after_the_interrupt)
{
	uint8_t *page = PLACE(give, 0);

	begin();
	set_handler(V_PF, wait_for_page);
	map(VA, (uint64_t)page, PTE_P);
	start_code(PLACE(call_on, 0));
	for (unsigned i = 1; i < many(200); i++) {
		unsigned before = faults, seen;
		uint32_t start = pm_timer();

		hold = 1;
		*pte(VA, 1) = (uint64_t)page | PTE_P | PTE_NX;
		shoot_down();
		while (faults == before && pm_timer() - start < 3579545u * 10)
			__asm__ volatile("pause");
		check(faults != before);
		seen = sequence;
		for (unsigned k = 0; k < 500; k++)
			__asm__ volatile("pause");
		check_eq(sequence, seen);
		*pte(VA, 1) = (uint64_t)page | PTE_P;
		hold = 0;
		wait_many();
	}
	stop = 1;
	cpu_join(1);
}

/* The stack's page is flushed while the other CPU pushes and pops on it. */
BLOB(stack_on, "mov %rsp, %rbp; lea 0x800(%rbx), %rsp\n"
	       "1: call 2f; push %rcx; pop %rdx; mov 8(%rsp), %eax; mov %eax, (%rsi); incl (%r8); "
	       "cmpb $0, (%rdi); je 1b\n"
	       "mov %rbp, %rsp; ret\n"
	       "2: inc %rcx; ret\n");

TEST_SMP(shootdown, flushes_of_the_stack_page_between_its_pushes_and_pops_lose_nothing)
{
	volatile uint32_t *page = alloc_page();

	begin();
	map(VA, (uint64_t)page, PTE_P | PTE_W);
	start_code(PLACE(stack_on, 0));
	for (unsigned i = 1; i < many(200); i++) {
		page[0x808 / 4] = i;
		shoot_down();
		wait_many();
		check_eq(value, i);
	}
	stop = 1;
	cpu_join(1);
}
