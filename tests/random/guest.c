/* guest.c: the interpreter's side: one vCPU, page tables, and handlers that halt. */
#include "randinsn.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include "engine/vcpu.h"
#include "x86/regs.h"

/*
 * Guest-physical layout; one page each. The supervisor's pages are at KERNEL, in the upper half,
 * where user code gets the same answer from a guest as from a process. Every exception's handler is
 * a HLT, so the vector is seen from where the CPU halted, and what it pushed is on the stack.
 */
enum {
	P_PML4 = 1,
	P_PDPT,
	P_PD,
	P_PT,
	P_KPDPT,
	P_KPD,
	P_KPT,
	P_CODE,
	P_CODE2,
	P_COUNT,
	P_DATA,
	P_CONST,
	P_GDT, /* and TSS */
	P_IDT,
	P_STUBS,
	P_STACK,
	P_END
};
#define KERNEL	   UINT64_C(0xffff900000000000)
#define K(page)	   (KERNEL + ((page)-P_GDT) * 4096ull)
#define STUB_BYTES 16u
#define TSS_OFFSET 2048u
#define KCS	   0x10
#define KTSS	   0x40

struct ri_guest {
	struct gmem *mem;
	struct clock *clock;
	struct engine_env env;
	struct cpuid_policy cpuid;
	struct doors doors;
	struct engine *engine;
	struct vcpu *vcpu;
	struct x86_state base;
};

static void guest_event(void *opaque, enum engine_event event, unsigned cpu, const char *text)
{
	(void)opaque;
	(void)cpu;
	fprintf(stderr, "randinsn: engine event %u: %s\n", event, text ? text : "");
}

static void put(struct ri_guest *g, unsigned page, unsigned off, uint64_t v)
{
	if (gmem_write(g->mem, gpa(page * 4096ull + off), &v, 8) < 0)
		abort();
}

static unsigned level(uint64_t lin, unsigned shift)
{
	return (unsigned)(lin >> shift & 511) * 8;
}

static void guest_tables(struct ri_guest *g)
{
	const uint64_t all = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A;
	const uint64_t leaf = X86_PTE_P | X86_PTE_A | X86_PTE_D;

	put(g, P_PML4, level(RI_CODE, 39), P_PDPT << 12 | all);
	put(g, P_PDPT, level(RI_CODE, 30), P_PD << 12 | all);
	put(g, P_PD, level(RI_CODE, 21), P_PT << 12 | all);
	put(g, P_PT, level(RI_CODE, 12), P_CODE << 12 | leaf | X86_PTE_U | X86_PTE_W);
	put(g, P_PT, level(RI_CODE + RI_PAGE, 12), P_CODE2 << 12 | leaf | X86_PTE_U | X86_PTE_W);
	put(g, P_PT, level(RI_COUNT, 12),
	    P_COUNT << 12 | leaf | X86_PTE_U | X86_PTE_W | X86_PTE_NX);
	put(g, P_PT, level(RI_DATA, 12), P_DATA << 12 | leaf | X86_PTE_U | X86_PTE_W | X86_PTE_NX);
	put(g, P_PT, level(RI_CONST, 12), P_CONST << 12 | leaf | X86_PTE_U | X86_PTE_NX);
	put(g, P_PML4, level(KERNEL, 39), P_KPDPT << 12 | (all & ~X86_PTE_U));
	put(g, P_KPDPT, level(KERNEL, 30), P_KPD << 12 | (all & ~X86_PTE_U));
	put(g, P_KPD, level(KERNEL, 21), P_KPT << 12 | (all & ~X86_PTE_U));
	for (unsigned p = P_GDT; p < P_END; p++)
		put(g, P_KPT, (p - P_GDT) * 8, p << 12 | leaf | X86_PTE_W);
}

static void guest_descriptors(struct ri_guest *g)
{
	uint64_t tss = K(P_GDT) + TSS_OFFSET, stack = K(P_STACK) + 4096;

	put(g, P_GDT, KCS, UINT64_C(0x00af9b000000ffff));
	put(g, P_GDT, KCS + 8, UINT64_C(0x00cf93000000ffff));
	put(g, P_GDT, RI_CS32 & ~7, UINT64_C(0x00cffb000000ffff));
	put(g, P_GDT, RI_SS & ~7, UINT64_C(0x00cff3000000ffff));
	put(g, P_GDT, RI_CS64 & ~7, UINT64_C(0x00affb000000ffff));
	put(g, P_GDT, KTSS,
	    103 | (tss & 0xffffff) << 16 | UINT64_C(0x8b) << 40 | (tss >> 24 & 0xff) << 56);
	put(g, P_GDT, KTSS + 8, tss >> 32);
	put(g, P_GDT, TSS_OFFSET + 4, stack);
	put(g, P_GDT, TSS_OFFSET + 96, UINT64_C(0xffff) << 48); /* no I/O permission map */
	for (unsigned v = 0; v < 32; v++) {
		uint64_t at = K(P_STUBS) + v * STUB_BYTES;

		put(g, P_IDT, v * 16,
		    (at & 0xffff) | KCS << 16 | UINT64_C(0xee) << 40 | (at >> 16 & 0xffff) << 48);
		put(g, P_IDT, v * 16 + 8, at >> 32);
		put(g, P_STUBS, v * STUB_BYTES, UINT64_C(0xfdebf4)); /* hlt; jmp to it */
	}
}

