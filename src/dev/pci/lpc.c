/* lpc.c: ISA bridge of the ICH9 kind: fixed places of the legacy parts, as software looks them up.
 */
#include "dev/pci/lpc.h"
#include <errno.h>
#include <stdlib.h>
#include "dev/pci/pci_bus.h"

/* ICH9 13.1 */
#define LPC_PMBASE    0x40
#define LPC_ACPI_CNTL 0x44
#define LPC_PIRQA     0x60
#define LPC_PIRQE     0x68
#define LPC_IO_DEC    0x80
#define LPC_EN	      0x82
#define LPC_PIRQ_OFF  0x80

struct lpc {
	struct pci_dev pci;
};

static void lpc_reset(struct device *dev, enum reset_kind kind)
{
	pci_dev_reset(&container_of(dev, struct lpc, pci.dev)->pci);
}

static void lpc_post_load(struct device *dev)
{
	pci_dev_post_load(&container_of(dev, struct lpc, pci.dev)->pci);
}

static void lpc_free(struct device *dev)
{
	struct lpc *lpc = container_of(dev, struct lpc, pci.dev);
	pci_dev_fini(&lpc->pci);
	free(lpc);
}

static int lpc_check(const void *shadow, struct error *err)
{
	return pci_dev_check(&((const struct lpc *)shadow)->pci, err);
}

static const struct state_field lpc_fields[] = {
    PCI_DEV_STATE(struct lpc, pci),
    STATE_END,
};
static const struct state_desc lpc_state = {
    .name = "pci-lpc",
    .fields = lpc_fields,
    .size = sizeof(struct lpc),
    .check = lpc_check,
};
static const struct device_class lpc_class;

/* SCI_IRQ_SEL (ICH9 13.1.12). */
static uint8_t sci_select(uint8_t irq)
{
	return irq >= 20 ? (uint8_t)(irq - 16) : irq >= 9 ? (uint8_t)(irq - 9) : 0;
}

int lpc_new(struct device **out, const struct lpc_config *cfg, struct error *err)
{
	static const struct pci_ids ids = {
	    .vendor = 0x8086,
	    .device = 0x2918,
	    .revision = 2,
	    .class_code = 0x060100,
	};
	struct lpc *lpc = calloc(1, sizeof(*lpc));
	if (!lpc)
		return error_set(err, -ENOMEM, "no memory for the ISA bridge");
	struct pci_dev *pd = &lpc->pci;
	int rc = pci_dev_init(pd, &lpc_class, NULL, cfg->bus, 31, 0, &ids, 0, "lpc", err);
	if (rc) {
		free(lpc);
		return rc;
	}
	/* A bridge decodes and masters always: these bits read 1. */
	pci_config_init(pd, PCI_COMMAND, 2, 0x0007, 0);
	pci_config_init(pd, LPC_PMBASE, 4, cfg->pm_base | 1u, 0);
	pci_config_init(pd, LPC_ACPI_CNTL, 1, 0x80u | sci_select(cfg->sci_irq), 0);
	for (unsigned i = 0; i < 8; i++)
		pci_config_init(pd, i < 4 ? LPC_PIRQA + i : LPC_PIRQE + i - 4, 1,
				cfg->pirq[i] ? cfg->pirq[i] : LPC_PIRQ_OFF, 0);
	pci_config_init(pd, LPC_IO_DEC, 2, 0x0010, 0); /* COM1 at 0x3f8, COM2 at 0x2f8 */
	pci_config_init(pd, LPC_EN, 2, 0x0403, 0);     /* keyboard controller, both of them */
	*out = &pd->dev;
	return 0;
}

static const struct device_class lpc_class = {
    .name = "pci-lpc",
    .reset = lpc_reset,
    .free = lpc_free,
    .post_load = lpc_post_load,
    .state = &lpc_state,
};
