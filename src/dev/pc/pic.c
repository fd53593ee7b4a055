/* pic.c: two 8259A interrupt controllers, cascaded, with the edge/level control registers of PCI
 * chipsets (8259A data sheet; Intel 290550 for ELCR). */
#include "dev/pc/pic.h"

#include <stdlib.h>
#include <errno.h>
#include "base/trace.h"

#define PIC_CASCADE 2

/* Timer, keyboard, cascade; RTC, FPU: always edge-triggered. */
static const uint8_t pic_edge_only[2] = {0x07, 0x21};

/* What the next write to the odd port is (ICW sequence). */
enum pic_step { PIC_READY, PIC_ICW2, PIC_ICW3, PIC_ICW4 };

struct chip {
	uint8_t lines; /* input levels */
	uint8_t latch; /* edges seen and not acknowledged */
	uint8_t isr, imr, elcr;
	uint8_t base;	/* ICW2: vector of input 0 */
	uint8_t lowest; /* input with the lowest priority */
	uint8_t step;	/* enum pic_step */
	_Bool single, wants_icw4;
	_Bool auto_eoi, rotate_auto, nested; /* ICW4: AEOI, OCW2: rotate in it, ICW4: SFNM */
	_Bool special_mask, poll, read_isr;  /* OCW3 */
};

struct pic {
	struct device dev;
	struct pic_config cfg;
	struct region port[3];
	struct chip chip[2];
	_Bool out;
};

static int chip_pending(const struct pic *p, unsigned n);

/* Requests as the IRR shows them: latched edges, live levels; the slave is a live level. */
static uint8_t chip_irr(const struct pic *p, unsigned n)
{
	const struct chip *c = &p->chip[n];
	uint8_t irr = c->latch | (c->lines & c->elcr);

	if (n == 0) {
		irr &= (uint8_t)~BIT32(PIC_CASCADE);
		if (chip_pending(p, 1) >= 0)
			irr |= BIT32(PIC_CASCADE);
	}
	return irr;
}

/* 0 is the highest priority; 8: no bit is set. */
static unsigned chip_priority(const struct chip *c, uint8_t bits)
{
	unsigned prio = 0;

	if (!bits)
		return 8;
	while (!(bits & BIT32((c->lowest + 1 + prio) & 7)))
		prio++;
	return prio;
}

/* The input that the chip would put forward now, or -1. */
static int chip_pending(const struct pic *p, unsigned n)
{
	const struct chip *c = &p->chip[n];
	uint8_t in_service = c->isr;
	unsigned prio = chip_priority(c, chip_irr(p, n) & (uint8_t)~c->imr);

	if (c->special_mask)
		in_service &= (uint8_t)~c->imr;
	if (c->nested && n == 0)
		in_service &= (uint8_t)~BIT32(PIC_CASCADE);
	if (prio >= chip_priority(c, in_service))
		return -1;
	return (int)((c->lowest + 1 + prio) & 7);
}

static void pic_update(struct pic *p)
{
	_Bool out = chip_pending(p, 0) >= 0;

	if (out == p->out)
		return;
	p->out = out;
	irq_set(&p->cfg.out, out);
}

static void pic_set(void *opaque, unsigned line, _Bool level)
{
	struct pic *p = opaque;
	struct chip *c = &p->chip[line >> 3];
	uint8_t bit = (uint8_t)BIT32(line & 7);

	if (line == PIC_CASCADE)
		return;
	lock_take(&p->dev.lock);
	if (level) {
		/* An edge stays latched when the line falls before it is acknowledged. A real chip
		 * would then answer with a spurious vector; guests gain nothing from that. */
		if (!(c->lines & bit) && !(c->elcr & bit))
			c->latch |= bit;
		c->lines |= bit;
	} else {
		c->lines &= (uint8_t)~bit;
	}
	pic_update(p);
	lock_drop(&p->dev.lock);
}

struct irq pic_line(struct device *dev, unsigned n)
{
	return (struct irq){.set = pic_set, .opaque = dev, .line = n & 15};
}

static void chip_acknowledge(struct chip *c, unsigned irq)
{
	uint8_t bit = (uint8_t)BIT32(irq);

	c->latch &= (uint8_t)~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else if (c->rotate_auto)
		c->lowest = (uint8_t)irq;
}

static uint8_t pic_cycle(struct pic *p)
{
	struct chip *master = &p->chip[0], *slave = &p->chip[1];
	int irq = chip_pending(p, 0), sub;

	if (irq < 0)
		return master->base + 7;
	if (irq != PIC_CASCADE) {
		chip_acknowledge(master, (unsigned)irq);
		return master->base + (uint8_t)irq;
	}
	sub = chip_pending(p, 1);
	chip_acknowledge(master, PIC_CASCADE);
	if (sub < 0)
		return slave->base + 7;
	chip_acknowledge(slave, (unsigned)sub);
	return slave->base + (uint8_t)sub;
}

