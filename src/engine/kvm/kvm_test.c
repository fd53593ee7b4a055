/* kvm_test.c: tiny guests on /dev/kvm; skipped, with a sentence, where there is none. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
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

static uint64_t fake_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	(void)dev, (void)opaque, (void)offset, (void)size;
	return UINT64_C(0x8877665544332211);
}

static void fake_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct rig *r = opaque;

	(void)dev, (void)offset, (void)size;
	r->last[r->writes % 64] = value;
	r->writes++;
}
static const struct region_ops fake_ops = {.read = fake_read, .write = fake_write, .unaligned = 1};

static void fake_reset(struct device *dev, enum reset_kind kind)
{
	(void)dev, (void)kind;
}
static const struct device_class fake_class = {.name = "fake", .reset = fake_reset};

static int fake_ack(void *opaque)
{
	struct rig *r = opaque;

	r->acks++;
	r->engine->ops->extint(r->engine, 0);
	return 0x40;
}

static void fake_eoi(void *opaque, unsigned vector)
{
	struct rig *r = opaque;

	r->eois++;
	r->eoi_vector = vector;
}

static void fake_event(void *opaque, enum engine_event event, unsigned cpu, const char *text)
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

static int door_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value)
{
	(void)opaque, (void)cpu;
	*value = UINT64_C(0xabcd00000000) | msr;
	return 0;
}

static int door_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
	struct rig *r = opaque;

	(void)cpu, (void)msr;
	r->last[r->writes++ % 64] = value;
	return value == 0xbad ? -1 : 0;
}

static void rig_cpuid(struct rig *r)
{
	struct cpuid_caps caps;

	engine_kvm.caps(&caps);
	assert_int_equal(
	    cpuid_policy_init(&r->cpuid, &caps, 1, engine_kvm.tsc_khz(), CPUID_HV_NONE, NULL), 0);
}

static struct rig *rig_new(void)
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

static void rig_free(struct rig *r)
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

static void load(struct rig *r, uint32_t at, const void *code, size_t len)
{
	assert_int_equal(gmem_load(r->mem, gpa(at), code, len), 0);
}
#define LOAD(r, ...)                                                                               \
	do {                                                                                       \
		static const uint8_t code_[] = {__VA_ARGS__};                                      \
		load(r, CODE, code_, sizeof(code_));                                               \
	} while (0)

static void state_set(struct rig *r, const struct x86_state *s)
{
	assert_int_equal(engine_kvm.set_state(r->vcpu, s), 0);
}

/* At CODE in real mode, interrupts off. */
static void start_real(struct rig *r)
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
static void start_flat(struct rig *r)
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
static int drive(struct rig *r, unsigned writes)
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

static uint32_t guest32(struct rig *r, uint32_t at)
{
	uint32_t v = 0;

	assert_int_equal(gmem_read(r->mem, gpa(at), &v, 4), 0);
	return v;
}

static void a_real_mode_loop_writes_ports_and_reads_them(void **state)
{
	struct rig *r = rig_new();

	start_real(r);
	/* mov cx,3; 1: mov ax,cx; out 0x80,ax; loop 1b; in al,0x80; mov [0x4000],al; out 0x80,al;
	 * hlt */
	LOAD(r, 0xb9, 3, 0, 0x89, 0xc8, 0xe7, PORT, 0xe2, 0xfa, 0xe4, PORT, 0xa2, 0x00, 0x40, 0xe6,
	     PORT, 0xf4);
	assert_int_equal(drive(r, 4), RUN_KICKED);
	assert_int_equal(r->last[0], 3);
	assert_int_equal(r->last[2], 1);
	assert_int_equal(r->last[3], 0x11);
	assert_int_equal(guest32(r, 0x4000) & 0xff, 0x11);
	assert_int_equal(r->vcpu->exits[EXIT_PORT], 5);
	rig_free(r);
	(void)state;
}

