/* run_test.c: tests of the interpreter's core on a small board. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include "engine/soft/core.h"
#include "engine/soft/testcode.h"

/* A piece of guest code. */
#define LOAD(b, at, name) board_load(b, at, name, (size_t)(name##_end - name))

CODE(loop_code, "mov $1000, %ecx; xor %eax, %eax; 1: add %rcx, %rax; dec %ecx; jnz 1b; hlt");
static void a_loop_runs_and_counts_its_instructions(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, loop_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 500500);
	if (!b->cpu->trans) /* the translator does not count */
		assert_int_equal(b->cpu->stats.retired, 3 + 3 * 1000);
}

CODE(fault_code, "mov $0x20000, %ebx; mov %rax, (%rbx); hlt");
static void a_page_fault_tells_address_and_kind(void **state)
{
	static const struct {
		uint64_t pte;
		uint32_t error;
	} cases[] = {
	    {0, X86_PFERR_W},
	    {BOARD_DATA | X86_PTE_P, X86_PFERR_W | X86_PFERR_P},
	    {BOARD_DATA | X86_PTE_P | X86_PTE_W | BIT64(51),
	     X86_PFERR_W | X86_PFERR_P | X86_PFERR_RSVD},
	};
	struct board *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		board_pte_set(b, BOARD_DATA, cases[i].pte);
		assert_int_equal(RUN_LONG(b, fault_code), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, BOARD_DATA);
		assert_int_equal(board_stack(b, 0), cases[i].error);
		assert_int_equal(board_stack(b, 1), BOARD_CODE + 5);
	}
}

static void user_code_cannot_reach_kernel_pages(void **state)
{
	struct board *b = *state;

	LOAD(b, BOARD_CODE, fault_code);
	board_user(b, BOARD_CODE);
	board_pte_set(b, BOARD_DATA, BOARD_DATA | X86_PTE_P | X86_PTE_W);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(board_stack(b, 0), X86_PFERR_P | X86_PFERR_W | X86_PFERR_U);
	assert_int_equal(b->cpu->cpl, 0);
}

CODE(jump_code, "mov $0x20000, %eax; jmp *%rax");
static void code_in_a_no_execute_page_faults_at_its_fetch(void **state)
{
	struct board *b = *state;

	board_pte_set(b, BOARD_DATA, board_pte(b, BOARD_DATA) | X86_PTE_NX);
	assert_int_equal(RUN_LONG(b, jump_code), X86_VEC_PF);
	assert_int_equal(board_stack(b, 0), X86_PFERR_P | X86_PFERR_I);
	assert_int_equal(board_stack(b, 1), BOARD_DATA);
}

CODE(accessed_code, "mov 0x20000, %eax; mov %eax, 0x21000; hlt");
static void walks_set_accessed_and_dirty_bits(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, accessed_code), -1);
	assert_int_equal(board_pte(b, 0x20000) & (X86_PTE_A | X86_PTE_D), X86_PTE_A);
	assert_int_equal(board_pte(b, 0x21000) & (X86_PTE_A | X86_PTE_D), X86_PTE_A | X86_PTE_D);
	assert_true(board_read(b, BOARD_PML4, 8) & X86_PTE_A);
}

CODE(cross_code, "mov $-1, %rax; mov %rax, 0x20ffc; hlt");
static void a_store_across_pages_faults_before_it_writes(void **state)
{
	struct board *b = *state;

	board_pte_set(b, 0x21000, 0);
	assert_int_equal(RUN_LONG(b, cross_code), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, 0x21000);
	assert_int_equal(board_read(b, 0x20ffc, 4), 0);
	board_pte_set(b, 0x21000, 0x21003);
	assert_int_equal(RUN_LONG(b, cross_code), -1);
	assert_int_equal(board_read(b, 0x20ffc, 8), UINT64_MAX);
}

CODE(rep_code, "mov $0x20000, %esi; mov $0x30ff0, %edi; mov $0x40, %ecx; rep movsb; hlt");
static void a_fault_within_rep_leaves_exact_registers(void **state)
{
	struct board *b = *state;

	for (unsigned i = 0; i < 0x40; i++)
		board_write(b, 0x20000 + i, 1, i + 1);
	board_pte_set(b, 0x31000, 0);
	assert_int_equal(RUN_LONG(b, rep_code), X86_VEC_PF);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 0x30);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 0x20010);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], 0x31000);
	assert_int_equal(board_stack(b, 1), BOARD_CODE + 15);
	assert_int_equal(board_read(b, 0x30fff, 1), 0x10);
}

