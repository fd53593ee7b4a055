/* vhost_user.c: a back end in another process: the front end's side of the vhost-user protocol
 * (VHOST-USER, as docs/specs.md names it). */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/vhost_impl.h"
#include "base/host_time.h"
#include "base/le.h"
#include "base/util.h"

/*
 * Messages go out whole and their replies come in whole before anything else is said, so there is
 * never more than one open question. Everything is under one deadline a call: a back end that is
 * slow, silent or that trickles bytes is given up when it has passed. Descriptors that come with a
 * reply are not asked for by anything said here, and are closed. What a back end asks for on the
 * channel of its own is read there, byte by byte if need be, without waiting.
 */

/* Requests of the front end. */
enum {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	GET_QUEUE_NUM = 17,
	SET_VRING_ENABLE = 18,
	SET_BACKEND_REQ_FD = 21,
	GET_CONFIG = 24,
	SET_CONFIG = 25,
};
/* Requests of the back end. */
enum { BACKEND_CONFIG_CHANGE = 2 };

#define F_PROTOCOL_FEATURES BIT64(30)

/* Protocol features. */
#define P_MQ	      BIT64(0)
#define P_REPLY_ACK   BIT64(3)
#define P_BACKEND_REQ BIT64(5)
#define P_CONFIG      BIT64(9)

/* Header: request, flags, bytes that follow. */
#define HDR_LEN	      12
#define FLAG_VERSION  1u
#define FLAG_VERSIONS 3u
#define FLAG_REPLY    4u
#define FLAG_NEED_ACK 8u
#define CONFIG_HDR    12 /* offset, size, flags */
#define REGION_LEN    32
#define PAYLOAD_MAX   (CONFIG_HDR + VHOST_CONFIG_MAX)
#define FDS_MAX	      VHOST_REGIONS_MAX
#define NO_FD	      BIT64(8) /* in the number of a ring: no descriptor comes with it */
#define CHANNEL_BURST 16       /* messages of the back end's a turn */
#define FOREIGN_FDS   16 /* descriptors taken in at once, to be closed; the kernel keeps more out */

_Static_assert(8 + VHOST_REGIONS_MAX * REGION_LEN <= PAYLOAD_MAX, "the memory table fits");

struct message {
	uint32_t request, flags, size;
	uint8_t payload[PAYLOAD_MAX];
	int fd[FDS_MAX];
	unsigned fds;
};

struct vhost_user {
	struct vhost v;
	char path[108];
	struct vhost_user_config cfg;
	int sock, channel; /* -1: none */
	uint64_t protocol;
	uint64_t deadline_ns; /* of the call that is being made */
	/* What has come of a message on the channel. */
	uint8_t in[HDR_LEN + PAYLOAD_MAX];
	unsigned in_len;
};

static struct vhost_user *user_of(const struct vhost *v)
{
	return container_of(v, struct vhost_user, v);
}

/* ---- waiting ---- */

static void call_begin(struct vhost_user *u)
{
	unsigned ms = u->cfg.timeout_ms ? u->cfg.timeout_ms : VHOST_TIMEOUT_MS;

	u->deadline_ns = host_time_ns() + (uint64_t)ms * 1000000;
}

