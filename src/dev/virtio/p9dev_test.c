/* p9dev_test.c: the 9P transport against a driver written for the purpose. */
#include "backend/p9_testing.h"
#include "dev/virtio/p9dev.h"
#include "dev/virtio/testing.h"

struct rig {
	struct vt t;
	struct p9t *files; /* its directory; its server is this device's */
};

#define REPLY (VT_DATA + 0x10000)

static struct rig *rig_new(const char *tag)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct p9dev_config cfg = {.tag = tag};

	assert_non_null(r);
	r->files = p9t_new();
	p9t_open(r->files, 0); /* no session yet */
	p9_reset(r->files->p9);
	cfg.place = vt_init(&r->t);
	cfg.p9 = r->files->p9;
	assert_int_equal(p9dev_new(&r->t.dev, &cfg, NULL), 0);
	vt_power_on(&r->t);
	p9_drain(r->files->p9);
	return r;
}

static void rig_free(struct rig *r)
{
	vt_fini(&r->t);
	p9t_free(r->files);
	free(r);
}

/* Sends what p9t_begin and its like have put together, with room for `room` bytes of an answer. */
static void send_it(struct rig *r, uint32_t room)
{
	struct p9t *m = r->files;

	store_le32(m->msg, (uint32_t)m->len);
	assert_int_equal(gmem_write(r->t.b.mem, gpa(VT_DATA), m->msg, m->len), 0);
	assert_int_equal(gmem_fill(r->t.b.mem, gpa(REPLY), 0xee, 0x2000), 0);
	vt_desc(&r->t, 0, 0, VT_DATA, (uint32_t)m->len, 1, 1);
	vt_desc(&r->t, 0, 1, REPLY, room, 2, 0);
	vt_offer(&r->t, 0, 0);
	vt_notify(&r->t, 0);
	p9_drain(m->p9);
}

/* The answer's type, with the answer in files->reply; 0: none came. */
static uint8_t answer(struct rig *r)
{
	uint32_t head, len;

	if (!vt_used(&r->t, 0, &head, &len))
		return 0;
	assert_int_equal(head, 0);
	assert_int_equal(gmem_read(r->t.b.mem, gpa(REPLY), r->files->reply, 0x2000), 0);
	assert_int_equal(load_le32(r->files->reply), len);
	assert_int_equal(r->files->reply[len], 0xee);
	return r->files->reply[4];
}

static void session(struct rig *r)
{
	struct p9t *m = r->files;

	p9t_begin(m, P9_TVERSION);
	p9t_u32(m, 8192);
	p9t_str(m, "9P2000.L");
	send_it(r, 0x1000);
	assert_int_equal(answer(r), P9_TVERSION + 1);
	p9t_begin(m, P9_TATTACH);
	p9t_u32(m, 0);
	p9t_u32(m, P9_NOFID);
	p9t_str(m, "root");
	p9t_str(m, "");
	p9t_u32(m, 0);
	send_it(r, 0x1000);
	assert_int_equal(answer(r), P9_TATTACH + 1);
}

static void after_reset_it_tells_its_tag(void **state)
{
	struct rig *r = rig_new("work");

	assert_int_equal(vt_in(&r->t, 20, 1), 0);
	assert_true(vt_offered(&r->t) & 1);
	assert_int_equal(vt_in(&r->t, 18, 2), 1); /* queues */
	assert_int_equal(vt_in(&r->t, 0x2000, 2), 4);
	assert_int_equal(vt_in(&r->t, 0x2002, 4), 0x6b726f77); /* "work" */
	assert_int_equal(vt_in(&r->t, 0x2006, 1), 0);
	vt_out(&r->t, 0x2002, 4, 0);
	assert_int_equal(vt_in(&r->t, 0x2002, 4), 0x6b726f77);
	rig_free(r);
}

static void every_offset_at_every_width_is_harmless(void **state)
{
	struct rig *r = rig_new("work");

	bench_sweep(r->t.b.memory, VT_BAR, 0x40);
	bench_sweep(r->t.b.memory, VT_BAR + 0x1000, 0x10);
	bench_sweep(r->t.b.memory, VT_BAR + 0x2000, 0x40);
	bench_sweep(r->t.b.memory, VT_BAR + 0x3000, 0x10);
	rig_free(r);
}

