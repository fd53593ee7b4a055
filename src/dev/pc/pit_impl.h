/* pit_impl.h: one counter of the 8254, as pure arithmetic on ticks. */
/* Times are ticks of the 1.193182 MHz input since VM time 0, so nothing is ever off by a part of
 * one. */
#ifndef DEV_PC_PIT_IMPL_H
#define DEV_PC_PIT_IMPL_H

#include "base/util.h"

/* How a count is written and read (control word, bits 5:4). */
enum pit_access { PIT_LATCH = 0, PIT_LOW = 1, PIT_HIGH = 2, PIT_BOTH = 3 };

struct pit_chan {
	uint64_t start;	    /* when `count` began to count */
	uint64_t held;	    /* modes 0 and 4: ticks counted when the gate fell */
	uint64_t switch_at; /* modes 2 and 3: when `reload` takes the place of `count` */
	uint32_t count;	    /* 1 to 65536, in ticks */
	uint32_t reload;    /* what was written last, likewise */
	uint64_t done;	    /* channel 0: periods whose interrupt was raised */
	uint16_t latched;
	uint8_t status;
	uint8_t mode, access;
	uint8_t low;	 /* first byte of a count being written */
	uint8_t latch_n; /* bytes of `latched` still to be read */
	_Bool bcd, gate;
	_Bool loaded;	  /* a count was written since the control word */
	_Bool triggered;  /* modes 1 and 5: the gate has risen */
	_Bool write_high; /* the next byte written is the high one */
	_Bool read_high;
	_Bool status_latched;
	_Bool pending; /* switch_at is to come */
};

/* VM time to ticks, exactly, both ways. */
uint64_t pit_ticks(uint64_t ns);
uint64_t pit_ticks_ns(uint64_t ticks); /* rounded up: pit_ticks of it is at least `ticks` */

uint64_t pit_chan_elapsed(const struct pit_chan *c, uint64_t now);
void pit_chan_sync(struct pit_chan *c, uint64_t now); /* lets a pending count take effect */
_Bool pit_chan_out(const struct pit_chan *c, uint64_t now);
uint16_t pit_chan_value(const struct pit_chan *c, uint64_t now);
void pit_chan_control(struct pit_chan *c, uint8_t control);
void pit_chan_load(struct pit_chan *c, uint16_t value, uint64_t now);
void pit_chan_gate(struct pit_chan *c, _Bool gate, uint64_t now);

static inline _Bool pit_chan_periodic(const struct pit_chan *c)
{
	return c->mode == 2 || c->mode == 3;
}

#endif
