/* log.h: messages to the operator on stderr, and messages that a guest can cause. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdarg.h>
#include "base/util.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* The level above which messages are dropped; LOG_WARN at start. Any thread. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* One line, "polyvisor: LEVEL: ..." ; safe from any thread, takes no lock of ours. In raw terminal
 * mode (log_set_crlf) lines end in CR LF. */
void log_msg(enum log_level level, const char *fmt, ...) PRINTF(2, 3);
void log_set_crlf(_Bool on);
/* One line "polyvisor: ..." whatever the level: an answer to what the person did just now. */
void log_say(const char *fmt, ...) PRINTF(1, 2);
/* One line "polyvisor: PREFIX: ..." whatever the level: what log_msg and trace_msg are made of. A
 * line too long is cut. */
void log_line(const char *prefix, const char *fmt, va_list ap) PRINTF(2, 0);

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)

/*
 * For what a guest can provoke: at most `LOG_GUEST_BURST` messages per place in the source, then
 * silence; the count goes on. A device never logs in any other way on a path that a guest drives.
 */
#define LOG_GUEST_BURST 8
struct log_guest_site {
	_Atomic uint64_t count;
};
void log_guest_msg(struct log_guest_site *site, const char *fmt, ...) PRINTF(2, 3);
#define log_guest(...)                                                                             \
	do {                                                                                       \
		static struct log_guest_site site_;                                                \
		log_guest_msg(&site_, __VA_ARGS__);                                                \
	} while (0)

#endif
