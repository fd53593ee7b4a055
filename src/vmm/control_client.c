/* control_client.c: the other end of the control socket. */
#include "vmm/control_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/unix_socket.h"

#define REPLY_MAX     (4u << 20)
#define REPLY_SECONDS 10

static void set_timeout(const struct control_client *c, unsigned seconds)
{
	const struct timeval tv = {.tv_sec = (time_t)seconds};

	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

int control_client_open(struct control_client *c, const char *path, struct error *err)
{
	memset(c, 0, sizeof(*c));
	c->fd = unix_connect(path, REPLY_SECONDS * 1000, err);
	if (c->fd < 0)
		return c->fd;
	set_timeout(c, REPLY_SECONDS);
	return 0;
}

void control_client_close(struct control_client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	free(c->in);
	c->in = NULL;
}

static int receive(struct control_client *c, struct error *err)
{
	ssize_t n;

	if (c->len == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 4096;
		char *in = cap <= REPLY_MAX ? realloc(c->in, cap) : NULL;

		if (!in)
			return error_set(err, -ENOMEM, "the VM's answer is too long");
		c->in = in;
		c->cap = cap;
	}
	do
		n = recv(c->fd, c->in + c->len, c->cap - c->len, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return error_set(err, -ETIMEDOUT, "the VM does not answer");
	if (n <= 0)
		return error_set(err, -EPIPE, "the VM closed the connection");
	c->len += (size_t)n;
	return 0;
}

/* The next line as an object, or NULL with a sentence. */
static json_t *next_message(struct control_client *c, struct error *err)
{
	json_t *message;
	char *end;

	if (c->used)
		memmove(c->in, c->in + c->used, c->len - c->used);
	c->len -= c->used;
	c->used = 0;
	while (!(end = c->len ? memchr(c->in, '\n', c->len) : NULL)) {
		if (receive(c, err))
			return NULL;
	}
	c->used = (size_t)(end - c->in) + 1;
	message = json_loadb(c->in, c->used - 1, 0, NULL);
	if (!json_is_object(message)) {
		json_decref(message);
		error_set(err, -EPROTO, "the VM's answer is not what the protocol says");
		return NULL;
	}
	return message;
}

static int send_all(struct control_client *c, const char *text, size_t len, struct error *err)
{
	while (len) {
		ssize_t n = send(c->fd, text, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return error_set(err, -ETIMEDOUT, "the VM does not answer");
		if (n < 0)
			return error_set(err, -EPIPE, "the VM closed the connection");
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

json_t *control_client_call(struct control_client *c, const char *command, json_t *arguments,
			    struct error *err)
{
	json_t *request = json_pack("{s:i, s:s, s:o}", "id", 1, "command", command, "arguments",
				    arguments ? arguments : json_object());
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	json_t *message = NULL;
	int rc;

	json_decref(request);
	if (!text) {
		error_set(err, -EINVAL, "the command is not text (UTF-8)");
		return NULL;
	}
	rc = send_all(c, text, strlen(text), err);
	if (!rc)
		rc = send_all(c, "\n", 1, err);
	free(text);
	/* Whoever was turned away finds the connection closed, and a line that says why. */
	if (rc == -EPIPE)
		rc = 0;
	while (!rc && (message = next_message(c, err)) && json_object_get(message, "event"))
		json_decref(message);
	return message;
}

json_t *control_client_event(struct control_client *c, struct error *err)
{
	json_t *message;

	set_timeout(c, 0);
	while ((message = next_message(c, err)) && !json_object_get(message, "event"))
		json_decref(message);
	return message;
}
