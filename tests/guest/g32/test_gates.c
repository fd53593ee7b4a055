/* test_gates.c: interrupt, trap and call gates, returns to outer rings, and the error codes of what
 * goes wrong on the way (SDM3 5.8, 6.12, 6.13). */
#include "g32.h"

#define SEL_CODE1	(SEL_FREE + 0x00) /* ring 1 */
#define SEL_DATA1	(SEL_FREE + 0x08)
#define SEL_GATE	(SEL_FREE + 0x10)
#define SEL_ODD		(SEL_FREE + 0x18)
#define idt_error(n, x) ((n)*8 + 2 + (x))

CODE(u_int60, "int $0x60; int $0x80");
CODE(u_nothing_, "int $0x80");

static uint32_t seen_flags, seen_eip;
static bool note_flags(struct frame *f)
{
	uint32_t flags;

	__asm__ volatile("pushf; pop %0" : "=r"(flags));
	seen_flags = flags;
	seen_eip = f->eip;
	return 1;
}

TEST_REAL(gate, an_interrupt_gate_clears_if_and_a_trap_gate_does_not)
{
	uint32_t stub = *(const uint32_t *)((const uint8_t *)idt + 0x60 * 8) & 0xffff;

	stub |= (uint32_t)(idt[0x60] >> 48) << 16;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	set_handler(0x60, note_flags);
	__asm__ volatile("sti; int $0x60; cli");
	check(!(seen_flags & EFLAGS_IF));
	set_gate(0x60, stub, SEL_CODE, 0x8f);
	__asm__ volatile("sti; int $0x60; cli");
	check(seen_flags & EFLAGS_IF);
}

TEST_REAL(gate, tf_and_nt_are_clear_in_a_handler)
{
	set_handler(0x60, note_flags);
	__asm__ volatile("pushf; orl $0x4000, (%%esp); popf; int $0x60; pushf; andl $~0x4000, "
			 "(%%esp); popf"
			 :
			 :
			 : "memory", "cc");
	check(!(seen_flags & (EFLAGS_NT | EFLAGS_TF)));
}

TEST_REAL(gate, int_n_needs_the_gates_dpl)
{
	run_user(u_int60, 0);
	check_fault(V_GP, idt_error(0x60, 0));
	check_eq(fault.eip, (uint32_t)u_int60);
	check_eq(fault.cs, SEL_UCODE);
}

TEST_REAL(gate, int_n_past_the_idt_limit_faults)
{
	load_idt(0x60 * 8 + 6);
	CATCH(__asm__ volatile("int $0x60"));
	check_fault(V_GP, idt_error(0x60, 0));
	load_idt(0x60 * 8 + 7);
	CATCH(__asm__ volatile("int $0x60"));
	check_eq(fault.vector, 0x60);
}

TEST_REAL(gate, a_gate_that_is_not_present_faults_with_its_vector)
{
	set_gate(0x60, 0, SEL_CODE, 0x0e);
	CATCH(__asm__ volatile("int $0x60"));
	check_fault(V_NP, idt_error(0x60, 0));
}

TEST_REAL(gate, an_exception_through_a_bad_gate_tells_it_was_external)
{
	/* SDM3 6.13: EXT is set for a fault during the delivery of an exception. */
	set_gate(V_UD, 0, SEL_CODE, 0x0e);
	CATCH(__asm__ volatile("ud2"));
	check_fault(V_NP, idt_error(V_UD, 1));
	set_gate(V_UD, 0, SEL_DATA, 0x8e);
	CATCH(__asm__ volatile("ud2"));
	check_fault(V_GP, SEL_DATA | 1);
}

TEST_REAL(gate, a_descriptor_that_is_no_gate_faults)
{
	for (unsigned type = 0; type < 32; type++) {
		if (type == 5 || type == 6 || type == 7 || type == 14 || type == 15)
			continue;
		set_gate(0x60, (uint32_t)u_nothing_, SEL_CODE, 0x80 | type);
		CATCH(__asm__ volatile("int $0x60"));
		check_fault(V_GP, idt_error(0x60, 0));
	}
}