static void device_memory_is_read_and_written(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	/* mov eax,[HOLE]; mov [0x4000],eax; mov dword [HOLE+4],0x12345678; mov [ROM],eax;
	 * mov eax,[ROM]; mov [HOLE],eax */
	LOAD(r, 0xa1, 0, 0, 0, 0xd0, 0xa3, 0, 0x40, 0, 0, 0xc7, 0x05, 4, 0, 0, 0xd0, 0x78, 0x56,
	     0x34, 0x12, 0xa3, 0, 0, 0, 0x80, 0xa1, 0, 0, 0, 0x80, 0xa3, 0, 0, 0, 0xd0, 0xf4);
	assert_int_equal(drive(r, 2), RUN_KICKED);
	assert_int_equal(guest32(r, 0x4000), 0x44332211);
	assert_int_equal(r->last[0], 0x12345678);
	assert_int_equal(r->last[1], 0); /* what was written to ROM went nowhere */
	rig_free(r);
	(void)state;
}

/* mov eax,[0x4000]; mov [ROM],eax; mov eax,[ROM]; mov [HOLE],eax: what was left of the store. */
static uint64_t store_to_rom(struct rig *r, uint32_t value)
{
	unsigned before = r->writes;

	start_flat(r);
	LOAD(r, 0xa1, 0, 0x40, 0, 0, 0xa3, 0, 0, 0, 0x80, 0xa1, 0, 0, 0, 0x80, 0xa3, 0, 0, 0, 0xd0,
	     0xf4);
	assert_int_equal(gmem_write(r->mem, gpa(0x4000), &value, sizeof(value)), 0);
	assert_int_equal(drive(r, before + 1), RUN_KICKED);
	return r->last[before];
}

static void memory_becomes_read_only_and_writable(void **state)
{
	struct rig *r = rig_new();

	assert_int_equal(store_to_rom(r, 1), 0);
	assert_int_equal(gmem_protect(r->mem, gpa(ROM_BASE), 0), 0);
	assert_int_equal(store_to_rom(r, 2), 2);
	assert_int_equal(gmem_protect(r->mem, gpa(ROM_BASE), GMEM_READONLY), 0);
	assert_int_equal(store_to_rom(r, 3), 2);
	rig_free(r);
	(void)state;
}

/* A handler at 0x3000: mov al,0x77; out PORT,al; EOI; then it waits itself, for there are KVMs
 * whose emulator has no IRET: sti; 1: hlt; jmp 1b. */
static void load_handler(struct rig *r)
{
	static const uint8_t code[] = {0xb0, 0x77, 0xe6, PORT, 0xc7, 0x05, 0xb0, 0x00, 0xe0,
				       0xfe, 0,	   0,	 0,    0,    0xfb, 0xf4, 0xeb, 0xfd};

	load(r, 0x3000, code, sizeof(code));
}

/* mov dword [APIC+SVR],0x1ff; sti; 1: hlt; jmp 1b: the local APIC on, waiting. */
static void load_waiter(struct rig *r)
{
	LOAD(r, 0xc7, 0x05, 0xf0, 0, 0xe0, 0xfe, 0xff, 1, 0, 0, 0xfb, 0xf4, 0xeb, 0xfd);
}

static void wait_for(_Atomic unsigned *what, unsigned value)
{
	const struct timespec ms = {.tv_nsec = 1000000};

	for (unsigned i = 0; i < 60000 && *what < value; i++)
		nanosleep(&ms, NULL);
	assert_true(*what >= value);
}

/* Waits until the CPU has halted, as far as KVM tells. */
static void wait_halted(struct rig *r)
{
	struct kvm_vcpu *v = kvm_vcpu_of(r->vcpu);
	struct x86_state *s = malloc(sizeof(*s));
	const struct timespec ms = {.tv_nsec = 1000000};

	do {
		vcpu_resume(r->vcpu);
		nanosleep(&ms, NULL);
		vcpu_pause_begin(r->vcpu);
		vcpu_pause_wait(r->vcpu);
		assert_int_equal(engine_kvm.get_state(&v->vcpu, s), 0);
	} while (s->activity != X86_HALTED && r->errors == 0);
	assert_int_equal(r->errors, 0);
	vcpu_resume(r->vcpu);
	free(s);
}

