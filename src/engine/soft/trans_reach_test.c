/* trans_reach_test.c: no instruction's translation reaches beyond the page that its operand is in.
 *
 * One page of guest RAM is mapped at a few places, its linear neighbours are not present, and its
 * neighbours in the host's mapping cannot be accessed: an access of host code that the inline check
 * did not speak for, be it a byte further on, is a SIGSEGV here. Instructions of all opcodes are
 * tried, their operand as near to the page's ends as its size allows and one byte nearer, formed in
 * every way, with extreme values in all other registers (bit offsets, counts, indices).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "engine/soft/core.h"
#include "engine/soft/testboard.h"
#include "engine/soft/trans.h"

#define WINDOW UINT64_C(0x40000) /* the page, physical */
#define TABLES UINT64_C(0x50000) /* of the places below */
/* Where trials are executed: pages of their own, 64-bit and then 32-bit code, as one that is
 * written and executed in turn would be interpreted. */
#define CODE  UINT64_C(0x200000)
#define PAGES 256u
#define ROOM  32u
#define PAGE  4096u

/* Linear: the middle of nowhere, the ends of both halves of the address space. */
static const uint64_t places[] = {WINDOW, UINT64_C(0x7ffffffff000), UINT64_C(0xfffffffffffff000),
				  UINT64_C(0xffff800000000000)};

struct fixture {
	struct board *b;
	struct x86_state start;
	uint64_t random;
	_Bool narrow;
};

/* For the signal handler, which has no other way to know: what is being run. */
static _Thread_local const char *volatile running;

static void crashed(int sig)
{
	if (running) {
		ssize_t n = write(2, running, strlen(running));
		(void)n;
	}
	_exit(99);
}

static uint64_t next(struct fixture *f)
{
	return board_random(&f->random);
}
static unsigned below(struct fixture *f, unsigned n)
{
	return (unsigned)(next(f) % n);
}

static void window_map(struct board *b, uint64_t lin, unsigned n)
{
	uint64_t table = BOARD_PML4;

	if (lin == WINDOW)
		return;
	for (unsigned level = 3; level; level--) {
		uint64_t at = table + ((lin >> (12 + 9 * level)) & 511) * 8;
		if (!(board_read(b, at, 8) & 1))
			board_write(b, at, 8, (TABLES + (n * 4 + level) * PAGE) | 7);
		table = board_read(b, at, 8) & ~UINT64_C(0xfff);
	}
	board_write(b, table + ((lin >> 12) & 511) * 8, 8, WINDOW | 7);
}

static void host_protect(struct board *b, uint64_t phys, int prot)
{
	const struct soft_slot *slot = soft_ram_slot(&b->cpu->engine->ram, phys);

	assert_non_null(slot);
	assert_int_equal(mprotect(slot->host + (phys - slot->base), PAGE, prot), 0);
}

