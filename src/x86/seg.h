/* seg.h: segment descriptors and gates: decoding, and the checks that need no memory (SDM3 3.4.5,
 * 5, 6.11, 8.2). */
#ifndef X86_SEG_H
#define X86_SEG_H

#include "x86/regs.h"
#include "x86/state.h"

/* System descriptor types (SDM3 table 3-2). */
enum x86_systype {
	X86_SYS_TSS16 = 1,
	X86_SYS_LDT = 2,
	X86_SYS_TSS16_BUSY = 3,
	X86_SYS_CALL16 = 4,
	X86_SYS_TASK = 5,
	X86_SYS_INT16 = 6,
	X86_SYS_TRAP16 = 7,
	X86_SYS_TSS32 = 9,
	X86_SYS_TSS32_BUSY = 11,
	X86_SYS_CALL32 = 12,
	X86_SYS_INT32 = 14,
	X86_SYS_TRAP32 = 15,
};

/* Type bits of code and data segments. */
#define X86_TYPE_A    1u /* accessed */
#define X86_TYPE_W    2u /* data: writable */
#define X86_TYPE_R    2u /* code: readable */
#define X86_TYPE_E    4u /* data: expand-down */
#define X86_TYPE_C    4u /* code: conforming */
#define X86_TYPE_CODE 8u

#define X86_SEL_TI	   4u
#define X86_SEL_RPL(s)	   ((s)&3u)
#define X86_SEL_INDEX(s)   ((uint32_t)(s) & ~7u)
#define X86_SEL_IS_NULL(s) (((s) & ~3u) == 0)

/* The fields of an 8-byte descriptor; `attr` as in struct x86_seg. */
static inline uint32_t desc_attr(uint64_t d)
{
	return (uint32_t)(d >> 40) & 0xf0ff;
}
static inline uint32_t desc_base(uint64_t d)
{
	return ((uint32_t)(d >> 16) & 0xffffff) | ((uint32_t)(d >> 32) & 0xff000000);
}
static inline uint32_t desc_limit(uint64_t d)
{
	uint32_t limit = ((uint32_t)d & 0xffff) | ((uint32_t)(d >> 32) & 0xf0000);

	return d >> 55 & 1 ? limit << 12 | 0xfff : limit;
}
static inline unsigned desc_type(uint64_t d)
{
	return (unsigned)(d >> 40) & 15;
}
static inline unsigned desc_dpl(uint64_t d)
{
	return (unsigned)(d >> 45) & 3;
}
static inline _Bool desc_present(uint64_t d)
{
	return d >> 47 & 1;
}
static inline _Bool desc_is_system(uint64_t d)
{
	return !(d >> 44 & 1);
}
static inline _Bool desc_is_code(uint64_t d)
{
	return !desc_is_system(d) && desc_type(d) & X86_TYPE_CODE;
}

/* A segment register from an 8-byte descriptor; `high` is bits 63:32 of the base for system
 * descriptors of 64-bit mode, else 0. */
struct x86_seg seg_from_desc(uint16_t selector, uint64_t desc, uint32_t high);
/* The descriptor that would load this segment (low 8 bytes). */
uint64_t seg_to_desc(const struct x86_seg *seg);

/* A gate of 8 or 16 bytes (`high`: the second 8 bytes in IA-32e mode, else 0). */
struct x86_gate {
	uint64_t offset;
	uint16_t selector;
	uint8_t type, dpl, ist, count; /* count: parameters of a call gate */
	_Bool present;
};
struct x86_gate gate_decode(uint64_t low, uint64_t high);

/* Do `size` bytes at `offset` lie inside the segment's limit (expand-down included)? For code of
 * any mode but 64-bit. */
_Bool seg_limit_allows(const struct x86_seg *seg, uint32_t offset, unsigned size);

/* May a data segment register (DS, ES, FS, GS) be loaded from this descriptor? Returns the vector
 * to raise (#GP, #NP) or -1. */
int seg_check_data(uint64_t desc, unsigned cpl, unsigned rpl);
/* May SS at the privilege level `cpl`? #GP, #SS (not present) or -1. */
int seg_check_stack(uint64_t desc, unsigned cpl, unsigned rpl);

/* Must a data segment register be made null when code returns to an outer ring (SDM2 RET)? */
_Bool seg_hidden_from(const struct x86_seg *seg, unsigned cpl);

/* Null as the vendors keep it: unusable. `cpl` stays in the DPL field, which is where SS holds the
 * privilege level. */
struct x86_seg seg_null(uint16_t selector, unsigned cpl);

/* What loading a segment register does in real-address mode (virtual-8086: `v86`, which sets access
 * rights and limit as well). Real mode keeps limit and rights ("unreal mode"), but those of a null
 * segment, which become usual ones. */
void seg_load_real(struct x86_seg *seg, uint16_t selector, _Bool v86);

#endif
