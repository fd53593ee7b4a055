/* test_delivery.c: how exceptions and interrupts are delivered: frames, stacks, gates, faults on
 * the way (SDM3 6). */
#include "g64.h"

#define TF (1ull << 8)
#define IF (1ull << 9)

TEST(delivery, divide_error_points_at_the_divide)
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

TEST(delivery, a_quotient_that_does_not_fit_is_a_divide_error)
{
	CATCH(__asm__ volatile("mov $5, %%edx; xor %%eax, %%eax; mov $5, %%ecx; div %%ecx"
			       :
			       :
			       : "eax", "ecx", "edx"));
	check_fault(V_DE, 0);
	CATCH(__asm__ volatile("mov $0x80000000, %%eax; cltd; mov $-1, %%ecx; idiv %%ecx"
			       :
			       :
			       : "eax", "ecx", "edx"));
	check_fault(V_DE, 0);
	CATCH(__asm__ volatile("mov $0x8000, %%eax; mov $-1, %%cl; idiv %%cl" : : : "eax", "ecx"));
	check_fault(V_DE, 0);
}

TEST_REAL(delivery, breakpoint_points_after_int3_and_ud2_at_itself)
{
	extern const uint8_t after_int3[], the_ud2[];

	CATCH(__asm__ volatile("int3; after_int3:"));
	check_fault(V_BP, 0);
	check_eq(fault.rip, (uint64_t)after_int3);
	CATCH(__asm__ volatile("the_ud2: ud2"));
	check_fault(V_UD, 0);
	check_eq(fault.rip, (uint64_t)the_ud2);
}

TEST(delivery, an_instruction_longer_than_15_bytes_faults)
{
	CATCH(__asm__ volatile(".fill 15, 1, 0x66; nop"));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile(".fill 14, 1, 0x66; nop"));
	check_no_fault();
}

TEST(delivery, lock_on_an_instruction_without_it_is_undefined)
{
	CATCH(__asm__ volatile(".byte 0xf0; nop"));
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile(".byte 0xf0, 0x01, 0xc0")); /* lock add %eax, %eax */
	check_fault(V_UD, 0);
}

TEST_REAL(delivery, a_gate_that_is_not_present_gives_np_with_its_index)
{
	idt[0x41].type &= 0x7f;
	CATCH(__asm__ volatile("int $0x41"));
	check_fault(V_NP, 0x41 * 8 + 2);
}

TEST_REAL(delivery, a_vector_past_the_idt_limit_gives_gp_with_its_index)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) shorter = {0x40 * 16 - 1, (uint64_t)idt},
				  whole = {sizeof(idt) - 1, (uint64_t)idt};

	__asm__ volatile("lidt %0" : : "m"(shorter));
	CATCH(__asm__ volatile("int $0x50"));
	__asm__ volatile("lidt %0" : : "m"(whole));
	check_fault(V_GP, 0x50 * 8 + 2);
}

BLOB(int_0x42, "int $0x42");
TEST_REAL(delivery, int_n_from_ring_3_through_a_ring_0_gate_gives_gp)
{
	RUN_USER(int_0x42);
	check_fault(V_GP, 0x42 * 8 + 2);
	check_eq(fault.rip, USER_CODE);
}

TEST_REAL(delivery, a_gate_to_a_null_or_bad_selector_gives_gp)
{
	set_gate(0x43, (uint64_t)trap_stubs, 0, 0x8e, 0);
	CATCH(__asm__ volatile("int $0x43"));
	check_fault(V_GP, 0);
	set_gate(0x43, (uint64_t)trap_stubs, SEL_DATA, 0x8e, 0);
	CATCH(__asm__ volatile("int $0x43"));
	check_fault(V_GP, SEL_DATA);
}

static uint64_t handler_rsp, handler_rflags;
static bool note_stack(struct frame *f)
{
	uint64_t flags;

	__asm__ volatile("pushf; pop %0" : "=r"(flags));
	handler_rflags = flags;
	handler_rsp = (uint64_t)f;
	return 1;
}

TEST_REAL(delivery, interrupt_gates_clear_if_and_trap_gates_keep_it)
{
	set_handler(0x44, note_stack);
	__asm__ volatile("sti; int $0x44; cli");
	check(!(handler_rflags & IF));
	set_gate(0x44, (uint64_t)trap_stubs + 16 * 0x44, SEL_CODE64, 0x8f, 0);
	__asm__ volatile("sti; int $0x44; cli");
	check(handler_rflags & IF);
}

TEST_REAL(delivery, the_ist_switches_stacks_without_a_change_of_ring)
{
	set_handler(0x45, note_stack);
	set_gate(0x45, (uint64_t)trap_stubs + 16 * 0x45, SEL_CODE64, 0x8e, 3);
	__asm__ volatile("int $0x45");
	check_eq(handler_rsp, IST_STACK_TOP(3) - sizeof(struct frame));
}

