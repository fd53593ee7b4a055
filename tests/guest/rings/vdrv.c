/* vdrv.c: finding virtio devices, their registers on both transports, both ring formats. */
#include "vdrv.h"

#define MMIO_BASE  0xfec10000ull
#define MMIO_COUNT 16
#define BARS	   0xd0000000u

#define WAIT_MS 5000

struct vdev devs[DEVS_MAX];
unsigned dev_count;
struct vqueue vq[QUEUES_MAX];
volatile bool meddle_stop;

static uint64_t noise_state = 88172645463325252;
uint64_t noise(void)
{
	noise_state ^= noise_state << 13;
	noise_state ^= noise_state >> 7;
	return noise_state ^= noise_state << 17;
}

/* ---- finding them ---- */

uint32_t pci_read(unsigned devfn, unsigned reg)
{
	outl(0xcf8, 0x80000000u | devfn << 8 | (reg & 0xfc));
	return inl(0xcfc);
}

void pci_write(unsigned devfn, unsigned reg, uint32_t v)
{
	outl(0xcf8, 0x80000000u | devfn << 8 | (reg & 0xfc));
	outl(0xcfc, v);
}

static uint32_t bar_next;

static uint64_t bar_base(unsigned devfn, unsigned bar)
{
	return pci_read(devfn, 0x10 + 4 * bar) & ~0xfu;
}

static void bars_place(unsigned devfn)
{
	pci_write(devfn, 4, 0);
	for (unsigned i = 0; i < 6; i++) {
		unsigned reg = 0x10 + 4 * i;
		uint32_t type = pci_read(devfn, reg), size;

		pci_write(devfn, reg, ~0u);
		size = ~(pci_read(devfn, reg) & (type & 1 ? ~3u : ~0xfu)) + 1;
		if (!size)
			continue;
		if (type & 1) {
			pci_write(devfn, reg, 0xc000 + devfn * 64);
			continue;
		}
		bar_next = (bar_next + size - 1) & ~(size - 1);
		pci_write(devfn, reg, bar_next);
		bar_next += size;
		if ((type & 6) == 4)
			pci_write(devfn, 0x10 + 4 * ++i, 0);
	}
	pci_write(devfn, 4, 6); /* memory, bus master */
}

static void take_structure(struct vdev *d, unsigned cap, unsigned type)
{
	uint64_t base = bar_base(d->devfn, pci_read(d->devfn, cap + 4) & 0xff);
	uint64_t at = base + pci_read(d->devfn, cap + 8);
	uint32_t len = pci_read(d->devfn, cap + 12);

	switch (type) {
	case 1: d->common = at; break;
	case 2:
		d->notify = at;
		d->notify_len = len;
		d->notify_mul = pci_read(d->devfn, cap + 16);
		break;
	case 3: d->isr = at; break;
	case 4:
		d->config = at;
		d->config_len = len;
		break;
	case 5: d->window = cap; break;
	}
}

static void take_capabilities(struct vdev *d)
{
	unsigned cap = pci_read(d->devfn, 0x34) & 0xfc;

	for (unsigned i = 0; cap && i < 48; i++) {
		uint32_t head = pci_read(d->devfn, cap);

		if ((head & 0xff) == 0x09) {
			take_structure(d, cap, head >> 24);
		} else if ((head & 0xff) == 0x11) {
			uint32_t table = pci_read(d->devfn, cap + 4),
				 pba = pci_read(d->devfn, cap + 8);

			d->msix_cap = cap;
			d->msix_count = (head >> 16 & 0x7ff) + 1;
			d->msix = bar_base(d->devfn, table & 7) + (table & ~7u);
			d->pba = bar_base(d->devfn, pba & 7) + (pba & ~7u);
		}
		cap = head >> 8 & 0xfc;
	}
}