static void thread_start(struct rig *r)
{
	assert_int_equal(vcpu_start(r->vcpu, NULL), 0);
	vcpu_resume(r->vcpu);
}

static void a_message_ends_a_halt(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	load_waiter(r);
	thread_start(r);
	wait_halted(r);
	engine_kvm.msi(r->engine, APIC, 0x50);
	wait_for(&r->writes, 1);
	assert_int_equal(r->last[0], 0x77);
	assert_int_equal(r->eois, 0); /* nobody asked for it */
	rig_free(r);
	(void)state;
}

static void an_irqfd_sends_its_message(void **state)
{
	struct rig *r = rig_new();
	int fd = eventfd(0, EFD_CLOEXEC), handle;

	start_flat(r);
	load_handler(r);
	load_waiter(r);
	thread_start(r);
	wait_halted(r);
	handle = engine_kvm.irqfd_add(r->engine, fd, APIC, 0x51);
	assert_true(handle >= 0);
	assert_int_equal(engine_kvm.irqfd_set(r->engine, handle, APIC, 0x52), 0);
	assert_int_equal(eventfd_write(fd, 1), 0);
	wait_for(&r->writes, 1);
	engine_kvm.irqfd_del(r->engine, handle);
	assert_int_equal(engine_kvm.irqfd_set(r->engine, handle, APIC, 0x52), -EINVAL);
	assert_true(engine_kvm.irqfd_add(r->engine, fd, 0x1000, 0x51) < 0);
	close(fd);
	rig_free(r);
	(void)state;
}

