/* fuzz_control.c: lines that a client of the control socket sends. */
#include <stdlib.h>
#include <string.h>

#include "vmm/control_request.h"

static json_t *cmd_echo(void *opaque, json_t *arguments, struct control_error *err)
{
	int64_t n = control_integer(arguments, "n", 5);

	if (n < 0 || n > 9)
		abort(); /* the table says otherwise */
	return json_incref(arguments);
}

static const struct control_arg args[] = {
    {"n", CONTROL_INTEGER, 0, 0, 9},
    {"flag", CONTROL_BOOLEAN},
    {"text", CONTROL_STRING, 1},
    {NULL},
};
static const struct control_command commands[] = {{"echo", "echoes", args, cmd_echo}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct control_table table = {commands, 1, NULL};
	_Bool subscribe = 0;
	json_t *reply;
	char *text;

	if (size > CONTROL_LINE_MAX)
		return 0;
	reply = control_answer(&table, (const char *)data, size, &subscribe);
	text = json_dumps(reply, JSON_COMPACT);
	/* Always a reply, on one line, with either a result or an error. */
	if (!text || strchr(text, '\n') ||
	    !json_object_get(reply, "result") == !json_object_get(reply, "error"))
		abort();
	free(text);
	json_decref(reply);
	return 0;
}
