/* sys_priv_test.c: control and debug registers, MSRs, ports and flags, and who may touch them. */
#include "engine/soft/sys.h"
#include "engine/soft/sys_test.h"

GUEST_CODE(set_cr0, 64, "mov %rax, %cr0\n hlt");
GUEST_CODE(set_cr3, 64, "mov %rax, %cr3\n hlt");
GUEST_CODE(set_cr4, 64, "mov %rax, %cr4\n hlt");
GUEST_CODE(set_cr8, 64, "mov %rax, %cr8\n hlt");
GUEST_CODE(set_cr4_32, 32, "mov %eax, %cr4\n hlt");
GUEST_CODE(set_cr0_32, 32, "mov %eax, %cr0\n hlt");

static int run_long(struct fixture *f, const uint8_t *code, const uint8_t *end, uint64_t rax)
{
	fixture_long(f, 0);
	f->s.gpr[X86_RAX] = rax;
	fixture_run(f, code, end);
	return f->vector;
}
#define RUN_LONG(f, name, rax) run_long(f, name, name##_end, rax)

static void control_registers_refuse_what_cannot_be(void **state)
{
	const uint64_t cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_PG | X86_CR0_WP;
	struct fixture *f = *state;

	assert_int_equal(RUN_LONG(f, set_cr0, cr0 | X86_CR0_TS), -1);
	assert_int_equal(f->s.cr0, cr0 | X86_CR0_TS);
	assert_int_equal(RUN_LONG(f, set_cr0, cr0 | BIT64(32)), X86_VEC_GP);
	assert_int_equal(RUN_LONG(f, set_cr0, cr0 & ~X86_CR0_PE), X86_VEC_GP);
	assert_int_equal(RUN_LONG(f, set_cr0, cr0 & ~X86_CR0_PG), X86_VEC_GP); /* in 64-bit code */
	assert_int_equal(RUN_LONG(f, set_cr0, cr0 | X86_CR0_NW), X86_VEC_GP);
	assert_int_equal(RUN_LONG(f, set_cr0, cr0 | BIT64(6)), -1); /* ignored */
	assert_int_equal(f->s.cr0, cr0);
	assert_int_equal(RUN_LONG(f, set_cr4, X86_CR4_PAE | X86_CR4_PGE), -1);
	assert_int_equal(RUN_LONG(f, set_cr4, 0), X86_VEC_GP);
	assert_int_equal(RUN_LONG(f, set_cr4, X86_CR4_PAE | X86_CR4_VMXE), X86_VEC_GP);
	assert_int_equal(RUN_LONG(f, set_cr4, X86_CR4_PAE | BIT64(63)), X86_VEC_GP);
	assert_int_equal(RUN_LONG(f, set_cr4, X86_CR4_PAE | X86_CR4_LA57), X86_VEC_GP);
	assert_int_equal(RUN_LONG(f, set_cr3, TABLES | BIT64(51)), X86_VEC_GP);
	assert_int_equal(RUN_LONG(f, set_cr3, TABLES | BIT64(63)), X86_VEC_GP); /* no PCIDE */
	assert_int_equal(RUN_LONG(f, set_cr3, TABLES | 0x18), -1);
	assert_int_equal(RUN_LONG(f, set_cr8, 15), -1);
	assert_int_equal(RUN_LONG(f, set_cr8, 16), X86_VEC_GP);
}

static void pcide_needs_long_mode(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(RUN_LONG(f, set_cr4, X86_CR4_PAE | X86_CR4_PCIDE), -1);
	fixture_protected(f, 0);
	f->s.gpr[X86_RAX] = X86_CR4_PCIDE;
	RUN(f, set_cr4_32);
	assert_int_equal(f->vector, X86_VEC_GP);
}

