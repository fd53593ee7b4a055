/* direct_warm.c: learns from the processes that have ended whether a helper paid for them.
 *
 * What a helper costs an address space is seen as it happens: the engine's own time, a crossing for
 * each stop, and for each mapping what the host takes to make it, put it into its page tables and
 * take it away again (half a crossing: measured 2 to 6 us beside crossings of 8 to 17). What it
 * gains nobody can see, as nothing is run twice: user code is taken to be twice as fast in a
 * helper, which is little.
 *
 * Where a helper would not have paid from the beginning, the next one with that CR3 waits twice as
 * long, up to some milliseconds, so that processes that end before that never have one. Who runs
 * for longer has one after all. Where it would have paid, the next one waits half as long, or, when
 * that would have been worth the whole waiting, as short as ever; also when the process has ended
 * while it waited. So who waits in vain does so once or a few times, and for no longer than that.
 */
#include "engine/soft/direct_warm.h"
#include "base/util.h"

#define FILL	 24u /* crossings: what it takes to give a helper a small program's pages */
#define FILL_MAX (64u * FILL)

uint64_t warm_wait(const struct warm *w, uint64_t cost)
{
	return w->wait ? w->wait : FILL * cost;
}

void warm_stayed(struct warm *w, uint64_t cost, uint64_t cycles)
{
	/* It would have been translated for a crossing's time, and paid for one. */
	if (cycles > 3 * cost)
		w->missed += (cycles - cost) / 2 - cost;
}

void warm_entered(struct warm *w, uint64_t cost, uint64_t cycles)
{
	if (cycles > cost)
		w->missed += (cycles - cost) / 2;
}

void warm_ran(struct warm *w, uint64_t cost, uint64_t crossing, uint64_t cycles, unsigned ops,
	      uint64_t engine)
{
	uint64_t pages = ops * (cost / 2), paid = crossing + pages;

	w->entered = 1;
	w->spent += pages + engine;
	w->balance += (int64_t)(cycles > paid ? cycles - paid : 0) - (int64_t)crossing;
}

void warm_ended(struct warm *w, uint64_t cost)
{
	const uint64_t least = FILL * cost, wait = warm_wait(w, cost);
	struct warm next = {.wait = wait, .pages = w->pages ? w->pages : least};

	if (w->entered)
		next.pages = (next.pages + w->spent) / 2;
	int64_t gain =
	    w->balance + (int64_t)w->missed - (int64_t)(w->entered ? w->spent : next.pages);
	if (gain < 0 && w->entered)
		next.wait = MIN(wait * 2, FILL_MAX * cost);
	else if (gain >= 0)
		next.wait = gain >= (int64_t)wait / 2 ? least : MAX(wait / 2, least);
	*w = next;
}
