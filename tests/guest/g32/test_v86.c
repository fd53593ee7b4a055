/* test_v86.c: virtual-8086 mode and its extensions (SDM3 20.2, 20.3). */
#include "g32.h"

#define IOPL3 EFLAGS_IOPL(3)
#define VIF   0x80000u
#define VIP   0x100000u
#define VME   1u

static void open_port(unsigned port)
{
	main_task.bitmap[port / 8] &= (uint8_t) ~(1u << port % 8);
}

BLOB16(v86_int21, "mov $0x1234, %ax; int $0x21");
TEST_REAL(v86, int_n_with_iopl_0_is_a_general_protection_fault)
{
	RUN_V86(v86_int21, 0);
	check_fault(V_GP, 0);
	check_eq(fault_frame.eax & 0xffff, 0x1234);
	check(fault.eflags & EFLAGS_VM);
	check_eq(fault.eip, 3);
	check_eq(fault.cs, 0x1000);
}

TEST_REAL(v86, int_n_with_iopl_3_goes_through_the_protected_gate)
{
	RUN_V86(v86_int21, IOPL3);
	check_fault(V_GP, 0x21 * 8 + 2); /* DPL 0 */
	set_gate(0x21, (uint32_t)(idt[0x21] & 0xffff) | (uint32_t)(idt[0x21] >> 32 & 0xffff0000),
		 SEL_CODE, 0xee);
	RUN_V86(v86_int21, IOPL3);
	check_eq(fault.vector, 0x21);
	check_eq(fault.eip, 5);
}

BLOB16(v86_segments, "mov $0x1111, %ax; mov %ax, %ds; mov $0x2222, %ax; mov %ax, %es; mov $0x3333, "
		     "%ax; mov %ax, %fs; mov $0x4444, %ax; mov %ax, %gs; ud2");
TEST_REAL(v86, a_fault_pushes_the_data_segments_and_clears_them)
{
	RUN_V86(v86_segments, 0);
	check_eq(fault.vector, V_UD);
	check_eq(fault_frame.ds86, 0x1111);
	check_eq(fault_frame.es86, 0x2222);
	check_eq(fault_frame.fs86, 0x3333);
	check_eq(fault_frame.gs86, 0x4444);
	check_eq(fault_frame.ss3, 0x2000);
	check_eq(fault_frame.esp3, 0xfff0);
	check_eq((uint16_t)fault_frame.ds, 0);
	check_eq((uint16_t)fault_frame.es, 0);
	check_eq((uint16_t)fault_frame.fs, 0);
	check_eq((uint16_t)fault_frame.gs, 0);
}

BLOB16(v86_cli, "cli");
BLOB16(v86_sti, "sti");
BLOB16(v86_pushf, "pushf");
BLOB16(v86_popf, "popf");
BLOB16(v86_iret, "iret");
TEST_REAL(v86, the_if_sensitive_instructions_need_iopl_3)
{
	const struct {
		const uint8_t *code, *end;
	} all[] = {{v86_cli, v86_cli_end},
		   {v86_sti, v86_sti_end},
		   {v86_pushf, v86_pushf_end},
		   {v86_popf, v86_popf_end},
		   {v86_iret, v86_iret_end}};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		run_v86(all[i].code, all[i].end, EFLAGS_IOPL(2));
		check_fault(V_GP, 0);
		check_eq(fault.eip, 0);
		check_eq(fault_frame.esp3, 0xfff0);
	}
}

BLOB16(v86_flags, "cli; pushf; pop %ax; sti; pushf; pop %bx; pushl $0x30; popfl; pushfl; pop "
		  "%ecx; cli; ud2");
TEST_REAL(v86, with_iopl_3_they_act_on_the_real_flags)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	RUN_V86(v86_flags, IOPL3);
	check_eq(fault.vector, V_UD);
	check_eq(fault_frame.eax & 0x3200, 0x3000);
	check_eq(fault_frame.ebx & 0x3200, 0x3200);
	check_eq(fault_frame.ecx & (EFLAGS_VM | 0x3200),
		 0x3000); /* VM is pushed as 0; IOPL stays */
}

BLOB16(v86_iret3, "pushf; push %cs; push $1f - v86_iret3; iret; ud2; 1: mov $5, %ax; ud2");
TEST_REAL(v86, iret_stays_in_the_mode)
{
	RUN_V86(v86_iret3, IOPL3);
	check_eq(fault.vector, V_UD);
	check_eq(fault_frame.eax & 0xffff, 5);
	check(fault.eflags & EFLAGS_VM);
	check_eq(fault_frame.esp3, 0xfff0);
}

BLOB16(v86_in, "in $0x80, %al; ud2");
BLOB16(v86_in32, "in $0x80, %eax; ud2");
TEST_REAL(v86, ports_ask_the_bitmap_whatever_the_iopl)
{
	RUN_V86(v86_in, IOPL3);
	check_fault(V_GP, 0);
	open_port(0x80);
	RUN_V86(v86_in, 0);
	check_eq(fault.vector, V_UD);
	RUN_V86(v86_in32, 0);
	check_fault(V_GP, 0);
}

