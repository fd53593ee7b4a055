/* tsc.c: the guest's time stamp counter.
 *
 * It is the host's, plus an offset of the engine's, plus one per CPU. While the VM's time is
 * stopped (engine_ops.time) the engine's part stands still, and goes on from there. On a manual
 * clock the counter is derived from that clock instead, so that it is repeatable.
 */
#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>
#include "engine/soft/core.h"
#include "base/host_time.h"
#include "engine/soft/lockstep.h"

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
	uint64_t ns = host_time_ns(), tsc = __rdtsc(), now;
	do
		now = host_time_ns();
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
	if (atomic_load_explicit(&engine->tsc_stopped, memory_order_acquire))
		return atomic_load_explicit(&engine->tsc_frozen, memory_order_relaxed);
	return __rdtsc() + atomic_load_explicit(&engine->tsc_offset, memory_order_relaxed);
}

void soft_tsc_time(struct soft_engine *engine, _Bool running)
{
	uint64_t now = soft_tsc_base(engine);

	if (running == !atomic_load(&engine->tsc_stopped))
		return;
	if (running)
		atomic_store(&engine->tsc_offset, now - __rdtsc());
	else
		atomic_store(&engine->tsc_frozen, now);
	atomic_store_explicit(&engine->tsc_stopped, !running, memory_order_release);
}

uint64_t soft_tsc(struct soft_cpu *cpu)
{
	struct soft_io io = {.kind = SOFT_IO_TSC_READ};

	if (UNLIKELY(cpu->lockstep != NULL) && lockstep_replay(cpu, &io))
		return io.value;
	io.value = soft_tsc_base(cpu->engine) + cpu->tsc_offset;
	if (UNLIKELY(cpu->lockstep != NULL))
		lockstep_record(cpu, &io);
	return io.value;
}

void soft_tsc_set(struct soft_cpu *cpu, uint64_t value)
{
	struct soft_io io = {.kind = SOFT_IO_TSC_WRITE, .value = value};

	if (UNLIKELY(cpu->lockstep != NULL) && lockstep_replay(cpu, &io))
		return;
	cpu->tsc_offset = value - soft_tsc_base(cpu->engine);
	if (UNLIKELY(cpu->lockstep != NULL))
		lockstep_record(cpu, &io);
}
