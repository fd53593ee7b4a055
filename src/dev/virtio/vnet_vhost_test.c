/* vnet_vhost_test.c: a network card whose frames a back end outside moves. */
#include <stdlib.h>

#include "dev/virtio/net_impl.h"
#include "dev/virtio/vhost_testing.h"

#define ALL (NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_MRG_RXBUF)

struct rig {
	struct vt t;
	struct fake_vhost *fake;
	struct net *net;
};

static struct vnet *card(struct rig *r)
{
	return vnet_of(virtio_of(r->t.dev));
}

static void rig_init(struct rig *r, uint64_t features, unsigned pairs)
{
	struct vnet_config cfg = {
	    .place = vt_init(&r->t), .mac = {0x52, 0x54, 0, 1, 2, 3}, .pairs = pairs};

	r->fake = fake_new(features | VIRTIO_F_INDIRECT_DESC, 2);
	assert_int_equal(net_vhost_new(&r->net, &r->fake->v, NULL), 0);
	cfg.net = r->net;
	cfg.vhost = &r->fake->v;
	cfg.clock = r->t.b.clock;
	assert_int_equal(vnet_new(&r->t.dev, &cfg, NULL), 0);
	vt_power_on(&r->t);
}

static void rig_fini(struct rig *r)
{
	vt_fini(&r->t);
	vhost_free(&r->fake->v);
	net_free(r->net);
}

static void rig_start(struct rig *r, uint64_t features, unsigned queues)
{
	unsigned before = r->fake->starts;

	vt_start(&r->t, features, queues);
	until(r->fake->starts == before + 1);
	until(fake_kicked(r->fake, 1));
}

/* One buffer in queue q. */
static void offer(struct rig *r, unsigned q, unsigned d, uint16_t flags)
{
	vt_desc(&r->t, q, d, VT_DATA + 0x1000 * d + 0x10000 * q, 1600, flags, 0);
	vt_offer(&r->t, q, (uint16_t)d);
	vt_notify(&r->t, q);
}

/* The driver's count of pairs, by way of control queue q. */
static uint8_t set_pairs(struct rig *r, unsigned q, uint16_t pairs)
{
	uint8_t command[4] = {4, 0, (uint8_t)pairs, 0}, ack = 0xff;
	uint32_t head, len;

	assert_int_equal(gmem_write(r->t.b.mem, gpa(VT_DATA), command, 4), 0);
	vt_desc(&r->t, q, 0, VT_DATA, 4, 1, 1);
	vt_desc(&r->t, q, 1, VT_DATA + 16, 1, 2, 0);
	vt_offer(&r->t, q, 0);
	vt_notify(&r->t, q);
	assert_true(vt_used(&r->t, q, &head, &len));
	assert_int_equal(gmem_read(r->t.b.mem, gpa(VT_DATA + 16), &ack, 1), 0);
	return ack;
}

static void offers_what_its_back_end_can_do(void **state)
{
	struct rig r;
	uint64_t f;

	rig_init(&r, ALL, 2);
	f = vt_offered(&r.t);
	assert_int_equal(f & ALL, ALL);
	assert_true(f & NET_F_MQ && f & NET_F_CTRL_VQ && f & NET_F_STATUS);
	assert_false(f & (NET_F_HOST_TSO6 | NET_F_CTRL_VLAN | NET_F_CTRL_GUEST_OFFLOADS |
			  VIRTIO_F_RING_RESET));
	assert_int_equal(vt_in(&r.t, 0x2000, 4), 0x01005452);
	assert_int_equal(vt_in(&r.t, 0x2000 + CFG_STATUS, 2), 1);
	assert_int_equal(vt_in(&r.t, 18, 2), 5);
	rig_fini(&r);
	rig_init(&r, 0, 1);
	assert_false(vt_offered(&r.t) & (ALL | NET_F_MQ));
	rig_fini(&r);
}

static void every_register_takes_every_width(void **state)
{
	struct rig r;

	rig_init(&r, ALL, 2);
	bench_sweep(r.t.b.memory, VT_BAR, 0x40);
	bench_sweep(r.t.b.memory, VT_BAR + 0x2000, CFG_SIZE);
	rig_fini(&r);
}

static void more_pairs_than_the_back_end_has_are_refused(void **state)
{
	struct vt t;
	struct vnet_config cfg = {.place = vt_init(&t), .pairs = 3, .clock = t.b.clock};
	struct fake_vhost *f = fake_new(0, 2);
	struct error err;

	cfg.vhost = &f->v;
	assert_int_equal(vnet_new(&t.dev, &cfg, &err), -EINVAL);
	assert_non_null(strstr(err.text, "has 2 queue pairs, not 3"));
	vhost_free(&f->v);
	device_free(t.bus);
	bench_fini(&t.b);
}

