/* testboard.c: a small board with one CPU on the software engine, for tests and benchmarks. */
#include "engine/soft/testboard.h"
#include "engine/soft/core.h"
#include "engine/soft/testcode.h"
#include "engine/soft/vector.h"

#undef NDEBUG
#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

struct board_dev {
	struct device dev;
	struct region mmio, port;
	struct board_access last;
	const uint8_t *code;
	size_t code_bytes;
};

static void dev_reset(struct device *dev, enum reset_kind kind)
{
}
static void dev_free(struct device *dev)
{
	device_fini(dev);
	free(dev);
}
static const struct state_field dev_fields[] = {STATE_END};
static const struct state_desc dev_state = {"board", dev_fields, sizeof(struct board_dev), NULL};
static const struct device_class dev_class = {
    .name = "board", .reset = dev_reset, .free = dev_free, .state = &dev_state};

static uint64_t dev_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	struct board_dev *d = (struct board_dev *)dev;

	d->last = (struct board_access){offset, d->last.value, size, d->last.count + 1, 0};
	if (offset < d->code_bytes)
		return d->code[offset];
	return UINT64_C(0x8877665544332211) & size_mask(size);
}
static void dev_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct board_dev *d = (struct board_dev *)dev;

	d->last = (struct board_access){offset, value, size, d->last.count + 1, 1};
}
static const struct region_ops dev_ops = {.read = dev_read, .write = dev_write};

static int apic_ack(void *apic)
{
	struct board *b = apic;
	int vector = b->pending_vector;

	b->pending_vector = -1;
	cpu_link_clear(&b->cpu->base.link, CPU_EVENT_INTR);
	return vector;
}
static uint8_t apic_get_cr8(void *apic)
{
	return 0;
}
static void apic_set_cr8(void *apic, uint8_t value)
{
}
static int apic_msr_read(void *apic, uint32_t msr, uint64_t *value)
{
	return -1;
}
static int apic_msr_write(void *apic, uint32_t msr, uint64_t value)
{
	return -1;
}
static _Bool apic_mmio_read(void *apic, uint64_t addr, unsigned size, uint64_t *value)
{
	return 0;
}
static _Bool apic_mmio_write(void *apic, uint64_t addr, unsigned size, uint64_t value)
{
	return 0;
}
static uint64_t apic_mmio_base(void *apic)
{
	return UINT64_MAX;
}
static _Bool apic_enabled(void *apic)
{
	return 1;
}
static void apic_init(void *apic)
{
}
static const struct cpu_apic_ops apic_ops = {
    .ack = apic_ack,
    .get_cr8 = apic_get_cr8,
    .set_cr8 = apic_set_cr8,
    .msr_read = apic_msr_read,
    .msr_write = apic_msr_write,
    .mmio_read = apic_mmio_read,
    .mmio_write = apic_mmio_write,
    .mmio_base = apic_mmio_base,
    .enabled = apic_enabled,
    .init = apic_init,
};

static void board_event(void *opaque, enum engine_event event, unsigned cpu, const char *text)
{
}

void board_load(struct board *b, uint64_t addr, const void *bytes, size_t len)
{
	int rc = gmem_load(b->mem, gpa(addr), bytes, len);

	assert(!rc);
}

uint64_t board_read(struct board *b, uint64_t addr, unsigned size)
{
	uint64_t v = 0;
	int rc = gmem_read(b->mem, gpa(addr), &v, size);

	assert(!rc);
	return v;
}

void board_write(struct board *b, uint64_t addr, unsigned size, uint64_t value)
{
	board_load(b, addr, &value, size);
}

