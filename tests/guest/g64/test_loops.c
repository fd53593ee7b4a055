/* test_loops.c: tight loops of every kind, interrupted at any point: timer, other CPUs, single
 * steps, breakpoints. At each interruption all registers and flags must be those of some
 * instruction's start. */
#include "code.h"

/*
 * Each loop adds rdx to rax and takes 1 off rcx, over and over. It begins by noting RSP in r14.
 * Behind its code is a table of where its instructions begin: offset, whether the addition is done
 * but not the subtraction, how deep the stack is. Label 10 is the first, 19 the end.
 */
#define AT(label, added, depth) ".byte " #label "b - 9b, " #added ", " #depth "\n"
#define LOOP(name, text, table)                                                                    \
	BLOB(name, "9: mov %rsp, %r14\n" text "19: ret; nop\n"                                     \
		   ".byte 0xee\n" table AT(19, 0, 0) ".byte 0xff\n")
LOOP(self_jump, "10: add %rdx, %rax; 11: dec %rcx; 12: jnz 10b\n",
     AT(10, 0, 0) AT(11, 1, 0) AT(12, 0, 0));
LOOP(two_blocks, "10: add %rdx, %rax; 11: jmp 13f; 12: nop; 13: dec %rcx; 14: jnz 10b\n",
     AT(10, 0, 0) AT(11, 1, 0) AT(13, 1, 0) AT(14, 0, 0));
LOOP(far_apart,
     "10: add %rdx, %rax; 11: jmp 13f; .skip 100, 0xcc; 13: dec %rcx; 14: jz 19f; 15: jmp 10b\n",
     AT(10, 0, 0) AT(11, 1, 0) AT(13, 1, 0) AT(14, 0, 0) AT(15, 0, 0));
LOOP(by_return,
     "lea 10f(%rip), %rbx; 10: add %rdx, %rax; 11: dec %rcx; 12: jz 19f; 13: push %rbx; 14: ret\n",
     AT(10, 0, 0) AT(11, 1, 0) AT(12, 0, 0) AT(13, 0, 0) AT(14, 0, 8));
LOOP(by_register,
     "lea 10f(%rip), %rbx; 10: add %rdx, %rax; 11: dec %rcx; 12: jz 19f; 13: jmp *%rbx\n",
     AT(10, 0, 0) AT(11, 1, 0) AT(12, 0, 0) AT(13, 0, 0));
LOOP(by_memory,
     "lea 10f(%rip), %rbx; push %rbx; 10: add %rdx, %rax; 11: dec %rcx; 12: jz 18f; 13: jmp "
     "*(%rsp); 18: pop %rbx\n",
     AT(10, 0, 8) AT(11, 1, 8) AT(12, 0, 8) AT(13, 0, 8) AT(18, 0, 8));
LOOP(by_call, "10: call 13f; 11: dec %rcx; 12: jnz 10b; jmp 19f; 13: add %rdx, %rax; 14: ret\n",
     AT(10, 0, 0) AT(11, 1, 0) AT(12, 0, 0) AT(13, 0, 8) AT(14, 1, 8));
LOOP(with_stores,
     "10: add %rdx, %rax; 11: mov %rax, (%rsi); 12: dec %rcx; 13: mov (%rsi), %r15; 14: jnz 10b\n",
     AT(10, 0, 0) AT(11, 1, 0) AT(12, 1, 0) AT(13, 0, 0) AT(14, 0, 0));
LOOP(with_pushes, "10: push %rax; 11: add %rdx, (%rsp); 12: pop %rax; 13: dec %rcx; 14: jnz 10b\n",
     AT(10, 0, 0) AT(11, 0, 8) AT(12, 0, 8) AT(13, 1, 0) AT(14, 0, 0));
LOOP(with_pause, "10: add %rdx, %rax; 11: pause; 12: dec %rcx; 13: jnz 10b\n",
     AT(10, 0, 0) AT(11, 1, 0) AT(12, 1, 0) AT(13, 0, 0));
LOOP(with_branches,
     "10: add %rdx, %rax; 11: jc 12f; 12: js 13f; 13: jmp 14f; 14: dec %rcx; 15: jnz 10b\n",
     AT(10, 0, 0) AT(11, 1, 0) AT(12, 1, 0) AT(13, 1, 0) AT(14, 1, 0) AT(15, 0, 0));

static const struct loop {
	const char *name;
	const uint8_t *code, *end;
} loops[] = {
#define ONE(name)                                                                                  \
	{                                                                                          \
#name, name, name##_end                                                            \
	}
    ONE(self_jump),   ONE(two_blocks), ONE(far_apart),	   ONE(by_return),
    ONE(by_register), ONE(by_memory),  ONE(by_call),	   ONE(with_stores),
    ONE(with_pushes), ONE(with_pause), ONE(with_branches),
};
#define LOOPS (sizeof(loops) / sizeof(loops[0]))

