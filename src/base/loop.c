/* loop.c: the event loop over epoll and one eventfd. */
#include "base/loop.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/host_time.h"
#include "base/lock.h"

/*
 * epoll hands back what was registered, possibly after another thread has removed and freed it. So
 * the registered value is not a pointer but a slot and its generation: the loop looks the slot up
 * under its lock, and a stale event finds a newer generation and is dropped. `running` names the
 * watch or the work whose callback is running with the lock released; whoever removes it from
 * another thread waits on `idle` until that has changed.
 */
struct loop_slot {
	struct loop_fd *lfd;
	uint32_t gen;
};

#define LOOP_SLOTS_MAX 4096
#define LOOP_BATCH     32
#define LOOP_WAKE      UINT64_MAX /* the eventfd's epoll value */

struct loop {
	int epfd, evfd;
	struct lock lock;
	pthread_cond_t idle;
	const void *running;
	pthread_t thread;
	_Bool in_run;
	struct loop_slot *slots;
	uint32_t slot_count;
	uint32_t always_count, resting_count;
	struct loop_work *head, *tail;
	atomic_bool stop;
	_Atomic int stop_value;
};

static void loop_wake(struct loop *loop)
{
	uint64_t one = 1;

	while (write(loop->evfd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

int loop_new(struct loop **out, struct error *err)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = LOOP_WAKE};
	struct loop *loop = calloc(1, sizeof(*loop));
	int rc;

	if (!loop)
		return error_set(err, -ENOMEM, "out of memory for the event loop");
	lock_init(&loop->lock, RANK_LOOP);
	pthread_cond_init(&loop->idle, NULL);
	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	loop->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->epfd < 0 || loop->evfd < 0 ||
	    epoll_ctl(loop->epfd, EPOLL_CTL_ADD, loop->evfd, &ev)) {
		rc = error_set(err, -errno, "cannot set up the event loop: %s", strerror(errno));
		loop_free(loop);
		return rc;
	}
	*out = loop;
	return 0;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	if (loop->epfd >= 0)
		close(loop->epfd);
	if (loop->evfd >= 0)
		close(loop->evfd);
	pthread_cond_destroy(&loop->idle);
	lock_fini(&loop->lock);
	free(loop->slots);
	free(loop);
}

/* Waits until `what` is not running, unless the caller is the loop itself. Under the lock. */
static void loop_settle(struct loop *loop, const void *what)
{
	if (loop->in_run && pthread_equal(loop->thread, pthread_self()))
		return;
	while (loop->running == what)
		pthread_cond_wait(&loop->idle, &loop->lock.mutex);
}

static int slot_take(struct loop *loop, uint32_t *slot)
{
	struct loop_slot *slots;
	uint32_t count;

	for (uint32_t i = 0; i < loop->slot_count; i++) {
		if (!loop->slots[i].lfd) {
			*slot = i;
			return 0;
		}
	}
	count = loop->slot_count ? loop->slot_count * 2 : 16;
	if (count > LOOP_SLOTS_MAX)
		return -ENOSPC;
	slots = realloc(loop->slots, count * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots + loop->slot_count, 0, (count - loop->slot_count) * sizeof(*slots));
	*slot = loop->slot_count;
	loop->slots = slots;
	loop->slot_count = count;
	return 0;
}

static uint32_t loop_fd_wants(const struct loop_fd *lfd)
{
	return lfd->resting ? 0 : lfd->events;
}

/* Brings the epoll set in line with what is wanted: a watch that wants nothing leaves the set, for
 * epoll reports a hang-up whether it is wanted or not. */
static int loop_fd_sync(struct loop *loop, struct loop_fd *lfd)
{
	struct epoll_event ev = {.events = loop_fd_wants(lfd)};
	int op;

	ev.data.u64 = (uint64_t)loop->slots[lfd->slot].gen << 32 | lfd->slot;
	if (lfd->always)
		return 0;
	if (!ev.events && !lfd->polled)
		return 0;
	op = !ev.events ? EPOLL_CTL_DEL : lfd->polled ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	if (epoll_ctl(loop->epfd, op, lfd->fd, &ev)) {
		if (errno != EPERM || op != EPOLL_CTL_ADD)
			return -errno;
		lfd->always = 1;
		loop->always_count++;
		return 0;
	}
	lfd->polled = ev.events != 0;
	return 0;
}

