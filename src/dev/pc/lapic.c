/* lapic.c: a local APIC: accepting, prioritizing and acknowledging interrupts; the device. */
#include "dev/pc/lapic.h"
#include "dev/pc/lapic_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <assert.h>
#include <errno.h>
#include "base/trace.h"

/*
 * The APIC's lock (RANK_LAPIC) guards its registers. Whatever goes to another APIC, to the PIC or
 * to an IOAPIC (interprocessor interrupts, ExtINT acknowledges, EOI broadcasts) happens after it
 * has been dropped: those locks rank lower, or equal. Towards its CPU there is one level,
 * CPU_EVENT_INTR, worked out again by lapic_update whenever something changed that it depends on.
 */

static inline _Bool bit_test(const uint64_t bits[4], unsigned v)
{
	return bits[v >> 6] >> (v & 63) & 1;
}
static inline void bit_set(uint64_t bits[4], unsigned v)
{
	bits[v >> 6] |= BIT64(v & 63);
}
static inline void bit_clear(uint64_t bits[4], unsigned v)
{
	bits[v >> 6] &= ~BIT64(v & 63);
}

/* SDM3 11.8.3.1 */
static uint8_t lapic_ppr(const struct lapic *l)
{
	int isr = lapic_highest(l->isr);
	unsigned isr_class = isr < 0 ? 0 : (unsigned)isr & 0xf0;

	return (l->tpr & 0xf0) >= isr_class ? (uint8_t)l->tpr : (uint8_t)isr_class;
}

/* SDM3 11.6.2.4 */
uint8_t lapic_arbitration(const struct lapic *l)
{
	int isr = lapic_highest(l->isr), irr = lapic_highest(l->irr);
	unsigned tpr_class = l->tpr >> 4;
	unsigned isr_class = isr < 0 ? 0 : (unsigned)isr >> 4;
	unsigned irr_class = irr < 0 ? 0 : (unsigned)irr >> 4;

	if (tpr_class >= irr_class && tpr_class > isr_class)
		return (uint8_t)l->tpr;
	return (uint8_t)(MAX(tpr_class, MAX(isr_class, irr_class)) << 4);
}

/* Does the PIC (through LINT0 or a message) want the CPU? With the APIC off, LINT0 is the CPU's
 * INTR pin (SDM3 11.4.3). */
static _Bool lapic_wants_extint(const struct lapic *l)
{
	uint32_t lvt = l->lvt[LVT_LINT0];

	if (!lapic_on(l))
		return l->lint[0];
	if (l->extint)
		return 1;
	return l->lint[0] && !(lvt & LVT_MASKED) && LVT_MODE(lvt) == APIC_EXTINT;
}

void lapic_update(struct lapic *l)
{
	int irr = lapic_highest(l->irr);
	_Bool intr;

	l->ppr = lapic_ppr(l);
	intr = lapic_wants_extint(l) || (lapic_on(l) && irr >= 0 && irr >> 4 > l->ppr >> 4);
	atomic_store_explicit(&l->priority, irr > l->ppr ? (uint8_t)irr : l->ppr,
			      memory_order_relaxed);
	if (intr == l->intr)
		return;
	l->intr = intr;
	if (!l->cfg.link)
		return;
	if (intr)
		cpu_link_raise(l->cfg.link, CPU_EVENT_INTR);
	else
		cpu_link_clear(l->cfg.link, CPU_EVENT_INTR);
}

void lapic_route_update(struct lapic *l)
{
	uint32_t route = l->ldr >> 24;
	_Bool lint0_open = !lapic_on(l) || !(l->lvt[LVT_LINT0] & LVT_MASKED);

	if (l->dfr >> 28 == 0xf)
		route |= ROUTE_FLAT;
	if (lapic_on(l))
		route |= ROUTE_ON;
	if (lapic_x2apic(l))
		route |= ROUTE_X2APIC;
	if (l->svr & SVR_ENABLE)
		route |= ROUTE_ACCEPTS;
	atomic_store_explicit(&l->route, route, memory_order_release);
	/* Sequentially consistent against lapic_bus's pin: open first, then look. */
	atomic_store(&l->lint0_open, lint0_open);
	if (lint0_open && l->cfg.bus)
		l->lint[0] = atomic_load(&l->cfg.bus->lint0);
}

