/* vnet_test.c: the virtio network card against a driver written for the purpose. */
#include "dev/virtio/vnet_testing.h"

#define CAN_ALL (NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_ECN)

static const uint8_t no_hdr[VNET_HDR_LEN];

static void frame_fill(uint8_t *frame, size_t len)
{
	for (size_t i = 0; i < len; i++)
		frame[i] = (uint8_t)(i * 7 + len);
	memcpy(frame, rig_mac, NET_MAC_LEN);
	frame[12] = 8; /* IPv4, not VLAN */
	frame[13] = 0;
}

/* ---- reset values ---- */

static void after_reset_it_has_its_address_and_a_link(void **state)
{
	struct rig r;

	rig_init(&r, 2, CAN_ALL);
	for (unsigned i = 0; i < NET_MAC_LEN; i++)
		assert_int_equal(rig_config(&r, CFG_MAC + i), rig_mac[i]);
	assert_int_equal(rig_config(&r, CFG_STATUS), 1);
	assert_int_equal(rig_config(&r, CFG_PAIRS), 2);
	assert_int_equal(rig_get(&r, 0x008), VIRTIO_ID_NET);
	assert_int_equal(rig_get(&r, 0x070), 0);
	for (unsigned q = 0; q < 6; q++) {
		rig_reg(&r, 0x30, q);
		assert_int_equal(rig_get(&r, 0x34), q < 5 ? 256 : 0);
		assert_int_equal(rig_get(&r, 0x44), 0);
	}
	rig_fini(&r);
}

static void it_offers_what_its_back_end_can_do(void **state)
{
	const uint64_t all = NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN |
			     NET_F_GUEST_ALL | NET_F_CTRL_GUEST_OFFLOADS;
	struct rig r;

	rig_init(&r, 1, CAN_ALL);
	assert_true((rig_offered(&r) & all) == all);
	assert_false(rig_offered(&r) & NET_F_MQ);
	rig_fini(&r);
	rig_init(&r, 2, 0);
	assert_false(rig_offered(&r) & all);
	assert_true(rig_offered(&r) & NET_F_MQ);
	rig_fini(&r);
}

static void every_offset_at_every_width_is_harmless(void **state)
{
	struct rig r;

	rig_init(&r, 1, CAN_ALL);
	bench_sweep(r.b.memory, RIG_BASE, 0x200);
	rig_fini(&r);
}

static void features_without_their_ground_are_refused(void **state)
{
	static const uint64_t bad[] = {NET_F_GUEST_TSO4,
				       NET_F_GUEST_TSO6,
				       NET_F_HOST_TSO4,
				       NET_F_CSUM | NET_F_HOST_ECN,
				       NET_F_CTRL_RX,
				       NET_F_MQ,
				       NET_F_CTRL_GUEST_OFFLOADS,
				       NET_F_GUEST_CSUM | NET_F_GUEST_ECN};
	struct rig r;

	rig_init(&r, 2, CAN_ALL);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(rig_start(&r, bad[i]));
	assert_true(rig_start(&r, rig_offered(&r) & ~VIRTIO_F_RING_PACKED));
	rig_fini(&r);
}

/* ---- frames ---- */

static void a_frame_is_sent_and_its_buffer_comes_back(void **state)
{
	uint8_t frame[100], out[200];
	struct net_offload off;
	struct rig r;
	unsigned id = 0;
	uint32_t len = 0;

	rig_init(&r, 1, 0);
	assert_true(rig_start(&r, 0));
	frame_fill(frame, sizeof(frame));
	rig_send(&r, 1, no_hdr, frame, sizeof(frame));
	assert_int_equal(net_mem_take(r.net, out, sizeof(out), &off), 100);
	assert_memory_equal(out, frame, 100);
	assert_int_equal(off.flags | off.gso, 0);
	assert_true(rig_take(&r, 1, &id, &len));
	assert_true(id == 0 && len == 0);
	assert_int_equal(r.b.raised[5], 1);
	rig_fini(&r);
}

