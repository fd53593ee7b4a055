/* lockstep.c: every block executed twice, by host code and by the interpreter, and compared.
 *
 * One CPU, one RAM, one TLB. A block's first pass is host code's: what it asks of the world (ports,
 * device memory, MSRs, the time, random numbers) is done and written down, and so is where it
 * stores. Then registers and memory become what they were, and the interpreter has its pass, with
 * its questions answered from the list. Registers, flags, exceptions, stores and questions must be
 * the same. What the interpreter left is what the guest goes on with. Interrupts come between
 * blocks, outside of both passes, so both always see the same input, however long anything takes.
 *
 * Stores are found by a page flag that is set for all of RAM (every store then tells of itself, as
 * one to code does), and undone from a copy of RAM, which follows as soon as both sides agree. Now
 * and then all of RAM is compared with the copy: a store that did not tell of itself is found by
 * that.
 *
 * Host code is kept to one block at a time by an event that is always pending: every way from block
 * to block looks at it, links included.
 *
 * What is not the instructions' doing is the same for both, or left out: accessed and dirty bits
 * are set by whoever misses the TLB first, and so by host code, and are not undone; memory may be
 * written by a device between the passes. When a block differs, both passes are therefore repeated
 * with the answers of the first; only what differs again is a difference.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "engine/soft/lockstep.h"
#include "engine/soft/lockstep_impl.h"
#include "engine/soft/trans.h"

#define CHECK_BLOCKS (UINT64_C(1) << 23) /* all of RAM is compared after so many blocks */
#define FOLLOW	     128u /* blocks that the interpreter may need for one of host code */

