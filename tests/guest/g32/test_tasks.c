/* test_tasks.c: hardware task switching (SDM3 8): what is saved, linked and marked busy, and where
 * each kind of fault is reported. */
#include "g32.h"

static struct tss32 task_a, task_b, task_df;
static volatile uint32_t ran, seen_tr, seen_flags, seen_cr0;

static unsigned type_of(unsigned selector)
{
	return (unsigned)(gdt[selector / 8] >> 40) & 15;
}
#define FREE_TSS 9
#define BUSY_TSS 11

static void note(void)
{
	uint32_t flags, tr;

	__asm__ volatile("pushf; pop %0; str %1" : "=r"(flags), "=r"(tr));
	ran++;
	seen_flags = flags;
	seen_tr = tr;
	seen_cr0 = read_cr0();
}

static void returning_task(void)
{
	for (;;) {
		note();
		__asm__ volatile("iret");
	}
}

static void jumping_task(void)
{
	for (;;) {
		note();
		__asm__ volatile("ljmp $0x28, $0");
	}
}

static void clear_nt(void)
{
	__asm__ volatile("pushf; andl $~0x4000, (%%esp); popf" : : : "memory", "cc");
}

TEST_REAL(task, a_call_switches_to_a_task_and_iret_comes_back)
{
	ran = 0;
	make_tss(SEL_TSS_A, &task_a, returning_task);
	CATCH(__asm__ volatile("lcall $0x38, $0"));
	check_no_fault();
	check_eq(ran, 1);
	check_eq(seen_tr, SEL_TSS_A);
	check_eq(task_a.link, SEL_TSS);
	check(seen_flags & EFLAGS_NT);
	check_eq(type_of(SEL_TSS_A), FREE_TSS);
	check_eq(type_of(SEL_TSS), BUSY_TSS);
	check(!(task_a.eflags & EFLAGS_NT)); /* IRET clears it in the image it leaves behind */
	CATCH(__asm__ volatile("lcall $0x38, $0"));
	check_no_fault();
	check_eq(ran, 2); /* went on after its IRET */
}

TEST_REAL(task, a_called_task_and_its_caller_are_busy)
{
	ran = 0;
	make_tss(SEL_TSS_A, &task_a, returning_task);
	__asm__ volatile("lcall $0x38, $0" : : : "memory");
	make_tss(SEL_TSS_B, &task_b, returning_task);
	gdt[SEL_TSS_B / 8] |= 2ull << 40;
	CATCH(__asm__ volatile("lcall $0x40, $0"));
	check_fault(V_GP, SEL_TSS_B);
	CATCH(__asm__ volatile("ljmp $0x40, $0"));
	check_fault(V_GP, SEL_TSS_B);
	CATCH(__asm__ volatile("ljmp $0x28, $0")); /* itself */
	check_fault(V_GP, SEL_TSS);
}

TEST_REAL(task, a_jump_frees_the_old_task_and_links_nothing)
{
	ran = 0;
	make_tss(SEL_TSS_A, &task_a, jumping_task);
	task_a.link = 0x1234;
	CATCH(__asm__ volatile("ljmp $0x38, $0"));
	check_no_fault();
	check_eq(ran, 1);
	check_eq(task_a.link, 0x1234);
	check(!(seen_flags & EFLAGS_NT));
	check_eq(type_of(SEL_TSS_A), FREE_TSS);
	check_eq(type_of(SEL_TSS), BUSY_TSS);
}

TEST_REAL(task, the_old_tasks_registers_are_saved_and_come_back)
{
	uint32_t b = 0x1111, s = 0x2222, d = 0x3333, next;

	make_tss(SEL_TSS_A, &task_a, returning_task);
	__asm__ volatile("lcall $0x38, $0; 1: mov $1b, %3"
			 : "+b"(b), "+S"(s), "+D"(d), "=&r"(next)
			 :
			 : "memory");
	check_eq(b, 0x1111);
	check_eq(s, 0x2222);
	check_eq(d, 0x3333);
	check_eq(main_task.tss.ebx, 0x1111);
	check_eq(main_task.tss.esi, 0x2222);
	check_eq(main_task.tss.edi, 0x3333);
	check_eq(main_task.tss.eip, next);
	check_eq(main_task.tss.cs, SEL_CODE);
	check_eq(main_task.tss.ss, SEL_DATA);
}

