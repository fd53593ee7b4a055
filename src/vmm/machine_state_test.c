/* machine_state_test.c: the whole machine's state on the soft engine: saved, loaded, moved, and
 * attacked. */
#include "machine/machine.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/le.h"

#define CPUS	    2
#define KERNEL_AT   0x100000u
#define STATE_LIMIT (8u << 20)

/*
 * A Multiboot kernel (multiboot header, then code at its end): programs the PIT and the serial
 * port, uses the FPU, and counts. mov $0x34, %al; out %al, $0x43; mov $0x55, %al; out %al, $0x40;
 * out %al, $0x40; mov $5, %al; mov $0x3f9, %dx; out %al, %dx fninit; fldpi; 1: inc %ebx; mov %ebx,
 * 0x200000; pause; jmp 1b
 */
static const uint8_t code[] = {
    0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x55, 0xe6, 0x40, 0xe6, 0x40, 0xb0, 0x05, 0x66, 0xba, 0xf9, 0x03,
    0xee, 0xdb, 0xe3, 0xd9, 0xeb, 0x43, 0x89, 0x1d, 0x00, 0x00, 0x20, 0x00, 0xf3, 0x90, 0xeb, 0xf5,
};

struct fixture {
	struct vm_spec spec;
	char path[64];
	int fd;
	struct chardev *console;
	struct machine *m;
};

static void ignore_power(void *opaque, enum power_request what, unsigned arg)
{
}

static void ignore_event(void *opaque, enum engine_event event, unsigned cpu, const char *text)
{
}

static int write_kernel(void)
{
	uint8_t image[32 + sizeof(code)];
	const uint32_t magic = 0x1badb002, flags = 0x10000;
	int fd = memfd_create("kernel", 0);

	store_le32(image, magic);
	store_le32(image + 4, flags);
	store_le32(image + 8, 0 - magic - flags);
	store_le32(image + 12, KERNEL_AT);		   /* header_addr */
	store_le32(image + 16, KERNEL_AT);		   /* load_addr */
	store_le32(image + 20, KERNEL_AT + sizeof(image)); /* load_end_addr */
	store_le32(image + 24, KERNEL_AT + sizeof(image)); /* bss_end_addr */
	store_le32(image + 28, KERNEL_AT + 32);		   /* entry_addr */
	memcpy(image + 32, code, sizeof(code));
	assert_int_equal(write(fd, image, sizeof(image)), sizeof(image));
	return fd;
}

static void make(struct fixture *f, unsigned cpus)
{
	struct error err;
	struct machine_config cfg = {
	    .engine = &engine_soft,
	    .power = {ignore_power, NULL},
	    .clock = CLOCK_STOPPED,
	    .event = ignore_event,
	};

	f->fd = write_kernel();
	snprintf(f->path, sizeof(f->path), "/proc/self/fd/%d", f->fd);
	spec_init(&f->spec);
	f->spec.kernel = f->path;
	f->spec.memory_bytes = 16 << 20;
	f->spec.cpus = cpus;
	f->spec.debug_exit = 1;
	assert_int_equal(chardev_mem_new(&f->console, 4096), 0);
	cfg.spec = &f->spec;
	cfg.console = f->console;
	if (machine_new(&f->m, &cfg, &err))
		fail_msg("%s", err.text);
	if (machine_boot(f->m, RESET_POWER, NULL, &err))
		fail_msg("%s", err.text);
}

static void unmake(struct fixture *f)
{
	machine_free(f->m);
	chardev_free(f->console);
	close(f->fd);
}

/* Lets guest code run until it has counted for a while. */
static void run(struct fixture *f)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	uint32_t count = 0;

	machine_time_go(f->m);
	for (unsigned i = 0; i < machine_cpus(f->m); i++)
		assert_int_equal(vcpu_start(machine_vcpu(f->m, i), NULL), 0);
	for (unsigned i = 0; i < machine_cpus(f->m); i++)
		vcpu_resume(machine_vcpu(f->m, i));
	while (count < 1000) {
		nanosleep(&moment, NULL);
		assert_int_equal(gmem_read(machine_mem(f->m), gpa(0x200000), &count, sizeof(count)),
				 0);
	}
	for (unsigned i = 0; i < machine_cpus(f->m); i++)
		vcpu_stop(machine_vcpu(f->m, i));
	machine_time_stop(f->m);
}

static void save(struct fixture *f, struct wbuf *out)
{
	struct error err;

	wbuf_init(out, STATE_LIMIT);
	if (machine_save(f->m, out, &err))
		fail_msg("%s", err.text);
}

static int load(struct fixture *f, const void *data, size_t len)
{
	struct error err = {0};
	struct rbuf in;
	int r;

	rbuf_init(&in, data, len);
	r = machine_load(f->m, &in, &err);
	if (r)
		assert_true(err.text[0]);
	return r;
}

static void assert_same(const struct wbuf *a, const struct wbuf *b)
{
	assert_int_equal(a->len, b->len);
	assert_memory_equal(a->data, b->data, a->len);
}

