/* pit.h: 8254 interval timer at 0x40-0x43 and the system control port 0x61. */
#ifndef DEV_PC_PIT_H
#define DEV_PC_PIT_H

#include "bus/clock.h"
#include "bus/irq.h"
#include "bus/space.h"

#define PIT_HZ 1193182u

struct pit_config {
	struct space *ports;
	struct clock *clock;
	struct irq irq; /* channel 0's output: IRQ 0, or hpet_legacy_line(hpet, 0) */
	/* Channel 2 drives the speaker at this rate, 0 for silence. Under the device's lock; may be
	 * NULL. */
	void (*speaker)(void *opaque, unsigned hz);
	void *opaque;
};

NODISCARD int pit_new(struct device **dev, const struct pit_config *cfg, struct error *err);

#endif
