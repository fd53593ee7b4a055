/* fuzz_devices.c: a board without a CPU: random port, memory and MSR accesses, host events and
 * time, and after them every device's saved state must be one that it accepts. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backend/chardev.h"
#include "bus/cpu_link.h"
#include "dev/pc/acpi_pm.h"
#include "dev/pc/fw_cfg.h"
#include "dev/pc/hpet.h"
#include "dev/pc/i8042.h"
#include "dev/pc/ioapic.h"
#include "dev/pc/lapic.h"
#include "dev/pc/misc.h"
#include "dev/pc/pic.h"
#include "dev/pc/pit.h"
#include "dev/pc/rtc.h"
#include "dev/pc/uart.h"
#include "dev/pci/lpc.h"
#include "dev/pci/mch.h"
#include "dev/pci/pci.h"

#define CPUS	    2
#define MAX_DEVICES 24
#define MAX_STEPS   2000
#define ECAM	    UINT64_C(0xb0000000)
#define MAX_STATE   (1u << 17)

/* A PCI function with everything that the library offers. */
struct toy {
	struct pci_dev pci;
	struct region io, mem;
	uint32_t value;
};

struct board {
	struct space *ports, *memory;
	struct clock *clock;
	struct gmem *mem;
	struct chardev *console;
	struct lapic_bus *lapics;
	struct cpu_link link[CPUS];
	struct cpu_apic apic[CPUS];
	struct device *dev[MAX_DEVICES];
	unsigned count;
	struct device *pic, *ioapic, *hpet, *bus, *uart, *i8042, *pm;
	struct toy *toy;
	unsigned requests;
};

/* --- The board ----------------------------------------------------------------------------- */

static struct device *add(struct board *b, int rc, struct device *dev)
{
	if (rc || b->count == MAX_DEVICES)
		abort();
	return b->dev[b->count++] = dev;
}
/* ADD(b, uart, .base = 0x3f8, ...): makes a device from its configuration's fields. */
#define ADD(b, kind, ...)                                                                          \
	({                                                                                         \
		const struct kind##_config cfg_ = {__VA_ARGS__};                                   \
		struct device *dev_ = NULL;                                                        \
		int rc_ = kind##_new(&dev_, &cfg_, NULL);                                          \
		add(b, rc_, dev_);                                                                 \
	})

static void count_request(void *opaque, enum power_request what, unsigned arg)
{
	((struct board *)opaque)->requests++;
}

static void isa_set(void *opaque, unsigned line, _Bool level)
{
	struct board *b = opaque;
	struct irq pic = pic_line(b->pic, line % 16), ioapic = ioapic_line(b->ioapic, line);
	if (line < 16)
		irq_set(&pic, level);
	irq_set(&ioapic, level);
}

static void hpet_set(void *opaque, unsigned pin, _Bool level)
{
	struct irq irq = ioapic_line(((struct board *)opaque)->ioapic, pin);
	irq_set(&irq, level);
}

static uint64_t tsc_read(void *opaque, unsigned cpu)
{
	return clock_now_ns(((struct board *)opaque)->clock);
}

static uint64_t tsc_to_ns(void *opaque, unsigned cpu, uint64_t tsc)
{
	uint64_t now = clock_now_ns(((struct board *)opaque)->clock);
	return tsc > now ? tsc : now;
}

static uint64_t toy_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return ((struct toy *)dev)->value;
}

/* Bits of what is written choose which interrupts the function asks for. */
static void toy_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct toy *t = (struct toy *)dev;
	t->value = (uint32_t)value;
	pci_set_intx(&t->pci, value & 1);
	pci_msi_raise(&t->pci, value >> 1 & 0x3f);
	pci_msix_raise(&t->pci, value >> 8 & 0xff);
}

static void toy_reset(struct device *dev, enum reset_kind kind)
{
	pci_dev_reset(&((struct toy *)dev)->pci);
	((struct toy *)dev)->value = 0;
}

static void toy_free(struct device *dev)
{
	pci_dev_fini(&((struct toy *)dev)->pci);
	free(dev);
}

static void toy_post_load(struct device *dev)
{
	pci_dev_post_load(&((struct toy *)dev)->pci);
}

