/* run.c: the loop that executes blocks, and everything that happens between instructions. */
#include <errno.h>
#include <stdio.h>
#include "engine/soft/core.h"
#include "engine/soft/direct.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/system.h"
#include "engine/soft/trans.h"

/*
 * soft_run is entered again by longjmp whenever an instruction is abandoned. What is to be done
 * next is then all in struct soft_cpu: a raised exception in `exc`, the activity, events.
 */

static void flush_retired(struct soft_cpu *cpu)
{
	struct soft_block *b = cpu->cache->current;

	/* The instructions of the abandoned block that were completed. */
	if (!b)
		return;
	for (unsigned i = 0; i < b->count && cpu->block_rip != cpu->s.rip; i++) {
		cpu->block_rip += b->insn[i].len;
		cpu->stats.retired++;
	}
	cpu->cache->current = NULL;
}

static NORETURN void leave(struct soft_cpu *cpu, enum soft_jmp why)
{
	flush_retired(cpu);
	_longjmp(cpu->jmp, why);
}

NORETURN void soft_raise(struct soft_cpu *cpu, unsigned vector)
{
	cpu->exc =
	    (struct soft_event){.valid = 1, .vector = (uint8_t)vector, .kind = X86_EVENT_EXCEPTION};
	leave(cpu, JMP_RAISE);
}

NORETURN void soft_raise_err(struct soft_cpu *cpu, unsigned vector, uint32_t error)
{
	cpu->exc = (struct soft_event){.valid = 1,
				       .vector = (uint8_t)vector,
				       .has_error = 1,
				       .error = error,
				       .kind = X86_EVENT_EXCEPTION};
	leave(cpu, JMP_RAISE);
}

NORETURN void soft_raise_pf(struct soft_cpu *cpu, uint64_t lin, uint32_t error)
{
	cpu->s.cr2 = lin;
	soft_raise_err(cpu, X86_VEC_PF, error);
}

NORETURN void soft_raise_db(struct soft_cpu *cpu, uint64_t dr6, _Bool rf)
{
	cpu->exc = (struct soft_event){
	    .valid = 1, .vector = X86_VEC_DB, .kind = X86_EVENT_EXCEPTION, .rf = rf, .dr6 = dr6};
	leave(cpu, JMP_RAISE);
}

NORETURN void soft_restart(struct soft_cpu *cpu)
{
	leave(cpu, JMP_RESTART);
}

NORETURN void soft_shutdown(struct soft_cpu *cpu)
{
	cpu->s.activity = X86_SHUTDOWN;
	cpu->exc.valid = cpu->delivering.valid = 0;
	leave(cpu, JMP_SHUTDOWN);
}

NORETURN void soft_fail(struct soft_cpu *cpu, const char *text)
{
	snprintf(cpu->base.failure, sizeof(cpu->base.failure), "%s", text);
	leave(cpu, JMP_FAIL);
}

uint64_t soft_flags_get(const struct soft_cpu *cpu)
{
	return (cpu->s.rflags & ~(uint64_t)X86_ARITH) | soft_af_to(cpu->af) | X86_FIXED;
}

void soft_flags_set(struct soft_cpu *cpu, uint64_t rflags)
{
	cpu->s.rflags = rflags;
	cpu->af = soft_af_of(rflags);
}

/* Is code within CS's limit? Blocks are checked as a whole; one that is not is stepped through. */
static _Bool block_in_limit(struct soft_cpu *cpu, const struct soft_block *b)
{
	uint32_t limit = cpu->s.seg[X86_CS].limit;

	return (cpu->mode & SOFT_MODE_64) || limit == UINT32_MAX ||
	       cpu->s.rip + b->bytes - 1 <= limit;
}

static struct soft_block *lookup(struct soft_cpu *cpu)
{
	if (!(cpu->mode & SOFT_MODE_64) && cpu->s.rip > cpu->s.seg[X86_CS].limit)
		soft_raise_err(cpu, X86_VEC_GP, 0);
	return soft_cache_lookup(cpu);
}

