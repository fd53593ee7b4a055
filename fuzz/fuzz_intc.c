/* fuzz_intc.c: interrupt controllers and timers, wired as on the board: accesses, lines, messages,
 * time, and saved state. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "dev/pc/hpet.h"
#include "dev/pc/ioapic.h"
#include "dev/pc/lapic.h"
#include "dev/pc/pic.h"
#include "dev/pc/pit.h"
#include "x86/regs.h"

#define CPUS	  2
#define MAX_STEPS 2000

enum { DEV_PIC = CPUS, DEV_IOAPIC, DEV_PIT, DEV_HPET, DEVICES };

struct board {
	struct space *ports, *memory;
	struct clock *clock;
	struct lapic_bus *bus;
	struct cpu_link link[CPUS];
	struct cpu_apic apic[CPUS];
	struct device *dev[DEVICES];
};

struct input {
	const uint8_t *data;
	size_t left;
};

static uint64_t take(struct input *in, size_t bytes)
{
	uint64_t v = 0;

	bytes = MIN(bytes, in->left);
	memcpy(&v, in->data, bytes);
	in->data += bytes;
	in->left -= bytes;
	return v;
}

static uint64_t tsc_read(void *opaque, unsigned cpu)
{
	return clock_now_ns(opaque) * 2;
}

static uint64_t tsc_ns(void *opaque, unsigned cpu, uint64_t tsc)
{
	return MAX(tsc / 2, clock_now_ns(opaque));
}

static void isa_set(void *opaque, unsigned line, _Bool level)
{
	struct board *b = opaque;
	struct irq pic = pic_line(b->dev[DEV_PIC], line);
	struct irq io = ioapic_line(b->dev[DEV_IOAPIC], line ? line : 2);

	irq_set(&pic, level);
	irq_set(&io, level);
}

static void pin_set(void *opaque, unsigned line, _Bool level)
{
	struct board *b = opaque;
	struct irq io = ioapic_line(b->dev[DEV_IOAPIC], line);

	irq_set(&io, level);
}

static void must(int ret)
{
	if (ret)
		abort();
}

static void board_apics(struct board *b)
{
	struct lapic_bus_config bus = {.eoi = ioapic_eoi_fn, .pic_ack = pic_ack_fn};

	must(lapic_bus_new(&b->bus));
	for (unsigned i = 0; i < CPUS; i++) {
		struct lapic_config cfg = {.bus = b->bus,
					   .clock = b->clock,
					   .link = &b->link[i],
					   .tsc = {tsc_read, tsc_ns, b->clock},
					   .cpu = i,
					   .apic_id = i,
					   .bsp = i == 0,
					   .x2apic = 1,
					   .phys_bits = 40};

		must(lapic_new(&b->dev[i], &cfg, NULL));
		b->apic[i] = lapic_cpu_apic(b->dev[i]);
	}
	must(pic_new(&b->dev[DEV_PIC],
		     &(struct pic_config){.ports = b->ports, .out = lapic_bus_lint0(b->bus)},
		     NULL));
	must(ioapic_new(&b->dev[DEV_IOAPIC],
			&(struct ioapic_config){.memory = b->memory,
						.base = 0xfec00000,
						.sink = lapic_bus_sink(b->bus)},
			NULL));
	bus.eoi_opaque = b->dev[DEV_IOAPIC];
	bus.pic_opaque = b->dev[DEV_PIC];
	lapic_bus_configure(b->bus, &bus);
}

static void board_make(struct board *b)
{
	struct hpet_config hpet = {.base = 0xfed00000,
				   .ioapic = {pin_set, b, 0},
				   .legacy = {{isa_set, b, 0}, {isa_set, b, 8}}};
	struct pit_config pit = {0};

	must(space_new(&b->ports, "ports", 65536));
	must(space_new(&b->memory, "memory", UINT64_C(1) << 40));
	must(clock_new(&b->clock, CLOCK_MANUAL));
	board_apics(b);
	hpet.memory = b->memory;
	hpet.clock = pit.clock = b->clock;
	hpet.msi = lapic_bus_sink(b->bus);
	must(hpet_new(&b->dev[DEV_HPET], &hpet, NULL));
	pit.ports = b->ports;
	pit.irq = hpet_legacy_line(b->dev[DEV_HPET], 0);
	must(pit_new(&b->dev[DEV_PIT], &pit, NULL));
	for (unsigned i = 0; i < DEVICES; i++)
		device_reset(b->dev[i], RESET_POWER);
	lapic_virtual_wire(b->dev[0]);
}

static void board_drop(struct board *b)
{
	for (unsigned i = DEVICES; i-- > 0;)
		device_free(b->dev[i]);
	lapic_bus_free(b->bus);
	clock_free(b->clock);
	space_free(b->ports);
	space_free(b->memory);
}

/* What a device saves, it loads, and saves again as the same bytes. */
static void roundtrip(struct device *dev)
{
	struct state_shadow *shadow;
	struct wbuf a, c;
	struct rbuf in;

	wbuf_init(&a, 1 << 16);
	wbuf_init(&c, 1 << 16);
	device_save(dev, &a);
	rbuf_init(&in, a.data, a.len);
	must(device_decode(dev, &in, &shadow, NULL));
	device_commit(dev, shadow);
	device_save(dev, &c);
	if (a.len != c.len || memcmp(a.data, c.data, a.len))
		abort();
	wbuf_fini(&a);
	wbuf_fini(&c);
}

