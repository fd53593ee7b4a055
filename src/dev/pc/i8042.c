/* i8042.c: keyboard controller and system control port A. */
#include "dev/pc/i8042.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "dev/pc/ps2.h"

/* Citations are to IBM's PS/2 Hardware Interface Technical Reference (1990), "Keyboard and
 * auxiliary device controller" (KBC), and to ICH9 13.7.2 for port 0x92. */

#define STS_OBF	    0x01
#define STS_SYS	    0x04
#define STS_CMD	    0x08
#define STS_UNLOCK  0x10
#define STS_AUX	    0x20
#define STS_TIMEOUT 0x40

#define CCB_KBD_INT  0x01 /* controller command byte */
#define CCB_AUX_INT  0x02
#define CCB_SYS	     0x04
#define CCB_KBD_OFF  0x10
#define CCB_AUX_OFF  0x20
#define CCB_XLATE    0x40
#define CCB_RW	     0x7f
#define RAM_SIZE     32 /* byte 0 is the command byte */
#define SELF_TEST_OK 0x55
#define LINE_OK	     0x00
#define LINE_STUCK   0x01 /* clock line low: nobody there */
#define NO_DEVICE    0xfe

#define OUT_NO_RESET 0x01
#define OUT_A20	     0x02
#define PORT92_RESET 0x01
#define PORT92_A20   0x02

enum source { FROM_CONTROLLER, FROM_KEYBOARD, FROM_AUX, SOURCES };

struct i8042 {
	struct device dev;
	struct i8042_config cfg;
	struct region data_region, status_region, a92_region;
	uint8_t ram[RAM_SIZE];
	uint8_t command; /* that waits for its data byte; 0: none */
	_Bool last_was_command;
	_Bool a20;
	_Bool out_full;
	uint8_t out;	    /* output buffer */
	uint8_t out_status; /* STS_AUX, STS_TIMEOUT that belong to it */
	_Bool prefix;	    /* translation has seen 0xf0 */
	/* Controller's own answers, which go before the devices'. */
	struct ps2_queue own;
	uint8_t own_status; /* of all bytes in `own` */
	struct ps2_keyboard kbd;
	struct ps2_mouse mouse;
};

static struct i8042 *i8042_of(struct device *dev)
{
	return container_of(dev, struct i8042, dev);
}

/* Scan code set 2 to set 1 (KBC, "Scan code translation"). 0x83 and 0x84 are two oddities past the
 * table; everything else from 0x80 up stays. */