static void pae_pointers_are_checked_when_loaded(void **state)
{
	struct fixture *f = *state;

	for (int bad = 0; bad < 2; bad++) {
		fixture_protected(f, 0);
		for (unsigned i = 0; i < 512; i++) {
			put(f, TABLES + 0x1000 + 8 * i, (TABLES + 0x2000) | 7, 8);
			put(f, TABLES + 0x2000 + 8 * i, i << 12 | 3, 8);
		}
		put(f, TABLES, (TABLES + 0x1000) | 1, 8);
		put(f, TABLES + 8, bad ? (TABLES + 0x1000) | 3 : 0, 8); /* bit 1 is reserved */
		put(f, TABLES + 16, 0, 8);
		put(f, TABLES + 24, 2, 8); /* not present: nothing is reserved */
		f->s.cr3 = TABLES;
		f->s.cr4 = X86_CR4_PAE;
		f->s.gpr[X86_RAX] = f->s.cr0 | X86_CR0_PG;
		RUN(f, set_cr0_32);
		assert_int_equal(f->vector, bad ? X86_VEC_GP : -1);
	}
}

GUEST_CODE(get_dr7, 64, "mov %dr7, %rax\n hlt");
GUEST_CODE(set_dr7, 64, "mov %rax, %dr7\n hlt");
GUEST_CODE(set_dr6, 64, "mov %rax, %dr6\n hlt");
GUEST_CODE(get_dr4, 64, "mov %dr4, %rax\n hlt");

static void debug_registers_keep_their_fixed_bits(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(RUN_LONG(f, set_dr7, 0xffffffff & ~X86_DR7_GD & ~0xffull), -1);
	assert_int_equal(f->s.dr7, 0xffff0700);
	assert_int_equal(RUN_LONG(f, set_dr7, BIT64(32)), X86_VEC_GP);
	assert_int_equal(RUN_LONG(f, set_dr6, 0xffffffff), -1);
	assert_int_equal(f->s.dr6, 0xffffefff);
	assert_int_equal(RUN_LONG(f, set_dr6, 0), -1);
	assert_int_equal(f->s.dr6, X86_DR6_FIXED);
	assert_int_equal(RUN_LONG(f, get_dr4, 0), -1);
	assert_int_equal(f->s.gpr[X86_RAX], X86_DR6_FIXED);
	fixture_long(f, 0);
	f->s.cr4 |= X86_CR4_DE;
	RUN(f, get_dr4);
	assert_int_equal(f->vector, X86_VEC_UD);
}

static void general_detect_stops_the_access_and_disarms_itself(void **state)
{
	struct fixture *f = *state;

	fixture_long(f, 0);
	f->s.dr7 |= X86_DR7_GD;
	RUN(f, get_dr7);
	assert_int_equal(f->vector, X86_VEC_DB);
	assert_int_equal(f->s.dr6, X86_DR6_FIXED | X86_DR6_BD);
	assert_int_equal(f->s.dr7, X86_DR7_FIXED);
	assert_int_equal(stacked(f, 0, 8), CODE);
	assert_true(stacked(f, 2, 8) & X86_RF);
}

static void single_steps_trap_after_the_instruction(void **state)
{
	struct fixture *f = *state;

	fixture_long(f, 0);
	f->s.rflags |= X86_TF;
	RUN(f, get_dr4);
	assert_int_equal(f->vector, X86_VEC_DB);
	assert_int_equal(f->s.dr6, X86_DR6_FIXED | X86_DR6_BS);
	assert_int_equal(stacked(f, 0, 8), CODE + 3);
	assert_false(stacked(f, 2, 8) & X86_RF);
	assert_true(stacked(f, 2, 8) & X86_TF);
	assert_false(f->s.rflags & X86_TF);
}

