/* chains.c: malformed chains: every device with every queue, in split and packed rings. */
#include "vdrv.h"

/*
 * What VIRTIO12 wants of a device that meets a ring it cannot follow: it sets DEVICE_NEEDS_RESET
 * (2.1.2), leaves the ring alone, and works again after a reset. A queue that waits for something
 * else (a frame to receive) may not have looked yet. Chains that are well formed and make no sense
 * to the device type end with a used element or as the type says; only that a reset helps is asked.
 */

static struct vdesc list[64];
static unsigned count;

static void add(uint64_t addr, uint32_t len, unsigned flags, unsigned next)
{
	list[count++] = (struct vdesc){addr, len, (uint16_t)flags, (uint16_t)next};
}

static uint64_t buffer(unsigned n)
{
	return BUFFERS + n * SLOT;
}

/* What a device may read: nothing that it would make sense of. The balloon's pages are none of RAM.
 */
static void fill_buffers(void)
{
	for (unsigned n = 0; n < 4; n++)
		for (unsigned i = 0; i < 256; i += 8)
			w64(buffer(n) + i, 0xfeedfacecafef00d);
}

/* A good request in the bad one's place does not help: only a reset does. */
static void stays_broken(struct vdev *d, unsigned q)
{
	struct vdesc good[4];
	uint32_t id, len;

	if (q == request_queue(d)) {
		vq[q].avail_idx = 0;
		vq[q].avail_wrap = 1;
		chain_put(d, q, 0, good, request_build(d, 3, good));
	}
	notify(d, q);
	check(!chain_await(d, q, 0, &id, &len));
}

static void wait_broken(struct vdev *d, unsigned q)
{
	uint32_t id, len;

	if (!queue_eager(d, q)) {
		if (dev_status(d) & ST_NEEDS_RESET)
			return;
		check(!chain_await(d, q, 1, &id, &len));
		return;
	}
	check(!chain_await(d, q, 5000, &id, &len));
	if (!(dev_status(d) & ST_NEEDS_RESET))
		print("[queue %u, status 0x%x] ", q, dev_status(d));
	check(dev_status(d) & ST_NEEDS_RESET);
	stays_broken(d, q);
}

/* The chain in `list` is malformed: it breaks the device. */
static void breaks(struct vdev *d, bool packed, unsigned q)
{
	dev_start(d, packed);
	chain_put(d, q, 0, list, count);
	notify(d, q);
	wait_broken(d, q);
	count = 0;
}

/* Something is done with it, or not. */
static void survives(struct vdev *d, unsigned q)
{
	uint32_t id, len;

	chain_put(d, q, 0, list, count);
	notify(d, q);
	chain_await(d, q, queue_eager(d, q) ? 20 : 1, &id, &len);
	count = 0;
}

/* ---- links ---- */

static void loops(struct vdev *d, bool packed, unsigned q)
{
	unsigned size;

	fill_buffers();
	if (packed) {
		/* Linked once around. */
		dev_start(d, 1);
		size = vq[q].size;
		for (unsigned i = 0; i < size; i++)
			add(buffer(0), 16, D_NEXT, 0);
		breaks(d, 1, q);
	} else {
		add(buffer(0), 16, D_NEXT, 0);
		breaks(d, 0, q);
		add(buffer(0), 0, D_NEXT, 0); /* of nothing */
		breaks(d, 0, q);
		add(buffer(0), 16, D_NEXT, 1);
		add(buffer(1), 16, D_NEXT | D_WRITE, 1);
		breaks(d, 0, q);
		for (unsigned i = 0; i < 8; i++)
			add(buffer(0), 16, D_NEXT, (i + 1) % 8);
		breaks(d, 0, q);
	}
	recover(d, packed);
}

TEST(rings, loops)
{
	each_queue(loops);
}

