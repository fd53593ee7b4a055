/* rtc.c: MC146818 real-time clock and CMOS memory. */
#include "dev/pc/rtc.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * No tick runs. The time of day is the clock's wall time plus an offset that the guest chose, and
 * is computed when it is read; while the guest holds the clock (SET, or the divider in reset) the
 * registers are plain memory. The flags of register C are caught up with whenever somebody looks:
 * each says whether its event has happened since the last look. A timer runs only while an
 * interrupt is enabled whose flag is not set yet, so that a guest which does not read register C
 * costs nothing.
 *
 * Citations are to Motorola's MC146818A data sheet (1984).
 */

#define REG_SECONDS	  0
#define REG_SECONDS_ALARM 1
#define REG_MINUTES	  2
#define REG_MINUTES_ALARM 3
#define REG_HOURS	  4
#define REG_HOURS_ALARM	  5
#define REG_WEEKDAY	  6
#define REG_DAY		  7
#define REG_MONTH	  8
#define REG_YEAR	  9
#define REG_A		  10
#define REG_B		  11
#define REG_C		  12
#define REG_D		  13
#define REG_CENTURY	  0x32
#define CMOS_BYTES	  256

#define A_UIP	  0x80
#define A_DIVIDER 0x70
#define A_DV_RUN  0x20 /* 32.768 kHz */
#define A_RATE	  0x0f
#define B_SET	  0x80
#define B_PIE	  0x40
#define B_AIE	  0x20
#define B_UIE	  0x10
#define B_SQWE	  0x08
#define B_BINARY  0x04
#define B_24H	  0x02
#define C_IRQF	  0x80
#define C_PF	  0x40
#define C_AF	  0x20
#define C_UF	  0x10
#define D_VRT	  0x80
#define HOUR_PM	  0x80
#define ANY	  0xc0 /* alarm bytes from here up match everything */

#define SECOND_NS INT64_C(1000000000)
#define UIP_NS	  244000 /* an update announces itself this long before (fig. 15) */
#define HZ	  32768
#define DAY_S	  86400

/* A guest can set the years 1900 to 2199: so times fit in 64 bits of nanoseconds, and so do sums
 * with any wall time of a host. */
#define FIRST_S INT64_C(-2208988800)
#define LAST_S	INT64_C(7258118399)

/* What saved state may say, and where the time stands still. */
#define TIME_MAX (INT64_C(7300000000) * SECOND_NS)

struct rtc {
	struct device dev;
	struct rtc_config cfg;
	struct region low_region, high_region;
	struct timer timer;
	uint8_t cmos[CMOS_BYTES];
	uint8_t index, high_index;
	_Bool nmi_off;
	int64_t offset_ns; /* guest's time of day less the clock's wall time */
	int64_t seen_ns;   /* guest's time of day up to which flags are caught up */
};

static struct rtc *rtc_of(struct device *dev)
{
	return container_of(dev, struct rtc, dev);
}

/* --- Calendar ------------------------------------------------------------------------------ */

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/* Days since 1970-01-01 of a date in the proleptic Gregorian calendar; months and days outside
 * their range carry over. March is month 0 here, so that the leap day is a year's last. */
static int64_t days_from_date(int64_t year, int month, int day)
{
	int64_t m = month - 3;
	int64_t y = year + floor_div(m, 12);
	m -= 12 * floor_div(m, 12);
	int64_t leap_days = floor_div(y, 4) - floor_div(y, 100) + floor_div(y, 400);
	return y * 365 + leap_days + (153 * m + 2) / 5 + day - 1 - 719468;
}

struct date {
	int64_t year;
	int month, day, weekday; /* from 1; Sunday is 1 */
};

static struct date date_from_days(int64_t days)
{
	/* A guess that is at most a year late, then the month by counting. */
	struct date d = {.weekday = (int)((days + 4) - 7 * floor_div(days + 4, 7)) + 1};
	d.year = 1970 + floor_div(days * 400, 146097);
	while (days_from_date(d.year, 1, 1) > days)
		d.year--;
	while (days_from_date(d.year + 1, 1, 1) <= days)
		d.year++;
	d.month = 12;
	while (days_from_date(d.year, d.month, 1) > days)
		d.month--;
	d.day = (int)(days - days_from_date(d.year, d.month, 1)) + 1;
	return d;
}

/* --- Register encodings (tables 3 and 4) --------------------------------------------------- */

