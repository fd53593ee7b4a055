/* net_tap.c: a tap interface of the host's, with offloads through its virtio header. */
#include "backend/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/net_impl.h"
#include "base/le.h"

/* The header in front of a frame, little-endian (TUNSETVNETLE), 12 bytes as of virtio 1. */
#define HDR_LEN	   12
#define READ_BURST 64 /* frames a turn, so that the loop's other descriptors get theirs */
#define TAP_CAPS   (NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_ECN)

struct net_tap {
	struct net net;
	struct loop *loop;
	struct loop_fd fd;
	struct loop_work send_work, kick_work;
	_Bool held;	 /* `frame` has one that the device had no room for */
	_Bool send_wait; /* the host's queue was full */
	size_t frame_len;
	uint8_t frame[HDR_LEN + NET_FRAME_MAX];
};

static struct net_tap *tap_of(struct net *net)
{
	return container_of(net, struct net_tap, net);
}

static void hdr_store(uint8_t hdr[HDR_LEN], const struct net_offload *off)
{
	hdr[0] = off->flags;
	hdr[1] = off->gso;
	store_le16(hdr + 2, off->hdr_len);
	store_le16(hdr + 4, off->gso_size);
	store_le16(hdr + 6, off->csum_start);
	store_le16(hdr + 8, off->csum_offset);
	store_le16(hdr + 10, 0);
}

static void hdr_load(struct net_offload *off, const uint8_t hdr[HDR_LEN])
{
	off->flags = hdr[0] & (NET_NEEDS_CSUM | NET_DATA_VALID);
	off->gso = hdr[1];
	off->hdr_len = load_le16(hdr + 2);
	off->gso_size = load_le16(hdr + 4);
	off->csum_start = load_le16(hdr + 6);
	off->csum_offset = load_le16(hdr + 8);
}

static void tap_interest(struct net_tap *t)
{
	uint32_t events = (t->held ? 0 : EPOLLIN) | (t->send_wait ? EPOLLOUT : 0);

	if (loop_fd_mod(t->loop, &t->fd, events))
		net_link_set(&t->net, 0);
}

static _Bool tap_offer(struct net_tap *t)
{
	struct net_offload off;

	hdr_load(&off, t->frame);
	return net_deliver(&t->net, t->frame + HDR_LEN, t->frame_len - HDR_LEN, &off);
}

static void tap_receive(struct net_tap *t)
{
	for (unsigned i = 0; i < READ_BURST && !t->held; i++) {
		ssize_t n = read(t->fd.fd, t->frame, sizeof(t->frame));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			net_link_set(&t->net, errno != EBADFD && errno != EIO && errno != ENODEV);
		if (n < HDR_LEN + NET_FRAME_MIN)
			break;
		t->frame_len = (size_t)n;
		t->held = !tap_offer(t);
	}
}

static void tap_can_send(struct net_tap *t)
{
	if (t->net.client.can_send)
		t->net.client.can_send(t->net.client.opaque);
}

static void on_tap(struct loop_fd *lfd, uint32_t events)
{
	struct net_tap *t = lfd->opaque;

	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		tap_receive(t);
	if (events & EPOLLOUT && t->send_wait) {
		t->send_wait = 0;
		tap_can_send(t);
	}
	if (events & (EPOLLERR | EPOLLHUP) && !(events & (EPOLLIN | EPOLLOUT))) {
		/* The interface is gone. */
		loop_fd_del(t->loop, &t->fd);
		net_link_set(&t->net, 0);
		return;
	}
	tap_interest(t);
}

static void on_send(struct loop_work *work)
{
	struct net_tap *t = work->opaque;

	tap_can_send(t);
	if (t->fd.added)
		tap_interest(t);
}

static void on_kick(struct loop_work *work)
{
	struct net_tap *t = work->opaque;

	if (t->held && tap_offer(t))
		t->held = 0;
	if (t->fd.added)
		tap_interest(t);
}

static _Bool tap_send(struct net *net, const struct iovec *iov, unsigned count, size_t len,
		      const struct net_offload *off)
{
	struct net_tap *t = tap_of(net);
	struct iovec all[1 + NET_IOV_MAX];
	uint8_t hdr[HDR_LEN];

	if (count > NET_IOV_MAX)
		return 1;
	hdr_store(hdr, off);
	all[0] = (struct iovec){hdr, sizeof(hdr)};
	memcpy(all + 1, iov, count * sizeof(*iov));
	while (writev(t->fd.fd, all, (int)count + 1) < 0) {
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN) /* a frame that the host refuses is lost */
			break;
		t->send_wait = 1;
		loop_post(t->loop, &t->kick_work); /* sets what is waited for */
		return 0;
	}
	return 1;
}

static void tap_want_send(struct net *net)
{
	loop_post(tap_of(net)->loop, &tap_of(net)->send_work);
}

static void tap_kick(struct net *net)
{
	loop_post(tap_of(net)->loop, &tap_of(net)->kick_work);
}

