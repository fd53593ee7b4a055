/* uart.c: 16550A serial port between a guest and a character back end. */
#include "dev/pc/uart.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Characters leave at once: the back end's buffer plays the line. When that buffer is full, the
 * bytes stay in the transmit FIFO and THR-empty is held back until the back end has room again, so
 * that a guest that looks at it, or waits for its interrupt, loses nothing. Only bytes written
 * against a full FIFO are lost, as in the part itself.
 *
 * Input that comes before a driver is there (a script piped into a VM that still boots) would be
 * cleared away while the driver probes the part. With `hold_input`, the line waits until the guest
 * listens: it opened the port for receive interrupts, or it polls the line status without sending.
 *
 * Citations are to National Semiconductor's PC16550D data sheet (June 1995).
 */

#define FIFO_SIZE 16

#define IER_RDA		     0x01
#define IER_THRE	     0x02
#define IER_RLS		     0x04
#define IER_MODEM	     0x08
#define IER_RW		     0x0f
#define IIR_NONE	     0x01
#define IIR_MODEM	     0x00
#define IIR_THRE	     0x02
#define IIR_RDA		     0x04
#define IIR_RLS		     0x06
#define IIR_TIMEUP	     0x0c
#define IIR_FIFOS	     0xc0
#define FCR_ENABLE	     0x01
#define FCR_CLR_RX	     0x02
#define FCR_KEPT	     0xc9
#define LCR_BREAK	     0x40
#define LCR_DLAB	     0x80
#define MCR_DTR		     0x01
#define MCR_RTS		     0x02
#define MCR_OUT1	     0x04
#define MCR_OUT2	     0x08
#define MCR_LOOP	     0x10
#define MCR_RW		     0x1f
#define LSR_DR		     0x01
#define LSR_OE		     0x02
#define LSR_BI		     0x10
#define LSR_ERRORS	     0x1e
#define LSR_THRE	     0x20
#define LSR_TEMT	     0x40
#define LSR_FIFO	     0x80
#define MSR_DELTAS	     0x0f
#define MSR_CTS		     0x10
#define MSR_DSR		     0x20
#define MSR_RI		     0x40
#define MSR_DCD		     0x80
#define NEVER		     UINT64_MAX
#define POLLS_MEAN_LISTENING 64

struct uart {
	struct device dev;
	struct uart_config cfg;
	struct region region;
	struct timer timer;
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t lsr_errors; /* OE and the errors of the character at the top */
	uint8_t msr;
	_Bool thre_due;	    /* THR-empty interrupt not yet seen */
	_Bool time_up;	    /* characters have waited too long */
	uint64_t rx_due_ns; /* when they will have; NEVER when none wait */
	uint8_t rx[FIFO_SIZE], rx_error[FIFO_SIZE], rx_len;
	uint8_t tx[FIFO_SIZE], tx_len;
	_Bool listening;     /* the guest has shown that it wants input */
	uint16_t idle_polls; /* line status reads in a row that found nothing and followed nothing
				sent */
};

static struct uart *uart_of(struct device *dev)
{
	return container_of(dev, struct uart, dev);
}

static _Bool fifos_on(const struct uart *u)
{
	return u->fcr & FCR_ENABLE;
}

static unsigned rx_room(const struct uart *u)
{
	return fifos_on(u) ? FIFO_SIZE - u->rx_len : u->rx_len ? 0 : 1;
}

static unsigned rx_trigger(const struct uart *u)
{
	static const uint8_t level[4] = {1, 4, 8, 14};
	return fifos_on(u) ? level[u->fcr >> 6] : 1;
}

static uint8_t lsr_value(const struct uart *u)
{
	uint8_t v = u->lsr_errors;
	if (u->rx_len)
		v |= LSR_DR;
	if (!u->tx_len)
		v |= LSR_THRE | LSR_TEMT;
	if (fifos_on(u))
		for (unsigned i = 0; i < u->rx_len; i++)
			v |= u->rx_error[i] ? LSR_FIFO : 0;
	return v;
}