static void links_beyond(struct vdev *d, bool packed, unsigned q)
{
	static const uint16_t to[] = {Q_SIZE, 255, 256, 1024, 0x7fff, 0xffff};

	if (packed)
		return; /* they have no links */
	fill_buffers();
	for (unsigned i = 0; i < 6; i++) {
		add(buffer(0), 16, D_NEXT, to[i]);
		breaks(d, 0, q);
		/* The head itself. */
		dev_start(d, 0);
		w16(vq[q].avail + 4, to[i]);
		w16(vq[q].avail + 2, 1);
		notify(d, q);
		wait_broken(d, q);
	}
	recover(d, 0);
}

TEST(rings, links_beyond_the_queue)
{
	each_queue(links_beyond);
}

static void index_jumps(struct vdev *d, bool packed, unsigned q)
{
	static const uint16_t by[] = {Q_SIZE + 1, 0x100, 0x7fff, 0x8000, 0xffff};

	if (packed)
		return;
	fill_buffers();
	for (unsigned i = 0; i < 5; i++) {
		struct vdesc good[4];

		dev_start(d, 0);
		/* All entries of the ring lead to one and the same good request. */
		if (q == request_queue(d))
			chain_put(d, q, 0, good, request_build(d, 3, good));
		w16(vq[q].avail + 2, by[i]);
		notify(d, q);
		wait_broken(d, q);
	}
	recover(d, 0);
}

TEST(rings, available_index_jumps)
{
	each_queue(index_jumps);
}

/* ---- buffers ---- */

static void bad_addresses(struct vdev *d, bool packed, unsigned q)
{
	const struct {
		uint64_t addr;
		uint32_t len;
	} bad[] = {
	    {RAM_END, 16},	   {RAM_END - 8, 16},
	    {RAM_END - 1, 2},	   {0xfee00000, 16},
	    {0xfec00000, 16},	   {d->common, 16},
	    {d->config, 4},	   {0xb0000000, 4096},
	    {0xfffffff0, 16},	   {0xfffffff0, 0x20},
	    {0x100000000, 16},	   {1ull << 52, 16},
	    {1ull << 63, 16},	   {~0ull, 1},
	    {~0ull - 7, 16},	   {~0ull - 15, 16},
	    {~0ull - 0xfff, 4097}, {BUFFERS, 0xffffffff},
	    {0, 0xffffffff},	   {BUFFERS, 0x80000000},
	    {BUFFERS, RAM_END},	   {RAM_END - 0x1000, 0x1001},
	};

	fill_buffers();
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (cmdline_has("slow") && i % 4)
			continue;
		add(bad[i].addr, bad[i].len, 0, 0);
		breaks(d, packed, q);
		add(bad[i].addr, bad[i].len, D_WRITE, 0);
		breaks(d, packed, q);
		add(buffer(0), 64, D_NEXT, 1);
		add(bad[i].addr, bad[i].len, D_WRITE, 0);
		breaks(d, packed, q);
	}
	recover(d, packed);
}

TEST(rings, buffers_outside_of_memory)
{
	each_queue(bad_addresses);
}

static void wrong_directions(struct vdev *d, bool packed, unsigned q)
{
	fill_buffers();
	add(buffer(0), 16, D_NEXT | D_WRITE, 1);
	add(buffer(1), 16, 0, 0);
	breaks(d, packed, q);
	add(buffer(0), 16, D_NEXT, 1);
	add(buffer(1), 16, D_NEXT | D_WRITE, 2);
	add(buffer(2), 16, 0, 0);
	breaks(d, packed, q);
	/* The right way round, and not what the type wants. */
	for (unsigned flags = 0; flags <= D_WRITE; flags += D_WRITE)
		for (unsigned len = 0; len < 70; len += len < 20 ? 1 : 9) {
			dev_start(d, packed);
			add(buffer(0), len, flags, 0);
			survives(d, q);
		}
	recover(d, packed);
}

TEST(rings, wrong_directions)
{
	each_queue(wrong_directions);
}