static void a_doorbell_rings_without_the_board(void **state)
{
	struct rig *r = rig_new();
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t count = 0;

	start_flat(r);
	/* mov [HOLE],eax twice; out PORT,al */
	LOAD(r, 0xa3, 0, 0, 0, 0xd0, 0xa3, 0, 0, 0, 0xd0, 0xe6, PORT, 0xf4);
	assert_int_equal(engine_kvm.doorbell(r->engine, 0, HOLE, 4, NULL, fd, 1), 0);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	assert_int_equal(eventfd_read(fd, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(engine_kvm.doorbell(r->engine, 0, HOLE, 4, NULL, fd, 0), 0);
	assert_true(engine_kvm.doorbell(r->engine, 0, HOLE, 4, NULL, fd, 0) < 0);
	close(fd);
	rig_free(r);
	(void)state;
}

static void a_level_triggered_vector_reports_its_eoi(void **state)
{
	struct rig *r = rig_new();
	const uint64_t wanted[4] = {0, BIT64(0x60 - 64), 0, 0};

	start_flat(r);
	load_handler(r);
	load_waiter(r);
	engine_kvm.eoi_vectors(r->engine, wanted);
	thread_start(r);
	wait_halted(r);
	engine_kvm.msi(r->engine, APIC, 0x60 | 1 << 15 | 1 << 14);
	wait_for(&r->writes, 1);
	wait_halted(r);
	vcpu_pause_begin(r->vcpu);
	vcpu_pause_wait(r->vcpu);
	assert_int_equal(r->eois, 1);
	assert_int_equal(r->eoi_vector, 0x60);
	rig_free(r);
	(void)state;
}

static void the_pic_interrupts_through_lint0(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	/* LINT0 as ExtINT, APIC on, then wait. */
	LOAD(r, 0xc7, 0x05, 0xf0, 0, 0xe0, 0xfe, 0xff, 1, 0, 0, 0xc7, 0x05, 0x50, 3, 0xe0, 0xfe, 0,
	     7, 0, 0, 0xfb, 0xf4, 0xeb, 0xfd);
	thread_start(r);
	wait_halted(r);
	engine_kvm.extint(r->engine, 1);
	wait_for(&r->writes, 1);
	assert_int_equal(r->acks, 1);
	/* ... and once more while it runs towards the next halt. */
	engine_kvm.extint(r->engine, 1);
	wait_for(&r->writes, 2);
	rig_free(r);
	(void)state;
}

static void the_pic_waits_until_interrupts_are_on(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	/* APIC on, LINT0 as ExtINT, out PORT,al, a while with interrupts off, sti; 1: jmp 1b */
	LOAD(r, 0xc7, 0x05, 0xf0, 0, 0xe0, 0xfe, 0xff, 1, 0, 0, 0xc7, 0x05, 0x50, 3, 0xe0, 0xfe, 0,
	     7, 0, 0, 0xe6, PORT, 0xb9, 0, 8, 0, 0, 0xe2, 0xfe, 0xfb, 0xeb, 0xfe);
	engine_kvm.extint(r->engine, 1);
	thread_start(r);
	wait_for(&r->writes, 2);
	assert_int_equal(r->acks, 1);
	assert_int_equal(r->last[1], 0x77);
	rig_free(r);
	(void)state;
}

static void an_nmi_reaches_a_halted_cpu(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	LOAD(r, 0xfa, 0xf4, 0xeb, 0xfd); /* cli; 1: hlt; jmp 1b */
	thread_start(r);
	wait_halted(r);
	cpu_link_raise(&r->vcpu->link, CPU_EVENT_NMI);
	wait_for(&r->writes, 1);
	rig_free(r);
	(void)state;
}

static void msrs_of_doors_come_to_the_board(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r); /* #GP */
	/* mov ecx,0xc0020000; rdmsr; out PORT,eax; mov eax,0x55; wrmsr; mov eax,0xbad;
	 * xor edx,edx; wrmsr */
	LOAD(r, 0xb9, 0, 0, 2, 0xc0, 0x0f, 0x32, 0xe7, PORT, 0xb8, 0x55, 0, 0, 0, 0x31, 0xd2, 0x0f,
	     0x30, 0xb8, 0xad, 0x0b, 0, 0, 0x0f, 0x30, 0xf4);
	assert_int_equal(drive(r, 4), RUN_KICKED);
	assert_int_equal(r->last[0], 0xc0020000);
	assert_int_equal(r->last[1], 0x55);
	assert_int_equal(r->last[2], 0xbad);
	assert_int_equal(r->last[3], 0x77); /* the handler: the write faulted */
	rig_free(r);
	(void)state;
}

static void an_unknown_msr_faults(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	LOAD(r, 0xb9, 0x34, 0x12, 0, 0, 0x0f, 0x32, 0xf4); /* mov ecx,0x1234; rdmsr; hlt */
	assert_int_equal(drive(r, 1), RUN_KICKED);
	assert_int_equal(r->last[0], 0x77);
	rig_free(r);
	(void)state;
}

static void a_triple_fault_is_told_and_ended_by_new_state(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	/* lidt [0x1020]: no limit; mov ecx,0x1234; rdmsr: #GP, which has nowhere to go */
	LOAD(r, 0x0f, 0x01, 0x1d, 0x20, 0x10, 0, 0, 0xb9, 0x34, 0x12, 0, 0, 0x0f, 0x32, 0xf4);
	assert_int_equal(drive(r, 1), RUN_SHUTDOWN);
	assert_int_equal(engine_kvm.run(r->vcpu), RUN_SHUTDOWN);
	start_real(r);
	LOAD(r, 0xe6, PORT, 0xf4);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	assert_int_equal(r->writes, 1);
	rig_free(r);
	(void)state;
}

/* Fills in what KVM may hold of the vector state. */
static void state_fill(struct rig *r, struct x86_state *s)
{
	uint64_t x = kvm_engine_of(r->engine)->xfeatures;

	for (unsigned i = 0; i < 16; i++) {
		s->gpr[i] = UINT64_C(0x0101010101010101) * (i + 1);
		memset(s->fpu.vec[i], (int)(i + 1), x >> 6 & 1 ? 64 : x >> 2 & 1 ? 32 : 16);
		if (x >> 7 & 1)
			memset(s->fpu.vec[16 + i], (int)(i + 33), 64);
	}
	for (unsigned i = 0; i < 8; i++) {
		memset(s->fpu.fx + X86_FX_ST + 16 * i, (int)(0x50 + i), 10);
		s->fpu.k[i] = x >> 5 & 1 ? i * 3 : 0;
	}
	s->fpu.fx[X86_FX_FTW] = 0xff;
	s->lstar = UINT64_C(0xffffffff81000000);
	s->tsc = 123456789;
	s->star = UINT64_C(0x0023001000000000);
	s->kernel_gs_base = 0x1234;
	s->sysenter_esp = 0x5678;
	s->dr[1] = 0x4444;
	s->shadow_sti = 1;
	s->nmi_masked = 1;
}

static void state_goes_in_and_comes_out_the_same(void **state)
{
	struct rig *r = rig_new();
	struct x86_state *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));

	start_flat(r);
	assert_int_equal(engine_kvm.get_state(r->vcpu, a), 0);
	state_fill(r, a);
	state_set(r, a);
	assert_int_equal(engine_kvm.get_state(r->vcpu, b), 0);
	for (size_t i = 0; i < sizeof(*a); i++)
		if (((uint8_t *)a)[i] != ((uint8_t *)b)[i])
			fail_msg("byte %zu differs: %02x %02x", i, ((uint8_t *)a)[i],
				 ((uint8_t *)b)[i]);
	a->event_valid = 1;
	a->event_kind = X86_EVENT_EXCEPTION;
	a->event_vector = X86_VEC_GP;
	a->event_has_error = 1;
	a->event_error = 0x18;
	a->activity = X86_WAIT_SIPI;
	state_set(r, a);
	assert_int_equal(engine_kvm.get_state(r->vcpu, b), 0);
	assert_memory_equal(a, b, sizeof(*a));
	free(a);
	free(b);
	rig_free(r);
	(void)state;
}

