/* gmem_test.c: tests of guest RAM. */
#include "mem/gmem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static struct gmem *ram_new(uint64_t bytes, uint64_t low)
{
	struct gmem_config cfg = {.ram_bytes = bytes, .low_limit = low};
	struct gmem *gm;

	assert_int_equal(gmem_new(&gm, &cfg, NULL), 0);
	return gm;
}

static void splits_ram_below_the_hole_and_from_4_gib(void **state)
{
	struct gmem *gm = ram_new(24 * MIB, 16 * MIB);
	unsigned count;
	const struct gmem_slot *s = gmem_slots(gm, &count);

	assert_int_equal(count, 2);
	assert_int_equal(s[0].base, 0);
	assert_int_equal(s[0].size, 16 * MIB);
	assert_true(s[1].base == 4 * GIB);
	assert_int_equal(s[1].size, 8 * MIB);
	assert_true(s[1].fd_offset >= 16 * MIB);
	assert_int_equal(gmem_ram_bytes(gm), 24 * MIB);
	assert_null(gmem_slot_at(gm, gpa(16 * MIB)));
	assert_ptr_equal(gmem_slot_at(gm, gpa(4 * GIB + 8 * MIB - 1)), &s[1]);
	assert_null(gmem_slot_at(gm, gpa(4 * GIB + 8 * MIB)));
	assert_null(gmem_slot_at(gm, gpa(UINT64_MAX)));
	gmem_free(gm);
}

static void nothing_is_resident_until_touched(void **state)
{
	struct gmem *gm = ram_new(64 * MIB, 3 * GIB);
	unsigned char *vec = calloc(64 * MIB / 4096, 1);
	unsigned count, resident = 0;
	const struct gmem_slot *s = gmem_slots(gm, &count);

	assert_int_equal(gmem_write(gm, gpa(8 * MIB), "x", 1), 0);
	assert_int_equal(mincore(s[0].host, 64 * MIB, vec), 0);
	for (size_t i = 0; i < 64 * MIB / 4096; i++)
		resident += vec[i] & 1;
	assert_true(resident >= 1 && resident <= 512); /* a huge page at most */
	free(vec);
	gmem_free(gm);
}

static void the_descriptor_shows_the_same_bytes(void **state)
{
	struct gmem *gm = ram_new(24 * MIB, 16 * MIB);
	unsigned count;
	const struct gmem_slot *s = gmem_slots(gm, &count);
	char c = 0;

	assert_int_equal(gmem_write(gm, gpa(4 * GIB + 123), "q", 1), 0);
	assert_int_equal(pread(gmem_fd(gm), &c, 1, (off_t)s[1].fd_offset + 123), 1);
	assert_int_equal(c, 'q');
	gmem_free(gm);
}

static void refuses_absurd_sizes_with_a_sentence(void **state)
{
	const struct {
		uint64_t bytes;
		int rc;
	} cases[] = {{0, -EINVAL},
		     {4097, -EINVAL},
		     {UINT64_C(1) << 50, -ENOMEM},
		     {UINT64_MAX & ~UINT64_C(4095), -ENOMEM}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct gmem_config cfg = {.ram_bytes = cases[i].bytes, .low_limit = 3 * GIB};
		struct error err = {0};
		struct gmem *gm = NULL;

		assert_int_equal(gmem_new(&gm, &cfg, &err), cases[i].rc);
		assert_true(strlen(err.text) > 20);
		assert_null(gm);
	}
}

static void reads_and_writes_across_adjacent_ranges(void **state)
{
	struct gmem *gm = ram_new(1 * MIB, 3 * GIB);
	char buf[8] = "";

	assert_int_equal(gmem_add(gm, 1 * MIB, 4096, 0, NULL), 0);
	assert_int_equal(gmem_write(gm, gpa(1 * MIB - 3), "abcdef", 6), 0);
	assert_int_equal(gmem_read(gm, gpa(1 * MIB - 3), buf, 6), 0);
	assert_string_equal(buf, "abcdef");
	assert_null(gmem_ptr(gm, gpa(1 * MIB - 3), 6, 0));
	assert_non_null(gmem_ptr(gm, gpa(1 * MIB - 3), 3, 1));
	gmem_free(gm);
}

