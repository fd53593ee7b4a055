/* plant.c: bugs put into the interpreter on purpose, to see that they are found. */
#include "randinsn.h"

#include <stdio.h>
#include <string.h>
#include "engine/soft/cpu.h"

/*
 * The linker sends the decode cache's calls of soft_decode here (--wrap). A plant replaces one
 * instruction's handler by one that does the right thing and then something wrong, rarely enough to
 * need a search.
 */
int __real_soft_decode(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
		       struct insn *out);
int __wrap_soft_decode(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
		       struct insn *out);

struct plant {
	const char *name, *what;
	uint8_t bytes[3], mask[3], length; /* which encodings */
	insn_fn *fn;
};

/* The plant in use and the right handler, for the wrong one to call. */
static const struct plant *planted;
static insn_fn *planted_over;

static void wrong_flag(struct soft_cpu *cpu, const struct insn *i)
{
	planted_over(cpu, i);
	if ((cpu->af & SOFT_AF_SF) && !(cpu->af & SOFT_AF_CF))
		cpu->af ^= SOFT_AF_AF;
}

static void wrong_register(struct soft_cpu *cpu, const struct insn *i)
{
	planted_over(cpu, i);
	if (cpu->s.gpr[X86_RBX] & 0x80)
		cpu->s.gpr[X86_RDX] ^= 1;
}

static void wrong_vector(struct soft_cpu *cpu, const struct insn *i)
{
	planted_over(cpu, i);
	cpu->s.fpu.vec[1][15] |= 1;
}

static const struct plant plants[] = {
    {"flag", "SUB AL, imm inverts AF when it gives SF without CF", {0x2c}, {0xff}, 1, wrong_flag},
    {"register", "XCHG changes RDX by one when BL is negative", {0x87}, {0xff}, 1, wrong_register},
    {"vector", "PXOR sets a bit of XMM1", {0x66, 0x0f, 0xef}, {0xff, 0xff, 0xff}, 3, wrong_vector},
};

_Bool ri_plant(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(plants); i++) {
		if (strcmp(plants[i].name, name) == 0) {
			planted = &plants[i];
			return 1;
		}
	}
	return 0;
}

void ri_plant_list(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(plants); i++)
		printf("  %-10s %s\n", plants[i].name, plants[i].what);
}

int __wrap_soft_decode(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail, struct insn *out)
{
	int ret = __real_soft_decode(cpu, bytes, avail, out);
	_Bool match = planted && ret == 0 && avail >= planted->length;

	for (unsigned i = 0; match && i < planted->length; i++)
		match = (bytes[i] & planted->mask[i]) == planted->bytes[i];
	if (match && (!planted_over || planted_over == out->fn)) {
		planted_over = out->fn;
		out->fn = planted->fn;
	}
	return ret;
}