static struct {
	const uint8_t *table, *end;
	uint64_t base, stop, first, step; /* linear addresses; rcx and rdx at the start */
	volatile unsigned seen, want;
	volatile bool over;
	const char *wrong;
} run;

static const struct loop *now;
static uint64_t cell;

static uint64_t flags_of(uint64_t before, uint64_t counter, bool added)
{
	uint64_t f;

	/* the addition that came last, then the subtraction, if that is done */
	__asm__("add %2, %1; jmp 1f; 1: pushf; pop %0"
		: "=r"(f), "+r"(before)
		: "r"(run.step)
		: "cc");
	if (!added) {
		uint64_t g;

		counter++;
		__asm__("dec %1; pushf; pop %0" : "=r"(g), "+r"(counter) : : "cc");
		f = (f & 1) | (g & RFLAGS_ARITH & ~1ull);
	}
	return f & RFLAGS_ARITH;
}

static const uint8_t *find_place(uint64_t rip)
{
	for (const uint8_t *t = run.table; *t != 0xff; t += 3)
		if (rip == run.base + t[0])
			return t;
	return 0;
}

/* Notes what is wrong instead of ending: this runs in a handler, on either CPU. */
static void wrong(const char *what, const struct frame *f, uint64_t want)
{
	if (!run.wrong)
		print("\n  %s: %s: rip +0x%lx rax 0x%lx rcx 0x%lx rflags 0x%lx rsp 0x%lx, want "
		      "0x%lx\n",
		      now->name, what, f->rip - run.base, f->rax, f->rcx, f->rflags, f->rsp, want);
	run.wrong = what;
}

static void check_frame(const struct frame *f)
{
	const uint8_t *t = find_place(f->rip);
	uint64_t done = run.first - f->rcx;

	if (!t) {
		wrong("rip", f, 0);
		return;
	}
	if (f->rax != run.step * (done + t[1]))
		wrong("rax", f, run.step * (done + t[1]));
	if (done &&
	    (f->rflags & RFLAGS_ARITH) != flags_of(run.step * (done + t[1] - 1), f->rcx, t[1]) &&
	    !(now->code == with_pushes && t[2]))
		wrong("rflags", f, flags_of(run.step * (done + t[1] - 1), f->rcx, t[1]));
	if (f->rsp != f->r14 - t[2])
		wrong("rsp", f, f->r14 - t[2]);
	if (f->rdx != run.step || f->r8 != 0x88 || f->r9 != 0x99 || f->r10 != 0xaa ||
	    f->r11 != 0xbb || f->r12 != 0xcc || f->r13 != 0xdd || f->rbp != 0x55 || f->rdi != 0x77)
		wrong("other registers", f, 0);
}

/* True: this was in the loop, and has been counted. */
static bool take_interruption(struct frame *f)
{
	if (run.over || f->rip < run.base + 3 || f->rip >= run.stop)
		return 0;
	if (f->rip < run.base + run.table[0])
		return 0; /* before the loop */
	check_frame(f);
	if (++run.seen >= run.want || run.wrong) {
		run.over = 1;
		f->rip = run.stop;
		f->rsp = f->r14;
		f->rflags &= ~(RFLAGS_IF | RFLAGS_TF);
	}
	return 1;
}

static struct regs prepare(const struct loop *loop, uint8_t *page, uint64_t va, unsigned want,
			   bool user)
{
	const uint8_t *t = loop->end;

	now = loop;
	memcpy(page, loop->code, (unsigned long)(loop->end - loop->code));
	/* the table is behind ee, in front of which are the RET and a NOP */
	for (t = loop->code; !(t[0] == 0xc3 && t[1] == 0x90 && t[2] == 0xee); t++)
		;
	run.table = t + 3;
	run.base = va;
	run.stop = va + (uint64_t)(t - loop->code);
	if (user)
		memcpy(page + (t - loop->code), "\xcd\x80", 2);
	run.first = 1ull << 40;
	run.step = 0x1234567890abcdefull;
	run.seen = 0;
	run.want = want;
	run.over = 0;
	run.wrong = 0;
	return (struct regs){.rcx = run.first,
			     .rdx = run.step,
			     .rbp = 0x55,
			     .rsi = (uint64_t)&cell,
			     .rdi = 0x77,
			     .r8 = 0x88,
			     .r9 = 0x99,
			     .r10 = 0xaa,
			     .r11 = 0xbb,
			     .r12 = 0xcc,
			     .r13 = 0xdd,
			     .rip = va,
			     .rflags = RFLAGS_IF};
}

/* The local APIC's timer, at random distances */

#define TIMER_VECTOR 0x70
static void arm_timer(void)
{
	apic_write(0x380, 200 + random_next() % 20000);
}

