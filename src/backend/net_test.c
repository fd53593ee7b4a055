/* net_test.c: checksums, the queue of frames, counters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "backend/net_impl.h"

static void an_open_checksum_is_finished_as_rfc_1071_says(void **state)
{
	/* The example of RFC 1071 section 3: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2. */
	uint8_t frame[14 + 10] = {[14] = 0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7, 0, 0};
	struct net_offload off = {.flags = NET_NEEDS_CSUM, .csum_start = 14, .csum_offset = 8};

	assert_true(net_csum_finish(frame, sizeof(frame), &off));
	assert_int_equal(frame[22], 0x22);
	assert_int_equal(frame[23], 0x0d);
	assert_int_equal(off.flags, 0);
}

static void an_odd_byte_at_the_end_counts_as_the_high_half(void **state)
{
	uint8_t frame[14 + 5] = {[14] = 0, 0, 0x12, 0x34, 0x56};
	struct net_offload off = {.flags = NET_NEEDS_CSUM, .csum_start = 14, .csum_offset = 0};

	assert_true(net_csum_finish(frame, sizeof(frame), &off));
	assert_int_equal(frame[14] << 8 | frame[15], 0xffff - (0x1234 + 0x5600));
}

static void a_sum_of_zero_is_written_as_ffff(void **state)
{
	uint8_t frame[14 + 4] = {[14] = 0, 0, 0xff, 0xff};
	struct net_offload off = {.flags = NET_NEEDS_CSUM, .csum_start = 14, .csum_offset = 0};

	assert_true(net_csum_finish(frame, sizeof(frame), &off));
	assert_int_equal(frame[14], 0xff);
	assert_int_equal(frame[15], 0xff);
}

static void a_checksum_outside_the_frame_is_refused(void **state)
{
	uint8_t frame[64] = {0};
	struct net_offload off = {.flags = NET_NEEDS_CSUM, .csum_start = 65};

	assert_false(net_csum_finish(frame, sizeof(frame), &off));
	off = (struct net_offload){.flags = NET_NEEDS_CSUM, .csum_start = 60, .csum_offset = 3};
	assert_false(net_csum_finish(frame, sizeof(frame), &off));
	off = (struct net_offload){
	    .flags = NET_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff};
	assert_false(net_csum_finish(frame, sizeof(frame), &off));
	off = (struct net_offload){.flags = NET_NEEDS_CSUM, .csum_start = 60, .csum_offset = 2};
	assert_true(net_csum_finish(frame, sizeof(frame), &off));
}

struct taker {
	unsigned room, got;
	size_t last_len;
	uint8_t last_byte;
};

static _Bool take(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *off)
{
	struct taker *t = opaque;

	if (!t->room)
		return 0;
	t->room--;
	assert_int_equal(off->gso_size, t->got & 0xffff);
	assert_int_equal(frame[0], t->got & 0xff);
	assert_int_equal(frame[len - 1], t->got & 0xff);
	t->got++;
	return 1;
}

static void the_queue_keeps_order_across_its_end_and_drops_what_does_not_fit(void **state)
{
	struct taker t = {0};
	struct net net = {.client = {.receive = take, .opaque = &t}};
	struct net_counts counts;
	uint8_t *frame = malloc(NET_FRAME_MAX);
	unsigned put = 0;
	struct netq q;

	assert_int_equal(netq_init(&q), 0);
	for (unsigned round = 0; round < 7; round++) {
		for (;;) {
			struct net_offload off = {.gso_size = (uint16_t)put};
			size_t len = 60 + put * 977 % (NET_FRAME_MAX - 60);

			memset(frame, (int)(put & 0xff), len);
			if (!netq_put(&q, frame, len, &off))
				break;
			put++;
		}
		t.room = 1 + round * 5;
		assert_false(netq_deliver(&q, &net));
	}
	t.room = UINT32_MAX;
	assert_true(netq_deliver(&q, &net));
	assert_true(netq_empty(&q));
	assert_int_equal(t.got, put);
	net_counts(&net, &counts);
	assert_int_equal(counts.received, put);
	netq_fini(&q);
	free(frame);
}

static void short_and_giant_frames_and_those_on_a_dead_link_go_nowhere(void **state)
{
	static uint8_t frame[NET_FRAME_MAX + 1];
	const struct net_offload off = {0};
	struct net_counts counts;
	struct iovec iov = {frame, 13};
	struct net *net;

	assert_int_equal(net_mem_new(&net, 0), 0);
	assert_true(net_send(net, &iov, 1, &off));
	iov.iov_len = sizeof(frame);
	assert_true(net_send(net, &iov, 1, &off));
	iov.iov_len = 60;
	net_mem_set_link(net, 0);
	assert_true(net_send(net, &iov, 1, &off));
	assert_int_equal(net_mem_take(net, frame, sizeof(frame), NULL), 0);
	net_counts(net, &counts);
	assert_int_equal(counts.dropped, 3);
	net_mem_set_link(net, 1);
	assert_true(net_send(net, &iov, 1, &off));
	assert_int_equal(net_mem_take(net, frame, sizeof(frame), NULL), 60);
	net_free(net);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(an_open_checksum_is_finished_as_rfc_1071_says),
	    cmocka_unit_test(an_odd_byte_at_the_end_counts_as_the_high_half),
	    cmocka_unit_test(a_sum_of_zero_is_written_as_ffff),
	    cmocka_unit_test(a_checksum_outside_the_frame_is_refused),
	    cmocka_unit_test(the_queue_keeps_order_across_its_end_and_drops_what_does_not_fit),
	    cmocka_unit_test(short_and_giant_frames_and_those_on_a_dead_link_go_nowhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
