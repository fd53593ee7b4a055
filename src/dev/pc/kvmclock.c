/*
 * kvmclock.c: KVM's paravirtual clock: time as a line through a TSC value, in guest memory.
 *
 * A guest registers one structure per CPU. In it stand a TSC value, the VM's time at that value,
 * and how to turn TSC ticks into nanoseconds; from there the guest reads the time without an exit.
 * All CPUs get the same line, so that they agree to the nanosecond, and the flag that says so,
 * unless a guest has moved one CPU's TSC. The line is drawn anew only when TSC and VM time may have
 * moved against each other: after a pause and after a restore; it then never leads backwards.
 * A version that is odd while the fields change tells readers on other CPUs to try again.
 */
#include "dev/pc/kvmclock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/le.h"
#include "base/log.h"

struct time_info {
	struct le32 version, pad0;
	struct le64 tsc_timestamp, system_time;
	struct le32 mul;
	uint8_t shift, flags, pad[2];
};
_Static_assert(sizeof(struct time_info) == 32, "the guest's layout");

struct wall_info {
	struct le32 version, sec, nsec;
};
_Static_assert(sizeof(struct wall_info) == 12, "the guest's layout");

#define FLAG_TSC_STABLE	   1u
#define FLAG_GUEST_STOPPED 2u
#define ENABLE		   1u
#define ADDRESS_MASK	   (~UINT64_C(3))

#define KVM_ENOSYS 1000
#define KVM_EPERM  1

struct kvmclock {
	struct device dev;
	struct kvmclock_config cfg;
	uint32_t mul;
	int8_t shift;
	uint64_t wall; /* the MSR */
	uint64_t line_tsc, line_ns;
	_Bool line_valid;
	uint64_t system[KVMCLOCK_MAX_CPUS]; /* the MSR, per CPU */
};

/* 32.32 multiplier and shift that turn ticks into nanoseconds: (ticks << shift) * mul >> 32, with
 * mul's top bit set for the best precision. */
static void rate_init(struct kvmclock *k)
{
	const uint64_t second = 1000000000;
	uint64_t hz = (uint64_t)k->cfg.tsc_khz * 1000;

	k->shift = 0;
	for (; hz > 2 * second; k->shift--)
		hz >>= 1;
	for (; hz <= second; k->shift++)
		hz <<= 1;
	k->mul = (uint32_t)((second << 32) / hz);
}

static uint64_t ticks_to_ns(const struct kvmclock *k, uint64_t ticks)
{
	ticks = k->shift < 0 ? ticks >> -k->shift : ticks << k->shift;
	return (uint64_t)((unsigned __int128)ticks * k->mul >> 32);
}

static uint64_t tsc_read(const struct kvmclock *k, unsigned cpu)
{
	return k->cfg.tsc.read(k->cfg.tsc.opaque, cpu);
}

/* A difference beyond this is no drift: the old line says nothing about now. */
#define LINE_DRIFT_NS UINT64_C(1000000000)

static void line_draw(struct kvmclock *k)
{
	uint64_t ns = clock_now_ns(k->cfg.clock), tsc = tsc_read(k, 0);

	if (k->line_valid && tsc >= k->line_tsc) {
		uint64_t old = k->line_ns + ticks_to_ns(k, tsc - k->line_tsc);

		if (old > ns && old - ns < LINE_DRIFT_NS)
			ns = old;
	}
	k->line_tsc = tsc;
	k->line_ns = ns;
	k->line_valid = 1;
}

/* How far a CPU's TSC is from CPU 0's: 0 when it reads between two reads of CPU 0's. */
static uint64_t tsc_distance(const struct kvmclock *k, unsigned cpu)
{
	uint64_t before = tsc_read(k, 0), own = tsc_read(k, cpu), after = tsc_read(k, 0);

	return own - before <= after - before ? 0 : own - before;
}

static struct gpa address(uint64_t msr)
{
	return gpa(msr & ADDRESS_MASK);
}

/* An address that holds no RAM is the guest's loss; it is told in the log, and nothing is written.
 */
static void time_write(struct kvmclock *k, unsigned cpu, uint8_t flags)
{
	uint64_t distance = tsc_distance(k, cpu);
	struct gpa at = address(k->system[cpu]);
	struct time_info info;
	uint32_t version;

	if (!(k->system[cpu] & ENABLE))
		return;
	if (gmem_read(k->cfg.mem, at, &info, sizeof(info)) ||
	    gmem_write(k->cfg.mem, at, &info.version, sizeof(info.version))) {
		log_guest("cpu%u registered a kvmclock outside of memory, at %#llx", cpu,
			  (unsigned long long)at.v);
		return;
	}
	version = le32_get(info.version) | 1;
	info.version = le32_make(version);
	(void)!gmem_write(k->cfg.mem, at, &info.version, sizeof(info.version));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	info.tsc_timestamp = le64_make(k->line_tsc + distance);
	info.system_time = le64_make(k->line_ns);
	info.mul = le32_make(k->mul);
	info.shift = (uint8_t)k->shift;
	info.flags = flags | (distance ? 0 : FLAG_TSC_STABLE);
	(void)!gmem_write(k->cfg.mem, gpa(at.v + 8), &info.tsc_timestamp, sizeof(info) - 8);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	info.version = le32_make(version + 1);
	(void)!gmem_write(k->cfg.mem, at, &info.version, sizeof(info.version));
}

