/* buf.c: bounded byte buffers. */
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#include "base/le.h"

void wbuf_init(struct wbuf *b, size_t limit)
{
	*b = (struct wbuf){.limit = limit};
}

void wbuf_fini(struct wbuf *b)
{
	free(b->data);
	*b = (struct wbuf){.failed = 1};
}

/* Room for len more bytes, or NULL and failed. */
static uint8_t *wbuf_grow(struct wbuf *b, size_t len)
{
	uint8_t *at;

	if (b->failed || b->len > b->limit || len > b->limit - b->len) {
		b->failed = 1;
		return NULL;
	}
	if (!b->data || len > b->cap - b->len) {
		size_t want = MAX(b->len + len, (size_t)64);
		size_t cap = MIN(MAX(want, b->cap <= SIZE_MAX / 2 ? b->cap * 2 : want),
				 MAX(b->limit, (size_t)64));
		uint8_t *data = realloc(b->data, cap);

		if (!data) {
			b->failed = 1;
			return NULL;
		}
		b->data = data;
		b->cap = cap;
	}
	at = b->data + b->len;
	b->len += len;
	return at;
}

void wbuf_put(struct wbuf *b, const void *data, size_t len)
{
	uint8_t *at = wbuf_grow(b, len);

	if (at && len)
		memcpy(at, data, len);
}

void wbuf_zero(struct wbuf *b, size_t len)
{
	uint8_t *at = wbuf_grow(b, len);

	if (at)
		memset(at, 0, len);
}

void wbuf_u8(struct wbuf *b, uint8_t v)
{
	wbuf_put(b, &v, 1);
}

void wbuf_u16(struct wbuf *b, uint16_t v)
{
	uint8_t *at = wbuf_grow(b, 2);

	if (at)
		store_le16(at, v);
}

void wbuf_u32(struct wbuf *b, uint32_t v)
{
	uint8_t *at = wbuf_grow(b, 4);

	if (at)
		store_le32(at, v);
}

void wbuf_u64(struct wbuf *b, uint64_t v)
{
	uint8_t *at = wbuf_grow(b, 8);

	if (at)
		store_le64(at, v);
}

void rbuf_init(struct rbuf *b, const void *data, size_t len)
{
	*b = (struct rbuf){.data = data, .len = len};
}

size_t rbuf_left(const struct rbuf *b)
{
	return b->failed ? 0 : b->len - b->pos;
}

const uint8_t *rbuf_take(struct rbuf *b, size_t len)
{
	const uint8_t *at;

	if (b->failed || len > b->len - b->pos) {
		b->failed = 1;
		return NULL;
	}
	at = b->data + b->pos;
	b->pos += len;
	return at;
}

uint8_t rbuf_u8(struct rbuf *b)
{
	const uint8_t *p = rbuf_take(b, 1);

	return p ? *p : 0;
}

uint16_t rbuf_u16(struct rbuf *b)
{
	const uint8_t *p = rbuf_take(b, 2);

	return p ? load_le16(p) : 0;
}

uint32_t rbuf_u32(struct rbuf *b)
{
	const uint8_t *p = rbuf_take(b, 4);

	return p ? load_le32(p) : 0;
}

uint64_t rbuf_u64(struct rbuf *b)
{
	const uint8_t *p = rbuf_take(b, 8);

	return p ? load_le64(p) : 0;
}
