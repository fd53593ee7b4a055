/* support.c: traps, descriptors, tasks, ring 3, virtual-8086 and real mode for tests in 32-bit
 * protected mode. */
#include "g32.h"

#define POOL_PAGES 256
#define V86_CODE   0x10000u
#define V86_STACK  0x20000u
#define REAL_CODE  0x600u
#define REAL_STUB  0x7000u

const char *guest_cmdline = "";
struct fault fault;
struct frame fault_frame;
struct jump fault_jump;
volatile int fault_armed;
struct main_task main_task __attribute__((aligned(16)));

static uint8_t pool[POOL_PAGES][4096] __attribute__((aligned(4096)));
static unsigned pool_used;
static uint8_t trap_stack[8192] __attribute__((aligned(16)));
static uint8_t user_stack[4096] __attribute__((aligned(16)));
static uint8_t task_stacks[4][4096] __attribute__((aligned(16)));
static unsigned task_stacks_used;
static trap_handler *handlers[256];
uint64_t idt[256] __attribute__((aligned(16)));
static uint64_t gdt_saved[128];
static uint32_t boot_cr0, boot_cr4;

extern const uint8_t trap_stubs[], real_stub[], real_stub_end[];
uint32_t real_mode(uint32_t eax);
void trap(struct frame *f);
void guest32_main(uint32_t info);

void trap(struct frame *f)
{
	if (handlers[f->vector & 255] && handlers[f->vector & 255](f))
		return;
	if (!fault_armed) {
		print("\n  unexpected trap %u, error 0x%x, cs:eip 0x%x:0x%x\n", f->vector, f->error,
		      f->cs, f->eip);
		test_fail("trap", 0, "no trap", f->vector, V_NONE);
	}
	fault = (struct fault){f->vector, f->error, f->eip, read_cr2(), f->eflags, f->cs, f->esp3};
	fault_frame = *f;
	fault_armed = 0;
	jump_to(&fault_jump, 1);
}

void set_handler(unsigned vector, trap_handler *fn)
{
	handlers[vector] = fn;
}

void set_gate(unsigned vector, uint32_t target, uint16_t selector, unsigned type)
{
	idt[vector] = (target & 0xffff) | (uint64_t)selector << 16 | (uint64_t)type << 40 |
		      (uint64_t)(target >> 16) << 48;
}

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 |
	       (uint64_t)(base >> 24) << 56;
}

void set_descriptor(unsigned selector, uint64_t value)
{
	((volatile uint64_t *)gdt)[selector / 8] = value;
}

uint64_t call_gate(uint16_t selector, uint32_t offset, unsigned params, unsigned access)
{
	return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)params << 32 |
	       (uint64_t)access << 40 | (uint64_t)(offset >> 16) << 48;
}

void make_tss(unsigned selector, struct tss32 *t, void (*eip)(void))
{
	check(task_stacks_used < 4);
	memset(t, 0, sizeof(*t));
	t->eip = (uint32_t)eip;
	t->eflags = 2;
	t->esp = t->esp0 = (uint32_t)(task_stacks[task_stacks_used++] + 4096);
	t->ss = t->ss0 = t->ds = t->es = t->fs = t->gs = SEL_DATA;
	t->cs = SEL_CODE;
	t->cr3 = read_cr3();
	t->iomap = sizeof(*t);
	set_descriptor(selector, descriptor((uint32_t)t, sizeof(*t) - 1, 0x89, 0));
}

void *alloc_page(void)
{
	check(pool_used < POOL_PAGES);
	memset(pool[pool_used], 0, 4096);
	return pool[pool_used++];
}

struct frame user_frame(void (*fn)(void), uint32_t eflags)
{
	struct frame f = {0};

	f.ds = f.es = f.fs = f.gs = SEL_UDATA;
	f.eip = (uint32_t)fn;
	f.cs = SEL_UCODE;
	f.eflags = eflags | 2;
	f.esp3 = (uint32_t)(user_stack + sizeof(user_stack));
	f.ss3 = SEL_UDATA;
	return f;
}

