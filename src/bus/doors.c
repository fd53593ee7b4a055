/* doors.c: which MSRs somebody else than the CPU answers. */
#include "bus/doors.h"

#include <assert.h>
#include <errno.h>

int doors_add_msr(struct doors *doors, const struct msr_door *door)
{
	assert(door->first <= door->last);
	for (unsigned i = 0; i < doors->msr_count; i++) {
		const struct msr_door *other = &doors->msr[i];

		if (door->first <= other->last && other->first <= door->last)
			return -EEXIST;
	}
	if (doors->msr_count == DOORS_MAX_MSR)
		return -ENOSPC;
	doors->msr[doors->msr_count++] = *door;
	return 0;
}

const struct msr_door *doors_find_msr(const struct doors *doors, uint32_t msr)
{
	for (unsigned i = 0; i < doors->msr_count; i++) {
		if (msr >= doors->msr[i].first && msr <= doors->msr[i].last)
			return &doors->msr[i];
	}
	return NULL;
}
