/* kvm_testing.h: tiny guests on /dev/kvm, for this engine's tests. */
#ifndef ENGINE_KVM_KVM_TESTING_H
#define ENGINE_KVM_KVM_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include "engine/kvm/kvm.h"
#include "x86/regs.h"

#define CODE	 0x1000
#define STACK	 0x8000
#define ROM_BASE 0x80000000u
#define HOLE	 0xd0000000u /* nobody's memory: leaves the guest */
#define APIC	 0xfee00000u
#define PORT	 0x80

/* A board of one register at PORT and at HOLE that remembers what was written. */
struct rig {
	struct engine_env env;
	struct gmem *mem;
	struct space *ports, *memory;
	struct doors doors;
	struct clock *clock;
	struct cpuid_policy cpuid;
	struct engine *engine;
	struct vcpu *vcpu;
	struct device dev;
	struct region port, hole;
	uint64_t last[64];
	_Atomic unsigned writes;
	unsigned eois, eoi_vector, acks;
	_Atomic unsigned triple_faults, errors;
};

static inline uint64_t fake_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	(void)dev, (void)opaque, (void)offset, (void)size;
	return UINT64_C(0x8877665544332211);
}

static inline void fake_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			      uint64_t value)
{
	struct rig *r = opaque;

	(void)dev, (void)offset, (void)size;
	r->last[r->writes % 64] = value;
	r->writes++;
}
static const struct region_ops fake_ops = {.read = fake_read, .write = fake_write, .unaligned = 1};

static inline void fake_reset(struct device *dev, enum reset_kind kind)
{
	(void)dev, (void)kind;
}
static const struct device_class fake_class = {.name = "fake", .reset = fake_reset};

static inline int fake_ack(void *opaque)
{
	struct rig *r = opaque;

	r->acks++;
	r->engine->ops->extint(r->engine, 0);
	return 0x40;
}

static inline void fake_eoi(void *opaque, unsigned vector)
{
	struct rig *r = opaque;

	r->eois++;
	r->eoi_vector = vector;
}

static inline void fake_event(void *opaque, enum engine_event event, unsigned cpu, const char *text)
{
	struct rig *r = opaque;

	(void)cpu;
	if (event == ENGINE_EVENT_TRIPLE_FAULT) {
		r->triple_faults++;
	} else {
		fprintf(stderr, "%s\n", text);
		r->errors++;
	}
}

static inline int door_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value)
{
	(void)opaque, (void)cpu;
	*value = UINT64_C(0xabcd00000000) | msr;
	return 0;
}

static inline int door_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
	struct rig *r = opaque;

	(void)cpu, (void)msr;
	r->last[r->writes++ % 64] = value;
	return value == 0xbad ? -1 : 0;
}

static inline void rig_cpuid(struct rig *r)
{
	struct cpuid_caps caps;

	engine_kvm.caps(&caps);
	assert_int_equal(
	    cpuid_policy_init(&r->cpuid, &caps, 1, engine_kvm.tsc_khz(), CPUID_HV_NONE, NULL), 0);
}

static inline struct rig *rig_new(void)
{
	static const struct msr_door door = {.first = 0xc0020000,
					     .last = 0xc0020001,
					     .read = door_read,
					     .write = door_write,
					     .name = "fake"};
	const struct gmem_config cfg = {.ram_bytes = 1 << 20, .low_limit = 1 << 20};
	const struct engine_config ecfg = {0};
	struct rig *r = calloc(1, sizeof(*r));
	struct msr_door d = door;
	struct error err = {0};

	d.opaque = r;
	assert_int_equal(gmem_new(&r->mem, &cfg, NULL), 0);
	assert_int_equal(gmem_add(r->mem, ROM_BASE, 4096, GMEM_READONLY, NULL), 0);
	assert_int_equal(space_new(&r->ports, "ports", 65536), 0);
	assert_int_equal(space_new(&r->memory, "memory", BIT64(52)), 0);
	assert_int_equal(clock_new(&r->clock, CLOCK_REAL), 0);
	assert_int_equal(doors_add_msr(&r->doors, &d), 0);
	device_init(&r->dev, &fake_class, RANK_DEVICE, 0, "fake0");
	r->port = (struct region){
	    .name = "port", .dev = &r->dev, .ops = &fake_ops, .opaque = r, .size = 8};
	r->hole = r->port;
	assert_int_equal(space_map(r->ports, &r->port, PORT), 0);
	assert_int_equal(space_map(r->memory, &r->hole, HOLE), 0);
	rig_cpuid(r);
	r->env = (struct engine_env){.mem = r->mem,
				     .ports = r->ports,
				     .memory = r->memory,
				     .doors = &r->doors,
				     .clock = r->clock,
				     .cpuid = &r->cpuid,
				     .cpus = 1,
				     .pic_ack = fake_ack,
				     .eoi = fake_eoi,
				     .event = fake_event,
				     .opaque = r};
	if (engine_kvm.create(&r->engine, &r->env, &ecfg, &err) ||
	    engine_kvm.vcpu_create(r->engine, 0, &r->vcpu, &err))
		fail_msg("%s", err.text);
	return r;
}

