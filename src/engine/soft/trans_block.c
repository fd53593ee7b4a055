/* trans_block.c: host code of one block: instructions in order. */
#include <stdlib.h>
#include <string.h>
#include "engine/soft/trans_impl.h"

void tb_flags_save(struct tb *tb)
{
	if (tb->flags == FLAGS_DEAD)
		tb_loop_flags(tb);
	if (tb->flags != FLAGS_HOST)
		return;
	trans_flags_save(&tb->e);
	tb->flags = FLAGS_BOTH;
}

void tb_flags_host(struct tb *tb)
{
	if (tb->flags == FLAGS_DEAD)
		tb_loop_flags(tb);
	if (tb->flags != FLAGS_SAVED)
		return;
	trans_flags_load(&tb->e);
	tb->flags = FLAGS_BOTH;
}

struct late *tb_late(struct tb *tb, enum late_kind kind, uint8_t *place)
{
	assert(tb->lates < TB_LATES);
	struct late *l = &tb->late[tb->lates++];

	*l = (struct late){.kind = kind,
			   .place = place,
			   .insn = tb->insn,
			   .at = tb->at,
			   .next = tb->next,
			   .vec = tb->vec,
			   .x87 = tb->x87};
	return l;
}

void tb_stub_jmp(struct tb *tb, uint32_t stub)
{
	uint8_t *place = emit_jmp(&tb->e);

	if (!tb->e.full)
		emit_patch(place, tb->t->rw + stub);
}
void tb_stub_call(struct tb *tb, uint32_t stub)
{
	uint8_t *place = emit_call(&tb->e);

	if (!tb->e.full)
		emit_patch(place, tb->t->rw + stub);
}

void tb_count(struct tb *tb, size_t offset)
{
	emit_op64(&tb->e, 0xff, 0, trans_at(offset)); /* inc */
}

static void tb_x87_end(struct tb *tb)
{
	tb_x87_pointers(tb, &tb->x87);
	tb->x87.set = 0;
}

static void handler_by(struct tb *tb, uint32_t stub)
{
	tb_flags_save(tb);
	tb->flags = FLAGS_SAVED;
	tb_x87_end(tb);
	tb_near_end(tb);
	tb->vec = 0;
	tb->loop.broken = 1;
	tb_count(tb, offsetof(struct soft_cpu, handled) + tb->mnemonic * sizeof(uint64_t));
	tb->kept[tb->kepts++] = (struct tb_kept){emit_lea_rip(&tb->e, H_R11), tb->insn};
	emit_mov_imm(&tb->e, H_RAX, (uint64_t)tb->at);
	tb_stub_call(tb, stub);
}

void tb_handler(struct tb *tb)
{
	handler_by(tb, tb->t->handler);
}

/* The last instruction, by its handler. */
static void block_end_handler(struct tb *tb)
{
	unsigned flags = tb->insn->flags;

	if (flags & INSN_STATE) {
		/* RIP is set; most of them need no new look at anything but where it leads. */
		handler_by(tb, tb->t->handler_state);
		tb_late(tb, LATE_OUT, emit_jcc(&tb->e, CC_NZ))->state = 1;
		emit_op64(&tb->e, 0x8b, H_R11, T_FIELD(s.rip));
		tb_exit_r11(tb);
		return;
	}
	tb_handler(tb);
	if (flags & INSN_BRANCH) {
		tb_late(tb, LATE_OUT, emit_jcc(&tb->e, CC_NZ));
		emit_op64(&tb->e, 0x8b, H_R11, T_FIELD(s.rip));
		tb_exit_r11(tb);
	} else {
		tb_late(tb, LATE_STOP, emit_jcc(&tb->e, CC_NZ));
		tb_exit_to(tb, tb->next);
	}
}

static void block_poll(struct tb *tb)
{
	struct emit *e = &tb->e;
	const uint8_t *start = e->at;

	emit_modrm(e, &(struct emit_op){.opcode = 0x83, .reg_is_op = 1, .reg = ALU_CMP},
		   T_FIELD(base.link.events));
	emit_byte(e, 0);
	tb_late(tb, LATE_STOP, emit_jcc(e, CC_NZ))->next = tb->at;
	assert(e->full || e->at - start == TRANS_POLL_BYTES);
}
/* The block's instructions count as executed from here; nothing but R11 changes. */
static void block_count(struct tb *tb, unsigned n)
{
	if (!tb->cpu->engine->base.cfg.trace.count || tb->from)
		return;
	emit_op64(&tb->e, 0x8b, H_R11, T_FIELD(stats.retired));
	emit_lea(&tb->e, H_R11, rm_mem(H_R11, H_NONE, 0, (int32_t)n));
	emit_op64(&tb->e, 0x89, H_R11, T_FIELD(stats.retired));
}

