/* p9.h: the host's side of a shared directory: a 9P2000.L server that cannot leave the directory.
 */
#ifndef BACKEND_P9_H
#define BACKEND_P9_H

#include "base/error.h"

#define P9_MSG_MAX   (512u << 10) /* bytes of a message, both ways */
#define P9_REPLY_MIN 11		  /* room for an error */
#define P9_FIDS_MAX  8192	  /* files and directories that the guest holds */
#define P9_SAVE_MAX  (64u << 10)

/*
 * Who sends requests. Both run on the server's own thread, with no lock held.
 * fetch: the next request, at most P9_MSG_MAX bytes, into `msg`: its length, and in *room how many
 *   bytes its answer may have; 0: there is none (p9_kick when that changes).
 * answer: to the request that was fetched last.
 */
struct p9_client {
	size_t (*fetch)(void *opaque, uint8_t *msg, size_t *room);
	void (*answer)(void *opaque, const uint8_t *msg, size_t len);
	void *opaque;
};

struct p9;

struct p9_config {
	const char *path;
	_Bool read_only;
};

/* Opens the directory: -ENOENT, -ENOTDIR, -EACCES and others with a sentence. */
NODISCARD int p9_open(struct p9 **p9, const struct p9_config *cfg, struct error *err);
void p9_free(struct p9 *p9); /* detached; NULL is fine */

/* Starts and stops the thread. Set-up and end only. */
NODISCARD int p9_attach(struct p9 *p9, const struct p9_client *client, struct error *err);
void p9_detach(struct p9 *p9);
/* There may be requests. Any thread, any lock below RANK_BACKEND. */
void p9_kick(struct p9 *p9);
/* Everything that the guest holds is let go, soon, and before the next request. As p9_kick. */
void p9_reset(struct p9 *p9);
/* Waits until all requests that could be fetched are answered, and a reset is done. With no lock
 * held that the client takes. */
void p9_drain(struct p9 *p9);

/*
 * Answers one message: the answer's length, at most `room` (at least P9_REPLY_MIN). The thread's
 * work, for tests too when none is attached.
 */
size_t p9_handle(struct p9 *p9, const uint8_t *msg, size_t len, uint8_t *reply, size_t room);
unsigned p9_fids(const struct p9 *p9);
/* The host has no openat2 (or refuses it): for tests. */
void p9_without_openat2(struct p9 *p9);

/*
 * What the guest holds, by paths, into P9_SAVE_MAX bytes: the length, or -E2BIG when there is too
 * much, or -EBUSY when an extended attribute is half transferred. Drained.
 */
NODISCARD int p9_save(struct p9 *p9, uint8_t *out);
/* Is that something that p9_load takes? */
NODISCARD _Bool p9_saved_good(const uint8_t *data, size_t len);
/* Holds that again. A file that is not there any more answers ESTALE. Drained. */
void p9_load(struct p9 *p9, const uint8_t *data, size_t len);

#endif
