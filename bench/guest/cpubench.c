/* cpubench.c: measures small loads and prints the best rate of each. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "cpubench.h"

#define SLICES 4 /* the best of these is taken */

static volatile uint64_t sink;

uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint32_t random_next(uint32_t *state)
{
	uint32_t x = *state;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return *state = x;
}

static uint64_t slice(const struct load *l, uint64_t n)
{
	uint64_t start = clock_ns();

	sink += l->run(n);
	return clock_ns() - start + 1;
}

/* Units a second, and how many units that took. What a load sets up when it first runs (32 MiB of
 * cells, pages that are touched for the first time) can take longer than a slice: the first unit is
 * not measured, and each slice is as long as the fastest one so far says.
 */
static double measure(const struct load *l, uint64_t slice_ns, uint64_t *units)
{
	uint64_t n = 1, ns = (slice(l, n), slice(l, n));
	double rate = (double)n / (double)ns, best = 0;

	*units = 1 + n;
	while (ns < slice_ns / 8) {
		n = ns * 16 < slice_ns / 8 ? n * 16 : n * 2;
		ns = slice(l, n);
		*units += n;
		rate = (double)n / (double)ns;
	}
	for (int i = 0; i < SLICES; i++) {
		n = (uint64_t)(rate * (double)slice_ns);
		n += !n;
		double now = (double)n / (double)slice(l, n);
		*units += n;
		rate = now > rate ? now : rate;
		best = now > best ? now : best;
	}
	return best * 1e9;
}

static int chosen(const char *only, const char *name)
{
	size_t len = strlen(name);

	for (const char *p = only; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (!strncmp(p, name, len) && (p[len] == ',' || !p[len]))
			return 1;
	return !only;
}

/* Copies of one load at the same time, each for the same time: units a second of all. */
static double together(const struct load *l, unsigned copies, uint64_t ns)
{
	double total = 0, one;
	int pipes[2];

	if (pipe(pipes))
		return 0;
	for (unsigned i = 0; i < copies; i++) {
		if (fork())
			continue;
		uint64_t n = 0, start = clock_ns(), now;
		do {
			sink += l->run(1);
			n++;
			now = clock_ns();
		} while (now - start < ns);
		one = (double)n * 1e9 / (double)(now - start);
		_exit(write(pipes[1], &one, sizeof(one)) != sizeof(one));
	}
	close(pipes[1]);
	while (read(pipes[0], &one, sizeof(one)) == sizeof(one))
		total += one;
	close(pipes[0]);
	while (wait(NULL) > 0)
		;
	return total;
}

/* In a process of its own: what one load has allocated is nothing to the next one's forks. */
static void alone(const struct load *l, uint64_t slice_ns, int work)
{
	pid_t pid = fork();
	uint64_t units;

	if (!pid) {
		printf("rate %s %s %.6g\n", l->name, l->group, measure(l, slice_ns, &units));
		if (work)
			printf("work %s %llu\n", l->name, (unsigned long long)units);
		fflush(stdout);
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static const struct load *const all[] = {loads_int, loads_mem, loads_fp, loads_sys};

static void each(const char *only, uint64_t slice_ns, int list, int work)
{
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (const struct load *l = all[i]; l->name; l++) {
			if (!chosen(only, l->name) || (l->usable && !l->usable()))
				continue;
			if (list)
				printf("load %s %s\n", l->name, l->group);
			else
				alone(l, slice_ns, work);
			fflush(stdout);
		}
}

/* A name that no load has, with what follows it; or NULL. */
static const char *unknown(const char *only)
{
	for (const char *p = only; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		size_t len = strcspn(p, ",");
		int found = 0;

		for (size_t i = 0; i < ARRAY_SIZE(all); i++)
			for (const struct load *l = all[i]; l->name; l++)
				found |= strlen(l->name) == len && !strncmp(p, l->name, len);
		if (!found)
			return p;
	}
	return NULL;
}

static void scaling(uint64_t ns)
{
	const struct load *l = &loads_int[0];

	for (unsigned copies = 1; copies <= 2; copies++) {
		double best = 0;
		for (int i = 0; i < 3; i++) {
			double rate = together(l, copies, ns);
			best = rate > best ? rate : best;
		}
		printf("scale %u %.6g\n", copies, best);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	uint64_t ns = 150000000;
	const char *only = NULL;
	int list = 0, scale = 0, work = 0;

	if (argc > 1 && !strcmp(argv[1], "--nothing")) /* what the exec load starts */
		return 0;
	for (int o; (o = getopt(argc, argv, "t:o:lsw")) != -1;) {
		switch (o) {
		case 't': ns = strtoull(optarg, NULL, 10) * 1000000; break;
		case 'o': only = optarg; break;
		case 'l': list = 1; break;
		case 's': scale = 1; break;
		case 'w': work = 1; break;
		default:
			fprintf(stderr, "usage: cpubench [-t MS] [-o NAME,...] [-l] [-s] [-w]\n");
			return 2;
		}
	}
	const char *wrong = unknown(only);
	if (wrong) {
		fprintf(stderr, "cpubench: no load is called '%.*s' (-l lists them)\n",
			(int)strcspn(wrong, ","), wrong);
		return 2;
	}
	if (scale)
		scaling(ns);
	else
		each(only, ns / SLICES, list, work);
	printf("cpubench done\n");
	return 0;
}