TEST_REAL(gate, the_gates_selector_must_be_present_code_of_an_inner_ring)
{
	set_gate(0x60, (uint32_t)u_nothing_, 0, 0xee);
	CATCH(__asm__ volatile("int $0x60"));
	check_fault(V_GP, 0);
	set_gate(0x60, (uint32_t)u_nothing_, SEL_DATA, 0xee);
	CATCH(__asm__ volatile("int $0x60"));
	check_fault(V_GP, SEL_DATA);
	set_gate(0x60, (uint32_t)u_nothing_, 0xbf8, 0xee);
	CATCH(__asm__ volatile("int $0x60"));
	check_fault(V_GP, 0xbf8);
	set_gate(0x60, (uint32_t)u_nothing_, SEL_UCODE, 0xee);
	CATCH(__asm__ volatile("int $0x60"));
	check_fault(V_GP, SEL_UCODE & ~3u);
	set_descriptor(SEL_ODD, descriptor(0, 0xfffff, 0x1b, 0xc));
	set_gate(0x60, (uint32_t)u_nothing_, SEL_ODD, 0xee);
	CATCH(__asm__ volatile("int $0x60"));
	check_fault(V_NP, SEL_ODD);
	set_descriptor(SEL_ODD, descriptor(0, 0xf, 0x9b, 4));
	CATCH(__asm__ volatile("int $0x60"));
	check_fault(V_GP, 0); /* the offset is past the limit */
}

/* Counts what a 16-bit gate pushed: three words. */
CODE(handler16, "mov %esp, %ecx; movzwl (%esp), %esi; movzwl 2(%esp), %edi; iretw");
BLOB16(int_in_16, "mov %esp, %ebx; int $0x60; nop; sub %ecx, %ebx; lretl");
TEST_REAL(gate, a_16_bit_gate_pushes_words)
{
	uint32_t pushed, ip, cs;

	/* The return address must fit in 16 bits: the caller is 16-bit code in low memory. The
	 * handler's offset has 16 bits as well: a segment that begins there. */
	set_descriptor(SEL_ODD, descriptor((uint32_t)handler16, 0xff, 0x9b, 4));
	set_gate(0x60, 0xabcd0000, SEL_ODD, 0x86);
	memcpy((void *)0x600, int_in_16, (unsigned long)(int_in_16_end - int_in_16));
	__asm__ volatile("lcall $0x58, $0x600"
			 : "=b"(pushed), "=S"(ip), "=D"(cs)
			 :
			 : "ecx", "memory", "cc");
	check_eq(pushed, 6);
	check_eq(ip, 0x605);
	check_eq(cs, SEL_CODE16);
}

CODE(u_conforming, "int $0x60; mov %eax, %ebx; int $0x80");
CODE(conforming_handler, "mov %cs, %eax; mov %esp, %ecx; iret");
TEST_REAL(gate, a_conforming_handler_runs_in_the_callers_ring_on_its_stack)
{
	struct frame f = user_frame(u_conforming, 0);

	set_descriptor(SEL_ODD, descriptor(0, 0xfffff, 0x9f, 0xc));
	set_gate(0x60, (uint32_t)conforming_handler, SEL_ODD, 0xee);
	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
	check_eq(fault_frame.ebx, SEL_ODD | 3);
	check_eq(fault_frame.ecx, f.esp3 - 12);
}

TEST_REAL(gate, an_interrupt_from_ring_3_switches_to_the_tss_stack)
{
	struct frame f = user_frame(u_nothing_, 0);
	uint32_t low;

	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
	low = fault_frame.esp; /* below vector, error code, 5 words and pusha's own */
	check_eq(low, main_task.tss.esp0 - 7 * 4);
	check_eq(fault_frame.esp3, f.esp3);
	check_eq(fault_frame.ss3, SEL_UDATA);
}

