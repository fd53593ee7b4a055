/* test_real.c: real-address mode, 16-bit protected mode, and the way between them (SDM3 9.9, 20.1).
 */
#include "g32.h"

static volatile uint32_t *const ivt = (volatile uint32_t *)0;
#define HANDLER 0x800u /* where handlers are copied to, 0000:0800 */

static uint32_t saved_vector;
static unsigned saved_number;
static void hook(unsigned vector, const uint8_t *code, const uint8_t *end)
{
	saved_number = vector;
	saved_vector = ivt[vector];
	memcpy((void *)HANDLER, code, (unsigned long)(end - code));
	ivt[vector] = HANDLER;
}
static void unhook(void)
{
	ivt[saved_number] = saved_vector;
}
/* Runs with a handler for one vector. */
static uint32_t real_with(unsigned vector, const uint8_t *h, const uint8_t *h_end,
			  const uint8_t *code, const uint8_t *end, uint32_t eax)
{
	uint32_t v;

	hook(vector, h, h_end);
	v = run_real(code, end, eax);
	unhook();
	return v;
}
#define REAL_WITH(vector, handler, code, eax)                                                      \
	real_with(vector, handler, handler##_end, code, code##_end, eax)

BLOB16(real_add, "add $1, %eax; lret");
TEST(real, code_runs_in_real_mode_and_comes_back)
{
	check_eq(RUN_REAL(real_add, 41), 42);
	check_eq(RUN_REAL(real_add, 0xffff), 0x10000);
}

BLOB16(h_double, "shl $1, %eax; iret");
BLOB16(real_int, "add $1, %ax; int $0x60; add $1, %ax; lret");
TEST(real, int_n_uses_the_vector_table)
{
	check_eq(REAL_WITH(0x60, h_double, real_int, 20), 43);
}

BLOB16(h_flags, "pushf; pop %ax; shl $16, %eax; mov %sp, %bp; mov 4(%bp), %ax; iret");
BLOB16(real_flags, "sti; stc; int $0x60; cli; lret");
TEST(real, an_interrupt_pushes_flags_and_clears_if)
{
	uint32_t v;

	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	v = REAL_WITH(0x60, h_flags, real_flags, 0);
	check_eq(v >> 16 & 0x200, 0);
	check_eq(v & 0x201, 0x201);
}

/* The handler tells where it happened and what was pushed, and skips the instruction. */
BLOB16(h_skip2, "mov %sp, %bp; addw $2, (%bp); mov (%bp), %ax; shl $16, %eax; mov %bp, %ax; iret");
BLOB16(h_skip3, "mov %sp, %bp; addw $3, (%bp); mov (%bp), %ax; shl $16, %eax; mov %bp, %ax; iret");
BLOB16(real_div, "xor %cx, %cx; div %cx; lret");
TEST(real, a_divide_error_returns_to_the_instruction)
{
	uint32_t v = REAL_WITH(0, h_skip2, real_div, 0);

	check_eq(v >> 16, 0x604);
	check_eq(v & 0xffff, 0x6ff0 - 4 - 6); /* three words above the far call's two */
}

BLOB16(real_limit, "mov $0xffff, %bx; mov (%bx), %ax; lret");
TEST(real, a_word_at_the_segments_end_is_a_fault_without_error_code)
{
	uint32_t v = REAL_WITH(13, h_skip2, real_limit, 0);

	check_eq(v >> 16, 0x605);
	check_eq(v & 0xffff, 0x6ff0 - 4 - 6);
}

BLOB16(real_limit_ss, "mov $0xffff, %bp; mov (%bp), %bx; mov $0, %bp; lret");
TEST(real, the_stack_segments_end_is_a_stack_fault)
{
	uint32_t v = REAL_WITH(12, h_skip3, real_limit_ss, 0);

	check_eq(v >> 16, 0x606);
}

BLOB16(real_limit32, "mov $0x10000, %ebx; mov (%ebx), %al; lret");
TEST(real, a_32_bit_address_past_64_kib_faults)
{
	uint32_t v = REAL_WITH(13, h_skip3, real_limit32, 0);

	check_eq(v >> 16, 0x609);
}

BLOB16(real_ud, "str %ax; lret");
BLOB16(real_ud2, "lar %ax, %ax; lret");
BLOB16(real_ud3, "arpl %ax, %ax; lret");
TEST_REAL(real, protected_mode_instructions_are_undefined)
{
	check_eq(REAL_WITH(6, h_skip3, real_ud, 0) >> 16, 0x603);
	check_eq(REAL_WITH(6, h_skip3, real_ud2, 0) >> 16, 0x603);
	check_eq(REAL_WITH(6, h_skip2, real_ud3, 0) >> 16, 0x602);
}

BLOB16(real_idt, "lidt %cs:(1f - real_idt + 0x600); int $0x60; lidt %cs:(2f - real_idt + 0x600); "
		 "lret; 1: .word 0x17f; .long 0; 2: .word 0x3ff; .long 0");
TEST_REAL(real, int_n_past_the_tables_limit_is_a_general_protection_fault)
{
	uint32_t v = REAL_WITH(13, h_skip2, real_idt, 0);

	check_eq(v >> 16, 0x600 + 6 + 2);
}

BLOB16(real_prefix, "mov $0x12345678, %ebx; mov %ebx, %eax; bswap %eax; push %eax; pop %cx; pop "
		    "%dx; movzx %dx, %eax; shl $16, %eax; mov %cx, %ax; lea 4(%eax, %eax, 2), "
		    "%eax; lret");
TEST(real, operand_and_address_size_prefixes_work)
{
	uint32_t v = 0x78563412;

	check_eq(RUN_REAL(real_prefix, 0), v * 3 + 4);
}

BLOB16(real_lea16, "mov $0x12345678, %ebx; lea 0x7000(%bx), %eax; lret");
TEST(real, a_16_bit_address_wraps_before_it_is_used)
{
	check_eq(RUN_REAL(real_lea16, 0xffffffff), 0xc678);
}

BLOB16(real_wrap, "mov $0xfff0, %bx; mov 0x1020(%bx), %ax; lret");
TEST(real, an_effective_address_wraps_at_64_kib)
{
	*(volatile uint16_t *)0x1010 = 0x3c3c;
	check_eq(RUN_REAL(real_wrap, 0) & 0xffff, 0x3c3c);
}

BLOB16(real_sp, "mov %sp, %dx; xor %sp, %sp; push $0x4d4d; mov %sp, %ax; shl $16, %eax; pop %cx; "
		"mov %cx, %ax; mov %dx, %sp; lret");
TEST(real, the_stack_pointer_wraps)
{
	check_eq(RUN_REAL(real_sp, 0), 0xfffe4d4d);
}

BLOB16(real_hma, "mov $0xffff, %ax; mov %ax, %es; mov %es:0x10, %eax; lret");
TEST(real, segment_ffff_reaches_above_1_mib)
{
	check_eq(RUN_REAL(real_hma, 0), *(volatile uint32_t *)0x100000);
}

BLOB16(real_string, "mov $0xfffe, %si; mov $0x4000, %di; mov $4, %cx; rep movsb; mov %si, %ax; shl "
		    "$16, %eax; mov %di, %ax; lret");
TEST(real, a_string_of_bytes_wraps_its_index)
{
	*(volatile uint8_t *)0xfffe = 1;
	*(volatile uint8_t *)0xffff = 2;
	check_eq(RUN_REAL(real_string, 0), 0x00024004);
	check_eq(*(volatile uint16_t *)0x4000, 0x0201);
	check_eq(*(volatile uint16_t *)0x4002, *(volatile uint16_t *)0);
}

BLOB16(real_loop, "mov $0x10003, %ecx; xor %ax, %ax; 1: inc %ax; loop 1b; shl $16, %eax; 2: inc "
		  "%ax; .byte 0x67; loop 2b; mov %cx, %ax; lret");
TEST(real, loop_counts_in_cx_or_ecx_by_address_size)
{
	/* CX from 3; then ECX from 0x10000: 65536 rounds. */
	uint32_t v = RUN_REAL(real_loop, 0);

	check_eq(v >> 16, 3);
}

BLOB16(real_jcxz, "mov $0x10000, %ecx; jcxz 1f; mov $1, %ax; lret; 1: jecxz 2f; mov $2, %ax; lret; "
		  "2: mov $3, %ax; lret");
TEST(real, jcxz_looks_at_16_bits_and_jecxz_at_32)
{
	check_eq(RUN_REAL(real_jcxz, 0) & 0xffff, 2);
}

BLOB16(real_far, "push %cs; call 1f; jmp 2f; 1: lret $0; 2: mov $0x1234, %bx; lcall $0x60, $(3f - "
		 "real_far); lret; 3: mov %cs, %ax; lret");
TEST(real, far_calls_load_any_segment)
{
	check_eq(RUN_REAL(real_far, 0) & 0xffff, 0x60);
}

BLOB16(real_lds, "push %ds; pushl $0x56781234; mov %sp, %bp; lds (%bp), %bx; mov %ds, %ax; shl "
		 "$16, %eax; mov %bx, %ax; add $4, %sp; pop %ds; lret");
TEST(real, lds_loads_a_far_pointer)
{
	check_eq(RUN_REAL(real_lds, 0), 0x56781234);
}

BLOB16(real_popf, "pushf; pop %dx; push $0x7000; popf; pushf; pop %ax; push %dx; popf; lret");
TEST(real, popf_writes_iopl_and_nt)
{
	check_eq(RUN_REAL(real_popf, 0) & 0xf000, 0x7000); /* bit 15 reads as 0 */
}

BLOB16(real_msw, "smsw %ax; lret");
TEST(real, smsw_shows_real_mode)
{
	check_eq(RUN_REAL(real_msw, 0) & 1, 0);
}

/* Protected mode for a moment: DS keeps its 4 GiB limit back in real mode. */
BLOB16(real_big, "cli; lgdtl %cs:(3f - real_big + 0x600); mov %cr0, %eax; or $1, %al; mov %eax, "
		 "%cr0; jmp 1f; 1: mov $0x10, %bx; mov %bx, %ds; and $0xfe, %al; mov %eax, %cr0; "
		 "jmp 2f; 2: mov $0x100000, %ebx; mov (%ebx), %eax; xor %bx, %bx; mov %bx, "
		 "%ds; mov $0x100004, %ebx; add (%ebx), %eax; lret; 3: .word 0x3ff; .long "
		 "gdt");
TEST(real, a_segment_limit_from_protected_mode_stays)
{
	const volatile uint32_t *at = (const volatile uint32_t *)0x100000;

	check_eq(RUN_REAL(real_big, 0), at[0] + at[1]);
}

/* lmsw sets PE and cannot clear it. */
BLOB16(real_lmsw,
       "cli; lgdtl %cs:(3f - real_lmsw + 0x600); mov $1, %ax; lmsw %ax; xor %ax, %ax; "
       "lmsw %ax; smsw %ax; mov %ax, %bx; mov %cr0, %eax; and $0xfe, %al; mov %eax, %cr0; "
       "mov %bx, %ax; lret; 3: .word 0x3ff; .long gdt");
TEST(real, lmsw_enters_protected_mode_and_cannot_leave_it)
{
	check_eq(RUN_REAL(real_lmsw, 0) & 1, 1);
}

BLOB16(
    real_step,
    "xor %cx, %cx; pushf; pop %ax; or $0x100, %ax; push %ax; popf; nop; nop; pushf; pop %ax; and "
    "$0xfeff, %ax; push %ax; popf; movzx %cx, %eax; lret");
BLOB16(h_count, "inc %cx; iret");
TEST(real, single_step_traps_after_each_instruction)
{
	/* nop, nop, pushf, pop, and, push, and the POPF that clears TF */
	check_eq(REAL_WITH(1, h_count, real_step, 0), 7);
}

BLOB16(p16_sizes, "mov $0x1234, %ax; push %ax; pushl $0x55667788; pop %bx; pop %cx; pop %dx; movzx "
		  "%cx, %eax; shl $16, %eax; mov %bx, %ax; lretl");
TEST(code16, a_16_bit_segment_has_16_bit_defaults)
{
	check_eq(RUN_16(p16_sizes, 0), 0x55667788);
}

BLOB16(p16_near, "mov %esp, %ebx; call 1f; 1: sub %esp, %ebx; mov %ebx, %eax; add $2, %esp; lretl");
TEST(code16, a_near_call_pushes_a_word)
{
	check_eq(RUN_16(p16_near, 0), 2);
}

/* A 16-bit stack: SP alone moves, ESP's upper half stays. */
CODE(stack16, "mov %ss, %edx; mov %esp, %ecx; mov %eax, %ss; mov $0x12340000, %esp; push %eax; mov "
	      "%esp, %eax; mov %edx, %ss; mov %ecx, %esp; ret");
TEST(code16, a_16_bit_stack_wraps_and_keeps_the_upper_half)
{
	uint32_t sp = SEL_FREE;

	set_descriptor(SEL_FREE, descriptor(0x20000, 0xffff, 0x93, 0));
	__asm__ volatile("call stack16" : "+a"(sp) : : "ecx", "edx", "memory");
	check_eq(sp, 0x1234fffc);
	check_eq(*(volatile uint32_t *)0x2fffc, SEL_FREE);
}

BLOB16(p16_ip, "jmp 1f; 1: mov $2f - p16_ip + 0x600, %eax; or $0xabc00000, %eax; jmp *%ax; 2: mov "
	       "$9, %ax; lretl");
TEST(code16, a_16_bit_jump_clears_the_upper_half_of_eip)
{
	check_eq(RUN_16(p16_ip, 0) & 0xffff, 9);
}
