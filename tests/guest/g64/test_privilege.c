/* test_privilege.c: what ring 3 may not do, system calls, control registers, MSRs, segment loads in
 * 64-bit mode. */
#include "g64.h"

#define EFER	  0xc0000080u
#define STAR	  0xc0000081u
#define LSTAR	  0xc0000082u
#define SFMASK	  0xc0000084u
#define KERNEL_GS 0xc0000102u
#define GS_BASE	  0xc0000101u
#define FS_BASE	  0xc0000100u

BLOB(u_cli, "cli");
BLOB(u_hlt, "hlt");
BLOB(u_in, "in $0x80, %al; int $0x80");
BLOB(u_cr0, "mov %cr0, %rax");
BLOB(u_wrmsr, "wrmsr");
BLOB(u_lgdt, "lgdt (%rsp)");
BLOB(u_invlpg, "invlpg (%rsp)");
BLOB(u_swapgs, "swapgs");
BLOB(u_clts, "clts");
BLOB(u_wbinvd, "wbinvd");

TEST(privilege, privileged_instructions_fault_in_ring_3)
{
	const struct {
		const uint8_t *code, *end;
	} all[] = {{u_cli, u_cli_end},	     {u_hlt, u_hlt_end},       {u_in, u_in_end},
		   {u_cr0, u_cr0_end},	     {u_wrmsr, u_wrmsr_end},   {u_lgdt, u_lgdt_end},
		   {u_invlpg, u_invlpg_end}, {u_swapgs, u_swapgs_end}, {u_clts, u_clts_end},
		   {u_wbinvd, u_wbinvd_end}};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		run_user(all[i].code, all[i].end, &(struct user_regs){.rcx = EFER});
		check_fault(V_GP, 0);
		check_eq(fault.rip, USER_CODE);
		check_eq(fault.cs, SEL_UCODE64);
	}
}

TEST(privilege, the_io_bitmap_opens_single_ports)
{
	tss[0][0x68 + 0x80 / 8] &= (uint8_t)~1;
	RUN_USER(u_in);
	check_eq(fault.vector, 0x80);
	tss[0][0x68 + 0x80 / 8] |= 1;
	RUN_USER(u_in);
	check_fault(V_GP, 0);
}

TEST_REAL(privilege, iopl_3_opens_all_ports_and_cli)
{
	RUN_USER(u_in, .rflags = 0x3000);
	check_eq(fault.vector, 0x80);
}

BLOB(u_popf, "push $0x3202; popf; pushf; pop %rax; int $0x80");
TEST_REAL(privilege, popf_in_ring_3_changes_neither_if_nor_iopl)
{
	RUN_USER(u_popf);
	check_eq(fault.vector, 0x80);
	check_eq(user_rax & 0x3200, 0);
}

static uint64_t sys_rcx, sys_r11, sys_flags;
static uint8_t sys_stack[4096] __attribute__((aligned(16)));
extern const uint8_t sys_entry[];
void sys_main(uint64_t rcx, uint64_t r11, uint64_t flags);
void sys_main(uint64_t rcx, uint64_t r11, uint64_t flags)
{
	sys_rcx = rcx;
	sys_r11 = r11;
	sys_flags = flags;
}
uint64_t sys_user_rsp, sys_kernel_rsp;
__asm__(".text\nsys_entry: mov %rsp, sys_user_rsp(%rip); mov sys_kernel_rsp(%rip), %rsp; push "
	"%rcx; push %r11; mov %rcx, %rdi; mov %r11, %rsi; pushf; pop %rdx;"
	"call sys_main; pop %r11; pop %rcx; mov sys_user_rsp(%rip), %rsp; sysretq\n");

BLOB(u_syscall, "syscall; mov %rcx, %rax; int $0x80");
TEST_REAL(privilege, syscall_and_sysret_carry_rip_and_flags)
{
	sys_kernel_rsp = (uint64_t)sys_stack + sizeof(sys_stack);
	wrmsr(EFER, rdmsr(EFER) | 1);
	wrmsr(STAR, (uint64_t)0x08 << 32 | (uint64_t)0x23 << 48);
	wrmsr(LSTAR, (uint64_t)sys_entry);
	wrmsr(SFMASK, 0x1);
	RUN_USER(u_syscall, .rflags = 0x41); /* ZF CF */
	check_eq(fault.vector, 0x80);
	check_eq(sys_rcx, USER_CODE + 2);
	check_eq(sys_r11 & 0x41, 0x41);
	check_eq(sys_flags & 0x41, 0x40);
	check_eq(user_rax, USER_CODE + 2);
	check_eq(fault.cs, SEL_UCODE64);
}

