/* soft.c: the software engine behind the engine contract. */
#include <errno.h>
#include <inttypes.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>
#include "base/buf.h"
#include "engine/soft/core.h"
#include "engine/soft/direct.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/system.h"
#include "engine/soft/trans.h"
#include "engine/soft/vector.h"

static struct soft_engine *soft_of(struct engine *engine)
{
	return container_of(engine, struct soft_engine, base);
}

static void engine_probe(struct engine_probe *out)
{
	*out = (struct engine_probe){
	    .usable = 1,
	    .advisable = 1,
	    .why = "the software engine runs on any x86-64 host",
	};
}

static void engine_caps(struct cpuid_caps *caps)
{
	/* What is offered is this AND what the host has. */
	*caps = (struct cpuid_caps){
	    .avx = 1,
	    .avx2 = 1,
	    .fma = 1,
	    .avx512 = 1,
	    .avx512_on_request = 1, /* docs/decisions/0008 */
	    .pcid = 1,
	    .invpcid = 1,
	    .own_kernel = 1,
	    .smep = 1,
	    .smap = 1,
	    .umip = 1,
	    .fsgsbase = 1,
	    .tsc_deadline = 1,
	    .x2apic = 1,
	    .rdrand = 1,
	    .rdseed = 1,
	    .sha = 1,
	    .aes = 1,
	    .bmi = 1,
	    .adx = 1,
	    .mtrr = 1,
	    .mce = 1,
	    .vme = 1,
	    .invariant_tsc = 1,
	};
}

