/* devices.c: the board's devices: which, where, in which order, and the wires between them. */
#include <errno.h>
#include <stdio.h>

#include "dev/pc/acpi_pm.h"
#include "dev/pc/fw_cfg.h"
#include "dev/pc/hpet.h"
#include "dev/pc/i8042.h"
#include "dev/pc/ioapic.h"
#include "dev/pc/kvmclock.h"
#include "dev/pc/misc.h"
#include "dev/pc/pic.h"
#include "dev/pc/pit.h"
#include "dev/pc/rtc.h"
#include "dev/pc/uart.h"
#include "dev/pci/lpc.h"
#include "dev/pci/mch.h"
#include "dev/pci/pci.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/scsi.h"
#include "machine/internal.h"

#define PORT_DEBUG_EXIT 0xf4
#define PORT_DEBUG_CON	0x402
#define PORT_POST	0x80

/* ISA interrupt n: the PIC's input, and the IOAPIC's pin, which for the timer is 2 (MADT override).
 */
static void isa_set(void *opaque, unsigned line, _Bool level)
{
	struct machine *m = opaque;
	struct irq pic = pic_line(m->pic, line), ioapic = ioapic_line(m->ioapic, line ? line : 2);

	irq_set(&pic, level);
	irq_set(&ioapic, level);
}

static struct irq isa_irq(struct machine *m, unsigned line)
{
	return (struct irq){isa_set, m, line};
}

/* Under the wire lock: drives an IOAPIC pin above the ISA ones by all that share it. */
static void drive_pin(struct machine *m, unsigned pin)
{
	struct irq irq = ioapic_line(m->ioapic, pin);
	_Bool level = m->hpet_levels & BIT32(pin);

	if (pin >= BOARD_INTX_GSI)
		level |= !!(m->intx_levels & BIT32(pin - BOARD_INTX_GSI));
	for (unsigned i = 0; i < m->layout.virtio_mmio; i++)
		level |= board_virtio_gsi(i) == pin && (m->mmio_levels & BIT32(i));
	irq_set(&irq, level);
}

/* Under the wire lock: the INTx lines that end at one PIC input. */
static void drive_pic(struct machine *m, unsigned input)
{
	struct irq irq = pic_line(m->pic, input);
	_Bool level = 0;

	for (unsigned line = 0; line < BOARD_INTX_LINES; line++)
		level |= board_intx_pic(line) == input && (m->intx_levels & BIT32(line));
	irq_set(&irq, level);
}

static uint32_t with_bit(uint32_t levels, unsigned bit, _Bool level)
{
	return level ? levels | BIT32(bit) : levels & ~BIT32(bit);
}

static void intx_set(void *opaque, unsigned line, _Bool level)
{
	struct machine *m = opaque;

	lock_take(&m->wire_lock);
	m->intx_levels = with_bit(m->intx_levels, line, level);
	drive_pin(m, BOARD_INTX_GSI + line);
	drive_pic(m, board_intx_pic(line));
	lock_drop(&m->wire_lock);
}

static void mmio_set(void *opaque, unsigned index, _Bool level)
{
	struct machine *m = opaque;

	lock_take(&m->wire_lock);
	m->mmio_levels = with_bit(m->mmio_levels, index, level);
	drive_pin(m, board_virtio_gsi(index));
	lock_drop(&m->wire_lock);
}

static void hpet_set(void *opaque, unsigned pin, _Bool level)
{
	struct machine *m = opaque;

	if (pin < BOARD_INTX_GSI || pin >= IOAPIC_PINS)
		return;
	lock_take(&m->wire_lock);
	m->hpet_levels = with_bit(m->hpet_levels, pin, level);
	drive_pin(m, pin);
	lock_drop(&m->wire_lock);
}

/* With an APIC in the host's kernel, the PIC's output goes to the engine. */
static void extint_set(void *opaque, unsigned line, _Bool level)
{
	struct machine *m = opaque;

	m->engine->ops->extint(m->engine, level);
}

static void engine_msi(void *opaque, uint64_t addr, uint32_t data)
{
	struct machine *m = opaque;

	m->engine->ops->msi(m->engine, addr, data);
}

static void engine_eoi_vectors(void *opaque, const uint64_t bitmap[4])
{
	struct machine *m = opaque;

	m->engine->ops->eoi_vectors(m->engine, bitmap);
}

static struct msi_sink machine_msi(struct machine *m)
{
	return m->lapics ? lapic_bus_sink(m->lapics) : (struct msi_sink){engine_msi, m};
}

/* Takes a *_new function's result: on success the device goes onto the list and, if asked, into
 * *keep. */
