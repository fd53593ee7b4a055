/* chardev_fd.c: a character back end over a pair of file descriptors. */
#include "backend/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/chardev_impl.h"
#include "base/host_time.h"
#include "base/lock.h"
#include "base/log.h"

/*
 * The descriptors are often the person's own terminal, shared with the shell and with other
 * processes, so O_NONBLOCK is never set on them. Terminals and pipes are opened a second time
 * through /proc, which gives a description of our own to make non-blocking. Where that is refused,
 * the given one is used in small portions and only when poll says ready, which can block for a
 * moment at worst.
 *
 * Output goes into a ring under the lock (any thread) and leaves it on the loop's thread. Input
 * stays on the loop's thread altogether: read, filtered, kept in a ring, handed over as the device
 * has room.
 */
#define OUT_MAX	  65536
#define IN_MAX	  65536
#define IN_HIGH	  4096 /* without a filter, stop reading here and let the sender wait */
#define PORTION	  4096
#define PORTION_B 256 /* when a write might block */

struct ring {
	size_t start, len;
	uint8_t *data;
};

struct chardev_fd {
	struct chardev ch;
	struct loop *loop;
	struct loop_fd in, out;
	_Bool own_in, own_out;
	size_t portion;
	/* output, under the lock */
	struct lock lock;
	struct ring out_ring;
	_Bool out_dead, wanted, draining;
	/* input, on the loop's thread */
	struct ring in_ring;
	_Bool in_eof;
	struct loop_work kick;
	atomic_bool in_waiting; /* there is input, and the device had no room for it */
	size_t (*filter)(void *opaque, uint8_t *data, size_t len);
	void *filter_opaque;
	void (*cleanup)(void *opaque);
	void *cleanup_opaque;
};

static size_t ring_put(struct ring *ring, size_t max, const uint8_t *data, size_t len)
{
	size_t n = MIN(len, max - ring->len), at = (ring->start + ring->len) % max;
	size_t first = MIN(n, max - at);

	memcpy(ring->data + at, data, first);
	memcpy(ring->data, data + first, n - first);
	ring->len += n;
	return n;
}

/* The bytes at the ring's start that lie in one piece. */
static size_t ring_peek(const struct ring *ring, size_t max, const uint8_t **data)
{
	*data = ring->data + ring->start;
	return MIN(ring->len, max - ring->start);
}

static void ring_drop(struct ring *ring, size_t max, size_t len)
{
	ring->start = (ring->start + len) % max;
	ring->len -= len;
}

/* ---- output ---- */

static void out_interest(struct chardev_fd *c)
{
	uint32_t events = c->out_ring.len && !c->out_dead ? EPOLLOUT : 0;

	if (c->out.added && loop_fd_mod(c->loop, &c->out, events))
		c->out_dead = 1;
}

static size_t fd_write(struct chardev *ch, const uint8_t *data, size_t len)
{
	struct chardev_fd *c = container_of(ch, struct chardev_fd, ch);
	size_t n = len;

	lock_take(&c->lock);
	if (!c->out_dead) {
		_Bool idle = !c->out_ring.len;

		n = ring_put(&c->out_ring, OUT_MAX, data, len);
		c->wanted |= n < len;
		if (idle && n)
			out_interest(c);
	}
	lock_drop(&c->lock);
	return n;
}

static void out_failed(struct chardev_fd *c, int error)
{
	c->out_dead = 1;
	c->out_ring.len = 0;
	if (error != EPIPE && error != EIO && error != ECONNRESET)
		log_warn("console output is lost from here on: %s", strerror(error));
}

/* Writes one portion. Takes and drops the lock. */
static void out_drain(struct chardev_fd *c)
{
	uint8_t chunk[PORTION];
	const uint8_t *data;
	size_t len;
	ssize_t n;
	int error;

	lock_take(&c->lock);
	len = c->draining || c->out_dead ? 0 : ring_peek(&c->out_ring, OUT_MAX, &data);
	len = MIN(len, c->portion);
	if (len) {
		memcpy(chunk, data, len);
		c->draining = 1;
	}
	lock_drop(&c->lock);
	if (!len)
		return;
	n = write(c->out.fd, chunk, len);
	error = errno;
	lock_take(&c->lock);
	c->draining = 0;
	if (n > 0)
		ring_drop(&c->out_ring, OUT_MAX, (size_t)n);
	else if (n < 0 && error != EAGAIN && error != EINTR)
		out_failed(c, error);
	lock_drop(&c->lock);
}

