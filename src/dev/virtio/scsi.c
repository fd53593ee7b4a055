/* scsi.c: the SCSI host: queues, requests, task management (VIRTIO12 5.6). */
#include "dev/virtio/scsi.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"
#include "dev/virtio/scsi_impl.h"

#define SCSI_CLASS_CODE 0x010000
#define DEFAULT_CDB	32
#define DEFAULT_SENSE	96
#define MAX_SECTORS	2048 /* of 512 bytes in a command: what drivers are advised */
#define READ_ERROR                                                                                 \
	{                                                                                          \
		3, 0x11, 0                                                                         \
	}

static uint32_t cdb_size(const struct scsi *s)
{
	return load_le32(s->vd.config + SCSI_CFG_CDB_SIZE);
}
static uint32_t sense_size(const struct scsi *s)
{
	return load_le32(s->vd.config + SCSI_CFG_SENSE_SIZE);
}

static void config_fill(uint8_t *c)
{
	memset(c, 0, SCSI_CFG_BYTES);
	store_le32(c + SCSI_CFG_NUM_QUEUES, 1);
	store_le32(c + SCSI_CFG_SEG_MAX, VQ_SEGS_MAX - 4);
	store_le32(c + SCSI_CFG_MAX_SECTORS, MAX_SECTORS);
	store_le32(c + SCSI_CFG_CMD_PER_LUN, SCSI_REQUESTS);
	store_le32(c + SCSI_CFG_EVENT_INFO, 16);
	store_le32(c + SCSI_CFG_SENSE_SIZE, DEFAULT_SENSE);
	store_le32(c + SCSI_CFG_CDB_SIZE, DEFAULT_CDB);
}

/* ---- requests ---- */

static void req_free(struct scsi *s, struct scsi_req *r)
{
	r->next = s->free;
	s->free = r;
}

/* The response goes in front of the data; `data` bytes of that were filled. */
static void req_finish(struct scsi *s, struct scsi_req *r, enum scsi_response response,
		       const struct scsi_sense *sense, uint32_t data)
{
	uint8_t head[SCSI_RESP_HEAD] = {0}, fixed[SCSI_SENSE] = {0x70};
	uint32_t sense_len = sense ? MIN(sense_size(s), (uint32_t)SCSI_SENSE) : 0;

	if (sense) {
		fixed[2] = sense->key;
		fixed[7] = SCSI_SENSE - 8;
		fixed[12] = sense->asc;
		fixed[13] = sense->ascq;
	}
	store_le32(head, sense_len);
	store_le32(head + 4, r->room - data);
	head[10] = sense ? SCSI_CHECK : SCSI_GOOD;
	head[11] = (uint8_t)response;
	chain_write(s->vd.mem, &r->chain, 0, head, sizeof(head));
	chain_write(s->vd.mem, &r->chain, sizeof(head), fixed, sense_len);
	virtio_push(&s->vd, SCSI_QUEUE_REQUEST, &r->chain, r->data_at + data);
	req_free(s, r);
}

static void request_queue_run(struct scsi *s);

static void kick(struct scsi *s)
{
	if (s->disk)
		disk_kick(s->disk);
}

/* On a thread of the back end. */
static void read_done(struct disk_req *io, int result)
{
	static const struct scsi_sense read_error = READ_ERROR;
	struct scsi_req *r = container_of(io, struct scsi_req, io);
	struct scsi *s = r->scsi;

	lock_take(&s->vd.pci.dev.lock);
	s->drive.reading--;
	/* Also when it failed: a part may have come before that. */
	chain_dirty(s->vd.mem, &r->chain, r->data_at + r->reading);
	req_finish(s, r, SCSI_OK, result ? &read_error : NULL, result ? 0 : r->reading);
	if (s->starved) {
		s->starved = 0;
		request_queue_run(s);
	}
	virtio_interrupt(&s->vd, SCSI_QUEUE_REQUEST);
	kick(s);
	lock_drop(&s->vd.pci.dev.lock);
}