static void frames_go_outside_and_commands_stay(void **state)
{
	struct rig r;
	uint32_t head, len;
	unsigned before;
	int there[2];

	rig_init(&r, ALL, 2);
	rig_start(&r, ALL | NET_F_MQ | NET_F_CTRL_VQ, 5);
	assert_int_equal(r.fake->plan.rings, 4);
	assert_int_equal(r.fake->plan.features & ALL, ALL);
	assert_true(r.fake->enabled[0] && r.fake->enabled[1]);
	assert_false(r.fake->enabled[2] || r.fake->enabled[3]);
	assert_int_equal(set_pairs(&r, 4, 2), 0);
	until(r.fake->enables >= 4);
	assert_true(r.fake->enabled[2] && r.fake->enabled[3]);
	assert_int_equal(set_pairs(&r, 4, 3), 1);
	offer(&r, 3, 2, 0);
	assert_true(fake_take(r.fake, 3) >= 0);
	/* A frame that is spread over two buffers comes whole. */
	offer(&r, 0, 4, 2);
	offer(&r, 0, 6, 2);
	there[0] = fake_take(r.fake, 0);
	there[1] = fake_take(r.fake, 0);
	before = r.t.b.messages;
	fake_answer(r.fake, 0, (uint32_t)there[0], 1600);
	fake_answer(r.fake, 0, (uint32_t)there[1], 100);
	fake_call(r.fake, 0);
	until(r.t.b.messages != before);
	assert_true(vt_used(&r.t, 0, &head, &len));
	assert_int_equal(head, 4);
	assert_true(vt_used(&r.t, 0, &head, &len));
	assert_int_equal(head, 6);
	assert_int_equal(len, 100);
	rig_fini(&r);
}

/* Then the control queue is the third, which is no business of the back end's. */
static void a_driver_that_knows_one_pair_keeps_its_control_queue(void **state)
{
	struct rig r;

	rig_init(&r, ALL, 2);
	rig_start(&r, ALL | NET_F_CTRL_VQ, 3);
	assert_int_equal(r.fake->plan.rings, 2);
	assert_int_equal(set_pairs(&r, 2, 2), 1);
	rig_fini(&r);
}

static void the_link_is_down_while_the_back_end_is_away(void **state)
{
	struct rig r;

	rig_init(&r, ALL, 1);
	rig_start(&r, ALL, 2);
	offer(&r, 0, 0, 2);
	assert_true(fake_take(r.fake, 0) >= 0);
	r.fake->refuse = -ENOENT;
	fake_event(r.fake, VHOST_LOST);
	until(!vt_in(&r.t, 0x2000 + CFG_STATUS, 2));
	offer(&r, 0, 2, 2);
	r.fake->refuse = 0;
	until(r.fake->starts == 2);
	until(vt_in(&r.t, 0x2000 + CFG_STATUS, 2) == 1);
	until(fake_kicked(r.fake, 1));
	assert_true(fake_take(r.fake, 0) >= 0);
	assert_true(fake_take(r.fake, 0) >= 0);
	rig_fini(&r);
}

static void hostile_rings_break_the_card_and_not_the_back_end(void **state)
{
	struct rig r;

	rig_init(&r, ALL, 1);
	rig_start(&r, ALL, 2);
	vt_desc(&r.t, 1, 0, VT_DATA, 16, 1, 1);
	vt_desc(&r.t, 1, 1, VT_DATA, 16, 1, 0); /* a loop */
	vt_offer(&r.t, 1, 0);
	vt_notify(&r.t, 1);
	assert_true(vt_in(&r.t, 20, 1) & VIRTIO_NEEDS_RESET);
	until(r.fake->stops == 1);
	assert_int_equal(fake_take(r.fake, 1), -1);
	rig_fini(&r);
}

static void buffers_of_the_driver_survive_a_save(void **state)
{
	struct rig a, b;
	uint8_t page[4096];

	rig_init(&a, ALL, 2);
	rig_init(&b, ALL, 2);
	rig_start(&a, ALL | NET_F_MQ | NET_F_CTRL_VQ, 5);
	assert_int_equal(set_pairs(&a, 4, 2), 0);
	offer(&a, 0, 0, 2);
	offer(&a, 0, 2, 2);
	offer(&a, 2, 0, 2);
	device_quiesce(a.t.dev);
	device_quiesce(b.t.dev);
	assert_int_equal(virtio_in_flight(&card(&a)->vd), 0);
	for (uint64_t at = VT_RING(0); at < VT_RING(5); at += 4096) {
		assert_int_equal(gmem_read(a.t.b.mem, gpa(at), page, 4096), 0);
		assert_int_equal(gmem_write(b.t.b.mem, gpa(at), page, 4096), 0);
	}
	bench_round_trip(a.t.dev, b.t.dev);
	bench_corrupt(a.t.dev);
	bench_refuses(a.t.dev, struct vnet, pairs, 3);
	clock_advance(b.t.b.clock, 1);
	until(b.fake->starts == 1);
	until(fake_kicked(b.fake, 3));
	assert_true(b.fake->enabled[3]);
	assert_true(fake_take(b.fake, 0) >= 0);
	assert_true(fake_take(b.fake, 0) >= 0);
	assert_true(fake_take(b.fake, 2) >= 0);
	rig_fini(&a);
	rig_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(offers_what_its_back_end_can_do),
	    cmocka_unit_test(every_register_takes_every_width),
	    cmocka_unit_test(more_pairs_than_the_back_end_has_are_refused),
	    cmocka_unit_test(frames_go_outside_and_commands_stay),
	    cmocka_unit_test(a_driver_that_knows_one_pair_keeps_its_control_queue),
	    cmocka_unit_test(the_link_is_down_while_the_back_end_is_away),
	    cmocka_unit_test(hostile_rings_break_the_card_and_not_the_back_end),
	    cmocka_unit_test(buffers_of_the_driver_survive_a_save),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
