/* direct_cover.c: at which addresses of a page breakpoints keep its sensitive instructions from
 * running natively. A CPU has four for all of a program.
 *
 * One at each instruction is exact, whoever jumps where. Where that is too many there is mostly one
 * function that asks CPUID for one thing after the other, and whose first question cannot be passed
 * by: a breakpoint there is enough, if the function is left to the layers below from that stop on
 * until it is left. Such a function is `shut`: it lies in the page as a whole, between instructions
 * that are not passed through and padding; no direct jump or call from elsewhere in the page leads
 * into it but to its first instruction, none of its own jumps leaves it, and it calls nobody, so
 * that nothing comes back into it. What is not seen is an indirect jump, or one from another page,
 * into its middle: that gives the host's CPUID away, and compilers make none.
 */
#include <stdlib.h>
#include "engine/soft/direct.h"

/* What it does with the flow of control. AWAY, OPEN: to somewhere that the code does not say, for
 * good, or perhaps. */
enum kind { PLAIN, BRANCH, JUMP, CALL, END, AWAY, OPEN, PAD };

/* The page, decoded from its beginning to its end; what begins where. */
struct sweep {
	const struct direct_found *found;
	uint8_t length[4096]; /* 0: no instruction begins there */
	uint8_t kind[4096];
	int16_t target[4096]; /* of a direct jump or call: an offset, or OUTSIDE */
	/* Behind the page's beginning, and behind what is no code, the sweep may be out of step for
	 * some instructions: there, every byte is taken for the beginning of a jump. */
	int16_t stray[4096];
	uint8_t reached[4096];
	uint16_t todo[4096];
};
#define OUTSIDE (-1)
#define STEP	64u /* after so many bytes it is in step */

/* Is it one that is looked for? With prefixes it begins before the bytes that were found. */
static _Bool is_found(const struct direct_found *f, unsigned at)
{
	for (unsigned i = 0; i < f->count; i++)
		if (f->at[i] == at)
			return 1;
	return 0;
}

static enum kind kind_of(const ZydisDecodedInstruction *zi)
{
	_Bool relative = zi->raw.imm[0].is_relative;

	switch (zi->meta.category) {
	case ZYDIS_CATEGORY_COND_BR: return relative ? BRANCH : OPEN;
	case ZYDIS_CATEGORY_UNCOND_BR: return relative ? JUMP : AWAY;
	case ZYDIS_CATEGORY_CALL: return relative ? CALL : OPEN;
	case ZYDIS_CATEGORY_RET: return END;
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_WIDENOP: return PAD;
	default: break;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_HLT: return END;
	case ZYDIS_MNEMONIC_INT3: return PAD;
	case ZYDIS_MNEMONIC_XBEGIN: return OPEN;
	default: return PLAIN;
	}
}

static int16_t target_of(const ZydisDecodedInstruction *zi, unsigned at)
{
	int64_t to = (int64_t)at + zi->length + zi->raw.imm[0].value.s;

	return to >= 0 && to < 4096 ? (int16_t)to : OUTSIDE;
}

static _Bool has_target(enum kind k)
{
	return k == BRANCH || k == JUMP || k == CALL;
}

static void page_sweep(struct sweep *s, const ZydisDecoder *decoder, const uint8_t *page)
{
	ZydisDecodedInstruction zi;
	unsigned next = 0, loose = STEP;

	for (unsigned at = 0; at < 4096; at++) {
		s->stray[at] = OUTSIDE;
		if (at < next && at >= loose)
			continue;
		_Bool is = ZYAN_SUCCESS(
		    ZydisDecoderDecodeInstruction(decoder, NULL, page + at, 4096 - at, &zi));
		enum kind k = is ? kind_of(&zi) : PLAIN;
		if (is && has_target(k))
			s->stray[at] = target_of(&zi, at);
		if (at < next)
			continue;
		next = at + (is ? zi.length : 1);
		if (!is) {
			loose = at + STEP;
			continue;
		}
		s->length[at] = zi.length;
		s->kind[at] = (uint8_t)k;
		s->target[at] = s->stray[at];
	}
}

/* Does a function begin at `at`: at a multiple of 16, behind what is not passed through, and
 * padding? */
static _Bool function_begins(const struct sweep *s, unsigned at)
{
	unsigned last = 4096;

	if (!at || at % 16)
		return 0;
	for (unsigned i = at; i-- > 0 && at - i < 64;)
		if (s->length[i]) {
			if (i + s->length[i] != (last == 4096 ? at : last))
				return 0; /* bytes between that are no code */
			last = i;
			if (s->kind[i] != PAD)
				return s->kind[i] == JUMP || s->kind[i] == END ||
				       s->kind[i] == AWAY;
		}
	return 0;
}

