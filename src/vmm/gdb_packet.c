/* gdb_packet.c: framing of the GDB remote serial protocol. */
#include "vmm/gdb_packet.h"

#include <string.h>

enum { BETWEEN, BODY, SUM_HIGH, SUM_LOW };
#define ESCAPE '}'

void gdb_parser_init(struct gdb_parser *p)
{
	memset(p, 0, sizeof(*p));
}

int gdb_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static enum gdb_input take_between(struct gdb_parser *p, uint8_t byte)
{
	switch (byte) {
	case '$':
		p->state = BODY;
		p->len = 0;
		p->sum = 0;
		p->escaped = p->too_long = 0;
		return GDB_MORE;
	case 3: return GDB_INTERRUPT;
	case '+': return GDB_ACK;
	case '-': return GDB_NAK;
	default: return GDB_MORE;
	}
}

static void take_body(struct gdb_parser *p, uint8_t byte)
{
	if (byte == '#') {
		p->state = SUM_HIGH;
		return;
	}
	if (byte == '$') { /* the line lost the end of a packet: a new one begins */
		take_between(p, byte);
		return;
	}
	p->sum = (uint8_t)(p->sum + byte);
	if (!p->escaped && byte == ESCAPE) {
		p->escaped = 1;
		return;
	}
	if (p->len == GDB_PACKET_MAX)
		p->too_long = 1;
	else
		p->body[p->len++] = (char)(p->escaped ? byte ^ 0x20 : byte);
	p->escaped = 0;
}

enum gdb_input gdb_parser_take(struct gdb_parser *p, uint8_t byte)
{
	int digit;

	if (p->state == BETWEEN)
		return take_between(p, byte);
	if (p->state == BODY) {
		take_body(p, byte);
		return GDB_MORE;
	}
	digit = gdb_hex_digit((char)byte);
	if (digit < 0) {
		p->state = BETWEEN;
		return GDB_DAMAGED;
	}
	p->given = (uint8_t)(p->given << 4 | digit);
	if (p->state == SUM_HIGH) {
		p->state = SUM_LOW;
		return GDB_MORE;
	}
	p->state = BETWEEN;
	p->body[p->len] = 0;
	return p->given != p->sum || p->too_long || p->escaped ? GDB_DAMAGED : GDB_PACKET;
}

void gdb_packet_put(struct wbuf *out, const void *body, size_t len)
{
	static const char hex[] = "0123456789abcdef";
	const uint8_t *b = body;
	uint8_t sum = 0;

	wbuf_u8(out, '$');
	for (size_t i = 0; i < len; i++) {
		uint8_t byte = b[i];

		if (byte == '#' || byte == '$' || byte == ESCAPE || byte == '*') {
			wbuf_u8(out, ESCAPE);
			sum = (uint8_t)(sum + ESCAPE);
			byte ^= 0x20;
		}
		wbuf_u8(out, byte);
		sum = (uint8_t)(sum + byte);
	}
	wbuf_u8(out, '#');
	wbuf_u8(out, (uint8_t)hex[sum >> 4]);
	wbuf_u8(out, (uint8_t)hex[sum & 15]);
}

_Bool gdb_hex_number(const char **text, uint64_t *value)
{
	const char *p = *text;
	uint64_t v = 0;

	for (; gdb_hex_digit(*p) >= 0; p++) {
		if (v >> 60)
			return 0;
		v = v << 4 | (uint64_t)gdb_hex_digit(*p);
	}
	if (p == *text)
		return 0;
	*text = p;
	*value = v;
	return 1;
}

_Bool gdb_hex_bytes(const char *text, void *out, size_t len)
{
	uint8_t *b = out;

	for (size_t i = 0; i < len; i++) {
		int high = gdb_hex_digit(text[2 * i]);
		int low = high < 0 ? -1 : gdb_hex_digit(text[2 * i + 1]);

		if (low < 0)
			return 0;
		b[i] = (uint8_t)(high << 4 | low);
	}
	return 1;
}

void gdb_hex_put(struct wbuf *out, const void *data, size_t len)
{
	static const char hex[] = "0123456789abcdef";
	const uint8_t *b = data;

	for (size_t i = 0; i < len; i++) {
		wbuf_u8(out, (uint8_t)hex[b[i] >> 4]);
		wbuf_u8(out, (uint8_t)hex[b[i] & 15]);
	}
}