static const uint8_t xlate_table[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

static uint8_t xlate(uint8_t code)
{
	return code < 0x80 ? xlate_table[code] : code == 0x83 ? 0x41 : code == 0x84 ? 0x54 : code;
}

/* --- Output buffer ------------------------------------------------------------------------- */

static void update_irqs(struct i8042 *c)
{
	_Bool aux = c->out_status & STS_AUX;
	irq_set(&c->cfg.kbd_irq, c->out_full && !aux && (c->ram[0] & CCB_KBD_INT));
	irq_set(&c->cfg.aux_irq, c->out_full && aux && (c->ram[0] & CCB_AUX_INT));
}

static void put_out(struct i8042 *c, uint8_t byte, uint8_t status)
{
	c->out = byte;
	c->out_status = status;
	c->out_full = 1;
}

static void take_from_keyboard(struct i8042 *c)
{
	while (!c->out_full && !ps2_queue_empty(&c->kbd.queue)) {
		uint8_t code = ps2_queue_take(&c->kbd.queue);
		if (!(c->ram[0] & CCB_XLATE)) {
			put_out(c, code, 0);
		} else if (code == 0xf0) {
			c->prefix = 1; /* a release: the high bit of what follows */
		} else {
			put_out(c, xlate(code) | (c->prefix ? 0x80 : 0), 0);
			c->prefix = 0;
		}
	}
}

static void refill(struct i8042 *c)
{
	if (!c->out_full && !ps2_queue_empty(&c->own))
		put_out(c, ps2_queue_take(&c->own), c->own_status);
	if (!c->out_full && !(c->ram[0] & CCB_KBD_OFF))
		take_from_keyboard(c);
	if (!c->out_full && !(c->ram[0] & CCB_AUX_OFF)) {
		ps2_mouse_report(&c->mouse);
		if (!ps2_queue_empty(&c->mouse.queue))
			put_out(c, ps2_queue_take(&c->mouse.queue), STS_AUX);
	}
	update_irqs(c);
}

/* The controller's own answer: replaces one that nobody fetched. */
static void answer(struct i8042 *c, uint8_t byte, uint8_t status)
{
	c->own.len = 0;
	c->own_status = status;
	(void)ps2_queue_put(&c->own, &byte, 1);
}

/* --- System lines -------------------------------------------------------------------------- */

static void set_a20(struct i8042 *c, _Bool on)
{
	c->a20 = on;
	irq_set(&c->cfg.a20, on);
}

static uint8_t output_port(const struct i8042 *c)
{
	_Bool aux = c->out_status & STS_AUX;
	return (uint8_t)(0xc0 | OUT_NO_RESET | (c->a20 ? OUT_A20 : 0) |
			 (c->out_full && !aux ? 0x10 : 0) | (c->out_full && aux ? 0x20 : 0));
}

static void write_output_port(struct i8042 *c, uint8_t v)
{
	set_a20(c, v & OUT_A20);
	if (!(v & OUT_NO_RESET))
		power_request(&c->cfg.power, POWER_RESET, POWER_CAUSE_KEYBOARD);
}

/* --- Commands ------------------------------------------------------------------------------ */

static void to_keyboard(struct i8042 *c, uint8_t byte)
{
	c->ram[0] &= (uint8_t)~CCB_KBD_OFF; /* sending turns the interface on (KBC) */
	if (c->cfg.keyboard)
		ps2_keyboard_command(&c->kbd, byte);
	else
		answer(c, NO_DEVICE, STS_TIMEOUT);
}

static void to_mouse(struct i8042 *c, uint8_t byte)
{
	c->ram[0] &= (uint8_t)~CCB_AUX_OFF;
	if (c->cfg.mouse)
		ps2_mouse_command(&c->mouse, byte);
	else
		answer(c, NO_DEVICE, STS_AUX | STS_TIMEOUT);
}

static void self_test(struct i8042 *c)
{
	c->out_full = 0;
	c->ram[0] = (c->ram[0] & CCB_XLATE) | CCB_SYS | CCB_KBD_OFF | CCB_AUX_OFF;
	answer(c, SELF_TEST_OK, 0);
}

static void controller_command(struct i8042 *c, uint8_t v)
{
	c->command = 0;
	if (v >= 0x20 && v <= 0x3f) { /* read RAM, 0x20 is the command byte */
		answer(c, c->ram[v & 0x1f], 0);
		return;
	}
	if (v >= 0x60 && v <= 0x7f) {
		c->command = v;
		return;
	}
	if (v >= 0xf0) { /* pulse output lines whose bit is 0; line 0 resets */
		if (!(v & 1))
			power_request(&c->cfg.power, POWER_RESET, POWER_CAUSE_KEYBOARD);
		return;
	}
	switch (v) {
	case 0xa7: c->ram[0] |= CCB_AUX_OFF; break;
	case 0xa8: c->ram[0] &= (uint8_t)~CCB_AUX_OFF; break;
	case 0xa9: answer(c, c->cfg.mouse ? LINE_OK : LINE_STUCK, 0); break;
	case 0xaa: self_test(c); break;
	case 0xab: answer(c, c->cfg.keyboard ? LINE_OK : LINE_STUCK, 0); break;
	case 0xad: c->ram[0] |= CCB_KBD_OFF; break;
	case 0xae: c->ram[0] &= (uint8_t)~CCB_KBD_OFF; break;
	case 0xc0: answer(c, 0xa0, 0); break; /* input port: not locked, colour display */
	case 0xd0: answer(c, output_port(c), 0); break;
	case 0xd1:
	case 0xd2:
	case 0xd3:
	case 0xd4: c->command = v; break;
	case 0xdd: set_a20(c, 0); break; /* on clones; software tries them */
	case 0xdf: set_a20(c, 1); break;
	case 0xe0: answer(c, 0, 0); break; /* test inputs: clock lines low */
	default: break;			   /* unknown: ignored, as the part does */
	}
}

static void command_data(struct i8042 *c, uint8_t v)
{
	uint8_t command = c->command;
	c->command = 0;
	switch (command) {
	case 0: to_keyboard(c, v); break;
	case 0xd1: write_output_port(c, v); break;
	case 0xd2: answer(c, v, 0); break;
	/* Without an auxiliary port the loop-back byte comes as if from the keyboard. */
	case 0xd3: answer(c, v, c->cfg.mouse ? STS_AUX : 0); break;
	case 0xd4: to_mouse(c, v); break;
	default: c->ram[command & 0x1f] = command == 0x60 ? v & CCB_RW : v; break;
	}
}

/* --- Ports --------------------------------------------------------------------------------- */

static uint64_t data_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *c = i8042_of(dev);
	uint8_t v = c->out;
	/* The lines fall before the next byte raises them: edge-triggered inputs see each byte. */
	c->out_full = 0;
	update_irqs(c);
	refill(c);
	return v;
}