static void read_start(struct scsi *s, struct scsi_req *r, const struct cd_result *cd)
{
	uint64_t len = (uint64_t)cd->count * CD_BLOCK;
	int n;

	if (!len) {
		req_finish(s, r, SCSI_OK, NULL, 0);
		return;
	}
	if (len > r->room) {
		req_finish(s, r, SCSI_OVERRUN, NULL, 0);
		return;
	}
	n = chain_slice(&r->chain, 1, r->data_at, len, r->iov, VQ_SEGS_MAX);
	if (n < 0) {
		req_finish(s, r, SCSI_FAILURE, NULL, 0);
		return;
	}
	r->io.op = DISK_READ;
	r->io.offset = cd->lba * CD_BLOCK;
	r->io.len = len;
	r->reading = (uint32_t)len;
	r->io.iov = r->iov;
	r->io.iov_count = (unsigned)n;
	s->drive.reading++;
	disk_submit(s->disk, &r->io);
}

/* 5.6.6.1: a single-level LUN: 1, target, 0x40 or 0 with the upper bits, the lower bits. */
static _Bool is_target(const uint8_t lun[8])
{
	return lun[0] == 1 && lun[1] == 0;
}
static unsigned lun_of(const uint8_t lun[8])
{
	return (unsigned)(lun[2] & 0x3f) << 8 | lun[3];
}

static void req_start(struct scsi *s, struct scsi_req *r)
{
	uint8_t head[SCSI_REQ_HEAD], cdb[SCSI_CDB_MAX] = {0};
	struct cd_result cd;

	chain_read(&r->chain, 0, head, sizeof(head));
	chain_read(&r->chain, sizeof(head), cdb, MIN(cdb_size(s), (uint32_t)sizeof(cdb)));
	trace(TRACE_IO, "%s: command %#x target %u lun %u room %u", s->vd.pci.dev.id, cdb[0],
	      head[1], lun_of(head), r->room);
	if (!is_target(head)) {
		req_finish(s, r, SCSI_BAD_TARGET, NULL, 0);
		return;
	}
	cd_command(&s->drive, lun_of(head) == 0, cdb, &cd);
	if (s->disk && !s->drive.present) {
		s->disk = NULL;
		if (s->ejected)
			s->ejected(s->opaque);
	}
	switch (cd.kind) {
	case CD_READ: read_start(s, r, &cd); break;
	case CD_ERROR: req_finish(s, r, SCSI_OK, &cd.sense, 0); break;
	case CD_DONE:
		cd.len = MIN(cd.len, r->room);
		chain_write(s->vd.mem, &r->chain, r->data_at, cd.data, cd.len);
		req_finish(s, r, SCSI_OK, NULL, cd.len);
		break;
	}
}

static void request_queue_run(struct scsi *s)
{
	while (virtio_queue_ready(&s->vd, SCSI_QUEUE_REQUEST)) {
		struct scsi_req *r = s->free;
		uint64_t out = (uint64_t)SCSI_REQ_HEAD + cdb_size(s);
		uint64_t in = (uint64_t)SCSI_RESP_HEAD + sense_size(s);

		if (!r) {
			s->starved = 1;
			break;
		}
		if (!virtio_pop(&s->vd, SCSI_QUEUE_REQUEST, &r->chain))
			break;
		s->free = r->next;
		r->scsi = s;
		r->io.done = read_done;
		if (r->chain.out_bytes < out || r->chain.in_bytes < in) {
			virtio_drop(&s->vd, SCSI_QUEUE_REQUEST, &r->chain);
			req_free(s, r);
			virtio_broken(&s->vd, "a SCSI request without command or response");
			break;
		}
		r->data_at = (uint32_t)in;
		r->room = r->chain.in_bytes - (uint32_t)in;
		req_start(s, r);
	}
	if (s->vd.vq[SCSI_QUEUE_REQUEST].ready)
		virtio_interrupt(&s->vd, SCSI_QUEUE_REQUEST);
}

/* ---- the control queue (5.6.6.2) ---- */

