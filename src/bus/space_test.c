/* space_test.c: tests of port and memory space. */
#include "bus/space.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEM_SIZE (UINT64_C(1) << 52)

/* A device of bytes that notes how it was asked. */
struct toy {
	struct device dev;
	struct region region;
	uint8_t bytes[64];
	char notes[256];
	struct space *space;
	uint64_t move_to;
};

static void note(struct toy *toy, char what, uint64_t offset, unsigned size)
{
	size_t len = strlen(toy->notes);

	assert_true(lock_held(&toy->dev.lock));
	snprintf(toy->notes + len, sizeof(toy->notes) - len, "%c%u@%u ", what, size,
		 (unsigned)offset);
}

static uint64_t toy_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct toy *toy = (struct toy *)dev;
	uint64_t value = 0;

	assert_ptr_equal(opaque, toy->bytes);
	assert_true(offset + size <= toy->region.size);
	note(toy, 'r', offset, size);
	memcpy(&value, toy->bytes + offset, size);
	return value;
}

static void toy_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct toy *toy = (struct toy *)dev;

	assert_true(offset + size <= toy->region.size);
	assert_true(value <= size_mask(size));
	note(toy, 'w', offset, size);
	memcpy(toy->bytes + offset, &value, size);
	if (toy->move_to) {
		space_unmap(toy->space, &toy->region);
		assert_int_equal(space_map(toy->space, &toy->region, toy->move_to), 0);
	}
}

static const struct region_ops any = {.read = toy_read, .write = toy_write};
static const struct region_ops bytes_only = {.read = toy_read, .write = toy_write, .max_size = 1};
static const struct region_ops words = {
    .read = toy_read, .write = toy_write, .min_size = 4, .max_size = 4};
static const struct region_ops merging = {
    .read = toy_read, .write = toy_write, .min_size = 4, .max_size = 4, .narrow = NARROW_MERGE};
static const struct region_ops loose = {.read = toy_read, .write = toy_write, .unaligned = 1};
static const struct region_ops silent = {.min_size = 1};
static const struct device_class toy_class = {.name = "toy"};

static struct toy *toy_new(struct space *space, const struct region_ops *ops, uint64_t size,
			   uint64_t base)
{
	struct toy *toy = calloc(1, sizeof(*toy));

	device_init(&toy->dev, &toy_class, RANK_DEVICE, 0, "toy");
	toy->space = space;
	for (size_t i = 0; i < sizeof(toy->bytes); i++)
		toy->bytes[i] = (uint8_t)(0x10 + i);
	toy->region = (struct region){
	    .name = "toy", .dev = &toy->dev, .ops = ops, .opaque = toy->bytes, .size = size};
	assert_int_equal(space_map(space, &toy->region, base), 0);
	return toy;
}

static void toy_free(struct toy *toy)
{
	space_unmap(toy->space, &toy->region);
	device_fini(&toy->dev);
	free(toy);
}

static struct space *ports(void)
{
	struct space *space;

	assert_int_equal(space_new(&space, "port", 65536), 0);
	return space;
}

static struct space *memory(void)
{
	struct space *space;

	assert_int_equal(space_new(&space, "memory", MEM_SIZE), 0);
	return space;
}

static void nobody_answers_with_ones(void **state)
{
	struct space *s[2] = {ports(), memory()};

	for (int i = 0; i < 2; i++) {
		assert_int_equal(space_read(s[i], 0x80, 1), 0xff);
		assert_int_equal(space_read(s[i], 0xffff, 2), 0xffff);
		assert_int_equal(space_read(s[i], 0xcf8, 4), 0xffffffff);
		assert_true(space_read(s[i], UINT64_MAX - 3, 8) == UINT64_MAX);
		space_write(s[i], UINT64_MAX, 8, 1);
		assert_null(space_lookup(s[i], 0x80));
		assert_null(space_lookup(s[i], UINT64_MAX));
		space_free(s[i]);
	}
	space_free(NULL);
}

static void a_region_gets_its_own_offsets(void **state)
{
	struct space *s = memory();
	struct toy *a = toy_new(s, &any, 16, 0x1000), *b = toy_new(s, &any, 16, 0x1010);

	assert_int_equal(space_read(s, 0x1004, 4), 0x17161514);
	assert_int_equal(space_read(s, 0x1018, 1), 0x18);
	space_write(s, 0x1011, 1, 0x1ff);
	assert_int_equal(b->bytes[1], 0xff);
	assert_string_equal(a->notes, "r4@4 ");
	assert_string_equal(b->notes, "r1@8 w1@1 ");
	assert_ptr_equal(space_lookup(s, 0x101f), &b->region);
	assert_null(space_lookup(s, 0x1020));
	toy_free(a);
	assert_int_equal(space_read(s, 0x1004, 4), 0xffffffff);
	toy_free(b);
	space_free(s);
}

