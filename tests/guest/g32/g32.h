/* g32.h: what tests in 32-bit protected mode can use: faults caught, descriptors, tasks, ring 3,
 * virtual-8086 and real mode. */
#ifndef GUEST_G32_H
#define GUEST_G32_H

#include "../lib/runtime.h"

/* As the stubs push it; esp3 and ss3 only from an outer ring, the v86 segments only from
 * virtual-8086 mode. */
struct frame {
	uint32_t gs, fs, es, ds;
	uint32_t edi, esi, ebp, esp, ebx, edx, ecx, eax;
	uint32_t vector, error, eip, cs, eflags, esp3, ss3, es86, ds86, fs86, gs86;
};

enum selector {
	SEL_CODE = 0x08,
	SEL_DATA = 0x10,
	SEL_UCODE = 0x1b,
	SEL_UDATA = 0x23,
	SEL_TSS = 0x28,
	SEL_TSS_DF = 0x30,
	SEL_TSS_A = 0x38,
	SEL_TSS_B = 0x40,
	SEL_LDT_A = 0x48,
	SEL_LDT_B = 0x50,
	SEL_CODE16 = 0x58,
	SEL_DATA16 = 0x60,
	SEL_FREE = 0x68,
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
	V_AC
};
#define V_NONE	       256
#define EFLAGS_TF      0x100u
#define EFLAGS_IF      0x200u
#define EFLAGS_NT      0x4000u
#define EFLAGS_VM      0x20000u
#define EFLAGS_IOPL(n) ((uint32_t)(n) << 12)

extern uint64_t gdt[128];
struct fault {
	unsigned vector;
	uint32_t error, eip, cr2, eflags, cs, esp3;
};
extern struct fault fault;
extern struct frame fault_frame; /* the whole of it */
extern struct jump fault_jump;
extern volatile int fault_armed;
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

typedef bool trap_handler(struct frame *f);
void set_handler(unsigned vector, trap_handler *fn); /* removed after each test */
/* type: 0x8e interrupt gate, 0x8f trap gate, 0x85 task gate (target unused), + 0x60 for DPL 3; put
 * back after each test */
void set_gate(unsigned vector, uint32_t target, uint16_t selector, unsigned type);

/* Descriptors; put back after each test. access: P|DPL|S|type; flags: 0xc = 4 KiB granules and 32
 * bits. */
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
void set_descriptor(unsigned selector, uint64_t value);
uint64_t call_gate(uint16_t selector, uint32_t offset, unsigned params,
		   unsigned access); /* access 0x8c 32-bit, 0x84 16-bit, + DPL */

struct tss32 {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp,
	    ebp, esi, edi;
	uint32_t es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, iomap;
};
/* Loaded in TR; its I/O bitmap forbids everything. */
struct main_task {
	struct tss32 tss;
	uint8_t bitmap[8192 + 1];
};
extern struct main_task main_task;
/* A TSS ready to start at `eip` in ring 0, flat, with a stack of its own; also writes its
 * descriptor. */
void make_tss(unsigned selector, struct tss32 *t, void (*eip)(void));

/* Page tables (two-level by default; paging is off until a test turns it on). 4 KiB pages from a
 * pool, freed after each test. */
void *alloc_page(void);

#define RW(name)                                                                                   \
	static inline uint32_t read_##name(void)                                                   \
	{                                                                                          \
		uint32_t v;                                                                        \
		__asm__ volatile("mov %%" #name ", %0" : "=r"(v));                                 \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_##name(uint32_t v)                                                \
	{                                                                                          \
		__asm__ volatile("mov %0, %%" #name : : "r"(v) : "memory");                        \
	}
RW(cr0)
RW(cr2)
RW(cr3)
RW(cr4)
RW(dr6)
RW(dr7)

/* Position-independent machine code: 32-bit (BLOB) or 16-bit (BLOB16). */
#define BLOB(name, text)                                                                           \
	extern const uint8_t name[], name##_end[];                                                 \
	__asm__(".pushsection .rodata\n" #name ":\n" text "\n" #name "_end:\n.popsection\n")
#define BLOB16(name, text) BLOB(name, ".code16\n" text "\n.code32")

/* Code in assembly, named for C. It may use no stack frame of C's. */
#define CODE(name, text)                                                                           \
	void name(void);                                                                           \
	__asm__(".pushsection .text\n" #name ":\n" text "\n.popsection\n")

/* Continues from a frame: ring 3 or virtual-8086 mode too. Stack for traps from there:
   main_task.tss.esp0. */
void frame_enter(struct frame *f) __attribute__((noreturn));
/* Ring 3, flat segments, own stack; ends with a fault or int $0x80. */
void run_user(void (*fn)(void), uint32_t eflags);
/* The frame that run_user begins with, for a test to change before CATCH(frame_enter(&f)). */
struct frame user_frame(void (*fn)(void), uint32_t eflags);
/* Virtual-8086 mode: the code is copied to 0x10000 (1000:0000), stack 2000:fff0, DS=ES=3000. Ends
 * with a fault. */
void run_v86(const uint8_t *code, const uint8_t *end, uint32_t eflags);
#define RUN_V86(name, eflags) run_v86(name, name##_end, eflags)
/* Real mode: the code is copied to 0000:0600 and called far (end it with lret); EAX in and out. */
uint32_t run_real(const uint8_t *code, const uint8_t *end, uint32_t eax);
#define RUN_REAL(name, eax) run_real(name, name##_end, eax)
/* 16-bit protected mode: the code is copied to 0058:0600 and called far from 32-bit code (end it
 * with lretl); EAX in and out; data segments are flat, the stack is the caller's. */
uint32_t run_16(const uint8_t *code, const uint8_t *end, uint32_t eax);
#define RUN_16(name, eax) run_16(name, name##_end, eax)

/* LDT and TSS descriptors' access bytes, and a struct to load a table register from. */
struct table {
	uint16_t limit;
	uint32_t base;
} __attribute__((packed));
void load_idt(uint32_t limit); /* the image's own IDT, cut short; put back after each test */
extern uint64_t idt[256];

#endif
