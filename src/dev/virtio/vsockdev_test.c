/* vsockdev_test.c: virtio sockets between a driver written for the purpose and real Unix sockets.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/accept_testing.h"
#include "base/unix_socket.h"
#include "dev/virtio/testing.h"
#include "dev/virtio/vsockdev.h"

#include <stdlib.h>

#define CID    7
#define HDR    44
#define RX_BUF (VT_DATA + 0x10000) /* VT_SIZE buffers of 0x1000 */
#define MANY   128		   /* what the device's queues hold */

struct rig {
	struct vt t;
	struct loop *loop;
	struct vsock *vsock;
	struct loop_work stop;
	char dir[64], path[80];
	uint16_t tx;
	uint8_t packet[0x1000]; /* the last one from the device */
};

static void on_stop(struct loop_work *work)
{
	loop_stop(work->opaque, 0);
}

/* Runs the loop until what is pending is done. */
static void pump(struct rig *r)
{
	for (unsigned i = 0; i < 6; i++) {
		loop_post(r->loop, &r->stop);
		loop_run(r->loop);
	}
}

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct vsockdev_config cfg = {.cid = CID};

	assert_non_null(r);
	strcpy(r->dir, "/tmp/vsock_test.XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/v", r->dir);
	assert_int_equal(loop_new(&r->loop, NULL), 0);
	r->stop = (struct loop_work){.fn = on_stop, .opaque = r->loop};
	assert_int_equal(vsock_new(&r->vsock, r->loop, r->path, NULL), 0);
	cfg.place = vt_init(&r->t);
	cfg.vsock = r->vsock;
	assert_int_equal(vsockdev_new(&r->t.dev, &cfg, NULL), 0);
	vt_power_on(&r->t);
	return r;
}

static void rig_free(struct rig *r)
{
	vt_fini(&r->t);
	vsock_free(r->vsock);
	loop_free(r->loop);
	assert_int_equal(rmdir(r->dir), 0);
	free(r);
}

static void rx_offer(struct rig *r, unsigned d)
{
	vt_desc(&r->t, 0, d, RX_BUF + 0x1000 * d, 0x1000, 2, 0);
	vt_offer(&r->t, 0, (uint16_t)d);
}

/* The driver is ready, with `buffers` to receive into. */
static void start(struct rig *r, unsigned buffers)
{
	vt_start(&r->t, 0, 3);
	r->tx = 0;
	for (unsigned d = 0; d < buffers; d++)
		rx_offer(r, d);
	vt_notify(&r->t, 0);
	pump(r);
}

static void send_raw(struct rig *r, uint64_t src, uint64_t dst, uint32_t sport, uint32_t dport,
		     uint16_t type, uint16_t op, uint32_t flags, uint32_t alloc, uint32_t fwd,
		     const void *data, uint32_t len, uint32_t told)
{
	uint8_t h[HDR];
	uint16_t d = r->tx++ % VT_SIZE;
	uint64_t at = VT_DATA + 0x1000 * d;

	store_le64(h, src);
	store_le64(h + 8, dst);
	store_le32(h + 16, sport);
	store_le32(h + 20, dport);
	store_le32(h + 24, told);
	store_le16(h + 28, type);
	store_le16(h + 30, op);
	store_le32(h + 32, flags);
	store_le32(h + 36, alloc);
	store_le32(h + 40, fwd);
	assert_int_equal(gmem_write(r->t.b.mem, gpa(at), h, HDR), 0);
	assert_int_equal(gmem_write(r->t.b.mem, gpa(at + HDR), data, len), 0);
	vt_desc(&r->t, 1, d, at, HDR + len, 0, 0);
	vt_offer(&r->t, 1, d);
	vt_notify(&r->t, 1);
	pump(r);
}

/* From the guest's port 100 to the host's `port`. */
static void send_op(struct rig *r, uint32_t port, uint16_t op, uint32_t flags, const void *data,
		    uint32_t len)
{
	send_raw(r, CID, 2, 100, port, 1, op, flags, 4096, 0, data, len, len);
}

/* The operation of the next packet for the guest, which is in `packet`; 0: none. Its buffer goes
 * back to the device. */
