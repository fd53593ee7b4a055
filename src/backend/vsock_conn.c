/* vsock_conn.c: one stream between the guest and a Unix socket, with credit both ways. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/vsock_impl.h"

/*
 * Credit (VIRTIO12 5.10.6.3). The guest may have VSOCK_BUF bytes here that the host's side has not
 * taken; more is a breach, and ends the connection. The other way nothing is read from the host's
 * side that the guest has no room for, so that a side that stalls stalls its own stream and nothing
 * else.
 */

static void on_fd(struct loop_fd *lfd, uint32_t events)
{
	struct conn *c = lfd->opaque;
	struct vsock *v = c->v;

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		c->readable = 1;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		c->blocked = 0;
	if (c->state == CONN_HELLO)
		conn_hello(c);
	conn_interest(c);
	vsock_kick(v);
}

struct conn *conn_new(struct vsock *v, int fd, enum conn_state state)
{
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		struct conn *c = &v->conn[i];

		if (c->state != CONN_FREE)
			continue;
		*c = (struct conn){.v = v,
				   .state = state,
				   .fd = {.fd = fd, .fn = on_fd, .opaque = c},
				   .buf = v->bufs + (size_t)i * VSOCK_BUF};
		if (!loop_fd_add(v->loop, &c->fd, EPOLLIN))
			return c;
		c->state = CONN_FREE;
		break;
	}
	close(fd);
	return NULL;
}

static void conn_close(struct conn *c)
{
	if (c->fd.fd < 0)
		return;
	loop_fd_del(c->v->loop, &c->fd);
	close(c->fd.fd);
	c->fd.fd = -1;
	/* A descriptor is free: the listener may have been waiting for one. */
}

void conn_free(struct conn *c)
{
	conn_close(c);
	c->state = CONN_FREE;
}

void conn_kill(struct conn *c)
{
	conn_close(c);
	if (c->state == CONN_HELLO) { /* the guest does not know of it */
		c->state = CONN_FREE;
		return;
	}
	c->state = CONN_DEAD;
	c->owes = 0;
}

struct conn *conn_find(struct vsock *v, uint32_t guest_port, uint32_t host_port)
{
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		struct conn *c = &v->conn[i];

		if ((c->state == CONN_REQUESTED || c->state == CONN_UP) &&
		    c->guest_port == guest_port && c->host_port == host_port)
			return c;
	}
	return NULL;
}

void conn_interest(struct conn *c)
{
	uint32_t events = 0;

	if (c->state == CONN_FREE || c->fd.fd < 0)
		return;
	if (!c->readable && !c->eof)
		events |= EPOLLIN;
	if (c->blocked)
		events |= EPOLLOUT;
	if (events != c->fd.events && loop_fd_mod(c->v->loop, &c->fd, events))
		conn_kill(c);
}

/* ---- the host's side says which port it wants ---- */

static _Bool hello_port(char *line, uint32_t *port)
{
	unsigned long n;
	char *end;

	if (strncmp(line, "CONNECT ", 8) || line[8] < '0' || line[8] > '9')
		return 0;
	errno = 0;
	n = strtoul(line + 8, &end, 10);
	if (end > line + 8 && *end == '\r')
		end++;
	*port = (uint32_t)n;
	return !*end && !errno && n < UINT32_MAX;
}

static uint32_t port_free(struct vsock *v, uint32_t guest_port)
{
	do
		v->next_port = v->next_port == UINT32_MAX - 1 ? 1u << 30 : v->next_port + 1;
	while (conn_find(v, guest_port, v->next_port));
	return v->next_port;
}

