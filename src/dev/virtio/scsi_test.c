/* scsi_test.c: the SCSI host with its CD-ROM drive over PCI, with a disc in memory. */
#include "dev/virtio/scsi.h"

#include <errno.h>
#include <stdlib.h>

#include "backend/disk_impl.h"
#include "dev/virtio/scsi_impl.h"
#include "dev/virtio/testing.h"

#define BLOCKS	   100
#define DISC_BYTES (BLOCKS * 2048 + 512)

struct disc {
	struct disk disk; /* first */
	uint8_t data[DISC_BYTES];
	struct disk_req *held;
	_Bool hold;
	int fail;
	_Bool torn; /* ... after it has read a part */
};

static void disc_finish(struct disc *d, struct disk_req *req)
{
	uint64_t at = req->offset;
	int result = d->fail ? d->fail : req->result;

	assert_true(req->op == DISK_READ && at + req->len <= DISC_BYTES);
	for (unsigned i = 0; (!result || d->torn) && i < req->iov_count;
	     at += req->iov[i++].iov_len)
		memcpy(req->iov[i].iov_base, d->data + at, req->iov[i].iov_len);
	req->offset += req->len; /* as back ends do that work in parts */
	req->len = 0;
	disk_complete(&d->disk, req, result);
}

static void disc_submit(struct disk *disk, struct disk_req *req)
{
	struct disc *d = (struct disc *)disk;

	assert_null(d->held);
	d->held = req;
}

/* With the device's lock held: nothing can be finished here. */
static void disc_kick(struct disk *disk)
{
}
static const struct disk_ops disc_ops = {
    .submit = disc_submit, .kick = disc_kick, .refuse = disc_submit};

static void disc_run(struct disc *d)
{
	struct disk_req *req = d->hold ? NULL : d->held;

	if (!req)
		return;
	d->held = NULL;
	disc_finish(d, req);
}

struct rig {
	struct vt t;
	struct disc *disc;
	unsigned ejected; /* times the guest has taken the disc out */
};

static void on_ejected(void *opaque)
{
	((struct rig *)opaque)->ejected++;
}

static void rig_init(struct rig *r)
{
	struct scsi_cd_config cfg = {.place = vt_init(&r->t), .ejected = on_ejected, .opaque = r};

	r->ejected = 0;
	r->disc = calloc(1, sizeof(*r->disc));
	disk_init(&r->disc->disk, &disc_ops);
	r->disc->disk.info = (struct disk_info){
	    .size_bytes = DISC_BYTES, .logical_block = 512, .physical_block = 512, .read_only = 1};
	for (unsigned i = 0; i < DISC_BYTES; i++)
		r->disc->data[i] = (uint8_t)(i / 2048 + i * 3);
	cfg.disk = &r->disc->disk;
	assert_int_equal(scsi_cd_new(&r->t.dev, &cfg, NULL), 0);
	vt_power_on(&r->t);
}

static void rig_fini(struct rig *r)
{
	disc_run(r->disc);
	vt_fini(&r->t);
	disk_fini(&r->disc->disk);
	free(r->disc);
}

#define REQ  VT_DATA
#define RESP (VT_DATA + 0x1000)
#define DATA (VT_DATA + 0x2000)

static void command_to(struct rig *r, unsigned target, unsigned lun, const uint8_t *cdb, size_t n,
		       uint32_t room)
{
	uint8_t req[51] = {1, (uint8_t)target, 0x40, (uint8_t)lun};

	memcpy(req + 19, cdb, n);
	assert_int_equal(gmem_write(r->t.b.mem, gpa(REQ), req, sizeof(req)), 0);
	assert_int_equal(gmem_fill(r->t.b.mem, gpa(RESP), 0xee, 0x2000), 0);
	vt_desc(&r->t, 2, 0, REQ, sizeof(req), 1, 1);
	vt_desc(&r->t, 2, 1, RESP, 108, room ? 3 : 2, 2);
	vt_desc(&r->t, 2, 2, DATA, room, 2, 0);
	vt_offer(&r->t, 2, 0);
	vt_notify(&r->t, 2);
	disc_run(r->disc);
}

