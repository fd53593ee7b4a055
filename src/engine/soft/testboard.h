/* testboard.h: a small board with one CPU on the software engine, for tests and benchmarks. */
#ifndef ENGINE_SOFT_TESTBOARD_H
#define ENGINE_SOFT_TESTBOARD_H

#include "engine/soft/cpu.h"

/*
 * 16 MiB of RAM, 4 KiB of ROM at BOARD_ROM, a device of 4 KiB at BOARD_MMIO that remembers the last
 * access, and on ports from BOARD_PORT. Tables: a GDT (selectors below), an IDT of every mode whose
 * handlers are HLT, page tables that map the first 4 MiB by 4 KiB pages and the rest by 2 MiB
 * pages, one to one.
 */
#define BOARD_RAM      (16u << 20)
#define BOARD_GDT      0x1000u
#define BOARD_IDT      0x2000u
#define BOARD_TSS      0x3000u
#define BOARD_HANDLERS 0x4000u /* 16 bytes apart */
#define BOARD_STACK    0x7000u /* top */
#define BOARD_STACK0   0x6000u /* top of ring 0's stack in the TSS */
#define BOARD_CODE     0x8000u
#define BOARD_DATA     0x20000u
#define BOARD_PML4     0x100000u
#define BOARD_PT       0x103000u /* of the first 2 MiB; the next page of the next 2 MiB */
#define BOARD_ROM      0xf000000u
#define BOARD_MMIO     0xe000000u
#define BOARD_PORT     0x100u

#define BOARD_CS64 0x08
#define BOARD_CS32 0x10
#define BOARD_DS   0x18
#define BOARD_CS3  0x23 /* 64-bit, ring 3 */
#define BOARD_DS3  0x2b
#define BOARD_TR   0x30

struct board {
	struct gmem *mem;
	struct space *ports, *memory;
	struct doors doors;
	struct clock *clock;
	struct cpuid_policy cpuid;
	struct engine_env env;
	struct engine *engine;
	struct soft_cpu *cpu;
	struct device *dev;
	int pending_vector; /* what the interrupt controller answers; -1: none */
};

/* Asserts on failure. The environment may say BOARD_SOFT=translate: then every block is
 * translated at once; or direct: then user code runs in a helper process wherever it may. */
struct board *board_new(unsigned cpus);
void board_free(struct board *b);
/* All of RAM as after board_new: zero but for the tables. The CPU is as it was. */
void board_clear(struct board *b);
/* Puts the CPU at `rip` in 64-bit mode, ring 0, paging on. */
void board_long(struct board *b, uint64_t rip);
/* 32-bit protected mode, flat, paging off. */
void board_prot(struct board *b, uint32_t rip);
/* Real mode, all segments 0. */
void board_real(struct board *b, uint16_t rip);
/* As board_long, in ring 3 with every page made a user page. */
void board_user(struct board *b, uint64_t rip);
void board_load(struct board *b, uint64_t addr, const void *bytes, size_t len);
uint64_t board_read(struct board *b, uint64_t addr, unsigned size);
void board_write(struct board *b, uint64_t addr, unsigned size, uint64_t value);
/* The page-table entry of an address below 4 MiB. */
uint64_t board_pte(struct board *b, uint64_t lin);
void board_pte_set(struct board *b, uint64_t lin, uint64_t pte);
/* Runs until HLT; returns the vector when it was a handler's, -1 when it was another HLT, -2 after
 * shutdown. Other results fail. */
int board_run(struct board *b);
/* Runs code at BOARD_CODE, in 64-bit mode and ring 0, that goes round for ever, until it stays in
 * host code; then it is kicked, which must end it. Its code is dropped. */
void board_kick_loop(struct board *b, const uint8_t *code, const uint8_t *end);
/* A word of the present stack: 0 is the top. */
uint64_t board_stack(struct board *b, unsigned index);
/* What the device at BOARD_MMIO saw last. */
struct board_access {
	uint64_t offset, value;
	unsigned size, count;
	_Bool write;
};
struct board_access *board_access(struct board *b);
/* What is fetched from it, from its first byte on. */
void board_device_code(struct board *b, const uint8_t *code, size_t bytes);

/* Random numbers that are the same each time; *state is not 0. */
static inline uint64_t board_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * UINT64_C(0x2545f4914f6cdd1d) >> 11;
}

#endif