static void the_local_apic_goes_in_and_comes_out_the_same(void **state)
{
	struct rig *r = rig_new();
	uint8_t a[1024], b[1024];
	uint64_t base, base2, deadline, deadline2;

	start_flat(r);
	assert_int_equal(engine_kvm.apic_get(r->vcpu, a, &base, &deadline), 0);
	assert_int_equal(base, APIC | 0x900);
	a[0xf0] = 0xef;
	a[0xf1] = 1;
	a[0x80] = a[0xa0] = 0x30; /* the processor priority follows the task priority */
	assert_int_equal(engine_kvm.apic_set(r->vcpu, a, base, deadline), 0);
	assert_int_equal(engine_kvm.apic_get(r->vcpu, b, &base2, &deadline2), 0);
	assert_memory_equal(a, b, sizeof(a));
	assert_int_equal(base, base2);
	assert_int_equal(deadline, deadline2);
	rig_free(r);
	(void)state;
}

static void pages_that_the_guest_writes_are_logged(void **state)
{
	struct rig *r = rig_new();
	uint64_t bits[4] = {0};

	start_flat(r);
	LOAD(r, 0xa3, 0, 0x50, 0, 0, 0xe6, PORT, 0xf4); /* mov [0x5000],eax; out PORT,al */
	assert_int_equal(gmem_log_start(r->mem), 0);
	assert_int_equal(engine_kvm.dirty_log(r->engine, 1), 0);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	assert_int_equal(engine_kvm.dirty_sync(r->engine), 0);
	assert_true(gmem_log_harvest(r->mem, 0, bits) >= 1);
	assert_true(bits[0] >> 5 & 1);
	assert_false(bits[0] >> 6 & 1);
	memset(bits, 0, sizeof(bits));
	assert_int_equal(engine_kvm.dirty_sync(r->engine), 0);
	assert_int_equal(gmem_log_harvest(r->mem, 0, bits), 0);
	assert_int_equal(engine_kvm.dirty_log(r->engine, 0), 0);
	gmem_log_stop(r->mem);
	rig_free(r);
	(void)state;
}

static void a_busy_guest_is_paused_and_resumed(void **state)
{
	struct rig *r = rig_new();
	struct x86_state *s = malloc(sizeof(*s));
	uint64_t before = 0;

	start_flat(r);
	LOAD(r, 0x41, 0xeb, 0xfd); /* 1: inc ecx; jmp 1b */
	thread_start(r);
	for (unsigned i = 0; i < 20; i++) {
		vcpu_pause_begin(r->vcpu);
		vcpu_pause_wait(r->vcpu);
		assert_int_equal(engine_kvm.get_state(r->vcpu, s), 0);
		assert_true(s->gpr[X86_RCX] >= before);
		before = s->gpr[X86_RCX];
		vcpu_resume(r->vcpu);
	}
	free(s);
	rig_free(r);
	(void)state;
}