void lapic_error(struct lapic *l, uint32_t bits)
{
	uint32_t lvt = l->lvt[LVT_ERROR];

	l->esr_new |= bits;
	/* An error vector that is itself illegal must not report itself for ever. */
	if ((lvt & 0xff) >= 16)
		lapic_lvt_fire(l, LVT_ERROR);
	else if (!(lvt & LVT_MASKED))
		l->esr_new |= ESR_RECV_VECTOR;
}

void lapic_accept(struct lapic *l, uint8_t vector, _Bool level)
{
	if (!(l->svr & SVR_ENABLE) || !lapic_on(l))
		return;
	if (vector < 16) {
		lapic_error(l, ESR_RECV_VECTOR);
		return;
	}
	bit_set(l->irr, vector);
	if (level)
		bit_set(l->tmr, vector);
	else
		bit_clear(l->tmr, vector);
	lapic_update(l);
}

/* An event of a local source: SDM3 11.5.1. */
void lapic_lvt_fire(struct lapic *l, enum lapic_lvt n)
{
	uint32_t lvt = l->lvt[n];
	_Bool fixed_only = n == LVT_TIMER || n == LVT_ERROR;

	if (lvt & LVT_MASKED)
		return;
	switch (fixed_only ? APIC_FIXED : LVT_MODE(lvt)) {
	case APIC_FIXED:
		/* LINT1 has no level-triggered fixed mode (SDM3 11.5.1, trigger mode). */
		if (n == LVT_LINT0 && (lvt & LVT_LEVEL)) {
			if (lvt & LVT_REMOTE_IRR)
				return;
			l->lvt[n] |= LVT_REMOTE_IRR;
			lapic_accept(l, (uint8_t)lvt, 1);
			return;
		}
		lapic_accept(l, (uint8_t)lvt, 0);
		break;
	case APIC_NMI: cpu_link_raise(l->cfg.link, CPU_EVENT_NMI); break;
	case APIC_INIT: cpu_link_raise(l->cfg.link, CPU_EVENT_INIT); break;
	case APIC_EXTINT: lapic_update(l); break;
	default: /* SMI: there is no system management mode; the rest is reserved */ break;
	}
}

void lapic_pin_set(struct lapic *l, unsigned n, _Bool level)
{
	_Bool rising = level && !l->lint[n];

	l->lint[n] = level;
	if (!lapic_on(l)) {
		if (n == 1 && rising)
			cpu_link_raise(l->cfg.link, CPU_EVENT_NMI);
	} else if (rising) {
		lapic_lvt_fire(l, LVT_LINT0 + n);
	}
	lapic_update(l);
}

void lapic_pin_check(struct lapic *l, unsigned n)
{
	uint32_t lvt = l->lvt[LVT_LINT0 + n];

	if (n == 0 && l->lint[0] && lapic_on(l) && (lvt & LVT_LEVEL) && LVT_MODE(lvt) == APIC_FIXED)
		lapic_lvt_fire(l, LVT_LINT0);
	lapic_update(l);
}

/* Returns the vector to broadcast, or -1 (SDM3 11.8.5). */
int lapic_end_of_interrupt(struct lapic *l)
{
	int v = lapic_highest(l->isr);
	_Bool level;

	if (v < 0)
		return -1;
	bit_clear(l->isr, (unsigned)v);
	level = bit_test(l->tmr, (unsigned)v);
	if ((l->lvt[LVT_LINT0] & LVT_REMOTE_IRR) && (l->lvt[LVT_LINT0] & 0xff) == (unsigned)v) {
		l->lvt[LVT_LINT0] &= ~LVT_REMOTE_IRR;
		lapic_pin_check(l, 0);
	}
	lapic_update(l);
	return level && !(l->svr & SVR_EOI_QUIET) ? v : -1;
}

