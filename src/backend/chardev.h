/* chardev.h: the host's side of a serial line: bytes out, bytes in with back-pressure. */
#ifndef BACKEND_CHARDEV_H
#define BACKEND_CHARDEV_H

#include "base/loop.h"

/*
 * A character back end. The device side:
 *   chardev_write   never blocks: takes what fits in a bounded buffer and returns how much; the
 * rest is the device's to keep or (a flooded line) drop. When space is free again after a short
 * write, can_write is called. chardev_poll_in tells the back end whether the device wants input
 * now; then receive is called with at most as many bytes as room() says. All callbacks run on the
 * event-loop thread with no lock of the back end held.
 */
struct chardev_client {
	size_t (*room)(void *opaque);
	void (*receive)(void *opaque, const uint8_t *data, size_t len);
	void (*can_write)(void *opaque);
	void *opaque;
	/* Where the other side comes and goes (chardev_unix): there is somebody, or nobody any
	 * more. May be NULL. */
	void (*connected)(void *opaque, _Bool on);
};

struct chardev;

size_t chardev_write(struct chardev *ch, const uint8_t *data, size_t len);
void chardev_kick_input(struct chardev *ch);
void chardev_attach(struct chardev *ch, const struct chardev_client *client);
void chardev_flush(struct chardev *ch, unsigned timeout_ms); /* best effort at shutdown */
void chardev_free(struct chardev *ch);

/* Null: swallows and never sends. Memory: keeps the last `limit` bytes written (tests), input
 * through chardev_mem_feed. */
NODISCARD int chardev_null_new(struct chardev **ch);
NODISCARD int chardev_mem_new(struct chardev **ch, size_t limit);
size_t chardev_mem_read(struct chardev *ch, char *buf, size_t len); /* takes output away */
size_t chardev_mem_feed(struct chardev *ch, const uint8_t *data, size_t len);

/*
 * A file descriptor pair (either may be -1), not owned, and left in the mode it is in. Used for the
 * terminal, pipes, files and sockets. The end of the input means no more input; after a broken pipe
 * output vanishes. Takes SIGPIPE off its default action.
 */
NODISCARD int chardev_fd_new(struct chardev **ch, struct loop *loop, int in_fd, int out_fd,
			     struct error *err);

/*
 * A listening Unix socket (base/unix_socket.h) with one client at a time; others wait until it has
 * gone. What is written while nobody is there vanishes. A client that closes has what it sent
 * delivered first; one that only shuts down its sending goes on receiving.
 */
NODISCARD int chardev_unix_new(struct chardev **ch, struct loop *loop, const char *path,
			       struct error *err);

/*
 * The person's terminal: chardev_fd plus raw mode and the Ctrl-A menu (x quit, h help, a literal
 * Ctrl-A, s statistics line, b break, r reset, p pause). `command` is called on the loop's thread
 * for keys other than a and h; unknown ones are its to ignore. `resized` is called there too, first
 * when the loop starts. When in_fd is no terminal it is a plain chardev_fd. One at a time.
 *
 * Make it before the engine: whoever installs handlers for SIGSEGV and its like afterwards passes
 * on what is not for them to the handler that was there (it restores the terminal and dies).
 */
struct term_config {
	int in_fd, out_fd;
	void (*command)(void *opaque, char key);
	void (*resized)(void *opaque, unsigned cols, unsigned rows);
	void *opaque;
};
NODISCARD int chardev_term_new(struct chardev **ch, struct loop *loop,
			       const struct term_config *cfg, struct error *err);
/* Puts the terminal back as it was; async-signal-safe; also runs at exit and on fatal signals. */
void chardev_term_restore(void);

#endif