static int ram_init(struct soft_engine *e, struct error *err)
{
	struct soft_ram *ram = &e->ram;
	unsigned count;
	const struct gmem_slot *slots = gmem_slots(e->base.env->mem, &count);

	ram->slots = count;
	ram->fd = gmem_fd(e->base.env->mem);
	for (unsigned i = 0; i < count; i++) {
		ram->slot[i] = (struct soft_slot){
		    .base = slots[i].base,
		    .size = slots[i].size,
		    .host = slots[i].host,
		    .fd_offset = slots[i].fd_offset,
		    .first_page = ram->pages,
		    .readonly = !!(slots[i].flags & GMEM_READONLY),
		};
		ram->pages += slots[i].size >> 12;
	}
	/* Sparse: only the parts that speak of code are ever touched. */
	ram->flags = mmap(NULL, ram->pages + 1, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ram->chunks = mmap(NULL, (ram->pages + 1) * sizeof(uint64_t), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ram->direct = mmap(NULL, ram->pages + 1, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ram->coders = mmap(NULL, ram->pages + 1, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram->flags == MAP_FAILED || ram->chunks == MAP_FAILED || ram->direct == MAP_FAILED ||
	    ram->coders == MAP_FAILED)
		return error_set(err, -ENOMEM, "no memory for the software engine's page tables");
	return 0;
}

/* Somebody else than a vCPU wrote to memory. */
static void gmem_written(void *opaque, struct gpa addr, size_t len)
{
	struct soft_engine *e = opaque;
	uint64_t end = addr.v + len;

	for (uint64_t at = addr.v; at < end;) {
		uint64_t n = MIN(GMEM_PAGE_SIZE - (at & 0xfff), end - at);
		const struct soft_slot *slot = soft_ram_slot(&e->ram, at);
		if (slot) {
			uint8_t *flags = soft_ram_flags(&e->ram, slot, at);
			/* The bytes were written by copying; then the flag is looked at. */
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			if (__atomic_load_n(flags, __ATOMIC_RELAXED) & SOFT_PAGE_CODE)
				soft_code_changed(e, NULL, flags, at, (unsigned)n);
			if (e->cpu[0] && e->cpu[0]->lockstep)
				lockstep_written(e->cpu[0], flags, (unsigned)at & 0xfff,
						 (unsigned)n);
		}
		at += n;
	}
}

/* A slot became read-only or writable. What the TLBs hold is dropped at each vCPU's next block; a
 * write to what was read-only comes by here anyway, as no write tag was ever entered for it. */
static int gmem_protected(void *opaque, unsigned slot)
{
	struct soft_engine *e = opaque;
	unsigned count;
	const struct gmem_slot *slots = gmem_slots(e->base.env->mem, &count);

	__atomic_store_n(&e->ram.slot[slot].readonly,
			 !!(gmem_slot_flags(&slots[slot]) & GMEM_READONLY), __ATOMIC_RELEASE);
	soft_tlb_shootdown(e);
	direct_revoke(e, NULL, UINT64_MAX);
	return 0;
}

static void engine_destroy(struct engine *engine)
{
	struct soft_engine *e;

	if (!engine)
		return;
	e = soft_of(engine);
	gmem_set_listener(engine->env->mem, NULL, NULL);
	gmem_set_protector(engine->env->mem, NULL, NULL);
	if (e->ram.flags && e->ram.flags != MAP_FAILED)
		munmap(e->ram.flags, e->ram.pages + 1);
	if (e->ram.chunks && (void *)e->ram.chunks != MAP_FAILED)
		munmap(e->ram.chunks, (e->ram.pages + 1) * sizeof(uint64_t));
	if (e->ram.direct && e->ram.direct != MAP_FAILED)
		munmap(e->ram.direct, e->ram.pages + 1);
	if (e->ram.coders && e->ram.coders != MAP_FAILED)
		munmap(e->ram.coders, e->ram.pages + 1);
	lock_fini(&e->code_lock);
	free(e);
}

static int engine_create(struct engine **engine, const struct engine_env *env,
			 const struct engine_config *cfg, struct error *err)
{
	struct soft_engine *e = calloc(1, sizeof(*e));
	int rc;

	if (!e)
		return error_set(err, -ENOMEM, "no memory for the software engine");
	if (cfg->soft == SOFT_LOCKSTEP && env->cpus > 1) {
		free(e);
		return error_set(err, -EINVAL, "lock-step is for one CPU, not %u", env->cpus);
	}
	e->base.ops = &engine_soft;
	e->base.env = env;
	e->base.cfg = *cfg;
	lock_init(&e->code_lock, RANK_MEM);
	rc = ram_init(e, err);
	if (rc) {
		engine_destroy(&e->base);
		return rc;
	}
	e->cpus = env->cpus;
	e->membarrier = !syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	/* The counter starts at 0 with the VM's clock. */
	atomic_store(&e->tsc_offset, -__rdtsc());
	atomic_store(&e->tsc_stopped, clock_mode(env->clock) == CLOCK_STOPPED);
	gmem_set_listener(env->mem, gmem_written, e);
	gmem_set_protector(env->mem, gmem_protected, e);
	*engine = &e->base;
	return 0;
}

static void cpu_destroy(struct vcpu *vcpu)
{
	struct soft_cpu *cpu;

	if (!vcpu)
		return;
	cpu = soft_cpu_of(vcpu);
	cpu->engine->cpu[vcpu->index] = NULL;
	lockstep_fini(cpu);
	direct_fini(cpu);
	trans_fini(cpu);
	vec_fini(cpu);
	soft_cache_fini(cpu);
	soft_mmu_fini(cpu);
	free(cpu->debug);
	vcpu_fini(vcpu);
	free(cpu);
}

static int cpu_set_state(struct vcpu *vcpu, const struct x86_state *in)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);

	/* Host code would have the host's CPU load what the guest's does not have. */
	if (in->xcr0 & ~cpu->base.engine->env->cpuid->xcr0_allowed || !vec_state_ok(cpu, in))
		return -EINVAL;
	cpu->s = *in;
	cpu->af = soft_af_of(in->rflags);
	cpu->exc.valid = cpu->delivering.valid = 0;
	cpu->debug_hits = 0;
	cpu->rep_rip = UINT64_MAX;
	soft_tsc_set(cpu, in->tsc);
	soft_tlb_flush_all(cpu);
	soft_mode_update(cpu);
	lockstep_reset(cpu);
	return 0;
}

static int cpu_get_state(struct vcpu *vcpu, struct x86_state *out)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);

	*out = cpu->s;
	out->rflags = soft_flags_get(cpu);
	out->tsc = soft_tsc(cpu);
	if (cpu->exc.valid) {
		out->event_valid = 1;
		out->event_vector = cpu->exc.vector;
		out->event_kind = cpu->exc.kind;
		out->event_has_error = cpu->exc.has_error;
		out->event_error = cpu->exc.error;
		/* A debug exception's bits, as they are to be. That it is a fault (general detect)
		 * is not told: RF is then missing in its frame. */
		if (cpu->exc.kind == X86_EVENT_EXCEPTION && cpu->exc.vector == X86_VEC_DB)
			out->dr6 = (out->dr6 & ~UINT64_C(15)) | cpu->exc.dr6;
	}
	return 0;
}

