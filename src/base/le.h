/* le.h: little-endian integers as types that do not compile in arithmetic, and loads and stores at
 * unaligned places. */
#ifndef BASE_LE_H
#define BASE_LE_H

#include <string.h>
#include <stdint.h>

struct le16 {
	uint8_t b[2];
};
struct le32 {
	uint8_t b[4];
};
struct le64 {
	uint8_t b[8];
};

static inline uint16_t load_le16(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t load_le32(const void *p)
{
	return load_le16(p) | (uint32_t)load_le16((const uint8_t *)p + 2) << 16;
}
static inline uint64_t load_le64(const void *p)
{
	return load_le32(p) | (uint64_t)load_le32((const uint8_t *)p + 4) << 32;
}
static inline void store_le16(void *p, uint16_t v)
{
	uint8_t *b = p;
	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}
static inline void store_le32(void *p, uint32_t v)
{
	store_le16(p, (uint16_t)v);
	store_le16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}
static inline void store_le64(void *p, uint64_t v)
{
	store_le32(p, (uint32_t)v);
	store_le32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}
static inline uint16_t le16_get(struct le16 v)
{
	return load_le16(v.b);
}
static inline uint32_t le32_get(struct le32 v)
{
	return load_le32(v.b);
}
static inline uint64_t le64_get(struct le64 v)
{
	return load_le64(v.b);
}
static inline struct le16 le16_make(uint16_t v)
{
	struct le16 r;
	store_le16(r.b, v);
	return r;
}
static inline struct le32 le32_make(uint32_t v)
{
	struct le32 r;
	store_le32(r.b, v);
	return r;
}
static inline struct le64 le64_make(uint64_t v)
{
	struct le64 r;
	store_le64(r.b, v);
	return r;
}

#endif
