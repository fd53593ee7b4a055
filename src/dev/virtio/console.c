/* console.c: a console and named ports: bytes both ways, and the control queue (VIRTIO12 5.3). */
#include "dev/virtio/console.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "base/log.h"

/*
 * Bytes to the host leave a chain as the back end takes them; a chain that is not finished goes
 * back into the ring, and `done` says how far it is. Bytes to the guest are asked for only when a
 * buffer is there, and fill it at once. So nothing is ever in flight, a host that does not read
 * stops the guest's port and not its CPU, and a guest that does not read stops the host's client.
 *
 * Messages to the driver are no queue but a set of bits for each port, sent in the order of the
 * bits as buffers for them come. A host that comes and goes faster than the driver looks is seen to
 * have closed once and opened once.
 */

#define CONSOLE_F_SIZE	      BIT64(0)
#define CONSOLE_F_MULTIPORT   BIT64(1)
#define CONSOLE_F_EMERG_WRITE BIT64(2)

enum { CFG_COLS = 0, CFG_ROWS = 2, CFG_PORTS = 4, CFG_EMERG = 8, CFG_SIZE = 12 };

/* Messages of the control queues (5.3.6.2). */
enum {
	MSG_DEVICE_READY = 0,
	MSG_ADD = 1,
	MSG_PORT_READY = 3,
	MSG_CONSOLE = 4,
	MSG_RESIZE = 5,
	MSG_OPEN = 6,
	MSG_NAME = 7,
};
#define MSG_BYTES 8

/* What a port's driver is still to be told, in this order. */
enum {
	TELL_ADD = 1 << 0,
	TELL_CONSOLE = 1 << 1,
	TELL_RESIZE = 1 << 2,
	TELL_NAME = 1 << 3,
	TELL_CLOSED = 1 << 4,
	TELL_OPEN = 1 << 5,
	TELL_ALL = 0x3f,
};

#define CONSOLE_CLASS_CODE 0x078000 /* a simple communication controller */
#define CONSOLE_QUEUE_SIZE 128
#define QUEUE_TELL	   2
#define QUEUE_TOLD	   3
/* Done in one go, then it is the loop's turn: chains of a queue, and bytes to the host of all ports
 * together, for there are back ends that take whatever they are given, as fast as it is copied. */
#define TURN_CHAINS 64
#define TURN_BYTES  (256u << 10)

struct port {
	struct console *console;
	unsigned id;
	struct chardev *chardev; /* NULL: there is no such port */
	_Bool host_open;	 /* somebody is there */
};

struct console {
	struct virtio_dev vd; /* first */
	struct console_config cfg;
	unsigned count; /* of ports, port 0 among them */
	struct port port[CONSOLE_PORTS_MAX];
	struct timer work;
	unsigned first; /* the port that has the next turn's bytes first */
	/* saved */
	uint8_t tell[CONSOLE_PORTS_MAX];
	uint8_t guest_open[CONSOLE_PORTS_MAX]; /* the driver's side is open */
	uint8_t told_open[CONSOLE_PORTS_MAX];  /* the driver was told that the host's is */
	uint32_t done[CONSOLE_PORTS_MAX];      /* bytes of the next chain to the host */
	char name[CONSOLE_PORTS_MAX][CONSOLE_NAME_MAX + 1];
};

static struct console *console_of(struct virtio_dev *vd)
{
	return container_of(vd, struct console, vd);
}

/* 5.3.2: port 0 has queues 0 and 1, port n 2n + 2 and 2n + 3. */
static unsigned queue_in(unsigned port)
{
	return port ? 2 * port + 2 : 0;
}
static unsigned queue_out(unsigned port)
{
	return queue_in(port) + 1;
}

static _Bool multiport(const struct console *c)
{
	return virtio_has(&c->vd, CONSOLE_F_MULTIPORT);
}

/* ---- messages to the driver ---- */

