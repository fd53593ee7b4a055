/* gdb_session_test.c: packets and commands of a debugger, against a target that is an array. */
#include "vmm/gdb_session.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vmm/gdb_regs.h"
#include "x86/regs.h"

struct fake {
	struct x86_state cpu[2];
	uint8_t ram[4096];
	unsigned points, resumed, interrupts, detached, killed;
	enum gdb_action action[2];
	struct gdb_session *session;
};

static int fake_get(void *opaque, unsigned cpu, struct x86_state *s)
{
	*s = ((struct fake *)opaque)->cpu[cpu];
	return 0;
}

static int fake_set(void *opaque, unsigned cpu, const struct x86_state *s)
{
	((struct fake *)opaque)->cpu[cpu] = *s;
	return 0;
}

static int fake_read(void *opaque, unsigned cpu, uint64_t addr, void *buf, size_t len)
{
	struct fake *f = opaque;

	if (!range_fits(addr, len, sizeof(f->ram)))
		return -EFAULT;
	memcpy(buf, f->ram + addr, len);
	return 0;
}

static int fake_write(void *opaque, unsigned cpu, uint64_t addr, const void *buf, size_t len)
{
	struct fake *f = opaque;

	if (!range_fits(addr, len, sizeof(f->ram)))
		return -EFAULT;
	memcpy(f->ram + addr, buf, len);
	return 0;
}

static int fake_insert(void *opaque, unsigned cpu, enum gdb_break kind, uint64_t addr, unsigned len)
{
	if (kind == GDB_WATCH_READ && addr == 0x9999)
		return -EOPNOTSUPP;
	((struct fake *)opaque)->points++;
	return 0;
}

static int fake_remove(void *opaque, unsigned cpu, enum gdb_break kind, uint64_t addr, unsigned len)
{
	struct fake *f = opaque;

	return f->points ? (f->points--, 0) : -ENOENT;
}

static void fake_resume(void *opaque, const enum gdb_action *actions)
{
	struct fake *f = opaque;

	f->resumed++;
	memcpy(f->action, actions, sizeof(f->action));
}

static void fake_interrupt(void *opaque)
{
	((struct fake *)opaque)->interrupts++;
}

static void fake_detach(void *opaque)
{
	((struct fake *)opaque)->detached++;
}

static void fake_kill(void *opaque)
{
	((struct fake *)opaque)->killed++;
}

static void fake_describe(void *opaque, unsigned cpu, struct wbuf *out)
{
	wbuf_put(out, "cpu", 3);
}

static void fake_monitor(void *opaque, unsigned cpu, const char *command, struct wbuf *out)
{
	wbuf_put(out, command, strlen(command));
}

static int set_up_as(void **state, _Bool avx512)
{
	struct fake *f = aligned_alloc(64, ALIGN_UP(sizeof(*f), 64));
	const struct gdb_target target = {
	    .cpus = 2,
	    .avx512 = avx512,
	    .get = fake_get,
	    .set = fake_set,
	    .read = fake_read,
	    .write = fake_write,
	    .insert = fake_insert,
	    .remove = fake_remove,
	    .resume = fake_resume,
	    .interrupt = fake_interrupt,
	    .detach = fake_detach,
	    .kill = fake_kill,
	    .describe = fake_describe,
	    .monitor = fake_monitor,
	    .opaque = f,
	};

	assert_non_null(f);
	memset(f, 0, sizeof(*f));
	x86_state_reset(&f->cpu[0], 1);
	x86_state_reset(&f->cpu[1], 0);
	f->session = gdb_session_new(&target);
	assert_non_null(f->session);
	*state = f;
	return 0;
}
static int set_up(void **state)
{
	return set_up_as(state, 0);
}
static int set_up_avx512(void **state)
{
	return set_up_as(state, 1);
}

static int tear_down(void **state)
{
	struct fake *f = *state;

	gdb_session_free(f->session);
	free(f);
	return 0;
}

static void raw(struct fake *f, const char *text)
{
	gdb_session_input(f->session, (const uint8_t *)text, strlen(text));
}

/* What came out since the last call, as text. */
static const char *output(struct fake *f)
{
	static char text[8192];
	struct wbuf *out = gdb_session_output(f->session);

	assert_false(out->failed);
	assert_true(out->len < sizeof(text));
	if (out->len)
		memcpy(text, out->data, out->len);
	text[out->len] = 0;
	out->len = 0;
	return text;
}

