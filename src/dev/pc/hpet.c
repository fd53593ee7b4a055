/* hpet.c: high precision event timers (IA-PC HPET 1.0a). */
#include "dev/pc/hpet.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <errno.h>

#define HPET_CAP       0x000
#define HPET_CONF      0x010
#define HPET_STATUS    0x020
#define HPET_COUNTER   0x0f0
#define HPET_TIMER0    0x100
#define HPET_TIMER_END (HPET_TIMER0 + 0x20 * HPET_TIMERS)

#define CONF_ENABLE   BIT64(0)
#define CONF_LEGACY   BIT64(1)
#define CONF_WRITABLE (CONF_ENABLE | CONF_LEGACY)

/* Timer configuration and capabilities (2.3.8) */
#define TN_LEVEL      BIT64(1)
#define TN_ENABLE     BIT64(2)
#define TN_PERIODIC   BIT64(3)
#define TN_CAP_PER    BIT64(4)
#define TN_CAP_64     BIT64(5)
#define TN_VALUE_SET  BIT64(6)
#define TN_32BIT      BIT64(8)
#define TN_ROUTE(c)   ((unsigned)((c) >> 9) & 31)
#define TN_ROUTE_MASK (UINT64_C(31) << 9)
#define TN_FSB	      BIT64(14)
#define TN_CAP_FSB    BIT64(15)

#define FEMTOSECONDS	 (HPET_TICK_NS * UINT64_C(1000000))
#define HPET_MIN_WAKE_NS 20000u /* the host is not woken more often by one timer */
/* A match that is further away (22 years) never comes: it is behind, and 64 bits wrap too late. */
#define HPET_FAR       (UINT64_C(1) << 56)
#define DRIVES_NOTHING 0xff
#define DRIVES_LEGACY  0x80 /* | line */

struct hpet_timer {
	struct hpet *hpet;
	struct timer timer;
	uint64_t conf; /* writable bits only */
	uint64_t compare;
	uint64_t period;
	uint64_t fsb;	   /* address << 32 | data */
	uint64_t distance; /* saved: ticks to the match; 0 none */
	/* live: */
	uint64_t
	    target; /* counter value (64 bits, not wrapped to the timer's width) of the match */
	_Bool waiting;
	uint8_t drives; /* the line that is held up by a level interrupt */
};

struct hpet {
	struct device dev;
	struct hpet_config cfg;
	struct region region;
	uint64_t conf, status;
	uint64_t counter;  /* at start_ns, or while stopped */
	uint64_t start_ns; /* VM time */
	struct hpet_timer t[HPET_TIMERS];
	_Atomic _Bool legacy;
	_Atomic _Bool legacy_in[2]; /* levels from the PIT and the RTC */
};

static _Bool hpet_on(const struct hpet *h)
{
	return h->conf & CONF_ENABLE;
}

static uint64_t hpet_now(const struct hpet *h)
{
	if (!hpet_on(h))
		return h->counter;
	return h->counter + (clock_now_ns(h->cfg.clock) - h->start_ns) / HPET_TICK_NS;
}

/* ---- interrupts ---- */

static unsigned timer_index(const struct hpet_timer *t)
{
	return (unsigned)(t - t->hpet->t);
}

/* Where the timer's interrupt goes: DRIVES_LEGACY | n or an IOAPIC input. */
static uint8_t timer_route(const struct hpet_timer *t)
{
	unsigned n = timer_index(t);

	if ((t->hpet->conf & CONF_LEGACY) && n < 2)
		return DRIVES_LEGACY | (uint8_t)n;
	return (uint8_t)TN_ROUTE(t->conf);
}

static void route_set(struct hpet *h, uint8_t route, _Bool level)
{
	const struct irq *io = &h->cfg.ioapic;

	if (route == DRIVES_NOTHING)
		return;
	if (route & DRIVES_LEGACY)
		irq_set(&h->cfg.legacy[route & 1], level);
	else if (io->set)
		io->set(io->opaque, route, level);
}

static _Bool timer_uses_fsb(const struct hpet_timer *t)
{
	return (t->conf & TN_FSB) && !(timer_route(t) & DRIVES_LEGACY);
}

