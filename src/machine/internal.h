/* internal.h: the machine's own struct, shared by the files that build it. */
#ifndef MACHINE_INTERNAL_H
#define MACHINE_INTERNAL_H

#include "dev/pc/lapic.h"
#include "machine/bios.h"
#include "machine/firmware.h"
#include "machine/machine.h"

struct machine {
	struct machine_config cfg;
	struct board_layout layout;
	struct firmware_ident ident;
	struct boot_files *files; /* NULL: it starts with firmware */
	struct bios_rom bios;

	struct gmem *mem;
	struct space *ports, *memory;
	struct clock *clock;
	struct doors doors;
	struct cpuid_policy cpuid;

	struct engine *engine;
	struct engine_env env;
	struct vcpu *vcpu[ENGINE_MAX_CPUS];

	struct lapic_bus *lapics; /* NULL when the engine has its own */
	struct device *lapic[ENGINE_MAX_CPUS];
	struct device *console_uart;
	struct device *pic, *ioapic, *hpet, *pci, *pm, *fw_cfg, *kvmclock;
	struct device *balloon, *virtio_console; /* NULL: none */
	struct device *cd[SPEC_MAX_DISKS];	 /* NULL: none, or another kind of disk */
	uint8_t disk_slot[SPEC_MAX_DISKS];
	unsigned next_slot;	/* PCI slot of the next device that is added */
	struct device *devices; /* all of them; saved in this order, freed in the reverse */
	unsigned device_count;

	/* IOAPIC inputs and PIC inputs that several sources share are the OR of their levels. */
	struct lock wire_lock;
	uint32_t intx_levels; /* PCI INTx lines 0 to 7 */
	uint32_t hpet_levels; /* per IOAPIC input */
	uint32_t mmio_levels; /* per memory-mapped virtio device */
};

/* Puts a device at the end of the machine's list, which then owns it. */
void machine_add(struct machine *m, struct device *dev);

/* devices.c: everything on the board beside RAM and CPUs. Spaces, clock, engine and vCPUs exist. */
NODISCARD int machine_add_devices(struct machine *m, struct error *err);

/* No vCPU runs: waits until no device has host I/O in flight. */
void machine_quiesce(struct machine *m);

/* Where the next virtio device goes: slots 1 to 30 (31 has the ISA bridge). Network cards come
 * first, so that a guest's names for them do not change with its disks. */
struct virtio_place;
NODISCARD int machine_next_place(struct machine *m, struct virtio_place *place, struct error *err);

/* devices_net.c, devices_virtio.c */
NODISCARD int machine_add_nets(struct machine *m, struct error *err);
NODISCARD int machine_add_virtio(struct machine *m, struct error *err);

/* devices_vhost.c: a disk of another process's, and its file systems. */
NODISCARD int machine_add_vhost_disk(struct machine *m, unsigned i,
				     const struct virtio_place *place, struct error *err);
NODISCARD int machine_add_vhost_fs(struct machine *m, struct error *err);

/* devices_share.c */
NODISCARD int machine_add_shares(struct machine *m, struct error *err);
NODISCARD int machine_add_vsock(struct machine *m, struct error *err);

#endif
