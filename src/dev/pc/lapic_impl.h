/* lapic_impl.h: the local APIC's insides, shared by its files. */
#ifndef DEV_PC_LAPIC_IMPL_H
#define DEV_PC_LAPIC_IMPL_H

#include <stdatomic.h>
#include "dev/pc/lapic.h"

/* Offsets in the register page (SDM3 table 11-1); MSR 0x800 + offset / 16 in x2APIC mode. */
enum lapic_reg {
	LAPIC_ID = 0x020,
	LAPIC_VERSION = 0x030,
	LAPIC_TPR = 0x080,
	LAPIC_APR = 0x090,
	LAPIC_PPR = 0x0a0,
	LAPIC_EOI = 0x0b0,
	LAPIC_RRD = 0x0c0,
	LAPIC_LDR = 0x0d0,
	LAPIC_DFR = 0x0e0,
	LAPIC_SVR = 0x0f0,
	LAPIC_ISR = 0x100,
	LAPIC_TMR = 0x180,
	LAPIC_IRR = 0x200,
	LAPIC_ESR = 0x280,
	LAPIC_ICR = 0x300,
	LAPIC_ICR2 = 0x310,
	LAPIC_LVT = 0x320, /* timer, thermal, performance, LINT0, LINT1, error */
	LAPIC_TIMER_INIT = 0x380,
	LAPIC_TIMER_COUNT = 0x390,
	LAPIC_TIMER_DIVIDE = 0x3e0,
	LAPIC_SELF_IPI = 0x3f0,
};

enum lapic_lvt {
	LVT_TIMER,
	LVT_THERMAL,
	LVT_PERF,
	LVT_LINT0,
	LVT_LINT1,
	LVT_ERROR,
	LVT_COUNT,
};

/* IA32_APIC_BASE (SDM3 11.4.4, 11.12.1) */
#define APIC_BASE_BSP  BIT64(8)
#define APIC_BASE_EXTD BIT64(10)
#define APIC_BASE_EN   BIT64(11)

#define SVR_ENABLE     BIT32(8)
#define SVR_FOCUS_OFF  BIT32(9)
#define SVR_EOI_QUIET  BIT32(12)
#define SVR_WRITABLE   (0xffu | SVR_ENABLE | SVR_FOCUS_OFF | SVR_EOI_QUIET)
#define LVT_MODE(v)    (((v) >> 8) & 7)
#define LVT_POLARITY   BIT32(13)
#define LVT_REMOTE_IRR BIT32(14)
#define LVT_LEVEL      BIT32(15)
#define LVT_MASKED     BIT32(16)
#define LVT_PERIODIC   BIT32(17)
#define LVT_DEADLINE   BIT32(18)

/* Delivery modes (SDM3 11.6.1) */
enum apic_mode {
	APIC_FIXED = 0,
	APIC_LOWEST = 1,
	APIC_SMI = 2,
	APIC_NMI = 4,
	APIC_INIT = 5,
	APIC_SIPI = 6,
	APIC_EXTINT = 7,
};

/* ESR (SDM3 11.5.3) */
#define ESR_SEND_VECTOR BIT32(5)
#define ESR_RECV_VECTOR BIT32(6)
#define ESR_REGISTER	BIT32(7)

#define ICR_WRITABLE  0x000ccfffu /* vector, mode, destination mode, level, trigger, shorthand */
#define ICR_LOGICAL   BIT32(11)
#define ICR_BUSY      BIT32(12)
#define ICR_ASSERT    BIT32(14)
#define ICR_LEVEL     BIT32(15)
#define ICR_SHORT(v)  (((v) >> 18) & 3)
#define DCR_WRITABLE  0xbu
#define DFR_FIXED     0x0fffffffu /* bits that read as ones */
#define LDR_WRITABLE  0xff000000u
#define VERSION_VALUE (0x14u | (LVT_COUNT - 1) << 16 | BIT32(24))

/* What senders look at without the APIC's lock. */
#define ROUTE_LDR(r)  ((r)&0xffu)
#define ROUTE_FLAT    BIT32(8)
#define ROUTE_ON      BIT32(9)	/* globally enabled */
#define ROUTE_X2APIC  BIT32(10) /* LDR follows from the id */
#define ROUTE_ACCEPTS BIT32(11) /* software-enabled: takes fixed interrupts */

struct lapic {
	struct device dev;
	struct lapic_config cfg;
	struct timer timer;

	/* Hints for senders; written under the lock. */
	_Atomic uint32_t route;
	_Atomic uint8_t priority;
	_Atomic _Bool lint0_open;

	/* Registers; saved. The page's base is read by the APIC's own CPU without the lock: nobody
	 * else changes it while that CPU runs. */
	uint64_t base;
	uint64_t irr[4], isr[4], tmr[4];
	uint64_t deadline;
	uint32_t tpr, ldr, dfr, svr;
	uint32_t esr, esr_new;
	uint32_t icr, icr2;
	uint32_t lvt[LVT_COUNT];
	uint32_t divide, init_count;
	uint32_t count; /* current count, only between pre_save and post_load */
	_Bool extint;	/* an ExtINT message was accepted and not yet acknowledged */

