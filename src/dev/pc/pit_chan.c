/* pit_chan.c: one counter of the 8254 in its six modes (Intel 231164). */
#include "dev/pc/pit_impl.h"

#include "dev/pc/pit.h"

#define NS_PER_S 1000000000u

uint64_t pit_ticks(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * PIT_HZ / NS_PER_S);
}

uint64_t pit_ticks_ns(uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * NS_PER_S + PIT_HZ - 1) / PIT_HZ);
}

uint64_t pit_chan_elapsed(const struct pit_chan *c, uint64_t now)
{
	if (!c->gate && (c->mode == 0 || c->mode == 4))
		return c->held;
	return now - c->start;
}

void pit_chan_sync(struct pit_chan *c, uint64_t now)
{
	if (!c->pending || (int64_t)(now - c->switch_at) < 0)
		return;
	c->pending = 0;
	c->count = c->reload;
	c->start = c->switch_at;
	c->done = 0;
}

_Bool pit_chan_out(const struct pit_chan *c, uint64_t now)
{
	uint64_t d = pit_chan_elapsed(c, now);

	if (!c->loaded)
		return c->mode != 0;
	switch (c->mode) {
	case 0: return d >= c->count;
	case 1: return !(c->triggered && d < c->count);
	case 2: return !c->gate || d % c->count != c->count - 1;
	case 3: return !c->gate || d % c->count < (c->count + 1) / 2;
	case 4: return d != c->count;
	default: return !(c->triggered && d == c->count);
	}
}

static uint16_t to_bcd(uint64_t v)
{
	return (uint16_t)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

/* Digits above 9 count as what they are worth. */
static uint32_t from_bcd(uint16_t v)
{
	return (v & 15u) + (v >> 4 & 15u) * 10 + (v >> 8 & 15u) * 100 + (v >> 12) * 1000u;
}

uint16_t pit_chan_value(const struct pit_chan *c, uint64_t now)
{
	uint64_t d = pit_chan_elapsed(c, now), modulus = c->bcd ? 10000 : 65536, left;
	uint32_t half = (c->count + 1) / 2;

	if (!c->loaded)
		return 0;
	switch (c->mode) {
	case 2: left = c->gate ? c->count - d % c->count : c->count; break;
	case 3: /* counts by two, twice a period */
		left = c->gate ? (c->count & ~UINT32_C(1)) - d % c->count % half * 2 : c->count;
		break;
	case 1:
	case 5:
		if (!c->triggered)
			d = 0;
		__attribute__((fallthrough));
	default: left = (c->count + modulus - d % modulus) % modulus; break;
	}
	left %= modulus;
	return c->bcd ? to_bcd(left) : (uint16_t)left;
}

void pit_chan_control(struct pit_chan *c, uint8_t control)
{
	c->access = control >> 4 & 3;
	c->mode = control >> 1 & 7;
	if (c->mode > 5) /* 6 and 7 are 2 and 3 */
		c->mode -= 4;
	c->bcd = control & 1;
	c->loaded = c->triggered = c->pending = 0;
	c->write_high = c->read_high = 0;
	c->latch_n = 0;
	c->status_latched = 0;
	c->done = 0;
	c->held = 0;
}

void pit_chan_load(struct pit_chan *c, uint16_t value, uint64_t now)
{
	uint32_t count = c->bcd ? from_bcd(value) : value;

	if (!count)
		count = c->bcd ? 10000 : 65536;
	pit_chan_sync(c, now);
	c->reload = count;
	if (c->loaded && pit_chan_periodic(c) && c->gate) {
		/* After the present period (in mode 3: half of one, at its beginning). */
		uint64_t unit = c->mode == 3 ? (c->count + 1) / 2 : c->count;
		uint64_t period = pit_chan_elapsed(c, now) / c->count * c->count;
		uint64_t end = period + unit;

		if (now - c->start >= end)
			end = period + c->count;
		c->switch_at = c->start + end;
		c->pending = 1;
		return;
	}
	if (c->loaded && (c->mode == 1 || c->mode == 5)) /* at the next trigger */
		return;
	c->count = count;
	c->start = now;
	c->held = 0;
	c->done = 0;
	c->pending = 0;
	c->loaded = 1;
}

void pit_chan_gate(struct pit_chan *c, _Bool gate, uint64_t now)
{
	if (gate == c->gate)
		return;
	pit_chan_sync(c, now);
	if (c->mode == 0 || c->mode == 4) {
		if (gate)
			c->start = now - c->held;
		else
			c->held = pit_chan_elapsed(c, now);
	} else if (gate) {
		c->start = now;
		c->done = 0;
		c->pending = 0;
		if (c->loaded) {
			c->count = c->reload;
			c->triggered = 1;
		}
	}
	c->gate = gate;
}