/* What the instruction executed by itself did with rip. */
enum insn_went { WENT_ON, WENT_AGAIN, WENT_ELSEWHERE };

/* Executes the instruction at rip alone. Again: it is a repeated one with iterations left. That a
 * conditional branch to the next instruction was taken is not seen. */
static enum insn_went insn_one(struct soft_cpu *cpu)
{
	struct soft_block *b = soft_block_ready(cpu, lookup(cpu));
	const struct insn *i = &b->insn[0];

	if (!(cpu->mode & SOFT_MODE_64) && cpu->s.rip + i->len - 1 > cpu->s.seg[X86_CS].limit)
		soft_raise_err(cpu, X86_VEC_GP, 0);
	uint64_t next = soft_next_rip(cpu, i);
	unsigned flags = i->flags; /* the block may be dropped */
	uint64_t rip = cpu->s.rip;
	cpu->block_rip = rip;
	cpu->cache->current = b;
	cpu->alone = 1;
	i->fn(cpu, i);
	cpu->alone = 0;
	cpu->cache->current = NULL;
	cpu->stats.retired++;
	if (!(flags & INSN_BRANCH))
		cpu->s.rip = next;
	if (flags & (INSN_REP | INSN_REPNE))
		return cpu->s.rip == rip ? WENT_AGAIN : WENT_ON;
	return cpu->s.rip != next || (flags & INSN_JUMP) ? WENT_ELSEWHERE : WENT_ON;
}

/* DR6 bits of instruction breakpoints at rip. */
static uint64_t code_breakpoints(const struct soft_cpu *cpu)
{
	uint64_t lin =
	    soft_is64(cpu) ? cpu->s.rip : (uint32_t)(cpu->s.seg[X86_CS].base + cpu->s.rip);
	uint64_t hits = 0;

	if (cpu->s.rflags & X86_RF)
		return 0;
	for (unsigned i = 0; i < 4; i++)
		if (((cpu->s.dr7 >> (i * 2)) & 3) && !((cpu->s.dr7 >> (16 + i * 4)) & 15) &&
		    cpu->s.dr[i] == lin)
			hits |= BIT64(i);
	return hits;
}

/* One instruction with all that debugging and interrupt shadows ask for (SDM3 18.3.1, 6.8.3). */
static void step(struct soft_cpu *cpu)
{
	_Bool trap = !!(cpu->s.rflags & X86_TF), rf = !!(cpu->s.rflags & X86_RF);
	_Bool sti = cpu->s.shadow_sti, ss = cpu->s.shadow_ss;
	uint64_t hits = cpu->s.dr7 & 0xff ? code_breakpoints(cpu) : 0;

	cpu->stats.single_steps++;
	/* A fault, but pushed without RF: its handler sets it (SDM3 18.3.1.1). */
	if (hits && !ss)
		soft_raise_db(cpu, hits, 0);
	if (!ss)
		cpu->debug_hits = 0;
	cpu->step_trap = trap;
	cpu->rf_loaded = 0;
	_Bool btf = cpu->s.debugctl & X86_DEBUGCTL_BTF;
	enum insn_went went = insn_one(cpu);
	/* Only after taken branches (SDM3 18.4.4). */
	if (btf && went != WENT_ELSEWHERE)
		cpu->step_trap = 0;
	cpu->rep_rip = went == WENT_AGAIN ? cpu->s.rip : UINT64_MAX;
	/* A shadow lasts for one instruction, and is not prolonged by repeating it. */
	if (sti)
		cpu->s.shadow_sti = 0;
	if (ss)
		cpu->s.shadow_ss = 0;
	/* A repeated one keeps it to its end where that keeps a breakpoint from being hit by each
	 * iteration. Elsewhere nobody asks, and single steps would be all that a REP MOVSB did
	 * after a page fault. */
	_Bool keep = cpu->rf_loaded || (went == WENT_AGAIN && cpu->s.dr7 & 0xff);
	if (rf && (cpu->s.rflags & X86_RF) && !keep) {
		cpu->s.rflags &= ~(uint64_t)X86_RF;
		soft_mode_update(cpu);
	}
	/* MOV SS and POP SS put traps off until after the next instruction. */
	if (cpu->s.shadow_ss && !ss)
		return;
	if (cpu->debug_hits || (trap && cpu->step_trap)) {
		uint64_t dr6 = cpu->debug_hits | (trap && cpu->step_trap ? X86_DR6_BS : 0);
		cpu->debug_hits = 0;
		soft_raise_db(cpu, dr6, 0);
	}
}

