/* control.c: the control socket's clients. */
#include "vmm/control.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host_time.h"
#include "base/log.h"
#include "base/unix_socket.h"

/*
 * A client's bytes go through two buffers. `in` holds the lines not yet answered; `out` the replies
 * and events not yet taken. While a whole line waits, or `out` is not empty, the client is watched
 * for EPOLLOUT, and every such turn writes, then answers at most LINES_PER_TURN lines as long as
 * `out` stays below OUT_HIGH. So a client that floods, or does not read, waits for itself.
 */
#define LINES_PER_TURN 16
#define OUT_HIGH       (64u << 10)

/*
 * A guest can use up the process's descriptors (each of its network connections takes one), and
 * then above all somebody has to be able to end the VM. So some descriptors are kept: each makes
 * room for one client, and the last for one at a time who is told that there is no room.
 */
#define SPARES 4

struct client {
	struct loop_fd lfd;
	struct control *control;
	char in[CONTROL_LINE_MAX];
	size_t in_len;
	char *out;
	size_t out_len, out_cap;
	_Bool subscribed;
	_Bool eof;     /* no more lines will come */
	_Bool closing; /* to be dropped when `out` is empty */
};

struct control {
	struct loop *loop;
	struct control_table table;
	struct unix_listener listener;
	struct loop_fd lfd;
	int spare[SPARES]; /* of /dev/null, or -1 */
	struct client *client[CONTROL_MAX_CLIENTS];
};

