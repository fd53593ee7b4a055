/* buf.h: bounded byte buffers: a writer that grows up to a limit, a reader that cannot leave its
 * bytes. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include "base/util.h"

/* Appends; after the first failure (-ENOMEM past `limit` or from malloc) every later call is a
 * no-op and `failed` stays. */
struct wbuf {
	uint8_t *data;
	size_t len, cap, limit;
	_Bool failed;
};
void wbuf_init(struct wbuf *b, size_t limit);
void wbuf_fini(struct wbuf *b);
void wbuf_put(struct wbuf *b, const void *data, size_t len);
void wbuf_u8(struct wbuf *b, uint8_t v);
void wbuf_u16(struct wbuf *b, uint16_t v); /* little-endian, as all below */
void wbuf_u32(struct wbuf *b, uint32_t v);
void wbuf_u64(struct wbuf *b, uint64_t v);
void wbuf_zero(struct wbuf *b, size_t len);

/* Reads; a read past the end sets `failed`, yields zeroes and moves nothing. */
struct rbuf {
	const uint8_t *data;
	size_t len, pos;
	_Bool failed;
};
void rbuf_init(struct rbuf *b, const void *data, size_t len);
size_t rbuf_left(const struct rbuf *b);
const uint8_t *rbuf_take(struct rbuf *b, size_t len); /* NULL and failed when too short */
uint8_t rbuf_u8(struct rbuf *b);
uint16_t rbuf_u16(struct rbuf *b);
uint32_t rbuf_u32(struct rbuf *b);
uint64_t rbuf_u64(struct rbuf *b);

#endif
