/* direct_gain.h: which way an address space's user code is run, by what each way was seen to cost.
 *
 * A stretch is user code between two of its own crossings: system calls and faults, not interrupts.
 * It can be run in three ways, which differ in how long it is translated before it goes to a
 * helper. All numbers are cycles of the host's TSC; nothing here reads a clock.
 */
#ifndef ENGINE_SOFT_DIRECT_GAIN_H
#define ENGINE_SOFT_DIRECT_GAIN_H

#include <stdint.h>

enum gain_way {
	GAIN_STAY,    /* translated, unless it turns out to be a computation */
	GAIN_SOON,    /* translated for as long as a crossing costs, then in a helper */
	GAIN_AT_ONCE, /* in a helper */
	GAIN_WAYS,
};

/* Of the host. */
struct gain_unit {
	uint64_t us;   /* a microsecond */
	uint64_t cost; /* a way into a helper and back */
};

/* What was seen of one way in a window or a trial. */
struct gain_arm {
	uint8_t count;	/* stretches */
	uint64_t spent; /* in all, and ... */
	uint64_t most;	/* in one of them */
};

struct gain {
	uint8_t best, now, tried;
	uint8_t trial;	      /* the way that is compared with the best one, or GAIN_WAYS */
	uint8_t beyond;	      /* best's stretches in this window that were longer than a crossing */
	_Bool apart;	      /* were there any of these in best's last window? */
	uint16_t rest, pause; /* windows before the next trial, and before the one after it */
	uint32_t random;
	struct gain_arm arm[2];	  /* best's, the trial's */
	int64_t tail;		  /* what GAIN_SOON gains against GAIN_STAY, at least */
	int64_t ahead;		  /* ... and GAIN_AT_ONCE against the best of the two, at most */
	int64_t head;		  /* ... and against GAIN_SOON, at least */
	uint64_t lead;		  /* how long that translates what goes to a helper; 0: not known */
	uint64_t debt;		  /* windows of best before the next trial */
	uint64_t mean[GAIN_WAYS]; /* of a stretch; 0: not known */
};

enum gain_news { GAIN_NOTHING, GAIN_TRIAL, GAIN_VERDICT };

void gain_init(struct gain *g);
/* How long a stretch is translated. */
uint64_t gain_limit(const struct gain *g, const struct gain_unit *u);
/* Is nothing being compared, and was no stretch of the last window longer than a crossing? */
_Bool gain_still(const struct gain *g);
/* A stretch has ended that took so long, crossings into helpers included, and was translated for
 * the first part of that: all of it, if no helper had it. Says whether the next one is the first of
 * another way, for trial or for good. */
enum gain_news gain_ended(struct gain *g, const struct gain_unit *u, uint64_t cycles,
			  uint64_t translated);

#endif
