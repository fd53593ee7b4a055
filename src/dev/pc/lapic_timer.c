/* lapic_timer.c: the local APIC's timer: one-shot, periodic and TSC deadline. */
#include "dev/pc/lapic_impl.h"

/*
 * No counter counts: the VM time at which it would reach zero is kept, and the current count is
 * worked out when somebody reads it. One tick before division is one nanosecond (LAPIC_TIMER_HZ). A
 * guest may ask for a period of a few nanoseconds; the count then reads as it should, but the host
 * is not bothered more often than every LAPIC_MIN_PERIOD_NS, and ticks in between are one interrupt
 * (which they would be in the IRR, too).
 */
#define LAPIC_MIN_PERIOD_NS 20000u

_Static_assert(LAPIC_TIMER_HZ == 1000000000u, "a tick is a nanosecond");

/* SDM3 11.5.4, divide configuration: 000 is 2, 110 is 128, 111 is 1. */
static unsigned timer_shift(const struct lapic *l)
{
	unsigned code = (l->divide & 3) | (l->divide >> 1 & 4);

	return (code + 1) & 7;
}

static uint64_t timer_period_ns(const struct lapic *l)
{
	return (uint64_t)l->init_count << timer_shift(l);
}

static _Bool timer_is_deadline(const struct lapic *l)
{
	return l->lvt[LVT_TIMER] & LVT_DEADLINE;
}

static _Bool timer_is_periodic(const struct lapic *l)
{
	return !timer_is_deadline(l) && (l->lvt[LVT_TIMER] & LVT_PERIODIC);
}

/* Always a little in the future: rounding must not make the callback come back at once for ever. */
static void timer_schedule_deadline(struct lapic *l)
{
	uint64_t at, soon = clock_now_ns(l->cfg.clock) + 1;

	if (!l->deadline) {
		timer_cancel(&l->timer);
		return;
	}
	at = l->cfg.tsc.to_ns(l->cfg.tsc.opaque, l->cfg.cpu, l->deadline);
	timer_arm(&l->timer, MAX(at, soon));
}

/* A masked timer counts as well, but nobody needs to wake for it. */
static void timer_schedule(struct lapic *l)
{
	if (timer_is_deadline(l)) {
		timer_schedule_deadline(l);
	} else if (l->counting && !(l->lvt[LVT_TIMER] & LVT_MASKED)) {
		timer_arm(&l->timer, l->zero_ns);
	} else {
		timer_cancel(&l->timer);
	}
}

/* Brings zero_ns up to the present; true when the count has passed zero at least once. */
static _Bool timer_pass(struct lapic *l, uint64_t now)
{
	if (!l->counting || now < l->zero_ns)
		return 0;
	if (timer_is_periodic(l)) {
		uint64_t period = timer_period_ns(l);

		l->zero_ns += ((now - l->zero_ns) / period + 1) * period;
	} else {
		l->counting = 0;
	}
	return 1;
}

static void deadline_check(struct lapic *l)
{
	if (!l->deadline)
		return;
	if (l->cfg.tsc.read(l->cfg.tsc.opaque, l->cfg.cpu) >= l->deadline) {
		l->deadline = 0;
		timer_cancel(&l->timer);
		lapic_lvt_fire(l, LVT_TIMER);
	} else {
		timer_schedule(l);
	}
}

static void count_check(struct lapic *l)
{
	uint64_t now = clock_now_ns(l->cfg.clock);

	if (timer_pass(l, now)) {
		lapic_lvt_fire(l, LVT_TIMER);
		if (l->counting && !(l->lvt[LVT_TIMER] & LVT_MASKED))
			timer_arm(&l->timer, MAX(l->zero_ns, now + LAPIC_MIN_PERIOD_NS));
	} else {
		timer_schedule(l);
	}
}

void lapic_timer_fn(void *opaque)
{
	struct lapic *l = opaque;

	lock_take(&l->dev.lock);
	if (timer_is_deadline(l))
		deadline_check(l);
	else
		count_check(l);
	lock_drop(&l->dev.lock);
}

void lapic_timer_start(struct lapic *l, uint32_t count)
{
	if (timer_is_deadline(l)) /* ignored in this mode (SDM3 11.5.4.1) */
		return;
	l->init_count = count;
	l->counting = count != 0;
	l->zero_ns = clock_now_ns(l->cfg.clock) + timer_period_ns(l);
	timer_schedule(l);
}

uint32_t lapic_timer_count(const struct lapic *l)
{
	uint64_t now = clock_now_ns(l->cfg.clock), left;

	if (timer_is_deadline(l) || !l->counting)
		return 0;
	if (now < l->zero_ns) {
		left = l->zero_ns - now;
	} else if (timer_is_periodic(l)) {
		uint64_t period = timer_period_ns(l);

		left = period - (now - l->zero_ns) % period;
	} else {
		return 0;
	}
	return (uint32_t)((left + (UINT64_C(1) << timer_shift(l)) - 1) >> timer_shift(l));
}

/* The count goes on from where it is, at the new rate. */
void lapic_timer_divide(struct lapic *l, uint32_t divide)
{
	uint32_t left = lapic_timer_count(l);

	if (timer_pass(l, clock_now_ns(l->cfg.clock)))
		lapic_lvt_fire(l, LVT_TIMER);
	l->divide = divide;
	if (l->counting)
		l->zero_ns = clock_now_ns(l->cfg.clock) + ((uint64_t)left << timer_shift(l));
	timer_schedule(l);
}

/* The entry was written: a change to or from TSC-deadline mode disarms (SDM3 11.5.4.1). */
void lapic_timer_mode(struct lapic *l, uint32_t old_lvt)
{
	uint32_t lvt = l->lvt[LVT_TIMER];
	uint64_t now = clock_now_ns(l->cfg.clock);

	if ((lvt ^ old_lvt) & LVT_DEADLINE) {
		lapic_timer_stop(l);
		return;
	}
	/* What passed zero under the old entry did so masked, or its callback is on the way. */
	if (!timer_is_deadline(l) && l->counting && now >= l->zero_ns) {
		l->lvt[LVT_TIMER] = old_lvt;
		if (timer_pass(l, now))
			lapic_lvt_fire(l, LVT_TIMER);
		l->lvt[LVT_TIMER] = lvt;
	}
	timer_schedule(l);
}

void lapic_timer_deadline(struct lapic *l, uint64_t tsc)
{
	if (!timer_is_deadline(l))
		return;
	l->deadline = tsc;
	if (tsc)
		deadline_check(l);
	else
		timer_cancel(&l->timer);
}

void lapic_timer_stop(struct lapic *l)
{
	l->counting = 0;
	l->init_count = 0;
	l->deadline = 0;
	timer_cancel(&l->timer);
}

void lapic_timer_retime(struct lapic *l)
{
	if (timer_is_deadline(l))
		deadline_check(l);
}

/* An expiry whose callback has not run yet must not be lost with it. */
void lapic_timer_freeze(struct lapic *l)
{
	if (!timer_is_deadline(l) && timer_pass(l, clock_now_ns(l->cfg.clock)))
		lapic_lvt_fire(l, LVT_TIMER);
	l->count = lapic_timer_count(l);
}

void lapic_timer_thaw(struct lapic *l)
{
	if (timer_is_deadline(l)) {
		l->counting = 0;
		deadline_check(l);
		if (!l->deadline)
			timer_cancel(&l->timer);
		return;
	}
	l->counting = l->init_count && l->count;
	l->zero_ns = clock_now_ns(l->cfg.clock) + ((uint64_t)l->count << timer_shift(l));
	timer_schedule(l);
}
