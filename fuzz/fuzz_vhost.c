/* fuzz_vhost.c: the vhost-user front end, with a back end that says what it likes. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/vhost.h"
#include "base/le.h"

/*
 * Input: byte 0 which replies are made to fit (their heads are written here, so that what is in
 * them is reached); then what the back end says, all of it before it is asked.
 */
struct peer {
	const uint8_t *data;
	size_t size;
	uint8_t fit;
	int sock;
};

static void say(struct peer *p, uint32_t request, uint32_t size)
{
	uint8_t bytes[12 + 512] = {0};
	size_t n = MIN(p->size, size);

	store_le32(bytes, request);
	store_le32(bytes + 4, 5);
	store_le32(bytes + 8, size);
	memcpy(bytes + 12, p->data, n);
	p->data += n;
	p->size -= n;
	(void)!write(p->sock, bytes, 12 + size);
}

static int peer_open(void *opaque)
{
	static const struct {
		uint8_t request, size;
	} replies[] = {{1, 8}, {15, 8}, {17, 8}, {21, 8}, {3, 8}, {24, 72}, {2, 8}, {5, 8}};
	struct peer *p = opaque;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		abort();
	p->sock = pair[1];
	for (unsigned i = 0; i < (p->fit & 0x7f) % (ARRAY_SIZE(replies) + 1); i++)
		say(p, replies[i].request, replies[i].size);
	(void)!send(p->sock, p->data, p->size, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (p->fit & 0x80) /* so that nobody waits */
		shutdown(p->sock, SHUT_WR);
	return pair[0];
}

/* The rest of the input goes where the back end may speak unasked: a socket among the descriptors
 * that it was sent. */
static void say_unasked(struct peer *p)
{
	union {
		struct cmsghdr head;
		uint8_t room[CMSG_SPACE(sizeof(int) * 16)];
	} control;
	uint8_t bytes[256];
	struct iovec iov = {bytes, sizeof(bytes)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	for (;;) {
		struct cmsghdr *c;

		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		if (recvmsg(p->sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
			return;
		c = CMSG_FIRSTHDR(&msg);
		for (size_t i = 0; c && i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			(void)!send(fd, p->data, p->size, MSG_NOSIGNAL | MSG_DONTWAIT);
			close(fd);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct peer p = {.sock = -1};
	const struct vhost_user_config cfg = {
	    .path = "/peer", .wants_config = 1, .timeout_ms = 2, .open = peer_open, .opaque = &p};
	uint8_t config[60];
	struct error err;
	struct vhost *v;
	int r;

	if (!size || size > 8192)
		return 0;
	p.fit = data[0];
	p.data = data + 1;
	p.size = size - 1;
	if (vhost_user_new(&v, &cfg, &err))
		abort();
	r = vhost_connect(v, &err);
	if (!r)
		r = vhost_config_get(v, config, sizeof(config), &err);
	if (!r) {
		const struct vhost_region region = {0, 4096, 4096, 0, p.sock};
		const struct vhost_ring ring = {256, 4096, 4096, 4096, p.sock, p.sock, 1};
		const struct vhost_plan plan = {0, &region, 1, &ring, 1};

		r = vhost_start(v, &plan, &err);
	}
	if (!r)
		r = vhost_stop(v, 1, &err);
	if (r > 0)
		abort();
	say_unasked(&p);
	(void)vhost_events(v);
	vhost_free(v);
	close(p.sock);
	return 0;
}