static size_t message_make(struct console *c, unsigned id, unsigned what, uint8_t *m)
{
	static const uint16_t events[] = {MSG_ADD,  MSG_CONSOLE, MSG_RESIZE,
					  MSG_NAME, MSG_OPEN,	 MSG_OPEN};
	unsigned bit = (unsigned)__builtin_ctz(what);
	size_t n = MSG_BYTES;

	store_le32(m, id);
	store_le16(m + 4, events[bit]);
	store_le16(m + 6, what == TELL_CONSOLE || what == TELL_OPEN || what == TELL_NAME);
	if (what == TELL_RESIZE) {
		/* Rows come first for Linux's driver, columns in the specification. */
		memcpy(m + n, c->vd.config + CFG_ROWS, 2);
		memcpy(m + n + 2, c->vd.config + CFG_COLS, 2);
		n += 4;
	} else if (what == TELL_NAME) {
		memcpy(m + n, c->name[id], strlen(c->name[id]));
		n += strlen(c->name[id]);
	}
	return n;
}

static void tell_run(struct console *c)
{
	uint8_t message[MSG_BYTES + CONSOLE_NAME_MAX];
	struct vq_chain chain;
	unsigned pushed = 0;

	if (!multiport(c))
		return;
	for (unsigned id = 0; id < c->count; id++) {
		while (c->tell[id] && virtio_pop(&c->vd, QUEUE_TELL, &chain)) {
			unsigned what = c->tell[id] & -(unsigned)c->tell[id];
			size_t n = message_make(c, id, what, message);

			n = chain_write(c->vd.mem, &chain, 0, message, n);
			virtio_push(&c->vd, QUEUE_TELL, &chain, (uint32_t)n);
			pushed++;
			c->tell[id] &= (uint8_t)~what;
			if (what == TELL_OPEN || what == TELL_CLOSED)
				c->told_open[id] = what == TELL_OPEN;
		}
	}
	if (!pushed)
		return;
	virtio_interrupt(&c->vd, QUEUE_TELL);
	for (unsigned id = 0; id < c->count; id++)
		if (c->port[id].chardev)
			chardev_kick_input(c->port[id].chardev);
}

/* The host's side came or went: what the driver is to hear of it. */
static void tell_open(struct console *c, unsigned id, _Bool on)
{
	c->tell[id] &= (uint8_t)~TELL_OPEN;
	if (c->told_open[id])
		c->tell[id] |= TELL_CLOSED;
	if (on)
		c->tell[id] |= TELL_OPEN;
}

/* ---- bytes to the host ---- */

/* Moves what the back end takes, and what is left of the turn. True: the chain is done. */
static _Bool chain_out(struct console *c, unsigned id, const struct vq_chain *chain, size_t *budget)
{
	uint8_t bytes[1024];
	size_t n, taken;

	while (*budget && c->done[id] < chain->out_bytes) {
		n = chain_read(chain, c->done[id], bytes, MIN(sizeof(bytes), *budget));
		if (!n)
			break; /* it was a longer chain before */
		taken = chardev_write(c->port[id].chardev, bytes, n);
		c->done[id] += (uint32_t)taken;
		*budget -= taken;
		if (taken < n)
			return 0;
	}
	return c->done[id] >= chain->out_bytes || *budget;
}

static void out_run(struct console *c, unsigned id, size_t *budget)
{
	unsigned q = queue_out(id), pushed = 0;
	struct vq_chain chain;

	while (virtio_pop(&c->vd, q, &chain)) {
		/* Where nobody is, it vanishes as in a closed pipe. */
		_Bool somebody = c->port[id].chardev && c->port[id].host_open;
		_Bool done =
		    pushed < TURN_CHAINS && (!somebody || chain_out(c, id, &chain, budget));

		if (!done) {
			vq_unpop(&c->vd.vq[q], &chain);
			if (pushed == TURN_CHAINS || !*budget)
				timer_arm(&c->work, clock_now_ns(c->cfg.clock));
			break;
		}
		c->done[id] = 0;
		virtio_push(&c->vd, q, &chain, 0);
		pushed++;
	}
	if (pushed)
		virtio_interrupt(&c->vd, q);
}

/* ---- messages of the driver ---- */