static void data_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct i8042 *c = i8042_of(dev);
	c->last_was_command = 0;
	command_data(c, (uint8_t)value);
	refill(c);
}

static uint64_t status_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct i8042 *c = i8042_of(dev);
	return (uint64_t)((c->out_full ? STS_OBF | c->out_status : 0) | STS_UNLOCK |
			  (c->ram[0] & CCB_SYS ? STS_SYS : 0) |
			  (c->last_was_command ? STS_CMD : 0));
}

static void command_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			  uint64_t value)
{
	struct i8042 *c = i8042_of(dev);
	c->last_was_command = 1;
	controller_command(c, (uint8_t)value);
	refill(c);
}

static uint64_t a92_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return i8042_of(dev)->a20 ? PORT92_A20 : 0;
}

static void a92_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct i8042 *c = i8042_of(dev);
	set_a20(c, value & PORT92_A20);
	if (value & PORT92_RESET)
		power_request(&c->cfg.power, POWER_RESET, POWER_CAUSE_FAST);
}

static const struct region_ops data_ops = {.read = data_read, .write = data_write, .max_size = 1};
static const struct region_ops status_ops = {
    .read = status_read, .write = command_write, .max_size = 1};
static const struct region_ops a92_ops = {.read = a92_read, .write = a92_write, .max_size = 1};

void i8042_key(struct device *dev, const uint8_t *code, size_t len)
{
	struct i8042 *c = i8042_of(dev);
	lock_take(&dev->lock);
	if (c->cfg.keyboard)
		ps2_keyboard_key(&c->kbd, code, len);
	refill(c);
	lock_drop(&dev->lock);
}

void i8042_mouse(struct device *dev, int dx, int dy, int dz, unsigned buttons)
{
	struct i8042 *c = i8042_of(dev);
	lock_take(&dev->lock);
	if (c->cfg.mouse)
		ps2_mouse_move(&c->mouse, dx, dy, dz, buttons);
	refill(c);
	lock_drop(&dev->lock);
}

/* --- Life ---------------------------------------------------------------------------------- */

static void i8042_reset(struct device *dev, enum reset_kind kind)
{
	struct i8042 *c = i8042_of(dev);
	memset(c->ram, 0, sizeof(c->ram));
	c->ram[0] = CCB_KBD_OFF | CCB_AUX_OFF | CCB_XLATE;
	c->command = 0;
	c->last_was_command = c->out_full = c->prefix = 0;
	c->out = c->out_status = c->own_status = 0;
	memset(&c->own, 0, sizeof(c->own));
	ps2_keyboard_reset(&c->kbd);
	ps2_mouse_reset(&c->mouse);
	set_a20(c, 1); /* the reset vector needs it */
	update_irqs(c);
}

static void i8042_post_load(struct device *dev)
{
	struct i8042 *c = i8042_of(dev);
	set_a20(c, c->a20);
	update_irqs(c);
}

static void i8042_free(struct device *dev)
{
	struct i8042 *c = i8042_of(dev);
	struct region *all[] = {&c->data_region, &c->status_region, &c->a92_region};
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i]->mapped)
			space_unmap(c->cfg.ports, all[i]);
	device_fini(dev);
	free(c);
}

static _Bool sum_fits(int32_t v)
{
	return v >= -(1 << 16) && v <= 1 << 16;
}

static int i8042_check(const void *shadow, struct error *err)
{
	const struct i8042 *c = shadow;
	const struct ps2_mouse *m = &c->mouse;
	_Bool bad = (c->ram[0] & ~CCB_RW) || (c->out_status & ~(STS_AUX | STS_TIMEOUT)) ||
		    (c->own_status & ~(STS_AUX | STS_TIMEOUT)) || c->own.len > PS2_QUEUE ||
		    c->kbd.queue.len > PS2_QUEUE || m->queue.len > PS2_QUEUE || m->knock > 2 ||
		    c->kbd.scan_set < 1 || c->kbd.scan_set > 3 || c->kbd.leds > 7 ||
		    (m->id != 0 && m->id != 3) || m->resolution > 3 || m->buttons > 7 ||
		    m->reported > 7 || !sum_fits(m->dx) || !sum_fits(m->dy) || !sum_fits(m->dz);
	return bad ? error_set(err, -EINVAL, "saved keyboard controller state contradicts itself")
		   : 0;
}

