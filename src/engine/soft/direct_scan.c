/* direct_scan.c: finds instructions that must not run natively, because their result there is not
 * the guest's: CPUID, XGETBV, RDTSCP, RDPID, and LAR and LSL of a register (with which a program
 * asks for the number of its CPU).
 *
 * RDTSC faults in a helper, and stores of descriptor tables are emulated by the host's kernel as
 * they are by the guest's (UMIP), with the same constants; these need no finding.
 *
 * Their bytes also turn up by chance inside of other instructions, in one page of fifty. Where
 * instructions begin is not marked in x86 code, but decoding that starts at a wrong byte falls into
 * step after a few instructions: so decoding from each of the bytes before a suspect is a vote on
 * whether an instruction begins there. A wrong vote costs speed, or lets a program see the host's
 * CPUID; it never lets user code do what it may not.
 */
#include "engine/soft/direct.h"

#define BACK 48u /* bytes to begin at */

static _Bool suspect(unsigned b1, unsigned b2)
{
	unsigned reg = (b2 >> 3) & 7;
	_Bool memory = b2 < 0xc0;

	switch (b1) {
	case 0xa2: return 1;			    /* CPUID */
	case 0x01: return b2 == 0xd0 || b2 == 0xf9; /* XGETBV, RDTSCP */
	case 0x02:
	case 0x03: return !memory;			 /* LAR, LSL */
	case 0xae: return memory && reg >= 4 && reg < 7; /* XSAVE, XRSTOR, XSAVEOPT */
	case 0xc7: return memory ? reg == 4 : reg == 7;	 /* XSAVEC, RDPID */
	default: return 0;
	}
}

/* Does an instruction begin at `off`, or with prefixes right before it? */
static _Bool begins(const ZydisDecoder *decoder, const uint8_t *page, unsigned off)
{
	unsigned first = off > BACK ? off - BACK : 0, yes = 0, no = 0;
	uint8_t hits[BACK + 1]; /* from here: 1 comes to `off`, 2 does not */

	if (off - first < 16)
		return 1;
	for (unsigned at = off; at-- > first;) {
		ZydisDecodedInstruction zi;
		unsigned next = at + 1;
		hits[at - first] = 2;
		if (!ZYAN_FAILED(
			ZydisDecoderDecodeInstruction(decoder, NULL, page + at, 4096 - at, &zi)))
			next = at + zi.length;
		else
			continue;
		/* The suspect may have prefixes, REX among them, of which none has an opcode's
		 * value. */
		if (next == off ||
		    (next > off && zi.raw.prefix_count && at + zi.raw.prefix_count == off))
			hits[at - first] = 1;
		else if (next < off)
			hits[at - first] = hits[next - first];
	}
	/* Those too near have not had the time to fall into step. */
	for (unsigned at = first; at + 12 < off; at++)
		*(hits[at - first] == 1 ? &yes : &no) += 1;
	return yes * 2 >= no;
}

_Bool direct_sensitive(const ZydisDecoder *decoder, const uint8_t *page, const uint8_t *next)
{
	const uint8_t *end = page + 4096;

	for (const uint8_t *at = page; (at = memchr(at, 0x0f, (size_t)(end - at))); at++)
		if (suspect(at + 1 < end ? at[1] : next[0],
			    at + 2 < end ? at[2] : next[at + 2 - end]) &&
		    begins(decoder, page, (unsigned)(at - page)))
			return 1;
	return 0;
}