static unsigned next(struct rig *r)
{
	uint32_t head, len;

	if (!vt_used(&r->t, 0, &head, &len))
		return 0;
	assert_in_range(len, HDR, 0x1000);
	assert_int_equal(gmem_read(r->t.b.mem, gpa(RX_BUF + 0x1000 * head), r->packet, 0x1000), 0);
	assert_int_equal(load_le64(r->packet), 2);
	assert_int_equal(load_le64(r->packet + 8), CID);
	assert_int_equal(load_le32(r->packet + 24), len - HDR);
	rx_offer(r, head);
	vt_notify(&r->t, 0);
	pump(r);
	return load_le16(r->packet + 30);
}

static int listener_make(struct rig *r, unsigned port, char path[108])
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s_%u", r->path, port);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 4), 0);
	strcpy(path, a.sun_path);
	return fd;
}

/* The guest has connected to port 55: the host's end. */
static int connected(struct rig *r)
{
	char path[108];
	int l = listener_make(r, 55, path), fd;

	send_op(r, 55, VSOCK_REQUEST, 0, "", 0);
	fd = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	assert_true(fd >= 0);
	close(l);
	unlink(path);
	assert_int_equal(next(r), VSOCK_RESPONSE);
	assert_int_equal(load_le32(r->packet + 16), 55);
	assert_int_equal(load_le32(r->packet + 20), 100);
	assert_int_equal(load_le32(r->packet + 36), VSOCK_BUF);
	return fd;
}

static int dial(struct rig *r, const char *line)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	strcpy(a.sun_path, r->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(write(fd, line, strlen(line)), (ssize_t)strlen(line));
	pump(r);
	return fd;
}

/* ---- tests ---- */

static void after_reset_it_tells_its_number(void **state)
{
	struct rig *r = rig_new();

	assert_int_equal(vt_in(&r->t, 20, 1), 0);
	assert_int_equal(vt_in(&r->t, 18, 2), 3);
	assert_int_equal(vt_in(&r->t, 0x2000, 4), CID);
	assert_int_equal(vt_in(&r->t, 0x2004, 4), 0);
	rig_free(r);
}

static void every_offset_at_every_width_is_harmless(void **state)
{
	struct rig *r = rig_new();

	bench_sweep(r->t.b.memory, VT_BAR, 0x40);
	bench_sweep(r->t.b.memory, VT_BAR + 0x2000, 0x20);
	bench_sweep(r->t.b.memory, VT_BAR + 0x3000, 0x10);
	pump(r);
	rig_free(r);
}

static void the_guest_reaches_a_listener_of_the_host(void **state)
{
	struct rig *r = rig_new();
	char got[16];
	int fd;

	start(r, 8);
	fd = connected(r);
	send_op(r, 55, VSOCK_RW, 0, "hello", 5);
	assert_int_equal(read(fd, got, sizeof(got)), 5);
	assert_memory_equal(got, "hello", 5);
	assert_int_equal(write(fd, "world!", 6), 6);
	pump(r);
	assert_int_equal(next(r), VSOCK_RW);
	assert_memory_equal(r->packet + HDR, "world!", 6);
	assert_int_equal(load_le32(r->packet + 40), 5); /* what has gone on */
	send_op(r, 55, VSOCK_SHUTDOWN, 3, "", 0);
	assert_int_equal(next(r), VSOCK_RST);
	assert_int_equal(read(fd, got, sizeof(got)), 0);
	assert_int_equal(vsock_connections(r->vsock), 0);
	close(fd);
	rig_free(r);
}

