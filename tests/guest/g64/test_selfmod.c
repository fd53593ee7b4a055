/* test_selfmod.c: code that stores into itself: the same block, the next, the next page, across
 * pages, through aliases, by every kind of store, in ring 3, and from another CPU. */
#include "code.h"

/* rcx rounds; each adds the round's number from an operand that was stored just before. */
BLOB(same_block, "1: mov %ecx, 2f+1(%rip)\n"
		 "2: mov $0, %eax\n"
		 "   add %rax, %rdx\n"
		 "   dec %ecx\n"
		 "   jnz 1b\n"
		 "   ret\n");
BLOB(next_block, "1: mov %ecx, 2f+1(%rip)\n"
		 "   jmp 2f\n"
		 "   nop\n"
		 "2: mov $0, %eax\n"
		 "   add %rax, %rdx\n"
		 "   dec %ecx\n"
		 "   jnz 1b\n"
		 "   ret\n");

static uint64_t sum_to(uint64_t n)
{
	return n * (n + 1) / 2;
}

TEST(selfmod, a_store_changes_the_next_instruction_of_its_block_in_every_round)
{
	struct regs r = {.rcx = rounds(2000), .rip = (uint64_t)PLACE(same_block, 64) + 64};
	uint64_t want = sum_to(r.rcx);

	regs_call(&r);
	check_eq(r.rdx, want);
}

TEST(selfmod, a_store_changes_the_next_block_in_every_round)
{
	struct regs r = {.rcx = rounds(2000), .rip = (uint64_t)PLACE(next_block, 64) + 64};
	uint64_t want = sum_to(r.rcx);

	regs_call(&r);
	check_eq(r.rdx, want);
}

/* rbx: what is changed, in other linear pages; it returns. */
BLOB(patch_and_call, "1: mov %ecx, 1(%rbx)\n"
		     "   call *%rsi\n"
		     "   add %rax, %rdx\n"
		     "   dec %ecx\n"
		     "   jnz 1b\n"
		     "   ret\n");
BLOB(give, "mov $0, %eax; ret\n");

TEST(selfmod, a_store_changes_a_function_in_the_next_page)
{
	uint8_t *other = PLACE(give, 0);
	struct regs r = {.rcx = rounds(1000),
			 .rbx = (uint64_t)other,
			 .rsi = (uint64_t)other,
			 .rip = (uint64_t)PLACE(patch_and_call, 0)};
	uint64_t want = sum_to(r.rcx);

	regs_call(&r);
	check_eq(r.rdx, want);
}

TEST(selfmod, a_store_through_an_alias_changes_a_function_that_is_called_in_the_same_block)
{
	uint8_t *other = PLACE(give, 0xff0);
	struct regs r = {.rcx = rounds(1000),
			 .rbx = FREE_VA + 0x7ff0,
			 .rsi = FREE_VA + 0xff0,
			 .rip = (uint64_t)PLACE(patch_and_call, 0)};
	uint64_t want = sum_to(r.rcx);

	map(FREE_VA, (uint64_t)other, PTE_P);
	map(FREE_VA + 0x7000, (uint64_t)other, PTE_P | PTE_W);
	regs_call(&r);
	check_eq(r.rdx, want);
}

/* The instruction to be changed follows at once, but is stored to at another linear address. */
BLOB(alias_block, "1: mov %ecx, (%rbx)\n"
		  "2: mov $0, %eax\n"
		  "   add %rax, %rdx\n"
		  "   dec %ecx\n"
		  "   jnz 1b\n"
		  "   ret\n");

TEST(selfmod, a_store_through_an_alias_changes_the_next_instruction)
{
	uint8_t *page = PLACE(alias_block, 0x100);
	struct regs r = {.rcx = rounds(1000), .rbx = FREE_VA + 0x9103, .rip = FREE_VA + 0x100};
	uint64_t want = sum_to(r.rcx);

	map(FREE_VA, (uint64_t)page, PTE_P);
	map(FREE_VA + 0x9000, (uint64_t)page, PTE_P | PTE_W);
	regs_call(&r);
	check_eq(r.rdx, want);
}

/* In the last bytes of one page and the first of the next: one store changes both. */
TEST(selfmod, one_store_changes_instructions_in_two_pages)
{
	uint8_t *page[2] = {alloc_page(), alloc_page()};
	volatile uint64_t *seam = (volatile uint64_t *)(FREE_VA + 0x2ffd);

	map(FREE_VA + 0x2000, (uint64_t)page[1], PTE_P | PTE_W);
	map(FREE_VA + 0x3000, (uint64_t)page[0], PTE_P | PTE_W);
	for (unsigned i = 0; i < 256; i++) {
		struct regs r = {.rip = (uint64_t)seam};

		/* mov $i, %ax, whose operand lies in both pages; add $i, %al; ret */
		*seam = 0x00c300040000b866ull | (uint64_t)i << 16 | (uint64_t)i << 40;
		for (unsigned k = 0; k < 4; k++) {
			r.rip = (uint64_t)seam;
			regs_call(&r);
			check_eq(r.rax & 0xffff, 2 * i & 0xff);
		}
	}
}