static void told(struct console *c, const uint8_t *m)
{
	uint32_t id = load_le32(m);
	uint16_t event = load_le16(m + 4), value = load_le16(m + 6);

	if (event == MSG_DEVICE_READY) {
		for (unsigned i = 0; value && i < c->count; i++)
			if (c->port[i].chardev)
				c->tell[i] |= TELL_ADD;
		return;
	}
	if (id >= c->count || !c->port[id].chardev) {
		log_guest("%s: the guest speaks of a port %u that there is not", c->vd.pci.dev.id,
			  id);
		return;
	}
	if (event == MSG_PORT_READY && value) {
		c->tell[id] |= id ? TELL_NAME : TELL_CONSOLE | TELL_RESIZE;
		tell_open(c, id, c->port[id].host_open);
	} else if (event == MSG_OPEN) {
		c->guest_open[id] = value != 0;
		if (value)
			chardev_kick_input(c->port[id].chardev);
	}
}

static void told_run(struct console *c)
{
	struct vq_chain chain;
	uint8_t m[MSG_BYTES];
	unsigned pushed = 0;

	while (pushed < TURN_CHAINS && virtio_pop(&c->vd, QUEUE_TOLD, &chain)) {
		if (multiport(c) && chain_read(&chain, 0, m, sizeof(m)) == sizeof(m))
			told(c, m);
		virtio_push(&c->vd, QUEUE_TOLD, &chain, 0);
		pushed++;
	}
	if (pushed == TURN_CHAINS)
		timer_arm(&c->work, clock_now_ns(c->cfg.clock));
	if (pushed)
		virtio_interrupt(&c->vd, QUEUE_TOLD);
	tell_run(c);
}

/* ---- bytes to the guest: what the back end calls, on the loop's thread ---- */

static _Bool in_ready(struct console *c, unsigned id)
{
	if (!multiport(c))
		return id == 0;
	return c->guest_open[id] && c->told_open[id] && !(c->tell[id] & TELL_CLOSED);
}

static size_t port_room(void *opaque)
{
	struct port *p = opaque;
	struct console *c = p->console;
	struct vq_chain chain;
	size_t room = 0;

	lock_take(&c->vd.pci.dev.lock);
	if (in_ready(c, p->id) && virtio_pop(&c->vd, queue_in(p->id), &chain)) {
		room = chain.in_bytes;
		if (room) {
			vq_unpop(&c->vd.vq[queue_in(p->id)], &chain);
		} else {
			/* A buffer that takes nothing: back it goes, and there may be others. */
			virtio_push(&c->vd, queue_in(p->id), &chain, 0);
			virtio_interrupt(&c->vd, queue_in(p->id));
			timer_arm(&c->work, clock_now_ns(c->cfg.clock));
		}
	}
	lock_drop(&c->vd.pci.dev.lock);
	return room;
}

/* The buffer that there was room in may have gone meanwhile, with a reset: then so have the bytes.
 */
static void port_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct port *p = opaque;
	struct console *c = p->console;
	unsigned q = queue_in(p->id);
	struct vq_chain chain;

	lock_take(&c->vd.pci.dev.lock);
	if (in_ready(c, p->id) && virtio_pop(&c->vd, q, &chain)) {
		size_t n = chain_write(c->vd.mem, &chain, 0, data, len);

		virtio_push(&c->vd, q, &chain, (uint32_t)n);
		virtio_interrupt(&c->vd, q);
	}
	lock_drop(&c->vd.pci.dev.lock);
}

static void port_can_write(void *opaque)
{
	struct port *p = opaque;
	struct console *c = p->console;
	size_t budget = TURN_BYTES;

	lock_take(&c->vd.pci.dev.lock);
	out_run(c, p->id, &budget);
	lock_drop(&c->vd.pci.dev.lock);
}

static void port_connected(void *opaque, _Bool on)
{
	struct port *p = opaque;
	struct console *c = p->console;
	size_t budget = TURN_BYTES;

	lock_take(&c->vd.pci.dev.lock);
	p->host_open = on;
	if (multiport(c)) {
		tell_open(c, p->id, on);
		tell_run(c);
	}
	out_run(c, p->id, &budget); /* what it did not take goes nowhere */
	lock_drop(&c->vd.pci.dev.lock);
}

/* ---- what the transport and the driver ask for ---- */