static void open_work_of_a_frame_reaches_the_back_end(void **state)
{
	uint8_t frame[3000], out[3000], hdr[VNET_HDR_LEN] = {NET_NEEDS_CSUM, NET_GSO_TCP4};
	struct net_offload off;
	struct rig r;

	rig_init(&r, 1, CAN_ALL);
	assert_true(rig_start(&r, NET_F_CSUM | NET_F_HOST_TSO4));
	frame_fill(frame, sizeof(frame));
	store_le16(hdr + 2, 54);
	store_le16(hdr + 4, 1448);
	store_le16(hdr + 6, 34);
	store_le16(hdr + 8, 16);
	rig_send(&r, 1, hdr, frame, sizeof(frame));
	assert_int_equal(net_mem_take(r.net, out, sizeof(out), &off), sizeof(frame));
	assert_true(off.flags == NET_NEEDS_CSUM && off.gso == NET_GSO_TCP4 && off.hdr_len == 54 &&
		    off.gso_size == 1448 && off.csum_start == 34 && off.csum_offset == 16);
	rig_fini(&r);
}

static void frames_wait_for_a_back_end_without_room_and_keep_their_order(void **state)
{
	uint8_t frame[60], out[60];
	struct rig r;
	unsigned id = 0;
	uint32_t len = 0;

	rig_init(&r, 1, 0);
	assert_true(rig_start(&r, 0));
	net_mem_set_room(r.net, 2);
	for (unsigned d = 0; d < 5; d++) {
		frame_fill(frame, sizeof(frame));
		frame[20] = (uint8_t)d;
		assert_int_equal(gmem_fill(r.b.mem, gpa(rig_buf(1, d)), 0, VNET_HDR_LEN), 0);
		assert_int_equal(gmem_write(r.b.mem, gpa(rig_buf(1, d) + VNET_HDR_LEN), frame, 60),
				 0);
		rig_desc_put(&r, 1, d, rig_buf(1, d), 60 + VNET_HDR_LEN, 0, 0);
		rig_offer(&r, 1, d);
	}
	rig_notify(&r, 1);
	assert_true(rig_take(&r, 1, &id, &len) && rig_take(&r, 1, &id, &len));
	assert_false(rig_take(&r, 1, &id, &len));
	assert_int_equal(virtio_in_flight(virtio_of(r.dev)), 0);
	net_mem_set_room(r.net, 10);
	net_mem_run(r.net);
	for (unsigned d = 0; d < 5; d++) {
		assert_int_equal(net_mem_take(r.net, out, sizeof(out), NULL), 60);
		assert_int_equal(out[20], d);
	}
	rig_fini(&r);
}

static void a_received_frame_is_spread_over_buffers(void **state)
{
	uint8_t frame[1000], hdr[VNET_HDR_LEN], got[1012];
	struct rig r;
	unsigned id = 0;
	uint32_t len = 0;
	size_t at = 0;

	rig_init(&r, 1, CAN_ALL);
	assert_true(rig_start(&r, NET_F_MRG_RXBUF | NET_F_GUEST_CSUM));
	assert_int_equal(net_mem_offloads(r.net), NET_CAN_CSUM);
	frame_fill(frame, sizeof(frame));
	for (unsigned d = 0; d < 4; d++)
		rig_room(&r, 0, d, 400);
	net_mem_feed(r.net, frame, sizeof(frame), &(struct net_offload){.flags = NET_DATA_VALID});
	rig_notify(&r, 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(rig_take(&r, 0, &id, &len));
		assert_true(id == i && len == (i < 2 ? 400 : 212));
		assert_int_equal(gmem_read(r.b.mem, gpa(rig_buf(0, id)), got + at, len), 0);
		at += len;
	}
	assert_false(rig_take(&r, 0, &id, &len));
	memcpy(hdr, got, VNET_HDR_LEN);
	assert_true(hdr[0] == NET_DATA_VALID && load_le16(hdr + 10) == 3);
	assert_memory_equal(got + VNET_HDR_LEN, frame, sizeof(frame));
	rig_fini(&r);
}

