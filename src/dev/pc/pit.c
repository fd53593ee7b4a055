/* pit.c: the 8254's registers and interrupt, and the system control port 0x61. */
#include "dev/pc/pit.h"

#include <stdlib.h>
#include <errno.h>
#include "dev/pc/pit_impl.h"

#define PORT61_GATE    0x01
#define PORT61_SPEAKER 0x02
#define PORT61_RW      0x0f /* gate, speaker, and two checks that are never raised here */
#define PORT61_REFRESH 0x10
#define PORT61_OUT     0x20
#define REFRESH_NS     15085u /* DRAM refresh: the bit changes this often */

/* The host is not woken more often than this, whatever count a guest writes; ticks in between are
 * one. */
#define PIT_MIN_PERIOD 60u /* ticks: 50 us */

struct pit {
	struct device dev;
	struct pit_config cfg;
	struct region timer_ports, port61;
	struct timer timer;
	struct pit_chan chan[3];
	uint8_t control61;
	_Bool irq;
	uint32_t speaker_hz;		/* what was last told */
	uint64_t age[3], switch_age[3]; /* saved times, relative to the present */
};

/* In ticks. */
static uint64_t pit_now(const struct pit *p)
{
	return pit_ticks(clock_now_ns(p->cfg.clock));
}

static void pit_irq(struct pit *p, _Bool level)
{
	if (level == p->irq)
		return;
	p->irq = level;
	irq_set(&p->cfg.irq, level);
}

/* ---- channel 0's interrupt: the rising edges of its output ---- */

/* Ticks from the start to the n-th rising edge, n from 1; 0: there is none. */
static uint64_t edge_ticks(const struct pit_chan *c, uint64_t n)
{
	if (!c->loaded || !c->gate)
		return 0;
	switch (c->mode) {
	case 0: return n == 1 ? c->count : 0;
	case 2:
	case 3: return n * c->count;
	case 4: return n == 1 ? c->count + 1 : 0;
	default: return 0; /* a trigger starts these, and channel 0's gate never moves */
	}
}

/* Rising edges up to now. */
static uint64_t edges_passed(const struct pit_chan *c, uint64_t now)
{
	uint64_t first = edge_ticks(c, 1), d;

	if (!first)
		return 0;
	d = now - c->start;
	return pit_chan_periodic(c) ? d / c->count : d >= first;
}

static void pit_schedule(struct pit *p, uint64_t now)
{
	const struct pit_chan *c = &p->chan[0];
	uint64_t ticks = edge_ticks(c, c->done + 1), at;

	if (!ticks) {
		timer_cancel(&p->timer);
		return;
	}
	at = c->start + ticks;
	if (c->pending && (int64_t)(c->switch_at - at) < 0)
		at = c->switch_at;
	if (pit_chan_periodic(c) && c->count < PIT_MIN_PERIOD)
		at = MAX(at, now + PIT_MIN_PERIOD);
	timer_arm(&p->timer, pit_ticks_ns(at));
}

/* Raises what is due by now. In the periodic modes the line is high between ticks, with the low
 * part just before each rising edge: its length is nobody's business but port 0x61's. */
static void pit_run(struct pit *p, uint64_t now)
{
	struct pit_chan *c = &p->chan[0];
	uint64_t passed = edges_passed(c, now);

	if (passed > c->done) {
		c->done = passed;
		pit_irq(p, 0);
		pit_irq(p, 1);
	}
	if (c->pending && (int64_t)(now - c->switch_at) >= 0) {
		_Bool ends_period = c->done * c->count == c->switch_at - c->start;

		pit_chan_sync(c, now);
		/* Mode 3 may take its new count in mid-period; the second half is then the first of
		 * the next one, and its edge comes with it. */
		if (!ends_period && c->mode == 3) {
			pit_irq(p, 0);
			pit_irq(p, 1);
		}
	}
	pit_schedule(p, now);
}

static void pit_timer_fn(void *opaque)
{
	struct pit *p = opaque;

	lock_take(&p->dev.lock);
	pit_run(p, pit_now(p));
	lock_drop(&p->dev.lock);
}

