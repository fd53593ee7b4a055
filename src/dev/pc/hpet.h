/* hpet.h: high precision event timer (IA-PC HPET 1.0a): three comparators, 100 MHz. */
#ifndef DEV_PC_HPET_H
#define DEV_PC_HPET_H

#include "bus/clock.h"
#include "bus/irq.h"
#include "bus/space.h"

#define HPET_TIMERS    3
#define HPET_TICK_NS   10u
#define HPET_BLOCK_ID  0x8086a201u /* for the ACPI table: low half of GCAP_ID */
#define HPET_ROUTE_CAP 0x00f00000u /* default: IOAPIC inputs 20 to 23 */
#define HPET_MIN_TICK  0x80u	   /* for the ACPI table */
#define HPET_SIZE      1024u

struct hpet_config {
	struct space *memory;
	struct clock *clock;
	uint64_t base; /* 0xfed00000 */
	/* Interrupts that are routed to an IOAPIC input: set(opaque, input, level). `line` is not
	 * used. */
	struct irq ioapic;
	uint32_t route_cap; /* inputs that a timer may choose; 0 means HPET_ROUTE_CAP */
	/* IRQ 0 and IRQ 8 of the board. The PIT and the RTC reach them through hpet_legacy_line, so
	 * that legacy replacement can take their place. */
	struct irq legacy[2];
	struct msi_sink msi; /* zero: no FSB delivery, and the capability says so */
};

NODISCARD int hpet_new(struct device **dev, const struct hpet_config *cfg, struct error *err);

/* What the PIT (0) and the RTC (1) should drive: passes on to legacy[n] except while the HPET's
 * legacy replacement route is on. */
struct irq hpet_legacy_line(struct device *dev, unsigned n);

#endif
