/* gdb_session.h: one debugger's conversation: packets in, replies out, against any target. */
#ifndef VMM_GDB_SESSION_H
#define VMM_GDB_SESSION_H

#include "vmm/gdb_packet.h"
#include "x86/state.h"

#define GDB_MAX_CPUS 64

/* What a CPU does when the target runs. */
enum gdb_action { GDB_STAY, GDB_CONTINUE, GDB_STEP };

/* The 'Z' packets' types. */
enum gdb_break {
	GDB_BREAK_SOFT,
	GDB_BREAK_HARD,
	GDB_WATCH_WRITE,
	GDB_WATCH_READ,
	GDB_WATCH_ACCESS
};

/* Why the target stopped. */
struct gdb_stop {
	unsigned cpu;
	unsigned signal; /* in gdb's numbering: 5 SIGTRAP, 2 SIGINT */
	_Bool is_break; /* at a breakpoint or watchpoint of kind `kind`; `addr`: what was watched */
	enum gdb_break kind;
	uint64_t addr;
};

/* What is debugged. All but `interrupt`, `detach` and `kill` are called only while it stands still.
 * Errors are negative errnos. */
struct gdb_target {
	unsigned cpus;
	_Bool avx512; /* the guest was given it */
	int (*get)(void *opaque, unsigned cpu, struct x86_state *s);
	int (*set)(void *opaque, unsigned cpu, const struct x86_state *s);
	int (*read)(void *opaque, unsigned cpu, uint64_t addr, void *buf, size_t len);
	int (*write)(void *opaque, unsigned cpu, uint64_t addr, const void *buf, size_t len);
	/* -EOPNOTSUPP: nothing of this kind is possible here. */
	int (*insert)(void *opaque, unsigned cpu, enum gdb_break kind, uint64_t addr, unsigned len);
	int (*remove)(void *opaque, unsigned cpu, enum gdb_break kind, uint64_t addr, unsigned len);
	void (*resume)(void *opaque, const enum gdb_action *actions);
	void (*interrupt)(void *opaque);
	void (*detach)(void *opaque);
	void (*kill)(void *opaque);
	/* A line for "info threads"; a command after "monitor". Text goes to `out`. */
	void (*describe)(void *opaque, unsigned cpu, struct wbuf *out);
	void (*monitor)(void *opaque, unsigned cpu, const char *command, struct wbuf *out);
	void *opaque;
};

struct gdb_session;

/* Begins with the target standing still. NULL when out of memory. */
struct gdb_session *gdb_session_new(const struct gdb_target *target);
void gdb_session_free(struct gdb_session *s);

/* Bytes from the debugger. */
void gdb_session_input(struct gdb_session *s, const uint8_t *data, size_t len);
/* Bytes for it: the caller takes them from the front. `failed` when they are too many. */
struct wbuf *gdb_session_output(struct gdb_session *s);

/* The target stopped, or ended with a status. */
void gdb_session_stopped(struct gdb_session *s, const struct gdb_stop *stop);
void gdb_session_ended(struct gdb_session *s, unsigned status);
_Bool gdb_session_running(const struct gdb_session *s);
/* The debugger said good-bye: close when the output is written. */
_Bool gdb_session_done(const struct gdb_session *s);

#endif