/* Takes the line, a byte at a time, and nothing behind it. */
void conn_hello(struct conn *c)
{
	ssize_t n;

	c->readable = 0;
	do {
		n = recv(c->fd.fd, &c->line[c->line_len], 1, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return; /* the rest is to come */
		if (n <= 0 || ++c->line_len == sizeof(c->line)) {
			conn_free(c);
			return;
		}
	} while (c->line[c->line_len - 1] != '\n');
	c->line[c->line_len - 1] = 0;
	if (!hello_port(c->line, &c->guest_port)) {
		conn_free(c);
		return;
	}
	c->host_port = port_free(c->v, c->guest_port);
	c->state = CONN_REQUESTED;
	c->owes = OWE_REQUEST;
}

static void hello_answer(struct conn *c)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

	/* Nothing was sent on it before: there is room. */
	if (send(c->fd.fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n)
		conn_kill(c);
}

/* ---- from the guest ---- */

/* The host's side is gone: neither direction goes on. */
static void host_gone(struct conn *c)
{
	c->fwd += c->used;
	c->used = 0;
	c->eof = 1;
	c->readable = 0;
	if (c->our_down != (VSOCK_NO_RECEIVE | VSOCK_NO_SEND)) {
		c->our_down = VSOCK_NO_RECEIVE | VSOCK_NO_SEND;
		c->owes |= OWE_SHUTDOWN;
	}
}

/* The host's side takes no more. What it sent before may still be there to be read, and its end is
 * found behind that. */
static void host_deaf(struct conn *c)
{
	if (c->guest_down & VSOCK_NO_RECEIVE) { /* nobody is there to have it */
		host_gone(c);
		return;
	}
	c->fwd += c->used;
	c->used = 0;
	c->readable = 1;
	if (!(c->our_down & VSOCK_NO_RECEIVE)) {
		c->our_down |= VSOCK_NO_RECEIVE;
		c->owes |= OWE_SHUTDOWN;
	}
}

/* Passes on what waits. When all is out, so is the guest's shutdown. */
static void push_out(struct conn *c)
{
	while (c->used && !c->blocked) {
		uint32_t n = MIN(c->used, VSOCK_BUF - c->start);
		ssize_t r = send(c->fd.fd, c->buf + c->start, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EAGAIN) {
			c->blocked = 1;
		} else if (r < 0) {
			host_deaf(c);
		} else {
			c->start = (c->start + (uint32_t)r) % VSOCK_BUF;
			c->used -= (uint32_t)r;
			c->fwd += (uint32_t)r;
		}
	}
	if (c->fwd - c->fwd_told >= VSOCK_BUF / 4)
		c->owes |= OWE_CREDIT;
	if (c->used)
		return;
	if ((c->guest_down & (VSOCK_NO_RECEIVE | VSOCK_NO_SEND)) ==
	    (VSOCK_NO_RECEIVE | VSOCK_NO_SEND))
		conn_kill(c); /* 5.10.6.5: the end is a reset */
	else if (c->guest_down & VSOCK_NO_SEND)
		shutdown(c->fd.fd, SHUT_WR);
}

static void take_bytes(struct conn *c, const struct vsock_packet *p, const uint8_t *data)
{
	uint32_t at = (c->start + c->used) % VSOCK_BUF, first = MIN(p->len, VSOCK_BUF - at);

	if (p->len > VSOCK_BUF - c->used || c->guest_down & VSOCK_NO_SEND) {
		conn_kill(c);
		return;
	}
	memcpy(c->buf + at, data, first);
	memcpy(c->buf, data + first, p->len - first);
	c->used += p->len;
	if (c->our_down & VSOCK_NO_RECEIVE) { /* nobody is there to have it */
		c->fwd += c->used;
		c->used = 0;
	}
	push_out(c);
}

static void take_credit(struct conn *c, const struct vsock_packet *p)
{
	c->guest_alloc = p->buf_alloc;
	c->guest_fwd = p->fwd_cnt;
	if (c->sent - c->guest_fwd < c->guest_alloc)
		c->asked = 0;
}

void conn_take(struct conn *c, const struct vsock_packet *p, const uint8_t *data)
{
	_Bool requested = c->state == CONN_REQUESTED;

	if (p->op == VSOCK_RST) {
		conn_free(c);
		return;
	}
	if (requested != (p->op == VSOCK_RESPONSE) || p->op == VSOCK_REQUEST ||
	    (requested && c->owes & OWE_REQUEST)) {
		conn_kill(c);
		return;
	}
	take_credit(c, p);
	switch (p->op) {
	case VSOCK_RESPONSE:
		c->state = CONN_UP;
		hello_answer(c);
		break;
	case VSOCK_RW: take_bytes(c, p, data); break;
	case VSOCK_SHUTDOWN:
		c->guest_down |= p->flags & (VSOCK_NO_RECEIVE | VSOCK_NO_SEND);
		if (c->guest_down & VSOCK_NO_RECEIVE)
			shutdown(c->fd.fd, SHUT_RD);
		push_out(c);
		break;
	case VSOCK_CREDIT_REQUEST: c->owes |= OWE_CREDIT; break;
	case VSOCK_CREDIT_UPDATE: break;
	default: conn_kill(c);
	}
}

/* ---- to the guest ---- */

static void fill(struct conn *c, struct vsock_packet *p, uint16_t op)
{
	*p = (struct vsock_packet){.src_port = c->host_port,
				   .dst_port = c->guest_port,
				   .buf_alloc = VSOCK_BUF,
				   .fwd_cnt = c->fwd,
				   .type = VSOCK_STREAM,
				   .op = op};
	c->fwd_told = c->fwd;
	c->owes &= ~(unsigned)OWE_CREDIT; /* every packet tells it */
}

static void host_ended(struct conn *c)
{
	struct pollfd pfd = {.fd = c->fd.fd};

	c->eof = 1;
	c->our_down |= VSOCK_NO_SEND;
	if (poll(&pfd, 1, 0) > 0 && pfd.revents & (POLLHUP | POLLERR))
		c->our_down |= VSOCK_NO_RECEIVE; /* closed, not only half */
	c->owes |= OWE_SHUTDOWN;
}

static _Bool fetch_bytes(struct conn *c, struct vsock_packet *p, uint8_t *data, uint32_t room)
{
	uint32_t out = c->sent - c->guest_fwd,
		 credit = out < c->guest_alloc ? c->guest_alloc - out : 0;
	ssize_t n;

	if (c->state != CONN_UP || !c->readable || c->eof || c->guest_down & VSOCK_NO_RECEIVE)
		return 0;
	if (!credit) {
		if (!c->asked) {
			c->asked = 1;
			fill(c, p, VSOCK_CREDIT_REQUEST);
			return 1;
		}
		return 0;
	}
	do
		n = recv(c->fd.fd, data, MIN(room, credit), MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN) {
		c->readable = 0;
		return 0;
	}
	if (n < 0) {
		host_gone(c);
		return 0;
	}
	if (!n) {
		host_ended(c);
		return 0;
	}
	fill(c, p, VSOCK_RW);
	p->len = (uint32_t)n;
	c->sent += (uint32_t)n;
	return 1;
}

_Bool conn_fetch(struct conn *c, struct vsock_packet *p, uint8_t *data, uint32_t room)
{
	static const struct {
		unsigned owe;
		uint16_t op;
	} order[] = {
	    {OWE_REQUEST, VSOCK_REQUEST},
	    {OWE_RESPONSE, VSOCK_RESPONSE},
	    {OWE_SHUTDOWN, VSOCK_SHUTDOWN},
	    {OWE_CREDIT, VSOCK_CREDIT_UPDATE},
	};

	if (c->state == CONN_DEAD) {
		fill(c, p, VSOCK_RST);
		c->state = CONN_FREE;
		return 1;
	}
	if (c->state == CONN_UP && c->used)
		push_out(c);
	if (c->state == CONN_DEAD)
		return conn_fetch(c, p, data, room);
	if (c->state != CONN_REQUESTED && c->state != CONN_UP)
		return 0;
	if (!(c->owes & (OWE_REQUEST | OWE_RESPONSE)) && fetch_bytes(c, p, data, room))
		return 1;
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
		if (!(c->owes & order[i].owe))
			continue;
		c->owes &= ~order[i].owe;
		fill(c, p, order[i].op);
		if (order[i].op == VSOCK_SHUTDOWN)
			p->flags = c->our_down;
		return 1;
	}
	return 0;
}
