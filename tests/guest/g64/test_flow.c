/* test_flow.c: calls, returns and indirect jumps that end elsewhere than they did before: rewritten
 * return addresses, other address spaces, deep and unbalanced stacks, changing targets. */
#include "code.h"

extern void frame_enter(struct frame *f) __attribute__((noreturn));

static uint8_t code[4096] __attribute__((aligned(4096)));

static uint64_t put_code(const uint8_t *bytes, const uint8_t *end)
{
	memcpy(code + 0x80, bytes, (unsigned long)(end - bytes));
	return (uint64_t)code + 0x80;
}
#define PUT(name) put_code(name, name##_end)

/* Return addresses that their function changes: rdx says by how many increments. */
BLOB(skipping,
     "1: push %rdi\n"
     "   mov %rcx, %rdi; and $7, %rdi\n"
     "   call 3f\n"
     "   inc %eax; inc %eax; inc %eax; inc %eax; inc %eax; inc %eax; inc %eax\n" /* 2 bytes each */
     "   pop %rdi\n"
     "   dec %ecx\n"
     "   jnz 1b\n"
     "   ret\n"
     "3: lea (%rdi,%rdi), %rdi; add %rdi, (%rsp); ret\n");

TEST(flow, a_return_goes_where_its_function_has_changed_it_to)
{
	struct regs r = {.rcx = 800, .rip = PUT(skipping)};

	regs_call(&r);
	check_eq(r.rax, 100 * 28);
}

/* CALL as a way to know the address, PUSH and RET as a jump, RET with a count. */
BLOB(unpaired, "1: call 2f\n"
	       "2: pop %rbx; lea 3f-2b(%rbx), %rbx; push %rbx; ret\n"
	       "   ud2\n"
	       "3: push $7; push $8; call 4f; add %rdi, %rax; loop 1b; ret\n"
	       "4: mov 8(%rsp), %rdi; sub 16(%rsp), %rdi; ret $16\n");

TEST(flow, calls_and_returns_that_are_no_pairs_work)
{
	struct regs r = {.rcx = rounds(2000), .rip = PUT(unpaired)};
	uint64_t n = r.rcx;

	regs_call(&r);
	check_eq(r.rax, n);
}

/* A stack of return addresses that nobody called from. */
BLOB(chain, "mov %rsp, %rbp; mov %rbx, %rsp; ret\n"
	    "mov %rbp, %rsp; ret\n"
	    "inc %rax; ret\n"
	    "add $2, %rax; ret\n"
	    "add $3, %rax; ret\n");

TEST(flow, a_chain_of_returns_without_calls_visits_each_address)
{
	static uint64_t stack[1001];
	uint64_t at = PUT(chain), want = 0;
	const unsigned offset[3] = {11, 15, 20};

	for (unsigned pass = 0; pass < WARM; pass++) {
		struct regs r = {.rbx = (uint64_t)stack, .rip = at};

		random_seed(pass);
		want = 0;
		for (unsigned i = 0; i < 1000; i++) {
			unsigned k = random_next() % 3;

			stack[i] = at + offset[k];
			want += k + 1;
		}
		stack[1000] = at + 7;
		regs_call(&r);
		check_eq(r.rax, want);
	}
}

/* Recursion */

BLOB(recurse, "mov %rsp, %rbp; mov %rbx, %rsp; call 2f; mov %rbp, %rsp; ret\n"
	      "2: test %ecx, %ecx; je 3f; push %rcx; dec %ecx; call 2b; pop %rcx; add %rcx, %rax\n"
	      "3: ret\n");
#define DEEP_PAGES 48

