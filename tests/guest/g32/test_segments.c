/* test_segments.c: segments, gates, tasks, virtual-8086 and real mode: one case each to begin with.
 */
#include "g32.h"

TEST(segment, a_load_past_the_gdt_limit_faults_with_the_selector)
{
	CATCH(__asm__ volatile("mov %0, %%es" : : "r"(0x7f8 + 0x400)));
	check_fault(V_GP, 0xbf8);
}

TEST(segment, an_access_past_the_limit_faults_with_error_0)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfff, 0x93, 4));
	CATCH(__asm__ volatile("mov %0, %%fs; movl %%fs:0xffc, %%eax; movl %%fs:0xffd, %%eax"
			       :
			       : "r"(SEL_FREE)
			       : "eax"));
	check_fault(V_GP, 0);
}

static volatile int task_ran;
static struct tss32 task_a;
static void task_entry(void)
{
	for (;;) {
		task_ran++;
		__asm__ volatile("iret");
	}
}

TEST(task, a_call_switches_to_a_task_and_iret_comes_back)
{
	task_ran = 0;
	make_tss(SEL_TSS_A, &task_a, task_entry);
	CATCH(__asm__ volatile("lcall $0x38, $0"));
	check_no_fault();
	check_eq(task_ran, 1);
	check_eq(task_a.link, SEL_TSS);
}

BLOB16(v86_code, "mov $0x1234, %ax; int $0x21");
TEST(v86, int_n_with_iopl_0_is_a_general_protection_fault)
{
	RUN_V86(v86_code, 0);
	check_fault(V_GP, 0);
	check_eq(fault_frame.eax & 0xffff, 0x1234);
	check(fault.eflags & EFLAGS_VM);
}

BLOB16(real_code, "add $1, %eax; lret");
TEST(real, code_runs_in_real_mode_and_comes_back)
{
	check_eq(RUN_REAL(real_code, 41), 42);
}