static int added(struct machine *m, int r, struct device **dev, struct device **keep)
{
	if (r)
		return r;
	machine_add(m, *dev);
	if (keep)
		*keep = *dev;
	return 0;
}

static int remote_get(void *opaque, unsigned cpu, uint8_t page[LAPIC_PAGE_BYTES], uint64_t *base,
		      uint64_t *deadline)
{
	struct machine *m = opaque;

	return m->engine->ops->apic_get(m->vcpu[cpu], page, base, deadline);
}

static int remote_set(void *opaque, unsigned cpu, const uint8_t page[LAPIC_PAGE_BYTES],
		      uint64_t base, uint64_t deadline)
{
	struct machine *m = opaque;

	return m->engine->ops->apic_set(m->vcpu[cpu], page, base, deadline);
}

static int add_lapics(struct machine *m, struct error *err)
{
	const struct engine_ops *ops = m->engine->ops;
	struct device *dev;

	if (!ops->own_apic && lapic_bus_new(&m->lapics))
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < m->env.cpus; i++) {
		struct lapic_config cfg = {
		    .bus = m->lapics,
		    .clock = m->clock,
		    .link = ops->own_apic ? NULL : &m->vcpu[i]->link,
		    .cpu = i,
		    .apic_id = i,
		    .bsp = i == 0,
		    .x2apic = 1,
		    .phys_bits = m->cpuid.phys_bits,
		};
		int r;

		if (ops->own_apic)
			cfg.remote = (struct lapic_remote){remote_get, remote_set, m};
		else if (ops->tsc_source)
			ops->tsc_source(m->engine, &cfg.tsc);
		r = added(m, lapic_new(&dev, &cfg, err), &dev, &m->lapic[i]);
		if (r)
			return r;
		if (!ops->own_apic)
			m->vcpu[i]->apic = lapic_cpu_apic(dev);
	}
	return 0;
}

static int add_interrupt_controllers(struct machine *m, struct error *err)
{
	const struct pic_config pic = {
	    .ports = m->ports,
	    .out = m->lapics ? lapic_bus_lint0(m->lapics) : (struct irq){extint_set, m, 0},
	};
	const struct ioapic_config ioapic = {
	    .memory = m->memory,
	    .base = m->layout.ioapic_base,
	    .id = m->layout.ioapic_id,
	    .sink = machine_msi(m),
	    .eoi_vectors = m->lapics ? NULL : engine_eoi_vectors,
	    .opaque = m,
	};
	struct device *dev;
	int r = added(m, pic_new(&dev, &pic, err), &dev, &m->pic);

	if (!r)
		r = added(m, ioapic_new(&dev, &ioapic, err), &dev, &m->ioapic);
	if (!r && m->lapics) {
		const struct lapic_bus_config bus = {ioapic_eoi_fn, m->ioapic, pic_ack_fn, m->pic};
		lapic_bus_configure(m->lapics, &bus);
	}
	return r;
}

static int add_timers(struct machine *m, struct error *err)
{
	const struct hpet_config hpet = {
	    .memory = m->memory,
	    .clock = m->clock,
	    .base = m->layout.hpet_base,
	    .ioapic = {hpet_set, m, 0},
	    .legacy = {isa_irq(m, 0), isa_irq(m, 8)},
	    .msi = machine_msi(m),
	};
	struct pit_config pit = {.ports = m->ports, .clock = m->clock};
	struct rtc_config rtc = {
	    .ports = m->ports,
	    .clock = m->clock,
	    .ram_low_end = m->layout.ram_low_end,
	    .ram_high_size = m->layout.ram_high_size,
	    .ncpus = m->env.cpus,
	};
	struct device *dev;
	int r = added(m, hpet_new(&dev, &hpet, err), &dev, &m->hpet);

	if (r)
		return r;
	pit.irq = hpet_legacy_line(m->hpet, 0);
	rtc.irq = hpet_legacy_line(m->hpet, 1);
	r = added(m, pit_new(&dev, &pit, err), &dev, NULL);
	if (!r)
		r = added(m, rtc_new(&dev, &rtc, err), &dev, NULL);
	return r;
}

static void shadow_switched(void *opaque, unsigned segment, unsigned old, unsigned now)
{
	struct machine *m = opaque;

	bios_shadow(&m->bios, m->mem, segment, old, now);
}