static void ring1(void)
{
	set_descriptor(SEL_CODE1, descriptor(0, 0xfffff, 0xbb, 0xc));
	set_descriptor(SEL_DATA1, descriptor(0, 0xfffff, 0xb3, 0xc));
	main_task.tss.ss1 = SEL_DATA1 | 1;
	main_task.tss.esp1 = (uint32_t)alloc_page() + 4096;
}

/* Ring 0 code behind a call gate with two parameters. */
CODE(gate_params, "mov %cs, %edi; mov %esp, %esi; mov 8(%esp), %ecx; mov 12(%esp), %edx; mov "
		  "16(%esp), %ebp; lret $8");
CODE(u_call_params, "pushl $0x11111111; pushl $0x22222222; lcall $0x78, $0x12345678; mov %esp, "
		    "%eax; int $0x80");
TEST_REAL(gate, a_call_gate_copies_parameters_to_the_inner_stack)
{
	struct frame f = user_frame(u_call_params, 0);

	set_descriptor(SEL_GATE, call_gate(SEL_CODE, (uint32_t)gate_params, 2, 0xec));
	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
	check_eq(fault_frame.edi, SEL_CODE);
	check_eq(fault_frame.esi, main_task.tss.esp0 - 6 * 4);
	check_eq(fault_frame.ecx, 0x22222222);
	check_eq(fault_frame.edx, 0x11111111);
	check_eq(fault_frame.ebp, f.esp3 - 8); /* the caller's stack pointer */
	check_eq(fault_frame.eax, f.esp3);     /* released on both stacks */
	check_eq(fault.cs, SEL_UCODE);
}

/* Through a 16-bit gate everything pushed is words, and what comes back is 16 bits wide; the ring-3
 * caller sits in 16-bit code so that its return address fits. */
CODE(gate_params16, "movzwl 4(%esp), %ecx; movzwl 6(%esp), %edx; mov %esp, %esi; lretw $4");
BLOB16(u_call16, "push $0x1111; push $0x2222; lcall $0x78, $0; mov %sp, %ax; int $0x80");
TEST_REAL(gate, a_16_bit_call_gate_copies_words)
{
	struct frame f = user_frame(0, 0);

	memcpy((void *)0x600, u_call16, (unsigned long)(u_call16_end - u_call16));
	set_descriptor(SEL_ODD, descriptor(0, 0xffff, 0xfb, 0));
	set_descriptor(SEL_ODD + 8, descriptor((uint32_t)gate_params16, 0xff, 0x9b, 4));
	set_descriptor(SEL_ODD + 16, descriptor(f.esp3 - 0x100, 0xffff, 0xf3, 0));
	set_descriptor(SEL_GATE, call_gate(SEL_ODD + 8, 0, 2, 0xe4));
	f.cs = SEL_ODD | 3;
	f.eip = 0x600;
	f.ss3 = (SEL_ODD + 16) | 3;
	f.esp3 = 0x80;
	f.eax = 0;
	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
	check_eq(fault_frame.ecx, 0x2222);
	check_eq(fault_frame.edx, 0x1111);
	check_eq(fault_frame.esi, main_task.tss.esp0 - 6 * 2);
	check_eq(fault_frame.eax, 0x80);
}

CODE(gate_ring1, "mov %cs, %edi; mov %ss, %esi; cli; lret");
CODE(gate_ring1_back, "mov %cs, %edi; mov %ss, %esi; lret");
CODE(u_call_gate, "lcall $0x78, $0; int $0x80");
CODE(u_jmp_gate, "ljmp $0x78, $0; int $0x80");
TEST_REAL(gate, a_call_gate_leads_to_ring_1)
{
	ring1();
	set_descriptor(SEL_GATE, call_gate(SEL_CODE1, (uint32_t)gate_ring1_back, 0, 0xec));
	run_user(u_call_gate, 0);
	check_eq(fault.vector, 0x80);
	check_eq(fault_frame.edi, SEL_CODE1 | 1);
	check_eq(fault_frame.esi, SEL_DATA1 | 1);
	set_descriptor(SEL_GATE, call_gate(SEL_CODE1, (uint32_t)gate_ring1, 0, 0xec));
	run_user(u_call_gate, 0);
	check_fault(V_GP, 0); /* CLI above IOPL */
	check_eq(fault.cs, SEL_CODE1 | 1);
}

