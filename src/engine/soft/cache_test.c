/* cache_test.c: tests of who is told of code that changes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/soft/core.h"
#include "engine/soft/testcode.h"

#define FIRST  0x400000u /* code that CPU 0 runs */
#define SECOND 0x600000u /* ... and CPU 1 */

struct pair {
	struct board *b;
	struct soft_cpu *cpu[2];
};

static int pair_setup(void **state)
{
	static struct pair p;
	struct vcpu *vcpu;

	p.b = board_new(2);
	p.cpu[0] = p.b->cpu;
	assert_int_equal(engine_soft.vcpu_create(p.b->engine, 1, &vcpu, NULL), 0);
	p.cpu[1] = soft_cpu_of(vcpu);
	vcpu->apic = p.cpu[0]->base.apic;
	atomic_store(&vcpu->link.events, 0);
	*state = &p;
	return 0;
}

static int pair_teardown(void **state)
{
	struct pair *p = *state;

	engine_soft.vcpu_destroy(&p->cpu[1]->base);
	p->b->cpu = p->cpu[0];
	board_free(p->b);
	return 0;
}

/* mov $n, %eax; hlt */
static void number_put(struct pair *p, uint64_t at, uint8_t n)
{
	const uint8_t code[] = {0xb8, n, 0, 0, 0, 0xf4};

	assert_int_equal(gmem_write(p->b->mem, gpa(at), code, sizeof(code)), 0);
}

static uint64_t number_run(struct pair *p, unsigned cpu, uint64_t at)
{
	p->b->cpu = p->cpu[cpu];
	board_long(p->b, at);
	assert_int_equal(board_run(p->b), -1);
	return p->cpu[cpu]->s.gpr[X86_RAX];
}

static void a_change_is_told_to_who_has_code_of_the_page(void **state)
{
	struct pair *p = *state;

	number_put(p, FIRST, 1);
	number_put(p, SECOND, 2);
	assert_int_equal(number_run(p, 0, FIRST), 1);
	assert_int_equal(number_run(p, 1, SECOND), 2);
	number_put(p, FIRST, 3);
	assert_int_equal(p->cpu[0]->cache->pending_count, 1);
	assert_int_equal(p->cpu[1]->cache->pending_count, 0);
	assert_int_equal(number_run(p, 0, FIRST), 3);
	assert_int_equal(number_run(p, 1, FIRST), 3);
	number_put(p, FIRST, 4);
	assert_int_equal(p->cpu[0]->cache->pending_count, 1);
	assert_int_equal(p->cpu[1]->cache->pending_count, 1);
	assert_int_equal(number_run(p, 1, FIRST), 4);
	assert_int_equal(number_run(p, 0, FIRST), 4);
}

/* As a program loader on one CPU does, of pages that only this CPU has run code of. */
static void a_halted_cpu_keeps_its_code_whatever_the_others_change(void **state)
{
	struct pair *p = *state;

	number_put(p, SECOND, 2);
	assert_int_equal(number_run(p, 1, SECOND), 2);
	uint64_t blocks = p->cpu[1]->stats.blocks;
	for (unsigned i = 0; i < SOFT_PENDING_MAX + 10; i++) {
		uint64_t at = FIRST + i * 0x1000;

		number_put(p, at, 5);
		assert_int_equal(number_run(p, 0, at), 5);
		number_put(p, at, 6);
		assert_int_equal(number_run(p, 0, at), 6);
	}
	assert_int_equal(number_run(p, 1, SECOND), 2);
	assert_int_equal(p->cpu[1]->stats.blocks, blocks);
}

/* More pages than the list has room for: all goes. */
static void a_cpu_that_has_slept_through_many_changes_sees_each(void **state)
{
	struct pair *p = *state;

	for (unsigned i = 0; i < SOFT_PENDING_MAX + 10; i++) {
		number_put(p, FIRST + i * 0x1000, 7);
		assert_int_equal(number_run(p, 1, FIRST + i * 0x1000), 7);
	}
	for (unsigned i = 0; i < SOFT_PENDING_MAX + 10; i++)
		number_put(p, FIRST + i * 0x1000, 8);
	assert_true(p->cpu[1]->cache->pending_all);
	for (unsigned i = 0; i < SOFT_PENDING_MAX + 10; i++)
		assert_int_equal(number_run(p, 1, FIRST + i * 0x1000), 8);
}

#define T(f) cmocka_unit_test_setup_teardown(f, pair_setup, pair_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(a_change_is_told_to_who_has_code_of_the_page),
	    T(a_halted_cpu_keeps_its_code_whatever_the_others_change),
	    T(a_cpu_that_has_slept_through_many_changes_sees_each),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