static void put_name(struct vdev *d)
{
	static const char *const names[] = {
	    [ID_NET] = "net",	[ID_BLK] = "blk", [ID_CONSOLE] = "console", [ID_RNG] = "rng",
	    [ID_SCSI] = "scsi", [ID_9P] = "9p",	  [ID_BALLOON] = "balloon", [ID_VSOCK] = "vsock"};
	const char *s = d->id <= ID_VSOCK && names[d->id] ? names[d->id] : "type";
	unsigned at = d->mmio ? (unsigned)(d->common >> 12 & 15) : d->devfn >> 3, n = 0;

	while (*s)
		d->name[n++] = *s++;
	d->name[n++] = d->mmio ? '#' : '@';
	if (at >= 10)
		d->name[n++] = (char)('0' + at / 10);
	d->name[n++] = (char)('0' + at % 10);
	d->name[n] = 0;
}

static uint64_t features_read(const struct vdev *d)
{
	uint64_t select = d->common + (d->mmio ? 0x14 : 0),
		 value = d->common + (d->mmio ? 0x10 : 4);
	uint64_t v;

	w32(select, 1);
	v = (uint64_t)r32(value) << 32;
	w32(select, 0);
	return v | r32(value);
}

static void dev_add(struct vdev *d)
{
	put_name(d);
	d->rings = RINGS;
	d->vq = vq;
	d->offered = features_read(d);
	while (d->queues < QUEUES_MAX && queue_max(d, d->queues))
		d->queues++;
	check(d->queues && d->offered & F_VERSION_1);
	devs[dev_count++] = *d;
}

void devs_find(void)
{
	bar_next = BARS;
	dev_count = 0;
	for (unsigned devfn = 0; devfn < 256 && dev_count < DEVS_MAX; devfn++) {
		uint32_t id = pci_read(devfn, 0);
		struct vdev d = {.id = (id >> 16) - 0x1040, .devfn = devfn};

		if ((id & 0xffff) != 0x1af4 || id >> 16 < 0x1040 || id >> 16 > 0x107f)
			continue;
		bars_place(devfn);
		take_capabilities(&d);
		check(d.common && d.isr && d.notify && d.config && d.msix);
		dev_add(&d);
	}
	for (unsigned i = 0; i < MMIO_COUNT && dev_count < DEVS_MAX; i++) {
		struct vdev d = {.mmio = 1, .common = MMIO_BASE + 0x1000 * i};

		if (r32(d.common) != 0x74726976)
			continue;
		d.id = r32(d.common + 8);
		d.config = d.common + 0x100;
		d.config_len = 0x100;
		if (d.id)
			dev_add(&d);
	}
}

/* ---- registers ---- */

unsigned dev_status(const struct vdev *d)
{
	return d->mmio ? r32(d->common + 0x70) : r8(d->common + 20);
}

void dev_status_set(const struct vdev *d, unsigned v)
{
	if (d->mmio)
		w32(d->common + 0x70, v);
	else
		w8(d->common + 20, (uint8_t)v);
}

void dev_features_set(const struct vdev *d, uint64_t v)
{
	uint64_t select = d->common + (d->mmio ? 0x24 : 8),
		 value = d->common + (d->mmio ? 0x20 : 12);

	w32(select, 0);
	w32(value, (uint32_t)v);
	w32(select, 1);
	w32(value, (uint32_t)(v >> 32));
}

uint64_t dev_driver_features(const struct vdev *d)
{
	uint64_t v;

	w32(d->common + 8, 1);
	v = (uint64_t)r32(d->common + 12) << 32;
	w32(d->common + 8, 0);
	return v | r32(d->common + 12);
}

static void queue_select(const struct vdev *d, unsigned q)
{
	if (d->mmio)
		w32(d->common + 0x30, q);
	else
		w16(d->common + 22, (uint16_t)q);
}

unsigned queue_max(const struct vdev *d, unsigned q)
{
	queue_select(d, q);
	return d->mmio ? r32(d->common + 0x34) : r16(d->common + 24);
}

void queue_set(const struct vdev *d, unsigned q, unsigned size, uint64_t desc, uint64_t avail,
	       uint64_t used)
{
	uint64_t at[3] = {desc, avail, used};

	queue_select(d, q);
	if (d->mmio)
		w32(d->common + 0x38, size);
	else
		w16(d->common + 24, (uint16_t)size);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t reg = d->common + (d->mmio ? 0x80 + 0x10 * i : 32 + 8 * i);

		w32(reg, (uint32_t)at[i]);
		w32(reg + 4, (uint32_t)(at[i] >> 32));
	}
}

