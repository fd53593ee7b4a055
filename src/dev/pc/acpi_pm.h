/* acpi_pm.h: ACPI power management block: PM1, timer, GPE0, SMI command port. */
#ifndef DEV_PC_ACPI_PM_H
#define DEV_PC_ACPI_PM_H

#include "bus/clock.h"
#include "bus/irq.h"
#include "bus/power.h"
#include "bus/space.h"

/* Offsets from the base, as in the ICH9 (ICH9 13.8.3). */
#define ACPI_PM_EVT   0x00 /* PM1 status, enable */
#define ACPI_PM_CNT   0x04
#define ACPI_PM_TMR   0x08
#define ACPI_PM_GPE0  0x20 /* status 8 bytes, then enable 8 bytes */
#define ACPI_PM_PORTS 0x80

#define ACPI_PM_TMR_HZ 3579545

struct acpi_pm_config {
	struct space *ports; /* base .. base+0x7f; 0xb2 and 0xb3 */
	uint16_t base;
	struct irq sci; /* level-triggered */
	struct clock *clock;
	struct power_sink power;
	uint8_t acpi_enable, acpi_disable; /* values for the SMI command port */
	uint8_t slp_typ_s5;		   /* the SLP_TYP that means soft off; others are refused */
	_Bool acpi_on; /* SCI_EN is set from the start (no firmware that would offer legacy mode) */
};

NODISCARD int acpi_pm_new(struct device **dev, const struct acpi_pm_config *cfg, struct error *err);

/* The person presses the power button: sets PWRBTN_STS, raises the SCI if it is enabled. False when
 * the guest would not notice (not in ACPI mode, or the event is not enabled). Any thread. */
_Bool acpi_pm_power_button(struct device *dev);

/* Sets a general-purpose event's status bit (0 to 63). Any thread. */
void acpi_pm_gpe(struct device *dev, unsigned bit);

#endif