/* Sends a packet and takes the frame off the reply. */
static const char *ask(struct fake *f, const char *body)
{
	static char text[8192];
	struct wbuf packet;
	size_t len;

	wbuf_init(&packet, 65536);
	gdb_packet_put(&packet, body, strlen(body));
	gdb_session_input(f->session, packet.data, packet.len);
	wbuf_fini(&packet);
	strcpy(text, output(f));
	len = strlen(text);
	if (len < 5)
		return text;
	assert_memory_equal(text, "+$", 2);
	assert_int_equal(text[len - 3], '#');
	text[len - 3] = 0;
	return text + 2;
}

static void packets_are_checked_and_repeated(void **state)
{
	struct fake *f = *state;

	raw(f, "+$?#3f");
	assert_string_equal(output(f), "+$T05thread:1;#d7");
	raw(f, "-");
	assert_string_equal(output(f), "$T05thread:1;#d7");
	raw(f, "$?#40");
	assert_string_equal(output(f), "-");
	raw(f, "$?#x");
	assert_string_equal(output(f), "-");
	raw(f, "noise$half$?#3f");
	assert_string_equal(output(f), "+$T05thread:1;#d7");
	assert_string_equal(ask(f, "QStartNoAckMode"), "OK");
	raw(f, "$?#3f$?#40");
	assert_string_equal(output(f), "$T05thread:1;#d7");
}

static void a_packet_too_long_is_refused(void **state)
{
	struct fake *f = *state;
	char *junk = malloc(GDB_PACKET_MAX + 2);

	memset(junk, 'a', GDB_PACKET_MAX + 1);
	junk[GDB_PACKET_MAX + 1] = 0;
	raw(f, "$");
	raw(f, junk);
	raw(f, "#");
	snprintf(junk, 3, "%02x", (unsigned)(GDB_PACKET_MAX + 1) * 'a' & 0xff);
	raw(f, junk);
	assert_string_equal(output(f), "-");
	assert_string_equal(ask(f, "?"), "T05thread:1;");
	free(junk);
}

static void unknown_packets_get_the_empty_reply(void **state)
{
	struct fake *f = *state;

	assert_string_equal(ask(f, "vMustReplyEmpty"), "");
	assert_string_equal(ask(f, "qOffsets"), "");
	assert_string_equal(ask(f, "Z7,0,1"), "");
	assert_string_equal(ask(f, ""), "");
}

static void registers_are_read_and_written(void **state)
{
	struct fake *f = *state;
	char all[4096];

	f->cpu[0].gpr[X86_RBX] = 0x1122334455667788;
	assert_string_equal(ask(f, "p1"), "8877665544332211");
	assert_string_equal(ask(f, "P1=0100000000000000"), "OK");
	assert_int_equal(f->cpu[0].gpr[X86_RBX], 1);
	assert_string_equal(ask(f, "P1=01"), "E16");
	assert_string_equal(ask(f, "P1"), "E16");
	assert_string_equal(ask(f, "pffff"), "E16");
	assert_string_equal(ask(f, "p"), "E16");
	strcpy(all, ask(f, "g"));
	all[0] = 'G';
	strcpy(all + 1, ask(f, "g"));
	all[1] = '7';
	assert_string_equal(ask(f, all), "OK");
	assert_int_equal(f->cpu[0].gpr[X86_RAX] & 0xf0, 0x70);
	assert_string_equal(ask(f, "Gxx"), "E16");
	assert_string_equal(ask(f, "Hg2"), "OK");
	assert_string_equal(ask(f, "P10=00f0000000000000"), "OK");
	assert_int_equal(f->cpu[1].rip, 0xf000);
	assert_string_equal(ask(f, "Hg3"), "E16");
	for (unsigned i = 0; i < gdb_reg_count(1); i++)
		assert_in_range(gdb_reg_size(i), 4, GDB_REG_MAX_BYTES);
}

/* The register of a name, as the target description numbers it. */
static unsigned number_of(const char *name)
{
	char key[32];
	struct wbuf xml;
	unsigned n = 0;
	const char *at;

	snprintf(key, sizeof(key), "name=\"%s\" ", name);
	wbuf_init(&xml, 64 << 10);
	gdb_regs_describe(&xml, 1);
	wbuf_u8(&xml, 0);
	at = strstr((const char *)xml.data, key);
	assert_non_null(at);
	assert_int_equal(sscanf(strstr(at, "regnum="), "regnum=\"%u\"", &n), 1);
	wbuf_fini(&xml);
	return n;
}

