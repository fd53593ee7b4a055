/* testing.h: a bench for unit tests of devices: spaces, manual clock, memory, recorded wires. */
#ifndef BUS_TESTING_H
#define BUS_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "bus/clock.h"
#include "bus/irq.h"
#include "bus/power.h"
#include "bus/space.h"
#include "mem/gmem.h"

#define BENCH_LINES   64
#define BENCH_RAM     (UINT64_C(1) << 20)
#define BENCH_WALL_NS (INT64_C(1700000000) * 1000000000) /* Tue 2023-11-14 22:13:20 UTC */

struct bench {
	struct space *ports, *memory;
	struct clock *clock;
	struct gmem *mem;
	_Bool level[BENCH_LINES];
	unsigned raised[BENCH_LINES]; /* rising edges */
	unsigned requests;
	enum power_request request; /* the last one, and its argument */
	unsigned request_arg;
	unsigned messages;
	uint64_t msi_addr; /* of the last message */
	uint32_t msi_data;
};

static inline void bench_init(struct bench *b)
{
	memset(b, 0, sizeof(*b));
	const struct gmem_config cfg = {.ram_bytes = BENCH_RAM, .low_limit = UINT64_C(3) << 30};
	assert_int_equal(space_new(&b->ports, "ports", 0x10000), 0);
	assert_int_equal(space_new(&b->memory, "memory", UINT64_C(1) << 48), 0);
	assert_int_equal(clock_new(&b->clock, CLOCK_MANUAL), 0);
	assert_int_equal(gmem_new(&b->mem, &cfg, NULL), 0);
	clock_set_wall_base_ns(b->clock, BENCH_WALL_NS);
}

static inline void bench_fini(struct bench *b)
{
	space_free(b->ports);
	space_free(b->memory);
	clock_free(b->clock);
	gmem_free(b->mem);
}

static inline void bench_irq_set(void *opaque, unsigned line, _Bool level)
{
	struct bench *b = opaque;
	b->raised[line] += level && !b->level[line];
	b->level[line] = level;
}

static inline struct irq bench_irq(struct bench *b, unsigned line)
{
	return (struct irq){.set = bench_irq_set, .opaque = b, .line = line};
}

static inline void bench_request(void *opaque, enum power_request what, unsigned arg)
{
	struct bench *b = opaque;
	b->requests++;
	b->request = what;
	b->request_arg = arg;
}

static inline struct power_sink bench_power(struct bench *b)
{
	return (struct power_sink){.request = bench_request, .opaque = b};
}

static inline void bench_message(void *opaque, uint64_t addr, uint32_t data)
{
	struct bench *b = opaque;
	b->messages++;
	b->msi_addr = addr;
	b->msi_data = data;
}

static inline struct msi_sink bench_msi(struct bench *b)
{
	return (struct msi_sink){.send = bench_message, .opaque = b};
}

static inline uint32_t bench_in(struct bench *b, uint64_t port, unsigned size)
{
	return (uint32_t)space_read(b->ports, port, size);
}

static inline void bench_out(struct bench *b, uint64_t port, unsigned size, uint32_t value)
{
	space_write(b->ports, port, size, value);
}

/* Every offset at every width: values fit, and nothing bad happens. */
static inline void bench_sweep(struct space *space, uint64_t base, uint64_t len)
{
	static const uint64_t patterns[] = {0, ~UINT64_C(0), 0x5aa5c33c0ff0a55a,
					    0x0102030405060708};
	for (unsigned p = 0; p < ARRAY_SIZE(patterns); p++)
		for (unsigned size = 1; size <= 8; size *= 2)
			for (uint64_t at = base; at < base + len; at++) {
				assert_false(space_read(space, at, size) & ~size_mask(size));
				space_write(space, at, size, patterns[p] & size_mask(size));
				assert_false(space_read(space, at, size) & ~size_mask(size));
			}
}

static inline void bench_save(struct device *dev, struct wbuf *out)
{
	wbuf_init(out, 1 << 20);
	device_save(dev, out);
	assert_false(out->failed);
}

static inline int bench_load(struct device *dev, const void *data, size_t len)
{
	struct state_shadow *shadow;
	struct rbuf in;
	rbuf_init(&in, data, len);
	int rc = device_decode(dev, &in, &shadow, NULL);
	if (!rc)
		device_commit(dev, shadow);
	return rc;
}

/* `from` saved, loaded into `to` (its twin), saved again: the same bytes. */
static inline void bench_round_trip(struct device *from, struct device *to)
{
	struct wbuf first, second;
	bench_save(from, &first);
	assert_int_equal(bench_load(to, first.data, first.len), 0);
	bench_save(to, &second);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.data, second.data, first.len);
	wbuf_fini(&first);
	wbuf_fini(&second);
}

/* Cut short anywhere, or with a flipped bit: refused or accepted, the device stays as it was until
 * a commit; a cut is always refused. */
static inline void bench_corrupt(struct device *dev)
{
	struct wbuf good, after;
	struct state_shadow *shadow;
	struct rbuf in;
	bench_save(dev, &good);
	size_t step = good.len > 1024 ? 7 : 1;
	for (size_t i = 0; i < good.len; i += step) {
		rbuf_init(&in, good.data, i);
		assert_int_not_equal(device_decode(dev, &in, &shadow, NULL), 0);
		for (unsigned bit = 0; bit<8; bit += step> 1 ? 5 : 1) {
			good.data[i] ^= (uint8_t)(1 << bit);
			rbuf_init(&in, good.data, good.len);
			if (!device_decode(dev, &in, &shadow, NULL))
				state_discard(shadow);
			good.data[i] ^= (uint8_t)(1 << bit);
		}
	}
	bench_save(dev, &after);
	assert_int_equal(good.len, after.len);
	assert_memory_equal(good.data, after.data, good.len);
	wbuf_fini(&good);
	wbuf_fini(&after);
}

/* Saves with one field of the private struct set to a bad value: must be refused. */
#define bench_refuses(dev, type, field, bad)                                                       \
	do {                                                                                       \
		type *own_ = (type *)(dev);                                                        \
		__typeof__(own_->field) keep_ = own_->field;                                       \
		struct wbuf w_;                                                                    \
		own_->field = (bad);                                                               \
		wbuf_init(&w_, 1 << 20);                                                           \
		state_save((dev)->cls->state, (dev)->instance, own_, &w_);                         \
		own_->field = keep_;                                                               \
		assert_int_equal(bench_load(dev, w_.data, w_.len), -EINVAL);                       \
		assert_true(own_->field == keep_);                                                 \
		wbuf_fini(&w_);                                                                    \
	} while (0)

#endif