static void splits_what_is_too_large_or_misaligned(void **state)
{
	struct space *s = memory();
	struct toy *a = toy_new(s, &bytes_only, 16, 0x100), *b = toy_new(s, &any, 16, 0x200),
		   *c = toy_new(s, &loose, 16, 0x300), *d = toy_new(s, &words, 16, 0x400);

	assert_int_equal(space_read(s, 0x104, 4), 0x17161514);
	assert_string_equal(a->notes, "r1@4 r1@5 r1@6 r1@7 ");
	assert_int_equal(space_read(s, 0x201, 4), 0x14131211);
	assert_string_equal(b->notes, "r1@1 r2@2 r1@4 ");
	assert_int_equal(space_read(s, 0x301, 4), 0x14131211);
	assert_string_equal(c->notes, "r4@1 ");
	assert_true(space_read(s, 0x400, 8) == 0x1716151413121110);
	assert_string_equal(d->notes, "r4@0 r4@4 ");
	space_write(s, 0x408, 8, 0x8877665544332211);
	assert_memory_equal(d->bytes + 8, "\x11\x22\x33\x44\x55\x66\x77\x88", 8);
	toy_free(a);
	toy_free(b);
	toy_free(c);
	toy_free(d);
	space_free(s);
}

static void small_accesses_see_the_whole_register(void **state)
{
	struct space *s = memory();
	struct toy *d = toy_new(s, &words, 16, 0x400), *m = toy_new(s, &merging, 16, 0x500);

	assert_int_equal(space_read(s, 0x405, 1), 0x15);
	assert_int_equal(space_read(s, 0x406, 4), 0x19181716);
	assert_string_equal(d->notes, "r4@4 r4@4 r4@8 ");
	space_write(s, 0x404, 1, 0xee); /* dropped */
	assert_string_equal(d->notes, "r4@4 r4@4 r4@8 ");
	assert_int_equal(d->bytes[4], 0x14);
	space_write(s, 0x502, 2, 0xbbaa);
	assert_string_equal(m->notes, "r4@0 w4@0 ");
	assert_memory_equal(m->bytes, "\x10\x11\xaa\xbb\x14", 5);
	toy_free(d);
	toy_free(m);
	space_free(s);
}

static void an_access_may_straddle_regions_and_gaps(void **state)
{
	struct space *s = memory();
	struct toy *a = toy_new(s, &any, 2, 0x100), *b = toy_new(s, &any, 16, 0x103);

	assert_int_equal(space_read(s, 0x100, 4), 0x10ff1110);
	assert_int_equal(space_read(s, 0xff, 4), 0xff1110ff);
	space_write(s, 0x100, 8, 0x0807060504030201);
	assert_memory_equal(a->bytes, "\x01\x02\x12", 3);
	assert_memory_equal(b->bytes, "\x04\x05\x06\x07\x08\x15", 6);
	toy_free(a);
	toy_free(b);
	space_free(s);
}

static void ports_wrap_at_64_kib(void **state)
{
	struct space *s = ports();
	struct toy *a = toy_new(s, &any, 4, 0xfffc), *b = toy_new(s, &any, 4, 0);

	assert_int_equal(space_read(s, 0xfffe, 4), 0x11101312);
	space_write(s, 0xffff, 2, 0xbbaa);
	assert_int_equal(a->bytes[3], 0xaa);
	assert_int_equal(b->bytes[0], 0xbb);
	toy_free(a);
	toy_free(b);
	space_free(s);
}

static void regions_without_hooks_are_like_nobody(void **state)
{
	struct space *s = ports();
	struct region r = {.name = "silent", .ops = &silent, .size = 4};

	assert_int_equal(space_map(s, &r, 0x60), 0);
	assert_int_equal(space_read(s, 0x60, 2), 0xffff);
	space_write(s, 0x60, 4, 0);
	assert_ptr_equal(space_lookup(s, 0x63), &r);
	space_unmap(s, &r);
	space_unmap(s, &r);
	space_free(s);
}

static void refuses_overlap_and_what_is_outside(void **state)
{
	struct space *s = ports();
	struct region r = {.name = "r", .ops = &silent, .size = 8}, q = r, z = r;

	z.size = 0;
	assert_int_equal(space_map(s, &r, 0x100), 0);
	assert_int_equal(space_map(s, &r, 0x200), -EEXIST);
	assert_int_equal(space_map(s, &q, 0x107), -EEXIST);
	assert_int_equal(space_map(s, &q, 0xf9), -EEXIST);
	assert_int_equal(space_map(s, &q, 0x10000 - 7), -EINVAL);
	assert_int_equal(space_map(s, &q, UINT64_MAX - 3), -EINVAL);
	assert_int_equal(space_map(s, &z, 0x300), -EINVAL);
	assert_false(q.mapped);
	assert_int_equal(space_map(s, &q, 0x108), 0);
	assert_int_equal(space_map(s, &z, 0x10000), -EINVAL);
	space_unmap(s, &r);
	assert_int_equal(space_map(s, &r, 0xf8), 0);
	assert_int_equal(r.base, 0xf8);
	space_free(s);
}

