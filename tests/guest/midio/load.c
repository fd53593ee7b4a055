/* load.c: a guest that keeps disks, a CD drive and a network card busy, and notices when anything
 * of that is lost, done twice, or wrong. */
#include "../rings/vdrv.h"

/*
 * Every device always has several requests under way. Completions are waited for in HLT: an
 * interrupt that is lost ends all progress. The device's wish not to be notified is honoured: a
 * wish that is not taken back ends it as well. midio.c is the other side, and has the same numbers.
 */
#define DISK_OPS   400 /* writes of each disk, numbered; each is read back */
#define BLOCKS	   40
#define BLOCK	   4096u
#define FRAMES	   600 /* each way, numbered */
#define FRAME	   200
#define CD_READS   300
#define CD_BLOCKS  64
#define CD_BLOCK   2048u
#define ETHER_TYPE 0xb588 /* 0x88b5 on the wire */

#define DEPTH	 5 /* chains of at most three descriptors in a ring of 16 */
#define UNITS	 8
#define VECTOR	 0x50
#define LINE	 0x60
#define IO_APIC	 0xfec00000ull
#define GSI_MMIO 16

struct unit {
	struct vdev *d;
	struct vqueue vq[16];
	uint64_t data; /* UNITS of BUFFERS */
	unsigned q;
	unsigned submitted, completed, total;
	struct {
		bool busy, reading;
		uint32_t number; /* the request's */
	} slot[16];
	/* Disks: what each block holds, and the write that is not yet read back in it. */
	uint32_t holds[BLOCKS];
	bool unread[BLOCKS], block_busy[BLOCKS];
	unsigned unread_count;
	uint32_t next_in; /* network: the number of the frame that comes next */
	bool (*submit)(struct unit *u, unsigned slot);
	void (*complete)(struct unit *u, unsigned slot, uint32_t len);
};
static struct unit units[UNITS];
static unsigned unit_count;
static volatile unsigned interrupts;

static uint64_t mix(uint64_t number, uint64_t i)
{
	uint64_t v = (number + 1) * 0x9e3779b97f4a7c15 + i * 0xbf58476d1ce4e5b9;

	return v ^ v >> 29;
}

static uint64_t slot_at(const struct unit *u, unsigned slot)
{
	return u->data + slot * 0x4000ull;
}

static void set(struct vdesc *e, uint64_t addr, uint32_t len, unsigned flags)
{
	*e = (struct vdesc){addr, len, (uint16_t)flags, 0};
}

static bool wants_notification(const struct unit *u, unsigned q)
{
	const struct vqueue *v = &u->vq[q];

	__asm__ volatile("mfence" : : : "memory");
	return u->d->packed ? (r16(v->used + 2) & 3) != 1 : !(r16(v->used) & 1);
}

static void send(struct unit *u, unsigned q, unsigned slot, struct vdesc *e, unsigned n)
{
	for (unsigned i = 0; i + 1 < n; i++) {
		e[i].flags |= D_NEXT;
		e[i].next = (uint16_t)(i + 1);
	}
	chain_put(u->d, q, slot * 3, e, n);
	if (wants_notification(u, q))
		notify(u->d, q);
}

/* ---- disks ---- */

static void disk_send(struct unit *u, unsigned slot, unsigned type, unsigned block)
{
	uint64_t at = slot_at(u, slot);
	struct vdesc e[3];

	u->block_busy[block] = 1;
	w32(at, type);
	w32(at + 4, 0);
	w64(at + 8, block * (BLOCK / 512));
	w8(at + 16, 0xff);
	set(&e[0], at, 16, 0);
	set(&e[1], at + 0x1000, BLOCK, type ? 0 : D_WRITE);
	set(&e[2], at + 16, 1, D_WRITE);
	send(u, u->q, slot, e, 3);
}

static bool disk_submit(struct unit *u, unsigned slot)
{
	uint64_t data = slot_at(u, slot) + 0x1000;
	unsigned block = noise() % BLOCKS, tries;

	/* Read back what was written, or write where nothing is unread. */
	for (tries = 0; tries < BLOCKS; tries++, block = (block + 1) % BLOCKS) {
		if (u->block_busy[block])
			continue;
		if (u->unread[block] &&
		    (u->submitted == u->total || u->unread_count > BLOCKS / 2)) {
			u->slot[slot].reading = 1;
			u->slot[slot].number = block;
			for (unsigned i = 0; i < BLOCK; i += 512)
				w64(data + i, ~0ull);
			disk_send(u, slot, 0, block);
			return 1;
		}
		if (!u->unread[block] && u->submitted < u->total) {
			uint32_t number = u->submitted++;

			u->slot[slot].reading = 0;
			u->slot[slot].number = block;
			u->holds[block] = number;
			w64(data, number);
			for (unsigned i = 8; i < BLOCK; i += 8)
				w64(data + i, mix(number, i));
			disk_send(u, slot, 1, block);
			return 1;
		}
	}
	return 0;
}

