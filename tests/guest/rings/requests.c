/* requests.c: for each device type a request that succeeds, and which queues are looked at when. */
#include "vdrv.h"

#define GUARD 0x5aa5c33c0ff01881ull

/* A slot's parts. */
#define HEAD  0x0000
#define DATA  0x1000
#define STATE 0x1e000
#define BIG   0x10000 /* bytes that a block request reads */

static void set_desc(struct vdesc *e, uint64_t addr, uint32_t len, unsigned flags, unsigned next)
{
	*e = (struct vdesc){addr, len, (uint16_t)flags, (uint16_t)next};
}

unsigned request_queue(const struct vdev *d)
{
	switch (d->id) {
	case ID_BLK:
	case ID_RNG:
	case ID_9P: return 0;
	case ID_NET:
	case ID_CONSOLE:
	case ID_BALLOON: /* deflate */
	case ID_VSOCK: return 1;
	case ID_SCSI: return 2;
	default: return QUEUES_MAX;
	}
}

bool queue_eager(const struct vdev *d, unsigned q)
{
	switch (d->id) {
	case ID_BLK:
	case ID_9P:
	case ID_RNG: return 1;
	case ID_NET: return q == 1 || q == d->queues - 1; /* one pair is in use; control */
	case ID_CONSOLE: return q == 1 || q == 3;
	case ID_BALLOON: return q < 2;
	case ID_SCSI: return q != 1;
	case ID_VSOCK: return q == 1;
	default: return 0;
	}
}

static unsigned build_blk(uint64_t at, struct vdesc *e)
{
	w32(at + HEAD, 0);
	w32(at + HEAD + 4, 0);
	w64(at + HEAD + 8, 8192); /* attacks write below it */
	w8(at + STATE, 0xff);
	set_desc(&e[0], at + HEAD, 16, D_NEXT, 1);
	set_desc(&e[1], at + DATA, BIG, D_NEXT | D_WRITE, 2);
	set_desc(&e[2], at + STATE, 1, D_WRITE, 0);
	w64(at + DATA + BIG, GUARD);
	w64(at + DATA - 8, GUARD);
	return 3;
}

/* An Ethernet frame of a type that nobody knows, to nobody. */
static unsigned build_net(uint64_t at, struct vdesc *e)
{
	memset((void *)at, 0, 12 + 60);
	w8(at + 12, 2);
	w8(at + 12 + 6, 2);
	w16(at + 12 + 12, 0xb588); /* 0x88b5: local experiments */
	set_desc(&e[0], at, 12 + 60, 0, 0);
	return 1;
}

static unsigned build_scsi(uint64_t at, struct vdesc *e)
{
	memset((void *)at, 0, 51);
	w8(at, 1); /* target 0 */
	w8(at + 19, 0x12);
	w8(at + 19 + 4, 36); /* INQUIRY */
	memset((void *)(at + STATE), 0xff, 108);
	set_desc(&e[0], at, 51, D_NEXT, 1);
	set_desc(&e[1], at + STATE, 108, D_NEXT | D_WRITE, 2);
	set_desc(&e[2], at + DATA, 36, D_WRITE, 0);
	w64(at + DATA + 36, GUARD);
	w64(at + DATA - 8, GUARD);
	return 3;
}

static unsigned build_9p(uint64_t at, struct vdesc *e)
{
	static const uint8_t version[] = {21, 0, 0,   0,   100, 0xff, 0xff, 0,	 0x10, 0,  0,
					  8,  0, '9', 'P', '2', '0',  '0',  '0', '.',  'L'};

	memcpy((void *)at, version, sizeof(version));
	set_desc(&e[0], at, sizeof(version), D_NEXT, 1);
	set_desc(&e[1], at + DATA, 4096, D_WRITE, 0);
	w64(at + DATA + 4096, GUARD);
	w64(at + DATA - 8, GUARD);
	return 2;
}

/* A reset for a connection that does not exist, to the host. */
static unsigned build_vsock(uint64_t at, struct vdesc *e)
{
	memset((void *)at, 0, 44);
	w64(at + 8, 2);
	w32(at + 16, 1000);
	w32(at + 20, 1001);
	w16(at + 28, 1);
	w16(at + 30, 3);
	set_desc(&e[0], at, 44, 0, 0);
	return 1;
}

unsigned request_build(const struct vdev *d, unsigned slot, struct vdesc *list)
{
	uint64_t at = BUFFERS + slot * SLOT;

	switch (d->id) {
	case ID_BLK: return build_blk(at, list);
	case ID_NET: return build_net(at, list);
	case ID_SCSI: return build_scsi(at, list);
	case ID_9P: return build_9p(at, list);
	case ID_VSOCK: return build_vsock(at, list);
	case ID_CONSOLE:
		w8(at, '.');
		set_desc(&list[0], at, 1, 0, 0);
		return 1;
	case ID_RNG:
		w64(at + DATA + 64, GUARD);
		w64(at + DATA - 8, GUARD);
		set_desc(&list[0], at + DATA, 64, D_WRITE, 0);
		return 1;
	case ID_BALLOON: /* a page given back that was never taken */
		w32(at, (uint32_t)(BUFFERS_END >> 12));
		set_desc(&list[0], at, 4, 0, 0);
		return 1;
	default: return 0;
	}
}

/* Nothing but what the request allows was written, and that says success. */
static bool request_succeeded(const struct vdev *d, uint64_t at, uint32_t len)
{
	switch (d->id) {
	case ID_BLK:
		return !r8(at + STATE) && len == BIG + 1 && r32(at + DATA) == 0x52494e47 &&
		       *(uint64_t *)(at + DATA + BIG) == GUARD &&
		       *(uint64_t *)(at + DATA - 8) == GUARD;
	case ID_SCSI:
		return len >= 108 && !r8(at + STATE + 10) && !r8(at + STATE + 11) &&
		       (r8(at + DATA) & 0x1f) == 5 && *(uint64_t *)(at + DATA + 36) == GUARD &&
		       *(uint64_t *)(at + DATA - 8) == GUARD;
	case ID_9P:
		return len == 21 && r8(at + DATA + 4) == 101 &&
		       *(uint64_t *)(at + DATA + 4096) == GUARD &&
		       *(uint64_t *)(at + DATA - 8) == GUARD;
	case ID_RNG:
		return len && len <= 64 && *(uint64_t *)(at + DATA + 64) == GUARD &&
		       *(uint64_t *)(at + DATA - 8) == GUARD;
	default: return !len;
	}
}

bool request_works(struct vdev *d)
{
	unsigned q = request_queue(d), n;
	struct vdesc list[4];
	uint32_t id, len;

	if (q >= d->queues)
		return !(dev_status(d) & ST_NEEDS_RESET);
	n = request_build(d, 0, list);
	chain_put(d, q, 0, list, n);
	notify(d, q);
	if (!chain_await(d, q, 5000, &id, &len)) {
		print("[no answer, status 0x%x] ", dev_status(d));
		return 0;
	}
	if (id || !request_succeeded(d, BUFFERS, len)) {
		print("[answer %u of %u bytes] ", id, len);
		return 0;
	}
	return 1;
}
