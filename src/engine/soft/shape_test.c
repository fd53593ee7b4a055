/* shape_test.c: tests that what is kept by shape is what Zydis and the decoder say of the bytes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "engine/soft/core.h"
#include "engine/soft/testcode.h"

#define BYTES 16u

static uint32_t next(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

/* Something like an instruction: any prefixes, any opcode of any map, any operands. */
static void bytes_make(uint8_t *p, uint32_t *seed)
{
	static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0x2e, 0x64, 0x65, 0xf0, 0x67, 0x36};
	unsigned n = 0;

	for (unsigned k = 0; k < BYTES; k++)
		p[k] = (uint8_t)next(seed);
	while (next(seed) % 4 == 0 && n < 3)
		p[n++] = prefixes[next(seed) % sizeof(prefixes)];
	if (next(seed) % 3 == 0)
		p[n++] = (uint8_t)(0x40 | next(seed) % 16);
	switch (next(seed) % 8) {
	case 0:
	case 1: p[n] = 0x0f; break;
	case 2:
		p[n++] = 0x0f;
		p[n] = next(seed) % 2 ? 0x38 : 0x3a;
		break;
	case 3:
		p[n++] = 0xc5;
		p[n] &= 0x87; /* no more registers than there are */
		break;
	case 4:
		p[n++] = 0xc4;
		p[n] = (uint8_t)(0xe0 | (1 + next(seed) % 3));
		break;
	default: break;
	}
}

/* The values become others: any, small, 0, or -1. */
static void values_change(uint8_t *p, unsigned from, uint32_t *seed)
{
	unsigned how = next(seed) % 4;

	for (unsigned k = from; k < BYTES; k++)
		p[k] = how == 0 ? 0 : how == 1 ? 0xff : (uint8_t)next(seed);
	if (how == 2)
		memset(p + MIN(from + 1, BYTES), 0, BYTES - MIN(from + 1, BYTES));
}

static unsigned values_from(const struct soft_shape *s)
{
	return s->disp.bytes ? s->disp.at : s->imm.bytes ? s->imm.at : s->len;
}

/* Kept, and taken with other values. Returns how many were. */
static unsigned zydis_compare(struct soft_cpu *cpu, unsigned count, uint32_t seed)
{
	unsigned kept = 0;

	for (unsigned n = 0; n < count; n++) {
		uint8_t p[BYTES];
		struct tb_room room, fresh;

		bytes_make(p, &seed);
		soft_zydis(cpu, p, 15, &room);
		struct soft_shape *s = soft_shape_find(cpu, p, 15);
		if (!s)
			continue;
		kept++;
		for (unsigned k = 0; k < 4; k++) {
			assert_ptr_equal(soft_shape_find(cpu, p, s->len), s);
			assert_null(soft_shape_find(cpu, p, s->len - 1u));
			const struct tb_insn *i = soft_zydis(cpu, p, s->len, &room);
			assert_ptr_equal(i, &s->i);
			assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(soft_decoder(cpu), p, 15,
									&fresh.i.zi, fresh.ops)));
			assert_memory_equal(&i->zi, &fresh.i.zi, sizeof(fresh.i.zi));
			assert_memory_equal(i->ops, fresh.ops, sizeof(s->ops));
			assert_in_range(i->zi.operand_count, 0, SHAPE_OPERANDS);
			values_change(p, values_from(s), &seed);
		}
	}
	return kept;
}

static void what_is_kept_is_what_zydis_says_in_64_bit_code(void **state)
{
	struct board *b = *state;

	board_long(b, BOARD_CODE);
	assert_in_range(zydis_compare(b->cpu, 60000, 1), 30000, 60000);
}

static void what_is_kept_is_what_zydis_says_in_32_bit_code(void **state)
{
	struct board *b = *state;

	board_prot(b, BOARD_CODE);
	assert_in_range(zydis_compare(b->cpu, 60000, 2), 15000, 60000);
}

static void code_of_16_bits_is_not_kept(void **state)
{
	struct board *b = *state;

	board_real(b, BOARD_CODE);
	assert_int_equal(zydis_compare(b->cpu, 10000, 3), 0);
}

static void a_decoded_instruction_is_the_same_kept_or_not(void **state)
{
	struct board *b = *state;
	unsigned whole = 0;
	uint32_t seed = 4;

	board_long(b, BOARD_CODE);
	for (unsigned n = 0; n < 60000; n++) {
		uint8_t p[BYTES];
		struct insn kept, fresh;

		bytes_make(p, &seed);
		soft_decode(b->cpu, p, 15, &kept);
		struct soft_shape *s = soft_shape_find(b->cpu, p, 15);
		if (!s || !s->whole)
			continue;
		whole++;
		values_change(p, values_from(s), &seed);
		assert_int_equal(soft_decode(b->cpu, p, 15, &kept), 0);
		s->key = 0;
		assert_int_equal(soft_decode(b->cpu, p, 15, &fresh), 0);
		assert_memory_equal(&kept, &fresh, sizeof(fresh));
	}
	assert_in_range(whole, 15000, 60000);
}

/* Short of bytes, a kept instruction asks for more as one that is new. */
static void an_instruction_that_is_cut_off_needs_more_bytes(void **state)
{
	static const uint8_t add[] = {0x48, 0x81, 0x84, 0x8b, 1, 2, 3, 4, 5, 6, 7, 8};
	struct board *b = *state;
	struct insn insn;

	board_long(b, BOARD_CODE);
	assert_int_equal(soft_decode(b->cpu, add, sizeof(add), &insn), 0);
	for (unsigned n = 1; n < sizeof(add); n++)
		assert_int_equal(soft_decode(b->cpu, add, n, &insn), 1);
	assert_int_equal(soft_decode(b->cpu, add, sizeof(add), &insn), 0);
	assert_int_equal(insn.disp, 0x04030201);
	assert_int_equal(insn.imm, 0x08070605);
}

/* The same bytes in the modes that a guest changes between. */
static void each_mode_has_shapes_of_its_own(void **state)
{
	static const uint8_t code[] = {0x48, 0x8b, 0x05, 4, 0, 0, 0}; /* DEC EAX; MOV or RIP's */
	struct board *b = *state;
	struct insn insn;

	for (unsigned k = 0; k < 2; k++) {
		board_long(b, BOARD_CODE);
		assert_int_equal(soft_decode(b->cpu, code, sizeof(code), &insn), 0);
		assert_int_equal(insn.len, 7);
		assert_int_equal(insn.disp, 11);
		board_prot(b, BOARD_CODE);
		assert_int_equal(soft_decode(b->cpu, code, sizeof(code), &insn), 0);
		assert_int_equal(insn.len, 1);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, board_setup, board_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(what_is_kept_is_what_zydis_says_in_64_bit_code),
	    T(what_is_kept_is_what_zydis_says_in_32_bit_code),
	    T(code_of_16_bits_is_not_kept),
	    T(a_decoded_instruction_is_the_same_kept_or_not),
	    T(an_instruction_that_is_cut_off_needs_more_bytes),
	    T(each_mode_has_shapes_of_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