static void upper_halves_of_vectors_are_written_where_the_guest_has_them(void **state)
{
	struct fake *f = *state;
	char packet[64];

	f->cpu[0].fpu.vec[3][16] = 0x5a;
	snprintf(packet, sizeof(packet), "p%x", number_of("ymm3h"));
	assert_string_equal(ask(f, packet), "5a000000000000000000000000000000");
	snprintf(packet, sizeof(packet), "P%x=00112233445566778899aabbccddeeff",
		 number_of("ymm15h"));
	assert_string_equal(ask(f, packet), "E16");
	f->cpu[0].xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
	assert_string_equal(ask(f, packet), "OK");
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(f->cpu[0].fpu.vec[15][i], i < 16 || i > 31 ? 0 : (i - 16) * 0x11);
}

static void avx512s_registers_are_there_where_the_guest_has_them(void **state)
{
	static const struct {
		const char *name;
		unsigned vec, at, bytes;
	} rows[] = {
	    {"xmm16", 16, 0, 16},   {"xmm31", 31, 0, 16}, {"ymm16h", 16, 16, 16},
	    {"ymm31h", 31, 16, 16}, {"zmm0h", 0, 32, 32}, {"zmm31h", 31, 32, 32},
	};
	struct fake *f = *state;
	struct x86_fpu *fpu = &f->cpu[0].fpu;
	char packet[96], value[65];

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		for (unsigned k = 0; k < 32; k++)
			snprintf(value + 2 * k, 3, "%02x", 32 * i + k + 1);
		value[2 * rows[i].bytes] = 0;
		snprintf(packet, sizeof(packet), "P%x=%s", number_of(rows[i].name), value);
		f->cpu[0].xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
		assert_string_equal(ask(f, packet), "E16");
		f->cpu[0].xcr0 |= X86_XCR0_AVX512;
		assert_string_equal(ask(f, packet), "OK");
		for (unsigned k = 0; k < 64; k++)
			assert_int_equal(fpu->vec[rows[i].vec][k],
					 k - rows[i].at < rows[i].bytes
					     ? (32 * i + k - rows[i].at + 1) & 0xff
					     : 0);
		snprintf(packet, sizeof(packet), "p%x", number_of(rows[i].name));
		assert_string_equal(ask(f, packet), value);
		memset(fpu->vec, 0, sizeof(fpu->vec));
	}
	fpu->k[7] = 0x1122;
	snprintf(packet, sizeof(packet), "p%x", number_of("k7"));
	assert_string_equal(ask(f, packet), "2211000000000000");
	snprintf(packet, sizeof(packet), "P%x=0300000000000000", number_of("k0"));
	assert_string_equal(ask(f, packet), "OK");
	assert_int_equal(fpu->k[0], 3);
	/* All of them in one packet, and back. */
	size_t bytes = 0;
	for (unsigned i = 0; i < gdb_reg_count(1); i++)
		bytes += gdb_reg_size(i);
	char *all = malloc(2 * bytes + 2);
	assert_non_null(all);
	strcpy(all + 1, ask(f, "g"));
	assert_int_equal(strlen(all + 1), 2 * bytes);
	all[0] = 'G';
	memset(all + 1 + 2 * bytes - 2, 'f', 2);
	assert_string_equal(ask(f, all), "OK");
	assert_int_equal(fpu->vec[31][63], 0xff);
	free(all);
	assert_int_equal(number_of("zmm31h"), gdb_reg_count(1) - 1);
}

static void avx512s_registers_are_not_there_where_the_guest_has_none(void **state)
{
	struct fake *f = *state;
	char packet[32];
	struct wbuf xml;

	snprintf(packet, sizeof(packet), "p%x", gdb_reg_count(0));
	assert_string_equal(ask(f, packet), "E16");
	snprintf(packet, sizeof(packet), "p%x", gdb_reg_count(0) - 1);
	assert_int_equal(strlen(ask(f, packet)), 32); /* ymm15h */
	assert_int_equal(number_of("xmm16"), gdb_reg_count(0));
	wbuf_init(&xml, 64 << 10);
	gdb_regs_describe(&xml, 0);
	wbuf_u8(&xml, 0);
	assert_null(strstr((const char *)xml.data, "avx512"));
	assert_null(strstr((const char *)xml.data, "xmm16"));
	wbuf_fini(&xml);
}

