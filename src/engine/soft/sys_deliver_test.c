/* sys_deliver_test.c: events and returns in every mode: stacks, error codes, double faults. */
#include "engine/soft/sys_test.h"

GUEST_CODE(real_int, 16, "int $0x21\n hlt");
GUEST_CODE(real_divide, 16, "xor %cx, %cx\n div %cx\n hlt");
GUEST_CODE(real_iret, 16,
	   "pushw $0x0246\n pushw $0x1000\n pushw $1f-real_iret\n iretw\n hlt\n"
	   "1: pushfw\n hlt");

static void real_mode_interrupts_push_three_words(void **state)
{
	struct fixture *f = *state;

	fixture_real(f);
	f->s.rflags |= X86_IF;
	assert_int_equal(RUN(f, real_int), RUN_HALTED);
	assert_int_equal(f->vector, 0x21);
	assert_int_equal(f->s.gpr[X86_RSP], STACK - 6);
	assert_int_equal(stacked(f, 0, 2), 2);
	assert_int_equal(stacked(f, 1, 2), CODE >> 4);
	assert_int_equal(stacked(f, 2, 2), X86_IF | X86_FIXED);
	assert_int_equal(f->s.rflags & X86_IF, 0);
	fixture_real(f);
	RUN(f, real_divide);
	assert_int_equal(f->vector, X86_VEC_DE);
	assert_int_equal(stacked(f, 0, 2), 2);
	fixture_real(f);
	RUN(f, real_iret);
	assert_int_equal(f->vector, -1);
	assert_int_equal(stacked(f, 0, 2), 0x0246);
}

static void a_real_mode_vector_outside_of_the_table_ends_in_shutdown(void **state)
{
	struct fixture *f = *state;

	fixture_real(f);
	f->s.idt.limit = 4 * 8 - 1; /* neither the vector, nor #GP, nor #DF */
	assert_int_equal(RUN(f, real_int), RUN_SHUTDOWN);
	fixture_real(f);
	f->s.idt.limit = 4 * 9 - 1; /* #DF has room */
	assert_int_equal(RUN(f, real_int), RUN_HALTED);
	assert_int_equal(f->vector, X86_VEC_DF);
}

GUEST_CODE(unreal, 16,
	   "lgdtl 0x700\n mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n mov $0x10, %bx\n"
	   "mov %bx, %ds\n and $0xfe, %al\n mov %eax, %cr0\n xor %bx, %bx\n mov %bx, %ds\n"
	   ".byte 0x67, 0xc6, 0x05, 0, 0, 0x20, 0, 0x5a\n hlt");

static void limits_survive_the_way_back_to_real_mode(void **state)
{
	struct fixture *f = *state;

	fixture_real(f);
	fixture_tables(f, 0);
	put(f, 0x700, GDT_LIMIT, 2);
	put(f, 0x702, GDT, 4);
	assert_int_equal(RUN(f, unreal), RUN_HALTED);
	assert_int_equal(f->vector, -1);
	assert_int_equal(get(f, 0x200000, 1), 0x5a);
	assert_int_equal(f->s.seg[X86_DS].limit, UINT32_MAX);
	assert_int_equal(f->s.seg[X86_DS].selector, 0);
}

GUEST_CODE(null_real, 16,
	   "lgdtl 0x700\n mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n xor %bx, %bx\n"
	   "mov %bx, %fs\n and $0xfe, %al\n mov %eax, %cr0\n mov $0x3000, %bx\n"
	   "mov %bx, %fs\n movb $0x5a, %fs:0x10\n hlt");

static void a_null_segment_is_loaded_anew_in_real_mode(void **state)
{
	struct fixture *f = *state;

	fixture_real(f);
	fixture_tables(f, 0);
	put(f, 0x700, GDT_LIMIT, 2);
	put(f, 0x702, GDT, 4);
	assert_int_equal(RUN(f, null_real), RUN_HALTED);
	assert_int_equal(f->vector, -1);
	assert_int_equal(get(f, 0x30010, 1), 0x5a);
	assert_int_equal(f->s.seg[X86_FS].limit, 0xffff);
}

