/* trans_run.c: runs translated code, decides what is translated, and links it.
 *
 * A chained branch stays within its page of memory: the blocks of a page are dropped together, by
 * the thread that runs them, between blocks or in a store of their own. Every block begins with a
 * look at link.events, so the protocol of cache.c holds as it does for the interpreter: who learns
 * of a change of code through memory finds the event before the next block.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>
#include "engine/soft/direct.h"
#include "engine/soft/trans.h"
#include "engine/soft/vector.h"

static void fini(struct soft_trans *t)
{
	if (t->rw != MAP_FAILED)
		munmap(t->rw, t->size);
	if (t->rx != MAP_FAILED)
		munmap(t->rx, t->size);
	free(t);
}

size_t trans_code_size(uint64_t ram, unsigned cpus)
{
	uint64_t share = ram / 4 / MAX(cpus, 1u);

	return ALIGN_UP(MIN(MAX((size_t)share, (size_t)TRANS_CODE_LEAST), (size_t)TRANS_CODE_MOST),
			(size_t)4096);
}

int trans_init(struct soft_cpu *cpu)
{
	struct soft_trans *t = calloc(1, sizeof(*t));
	int fd = memfd_create("polyvisor-code", MFD_CLOEXEC);

	if (!t || fd < 0) {
		free(t);
		if (fd >= 0)
			close(fd);
		return -ENOMEM;
	}
	t->rw = t->rx = MAP_FAILED;
	const struct engine_env *env = cpu->base.engine->env;
	t->size = trans_code_size(gmem_ram_bytes(env->mem), env->cpus);
	if (!ftruncate(fd, (off_t)t->size)) {
		t->rw = mmap(NULL, t->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		t->rx = mmap(NULL, t->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	close(fd);
	if (t->rw == MAP_FAILED || t->rx == MAP_FAILED) {
		fini(t);
		return -ENOMEM;
	}
	struct emit e = {.at = t->rw, .end = t->rw + t->size};
	t->avx = cpuid_has(cpu->base.engine->env->cpuid, 1, 0, CPUID_ECX, 28);
	t->avx512 = cpuid_has(cpu->base.engine->env->cpuid, 7, 0, CPUID_EBX, 16);
	trans_stubs(cpu, t, &e);
	t->fixed = t->used = (size_t)(e.at - t->rw);
	t->hot =
	    cpu->engine->base.cfg.translate_at ? cpu->engine->base.cfg.translate_at : TRANS_HOT;
	cpu->trans = t;
	cpu->near_left = TRANS_NEAR_FILLS;
	cpu->near_ticks = TRANS_NEAR_TICKS;
	cpu->direct_at = UINT64_MAX;
	trans_trace_init(cpu);
	cpu->jump_table = cpu->cache->jump;
	return 0;
}

void trans_fini(struct soft_cpu *cpu)
{
	if (cpu->trans)
		fini(cpu->trans);
	cpu->trans = NULL;
}

void trans_empty(struct soft_cpu *cpu)
{
	if (!cpu->trans)
		return;
	cpu->trans->used = cpu->trans->fixed;
	cpu->stats.emptied++;
}

const uint8_t *trans_cold(const struct soft_trans *t)
{
	return t ? t->rx + t->cold : NULL;
}

const uint8_t *trans_code(struct soft_cpu *cpu, struct soft_block *b)
{
	if (LIKELY(b->code != NULL) || ++b->heat < cpu->trans->hot)
		return b->code;
	b->heat = 0;
	b->apart = 0;
	b->code = trans_block(cpu, b);
	if (b->code) {
		cpu->stats.translated++;
		if (b->flags & BLOCK_ALONE) {
			soft_cache_cross_jump(cpu, b);
			return b->code;
		}
		struct soft_jump *j = soft_cache_jump(cpu->cache, cpu->s.rip);
		if (j->block == b)
			j->code = b->code;
	}
	return b->code;
}

void trans_link(struct soft_cpu *cpu, uint64_t site, const struct soft_block *to)
{
	const struct soft_trans *t = cpu->trans;
	uint32_t number = (uint32_t)(site >> (TRANS_LINK_PLACE + TRANS_LINK_AT));

	/* One in two pages looks for itself whether it is there. The page's translation may have
	 * changed meanwhile: then what is found there now may follow, but not for ever. */
	if (!(to->flags & BLOCK_ALONE) &&
	    (to->phys ^ soft_block_of(cpu->cache, number)->phys) >> 12)
		return;
	cpu->stats.linked++;
	emit_patch(t->rw + (uint32_t)site, t->rw + (to->code - t->rx));
}

