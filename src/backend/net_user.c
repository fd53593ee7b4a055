/* net_user.c: user-mode networking: libslirp between the guest's frames and the host's sockets. */
#include "backend/net.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "backend/net_impl.h"
#include "base/host_time.h"
#include "base/log.h"

/*
 * libslirp is made for a loop that asks it, before every poll(2), which descriptors it waits for
 * and for how long. Here its descriptors live in an epoll set of their own, which the event loop
 * watches as one descriptor. Whenever something has happened (a socket is ready, time is up, the
 * guest has sent) one cycle runs: what is ready goes to libslirp, then it is asked again, and the
 * set and the timer are brought in line with its answer. Everything is on the loop's thread.
 */
#define FDS_MAX 8192 /* descriptors with larger numbers are not waited for */
#define READY_MAX                                                                                  \
	64 /* descriptors looked at in a cycle; the others are still ready in the next             \
	    */

struct watch {
	uint32_t wanted; /* by libslirp's last answer: epoll events */
	uint32_t set;	 /* what the epoll set has; 0: not in it */
	uint32_t ready;	 /* in this cycle: SLIRP_POLL_... */
	uint32_t fill;	 /* the cycle of `wanted` */
	_Bool listed;	 /* in in_set; stays when the number is closed, until the next pruning */
};

struct slirp_timer {
	SlirpTimerId id;
	void *cb_opaque;
	int64_t due_ms;
	_Bool used, armed;
};

struct net_user {
	struct net net;
	struct loop *loop;
	Slirp *slirp;
	uint64_t (*now_ns)(void *opaque);
	void *now_opaque;
	struct loop_fd sockets, timer;
	struct loop_work send_work, cycle_work;
	struct netq queue;
	struct slirp_timer timers[SLIRP_TIMER_NUM];
	struct watch *watch; /* by descriptor */
	int *in_set;	     /* descriptors that the epoll set has */
	unsigned in_set_count;
	uint32_t fill;
	uint8_t frame[NET_FRAME_MAX];
};

static struct net_user *user_of(struct net *net)
{
	return container_of(net, struct net_user, net);
}

/* ---- what libslirp calls ---- */

static int64_t cb_now_ns(void *opaque)
{
	const struct net_user *u = opaque;

	return (int64_t)(u->now_ns ? u->now_ns(u->now_opaque) : host_time_ns());
}

/* A frame for the guest. Without room it is lost; TCP sends it again. */
static ssize_t cb_send_packet(const void *buf, size_t len, void *opaque)
{
	struct net_user *u = opaque;
	_Bool valid = atomic_load(&u->net.offloads) & NET_CAN_CSUM;
	const struct net_offload off = {.flags = valid ? NET_DATA_VALID : 0};

	if (!netq_put(&u->queue, buf, len, &off))
		atomic_fetch_add(&u->net.dropped, 1);
	return (ssize_t)len;
}

static void cb_guest_error(const char *msg, void *opaque)
{
	log_guest("user network: %s", msg);
}

static void *cb_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	struct net_user *u = opaque;

	for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++) {
		struct slirp_timer *t = &u->timers[i];

		if (!t->used) {
			*t = (struct slirp_timer){.id = id, .cb_opaque = cb_opaque, .used = 1};
			return t;
		}
	}
	return NULL;
}

static void cb_timer_free(void *timer, void *opaque)
{
	struct slirp_timer *t = timer;

	if (t)
		t->used = t->armed = 0;
}

static void cb_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct slirp_timer *t = timer;
	struct net_user *u = opaque;

	if (!t)
		return;
	t->due_ms = expire_ms;
	t->armed = 1;
	loop_post(u->loop, &u->cycle_work);
}

static void cb_register(int fd, void *opaque)
{
}

static void watch_forget(struct net_user *u, int fd)
{
	if (fd < 0 || fd >= FDS_MAX || !u->watch[fd].set)
		return;
	epoll_ctl(u->sockets.fd, EPOLL_CTL_DEL, fd, NULL);
	u->watch[fd].set = u->watch[fd].ready = 0;
}