static void a_frame_waits_until_there_are_enough_buffers(void **state)
{
	uint8_t frame[1000];
	struct rig r;
	unsigned id = 0;
	uint32_t len = 0;

	rig_init(&r, 1, 0);
	assert_true(rig_start(&r, NET_F_MRG_RXBUF | VIRTIO_F_EVENT_IDX));
	frame_fill(frame, sizeof(frame));
	net_mem_feed(r.net, frame, sizeof(frame), NULL);
	net_mem_run(r.net);
	rig_room(&r, 0, 0, 600);
	rig_notify(&r, 0);
	assert_false(rig_take(&r, 0, &id, &len));
	/* It asks to be told of the next buffer: avail_event is where that one will be. */
	assert_int_equal(rig_get16(&r, rig_desc(0) + 0x800 + 4 + 8 * RIG_SIZE), 1);
	rig_room(&r, 0, 1, 600);
	rig_notify(&r, 0);
	assert_true(rig_take(&r, 0, &id, &len) && rig_take(&r, 0, &id, &len));
	assert_int_equal(len, 1012 - 600);
	rig_fini(&r);
}

static void without_merging_a_frame_too_long_for_its_buffer_is_dropped(void **state)
{
	uint8_t frame[1000];
	struct rig r;
	unsigned id = 0;
	uint32_t len = 0;

	rig_init(&r, 1, 0);
	assert_true(rig_start(&r, 0));
	frame_fill(frame, sizeof(frame));
	rig_room(&r, 0, 0, 500);
	net_mem_feed(r.net, frame, sizeof(frame), NULL);
	net_mem_feed(r.net, frame, 488, NULL);
	rig_notify(&r, 0);
	assert_true(rig_take(&r, 0, &id, &len));
	assert_int_equal(len, 500);
	assert_false(rig_take(&r, 0, &id, &len));
	rig_fini(&r);
}

/* ---- control queue ---- */

/* Whether a frame to this address is delivered. */
static _Bool delivered(struct rig *r, const uint8_t *to, unsigned vlan)
{
	uint8_t frame[64];
	unsigned id = 0;
	uint32_t len = 0;

	frame_fill(frame, sizeof(frame));
	memcpy(frame, to, NET_MAC_LEN);
	if (vlan) {
		frame[12] = 0x81;
		frame[14] = (uint8_t)(vlan >> 8);
		frame[15] = (uint8_t)vlan;
	}
	if (vq_empty(&virtio_of(r->dev)->vq[0]))
		rig_room(r, 0, r->avail[0] % RIG_SIZE, 200);
	net_mem_feed(r->net, frame, sizeof(frame), NULL);
	rig_notify(r, 0);
	return rig_take(r, 0, &id, &len);
}