TEST_REAL(gate, the_inner_stack_of_the_tss_is_checked)
{
	ring1();
	set_descriptor(SEL_GATE, call_gate(SEL_CODE1, (uint32_t)gate_ring1_back, 0, 0xec));
	main_task.tss.ss1 = 0;
	run_user(u_call_gate, 0);
	check_fault(V_TS, 0);
	check_eq(fault.eip, (uint32_t)u_call_gate);
	check_eq(fault.cs, SEL_UCODE);
	main_task.tss.ss1 = SEL_DATA; /* wrong ring */
	run_user(u_call_gate, 0);
	check_fault(V_TS, SEL_DATA);
	main_task.tss.ss1 = 0xbf8;
	run_user(u_call_gate, 0);
	check_fault(V_TS, 0xbf8);
	set_descriptor(SEL_DATA1, descriptor(0, 0xfffff, 0xb1, 0xc)); /* read-only */
	main_task.tss.ss1 = SEL_DATA1 | 1;
	run_user(u_call_gate, 0);
	check_fault(V_TS, SEL_DATA1);
	set_descriptor(SEL_DATA1, descriptor(0, 0xfffff, 0x33, 0xc)); /* not present */
	run_user(u_call_gate, 0);
	check_fault(V_SS, SEL_DATA1);
	set_descriptor(SEL_DATA1, descriptor(0, 0xfff, 0xb3, 4)); /* no room */
	run_user(u_call_gate, 0);
	check_fault(V_SS, SEL_DATA1);
}

TEST_REAL(gate, a_tss_too_short_for_the_inner_stack_faults)
{
	ring1();
	set_descriptor(SEL_GATE, call_gate(SEL_CODE1, (uint32_t)gate_ring1_back, 0, 0xec));
	set_descriptor(SEL_TSS, descriptor((uint32_t)&main_task, 0xd, 0x89, 0)); /* ring 0's only */
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
	run_user(u_call_gate, 0);
	check_fault(V_TS, SEL_TSS);
}

TEST_REAL(gate, call_gates_check_privilege_and_presence)
{
	set_descriptor(SEL_GATE, call_gate(SEL_CODE, (uint32_t)gate_ring1_back, 0, 0x8c));
	run_user(u_call_gate, 0);
	check_fault(V_GP, SEL_GATE);
	CATCH(__asm__ volatile("lcall $0x7b, $0")); /* RPL 3 above the gate's DPL */
	check_fault(V_GP, SEL_GATE);
	set_descriptor(SEL_GATE, call_gate(SEL_CODE, (uint32_t)gate_ring1_back, 0, 0x6c));
	run_user(u_call_gate, 0);
	check_fault(V_NP, SEL_GATE);
	set_descriptor(SEL_GATE, call_gate(SEL_UCODE, (uint32_t)gate_ring1_back, 0, 0x8c));
	CATCH(__asm__ volatile("lcall $0x78, $0")); /* an outer ring */
	check_fault(V_GP, SEL_UCODE & ~3u);
	set_descriptor(SEL_GATE, call_gate(0, 0, 0, 0x8c));
	CATCH(__asm__ volatile("lcall $0x78, $0"));
	check_fault(V_GP, 0);
	set_descriptor(SEL_GATE, call_gate(SEL_DATA, 0, 0, 0x8c));
	CATCH(__asm__ volatile("lcall $0x78, $0"));
	check_fault(V_GP, SEL_DATA);
}

