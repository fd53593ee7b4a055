/* chardev_unix.c: a character back end behind a listening Unix socket. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/chardev_impl.h"
#include "base/lock.h"
#include "base/unix_socket.h"

/*
 * Output goes into a ring under the lock (any thread) and leaves it on the loop's thread. Input is
 * read only when what was read before has been delivered, so a client that floods waits in its own
 * socket. The connection is always watched for its end (EPOLLHUP); once that came, what the client
 * sent before is read as the device takes it, and at its end the next client may come.
 */
#define OUT_MAX 65536
#define IN_MAX	4096

struct chardev_unix {
	struct chardev ch;
	struct loop *loop;
	struct unix_listener listener;
	struct loop_fd listen, conn; /* conn.fd: -1 when nobody is there */
	struct loop_work kick;
	/* under the lock */
	struct lock lock;
	_Bool open, wanted; /* somebody is there to write to; a write was cut short */
	size_t out_at, out_len;
	uint8_t out[OUT_MAX];
	_Bool in_want, hup; /* set on the loop's thread */
	/* on the loop's thread */
	_Bool in_eof;
	size_t in_at, in_len;
	uint8_t in[IN_MAX];
	atomic_bool in_waiting; /* there may be input, and the device had no room for it */
};

static struct chardev_unix *unix_of(struct chardev *ch)
{
	return container_of(ch, struct chardev_unix, ch);
}

/* Under the lock. */
static void conn_interest(struct chardev_unix *c)
{
	uint32_t events = EPOLLHUP | (c->in_want ? EPOLLIN : 0) | (c->out_len ? EPOLLOUT : 0);

	if (c->conn.added)
		(void)!loop_fd_mod(c->loop, &c->conn, c->hup ? 0 : events);
}

static size_t unix_write(struct chardev *ch, const uint8_t *data, size_t len)
{
	struct chardev_unix *c = unix_of(ch);
	size_t n = len, at, first;

	lock_take(&c->lock);
	if (c->open) {
		n = MIN(len, OUT_MAX - c->out_len);
		at = (c->out_at + c->out_len) % OUT_MAX;
		first = MIN(n, OUT_MAX - at);
		memcpy(c->out + at, data, first);
		memcpy(c->out, data + first, n - first);
		c->wanted |= n < len;
		c->out_len += n;
		if (n && c->out_len == n)
			conn_interest(c);
	}
	lock_drop(&c->lock);
	return n;
}

/* ---- the connection, on the loop's thread ---- */

static void conn_close(struct chardev_unix *c)
{
	_Bool tell;

	lock_take(&c->lock);
	c->open = 0; /* from here on nobody but this thread touches the connection */
	lock_drop(&c->lock);
	loop_fd_del(c->loop, &c->conn);
	lock_take(&c->lock);
	c->hup = c->in_want = 0;
	c->out_len = 0;
	tell = c->wanted;
	c->wanted = 0;
	lock_drop(&c->lock);
	close(c->conn.fd);
	c->conn.fd = -1;
	c->in_len = c->in_at = 0;
	if (c->ch.client.connected)
		c->ch.client.connected(c->ch.client.opaque, 0);
	if (tell && c->ch.client.can_write)
		c->ch.client.can_write(c->ch.client.opaque);
	(void)!loop_fd_mod(c->loop, &c->listen, EPOLLIN);
}

/* Writes what the socket takes. False: nobody reads any more. */
static _Bool out_drain(struct chardev_unix *c)
{
	_Bool tell, alive = 1;

	lock_take(&c->lock);
	while (alive && c->out_len) {
		ssize_t n = send(c->conn.fd, c->out + c->out_at,
				 MIN(c->out_len, OUT_MAX - c->out_at), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			alive = errno == EAGAIN;
			break;
		}
		c->out_at = (c->out_at + (size_t)n) % OUT_MAX;
		c->out_len -= (size_t)n;
	}
	if (!alive)
		c->out_len = 0;
	tell = c->wanted && c->out_len <= OUT_MAX / 2;
	if (tell)
		c->wanted = 0;
	lock_drop(&c->lock);
	if (tell && c->ch.client.can_write)
		c->ch.client.can_write(c->ch.client.opaque);
	return alive;
}

/* Reads the next portion when the one before is delivered. */
static void in_read(struct chardev_unix *c)
{
	ssize_t n;

	if (c->in_len || c->in_eof)
		return;
	n = recv(c->conn.fd, c->in, sizeof(c->in), MSG_DONTWAIT);
	if (n > 0) {
		c->in_at = 0;
		c->in_len = (size_t)n;
	} else if (!n || (errno != EAGAIN && errno != EINTR)) {
		c->in_eof = 1;
	}
}

