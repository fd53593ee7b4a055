/* sys_transfer_test.c: gates, tasks, system calls, segment loads. */
#include "engine/soft/sys_test.h"

#define ERROR(f)   ((uint32_t)stacked(f, 0, 4))
#define ERROR64(f) ((uint32_t)stacked(f, 0, 8))

GUEST_CODE(call_gate, 32, "push $0x1111\n push $0x2222\n lcall $0x53, $0\n hlt");

static void a_call_gate_copies_parameters_to_the_inner_stack(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 3);
	put_gate(f, GDT + SEL_FREE, 0, SEL_CODE0, HANDLERS + 8 * 200, X86_SYS_CALL32, 3, 2, 0);
	RUN(f, call_gate);
	assert_int_equal(f->vector, 200);
	assert_int_equal(f->s.gpr[X86_RSP], STACK_IN - 24);
	assert_int_equal(stacked(f, 0, 4), CODE + 17);
	assert_int_equal(stacked(f, 1, 4), SEL_CODE3);
	assert_int_equal(stacked(f, 2, 4), 0x2222);
	assert_int_equal(stacked(f, 3, 4), 0x1111);
	assert_int_equal(stacked(f, 4, 4), STACK_3 - 8);
	assert_int_equal(stacked(f, 5, 4), SEL_DATA3);
	assert_int_equal(f->s.seg[X86_SS].selector, SEL_DATA0);
}

GUEST_CODE(
    retf_outer, 32,
    "push $0x23\n push $0x9f00\n push $0\n push $0\n push $0x1b\n push $1f-retf_outer+0x10000\n"
    "lret $8\n 1: mov %esp, %eax\n int3");

static void a_far_return_to_ring_3_releases_both_stacks_and_hides_segments(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	put_gate(f, IDT, X86_VEC_BP, SEL_CODE0, HANDLERS + 8 * X86_VEC_BP, X86_SYS_INT32, 3, 0, 0);
	RUN(f, retf_outer);
	assert_int_equal(f->vector, X86_VEC_BP);
	assert_int_equal(f->s.gpr[X86_RAX], 0x9f08);
	assert_int_equal(stacked(f, 1, 4), SEL_CODE3);
	assert_int_equal(f->s.seg[X86_DS].selector, 0);
	assert_true(f->s.seg[X86_ES].attr & X86_SEG_UNUSABLE);
}

GUEST_CODE(task_call, 32, "mov $0x77, %ebx\n lcall $0x40, $0\n mov $0x55, %ecx\n hlt");
GUEST_CODE(task_b, 32, "mov $0x99, %edx\n iret\n hlt");

static void task_b_image(struct fixture *f, unsigned code, uint32_t flags)
{
	put(f, TSS_B + 0x20, 0x18000, 4);
	put(f, TSS_B + 0x24, flags, 4);
	put(f, TSS_B + 0x28 + 4 * X86_RSP, 0xb000, 4);
	for (unsigned i = 0; i < 6; i++)
		put(f, TSS_B + 0x48 + 4 * i, i == X86_CS ? code : SEL_DATA0, 2);
	put(f, TSS_B + 0x60, 0, 4);
	assert_int_equal(
	    gmem_write(f->env.mem, gpa(0x18000), task_b, (size_t)(task_b_end - task_b)), 0);
}

static void a_task_is_called_and_returns(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	task_b_image(f, SEL_CODE0, X86_FIXED);
	RUN(f, task_call);
	assert_int_equal(f->vector, -1);
	assert_int_equal(f->s.gpr[X86_RCX], 0x55);
	assert_int_equal(f->s.gpr[X86_RBX], 0x77);
	assert_int_equal(f->s.gpr[X86_RDX], 0); /* saved in the other task */
	assert_int_equal(get(f, TSS_B + 0x28 + 4 * X86_RDX, 4), 0x99);
	assert_int_equal(f->s.tr.selector, SEL_TSS);
	assert_int_equal(f->s.rflags & X86_NT, 0);
	assert_true(f->s.cr0 & X86_CR0_TS);
	assert_int_equal(get(f, TSS_B, 2), SEL_TSS); /* the link */
	assert_int_equal(get(f, GDT + SEL_TSS + 5, 1) & 15, X86_SYS_TSS32_BUSY);
	assert_int_equal(get(f, GDT + SEL_TSS_B + 5, 1) & 15, X86_SYS_TSS32);
}

