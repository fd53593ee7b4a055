/* kvmclock.c: KVM's paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst). */
#include "dev/pc/kvmclock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/le.h"
#include "base/trace.h"

/*
 * A guest computes time as  system_time + (((tsc - tsc_timestamp) << shift) * mul >> 32)  from a
 * structure in its own memory. All CPUs are given the same pair of tsc_timestamp and system_time,
 * taken once when time starts to run; so their clocks agree exactly, and the "stable" flag may be
 * set. The version is odd while the structure is being written.
 */
#define MSR_WALL_OLD   0x11u
#define MSR_SYSTEM_OLD 0x12u
#define MSR_WALL       0x4b564d00u
#define MSR_SYSTEM     0x4b564d01u
#define SYSTEM_ENABLE  UINT64_C(1)

#define PVCLOCK_TSC_STABLE BIT32(0)

struct pvclock_time {
	struct le32 version;
	struct le32 pad0;
	struct le64 tsc_timestamp;
	struct le64 system_time;
	struct le32 tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};
_Static_assert(sizeof(struct pvclock_time) == 32, "as the guest reads it");

struct pvclock_wall {
	struct le32 version, sec, nsec;
};
_Static_assert(sizeof(struct pvclock_wall) == 12, "as the guest reads it");

struct kvmclock {
	struct device dev;
	struct kvmclock_config cfg;
	uint32_t mul;
	int8_t shift;
	uint64_t tsc_base, ns_base; /* the pair that every CPU was given */
	/* saved: */
	uint64_t system[KVMCLOCK_MAX_CPUS]; /* MSR_SYSTEM: address and enable bit */
	uint64_t wall;
	uint32_t version[KVMCLOCK_MAX_CPUS]; /* last one written, even */
	uint32_t wall_version;
};

/* mul and shift such that a tick of khz is (1 << shift) * mul / 2^32 nanoseconds, with mul as large
 * as 32 bits allow. */
static void scale_from_khz(uint32_t khz, uint32_t *mul, int8_t *shift)
{
	uint64_t ticks = (uint64_t)khz * 1000, ns = 1000000000;
	int s = 0;

	for (; ticks > 2 * ns; s--)
		ticks >>= 1;
	for (; ticks <= ns && s < 31; s++)
		ticks <<= 1;
	*mul = (uint32_t)((ns << 32) / ticks);
	*shift = (int8_t)s;
}

/* Writes a structure whose first field is its version: odd, the rest, even. A guest's bad address
 * changes nothing. */
static void write_versioned(struct kvmclock *k, uint64_t addr, const void *data, size_t len,
			    uint32_t version)
{
	struct le32 odd = le32_make(version - 1), even = le32_make(version);

	if (gmem_write(k->cfg.mem, gpa(addr), &odd, sizeof(odd))) {
		trace(TRACE_GUEST, "kvmclock: %#llx is not RAM", (unsigned long long)addr);
		return;
	}
	if (gmem_write(k->cfg.mem, gpa(addr + 4), (const uint8_t *)data + 4, len - 4) ||
	    gmem_write(k->cfg.mem, gpa(addr), &even, sizeof(even)))
		trace(TRACE_GUEST, "kvmclock: %#llx ends outside of RAM", (unsigned long long)addr);
}

static void write_time(struct kvmclock *k, unsigned cpu)
{
	const struct pvclock_time t = {
	    .tsc_timestamp = le64_make(k->tsc_base),
	    .system_time = le64_make(k->ns_base),
	    .tsc_to_system_mul = le32_make(k->mul),
	    .tsc_shift = k->shift,
	    .flags = PVCLOCK_TSC_STABLE,
	};

	if (!(k->system[cpu] & SYSTEM_ENABLE))
		return;
	k->version[cpu] += 2;
	write_versioned(k, k->system[cpu] & ~SYSTEM_ENABLE, &t, sizeof(t), k->version[cpu]);
}

/* The wall clock's structure holds the time of day at which system time was 0. */
static void write_wall(struct kvmclock *k)
{
	int64_t base = clock_wall_base_ns(k->cfg.clock);
	const struct pvclock_wall w = {
	    .sec = le32_make((uint32_t)(base / 1000000000)),
	    .nsec = le32_make((uint32_t)(base % 1000000000)),
	};

	k->wall_version += 2;
	write_versioned(k, k->wall, &w, sizeof(w), k->wall_version);
}

