/* exit_test.c: every kind of guest exit reaches whom it is for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/vcpu.h"
#include "x86/regs.h"

#define BASE 0x1000
#define SIZE 64

struct board {
	struct engine engine;
	struct engine_env env;
	struct doors doors;
	struct device dev;
	struct region ports, memory;
	struct vcpu vcpu;
	uint8_t bytes[SIZE];
	unsigned eoi;
	uint64_t apic_value;
	uint32_t apic_msr;
};

static uint64_t board_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	const struct board *b = opaque;
	uint64_t v = 0;

	(void)dev;
	memcpy(&v, b->bytes + offset, size);
	return v;
}

static void board_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			uint64_t value)
{
	struct board *b = opaque;

	(void)dev;
	memcpy(b->bytes + offset, &value, size);
}
static const struct region_ops board_ops = {
    .read = board_read, .write = board_write, .unaligned = 1};

static void board_reset(struct device *dev, enum reset_kind kind)
{
	(void)dev, (void)kind;
}
static const struct device_class board_class = {.name = "board", .reset = board_reset};

static void board_kick(struct vcpu *vcpu)
{
	(void)vcpu;
}
static const struct engine_ops ops = {.name = "none", .kick = board_kick};

static void board_eoi(void *opaque, unsigned vector)
{
	((struct board *)opaque)->eoi = vector;
}

static int door_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value)
{
	(void)opaque, (void)cpu;
	*value = msr + 1;
	return msr == 0x4001 ? -1 : 0;
}

static int door_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
	(void)cpu, (void)msr;
	((struct board *)opaque)->bytes[0] = (uint8_t)value;
	return value == 7 ? -1 : 0;
}

static _Bool door_call(void *opaque, unsigned cpu, struct hypercall_regs *regs)
{
	(void)opaque, (void)cpu;
	regs->rax = regs->rbx + 1;
	return regs->rbx != 0;
}

static struct board *board_new(void)
{
	struct board *b = calloc(1, sizeof(*b));
	const struct msr_door door = {
	    .first = 0x4000, .last = 0x4001, .read = door_read, .write = door_write, .opaque = b};

	assert_int_equal(space_new(&b->env.ports, "ports", 65536), 0);
	assert_int_equal(space_new(&b->env.memory, "memory", BIT64(52)), 0);
	assert_int_equal(doors_add_msr(&b->doors, &door), 0);
	device_init(&b->dev, &board_class, RANK_DEVICE, 0, "board0");
	b->ports = (struct region){
	    .name = "regs", .dev = &b->dev, .ops = &board_ops, .opaque = b, .size = SIZE};
	b->memory = b->ports;
	assert_int_equal(space_map(b->env.ports, &b->ports, BASE), 0);
	assert_int_equal(space_map(b->env.memory, &b->memory, BASE), 0);
	b->env.doors = &b->doors;
	b->env.eoi = board_eoi;
	b->env.opaque = b;
	b->engine = (struct engine){.ops = &ops, .env = &b->env};
	vcpu_init(&b->vcpu, &b->engine, 0);
	return b;
}

static void board_free(struct board *b)
{
	vcpu_fini(&b->vcpu);
	space_unmap(b->env.ports, &b->ports);
	space_unmap(b->env.memory, &b->memory);
	device_fini(&b->dev);
	space_free(b->env.ports);
	space_free(b->env.memory);
	free(b);
}

static void ports_carry_single_and_string_accesses(void **state)
{
	struct board *b = board_new();
	uint16_t words[3] = {0x1111, 0x2222, 0x3333};

	b->vcpu.exit = (struct vcpu_exit){
	    .kind = EXIT_PORT,
	    .port = {
		.port = BASE + 2, .size = 2, .write = 1, .count = 3, .data = (uint8_t *)words}};
	exit_handle(&b->vcpu);
	assert_int_equal(b->bytes[2], 0x33);
	assert_int_equal(b->bytes[4], 0);
	b->vcpu.exit.port.write = 0;
	exit_handle(&b->vcpu);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(words[i], 0x3333);
	assert_int_equal(b->vcpu.exits[EXIT_PORT], 6);
	assert_int_equal(exit_port_read(&b->vcpu, 0x5000, 1), 0xff);
	assert_int_equal(exit_port_read(&b->vcpu, 0x5000, 4), 0xffffffff);
	board_free(b);
	(void)state;
}

static void memory_accesses_of_any_size_arrive_whole(void **state)
{
	struct board *b = board_new();

	for (uint8_t size = 1; size <= 8; size++) {
		memset(b->bytes, 0, SIZE);
		b->vcpu.exit = (struct vcpu_exit){
		    .kind = EXIT_MMIO, .mmio = {.addr = BASE + 5, .size = size, .write = 1}};
		for (uint8_t i = 0; i < 8; i++)
			b->vcpu.exit.mmio.data[i] = i + 1;
		exit_handle(&b->vcpu);
		for (uint8_t i = 0; i < 8; i++)
			assert_int_equal(b->bytes[5 + i], i < size ? i + 1 : 0);
		memset(b->vcpu.exit.mmio.data, 0, 8);
		b->vcpu.exit.mmio.write = 0;
		exit_handle(&b->vcpu);
		for (uint8_t i = 0; i < 8; i++)
			assert_int_equal(b->vcpu.exit.mmio.data[i], i < size ? i + 1 : 0);
	}
	board_free(b);
	(void)state;
}

static _Bool apic_mmio_read(void *apic, uint64_t addr, unsigned size, uint64_t *value)
{
	(void)size;
	*value = ((struct board *)apic)->apic_value;
	return addr == BASE + 16;
}

static _Bool apic_mmio_write(void *apic, uint64_t addr, unsigned size, uint64_t value)
{
	(void)size;
	if (addr != BASE + 16)
		return 0;
	((struct board *)apic)->apic_value = value;
	return 1;
}

static int apic_msr_read(void *apic, uint32_t msr, uint64_t *value)
{
	((struct board *)apic)->apic_msr = msr;
	*value = 0xa11c;
	return 0;
}

static int apic_msr_write(void *apic, uint32_t msr, uint64_t value)
{
	((struct board *)apic)->apic_msr = msr;
	return value ? -1 : 0;
}

static const struct cpu_apic_ops apic_ops = {.mmio_read = apic_mmio_read,
					     .mmio_write = apic_mmio_write,
					     .msr_read = apic_msr_read,
					     .msr_write = apic_msr_write};

static void a_cpu_sees_its_own_local_apic_first(void **state)
{
	struct board *b = board_new();

	b->vcpu.apic = (struct cpu_apic){.ops = &apic_ops, .apic = b};
	exit_mmio_write(&b->vcpu, BASE + 16, 4, 0x55);
	assert_int_equal(b->apic_value, 0x55);
	assert_int_equal(b->bytes[16], 0);
	assert_int_equal(exit_mmio_read(&b->vcpu, BASE + 16, 4), 0x55);
	exit_mmio_write(&b->vcpu, BASE + 20, 4, 0x66);
	assert_int_equal(b->bytes[20], 0x66);
	assert_int_equal(exit_mmio_read(&b->vcpu, BASE + 20, 4), 0x66);
	board_free(b);
	(void)state;
}

static void msrs_go_to_doors_then_to_the_apic_or_fault(void **state)
{
	static const uint32_t apic_msrs[] = {0x1b, 0x6e0, 0x800, 0x8ff};
	struct board *b = board_new();
	uint64_t v = 0;

	assert_int_equal(exit_msr_read(&b->vcpu, 0x4000, &v), 0);
	assert_int_equal(v, 0x4001);
	assert_int_equal(exit_msr_read(&b->vcpu, 0x4001, &v), -1);
	assert_int_equal(exit_msr_write(&b->vcpu, 0x4000, 5), 0);
	assert_int_equal(b->bytes[0], 5);
	assert_int_equal(exit_msr_write(&b->vcpu, 0x4000, 7), -1);
	for (unsigned i = 0; i < ARRAY_SIZE(apic_msrs); i++)
		assert_int_equal(exit_msr_read(&b->vcpu, apic_msrs[i], &v), -1);
	b->vcpu.apic = (struct cpu_apic){.ops = &apic_ops, .apic = b};
	for (unsigned i = 0; i < ARRAY_SIZE(apic_msrs); i++) {
		assert_int_equal(exit_msr_read(&b->vcpu, apic_msrs[i], &v), 0);
		assert_int_equal(v, 0xa11c);
		assert_int_equal(b->apic_msr, apic_msrs[i]);
		assert_int_equal(exit_msr_write(&b->vcpu, apic_msrs[i], 0), 0);
		assert_int_equal(exit_msr_write(&b->vcpu, apic_msrs[i], 1), -1);
	}
	assert_int_equal(exit_msr_read(&b->vcpu, 0x900, &v), -1);
	assert_int_equal(exit_msr_write(&b->vcpu, 0x7ff, 0), -1);
	board_free(b);
	(void)state;
}

static void msr_exits_report_the_fault(void **state)
{
	struct board *b = board_new();

	b->vcpu.exit = (struct vcpu_exit){.kind = EXIT_MSR_READ, .msr = {.index = 0x4000}};
	exit_handle(&b->vcpu);
	assert_false(b->vcpu.exit.msr.fault);
	assert_int_equal(b->vcpu.exit.msr.value, 0x4001);
	b->vcpu.exit.msr.index = 0x5000;
	exit_handle(&b->vcpu);
	assert_true(b->vcpu.exit.msr.fault);
	b->vcpu.exit =
	    (struct vcpu_exit){.kind = EXIT_MSR_WRITE, .msr = {.index = 0x4000, .value = 7}};
	exit_handle(&b->vcpu);
	assert_true(b->vcpu.exit.msr.fault);
	assert_int_equal(b->vcpu.exits[EXIT_MSR_READ], 2);
	assert_int_equal(b->vcpu.exits[EXIT_MSR_WRITE], 1);
	board_free(b);
	(void)state;
}

static void hypercalls_reach_their_door_or_are_undefined(void **state)
{
	struct board *b = board_new();

	b->vcpu.exit = (struct vcpu_exit){.kind = EXIT_HYPERCALL, .hypercall.regs = {.rbx = 41}};
	exit_handle(&b->vcpu);
	assert_true(b->vcpu.exit.hypercall.fault);
	b->doors.hypercall.call = door_call;
	exit_handle(&b->vcpu);
	assert_false(b->vcpu.exit.hypercall.fault);
	assert_int_equal(b->vcpu.exit.hypercall.regs.rax, 42);
	b->vcpu.exit.hypercall.regs.rbx = 0;
	exit_handle(&b->vcpu);
	assert_true(b->vcpu.exit.hypercall.fault);
	board_free(b);
	(void)state;
}

static void an_eoi_is_broadcast(void **state)
{
	struct board *b = board_new();

	b->vcpu.exit = (struct vcpu_exit){.kind = EXIT_EOI, .eoi.vector = 0x61};
	exit_handle(&b->vcpu);
	assert_int_equal(b->eoi, 0x61);
	assert_int_equal(b->vcpu.exits[EXIT_EOI], 1);
	board_free(b);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(ports_carry_single_and_string_accesses),
	    cmocka_unit_test(memory_accesses_of_any_size_arrive_whole),
	    cmocka_unit_test(a_cpu_sees_its_own_local_apic_first),
	    cmocka_unit_test(msrs_go_to_doors_then_to_the_apic_or_fault),
	    cmocka_unit_test(msr_exits_report_the_fault),
	    cmocka_unit_test(hypercalls_reach_their_door_or_are_undefined),
	    cmocka_unit_test(an_eoi_is_broadcast),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