/* Executes the first n instructions of a block, which the caller counts. Returns the address behind
 * them. */
static ALWAYS_INLINE uint64_t insns_run(struct soft_cpu *cpu, struct soft_cache *c,
					struct soft_block *b, unsigned n)
{
	uint64_t rip = cpu->s.rip;
	const struct insn *i = b->insn, *end = i + n;

	cpu->block_rip = rip;
	c->current = b;
	do {
		cpu->s.rip = rip;
		rip += i->len;
		i->fn(cpu, i);
	} while (++i != end);
	c->current = NULL;
	return rip;
}

/*
 * Executes blocks until one changes the CPU's state, or events are pending. At least one block is
 * executed, so that an event which cannot be taken yet does not stop the guest.
 */
static void blocks_run(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;
	struct soft_block *b = lookup(cpu);
	_Bool wide = !!(cpu->mode & SOFT_MODE_64);
	_Bool linkable = wide || !cpu->s.seg[X86_CS].base;

	for (;;) {
		if (UNLIKELY(!b->insn))
			b = soft_block_ready(cpu, b);
		if (UNLIKELY(!wide) && !block_in_limit(cpu, b)) {
			insn_one(cpu);
			return;
		}
		uint64_t start = cpu->s.rip, rip = insns_run(cpu, c, b, b->count);
		cpu->stats.retired += b->count;
		unsigned flags = b->flags;
		if (!(flags & INSN_BRANCH))
			cpu->s.rip = wide ? rip : (uint32_t)rip;
		if (UNLIKELY(flags & INSN_STATE) ||
		    UNLIKELY(atomic_load_explicit(&cpu->base.link.events, memory_order_relaxed)))
			return;
		uint64_t now = cpu->s.rip;
		struct soft_block *from = b;
		unsigned off = (unsigned)now & 0xfff;
		_Bool near = linkable && !((now ^ start) >> 12);
		if (LIKELY(near)) {
			b = soft_block_of(c, from->link[0]);
			if (from->link[0] && (b->phys & 0xfff) == off)
				continue;
			b = soft_block_of(c, from->link[1]);
			if (from->link[1] && (b->phys & 0xfff) == off)
				continue;
		}
		const struct soft_jump *j = soft_cache_jump(c, now);
		uint64_t emptied = c->emptied;
		b = wide && j->lin == now && j->key == c->jump_key ? j->block : lookup(cpu);
		/* Looking up may have emptied the cache; then `from` is no more. Instructions that
		 * cross pages stand for themselves. Nor may the page have become another one. Two
		 * links stay what they are: a branch with more targets finds them by the jump
		 * cache. */
		if (near && !from->link[1] && c->emptied == emptied && !(b->flags & BLOCK_ALONE) &&
		    !((from->phys ^ b->phys) >> 12)) {
			from->link[1] = from->link[0];
			from->link[0] = soft_block_number(c, b);
		}
	}
}

_Bool soft_block_run(struct soft_cpu *cpu, struct soft_block *b)
{
	b = soft_block_ready(cpu, b);
	uint64_t rip = insns_run(cpu, cpu->cache, b, b->count);
	cpu->stats.retired += b->count;
	if (!(b->flags & INSN_BRANCH))
		cpu->s.rip = soft_is64(cpu) ? rip : (uint32_t)rip;
	return !!(b->flags & INSN_STATE);
}