static void lengths(struct vdev *d, bool packed, unsigned q)
{
	fill_buffers();
	dev_start(d, packed);
	add(buffer(0), 0, 0, 0);
	survives(d, q);
	dev_start(d, packed);
	add(buffer(0), 0, D_NEXT, 1);
	add(buffer(1), 0, D_NEXT | D_WRITE, 2);
	add(buffer(2), 0, D_WRITE, 0);
	survives(d, q);
	/* Zero lengths where no memory is. */
	dev_start(d, packed);
	add(~0ull, 0, D_NEXT, 1);
	add(RAM_END, 0, D_WRITE, 0);
	survives(d, q);
	/* All that a chain can come to: each buffer lies in memory. */
	for (unsigned in = 0; in < 2; in++) {
		dev_start(d, packed);
		for (unsigned i = 0; i + 1 < vq[q].size; i++)
			add(BUFFERS, (uint32_t)(BUFFERS_END - BUFFERS), D_NEXT | (in ? D_WRITE : 0),
			    i + 1);
		add(BUFFERS, 16, D_WRITE, 0);
		if (d->id != ID_BALLOON) /* it would drop those pages, again and again */
			survives(d, q);
		count = 0;
		dev_reset(d);
		fill_buffers();
	}
	recover(d, packed);
}

TEST(rings, zero_and_huge_lengths)
{
	each_queue(lengths);
}

/* ---- indirect tables ---- */

static void table_entry(struct vdev *d, unsigned i, uint64_t addr, uint32_t len, unsigned flags,
			unsigned next)
{
	const struct vdesc e = {addr, len, (uint16_t)flags, (uint16_t)next};

	desc_write(d, TABLES, i, &e, 0, 0);
}

static void bad_tables(struct vdev *d, bool packed, unsigned q)
{
	static const uint32_t sizes[] = {0,	     1,	     8,		 15,	     17,	24,
					 16 * 70000, 0x8000, 0x80000000, 0xfffffff0, 0xffffffff};
	const uint64_t places[] = {RAM_END,    RAM_END - 16, 0xfee00000, d->common,
				   ~0ull - 15, ~0ull - 31,   1ull << 52};

	if (!(d->offered & F_INDIRECT))
		return;
	fill_buffers();
	d->packed = packed;
	/* A table in a table; in itself. */
	for (unsigned i = 0; i < 2; i++) {
		table_entry(d, 0, TABLES + (i ? 0x1000 : 0), 32, D_INDIRECT, 0);
		table_entry(d, 1, buffer(0), 16, 0, 0);
		add(TABLES, 32, D_INDIRECT, 0);
		breaks(d, packed, q);
	}
	/* With a successor. */
	table_entry(d, 0, buffer(0), 16, 0, 0);
	add(TABLES, 16, D_INDIRECT | D_NEXT, 1);
	add(buffer(1), 16, D_WRITE, 0);
	breaks(d, packed, q);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		table_entry(d, 0, buffer(0), 16, D_NEXT, 0);
		add(TABLES, sizes[i], D_INDIRECT, 0);
		breaks(d, packed, q);
	}
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		add(places[i], 32, D_INDIRECT, 0);
		breaks(d, packed, q);
	}
	/* What is in it. */
	table_entry(d, 0, RAM_END, 16, 0, 0);
	add(TABLES, 16, D_INDIRECT, 0);
	breaks(d, packed, q);
	table_entry(d, 0, buffer(0), 16, D_WRITE | (packed ? 0 : D_NEXT), 1);
	table_entry(d, 1, buffer(0), 16, 0, 0);
	add(TABLES, 32, D_INDIRECT, 0);
	breaks(d, packed, q);
	if (!packed) {
		table_entry(d, 0, buffer(0), 16, D_NEXT, 0); /* to itself */
		add(TABLES, 64, D_INDIRECT, 0);
		breaks(d, 0, q);
		table_entry(d, 0, buffer(0), 16, D_NEXT, 4); /* beyond it */
		add(TABLES, 64, D_INDIRECT, 0);
		breaks(d, 0, q);
	}
	recover(d, packed);
}

TEST(rings, indirect_tables)
{
	each_queue(bad_tables);
}

