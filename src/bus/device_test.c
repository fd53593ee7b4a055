/* device_test.c: tests of the device contract. */
#include "bus/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

struct toy {
	struct device dev;
	uint32_t value;
	unsigned saves, loads, frees_seen;
};

static void toy_reset(struct device *dev, enum reset_kind kind)
{
	struct toy *toy = (struct toy *)dev;

	assert_true(lock_held(&dev->lock));
	toy->value = kind == RESET_POWER ? 1 : 2;
}
static void toy_free(struct device *dev)
{
	struct toy *toy = (struct toy *)dev;

	toy->frees_seen++;
	device_fini(dev);
}
static void toy_pre_save(struct device *dev)
{
	assert_true(lock_held(&dev->lock));
	((struct toy *)dev)->saves++;
}
static void toy_post_load(struct device *dev)
{
	assert_true(lock_held(&dev->lock));
	((struct toy *)dev)->loads++;
}
static const struct state_field toy_fields[] = {STATE_SCALAR(1, struct toy, value), STATE_END};
static const struct state_desc toy_state = {"toy", toy_fields, sizeof(struct toy), NULL};
static const struct device_class toy_class = {"toy",	    toy_reset,	   toy_free,
					      toy_pre_save, toy_post_load, &toy_state};
static const struct device_class plain_class = {.name = "plain", .free = toy_free};

static void every_hook_runs_under_the_lock(void **state)
{
	struct toy a = {0}, b = {0};
	struct state_shadow *shadow;
	struct wbuf w;
	struct rbuf r;

	device_init(&a.dev, &toy_class, RANK_DEVICE, 4, "a-name-that-is-longer-than-the-field");
	device_init(&b.dev, &toy_class, RANK_INTC, 4, "toy1");
	assert_string_equal(b.dev.id, "toy1");
	device_reset(&a.dev, RESET_SYSTEM);
	device_reset(&b.dev, RESET_POWER);
	assert_int_equal(a.value, 2);
	assert_int_equal(b.value, 1);
	wbuf_init(&w, 1000);
	device_save(&a.dev, &w);
	assert_int_equal(a.saves, 1);
	rbuf_init(&r, w.data, w.len);
	assert_int_equal(device_decode(&b.dev, &r, &shadow, NULL), 0);
	assert_int_equal(b.value, 1);
	device_commit(&b.dev, shadow);
	assert_int_equal(b.value, 2);
	assert_int_equal(b.loads, 1);
	b.dev.instance = 5;
	rbuf_init(&r, w.data, w.len);
	assert_int_equal(device_decode(&b.dev, &r, &shadow, NULL), -EINVAL);
	device_free(&a.dev);
	device_free(&b.dev);
	device_free(NULL);
	assert_int_equal(a.frees_seen, 1);
	wbuf_fini(&w);
}

static void a_device_without_state_saves_nothing(void **state)
{
	struct toy a = {0};
	struct state_shadow *shadow;
	struct wbuf w;
	struct rbuf r;

	device_init(&a.dev, &plain_class, RANK_DEVICE, 0, "plain0");
	device_reset(&a.dev, RESET_POWER);
	wbuf_init(&w, 100);
	device_save(&a.dev, &w);
	assert_int_equal(w.len, 0);
	rbuf_init(&r, w.data, 0);
	assert_int_equal(device_decode(&a.dev, &r, &shadow, NULL), 0);
	device_commit(&a.dev, shadow);
	device_free(&a.dev);
	wbuf_fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_hook_runs_under_the_lock),
	    cmocka_unit_test(a_device_without_state_saves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
