/* pci_test.c: tests of the PCI bus, of functions on it, and of the two bridges. */
#include "dev/pci/pci.h"
#include "bus/testing.h"
#include <errno.h>
#include <stdlib.h>
#include "dev/pci/lpc.h"
#include "dev/pci/mch.h"

#define ECAM	  UINT64_C(0xb0000000)
#define IO_BAR	  0
#define MEM_BAR	  1
#define BIG_BAR	  2
#define BIG_SIZE  UINT64_C(0x200000000)
#define MSIX_VECS 70
#define MEM_BASE  UINT64_C(0xc0000000)

/* A function with a register in every kind of BAR, MSI and MSI-X. */
struct toy {
	struct pci_dev pci;
	struct region io, mem, big;
	uint32_t value;
	unsigned resets, hooks;
};

static uint64_t toy_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return ((struct toy *)dev)->value;
}

static void toy_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	((struct toy *)dev)->value = (uint32_t)value;
}

static void toy_hook(struct pci_dev *pd, unsigned offset, unsigned size)
{
	assert_true(lock_held(&pd->dev.lock));
	((struct toy *)pd)->hooks++;
}

static void toy_reset(struct device *dev, enum reset_kind kind)
{
	struct toy *t = (struct toy *)dev;
	pci_dev_reset(&t->pci);
	t->value = 0x11223344;
	t->resets++;
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

static const struct region_ops toy_region_ops = {
    .read = toy_read, .write = toy_write, .min_size = 4, .max_size = 4};
static const struct pci_ops toy_ops = {.config_written = toy_hook};
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

struct fixture {
	struct bench b;
	struct device *bus, *mch, *lpc;
	struct toy *toy[2];
};

static struct toy *toy_new(struct fixture *f, unsigned slot, unsigned function)
{
	const struct pci_ids ids = {
	    .vendor = 0x1234,
	    .device = 0x5678,
	    .revision = 9,
	    .class_code = 0x028000,
	    .subsys_vendor = 0xaaaa,
	    .subsys_device = 0xbbbb,
	    .intx_pin = 1,
	};
	struct toy *t = calloc(1, sizeof(*t));
	assert_int_equal(pci_dev_init(&t->pci, &toy_class, &toy_ops, f->bus, slot, function, &ids,
				      slot, "toy", NULL),
			 0);
	t->io =
	    (struct region){.name = "io", .dev = &t->pci.dev, .ops = &toy_region_ops, .size = 16};
	t->mem = t->big = t->io;
	pci_add_bar(&t->pci, IO_BAR, PCI_BAR_IO, 16, 0);
	pci_add_bar(&t->pci, MEM_BAR, PCI_BAR_MEM32, 0x4000, 0);
	pci_add_bar(&t->pci, BIG_BAR, PCI_BAR_MEM64, BIG_SIZE, 1);
	pci_bar_attach(&t->pci, IO_BAR, &t->io, 0);
	pci_bar_attach(&t->pci, MEM_BAR, &t->mem, 0x3000);
	pci_bar_attach(&t->pci, BIG_BAR, &t->big, 0x100);
	pci_add_express(&t->pci);
	pci_add_msi(&t->pci, 4);
	pci_add_msix(&t->pci, MSIX_VECS, MEM_BAR, 0, 0x1000);
	unsigned dsn = pci_add_ext_capability(&t->pci, 0x0003, 1, 12);
	assert_int_equal(dsn, 0x100);
	device_reset(&t->pci.dev, RESET_POWER);
	return t;
}

static void setup(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	bench_init(&f->b);
	struct pci_bus_config bc = {
	    .ports = f->b.ports,
	    .memory = f->b.memory,
	    .msi = bench_msi(&f->b),
	    .intx_count = 8,
	    .power = bench_power(&f->b),
	};
	for (unsigned i = 0; i < 8; i++)
		bc.intx[i] = bench_irq(&f->b, 16 + i);
	assert_int_equal(pci_bus_new(&f->bus, &bc, NULL), 0);
	const struct mch_config mc = {.bus = f->bus, .ecam_base = ECAM, .ecam_buses = 256};
	const struct lpc_config lc = {.bus = f->bus, .pm_base = 0x600, .sci_irq = 9, .pirq = {10}};
	assert_int_equal(mch_new(&f->mch, &mc, NULL), 0);
	assert_int_equal(lpc_new(&f->lpc, &lc, NULL), 0);
	device_reset(f->bus, RESET_POWER);
	device_reset(f->mch, RESET_POWER);
	device_reset(f->lpc, RESET_POWER);
	f->toy[0] = toy_new(f, 3, 0);
	f->toy[1] = toy_new(f, 11, 0);
}

static void teardown(struct fixture *f)
{
	device_free(&f->toy[0]->pci.dev);
	device_free(&f->toy[1]->pci.dev);
	device_free(f->lpc);
	device_free(f->mch);
	device_free(f->bus);
	bench_fini(&f->b);
}

static void select_at(struct fixture *f, unsigned slot, unsigned at)
{
	bench_out(&f->b, 0xcf8, 4, 0x80000000 | slot << 11 | (at & 0xfc));
}

static uint32_t get(struct fixture *f, unsigned slot, unsigned at, unsigned size)
{
	select_at(f, slot, at);
	return bench_in(&f->b, 0xcfc + (at & 3), size);
}

static void put(struct fixture *f, unsigned slot, unsigned at, unsigned size, uint32_t v)
{
	select_at(f, slot, at);
	bench_out(&f->b, 0xcfc + (at & 3), size, v);
}

static uint32_t ecam_get(struct fixture *f, unsigned slot, unsigned at, unsigned size)
{
	return (uint32_t)space_read(f->b.memory, ECAM + (slot << 15) + at, size);
}

static unsigned find_cap(struct fixture *f, unsigned slot, unsigned id)
{
	unsigned at = get(f, slot, 0x34, 1);
	for (unsigned n = 0; at && n < 48; n++, at = get(f, slot, at + 1, 1))
		if (get(f, slot, at, 1) == id)
			return at;
	return 0;
}

static void bridges_have_their_reset_values(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(get(&f, 0, 0, 4), 0x29c08086);
	assert_int_equal(get(&f, 0, 8, 4) >> 8, 0x060000);
	assert_int_equal(get(&f, 0, 0x60, 4), ECAM | 1);
	assert_int_equal(get(&f, 0, 0x90, 4), 0x33333330);
	assert_int_equal(get(&f, 31, 0, 4), 0x29188086);
	assert_int_equal(get(&f, 31, 8, 4) >> 8, 0x060100);
	assert_int_equal(get(&f, 31, 0x40, 4), 0x601);
	assert_int_equal(get(&f, 31, 0x44, 1), 0x80);
	assert_int_equal(get(&f, 31, 0x60, 2), 0x800a);
	assert_int_equal(bench_in(&f.b, 0xcf9, 1), 0);
	teardown(&f);
}

static void a_function_has_its_reset_values(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(get(&f, 3, 0, 4), 0x56781234);
	assert_int_equal(get(&f, 3, 4, 4), 0x00100000);
	assert_int_equal(get(&f, 3, 8, 4), 0x02800009);
	assert_int_equal(get(&f, 3, 0x10, 4), 1);
	assert_int_equal(get(&f, 3, 0x14, 4), 0);
	assert_int_equal(get(&f, 3, 0x18, 4), 0x0c);
	assert_int_equal(get(&f, 3, 0x2c, 4), 0xbbbbaaaa);
	assert_int_equal(get(&f, 3, 0x3c, 2), 0x0100);
	assert_int_equal(find_cap(&f, 3, 0x10), 0x40);
	assert_int_not_equal(find_cap(&f, 3, 0x05), 0);
	assert_int_not_equal(find_cap(&f, 3, 0x11), 0);
	assert_int_equal(ecam_get(&f, 3, 0x100, 4), 0x00010003);
	teardown(&f);
}

static void every_offset_answers_at_every_width(void **state)
{
	struct fixture f;
	setup(&f);
	bench_sweep(f.b.ports, 0xcf8, 8);
	for (unsigned at = 0; at < 256; at += 4) {
		put(&f, 3, at, 4, 0xffffffff);
		put(&f, 3, at, 4, 0);
	}
	device_reset(&f.toy[0]->pci.dev, RESET_SYSTEM);
	bench_sweep(f.b.memory, ECAM + (3 << 15), 4096);
	bench_sweep(f.b.memory, ECAM + (31 << 15), 4096);
	teardown(&f);
}

static void ports_and_memory_window_show_the_same(void **state)
{
	struct fixture f;
	setup(&f);
	for (unsigned at = 0; at < 256; at++)
		assert_int_equal(get(&f, 3, at, 1), ecam_get(&f, 3, at, 1));
	assert_int_equal(get(&f, 3, 2, 2), 0x5678);
	assert_int_equal(ecam_get(&f, 3, 2, 2), 0x5678);
	space_write(f.b.memory, ECAM + (3 << 15) + 0x3c, 1, 0x5a);
	assert_int_equal(get(&f, 3, 0x3c, 1), 0x5a);
	assert_int_equal(space_read(f.b.memory, ECAM + (3 << 15), 8), 0x0010000056781234);
	assert_int_equal(ecam_get(&f, 0, 0x100, 4), 0xffffffff); /* not PCI Express */
	teardown(&f);
}

static void nobody_answers_where_nothing_is(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(get(&f, 5, 0, 4), 0xffffffff);
	assert_int_equal(get(&f, 5, 0, 1), 0xff);
	bench_out(&f.b, 0xcf8, 4, 0x80010000); /* bus 1 */
	assert_int_equal(bench_in(&f.b, 0xcfc, 4), 0xffffffff);
	bench_out(&f.b, 0xcf8, 4, 0x00000000); /* not enabled */
	assert_int_equal(bench_in(&f.b, 0xcfc, 4), 0xffffffff);
	assert_int_equal(space_read(f.b.memory, ECAM + (1 << 20), 4), 0xffffffff);
	bench_out(&f.b, 0xcf8, 4, 0xffffffff);
	assert_int_equal(bench_in(&f.b, 0xcf8, 4), 0x80fffffc);
	bench_out(&f.b, 0xcfa, 2, 0); /* only whole words reach the address register */
	assert_int_equal(bench_in(&f.b, 0xcf8, 4), 0x80fffffc);
	teardown(&f);
}

static void the_reset_control_register_resets(void **state)
{
	struct fixture f;
	setup(&f);
	bench_out(&f.b, 0xcf9, 1, 0x02);
	assert_int_equal(f.b.requests, 0);
	bench_out(&f.b, 0xcf9, 1, 0x06);
	assert_int_equal(f.b.request, POWER_RESET);
	assert_int_equal(f.b.request_arg, POWER_CAUSE_CF9);
	bench_out(&f.b, 0xcf8, 4, 0x80000600); /* the address register is another thing */
	assert_int_equal(f.b.requests, 1);
	teardown(&f);
}

static void bars_are_sized_moved_and_switched(void **state)
{
	struct fixture f;
	setup(&f);
	put(&f, 3, 0x10, 4, 0xffffffff);
	put(&f, 3, 0x14, 4, 0xffffffff);
	put(&f, 3, 0x18, 4, 0xffffffff);
	put(&f, 3, 0x1c, 4, 0xffffffff);
	put(&f, 3, 0x20, 4, 0xffffffff);
	assert_int_equal(get(&f, 3, 0x10, 4), 0xfffffff1);
	assert_int_equal(get(&f, 3, 0x14, 4), 0xffffc000);
	assert_int_equal(get(&f, 3, 0x18, 4), 0x0000000c);
	assert_int_equal(get(&f, 3, 0x1c, 4), 0xfffffffe);
	assert_int_equal(get(&f, 3, 0x20, 4), 0);
	put(&f, 3, 0x10, 4, 0xc000);
	put(&f, 3, 0x14, 4, MEM_BASE);
	put(&f, 3, 0x18, 4, 0);
	put(&f, 3, 0x1c, 4, 4);
	assert_int_equal(bench_in(&f.b, 0xc000, 4), 0xffffffff);
	put(&f, 3, 4, 2, 1);
	assert_int_equal(bench_in(&f.b, 0xc000, 4), 0x11223344);
	assert_int_equal(space_read(f.b.memory, MEM_BASE + 0x3000, 4), 0xffffffff);
	put(&f, 3, 4, 2, 2);
	assert_int_equal(bench_in(&f.b, 0xc000, 4), 0xffffffff);
	assert_int_equal(space_read(f.b.memory, MEM_BASE + 0x3000, 4), 0x11223344);
	assert_int_equal(space_read(f.b.memory, 0x400000100, 4), 0x11223344);
	put(&f, 3, 0x1c, 4, 8); /* moved while enabled */
	assert_int_equal(space_read(f.b.memory, 0x400000100, 4), 0xffffffff);
	assert_int_equal(space_read(f.b.memory, 0x800000100, 4), 0x11223344);
	assert_true(pci_bar_address(&f.toy[0]->pci, BIG_BAR) == 0x800000000);
	device_reset(&f.toy[0]->pci.dev, RESET_SYSTEM);
	assert_int_equal(space_read(f.b.memory, 0x800000100, 4), 0xffffffff);
	teardown(&f);
}

static void a_bar_that_overlaps_waits_for_its_place(void **state)
{
	struct fixture f;
	setup(&f);
	put(&f, 3, 0x14, 4, MEM_BASE);
	put(&f, 3, 4, 2, 2);
	put(&f, 11, 0x14, 4, MEM_BASE);
	f.toy[1]->value = 0x55667788;
	put(&f, 11, 4, 2, 2);
	assert_int_equal(space_read(f.b.memory, MEM_BASE + 0x3000, 4), 0x11223344);
	put(&f, 3, 0x14, 4, MEM_BASE + 0x4000);
	assert_int_equal(space_read(f.b.memory, MEM_BASE + 0x3000, 4), 0x55667788);
	assert_int_equal(space_read(f.b.memory, MEM_BASE + 0x7000, 4), 0x11223344);
	put(&f, 3, 0x14, 4, ECAM); /* over the configuration window */
	assert_int_equal(ecam_get(&f, 3, 0, 4), 0x56781234);
	put(&f, 3, 0x14, 4, 0xffffffff);
	put(&f, 3, 0x10, 4, 0xfffffff1);
	put(&f, 3, 4, 2, 7);
	assert_int_equal(get(&f, 3, 0, 4), 0x56781234);
	teardown(&f);
}

static void shared_interrupt_lines_stay_up_until_all_let_go(void **state)
{
	struct fixture f;
	setup(&f);
	/* Slots 3 and 11, INTA#: both on line 3. */
	pci_set_intx(&f.toy[0]->pci, 1);
	pci_set_intx(&f.toy[1]->pci, 1);
	assert_true(f.b.level[19]);
	assert_int_equal(get(&f, 3, 6, 2) & 8, 8);
	pci_set_intx(&f.toy[0]->pci, 0);
	assert_true(f.b.level[19]);
	put(&f, 11, 4, 2, 0x400); /* interrupt disable */
	assert_false(f.b.level[19]);
	assert_int_equal(get(&f, 11, 6, 2) & 8, 8);
	put(&f, 11, 4, 2, 0);
	assert_true(f.b.level[19]);
	device_reset(&f.toy[1]->pci.dev, RESET_SYSTEM);
	assert_false(f.b.level[19]);
	teardown(&f);
}

static void msi_sends_masks_and_remembers(void **state)
{
	struct fixture f;
	setup(&f);
	struct pci_dev *pd = &f.toy[0]->pci;
	unsigned cap = find_cap(&f, 3, 0x05);
	assert_int_equal(get(&f, 3, cap + 2, 2), 0x0184);
	pci_msi_raise(pd, 0);
	assert_int_equal(f.b.messages, 0);
	put(&f, 3, cap + 4, 4, 0xfee01000);
	put(&f, 3, cap + 12, 2, 0x4140);
	put(&f, 3, cap + 2, 2, 0x0021); /* all four */
	pci_msi_raise(pd, 3);
	assert_int_equal(f.b.messages, 0); /* no bus mastering */
	put(&f, 3, 4, 2, 4);
	pci_msi_raise(pd, 3);
	assert_int_equal(f.b.messages, 1);
	assert_true(f.b.msi_addr == 0xfee01000);
	assert_int_equal(f.b.msi_data, 0x4143);
	put(&f, 3, cap + 16, 4, 0xffffffff);
	assert_int_equal(get(&f, 3, cap + 16, 4), 0xf);
	pci_msi_raise(pd, 1);
	pci_msi_raise(pd, 1);
	pci_msi_raise(pd, 2);
	assert_int_equal(f.b.messages, 1);
	assert_int_equal(get(&f, 3, cap + 20, 4), 6);
	put(&f, 3, cap + 16, 4, 0xd);
	assert_int_equal(f.b.messages, 2);
	assert_int_equal(f.b.msi_data, 0x4141);
	put(&f, 3, cap + 2, 2, 0x0001); /* only one allocated: shared */
	put(&f, 3, cap + 16, 4, 0);
	pci_msi_raise(pd, 3);
	assert_int_equal(f.b.msi_data, 0x4140);
	pci_msi_raise(pd, 4000);
	teardown(&f);
}

static void msix_sends_masks_and_remembers(void **state)
{
	struct fixture f;
	setup(&f);
	struct pci_dev *pd = &f.toy[0]->pci;
	unsigned cap = find_cap(&f, 3, 0x11);
	const uint64_t entry = MEM_BASE + 69 * 16, pba = MEM_BASE + 0x1008;
	put(&f, 3, 0x14, 4, MEM_BASE);
	put(&f, 3, 4, 2, 6);
	assert_int_equal(get(&f, 3, cap + 2, 2), MSIX_VECS - 1);
	assert_int_equal(get(&f, 3, cap + 4, 4), MEM_BAR);
	assert_int_equal(get(&f, 3, cap + 8, 4), 0x1000 | MEM_BAR);
	assert_int_equal(space_read(f.b.memory, entry + 12, 4), 1);
	space_write(f.b.memory, entry, 8, 0x0000000afee02003);
	space_write(f.b.memory, entry + 8, 4, 0x4155);
	put(&f, 3, cap + 2, 2, 0xffff);
	assert_int_equal(get(&f, 3, cap + 2, 2), 0xc000 | (MSIX_VECS - 1));
	pci_msix_raise(pd, 69);
	assert_int_equal(space_read(f.b.memory, pba, 8), BIT64(5));
	space_write(f.b.memory, pba, 8, 0);
	assert_int_equal(space_read(f.b.memory, pba, 4), BIT32(5));
	space_write(f.b.memory, entry + 12, 4, 0); /* the function is still masked */
	assert_int_equal(f.b.messages, 0);
	put(&f, 3, cap + 2, 2, 0x8000);
	assert_int_equal(f.b.messages, 1);
	assert_true(f.b.msi_addr == 0x0000000afee02000);
	assert_int_equal(f.b.msi_data, 0x4155);
	assert_int_equal(space_read(f.b.memory, pba, 8), 0);
	space_write(f.b.memory, entry + 12, 4, 0xffffffff);
	assert_int_equal(space_read(f.b.memory, entry + 12, 4), 1);
	pci_msix_raise(pd, 69);
	pci_msix_raise(pd, 69);
	assert_int_equal(f.b.messages, 1);
	space_write(f.b.memory, entry + 12, 4, 0);
	assert_int_equal(f.b.messages, 2);
	pci_msix_raise(pd, 70);
	pci_msix_raise(pd, 4000000);
	pci_set_intx(pd, 1); /* not on the wire while messages are on */
	assert_false(f.b.level[19]);
	put(&f, 3, cap + 2, 2, 0);
	assert_true(f.b.level[19]);
	teardown(&f);
}

static void function_level_reset_is_the_classes_reset(void **state)
{
	struct fixture f;
	setup(&f);
	unsigned cap = find_cap(&f, 3, 0x10);
	put(&f, 3, 0x10, 4, 0xc000);
	put(&f, 3, 4, 2, 7);
	pci_set_intx(&f.toy[0]->pci, 1);
	unsigned resets = f.toy[0]->resets;
	put(&f, 3, cap + 8, 2, 0x0010);
	assert_int_equal(f.toy[0]->resets, resets);
	put(&f, 3, cap + 9, 1, 0x80);
	assert_int_equal(f.toy[0]->resets, resets + 1);
	assert_int_equal(get(&f, 3, 4, 2), 0);
	assert_int_equal(get(&f, 3, cap + 8, 2), 0x2810);
	assert_int_equal(bench_in(&f.b, 0xc000, 4), 0xffffffff);
	assert_false(f.b.level[19]);
	teardown(&f);
}

static void the_memory_window_moves(void **state)
{
	struct fixture f;
	setup(&f);
	put(&f, 0, 0x60, 4, 0);
	assert_int_equal(ecam_get(&f, 3, 0, 4), 0xffffffff);
	put(&f, 0, 0x60, 4, 0xe0000003); /* 128 buses */
	assert_int_equal(space_read(f.b.memory, 0xe0000000 + (3 << 15), 4), 0x56781234);
	assert_null(space_lookup(f.b.memory, 0xe8000000));
	/* through itself */
	space_write(f.b.memory, 0xe0000060, 4, 0xb0000001);
	assert_int_equal(space_read(f.b.memory, 0xe0000000 + (3 << 15), 4), 0xffffffff);
	assert_int_equal(ecam_get(&f, 3, 0, 4), 0x56781234);
	put(&f, 0, 0x60, 4, 0xb0000007); /* reserved size */
	assert_int_equal(ecam_get(&f, 3, 0, 4), 0xffffffff);
	device_reset(f.mch, RESET_SYSTEM);
	assert_int_equal(ecam_get(&f, 3, 0, 4), 0x56781234);
	teardown(&f);
}

static void without_firmware_shadow_ram_is_always_ram(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(get(&f, 0, 0x90, 1), 0x30);
	for (unsigned reg = 0x91; reg <= 0x96; reg++) {
		put(&f, 0, reg, 1, 0);
		assert_int_equal(get(&f, 0, reg, 1), 0x33);
	}
	put(&f, 0, 0x9d, 1, 0x48);
	assert_int_equal(get(&f, 0, 0x9d, 1), 0x12); /* SMRAM is locked */
	teardown(&f);
}

struct shadow {
	unsigned calls, segments;
	uint8_t old[MCH_SHADOW_SEGMENTS], now[MCH_SHADOW_SEGMENTS];
};
static void shadow_note(void *opaque, unsigned segment, unsigned old, unsigned now)
{
	struct shadow *s = opaque;
	s->calls++;
	s->segments |= 1u << segment;
	s->old[segment] = (uint8_t)old;
	s->now[segment] = (uint8_t)now;
}

/* A bus whose host bridge tells of shadow RAM. */
static void shadow_setup(struct fixture *f, struct shadow *s)
{
	setup(f);
	memset(s, 0, sizeof(*s));
	const struct mch_config mc = {.bus = f->bus,
				      .ecam_base = ECAM,
				      .ecam_buses = 256,
				      .shadow = shadow_note,
				      .opaque = s};
	device_free(f->mch);
	assert_int_equal(mch_new(&f->mch, &mc, NULL), 0);
	device_reset(f->mch, RESET_POWER);
}

static void firmware_switches_shadow_ram_segment_by_segment(void **state)
{
	struct fixture f;
	struct shadow s;
	shadow_setup(&f, &s);
	assert_int_equal(s.calls, 0); /* all off, as the board assumes */
	assert_int_equal(get(&f, 0, 0x90, 4), 0);
	put(&f, 0, 0x90, 4, 0x33333330);
	assert_int_equal(get(&f, 0, 0x90, 4), 0x33333330);
	assert_int_equal(s.segments, 0x103f);
	assert_int_equal(s.now[12], 3);
	put(&f, 0, 0x92, 1, 0x31);
	assert_int_equal(s.calls, 8);
	assert_int_equal(s.old[2], 3);
	assert_int_equal(s.now[2], 1);
	put(&f, 0, 0x90, 1, 0xff); /* reserved bits stay clear, nothing changes */
	assert_int_equal(get(&f, 0, 0x90, 1), 0x30);
	assert_int_equal(s.calls, 8);
	put(&f, 0, 0x96, 1, 0x20);
	assert_int_equal(s.now[11], 2);
	assert_true(mch_shadow_base(11) == 0xec000 && mch_shadow_base(12) == 0xf0000);

	struct wbuf w;
	bench_save(f.mch, &w);
	device_reset(f.mch, RESET_SYSTEM);
	assert_int_equal(s.now[12], 0);
	assert_int_equal(s.now[2], 0);
	s.calls = 0;
	assert_int_equal(bench_load(f.mch, w.data, w.len), 0);
	assert_int_equal(s.calls, MCH_SHADOW_SEGMENTS);
	assert_int_equal(s.old[12], 3);
	assert_int_equal(s.now[12], 3);
	assert_int_equal(s.now[2], 1);
	wbuf_fini(&w);
	teardown(&f);
}

static void a_second_function_shows_in_the_header_type(void **state)
{
	struct fixture f;
	setup(&f);
	assert_int_equal(get(&f, 3, 0x0e, 1), 0);
	struct toy *t = toy_new(&f, 3, 1);
	assert_int_equal(get(&f, 3, 0x0e, 1), 0x80);
	device_free(&t->pci.dev);
	struct error err = {0};
	struct toy other = {0};
	const struct pci_ids ids = {.vendor = 1, .device = 2};
	assert_int_equal(
	    pci_dev_init(&other.pci, &toy_class, NULL, f.bus, 31, 0, &ids, 0, "x", &err), -EBUSY);
	assert_non_null(strstr(err.text, "lpc"));
	pci_dev_fini(&other.pci);
	teardown(&f);
}

static void state_survives_and_corrupt_state_changes_nothing(void **state)
{
	struct fixture f, g;
	setup(&f);
	setup(&g);
	put(&f, 3, 0x14, 4, MEM_BASE);
	put(&f, 3, 4, 2, 6);
	put(&f, 0, 0x60, 4, 0xe0000001);
	pci_set_intx(&f.toy[0]->pci, 1);
	space_write(f.b.memory, MEM_BASE + 16, 4, 0xfee00000);
	f.toy[0]->value = 77;
	struct device *from[] = {f.bus, f.mch, f.lpc, &f.toy[0]->pci.dev, &f.toy[1]->pci.dev};
	struct device *to[] = {g.bus, g.mch, g.lpc, &g.toy[0]->pci.dev, &g.toy[1]->pci.dev};
	for (unsigned i = 0; i < ARRAY_SIZE(from); i++)
		bench_round_trip(from[i], to[i]);
	assert_int_equal(space_read(g.b.memory, MEM_BASE + 0x3000, 4), 77);
	assert_int_equal(space_read(g.b.memory, 0xe0000000 + (3 << 15), 4), 0x56781234);
	assert_true(g.b.level[19]);
	bench_corrupt(g.bus);
	bench_corrupt(g.mch);
	bench_corrupt(&g.toy[0]->pci.dev);
	bench_refuses(&g.toy[0]->pci.dev, struct toy, pci.config[0], 0x99);
	bench_refuses(&g.toy[0]->pci.dev, struct toy, pci.config[6], 0x10);
	bench_refuses(&g.toy[0]->pci.dev, struct toy, pci.msix_table[3], 2);
	bench_refuses(&g.toy[0]->pci.dev, struct toy, pci.msix_table[MSIX_VECS * 4], 4);
	bench_refuses(&g.toy[0]->pci.dev, struct toy, pci.msix_pba[1], BIT64(60));
	assert_int_equal(space_read(g.b.memory, MEM_BASE + 0x3000, 4), 77);
	teardown(&f);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(bridges_have_their_reset_values),
	    cmocka_unit_test(a_function_has_its_reset_values),
	    cmocka_unit_test(every_offset_answers_at_every_width),
	    cmocka_unit_test(ports_and_memory_window_show_the_same),
	    cmocka_unit_test(nobody_answers_where_nothing_is),
	    cmocka_unit_test(the_reset_control_register_resets),
	    cmocka_unit_test(bars_are_sized_moved_and_switched),
	    cmocka_unit_test(a_bar_that_overlaps_waits_for_its_place),
	    cmocka_unit_test(shared_interrupt_lines_stay_up_until_all_let_go),
	    cmocka_unit_test(msi_sends_masks_and_remembers),
	    cmocka_unit_test(msix_sends_masks_and_remembers),
	    cmocka_unit_test(function_level_reset_is_the_classes_reset),
	    cmocka_unit_test(the_memory_window_moves),
	    cmocka_unit_test(without_firmware_shadow_ram_is_always_ram),
	    cmocka_unit_test(firmware_switches_shadow_ram_segment_by_segment),
	    cmocka_unit_test(a_second_function_shows_in_the_header_type),
	    cmocka_unit_test(state_survives_and_corrupt_state_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
