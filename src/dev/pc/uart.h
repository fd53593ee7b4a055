/* uart.h: 16550A serial port. */
#ifndef DEV_PC_UART_H
#define DEV_PC_UART_H

#include "backend/chardev.h"
#include "bus/clock.h"
#include "bus/irq.h"
#include "bus/space.h"

#define UART_PORTS 8

struct uart_config {
	struct space *ports;
	uint16_t base; /* 0x3f8 for COM1 */
	struct irq irq;
	struct clock *clock;	 /* for the receive time-out interrupt */
	struct chardev *chardev; /* not owned; NULL: nothing is plugged in */
	unsigned instance;	 /* 0: "uart0" */
	_Bool hold_input;	 /* input waits until the guest listens; see uart.c */
};

/* Makes the device and maps its ports. */
NODISCARD int uart_new(struct device **dev, const struct uart_config *cfg, struct error *err);

/* The far end sends a break. Any thread, takes the device's lock. */
void uart_break(struct device *dev);

#endif