/* A level interrupt's line follows status, enables and route. */
static void timer_drive(struct hpet_timer *t)
{
	struct hpet *h = t->hpet;
	uint8_t want = DRIVES_NOTHING;

	if ((h->status & BIT64(timer_index(t))) && (t->conf & TN_LEVEL) && (t->conf & TN_ENABLE) &&
	    hpet_on(h) && !timer_uses_fsb(t))
		want = timer_route(t);
	if (want == t->drives)
		return;
	route_set(h, t->drives, 0);
	t->drives = want;
	route_set(h, want, 1);
}

static void timer_fire(struct hpet_timer *t)
{
	struct hpet *h = t->hpet;

	if (t->conf & TN_LEVEL) {
		h->status |= BIT64(timer_index(t));
		if (!timer_uses_fsb(t)) {
			timer_drive(t);
			return;
		}
	}
	if (!(t->conf & TN_ENABLE) || !hpet_on(h))
		return;
	if (timer_uses_fsb(t)) {
		msi_send(&h->cfg.msi, t->fsb >> 32, (uint32_t)t->fsb);
	} else {
		route_set(h, timer_route(t), 1);
		route_set(h, timer_route(t), 0);
	}
}

/* ---- matching ---- */

static uint64_t timer_mask(const struct hpet_timer *t)
{
	return t->conf & TN_32BIT ? UINT32_MAX : UINT64_MAX;
}

/* Matches of a timer that interrupts nobody are worked out when somebody looks (hpet_run_due): a
 * kernel that has another clock leaves such a timer counting for ever. */
static void timer_schedule(struct hpet_timer *t, _Bool fired)
{
	struct hpet *h = t->hpet;
	uint64_t now = clock_now_ns(h->cfg.clock), at;

	if (!hpet_on(h) || !t->waiting || !(t->conf & TN_ENABLE)) {
		timer_cancel(&t->timer);
		return;
	}
	at = h->start_ns + (t->target - h->counter) * HPET_TICK_NS;
	timer_arm(&t->timer, fired ? MAX(at, now + HPET_MIN_WAKE_NS) : at);
}

static _Bool timer_due(const struct hpet_timer *t, uint64_t counter)
{
	return hpet_on(t->hpet) && t->waiting && (int64_t)(counter - t->target) >= 0;
}

/* Works out the next match: when the counter, in the timer's width, next equals the comparator. */
static void timer_aim(struct hpet_timer *t)
{
	uint64_t counter = hpet_now(t->hpet);
	uint64_t distance = (t->compare - counter) & timer_mask(t);

	t->target = counter + distance;
	t->waiting = distance <= HPET_FAR;
	timer_schedule(t, 0);
}

/* After a match: a periodic comparator moves on by whole periods; a one-shot one matches again when
 * its width wraps (2.3.9.2.1). */
static void timer_advance(struct hpet_timer *t, uint64_t counter)
{
	uint64_t step = t->conf & TN_PERIODIC ? t->period : timer_mask(t) + 1;

	if (!step || step > HPET_FAR) { /* 64 bits, or a period of 0, or one of decades */
		t->waiting = 0;
		return;
	}
	step *= (counter - t->target) / step + 1;
	t->target += step;
	if (t->conf & TN_PERIODIC)
		t->compare = (t->compare + step) & timer_mask(t);
}

static void timer_run(struct hpet_timer *t)
{
	uint64_t counter = hpet_now(t->hpet);

	if (!timer_due(t, counter)) {
		timer_schedule(t, 0);
		return;
	}
	timer_advance(t, counter);
	timer_fire(t);
	timer_schedule(t, 1);
}

static void hpet_timer_fn(void *opaque)
{
	struct hpet_timer *t = opaque;

	lock_take(&t->hpet->dev.lock);
	timer_run(t);
	lock_drop(&t->hpet->dev.lock);
}

/* Matches that are due must not be lost when the counter stops or its state is taken, and those of
 * timers that do not interrupt are seen in status and comparators. */
static void hpet_run_due(struct hpet *h)
{
	uint64_t counter = hpet_now(h);

	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		if (timer_due(&h->t[i], counter))
			timer_run(&h->t[i]);
	}
}

/* ---- legacy replacement ---- */