TEST_REAL(gate, a_jump_through_a_call_gate_stays_in_its_ring)
{
	set_descriptor(SEL_GATE, call_gate(SEL_CODE, (uint32_t)u_nothing_, 0, 0xec));
	run_user(u_jmp_gate, 0);
	check_fault(V_GP, SEL_CODE);
	set_descriptor(SEL_GATE, call_gate(SEL_UCODE, (uint32_t)u_nothing_, 0, 0xec));
	run_user(u_jmp_gate, 0);
	check_eq(fault.vector, 0x80);
	check_eq(fault.cs, SEL_UCODE);
}

CODE(gate_same, "mov %esp, %esi; lret");
TEST_REAL(gate, a_call_gate_in_the_same_ring_keeps_the_stack)
{
	uint32_t before, inside;

	set_descriptor(SEL_GATE, call_gate(SEL_CODE, (uint32_t)gate_same, 5, 0x8c));
	__asm__ volatile("mov %%esp, %0; lcall $0x78, $0"
			 : "=&r"(before), "=S"(inside)
			 :
			 : "memory");
	check_eq(inside, before - 8);
}

CODE(u_far_conforming, "lcall $0x80, $far_conforming; int $0x80");
CODE(far_conforming, "mov %cs, %eax; lret");
TEST_REAL(gate, conforming_code_is_called_directly_without_a_change_of_ring)
{
	set_descriptor(SEL_ODD, descriptor(0, 0xfffff, 0x9f, 0xc));
	run_user(u_far_conforming, 0);
	check_eq(fault.vector, 0x80);
	check_eq(fault_frame.eax, SEL_ODD | 3);
	set_descriptor(SEL_ODD, descriptor(0, 0xfffff, 0x9b, 0xc));
	run_user(u_far_conforming, 0);
	check_fault(V_GP, SEL_ODD);
}

TEST_REAL(gate, far_jumps_check_what_they_jump_to)
{
	CATCH(__asm__ volatile("ljmp $0, $0"));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("ljmp $0x10, $0"));
	check_fault(V_GP, SEL_DATA);
	CATCH(__asm__ volatile("ljmp $0xbf8, $0"));
	check_fault(V_GP, 0xbf8);
	CATCH(__asm__ volatile("ljmp $0x18, $0")); /* DPL 3 */
	check_fault(V_GP, SEL_UCODE & ~3u);
	set_descriptor(SEL_ODD, descriptor(0, 0xfffff, 0x1b, 0xc));
	CATCH(__asm__ volatile("ljmp $0x80, $0"));
	check_fault(V_NP, SEL_ODD);
	set_descriptor(SEL_ODD, descriptor(0, 0xff, 0x9b, 4));
	CATCH(__asm__ volatile("ljmp $0x80, $0x100"));
	check_fault(V_GP, 0);
	set_descriptor(SEL_ODD, descriptor(0, 0xff, 0x82, 4)); /* an LDT */
	CATCH(__asm__ volatile("ljmp $0x80, $0"));
	check_fault(V_GP, SEL_ODD);
}

/* What ring 3 finds after a far return from ring 0: segments it may not use are null. */
CODE(to_ring3, "pushl $0x23; pushl %ecx; pushl $0x1b; pushl $ring3_segments; mov $0x10, %eax; mov "
	       "%eax, %ds; mov $0x23, %eax; mov %eax, %es; mov $0x10, %eax; mov %eax, %fs; lret");
CODE(ring3_segments, "mov %ds, %eax; mov %es, %ebx; mov %fs, %esi; int $0x80");
TEST_REAL(gate, a_far_return_to_an_outer_ring_hides_inner_segments)
{
	struct frame f = user_frame(0, 0);

	CATCH(__asm__ volatile("jmp to_ring3" : : "c"(f.esp3)));
	check_eq(fault.vector, 0x80);
	check_eq(fault.cs, SEL_UCODE);
	check_eq(fault_frame.eax, 0);
	check_eq(fault_frame.ebx, SEL_UDATA);
	check_eq(fault_frame.esi, 0);
}

