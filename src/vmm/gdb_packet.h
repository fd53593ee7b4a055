/* gdb_packet.h: framing of the GDB remote serial protocol: bytes to packets and back. */
#ifndef VMM_GDB_PACKET_H
#define VMM_GDB_PACKET_H

#include "base/buf.h"

/* The "GDB Remote Serial Protocol" appendix of GDB's manual is the specification (GDB E.1). */
#define GDB_PACKET_MAX 16384 /* bytes of a packet's body, before unescaping */

enum gdb_input {
	GDB_MORE,      /* nothing complete yet */
	GDB_PACKET,    /* a packet: body[0..len), unescaped, with a zero behind it */
	GDB_DAMAGED,   /* a packet with a wrong checksum, or too long */
	GDB_INTERRUPT, /* the interrupt byte 0x03 */
	GDB_ACK,
	GDB_NAK,
};

struct gdb_parser {
	char body[GDB_PACKET_MAX + 1];
	size_t len;
	uint8_t state, sum, given;
	_Bool escaped, too_long;
};

void gdb_parser_init(struct gdb_parser *p);
/* Takes one byte; the packet is valid until the next call. */
enum gdb_input gdb_parser_take(struct gdb_parser *p, uint8_t byte);

/* Appends "$body#sum" with what must be escaped escaped. */
void gdb_packet_put(struct wbuf *out, const void *body, size_t len);

/* Hexadecimal: the value of a digit or -1; a number (at most 64 bits; moves *text on; false when
 * there is no digit or too many); bytes in memory order. */
int gdb_hex_digit(char c);
_Bool gdb_hex_number(const char **text, uint64_t *value);
/* Decodes 2 * len digits; false when there are other characters. */
_Bool gdb_hex_bytes(const char *text, void *out, size_t len);
void gdb_hex_put(struct wbuf *out, const void *data, size_t len);

#endif