static void indirect_unasked(struct vdev *d, bool packed, unsigned q)
{
	fill_buffers();
	dev_reset(d);
	d->packed = packed;
	dev_status_set(d, ST_ACK | ST_DRIVER);
	dev_features_set(d, F_VERSION_1 | (packed ? F_PACKED : 0));
	dev_status_set(d, ST_ACK | ST_DRIVER | ST_FEATURES_OK);
	check(dev_status(d) & ST_FEATURES_OK);
	queue_start(d, q);
	dev_status_set(d, ST_ACK | ST_DRIVER | ST_FEATURES_OK | ST_DRIVER_OK);
	table_entry(d, 0, buffer(0), 16, 0, 0);
	add(TABLES, 16, D_INDIRECT, 0);
	chain_put(d, q, 0, list, count);
	count = 0;
	notify(d, q);
	/* Without their features some queues do not exist for the device. */
	if (q == request_queue(d))
		wait_broken(d, q);
	recover(d, packed);
}

TEST(rings, indirect_without_negotiation)
{
	each_queue(indirect_unasked);
}

/* ---- noise ---- */

/* Addresses are in the buffers or in no memory at all, so that this program stays as it is. */
static bool spare_tables; /* small numbers are in there: pages, to a balloon */
static uint64_t noise_addr(void)
{
	static const uint64_t far[] = {RAM_END,	   RAM_END - 8, 0xfee00000, 0xd0000000,
				       ~0ull - 15, 1ull << 40,	TABLES};
	uint64_t r = noise();

	if (r & 7)
		return BUFFERS + (r >> 8) % 0x100000;
	return far[(r >> 8) % (spare_tables ? 6 : 7)];
}

static uint32_t noise_len(void)
{
	static const uint32_t lens[] = {0, 1, 4, 11, 12, 16, 51, 512, 513, 4096, 65536, 0xffffffff};

	return lens[noise() % 12];
}

static struct vdesc noise_desc(unsigned size)
{
	uint64_t r = noise();
	unsigned flags = r & 63 ? r & 3 : r >> 8 & 7;

	return (struct vdesc){noise_addr(), noise_len(), (uint16_t)flags,
			      (uint16_t)(r >> 16 & 63 ? r >> 24 & (size - 1) : r >> 24)};
}

/* Requests of every kind: small numbers, where a header would be, and sectors below the one that is
 * read when all is well. */
static void noise_buffers(const struct vdev *d)
{
	for (unsigned i = 0; i < 32; i++) {
		uint64_t at = BUFFERS + (noise() % 0x100000 & ~7ull);

		if (d->id == ID_BALLOON)
			w64(at, ~0ull); /* pages that are no RAM */
		else
			w64(at, i & 1 ? noise() & 0x3f : noise() & 0xff000000ff);
	}
}

static void noise_rings(struct vdev *d, bool packed, unsigned q)
{
	unsigned rounds = cmdline_has("slow") ? 4 : cmdline_has("long") ? 3000 : 60;

	/* Whatever other devices have left there would be numbers of pages to take away. */
	spare_tables = d->id == ID_BALLOON;
	if (spare_tables)
		for (uint64_t at = BUFFERS; at < BUFFERS + 0x120000; at += 8)
			w64(at, ~0ull);
	dev_start(d, packed);
	for (unsigned n = 0; n < rounds; n++) {
		unsigned chains = 1 + noise() % 4;

		if (dev_status(d) & ST_NEEDS_RESET || !(n & 15))
			dev_start(d, packed);
		noise_buffers(d);
		for (unsigned i = 0; i < Q_SIZE; i++) {
			struct vdesc e = noise_desc(Q_SIZE);
			desc_write(d, TABLES, i, &e, 0, 0);
		}
		while (chains--) {
			count = 1 + noise() % 4;
			for (unsigned i = 0; i < count; i++) {
				list[i] = noise_desc(vq[q].size);
				if (i + 1 < count && noise() & 7) {
					list[i].flags |= D_NEXT;
					list[i].next = (uint16_t)(i + 1);
				}
			}
			chain_put(d, q, noise() % vq[q].size, list, count);
		}
		notify(d, q);
	}
	count = 0;
	recover(d, packed);
}

TEST(rings, noise)
{
	each_queue(noise_rings);
}
