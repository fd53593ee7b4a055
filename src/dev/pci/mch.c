/* mch.c: host bridge of the 82G33/Q35 kind. */
#include "dev/pci/mch.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "dev/pci/pci_bus.h"

#define MCH_PCIEXBAR	 0x60 /* G33 5.1.17: place and size of the ECAM window */
#define MCH_PCIEXBAR_ON	 1u
#define MCH_PAM0	 0x90 /* G33 5.1.20 */
#define MCH_PAM_COUNT	 7
#define MCH_PCIEXBAR_LOW UINT32_C(0xfc000007)

#define MCH_SMRAM 0x9d /* G33 5.1.25 */
/* Compatible SMM space at 0xa0000, not open, locked: there is no SMM. */
#define MCH_SMRAM_LOCKED 0x12

struct mch {
	struct pci_dev pci;
	struct mch_config cfg;
	uint8_t pam[MCH_SHADOW_SEGMENTS]; /* what the board was told last */
};

static struct mch *mch_of(struct device *dev)
{
	return container_of(dev, struct mch, pci.dev);
}

static void mch_place_ecam(struct mch *mch)
{
	static const unsigned buses[4] = {256, 128, 64, 0};
	uint32_t low = pci_config_get(&mch->pci, MCH_PCIEXBAR, 4);
	uint64_t high = pci_config_get(&mch->pci, MCH_PCIEXBAR + 4, 4);
	unsigned n = buses[low >> 1 & 3];
	/* Address bits below the window's size are ignored. */
	uint64_t base = (high << 32 | low) & ~(((uint64_t)n << 20) - 1) & ~UINT64_C(0x3ffffff);
	/* What does not fit stays unmapped: the guest sees nobody there. */
	(void)!pci_bus_set_ecam(mch->pci.bus, (low & MCH_PCIEXBAR_ON) && n, base, n);
}

/* PAM0 is for 0xf0000 (bits 5:4); each of the others for two segments, the lower one in its low
 * half. */
static unsigned pam_of(const struct mch *mch, unsigned segment)
{
	unsigned last = segment == MCH_SHADOW_SEGMENTS - 1;
	unsigned reg = MCH_PAM0 + (last ? 0 : 1 + segment / 2);
	return pci_config_get(&mch->pci, reg, 1) >> (last || segment % 2 ? 4 : 0) & 3;
}

static void mch_shadow(struct mch *mch, _Bool loaded)
{
	for (unsigned s = 0; mch->cfg.shadow && s < MCH_SHADOW_SEGMENTS; s++) {
		unsigned now = pam_of(mch, s), old = loaded ? now : mch->pam[s];
		mch->pam[s] = (uint8_t)now;
		if (loaded || now != old)
			mch->cfg.shadow(mch->cfg.opaque, s, old, now);
	}
}

static void mch_config_written(struct pci_dev *pd, unsigned offset, unsigned size)
{
	struct mch *mch = container_of(pd, struct mch, pci);
	if (pci_touches(offset, size, MCH_PCIEXBAR, 8))
		mch_place_ecam(mch);
	if (pci_touches(offset, size, MCH_PAM0, MCH_PAM_COUNT))
		mch_shadow(mch, 0);
}

static void mch_reset(struct device *dev, enum reset_kind kind)
{
	struct mch *mch = mch_of(dev);
	pci_dev_reset(&mch->pci);
	mch_place_ecam(mch);
	mch_shadow(mch, 0);
}

static void mch_post_load(struct device *dev)
{
	struct mch *mch = mch_of(dev);
	pci_dev_post_load(&mch->pci);
	mch_place_ecam(mch);
	mch_shadow(mch, 1);
}

static void mch_free(struct device *dev)
{
	struct mch *mch = mch_of(dev);
	pci_dev_fini(&mch->pci);
	free(mch);
}

static int mch_check(const void *shadow, struct error *err)
{
	return pci_dev_check(&((const struct mch *)shadow)->pci, err);
}

static const struct pci_ops mch_ops = {.config_written = mch_config_written};
static const struct state_field mch_fields[] = {
    PCI_DEV_STATE(struct mch, pci),
    STATE_END,
};
static const struct state_desc mch_state = {
    .name = "pci-mch",
    .fields = mch_fields,
    .size = sizeof(struct mch),
    .check = mch_check,
};
static const struct device_class mch_class;

int mch_new(struct device **out, const struct mch_config *cfg, struct error *err)
{
	static const struct pci_ids ids = {
	    .vendor = 0x8086,
	    .device = 0x29c0,
	    .revision = 2,
	    .class_code = 0x060000,
	};
	unsigned n = cfg->ecam_buses;
	assert(n == 64 || n == 128 || n == 256);
	assert(!(cfg->ecam_base & (((uint64_t)n << 20) - 1)));
	struct mch *mch = calloc(1, sizeof(*mch));
	if (!mch)
		return error_set(err, -ENOMEM, "no memory for the host bridge");
	int rc = pci_dev_init(&mch->pci, &mch_class, &mch_ops, cfg->bus, 0, 0, &ids, 0, "mch", err);
	if (rc) {
		free(mch);
		return rc;
	}
	uint32_t size = n == 256 ? 0 : n == 128 ? 1 : 2;
	pci_config_init(&mch->pci, MCH_PCIEXBAR, 4,
			(uint32_t)cfg->ecam_base | size << 1 | MCH_PCIEXBAR_ON, MCH_PCIEXBAR_LOW);
	pci_config_init(&mch->pci, MCH_PCIEXBAR + 4, 4, (uint32_t)(cfg->ecam_base >> 32), 0xf);
	/* Without firmware, 0xc0000 to 0xfffff is always RAM, and these say so. */
	mch->cfg = *cfg;
	for (unsigned i = 0; i < MCH_PAM_COUNT; i++) {
		uint8_t bits = i ? 0x33 : 0x30;
		pci_config_init(&mch->pci, MCH_PAM0 + i, 1, cfg->shadow ? 0 : bits,
				cfg->shadow ? bits : 0);
	}
	pci_config_init(&mch->pci, MCH_SMRAM, 1, MCH_SMRAM_LOCKED, 0);
	*out = &mch->pci.dev;
	return 0;
}

static const struct device_class mch_class = {
    .name = "pci-mch",
    .reset = mch_reset,
    .free = mch_free,
    .post_load = mch_post_load,
    .state = &mch_state,
};
