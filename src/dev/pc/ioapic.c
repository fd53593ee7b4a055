/* ioapic.c: I/O APIC: inputs, redirection table, remote IRR (82093AA 290566; ICH 13.5 for EOI). */
#include "dev/pc/ioapic.h"

#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include "base/log.h"
#include "base/trace.h"

/* In the memory window */
#define IOAPIC_SELECT 0x00
#define IOAPIC_WINDOW 0x10
#define IOAPIC_EOI    0x40
#define IOAPIC_SIZE   0x1000

/* Through the window (82093AA 3.2) */
#define IOAPIC_ID  0x00
#define IOAPIC_VER 0x01
#define IOAPIC_ARB 0x02
#define IOAPIC_RTE 0x10

#define RTE_VECTOR(e)  ((unsigned)(e)&0xff)
#define RTE_MODE(e)    ((unsigned)((e) >> 8) & 7)
#define RTE_LOGICAL    BIT64(11)
#define RTE_REMOTE_IRR BIT64(14)
#define RTE_LEVEL      BIT64(15)
#define RTE_MASKED     BIT64(16)
#define RTE_DEST(e)    ((e) >> 56)
/* vector, mode, destination mode, polarity, trigger, mask; destination */
#define RTE_WRITABLE UINT64_C(0xff0000000001afff)

enum rte_mode { RTE_FIXED = 0, RTE_LOWEST = 1 };

struct ioapic {
	struct device dev;
	struct ioapic_config cfg;
	struct region region;
	uint64_t rte[IOAPIC_PINS];
	uint32_t lines; /* asserted inputs */
	uint8_t select, id;
	uint64_t eoi_bitmap[4]; /* derived */
};

/* Level-triggered in effect: the other delivery modes must be programmed as edge (82093AA 3.2.4)
 * and are taken as such. */
static _Bool rte_is_level(uint64_t e)
{
	return (e & RTE_LEVEL) && RTE_MODE(e) <= RTE_LOWEST;
}

static void ioapic_send(struct ioapic *io, unsigned pin)
{
	uint64_t e = io->rte[pin];
	uint64_t addr = UINT64_C(0xfee00000) | RTE_DEST(e) << 12;
	uint32_t data = RTE_VECTOR(e) | RTE_MODE(e) << 8 | BIT32(14);

	if (e & RTE_LOGICAL)
		addr |= 4;
	if (rte_is_level(e)) {
		data |= BIT32(15);
		io->rte[pin] |= RTE_REMOTE_IRR;
	}
	trace(TRACE_IRQ, "ioapic: pin %u sends %08llx %08x", pin, (unsigned long long)addr, data);
	msi_send(&io->cfg.sink, addr, data);
}

/* A level-triggered input that is asserted and not being serviced. */
static void ioapic_service(struct ioapic *io, unsigned pin)
{
	uint64_t e = io->rte[pin];

	if (rte_is_level(e) && (io->lines & BIT32(pin)) && !(e & (RTE_MASKED | RTE_REMOTE_IRR)))
		ioapic_send(io, pin);
}

static void ioapic_set(void *opaque, unsigned pin, _Bool level)
{
	struct ioapic *io = opaque;
	_Bool rising;

	lock_take(&io->dev.lock);
	rising = level && !(io->lines & BIT32(pin));
	if (level)
		io->lines |= BIT32(pin);
	else
		io->lines &= ~BIT32(pin);
	if (rising && rte_is_level(io->rte[pin]))
		ioapic_service(io, pin);
	else if (rising && !(io->rte[pin] & RTE_MASKED)) /* masked edges are lost (3.2.4) */
		ioapic_send(io, pin);
	lock_drop(&io->dev.lock);
}

struct irq ioapic_line(struct device *dev, unsigned n)
{
	if (n >= IOAPIC_PINS)
		return (struct irq){0};
	return (struct irq){.set = ioapic_set, .opaque = dev, .line = n};
}

/* Under the lock. */
static void eoi_vector(struct ioapic *io, unsigned vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t e = io->rte[pin];

		if (!(e & RTE_REMOTE_IRR) || RTE_VECTOR(e) != vector)
			continue;
		io->rte[pin] &= ~RTE_REMOTE_IRR;
		ioapic_service(io, pin);
	}
}

void ioapic_eoi(struct device *dev, unsigned vector)
{
	lock_take(&dev->lock);
	eoi_vector((struct ioapic *)dev, vector);
	lock_drop(&dev->lock);
}

void ioapic_eoi_fn(void *dev, unsigned vector)
{
	ioapic_eoi(dev, vector);
}

void ioapic_eoi_bitmap(struct device *dev, uint64_t bitmap[4])
{
	lock_take(&dev->lock);
	memcpy(bitmap, ((struct ioapic *)dev)->eoi_bitmap, 4 * sizeof(bitmap[0]));
	lock_drop(&dev->lock);
}

/* An entry that is masked while its interrupt is being serviced still waits for the EOI. */
static void eoi_bitmap_update(struct ioapic *io, _Bool always)
{
	uint64_t bitmap[4] = {0};

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t e = io->rte[pin];

		if (rte_is_level(e) && (!(e & RTE_MASKED) || (e & RTE_REMOTE_IRR)))
			bitmap[RTE_VECTOR(e) >> 6] |= BIT64(RTE_VECTOR(e) & 63);
	}
	if (!always && !memcmp(bitmap, io->eoi_bitmap, sizeof(bitmap)))
		return;
	memcpy(io->eoi_bitmap, bitmap, sizeof(bitmap));
	if (io->cfg.eoi_vectors)
		io->cfg.eoi_vectors(io->cfg.opaque, bitmap);
}

/* ---- registers ---- */