/* 0 once the socket is ready, or -ETIMEDOUT. */
static int wait_for(const struct vhost_user *u, short events)
{
	struct pollfd p = {.fd = u->sock, .events = events};

	for (;;) {
		uint64_t now = host_time_ns();
		int n;

		if (now >= u->deadline_ns)
			return -ETIMEDOUT;
		n = poll(&p, 1, (int)((u->deadline_ns - now) / 1000000) + 1);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int failed(const struct vhost_user *u, int r, struct error *err)
{
	const char *what = r == -ETIMEDOUT   ? "does not answer"
			   : r == -EPROTO    ? "does not keep to the vhost-user protocol"
			   : r == -EPIPE     ? "has closed the connection"
			   : r == -EREMOTEIO ? "refuses a request"
					     : strerror(-r);

	return error_set(err, r, "the back end at '%s' %s", u->path, what);
}

/* ---- sending and receiving ---- */

static int send_bytes(struct vhost_user *u, const uint8_t *data, size_t len, const int *fd,
		      unsigned fds)
{
	union {
		struct cmsghdr head;
		uint8_t room[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control;
	size_t done = 0;

	memset(&control, 0, sizeof(control));
	while (done < len) {
		struct iovec iov = {(void *)(uintptr_t)(data + done), len - done};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n;

		if (fds && !done) { /* with the first byte, once */
			msg.msg_control = &control;
			msg.msg_controllen = CMSG_SPACE(sizeof(int) * fds);
			control.head.cmsg_level = SOL_SOCKET;
			control.head.cmsg_type = SCM_RIGHTS;
			control.head.cmsg_len = CMSG_LEN(sizeof(int) * fds);
			memcpy(CMSG_DATA(&control.head), fd, sizeof(int) * fds);
		}
		n = sendmsg(u->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN) {
			int r = wait_for(u, POLLOUT);
			if (r)
				return r;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == ECONNRESET ? -EPIPE : -errno;
		done += (size_t)n;
	}
	return 0;
}

static int message_send(struct vhost_user *u, const struct message *m)
{
	uint8_t bytes[HDR_LEN + PAYLOAD_MAX];

	store_le32(bytes, m->request);
	store_le32(bytes + 4, m->flags | FLAG_VERSION);
	store_le32(bytes + 8, m->size);
	memcpy(bytes + HDR_LEN, m->payload, m->size);
	return send_bytes(u, bytes, HDR_LEN + m->size, m->fd, m->fds);
}

/* Nothing here has a use for descriptors that the other side sends. */
static void foreign_close(struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t fds = c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS
				 ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int)
				 : 0;

		for (size_t i = 0; i < fds; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			close(fd);
		}
	}
}

/* Up to `len` bytes without waiting: how many, 0 at the end, or -errno. */
static ssize_t receive_some(int fd, void *buf, size_t len)
{
	union {
		struct cmsghdr head;
		uint8_t room[CMSG_SPACE(sizeof(int) * FOREIGN_FDS)];
	} control;
	struct iovec iov = {buf, len};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	ssize_t n;

	do
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	foreign_close(&msg);
	return n;
}

static int receive_bytes(struct vhost_user *u, uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = receive_some(u->sock, data, len);
		int r = 0;

		if (n == -EAGAIN)
			r = wait_for(u, POLLIN);
		else if (n <= 0)
			r = n && n != -ECONNRESET ? (int)n : -EPIPE;
		if (r)
			return r;
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

static void header_take(struct message *m, const uint8_t bytes[HDR_LEN])
{
	m->request = load_le32(bytes);
	m->flags = load_le32(bytes + 4);
	m->size = load_le32(bytes + 8);
}

/* The reply to `request`, of `size` bytes (of at most that many when `shorter`). */
static int reply_receive(struct vhost_user *u, struct message *m, uint32_t request, uint32_t size,
			 _Bool shorter)
{
	uint8_t bytes[HDR_LEN];
	int r = receive_bytes(u, bytes, sizeof(bytes));

	if (r)
		return r;
	header_take(m, bytes);
	if (m->request != request ||
	    (m->flags & (FLAG_REPLY | FLAG_VERSIONS)) != (FLAG_REPLY | FLAG_VERSION) ||
	    m->size > size || (!shorter && m->size != size))
		return -EPROTO;
	return receive_bytes(u, m->payload, m->size);
}

/* Sends, and waits until the back end has done it where it can say so. */
static int tell(struct vhost_user *u, struct message *m)
{
	uint32_t request = m->request;
	_Bool ack = u->protocol & P_REPLY_ACK;
	int r;

	m->flags = ack ? FLAG_NEED_ACK : 0;
	r = message_send(u, m);
	if (r || !ack)
		return r;
	r = reply_receive(u, m, request, 8, 0);
	return r ? r : load_le64(m->payload) ? -EREMOTEIO : 0;
}

static int tell_u64(struct vhost_user *u, uint32_t request, uint64_t value)
{
	struct message m = {.request = request, .size = 8};

	store_le64(m.payload, value);
	return tell(u, &m);
}

static int tell_state(struct vhost_user *u, uint32_t request, unsigned ring, uint32_t value)
{
	struct message m = {.request = request, .size = 8};

	store_le32(m.payload, ring);
	store_le32(m.payload + 4, value);
	return tell(u, &m);
}

static int tell_fd(struct vhost_user *u, uint32_t request, unsigned ring, int fd)
{
	struct message m = {.request = request, .size = 8, .fd = {fd}, .fds = fd >= 0};

	store_le64(m.payload, ring | (fd < 0 ? NO_FD : 0));
	return tell(u, &m);
}

static int ask_u64(struct vhost_user *u, uint32_t request, uint64_t *value)
{
	struct message m = {.request = request};
	int r = message_send(u, &m);

	if (!r)
		r = reply_receive(u, &m, request, 8, 0);
	if (!r)
		*value = load_le64(m.payload);
	return r;
}

/* ---- the connection ---- */

static int open_socket(struct vhost_user *u, struct error *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, r;

	if (u->cfg.open) {
		fd = u->cfg.open(u->cfg.opaque);
		return fd >= 0 ? fd : failed(u, fd, err);
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
	memcpy(addr.sun_path, u->path, strlen(u->path) + 1);
	if (!connect(fd, (const struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	r = -errno;
	close(fd);
	if (r == -ECONNREFUSED || r == -ENOENT)
		return error_set(err, r,
				 "no vhost-user back end listens at '%s'; start it before the VM",
				 u->path);
	if (r == -EAGAIN)
		return error_set(err, r, "the vhost-user back end at '%s' serves somebody else",
				 u->path);
	return error_set(err, r, "cannot connect to the vhost-user back end at '%s': %s", u->path,
			 strerror(-r));
}

static int channel_open(struct vhost_user *u)
{
	struct message m = {.request = SET_BACKEND_REQ_FD, .fds = 1};
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		return -errno;
	u->channel = pair[0];
	u->in_len = 0;
	m.fd[0] = pair[1];
	r = tell(u, &m);
	close(pair[1]);
	return r;
}

static int negotiate_protocol(struct vhost_user *u)
{
	uint64_t offered = 0, rings = 0, want = P_MQ | P_REPLY_ACK;
	int r = ask_u64(u, GET_PROTOCOL_FEATURES, &offered);

	if (u->cfg.wants_config)
		want |= P_CONFIG | P_BACKEND_REQ;
	if (r)
		return r;
	/* An acknowledgement of this one would come before both sides know of it. */
	r = tell_u64(u, SET_PROTOCOL_FEATURES, offered & want);
	u->protocol = offered & want;
	if (!r && (u->protocol & P_MQ))
		r = ask_u64(u, GET_QUEUE_NUM, &rings);
	if (!r && (u->protocol & P_MQ))
		u->v.rings_max = (unsigned)MIN(rings, (uint64_t)VHOST_RINGS_MAX);
	if (!r && (u->protocol & P_BACKEND_REQ))
		r = channel_open(u);
	return r;
}

static int user_connect(struct vhost *v, struct error *err)
{
	struct vhost_user *u = user_of(v);
	uint64_t features = 0;
	int r = open_socket(u, err);

	if (r < 0)
		return r;
	u->sock = r;
	u->protocol = 0;
	v->rings_max = 1;
	call_begin(u);
	r = ask_u64(u, GET_FEATURES, &features);
	v->features = features;
	if (!r && (features & F_PROTOCOL_FEATURES))
		r = negotiate_protocol(u);
	if (!r) {
		struct message m = {.request = SET_OWNER};
		r = tell(u, &m);
	}
	return r ? failed(u, r, err) : 0;
}

static void user_disconnect(struct vhost *v)
{
	struct vhost_user *u = user_of(v);

	if (u->sock >= 0)
		close(u->sock);
	if (u->channel >= 0)
		close(u->channel);
	u->sock = u->channel = -1;
}

/* ---- configuration ---- */

static int user_config_get(struct vhost *v, uint8_t *config, unsigned size, struct error *err)
{
	struct vhost_user *u = user_of(v);
	struct message m = {.request = GET_CONFIG, .size = CONFIG_HDR + size};
	int r;

	if (!(u->protocol & P_CONFIG))
		return error_set(err, -ENOTSUP,
				 "the back end at '%s' does not tell its device's configuration",
				 u->path);
	call_begin(u);
	store_le32(m.payload + 4, size);
	r = message_send(u, &m);
	if (!r)
		r = reply_receive(u, &m, GET_CONFIG, CONFIG_HDR + size, 1);
	if (!r && !m.size)
		r = -EREMOTEIO;
	if (!r && (m.size != CONFIG_HDR + size || load_le32(m.payload + 4) != size))
		r = -EPROTO;
	if (r)
		return failed(u, r, err);
	memcpy(config, m.payload + CONFIG_HDR, size);
	return 0;
}

static int user_config_set(struct vhost *v, unsigned offset, const uint8_t *config, unsigned size,
			   struct error *err)
{
	struct vhost_user *u = user_of(v);
	struct message m = {.request = SET_CONFIG, .size = CONFIG_HDR + size};
	int r;

	if (!(u->protocol & P_CONFIG))
		return error_set(err, -ENOTSUP,
				 "the back end at '%s' takes no change of its configuration",
				 u->path);
	call_begin(u);
	store_le32(m.payload, offset);
	store_le32(m.payload + 4, size);
	memcpy(m.payload + CONFIG_HDR, config, size);
	r = tell(u, &m);
	return r ? failed(u, r, err) : 0;
}

/* ---- rings ---- */

static int tell_memory(struct vhost_user *u, const struct vhost_plan *plan)
{
	struct message m = {.request = SET_MEM_TABLE, .size = 8 + plan->regions * REGION_LEN};

	store_le32(m.payload, plan->regions);
	for (unsigned i = 0; i < plan->regions; i++) {
		const struct vhost_region *region = &plan->region[i];
		uint8_t *at = m.payload + 8 + i * REGION_LEN;

		store_le64(at, region->guest);
		store_le64(at + 8, region->size);
		store_le64(at + 16, region->user);
		store_le64(at + 24, region->offset);
		m.fd[m.fds++] = region->fd;
	}
	return tell(u, &m);
}

static int tell_ring(struct vhost_user *u, unsigned i, const struct vhost_ring *ring)
{
	struct message m = {.request = SET_VRING_ADDR, .size = 40};
	int r = tell_state(u, SET_VRING_NUM, i, ring->size);

	if (!r)
		r = tell_state(u, SET_VRING_BASE, i, 0);
	store_le32(m.payload, i);
	store_le64(m.payload + 8, ring->desc);
	store_le64(m.payload + 16, ring->used);
	store_le64(m.payload + 24, ring->avail);
	if (!r)
		r = tell(u, &m);
	if (!r)
		r = tell_fd(u, SET_VRING_CALL, i, ring->call);
	if (!r)
		r = tell_fd(u, SET_VRING_KICK, i, ring->kick);
	/* Without protocol features a ring is on from its kick descriptor on. */
	if (!r && (u->v.features & F_PROTOCOL_FEATURES))
		r = tell_state(u, SET_VRING_ENABLE, i, ring->enabled);
	return r;
}

static int user_start(struct vhost *v, const struct vhost_plan *plan, struct error *err)
{
	struct vhost_user *u = user_of(v);
	int r;

	call_begin(u);
	r = tell_u64(u, SET_FEATURES, plan->features | (v->features & F_PROTOCOL_FEATURES));
	if (!r)
		r = tell_memory(u, plan);
	for (unsigned i = 0; !r && i < plan->rings; i++)
		r = tell_ring(u, i, &plan->ring[i]);
	return r ? failed(u, r, err) : 0;
}

static int user_enable(struct vhost *v, unsigned ring, _Bool on, struct error *err)
{
	struct vhost_user *u = user_of(v);
	int r = 0;

	call_begin(u);
	if (v->features & F_PROTOCOL_FEATURES)
		r = tell_state(u, SET_VRING_ENABLE, ring, on);
	return r ? failed(u, r, err) : 0;
}

static int user_stop(struct vhost *v, unsigned rings, struct error *err)
{
	struct vhost_user *u = user_of(v);
	int r = 0;

	call_begin(u);
	for (unsigned i = 0; !r && i < rings; i++) {
		struct message m = {.request = GET_VRING_BASE, .size = 8};

		store_le32(m.payload, i);
		r = message_send(u, &m);
		/* The answer comes when nothing is in flight any more; where the back end stands is
		 * known from the ring. */
		if (!r)
			r = reply_receive(u, &m, GET_VRING_BASE, 8, 0);
		if (!r && load_le32(m.payload) != i)
			r = -EPROTO;
	}
	return r ? failed(u, r, err) : 0;
}

/* ---- what the back end says by itself ---- */

static void user_fds(const struct vhost *v, int fds[VHOST_FDS])
{
	fds[0] = user_of(v)->sock;
	fds[1] = user_of(v)->channel;
}

/* A whole message on the channel. */
static unsigned channel_message(struct vhost_user *u, const struct message *m)
{
	uint8_t reply[HDR_LEN + 8];
	_Bool known = m->request == BACKEND_CONFIG_CHANGE && u->cfg.wants_config;

	if (m->flags & FLAG_NEED_ACK) {
		store_le32(reply, m->request);
		store_le32(reply + 4, FLAG_VERSION | FLAG_REPLY);
		store_le32(reply + 8, 8);
		store_le64(reply + HDR_LEN, known ? 0 : 1);
		/* A back end that does not read its replies is not waited for. */
		if (send(u->channel, reply, sizeof(reply), MSG_NOSIGNAL | MSG_DONTWAIT) !=
		    (ssize_t)sizeof(reply))
			return VHOST_LOST;
	}
	return known ? VHOST_CONFIG : 0;
}

static unsigned channel_read(struct vhost_user *u)
{
	unsigned events = 0;

	for (unsigned i = 0; i < CHANNEL_BURST && !(events & VHOST_LOST);) {
		struct message m;
		uint32_t want = HDR_LEN;
		ssize_t n;

		if (u->in_len >= HDR_LEN) {
			header_take(&m, u->in);
			if (m.size > PAYLOAD_MAX || (m.flags & FLAG_VERSIONS) != FLAG_VERSION ||
			    m.flags & FLAG_REPLY)
				return VHOST_LOST;
			want += m.size;
		}
		if (u->in_len >= HDR_LEN && u->in_len == want) {
			events |= channel_message(u, &m);
			u->in_len = 0;
			i++;
			continue;
		}
		n = receive_some(u->channel, u->in + u->in_len, want - u->in_len);
		if (n == -EAGAIN)
			break;
		if (n <= 0)
			return events | VHOST_LOST;
		u->in_len += (unsigned)n;
	}
	return events;
}

static unsigned user_events(struct vhost *v)
{
	struct vhost_user *u = user_of(v);
	unsigned events = 0;
	uint8_t byte;
	ssize_t n = receive_some(u->sock, &byte, 1);

	/* Between calls nothing comes but the end; a back end that talks unasked is no better. */
	if (n != -EAGAIN)
		return VHOST_LOST;
	if (u->channel >= 0)
		events = channel_read(u);
	return events;
}

static void user_free(struct vhost *v)
{
	free(user_of(v));
}

static const struct vhost_ops user_ops = {
    .connect = user_connect,
    .disconnect = user_disconnect,
    .config_get = user_config_get,
    .config_set = user_config_set,
    .start = user_start,
    .enable = user_enable,
    .stop = user_stop,
    .fds = user_fds,
    .events = user_events,
    .free = user_free,
};

int vhost_user_new(struct vhost **out, const struct vhost_user_config *cfg, struct error *err)
{
	struct vhost_user *u = calloc(1, sizeof(*u));

	if (!u)
		return error_set(err, -ENOMEM, "out of memory");
	if (!cfg->path[0] || strlen(cfg->path) >= sizeof(u->path)) {
		free(u);
		return error_set(err, -EINVAL,
				 "the path of a vhost-user socket has 1 to %zu characters, "
				 "'%.40s' has not",
				 sizeof(u->path) - 1, cfg->path);
	}
	memcpy(u->path, cfg->path, strlen(cfg->path) + 1);
	u->v.ops = &user_ops;
	u->cfg = *cfg;
	u->cfg.path = u->path;
	u->sock = u->channel = -1;
	*out = &u->v;
	return 0;
}
