/* power.h: how a device asks for the machine's end, reset or attention. */
#ifndef BUS_POWER_H
#define BUS_POWER_H

#include "base/util.h"

enum power_request {
	POWER_OFF,	    /* soft off (ACPI S5); arg 0 */
	POWER_RESET,	    /* reset of the whole machine; arg is an enum power_reset_cause */
	POWER_PANIC,	    /* the guest says that it panicked; arg 0. It goes on running */
	POWER_CRASH_LOADED, /* the guest panicked and its crash kernel takes over; arg 0 */
	POWER_EXIT,	    /* the debug exit port: end the process, arg is the value written */
};

enum power_reset_cause {
	POWER_CAUSE_CF9 = 1,	  /* reset control register */
	POWER_CAUSE_KEYBOARD = 2, /* i8042 pulse of the reset line or its output port */
	POWER_CAUSE_FAST = 3,	  /* port 0x92 */
	POWER_CAUSE_ACPI = 4,	  /* reserved for ACPI reset paths other than port CF9 */
	POWER_CAUSE_TRIPLE = 5,	  /* triple fault; reported by engines, not devices */
	POWER_CAUSE_WATCHDOG = 6, /* a watchdog fired */
};

/*
 * Where requests go. A leaf call, legal under any device's lock and on any thread: the machine only
 * notes the request and wakes whoever acts on it, so the vCPU goes on for a while. A zeroed sink
 * drops requests.
 */
struct power_sink {
	void (*request)(void *opaque, enum power_request what, unsigned arg);
	void *opaque;
};
static inline void power_request(const struct power_sink *sink, enum power_request what,
				 unsigned arg)
{
	if (sink->request)
		sink->request(sink->opaque, what, arg);
}

#endif