static void iret_with(uint32_t eip, uint32_t cs, uint32_t flags, uint32_t esp, uint32_t ss)
{
	__asm__ volatile("push %0; push %1; push %2; push %3; push %4; iret"
			 :
			 : "r"(ss), "r"(esp), "r"(flags), "r"(cs), "r"(eip)
			 : "memory");
}

TEST_REAL(gate, iret_to_an_outer_ring_checks_code_and_stack)
{
	uint32_t esp = user_frame(0, 0).esp3, eip = (uint32_t)u_nothing_;

	CATCH(iret_with(eip, SEL_UCODE, 2, esp, SEL_UDATA));
	check_eq(fault.vector, 0x80);
	CATCH(iret_with(eip, SEL_UCODE, 2, esp, 0));
	check_fault(V_GP, 0);
	CATCH(iret_with(eip, SEL_UCODE, 2, esp, SEL_DATA));
	check_fault(V_GP, SEL_DATA);
	CATCH(iret_with(eip, SEL_UCODE, 2, esp, SEL_DATA | 3));
	check_fault(V_GP, SEL_DATA);
	CATCH(iret_with(eip, SEL_UCODE & ~3u, 2, esp, SEL_UDATA)); /* RPL 0, DPL 3 */
	check_fault(V_GP, SEL_UCODE & ~3u);
	CATCH(iret_with(eip, SEL_CODE | 3, 2, esp, SEL_UDATA));
	check_fault(V_GP, SEL_CODE);
	CATCH(iret_with(eip, 0, 2, esp, SEL_UDATA));
	check_fault(V_GP, 0);
	set_descriptor(SEL_ODD, descriptor(0, 0xfffff, 0x7b, 0xc));
	CATCH(iret_with(eip, SEL_ODD | 3, 2, esp, SEL_UDATA));
	check_fault(V_NP, SEL_ODD);
	set_descriptor(SEL_ODD, descriptor(0, 0xfffff, 0x73, 0xc));
	CATCH(iret_with(eip, SEL_UCODE, 2, esp, SEL_ODD | 3));
	check_fault(V_SS, SEL_ODD);
	set_descriptor(SEL_ODD, descriptor(0, 0xfff, 0xfb, 4));
	CATCH(iret_with(0x1000, SEL_ODD | 3, 2, esp, SEL_UDATA));
	check_fault(V_GP, 0);
}

CODE(u_iret_inward, "pushf; pushl $0x08; pushl $u_nothing_; iret");
CODE(u_iret_flags, "pushl $0x3202; pushl $0x1b; pushl $1f; iret; 1: pushf; pop %eax; int $0x80");
TEST_REAL(gate, ring_3_returns_neither_inwards_nor_with_more_rights)
{
	run_user(u_iret_inward, 0);
	check_fault(V_GP, SEL_CODE);
	run_user(u_iret_flags, 0);
	check_eq(fault.vector, 0x80);
	check_eq(fault_frame.eax & 0x3200, 0);
}

TEST_REAL(gate, a_trap_reports_the_next_instruction_and_a_fault_its_own)
{
	uint32_t at;

	CATCH(__asm__ volatile("int3"));
	at = fault.eip;
	check_eq(fault.vector, V_BP);
	check_eq(*(const uint8_t *)(at - 1), 0xcc);
	CATCH(__asm__ volatile("ud2"));
	check_eq(fault.vector, V_UD);
	check_eq(*(const uint16_t *)fault.eip, 0x0b0f);
}

CODE(u_int3, "int3; int $0x80");
CODE(u_into, "mov $0x7f, %al; inc %al; into; int $0x80");
CODE(u_into_not, "xor %eax, %eax; into; int $0x80");
TEST_REAL(gate, int3_and_into_need_gates_of_the_callers_ring)
{
	run_user(u_int3, 0);
	check_eq(fault.vector, V_BP);
	run_user(u_into, 0);
	check_eq(fault.vector, V_OF);
	run_user(u_into_not, 0);
	check_eq(fault.vector, 0x80);
	set_gate(V_BP, 0, SEL_CODE, 0x8e);
	set_gate(V_OF, 0, SEL_CODE, 0x8e);
	run_user(u_int3, 0);
	check_fault(V_GP, idt_error(V_BP, 0));
	run_user(u_into, 0);
	check_fault(V_GP, idt_error(V_OF, 0));
}

