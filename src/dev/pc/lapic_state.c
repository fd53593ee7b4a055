/* lapic_state.c: the local APIC's saved state, and the register page that a remote APIC speaks. */
#include "dev/pc/lapic_impl.h"

#include <errno.h>
#include <string.h>
#include "base/le.h"
#include "base/log.h"

static const struct state_field lapic_fields[] = {
    STATE_SCALAR(1, struct lapic, base),
    STATE_ARRAY(2, struct lapic, irr, 4),
    STATE_ARRAY(3, struct lapic, isr, 4),
    STATE_ARRAY(4, struct lapic, tmr, 4),
    STATE_SCALAR(5, struct lapic, tpr),
    STATE_SCALAR(6, struct lapic, ldr),
    STATE_SCALAR(7, struct lapic, dfr),
    STATE_SCALAR(8, struct lapic, svr),
    STATE_SCALAR(9, struct lapic, esr),
    STATE_SCALAR(10, struct lapic, esr_new),
    STATE_SCALAR(11, struct lapic, icr),
    STATE_SCALAR(12, struct lapic, icr2),
    STATE_ARRAY(13, struct lapic, lvt, LVT_COUNT),
    STATE_SCALAR(14, struct lapic, divide),
    STATE_SCALAR(15, struct lapic, init_count),
    STATE_SCALAR(16, struct lapic, count),
    STATE_SCALAR(17, struct lapic, deadline),
    STATE_BOOL(18, struct lapic, extint),
    STATE_END,
};