struct outcome {
	uint32_t used, sense_len, residual;
	uint8_t status, response, key, asc, ascq;
	uint8_t data[4096];
};
static void outcome_get(struct rig *r, struct outcome *o)
{
	uint8_t resp[108];
	uint32_t head;

	assert_true(vt_used(&r->t, 2, &head, &o->used));
	assert_int_equal(gmem_read(r->t.b.mem, gpa(RESP), resp, sizeof(resp)), 0);
	assert_int_equal(gmem_read(r->t.b.mem, gpa(DATA), o->data, sizeof(o->data)), 0);
	o->sense_len = load_le32(resp);
	o->residual = load_le32(resp + 4);
	o->status = resp[10];
	o->response = resp[11];
	o->key = resp[12 + 2];
	o->asc = resp[12 + 12];
	o->ascq = resp[12 + 13];
}

#define COMMAND(r, o, room, ...)                                                                   \
	do {                                                                                       \
		const uint8_t cdb_[] = {__VA_ARGS__};                                              \
		command_to(r, 0, 0, cdb_, sizeof(cdb_), room);                                     \
		outcome_get(r, o);                                                                 \
	} while (0)
#define ASSERT_GOOD(o, n)                                                                          \
	do {                                                                                       \
		assert_int_equal((o)->response, 0);                                                \
		assert_int_equal((o)->status, 0);                                                  \
		assert_int_equal((o)->used, 108 + (n));                                            \
	} while (0)
#define ASSERT_REFUSED(o, k, a, q)                                                                 \
	do {                                                                                       \
		assert_int_equal((o)->response, 0);                                                \
		assert_int_equal((o)->status, 2);                                                  \
		assert_int_equal((o)->sense_len, 18);                                              \
		assert_int_equal((o)->key, k);                                                     \
		assert_int_equal((o)->asc, a);                                                     \
		assert_int_equal((o)->ascq, q);                                                    \
		assert_int_equal((o)->used, 108);                                                  \
	} while (0)

static void reset_values_are_the_specifications(void **state)
{
	struct rig r;

	rig_init(&r);
	assert_int_equal(vt_config_read(&r.t, 0, 4), 0x10481af4);
	assert_int_equal(vt_config_read(&r.t, 8, 4) >> 8, 0x010000);
	assert_int_equal(vt_offered(&r.t), VIRTIO_CORE_FEATURES);
	assert_int_equal(vt_in(&r.t, 18, 2), 3);
	assert_int_equal(vt_in(&r.t, 0x2000, 4), 1);
	assert_int_equal(vt_in(&r.t, 0x2000 + 20, 4), 96);
	assert_int_equal(vt_in(&r.t, 0x2000 + 24, 4), 32);
	assert_int_equal(vt_in(&r.t, 0x2000 + 30, 2), 0); /* one target */
	vt_out(&r.t, 0x2000 + 20, 4, 18);
	vt_out(&r.t, 0x2000, 4, 7); /* read-only */
	assert_int_equal(vt_in(&r.t, 0x2000, 4), 1);
	assert_int_equal(vt_in(&r.t, 0x2000 + 20, 4), 18);
	vt_status(&r.t, 0);
	assert_int_equal(vt_in(&r.t, 0x2000 + 20, 4), 96);
	rig_fini(&r);
}

static void every_offset_at_every_width_is_harmless(void **state)
{
	struct rig r;

	rig_init(&r);
	bench_sweep(r.t.b.memory, VT_BAR + 0x2000, 64);
	rig_fini(&r);
}