void run_user(void (*fn)(void), uint32_t eflags)
{
	struct frame f = user_frame(fn, eflags);

	CATCH(frame_enter(&f));
}

void run_v86(const uint8_t *code, const uint8_t *end, uint32_t eflags)
{
	struct frame f = {0};

	memcpy((void *)V86_CODE, code, (unsigned long)(end - code));
	f.ds = f.es = f.fs = f.gs = 0;
	f.cs = V86_CODE >> 4;
	f.eflags = eflags | EFLAGS_VM | 2;
	f.esp3 = 0xfff0;
	f.ss3 = V86_STACK >> 4;
	f.ds86 = f.es86 = 0x3000;
	CATCH(frame_enter(&f));
}

uint32_t run_real(const uint8_t *code, const uint8_t *end, uint32_t eax)
{
	memcpy((void *)REAL_STUB, real_stub, (unsigned long)(real_stub_end - real_stub));
	memcpy((void *)REAL_CODE, code, (unsigned long)(end - code));
	return real_mode(eax);
}

uint32_t run_16(const uint8_t *code, const uint8_t *end, uint32_t eax)
{
	memcpy((void *)REAL_CODE, code, (unsigned long)(end - code));
	__asm__ volatile("pusha; mov %0, %%eax; lcall $0x58, $0x600; mov %%eax, 28(%%esp); popa"
			 : "+a"(eax)
			 :
			 : "memory", "cc");
	return eax;
}

void load_idt(uint32_t limit)
{
	const struct table pointer = {(uint16_t)limit, (uint32_t)idt};

	__asm__ volatile("lidt %0" : : "m"(pointer));
}

unsigned cpu_count(void)
{
	return 1;
}

static void reset_idt(void)
{
	for (unsigned v = 0; v < 256; v++)
		set_gate(v, (uint32_t)trap_stubs + 16 * v, SEL_CODE,
			 v == 3 || v == 4 || v == 0x80 ? 0xee : 0x8e);
	memset(handlers, 0, sizeof(handlers));
	load_idt(sizeof(idt) - 1);
}

static void load_tss(void)
{
	memset(&main_task.tss, 0, sizeof(main_task.tss));
	memset(main_task.bitmap, 0xff, sizeof(main_task.bitmap));
	main_task.tss.esp0 = (uint32_t)(trap_stack + sizeof(trap_stack));
	main_task.tss.ss0 = SEL_DATA;
	main_task.tss.iomap = sizeof(main_task.tss);
	set_descriptor(SEL_TSS, descriptor((uint32_t)&main_task, sizeof(main_task) - 1, 0x89, 0));
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

void test_cleanup(void)
{
	__asm__ volatile("cli; cld; pushf; andl $~0x4000, (%%esp); popf" : : : "memory");
	fault_armed = 0;
	write_cr0(boot_cr0);
	write_cr4(boot_cr4);
	memcpy(gdt, gdt_saved, sizeof(gdt_saved));
	__asm__ volatile("lldt %w0" : : "r"(0));
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %0, %%fs; mov %0, %%gs"
			 :
			 : "r"(SEL_DATA));
	reset_idt();
	load_tss();
	write_dr7(0x400);
	write_dr6(0xffff0ff0);
	pool_used = 0;
	task_stacks_used = 0;
}

void guest32_main(uint32_t info)
{
	static char cmdline[512]; /* a copy: tests write to low memory */

	if (*(uint32_t *)info & 4) {
		memcpy(cmdline, (const char *)*(uint32_t *)(info + 16), sizeof(cmdline) - 1);
		guest_cmdline = cmdline;
	}
	memcpy(gdt_saved, gdt, sizeof(gdt_saved));
	boot_cr0 = read_cr0();
	boot_cr4 = read_cr4();
	test_cleanup();
	run_tests();
}