static void msrs_by_vendor_and_reserved_bits(void **state)
{
	static const struct {
		uint32_t msr;
		uint64_t value;
		int good; /* bit 0: on Intel, bit 1: on AMD */
	} cases[] = {
	    {MSR_LSTAR, 0xffffffff81000000, 3},
	    {MSR_LSTAR, BIT64(47), 0},
	    {MSR_FS_BASE, BIT64(60), 0},
	    {MSR_KERNEL_GS_BASE, 0xffff800000000000, 3},
	    {MSR_SYSENTER_EIP, BIT64(50), 0},
	    {MSR_EFER, X86_EFER_LME | X86_EFER_SCE | X86_EFER_NXE, 3},
	    {MSR_EFER, X86_EFER_SCE, 0}, /* LME with paging on */
	    {MSR_EFER, X86_EFER_LME | X86_EFER_SVME, 0},
	    {MSR_EFER, X86_EFER_LME | BIT64(1), 0},
	    {MSR_EFER, X86_EFER_LME | X86_EFER_AIBRS, 2},
	    {MSR_PAT, 0x0007040600070406, 3},
	    {MSR_PAT, 2, 0},
	    {MSR_PAT, 0x0800000000000000, 0},
	    {MSR_MTRR_DEF, 0xc06, 3},
	    {MSR_MTRR_DEF, 0x1006, 0},
	    {MSR_MTRR_DEF, 2, 0},
	    {MSR_MTRR_FIX64K, 0x0606060606060606, 3},
	    {MSR_MTRR_FIX64K, 0x0706060606060606, 0},
	    {MSR_MTRR_PHYSBASE0, 0x80000006, 3},
	    {MSR_MTRR_PHYSBASE0, 0x80000106, 0},
	    {MSR_MTRR_PHYSBASE0 + 1, 0x80000800, 3},
	    {MSR_MTRR_PHYSBASE0 + 1, 0x80000400, 0},
	    {MSR_MTRR_CAP, 0, 0},
	    {MSR_TSC_AUX, 7, 3},
	    {MSR_TSC_AUX, BIT64(32), 2},
	    {MSR_SFMASK, BIT64(40), 2},
	    {MSR_MC0_CTL + 1, 1, 0},
	    {MSR_MC0_CTL + 1, 0, 3},
	    {MSR_MCG_CTL, 1, 0},
	    {MSR_MISC_ENABLE, 1, 1},
	    {MSR_FEATURE_CTL, 5, 0},
	    {MSR_ARCH_CAP, 0, 0},
	    {MSR_HWCR, BIT64(24), 2},
	    {MSR_DE_CFG, 2, 2},
	    {MSR_PLATFORM_ID, 0, 0},
	    {0x12345678, 0, 0},
	    {MSR_XSS, 1, 0},
	    {MSR_DEBUGCTL, BIT64(9), 0},
	};
	struct fixture *f = *state;

	/* Automatic IBRS, whatever the host is */
	f->policy.leaf[f->policy.count++] =
	    (struct cpuid_leaf){.leaf = 0x80000021, .eax = BIT32(8)};
	f->policy.max_extended = MAX(f->policy.max_extended, 0x80000021);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		for (int amd = 0; amd < 2; amd++) {
			f->policy.amd = amd != 0;
			fixture_long(f, 0);
			assert_int_equal(engine_soft.set_state(f->vcpu, &f->s), 0);
			if (sys_msr_write(f->cpu, cases[i].msr, cases[i].value) !=
			    (cases[i].good >> amd & 1 ? 0 : -1))
				fail_msg("MSR %#x, case %u, amd %d", cases[i].msr, i, amd);
		}
}

