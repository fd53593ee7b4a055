/* cache.c: the decode cache, and what keeps it equal to memory.
 *
 * Each vCPU has a cache of its own: basic blocks of decoded instructions, keyed by guest-physical
 * address and mode (block.c keeps them). A block never leaves its page. Blocks are found by linear
 * address in a direct-mapped table (the "jump cache") whose key holds the address space, the mode,
 * the privilege and a generation: changing any of them makes all entries miss. What another takes
 * the place of is kept in a second, smaller table. Within a page blocks are linked to each other
 * directly; that is safe because a page's blocks are always dropped together and a change of
 * translations ends the block that makes it.
 *
 * Code that changes. One byte per guest page says whether some cache holds instructions of it
 * (SOFT_PAGE_CODE), one bit per 64 bytes says which. A store first writes, then looks at the byte;
 * when it is set and the bits agree, the page's blocks are dropped: at once in the own cache,
 * and in the others' through a list and CPU_EVENT_ENGINE, which is raised before the storing vCPU
 * does anything else, so that whoever learns of the store through memory finds the event at its
 * next block boundary. Code that is changed by another CPU is only sure to be seen after a
 * serialising instruction or a branch (SDM3 9.1.3), and both end blocks.
 *
 * The decoder copies bytes, decodes, sets the byte and the bits, and then compares the copy with
 * memory. A store that came before the byte was visible is found by the comparison; one that comes
 * later finds the byte. Between a store and its load of the byte, or the set and the comparison,
 * the CPUs may reorder: setting a bit anew is followed by an expedited membarrier, which runs a
 * barrier on every thread of the process, so that stores need none. Clearing happens under
 * code_lock after the lists were filled, and setting under it as well, so a byte is never cleared
 * under a block that nobody will drop.
 *
 * The others that are told are those whose caches got code of that page since it was last dropped
 * (ram.coders): a vCPU that halts would else find every page on its list that the rest have run
 * code of, more of them than the list has room for, and drop all it has.
 *
 * The block under execution may be dropped by a store of its own: its remaining instructions then
 * become "stop", which looks the next one up anew. Memory of dropped blocks stays as it is until
 * another block is made, and that happens only between blocks.
 *
 * An instruction that lies across two pages is kept aside with its bytes and compared with memory
 * at every execution; so is what is fetched from a device.
 */
#include <errno.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "engine/soft/core.h"
#include "engine/soft/direct.h"
#include "engine/soft/sys.h"
#include "engine/soft/trans.h"
#include "engine/soft/vector.h"

/* In a key of the jump cache, above the address space and the mode. */
#define KEY_USER BIT64(20)
#define KEY_GEN	 24