static bool on_timer(struct frame *f)
{
	apic_write(0xb0, 0);
	take_interruption(f);
	arm_timer();
	return 1;
}

static void start_timer(void)
{
	apic_enable();
	set_handler(TIMER_VECTOR, on_timer);
	apic_write(0x3e0, 0xb);
	apic_write(0x320, TIMER_VECTOR);
	arm_timer();
}

TEST(loops, of_every_kind_are_interrupted_by_the_timer_between_instructions)
{
	uint8_t *page = alloc_page();

	start_timer();
	for (unsigned i = 0; i < LOOPS; i++) {
		struct regs r = prepare(&loops[i], page, (uint64_t)page, many(200), 0);

		regs_call(&r);
		check(!run.wrong);
		check_eq(run.seen, run.want);
	}
	apic_write(0x320, 0x10000);
}

TEST_REAL(loops, of_ring_3_are_interrupted_by_the_timer_between_instructions)
{
	uint8_t *page = alloc_page(), *stack = alloc_page();

	map(USER_CODE, (uint64_t)page, PTE_P | PTE_U);
	map(USER_STACK - 4096, (uint64_t)stack, PTE_P | PTE_U | PTE_W);
	start_timer();
	for (unsigned i = 0; i < LOOPS; i++) {
		struct regs r = prepare(&loops[i], page, USER_CODE, many(200), 1);

		r.rsi = USER_STACK - 4096;
		regs_user(&r, USER_STACK);
		check_eq(fault.vector, 0x80);
		check(!run.wrong);
		check_eq(run.seen, run.want);
	}
	apic_write(0x320, 0x10000);
}

/* REP: interrupted between two of its steps */

static uint8_t big[65536];
static volatile unsigned cut; /* how often it was */
static bool on_timer_in_rep(struct frame *f)
{
	apic_write(0xb0, 0);
	if (f->rip == run.base && f->rcx) {
		uint64_t done = f->rdi - (uint64_t)big;

		if (done + f->rcx != sizeof(big) - 16 || f->rflags & RFLAGS_ARITH & ~0x44ull)
			wrong("rep", f, sizeof(big) - 16 - done);
		if (done && big[done - 1] != (uint8_t)f->rax)
			wrong("bytes", f, done);
		if (big[done] == (uint8_t)f->rax)
			wrong("bytes ahead", f, done);
		cut += done != 0;
	}
	arm_timer();
	return 1;
}
BLOB(rep_stosb, "rep stosb; ret\n");

TEST(loops, repeated_stores_are_interrupted_between_two_of_them)
{
	uint8_t *page = PLACE(rep_stosb, 0);

	now = &loops[0];
	run.base = (uint64_t)page;
	run.wrong = 0;
	start_timer();
	set_handler(TIMER_VECTOR, on_timer_in_rep);
	for (unsigned i = 1; i < many(4000); i++) {
		struct regs r = {.rcx = sizeof(big) - 16,
				 .rdi = (uint64_t)big,
				 .rax = i & 0xff,
				 .rip = (uint64_t)page,
				 .rflags = RFLAGS_IF | 0x44};

		regs_call(&r);
		check_eq(r.rcx, 0);
		check(!run.wrong);
		check_eq(big[sizeof(big) - 17], i & 0xff);
	}
	apic_write(0x320, 0x10000);
}

/* Another CPU's interrupts and NMIs */

static volatile unsigned got;
static bool on_message(struct frame *f)
{
	if (f->vector != V_NMI)
		apic_write(0xb0, 0);
	take_interruption(f);
	got++;
	return 1;
}

static void send_messages(void *arg)
{
	uint32_t command = (uint32_t)(uint64_t)arg, start = pm_timer();

	while (!run.over && pm_timer() - start < 3579545u * 20) {
		unsigned before = got;

		apic_write(0x310, 0);
		apic_write(0x300, command);
		while (got == before && !run.over && pm_timer() - start < 3579545u * 20)
			__asm__ volatile("pause");
		for (unsigned k = random_next() & 0x3ff; k; k--)
			__asm__ volatile("");
	}
}

