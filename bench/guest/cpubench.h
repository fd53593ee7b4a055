/* cpubench.h: one static program of small loads, run natively and in guests alike. */
#ifndef CPUBENCH_H
#define CPUBENCH_H

#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/*
 * A load runs `n` units of its work. What it computed is returned, so that nothing is left out;
 * units are of any size, only their rate counts. NULL `usable`: always.
 */
struct load {
	const char *name;
	const char *group;
	uint64_t (*run)(uint64_t n);
	int (*usable)(void);
};

extern const struct load loads_int[], loads_mem[], loads_fp[], loads_sys[]; /* to a NULL name */

uint64_t clock_ns(void);
uint32_t random_next(uint32_t *state);

#endif