	/* Derived. */
	uint8_t ppr;
	_Bool intr;	  /* what CPU_EVENT_INTR was last set to */
	_Bool lint[2];	  /* pins as last seen */
	_Bool counting;	  /* the count has not reached 0 */
	uint64_t zero_ns; /* VM time at which it does */
};

struct lapic_msg {
	uint32_t dest;
	uint8_t vector, mode;
	_Bool logical, level, assert;
	_Bool wide;   /* 32-bit destination, from an x2APIC's ICR */
	_Bool lowest; /* one of the targets only */
};

/* What is left to do when the APIC's lock has been dropped. */
struct lapic_after {
	int eoi; /* vector to broadcast, or -1 */
	_Bool send;
	uint8_t shorthand;
	struct lapic_msg msg;
};

struct lapic_bus {
	struct lapic_bus_config cfg;
	struct lapic *by_id[LAPIC_MAX_CPUS];
	struct lapic *all[LAPIC_MAX_CPUS];
	unsigned count;
	_Atomic unsigned turn; /* where the search for the lowest priority begins */
	_Atomic _Bool lint0, lint1;
};

static inline _Bool lapic_x2apic(const struct lapic *l)
{
	return (l->base & (APIC_BASE_EN | APIC_BASE_EXTD)) == (APIC_BASE_EN | APIC_BASE_EXTD);
}
static inline _Bool lapic_on(const struct lapic *l)
{
	return l->base & APIC_BASE_EN;
}
static inline uint64_t lapic_page_base(const struct lapic *l)
{
	return l->base & ~UINT64_C(0xfff);
}
static inline uint32_t lapic_x2apic_ldr(uint32_t id)
{
	return (id >> 4) << 16 | BIT32(id & 15);
}

/* The highest vector set, or -1. */
static inline int lapic_highest(const uint64_t bits[4])
{
	for (int i = 3; i >= 0; i--) {
		if (bits[i])
			return i * 64 + 63 - __builtin_clzll(bits[i]);
	}
	return -1;
}

/* lapic.c; all under the APIC's lock. */
void lapic_registers_reset(struct lapic *l);
void lapic_update(struct lapic *l);	  /* after IRR, ISR, TPR, pins or enables changed */
void lapic_route_update(struct lapic *l); /* after base, SVR, LDR, DFR or LVT0 changed */
void lapic_accept(struct lapic *l, uint8_t vector, _Bool level);
void lapic_error(struct lapic *l, uint32_t bits);
void lapic_lvt_fire(struct lapic *l, enum lapic_lvt n);
void lapic_pin_set(struct lapic *l, unsigned n, _Bool level);
void lapic_pin_check(struct lapic *l, unsigned n); /* the entry changed: level still asserted? */
int lapic_end_of_interrupt(struct lapic *l);
uint8_t lapic_arbitration(const struct lapic *l);

/* lapic_reg.c; under the lock. `reg` is an offset of the page, a multiple of 16. */
_Bool lapic_reg_read(struct lapic *l, unsigned reg, uint32_t *value); /* false: no such register */
_Bool lapic_reg_write(struct lapic *l, unsigned reg, uint32_t value, struct lapic_after *after);
uint32_t lapic_lvt_writable(const struct lapic *l, enum lapic_lvt n);
void lapic_after_run(struct lapic *l, const struct lapic_after *after); /* without the lock */
extern const struct cpu_apic_ops lapic_ops;

/* lapic_msr.c */
int lapic_msr_read(void *apic, uint32_t msr, uint64_t *value);
int lapic_msr_write(void *apic, uint32_t msr, uint64_t value);

/* lapic_timer.c; under the lock. */
void lapic_timer_fn(void *opaque); /* takes the lock */
void lapic_timer_start(struct lapic *l, uint32_t count);
void lapic_timer_divide(struct lapic *l, uint32_t divide);
void lapic_timer_mode(struct lapic *l, uint32_t old_lvt);
void lapic_timer_deadline(struct lapic *l, uint64_t tsc);
void lapic_timer_stop(struct lapic *l);
uint32_t lapic_timer_count(const struct lapic *l);
void lapic_timer_freeze(struct lapic *l); /* live time into `count` */
void lapic_timer_thaw(struct lapic *l);	  /* and back */
void lapic_timer_retime(struct lapic *l); /* the TSC jumped */

/* lapic_bus.c */
NODISCARD int lapic_bus_add(struct lapic_bus *bus, struct lapic *l, struct error *err);
void lapic_bus_remove(struct lapic_bus *bus, struct lapic *l);
void lapic_bus_send(struct lapic_bus *bus, const struct lapic_msg *msg);
void lapic_bus_ipi(struct lapic *from, const struct lapic_msg *msg, unsigned shorthand);

/* lapic_state.c */
extern const struct state_desc lapic_state;
void lapic_page_encode(const struct lapic *l, uint8_t page[LAPIC_PAGE_BYTES]);
void lapic_page_decode(struct lapic *l, const uint8_t page[LAPIC_PAGE_BYTES]);
void lapic_pre_save(struct device *dev);
void lapic_post_load(struct device *dev);
void lapic_push(struct lapic *l); /* remote mode: registers to where they live */

#endif