static void a_bad_segment_of_a_task_faults_inside_the_new_task(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	task_b_image(f, SEL_CODE0, X86_FIXED);
	put(f, TSS_B + 0x48 + 4 * X86_GS, 0xfff8, 2);
	RUN(f, task_call);
	assert_int_equal(f->vector, X86_VEC_TS);
	assert_int_equal(ERROR(f), 0xfff8);
	assert_int_equal(stacked(f, 1, 4), 0x18000);
	assert_int_equal(f->s.tr.selector, SEL_TSS_B);
	assert_true(stacked(f, 3, 4) & X86_NT);
}

GUEST_CODE(task_jump, 32, "ljmp $0x40, $0\n hlt");

static void a_task_is_entered_with_its_own_rf(void **state)
{
	struct fixture *f = *state;

	for (unsigned rf = 0; rf < 2; rf++) {
		fixture_protected(f, 0);
		task_b_image(f, SEL_CODE0, X86_FIXED | (rf ? X86_RF : 0));
		put(f, 0x18000, 0xf4 << 8 | 0x90, 2);
		f->s.rflags |= X86_RF; /* the jump runs with it */
		f->s.dr[0] = 0x18000;
		f->s.dr7 |= 2;
		RUN(f, task_jump);
		assert_int_equal(f->vector, rf ? -1 : X86_VEC_DB);
	}
}

static void a_busy_task_is_not_called(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	put_desc(f, SEL_TSS_B, TSS_B, 0x67, 0x8b);
	RUN(f, task_call);
	assert_int_equal(f->vector, X86_VEC_GP);
	assert_int_equal(ERROR(f), SEL_TSS_B);
	fixture_protected(f, 0);
	put_desc(f, SEL_TSS_B, TSS_B, 0x66, 0x89);
	RUN(f, task_call);
	assert_int_equal(f->vector, X86_VEC_TS);
	assert_int_equal(f->s.tr.selector, SEL_TSS);
}

GUEST_CODE(divide_32, 32, "xor %ecx, %ecx\n div %ecx\n hlt");

static void an_exception_through_a_task_gate_switches(void **state)
{
	struct fixture *f = *state;

	fixture_protected(f, 0);
	task_b_image(f, SEL_CODE0, X86_FIXED);
	put(f, 0x18000, 0xf4, 1);
	put_gate(f, IDT, X86_VEC_DE, SEL_TSS_B, 0, X86_SYS_TASK, 0, 0, 0);
	RUN(f, divide_32);
	assert_int_equal(f->s.rip, 0x18001);
	assert_int_equal(f->s.tr.selector, SEL_TSS_B);
	assert_true(f->s.rflags & X86_NT);
	assert_int_equal(get(f, TSS + 0x20, 4), CODE + 2);
	assert_true(get(f, TSS + 0x24, 4) & X86_RF);
}

GUEST_CODE(load_ds, 32, "mov %eax, %ds\n hlt");
GUEST_CODE(load_ss, 32, "mov %eax, %ss\n hlt");

static void load(struct fixture *f, const uint8_t *code, const uint8_t *end, unsigned ring,
		 uint16_t sel)
{
	fixture_protected(f, ring);
	f->s.gpr[X86_RAX] = sel;
	fixture_run(f, code, end);
}

static void segment_loads_check_table_type_privilege_and_presence(void **state)
{
	static const struct {
		uint16_t sel;
		uint8_t ss, ring;
		int vector;
		uint16_t error;
	} cases[] = {
	    {0, 0, 0, -1, 0},
	    {3, 0, 0, -1, 0},
	    {SEL_DATA0, 0, 0, -1, 0},
	    {SEL_DATA3, 0, 0, -1, 0},
	    {SEL_DATA0, 0, 3, X86_VEC_GP, SEL_DATA0},
	    {0x80, 0, 0, X86_VEC_GP, 0x80},
	    {4, 0, 0, X86_VEC_GP, 4}, /* no LDT */
	    {SEL_TSS, 0, 0, X86_VEC_GP, SEL_TSS},
	    {SEL_ABSENT, 0, 0, X86_VEC_NP, SEL_ABSENT},
	    {SEL_ABSENT, 1, 0, X86_VEC_SS, SEL_ABSENT},
	    {0, 1, 0, X86_VEC_GP, 0},
	    {SEL_DATA3, 1, 0, X86_VEC_GP, SEL_DATA3 & ~3},
	    {SEL_CODE0, 1, 0, X86_VEC_GP, SEL_CODE0},
	    {SEL_DATA0, 1, 0, -1, 0},
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		int vector = cases[i].vector;

		if (cases[i].ss)
			load(f, load_ss, load_ss_end, cases[i].ring, cases[i].sel);
		else
			load(f, load_ds, load_ds_end, cases[i].ring, cases[i].sel);
		assert_int_equal(f->vector, vector);
		if (vector >= 0)
			assert_int_equal(ERROR(f), cases[i].error);
		else
			assert_int_equal(f->s.seg[cases[i].ss ? X86_SS : X86_DS].selector,
					 cases[i].sel);
	}
}

