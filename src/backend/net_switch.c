/* net_switch.c: a learning switch between VMs of one user, made of nothing but their ports. */
#include "backend/net.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "backend/net_impl.h"
#include "base/host_time.h"
#include "base/log.h"
#include "base/unix_socket.h"

/*
 * A switch is a directory that only this user can enter. Every VM on it listens at a Unix socket
 * there and has one connection (SOCK_SEQPACKET: one message is one frame) with every other; so no
 * process has to be there first or last. A newcomer holds the directory's lock from making its own
 * socket until it has connected to all others, which makes exactly one connection of every pair.
 * Sockets that nobody listens at any more are swept away by whoever finds them.
 *
 * Which port a MAC address is at is learned from the frames that come from it; what is for nobody
 * known goes to all. A frame that came in is never sent on, so there are no loops.
 *
 * A frame for all is lost for a port whose socket buffer is full. One for that port alone waits,
 * and behind it everything else that this VM sends: so that a slow receiver slows its sender down.
 * But one that is paused, or means ill, shall not cut two others off from each other. So a port has
 * patience for so much waiting and no more. Each frame that it takes gives a little back, waiting
 * uses it up, and when there is none its frames are lost as well. Whatever a receiver does, its
 * sender gets on with a frame in PATIENCE_FRAME_NS.
 */
#define PORTS_MAX   64
#define MACS_MAX    256 /* learned; beyond that the oldest place is used again */
#define READ_BURST  64
#define SWITCH_MAX  (1514 + 4) /* no open segmentation: an Ethernet frame with a VLAN tag */
#define SOCKET_BUFS (1 << 20)

#define PATIENCE_NS	  UINT64_C(200000000)
#define PATIENCE_FRAME_NS UINT64_C(1000000)

struct port {
	struct loop_fd fd; /* fd.fd < 0: free */
	struct net_switch *sw;
	_Bool waited; /* send had no room, and waits until ... */
	uint64_t until_ns;
	uint64_t patience_ns; /* while nothing waits: what is left of it */
};

struct mac_entry {
	uint8_t mac[NET_MAC_LEN];
	_Bool used;
	uint8_t port;
};

struct net_switch {
	struct net net;
	struct loop *loop;
	struct loop_fd listener;
	struct loop_fd timer;
	uint64_t timer_ns; /* when that goes off; UINT64_MAX: not at all */
	uint64_t patience_ns;
	struct loop_work send_work, kick_work;
	struct port ports[PORTS_MAX];
	struct mac_entry macs[MACS_MAX];
	unsigned mac_next;
	struct sockaddr_un own; /* sun_path[0]: to be unlinked */
	_Bool held;
	_Bool short_said; /* that there is no descriptor for who waits */
	size_t frame_len;
	uint8_t frame[SWITCH_MAX + 1];
	uint8_t out[NET_FRAME_MAX];
};

static struct net_switch *switch_of(struct net *net)
{
	return container_of(net, struct net_switch, net);
}

/* ---- addresses ---- */

static struct mac_entry *mac_find(struct net_switch *sw, const uint8_t *mac)
{
	for (unsigned i = 0; i < MACS_MAX; i++)
		if (sw->macs[i].used && !memcmp(sw->macs[i].mac, mac, NET_MAC_LEN))
			return &sw->macs[i];
	return NULL;
}

static void mac_learn(struct net_switch *sw, const uint8_t *mac, unsigned port)
{
	struct mac_entry *e = mac_find(sw, mac);

	if (mac[0] & 1) /* a group is nobody's source */
		return;
	if (!e) {
		e = &sw->macs[sw->mac_next++ % MACS_MAX];
		memcpy(e->mac, mac, NET_MAC_LEN);
		e->used = 1;
	}
	e->port = (uint8_t)port;
}

/* ---- ports ---- */

static void port_close(struct port *p)
{
	struct net_switch *sw = p->sw;
	unsigned index = (unsigned)(p - sw->ports);

	loop_fd_del(sw->loop, &p->fd);
	close(p->fd.fd);
	p->fd.fd = -1;
	if (p->waited) /* what goes to a port that is gone waits for nobody */
		loop_post(sw->loop, &sw->send_work);
	p->waited = 0;
	for (unsigned i = 0; i < MACS_MAX; i++)
		if (sw->macs[i].port == index)
			sw->macs[i].used = 0;
}

static void port_interest(struct port *p)
{
	uint32_t events;

	if (!p->fd.added)
		return;
	events = (p->sw->held ? 0 : EPOLLIN) | (p->waited ? EPOLLOUT : 0);
	if (loop_fd_mod(p->sw->loop, &p->fd, events))
		port_close(p);
}

