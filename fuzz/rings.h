/* rings.h: what fuzz targets do to any virtio device through its registers and rings. */
#ifndef FUZZ_RINGS_H
#define FUZZ_RINGS_H

#include "dev/virtio/testing.h"

#include <stdlib.h>

/* As a driver that does everything right so far, with some of what is offered. */
static inline void rings_start(struct vt *t, uint32_t features)
{
	uint64_t offered = vt_offered(t);

	vt_start(t, offered & ~(VIRTIO_F_RING_PACKED | features), virtio_of(t->dev)->queues);
}

static inline void rings_save_and_load(struct vt *t)
{
	struct wbuf w;

	bench_save(t->dev, &w);
	if (bench_load(t->dev, w.data, w.len))
		abort();
	wbuf_fini(&w);
}

/* One thing of nine that a guest can do, on one of the first `queues` queues. */
static inline void rings_step(struct vt *t, unsigned queues, uint8_t op, uint16_t where,
			      uint32_t what)
{
	unsigned q = where % queues % virtio_of(t->dev)->queues;

	switch (op % 10) {
	case 0: vt_out(t, where % 0x48, 1u << (what & 1), what >> 8); break;
	case 1: vt_notify(t, q); break;
	case 2: (void)!gmem_write(t->b.mem, gpa(VT_DATA + where % 0x1000), &what, 4); break;
	case 3: (void)!gmem_write(t->b.mem, gpa(VT_RING(q) + (what & 0xfff)), &where, 2); break;
	case 4: /* a descriptor, and on some of them a chain is offered */
		vt_desc(t, q, where >> 8 & 3,
			what & 0x80 ? VT_DATA : (uint64_t)(what & 0x1ff) << 12, what >> 16,
			where >> 10 & 3, where >> 12 & 3);
		if (where & 0x8000)
			vt_offer(t, q, where >> 8 & 3);
		vt_notify(t, q);
		break;
	case 5: clock_advance(t->b.clock, (uint64_t)what << 3); break;
	case 6: rings_start(t, what & 0x3f); break;
	case 7: rings_save_and_load(t); break;
	case 9: vt_out(t, 0x2000 + where % 0x14, 1u << (what & 1), what >> 8); break;
	default: break;
	}
}

#endif
