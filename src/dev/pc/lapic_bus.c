/* lapic_bus.c: who gets a message: destinations, shorthands, lowest priority (SDM3 11.6.2). */
#include "dev/pc/lapic_impl.h"

#include <stdlib.h>
#include <errno.h>
#include "base/trace.h"

int lapic_bus_new(struct lapic_bus **bus)
{
	struct lapic_bus *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	*bus = b;
	return 0;
}

void lapic_bus_configure(struct lapic_bus *bus, const struct lapic_bus_config *cfg)
{
	bus->cfg = *cfg;
}

void lapic_bus_free(struct lapic_bus *bus)
{
	free(bus);
}

int lapic_bus_add(struct lapic_bus *bus, struct lapic *l, struct error *err)
{
	uint32_t id = l->cfg.apic_id;

	if (id >= LAPIC_MAX_CPUS)
		return error_set(err, -EINVAL, "The APIC id %u is above %u.", id,
				 LAPIC_MAX_CPUS - 1);
	if (l->cfg.remote.get) /* messages reach it by another way */
		return 0;
	if (bus->by_id[id])
		return error_set(err, -EEXIST, "The APIC id %u is used twice.", id);
	bus->by_id[id] = l;
	bus->all[bus->count++] = l;
	return 0;
}

void lapic_bus_remove(struct lapic_bus *bus, struct lapic *l)
{
	if (!bus || bus->by_id[l->cfg.apic_id] != l)
		return;
	bus->by_id[l->cfg.apic_id] = NULL;
	for (unsigned i = 0; i < bus->count; i++) {
		if (bus->all[i] == l) {
			bus->all[i] = bus->all[--bus->count];
			break;
		}
	}
}

static inline uint32_t lapic_route(const struct lapic *l)
{
	return atomic_load_explicit(&l->route, memory_order_acquire);
}

/* SDM3 11.6.2.2, 11.12.10.2. An 8-bit destination names the low bits of an x2APIC's logical id in
 * cluster 0. */
static _Bool logical_match(const struct lapic *l, uint32_t route, const struct lapic_msg *m)
{
	uint32_t ldr = ROUTE_LDR(route);

	if (route & ROUTE_X2APIC) {
		ldr = lapic_x2apic_ldr(l->cfg.apic_id);
		return ldr >> 16 == m->dest >> 16 && (ldr & m->dest & 0xffff);
	}
	if (m->dest > 0xff)
		return 0;
	if (route & ROUTE_FLAT)
		return (ldr & m->dest) != 0;
	/* Cluster model: cluster 15 means all clusters. */
	if (m->dest >> 4 != 15 && m->dest >> 4 != ldr >> 4)
		return 0;
	return (ldr & m->dest & 15) != 0;
}

static _Bool msg_is_broadcast(const struct lapic_msg *m)
{
	return m->wide ? m->dest == UINT32_MAX : m->dest == 0xff;
}

static _Bool lapic_matches(const struct lapic *l, uint32_t route, const struct lapic_msg *m)
{
	if (!(route & ROUTE_ON))
		return 0;
	if (msg_is_broadcast(m) && (!m->logical || (route & ROUTE_X2APIC)))
		return 1;
	return m->logical ? logical_match(l, route, m) : l->cfg.apic_id == m->dest;
}

static void lapic_deliver(struct lapic *l, const struct lapic_msg *m)
{
	struct cpu_link *link = l->cfg.link;

	switch (m->mode) {
	case APIC_FIXED:
	case APIC_LOWEST:
		lock_take(&l->dev.lock);
		lapic_accept(l, m->vector, m->level);
		lock_drop(&l->dev.lock);
		break;
	case APIC_NMI: cpu_link_raise(link, CPU_EVENT_NMI); break;
	case APIC_INIT:
		if (m->level && !m->assert) /* de-assert: nothing since P4 (SDM3 table 11-3) */
			break;
		cpu_link_clear(link, CPU_EVENT_SIPI); /* one sent before INIT finds nobody */
		cpu_link_raise(link, CPU_EVENT_INIT);
		break;
	case APIC_SIPI:
		atomic_store_explicit(&link->sipi_vector, m->vector, memory_order_release);
		cpu_link_raise(link, CPU_EVENT_SIPI);
		break;
	case APIC_EXTINT:
		lock_take(&l->dev.lock);
		if (lapic_on(l) && (l->svr & SVR_ENABLE)) {
			l->extint = 1;
			lapic_update(l);
		}
		lock_drop(&l->dev.lock);
		break;
	default: /* SMI: there is no system management mode; 3 is reserved */
		trace(TRACE_IRQ, "apic %u: message of mode %u dropped", l->cfg.apic_id, m->mode);
		break;
	}
}

