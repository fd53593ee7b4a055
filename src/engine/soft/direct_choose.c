/* direct_choose.c: when user code runs on the real CPU, and when translated.
 *
 * Leaving a helper costs microseconds, leaving translated code a tenth of that; in exchange code
 * in a helper runs at the CPU's own speed, two to ten times that of translated code. How long the
 * next stretch will be, up to the next system call or fault, nobody knows; so it may begin
 * translated, and goes to a helper when it has taken as long as a crossing would have. That, to
 * stay translated, and to go at once are the three ways of direct_gain.c, which measures for each
 * address space, by CR3, which of them is the cheapest; here is the clock that it goes by.
 *
 * soft_cpu.direct_at is when translated user code has to ask again. Host code looks at the TSC now
 * and then (trans_near_fill.c, trans_run.c), so that a stretch that does no memory accesses to
 * speak of can be late, until the next interrupt.
 *
 * A helper that has nothing of an address space yet costs many crossings. So a new address space,
 * or one whose translations were dropped (both have a new soft_cpu.asid_user), is translated until
 * it has run for as long as that takes, or longer if those before it had nothing of theirs
 * (direct_warm.c).
 *
 * A stretch whose instruction was one for the layers below goes on there for a while, which
 * doubles as long as helpers do not get far: it may be a loop around such an instruction. Where the
 * helper has got far before it, that instruction is executed and no more (CPUID and RDTSC, which
 * fault there, and what has a breakpoint).
 *
 * What a crossing costs differs from host to host by ten times and with the host's load, so it is
 * taken from what is seen: the shortest way into a helper and back, forgotten slowly, and not by
 * what has computed there.
 */
#include <stdlib.h>
#include <x86intrin.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_gain.h"
#include "engine/soft/direct_warm.h"

#define COST_US	    8u	/* of a crossing, before any was seen */
#define COST_FIRST  64u /* so many are believed sooner when they take longer */
#define WAIT_MAX_US 400u
#define SKIP	    7u
#define SPACES	    256u

struct space {
	uint64_t cr3;
	uint64_t carried; /* of the stretch, before an interrupt came between */
	uint64_t alone;	  /* so long it was translated before a helper had it */
	_Bool went;	  /* that has had it */
	uint64_t asid;
	uint64_t fill; /* how long it is still translated because a helper has nothing of it */
	struct warm warm;
	struct gain gain;
};
struct direct_choose {
	struct space space[SPACES];
	struct gain_unit unit; /* its `cost`: of a crossing, as they are now */
	uint64_t cost[CROSSING_KINDS];
	unsigned seen[CROSSING_KINDS]; /* up to COST_FIRST */
	uint64_t begin;	     /* the present stretch's; 0: not in user code, or it is `skipped` */
	uint64_t ended;	     /* the last one that was measured has */
	unsigned skip;	     /* so many more are not measured */
	_Bool skipped, late; /* late: `begin` was not its beginning */
	uint64_t limit;	     /* when it goes to a helper */
	uint64_t wait;	     /* how long the layers below have it, when a helper could not go on */
	_Bool far;	     /* it had run for longer than a crossing takes */
	_Bool at_once;
	uint64_t mark; /* the engine's time for a helper since then has not been counted */
	struct space *now;
	uint64_t usual; /* how long the last one that has ended makes the next one wait */
};

int direct_choose_init(struct soft_direct *d)
{
	d->choose = calloc(1, sizeof(*d->choose));
	if (!d->choose)
		return -1;
	d->choose->unit.us = MAX(soft_tsc_khz() / 1000, 1u);
	d->choose->unit.cost = COST_US * d->choose->unit.us;
	for (unsigned i = 0; i < CROSSING_KINDS; i++)
		d->choose->cost[i] = d->choose->unit.cost;
	return 0;
}

void direct_choose_fini(struct soft_direct *d)
{
	free(d->choose);
	d->choose = NULL;
}

static uint64_t cr3_root(const struct soft_cpu *cpu)
{
	return cpu->s.cr3 & ~UINT64_C(0xfff) & ~X86_CR3_NOFLUSH;
}

static struct space *space_of(struct direct_choose *c, uint64_t cr3)
{
	struct space *s = &c->space[(cr3 * UINT64_C(0x9e3779b97f4a7c15)) >> 56];

	if (s->cr3 != cr3 || !s->gain.pause) {
		*s = (struct space){.cr3 = cr3, .warm = {.wait = c->usual}};
		gain_init(&s->gain);
	}
	return s;
}

/* A crossing costs what it does in the way that it is done now. */
static void unit_follow(struct soft_cpu *cpu)
{
	struct direct_choose *c = cpu->direct->choose;

	c->unit.cost = c->cost[cpu->direct->spin.apart ? CROSSING_QUICK : CROSSING_TOGETHER];
}

void direct_choose_user(struct soft_cpu *cpu)
{
	struct soft_direct *d = cpu->direct;
	struct direct_choose *c = d->choose;

	if (c->begin)
		return;
	c->late = c->skipped;
	c->skipped = 0;
	unit_follow(cpu);
	c->begin = c->limit = __rdtsc();
	struct space *s = c->now = space_of(c, cr3_root(cpu));
	uint64_t alone = d->always ? 0 : gain_limit(&s->gain, &c->unit);
	c->at_once = !alone;
	if (s->asid != cpu->asid_user && direct_map_follows(cpu)) {
		s->asid = cpu->asid_user; /* it was flushed, but goes on with what it has */
	} else if (s->asid != cpu->asid_user) {
		warm_ended(&s->warm, c->cost[CROSSING_TOGETHER]);
		c->usual = s->warm.wait;
		s->asid = cpu->asid_user;
		s->fill = warm_wait(&s->warm, c->cost[CROSSING_TOGETHER]);
	}
	if (!d->always)
		alone += s->fill;
	if (alone > s->carried)
		c->limit += alone - s->carried;
	c->wait = c->unit.cost;
	cpu->direct_at = c->limit;
}

