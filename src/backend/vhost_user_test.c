/* vhost_user_test.c: the front end's protocol, with back ends that keep to it and ones that do not.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "backend/vhost.h"
#include "base/le.h"

#define F_PROTOCOL BIT64(30)
#define F_VERSION  BIT64(32)

/* How a back end misbehaves in its reply to `on`. */
enum lie {
	HONEST,
	SILENT,
	OTHER_REQUEST,
	NO_REPLY_FLAG,
	WRONG_VERSION,
	HUGE,
	SHORT,
	CUT,
	CLOSES,
	REFUSES,
	MANY_FDS,
};

struct said {
	uint32_t request, flags, size;
	uint8_t payload[512];
	unsigned fds;
};

/* A back end on a thread of its own. It keeps what it was told; the front end's calls return after
 * it has read all of that, but for the last when nothing is acknowledged. */
struct peer {
	pthread_t thread;
	int sock, channel; /* channel: the front end's, or -1 */
	uint64_t features, protocol;
	enum lie lie;
	uint32_t on;
	struct said said[64];
	atomic_uint_least32_t count;
};

static _Bool peer_read(struct peer *p, void *buf, size_t len, unsigned *fds)
{
	uint8_t *at = buf;

	while (len) {
		union {
			struct cmsghdr head;
			uint8_t room[CMSG_SPACE(sizeof(int) * 16)];
		} control;
		struct iovec iov = {at, len};
		struct msghdr msg = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = &control,
				     .msg_controllen = sizeof(control)};
		ssize_t n = recvmsg(p->sock, &msg, MSG_CMSG_CLOEXEC);
		struct cmsghdr *c;

		if (n <= 0)
			return 0;
		c = CMSG_FIRSTHDR(&msg);
		for (size_t i = 0; c && i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (p->said[p->count].request == 21 && p->channel < 0)
				p->channel = fd;
			else
				close(fd);
			(*fds)++;
		}
		at += n;
		len -= (size_t)n;
	}
	return 1;
}

static void peer_send_fds(struct peer *p, const void *buf, size_t len)
{
	union {
		struct cmsghdr head;
		uint8_t room[CMSG_SPACE(sizeof(int) * 100)];
	} control;
	struct iovec iov = {(void *)(uintptr_t)buf, len};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = CMSG_SPACE(sizeof(int) * 100)};

	memset(&control, 0, sizeof(control));
	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(sizeof(int) * 100);
	for (unsigned i = 0; i < 100; i++)
		memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &p->sock, sizeof(int));
	(void)!sendmsg(p->sock, &msg, MSG_NOSIGNAL);
}

/* False: the conversation is over. */
static _Bool peer_reply(struct peer *p, const struct said *s, uint8_t *payload, uint32_t size)
{
	uint8_t bytes[12 + 512];
	enum lie lie = s->request == p->on ? p->lie : HONEST;

	if (lie == SILENT)
		return 1;
	if (lie == CLOSES)
		return 0;
	if (lie == REFUSES)
		store_le64(payload, 22);
	if (lie == SHORT)
		size -= 4;
	store_le32(bytes, s->request + (lie == OTHER_REQUEST));
	store_le32(bytes + 4, (lie == WRONG_VERSION ? 2 : 1) | (lie == NO_REPLY_FLAG ? 0 : 4));
	store_le32(bytes + 8, lie == HUGE ? 0x7fffffff : size);
	memcpy(bytes + 12, payload, size);
	if (lie == MANY_FDS)
		peer_send_fds(p, bytes, 12 + size);
	else
		(void)!send(p->sock, bytes, lie == CUT ? 9 : 12 + size, MSG_NOSIGNAL);
	return lie != CUT;
}

static _Bool peer_serve(struct peer *p, struct said *s)
{
	uint8_t out[512] = {0};

	switch (s->request) {
	case 1: store_le64(out, p->features); return peer_reply(p, s, out, 8);
	case 15: store_le64(out, p->protocol); return peer_reply(p, s, out, 8);
	case 17: store_le64(out, 4); return peer_reply(p, s, out, 8);
	case 11:
		memcpy(out, s->payload, 4);
		store_le32(out + 4, 7);
		return peer_reply(p, s, out, 8);
	case 24:
		memcpy(out, s->payload, 12);
		memset(out + 12, 0xc0, s->size - 12);
		return peer_reply(p, s, out, s->size);
	default: return !(s->flags & 8) || peer_reply(p, s, out, 8);
	}
}

