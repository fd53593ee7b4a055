/* clock.h: the VM's one clock and its timers. */
#ifndef BUS_CLOCK_H
#define BUS_CLOCK_H

#include "base/error.h"

/*
 * Nanoseconds since the VM was powered on, not counting the time it was stopped. REAL follows the
 * host's monotonic clock; STOPPED stands still (paused VM); MANUAL moves only by clock_advance
 * (tests, lock-step).
 */
enum clock_mode { CLOCK_STOPPED, CLOCK_REAL, CLOCK_MANUAL };

struct clock;
NODISCARD int clock_new(struct clock **clock, enum clock_mode mode);
void clock_free(struct clock *clock);
void clock_set_mode(struct clock *clock, enum clock_mode mode); /* time goes on from where it is */
enum clock_mode clock_mode(const struct clock *clock);
uint64_t clock_now_ns(const struct clock *clock);
/* By how much VM time is behind the host's monotonic clock. While it is REAL not two readings but
 * one value, the same to the nanosecond until the mode changes. */
int64_t clock_lag_ns(const struct clock *clock);
/* For restore: sets the present. Only while stopped or manual. */
void clock_set_ns(struct clock *clock, uint64_t now_ns);
/* MANUAL only: moves time on, running due timers in order, each seeing its own deadline as the
 * present. */
void clock_advance(struct clock *clock, uint64_t ns);

/* Guest wall-clock time: seconds and nanoseconds since 1970 at VM time 0; base for RTC and
 * kvmclock. Set from the host's clock at start. */
void clock_set_wall_base_ns(struct clock *clock, int64_t unix_ns);
int64_t clock_wall_base_ns(const struct clock *clock);
int64_t clock_wall_now_ns(const struct clock *clock);

/*
 * A timer is embedded in its owner. Arm and cancel are legal under any device's lock (leaf calls,
 * no allocation). The callback runs on the event-loop thread with no lock held; it takes its
 * device's lock and looks again whether the event is still due (a cancel may have come between).
 * timer_fini waits until a running callback has returned.
 */
struct timer {
	struct clock *clock;
	void (*fn)(void *opaque);
	void *opaque;
	uint64_t deadline_ns;
	/* the clock's own: links of a pairing heap, and the order among equal deadlines */
	struct timer *child, *next, *prev;
	uint64_t order;
	_Bool armed;
};
void timer_init(struct timer *timer, struct clock *clock, void (*fn)(void *opaque), void *opaque);
void timer_fini(struct timer *timer);
void timer_arm(struct timer *timer,
	       uint64_t deadline_ns); /* absolute VM time; moves an armed one */
void timer_cancel(struct timer *timer);

/*
 * For whoever drives the clock (the VM's event loop). clock_run_due runs what is due: nothing while
 * stopped, at most CLOCK_RUN_MAX callbacks a call, so that a guest's fast timer cannot keep the
 * loop from its other work. `wake` says how long the driver may sleep before it calls
 * clock_run_due again (0: not at all, UINT64_MAX: for ever): whenever the earliest deadline moved
 * forward, after each run, and when the mode changed. It is called from any thread under
 * RANK_CLOCK, so that the last word is the newest one: only set a timerfd or write an eventfd.
 * clock_next_ns is the earliest deadline (UINT64_MAX: none, or the clock is stopped).
 */
#define CLOCK_RUN_MAX 256
uint64_t clock_next_ns(const struct clock *clock);
void clock_run_due(struct clock *clock);
void clock_set_wake(struct clock *clock, void (*fn)(void *opaque, uint64_t delay_ns), void *opaque);

#endif
