/* vsock_impl.h: the virtio socket back end's own structs, shared by its files. */
#ifndef BACKEND_VSOCK_IMPL_H
#define BACKEND_VSOCK_IMPL_H

#include <stdatomic.h>

#include "backend/vsock.h"
#include "base/unix_socket.h"

#define VSOCK_REPLIES 64 /* resets of what is no connection, waiting */

enum conn_state {
	CONN_FREE,
	CONN_HELLO,	/* the host's side has yet to say which port it wants */
	CONN_REQUESTED, /* the guest has yet to answer */
	CONN_UP,
	CONN_DEAD, /* a reset is to be fetched, then it is free */
};

/* What is to be fetched for a connection beside its bytes. */
enum {
	OWE_REQUEST = 1,
	OWE_RESPONSE = 2,
	OWE_CREDIT = 4,
	OWE_SHUTDOWN = 16,
};

struct conn {
	struct vsock *v;
	struct loop_fd fd; /* .fd < 0: closed */
	enum conn_state state;
	unsigned owes;
	unsigned waited; /* seconds, until it is up */
	uint32_t guest_port, host_port;
	char line[32]; /* CONN_HELLO: what it has said */
	unsigned line_len;
	/* What the guest may be sent: buf_alloc - (sent - fwd_cnt). */
	uint32_t guest_alloc, guest_fwd, sent;
	_Bool asked; /* for credit, and not answered yet */
	/* What came from the guest and has not gone on: `used` bytes from `start` in buf. */
	uint32_t start, used, fwd, fwd_told;
	uint8_t *buf;
	_Bool readable, eof;	       /* the host's side: bytes may be there; no more will come */
	_Bool blocked;		       /* ... takes no more now */
	unsigned guest_down, our_down; /* shutdown flags, said by the guest and by us */
};

struct vsock {
	struct loop *loop;
	struct loop_work work;
	struct vsock_client client;
	struct unix_listener listener;
	struct loop_fd listen_fd;
	struct loop_fd timer; /* runs while something waits, a second at a time */
	_Bool timing;
	_Bool ready; /* the guest has a driver */
	atomic_bool reset_wanted;
	uint32_t next_port; /* for connections from the host */
	unsigned turn;	    /* which connection is served first */
	struct vsock_packet reply[VSOCK_REPLIES];
	unsigned reply_start, reply_count;
	uint8_t *bufs; /* VSOCK_BUF for each */
	struct conn conn[VSOCK_CONNS_MAX];
};

/* vsock.c: something waits from now on. */
void vsock_timing(struct vsock *v);

/* vsock_conn.c */
struct conn *conn_new(struct vsock *v, int fd, enum conn_state state); /* takes fd; NULL: full */
void conn_free(struct conn *c);
void conn_kill(struct conn *c); /* the guest is told by a reset */
struct conn *conn_find(struct vsock *v, uint32_t guest_port, uint32_t host_port);
void conn_interest(struct conn *c);
void conn_hello(struct conn *c);
/* A packet of the guest's for it. */
void conn_take(struct conn *c, const struct vsock_packet *p, const uint8_t *data);
_Bool conn_fetch(struct conn *c, struct vsock_packet *p, uint8_t *data, uint32_t room);

#endif