static _Bool within(int16_t target, unsigned first, unsigned end)
{
	return target >= (int)first && target < (int)end;
}

/* Is the function shut, but for indirect jumps and other pages? */
static _Bool function_closed(const struct sweep *s, unsigned first, unsigned end)
{
	for (unsigned at = 0; at < 4096; at++) {
		enum kind k = (enum kind)s->kind[at];
		if (at < first || at >= end) {
			if (within(s->stray[at], first + 1, end))
				return 0;
		} else if (s->length[at]) {
			if (k == CALL || k == AWAY || k == OPEN ||
			    ((k == BRANCH || k == JUMP) && !within(s->target[at], first, end)))
				return 0;
		}
	}
	return 1;
}

/* All that the function's first instruction leads to; `stops`: up to what is sensitive. False:
 * through what is no code. */
static _Bool function_walk(struct sweep *s, unsigned first, unsigned end, _Bool stops)
{
	unsigned todo = 0;

	memset(s->reached, 0, sizeof(s->reached));
	s->todo[todo++] = (uint16_t)first;
	s->reached[first] = 1;
	while (todo) {
		unsigned at = s->todo[--todo], next[2], n = 0;
		if (!s->length[at])
			return 0;
		if (stops && is_found(s->found, at))
			continue;
		if (s->kind[at] == BRANCH || s->kind[at] == JUMP)
			next[n++] = (unsigned)s->target[at];
		if (s->kind[at] != JUMP && s->kind[at] != END)
			next[n++] = at + s->length[at];
		for (unsigned i = 0; i < n; i++) {
			if (next[i] >= end)
				return 0;
			if (!s->reached[next[i]])
				s->todo[todo++] = (uint16_t)next[i];
			s->reached[next[i]] = 1;
		}
	}
	return 1;
}

static _Bool break_add(struct direct_cover *c, unsigned at)
{
	if (c->breaks == ARRAY_SIZE(c->at))
		return 0;
	c->at[c->breaks++] = (uint16_t)at;
	return 1;
}

/* The function that the sensitive instruction at `at` is in, as one that is shut. *end is where it
 * ends. False: it is not, or that is no use. */
static _Bool function_shut(struct sweep *s, struct direct_cover *c, unsigned at, unsigned *end)
{
	const struct direct_found *f = s->found;
	const struct direct_cover before = *c;
	unsigned first = at, last = at + 1, n;

	while (first && !function_begins(s, first))
		first--;
	while (last < 4096 && !function_begins(s, last))
		last++;
	if (!first || last == 4096 || c->shuts == ARRAY_SIZE(c->shut) ||
	    !function_closed(s, first, last) || !function_walk(s, first, last, 0))
		return 0;
	for (n = 0; n < f->count; n++)
		if (f->at[n] >= first && f->at[n] < last && !s->reached[f->at[n]])
			return 0;
	if (!function_walk(s, first, last, 1))
		return 0;
	for (n = 0; n < f->count; n++)
		if (f->at[n] >= first && f->at[n] < last && s->reached[f->at[n]] &&
		    !break_add(c, f->at[n])) {
			*c = before;
			return 0;
		}
	c->shut[c->shuts].first = (uint16_t)first;
	c->shut[c->shuts++].end = (uint16_t)last;
	*end = last;
	return 1;
}

static _Bool each_covered(const struct direct_found *f, struct direct_cover *c)
{
	*c = (struct direct_cover){0};
	for (unsigned i = 0; i < f->count; i++)
		if (!break_add(c, f->at[i]))
			return 0;
	return 1;
}

_Bool direct_cover(const ZydisDecoder *decoder, const uint8_t *page, const struct direct_found *f,
		   struct direct_cover *c)
{
	/* Prefixes belong to the instruction, which then begins before them. */
	for (unsigned i = 0; i < f->count; i++)
		if (!f->at[i] || direct_prefix(page[f->at[i] - 1]))
			return 0;
	if (!f->count)
		return 0;
	if (each_covered(f, c))
		return 1;
	struct sweep *s = calloc(1, sizeof(*s));
	if (!s)
		return 0;
	s->found = f;
	page_sweep(s, decoder, page);
	*c = (struct direct_cover){0};
	_Bool ok = 1;
	for (unsigned i = 0, end = 0; ok && i < f->count; i++)
		if (f->at[i] >= end && !function_shut(s, c, f->at[i], &end))
			ok = break_add(c, f->at[i]);
	free(s);
	return ok;
}
