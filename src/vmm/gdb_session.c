/* gdb_session.c: the commands of the GDB remote serial protocol (GDB E). */
#include "vmm/gdb_session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/gdb_regs.h"

#define OUTPUT_MAX  (4u << 20)
#define MEMORY_MAX  (GDB_PACKET_MAX / 2)
#define MONITOR_MAX (16u << 10)

struct gdb_session {
	struct gdb_target target;
	struct gdb_parser parser;
	struct wbuf out;  /* on its way */
	struct wbuf body; /* of the reply under construction */
	struct wbuf last; /* the last packet, to be repeated when the debugger asks */
	_Bool no_ack, running, done;
	_Bool later;  /* the packet under way is answered when the target stops, or not at all */
	unsigned cpu; /* that g, m and their like are about */
	int run_cpu;  /* that c and s are about; -1: all */
	struct gdb_stop stop;
	struct x86_state state;
	uint8_t memory[MEMORY_MAX];
};

struct gdb_session *gdb_session_new(const struct gdb_target *target)
{
	struct gdb_session *s = aligned_alloc(64, ALIGN_UP(sizeof(*s), 64));

	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	s->target = *target;
	gdb_parser_init(&s->parser);
	wbuf_init(&s->out, OUTPUT_MAX);
	wbuf_init(&s->body, OUTPUT_MAX);
	wbuf_init(&s->last, OUTPUT_MAX);
	s->run_cpu = -1;
	s->stop.signal = 5;
	return s;
}

void gdb_session_free(struct gdb_session *s)
{
	if (!s)
		return;
	wbuf_fini(&s->out);
	wbuf_fini(&s->body);
	wbuf_fini(&s->last);
	free(s);
}

struct wbuf *gdb_session_output(struct gdb_session *s)
{
	return &s->out;
}

_Bool gdb_session_running(const struct gdb_session *s)
{
	return s->running;
}

_Bool gdb_session_done(const struct gdb_session *s)
{
	return s->done;
}

/* --- Replies --------------------------------------------------------------------------------- */

static void reply_text(struct gdb_session *s, const char *fmt, ...) PRINTF(2, 3);
static void reply_text(struct gdb_session *s, const char *fmt, ...)
{
	char text[256];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	wbuf_put(&s->body, text, MIN((size_t)n, sizeof(text) - 1));
}

static void reply_status(struct gdb_session *s, int rc)
{
	if (rc)
		reply_text(s, "E%02x", (unsigned)-rc & 0xff);
	else
		reply_text(s, "OK");
}

static void send_body(struct gdb_session *s)
{
	s->last.len = 0;
	gdb_packet_put(&s->last, s->body.data, s->body.len);
	wbuf_put(&s->out, s->last.data, s->last.len);
	s->body.len = 0;
}

static void reply_stop(struct gdb_session *s)
{
	static const char *const names[] = {
	    [GDB_BREAK_SOFT] = "swbreak",  [GDB_BREAK_HARD] = "hwbreak",
	    [GDB_WATCH_WRITE] = "watch",   [GDB_WATCH_READ] = "rwatch",
	    [GDB_WATCH_ACCESS] = "awatch",
	};
	const struct gdb_stop *stop = &s->stop;

	reply_text(s, "T%02xthread:%x;", stop->signal, stop->cpu + 1);
	if (!stop->is_break)
		return;
	if (stop->kind <= GDB_BREAK_HARD)
		reply_text(s, "%s:;", names[stop->kind]);
	else
		reply_text(s, "%s:%llx;", names[stop->kind], (unsigned long long)stop->addr);
}

void gdb_session_stopped(struct gdb_session *s, const struct gdb_stop *stop)
{
	s->stop = *stop;
	s->cpu = stop->cpu;
	if (!s->running)
		return;
	s->running = 0;
	reply_stop(s);
	send_body(s);
}

void gdb_session_ended(struct gdb_session *s, unsigned status)
{
	if (s->running) {
		reply_text(s, "W%02x", status & 0xff);
		send_body(s);
	}
	s->running = 0;
	s->done = 1;
}

/* --- Registers and memory -------------------------------------------------------------------- */

static unsigned reg_count(const struct gdb_session *s)
{
	return gdb_reg_count(s->target.avx512);
}

static void put_register(struct gdb_session *s, unsigned n)
{
	uint8_t value[GDB_REG_MAX_BYTES];

	gdb_reg_get(&s->state, n, value);
	gdb_hex_put(&s->body, value, gdb_reg_size(n));
}

static void cmd_read_registers(struct gdb_session *s, const char *args)
{
	int rc = s->target.get(s->target.opaque, s->cpu, &s->state);

	if (rc) {
		reply_status(s, rc);
		return;
	}
	for (unsigned i = 0; i < reg_count(s); i++)
		put_register(s, i);
}