/* 8.6, table IV: the interrupt with the highest priority. */
static uint8_t iir_value(const struct uart *u)
{
	if ((u->ier & IER_RLS) && u->lsr_errors)
		return IIR_RLS;
	if ((u->ier & IER_RDA) && u->rx_len >= rx_trigger(u))
		return IIR_RDA;
	if ((u->ier & IER_RDA) && u->time_up)
		return IIR_TIMEUP;
	if ((u->ier & IER_THRE) && u->thre_due)
		return IIR_THRE;
	if ((u->ier & IER_MODEM) && (u->msr & MSR_DELTAS))
		return IIR_MODEM;
	return IIR_NONE;
}

/* On a PC, OUT2 gates the line. Interrupts work in loop-back mode as well (8.7). */
static void update_irq(struct uart *u)
{
	irq_set(&u->cfg.irq, iir_value(u) != IIR_NONE && (u->mcr & MCR_OUT2));
}

/* --- Receiver ------------------------------------------------------------------------------ */

/* Four character times (8.11.1): start, data, parity and stop bits at 16 clocks of the divided
 * 1.8432 MHz each. */
static uint64_t rx_wait_ns(const struct uart *u)
{
	unsigned divisor = u->dlm << 8 | u->dll;
	unsigned bits = 1 + 5 + (u->lcr & 3) + (u->lcr >> 3 & 1) + 1 + (u->lcr >> 2 & 1);
	return UINT64_C(4) * bits * 16 * MAX(divisor, 1u) * 1000000000 / 1843200;
}

/* A character came or was read: the wait begins anew. */
static void rx_restart_wait(struct uart *u)
{
	u->time_up = 0;
	if (fifos_on(u) && u->rx_len) {
		u->rx_due_ns = clock_now_ns(u->cfg.clock) + rx_wait_ns(u);
		timer_arm(&u->timer, u->rx_due_ns);
	} else {
		u->rx_due_ns = NEVER;
		timer_cancel(&u->timer);
	}
}

static void rx_wait_over(void *opaque)
{
	struct uart *u = opaque;
	lock_take(&u->dev.lock);
	if (u->rx_due_ns != NEVER && clock_now_ns(u->cfg.clock) >= u->rx_due_ns) {
		u->rx_due_ns = NEVER;
		u->time_up = 1;
		update_irq(u);
	}
	lock_drop(&u->dev.lock);
}

/* An error belongs to its character and shows when that is at the top (8.5). */
static void rx_show_top(struct uart *u)
{
	if (u->rx_len)
		u->lsr_errors |= u->rx_error[0];
}

static void rx_push(struct uart *u, uint8_t c, uint8_t error)
{
	unsigned depth = fifos_on(u) ? FIFO_SIZE : 1;
	if (u->rx_len == depth) {
		u->lsr_errors |= LSR_OE;
		if (fifos_on(u))
			return; /* the character in the shift register is lost */
		u->rx_len = 0;	/* without FIFOs the older one is overwritten */
	}
	u->rx[u->rx_len] = c;
	u->rx_error[u->rx_len++] = error;
	if (u->rx_len == 1)
		rx_show_top(u);
	rx_restart_wait(u);
}

static uint8_t rx_pop(struct uart *u)
{
	if (!u->rx_len)
		return 0;
	uint8_t c = u->rx[0];
	u->rx_len--;
	memmove(u->rx, u->rx + 1, u->rx_len);
	memmove(u->rx_error, u->rx_error + 1, u->rx_len);
	rx_show_top(u);
	rx_restart_wait(u);
	if (!u->rx_len && u->cfg.chardev)
		chardev_kick_input(u->cfg.chardev);
	return c;
}

static void rx_clear(struct uart *u)
{
	u->rx_len = 0;
	u->lsr_errors &= LSR_OE;
	rx_restart_wait(u);
	if (u->cfg.chardev)
		chardev_kick_input(u->cfg.chardev);
}

/* --- Transmitter --------------------------------------------------------------------------- */