void queue_enable(const struct vdev *d, unsigned q, unsigned v)
{
	queue_select(d, q);
	if (d->mmio)
		w32(d->common + 0x44, v);
	else
		w16(d->common + 28, (uint16_t)v);
}

unsigned queue_enabled(const struct vdev *d, unsigned q)
{
	queue_select(d, q);
	return d->mmio ? r32(d->common + 0x44) : r16(d->common + 28);
}

void queue_reset(const struct vdev *d, unsigned q)
{
	queue_select(d, q);
	if (d->mmio)
		w32(d->common + 0xc0, 1);
	else
		w16(d->common + 58, 1);
}

unsigned queue_resetting(const struct vdev *d, unsigned q)
{
	queue_select(d, q);
	return d->mmio ? r32(d->common + 0xc0) : r16(d->common + 58);
}

void notify(const struct vdev *d, unsigned q)
{
	if (d->mmio)
		w32(d->common + 0x50, q);
	else
		w16(d->notify + (uint64_t)d->notify_mul * q, (uint16_t)q);
}

/* ---- life ---- */

void dev_reset(const struct vdev *d)
{
	uint32_t start = pm_timer();

	dev_status_set(d, 0);
	while (dev_status(d))
		check(pm_timer() - start < WAIT_MS * 3580u);
}

void dev_negotiate(struct vdev *d, bool packed)
{
	dev_reset(d);
	d->packed = packed;
	d->features = (packed ? d->offered : d->offered & ~F_PACKED) & ~d->without;
	dev_status_set(d, ST_ACK);
	dev_status_set(d, ST_ACK | ST_DRIVER);
	dev_features_set(d, d->features);
	dev_status_set(d, ST_ACK | ST_DRIVER | ST_FEATURES_OK);
	check_eq(dev_status(d), ST_ACK | ST_DRIVER | ST_FEATURES_OK);
}

void queue_start(const struct vdev *d, unsigned q)
{
	struct vqueue *v = &d->vq[q];
	uint64_t at = d->rings + 0x4000 * q;

	*v = (struct vqueue){.size = Q_SIZE,
			     .desc = at,
			     .avail = at + 0x2000,
			     .used = at + 0x3000,
			     .avail_wrap = 1,
			     .used_wrap = 1};
	memset((void *)at, 0, Q_SIZE * 16);
	memset((void *)(at + 0x2000), 0, 64);
	memset((void *)(at + 0x3000), 0, 256);
	if (queue_max(d, q) < Q_SIZE)
		v->size = queue_max(d, q);
	queue_set(d, q, v->size, v->desc, v->avail, v->used);
	queue_enable(d, q, 1);
	check_eq(queue_enabled(d, q), 1);
}

void dev_start(struct vdev *d, bool packed)
{
	dev_negotiate(d, packed);
	for (unsigned q = 0; q < d->queues; q++)
		queue_start(d, q);
	dev_status_set(d, ST_ACK | ST_DRIVER | ST_FEATURES_OK | ST_DRIVER_OK);
	/* It may have found something in a queue already that another CPU writes to. */
	check_eq(dev_status(d) & ~ST_NEEDS_RESET,
		 ST_ACK | ST_DRIVER | ST_FEATURES_OK | ST_DRIVER_OK);
}

/* ---- rings ---- */

void desc_write(const struct vdev *d, uint64_t table, unsigned index, const struct vdesc *e,
		uint16_t id, uint16_t set)
{
	uint64_t at = table + 16 * index;

	w64(at, e->addr);
	w32(at + 8, e->len);
	w16(at + (d->packed ? 12 : 14), d->packed ? id : e->next);
	w16(at + (d->packed ? 14 : 12), e->flags | set);
}

static void put_split(struct vdev *d, struct vqueue *v, unsigned first, const struct vdesc *list,
		      unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct vdesc e = list[i];

		e.next = (uint16_t)(e.next + first);
		desc_write(d, v->desc, (first + i) % v->size, &e, 0, 0);
	}
	w16(v->avail + 4 + 2 * (v->avail_idx % v->size), (uint16_t)first);
	__asm__ volatile("" : : : "memory");
	w16(v->avail + 2, ++v->avail_idx);
}