static void filters_do_what_the_driver_says(void **state)
{
	static const uint8_t other[6] = {0x52, 1, 2, 3, 4, 5}, group[6] = {1, 0, 0x5e, 0, 0, 1},
			     all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	static const uint8_t table[] = {1, 0, 1, 0, 0, 0, 0x52, 1,    2, 3, 4,
					5, 1, 0, 0, 0, 1, 0,	0x5e, 0, 0, 1};
	struct rig r;

	rig_init(&r, 1, 0);
	assert_true(rig_start(&r, NET_F_CTRL_VQ | NET_F_CTRL_RX | NET_F_CTRL_RX_EXTRA |
				      NET_F_CTRL_VLAN | NET_F_CTRL_MAC_ADDR));
	assert_true(delivered(&r, other, 0));
	assert_true(delivered(&r, rig_mac, 7));		   /* all is all, of other networks too */
	assert_int_equal(rig_command(&r, "\0\0\0", 3), 0); /* not promiscuous */
	assert_false(delivered(&r, other, 0));
	assert_false(delivered(&r, group, 0));
	assert_true(delivered(&r, rig_mac, 0));
	assert_true(delivered(&r, all, 0));
	assert_int_equal(rig_command(&r, "\0\1\1", 3), 0); /* all multicast */
	assert_true(delivered(&r, group, 0));
	assert_int_equal(rig_command(&r, "\0\1\0", 3), 0);
	assert_int_equal(rig_command(&r, table, sizeof(table)), 0);
	assert_true(delivered(&r, other, 0));
	assert_true(delivered(&r, group, 0));
	assert_int_equal(rig_command(&r, "\0\5\1", 3), 0); /* no broadcast */
	assert_false(delivered(&r, all, 0));
	assert_false(delivered(&r, rig_mac, 7));
	assert_int_equal(rig_command(&r, "\2\0\7\0", 4), 0);
	assert_true(delivered(&r, rig_mac, 7));
	assert_int_equal(rig_command(&r, "\2\1\7\0", 4), 0);
	assert_false(delivered(&r, rig_mac, 7));
	assert_int_equal(rig_command(&r, "\0\0\1", 3), 0);
	assert_true(delivered(&r, rig_mac, 7));
	assert_int_equal(rig_command(&r, "\0\0\0", 3), 0);
	assert_int_equal(rig_command(&r, "\1\1\x52\x99\x99\x99\x99\x99", 8), 0); /* new address */
	assert_false(delivered(&r, rig_mac, 0));
	assert_int_equal(rig_config(&r, CFG_MAC + 1), 0x99);
	rig_fini(&r);
}

static void many_commands_are_done_in_turns_and_the_next_one_is_noticed(void **state)
{
	static const uint8_t cmd[3] = {0, 0, 1};
	struct rig r;
	unsigned id = 0, done = 0;
	uint32_t len = 0;

	rig_init(&r, 1, 0);
	r.size[2] = 128;
	assert_true(rig_start(&r, NET_F_CTRL_VQ | NET_F_CTRL_RX | VIRTIO_F_EVENT_IDX));
	assert_int_equal(gmem_write(r.b.mem, gpa(rig_buf(2, 0)), cmd, sizeof(cmd)), 0);
	rig_desc_put(&r, 2, 0, rig_buf(2, 0), sizeof(cmd), 1, 1);
	rig_desc_put(&r, 2, 1, rig_buf(2, 1), 1, 2, 0);
	for (unsigned i = 0; i < 100; i++)
		rig_offer(&r, 2, 0);
	rig_notify(&r, 2);
	while (rig_take(&r, 2, &id, &len))
		done++;
	assert_in_range(done, 1, 99);
	assert_int_equal(virtio_in_flight(virtio_of(r.dev)), 0);
	clock_advance(r.b.clock, 1);
	while (rig_take(&r, 2, &id, &len))
		done++;
	assert_int_equal(done, 100);
	assert_int_equal(rig_get16(&r, rig_desc(2) + 0x800 + 4 + 8 * 128), 100);
	/* A reset in between ends it. */
	for (unsigned i = 0; i < 100; i++)
		rig_offer(&r, 2, 0);
	rig_notify(&r, 2);
	assert_true(rig_start(&r, 0));
	assert_int_equal(clock_next_ns(r.b.clock), UINT64_MAX);
	rig_fini(&r);
}

static void a_table_too_long_to_keep_means_all(void **state)
{
	static const uint8_t other[6] = {0x52, 1, 2, 3, 4, 5};
	uint8_t table[2 + 4 + 65 * 6 + 4] = {1, 0, 65};
	struct rig r;

	rig_init(&r, 1, 0);
	assert_true(rig_start(&r, NET_F_CTRL_VQ | NET_F_CTRL_RX));
	assert_int_equal(rig_command(&r, "\0\0\0", 3), 0);
	assert_false(delivered(&r, other, 0));
	assert_int_equal(rig_command(&r, table, sizeof(table)), 0);
	assert_true(delivered(&r, other, 0));
	rig_fini(&r);
}

