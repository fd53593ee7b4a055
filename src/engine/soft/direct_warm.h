/* direct_warm.h: how long an address space is translated before it gets a helper.
 *
 * A helper that has nothing of an address space has to be given its pages, and is emptied for the
 * next one. A process that ends soon afterwards has paid for that and had nothing of it. All
 * numbers are cycles of the host's TSC; nothing here reads a clock.
 */
#ifndef ENGINE_SOFT_DIRECT_WARM_H
#define ENGINE_SOFT_DIRECT_WARM_H

#include <stdint.h>

/* Of the processes that have a CR3 one after the other. */
struct warm {
	uint64_t wait;	/* for so long the next one is translated; 0: as nothing is known */
	uint64_t pages; /* what it took lately to give a helper its pages; 0: not known */
	/* Of the present one: */
	uint64_t spent;	 /* on that */
	int64_t balance; /* what its helper has gained otherwise; less than 0: lost */
	uint64_t missed; /* what more it would have gained without a wait */
	_Bool entered;	 /* it had a helper */
};

/* How long a new one waits. `cost`: of a way into a helper and back on one core, which all that the
 * host does for a helper is in proportion to. */
uint64_t warm_wait(const struct warm *w, uint64_t cost);
/* While it waits: a stretch has ended that was translated for so long; or goes to the helper after
 * that (_entered). */
void warm_stayed(struct warm *w, uint64_t cost, uint64_t cycles);
void warm_entered(struct warm *w, uint64_t cost, uint64_t cycles);
/* It was in the helper for `cycles`, which did so many operations on mappings first; `engine` went
 * into getting it there, and `crossing` was the cost of the way, which is less than `cost` where
 * nobody has to be woken. */
void warm_ran(struct warm *w, uint64_t cost, uint64_t crossing, uint64_t cycles, unsigned ops,
	      uint64_t engine);
/* It is over. */
void warm_ended(struct warm *w, uint64_t cost);

#endif
