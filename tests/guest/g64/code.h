/* code.h: machine code that a test places where it likes and runs with registers of its choice. */
#ifndef GUEST_G64_CODE_H
#define GUEST_G64_CODE_H

#include "g64.h"

/* What the soft engine's translator takes for worth translating, and some. */
#define WARM 12

#define RFLAGS_ARITH 0x8d5ull
#define RFLAGS_TF    0x100ull
#define RFLAGS_IF    0x200ull
#define RFLAGS_DF    0x400ull

/* All registers but RSP; order as CPUs number them. */
struct regs {
	uint64_t rax, rcx, rdx, rbx, unused, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip, rflags;
};

/* Calls r->rip with all of r; what is in the registers at its RET is there afterwards. On the
 * caller's stack, any CPU. */
void regs_call(struct regs *r);
/* The same in ring 3 with this stack pointer, ended by int $0x80 or a fault: registers in r, the
 * rest in `fault`. The code must be mapped for users. */
void regs_user(struct regs *r, uint64_t rsp);

/* A page with this code at an offset. */
uint8_t *place(const uint8_t *code, const uint8_t *end, unsigned offset);
#define PLACE(name, offset) place(name, name##_end, offset)

/* Numbers that are the same in every run. */
uint32_t random_next(void);
void random_seed(uint32_t seed);

/* Fewer rounds on an emulator of a million instructions a second. */
static inline unsigned rounds(unsigned n)
{
	return cmdline_has("slow") || cmdline_has("few") ? (n + 19) / 20 : n;
}

/* For what takes long: as many only with the word "long". */
static inline unsigned many(unsigned n)
{
	return cmdline_has("long") ? n : rounds(n / 8);
}

#endif