static void segment(struct x86_seg *s, uint16_t selector, uint32_t attr)
{
	*s = (struct x86_seg){.limit = UINT32_MAX, .attr = attr, .selector = selector};
}

static void guest_state(struct ri_guest *g)
{
	struct x86_state *s = &g->base;

	x86_state_reset(s, 1);
	s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM |
		 X86_CR0_PG;
	s->cr3 = P_PML4 << 12;
	s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
	s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	if (cpuid_has(&g->cpuid, 1, 0, CPUID_ECX, 26))
		s->cr4 |= X86_CR4_OSXSAVE;
	s->xcr0 = g->cpuid.xcr0_allowed;
	for (unsigned i = 0; i < 6; i++)
		segment(&s->seg[i], 0, X86_SEG_UNUSABLE);
	segment(&s->seg[X86_DS], RI_SS, 0xc0f3);
	segment(&s->seg[X86_ES], RI_SS, 0xc0f3);
	segment(&s->seg[X86_SS], RI_SS, 0xc0f3);
	s->seg[X86_GS].base = RI_GS_BASE;
	s->tr = (struct x86_seg){
	    .base = K(P_GDT) + TSS_OFFSET, .limit = 103, .attr = 0x8b, .selector = KTSS};
	segment(&s->ldt, 0, X86_SEG_UNUSABLE); /* as Linux's processes have none */
	s->gdt = (struct x86_table){.base = K(P_GDT), .limit = KTSS + 15};
	s->idt = (struct x86_table){.base = K(P_IDT), .limit = 32 * 16 - 1};
}

/* A case that goes round in circles is ended by a timer: of the CPU's time, as a busy host may give
 * it none for long. */
static struct vcpu *alarm_vcpu;
static volatile sig_atomic_t alarm_seconds;
static void guest_alarm(int sig)
{
	(void)sig;
	alarm_seconds++;
	if (alarm_vcpu)
		cpu_link_raise(&alarm_vcpu->link, CPU_EVENT_KICK);
}

int ri_guest_new(struct ri_guest **out, _Bool translate, _Bool avx512)
{
	struct ri_guest *g = aligned_alloc(64, ALIGN_UP(sizeof(*g), 64));
	struct gmem_config mc = {.ram_bytes = 1 << 20, .low_limit = 1 << 30};
	struct engine_config ec = {.soft = translate ? SOFT_TRANSLATE : SOFT_INTERP,
				   .translate_at = 1};
	const struct itimerval every_second = {{1, 0}, {1, 0}};
	uint8_t page[RI_PAGE];
	struct cpuid_caps caps;
	struct error err;

	if (!g)
		return -ENOMEM;
	memset(g, 0, sizeof(*g));
	memset(&caps, 0, sizeof(caps));
	engine_soft.caps(&caps);
	caps.avx512 = avx512;
	g->env = (struct engine_env){
	    .cpuid = &g->cpuid, .doors = &g->doors, .cpus = 1, .event = guest_event, .opaque = g};
	if (gmem_new(&g->mem, &mc, &err) < 0 || space_new(&g->env.ports, "ports", 65536) < 0 ||
	    space_new(&g->env.memory, "memory", BIT64(40)) < 0 ||
	    clock_new(&g->clock, CLOCK_MANUAL) < 0 ||
	    cpuid_policy_init(&g->cpuid, &caps, 1, engine_soft.tsc_khz(), CPUID_HV_NONE, &err) < 0)
		return -ENOMEM;
	g->env.mem = g->mem;
	g->env.clock = g->clock;
	if (engine_soft.create(&g->engine, &g->env, &ec, &err) < 0 ||
	    engine_soft.vcpu_create(g->engine, 0, &g->vcpu, &err) < 0) {
		fprintf(stderr, "randinsn: %s\n", err.text);
		return -ENOMEM;
	}
	cpu_link_clear(&g->vcpu->link, CPU_EVENT_KICK); /* it starts with a request to pause */
	guest_tables(g);
	guest_descriptors(g);
	guest_state(g);
	ri_const_page(page);
	if (gmem_write(g->mem, gpa(P_CONST << 12), page, RI_PAGE) < 0)
		return -ENOMEM;
	alarm_vcpu = g->vcpu;
	signal(SIGVTALRM, guest_alarm);
	setitimer(ITIMER_VIRTUAL, &every_second, NULL);
	*out = g;
	return 0;
}