uint8_t pic_ack(struct device *dev)
{
	struct pic *p = (struct pic *)dev;
	uint8_t vector;

	lock_take(&dev->lock);
	vector = pic_cycle(p);
	pic_update(p);
	lock_drop(&dev->lock);
	trace(TRACE_IRQ, "pic: vector %02x", vector);
	return vector;
}

int pic_ack_fn(void *dev)
{
	struct pic *p = dev;
	int vector = -1;

	lock_take(&p->dev.lock);
	if (p->out) {
		vector = pic_cycle(p);
		pic_update(p);
	}
	lock_drop(&p->dev.lock);
	return vector;
}

_Bool pic_output(struct device *dev)
{
	struct pic *p = (struct pic *)dev;
	_Bool out;

	lock_take(&dev->lock);
	out = p->out;
	lock_drop(&dev->lock);
	return out;
}

/* ---- registers ---- */

static void icw1_write(struct chip *c, uint8_t value)
{
	c->latch = c->isr = c->imr = 0;
	c->lowest = 7;
	c->special_mask = c->poll = c->read_isr = 0;
	c->auto_eoi = c->rotate_auto = c->nested = 0;
	c->single = !!(value & 2);
	c->wants_icw4 = !!(value & 1);
	c->step = PIC_ICW2; /* LTIM (bit 3) is ELCR's business here */
}

static void icw_next(struct chip *c, uint8_t value)
{
	switch (c->step) {
	case PIC_ICW2:
		c->base = value & 0xf8;
		if (!c->single)
			c->step = PIC_ICW3;
		else
			c->step = c->wants_icw4 ? PIC_ICW4 : PIC_READY;
		break;
	case PIC_ICW3: /* the wiring is what it is */ c->step = c->wants_icw4 ? PIC_ICW4 : 0; break;
	default:
		c->auto_eoi = !!(value & 2);
		c->nested = !!(value & 0x10);
		c->step = PIC_READY;
		break;
	}
}

/* Ends the interrupt in service with the highest priority; -1 when there is none. Masked ones are
 * left alone in special mask mode. */
static int chip_eoi(struct chip *c)
{
	uint8_t isr = c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr;
	unsigned prio = chip_priority(c, isr), irq;

	if (prio == 8)
		return -1;
	irq = (c->lowest + 1 + prio) & 7;
	c->isr &= (uint8_t)~BIT32(irq);
	return (int)irq;
}

static void ocw2_write(struct chip *c, uint8_t value)
{
	unsigned level = value & 7;
	int irq;

	switch (value >> 5) {
	case 0:
	case 4: c->rotate_auto = value >> 7; break;
	case 1: chip_eoi(c); break;
	case 5:
		irq = chip_eoi(c);
		if (irq >= 0)
			c->lowest = (uint8_t)irq;
		break;
	case 7: c->lowest = (uint8_t)level; __attribute__((fallthrough));
	case 3: c->isr &= (uint8_t)~BIT32(level); break;
	case 6: c->lowest = (uint8_t)level; break;
	default: break;
	}
}

static void ocw3_write(struct chip *c, uint8_t value)
{
	if (value & 0x40)
		c->special_mask = !!(value & 0x20);
	if (value & 4)
		c->poll = 1;
	else if (value & 2)
		c->read_isr = value & 1;
}

static void chip_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct pic *p = (struct pic *)dev;
	struct chip *c = &p->chip[(uintptr_t)opaque];
	uint8_t v = (uint8_t)value;

	if (offset == 0 && (v & 0x10))
		icw1_write(c, v);
	else if (offset == 0 && (v & 8))
		ocw3_write(c, v);
	else if (offset == 0)
		ocw2_write(c, v);
	else if (c->step != PIC_READY)
		icw_next(c, v);
	else
		c->imr = v;
	pic_update(p);
}

/* A poll is an acknowledge by the read (8259A, poll command). */
static uint8_t chip_poll(struct pic *p, unsigned n)
{
	struct chip *c = &p->chip[n];
	int irq = chip_pending(p, n);

	c->poll = 0;
	if (irq < 0)
		return 0;
	chip_acknowledge(c, (unsigned)irq);
	pic_update(p);
	return 0x80 | (uint8_t)irq;
}

static uint64_t chip_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct pic *p = (struct pic *)dev;
	unsigned n = (unsigned)(uintptr_t)opaque;
	struct chip *c = &p->chip[n];

	if (c->poll)
		return chip_poll(p, n);
	if (offset == 1)
		return c->imr;
	return c->read_isr ? c->isr : chip_irr(p, n);
}

static uint64_t elcr_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return ((struct pic *)dev)->chip[offset].elcr;
}

static void elcr_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct pic *p = (struct pic *)dev;
	struct chip *c = &p->chip[offset];

	c->elcr = (uint8_t)value & (uint8_t)~pic_edge_only[offset];
	c->latch &= (uint8_t)~c->elcr;
	pic_update(p);
}

static const struct region_ops chip_ops = {.read = chip_read, .write = chip_write, .max_size = 1};
static const struct region_ops elcr_ops = {.read = elcr_read, .write = elcr_write, .max_size = 1};