static void a_pause_finds_no_access_half_done(void **state)
{
	struct rig *r = rig_new();
	struct x86_state *s = malloc(sizeof(*s));

	start_flat(r);
	LOAD(r, 0xa1, 0, 0, 0, 0xd0, 0xf4); /* mov eax,[HOLE]; hlt */
	cpu_link_clear(&r->vcpu->link, CPU_EVENT_KICK);
	while (engine_kvm.run(r->vcpu) != RUN_EXIT)
		;
	exit_handle(r->vcpu);
	cpu_link_raise(&r->vcpu->link, CPU_EVENT_KICK);
	assert_int_equal(engine_kvm.run(r->vcpu), RUN_KICKED);
	assert_int_equal(engine_kvm.get_state(r->vcpu, s), 0);
	assert_int_equal(s->gpr[X86_RAX], 0x44332211);
	assert_int_equal(s->rip, CODE + 5);
	free(s);
	rig_free(r);
	(void)state;
}

static uint64_t tsc_now(struct rig *r)
{
	struct x86_state *s = malloc(sizeof(*s));
	uint64_t tsc;

	assert_int_equal(engine_kvm.get_state(r->vcpu, s), 0);
	tsc = s->tsc;
	free(s);
	return tsc;
}

/* By how much the TSC is ahead of the clock. Somebody may get the CPU between the two looks. */
static uint64_t tsc_ahead(struct rig *r, uint64_t ms)
{
	uint64_t best = UINT64_MAX, ahead = 0;

	for (unsigned i = 0; i < 100 && best > 500000; i++) {
		uint64_t before = clock_now_ns(r->clock), tsc = tsc_now(r);
		uint64_t took = clock_now_ns(r->clock) - before;

		if (took < best) {
			best = took;
			ahead = tsc - before * ms / 1000000;
		}
	}
	return ahead;
}

/* There are KVMs (PVM) that show a guest the host's TSC, whatever they are told. */
static void skip_if_tsc_is_fixed(struct rig *r)
{
	struct kvm_vcpu *v = kvm_vcpu_of(r->vcpu);
	uint64_t now = 0;

	assert_int_equal(kvm_msr_set(v, MSR_TSC, UINT64_C(1) << 50), 0);
	assert_int_equal(kvm_msr_get(v, MSR_TSC, &now), 0);
	if (now >> 50 == 1)
		return;
	rig_free(r);
	printf("skipped: this KVM does not let the guest's TSC be set\n");
	skip();
}

static void the_tsc_stands_while_the_clock_does(void **state)
{
	struct rig *r = rig_new();
	const struct timespec pause = {.tv_nsec = 30000000};
	uint64_t first, later, ms;

	skip_if_tsc_is_fixed(r);
	start_flat(r);
	LOAD(r, 0x0f, 0x31, 0xeb, 0xfc); /* 1: rdtsc; jmp 1b */
	thread_start(r);
	nanosleep(&pause, NULL);
	ms = kvm_engine_of(r->engine)->tsc_khz;
	vcpu_pause_begin(r->vcpu);
	vcpu_pause_wait(r->vcpu);
	clock_set_mode(r->clock, CLOCK_STOPPED);
	first = tsc_now(r);
	assert_true(first > 5 * ms);
	nanosleep(&pause, NULL);
	/* 30 ms have gone by; less than 5 are seen. */
	later = tsc_now(r);
	assert_true(later - first < 5 * ms || first - later < 5 * ms);
	/* Nor are they after it went on: the clock and the TSC have advanced by the same. */
	clock_set_mode(r->clock, CLOCK_REAL);
	vcpu_resume(r->vcpu);
	vcpu_pause_begin(r->vcpu);
	vcpu_pause_wait(r->vcpu);
	later = tsc_ahead(r, ms);
	vcpu_resume(r->vcpu);
	nanosleep(&pause, NULL);
	vcpu_pause_begin(r->vcpu);
	vcpu_pause_wait(r->vcpu);
	first = tsc_ahead(r, ms);
	assert_true(later - first < 5 * ms || first - later < 5 * ms);
	rig_free(r);
	(void)state;
}