static uint8_t encode(const struct rtc *r, int v)
{
	return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static int decode(const struct rtc *r, uint8_t v)
{
	return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(const struct rtc *r, int hour)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hour);
	return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct rtc *r, uint8_t v)
{
	if (r->cmos[REG_B] & B_24H)
		return decode(r, v);
	return decode(r, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* --- Time ---------------------------------------------------------------------------------- */

static _Bool is_held(const struct rtc *r)
{
	return (r->cmos[REG_B] & B_SET) || (r->cmos[REG_A] & A_DIVIDER) > A_DV_RUN;
}

static int64_t rtc_now(const struct rtc *r)
{
	int64_t now;
	if (__builtin_add_overflow(clock_wall_now_ns(r->cfg.clock), r->offset_ns, &now))
		now = r->offset_ns;
	return now < -TIME_MAX ? -TIME_MAX : now > TIME_MAX ? TIME_MAX : now;
}

static void registers_from_time(struct rtc *r, int64_t now_ns)
{
	int64_t s = floor_div(now_ns, SECOND_NS), days = floor_div(s, DAY_S);
	int of_day = (int)(s - days * DAY_S);
	struct date d = date_from_days(days);
	/* Two digits and a century byte hold the years 0 to 9999. */
	int64_t year = d.year < 0 ? 0 : d.year > 9999 ? 9999 : d.year;
	r->cmos[REG_SECONDS] = encode(r, of_day % 60);
	r->cmos[REG_MINUTES] = encode(r, of_day / 60 % 60);
	r->cmos[REG_HOURS] = encode_hour(r, of_day / 3600);
	r->cmos[REG_WEEKDAY] = encode(r, d.weekday);
	r->cmos[REG_DAY] = encode(r, d.day);
	r->cmos[REG_MONTH] = encode(r, d.month);
	r->cmos[REG_YEAR] = encode(r, (int)(year % 100));
	r->cmos[REG_CENTURY] = encode(r, (int)(year / 100));
}

/* Impossible dates carry over into the next month or year, as the counters would in the end. */
static int64_t seconds_from_registers(const struct rtc *r)
{
	int64_t year = decode(r, r->cmos[REG_CENTURY]) * 100 + decode(r, r->cmos[REG_YEAR]);
	int64_t days =
	    days_from_date(year, decode(r, r->cmos[REG_MONTH]), decode(r, r->cmos[REG_DAY]));
	return days * DAY_S + decode_hour(r, r->cmos[REG_HOURS]) * 3600 +
	       decode(r, r->cmos[REG_MINUTES]) * 60 + decode(r, r->cmos[REG_SECONDS]);
}

/* The registers become the time, `into_ns` after the second began. */
static void time_from_registers(struct rtc *r, int64_t into_ns)
{
	int64_t s = seconds_from_registers(r);
	s = s < FIRST_S ? FIRST_S : s > LAST_S ? LAST_S : s;
	int64_t now = s * SECOND_NS + into_ns;
	r->offset_ns = now - clock_wall_now_ns(r->cfg.clock);
	r->seen_ns = now;
}

static int64_t into_second(int64_t now_ns)
{
	return now_ns - floor_div(now_ns, SECOND_NS) * SECOND_NS;
}

/* --- Events -------------------------------------------------------------------------------- */

/* Ticks of 32.768 kHz between two periodic interrupts; 0: off (table 5). */
static int64_t period_ticks(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & A_RATE;
	if (!rate || (r->cmos[REG_A] & A_DIVIDER) > A_DV_RUN)
		return 0;
	return INT64_C(1) << (rate <= 2 ? rate + 6 : rate - 1);
}

static int64_t ticks_at(int64_t now_ns)
{
	int64_t s = floor_div(now_ns, SECOND_NS);
	return s * HZ + into_second(now_ns) * HZ / SECOND_NS;
}

static int64_t ns_of_tick(int64_t tick)
{
	int64_t s = floor_div(tick, HZ);
	return s * SECOND_NS + ((tick - s * HZ) * SECOND_NS + HZ - 1) / HZ;
}

static int64_t next_period(const struct rtc *r, int64_t after_ns)
{
	int64_t period = period_ticks(r);
	return period ? ns_of_tick((floor_div(ticks_at(after_ns), period) + 1) * period)
		      : INT64_MAX;
}

static int64_t next_second(const struct rtc *r, int64_t after_ns)
{
	return is_held(r) ? INT64_MAX : (floor_div(after_ns, SECOND_NS) + 1) * SECOND_NS;
}

/* -1: any; otherwise the value, which may be one that never comes. */
static int alarm_part(uint8_t raw, int value)
{
	return raw >= ANY ? -1 : value;
}

/* The first second after `after_ns` that the three alarm bytes match. At most one step for each
 * hour of a day, minute of an hour and second of a minute. */
static int64_t next_alarm(const struct rtc *r, int64_t after_ns)
{
	const uint8_t *c = r->cmos;
	int hour = alarm_part(c[REG_HOURS_ALARM], decode_hour(r, c[REG_HOURS_ALARM]));
	int minute = alarm_part(c[REG_MINUTES_ALARM], decode(r, c[REG_MINUTES_ALARM]));
	int second = alarm_part(c[REG_SECONDS_ALARM], decode(r, c[REG_SECONDS_ALARM]));
	if (is_held(r) || hour > 23 || minute > 59 || second > 59)
		return INT64_MAX;
	int64_t s = floor_div(after_ns, SECOND_NS) + 1;
	for (;;) {
		int64_t of_day = s - floor_div(s, DAY_S) * DAY_S;
		if (hour >= 0 && of_day / 3600 != hour)
			s += 3600 - of_day % 3600;
		else if (minute >= 0 && of_day / 60 % 60 != minute)
			s += 60 - of_day % 60;
		else if (second >= 0 && of_day % 60 != second)
			s++;
		else
			return s * SECOND_NS;
	}
}

static void update_irq(struct rtc *r)
{
	uint8_t c = r->cmos[REG_C] & (C_PF | C_AF | C_UF);
	/* PIE, AIE, UIE are at the places of PF, AF, UF. */
	_Bool level = c & r->cmos[REG_B];
	r->cmos[REG_C] = (uint8_t)(c | (level ? C_IRQF : 0));
	irq_set(&r->cfg.irq, level);
}

static void catch_up(struct rtc *r)
{
	int64_t now = rtc_now(r), seen = r->seen_ns;
	if (now > seen) {
		if (next_period(r, seen) <= now)
			r->cmos[REG_C] |= C_PF;
		if (next_second(r, seen) <= now)
			r->cmos[REG_C] |= C_UF;
		if (next_alarm(r, seen) <= now)
			r->cmos[REG_C] |= C_AF;
	}
	r->seen_ns = now;
	update_irq(r);
}

static void arm(struct rtc *r)
{
	uint8_t due = r->cmos[REG_B] & ~r->cmos[REG_C];
	int64_t next = INT64_MAX;
	if (due & B_PIE)
		next = MIN(next, next_period(r, r->seen_ns));
	if (due & B_UIE)
		next = MIN(next, next_second(r, r->seen_ns));
	if (due & B_AIE)
		next = MIN(next, next_alarm(r, r->seen_ns));
	if (next == INT64_MAX) {
		timer_cancel(&r->timer);
		return;
	}
	int64_t ahead = next - rtc_now(r);
	timer_arm(&r->timer, clock_now_ns(r->cfg.clock) + (uint64_t)MAX(ahead, 0));
}

static void timer_fired(void *opaque)
{
	struct rtc *r = opaque;
	lock_take(&r->dev.lock);
	catch_up(r);
	arm(r);
	lock_drop(&r->dev.lock);
}

/* --- Registers ----------------------------------------------------------------------------- */

static _Bool is_time(unsigned index)
{
	return index == REG_CENTURY || (index <= REG_YEAR && index != REG_SECONDS_ALARM &&
					index != REG_MINUTES_ALARM && index != REG_HOURS_ALARM);
}

static uint8_t a_read(const struct rtc *r)
{
	_Bool updating = !is_held(r) && SECOND_NS - into_second(rtc_now(r)) <= UIP_NS;
	return r->cmos[REG_A] | (updating ? A_UIP : 0);
}

static uint8_t c_read(struct rtc *r)
{
	catch_up(r);
	uint8_t v = r->cmos[REG_C];
	r->cmos[REG_C] = 0;
	update_irq(r);
	arm(r);
	return v;
}

static uint8_t cmos_read(struct rtc *r, unsigned index)
{
	if (is_time(index) && !is_held(r))
		registers_from_time(r, rtc_now(r));
	switch (index) {
	case REG_A: return a_read(r);
	case REG_C: return c_read(r);
	case REG_D: return D_VRT;
	default: return r->cmos[index];
	}
}

/* Divider and SET decide whether the clock runs; registers and time change places with that. */
static void control_write(struct rtc *r, unsigned index, uint8_t v)
{
	_Bool was_held = is_held(r);
	_Bool in_reset = (r->cmos[REG_A] & A_DIVIDER) > A_DV_RUN;
	int64_t now = rtc_now(r);
	catch_up(r);
	if (!was_held)
		registers_from_time(r, now);
	if (index == REG_A) {
		r->cmos[REG_A] = v & (A_DIVIDER | A_RATE);
	} else {
		/* Setting SET clears UIE (register B). */
		r->cmos[REG_B] = v & B_SET ? v & ~B_UIE : v;
	}
	/* After a reset of the divider the first update comes half a second later ("Divider
	 * control"). */
	if (in_reset && (r->cmos[REG_A] & A_DIVIDER) <= A_DV_RUN)
		time_from_registers(r, SECOND_NS / 2);
	else if (was_held && !is_held(r))
		time_from_registers(r, into_second(now));
	update_irq(r);
	arm(r);
}

static void cmos_write(struct rtc *r, unsigned index, uint8_t v)
{
	if (index == REG_A || index == REG_B) {
		control_write(r, index, v);
		return;
	}
	if (index == REG_C || index == REG_D)
		return;
	if (is_time(index) && !is_held(r)) {
		int64_t now = rtc_now(r);
		catch_up(r);
		registers_from_time(r, now);
		r->cmos[index] = v;
		time_from_registers(r, into_second(now));
		arm(r);
		return;
	}
	catch_up(r);
	r->cmos[index] = v;
	arm(r);
}

/* --- Ports --------------------------------------------------------------------------------- */

static uint64_t low_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct rtc *r = rtc_of(dev);
	return offset ? cmos_read(r, r->index) : 0xff; /* the index cannot be read (ICH9 13.6.1) */
}

static void low_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct rtc *r = rtc_of(dev);
	if (offset) {
		cmos_write(r, r->index, (uint8_t)value);
		return;
	}
	r->index = value & 0x7f;
	r->nmi_off = value & 0x80;
	irq_set(&r->cfg.nmi_mask, r->nmi_off);
}