static void out_ready(struct loop_fd *lfd, uint32_t events)
{
	struct chardev_fd *c = lfd->opaque;
	_Bool tell;

	out_drain(c);
	lock_take(&c->lock);
	out_interest(c);
	tell = c->wanted && c->out_ring.len <= OUT_MAX / 2;
	if (tell)
		c->wanted = 0;
	lock_drop(&c->lock);
	if (tell && c->ch.client.can_write)
		c->ch.client.can_write(c->ch.client.opaque);
}

static void fd_flush(struct chardev *ch, unsigned timeout_ms)
{
	struct chardev_fd *c = container_of(ch, struct chardev_fd, ch);
	int64_t left, end = (int64_t)host_time_ms() + timeout_ms;

	while ((left = end - (int64_t)host_time_ms()) >= 0) {
		struct pollfd pfd = {.fd = c->out.fd, .events = POLLOUT};
		_Bool empty;

		lock_take(&c->lock);
		empty = !c->out_ring.len;
		lock_drop(&c->lock);
		if (empty)
			return;
		if (poll(&pfd, 1, (int)MIN(left, 50)) > 0)
			out_drain(c);
		if (!left)
			return;
	}
}

/* ---- input ---- */

static void in_interest(struct chardev_fd *c)
{
	_Bool want = !c->in_eof && (c->filter || c->in_ring.len < IN_HIGH);

	if (c->in.added && loop_fd_mod(c->loop, &c->in, want ? EPOLLIN : 0))
		c->in_eof = 1;
}

/* Hands over what the device has room for. */
static void in_deliver(struct chardev_fd *c)
{
	const struct chardev_client *client = &c->ch.client;
	const uint8_t *data;

	while (c->in_ring.len && client->room) {
		size_t n = MIN(client->room(client->opaque), ring_peek(&c->in_ring, IN_MAX, &data));

		if (!n) {
			/* Say that a kick is wanted, then look again: room may have come before. */
			if (atomic_exchange(&c->in_waiting, 1) || !client->room(client->opaque))
				break;
			atomic_store(&c->in_waiting, 0);
			continue;
		}
		client->receive(client->opaque, data, n);
		ring_drop(&c->in_ring, IN_MAX, n);
	}
	in_interest(c);
}

static void in_ready(struct loop_fd *lfd, uint32_t events)
{
	struct chardev_fd *c = lfd->opaque;
	uint8_t chunk[PORTION];
	ssize_t n = read(lfd->fd, chunk, sizeof(chunk));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		c->in_eof = 1; /* no more input; a read error means the same to a guest */
	} else {
		size_t len = (size_t)n;

		if (c->filter)
			len = c->filter(c->filter_opaque, chunk, len);
		ring_put(&c->in_ring, IN_MAX, chunk, len);
	}
	in_deliver(c);
}

static void in_kicked(struct loop_work *work)
{
	in_deliver(work->opaque);
}

static void fd_kick_input(struct chardev *ch)
{
	struct chardev_fd *c = container_of(ch, struct chardev_fd, ch);

	if (atomic_exchange(&c->in_waiting, 0))
		loop_post(c->loop, &c->kick);
}

/* ---- life ---- */

static void fd_free(struct chardev *ch)
{
	struct chardev_fd *c = container_of(ch, struct chardev_fd, ch);

	loop_fd_del(c->loop, &c->in);
	loop_fd_del(c->loop, &c->out);
	loop_cancel(c->loop, &c->kick);
	if (c->own_in)
		close(c->in.fd);
	if (c->own_out)
		close(c->out.fd);
	if (c->cleanup)
		c->cleanup(c->cleanup_opaque);
	lock_fini(&c->lock);
	free(c->in_ring.data);
	free(c->out_ring.data);
	free(c);
}

