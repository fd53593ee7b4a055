/* console_test.c: the console and its ports over PCI, with back ends that do as they are told. */
#include "dev/virtio/console.h"

#include <errno.h>

#include "backend/chardev_impl.h"
#include "dev/virtio/testing.h"

#define F_SIZE	    UINT64_C(1)
#define F_MULTIPORT UINT64_C(2)
#define F_EMERG	    UINT64_C(4)
#define CFG(o)	    (0x2000 + (o))
#define NS_PER_S    UINT64_C(1000000000)

/* A back end that takes `space` bytes; or a pit, that takes all and only counts. */
struct fake {
	struct chardev ch; /* first */
	size_t space, len;
	unsigned kicks;
	_Bool pit;
	uint8_t got[8192];
};

static size_t fake_write(struct chardev *ch, const uint8_t *data, size_t len)
{
	struct fake *f = (struct fake *)ch;
	size_t n = MIN(len, f->space);

	if (f->pit) {
		f->len += len;
		return len;
	}
	assert_true(f->len + n <= sizeof(f->got));
	memcpy(f->got + f->len, data, n);
	f->len += n;
	f->space -= n;
	return n;
}

static void fake_kick(struct chardev *ch)
{
	((struct fake *)ch)->kicks++;
}

static const struct chardev_ops fake_ops = {.write = fake_write, .kick_input = fake_kick};

struct rig {
	struct vt t;
	struct fake fake[3]; /* the console, ports 1 and 2 */
};

static void rig_init(struct rig *r, unsigned ports)
{
	struct console_config cfg = {.place = vt_init(&r->t), .ports = ports};

	cfg.clock = r->t.b.clock;
	memset(r->fake, 0, sizeof(r->fake));
	for (unsigned i = 0; i < 3; i++) {
		r->fake[i].ch.ops = &fake_ops;
		r->fake[i].space = sizeof(r->fake[i].got);
	}
	cfg.console = &r->fake[0].ch;
	cfg.port[0] = (struct console_port_config){"org.example.agent", &r->fake[1].ch, 0};
	cfg.port[1] = (struct console_port_config){"log", &r->fake[2].ch, 0};
	assert_int_equal(console_new(&r->t.dev, &cfg, NULL), 0);
	vt_power_on(&r->t);
}

static void join(struct rig *r, unsigned i, _Bool on)
{
	r->fake[i].ch.client.connected(r->fake[i].ch.client.opaque, on);
}

/* What the device can hand over now of `len` bytes, as a back end does. */
static size_t feed(struct rig *r, unsigned i, const void *data, size_t len)
{
	return chardev_mem_feed(&r->fake[i].ch, data, len);
}

static void offer(struct rig *r, unsigned q, unsigned i, uint32_t len, _Bool in)
{
	vt_desc(&r->t, q, i, VT_DATA + 0x8000 * (q + 1) + 0x400 * i, len, in ? 2 : 0, 0);
	vt_offer(&r->t, q, (uint16_t)i);
}

static uint64_t at(unsigned q, unsigned i)
{
	return VT_DATA + 0x8000 * (q + 1) + 0x400 * i;
}

static int back(struct rig *r, unsigned q)
{
	uint32_t head, len;

	return vt_used(&r->t, q, &head, &len) ? (int)len : -1;
}

static void send(struct rig *r, unsigned q, const void *data, uint32_t len)
{
	assert_int_equal(gmem_write(r->t.b.mem, gpa(at(q, 0)), data, len), 0);
	offer(r, q, 0, len, 0);
	vt_notify(&r->t, q);
}

static void say(struct rig *r, uint32_t id, uint16_t event, uint16_t value)
{
	uint8_t m[8];

	store_le32(m, id);
	store_le16(m + 4, event);
	store_le16(m + 6, value);
	send(r, 3, m, 8);
	assert_int_equal(back(r, 3), 0);
}

