/* buf_test.c: tests of byte buffers. */
#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

static void writes_little_endian_and_reads_it_back(void **state)
{
	struct wbuf w;
	struct rbuf r;

	wbuf_init(&w, 1000);
	wbuf_u8(&w, 0x11);
	wbuf_u16(&w, 0x2233);
	wbuf_u32(&w, 0x44556677);
	wbuf_u64(&w, 0x8899aabbccddeeff);
	wbuf_zero(&w, 3);
	wbuf_put(&w, "end", 3);
	assert_false(w.failed);
	assert_int_equal(w.len, 21);
	assert_memory_equal(w.data, "\x11\x33\x22\x77\x66\x55\x44\xff", 8);
	rbuf_init(&r, w.data, w.len);
	assert_int_equal(rbuf_u8(&r), 0x11);
	assert_int_equal(rbuf_u16(&r), 0x2233);
	assert_int_equal(rbuf_u32(&r), 0x44556677);
	assert_true(rbuf_u64(&r) == 0x8899aabbccddeeff);
	assert_memory_equal(rbuf_take(&r, 6), "\0\0\0end", 6);
	assert_int_equal(rbuf_left(&r), 0);
	assert_false(r.failed);
	wbuf_fini(&w);
}

static void a_writer_stops_at_its_limit_for_good(void **state)
{
	struct wbuf w;

	wbuf_init(&w, 5);
	wbuf_u32(&w, 1);
	wbuf_u16(&w, 2);
	assert_true(w.failed);
	wbuf_u8(&w, 3);
	assert_true(w.failed);
	assert_int_equal(w.len, 4);
	wbuf_fini(&w);
	wbuf_init(&w, 0);
	wbuf_put(&w, NULL, 0);
	assert_false(w.failed);
	wbuf_put(&w, "", SIZE_MAX);
	assert_true(w.failed);
	wbuf_fini(&w);
}

static void grows_to_large_sizes(void **state)
{
	struct wbuf w;

	wbuf_init(&w, 1 << 20);
	for (uint32_t i = 0; i < (1 << 18); i++)
		wbuf_u32(&w, i);
	assert_false(w.failed);
	assert_int_equal(w.len, 1 << 20);
	assert_int_equal(w.data[4 * 0x1234], 0x34);
	wbuf_u8(&w, 0);
	assert_true(w.failed);
	wbuf_fini(&w);
}

static void a_reader_cannot_leave_its_bytes(void **state)
{
	const uint8_t bytes[3] = {1, 2, 3};
	struct rbuf r;

	rbuf_init(&r, bytes, sizeof(bytes));
	assert_int_equal(rbuf_u16(&r), 0x201);
	assert_int_equal(rbuf_u16(&r), 0);
	assert_true(r.failed);
	assert_int_equal(r.pos, 2);
	assert_int_equal(rbuf_u8(&r), 0);
	assert_null(rbuf_take(&r, SIZE_MAX));
	assert_int_equal(rbuf_left(&r), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(writes_little_endian_and_reads_it_back),
	    cmocka_unit_test(a_writer_stops_at_its_limit_for_good),
	    cmocka_unit_test(grows_to_large_sizes),
	    cmocka_unit_test(a_reader_cannot_leave_its_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
