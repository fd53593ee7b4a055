/* rtc.h: MC146818 real-time clock and CMOS memory. */
#ifndef DEV_PC_RTC_H
#define DEV_PC_RTC_H

#include "bus/clock.h"
#include "bus/irq.h"
#include "bus/space.h"

struct rtc_config {
	struct space *ports; /* 0x70 and 0x71, extended bank at 0x72 and 0x73 */
	struct irq irq;	     /* ISA 8 */
	struct irq nmi_mask; /* level of the NMI-disable bit of port 0x70; may be zeroed */
	struct clock *clock; /* time of day is its wall clock */
	/* What firmware reads from CMOS: RAM below the PCI hole, and above 4 GiB. */
	uint64_t ram_low_end, ram_high_size;
	unsigned ncpus; /* CMOS 0x5f: CPUs less one */
};

NODISCARD int rtc_new(struct device **dev, const struct rtc_config *cfg, struct error *err);

/* Reads and sets a byte of CMOS memory past the clock's registers (0x0e to 0xff) from the host's
 * side, for firmware hints such as the boot order. Takes the device's lock. */
uint8_t rtc_cmos_get(struct device *dev, uint8_t index);
void rtc_cmos_set(struct device *dev, uint8_t index, uint8_t value);

#endif