/* Gives one buffer for a message; true when one came: id, event, value and what follows. */
static _Bool hear(struct rig *r, uint32_t *id, unsigned *event, unsigned *value, char text[64])
{
	uint8_t m[72] = {0};
	int n = back(r, 2);

	if (n < 0) {
		offer(r, 2, r->t.avail[2] % 8, 72, 1);
		vt_notify(&r->t, 2);
		n = back(r, 2);
	}
	if (n < 0)
		return 0;
	assert_in_range(n, 8, 72);
	assert_int_equal(
	    gmem_read(r->t.b.mem, gpa(at(2, (unsigned)(r->t.used[2] - 1) % 8)), m, (size_t)n), 0);
	*id = load_le32(m);
	*event = load_le16(m + 4);
	*value = load_le16(m + 6);
	memcpy(text, m + 8, 64);
	return 1;
}

static void expect_message(struct rig *r, uint32_t id, unsigned event, unsigned value,
			   const char *text)
{
	unsigned got_event, got_value;
	uint32_t got_id;
	char got[64];

	assert_true(hear(r, &got_id, &got_event, &got_value, got));
	assert_int_equal(got_id, id);
	assert_int_equal(got_event, event);
	assert_int_equal(got_value, value);
	if (text)
		assert_string_equal(got, text);
}

static void expect_silence(struct rig *r)
{
	unsigned event, value;
	uint32_t id;
	char text[64];

	assert_false(hear(r, &id, &event, &value, text));
}

/* The driver greets and opens all ports; nobody is at the host's side of 1 and 2. */
static void greet(struct rig *r)
{
	vt_start(&r->t, F_MULTIPORT | F_SIZE, 8);
	say(r, UINT32_MAX, 0, 1);
	for (uint32_t id = 0; id < 3; id++)
		expect_message(r, id, 1, 0, NULL);
	for (uint32_t id = 0; id < 3; id++)
		say(r, id, 3, 1);
	expect_message(r, 0, 4, 1, NULL);
	expect_message(r, 0, 5, 0, NULL);
	expect_message(r, 0, 6, 1, NULL);
	expect_message(r, 1, 7, 1, "org.example.agent");
	expect_message(r, 2, 7, 1, "log");
	expect_silence(r);
	for (uint32_t id = 0; id < 3; id++)
		say(r, id, 6, 1);
}

static void has_queues_for_its_ports(void **state)
{
	struct rig r;

	rig_init(&r, 0);
	assert_int_equal(vt_config_read(&r.t, 0, 4), 0x10431af4);
	assert_int_equal(vt_offered(&r.t), VIRTIO_CORE_FEATURES | F_SIZE | F_EMERG);
	assert_int_equal(vt_in(&r.t, 18, 2), 2);
	vt_fini(&r.t);
	rig_init(&r, 2);
	assert_int_equal(vt_offered(&r.t), VIRTIO_CORE_FEATURES | F_SIZE | F_EMERG | F_MULTIPORT);
	assert_int_equal(vt_in(&r.t, 18, 2), 8);
	assert_int_equal(vt_in(&r.t, CFG(0), 4), 0);
	assert_int_equal(vt_in(&r.t, CFG(4), 4), 3);
	vt_fini(&r.t);
}

static void survives_every_offset_at_every_width(void **state)
{
	struct rig r;

	rig_init(&r, 2);
	bench_sweep(r.t.b.memory, VT_BAR, 0x40);
	bench_sweep(r.t.b.memory, VT_BAR + 0x2000, 0x8);
	bench_sweep(r.t.b.memory, VT_BAR + 0x3000, 0x20);
	r.fake[0].len = 0;
	vt_out(&r.t, CFG(8), 4, 'e'); /* the emergency write */
	assert_int_equal(r.fake[0].len, 1);
	assert_int_equal(r.fake[0].got[0], 'e');
	assert_int_equal(vt_in(&r.t, CFG(8), 4), 0);
	vt_fini(&r.t);
}