static void tables_make(struct board *b)
{
	static const uint64_t gdt[] = {
	    0,
	    0x00af9b000000ffff, /* 64-bit code */
	    0x00cf9b000000ffff, /* 32-bit code */
	    0x00cf93000000ffff, /* data */
	    0x00affb000000ffff, /* 64-bit code, ring 3 */
	    0x00cff3000000ffff, /* data, ring 3 */
	    0x00008b0000000067 | (uint64_t)BOARD_TSS << 16,
	    0,
	};

	board_load(b, BOARD_GDT, gdt, sizeof(gdt));
	board_write(b, BOARD_TSS + 4, 8, BOARD_STACK0);
	for (unsigned v = 0; v < 256; v++)
		board_write(b, BOARD_HANDLERS + v * 16, 1, 0xf4);
	for (unsigned i = 0; i < 3; i++)
		board_write(b, BOARD_PML4 + i * 0x1000, 8, (BOARD_PML4 + (i + 1) * 0x1000) | 7);
	board_write(b, BOARD_PML4 + 0x2000 + 8, 8, (BOARD_PT + 0x1000) | 7);
	for (unsigned i = 2; i < 128; i++)
		board_write(b, BOARD_PML4 + 0x2000 + i * 8, 8, i * UINT64_C(0x200000) | 0x87);
	for (unsigned i = 0; i < 1024; i++)
		board_write(b, BOARD_PT + i * 8, 8, i * UINT64_C(0x1000) | 3);
}

/* Interrupt gates for 64-bit or 32-bit mode, to handlers in ring 0. */
static void idt_make(struct board *b, _Bool wide)
{
	for (unsigned v = 0; v < 256; v++) {
		uint64_t handler = BOARD_HANDLERS + v * 16;
		uint64_t gate = (handler & 0xffff) | 0x8e0000000000 | (handler >> 16) << 48 |
				(uint64_t)(wide ? BOARD_CS64 : BOARD_CS32) << 16;
		board_write(b, BOARD_IDT + v * (wide ? 16 : 8), 8, gate);
		if (wide)
			board_write(b, BOARD_IDT + v * 16 + 8, 8, 0);
	}
}

static enum engine_options_soft board_soft(const char *way, unsigned cpus)
{
	if (way && !strcmp(way, "translate"))
		return SOFT_TRANSLATE;
	if (way && !strcmp(way, "lockstep"))
		return cpus == 1 ? SOFT_LOCKSTEP : SOFT_TRANSLATE;
	return way && !strcmp(way, "direct") ? SOFT_DIRECT_ALWAYS : SOFT_INTERP;
}

struct board *board_new(unsigned cpus)
{
	struct gmem_config mem = {.ram_bytes = BOARD_RAM, .low_limit = BOARD_RAM};
	const char *way = getenv("BOARD_SOFT");
	struct engine_config cfg = {.soft = board_soft(way, cpus), .translate_at = 1};
	struct board *b = calloc(1, sizeof(*b));
	struct board_dev *d = calloc(1, sizeof(*d));
	struct cpuid_caps caps;
	struct vcpu *vcpu;
	int rc;

	assert(b && d);
	rc = gmem_new(&b->mem, &mem, NULL);
	assert(!rc);
	rc = gmem_add(b->mem, BOARD_ROM, 4096, GMEM_READONLY, NULL);
	assert(!rc);
	rc = space_new(&b->ports, "ports", 65536);
	assert(!rc);
	rc = space_new(&b->memory, "memory", BIT64(48));
	assert(!rc);
	rc = clock_new(&b->clock, CLOCK_MANUAL);
	assert(!rc);
	device_init(&d->dev, &dev_class, RANK_DEVICE, 0, "board0");
	d->mmio = (struct region){.name = "m", .dev = &d->dev, .ops = &dev_ops, .size = 4096};
	d->port = (struct region){.name = "p", .dev = &d->dev, .ops = &dev_ops, .size = 16};
	b->dev = &d->dev;
	rc = space_map(b->memory, &d->mmio, BOARD_MMIO);
	assert(!rc);
	rc = space_map(b->ports, &d->port, BOARD_PORT);
	assert(!rc);
	engine_soft.caps(&caps);
	rc = cpuid_policy_init(&b->cpuid, &caps, cpus, engine_soft.tsc_khz(), CPUID_HV_NONE, NULL);
	assert(!rc);
	b->env = (struct engine_env){
	    .mem = b->mem,
	    .ports = b->ports,
	    .memory = b->memory,
	    .doors = &b->doors,
	    .clock = b->clock,
	    .cpuid = &b->cpuid,
	    .cpus = cpus,
	    .event = board_event,
	    .opaque = b,
	};
	rc = engine_soft.create(&b->engine, &b->env, &cfg, NULL);
	assert(!rc);
	rc = engine_soft.vcpu_create(b->engine, 0, &vcpu, NULL);
	assert(!rc);
	b->cpu = soft_cpu_of(vcpu);
	b->pending_vector = -1;
	vcpu->apic = (struct cpu_apic){&apic_ops, b};
	atomic_store(&vcpu->link.events, 0);
	tables_make(b);
	return b;
}