/* Before libslirp closes a descriptor, whose number may come back as another one's. */
static void cb_unregister(int fd, void *opaque)
{
	watch_forget(opaque, fd);
}

static void cb_notify(void *opaque)
{
	struct net_user *u = opaque;

	loop_post(u->loop, &u->cycle_work);
}

static const SlirpCb callbacks = {
    .send_packet = cb_send_packet,
    .guest_error = cb_guest_error,
    .clock_get_ns = cb_now_ns,
    .timer_new_opaque = cb_timer_new,
    .timer_free = cb_timer_free,
    .timer_mod = cb_timer_mod,
    .register_poll_fd = cb_register,
    .unregister_poll_fd = cb_unregister,
    .notify = cb_notify,
};

/* ---- the cycle ---- */

static const struct {
	int slirp;
	uint32_t epoll;
} event_pairs[] = {
    {SLIRP_POLL_IN, EPOLLIN},	{SLIRP_POLL_OUT, EPOLLOUT}, {SLIRP_POLL_PRI, EPOLLPRI},
    {SLIRP_POLL_ERR, EPOLLERR}, {SLIRP_POLL_HUP, EPOLLHUP},
};

static uint32_t to_epoll(int events)
{
	uint32_t out = 0;

	for (size_t i = 0; i < ARRAY_SIZE(event_pairs); i++)
		out |= events & event_pairs[i].slirp ? event_pairs[i].epoll : 0;
	return out;
}

static uint32_t to_slirp(uint32_t events)
{
	uint32_t out = 0;

	for (size_t i = 0; i < ARRAY_SIZE(event_pairs); i++)
		out |= events & event_pairs[i].epoll ? (uint32_t)event_pairs[i].slirp : 0;
	return out;
}

static int cb_get_revents(int fd, void *opaque)
{
	const struct net_user *u = opaque;

	return fd < 0 ? 0 : (int)u->watch[fd].ready;
}

/* The index that libslirp asks with later is the descriptor itself. */
static int cb_add_poll(int fd, int events, void *opaque)
{
	struct net_user *u = opaque;
	struct watch *w;

	if (fd < 0 || fd >= FDS_MAX)
		return -1;
	w = &u->watch[fd];
	w->wanted = to_epoll(events);
	w->fill = u->fill;
	if (w->set == w->wanted)
		return fd;
	struct epoll_event ev = {.events = w->wanted, .data.fd = fd};
	if (w->set) {
		if (epoll_ctl(u->sockets.fd, EPOLL_CTL_MOD, fd, &ev))
			return -1;
	} else {
		if (epoll_ctl(u->sockets.fd, EPOLL_CTL_ADD, fd, &ev))
			return -1;
		if (!w->listed)
			u->in_set[u->in_set_count++] = fd;
		w->listed = 1;
	}
	w->set = w->wanted;
	return fd;
}

/* Takes out of the set what the last answer did not name: a hang-up would be reported for ever. */
static void set_prune(struct net_user *u)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < u->in_set_count; i++) {
		int fd = u->in_set[i];
		_Bool wanted = u->watch[fd].set && u->watch[fd].fill == u->fill;

		if (wanted) {
			u->in_set[kept++] = fd;
		} else {
			watch_forget(u, fd);
			u->watch[fd].listed = 0;
		}
	}
	u->in_set_count = kept;
}

static void timer_set(struct net_user *u, uint32_t ms)
{
	struct itimerspec when = {0};
	int64_t now = cb_now_ns(u) / 1000000;

	for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++) {
		const struct slirp_timer *t = &u->timers[i];

		if (t->used && t->armed)
			ms = (uint32_t)MIN((int64_t)ms, MAX(t->due_ms - now, 1));
	}
	if (ms != UINT32_MAX) {
		ms = MAX(ms, 1); /* zero would disarm it */
		when.it_value.tv_sec = ms / 1000;
		when.it_value.tv_nsec = (long)(ms % 1000) * 1000000;
	}
	timerfd_settime(u->timer.fd, 0, &when, NULL);
}