static void requests_are_answered_with_an_interrupt(void **state)
{
	struct rig *r = rig_new("work");
	struct p9t *m = r->files;
	unsigned before;

	p9t_host_write(m, "share/file", "content");
	vt_start(&r->t, 1, 1);
	session(r);
	before = r->t.b.messages;
	p9t_begin(m, P9_TGETATTR);
	p9t_u32(m, 0);
	p9t_u64(m, 0x7ff);
	send_it(r, 0x1000);
	assert_int_equal(answer(r), P9_TGETATTR + 1);
	assert_int_equal(r->t.b.messages, before + 1);
	assert_int_equal(r->t.b.msi_data, 0x41);
	rig_free(r);
}

static void a_reset_ends_the_session(void **state)
{
	struct rig *r = rig_new("work");
	struct p9t *m = r->files;

	vt_start(&r->t, 1, 1);
	session(r);
	vt_start(&r->t, 1, 1);
	p9t_begin(m, P9_TGETATTR);
	p9t_u32(m, 0);
	p9t_u64(m, 0x7ff);
	send_it(r, 0x1000);
	assert_int_equal(answer(r), P9_RLERROR);
	assert_int_equal(p9_fids(m->p9), 0);
	rig_free(r);
}

/* Nobody may ever ask anything again: others wait for the lock meanwhile. */
static void a_reset_lets_go_of_what_the_guest_held(void **state)
{
	struct rig *r = rig_new("work");
	struct p9t *m = r->files;
	struct flock whole = {.l_type = F_WRLCK};
	char path[128];
	int fd;

	p9t_host_write(m, "share/file", "content");
	snprintf(path, sizeof(path), "%s/share/file", m->dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	vt_start(&r->t, 1, 1);
	session(r);
	p9t_begin(m, P9_TWALK);
	p9t_u32(m, 0);
	p9t_u32(m, 1);
	p9t_u16(m, 1);
	p9t_str(m, "file");
	send_it(r, 0x1000);
	assert_int_equal(answer(r), P9_TWALK + 1);
	p9t_begin(m, P9_TLOPEN);
	p9t_u32(m, 1);
	p9t_u32(m, O_RDWR);
	send_it(r, 0x1000);
	assert_int_equal(answer(r), P9_TLOPEN + 1);
	p9t_begin(m, P9_TLOCK);
	p9t_u32(m, 1);
	p9t_u8(m, 1);
	p9t_u32(m, 0);
	p9t_u64(m, 0);
	p9t_u64(m, 0);
	p9t_u32(m, 9);
	p9t_str(m, "me");
	send_it(r, 0x1000);
	assert_int_equal(answer(r), P9_TLOCK + 1);
	assert_int_equal(m->reply[P9_HEADER], 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &whole), -1);
	assert_int_equal(p9_fids(m->p9), 2);
	vt_status(&r->t, 0);
	p9_drain(m->p9);
	assert_int_equal(p9_fids(m->p9), 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &whole), 0);
	close(fd);
	rig_free(r);
}

static void bad_requests_are_answered_or_break_the_device(void **state)
{
	struct rig *r = rig_new("work");
	struct p9t *m = r->files;

	vt_start(&r->t, 1, 1);
	session(r);
	/* Lengths that lie. */
	for (uint32_t lie = 0; lie < 40; lie++) {
		if (lie == 11)
			continue;
		p9t_begin(m, P9_TCLUNK);
		p9t_u32(m, 77);
		send_it(r, 0x1000);
		assert_int_equal(answer(r), P9_RLERROR);
		store_le32(m->msg, lie);
		assert_int_equal(gmem_write(r->t.b.mem, gpa(VT_DATA), m->msg, m->len), 0);
		vt_offer(&r->t, 0, 0);
		vt_notify(&r->t, 0);
		p9_drain(m->p9);
		assert_int_equal(answer(r), P9_RLERROR);
	}
	assert_int_equal(vt_in(&r->t, 20, 1), 15);
	/* No room even for an error. */
	p9t_begin(m, P9_TCLUNK);
	p9t_u32(m, 77);
	send_it(r, 10);
	assert_int_equal(answer(r), 0);
	assert_int_equal(vt_in(&r->t, 20, 1), 15 | VIRTIO_NEEDS_RESET);
	assert_int_equal(virtio_in_flight(virtio_of(r->t.dev)), 0);
	/* A chain that loops, outside RAM, the wrong way round. */
	for (unsigned i = 0; i < 3; i++) {
		vt_start(&r->t, 1, 1);
		vt_desc(&r->t, 0, 0, i == 1 ? BENCH_RAM : VT_DATA, 16, i == 2 ? 3 : 1, 1);
		vt_desc(&r->t, 0, 1, REPLY, 64, i == 0 ? 3 : 0, 0);
		vt_offer(&r->t, 0, 0);
		vt_notify(&r->t, 0);
		p9_drain(m->p9);
		assert_true(vt_in(&r->t, 20, 1) & VIRTIO_NEEDS_RESET);
	}
	vt_start(&r->t, 1, 1);
	session(r); /* and all is well again */
	rig_free(r);
}