static void console_notify(struct virtio_dev *vd, unsigned q)
{
	struct console *c = console_of(vd);
	unsigned id = q < 2 ? 0 : q / 2 - 1;
	size_t budget = TURN_BYTES;

	if (q == QUEUE_TELL)
		tell_run(c);
	else if (q == QUEUE_TOLD)
		told_run(c);
	else if (q & 1)
		out_run(c, id, &budget);
	else if (c->port[id].chardev)
		chardev_kick_input(c->port[id].chardev);
}

static void work_due(void *opaque)
{
	struct console *c = opaque;
	size_t budget = TURN_BYTES;

	lock_take(&c->vd.pci.dev.lock);
	if (c->count > 1)
		told_run(c);
	c->first = (c->first + 1) % c->count;
	for (unsigned i = 0; i < c->count; i++) {
		unsigned id = (c->first + i) % c->count;

		out_run(c, id, &budget);
		if (c->port[id].chardev)
			chardev_kick_input(c->port[id].chardev);
	}
	lock_drop(&c->vd.pci.dev.lock);
}

/* A byte for the console before there are queues (5.3.4). */
static void console_config_written(struct virtio_dev *vd, unsigned offset, unsigned size)
{
	struct console *c = console_of(vd);

	if (c->cfg.console && offset <= CFG_EMERG && offset + size > CFG_EMERG)
		(void)chardev_write(c->cfg.console, vd->config + CFG_EMERG, 1);
	memset(vd->config + CFG_EMERG, 0, 4);
}

static void console_queue_stop(struct virtio_dev *vd, unsigned q)
{
	if (q == 1 || (q > QUEUE_TOLD && q & 1))
		console_of(vd)->done[q < 2 ? 0 : q / 2 - 1] = 0;
}

static void console_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	struct console *c = console_of(vd);

	timer_cancel(&c->work);
	memset(c->tell, 0, sizeof(c->tell));
	memset(c->guest_open, 0, sizeof(c->guest_open));
	memset(c->told_open, 0, sizeof(c->told_open));
	store_le32(vd->config + CFG_PORTS, c->count);
}

/* The clients of the machine that was saved are not those of this one. */
static void console_post_load(struct virtio_dev *vd)
{
	struct console *c = console_of(vd);

	timer_cancel(&c->work);
	for (unsigned id = 0; id < c->count; id++) {
		_Bool same = id == 0 || c->cfg.port[id - 1].always_open;

		if (multiport(c) && !same &&
		    (c->told_open[id] || c->tell[id] & TELL_OPEN || c->port[id].host_open))
			tell_open(c, id, c->port[id].host_open);
	}
	tell_run(c);
	timer_arm(&c->work, clock_now_ns(c->cfg.clock)); /* kicks the back ends */
}

void console_resize(struct device *dev, unsigned cols, unsigned rows)
{
	struct console *c = console_of(virtio_of(dev));

	lock_take(&dev->lock);
	store_le16(c->vd.config + CFG_COLS, (uint16_t)MIN(cols, 0xffffu));
	store_le16(c->vd.config + CFG_ROWS, (uint16_t)MIN(rows, 0xffffu));
	virtio_config_changed(&c->vd);
	if (multiport(c) && c->cfg.console && c->guest_open[0]) {
		c->tell[0] |= TELL_RESIZE;
		tell_run(c);
	}
	lock_drop(&dev->lock);
}

static const struct virtio_ops console_ops = {
    .config_written = console_config_written,
    .notify = console_notify,
    .queue_stop = console_queue_stop,
    .reset = console_reset,
    .post_load = console_post_load,
};

/* ---- the device's class ---- */

static void console_free(struct device *dev)
{
	struct console *c = console_of(virtio_of(dev));
	const struct chardev_client nobody = {0};

	for (unsigned id = 0; id < c->count; id++)
		if (c->port[id].chardev)
			chardev_attach(c->port[id].chardev, &nobody);
	timer_fini(&c->work);
	virtio_fini(&c->vd);
	free(c);
}

