/* vsock.c: streams between a guest's virtio sockets and Unix sockets of the host. */
#include "backend/vsock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/vsock_impl.h"

/*
 * Everything is on the event loop's thread. The device pulls: in its `run` it gives the guest's
 * packets and fetches ours as long as the guest has buffers for them, so that nothing is queued
 * here but what a connection owes (a few bits) and, for packets that belong to no connection, a
 * short list of resets.
 */

static void on_work(struct loop_work *work)
{
	struct vsock *v = work->opaque;

	if (atomic_exchange(&v->reset_wanted, 0)) {
		for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
			conn_free(&v->conn[i]);
		v->reply_count = 0;
	}
	if (v->client.run)
		v->client.run(v->client.opaque);
}

void vsock_kick(struct vsock *v)
{
	loop_post(v->loop, &v->work);
}

void vsock_reset(struct vsock *v)
{
	atomic_store(&v->reset_wanted, 1);
	vsock_kick(v);
}

void vsock_attach(struct vsock *v, const struct vsock_client *client)
{
	static const struct vsock_client nobody;

	v->client = client ? *client : nobody;
}

void vsock_rest(struct vsock *v, _Bool ready)
{
	v->ready = ready;
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
		conn_interest(&v->conn[i]);
}

/* ---- patience ---- */

static _Bool waits(const struct conn *c)
{
	return c->state == CONN_HELLO || c->state == CONN_REQUESTED;
}

static void timer_set(struct vsock *v, _Bool on)
{
	struct itimerspec when = {.it_interval.tv_sec = on, .it_value.tv_sec = on};

	timerfd_settime(v->timer.fd, 0, &when, NULL);
	v->timing = on;
}

void vsock_timing(struct vsock *v)
{
	if (!v->timing)
		timer_set(v, 1);
}

void vsock_second(struct vsock *v)
{
	unsigned waiting = 0;

	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		struct conn *c = &v->conn[i];

		if (!waits(c))
			continue;
		if (++c->waited < VSOCK_PATIENCE) {
			waiting++;
		} else if (c->owes & OWE_REQUEST) { /* the guest was never asked */
			conn_free(c);
		} else {
			conn_kill(c);
		}
	}
	vsock_kick(v);
	if (!waiting && v->timing)
		timer_set(v, 0);
}

static void on_timer(struct loop_fd *lfd, uint32_t events)
{
	uint64_t times;

	if (read(lfd->fd, &times, sizeof(times)) == sizeof(times))
		vsock_second(lfd->opaque);
}

unsigned vsock_connections(const struct vsock *v)
{
	unsigned n = 0;

	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
		n += v->conn[i].state != CONN_FREE;
	return n;
}

/* ---- packets ---- */

static void refuse(struct vsock *v, const struct vsock_packet *p)
{
	if (p->op == VSOCK_RST)
		return;
	v->reply[(v->reply_start + v->reply_count++) % VSOCK_REPLIES] = (struct vsock_packet){
	    .src_port = p->dst_port, .dst_port = p->src_port, .type = p->type, .op = VSOCK_RST};
}

/* The guest wants to speak to a port of the host's. */
static void guest_connects(struct vsock *v, const struct vsock_packet *p)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct conn *c;
	int fd;

	if (snprintf(to.sun_path, sizeof(to.sun_path), "%s_%u", v->listener.path, p->dst_port) >=
	    (int)sizeof(to.sun_path)) {
		refuse(v, p);
		return;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		close(fd); /* nobody there, or nobody who answers in time */
		fd = -1;
	}
	c = fd >= 0 ? conn_new(v, fd, CONN_UP) : NULL;
	if (!c) {
		refuse(v, p);
		return;
	}
	c->guest_port = p->src_port;
	c->host_port = p->dst_port;
	c->guest_alloc = p->buf_alloc;
	c->guest_fwd = p->fwd_cnt;
	c->owes = OWE_RESPONSE;
}