CODE(task_registers, "push %eax; push %ecx; push %edx; push %ebp; mov %fs, %eax; push %eax; ud2");
TEST_REAL(task, the_new_tasks_registers_come_from_its_tss)
{
	make_tss(SEL_TSS_A, &task_a, task_registers);
	task_a.eax = 0xaaaa0001;
	task_a.ecx = 0xcccc0002;
	task_a.edx = 0xdddd0003;
	task_a.ebp = 0xbbbb0004;
	task_a.fs = SEL_UDATA;
	CATCH(__asm__ volatile("ljmp $0x38, $0"));
	check_fault(V_UD, 0);
	check_eq(fault_frame.ecx, 0xcccc0002);
	check_eq(fault_frame.edx, 0xdddd0003);
	check_eq(fault_frame.ebp, 0xbbbb0004);
	check_eq(fault_frame.eax, SEL_UDATA);
	check_eq(*(uint32_t *)(task_a.esp - 4), 0xaaaa0001);
}

TEST_REAL(task, every_switch_sets_ts_and_drops_local_breakpoints)
{
	make_tss(SEL_TSS_A, &task_a, returning_task);
	__asm__ volatile("clts");
	write_dr7(0x400 | 0x55 | 0xaa); /* no address is set that anything hits: all are 0 */
	CATCH(__asm__ volatile("lcall $0x38, $0"));
	check_no_fault();
	check(seen_cr0 & 8);
	check(read_cr0() & 8);
	check_eq(read_dr7() & 0xff, 0xaa);
	write_dr7(0x400);
	__asm__ volatile("clts");
}

TEST_REAL(task, a_task_gate_in_the_idt_is_a_nested_task)
{
	ran = 0;
	make_tss(SEL_TSS_A, &task_a, returning_task);
	set_gate(0x60, 0, SEL_TSS_A, 0x85);
	CATCH(__asm__ volatile("int $0x60"));
	check_no_fault();
	check_eq(ran, 1);
	check_eq(task_a.link, SEL_TSS);
	check(seen_flags & EFLAGS_NT);
}

CODE(u_task_gate, "lcall $0x68, $0; int $0x80");
CODE(u_task, "lcall $0x38, $0; int $0x80");
TEST_REAL(task, a_task_gate_in_the_gdt_has_the_privilege_that_counts)
{
	ran = 0;
	make_tss(SEL_TSS_A, &task_a, returning_task); /* DPL 0 */
	set_descriptor(SEL_FREE, call_gate(SEL_TSS_A, 0, 0, 0xe5));
	run_user(u_task_gate, 0);
	check_eq(fault.vector, 0x80);
	check_eq(ran, 1);
	run_user(u_task, 0);
	check_fault(V_GP, SEL_TSS_A);
	set_descriptor(SEL_FREE, call_gate(SEL_TSS_A, 0, 0, 0x85));
	run_user(u_task_gate, 0);
	check_fault(V_GP, SEL_FREE);
	set_descriptor(SEL_FREE, call_gate(SEL_TSS_A, 0, 0, 0x65));
	run_user(u_task_gate, 0);
	check_fault(V_NP, SEL_FREE);
	set_descriptor(SEL_FREE, call_gate(SEL_DATA, 0, 0, 0xe5));
	run_user(u_task_gate, 0);
	check_fault(V_GP, SEL_DATA);
}

