/* vsock.h: the host's side of a virtio socket device: its streams are Unix sockets. */
#ifndef BACKEND_VSOCK_H
#define BACKEND_VSOCK_H

#include "base/loop.h"

#define VSOCK_HOST_CID	2
#define VSOCK_CONNS_MAX 256
#define VSOCK_PATIENCE	10	    /* seconds that either side has to answer a connection */
#define VSOCK_BUF	(64u << 10) /* bytes of a stream that wait for the host's side */

/* Operations (VIRTIO12 5.10.6). */
enum vsock_op {
	VSOCK_REQUEST = 1,
	VSOCK_RESPONSE = 2,
	VSOCK_RST = 3,
	VSOCK_SHUTDOWN = 4,
	VSOCK_RW = 5,
	VSOCK_CREDIT_UPDATE = 6,
	VSOCK_CREDIT_REQUEST = 7,
};
#define VSOCK_STREAM	 1
#define VSOCK_NO_RECEIVE 1 /* flags of a shutdown: whoever sends it will not receive any more */
#define VSOCK_NO_SEND	 2

/* A packet without its CIDs: the guest is one end, this host the other. */
struct vsock_packet {
	uint32_t src_port, dst_port, len, flags, buf_alloc, fwd_cnt;
	uint16_t type, op;
};

struct vsock;

/* `run` on the loop's thread with no lock held: there may be packets to fetch, and room for ones to
 * take. */
struct vsock_client {
	void (*run)(void *opaque);
	void *opaque;
};

/*
 * The host connects to the Unix socket `path`, writes "CONNECT PORT\n", and reads "OK HOSTPORT\n"
 * when somebody in the guest listens at PORT; what follows is the stream. The guest's connection to
 * port P of the host leads to whoever listens at `path`_P. -EADDRINUSE and others with a sentence.
 */
NODISCARD int vsock_new(struct vsock **v, struct loop *loop, const char *path, struct error *err);
void vsock_free(struct vsock *v); /* NULL is fine; the loop is not running */
void vsock_attach(struct vsock *v, const struct vsock_client *client); /* NULL: nobody */

/* What a timer does every second as long as a connection waits for its port to be named or for the
 * guest's answer: ends those that have waited for VSOCK_PATIENCE. The loop's thread. */
void vsock_second(struct vsock *v);

/* Asks for `run`. Any thread, any lock below RANK_LOOP. */
void vsock_kick(struct vsock *v);
/* Every connection ends; as vsock_kick. */
void vsock_reset(struct vsock *v);

/* In `run`, one caller at a time. A packet from the guest with its bytes: false when it has to wait
 * because answers wait to be fetched. */
NODISCARD _Bool vsock_take(struct vsock *v, const struct vsock_packet *p, const uint8_t *data);
/* The next packet for the guest, with up to `room` bytes: false when there is none. */
NODISCARD _Bool vsock_fetch(struct vsock *v, struct vsock_packet *p, uint8_t *data, uint32_t room);
/* At the end of `run`: what is waited for from now on. `ready`: the guest has a driver; before that
 * the host's side is turned away. */
void vsock_rest(struct vsock *v, _Bool ready);

unsigned vsock_connections(const struct vsock *v);

#endif
