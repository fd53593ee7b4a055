/* test_debug.c: single step, breakpoints, debug registers (SDM3 18.2). */
#include "g64.h"

#define TF     0x100ull
#define RF     0x10000ull
#define DR6_BS (1ull << 14)
#define DR6_BD (1ull << 13)
#define DR7_GD (1ull << 13)
#define DR7(n, type, len)                                                                          \
	(0x400ull | 1ull << (2 * (n)) | (uint64_t)((type) | (len) << 2) << (16 + 4 * (n)))
enum { BP_EXEC = 0, BP_WRITE = 1, BP_RW = 3 };
enum { LEN1 = 0, LEN2 = 1, LEN8 = 2, LEN4 = 3 };

static unsigned steps;
static uint64_t step_rip[8], step_dr6;
static bool note_step(struct frame *f)
{
	if (steps < 8)
		step_rip[steps] = f->rip;
	steps++;
	step_dr6 = read_dr6();
	write_dr6(0xffff0ff0);
	return 1;
}

TEST(debug, single_step_traps_after_each_instruction)
{
	extern const uint8_t step_a[], step_b[], step_c[];

	steps = 0;
	set_handler(V_DB, note_step);
	__asm__ volatile("pushf; orl $0x100, (%%rsp); popf; step_a: nop; step_b: nop; step_c: "
			 "pushf; andl $~0x100, (%%rsp); popf"
			 :
			 :
			 : "memory", "cc");
	check_eq(step_rip[0], (uint64_t)step_b);
	check_eq(step_rip[1], (uint64_t)step_c);
	check_eq(steps, 5);
	check(step_dr6 & DR6_BS);
	(void)step_a;
}

TEST_REAL(debug, mov_ss_holds_the_single_step_trap_off)
{
	extern const uint8_t after_pair[];

	steps = 0;
	set_handler(V_DB, note_step);
	__asm__ volatile("mov %%ss, %%eax; pushf; orl $0x100, (%%rsp); popf; mov %%eax, %%ss; nop; "
			 "after_pair: pushf; andl $~0x100, (%%rsp); popf"
			 :
			 :
			 : "eax", "memory", "cc");
	check_eq(step_rip[0], (uint64_t)after_pair);
}

TEST_REAL(debug, single_step_goes_into_a_software_interrupt_handler_without_tf)
{
	steps = 0;
	set_handler(V_DB, note_step);
	CATCH(__asm__ volatile("pushf; orl $0x100, (%%rsp); popf; int $0x60" : : : "memory", "cc"));
	check_eq(fault.vector, 0x60);
	check(fault.rflags & TF);
	check_eq(steps, 0);
}

TEST(debug, an_instruction_breakpoint_faults_before_it_without_rf_in_the_frame)
{
	extern const uint8_t bp_here[];
	static volatile uint32_t ran;

	ran = 0;
	write_dr0((uint64_t)bp_here);
	write_dr7(DR7(0, BP_EXEC, LEN1));
	CATCH(__asm__ volatile("bp_here: incl %0" : "+m"(ran)));
	write_dr7(0x400);
	check_eq(fault.vector, V_DB);
	check_eq(fault.rip, (uint64_t)bp_here);
	check_eq(fault.dr6 & 0xf, 1);
	check(!(fault.rflags & RF)); /* SDM3 18.3.1.1: the handler sets it */
	check_eq(ran, 0);
}

static bool resume_with_rf(struct frame *f)
{
	steps++;
	f->rflags |= RF;
	return 1;
}

TEST(debug, returning_with_rf_executes_the_instruction_once)
{
	extern const uint8_t bp_rf[];
	static volatile uint32_t ran;

	ran = 0;
	steps = 0;
	set_handler(V_DB, resume_with_rf);
	write_dr1((uint64_t)bp_rf);
	write_dr7(DR7(1, BP_EXEC, LEN1));
	__asm__ volatile("bp_rf: incl %0; nop" : "+m"(ran));
	write_dr7(0x400);
	check_eq(ran, 1);
	check_eq(steps, 1);
}

TEST_REAL(debug, a_write_breakpoint_traps_after_the_write_only)
{
	static volatile uint64_t word;
	extern const uint8_t after_write[];

	word = 0;
	write_dr2((uint64_t)&word);
	write_dr7(DR7(2, BP_WRITE, LEN8));
	CATCH((void)word);
	check_no_fault();
	CATCH(__asm__ volatile("movl $7, %0; after_write: nop" : "=m"(word)));
	write_dr7(0x400);
	check_eq(fault.vector, V_DB);
	check_eq(fault.dr6 & 0xf, 4);
	check_eq(fault.rip, (uint64_t)after_write);
	check_eq(word, 7);
}

TEST_REAL(debug, a_read_write_breakpoint_sees_reads_and_respects_its_length)
{
	static volatile uint32_t words[4] __attribute__((aligned(16)));

	write_dr3((uint64_t)&words[1]);
	write_dr7(DR7(3, BP_RW, LEN4));
	CATCH((void)words[0]; (void)words[2]);
	check_no_fault();
	CATCH((void)*(volatile uint8_t *)((uint64_t)&words[1] + 3); __asm__ volatile("nop"));
	write_dr7(0x400);
	check_eq(fault.vector, V_DB);
	check_eq(fault.dr6 & 0xf, 8);
}

TEST(debug, general_detect_faults_before_an_access_to_a_debug_register)
{
	write_dr7(0x400 | DR7_GD);
	CATCH(read_dr0());
	check_eq(fault.vector, V_DB);
	check(fault.dr6 & DR6_BD);
	check_eq(read_dr7() & DR7_GD, 0); /* cleared on entry */
}

TEST(debug, dr4_is_an_alias_or_undefined_by_cr4_de)
{
	uint64_t v;

	write_dr6(0xffff0ff0);
	__asm__ volatile("mov %%db4, %0" : "=r"(v));
	check_eq(v, read_dr6());
	write_cr4(read_cr4() | 8);
	CATCH(__asm__ volatile("mov %%db4, %0" : "=r"(v)));
	check_fault(V_UD, 0);
}

TEST(debug, upper_halves_of_dr6_and_dr7_must_be_zero)
{
	CATCH(write_dr7(1ull << 32));
	check_fault(V_GP, 0);
	CATCH(write_dr6(1ull << 40));
	check_fault(V_GP, 0);
}

TEST_REAL(debug, icebp_traps_as_debug_exception)
{
	CATCH(__asm__ volatile(".byte 0xf1"));
	check_eq(fault.vector, V_DB);
}