static void a_drive_says_what_it_is(void **state)
{
	struct outcome o;
	struct rig r;

	rig_init(&r);
	vt_start(&r.t, 0, 3);
	COMMAND(&r, &o, 96, 0x12, 0, 0, 0, 96);
	ASSERT_GOOD(&o, 36);
	assert_int_equal(o.residual, 60);
	assert_int_equal(o.data[0], 5);
	assert_int_equal(o.data[1], 0x80);
	COMMAND(&r, &o, 5, 0x12, 0, 0, 0, 96); /* less room than it asks for */
	ASSERT_GOOD(&o, 5);
	assert_int_equal(o.data[5], 0xee);
	COMMAND(&r, &o, 96, 0x12, 1, 0, 0, 96);
	ASSERT_GOOD(&o, 5);
	COMMAND(&r, &o, 96, 0x12, 1, 0x83, 0, 96);
	ASSERT_REFUSED(&o, 5, 0x24, 0);
	COMMAND(&r, &o, 0, 0x00);
	ASSERT_GOOD(&o, 0);
	COMMAND(&r, &o, 8, 0x25);
	ASSERT_GOOD(&o, 8);
	assert_memory_equal(o.data, "\0\0\0\x63\0\0\x08\0", 8); /* 99: the half block is not seen */
	COMMAND(&r, &o, 64, 0x43, 0, 0, 0, 0, 0, 0, 0, 64);
	ASSERT_GOOD(&o, 20);
	assert_memory_equal(o.data, "\0\x12\1\1\0\x14\1\0\0\0\0\0\0\x14\xaa\0\0\0\0\x64", 20);
	COMMAND(&r, &o, 64, 0x43, 2, 0, 0, 0, 0, 0xaa, 0, 64);
	assert_memory_equal(o.data, "\0\x0a\1\1\0\x14\xaa\0\0\0\3\x19", 12); /* 250 frames */
	COMMAND(&r, &o, 64, 0x46, 0, 0, 0, 0, 0, 0, 0, 64);
	ASSERT_GOOD(&o, 8 + 12 + 8 + 8 + 12);
	assert_int_equal(o.data[3], 44);
	assert_int_equal(o.data[7], 8);
	COMMAND(&r, &o, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
	assert_memory_equal(o.data, "\0\6\4\x10\0\2\0\0", 8);
	COMMAND(&r, &o, 64, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64);
	ASSERT_GOOD(&o, 30);
	assert_int_equal(o.data[1], 28);
	assert_int_equal(o.data[8], 0x2a);
	COMMAND(&r, &o, 64, 0x1a, 0, 0x3f, 0, 64);
	ASSERT_GOOD(&o, 26);
	COMMAND(&r, &o, 16, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16);
	assert_memory_equal(o.data, "\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	COMMAND(&r, &o, 18, 0x03, 0, 0, 0, 18);
	assert_memory_equal(o.data, "\x70\0\0\0\0\0\0\x0a", 8);
	COMMAND(&r, &o, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1); /* writing */
	ASSERT_REFUSED(&o, 5, 0x20, 0);
	rig_fini(&r);
}

static void blocks_are_read(void **state)
{
	struct outcome o;
	struct rig r;

	rig_init(&r);
	vt_start(&r.t, 0, 3);
	COMMAND(&r, &o, 4096, 0x28, 0, 0, 0, 0, 97, 0, 0, 2);
	ASSERT_GOOD(&o, 4096);
	assert_int_equal(o.residual, 0);
	assert_memory_equal(o.data, r.disc->data + 97 * 2048, 4096);
	COMMAND(&r, &o, 4096, 0xa8, 0, 0, 0, 0, 99, 0, 0, 0, 1);
	ASSERT_GOOD(&o, 2048);
	assert_memory_equal(o.data, r.disc->data + 99 * 2048, 2048);
	assert_int_equal(o.data[2048], 0xee);
	COMMAND(&r, &o, 0, 0x28, 0, 0, 0, 0, 5, 0, 0, 0); /* none */
	ASSERT_GOOD(&o, 0);
	r.disc->fail = -EIO;
	COMMAND(&r, &o, 2048, 0x28, 0, 0, 0, 0, 5, 0, 0, 1);
	ASSERT_REFUSED(&o, 3, 0x11, 0);
	rig_fini(&r);
}

static void on_dirty(void *opaque, struct gpa addr, size_t len)
{
	*(_Bool *)opaque |= addr.v <= DATA && addr.v + len >= DATA + 2048;
}

/* A guest may run code from there, or be on its way to another host. */
static void a_read_that_fails_in_the_middle_has_touched_the_buffer(void **state)
{
	_Bool told = 0;
	struct outcome o;
	struct rig r;

	rig_init(&r);
	vt_start(&r.t, 0, 3);
	r.disc->hold = 1;
	r.disc->fail = -EIO;
	r.disc->torn = 1;
	command_to(&r, 0, 0, (const uint8_t[]){0x28, 0, 0, 0, 0, 5, 0, 0, 1}, 9, 2048);
	gmem_set_listener(r.t.b.mem, on_dirty, &told);
	r.disc->hold = 0;
	disc_run(r.disc);
	outcome_get(&r, &o);
	ASSERT_REFUSED(&o, 3, 0x11, 0);
	assert_memory_equal(o.data, r.disc->data + 5 * 2048, 2048);
	assert_true(told);
	gmem_set_listener(r.t.b.mem, NULL, NULL);
	rig_fini(&r);
}

static void what_is_not_there_is_refused(void **state)
{
	static const uint8_t ready[] = {0}, inquiry[] = {0x12, 0, 0, 0, 36};
	struct outcome o;
	struct rig r;

	rig_init(&r);
	vt_start(&r.t, 0, 3);
	COMMAND(&r, &o, 4096, 0x28, 0, 0, 0, 0, 99, 0, 0, 2);
	ASSERT_REFUSED(&o, 5, 0x21, 0);
	COMMAND(&r, &o, 4096, 0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
	ASSERT_REFUSED(&o, 5, 0x21, 0);
	COMMAND(&r, &o, 2047, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	assert_int_equal(o.response, SCSI_OVERRUN);
	command_to(&r, 1, 0, ready, 1, 0);
	outcome_get(&r, &o);
	assert_int_equal(o.response, SCSI_BAD_TARGET);
	command_to(&r, 0, 3, ready, 1, 0);
	outcome_get(&r, &o);
	ASSERT_REFUSED(&o, 5, 0x25, 0);
	command_to(&r, 0, 3, inquiry, sizeof(inquiry), 36);
	outcome_get(&r, &o);
	ASSERT_GOOD(&o, 36);
	assert_int_equal(o.data[0], 0x7f);
	for (unsigned op = 0; op < 256; op++) { /* every command, with nothing but ones */
		uint8_t cdb[32];
		memset(cdb, 0xff, sizeof(cdb));
		cdb[0] = (uint8_t)op;
		command_to(&r, 0, 0, cdb, sizeof(cdb), 4096);
		outcome_get(&r, &o);
		assert_int_equal(o.response, 0);
	}
	rig_fini(&r);
}

#define READY(r, o)	COMMAND(r, o, 0, 0x00)
#define EVENTS(r, o)	COMMAND(r, o, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8)
#define TRAY(r, o, how) COMMAND(r, o, 0, 0x1b, 0, 0, 0, how) /* 2: open, 3: close */
#define LOCK(r, o, on)	COMMAND(r, o, 0, 0x1e, 0, 0, 0, on)

static void a_guest_takes_the_disc_out(void **state)
{
	struct outcome o;
	struct rig r;

	rig_init(&r);
	vt_start(&r.t, 0, 3);
	LOCK(&r, &o, 1);
	COMMAND(&r, &o, 64, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64);
	assert_int_equal(o.data[8 + 6], 0x2b); /* a tray; ejects; can be locked, and is */
	TRAY(&r, &o, 2);
	ASSERT_REFUSED(&o, 5, 0x53, 2);
	LOCK(&r, &o, 0);
	TRAY(&r, &o, 2);
	ASSERT_GOOD(&o, 0);
	assert_int_equal(r.ejected, 1);
	assert_true(scsi_cd_empty(r.t.dev));
	READY(&r, &o);
	ASSERT_REFUSED(&o, 2, 0x3a, 2);
	COMMAND(&r, &o, 2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	ASSERT_REFUSED(&o, 2, 0x3a, 2);
	EVENTS(&r, &o);
	assert_memory_equal(o.data, "\0\6\4\x10\3\1\0\0", 8); /* removed; open, none */
	EVENTS(&r, &o);
	assert_int_equal(o.data[4], 0); /* it was told */
	COMMAND(&r, &o, 64, 0x46, 0, 0, 0, 0, 0, 0, 0, 64);
	assert_int_equal(o.data[7], 0); /* no profile */
	TRAY(&r, &o, 3);
	READY(&r, &o);
	ASSERT_REFUSED(&o, 2, 0x3a, 1); /* closed, and nothing in it */
	TRAY(&r, &o, 2);
	assert_int_equal(r.ejected, 1); /* only what was there */
	rig_fini(&r);
}

static void a_new_disc_is_told_once(void **state)
{
	struct outcome o;
	struct rig r;

	rig_init(&r);
	vt_start(&r.t, 0, 3);
	assert_int_equal(scsi_cd_eject(r.t.dev, 0), 0);
	assert_int_equal(r.ejected, 0); /* who did it knows */
	READY(&r, &o);
	ASSERT_REFUSED(&o, 2, 0x3a, 2);
	scsi_cd_insert(r.t.dev, &r.disc->disk);
	assert_false(scsi_cd_empty(r.t.dev));
	COMMAND(&r, &o, 36, 0x12, 0, 0, 0, 36); /* does not wait for anything */
	ASSERT_GOOD(&o, 36);
	EVENTS(&r, &o);
	assert_memory_equal(o.data, "\0\6\4\x10\2\2\0\0", 8);
	COMMAND(&r, &o, 8, 0x25);
	ASSERT_REFUSED(&o, 6, 0x28, 0);
	COMMAND(&r, &o, 8, 0x25);
	ASSERT_GOOD(&o, 8);
	assert_memory_equal(o.data, "\0\0\0\x63\0\0\x08\0", 8);
	/* Asked for instead of run into. */
	assert_int_equal(scsi_cd_eject(r.t.dev, 0), 0);
	scsi_cd_insert(r.t.dev, &r.disc->disk);
	COMMAND(&r, &o, 18, 0x03, 0, 0, 0, 18);
	assert_memory_equal(o.data, "\x70\0\6\0\0\0\0\x0a\0\0\0\0\x28", 13);
	READY(&r, &o);
	ASSERT_GOOD(&o, 0);
	rig_fini(&r);
}

static void a_disc_that_is_held_is_asked_for(void **state)
{
	static const uint8_t read[] = {0x28, 0, 0, 0, 0, 97, 0, 0, 1};
	struct outcome o;
	struct rig r;

	rig_init(&r);
	vt_start(&r.t, 0, 3);
	LOCK(&r, &o, 1);
	assert_int_equal(scsi_cd_eject(r.t.dev, 0), -EBUSY);
	assert_false(scsi_cd_empty(r.t.dev));
	EVENTS(&r, &o);
	assert_memory_equal(o.data, "\0\6\4\x10\1\2\0\0", 8);
	READY(&r, &o);
	ASSERT_GOOD(&o, 0);
	vt_status(&r.t, 0); /* who starts over holds nothing */
	assert_int_equal(scsi_cd_eject(r.t.dev, 0), 0);
	scsi_cd_insert(r.t.dev, &r.disc->disk);
	vt_start(&r.t, 0, 3);
	READY(&r, &o);
	ASSERT_GOOD(&o, 0); /* and looks at everything anew */
	LOCK(&r, &o, 1);
	/* By force, while it is being read: what was asked for comes. */
	r.disc->hold = 1;
	command_to(&r, 0, 0, read, sizeof(read), 2048);
	assert_int_equal(scsi_cd_eject(r.t.dev, 1), 0);
	r.disc->hold = 0;
	disc_run(r.disc);
	outcome_get(&r, &o);
	ASSERT_GOOD(&o, 2048);
	assert_memory_equal(o.data, r.disc->data + 97 * 2048, 2048);
	READY(&r, &o);
	ASSERT_REFUSED(&o, 2, 0x3a, 2);
	rig_fini(&r);
}

static void a_request_without_room_breaks_the_device(void **state)
{
	struct rig r;

	for (unsigned way = 0; way < 3; way++) {
		rig_init(&r);
		vt_start(&r.t, 0, 3);
		if (way == 2)
			vt_out(&r.t, 0x2000 + 24, 4, 0xffffffff); /* a CDB of 4 GiB */
		vt_desc(&r.t, 2, 0, REQ, way == 0 ? 50 : 51, 1, 1);
		vt_desc(&r.t, 2, 1, RESP, way == 1 ? 107 : 108, 2, 0);
		vt_offer(&r.t, 2, 0);
		vt_notify(&r.t, 2);
		assert_true(vt_in(&r.t, 20, 1) & VIRTIO_NEEDS_RESET);
		rig_fini(&r);
	}
}

static uint8_t control(struct rig *r, const uint8_t *req, unsigned len, unsigned in)
{
	uint32_t head, used;
	uint8_t answer[8];

	assert_int_equal(gmem_write(r->t.b.mem, gpa(REQ), req, len), 0);
	vt_desc(&r->t, 0, 0, REQ, len, 1, 1);
	vt_desc(&r->t, 0, 1, RESP, in, 2, 0);
	vt_offer(&r->t, 0, 0);
	vt_notify(&r->t, 0);
	assert_true(vt_used(&r->t, 0, &head, &used));
	assert_int_equal(used, in);
	assert_int_equal(gmem_read(r->t.b.mem, gpa(RESP), answer, in), 0);
	return answer[in - 1];
}

static void task_management_answers(void **state)
{
	uint8_t req[24] = {0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0x40, 0};
	struct rig r;

	rig_init(&r);
	vt_start(&r.t, 0, 3);
	assert_int_equal(control(&r, req, 24, 1), SCSI_OK);
	req[11] = 1;
	assert_int_equal(control(&r, req, 24, 1), SCSI_BAD_LUN);
	req[9] = 1;
	assert_int_equal(control(&r, req, 24, 1), SCSI_BAD_TARGET);
	req[0] = 1;
	assert_int_equal(control(&r, req, 20, 5), SCSI_OK);
	req[0] = 9;
	assert_int_equal(control(&r, req, 20, 5), SCSI_REJECTED);
	vt_desc(&r.t, 0, 0, REQ, 3, 0, 0);
	vt_offer(&r.t, 0, 0);
	vt_notify(&r.t, 0);
	assert_true(vt_in(&r.t, 20, 1) & VIRTIO_NEEDS_RESET);
	rig_fini(&r);
}

static void saved_and_loaded_it_is_the_same(void **state)
{
	struct outcome o;
	struct rig r;
	struct wbuf w;

	rig_init(&r);
	vt_start(&r.t, 0, 3);
	COMMAND(&r, &o, 8, 0x25);
	bench_corrupt(r.t.dev);
	bench_save(r.t.dev, &w);
	COMMAND(&r, &o, 8, 0x25);
	assert_int_equal(bench_load(r.t.dev, w.data, w.len), 0);
	wbuf_fini(&w);
	bench_refuses(r.t.dev, struct scsi, vd.config[0], 9);
	bench_refuses(r.t.dev, struct scsi, drive.event, CD_REMOVAL + 1);
	bench_refuses(r.t.dev, struct scsi, drive.blocks, BLOCKS + 1);
	/* Without its disc, and with the driver's lock and an event that nobody asked for. */
	LOCK(&r, &o, 1);
	assert_int_equal(scsi_cd_eject(r.t.dev, 0), -EBUSY);
	bench_save(r.t.dev, &w);
	assert_int_equal(scsi_cd_eject(r.t.dev, 1), 0);
	assert_int_equal(bench_load(r.t.dev, w.data, w.len), -EINVAL);
	scsi_cd_insert(r.t.dev, &r.disc->disk);
	assert_int_equal(bench_load(r.t.dev, w.data, w.len), 0);
	EVENTS(&r, &o);
	assert_memory_equal(o.data, "\0\6\4\x10\1\2\0\0", 8);
	wbuf_fini(&w);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(reset_values_are_the_specifications),
	    cmocka_unit_test(every_offset_at_every_width_is_harmless),
	    cmocka_unit_test(a_drive_says_what_it_is),
	    cmocka_unit_test(blocks_are_read),
	    cmocka_unit_test(a_read_that_fails_in_the_middle_has_touched_the_buffer),
	    cmocka_unit_test(what_is_not_there_is_refused),
	    cmocka_unit_test(a_guest_takes_the_disc_out),
	    cmocka_unit_test(a_new_disc_is_told_once),
	    cmocka_unit_test(a_disc_that_is_held_is_asked_for),
	    cmocka_unit_test(a_request_without_room_breaks_the_device),
	    cmocka_unit_test(task_management_answers),
	    cmocka_unit_test(saved_and_loaded_it_is_the_same),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