/* RAX: the ITLB's entry of the page that begins `ahead` bytes after this one, R11: its tag. */
static void fetch_entry(struct tb *tb, int32_t ahead)
{
	struct emit *e = &tb->e;

	emit_op64(e, 0x8b, H_R11, T_FIELD(page));
	if (ahead)
		tb_lea(tb, H_R11, rm_mem(H_R11, H_NONE, 0, ahead));
	emit_mov(e, H_RAX, H_R11);
	emit_op32(e, 0xc1, 5, rm_reg(H_RAX)); /* shr eax, 7 */
	emit_byte(e, 12 - 5);
	emit_alu_imm(e, ALU_AND, H_RAX, (SOFT_ITLB_SIZE - 1) << 5, 0);
	emit_op64(e, 0x03, H_RAX, T_FIELD(itlb));
	emit_op64(e, 0x0b, H_R11, T_FIELD(asid_code));
}
_Static_assert(sizeof(struct soft_itlb_entry) == 32, "the index is shifted for it");

static void stop_unless_equal(struct tb *tb)
{
	tb_late(tb, LATE_STOP, emit_jcc(&tb->e, CC_NZ))->next = tb->at;
}

/* Leaves the block unless these are the `n` bytes at an offset from the page whose ITLB entry is
 * at hand. */
static void fetch_compare(struct tb *tb, unsigned off, const uint8_t *bytes, unsigned n)
{
	struct emit *e = &tb->e;

	emit_op64(e, 0x3b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_itlb_entry, tag)));
	stop_unless_equal(tb);
	emit_op64(e, 0x8b, H_R11, rm_mem(H_RAX, H_NONE, 0, offsetof(struct soft_itlb_entry, host)));
	emit_op64(e, 0x85, H_R11, rm_reg(H_R11)); /* no RAM? */
	tb_late(tb, LATE_STOP, emit_jcc(e, CC_Z))->next = tb->at;
	while (n) {
		unsigned size = n >= 4 ? 4 : 1;
		emit_modrm(e,
			   &(struct emit_op){
			       .opcode = size == 4 ? 0x81 : 0x80, .reg_is_op = 1, .reg = ALU_CMP},
			   rm_mem(H_R11, H_NONE, 0, (int32_t)off));
		for (unsigned k = 0; k < size; k++)
			emit_byte(e, bytes[k]);
		stop_unless_equal(tb);
		off += size;
		bytes += size;
		n -= size;
	}
}

/*
 * An instruction in two pages. Nothing is marked for it: its bytes are compared each time, as they
 * are found by fetching, and so its code is right wherever they are found. Who comes here after
 * they changed goes out; that lookup finds what is there now.
 */
static void cross_check(struct tb *tb, const struct soft_block *b, const uint8_t *bytes)
{
	unsigned off = (unsigned)b->phys & 0xfff, first = GMEM_PAGE_SIZE - off;

	fetch_entry(tb, 0);
	fetch_compare(tb, off, bytes, first);
	fetch_entry(tb, GMEM_PAGE_SIZE);
	fetch_compare(tb, 0, bytes + first, b->bytes - first);
}

_Static_assert(offsetof(struct soft_cpu, base.link.events) > 255 + TRANS_BIAS, "a long form");

/* The opcode to emit. */
static uint8_t opcode_of(const struct tb *tb, const ZydisDecodedInstruction *zi)
{
	if (UNLIKELY(tb->cpu->engine->base.cfg.plant) && zi->mnemonic == ZYDIS_MNEMONIC_ADC)
		return zi->opcode ^ 8;
	/* The same, and 64-bit code does not have the one. */
	if (tb->narrow && zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && zi->opcode == 0x82)
		return 0x80;
	return zi->opcode;
}

