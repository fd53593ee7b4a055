/* acpi_pm.c: ACPI power management block laid out as in the ICH9, and the SMI command port. */
#include "dev/pc/acpi_pm.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "base/log.h"

/* PM1 status and enable bits (ACPI6.5 4.8.3.1). */
#define PM1_TMR	   0x0001
#define PM1_GBL	   0x0020
#define PM1_PWRBTN 0x0100
#define PM1_SLPBTN 0x0200
#define PM1_RTC	   0x0400
#define PM1_STATUS (PM1_TMR | 0x0010 | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC | 0x8000)
#define PM1_ENABLE (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)

/* PM1 control (ACPI6.5 4.8.3.2). */
#define CNT_SCI_EN  0x0001
#define CNT_BM_RLD  0x0002
#define CNT_SLP_TYP 0x1c00
#define CNT_SLP_EN  0x2000

/* SMI_EN (ICH9 13.8.3.9). There is no system management mode: APMC_EN reads set, which is how
 * firmware sees that there is nothing left for it to install. */
#define SMI_EN_VALUE 0x20

#define PORT_APM_CNT 0xb2

struct acpi_pm {
	struct device dev;
	struct acpi_pm_config cfg;
	struct region region, apm_region;
	struct timer timer;
	uint16_t pm1_sts, pm1_en, pm1_cnt;
	uint64_t gpe_sts, gpe_en;
	uint64_t halves; /* of the timer's 32-bit range that were over when TMR_STS was looked at */
	uint32_t smi_en;
	uint8_t apm_cnt, apm_sts;
};

static struct acpi_pm *pm_of(struct device *dev)
{
	return container_of(dev, struct acpi_pm, dev);
}

/* --- Timer --------------------------------------------------------------------------------- */

static uint64_t ticks_at(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * ACPI_PM_TMR_HZ / 1000000000);
}

/* The first nanosecond at which the count is at least `ticks`. */
static uint64_t ns_of(uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * 1000000000 + ACPI_PM_TMR_HZ - 1) /
			  ACPI_PM_TMR_HZ);
}

/* ACPI6.5 4.8.3.1.1: TMR_STS is set whenever the counter's highest bit changes. */
static void timer_catch_up(struct acpi_pm *pm)
{
	uint64_t halves = ticks_at(clock_now_ns(pm->cfg.clock)) >> 31;
	if (halves != pm->halves)
		pm->pm1_sts |= PM1_TMR;
	pm->halves = halves;
}

/* --- System control interrupt -------------------------------------------------------------- */

static void update_sci(struct acpi_pm *pm)
{
	timer_catch_up(pm);
	_Bool level = (pm->pm1_sts & pm->pm1_en & PM1_ENABLE) || (pm->gpe_sts & pm->gpe_en);
	irq_set(&pm->cfg.sci, level && (pm->pm1_cnt & CNT_SCI_EN));
	if (pm->pm1_en & PM1_TMR)
		timer_arm(&pm->timer, ns_of((pm->halves + 1) << 31));
	else
		timer_cancel(&pm->timer);
}

static void timer_fired(void *opaque)
{
	struct acpi_pm *pm = opaque;
	lock_take(&pm->dev.lock);
	update_sci(pm);
	lock_drop(&pm->dev.lock);
}

/* --- Registers ----------------------------------------------------------------------------- */

static uint64_t sts_read(struct device *dev, const struct reg *reg)
{
	timer_catch_up(pm_of(dev));
	return pm_of(dev)->pm1_sts;
}

static void event_written(struct device *dev, const struct reg *reg, uint64_t old, uint64_t written)
{
	update_sci(pm_of(dev));
}

static void cnt_written(struct device *dev, const struct reg *reg, uint64_t old, uint64_t written)
{
	struct acpi_pm *pm = pm_of(dev);
	if (!(written & CNT_SLP_EN))
		return;
	unsigned typ = (pm->pm1_cnt & CNT_SLP_TYP) >> 10;
	if (typ == pm->cfg.slp_typ_s5)
		power_request(&pm->cfg.power, POWER_OFF, 0);
	else
		log_guest("sleep type %u asked for, which this machine does not have", typ);
}

