/* sys_test.h: a bare CPU for the tests of the system part: tables, stacks, code, and what came of
 * it. */
#ifndef ENGINE_SOFT_SYS_TEST_H
#define ENGINE_SOFT_SYS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/soft/cpu.h"
#include "x86/seg.h"

/*
 * Guest memory. Every vector's handler is a HLT at HANDLERS + 8 * vector, so that where the CPU
 * halts tells which exception came, and its stack tells the rest. Code of a test halts by itself
 * when nothing came.
 */
#define RAM_BYTES (4u << 20)
#define GDT	  0x1000u
#define IDT	  0x2000u
#define TSS	  0x3000u
#define TSS_B	  0x3800u
#define LDT	  0x3c00u
#define STACK	  0x8000u /* ring 0's, going down */
#define STACK_IN  0x9000u /* ring 0's from the TSS */
#define STACK_3	  0xa000u
#define CODE	  0x10000u
#define HANDLERS  0x20000u
#define TABLES	  0x100000u /* page tables: identity, 4 MiB */

/* Selectors of the fixture's GDT */
enum {
	SEL_CODE0 = 0x08,
	SEL_DATA0 = 0x10,
	SEL_CODE3 = 0x18 | 3,
	SEL_DATA3 = 0x20 | 3,
	SEL_CODE64 = 0x28,
	SEL_TSS = 0x30, /* 16 bytes in IA-32e mode */
	SEL_TSS_B = 0x40,
	SEL_CODE64_3 = 0x48 | 3,
	SEL_FREE = 0x50, /* for the test */
	SEL_FREE2 = 0x58,
	SEL_ABSENT = 0x60,
	SEL_LDT = 0x68,
	GDT_LIMIT = 0x7f
};