static uint64_t high_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct rtc *r = rtc_of(dev);
	return offset ? r->cmos[0x80 + r->high_index] : r->high_index;
}

static void high_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct rtc *r = rtc_of(dev);
	if (offset)
		r->cmos[0x80 + r->high_index] = (uint8_t)value;
	else
		r->high_index = value & 0x7f;
}

static const struct region_ops low_ops = {.read = low_read, .write = low_write, .max_size = 1};
static const struct region_ops high_ops = {.read = high_read, .write = high_write, .max_size = 1};

uint8_t rtc_cmos_get(struct device *dev, uint8_t index)
{
	assert(index > REG_D && index != REG_CENTURY);
	lock_take(&dev->lock);
	uint8_t v = rtc_of(dev)->cmos[index];
	lock_drop(&dev->lock);
	return v;
}

void rtc_cmos_set(struct device *dev, uint8_t index, uint8_t value)
{
	assert(index > REG_D && index != REG_CENTURY);
	lock_take(&dev->lock);
	rtc_of(dev)->cmos[index] = value;
	lock_drop(&dev->lock);
}

/* --- Life ---------------------------------------------------------------------------------- */

/* What PC firmware looks for in the memory. */
static void cmos_describe(struct rtc *r)
{
	const struct rtc_config *cfg = &r->cfg;
	uint64_t kib = cfg->ram_low_end >> 10;
	uint64_t ext = kib > 1024 ? MIN(kib - 1024, 65535) : 0;
	uint64_t above16 = kib > 16384 ? MIN((kib - 16384) >> 6, 65535) : 0;
	uint64_t high = MIN(cfg->ram_high_size >> 16, 0xffffff);
	uint8_t *c = r->cmos;
	c[0x14] = 0x02; /* equipment: coprocessor */
	c[0x15] = 640 & 0xff;
	c[0x16] = 640 >> 8;
	c[0x17] = c[0x30] = (uint8_t)ext; /* KiB from 1 MiB */
	c[0x18] = c[0x31] = (uint8_t)(ext >> 8);
	c[0x34] = (uint8_t)above16; /* 64 KiB units from 16 MiB */
	c[0x35] = (uint8_t)(above16 >> 8);
	c[0x5b] = (uint8_t)high; /* 64 KiB units from 4 GiB */
	c[0x5c] = (uint8_t)(high >> 8);
	c[0x5d] = (uint8_t)(high >> 16);
	c[0x5f] = (uint8_t)(cfg->ncpus - 1);
}