static int cpu_create(struct engine *engine, unsigned index, struct vcpu **vcpu, struct error *err)
{
	struct soft_cpu *cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), 64));
	struct x86_state state;

	if (!cpu)
		return error_set(err, -ENOMEM, "no memory for CPU %u", index);
	memset(cpu, 0, sizeof(*cpu));
	vcpu_init(&cpu->base, engine, index);
	cpu->engine = soft_of(engine);
	if (soft_mmu_init(cpu) || soft_cache_init(cpu) || vec_init(cpu) ||
	    (engine->cfg.soft >= SOFT_TRANSLATE && trans_init(cpu)) ||
	    (engine->cfg.soft == SOFT_LOCKSTEP && lockstep_init(cpu)) ||
	    (engine->cfg.soft >= SOFT_DIRECT && direct_init(cpu))) {
		cpu_destroy(&cpu->base);
		return error_set(err, -ENOMEM, "no memory for CPU %u", index);
	}
	cpu->engine->cpu[index] = cpu;
	x86_state_reset(&state, index == 0);
	cpu_set_state(&cpu->base, &state);
	*vcpu = &cpu->base;
	return 0;
}

/* Translated code looks at link.events at every block: raising the event was all. User code on the
 * real CPU has to be told. */
static void cpu_kick(struct vcpu *vcpu)
{
	struct soft_cpu *cpu = soft_cpu_of(vcpu);

	if (cpu->direct)
		direct_kick(cpu);
}

static uint64_t tsc_read(void *opaque, unsigned cpu)
{
	struct soft_engine *e = opaque;

	return soft_tsc_base(e) + (e->cpu[cpu] ? e->cpu[cpu]->tsc_offset : 0);
}

static uint64_t tsc_to_ns(void *opaque, unsigned cpu, uint64_t tsc)
{
	struct soft_engine *e = opaque;
	uint64_t now_ns = clock_now_ns(e->base.env->clock);

	return tsc_due_ns(tsc, tsc_read(opaque, cpu), now_ns, soft_tsc_khz());
}

static void engine_tsc_source(struct engine *engine, struct tsc_source *out)
{
	*out = (struct tsc_source){tsc_read, tsc_to_ns, soft_of(engine)};
}

static void engine_time(struct engine *engine, _Bool running)
{
	soft_tsc_time(soft_of(engine), running);
}

/* Every page tells of its next write. */
static void log_arm(struct soft_engine *e)
{
	for (uint64_t i = 0; i < e->ram.pages; i++)
		__atomic_or_fetch(&e->ram.flags[i], SOFT_PAGE_LOG, __ATOMIC_RELAXED);
	soft_barrier(e);
	direct_revoke(e, NULL, UINT64_MAX);
}

static int engine_dirty_log(struct engine *engine, _Bool on)
{
	struct soft_engine *e = soft_of(engine);

	e->logging = on;
	if (on)
		log_arm(e);
	else
		for (uint64_t i = 0; i < e->ram.pages; i++)
			if (e->ram.flags[i] & SOFT_PAGE_LOG)
				__atomic_and_fetch(&e->ram.flags[i], (uint8_t)~SOFT_PAGE_LOG,
						   __ATOMIC_RELAXED);
	return 0;
}

static int engine_dirty_sync(struct engine *engine)
{
	struct soft_engine *e = soft_of(engine);

	/* Writes were marked as they happened; they must tell again. */
	if (e->logging)
		log_arm(e);
	return 0;
}

static void engine_stats(struct engine *engine, struct wbuf *out)
{
	struct soft_engine *e = soft_of(engine);

	for (unsigned c = 0; c < e->cpus; c++)
		if (e->cpu[c])
			soft_stats_write(e->cpu[c], out);
}

const struct engine_ops engine_soft = {
    .name = "soft",
    .probe = engine_probe,
    .create = engine_create,
    .destroy = engine_destroy,
    .caps = engine_caps,
    .vcpu_create = cpu_create,
    .vcpu_destroy = cpu_destroy,
    .run = soft_run,
    .runnable = soft_runnable,
    .kick = cpu_kick,
    .get_state = cpu_get_state,
    .set_state = cpu_set_state,
    .debug = soft_debug_set,
    .break_max = ENGINE_MAX_BREAKS,
    .tsc_source = engine_tsc_source,
    .tsc_khz = soft_tsc_khz,
    .time = engine_time,
    .dirty_log = engine_dirty_log,
    .dirty_sync = engine_dirty_sync,
    .stats = engine_stats,
};