static int add_pci(struct machine *m, struct error *err)
{
	struct pci_bus_config bus = {
	    .ports = m->ports,
	    .memory = m->memory,
	    .msi = machine_msi(m),
	    .intx_count = BOARD_INTX_LINES,
	    .power = m->cfg.power,
	};
	struct mch_config mch = {
	    .ecam_base = m->layout.ecam_base,
	    .ecam_buses = m->layout.ecam_buses,
	    .shadow = m->bios.data ? shadow_switched : NULL,
	    .opaque = m,
	};
	struct lpc_config lpc = {.pm_base = m->layout.pm_base, .sci_irq = m->layout.sci_irq};
	struct device *dev;
	int r;

	for (unsigned i = 0; i < BOARD_INTX_LINES; i++) {
		bus.intx[i] = (struct irq){intx_set, m, i};
		lpc.pirq[i] = (uint8_t)board_intx_pic(i);
	}
	r = added(m, pci_bus_new(&dev, &bus, err), &dev, &m->pci);
	mch.bus = lpc.bus = m->pci;
	if (!r)
		r = added(m, mch_new(&dev, &mch, err), &dev, NULL);
	if (!r)
		r = added(m, lpc_new(&dev, &lpc, err), &dev, NULL);
	return r;
}

static int add_serial(struct machine *m, struct error *err)
{
	struct device *dev;
	int r = 0;

	for (unsigned i = 0; !r && i < m->layout.com_count; i++) {
		const struct uart_config uart = {
		    .ports = m->ports,
		    .base = m->layout.com_port[i],
		    .irq = isa_irq(m, m->layout.com_irq[i]),
		    .clock = m->clock,
		    .chardev = i ? NULL : m->cfg.console,
		    .hold_input = 1,
		    .instance = i,
		};
		r = added(m, uart_new(&dev, &uart, err), &dev, i ? NULL : &m->console_uart);
	}
	return r;
}

static int add_power(struct machine *m, struct error *err)
{
	const struct acpi_pm_config pm = {
	    .ports = m->ports,
	    .base = m->layout.pm_base,
	    .sci = isa_irq(m, m->layout.sci_irq),
	    .clock = m->clock,
	    .power = m->cfg.power,
	    .acpi_enable = BOARD_ACPI_ENABLE,
	    .acpi_disable = BOARD_ACPI_DISABLE,
	    .slp_typ_s5 = BOARD_SLP_TYP_S5,
	    .acpi_on = 1,
	};
	const struct i8042_config i8042 = {
	    .ports = m->ports,
	    .kbd_irq = isa_irq(m, 1),
	    .aux_irq = isa_irq(m, 12),
	    .power = m->cfg.power,
	    .keyboard = m->layout.has_i8042,
	    .mouse = m->layout.has_i8042,
	};
	struct device *dev;
	int r = added(m, acpi_pm_new(&dev, &pm, err), &dev, &m->pm);

	if (!r)
		r = added(m, i8042_new(&dev, &i8042, err), &dev, NULL);
	return r;
}

static int fill_fw_cfg(struct machine *m, struct error *err)
{
	int r = fw_cfg_u64(m->fw_cfg, FW_CFG_RAM_SIZE, m->layout.ram_bytes, err);

	if (!r)
		r = fw_cfg_item(m->fw_cfg, FW_CFG_UUID, m->ident.uuid, sizeof(m->ident.uuid), 0,
				err);
	if (!r)
		r = fw_cfg_u16(m->fw_cfg, FW_CFG_NB_CPUS, (uint16_t)m->env.cpus, err);
	if (!r)
		r = fw_cfg_u16(m->fw_cfg, FW_CFG_MAX_CPUS, (uint16_t)m->env.cpus, err);
	if (!r)
		r = fw_cfg_u16(m->fw_cfg, FW_CFG_NOGRAPHIC, 1, err);
	return r;
}

static int add_small_ports(struct machine *m, struct error *err)
{
	const struct post_config post = {m->ports, PORT_POST};
	const struct debug_con_config con = {m->ports, PORT_DEBUG_CON, NULL};
	const struct pvpanic_config panic = {m->ports, BOARD_PORT_PVPANIC, m->cfg.power};
	const struct debug_exit_config debug = {m->ports, PORT_DEBUG_EXIT, m->cfg.power};
	const struct fw_cfg_config fw = {m->ports, BOARD_PORT_FW_CFG, m->mem};
	struct device *dev;
	int r = added(m, post_new(&dev, &post, err), &dev, NULL);

	if (!r)
		r = added(m, debug_con_new(&dev, &con, err), &dev, NULL);
	if (!r && m->layout.has_pvpanic)
		r = added(m, pvpanic_new(&dev, &panic, err), &dev, NULL);
	if (!r && m->cfg.spec->debug_exit)
		r = added(m, debug_exit_new(&dev, &debug, err), &dev, NULL);
	if (!r && m->layout.has_fw_cfg) {
		r = added(m, fw_cfg_new(&dev, &fw, err), &dev, &m->fw_cfg);
		if (!r)
			r = fill_fw_cfg(m, err);
	}
	return r;
}

