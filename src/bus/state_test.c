/* state_test.c: tests of saved state. */
#include "bus/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct sample {
	uint8_t a;
	_Bool on;
	uint16_t b;
	uint32_t words[3];
	uint64_t big;
	const void *secret; /* never saved */
};

static int sample_check(const void *shadow, struct error *err)
{
	const struct sample *s = shadow;

	return s->a > 100 ? error_set(err, -EINVAL, "a is %u", s->a) : 0;
}

static const struct state_field fields[] = {
    STATE_SCALAR(1, struct sample, a),	 STATE_BOOL(2, struct sample, on),
    STATE_SCALAR(3, struct sample, b),	 STATE_ARRAY(5, struct sample, words, 3),
    STATE_SCALAR(6, struct sample, big), STATE_END,
};
static const struct state_desc desc = {
    .name = "sample", .fields = fields, .size = sizeof(struct sample), .check = sample_check};

static const struct sample full = {7, 1, 0x1234, {1, 2, 0xdeadbeef}, 0x1122334455667788, "ptr"};

static struct wbuf saved(const struct sample *s)
{
	struct wbuf w;

	wbuf_init(&w, 4096);
	state_save(&desc, 3, s, &w);
	assert_false(w.failed);
	return w;
}

/* Decodes and expects a refusal: nothing changed, nothing consumed, a sentence given. */
static void refused(const void *data, size_t len)
{
	struct sample live = full;
	struct state_shadow *shadow = NULL;
	struct error err = {0};
	struct rbuf r;

	rbuf_init(&r, data, len);
	assert_int_equal(state_decode(&desc, 3, &live, &r, &shadow, &err), -EINVAL);
	assert_null(shadow);
	assert_int_equal(r.pos, 0);
	assert_true(strlen(err.text) > 0);
	assert_memory_equal(&live, &full, sizeof(live));
}

static void comes_back_as_it_was(void **state)
{
	struct wbuf w = saved(&full), again;
	struct sample live = {.secret = "mine"};
	struct state_shadow *shadow;
	struct rbuf r;

	rbuf_init(&r, w.data, w.len);
	assert_int_equal(state_decode(&desc, 3, &live, &r, &shadow, NULL), 0);
	assert_int_equal(rbuf_left(&r), 0);
	assert_int_equal(live.a, 0); /* not before the commit */
	state_commit(shadow, &live);
	assert_int_equal(live.words[2], 0xdeadbeef);
	assert_true(live.big == full.big && live.on && live.b == 0x1234 && live.a == 7);
	assert_string_equal(live.secret, "mine");
	again = saved(&live);
	assert_int_equal(w.len, again.len);
	assert_memory_equal(w.data, again.data, w.len);
	wbuf_fini(&w);
	wbuf_fini(&again);
}

/* The bytes are a promise to every later version. */
static void the_encoding_is_fixed(void **state)
{
	static const uint8_t head[] = "PVst\6\0sample\3\0\0\0\x40\0\0\0"
				      "\1\0\1\0\1\0\0\0\7"
				      "\2\0\1\0\1\0\0\0\1"
				      "\3\0\2\0\1\0\0\0\x34\x12"
				      "\5\0\4\0\3\0\0\0\1\0\0\0\2\0\0\0\xef\xbe\xad\xde"
				      "\6\0\10\0\1\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11";
	struct wbuf w = saved(&full);

	assert_int_equal(w.len, sizeof(head) - 1);
	assert_memory_equal(w.data, head, w.len);
	wbuf_fini(&w);
}

static void refuses_every_truncation(void **state)
{
	struct wbuf w = saved(&full);

	for (size_t len = 0; len < w.len; len++)
		refused(w.data, len);
	wbuf_fini(&w);
}