CODE(u_io, "in $0x80, %al; int $0x80");
CODE(u_io32, "in $0x80, %eax; int $0x80");
static void open_port(unsigned port)
{
	main_task.bitmap[port / 8] &= (uint8_t) ~(1u << port % 8);
}
TEST_REAL(gate, the_io_bitmap_is_asked_for_every_byte_of_an_access)
{
	run_user(u_io, 0);
	check_fault(V_GP, 0);
	open_port(0x80);
	run_user(u_io, 0);
	check_eq(fault.vector, 0x80);
	run_user(u_io32, 0);
	check_fault(V_GP, 0);
	open_port(0x81);
	open_port(0x82);
	open_port(0x83);
	run_user(u_io32, 0);
	check_eq(fault.vector, 0x80);
	main_task.tss.iomap = 0xffff; /* past the limit */
	run_user(u_io, 0);
	check_fault(V_GP, 0);
	run_user(u_io, EFLAGS_IOPL(3));
	check_eq(fault.vector, 0x80);
}

TEST_REAL(gate, the_io_bitmap_takes_two_bytes_of_the_tss)
{
	/* SDM1 19.5.2: two bytes are read, so a bitmap whose last byte is the limit's has none. */
	open_port(0x80);
	set_descriptor(SEL_TSS,
		       descriptor((uint32_t)&main_task, sizeof(main_task.tss) + 0x10, 0x89, 0));
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
	run_user(u_io, 0);
	check_fault(V_GP, 0);
	set_descriptor(SEL_TSS,
		       descriptor((uint32_t)&main_task, sizeof(main_task.tss) + 0x11, 0x89, 0));
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
	run_user(u_io, 0);
	check_eq(fault.vector, 0x80);
}

#define SYSENTER_CS  0x174
#define SYSENTER_ESP 0x175
#define SYSENTER_EIP 0x176
/* SYSEXIT wants its four segments in a row: code, data, user code, user data, as our GDT has them.
 */
CODE(u_sysenter, "mov %esp, %ecx; mov $u_after, %edx; sysenter; ud2; u_after: int $0x80");
CODE(on_sysenter, "mov %cs, %esi; mov %ss, %edi; mov %esp, %ebx; pushf; pop %eax; sysexit");
CODE(u_sysexit, "sysexit");
static bool has_sysenter(void)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	return r[3] >> 11 & 1;
}
TEST_REAL(gate, sysenter_and_sysexit_go_there_and_back)
{
	if (!has_sysenter())
		test_skip("no SYSENTER");
	wrmsr(SYSENTER_CS, SEL_CODE);
	wrmsr(SYSENTER_ESP, 0x5000);
	wrmsr(SYSENTER_EIP, (uint32_t)on_sysenter);
	run_user(u_sysenter, 0x200);
	check_eq(fault.vector, 0x80);
	check_eq(fault.cs, SEL_UCODE);
	check_eq(fault_frame.ss3, SEL_UDATA);
	check_eq(fault_frame.esi, SEL_CODE);
	check_eq(fault_frame.edi, SEL_DATA);
	check_eq(fault_frame.ebx, 0x5000);
	check(!(fault_frame.eax & EFLAGS_IF));
}

TEST_REAL(gate, sysenter_without_a_code_segment_and_sysexit_in_ring_3_fault)
{
	if (!has_sysenter())
		test_skip("no SYSENTER");
	wrmsr(SYSENTER_CS, 0);
	run_user(u_sysenter, 0);
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("sysexit" : : "c"(0), "d"(0)));
	check_fault(V_GP, 0);
	wrmsr(SYSENTER_CS, SEL_CODE);
	run_user(u_sysexit, 0);
	check_fault(V_GP, 0);
}
