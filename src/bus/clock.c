/* clock.c: VM time, and timers in a pairing heap. */
#include "bus/clock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/host_time.h"
#include "base/lock.h"

/*
 * Reading the time takes no lock, for vCPUs do it all the time: mode and base are under a sequence
 * count (see space.c for the pattern). The heap's links are in the timers, so arming allocates
 * nothing; arming is O(1), running and cancelling O(log n) amortised. Timers with the same deadline
 * run in the order in which they were armed.
 */
struct clock {
	_Atomic uint32_t seq;
	_Atomic int mode;
	_Atomic uint64_t base; /* REAL: VM time minus host time (modulo 2^64); else VM time */
	_Atomic int64_t wall_base;
	struct lock lock;
	pthread_cond_t idle;
	struct timer *root;
	uint64_t order;
	const struct timer *running;
	pthread_t runner;
	void (*wake)(void *opaque, uint64_t delay_ns);
	void *wake_opaque;
};

int clock_new(struct clock **out, enum clock_mode mode)
{
	struct clock *clock = calloc(1, sizeof(*clock));

	if (!clock)
		return -ENOMEM;
	lock_init(&clock->lock, RANK_CLOCK);
	pthread_cond_init(&clock->idle, NULL);
	atomic_init(&clock->mode, CLOCK_STOPPED);
	clock_set_mode(clock, mode);
	*out = clock;
	return 0;
}

void clock_free(struct clock *clock)
{
	if (!clock)
		return;
	pthread_cond_destroy(&clock->idle);
	lock_fini(&clock->lock);
	free(clock);
}

/* ---- the time ---- */

/* Under the lock. */
static void time_set(struct clock *clock, enum clock_mode mode, uint64_t base)
{
	atomic_fetch_add_explicit(&clock->seq, 1, memory_order_acq_rel);
	atomic_store_explicit(&clock->mode, mode, memory_order_release);
	atomic_store_explicit(&clock->base, base, memory_order_release);
	atomic_fetch_add_explicit(&clock->seq, 1, memory_order_release);
}

static enum clock_mode time_get(const struct clock *clock, uint64_t *base)
{
	for (;;) {
		uint32_t seq = atomic_load_explicit(&clock->seq, memory_order_acquire);
		int mode = atomic_load_explicit(&clock->mode, memory_order_acquire);

		*base = atomic_load_explicit(&clock->base, memory_order_acquire);
		if (!(seq & 1) && atomic_load_explicit(&clock->seq, memory_order_relaxed) == seq)
			return (enum clock_mode)mode;
		__builtin_ia32_pause();
	}
}

uint64_t clock_now_ns(const struct clock *clock)
{
	uint64_t base;
	enum clock_mode mode = time_get(clock, &base);

	return mode == CLOCK_REAL ? base + host_time_ns() : base;
}

int64_t clock_lag_ns(const struct clock *clock)
{
	uint64_t base;
	enum clock_mode mode = time_get(clock, &base);

	return (int64_t)(mode == CLOCK_REAL ? 0 - base : host_time_ns() - base);
}

enum clock_mode clock_mode(const struct clock *clock)
{
	return (enum clock_mode)atomic_load_explicit(&clock->mode, memory_order_acquire);
}

/* Under the lock: tells the driver how long it may sleep. */
static void clock_wake(struct clock *clock)
{
	uint64_t delay = UINT64_MAX, now = clock_now_ns(clock);

	if (!clock->wake)
		return;
	if (clock->root && clock_mode(clock) == CLOCK_REAL)
		delay = clock->root->deadline_ns > now ? clock->root->deadline_ns - now : 0;
	clock->wake(clock->wake_opaque, delay);
}

void clock_set_mode(struct clock *clock, enum clock_mode mode)
{
	uint64_t now;

	lock_take(&clock->lock);
	now = clock_now_ns(clock);
	time_set(clock, mode, mode == CLOCK_REAL ? now - host_time_ns() : now);
	clock_wake(clock);
	lock_drop(&clock->lock);
}

void clock_set_ns(struct clock *clock, uint64_t now_ns)
{
	lock_take(&clock->lock);
	assert(clock_mode(clock) != CLOCK_REAL);
	time_set(clock, clock_mode(clock), now_ns);
	lock_drop(&clock->lock);
}

void clock_set_wall_base_ns(struct clock *clock, int64_t unix_ns)
{
	atomic_store_explicit(&clock->wall_base, unix_ns, memory_order_relaxed);
}

int64_t clock_wall_base_ns(const struct clock *clock)
{
	return atomic_load_explicit(&clock->wall_base, memory_order_relaxed);
}

int64_t clock_wall_now_ns(const struct clock *clock)
{
	return clock_wall_base_ns(clock) + (int64_t)clock_now_ns(clock);
}

/* ---- the heap: a node's children are a list through next; prev is the sibling before, or the
 * parent for the first child ---- */

static _Bool timer_before(const struct timer *a, const struct timer *b)
{
	if (a->deadline_ns != b->deadline_ns)
		return a->deadline_ns < b->deadline_ns;
	return a->order < b->order;
}

static struct timer *heap_meld(struct timer *a, struct timer *b)
{
	struct timer *low;

