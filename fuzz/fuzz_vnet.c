/* fuzz_vnet.c: the network card with rings, headers and commands that a guest makes up. */
#include "dev/virtio/vnet_testing.h"

#include <stdlib.h>

#include "base/log.h"

/* Input: byte 0 which features; then steps: a queue, and what its descriptors and buffers hold. */
static uint8_t take(const uint8_t **data, size_t *size)
{
	if (!*size)
		return 0;
	(*size)--;
	return *(*data)++;
}

static void step(struct rig *r, const uint8_t **data, size_t *size)
{
	unsigned q = take(data, size) % virtio_of(r->dev)->queues, n = 1 + take(data, size) % 4;
	uint8_t bytes[64];

	for (unsigned d = 0; d < n; d++) {
		uint8_t kind = take(data, size), place = take(data, size);
		uint64_t addr = kind & 0x80 ? (uint64_t)place << 13 : rig_buf(q, d);
		uint32_t len = kind & 0x40 ? (uint32_t)place * 257 : 12 + place;

		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = take(data, size);
		if (gmem_write(r->b.mem, gpa(rig_buf(q, d)), bytes, sizeof(bytes)))
			return;
		rig_desc_put(r, q, d, addr, len, (kind & 7) | (d + 1 < n), (uint16_t)(d + 1));
	}
	rig_offer(r, q, 0);
	net_mem_feed(r->net, bytes, 14 + bytes[0] % 50, NULL);
	rig_notify(r, q);
	while (net_mem_take(r->net, bytes, sizeof(bytes), NULL))
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const unsigned all = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_ECN;
	uint64_t drop;
	struct rig r;

	log_set_level(LOG_ERROR);
	rig_init(&r, 2, all);
	drop = (uint64_t)take(&data, &size) << 15 | VIRTIO_F_RING_PACKED;
	if (rig_start(&r, rig_offered(&r) & ~drop))
		while (size && !(virtio_of(r.dev)->status & VIRTIO_NEEDS_RESET))
			step(&r, &data, &size);
	if (virtio_in_flight(virtio_of(r.dev)))
		abort();
	rig_fini(&r);
	return 0;
}
