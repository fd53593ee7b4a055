/* mch.h: host bridge of the 82G33/Q35 kind (8086:29c0) at 00:00.0: places the ECAM window. */
#ifndef DEV_PCI_MCH_H
#define DEV_PCI_MCH_H

#include "dev/pci/pci.h"

struct mch_config {
	struct device *bus;
	uint64_t ecam_base;  /* aligned to the window's size; enabled from reset on */
	unsigned ecam_buses; /* 64, 128 or 256 */
	/*
	 * Shadow RAM, for firmware: segments 0 to 11 are 16 KiB each from 0xc0000 on, segment 12 is
	 * 0xf0000 to 0xfffff. Told what their registers said and say now: bit 0 reads come from RAM
	 * (else from ROM or nobody), bit 1 writes go to RAM. Equal values: after a load of saved
	 * state. Under the bus's lock, or while no vCPU runs. NULL: all of it is RAM, always.
	 */
	void (*shadow)(void *opaque, unsigned segment, unsigned old, unsigned now);
	void *opaque;
};
#define MCH_SHADOW_SEGMENTS 13
#define MCH_SHADOW_READ	    1u
#define MCH_SHADOW_WRITE    2u
/* Where a segment begins. */
static inline uint64_t mch_shadow_base(unsigned segment)
{
	return 0xc0000 + segment * UINT64_C(0x4000);
}
static inline uint64_t mch_shadow_size(unsigned segment)
{
	return segment == MCH_SHADOW_SEGMENTS - 1 ? 0x10000 : 0x4000;
}
NODISCARD int mch_new(struct device **dev, const struct mch_config *cfg, struct error *err);

#endif
