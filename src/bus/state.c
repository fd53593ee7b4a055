/* state.c: tagged fields written to and read from bytes. */
#include "bus/state.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * A section that does not hold together changes nothing: decoding happens in a copy, and the copy
 * reaches the device only when the caller has every section of the file. The host is x86-64, so
 * elements lie in memory as they lie in the file.
 */
#define STATE_MAGIC    UINT32_C(0x74735650) /* "PVst" */
#define STATE_NAME_MAX 64

struct state_shadow {
	const struct state_desc *desc;
	void *copy;
};

static const struct state_field *field_find(const struct state_desc *desc, uint16_t tag,
					    size_t *index)
{
	for (const struct state_field *f = desc->fields; f->elem; f++) {
		if (f->tag == tag) {
			*index = (size_t)(f - desc->fields);
			return f;
		}
	}
	return NULL;
}

static size_t field_bytes(const struct state_field *f)
{
	return (size_t)f->elem * f->count;
}

void state_save(const struct state_desc *desc, unsigned instance, const void *obj, struct wbuf *out)
{
	size_t body = 0;

	for (const struct state_field *f = desc->fields; f->elem; f++) {
		assert(f->tag && field_find(desc, f->tag, &(size_t){0}) == f);
		assert(range_fits(f->offset, field_bytes(f), desc->size));
		body += 8 + field_bytes(f);
	}
	assert(strlen(desc->name) <= STATE_NAME_MAX);
	wbuf_u32(out, STATE_MAGIC);
	wbuf_u16(out, (uint16_t)strlen(desc->name));
	wbuf_put(out, desc->name, strlen(desc->name));
	wbuf_u32(out, instance);
	wbuf_u32(out, (uint32_t)body);
	for (const struct state_field *f = desc->fields; f->elem; f++) {
		wbuf_u16(out, f->tag);
		wbuf_u8(out, f->elem);
		wbuf_u8(out, 0);
		wbuf_u32(out, f->count);
		wbuf_put(out, (const uint8_t *)obj + f->offset, field_bytes(f));
	}
}

/* Reads a section's head; the reader then stands at the body. */
static int head_read(struct rbuf *in, const char **name, size_t *name_len, unsigned *instance,
		     uint32_t *body, struct error *err)
{
	if (rbuf_u32(in) != STATE_MAGIC)
		return error_set(err, -EINVAL, "saved state: no section where one should begin");
	*name_len = rbuf_u16(in);
	*name = (const char *)rbuf_take(in, *name_len);
	*instance = rbuf_u32(in);
	*body = rbuf_u32(in);
	if (in->failed || *name_len > STATE_NAME_MAX || memchr(*name, 0, *name_len) ||
	    *body > rbuf_left(in))
		return error_set(err, -EINVAL, "saved state: a section's head is damaged");
	return 0;
}

int state_peek(const struct rbuf *in, char *name, size_t size, unsigned *instance,
	       struct error *err)
{
	struct rbuf ahead = *in;
	const char *text;
	uint32_t body;
	size_t len;
	int rc = head_read(&ahead, &text, &len, instance, &body, err);

	if (rc)
		return rc;
	if (len >= size)
		return error_set(err, -EINVAL, "saved state: a section's name is too long");
	memcpy(name, text, len);
	name[len] = 0;
	return 0;
}

static int field_read(const struct state_desc *desc, struct rbuf *body, uint8_t *copy,
		      uint8_t *seen, struct error *err)
{
	uint16_t tag = rbuf_u16(body);
	uint8_t elem = rbuf_u8(body), zero = rbuf_u8(body);
	uint32_t count = rbuf_u32(body);
	size_t index;
	const struct state_field *f = field_find(desc, tag, &index);
	const uint8_t *data;

	if (body->failed)
		return error_set(err, -EINVAL, "saved state of %s is cut off", desc->name);
	if (!f)
		return error_set(err, -EINVAL,
				 "saved state of %s has field %u, which this version does not know",
				 desc->name, tag);
	if (seen[index] || zero || elem != f->elem || count != f->count)
		return error_set(err, -EINVAL, "saved state of %s: field %s has a wrong shape",
				 desc->name, f->name);
	data = rbuf_take(body, field_bytes(f));
	if (!data)
		return error_set(err, -EINVAL, "saved state of %s is cut off", desc->name);
	for (size_t i = 0; f->is_bool && i < field_bytes(f); i++) {
		if (data[i] > 1)
			return error_set(err, -EINVAL, "saved state of %s: %s is neither 0 nor 1",
					 desc->name, f->name);
	}
	memcpy(copy + f->offset, data, field_bytes(f));
	seen[index] = 1;
	return 0;
}

