/* test_basic.c: exceptions and their frames, at first the ones that everything else rests on. */
#include "g64.h"

TEST(exception, divide_by_zero_faults_at_the_divide)
{
	extern const uint8_t div_insn[];

	CATCH(__asm__ volatile(
	    "xor %%ecx, %%ecx; mov $1, %%eax; xor %%edx, %%edx; div_insn: div %%ecx"
	    :
	    :
	    : "eax", "ecx", "edx"));
	check_fault(V_DE, 0);
	check_eq(fault.rip, (uint64_t)div_insn);
}

TEST(exception, undefined_opcode_faults)
{
	CATCH(__asm__ volatile("ud2"));
	check_fault(V_UD, 0);
}

TEST(exception, breakpoint_traps_after_int3)
{
	extern const uint8_t after_int3[];

	CATCH(__asm__ volatile("int3; after_int3:"));
	check_fault(V_BP, 0);
	check_eq(fault.rip, (uint64_t)after_int3);
}

TEST(paging, unmapped_read_gives_cr2_and_error_0)
{
	CATCH(*(volatile uint64_t *)(FREE_VA + 0x123));
	check_fault(V_PF, 0);
	check_eq(fault.cr2, FREE_VA + 0x123);
}

TEST(paging, write_to_read_only_page_with_wp_gives_error_3)
{
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P);
	CATCH(*(volatile uint32_t *)(FREE_VA + 8) = 1);
	check_fault(V_PF, 3);
	check_eq(fault.cr2, FREE_VA + 8);
}

BLOB(user_exit, "mov $42, %eax; int $0x80");
TEST(privilege, user_code_runs_and_comes_back_through_a_gate)
{
	RUN_USER(user_exit);
	check_eq(fault.vector, 0x80);
	check_eq(user_rax, 42);
	check_eq(fault.cs, SEL_UCODE64);
}

BLOB(user_hlt, "hlt");
TEST(privilege, hlt_in_ring_3_is_a_general_protection_fault)
{
	RUN_USER(user_hlt);
	check_fault(V_GP, 0);
	check_eq(fault.rip, USER_CODE);
}

static volatile int smp_counter;
static void count_up(void *arg)
{
	for (int i = 0; i < 10000; i++)
		__asm__ volatile("lock incl %0" : "+m"(smp_counter));
}

TEST_SMP(smp, locked_increments_of_two_cpus_add_up)
{
	smp_counter = 0;
	cpu_run(1, count_up, 0);
	count_up(0);
	cpu_join(1);
	check_eq(smp_counter, 20000);
}