BLOB16(v86_hlt, "hlt");
BLOB16(v86_mov_cr, "mov %cr0, %eax");
BLOB16(v86_lgdt, "lgdt (0)");
BLOB16(v86_clts, "clts");
BLOB16(v86_lmsw, "lmsw %ax");
BLOB16(v86_lldt, "lldt %ax");
BLOB16(v86_str, "str %ax");
BLOB16(v86_lar, "lar %ax, %ax");
BLOB16(v86_verr, "verr %ax");
BLOB16(v86_arpl, "arpl %ax, %bx");
TEST_REAL(v86, privileged_and_selector_instructions_fault)
{
	const struct {
		const uint8_t *code, *end;
		unsigned vector;
	} all[] = {{v86_hlt, v86_hlt_end, V_GP},   {v86_mov_cr, v86_mov_cr_end, V_GP},
		   {v86_lgdt, v86_lgdt_end, V_GP}, {v86_clts, v86_clts_end, V_GP},
		   {v86_lmsw, v86_lmsw_end, V_GP}, {v86_lldt, v86_lldt_end, V_UD},
		   {v86_str, v86_str_end, V_UD},   {v86_lar, v86_lar_end, V_UD},
		   {v86_verr, v86_verr_end, V_UD}, {v86_arpl, v86_arpl_end, V_UD}};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		run_v86(all[i].code, all[i].end, IOPL3);
		check_fault(all[i].vector, 0);
		check_eq(fault.eip, 0);
	}
}

BLOB16(v86_word, "mov $0xffff, %bx; mov (%bx), %ax; ud2");
BLOB16(v86_word_ss, "mov $0xffff, %bp; mov (%bp), %ax; ud2");
BLOB16(v86_far32, "mov $0x10000, %ebx; mov (%ebx), %al; ud2");
TEST_REAL(v86, segments_end_at_64_kib)
{
	RUN_V86(v86_word, 0);
	check_fault(V_GP, 0);
	RUN_V86(v86_word_ss, 0);
	check_fault(V_SS, 0);
	RUN_V86(v86_far32, 0);
	check_fault(V_GP, 0);
}

BLOB16(v86_base, "mov $0x2345, %ax; mov %ax, %es; mov %es:0x10, %eax; mov $0xffff, %bx; mov %bx, "
		 "%es; mov %es:0x10, %ebx; ud2");
TEST_REAL(v86, a_segment_begins_at_16_times_its_selector)
{
	*(volatile uint32_t *)0x23460 = 0xfeedbeef;
	RUN_V86(v86_base, 0);
	check_eq(fault.vector, V_UD);
	check_eq(fault_frame.eax, 0xfeedbeef);
	check_eq(fault_frame.ebx, *(volatile uint32_t *)0x100000); /* just above 1 MiB */
}

BLOB16(v86_far, "lcall $0x1100, $0; mov %cs, %bx; ud2");
BLOB16(v86_far_target, "mov %cs, %ax; lret");
TEST_REAL(v86, far_calls_take_segments_as_they_are)
{
	memcpy((void *)0x11000, v86_far_target,
	       (unsigned long)(v86_far_target_end - v86_far_target));
	RUN_V86(v86_far, 0);
	check_eq(fault.vector, V_UD);
	check_eq(fault_frame.eax & 0xffff, 0x1100);
	check_eq(fault_frame.ebx & 0xffff, 0x1000);
	check_eq(fault_frame.esp3, 0xfff0);
}

static bool skip_two(struct frame *f)
{
	f->eip += 2;
	f->eax = 0x4321;
	f->es86 = 0x5555;
	return 1;
}
BLOB16(v86_resume, "ud2; mov %es, %bx; hlt");
TEST_REAL(v86, a_handlers_iret_goes_back_into_the_mode)
{
	set_handler(V_UD, skip_two);
	RUN_V86(v86_resume, 0);
	check_fault(V_GP, 0);
	check(fault.eflags & EFLAGS_VM);
	check_eq(fault_frame.eax & 0xffff, 0x4321);
	check_eq(fault_frame.ebx & 0xffff, 0x5555);
}

BLOB16(v86_div, "xor %cx, %cx; div %cx");
TEST_REAL(v86, exceptions_go_to_protected_mode)
{
	RUN_V86(v86_div, 0);
	check_fault(V_DE, 0);
	check_eq(fault.eip, 2);
	check(fault.eflags & EFLAGS_VM);
}

TEST_REAL(v86, a_gate_to_another_ring_than_0_faults)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x9f, 0xc)); /* conforming */
	set_gate(V_UD, 0, SEL_FREE, 0xee);
	RUN_V86(v86_segments, 0);
	check_fault(V_GP, SEL_FREE | 1);
	set_gate(V_UD, 0, SEL_UCODE, 0xee);
	RUN_V86(v86_segments, 0);
	check_fault(V_GP, (SEL_UCODE & ~3u) | 1);
}