static void tap_set_offloads(struct net *net, unsigned can)
{
	unsigned long flags = 0;

	if (can & NET_CAN_CSUM) {
		flags |= TUN_F_CSUM;
		flags |= can & NET_CAN_TSO4 ? TUN_F_TSO4 : 0;
		flags |= can & NET_CAN_TSO6 ? TUN_F_TSO6 : 0;
		if (flags != TUN_F_CSUM && can & NET_CAN_ECN)
			flags |= TUN_F_TSO_ECN;
	}
	if (ioctl(tap_of(net)->fd.fd, TUNSETOFFLOAD, flags))
		ioctl(tap_of(net)->fd.fd, TUNSETOFFLOAD, 0UL);
}

static void tap_free(struct net *net)
{
	struct net_tap *t = tap_of(net);

	loop_fd_del(t->loop, &t->fd);
	loop_cancel(t->loop, &t->send_work);
	loop_cancel(t->loop, &t->kick_work);
	if (t->fd.fd >= 0)
		close(t->fd.fd);
	free(t);
}

static const struct net_ops tap_ops = {.send = tap_send,
				       .want_send = tap_want_send,
				       .kick = tap_kick,
				       .set_offloads = tap_set_offloads,
				       .free = tap_free};

/* Does the interface exist? Opening one that does not would make it, for who may. */
static int tap_look(const char *name, struct error *err)
{
	struct ifreq ifr = {0};
	int fd, r;

	if (!name[0] || strlen(name) >= IFNAMSIZ || strchr(name, '/') || strchr(name, '%'))
		return error_set(
		    err, -EINVAL,
		    "tap interface '%s': names have 1 to %d characters, no '/' or '%%'", name,
		    IFNAMSIZ - 1);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, -errno, "cannot look for tap interface '%s': %s", name,
				 strerror(errno));
	memcpy(ifr.ifr_name, name, strlen(name) + 1);
	r = ioctl(fd, SIOCGIFINDEX, &ifr) ? -errno : 0;
	close(fd);
	if (r)
		return error_set(err, -ENODEV,
				 "there is no tap interface '%s'; make it (once, as root): ip "
				 "tuntap add dev %s mode tap user YOU && ip link set %s up",
				 name, name, name);
	return 0;
}

static int tap_attach(int fd, const char *name, struct error *err)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int one = 1, len = HDR_LEN;

	memcpy(ifr.ifr_name, name, strlen(name) + 1);
	if (ioctl(fd, TUNSETIFF, &ifr)) {
		int e = errno;

		if (e == EBUSY)
			return error_set(err, -e,
					 "tap interface '%s' is busy: another program has it open",
					 name);
		if (e == EPERM)
			return error_set(err, -e,
					 "no permission for tap interface '%s'; give it to this "
					 "user (as root): ip tuntap add dev %s mode tap user YOU",
					 name, name);
		if (e == EINVAL)
			return error_set(err, -e,
					 "'%s' is not a tap interface (or one with several queues)",
					 name);
		return error_set(err, -e, "cannot open tap interface '%s': %s", name, strerror(e));
	}
	if (ioctl(fd, TUNSETVNETHDRSZ, &len) || ioctl(fd, TUNSETVNETLE, &one) ||
	    ioctl(fd, TUNSETOFFLOAD, 0UL))
		return error_set(err, -errno, "tap interface '%s' lacks the virtio header: %s",
				 name, strerror(errno));
	return 0;
}

static int tap_open(const char *name, struct error *err)
{
	int fd, r = tap_look(name, err);

	if (r)
		return r;
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_set(err, -errno, "cannot open /dev/net/tun for tap interface '%s': %s",
				 name, strerror(errno));
	r = tap_attach(fd, name, err);
	if (r) {
		close(fd);
		return r;
	}
	return fd;
}

void net_tap_hand_over(struct net *net)
{
	loop_fd_del(tap_of(net)->loop, &tap_of(net)->fd);
}

int net_tap_fd(const struct net *net)
{
	return container_of(net, struct net_tap, net)->fd.fd;
}

int net_tap_new(struct net **out, struct loop *loop, const char *name, struct error *err)
{
	int fd = tap_open(name, err);
	struct net_tap *t;

	if (fd < 0)
		return fd;
	t = calloc(1, sizeof(*t));
	if (!t) {
		close(fd);
		return error_set(err, -ENOMEM, "out of memory for tap interface '%s'", name);
	}
	net_init(&t->net, &tap_ops, TAP_CAPS, TAP_CAPS, 0);
	t->loop = loop;
	t->fd = (struct loop_fd){.fd = fd, .fn = on_tap, .opaque = t};
	t->send_work = (struct loop_work){.fn = on_send, .opaque = t};
	t->kick_work = (struct loop_work){.fn = on_kick, .opaque = t};
	if (loop_fd_add(loop, &t->fd, EPOLLIN)) {
		tap_free(&t->net);
		return error_set(err, -ENOMEM, "cannot watch tap interface '%s'", name);
	}
	*out = &t->net;
	return 0;
}