CODE(overlap_code, "mov $0x20000, %esi; mov $0x20001, %edi; mov $0x20, %ecx; rep movsb; hlt");
static void rep_movs_onto_itself_repeats_the_pattern(void **state)
{
	struct board *b = *state;

	board_write(b, 0x20000, 8, 0x5a);
	assert_int_equal(RUN_LONG(b, overlap_code), -1);
	for (unsigned i = 0; i <= 0x20; i++)
		assert_int_equal(board_read(b, 0x20000 + i, 1), 0x5a);
}

CODE(self_code, "movb $0x42, 1f+1(%rip); nop; 1: mov $0x11, %al; hlt");
static void code_that_changes_itself_runs_as_changed(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, self_code), -1);
	assert_int_equal((uint8_t)b->cpu->s.gpr[X86_RAX], 0x42);
}

CODE(data_beside_code,
     "mov $100, %ecx; 1: mov %rcx, 0x8800; add 0x8800, %rax; dec %ecx; jnz 1b; hlt");
static void data_beside_code_does_not_invalidate_it(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, data_beside_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 5050);
	assert_int_equal(b->cpu->stats.invalidations, 0);
}

CODE(one_code, "mov $1, %eax; hlt");
CODE(two_code, "mov $2, %eax; hlt");
static void code_written_by_a_device_is_seen(void **state)
{
	struct board *b = *state;
	int rc;

	assert_int_equal(RUN_LONG(b, one_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 1);
	rc = gmem_write(b->mem, gpa(BOARD_CODE), two_code, (size_t)(two_code_end - two_code));
	assert_int_equal(rc, 0);
	assert_true(atomic_load(&b->cpu->base.link.events) & CPU_EVENT_ENGINE);
	board_long(b, BOARD_CODE);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 2);
}

/* Goes on as a running CPU does: nothing is dropped but by the engine's own doing. */
static void run_again(struct board *b)
{
	b->cpu->s.activity = X86_RUNNING;
	b->cpu->s.rip = BOARD_CODE;
	assert_int_equal(board_run(b), -1);
}

CODE(store_code, "mov $0xf000000, %ebx; incl %ecx; mov %ecx, (%rbx); hlt");
static void memory_that_becomes_read_only_or_writable_is_so_at_once(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, store_code), -1);
	uint64_t first = board_read(b, BOARD_ROM, 4);
	run_again(b);
	assert_int_equal(board_read(b, BOARD_ROM, 4), first);
	assert_int_equal(gmem_protect(b->mem, gpa(BOARD_ROM), 0), 0);
	run_again(b);
	assert_int_equal(board_read(b, BOARD_ROM, 4), (uint32_t)b->cpu->s.gpr[X86_RCX]);
	assert_int_equal(gmem_protect(b->mem, gpa(BOARD_ROM), GMEM_READONLY), 0);
	run_again(b);
	assert_int_equal(board_read(b, BOARD_ROM, 4), (uint32_t)b->cpu->s.gpr[X86_RCX] - 1);
}

static void an_instruction_across_pages_follows_its_second_page(void **state)
{
	struct board *b = *state;

	/* The immediate's upper bytes lie in the second page. */
	LOAD(b, 0x20ffd, one_code);
	board_long(b, 0x20ffd);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 1);
	board_write(b, 0x21000, 1, 0xab);
	board_long(b, 0x20ffd);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 0xab0001);
	board_pte_set(b, 0x21000, 0);
	board_long(b, 0x20ffd);
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, 0x21000);
	assert_int_equal(board_stack(b, 1), 0x20ffd);
}

CODE(invlpg_code, "mov 0x20000, %eax; movq $0x22003, 0x103100; mov 0x20000, %ebx; invlpg 0x20000;"
		  "mov 0x20000, %ecx; hlt");
static void invlpg_makes_a_changed_entry_seen(void **state)
{
	struct board *b = *state;

	board_write(b, 0x20000, 4, 1);
	board_write(b, 0x22000, 4, 2);
	assert_int_equal(RUN_LONG(b, invlpg_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 1);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 2);
}

/* Two pages of code, one after the other at the same address. */
CODE(invlpg_jump_code,
     "mov $0x23000, %ebx; call *%rbx; call *%rbx; movq $0x22003, 0x103118; invlpg 0x23000;"
     "call *%rbx; hlt");
