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

/* A file descriptor pair (in may be -1), not owned. Used for the terminal, pipes and sockets. */
NODISCARD int chardev_fd_new(struct chardev **ch, struct loop *loop, int in_fd, int out_fd,
			     struct error *err);

/*
 * The person's terminal: chardev_fd plus raw mode and the Ctrl-A menu (x quit, h help, a literal
 * Ctrl-A, s statistics line, b break, r reset, p pause). `command` is called on the loop's thread
 * for keys other than a and h.
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