_Bool vsock_take(struct vsock *v, const struct vsock_packet *p, const uint8_t *data)
{
	struct conn *c = conn_find(v, p->src_port, p->dst_port);

	if (v->reply_count == VSOCK_REPLIES)
		return 0;
	if (p->type != VSOCK_STREAM)
		refuse(v, p);
	else if (c)
		conn_take(c, p, data);
	else if (p->op == VSOCK_REQUEST)
		guest_connects(v, p);
	else
		refuse(v, p);
	return 1;
}

_Bool vsock_fetch(struct vsock *v, struct vsock_packet *p, uint8_t *data, uint32_t room)
{
	if (v->reply_count) {
		*p = v->reply[v->reply_start];
		v->reply_start = (v->reply_start + 1) % VSOCK_REPLIES;
		v->reply_count--;
		return 1;
	}
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		unsigned at = (v->turn + i) % VSOCK_CONNS_MAX;

		if (conn_fetch(&v->conn[at], p, data, room)) {
			v->turn = (at + 1) % VSOCK_CONNS_MAX;
			return 1;
		}
	}
	return 0;
}

/* ---- the host's side ---- */

static void on_listener(struct loop_fd *lfd, uint32_t events)
{
	struct vsock *v = lfd->opaque;
	int fd = unix_accept(&v->listener);
	struct conn *c;

	if (unix_accept_later(fd))
		loop_fd_rest(v->loop, lfd, UNIX_ACCEPT_REST_MS);
	if (fd < 0)
		return;
	if (!v->ready) {
		close(fd);
		return;
	}
	c = conn_new(v, fd, CONN_HELLO);
	if (c) {
		conn_interest(c);
		vsock_timing(v);
	}
}

static int timer_add(struct vsock *v)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	v->timer = (struct loop_fd){.fd = fd, .fn = on_timer, .opaque = v};
	return loop_fd_add(v->loop, &v->timer, EPOLLIN);
}

int vsock_new(struct vsock **out, struct loop *loop, const char *path, struct error *err)
{
	struct vsock *v;
	int r;

	if (strlen(path) + 11 > UNIX_PATH_MAX_LEN)
		return error_set(
		    err, -ENAMETOOLONG,
		    "the path %s is too long for a virtio socket: %d bytes at most, for a "
		    "port's number comes behind it",
		    path, UNIX_PATH_MAX_LEN - 11);
	v = calloc(1, sizeof(*v));
	if (!v)
		return error_set(err, -ENOMEM, "out of memory");
	v->loop = loop;
	v->next_port = (1u << 30) - 1;
	v->listener.fd = v->timer.fd = -1;
	v->work = (struct loop_work){.fn = on_work, .opaque = v};
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
		v->conn[i].fd.fd = -1;
	v->bufs = malloc((size_t)VSOCK_CONNS_MAX * VSOCK_BUF);
	r = v->bufs ? unix_listen(&v->listener, path, err)
		    : error_set(err, -ENOMEM, "out of memory");
	if (!r) {
		v->listen_fd =
		    (struct loop_fd){.fd = v->listener.fd, .fn = on_listener, .opaque = v};
		r = loop_fd_add(loop, &v->listen_fd, EPOLLIN);
		if (!r)
			r = timer_add(v);
		if (r)
			error_set(err, r, "cannot watch %s: %s", path, strerror(-r));
	}
	if (r) {
		vsock_free(v);
		return r;
	}
	*out = v;
	return 0;
}

void vsock_free(struct vsock *v)
{
	if (!v)
		return;
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
		conn_free(&v->conn[i]);
	loop_cancel(v->loop, &v->work);
	if (v->listen_fd.added)
		loop_fd_del(v->loop, &v->listen_fd);
	if (v->timer.added)
		loop_fd_del(v->loop, &v->timer);
	if (v->timer.fd >= 0)
		close(v->timer.fd);
	if (v->listener.fd >= 0)
		unix_listener_close(&v->listener);
	free(v->bufs);
	free(v);
}
