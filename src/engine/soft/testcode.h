/* testcode.h: guest code in the text of a test, and a board for each test to run it on. */
#ifndef ENGINE_SOFT_TESTCODE_H
#define ENGINE_SOFT_TESTCODE_H

#include "engine/soft/testboard.h"

/* Assembles AT&T text for 16-, 32- or 64-bit code as the bytes from `name` to `name_end`. */
#define CODE_BITS(name, bits, text)                                                                \
	extern const uint8_t name[], name##_end[];                                                 \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text "\n" #name               \
		"_end:\n.code64\n.popsection\n")
#define CODE(name, text) CODE_BITS(name, 64, text)

/* Set-ups of a test whose *state becomes a board: as the environment says, or in one of its ways.
 */
int board_setup(void **state);
int board_setup_translate(void **state);
int board_setup_lockstep(void **state);
int board_setup_direct(void **state);
int board_teardown(void **state);

/* Loads such code at BOARD_CODE and runs it in 64-bit mode, ring 0; as board_run. */
int board_run_long(struct board *b, const uint8_t *code, const uint8_t *end);
#define RUN_LONG(b, name) board_run_long(b, name, name##_end)

#endif