/* Wherever a trial jumps to, it soon halts. */
static void halts_fill(struct board *b)
{
	static const struct {
		uint64_t from, to;
	} parts[] = {
	    {0x9000, WINDOW - PAGE}, {TABLES + 0x10000, BOARD_PML4}, {BOARD_PT + 0x2000, 0x400000}};
	uint8_t page[PAGE];

	memset(page, 0xf4, sizeof(page));
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
		for (uint64_t at = parts[i].from; at < parts[i].to; at += PAGE)
			board_load(b, at, page, sizeof(page));
	for (unsigned i = 2; i < 512; i++) /* beyond 4 MiB there is nothing */
		board_write(b, BOARD_PML4 + 0x2000 + i * 8, 8, 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct board *b;

	assert_non_null(f);
	setenv("BOARD_SOFT", "translate", 1);
	f->random = UINT64_C(0x9e3779b97f4a7c15); /* the same trials every time */
	f->b = b = board_new(1);
	halts_fill(b);
	for (unsigned n = 0; n < ARRAY_SIZE(places); n++)
		window_map(b, places[n], n);
	board_pte_set(b, 0, 0);
	board_pte_set(b, WINDOW - PAGE, 0);
	board_pte_set(b, WINDOW + PAGE, 0);
	host_protect(b, WINDOW - PAGE, PROT_NONE);
	host_protect(b, WINDOW + PAGE, PROT_NONE);
	board_long(b, BOARD_CODE);
	assert_int_equal(engine_soft.get_state(&b->cpu->base, &f->start), 0);
	f->start.cr4 |= X86_CR4_OSXSAVE;
	f->start.xcr0 = 7;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	host_protect(f->b, WINDOW - PAGE, PROT_READ | PROT_WRITE);
	host_protect(f->b, WINDOW + PAGE, PROT_READ | PROT_WRITE);
	board_free(f->b);
	free(f);
	return 0;
}

/* An instruction being made, its state, and what its operand's address is made of. */
struct trial {
	struct x86_state s;
	uint8_t code[ROOM];
	unsigned len, size, skip; /* skip: what brings the page into the TLB */
	_Bool string;
	int base, index, scale; /* -1: none */
	/* Of a displacement relative to the next instruction, of an absolute one; 0: none. */
	unsigned disp_at, abs_at;
	int32_t disp;
};

static void put(struct trial *t, uint64_t v, unsigned bytes)
{
	memcpy(t->code + t->len, &v, bytes);
	t->len += bytes;
}

/* ModRM, SIB and displacement. The high bits of base and index go to the prefix that was written
 * before: *rex for 0100WRXB, or inverted as VEX has them. */
static void put_operand(struct fixture *f, struct trial *t, unsigned reg)
{
	unsigned r = (reg & 7) << 3;

	if (t->base < 0 && t->index < 0) {
		if (!f->narrow && below(f, 2)) {
			put(t, r | 5, 1);
			t->disp_at = t->len;
		} else {
			put(t, r | 4, 1);
			put(t, 0x25, 1);
			t->abs_at = t->len;
		}
	} else {
		put(t, 0x80 | r | 4, 1);
		put(t,
		    (unsigned)t->scale << 6 | (unsigned)(t->index < 0 ? 4 : t->index & 7) << 3 |
			(unsigned)(t->base & 7),
		    1);
	}
	put(t, (uint32_t)t->disp, 4);
}

static void choose_operand(struct fixture *f, struct trial *t)
{
	unsigned regs = f->narrow ? 8 : 16;

	t->base = t->index = -1;
	t->scale = 0;
	t->disp = 0;
	if (!below(f, 8))
		return;
	t->base = (int)below(f, regs);
	t->disp = below(f, 2) ? 0 : (int32_t)(below(f, 1000) - 500);
	if (below(f, 2)) {
		t->index = (int)below(f, regs);
		t->scale = (int)below(f, 4);
		if (t->index == X86_RSP || t->index == t->base)
			t->index = -1;
	}
	if (!below(f, 4)) {
		t->base = X86_RSP;
		t->index = -1;
	}
}

static void put_legacy(struct fixture *f, struct trial *t)
{
	static const uint8_t prefixes[] = {0, 0, 0x66, 0xf2, 0xf3, 0xf0};
	unsigned map = below(f, 4), reg = below(f, f->narrow ? 8 : 16);
	uint8_t prefix = prefixes[below(f, ARRAY_SIZE(prefixes))];

	if (prefix)
		put(t, prefix, 1);
	if (!f->narrow)
		put(t,
		    0x40u | below(f, 2) << 3 | (reg & 8) >> 1 | (t->index >= 8) << 1 |
			(t->base >= 8),
		    1);
	if (map)
		put(t, 0x0f, 1);
	if (map > 1)
		put(t, map == 2 ? 0x38 : 0x3a, 1);
	put(t, below(f, 256), 1);
	put_operand(f, t, reg);
}

static void put_vex(struct fixture *f, struct trial *t)
{
	unsigned reg = below(f, f->narrow ? 8 : 16), map = 1 + below(f, 3);

	put(t, 0xc4, 1);
	put(t,
	    (reg & 8 ? 0 : 0x80u) | (t->index >= 8 ? 0 : 0x40u) | (t->base >= 8 ? 0 : 0x20u) | map,
	    1);
	put(t, below(f, 2) << 7 | (below(f, 2) ? 15u : below(f, 16) | 8) << 3 | below(f, 8), 1);
	put(t, below(f, 256), 1);
	put_operand(f, t, reg);
}

/* The size of what a sound instruction accesses; 0: there is none, or it may run for ever. */
static unsigned operand_size(struct fixture *f, struct trial *t)
{
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecoder d;
	unsigned size = 0;

	ZydisDecoderInit(&d,
			 f->narrow ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
			 f->narrow ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(
		ZydisDecoderDecodeFull(&d, t->code + t->skip, sizeof(t->code) - t->skip, &zi, ops)))
		return 0;
	switch (zi.meta.category) {
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_INTERRUPT: return 0;
	case ZYDIS_CATEGORY_STRINGOP:
	case ZYDIS_CATEGORY_IOSTRINGOP: t->string = 1; break;
	default: break;
	}
	for (unsigned i = 0; i < zi.operand_count; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[i].imm.is_relative)
			return 0;
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[i].size / 8 > size &&
		    ops[i].size <= 64 * 8)
			size = ops[i].size / 8;
	}
	t->len = t->skip + zi.length;
	t->size = size;
	return size;
}

static uint64_t extreme(struct fixture *f)
{
	switch (below(f, 5)) {
	case 0: return next(f);
	case 1: return UINT64_C(1) << below(f, 64);
	case 2: return -(UINT64_C(1) << below(f, 64));
	case 3: return below(f, 64);
	default: return ~UINT64_C(0) >> below(f, 64);
	}
}