static uint64_t tmr_read(struct device *dev, const struct reg *reg)
{
	return ticks_at(clock_now_ns(pm_of(dev)->cfg.clock)) & UINT32_MAX;
}

#define FIELD(f) offsetof(struct acpi_pm, f)
static const struct reg pm_regs[] = {
    {"PM1_STS", 0x00, 2, REG_READ_HOOK | REG_WRITE_HOOK, FIELD(pm1_sts), 0, 0, PM1_STATUS, sts_read,
     event_written, "ACPI6.5 4.8.3.1.1"},
    {"PM1_EN", 0x02, 2, REG_WRITE_HOOK, FIELD(pm1_en), 0, PM1_ENABLE, 0, NULL, event_written,
     "ACPI6.5 4.8.3.1.2"},
    /* SCI_EN belongs to the SMI command port; a write here leaves it alone. */
    {"PM1_CNT", 0x04, 2, REG_WRITE_HOOK, FIELD(pm1_cnt), 0, CNT_BM_RLD | CNT_SLP_TYP, 0, NULL,
     cnt_written, "ACPI6.5 4.8.3.2.1"},
    {"PM_TMR", 0x08, 4, REG_READ_HOOK, 0, 0, 0, 0, tmr_read, NULL, "ACPI6.5 4.8.3.3"},
    {"GPE0_STS", 0x20, 8, REG_WRITE_HOOK, FIELD(gpe_sts), 0, 0, UINT64_MAX, NULL, event_written,
     "ACPI6.5 4.8.4.1.1"},
    {"GPE0_EN", 0x28, 8, REG_WRITE_HOOK, FIELD(gpe_en), 0, UINT64_MAX, 0, NULL, event_written,
     "ACPI6.5 4.8.4.1.2"},
    {"SMI_EN", 0x30, 4, 0, FIELD(smi_en), SMI_EN_VALUE, 0, 0, NULL, NULL, "ICH9 13.8.3.9"},
};

static uint64_t pm_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return reg_read(dev, pm_regs, ARRAY_SIZE(pm_regs), offset, size);
}

static void pm_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		     uint64_t value)
{
	reg_write(dev, pm_regs, ARRAY_SIZE(pm_regs), offset, size, value);
}

static uint64_t apm_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return offset ? pm_of(dev)->apm_sts : pm_of(dev)->apm_cnt;
}

/* ACPI6.5 4.8.1, 5.2.9: the operating system hands these values to firmware to change the mode. */
static void apm_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct acpi_pm *pm = pm_of(dev);
	if (offset) {
		pm->apm_sts = (uint8_t)value;
		return;
	}
	pm->apm_cnt = (uint8_t)value;
	if (value == pm->cfg.acpi_enable)
		pm->pm1_cnt |= CNT_SCI_EN;
	else if (value == pm->cfg.acpi_disable)
		pm->pm1_cnt &= (uint16_t)~CNT_SCI_EN;
	update_sci(pm);
}

static const struct region_ops pm_ops = {.read = pm_read, .write = pm_write, .max_size = 4};
static const struct region_ops apm_ops = {.read = apm_read, .write = apm_write, .max_size = 1};

/* --- From the host ------------------------------------------------------------------------- */

_Bool acpi_pm_power_button(struct device *dev)
{
	struct acpi_pm *pm = pm_of(dev);
	lock_take(&dev->lock);
	pm->pm1_sts |= PM1_PWRBTN;
	_Bool noticed = (pm->pm1_cnt & CNT_SCI_EN) && (pm->pm1_en & PM1_PWRBTN);
	update_sci(pm);
	lock_drop(&dev->lock);
	return noticed;
}

void acpi_pm_gpe(struct device *dev, unsigned bit)
{
	struct acpi_pm *pm = pm_of(dev);
	assert(bit < 64);
	lock_take(&dev->lock);
	pm->gpe_sts |= BIT64(bit);
	update_sci(pm);
	lock_drop(&dev->lock);
}

