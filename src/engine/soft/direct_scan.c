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
#include <emmintrin.h>

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

/* At which of 16 bytes one of the opcodes above may begin. The 17th is read as well. Code is full
 * of 0x0f: one byte in thirty. */
static unsigned candidates(const uint8_t *at)
{
	__m128i b0 = _mm_loadu_si128((const __m128i_u *)(const void *)at);
	__m128i b1 = _mm_loadu_si128((const __m128i_u *)(const void *)(at + 1));
	__m128i less = _mm_sub_epi8(b1, _mm_set1_epi8(1)); /* 0x01 to 0x03 */
	__m128i any = _mm_cmpeq_epi8(_mm_min_epu8(less, _mm_set1_epi8(2)), less);

	any = _mm_or_si128(any, _mm_cmpeq_epi8(b1, _mm_set1_epi8((char)0xa2)));
	any = _mm_or_si128(any, _mm_cmpeq_epi8(b1, _mm_set1_epi8((char)0xae)));
	any = _mm_or_si128(any, _mm_cmpeq_epi8(b1, _mm_set1_epi8((char)0xc7)));
	any = _mm_and_si128(any, _mm_cmpeq_epi8(b0, _mm_set1_epi8(0x0f)));
	return (unsigned)_mm_movemask_epi8(any);
}

_Bool direct_sensitive(const ZydisDecoder *decoder, const uint8_t *page, const uint8_t *next)
{
	uint8_t last[18];

	memcpy(last, page + 4080, 16);
	memcpy(last + 16, next, 2);
	for (unsigned block = 0; block < 4096; block += 16) {
		const uint8_t *bytes = block < 4080 ? page + block : last;
		for (unsigned mask = candidates(bytes); mask; mask &= mask - 1) {
			unsigned i = (unsigned)__builtin_ctz(mask);
			if (suspect(bytes[i + 1], bytes[i + 2]) && begins(decoder, page, block + i))
				return 1;
		}
	}
	return 0;
}