TEST(flow, recursion_of_10000_calls_comes_back_through_all_of_them)
{
	uint64_t top = FREE_VA + DEEP_PAGES * 4096ull;

	for (unsigned i = 0; i < DEEP_PAGES; i++)
		map(FREE_VA + 4096ull * i, (uint64_t)alloc_page(), PTE_P | PTE_W);
	for (unsigned depth = 1; depth <= 10000; depth = depth * 3 + depth / 3 * 7 / 10 + 1) {
		struct regs r = {.rcx = depth, .rbx = top, .rip = PUT(recurse)};

		regs_call(&r);
		check_eq(r.rax, (uint64_t)depth * (depth + 1) / 2);
	}
	for (unsigned i = 0; i < 3; i++) {
		struct regs r = {.rcx = 10000, .rbx = top, .rip = PUT(recurse)};

		regs_call(&r);
		check_eq(r.rax, 10000ull * 10001 / 2);
	}
}

/* From the depth back to the top at once, as longjmp does; and in again. */
BLOB(escape, "1: mov %rsp, %rbp; mov %rcx, %rdi; and $31, %edi; call 2f\n"
	     "   inc %rdx; jmp 4f\n" /* not escaped */
	     "2: test %edi, %edi; je 3f; push %rdi; dec %edi; call 2b; pop %rdi; inc %rax; ret\n"
	     "3: test $1, %cl; je 5f; mov %rbp, %rsp; inc %r8\n"
	     "4: loop 1b; ret\n"
	     "5: ret\n");

TEST(flow, leaving_a_recursion_at_its_depth_leaves_no_returns_behind)
{
	struct regs r = {.rcx = 3200, .rip = PUT(escape)};

	regs_call(&r);
	check_eq(r.rdx, 1600);
	check_eq(r.r8, 1600);
	check_eq(r.rax,
		 100 * (0 + 2 + 4 + 6 + 8 + 10 + 12 + 14 + 16 + 18 + 20 + 22 + 24 + 26 + 28 + 30));
}

/* Two coroutines at different depths, each on its own stack, which change over by RET. */
BLOB(coroutines, "mov %rsp, %rbp; mov %rbx, %rsp; jmp 1f\n"
		 "7: xchg %rsi, %rsp; ret\n" /* the other one goes on */
		 "1: movq $0, -8(%rsi); lea 2f(%rip), %rax; mov %rax, -8(%rsi); sub $8, %rsi\n"
		 "   mov $5, %edi\n"
		 "3: call 4f; dec %ecx; jnz 3b; mov %rbp, %rsp; ret\n"
		 "4: call 7b; add %rdx, %r8; call 5f; ret\n"
		 "5: call 7b; add %rdx, %r9; ret\n"
		 "2: inc %rdx; call 7b; call 6f; jmp 2b\n"
		 "6: add $2, %rdx; call 7b; inc %r10; ret\n");

TEST(flow, coroutines_return_on_each_others_stacks)
{
	static uint64_t stack[2][512];
	struct regs r = {.rcx = rounds(2000),
			 .rbx = (uint64_t)(stack[0] + 512),
			 .rsi = (uint64_t)(stack[1] + 512),
			 .rip = PUT(coroutines)};
	uint64_t n = r.rcx;

	regs_call(&r);
	/* rdx is 1, 3, 4, 6, 7 ...: the first function sees 1 + 3k, the second 3 + 3k */
	check_eq(r.r8, n + 3 * n * (n - 1) / 2);
	check_eq(r.r9, 3 * n + 3 * n * (n - 1) / 2);
	check_eq(r.r10, n - 1);
}

/* Retpolines, as compilers make them. */
BLOB(retpolines, "1: lea 5f(%rip), %rbx; test $1, %cl; je 2f; lea 6f(%rip), %rbx\n"
		 "2: call 3f\n"
		 "   loop 1b\n"
		 "   ret\n"
		 "3: call 4f\n"
		 "7: pause; lfence; jmp 7b\n"
		 "4: mov %rbx, (%rsp); ret\n"
		 "5: add $1, %rax; ret\n"
		 "6: add $2, %rax; ret\n");