_Bool trans_state(struct soft_cpu *cpu, const struct insn *insn)
{
	insn->fn(cpu, insn);
	_Bool key = !!(cpu->code_stop & STOP_KEY);
	/* The block ends here: nothing that was checked counts any more. */
	cpu->code_stop &= (uint8_t) ~(STOP_NEAR | STOP_KEY);
	if (!(insn->flags & INSN_BRANCH))
		cpu->s.rip = soft_next_rip(cpu, insn);
	if (UNLIKELY(cpu->slow || cpu->s.shadow_sti || cpu->s.shadow_ss || cpu->exc.valid ||
		     cpu->s.activity != X86_RUNNING || cpu->debug || cpu->lockstep ||
		     cpu->stepping || !trans_mode(cpu->mode) ||
		     (cpu->direct && direct_choose_state(cpu))))
		cpu->code_stop |= STOP_CODE;
	return key;
}

_Bool trans_room(struct soft_cpu *cpu)
{
	if (LIKELY(cpu->trans->size - cpu->trans->used >= (64u << 10)))
		return 0;
	soft_cache_flush(cpu);
	return 1;
}

enum trans_exit trans_enter(struct soft_cpu *cpu, const uint8_t *code)
{
	const struct soft_trans *t = cpu->trans;
	unsigned (*enter)(struct soft_cpu *, const uint8_t *) =
	    (unsigned (*)(struct soft_cpu *, const uint8_t *))(uintptr_t)(t->rx + t->enter);

	cpu->page = cpu->s.rip & ~UINT64_C(0xfff);
	cpu->trans_link = 0;
	cpu->code_stop = 0;
	cpu->cache->current = NULL;
	cpu->stats.entries++;
	enum trans_exit why = (enum trans_exit)enter(cpu, code + TRANS_POLL_BYTES);
	while (why == TRANS_NEAR) {
		code = trans_near_missed(cpu);
		if (!code)
			return TRANS_REFUSED;
		why = (enum trans_exit)enter(cpu, code + TRANS_POLL_BYTES);
	}
	/* What follows the last page. */
	if (UNLIKELY(!soft_is64(cpu)))
		cpu->s.rip = (uint32_t)cpu->s.rip;
	return why;
}

/* Is it time to ask for a helper again? */
static _Bool direct_due(const struct soft_cpu *cpu)
{
	return cpu->direct_at != UINT64_MAX && __rdtsc() >= cpu->direct_at;
}

void trans_run(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;
	struct soft_block *b = soft_cache_lookup(cpu);
	uint64_t site = 0;
	uint64_t emptied = c->emptied;

	if (cpu->direct)
		cpu->near_ticks = cpu->direct->refused ? TRANS_NEAR_TICKS : TRANS_NEAR_TICKS_DIRECT;
	for (;;) {
		if (UNLIKELY(trans_room(cpu)))
			b = soft_cache_lookup(cpu);
		const uint8_t *code = trans_code(cpu, b);
		if (site && code && c->emptied == emptied)
			trans_link(cpu, site, b);
		_Bool state;
		if (code) {
			unsigned why = trans_enter(cpu, code);
			state = why == TRANS_STATE;
			site = cpu->trans_link;
			/* At once: events must not keep the guest from getting on. */
			cpu->stats.left_state += state;
			cpu->stats.left_refused += why == TRANS_REFUSED;
			if (UNLIKELY(why == TRANS_REFUSED))
				state = soft_block_run(cpu, soft_cache_lookup(cpu));
		} else {
			cpu->stats.cold++;
			state = soft_block_run(cpu, b);
			site = 0;
		}
		if (state || direct_due(cpu) ||
		    UNLIKELY(atomic_load_explicit(&cpu->base.link.events, memory_order_relaxed)))
			return;
		emptied = c->emptied;
		b = soft_cache_lookup(cpu);
	}
}
