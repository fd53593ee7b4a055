/* direct_large.c: where the guest maps a large page, the host gets one, too.
 *
 * What a helper has mapped is memory of a file, for which hosts mostly give no large pages by
 * themselves; then a guest's own are worth nothing to the TLB. The 2 MiB of a large page of the
 * guest are all in use, so that to join them (MADV_COLLAPSE, Linux 6.1) takes no memory, but about
 * a millisecond: each vCPU does it once for each, later, and in a 64th of its time in the mean.
 * Where the host cannot, nothing is lost.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <x86intrin.h>
#include "engine/soft/direct.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define LARGE	   (UINT64_C(2) << 20)
#define PART	   64u
#define FAILED_MAX 16u
#define LONGEST_MS 100u /* that one can have taken */

static uint64_t number_of(const struct soft_slot *slot, uint64_t phys)
{
	return (slot->first_page + ((phys - slot->base) >> 12)) >> 9;
}

void direct_large_note(struct soft_cpu *cpu, uint64_t phys)
{
	struct direct_large *l = &cpu->direct->large;
	const struct soft_slot *slot = soft_ram_slot(&cpu->engine->ram, phys);

	if (!slot || phys % LARGE || slot->size - (phys - slot->base) < LARGE ||
	    (uintptr_t)(slot->host + (phys - slot->base)) % LARGE ||
	    l->wishes == ARRAY_SIZE(l->wish) || l->failed >= FAILED_MAX)
		return;
	if (!l->done)
		l->done = calloc(cpu->engine->ram.pages / 512 / 8 + 1, 1);
	uint64_t n = number_of(slot, phys);
	if (!l->done || l->done[n / 8] & 1u << n % 8)
		return;
	l->done[n / 8] |= (uint8_t)(1u << n % 8);
	l->wish[l->wishes++] = phys;
}

void direct_large_take(struct soft_cpu *cpu)
{
	struct direct_large *l = &cpu->direct->large;
	uint64_t begin = __rdtsc();

	/* The TSC may have gone back: then there is time. */
	if (LIKELY(!l->wishes) || begin - l->since < l->pause)
		return;
	uint64_t phys = l->wish[--l->wishes];
	const struct soft_slot *slot = soft_ram_slot(&cpu->engine->ram, phys);
	if (!slot)
		return;
	if (madvise(slot->host + (phys - slot->base), LARGE, MADV_COLLAPSE)) {
		if (++l->failed >= FAILED_MAX) /* it cannot */
			l->wishes = 0;
	} else {
		cpu->stats.direct_large++;
		l->failed = 0;
	}
	l->since = __rdtsc();
	l->pause = MIN(l->since - begin, (uint64_t)LONGEST_MS * soft_tsc_khz()) * (PART - 1);
}

void direct_large_fini(struct soft_direct *d)
{
	free(d->large.done);
	d->large.done = NULL;
}