TEST(flow, retpolines_reach_their_targets)
{
	struct regs r = {.rcx = 2000, .rip = PUT(retpolines)};

	regs_call(&r);
	check_eq(r.rax, 3000);
}

/* Many targets */

#define TARGETS 256
BLOB(one_target, "add $0, %rax; ret; nop\n"); /* 48 83 c0 ib c3 90 */
BLOB(call_many, "1: movzbl (%rsi), %edx; inc %rsi; call *(%rbx,%rdx,8); dec %ecx; jnz 1b; ret\n");
BLOB(jump_many, "1: movzbl (%rsi), %edx; inc %rsi; lea 2f(%rip), %rdi; push %rdi; mov "
		"(%rbx,%rdx,8), %rdi; jmp *%rdi; 2: "
		"dec %ecx; jnz 1b; ret\n");

static uint64_t targets[TARGETS];
static uint8_t choices[4096];

static uint64_t make_targets(unsigned seed, unsigned used)
{
	static uint8_t *pages[8];
	uint64_t want = 0;

	random_seed(seed);
	for (unsigned i = 0; i < 8; i++)
		pages[i] = alloc_page();
	for (unsigned i = 0; i < TARGETS; i++) {
		uint8_t *at = pages[i % 8] + i / 8 * 16 + i % 5;

		memcpy(at, one_target, 6);
		at[3] = (uint8_t)(i & 127);
		targets[i] = (uint64_t)at;
	}
	for (unsigned i = 0; i < sizeof(choices); i++) {
		choices[i] = (uint8_t)(random_next() % used);
		want += choices[i] & 127;
	}
	return want;
}

TEST(flow, indirect_calls_and_jumps_reach_each_of_many_targets)
{
	for (unsigned used = 1; used <= TARGETS; used *= 4) {
		uint64_t want = make_targets(used, used);
		struct regs r = {.rcx = sizeof(choices),
				 .rbx = (uint64_t)targets,
				 .rsi = (uint64_t)choices,
				 .rip = PUT(call_many)};

		regs_call(&r);
		check_eq(r.rax, want);
		r = (struct regs){.rcx = sizeof(choices),
				  .rbx = (uint64_t)targets,
				  .rsi = (uint64_t)choices,
				  .rip = PUT(jump_many)};
		regs_call(&r);
		check_eq(r.rax, want);
	}
}

TEST(flow, a_target_that_moves_or_changes_is_reached_where_and_as_it_is)
{
	make_targets(5, 1);
	for (unsigned i = 0; i < 200; i++) {
		struct regs r = {.rcx = WARM,
				 .rbx = (uint64_t)targets,
				 .rsi = (uint64_t)(choices + 100),
				 .rip = PUT(call_many)};
		unsigned want = i & 127;

		if (i & 1)
			targets[0] = targets[i];
		else
			*(volatile uint8_t *)(targets[0] + 3) = (uint8_t)want;
		regs_call(&r);
		check_eq(r.rax, WARM * want);
	}
}

/* Targets behind a mapping that changes, goes away, or may not be executed. */
BLOB(call_rbx, "1: call *%rbx; dec %ecx; jnz 1b; ret\n");
BLOB(give_1, "inc %rax; ret\n");
BLOB(give_2, "add $2, %rax; ret\n");

TEST(flow, a_call_to_a_page_that_was_remapped_runs_what_is_there_now)
{
	uint8_t *page[2] = {PLACE(give_1, 0x20), PLACE(give_2, 0x20)};

	for (unsigned i = 0; i < 3 * WARM; i++) {
		struct regs r = {.rcx = WARM, .rbx = FREE_VA + 0x20, .rip = PUT(call_rbx)};

		map(FREE_VA, (uint64_t)page[i & 1], PTE_P);
		regs_call(&r);
		check_eq(r.rax, WARM * (1 + (i & 1)));
	}
}