/* Task management: what is named has ended long ago, or cannot be called back while it reads. */
static uint8_t manage(const struct scsi *s, const uint8_t *tmf)
{
	if (!is_target(tmf + 8))
		return SCSI_BAD_TARGET;
	if (lun_of(tmf + 8))
		return SCSI_BAD_LUN;
	return s->drive.reading ? SCSI_REJECTED : SCSI_OK;
}

static void control_queue_run(struct scsi *s)
{
	struct vq_chain c;

	while (virtio_queue_ready(&s->vd, SCSI_QUEUE_CTRL) &&
	       virtio_pop(&s->vd, SCSI_QUEUE_CTRL, &c)) {
		uint8_t req[24] = {0}, answer[5] = {0};
		size_t have = chain_read(&c, 0, req, sizeof(req));
		/* Notifications (types 1 and 2): none is ever sent, the answer says so. */
		unsigned type = load_le32(req), len = type ? 5 : 1, least = type ? 16 : 24;

		if (have < least || c.in_bytes < len) {
			virtio_drop(&s->vd, SCSI_QUEUE_CTRL, &c);
			virtio_broken(&s->vd, "a SCSI control request that is too short");
			return;
		}
		answer[len - 1] = type > 2 ? SCSI_REJECTED : type ? SCSI_OK : manage(s, req);
		chain_write(s->vd.mem, &c, 0, answer, len);
		virtio_push(&s->vd, SCSI_QUEUE_CTRL, &c, len);
	}
	if (s->vd.vq[SCSI_QUEUE_CTRL].ready)
		virtio_interrupt(&s->vd, SCSI_QUEUE_CTRL);
}

static void scsi_notify(struct virtio_dev *vd, unsigned q)
{
	struct scsi *s = scsi_of(vd);

	/* Buffers for events wait: there are no events. */
	if (q == SCSI_QUEUE_CTRL)
		control_queue_run(s);
	else if (q == SCSI_QUEUE_REQUEST)
		request_queue_run(s);
	kick(s);
}

/* The disc and the tray stay as they are. */
static void scsi_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	struct scsi *s = scsi_of(vd);

	config_fill(vd->config);
	s->starved = 0;
	s->drive.locked = s->drive.attention = 0;
	s->drive.event = CD_NO_CHANGE;
}

static const struct virtio_ops scsi_ops = {.notify = scsi_notify, .reset = scsi_reset};

/* ---- the device's class ---- */

static void scsi_quiesce(struct device *dev)
{
	struct scsi *s = scsi_of(virtio_of(dev));

	if (s->disk)
		disk_drain(s->disk);
}

static void scsi_free(struct device *dev)
{
	struct scsi *s = scsi_of(virtio_of(dev));

	scsi_quiesce(dev);
	virtio_fini(&s->vd);
	free(s->requests);
	free(s);
}

static uint64_t disc_blocks(const struct disk *disk)
{
	struct disk_info info = {0};

	if (disk)
		disk_info(disk, &info);
	return info.size_bytes / CD_BLOCK;
}

static int scsi_check(const void *shadow, struct error *err)
{
	const struct scsi *s = shadow;
	uint8_t expected[SCSI_CFG_BYTES];

	config_fill(expected);
	/* The driver's own two. */
	memcpy(expected + SCSI_CFG_SENSE_SIZE, s->vd.config + SCSI_CFG_SENSE_SIZE, 8);
	if (memcmp(expected, s->vd.config, sizeof(expected)))
		return error_set(err, -EINVAL, "saved state of %s: it was of another kind",
				 s->vd.pci.dev.id);
	if (s->drive.present != !!s->disk || s->drive.blocks != disc_blocks(s->disk))
		return error_set(err, -EINVAL, "saved state of %s: %s", s->vd.pci.dev.id,
				 s->drive.present ? "there was another disc in the drive"
						  : "there was no disc in the drive");
	if (s->drive.event > CD_REMOVAL)
		return error_set(err, -EINVAL, "saved state of %s: its disc's event is none",
				 s->vd.pci.dev.id);
	return virtio_check(&s->vd, err);
}