/* The memory has a battery: what it holds, the time and its format stay. RESET clears the interrupt
 * enables and flags ("RESET"). */
static void rtc_reset(struct device *dev, enum reset_kind kind)
{
	struct rtc *r = rtc_of(dev);
	r->index = r->high_index = 0;
	r->nmi_off = 0;
	r->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
	r->cmos[REG_C] = 0;
	r->seen_ns = rtc_now(r);
	update_irq(r);
	irq_set(&r->cfg.nmi_mask, 0);
	arm(r);
}

static void rtc_pre_save(struct device *dev)
{
	struct rtc *r = rtc_of(dev);
	catch_up(r);
	if (!is_held(r))
		registers_from_time(r, r->seen_ns);
}

static void rtc_post_load(struct device *dev)
{
	struct rtc *r = rtc_of(dev);
	irq_set(&r->cfg.nmi_mask, r->nmi_off);
	update_irq(r);
	arm(r);
}

static void rtc_free(struct device *dev)
{
	struct rtc *r = rtc_of(dev);
	if (r->low_region.mapped)
		space_unmap(r->cfg.ports, &r->low_region);
	if (r->high_region.mapped)
		space_unmap(r->cfg.ports, &r->high_region);
	timer_fini(&r->timer);
	device_fini(dev);
	free(r);
}