/* --- Life ---------------------------------------------------------------------------------- */

static void pm_reset(struct device *dev, enum reset_kind kind)
{
	struct acpi_pm *pm = pm_of(dev);
	reg_reset(dev, pm_regs, ARRAY_SIZE(pm_regs));
	pm->pm1_cnt = pm->cfg.acpi_on ? CNT_SCI_EN : 0;
	pm->apm_cnt = pm->apm_sts = 0;
	pm->halves = ticks_at(clock_now_ns(pm->cfg.clock)) >> 31;
	update_sci(pm);
}

static void pm_pre_save(struct device *dev)
{
	timer_catch_up(pm_of(dev));
}

static void pm_post_load(struct device *dev)
{
	update_sci(pm_of(dev));
}

static void pm_free(struct device *dev)
{
	struct acpi_pm *pm = pm_of(dev);
	if (pm->region.mapped)
		space_unmap(pm->cfg.ports, &pm->region);
	if (pm->apm_region.mapped)
		space_unmap(pm->cfg.ports, &pm->apm_region);
	timer_fini(&pm->timer);
	device_fini(dev);
	free(pm);
}

static int pm_check(const void *shadow, struct error *err)
{
	const struct acpi_pm *pm = shadow;
	if ((pm->pm1_sts & ~PM1_STATUS) || (pm->pm1_en & ~PM1_ENABLE) ||
	    (pm->pm1_cnt & ~(CNT_SCI_EN | CNT_BM_RLD | CNT_SLP_TYP)) || pm->halves >> 26)
		return error_set(err, -EINVAL, "saved ACPI power state has reserved bits set");
	return 0;
}

static const struct state_field pm_fields[] = {
    STATE_SCALAR(1, struct acpi_pm, pm1_sts),
    STATE_SCALAR(2, struct acpi_pm, pm1_en),
    STATE_SCALAR(3, struct acpi_pm, pm1_cnt),
    STATE_SCALAR(4, struct acpi_pm, gpe_sts),
    STATE_SCALAR(5, struct acpi_pm, gpe_en),
    STATE_SCALAR(6, struct acpi_pm, halves),
    STATE_SCALAR(7, struct acpi_pm, apm_cnt),
    STATE_SCALAR(8, struct acpi_pm, apm_sts),
    STATE_END,
};
static const struct state_desc pm_state = {
    .name = "acpi-pm",
    .fields = pm_fields,
    .size = sizeof(struct acpi_pm),
    .check = pm_check,
};
static const struct device_class pm_class;

int acpi_pm_new(struct device **out, const struct acpi_pm_config *cfg, struct error *err)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));
	if (!pm)
		return error_set(err, -ENOMEM, "no memory for the ACPI power block");
	device_init(&pm->dev, &pm_class, RANK_DEVICE, 0, "acpi-pm");
	pm->cfg = *cfg;
	timer_init(&pm->timer, cfg->clock, timer_fired, pm);
	pm->region = (struct region){
	    .name = "acpi-pm", .dev = &pm->dev, .ops = &pm_ops, .size = ACPI_PM_PORTS};
	pm->apm_region =
	    (struct region){.name = "apm", .dev = &pm->dev, .ops = &apm_ops, .size = 2};
	int rc = space_map(cfg->ports, &pm->region, cfg->base);
	if (!rc)
		rc = space_map(cfg->ports, &pm->apm_region, PORT_APM_CNT);
	if (rc) {
		pm_free(&pm->dev);
		return error_set(err, rc, "the ports of the ACPI power block at 0x%x are taken",
				 cfg->base);
	}
	*out = &pm->dev;
	return 0;
}

static const struct device_class pm_class = {
    .name = "acpi-pm",
    .reset = pm_reset,
    .free = pm_free,
    .pre_save = pm_pre_save,
    .post_load = pm_post_load,
    .state = &pm_state,
};