static void invlpg_makes_code_be_looked_up_anew(void **state)
{
	struct board *b = *state;

	board_write(b, 0x22000, 4, 0xc306c683); /* add $6, %esi; ret */
	board_write(b, 0x23000, 4, 0xc301c683);
	b->cpu->s.gpr[X86_RSI] = 0;
	assert_int_equal(RUN_LONG(b, invlpg_jump_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 8);
}

/* Ring 0 with SMAP and global pages: a page that is not global, as data and as code, when CR3 is
 * loaded; a global one beside it. */
CODE(cr3_code, "mov $0x23000, %ebx; call *%rbx; call *%rbx; mov 0x24000, %eax; mov 0x25000, %edx;"
	       "movq $0x22003, 0x103118; movq $0x26003, 0x103120; mov %cr3, %rcx; mov %rcx, %cr3;"
	       "call *%rbx; mov 0x24000, %edi; mov 0x25000, %ebp; hlt");
static void a_load_of_cr3_drops_what_is_not_global(void **state)
{
	struct board *b = *state;

	board_load(b, BOARD_CODE, cr3_code, (size_t)(cr3_code_end - cr3_code));
	board_long(b, BOARD_CODE);
	for (unsigned lin = 0; lin < 0x400000; lin += 0x1000)
		board_pte_set(b, lin, board_pte(b, lin) | (lin - 0x23000 < 0x2000 ? 0 : X86_PTE_G));
	board_write(b, 0x22000, 4, 0xc306c683); /* add $6, %esi; ret */
	board_write(b, 0x23000, 4, 0xc301c683);
	board_write(b, 0x24000, 4, 11);
	board_write(b, 0x25000, 4, 12);
	board_write(b, 0x26000, 4, 13);
	b->cpu->s.gpr[X86_RSI] = 0;
	b->cpu->s.cr4 |= X86_CR4_SMAP | X86_CR4_PGE;
	soft_mode_update(b->cpu);
	assert_int_not_equal(b->cpu->asid_kernel, b->cpu->asid_user);
	uint64_t kernel = b->cpu->asid_kernel;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 8);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 11);
	assert_int_equal(b->cpu->s.gpr[X86_RDI], 13);
	assert_int_equal(b->cpu->s.gpr[X86_RBP], 12);
	assert_int_equal(b->cpu->asid_kernel, kernel);
}

/* More such pages than are remembered one by one. */
CODE_BITS(cr3_many_code, 64,
	  "mov $0x30000, %ebx; 1: mov (%rbx), %eax; add $0x1000, %ebx; dec %esi; jnz 1b;"
	  "movq $0x26003, 0x103180; mov %cr3, %rcx; mov %rcx, %cr3; mov 0x30000, %edi; hlt");
static void many_local_pages_are_dropped_by_a_new_id(void **state)
{
	struct board *b = *state;

	/* As many as a kernel uses between two changes of address space; more. */
	for (unsigned pages = 20; pages <= 80; pages += 60) {
		board_load(b, BOARD_CODE, cr3_many_code,
			   (size_t)(cr3_many_code_end - cr3_many_code));
		board_long(b, BOARD_CODE);
		board_pte_set(b, 0x30000, 0x30003);
		board_write(b, 0x26000, 4, 13);
		b->cpu->s.gpr[X86_RSI] = pages;
		b->cpu->s.cr4 |= X86_CR4_SMAP | X86_CR4_PGE;
		soft_mode_update(b->cpu);
		soft_tlb_flush_all(b->cpu);
		uint64_t kernel = b->cpu->asid_kernel;
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RDI], 13);
		if (!b->cpu->lockstep) /* which loads CR3 itself, to take back what it has walked */
			assert_int_equal(b->cpu->asid_kernel == kernel, pages == 20);
	}
}

CODE(invlpg_large_code,
     "mov 0x456000, %eax; mov 0x457000, %edx; movq $0x600083, 0x102010; invlpg 0x410000;"
     "mov 0x456000, %ebx; mov 0x457000, %ecx; hlt");
static void invlpg_drops_all_pieces_of_a_large_page(void **state)
{
	struct board *b = *state;

	board_write(b, 0x656000, 4, 3);
	board_write(b, 0x657000, 4, 4);
	assert_int_equal(RUN_LONG(b, invlpg_large_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 0);
	assert_int_equal(b->cpu->s.gpr[X86_RBX], 3);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 4);
}

CODE_BITS(limit_code, 32, "mov %eax, 0x20000; hlt");
static void a_segment_limit_is_kept_to_the_byte(void **state)
{
	struct board *b = *state;

	LOAD(b, BOARD_CODE, limit_code);
	for (unsigned limit = 0x20002; limit <= 0x20003; limit++) {
		board_prot(b, BOARD_CODE);
		b->cpu->s.seg[X86_DS].limit = limit;
		soft_mode_update(b->cpu);
		assert_int_equal(board_run(b), limit == 0x20003 ? -1 : X86_VEC_GP);
	}
	/* Expand-down: valid above the limit only. */
	b->cpu->s.seg[X86_DS].attr |= 4;
	for (unsigned limit = 0x1ffff; limit <= 0x20000; limit++) {
		board_prot(b, BOARD_CODE);
		b->cpu->s.seg[X86_DS].attr |= 4;
		b->cpu->s.seg[X86_DS].limit = limit;
		soft_mode_update(b->cpu);
		assert_int_equal(board_run(b), limit == 0x1ffff ? -1 : X86_VEC_GP);
	}
}