static void legacy_set(void *opaque, unsigned line, _Bool level)
{
	struct hpet *h = opaque;

	atomic_store(&h->legacy_in[line], level);
	if (!atomic_load(&h->legacy))
		irq_set(&h->cfg.legacy[line], level);
}

struct irq hpet_legacy_line(struct device *dev, unsigned n)
{
	return (struct irq){.set = legacy_set, .opaque = dev, .line = n & 1};
}

/* Takes no lock of the PIT's or the RTC's: they call legacy_set under theirs. */
static void legacy_switch(struct hpet *h)
{
	_Bool on = !!(h->conf & CONF_LEGACY);

	if (atomic_exchange(&h->legacy, on) == on)
		return;
	for (unsigned i = 0; i < 2; i++)
		irq_set(&h->cfg.legacy[i], on ? 0 : atomic_load(&h->legacy_in[i]));
}

/* ---- registers ---- */

static uint64_t timer_caps(const struct hpet *h)
{
	return (uint64_t)h->cfg.route_cap << 32 | TN_CAP_PER | TN_CAP_64 |
	       (h->cfg.msi.send ? TN_CAP_FSB : 0);
}

static uint64_t timer_reg_read(const struct hpet *h, unsigned n, unsigned reg)
{
	const struct hpet_timer *t = &h->t[n];

	switch (reg) {
	case 0x00: return t->conf | timer_caps(h);
	case 0x08: return t->compare;
	case 0x10: return h->cfg.msi.send ? t->fsb : 0;
	default: return 0;
	}
}

static uint64_t hpet_reg_read(const struct hpet *h, unsigned reg)
{
	switch (reg) {
	case HPET_CAP: return FEMTOSECONDS << 32 | HPET_BLOCK_ID;
	case HPET_CONF: return h->conf;
	case HPET_STATUS: return h->status;
	case HPET_COUNTER: return hpet_now(h);
	default: break;
	}
	if (reg >= HPET_TIMER0 && reg < HPET_TIMER_END)
		return timer_reg_read(h, (reg - HPET_TIMER0) >> 5, reg & 0x18);
	return 0;
}

static void conf_write(struct hpet *h, uint64_t value)
{
	_Bool was_on = hpet_on(h), on = value & CONF_ENABLE;
	uint64_t counter;

	hpet_run_due(h);
	counter = hpet_now(h);
	/* Lines are let go under the old route, taken under the new one. */
	h->conf = value & CONF_WRITABLE;
	if (was_on != on) {
		h->counter = counter;
		h->start_ns = clock_now_ns(h->cfg.clock);
	}
	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		timer_drive(&h->t[i]);
		if (!on)
			timer_cancel(&h->t[i].timer);
		else if (!was_on)
			timer_aim(&h->t[i]);
	}
	legacy_switch(h);
}

static void status_write(struct hpet *h, uint64_t value)
{
	hpet_run_due(h);
	h->status &= ~(value & (BIT64(HPET_TIMERS) - 1));
	for (unsigned i = 0; i < HPET_TIMERS; i++)
		timer_drive(&h->t[i]);
}

/* Only a stopped counter may be written (2.3.7); a running one goes on from the new value all the
 * same. */
static void counter_write(struct hpet *h, uint64_t value)
{
	hpet_run_due(h);
	h->counter = value;
	h->start_ns = clock_now_ns(h->cfg.clock);
	for (unsigned i = 0; i < HPET_TIMERS && hpet_on(h); i++)
		timer_aim(&h->t[i]);
}

static void timer_conf_write(struct hpet_timer *t, uint64_t value)
{
	struct hpet *h = t->hpet;
	uint64_t mask = TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_32BIT | TN_ROUTE_MASK;
	uint64_t old = t->conf;

	if (h->cfg.msi.send)
		mask |= TN_FSB;
	if (value & TN_PERIODIC)
		mask |= TN_VALUE_SET;
	value &= mask;
	/* An input that the timer cannot reach is not taken: it reads back as the old one. */
	if (!(h->cfg.route_cap >> TN_ROUTE(value) & 1))
		value = (value & ~TN_ROUTE_MASK) | (old & TN_ROUTE_MASK);
	t->conf = value;
	if (value & TN_32BIT) {
		t->compare &= UINT32_MAX;
		t->period &= UINT32_MAX;
	}
	if (!(value & TN_LEVEL))
		h->status &= ~BIT64(timer_index(t));
	timer_drive(t);
	if (hpet_on(h) && ((old ^ value) & (TN_32BIT | TN_PERIODIC)))
		timer_aim(t);
	else
		timer_schedule(t, 0);
}

