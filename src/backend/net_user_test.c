/* net_user_test.c: the user network, from the guest's frames to this host's loopback sockets. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <cmocka.h>
#include "backend/net.h"

#define HOST	0x0a000202 /* 10.0.2.2 */
#define GUEST	0x0a00020f
#define TIMEOUT 10 /* seconds; only a failure takes so long */

static const uint8_t mac[NET_MAC_LEN] = {0x52, 0x54, 0, 1, 2, 3};
static const uint8_t everybody[NET_MAC_LEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

struct rig {
	struct loop *loop;
	struct net *net;
	struct loop_fd watchdog;
	/* What is waited for: an Ethernet type, an IP protocol (0: any), and a test of the rest. */
	unsigned type, protocol;
	_Bool (*match)(const uint8_t *frame, size_t len);
	uint8_t frame[2048];
	size_t len;
	uint8_t host_mac[NET_MAC_LEN];
	_Bool full;
};

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}
static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}
static unsigned get16(const uint8_t *p)
{
	return (unsigned)(p[0] << 8 | p[1]);
}
static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static unsigned sum16(const uint8_t *p, size_t len, uint32_t sum)
{
	for (size_t i = 0; i < len; i++)
		sum += (uint32_t)p[i] << (i & 1 ? 0 : 8);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static void send_frame(struct rig *r, const uint8_t *frame, size_t len,
		       const struct net_offload *off)
{
	static const struct net_offload none;
	struct iovec iov[2] = {{(void *)frame, 9}, {(void *)(frame + 9), len - 9}};

	assert_true(net_send(r->net, iov, 2, off ? off : &none));
}

/* The guest's answer to whoever asks for its address. */
static void arp_answer(struct rig *r, const uint8_t *asked)
{
	uint8_t f[60] = {0};

	memcpy(f, asked + 6, 6);
	memcpy(f + 6, mac, 6);
	put16(f + 12, 0x806);
	memcpy(f + 14, "\0\1\x8\0\6\4\0\2", 8);
	memcpy(f + 22, mac, 6);
	put32(f + 28, GUEST);
	memcpy(f + 32, asked + 22, 10);
	send_frame(r, f, sizeof(f), NULL);
}

static _Bool on_receive(void *opaque, const uint8_t *frame, size_t len,
			const struct net_offload *off)
{
	struct rig *r = opaque;
	unsigned type = get16(frame + 12);

	if (r->full)
		return 0;
	if (type == 0x806 && get16(frame + 20) == 1 && get32(frame + 38) == GUEST)
		arp_answer(r, frame);
	if (type != r->type || (r->protocol && frame[23] != r->protocol) ||
	    (r->match && !r->match(frame, len)))
		return 1;
	memcpy(r->frame, frame, len < sizeof(r->frame) ? len : sizeof(r->frame));
	r->len = len;
	r->type = 0;
	loop_stop(r->loop, 1);
	return 1;
}

static void on_timeout(struct loop_fd *lfd, uint32_t events)
{
	loop_stop(lfd->opaque, 2);
}

static void await(struct rig *r, unsigned type, unsigned protocol,
		  _Bool (*match)(const uint8_t *frame, size_t len))
{
	r->type = type;
	r->protocol = protocol;
	r->match = match;
	assert_int_equal(loop_run(r->loop), 1);
}

static void on_turn(struct loop_work *work)
{
	loop_stop(work->opaque, 7);
}

/* Lets the loop look at its descriptors and work a few times. */
static void turn(struct rig *r)
{
	struct loop_work work = {.fn = on_turn, .opaque = r->loop};

	for (unsigned i = 0; i < 4; i++) {
		loop_post(r->loop, &work);
		assert_int_equal(loop_run(r->loop), 7);
	}
}

static void rig_new(struct rig *r, const struct net_user_config *cfg)
{
	const struct itimerspec when = {.it_value.tv_sec = TIMEOUT};
	const struct net_client client = {.receive = on_receive, .opaque = r};

	memset(r, 0, sizeof(*r));
	assert_int_equal(loop_new(&r->loop, NULL), 0);
	assert_int_equal(net_user_new(&r->net, r->loop, cfg, NULL), 0);
	r->watchdog = (struct loop_fd){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC),
				       .fn = on_timeout,
				       .opaque = r->loop};
	timerfd_settime(r->watchdog.fd, 0, &when, NULL);
	assert_int_equal(loop_fd_add(r->loop, &r->watchdog, EPOLLIN), 0);
	net_attach(r->net, &client);
}

static void rig_free(struct rig *r)
{
	net_free(r->net);
	loop_fd_del(r->loop, &r->watchdog);
	close(r->watchdog.fd);
	loop_free(r->loop);
}