static void refuses_ranges_that_leave_ram_and_does_nothing(void **state)
{
	struct gmem *gm = ram_new(1 * MIB, 3 * GIB);
	const uint64_t bad[] = {1 * MIB - 3, 1 * MIB, UINT64_MAX, UINT64_MAX - 7};
	char buf[8] = "1234567";

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(gmem_read(gm, gpa(bad[i]), buf, 8), -EFAULT);
		assert_int_equal(gmem_write(gm, gpa(bad[i]), buf, 8), -EFAULT);
		assert_int_equal(gmem_fill(gm, gpa(bad[i]), 1, 8), -EFAULT);
		assert_null(gmem_ptr(gm, gpa(bad[i]), 8, 0));
	}
	assert_string_equal(buf, "1234567");
	assert_int_equal(gmem_read(gm, gpa(1 * MIB - 3), buf, 3), 0);
	assert_memory_equal(buf, "\0\0\0", 3);
	assert_int_equal(gmem_read(gm, gpa(0), buf, SIZE_MAX), -EFAULT);
	assert_int_equal(gmem_read(gm, gpa(UINT64_MAX), buf, 0), 0);
	gmem_free(gm);
}

static void rom_takes_loads_but_no_writes(void **state)
{
	struct gmem *gm = ram_new(1 * MIB, 3 * GIB);
	const uint64_t rom = 4 * GIB - 64 * 1024;
	char c = 0;

	assert_int_equal(gmem_add(gm, rom, 64 * 1024, GMEM_READONLY, NULL), 0);
	assert_int_equal(gmem_write(gm, gpa(rom), "x", 1), -EFAULT);
	assert_int_equal(gmem_fill(gm, gpa(rom), 1, 1), -EFAULT);
	assert_null(gmem_ptr(gm, gpa(rom), 1, 1));
	assert_non_null(gmem_ptr(gm, gpa(rom), 1, 0));
	assert_int_equal(gmem_load(gm, gpa(rom), "x", 1), 0);
	assert_int_equal(gmem_read(gm, gpa(rom), &c, 1), 0);
	assert_int_equal(c, 'x');
	gmem_free(gm);
}

static void refuses_overlapping_and_odd_ranges(void **state)
{
	struct gmem *gm = ram_new(1 * MIB, 3 * GIB);

	assert_int_equal(gmem_add(gm, 0, 4096, 0, NULL), -EEXIST);
	assert_int_equal(gmem_add(gm, 1 * MIB - 4096, 8192, 0, NULL), -EEXIST);
	assert_int_equal(gmem_add(gm, 2 * MIB + 1, 4096, 0, NULL), -EINVAL);
	assert_int_equal(gmem_add(gm, 2 * MIB, 0, 0, NULL), -EINVAL);
	assert_int_equal(gmem_add(gm, UINT64_MAX - 4095, 4096, 0, NULL), -EINVAL);
	assert_int_equal(gmem_add(gm, 8 * MIB, 4096, 0, NULL), 0);
	assert_int_equal(gmem_add(gm, 4 * MIB, 4 * MIB + 4096, 0, NULL), -EEXIST);
	assert_int_equal(gmem_add(gm, 4 * MIB, 4 * MIB, 0, NULL), 0);
	gmem_free(gm);
}

struct heard {
	uint64_t addr, len;
	unsigned calls;
};

static void hear(void *opaque, struct gpa addr, size_t len)
{
	struct heard *h = opaque;

	*h = (struct heard){addr.v, len, h->calls + 1};
}