static void tx_flush(struct uart *u)
{
	size_t n = u->tx_len;
	if (!n)
		return;
	if (u->cfg.chardev)
		n = chardev_write(u->cfg.chardev, u->tx, u->tx_len);
	u->tx_len = (uint8_t)(u->tx_len - n);
	memmove(u->tx, u->tx + n, u->tx_len);
	if (!u->tx_len)
		u->thre_due = 1;
}

static void tx_write(struct uart *u, uint8_t c)
{
	u->thre_due = 0;
	if (u->mcr & MCR_LOOP) {
		rx_push(u, c, 0);
		u->thre_due = !u->tx_len;
		return;
	}
	if (u->tx_len < FIFO_SIZE)
		u->tx[u->tx_len++] = c;
	tx_flush(u);
}

/* --- Modem lines --------------------------------------------------------------------------- */

static uint8_t modem_lines(const struct uart *u)
{
	uint8_t m = u->mcr;
	if (m & MCR_LOOP) /* 8.7: outputs come back as inputs */
		return (uint8_t)((m & MCR_RTS ? MSR_CTS : 0) | (m & MCR_DTR ? MSR_DSR : 0) |
				 (m & MCR_OUT1 ? MSR_RI : 0) | (m & MCR_OUT2 ? MSR_DCD : 0));
	return u->cfg.chardev ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
}

static void update_msr(struct uart *u)
{
	uint8_t now = modem_lines(u), changed = (uint8_t)((now ^ u->msr) & 0xf0);
	/* 8.8: TERI tells of RI going off only. */
	if (now & MSR_RI)
		changed &= (uint8_t)~MSR_RI;
	u->msr = (uint8_t)(now | (u->msr & MSR_DELTAS) | changed >> 4);
}

/* --- Registers ----------------------------------------------------------------------------- */

static uint8_t iir_read(struct uart *u)
{
	uint8_t v = iir_value(u);
	if (v == IIR_THRE)
		u->thre_due = 0;
	return v | (fifos_on(u) ? IIR_FIFOS : 0);
}

static void start_listening(struct uart *u)
{
	if (u->listening)
		return;
	u->listening = 1;
	if (u->cfg.chardev)
		chardev_kick_input(u->cfg.chardev);
}

/* A driver that has the port open enables the receive interrupt, lets it through with OUT2, and
 * says with RTS that the other side may send. Probes set these bits one at a time. */
static void listen_if_open(struct uart *u)
{
	const uint8_t open = MCR_OUT2 | MCR_RTS;
	if ((u->ier & IER_RDA) && (u->mcr & (open | MCR_LOOP)) == open)
		start_listening(u);
}

static uint8_t lsr_read(struct uart *u)
{
	uint8_t v = lsr_value(u);
	if (!u->listening && ++u->idle_polls >= POLLS_MEAN_LISTENING)
		start_listening(u);
	u->lsr_errors = 0;
	if (u->rx_len)
		u->rx_error[0] = 0;
	return v;
}

static uint8_t msr_read(struct uart *u)
{
	uint8_t v = u->msr;
	u->msr &= (uint8_t)~MSR_DELTAS;
	return v;
}

static uint64_t uart_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct uart *u = uart_of(dev);
	uint8_t v = 0;
	switch (offset) {
	case 0: v = u->lcr & LCR_DLAB ? u->dll : rx_pop(u); break;
	case 1: v = u->lcr & LCR_DLAB ? u->dlm : u->ier; break;
	case 2: v = iir_read(u); break;
	case 3: v = u->lcr; break;
	case 4: v = u->mcr; break;
	case 5: v = lsr_read(u); break;
	case 6: v = msr_read(u); break;
	case 7: v = u->scr; break;
	}
	update_irq(u);
	return v;
}

static void ier_write(struct uart *u, uint8_t v)
{
	/* 8.6: enabling the interrupt while THR is empty raises it. */
	if ((v & ~u->ier & IER_THRE) && !u->tx_len)
		u->thre_due = 1;
	u->ier = v & IER_RW;
	listen_if_open(u);
}