/* ---- speaker ---- */

static void speaker_update(struct pit *p)
{
	const struct pit_chan *c = &p->chan[2];
	_Bool on =
	    (p->control61 & (PORT61_GATE | PORT61_SPEAKER)) == (PORT61_GATE | PORT61_SPEAKER) &&
	    c->loaded && c->mode == 3;
	uint32_t hz = on ? PIT_HZ / c->reload : 0;

	if (hz == p->speaker_hz)
		return;
	p->speaker_hz = hz;
	if (p->cfg.speaker)
		p->cfg.speaker(p->cfg.opaque, hz);
}

/* ---- registers ---- */

static void chan_latch(struct pit_chan *c, uint64_t now)
{
	if (c->latch_n) /* the first latch stands until it is read */
		return;
	c->latched = pit_chan_value(c, now);
	c->latch_n = c->access == PIT_BOTH ? 2 : 1;
	c->read_high = c->access == PIT_HIGH;
}

static void chan_latch_status(struct pit_chan *c, uint64_t now)
{
	_Bool null_count = !c->loaded || c->pending;

	if (c->status_latched)
		return;
	c->status = (uint8_t)(pit_chan_out(c, now) << 7 | null_count << 6 | c->access << 4 |
			      c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

/* 8254, read-back command. */
static void pit_read_back(struct pit *p, uint8_t command, uint64_t now)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(command & (2 << i)))
			continue;
		pit_chan_sync(&p->chan[i], now);
		if (!(command & 0x20))
			chan_latch(&p->chan[i], now);
		if (!(command & 0x10))
			chan_latch_status(&p->chan[i], now);
	}
}

static void pit_control(struct pit *p, uint8_t control, uint64_t now)
{
	unsigned n = control >> 6;
	struct pit_chan *c;

	if (n == 3) {
		pit_read_back(p, control, now);
		return;
	}
	c = &p->chan[n];
	pit_chan_sync(c, now);
	if (!(control & 0x30)) {
		chan_latch(c, now);
		return;
	}
	pit_chan_control(c, control);
	if (n == 0) { /* the output goes to where the mode begins */
		pit_irq(p, c->mode != 0);
		pit_schedule(p, now);
	}
	speaker_update(p);
}

static void chan_loaded(struct pit *p, unsigned n, uint16_t value, uint64_t now)
{
	struct pit_chan *c = &p->chan[n];

	pit_chan_load(c, value, now);
	if (n == 0) {
		if (c->mode == 0)
			pit_irq(p, 0);
		pit_schedule(p, now);
	}
	speaker_update(p);
}

static void chan_write(struct pit *p, unsigned n, uint8_t value, uint64_t now)
{
	struct pit_chan *c = &p->chan[n];

	switch (c->access) {
	case PIT_LOW: chan_loaded(p, n, value, now); break;
	case PIT_HIGH: chan_loaded(p, n, (uint16_t)(value << 8), now); break;
	default:
		if (c->write_high) {
			c->write_high = 0;
			chan_loaded(p, n, (uint16_t)(value << 8 | c->low), now);
			break;
		}
		c->low = value;
		c->write_high = 1;
		if (c->mode == 0) { /* half a count stops mode 0 */
			c->loaded = 0;
			if (n == 0) {
				pit_irq(p, 0);
				pit_schedule(p, now);
			}
		}
		break;
	}
}

static uint8_t chan_read(struct pit_chan *c, uint64_t now)
{
	uint16_t value;
	_Bool high;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	pit_chan_sync(c, now);
	value = c->latch_n ? c->latched : pit_chan_value(c, now);
	if (c->latch_n)
		c->latch_n--;
	high = c->access == PIT_HIGH;
	if (c->access == PIT_BOTH) {
		high = c->read_high;
		c->read_high = !c->read_high;
	}
	return (uint8_t)(high ? value >> 8 : value);
}

static uint64_t pit_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct pit *p = (struct pit *)dev;

	if (offset == 3) /* write-only */
		return 0xff;
	return chan_read(&p->chan[offset], pit_now(p));
}

