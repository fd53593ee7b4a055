/* direct_gain.c: compares the ways to run user code by trials close together in time.
 *
 * Stretches are counted in windows of WINDOW. Most windows are run in the way that is best so far;
 * now and then one is run in another, and takes its place when its stretches took 1/16 less in the
 * mean. The longest stretch of a window does not count, and none counts more than CAP_US: a
 * computation's length says nothing of the way, nor does the time that the host gives to somebody
 * else, and one of either would outweigh its window.
 *
 * Trials cost little: what one has lost against the best way has to be outweighed DEBT times by
 * time that the best way runs before the next. A trial that has cost twice its window's worth is
 * cut short. Trials that change nothing get rarer, up to PAUSE_MAX windows; when the best way's own
 * mean leaves what is known of it, or falls behind what is known of another, the program does
 * something else now and the next trial comes early. Two comparisons need no trial: no helper is
 * faster than a crossing, and where no stretch is longer than one, GAIN_STAY and GAIN_SOON are the
 * same.
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

void gain_init(struct gain *g)
{
	*g = (struct gain){.best = GAIN_SOON, .now = GAIN_SOON, .tried = GAIN_STAY, .pause = 1};
}

uint64_t gain_limit(const struct gain *g, const struct gain_unit *u)
{
	switch (g->now) {
	case GAIN_STAY: return LONG_US * u->us;
	case GAIN_SOON: return u->cost;
	default: return 0;
	}
}

/* Could it be better than the best? */
static _Bool way_worth(const struct gain *g, const struct gain_unit *u, unsigned way)
{
	if (way == g->best)
		return 0;
	if (way == GAIN_AT_ONCE)
		return g->mean[g->best] > u->cost;
	return g->best == GAIN_AT_ONCE || g->apart;
}

static _Bool trial_begin(struct gain *g, const struct gain_unit *u)
{
	for (unsigned i = 1; i <= GAIN_WAYS; i++) {
		unsigned way = (g->tried + i) % GAIN_WAYS;
		if (way_worth(g, u, way)) {
			g->now = g->tried = (uint8_t)way;
			return 1;
		}
	}
	return 0;
}

static enum gain_news trial_end(struct gain *g, uint64_t mean)
{
	uint64_t *known = &g->mean[g->now], expected = g->count * g->mean[g->best];
	_Bool better;

	g->debt = g->spent > expected ? (g->spent - expected) * DEBT : 0;
	*known = *known ? (*known + mean) / 2 : mean;
	better = *known < g->mean[g->best] - g->mean[g->best] / 16;
	if (better) {
		g->best = g->now;
		g->pause = 1;
	} else {
		g->pause = (uint16_t)MIN(g->pause * 2u, PAUSE_MAX);
	}
	g->rest = g->pause;
	g->now = g->best;
	return better ? GAIN_VERDICT : GAIN_NOTHING;
}

static enum gain_news window_end(struct gain *g, const struct gain_unit *u, uint64_t mean)
{
	uint64_t *known = &g->mean[g->best];
	_Bool odd = mean > *known * 2 || mean < *known / 2;

	g->apart = g->beyond > 1;
	*known = *known ? *known - *known / 4 + mean / 4 : mean;
	if (!g->apart && g->best != GAIN_AT_ONCE)
		g->mean[GAIN_STAY] = g->mean[GAIN_SOON] = *known;
	g->debt -= MIN(g->debt, g->spent);
	for (unsigned way = 0; way < GAIN_WAYS; way++)
		odd |= g->mean[way] && g->mean[way] < *known - *known / 4;
	if (odd)
		g->pause = 1;
	g->rest = (uint16_t)MIN(g->rest - !!g->rest, g->pause);
	return !g->rest && !g->debt && trial_begin(g, u) ? GAIN_TRIAL : GAIN_NOTHING;
}

enum gain_news gain_ended(struct gain *g, const struct gain_unit *u, uint64_t cycles)
{
	enum gain_news news;
	_Bool trial = g->now != g->best;

	uint64_t counted = MIN(cycles, CAP_US * u->us);
	g->spent += counted;
	g->most = MAX(g->most, counted);
	g->beyond += cycles > u->cost;
	g->count++;
	if (g->count < WINDOW &&
	    !(trial && g->count >= LEAST && g->spent - g->most > 2 * WINDOW * g->mean[g->best]))
		return GAIN_NOTHING;
	uint64_t mean = MAX((g->spent - g->most) / (g->count - 1), 1u);
	news = trial ? trial_end(g, mean) : window_end(g, u, mean);
	g->count = g->beyond = 0;
	g->spent = g->most = 0;
	return news;
}