static void flows_come_back_on_the_pair_they_were_sent_on(void **state)
{
	uint8_t frame[80] = {0}, hdr[VNET_HDR_LEN] = {0}, out[80];
	struct rig r;
	unsigned id = 0;
	uint32_t len = 0;

	rig_init(&r, 3, 0);
	assert_true(rig_start(&r, NET_F_CTRL_VQ | NET_F_MQ));
	assert_int_equal(rig_command(&r, "\4\0\3\0", 4), 0);
	frame_fill(frame, sizeof(frame));
	frame[14] = 0x45;
	frame[23] = 6;
	for (unsigned q = 0; q < 6; q += 2)
		rig_room(&r, q, 0, 200);
	rig_send(&r, 5, hdr, frame, sizeof(frame));
	assert_int_equal(net_mem_take(r.net, out, sizeof(out), NULL), 80);
	/* The answer: addresses and ports the other way round. */
	for (unsigned i = 0; i < 4; i++) {
		out[26 + i] = frame[30 + i];
		out[30 + i] = frame[26 + i];
	}
	memcpy(out + 34, frame + 36, 2);
	memcpy(out + 36, frame + 34, 2);
	net_mem_feed(r.net, out, sizeof(out), NULL);
	net_mem_run(r.net);
	assert_true(rig_take(&r, 4, &id, &len));
	assert_false(rig_take(&r, 0, &id, &len) || rig_take(&r, 2, &id, &len));
	rig_fini(&r);
}

static void the_driver_hears_of_a_lost_link(void **state)
{
	struct rig r;
	unsigned before;

	rig_init(&r, 1, 0);
	assert_true(rig_start(&r, NET_F_STATUS));
	before = r.b.raised[5];
	net_mem_set_link(r.net, 0);
	assert_int_equal(rig_config(&r, CFG_STATUS), 0);
	assert_int_equal(r.b.raised[5], before + 1);
	assert_int_equal(rig_get(&r, 0x60), 2);
	rig_fini(&r);
}

static void offloads_for_the_guest_can_be_taken_back(void **state)
{
	struct rig r;

	rig_init(&r, 1, CAN_ALL);
	assert_true(rig_start(&r, NET_F_CTRL_VQ | NET_F_CTRL_GUEST_OFFLOADS | NET_F_GUEST_CSUM |
				      NET_F_GUEST_TSO4));
	assert_int_equal(net_mem_offloads(r.net), NET_CAN_CSUM | NET_CAN_TSO4);
	assert_int_equal(rig_command(&r, "\5\0\2\0\0\0\0\0\0\0", 10), 0);
	assert_int_equal(net_mem_offloads(r.net), NET_CAN_CSUM);
	assert_int_equal(rig_command(&r, "\5\0\x82\1\0\0\0\0\0\0", 10), 1); /* not negotiated */
	assert_int_equal(rig_command(&r, "\5\0\x80\0\0\0\0\0\0\0", 10), 1); /* without checksums */
	assert_int_equal(net_mem_offloads(r.net), NET_CAN_CSUM);
	rig_reg(&r, 0x70, 0);
	assert_int_equal(net_mem_offloads(r.net), 0);
	rig_fini(&r);
}

/* ---- hostile input ---- */

