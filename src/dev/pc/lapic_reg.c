/* lapic_reg.c: the local APIC's registers, as both the page and the MSRs reach them. */
#include "dev/pc/lapic_impl.h"

#include "base/trace.h"

static uint32_t vector_word(const uint64_t bits[4], unsigned reg)
{
	unsigned word = (reg >> 4) & 7;

	return (uint32_t)(bits[word >> 1] >> ((word & 1) * 32));
}

_Bool lapic_reg_read(struct lapic *l, unsigned reg, uint32_t *value)
{
	switch (reg) {
	case LAPIC_ID: *value = lapic_x2apic(l) ? l->cfg.apic_id : l->cfg.apic_id << 24; return 1;
	case LAPIC_VERSION: *value = VERSION_VALUE; return 1;
	case LAPIC_TPR: *value = l->tpr; return 1;
	case LAPIC_APR: *value = lapic_arbitration(l); return 1;
	case LAPIC_PPR: *value = l->ppr; return 1;
	case LAPIC_EOI: /* write-only */
	case LAPIC_RRD: /* remote read is gone since P4: never anything there */
		*value = 0;
		return 1;
	case LAPIC_LDR:
		*value = lapic_x2apic(l) ? lapic_x2apic_ldr(l->cfg.apic_id) : l->ldr;
		return 1;
	case LAPIC_DFR: *value = l->dfr; return 1;
	case LAPIC_SVR: *value = l->svr; return 1;
	case LAPIC_ISR ... LAPIC_ISR + 0x70: *value = vector_word(l->isr, reg); return 1;
	case LAPIC_TMR ... LAPIC_TMR + 0x70: *value = vector_word(l->tmr, reg); return 1;
	case LAPIC_IRR ... LAPIC_IRR + 0x70: *value = vector_word(l->irr, reg); return 1;
	case LAPIC_ESR: *value = l->esr; return 1;
	case LAPIC_ICR: *value = l->icr; return 1;
	case LAPIC_ICR2: *value = l->icr2; return 1;
	case LAPIC_LVT ... LAPIC_LVT + 0x50: *value = l->lvt[(reg - LAPIC_LVT) >> 4]; return 1;
	case LAPIC_TIMER_INIT: *value = l->init_count; return 1;
	case LAPIC_TIMER_COUNT: *value = lapic_timer_count(l); return 1;
	case LAPIC_TIMER_DIVIDE: *value = l->divide; return 1;
	default: *value = 0; return 0;
	}
}

uint32_t lapic_lvt_writable(const struct lapic *l, enum lapic_lvt n)
{
	uint32_t mask = 0xff | LVT_MASKED;

	switch (n) {
	case LVT_TIMER:
		return mask | LVT_PERIODIC |
		       (l->cfg.tsc.read || l->cfg.remote.get ? LVT_DEADLINE : 0);
	case LVT_ERROR: return mask;
	case LVT_LINT0:
	case LVT_LINT1: return mask | 0x700 | LVT_POLARITY | LVT_LEVEL;
	default: return mask | 0x700;
	}
}

static void lvt_write(struct lapic *l, enum lapic_lvt n, uint32_t value)
{
	uint32_t old = l->lvt[n];

	value &= lapic_lvt_writable(l, n);
	if (!(l->svr & SVR_ENABLE))
		value |= LVT_MASKED;
	if ((value & LVT_LEVEL) && LVT_MODE(value) == APIC_FIXED)
		value |= old & LVT_REMOTE_IRR;
	l->lvt[n] = value;
	switch (n) {
	case LVT_TIMER: lapic_timer_mode(l, old); break;
	case LVT_LINT0:
		lapic_route_update(l);
		lapic_pin_check(l, 0);
		break;
	default: break;
	}
}

static void svr_write(struct lapic *l, uint32_t value)
{
	l->svr = value & SVR_WRITABLE;
	if (!(l->svr & SVR_ENABLE)) { /* SDM3 11.4.7.2 */
		for (unsigned i = 0; i < LVT_COUNT; i++)
			l->lvt[i] |= LVT_MASKED;
	}
	lapic_route_update(l);
	lapic_update(l);
}