static void *peer_main(void *opaque)
{
	struct peer *p = opaque;

	for (;;) {
		struct said *s = &p->said[p->count];
		uint8_t head[12];

		if (p->count + 1 == ARRAY_SIZE(p->said) || !peer_read(p, &s->request, 4, &s->fds))
			break;
		if (!peer_read(p, head, 8, &s->fds))
			break;
		s->flags = load_le32(head);
		s->size = load_le32(head + 4);
		if (s->size > sizeof(s->payload) || !peer_read(p, s->payload, s->size, &s->fds))
			break;
		p->count++;
		if (!peer_serve(p, s))
			break;
	}
	shutdown(p->sock, SHUT_RDWR);
	return NULL;
}

/* vhost_user_config.open */
static int peer_open(void *opaque)
{
	struct peer *p = opaque;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	p->sock = pair[1];
	p->channel = -1;
	assert_int_equal(pthread_create(&p->thread, NULL, peer_main, p), 0);
	return pair[0];
}

static void peer_init(struct peer *p)
{
	memset(p, 0, sizeof(*p));
	p->features = F_PROTOCOL | F_VERSION | BIT64(9);
	p->protocol = UINT64_MAX;
}

static struct vhost *front_new(struct peer *p, _Bool config)
{
	const struct vhost_user_config cfg = {.path = "/peer",
					      .wants_config = config,
					      .timeout_ms = p->lie == SILENT ? 100 : 20000,
					      .open = peer_open,
					      .opaque = p};
	struct vhost *v;

	assert_int_equal(vhost_user_new(&v, &cfg, NULL), 0);
	return v;
}

/* The peer has heard the end. */
static void peer_end(struct peer *p)
{
	pthread_join(p->thread, NULL);
	if (p->channel >= 0)
		close(p->channel);
	close(p->sock);
}

static void end(struct vhost *v, struct peer *p)
{
	vhost_free(v);
	peer_end(p);
}

static const struct said *told(const struct peer *p, uint32_t request, unsigned nth)
{
	for (unsigned i = 0; i < p->count; i++)
		if (p->said[i].request == request && !nth--)
			return &p->said[i];
	return NULL;
}

static unsigned open_descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 512; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int start(struct vhost *v, struct error *err)
{
	int fd = memfd_create("ram", MFD_CLOEXEC), kick = eventfd(0, EFD_CLOEXEC);
	const struct vhost_region region[] = {{0, 0x1000, 0x7000000, 0, fd},
					      {0x100000, 0x2000, 0x7100000, 0x1000, fd}};
	const struct vhost_ring ring[] = {{256, 0x7100000, 0x7101000, 0x7102000, kick, kick, 1},
					  {256, 0x7110000, 0x7111000, 0x7112000, kick, kick, 0}};
	const struct vhost_plan plan = {F_VERSION | BIT64(9), region, 2, ring, 2};
	int r = vhost_start(v, &plan, err);

	close(fd);
	close(kick);
	return r;
}

static void a_back_end_is_told_all_that_it_needs(void **state)
{
	struct peer p;
	struct vhost *v;
	const struct said *s;

	peer_init(&p);
	v = front_new(&p, 1);
	assert_int_equal(vhost_connect(v, NULL), 0);
	assert_int_equal(vhost_features(v), p.features);
	assert_int_equal(vhost_rings_max(v), 4);
	s = told(&p, 16, 0);
	assert_non_null(s);
	/* Nothing that is not understood here. */
	assert_int_equal(load_le64(s->payload), BIT64(0) | BIT64(3) | BIT64(5) | BIT64(9));
	assert_int_equal(told(&p, 21, 0)->fds, 1);
	assert_non_null(told(&p, 3, 0));
	assert_int_equal(start(v, NULL), 0);
	assert_int_equal(load_le64(told(&p, 2, 0)->payload), F_PROTOCOL | F_VERSION | BIT64(9));
	s = told(&p, 5, 0);
	assert_int_equal(s->fds, 2);
	assert_int_equal(s->size, 8 + 2 * 32);
	assert_int_equal(load_le32(s->payload), 2);
	assert_int_equal(load_le64(s->payload + 40), 0x100000);
	assert_int_equal(load_le64(s->payload + 48), 0x2000);
	assert_int_equal(load_le64(s->payload + 56), 0x7100000);
	assert_int_equal(load_le64(s->payload + 64), 0x1000);
	s = told(&p, 9, 1);
	assert_int_equal(load_le32(s->payload), 1);
	assert_int_equal(load_le64(s->payload + 8), 0x7110000);
	assert_int_equal(load_le64(s->payload + 16), 0x7112000); /* used comes before available */
	assert_int_equal(load_le64(s->payload + 24), 0x7111000);
	assert_int_equal(told(&p, 12, 1)->fds, 1);
	assert_int_equal(load_le64(told(&p, 12, 1)->payload), 1);
	assert_int_equal(load_le32(told(&p, 18, 0)->payload + 4), 1);
	assert_int_equal(load_le32(told(&p, 18, 1)->payload + 4), 0);
	assert_int_equal(vhost_enable(v, 1, 1, NULL), 0);
	assert_int_equal(load_le32(told(&p, 18, 2)->payload + 4), 1);
	assert_int_equal(vhost_stop(v, 2, NULL), 0);
	assert_int_equal(load_le32(told(&p, 11, 1)->payload), 1);
	end(v, &p);
}