static int toy_check(const void *shadow, struct error *err)
{
	return pci_dev_check(&((const struct toy *)shadow)->pci, err);
}

static const struct region_ops toy_ops = {
    .read = toy_read, .write = toy_write, .min_size = 4, .max_size = 4};
static const struct state_field toy_fields[] = {
    STATE_SCALAR(1, struct toy, value),
    PCI_DEV_STATE(struct toy, pci),
    STATE_END,
};
static const struct state_desc toy_state = {"toy", toy_fields, sizeof(struct toy), toy_check};
static const struct device_class toy_class = {
    .name = "toy",
    .reset = toy_reset,
    .free = toy_free,
    .post_load = toy_post_load,
    .state = &toy_state,
};

static void add_toy(struct board *b)
{
	const struct pci_ids ids = {
	    .vendor = 0x1234, .device = 0x5678, .class_code = 0xff0000, .intx_pin = 1};
	struct toy *t = b->toy = calloc(1, sizeof(*t));
	if (!t || pci_dev_init(&t->pci, &toy_class, NULL, b->bus, 3, 0, &ids, 0, "toy", NULL))
		abort();
	t->io = (struct region){.name = "toy", .dev = &t->pci.dev, .ops = &toy_ops, .size = 16};
	t->mem = t->io;
	pci_add_bar(&t->pci, 0, PCI_BAR_IO, 16, 0);
	pci_add_bar(&t->pci, 2, PCI_BAR_MEM64, 0x4000, 1);
	pci_bar_attach(&t->pci, 0, &t->io, 0);
	pci_bar_attach(&t->pci, 2, &t->mem, 0x2000);
	pci_add_express(&t->pci);
	pci_add_msi(&t->pci, 8);
	pci_add_msix(&t->pci, 9, 2, 0, 0x1000);
	b->dev[b->count++] = &t->pci.dev;
}

static void add_interrupts(struct board *b)
{
	if (lapic_bus_new(&b->lapics))
		abort();
	for (unsigned i = 0; i < CPUS; i++) {
		struct device *dev =
		    ADD(b, lapic, .bus = b->lapics, .clock = b->clock, .link = &b->link[i],
			.tsc = {tsc_read, tsc_to_ns, b}, .cpu = i, .apic_id = i, .bsp = i == 0,
			.x2apic = 1, .phys_bits = 46);
		b->apic[i] = lapic_cpu_apic(dev);
	}
	b->pic = ADD(b, pic, .ports = b->ports, .out = lapic_bus_lint0(b->lapics));
	b->ioapic = ADD(b, ioapic, .memory = b->memory, .base = 0xfec00000,
			.sink = lapic_bus_sink(b->lapics));
	const struct lapic_bus_config bus = {ioapic_eoi_fn, b->ioapic, pic_ack_fn, b->pic};
	lapic_bus_configure(b->lapics, &bus);
}

static void add_pci(struct board *b, struct power_sink power)
{
	struct pci_bus_config cfg = {.ports = b->ports,
				     .memory = b->memory,
				     .msi = lapic_bus_sink(b->lapics),
				     .intx_count = 8,
				     .power = power};
	struct device *dev = NULL;
	for (unsigned i = 0; i < 8; i++)
		cfg.intx[i] = (struct irq){isa_set, b, 16 + i};
	int rc = pci_bus_new(&dev, &cfg, NULL);
	b->bus = add(b, rc, dev);
	ADD(b, mch, .bus = b->bus, .ecam_base = ECAM, .ecam_buses = 256);
	ADD(b, lpc, .bus = b->bus, .pm_base = 0x600, .sci_irq = 9);
	add_toy(b);
}

