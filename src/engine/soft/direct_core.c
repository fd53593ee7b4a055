/* direct_core.c: which core a helper and its vCPU's thread run on.
 *
 * One of the two always waits for the other, and to change between them on one core takes a tenth
 * of what it takes to wake another core, which may be asleep. So the helper follows its vCPU's
 * thread. But the host's kernel, when it wakes that thread, prefers a core that is idle to the one
 * where the helper still runs: on an idle machine both would move at nearly every stop, each time
 * to a cold cache. So the thread is kept on its core, as long as the two get that core.
 *
 * Whether they do is looked at every WINDOW: the time that all of a vCPU's processes have run,
 * against what has passed. When somebody else wants the core, too, the thread is let go for a
 * window and is woken where the kernel likes, as everybody is; the helper follows. It is free as
 * well whenever the engine returns (halted, kicked), and when user code has not been in a helper
 * for some time. Devices are called while it is kept, as the engine calls them in the middle of an
 * instruction: they start their threads with the machine, and who starts one there sets its cores.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>
#include "engine/soft/direct.h"

#define WINDOW_MS 20u
#define REST_MS	  50u

_Bool direct_core_calm(uint64_t used_ns, uint64_t passed_ns)
{
	return used_ns >= passed_ns - passed_ns / 8;
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	if (clock_gettime(id, &t))
		return 0;
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* What this thread and its helpers have run, since the last look. */
static uint64_t used_take(struct soft_direct *d)
{
	uint64_t now = clock_ns(CLOCK_THREAD_CPUTIME_ID), sum = now - d->core.thread_ns;

	d->core.thread_ns = now;
	for (unsigned i = 0; i < DIRECT_SPACES; i++) {
		struct direct_helper *h = &d->space[i].helper;
		clockid_t id;
		if (!h->pid || clock_getcpuclockid(h->pid, &id))
			continue;
		now = clock_ns(id);
		sum += now - h->used_ns;
		h->used_ns = now;
	}
	return sum;
}

static void look(struct soft_direct *d)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC), passed = now - d->core.looked_ns;
	uint64_t used = used_take(d);

	/* A window in which the thread has slept tells nothing. */
	d->core.contended = !d->core.slept && !direct_core_calm(used, passed);
	if (d->core.contended)
		direct_core_release(d);
	/* In one in which it has slept the helper had nothing to do either. */
	direct_spin_look(d, d->core.slept ? 2 * passed : used, passed);
	d->core.slept = 0;
	d->core.looked_ns = now;
	d->core.begun = __rdtsc();
}

/* Who may run everywhere is to get cores that are added later, too (brought online, or allowed by
 * the cpuset); what sched_getaffinity says has only those of now. */
static void everywhere_ask(struct direct_core *c)
{
	cpu_set_t set;

	if (CPU_EQUAL(&c->before, &c->asked))
		return;
	c->asked = c->before;
	memset(&set, 0xff, sizeof(set));
	c->everywhere = !sched_setaffinity(0, sizeof(set), &set) &&
			!sched_getaffinity(0, sizeof(set), &set) && CPU_EQUAL(&set, &c->before);
}

static void free_set(const struct direct_core *c)
{
	cpu_set_t set = c->before;

	if (c->everywhere)
		memset(&set, 0xff, sizeof(set));
	(void)sched_setaffinity(0, sizeof(set), &set);
}

void direct_core_hold(struct soft_direct *d)
{
	cpu_set_t set;
	int core = sched_getcpu();

	if (d->core.held || core < 0 || core >= CPU_SETSIZE ||
	    sched_getaffinity(0, sizeof(d->core.before), &d->core.before))
		return;
	everywhere_ask(&d->core);
	CPU_ZERO(&set);
	CPU_SET(core, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		free_set(&d->core);
	else
		d->core.held = core + 1;
}

void direct_core_release(struct soft_direct *d)
{
	cpu_set_t set, now;

	if (!d->core.held)
		return;
	CPU_ZERO(&set);
	CPU_SET(d->core.held - 1, &set);
	d->core.held = 0;
	/* Somebody may have said since where it is to run; just there is not heard. */
	if (!sched_getaffinity(0, sizeof(now), &now) && CPU_EQUAL(&now, &set))
		free_set(&d->core);
}

static void helper_follow(struct soft_cpu *cpu, struct direct_helper *h)
{
	int core = sched_getcpu();
	cpu_set_t set;

	_Bool apart = cpu->direct->spin.apart;
	if (core < 0 || core >= CPU_SETSIZE || (core + 1 == h->core && apart == h->apart))
		return;
	if (apart) {
		set = cpu->direct->core.before;
		CPU_CLR(core, &set);
	} else {
		CPU_ZERO(&set);
		CPU_SET(core, &set);
	}
	(void)sched_setaffinity(h->pid, sizeof(set), &set); /* refused: slower, no more */
	cpu->stats.direct_moves += h->core && core + 1 != h->core;
	h->core = core + 1;
	h->apart = apart;
}

void direct_core_enter(struct soft_cpu *cpu, struct direct_helper *h)
{
	struct soft_direct *d = cpu->direct;
	uint64_t now = __rdtsc();

	if (UNLIKELY(now - d->core.begun >= (uint64_t)WINDOW_MS * soft_tsc_khz()))
		look(d);
	d->core.entered = now;
	if (!d->core.held && !d->core.contended)
		direct_core_hold(d);
	helper_follow(cpu, h);
}

void direct_core_left(struct soft_direct *d, _Bool sleeps)
{
	d->core.slept |= sleeps;
	direct_core_release(d);
}

void direct_core_rest(struct soft_direct *d)
{
	if ((!d->core.held && !d->spin.apart) ||
	    __rdtsc() - d->core.entered <= (uint64_t)REST_MS * soft_tsc_khz())
		return;
	direct_core_release(d);
	d->spin.apart = 0; /* what it was good for is over */
}
