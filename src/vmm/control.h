/* control.h: the control socket: clients, their lines, replies and events. */
#ifndef VMM_CONTROL_H
#define VMM_CONTROL_H

#include "base/loop.h"
#include "vmm/control_request.h"

/*
 * A client can do no harm but through commands: a line is at most CONTROL_LINE_MAX long, no more
 * than CONTROL_MAX_CLIENTS are served at a time, who does not read its replies is no longer read
 * from, and who leaves CONTROL_BACKLOG_MAX of events unread is dropped. Nothing here ever blocks.
 */
#define CONTROL_MAX_CLIENTS 16
#define CONTROL_BACKLOG_MAX (1u << 20)

struct control;

/* All calls come from the loop's thread (or while it does not run). */
NODISCARD int control_new(struct control **control, struct loop *loop, const char *path,
			  const struct control_table *table, struct error *err);
/* Closes the connections, removes the socket. NULL is fine. */
void control_free(struct control *control);

/* Tells subscribers {"event":NAME, ...data}; takes the reference to `data` (an object or NULL).
 * `control` may be NULL. */
void control_event(struct control *control, const char *name, json_t *data);

/* Before the end: gives clients `timeout_ms` to take what is theirs. `control` may be NULL. */
void control_flush(struct control *control, unsigned timeout_ms);

#endif
