/* g64.h: what tests in 64-bit mode can use: faults caught, pages mapped, ring 3, interrupts, other
 * CPUs. */
#ifndef GUEST_G64_H
#define GUEST_G64_H

#include "../lib/runtime.h"

/* A trap's frame, as the stubs push it. */
struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

enum selector {
	SEL_CODE64 = 0x08,
	SEL_DATA = 0x10,
	SEL_CODE32 = 0x18,
	SEL_UCODE32 = 0x23,
	SEL_UDATA = 0x2b,
	SEL_UCODE64 = 0x33,
	SEL_TSS = 0x40,
	SEL_FREE = 0x60
};

enum vector {
	V_DE,
	V_DB,
	V_NMI,
	V_BP,
	V_OF,
	V_BR,
	V_UD,
	V_NM,
	V_DF,
	V_TS = 10,
	V_NP,
	V_SS,
	V_GP,
	V_PF,
	V_MF = 16,
	V_AC,
	V_MC,
	V_XM
};
#define V_NONE 256

extern uint64_t gdt[64], pml4[512], pdpt[512];

/* The last fault that CATCH caught: vector V_NONE when there was none. */
struct fault {
	unsigned vector;
	uint64_t error, rip, cr2, rflags, rsp, dr6;
	uint16_t cs;
};
extern struct fault fault;
extern struct jump fault_jump;
extern volatile int fault_armed;

/* Runs statements; an exception in them ends them and is told in `fault`. */
#define CATCH(...)                                                                                 \
	do {                                                                                       \
		fault.vector = V_NONE;                                                             \
		fault_armed = 1;                                                                   \
		if (!jump_save(&fault_jump)) {                                                     \
			__VA_ARGS__;                                                               \
		}                                                                                  \
		fault_armed = 0;                                                                   \
	} while (0)
#define check_fault(vec, err)                                                                      \
	do {                                                                                       \
		check_eq(fault.vector, vec);                                                       \
		check_eq(fault.error, err);                                                        \
	} while (0)
#define check_no_fault() check_eq(fault.vector, V_NONE)

/* A handler of a test's own for a vector; returns true when the trap was dealt with (execution goes
 * on from the frame). NULL: none. All are removed after each test. */
typedef bool trap_handler(struct frame *f);
void set_handler(unsigned vector, trap_handler *fn);

/* IDT access: for tests that change a gate. Put back after each test. */
struct gate {
	uint16_t offset0, selector;
	uint8_t ist, type;
	uint16_t offset1;
	uint32_t offset2, zero;
};
extern struct gate idt[256];
void set_gate(unsigned vector, uint64_t target, uint16_t selector, unsigned type, unsigned ist);
extern uint8_t trap_stubs[256 * 16];
extern uint8_t tss[2][0x2080]; /* TSS of CPU 0 and 1 with I/O bitmap at 0x68 */
#define IST_STACK_TOP(n) ((uint64_t)ist_stacks[(n)-1] + sizeof(ist_stacks[0]))
extern uint8_t ist_stacks[7][4096];

/* Page tables. alloc_page gives a zeroed page (all freed after each test). map makes a 4 KiB entry
 * in the present tables, with user and write rights in the upper levels; pte returns the entry's
 * place at level 1 (4 KiB) to 4, or NULL. */
#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_A  0x20ull
#define PTE_D  0x40ull
#define PTE_PS 0x80ull
#define PTE_G  0x100ull
#define PTE_NX (1ull << 63)
void *alloc_page(void);
uint64_t *map(uint64_t va, uint64_t pa, uint64_t flags);
uint64_t *pte(uint64_t va, unsigned level);
static inline void invlpg(uint64_t va)
{
	__asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}
#define RW(name)                                                                                   \
	static inline uint64_t read_##name(void)                                                   \
	{                                                                                          \
		uint64_t v;                                                                        \
		__asm__ volatile("mov %%" #name ", %0" : "=r"(v));                                 \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_##name(uint64_t v)                                                \
	{                                                                                          \
		__asm__ volatile("mov %0, %%" #name : : "r"(v) : "memory");                        \
	}
RW(cr0)
RW(cr2)
RW(cr3)
RW(cr4)
RW(cr8)
RW(dr0)
RW(dr1)
RW(dr2)
RW(dr3)
RW(dr6)
RW(dr7)

/* Where tests may map things: nothing is there at first. */
#define FREE_VA	   0x0000100000000000ull /* own PML4 slot */
#define USER_CODE  0x0000200000000000ull
#define USER_STACK 0x0000200000100000ull /* one page below it */

/*
 * Machine code for ring 3: BLOB(name, "asm text") defines it; run_user copies it to USER_CODE and
 * runs it there (code64 or compatibility mode selector) with its stack at USER_STACK. It ends with
 * an exception or `int $0x80`, both told in `fault` (vector 0x80: rax in user_rax).
 */
#define BLOB(name, text)                                                                           \
	extern const uint8_t name[], name##_end[];                                                 \
	__asm__(".pushsection .rodata\n" #name ":\n" text "\n" #name "_end:\n.popsection\n")
struct user_regs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rflags;
	uint16_t cs; /* 0: SEL_UCODE64 */
};
extern uint64_t user_rax;
void run_user(const uint8_t *code, const uint8_t *end, const struct user_regs *regs);
#define RUN_USER(name, ...) run_user(name, name##_end, &(struct user_regs){__VA_ARGS__})

/* Local APIC (xAPIC page by default) and waiting. */
#define APIC 0xfee00000ull
static inline uint32_t apic_read(unsigned reg)
{
	return *(volatile uint32_t *)(APIC + reg);
}
static inline void apic_write(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)(APIC + reg) = v;
}
/* Enables the local APIC (spurious vector 0xff) and masks the PICs. */
void apic_enable(void);
/* Lets interrupts in until *flag is set, or fails the test after about `ms` milliseconds (by the PM
 * timer). */
void wait_for(volatile int *flag, unsigned ms);
#define PM_TIMER 0x608
uint32_t pm_timer(void); /* 3.579545 MHz, 32 bits */
void delay_us(unsigned us);
/* Lets pending interrupts in. The port read gives an engine that looks for them between
 * instructions only now and then a moment to do so. */
static inline void let_in(void)
{
	uint32_t v;

	__asm__ volatile("sti; nop; inl %%dx, %0; nop; cli" : "=a"(v) : "d"(PM_TIMER) : "memory");
}

/* Other CPUs, started on first use. cpu_run makes CPU n (1..) call fn(arg); cpu_join waits for it.
 */
void cpu_run(unsigned n, void (*fn)(void *arg), void *arg);
void cpu_join(unsigned n);

#endif