CODE_BITS(wrap_code, 32, "mov $0xffffffff, %ebx; mov 0x20001(%ebx), %eax; hlt");
static void linear_addresses_wrap_at_4_gib_outside_64_bit_mode(void **state)
{
	struct board *b = *state;

	board_write(b, 0x20000, 4, 0x1234);
	LOAD(b, BOARD_CODE, wrap_code);
	board_prot(b, BOARD_CODE);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 0x1234);
}

CODE_BITS(
    real_code, 16,
    "mov $0x2000, %ax; mov %ax, %ds; movw $0x1234, 0x10; push %ds; pop %es; mov %es:0x10, %bx; "
    "hlt");
static void real_mode_addresses_by_segments(void **state)
{
	struct board *b = *state;

	LOAD(b, BOARD_CODE, real_code);
	board_real(b, BOARD_CODE);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(board_read(b, 0x20010, 2), 0x1234);
	assert_int_equal(b->cpu->s.gpr[X86_RBX] & 0xffff, 0x1234);
}

CODE(div_code, "mov $1, %edx; mov $1, %ecx; xor %eax, %eax; div %ecx; hlt");
CODE(idiv_code, "mov $0x80000000, %eax; cltd; mov $-1, %ecx; idiv %ecx; hlt");
CODE(idiv_ok_code, "mov $0x80000000, %eax; cltd; mov $1, %ecx; idiv %ecx; hlt");
static void a_quotient_that_does_not_fit_is_a_divide_error(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, div_code), X86_VEC_DE);
	assert_int_equal(RUN_LONG(b, idiv_code), X86_VEC_DE);
	assert_int_equal(RUN_LONG(b, idiv_ok_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 0x80000000);
}

CODE(mmio_code, "mov $0xe000000, %ebx; mov 4(%rbx), %eax; mov 8(%rbx), %rcx; movw $0x55, 2(%rbx);"
		"lock addl $1, 16(%rbx); hlt");
static void devices_are_reached_with_the_instructions_size(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, mmio_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 0x44332211);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 0x8877665544332211);
	assert_int_equal(board_access(b)->count, 5);
	assert_int_equal(board_access(b)->value, 0x44332212);
	assert_int_equal(board_access(b)->size, 4);
	assert_true(board_access(b)->write);
}

CODE(rom_code, "movl $5, 0xf000000; mov 0xf000000, %eax; lock incl 0xf000000; hlt");
static void writes_to_rom_are_dropped(void **state)
{
	struct board *b = *state;

	board_write(b, BOARD_ROM, 4, 0x77);
	assert_int_equal(RUN_LONG(b, rom_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 0x77);
	assert_int_equal(board_read(b, BOARD_ROM, 4), 0x77);
}

CODE(split_code, "lock addq $1, 0x20ffc; lock xaddl %eax, 0x20ffe; hlt");
static void a_locked_operand_may_lie_in_two_distant_frames(void **state)
{
	struct board *b = *state;

	board_pte_set(b, 0x21000, 0x35003);
	board_write(b, 0x20ffc, 4, UINT32_MAX);
	board_write(b, 0x35000, 4, 7);
	assert_int_equal(RUN_LONG(b, split_code), -1);
	assert_int_equal(board_read(b, 0x20ffc, 4), 0);
	assert_int_equal(board_read(b, 0x35000, 4), 8);
	assert_int_equal(board_read(b, 0x21000, 4), 0);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 8 << 16);
}

CODE(step_code, "pushf; orl $0x100, (%rsp); popf; nop; inc %eax; hlt");
static void single_step_traps_after_the_next_instruction(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, step_code), X86_VEC_DB);
	assert_int_equal(board_stack(b, 0), BOARD_CODE + 10);
	assert_true(b->cpu->s.dr6 & X86_DR6_BS);
	assert_true(board_stack(b, 2) & X86_TF);
}

CODE(watch_code, "mov $0x20004, %eax; mov %rax, %dr0; mov $0xd0001, %eax; mov %rax, %dr7;"
		 "mov 0x20004, %eax; movb $1, 0x20008; movb $1, 0x20007; nop; hlt");
