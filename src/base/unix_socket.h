/* unix_socket.h: Unix sockets at a path: listening, connecting, and taking away what is stale. */
#ifndef BASE_UNIX_SOCKET_H
#define BASE_UNIX_SOCKET_H

#include <errno.h>

#include "base/error.h"

#define UNIX_PATH_MAX_LEN 107 /* what fits sun_path with its terminator */

/* A listening stream socket and which file it is, so that nobody else's is removed. */
struct unix_listener {
	int fd; /* -1: none */
	uint64_t dev, ino;
	char path[UNIX_PATH_MAX_LEN + 1];
};

/*
 * Listens at `path`, not blocking, mode 0600 from the first moment. A socket nobody listens at any
 * more is replaced; -EADDRINUSE with a sentence where somebody does, or where the path is something
 * else than a socket.
 */
NODISCARD int unix_listen(struct unix_listener *l, const char *path, struct error *err);
/* Closes, and removes the file if it is still this listener's. */
void unix_listener_close(struct unix_listener *l);
/* The next connection, not blocking, or -errno (-EAGAIN: none; -EPERM: another user's, closed). */
NODISCARD int unix_accept(const struct unix_listener *l);
/* What accept failed with (a negative errno) is the host's want of descriptors or memory: whoever
 * connects still waits, and looking again at once would only spin (loop_fd_rest). */
static inline _Bool unix_accept_later(int rc)
{
	return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -ENOBUFS;
}
#define UNIX_ACCEPT_REST_MS 100 /* how long to look away then */

/* A connected, blocking socket, or -errno with a sentence: -ENOENT there is none, -ECONNREFUSED
 * nobody listens any more, -ETIMEDOUT the listener had not taken those before within `patience_ms`
 * (0: as long as it takes). */
NODISCARD int unix_connect(const char *path, unsigned patience_ms, struct error *err);

#endif
