/* kvmclock_test.c: the paravirtual clock against the formula that guests use. */
#include "dev/pc/kvmclock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/le.h"

#define RAM    (UINT64_C(1) << 20)
#define PAGE   UINT64_C(0x3000)
#define KHZ    2595124u
#define SYSTEM 0x4b564d01u
#define WALL   0x4b564d00u

struct fixture {
	struct gmem *mem;
	struct clock *clock;
	struct doors doors;
	struct device *dev;
	uint64_t behind; /* the VM's clock lags the TSC by so many ticks */
	uint64_t skew;	 /* of CPU 1's TSC */
};

/* A TSC that runs at KHZ with the VM's clock. */
static uint64_t tsc_read(void *opaque, unsigned cpu)
{
	struct fixture *f = opaque;

	return (uint64_t)((unsigned __int128)clock_now_ns(f->clock) * KHZ / 1000000) + f->behind +
	       (cpu ? f->skew : 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct gmem_config mem = {.ram_bytes = RAM, .low_limit = RAM};
	struct kvmclock_config cfg = {
	    .doors = &f->doors, .tsc = {tsc_read, NULL, f}, .tsc_khz = KHZ, .cpus = 2};

	assert_int_equal(gmem_new(&f->mem, &mem, NULL), 0);
	assert_int_equal(clock_new(&f->clock, CLOCK_MANUAL), 0);
	clock_set_wall_base_ns(f->clock, INT64_C(1700000000123456789));
	cfg.mem = f->mem;
	cfg.clock = f->clock;
	assert_int_equal(kvmclock_new(&f->dev, &cfg, NULL), 0);
	device_reset(f->dev, RESET_POWER);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	device_free(f->dev);
	clock_free(f->clock);
	gmem_free(f->mem);
	free(f);
	return 0;
}

static void wr(struct fixture *f, unsigned cpu, uint32_t msr, uint64_t v)
{
	const struct msr_door *d = doors_find_msr(&f->doors, msr);

	assert_non_null(d);
	assert_int_equal(d->write(d->opaque, cpu, msr, v), 0);
}

static uint64_t rd(struct fixture *f, unsigned cpu, uint32_t msr)
{
	const struct msr_door *d = doors_find_msr(&f->doors, msr);
	uint64_t v = 0;

	assert_non_null(d);
	assert_int_equal(d->read(d->opaque, cpu, msr, &v), 0);
	return v;
}

/* What a guest makes of the page at `addr` now. */
static uint64_t guest_time(struct fixture *f, uint64_t addr)
{
	uint8_t t[32];
	uint64_t delta;
	int8_t shift;

	assert_int_equal(gmem_read(f->mem, gpa(addr), t, sizeof(t)), 0);
	assert_int_equal(t[0] & 1, 0);
	shift = (int8_t)t[28];
	delta = tsc_read(f, 0) - load_le64(t + 8);
	delta = shift < 0 ? delta >> -shift : delta << shift;
	return load_le64(t + 16) + (uint64_t)((unsigned __int128)delta * load_le32(t + 24) >> 32);
}

static void resets_to_no_page_registered(void **state)
{
	struct fixture *f = *state;

	wr(f, 1, SYSTEM, PAGE | 1);
	wr(f, 0, WALL, PAGE);
	device_reset(f->dev, RESET_SYSTEM);
	assert_int_equal(rd(f, 1, SYSTEM), 0);
	assert_int_equal(rd(f, 0, WALL), 0);
}

static void answers_at_both_pairs_of_msrs(void **state)
{
	struct fixture *f = *state;

	wr(f, 0, 0x12, PAGE | 1);
	assert_int_equal(rd(f, 0, SYSTEM), PAGE | 1);
	assert_int_equal(rd(f, 1, SYSTEM), 0);
	wr(f, 0, 0x11, 0x5000);
	assert_int_equal(rd(f, 1, WALL), 0x5000);
	assert_null(doors_find_msr(&f->doors, 0x13));
	assert_null(doors_find_msr(&f->doors, 0x4b564d02));
}

static void gives_the_time_that_the_vm_has(void **state)
{
	struct fixture *f = *state;

	clock_advance(f->clock, 1234567890);
	wr(f, 0, SYSTEM, PAGE | 1);
	wr(f, 1, SYSTEM, (PAGE + 0x40) | 1);
	clock_advance(f->clock, UINT64_C(3600) * 1000000000);
	assert_in_range(guest_time(f, PAGE), clock_now_ns(f->clock) - 20000,
			clock_now_ns(f->clock) + 20000);
	assert_int_equal(guest_time(f, PAGE), guest_time(f, PAGE + 0x40));
	kvmclock_resumed(f->dev);
	assert_in_range(guest_time(f, PAGE), clock_now_ns(f->clock) - 2,
			clock_now_ns(f->clock) + 2);
}

static void gives_the_wall_clock_at_time_zero(void **state)
{
	struct fixture *f = *state;
	uint8_t w[12];

	wr(f, 0, WALL, PAGE);
	assert_int_equal(gmem_read(f->mem, gpa(PAGE), w, sizeof(w)), 0);
	assert_int_equal(load_le32(w + 4), 1700000000);
	assert_int_equal(load_le32(w + 8), 123456789);
}

static void survives_addresses_outside_of_ram(void **state)
{
	struct fixture *f = *state;

	wr(f, 0, SYSTEM, UINT64_MAX);
	wr(f, 0, SYSTEM, (RAM - 8) | 1);
	wr(f, 0, WALL, RAM);
	wr(f, 0, WALL, UINT64_MAX - 3);
	kvmclock_resumed(f->dev);
}

static void saves_loads_and_saves_the_same_and_refuses_bad_state(void **state)
{
	struct fixture *f = *state;
	struct state_shadow *shadow;
	struct wbuf a, b;
	struct rbuf in;

	wbuf_init(&a, 1 << 20);
	wbuf_init(&b, 1 << 20);
	wr(f, 1, SYSTEM, PAGE | 1);
	wr(f, 0, WALL, 0x6000);
	device_save(f->dev, &a);
	device_reset(f->dev, RESET_POWER);
	rbuf_init(&in, a.data, a.len);
	assert_int_equal(device_decode(f->dev, &in, &shadow, NULL), 0);
	device_commit(f->dev, shadow);
	device_save(f->dev, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	for (size_t cut = 0; cut < a.len; cut += 7) {
		rbuf_init(&in, a.data, cut);
		assert_int_not_equal(device_decode(f->dev, &in, &shadow, NULL), 0);
	}
	assert_int_equal(rd(f, 1, SYSTEM), PAGE | 1);
	wbuf_fini(&a);
	wbuf_fini(&b);
}

static void never_goes_backwards_when_resumed(void **state)
{
	struct fixture *f = *state;
	uint64_t before;
	uint8_t t[32];

	wr(f, 0, SYSTEM, PAGE | 1);
	clock_advance(f->clock, 5000000000);
	before = guest_time(f, PAGE);
	f->behind = 1000000;
	kvmclock_resumed(f->dev);
	assert_true(guest_time(f, PAGE) >= before);
	assert_int_equal(gmem_read(f->mem, gpa(PAGE), t, sizeof(t)), 0);
	assert_int_equal(t[29], 3); /* stable; the guest was stopped */
}

static void tells_when_a_cpu_has_a_tsc_of_its_own(void **state)
{
	struct fixture *f = *state;
	uint8_t t[32];

	f->skew = 12345678;
	wr(f, 1, SYSTEM, PAGE | 1);
	assert_int_equal(gmem_read(f->mem, gpa(PAGE), t, sizeof(t)), 0);
	assert_int_equal(t[29], 0);
	assert_int_equal(load_le64(t + 8), tsc_read(f, 1));
}

static void hypercalls_are_known_to_be_unknown(void **state)
{
	struct fixture *f = *state;
	struct hypercall_regs r = {.rax = 5, .long_mode = 1};

	assert_true(f->doors.hypercall.call(f->doors.hypercall.opaque, 0, &r));
	assert_int_equal((int64_t)r.rax, -1000);
	r.cpl = 3;
	assert_true(f->doors.hypercall.call(f->doors.hypercall.opaque, 0, &r));
	assert_int_equal((int64_t)r.rax, -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(resets_to_no_page_registered, setup, teardown),
	    cmocka_unit_test_setup_teardown(answers_at_both_pairs_of_msrs, setup, teardown),
	    cmocka_unit_test_setup_teardown(gives_the_time_that_the_vm_has, setup, teardown),
	    cmocka_unit_test_setup_teardown(gives_the_wall_clock_at_time_zero, setup, teardown),
	    cmocka_unit_test_setup_teardown(survives_addresses_outside_of_ram, setup, teardown),
	    cmocka_unit_test_setup_teardown(saves_loads_and_saves_the_same_and_refuses_bad_state,
					    setup, teardown),
	    cmocka_unit_test_setup_teardown(never_goes_backwards_when_resumed, setup, teardown),
	    cmocka_unit_test_setup_teardown(tells_when_a_cpu_has_a_tsc_of_its_own, setup, teardown),
	    cmocka_unit_test_setup_teardown(hypercalls_are_known_to_be_unknown, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