static void a_data_breakpoint_traps_after_the_store(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, watch_code), X86_VEC_DB);
	assert_int_equal(b->cpu->s.dr6 & 15, 1);
	assert_int_equal(board_stack(b, 0), BOARD_CODE + 16 + 7 + 8 + 8);
	assert_int_equal(board_read(b, 0x20007, 1), 1);
}

CODE(breakpoint_code, "nop; nop; inc %eax; hlt");
static void an_instruction_breakpoint_faults_before_it_and_rf_passes_it(void **state)
{
	struct board *b = *state;

	LOAD(b, BOARD_CODE, breakpoint_code);
	board_long(b, BOARD_CODE);
	b->cpu->s.dr[0] = BOARD_CODE + 2;
	b->cpu->s.dr7 = 0x401;
	soft_mode_update(b->cpu);
	assert_int_equal(board_run(b), X86_VEC_DB);
	assert_int_equal(board_stack(b, 0), BOARD_CODE + 2);
	assert_false(board_stack(b, 2) & X86_RF);
	board_long(b, BOARD_CODE + 2);
	b->cpu->s.dr[0] = BOARD_CODE + 2;
	b->cpu->s.dr7 = 0x401;
	b->cpu->s.rflags |= X86_RF;
	soft_mode_update(b->cpu);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 1);
	assert_false(b->cpu->s.rflags & X86_RF);
}

CODE(sti_code, "xor %eax, %eax; sti; inc %eax; inc %eax; hlt");
static void sti_holds_interrupts_off_for_one_instruction(void **state)
{
	struct board *b = *state;

	b->pending_vector = 0x50;
	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_INTR);
	assert_int_equal(RUN_LONG(b, sti_code), 0x50);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 1);
	assert_int_equal(board_stack(b, 0), BOARD_CODE + 5);
}

CODE(sti_cli_code, "mov $100, %ecx; 1: sti; nop; cli; dec %ecx; jnz 1b; hlt");
static void a_window_of_one_instruction_is_enough_for_an_interrupt(void **state)
{
	struct board *b = *state;

	b->pending_vector = 0x50;
	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_INTR);
	assert_int_equal(RUN_LONG(b, sti_cli_code), 0x50);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 100);
	assert_int_equal(board_stack(b, 0), BOARD_CODE + 5 + 2);
}

static void an_event_that_cannot_be_taken_does_not_stop_the_guest(void **state)
{
	struct board *b = *state;

	b->pending_vector = 0x50;
	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_INTR);
	assert_int_equal(RUN_LONG(b, loop_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 500500);
	assert_int_equal(b->pending_vector, 0x50);
}

static void a_kick_leaves_guest_code(void **state)
{
	static const uint8_t forever[] = {0xeb, 0xfe};
	struct board *b = *state;

	board_load(b, BOARD_CODE, forever, 2);
	board_long(b, BOARD_CODE);
	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_KICK);
	assert_int_equal(engine_soft.run(&b->cpu->base), RUN_KICKED);
	assert_int_equal(b->cpu->s.rip, BOARD_CODE);
	cpu_link_clear(&b->cpu->base.link, CPU_EVENT_KICK);
}

CODE_BITS(sipi_code, 16, "mov $0x77, %ax; hlt");
static void init_waits_and_sipi_starts(void **state)
{
	struct board *b = *state;

	LOAD(b, 0x9000, sipi_code);
	board_long(b, BOARD_CODE);
	b->cpu->base.index = 1; /* the first CPU would start by itself */
	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_INIT);
	assert_int_equal(engine_soft.run(&b->cpu->base), RUN_HALTED);
	b->cpu->base.index = 0;
	assert_int_equal(b->cpu->s.activity, X86_WAIT_SIPI);
	assert_false(engine_soft.runnable(&b->cpu->base));
	atomic_store(&b->cpu->base.link.sipi_vector, 9);
	cpu_link_raise(&b->cpu->base.link, CPU_EVENT_SIPI);
	assert_true(engine_soft.runnable(&b->cpu->base));
	assert_int_equal(engine_soft.run(&b->cpu->base), RUN_HALTED);
	assert_int_equal(b->cpu->s.seg[X86_CS].base, 0x9000);
	assert_int_equal(b->cpu->s.gpr[X86_RAX] & 0xffff, 0x77);
}