static void memory_is_read_and_written(void **state)
{
	struct fake *f = *state;

	assert_string_equal(ask(f, "M10,3:010203"), "OK");
	assert_string_equal(ask(f, "m10,4"), "01020300");
	assert_string_equal(ask(f, "X20,2:#z"), "OK");
	assert_int_equal(f->ram[0x20], '#');
	assert_string_equal(ask(f, "X20,0:"), "OK");
	assert_string_equal(ask(f, "mfff,2"), "E0e");
	assert_string_equal(ask(f, "m0,ffffffffffffffff"), "E16");
	assert_string_equal(ask(f, "m0,fffffffffffffffff"), "E16");
	assert_string_equal(ask(f, "m,"), "E16");
	assert_string_equal(ask(f, "M0,2:01"), "E16");
	assert_string_equal(ask(f, "X0,5:ab"), "E16");
}

static void threads_run_step_and_stop(void **state)
{
	const struct gdb_stop stop = {
	    .cpu = 1, .signal = 5, .is_break = 1, .kind = GDB_WATCH_WRITE, .addr = 0x1234};
	struct fake *f = *state;

	assert_string_equal(ask(f, "qfThreadInfo"), "m1,2");
	assert_string_equal(ask(f, "vCont?"), "vCont;c;C;s;S");
	assert_string_equal(ask(f, "vCont;s:2;c"), "+");
	assert_int_equal(f->action[0], GDB_CONTINUE);
	assert_int_equal(f->action[1], GDB_STEP);
	/* While it runs only the interrupt byte is heard. */
	assert_string_equal(ask(f, "g"), "E10");
	assert_string_equal(ask(f, "vCont;c"), "E10");
	raw(f, "\x03");
	assert_int_equal(f->interrupts, 1);
	gdb_session_stopped(f->session, &stop);
	assert_non_null(strstr(output(f), "$T05thread:2;watch:1234;#"));
	raw(f, "\x03");
	assert_int_equal(f->interrupts, 1);
	assert_string_equal(ask(f, "vCont;s:1"), "+");
	assert_int_equal(f->action[1], GDB_STAY);
	gdb_session_stopped(f->session, &stop);
	output(f);
	assert_string_equal(ask(f, "vCont"), "E16");
	assert_string_equal(ask(f, "vCont;x"), "E16");
	assert_string_equal(ask(f, "vCont;"), "E16");
	assert_string_equal(ask(f, "vCont;c:9"), "E16");
	assert_int_equal(f->resumed, 2);
	assert_string_equal(ask(f, "c1000"), "+");
	assert_int_equal(f->cpu[1].rip, 0x1000);
	gdb_session_ended(f->session, 0);
	assert_non_null(strstr(output(f), "$W00#"));
	assert_true(gdb_session_done(f->session));
}

static void breakpoints_and_questions_are_answered(void **state)
{
	struct fake *f = *state;

	assert_string_equal(ask(f, "Z0,1000,1"), "OK");
	assert_string_equal(ask(f, "z0,1000,1"), "OK");
	assert_string_equal(ask(f, "z0,1000,1"), "E02");
	assert_string_equal(ask(f, "Z0,1000"), "E16");
	assert_string_equal(ask(f, "Z3,9999,4"), ""); /* the debugger tries another kind */
	assert_string_equal(ask(f, "Z"), "");
	assert_string_equal(ask(f, "qRcmd,6869"), "6869");
	assert_string_equal(ask(f, "qRcmd,6"), "E16");
	assert_string_equal(ask(f, "qThreadExtraInfo,1"), "637075");
	assert_int_equal(ask(f, "qXfer:features:read:target.xml:0,10")[0], 'm');
	assert_string_equal(ask(f, "qXfer:features:read:target.xml:fffff,10"), "l");
	assert_string_equal(ask(f, "D"), "OK");
	assert_int_equal(f->detached, 1);
	assert_true(gdb_session_done(f->session));
}

static void a_kill_has_no_answer(void **state)
{
	struct fake *f = *state;

	assert_string_equal(ask(f, "k"), "+");
	assert_int_equal(f->killed, 1);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    TEST(packets_are_checked_and_repeated),
	    TEST(a_packet_too_long_is_refused),
	    TEST(unknown_packets_get_the_empty_reply),
	    TEST(registers_are_read_and_written),
	    TEST(upper_halves_of_vectors_are_written_where_the_guest_has_them),
	    cmocka_unit_test_setup_teardown(avx512s_registers_are_there_where_the_guest_has_them,
					    set_up_avx512, tear_down),
	    TEST(avx512s_registers_are_not_there_where_the_guest_has_none),
	    TEST(memory_is_read_and_written),
	    TEST(threads_run_step_and_stop),
	    TEST(breakpoints_and_questions_are_answered),
	    TEST(a_kill_has_no_answer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
