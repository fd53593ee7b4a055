/* fuzz_gdb.c: bytes that a debugger sends, against a target of one page. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/gdb_session.h"

static uint8_t ram[4096];
static const struct gdb_stop stop = {.signal = 5};

static int get(void *opaque, unsigned cpu, struct x86_state *s)
{
	memset(s, 0, sizeof(*s));
	return cpu < 2 ? 0 : (abort(), 0);
}

static int set(void *opaque, unsigned cpu, const struct x86_state *s)
{
	return 0;
}

static int read_ram(void *opaque, unsigned cpu, uint64_t addr, void *buf, size_t len)
{
	if (!range_fits(addr, len, sizeof(ram)))
		return -EFAULT;
	memcpy(buf, ram + addr, len);
	return 0;
}

static int write_ram(void *opaque, unsigned cpu, uint64_t addr, const void *buf, size_t len)
{
	if (!range_fits(addr, len, sizeof(ram)))
		return -EFAULT;
	memcpy(ram + addr, buf, len);
	return 0;
}

static int point(void *opaque, unsigned cpu, enum gdb_break kind, uint64_t addr, unsigned len)
{
	return kind <= GDB_WATCH_ACCESS ? 0 : (abort(), 0);
}

static void resume(void *opaque, const enum gdb_action *actions)
{
}

static void interrupt(void *opaque)
{
	gdb_session_stopped(*(struct gdb_session **)opaque, &stop);
}

static void leave(void *opaque)
{
}

static void describe(void *opaque, unsigned cpu, struct wbuf *out)
{
	wbuf_put(out, "cpu", cpu < 2 ? 3 : (abort(), 0u));
}

static void monitor(void *opaque, unsigned cpu, const char *command, struct wbuf *out)
{
	wbuf_put(out, command, strlen(command));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gdb_session *session = NULL;
	const struct gdb_target target = {
	    .cpus = 2,
	    .avx512 = 1,
	    .get = get,
	    .set = set,
	    .read = read_ram,
	    .write = write_ram,
	    .insert = point,
	    .remove = point,
	    .resume = resume,
	    .interrupt = interrupt,
	    .detach = leave,
	    .kill = leave,
	    .describe = describe,
	    .monitor = monitor,
	    .opaque = &session,
	};
	struct wbuf framed;
	uint32_t start = 0;

	session = gdb_session_new(&target);
	wbuf_init(&framed, 1 << 20);
	/* Lines become packets with the right sum; then the bytes as they are. */
	for (uint32_t i = 0; i < size; i++) {
		if (data[i] != '\n')
			continue;
		gdb_packet_put(&framed, data + start, i - start);
		wbuf_u8(&framed, 3);
		start = i + 1;
	}
	if (framed.len)
		gdb_session_input(session, framed.data, framed.len);
	gdb_session_input(session, data, size);
	wbuf_fini(&framed);
	gdb_session_free(session);
	return 0;
}