/* The wall-clock time at VM time 0, written once when asked for. */
static void wall_write(struct kvmclock *k)
{
	int64_t base = clock_wall_base_ns(k->cfg.clock);
	struct gpa at = address(k->wall);
	struct wall_info info;
	uint32_t version;

	if (gmem_read(k->cfg.mem, at, &info, sizeof(info)))
		return;
	version = le32_get(info.version) | 1;
	info.version = le32_make(version);
	info.sec = le32_make((uint32_t)(base / 1000000000));
	info.nsec = le32_make((uint32_t)(base % 1000000000));
	if (gmem_write(k->cfg.mem, at, &info, sizeof(info)))
		return;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	info.version = le32_make(version + 1);
	(void)!gmem_write(k->cfg.mem, at, &info.version, sizeof(info.version));
}

static _Bool is_wall(uint32_t msr)
{
	return msr == MSR_KVM_WALL_CLOCK || msr == MSR_KVM_WALL_CLOCK_NEW;
}

static int msr_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value)
{
	struct kvmclock *k = opaque;

	lock_take(&k->dev.lock);
	*value = is_wall(msr) ? k->wall : k->system[cpu];
	lock_drop(&k->dev.lock);
	return 0;
}

static int msr_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
	struct kvmclock *k = opaque;

	lock_take(&k->dev.lock);
	if (is_wall(msr)) {
		k->wall = value;
		wall_write(k);
	} else {
		k->system[cpu] = value;
		if (!k->line_valid)
			line_draw(k);
		time_write(k, cpu, 0);
	}
	lock_drop(&k->dev.lock);
	return 0;
}

/* None of KVM's calls is offered in CPUID; a guest that tries gets KVM's answer for that. */
static _Bool hypercall(void *opaque, unsigned cpu, struct hypercall_regs *regs)
{
	int64_t answer = regs->cpl ? -KVM_EPERM : -KVM_ENOSYS;

	(void)opaque;
	(void)cpu;
	regs->rax = regs->long_mode ? (uint64_t)answer : (uint32_t)answer;
	return 1;
}

void kvmclock_resumed(struct device *dev)
{
	struct kvmclock *k = (struct kvmclock *)dev;

	lock_take(&dev->lock);
	if (k->line_valid) {
		line_draw(k);
		for (unsigned i = 0; i < k->cfg.cpus; i++)
			time_write(k, i, FLAG_GUEST_STOPPED);
	}
	lock_drop(&dev->lock);
}

static void kvmclock_reset(struct device *dev, enum reset_kind kind)
{
	struct kvmclock *k = (struct kvmclock *)dev;

	(void)kind;
	k->wall = 0;
	k->line_valid = 0;
	k->line_tsc = k->line_ns = 0;
	memset(k->system, 0, sizeof(k->system));
}

static void kvmclock_free(struct device *dev)
{
	device_fini(dev);
	free(dev);
}

static int kvmclock_check(const void *shadow, struct error *err)
{
	const struct kvmclock *k = shadow;

	for (unsigned i = 0; i < KVMCLOCK_MAX_CPUS; i++)
		if (i >= k->cfg.cpus ? k->system[i] != 0 : k->system[i] & ENABLE && !k->line_valid)
			return error_set(err, -EINVAL, "The saved kvmclock of CPU %u cannot be.",
					 i);
	return 0;
}

static const struct state_field kvmclock_fields[] = {
    STATE_SCALAR(1, struct kvmclock, wall),
    STATE_SCALAR(2, struct kvmclock, line_tsc),
    STATE_SCALAR(3, struct kvmclock, line_ns),
    STATE_BOOL(4, struct kvmclock, line_valid),
    STATE_ARRAY(5, struct kvmclock, system, KVMCLOCK_MAX_CPUS),
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

static int doors_open(struct kvmclock *k)
{
	struct msr_door door = {
	    .read = msr_read, .write = msr_write, .opaque = k, .name = "kvmclock"};
	int r;

	door.first = MSR_KVM_WALL_CLOCK;
	door.last = MSR_KVM_SYSTEM_TIME;
	r = doors_add_msr(k->cfg.doors, &door);
	if (r)
		return r;
	door.first = MSR_KVM_WALL_CLOCK_NEW;
	door.last = MSR_KVM_SYSTEM_TIME_NEW;
	r = doors_add_msr(k->cfg.doors, &door);
	if (!r && !k->cfg.doors->hypercall.call)
		k->cfg.doors->hypercall = (struct hypercall_door){.call = hypercall, .opaque = k};
	return r;
}

int kvmclock_new(struct device **dev, const struct kvmclock_config *cfg, struct error *err)
{
	struct kvmclock *k;
	int r;

	if (!cfg->tsc_khz || !cfg->cpus || cfg->cpus > KVMCLOCK_MAX_CPUS)
		return error_set(err, -EINVAL,
				 "A kvmclock needs a TSC with a known rate and 1 to %d CPUs.",
				 KVMCLOCK_MAX_CPUS);
	k = calloc(1, sizeof(*k));
	if (!k)
		return error_set(err, -ENOMEM, "There is no memory for a kvmclock.");
	k->cfg = *cfg;
	rate_init(k);
	device_init(&k->dev, &kvmclock_class, RANK_DEVICE, 0, "kvmclock");
	kvmclock_reset(&k->dev, RESET_POWER);
	r = doors_open(k);
	if (r) {
		kvmclock_free(&k->dev);
		return error_set(err, r, "The MSRs of the kvmclock are taken.");
	}
	*dev = &k->dev;
	return 0;
}
