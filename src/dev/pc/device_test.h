/* device_test.h: what every device's test does with saved state. */
#ifndef DEV_PC_DEVICE_TEST_H
#define DEV_PC_DEVICE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "bus/device.h"

static inline struct wbuf device_test_save(struct device *dev)
{
	struct wbuf b;

	wbuf_init(&b, 1 << 20);
	device_save(dev, &b);
	assert_false(b.failed);
	return b;
}

static inline void device_test_assert_same(const struct wbuf *a, const struct wbuf *b)
{
	assert_int_equal(a->len, b->len);
	assert_memory_equal(a->data, b->data, a->len);
}

/* Loads what was saved from one device into another. */
static inline void device_test_load(struct device *dev, const struct wbuf *saved)
{
	struct state_shadow *shadow;
	struct rbuf in;

	rbuf_init(&in, saved->data, saved->len);
	assert_int_equal(device_decode(dev, &in, &shadow, NULL), 0);
	assert_int_equal(rbuf_left(&in), 0);
	device_commit(dev, shadow);
}

/* Saves `dev`, loads that into `other`, saves it again: the same bytes. */
static inline void device_test_roundtrip(struct device *dev, struct device *other)
{
	struct wbuf a = device_test_save(dev), b;

	device_test_load(other, &a);
	b = device_test_save(other);
	device_test_assert_same(&a, &b);
	wbuf_fini(&a);
	wbuf_fini(&b);
}

/* Every cut and every byte changed: refused or not, nothing live changes. Returns how many changes
 * were refused. */
static inline unsigned device_test_corrupt(struct device *dev)
{
	struct wbuf good = device_test_save(dev), after;
	struct state_shadow *shadow;
	struct rbuf in;
	unsigned refused = 0;

	for (size_t i = 0; i < good.len; i++) {
		rbuf_init(&in, good.data, i);
		assert_int_not_equal(device_decode(dev, &in, &shadow, NULL), 0);
	}
	for (size_t i = 0; i < good.len; i++) {
		for (unsigned change = 1; change < 256; change = change * 3 + 1) {
			good.data[i] ^= (uint8_t)change;
			rbuf_init(&in, good.data, good.len);
			if (device_decode(dev, &in, &shadow, NULL))
				refused++;
			else
				state_discard(shadow);
			good.data[i] ^= (uint8_t)change;
		}
	}
	after = device_test_save(dev);
	device_test_assert_same(&good, &after);
	wbuf_fini(&good);
	wbuf_fini(&after);
	return refused;
}

#endif