static void too_long_and_wrongly_locked_instructions_fault(void **state)
{
	static const uint8_t prefixes[] = {0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e,
					   0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x90};
	static const uint8_t locked[] = {0xf0, 0x89, 0x00}; /* lock mov */
	static const uint8_t locked_reg[] = {0xf0, 0x01, 0xc0};
	/* map 10 with SIB, displacement and immediate: 16 bytes after two prefixes */
	static const uint8_t xop[] = {0x2e, 0x2e, 0x8f, 0x4a, 0xb6, 0xec, 0x94, 0x24,
				      1,    2,	  3,	4,    5,    6,	  7,	8};
	static const uint8_t rex_lost[] = {0x48, 0x66, 0xb8, 0x34, 0x12, 0xf4};
	struct board *b = *state;

	assert_int_equal(board_run_long(b, prefixes, prefixes + sizeof(prefixes)), X86_VEC_GP);
	assert_int_equal(board_run_long(b, locked, locked + sizeof(locked)), X86_VEC_UD);
	assert_int_equal(board_run_long(b, locked_reg, locked_reg + sizeof(locked_reg)),
			 X86_VEC_UD);
	assert_int_equal(board_run_long(b, xop, xop + sizeof(xop)),
			 b->cpuid.amd ? X86_VEC_GP : X86_VEC_UD);
	assert_int_equal(board_run_long(b, xop + 1, xop + sizeof(xop)), X86_VEC_UD);
	assert_int_equal(board_run_long(b, rex_lost, rex_lost + sizeof(rex_lost)), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX] & 0xffff, 0x1234);
}

CODE(write_code, "movl $1, 0x20000; movl $1, 0x40000; movl $2, 0x40004; hlt");
static void the_dirty_log_hears_of_guest_stores(void **state)
{
	struct board *b = *state;
	uint64_t bits[BOARD_RAM / 4096 / 64];

	assert_int_equal(RUN_LONG(b, write_code), -1);
	assert_int_equal(gmem_log_start(b->mem), 0);
	engine_soft.dirty_log(b->engine, 1);
	for (unsigned round = 0; round < 2; round++) {
		board_long(b, BOARD_CODE);
		assert_int_equal(board_run(b), -1);
		engine_soft.dirty_sync(b->engine);
		memset(bits, 0, sizeof(bits));
		gmem_log_harvest(b->mem, 0, bits);
		assert_true(bits[0] & BIT64(0x20));
		assert_true(bits[1] & BIT64(0));
		assert_false(bits[0] & BIT64(0x21));
	}
	engine_soft.dirty_log(b->engine, 0);
	gmem_log_stop(b->mem);
}

CODE(port_code, "mov $0x104, %edx; in %dx, %ax; mov $0xab, %al; out %al, $0x80; mov $0x20000, %edi;"
		"mov $3, %ecx; rep insb; hlt");
static void ports_are_reached_alone_and_by_strings(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, port_code), -1);
	assert_int_equal(board_access(b)->count, 4);
	assert_int_equal(board_read(b, 0x20000, 4), 0x111111);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], 0);
}

static void cpuid_hide(struct board *b, uint32_t leaf, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	for (unsigned i = 0; i < b->cpuid.count; i++) {
		struct cpuid_leaf *l = &b->cpuid.leaf[i];
		if (l->leaf != leaf || l->subleaf)
			continue;
		l->ebx &= ~ebx;
		l->ecx &= ~ecx;
		l->edx &= ~edx;
	}
}

/* The host may be without them as well, and then has better not to be asked. */
static void what_cpuid_does_not_have_is_undefined(void **state)
{
	static const uint8_t codes[][6] = {
	    {0x0f, 0xc7, 0xf0},		    /* rdrand eax */
	    {0x0f, 0xc7, 0xf8},		    /* rdseed eax */
	    {0xf3, 0x0f, 0xb8, 0xc0},	    /* popcnt eax, eax */
	    {0x48, 0x0f, 0xc7, 0x0f},	    /* cmpxchg16b [rdi] */
	    {0xf3, 0x0f, 0xc7, 0xf8},	    /* rdpid rax */
	    {0x66, 0x0f, 0xae, 0x3f},	    /* clflushopt [rdi] */
	    {0x66, 0x0f, 0xae, 0x37},	    /* clwb [rdi] */
	    {0x0f, 0x01, 0xf9},		    /* rdtscp */
	    {0x66, 0x0f, 0x38, 0x82, 0x07}, /* invpcid rax, [rdi] */
	    {0x0f, 0x38, 0xf0, 0x07},	    /* movbe eax, [rdi] */
	    {0x66, 0x0f, 0x38, 0xf6, 0xc1}, /* adcx eax, ecx */
	    {0xc4, 0xe2, 0x70, 0xf2, 0xc2}, /* andn eax, ecx, edx */
	    {0xc4, 0xe2, 0x73, 0xf7, 0xc2}, /* shrx eax, edx, ecx */
	};
	struct board *b = *state;

	cpuid_hide(b, 1, 0, BIT32(13) | BIT32(22) | BIT32(23) | BIT32(30), 0);
	cpuid_hide(b, 7,
		   BIT32(3) | BIT32(8) | BIT32(10) | BIT32(18) | BIT32(19) | BIT32(23) | BIT32(24),
		   BIT32(22), 0);
	cpuid_hide(b, 0x80000001, 0, 0, BIT32(27));
	for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
		board_load(b, BOARD_CODE + i * 16, codes[i], sizeof(codes[i]));
		board_long(b, BOARD_CODE + i * 16);
		b->cpu->s.gpr[X86_RDI] = BOARD_DATA;
		assert_int_equal(board_run(b), X86_VEC_UD);
		assert_int_equal(board_stack(b, 0), BOARD_CODE + i * 16);
	}
}

