/* debug.c: a debugger's breakpoints, watchpoints and single steps, of which the guest sees nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include "engine/soft/core.h"

/*
 * A CPU under a debugger goes the run loop's slow way. There, before each instruction or block,
 * soft_debug_before looks for a breakpoint at rip, and after it soft_debug_after reports what was
 * met. Without watchpoints or a step, blocks that hold no breakpoint are executed whole: a guest
 * with a breakpoint set still boots in reasonable time.
 */
struct soft_debug {
	struct engine_debug wish;
	uint64_t pages;	 /* bit (page & 63) is set where an instruction breakpoint may be */
	_Bool watches;	 /* there are watchpoints */
	_Bool pass;	 /* the instruction at rip is executed whatever breakpoint is there */
	_Bool stepped;	 /* the step's instruction was begun */
	_Bool watch_hit; /* and it touched base.stop.at */
};

int soft_debug_set(struct vcpu *vcpu, const struct engine_debug *wish)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);
	struct soft_debug *d = NULL;

	if (wish) {
		d = calloc(1, sizeof(*d));
		if (!d)
			return -ENOMEM;
		d->wish = *wish;
		d->pass = wish->step;
		for (unsigned i = 0; i < wish->count; i++) {
			if (wish->at[i].kind == ENGINE_BREAK_EXEC)
				d->pages |= BIT64((wish->at[i].addr >> 12) & 63);
			else
				d->watches = 1;
		}
	}
	free(cpu->debug);
	cpu->debug = d;
	soft_mode_update(cpu);
	return 0;
}

_Bool soft_debug_watches(const struct soft_cpu *cpu)
{
	return cpu->debug->watches;
}

static uint64_t linear_rip(const struct soft_cpu *cpu)
{
	return soft_is64(cpu) ? cpu->s.rip : (uint32_t)(cpu->s.seg[X86_CS].base + cpu->s.rip);
}

/* The instruction breakpoint in [lin, lin+len), or NULL. */
static const struct engine_break *find(const struct soft_debug *d, uint64_t lin, unsigned len)
{
	if (!(d->pages & (BIT64((lin >> 12) & 63) | BIT64(((lin + len - 1) >> 12) & 63))))
		return NULL;
	for (unsigned i = 0; i < d->wish.count; i++) {
		const struct engine_break *b = &d->wish.at[i];

		if (b->kind == ENGINE_BREAK_EXEC && b->addr - lin < len)
			return b;
	}
	return NULL;
}

_Bool soft_debug_before(struct soft_cpu *cpu)
{
	struct soft_debug *d = cpu->debug;
	const struct engine_break *b = d->pass ? NULL : find(d, linear_rip(cpu), 1);

	if (b) {
		cpu->base.stop.why = ENGINE_STOP_BREAK;
		cpu->base.stop.at = *b;
		return 1;
	}
	d->pass = 0;
	d->stepped = d->wish.step;
	return 0;
}

_Bool soft_debug_within(const struct soft_cpu *cpu, unsigned bytes)
{
	const struct soft_debug *d = cpu->debug;

	return d->watches || d->wish.step || find(d, linear_rip(cpu), bytes);
}

_Bool soft_debug_after(struct soft_cpu *cpu)
{
	struct soft_debug *d = cpu->debug;

	if (d->watch_hit)
		cpu->base.stop.why = ENGINE_STOP_WATCH;
	else if (d->stepped)
		cpu->base.stop.why = ENGINE_STOP_STEP;
	else
		return 0;
	d->watch_hit = d->stepped = 0;
	return 1;
}

/* A step is not led away by interrupts, unless it is to end a halt. */
uint32_t soft_debug_events(const struct soft_cpu *cpu, uint32_t events)
{
	if (cpu->debug->wish.step && cpu->s.activity == X86_RUNNING)
		events &= ~(uint32_t)(CPU_EVENT_INTR | CPU_EVENT_NMI);
	return events;
}

static _Bool watches(enum engine_break_kind kind, _Bool write)
{
	return kind == ENGINE_BREAK_ACCESS ||
	       kind == (write ? ENGINE_BREAK_WRITE : ENGINE_BREAK_READ);
}

void soft_debug_access(struct soft_cpu *cpu, uint64_t lin, unsigned len, _Bool write)
{
	struct soft_debug *d = cpu->debug;

	for (unsigned i = 0; i < d->wish.count && !d->watch_hit; i++) {
		const struct engine_break *b = &d->wish.at[i];

		if (!watches(b->kind, write))
			continue;
		if (lin - b->addr < b->len || b->addr - lin < len) {
			cpu->base.stop.at = *b;
			d->watch_hit = 1;
		}
	}
}