/* Asks for the host's hardware address. */
static void arp(struct rig *r)
{
	uint8_t f[60] = {0};

	memcpy(f, everybody, 6);
	memcpy(f + 6, mac, 6);
	put16(f + 12, 0x806);
	memcpy(f + 14, "\0\1\x8\0\6\4\0\1", 8);
	memcpy(f + 22, mac, 6);
	put32(f + 28, GUEST);
	put32(f + 38, HOST);
	send_frame(r, f, sizeof(f), NULL);
	await(r, 0x806, 0, NULL);
	assert_int_equal(get16(r->frame + 20), 2);
	assert_int_equal(get32(r->frame + 28), HOST);
	memcpy(r->host_mac, r->frame + 22, 6);
}

static size_t ip_header(uint8_t *f, const uint8_t *to_mac, unsigned protocol, uint32_t from,
			uint32_t to, size_t payload)
{
	memcpy(f, to_mac, 6);
	memcpy(f + 6, mac, 6);
	put16(f + 12, 0x800);
	memset(f + 14, 0, 20);
	f[14] = 0x45;
	put16(f + 16, (unsigned)(20 + payload));
	f[22] = 64;
	f[23] = (uint8_t)protocol;
	put32(f + 26, from);
	put32(f + 30, to);
	put16(f + 24, ~sum16(f + 14, 20, 0) & 0xffff);
	return 34;
}

/* ---- a TCP segment of the guest's, its checksum left open ---- */

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

static void tcp(struct rig *r, unsigned from_port, unsigned to_port, uint32_t seq, uint32_t ack,
		unsigned flags, const char *data)
{
	uint8_t f[1600];
	size_t n = strlen(data), at = ip_header(f, r->host_mac, 6, GUEST, HOST, 20 + n);
	struct net_offload off = {
	    .flags = NET_NEEDS_CSUM, .csum_start = (uint16_t)at, .csum_offset = 16};

	memset(f + at, 0, 20);
	put16(f + at, from_port);
	put16(f + at + 2, to_port);
	put32(f + at + 4, seq);
	put32(f + at + 8, ack);
	f[at + 12] = 5 << 4;
	f[at + 13] = (uint8_t)flags;
	put16(f + at + 14, 8192);
	put16(f + at + 16, sum16(f + 26, 8, (uint32_t)(6 + 20 + n))); /* pseudo-header */
	memcpy(f + at + 20, data, n);
	send_frame(r, f, at + 20 + n, &off);
}

static _Bool is_syn(const uint8_t *f, size_t len)
{
	return f[47] & SYN;
}
static _Bool is_reset(const uint8_t *f, size_t len)
{
	return f[47] & RST;
}
static _Bool has_data(const uint8_t *f, size_t len)
{
	return get16(f + 16) > 20u + 4u * (f[46] >> 4);
}

