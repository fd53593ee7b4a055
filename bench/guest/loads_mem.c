/* loads_mem.c: pointer chasing (an integer load by its class), copies, streams. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "cpubench.h"

static void *pages(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return p;
}

/* One random cycle through `count` cells, each in a cache line of its own. */
struct cell {
	struct cell *next;
	uint64_t pad[7];
};

static struct cell *cycle(size_t count)
{
	struct cell *cells = pages(count * sizeof(*cells));
	uint32_t *order = malloc(count * sizeof(*order)), seed = 4711;

	if (!order)
		abort();
	for (size_t i = 0; i < count; i++)
		order[i] = (uint32_t)i;
	for (size_t i = count - 1; i; i--) {
		size_t k = random_next(&seed) % i;
		uint32_t t = order[i];
		order[i] = order[k];
		order[k] = t;
	}
	for (size_t i = 0; i < count; i++)
		cells[order[i]].next = &cells[order[(i + 1) % count]];
	free(order);
	return cells;
}

static uint64_t chase(struct cell **at, uint64_t n)
{
	struct cell *p = *at;

	for (n *= 100; n; n--)
		p = p->next;
	*at = p;
	return (uintptr_t)p;
}

static uint64_t chase_near_run(uint64_t n)
{
	static struct cell *at;

	if (!at)
		at = cycle(256); /* 16 KiB */
	return chase(&at, n);
}

static uint64_t chase_far_run(uint64_t n)
{
	static struct cell *at;

	if (!at)
		at = cycle((32u << 20) / sizeof(struct cell));
	return chase(&at, n);
}

/* The C library's memcpy is called through a pointer that the compiler cannot see through. */
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;

static uint64_t copy_run(uint64_t n, size_t size)
{
	static uint8_t *a, *b;

	if (!a) {
		a = pages(size);
		b = pages(size);
		memset(a, 1, size);
		memset(b, 2, size);
	}
	for (; n; n--)
		copy(a, b, size);
	return a[77];
}

static uint64_t memcpy_run(uint64_t n)
{
	return copy_run(n, 16384);
}

static uint64_t memcpy_large_run(uint64_t n)
{
	return copy_run(n, 8 << 20);
}

static uint64_t stream_run(uint64_t n)
{
	enum { COUNT = 1 << 20 };
	static uint64_t *a, *b;

	if (!a) {
		a = pages(COUNT * 8);
		b = pages(COUNT * 8);
		memset(a, 1, COUNT * 8);
		memset(b, 2, COUNT * 8);
	}
	for (; n; n--)
		for (unsigned i = 0; i < COUNT; i++) {
			uint64_t v = b[i];
			__asm__("" : "+r"(v)); /* not a call of memcpy */
			a[i] = v;
		}
	return a[77];
}

const struct load loads_mem[] = {
    {"chase-16k", "integer", chase_near_run, NULL}, {"chase-32m", "integer", chase_far_run, NULL},
    {"memcpy-16k", "memory", memcpy_run, NULL},	    {"memcpy-8m", "memory", memcpy_large_run, NULL},
    {"stream-8m", "stream", stream_run, NULL},	    {NULL, NULL, NULL, NULL},
};