static void an_intel_cpu_tells_what_it_is_not_affected_by(void **state)
{
	struct fixture *f = *state;
	uint64_t v;

	f->policy.count = 0;
	f->policy.amd = 0;
	f->policy.arch_capabilities = X86_ARCH_RDCL_NO | X86_ARCH_ITS_NO;
	assert_int_equal(sys_msr_read(f->cpu, MSR_ARCH_CAP, &v), -1);
	f->policy.leaf[f->policy.count++] = (struct cpuid_leaf){.leaf = 7, .edx = BIT32(29)};
	assert_int_equal(sys_msr_read(f->cpu, MSR_ARCH_CAP, &v), 0);
	assert_int_equal(v, X86_ARCH_RDCL_NO | X86_ARCH_ITS_NO);
	/* What is switched on for it: enhanced IBRS, and BHI_DIS_S where that is offered. */
	assert_int_equal(sys_msr_write(f->cpu, MSR_SPEC_CTRL, 1), -1);
	f->policy.leaf[0].edx |= BIT32(26);
	assert_int_equal(sys_msr_write(f->cpu, MSR_SPEC_CTRL, 1), 0);
	assert_int_equal(sys_msr_write(f->cpu, MSR_SPEC_CTRL, 1 | BIT64(10)), -1);
	f->policy.leaf[f->policy.count++] =
	    (struct cpuid_leaf){.leaf = 7, .subleaf = 2, .indexed = 1, .edx = BIT32(4)};
	f->policy.leaf[0].indexed = 1;
	assert_int_equal(sys_msr_write(f->cpu, MSR_SPEC_CTRL, 1 | BIT64(10)), 0);
	assert_int_equal(sys_msr_read(f->cpu, MSR_SPEC_CTRL, &v), 0);
	assert_int_equal(v, 1 | BIT64(10));
}

static uint64_t moved_base(void *apic)
{
	return *(uint64_t *)apic;
}
static int moved_write(void *apic, uint32_t msr, uint64_t value)
{
	*(uint64_t *)apic = value & ~UINT64_C(0xfff);
	return 0;
}
static _Bool moved_read(void *apic, uint64_t addr, unsigned size, uint64_t *value)
{
	*value = 0x5a5a5a5a;
	return (addr & ~UINT64_C(0xfff)) == *(uint64_t *)apic;
}

GUEST_CODE(cr1_read, 64, ".byte 0x0f, 0x20, 0xc8\n hlt");
GUEST_CODE(cr9_write, 64, ".byte 0x44, 0x0f, 0x22, 0xc8\n hlt");
GUEST_CODE(cr0_read, 64, "mov %cr0, %rax\n hlt");

static void control_registers_that_do_not_exist_are_undefined_in_every_ring(void **state)
{
	struct fixture *f = *state;

	for (unsigned ring = 0; ring <= 3; ring += 3) {
		fixture_long(f, ring);
		RUN(f, cr1_read);
		assert_int_equal(f->vector, X86_VEC_UD);
		fixture_long(f, ring);
		RUN(f, cr9_write);
		assert_int_equal(f->vector, X86_VEC_UD);
		fixture_long(f, ring);
		RUN(f, cr0_read);
		assert_int_equal(f->vector, ring ? X86_VEC_GP : -1);
	}
}

GUEST_CODE(apic_move, 64, "mov 0x300000, %ebx\n xor %edx, %edx\n wrmsr\n mov 0x300000, %ebx\n hlt");

static void the_apics_page_moves_at_once(void **state)
{
	struct fixture *f = *state;
	struct cpu_apic_ops ops = fixture_apic;
	uint64_t apic_page;

	ops.mmio_base = moved_base;
	ops.msr_write = moved_write;
	ops.mmio_read = moved_read;
	f->vcpu->apic = (struct cpu_apic){&ops, &apic_page};
	for (int amd = 0; amd < 2; amd++) {
		apic_page = UINT64_MAX;
		f->policy.amd = amd != 0;
		fixture_long(f, 0);
		f->s.gpr[X86_RCX] = MSR_APIC_BASE;
		f->s.gpr[X86_RAX] = 0x300800;
		RUN(f, apic_move);
		assert_int_equal(f->vector, -1);
		assert_int_equal(f->s.gpr[X86_RBX], 0x5a5a5a5a);
	}
	f->vcpu->apic = (struct cpu_apic){&fixture_apic, f};
}