static void headers_that_lie_are_dropped(void **state)
{
	static const struct {
		uint8_t flags, gso;
		uint16_t gso_size, start, offset;
	} bad[] = {
	    {1, 0, 0, 99, 0},	   {1, 0, 0, 0xffff, 0xffff}, {1, 0, 0, 60, 39}, {1, 1, 0, 34, 16},
	    {0, 1, 100, 34, 16},   {1, 1, 100, 34, 16},	      {1, 3, 50, 34, 6}, {1, 4, 50, 34, 6},
	    {1, 0x81, 50, 34, 16}, {1, 77, 50, 34, 16},
	};
	uint8_t frame[100], out[100], hdr[VNET_HDR_LEN] = {0};
	struct net_counts counts;
	struct rig r;
	unsigned id = 0;
	uint32_t len = 0;

	rig_init(&r, 1, CAN_ALL);
	assert_true(rig_start(&r, NET_F_CSUM | NET_F_HOST_TSO4));
	frame_fill(frame, sizeof(frame));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		hdr[0] = bad[i].flags;
		hdr[1] = bad[i].gso;
		store_le16(hdr + 4, bad[i].gso_size);
		store_le16(hdr + 6, bad[i].start);
		store_le16(hdr + 8, bad[i].offset);
		rig_send(&r, 1, hdr, frame, sizeof(frame));
		assert_true(rig_take(&r, 1, &id, &len));
		assert_int_equal(net_mem_take(r.net, out, sizeof(out), NULL), 0);
	}
	rig_send(&r, 1, no_hdr, frame, 13); /* shorter than an Ethernet header */
	assert_true(rig_take(&r, 1, &id, &len));
	assert_int_equal(net_mem_take(r.net, out, sizeof(out), NULL), 0);
	assert_int_equal(rig_get(&r, 0x70), 15);
	/* None of them came as far as the back end, which counts what it drops. */
	net_counts(r.net, &counts);
	assert_true(!counts.sent && !counts.dropped);
	rig_send(&r, 1, no_hdr, frame, 14);
	assert_int_equal(net_mem_take(r.net, out, sizeof(out), NULL), 14);
	rig_send(&r, 1, no_hdr, frame, sizeof(frame));
	assert_int_equal(net_mem_take(r.net, out, sizeof(out), NULL), 100);
	rig_fini(&r);
}

static void a_checksum_to_fill_in_needs_the_feature(void **state)
{
	const uint8_t hdr[VNET_HDR_LEN] = {NET_NEEDS_CSUM, [6] = 34, [8] = 16};
	uint8_t frame[100], out[100];
	struct net_offload off;
	struct rig r;

	rig_init(&r, 1, CAN_ALL);
	frame_fill(frame, sizeof(frame));
	assert_true(rig_start(&r, 0));
	rig_send(&r, 1, hdr, frame, sizeof(frame));
	assert_int_equal(net_mem_take(r.net, out, sizeof(out), NULL), 0);
	assert_true(rig_start(&r, NET_F_CSUM));
	rig_send(&r, 1, hdr, frame, sizeof(frame));
	assert_int_equal(net_mem_take(r.net, out, sizeof(out), &off), 100);
	assert_true(off.flags == NET_NEEDS_CSUM && off.csum_start == 34 && off.csum_offset == 16);
	rig_fini(&r);
}

static void broken_queues_ask_for_a_reset(void **state)
{
	struct rig r;

	rig_init(&r, 1, CAN_ALL);
	for (unsigned i = 0; i < 6; i++) {
		assert_true(rig_start(&r, NET_F_CTRL_VQ | NET_F_MRG_RXBUF));
		switch (i) {
		case 0: /* a frame shorter than its header */
			rig_desc_put(&r, 1, 0, rig_buf(1, 0), 11, 0, 0);
			rig_offer(&r, 1, 0);
			rig_notify(&r, 1);
			break;
		case 1: /* a chain that ends in itself */
			rig_desc_put(&r, 1, 0, rig_buf(1, 0), 100, 1, 0);
			rig_offer(&r, 1, 0);
			rig_notify(&r, 1);
			break;
		case 2: /* memory that is not there */
			rig_desc_put(&r, 1, 0, UINT64_C(0xfffffffffffff000), 0x2000, 0, 0);
			rig_offer(&r, 1, 0);
			rig_notify(&r, 1);
			break;
		case 3: /* a receive buffer without room for the header */
			rig_room(&r, 0, 0, 11);
			net_mem_feed(r.net, (uint8_t[60]){0}, 60, NULL);
			rig_notify(&r, 0);
			break;
		case 4: /* a command without a place for its status */
			rig_desc_put(&r, 2, 0, rig_buf(2, 0), 3, 0, 0);
			rig_offer(&r, 2, 0);
			rig_notify(&r, 2);
			break;
		default: /* more chains than descriptors */
			r.avail[1] = 1000;
			rig_offer(&r, 1, 0);
			rig_notify(&r, 1);
			break;
		}
		assert_true(rig_get(&r, 0x70) & VIRTIO_NEEDS_RESET);
		assert_int_equal(virtio_in_flight(virtio_of(r.dev)), 0);
	}
	assert_true(rig_start(&r, 0));
	rig_fini(&r);
}

