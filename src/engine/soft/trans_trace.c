/* trans_trace.c: what the translator tells about its code: disassembly side by side, a map for
 * perf.
 */
#include <inttypes.h>
#include "engine/soft/trans_impl.h"

_Static_assert(ZYDIS_MNEMONIC_MAX_VALUE < SOFT_MNEMONICS, "a counter for each");

struct lister {
	ZydisDecoder decoder[2]; /* 32-bit, 64-bit */
	ZydisFormatter formatter;
};

static void lister_init(struct lister *l)
{
	ZydisDecoderInit(&l->decoder[0], ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&l->decoder[1], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisFormatterInit(&l->formatter, ZYDIS_FORMATTER_STYLE_INTEL);
}

/* One instruction as text; returns its length, at least 1. */
static unsigned list_one(const struct lister *l, _Bool wide, const uint8_t *p, size_t avail,
			 uint64_t address, char *text, size_t size)
{
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&l->decoder[wide], p, avail, &zi, ops))) {
		snprintf(text, size, "(bytes)");
		return 1;
	}
	if (!ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
		&l->formatter, &zi, ops, zi.operand_count_visible, text, size, address, NULL)))
		text[0] = 0;
	return zi.length;
}

/* Host code in [p, end), which runs at `at`; the first line is begun with `left`. */
static void list_host(FILE *f, const struct lister *l, const char *left, const uint8_t *p,
		      const uint8_t *end, const uint8_t *at)
{
	char text[128];

	if (p == end)
		fprintf(f, "%-58s |\n", left);
	while (p < end) {
		unsigned n =
		    list_one(l, 1, p, (size_t)(end - p), (uintptr_t)at, text, sizeof(text));
		fprintf(f, "%-58s | %" PRIxPTR "  %s\n", left, (uintptr_t)at, text);
		left = "";
		p += n;
		at += n;
	}
}

void trans_show(FILE *f, uint64_t lin, const struct soft_block *b, const uint8_t *bytes,
		const uint8_t *const *host, const uint8_t *end, const uint8_t *at)
{
	struct lister l;
	char text[128], left[192];

	lister_init(&l);
	for (unsigned k = 0; k < b->count; k++) {
		unsigned len = b->insn[k].len;
		list_one(&l, !!(b->mode & SOFT_MODE_64), bytes, len, lin, text, sizeof(text));
		snprintf(left, sizeof(left), "  %016" PRIx64 "  %s", lin, text);
		list_host(f, &l, left, host[k], host[k + 1], at + (host[k] - host[0]));
		bytes += len;
		lin += len;
	}
	if (host[b->count] != host[b->count + 1])
		list_host(f, &l, "  (to what follows)", host[b->count], host[b->count + 1],
			  at + (host[b->count] - host[0]));
	list_host(f, &l, "  (out of line)", host[b->count + 1], end,
		  at + (host[b->count + 1] - host[0]));
}

void trans_trace_init(const struct soft_cpu *cpu)
{
	const struct soft_trans *t = cpu->trans;
	FILE *map = cpu->engine->base.cfg.trace.perf_map;

	if (map)
		fprintf(map, "%" PRIxPTR " %zx polyvisor:cpu%u:stubs\n", (uintptr_t)t->rx, t->fixed,
			cpu->base.index);
}

void trans_trace(const struct tb *tb, const struct soft_block *b, const uint8_t *bytes,
		 size_t begin)
{
	const struct engine_trace *trace = &tb->cpu->engine->base.cfg.trace;
	const struct soft_trans *t = tb->t;
	uint64_t lin = tb->cpu->s.rip;
	const uint8_t *start = t->rw + begin, *code = t->rx + begin;
	size_t size = (size_t)(tb->e.at - start);

	if (trace->perf_map)
		fprintf(trace->perf_map, "%" PRIxPTR " %zx guest:%s:%" PRIx64 "\n", (uintptr_t)code,
			size, tb->cpu->cpl == 3 ? "user" : "kernel", lin);
	if (!trace->blocks || lin > trace->to || lin + b->bytes - 1 < trace->from)
		return;
	flockfile(trace->blocks);
	fprintf(trace->blocks,
		"\nblock %016" PRIx64 ", physical %" PRIx64
		", cpu %u, ring %u: %u instructions, %u bytes; host code %zu bytes\n",
		lin, b->phys, tb->cpu->base.index, tb->cpu->cpl, b->count, b->bytes, size);
	trans_show(trace->blocks, lin, b, bytes, tb->host, tb->e.at, code + (tb->host[0] - start));
	funlockfile(trace->blocks);
}