static void calls_b(void)
{
	for (;;) {
		__asm__ volatile("lcall $0x40, $0" : : : "memory");
		ran += 100;
		__asm__ volatile("iret");
	}
}
TEST_REAL(task, nested_calls_return_in_order)
{
	ran = 0;
	make_tss(SEL_TSS_A, &task_a, calls_b);
	make_tss(SEL_TSS_B, &task_b, returning_task);
	CATCH(__asm__ volatile("lcall $0x38, $0"));
	check_no_fault();
	check_eq(ran, 101);
	check_eq(task_b.link, SEL_TSS_A);
	check_eq(task_a.link, SEL_TSS);
}

TEST_REAL(task, bad_tss_descriptors_fault_in_the_old_task)
{
	make_tss(SEL_TSS_A, &task_a, returning_task);
	set_descriptor(SEL_TSS_A, descriptor((uint32_t)&task_a, 0x66, 0x89, 0));
	CATCH(__asm__ volatile("lcall $0x38, $0"));
	check_fault(V_TS, SEL_TSS_A);
	set_descriptor(SEL_TSS_A, descriptor((uint32_t)&task_a, 0x67, 0x09, 0));
	CATCH(__asm__ volatile("lcall $0x38, $0"));
	check_fault(V_NP, SEL_TSS_A);
	set_gate(0x60, 0, SEL_DATA, 0x85);
	CATCH(__asm__ volatile("int $0x60"));
	check_fault(V_GP, SEL_DATA);
	check_eq(type_of(SEL_TSS), BUSY_TSS);
	__asm__ volatile("str %0" : "=r"(seen_tr));
	check_eq(seen_tr, SEL_TSS);
}

static void nt_iret(void)
{
	__asm__ volatile("pushf; orl $0x4000, (%%esp); popf; iret" : : : "memory", "cc");
}
TEST_REAL(task, iret_with_nt_checks_the_back_link)
{
	make_tss(SEL_TSS_A, &task_a, returning_task);
	main_task.tss.link = SEL_TSS_A; /* not busy */
	CATCH(nt_iret());
	clear_nt();
	check_fault(V_TS, SEL_TSS_A);
	main_task.tss.link = SEL_DATA;
	CATCH(nt_iret());
	clear_nt();
	check_fault(V_TS, SEL_DATA);
	main_task.tss.link = 0xbf8;
	CATCH(nt_iret());
	clear_nt();
	check_fault(V_TS, 0xbf8);
}

static uint16_t faulting_tr(void)
{
	uint32_t tr;

	__asm__ volatile("str %0" : "=r"(tr));
	return (uint16_t)tr;
}

/* From here on the CPU has switched: the fault is the new task's. */
static void check_new_task(unsigned vector, uint32_t error)
{
	check_fault(vector, error);
	check_eq(faulting_tr(), SEL_TSS_A);
	check_eq(fault.eip, task_a.eip);
	test_cleanup();
}

static void switch_to_a(void)
{
	CATCH(__asm__ volatile("ljmp $0x38, $0"));
}

TEST_REAL(task, a_bad_data_segment_faults_in_the_new_task)
{
	make_tss(SEL_TSS_A, &task_a, returning_task);
	task_a.es = 0xbf8;
	switch_to_a();
	check_new_task(V_TS, 0xbf8);
	make_tss(SEL_TSS_A, &task_a, returning_task);
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x13, 0xc));
	task_a.fs = SEL_FREE;
	switch_to_a();
	check_new_task(V_NP, SEL_FREE);
}

TEST_REAL(task, a_bad_stack_segment_faults_in_the_new_task)
{
	/* In ring 3, so that the fault has a stack to go to. */
	make_tss(SEL_TSS_A, &task_a, returning_task);
	task_a.cs = SEL_UCODE;
	task_a.ss = SEL_DATA;
	switch_to_a();
	check_eq(fault.cs, SEL_UCODE);
	check_new_task(V_TS, SEL_DATA);
	make_tss(SEL_TSS_A, &task_a, returning_task);
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x73, 0xc));
	task_a.cs = SEL_UCODE;
	task_a.ss = SEL_FREE | 3;
	switch_to_a();
	check_new_task(V_SS, SEL_FREE);
}