static void commands_that_are_cut_or_unknown_fail(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
	} bad[] = {
	    {"\0\0", 2},
	    {"\0\0\2", 3},
	    {"\0\6\1", 3},
	    {"\1\0\1\0\0\0", 6},
	    {"\1\0\xff\xff\xff\xff", 6},
	    {"\1\0\0\0\0\0\xff\xff\xff\x7f", 10},
	    {"\1\1\x52\0\0", 5},
	    {"\1\7", 2},
	    {"\2\0\0\x10", 4},
	    {"\2\2\0\0", 4},
	    {"\2\0\1", 3},
	    {"\4\0\0\0", 4},
	    {"\4\0\3\0", 4},
	    {"\4\1\1\0", 4},
	    {"\5\0\0", 3},
	    {"\x63\0\0", 3},
	};
	struct rig r;

	rig_init(&r, 2, CAN_ALL);
	assert_true(rig_start(&r, NET_F_CTRL_VQ | NET_F_CTRL_RX | NET_F_CTRL_RX_EXTRA | NET_F_MQ |
				      NET_F_CTRL_VLAN | NET_F_CTRL_MAC_ADDR));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(rig_command(&r, bad[i].bytes, bad[i].len), 1);
	assert_int_equal(rig_vnet(&r)->pairs, 1);
	rig_fini(&r);
}

/* ---- saved state ---- */

static void saved_state_comes_back_the_same(void **state)
{
	uint8_t frame[100], out[100];
	struct rig r, twin;

	rig_init(&r, 2, CAN_ALL);
	rig_init(&twin, 2, CAN_ALL);
	assert_true(rig_start(&r, NET_F_CTRL_VQ | NET_F_CTRL_RX | NET_F_CTRL_VLAN | NET_F_MQ |
				      NET_F_GUEST_CSUM | NET_F_CTRL_GUEST_OFFLOADS));
	assert_int_equal(rig_command(&r, "\0\0\0", 3), 0);
	assert_int_equal(rig_command(&r, "\2\0\7\0", 4), 0);
	assert_int_equal(rig_command(&r, "\4\0\2\0", 4), 0);
	assert_int_equal(rig_command(&r, "\5\0\0\0\0\0\0\0\0\0", 10), 0);
	/* A frame that the back end had no room for is in the ring, and nowhere else. */
	net_mem_set_room(r.net, 0);
	frame_fill(frame, sizeof(frame));
	rig_send(&r, 1, no_hdr, frame, sizeof(frame));
	assert_int_equal(
	    gmem_write(twin.b.mem, gpa(0), gmem_ptr(r.b.mem, gpa(0), BENCH_RAM, 0), BENCH_RAM), 0);
	bench_round_trip(r.dev, twin.dev);
	assert_int_equal(net_mem_offloads(twin.net), 0);
	net_mem_run(twin.net);
	assert_int_equal(net_mem_take(twin.net, out, sizeof(out), NULL), 100);
	assert_memory_equal(out, frame, 100);
	assert_int_equal(net_mem_take(twin.net, out, sizeof(out), NULL), 0);
	rig_fini(&twin);
	rig_fini(&r);
}