static const struct state_field scsi_fields[] = {
    VIRTIO_STATE(struct scsi, vd),
    STATE_SCALAR(100, struct scsi, drive.blocks),
    STATE_BOOL(101, struct scsi, drive.present),
    STATE_BOOL(102, struct scsi, drive.locked),
    STATE_BOOL(103, struct scsi, drive.open),
    STATE_BOOL(104, struct scsi, drive.attention),
    STATE_SCALAR(105, struct scsi, drive.event),
    STATE_END,
};
static const struct state_desc scsi_state = {
    .name = "virtio-scsi",
    .fields = scsi_fields,
    .size = sizeof(struct scsi),
    .check = scsi_check,
};
static const struct device_class scsi_class = {
    .name = "virtio-scsi",
    .reset = virtio_device_reset,
    .free = scsi_free,
    .quiesce = scsi_quiesce,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
    .state = &scsi_state,
};

static int requests_make(struct scsi *s)
{
	s->requests = calloc(SCSI_REQUESTS, sizeof(*s->requests));
	for (unsigned i = 0; s->requests && i < SCSI_REQUESTS; i++)
		req_free(s, &s->requests[i]);
	return s->requests ? 0 : -ENOMEM;
}

int scsi_cd_new(struct device **dev, const struct scsi_cd_config *cfg, struct error *err)
{
	static const uint16_t sizes[SCSI_QUEUES] = {SCSI_QUEUE_SIZE, SCSI_QUEUE_SIZE,
						    SCSI_QUEUE_SIZE};
	char name[24];
	const struct virtio_setup setup = {
	    .cls = &scsi_class,
	    .ops = &scsi_ops,
	    .id = VIRTIO_ID_SCSI,
	    .name = name,
	    .class_code = SCSI_CLASS_CODE,
	    .queues = SCSI_QUEUES,
	    .queue_sizes = sizes,
	    .config_size = SCSI_CFG_BYTES,
	};
	struct scsi *s = calloc(1, sizeof(*s));
	int r;

	if (!s || requests_make(s)) {
		free(s);
		return error_set(err, -ENOMEM, "out of memory");
	}
	snprintf(name, sizeof(name), "scsi%u", cfg->place.instance);
	s->disk = cfg->disk;
	s->drive.present = cfg->disk != NULL;
	s->drive.blocks = disc_blocks(cfg->disk);
	s->ejected = cfg->ejected;
	s->opaque = cfg->opaque;
	memset(s->vd.config_rw + SCSI_CFG_SENSE_SIZE, 0xff, 8);
	r = virtio_init(&s->vd, &cfg->place, &setup, err);
	if (r) {
		free(s->requests);
		free(s);
		return r;
	}
	*dev = &s->vd.pci.dev;
	return 0;
}

/* ---- discs from the host's side ---- */

int scsi_cd_eject(struct device *dev, _Bool force)
{
	struct scsi *s = scsi_of(virtio_of(dev));
	int r = 0;

	lock_take(&dev->lock);
	if (s->disk && s->drive.locked && !force) {
		s->drive.event = CD_EJECT_REQUEST;
		r = -EBUSY;
	} else if (s->disk) {
		s->disk = NULL;
		cd_take_out(&s->drive);
	}
	lock_drop(&dev->lock);
	return r;
}

void scsi_cd_insert(struct device *dev, struct disk *disk)
{
	struct scsi *s = scsi_of(virtio_of(dev));

	lock_take(&dev->lock);
	assert(!s->disk);
	s->disk = disk;
	cd_put_in(&s->drive, disc_blocks(disk));
	lock_drop(&dev->lock);
}

_Bool scsi_cd_empty(struct device *dev)
{
	struct scsi *s = scsi_of(virtio_of(dev));
	_Bool empty;

	lock_take(&dev->lock);
	empty = !s->disk;
	lock_drop(&dev->lock);
	return empty;
}