/* A listening TCP socket on 127.0.0.1: its port. */
static int listener(unsigned *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

/* ---- tests ---- */

static _Bool is_offer(const uint8_t *f, size_t len)
{
	return get16(f + 34) == 67 && get16(f + 36) == 68;
}

static void dhcp_gives_the_guest_its_address(void **state)
{
	const struct net_user_config cfg = {.hostname = "tester"};
	uint8_t f[34 + 8 + 300] = {0};
	struct rig r;
	size_t at;

	rig_new(&r, &cfg);
	at = ip_header(f, everybody, 17, 0, 0xffffffff, 308);
	put16(f + at, 68);
	put16(f + at + 2, 67);
	put16(f + at + 4, 308);
	memcpy(f + at + 8, "\1\1\6\0\x12\x34\x56\x78", 8);
	memcpy(f + at + 8 + 28, mac, 6);
	memcpy(f + at + 8 + 236, "\x63\x82\x53\x63\x35\1\1\xff", 8); /* DISCOVER */
	send_frame(&r, f, sizeof(f), NULL);
	await(&r, 0x800, 17, is_offer);
	assert_int_equal(r.frame[42], 2);
	assert_memory_equal(r.frame + 46, "\x12\x34\x56\x78", 4);
	assert_int_equal(get32(r.frame + 42 + 16), GUEST);
	rig_free(&r);
}

static void the_guest_reaches_a_service_of_the_host(void **state)
{
	const struct net_user_config cfg = {0};
	unsigned port;
	int fd = listener(&port), conn;
	char got[16] = "";
	struct rig r;
	uint32_t ack;

	rig_new(&r, &cfg);
	net_set_offloads(r.net, NET_CAN_CSUM);
	arp(&r);
	tcp(&r, 4000, port, 1000, 0, SYN, "");
	await(&r, 0x800, 6, is_syn);
	ack = get32(r.frame + 38) + 1;
	assert_int_equal(get32(r.frame + 42), 1001);
	tcp(&r, 4000, port, 1001, ack, ACK | PSH, "question");
	conn = accept(fd, NULL, NULL);
	assert_true(conn >= 0);
	assert_int_equal(write(conn, "answer", 6), 6);
	await(&r, 0x800, 6, has_data);
	assert_memory_equal(r.frame + 14 + 40, "answer", 6);
	assert_int_equal(get32(r.frame + 42), 1009);
	assert_int_equal(read(conn, got, sizeof(got)), 8);
	assert_string_equal(got, "question");
	close(conn);
	close(fd);
	rig_free(&r);
}

static void a_restricted_guest_does_not(void **state)
{
	const struct net_user_config cfg = {.restricted = 1};
	struct rig r;
	unsigned port;
	int fd = listener(&port);

	rig_new(&r, &cfg);
	arp(&r);
	tcp(&r, 4000, port, 1000, 0, SYN, "");
	await(&r, 0x800, 6, is_reset);
	close(fd);
	rig_free(&r);
}

static void a_published_port_leads_to_the_guest(void **state)
{
	const struct net_user_config cfg = {.restricted = 1};
	struct net_publish p = {.addr = INADDR_LOOPBACK, .guest_port = 22};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct rig r;
	unsigned port;
	int fd = listener(&port), conn;

	close(fd); /* a port that was free a moment ago */
	rig_new(&r, &cfg);
	arp(&r);
	p.host_port = (uint16_t)port;
	assert_int_equal(net_user_publish(r.net, &p, NULL), 0);
	conn = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	a.sin_port = htons((uint16_t)port);
	assert_true(!connect(conn, (struct sockaddr *)&a, sizeof(a)) || errno == EINPROGRESS);
	await(&r, 0x800, 6, is_syn);
	assert_int_equal(get16(r.frame + 36), 22);
	assert_int_equal(get32(r.frame + 30), GUEST);
	close(conn);
	rig_free(&r);
}

static void a_port_in_use_is_said_to_be(void **state)
{
	const struct net_user_config cfg = {0};
	struct net_publish p = {.addr = INADDR_LOOPBACK, .guest_port = 22};
	struct error err;
	struct rig r;
	unsigned port;
	int fd = listener(&port);

	rig_new(&r, &cfg);
	p.host_port = (uint16_t)port;
	assert_int_equal(net_user_publish(r.net, &p, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "listens there already"));
	close(fd);
	rig_free(&r);
}

static void frames_wait_while_the_device_has_no_room(void **state)
{
	const struct net_user_config cfg = {0};
	struct rig r;

	rig_new(&r, &cfg);
	arp(&r);
	r.full = 1;
	tcp(&r, 4000, 1, 1000, 0, SYN, ""); /* nobody listens at port 1: a reset comes */
	turn(&r);
	r.full = 0;
	net_kick(r.net);
	await(&r, 0x800, 6, is_reset);
	rig_free(&r);
}

static void rubbish_from_the_guest_is_harmless(void **state)
{
	const struct net_user_config cfg = {0};
	uint8_t f[600];
	uint32_t seed = 1;
	struct rig r;

	rig_new(&r, &cfg);
	arp(&r);
	for (unsigned i = 0; i < 3000; i++) {
		struct net_offload off = {0};
		size_t len;

		for (size_t j = 0; j < sizeof(f); j++)
			f[j] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
		len = 14 + (seed >> 8) % (sizeof(f) - 14);
		/* Addressed within the private network, so that nothing leaves this process. */
		ip_header(f, r.host_mac, f[23], GUEST, 0x0a000200 | f[40] % 8, f[41]);
		if (f[42] & 1)
			put16(f + 12, f[42] & 2 ? 0x806 : 0x86dd);
		off.flags = f[43] & 1;
		off.csum_start = f[44];
		off.csum_offset = f[45] & 31;
		if (f[23] == 17 || f[23] == 6) /* no traffic to services of this host */
			f[23] = 1;
		send_frame(&r, f, len, &off);
	}
	turn(&r);
	arp(&r);
	rig_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(dhcp_gives_the_guest_its_address),
	    cmocka_unit_test(the_guest_reaches_a_service_of_the_host),
	    cmocka_unit_test(a_restricted_guest_does_not),
	    cmocka_unit_test(a_published_port_leads_to_the_guest),
	    cmocka_unit_test(a_port_in_use_is_said_to_be),
	    cmocka_unit_test(frames_wait_while_the_device_has_no_room),
	    cmocka_unit_test(rubbish_from_the_guest_is_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