static void disk_complete(struct unit *u, unsigned slot, uint32_t len)
{
	uint64_t at = slot_at(u, slot), data = at + 0x1000;
	unsigned block = u->slot[slot].number;
	uint32_t number = u->holds[block];

	check_eq(r8(at + 16), 0);
	u->block_busy[block] = 0;
	if (!u->slot[slot].reading) {
		check_eq(len, 1);
		u->unread[block] = 1;
		u->unread_count++;
		return;
	}
	check_eq(len, BLOCK + 1);
	check_eq(*(volatile uint64_t *)data, number);
	for (unsigned i = 8; i < BLOCK; i += 8)
		check_eq(*(volatile uint64_t *)(data + i), mix(number, i));
	u->unread[block] = 0;
	u->unread_count--;
	u->completed++;
}

/* ---- the CD drive ---- */

static bool cd_submit(struct unit *u, unsigned slot)
{
	uint64_t at = slot_at(u, slot);
	unsigned block = noise() % CD_BLOCKS;
	struct vdesc e[3];

	if (u->submitted == u->total)
		return 0;
	u->submitted++;
	u->slot[slot].number = block;
	memset((void *)at, 0, 51);
	w8(at, 1);
	w8(at + 19, 0x28); /* READ(10) */
	w8(at + 19 + 5, (uint8_t)block);
	w8(at + 19 + 8, 1);
	memset((void *)(at + 0x100), 0xff, 108);
	for (unsigned i = 0; i < CD_BLOCK; i += 512)
		w64(at + 0x1000 + i, ~0ull);
	set(&e[0], at, 51, 0);
	set(&e[1], at + 0x100, 108, D_WRITE);
	set(&e[2], at + 0x1000, CD_BLOCK, D_WRITE);
	send(u, u->q, slot, e, 3);
	return 1;
}

static void cd_complete(struct unit *u, unsigned slot, uint32_t len)
{
	uint64_t at = slot_at(u, slot);

	/* The first command after a reset may be told of that (SPC-4 5.14): once. */
	if (r8(at + 0x100 + 10) == 2 && !u->next_in) {
		u->next_in = 1;
		u->submitted--;
		return;
	}
	u->next_in = 1;
	check_eq(len, 108 + CD_BLOCK);
	check_eq(r8(at + 0x100 + 10), 0);
	check_eq(r8(at + 0x100 + 11), 0);
	for (unsigned i = 0; i < CD_BLOCK; i += 8)
		check_eq(*(volatile uint64_t *)(at + 0x1000 + i),
			 mix(1000 + u->slot[slot].number, i));
	u->completed++;
}

/* ---- the network card: frames that go out, and frames that come in (slots 8 and up) ---- */

static bool net_submit(struct unit *u, unsigned slot)
{
	uint64_t at = slot_at(u, slot);
	uint32_t number = u->submitted;
	struct vdesc e;

	if (number == u->total)
		return 0;
	u->submitted++;
	u->slot[slot].number = number;
	memset((void *)at, 0, 12 + 14);
	w8(at + 12, 2);
	w8(at + 12 + 6, 2);
	w16(at + 12 + 12, ETHER_TYPE);
	w32(at + 12 + 16, number);
	for (unsigned i = 24; i < FRAME; i += 8)
		w64(at + 12 + i, mix(number, i));
	set(&e, at, 12 + FRAME, 0);
	send(u, 1, slot, &e, 1);
	return 1;
}

static void net_complete(struct unit *u, unsigned slot, uint32_t len)
{
	check_eq(len, 0);
	u->completed++;
}

static void net_post(struct unit *u, unsigned slot)
{
	struct vdesc e;

	memset((void *)slot_at(u, slot), 0xff, 64);
	set(&e, slot_at(u, slot), 2048, D_WRITE);
	u->slot[slot].busy = 1;
	send(u, 0, slot - 8, &e, 1);
}

static void net_received(struct unit *u, unsigned slot, uint32_t len)
{
	uint64_t at = slot_at(u, slot) + 12;

	check_eq(len, 12 + FRAME);
	check_eq(r16(at + 12), ETHER_TYPE);
	check_eq(r32(at + 16), u->next_in);
	for (unsigned i = 24; i < FRAME; i += 8)
		check_eq(*(volatile uint64_t *)(at + i), mix(u->next_in, i));
	u->next_in++;
	net_post(u, slot);
}

