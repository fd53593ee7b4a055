/* log.c: one line of text to stderr with one write, so that threads never mix their lines. */
#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define LOG_LINE_MAX 1024

/* What the process says on stderr is the process's: these two are the exception to "no mutable data
 * at file scope", set from the command line and by the terminal. */
static _Atomic int level_now = LOG_WARN;
static atomic_bool crlf_now;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&level_now, level, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&level_now, memory_order_relaxed);
}

void log_set_crlf(_Bool on)
{
	atomic_store_explicit(&crlf_now, on, memory_order_relaxed);
}

void log_line(const char *prefix, const char *fmt, va_list ap)
{
	char line[LOG_LINE_MAX];
	const size_t max = sizeof(line) - 2; /* room for CR LF */
	size_t len, done = 0;
	int n;

	n = snprintf(line, max, "polyvisor: %s%s", prefix, *prefix ? ": " : "");
	len = MIN((size_t)MAX(n, 0), max - 1);
	n = vsnprintf(line + len, max - len, fmt, ap);
	len += MIN((size_t)MAX(n, 0), max - len - 1);
	if (atomic_load_explicit(&crlf_now, memory_order_relaxed))
		line[len++] = '\r';
	line[len++] = '\n';
	while (done < len) {
		ssize_t put = write(STDERR_FILENO, line + done, len - done);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return; /* nobody is left to tell */
		done += (size_t)put;
	}
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};
	int saved = errno;
	va_list ap;

	if (level > log_get_level())
		return;
	va_start(ap, fmt);
	log_line(names[level], fmt, ap);
	va_end(ap);
	errno = saved;
}

void log_say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line("", fmt, ap);
	va_end(ap);
}

void log_guest_msg(struct log_guest_site *site, const char *fmt, ...)
{
	uint64_t n = atomic_fetch_add_explicit(&site->count, 1, memory_order_relaxed);
	int saved = errno;
	va_list ap;

	if (n >= LOG_GUEST_BURST || log_get_level() < LOG_WARN)
		return;
	va_start(ap, fmt);
	log_line(n == LOG_GUEST_BURST - 1 ? "guest (said often, silent from now on)" : "guest", fmt,
		 ap);
	va_end(ap);
	errno = saved;
}
