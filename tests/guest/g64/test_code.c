/* test_code.c: code that changes under the CPU: its own stores, aliases, other pages, other CPUs.
 */
#include "g64.h"

static uint8_t *code_page(const uint8_t *bytes, unsigned n)
{
	uint8_t *page = alloc_page();

	memcpy(page, bytes, n);
	return page;
}

static unsigned call(const void *p)
{
	unsigned v;

	__asm__ volatile("call *%1" : "=a"(v) : "r"(p) : "memory", "rcx", "rdx");
	return v;
}

static const uint8_t ret_1[] = {0xb8, 1, 0, 0, 0, 0xc3}; /* mov $1, %eax; ret */

TEST(code, a_store_changes_the_next_call)
{
	uint8_t *page = code_page(ret_1, sizeof(ret_1));

	for (unsigned i = 0; i < 300; i++) {
		*(volatile uint32_t *)(page + 1) = i;
		check_eq(call(page), i);
	}
}

TEST(code, a_store_through_an_alias_changes_the_code)
{
	uint8_t *page = code_page(ret_1, sizeof(ret_1));

	map(FREE_VA, (uint64_t)page, PTE_P);
	map(FREE_VA + 0x5000, (uint64_t)page, PTE_P | PTE_W);
	check_eq(call((void *)FREE_VA), 1);
	*(volatile uint8_t *)(FREE_VA + 0x5001) = 9;
	check_eq(call((void *)FREE_VA), 9);
	check_eq(call(page), 9);
}

TEST(code, an_instruction_changes_the_one_after_it)
{
	/* movb $7, 1f+1(%rip); 1: mov $1, %eax; ret */
	static const uint8_t bytes[] = {0xc6, 0x05, 1, 0, 0, 0, 7, 0xb8, 1, 0, 0, 0, 0xc3};
	uint8_t *page = code_page(bytes, sizeof(bytes));

	check_eq(call(page), 7);
	page[8] = 1;
	check_eq(call(page), 7);
}

TEST(code, an_instruction_across_two_pages_is_followed_on_both)
{
	uint8_t *a = alloc_page(), *b = alloc_page();

	a[0xffe] = 0xb8; /* mov $imm32, %eax: one byte of the number here, the rest there */
	a[0xfff] = 5;
	b[3] = 0xc3;
	map(FREE_VA, (uint64_t)b, PTE_P | PTE_W);
	map(FREE_VA, (uint64_t)a, PTE_P | PTE_W);
	map(FREE_VA + 0x1000, (uint64_t)b, PTE_P | PTE_W);
	check_eq(call((void *)(FREE_VA + 0xffe)), 5);
	b[0] = 1;
	check_eq(call((void *)(FREE_VA + 0xffe)), 0x105);
	a[0xfff] = 6;
	check_eq(call((void *)(FREE_VA + 0xffe)), 0x106);
	*pte(FREE_VA + 0x1000, 1) = 0;
	invlpg(FREE_VA + 0x1000);
	CATCH(call((void *)(FREE_VA + 0xffe)));
	check_fault(V_PF, 0x10 & (rdmsr(0xc0000080) & 0x800 ? 0x10 : 0));
	check_eq(fault.cr2, FREE_VA + 0x1000);
	check_eq(fault.rip, FREE_VA + 0xffe);
}

TEST(code, a_remapped_page_runs_its_new_code)
{
	uint8_t *a = code_page(ret_1, sizeof(ret_1)), *b = code_page(ret_1, sizeof(ret_1));

	b[1] = 2;
	map(FREE_VA, (uint64_t)a, PTE_P);
	check_eq(call((void *)FREE_VA), 1);
	map(FREE_VA, (uint64_t)b, PTE_P);
	check_eq(call((void *)FREE_VA), 2);
}

TEST(code, a_repeated_store_over_code_takes_effect)
{
	uint8_t *page = code_page(ret_1, sizeof(ret_1)), *other = code_page(ret_1, sizeof(ret_1));
	void *to = page;
	const void *from = other;
	unsigned long n = sizeof(ret_1);

	check_eq(call(page), 1);
	other[1] = 77;
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	check_eq(call(page), 77);
}

TEST(code, a_push_onto_code_takes_effect)
{
	uint8_t *page = code_page(ret_1, sizeof(ret_1));

	check_eq(call(page), 1);
	__asm__ volatile("mov %%rsp, %%rbx; lea 8(%0), %%rsp; push %1; mov %%rbx, %%rsp"
			 :
			 : "r"(page), "r"(0x0000c300000021b8ull)
			 : "rbx", "memory");
	check_eq(call(page), 0x21);
}

static uint8_t *cross_page;
static volatile unsigned cross_stage;
static void cross_writer(void *arg)
{
	for (unsigned i = 1; i <= 200; i++) {
		while (cross_stage != 2 * i - 1)
			__asm__ volatile("pause");
		*(volatile uint32_t *)(cross_page + 1) = i;
		__asm__ volatile("mfence" : : : "memory");
		cross_stage = 2 * i;
	}
}

TEST_SMP(code, code_changed_by_another_cpu_is_seen_after_a_serializing_instruction)
{
	cross_page = code_page(ret_1, sizeof(ret_1));
	cross_stage = 0;
	cpu_run(1, cross_writer, 0);
	for (unsigned i = 1; i <= 200; i++) {
		uint32_t r[4];

		call(cross_page);
		cross_stage = 2 * i - 1;
		while (cross_stage != 2 * i)
			__asm__ volatile("pause");
		cpuid(0, 0, r);
		check_eq(call(cross_page), i);
	}
	cpu_join(1);
}