int soft_cache_init(struct soft_cpu *cpu)
{
	struct soft_cache *c =
	    mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth width;
	} modes[5] = {
	    {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
	    {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
	    {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
	    {ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16},
	    {ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32},
	};

	if (c == MAP_FAILED)
		return -ENOMEM;
	cpu->cache = c;
	if (soft_blocks_init(cpu)) {
		munmap(c, sizeof(*c));
		cpu->cache = NULL;
		return -ENOMEM;
	}
	_Bool amd = __builtin_cpu_is("amd");
	for (unsigned i = 0; i < 5; i++) {
		ZydisDecoderInit(&c->decoder[i], modes[i].mode, modes[i].width);
		/* What is not offered to the guest decodes as the NOP it is without it. */
		ZydisDecoderEnableMode(&c->decoder[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(&c->decoder[i], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(&c->decoder[i], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
		ZydisDecoderEnableMode(&c->decoder[i], ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
		ZydisDecoderEnableMode(&c->decoder[i], ZYDIS_DECODER_MODE_AMD_BRANCHES,
				       amd ? ZYAN_TRUE : ZYAN_FALSE);
	}
	c->jump_gen = 1;
	return 0;
}

void soft_cache_fini(struct soft_cpu *cpu)
{
	if (!cpu->cache)
		return;
	soft_blocks_fini(cpu);
	munmap(cpu->cache, sizeof(*cpu->cache));
	cpu->cache = NULL;
}

void soft_cache_rekey(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;
	uint64_t was = c->jump_key;

	c->jump_key = cpu->asid_code | (uint64_t)cpu->mode << 12 | (cpu->cpl == 3 ? KEY_USER : 0) |
		      c->jump_gen << KEY_GEN;
	cpu->jump_key = c->jump_key;
	/* What host code has on its stack belongs to the old key. */
	if (c->jump_key != was)
		cpu->code_stop |= STOP_KEY;
	soft_stack_forget(cpu);
}

void soft_cache_forget(struct soft_cpu *cpu)
{
	cpu->cache->jump_gen++;
	memset(cpu->cache->jump_pages, 0, sizeof(cpu->cache->jump_pages));
	memset(cpu->cache->jump_spaces, 0, sizeof(cpu->cache->jump_spaces));
	cpu->cache->jump_paid = cpu->stats.lookups;
	soft_cache_rekey(cpu);
}

static void jumps_forget_free(struct soft_jump *j, unsigned count, const uint8_t *cold)
{
	/* Blocks that have host code do not go: theirs need not be looked at. */
	for (; count; j++, count--)
		if (j->block && (!cold || j->code == cold) && (j->block->flags & BLOCK_FREE)) {
			j->block = NULL;
			j->key = 0;
		}
}

void soft_cache_forget_free(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;
	const uint8_t *cold = cpu->trans ? trans_cold(cpu->trans) : NULL;

	jumps_forget_free(c->jump, SOFT_JUMP_SIZE, cold);
	jumps_forget_free(c->more, SOFT_JUMP_MORE, cold);
}

/* The second place to look for what belongs at j. */
static struct soft_jump *jump_more(struct soft_cache *c, const struct soft_jump *j)
{
	return &c->more[(size_t)(j - c->jump) % SOFT_JUMP_MORE];
}

static _Bool jump_valid(const struct soft_cache *c, const struct soft_jump *j)
{
	return j->code && j->key >> KEY_GEN == c->jump_gen;
}

/* Another comes to j's place: what is there goes to the second one if that is worth it. A kernel's
 * hot code is more than finds places of its own; user code of another address space may be that of
 * a process that has ended. */
static void jump_displace(struct soft_cache *c, const struct soft_jump *j)
{
	struct soft_jump *m = jump_more(c, j);
	_Bool kernel = !(j->key & KEY_USER);

	if (jump_valid(c, j) &&
	    (kernel || j->key == c->jump_key || !jump_valid(c, m) || m->key & KEY_USER))
		*m = *j;
}

/* Where a page's bit is in jump_pages; with its address space, in jump_spaces, which is so much
 * larger because spaces come and go: a page of another one that has the same bit makes a fault
 * forget everything. */
static uint64_t *jump_page(struct soft_cache *c, uint64_t lin, uint64_t *bit)
{
	uint64_t h = ((lin >> 12) * UINT64_C(0x9e3779b97f4a7c15)) >> 48;

	*bit = BIT64(h % 64);
	return &c->jump_pages[h / 64];
}

static uint64_t *jump_space(struct soft_cache *c, uint64_t lin, unsigned asid, uint64_t *bit)
{
	uint64_t page = lin >> 12 ^ (uint64_t)asid << 52;
	/* The upper bits are those that all of the page's and the id's have to do with. */
	uint64_t h = (page * UINT64_C(0x9e3779b97f4a7c15)) >> 45;

	*bit = BIT64(h % 64);
	return &c->jump_spaces[h / 64];
}

/* Entries of a page, of all address spaces or of these two. A page's places are side by side. */
static void jumps_forget_page(struct soft_jump *first, uint64_t lin, _Bool all, uint64_t a,
			      uint64_t b)
{
	for (struct soft_jump *j = first; j < first + GMEM_PAGE_SIZE; j++) {
		uint64_t space = j->key & 0xfff;
		if ((j->lin ^ lin) >> 12 || !(all || space == a || space == b))
			continue;
		j->block = NULL;
		j->key = 0;
	}
}

/*
 * Looks for all that a page may have instead of forgetting everything: what the kernel runs takes
 * thousands of lookups to come back. To look takes as long as JUMP_SWEEP lookups or less, and is
 * done when there were so many since the last time: so it never costs more than they do, however
 * often it is in vain as the filters are full of pages that are no more, and what has hardly
 * anything to lose loses it.
 */
#define JUMP_SWEEP 256u
static void page_forget(struct soft_cpu *cpu, uint64_t lin, _Bool all)
{
	struct soft_cache *c = cpu->cache;
	struct soft_jump *first = soft_cache_jump(c, lin & ~UINT64_C(0xfff));
	size_t from = (size_t)(first - c->jump) & ~(GMEM_PAGE_SIZE - 1);
	uint64_t user = cpu->asid_user, kernel = cpu->asid_kernel;

	_Static_assert(!(SOFT_JUMP_SIZE % GMEM_PAGE_SIZE || SOFT_JUMP_MORE % GMEM_PAGE_SIZE),
		       "a page's places are a part of the table");
	if (cpu->stats.lookups - c->jump_paid < JUMP_SWEEP) {
		soft_cache_forget(cpu);
		return;
	}
	c->jump_paid += JUMP_SWEEP;
	jumps_forget_page(c->jump + from, lin, all, user, kernel);
	jumps_forget_page(c->more + from % SOFT_JUMP_MORE, lin, all, user, kernel);
	cpu->code_stop |= STOP_KEY; /* host code's frames may lead there */
}

/* Most pages whose translation changes hold no code, or none that was run since. */
void soft_cache_forget_page(struct soft_cpu *cpu, uint64_t lin)
{
	uint64_t bit;
	const uint64_t *page = jump_page(cpu->cache, lin, &bit);

	if (*page & bit)
		page_forget(cpu, lin, 1);
}

void soft_cache_forget_here(struct soft_cpu *cpu, uint64_t lin)
{
	uint64_t user_bit, kernel_bit;
	const uint64_t *user = jump_space(cpu->cache, lin, cpu->asid_user, &user_bit);
	const uint64_t *kernel = jump_space(cpu->cache, lin, cpu->asid_kernel, &kernel_bit);

	if (*user & user_bit || *kernel & kernel_bit)
		page_forget(cpu, lin, 0);
}

void soft_cache_flush(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;

	soft_blocks_empty(c);
	for (unsigned i = 0; i < SOFT_CROSS_SIZE; i++)
		c->cross[i].block = NULL;
	c->emptied++;
	c->current = NULL;
	vec_flush(cpu);
	trans_empty(cpu);
	soft_cache_forget(cpu);
}

void soft_barrier(struct soft_engine *engine)
{
	if (engine->cpus > 1 && engine->membarrier)
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	else
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static uint64_t chunk_bits(uint64_t off, unsigned len)
{
	unsigned first = (unsigned)(off & 0xfff) >> 6;
	unsigned last = (unsigned)MIN((off & 0xfff) + len - 1, 0xfff) >> 6;

	return (last - first == 63 ? UINT64_MAX : (BIT64(last - first + 1) - 1)) << first;
}

/* A vCPU's bit in ram.coders; the ninth shares the first one's. */
static uint8_t coder_bit(unsigned index)
{
	return (uint8_t)(1u << index % 8);
}

void soft_code_changed(struct soft_engine *engine, struct soft_cpu *self, uint8_t *flags,
		       uint64_t phys, unsigned len)
{
	_Atomic uint64_t *chunks = &engine->ram.chunks[flags - engine->ram.flags];

	if (!(atomic_load_explicit(chunks, memory_order_relaxed) & chunk_bits(phys, len)))
		return;
	phys &= ~UINT64_C(0xfff);
	lock_take(&engine->code_lock);
	uint8_t *coders = &engine->ram.coders[flags - engine->ram.flags];
	for (unsigned i = 0; i < engine->cpus; i++) {
		struct soft_cpu *cpu = engine->cpu[i];
		if (!cpu || cpu == self || !(*coders & coder_bit(i)))
			continue;
		struct soft_cache *c = cpu->cache;
		if (c->pending_count < SOFT_PENDING_MAX)
			c->pending[c->pending_count++] = phys;
		else
			c->pending_all = 1;
		cpu_link_raise(&cpu->base.link, CPU_EVENT_ENGINE);
	}
	*coders = 0;
	atomic_store_explicit(chunks, 0, memory_order_relaxed);
	__atomic_and_fetch(flags, (uint8_t)~SOFT_PAGE_CODE, __ATOMIC_ACQ_REL);
	lock_drop(&engine->code_lock);
	if (self)
		soft_cache_drop(self, phys);
}

void soft_tlb_shootdown(struct soft_engine *engine)
{
	lock_take(&engine->code_lock);
	for (unsigned i = 0; i < engine->cpus; i++) {
		struct soft_cpu *cpu = engine->cpu[i];
		if (!cpu)
			continue;
		cpu->cache->pending_tlb = 1;
		cpu_link_raise(&cpu->base.link, CPU_EVENT_ENGINE);
	}
	lock_drop(&engine->code_lock);
}

void soft_cache_take_pending(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;
	uint64_t list[SOFT_PENDING_MAX];
	unsigned count;
	_Bool all, tlb;

	lock_take(&cpu->engine->code_lock);
	cpu_link_clear(&cpu->base.link, CPU_EVENT_ENGINE);
	count = c->pending_count;
	all = c->pending_all;
	memcpy(list, c->pending, count * sizeof(list[0]));
	c->pending_count = 0;
	c->pending_all = 0;
	tlb = c->pending_tlb;
	c->pending_tlb = 0;
	lock_drop(&cpu->engine->code_lock);
	if (cpu->direct)
		direct_take_revoked(cpu);
	if (tlb)
		soft_tlb_flush_all(cpu);
	if (all)
		soft_cache_flush(cpu);
	for (unsigned i = 0; i < count; i++)
		soft_cache_drop(cpu, list[i]);
}

/* Says that [phys, phys+len) is being cached. Memory may have changed unseen until here: the caller
 * compares what it has copied. */
static void code_mark(struct soft_cpu *cpu, uint8_t *flags, uint64_t phys, unsigned len)
{
	struct soft_engine *engine = cpu->engine;
	_Atomic uint64_t *chunks = &engine->ram.chunks[flags - engine->ram.flags];
	uint64_t bits = chunk_bits(phys, len);

	lock_take(&engine->code_lock);
	_Bool fresh = (atomic_load_explicit(chunks, memory_order_relaxed) & bits) != bits;
	atomic_fetch_or_explicit(chunks, bits, memory_order_relaxed);
	__atomic_or_fetch(flags, SOFT_PAGE_CODE, __ATOMIC_ACQ_REL);
	/* Under the lock: who finds the bits set may rely on the barrier having been made. */
	if (fresh)
		soft_barrier(engine);
	engine->ram.coders[flags - engine->ram.flags] |= coder_bit(cpu->base.index);
	uint8_t *direct = &engine->ram.direct[flags - engine->ram.flags];
	_Bool writable = *direct;
	*direct = 0;
	lock_drop(&engine->code_lock);
	if (UNLIKELY(writable))
		direct_revoke(engine, cpu, phys & ~UINT64_C(0xfff));
}

#define MAKE_TRIES 8

static struct soft_block *block_make(struct soft_cpu *cpu, const struct soft_itlb_entry *page,
				     uint64_t phys)
{
	struct soft_cache *c = cpu->cache;
	unsigned off = (unsigned)phys & 0xfff, used = 0;
	unsigned avail = MIN((unsigned)GMEM_PAGE_SIZE - off, SOFT_BLOCK_MAX * 15u);
	uint8_t copy[SOFT_BLOCK_MAX * 15];
	struct soft_decoded *d;

	if (UNLIKELY(!soft_blocks_room(c)))
		soft_cache_flush(cpu);
	for (unsigned tries = 0;; tries++) {
		/* Another CPU writes here all the time: then it is not worth keeping. */
		if (tries == MAKE_TRIES)
			return NULL;
		memcpy(copy, page->host + off, avail);
		d = soft_pool_decode(cpu, copy, avail, &used);
		if (!d->count)
			return NULL;
		code_mark(cpu, page->flags, phys, used);
		if (!memcmp(copy, page->host + off, used))
			break;
	}
	struct soft_block *b = soft_block_new(c);
	*b = (struct soft_block){
	    .phys = phys,
	    .insn = d->insn,
	    .mode = (uint8_t)cpu->mode,
	    .count = (uint8_t)d->count,
	    .bytes = (uint16_t)used,
	    .flags = d->insn[d->count - 1].flags & (INSN_BRANCH | INSN_END | INSN_STATE),
	};
	soft_pool_keep(c, d, soft_block_number(c, b));
	soft_block_add(c, b);
	cpu->stats.blocks++;
	return b;
}

/* Reads code byte by byte as fetches do: from both pages, from devices. True: all is in RAM. */
static _Bool fetch_bytes(struct soft_cpu *cpu, uint64_t lin, uint8_t *buf, unsigned len)
{
	_Bool ram = 1;

	for (unsigned at = 0; at < len;) {
		uint64_t addr = soft_is64(cpu) ? lin + at : (uint32_t)(lin + at);
		const struct soft_itlb_entry *e = soft_mmu_fetch(cpu, addr);
		unsigned n = MIN(len - at, (unsigned)(GMEM_PAGE_SIZE - (addr & 0xfff)));
		if (e->host)
			memcpy(buf + at, e->host + (addr & 0xfff), n);
		else
			for (unsigned i = 0; i < n; i++)
				buf[at + i] = (uint8_t)exit_mmio_read(
				    &cpu->base, e->phys + (addr & 0xfff) + i, 1);
		ram &= e->host != NULL;
		at += n;
	}
	return ram;
}

/* The instruction at lin, which needs bytes of the next page, or is not in RAM. */
static struct soft_block *cross_lookup(struct soft_cpu *cpu, uint64_t lin)
{
	struct soft_cache *c = cpu->cache;
	struct soft_cross *x = &c->cross[(lin ^ lin >> 12) % SOFT_CROSS_SIZE];
	uint8_t bytes[16] = {0};
	unsigned first = MIN(15u, (unsigned)(GMEM_PAGE_SIZE - (lin & 0xfff))), have = first;
	struct insn insn;

	/* Before anything is found or decoded, which goes with all else: thunks, too. */
	if (UNLIKELY(!soft_blocks_room(c)))
		soft_cache_flush(cpu);
	struct soft_block *b = x->block;
	if (b && x->lin == lin && x->mode == cpu->mode) {
		_Bool ram = fetch_bytes(cpu, lin, bytes, b->bytes);
		/* Host code leaves for here when any is not in RAM. */
		if (!memcmp(bytes, x->bytes, b->bytes) && (ram || !b->code)) {
			if (b->code)
				soft_cache_cross_jump(cpu, b);
			return b;
		}
	}
	/* Byte by byte from the page's end on, as only bytes that are needed may fault. */
	fetch_bytes(cpu, lin, bytes, first);
	while (soft_decode(cpu, bytes, have, &insn)) {
		fetch_bytes(cpu, lin + have, bytes + have, 1);
		have++;
	}
	/* Host code of a block names it. */
	if (!b || b->code)
		b = soft_block_new(c);
	memcpy(x->bytes, bytes, sizeof(x->bytes));
	x->lin = lin;
	x->mode = cpu->mode;
	x->block = b;
	x->insn = insn;
	*b = (struct soft_block){
	    .phys = lin & 0xfff,
	    .insn = &x->insn,
	    .mode = (uint8_t)cpu->mode,
	    .bytes = insn.len,
	    .count = 1,
	    .flags = (insn.flags & (INSN_BRANCH | INSN_END)) | INSN_STATE | BLOCK_ALONE,
	};
	return b;
}

void soft_cache_cross_jump(struct soft_cpu *cpu, const struct soft_block *b)
{
	struct soft_jump *j = soft_cache_jump(cpu->cache, cpu->s.rip);

	if (j->lin != cpu->s.rip || j->key != cpu->cache->jump_key)
		jump_displace(cpu->cache, j);
	j->lin = cpu->s.rip;
	j->key = cpu->cache->jump_key;
	j->block = NULL;
	j->code = b->code;
}

struct soft_block *soft_cache_lookup(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;
	uint64_t lin =
	    soft_is64(cpu) ? cpu->s.rip : (uint32_t)(cpu->s.seg[X86_CS].base + cpu->s.rip);
	struct soft_jump *j = soft_cache_jump(c, lin);

	if (LIKELY(j->lin == lin && j->key == c->jump_key && j->block))
		return j->block;
	struct soft_jump *m = jump_more(c, j);
	if (m->lin == lin && m->key == c->jump_key && m->block) {
		struct soft_jump other = *j;
		*j = *m;
		*m = other;
		j->code = j->block->code ? j->block->code : trans_cold(cpu->trans);
		return j->block;
	}
	cpu->stats.lookups++;
	c->current = NULL;
	const struct soft_itlb_entry *page = soft_mmu_fetch(cpu, lin);
	uint64_t phys = page->phys | (lin & 0xfff);
	struct soft_block *b = NULL;
	if (page->host) {
		/* Another process may have run the same code at the same address. Before the
		 * last change of the generation its block may have gone. */
		b = j->lin == lin && jump_valid(c, j) ? j->block : NULL;
		if (!b || b->phys != phys || b->mode != cpu->mode ||
		    b->flags & (BLOCK_FREE | BLOCK_ALONE))
			b = soft_block_find(c, phys, cpu->mode);
		if (!b)
			b = block_make(cpu, page, phys);
	}
	if (!b)
		return cross_lookup(cpu, lin);
	uint64_t page_bit, space_bit;
	uint64_t *in_pages = jump_page(c, lin, &page_bit);
	uint64_t *in_spaces = jump_space(c, lin, cpu->asid_code, &space_bit);
	*in_pages |= page_bit;
	*in_spaces |= space_bit;
	if (j->lin != lin || j->key != c->jump_key)
		jump_displace(c, j);
	j->lin = lin;
	j->key = c->jump_key;
	j->block = b;
	j->code = b->code ? b->code : trans_cold(cpu->trans);
	return b;
}
