/* fuzz_blk.c: the block device as a guest reaches it: registers, rings, requests, resets in
 * mid-I/O.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/disk_impl.h"
#include "base/le.h"
#include "base/log.h"
#include "dev/virtio/blk.h"

#define RAM   (UINT64_C(64) << 10)
#define BAR   UINT64_C(0xe0000000)
#define MSIX  UINT64_C(0xe0010000)
#define BYTES (UINT64_C(64) << 10)
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			abort();                                                                   \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct fake {
	struct disk disk; /* first */
	struct disk_req *waiting;
	uint8_t data[BYTES];
};

struct rig {
	struct space *ports, *memory;
	struct gmem *mem;
	struct device *bus, *dev;
	struct fake fake;
};

static void fake_submit(struct disk *disk, struct disk_req *req)
{
	struct fake *f = (struct fake *)disk;

	req->next = f->waiting;
	f->waiting = req;
}

static void fake_kick(struct disk *disk)
{
}

static const struct disk_ops fake_ops = {
    .submit = fake_submit, .kick = fake_kick, .refuse = fake_submit};

/* The newest request ends: with success, its bytes moved, or with an error. */
static void fake_finish(struct fake *f, int result)
{
	struct disk_req *req = f->waiting;
	uint64_t at;

	if (!req)
		return;
	f->waiting = req->next;
	at = req->offset;
	if (req->result)
		result = req->result;
	if (!result && req->op != DISK_FLUSH)
		CHECK(range_fits(req->offset, req->len, BYTES));
	for (unsigned i = 0; !result && i < req->iov_count; i++) {
		if (req->op == DISK_READ)
			memcpy(req->iov[i].iov_base, f->data + at, req->iov[i].iov_len);
		else
			memcpy(f->data + at, req->iov[i].iov_base, req->iov[i].iov_len);
		at += req->iov[i].iov_len;
	}
	disk_complete(&f->disk, req, result);
}

static void reg(struct rig *r, unsigned offset, unsigned size, uint32_t value)
{
	space_write(r->memory, BAR + offset, size, value);
}

static void config(struct rig *r, unsigned offset, unsigned size, uint32_t value)
{
	space_write(r->ports, 0xcf8, 4, 0x80000800u | (offset & 0xfc));
	space_write(r->ports, 0xcfc + (offset & 3), size, value);
}

/* As a driver that does everything right so far: two queues, rings from 0 and from 0x1000. */
static void start(struct rig *r, uint8_t how)
{
	uint32_t low = 0x7e46 | (how & 1 ? 1u << 28 : 0) | (how & 2 ? 1u << 29 : 0);
	uint32_t high = 1 | 1 << 8 | (how & 4 ? 4 : 0);

	reg(r, 20, 1, 0);
	reg(r, 20, 1, 3);
	reg(r, 8, 4, 0);
	reg(r, 12, 4, low);
	reg(r, 8, 4, 1);
	reg(r, 12, 4, high);
	reg(r, 20, 1, 11);
	for (unsigned q = 0; q < 2; q++) {
		reg(r, 22, 2, q);
		reg(r, 24, 2, 8);
		reg(r, 32, 4, q * 0x1000);
		reg(r, 40, 4, q * 0x1000 + 0x100);
		reg(r, 48, 4, q * 0x1000 + 0x200);
		reg(r, 28, 2, 1);
	}
	reg(r, 20, 1, 15);
}

static void step(struct rig *r, uint8_t op, uint16_t where, uint32_t what)
{
	uint8_t request[0x30] = {0};

	switch (op % 12) {
	case 0: reg(r, where % 0x48, 1u << (what & 1), what >> 8); break;
	case 1: reg(r, 0x3000 + 4 * (where & 1), 2, where & 1); break;
	case 2: (void)!gmem_write(r->mem, gpa(where), &what, 4); break;
	case 3: (void)!gmem_write(r->mem, gpa(where % 0x240), &what, 2); break;
	case 4: fake_finish(&r->fake, 0); break;
	case 5: fake_finish(&r->fake, -5); break;
	case 6: start(r, (uint8_t)what); break;
	case 7: config(r, where % 256, 1u << (what & 1), what >> 8); break;
	case 8: (void)space_read(r->memory, BAR + where % 0x4000, 1u << (what % 3)); break;
	case 9: /* descriptors of a plain request, at the input's place in the first table */
		store_le64(request, 0x4000 + (where & 0xff));
		store_le32(request + 8, 16);
		store_le32(request + 12, 1 | (1 << 16));
		store_le64(request + 16, 0x5000);
		store_le32(request + 24, what & 0x1fff);
		store_le32(request + 28, (what >> 16 & 7) | (2 << 16));
		store_le64(request + 32, 0x8000);
		store_le32(request + 40, 1);
		store_le32(request + 44, 2);
		(void)!gmem_write(r->mem, gpa((where >> 15) * 0x1000), request, sizeof(request));
		break;
	case 10: device_reset(r->dev, RESET_SYSTEM); break;
	case 11: (void)!gmem_write(r->mem, gpa(0x4000 + where % 0x40), &what, 4); break;
	}
}

static void setup(struct rig *r)
{
	const struct gmem_config cfg = {.ram_bytes = RAM, .low_limit = UINT64_C(3) << 30};
	struct pci_bus_config bus = {.intx_count = 4};
	struct blk_config blk = {.serial = "fuzz", .queues = 2};

	CHECK(!space_new(&r->ports, "ports", 65536) &&
	      !space_new(&r->memory, "memory", UINT64_C(1) << 48) &&
	      !gmem_new(&r->mem, &cfg, NULL));
	bus.ports = r->ports;
	bus.memory = r->memory;
	CHECK(!pci_bus_new(&r->bus, &bus, NULL));
	disk_init(&r->fake.disk, &fake_ops);
	r->fake.disk.info = (struct disk_info){
	    .size_bytes = BYTES, .logical_block = 512, .physical_block = 4096, .discard = 1};
	blk.disk = &r->fake.disk;
	blk.place = (struct virtio_place){.mem = r->mem, .bus = r->bus, .slot = 1};
	CHECK(!blk_new(&r->dev, &blk, NULL));
	device_reset(r->bus, RESET_POWER);
	device_reset(r->dev, RESET_POWER);
	config(r, 0x14, 4, MSIX);
	config(r, 0x20, 4, BAR);
	config(r, 4, 2, 6);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct rig *r = calloc(1, sizeof(*r));

	CHECK(r);
	log_set_level(LOG_ERROR);
	setup(r);
	if (len)
		start(r, data[0]);
	for (; len >= 7; data += 7, len -= 7) {
		uint16_t where;
		uint32_t what;
		memcpy(&where, data + 1, 2);
		memcpy(&what, data + 3, 4);
		step(r, data[0], where, what);
	}
	while (r->fake.waiting)
		fake_finish(&r->fake, 0);
	CHECK(!virtio_in_flight((struct virtio_dev *)r->dev));
	/* Whatever happened: after a reset the device works. */
	config(r, 0x14, 4, MSIX);
	config(r, 0x20, 4, BAR);
	config(r, 4, 2, 6);
	start(r, 0);
	CHECK((space_read(r->memory, BAR + 20, 1) & 15) == 15);
	while (r->fake.waiting)
		fake_finish(&r->fake, 0);
	device_free(r->dev);
	device_free(r->bus);
	disk_fini(&r->fake.disk);
	gmem_free(r->mem);
	space_free(r->memory);
	space_free(r->ports);
	free(r);
	return 0;
}
