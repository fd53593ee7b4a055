/* fuzz_rings.c: devices with a back end of their own as a guest reaches them: the SCSI host with
 * its CD-ROM drive, the 9P transport, the sockets. Registers, rings, chains, resets, saves in the
 * middle.
 */
#include "rings.h"

#include "backend/disk_impl.h"
#include "backend/p9_testing.h"
#include "base/log.h"
#include "dev/virtio/p9dev.h"
#include "dev/virtio/scsi.h"
#include "dev/virtio/vsockdev.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define QUEUES	   3
#define DISC_BYTES (100 * 2048 + 512)

/* A disc of zeroes that keeps requests until it is told to answer them. */
struct disc {
	struct disk disk; /* first */
	struct disk_req *held[64];
	unsigned count;
};
struct rig {
	struct vt t;
	struct disc *disc;
	struct p9t *files;
	struct loop *loop;
	struct loop_work stop;
	struct vsock *vsock;
	char dir[32], path[40];
};

static void disc_submit(struct disk *disk, struct disk_req *req)
{
	struct disc *d = (struct disc *)disk;

	if (req->op != DISK_READ || req->offset + req->len > DISC_BYTES ||
	    d->count == ARRAY_SIZE(d->held))
		abort(); /* the device lets through what it should not, or too much */
	d->held[d->count++] = req;
}
static void disc_kick(struct disk *disk)
{
}
static const struct disk_ops disc_ops = {
    .submit = disc_submit, .kick = disc_kick, .refuse = disc_submit};

static void disc_answer(struct disc *d)
{
	while (d->count) {
		struct disk_req *req = d->held[--d->count];
		for (unsigned i = 0; i < req->iov_count; i++)
			memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
		req->len = 0;
		disk_complete(&d->disk, req, req->result);
	}
}

static void on_stop(struct loop_work *work)
{
	loop_stop(work->opaque, 0);
}

static void scsi_setup(struct rig *r)
{
	struct scsi_cd_config cfg = {.place = vt_init(&r->t)};

	r->disc = calloc(1, sizeof(*r->disc));
	disk_init(&r->disc->disk, &disc_ops);
	r->disc->disk.info = (struct disk_info){
	    .size_bytes = DISC_BYTES, .logical_block = 512, .physical_block = 512, .read_only = 1};
	cfg.disk = &r->disc->disk;
	if (scsi_cd_new(&r->t.dev, &cfg, NULL))
		abort();
}

static void p9_setup(struct rig *r)
{
	struct p9dev_config cfg = {.tag = "files"};

	r->files = p9t_new();
	p9t_open(r->files, 0);
	p9_reset(r->files->p9);
	cfg.place = vt_init(&r->t);
	cfg.p9 = r->files->p9;
	if (p9dev_new(&r->t.dev, &cfg, NULL))
		abort();
}

static void vsock_setup(struct rig *r)
{
	struct vsockdev_config cfg = {.cid = 7};

	strcpy(r->dir, "/tmp/fuzz_rings.XXXXXX");
	if (!mkdtemp(r->dir))
		abort();
	snprintf(r->path, sizeof(r->path), "%s/v", r->dir);
	if (loop_new(&r->loop, NULL) || vsock_new(&r->vsock, r->loop, r->path, NULL))
		abort();
	r->stop = (struct loop_work){.fn = on_stop, .opaque = r->loop};
	cfg.place = vt_init(&r->t);
	cfg.vsock = r->vsock;
	if (vsockdev_new(&r->t.dev, &cfg, NULL))
		abort();
}

/* The back end does what it has to do. */
static void rest(struct rig *r)
{
	if (r->disc)
		disc_answer(r->disc);
	if (r->files)
		p9_drain(r->files->p9);
	if (r->loop) {
		loop_post(r->loop, &r->stop);
		loop_run(r->loop);
	}
}

static void fini(struct rig *r)
{
	rest(r);
	vt_fini(&r->t);
	if (r->disc)
		disk_fini(&r->disc->disk);
	free(r->disc);
	if (r->files)
		p9t_free(r->files);
	if (r->vsock)
		vsock_free(r->vsock);
	if (r->loop) {
		loop_free(r->loop);
		rmdir(r->dir);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static void (*const setups[])(struct rig *) = {scsi_setup, p9_setup, vsock_setup};
	struct rig r = {0};

	if (!len)
		return 0;
	log_set_level(LOG_ERROR);
	setups[data[0] % ARRAY_SIZE(setups)](&r);
	vt_power_on(&r.t);
	rings_start(&r.t, 0);
	for (data++, len--; len >= 7; data += 7, len -= 7) {
		uint16_t where;
		uint32_t what;

		memcpy(&where, data + 1, 2);
		memcpy(&what, data + 3, 4);
		/* What is saved has no request at a back end (machine_save sees to it), and a reset
		 * waits for them on other threads than this one. */
		if (data[0] % 10 == 8 || data[0] % 10 == 7 || data[0] % 10 == 6 ||
		    data[0] % 10 == 0)
			rest(&r);
		rings_step(&r.t, QUEUES, data[0], where, what);
	}
	rest(&r);
	device_reset(r.t.dev, RESET_SYSTEM);
	vt_power_on(&r.t);
	rings_start(&r.t, 0);
	fini(&r);
	return 0;
}