static void all_interest(struct net_switch *sw)
{
	for (unsigned i = 0; i < PORTS_MAX; i++)
		port_interest(&sw->ports[i]);
}

/* Checksums were made by the sender's side and have crossed nothing but memory. */
static _Bool switch_offer(struct net_switch *sw)
{
	_Bool valid = atomic_load(&sw->net.offloads) & NET_CAN_CSUM;
	const struct net_offload off = {.flags = valid ? NET_DATA_VALID : 0};

	return net_deliver(&sw->net, sw->frame, sw->frame_len, &off);
}

static void port_receive(struct port *p)
{
	struct net_switch *sw = p->sw;

	for (unsigned i = 0; i < READ_BURST && !sw->held; i++) {
		ssize_t n = recv(p->fd.fd, sw->frame, sizeof(sw->frame), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 || (n < 0 && errno != EAGAIN)) {
			port_close(p);
			return;
		}
		if (n < 0)
			return;
		if (n < NET_FRAME_MIN || n > SWITCH_MAX)
			continue;
		mac_learn(sw, sw->frame + NET_MAC_LEN, (unsigned)(p - sw->ports));
		sw->frame_len = (size_t)n;
		sw->held = !switch_offer(sw);
	}
}

/* ---- patience ---- */

/* One that goes off too early does no harm: on_timer looks who waits. */
static void timer_set(struct net_switch *sw, uint64_t at_ns)
{
	struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_ns / 1000000000u),
					       .tv_nsec = (long)(at_ns % 1000000000u)}};

	if (at_ns >= sw->timer_ns)
		return;
	sw->timer_ns = at_ns;
	timerfd_settime(sw->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* There is no room. False: nor patience, the frame is lost. */
static _Bool wait_begin(struct port *p)
{
	if (p->waited)
		return 1;
	if (!p->patience_ns)
		return 0;
	p->waited = 1;
	p->until_ns = host_time_ns() + p->patience_ns;
	timer_set(p->sw, p->until_ns);
	loop_post(p->sw->loop, &p->sw->kick_work); /* sets what is waited for */
	return 1;
}

static void wait_end(struct port *p)
{
	uint64_t now = host_time_ns();

	p->waited = 0;
	p->patience_ns = p->until_ns > now ? p->until_ns - now : 0;
}

static void frame_taken(struct port *p)
{
	if (!p->waited)
		p->patience_ns = MIN(p->patience_ns + PATIENCE_FRAME_NS, p->sw->patience_ns);
}

void net_switch_set_patience(struct net *net, uint64_t ns)
{
	struct net_switch *sw = switch_of(net);

	sw->patience_ns = ns;
	for (unsigned i = 0; i < PORTS_MAX; i++)
		sw->ports[i].patience_ns = ns;
}

static void switch_can_send(struct net_switch *sw)
{
	if (sw->net.client.can_send)
		sw->net.client.can_send(sw->net.client.opaque);
}

static void on_port(struct loop_fd *lfd, uint32_t events)
{
	struct port *p = lfd->opaque;
	struct net_switch *sw = p->sw;

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		port_receive(p);
	if (p->waited && events & EPOLLOUT) {
		wait_end(p);
		switch_can_send(sw);
	}
	all_interest(sw);
}

static void on_timer(struct loop_fd *lfd, uint32_t events)
{
	struct net_switch *sw = lfd->opaque;
	uint64_t times, now = host_time_ns();
	_Bool over = 0;

	if (read(lfd->fd, &times, sizeof(times)) < 0)
		return;
	sw->timer_ns = UINT64_MAX;
	for (unsigned i = 0; i < PORTS_MAX; i++) {
		struct port *p = &sw->ports[i];

		if (!p->waited)
			continue;
		if (p->until_ns > now) {
			timer_set(sw, p->until_ns);
			continue;
		}
		wait_end(p);
		over = 1;
	}
	if (over)
		switch_can_send(sw);
	all_interest(sw);
}

static int port_add(struct net_switch *sw, int fd)
{
	int size = SOCKET_BUFS;

	for (unsigned i = 0; i < PORTS_MAX; i++) {
		struct port *p = &sw->ports[i];

		if (p->fd.fd >= 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		*p = (struct port){.sw = sw,
				   .fd = {.fd = fd, .fn = on_port, .opaque = p},
				   .patience_ns = sw->patience_ns};
		if (!loop_fd_add(sw->loop, &p->fd, sw->held ? 0 : EPOLLIN))
			return 0;
		p->fd.fd = -1;
		return -ENOMEM;
	}
	return -ENOSPC;
}

static void on_listener(struct loop_fd *lfd, uint32_t events)
{
	struct net_switch *sw = lfd->opaque;
	int fd = accept4(lfd->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0 && unix_accept_later(-errno)) {
		if (!sw->short_said)
			log_warn("no descriptor left for another VM on the switch, which waits");
		sw->short_said = 1;
		loop_fd_rest(sw->loop, lfd, UNIX_ACCEPT_REST_MS);
	}
	if (fd < 0)
		return;
	sw->short_said = 0;
	if (port_add(sw, fd))
		close(fd);
}

/* ---- frames out ---- */

/* False: no room. */
static _Bool port_send(struct port *p, const uint8_t *frame, size_t len)
{
	while (send(p->fd.fd, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		if (errno == EAGAIN)
			return 0;
		if (errno != EINTR) /* closed: its input says so too */
			return 1;
	}
	frame_taken(p);
	return 1;
}

static void send_to_all(struct net_switch *sw, const uint8_t *frame, size_t len)
{
	for (unsigned i = 0; i < PORTS_MAX; i++)
		if (sw->ports[i].fd.fd >= 0 && !port_send(&sw->ports[i], frame, len))
			atomic_fetch_add(&sw->net.dropped, 1);
}

static _Bool switch_send(struct net *net, const struct iovec *iov, unsigned count, size_t len,
			 const struct net_offload *off)
{
	struct net_switch *sw = switch_of(net);
	struct net_offload left = *off;
	const struct mac_entry *e;

	net_gather(sw->out, sizeof(sw->out), iov, count);
	if (!net_csum_finish(sw->out, len, &left) || len > SWITCH_MAX)
		return 1;
	e = sw->out[0] & 1 ? NULL : mac_find(sw, sw->out);
	if (!e) {
		send_to_all(sw, sw->out, len);
		return 1;
	}
	if (port_send(&sw->ports[e->port], sw->out, len))
		return 1;
	if (wait_begin(&sw->ports[e->port]))
		return 0;
	atomic_fetch_add(&sw->net.dropped, 1);
	return 1;
}

static void on_send(struct loop_work *work)
{
	switch_can_send(work->opaque);
}

static void on_kick(struct loop_work *work)
{
	struct net_switch *sw = work->opaque;

	if (sw->held && switch_offer(sw))
		sw->held = 0;
	all_interest(sw);
}

static void switch_want_send(struct net *net)
{
	loop_post(switch_of(net)->loop, &switch_of(net)->send_work);
}

static void switch_kick(struct net *net)
{
	loop_post(switch_of(net)->loop, &switch_of(net)->kick_work);
}

static void switch_free(struct net *net)
{
	struct net_switch *sw = switch_of(net);

	for (unsigned i = 0; i < PORTS_MAX; i++)
		if (sw->ports[i].fd.fd >= 0)
			port_close(&sw->ports[i]);
	loop_fd_del(sw->loop, &sw->listener);
	loop_fd_del(sw->loop, &sw->timer);
	loop_cancel(sw->loop, &sw->send_work);
	loop_cancel(sw->loop, &sw->kick_work);
	if (sw->listener.fd >= 0)
		close(sw->listener.fd);
	if (sw->timer.fd >= 0)
		close(sw->timer.fd);
	if (sw->own.sun_path[0])
		unlink(sw->own.sun_path);
	free(sw);
}

static const struct net_ops switch_ops = {
    .send = switch_send, .want_send = switch_want_send, .kick = switch_kick, .free = switch_free};

/* ---- joining ---- */

static int dir_make(const char *path, struct error *err)
{
	struct stat st;

	if (mkdir(path, 0700) && errno != EEXIST)
		return error_set(err, -errno, "cannot make the switch's directory %s: %s", path,
				 strerror(errno));
	if (lstat(path, &st) || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
	    st.st_mode & (S_IWGRP | S_IWOTH))
		return error_set(err, -EPERM,
				 "%s is not a directory of this user's alone; a switch is not "
				 "made there",
				 path);
	return 0;
}

static _Bool name_good(const char *name)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				   "._-";
	size_t len = strlen(name);

	return len && len <= 32 && name[0] != '.' && strspn(name, good) == len;
}

/* $XDG_RUNTIME_DIR/polyvisor/switch/NAME, or /tmp/polyvisor-UID/switch/NAME. */
static int dir_default(char *path, size_t size, const char *name, struct error *err)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	size_t n;
	int r;

	if (run && run[0] == '/')
		snprintf(path, size, "%s/polyvisor", run);
	else
		snprintf(path, size, "/tmp/polyvisor-%u", (unsigned)geteuid());
	r = dir_make(path, err);
	n = strlen(path);
	if (!r) {
		snprintf(path + n, size - n, "/switch");
		r = dir_make(path, err);
		n = strlen(path);
	}
	if (!r)
		snprintf(path + n, size - n, "/%s", name);
	return r;
}

/* Connects to another port's socket; one that nobody listens at is removed. */
static int join_one(struct net_switch *sw, const char *dir, const char *entry)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd, r;

	if (snprintf(to.sun_path, sizeof(to.sun_path), "%s/%s", dir, entry) >=
		(int)sizeof(to.sun_path) ||
	    !strcmp(to.sun_path, sw->own.sun_path))
		return 0;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		r = -errno;
		close(fd);
		if (r == -ECONNREFUSED)
			unlink(to.sun_path);
		return r == -ECONNREFUSED || r == -ENOENT ? 0 : r;
	}
	r = port_add(sw, fd);
	if (r)
		close(fd);
	return r;
}

