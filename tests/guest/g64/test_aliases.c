/* test_aliases.c: two accesses through one base register with something in between that makes the
 * second another: rights, mappings, the register itself; and one page mapped twice. */
#include "code.h"

#define ONE   (FREE_VA + 0x10000) /* two pages with contents and frames of their own */
#define TWO   (FREE_VA + 0x11000)
#define THREE (FREE_VA + 0x12000) /* nothing there, unless a test says so */

#define ENTRY(text) ".byte 2f - 1f\n1: " text "\n2:\n"
#define LIST(name, entries)                                                                        \
	extern const uint8_t name[];                                                               \
	__asm__(".pushsection .rodata\n" #name ":\n" entries ".byte 0\n.popsection\n")

static uint64_t *one, *two;
static uint8_t code[4096] __attribute__((aligned(4096)));

/* Each word of both pages tells its page and its place. */
static void map_two(uint64_t flags)
{
	one = alloc_page();
	alloc_page();
	two = alloc_page();
	for (unsigned i = 0; i < 512; i++) {
		one[i] = 0x1111000000000000 | i;
		two[i] = 0x2222000000000000 | i;
	}
	map(ONE, (uint64_t)one, flags);
	map(TWO, (uint64_t)two, flags);
}

static uint64_t put_code(const uint8_t *bytes, const uint8_t *end)
{
	memcpy(code + 0x100, bytes, (unsigned long)(end - bytes));
	return (uint64_t)code + 0x100;
}
#define PUT(name) put_code(name, name##_end)

/* The base register changes */

/* From ONE to TWO, which is in rsi. */
LIST(
    changes,
    ENTRY("add $0x1000, %rbx") ENTRY("mov %rsi, %rbx") ENTRY("xchg %rsi, %rbx") ENTRY(
	"add $0x10, %bh") ENTRY("lea 0x1000(%rbx), %rbx") ENTRY("push %rsi; pop %rbx")
	ENTRY("cmp %rbx, %rbx; cmove %rsi, %rbx") ENTRY("sub $-0x1000, %rbx") ENTRY(
	    "xor %rsi, %rbx; xor %rbx, %rsi; xor %rsi, %rbx") ENTRY("bts $12, %rbx")
	    ENTRY("mov %si, %bx") ENTRY("mov $0x1000, %edi; xadd %rdi, %rbx") ENTRY(
		"mov %rbx, %rax; cmpxchg %rsi, %rbx") ENTRY("inc %rsi; lea -1(%rsi), %rbx")
		ENTRY("mov %rsi, %rbx; mov (%rbx), %rdi") ENTRY("mov $0, %ebx; or %rsi, %rbx")
		    ENTRY("push %rsi; mov (%rsp), %rbx; add $8, %rsp")
			ENTRY("movzx %si, %edi; mov %di, %bx") ENTRY(
			    "bswap %rsi; mov %rsi, %rbx; bswap %rbx; bswap %rsi")
			    ENTRY("mov %rsi, %rdi; xchg %rbx, %rdi") ENTRY(
				"shr $12, %rbx; inc %rbx; shl $12, %rbx; or $0x40, %rbx")
				ENTRY("imul $1, %rsi, %rbx") ENTRY(
				    "ror $13, %rbx; adc $0, %rbx; rol $13, %rbx; mov %rsi, %rbx")
				    ENTRY("mov %rsi, %r12; mov %r12, %rbx") ENTRY(
					"call 3f; jmp 4f; 3: mov %rsi, %rbx; ret; 4:")
					ENTRY("jmp 3f; 3: mov %rsi, %rbx") ENTRY(
					    "xor %eax, %eax; xor %ecx, %ecx; cpuid; mov %rsi, %rbx")
					    ENTRY("not %rbx; sub $0x1000, %rbx; not %rbx")
						ENTRY("neg %rbx; sub $0x1000, %rbx; neg %rbx"));

/* Pairs of accesses through rbx: into rax and rdx. */
LIST(first_access,
     ENTRY("mov (%rbx), %rax") ENTRY("mov 16(%rbx), %rax") ENTRY("add %r9, (%rbx)")
	 ENTRY("mov (%rbx), %rax; mov 8(%rbx), %r8; mov 24(%rbx), %r9; xor %r9d, %r9d")
	     ENTRY("movb $0, 8(%rbx); movb $0, 9(%rbx)"));

TEST(aliases, every_way_to_change_a_base_register_leads_to_the_other_page)
{
	map_two(PTE_P | PTE_W);
	for (const uint8_t *a = first_access; *a; a += 1 + *a) {
		for (const uint8_t *c = changes; *c; c += 1 + *c) {
			unsigned n = 0x100;

			memcpy(code + n, a + 1, a[0]);
			n += a[0];
			memcpy(code + n, c + 1, c[0]);
			n += c[0];
			memcpy(code + n, "\x48\x8b\x13\x4c\x8b\x5b\x08\xc3",
			       8); /* mov (%rbx), %rdx; mov 8(%rbx), %r11; ret */
			for (unsigned i = 0; i < WARM; i++) {
				struct regs r = {.rbx = ONE + 0x40,
						 .rsi = TWO + 0x40,
						 .rip = (uint64_t)code + 0x100};

				regs_call(&r);
				check_eq(r.rbx, TWO + 0x40);
				check_eq(r.rdx, 0x2222000000000008);
				check_eq(r.r11, 0x2222000000000009);
			}
		}
	}
}

/* Registers that instructions move by themselves, over the page's end. */
BLOB(by_lods,
     "1: mov (%rsi), %rax; mov %rax, %rbx; lodsq; cmp %rax, %rbx; jne 2f; loop 1b; 2: ret\n");
BLOB(
    by_movs,
    "1: mov (%rsi), %rax; mov (%rdi), %rdx; movsq; cmp %rax, -8(%rdi); jne 2f; cmp %rax, -8(%rsi); "
    "jne 2f; loop 1b; 2: ret\n");
BLOB(by_stos, "1: mov (%rdi), %rdx; lea 1(%rdx), %rax; stosq; mov -8(%rdi), %rbx; cmp %rax, %rbx; "
	      "jne 2f; loop 1b; "
	      "2: ret\n");
BLOB(by_rep,
     "1: mov %rcx, %rbx; mov (%rsi), %rax; mov $3, %ecx; rep lodsq; cmp -8(%rsi), %rax; jne 2f; "
     "mov %rbx, %rcx; loop 1b; 2: ret\n");
BLOB(by_add, "1: mov (%rsi), %rax; mov 8(%rsi), %rdx; sub %rax, %rdx; dec %rdx; add $8, %rsi; test "
	     "%dx, %dx; jne 2f; "
	     "loop 1b; 2: ret\n");

TEST(aliases, string_instructions_move_base_registers_over_the_ends_of_pages)
{
	for (unsigned pass = 0; pass < 3; pass++) {
		struct regs r;

		map_two(PTE_P | PTE_W);
		r = (struct regs){.rcx = 1000, .rsi = ONE, .rip = PUT(by_lods)};
		regs_call(&r);
		check_eq(r.rcx, 0);
		r = (struct regs){.rcx = 511, .rsi = ONE, .rdi = TWO, .rip = PUT(by_movs)};
		regs_call(&r);
		check_eq(r.rcx, 0);
		check_eq(two[5], 0x1111000000000005);
		r = (struct regs){.rcx = 1000, .rdi = ONE, .rip = PUT(by_stos)};
		regs_call(&r);
		check_eq(r.rcx, 0);
		check_eq(one[511], 0x1111000000000200);
		r = (struct regs){.rcx = 300, .rsi = ONE, .rip = PUT(by_rep)};
		regs_call(&r);
		check_eq(r.rcx, 0);
		r = (struct regs){.rcx = 500, .rsi = ONE, .rip = PUT(by_add)};
		regs_call(&r);
		check_eq(r.rcx, 0);
	}
}

/* Down the stack, over a page's end, with other accesses through RSP between. */
BLOB(down_stack,
     "mov %rsp, %rbp; mov %rbx, %rsp\n"
     "1: push %rcx; mov 8(%rsp), %rax; mov %rcx, -16(%rsp); pop %rdx; push %rdx; sub $8, %rsp\n"
     "   mov -8(%rsp), %rdi; cmp %rdi, %rcx; jne 2f; movq $0, (%rsp); add 8(%rsp), %r8; loop 1b\n"
     "2: mov %rbp, %rsp; ret\n");

TEST(aliases, a_stack_that_grows_over_pages_is_followed)
{
	for (unsigned i = 0; i < 3; i++) {
		struct regs r = {.rcx = 400, .rbx = TWO + 0xf00, .rip = PUT(down_stack)};

		map_two(PTE_P | PTE_W);
		regs_call(&r);
		check_eq(r.rcx, 0);
		check_eq(r.r8, 400 * 401 / 2);
		check_eq(two[0xef8 / 8], 400);
	}
}

/* Displacements around the ends of a page */

BLOB(around,
     "mov -8(%rbx), %rax; mov (%rbx), %rcx; mov 0xff8(%rbx), %rdx; mov 0x1000(%rbx), %rsi\n"
     "mov -4(%rbx), %rdi; mov 0xffc(%rbx), %r8; mov 8(%rbx), %r9; mov 0x7f8(%rbx), %r10; ret\n");

TEST(aliases, displacements_around_the_ends_of_pages_lead_to_the_right_ones)
{
	map_two(PTE_P | PTE_W);
	for (unsigned i = 0; i < WARM; i++) {
		struct regs r = {.rbx = TWO, .rip = PUT(around)};
		uint64_t *three = alloc_page();

		three[0] = i;
		map(THREE, (uint64_t)three, PTE_P | PTE_W);
		regs_call(&r);
		check_eq(r.rax, 0x11110000000001ff);
		check_eq(r.rcx, 0x2222000000000000);
		check_eq(r.rdx, 0x22220000000001ff);
		check_eq(r.rsi, i);
		check_eq(r.rdi, 0x0000000011110000);
		check_eq(r.r8, (uint64_t)i << 32 | 0x22220000);
		check_eq(r.r10, 0x22220000000000ff);
	}
	for (unsigned i = 0; i < 4; i++) {
		struct regs r = {.rbx = TWO, .rip = PUT(around)};

		*pte(i & 1 ? ONE : THREE, 1) = 0;
		invlpg(i & 1 ? ONE : THREE);
		CATCH(regs_call(&r));
		check_fault(V_PF, 0);
		check_eq(fault.cr2, i & 1 ? TWO - 8 : THREE);
		map(ONE, (uint64_t)one, PTE_P | PTE_W);
		map(THREE, (uint64_t)one, PTE_P | PTE_W);
	}
}

/* Rights */

BLOB(read_write,
     "mov (%rbx), %rax; mov 16(%rbx), %rcx; 1: mov %rdx, 8(%rbx); mov 24(%rbx), %rsi; ret\n");
BLOB(write_read, "mov %rdx, 8(%rbx); mov (%rbx), %rax; mov %rdx, 16(%rbx); ret\n");

TEST(aliases, a_read_says_nothing_about_the_right_to_write)
{
	struct regs r;

	map_two(PTE_P | PTE_W);
	map(THREE, (uint64_t)one, PTE_P);
	for (unsigned i = 0; i < 3 * WARM; i++) {
		bool closed = i > WARM && i % 3 == 0;

		r = (struct regs){
		    .rbx = closed ? THREE : ONE, .rdx = 7 + i, .rip = PUT(read_write)};
		CATCH(regs_call(&r));
		check_eq(fault.vector, closed ? V_PF : V_NONE);
		if (closed) {
			check_fault(V_PF, 3);
			check_eq(fault.cr2, THREE + 8);
		} else {
			check_eq(one[1], 7 + i);
		}
	}
}

TEST(aliases, one_page_mapped_twice_has_the_rights_of_each_mapping)
{
	/* rbx may be written, rsi not; what is stored here is read there. */
	static const uint8_t bytes[] = {0x48, 0x89, 0x13,	/* mov %rdx, (%rbx) */
					0x48, 0x8b, 0x06,	/* mov (%rsi), %rax */
					0x48, 0x01, 0x53, 0x08, /* add %rdx, 8(%rbx) */
					0x48, 0x03, 0x46, 0x08, /* add 8(%rsi), %rax */
					0x84, 0xc9, 0x74, 0x04, /* test %cl, %cl; je +4 */
					0x48, 0x89, 0x56, 0x10, /* mov %rdx, 16(%rsi) */
					0xc3};

	map_two(PTE_P | PTE_W);
	one[1] = 0;
	map(THREE, (uint64_t)one, PTE_P | PTE_NX);
	for (uint64_t i = 1; i < 100; i++) {
		struct regs r = {.rbx = ONE,
				 .rsi = THREE,
				 .rdx = i,
				 .rcx = i % 7 == 0,
				 .rip = put_code(bytes, bytes + sizeof(bytes))};

		CATCH(regs_call(&r));
		check_eq(fault.vector, i % 7 == 0 ? V_PF : V_NONE);
		if (i % 7 == 0)
			check_fault(V_PF, 3);
		else
			check_eq(r.rax, i + i * (i + 1) / 2);
	}
}

/* CR0.WP between two stores through one register, both ways. */
BLOB(wp_between,
     "mov %rdx, (%rbx); mov %cr0, %rax; btc $16, %rax; mov %rax, %cr0; mov %rdx, 8(%rbx); ret\n");

TEST(aliases, write_protection_switched_between_two_stores_counts_for_the_second)
{
	uint64_t cr0 = read_cr0();

	map_two(PTE_P | PTE_W);
	map(THREE, (uint64_t)one, PTE_P);
	for (unsigned i = 0; i < WARM; i++) {
		struct regs r = {.rbx = ONE, .rdx = i, .rip = PUT(wp_between)};

		regs_call(&r);
		write_cr0(cr0);
	}
	for (unsigned i = 0; i < WARM; i++) {
		struct regs r = {.rbx = THREE, .rdx = 100 + i, .rip = PUT(wp_between)};

		write_cr0(cr0 & ~0x10000ull);
		CATCH(regs_call(&r));
		write_cr0(cr0);
		check_fault(V_PF, 3);
		check_eq(fault.cr2, THREE + 8);
		check_eq(one[0], 100 + i);
	}
}

/* The mapping changes between two accesses: rsi is the entry's place, rdi its new value. */
#define BETWEEN(name, how)                                                                         \
	BLOB(name, "mov (%rbx), %rax; mov %rdi, (%rsi); " how "; mov 8(%rbx), %rdx; mov %rcx, "    \
		   "16(%rbx); ret\n")
BETWEEN(by_invlpg, "invlpg (%rbx)");
BETWEEN(by_invlpg_of_its_end, "invlpg 0xfff(%rbx)");
BETWEEN(by_cr3, "mov %cr3, %r8; mov %r8, %cr3");
BETWEEN(by_pge, "mov %cr4, %r8; xor $0x80, %r8; mov %r8, %cr4; xor $0x80, %r8; mov %r8, %cr4");
BETWEEN(by_call, "call 3f; jmp 4f; 3: invlpg (%rbx); ret; 4:");

static void check_between(uint64_t rip, uint64_t flags)
{
	map_two(PTE_P | PTE_W | flags);
	for (unsigned i = 0; i < 3 * WARM; i++) {
		uint64_t *now = i & 1 ? two : one, *then = i & 1 ? one : two;
		struct regs r = {.rbx = ONE,
				 .rcx = 0xabc0 + i,
				 .rsi = (uint64_t)pte(ONE, 1),
				 .rdi = (uint64_t)then | PTE_P | PTE_W | flags,
				 .rip = rip};

		now[0] = 5;
		then[0] = 6;
		then[1] = 7 + i;
		now[1] = 0;
		regs_call(&r);
		check_eq(r.rax, 5);
		check_eq(r.rdx, 7 + i);
		check_eq(then[2], 0xabc0 + i);
	}
}

TEST(aliases, a_mapping_changed_between_two_accesses_counts_for_the_second)
{
	check_between(PUT(by_invlpg), 0);
	check_between(PUT(by_invlpg_of_its_end), 0);
	check_between(PUT(by_cr3), 0);
	check_between(PUT(by_call), 0);
	check_between(PUT(by_invlpg), PTE_G);
	check_between(PUT(by_pge), PTE_G);
}

/* The same, as the stack pointer's page. */
BLOB(stack_between,
     "mov %rsp, %rbp; mov %rbx, %rsp; mov 8(%rsp), %rax; mov %rdi, (%rsi); invlpg (%rsp)\n"
     "mov 8(%rsp), %rdx; push %rcx; mov %rbp, %rsp; ret\n");

TEST(aliases, the_stack_page_changed_between_two_accesses_counts_for_the_second)
{
	map_two(PTE_P | PTE_W);
	for (unsigned i = 0; i < 3 * WARM; i++) {
		uint64_t *now = i & 1 ? two : one, *then = i & 1 ? one : two;
		struct regs r = {.rbx = ONE + 0x800,
				 .rcx = 0xabc0 + i,
				 .rsi = (uint64_t)pte(ONE, 1),
				 .rdi = (uint64_t)then | PTE_P | PTE_W,
				 .rip = PUT(stack_between)};

		now[0x101] = 5;
		then[0x101] = 6 + i;
		regs_call(&r);
		check_eq(r.rax, 5);
		check_eq(r.rdx, 6 + i);
		check_eq(then[0xff], 0xabc0 + i);
	}
}

/* A missing page that the fault's handler brings: both accesses run, once each. */
static unsigned brought;
static bool bring_page(struct frame *f)
{
	brought++;
	map(read_cr2() & ~4095ull, (uint64_t)one, PTE_P | (f->error & 2 ? PTE_W : 0));
	return 1;
}
BLOB(
    count_accesses,
    "mov (%rbx), %rax; add $1, %rcx; mov 8(%rbx), %rdx; add $1, %rcx; incq 16(%rbx); add $1, %rcx; "
    "lock incq 24(%rbx); mov 32(%rbx), %r8; ret\n");

TEST(aliases, pages_brought_by_the_fault_handler_are_accessed_once)
{
	map_two(PTE_P | PTE_W);
	set_handler(V_PF, bring_page);
	one[2] = one[3] = 0;
	for (unsigned i = 1; i < 60; i++) {
		struct regs r = {.rbx = i % 3 ? ONE : THREE + 0x1000 * (i & 3),
				 .rip = PUT(count_accesses)};

		if (i % 3 == 0) {
			map(r.rbx, 0, 0);
			brought = 0;
		}
		regs_call(&r);
		check_eq(r.rcx, 3);
		check_eq(one[2], i);
		check_eq(one[3], i);
		if (i % 3 == 0)
			check_eq(brought, 2); /* for the read, then for the write */
	}
}

TEST(aliases, accessed_and_dirty_bits_follow_each_access_of_a_block)
{
	volatile uint64_t *e;

	map_two(PTE_P | PTE_W);
	e = pte(ONE, 1);
	for (unsigned i = 0; i < 2 * WARM; i++) {
		struct regs r = {.rbx = ONE, .rdx = i, .rip = PUT(read_write)};

		*e &= ~(PTE_A | PTE_D);
		invlpg(ONE);
		(void)*(volatile uint64_t *)ONE;
		check_eq(*e & (PTE_A | PTE_D), PTE_A);
		regs_call(&r);
		check_eq(*e & (PTE_A | PTE_D), PTE_A | PTE_D);
	}
}

/* SMAP: STAC and CLAC between accesses to a user page through one register. */
BLOB(smap_between, "stac; mov (%rbx), %rax; clac; mov (%rsi), %rcx; test %dl, %dl; je 1f; mov "
		   "8(%rbx), %rax; 1: ret\n");

TEST_REAL(aliases, the_right_to_user_pages_ends_with_clac)
{
	uint32_t c[4];

	cpuid(7, 0, c);
	if (!(c[1] & 1u << 20))
		test_skip("no SMAP");
	map_two(PTE_P | PTE_W | PTE_U);
	write_cr4(read_cr4() | 1u << 21);
	for (unsigned i = 0; i < 3 * WARM; i++) {
		struct regs r = {.rbx = ONE,
				 .rsi = (uint64_t)one,
				 .rdx = i > WARM && i % 3 == 0,
				 .rip = PUT(smap_between)};

		CATCH(regs_call(&r));
		check_eq(fault.vector, r.rdx ? V_PF : V_NONE);
		if (r.rdx) {
			check_fault(V_PF, 1);
			check_eq(fault.cr2, ONE + 8);
		}
		__asm__ volatile("clac");
	}
}

/* Walks into what is missing, and into a device */

BLOB(walk, "1: mov (%rbx), %rax; add $8, %rbx; add %rax, %rdx; inc %rcx; jmp 1b\n");

TEST(aliases, a_walk_through_pages_faults_at_the_first_byte_that_is_missing)
{
	map_two(PTE_P);
	for (unsigned i = 0; i < 10; i++) {
		struct regs r = {.rbx = ONE + 4 * i, .rip = PUT(walk)};

		CATCH(regs_call(&r));
		check_fault(V_PF, 0);
		check_eq(fault.cr2, THREE);
	}
}

BLOB(to_device, "mov (%rbx), %eax; mov 0x10(%rbx), %ecx; mov %rsi, %rbx; mov (%rbx), %edx; mov "
		"0x10(%rbx), %edi; ret\n");

TEST(aliases, one_base_register_leads_to_memory_and_to_a_device)
{
	apic_enable();
	map_two(PTE_P | PTE_W);
	for (unsigned i = 0; i < 2 * WARM; i++) {
		bool device = i % 3 == 2;
		struct regs r = {.rbx = device ? APIC + 0x20 : ONE,
				 .rsi = device ? ONE : APIC + 0x20,
				 .rip = PUT(to_device)};

		regs_call(&r);
		check_eq(device ? r.rcx : r.rdi, apic_read(0x30));
		check_eq(device ? r.rdx : r.rax, 0);
		check_eq(device ? r.rdi : r.rcx, 2);
	}
}

/* Addresses that wrap, segment bases, 32-bit addresses */

BLOB(wrapped, "mov 0x7fffffff(%rbx), %rax; mov (%rbx,%rsi), %rcx; mov 8(%rbx,%rsi), %rdx; ret\n");

TEST(aliases, sums_that_wrap_at_2_to_the_64_lead_to_low_memory)
{
	static uint64_t low[4] = {1, 2, 3, 4};

	for (unsigned i = 0; i < WARM; i++) {
		struct regs r = {.rbx = (uint64_t)low - 0x7fffffff, .rip = PUT(wrapped)};

		r.rsi = (uint64_t)low - r.rbx;
		regs_call(&r);
		check_eq(r.rax, 1);
		check_eq(r.rcx, 1);
		check_eq(r.rdx, 2);
	}
}

BLOB(by_segment, "mov %gs:(%rbx), %rax; mov %gs:8(%rbx), %rcx; mov (%rsi), %rdx; ret\n");
#define MSR_GS 0xc0000101

TEST(aliases, segment_bases_are_added_modulo_2_to_the_64)
{
	map_two(PTE_P | PTE_W);
	for (unsigned i = 0; i < 2 * WARM; i++) {
		uint64_t base = i & 1 ? 0xffffffffffff0000 : 0x1000;
		struct regs r = {.rbx = ONE - base, .rsi = ONE, .rip = PUT(by_segment)};

		wrmsr(MSR_GS, base);
		regs_call(&r);
		check_eq(r.rax, 0x1111000000000000);
		check_eq(r.rcx, 0x1111000000000001);
		check_eq(r.rdx, 0x1111000000000000);
	}
	wrmsr(MSR_GS, 0);
}

BLOB(short_addresses, "mov (%ebx), %rax; mov 0x7ffffff8(%ebx,%esi), %rcx; mov 8(%rdi), %rdx; mov "
		      "8(%edi), %r8; ret\n");

TEST(aliases, addresses_of_32_bits_wrap_at_4_gib)
{
	static uint64_t low[4] = {11, 12, 13, 14};

	for (unsigned i = 0; i < WARM; i++) {
		struct regs r = {.rbx = 0xabcd00000000 | (uint64_t)low,
				 .rsi = 0x80000008 | 0x1230000000000,
				 .rdi = (uint64_t)low,
				 .rip = PUT(short_addresses)};

		regs_call(&r);
		check_eq(r.rax, 11);
		check_eq(r.rcx, 11);
		check_eq(r.rdx, 12);
		check_eq(r.r8, 12);
	}
}

/* The ends of both halves of the canonical range. */
BLOB(read_end, "mov (%rbx), %rax; mov 4(%rbx), %ecx; ret\n");

TEST_REAL(aliases, the_ends_of_the_canonical_halves_fault_at_their_first_byte_outside)
{
	uint8_t *page = alloc_page();

	map(0x00007ffffffff000, (uint64_t)page, PTE_P | PTE_W);
	map(0xffff800000000000, (uint64_t)page, PTE_P | PTE_W);
	map(ONE, (uint64_t)page, PTE_P | PTE_W);
	for (unsigned i = 0; i < 2 * WARM; i++) {
		struct regs r = {.rbx = i < WARM ? ONE : 0x00007ffffffffff8, .rip = PUT(read_end)};

		regs_call(&r);
		r = (struct regs){.rbx = 0x00007ffffffffff9, .rip = PUT(read_end)};
		CATCH(regs_call(&r));
		check_fault(V_GP, 0);
		r = (struct regs){.rbx = 0xffff800000000000, .rip = PUT(read_end)};
		regs_call(&r);
		r = (struct regs){.rbx = 0xffff7ffffffffffc, .rip = PUT(read_end)};
		CATCH(regs_call(&r));
		check_fault(V_GP, 0);
	}
}