static void a_link_that_is_another_after_a_load_is_told(void **state)
{
	struct rig r, twin;
	struct wbuf w;

	rig_init(&r, 1, 0);
	rig_init(&twin, 1, 0);
	assert_true(rig_start(&r, NET_F_STATUS));
	assert_int_equal(
	    gmem_write(twin.b.mem, gpa(0), gmem_ptr(r.b.mem, gpa(0), BENCH_RAM, 0), BENCH_RAM), 0);
	bench_save(r.dev, &w);
	/* The same: nothing to tell. */
	assert_int_equal(bench_load(twin.dev, w.data, w.len), 0);
	assert_int_equal(rig_get(&twin, 0x60), 0);
	net_mem_set_link(twin.net, 0);
	assert_int_equal(rig_get(&twin, 0x60), 2);
	rig_reg(&twin, 0x64, 2);
	assert_int_equal(bench_load(twin.dev, w.data, w.len), 0);
	assert_int_equal(rig_config(&twin, CFG_STATUS), 0);
	assert_int_equal(rig_get(&twin, 0x60), 2);
	wbuf_fini(&w);
	rig_fini(&twin);
	rig_fini(&r);
}

static void state_that_cannot_be_is_refused(void **state)
{
	struct rig r;

	rig_init(&r, 2, CAN_ALL);
	assert_true(rig_start(&r, NET_F_CTRL_VQ | NET_F_MQ));
	bench_refuses(r.dev, struct vnet, pairs, 0);
	bench_refuses(r.dev, struct vnet, pairs, 3);
	bench_refuses(r.dev, struct vnet, mode.promisc, 2);
	bench_refuses(r.dev, struct vnet, mode.all_of_table[1], 9);
	bench_refuses(r.dev, struct vnet, macs[0], 65);
	bench_refuses(r.dev, struct vnet, guest_offloads, NET_F_GUEST_CSUM);
	bench_refuses(r.dev, struct vnet, vd.config[CFG_PAIRS], 4);
	bench_corrupt(r.dev);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(after_reset_it_has_its_address_and_a_link),
	    cmocka_unit_test(it_offers_what_its_back_end_can_do),
	    cmocka_unit_test(every_offset_at_every_width_is_harmless),
	    cmocka_unit_test(features_without_their_ground_are_refused),
	    cmocka_unit_test(a_frame_is_sent_and_its_buffer_comes_back),
	    cmocka_unit_test(open_work_of_a_frame_reaches_the_back_end),
	    cmocka_unit_test(frames_wait_for_a_back_end_without_room_and_keep_their_order),
	    cmocka_unit_test(a_received_frame_is_spread_over_buffers),
	    cmocka_unit_test(a_frame_waits_until_there_are_enough_buffers),
	    cmocka_unit_test(without_merging_a_frame_too_long_for_its_buffer_is_dropped),
	    cmocka_unit_test(filters_do_what_the_driver_says),
	    cmocka_unit_test(many_commands_are_done_in_turns_and_the_next_one_is_noticed),
	    cmocka_unit_test(a_table_too_long_to_keep_means_all),
	    cmocka_unit_test(flows_come_back_on_the_pair_they_were_sent_on),
	    cmocka_unit_test(the_driver_hears_of_a_lost_link),
	    cmocka_unit_test(offloads_for_the_guest_can_be_taken_back),
	    cmocka_unit_test(headers_that_lie_are_dropped),
	    cmocka_unit_test(a_checksum_to_fill_in_needs_the_feature),
	    cmocka_unit_test(broken_queues_ask_for_a_reset),
	    cmocka_unit_test(commands_that_are_cut_or_unknown_fail),
	    cmocka_unit_test(saved_state_comes_back_the_same),
	    cmocka_unit_test(a_link_that_is_another_after_a_load_is_told),
	    cmocka_unit_test(state_that_cannot_be_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