TEST_REAL(delivery, the_stack_is_aligned_to_16_bytes_before_the_frame_is_pushed)
{
	set_handler(0x46, note_stack);
	__asm__ volatile(
	    "mov %%rsp, %%rbx; and $-16, %%rsp; sub $3, %%rsp; int $0x46; mov %%rbx, %%rsp"
	    :
	    :
	    : "rbx", "memory");
	check_eq(handler_rsp & 15, 0);
}

static uint64_t df_error, df_count;
static bool note_double_fault(struct frame *f)
{
	df_error = f->error;
	df_count++;
	return 0;
}

TEST(delivery, a_fault_while_a_fault_is_delivered_is_a_double_fault_with_error_0)
{
	df_count = 0;
	set_handler(V_DF, note_double_fault);
	idt[V_GP].type &= 0x7f; /* #NP while delivering #GP */
	CATCH(*(volatile uint64_t *)0x0000800000000000);
	check_eq(fault.vector, V_DF);
	check_eq(df_error, 0);
	check_eq(df_count, 1);
}

TEST_REAL(delivery, a_page_fault_while_a_page_fault_is_delivered_is_a_double_fault)
{
	set_gate(V_PF, FREE_VA + 0x1000, SEL_CODE64, 0x8e, 1);
	*(uint64_t *)(tss[0] + 0x24) = FREE_VA + 0x3000; /* IST 1: not mapped */
	set_gate(V_DF, (uint64_t)trap_stubs + 16 * V_DF, SEL_CODE64, 0x8e, 2);
	CATCH(*(volatile uint64_t *)FREE_VA);
	check_eq(fault.vector, V_DF);
	check_eq(fault.cr2, FREE_VA + 0x3000 - 8);
}

TEST_REAL(delivery, a_benign_exception_then_a_fault_is_no_double_fault)
{
	idt[V_BP].type &= 0x7f;
	CATCH(__asm__ volatile("int3"));
	check_fault(V_NP, V_BP * 8 + 2);
}

TEST_REAL(delivery, sti_holds_interrupts_off_for_one_instruction)
{
	static volatile uint64_t marker;
	extern const uint8_t after_shadow[];

	apic_enable();
	marker = 0;
	fault_armed = 0;
	__asm__ volatile("cli");
	apic_write(0x310, 0);
	apic_write(0x300, 0x40000 | 0x70); /* to ourselves, pending while IF is 0 */
	CATCH(__asm__ volatile("sti; movq $1, %0; after_shadow: nop; nop"
			       : "=m"(marker)
			       :
			       : "memory"));
	apic_write(0xb0, 0);
	check_eq(fault.vector, 0x70);
	check_eq(marker, 1);
	check_eq(fault.rip, (uint64_t)after_shadow);
}

TEST(delivery, iret_to_a_non_canonical_rip_faults_at_the_iret)
{
	CATCH(__asm__ volatile("mov %%ss, %%rax; push %%rax; push %%rsp; pushf; push $0x08; mov "
			       "$0x800000000000, %%rax; push %%rax; iretq"
			       :
			       :
			       : "rax", "memory"));
	check_eq(fault.vector, V_GP);
	check_eq(fault.error, 0);
}

BLOB(user_iret, "mov %cs, %rax; int $0x80");
TEST_REAL(delivery, iret_to_ring_3_in_compatibility_mode_runs_32_bit_code)
{
	static const uint8_t code[] = {
	    0x40, 0xcd, 0x80}; /* inc %eax in 32-bit code; a REX prefix in 64-bit code */

	run_user(code, code + sizeof(code), &(struct user_regs){.rax = 6});
	check_eq(fault.vector, 0x80);
	check_eq(user_rax, 6);
	*(uint64_t *)0x9000 = 0;
	/* USER_CODE is above 4 GiB: put the code low for compatibility mode */
	{
		uint8_t *page = alloc_page();
		struct frame f = {.rax = 6,
				  .rip = 0x7f000000,
				  .cs = SEL_UCODE32,
				  .ss = SEL_UDATA,
				  .rflags = 2,
				  .rsp = 0x7f001000};
		uint64_t *tables[2] = {alloc_page(), alloc_page()};
		extern void frame_enter(struct frame *) __attribute__((noreturn));
		uint64_t old_dir = *pte(0x7f000000, 2), old_dpt = *pte(0x7f000000, 3),
			 old_top = *pte(0x7f000000, 4);

		memcpy(page, code, sizeof(code));
		tables[0][(0x7f000000 >> 12) & 511] = (uint64_t)page | PTE_P | PTE_U | PTE_W;
		*pte(0x7f000000, 2) = (uint64_t)tables[0] | PTE_P | PTE_U | PTE_W;
		*pte(0x7f000000, 3) |= PTE_U;
		*pte(0x7f000000, 4) |= PTE_U;
		write_cr3(read_cr3());
		CATCH(frame_enter(&f));
		*pte(0x7f000000, 2) = old_dir;
		*pte(0x7f000000, 3) = old_dpt;
		*pte(0x7f000000, 4) = old_top;
		write_cr3(read_cr3());
	}
	check_eq(fault.vector, 0x80);
	check_eq(user_rax, 7);
	check_eq(fault.cs, SEL_UCODE32);
}
