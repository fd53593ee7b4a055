/* pic.h: the pair of 8259A interrupt controllers at 0x20 and 0xA0, with ELCR. */
#ifndef DEV_PC_PIC_H
#define DEV_PC_PIC_H

#include "bus/irq.h"
#include "bus/space.h"

struct pic_config {
	struct space *ports;
	struct irq out; /* INTR: to LINT0 of the local APICs (lapic_bus_lint0), or the engine */
};

/* Maps 0x20, 0xA0 and 0x4D0 (two ports each). -ENOMEM or the space's error, with a sentence. */
NODISCARD int pic_new(struct device **dev, const struct pic_config *cfg, struct error *err);

/* Input n, 0 to 15; 2 is the cascade and goes nowhere. Takes the PIC's lock (RANK_INTC). */
struct irq pic_line(struct device *dev, unsigned n);

/*
 * The acknowledge cycle of the CPU: always yields a vector (a spurious one, 7 of the chip, when no
 * request is left). Takes the PIC's lock and changes its output. pic_ack_fn has the shape that
 * struct lapic_bus_config and engine_env want, with the device as opaque; it yields -1 when the
 * output is not asserted at all.
 */
uint8_t pic_ack(struct device *dev);
int pic_ack_fn(void *dev);

/* Is INTR asserted now? For listings. */
_Bool pic_output(struct device *dev);

#endif
