/* direct_gain.c: compares the ways to run user code by trials side by side.
 *
 * Stretches are counted in windows of WINDOW. Most windows are run in the way that is best so far;
 * now and then another is tried: of each two stretches one is run in it and the other in the best
 * way, in an order that is drawn, until there is a window of either. As programs do one thing after
 * the other, and each of them in stretches of another kind, only what was run side by side can be
 * compared. What is tried becomes the best when its stretches took 1/16 less in the mean. The
 * longest stretch of each side does not count, and none counts more than CAP_US: a computation's
 * length says nothing of the way, nor does the time that the host gives to somebody else, and one
 * of either would outweigh its window.
 *
 * Trials cost little: what one has lost against the best way has to be outweighed DEBT times by
 * windows of the best way before the next. A trial that has cost twice its window's worth is
 * cut short. Trials that change nothing get rarer, up to PAUSE_MAX windows; when the best way's own
 * mean leaves what is known of it, or falls behind what is known of another, the program does
 * something else now and the next trial comes early.
 *
 * What can be said without a trial is, as that costs nothing and is not left to chance, which a few
 * long stretches among many short ones are in a trial, even where they take most of the time:
 * where no stretch is longer than a crossing, GAIN_STAY and GAIN_SOON are the same. GAIN_AT_ONCE
 * gains no more than what was translated of stretches that were longer than a crossing, and loses
 * on each other one what that was shorter: while it is behind even so, it is not tried. GAIN_STAY
 * loses at least half of what it keeps a long stretch translated (that code in a helper is twice as
 * fast is little), and GAIN_SOON at most a crossing on each of the others that it takes to a
 * helper: while the long ones outweigh the others, GAIN_STAY is neither tried nor stayed with.
 * GAIN_SOON pays for a crossing, too, for each stretch that goes to a helper, and loses besides at
 * least half of what it has translated of it; GAIN_AT_ONCE loses at most a crossing on each of the
 * others: while the former outweigh the latter, GAIN_SOON is neither tried nor stayed with. Code
 * that is executed for the first time, which the translator has to decode, is translated for much
 * longer than a crossing until that is seen, and stretches of it are of so many lengths that a
 * trial is a coin's toss.
 *
 * The first way is GAIN_SOON: whatever the stretches are like, a stretch then costs at most about
 * twice what the better way for it would.
 */
#include "engine/soft/direct_gain.h"
#include "base/util.h"

#define WINDOW	  32u
#define LEAST	  8u   /* stretches, before a trial is cut short */
#define DEBT	  50u  /* 2 % */
#define PAUSE_MAX 128u /* windows */
#define LONG_US	  400u
#define CAP_US	  1000u
#define LEAD_MAX  4u /* crossings */

void gain_init(struct gain *g)
{
	*g = (struct gain){.best = GAIN_SOON,
			   .now = GAIN_SOON,
			   .tried = GAIN_STAY,
			   .trial = GAIN_WAYS,
			   .pause = 1,
			   .random = 1};
}

uint64_t gain_limit(const struct gain *g, const struct gain_unit *u)
{
	switch (g->now) {
	case GAIN_STAY: return LONG_US * u->us;
	case GAIN_SOON: return u->cost;
	default: return 0;
	}
}

_Bool gain_still(const struct gain *g)
{
	return g->trial == GAIN_WAYS && g->best != GAIN_AT_ONCE && g->mean[g->best] && !g->apart;
}

/* Could it be better than the best? */
static _Bool way_worth(const struct gain *g, const struct gain_unit *u, unsigned way)
{
	if (way == g->best)
		return 0;
	if (way == GAIN_AT_ONCE)
		return g->ahead > 0;
	if ((way == GAIN_STAY && g->tail > 0) || (way == GAIN_SOON && g->head > 0))
		return 0;
	return g->best == GAIN_AT_ONCE || g->apart;
}

static _Bool trial_begin(struct gain *g, const struct gain_unit *u)
{
	for (unsigned i = 1; i <= GAIN_WAYS; i++) {
		unsigned way = (g->tried + i) % GAIN_WAYS;
		if (way_worth(g, u, way)) {
			g->trial = g->tried = (uint8_t)way;
			return 1;
		}
	}
	return 0;
}

/* Where most of what is at once in a helper is there for less than half a crossing, GAIN_SOON is
 * likely to be better, and loses little if it is not: that does not wait for what was lost by
 * another trial, perhaps when the program did something else. */
static _Bool cheap_begin(struct gain *g, const struct gain_unit *u)
{
	if (g->best != GAIN_AT_ONCE || g->head > -(int64_t)(WINDOW * u->cost))
		return 0;
	g->trial = g->tried = GAIN_SOON;
	return 1;
}

/* The way of the next stretch. */
static void way_next(struct gain *g)
{
	unsigned done = g->arm[0].count + g->arm[1].count;

	g->now = g->best;
	if (g->trial == GAIN_WAYS)
		return;
	if (done % 2) { /* the other one of a pair */
		g->now = g->arm[0].count > g->arm[1].count ? g->trial : g->best;
		return;
	}
	g->random = g->random * 1664525 + 1013904223;
	if (g->random >> 31)
		g->now = g->trial;
}

static uint64_t arm_mean(const struct gain_arm *a)
{
	return MAX((a->spent - a->most) / (a->count - 1u), 1u);
}

static enum gain_news trial_end(struct gain *g)
{
	const struct gain_arm *b = &g->arm[0], *t = &g->arm[1];
	uint64_t *known = &g->mean[g->trial], best = g->mean[g->best];
	_Bool better;