static void spares_refill(struct control *control)
{
	for (unsigned i = 0; i < SPARES; i++) {
		if (control->spare[i] < 0)
			control->spare[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
}

/* Gives one back to the process. Returns how many there were. */
static unsigned spare_spend(struct control *control)
{
	unsigned n = 0;
	int last = -1;

	for (unsigned i = 0; i < SPARES; i++) {
		if (control->spare[i] < 0)
			continue;
		last = (int)i;
		n++;
	}
	if (n) {
		close(control->spare[last]);
		control->spare[last] = -1;
	}
	return n;
}

static void client_drop(struct client *c)
{
	struct control *control = c->control;

	for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++) {
		if (control->client[i] == c)
			control->client[i] = NULL;
	}
	loop_fd_del(control->loop, &c->lfd);
	close(c->lfd.fd);
	free(c->out);
	free(c);
	spares_refill(control);
}

/* Appends a line; false when the client's backlog is full or memory is short: it is to be dropped.
 * Takes the reference. */
static _Bool client_put(struct client *c, json_t *message)
{
	char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;
	_Bool ok = text && c->out_len + len + 1 <= CONTROL_BACKLOG_MAX;

	json_decref(message);
	if (ok && c->out_len + len + 1 > c->out_cap) {
		size_t cap = ALIGN_UP(c->out_len + len + 1, 4096u);
		char *out = realloc(c->out, cap);

		ok = out != NULL;
		if (out) {
			c->out = out;
			c->out_cap = cap;
		}
	}
	if (ok) {
		memcpy(c->out + c->out_len, text, len);
		c->out[c->out_len + len] = '\n';
		c->out_len += len + 1;
	}
	free(text);
	return ok;
}

/* False: the connection is broken. */
static _Bool client_write(struct client *c)
{
	ssize_t n;

	if (!c->out_len)
		return 1;
	n = send(c->lfd.fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	c->out_len -= (size_t)n;
	memmove(c->out, c->out + n, c->out_len);
	return 1;
}

/* False: the connection is broken. */
static _Bool client_read(struct client *c)
{
	ssize_t n;

	if (c->eof || c->closing || c->in_len == sizeof(c->in))
		return 1;
	n = recv(c->lfd.fd, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	c->in_len += (size_t)n;
	c->eof = n == 0;
	return 1;
}

/* The length of the first whole line, or SIZE_MAX. At the end of the input what is left is one. */
static size_t line_length(const struct client *c)
{
	const char *end = memchr(c->in, '\n', c->in_len);

	if (end)
		return (size_t)(end - c->in);
	return c->eof && c->in_len ? c->in_len : SIZE_MAX;
}

static _Bool is_blank(const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
			return 0;
	}
	return 1;
}

/* Answers lines. False: the client is to be dropped. */
static _Bool client_answer(struct client *c)
{
	for (unsigned i = 0; i < LINES_PER_TURN && !c->closing && c->out_len < OUT_HIGH; i++) {
		size_t len = line_length(c), used;
		_Bool ok = 1;

		if (len == SIZE_MAX) {
			if (c->in_len < sizeof(c->in))
				return 1;
			c->closing = 1;
			return client_put(
			    c, control_refusal(CONTROL_TOO_LONG, "the line is longer than 64 KiB"));
		}
		if (!is_blank(c->in, len))
			ok = client_put(
			    c, control_answer(&c->control->table, c->in, len, &c->subscribed));
		used = MIN(len + 1, c->in_len);
		c->in_len -= used;
		memmove(c->in, c->in + used, c->in_len);
		if (!ok)
			return 0;
	}
	return 1;
}

static uint32_t client_wants(const struct client *c)
{
	_Bool line = !c->closing && (line_length(c) != SIZE_MAX || c->in_len == sizeof(c->in));
	uint32_t events = 0;

	if (!line && !c->eof && !c->closing)
		events |= EPOLLIN;
	if (c->out_len || line)
		events |= EPOLLOUT;
	return events;
}

/* Watches for what is wanted; a client that wants nothing more is done. False: drop it. */
static _Bool client_watch(struct client *c)
{
	uint32_t events = client_wants(c);

	return events && !loop_fd_mod(c->control->loop, &c->lfd, events);
}

static void on_client(struct loop_fd *lfd, uint32_t events)
{
	struct client *c = lfd->opaque;

	if (events & (EPOLLHUP | EPOLLERR)) {
		/* Gone without waiting for an answer: what it has sent is still done. */
		if (client_read(c))
			(void)client_answer(c);
		client_drop(c);
	} else if (!client_read(c) || !client_write(c) || !client_answer(c) || !client_write(c) ||
		   !client_watch(c)) {
		client_drop(c);
	}
}

/* Too many: one line says so. The socket is new, so that the line fits its buffer. */
static void turn_away(int fd, const char *why)
{
	json_t *message = control_refusal(CONTROL_BUSY, why);
	char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;

	if (text) {
		(void)!send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
		(void)!send(fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	free(text);
	json_decref(message);
	close(fd);
}

static void client_add(struct control *control, int fd)
{
	struct client *c;
	unsigned i = 0;

	while (i < CONTROL_MAX_CLIENTS && control->client[i])
		i++;
	if (i == CONTROL_MAX_CLIENTS) {
		turn_away(fd, "too many clients are connected");
		return;
	}
	c = calloc(1, sizeof(*c));
	if (c) {
		c->control = control;
		c->lfd = (struct loop_fd){.fd = fd, .fn = on_client, .opaque = c};
	}
	if (!c || loop_fd_add(control->loop, &c->lfd, EPOLLIN)) {
		free(c);
		turn_away(fd, "the host has no memory for another client");
		return;
	}
	control->client[i] = c;
}

static void on_connect(struct loop_fd *lfd, uint32_t events)
{
	struct control *control = lfd->opaque;
	int fd = unix_accept(&control->listener);
	unsigned spares = SPARES;

	if (unix_accept_later(fd) && (spares = spare_spend(control)))
		fd = unix_accept(&control->listener);
	if (fd == -EPERM)
		log_warn("control socket: another user was turned away");
	if (unix_accept_later(fd))
		loop_fd_rest(control->loop, lfd, UNIX_ACCEPT_REST_MS);
	else if (fd >= 0 && spares == 1)
		turn_away(fd, "the VM's process has no descriptor left for another client");
	else if (fd >= 0)
		client_add(control, fd);
	spares_refill(control);
}

int control_new(struct control **out, struct loop *loop, const char *path,
		const struct control_table *table, struct error *err)
{
	struct control *control = calloc(1, sizeof(*control));
	int rc;

	if (!control)
		return error_set(err, -ENOMEM, "out of memory");
	control->loop = loop;
	control->table = *table;
	for (unsigned i = 0; i < SPARES; i++)
		control->spare[i] = -1;
	rc = unix_listen(&control->listener, path, err);
	if (rc) {
		free(control);
		return error_prefix(err, "control socket");
	}
	control->lfd =
	    (struct loop_fd){.fd = control->listener.fd, .fn = on_connect, .opaque = control};
	rc = loop_fd_add(loop, &control->lfd, EPOLLIN);
	if (rc) {
		control_free(control);
		return error_set(err, rc, "cannot watch the control socket: %s", strerror(-rc));
	}
	spares_refill(control);
	*out = control;
	return 0;
}

void control_free(struct control *control)
{
	if (!control)
		return;
	for (unsigned i = 0; i < CONTROL_MAX_CLIENTS; i++) {
		if (control->client[i])
			client_drop(control->client[i]);
	}
	while (spare_spend(control))
		;
	loop_fd_del(control->loop, &control->lfd);
	unix_listener_close(&control->listener);
	free(control);
}

static json_t *make_event(const char *name, json_t *data)
{
	json_t *event = json_pack("{s:s}", "event", name);

	if (event && data)
		json_object_update(event, data);
	return event;
}

void control_event(struct control *control, const char *name, json_t *data)
{
	for (unsigned i = 0; control && i < CONTROL_MAX_CLIENTS; i++) {
		struct client *c = control->client[i];

		if (!c || !c->subscribed)
			continue;
		/* It may be in the middle of its own turn, so that it is not freed here: the
		 * hang-up is seen by its next one. */
		if (!client_put(c, make_event(name, data)) || !client_watch(c)) {
			log_warn("control socket: a client that does not read was dropped");
			c->closing = 1;
			c->out_len = 0;
			shutdown(c->lfd.fd, SHUT_RDWR);
		}
	}
	json_decref(data);
}

void control_flush(struct control *control, unsigned timeout_ms)
{
	uint64_t end = host_time_ms() + timeout_ms, now;

	for (unsigned i = 0; control && i < CONTROL_MAX_CLIENTS; i++) {
		struct client *c = control->client[i];

		while (c && c->out_len) {
			struct pollfd p = {.fd = c->lfd.fd, .events = POLLOUT};

			now = host_time_ms();
			if (poll(&p, 1, now < end ? (int)(end - now) : 0) <= 0 || !client_write(c))
				break;
		}
	}
}