static int body_read(const struct state_desc *desc, struct rbuf *body, void *copy,
		     struct error *err)
{
	size_t count = 0;
	uint8_t *seen;
	int rc = 0;

	while (desc->fields[count].elem)
		count++;
	seen = calloc(count + 1, 1);
	if (!seen)
		return error_set(err, -ENOMEM, "out of memory for saved state");
	while (!rc && rbuf_left(body))
		rc = field_read(desc, body, copy, seen, err);
	free(seen);
	if (!rc && desc->check)
		rc = desc->check(copy, err);
	return rc;
}

int state_decode(const struct state_desc *desc, unsigned instance, const void *obj, struct rbuf *in,
		 struct state_shadow **out, struct error *err)
{
	struct rbuf at = *in, body;
	struct state_shadow *shadow;
	const char *name;
	uint32_t body_len;
	unsigned found;
	size_t len;
	int rc = head_read(&at, &name, &len, &found, &body_len, err);

	if (rc)
		return rc;
	if (len != strlen(desc->name) || memcmp(name, desc->name, len) || found != instance)
		return error_set(err, -EINVAL,
				 "saved state has \"%.*s\" %u where \"%s\" %u is expected",
				 (int)len, name, found, desc->name, instance);
	rbuf_init(&body, rbuf_take(&at, body_len), body_len);
	shadow = calloc(1, sizeof(*shadow));
	if (shadow)
		shadow->copy = malloc(desc->size);
	if (!shadow || !shadow->copy) {
		state_discard(shadow);
		return error_set(err, -ENOMEM, "out of memory for saved state");
	}
	shadow->desc = desc;
	memcpy(shadow->copy, obj, desc->size);
	rc = body_read(desc, &body, shadow->copy, err);
	if (rc) {
		state_discard(shadow);
		return rc;
	}
	*in = at;
	*out = shadow;
	return 0;
}

void state_commit(struct state_shadow *shadow, void *obj)
{
	for (const struct state_field *f = shadow->desc->fields; f->elem; f++)
		memcpy((uint8_t *)obj + f->offset, (const uint8_t *)shadow->copy + f->offset,
		       field_bytes(f));
	state_discard(shadow);
}

void state_discard(struct state_shadow *shadow)
{
	if (!shadow)
		return;
	free(shadow->copy);
	free(shadow);
}

/* ---- the file around the sections ---- */

static const char file_magic[8] = "PVSTATE";
#define STATE_FILE_VERSION 1

void state_file_begin(struct wbuf *out, uint32_t sections)
{
	wbuf_put(out, file_magic, sizeof(file_magic));
	wbuf_u32(out, STATE_FILE_VERSION);
	wbuf_u32(out, sections);
}

int state_file_open(struct rbuf *in, uint32_t *sections, struct error *err)
{
	const uint8_t *magic = rbuf_take(in, sizeof(file_magic));
	uint32_t version = rbuf_u32(in), count = rbuf_u32(in);

	if (in->failed || memcmp(magic, file_magic, sizeof(file_magic)))
		return error_set(err, -EINVAL, "this is not a saved state");
	if (version != STATE_FILE_VERSION)
		return error_set(err, -EINVAL, "saved state of version %u; this version reads %u",
				 version, STATE_FILE_VERSION);
	if (count > rbuf_left(in))
		return error_set(err, -EINVAL, "saved state is cut off");
	*sections = count;
	return 0;
}
