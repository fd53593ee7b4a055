/* gdb_server.h: where a debugger connects: one at a time, over a Unix socket or a local port. */
#ifndef VMM_GDB_SERVER_H
#define VMM_GDB_SERVER_H

#include "base/loop.h"
#include "vmm/gdb_session.h"

struct gdb_server;
struct gdb_server_config {
	struct loop *loop;
	const char *where; /* unix:PATH, tcp:PORT or :PORT (this host's loopback only) */
	struct gdb_target target;
	void (*attached)(void *opaque); /* stops the target; returns when it stands */
	void (*lost)(void *opaque);	/* the connection broke without a good-bye */
	void *opaque;
};

/* All on the loop's thread. -EINVAL for a `where` that is none, else what listening failed with. */
NODISCARD int gdb_server_new(struct gdb_server **server, const struct gdb_server_config *cfg,
			     struct error *err);
void gdb_server_free(struct gdb_server *server);

/* Is `where` of one of the forms above? For the command line. */
NODISCARD int gdb_server_check(const char *where, struct error *err);

/* The debugger's conversation, or NULL when there is none. */
struct gdb_session *gdb_server_session(struct gdb_server *server);
/* After the session was told something: sends it. */
void gdb_server_flush(struct gdb_server *server);

#endif