void board_clear(struct board *b)
{
	int rc = gmem_discard(b->mem, gpa(0), BOARD_RAM);

	assert(!rc);
	tables_make(b);
}

void board_free(struct board *b)
{
	engine_soft.vcpu_destroy(&b->cpu->base);
	engine_soft.destroy(b->engine);
	device_free(b->dev);
	space_free(b->ports);
	space_free(b->memory);
	clock_free(b->clock);
	gmem_free(b->mem);
	free(b);
}

static void seg(struct x86_state *s, unsigned n, uint16_t selector, uint32_t attr)
{
	s->seg[n] = (struct x86_seg){.limit = UINT32_MAX, .attr = attr, .selector = selector};
}

static void state_common(struct board *b, struct x86_state *s, uint64_t rip)
{
	x86_state_reset(s, 1);
	s->rip = rip;
	s->gpr[X86_RSP] = BOARD_STACK;
	s->gdt.base = BOARD_GDT;
	s->gdt.limit = 63;
	s->idt.base = BOARD_IDT;
	s->idt.limit = 4095;
	s->tr =
	    (struct x86_seg){.base = BOARD_TSS, .limit = 103, .attr = 0x8b, .selector = BOARD_TR};
}

static void state_put(struct board *b, const struct x86_state *s)
{
	int rc = engine_soft.set_state(&b->cpu->base, s);

	assert(!rc);
}

void board_long(struct board *b, uint64_t rip)
{
	struct x86_state s;

	state_common(b, &s, rip);
	idt_make(b, 1);
	seg(&s, X86_CS, BOARD_CS64, 0xa09b);
	for (unsigned i = 0; i < 6; i++)
		if (i != X86_CS)
			seg(&s, i, BOARD_DS, 0xc093);
	s.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_ET | X86_CR0_NE;
	s.cr3 = BOARD_PML4;
	s.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR;
	s.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
	state_put(b, &s);
}

void board_user(struct board *b, uint64_t rip)
{
	board_long(b, rip);
	for (unsigned i = 0; i < 1024; i++)
		board_pte_set(b, i * 0x1000, board_pte(b, i * 0x1000) | X86_PTE_U);
	seg(&b->cpu->s, X86_CS, BOARD_CS3, 0xa0fb);
	for (unsigned i = 0; i < 6; i++)
		if (i != X86_CS)
			seg(&b->cpu->s, i, BOARD_DS3, 0xc0f3);
	soft_mode_update(b->cpu);
}

void board_prot(struct board *b, uint32_t rip)
{
	struct x86_state s;

	state_common(b, &s, rip);
	idt_make(b, 0);
	seg(&s, X86_CS, BOARD_CS32, 0xc09b);
	for (unsigned i = 0; i < 6; i++)
		if (i != X86_CS)
			seg(&s, i, BOARD_DS, 0xc093);
	s.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
	s.efer = 0;
	state_put(b, &s);
}

void board_real(struct board *b, uint16_t rip)
{
	struct x86_state s;

	state_common(b, &s, rip);
	for (unsigned v = 0; v < 256; v++)
		board_write(b, BOARD_IDT + v * 4, 4, BOARD_HANDLERS + v * 16);
	for (unsigned i = 0; i < 6; i++)
		s.seg[i] = (struct x86_seg){.limit = 0xffff, .attr = i == X86_CS ? 0x9b : 0x93};
	s.cr0 = X86_CR0_ET;
	state_put(b, &s);
}

