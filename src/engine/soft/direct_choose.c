/* direct_choose.c: when user code runs on the real CPU, and when translated.
 *
 * Leaving a helper costs microseconds, leaving translated code a tenth of that; in exchange code
 * in a helper runs at the CPU's own speed. So the measure is how long user code runs between two
 * crossings (system calls and faults of its own; interrupts do not count). It is kept per address
 * space, by CR3, as a moving average, in cycles of the host's TSC:
 *
 *   - an address space whose stretches are longer than ENTER crossings on the average goes to a
 *     helper when it returns to user code;
 *   - one whose stretches in the helper, counting faults that only mapped a page as crossings, are
 *     shorter than what the crossing costs goes back, for a while that doubles each time this
 *     happens in a row;
 *   - one that has been computing for as long as LONG without a crossing goes to a helper whatever
 *     it did before: a program's start is full of crossings and says nothing of what follows, and
 *     an attempt costs RETREAT crossings in a LONG at most. Interrupts are when that is looked at.
 *
 * The counters tell how often each was the reason: direct_by_average, direct_by_length,
 * direct_retreats, and direct_kept for returns to user code that stayed in the layers below.
 *
 * What a crossing costs differs from host to host by ten times and with the host's load, so it is
 * taken from what is seen: the shortest way into a helper and back, forgotten slowly.
 */
#include <stdlib.h>
#include <x86intrin.h>
#include "engine/soft/direct.h"

#define ENTER	    6u /* crossings */
#define RETREAT	    16u
#define LONG_US	    400u
#define HOLD_MIN_US 1000u
#define HOLD_MAX_US 256000u
#define COST_US	    8u /* of a crossing, before any was seen */
#define ENTRIES	    64u

struct entry {
	uint64_t cr3;
	uint64_t average; /* of stretches, cycles */
	uint64_t until;	  /* TSC before which layers below run */
	uint64_t hold;	  /* how long that was the last time */
	unsigned in;	  /* stretches in the helper since it was entered */
};
struct direct_choose {
	struct entry entry[ENTRIES];
	uint64_t us;	  /* TSC cycles in a microsecond */
	uint64_t begin;	  /* the present stretch's; 0: not in user code */
	uint64_t carried; /* of the stretch, before an interrupt came between */
	uint64_t cost;	  /* of a crossing */
	struct entry *now;
};

int direct_choose_init(struct soft_direct *d)
{
	d->choose = calloc(1, sizeof(*d->choose));
	if (!d->choose)
		return -1;
	d->choose->us = MAX(soft_tsc_khz() / 1000, 1u);
	d->choose->cost = COST_US * d->choose->us;
	return 0;
}

void direct_choose_fini(struct soft_direct *d)
{
	free(d->choose);
	d->choose = NULL;
}

static struct entry *entry_of(struct direct_choose *c, uint64_t cr3)
{
	cr3 &= ~UINT64_C(0xfff) & ~X86_CR3_NOFLUSH;
	struct entry *e = &c->entry[(cr3 * UINT64_C(0x9e3779b97f4a7c15)) >> 58];

	if (e->cr3 != cr3)
		*e = (struct entry){.cr3 = cr3};
	return e;
}

void direct_choose_user(struct soft_cpu *cpu)
{
	struct direct_choose *c = cpu->direct->choose;

	if (c->begin)
		return;
	c->begin = __rdtsc();
	struct entry *e = entry_of(c, cpu->s.cr3);
	if (e != c->now)
		c->carried = 0;
	c->now = e;
}

void direct_choose_kernel(struct soft_cpu *cpu, _Bool interrupted)
{
	struct direct_choose *c = cpu->direct->choose;

	if (!c->begin)
		return;
	cpu->direct->once = 0;
	uint64_t length = __rdtsc() - c->begin + c->carried;
	c->begin = 0;
	c->carried = 0;
	if (interrupted)
		c->carried = length;
	else
		c->now->average += length / 8 - c->now->average / 8;
}

enum reason { NONE, BY_AVERAGE, BY_LENGTH, ALWAYS };

static enum reason reason_now(const struct soft_direct *d)
{
	const struct direct_choose *c = d->choose;
	const struct entry *e = c->now;

	if (d->always)
		return ALWAYS;
	if (__rdtsc() - c->begin + c->carried > LONG_US * c->us)
		return BY_LENGTH;
	return c->begin >= e->until && e->average > ENTER * c->cost ? BY_AVERAGE : NONE;
}

_Bool direct_choose_wants(struct soft_cpu *cpu)
{
	enum reason reason = reason_now(cpu->direct);

	cpu->stats.direct_kept += reason == NONE;
	cpu->stats.direct_by_average += reason == BY_AVERAGE;
	cpu->stats.direct_by_length += reason == BY_LENGTH;
	return reason != NONE;
}

_Bool direct_choose_state(struct soft_cpu *cpu)
{
	const struct soft_direct *d = cpu->direct;

	if (cpu->cpl != 3) {
		direct_choose_kernel(cpu, 0);
		return 0;
	}
	direct_choose_user(cpu);
	if (d->refused || d->once)
		return d->once;
	if (reason_now(d) != NONE)
		return 1;
	cpu->stats.direct_kept++;
	return 0;
}

void direct_choose_left(struct soft_cpu *cpu, uint64_t cycles)
{
	struct direct_choose *c = cpu->direct->choose;
	struct entry *e = c->now;

	c->cost = MIN(c->cost + c->cost / 256 + 1, cycles);
	cycles -= c->cost;
	/* The helper's own stretch: pages that had to be mapped make it short, too. */
	e->average += cycles / 8 - e->average / 8;
	if (cpu->direct->always)
		return;
	if (++e->in < RETREAT || e->average >= c->cost) {
		if (e->in >= 256) {
			e->in = RETREAT;
			e->hold = 0;
		}
		return;
	}
	e->in = 0;
	e->hold = e->hold ? MIN(e->hold * 2, HOLD_MAX_US * c->us) : HOLD_MIN_US * c->us;
	e->until = __rdtsc() + e->hold;
	cpu->stats.direct_retreats++;
}