TEST_REAL(task, a_bad_ldt_faults_in_the_new_task)
{
	make_tss(SEL_TSS_A, &task_a, returning_task);
	task_a.cs = SEL_UCODE;
	task_a.ss = task_a.ds = task_a.es = task_a.fs = task_a.gs = SEL_UDATA;
	task_a.ldt = SEL_DATA;
	switch_to_a();
	check_new_task(V_TS, SEL_DATA);
}

TEST_REAL(task, an_instruction_pointer_past_the_limit_faults_in_the_new_task)
{
	make_tss(SEL_TSS_A, &task_a, returning_task);
	set_descriptor(SEL_FREE, descriptor(0, 0xfff, 0x9b, 4));
	task_a.cs = SEL_FREE;
	switch_to_a();
	check_new_task(V_GP, 0);
}

static uint64_t ldt_a[2];
CODE(task_ldt, "mov %fs:0, %eax; ud2");
TEST_REAL(task, the_new_task_has_its_own_ldt)
{
	static uint32_t word;

	word = 0x600d;
	ldt_a[1] = descriptor((uint32_t)&word, 3, 0x93, 4);
	set_descriptor(SEL_LDT_A, descriptor((uint32_t)ldt_a, 15, 0x82, 0));
	make_tss(SEL_TSS_A, &task_a, task_ldt);
	task_a.ldt = SEL_LDT_A;
	task_a.fs = 1 * 8 + 4;
	switch_to_a();
	check_fault(V_UD, 0);
	check_eq(fault_frame.eax, 0x600d);
	__asm__ volatile("sldt %0" : "=r"(seen_tr));
	check_eq(seen_tr & 0xffff, SEL_LDT_A);
}

TEST_REAL(task, the_t_bit_traps_before_the_first_instruction)
{
	make_tss(SEL_TSS_A, &task_a, returning_task);
	task_a.trap = 1;
	switch_to_a();
	check_eq(fault.vector, V_DB);
	check_eq(fault.eip, (uint32_t)returning_task);
	check_eq(read_dr6() >> 15 & 1, 1);
}

static uint32_t *flat_directory(void)
{
	uint32_t *dir = alloc_page();

	for (uint32_t i = 0; i < 16; i++)
		dir[i] = i << 22 | 0x83;
	return dir;
}
CODE(task_cr3, "mov 0x40000000, %eax; ud2");
TEST_REAL(task, the_new_task_has_its_own_page_tables)
{
	uint32_t *a = flat_directory(), *b = flat_directory(), *ta = alloc_page(),
		 *tb = alloc_page();
	uint32_t *pa = alloc_page(), *pb = alloc_page();

	*pa = 0xaaaa;
	*pb = 0xbbbb;
	a[256] = (uint32_t)ta | 3;
	b[256] = (uint32_t)tb | 3;
	ta[0] = (uint32_t)pa | 3;
	tb[0] = (uint32_t)pb | 3;
	write_cr4(read_cr4() | 0x10);
	write_cr3((uint32_t)a);
	write_cr0(read_cr0() | 0x80000000);
	check_eq(*(volatile uint32_t *)0x40000000, 0xaaaa);
	make_tss(SEL_TSS_A, &task_a, task_cr3);
	task_a.cr3 = (uint32_t)b;
	switch_to_a();
	check_fault(V_UD, 0);
	check_eq(fault_frame.eax, 0xbbbb);
	check_eq(read_cr3(), (uint32_t)b);
}

struct tss16 {
	uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es,
	    cs, ss, ds, ldt;
};
static struct tss16 task16;
CODE(task16_code, "movzwl %ax, %eax; movzwl %cx, %ecx; mov %eax, %ss:0; mov %ecx, %ss:4; inc %dx; "
		  "iret; jmp task16_code");