static inline void rig_free(struct rig *r)
{
	vcpu_stop(r->vcpu);
	engine_kvm.vcpu_destroy(r->vcpu);
	engine_kvm.destroy(r->engine);
	space_unmap(r->ports, &r->port);
	space_unmap(r->memory, &r->hole);
	device_fini(&r->dev);
	clock_free(r->clock);
	space_free(r->ports);
	space_free(r->memory);
	gmem_free(r->mem);
	free(r);
}

static inline void load(struct rig *r, uint32_t at, const void *code, size_t len)
{
	assert_int_equal(gmem_load(r->mem, gpa(at), code, len), 0);
}
#define LOAD(r, ...)                                                                               \
	do {                                                                                       \
		static const uint8_t code_[] = {__VA_ARGS__};                                      \
		load(r, CODE, code_, sizeof(code_));                                               \
	} while (0)

static inline void state_set(struct rig *r, const struct x86_state *s)
{
	assert_int_equal(engine_kvm.set_state(r->vcpu, s), 0);
}

/* At CODE in real mode, interrupts off. */
static inline void start_real(struct rig *r)
{
	struct x86_state *s = malloc(sizeof(*s));

	x86_state_reset(s, 1);
	s->seg[X86_CS].base = 0;
	s->seg[X86_CS].selector = 0;
	s->rip = CODE;
	s->gpr[X86_RSP] = STACK;
	state_set(r, s);
	free(s);
}

/* At CODE in flat 32-bit protected mode, with an IDT at 0x2000 whose gates lead to 0x3000. */
static inline void start_flat(struct rig *r)
{
	static const uint64_t gdt[] = {0, UINT64_C(0x00cf9b000000ffff),
				       UINT64_C(0x00cf93000000ffff)};
	struct x86_state *s = malloc(sizeof(*s));

	load(r, 0x800, gdt, sizeof(gdt));
	for (unsigned i = 0; i < 256; i++) {
		uint64_t gate = UINT64_C(0x00008e0000080000) | 0x3000;

		load(r, 0x2000 + 8 * i, &gate, 8);
	}
	x86_state_reset(s, 1);
	s->cr0 |= X86_CR0_PE;
	s->gdt = (struct x86_table){.base = 0x800, .limit = sizeof(gdt) - 1};
	s->idt = (struct x86_table){.base = 0x2000, .limit = 0x7ff};
	for (unsigned i = 0; i < 6; i++)
		s->seg[i] = (struct x86_seg){.limit = ~0u,
					     .selector = i == X86_CS ? 8 : 16,
					     .attr = i == X86_CS ? 0xc09b : 0xc093};
	s->rip = CODE;
	s->gpr[X86_RSP] = STACK;
	state_set(r, s);
	free(s);
}

/* Answers exits until something else comes, or `writes` writes were seen. */
static inline int drive(struct rig *r, unsigned writes)
{
	int rc = RUN_KICKED;

	cpu_link_clear(&r->vcpu->link, CPU_EVENT_KICK);
	for (unsigned i = 0; i < 1000 && r->writes < writes; i++) {
		rc = engine_kvm.run(r->vcpu);
		if (rc < 0)
			fail_msg("%s", r->vcpu->failure);
		if (rc == RUN_EXIT)
			exit_handle(r->vcpu);
		else if (rc != RUN_KICKED)
			return rc;
	}
	/* Lets the last access complete. */
	cpu_link_raise(&r->vcpu->link, CPU_EVENT_KICK);
	rc = engine_kvm.run(r->vcpu);
	cpu_link_clear(&r->vcpu->link, CPU_EVENT_KICK);
	return rc;
}

static inline uint32_t guest32(struct rig *r, uint32_t at)
{
	uint32_t v = 0;

	assert_int_equal(gmem_read(r->mem, gpa(at), &v, 4), 0);
	return v;
}

static inline void thread_start(struct rig *r)
{
	assert_int_equal(vcpu_start(r->vcpu, NULL), 0);
	vcpu_resume(r->vcpu);
}

/* Is there no KVM that could be tried? Then it says so. */
static inline _Bool kvm_missing(void)
{
	struct engine_probe probe;

	kvm_probe(&probe);
	if (!probe.usable)
		fprintf(stderr, "skipped: %s\n", probe.why);
	return !probe.usable;
}

#endif
