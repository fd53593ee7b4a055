/* i8042.h: keyboard controller with PS/2 keyboard and mouse, and system control port A (0x92). */
#ifndef DEV_PC_I8042_H
#define DEV_PC_I8042_H

#include "bus/irq.h"
#include "bus/power.h"
#include "bus/space.h"

struct i8042_config {
	struct space *ports; /* 0x60, 0x64, 0x92 */
	struct irq kbd_irq;  /* ISA 1 */
	struct irq aux_irq;  /* ISA 12 */
	struct irq a20;	     /* level of the A20 gate; a zeroed one: A20 is always on */
	struct power_sink power;
	_Bool keyboard, mouse; /* what is plugged in */
};

NODISCARD int i8042_new(struct device **dev, const struct i8042_config *cfg, struct error *err);

/* A key's code in scan code set 2 as the keyboard itself sends it (with 0xE0 and 0xF0 prefixes, up
 * to 8 bytes), queued whole or dropped whole when the keyboard's buffer is full. Any thread. */
void i8042_key(struct device *dev, const uint8_t *code, size_t len);
/* Relative motion (right and up are positive), wheel steps, buttons as a mask (1 left, 2 right,
 * 4 middle). Any thread. */
void i8042_mouse(struct device *dev, int dx, int dy, int dz, unsigned buttons);

#endif
