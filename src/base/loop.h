/* loop.h: the event loop: descriptors, posted work; one thread runs it. */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <sys/epoll.h>
#include "base/error.h"

struct loop;

/* A descriptor that the loop watches. The owner embeds it; it must stay in place until loop_fd_del
 * has returned. */
struct loop_fd {
	int fd;
	void (*fn)(struct loop_fd *lfd,
		   uint32_t events); /* EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR */
	void *opaque;
	uint32_t events;
	_Bool added;
	_Bool always; /* a regular file, which epoll refuses: ready whenever events != 0 */
	_Bool polled; /* the loop's own: in the epoll set, which it leaves while events == 0 */
	_Bool resting;
	uint64_t rest_until_ns;
	uint32_t slot;
};

/* Work posted from any thread to the loop's; runs once per posting burst. Never allocated on the
 * way. */
struct loop_work {
	void (*fn)(struct loop_work *work);
	void *opaque;
	struct loop_work *next;
	_Bool queued;
};

NODISCARD int loop_new(struct loop **loop, struct error *err);
void loop_free(struct loop *loop);

/* Any thread. loop_fd_del called from the loop's own thread is immediate; from another it returns
 * when no callback is running. */
NODISCARD int loop_fd_add(struct loop *loop, struct loop_fd *lfd, uint32_t events);
NODISCARD int loop_fd_mod(struct loop *loop, struct loop_fd *lfd, uint32_t events);
void loop_fd_del(struct loop *loop, struct loop_fd *lfd);
/* Looks away from a descriptor for `ms` milliseconds: for one that is ready and cannot be served
 * yet (a listener, while no descriptor is left). It needs neither descriptor nor memory. */
void loop_fd_rest(struct loop *loop, struct loop_fd *lfd, unsigned ms);

void loop_post(struct loop *loop, struct loop_work *work);
/* After return, the work is not queued; and when called from outside the loop's thread, not
 * running. */
void loop_cancel(struct loop *loop, struct loop_work *work);

/* Runs until loop_stop; returns the value given to it. loop_stop is async-signal-safe and callable
 * from any thread. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop, int value);

#endif