static void an_old_back_end_without_protocol_features_will_do(void **state)
{
	struct peer p;
	struct vhost *v;
	uint8_t config[8];

	peer_init(&p);
	p.features = F_VERSION | BIT64(9);
	v = front_new(&p, 1);
	assert_int_equal(vhost_connect(v, NULL), 0);
	assert_int_equal(vhost_rings_max(v), 1);
	assert_int_equal(start(v, NULL), 0);
	assert_int_equal(vhost_config_get(v, config, 8, NULL), -ENOTSUP);
	assert_int_equal(vhost_stop(v, 2, NULL), 0); /* this one is answered: all was read */
	assert_null(told(&p, 16, 0));
	assert_null(told(&p, 18, 0));
	assert_int_equal(told(&p, 5, 0)->fds, 2);
	assert_int_equal(told(&p, 5, 0)->flags, 1);
	end(v, &p);
}

static void the_configuration_is_read_and_written(void **state)
{
	struct peer p;
	struct vhost *v;
	uint8_t config[60] = {0}, byte = 1;

	peer_init(&p);
	v = front_new(&p, 1);
	assert_int_equal(vhost_connect(v, NULL), 0);
	assert_int_equal(vhost_config_get(v, config, 60, NULL), 0);
	assert_int_equal(config[59], 0xc0);
	assert_int_equal(vhost_config_set(v, 32, &byte, 1, NULL), 0);
	assert_int_equal(load_le32(told(&p, 25, 0)->payload), 32);
	assert_int_equal(told(&p, 25, 0)->payload[12], 1);
	end(v, &p);
}

static void lies_end_the_connection_and_leak_nothing(void **state)
{
	static const uint32_t when[] = {1, 15, 17, 21, 3, 5, 9, 11, 24, 25};
	unsigned before = open_descriptors();

	for (unsigned i = 0; i < ARRAY_SIZE(when); i++)
		for (enum lie lie = SILENT; lie <= REFUSES; lie++) {
			struct peer p;
			struct vhost *v;
			struct error err = {0};
			uint8_t config[60];
			int r;

			/* A number that is asked for may be any; descriptors and silence cost time.
			 */
			if (lie == REFUSES && when[i] < 20 && when[i] != 3 && when[i] != 5 &&
			    when[i] != 9)
				continue;
			if (lie == REFUSES && (when[i] == 24 || when[i] == 11))
				continue;
			if (lie == SILENT && i % 3)
				continue;
			peer_init(&p);
			p.lie = lie;
			p.on = when[i];
			v = front_new(&p, 1);
			r = vhost_connect(v, &err);
			if (!r)
				r = start(v, &err);
			if (!r)
				r = vhost_config_get(v, config, sizeof(config), &err);
			if (!r)
				r = vhost_config_set(v, 0, config, 1, &err);
			if (!r)
				r = vhost_stop(v, 2, &err);
			assert_true(r < 0);
			assert_true(err.text[0]);
			if (lie == SILENT)
				assert_int_equal(r, -ETIMEDOUT);
			end(v, &p);
		}
	assert_int_equal(open_descriptors(), before);
}

static void descriptors_that_nobody_asked_for_are_closed(void **state)
{
	unsigned before = open_descriptors();
	struct peer p;
	struct vhost *v;

	peer_init(&p);
	p.lie = MANY_FDS;
	p.on = 1;
	v = front_new(&p, 0);
	assert_int_equal(vhost_connect(v, NULL), 0);
	end(v, &p);
	assert_int_equal(open_descriptors(), before);
}