static void a_tsc_that_was_set_counts_from_when_the_cpu_runs(void **state)
{
	struct rig *r = rig_new();
	const struct timespec pause = {.tv_nsec = 30000000};
	struct x86_state *s = malloc(sizeof(*s));
	uint64_t ms = kvm_engine_of(r->engine)->tsc_khz, now, ns;

	free(s);
	skip_if_tsc_is_fixed(r);
	s = malloc(sizeof(*s));
	start_flat(r);
	LOAD(r, 0xe6, PORT, 0xeb, 0xfe); /* out PORT,al; 1: jmp 1b */
	clock_set_mode(r->clock, CLOCK_STOPPED);
	assert_int_equal(engine_kvm.get_state(r->vcpu, s), 0);
	s->tsc = UINT64_C(1) << 40;
	state_set(r, s);
	clock_set_ns(r->clock, UINT64_C(5000000000)); /* as when a VM is restored */
	nanosleep(&pause, NULL);
	assert_true(tsc_now(r) == s->tsc);
	clock_set_mode(r->clock, CLOCK_REAL);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	now = tsc_now(r);
	ns = clock_now_ns(r->clock) - UINT64_C(5000000000);
	assert_true(now >= s->tsc && now - s->tsc < ns * ms / 1000000 + ms);
	free(s);
	rig_free(r);
	(void)state;
}

static void the_counters_have_names(void **state)
{
	struct rig *r = rig_new();
	struct wbuf out;

	start_real(r);
	LOAD(r, 0xe6, PORT, 0xf4);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	wbuf_init(&out, 4096);
	engine_kvm.stats(r->engine, &out);
	wbuf_u8(&out, 0);
	assert_false(out.failed);
	assert_non_null(strstr((char *)out.data, "kvm_exit_port 1\n"));
	wbuf_fini(&out);
	rig_free(r);
	(void)state;
}

/* One argument: a pattern for the names of tests to run. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_real_mode_loop_writes_ports_and_reads_them),
	    cmocka_unit_test(device_memory_is_read_and_written),
	    cmocka_unit_test(memory_becomes_read_only_and_writable),
	    cmocka_unit_test(a_message_ends_a_halt),
	    cmocka_unit_test(an_irqfd_sends_its_message),
	    cmocka_unit_test(a_doorbell_rings_without_the_board),
	    cmocka_unit_test(a_level_triggered_vector_reports_its_eoi),
	    cmocka_unit_test(the_pic_interrupts_through_lint0),
	    cmocka_unit_test(the_pic_waits_until_interrupts_are_on),
	    cmocka_unit_test(an_nmi_reaches_a_halted_cpu),
	    cmocka_unit_test(msrs_of_doors_come_to_the_board),
	    cmocka_unit_test(an_unknown_msr_faults),
	    cmocka_unit_test(a_triple_fault_is_told_and_ended_by_new_state),
	    cmocka_unit_test(state_goes_in_and_comes_out_the_same),
	    cmocka_unit_test(the_local_apic_goes_in_and_comes_out_the_same),
	    cmocka_unit_test(pages_that_the_guest_writes_are_logged),
	    cmocka_unit_test(a_busy_guest_is_paused_and_resumed),
	    cmocka_unit_test(a_pause_finds_no_access_half_done),
	    cmocka_unit_test(the_tsc_stands_while_the_clock_does),
	    cmocka_unit_test(a_tsc_that_was_set_counts_from_when_the_cpu_runs),
	    cmocka_unit_test(the_counters_have_names),
	};
	struct engine_probe probe;

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	kvm_probe(&probe);
	if (!probe.usable) {
		fprintf(stderr, "skipped: %s\n", probe.why);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