static void fcr_write(struct uart *u, uint8_t v)
{
	_Bool change = (v ^ u->fcr) & FCR_ENABLE;
	/* 8.4: bits count only together with the enable bit; changing that empties the FIFOs. Bytes
	 * that wait for the back end are past the FIFO from the guest's view (on the line), so
	 * that clearing the transmit FIFO finds it empty. */
	u->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
	if (change || (v & (FCR_ENABLE | FCR_CLR_RX)) == (FCR_ENABLE | FCR_CLR_RX))
		rx_clear(u);
}

static void lcr_write(struct uart *u, uint8_t v)
{
	_Bool begins = v & ~u->lcr & LCR_BREAK;
	u->lcr = v;
	if (begins && (u->mcr & MCR_LOOP))
		rx_push(u, 0, LSR_BI);
}

static void uart_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct uart *u = uart_of(dev);
	uint8_t v = (uint8_t)value;
	switch (offset) {
	case 0:
		if (u->lcr & LCR_DLAB)
			u->dll = v;
		else
			tx_write(u, v);
		u->idle_polls = 0;
		break;
	case 1:
		if (u->lcr & LCR_DLAB)
			u->dlm = v;
		else
			ier_write(u, v);
		break;
	case 2: fcr_write(u, v); break;
	case 3: lcr_write(u, v); break;
	case 4:
		u->mcr = v & MCR_RW;
		update_msr(u);
		listen_if_open(u);
		break;
	case 7: u->scr = v; break;
	default: break; /* LSR and MSR are read-only outside of factory tests */
	}
	update_irq(u);
}

static const struct region_ops uart_ops = {.read = uart_read, .write = uart_write, .max_size = 1};

/* --- Back end ------------------------------------------------------------------------------ */

static size_t uart_room(void *opaque)
{
	struct uart *u = opaque;
	lock_take(&u->dev.lock);
	/* In loop-back mode the receiver does not listen to the line. */
	_Bool deaf = (u->mcr & MCR_LOOP) || (u->cfg.hold_input && !u->listening);
	size_t room = deaf ? 0 : rx_room(u);
	lock_drop(&u->dev.lock);
	return room;
}

static void uart_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct uart *u = opaque;
	lock_take(&u->dev.lock);
	for (size_t i = 0; i < len; i++)
		rx_push(u, data[i], 0);
	update_irq(u);
	lock_drop(&u->dev.lock);
}

static void uart_can_write(void *opaque)
{
	struct uart *u = opaque;
	lock_take(&u->dev.lock);
	tx_flush(u);
	update_irq(u);
	lock_drop(&u->dev.lock);
}

void uart_break(struct device *dev)
{
	struct uart *u = uart_of(dev);
	lock_take(&dev->lock);
	if (!(u->mcr & MCR_LOOP))
		rx_push(u, 0, LSR_BI);
	update_irq(u);
	lock_drop(&dev->lock);
}

/* --- Life ---------------------------------------------------------------------------------- */

/* 8.1, table III. The divisor is undefined there; 9600 baud is what firmware leaves. */
static void uart_reset(struct device *dev, enum reset_kind kind)
{
	struct uart *u = uart_of(dev);
	tx_flush(u);
	u->ier = u->fcr = u->lcr = u->mcr = u->scr = u->lsr_errors = 0;
	u->dll = 12;
	u->dlm = 0;
	u->thre_due = u->time_up = 0;
	u->tx_len = 0;
	u->listening = 0;
	u->idle_polls = 0;
	rx_clear(u);
	u->msr = modem_lines(u);
	update_irq(u);
}

static void uart_post_load(struct device *dev)
{
	struct uart *u = uart_of(dev);
	if (u->rx_due_ns != NEVER)
		timer_arm(&u->timer, u->rx_due_ns);
	else
		timer_cancel(&u->timer);
	update_msr(u);
	tx_flush(u);
	update_irq(u);
	if (u->cfg.chardev)
		chardev_kick_input(u->cfg.chardev);
}