static void a_plain_console_carries_both_ways(void **state)
{
	uint8_t text[8];
	struct rig r;

	rig_init(&r, 0);
	vt_start(&r.t, F_SIZE, 2);
	send(&r, 1, "hello", 5);
	assert_int_equal(back(&r, 1), 0);
	assert_memory_equal(r.fake[0].got, "hello", 5);
	assert_int_equal(feed(&r, 0, "abc", 3), 0); /* no buffer yet */
	offer(&r, 0, 0, 2, 1);
	offer(&r, 0, 1, 8, 1);
	vt_notify(&r.t, 0);
	assert_true(r.fake[0].kicks);
	assert_int_equal(feed(&r, 0, "abc", 3), 3);
	assert_int_equal(back(&r, 0), 2);
	assert_int_equal(back(&r, 0), 1);
	assert_int_equal(gmem_read(r.t.b.mem, gpa(at(0, 0)), text, 2), 0);
	assert_memory_equal(text, "ab", 2);
	console_resize(r.t.dev, 132, 43);
	assert_int_equal(vt_in(&r.t, CFG(0), 4), 43 << 16 | 132);
	assert_int_equal(r.t.b.msi_data, 0x40);
	vt_fini(&r.t);
}

static void ports_are_announced_opened_and_named(void **state)
{
	struct rig r;

	rig_init(&r, 2);
	greet(&r);
	join(&r, 1, 1);
	expect_message(&r, 1, 6, 1, NULL);
	offer(&r, 4, 0, 16, 1);
	assert_int_equal(feed(&r, 1, "agent", 5), 5);
	assert_int_equal(back(&r, 4), 5);
	send(&r, 5, "answer", 6);
	assert_int_equal(back(&r, 5), 0);
	assert_memory_equal(r.fake[1].got, "answer", 6);
	/* Where nobody is, it goes nowhere. */
	send(&r, 7, "x", 1);
	assert_int_equal(back(&r, 7), 0);
	assert_int_equal(r.fake[2].len, 0);
	/* A host that comes and goes unseen has closed once, and is there. */
	for (unsigned i = 0; i < 5; i++) {
		join(&r, 1, 0);
		join(&r, 1, 1);
	}
	offer(&r, 4, 1, 16, 1);
	assert_int_equal(feed(&r, 1, "new", 3), 0); /* not before it knows */
	expect_message(&r, 1, 6, 0, NULL);
	expect_message(&r, 1, 6, 1, NULL);
	expect_silence(&r);
	assert_int_equal(feed(&r, 1, "new", 3), 3);
	say(&r, 1, 6, 0); /* the guest's side is closed */
	offer(&r, 4, 0, 16, 1);
	assert_int_equal(feed(&r, 1, "more", 4), 0);
	console_resize(r.t.dev, 80, 25);
	expect_message(&r, 0, 5, 0, "\x19");
	vt_fini(&r.t);
}

static void a_host_that_does_not_read_stops_the_port(void **state)
{
	uint8_t bytes[1000];
	struct rig r;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7);
	rig_init(&r, 0);
	vt_start(&r.t, 0, 2);
	r.fake[0].space = 300;
	send(&r, 1, bytes, 1000);
	assert_int_equal(back(&r, 1), -1);
	assert_int_equal(virtio_in_flight(virtio_of(r.t.dev)), 0);
	vt_notify(&r.t, 1);
	assert_int_equal(r.fake[0].len, 300);
	r.fake[0].space = 300;
	r.fake[0].ch.client.can_write(r.fake[0].ch.client.opaque);
	assert_int_equal(back(&r, 1), -1);
	r.fake[0].space = 5000;
	r.fake[0].ch.client.can_write(r.fake[0].ch.client.opaque);
	assert_int_equal(back(&r, 1), 0);
	assert_int_equal(r.fake[0].len, 1000);
	assert_memory_equal(r.fake[0].got, bytes, 1000);
	vt_fini(&r.t);
}