static void timers_run(struct net_user *u)
{
	for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++) {
		struct slirp_timer *t = &u->timers[i];

		if (t->used && t->armed && t->due_ms <= cb_now_ns(u) / 1000000) {
			t->armed = 0;
			slirp_handle_timer(u->slirp, t->id, t->cb_opaque);
		}
	}
}

static void user_cycle(struct net_user *u)
{
	struct epoll_event ready[READY_MAX];
	int n = epoll_wait(u->sockets.fd, ready, READY_MAX, 0);
	uint32_t timeout = UINT32_MAX;

	for (int i = 0; i < n; i++)
		u->watch[ready[i].data.fd].ready = to_slirp(ready[i].events);
	slirp_pollfds_poll(u->slirp, n < 0, cb_get_revents, u);
	for (int i = 0; i < n; i++)
		u->watch[ready[i].data.fd].ready = 0;
	timers_run(u);
	u->fill++;
	slirp_pollfds_fill(u->slirp, &timeout, cb_add_poll, u);
	set_prune(u);
	timer_set(u, timeout);
	netq_deliver(&u->queue, &u->net);
}

static void on_sockets(struct loop_fd *lfd, uint32_t events)
{
	user_cycle(lfd->opaque);
}

static void on_timer(struct loop_fd *lfd, uint32_t events)
{
	uint64_t count;

	if (read(lfd->fd, &count, sizeof(count)) == sizeof(count))
		user_cycle(lfd->opaque);
}

static void on_cycle(struct loop_work *work)
{
	user_cycle(work->opaque);
}

static void on_send(struct loop_work *work)
{
	struct net_user *u = work->opaque;

	if (u->net.client.can_send)
		u->net.client.can_send(u->net.client.opaque);
}

/* ---- the back end ---- */

static _Bool user_send(struct net *net, const struct iovec *iov, unsigned count, size_t len,
		       const struct net_offload *off)
{
	struct net_user *u = user_of(net);
	struct net_offload left = *off;

	net_gather(u->frame, sizeof(u->frame), iov, count);
	/* libslirp takes a TCP segment of any length: segmentation is just not done. */
	if (net_csum_finish(u->frame, len, &left))
		slirp_input(u->slirp, u->frame, (int)len);
	loop_post(u->loop, &u->cycle_work);
	return 1;
}

static void user_want_send(struct net *net)
{
	loop_post(user_of(net)->loop, &user_of(net)->send_work);
}

static void user_kick(struct net *net)
{
	loop_post(user_of(net)->loop, &user_of(net)->cycle_work);
}

static void user_free(struct net *net)
{
	struct net_user *u = user_of(net);

	loop_fd_del(u->loop, &u->sockets);
	loop_fd_del(u->loop, &u->timer);
	if (u->slirp)
		slirp_cleanup(u->slirp);
	loop_cancel(u->loop, &u->send_work);
	loop_cancel(u->loop, &u->cycle_work);
	if (u->sockets.fd >= 0)
		close(u->sockets.fd);
	if (u->timer.fd >= 0)
		close(u->timer.fd);
	netq_fini(&u->queue);
	free(u->watch);
	free(u->in_set);
	free(u);
}

static const struct net_ops user_ops = {
    .send = user_send, .want_send = user_want_send, .kick = user_kick, .free = user_free};

static void config_fill(SlirpConfig *to, const struct net_user_config *cfg, unsigned mtu)
{
	memset(to, 0, sizeof(*to));
	to->version = 4;
	to->restricted = cfg->restricted;
	to->in_enabled = 1;
	inet_pton(AF_INET, "10.0.2.0", &to->vnetwork);
	inet_pton(AF_INET, "255.255.255.0", &to->vnetmask);
	inet_pton(AF_INET, "10.0.2.2", &to->vhost);
	inet_pton(AF_INET, "10.0.2.15", &to->vdhcp_start);
	inet_pton(AF_INET, "10.0.2.3", &to->vnameserver);
	to->in6_enabled = 1;
	inet_pton(AF_INET6, "fec0::", &to->vprefix_addr6);
	to->vprefix_len = 64;
	inet_pton(AF_INET6, "fec0::2", &to->vhost6);
	inet_pton(AF_INET6, "fec0::3", &to->vnameserver6);
	to->vhostname = cfg->hostname;
	to->if_mtu = mtu;
	to->if_mru = mtu;
}