_Bool soft_block_part(struct soft_cpu *cpu, struct soft_block *b, unsigned bytes)
{
	unsigned n = 0;

	if (bytes >= b->bytes)
		return soft_block_run(cpu, b);
	b = soft_block_ready(cpu, b);
	for (unsigned at = 0; at < bytes; n++)
		at += b->insn[n].len;
	uint64_t rip = insns_run(cpu, cpu->cache, b, n);
	cpu->stats.retired += n;
	cpu->s.rip = soft_is64(cpu) ? rip : (uint32_t)rip;
	return 0;
}

/* With a debugger's breakpoints set: executes one whole block in which none lies. */
static _Bool debug_block(struct soft_cpu *cpu)
{
	struct soft_block *b = lookup(cpu);

	if (soft_debug_within(cpu, b->bytes) || !block_in_limit(cpu, b))
		return 0;
	soft_block_run(cpu, b);
	return 1;
}

static _Bool shadowed(const struct soft_cpu *cpu)
{
	return cpu->s.shadow_sti || cpu->s.shadow_ss;
}

/* Takes what is pending, in the order of SDM3 table 6-2. Returns a run_result to leave with, or -1
 * to go on. */
static int events_take(struct soft_cpu *cpu, uint32_t events)
{
	struct cpu_link *link = &cpu->base.link;
	const struct cpu_apic *apic = &cpu->base.apic;

	if (events & CPU_EVENT_ENGINE)
		soft_cache_take_pending(cpu);
	if (events & CPU_EVENT_KICK)
		return RUN_KICKED;
	if (events & CPU_EVENT_SMI)
		cpu_link_clear(link, CPU_EVENT_SMI);
	if (events & CPU_EVENT_INIT) {
		cpu_link_clear(link, CPU_EVENT_INIT);
		if (apic->ops)
			apic->ops->init(apic->apic);
		sys_init(cpu);
		return -1;
	}
	if (events & CPU_EVENT_SIPI) {
		cpu_link_clear(link, CPU_EVENT_SIPI);
		if (cpu->s.activity == X86_WAIT_SIPI)
			sys_sipi(cpu, atomic_load(&link->sipi_vector));
		return -1;
	}
	if (cpu->s.activity == X86_WAIT_SIPI || cpu->s.activity == X86_SHUTDOWN || shadowed(cpu))
		return -1;
	if ((events & CPU_EVENT_NMI) && !cpu->s.nmi_masked) {
		cpu_link_clear(link, CPU_EVENT_NMI);
		cpu->stats.interrupts++;
		cpu->s.activity = X86_RUNNING;
		sys_interrupt(cpu, X86_VEC_NMI, X86_EVENT_NMI);
		return -1;
	}
	if ((events & CPU_EVENT_INTR) && (cpu->s.rflags & X86_IF)) {
		if (cpu->direct) {
			if (cpu->cpl == 3)
				direct_choose_kernel(cpu, 1);
			direct_core_rest(cpu->direct);
			direct_large_take(cpu); /* takes long: what comes meanwhile is in time */
		}
		int vector = apic->ops ? apic->ops->ack(apic->apic) : -1;
		if (vector >= 0) {
			cpu->stats.interrupts++;
			cpu->s.activity = X86_RUNNING;
			sys_interrupt(cpu, (unsigned)vector, X86_EVENT_INTR);
		}
	}
	return -1;
}

/*
 * An exception came up while another was being delivered. A guest can arrange that for ever (an
 * alignment check whose frame is not aligned; a debug trap of the task that handles it), and a real
 * CPU then takes nothing but RESET; the vCPU's thread must still be stopped. What is to be
 * delivered is then settled, so that it is all there is to save; a double fault may end it.
 */
static _Bool delivery_leave(struct soft_cpu *cpu)
{
	uint32_t events = atomic_load_explicit(&cpu->base.link.events, memory_order_acquire);

	if (events & CPU_EVENT_ENGINE)
		soft_cache_take_pending(cpu);
	if (!(events & CPU_EVENT_KICK))
		return 0;
	sys_settle(cpu);
	return 1;
}

/* False: the layers below are to do it. */
static _Bool direct_did(struct soft_cpu *cpu)
{
	enum direct_went went = direct_run(cpu);

	if (went == DIRECT_BELOW_ALONE)
		step(cpu);
	return went != DIRECT_BELOW;
}

