/* device.h: the device contract. */
#ifndef BUS_DEVICE_H
#define BUS_DEVICE_H

#include "base/lock.h"
#include "bus/state.h"

enum reset_kind {
	RESET_POWER,  /* power-on: everything to its reset value */
	RESET_SYSTEM, /* CF9, keyboard controller, ACPI: as power-on except what the specification
			 keeps (RTC memory) */
};

struct device;

/*
 * What every device is. Constant, the last thing in the device's file.
 * quiesce: before a reset of the machine, a save or a load; no vCPU runs, no lock is held. Waits
 * until nothing that the device started (host I/O) is in flight. May be NULL. reset: under the
 * device's lock. Also called once by the board before the first instruction. free: no vCPU runs and
 * no timer fires any more; releases what the device owns, then the device itself. Accepts
 * half-built objects. post_load: after state was committed, under the device's lock: arm timers,
 * raise lines. May be NULL. pre_save: under the device's lock, before its fields are written: pull
 * live time into fields. May be NULL.
 */
struct device_class {
	const char *name;
	void (*reset)(struct device *dev, enum reset_kind kind);
	void (*free)(struct device *dev);
	void (*pre_save)(struct device *dev);
	void (*post_load)(struct device *dev);
	const struct state_desc *state;
	void (*quiesce)(struct device *dev);
};

/* The head of every device's private struct (its first member). */
struct device {
	const struct device_class *cls;
	struct lock lock; /* RANK_DEVICE (controllers: RANK_INTC or RANK_LAPIC); taken by the bus
			     around every hook */
	unsigned instance;
	char id[24];	     /* "uart0": for messages and listings */
	struct device *next; /* on the machine's list */
};

void device_init(struct device *dev, const struct device_class *cls, enum lock_rank rank,
		 unsigned instance, const char *id);
void device_fini(struct device *dev);

void device_reset(struct device *dev, enum reset_kind kind);
void device_free(struct device *dev); /* NULL is fine */
void device_quiesce(struct device *dev);

/* Locked save; decode without change; locked commit + post_load. */
void device_save(struct device *dev, struct wbuf *out);
NODISCARD int device_decode(struct device *dev, struct rbuf *in, struct state_shadow **shadow,
			    struct error *err);
void device_commit(struct device *dev, struct state_shadow *shadow);

#endif