/*
 * 2.3.9.2.2: in periodic mode a write sets the period, and the comparator as well when VALUE_SET
 * was set before; that bit then clears itself (so that two 32-bit writes need it set twice).
 */
static void compare_write(struct hpet_timer *t, uint64_t value, uint64_t lanes)
{
	_Bool periodic = !!(t->conf & TN_PERIODIC);

	value &= lanes;
	if (!periodic || (t->conf & TN_VALUE_SET))
		t->compare = ((t->compare & ~lanes) | value) & timer_mask(t);
	if (periodic)
		t->period = ((t->period & ~lanes) | value) & timer_mask(t);
	t->conf &= ~TN_VALUE_SET;
	if (hpet_on(t->hpet))
		timer_aim(t);
}

/* `lanes`: the bits of the register that are written; the others keep their value. */
static void timer_reg_write(struct hpet *h, unsigned n, unsigned reg, uint64_t value,
			    uint64_t lanes)
{
	struct hpet_timer *t = &h->t[n];

	hpet_run_due(h);
	switch (reg) {
	case 0x00: timer_conf_write(t, (t->conf & ~lanes) | (value & lanes)); break;
	case 0x08: compare_write(t, value, lanes); break;
	case 0x10:
		if (h->cfg.msi.send)
			t->fsb = (t->fsb & ~lanes) | (value & lanes);
		break;
	default: break;
	}
}

static void hpet_reg_write(struct hpet *h, unsigned reg, uint64_t value, uint64_t lanes)
{
	switch (reg) {
	case HPET_CONF: conf_write(h, (h->conf & ~lanes) | (value & lanes)); return;
	case HPET_STATUS: status_write(h, value & lanes); return;
	case HPET_COUNTER: counter_write(h, (hpet_now(h) & ~lanes) | (value & lanes)); return;
	default: break;
	}
	if (reg >= HPET_TIMER0 && reg < HPET_TIMER_END)
		timer_reg_write(h, (reg - HPET_TIMER0) >> 5, reg & 0x18, value, lanes);
}

static uint64_t hpet_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct hpet *h = (struct hpet *)dev;

	hpet_run_due(h);
	return hpet_reg_read(h, offset & ~7u) >> (offset & 4) * 8;
}

static void hpet_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	unsigned shift = (offset & 4) * 8;

	hpet_reg_write((struct hpet *)dev, offset & ~7u, value << shift, size_mask(size) << shift);
}

/* Accesses of 32 or 64 bits only (2.3.2). */
static const struct region_ops hpet_ops = {
    .read = hpet_read, .write = hpet_write, .min_size = 4, .max_size = 8};

/* ---- the device ---- */

static void hpet_reset(struct device *dev, enum reset_kind kind)
{
	struct hpet *h = (struct hpet *)dev;
	uint64_t route = (uint64_t)__builtin_ctz(h->cfg.route_cap) << 9;

	h->conf = h->status = h->counter = h->start_ns = 0;
	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		struct hpet_timer *t = &h->t[i];

		timer_cancel(&t->timer);
		timer_drive(t);
		t->conf = route;
		t->compare = UINT64_MAX;
		t->period = t->fsb = t->target = t->distance = 0;
		t->waiting = 0;
	}
	legacy_switch(h);
}

static void hpet_free(struct device *dev)
{
	struct hpet *h = (struct hpet *)dev;

	for (unsigned i = 0; i < HPET_TIMERS; i++)
		timer_fini(&h->t[i].timer);
	if (h->region.mapped)
		space_unmap(h->cfg.memory, &h->region);
	device_fini(dev);
	free(h);
}

static void hpet_pre_save(struct device *dev)
{
	struct hpet *h = (struct hpet *)dev;
	uint64_t ticks;

	hpet_run_due(h);
	if (hpet_on(h)) {
		ticks = hpet_now(h) - h->counter;
		h->counter += ticks;
		h->start_ns += ticks * HPET_TICK_NS;
	}
	for (unsigned i = 0; i < HPET_TIMERS; i++)
		h->t[i].distance = hpet_on(h) && h->t[i].waiting ? h->t[i].target - h->counter : 0;
}