TEST_REAL(privilege, syscall_without_sce_is_undefined)
{
	wrmsr(EFER, rdmsr(EFER) & ~1ull);
	RUN_USER(u_syscall);
	check_fault(V_UD, 0);
}

TEST(privilege, unknown_msrs_fault_on_read_and_write)
{
	CATCH(rdmsr(0x12345678));
	check_fault(V_GP, 0);
	CATCH(wrmsr(0x12345678, 0));
	check_fault(V_GP, 0);
}

TEST_REAL(privilege, msrs_refuse_reserved_bits_and_non_canonical_addresses)
{
	CATCH(wrmsr(EFER, rdmsr(EFER) | 1ull << 40));
	check_fault(V_GP, 0);
	CATCH(wrmsr(LSTAR, 0x0000800000000000));
	check_fault(V_GP, 0);
	CATCH(wrmsr(KERNEL_GS, 0x8000000000000000));
	check_fault(V_GP, 0);
	CATCH(wrmsr(EFER, rdmsr(EFER) & ~(1ull << 8))); /* LME with paging on */
	check_fault(V_GP, 0);
	CATCH(wrmsr(0x277, 0x0202020202020202)); /* PAT: type 2 does not exist */
	check_fault(V_GP, 0);
}

TEST_REAL(privilege, control_registers_refuse_reserved_bits_and_bad_combinations)
{
	CATCH(write_cr4(read_cr4() | 1ull << 31));
	check_fault(V_GP, 0);
	CATCH(write_cr4(read_cr4() & ~(1ull << 5))); /* PAE in long mode */
	check_fault(V_GP, 0);
	CATCH(write_cr0(read_cr0() & ~1ull)); /* PE without PG off */
	check_fault(V_GP, 0);
	CATCH(write_cr0((read_cr0() | 1ull << 29) & ~(1ull << 30))); /* NW without CD */
	check_fault(V_GP, 0);
	CATCH(write_cr0(read_cr0() | 1ull << 40));
	check_fault(V_GP, 0);
	CATCH(write_cr8(16));
	check_fault(V_GP, 0);
	CATCH(write_cr3(read_cr3() | 1ull << 60));
	check_fault(V_GP, 0);
}

TEST(privilege, swapgs_exchanges_the_gs_bases)
{
	uint64_t a, b;

	wrmsr(GS_BASE, 0x1000);
	wrmsr(KERNEL_GS, 0x2000);
	__asm__ volatile("swapgs");
	a = rdmsr(GS_BASE);
	b = rdmsr(KERNEL_GS);
	wrmsr(GS_BASE, 0);
	check_eq(a, 0x2000);
	check_eq(b, 0x1000);
}

TEST(privilege, fs_and_gs_bases_take_part_in_addresses)
{
	static uint64_t words[4] = {11, 22, 33, 44};
	uint64_t v;

	wrmsr(FS_BASE, (uint64_t)words);
	__asm__ volatile("mov %%fs:16, %0" : "=r"(v));
	check_eq(v, 33);
	__asm__ volatile("mov %0, %%fs" : : "r"(0));
}

TEST(privilege, loading_bad_selectors_faults_with_the_selector)
{
	CATCH(__asm__ volatile("mov %w0, %%ds" : : "r"(0x3f8 + 0x200)));
	check_fault(V_GP, 0x5f8);
	gdt[SEL_FREE / 8] = 0x00cf13000000ffff; /* data, not present */
	CATCH(__asm__ volatile("mov %w0, %%ds" : : "r"(SEL_FREE)));
	check_fault(V_NP, SEL_FREE);
	CATCH(__asm__ volatile("mov %w0, %%ss" : : "r"(SEL_FREE)));
	check_fault(V_SS, SEL_FREE);
	CATCH(__asm__ volatile("mov %w0, %%ss" : : "r"(SEL_CODE64)));
	check_fault(V_GP, SEL_CODE64);
	CATCH(__asm__ volatile("mov %w0, %%ss" : : "r"(3)));
	check_fault(V_GP, 0);
}

TEST(privilege, loading_a_segment_sets_its_accessed_bit)
{
	gdt[SEL_FREE / 8] = 0x00cf92000000ffff;
	__asm__ volatile("mov %w0, %%es" : : "r"(SEL_FREE) : "memory");
	check_eq(gdt[SEL_FREE / 8] >> 40 & 1, 1);
}