static struct tss32 v86_task;
TEST_REAL(v86, a_task_switch_enters_the_mode)
{
	memcpy((void *)0x10000, v86_int21, (unsigned long)(v86_int21_end - v86_int21));
	make_tss(SEL_TSS_A, &v86_task, 0);
	v86_task.cs = 0x1000;
	v86_task.ss = 0x2000;
	v86_task.esp = 0x100;
	v86_task.ds = v86_task.es = v86_task.fs = v86_task.gs = 0x3000;
	v86_task.eflags |= EFLAGS_VM;
	CATCH(__asm__ volatile("ljmp $0x38, $0"));
	check_fault(V_GP, 0);
	check(fault.eflags & EFLAGS_VM);
	check_eq(fault.cs, 0x1000);
	check_eq(fault_frame.ds86, 0x3000);
}

static void need_vme(void)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	if (!(r[3] >> 1 & 1))
		test_skip("no VME");
	write_cr4(read_cr4() | VME);
}
/* All of the redirection bitmap; the I/O bitmap follows it 32 bytes further on. */
static void redirect(bool to_8086)
{
	memset(main_task.bitmap, to_8086 ? 0 : 0xff, 32);
	main_task.tss.iomap = (uint16_t)(sizeof(main_task.tss) + 32);
}

BLOB16(v86_vif, "sti; pushf; pop %ax; cli; pushf; pop %bx; push $0x202; popf; ud2");
TEST_REAL(vme, if_becomes_the_virtual_flag)
{
	need_vme();
	RUN_V86(v86_vif, 0);
	check_eq(fault.vector, V_UD);
	check_eq(fault_frame.eax & 0x3200, 0x3200); /* IOPL reads as 3 (SDM3 20.3.2) */
	check_eq(fault_frame.ebx & 0x3200, 0x3000);
	check_eq(fault.eflags & (VIF | EFLAGS_IF | 0x3000), VIF);
}

TEST_REAL(vme, a_pending_virtual_interrupt_faults_when_it_becomes_possible)
{
	need_vme();
	RUN_V86(v86_sti, VIP);
	check_fault(V_GP, 0);
	RUN_V86(v86_popf, VIP); /* whatever is on the stack */
	*(volatile uint16_t *)0x2fff0 = 0x202;
	RUN_V86(v86_popf, VIP);
	check_fault(V_GP, 0);
	check_eq(fault.eip, 0);
	*(volatile uint16_t *)0x2fff0 = 0x102; /* TF */
	RUN_V86(v86_popf, 0);
	check_fault(V_GP, 0);
}

BLOB16(v86_pushfl, "pushfl");
BLOB16(v86_popfl, "popfl");
TEST_REAL(vme, the_32_bit_forms_still_need_iopl_3)
{
	need_vme();
	RUN_V86(v86_pushfl, 0);
	check_fault(V_GP, 0);
	RUN_V86(v86_popfl, 0);
	check_fault(V_GP, 0);
}

BLOB16(v86_handler, "mov %sp, %bp; mov 4(%bp), %dx; pushf; pop %bx; mov $0x77, %cx; iret");
BLOB16(v86_int60, "sti; int $0x60; ud2");
TEST_REAL(vme, a_redirected_interrupt_uses_the_8086_table)
{
	volatile uint32_t *ivt = (volatile uint32_t *)0;
	uint32_t old = ivt[0x60];

	need_vme();
	redirect(1);
	memcpy((void *)0x12000, v86_handler, (unsigned long)(v86_handler_end - v86_handler));
	ivt[0x60] = 0x12000000;
	RUN_V86(v86_int60, 0);
	ivt[0x60] = old;
	check_eq(fault.vector, V_UD);
	check_eq(fault.eip, 3);
	check_eq(fault_frame.ecx & 0xffff, 0x77);
	check_eq(fault_frame.ebx & 0x3200, 0x3000); /* in the handler: VIF is clear */
	check_eq(fault_frame.edx & 0x3200, 0x3200); /* pushed: IF is VIF, IOPL is 3 */
	check_eq(fault.eflags & VIF, VIF);	    /* IRET brought it back */
	check_eq(fault_frame.esp3, 0xfff0);
}

TEST_REAL(vme, an_interrupt_that_is_not_redirected_needs_iopl_3)
{
	need_vme();
	redirect(0);
	RUN_V86(v86_int60, 0);
	check_fault(V_GP, 0);
	RUN_V86(v86_int60, IOPL3);
	check_fault(V_GP, 0x60 * 8 + 2);
}

CODE(u_sti_vif, "sti; pushf; pop %eax; cli; pushf; pop %ebx; int $0x80");
TEST_REAL(vme, pvi_gives_ring_3_a_virtual_flag_too)
{
	need_vme();
	write_cr4((read_cr4() & ~VME) | 2);
	run_user(u_sti_vif, 0);
	check_eq(fault.vector, 0x80);
	check_eq(fault_frame.eax & (VIF | EFLAGS_IF), VIF);
	check_eq(fault_frame.ebx & VIF, 0);
	write_cr4(read_cr4() & ~2u);
	run_user(u_sti_vif, 0);
	check_fault(V_GP, 0);
}