/*
 * Every kind of store over the instruction right behind it, `mov $imm32, %eax` (b8 imm32): rbx is
 * the address of the operand, rcx the value. The rest is `add %rax, %rdx; dec %ecx; jnz; ret`.
 */
#define KIND(name, store)                                                                          \
	BLOB(name, "1: " store "\n"                                                                \
		   "2: mov $0, %eax\n"                                                             \
		   "   add %rax, %rdx\n"                                                           \
		   "   dec %ecx\n"                                                                 \
		   "   jnz 1b\n"                                                                   \
		   "   ret\n"                                                                      \
		   "   .long 2b - 1b\n")
KIND(by_mov8, "mov %cl, (%rbx); mov %ch, 1(%rbx)");
KIND(by_mov16, "mov %cx, (%rbx)");
KIND(by_xchg, "mov %ecx, %edi; xchg %edi, (%rbx)");
KIND(by_add, "mov %ecx, %edi; sub (%rbx), %edi; add %edi, (%rbx)");
KIND(by_xadd, "mov %ecx, %edi; sub (%rbx), %edi; lock xadd %edi, (%rbx)");
KIND(by_cmpxchg, "mov (%rbx), %eax; lock cmpxchg %ecx, (%rbx)");
KIND(by_stosd, "mov %ecx, %eax; mov %rbx, %rdi; stosl");
KIND(by_rep_movsb, "mov %ecx, %r8d; mov %r8d, (%rsi); mov %rbx, %rdi; mov $4, %ecx; rep movsb; "
		   "sub $4, %rsi; mov %r8d, %ecx");
KIND(by_rep_stosb, "mov %ecx, %r8d; mov %ecx, %eax; mov %rbx, %rdi; mov $1, %ecx; rep stosb; mov "
		   "%r8d, %ecx");
KIND(by_inc, "mov %ecx, %edi; dec %edi; mov %edi, (%rbx); incl (%rbx)");
KIND(by_not, "mov %ecx, %edi; not %edi; mov %edi, (%rbx); notl (%rbx)");
KIND(by_movnti, "movnti %ecx, (%rbx)");
KIND(by_bts, "movl $0, (%rbx); btsl $5, (%rbx); mov %ecx, %edi; xor $32, %edi; xor %edi, (%rbx)");
KIND(by_push, "mov %rsp, %rbp; lea 8(%rbx), %rsp; mov (%rbx), %rdi; shr $32, %rdi; shl $32, %rdi; "
	      "add %rcx, %rdi; push %rdi; mov %rbp, %rsp");
KIND(by_pop, "mov (%rbx), %rdi; shr $32, %rdi; shl $32, %rdi; add %rcx, %rdi; push %rdi; pop "
	     "(%rbx)");

static void check_kind(const uint8_t *code, const uint8_t *end, unsigned n)
{
	uint32_t offset = *(const uint32_t *)(end - 4);
	uint8_t *page = place(code, end, 0x40), *data = alloc_page();
	struct regs r = {.rcx = n,
			 .rbx = (uint64_t)page + 0x40 + offset + 1,
			 .rsi = (uint64_t)data,
			 .rip = (uint64_t)page + 0x40};

	regs_call(&r);
	check_eq(r.rdx, sum_to(n));
}
#define CHECK_KIND(name) check_kind(name, name##_end, 200)

TEST(selfmod, every_kind_of_store_changes_the_instruction_behind_it)
{
	CHECK_KIND(by_mov8);
	CHECK_KIND(by_mov16);
	CHECK_KIND(by_xchg);
	CHECK_KIND(by_add);
	CHECK_KIND(by_xadd);
	CHECK_KIND(by_cmpxchg);
	CHECK_KIND(by_stosd);
	CHECK_KIND(by_rep_movsb);
	CHECK_KIND(by_rep_stosb);
	CHECK_KIND(by_inc);
	CHECK_KIND(by_not);
	CHECK_KIND(by_movnti);
	CHECK_KIND(by_bts);
	CHECK_KIND(by_push);
	CHECK_KIND(by_pop);
}

/* The CALL's own push lands on the operand of the instruction that it calls. */
BLOB(call_over, "mov %rsp, %rbp\n"
		"lea 8(%rbx), %rsp\n"
		"call *%rsi\n"
		"mov %rbp, %rsp\n"
		"ret\n");
BLOB(call_target, "movabs $0, %rax\n"
		  "jmp *%rax\n");