GUEST_CODE(ud2, 32, "ud2\n hlt");
GUEST_CODE(int3, 32, "int3\n hlt");
GUEST_CODE(int80, 32, "int $0x80\n hlt");

static void faults_push_rf_and_traps_do_not(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	RUN(f, ud2);
	assert_int_equal(f->vector, X86_VEC_UD);
	assert_int_equal(stacked(f, 0, 4), CODE);
	assert_int_equal(stacked(f, 2, 4), X86_RF | X86_FIXED);
	fixture_protected(f, 0);
	RUN(f, int3);
	assert_int_equal(f->vector, X86_VEC_BP);
	assert_int_equal(stacked(f, 0, 4), CODE + 1);
	assert_int_equal(stacked(f, 2, 4), X86_FIXED);
}

static void an_interrupt_from_ring_3_takes_the_stack_of_the_tss(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 3);
	put_gate(f, IDT, 0x80, SEL_CODE0, HANDLERS + 8 * 0x80, X86_SYS_TRAP32, 3, 0, 0);
	f->s.rflags |= X86_IF;
	RUN(f, int80);
	assert_int_equal(f->vector, 0x80);
	assert_int_equal(f->s.gpr[X86_RSP], STACK_IN - 20);
	assert_int_equal(f->s.seg[X86_SS].selector, SEL_DATA0);
	assert_int_equal(f->s.seg[X86_CS].selector, SEL_CODE0);
	assert_int_equal(stacked(f, 0, 4), CODE + 2);
	assert_int_equal(stacked(f, 1, 4), SEL_CODE3);
	assert_int_equal(stacked(f, 3, 4), STACK_3);
	assert_int_equal(stacked(f, 4, 4), SEL_DATA3);
	assert_true(f->s.rflags & X86_IF); /* a trap gate */
}

static void a_gate_above_the_callers_privilege_refuses_int_n(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 3);
	RUN(f, int80);
	assert_int_equal(f->vector, X86_VEC_GP);
	assert_int_equal(stacked(f, 0, 4), 0x80 * 8 + 2);
	assert_int_equal(stacked(f, 1, 4), CODE);
}

static void a_bad_inner_stack_ends_in_shutdown(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 3);
	put(f, TSS + 8, SEL_DATA3, 2);
	/* #TS, and then #DF, would need the same stack */
	assert_int_equal(RUN(f, ud2), RUN_SHUTDOWN);
}

GUEST_CODE(spin, 32, "sti\n nop\n nop\n hlt");

static void errors_in_the_delivery_of_interrupts_have_ext_set(void **state)
{
	struct fixture *f = *state;
	uint64_t gate;

	fixture_protected(f, 0);
	gate = get(f, IDT + 8 * 0x41, 8);
	put(f, IDT + 8 * 0x41, gate & ~BIT64(47), 8);
	f->interrupt = 0x41;
	cpu_link_raise(&f->vcpu->link, CPU_EVENT_INTR);
	RUN(f, spin);
	assert_int_equal(f->vector, X86_VEC_NP);
	assert_int_equal(stacked(f, 0, 4), 0x41 * 8 + 2 + 1);
	assert_int_equal(stacked(f, 1, 4), CODE + 2); /* one instruction after STI */
}

static void nmi_is_masked_until_iret(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	cpu_link_raise(&f->vcpu->link, CPU_EVENT_NMI);
	RUN(f, spin);
	assert_int_equal(f->vector, X86_VEC_NMI);
	assert_int_equal(f->s.nmi_masked, 1);
	put(f, HANDLERS + 8 * X86_VEC_NMI + 1, 0xcf, 1); /* IRET behind its HLT */
	f->s.activity = X86_RUNNING;
	fixture_go(f);
	assert_int_equal(f->s.nmi_masked, 0);
	assert_int_equal(f->vector, -1);
}