/* False when the text is not that of a value, or the register does not take it. */
static _Bool take_register(struct gdb_session *s, unsigned n, const char **text)
{
	uint8_t value[GDB_REG_MAX_BYTES];
	unsigned bytes = gdb_reg_size(n);

	if (!gdb_hex_bytes(*text, value, bytes))
		return 0;
	*text += 2 * bytes;
	return gdb_reg_put(&s->state, n, value);
}

static void cmd_write_registers(struct gdb_session *s, const char *args)
{
	int rc = s->target.get(s->target.opaque, s->cpu, &s->state);

	for (unsigned i = 0; !rc && i < reg_count(s) && *args; i++) {
		if (!take_register(s, i, &args))
			rc = -EINVAL;
	}
	if (!rc)
		rc = s->target.set(s->target.opaque, s->cpu, &s->state);
	reply_status(s, rc);
}

static void cmd_read_register(struct gdb_session *s, const char *args)
{
	uint64_t n;
	int rc = -EINVAL;

	if (gdb_hex_number(&args, &n) && n < reg_count(s))
		rc = s->target.get(s->target.opaque, s->cpu, &s->state);
	if (rc)
		reply_status(s, rc);
	else
		put_register(s, (unsigned)n);
}

static void cmd_write_register(struct gdb_session *s, const char *args)
{
	uint64_t n;
	int rc = -EINVAL;

	if (gdb_hex_number(&args, &n) && n < reg_count(s) && *args++ == '=')
		rc = s->target.get(s->target.opaque, s->cpu, &s->state);
	if (!rc && !take_register(s, (unsigned)n, &args))
		rc = -EINVAL;
	if (!rc)
		rc = s->target.set(s->target.opaque, s->cpu, &s->state);
	reply_status(s, rc);
}

/* "ADDR,LEN" and then `end`. */
static _Bool take_range(const char **args, uint64_t *addr, uint64_t *len, char end)
{
	return gdb_hex_number(args, addr) && *(*args)++ == ',' && gdb_hex_number(args, len) &&
	       *len <= MEMORY_MAX && *(*args)++ == end;
}

static void cmd_read_memory(struct gdb_session *s, const char *args)
{
	uint64_t addr, len;
	int rc = -EINVAL;

	if (take_range(&args, &addr, &len, 0))
		rc = s->target.read(s->target.opaque, s->cpu, addr, s->memory, len);
	if (rc)
		reply_status(s, rc);
	else
		gdb_hex_put(&s->body, s->memory, len);
}

static void cmd_write_memory(struct gdb_session *s, const char *args)
{
	uint64_t addr, len;
	int rc = -EINVAL;

	if (take_range(&args, &addr, &len, ':') && strlen(args) == 2 * len &&
	    gdb_hex_bytes(args, s->memory, len))
		rc = s->target.write(s->target.opaque, s->cpu, addr, s->memory, len);
	reply_status(s, rc);
}

static void cmd_write_binary(struct gdb_session *s, const char *args)
{
	uint64_t addr, len;
	int rc = -EINVAL;

	if (take_range(&args, &addr, &len, ':') &&
	    (size_t)(s->parser.body + s->parser.len - args) == len)
		rc = len ? s->target.write(s->target.opaque, s->cpu, addr, args, len) : 0;
	reply_status(s, rc);
}

/* --- Breakpoints and running ----------------------------------------------------------------- */

static void cmd_breakpoint(struct gdb_session *s, const char *args)
{
	_Bool insert = args[-1] == 'Z';
	unsigned kind = (unsigned)(args[0] - '0');
	uint64_t addr, len;
	int rc = -EINVAL;

	if (kind > GDB_WATCH_ACCESS)
		return; /* no such kind: the empty reply says so */
	args++;
	if (*args++ == ',' && gdb_hex_number(&args, &addr) && *args++ == ',' &&
	    gdb_hex_number(&args, &len) && len <= 64)
		rc = (insert ? s->target.insert : s->target.remove)(
		    s->target.opaque, s->cpu, (enum gdb_break)kind, addr, (unsigned)len);
	if (rc != -EOPNOTSUPP) /* else as a kind that there is not */
		reply_status(s, rc);
}

static void run(struct gdb_session *s, const enum gdb_action *actions)
{
	for (unsigned i = 0; i < s->target.cpus; i++) {
		if (actions[i] == GDB_STAY)
			continue;
		s->running = s->later = 1;
		s->target.resume(s->target.opaque, actions);
		return;
	}
	reply_status(s, -EINVAL); /* nothing would ever stop */
}

