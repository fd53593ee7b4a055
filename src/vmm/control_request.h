/* control_request.h: the control protocol without its sockets: a line in, a reply out. */
#ifndef VMM_CONTROL_REQUEST_H
#define VMM_CONTROL_REQUEST_H

#include <jansson.h>
#include "base/util.h"

/* docs/control-protocol.md is the contract. */
#define CONTROL_LINE_MAX (64u << 10) /* bytes of a request, its newline included */

/* Why a request was refused. Codes are part of the protocol; the message is for a person. */
enum control_code {
	CONTROL_BAD_JSON,
	CONTROL_BAD_REQUEST,
	CONTROL_UNKNOWN_COMMAND,
	CONTROL_BAD_ARGUMENT,
	CONTROL_FAILED,
	CONTROL_TOO_LONG,
	CONTROL_BUSY,
};
struct control_error {
	enum control_code code;
	char message[512];
};
/* Sets the error and returns NULL, so that a command can return it. */
json_t *control_refuse(struct control_error *err, enum control_code code, const char *fmt, ...)
    PRINTF(3, 4);

enum control_type { CONTROL_INTEGER, CONTROL_BOOLEAN, CONTROL_STRING };
struct control_arg {
	const char *name; /* NULL ends a table */
	enum control_type type;
	_Bool required;
	int64_t min, max; /* of an integer */
};

/* A command. `fn` gets an object whose members the table `args` allows (NULL: none) and returns a
 * new reference to the result, or NULL with `err` set. */
struct control_command {
	const char *name, *summary;
	const struct control_arg *args;
	json_t *(*fn)(void *opaque, json_t *arguments, struct control_error *err);
};
struct control_table {
	const struct control_command *commands;
	unsigned count;
	void *opaque; /* for the commands */
};

/*
 * Answers one line (without its newline): a new object to be sent, or NULL when out of memory.
 * "commands" is answered here from the table, and "events" sets *subscribe.
 */
json_t *control_answer(const struct control_table *table, const char *line, size_t len,
		       _Bool *subscribe);

/* A reply that refuses, for errors without a request ("id" is null). */
json_t *control_refusal(enum control_code code, const char *message);

/* The integer argument of that name, or `otherwise`. */
int64_t control_integer(const json_t *arguments, const char *name, int64_t otherwise);

#endif