static void pit_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct pit *p = (struct pit *)dev;
	uint64_t now = pit_now(p);

	/* A tick whose callback has not run yet belongs to the old programming. */
	pit_run(p, now);
	if (offset == 3)
		pit_control(p, (uint8_t)value, now);
	else
		chan_write(p, (unsigned)offset, (uint8_t)value, now);
}

static uint64_t port61_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct pit *p = (struct pit *)dev;
	uint64_t now = pit_now(p);
	uint8_t value = p->control61;

	pit_chan_sync(&p->chan[2], now);
	if (clock_now_ns(p->cfg.clock) / REFRESH_NS & 1)
		value |= PORT61_REFRESH;
	if (pit_chan_out(&p->chan[2], now))
		value |= PORT61_OUT;
	return value;
}

static void port61_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			 uint64_t value)
{
	struct pit *p = (struct pit *)dev;

	p->control61 = value & PORT61_RW;
	pit_chan_gate(&p->chan[2], value & PORT61_GATE, pit_now(p));
	speaker_update(p);
}

static const struct region_ops pit_ops = {.read = pit_read, .write = pit_write, .max_size = 1};
static const struct region_ops port61_ops = {
    .read = port61_read, .write = port61_write, .max_size = 1};

/* ---- the device ---- */

static void pit_reset(struct device *dev, enum reset_kind kind)
{
	struct pit *p = (struct pit *)dev;

	timer_cancel(&p->timer);
	for (unsigned i = 0; i < 3; i++)
		p->chan[i] = (struct pit_chan){
		    .access = PIT_BOTH, .count = 65536, .reload = 65536, .gate = i < 2};
	p->control61 = 0;
	pit_irq(p, 0);
	speaker_update(p);
}

static void pit_free(struct device *dev)
{
	struct pit *p = (struct pit *)dev;

	timer_fini(&p->timer);
	if (p->timer_ports.mapped)
		space_unmap(p->cfg.ports, &p->timer_ports);
	if (p->port61.mapped)
		space_unmap(p->cfg.ports, &p->port61);
	device_fini(dev);
	free(p);
}

static void pit_pre_save(struct device *dev)
{
	struct pit *p = (struct pit *)dev;
	uint64_t now = pit_now(p);

	/* A count that takes over now may be over now: what is due is run before and after, so that
	 * loading and saving again finds nothing left to do. */
	pit_run(p, now);
	for (unsigned i = 0; i < 3; i++)
		pit_chan_sync(&p->chan[i], now);
	pit_run(p, now);
	for (unsigned i = 0; i < 3; i++) {
		p->age[i] = now - p->chan[i].start;
		p->switch_age[i] = p->chan[i].pending ? p->chan[i].switch_at - now : 0;
	}
}

static void pit_post_load(struct device *dev)
{
	struct pit *p = (struct pit *)dev;
	uint64_t now = pit_now(p);

	for (unsigned i = 0; i < 3; i++) {
		p->chan[i].start = now - p->age[i];
		p->chan[i].switch_at = now + p->switch_age[i];
	}
	irq_set(&p->cfg.irq, p->irq);
	pit_schedule(p, now);
	p->speaker_hz = UINT32_MAX;
	speaker_update(p);
}

#define AGE_MAX (UINT64_C(1) << 62)

/* More interrupts raised than there were edges would put the next one beyond all time. */
static _Bool done_possible(const struct pit_chan *c, uint64_t age)
{
	return c->done <= (pit_chan_periodic(c) ? age / c->count + 1 : 1);
}

static int pit_check(const void *shadow, struct error *err)
{
	const struct pit *p = shadow;
	_Bool bad = (p->control61 & ~PORT61_RW) != 0;

	for (unsigned i = 0; i < 3; i++) {
		const struct pit_chan *c = &p->chan[i];

		bad |= c->count < 1 || c->count > 65536 || c->reload < 1 || c->reload > 65536;
		bad |= c->mode > 5 || c->access < PIT_LOW || c->access > PIT_BOTH || c->latch_n > 2;
		bad |= p->age[i] > AGE_MAX || c->held > AGE_MAX;
		bad = bad || !done_possible(c, p->age[i]); /* behind count: that is no zero */
		bad |= p->switch_age[i] > 2 * 65536;
		bad |= c->gate != (i < 2 ? 1 : p->control61 & PORT61_GATE);
	}
	return bad ? error_set(err, -EINVAL, "The saved PIT is in no possible state.") : 0;
}