int loop_fd_add(struct loop *loop, struct loop_fd *lfd, uint32_t events)
{
	int rc;

	lock_take(&loop->lock);
	assert(!lfd->added);
	rc = slot_take(loop, &lfd->slot);
	if (!rc) {
		loop->slots[lfd->slot].gen++;
		lfd->events = events;
		lfd->always = lfd->polled = lfd->resting = 0;
		rc = loop_fd_sync(loop, lfd);
	}
	if (!rc) {
		lfd->added = 1;
		loop->slots[lfd->slot].lfd = lfd;
	}
	lock_drop(&loop->lock);
	if (!rc && lfd->always)
		loop_wake(loop);
	return rc;
}

int loop_fd_mod(struct loop *loop, struct loop_fd *lfd, uint32_t events)
{
	_Bool always;
	int rc = 0;

	lock_take(&loop->lock);
	assert(lfd->added);
	if (lfd->events != events) {
		uint32_t old = lfd->events;

		lfd->events = events;
		rc = loop_fd_sync(loop, lfd);
		if (rc)
			lfd->events = old;
	}
	always = lfd->always;
	lock_drop(&loop->lock);
	if (always && events)
		loop_wake(loop);
	return rc;
}

void loop_fd_del(struct loop *loop, struct loop_fd *lfd)
{
	lock_take(&loop->lock);
	if (lfd->added) {
		if (lfd->polled)
			epoll_ctl(loop->epfd, EPOLL_CTL_DEL, lfd->fd, NULL);
		if (lfd->always)
			loop->always_count--;
		if (lfd->resting)
			loop->resting_count--;
		loop->slots[lfd->slot].lfd = NULL;
		loop->slots[lfd->slot].gen++;
		lfd->added = lfd->polled = lfd->always = lfd->resting = 0;
	}
	loop_settle(loop, lfd);
	lock_drop(&loop->lock);
}

void loop_fd_rest(struct loop *loop, struct loop_fd *lfd, unsigned ms)
{
	lock_take(&loop->lock);
	if (lfd->added) {
		loop->resting_count += !lfd->resting;
		lfd->resting = 1;
		lfd->rest_until_ns = host_time_ns() + ms * UINT64_C(1000000);
		(void)loop_fd_sync(loop, lfd); /* taking it out of the set cannot fail */
	}
	lock_drop(&loop->lock);
	loop_wake(loop);
}

/* Under the lock: watches again what has rested. How long epoll may wait for the next, or -1. */
static int loop_rest_over(struct loop *loop)
{
	uint64_t now, first = UINT64_MAX;

	if (LIKELY(!loop->resting_count))
		return -1;
	now = host_time_ns();
	for (uint32_t i = 0; i < loop->slot_count; i++) {
		struct loop_fd *lfd = loop->slots[i].lfd;

		if (!lfd || !lfd->resting)
			continue;
		if (lfd->rest_until_ns <= now) {
			lfd->resting = 0;
			if (loop_fd_sync(loop, lfd)) { /* no memory for it: once more */
				lfd->resting = 1;
				lfd->rest_until_ns = now + UINT64_C(100000000);
			}
		}
		if (lfd->resting)
			first = MIN(first, lfd->rest_until_ns);
		else
			loop->resting_count--;
	}
	return first == UINT64_MAX ? -1 : (int)MIN((first - now) / 1000000 + 1, UINT64_C(1000000));
}

void loop_post(struct loop *loop, struct loop_work *work)
{
	_Bool first;

	lock_take(&loop->lock);
	first = !work->queued;
	if (first) {
		work->queued = 1;
		work->next = NULL;
		if (loop->tail)
			loop->tail->next = work;
		else
			loop->head = work;
		loop->tail = work;
	}
	lock_drop(&loop->lock);
	if (first)
		loop_wake(loop);
}

