/* tsc.c: the guest's time stamp counter.
 *
 * It is the host's, plus an offset that the engine keeps, plus one per CPU. The engine's offset
 * makes the counter stand still while the VM's clock does: whenever a vCPU enters guest code, the
 * distance between the host's clock and the VM's is compared with the one that the offset was made
 * for. On a manual clock the counter is derived from that clock instead, so that it is repeatable.
 */
#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>
#include "engine/soft/core.h"

static uint64_t host_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* By CPUID where it says (SDM2 CPUID 15H; hypervisors' 0x40000010), else measured. */
static uint32_t khz_find(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid_max(0, NULL) >= 0x15) {
		__cpuid_count(0x15, 0, a, b, c, d);
		if (a && b && c)
			return (uint32_t)((uint64_t)c * b / a / 1000);
	}
	__cpuid(1, a, b, c, d);
	if (c & BIT32(31)) {
		__cpuid(0x40000000, a, b, c, d);
		if (a >= 0x40000010) {
			__cpuid(0x40000010, a, b, c, d);
			if (a)
				return a;
		}
	}
	uint64_t ns = host_ns(), tsc = __rdtsc(), now;
	do
		now = host_ns();
	while (now - ns < 20000000);
	return (uint32_t)((__rdtsc() - tsc) * 1000000 / (now - ns));
}

uint32_t soft_tsc_khz(void)
{
	/* A constant of the host, found once: the same whoever comes first. */
	static _Atomic uint32_t khz;
	uint32_t v = atomic_load_explicit(&khz, memory_order_relaxed);

	if (!v) {
		v = khz_find();
		atomic_store_explicit(&khz, v, memory_order_relaxed);
	}
	return v;
}

static uint64_t ns_to_tsc(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * soft_tsc_khz() / 1000000);
}

uint64_t soft_tsc_base(struct soft_engine *engine)
{
	const struct clock *clock = engine->base.env->clock;

	if (clock_mode(clock) == CLOCK_MANUAL)
		return ns_to_tsc(clock_now_ns(clock));
	return __rdtsc() +
	       (uint64_t)atomic_load_explicit(&engine->tsc_offset, memory_order_relaxed);
}

/* How long the VM's clock has stood still, as far as the host's can tell. A thread that lost its
 * core between the readings reads again: the counter must not jump for that. */
static int64_t stopped_now(const struct clock *clock)
{
	uint64_t before, vm, after;

	do {
		before = host_ns();
		vm = clock_now_ns(clock);
		after = host_ns();
	} while (after - before > 200000);
	return (int64_t)(before - vm);
}

void soft_tsc_resync(struct soft_engine *engine)
{
	const struct clock *clock = engine->base.env->clock;

	if (clock_mode(clock) != CLOCK_REAL)
		return;
	int64_t stopped = stopped_now(clock);
	int64_t old = atomic_load_explicit(&engine->stopped_ns, memory_order_acquire);
	int64_t late = stopped - old;
	/* Less than this is the time between two readings. */
	if (late > -1000000 && late < 1000000)
		return;
	if (!atomic_compare_exchange_strong(&engine->stopped_ns, &old, stopped))
		return; /* another CPU sees to it */
	if (late >= 0)
		atomic_fetch_sub(&engine->tsc_offset, (int64_t)ns_to_tsc((uint64_t)late));
	else
		atomic_fetch_add(&engine->tsc_offset, (int64_t)ns_to_tsc((uint64_t)-late));
}

uint64_t soft_tsc(struct soft_cpu *cpu)
{
	return soft_tsc_base(cpu->engine) + cpu->tsc_offset;
}

void soft_tsc_set(struct soft_cpu *cpu, uint64_t value)
{
	cpu->tsc_offset = value - soft_tsc_base(cpu->engine);
}