void direct_choose_kernel(struct soft_cpu *cpu, _Bool interrupted)
{
	struct direct_choose *c = cpu->direct->choose;

	if (!c->begin && !c->skipped)
		return;
	cpu->direct->once = DIRECT_ONCE_NOT;
	cpu->direct_at = UINT64_MAX;
	if (c->skipped) {
		c->skipped = 0;
		return;
	}
	c->ended = __rdtsc();
	uint64_t length = c->ended - c->begin + c->now->carried;
	c->begin = 0;
	c->skip = 0;
	if (interrupted) {
		c->now->carried = length;
		return;
	}
	uint64_t alone = c->now->went ? c->now->alone : length;
	c->now->carried = 0;
	c->now->went = 0;
	if (c->now->fill)
		warm_stayed(&c->now->warm, c->cost[CROSSING_TOGETHER], length);
	c->now->fill -= MIN(c->now->fill, length);
	if (c->late)
		return;
	enum gain_news news = gain_ended(&c->now->gain, &c->unit, length, alone);
	if (length < c->unit.cost / 2 && gain_still(&c->now->gain))
		c->skip = SKIP;
	cpu->stats.direct_trials += news == GAIN_TRIAL;
	cpu->stats.direct_verdicts += news == GAIN_VERDICT;
}

_Bool direct_choose_wants(struct soft_cpu *cpu)
{
	struct direct_choose *c = cpu->direct->choose;
	_Bool wanted = c->limit == c->begin || __rdtsc() >= c->limit;

	if (wanted) {
		c->mark = __rdtsc();
		uint64_t before = c->mark - c->begin + c->now->carried;
		if (c->now->fill)
			warm_entered(&c->now->warm, c->cost[CROSSING_TOGETHER], before);
		if (!c->now->went)
			c->now->alone = before;
		c->now->went = 1;
		c->now->fill = 0;
	}
	cpu->stats.direct_kept += !wanted;
	cpu->stats.direct_at_once += wanted && c->at_once;
	cpu->stats.direct_by_length += wanted && !c->at_once;
	return wanted;
}

/* Where all are short, one of some is measured: to look at the clock twice and to count took a
 * tenth of a short system call. Should it turn out to be long, it is measured from the moment at
 * which it would have gone to a helper. */
static _Bool stretch_skip(struct soft_cpu *cpu)
{
	const struct soft_direct *d = cpu->direct;
	struct direct_choose *c = d->choose;

	if (!c->skip || c->begin || d->once || d->refused || d->always ||
	    c->now->asid != cpu->asid_user || c->now->cr3 != cr3_root(cpu) || c->now->carried)
		return 0;
	c->skip--;
	c->skipped = 1;
	cpu->direct_at = c->ended + c->now->fill + gain_limit(&c->now->gain, &c->unit);
	return 1;
}

_Bool direct_choose_state(struct soft_cpu *cpu)
{
	const struct soft_direct *d = cpu->direct;

	if (cpu->cpl != 3) {
		direct_choose_kernel(cpu, 0);
		return 0;
	}
	if (stretch_skip(cpu)) {
		cpu->stats.direct_kept++;
		return 0;
	}
	direct_choose_user(cpu);
	if (d->refused || d->once)
		return d->once != DIRECT_ONCE_NOT;
	if (d->choose->limit == d->choose->begin)
		return 1;
	cpu->stats.direct_kept++;
	return 0;
}

void direct_choose_below(struct soft_cpu *cpu, _Bool once)
{
	struct direct_choose *c = cpu->direct->choose;

	if (once)
		c->limit = __rdtsc() + c->wait;
	cpu->direct_at = once ? c->limit : UINT64_MAX;
}

void direct_choose_left(struct soft_cpu *cpu, uint64_t cycles, unsigned ops)
{
	struct direct_choose *c = cpu->direct->choose;
	const struct direct_spin *spin = &cpu->direct->spin;
	uint64_t *cost = &c->cost[spin->kind], now = __rdtsc();
	_Bool seen = c->seen[spin->kind] == COST_FIRST;

	warm_ran(&c->now->warm, c->cost[CROSSING_TOGETHER], *cost, cycles, ops,
		 now - c->mark - MIN(cycles, now - c->mark));
	c->mark = now;

	/* What takes much longer has computed, and says nothing of crossings. */
	if (cycles < 4 * *cost)
		*cost = MIN(*cost + *cost / (seen ? 256 : 16) + 1, cycles);
	c->seen[spin->kind] += !seen;
	unit_follow(cpu);
	cpu->stats.direct_crossing = c->unit.cost * 1000 / c->unit.us;
	c->far = cycles - *cost >= *cost;
	c->wait = c->far ? *cost : MIN(c->wait * 2, WAIT_MAX_US * c->unit.us);
}

_Bool direct_choose_far(const struct soft_cpu *cpu)
{
	return cpu->direct->choose->far;
}
