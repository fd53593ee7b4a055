/* state.h: saved state: a table of tagged fields per structure, encoded the same on every host,
 * loaded as hostile input. */
#ifndef BUS_STATE_H
#define BUS_STATE_H

#include "base/buf.h"
#include "base/error.h"

/*
 * A structure's saved fields. Tags are unique in a table and never reused; a field that is gone
 * leaves its tag unused for ever. Encoding of a section: u32 magic "PVst", string name (u16 length
 * + bytes), u32 instance, u32 body length, then per field u16 tag, u8 element size, u8 zero, u32
 * element count, elements little-endian. A reader skips no unknown tag: it refuses (saved state
 * from a newer version is not silently cut). A tag that is missing keeps the value that reset gave
 * it, so that old state loads.
 */
struct state_field {
	uint16_t tag;
	uint8_t elem;	 /* bytes of one element: 1, 2, 4 or 8 */
	uint8_t is_bool; /* only 0 and 1 are accepted */
	uint32_t offset;
	uint32_t count;
	const char *name;
};

#define STATE_FIELD_(tag_, type_, f_, n_, bool_)                                                   \
	{                                                                                          \
		.tag = (tag_), .elem = sizeof(((type_ *)0)->f_) / (n_), .is_bool = (bool_),        \
		.offset = offsetof(type_, f_), .count = (n_), .name = #f_                          \
	}
/* A scalar (1, 2, 4 or 8 bytes; enums too), a bool, an array of scalars (all dimensions flattened:
 * give the total count). */
#define STATE_SCALAR(tag, type, f)   STATE_FIELD_(tag, type, f, 1, 0)
#define STATE_BOOL(tag, type, f)     STATE_FIELD_(tag, type, f, 1, 1)
#define STATE_ARRAY(tag, type, f, n) STATE_FIELD_(tag, type, f, n, 0)
#define STATE_END                                                                                  \
	{                                                                                          \
		.tag = 0, .elem = 0                                                                \
	}

struct state_desc {
	const char *name;		  /* of the section, for example "uart16550" */
	const struct state_field *fields; /* ends with STATE_END; tags start at 1 */
	size_t size;			  /* of the structure */
	/* Looks at a decoded shadow copy of the structure; 0, or -EINVAL with a sentence. Must not
	 * follow pointers that the structure's live twin owns for writing. May be NULL. */
	int (*check)(const void *shadow, struct error *err);
};

void state_save(const struct state_desc *desc, unsigned instance, const void *obj,
		struct wbuf *out);

/*
 * Two steps. state_decode reads one section into a freshly allocated copy of `obj` and checks it:
 * nothing live changes. state_commit copies the fields (only those of the table) into the live
 * structure and frees the copy; state_discard frees it.
 */
struct state_shadow;
NODISCARD int state_decode(const struct state_desc *desc, unsigned instance, const void *obj,
			   struct rbuf *in, struct state_shadow **shadow, struct error *err);
void state_commit(struct state_shadow *shadow, void *obj);
void state_discard(struct state_shadow *shadow); /* NULL is fine */

/* The name and instance of the section that a reader stands before; the reader does not move. */
NODISCARD int state_peek(const struct rbuf *in, char *name, size_t size, unsigned *instance,
			 struct error *err);

/*
 * What stands before the sections in a file: magic, version, number of sections. A reader that has
 * read them all and has bytes left refuses the file.
 */
void state_file_begin(struct wbuf *out, uint32_t sections);
NODISCARD int state_file_open(struct rbuf *in, uint32_t *sections, struct error *err);

#endif
