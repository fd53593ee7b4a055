/* ioapic_test.c: tests of the I/O APIC. */
#include "dev/pc/ioapic.h"

#include "dev/pc/device_test.h"

#define BASE 0xfec00000u

struct fixture {
	struct space *memory;
	struct device *io;
	uint64_t addr;
	uint32_t data;
	unsigned sent, told;
	uint64_t bitmap[4];
};

static void sink_send(void *opaque, uint64_t addr, uint32_t data)
{
	struct fixture *f = opaque;

	f->addr = addr;
	f->data = data;
	f->sent++;
}

static void vectors(void *opaque, const uint64_t bitmap[4])
{
	struct fixture *f = opaque;

	memcpy(f->bitmap, bitmap, sizeof(f->bitmap));
	f->told++;
}

static void make_version(struct fixture *f, uint8_t version)
{
	struct ioapic_config cfg = {
	    .base = BASE,
	    .id = 3,
	    .version = version,
	    .sink = {.send = sink_send, .opaque = f},
	    .eoi_vectors = vectors,
	    .opaque = f,
	};

	assert_int_equal(space_new(&f->memory, "memory", UINT64_C(1) << 40), 0);
	cfg.memory = f->memory;
	assert_int_equal(ioapic_new(&f->io, &cfg, NULL), 0);
	device_reset(f->io, RESET_POWER);
	f->told = 0;
}

static void make(struct fixture *f)
{
	make_version(f, 0);
}

static void drop(struct fixture *f)
{
	device_free(f->io);
	space_free(f->memory);
}

static uint32_t get(struct fixture *f, uint8_t index)
{
	space_write(f->memory, BASE, 4, index);
	return (uint32_t)space_read(f->memory, BASE + 0x10, 4);
}

static void put(struct fixture *f, uint8_t index, uint32_t value)
{
	space_write(f->memory, BASE, 4, index);
	space_write(f->memory, BASE + 0x10, 4, value);
}

static void entry(struct fixture *f, unsigned pin, uint32_t low, uint8_t dest)
{
	put(f, (uint8_t)(0x11 + pin * 2), (uint32_t)dest << 24);
	put(f, (uint8_t)(0x10 + pin * 2), low);
}

static void line(struct fixture *f, unsigned pin, _Bool level)
{
	struct irq irq = ioapic_line(f->io, pin);

	irq_set(&irq, level);
}

static void has_its_reset_values(void **state)
{
	struct fixture f = {0};

	make(&f);
	assert_int_equal(get(&f, 0), 3u << 24);
	assert_int_equal(get(&f, 1), 0x00170020);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		assert_int_equal(get(&f, (uint8_t)(0x10 + pin * 2)), 0x10000);
		assert_int_equal(get(&f, (uint8_t)(0x11 + pin * 2)), 0);
	}
	drop(&f);
}

static void answers_every_offset_at_every_width(void **state)
{
	struct fixture f = {0};

	make(&f);
	for (unsigned off = 0; off < 0x1000; off++) {
		for (unsigned size = 1; size <= 8; size *= 2) {
			space_write(f.memory, BASE + off, size, UINT64_MAX);
			space_read(f.memory, BASE + off, size);
		}
	}
	for (unsigned index = 0; index < 256; index++) {
		put(&f, (uint8_t)index, UINT32_MAX);
		get(&f, (uint8_t)index);
	}
	assert_int_equal(get(&f, 0x10), 0x1afff); /* remote IRR and status are only read */
	assert_int_equal(get(&f, 0x11), 0xff000000);
	assert_int_equal(get(&f, 0), 0x0f000000);
	assert_int_equal(get(&f, 1), 0x00170020);
	assert_int_equal(get(&f, 0x40), 0);
	space_write(f.memory, BASE, 1, 1); /* the index is often written as a byte */
	assert_int_equal(space_read(f.memory, BASE + 0x10, 4), 0x00170020);
	drop(&f);
}

static void sends_an_edge_once(void **state)
{
	struct fixture f = {0};

	make(&f);
	entry(&f, 4, 0x0900 | 0x51, 0x0f); /* lowest priority, logical */
	line(&f, 4, 1);
	assert_int_equal(f.sent, 1);
	assert_int_equal(f.addr, 0xfee0f004);
	assert_int_equal(f.data, 0x4151);
	line(&f, 4, 1);
	assert_int_equal(f.sent, 1);
	line(&f, 4, 0);
	line(&f, 4, 1);
	assert_int_equal(f.sent, 2);
	drop(&f);
}

static void forgets_an_edge_on_a_masked_pin(void **state)
{
	struct fixture f = {0};

	make(&f);
	entry(&f, 4, 0x10051, 0);
	line(&f, 4, 1);
	entry(&f, 4, 0x51, 0);
	assert_int_equal(f.sent, 0);
	drop(&f);
}