static uint32_t window_read(const struct ioapic *io)
{
	unsigned index = io->select, rte = index - IOAPIC_RTE;

	switch (index) {
	case IOAPIC_ID:
	case IOAPIC_ARB: return (uint32_t)io->id << 24;
	case IOAPIC_VER: return io->cfg.version | (IOAPIC_PINS - 1) << 16;
	case IOAPIC_RTE ... IOAPIC_RTE + 2 * IOAPIC_PINS - 1:
		return (uint32_t)(io->rte[rte / 2] >> (rte & 1) * 32);
	default: return 0;
	}
}

/* Remote IRR and delivery status are only read; a change to edge forgets remote IRR, which is how
 * systems end an interrupt on IOAPICs that have no EOI register. */
static void rte_write(struct ioapic *io, unsigned pin, unsigned half, uint32_t value)
{
	uint64_t mask = UINT64_C(0xffffffff) << half * 32;
	uint64_t old = io->rte[pin];
	uint64_t e = (old & ~mask) | ((uint64_t)value << half * 32 & RTE_WRITABLE);

	if (!half) {
		e &= ~RTE_REMOTE_IRR;
		if (rte_is_level(e))
			e |= old & RTE_REMOTE_IRR;
	}
	io->rte[pin] = e;
	eoi_bitmap_update(io, 0);
	ioapic_service(io, pin);
}

static void window_write(struct ioapic *io, uint32_t value)
{
	unsigned index = io->select, rte = index - IOAPIC_RTE;

	if (index == IOAPIC_ID)
		io->id = (value >> 24) & 15;
	else if (index >= IOAPIC_RTE && rte < 2 * IOAPIC_PINS)
		rte_write(io, rte / 2, rte & 1, value);
	else
		log_guest("IOAPIC register 0x%x cannot be written", index);
}

static uint64_t ioapic_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct ioapic *io = (struct ioapic *)dev;

	switch (offset) {
	case IOAPIC_SELECT: return io->select;
	case IOAPIC_WINDOW: return window_read(io);
	default: return 0;
	}
}

static void ioapic_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			 uint64_t value)
{
	struct ioapic *io = (struct ioapic *)dev;

	switch (offset) {
	case IOAPIC_SELECT: io->select = (uint8_t)value; break;
	case IOAPIC_WINDOW: window_write(io, (uint32_t)value); break;
	case IOAPIC_EOI:
		if (io->cfg.version >= 0x20)
			eoi_vector(io, (uint8_t)value);
		break;
	default: break;
	}
}

static const struct region_ops ioapic_ops = {
    .read = ioapic_read,
    .write = ioapic_write,
    .min_size = 4,
    .max_size = 4,
    .narrow = NARROW_MERGE,
};

/* ---- the device ---- */

static void ioapic_reset(struct device *dev, enum reset_kind kind)
{
	struct ioapic *io = (struct ioapic *)dev;

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->rte[pin] = RTE_MASKED;
	io->select = 0;
	io->id = io->cfg.id & 15;
	eoi_bitmap_update(io, 1);
}

static void ioapic_free(struct device *dev)
{
	struct ioapic *io = (struct ioapic *)dev;

	if (io->region.mapped)
		space_unmap(io->cfg.memory, &io->region);
	device_fini(dev);
	free(io);
}

static void ioapic_post_load(struct device *dev)
{
	struct ioapic *io = (struct ioapic *)dev;

	eoi_bitmap_update(io, 1);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		ioapic_service(io, pin);
}

static int ioapic_check(const void *shadow, struct error *err)
{
	const struct ioapic *io = shadow;

	if (io->lines >> IOAPIC_PINS || io->id > 15)
		return error_set(err, -EINVAL, "The saved inputs of the IOAPIC do not exist.");
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t e = io->rte[pin];

		if ((e & ~(RTE_WRITABLE | RTE_REMOTE_IRR)) ||
		    ((e & RTE_REMOTE_IRR) && !rte_is_level(e)))
			return error_set(err, -EINVAL,
					 "The saved entry %u of the IOAPIC is not a possible one.",
					 pin);
	}
	return 0;
}

static const struct state_field ioapic_fields[] = {
    STATE_ARRAY(1, struct ioapic, rte, IOAPIC_PINS),
    STATE_SCALAR(2, struct ioapic, lines),
    STATE_SCALAR(3, struct ioapic, select),
    STATE_SCALAR(4, struct ioapic, id),
    STATE_END,
};

static const struct state_desc ioapic_state = {
    .name = "ioapic",
    .fields = ioapic_fields,
    .size = sizeof(struct ioapic),
    .check = ioapic_check,
};

static const struct device_class ioapic_class = {
    .name = "ioapic",
    .reset = ioapic_reset,
    .free = ioapic_free,
    .post_load = ioapic_post_load,
    .state = &ioapic_state,
};

int ioapic_new(struct device **dev, const struct ioapic_config *cfg, struct error *err)
{
	struct ioapic *io = calloc(1, sizeof(*io));
	int ret;

	if (!io)
		return error_set(err, -ENOMEM, "There is no memory for an IOAPIC.");
	io->cfg = *cfg;
	if (!io->cfg.version)
		io->cfg.version = 0x20;
	device_init(&io->dev, &ioapic_class, RANK_INTC, 0, "ioapic");
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->rte[pin] = RTE_MASKED;
	io->id = cfg->id & 15;
	io->region = (struct region){
	    .name = "ioapic", .dev = &io->dev, .ops = &ioapic_ops, .size = IOAPIC_SIZE};
	ret = space_map(cfg->memory, &io->region, cfg->base);
	if (ret) {
		ioapic_free(&io->dev);
		return error_set(err, ret, "The IOAPIC's addresses at 0x%llx are taken.",
				 (unsigned long long)cfg->base);
	}
	*dev = &io->dev;
	return 0;
}