static int run_inner(struct soft_cpu *cpu)
{
	cpu->alone = 0; /* an instruction that was abandoned leaves it */
	for (;;) {
		while (cpu->exc.valid) {
			if (cpu->delivering.valid && delivery_leave(cpu))
				return RUN_KICKED;
			cpu->stats.exceptions++;
			sys_deliver(cpu);
		}
		if (UNLIKELY(cpu->debug) && soft_debug_after(cpu))
			return RUN_DEBUG;
		uint32_t events =
		    atomic_load_explicit(&cpu->base.link.events, memory_order_acquire);
		if (UNLIKELY(cpu->debug))
			events = soft_debug_events(cpu, events);
		if (UNLIKELY(events)) {
			int result = events_take(cpu, events);
			if (result >= 0)
				return result;
		}
		if (cpu->s.activity != X86_RUNNING)
			return cpu->s.activity == X86_SHUTDOWN ? RUN_SHUTDOWN : RUN_HALTED;
		if (UNLIKELY(cpu->stepping)) {
			if (!cpu->steps_left)
				return RUN_KICKED;
			cpu->steps_left--;
		}
		if (UNLIKELY(cpu->debug)) {
			if (soft_debug_before(cpu))
				return RUN_DEBUG;
			if (cpu->slow == SOFT_SLOW_DEBUG && !shadowed(cpu) && !cpu->stepping &&
			    debug_block(cpu))
				continue;
		}
		if (cpu->direct && cpu->cpl != 3)
			direct_choose_kernel(cpu, 0);
		if (UNLIKELY(cpu->slow || shadowed(cpu) || cpu->stepping))
			step(cpu);
		else if (UNLIKELY(cpu->lockstep != NULL) && trans_mode(cpu->mode))
			lockstep_run(cpu);
		else if (cpu->direct && cpu->cpl == 3 && direct_did(cpu))
			continue;
		else if (cpu->trans && trans_mode(cpu->mode))
			trans_run(cpu);
		else
			blocks_run(cpu);
	}
}

int soft_run_steps(struct vcpu *vcpu, unsigned count)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);

	cpu->stepping = 1;
	cpu->steps_left = count;
	int result = soft_run(vcpu);
	cpu->stepping = 0;
	return result;
}

static int run_caught(struct soft_cpu *cpu)
{
	switch (_setjmp(cpu->jmp)) {
	case JMP_SHUTDOWN: return RUN_SHUTDOWN;
	case JMP_FAIL: return -EIO;
	default: return run_inner(cpu);
	}
}

int soft_run(struct vcpu *vcpu)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);

	soft_mmu_apic(cpu);
	if (cpu->s.event_valid) {
		/* Restored in the middle of a delivery. */
		cpu->exc = (struct soft_event){
		    .valid = 1,
		    .vector = cpu->s.event_vector,
		    .kind = cpu->s.event_kind,
		    .has_error = cpu->s.event_has_error,
		    .error = cpu->s.event_error,
		    .dr6 = cpu->s.dr6 & 15, /* the state has them, see get_state */
		};
		cpu->s.event_valid = 0;
	}
	int result = run_caught(cpu);
	if (cpu->direct) {
		direct_spin_rest(cpu->direct);
		direct_core_left(cpu->direct, result != RUN_EXIT);
	}
	return result;
}

_Bool soft_runnable(struct vcpu *vcpu)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);
	uint32_t events = atomic_load(&vcpu->link.events);

	if (events & (CPU_EVENT_KICK | CPU_EVENT_INIT))
		return 1;
	switch (cpu->s.activity) {
	case X86_RUNNING: return 1;
	case X86_WAIT_SIPI: return !!(events & CPU_EVENT_SIPI);
	case X86_HALTED:
		return ((events & CPU_EVENT_INTR) && (cpu->s.rflags & X86_IF)) ||
		       ((events & CPU_EVENT_NMI) && !cpu->s.nmi_masked);
	default: return 0;
	}
}