TEST_REAL(task, a_16_bit_task_is_called_and_returns)
{
	uint32_t *page = alloc_page();

	memset(&task16, 0, sizeof(task16));
	set_descriptor(SEL_FREE, descriptor((uint32_t)task16_code, 0xff, 0x9b, 4));
	set_descriptor(SEL_FREE + 8, descriptor((uint32_t)page, 0xfff, 0x93, 0));
	task16.cs = SEL_FREE;
	task16.ss = SEL_FREE + 8;
	task16.ds = task16.es = SEL_DATA;
	task16.sp = 0x800;
	task16.flags = 2;
	task16.ax = 0x1234;
	task16.cx = 0x5678;
	task16.dx = 7;
	set_descriptor(SEL_TSS_A, descriptor((uint32_t)&task16, sizeof(task16) - 1, 0x81, 0));
	CATCH(__asm__ volatile("lcall $0x38, $0"));
	check_no_fault();
	check_eq(page[0], 0x1234);
	check_eq(page[1], 0x5678);
	check_eq(task16.link, SEL_TSS);
	check_eq(task16.dx, 8); /* saved on the way out */
	check_eq(type_of(SEL_TSS_A), 1);
	set_descriptor(SEL_TSS_A, descriptor((uint32_t)&task16, 0x2a, 0x81, 0));
	CATCH(__asm__ volatile("lcall $0x38, $0"));
	check_fault(V_TS, SEL_TSS_A);
}

TEST_REAL(task, a_16_bit_tss_supplies_the_inner_stack)
{
	static struct tss16 t;
	struct frame f = user_frame(u_task, 0);
	uint32_t *page = alloc_page();

	memset(&t, 0, sizeof(t));
	/* sp0 has 16 bits: a stack segment of its own */
	set_descriptor(SEL_FREE, descriptor((uint32_t)page, 0xffff, 0x93, 4));
	t.ss0 = SEL_FREE;
	t.sp0 = 0x1000;
	set_descriptor(SEL_TSS_A, descriptor((uint32_t)&t, sizeof(t) - 1, 0x81, 0));
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS_A));
	f.eip += 7; /* its int $0x80 */
	set_gate(0x80, (uint32_t)alloc_page(), SEL_CODE, 0xee);
	*(uint16_t *)(uint32_t)(((idt[0x80] >> 32) & 0xffff0000) | (idt[0x80] & 0xffff)) = 0x0b0f;
	CATCH(frame_enter(&f)); /* ud2 on that stack; SS and DS differ until the jump back */
	check_eq(page[1024 - 1], SEL_UDATA);
	check_eq(page[1024 - 2], f.esp3);
}

/* #GP cannot be delivered, which makes a double fault; its task puts the return address right. */
static volatile uint32_t df_error, df_link, df_eip;
void df_main(uint32_t error);
void df_main(uint32_t error)
{
	df_error = error;
	df_link = task_df.link;
	df_eip = main_task.tss.eip;
	main_task.tss.eip += 2; /* over the MOV */
}
CODE(df_entry, "call df_main; add $4, %esp; iret; jmp df_entry");
extern const uint8_t df_at[];
TEST_REAL(task, a_double_fault_goes_through_a_task_gate)
{
	make_tss(SEL_TSS_DF, &task_df, df_entry);
	set_gate(V_DF, 0, SEL_TSS_DF, 0x85);
	set_gate(V_GP, 0, SEL_CODE, 0x0e);
	set_gate(V_NP, 0, SEL_CODE, 0x0e);
	df_error = 0x55;
	__asm__ volatile("df_at: mov %0, %%es" : : "a"(0xbf8) : "memory");
	check_eq(df_error, 0);
	check_eq(df_eip, (uint32_t)df_at);
	check_eq(df_link, SEL_TSS);
	check_eq(type_of(SEL_TSS), BUSY_TSS);
	check_eq(type_of(SEL_TSS_DF), FREE_TSS);
}

TEST_REAL(task, ring_3_code_with_a_bad_stack_pointer_is_no_double_fault)
{
	struct frame f = user_frame(u_task, 0);

	f.esp3 = 3;
	f.eip += 7;
	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
}