static int lapic_ack(void *apic)
{
	struct lapic *l = apic;
	int vector;

	lock_take(&l->dev.lock);
	if (lapic_wants_extint(l)) {
		struct lapic_bus *bus = l->cfg.bus;

		l->extint = 0;
		lapic_update(l);
		lock_drop(&l->dev.lock);
		vector = bus->cfg.pic_ack ? bus->cfg.pic_ack(bus->cfg.pic_opaque) : -1;
		if (vector >= 0)
			return vector;
		/* A message without a request behind it: what else is there? */
		lock_take(&l->dev.lock);
	}
	vector = lapic_on(l) ? lapic_highest(l->irr) : -1;
	if (vector >= 0 && vector >> 4 > l->ppr >> 4) {
		bit_clear(l->irr, (unsigned)vector);
		bit_set(l->isr, (unsigned)vector);
		lapic_update(l);
	} else {
		vector = -1;
	}
	lock_drop(&l->dev.lock);
	return vector;
}

static uint8_t lapic_get_cr8(void *apic)
{
	struct lapic *l = apic;
	uint8_t value;

	lock_take(&l->dev.lock);
	value = (uint8_t)(l->tpr >> 4);
	lock_drop(&l->dev.lock);
	return value;
}

static void lapic_set_cr8(void *apic, uint8_t value)
{
	struct lapic *l = apic;

	lock_take(&l->dev.lock);
	l->tpr = (value & 15u) << 4;
	lapic_update(l);
	lock_drop(&l->dev.lock);
}

static _Bool lapic_mmio_hit(const struct lapic *l, uint64_t addr)
{
	return lapic_on(l) && !lapic_x2apic(l) && (addr & ~UINT64_C(0xfff)) == lapic_page_base(l);
}

/* Registers are 32 bits wide at multiples of 16; the 12 bytes after each read as 0, other than
 * whole-register writes do nothing (SDM3 11.4.1 leaves both undefined). */
static _Bool lapic_mmio_read(void *apic, uint64_t addr, unsigned size, uint64_t *value)
{
	struct lapic *l = apic;
	unsigned offset = addr & 0xfff, part = offset & 15;
	uint32_t reg = 0;

	if (!lapic_mmio_hit(l, addr))
		return 0;
	*value = 0;
	if (part >= 4)
		return 1;
	lock_take(&l->dev.lock);
	if (!lapic_reg_read(l, offset & ~15u, &reg))
		lapic_error(l, ESR_REGISTER);
	lock_drop(&l->dev.lock);
	*value = (reg >> (part * 8)) & size_mask(size);
	return 1;
}

static _Bool lapic_mmio_write(void *apic, uint64_t addr, unsigned size, uint64_t value)
{
	struct lapic *l = apic;
	struct lapic_after after = {.eoi = -1};
	unsigned offset = addr & 0xfff;

	if (!lapic_mmio_hit(l, addr))
		return 0;
	if ((offset & 15) || size < 4)
		return 1;
	lock_take(&l->dev.lock);
	if (!lapic_reg_write(l, offset, (uint32_t)value, &after))
		lapic_error(l, ESR_REGISTER);
	lock_drop(&l->dev.lock);
	lapic_after_run(l, &after);
	return 1;
}

static uint64_t lapic_mmio_base(void *apic)
{
	struct lapic *l = apic;

	return lapic_on(l) && !lapic_x2apic(l) ? lapic_page_base(l) : UINT64_MAX;
}

static _Bool lapic_enabled(void *apic)
{
	return lapic_on(apic);
}

/* INIT keeps IA32_APIC_BASE and with it the mode (SDM3 11.4.7.3, 11.12.5.1). */
static void lapic_init_signal(void *apic)
{
	struct lapic *l = apic;

	lock_take(&l->dev.lock);
	lapic_registers_reset(l);
	lock_drop(&l->dev.lock);
}

static void lapic_tsc_moved(void *apic)
{
	struct lapic *l = apic;

	lock_take(&l->dev.lock);
	lapic_timer_retime(l);
	lock_drop(&l->dev.lock);
}

const struct cpu_apic_ops lapic_ops = {
    .ack = lapic_ack,
    .get_cr8 = lapic_get_cr8,
    .set_cr8 = lapic_set_cr8,
    .msr_read = lapic_msr_read,
    .msr_write = lapic_msr_write,
    .mmio_read = lapic_mmio_read,
    .mmio_write = lapic_mmio_write,
    .mmio_base = lapic_mmio_base,
    .enabled = lapic_enabled,
    .init = lapic_init_signal,
    .tsc_moved = lapic_tsc_moved,
};