/* c, s with an optional address; C, S with a signal before it, which a machine has none of. */
static void cmd_resume(struct gdb_session *s, const char *args)
{
	char c = args[-1];
	enum gdb_action action = c == 's' || c == 'S' ? GDB_STEP : GDB_CONTINUE;
	enum gdb_action actions[GDB_MAX_CPUS] = {0};
	unsigned cpu = s->run_cpu < 0 ? s->cpu : (unsigned)s->run_cpu;
	uint64_t addr;
	int rc;

	if (c == 'C' || c == 'S')
		args += strcspn(args, ";") + (strchr(args, ';') != NULL);
	if (gdb_hex_number(&args, &addr)) {
		rc = s->target.get(s->target.opaque, cpu, &s->state);
		s->state.rip = addr;
		if (!rc)
			rc = s->target.set(s->target.opaque, cpu, &s->state);
		if (rc) {
			reply_status(s, rc);
			return;
		}
	}
	for (unsigned i = 0; i < s->target.cpus; i++)
		actions[i] = s->run_cpu < 0 || i == cpu ? GDB_CONTINUE : GDB_STAY;
	actions[cpu] = action;
	run(s, actions);
}

/* A thread id: 1 and up, 0 any, -1 all; false when it is none. */
static _Bool take_thread(const struct gdb_session *s, const char **args, int *cpu)
{
	uint64_t id;

	if (!strncmp(*args, "-1", 2)) {
		*args += 2;
		*cpu = -1;
		return 1;
	}
	if (!gdb_hex_number(args, &id) || id > s->target.cpus)
		return 0;
	*cpu = id ? (int)id - 1 : (int)s->cpu;
	return 1;
}

/* vCont;ACTION[:THREAD]...: for each thread the first action that names it counts. */
static void cmd_vcont(struct gdb_session *s, const char *args)
{
	enum gdb_action actions[GDB_MAX_CPUS] = {0};
	_Bool named[GDB_MAX_CPUS] = {0};

	while (*args++ == ';') {
		char c = *args++;
		int cpu = -1;

		if (c == 'C' || c == 'S')
			args += strspn(args, "0123456789abcdef");
		if (!c || !strchr("cCsS", c) ||
		    (*args == ':' && !take_thread(s, (args++, &args), &cpu))) {
			reply_status(s, -EINVAL);
			return;
		}
		for (unsigned i = 0; i < s->target.cpus; i++) {
			if (named[i] || (cpu >= 0 && i != (unsigned)cpu))
				continue;
			named[i] = 1;
			actions[i] = c == 's' || c == 'S' ? GDB_STEP : GDB_CONTINUE;
		}
	}
	run(s, actions);
}

/* --- Questions ------------------------------------------------------------------------------- */

static void cmd_thread(struct gdb_session *s, const char *args)
{
	char what = *args;
	int cpu;

	if (what)
		args++;
	if (!take_thread(s, &args, &cpu) || (what != 'g' && what != 'c')) {
		reply_status(s, -EINVAL);
		return;
	}
	if (what == 'g' && cpu >= 0)
		s->cpu = (unsigned)cpu;
	else if (what == 'c')
		s->run_cpu = cpu;
	reply_status(s, 0);
}

static void cmd_thread_alive(struct gdb_session *s, const char *args)
{
	int cpu;

	reply_status(s, take_thread(s, &args, &cpu) && cpu >= 0 ? 0 : -EINVAL);
}

static void query_threads(struct gdb_session *s, const char *args)
{
	for (unsigned i = 0; i < s->target.cpus; i++)
		reply_text(s, "%c%x", i ? ',' : 'm', i + 1);
}

static void query_thread_info(struct gdb_session *s, const char *args)
{
	struct wbuf text;
	int cpu;

	if (!take_thread(s, &args, &cpu) || cpu < 0) {
		reply_status(s, -EINVAL);
		return;
	}
	wbuf_init(&text, 256);
	s->target.describe(s->target.opaque, (unsigned)cpu, &text);
	gdb_hex_put(&s->body, text.data, text.len);
	wbuf_fini(&text);
}

static void query_features(struct gdb_session *s, const char *args)
{
	uint64_t offset, len;
	struct wbuf xml;

	if (!gdb_hex_number(&args, &offset) || *args++ != ',' || !gdb_hex_number(&args, &len)) {
		reply_status(s, -EINVAL);
		return;
	}
	wbuf_init(&xml, 64 << 10);
	gdb_regs_describe(&xml, s->target.avx512);
	len = MIN(len, (uint64_t)MEMORY_MAX);
	if (offset >= xml.len) {
		reply_text(s, "l");
	} else {
		len = MIN(len, xml.len - offset);
		reply_text(s, "%c", offset + len < xml.len ? 'm' : 'l');
		wbuf_put(&s->body, xml.data + offset, len);
	}
	wbuf_fini(&xml);
}