static void efer_keeps_lma_and_reads_back(void **state)
{
	struct fixture *f = *state;
	uint64_t v;

	fixture_long(f, 0);
	assert_int_equal(engine_soft.set_state(f->vcpu, &f->s), 0);
	assert_int_equal(sys_msr_write(f->cpu, MSR_EFER, X86_EFER_LME), 0);
	assert_int_equal(sys_msr_read(f->cpu, MSR_EFER, &v), 0);
	assert_int_equal(v, X86_EFER_LME | X86_EFER_LMA);
}

static void tsc_and_its_adjustment_move_together(void **state)
{
	struct fixture *f = *state;
	uint64_t v;

	assert_int_equal(sys_msr_write(f->cpu, MSR_TSC, 1000000), 0);
	assert_int_equal(sys_msr_read(f->cpu, MSR_TSC_ADJUST, &v), 0);
	assert_int_equal(v, 1000000);
	assert_int_equal(sys_msr_write(f->cpu, MSR_TSC_ADJUST, 400), 0);
	assert_int_equal(sys_msr_read(f->cpu, MSR_TSC, &v), 0);
	assert_int_equal(v, 400);
}

static int port_door(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value)
{
	*value = msr + cpu;
	return 0;
}

GUEST_CODE(rdmsr_insn, 64, "rdmsr\n hlt");

static void doors_answer_what_the_cpu_does_not_know(void **state)
{
	struct fixture *f = *state;
	const struct msr_door door = {.first = 0x4b564d00, .last = 0x4b564d01, .read = port_door};

	assert_int_equal(doors_add_msr(&f->doors, &door), 0);
	fixture_long(f, 0);
	f->s.gpr[X86_RCX] = 0x4b564d01;
	RUN(f, rdmsr_insn);
	assert_int_equal(f->vector, -1);
	assert_int_equal(f->s.gpr[X86_RAX], 0x4b564d01);
	fixture_long(f, 3);
	f->s.gpr[X86_RCX] = 0x4b564d01;
	RUN(f, rdmsr_insn);
	assert_int_equal(f->vector, X86_VEC_GP);
}

GUEST_CODE(in_word, 64, "in (%dx), %ax\n ud2");

static void the_bitmap_opens_ports_bit_by_bit(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < 4; n++) {
		fixture_long(f, 3);
		put(f, TSS + 102, 0x100, 2);
		for (unsigned i = 0; i < 0x600; i += 8)
			put(f, TSS + 0x100 + i, 0, 8);
		if (n == 1)
			put(f, TSS + 0x100 + 0x60 / 8, 0x02, 1); /* port 0x61 */
		if (n == 2)
			put(f, TSS + 102, 0x800 - 0x60 / 8, 2); /* its second byte is outside */
		if (n == 3)
			f->s.rflags |= X86_IOPL;
		f->s.gpr[X86_RDX] = 0x60;
		RUN(f, in_word);
		assert_int_equal(f->vector, n == 1 || n == 2 ? X86_VEC_GP : X86_VEC_UD);
	}
}

GUEST_CODE(popf_all, 64, "push $0x7fffffff\n popfq\n pushfq\n pop %rax\n ud2");
GUEST_CODE(cli_insn, 64, "cli\n ud2");

static void popf_changes_what_the_privilege_allows(void **state)
{
	struct fixture *f = *state;

	fixture_long(f, 3);
	put_gate(f, IDT, X86_VEC_DB, SEL_CODE64, HANDLERS + 8 * X86_VEC_DB, X86_SYS_INT32, 0, 0, 1);
	RUN(f, popf_all);
	assert_int_equal(f->vector, X86_VEC_DB); /* TF took hold after PUSHF */
	assert_int_equal(stacked(f, 2, 8),
			 X86_ARITH | X86_TF | X86_DF | X86_NT | X86_AC | X86_ID | X86_FIXED);
	fixture_long(f, 3);
	RUN(f, cli_insn);
	assert_int_equal(f->vector, X86_VEC_GP);
	fixture_long(f, 3);
	f->s.rflags |= X86_IOPL | X86_IF;
	RUN(f, cli_insn);
	assert_int_equal(f->vector, X86_VEC_UD);
	assert_false(stacked(f, 2, 8) & X86_IF);
	fixture_long(f, 3);
	f->s.rflags |= X86_IF | X86_VIF;
	f->s.cr4 |= X86_CR4_PVI;
	RUN(f, cli_insn);
	assert_int_equal(f->vector, X86_VEC_UD);
	assert_true(stacked(f, 2, 8) & X86_IF);
	assert_false(stacked(f, 2, 8) & X86_VIF);
}