static void tells_the_listener_what_changed(void **state)
{
	struct gmem *gm = ram_new(1 * MIB, 3 * GIB);
	struct heard h = {0};

	gmem_set_listener(gm, hear, &h);
	assert_int_equal(gmem_write(gm, gpa(100), "abc", 3), 0);
	assert_int_equal(h.addr, 100);
	assert_int_equal(h.len, 3);
	assert_int_equal(gmem_write(gm, gpa(1 * MIB), "abc", 3), -EFAULT);
	gmem_log_mark(gm, gpa(0), 1);
	assert_int_equal(h.calls, 1);
	assert_int_equal(gmem_fill(gm, gpa(0), 0, 5000), 0);
	assert_int_equal(h.calls, 2);
	gmem_free(gm);
}

static uint64_t allocated(const struct gmem *gm)
{
	struct stat st;

	assert_int_equal(fstat(gmem_fd(gm), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void discarded_pages_are_zero_and_the_hosts_again(void **state)
{
	struct gmem *gm = ram_new(4 * MIB, 2 * MIB);
	struct heard h = {0};
	uint8_t byte = 0xee;

	assert_int_equal(gmem_fill(gm, gpa(0), 0x55, 2 * MIB), 0);
	assert_int_equal(gmem_fill(gm, gpa(4 * GIB), 0x55, 2 * MIB), 0);
	assert_int_equal(allocated(gm), 4 * MIB);
	gmem_set_listener(gm, hear, &h);
	assert_int_equal(gmem_discard(gm, gpa(4096), 8192), 0);
	assert_int_equal(gmem_discard(gm, gpa(4 * GIB), 1 * MIB), 0);
	assert_int_equal(allocated(gm), 3 * MIB - 8192);
	assert_int_equal(h.calls, 2);
	assert_true(h.addr == 4 * GIB && h.len == 1 * MIB);
	assert_int_equal(gmem_read(gm, gpa(4095), &byte, 1), 0);
	assert_int_equal(byte, 0x55);
	assert_int_equal(gmem_read(gm, gpa(4096), &byte, 1), 0);
	assert_int_equal(byte, 0);
	assert_int_equal(gmem_read(gm, gpa(3 * 4096), &byte, 1), 0);
	assert_int_equal(byte, 0x55);
	assert_int_equal(gmem_read(gm, gpa(4 * GIB), &byte, 1), 0);
	assert_int_equal(byte, 0);
	assert_int_equal(gmem_discard(gm, gpa(1), 4096), -EINVAL);
	assert_int_equal(gmem_discard(gm, gpa(0), 100), -EINVAL);
	assert_int_equal(gmem_discard(gm, gpa(1 * MIB), 2 * MIB), -EFAULT);
	assert_int_equal(h.calls, 2);
	assert_int_equal(gmem_read(gm, gpa(1 * MIB), &byte, 1), 0);
	assert_int_equal(byte, 0x55);
	gmem_free(gm);
}

static void logs_dirty_pages_and_hands_each_out_once(void **state)
{
	struct gmem *gm = ram_new(1 * MIB, 3 * GIB);
	uint64_t bits[4];

	assert_int_equal(gmem_write(gm, gpa(0), "x", 1), 0);
	assert_false(gmem_log_on(gm));
	assert_int_equal(gmem_log_start(gm), 0);
	assert_true(gmem_log_on(gm));
	assert_int_equal(gmem_write(gm, gpa(4095), "xy", 2), 0);
	assert_int_equal(gmem_fill(gm, gpa(255 * 4096), 1, 4096), 0);
	assert_int_equal(gmem_log_harvest(gm, 0, bits), 3);
	assert_true(bits[0] == 3 && bits[1] == 0 && bits[2] == 0 && bits[3] == BIT64(63));
	assert_int_equal(gmem_log_harvest(gm, 0, bits), 0);
	gmem_log_mark(gm, gpa(1 * MIB - 1), 100);
	assert_int_equal(gmem_log_harvest(gm, 0, bits), 1);
	gmem_log_stop(gm);
	assert_int_equal(gmem_write(gm, gpa(0), "x", 1), 0);
	assert_int_equal(gmem_log_harvest(gm, 0, bits), 0);
	gmem_free(gm);
}

static void starting_the_log_again_clears_it(void **state)
{
	struct gmem *gm = ram_new(1 * MIB, 3 * GIB);
	uint64_t bits[4];

	assert_int_equal(gmem_log_start(gm), 0);
	assert_int_equal(gmem_write(gm, gpa(0), "x", 1), 0);
	assert_int_equal(gmem_log_start(gm), 0);
	assert_int_equal(gmem_log_harvest(gm, 0, bits), 0);
	gmem_free(gm);
}

static void scatter_lists_follow_the_ranges(void **state)
{
	struct gmem *gm = ram_new(1 * MIB, 3 * GIB);
	struct iovec iov[2];

	assert_int_equal(gmem_add(gm, 1 * MIB, 4096, GMEM_READONLY, NULL), 0);
	assert_int_equal(gmem_iov(gm, gpa(1 * MIB - 10), 30, 0, iov, 2), 2);
	assert_int_equal(iov[0].iov_len, 10);
	assert_int_equal(iov[1].iov_len, 20);
	assert_ptr_equal(iov[1].iov_base, gmem_ptr(gm, gpa(1 * MIB), 1, 0));
	assert_int_equal(gmem_iov(gm, gpa(1 * MIB - 10), 30, 0, iov, 1), -E2BIG);
	assert_int_equal(gmem_iov(gm, gpa(1 * MIB - 10), 30, 1, iov, 2), -EFAULT);
	assert_int_equal(gmem_iov(gm, gpa(1 * MIB), 5000, 0, iov, 2), -EFAULT);
	assert_int_equal(gmem_iov(gm, gpa(0), 0, 1, iov, 2), 0);
	gmem_free(gm);
}

static void huge_pages_are_a_wish(void **state)
{
	struct gmem_config cfg = {.ram_bytes = 8 * MIB, .low_limit = 3 * GIB, .huge = 1};
	unsigned count;
	struct gmem *gm;

	assert_int_equal(gmem_new(&gm, &cfg, NULL), 0);
	assert_int_equal((uintptr_t)gmem_slots(gm, &count)[0].host % (2 * MIB), 0);
	assert_int_equal(gmem_write(gm, gpa(0), "x", 1), 0);
	gmem_free(gm);
	gmem_free(NULL);
}

struct protected
{
	unsigned calls, slot;
	int result;
};
static int note_protected(void *opaque, unsigned slot)
{
	struct protected *p = opaque;

	p->calls++;
	p->slot = slot;
	return p->result;
}

static void cut_slots_are_one_mapping_and_are_protected_one_by_one(void **state)
{
	static const uint64_t cuts[] = {0xc0000, 0xc4000, 8 * GIB};
	struct gmem_config cfg = {
	    .ram_bytes = 16 * MIB, .low_limit = 3 * GIB, .cuts = cuts, .cut_count = 3};
	struct protected p = {0};
	struct gmem *gm;
	unsigned count;

	assert_int_equal(gmem_new(&gm, &cfg, NULL), 0);
	const struct gmem_slot *s = gmem_slots(gm, &count);
	assert_int_equal(count, 3);
	assert_int_equal(s[1].base, 0xc0000);
	assert_int_equal(s[1].size, 0x4000);
	assert_int_equal(s[2].size, 16 * MIB - 0xc4000);
	for (unsigned i = 1; i < count; i++) {
		assert_ptr_equal(s[i].host, s[0].host + s[i].base);
		assert_int_equal(s[i].fd_offset, s[0].fd_offset + s[i].base);
	}
	gmem_set_protector(gm, note_protected, &p);
	assert_int_equal(gmem_protect(gm, gpa(0xc0000), GMEM_READONLY), 0);
	assert_int_equal(p.calls, 1);
	assert_int_equal(p.slot, 1);
	assert_int_equal(gmem_protect(gm, gpa(0xc0000), GMEM_READONLY), 0);
	assert_int_equal(p.calls, 1); /* nothing new */
	assert_int_equal(gmem_write(gm, gpa(0xbffff), "ab", 2), -EFAULT);
	assert_int_equal(gmem_write(gm, gpa(0xc4000), "ab", 2), 0);
	assert_null(gmem_ptr(gm, gpa(0xc0000), 1, 1));
	assert_int_equal(gmem_protect(gm, gpa(0xc1000), 0), -ENOENT);
	p.result = -EIO;
	assert_int_equal(gmem_protect(gm, gpa(0xc0000), 0), -EIO);
	assert_int_equal(gmem_write(gm, gpa(0xbffff), "ab", 2), 0);
	gmem_free(gm);
}

static void refuses_cuts_that_are_not_between_pages(void **state)
{
	static const uint64_t cut = 0xc0001;
	struct gmem_config cfg = {
	    .ram_bytes = 16 * MIB, .low_limit = 3 * GIB, .cuts = &cut, .cut_count = 1};
	struct gmem *gm;

	assert_int_equal(gmem_new(&gm, &cfg, NULL), -EINVAL);
}

/* The kernel says what a stray pointer would meet. */
static _Bool is_mapped(const void *at)
{
	int fd[2];
	ssize_t n;

	assert_int_equal(pipe(fd), 0);
	n = write(fd[1], at, 1);
	close(fd[0]);
	close(fd[1]);
	return n == 1;
}

static void nothing_is_mapped_around_guest_memory(void **state)
{
	static const uint64_t cuts[] = {4 * MIB, 8 * MIB};
	struct gmem_config cfg = {
	    .ram_bytes = 24 * MIB, .low_limit = 16 * MIB, .cuts = cuts, .cut_count = 2};
	const struct gmem_slot *s;
	struct gmem *gm;
	unsigned count;

	assert_int_equal(gmem_new(&gm, &cfg, NULL), 0);
	assert_int_equal(gmem_add(gm, 3 * GIB, 4096, GMEM_READONLY, NULL), 0);
	s = gmem_slots(gm, &count);
	assert_int_equal(count, 5);
	for (unsigned i = 0; i < count; i++) {
		_Bool first = i != 1 && i != 2, last = i > 1; /* of their mapping */

		assert_true(is_mapped(s[i].host) && is_mapped(s[i].host + s[i].size - 1));
		assert_int_equal(is_mapped(s[i].host - 1), !first);
		assert_int_equal(is_mapped(s[i].host - 0xffff), !first);
		assert_int_equal(is_mapped(s[i].host + s[i].size), !last);
		assert_int_equal(is_mapped(s[i].host + s[i].size + 0xfffe), !last);
	}
	gmem_free(gm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(splits_ram_below_the_hole_and_from_4_gib),
	    cmocka_unit_test(nothing_is_resident_until_touched),
	    cmocka_unit_test(the_descriptor_shows_the_same_bytes),
	    cmocka_unit_test(refuses_absurd_sizes_with_a_sentence),
	    cmocka_unit_test(reads_and_writes_across_adjacent_ranges),
	    cmocka_unit_test(refuses_ranges_that_leave_ram_and_does_nothing),
	    cmocka_unit_test(rom_takes_loads_but_no_writes),
	    cmocka_unit_test(refuses_overlapping_and_odd_ranges),
	    cmocka_unit_test(tells_the_listener_what_changed),
	    cmocka_unit_test(discarded_pages_are_zero_and_the_hosts_again),
	    cmocka_unit_test(logs_dirty_pages_and_hands_each_out_once),
	    cmocka_unit_test(starting_the_log_again_clears_it),
	    cmocka_unit_test(scatter_lists_follow_the_ranges),
	    cmocka_unit_test(huge_pages_are_a_wish),
	    cmocka_unit_test(cut_slots_are_one_mapping_and_are_protected_one_by_one),
	    cmocka_unit_test(refuses_cuts_that_are_not_between_pages),
	    cmocka_unit_test(nothing_is_mapped_around_guest_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