static void saved_state_comes_back_and_corrupt_state_changes_nothing(void **state)
{
	struct rig *r = rig_new("work"), *twin = rig_new("work"), *other = rig_new("other");
	uint8_t ring[0x1000];
	struct state_shadow *shadow;
	struct wbuf w;
	struct rbuf in;

	vt_start(&r->t, 1, 1);
	session(r);
	device_quiesce(r->t.dev);
	assert_int_equal(gmem_read(r->t.b.mem, gpa(VT_RING(0)), ring, sizeof(ring)), 0);
	assert_int_equal(gmem_write(twin->t.b.mem, gpa(VT_RING(0)), ring, sizeof(ring)), 0);
	bench_round_trip(r->t.dev, twin->t.dev);
	assert_int_equal(p9_fids(twin->files->p9), 1);
	bench_save(r->t.dev, &w);
	assert_int_equal(bench_load(other->t.dev, w.data, w.len), -EINVAL);
	for (size_t i = 0; i < w.len; i += i < 4096 ? 3 : 1021) {
		rbuf_init(&in, w.data, i);
		assert_int_not_equal(device_decode(r->t.dev, &in, &shadow, NULL), 0);
		w.data[i] ^= 0x41;
		rbuf_init(&in, w.data, w.len);
		if (!device_decode(r->t.dev, &in, &shadow, NULL))
			state_discard(shadow);
		w.data[i] ^= 0x41;
	}
	assert_int_equal(p9_fids(r->files->p9), 1);
	wbuf_fini(&w);
	rig_free(r);
	rig_free(twin);
	rig_free(other);
}

static void what_cannot_be_saved_is_refused_when_loaded(void **state)
{
	struct rig *r = rig_new("work");
	struct p9t *m = r->files;
	struct error err;
	struct state_shadow *shadow;
	struct wbuf w;
	struct rbuf in;

	vt_start(&r->t, 1, 1);
	session(r);
	p9t_begin(m, P9_TXATTRCREATE);
	p9t_u32(m, 0);
	p9t_str(m, "user.a");
	p9t_u64(m, 1);
	p9t_u32(m, 0);
	send_it(r, 0x1000);
	assert_int_equal(answer(r), P9_TXATTRCREATE + 1);
	bench_save(r->t.dev, &w);
	rbuf_init(&in, w.data, w.len);
	assert_int_equal(device_decode(r->t.dev, &in, &shadow, &err), -EINVAL);
	assert_non_null(strstr(err.text, "extended attribute"));
	wbuf_fini(&w);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(after_reset_it_tells_its_tag),
	    cmocka_unit_test(every_offset_at_every_width_is_harmless),
	    cmocka_unit_test(requests_are_answered_with_an_interrupt),
	    cmocka_unit_test(a_reset_ends_the_session),
	    cmocka_unit_test(a_reset_lets_go_of_what_the_guest_held),
	    cmocka_unit_test(bad_requests_are_answered_or_break_the_device),
	    cmocka_unit_test(saved_state_comes_back_and_corrupt_state_changes_nothing),
	    cmocka_unit_test(what_cannot_be_saved_is_refused_when_loaded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
