/* error.h: how set-up paths tell a person what went wrong. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "base/util.h"

/*
 * One sentence for the person, filled by the function that knows most, with what was wrong, where,
 * and what to do next. Functions that can fail because of the host or the operator return 0 or a
 * negative errno and take a `struct error *` last when a person should hear why. NULL is accepted:
 * the sentence is dropped.
 */
struct error {
	int code;
	char text[512];
};

/* Stores the sentence and returns `code` (a negative errno), so that `return error_set(err,
 * -ENOENT, ...)` reads well. */
int error_set(struct error *err, int code, const char *fmt, ...) PRINTF(3, 4);

/* Puts "prefix: " in front of a sentence that a callee has set; returns err->code (or 0 when err is
 * NULL). */
int error_prefix(struct error *err, const char *fmt, ...) PRINTF(2, 3);

#endif
