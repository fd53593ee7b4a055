/* control_request.c: parses, checks and answers one request of the control protocol. */
#include "vmm/control_request.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct control_command builtin[] = {
    {"commands", "the commands there are, each with a summary", NULL, NULL},
    {"events", "from now on events are sent on this connection", NULL, NULL},
};

static const char *code_name(enum control_code code)
{
	static const char *const names[] = {
	    "bad-json", "bad-request", "unknown-command", "bad-argument", "failed",
	    "too-long", "busy",
	};

	return names[code];
}

json_t *control_refuse(struct control_error *err, enum control_code code, const char *fmt, ...)
{
	va_list ap;

	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, ap);
	va_end(ap);
	return NULL;
}

int64_t control_integer(const json_t *arguments, const char *name, int64_t otherwise)
{
	const json_t *value = json_object_get(arguments, name);

	return json_is_integer(value) ? (int64_t)json_integer_value(value) : otherwise;
}

/* Text that came from the client, made fit to be shown: cut, and only printable ASCII. */
static const char *shown(const char *text, char out[48])
{
	size_t n = 0;

	for (; text[n] && n < 40; n++)
		out[n] = (char)(text[n] >= ' ' && text[n] < 127 ? text[n] : '?');
	memcpy(out + n, text[n] ? "..." : "", text[n] ? 4 : 1);
	return out;
}

static json_t *reply(const json_t *id, const char *key, json_t *value)
{
	json_t *r = json_object();

	if (!r || !value || json_object_set_new(r, "id", id ? json_deep_copy(id) : json_null()) ||
	    json_object_set(r, key, value)) {
		json_decref(r);
		r = NULL;
	}
	json_decref(value);
	return r;
}

static json_t *reply_error(const json_t *id, const struct control_error *err)
{
	json_t *message = json_string(err->message);

	/* A host's file name in a message need not be UTF-8. */
	if (!message)
		message = json_string("failed; the reason cannot be shown as text");
	return reply(id, "error",
		     json_pack("{s:s, s:o}", "code", code_name(err->code), "message", message));
}

json_t *control_refusal(enum control_code code, const char *message)
{
	struct control_error err;

	control_refuse(&err, code, "%s", message);
	return reply_error(NULL, &err);
}

static const struct control_arg *find_arg(const struct control_arg *args, const char *name)
{
	for (; args && args->name; args++) {
		if (!strcmp(args->name, name))
			return args;
	}
	return NULL;
}

static _Bool check_value(const struct control_arg *arg, const json_t *value,
			 struct control_error *err)
{
	json_int_t n;

	switch (arg->type) {
	case CONTROL_INTEGER:
		n = json_integer_value(value);
		if (json_is_integer(value) && n >= arg->min && n <= arg->max)
			return 1;
		control_refuse(err, CONTROL_BAD_ARGUMENT,
			       "argument '%s' is not a whole number from %lld to %lld", arg->name,
			       (long long)arg->min, (long long)arg->max);
		return 0;
	case CONTROL_BOOLEAN:
		if (json_is_boolean(value))
			return 1;
		control_refuse(err, CONTROL_BAD_ARGUMENT, "argument '%s' is not true or false",
			       arg->name);
		return 0;
	case CONTROL_STRING: break;
	}
	if (json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value))
		return 1;
	control_refuse(err, CONTROL_BAD_ARGUMENT, "argument '%s' is not a string", arg->name);
	return 0;
}

static _Bool check_args(const struct control_command *c, json_t *arguments,
			struct control_error *err)
{
	const char *name;
	json_t *value;
	char text[48];

	json_object_foreach(arguments, name, value)
	{
		const struct control_arg *arg = find_arg(c->args, name);

		if (!arg) {
			control_refuse(err, CONTROL_BAD_ARGUMENT, "'%s' takes no argument '%s'",
				       c->name, shown(name, text));
			return 0;
		}
		if (!check_value(arg, value, err))
			return 0;
	}
	for (const struct control_arg *arg = c->args; arg && arg->name; arg++) {
		if (arg->required && !json_object_get(arguments, arg->name)) {
			control_refuse(err, CONTROL_BAD_ARGUMENT, "'%s' needs the argument '%s'",
				       c->name, arg->name);
			return 0;
		}
	}
	return 1;
}

