/* block.c: where blocks and their decoded instructions are kept.
 *
 * Most code runs a few times: of the 80,000 blocks of a boot a third is executed once, and what is
 * hot is translated, and then its decoded instructions are needed by faults, by misses and by the
 * interpreter only. So blocks and instructions are kept apart. A block is 64 bytes and has a
 * number, by which host code and other blocks name it. Its instructions are in the pool, which is
 * filled in turn, part by part: when a part comes to be filled anew, blocks that have host code
 * lose their instructions, and are decoded again when somebody wants them (soft_block_again);
 * others go altogether. The pool holds what was decoded last, whatever that is for. It is small
 * until what went comes back: when most of what was decoded in a turn had gone not long before, it
 * gets a quarter more. So a kernel that has booted, or a loop through more code than fits however
 * large the pool is, has a small one, and programs that are started again and again, each part of
 * which runs too seldom to be translated, a larger one.
 *
 * Decoding again must give the same instructions: host code goes on after the one that somebody
 * wanted, and counts on what each of its own changes (trans_near.c). Code that changes is dropped
 * (cache.c), but another CPU may be changing it now, and its event be on the way. So the bytes that
 * a block was translated from are kept right before its host code, and compared: when they are not
 * the same, the page is dropped at once. And what is translated is only what still decodes to the
 * block's instructions (soft_block_same).
 *
 * A part is emptied only where something is decoded: between blocks; and by host code that has to
 * call a handler, whose block stays since it has host code.
 */
#include <errno.h>
#include <sys/mman.h>
#include "engine/soft/core.h"
#include "engine/soft/sys.h"

/* So many are left when soft_blocks_room says so. */
#define SPARE 8u
#define MOST  (sizeof(struct soft_decoded) + SOFT_BLOCK_MAX * sizeof(struct insn))

