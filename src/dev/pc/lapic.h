/* lapic.h: local APICs (xAPIC and x2APIC) and the bus between them. */
#ifndef DEV_PC_LAPIC_H
#define DEV_PC_LAPIC_H

#include "bus/clock.h"
#include "bus/cpu_link.h"
#include "bus/device.h"
#include "bus/irq.h"

#define LAPIC_DEFAULT_BASE 0xfee00000u
#define LAPIC_TIMER_HZ	   1000000000u /* input of the timer's divider */
#define LAPIC_MAX_CPUS	   255
#define LAPIC_PAGE_BYTES   1024

/*
 * All local APICs of a VM: routes messages of devices and IOAPICs (msi_sink, SDM3 11.11) and
 * interprocessor interrupts. Sending takes one APIC's lock at a time (RANK_LAPIC) and allocates
 * nothing.
 */
struct lapic_bus;
struct lapic_bus_config {
	/* An EOI is broadcast: called with no APIC's lock held; ioapic_eoi_fn. */
	void (*eoi)(void *opaque, unsigned vector);
	void *eoi_opaque;
	/* The PIC's acknowledge cycle, likewise: pic_ack_fn. -1: nothing there. */
	int (*pic_ack)(void *opaque);
	void *pic_opaque;
};
NODISCARD int lapic_bus_new(struct lapic_bus **bus);
/* Set-up only, before a vCPU runs; PIC and IOAPIC need the bus's lines and so exist later. */
void lapic_bus_configure(struct lapic_bus *bus, const struct lapic_bus_config *cfg);
void lapic_bus_free(struct lapic_bus *bus); /* after all its APICs */

struct msi_sink lapic_bus_sink(struct lapic_bus *bus);
/* The pins that a PC wires to all APICs: LINT0 from the PIC (level), LINT1 for NMI (rising edge).
 * Leaf calls below RANK_LAPIC. */
struct irq lapic_bus_lint0(struct lapic_bus *bus);
struct irq lapic_bus_lint1(struct lapic_bus *bus);

/*
 * Registers that live elsewhere (an APIC in the host's kernel). `page` has each register at its
 * offset in the xAPIC page, ID in bits 31:24 in every mode (the layout of KVM's lapic state); the
 * ICR's destination is at 0x310, shifted as the mode has it. Called under the device's lock with
 * the CPU paused; 0 or a negative errno.
 */
struct lapic_remote {
	int (*get)(void *opaque, unsigned cpu, uint8_t page[LAPIC_PAGE_BYTES], uint64_t *apic_base,
		   uint64_t *tsc_deadline);
	int (*set)(void *opaque, unsigned cpu, const uint8_t page[LAPIC_PAGE_BYTES],
		   uint64_t apic_base, uint64_t tsc_deadline);
	void *opaque;
};

struct lapic_config {
	struct lapic_bus *bus; /* may be NULL in remote mode */
	struct clock *clock;
	struct cpu_link *link; /* the CPU's; NULL in remote mode */
	struct tsc_source tsc; /* read == NULL: no TSC-deadline mode */
	unsigned cpu;	       /* index for tsc_source and lapic_remote; the device's instance */
	uint32_t apic_id;      /* at most 254 */
	_Bool bsp;
	_Bool x2apic;	    /* the CPU has it (CPUID.1:ECX[21]) */
	unsigned phys_bits; /* MAXPHYADDR, for IA32_APIC_BASE's reserved bits */
	/* get != NULL: remote mode. The device then only saves and loads; reset pushes the
	 * power-on state. */
	struct lapic_remote remote;
};

NODISCARD int lapic_new(struct device **dev, const struct lapic_config *cfg, struct error *err);

/* The CPU's side: what goes into vcpu->apic. Not for remote mode. */
struct cpu_apic lapic_cpu_apic(struct device *dev);

/* What firmware leaves behind (MP 1.4 3.6.2.2, virtual wire): software-enabled, LINT0 ExtINT (boot
 * CPU only), LINT1 NMI. For boots without firmware, after reset. */
void lapic_virtual_wire(struct device *dev);

/* One line for listings. */
void lapic_describe(struct device *dev, char *text, size_t len);

#endif