static const struct chardev_ops fd_ops = {
    .write = fd_write, .kick_input = fd_kick_input, .flush = fd_flush, .free = fd_free};

/* A non-blocking description of our own for a terminal or a pipe, or -1. */
static int fd_reopen(int fd, int access)
{
	char path[32];
	struct stat st;

	if (fstat(fd, &st) || !(S_ISFIFO(st.st_mode) || isatty(fd)))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static int fd_watch(struct chardev_fd *c, struct loop_fd *lfd, _Bool *own, struct error *err)
{
	int rc = loop_fd_add(c->loop, lfd, lfd == &c->in ? EPOLLIN : EPOLLOUT);

	if (rc == -EEXIST && !*own) { /* one socket for both ways: epoll wants two numbers */
		int fd = fcntl(lfd->fd, F_DUPFD_CLOEXEC, 3);

		if (fd >= 0) {
			lfd->fd = fd;
			*own = 1;
			rc = loop_fd_add(c->loop, lfd, EPOLLOUT);
		}
	}
	if (rc)
		error_set(err, rc, "cannot watch the console's descriptor: %s", strerror(-rc));
	return rc;
}

static void fd_adopt(struct loop_fd *lfd, int fd, int access, _Bool *own)
{
	int again = fd < 0 ? -1 : fd_reopen(fd, access);

	lfd->fd = again >= 0 ? again : fd;
	*own = again >= 0;
}

/* A broken pipe is an error of one write, not the end of the process. */
static void sigpipe_ignore(void)
{
	struct sigaction old;

	if (!sigaction(SIGPIPE, NULL, &old) && old.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
}

static _Bool write_may_block(int fd)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || flags & O_NONBLOCK)
		return 0;
	return !fstat(fd, &st) && !S_ISREG(st.st_mode);
}

int chardev_fd_new(struct chardev **out, struct loop *loop, int in_fd, int out_fd,
		   struct error *err)
{
	struct chardev_fd *c = calloc(1, sizeof(*c));
	int rc = 0;

	if (c) {
		c->in_ring.data = malloc(IN_MAX);
		c->out_ring.data = malloc(OUT_MAX);
	}
	if (!c || !c->in_ring.data || !c->out_ring.data) {
		if (c)
			free(c->in_ring.data);
		free(c);
		return error_set(err, -ENOMEM, "out of memory for the console");
	}
	sigpipe_ignore();
	c->ch.ops = &fd_ops;
	c->loop = loop;
	lock_init(&c->lock, RANK_BACKEND);
	c->in = (struct loop_fd){.fn = in_ready, .opaque = c};
	c->out = (struct loop_fd){.fn = out_ready, .opaque = c};
	c->kick = (struct loop_work){.fn = in_kicked, .opaque = c};
	atomic_init(&c->in_waiting, 1); /* the first kick is that of chardev_attach */
	fd_adopt(&c->in, in_fd, O_RDONLY, &c->own_in);
	fd_adopt(&c->out, out_fd, O_WRONLY, &c->own_out);
	c->portion = write_may_block(c->out.fd) ? PORTION_B : PORTION;
	c->in_eof = in_fd < 0;
	c->out_dead = out_fd < 0;
	if (in_fd >= 0)
		rc = fd_watch(c, &c->in, &c->own_in, err);
	if (!rc && out_fd >= 0)
		rc = fd_watch(c, &c->out, &c->own_out, err);
	if (rc) {
		fd_free(&c->ch);
		return rc;
	}
	*out = &c->ch;
	return 0;
}

void chardev_fd_set_filter(struct chardev *ch,
			   size_t (*filter)(void *opaque, uint8_t *data, size_t len), void *opaque)
{
	struct chardev_fd *c = container_of(ch, struct chardev_fd, ch);

	c->filter = filter;
	c->filter_opaque = opaque;
}

void chardev_fd_set_cleanup(struct chardev *ch, void (*cleanup)(void *opaque), void *opaque)
{
	struct chardev_fd *c = container_of(ch, struct chardev_fd, ch);

	c->cleanup = cleanup;
	c->cleanup_opaque = opaque;
}
