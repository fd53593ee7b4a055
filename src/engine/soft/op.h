/* op.h: macros that make one handler per operand size and form. */
#ifndef ENGINE_SOFT_OP_H
#define ENGINE_SOFT_OP_H

#include "engine/soft/core.h"

/* Assembler suffix of an operand width. */
#define SFX_8  "b"
#define SFX_16 "w"
#define SFX_32 "l"
#define SFX_64 "q"

/* Calls M(..., width) for every width. */
#define OP_WIDTHS(M, ...)                                                                          \
	M(__VA_ARGS__, 8)                                                                          \
	M(__VA_ARGS__, 16)                                                                         \
	M(__VA_ARGS__, 32)                                                                         \
	M(__VA_ARGS__, 64)
#define OP_WIDTHS_16(M, ...)                                                                       \
	M(__VA_ARGS__, 16)                                                                         \
	M(__VA_ARGS__, 32)                                                                         \
	M(__VA_ARGS__, 64)
#define OP_NAMES(name)                                                                             \
	{                                                                                          \
		name##_8, name##_16, name##_32, name##_64                                          \
	}
#define OP_NAMES_16(name)                                                                          \
	{                                                                                          \
		NULL, name##_16, name##_32, name##_64                                              \
	}

/* Register writes: 32 bits clear the upper half. */
#define REG_SET_8(cpu, r, v)  (*(uint8_t *)soft_reg(cpu, r) = (uint8_t)(v))
#define REG_SET_16(cpu, r, v) (*(uint16_t *)soft_reg(cpu, r) = (uint16_t)(v))
#define REG_SET_32(cpu, r, v) (*(uint64_t *)soft_reg(cpu, r) = (uint32_t)(v))
#define REG_SET_64(cpu, r, v) (*(uint64_t *)soft_reg(cpu, r) = (v))

/* Reads the memory operand. */
#define MEM_READ(cpu, i, w) soft_read##w(cpu, (i)->seg, soft_lin(cpu, i, w / 8, 0))

/* Host flags from af and back: every flag is defined afterwards. */
#define FLAGS_LOAD "andb $1, %%al\n\taddb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_SAVE "\n\tlahf\n\tseto %%al"

#endif