static int join_all(struct net_switch *sw, const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *de;
	int r = d ? 0 : -errno;

	while (!r && (de = readdir(d))) {
		size_t len = strlen(de->d_name);

		if (len > 5 && !strcmp(de->d_name + len - 5, ".port"))
			r = join_one(sw, dir, de->d_name);
	}
	if (d)
		closedir(d);
	return r;
}

static int listen_here(struct net_switch *sw, const char *dir)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	for (unsigned i = 0; i < PORTS_MAX; i++) {
		if (snprintf(a.sun_path, sizeof(a.sun_path), "%s/%d-%u.port", dir, (int)getpid(),
			     i) >= (int)sizeof(a.sun_path))
			return -ENAMETOOLONG;
		if (!bind(sw->listener.fd, (struct sockaddr *)&a, sizeof(a))) {
			sw->own = a;
			return listen(sw->listener.fd, PORTS_MAX) ? -errno : 0;
		}
		if (errno != EADDRINUSE)
			return -errno;
	}
	return -EADDRINUSE;
}

/* Under the directory's lock: our own socket, then connections to all others. */
static int switch_join(struct net_switch *sw, const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	do
		r = flock(fd, LOCK_EX) ? -errno : 0;
	while (r == -EINTR);
	if (!r)
		r = listen_here(sw, dir);
	if (!r)
		r = join_all(sw, dir);
	close(fd);
	return r;
}

