/* randinsn.h: random instruction sequences, run by the host's CPU and by the interpreter. */
#ifndef RANDINSN_H
#define RANDINSN_H

#include <Zydis/Zydis.h>
#include "base/util.h"

/*
 * Both sides see the same user address space: two pages of code, which can be written, a page of
 * data that can be written and one that cannot, a page for the counters of loops, and nothing else
 * below the kernel's half. All below 2 GiB, so that every addressing form reaches them.
 */
#define RI_CODE	      UINT64_C(0x20000000)
#define RI_DATA	      UINT64_C(0x20100000)
#define RI_CONST      UINT64_C(0x20101000)
#define RI_COUNT      UINT64_C(0x20180000)
#define RI_PAGE	      4096u
#define RI_CODE_BYTES (2 * RI_PAGE)
#define RI_ROUNDS     4	   /* of a loop, unless it changes its counter */
#define RI_START      256u /* of the code in its page, so that jumps backwards would stay in it */

#define RI_MAX_INSNS 24
#define RI_BATCH     256

/* In 64-bit code; FS belongs to the host's C library. */
#define RI_GS_BASE (RI_DATA + 512)

/* Selectors, as Linux gives them to 64-bit programs; the guest's GDT has the same. */
#define RI_CS64 0x33
#define RI_CS32 0x23
#define RI_SS	0x2b

#define RI_FX_BYTES 160
struct ri_state {
	uint64_t gpr[16];
	uint64_t rip, rflags;
	uint8_t vec[32][64];
	uint64_t k[8];
	uint8_t fx[RI_FX_BYTES]; /* FXSAVE image up to the x87 registers */
};

struct ri_insn {
	uint8_t bytes[15];
	uint8_t len;
	uint8_t skip; /* relative branches: how many instructions to leave out; else 0 */
	/* In programs: a branch back over so many instructions, itself included; or a store into
	 * the immediate operand of the instruction that is `patch` instructions away, when that one
	 * is `patchable`: its last byte. */
	uint8_t back;
	int8_t patch; /* with `patches` */
	_Bool patches, patchable;
	_Bool absolute; /* `skip` is the 32-bit operand behind the first byte: an address */
};

/* One test: what is run and from which state. */
struct ri_case {
	uint64_t seed;
	_Bool mode32, avx512;
	unsigned start; /* of the code in its pages */
	unsigned count;
	struct ri_insn insn[RI_MAX_INSNS];
	struct ri_state state;
	uint8_t data[RI_PAGE];
};

/* What came out: every sequence ends with an exception, INT3 at the latest. */
struct ri_result {
	struct ri_state state;
	uint32_t vector, error;
	uint64_t cr2;
	_Bool lost; /* it did not end, or the process died */
	uint8_t data[RI_PAGE];
	uint8_t code[RI_CODE_BYTES]; /* as the sequence left it */
};

/* random.c */
struct ri_random {
	uint64_t s[2];
};
void ri_seed(struct ri_random *r, uint64_t seed);
uint64_t ri_next(struct ri_random *r);
static inline unsigned ri_below(struct ri_random *r, unsigned n)
{
	return (unsigned)((ri_next(r) >> 32) % n);
}
static inline _Bool ri_chance(struct ri_random *r, unsigned percent)
{
	return ri_below(r, 100) < percent;
}
/* The constant page, the same for all. */
void ri_const_page(uint8_t page[RI_PAGE]);

/* generate.c */
/* `program`: also loops, stores into the code, code and data across pages. `avx512`: mostly its
 * instructions, and random values in all of its registers. */
void ri_generate(struct ri_case *c, uint64_t seed, _Bool program, _Bool avx512);
/* Bytes of the code pages from c->start on: displacements of branches are worked out here. Returns
 * the length; the rest of the pages is INT3. */
unsigned ri_assemble(const struct ri_case *c, uint8_t code[RI_CODE_BYTES]);
void ri_decoder(ZydisDecoder *decoder, _Bool mode32);

/* native.c: a child process that runs cases on the CPU itself. */
struct ri_native;
/* Does the host have AVX-512, with all lengths? */
_Bool ri_native_avx512(void);
NODISCARD int ri_native_new(struct ri_native **n);
void ri_native_free(struct ri_native *n);
/* Starts `count` (at most RI_BATCH) cases; wait gives the results. */
void ri_native_start(struct ri_native *n, const struct ri_case *cases, unsigned count);
const struct ri_result *ri_native_wait(struct ri_native *n);

/* guest.c: the interpreter with a minimal machine around it. */
struct ri_guest;
NODISCARD int ri_guest_new(struct ri_guest **g, _Bool translate, _Bool avx512);
void ri_guest_free(struct ri_guest *g);
void ri_guest_run(struct ri_guest *g, const struct ri_case *c, struct ri_result *out);

/* plant.c: bugs put into the interpreter on purpose. */
_Bool ri_plant(const char *name); /* false: no such name */
void ri_plant_list(void);

/* compare.c */
/* Names of what differs, or an empty string. */
void ri_compare(const struct ri_case *c, const struct ri_result *native,
		const struct ri_result *guest, char *what, size_t size);
void ri_show(const struct ri_case *c, const struct ri_result *native,
	     const struct ri_result *guest);

#endif