static const struct state_field i8042_fields[] = {
    STATE_ARRAY(1, struct i8042, ram, RAM_SIZE),
    STATE_SCALAR(2, struct i8042, command),
    STATE_BOOL(3, struct i8042, last_was_command),
    STATE_BOOL(4, struct i8042, a20),
    STATE_BOOL(5, struct i8042, out_full),
    STATE_SCALAR(6, struct i8042, out),
    STATE_SCALAR(7, struct i8042, out_status),
    STATE_BOOL(8, struct i8042, prefix),
    STATE_ARRAY(9, struct i8042, own.data, PS2_QUEUE),
    STATE_SCALAR(10, struct i8042, own.len),
    STATE_SCALAR(11, struct i8042, own_status),
    STATE_ARRAY(12, struct i8042, kbd.queue.data, PS2_QUEUE),
    STATE_SCALAR(13, struct i8042, kbd.queue.len),
    STATE_SCALAR(14, struct i8042, kbd.queue.last),
    STATE_SCALAR(15, struct i8042, kbd.command),
    STATE_SCALAR(16, struct i8042, kbd.leds),
    STATE_SCALAR(17, struct i8042, kbd.rate),
    STATE_SCALAR(18, struct i8042, kbd.scan_set),
    STATE_BOOL(19, struct i8042, kbd.enabled),
    STATE_ARRAY(20, struct i8042, mouse.queue.data, PS2_QUEUE),
    STATE_SCALAR(21, struct i8042, mouse.queue.len),
    STATE_SCALAR(22, struct i8042, mouse.queue.last),
    STATE_SCALAR(23, struct i8042, mouse.command),
    STATE_SCALAR(24, struct i8042, mouse.rate),
    STATE_SCALAR(25, struct i8042, mouse.resolution),
    STATE_SCALAR(26, struct i8042, mouse.id),
    STATE_SCALAR(27, struct i8042, mouse.knock),
    STATE_SCALAR(28, struct i8042, mouse.buttons),
    STATE_SCALAR(29, struct i8042, mouse.reported),
    STATE_BOOL(30, struct i8042, mouse.scaling),
    STATE_BOOL(31, struct i8042, mouse.enabled),
    STATE_BOOL(32, struct i8042, mouse.remote),
    STATE_BOOL(33, struct i8042, mouse.wrap),
    STATE_SCALAR(34, struct i8042, mouse.dx),
    STATE_SCALAR(35, struct i8042, mouse.dy),
    STATE_SCALAR(36, struct i8042, mouse.dz),
    STATE_END,
};
static const struct state_desc i8042_state = {
    .name = "i8042",
    .fields = i8042_fields,
    .size = sizeof(struct i8042),
    .check = i8042_check,
};
static const struct device_class i8042_class;

int i8042_new(struct device **out, const struct i8042_config *cfg, struct error *err)
{
	struct i8042 *c = calloc(1, sizeof(*c));
	if (!c)
		return error_set(err, -ENOMEM, "no memory for the keyboard controller");
	device_init(&c->dev, &i8042_class, RANK_DEVICE, 0, "i8042");
	c->cfg = *cfg;
	c->data_region =
	    (struct region){.name = "i8042-data", .dev = &c->dev, .ops = &data_ops, .size = 1};
	c->status_region =
	    (struct region){.name = "i8042-command", .dev = &c->dev, .ops = &status_ops, .size = 1};
	c->a92_region =
	    (struct region){.name = "port92", .dev = &c->dev, .ops = &a92_ops, .size = 1};
	int rc = space_map(cfg->ports, &c->data_region, 0x60);
	if (!rc)
		rc = space_map(cfg->ports, &c->status_region, 0x64);
	if (!rc)
		rc = space_map(cfg->ports, &c->a92_region, 0x92);
	if (rc) {
		i8042_free(&c->dev);
		return error_set(err, rc, "a port of the keyboard controller is taken");
	}
	*out = &c->dev;
	return 0;
}

static const struct device_class i8042_class = {
    .name = "i8042",
    .reset = i8042_reset,
    .free = i8042_free,
    .post_load = i8042_post_load,
    .state = &i8042_state,
};