static const struct control_command *find_command(const struct control_table *table,
						  const char *name, struct control_error *err)
{
	char list[400] = "", text[48];
	size_t len = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(builtin); i++) {
		if (!strcmp(builtin[i].name, name))
			return &builtin[i];
	}
	for (unsigned i = 0; i < table->count; i++) {
		if (!strcmp(table->commands[i].name, name))
			return &table->commands[i];
		if (len < sizeof(list))
			len += (size_t)snprintf(list + len, sizeof(list) - len, "%s, ",
						table->commands[i].name);
	}
	control_refuse(err, CONTROL_UNKNOWN_COMMAND,
		       "unknown command '%s'; there are: %scommands and events", shown(name, text),
		       list);
	return NULL;
}

static json_t *list_commands(const struct control_table *table)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < table->count + ARRAY_SIZE(builtin); i++) {
		const struct control_command *c =
		    i < table->count ? &table->commands[i] : &builtin[i - table->count];
		json_t *names = json_array();

		for (const struct control_arg *arg = c->args; arg && arg->name; arg++)
			json_array_append_new(names, json_string(arg->name));
		json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "command", c->name,
						      "summary", c->summary, "arguments", names));
	}
	return list;
}

/* Is every member one of those that a request has, and of the right kind? */
static _Bool check_request(json_t *request, struct control_error *err)
{
	const json_t *id = json_object_get(request, "id");
	const json_t *command = json_object_get(request, "command");
	const json_t *arguments = json_object_get(request, "arguments");
	const char *name;
	json_t *value;
	char text[48];

	json_object_foreach(request, name, value)
	{
		if (strcmp(name, "id") && strcmp(name, "command") && strcmp(name, "arguments")) {
			control_refuse(err, CONTROL_BAD_REQUEST, "a request has no member '%s'",
				       shown(name, text));
			return 0;
		}
	}
	if (id && !json_is_integer(id) && !json_is_string(id) && !json_is_null(id))
		control_refuse(err, CONTROL_BAD_REQUEST, "\"id\" is not a number or a string");
	else if (!json_is_string(command))
		control_refuse(err, CONTROL_BAD_REQUEST, "\"command\" is missing or not a string");
	else if (arguments && !json_is_object(arguments))
		control_refuse(err, CONTROL_BAD_REQUEST, "\"arguments\" is not an object");
	else
		return 1;
	return 0;
}

static json_t *run(const struct control_table *table, json_t *request, _Bool *subscribe,
		   struct control_error *err)
{
	const char *name = json_string_value(json_object_get(request, "command"));
	json_t *given = json_object_get(request, "arguments");
	const struct control_command *c = find_command(table, name, err);
	json_t *arguments, *result = NULL;

	if (!c)
		return NULL;
	arguments = given ? json_incref(given) : json_object();
	if (check_args(c, arguments, err)) {
		err->code = CONTROL_FAILED;
		snprintf(err->message, sizeof(err->message), "out of memory");
		if (c->fn) {
			result = c->fn(table->opaque, arguments, err);
		} else if (c == &builtin[0]) {
			result = list_commands(table);
		} else {
			*subscribe = 1;
			result = json_pack("{s:b}", "subscribed", 1);
		}
	}
	json_decref(arguments);
	return result;
}

json_t *control_answer(const struct control_table *table, const char *line, size_t len,
		       _Bool *subscribe)
{
	struct control_error err;
	json_error_t why;
	json_t *request, *result = NULL, *r;
	const json_t *id = NULL;

	request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &why);
	if (!request) {
		char text[48];
		control_refuse(&err, CONTROL_BAD_JSON, "not a JSON object on one line: %s",
			       shown(why.text, text));
	} else if (!json_is_object(request)) {
		control_refuse(&err, CONTROL_BAD_REQUEST, "a request is an object");
	} else if (check_request(request, &err)) {
		id = json_object_get(request, "id");
		result = run(table, request, subscribe, &err);
	}
	r = result ? reply(id, "result", result) : reply_error(id, &err);
	json_decref(request);
	return r;
}