struct listing {
	uint64_t last;
	unsigned count;
};

static void list_one(void *opaque, const struct region *region)
{
	struct listing *l = opaque;

	assert_true(!l->count || region->base > l->last);
	l->last = region->base;
	l->count++;
}

static void holds_many_regions_in_order_and_then_is_full(void **state)
{
	struct space *s = ports();
	struct region *r = calloc(SPACE_MAX_REGIONS + 1, sizeof(*r));
	struct listing l = {0};

	for (unsigned i = 0; i <= SPACE_MAX_REGIONS; i++) {
		r[i] = (struct region){.name = "r", .ops = &silent, .size = 16};
		assert_int_equal(space_map(s, &r[i], (i * 37 % 521) * 64),
				 i < SPACE_MAX_REGIONS ? 0 : -ENOSPC);
	}
	space_each(s, list_one, &l);
	assert_int_equal(l.count, SPACE_MAX_REGIONS);
	for (unsigned i = 0; i < SPACE_MAX_REGIONS; i++) {
		assert_ptr_equal(space_lookup(s, r[i].base + 15), &r[i]);
		assert_null(space_lookup(s, r[i].base + 16));
	}
	for (unsigned i = 0; i < SPACE_MAX_REGIONS; i += 2)
		space_unmap(s, &r[i]);
	for (unsigned i = 0; i < SPACE_MAX_REGIONS; i++)
		assert_ptr_equal(space_lookup(s, r[i].base), i % 2 ? &r[i] : NULL);
	space_free(s);
	free(r);
}

static void a_device_may_move_itself_from_its_hook(void **state)
{
	struct space *s = memory();
	struct toy *a = toy_new(s, &any, 16, 0x1000);

	a->move_to = 0x5000;
	space_write(s, 0x1000, 4, 0x55);
	assert_null(space_lookup(s, 0x1000));
	assert_int_equal(space_read(s, 0x5000, 4), 0x55);
	toy_free(a);
	space_free(s);
}

/* One thread moves a region about, others read: each sees the region's own bytes or ones, never the
 * wrong register and never a neighbour's. */
struct racer {
	struct space *space;
	struct toy *still;
	atomic_bool stop;
};

static uint64_t own_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return offset; /* tells which register was asked */
}
static const struct region_ops own = {.read = own_read, .min_size = 4, .max_size = 4};

static void *race(void *opaque)
{
	struct racer *r = opaque;

	while (!atomic_load(&r->stop)) {
		uint64_t moving = space_read(r->space, 0x2008, 4);

		if (moving != 8 && moving != 0x18 && moving != 0xffffffff)
			abort();
		if (space_read(r->space, 0x8004, 4) != 4)
			abort();
	}
	return NULL;
}

static void lookups_race_with_moves(void **state)
{
	for (int kind = 0; kind < 2; kind++) {
		struct racer r = {.space = kind ? ports() : memory()};
		struct region moving = {.name = "m", .ops = &own, .size = 0x40}, still = moving;
		pthread_t thread[2];

		assert_int_equal(space_map(r.space, &still, 0x8000), 0);
		assert_int_equal(space_map(r.space, &moving, 0x2000), 0);
		for (int i = 0; i < 2; i++)
			assert_int_equal(pthread_create(&thread[i], NULL, race, &r), 0);
		for (int i = 0; i < 3000; i++) {
			static const uint64_t places[] = {0x2000, 0x1ff0, 0x100, 0x9000};

			space_unmap(r.space, &moving);
			assert_int_equal(space_map(r.space, &moving, places[i % 4]), 0);
		}
		atomic_store(&r.stop, 1);
		for (int i = 0; i < 2; i++)
			pthread_join(thread[i], NULL);
		space_free(r.space);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nobody_answers_with_ones),
	    cmocka_unit_test(a_region_gets_its_own_offsets),
	    cmocka_unit_test(splits_what_is_too_large_or_misaligned),
	    cmocka_unit_test(small_accesses_see_the_whole_register),
	    cmocka_unit_test(an_access_may_straddle_regions_and_gaps),
	    cmocka_unit_test(ports_wrap_at_64_kib),
	    cmocka_unit_test(regions_without_hooks_are_like_nobody),
	    cmocka_unit_test(refuses_overlap_and_what_is_outside),
	    cmocka_unit_test(holds_many_regions_in_order_and_then_is_full),
	    cmocka_unit_test(a_device_may_move_itself_from_its_hook),
	    cmocka_unit_test(lookups_race_with_moves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