TEST(flow, a_call_to_a_page_that_went_away_faults_at_the_target_after_the_push)
{
	uint8_t *page = PLACE(give_1, 0x20);
	const uint64_t closed[3] = {0, PTE_P | PTE_NX, PTE_P};

	for (unsigned i = 0; i < 3 * WARM; i++) {
		struct regs r = {.rcx = WARM, .rbx = FREE_VA + 0x20, .rip = PUT(call_rbx)};
		uint64_t flags = closed[i % 3];

		map(FREE_VA, (uint64_t)page, PTE_P);
		regs_call(&r);
		check_eq(r.rax, WARM);
		map(FREE_VA, (uint64_t)page, flags);
		r = (struct regs){.rcx = WARM, .rbx = FREE_VA + 0x20, .rip = PUT(call_rbx)};
		CATCH(regs_call(&r));
		check_eq(fault.vector, i % 3 == 2 ? V_NONE : V_PF);
		if (i % 3 == 2)
			continue;
		check_fault(V_PF, flags ? 0x11 : 0x10);
		check_eq(fault.rip, FREE_VA + 0x20);
		check_eq(fault.cr2, FREE_VA + 0x20);
		check_eq(*(uint64_t *)fault.rsp, (uint64_t)code + 0x82);
	}
}

/* RET to a page that has gone. */
BLOB(unmap_and_return, "movq $0, (%rsi); invlpg (%rbx); ret\n");
BLOB(call_rdi, "call *%rdi; inc %rax; ret\n");

TEST(flow, a_return_to_a_page_that_went_away_faults_at_its_target)
{
	uint8_t *page = PLACE(call_rdi, 0x20);
	uint64_t callee = PUT(unmap_and_return);

	for (unsigned i = 0; i < 2 * WARM; i++) {
		static uint64_t nowhere;
		bool gone = i > WARM && i & 1;
		struct regs r = {.rbx = FREE_VA, .rdi = callee, .rip = FREE_VA + 0x20};

		map(FREE_VA, (uint64_t)page, PTE_P);
		r.rsi = gone ? (uint64_t)pte(FREE_VA, 1) : (uint64_t)&nowhere;
		CATCH(regs_call(&r));
		check_eq(fault.vector, gone ? V_PF : V_NONE);
		if (gone)
			check_eq(fault.rip, FREE_VA + 0x22);
		else
			check_eq(r.rax, 1);
	}
}

/* CR3 changes between CALL and RET: at the same linear address there is other code. */
BLOB(space_a, "call *%rdi; mov $0xa, %eax; ret\n");
BLOB(space_b, "call *%rdi; mov $0xb, %eax; ret\n");
BLOB(switch_and_return, "mov %rsi, %cr3; ret\n");

TEST(flow, a_return_after_a_change_of_address_space_runs_the_new_spaces_code)
{
	uint8_t *a = PLACE(space_a, 0x40), *b = PLACE(space_b, 0x40);
	uint64_t *other = alloc_page(), callee = PUT(switch_and_return);
	uint64_t home = read_cr3();

	map(FREE_VA, (uint64_t)b, PTE_P);
	memcpy(other, pml4, 4096);
	pml4[FREE_VA >> 39 & 511] = 0;
	write_cr3(home);
	map(FREE_VA, (uint64_t)a, PTE_P);
	for (unsigned i = 0; i < 8 * WARM; i++) {
		bool change = i % 3 == 0, from_b = i & 1;
		uint64_t from = from_b ? (uint64_t)other : home,
			 to = from_b ? home : (uint64_t)other;
		struct regs r = {.rdi = callee, .rsi = change ? to : from, .rip = FREE_VA + 0x40};

		write_cr3(from);
		regs_call(&r);
		write_cr3(home);
		check_eq(r.rax, (change ^ from_b) ? 0xb : 0xa);
	}
}