#define CHAN_FIELDS(tag, n)                                                                        \
	STATE_SCALAR((tag), struct pit, age[n]),                                                   \
	    STATE_SCALAR((tag) + 1, struct pit, switch_age[n]),                                    \
	    STATE_SCALAR((tag) + 2, struct pit, chan[n].held),                                     \
	    STATE_SCALAR((tag) + 3, struct pit, chan[n].count),                                    \
	    STATE_SCALAR((tag) + 4, struct pit, chan[n].reload),                                   \
	    STATE_SCALAR((tag) + 5, struct pit, chan[n].done),                                     \
	    STATE_SCALAR((tag) + 6, struct pit, chan[n].latched),                                  \
	    STATE_SCALAR((tag) + 7, struct pit, chan[n].status),                                   \
	    STATE_SCALAR((tag) + 8, struct pit, chan[n].mode),                                     \
	    STATE_SCALAR((tag) + 9, struct pit, chan[n].access),                                   \
	    STATE_SCALAR((tag) + 10, struct pit, chan[n].low),                                     \
	    STATE_SCALAR((tag) + 11, struct pit, chan[n].latch_n),                                 \
	    STATE_BOOL((tag) + 12, struct pit, chan[n].bcd),                                       \
	    STATE_BOOL((tag) + 13, struct pit, chan[n].gate),                                      \
	    STATE_BOOL((tag) + 14, struct pit, chan[n].loaded),                                    \
	    STATE_BOOL((tag) + 15, struct pit, chan[n].triggered),                                 \
	    STATE_BOOL((tag) + 16, struct pit, chan[n].write_high),                                \
	    STATE_BOOL((tag) + 17, struct pit, chan[n].read_high),                                 \
	    STATE_BOOL((tag) + 18, struct pit, chan[n].status_latched),                            \
	    STATE_BOOL((tag) + 19, struct pit, chan[n].pending)

static const struct state_field pit_fields[] = {
    CHAN_FIELDS(1, 0),
    CHAN_FIELDS(21, 1),
    CHAN_FIELDS(41, 2),
    STATE_SCALAR(61, struct pit, control61),
    STATE_BOOL(62, struct pit, irq),
    STATE_END,
};

static const struct state_desc pit_state = {
    .name = "pit",
    .fields = pit_fields,
    .size = sizeof(struct pit),
    .check = pit_check,
};

static const struct device_class pit_class = {
    .name = "pit",
    .reset = pit_reset,
    .free = pit_free,
    .pre_save = pit_pre_save,
    .post_load = pit_post_load,
    .state = &pit_state,
};

int pit_new(struct device **dev, const struct pit_config *cfg, struct error *err)
{
	struct pit *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return error_set(err, -ENOMEM, "There is no memory for a PIT.");
	p->cfg = *cfg;
	device_init(&p->dev, &pit_class, RANK_DEVICE, 0, "pit");
	timer_init(&p->timer, cfg->clock, pit_timer_fn, p);
	pit_reset(&p->dev, RESET_POWER);
	p->timer_ports = (struct region){.name = "pit", .dev = &p->dev, .ops = &pit_ops, .size = 4};
	p->port61 =
	    (struct region){.name = "port61", .dev = &p->dev, .ops = &port61_ops, .size = 1};
	ret = space_map(cfg->ports, &p->timer_ports, 0x40);
	if (!ret)
		ret = space_map(cfg->ports, &p->port61, 0x61);
	if (ret) {
		pit_free(&p->dev);
		return error_set(err, ret, "The PIT's ports 0x40 to 0x43 and 0x61 are taken.");
	}
	*dev = &p->dev;
	return 0;
}
