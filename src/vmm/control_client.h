/* control_client.h: the other end of the control socket, for commands that a person types. */
#ifndef VMM_CONTROL_CLIENT_H
#define VMM_CONTROL_CLIENT_H

#include <jansson.h>
#include "base/error.h"

struct control_client {
	int fd;
	char *in;
	size_t len, cap, used;
};

/* Connects; -errno with a sentence as unix_connect. */
NODISCARD int control_client_open(struct control_client *c, const char *path, struct error *err);
void control_client_close(struct control_client *c);

/*
 * Sends a command (the reference to `arguments`, an object or NULL, is taken) and waits for its
 * reply: a new object with "result" or "error", or NULL with a sentence when the VM is gone
 * (err->code -EPIPE) or does not answer within ten seconds (-ETIMEDOUT).
 */
json_t *control_client_call(struct control_client *c, const char *command, json_t *arguments,
			    struct error *err);
/* The next event: a new object, or NULL when the VM is gone (err->code -EPIPE). */
json_t *control_client_event(struct control_client *c, struct error *err);

#endif
