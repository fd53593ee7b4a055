/* uspace.h: one static program that asks everything of user space that a wrong CPU or a wrong
 * memory could answer wrongly. */
#ifndef USPACE_H
#define USPACE_H

#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE	      ((size_t)4096)

/*
 * A probe prints lines that do not depend on the machine, on where things happen to be mapped, or
 * on who runs first: the same program prints the same natively and in any guest. A line that may
 * differ between two CPUs, but not between two ways to run a guest on one, begins with "cpu: ".
 */
struct probe {
	const char *name;
	void (*run)(void);
	int only_long; /* minutes rather than seconds: asked for by name or with "long" */
};
extern const struct probe probes_map[], probes_signal[], probes_state[], probes_trace[],
    probes_code[], probes_process[], probes_threads[], probes_align[]; /* to a NULL name */

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says what is wrong and ends the probe. */
void wrong(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition))                                                                  \
			wrong("%s:%d: %s", __FILE_NAME__, __LINE__, #condition);                   \
	} while (0)

/* What a piece of code ended with: a signal (0: none) and the registers it was taken with. */
struct caught {
	int sig, code;
	uint64_t addr;
	greg_t reg[23];
};
/* Calls the function with every fault's signal caught. */
struct caught caught_in(void (*fn)(void *), void *arg);
const char *signal_short(int sig);

void *map_rw(size_t size); /* anonymous memory; never fails */
int memory_file(size_t size);
extern int quick; /* fewer rounds, for engines that interpret */

#endif