static int console_check(const void *shadow, struct error *err)
{
	const struct console *c = shadow;
	const char *id = c->vd.pci.dev.id;

	if (load_le32(c->vd.config + CFG_PORTS) != c->count)
		return error_set(err, -EINVAL, "saved state of %s: another number of ports", id);
	for (unsigned i = 0; i < CONSOLE_PORTS_MAX; i++) {
		const char *name = i && i < c->count ? c->cfg.port[i - 1].name : "";

		if (strnlen(c->name[i], CONSOLE_NAME_MAX + 1) > CONSOLE_NAME_MAX ||
		    strcmp(c->name[i], name))
			return error_set(err, -EINVAL,
					 "saved state of %s: port %u had another name", id, i);
		if (c->tell[i] & ~TELL_ALL || c->guest_open[i] > 1 || c->told_open[i] > 1 ||
		    (i >= c->count && (c->tell[i] || c->guest_open[i] || c->told_open[i])))
			return error_set(err, -EINVAL, "saved state of %s: port %u is in no state",
					 id, i);
	}
	return virtio_check(&c->vd, err);
}

static const struct state_field console_fields[] = {
    VIRTIO_STATE(struct console, vd),
    STATE_ARRAY(1, struct console, tell, CONSOLE_PORTS_MAX),
    STATE_ARRAY(2, struct console, guest_open, CONSOLE_PORTS_MAX),
    STATE_ARRAY(3, struct console, told_open, CONSOLE_PORTS_MAX),
    STATE_ARRAY(4, struct console, done, CONSOLE_PORTS_MAX),
    STATE_ARRAY(5, struct console, name, CONSOLE_PORTS_MAX *(CONSOLE_NAME_MAX + 1)),
    STATE_END,
};
static const struct state_desc console_state = {
    .name = "virtio-console",
    .fields = console_fields,
    .size = sizeof(struct console),
    .check = console_check,
};
static const struct device_class console_class = {
    .name = "virtio-console",
    .reset = virtio_device_reset,
    .free = console_free,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
    .state = &console_state,
};

static void ports_attach(struct console *c)
{
	for (unsigned id = 0; id < c->count; id++) {
		struct port *p = &c->port[id];
		const struct chardev_client client = {.room = port_room,
						      .receive = port_receive,
						      .can_write = port_can_write,
						      .connected = port_connected,
						      .opaque = p};

		if (p->chardev)
			chardev_attach(p->chardev, &client);
	}
}

int console_new(struct device **dev, const struct console_config *cfg, struct error *err)
{
	uint16_t sizes[2 * CONSOLE_PORTS_MAX + 2];
	char name[24];
	struct virtio_setup setup = {
	    .cls = &console_class,
	    .ops = &console_ops,
	    .id = VIRTIO_ID_CONSOLE,
	    .name = name,
	    .class_code = CONSOLE_CLASS_CODE,
	    .features = (cfg->console ? CONSOLE_F_SIZE | CONSOLE_F_EMERG_WRITE : 0) |
			(cfg->ports ? CONSOLE_F_MULTIPORT : 0),
	    .queues = cfg->ports ? 2 * cfg->ports + 4 : 2,
	    .queue_sizes = sizes,
	    .config_size = CFG_SIZE,
	};
	struct console *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return error_set(err, -ENOMEM, "out of memory");
	assert(cfg->ports < CONSOLE_PORTS_MAX && (cfg->ports || cfg->console));
	c->cfg = *cfg;
	c->count = cfg->ports + 1;
	for (unsigned id = 0; id < c->count; id++) {
		const struct console_port_config *p = id ? &cfg->port[id - 1] : NULL;

		c->port[id] = (struct port){.console = c,
					    .id = id,
					    .chardev = p ? p->chardev : cfg->console,
					    .host_open = p ? p->always_open : 1};
		if (p)
			snprintf(c->name[id], sizeof(c->name[id]), "%s", p->name);
	}
	for (unsigned q = 0; q < setup.queues; q++)
		sizes[q] = CONSOLE_QUEUE_SIZE;
	if (cfg->console)
		memset(c->vd.config_rw + CFG_EMERG, 0xff, 4);
	snprintf(name, sizeof(name), "console%u", cfg->place.instance);
	timer_init(&c->work, cfg->clock, work_due, c);
	r = virtio_init(&c->vd, &cfg->place, &setup, err);
	if (r) {
		free(c);
		return r;
	}
	ports_attach(c);
	*dev = &c->vd.pci.dev;
	return 0;
}