#define TURN_MAX (UINT64_C(256) << 10)

/* A chain of eight times half the RAM. */
static void send_much(struct rig *r, unsigned q)
{
	for (unsigned i = 0; i < 8; i++)
		vt_desc(&r->t, q, i, 0, (uint32_t)BENCH_RAM / 2, i < 7, (uint16_t)(i + 1));
	vt_offer(&r->t, q, 0);
	vt_notify(&r->t, q);
}

static void what_takes_all_is_given_it_in_turns(void **state)
{
	const size_t all = 4 * BENCH_RAM;
	struct rig r;
	size_t before;

	rig_init(&r, 2);
	greet(&r);
	clock_advance(r.t.b.clock, 1);
	join(&r, 1, 1);
	expect_message(&r, 1, 6, 1, NULL);
	r.fake[0].pit = r.fake[1].pit = 1;
	r.fake[0].len = r.fake[1].len = 0;
	send_much(&r, 1);
	assert_in_range(r.fake[0].len, 1, TURN_MAX);
	assert_int_equal(back(&r, 1), -1);
	assert_int_equal(virtio_in_flight(virtio_of(r.t.dev)), 0);
	send_much(&r, 5);
	assert_in_range(r.fake[1].len, 1, TURN_MAX);
	/* The host's side comes again and again: a turn each. */
	before = r.fake[1].len;
	r.fake[1].ch.client.can_write(r.fake[1].ch.client.opaque);
	assert_in_range(r.fake[1].len, before + 1, before + TURN_MAX);
	assert_true(clock_next_ns(r.t.b.clock) <= clock_now_ns(r.t.b.clock));
	clock_advance(r.t.b.clock, 0);
	assert_int_equal(r.fake[0].len, all);
	assert_int_equal(r.fake[1].len, all);
	assert_int_equal(back(&r, 1), 0);
	assert_int_equal(back(&r, 5), 0);
	assert_int_equal(clock_next_ns(r.t.b.clock), UINT64_MAX);
	vt_fini(&r.t);
}

/* Runs behind each of the device's turns. */
struct marker {
	struct timer timer;
	struct rig *r;
	unsigned turns;
	size_t len[2], before[2];
};

static void marker_due(void *opaque)
{
	struct marker *m = opaque;
	size_t moved = 0;

	for (unsigned i = 0; i < 2; i++) {
		m->before[i] = m->len[i];
		m->len[i] = m->r->fake[i].len;
		moved += m->len[i] - m->before[i];
	}
	assert_true(moved <= TURN_MAX);
	m->turns++;
	if (moved)
		timer_arm(&m->timer, clock_now_ns(m->timer.clock));
	/* Each port has had its share by then. */
	if (m->turns == 2)
		assert_true(m->len[0] > TURN_MAX && m->len[1] > TURN_MAX);
}

static void a_turn_is_one_for_all_ports(void **state)
{
	struct marker m = {0};
	struct rig r;

	rig_init(&r, 2);
	greet(&r);
	join(&r, 1, 1);
	expect_message(&r, 1, 6, 1, NULL);
	clock_advance(r.t.b.clock, 1);
	r.fake[0].pit = r.fake[1].pit = 1;
	r.fake[0].len = r.fake[1].len = 0;
	send_much(&r, 1);
	send_much(&r, 5);
	m.r = &r;
	m.len[0] = r.fake[0].len;
	m.len[1] = r.fake[1].len;
	timer_init(&m.timer, r.t.b.clock, marker_due, &m);
	timer_arm(&m.timer, clock_now_ns(r.t.b.clock));
	clock_advance(r.t.b.clock, 0);
	assert_true(m.turns > 8);
	assert_int_equal(m.len[0], 4 * BENCH_RAM);
	assert_int_equal(m.len[1], 4 * BENCH_RAM);
	timer_fini(&m.timer);
	vt_fini(&r.t);
}

