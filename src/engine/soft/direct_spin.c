/* direct_spin.c: when a helper and its vCPU's thread run on two cores, and look at memory instead
 * of sleeping while they wait for each other.
 *
 * On one core a crossing is two changes of process, 5 to 20 us, and keeps no other core busy. On
 * two, with nobody having to be woken, it is 3 to 5 us; but if either has to be woken after all,
 * that core may be asleep, which takes longer than all of it; and the second core is nobody else's
 * meanwhile. So they go apart only while crossings are many and nearly all of them quick: neither
 * had to be woken, as what a stretch or the guest's kernel took was shorter than the other looks.
 * That is tried when the last window (direct_core.c) had many crossings. Where programs change all
 * the time, it turns out not to be quick within some dozens of crossings; where the cores are not
 * free, the two do not get the time of two cores. Then it is tried again after twice as long each
 * time.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <x86intrin.h>
#include "engine/soft/direct.h"

#define MANY	  2u  /* crossings in a millisecond, to go apart; half of that to stay */
#define TRIAL	  64u /* crossings, after which it is looked whether they are quick */
#define PAUSE_MAX 256u
#define LOOK_US	  300u

/* Quick enough: half of the crossings. One for which somebody is woken takes up to twice as long as
 * on one core, the others a fifth. */
static _Bool quick(const struct direct_spin *s)
{
	return s->slow * 2 <= s->crossings;
}

static void give_up(struct direct_spin *s)
{
	s->apart = 0;
	s->pause = MIN(MAX(s->pause * 2, 1u), PAUSE_MAX);
	s->left = s->pause;
}

void direct_spin_judge(struct direct_spin *s, uint64_t used_ns, uint64_t passed_ns, _Bool possible)
{
	uint64_t many = s->crossings / MAX(passed_ns / 1000000, UINT64_C(1));

	if (s->apart) {
		/* Two cores at work most of the time, but for what computes or sleeps for long. Who
		 * had none free just now may have it in the next window. */
		if (!quick(s) || used_ns < passed_ns + passed_ns / 4) {
			give_up(s);
		} else if (!possible) {
			s->apart = 0;
			s->left = 1;
		} else {
			s->pause /= 2;
			s->apart = many * 2 >= MANY;
		}
	} else if (s->left) {
		s->left--;
	} else {
		s->apart = possible && many >= MANY;
	}
	s->crossings = s->slow = 0;
}

static _Bool possible(const struct soft_direct *d)
{
	return d->core.held && CPU_COUNT(&d->core.before) > 1;
}

/* Are no more threads of the host at work or waiting for a core than it has cores, this one and the
 * helper, which is about to sleep or looks, among them? Where the host does not say, so it is. */
static _Bool room(void)
{
	char text[128];
	unsigned running;
	int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 1;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[MAX(n, 0)] = 0;
	return sscanf(text, "%*s %*s %*s %u/", &running) != 1 ||
	       (long)running <= sysconf(_SC_NPROCESSORS_ONLN);
}

void direct_spin_look(struct soft_direct *d, uint64_t used_ns, uint64_t passed_ns)
{
	/* To ask the host takes longer than a crossing: only where there are many. */
	_Bool asked = d->spin.crossings * UINT64_C(2000000) >= passed_ns * MANY;

	direct_spin_judge(&d->spin, used_ns, passed_ns, possible(d) && (!asked || room()));
}

void direct_spin_enter(struct soft_cpu *cpu, struct direct_helper *h)
{
	struct soft_direct *d = cpu->direct;
	struct direct_spin *s = &d->spin;

	if (s->apart && s->crossings >= TRIAL && !quick(s))
		give_up(s);
	s->apart &= possible(d);
	if (s->last != h)
		direct_spin_rest(d);
	s->last = h;
	atomic_store_explicit(&h->shared->spin, s->apart ? DIRECT_SPIN_MAX : 0,
			      memory_order_relaxed);
	s->crossings++;
}

void direct_spin_crossed(struct soft_cpu *cpu, _Bool woken)
{
	struct direct_spin *s = &cpu->direct->spin;

	s->kind = !s->apart ? CROSSING_TOGETHER : woken ? CROSSING_SLOW : CROSSING_QUICK;
	s->slow += s->kind == CROSSING_SLOW;
	cpu->stats.direct_apart += s->kind == CROSSING_QUICK;
}

void direct_spin_rest(struct soft_direct *d)
{
	struct direct_helper *h = d->spin.last;

	if (h && h->shared)
		atomic_store_explicit(&h->shared->spin, 0, memory_order_relaxed);
	d->spin.last = NULL;
}

_Bool direct_spin_wait(struct soft_cpu *cpu, const struct direct_helper *h)
{
	uint64_t begin = __rdtsc(), most = (uint64_t)LOOK_US * soft_tsc_khz() / 1000;

	if (!cpu->direct->spin.apart)
		return 0;
	/* `go` is only a hint: who has stopped says so by the event descriptor. */
	while (atomic_load_explicit(&h->shared->go, memory_order_relaxed)) {
		if (__rdtsc() - begin > most)
			return 0;
		_mm_pause();
	}
	return 1;
}