/* Whatever single byte is damaged, the result is a refusal or a value of a field; never a crash. */
static void survives_every_damaged_byte(void **state)
{
	struct wbuf w = saved(&full);

	for (size_t i = 0; i < w.len; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			struct state_shadow *shadow = NULL;
			struct sample live = full;
			struct rbuf r;

			w.data[i] ^= (uint8_t)(1 << bit);
			rbuf_init(&r, w.data, w.len);
			if (!state_decode(&desc, 3, &live, &r, &shadow, NULL))
				state_discard(shadow);
			assert_memory_equal(&live, &full, sizeof(live));
			w.data[i] ^= (uint8_t)(1 << bit);
		}
	}
	wbuf_fini(&w);
}

static void refuses_bad_shapes_and_values(void **state)
{
	static const struct {
		size_t at;
		uint8_t value;
	} bad[] = {
	    {0, 'Q'},	/* magic */
	    {6, 'S'},	/* name */
	    {12, 4},	/* instance */
	    {16, 0x3f}, /* body length: one byte short */
	    {20, 4},	/* unknown tag */
	    {20, 2},	/* the tag of another field: shape fits, seen twice later */
	    {22, 2},	/* element size */
	    {23, 1},	/* must be zero */
	    {24, 2},	/* count */
	    {28, 101},	/* refused by the check */
	    {37, 2},	/* a bool that is neither */
	};
	struct wbuf w = saved(&full);

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		uint8_t old = w.data[bad[i].at];

		w.data[bad[i].at] = bad[i].value;
		refused(w.data, w.len);
		w.data[bad[i].at] = old;
	}
	wbuf_fini(&w);
}

static void a_missing_field_keeps_its_value(void **state)
{
	static const struct state_field old_fields[] = {STATE_SCALAR(3, struct sample, b),
							STATE_END};
	static const struct state_desc old = {"sample", old_fields, sizeof(struct sample), NULL};
	struct sample live = {.a = 42};
	struct state_shadow *shadow;
	struct wbuf w;
	struct rbuf r;

	wbuf_init(&w, 4096);
	state_save(&old, 3, &full, &w);
	rbuf_init(&r, w.data, w.len);
	assert_int_equal(state_decode(&desc, 3, &live, &r, &shadow, NULL), 0);
	state_commit(shadow, &live);
	assert_int_equal(live.a, 42);
	assert_int_equal(live.b, 0x1234);
	wbuf_fini(&w);
}

static void a_file_says_what_it_is_and_what_comes(void **state)
{
	struct error err = {0};
	uint32_t sections = 0;
	unsigned instance;
	char name[16];
	struct wbuf w;
	struct rbuf r;

	wbuf_init(&w, 4096);
	state_file_begin(&w, 1);
	state_save(&desc, 3, &full, &w);
	rbuf_init(&r, w.data, w.len);
	assert_int_equal(state_file_open(&r, &sections, &err), 0);
	assert_int_equal(sections, 1);
	assert_int_equal(state_peek(&r, name, sizeof(name), &instance, &err), 0);
	assert_string_equal(name, "sample");
	assert_int_equal(instance, 3);
	assert_int_equal(state_peek(&r, name, 6, &instance, &err), -EINVAL);
	for (size_t i = 0; i < 16; i++) {
		w.data[i] ^= 0x80;
		rbuf_init(&r, w.data, w.len);
		if (i < 12 || i == 15)
			assert_int_equal(state_file_open(&r, &sections, &err), -EINVAL);
		w.data[i] ^= 0x80;
	}
	rbuf_init(&r, w.data, 15);
	assert_int_equal(state_file_open(&r, &sections, &err), -EINVAL);
	wbuf_fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(comes_back_as_it_was),
	    cmocka_unit_test(the_encoding_is_fixed),
	    cmocka_unit_test(refuses_every_truncation),
	    cmocka_unit_test(survives_every_damaged_byte),
	    cmocka_unit_test(refuses_bad_shapes_and_values),
	    cmocka_unit_test(a_missing_field_keeps_its_value),
	    cmocka_unit_test(a_file_says_what_it_is_and_what_comes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
