/* fuzz_virtqueue.c: rings of both formats whose every byte the input chooses, also while they are
 * read. */
#include <stdlib.h>
#include <string.h>

#include "dev/virtio/virtio.h"

#define RAM  (UINT64_C(64) << 10)
#define HELD 64
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			abort();                                                                   \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct rig {
	struct gmem *mem;
	struct virtqueue vq;
	struct vq_chain held[HELD];
	unsigned count;
};

/* Every piece lies in RAM, and the sums are right. */
static void chain_check(const struct rig *r, const struct vq_chain *c)
{
	const uint8_t *ram = gmem_slots(r->mem, &(unsigned){0})->host;
	uint64_t out = 0, in = 0;

	CHECK(c->out + c->in <= VQ_SEGS_MAX);
	for (unsigned i = 0; i < c->out + c->in; i++) {
		const uint8_t *at = c->iov[i].iov_base;
		CHECK(c->iov[i].iov_len && c->iov[i].iov_len <= RAM);
		CHECK(at >= ram && at + c->iov[i].iov_len <= ram + RAM);
		CHECK(at == ram + c->addr[i].v);
		*(i < c->out ? &out : &in) += c->iov[i].iov_len;
	}
	CHECK(out == c->out_bytes && in == c->in_bytes);
}

static void pop(struct rig *r)
{
	struct vq_chain *c = &r->held[r->count];
	const char *why;
	uint8_t bytes[64];

	if (r->count == HELD || vq_pop(&r->vq, c, &why) != 1)
		return;
	chain_check(r, c);
	chain_read(c, 3, bytes, sizeof(bytes));
	r->count++;
	CHECK(r->vq.in_flight == r->count && r->count <= r->vq.size);
}

/* Two that were held come back together, in the order of their going. */
static void push_two(struct rig *r)
{
	if (r->count < 2)
		return;
	vq_push_later(&r->vq, &r->held[r->count - 2], r->held[r->count - 2].in_bytes, 0);
	vq_push_later(&r->vq, &r->held[r->count - 1], 1, 1);
	vq_push_flush(&r->vq, 2);
	r->count -= 2;
}

static void step(struct rig *r, uint8_t op, uint16_t where, uint32_t what)
{
	struct vq_chain *last = &r->held[r->count ? r->count - 1 : 0];

	switch (op % 9) {
	case 0:
	case 1: pop(r); break;
	case 2:
		if (r->count) {
			chain_write(r->mem, last, where, &what, 4);
			vq_push(&r->vq, last, what);
			r->count--;
		}
		break;
	case 3: push_two(r); break;
	case 4:
		if (r->count) {
			vq_unpop(&r->vq, last);
			r->count--;
		}
		break;
	case 5:
		vq_notify_disable(&r->vq);
		if (what & 1)
			(void)vq_notify_enable(&r->vq);
		break;
	case 6: (void)vq_wants_interrupt(&r->vq); break;
	case 7: (void)!gmem_write(r->mem, gpa(where), &what, 4); break;
	case 8: (void)!gmem_write(r->mem, gpa(where % 0x300), &what, 2); break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct gmem_config cfg = {.ram_bytes = RAM, .low_limit = UINT64_C(3) << 30};
	static const uint64_t optional[] = {VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX,
					    VIRTIO_F_INDIRECT_DESC};
	uint64_t features = VIRTIO_F_VERSION_1;
	struct rig *r;

	if (len < 4)
		return 0;
	r = calloc(1, sizeof(*r));
	CHECK(r && !gmem_new(&r->mem, &cfg, NULL));
	for (unsigned i = 0; i < ARRAY_SIZE(optional); i++)
		features |= data[0] >> i & 1 ? optional[i] : 0;
	vq_init(&r->vq, r->mem, 16);
	r->vq.size = data[1] & 31;
	r->vq.desc = 0;
	r->vq.avail = 0x100;
	r->vq.used = 0x200;
	r->vq.last_avail = data[2];
	r->vq.used_idx = data[3];
	r->vq.avail_wrap = r->vq.used_wrap = data[0] >> 4 & 1;
	if (!vq_start(&r->vq, features, data[0] >> 3 & 1)) {
		data += 4;
		len -= 4;
		(void)!gmem_write(r->mem, gpa(0), data, MIN(len, 0x400u));
		for (; len >= 7; data += 7, len -= 7) {
			uint16_t where;
			uint32_t what;
			memcpy(&where, data + 1, 2);
			memcpy(&what, data + 3, 4);
			step(r, data[0], where, what);
		}
	}
	gmem_free(r->mem);
	free(r);
	return 0;
}