/* Code for the tests, assembled in place: CODE16(name, "...") and so on. */
#define GUEST_CODE(name, bits, text)                                                               \
	__asm__(".pushsection .rodata\n.global " #name "\n.global " #name "_end\n" #name           \
		":\n.code" #bits "\n" text "\n" #name "_end:\n.code64\n.popsection\n");            \
	extern const uint8_t name[], name##_end[]

struct fixture {
	struct engine_env env;
	struct doors doors;
	struct cpuid_policy policy;
	struct engine *engine;
	struct vcpu *vcpu;
	struct soft_cpu *cpu;
	struct x86_state s; /* set before, and as it came out */
	int vector;	    /* that was delivered, or -1 */
	int interrupt;	    /* to be acknowledged next, or -1 */
};

static inline void put(struct fixture *f, uint32_t addr, uint64_t v, unsigned size)
{
	assert_int_equal(gmem_write(f->env.mem, gpa(addr), &v, size), 0);
}

static inline uint64_t get(struct fixture *f, uint64_t addr, unsigned size)
{
	uint64_t v = 0;

	assert_int_equal(gmem_read(f->env.mem, gpa(addr), &v, size), 0);
	return v;
}

static inline void put_desc(struct fixture *f, unsigned sel, uint32_t base, uint32_t limit,
			    uint32_t attr)
{
	struct x86_seg s = {.base = base, .limit = limit, .attr = attr};

	put(f, GDT + (sel & ~7u), seg_to_desc(&s), 8);
}

static inline void put_gate(struct fixture *f, uint32_t table, unsigned n, unsigned sel,
			    uint64_t offset, unsigned type, unsigned dpl, unsigned extra,
			    _Bool wide)
{
	uint64_t low = (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)extra << 32 |
		       (uint64_t)(0x80 | dpl << 5 | type) << 40 | (offset >> 16 & 0xffff) << 48;

	put(f, table + n * (wide ? 16 : 8), low, 8);
	if (wide)
		put(f, table + n * 16 + 8, offset >> 32, 8);
}

static inline int fixture_ack(void *apic)
{
	struct fixture *f = apic;
	int vector = f->interrupt;

	f->interrupt = -1;
	cpu_link_clear(&f->vcpu->link, CPU_EVENT_INTR);
	return vector;
}
static inline uint8_t fixture_get_cr8(void *apic)
{
	return 0;
}
static inline void fixture_set_cr8(void *apic, uint8_t value)
{
}
static inline int fixture_msr_read(void *apic, uint32_t msr, uint64_t *value)
{
	return -1;
}
static inline int fixture_msr_write(void *apic, uint32_t msr, uint64_t value)
{
	return -1;
}
static inline _Bool fixture_mmio_read(void *apic, uint64_t addr, unsigned size, uint64_t *value)
{
	return 0;
}
static inline _Bool fixture_mmio_write(void *apic, uint64_t addr, unsigned size, uint64_t value)
{
	return 0;
}
static inline uint64_t fixture_mmio_base(void *apic)
{
	return UINT64_MAX;
}
static inline _Bool fixture_enabled(void *apic)
{
	return 1;
}
static inline void fixture_init(void *apic)
{
}
static const struct cpu_apic_ops fixture_apic = {
    .ack = fixture_ack,
    .get_cr8 = fixture_get_cr8,
    .set_cr8 = fixture_set_cr8,
    .msr_read = fixture_msr_read,
    .msr_write = fixture_msr_write,
    .mmio_read = fixture_mmio_read,
    .mmio_write = fixture_mmio_write,
    .mmio_base = fixture_mmio_base,
    .enabled = fixture_enabled,
    .init = fixture_init,
};

/* Flat segments of both rings, a TSS with a stack for ring 0, all vectors as DPL 0 gates. */
static inline void fixture_tables(struct fixture *f, _Bool wide)
{
	put_desc(f, SEL_CODE0, 0, UINT32_MAX, 0xc09b);
	put_desc(f, SEL_DATA0, 0, UINT32_MAX, 0xc093);
	put_desc(f, SEL_CODE3, 0, UINT32_MAX, 0xc0fb);
	put_desc(f, SEL_DATA3, 0, UINT32_MAX, 0xc0f3);
	put_desc(f, SEL_CODE64, 0, UINT32_MAX, 0xa09b);
	put_desc(f, SEL_CODE64_3, 0, UINT32_MAX, 0xa0fb);
	put_desc(f, SEL_TSS, TSS, 0x7ff, 0x8b);
	if (wide)
		put(f, GDT + SEL_TSS + 8, 0, 8);
	else
		put_desc(f, SEL_TSS_B, TSS_B, 0x67, 0x89);
	put_desc(f, SEL_ABSENT, 0, UINT32_MAX, 0xc013);
	for (unsigned v = 0; v < 256; v++) {
		put_gate(f, IDT, v, wide ? SEL_CODE64 : SEL_CODE0, HANDLERS + 8 * v, X86_SYS_INT32,
			 0, 0, wide);
		put(f, HANDLERS + 8 * v, 0xf4, 1);
	}
	put(f, TSS + 4, STACK_IN, wide ? 8 : 4);
	if (!wide)
		put(f, TSS + 8, SEL_DATA0, 2);
	put(f, TSS + 102, 0x700, 2); /* the I/O bitmap is behind the limit unless a test moves it */
}

static inline struct x86_seg fixture_seg(struct fixture *f, unsigned sel)
{
	return seg_from_desc((uint16_t)sel, get(f, GDT + (sel & ~7u), 8), 0);
}

static inline void fixture_segs(struct fixture *f, unsigned code, unsigned data)
{
	for (unsigned i = 0; i < 6; i++)
		f->s.seg[i] = fixture_seg(f, data);
	f->s.seg[X86_CS] = fixture_seg(f, code);
	f->s.tr = fixture_seg(f, SEL_TSS);
	f->s.gdt = (struct x86_table){.base = GDT, .limit = GDT_LIMIT};
	f->s.idt = (struct x86_table){.base = IDT, .limit = 0xfff};
	f->s.ldt = seg_null(0, 0);
	f->s.rip = CODE;
	f->s.gpr[X86_RSP] = (code & 3) ? STACK_3 : STACK;
}

/* Flat 32-bit protected mode without paging at ring 0 or 3. */
static inline void fixture_protected(struct fixture *f, unsigned ring)
{
	x86_state_reset(&f->s, 1);
	fixture_tables(f, 0);
	fixture_segs(f, ring ? SEL_CODE3 : SEL_CODE0, ring ? SEL_DATA3 : SEL_DATA0);
	f->s.cr0 = X86_CR0_PE | X86_CR0_ET;
}

/* 64-bit mode, 4 MiB identity-mapped by 4 KiB pages that everybody may use. */
static inline void fixture_long(struct fixture *f, unsigned ring)
{
	x86_state_reset(&f->s, 1);
	fixture_tables(f, 1);
	fixture_segs(f, ring ? SEL_CODE64_3 : SEL_CODE64, ring ? SEL_DATA3 : SEL_DATA0);
	put(f, TABLES, (TABLES + 0x1000) | 7, 8);
	put(f, TABLES + 0x1000, (TABLES + 0x2000) | 7, 8);
	for (unsigned i = 0; i < RAM_BYTES >> 21; i++)
		put(f, TABLES + 0x2000 + 8 * i, (TABLES + 0x3000 + i * 0x1000) | 7, 8);
	for (unsigned i = 0; i < RAM_BYTES >> 12; i++)
		put(f, TABLES + 0x3000 + 8 * i, i << 12 | 7, 8);
	f->s.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_PG | X86_CR0_WP;
	f->s.cr3 = TABLES;
	f->s.cr4 = X86_CR4_PAE;
	f->s.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
}

/* Real-address mode with code at CODE, the vectors' table at 0 leading to the handlers. */
static inline void fixture_real(struct fixture *f)
{
	x86_state_reset(&f->s, 1);
	for (unsigned v = 0; v < 256; v++) {
		put(f, 4 * v, (HANDLERS >> 4) << 16 | 8 * v, 4);
		put(f, HANDLERS + 8 * v, 0xf4, 1);
	}
	seg_load_real(&f->s.seg[X86_CS], CODE >> 4, 0);
	f->s.rip = 0;
	f->s.idt.limit = 0x3ff;
	f->s.gpr[X86_RSP] = STACK;
}

static inline int fixture_go(struct fixture *f)
{
	uint64_t where;
	int r;

	assert_int_equal(engine_soft.set_state(f->vcpu, &f->s), 0);
	do {
		cpu_link_clear(&f->vcpu->link, CPU_EVENT_KICK);
		r = engine_soft.run(f->vcpu);
	} while (r == RUN_KICKED);
	assert_int_equal(engine_soft.get_state(f->vcpu, &f->s), 0);
	where = f->s.rip - 1 + f->s.seg[X86_CS].base;
	f->vector = where >= HANDLERS && where < HANDLERS + 8 * 256 && !(where & 7)
			? (int)(where - HANDLERS) / 8
			: -1;
	return r;
}

/* Puts the code at CODE and runs until the CPU halts or shuts down. */
static inline int fixture_run(struct fixture *f, const uint8_t *code, const uint8_t *end)
{
	assert_int_equal(gmem_write(f->env.mem, gpa(CODE), code, (size_t)(end - code)), 0);
	return fixture_go(f);
}
#define RUN(f, name) fixture_run(f, name, name##_end)

/* The n-th word, dword or quadword on the stack. */
static inline uint64_t stacked(struct fixture *f, unsigned n, unsigned size)
{
	uint64_t base = f->s.efer & X86_EFER_LMA ? 0 : f->s.seg[X86_SS].base;

	return get(f, base + f->s.gpr[X86_RSP] + n * size, size);
}

static inline int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct gmem_config mem = {.ram_bytes = RAM_BYTES, .low_limit = UINT64_C(3) << 30};
	const struct engine_config cfg = {0};
	struct cpuid_caps caps = {0};

	engine_soft.caps(&caps);
	assert_int_equal(cpuid_policy_init(&f->policy, &caps, 1, 1000000, CPUID_HV_NONE, NULL), 0);
	assert_int_equal(gmem_new(&f->env.mem, &mem, NULL), 0);
	assert_int_equal(space_new(&f->env.ports, "ports", 65536), 0);
	assert_int_equal(space_new(&f->env.memory, "memory", UINT64_C(1) << 48), 0);
	assert_int_equal(clock_new(&f->env.clock, CLOCK_MANUAL), 0);
	f->env.doors = &f->doors;
	f->env.cpuid = &f->policy;
	f->env.cpus = 1;
	assert_int_equal(engine_soft.create(&f->engine, &f->env, &cfg, NULL), 0);
	assert_int_equal(engine_soft.vcpu_create(f->engine, 0, &f->vcpu, NULL), 0);
	f->vcpu->apic = (struct cpu_apic){&fixture_apic, f};
	f->cpu = soft_cpu_of(f->vcpu);
	f->interrupt = -1;
	*state = f;
	return 0;
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	engine_soft.vcpu_destroy(f->vcpu);
	engine_soft.destroy(f->engine);
	clock_free(f->env.clock);
	space_free(f->env.memory);
	space_free(f->env.ports);
	gmem_free(f->env.mem);
	free(f);
	return 0;
}
#define SYS_TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

#endif