static void *memory_take(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static size_t pool_bytes(const struct soft_cache *c)
{
	return c->part_bytes * c->parts_most;
}

int soft_blocks_init(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;
	_Bool translates = cpu->engine->base.cfg.soft >= SOFT_TRANSLATE;

	c->part_bytes = (translates ? SOFT_POOL_BYTES : SOFT_POOL_INTERP) / SOFT_POOL_PARTS;
	c->parts = SOFT_POOL_PARTS;
	c->parts_most = translates ? SOFT_PARTS_MOST : SOFT_POOL_PARTS;
	c->blocks = memory_take(SOFT_BLOCKS * sizeof(struct soft_block));
	c->hash = memory_take(SOFT_BLOCKS * sizeof(*c->hash));
	c->pool = memory_take(pool_bytes(c));
	if (!c->blocks || !c->hash || !c->pool) {
		soft_blocks_fini(cpu);
		return -ENOMEM;
	}
	soft_blocks_empty(c);
	return 0;
}

void soft_blocks_fini(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;

	if (c->blocks)
		munmap(c->blocks, SOFT_BLOCKS * sizeof(struct soft_block));
	if (c->hash)
		munmap(c->hash, SOFT_BLOCKS * sizeof(*c->hash));
	if (c->pool)
		munmap(c->pool, pool_bytes(c));
}

void soft_blocks_empty(struct soft_cache *c)
{
	memset(c->hash, 0, sizeof(*c->hash) << c->hash_bits);
	c->hash_bits = (unsigned)__builtin_ctz(SOFT_BLOCK_HASH);
	memset(c->pages, 0, sizeof(c->pages));
	memset(c->part_used, 0, sizeof(c->part_used));
	memset(c->ghosts, 0, sizeof(c->ghosts));
	c->blocks_used = c->pages_used = 1;
	c->blocks_free = 0;
	c->part = 0;
	c->part_next = 1;
	c->parts_due = c->decoded = c->returned = 0;
}

_Bool soft_blocks_room(const struct soft_cache *c)
{
	return c->blocks_used < SOFT_BLOCKS - SPARE && c->pages_used < SOFT_CODE_PAGES - SPARE;
}

size_t soft_blocks_bytes(const struct soft_cache *c)
{
	size_t bytes = c->blocks_used * sizeof(struct soft_block);

	for (unsigned i = 0; i < c->parts; i++)
		bytes += c->part_used[i];
	return bytes;
}

/* Blocks by address, and by page */

static uint64_t hash_bits(uint64_t phys, uint32_t mode, unsigned bits)
{
	return ((phys ^ (uint64_t)mode << 50) * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - bits);
}

static uint32_t *hash_of(struct soft_cache *c, uint64_t phys, uint32_t mode)
{
	return &c->hash[hash_bits(phys, mode, c->hash_bits)];
}

static uint32_t *page_hash_of(struct soft_cache *c, uint64_t phys)
{
	return &c->pages[(((phys >> 12) * UINT64_C(0x9e3779b97f4a7c15)) >> 51) % SOFT_PAGE_HASH];
}

static struct soft_code_page *page_find(struct soft_cache *c, uint64_t phys)
{
	uint32_t n = *page_hash_of(c, phys);

	while (n && c->page[n].phys != phys)
		n = c->page[n].next;
	return n ? &c->page[n] : NULL;
}

struct soft_block *soft_block_find(struct soft_cache *c, uint64_t phys, uint32_t mode)
{
	uint32_t n = *hash_of(c, phys, mode);

	while (n) {
		struct soft_block *b = soft_block_of(c, n);

		if (b->phys == phys && b->mode == mode)
			return b;
		n = b->hash_next;
	}
	return NULL;
}

/* A bucket for each block there may be: with 65,536 for twice as many, and each a cache miss, to
 * find one was a twelfth of what installing packages took. */
static void hash_widen(struct soft_cache *c)
{
	memset(c->hash, 0, sizeof(*c->hash) << c->hash_bits);
	c->hash_bits = (unsigned)__builtin_ctz(SOFT_BLOCKS);
	for (uint32_t p = 1; p < c->pages_used; p++)
		for (uint32_t n = c->page[p].blocks; n;) {
			struct soft_block *b = soft_block_of(c, n);
			uint32_t *head = hash_of(c, b->phys, b->mode);

			b->hash_next = *head;
			*head = n;
			n = b->page_next;
		}
}

struct soft_block *soft_block_new(struct soft_cache *c)
{
	uint32_t n = c->blocks_free;

	if (n) {
		c->blocks_free = soft_block_of(c, n)->hash_next;
	} else {
		assert(c->blocks_used < SOFT_BLOCKS);
		n = c->blocks_used++;
		if (UNLIKELY(n == SOFT_BLOCK_HASH))
			hash_widen(c);
	}
	return soft_block_of(c, n);
}

void soft_block_add(struct soft_cache *c, struct soft_block *b)
{
	uint64_t phys = b->phys & ~UINT64_C(0xfff);
	struct soft_code_page *p = page_find(c, phys);
	uint32_t *head = hash_of(c, b->phys, b->mode), n = soft_block_number(c, b);

	b->hash_next = *head;
	*head = n;
	if (!p) {
		assert(c->pages_used < SOFT_CODE_PAGES);
		head = page_hash_of(c, phys);
		p = &c->page[c->pages_used];
		*p = (struct soft_code_page){.phys = phys, .next = *head};
		*head = c->pages_used++;
	}
	b->page_next = p->blocks;
	p->blocks = n;
}

static void hash_remove(struct soft_cache *c, const struct soft_block *b)
{
	uint32_t *at = hash_of(c, b->phys, b->mode), n = soft_block_number(c, b);

	while (*at && *at != n)
		at = &soft_block_of(c, *at)->hash_next;
	if (*at)
		*at = b->hash_next;
}

/* All but its place in the hash's list stays, for whoever is executing it. */
static void block_free(struct soft_cache *c, struct soft_block *b)
{
	b->flags |= INSN_STATE | BLOCK_FREE;
	b->hash_next = c->blocks_free;
	c->blocks_free = soft_block_number(c, b);
}

void soft_cache_drop(struct soft_cpu *cpu, uint64_t phys)
{
	struct soft_cache *c = cpu->cache;
	struct soft_code_page *page = page_find(c, phys);

	if (!page || !page->blocks)
		return;
	for (uint32_t n = page->blocks; n;) {
		struct soft_block *b = soft_block_of(c, n);

		n = b->page_next;
		hash_remove(c, b);
		b->link[0] = b->link[1] = 0;
		if (b == c->current)
			for (unsigned i = 0; i < b->count; i++)
				b->insn[i].fn = op_stop;
		block_free(c, b);
	}
	page->blocks = 0;
	cpu->code_stop |= STOP_CODE;
	cpu->stats.invalidations++;
	soft_cache_forget(cpu);
}

/* Nobody finds it any more, but by linear address. */
static void block_remove(struct soft_cache *c, struct soft_block *b)
{
	struct soft_code_page *page = page_find(c, b->phys & ~UINT64_C(0xfff));
	uint32_t *at = &page->blocks, n = soft_block_number(c, b);

	hash_remove(c, b);
	while (*at) {
		struct soft_block *other = soft_block_of(c, *at);

		for (unsigned k = 0; k < 2; k++)
			if (other->link[k] == n)
				other->link[k] = 0;
		if (*at == n)
			*at = b->page_next;
		else
			at = &other->page_next;
	}
	block_free(c, b);
}

/* The pool */

/* One block in so many stands for all: else those of two turns would fill the table. */
#define SAMPLE 32u

/* Where a block's bit is in the table of those that went; NULL: it is not among the samples. */
static uint64_t *ghost_of(struct soft_cache *c, unsigned turn, const struct soft_block *b,
			  uint64_t *bit)
{
	uint64_t h = hash_bits(b->phys, b->mode, 32), i = h / SAMPLE % SOFT_GHOSTS;

	*bit = BIT64(i % 64);
	return h % SAMPLE ? NULL : &c->ghosts[turn][i / 64];
}

/* A block was decoded that was not there, or was without its instructions. */
static void part_count(struct soft_cache *c, const struct soft_block *b)
{
	uint64_t bit;
	const uint64_t *now = ghost_of(c, 0, b, &bit), *before = ghost_of(c, 1, b, &bit);

	if (!now)
		return;
	c->decoded++;
	c->returned += b->code || (*now | *before) & bit;
}

static void part_empty(struct soft_cpu *cpu, unsigned part)
{
	struct soft_cache *c = cpu->cache;
	uint8_t *p = c->pool + part * c->part_bytes, *end = p + c->part_used[part];
	_Bool removed = 0;

	while (p < end) {
		const struct soft_decoded *d = (const void *)p;
		struct soft_block *b = soft_block_of(c, d->block);

		p += sizeof(*d) + d->count * sizeof(struct insn);
		if (b->insn != d->insn || (b->flags & BLOCK_FREE))
			continue;
		if (b->code) {
			b->insn = NULL;
		} else {
			uint64_t bit, *ghost = ghost_of(c, 0, b, &bit);

			block_remove(c, b);
			if (ghost)
				*ghost |= bit;
			removed = 1;
		}
	}
	c->part_used[part] = 0;
	if (!removed)
		return;
	c->emptied++;
	soft_cache_forget_free(cpu);
}

/* Once in a turn: does the pool get larger? */
static void pool_judge(struct soft_cache *c)
{
	if (2 * c->returned > c->decoded)
		c->parts_due = MIN(c->parts / 4, c->parts_most - c->parts);
	c->decoded = c->returned = 0;
	memcpy(c->ghosts[1], c->ghosts[0], sizeof(c->ghosts[0]));
	memset(c->ghosts[0], 0, sizeof(c->ghosts[0]));
}

/* The part to be filled next: one that is empty now. */
static void part_turn(struct soft_cpu *cpu)
{
	struct soft_cache *c = cpu->cache;

	if (c->parts_due) {
		c->parts_due--;
		c->part = c->parts++;
		return;
	}
	c->part = c->part_next;
	c->part_next = (c->part_next + 1) % c->parts;
	if (!c->part)
		pool_judge(c);
	part_empty(cpu, c->part);
}

/* Decodes a block at an offset in a page; 0 instructions when the first one crosses the page. The
 * instruction after STI ends it: nothing is looked at between the two, then interrupts are. */
static unsigned block_decode(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
			     struct insn *insn, unsigned *used)
{
	unsigned n = 0, at = 0;

	_Bool shadow = 0;

	while (n < SOFT_BLOCK_MAX && at < avail) {
		if (soft_decode(cpu, bytes + at, avail - at, &insn[n]))
			break;
		at += insn[n++].len;
		if (shadow) {
			insn[n - 2].fn = sys_insn_sti_within;
			insn[n - 2].flags &= (uint16_t) ~(INSN_END | INSN_STATE);
			break;
		}
		shadow = insn[n - 1].fn == sys_insn_sti;
		if ((insn[n - 1].flags & (INSN_BRANCH | INSN_END)) && !shadow)
			break;
	}
	*used = at;
	return n;
}

struct soft_decoded *soft_pool_decode(struct soft_cpu *cpu, const uint8_t *bytes, unsigned avail,
				      unsigned *used)
{
	struct soft_cache *c = cpu->cache;

	if (c->part_used[c->part] + MOST > c->part_bytes)
		part_turn(cpu);
	struct soft_decoded *d =
	    (void *)(c->pool + c->part * c->part_bytes + c->part_used[c->part]);
	d->count = block_decode(cpu, bytes, avail, d->insn, used);
	return d;
}

void soft_pool_keep(struct soft_cache *c, struct soft_decoded *d, uint32_t number)
{
	d->block = number;
	part_count(c, soft_block_of(c, number));
	c->part_used[c->part] += sizeof(*d) + d->count * sizeof(struct insn);
}

_Bool soft_block_again(struct soft_cpu *cpu, struct soft_block *b)
{
	const struct soft_slot *slot = soft_ram_slot(&cpu->engine->ram, b->phys);
	unsigned off = (unsigned)b->phys & 0xfff, used;
	unsigned avail = MIN((unsigned)GMEM_PAGE_SIZE - off, SOFT_BLOCK_MAX * 15u);
	uint8_t copy[SOFT_BLOCK_MAX * 15];

	assert(b->mode == cpu->mode && !(b->flags & BLOCK_ALONE));
	assert(slot);
	memcpy(copy, slot->host + (b->phys - slot->base), avail);
	struct soft_decoded *d = soft_pool_decode(cpu, copy, avail, &used);
	assert(b->code);
	/* As many instructions and bytes would not do: host code follows registers by its own. */
	if (d->count != b->count || used != b->bytes || memcmp(copy, b->code - used, used)) {
		soft_cache_drop(cpu, b->phys & ~UINT64_C(0xfff));
		return 0;
	}
	b->insn = d->insn;
	soft_pool_keep(cpu->cache, d, soft_block_number(cpu->cache, b));
	cpu->stats.decoded_again++;
	return 1;
}

_Bool soft_block_same(struct soft_cpu *cpu, const struct soft_block *b, const uint8_t *bytes,
		      unsigned avail)
{
	struct insn insn[SOFT_BLOCK_MAX];
	unsigned used;

	return block_decode(cpu, bytes, avail, insn, &used) == b->count && used == b->bytes &&
	       !memcmp(insn, b->insn, b->count * sizeof(*insn));
}

struct soft_block *soft_block_ready(struct soft_cpu *cpu, struct soft_block *b)
{
	while (UNLIKELY(!b->insn) && !soft_block_again(cpu, b))
		b = soft_cache_lookup(cpu);
	return b;
}