static struct net_switch *switch_alloc(struct loop *loop)
{
	struct net_switch *sw = calloc(1, sizeof(*sw));

	if (!sw)
		return NULL;
	/* Checksums are computed here: what crosses is whole. */
	net_init(&sw->net, &switch_ops, NET_CAN_CSUM, NET_CAN_CSUM, 0);
	sw->loop = loop;
	sw->patience_ns = PATIENCE_NS;
	sw->timer_ns = UINT64_MAX;
	for (unsigned i = 0; i < PORTS_MAX; i++)
		sw->ports[i].fd.fd = -1;
	sw->send_work = (struct loop_work){.fn = on_send, .opaque = sw};
	sw->kick_work = (struct loop_work){.fn = on_kick, .opaque = sw};
	sw->listener = (struct loop_fd){
	    .fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
	    .fn = on_listener,
	    .opaque = sw};
	sw->timer =
	    (struct loop_fd){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK),
			     .fn = on_timer,
			     .opaque = sw};
	return sw;
}

int net_switch_new(struct net **out, struct loop *loop, const char *name, const char *dir,
		   struct error *err)
{
	struct net_switch *sw;
	char path[256];
	int r;

	if (!name_good(name))
		return error_set(err, -EINVAL,
				 "switch name '%s': use 1 to 32 letters, digits, '.', '_' or '-'",
				 name);
	r = dir ? 0 : dir_default(path, sizeof(path), name, err);
	if (!r)
		r = dir_make(dir ? dir : path, err);
	if (r)
		return r;
	sw = switch_alloc(loop);
	if (!sw)
		return error_set(err, -ENOMEM, "out of memory for switch '%s'", name);
	r = sw->listener.fd < 0 || sw->timer.fd < 0 ? -errno : switch_join(sw, dir ? dir : path);
	if (!r)
		r = loop_fd_add(loop, &sw->listener, EPOLLIN);
	if (!r)
		r = loop_fd_add(loop, &sw->timer, EPOLLIN);
	if (r) {
		switch_free(&sw->net);
		if (r == -ENOSPC || r == -EAGAIN)
			return error_set(err, r, "switch '%s' is full: it has %d ports", name,
					 PORTS_MAX + 1);
		return error_set(err, r, "cannot join switch '%s' in %s: %s", name,
				 dir ? dir : path, strerror(-r));
	}
	*out = &sw->net;
	return 0;
}