/* State with some bytes changed: refused, or a state that the device can live in. */
static void load_damaged(struct device *dev, struct input *in)
{
	struct state_shadow *shadow;
	struct wbuf a;
	struct rbuf r;

	wbuf_init(&a, 1 << 16);
	device_save(dev, &a);
	for (unsigned n = take(in, 1) & 7; n > 0; n--) {
		size_t at = take(in, 2) % a.len;

		a.data[at] = (uint8_t)take(in, 1);
	}
	rbuf_init(&r, a.data, a.len);
	if (!device_decode(dev, &r, &shadow, NULL))
		device_commit(dev, shadow);
	wbuf_fini(&a);
}

static uint16_t pick_port(struct input *in)
{
	static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40,
					 0x41, 0x42, 0x43, 0x61, 0x60,	0x1f,  0x4cf};

	return ports[take(in, 1) % ARRAY_SIZE(ports)];
}

static uint64_t pick_address(struct input *in)
{
	static const uint64_t bases[] = {0xfec00000, 0xfec00010, 0xfed00000, 0xfed00100};

	return bases[take(in, 1) % ARRAY_SIZE(bases)] + (take(in, 1) & 0x7f);
}

static void step_apic(struct board *b, struct input *in, unsigned op)
{
	unsigned cpu = (unsigned)take(in, 1) % CPUS;
	const struct cpu_apic *a = &b->apic[cpu];
	uint64_t value, base = a->ops->mmio_base(a->apic);

	switch (op) {
	case 0:
		if (base != UINT64_MAX)
			a->ops->mmio_write(a->apic, base + (take(in, 1) << 4), 4, take(in, 4));
		break;
	case 1:
		a->ops->mmio_read(a->apic, base + take(in, 2) % 4096, 1u << (in->left & 3), &value);
		break;
	case 2: a->ops->msr_write(a->apic, 0x800 + (uint32_t)take(in, 1), take(in, 8)); break;
	case 3: a->ops->msr_read(a->apic, 0x800 + (uint32_t)take(in, 1), &value); break;
	case 4: a->ops->msr_write(a->apic, MSR_APIC_BASE, 0xfee00000 | take(in, 2)); break;
	case 5: a->ops->msr_write(a->apic, MSR_TSC_DEADLINE, take(in, 5)); break;
	case 6:
		/* An acknowledge that finds nothing (an ExtINT message without a request at the
		 * PIC) leaves nothing raised, or the CPU would ask for ever. */
		if ((b->link[cpu].events & CPU_EVENT_INTR) && a->ops->ack(a->apic) < 0)
			assert(!(b->link[cpu].events & CPU_EVENT_INTR));
		break;
	default: a->ops->set_cr8(a->apic, (uint8_t)take(in, 1)); break;
	}
	if (b->link[cpu].events & CPU_EVENT_INIT) {
		cpu_link_clear(&b->link[cpu], CPU_EVENT_INIT);
		a->ops->init(a->apic);
	}
}

static void step(struct board *b, struct input *in)
{
	unsigned op = (unsigned)take(in, 1);
	struct msi_sink sink = lapic_bus_sink(b->bus);

	switch (op & 15) {
	case 0: space_write(b->ports, pick_port(in), 1u << (op >> 4 & 3), take(in, 4)); break;
	case 1: space_read(b->ports, pick_port(in), 1u << (op >> 4 & 3)); break;
	case 2: space_write(b->memory, pick_address(in), 1u << (op >> 4 & 3), take(in, 8)); break;
	case 3: space_read(b->memory, pick_address(in), 1u << (op >> 4 & 3)); break;
	case 4: isa_set(b, op >> 4, take(in, 1) & 1); break;
	case 5: pin_set(b, (unsigned)take(in, 1) % 32, op >> 4 & 1); break;
	case 6: msi_send(&sink, 0xfee00000 | take(in, 3), (uint32_t)take(in, 2)); break;
	case 7: clock_advance(b->clock, take(in, 2) << (op >> 6 << 2)); break;
	case 8: roundtrip(b->dev[(op >> 4) % DEVICES]); break;
	case 9: load_damaged(b->dev[(op >> 4) % DEVICES], in); break;
	default: step_apic(b, in, op >> 4 & 7); break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board b = {0};
	struct input in = {data, size};

	log_set_level(LOG_ERROR);
	board_make(&b);
	for (unsigned i = 0; i < MAX_STEPS && in.left; i++)
		step(&b, &in);
	for (unsigned i = 0; i < DEVICES; i++)
		roundtrip(b.dev[i]);
	board_drop(&b);
	return 0;
}
