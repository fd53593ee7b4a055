/* vcpu_state_test.c: every byte of a CPU's state is in the table and comes back as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/vcpu_state.h"
#include "x86/regs.h"
#include "x86/state.h"

static void the_table_covers_every_byte_but_padding(void **state)
{
	static uint8_t seen[sizeof(struct x86_state)];
	size_t covered = 0, tags = 0;

	for (const struct state_field *f = x86_state_desc.fields; f->elem; f++) {
		assert_int_equal(f->tag, ++tags);
		for (size_t i = 0; i < (size_t)f->elem * f->count; i++) {
			assert_int_equal(seen[f->offset + i], 0);
			seen[f->offset + i] = 1;
			covered++;
		}
	}
	/* 6 bytes behind each of 8 segment registers and 2 tables, 4 behind pkru and what
	 * aligns fpu. */
	assert_true(sizeof(struct x86_state) - covered <= 10 * 6 + 4 + 64);
	(void)state;
}

static void save_load_save_is_identical(void **state)
{
	struct x86_state *s = malloc(sizeof(*s)), *t = malloc(sizeof(*t));
	struct state_shadow *shadow;
	struct wbuf one, two;
	struct rbuf in;

	x86_state_reset(s, 1);
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = UINT64_C(0x0123456789abcdef) * (i + 1);
	for (unsigned i = 0; i < sizeof(s->fpu.vec); i++)
		((uint8_t *)s->fpu.vec)[i] = (uint8_t)(i * 7);
	s->lstar = UINT64_C(0xffffffff81000000);
	s->fpu.k[7] = 5;
	wbuf_init(&one, 1 << 16);
	wbuf_init(&two, 1 << 16);
	state_save(&x86_state_desc, 3, s, &one);
	assert_false(one.failed);
	x86_state_reset(t, 0);
	rbuf_init(&in, one.data, one.len);
	assert_int_equal(state_decode(&x86_state_desc, 3, t, &in, &shadow, NULL), 0);
	state_commit(shadow, t);
	state_save(&x86_state_desc, 3, t, &two);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	wbuf_fini(&one);
	wbuf_fini(&two);
	free(s);
	free(t);
	(void)state;
}

static void impossible_state_is_refused(void **state)
{
	struct x86_state *s = malloc(sizeof(*s));
	struct state_shadow *shadow;
	struct wbuf out;
	struct rbuf in;

	x86_state_reset(s, 1);
	s->cr0 |= X86_CR0_PG;
	wbuf_init(&out, 1 << 16);
	state_save(&x86_state_desc, 0, s, &out);
	rbuf_init(&in, out.data, out.len);
	assert_int_equal(state_decode(&x86_state_desc, 0, s, &in, &shadow, NULL), -22);
	wbuf_fini(&out);
	free(s);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_table_covers_every_byte_but_padding),
	    cmocka_unit_test(save_load_save_is_identical),
	    cmocka_unit_test(impossible_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
