/* ioapic.h: an I/O APIC (82093AA with the EOI register of version 0x20), 24 inputs. */
#ifndef DEV_PC_IOAPIC_H
#define DEV_PC_IOAPIC_H

#include "bus/irq.h"
#include "bus/space.h"

#define IOAPIC_PINS 24

struct ioapic_config {
	struct space *memory;
	uint64_t base;	 /* 0xfec00000 */
	uint8_t id;	 /* what the MADT says; the register's reset value, 4 bits */
	uint8_t version; /* 0 means 0x20; 0x11 has no EOI register */
	struct msi_sink sink;
	/* The set of vectors whose EOI must come back through ioapic_eoi changed (level-triggered,
	 * unmasked entries; bit per vector). Called under the IOAPIC's lock (RANK_INTC). May be
	 * NULL. */
	void (*eoi_vectors)(void *opaque, const uint64_t bitmap[4]);
	void *opaque;
};

NODISCARD int ioapic_new(struct device **dev, const struct ioapic_config *cfg, struct error *err);

/*
 * Input n, 0 to 23. A line carries assertion, not voltage: 1 is "asserted" whatever the entry's
 * polarity bit says, as the board knows how its lines are wired. Takes the IOAPIC's lock
 * (RANK_INTC) and may send a message under it.
 */
struct irq ioapic_line(struct device *dev, unsigned n);

/* An EOI was broadcast. ioapic_eoi_fn has the shape that lapic_bus_config and engine_env want. */
void ioapic_eoi(struct device *dev, unsigned vector);
void ioapic_eoi_fn(void *dev, unsigned vector);

/* The bitmap that eoi_vectors is told. */
void ioapic_eoi_bitmap(struct device *dev, uint64_t bitmap[4]);

#endif