static void the_host_reaches_a_listener_of_the_guest(void **state)
{
	struct rig *r = rig_new();
	char got[32] = "";
	uint32_t port;
	int fd, bad;

	start(r, 8);
	fd = dial(r, "CONNECT 1234\nearly");
	assert_int_equal(next(r), VSOCK_REQUEST);
	assert_int_equal(load_le32(r->packet + 20), 1234);
	port = load_le32(r->packet + 16);
	assert_true(port >= 1u << 30);
	assert_int_equal(read(fd, got, sizeof(got)), -1);
	send_raw(r, CID, 2, 1234, port, 1, VSOCK_RESPONSE, 0, 4096, 0, "", 0, 0);
	assert_true(read(fd, got, sizeof(got) - 1) > 0);
	assert_int_equal(strtoul(got + 3, NULL, 10), port);
	assert_memory_equal(got, "OK ", 3);
	assert_int_equal(next(r), VSOCK_RW);
	assert_memory_equal(r->packet + HDR, "early", 5);
	/* The host leaves: the guest hears of it, and its reset is the end. */
	close(fd);
	pump(r);
	assert_int_equal(next(r), VSOCK_SHUTDOWN);
	assert_int_equal(load_le32(r->packet + 32), 3);
	send_raw(r, CID, 2, 1234, port, 1, VSOCK_RST, 0, 4096, 5, "", 0, 0);
	assert_int_equal(vsock_connections(r->vsock), 0);
	/* Refused, and what is no request. */
	fd = dial(r, "CONNECT 9\n");
	assert_int_equal(next(r), VSOCK_REQUEST);
	send_raw(r, CID, 2, 9, load_le32(r->packet + 16), 1, VSOCK_RST, 0, 0, 0, "", 0, 0);
	assert_int_equal(read(fd, got, sizeof(got)), 0);
	close(fd);
	bad = dial(r, "HELLO 9\n");
	assert_int_equal(read(bad, got, sizeof(got)), 0);
	close(bad);
	bad = dial(r, "CONNECT 99999999999999999999999999999999999999");
	assert_true(read(bad, got, sizeof(got)) <= 0);
	close(bad);
	pump(r);
	assert_int_equal(next(r), 0);
	assert_int_equal(vsock_connections(r->vsock), 0);
	rig_free(r);
}

static void who_is_not_answered_does_not_wait_for_ever(void **state)
{
	struct rig *r = rig_new();
	char got[32] = "";
	int silent, asked, late;
	uint32_t port;

	start(r, 1);
	silent = dial(r, "CONN");
	asked = dial(r, "CONNECT 5\n");
	late = dial(r, "CONNECT 6\n"); /* for which the guest has no buffer now */
	for (unsigned i = 1; i < VSOCK_PATIENCE; i++)
		vsock_second(r->vsock);
	pump(r);
	assert_int_equal(vsock_connections(r->vsock), 3);
	vsock_second(r->vsock);
	pump(r);
	assert_int_equal(read(silent, got, sizeof(got)), 0);
	assert_int_equal(read(asked, got, sizeof(got)), 0);
	assert_int_equal(read(late, got, sizeof(got)), 0);
	close(silent);
	close(asked);
	close(late);
	/* The guest hears of what it had heard of. */
	assert_int_equal(next(r), VSOCK_REQUEST);
	port = load_le32(r->packet + 16);
	assert_int_equal(next(r), VSOCK_RST);
	assert_int_equal(load_le32(r->packet + 16), port);
	assert_int_equal(next(r), 0);
	assert_int_equal(vsock_connections(r->vsock), 0);
	/* What is up may be silent for as long as it likes. */
	asked = dial(r, "CONNECT 7\n");
	assert_int_equal(next(r), VSOCK_REQUEST);
	port = load_le32(r->packet + 16);
	send_raw(r, CID, 2, 7, port, 1, VSOCK_RESPONSE, 0, 4096, 0, "", 0, 0);
	for (unsigned i = 0; i < 2 * VSOCK_PATIENCE; i++)
		vsock_second(r->vsock);
	pump(r);
	assert_int_equal(vsock_connections(r->vsock), 1);
	close(asked);
	rig_free(r);
}

static void no_more_is_sent_than_the_guest_has_room_for(void **state)
{
	struct rig *r = rig_new();
	static const uint8_t many[20000];
	uint32_t got = 0;
	unsigned op;
	int fd;

	start(r, 8);
	fd = connected(r); /* with 4096 bytes of room */
	assert_int_equal(write(fd, many, sizeof(many)), sizeof(many));
	pump(r);
	while ((op = next(r)) == VSOCK_RW)
		got += load_le32(r->packet + 24);
	assert_int_equal(got, 4096);
	assert_int_equal(op, VSOCK_CREDIT_REQUEST);
	assert_int_equal(next(r), 0); /* once */
	send_raw(r, CID, 2, 100, 55, 1, VSOCK_CREDIT_UPDATE, 0, 4096, 4096, "", 0, 0);
	while ((op = next(r)) == VSOCK_RW)
		got += load_le32(r->packet + 24);
	assert_int_equal(got, 8192);
	close(fd);
	rig_free(r);
}