static void channel_say(struct peer *p, uint32_t request, uint32_t flags, uint32_t size, size_t len)
{
	uint8_t bytes[600] = {0};

	store_le32(bytes, request);
	store_le32(bytes + 4, flags);
	store_le32(bytes + 8, size);
	assert_int_equal(send(p->channel, bytes, len, MSG_NOSIGNAL), len);
}

static void the_back_end_says_when_its_configuration_changed(void **state)
{
	struct peer p;
	struct vhost *v;
	uint8_t reply[20];
	int fds[VHOST_FDS];

	peer_init(&p);
	v = front_new(&p, 1);
	assert_int_equal(vhost_connect(v, NULL), 0);
	vhost_fds(v, fds);
	assert_true(fds[0] >= 0 && fds[1] >= 0);
	assert_int_equal(vhost_events(v), 0);
	channel_say(&p, 2, 1, 0, 12);
	assert_int_equal(vhost_events(v), VHOST_CONFIG);
	/* In pieces, and with an acknowledgement. */
	channel_say(&p, 2, 9, 0, 5);
	assert_int_equal(vhost_events(v), 0);
	{
		uint8_t rest[7] = {0, 0, 0, 0, 0, 0, 0};
		assert_int_equal(send(p.channel, rest, 7, 0), 7);
	}
	assert_int_equal(vhost_events(v), VHOST_CONFIG);
	assert_int_equal(recv(p.channel, reply, 20, 0), 20);
	assert_int_equal(load_le64(reply + 12), 0);
	/* What is not offered is refused. */
	channel_say(&p, 3, 9, 24, 36);
	assert_int_equal(vhost_events(v), 0);
	assert_int_equal(recv(p.channel, reply, 20, 0), 20);
	assert_int_not_equal(load_le64(reply + 12), 0);
	end(v, &p);
}

static void nonsense_on_the_channel_is_the_end(void **state)
{
	static const struct {
		uint32_t flags, size;
	} bad[] = {{1, 0x7fffffff}, {1, 300}, {0, 0}, {2, 0}, {5, 0}};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct peer p;
		struct vhost *v;

		peer_init(&p);
		v = front_new(&p, 1);
		assert_int_equal(vhost_connect(v, NULL), 0);
		channel_say(&p, 2, bad[i].flags, bad[i].size, 12);
		assert_int_equal(vhost_events(v), VHOST_LOST);
		end(v, &p);
	}
}

static void a_back_end_that_goes_or_talks_unasked_is_lost(void **state)
{
	struct peer p;
	struct vhost *v;

	peer_init(&p);
	v = front_new(&p, 0);
	assert_int_equal(vhost_connect(v, NULL), 0);
	assert_int_equal(send(p.sock, "x", 1, 0), 1);
	assert_int_equal(vhost_events(v), VHOST_LOST);
	vhost_disconnect(v);
	peer_end(&p);
	assert_int_equal(vhost_events(v), 0);
	assert_int_equal(vhost_connect(v, NULL), 0);
	assert_int_equal(vhost_events(v), 0);
	shutdown(p.sock, SHUT_RDWR);
	assert_int_equal(vhost_events(v), VHOST_LOST);
	end(v, &p);
}

static void a_socket_that_is_not_there_gets_a_sentence(void **state)
{
	struct vhost_user_config cfg = {.path = "/nonexistent/socket"};
	char path[200];
	struct vhost *v;
	struct error err;

	assert_int_equal(vhost_user_new(&v, &cfg, NULL), 0);
	assert_int_equal(vhost_connect(v, &err), -ENOENT);
	assert_non_null(strstr(err.text, "listens at '/nonexistent/socket'"));
	vhost_free(v);
	memset(path, 'a', sizeof(path));
	path[sizeof(path) - 1] = 0;
	cfg.path = path;
	assert_int_equal(vhost_user_new(&v, &cfg, &err), -EINVAL);
	cfg.path = "";
	assert_int_equal(vhost_user_new(&v, &cfg, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_back_end_is_told_all_that_it_needs),
	    cmocka_unit_test(an_old_back_end_without_protocol_features_will_do),
	    cmocka_unit_test(the_configuration_is_read_and_written),
	    cmocka_unit_test(lies_end_the_connection_and_leak_nothing),
	    cmocka_unit_test(descriptors_that_nobody_asked_for_are_closed),
	    cmocka_unit_test(the_back_end_says_when_its_configuration_changed),
	    cmocka_unit_test(nonsense_on_the_channel_is_the_end),
	    cmocka_unit_test(a_back_end_that_goes_or_talks_unasked_is_lost),
	    cmocka_unit_test(a_socket_that_is_not_there_gets_a_sentence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