static void add_rest(struct board *b, struct power_sink power)
{
	b->hpet = ADD(b, hpet, .memory = b->memory, .clock = b->clock, .base = 0xfed00000,
		      .ioapic = {hpet_set, b, 0}, .legacy = {{isa_set, b, 0}, {isa_set, b, 8}},
		      .msi = lapic_bus_sink(b->lapics));
	ADD(b, pit, .ports = b->ports, .clock = b->clock, .irq = hpet_legacy_line(b->hpet, 0));
	ADD(b, rtc, .ports = b->ports, .clock = b->clock, .irq = hpet_legacy_line(b->hpet, 1),
	    .ram_low_end = 1 << 20, .ncpus = CPUS);
	b->uart = ADD(b, uart, .ports = b->ports, .base = 0x3f8, .irq = {isa_set, b, 4},
		      .clock = b->clock, .chardev = b->console);
	b->i8042 = ADD(b, i8042, .ports = b->ports, .kbd_irq = {isa_set, b, 1},
		       .aux_irq = {isa_set, b, 12}, .power = power, .keyboard = 1, .mouse = 1);
	b->pm = ADD(b, acpi_pm, .ports = b->ports, .base = 0x600, .sci = {isa_set, b, 9},
		    .clock = b->clock, .power = power, .acpi_enable = 0xa0, .acpi_disable = 0xa1,
		    .slp_typ_s5 = 5);
	ADD(b, post, .ports = b->ports, .base = 0x80);
	ADD(b, debug_con, .ports = b->ports, .base = 0x402);
	ADD(b, pvpanic, .ports = b->ports, .base = 0x505, .power = power);
	ADD(b, debug_exit, .ports = b->ports, .base = 0xf4, .power = power);
	struct device *fw = ADD(b, fw_cfg, .ports = b->ports, .base = 0x510, .mem = b->mem);
	if (fw_cfg_file(fw, "etc/a", "0123456789", 10, 0, NULL) ||
	    fw_cfg_file(fw, "etc/b", "writable", 8, FW_CFG_WRITABLE, NULL))
		abort();
}

static void board_init(struct board *b)
{
	const struct gmem_config ram = {.ram_bytes = 1 << 20, .low_limit = ECAM};
	const struct power_sink power = {count_request, b};
	memset(b, 0, sizeof(*b));
	if (space_new(&b->ports, "ports", 0x10000) ||
	    space_new(&b->memory, "memory", UINT64_C(1) << 46) ||
	    clock_new(&b->clock, CLOCK_MANUAL) || gmem_new(&b->mem, &ram, NULL) ||
	    chardev_mem_new(&b->console, 256))
		abort();
	clock_set_wall_base_ns(b->clock, INT64_C(1700000000000000000));
	add_interrupts(b);
	add_pci(b, power);
	add_rest(b, power);
	for (unsigned i = 0; i < b->count; i++)
		device_reset(b->dev[i], RESET_POWER);
}

static void board_fini(struct board *b)
{
	while (b->count)
		device_free(b->dev[--b->count]);
	lapic_bus_free(b->lapics);
	chardev_free(b->console);
	gmem_free(b->mem);
	clock_free(b->clock);
	space_free(b->ports);
	space_free(b->memory);
}

/* --- Steps --------------------------------------------------------------------------------- */

/* Where there is something, so that few bytes of input reach much. */
static uint64_t pick_port(struct rbuf *in)
{
	static const uint16_t base[] = {0x20,  0x40,  0x60,  0x70,  0x80,  0x90,  0xa0,
					0xb0,  0xf0,  0x3f8, 0x400, 0x4d0, 0x500, 0x510,
					0x600, 0x620, 0xcf8, 0xcf8, 0xcf8, 0xcf8, 0xc000};
	uint8_t which = rbuf_u8(in), low = rbuf_u8(in);
	return which < ARRAY_SIZE(base) ? base[which] + (low & 0x1f) : (uint64_t)(which << 8 | low);
}

static uint64_t pick_address(struct rbuf *in)
{
	static const uint64_t base[] = {
	    0xfec00000,	      0xfed00000,	 0xfed00100, 0xfee00000,	ECAM,
	    ECAM + (3 << 15), ECAM + (31 << 15), 0xe0000000, UINT64_C(1) << 32, UINT64_C(1) << 40,
	    0xc0000000,	      0xc0002000,
	};
	uint8_t which = rbuf_u8(in);
	uint16_t low = rbuf_u16(in);
	return which < ARRAY_SIZE(base) ? base[which] + (low & 0xfff) : (uint64_t)which << 24 | low;
}

static void check_fits(uint64_t value, unsigned size)
{
	if (value & ~size_mask(size))
		abort();
}