/* A copy of a decoded instruction in code memory; NULL: no room. */
static uint8_t *insn_keep(struct tb *tb, const struct insn *insn)
{
	struct emit *e = &tb->e;

	while ((e->at - tb->t->rw) % (ptrdiff_t)alignof(struct insn) && !e->full)
		emit_byte(e, 0xcc);
	if ((size_t)(e->end - e->at) < sizeof(*insn))
		e->full = 1;
	if (e->full)
		return NULL;
	memcpy(e->at, insn, sizeof(*insn));
	e->at += sizeof(*insn);
	return e->at - sizeof(*insn);
}

/* Instructions from number `from` to the end, at tb->at. False: memory is not what was decoded. */
static _Bool insns_emit(struct tb *tb, const struct soft_block *b, unsigned from,
			const uint8_t *bytes)
{
	_Bool ended = 0;

	for (unsigned k = from; k < b->count; k++) {
		struct tb_room room;
		tb->insn = &b->insn[k];
		tb->bytes = bytes;
		tb->next = tb->at + tb->insn->len;
		_Bool last = !!(tb->insn->flags & (INSN_BRANCH | INSN_END));
		const struct tb_insn *i = soft_zydis(tb->cpu, bytes, tb->insn->len, &room);
		if (i && i->zi.length != tb->insn->len)
			return 0;
		if (i && UNLIKELY(opcode_of(tb, &i->zi) != i->zi.opcode)) {
			room.i = *i;
			room.i.zi.opcode = opcode_of(tb, &i->zi);
			i = &room.i;
		}
		if (!tb->loop.tail)
			tb->host[k] = tb->e.at;
		tb->mnemonic = i ? i->zi.mnemonic : ZYDIS_MNEMONIC_INVALID;
		tb_loop_guard(tb, k);
		if (last) {
			tb_loop_end(tb);
			tb_x87_end(tb);
			tb->vec = 0;
			if (!i || !tb_branch(tb, i))
				block_end_handler(tb);
			ended = 1;
		} else if (!i || !tb_insn(tb, i)) {
			tb_handler(tb);
			tb_late(tb, LATE_STOP, emit_jcc(&tb->e, CC_NZ));
		}
		tb_near_after(tb);
		bytes += tb->insn->len;
		tb->at = tb->next;
	}
	if (!tb->loop.tail)
		tb->host[b->count] = tb->e.at;
	if (!ended) {
		tb_flags_save(tb);
		tb_x87_end(tb);
		tb_exit_to(tb, tb->at);
	}
	return 1;
}

/* Everything, at tb->at. False: memory is not what was decoded. */
static _Bool block_emit(struct tb *tb, const struct soft_block *b, const uint8_t *bytes)
{
	block_poll(tb);
	if (b->flags & BLOCK_ALONE)
		cross_check(tb, b, bytes);
	tb_near_look(tb, (struct soft_block *)(uintptr_t)b, bytes);
	if (tb->loop.on)
		tb_live(tb, tb->loop.vec);
	tb_near_begin(tb);
	if (tb->loop.on)
		tb_loop_head(tb);
	block_count(tb, b->count);
	for (unsigned k = 0; k < tb->from; k++)
		tb->host[k] = tb->e.at;
	if (!insns_emit(tb, b, tb->from, bytes))
		return 0;
	tb->host[b->count + 1] = tb->e.at;
	if (tb->loop.on) {
		tb_loop_tail(tb);
		if (!insns_emit(tb, b, tb->loop.guard, tb->loop.bytes))
			return 0;
	}
	for (unsigned k = 0; k < tb->lates; k++)
		tb_late_emit(tb, &tb->late[k]);
	for (unsigned k = 0; k < tb->kepts && !tb->e.full; k++) {
		uint8_t *at = insn_keep(tb, tb->kept[k].insn);
		if (at)
			emit_patch(tb->kept[k].place, at);
	}
	return 1;
}

/* Where host code begins, behind the guest's bytes (soft_block_again compares them). */
static size_t code_begin(const struct soft_trans *t, const struct soft_block *b)
{
	return ALIGN_UP(t->used + b->bytes, (size_t)16);
}