GUEST_CODE(touch_64, 64, "movb $1, 0x300000\n hlt");

static void page_faults_in_delivery_become_double_faults(void **state)
{
	struct fixture *f = *state;

	fixture_long(f, 0);
	put(f, TABLES + 0x3000 + 8 * 0x300, 0, 8);
	RUN(f, touch_64);
	assert_int_equal(f->vector, X86_VEC_PF);
	assert_int_equal(stacked(f, 0, 8), X86_PFERR_W);
	assert_int_equal(f->s.cr2, 0x300000);
	assert_int_equal(f->s.gpr[X86_RSP], STACK - 48);

	fixture_long(f, 0);
	put(f, TABLES + 0x3000 + 8 * 0x300, 0, 8);
	f->s.gpr[X86_RSP] = 0x301000; /* the stack is not there either */
	put_gate(f, IDT, X86_VEC_DF, SEL_CODE64, HANDLERS + 8 * X86_VEC_DF, X86_SYS_INT32, 0, 1, 1);
	put(f, TSS + 36, STACK_IN, 8);
	RUN(f, touch_64);
	assert_int_equal(f->vector, X86_VEC_DF);
	assert_int_equal(stacked(f, 0, 8), 0);
	assert_int_equal(stacked(f, 4, 8), 0x301000);
	assert_int_equal(f->s.cr2, 0x300ff8);

	fixture_long(f, 0);
	put(f, TABLES + 0x3000 + 8 * 0x300, 0, 8);
	f->s.gpr[X86_RSP] = 0x301000;
	assert_int_equal(RUN(f, touch_64), RUN_SHUTDOWN);
}

GUEST_CODE(iret_v86, 32,
	   "push $0\n push $0\n push $0x1234\n push $0\n push $0x900\n push $0x100\n"
	   "push $0x23002\n push $0x1100\n push $0\n iret");
GUEST_CODE(in_v86, 16, "mov %ds, %ax\n mov %ss, %bx\n int $0x30\n hlt");
GUEST_CODE(in_v86_vme, 16, "cli\n pushfw\n pop %ax\n sti\n pushfw\n pop %bx\n hlt");

static void v86_programs_enter_and_leave_with_all_segments(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	put_gate(f, IDT, 0x30, SEL_CODE0, HANDLERS + 8 * 0x30, X86_SYS_INT32, 3, 0, 0);
	assert_int_equal(
	    gmem_write(f->env.mem, gpa(0x11000), in_v86, (size_t)(in_v86_end - in_v86)), 0);
	RUN(f, iret_v86);
	assert_int_equal(f->vector, 0x30);
	assert_int_equal(f->s.gpr[X86_RAX] & 0xffff, 0x1234);
	assert_int_equal(f->s.gpr[X86_RBX] & 0xffff, 0x900);
	assert_int_equal(f->s.rflags & X86_VM, 0);
	assert_int_equal(f->s.gpr[X86_RSP], STACK_IN - 36);
	assert_true(stacked(f, 2, 4) & X86_VM);
	assert_int_equal(stacked(f, 4, 4), 0x900);
	assert_int_equal(stacked(f, 6, 4), 0x1234);
	assert_int_equal(f->s.seg[X86_DS].selector, 0);
	assert_true(f->s.seg[X86_DS].attr & X86_SEG_UNUSABLE);
}

GUEST_CODE(iret_v86_iopl0, 32,
	   "push $0\n push $0\n push $0x1234\n push $0\n push $0x900\n push $0x100\n"
	   "push $0x20002\n push $0x1100\n push $0\n iret");