/* With identifiers nothing is dropped at a change, so entries of both spaces live side by side. */
TEST(flow, address_spaces_with_pcids_keep_their_code_apart)
{
	uint8_t *a = PLACE(space_a, 0x40), *b = PLACE(space_b, 0x40);
	uint64_t *other = alloc_page(), callee = PUT(switch_and_return);
	uint64_t home = read_cr3();
	uint32_t c[4];

	cpuid(1, 0, c);
	if (!(c[2] & 1u << 17))
		test_skip("no PCID");
	map(FREE_VA, (uint64_t)b, PTE_P);
	memcpy(other, pml4, 4096);
	pml4[FREE_VA >> 39 & 511] = 0;
	write_cr3(home);
	map(FREE_VA, (uint64_t)a, PTE_P);
	write_cr4(read_cr4() | 1u << 17);
	for (unsigned i = 0; i < 8 * WARM; i++) {
		bool change = i % 3 == 0, from_b = i & 1;
		uint64_t spaces[2] = {home | 1ull << 63, (uint64_t)other | 5 | 1ull << 63};
		struct regs r = {
		    .rdi = callee, .rsi = spaces[from_b ^ change], .rip = FREE_VA + 0x40};

		write_cr3(spaces[from_b]);
		regs_call(&r);
		write_cr3(home);
		check_eq(r.rax, (change ^ from_b) ? 0xb : 0xa);
	}
}

/* One page, two meanings: 48 is a prefix in 64-bit code and DEC EAX in 32-bit code. */
BLOB(two_meanings, "1: .byte 0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0xff, 0xc0\n" /* inc; inc; inc */
		   "dec %ecx; jnz 1b; int $0x80\n");

/* 32-bit code needs an address below 4 GiB: the last 2 MiB of the second GiB become pages. */
static void map_low(uint64_t va, uint64_t page)
{
	uint64_t *table = alloc_page();

	*pte(va, 4) |= PTE_U;
	*pte(va, 3) |= PTE_U;
	table[va >> 12 & 511] = page | PTE_P | PTE_U;
	*pte(va, 2) = (uint64_t)table | PTE_P | PTE_W | PTE_U;
	write_cr3(read_cr3());
}
#define LOW_VA 0x7fe00000ull

TEST_REAL(flow, one_page_is_64_bit_and_32_bit_code_in_turn)
{
	uint64_t directory = *pte(LOW_VA, 2);

	map_low(LOW_VA, (uint64_t)PLACE(two_meanings, 0));
	for (unsigned i = 0; i < 2 * WARM; i++) {
		struct frame f = {.rcx = 40,
				  .rip = LOW_VA,
				  .cs = i & 1 ? SEL_UCODE32 : SEL_UCODE64,
				  .ss = SEL_UDATA,
				  .rflags = 2};

		CATCH(frame_enter(&f));
		check_eq(fault.vector, 0x80);
		check_eq(user_rax, i & 1 ? 40 : 120);
	}
	*pte(LOW_VA, 2) = directory;
	write_cr3(read_cr3());
}

/* Ring 0 and ring 3 execute one page; then ring 3 may not any more, and ring 0 goes on. */
BLOB(both_rings, "mov $5, %eax; test %ecx, %ecx; jne 1f; ret; 1: int $0x80\n");

TEST(flow, a_page_closed_to_ring_3_is_still_ring_0s)
{
	uint8_t *page = PLACE(both_rings, 0x60);

	map(USER_STACK - 4096, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	for (unsigned i = 0; i < 3 * WARM; i++) {
		bool closed = i > WARM && i % 3 == 0;
		struct regs r = {.rip = USER_CODE + 0x60};

		map(USER_CODE, (uint64_t)page, PTE_P | (closed ? 0 : PTE_U));
		regs_call(&r);
		check_eq(r.rax, 5);
		r = (struct regs){.rcx = 1, .rip = USER_CODE + 0x60};
		regs_user(&r, USER_STACK);
		if (closed)
			check_fault(V_PF, 0x15);
		else
			check_eq(fault.vector, 0x80);
	}
}