static void tb_init(struct tb *tb, struct soft_cpu *cpu, struct soft_block *b, unsigned from,
		    _Bool plain)
{
	struct soft_trans *t = cpu->trans;

	tb->cpu = cpu;
	tb->t = t;
	tb->block = b;
	tb->lin = cpu->s.rip & ~UINT64_C(0xfff);
	tb->insn = NULL;
	tb->bytes = NULL;
	tb->flags = FLAGS_SAVED;
	tb->alone = !!(b->flags & BLOCK_ALONE);
	tb->narrow = !soft_is64(cpu);
	tb->word = tb->narrow ? 4 : 8;
	tb->vec = 0;
	/* The kernel's address space changes, and it opens and closes user pages, too often for
	 * entries to stay; where everything is to be tried at once they are tried there as well. */
	tb->plain = plain || (cpu->cpl != 3 && t->hot > 1);
	tb->from = from;
	tb->x87.set = 0;
	tb->loop.on = tb->loop.tail = 0;
	tb->lates = tb->kepts = 0;
	tb->e = (struct emit){.at = t->rw + code_begin(t, b), .end = t->rw + t->size};
}

/* The bytes of a block as memory has them now, `skip` of them before rip. False: they are not to be
 * had here, or are not what was decoded: another CPU may have changed them since. Half of what is
 * emitted comes from the decoded instructions, half from these. */
static _Bool bytes_read(struct soft_cpu *cpu, const struct soft_block *b, unsigned skip,
			uint8_t bytes[SOFT_BLOCK_MAX * 15])
{
	const struct soft_itlb_entry *page = soft_mmu_fetch(cpu, cpu->s.rip);
	uint64_t last = cpu->s.rip + b->bytes - 1;
	unsigned off = (unsigned)b->phys & 0xfff, avail = b->bytes;

	if (!page->host)
		return 0;
	if (b->flags & BLOCK_ALONE) {
		if (off + b->bytes <= GMEM_PAGE_SIZE ||
		    !soft_mmu_fetch(cpu, soft_is64(cpu) ? last : (uint32_t)last)->host)
			return 0;
		memcpy(bytes, soft_cache_cross_bytes(cpu->cache, cpu->s.rip), avail);
	} else {
		if ((page->phys | (cpu->s.rip & 0xfff)) != b->phys + skip)
			return 0;
		avail = MIN((unsigned)GMEM_PAGE_SIZE - off, SOFT_BLOCK_MAX * 15u);
		memcpy(bytes, page->host + off, avail);
	}
	return soft_block_same(cpu, b, bytes, avail);
}

static const uint8_t *block_translate(struct soft_cpu *cpu, struct soft_block *b, unsigned from,
				      _Bool plain)
{
	struct soft_trans *t = cpu->trans;
	uint8_t bytes[SOFT_BLOCK_MAX * 15];
	struct tb tb; /* large: what is out of line is filled in as it comes */
	size_t begin = code_begin(t, b);
	unsigned skip = 0;

	if (begin >= t->size || (!b->insn && !soft_block_again(cpu, b)))
		return NULL;
	for (unsigned k = 0; k < from; k++)
		skip += b->insn[k].len;
	/* Its page may have been written by the walk: page tables have accessed bits. */
	if (!bytes_read(cpu, b, skip, bytes) || (b->flags & BLOCK_FREE))
		return NULL;
	tb.loop = (struct tb_loop){.off = 0};
	do {
		tb_init(&tb, cpu, b, from, plain);
		tb.at = tb.next = (int64_t)(b->phys & 0xfff) + skip;
		if (!block_emit(&tb, b, bytes + skip) || tb.e.full)
			return NULL;
	} while (tb_loop_again(&tb));
	/* Its place in the cache will be another's. */
	const uint8_t *alone = tb.alone ? insn_keep(&tb, b->insn) : NULL;
	if (tb.e.full)
		return NULL;
	if (alone)
		b->insn = (struct insn *)(uintptr_t)(t->rx + (alone - t->rw));
	const uint8_t *code = t->rx + begin;
	memcpy(t->rw + begin - b->bytes, bytes, b->bytes);
	cpu->stats.loops += tb.loop.on;
	cpu->stats.guest_bytes += b->bytes - skip;
	cpu->stats.host_bytes += (size_t)(tb.e.at - t->rw) - begin;
	trans_trace(&tb, b, bytes, begin);
	t->used = (size_t)(tb.e.at - t->rw);
	return code;
}

const uint8_t *trans_block(struct soft_cpu *cpu, struct soft_block *b)
{
	return block_translate(cpu, b, 0, 0);
}

const uint8_t *trans_block_from(struct soft_cpu *cpu, struct soft_block *b, unsigned from,
				_Bool plain)
{
	return block_translate(cpu, b, from, plain);
}