static void host_event(struct board *b, struct rbuf *in)
{
	uint8_t what = rbuf_u8(in), bytes[4];
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = rbuf_u8(in);
	switch (what % 8) {
	case 0: chardev_mem_feed(b->console, bytes, sizeof(bytes)); break;
	case 1: uart_break(b->uart); break;
	case 2: i8042_key(b->i8042, bytes, bytes[0] % 4); break;
	case 3: i8042_mouse(b->i8042, (int8_t)bytes[0], (int8_t)bytes[1], 0, bytes[2]); break;
	case 4: acpi_pm_power_button(b->pm); break;
	case 5: acpi_pm_gpe(b->pm, bytes[0] % 64); break;
	case 6: device_reset(b->dev[bytes[0] % b->count], RESET_SYSTEM); break;
	case 7: clock_set_ns(b->clock, clock_now_ns(b->clock) + (BIT64(bytes[0] % 48))); break;
	}
}

static void apic_step(struct board *b, struct rbuf *in)
{
	uint8_t what = rbuf_u8(in);
	uint16_t low = rbuf_u16(in);
	uint64_t value = rbuf_u64(in);
	struct cpu_apic a = b->apic[what >> 7];
	uint32_t msr = low & 0x1000 ? 0x1b : low & 0x2000 ? 0x6e0 : 0x800 + (low & 0xff);
	switch (what % 8) {
	case 0: (void)a.ops->msr_read(a.apic, msr, &value); break;
	case 1: (void)a.ops->msr_write(a.apic, msr, value); break;
	case 2:
		(void)a.ops->mmio_read(a.apic, a.ops->mmio_base(a.apic) + (low & 0xfff),
				       1u << (value & 3), &value);
		break;
	case 3:
		(void)a.ops->mmio_write(a.apic, a.ops->mmio_base(a.apic) + (low & 0xff0), 4,
					value & UINT32_MAX);
		break;
	case 4: (void)a.ops->ack(a.apic); break;
	case 5: a.ops->set_cr8(a.apic, (uint8_t)(value & 15)); break;
	case 6: (void)a.ops->get_cr8(a.apic); break;
	case 7: a.ops->init(a.apic); break;
	}
}

/* What a device saved is accepted by it; with one bit changed it may be refused, or else taken. */
static void state_step(struct board *b, unsigned index, uint32_t flip)
{
	struct device *dev = b->dev[index % b->count];
	struct state_shadow *shadow;
	struct wbuf w;
	struct rbuf r;
	wbuf_init(&w, MAX_STATE);
	device_save(dev, &w);
	if (w.failed)
		abort();
	if (flip)
		w.data[flip / 8 % w.len] ^= (uint8_t)(1u << (flip & 7));
	rbuf_init(&r, w.data, w.len);
	int rc = device_decode(dev, &r, &shadow, NULL);
	if (!rc)
		device_commit(dev, shadow);
	else if (!flip)
		abort();
	wbuf_fini(&w);
}

static void step(struct board *b, struct rbuf *in)
{
	uint8_t op = rbuf_u8(in);
	unsigned size = 1u << (op >> 3 & 3);
	uint64_t at;
	switch (op & 7) {
	case 0:
		at = pick_port(in);
		check_fits(space_read(b->ports, at, size), size);
		break;
	case 1:
		at = pick_port(in);
		space_write(b->ports, at, size, rbuf_u32(in) & size_mask(size));
		break;
	case 2:
		at = pick_address(in);
		check_fits(space_read(b->memory, at, size), size);
		break;
	case 3:
		at = pick_address(in);
		space_write(b->memory, at, size, rbuf_u64(in) & size_mask(size));
		break;
	case 4: clock_advance(b->clock, BIT64(rbuf_u8(in) % 27)); break;
	case 5: host_event(b, in); break;
	case 6: apic_step(b, in); break;
	case 7: {
		unsigned index = rbuf_u8(in);
		state_step(b, index, op & 0x80 ? rbuf_u32(in) : 0);
		break;
	}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board b;
	struct rbuf in;
	board_init(&b);
	rbuf_init(&in, data, size);
	for (unsigned i = 0; i < MAX_STEPS && rbuf_left(&in) && !in.failed; i++)
		step(&b, &in);
	for (unsigned i = 0; i < b.count; i++)
		state_step(&b, i, 0);
	board_fini(&b);
	return 0;
}