TEST(privilege, ltr_of_a_busy_tss_faults_and_of_a_free_one_makes_it_busy)
{
	CATCH(__asm__ volatile("ltr %w0" : : "r"(SEL_TSS)));
	check_fault(V_GP, SEL_TSS);
	gdt[SEL_FREE / 8] = (gdt[8] & ~(15ull << 40)) | 9ull << 40;
	gdt[SEL_FREE / 8 + 1] = gdt[9];
	CATCH(__asm__ volatile("ltr %w0" : : "r"(SEL_FREE) : "memory"));
	check_no_fault();
	check_eq(gdt[SEL_FREE / 8] >> 40 & 15, 11);
	__asm__ volatile("str %%eax" : : : "eax");
	gdt[8] &= ~(2ull << 40);
}

TEST_REAL(privilege, lar_lsl_verr_and_verw_judge_selectors)
{
	uint32_t ar = 0, limit = 0;
	bool ok;

	__asm__ volatile("lar %3, %0; setz %1; lsl %3, %2"
			 : "=&r"(ar), "=&qm"(ok), "=&r"(limit)
			 : "r"(SEL_DATA));
	check(ok);
	check_eq(ar & 0xf0ff00, 0xc09300);
	check_eq(limit, 0xffffffff);
	__asm__ volatile("lar %2, %0; setz %1" : "+r"(ar), "=qm"(ok) : "r"(0x1f8 + 0x400));
	check(!ok);
	__asm__ volatile("verw %1; setz %0" : "=qm"(ok) : "m"(*(const uint16_t[]){SEL_CODE64}));
	check(!ok);
	__asm__ volatile("verr %1; setz %0" : "=qm"(ok) : "m"(*(const uint16_t[]){SEL_CODE64}));
	check(ok);
}

static uint64_t gate_cs, gate_ss;
void gate_target(void);
__asm__(".text\ngate_target: mov %cs, %rax; mov %rax, gate_cs_(%rip); mov 16(%rsp), %rax; mov "
	"%rax, gate_cs_ + 8(%rip); mov 24(%rsp), %rax; mov %rax, gate_cs_ + 16(%rip); lretq\n"
	".bss\ngate_cs_: .skip 24\n.text\n");
extern uint64_t gate_cs_[3];
BLOB(u_call_gate, "lea 1f(%rip), %rdx; movl $0, -16(%rsp); movw $0x63, -8(%rsp); lcall *-12(%rsp); "
		  "mov %ss, %rax; int $0x80; 1:");
TEST_REAL(privilege, a_64_bit_call_gate_goes_to_ring_0_and_back)
{
	uint64_t t = (uint64_t)gate_target;

	(void)gate_cs;
	(void)gate_ss;
	gdt[SEL_FREE / 8] =
	    (t & 0xffff) | (uint64_t)SEL_CODE64 << 16 | 0xecull << 40 | (t >> 16 & 0xffff) << 48;
	gdt[SEL_FREE / 8 + 1] = t >> 32;
	RUN_USER(u_call_gate);
	check_eq(fault.vector, 0x80);
	check_eq(gate_cs_[0], SEL_CODE64);
	check_eq(gate_cs_[2], SEL_UDATA);
	check_eq(user_rax, SEL_UDATA);
}

TEST(privilege, cpuid_reports_long_mode_and_follows_osxsave)
{
	uint32_t r[4];

	cpuid(0x80000001, 0, r);
	check(r[3] >> 29 & 1);
	cpuid(1, 0, r);
	if (!(r[2] >> 26 & 1))
		test_skip("no XSAVE");
	check(!(r[2] >> 27 & 1));
	write_cr4(read_cr4() | 1ull << 18);
	cpuid(1, 0, r);
	check(r[2] >> 27 & 1);
}

BLOB(u_ac, "pushf; orl $0x40000, (%rsp); popf; mov 1(%rsp), %eax; int $0x80");
TEST_REAL(privilege, alignment_is_checked_in_ring_3_with_am_and_ac)
{
	write_cr0(read_cr0() | 1ull << 18);
	map(USER_STACK, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	RUN_USER(u_ac);
	check_fault(V_AC, 0);
	write_cr0(read_cr0() & ~(1ull << 18));
	RUN_USER(u_ac);
	check_eq(fault.vector, 0x80);
}
