/* lapic_msr.c: IA32_APIC_BASE with its modes, the TSC deadline, and the x2APIC's registers. */
#include "dev/pc/lapic_impl.h"
#include "x86/regs.h"

/* Moves between modes (SDM3 figure 11-9): from disabled only to xAPIC, from x2APIC only to
 * disabled; EXTD without EN is nothing. */
static _Bool base_allowed(const struct lapic *l, uint64_t value)
{
	uint64_t known = APIC_BASE_BSP | APIC_BASE_EN | (l->cfg.x2apic ? APIC_BASE_EXTD : 0);
	uint64_t address = (BIT64(l->cfg.phys_bits) - 1) & ~UINT64_C(0xfff);
	_Bool en = !!(value & APIC_BASE_EN), extd = !!(value & APIC_BASE_EXTD);

	if (value & ~(known | address))
		return 0;
	if (extd && !en)
		return 0;
	if (!lapic_on(l) && extd)
		return 0;
	return !(lapic_x2apic(l) && en && !extd);
}

static int base_write(struct lapic *l, uint64_t value)
{
	_Bool was_on = lapic_on(l), was_x2apic = lapic_x2apic(l);

	if (!base_allowed(l, value))
		return -1;
	l->base = value;
	if (was_on && !lapic_on(l)) {
		lapic_registers_reset(l); /* SDM3 11.4.3: state may be lost, and here it is */
	} else {
		/* In x2APIC mode the ICR's upper half is a 32-bit id. */
		if (!was_x2apic && lapic_x2apic(l))
			l->icr2 >>= 24;
		lapic_route_update(l);
		lapic_update(l);
	}
	return 0;
}

/* Registers that x2APIC mode has not (SDM3 table 11-6). */
static _Bool x2apic_gone(unsigned reg)
{
	return reg == LAPIC_APR || reg == LAPIC_RRD || reg == LAPIC_DFR || reg == LAPIC_ICR2;
}

static _Bool x2apic_write_only(unsigned reg)
{
	return reg == LAPIC_EOI || reg == LAPIC_SELF_IPI;
}

/* The bits a WRMSR may set; 0 for EOI and ESR. -1: the register cannot be written. */
static int64_t x2apic_writable(const struct lapic *l, unsigned reg)
{
	switch (reg) {
	case LAPIC_TPR:
	case LAPIC_SELF_IPI: return 0xff;
	case LAPIC_EOI:
	case LAPIC_ESR: return 0;
	case LAPIC_SVR: return SVR_WRITABLE;
	case LAPIC_TIMER_INIT: return UINT32_MAX;
	case LAPIC_TIMER_DIVIDE: return DCR_WRITABLE;
	case LAPIC_LVT ... LAPIC_LVT + 0x50: /* what is only read there may be written back */
		return lapic_lvt_writable(l, (enum lapic_lvt)((reg - LAPIC_LVT) >> 4)) | ICR_BUSY |
		       LVT_REMOTE_IRR;
	default: return -1;
	}
}

static int x2apic_read(struct lapic *l, unsigned reg, uint64_t *value)
{
	uint32_t low;

	if (x2apic_gone(reg) || x2apic_write_only(reg) || !lapic_reg_read(l, reg, &low))
		return -1;
	*value = low;
	if (reg == LAPIC_ICR)
		*value |= (uint64_t)l->icr2 << 32;
	return 0;
}

static int x2apic_write(struct lapic *l, unsigned reg, uint64_t value, struct lapic_after *after)
{
	if (reg == LAPIC_ICR) {
		if ((uint32_t)value & ~ICR_WRITABLE)
			return -1;
		l->icr2 = (uint32_t)(value >> 32);
	} else {
		int64_t mask = x2apic_writable(l, reg);

		if (mask < 0 || (value & ~(uint64_t)mask))
			return -1;
	}
	return lapic_reg_write(l, reg, (uint32_t)value, after) ? 0 : -1;
}

int lapic_msr_read(void *apic, uint32_t msr, uint64_t *value)
{
	struct lapic *l = apic;
	int ret = 0;

	lock_take(&l->dev.lock);
	if (msr == MSR_APIC_BASE)
		*value = l->base;
	else if (msr == MSR_TSC_DEADLINE && l->cfg.tsc.read)
		*value = l->lvt[LVT_TIMER] & LVT_DEADLINE ? l->deadline : 0;
	else if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST && lapic_x2apic(l))
		ret = x2apic_read(l, (msr - MSR_X2APIC_FIRST) << 4, value);
	else
		ret = -1;
	lock_drop(&l->dev.lock);
	return ret;
}

int lapic_msr_write(void *apic, uint32_t msr, uint64_t value)
{
	struct lapic *l = apic;
	struct lapic_after after = {.eoi = -1};
	int ret = 0;

	lock_take(&l->dev.lock);
	if (msr == MSR_APIC_BASE)
		ret = base_write(l, value);
	else if (msr == MSR_TSC_DEADLINE && l->cfg.tsc.read)
		lapic_timer_deadline(l, value);
	else if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST && lapic_x2apic(l))
		ret = x2apic_write(l, (msr - MSR_X2APIC_FIRST) << 4, value, &after);
	else
		ret = -1;
	lock_drop(&l->dev.lock);
	lapic_after_run(l, &after);
	return ret;
}