struct cpu_apic lapic_cpu_apic(struct device *dev)
{
	struct lapic *l = (struct lapic *)dev;

	assert(!l->cfg.remote.get);
	return (struct cpu_apic){.ops = &lapic_ops, .apic = l};
}

/* SDM3 11.4.7.1: everything but base and id. */
void lapic_registers_reset(struct lapic *l)
{
	lapic_timer_stop(l);
	memset(l->irr, 0, sizeof(l->irr));
	memset(l->isr, 0, sizeof(l->isr));
	memset(l->tmr, 0, sizeof(l->tmr));
	l->tpr = l->ldr = l->esr = l->esr_new = l->icr = l->icr2 = 0;
	l->divide = l->init_count = l->count = 0;
	l->deadline = 0;
	l->dfr = UINT32_MAX;
	l->svr = 0xff;
	l->extint = 0;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		l->lvt[i] = LVT_MASKED;
	lapic_route_update(l);
	lapic_update(l);
}

static void lapic_reset(struct device *dev, enum reset_kind kind)
{
	struct lapic *l = (struct lapic *)dev;

	l->base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (l->cfg.bsp ? APIC_BASE_BSP : 0);
	lapic_registers_reset(l);
	if (l->cfg.remote.get)
		lapic_push(l);
}

void lapic_virtual_wire(struct device *dev)
{
	struct lapic *l = (struct lapic *)dev;

	lock_take(&dev->lock);
	l->svr = 0xff | SVR_ENABLE;
	if (l->cfg.bsp)
		l->lvt[LVT_LINT0] = APIC_EXTINT << 8;
	l->lvt[LVT_LINT1] = APIC_NMI << 8;
	lapic_route_update(l);
	lapic_update(l);
	if (l->cfg.remote.get)
		lapic_push(l);
	lock_drop(&dev->lock);
}

void lapic_describe(struct device *dev, char *text, size_t len)
{
	struct lapic *l = (struct lapic *)dev;

	lock_take(&dev->lock);
	snprintf(text, len, "id %u %s%s tpr %02x ppr %02x irr %d isr %d", l->cfg.apic_id,
		 !lapic_on(l)	   ? "off"
		 : lapic_x2apic(l) ? "x2apic"
				   : "xapic",
		 l->svr & SVR_ENABLE ? "" : " (software-disabled)", l->tpr, l->ppr,
		 lapic_highest(l->irr), lapic_highest(l->isr));
	lock_drop(&dev->lock);
}

static void lapic_free(struct device *dev)
{
	struct lapic *l = (struct lapic *)dev;

	timer_fini(&l->timer);
	lapic_bus_remove(l->cfg.bus, l);
	device_fini(dev);
	free(l);
}

static const struct device_class lapic_class;

int lapic_new(struct device **dev, const struct lapic_config *cfg, struct error *err)
{
	struct lapic *l;
	char id[24];
	int ret;

	assert(cfg->clock && (cfg->remote.get || (cfg->bus && cfg->link)));
	l = calloc(1, sizeof(*l));
	if (!l)
		return error_set(err, -ENOMEM, "There is no memory for a local APIC.");
	snprintf(id, sizeof(id), "lapic%u", cfg->cpu);
	l->cfg = *cfg;
	device_init(&l->dev, &lapic_class, RANK_LAPIC, cfg->cpu, id);
	timer_init(&l->timer, cfg->clock, lapic_timer_fn, l);
	ret = lapic_bus_add(cfg->bus, l, err);
	if (ret) {
		timer_fini(&l->timer);
		device_fini(&l->dev);
		free(l);
		return ret;
	}
	/* Registers as after power-on, without telling a remote that may not be ready yet. */
	l->base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (cfg->bsp ? APIC_BASE_BSP : 0);
	lapic_registers_reset(l);
	*dev = &l->dev;
	return 0;
}

static const struct device_class lapic_class = {
    .name = "lapic",
    .reset = lapic_reset,
    .free = lapic_free,
    .pre_save = lapic_pre_save,
    .post_load = lapic_post_load,
    .state = &lapic_state,
};