static void a_host_that_stalls_holds_its_own_stream_only(void **state)
{
	struct rig *r = rig_new();
	uint8_t chunk[3000] = {1};
	unsigned op = 0;
	int fd;

	start(r, 8);
	fd = connected(r);
	/* Sent against all credit: the connection ends, the device goes on. */
	for (unsigned i = 0; i < 400 && op != VSOCK_RST; i++) {
		send_op(r, 55, VSOCK_RW, 0, chunk, sizeof(chunk));
		op = next(r);
		assert_true(!op || op == VSOCK_CREDIT_UPDATE || op == VSOCK_RST);
	}
	assert_int_equal(op, VSOCK_RST);
	close(fd);
	fd = connected(r);
	close(fd);
	rig_free(r);
}

static void what_belongs_to_nothing_is_reset(void **state)
{
	struct rig *r = rig_new();

	start(r, 8);
	for (uint16_t op = 0; op < 10; op++) {
		send_op(r, 77, op, 0, "x", 1);
		assert_int_equal(next(r), op == VSOCK_RST ? 0 : VSOCK_RST);
	}
	/* Another type, other numbers, a length that lies. */
	send_raw(r, CID, 2, 100, 77, 2, VSOCK_REQUEST, 0, 0, 0, "", 0, 0);
	assert_int_equal(next(r), VSOCK_RST);
	assert_int_equal(load_le16(r->packet + 28), 2);
	send_raw(r, CID + 1, 2, 100, 77, 1, VSOCK_REQUEST, 0, 0, 0, "", 0, 0);
	send_raw(r, CID, 3, 100, 77, 1, VSOCK_REQUEST, 0, 0, 0, "", 0, 0);
	send_raw(r, CID, 2, 100, 77, 1, VSOCK_RW, 0, 0, 0, "", 0, UINT32_MAX);
	assert_int_equal(next(r), 0);
	assert_int_equal(vt_in(&r->t, 20, 1), 15);
	/* Without a header the driver is at fault. */
	vt_desc(&r->t, 1, 0, VT_DATA, 43, 0, 0);
	vt_offer(&r->t, 1, 0);
	vt_notify(&r->t, 1);
	pump(r);
	assert_int_equal(vt_in(&r->t, 20, 1), 15 | VIRTIO_NEEDS_RESET);
	rig_free(r);
}

static void a_guest_that_takes_no_answers_waits_itself(void **state)
{
	struct rig *r = rig_new();
	unsigned resets = 0;

	start(r, 0);
	for (unsigned i = 0; i < 70; i++) /* more than answers are kept */
		send_op(r, 77, VSOCK_RW, 0, "x", 1);
	assert_int_equal(virtio_in_flight(virtio_of(r->t.dev)), 0);
	for (unsigned d = 0; d < 8; d++)
		rx_offer(r, d);
	vt_notify(&r->t, 0);
	pump(r);
	while (next(r) == VSOCK_RST)
		resets++;
	assert_int_equal(resets, 70);
	rig_free(r);
}

/* Packets to nobody, with one notification, in full-size queues: each is answered, and no further
 * notification is needed for that. */
static void all_answers_come_without_being_asked_for(void **state)
{
	static const unsigned counts[] = {70, MANY};

	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		struct rig *r = rig_new();
		uint8_t h[HDR] = {0};
		uint32_t head, len;
		unsigned resets = 0;

		for (unsigned q = 0; q < 2; q++) {
			r->t.size[q] = MANY;
			r->t.ring[q] = 0x20000 + q * 0x2000;
		}
		start(r, 0);
		store_le64(h, CID);
		store_le64(h + 8, 2);
		store_le32(h + 16, 100);
		store_le32(h + 20, 77);
		store_le16(h + 28, 1);
		store_le16(h + 30, VSOCK_CREDIT_UPDATE);
		assert_int_equal(gmem_write(r->t.b.mem, gpa(VT_DATA), h, HDR), 0);
		for (unsigned d = 0; d < MANY; d++) {
			vt_desc(&r->t, 0, d, RX_BUF + 0x100 * d, 0x100, 2, 0);
			vt_offer(&r->t, 0, (uint16_t)d);
		}
		for (unsigned d = 0; d < counts[i]; d++) {
			vt_desc(&r->t, 1, d, VT_DATA, HDR, 0, 0);
			vt_offer(&r->t, 1, (uint16_t)d);
		}
		vt_notify(&r->t, 1);
		pump(r);
		while (vt_used(&r->t, 0, &head, &len))
			resets++;
		assert_int_equal(resets, counts[i]);
		rig_free(r);
	}
}

