/* net_mem.c: a network back end in memory, for the tests of devices. */
#include "backend/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/net_impl.h"

struct net_mem {
	struct net net;
	struct netq sent, fed;
	unsigned room;
	_Bool wanted, kicked;
};

static struct net_mem *mem_of(struct net *net)
{
	return container_of(net, struct net_mem, net);
}

static _Bool mem_send(struct net *net, const struct iovec *iov, unsigned count, size_t len,
		      const struct net_offload *off)
{
	struct net_mem *n = mem_of(net);
	uint8_t frame[NET_FRAME_MAX];

	if (!n->room)
		return 0;
	if (n->room != UINT32_MAX)
		n->room--;
	return netq_put(&n->sent, frame, net_gather(frame, sizeof(frame), iov, count), off);
}

static void mem_want_send(struct net *net)
{
	mem_of(net)->wanted = 1;
}

static void mem_kick(struct net *net)
{
	mem_of(net)->kicked = 1;
}

static void mem_free(struct net *net)
{
	struct net_mem *n = mem_of(net);

	netq_fini(&n->sent);
	netq_fini(&n->fed);
	free(n);
}

static const struct net_ops mem_ops = {
    .send = mem_send, .want_send = mem_want_send, .kick = mem_kick, .free = mem_free};

int net_mem_new(struct net **out, unsigned caps)
{
	struct net_mem *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	net_init(&n->net, &mem_ops, caps, caps, 0);
	n->room = UINT32_MAX;
	if (netq_init(&n->sent) || netq_init(&n->fed)) {
		mem_free(&n->net);
		return -ENOMEM;
	}
	*out = &n->net;
	return 0;
}

void net_mem_run(struct net *net)
{
	struct net_mem *n = mem_of(net);

	while (n->wanted) {
		n->wanted = 0;
		if (net->client.can_send)
			net->client.can_send(net->client.opaque);
	}
	n->kicked = 0;
	do {
		n->kicked = 0;
		netq_deliver(&n->fed, net);
	} while (n->kicked);
}

struct mem_taken {
	uint8_t *frame;
	size_t size, len;
	struct net_offload *off;
};

static _Bool mem_taker(void *opaque, const uint8_t *frame, size_t len,
		       const struct net_offload *off)
{
	struct mem_taken *t = opaque;

	if (t->len)
		return 0;
	memcpy(t->frame, frame, MIN(len, t->size));
	if (t->off)
		*t->off = *off;
	t->len = len;
	return 1;
}

size_t net_mem_take(struct net *net, uint8_t *frame, size_t size, struct net_offload *off)
{
	struct mem_taken t = {.frame = frame, .size = size, .off = off};
	struct net taker = {.client = {.receive = mem_taker, .opaque = &t}};

	netq_deliver(&mem_of(net)->sent, &taker);
	return t.len;
}

void net_mem_feed(struct net *net, const uint8_t *frame, size_t len, const struct net_offload *off)
{
	static const struct net_offload none;

	if (!netq_put(&mem_of(net)->fed, frame, len, off ? off : &none))
		abort(); /* a test's mistake */
}

void net_mem_set_room(struct net *net, unsigned frames)
{
	mem_of(net)->room = frames;
	mem_of(net)->wanted = 1;
}

void net_mem_set_link(struct net *net, _Bool up)
{
	net_link_set(net, up);
}

unsigned net_mem_offloads(const struct net *net)
{
	return atomic_load(&net->offloads);
}
