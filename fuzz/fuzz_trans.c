/* fuzz_trans.c: hostile code against the translator: its own page tables, code that it writes over,
 * anything at all; in lock-step with the interpreter.
 *
 * What is asked: both give the same results (lock-step stops otherwise, which aborts here); no
 * memory mapping is ever writable and executable; bytes around the guest's RAM, the tables of page
 * flags and the translator's mappings are not touched (there is nothing around them to touch: a
 * wrong address ends the process, and the address sanitizer sees the rest of the heap).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/soft/core.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/testboard.h"
#include "engine/soft/trans.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ROUNDS	   4 /* runs of the engine */
#define BLOCKS	   100
#define CHECK_MAPS 1024

static void check_maps(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];

	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		if (strstr(line, " rwx") || strstr(line, " -wx"))
			abort();
	fclose(f);
}

/* Pieces of code that do what random bytes hardly ever do. The operand is a byte of the input. */
static size_t piece(uint8_t *p, uint8_t kind, uint8_t operand)
{
	static const struct {
		uint8_t bytes[16], len, at; /* `at`: where the operand goes, or 0 */
	} pieces[] = {
	    /* Entries of the first page table: another frame or other rights for one of its pages.
	     */
	    {{0x80, 0x34, 0x25, 0x00, 0x30, 0x10, 0x00, 0x01}, 8, 3}, /* xor byte [PT + n], 1 */
	    {{0x80, 0x34, 0x25, 0x41, 0x30, 0x10, 0x00, 0x10}, 8, 7}, /* ... frame of 0x8000 */
	    {{0x80, 0x34, 0x25, 0x40, 0x30, 0x10, 0x00, 0x02}, 8, 7}, /* ... its rights */
	    {{0x0f, 0x01, 0x3c, 0x25, 0x00, 0x80, 0x00, 0x00}, 8, 5}, /* invlpg */
	    {{0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8}, 6, 0},	      /* cr3 = cr3 */
	    {{0xc6, 0x04, 0x25, 0x10, 0x80, 0x00, 0x00, 0x90}, 8, 3}, /* mov byte [code], nop */
	    {{0xc6, 0x04, 0x25, 0x10, 0x80, 0x00, 0x00, 0x90}, 8, 7}, /* mov byte [code], n */
	    {{0xc6, 0x04, 0x25, 0x10, 0x90, 0x00, 0x00, 0x90}, 8, 3}, /* in the next page */
	    {{0x48, 0x89, 0xe0, 0x48, 0xc7, 0xc4, 0x20, 0x80, 0, 0}, 10, 6}, /* stack in the code */
	    {{0xbf, 0x00, 0x80, 0x00, 0x00, 0xb9, 0x20, 0, 0, 0, 0xf3, 0xaa},
	     12,
	     6}, /* rep stosb */
	    {{0xbf, 0xf0, 0x8f, 0x00, 0x00, 0xb9, 0x08, 0, 0, 0, 0xf3, 0xa5},
	     12,
	     6},							     /* rep movsd */
	    {{0xf0, 0x48, 0x0f, 0xc1, 0x04, 0x25, 0xfc, 0x8f, 0, 0}, 10, 6}, /* lock xadd */
	    {{0xeb, 0xf0}, 2, 1},					     /* jmp */
	    {{0xe8, 0, 0, 0, 0}, 5, 1},					     /* call */
	    {{0x75, 0xf0}, 2, 1},					     /* jnz */
	    {{0x48, 0x8d, 0x04, 0x25, 0x10, 0x80, 0, 0, 0xff, 0xe0}, 10, 4}, /* jmp rax */
	    {{0x48, 0x8d, 0x04, 0x25, 0x10, 0x80, 0, 0, 0xff, 0xd0}, 10, 4}, /* call rax */
	    {{0xc3}, 1, 0},						     /* ret */
	    {{0x9c, 0x9d}, 2, 0},					     /* pushfq; popfq */
	    {{0x66, 0x0f, 0x11, 0x04, 0x25, 0xf8, 0x8f, 0, 0}, 9, 5},	     /* movupd [], xmm0 */
	    {{0xdd, 0x1c, 0x25, 0x10, 0x80, 0, 0}, 7, 3},		     /* fstp qword [] */
	};
	unsigned n = kind % ARRAY_SIZE(pieces);

	memcpy(p, pieces[n].bytes, pieces[n].len);
	if (pieces[n].at)
		p[pieces[n].at] = operand;
	return pieces[n].len;
}

/* A byte below 0x60 is a piece with the next byte as its operand; above, that many raw bytes
 * follow. */
static size_t compose(uint8_t *code, size_t room, const uint8_t *data, size_t size)
{
	size_t at = 0;

	while (size >= 2 && at + 32 < room) {
		if (data[0] < 0x60) {
			at += piece(code + at, data[0], data[1]);
			data += 2;
			size -= 2;
			continue;
		}
		size_t n = MIN((size_t)(data[0] & 15) + 1, size - 1);
		memcpy(code + at, data + 1, n);
		at += n;
		data += n + 1;
		size -= n + 1;
	}
	return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct board *b;
	static unsigned runs;
	uint8_t code[0x1800];

	if (size < 20)
		return 0;
	if (!b || ++runs % 256 == 0) {
		if (b)
			board_free(b);
		log_set_level(LOG_ERROR);
		setenv("BOARD_SOFT", "lockstep", 1);
		b = board_new(1);
	}
	if (runs % CHECK_MAPS == 0)
		check_maps();
	/* What is found is found again: nothing of the last input is left. */
	lockstep_reset(b->cpu);
	board_clear(b);
	for (uint64_t lin = 0; lin < 0x200000; lin += 0x1000)
		board_pte_set(b, lin, lin | 7 | ((data[0] & 16) ? 0x60 : 0));
	memset(code, 0x90, sizeof(code));
	size_t len = compose(code, sizeof(code), data + 17, size - 17);
	uint64_t at = data[0] & 0x80 ? BOARD_CODE + 0x1000 - 40 : BOARD_CODE;
	board_load(b, at, code, len + 16);
	if (data[0] & 1)
		board_user(b, at);
	else
		board_long(b, at);
	for (unsigned r = 0; r < 16; r++)
		if (r != X86_RSP)
			b->cpu->s.gpr[r] = (uint64_t)(int64_t)(int8_t)data[1 + r]
					   << (data[0] >> 1 & 7) * 2;
	for (unsigned k = 0; k < ROUNDS; k++) {
		cpu_link_clear(&b->cpu->base.link, ~(uint32_t)CPU_EVENT_ENGINE);
		lockstep_stop_after(b->cpu, BLOCKS);
		int rc = engine_soft.run(&b->cpu->base);
		if (rc < 0) {
			fprintf(stderr, "%s\n", b->cpu->base.failure);
			abort();
		}
		if (rc != RUN_KICKED)
			break;
	}
	return 0;
}