static void sends_a_level_again_after_eoi(void **state)
{
	struct fixture f = {0};

	make(&f);
	entry(&f, 16, 0xa062, 1);
	line(&f, 16, 1);
	assert_int_equal(f.sent, 1);
	assert_int_equal(f.data, 0xc062);
	assert_int_equal(get(&f, 0x10 + 32), 0xe062); /* remote IRR */
	line(&f, 16, 0);
	line(&f, 16, 1);
	assert_int_equal(f.sent, 1); /* in service */
	ioapic_eoi(f.io, 0x63);
	assert_int_equal(f.sent, 1);
	ioapic_eoi(f.io, 0x62);
	assert_int_equal(f.sent, 2);
	line(&f, 16, 0);
	ioapic_eoi_fn(f.io, 0x62);
	assert_int_equal(f.sent, 2);
	assert_int_equal(get(&f, 0x10 + 32), 0xa062);
	drop(&f);
}

static void sends_a_level_that_waited_behind_the_mask(void **state)
{
	struct fixture f = {0};

	make(&f);
	entry(&f, 16, 0x18062, 1);
	line(&f, 16, 1);
	assert_int_equal(f.sent, 0);
	put(&f, 0x10 + 32, 0x8062);
	assert_int_equal(f.sent, 1);
	/* To edge and back: remote IRR is forgotten, the level is seen anew. */
	put(&f, 0x10 + 32, 0x10062);
	put(&f, 0x10 + 32, 0x8062);
	assert_int_equal(f.sent, 2);
	drop(&f);
}

static void takes_an_eoi_through_its_register(void **state)
{
	struct fixture f = {0}, old = {0};

	make(&f);
	make_version(&old, 0x11);
	entry(&f, 16, 0x8062, 1);
	entry(&old, 16, 0x8062, 1);
	line(&f, 16, 1);
	line(&old, 16, 1);
	space_write(f.memory, BASE + 0x40, 4, 0x62);
	space_write(old.memory, BASE + 0x40, 4, 0x62);
	assert_int_equal(f.sent, 2);
	assert_int_equal(old.sent, 1);
	drop(&f);
	drop(&old);
}

static void tells_which_vectors_need_an_eoi(void **state)
{
	struct fixture f = {0};
	uint64_t bitmap[4];

	make(&f);
	entry(&f, 3, 0x33, 0);
	assert_int_equal(f.told, 0);
	entry(&f, 16, 0x80c2, 0);
	assert_int_equal(f.told, 1);
	assert_true(f.bitmap[3] == BIT64(2));
	line(&f, 16, 1);
	put(&f, 0x10 + 32, 0x180c2); /* masked in service: still wanted */
	assert_true(f.bitmap[3] == BIT64(2));
	ioapic_eoi(f.io, 0xc2);
	put(&f, 0x10 + 32, 0x180c2);
	ioapic_eoi_bitmap(f.io, bitmap);
	assert_true(bitmap[3] == 0);
	drop(&f);
}

static void survives_hostile_writes(void **state)
{
	struct fixture f = {0};
	uint32_t seed = 7;

	make(&f);
	for (unsigned i = 0; i < 100000; i++) {
		seed = seed * 1664525 + 1013904223;
		put(&f, (uint8_t)(seed >> 24), seed * 2654435761u);
		line(&f, (seed >> 8) % 32, seed >> 20 & 1);
		if (!(seed & 0x3000))
			ioapic_eoi(f.io, seed & 0x1ff);
	}
	assert_true(f.sent > 0);
	device_test_roundtrip(f.io, f.io);
	drop(&f);
}

static void saves_and_loads(void **state)
{
	struct fixture f = {0}, g = {0};

	make(&f);
	make(&g);
	entry(&f, 16, 0x8062, 1);
	entry(&f, 17, 0x8063, 1);
	line(&f, 16, 1);
	line(&f, 17, 1);
	device_test_roundtrip(f.io, g.io);
	assert_int_equal(g.sent, 0); /* both are in service */
	assert_true(g.bitmap[1] == (BIT64(0x22) | BIT64(0x23)));
	ioapic_eoi(g.io, 0x63);
	assert_int_equal(g.sent, 1);
	assert_true(device_test_corrupt(f.io) > 100);
	drop(&f);
	drop(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(has_its_reset_values),
	    cmocka_unit_test(answers_every_offset_at_every_width),
	    cmocka_unit_test(sends_an_edge_once),
	    cmocka_unit_test(forgets_an_edge_on_a_masked_pin),
	    cmocka_unit_test(sends_a_level_again_after_eoi),
	    cmocka_unit_test(sends_a_level_that_waited_behind_the_mask),
	    cmocka_unit_test(takes_an_eoi_through_its_register),
	    cmocka_unit_test(tells_which_vectors_need_an_eoi),
	    cmocka_unit_test(survives_hostile_writes),
	    cmocka_unit_test(saves_and_loads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