TEST(selfmod, the_return_address_of_a_call_becomes_the_operand_of_what_it_calls)
{
	uint8_t *target = PLACE(call_target, 0x80), *caller = PLACE(call_over, 0);

	for (unsigned i = 0; i < WARM; i++) {
		struct regs r = {.rbx = (uint64_t)target + 0x82,
				 .rsi = (uint64_t)target + 0x80,
				 .rip = (uint64_t)caller};

		*(volatile uint64_t *)(target + 0x82) = 0;
		regs_call(&r);
		check_eq(r.rax, *(volatile uint64_t *)(target + 0x82));
		check(r.rax > (uint64_t)caller && r.rax < (uint64_t)caller + 32);
	}
}

/* Opcodes that change, not operands: NOPs become increments one after another. */
BLOB(nops, ".rept 64\n nop; nop\n .endr\n ret\n");

TEST(selfmod, instructions_that_become_others_one_by_one_are_executed_as_they_are)
{
	uint8_t *page = PLACE(nops, 0x10);

	for (unsigned i = 0; i < 64; i++) {
		struct regs r = {.rip = (uint64_t)page + 0x10};

		for (unsigned k = 0; k < WARM; k++) {
			r.rax = 0;
			r.rip = (uint64_t)page + 0x10;
			regs_call(&r);
			check_eq(r.rax, i);
		}
		*(volatile uint16_t *)(page + 0x10 + 2 * i) = 0xc0ff; /* inc %eax */
	}
}

/* Data beside the code, in the same page and the same loop. */
BLOB(own_data, "1: lock incq 2f(%rip)\n"
	       "   mov 2f(%rip), %rax\n"
	       "   add %rax, %rdx\n"
	       "   dec %ecx\n"
	       "   jnz 1b\n"
	       "   ret\n"
	       ".balign 8\n"
	       "2: .quad 0\n");

TEST(selfmod, data_in_the_page_of_its_code_is_only_data)
{
	struct regs r = {.rcx = rounds(3000), .rip = (uint64_t)PLACE(own_data, 0)};
	uint64_t want = sum_to(r.rcx);

	regs_call(&r);
	check_eq(r.rdx, want);
}

/* Ring 3 */

BLOB(user_same_block, "1: mov %ecx, 2f+1(%rip)\n"
		      "2: mov $0, %eax\n"
		      "   add %rax, %rdx\n"
		      "   mov $3000, %edi\n"
		      "3: dec %edi\n"
		      "   jnz 3b\n"
		      "   dec %ecx\n"
		      "   jnz 1b\n"
		      "   int $0x80\n");