static void hpet_post_load(struct device *dev)
{
	struct hpet *h = (struct hpet *)dev;

	h->start_ns = clock_now_ns(h->cfg.clock);
	atomic_store(&h->legacy, !!(h->conf & CONF_LEGACY));
	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		struct hpet_timer *t = &h->t[i];

		t->waiting = t->distance != 0;
		t->target = h->counter + t->distance;
		timer_schedule(t, 0);
		timer_drive(t);
	}
}

static int hpet_check(const void *shadow, struct error *err)
{
	const struct hpet *h = shadow;
	_Bool bad = (h->conf & ~CONF_WRITABLE) || h->status >> HPET_TIMERS;

	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		const struct hpet_timer *t = &h->t[i];
		uint64_t known = TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_32BIT | TN_ROUTE_MASK |
				 TN_VALUE_SET | (h->cfg.msi.send ? TN_FSB : 0);

		bad |= (t->conf & ~known) || !(h->cfg.route_cap >> TN_ROUTE(t->conf) & 1);
		bad |= (t->conf & TN_32BIT) && ((t->compare | t->period) >> 32);
		bad |= (t->conf & TN_VALUE_SET) && !(t->conf & TN_PERIODIC);
		bad |= !(t->conf & TN_LEVEL) && (h->status & BIT64(i));
		bad |= t->fsb && !h->cfg.msi.send;
		bad |= t->distance > 2 * HPET_FAR;
	}
	return bad ? error_set(err, -EINVAL, "The saved HPET is in no possible state.") : 0;
}

#define TIMER_FIELDS(tag, n)                                                                       \
	STATE_SCALAR((tag), struct hpet, t[n].conf),                                               \
	    STATE_SCALAR((tag) + 1, struct hpet, t[n].compare),                                    \
	    STATE_SCALAR((tag) + 2, struct hpet, t[n].period),                                     \
	    STATE_SCALAR((tag) + 3, struct hpet, t[n].fsb),                                        \
	    STATE_SCALAR((tag) + 4, struct hpet, t[n].distance)

static const struct state_field hpet_fields[] = {
    STATE_SCALAR(1, struct hpet, conf),
    STATE_SCALAR(2, struct hpet, status),
    STATE_SCALAR(3, struct hpet, counter),
    TIMER_FIELDS(4, 0),
    TIMER_FIELDS(9, 1),
    TIMER_FIELDS(14, 2),
    STATE_END,
};
_Static_assert(HPET_TIMERS == 3, "hpet_fields lists them");

static const struct state_desc hpet_state = {
    .name = "hpet",
    .fields = hpet_fields,
    .size = sizeof(struct hpet),
    .check = hpet_check,
};

static const struct device_class hpet_class = {
    .name = "hpet",
    .reset = hpet_reset,
    .free = hpet_free,
    .pre_save = hpet_pre_save,
    .post_load = hpet_post_load,
    .state = &hpet_state,
};

int hpet_new(struct device **dev, const struct hpet_config *cfg, struct error *err)
{
	struct hpet *h = calloc(1, sizeof(*h));
	int ret;

	if (!h)
		return error_set(err, -ENOMEM, "There is no memory for an HPET.");
	h->cfg = *cfg;
	if (!h->cfg.route_cap)
		h->cfg.route_cap = HPET_ROUTE_CAP;
	device_init(&h->dev, &hpet_class, RANK_DEVICE, 0, "hpet");
	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		h->t[i].hpet = h;
		h->t[i].drives = DRIVES_NOTHING;
		timer_init(&h->t[i].timer, cfg->clock, hpet_timer_fn, &h->t[i]);
	}
	hpet_reset(&h->dev, RESET_POWER);
	h->region =
	    (struct region){.name = "hpet", .dev = &h->dev, .ops = &hpet_ops, .size = HPET_SIZE};
	ret = space_map(cfg->memory, &h->region, cfg->base);
	if (ret) {
		hpet_free(&h->dev);
		return error_set(err, ret, "The HPET's addresses at 0x%llx are taken.",
				 (unsigned long long)cfg->base);
	}
	*dev = &h->dev;
	return 0;
}