/* ---- all of them ---- */

static bool message(struct frame *f)
{
	interrupts = interrupts + 1;
	apic_write(0xb0, 0);
	return 1;
}

static bool line(struct frame *f)
{
	for (unsigned i = 0; i < unit_count; i++)
		if (units[i].d->mmio)
			w32(units[i].d->common + 0x64, r32(units[i].d->common + 0x60));
	return message(f);
}

static void interrupts_on(struct unit *u)
{
	struct vdev *d = u->d;

	if (d->mmio) {
		unsigned pin = GSI_MMIO + (d->common >> 12 & 7);

		w32(IO_APIC, 0x10 + 2 * pin + 1);
		w32(IO_APIC + 0x10, 0);
		w32(IO_APIC, 0x10 + 2 * pin);
		w32(IO_APIC + 0x10, 1 << 15 | LINE);
		return;
	}
	for (unsigned v = 0; v < d->msix_count; v++) {
		w32(d->msix + 16 * v, 0xfee00000);
		w32(d->msix + 16 * v + 4, 0);
		w32(d->msix + 16 * v + 8, VECTOR + (uint32_t)(u - units));
		w32(d->msix + 16 * v + 12, 0);
	}
	pci_write(d->devfn, d->msix_cap,
		  (pci_read(d->devfn, d->msix_cap) & 0x3fffffff) | 0x80000000);
	for (unsigned q = 0; q < d->queues; q++) {
		w16(d->common + 22, (uint16_t)q);
		w16(d->common + 26, (uint16_t)(q % d->msix_count));
	}
}

static void unit_add(struct vdev *d)
{
	struct unit *u = &units[unit_count];
	unsigned n = unit_count;

	switch (d->id) {
	case ID_BLK:
		u->total = DISK_OPS;
		u->submit = disk_submit;
		u->complete = disk_complete;
		break;
	case ID_SCSI:
		u->total = CD_READS;
		u->submit = cd_submit;
		u->complete = cd_complete;
		break;
	case ID_NET:
		u->total = FRAMES;
		u->submit = net_submit;
		u->complete = net_complete;
		break;
	default: return;
	}
	check(unit_count < UNITS && d->queues <= 16);
	unit_count++;
	u->d = d;
	u->q = request_queue(d);
	u->data = BUFFERS + n * 0x80000;
	d->rings = RINGS + n * 0x40000;
	d->vq = u->vq;
	d->without = F_EVENT_IDX;
	dev_start(d, n & 1);
	interrupts_on(u);
	if (d->id == ID_NET)
		for (unsigned slot = 8; slot < 8 + DEPTH; slot++)
			net_post(u, slot);
}

static bool unit_done(const struct unit *u)
{
	if (u->d->id == ID_NET && u->next_in < FRAMES)
		return 0;
	return u->completed == u->total;
}

static void unit_run(struct unit *u)
{
	uint32_t id, len;

	check(!(dev_status(u->d) & ST_NEEDS_RESET));
	while (chain_used(u->d, u->q, &id, &len)) {
		check(id % 3 == 0 && id / 3 < DEPTH && u->slot[id / 3].busy); /* and not twice */
		u->slot[id / 3].busy = 0;
		u->complete(u, id / 3, len);
	}
	if (u->d->id == ID_NET)
		while (chain_used(u->d, 0, &id, &len)) {
			check(id % 3 == 0 && id / 3 < DEPTH && u->slot[8 + id / 3].busy);
			net_received(u, 8 + id / 3, len);
		}
	for (unsigned slot = 0; slot < DEPTH; slot++)
		if (!u->slot[slot].busy && u->submit(u, slot))
			u->slot[slot].busy = 1;
}

TEST(midio, everything_is_done_once)
{
	bool done = 0;

	apic_enable();
	devs_find();
	for (unsigned i = 0; i < UNITS; i++)
		set_handler(VECTOR + i, message);
	set_handler(LINE, line);
	for (unsigned i = 0; i < dev_count; i++)
		unit_add(&devs[i]);
	print("with %u devices ", unit_count);
	while (!done) {
		unsigned before = interrupts;

		done = 1;
		for (unsigned i = 0; i < unit_count; i++) {
			unit_run(&units[i]);
			done &= unit_done(&units[i]);
		}
		__asm__ volatile("cli" : : : "memory");
		if (!done && interrupts == before)
			__asm__ volatile("sti; hlt; cli" : : : "memory");
		else
			let_in();
	}
	for (unsigned i = 0; i < unit_count; i++)
		dev_reset(units[i].d);
}