static void query_monitor(struct gdb_session *s, const char *args)
{
	size_t len = strlen(args) / 2;
	struct wbuf text;
	char command[256];

	if (len >= sizeof(command) || strlen(args) % 2 || !gdb_hex_bytes(args, command, len)) {
		reply_status(s, -EINVAL);
		return;
	}
	command[len] = 0;
	wbuf_init(&text, MONITOR_MAX / 2);
	s->target.monitor(s->target.opaque, s->cpu, command, &text);
	gdb_hex_put(&s->body, text.data, text.len);
	if (!text.len)
		reply_status(s, 0);
	wbuf_fini(&text);
}

static void query_supported(struct gdb_session *s, const char *args)
{
	reply_text(s,
		   "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;"
		   "hwbreak+",
		   GDB_PACKET_MAX);
}

static void query_current(struct gdb_session *s, const char *args)
{
	if (!*args)
		reply_text(s, "QC%x", s->cpu + 1);
}

static void query_attached(struct gdb_session *s, const char *args)
{
	reply_text(s, "1");
}

static void query_no_more(struct gdb_session *s, const char *args)
{
	reply_text(s, "l");
}

static void query_ok(struct gdb_session *s, const char *args)
{
	reply_status(s, 0);
}

static void set_no_ack(struct gdb_session *s, const char *args)
{
	s->no_ack = 1;
	reply_status(s, 0);
}

static void cmd_why(struct gdb_session *s, const char *args)
{
	reply_stop(s);
}

static void cmd_vcont_which(struct gdb_session *s, const char *args)
{
	reply_text(s, "vCont;c;C;s;S");
}

static void cmd_detach(struct gdb_session *s, const char *args)
{
	s->done = 1;
	s->target.detach(s->target.opaque);
	reply_status(s, 0);
}

static void cmd_kill(struct gdb_session *s, const char *args)
{
	s->done = 1;
	s->target.kill(s->target.opaque);
	if (args[-1] == 'k')
		s->later = 1;
	else
		reply_status(s, 0);
}

/* By prefix, the first that fits. What is not here is answered by the empty packet: not supported.
 */
static const struct {
	const char *prefix;
	void (*fn)(struct gdb_session *s, const char *args);
	_Bool while_running;
} commands[] = {
    {"qSupported", query_supported, 1},
    {"qXfer:features:read:target.xml:", query_features, 1},
    {"qThreadExtraInfo,", query_thread_info, 0},
    {"qfThreadInfo", query_threads, 1},
    {"qsThreadInfo", query_no_more, 1},
    {"qAttached", query_attached, 1},
    {"qSymbol", query_ok, 1},
    {"qRcmd,", query_monitor, 0},
    {"qC", query_current, 1},
    {"QStartNoAckMode", set_no_ack, 1},
    {"vCont?", cmd_vcont_which, 1},
    {"vCont", cmd_vcont, 0},
    {"vKill", cmd_kill, 1},
    {"?", cmd_why, 0},
    {"g", cmd_read_registers, 0},
    {"G", cmd_write_registers, 0},
    {"p", cmd_read_register, 0},
    {"P", cmd_write_register, 0},
    {"m", cmd_read_memory, 0},
    {"M", cmd_write_memory, 0},
    {"X", cmd_write_binary, 0},
    {"Z", cmd_breakpoint, 0},
    {"z", cmd_breakpoint, 0},
    {"c", cmd_resume, 0},
    {"C", cmd_resume, 0},
    {"s", cmd_resume, 0},
    {"S", cmd_resume, 0},
    {"H", cmd_thread, 1},
    {"T", cmd_thread_alive, 1},
    {"D", cmd_detach, 1},
    {"k", cmd_kill, 1},
};

static void packet(struct gdb_session *s)
{
	const char *body = s->parser.body;

	s->later = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
		size_t n = strlen(commands[i].prefix);

		if (strncmp(body, commands[i].prefix, n))
			continue;
		if (s->running && !commands[i].while_running)
			reply_status(s, -EBUSY);
		else
			commands[i].fn(s, body + n);
		break;
	}
	if (!s->later)
		send_body(s);
}

void gdb_session_input(struct gdb_session *s, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len && !s->done; i++) {
		switch (gdb_parser_take(&s->parser, data[i])) {
		case GDB_PACKET:
			if (!s->no_ack)
				wbuf_u8(&s->out, '+');
			packet(s);
			break;
		case GDB_DAMAGED:
			if (!s->no_ack)
				wbuf_u8(&s->out, '-');
			break;
		case GDB_INTERRUPT:
			if (s->running)
				s->target.interrupt(s->target.opaque);
			break;
		case GDB_NAK:
			if (!s->no_ack)
				wbuf_put(&s->out, s->last.data, s->last.len);
			break;
		case GDB_ACK:
		case GDB_MORE: break;
		}
	}
}