static int user_watch(struct net_user *u, struct error *err)
{
	u->sockets =
	    (struct loop_fd){.fd = epoll_create1(EPOLL_CLOEXEC), .fn = on_sockets, .opaque = u};
	u->timer =
	    (struct loop_fd){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC),
			     .fn = on_timer,
			     .opaque = u};
	if (u->sockets.fd < 0 || u->timer.fd < 0)
		return error_set(err, -errno, "cannot set up the user network: %s",
				 strerror(errno));
	if (loop_fd_add(u->loop, &u->sockets, EPOLLIN) || loop_fd_add(u->loop, &u->timer, EPOLLIN))
		return error_set(err, -ENOMEM, "out of memory for the user network");
	return 0;
}

int net_user_new(struct net **out, struct loop *loop, const struct net_user_config *cfg,
		 struct error *err)
{
	struct net_user *u = calloc(1, sizeof(*u));
	unsigned mtu = cfg->mtu ? cfg->mtu : NET_USER_MTU_DEFAULT;
	SlirpConfig config;
	int r = 0;

	if (!u)
		return error_set(err, -ENOMEM, "out of memory for the user network");
	net_init(&u->net, &user_ops, NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_ECN, NET_CAN_CSUM, mtu);
	u->loop = loop;
	u->now_ns = cfg->now_ns;
	u->now_opaque = cfg->opaque;
	u->sockets.fd = u->timer.fd = -1;
	u->send_work = (struct loop_work){.fn = on_send, .opaque = u};
	u->cycle_work = (struct loop_work){.fn = on_cycle, .opaque = u};
	u->watch = calloc(FDS_MAX, sizeof(*u->watch));
	u->in_set = calloc(FDS_MAX, sizeof(*u->in_set));
	if (!u->watch || !u->in_set || netq_init(&u->queue))
		r = error_set(err, -ENOMEM, "out of memory for the user network");
	if (!r)
		r = user_watch(u, err);
	if (!r) {
		config_fill(&config, cfg, mtu);
		u->slirp = slirp_new(&config, &callbacks, u);
		if (!u->slirp)
			r = error_set(err, -ENOMEM, "libslirp refuses to start a user network");
	}
	if (r) {
		user_free(&u->net);
		return r;
	}
	loop_post(loop, &u->cycle_work);
	*out = &u->net;
	return 0;
}

int net_user_publish(struct net *net, const struct net_publish *p, struct error *err)
{
	struct net_user *u = user_of(net);
	struct in_addr host = {htonl(p->addr)}, guest = {0};
	char addr[INET_ADDRSTRLEN];
	int e;

	assert(net->ops == &user_ops);
	if (!slirp_add_hostfwd(u->slirp, p->udp, host, p->host_port, guest, p->guest_port)) {
		loop_post(u->loop, &u->cycle_work);
		return 0;
	}
	e = errno ? errno : EIO;
	inet_ntop(AF_INET, &host, addr, sizeof(addr));
	if (e == EADDRINUSE)
		return error_set(err, -e,
				 "cannot publish %s port %s:%u: another program listens there "
				 "already; choose another HOST port",
				 p->udp ? "UDP" : "TCP", addr, p->host_port);
	if (e == EACCES)
		return error_set(
		    err, -e,
		    "cannot publish %s port %s:%u: ports below 1024 need more rights; choose "
		    "another HOST port",
		    p->udp ? "UDP" : "TCP", addr, p->host_port);
	if (e == EADDRNOTAVAIL)
		return error_set(err, -e,
				 "cannot publish %s port %s:%u: this host has no such address",
				 p->udp ? "UDP" : "TCP", addr, p->host_port);
	return error_set(err, -e, "cannot publish %s port %s:%u: %s", p->udp ? "UDP" : "TCP", addr,
			 p->host_port, strerror(e));
}