static void a_load_sets_the_accessed_bit_in_memory(void **state)
{
	struct fixture *f = *state;

	put_desc(f, SEL_FREE, 0, 0xfff, 0x92);
	load(f, load_ds, load_ds_end, 0, SEL_FREE);
	assert_int_equal(get(f, GDT + SEL_FREE + 5, 1), 0x93);
	assert_int_equal(f->s.seg[X86_DS].attr, 0x93);
}

GUEST_CODE(syscall_insn, 64, "syscall\n hlt");
GUEST_CODE(sysretq_insn, 64, "sysretq\n hlt");

static void syscall_enters_and_masks_flags(void **state)
{
	struct fixture *f = *state;

	fixture_long(f, 3);
	f->s.star = (uint64_t)SEL_CODE0 << 32;
	f->s.lstar = HANDLERS + 8 * 201;
	f->s.sfmask = X86_IF | X86_DF;
	f->s.rflags |= X86_IF | X86_DF | X86_CF;
	RUN(f, syscall_insn);
	assert_int_equal(f->vector, 201);
	assert_int_equal(f->s.gpr[X86_RCX], CODE + 2);
	assert_int_equal(f->s.gpr[X86_R11], X86_FIXED | X86_IF | X86_DF | X86_CF);
	assert_int_equal(f->s.rflags, X86_FIXED | X86_CF);
	assert_int_equal(f->s.seg[X86_CS].selector, SEL_CODE0);
	assert_int_equal(f->s.seg[X86_CS].attr, 0xa09b);
	assert_int_equal(f->s.seg[X86_SS].selector, SEL_CODE0 + 8);
	assert_int_equal(f->s.gpr[X86_RSP], STACK_3);
}

static void sysret_to_a_bad_address_faults_as_the_vendor_does(void **state)
{
	struct fixture *f = *state;

	for (int amd = 0; amd < 2; amd++) {
		f->policy.amd = amd != 0;
		fixture_long(f, 0);
		f->s.star = (uint64_t)SEL_DATA0 << 48;
		f->s.gpr[X86_RCX] = BIT64(47);
		RUN(f, sysretq_insn);
		assert_int_equal(f->vector, X86_VEC_GP);
		assert_int_equal(stacked(f, 2, 8) & 3, amd ? 3 : 0);
		assert_int_equal(stacked(f, 1, 8), amd ? BIT64(47) : CODE);
	}
}

GUEST_CODE(syscall_32, 32, "syscall\n hlt");
GUEST_CODE(int80_32, 32, "int $0x80\n hlt");

static void compatibility_mode_enters_the_64_bit_kernel(void **state)
{
	struct fixture *f = *state;

	for (int amd = 0; amd < 2; amd++) {
		f->policy.amd = amd != 0;
		fixture_long(f, 3);
		f->s.seg[X86_CS] = fixture_seg(f, SEL_CODE3);
		f->s.star = (uint64_t)SEL_CODE0 << 32;
		f->s.cstar = HANDLERS + 8 * 203;
		RUN(f, syscall_32);
		assert_int_equal(f->vector, amd ? 203 : X86_VEC_UD);
	}
	fixture_long(f, 3);
	f->s.seg[X86_CS] = fixture_seg(f, SEL_CODE3);
	put_gate(f, IDT, 0x80, SEL_CODE64, HANDLERS + 8 * 0x80, X86_SYS_INT32, 3, 0, 1);
	RUN(f, int80_32);
	assert_int_equal(f->vector, 0x80);
	assert_int_equal(f->s.gpr[X86_RSP], STACK_IN - 40);
	assert_int_equal(stacked(f, 1, 8), SEL_CODE3);
	assert_int_equal(stacked(f, 4, 8), SEL_DATA3);
	assert_int_equal(f->s.seg[X86_SS].selector, 0);
	assert_true(f->s.seg[X86_SS].attr & X86_SEG_UNUSABLE);
	/* its state, with a null SS and all, is one that can be saved and restored */
	assert_int_equal(x86_state_check(&f->s, NULL), 0);
}