/* Hands over what the device has room for; true when it has room for more. */
static _Bool in_deliver(struct chardev_unix *c)
{
	const struct chardev_client *client = &c->ch.client;

	while (c->in_len && client->room) {
		size_t n = MIN(client->room(client->opaque), c->in_len);

		if (!n) {
			/* Say that a kick is wanted, then look again: room may have come. */
			if (atomic_exchange(&c->in_waiting, 1) || !client->room(client->opaque))
				return 0;
			atomic_store(&c->in_waiting, 0);
			continue;
		}
		client->receive(client->opaque, c->in + c->in_at, n);
		c->in_at += n;
		c->in_len -= n;
	}
	return !c->in_len;
}

/* Goes on with the input. A bounded number of portions; what is left comes with the next event. */
static void conn_run(struct chardev_unix *c, _Bool out_alive)
{
	_Bool hup;

	for (unsigned i = 0; i < 4 && in_deliver(c) && !c->in_eof; i++) {
		size_t before = c->in_len;

		in_read(c);
		if (c->in_len == before)
			break;
	}
	in_deliver(c);
	lock_take(&c->lock);
	hup = c->hup;
	c->in_want = !c->in_eof && !c->in_len;
	conn_interest(c);
	lock_drop(&c->lock);
	/* It has gone, or reads no more, and all it sent is delivered. */
	if (c->in_eof && !c->in_len && (hup || !out_alive))
		conn_close(c);
	else if (hup && !c->in_len)
		loop_post(c->loop, &c->kick); /* the rest of what it sent */
}

static void conn_ready(struct loop_fd *lfd, uint32_t events)
{
	struct chardev_unix *c = lfd->opaque;
	_Bool alive = 1;

	if (events & (EPOLLHUP | EPOLLERR)) {
		lock_take(&c->lock);
		c->hup = 1;
		c->out_len = 0;
		c->open = 0;
		lock_drop(&c->lock);
		alive = out_drain(c); /* tells a writer who waits */
	} else if (events & EPOLLOUT) {
		alive = out_drain(c);
	}
	conn_run(c, alive);
}

static void listen_ready(struct loop_fd *lfd, uint32_t events)
{
	struct chardev_unix *c = lfd->opaque;
	int fd = unix_accept(&c->listener);

	if (unix_accept_later(fd))
		loop_fd_rest(c->loop, lfd, UNIX_ACCEPT_REST_MS);
	if (fd < 0)
		return;
	c->conn.fd = fd;
	c->in_eof = 0;
	lock_take(&c->lock);
	c->open = c->in_want = 1;
	c->out_at = c->out_len = 0;
	lock_drop(&c->lock);
	(void)!loop_fd_mod(c->loop, &c->listen, 0);
	if (loop_fd_add(c->loop, &c->conn, EPOLLIN | EPOLLHUP)) {
		conn_close(c);
		return;
	}
	if (c->ch.client.connected)
		c->ch.client.connected(c->ch.client.opaque, 1);
}

static void kicked(struct loop_work *work)
{
	struct chardev_unix *c = work->opaque;

	if (c->conn.fd >= 0)
		conn_run(c, 1);
}

static void unix_kick_input(struct chardev *ch)
{
	struct chardev_unix *c = unix_of(ch);

	if (atomic_exchange(&c->in_waiting, 0))
		loop_post(c->loop, &c->kick);
}

/* ---- life ---- */

static void unix_free(struct chardev *ch)
{
	struct chardev_unix *c = unix_of(ch);

	loop_fd_del(c->loop, &c->listen);
	if (c->conn.fd >= 0) {
		loop_fd_del(c->loop, &c->conn);
		close(c->conn.fd);
	}
	loop_cancel(c->loop, &c->kick);
	unix_listener_close(&c->listener);
	lock_fini(&c->lock);
	free(c);
}

/* What the socket takes at once: nobody waits for a client at the end. */
static void unix_flush(struct chardev *ch, unsigned timeout_ms)
{
	struct chardev_unix *c = unix_of(ch);

	if (c->conn.fd >= 0)
		out_drain(c);
}

static const struct chardev_ops unix_ops = {
    .write = unix_write, .kick_input = unix_kick_input, .flush = unix_flush, .free = unix_free};

int chardev_unix_new(struct chardev **out, struct loop *loop, const char *path, struct error *err)
{
	struct chardev_unix *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return error_set(err, -ENOMEM, "out of memory");
	r = unix_listen(&c->listener, path, err);
	if (r) {
		free(c);
		return r;
	}
	c->ch.ops = &unix_ops;
	c->loop = loop;
	lock_init(&c->lock, RANK_BACKEND);
	c->listen = (struct loop_fd){.fd = c->listener.fd, .fn = listen_ready, .opaque = c};
	c->conn = (struct loop_fd){.fd = -1, .fn = conn_ready, .opaque = c};
	c->kick = (struct loop_work){.fn = kicked, .opaque = c};
	r = loop_fd_add(loop, &c->listen, EPOLLIN);
	if (r) {
		unix_free(&c->ch);
		return error_set(err, r, "cannot watch the socket '%s'", path);
	}
	*out = &c->ch;
	return 0;
}