static void v86_enter(struct fixture *f, const uint8_t *entry, const uint8_t *end)
{
	fixture_protected(f, 0);
	f->s.cr4 = X86_CR4_VME;
	assert_int_equal(
	    gmem_write(f->env.mem, gpa(0x11000), in_v86_vme, (size_t)(in_v86_vme_end - in_v86_vme)),
	    0);
	fixture_run(f, entry, end);
	assert_int_equal(f->vector, X86_VEC_GP); /* for the HLT */
}

static void v86_interrupt_flag_is_virtual_with_vme(void **state)
{
	struct fixture *f = *state;

	v86_enter(f, iret_v86, iret_v86_end);
	assert_int_equal(f->s.gpr[X86_RAX] & 0x3200, 0x3000);
	assert_int_equal(f->s.gpr[X86_RBX] & 0x3200, 0x3200);
	assert_true(stacked(f, 3, 4) & X86_IF);
	assert_false(stacked(f, 3, 4) & X86_VIF);

	v86_enter(f, iret_v86_iopl0, iret_v86_iopl0_end);
	assert_int_equal(f->s.gpr[X86_RAX] & 0x3200, 0x3000);
	assert_int_equal(f->s.gpr[X86_RBX] & 0x3200, 0x3200);
	assert_false(stacked(f, 3, 4) & X86_IF);
	assert_true(stacked(f, 3, 4) & X86_VIF);
}

static void v86_interrupts_are_redirected_by_the_bitmap(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	f->s.cr4 = X86_CR4_VME;
	put(f, TSS + 102, 0x200, 2);
	put(f, 4 * 0x30, 0x1180u << 16 | 4, 4); /* 1180:0004 */
	put(f, 0x11804, 0xf4, 1);
	assert_int_equal(
	    gmem_write(f->env.mem, gpa(0x11000), in_v86, (size_t)(in_v86_end - in_v86)), 0);
	fixture_run(f, iret_v86, iret_v86_end);
	assert_int_equal(f->vector, X86_VEC_GP); /* the HLT at the handler's start */
	assert_int_equal(stacked(f, 1, 4), 4);
	assert_int_equal(stacked(f, 2, 4), 0x1180);
	assert_int_equal(stacked(f, 4, 4), 0x100 - 6);
	put(f, TSS + 0x200 - 32 + 0x30 / 8, 1, 1); /* now it goes to the monitor: DPL 0, #GP */
	fixture_protected(f, 0);
	put(f, TSS + 102, 0x200, 2);
	f->s.cr4 = X86_CR4_VME;
	fixture_run(f, iret_v86, iret_v86_end);
	assert_int_equal(f->vector, X86_VEC_GP);
	assert_int_equal(stacked(f, 0, 4), 0x30 * 8 + 2);
}

/* A handler in ring 3 whose frame is not aligned, with alignment checks: each #AC raises another.
 */
static void exceptions_without_end_can_be_stopped_and_saved(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 3);
	put_gate(f, IDT, X86_VEC_AC, SEL_CODE3, CODE + 0x100, X86_SYS_INT32, 0, 0, 0);
	f->s.cr0 |= X86_CR0_AM;
	f->s.rflags |= X86_AC;
	f->s.gpr[X86_RSP] = STACK_3 + 1;
	f->s.event_valid = f->s.event_has_error = 1;
	f->s.event_kind = X86_EVENT_EXCEPTION;
	f->s.event_vector = X86_VEC_AC;
	assert_int_equal(engine_soft.set_state(f->vcpu, &f->s), 0);
	cpu_link_raise(&f->vcpu->link, CPU_EVENT_KICK);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(engine_soft.run(f->vcpu), RUN_KICKED);
		assert_int_equal(engine_soft.get_state(f->vcpu, &f->s), 0);
		assert_int_equal(f->s.event_valid, 1);
		assert_int_equal(f->s.event_vector, X86_VEC_AC);
		assert_int_equal(f->s.rip, CODE);
		assert_int_equal(engine_soft.set_state(f->vcpu, &f->s), 0);
	}
	/* A benign one of another kind ends it. */
	f->s.gpr[X86_RSP] = STACK_3;
	put(f, CODE + 0x100, 0xcd | 0x21 << 8, 2); /* INT 21h, which ring 3 may not */
	assert_int_equal(engine_soft.set_state(f->vcpu, &f->s), 0);
	cpu_link_clear(&f->vcpu->link, CPU_EVENT_KICK);
	assert_int_equal(engine_soft.run(f->vcpu), RUN_HALTED);
	assert_int_equal(f->cpu->s.rip, HANDLERS + 8 * X86_VEC_GP + 1);
}