TEST(selfmod, user_code_changes_its_own_next_instruction)
{
	struct regs r = {.rcx = rounds(600), .rip = USER_CODE + 0x40};
	uint64_t want = sum_to(r.rcx);

	map(USER_CODE, (uint64_t)PLACE(user_same_block, 0x40), PTE_P | PTE_U | PTE_W);
	map(USER_STACK - 4096, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	regs_user(&r, USER_STACK);
	check_eq(fault.vector, 0x80);
	check_eq(r.rdx, want);
}

BLOB(user_two_pages, "1: mov %ecx, 1(%rbx)\n"
		     "   call *%rsi\n"
		     "   add %rax, %rdx\n"
		     "   mov $2000, %edi\n"
		     "3: dec %edi\n"
		     "   jnz 3b\n"
		     "   dec %ecx\n"
		     "   jnz 1b\n"
		     "   int $0x80\n");

TEST(selfmod, user_code_changes_a_function_through_another_mapping)
{
	uint64_t fn = (uint64_t)PLACE(give, 0);
	struct regs r = {.rcx = rounds(600),
			 .rip = USER_CODE,
			 .rbx = USER_CODE + 0x5000,
			 .rsi = USER_CODE + 0x2000};
	uint64_t want = sum_to(r.rcx);

	map(USER_CODE, (uint64_t)PLACE(user_two_pages, 0), PTE_P | PTE_U);
	map(USER_CODE + 0x2000, fn, PTE_P | PTE_U);
	map(USER_CODE + 0x5000, fn, PTE_P | PTE_U | PTE_W | PTE_NX);
	map(USER_STACK - 4096, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	regs_user(&r, USER_STACK);
	check_eq(fault.vector, 0x80);
	check_eq(r.rdx, want);
}

TEST(selfmod, the_kernel_changes_user_code_between_two_runs)
{
	uint8_t *page = PLACE(user_two_pages, 0), *fn = PLACE(give, 0);

	map(USER_CODE, (uint64_t)page, PTE_P | PTE_U);
	map(USER_CODE + 0x2000, (uint64_t)fn, PTE_P | PTE_U);
	map(USER_CODE + 0x5000, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	map(USER_STACK - 4096, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	for (unsigned i = 1; i < 60; i++) {
		struct regs r = {.rcx = 20,
				 .rip = USER_CODE,
				 .rbx = USER_CODE + 0x5000,
				 .rsi = USER_CODE + 0x2000};

		*(volatile uint32_t *)(fn + 1) = i;
		regs_user(&r, USER_STACK);
		check_eq(fault.vector, 0x80);
		check_eq(r.rdx, 20 * i);
	}
}

/* Two CPUs */

static struct {
	uint8_t *page;
	unsigned rounds;
	volatile unsigned asked, done;
	volatile bool stop;
} peer;

static void sync_core(void)
{
	uint32_t r[4];

	cpuid(0, 0, r);
}

/* With what the manuals demand (SDM3 9.1.3): the writer says when it is done, the other serializes.
 */
static void patch_with_flags(void *arg)
{
	for (unsigned i = 1; i <= peer.rounds; i++) {
		while (peer.asked != i)
			__asm__ volatile("pause");
		*(volatile uint32_t *)(peer.page + 1) = i;
		__asm__ volatile("" : : : "memory");
		peer.done = i;
	}
}

TEST_SMP(selfmod, a_hot_loop_sees_what_another_cpu_changed_in_its_function)
{
	struct regs r;

	peer.page = PLACE(give, 0);
	peer.rounds = rounds(400);
	peer.asked = peer.done = 0;
	cpu_run(1, patch_with_flags, 0);
	for (unsigned i = 1; i <= peer.rounds; i++) {
		for (unsigned k = 0; k < WARM; k++) {
			r = (struct regs){.rip = (uint64_t)peer.page};
			regs_call(&r);
			check_eq(r.rax, i - 1);
		}
		peer.asked = i;
		while (peer.done != i)
			__asm__ volatile("pause");
		sync_core();
	}
	cpu_join(1);
}

/* Without: an aligned operand is written in one piece, so any of its values may be seen, but
 * nothing else; and in the end the last. */
static void patch_at_will(void *arg)
{
	for (unsigned i = 1; i <= peer.rounds; i++) {
		*(volatile uint32_t *)(peer.page + 4) = i;
		for (unsigned k = random_next() & 255; k; k--)
			__asm__ volatile("pause");
	}
	__asm__ volatile("" : : : "memory");
	peer.done = 1;
}
BLOB(give_aligned, "nop; nop; nop; mov $0, %eax; ret\n");

TEST_SMP(selfmod, code_under_change_by_another_cpu_gives_one_of_the_values_written)
{
	struct regs r = {0};
	uint32_t last = 0;

	peer.page = PLACE(give_aligned, 0);
	peer.rounds = rounds(20000);
	peer.done = 0;
	cpu_run(1, patch_at_will, 0);
	while (!peer.done) {
		r.rip = (uint64_t)peer.page;
		regs_call(&r);
		check(r.rax >= last && r.rax <= peer.rounds);
		last = (uint32_t)r.rax;
	}
	sync_core();
	r.rip = (uint64_t)peer.page;
	regs_call(&r);
	check_eq(r.rax, peer.rounds);
	cpu_join(1);
}

/* The loop never leaves its block but by what the other CPU stores there: jmp becomes ret. */
BLOB(until_changed, "1: jmp 1b\n"
		    "   ret\n");

static void end_loop(void *arg)
{
	delay_us(300);
	*(volatile uint16_t *)peer.page = 0x9090;
}

TEST_SMP(selfmod, a_loop_of_one_instruction_ends_when_another_cpu_changes_it)
{
	for (unsigned i = 0; i < 20; i++) {
		struct regs r = {0};

		peer.page = PLACE(until_changed, 0);
		r.rip = (uint64_t)peer.page;
		cpu_run(1, end_loop, 0);
		regs_call(&r);
		cpu_join(1);
	}
}

/* Both run it, both change it: each its own byte of an operand of eight. */
BLOB(give_wide, "nop; nop; nop; nop; nop; nop; movabs $0, %rax; ret\n");
static void change_own_byte(void *arg)
{
	unsigned byte = (unsigned)(uint64_t)arg;
	volatile uint8_t *at = peer.page + 8 + byte;

	for (unsigned i = 1; i <= peer.rounds; i++) {
		struct regs r = {.rip = (uint64_t)peer.page};

		*at = (uint8_t)i;
		regs_call(&r);
		if ((uint8_t)(r.rax >> 8 * byte) != (uint8_t)i)
			peer.stop = 1;
	}
}

TEST_SMP(selfmod, two_cpus_change_and_run_one_function_and_each_sees_its_own_stores)
{
	peer.page = PLACE(give_wide, 0);
	peer.rounds = rounds(2000);
	peer.stop = 0;
	cpu_run(1, change_own_byte, (void *)7);
	change_own_byte((void *)1);
	cpu_join(1);
	check(!peer.stop);
}