static void take_pair(struct kvmclock *k)
{
	k->ns_base = clock_now_ns(k->cfg.clock);
	k->tsc_base = k->cfg.tsc.read(k->cfg.tsc.opaque, 0);
}

static int msr_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value)
{
	struct kvmclock *k = opaque;

	lock_take(&k->dev.lock);
	*value = msr == MSR_WALL || msr == MSR_WALL_OLD ? k->wall : k->system[cpu];
	lock_drop(&k->dev.lock);
	return 0;
}

static int msr_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
	struct kvmclock *k = opaque;

	lock_take(&k->dev.lock);
	if (msr == MSR_WALL || msr == MSR_WALL_OLD) {
		k->wall = value;
		write_wall(k);
	} else {
		k->system[cpu] = value;
		write_time(k, cpu);
	}
	lock_drop(&k->dev.lock);
	return 0;
}

void kvmclock_resumed(struct device *dev)
{
	struct kvmclock *k = container_of(dev, struct kvmclock, dev);

	lock_take(&dev->lock);
	take_pair(k);
	for (unsigned i = 0; i < k->cfg.cpus; i++)
		write_time(k, i);
	lock_drop(&dev->lock);
}

static void kvmclock_reset(struct device *dev, enum reset_kind kind)
{
	struct kvmclock *k = container_of(dev, struct kvmclock, dev);

	for (unsigned i = 0; i < KVMCLOCK_MAX_CPUS; i++) {
		k->system[i] = 0;
		k->version[i] = 0;
	}
	k->wall = 0;
	k->wall_version = 0;
	take_pair(k);
}

static void kvmclock_free(struct device *dev)
{
	device_fini(dev);
	free(container_of(dev, struct kvmclock, dev));
}

static int kvmclock_check(const void *shadow, struct error *err)
{
	const struct kvmclock *k = shadow;

	for (unsigned i = 0; i < KVMCLOCK_MAX_CPUS; i++) {
		if (i >= k->cfg.cpus && k->system[i])
			return error_set(err, -EINVAL, "saved kvmclock: CPU %u does not exist", i);
		if (k->version[i] & 1)
			return error_set(err, -EINVAL, "saved kvmclock: odd version for CPU %u", i);
	}
	if (k->wall_version & 1)
		return error_set(err, -EINVAL, "saved kvmclock: odd version of the wall clock");
	return 0;
}

static const struct state_field kvmclock_fields[] = {
    STATE_ARRAY(1, struct kvmclock, system, KVMCLOCK_MAX_CPUS),
    STATE_SCALAR(2, struct kvmclock, wall),
    STATE_ARRAY(3, struct kvmclock, version, KVMCLOCK_MAX_CPUS),
    STATE_SCALAR(4, struct kvmclock, wall_version),
    STATE_END,
};

static const struct state_desc kvmclock_state = {
    .name = "kvmclock",
    .fields = kvmclock_fields,
    .size = sizeof(struct kvmclock),
    .check = kvmclock_check,
};

static const struct device_class kvmclock_class = {
    .name = "kvmclock",
    .reset = kvmclock_reset,
    .free = kvmclock_free,
    .state = &kvmclock_state,
};

int kvmclock_new(struct device **dev, const struct kvmclock_config *cfg, struct error *err)
{
	static const struct {
		uint32_t first, last;
	} ranges[] = {{MSR_WALL_OLD, MSR_SYSTEM_OLD}, {MSR_WALL, MSR_SYSTEM}};
	struct kvmclock *k = calloc(1, sizeof(*k));

	assert(cfg->cpus <= KVMCLOCK_MAX_CPUS && cfg->tsc_khz);
	if (!k)
		return error_set(err, -ENOMEM, "out of memory");
	k->cfg = *cfg;
	scale_from_khz(cfg->tsc_khz, &k->mul, &k->shift);
	device_init(&k->dev, &kvmclock_class, RANK_DEVICE, 0, "kvmclock");
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		const struct msr_door door = {
		    ranges[i].first, ranges[i].last, msr_read, msr_write, k, "kvmclock"};
		int r = doors_add_msr(cfg->doors, &door);
		if (r) {
			kvmclock_free(&k->dev);
			return error_set(err, r, "kvmclock: its MSRs are taken");
		}
	}
	*dev = &k->dev;
	return 0;
}