static void what_the_host_said_before_it_closed_is_delivered(void **state)
{
	struct rig *r = rig_new();
	int fd;

	start(r, 8);
	fd = connected(r);
	assert_int_equal(write(fd, "late", 4), 4);
	close(fd);
	/* The guest speaks before the device has looked at what is there. */
	send_op(r, 55, VSOCK_RW, 0, "hello", 5);
	assert_int_equal(next(r), VSOCK_RW);
	assert_int_equal(load_le32(r->packet + 24), 4);
	assert_memory_equal(r->packet + HDR, "late", 4);
	assert_int_equal(next(r), VSOCK_SHUTDOWN);
	assert_int_equal(load_le32(r->packet + 32), 3);
	send_op(r, 55, VSOCK_RST, 0, "", 0);
	assert_int_equal(vsock_connections(r->vsock), 0);
	/* One that has shut its receiving side has nothing to hear. */
	fd = connected(r);
	send_op(r, 55, VSOCK_SHUTDOWN, 1, "", 0);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	close(fd);
	send_op(r, 55, VSOCK_RW, 0, "hello", 5);
	assert_int_equal(next(r), VSOCK_SHUTDOWN);
	assert_int_equal(load_le32(r->packet + 32), 3);
	assert_int_equal(next(r), 0);
	rig_free(r);
}

static void a_reset_ends_all_connections(void **state)
{
	struct rig *r = rig_new();
	char c;
	int fd;

	start(r, 8);
	fd = connected(r);
	vt_status(&r->t, 0);
	pump(r);
	assert_int_equal(read(fd, &c, 1), 0);
	assert_int_equal(vsock_connections(r->vsock), 0);
	close(fd);
	rig_free(r);
}

static void after_a_load_the_driver_is_told_that_connections_are_gone(void **state)
{
	struct rig *r = rig_new();
	uint32_t head, len;
	uint8_t event[4] = {9, 9, 9, 9};
	struct wbuf w;
	int fd;

	start(r, 8);
	fd = connected(r);
	bench_corrupt(r->t.dev);
	bench_round_trip(r->t.dev, r->t.dev);
	bench_save(r->t.dev, &w);
	vt_desc(&r->t, 2, 0, VT_DATA, 4, 2, 0);
	vt_offer(&r->t, 2, 0);
	assert_int_equal(bench_load(r->t.dev, w.data, w.len), 0);
	pump(r);
	assert_int_equal(vsock_connections(r->vsock), 0);
	assert_true(vt_used(&r->t, 2, &head, &len));
	assert_int_equal(len, 4);
	assert_int_equal(gmem_read(r->t.b.mem, gpa(VT_DATA), event, 4), 0);
	assert_int_equal(load_le32(event), 0);
	bench_refuses(r->t.dev, struct virtio_dev, config[0], 8);
	wbuf_fini(&w);
	close(fd);
	rig_free(r);
}

static void the_host_is_let_in_when_descriptors_are_there_again(void **state)
{
	struct rig *r = rig_new();
	uint64_t begin = host_time_ms();
	int fd;

	start(r, 8);
	accepts_denied = 2; /* with no connection whose end would free one */
	fd = dial(r, "CONNECT 1234\n");
	while (!vsock_connections(r->vsock))
		pump(r);
	pump(r);
	assert_int_equal(next(r), VSOCK_REQUEST);
	assert_true(host_time_ms() - begin >= 2 * UNIX_ACCEPT_REST_MS - 1);
	close(fd);
	pump(r);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(after_reset_it_tells_its_number),
	    cmocka_unit_test(every_offset_at_every_width_is_harmless),
	    cmocka_unit_test(the_guest_reaches_a_listener_of_the_host),
	    cmocka_unit_test(the_host_reaches_a_listener_of_the_guest),
	    cmocka_unit_test(who_is_not_answered_does_not_wait_for_ever),
	    cmocka_unit_test(no_more_is_sent_than_the_guest_has_room_for),
	    cmocka_unit_test(a_host_that_stalls_holds_its_own_stream_only),
	    cmocka_unit_test(what_belongs_to_nothing_is_reset),
	    cmocka_unit_test(a_guest_that_takes_no_answers_waits_itself),
	    cmocka_unit_test(all_answers_come_without_being_asked_for),
	    cmocka_unit_test(what_the_host_said_before_it_closed_is_delivered),
	    cmocka_unit_test(a_reset_ends_all_connections),
	    cmocka_unit_test(after_a_load_the_driver_is_told_that_connections_are_gone),
	    cmocka_unit_test(the_host_is_let_in_when_descriptors_are_there_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