GUEST_CODE(xsetbv_insn, 64, "xsetbv\n hlt");

static void xsetbv_takes_only_combinations_that_exist(void **state)
{
	static const struct {
		uint64_t value;
		int vector;
	} cases[] = {{1, -1},
		     {3, -1},
		     {0, X86_VEC_GP},
		     {2, X86_VEC_GP},
		     {5, X86_VEC_GP},
		     {BIT64(62) | 1, X86_VEC_GP},
		     /* AVX-512's three only together, and with AVX */
		     {0x27, X86_VEC_GP},
		     {0x67, X86_VEC_GP},
		     {0xc7, X86_VEC_GP},
		     {0xe3, X86_VEC_GP}};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		fixture_long(f, 0);
		f->s.cr4 |= X86_CR4_OSXSAVE;
		f->s.gpr[X86_RAX] = (uint32_t)cases[i].value;
		f->s.gpr[X86_RDX] = cases[i].value >> 32;
		RUN(f, xsetbv_insn);
		assert_int_equal(f->vector, cases[i].vector);
	}
	fixture_long(f, 0);
	f->s.gpr[X86_RAX] = 1;
	RUN(f, xsetbv_insn);
	assert_int_equal(f->vector, X86_VEC_UD);
}

static void init_and_sipi_start_a_cpu_at_its_vector(void **state)
{
	struct fixture *f = *state;

	fixture_long(f, 0);
	assert_int_equal(engine_soft.set_state(f->vcpu, &f->s), 0);
	sys_init(f->cpu);
	assert_int_equal(f->cpu->s.rip, 0xfff0);
	assert_int_equal(f->cpu->s.efer, 0);
	assert_int_not_equal(f->cpu->s.gpr[X86_RDX], 0);
	f->cpu->s.activity = X86_WAIT_SIPI;
	sys_sipi(f->cpu, 0x9a);
	assert_int_equal(f->cpu->s.activity, X86_RUNNING);
	assert_int_equal(f->cpu->s.seg[X86_CS].base, 0x9a000);
	assert_int_equal(f->cpu->s.seg[X86_CS].selector, 0x9a00);
	assert_int_equal(f->cpu->s.rip, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    SYS_TEST(control_registers_refuse_what_cannot_be),
	    SYS_TEST(pcide_needs_long_mode),
	    SYS_TEST(pae_pointers_are_checked_when_loaded),
	    SYS_TEST(debug_registers_keep_their_fixed_bits),
	    SYS_TEST(general_detect_stops_the_access_and_disarms_itself),
	    SYS_TEST(single_steps_trap_after_the_instruction),
	    SYS_TEST(msrs_by_vendor_and_reserved_bits),
	    SYS_TEST(an_intel_cpu_tells_what_it_is_not_affected_by),
	    SYS_TEST(control_registers_that_do_not_exist_are_undefined_in_every_ring),
	    SYS_TEST(the_apics_page_moves_at_once),
	    SYS_TEST(efer_keeps_lma_and_reads_back),
	    SYS_TEST(tsc_and_its_adjustment_move_together),
	    SYS_TEST(doors_answer_what_the_cpu_does_not_know),
	    SYS_TEST(the_bitmap_opens_ports_bit_by_bit),
	    SYS_TEST(popf_changes_what_the_privilege_allows),
	    SYS_TEST(xsetbv_takes_only_combinations_that_exist),
	    SYS_TEST(init_and_sipi_start_a_cpu_at_its_vector),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
