/* direct_scan.c: finds instructions that must not run natively, because their result there is not
 * the guest's: CPUID, XGETBV, RDTSCP, RDPID, LAR and LSL (with which a program asks for the number
 * of its CPU), VERR and VERW; or because a hypervisor below the host would answer: VMCALL, VMMCALL,
 * VMFUNC.
 *
 * RDTSC faults in a helper, and so does CPUID on hosts whose CPUs can make it: there it is not
 * looked for. SGDT, SIDT, SLDT, STR and SMSW are found where that is asked. With UMIP in host and
 * guest they need not be: what they fault for is emulated by the host's kernel as it is by the
 * guest's, with the same constants. Their bytes are frequent in other instructions, so that finding
 * them takes one page of fifty from the helpers.
 *
 * SYSENTER is there in 64-bit mode on all CPUs but AMD's (SDM2 SYSENTER, APM3 SYSENTER). It keeps
 * neither RIP nor RSP, so that a helper that has executed it cannot go on in the layers below: the
 * host's kernel takes it for a 32-bit call and refuses that, but the guest's never hears of it.
 *
 * Their bytes also turn up by chance inside of other instructions, in one page of fifty. Where
 * instructions begin is not marked in x86 code, but decoding that starts at a wrong byte falls into
 * step after a few instructions: so decoding from each of the bytes before a suspect is a vote on
 * whether an instruction begins there. A wrong vote costs speed, or lets a program see the host's
 * CPUID; it never lets user code do what it may not.
 */
#include "engine/soft/direct.h"
#include <emmintrin.h>

#define BACK  48u /* bytes to begin at */
#define STEPS 64u

static _Bool suspect(unsigned b1, unsigned b2, unsigned seek)
{
	_Bool tables = !!(seek & DIRECT_SEEK_TABLES);
	unsigned reg = (b2 >> 3) & 7;
	_Bool memory = b2 < 0xc0;

	switch (b1) {
	case 0xa2: return !!(seek & DIRECT_SEEK_CPUID);
	case 0x34: return !!(seek & DIRECT_SEEK_SYSENTER);
	case 0x00: return reg == 4 || reg == 5 || (tables && reg < 2); /* VERR, VERW; SLDT, STR */
	case 0x01: /* XGETBV, RDTSCP, VMCALL, VMMCALL, VMFUNC; SGDT, SIDT, SMSW */
		return b2 == 0xd0 || b2 == 0xf9 || b2 == 0xc1 || b2 == 0xd9 || b2 == 0xd4 ||
		       (tables && (reg == 4 || (memory && reg < 2)));
	case 0x02:
	case 0x03: return 1;				 /* LAR, LSL */
	case 0xae: return memory && reg >= 4 && reg < 7; /* XSAVE, XRSTOR, XSAVEOPT */
	case 0xc7: return memory ? reg == 4 : reg == 7;	 /* XSAVEC, RDPID */
	default: return 0;
	}
}

/* In the first bytes of a page nobody has a vote. What compilers do not emit, and what tells no
 * more than the number of a CPU, is not believed there: such bytes are mostly parts of
 * displacements and constants, and one hot page of a program that was taken for such costs it all
 * its speed. */
static _Bool doubtful(unsigned b1)
{
	return b1 == 0x00 || b1 == 0x02 || b1 == 0x03;
}

/* A page that is looked through from its beginning to its end. */
struct scan {
	const ZydisDecoder *decoder;
	const uint8_t *page;
	uint64_t *decoded;
	unsigned from; /* up to here has been decoded, as far back as matters */
	/* What begins there, at byte modulo STEPS: its length, and above that how many of its bytes
	 * are prefixes. 0: no instruction. Each byte is begun at once, however many suspects stand
	 * together: a page of a program's stubs for calls of libraries has 250 that are none. */
	uint8_t step[STEPS];
};

static void steps_decode(struct scan *s, unsigned first, unsigned off)
{
	for (unsigned at = MAX(first, s->from); at < off; at++) {
		++*s->decoded;
		ZydisDecodedInstruction zi;
		_Bool is = ZYAN_SUCCESS(
		    ZydisDecoderDecodeInstruction(s->decoder, NULL, s->page + at, 4096 - at, &zi));
		s->step[at % STEPS] = is ? (uint8_t)(zi.length | zi.raw.prefix_count << 4) : 0;
	}
	s->from = off;
}