static int rtc_check(const void *shadow, struct error *err)
{
	const struct rtc *r = shadow;
	if (r->index > 0x7f || r->high_index > 0x7f || (r->cmos[REG_A] & A_UIP) ||
	    (r->cmos[REG_C] & 0x0f) || r->cmos[REG_D] || r->seen_ns < -TIME_MAX ||
	    r->seen_ns > TIME_MAX || r->offset_ns < -TIME_MAX || r->offset_ns > TIME_MAX)
		return error_set(err, -EINVAL, "saved real-time clock state is out of range");
	return 0;
}

static const struct state_field rtc_fields[] = {
    STATE_ARRAY(1, struct rtc, cmos, CMOS_BYTES),
    STATE_SCALAR(2, struct rtc, index),
    STATE_SCALAR(3, struct rtc, high_index),
    STATE_BOOL(4, struct rtc, nmi_off),
    STATE_SCALAR(5, struct rtc, offset_ns),
    STATE_SCALAR(6, struct rtc, seen_ns),
    STATE_END,
};
static const struct state_desc rtc_state = {
    .name = "rtc",
    .fields = rtc_fields,
    .size = sizeof(struct rtc),
    .check = rtc_check,
};
static const struct device_class rtc_class;

int rtc_new(struct device **out, const struct rtc_config *cfg, struct error *err)
{
	struct rtc *r = calloc(1, sizeof(*r));
	if (!r)
		return error_set(err, -ENOMEM, "no memory for the real-time clock");
	device_init(&r->dev, &rtc_class, RANK_DEVICE, 0, "rtc");
	r->cfg = *cfg;
	timer_init(&r->timer, cfg->clock, timer_fired, r);
	r->cmos[REG_A] = A_DV_RUN | 6; /* 1024 Hz, as PC firmware leaves it */
	r->cmos[REG_B] = B_24H;
	cmos_describe(r);
	r->low_region = (struct region){.name = "rtc", .dev = &r->dev, .ops = &low_ops, .size = 2};
	r->high_region =
	    (struct region){.name = "rtc-extended", .dev = &r->dev, .ops = &high_ops, .size = 2};
	int rc = space_map(cfg->ports, &r->low_region, 0x70);
	if (!rc)
		rc = space_map(cfg->ports, &r->high_region, 0x72);
	if (rc) {
		rtc_free(&r->dev);
		return error_set(err, rc, "the real-time clock's ports 0x70 to 0x73 are taken");
	}
	*out = &r->dev;
	return 0;
}

static const struct device_class rtc_class = {
    .name = "rtc",
    .reset = rtc_reset,
    .free = rtc_free,
    .pre_save = rtc_pre_save,
    .post_load = rtc_post_load,
    .state = &rtc_state,
};
