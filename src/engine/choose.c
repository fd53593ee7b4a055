/* choose.c: which engine: by name, or the first whose probe advises it. */
#include "engine/choose.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WHY_BYTES 512

static void choose_say(char *why, const char *fmt, ...) PRINTF(2, 3);
static void choose_say(char *why, const char *fmt, ...)
{
	va_list ap;

	if (!why)
		return;
	va_start(ap, fmt);
	vsnprintf(why, WHY_BYTES, fmt, ap);
	va_end(ap);
}

/* Appends as much as fits. */
static void text_add(char *text, size_t size, const char *fmt, ...) PRINTF(3, 4);
static void text_add(char *text, size_t size, const char *fmt, ...)
{
	size_t len = strlen(text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text + len, size - len, fmt, ap);
	va_end(ap);
}

static int choose_auto(const struct engine_list *list, const struct engine_ops **ops, char *why,
		       struct error *err)
{
	char passed[WHY_BYTES / 2] = "";

	for (unsigned i = 0; i < list->count; i++) {
		struct engine_probe probe = {0};

		list->ops[i]->probe(&probe);
		if (probe.usable && probe.advisable) {
			choose_say(why, "engine %s: %s%s", list->ops[i]->name,
				   passed[0] ? passed : "", probe.why);
			*ops = list->ops[i];
			return 0;
		}
		text_add(passed, sizeof(passed), "not %s (%s); ", list->ops[i]->name, probe.why);
	}
	if (passed[0])
		passed[strlen(passed) - 2] = 0;
	return error_set(err, -ENODEV, "no engine can run guests well here: %s",
			 passed[0] ? passed : "none was built in");
}

static int choose_named(const struct engine_list *list, const char *name,
			const struct engine_ops **ops, char *why, struct error *err)
{
	char names[128] = "auto";

	for (unsigned i = 0; i < list->count; i++) {
		struct engine_probe probe = {0};

		text_add(names, sizeof(names), ", %s", list->ops[i]->name);
		if (strcmp(name, list->ops[i]->name) != 0)
			continue;
		list->ops[i]->probe(&probe);
		if (!probe.usable)
			return error_set(err, -ENODEV, "engine %s cannot be used here: %s", name,
					 probe.why);
		choose_say(why, "engine %s: as asked%s%s%s", name,
			   probe.advisable ? "" : ", though not advised (",
			   probe.advisable ? "" : probe.why, probe.advisable ? "" : ")");
		*ops = list->ops[i];
		return 0;
	}
	return error_set(err, -EINVAL, "there is no engine \"%s\"; choose one of: %s", name, names);
}

int engine_choose(const struct engine_list *list, const char *name, const struct engine_ops **ops,
		  char *why, struct error *err)
{
	if (strcmp(name, "auto") == 0)
		return choose_auto(list, ops, why, err);
	return choose_named(list, name, ops, why, err);
}