static void uart_free(struct device *dev)
{
	struct uart *u = uart_of(dev);
	if (u->cfg.chardev)
		chardev_attach(u->cfg.chardev, &(const struct chardev_client){0});
	if (u->region.mapped)
		space_unmap(u->cfg.ports, &u->region);
	timer_fini(&u->timer);
	device_fini(dev);
	free(u);
}

static int uart_check(const void *shadow, struct error *err)
{
	const struct uart *u = shadow;
	_Bool bad = (u->ier & ~IER_RW) || (u->fcr & ~FCR_KEPT) || (u->mcr & ~MCR_RW) ||
		    (u->fcr && !fifos_on(u)) || (u->lsr_errors & ~LSR_ERRORS) ||
		    u->rx_len > (fifos_on(u) ? FIFO_SIZE : 1) || u->tx_len > FIFO_SIZE ||
		    (u->time_up && !u->rx_len) || (u->rx_due_ns != NEVER && !u->rx_len);
	for (unsigned i = 0; i < FIFO_SIZE; i++)
		bad |= (u->rx_error[i] & ~LSR_ERRORS) != 0;
	return bad ? error_set(err, -EINVAL, "saved state of %s contradicts itself", u->dev.id) : 0;
}

static const struct state_field uart_fields[] = {
    STATE_SCALAR(1, struct uart, ier),		 STATE_SCALAR(2, struct uart, fcr),
    STATE_SCALAR(3, struct uart, lcr),		 STATE_SCALAR(4, struct uart, mcr),
    STATE_SCALAR(5, struct uart, scr),		 STATE_SCALAR(6, struct uart, dll),
    STATE_SCALAR(7, struct uart, dlm),		 STATE_SCALAR(8, struct uart, lsr_errors),
    STATE_SCALAR(9, struct uart, msr),		 STATE_BOOL(10, struct uart, thre_due),
    STATE_BOOL(11, struct uart, time_up),	 STATE_SCALAR(12, struct uart, rx_due_ns),
    STATE_ARRAY(13, struct uart, rx, FIFO_SIZE), STATE_ARRAY(14, struct uart, rx_error, FIFO_SIZE),
    STATE_SCALAR(15, struct uart, rx_len),	 STATE_ARRAY(16, struct uart, tx, FIFO_SIZE),
    STATE_SCALAR(17, struct uart, tx_len),	 STATE_BOOL(18, struct uart, listening),
    STATE_SCALAR(19, struct uart, idle_polls),	 STATE_END,
};
static const struct state_desc uart_state = {
    .name = "uart16550",
    .fields = uart_fields,
    .size = sizeof(struct uart),
    .check = uart_check,
};
static const struct device_class uart_class;

int uart_new(struct device **out, const struct uart_config *cfg, struct error *err)
{
	struct uart *u = calloc(1, sizeof(*u));
	if (!u)
		return error_set(err, -ENOMEM, "no memory for serial port %u", cfg->instance);
	char id[24];
	snprintf(id, sizeof(id), "uart%u", cfg->instance);
	device_init(&u->dev, &uart_class, RANK_DEVICE, cfg->instance, id);
	u->cfg = *cfg;
	u->rx_due_ns = NEVER;
	timer_init(&u->timer, cfg->clock, rx_wait_over, u);
	u->region = (struct region){
	    .name = u->dev.id, .dev = &u->dev, .ops = &uart_ops, .size = UART_PORTS};
	int rc = space_map(cfg->ports, &u->region, cfg->base);
	if (rc) {
		u->cfg.chardev = NULL;
		uart_free(&u->dev);
		return error_set(err, rc, "the ports of serial port %u at 0x%x are taken",
				 cfg->instance, cfg->base);
	}
	if (cfg->chardev) {
		const struct chardev_client client = {
		    .room = uart_room,
		    .receive = uart_receive,
		    .can_write = uart_can_write,
		    .opaque = u,
		};
		chardev_attach(cfg->chardev, &client);
	}
	*out = &u->dev;
	return 0;
}

static const struct device_class uart_class = {
    .name = "uart16550",
    .reset = uart_reset,
    .free = uart_free,
    .post_load = uart_post_load,
    .state = &uart_state,
};