static void check_messages(uint32_t command, bool user)
{
	uint8_t *page = alloc_page();

	apic_enable();
	set_handler(V_NMI, on_message);
	set_handler(0x71, on_message);
	map(USER_CODE, (uint64_t)page, PTE_P | PTE_U);
	map(USER_STACK - 4096, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	for (unsigned i = 0; i < LOOPS; i++) {
		struct regs r =
		    prepare(&loops[i], page, user ? USER_CODE : (uint64_t)page, many(200), user);

		cpu_run(1, send_messages, (void *)(uint64_t)command);
		if (user) {
			r.rsi = USER_STACK - 4096;
			regs_user(&r, USER_STACK);
		} else {
			regs_call(&r);
		}
		cpu_join(1);
		check(!run.wrong);
		check_eq(run.seen, run.want);
	}
}

TEST_(loops, are_interrupted_by_nmis_of_another_cpu_between_instructions, NEEDS_SMP | NEEDS_REAL)
{
	check_messages(0x400, 0);
}

TEST_(loops, are_interrupted_by_another_cpu_between_instructions, NEEDS_SMP | NEEDS_REAL)
{
	check_messages(0x71, 0);
}

TEST_(loops, of_ring_3_are_interrupted_by_nmis_of_another_cpu, NEEDS_SMP | NEEDS_REAL)
{
	check_messages(0x400, 1);
}

/* Single steps and breakpoints, after the loop has run for long without them */

static uint64_t last_rip;
static bool on_step(struct frame *f)
{
	write_dr6(0xffff0ff0);
	if (take_interruption(f)) {
		if (f->rip == last_rip)
			wrong("no step", f, last_rip);
		last_rip = f->rip;
	}
	return 1;
}

static void warm_up(struct regs r, bool user)
{
	run.over = 1;
	r.rcx = 200;
	r.rflags = 0;
	if (user)
		regs_user(&r, USER_STACK);
	else
		regs_call(&r);
	run.over = 0;
}

static void check_steps(bool user)
{
	uint8_t *page = alloc_page();

	set_handler(V_DB, on_step);
	map(USER_CODE, (uint64_t)page, PTE_P | PTE_U);
	map(USER_STACK - 4096, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	for (unsigned i = 0; i < LOOPS; i++) {
		struct regs r =
		    prepare(&loops[i], page, user ? USER_CODE : (uint64_t)page, 200, user);

		if (user)
			r.rsi = USER_STACK - 4096;
		warm_up(r, user);
		last_rip = 0;
		r.rflags = RFLAGS_TF;
		if (user)
			regs_user(&r, USER_STACK);
		else
			regs_call(&r);
		check(!run.wrong);
		check_eq(run.seen, run.want);
	}
}

TEST_REAL(loops, that_are_hot_are_stepped_through_instruction_by_instruction)
{
	check_steps(0);
}

TEST_REAL(loops, of_ring_3_that_are_hot_are_stepped_through_instruction_by_instruction)
{
	check_steps(1);
}

#define DR7_EXEC0  0x401ull
#define DR7_WRITE8 0x90401ull
static unsigned hits;
static bool on_breakpoint(struct frame *f)
{
	hits++;
	check_frame(f);
	write_dr6(0xffff0ff0);
	f->rflags |= 1u << 16; /* RF: it is executed now */
	return 1;
}

TEST_REAL(loops, that_are_hot_stop_at_a_breakpoint_on_each_of_their_instructions)
{
	uint8_t *page = alloc_page();

	set_handler(V_DB, on_breakpoint);
	for (unsigned i = 0; i < LOOPS; i++) {
		struct regs r = prepare(&loops[i], page, (uint64_t)page, 1, 0), s;

		warm_up(r, 0);
		for (const uint8_t *t = run.table; t[3] != 0xff; t += 3) {
			s = r;
			s.rcx = run.first = 20;
			s.rflags = 0;
			hits = 0;
			write_dr0(run.base + t[0]);
			write_dr7(DR7_EXEC0);
			regs_call(&s);
			write_dr7(0x400);
			check(!run.wrong);
			check(hits == 20 || hits == 19 || hits == 1);
			check_eq(s.rax, run.step * 20);
			s = r;
			s.rcx = 20;
			s.rflags = 0;
			regs_call(&s); /* without */
			check_eq(s.rax, run.step * 20);
		}
	}
}

static bool on_watch(struct frame *f)
{
	hits++;
	if (f->rip != run.base + run.table[6])
		wrong("rip after the store", f, run.base + run.table[6]);
	check_frame(f);
	write_dr6(0xffff0ff0);
	return 1;
}

TEST_REAL(loops, that_are_hot_stop_behind_stores_to_watched_memory)
{
	const struct loop *loop = &loops[7]; /* with_stores */
	uint8_t *page = alloc_page();
	struct regs r = prepare(loop, page, (uint64_t)page, 1, 0), s = r;

	check(loop->code == with_stores);
	set_handler(V_DB, on_watch);
	warm_up(r, 0);
	for (unsigned i = 0; i < 4; i++) {
		s = r;
		s.rcx = run.first = 50;
		s.rflags = 0;
		hits = 0;
		write_dr0((uint64_t)&cell);
		write_dr7(DR7_WRITE8);
		regs_call(&s);
		write_dr7(0x400);
		check(!run.wrong);
		check_eq(hits, 50);
		s = r;
		s.rcx = 50;
		s.rflags = 0;
		regs_call(&s);
		check_eq(hits, 50);
	}
}