/*
 * SDM3 11.6.1. Which combinations mean something follows table 11-3: a shorthand with "self" goes
 * with fixed interrupts only; all of them are edge-triggered whatever the trigger bit says, which
 * matters for INIT alone (level de-assert does nothing since P4).
 */
static void icr_write(struct lapic *l, uint32_t icr, struct lapic_after *after)
{
	unsigned mode = (icr >> 8) & 7;
	unsigned shorthand = ICR_SHORT(icr);
	struct lapic_msg *m = &after->msg;

	l->icr = icr & ICR_WRITABLE; /* delivery is over before the guest can look: never busy */
	if ((mode == APIC_FIXED || mode == APIC_LOWEST) && (icr & 0xff) < 16) {
		lapic_error(l, ESR_SEND_VECTOR);
		return;
	}
	if (mode == 3 || mode == APIC_EXTINT)
		return;
	if ((shorthand == 1 || shorthand == 2) && mode != APIC_FIXED)
		return;
	if (shorthand == 1) {
		lapic_accept(l, (uint8_t)icr, 0);
		return;
	}
	m->wide = lapic_x2apic(l);
	m->dest = m->wide ? l->icr2 : l->icr2 >> 24;
	m->vector = (uint8_t)icr;
	m->mode = (uint8_t)mode;
	m->logical = !!(icr & ICR_LOGICAL);
	m->level = mode == APIC_INIT && (icr & ICR_LEVEL);
	m->assert = !!(icr & ICR_ASSERT);
	m->lowest = mode == APIC_LOWEST;
	after->shorthand = (uint8_t)shorthand;
	after->send = 1;
}

_Bool lapic_reg_write(struct lapic *l, unsigned reg, uint32_t value, struct lapic_after *after)
{
	switch (reg) {
	case LAPIC_TPR:
		l->tpr = value & 0xff;
		lapic_update(l);
		return 1;
	case LAPIC_EOI: after->eoi = lapic_end_of_interrupt(l); return 1;
	case LAPIC_LDR:
		l->ldr = value & LDR_WRITABLE;
		lapic_route_update(l);
		return 1;
	case LAPIC_DFR:
		l->dfr = value | DFR_FIXED;
		lapic_route_update(l);
		return 1;
	case LAPIC_SVR: svr_write(l, value); return 1;
	case LAPIC_ESR: /* a write brings what was collected into view (SDM3 11.5.3) */
		l->esr = l->esr_new;
		l->esr_new = 0;
		return 1;
	case LAPIC_ICR: icr_write(l, value, after); return 1;
	case LAPIC_ICR2: l->icr2 = lapic_x2apic(l) ? value : value & 0xff000000u; return 1;
	case LAPIC_LVT ... LAPIC_LVT + 0x50:
		lvt_write(l, (enum lapic_lvt)((reg - LAPIC_LVT) >> 4), value);
		return 1;
	case LAPIC_TIMER_INIT: lapic_timer_start(l, value); return 1;
	case LAPIC_TIMER_DIVIDE: lapic_timer_divide(l, value & DCR_WRITABLE); return 1;
	case LAPIC_SELF_IPI: /* x2APIC only (SDM3 11.12.11) */
		if (!lapic_x2apic(l))
			return 0;
		if ((value & 0xff) < 16)
			lapic_error(l, ESR_SEND_VECTOR);
		else
			lapic_accept(l, (uint8_t)value, 0);
		return 1;
	case LAPIC_ID:
	case LAPIC_VERSION:
	case LAPIC_APR:
	case LAPIC_PPR:
	case LAPIC_RRD:
	case LAPIC_ISR ... LAPIC_ISR + 0x70:
	case LAPIC_TMR ... LAPIC_TMR + 0x70:
	case LAPIC_IRR ... LAPIC_IRR + 0x70:
	case LAPIC_TIMER_COUNT: return 1; /* read-only: nothing happens */
	default: return 0;
	}
}

void lapic_after_run(struct lapic *l, const struct lapic_after *after)
{
	struct lapic_bus *bus = l->cfg.bus;

	if (after->eoi >= 0 && bus->cfg.eoi)
		bus->cfg.eoi(bus->cfg.eoi_opaque, (unsigned)after->eoi);
	if (after->send)
		lapic_bus_ipi(l, &after->msg, after->shorthand);
}