/* Registers such that the operand is at `lin`. */
static void aim(struct fixture *f, struct trial *t, struct x86_state *s, uint64_t lin)
{
	uint64_t rest = lin - (uint64_t)(int64_t)t->disp;

	for (unsigned r = 0; r < 16; r++)
		if (r != X86_RSP)
			s->gpr[r] = extreme(f);
	/* Strings: not over the tables that all of this needs, nor for minutes. */
	s->gpr[X86_RSI] = lin;
	s->gpr[X86_RDI] = below(f, 2) ? lin : lin & ~UINT64_C(63);
	if (t->string)
		s->gpr[X86_RCX] = below(f, 0x2000);
	if (f->narrow)
		for (unsigned r = 0; r < 8; r++)
			s->gpr[r] = (uint32_t)s->gpr[r];
	if (t->index >= 0) {
		s->gpr[t->index] = below(f, 2) ? below(f, 512) : (uint64_t) - (int)below(f, 512);
		rest -= s->gpr[t->index] << t->scale;
		if (f->narrow)
			s->gpr[t->index] = (uint32_t)s->gpr[t->index];
	}
	if (t->base >= 0) {
		s->gpr[t->base] = f->narrow ? (uint32_t)rest : rest;
	} else if (t->disp_at) {
		uint32_t disp = (uint32_t)(lin - (s->rip + t->len));
		memcpy(t->code + t->disp_at, &disp, 4);
	} else {
		uint32_t disp =
		    (uint32_t)lin; /* extended with its sign: some other place, or not */
		memcpy(t->code + t->abs_at, &disp, 4);
	}
}

static _Bool make(struct fixture *f, struct trial *t, uint64_t rip)
{
	uint64_t lin = places[f->narrow ? 0 : below(f, ARRAY_SIZE(places))];

	memset(t, 0, sizeof(*t));
	t->s = f->start;
	t->s.rip = rip;
	put(t, 0xa2, 1); /* mov [lin], al */
	put(t, lin, f->narrow ? 4 : 8);
	t->skip = t->len;
	choose_operand(f, t);
	if (below(f, 3))
		put_legacy(f, t);
	else
		put_vex(f, t);
	put(t, next(f), 8);
	if (!operand_size(f, t))
		return 0;
	switch (below(f, 8)) {
	case 0: lin += PAGE - t->size + 1; break; /* a byte too far */
	case 1: lin += below(f, PAGE); break;
	case 2:
	case 3: break;
	default: lin += PAGE - t->size; break;
	}
	aim(f, t, &t->s, lin);
	t->code[t->len] = 0xf4;
	if (f->narrow) {
		t->s.seg[X86_CS].selector = BOARD_CS32;
		t->s.seg[X86_CS].attr = 0xc09b;
	}
	return 1;
}

static void try_it(struct fixture *f, const struct trial *t)
{
	static const char hex[] = "0123456789abcdef";
	char text[128] = "\nthe page was left by ";
	unsigned at = (unsigned)strlen(text);
	int rc;

	for (unsigned i = 0; i < t->len; i++) {
		text[at++] = hex[t->code[i] >> 4];
		text[at++] = hex[t->code[i] & 15];
	}
	text[at++] = '\n';
	text[at] = 0;
	cpu_link_clear(&f->b->cpu->base.link, ~(uint32_t)CPU_EVENT_ENGINE);
	assert_int_equal(engine_soft.set_state(&f->b->cpu->base, &t->s), 0);
	running = text;
	rc = engine_soft.run(&f->b->cpu->base);
	running = NULL;
	assert_true(rc >= 0);
}

static void try_many(struct fixture *f)
{
	const unsigned count = PAGES * (PAGE / ROOM);
	struct trial *trials = calloc(PAGE / ROOM, sizeof(*trials));
	uint64_t before = f->b->cpu->stats.translated;

	assert_non_null(trials);
	signal(SIGSEGV, crashed); /* in the place of cmocka's, which knows less */
	for (unsigned done = 0; done < count; done += PAGE / ROOM) {
		uint64_t page = CODE + (done / (PAGE / ROOM) + (f->narrow ? PAGES : 0)) * PAGE;
		for (unsigned i = 0; i < PAGE / ROOM; i++) {
			while (!make(f, &trials[i], page + i * ROOM))
				;
			board_load(f->b, page + i * ROOM, trials[i].code, ROOM);
		}
		for (unsigned i = 0; i < PAGE / ROOM; i++)
			try_it(f, &trials[i]);
	}
	free(trials);
	assert_true(f->b->cpu->stats.translated - before > count / 2);
}

static void no_64_bit_instruction_leaves_the_page(void **state)
{
	try_many(*state);
}

static void no_32_bit_instruction_leaves_the_page(void **state)
{
	struct fixture *f = *state;

	f->narrow = 1;
	try_many(f);
	f->narrow = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(no_64_bit_instruction_leaves_the_page),
	    cmocka_unit_test(no_32_bit_instruction_leaves_the_page),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