/* KVM itself has a clock for its guests; other engines get ours. */
static int add_personality(struct machine *m, struct error *err)
{
	struct kvmclock_config cfg = {
	    .doors = &m->doors,
	    .mem = m->mem,
	    .clock = m->clock,
	    .tsc_khz = m->cpuid.tsc_khz,
	    .cpus = m->env.cpus,
	};
	struct device *dev;

	if (m->cfg.spec->personality != PERSONALITY_KVM || m->engine->ops->own_apic)
		return 0;
	m->engine->ops->tsc_source(m->engine, &cfg.tsc);
	return added(m, kvmclock_new(&dev, &cfg, err), &dev, &m->kvmclock);
}

int machine_next_place(struct machine *m, struct virtio_place *place, struct error *err)
{
	if (m->next_slot >= 31)
		return error_set(err, -ENOSPC, "more devices than the machine has slots (30)");
	*place = (struct virtio_place){.mem = m->mem, .bus = m->pci, .slot = m->next_slot++};
	return 0;
}

static int next_window(struct machine *m, struct virtio_place *place, struct error *err)
{
	unsigned i = m->layout.virtio_mmio;

	if (i == BOARD_VIRTIO_MMIO_MAX)
		return error_set(err, -ENOSPC, "more memory-mapped devices than there is room for");
	m->layout.virtio_mmio++;
	*place = (struct virtio_place){.mem = m->mem,
				       .memory = m->memory,
				       .base = board_virtio_base(i),
				       .irq = {mmio_set, m, i}};
	return 0;
}

static int add_cdrom(struct machine *m, unsigned i, struct error *err)
{
	struct scsi_cd_config cd = {
	    .disk = m->cfg.disk[i], .ejected = m->cfg.disc_ejected, .opaque = m->cfg.opaque};
	int r = machine_next_place(m, &cd.place, err);

	cd.place.instance = i;
	m->disk_slot[i] = (uint8_t)cd.place.slot;
	return r ? r : added(m, scsi_cd_new(&m->cd[i], &cd, err), &m->cd[i], NULL);
}

static int add_disks(struct machine *m, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; !r && i < m->cfg.spec->disk_count; i++) {
		const struct spec_disk *spec = &m->cfg.spec->disk[i];
		struct blk_config blk = {
		    .disk = m->cfg.disk[i],
		    .serial = spec->serial,
		    .queues = spec->queues ? spec->queues : MIN(m->env.cpus, 4u),
		};
		struct device *dev;

		if (spec->cdrom) {
			r = add_cdrom(m, i, err);
			continue;
		}
		r = spec->mmio ? next_window(m, &blk.place, err)
			       : machine_next_place(m, &blk.place, err);
		blk.place.instance = i;
		m->disk_slot[i] = (uint8_t)blk.place.slot;
		if (!r && spec->vhost_user)
			r = machine_add_vhost_disk(m, i, &blk.place, err);
		else if (!r)
			r = added(m, blk_new(&dev, &blk, err), &dev, NULL);
	}
	return r;
}

/* Once all devices have their places. The firmware tries the disks in the order of the command
 * line; each line is a disk's Open Firmware path. */
static int tell_firmware(struct machine *m, struct error *err)
{
	char order[SPEC_MAX_DISKS * 48];
	size_t len = 0;
	const struct bios_items items = {
	    .layout = &m->layout,
	    .ident = &m->ident,
	    .boot_menu = m->cfg.spec->boot_menu,
	    .boot_order = m->cfg.spec->disk_count ? order : NULL,
	};

	if (!m->bios.data)
		return 0;
	order[0] = 0;
	for (unsigned i = 0; i < m->cfg.spec->disk_count; i++)
		if (m->disk_slot[i]) /* memory-mapped disks have none, and no BIOS knows them */
			len += (size_t)snprintf(order + len, sizeof(order) - len,
						"%s/pci@i0cf8/scsi@%x%s/disk@0,0", len ? "\n" : "",
						m->disk_slot[i],
						m->cfg.spec->disk[i].cdrom ? "/channel@0" : "");
	return bios_tell(m->fw_cfg, &items, err);
}

int machine_add_devices(struct machine *m, struct error *err)
{
	static int (*const steps[])(struct machine *, struct error *) = {
	    add_lapics,		  add_interrupt_controllers,
	    add_timers,		  add_pci,
	    add_serial,		  add_power,
	    add_small_ports,	  add_personality,
	    machine_add_nets,	  add_disks,
	    machine_add_vhost_fs, machine_add_virtio,
	    machine_add_shares,	  machine_add_vsock,
	    tell_firmware,
	};
	int r = 0;

	m->next_slot = 1;
	for (size_t i = 0; !r && i < ARRAY_SIZE(steps); i++)
		r = steps[i](m, err);
	return r;
}