	/* In windows of what was run: a program that does less now makes less of it, too. */
	g->debt =
	    t->spent > b->spent ? (t->spent - b->spent) * DEBT / b->spent * b->count / WINDOW : 0;
	/* The program may do more, or less, at the moment than what is known of the best. */
	uint64_t mean =
	    MAX((uint64_t)((double)best * (double)arm_mean(t) / (double)arm_mean(b)), 1u);
	/* One trial is chance to a part; but what is twice that or half of it is something else. */
	_Bool same = mean < *known * 2 && mean > *known / 2;
	*known = same ? (*known + mean) / 2 : mean;
	better = *known < best - best / 16;
	if (better) {
		g->best = g->trial;
		g->pause = 1;
	} else {
		g->pause = (uint16_t)MIN(g->pause * 2u, PAUSE_MAX);
	}
	g->rest = g->pause;
	g->trial = GAIN_WAYS;
	return better ? GAIN_VERDICT : GAIN_NOTHING;
}

static enum gain_news window_end(struct gain *g, const struct gain_unit *u)
{
	uint64_t *known = &g->mean[g->best], mean = arm_mean(&g->arm[0]);
	_Bool odd = mean > *known * 2 || mean < *known / 2;

	g->apart = g->beyond > 1;
	*known = *known ? *known - *known / 4 + mean / 4 : mean;
	if (!g->apart && g->best != GAIN_AT_ONCE)
		g->mean[GAIN_STAY] = g->mean[GAIN_SOON] = *known;
	g->debt -= !!g->debt;
	for (unsigned way = 0; way < GAIN_WAYS; way++)
		odd |= g->mean[way] && g->mean[way] < *known - *known / 4;
	if (odd)
		g->pause = 1;
	g->rest = (uint16_t)MIN(g->rest - !!g->rest, g->pause);
	if (g->best == GAIN_STAY && g->tail > 0) {
		g->best = GAIN_SOON;
		g->mean[GAIN_SOON] = *known;
		return GAIN_VERDICT;
	}
	if (g->best == GAIN_SOON && g->head > 0) {
		g->best = GAIN_AT_ONCE;
		g->mean[GAIN_AT_ONCE] = *known;
		return GAIN_VERDICT;
	}
	if (g->rest || (g->debt && !cheap_begin(g, u)) || (!g->debt && !trial_begin(g, u)))
		return GAIN_NOTHING;
	return GAIN_TRIAL;
}

/* What needs no trial, of a stretch that took so long as `now`. */
static void bounds_note(struct gain *g, const struct gain_unit *u, uint64_t cycles)
{
	int64_t cost = (int64_t)u->cost, length = (int64_t)cycles;
	int64_t wait = MAX((int64_t)(LONG_US * u->us), cost);
	int64_t helper = g->now == GAIN_AT_ONCE ? cost : g->now == GAIN_SOON ? 2 * cost : 0;

	if (g->now != GAIN_AT_ONCE && length <= cost) {
		g->ahead -= cost - length;
		return;
	}
	g->tail += length >= wait + helper ? (wait - cost) / 2 : -cost;
	g->ahead += g->now == GAIN_SOON ? cost : g->now == GAIN_STAY ? MIN(length, wait) - cost : 0;
}

/* The same of the two ways that use helpers. What was at once in one would have gone there anyway
 * if translated code, twice as long, had taken more than a crossing. */
static void head_note(struct gain *g, const struct gain_unit *u, uint64_t cycles,
		      uint64_t translated)
{
	uint64_t most = LEAD_MAX * u->cost, inside = cycles - MIN(cycles, u->cost);

	if (g->now == GAIN_SOON && translated < cycles) {
		uint64_t lead = MIN(translated, most);
		g->lead = g->lead ? g->lead - g->lead / 16 + lead / 16 : lead;
		g->head += (int64_t)(lead / 2);
	} else if (g->now == GAIN_SOON) {
		g->head -= (int64_t)(u->cost - MIN(translated / 2, u->cost));
	} else if (g->now == GAIN_AT_ONCE && inside > u->cost / 2) {
		g->head += (int64_t)(MAX(MIN(g->lead, most), u->cost) / 2);
	} else if (g->now == GAIN_AT_ONCE) {
		g->head -= (int64_t)(u->cost - inside);
	}
}

enum gain_news gain_ended(struct gain *g, const struct gain_unit *u, uint64_t cycles,
			  uint64_t translated)
{
	_Bool trial = g->trial != GAIN_WAYS;
	struct gain_arm *a = &g->arm[trial && g->now == g->trial], *b = &g->arm[0], *t = &g->arm[1];
	enum gain_news news = GAIN_NOTHING;

	uint64_t counted = MIN(cycles, CAP_US * u->us);
	a->spent += counted;
	a->most = MAX(a->most, counted);
	a->count++;
	bounds_note(g, u, cycles);
	head_note(g, u, cycles, translated);
	g->beyond += !trial && cycles > u->cost;
	_Bool done = trial ? b->count == WINDOW && t->count == WINDOW : b->count == WINDOW;
	_Bool dear = trial && b->count == t->count && t->count >= LEAST &&
		     t->spent - t->most > b->spent + 2 * WINDOW * g->mean[g->best];
	if (done || dear) {
		g->tail -= g->tail / 4;
		g->ahead -= g->ahead / 4;
		g->head -= g->head / 4;
		news = trial ? trial_end(g) : window_end(g, u);
		g->arm[0] = g->arm[1] = (struct gain_arm){0};
		g->beyond = 0;
	}
	way_next(g);
	return news;
}