static void what_is_saved_amid_a_delivery_is_already_the_double_fault(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	put(f, IDT + 8 * X86_VEC_GP, 0, 8); /* not an interrupt gate: #GP again */
	f->s.event_valid = f->s.event_has_error = 1;
	f->s.event_kind = X86_EVENT_EXCEPTION;
	f->s.event_vector = X86_VEC_GP;
	assert_int_equal(engine_soft.set_state(f->vcpu, &f->s), 0);
	cpu_link_raise(&f->vcpu->link, CPU_EVENT_KICK);
	assert_int_equal(engine_soft.run(f->vcpu), RUN_KICKED);
	assert_int_equal(engine_soft.get_state(f->vcpu, &f->s), 0);
	assert_int_equal(f->s.event_valid, 1);
	assert_int_equal(f->s.event_vector, X86_VEC_DF);
	cpu_link_clear(&f->vcpu->link, CPU_EVENT_KICK);
}

static void a_debug_exception_that_waits_is_saved_with_its_reason(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	RUN(f, ud2);
	f->cpu->exc = (struct soft_event){
	    .valid = 1, .vector = X86_VEC_DB, .kind = X86_EVENT_EXCEPTION, .dr6 = X86_DR6_BS | 2};
	assert_int_equal(engine_soft.get_state(f->vcpu, &f->s), 0);
	assert_int_equal(f->s.dr6 & (X86_DR6_BS | 15), X86_DR6_BS | 2);
	f->s.activity = X86_RUNNING;
	assert_int_equal(engine_soft.set_state(f->vcpu, &f->s), 0);
	assert_int_equal(engine_soft.run(f->vcpu), RUN_HALTED);
	assert_int_equal(f->cpu->s.rip, HANDLERS + 8 * X86_VEC_DB + 1);
	assert_int_equal(f->cpu->s.dr6 & (X86_DR6_BS | 15), X86_DR6_BS | 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    SYS_TEST(real_mode_interrupts_push_three_words),
	    SYS_TEST(a_real_mode_vector_outside_of_the_table_ends_in_shutdown),
	    SYS_TEST(limits_survive_the_way_back_to_real_mode),
	    SYS_TEST(a_null_segment_is_loaded_anew_in_real_mode),
	    SYS_TEST(faults_push_rf_and_traps_do_not),
	    SYS_TEST(an_interrupt_from_ring_3_takes_the_stack_of_the_tss),
	    SYS_TEST(a_gate_above_the_callers_privilege_refuses_int_n),
	    SYS_TEST(a_bad_inner_stack_ends_in_shutdown),
	    SYS_TEST(errors_in_the_delivery_of_interrupts_have_ext_set),
	    SYS_TEST(nmi_is_masked_until_iret),
	    SYS_TEST(page_faults_in_delivery_become_double_faults),
	    SYS_TEST(v86_programs_enter_and_leave_with_all_segments),
	    SYS_TEST(v86_interrupt_flag_is_virtual_with_vme),
	    SYS_TEST(v86_interrupts_are_redirected_by_the_bitmap),
	    SYS_TEST(exceptions_without_end_can_be_stopped_and_saved),
	    SYS_TEST(what_is_saved_amid_a_delivery_is_already_the_double_fault),
	    SYS_TEST(a_debug_exception_that_waits_is_saved_with_its_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
