/* chardev_impl.h: what the character back ends have in common; for the files of this directory. */
#ifndef BACKEND_CHARDEV_IMPL_H
#define BACKEND_CHARDEV_IMPL_H

#include "backend/chardev.h"

struct chardev_ops {
	size_t (*write)(struct chardev *ch, const uint8_t *data, size_t len);
	void (*kick_input)(struct chardev *ch);			/* may be NULL */
	void (*flush)(struct chardev *ch, unsigned timeout_ms); /* may be NULL */
	void (*free)(struct chardev *ch);
};

/* The head of every back end's private struct. */
struct chardev {
	const struct chardev_ops *ops;
	struct chardev_client client;
};

/*
 * For the terminal: everything read from the descriptor passes through `filter`, which leaves in
 * `data` what the guest is to see and returns how much that is. With a filter the descriptor is
 * read even while the guest takes nothing, so that the menu's keys work with a guest that hangs;
 * what then does not fit the buffer is lost. Runs on the loop's thread.
 */
void chardev_fd_set_filter(struct chardev *ch,
			   size_t (*filter)(void *opaque, uint8_t *data, size_t len), void *opaque);
/* Called by chardev_free after the descriptors were let go. */
void chardev_fd_set_cleanup(struct chardev *ch, void (*cleanup)(void *opaque), void *opaque);

#endif
