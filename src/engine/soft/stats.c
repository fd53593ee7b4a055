/* stats.c: a vCPU's counters as "name value" lines. */
#include <inttypes.h>
#include <stdio.h>
#include "base/buf.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/trans.h"

/* How many of the instructions that host code left to handlers are named. */
#define STATS_HANDLED 24

struct row {
	const char *name;
	size_t offset;
};
#define ROW(f)                                                                                     \
	{                                                                                          \
#f, offsetof(struct soft_stats, f)                                                 \
	}
static const struct row common[] = {
    ROW(blocks), ROW(flushes), ROW(invalidations), ROW(tlb_misses), ROW(lookups),
    ROW(mmio),	 ROW(ports),   ROW(interrupts),	   ROW(exceptions), ROW(single_steps),
};
static const struct row translator[] = {
    ROW(translated),
    ROW(decoded_again),
    ROW(guest_bytes),
    ROW(host_bytes),
    ROW(cold),
    ROW(entries),
    ROW(left_state),
    ROW(left_refused),
    ROW(linked),
    ROW(emptied),
    ROW(slow),
    ROW(told),
    ROW(strayed),
    ROW(near_fills),
    ROW(near_plain),
    ROW(near_given_up),
    ROW(near_emptied),
    ROW(loops),
    ROW(direct_entries),
    ROW(direct_exits),
    ROW(direct_calls),
    ROW(direct_faults),
    ROW(direct_helpers),
    ROW(direct_moves),
    ROW(direct_apart),
    ROW(direct_large),
    ROW(direct_lost),
    ROW(direct_refused),
    ROW(direct_at_once),
    ROW(direct_by_length),
    ROW(direct_kept),
    ROW(direct_trials),
    ROW(direct_verdicts),
    ROW(direct_broken),
    ROW(direct_broken_hits),
    ROW(direct_scans),
    ROW(direct_renewed),
    ROW(direct_crossing),
};
#undef ROW

static void put(struct wbuf *out, const struct soft_cpu *cpu, const char *name, uint64_t v)
{
	char line[96];
	int n = snprintf(line, sizeof(line), "cpu%u.%s %" PRIu64 "\n", cpu->base.index, name, v);

	wbuf_put(out, line, (size_t)n);
}

static void put_rows(struct wbuf *out, const struct soft_cpu *cpu, const struct row *rows,
		     unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint64_t v;

		memcpy(&v, (const char *)&cpu->stats + rows[i].offset, sizeof(v));
		put(out, cpu, rows[i].name, v);
	}
}

/* The most frequent first. */
static void put_handled(struct wbuf *out, const struct soft_cpu *cpu)
{
	uint64_t below = UINT64_MAX, total = 0;
	unsigned shown = 0;

	for (unsigned i = 0; i < SOFT_MNEMONICS; i++)
		total += cpu->handled[i];
	put(out, cpu, "handled", total);
	while (shown < STATS_HANDLED) {
		uint64_t most = 0;

		for (unsigned i = 0; i < SOFT_MNEMONICS; i++)
			if (cpu->handled[i] < below && cpu->handled[i] > most)
				most = cpu->handled[i];
		if (!most)
			return;
		for (unsigned i = 0; i < SOFT_MNEMONICS && shown < STATS_HANDLED; i++) {
			const char *text = ZydisMnemonicGetString((ZydisMnemonic)i);
			char name[48];

			if (cpu->handled[i] != most)
				continue;
			snprintf(name, sizeof(name), "handled.%s", text ? text : "unknown");
			put(out, cpu, name, most);
			shown++;
		}
		below = most;
	}
}

void soft_stats_write(const struct soft_cpu *cpu, struct wbuf *out)
{
	/* Host code counts only when it was asked to. */
	_Bool all = !cpu->trans || cpu->engine->base.cfg.trace.count;

	put(out, cpu, all ? "retired" : "interpreted", cpu->stats.retired);
	put_rows(out, cpu, common, ARRAY_SIZE(common));
	put(out, cpu, "block_bytes", soft_blocks_bytes(cpu->cache));
	if (cpu->lockstep) {
		uint64_t blocks, repeated;

		lockstep_counts(cpu, &blocks, &repeated);
		put(out, cpu, "lockstep_blocks", blocks);
		put(out, cpu, "lockstep_repeated", repeated);
	}
	if (!cpu->trans)
		return;
	put_rows(out, cpu, translator, ARRAY_SIZE(translator));
	put(out, cpu, "code_bytes", cpu->trans->used);
	put_handled(out, cpu);
}
