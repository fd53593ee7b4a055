/* lock.c: mutexes that know their place in the order. */
#include "base/lock.h"

#include <assert.h>

#ifndef NDEBUG
/*
 * The locks that this thread holds, lowest rank first: the order is a property of a thread, so this
 * has to be a thread's own. Debug builds only; nothing but assertions looks at it.
 */
#define LOCKS_HELD_MAX 16
static _Thread_local const struct lock *held[LOCKS_HELD_MAX];
static _Thread_local unsigned held_count;

static void held_push(const struct lock *lock)
{
	assert(held_count < LOCKS_HELD_MAX);
	assert(!held_count || held[held_count - 1]->rank < lock->rank);
	held[held_count++] = lock;
}

static void held_pop(const struct lock *lock)
{
	unsigned i = held_count;

	while (i > 0 && held[i - 1] != lock)
		i--;
	assert(i > 0);
	for (; i < held_count; i++)
		held[i - 1] = held[i];
	held_count--;
}

_Bool lock_held(const struct lock *lock)
{
	for (unsigned i = 0; i < held_count; i++) {
		if (held[i] == lock)
			return 1;
	}
	return 0;
}
#else
static void held_push(const struct lock *lock)
{
}
static void held_pop(const struct lock *lock)
{
}
_Bool lock_held(const struct lock *lock)
{
	return 1;
}
#endif

void lock_init(struct lock *lock, enum lock_rank rank)
{
	pthread_mutex_init(&lock->mutex, NULL);
	lock->rank = rank;
}

void lock_fini(struct lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

void lock_take(struct lock *lock)
{
	held_push(lock); /* first: a wrong order asserts instead of deadlocking */
	pthread_mutex_lock(&lock->mutex);
}

void lock_drop(struct lock *lock)
{
	pthread_mutex_unlock(&lock->mutex);
	held_pop(lock);
}
