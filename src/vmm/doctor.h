/* doctor.h: what this host offers to VMs, and what follows from it. */
#ifndef VMM_DOCTOR_H
#define VMM_DOCTOR_H

#include <stdio.h>
#include "base/util.h"

enum doctor_verdict { DOCTOR_GOOD, DOCTOR_NOTE, DOCTOR_BAD };

/* One finding: what was looked at, what was found, and what follows from it for the person. */
struct doctor_finding {
	const char *topic;
	enum doctor_verdict verdict;
	char found[256];
	char follows[384];
};

/* Looks at everything, in a fraction of a second, changing nothing; calls `fn` per finding. Returns
 * the number of findings that keep VMs from running at all. */
unsigned doctor_examine(void (*fn)(void *opaque, const struct doctor_finding *finding),
			void *opaque);

#endif