CODE(port_watch_code, "mov $0x106, %edx; in %dx, %al; inc %edx; in %dx, %al; nop; hlt");
static void a_port_breakpoint_traps_after_the_access(void **state)
{
	struct board *b = *state;

	LOAD(b, BOARD_CODE, port_watch_code);
	board_long(b, BOARD_CODE);
	b->cpu->s.dr[1] = 0x107;
	b->cpu->s.dr7 = 0x200404;
	b->cpu->s.cr4 |= X86_CR4_DE;
	soft_mode_update(b->cpu);
	assert_int_equal(board_run(b), X86_VEC_DB);
	assert_int_equal(b->cpu->s.dr6 & 15, 2);
	assert_int_equal(board_stack(b, 0), BOARD_CODE + 9);
}

CODE(canonical_code, "mov $0x8000000000000000, %rbx; mov (%rbx), %eax; hlt");
CODE(canonical_stack_code, "mov $0x8000000000000000, %rbp; mov (%rbp), %eax; hlt");
static void an_address_that_is_not_canonical_faults_by_its_segment(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, canonical_code), X86_VEC_GP);
	assert_int_equal(RUN_LONG(b, canonical_stack_code), X86_VEC_SS);
}

static void a_fault_without_handlers_shuts_the_cpu_down(void **state)
{
	struct board *b = *state;

	LOAD(b, BOARD_CODE, canonical_code);
	board_long(b, BOARD_CODE);
	b->cpu->s.idt.limit = 0;
	assert_int_equal(board_run(b), -2);
	assert_int_equal(b->cpu->s.activity, X86_SHUTDOWN);
}

static void state_comes_back_as_it_was_set(void **state)
{
	struct board *b = *state;
	struct x86_state in, out;

	board_long(b, BOARD_CODE);
	engine_soft.get_state(&b->cpu->base, &in);
	in.rflags |= X86_CF | X86_OF | X86_ZF;
	in.gpr[X86_R15] = 0x1234;
	in.tsc = 999;
	assert_int_equal(engine_soft.set_state(&b->cpu->base, &in), 0);
	assert_int_equal(engine_soft.get_state(&b->cpu->base, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
}

CODE_BITS(high_base_code, 32, "mov %fs:0x20000, %eax; in $0x80, %al; hlt");
static void bases_left_over_from_long_mode_do_not_matter(void **state)
{
	struct board *b = *state;
	struct x86_state s;

	board_write(b, BOARD_DATA, 4, 0x11223344);
	LOAD(b, BOARD_CODE, high_base_code);
	board_prot(b, BOARD_CODE);
	assert_int_equal(engine_soft.get_state(&b->cpu->base, &s), 0);
	s.seg[X86_FS].base = BIT64(32);
	s.tr.base = UINT64_C(0xfffffe0000000000) | BOARD_TSS;
	assert_int_equal(x86_state_check(&s, NULL), 0);
	assert_int_equal(engine_soft.set_state(&b->cpu->base, &s), 0);
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX] >> 8, 0x112233);
}

static void a_state_whose_rip_is_not_canonical_faults_there(void **state)
{
	struct board *b = *state;
	struct x86_state s;

	board_long(b, BOARD_CODE);
	assert_int_equal(engine_soft.get_state(&b->cpu->base, &s), 0);
	s.rip = BIT64(50);
	assert_int_equal(x86_state_check(&s, NULL), 0);
	assert_int_equal(engine_soft.set_state(&b->cpu->base, &s), 0);
	assert_int_equal(board_run(b), X86_VEC_GP);
	assert_int_equal(board_stack(b, 1), BIT64(50));
}