static void nonsense_is_passed_over(void **state)
{
	struct rig r;

	rig_init(&r, 2);
	greet(&r);
	say(&r, 3, 3, 1);
	say(&r, UINT32_MAX, 6, 1);
	say(&r, 1, 77, 1);
	say(&r, 1, 3, 0);
	send(&r, 3, "short", 5);
	assert_int_equal(back(&r, 3), 0);
	expect_silence(&r);
	offer(&r, 3, 0, 8, 1); /* writable where it reads; readable where it writes */
	vt_notify(&r.t, 3);
	assert_int_equal(back(&r, 3), 0);
	offer(&r, 0, 0, 8, 0);
	assert_int_equal(feed(&r, 0, "x", 1), 0);
	assert_int_equal(back(&r, 0), 0);
	assert_int_equal(vt_in(&r.t, 20, 1), 15);
	vt_desc(&r.t, 1, 0, BENCH_RAM, 64, 0, 0);
	vt_offer(&r.t, 1, 0);
	vt_notify(&r.t, 1);
	assert_true(vt_in(&r.t, 20, 1) & VIRTIO_NEEDS_RESET);
	assert_int_equal(feed(&r, 0, "x", 1), 0);
	vt_start(&r.t, 0, 2);
	send(&r, 1, "ok", 2);
	assert_int_equal(back(&r, 1), 0);
	vt_fini(&r.t);
}

static void saved_in_the_middle_nothing_is_lost_or_repeated(void **state)
{
	struct wbuf w;
	struct rig r;

	rig_init(&r, 2);
	greet(&r);
	join(&r, 1, 1);
	expect_message(&r, 1, 6, 1, NULL);
	r.fake[1].space = 4;
	send(&r, 5, "abcdefgh", 8);
	assert_int_equal(back(&r, 5), -1);
	bench_save(r.t.dev, &w);
	vt_status(&r.t, 0);
	r.fake[1].space = 100;
	assert_int_equal(bench_load(r.t.dev, w.data, w.len), 0);
	clock_advance(r.t.b.clock, NS_PER_S);
	assert_int_equal(back(&r, 5), 0);
	assert_int_equal(r.fake[1].len, 8);
	assert_memory_equal(r.fake[1].got, "abcdefgh", 8);
	/* Who is there is somebody else than before. */
	expect_message(&r, 1, 6, 0, NULL);
	expect_message(&r, 1, 6, 1, NULL);
	expect_silence(&r);
	wbuf_fini(&w);
	vt_fini(&r.t);
}

static void state_makes_the_round_trip_and_corrupt_state_is_refused(void **state)
{
	struct rig a, b, c;
	struct wbuf w;

	rig_init(&a, 2);
	rig_init(&b, 2);
	rig_init(&c, 1);
	vt_start(&a.t, F_MULTIPORT, 8);
	bench_round_trip(a.t.dev, b.t.dev);
	bench_corrupt(a.t.dev);
	bench_save(a.t.dev, &w);
	assert_int_equal(bench_load(c.t.dev, w.data, w.len), -EINVAL); /* fewer ports */
	wbuf_fini(&w);
	vt_fini(&a.t);
	vt_fini(&b.t);
	vt_fini(&c.t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(has_queues_for_its_ports),
	    cmocka_unit_test(survives_every_offset_at_every_width),
	    cmocka_unit_test(a_plain_console_carries_both_ways),
	    cmocka_unit_test(ports_are_announced_opened_and_named),
	    cmocka_unit_test(a_host_that_does_not_read_stops_the_port),
	    cmocka_unit_test(what_takes_all_is_given_it_in_turns),
	    cmocka_unit_test(a_turn_is_one_for_all_ports),
	    cmocka_unit_test(nonsense_is_passed_over),
	    cmocka_unit_test(saved_in_the_middle_nothing_is_lost_or_repeated),
	    cmocka_unit_test(state_makes_the_round_trip_and_corrupt_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
