/* test_rflags.c: flags and registers at a fault: every arithmetic operation before every kind of
 * access that faults, when nobody else would look at its flags. */
#include "code.h"

/* Lists of code: a length before each, 0 at the end. */
#define ENTRY(text) ".byte 2f - 1f\n1: " text "\n2:\n"
#define LIST(name, entries)                                                                        \
	extern const uint8_t name[];                                                               \
	__asm__(".pushsection .rodata\n" #name ":\n" entries ".byte 0\n.popsection\n")

LIST(arithmetic,
     ENTRY("add %rcx, %rax") ENTRY("sub %ecx, %eax") ENTRY("and %cx, %ax") ENTRY(
	 "or %cl, %al") ENTRY("xor %ah, %cl") ENTRY("adc $0x7f, %rax") ENTRY("sbb %rcx, %r10")
	 ENTRY("cmp %rcx, %rax") ENTRY("test %rax, %rcx") ENTRY("inc %r14") ENTRY("dec %eax") ENTRY(
	     "neg %rax") ENTRY("shl $3, %rax") ENTRY("shr %cl, %rax") ENTRY("sar $63, %rax")
	     ENTRY("rol $1, %eax") ENTRY("ror %cl, %r15") ENTRY("rcl $1, %rax") ENTRY("rcr $1, %cl")
		 ENTRY("imul %rcx, %rax") ENTRY("mul %rcx") ENTRY("imul $77, %rcx, %r11") ENTRY(
		     "bt $5, %rax") ENTRY("btc %rcx, %rax") ENTRY("bsf %rcx, %rax")
		     ENTRY("bsr %rcx, %rax") ENTRY("shld $7, %rcx, %rax") ENTRY(
			 "shrd %cl, %rcx, %rax") ENTRY("xadd %rcx, %rax") ENTRY("cmpxchg %rcx, %r8")
			 ENTRY("stc") ENTRY("clc") ENTRY("cmc") ENTRY("mov %cl, %ah; sahf")
			     ENTRY("std") ENTRY("push %rcx; andl $0xcd5, (%rsp); popf")
				 ENTRY("add %rcx, %rax; inc %rax") ENTRY("sub %rcx, %rax; seta %cl")
				     ENTRY("add %rcx, %rax; mov %rax, %r9; not %r9")
					 ENTRY("cmp %rcx, %rax; cmovl %rcx, %rax")
					     ENTRY("add %ecx, %eax; jc 3f; inc %r9; 3:")
						 ENTRY("cmp %rcx, %rax; jne 3f; nop; 3:")
						     ENTRY("xor %eax, %eax; lea 1(%rax), %rax"));

/* Memory at rbx; a first byte says whether it writes. */
#define READS(text)  ENTRY(".byte 0; " text)
#define WRITES(text) ENTRY(".byte 1; " text)
LIST(accesses,
     READS("mov (%rbx), %rdx") READS("cmp (%rbx), %rdx") READS("add (%rbx), %rdx")
	 READS("imul (%rbx), %rdx") READS("mov 2(%rbx), %edx; mov (%rbx), %rdx")
	     READS("test %rdx, (%rbx)") READS("xor (%rbx,%rbp), %rdx")
		 READS("movzwl 4(%rbx), %edx; xor (%rbx), %rdx") WRITES("mov %rdx, (%rbx)")
		     WRITES("movq $5, (%rbx)") WRITES("addq $1, (%rbx)")
			 WRITES("mov (%rbx), %rdx; add %rdx, (%rbx)") WRITES("lock incq (%rbx)")
			     WRITES("xchg %rdx, (%rbx)")
				 WRITES("mov (%rbx), %rdx; mov %rdx, (%rbx)") WRITES("negq (%rbx)")
				     WRITES("push %rdx; popq (%rbx)") WRITES("shlq $1, (%rbx)")
					 WRITES("btsq $1, (%rbx)") WRITES("lock xadd %rdx, (%rbx)")
					     WRITES("movnti %rdx, (%rbx)"));

/* What follows an access: flags that overwrite, or are read. */
LIST(tails, ENTRY("xor %edx, %edx; ret") ENTRY("ret") ENTRY("setc %dl; add $1, %r9; ret"));

enum fault_kind { ABSENT, READ_ONLY, NON_CANONICAL, CROSSING, KINDS };
#define GOOD	(FREE_VA + 0x800)
#define CLOSED	(FREE_VA + 0x2000) /* read-only */
#define MISSING (FREE_VA + 0x4000)
#define EDGE	(FREE_VA + 0x5ffc) /* the next page is missing */

static struct frame at_fault;
static bool note_fault(struct frame *f)
{
	at_fault = *f;
	return 0;
}

static uint64_t bad_address(enum fault_kind kind)
{
	switch (kind) {
	case ABSENT: return MISSING + 0x10;
	case READ_ONLY: return CLOSED + 0x20;
	case NON_CANONICAL: return 0x8000000000000100ull;
	default: return EDGE;
	}
}

static void map_places(uint64_t user)
{
	map(GOOD & ~4095ull, (uint64_t)alloc_page(), PTE_P | PTE_W | user);
	map(CLOSED, (uint64_t)alloc_page(), PTE_P | user);
	map(EDGE & ~4095ull, (uint64_t)alloc_page(), PTE_P | PTE_W | user);
	set_handler(V_PF, note_fault);
	set_handler(V_GP, note_fault);
	set_handler(V_SS, note_fault);
}

static struct regs start_regs(unsigned seed)
{
	/* rax, rcx: signs, carries and zeros of all kinds */
	static const uint64_t value[] = {1,
					 0x8000000000000000,
					 0x7fffffffffffffff,
					 0xff,
					 0x80808080,
					 ~0ull,
					 0x123456789abcdef0,
					 0x10};

	return (struct regs){.rax = value[seed % 8],
			     .rcx = value[(seed / 8 + seed) % 8],
			     .rdx = 0xd0d0d0d0,
			     .rsi = 6,
			     .rdi = 7,
			     .r8 = value[(seed + 1) % 8],
			     .r9 = 9,
			     .r10 = value[(seed + 2) % 8],
			     .r11 = 11,
			     .r12 = 12,
			     .r13 = 13,
			     .r14 = value[(seed + 3) % 8],
			     .r15 = value[(seed + 5) % 8],
			     .rflags = seed & 1 ? 0x8d7 : 2};
}

static void check_regs(const struct regs *want)
{
	check_eq(at_fault.rflags & (RFLAGS_ARITH | RFLAGS_DF),
		 want->rflags & (RFLAGS_ARITH | RFLAGS_DF));
	check_eq(at_fault.rax, want->rax);
	check_eq(at_fault.rcx, want->rcx);
	check_eq(at_fault.r8, want->r8);
	check_eq(at_fault.r9, want->r9);
	check_eq(at_fault.r10, want->r10);
	check_eq(at_fault.r11, want->r11);
	check_eq(at_fault.r14, want->r14);
	check_eq(at_fault.r15, want->r15);
}

/* op, access, tail at one place: warm with good memory, then once with each that faults. */
static void check_combination(uint8_t *page, const uint8_t *op, const uint8_t *access,
			      const uint8_t *tail, unsigned seed)
{
	struct regs want = start_regs(seed), r;
	unsigned n = 0x100 + (seed & 63);
	uint64_t start = (uint64_t)page + n, at;

	memcpy(page + n, op + 1, op[0]);
	n += op[0];
	page[n] = 0xc3;
	want.rip = start;
	regs_call(&want);
	at = (uint64_t)page + n;
	memcpy(page + n, access + 2, access[0] - 1u);
	memcpy(page + n + access[0] - 1, tail + 1, tail[0]);
	for (unsigned i = 0; i < 7; i++) {
		r = start_regs(seed);
		r.rbx = GOOD;
		r.rip = start;
		regs_call(&r);
	}
	for (enum fault_kind kind = ABSENT; kind < KINDS; kind++) {
		if (kind == READ_ONLY && !access[1])
			continue;
		r = start_regs(seed);
		r.rbx = bad_address(kind);
		r.rip = start;
		CATCH(regs_call(&r));
		check_eq(fault.vector, kind == NON_CANONICAL ? V_GP : V_PF);
		check(fault.rip >= at && fault.rip < at + access[0]);
		check_eq(at_fault.rbx, r.rbx);
		check_regs(&want);
	}
}

static void check_all(unsigned first_tail, unsigned step)
{
	unsigned seed = first_tail;

	map_places(0);
	for (const uint8_t *op = arithmetic; *op; op += 1 + *op) {
		for (const uint8_t *access = accesses; *access; access += 1 + *access) {
			static uint8_t code[4096] __attribute__((aligned(4096)));
			const uint8_t *tail = tails;

			for (unsigned i = first_tail; i; i--)
				tail += 1 + *tail;
			if (seed++ % step == 0)
				check_combination(code, op, access, tail, seed);
		}
	}
}

TEST(rflags, are_exact_at_a_fault_though_the_next_instruction_overwrites_them)
{
	check_all(0, cmdline_has("slow") ? 17 : 1);
}

TEST(rflags, are_exact_at_a_fault_at_the_end_of_a_block)
{
	check_all(1, cmdline_has("slow") ? 17 : 1);
}

TEST(rflags, are_exact_at_a_fault_when_the_next_instruction_reads_them)
{
	check_all(2, cmdline_has("slow") ? 17 : 1);
}

TEST(rflags, are_exact_at_faults_that_are_not_of_memory)
{
	static uint8_t code[4096] __attribute__((aligned(4096)));
	unsigned seed = 0;

	set_handler(V_UD, note_fault);
	set_handler(V_DE, note_fault);
	set_handler(V_GP, note_fault);
	for (const uint8_t *op = arithmetic; *op; op += 1 + *op, seed++) {
		struct regs want = start_regs(seed), r;
		unsigned n = 64 + op[0];

		want.rip = (uint64_t)code + 64;
		memcpy(code + 64, op + 1, op[0]);
		code[n] = 0xc3;
		regs_call(&want);
		memcpy(code + n, "\x0f\x0b", 2); /* ud2 */
		for (unsigned i = 0; i < WARM; i++) {
			r = start_regs(seed);
			r.rip = (uint64_t)code + 64;
			CATCH(regs_call(&r));
			check_eq(fault.vector, V_UD);
			check_eq(fault.rip, (uint64_t)code + n);
			check_regs(&want);
		}
		memcpy(code + n, "\x48\xf7\xf5\xc3", 4); /* div %rbp; ret */
		for (unsigned i = 0; i <= WARM; i++) {
			r = start_regs(seed);
			r.rip = (uint64_t)code + 64;
			r.rbp = i == WARM ? 0 : ~0ull;
			r.rdx = 0;
			CATCH(regs_call(&r));
		}
		if (want.rdx == 0xd0d0d0d0) { /* the product's upper half otherwise */
			check_eq(fault.vector, V_DE);
			check_eq(fault.rip, (uint64_t)code + n);
			check_regs(&want);
		}
	}
}

/* A device between an operation and who looks at its flags. */
TEST(rflags, survive_an_access_to_a_device)
{
	static uint8_t code[4096] __attribute__((aligned(4096)));
	unsigned seed = 0;

	apic_enable();
	for (const uint8_t *op = arithmetic; *op; op += 1 + *op, seed++) {
		struct regs want = start_regs(seed), r;
		unsigned n = 128 + op[0];

		want.rip = (uint64_t)code + 128;
		memcpy(code + 128, op + 1, op[0]);
		code[n] = 0xc3;
		regs_call(&want);
		memcpy(code + n, "\x8b\x33\xc3", 3); /* mov (%rbx), %esi; ret */
		for (unsigned i = 0; i < WARM; i++) {
			r = start_regs(seed);
			r.rip = (uint64_t)code + 128;
			r.rbx = i & 1 ? APIC + 0x30 : (uint64_t)code + 128;
			regs_call(&r);
			check_eq(r.rflags & (RFLAGS_ARITH | RFLAGS_DF),
				 want.rflags & (RFLAGS_ARITH | RFLAGS_DF));
			check_eq(r.rax, want.rax);
			check_eq(r.rcx, want.rcx);
		}
	}
}

/* In ring 3 the stack itself may be what faults. */
LIST(stack_accesses,
     ENTRY("push %rsi") ENTRY("pop %rsi") ENTRY("mov (%rsp), %rsi") ENTRY("mov %rsi, (%rsp)")
	 ENTRY("add %rsi, (%rsp)") ENTRY("call 3f; 3:") ENTRY("pushf") ENTRY("push $5")
	     ENTRY("cmp (%rsp), %rsi") ENTRY("mov 8(%rsp), %rsi; mov %rsi, -8(%rsp)"));

TEST_REAL(rflags, are_exact_when_the_stack_faults_in_ring_3)
{
	uint8_t *page = alloc_page();
	unsigned seed = 0;

	map(USER_CODE, (uint64_t)page, PTE_P | PTE_U);
	map_places(PTE_U);
	for (const uint8_t *op = arithmetic; *op; op += 1 + *op) {
		for (const uint8_t *access = stack_accesses; *access; access += 1 + *access) {
			struct regs want = start_regs(++seed), r;
			unsigned n = 0x40 + op[0];

			if (op[1] == 0x51)
				continue; /* uses the stack itself */
			memcpy(page + 0x40, op + 1, op[0]);
			memcpy(page + n, "\xcd\x80", 2);
			want.rip = USER_CODE + 0x40;
			regs_user(&want, GOOD);
			check_eq(fault.vector, 0x80);
			memcpy(page + n, access + 1, access[0]);
			memcpy(page + n + access[0], "\x31\xd2\xcd\x80", 4);
			for (unsigned i = 0; i < 8 + KINDS; i++) {
				uint64_t rsp = i < 8 ? GOOD : bad_address((enum fault_kind)(i - 8));

				if (i == 8 + READ_ONLY || i == 8 + CROSSING)
					continue;
				r = start_regs(seed);
				r.rip = USER_CODE + 0x40;
				regs_user(&r, rsp);
				if (i < 8)
					continue;
				check_eq(fault.vector, i == 8 + NON_CANONICAL ? V_SS : V_PF);
				check(fault.rip >= USER_CODE + n &&
				      fault.rip < USER_CODE + n + access[0]);
				check_eq(fault.rsp, rsp);
				check_regs(&want);
			}
		}
	}
}