int lockstep_init(struct soft_cpu *cpu)
{
	struct soft_ram *ram = &cpu->engine->ram;
	struct soft_lockstep *ls =
	    mmap(NULL, sizeof(*ls), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (ls == MAP_FAILED)
		return -ENOMEM;
	ls->copy_bytes = ram->pages << 12;
	ls->copy = mmap(NULL, ls->copy_bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ls->copy == MAP_FAILED) {
		munmap(ls, sizeof(*ls));
		return -ENOMEM;
	}
	for (uint64_t i = 0; i < ram->pages; i++)
		__atomic_or_fetch(&ram->flags[i], SOFT_PAGE_LOCKSTEP, __ATOMIC_RELAXED);
	cpu->trans->hot = 1;
	cpu->lockstep = ls;
	return 0;
}

void lockstep_fini(struct soft_cpu *cpu)
{
	struct soft_lockstep *ls = cpu->lockstep;

	if (!ls)
		return;
	munmap(ls->copy, ls->copy_bytes);
	munmap(ls, sizeof(*ls));
	cpu->lockstep = NULL;
}

void lockstep_reset(struct soft_cpu *cpu)
{
	if (cpu->lockstep)
		cpu->lockstep->fresh = 0;
}

void lockstep_counts(const struct soft_cpu *cpu, uint64_t *blocks, uint64_t *repeated)
{
	*blocks = cpu->lockstep->blocks;
	*repeated = cpu->lockstep->repeated;
}

/* Memory */

uint8_t *lockstep_ram(struct soft_cpu *cpu, uint64_t at, uint64_t *phys)
{
	const struct soft_ram *ram = &cpu->engine->ram;

	for (unsigned i = 0; i < ram->slots; i++) {
		const struct soft_slot *slot = &ram->slot[i];
		uint64_t off = at - (slot->first_page << 12);
		if (off < slot->size) {
			*phys = slot->base + off;
			return slot->host + off;
		}
	}
	return NULL;
}

/* Of [from, from + len) of a slot: the parts that exist are copied, or compared. A range that
 * differs is given back; -1: none. */
static int64_t slot_each(struct soft_lockstep *ls, const struct soft_slot *slot, int fd, _Bool copy)
{
	uint64_t end = slot->fd_offset + slot->size;
	uint8_t *to = ls->copy + (slot->first_page << 12);

	for (off_t at = (off_t)slot->fd_offset; (uint64_t)at < end;) {
		off_t data = lseek(fd, at, SEEK_DATA);
		if (data < 0 || (uint64_t)data >= end)
			break;
		off_t hole = lseek(fd, data, SEEK_HOLE);
		uint64_t off = (uint64_t)data - slot->fd_offset;
		uint64_t n = MIN((uint64_t)hole, end) - (uint64_t)data;
		for (uint64_t k = 0; k < n; k += GMEM_PAGE_SIZE) {
			if (copy)
				memcpy(to + off + k, slot->host + off + k, GMEM_PAGE_SIZE);
			else if (memcmp(to + off + k, slot->host + off + k, GMEM_PAGE_SIZE))
				return (int64_t)((slot->first_page << 12) + off + k);
		}
		at = hole;
	}
	return -1;
}

static void copy_all(struct soft_cpu *cpu)
{
	struct soft_lockstep *ls = cpu->lockstep;
	const struct soft_ram *ram = &cpu->engine->ram;

	if (madvise(ls->copy, ls->copy_bytes, MADV_DONTNEED))
		memset(ls->copy, 0, ls->copy_bytes);
	for (unsigned i = 0; i < ram->slots; i++)
		(void)slot_each(ls, &ram->slot[i], ram->fd, 1);
	ls->fresh = 1;
	ls->site = 0;
}

/* A store of one side that did not tell of itself. */
static void check_all(struct soft_cpu *cpu)
{
	struct soft_lockstep *ls = cpu->lockstep;
	const struct soft_ram *ram = &cpu->engine->ram;

	for (unsigned i = 0; i < ram->slots; i++) {
		int64_t bad = slot_each(ls, &ram->slot[i], ram->fd, 0);
		uint64_t phys = 0;
		/* A device may be writing just now. */
		for (unsigned k = 0; bad >= 0 && k < 100; k++) {
			usleep(1000);
			bad = slot_each(ls, &ram->slot[i], ram->fd, 0);
		}
		if (bad < 0)
			continue;
		lockstep_ram(cpu, (uint64_t)bad, &phys);
		fprintf(stderr, "lock-step: memory at %llx was written unseen\n",
			(unsigned long long)phys);
		soft_fail(cpu, "lock-step: memory was written in a way that neither side told of");
	}
}

void lockstep_stored(struct soft_cpu *cpu, const uint8_t *flags, unsigned off, unsigned len)
{
	struct soft_lockstep *ls = cpu->lockstep;
	struct ls_log *log = ls->now;

	len = MIN(len, (unsigned)GMEM_PAGE_SIZE - off);
	if (ls->mode == LS_DIRECT) {
		lockstep_written(cpu, flags, off, len);
		return;
	}
	if (log->count == LS_RANGES || log->used + len > LS_BYTES) {
		log->full = 1;
		return;
	}
	log->range[log->count++] =
	    (struct ls_range){.at = ((uint64_t)(flags - cpu->engine->ram.flags) << 12) + off,
			      .len = len,
			      .data = log->used};
	log->used += len;
}

void lockstep_written(struct soft_cpu *cpu, const uint8_t *flags, unsigned off, unsigned len)
{
	uint64_t at = ((uint64_t)(flags - cpu->engine->ram.flags) << 12) + off, phys;
	const uint8_t *ram = lockstep_ram(cpu, at, &phys);

	if (ram && cpu->lockstep->fresh)
		memcpy(cpu->lockstep->copy + at, ram, len);
}

void lockstep_marked(struct soft_cpu *cpu, const uint8_t *flags, unsigned off, unsigned len,
		     uint64_t bits)
{
	uint64_t at = ((uint64_t)(flags - cpu->engine->ram.flags) << 12) + off;

	if (cpu->lockstep->fresh)
		for (unsigned k = 0; k < len; k++)
			cpu->lockstep->copy[at + k] |= (uint8_t)(bits >> 8 * k);
}

/* What was written is kept in the log and memory is as before. */
static void log_undo(struct soft_cpu *cpu, struct ls_log *log)
{
	uint64_t phys;

	for (unsigned i = 0; i < log->count; i++) {
		const struct ls_range *r = &log->range[i];
		memcpy(log->bytes + r->data, lockstep_ram(cpu, r->at, &phys), r->len);
	}
	for (unsigned i = 0; i < log->count; i++) {
		const struct ls_range *r = &log->range[i];
		uint8_t *flags = &cpu->engine->ram.flags[r->at >> 12];
		memcpy(lockstep_ram(cpu, r->at, &phys), cpu->lockstep->copy + r->at, r->len);
		/* Decoded from what was written. */
		if (UNLIKELY(*flags & SOFT_PAGE_CODE))
			soft_code_changed(cpu->engine, cpu, flags, phys, r->len);
	}
}

/* Is memory, after the interpreter's pass, as host code would have left it? */
static _Bool logs_equal(struct soft_cpu *cpu)
{
	struct soft_lockstep *ls = cpu->lockstep;
	const struct ls_log *host = &ls->log[0], *interp = &ls->log[1];
	_Bool equal = !host->full && !interp->full;
	uint64_t phys;

	for (unsigned i = 0; i < host->count && equal; i++) {
		const struct ls_range *r = &host->range[i];
		equal = !memcmp(host->bytes + r->data, lockstep_ram(cpu, r->at, &phys), r->len);
	}
	/* What only the interpreter wrote must not have changed anything. */
	for (unsigned i = 0; i < interp->count && equal; i++) {
		const struct ls_range *r = &interp->range[i];
		if (i < host->count && host->range[i].at == r->at && host->range[i].len == r->len)
			continue;
		const uint8_t *now = lockstep_ram(cpu, r->at, &phys);
		for (uint32_t k = 0; k < r->len && equal; k++) {
			_Bool both = 0;
			for (unsigned h = 0; h < host->count && !both; h++)
				both = r->at + k - host->range[h].at < host->range[h].len;
			equal = both || now[k] == ls->copy[r->at + k];
		}
	}
	return equal;
}

static void log_commit(struct soft_cpu *cpu, const struct ls_log *log)
{
	uint64_t phys;

	for (unsigned i = 0; i < log->count; i++) {
		const struct ls_range *r = &log->range[i];
		memcpy(cpu->lockstep->copy + r->at, lockstep_ram(cpu, r->at, &phys), r->len);
	}
}

/* The world */

_Bool lockstep_replay(struct soft_cpu *cpu, struct soft_io *io)
{
	struct soft_lockstep *ls = cpu->lockstep;
	const struct soft_io *was;

	if (ls->mode != LS_AGAIN)
		return 0;
	was = ls->io_at < ls->ios ? &ls->io[ls->io_at++] : NULL;
	if (!was || was->kind != io->kind || was->address != io->address || was->size != io->size) {
		ls->io_differs = 1;
		return 1;
	}
	switch (io->kind) {
	case SOFT_IO_PORT_WRITE:
	case SOFT_IO_MMIO_WRITE:
	case SOFT_IO_MSR_WRITE:
	case SOFT_IO_CR8_WRITE:
	case SOFT_IO_HYPERCALL: ls->io_differs |= was->value != io->value; break;
	default: break;
	}
	*io = *was;
	return 1;
}

void lockstep_record(struct soft_cpu *cpu, const struct soft_io *io)
{
	struct soft_lockstep *ls = cpu->lockstep;

	if (ls->mode != LS_HOST)
		return;
	if (ls->ios < LS_IOS)
		ls->io[ls->ios++] = *io;
	else
		ls->log[0].full = 1;
}

/* Registers */

_Bool ls_fpu_equal(const struct x86_fpu *a, const struct x86_fpu *b)
{
	/* The mask of MXCSR's bits is no state. */
	return !memcmp(a->vec, b->vec, sizeof(a->vec)) && !memcmp(a->k, b->k, sizeof(a->k)) &&
	       !memcmp(a->fx, b->fx, X86_FX_MASK) &&
	       !memcmp(a->fx + X86_FX_ST, b->fx + X86_FX_ST, 128);
}

static void state_take(struct soft_cpu *cpu, struct ls_state *s)
{
	cpu->s.rflags = soft_flags_get(cpu);
	memcpy(s->bytes, cpu, LS_STATE_BYTES);
	s->exc = cpu->exc;
	s->delivering = cpu->delivering;
	s->debug_hits = cpu->debug_hits;
}

static void state_put(struct soft_cpu *cpu, const struct ls_state *s, const struct x86_fpu *fpu)
{
	memcpy(cpu, s->bytes, LS_STATE_BYTES);
	if (!ls_fpu_equal(&cpu->s.fpu, fpu))
		cpu->s.fpu = *fpu;
	cpu->exc = s->exc;
	cpu->delivering = s->delivering;
	cpu->debug_hits = s->debug_hits;
	/* The TLB has gone on: what the first pass dropped must stay dropped, whatever ids were. */
	soft_mmu_control(cpu);
	soft_tlb_cr3(cpu, 1);
}

static _Bool event_equal(const struct soft_event *a, const struct soft_event *b)
{
	return a->valid == b->valid &&
	       (!a->valid || (a->vector == b->vector && a->kind == b->kind && a->rf == b->rf &&
			      a->has_error == b->has_error && a->dr6 == b->dr6 &&
			      (!a->has_error || a->error == b->error)));
}

/* To look the next instruction up anew is not another end: whether a store to the own code comes as
 * a block's last instruction is seen by one side before the block ends, by the other after it. */
static _Bool end_equal(enum soft_jmp a, enum soft_jmp b)
{
	return a == b ||
	       ((a == JMP_NONE || a == JMP_RESTART) && (b == JMP_NONE || b == JMP_RESTART));
}

/* After the interpreter's pass, against host code's. */
static _Bool states_equal(struct soft_cpu *cpu, const struct ls_end *end)
{
	const struct soft_lockstep *ls = cpu->lockstep;
	const size_t from = offsetof(struct soft_cpu, s);

	cpu->s.rflags = soft_flags_get(cpu);
	return end_equal(end->why, ls->host_end.why) &&
	       !memcmp((const uint8_t *)cpu + from, ls->host.bytes + from, LS_STATE_BYTES - from) &&
	       ls_fpu_equal(&cpu->s.fpu, &ls->fpu_host) && event_equal(&cpu->exc, &ls->host.exc) &&
	       event_equal(&cpu->delivering, &ls->host.delivering) &&
	       cpu->debug_hits == ls->host.debug_hits && !ls->io_differs && ls->io_at == ls->ios;
}

/* Passes */

/* Host code of the block at rip. It may leave within it, for example after it dropped code; the
 * interpreter may not, so what is left of the block is executed as well. True: a new look. */
static _Bool host_run(struct soft_cpu *cpu, const uint8_t *code)
{
	const struct ls_state *before = &cpu->lockstep->before;
	uint64_t start = ls_cpu(before)->s.rip;
	unsigned bytes = cpu->lockstep->block_bytes;

	for (unsigned pieces = 0;; pieces++) {
		enum trans_exit left = trans_enter(cpu, code);
		if (left == TRANS_REFUSED)
			return soft_block_run(cpu, soft_cache_lookup(cpu));
		if (left == TRANS_STATE)
			return 1;
		/* It may as well be a branch to there: then the interpreter follows. */
		if (cpu->s.rip - start - 1 >= bytes - 1 || pieces == SOFT_BLOCK_MAX)
			return 0;
		cpu->trans_link = 0;
		struct soft_block *b = soft_cache_lookup(cpu);
		code = trans_code(cpu, b);
		if (!code)
			return soft_block_run(cpu, b);
	}
}

/* The interpreter, where it was followed to: the next block, but not beyond where host code is. */
static _Bool follow_run(struct soft_cpu *cpu)
{
	struct soft_block *b = soft_cache_lookup(cpu);
	uint64_t left = ls_cpu(&cpu->lockstep->host)->s.rip - cpu->s.rip;

	return left && left < b->bytes ? soft_block_part(cpu, b, (unsigned)left)
				       : soft_block_run(cpu, b);
}

/* One pass: by host code, or the interpreter's when there is none; ends as the block does, or by a
 * jump. `follow`: not the interpreter's first. */
static struct ls_end pass(struct soft_cpu *cpu, const uint8_t *code, _Bool follow)
{
	struct ls_end end = {JMP_NONE, 1};
	jmp_buf outer;

	memcpy(&outer, &cpu->jmp, sizeof(outer));
	int why = _setjmp(cpu->jmp);
	if (why)
		end.why = (enum soft_jmp)why;
	else if (code)
		end.state = host_run(cpu, code);
	else
		end.state = follow ? follow_run(cpu) : soft_block_run(cpu, soft_cache_lookup(cpu));
	memcpy(&cpu->jmp, &outer, sizeof(outer));
	return end;
}

static void log_begin(struct soft_lockstep *ls, unsigned which, enum ls_mode mode)
{
	ls->now = &ls->log[which];
	ls->now->count = ls->now->used = 0;
	ls->now->full = 0;
	ls->mode = mode;
	ls->io_at = 0;
	ls->io_differs = 0;
	if (mode == LS_HOST)
		ls->ios = 0;
}

static void host_pass(struct soft_cpu *cpu, const uint8_t *code, enum ls_mode mode)
{
	struct soft_lockstep *ls = cpu->lockstep;

	log_begin(ls, 0, mode);
	ls->host_end = pass(cpu, code, 0);
	ls->site = ls->host_end.why ? 0 : cpu->trans_link;
	state_take(cpu, &ls->host);
	if (!ls_fpu_equal(&ls->fpu_host, &cpu->s.fpu))
		ls->fpu_host = cpu->s.fpu;
	log_undo(cpu, &ls->log[0]);
	state_put(cpu, &ls->before, &ls->fpu_before);
}

/* Host code may have gone through several blocks, or into the next one after it had left a full one
 * in the middle; or the interpreter through a part of one. */
static _Bool interp_pass(struct soft_cpu *cpu, struct ls_end *end)
{
	struct soft_lockstep *ls = cpu->lockstep;

	log_begin(ls, 1, LS_AGAIN);
	for (unsigned i = 0; i < FOLLOW; i++) {
		*end = pass(cpu, NULL, i > 0);
		if (LIKELY(states_equal(cpu, end) && logs_equal(cpu)))
			return 1;
		if (!i) {
			state_take(cpu, &ls->interp);
			ls->fpu_interp = cpu->s.fpu;
			ls->interp_end = *end;
			ls->interp_asked = !ls->io_differs && ls->io_at == ls->ios;
			ls->interp_stores = ls->log[1].count;
		}
		if (end->why != JMP_NONE && end->why != JMP_RESTART)
			return 0;
	}
	return 0;
}

static NORETURN void differ(struct soft_cpu *cpu)
{
	struct soft_lockstep *ls = cpu->lockstep;
	char text[128];

	snprintf(text, sizeof(text),
		 "lock-step: the translator and the interpreter differ in the block at %llx",
		 (unsigned long long)ls_cpu(&ls->before)->s.rip);
	log_undo(cpu, &ls->log[1]);
	state_put(cpu, &ls->before, &ls->fpu_before);
	ls->mode = LS_DIRECT;
	cpu_link_clear(&cpu->base.link, CPU_EVENT_ONE);
	lockstep_report(cpu);
	soft_fail(cpu, text);
}

static NORETURN void again(struct soft_cpu *cpu, enum soft_jmp why)
{
	_longjmp(cpu->jmp, why);
}

static void both(struct soft_cpu *cpu, const uint8_t *code)
{
	struct soft_lockstep *ls = cpu->lockstep;
	struct ls_end end;
	_Bool same;

	state_take(cpu, &ls->before);
	if (!ls_fpu_equal(&ls->fpu_before, &cpu->s.fpu))
		ls->fpu_before = cpu->s.fpu;
	atomic_fetch_or_explicit(&cpu->base.link.events, CPU_EVENT_ONE, memory_order_relaxed);
	host_pass(cpu, code, LS_HOST);
	same = interp_pass(cpu, &end);
	if (UNLIKELY(!same)) {
		log_undo(cpu, &ls->log[1]);
		state_put(cpu, &ls->before, &ls->fpu_before);
		/* Its block may have been dropped, or all code memory emptied. */
		code = trans_code(cpu, soft_cache_lookup(cpu));
		host_pass(cpu, code, LS_AGAIN);
		_Bool io = ls->io_differs || ls->io_at != ls->ios;
		if (io || !interp_pass(cpu, &end))
			differ(cpu);
		/* Bits that a walk would set may have been undone with a store. */
		soft_tlb_flush_all(cpu);
		ls->repeated++;
	}
	atomic_fetch_and_explicit(&cpu->base.link.events, ~(uint32_t)CPU_EVENT_ONE,
				  memory_order_relaxed);
	log_commit(cpu, &ls->log[0]);
	log_commit(cpu, &ls->log[1]);
	ls->mode = LS_DIRECT;
	ls->site_rip = cpu->s.rip;
	ls->site_emptied = cpu->cache->emptied;
	if (end.state)
		ls->site = 0;
	if (end.why)
		again(cpu, end.why);
}

void lockstep_stop_after(struct soft_cpu *cpu, unsigned blocks)
{
	cpu->lockstep->left = blocks;
}

void lockstep_run(struct soft_cpu *cpu)
{
	struct soft_lockstep *ls = cpu->lockstep;

	if (ls->left && !--ls->left)
		cpu_link_raise(&cpu->base.link, CPU_EVENT_KICK);

	if (UNLIKELY(!ls->fresh))
		copy_all(cpu);
	if (UNLIKELY(!(++ls->blocks % CHECK_BLOCKS)))
		check_all(cpu);
	struct soft_block *b = soft_cache_lookup(cpu);
	if (trans_room(cpu))
		b = soft_cache_lookup(cpu);
	const uint8_t *code = trans_code(cpu, b);
	if (ls->site && code && ls->site_rip == cpu->s.rip &&
	    ls->site_emptied == cpu->cache->emptied)
		trans_link(cpu, ls->site, b);
	ls->site = 0;
	ls->block_bytes = b->bytes;
	if (code)
		both(cpu, code);
	else
		soft_block_run(cpu, b);
}