static void a_machine_that_ran_saves_loads_and_saves_the_same(void **state)
{
	struct wbuf a, b;
	struct fixture f;

	make(&f, CPUS);
	run(&f);
	save(&f, &a);
	assert_int_equal(load(&f, a.data, a.len), 0);
	save(&f, &b);
	assert_same(&a, &b);
	wbuf_fini(&a);
	wbuf_fini(&b);
	unmake(&f);
}

static void state_moves_to_another_machine(void **state)
{
	struct fixture from, to;
	struct wbuf a, b;

	make(&from, CPUS);
	make(&to, CPUS);
	run(&from);
	save(&from, &a);
	assert_int_equal(load(&to, a.data, a.len), 0);
	save(&to, &b);
	assert_same(&a, &b);
	run(&to); /* and it goes on there */
	wbuf_fini(&a);
	wbuf_fini(&b);
	unmake(&from);
	unmake(&to);
}

/* NMI, INIT and SIPI that a CPU has not taken yet. */
static void edges_that_wait_move_along(void **state)
{
	const uint32_t edges = CPU_EVENT_NMI | CPU_EVENT_INIT | CPU_EVENT_SIPI;
	struct wbuf none, some, again;
	struct cpu_link *link;
	struct fixture f;

	make(&f, CPUS);
	link = &machine_vcpu(f.m, 1)->link;
	save(&f, &none);
	for (unsigned i = 0; i < 8; i++) {
		uint32_t events = (i & 1 ? CPU_EVENT_NMI : 0) | (i & 2 ? CPU_EVENT_INIT : 0) |
				  (i & 4 ? CPU_EVENT_SIPI : 0);

		cpu_link_clear(link, edges);
		cpu_link_raise(link, events);
		atomic_store(&link->sipi_vector, (uint8_t)(0x90 + i));
		save(&f, &some);
		cpu_link_raise(link, edges);
		atomic_store(&link->sipi_vector, 1);
		assert_int_equal(load(&f, some.data, some.len), 0);
		assert_int_equal(atomic_load(&link->events) & edges, events);
		assert_int_equal(atomic_load(&link->sipi_vector), 0x90 + i);
		save(&f, &again);
		assert_same(&some, &again);
		/* What is refused changes nothing here either. */
		assert_int_equal(load(&f, none.data, none.len - 1), -EINVAL);
		assert_int_equal(atomic_load(&link->events) & edges, events);
		wbuf_fini(&some);
		wbuf_fini(&again);
	}
	assert_int_equal(load(&f, none.data, none.len), 0);
	assert_int_equal(atomic_load(&link->events) & edges, 0);
	wbuf_fini(&none);
	unmake(&f);
}

static void state_of_a_machine_of_another_shape_is_refused(void **state)
{
	struct fixture one, two;
	struct wbuf a;

	make(&one, 1);
	make(&two, 2);
	save(&one, &a);
	assert_int_equal(load(&two, a.data, a.len), -EINVAL);
	wbuf_fini(&a);
	unmake(&one);
	unmake(&two);
}

static void truncated_state_changes_nothing(void **state)
{
	struct wbuf a, before, after;
	struct fixture from, f;

	make(&from, CPUS);
	run(&from);
	save(&from, &a);
	make(&f, CPUS);
	save(&f, &before);
	for (size_t len = 0; len < a.len; len += 1 + len / 16)
		assert_int_equal(load(&f, a.data, len), -EINVAL);
	assert_int_equal(load(&f, a.data, a.len - 1), -EINVAL);
	save(&f, &after);
	assert_same(&before, &after);
	wbuf_fini(&a);
	wbuf_fini(&before);
	wbuf_fini(&after);
	unmake(&from);
	unmake(&f);
}

/* Any byte may be wrong. What is refused changes nothing; what is taken is a state that can be
 * saved and loaded again. */
static void corrupt_state_is_refused_whole_or_taken_whole(void **state)
{
	struct wbuf a, before;
	unsigned refused = 0, taken = 0;
	struct fixture f;
	uint8_t *copy;

	make(&f, CPUS);
	run(&f);
	save(&f, &a);
	save(&f, &before);
	copy = malloc(a.len);
	assert_non_null(copy);
	srandom(1);
	for (unsigned i = 0; i < 600; i++) {
		struct wbuf after;

		memcpy(copy, a.data, a.len);
		copy[(size_t)random() % a.len] ^= (uint8_t)(1u << (random() % 8));
		if (load(&f, copy, a.len)) {
			refused++;
			save(&f, &after);
			assert_same(&before, &after);
		} else {
			taken++;
			wbuf_fini(&before);
			save(&f, &before);
			save(&f, &after);
			assert_int_equal(load(&f, after.data, after.len), 0);
		}
		wbuf_fini(&after);
	}
	assert_true(refused > 20 && taken > 20);
	free(copy);
	wbuf_fini(&a);
	wbuf_fini(&before);
	unmake(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_machine_that_ran_saves_loads_and_saves_the_same),
	    cmocka_unit_test(state_moves_to_another_machine),
	    cmocka_unit_test(edges_that_wait_move_along),
	    cmocka_unit_test(state_of_a_machine_of_another_shape_is_refused),
	    cmocka_unit_test(truncated_state_changes_nothing),
	    cmocka_unit_test(corrupt_state_is_refused_whole_or_taken_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