	if (!a || !b)
		return a ? a : b;
	low = timer_before(a, b) ? a : b;
	b = low == a ? b : a;
	b->next = low->child;
	if (b->next)
		b->next->prev = b;
	b->prev = low;
	low->child = b;
	return low;
}

/* Melds a list of siblings into one heap: in pairs from the left, then the pairs together. */
static struct timer *heap_merge(struct timer *list)
{
	struct timer *pairs = NULL, *heap = NULL;

	while (list) {
		struct timer *a = list, *b = a->next;

		list = b ? b->next : NULL;
		a->next = a->prev = NULL;
		if (b)
			b->next = b->prev = NULL;
		a = heap_meld(a, b);
		a->next = pairs;
		pairs = a;
	}
	while (pairs) {
		struct timer *rest = pairs->next;

		pairs->next = NULL;
		heap = heap_meld(heap, pairs);
		pairs = rest;
	}
	return heap;
}

static void heap_remove(struct clock *clock, struct timer *timer)
{
	struct timer *rest = heap_merge(timer->child);

	if (timer == clock->root) {
		clock->root = rest;
	} else {
		if (timer->prev->child == timer)
			timer->prev->child = timer->next;
		else
			timer->prev->next = timer->next;
		if (timer->next)
			timer->next->prev = timer->prev;
		clock->root = heap_meld(clock->root, rest);
	}
	timer->child = timer->next = timer->prev = NULL;
	timer->armed = 0;
}

/* ---- timers ---- */

void timer_init(struct timer *timer, struct clock *clock, void (*fn)(void *opaque), void *opaque)
{
	*timer = (struct timer){.clock = clock, .fn = fn, .opaque = opaque};
}

void timer_fini(struct timer *timer)
{
	struct clock *clock = timer->clock;

	if (!clock)
		return; /* half-built owner */
	lock_take(&clock->lock);
	if (timer->armed)
		heap_remove(clock, timer);
	while (clock->running == timer && !pthread_equal(clock->runner, pthread_self()))
		pthread_cond_wait(&clock->idle, &clock->lock.mutex);
	lock_drop(&clock->lock);
	timer->clock = NULL;
}

void timer_arm(struct timer *timer, uint64_t deadline_ns)
{
	struct clock *clock = timer->clock;
	uint64_t first;

	lock_take(&clock->lock);
	first = clock->root ? clock->root->deadline_ns : UINT64_MAX;
	if (timer->armed)
		heap_remove(clock, timer);
	timer->deadline_ns = deadline_ns;
	timer->order = clock->order++;
	timer->armed = 1;
	clock->root = heap_meld(clock->root, timer);
	if (clock->root == timer && deadline_ns < first)
		clock_wake(clock);
	lock_drop(&clock->lock);
}

void timer_cancel(struct timer *timer)
{
	lock_take(&timer->clock->lock);
	if (timer->armed)
		heap_remove(timer->clock, timer);
	lock_drop(&timer->clock->lock);
}

/* Runs the first timer with the lock released around its callback. */
static void clock_run_first(struct clock *clock)
{
	struct timer *timer = clock->root;
	void (*fn)(void *opaque) = timer->fn;
	void *opaque = timer->opaque;

	heap_remove(clock, timer);
	clock->running = timer;
	clock->runner = pthread_self();
	lock_drop(&clock->lock);
	fn(opaque); /* may free the timer */
	lock_take(&clock->lock);
	clock->running = NULL;
	pthread_cond_broadcast(&clock->idle);
}

void clock_run_due(struct clock *clock)
{
	uint64_t now = clock_now_ns(clock);

	lock_take(&clock->lock);
	assert(!clock->running);
	for (unsigned n = 0; n < CLOCK_RUN_MAX; n++) {
		if (clock_mode(clock) == CLOCK_STOPPED || !clock->root ||
		    clock->root->deadline_ns > now)
			break;
		clock_run_first(clock);
	}
	clock_wake(clock);
	lock_drop(&clock->lock);
}

void clock_advance(struct clock *clock, uint64_t ns)
{
	uint64_t until;

	lock_take(&clock->lock);
	assert(clock_mode(clock) == CLOCK_MANUAL && !clock->running);
	until = clock_now_ns(clock) + ns;
	while (clock->root && clock->root->deadline_ns <= until) {
		/* A deadline in the past runs in the present. */
		time_set(clock, CLOCK_MANUAL, MAX(clock_now_ns(clock), clock->root->deadline_ns));
		clock_run_first(clock);
	}
	time_set(clock, CLOCK_MANUAL, until);
	lock_drop(&clock->lock);
}

uint64_t clock_next_ns(const struct clock *clock)
{
	struct clock *c = (struct clock *)clock; /* the lock is not part of the value */
	uint64_t next = UINT64_MAX;

	lock_take(&c->lock);
	if (c->root && clock_mode(c) != CLOCK_STOPPED)
		next = c->root->deadline_ns;
	lock_drop(&c->lock);
	return next;
}

void clock_set_wake(struct clock *clock, void (*fn)(void *opaque, uint64_t delay_ns), void *opaque)
{
	lock_take(&clock->lock);
	clock->wake = fn;
	clock->wake_opaque = opaque;
	clock_wake(clock);
	lock_drop(&clock->lock);
}