static void put_packed(struct vdev *d, struct vqueue *v, unsigned id, const struct vdesc *list,
		       unsigned n)
{
	unsigned start = v->avail_idx;
	bool wrap = v->avail_wrap;
	struct vdesc last = list[0];

	v->slots[id % Q_SIZE] = (uint16_t)n;
	for (unsigned i = 0; i < n; i++) {
		uint16_t set = v->avail_wrap ? 0x0080 : 0x8000;

		if (i)
			desc_write(d, v->desc, v->avail_idx, &list[i], (uint16_t)id, set);
		if (++v->avail_idx == v->size) {
			v->avail_idx = 0;
			v->avail_wrap = !v->avail_wrap;
		}
	}
	__asm__ volatile("" : : : "memory");
	desc_write(d, v->desc, start, &last, (uint16_t)id, wrap ? 0x0080 : 0x8000);
}

void chain_put(struct vdev *d, unsigned q, unsigned first, const struct vdesc *list, unsigned n)
{
	if (d->packed)
		put_packed(d, &d->vq[q], first, list, n);
	else
		put_split(d, &d->vq[q], first, list, n);
}

static bool used_packed(struct vqueue *v, uint32_t *id, uint32_t *len)
{
	uint64_t at = v->desc + 16 * v->used_idx;
	uint16_t flags = r16(at + 14);
	unsigned step;

	if (!!(flags & 0x80) != v->used_wrap || !!(flags & 0x8000) != v->used_wrap)
		return 0;
	*len = r32(at + 8);
	*id = r16(at + 12);
	step = v->slots[*id % Q_SIZE];
	v->used_idx = (uint16_t)(v->used_idx + (step ? step : 1));
	if (v->used_idx >= v->size) {
		v->used_idx = (uint16_t)(v->used_idx - v->size);
		v->used_wrap = !v->used_wrap;
	}
	return 1;
}

bool chain_used(struct vdev *d, unsigned q, uint32_t *id, uint32_t *len)
{
	struct vqueue *v = &d->vq[q];
	uint64_t at = v->used + 4 + 8 * (v->used_idx % v->size);

	if (d->packed)
		return used_packed(v, id, len);
	if (r16(v->used + 2) == v->used_idx)
		return 0;
	*id = r32(at);
	*len = r32(at + 4);
	v->used_idx++;
	return 1;
}

bool chain_await(struct vdev *d, unsigned q, unsigned ms, uint32_t *id, uint32_t *len)
{
	uint32_t start = pm_timer();

	for (;;) {
		if (chain_used(d, q, id, len))
			return 1;
		if (dev_status(d) & ST_NEEDS_RESET || pm_timer() - start > ms * 3580u)
			return chain_used(d, q, id, len);
	}
}

void recover(struct vdev *d, bool packed)
{
	dev_start(d, packed);
	check(request_works(d));
}

/* ---- all of them ---- */

void each_device(void (*fn)(struct vdev *d, bool packed))
{
	if (cpu_count() > 1) { /* after a test that failed */
		meddle_stop = 1;
		cpu_join(1);
	}
	devs_find();
	check(dev_count);
	for (unsigned i = 0; i < dev_count; i++) {
		print("%s", devs[i].name);
		for (unsigned packed = 0; packed < 2; packed++) {
			if (packed && !(devs[i].offered & F_PACKED))
				continue;
			/* The devices are the same on every engine; this is to see that it is so.
			 */
			if (cmdline_has("slow") && (i & 1) != packed)
				continue;
			print(packed ? "+packed " : " ");
			fn(&devs[i], packed);
		}
		dev_reset(&devs[i]);
	}
}

static void (*queue_fn)(struct vdev *d, bool packed, unsigned q);
static void queues_of(struct vdev *d, bool packed)
{
	for (unsigned q = 0; q < d->queues; q++) {
		/* Of many alike, the first ones and the last. */
		if (cmdline_has("slow") ? q != request_queue(d) : q >= 5 && q != d->queues - 1)
			continue;
		queue_fn(d, packed, q);
	}
}

void each_queue(void (*fn)(struct vdev *d, bool packed, unsigned q))
{
	queue_fn = fn;
	each_device(queues_of);
}