void ri_guest_free(struct ri_guest *g)
{
	if (!g)
		return;
	alarm_vcpu = NULL;
	engine_soft.vcpu_destroy(g->vcpu);
	engine_soft.destroy(g->engine);
	clock_free(g->clock);
	space_free(g->env.ports);
	space_free(g->env.memory);
	gmem_free(g->mem);
	free(g);
}

static void guest_load(struct ri_guest *g, const struct ri_case *c)
{
	struct x86_state *s = &g->base;
	uint8_t code[RI_CODE_BYTES], rounds[RI_MAX_INSNS];

	/* All of it: sequences store there, too. */
	ri_assemble(c, code);
	memset(rounds, RI_ROUNDS, sizeof(rounds));
	if (gmem_write(g->mem, gpa(P_CODE << 12), code, RI_CODE_BYTES) < 0 ||
	    gmem_write(g->mem, gpa(P_COUNT << 12), rounds, sizeof(rounds)) < 0 ||
	    gmem_write(g->mem, gpa(P_DATA << 12), c->data, RI_PAGE) < 0)
		abort();
	memcpy(s->gpr, c->state.gpr, sizeof(s->gpr));
	s->rip = c->state.rip;
	s->rflags = c->state.rflags;
	s->cr2 = 0;
	s->activity = X86_RUNNING;
	segment(&s->seg[X86_CS], c->mode32 ? RI_CS32 : RI_CS64, c->mode32 ? 0xc0fb : 0xa0fb);
	memcpy(s->fpu.fx, c->state.fx, RI_FX_BYTES);
	memcpy(s->fpu.vec, c->state.vec, sizeof(s->fpu.vec));
	memcpy(s->fpu.k, c->state.k, sizeof(s->fpu.k));
}

/* What the CPU pushed: with or without an error code, by where the stack pointer is. */
static void guest_store(struct ri_guest *g, struct ri_result *out)
{
	uint64_t frame[6] = {0}, *f = frame + 1;
	struct x86_state s;
	_Bool error;

	if (engine_soft.get_state(g->vcpu, &s) < 0)
		abort();
	error = K(P_STACK) + 4096 - s.gpr[X86_RSP] == 48;
	if (gmem_read(g->mem, gpa((P_STACK << 12) + 4096 - 48), frame, 48) < 0)
		abort();
	memset(out, 0, sizeof(*out));
	out->vector = (uint32_t)((s.rip - 1 - K(P_STUBS)) / STUB_BYTES);
	out->lost = s.activity != X86_HALTED || out->vector >= 32 ||
		    (!error && s.gpr[X86_RSP] != K(P_STACK) + 4096 - 40);
	out->error = error ? (uint32_t)frame[0] : 0;
	out->cr2 = s.cr2;
	memcpy(out->state.gpr, s.gpr, sizeof(s.gpr));
	out->state.rip = f[0];
	out->state.rflags = f[2];
	out->state.gpr[X86_RSP] = f[3];
	memcpy(out->state.fx, s.fpu.fx, RI_FX_BYTES);
	memset(out->state.fx + X86_FX_MASK, 0, 4);
	memcpy(out->state.vec, s.fpu.vec, sizeof(s.fpu.vec));
	memcpy(out->state.k, s.fpu.k, sizeof(s.fpu.k));
	if (gmem_read(g->mem, gpa(P_DATA << 12), out->data, RI_PAGE) < 0 ||
	    gmem_read(g->mem, gpa(P_CODE << 12), out->code, RI_CODE_BYTES) < 0)
		abort();
}

void ri_guest_run(struct ri_guest *g, const struct ri_case *c, struct ri_result *out)
{
	int ret = RUN_KICKED;

	guest_load(g, c);
	if (engine_soft.set_state(g->vcpu, &g->base) < 0)
		abort();
	alarm_seconds = 0;
	cpu_link_clear(&g->vcpu->link, CPU_EVENT_KICK);
	for (unsigned i = 0; i < 1000 && ret == RUN_KICKED; i++) {
		ret = engine_soft.run(g->vcpu);
		if (alarm_seconds > 2)
			break;
		cpu_link_clear(&g->vcpu->link, CPU_EVENT_KICK);
	}
	guest_store(g, out);
	out->lost |= ret != RUN_HALTED;
}