/* ---- the device ---- */

static void pic_reset(struct device *dev, enum reset_kind kind)
{
	struct pic *p = (struct pic *)dev;

	for (unsigned n = 0; n < 2; n++) {
		uint8_t lines = p->chip[n].lines; /* belong to those who drive them */

		p->chip[n] = (struct chip){.lines = lines, .lowest = 7};
	}
	pic_update(p);
}

static void pic_free(struct device *dev)
{
	struct pic *p = (struct pic *)dev;

	for (unsigned i = 0; i < ARRAY_SIZE(p->port); i++) {
		if (p->port[i].mapped)
			space_unmap(p->cfg.ports, &p->port[i]);
	}
	device_fini(dev);
	free(p);
}

/* The line's other end may have been reset meanwhile: say the level again. */
static void pic_post_load(struct device *dev)
{
	struct pic *p = (struct pic *)dev;

	p->out = chip_pending(p, 0) >= 0;
	irq_set(&p->cfg.out, p->out);
}

static int pic_check(const void *shadow, struct error *err)
{
	const struct pic *p = shadow;

	for (unsigned n = 0; n < 2; n++) {
		const struct chip *c = &p->chip[n];

		if (c->lowest > 7 || c->step > PIC_ICW4 || (c->base & 7) ||
		    (c->elcr & pic_edge_only[n]))
			return error_set(err, -EINVAL,
					 "The saved registers of PIC %u are not possible ones.", n);
	}
	if ((p->chip[0].lines | p->chip[0].latch) & BIT32(PIC_CASCADE))
		return error_set(err, -EINVAL, "The saved cascade input of the PIC is driven.");
	return 0;
}

#define CHIP_FIELDS(tag, n)                                                                        \
	STATE_SCALAR((tag), struct pic, chip[n].lines),                                            \
	    STATE_SCALAR((tag) + 1, struct pic, chip[n].latch),                                    \
	    STATE_SCALAR((tag) + 2, struct pic, chip[n].isr),                                      \
	    STATE_SCALAR((tag) + 3, struct pic, chip[n].imr),                                      \
	    STATE_SCALAR((tag) + 4, struct pic, chip[n].elcr),                                     \
	    STATE_SCALAR((tag) + 5, struct pic, chip[n].base),                                     \
	    STATE_SCALAR((tag) + 6, struct pic, chip[n].lowest),                                   \
	    STATE_SCALAR((tag) + 7, struct pic, chip[n].step),                                     \
	    STATE_BOOL((tag) + 8, struct pic, chip[n].single),                                     \
	    STATE_BOOL((tag) + 9, struct pic, chip[n].wants_icw4),                                 \
	    STATE_BOOL((tag) + 10, struct pic, chip[n].auto_eoi),                                  \
	    STATE_BOOL((tag) + 11, struct pic, chip[n].rotate_auto),                               \
	    STATE_BOOL((tag) + 12, struct pic, chip[n].nested),                                    \
	    STATE_BOOL((tag) + 13, struct pic, chip[n].special_mask),                              \
	    STATE_BOOL((tag) + 14, struct pic, chip[n].poll),                                      \
	    STATE_BOOL((tag) + 15, struct pic, chip[n].read_isr)

static const struct state_field pic_fields[] = {CHIP_FIELDS(1, 0), CHIP_FIELDS(17, 1), STATE_END};

static const struct state_desc pic_state = {
    .name = "pic",
    .fields = pic_fields,
    .size = sizeof(struct pic),
    .check = pic_check,
};

static const struct device_class pic_class = {
    .name = "pic",
    .reset = pic_reset,
    .free = pic_free,
    .post_load = pic_post_load,
    .state = &pic_state,
};

static int pic_map(struct pic *p, unsigned i, const char *name, const struct region_ops *ops,
		   uint16_t port, struct error *err)
{
	int ret;

	p->port[i] = (struct region){
	    .name = name, .dev = &p->dev, .ops = ops, .opaque = (void *)(uintptr_t)i, .size = 2};
	ret = space_map(p->cfg.ports, &p->port[i], port);
	return ret ? error_set(err, ret, "The PIC's port 0x%x is taken.", port) : 0;
}

int pic_new(struct device **dev, const struct pic_config *cfg, struct error *err)
{
	struct pic *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return error_set(err, -ENOMEM, "There is no memory for a PIC.");
	p->cfg = *cfg;
	device_init(&p->dev, &pic_class, RANK_INTC, 0, "pic");
	p->chip[0].lowest = p->chip[1].lowest = 7;
	ret = pic_map(p, 0, "pic-master", &chip_ops, 0x20, err);
	if (!ret)
		ret = pic_map(p, 1, "pic-slave", &chip_ops, 0xa0, err);
	if (!ret)
		ret = pic_map(p, 2, "pic-elcr", &elcr_ops, 0x4d0, err);
	if (ret) {
		pic_free(&p->dev);
		return ret;
	}
	*dev = &p->dev;
	return 0;
}