/* The one with the lowest priority, taking turns among equals (SDM3 11.6.2.4). */
static void send_lowest(struct lapic_bus *bus, const struct lapic_msg *m)
{
	unsigned start = atomic_fetch_add_explicit(&bus->turn, 1, memory_order_relaxed);
	struct lapic *best = NULL;
	unsigned best_priority = 256;

	for (unsigned i = 0; i < bus->count; i++) {
		struct lapic *l = bus->all[(start + i) % bus->count];
		uint32_t route = lapic_route(l);
		unsigned priority;

		if (!(route & ROUTE_ACCEPTS) || !lapic_matches(l, route, m))
			continue;
		priority = atomic_load_explicit(&l->priority, memory_order_relaxed) >> 4;
		if (priority < best_priority) {
			best_priority = priority;
			best = l;
		}
	}
	if (best)
		lapic_deliver(best, m);
}

void lapic_bus_send(struct lapic_bus *bus, const struct lapic_msg *m)
{
	if (!m->logical && !msg_is_broadcast(m)) {
		struct lapic *l = m->dest < LAPIC_MAX_CPUS ? bus->by_id[m->dest] : NULL;

		if (l && (lapic_route(l) & ROUTE_ON))
			lapic_deliver(l, m);
		return;
	}
	if (m->lowest) {
		send_lowest(bus, m);
		return;
	}
	for (unsigned i = 0; i < bus->count; i++) {
		if (lapic_matches(bus->all[i], lapic_route(bus->all[i]), m))
			lapic_deliver(bus->all[i], m);
	}
}

/* From an ICR. Shorthand 2 is "all including self", 3 "all but self"; 1, "self", was done under the
 * sender's lock. */
void lapic_bus_ipi(struct lapic *from, const struct lapic_msg *m, unsigned shorthand)
{
	struct lapic_bus *bus = from->cfg.bus;

	trace(TRACE_IRQ, "apic %u: IPI mode %u vector %02x to %x shorthand %u", from->cfg.apic_id,
	      m->mode, m->vector, m->dest, shorthand);
	if (shorthand == 0) {
		lapic_bus_send(bus, m);
		return;
	}
	for (unsigned i = 0; i < bus->count; i++) {
		struct lapic *l = bus->all[i];

		if ((shorthand == 3 && l == from) || !(lapic_route(l) & ROUTE_ON))
			continue;
		lapic_deliver(l, m);
	}
}

/* SDM3 11.11.1, 11.11.2 */
static void bus_msi(void *opaque, uint64_t addr, uint32_t data)
{
	struct lapic_msg m = {
	    .dest = (addr >> 12) & 0xff,
	    .vector = (uint8_t)data,
	    .mode = (data >> 8) & 7,
	    .logical = !!(addr & BIT32(2)),
	    .level = !!(data & BIT32(15)),
	    .assert = !!(data & BIT32(14)),
	};

	trace(TRACE_IRQ, "msi %08llx %08x", (unsigned long long)addr, data);
	if (addr >> 20 != 0xfee)
		return;
	if (m.mode == APIC_SIPI || (m.level && !m.assert &&m.mode != APIC_INIT))
		return;
	m.lowest = m.mode == APIC_LOWEST || ((addr & BIT32(3)) && m.mode == APIC_FIXED);
	lapic_bus_send(opaque, &m);
}

struct msi_sink lapic_bus_sink(struct lapic_bus *bus)
{
	return (struct msi_sink){.send = bus_msi, .opaque = bus};
}

static void bus_lint(void *opaque, unsigned line, _Bool level)
{
	struct lapic_bus *bus = opaque;

	atomic_store(line ? &bus->lint1 : &bus->lint0, level);
	for (unsigned i = 0; i < bus->count; i++) {
		struct lapic *l = bus->all[i];

		if (line == 0 && !atomic_load(&l->lint0_open))
			continue;
		lock_take(&l->dev.lock);
		lapic_pin_set(l, line, atomic_load(line ? &bus->lint1 : &bus->lint0));
		lock_drop(&l->dev.lock);
	}
}

struct irq lapic_bus_lint0(struct lapic_bus *bus)
{
	return (struct irq){.set = bus_lint, .opaque = bus, .line = 0};
}

struct irq lapic_bus_lint1(struct lapic_bus *bus)
{
	return (struct irq){.set = bus_lint, .opaque = bus, .line = 1};
}