static uint64_t pte_at(uint64_t lin)
{
	return BOARD_PT + (lin >> 12) * 8;
}
uint64_t board_pte(struct board *b, uint64_t lin)
{
	return board_read(b, pte_at(lin), 8);
}
void board_pte_set(struct board *b, uint64_t lin, uint64_t pte)
{
	board_write(b, pte_at(lin), 8, pte);
}

int board_run(struct board *b)
{
	int rc = engine_soft.run(&b->cpu->base);
	uint64_t rip = b->cpu->s.rip;

	if (rc == RUN_SHUTDOWN)
		return -2;
	assert(rc == RUN_HALTED);
	if (rip > BOARD_HANDLERS && rip < BOARD_HANDLERS + 0x1000 && rip % 16 == 1)
		return (int)(rip - BOARD_HANDLERS) / 16;
	return -1;
}

struct kicker {
	struct soft_cpu *cpu;
	clockid_t
	    clock; /* CPU time of the thread that runs it: others may want the cores as well */
};

static uint64_t kicker_ns(const struct kicker *k)
{
	struct timespec t;

	clock_gettime(k->clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void *kick_settled(void *arg)
{
	const struct kicker *k = arg;
	const volatile uint64_t *entries = &k->cpu->stats.entries;
	uint64_t was = 0, since = 0;

	/* Until it stays in host code for a millisecond. */
	while (!was || kicker_ns(k) - since < 1000000) {
		if (*entries != was) {
			was = *entries;
			since = kicker_ns(k);
		}
		sched_yield();
	}
	cpu_link_raise(&k->cpu->base.link, CPU_EVENT_KICK);
	return NULL;
}
void board_kick_loop(struct board *b, const uint8_t *code, const uint8_t *end)
{
	struct kicker k = {.cpu = b->cpu};
	pthread_t thread;

	b->cpu->stats.entries = 0;
	board_load(b, BOARD_CODE, code, (size_t)(end - code));
	board_long(b, BOARD_CODE);
	int rc = pthread_getcpuclockid(pthread_self(), &k.clock);
	assert(!rc);
	rc = pthread_create(&thread, NULL, kick_settled, &k);
	assert(!rc);
	rc = soft_run(&b->cpu->base);
	assert(rc == RUN_KICKED);
	pthread_join(thread, NULL);
	cpu_link_clear(&b->cpu->base.link, CPU_EVENT_KICK);
	soft_cache_flush(b->cpu);
}

uint64_t board_stack(struct board *b, unsigned index)
{
	unsigned size = soft_is64(b->cpu) ? 8 : b->cpu->mode & SOFT_MODE_32 ? 4 : 2;
	uint64_t sp = b->cpu->s.gpr[X86_RSP] & size_mask(size);

	return board_read(b, b->cpu->s.seg[X86_SS].base * (size < 8) + sp + index * size, size);
}

void board_device_code(struct board *b, const uint8_t *code, size_t bytes)
{
	struct board_dev *d = (struct board_dev *)b->dev;

	d->code = code;
	d->code_bytes = bytes;
}
struct board_access *board_access(struct board *b)
{
	return &((struct board_dev *)b->dev)->last;
}

int board_setup(void **state)
{
	*state = board_new(1);
	return 0;
}
static int setup_as(void **state, const char *soft)
{
	setenv("BOARD_SOFT", soft, 1);
	return board_setup(state);
}
int board_setup_translate(void **state)
{
	return setup_as(state, "translate");
}
int board_setup_lockstep(void **state)
{
	return setup_as(state, "lockstep");
}
int board_setup_direct(void **state)
{
	return setup_as(state, "direct");
}
int board_teardown(void **state)
{
	board_free(*state);
	return 0;
}

int board_run_long(struct board *b, const uint8_t *code, const uint8_t *end)
{
	board_load(b, BOARD_CODE, code, (size_t)(end - code));
	board_long(b, BOARD_CODE);
	return board_run(b);
}