GUEST_CODE(sysenter_insn, 64, "sysenter\n hlt");

static void sysenter_in_long_mode_is_intels(void **state)
{
	struct fixture *f = *state;

	for (int amd = 0; amd < 2; amd++) {
		f->policy.amd = amd != 0;
		fixture_long(f, 3);
		f->s.sysenter_cs = SEL_CODE0;
		f->s.sysenter_esp = STACK_IN;
		f->s.sysenter_eip = HANDLERS + 8 * 202;
		RUN(f, sysenter_insn);
		assert_int_equal(f->vector, amd ? X86_VEC_UD : 202);
	}
}

GUEST_CODE(iretq_outer, 64,
	   "push $0x23\n push $0x7000\n push $0x202\n push $0x4b\n lea 1f(%rip), %rax\n push %rax\n"
	   "iretq\n hlt\n 1: ud2");
GUEST_CODE(iretq_null, 64,
	   "push $0\n push $0x7000\n push $2\n push $0x28\n lea 1f(%rip), %rax\n push %rax\n"
	   "iretq\n hlt\n 1: mov %ss, %ebx\n hlt");
GUEST_CODE(iretq_null_3, 64,
	   "push $3\n push $0x7000\n push $2\n push $0x4b\n lea 1f(%rip), %rax\n push %rax\n"
	   "iretq\n 1: hlt");

static void iretq_always_pops_the_stack_and_takes_a_null_one_inside(void **state)
{
	struct fixture *f = *state;

	fixture_long(f, 0);
	RUN(f, iretq_null);
	assert_int_equal(f->vector, -1);
	assert_int_equal(f->s.gpr[X86_RSP], 0x7000);
	assert_int_equal(f->s.gpr[X86_RBX], 0);
	fixture_long(f, 0);
	RUN(f, iretq_outer);
	assert_int_equal(f->vector, X86_VEC_UD);
	assert_int_equal(stacked(f, 3, 8), 0x7000);
	assert_int_equal(stacked(f, 4, 8), SEL_DATA3);
	assert_int_equal(f->s.seg[X86_SS].selector, 0);
	fixture_long(f, 0);
	RUN(f, iretq_null_3);
	assert_int_equal(f->vector, X86_VEC_GP);
	assert_int_equal(ERROR64(f), 0);
}

GUEST_CODE(iret_nt_64, 64, "pushfq\n orl $0x4000, (%rsp)\n popfq\n iretq\n hlt");

static void iret_with_nt_in_long_mode_is_a_fault(void **state)
{
	struct fixture *f = *state;

	fixture_long(f, 0);
	RUN(f, iret_nt_64);
	assert_int_equal(f->vector, X86_VEC_GP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    SYS_TEST(a_call_gate_copies_parameters_to_the_inner_stack),
	    SYS_TEST(a_far_return_to_ring_3_releases_both_stacks_and_hides_segments),
	    SYS_TEST(a_task_is_called_and_returns),
	    SYS_TEST(a_bad_segment_of_a_task_faults_inside_the_new_task),
	    SYS_TEST(a_task_is_entered_with_its_own_rf),
	    SYS_TEST(a_busy_task_is_not_called),
	    SYS_TEST(an_exception_through_a_task_gate_switches),
	    SYS_TEST(segment_loads_check_table_type_privilege_and_presence),
	    SYS_TEST(a_load_sets_the_accessed_bit_in_memory),
	    SYS_TEST(syscall_enters_and_masks_flags),
	    SYS_TEST(sysret_to_a_bad_address_faults_as_the_vendor_does),
	    SYS_TEST(compatibility_mode_enters_the_64_bit_kernel),
	    SYS_TEST(sysenter_in_long_mode_is_intels),
	    SYS_TEST(iretq_always_pops_the_stack_and_takes_a_null_one_inside),
	    SYS_TEST(iret_with_nt_in_long_mode_is_a_fault),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
