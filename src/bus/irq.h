/* irq.h: interrupt lines and messages, as a device sees them. */
#ifndef BUS_IRQ_H
#define BUS_IRQ_H

#include "base/util.h"

/* A line: the board decides what it means (a PIC input, an IOAPIC pin, a PCI INTx that is shared).
 * Setting a level is a leaf call, legal under any device's lock; setting the same level again is
 * harmless. A zeroed irq is connected to nothing. */
struct irq {
	void (*set)(void *opaque, unsigned line, _Bool level);
	void *opaque;
	unsigned line;
};
static inline void irq_set(const struct irq *irq, _Bool level)
{
	if (irq->set)
		irq->set(irq->opaque, irq->line, level);
}
static inline void irq_pulse(const struct irq *irq)
{
	irq_set(irq, 1);
	irq_set(irq, 0);
}

/* Message-signalled interrupts: a write of `data` to `addr` (0xFEExxxxx, SDM3 11.11). A leaf call
 * as well. */
struct msi_sink {
	void (*send)(void *opaque, uint64_t addr, uint32_t data);
	void *opaque;
};
static inline void msi_send(const struct msi_sink *sink, uint64_t addr, uint32_t data)
{
	if (sink->send)
		sink->send(sink->opaque, addr, data);
}

#endif