/* Does an instruction begin at `off`, or with prefixes right before it? */
static _Bool begins(struct scan *s, unsigned off, _Bool rare)
{
	unsigned first = off > BACK ? off - BACK : 0, yes = 0, no = 0;
	uint8_t hits[BACK + 1]; /* from here: 1 comes to `off`, 2 does not; 0: to what is no code */

	if (off - first < 16)
		return !rare;
	steps_decode(s, first, off);
	for (unsigned at = off; at-- > first;) {
		unsigned length = s->step[at % STEPS] & 15, prefixes = s->step[at % STEPS] >> 4;
		unsigned next = at + length;
		/* No instruction begins there: who begins to read there has no vote. Strings and
		 * tables before a function are much of that. */
		hits[at - first] = 0;
		if (!length)
			continue;
		hits[at - first] = 2;
		/* The suspect may have prefixes, REX among them, of which none has an opcode's
		 * value. */
		if (next == off || (next > off && prefixes && at + prefixes == off))
			hits[at - first] = 1;
		else if (next < off)
			hits[at - first] = hits[next - first];
	}
	/* Those too near have not had the time to fall into step. */
	for (unsigned at = first; at + 12 < off; at++) {
		yes += hits[at - first] == 1;
		no += hits[at - first] == 2;
	}
	return rare ? yes > no : yes * 2 >= no;
}

_Bool direct_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65:
	case 0x66:
	case 0x67:
	case 0xf0:
	case 0xf2:
	case 0xf3: return 1;
	default: return (byte & 0xf0) == 0x40; /* REX */
	}
}

/* 0F C7 /7 with a register is RDPID behind a prefix F3, and RDSEED without. */
static _Bool rdseed(const uint8_t *page, unsigned off, unsigned b1, unsigned b2)
{
	if (b1 != 0xc7 || b2 < 0xc0)
		return 0;
	while (off && direct_prefix(page[off - 1]))
		if (page[--off] == 0xf3)
			return 0;
	return off != 0; /* else there may be one in the page before */
}

/* At which of 16 bytes one of the opcodes above may begin. The 17th is read as well. Code is full
 * of 0x0f: one byte in thirty. */
static unsigned candidates(const uint8_t *at)
{
	__m128i b0 = _mm_loadu_si128((const __m128i_u *)(const void *)at);
	__m128i b1 = _mm_loadu_si128((const __m128i_u *)(const void *)(at + 1));
	__m128i any = _mm_cmpeq_epi8(_mm_min_epu8(b1, _mm_set1_epi8(3)), b1);

	any = _mm_or_si128(any, _mm_cmpeq_epi8(b1, _mm_set1_epi8((char)0xa2)));
	any = _mm_or_si128(any, _mm_cmpeq_epi8(b1, _mm_set1_epi8(0x34)));
	any = _mm_or_si128(any, _mm_cmpeq_epi8(b1, _mm_set1_epi8((char)0xae)));
	any = _mm_or_si128(any, _mm_cmpeq_epi8(b1, _mm_set1_epi8((char)0xc7)));
	any = _mm_and_si128(any, _mm_cmpeq_epi8(b0, _mm_set1_epi8(0x0f)));
	return (unsigned)_mm_movemask_epi8(any);
}

/* Notes the first `most` of them; returns how many there are, up to one more than that. */
static unsigned page_scan(struct scan *s, const uint8_t *next, unsigned seek, uint16_t *at,
			  unsigned most)
{
	uint8_t last[18];
	unsigned count = 0;

	memcpy(last, s->page + 4080, 16);
	memcpy(last + 16, next, 2);
	for (unsigned block = 0; block < 4096; block += 16) {
		const uint8_t *bytes = block < 4080 ? s->page + block : last;
		for (unsigned mask = candidates(bytes); mask; mask &= mask - 1) {
			unsigned i = (unsigned)__builtin_ctz(mask);
			if (!suspect(bytes[i + 1], bytes[i + 2], seek) ||
			    rdseed(s->page, block + i, bytes[i + 1], bytes[i + 2]) ||
			    !begins(s, block + i, doubtful(bytes[i + 1])))
				continue;
			if (count == most)
				return count + 1;
			at[count++] = (uint16_t)(block + i);
		}
	}
	return count;
}

_Bool direct_sensitive(const ZydisDecoder *decoder, const uint8_t *page, const uint8_t *next,
		       unsigned seek, uint64_t *decoded)
{
	struct scan s = {.decoder = decoder, .page = page, .decoded = decoded};

	return page_scan(&s, next, seek, NULL, 0);
}

_Bool direct_scan(const ZydisDecoder *decoder, const uint8_t *page, const uint8_t *next,
		  unsigned seek, struct direct_found *found)
{
	uint64_t decoded = 0;
	struct scan s = {.decoder = decoder, .page = page, .decoded = &decoded};

	found->count = page_scan(&s, next, seek, found->at, ARRAY_SIZE(found->at));
	return found->count <= ARRAY_SIZE(found->at);
}