void loop_cancel(struct loop *loop, struct loop_work *work)
{
	struct loop_work *prev = NULL;

	lock_take(&loop->lock);
	if (work->queued) {
		for (struct loop_work *w = loop->head; w != work; w = w->next)
			prev = w;
		if (prev)
			prev->next = work->next;
		else
			loop->head = work->next;
		if (loop->tail == work)
			loop->tail = prev;
		work->queued = 0;
	}
	loop_settle(loop, work);
	lock_drop(&loop->lock);
}

/* After a callback, under the lock: `running` is compared, never followed, since a callback may
 * free its owner. */
static void loop_ran(struct loop *loop)
{
	loop->running = NULL;
	pthread_cond_broadcast(&loop->idle);
}

static void loop_fd_run(struct loop *loop, struct loop_fd *lfd, uint32_t events)
{
	loop->running = lfd;
	lock_drop(&loop->lock);
	lfd->fn(lfd, events);
	lock_take(&loop->lock);
	loop_ran(loop);
}

/* Runs what was queued at the start; what these post waits for the next round, so that descriptors
 * get their turn. */
static void loop_run_work(struct loop *loop)
{
	struct loop_work *last = loop->tail, *work;
	_Bool more = last != NULL;

	while (more && (work = loop->head)) {
		more = work != last;
		loop->head = work->next;
		if (!loop->head)
			loop->tail = NULL;
		work->queued = 0;
		loop->running = work;
		lock_drop(&loop->lock);
		work->fn(work);
		lock_take(&loop->lock);
		loop_ran(loop);
	}
}

static void loop_run_always(struct loop *loop)
{
	for (uint32_t i = 0; loop->always_count && i < loop->slot_count; i++) {
		struct loop_fd *lfd = loop->slots[i].lfd;

		if (lfd && lfd->always && loop_fd_wants(lfd))
			loop_fd_run(loop, lfd, lfd->events);
	}
}

static _Bool loop_always_ready(const struct loop *loop)
{
	for (uint32_t i = 0; loop->always_count && i < loop->slot_count; i++) {
		const struct loop_fd *lfd = loop->slots[i].lfd;

		if (lfd && lfd->always && loop_fd_wants(lfd))
			return 1;
	}
	return 0;
}

static void loop_run_event(struct loop *loop, const struct epoll_event *ev)
{
	uint32_t slot = (uint32_t)ev->data.u64, gen = (uint32_t)(ev->data.u64 >> 32);
	struct loop_fd *lfd;
	uint64_t drained;

	if (ev->data.u64 == LOOP_WAKE) {
		if (read(loop->evfd, &drained, sizeof(drained)) < 0)
			assert(errno == EAGAIN || errno == EINTR);
		return;
	}
	lfd = slot < loop->slot_count ? loop->slots[slot].lfd : NULL;
	if (!lfd || loop->slots[slot].gen != gen)
		return;
	if (!lfd->resting && ev->events & (lfd->events | EPOLLHUP | EPOLLERR))
		loop_fd_run(loop, lfd, ev->events);
}

int loop_run(struct loop *loop)
{
	struct epoll_event batch[LOOP_BATCH];

	lock_take(&loop->lock);
	assert(!loop->in_run);
	loop->in_run = 1;
	loop->thread = pthread_self();
	while (!atomic_exchange(&loop->stop, 0)) {
		int rest = loop_rest_over(loop);
		int timeout = loop->head || loop_always_ready(loop) ? 0 : rest;
		int n;

		lock_drop(&loop->lock);
		n = epoll_wait(loop->epfd, batch, LOOP_BATCH, timeout);
		lock_take(&loop->lock);
		for (int i = 0; i < n; i++)
			loop_run_event(loop, &batch[i]);
		loop_run_always(loop);
		loop_run_work(loop);
	}
	loop->in_run = 0;
	lock_drop(&loop->lock);
	return atomic_load(&loop->stop_value);
}

void loop_stop(struct loop *loop, int value)
{
	int saved = errno;

	atomic_store(&loop->stop_value, value);
	atomic_store(&loop->stop, 1);
	loop_wake(loop);
	errno = saved;
}