static void a_state_whose_xcr0_the_guest_cannot_have_is_refused(void **state)
{
	struct board *b = *state;
	struct x86_state in, before, out;

	board_long(b, BOARD_CODE);
	engine_soft.get_state(&b->cpu->base, &before);
	for (unsigned bit = 0; bit < 64; bit++) {
		in = before;
		in.xcr0 |= BIT64(bit);
		in.gpr[X86_RAX] = 0x5a;
		_Bool allowed = !!(b->cpuid.xcr0_allowed & BIT64(bit));
		assert_int_equal(engine_soft.set_state(&b->cpu->base, &in), allowed ? 0 : -EINVAL);
		engine_soft.get_state(&b->cpu->base, &out);
		assert_int_equal(out.xcr0, allowed ? in.xcr0 : before.xcr0);
		assert_int_equal(out.gpr[X86_RAX], allowed ? 0x5a : before.gpr[X86_RAX]);
		assert_int_equal(engine_soft.set_state(&b->cpu->base, &before), 0);
	}
}

static void the_tsc_follows_a_manual_clock(void **state)
{
	struct board *b = *state;
	uint64_t before;

	board_long(b, BOARD_CODE);
	before = soft_tsc(b->cpu);
	assert_int_equal(soft_tsc(b->cpu), before);
	clock_advance(b->clock, 1000000);
	assert_int_equal(soft_tsc(b->cpu) - before, soft_tsc_khz());
}

CODE(smap_code, "mov 0x20000, %eax; hlt");
static void smap_and_ac_decide_over_user_pages(void **state)
{
	struct board *b = *state;

	LOAD(b, BOARD_CODE, smap_code);
	for (unsigned ac = 0; ac < 2; ac++) {
		board_long(b, BOARD_CODE);
		board_pte_set(b, BOARD_DATA, BOARD_DATA | 7);
		b->cpu->s.cr4 |= X86_CR4_SMAP;
		b->cpu->s.rflags |= ac ? X86_AC : 0;
		soft_mode_update(b->cpu);
		assert_int_equal(board_run(b), ac ? -1 : X86_VEC_PF);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(a_loop_runs_and_counts_its_instructions),
	    T(a_page_fault_tells_address_and_kind),
	    T(user_code_cannot_reach_kernel_pages),
	    T(code_in_a_no_execute_page_faults_at_its_fetch),
	    T(walks_set_accessed_and_dirty_bits),
	    T(a_store_across_pages_faults_before_it_writes),
	    T(a_fault_within_rep_leaves_exact_registers),
	    T(rep_movs_onto_itself_repeats_the_pattern),
	    T(code_that_changes_itself_runs_as_changed),
	    T(data_beside_code_does_not_invalidate_it),
	    T(code_written_by_a_device_is_seen),
	    T(memory_that_becomes_read_only_or_writable_is_so_at_once),
	    T(an_instruction_across_pages_follows_its_second_page),
	    T(invlpg_makes_a_changed_entry_seen),
	    T(invlpg_makes_code_be_looked_up_anew),
	    T(a_load_of_cr3_drops_what_is_not_global),
	    T(many_local_pages_are_dropped_by_a_new_id),
	    T(invlpg_drops_all_pieces_of_a_large_page),
	    T(a_segment_limit_is_kept_to_the_byte),
	    T(linear_addresses_wrap_at_4_gib_outside_64_bit_mode),
	    T(real_mode_addresses_by_segments),
	    T(a_quotient_that_does_not_fit_is_a_divide_error),
	    T(devices_are_reached_with_the_instructions_size),
	    T(writes_to_rom_are_dropped),
	    T(a_locked_operand_may_lie_in_two_distant_frames),
	    T(single_step_traps_after_the_next_instruction),
	    T(a_data_breakpoint_traps_after_the_store),
	    T(an_instruction_breakpoint_faults_before_it_and_rf_passes_it),
	    T(sti_holds_interrupts_off_for_one_instruction),
	    T(a_window_of_one_instruction_is_enough_for_an_interrupt),
	    T(an_event_that_cannot_be_taken_does_not_stop_the_guest),
	    T(a_kick_leaves_guest_code),
	    T(init_waits_and_sipi_starts),
	    T(too_long_and_wrongly_locked_instructions_fault),
	    T(the_dirty_log_hears_of_guest_stores),
	    T(ports_are_reached_alone_and_by_strings),
	    T(what_cpuid_does_not_have_is_undefined),
	    T(a_port_breakpoint_traps_after_the_access),
	    T(an_address_that_is_not_canonical_faults_by_its_segment),
	    T(a_fault_without_handlers_shuts_the_cpu_down),
	    T(state_comes_back_as_it_was_set),
	    T(bases_left_over_from_long_mode_do_not_matter),
	    T(a_state_whose_rip_is_not_canonical_faults_there),
	    T(a_state_whose_xcr0_the_guest_cannot_have_is_refused),
	    T(the_tsc_follows_a_manual_clock),
	    T(smap_and_ac_decide_over_user_pages),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