static int lapic_check_base(const struct lapic *l, struct error *err)
{
	uint64_t known = APIC_BASE_BSP | APIC_BASE_EN | (l->cfg.x2apic ? APIC_BASE_EXTD : 0) |
			 ((BIT64(l->cfg.phys_bits) - 1) & ~UINT64_C(0xfff));

	if ((l->base & ~known) || (l->base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EXTD)
		return error_set(err, -EINVAL,
				 "The saved base of local APIC %u (%llx) is not a valid one.",
				 l->cfg.cpu, (unsigned long long)l->base);
	return 0;
}

static int lapic_check(const void *shadow, struct error *err)
{
	const struct lapic *l = shadow;
	_Bool bad;

	if (lapic_check_base(l, err))
		return -EINVAL;
	bad = l->tpr > 0xff || (l->ldr & ~LDR_WRITABLE) || (~l->dfr & DFR_FIXED) ||
	      (l->svr & ~SVR_WRITABLE) || (l->icr & ~ICR_WRITABLE) || (l->divide & ~DCR_WRITABLE);
	bad |= ((l->esr | l->esr_new) & ~(ESR_SEND_VECTOR | ESR_RECV_VECTOR | ESR_REGISTER)) != 0;
	bad |= ((l->irr[0] | l->isr[0] | l->tmr[0]) & 0xffff) != 0;
	bad |= !lapic_x2apic(l) && (l->icr2 & 0x00ffffff);
	bad |= l->count > l->init_count;
	for (unsigned i = 0; i < LVT_COUNT; i++) {
		bad |= (l->lvt[i] &
			~(lapic_lvt_writable(l, i) | (i == LVT_LINT0 ? LVT_REMOTE_IRR : 0))) != 0;
		bad |= !(l->svr & SVR_ENABLE) && !(l->lvt[i] & LVT_MASKED);
	}
	if (bad)
		return error_set(err, -EINVAL,
				 "The saved registers of local APIC %u hold reserved bits.",
				 l->cfg.cpu);
	return 0;
}

const struct state_desc lapic_state = {
    .name = "lapic",
    .fields = lapic_fields,
    .size = sizeof(struct lapic),
    .check = lapic_check,
};

static void put(uint8_t *page, unsigned reg, uint32_t value)
{
	store_le32(page + reg, value);
}

static uint32_t get(const uint8_t *page, unsigned reg)
{
	return load_le32(page + reg);
}

void lapic_page_encode(const struct lapic *l, uint8_t page[LAPIC_PAGE_BYTES])
{
	memset(page, 0, LAPIC_PAGE_BYTES);
	put(page, LAPIC_ID, l->cfg.apic_id << 24);
	put(page, LAPIC_VERSION, VERSION_VALUE);
	put(page, LAPIC_TPR, l->tpr);
	put(page, LAPIC_LDR, lapic_x2apic(l) ? lapic_x2apic_ldr(l->cfg.apic_id) : l->ldr);
	put(page, LAPIC_DFR, l->dfr);
	put(page, LAPIC_SVR, l->svr);
	for (unsigned i = 0; i < 8; i++) {
		unsigned shift = (i & 1) * 32;

		put(page, LAPIC_ISR + i * 16, (uint32_t)(l->isr[i / 2] >> shift));
		put(page, LAPIC_TMR + i * 16, (uint32_t)(l->tmr[i / 2] >> shift));
		put(page, LAPIC_IRR + i * 16, (uint32_t)(l->irr[i / 2] >> shift));
	}
	put(page, LAPIC_ESR, l->esr);
	put(page, LAPIC_ICR, l->icr);
	put(page, LAPIC_ICR2, l->icr2);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		put(page, LAPIC_LVT + i * 16, l->lvt[i]);
	put(page, LAPIC_TIMER_INIT, l->init_count);
	put(page, LAPIC_TIMER_COUNT, l->count);
	put(page, LAPIC_TIMER_DIVIDE, l->divide);
}

/* Takes what another implementation of the same registers says, cut to what this one has. The base
 * is set already. */
void lapic_page_decode(struct lapic *l, const uint8_t page[LAPIC_PAGE_BYTES])
{
	l->tpr = get(page, LAPIC_TPR) & 0xff;
	l->ldr = lapic_x2apic(l) ? 0 : get(page, LAPIC_LDR) & LDR_WRITABLE;
	l->dfr = lapic_x2apic(l) ? UINT32_MAX : get(page, LAPIC_DFR) | DFR_FIXED;
	l->svr = get(page, LAPIC_SVR) & SVR_WRITABLE;
	for (unsigned i = 0; i < 4; i++) {
		unsigned lo = i * 32, hi = lo + 16;

		l->isr[i] = get(page, LAPIC_ISR + lo) | (uint64_t)get(page, LAPIC_ISR + hi) << 32;
		l->tmr[i] = get(page, LAPIC_TMR + lo) | (uint64_t)get(page, LAPIC_TMR + hi) << 32;
		l->irr[i] = get(page, LAPIC_IRR + lo) | (uint64_t)get(page, LAPIC_IRR + hi) << 32;
	}
	l->isr[0] &= ~UINT64_C(0xffff);
	l->tmr[0] &= ~UINT64_C(0xffff);
	l->irr[0] &= ~UINT64_C(0xffff);
	l->esr = get(page, LAPIC_ESR) & (ESR_SEND_VECTOR | ESR_RECV_VECTOR | ESR_REGISTER);
	l->esr_new = 0;
	l->icr = get(page, LAPIC_ICR) & ICR_WRITABLE;
	l->icr2 = get(page, LAPIC_ICR2) & (lapic_x2apic(l) ? UINT32_MAX : 0xff000000u);
	for (unsigned i = 0; i < LVT_COUNT; i++) {
		l->lvt[i] = get(page, LAPIC_LVT + i * 16) &
			    (lapic_lvt_writable(l, i) | (i == LVT_LINT0 ? LVT_REMOTE_IRR : 0));
		if (!(l->svr & SVR_ENABLE))
			l->lvt[i] |= LVT_MASKED;
	}
	l->init_count = get(page, LAPIC_TIMER_INIT);
	l->count = MIN(get(page, LAPIC_TIMER_COUNT), l->init_count);
	l->divide = get(page, LAPIC_TIMER_DIVIDE) & DCR_WRITABLE;
	l->extint = 0;
}

static void lapic_pull(struct lapic *l)
{
	uint8_t page[LAPIC_PAGE_BYTES];
	uint64_t base, deadline;
	int ret = l->cfg.remote.get(l->cfg.remote.opaque, l->cfg.cpu, page, &base, &deadline);

	if (ret) {
		log_error("The state of local APIC %u cannot be read: %s.", l->cfg.cpu,
			  strerror(-ret));
		return;
	}
	l->base = base;
	l->deadline = deadline;
	lapic_page_decode(l, page);
}

void lapic_push(struct lapic *l)
{
	uint8_t page[LAPIC_PAGE_BYTES];
	int ret;

	lapic_page_encode(l, page);
	ret = l->cfg.remote.set(l->cfg.remote.opaque, l->cfg.cpu, page, l->base, l->deadline);
	if (ret)
		log_error("The state of local APIC %u cannot be set: %s.", l->cfg.cpu,
			  strerror(-ret));
}

void lapic_pre_save(struct device *dev)
{
	struct lapic *l = (struct lapic *)dev;

	if (l->cfg.remote.get)
		lapic_pull(l);
	else
		lapic_timer_freeze(l);
}

void lapic_post_load(struct device *dev)
{
	struct lapic *l = (struct lapic *)dev;

	if (l->cfg.remote.get) {
		lapic_push(l);
		return;
	}
	lapic_route_update(l);
	lapic_timer_thaw(l);
	/* The link was rebuilt with its CPU: tell it the level, whatever it was before. */
	l->intr = 0;
	cpu_link_clear(l->cfg.link, CPU_EVENT_INTR);
	lapic_update(l);
}
