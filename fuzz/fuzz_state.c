/* fuzz_state.c: saved state from a file that nobody vouches for. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "bus/state.h"

struct sample {
	uint8_t mode;
	_Bool enabled;
	_Bool flags[5];
	uint16_t divisor;
	uint32_t table[8];
	uint64_t deadline_ns;
	const void *owner;
};

static int sample_check(const void *shadow, struct error *err)
{
	const struct sample *s = shadow;

	return s->mode > 5 ? error_set(err, -22, "mode %u", s->mode) : 0;
}

static const struct state_field fields[] = {
    STATE_SCALAR(1, struct sample, mode),
    STATE_BOOL(2, struct sample, enabled),
    STATE_SCALAR(3, struct sample, divisor),
    STATE_ARRAY(4, struct sample, table, 8),
    {.tag = 5,
     .elem = 1,
     .is_bool = 1,
     .offset = offsetof(struct sample, flags),
     .count = 5,
     .name = "flags"},
    STATE_SCALAR(9, struct sample, deadline_ns),
    STATE_END,
};
static const struct state_desc desc = {
    .name = "sample", .fields = fields, .size = sizeof(struct sample), .check = sample_check};

/* What was accepted is sane, and comes back from a save as it went in. */
static void check_accepted(struct state_shadow *shadow, struct sample *live)
{
	struct state_shadow *again;
	struct sample twin = {.owner = live};
	struct wbuf w;
	struct rbuf r;

	state_commit(shadow, live);
	assert(live->mode <= 5 && live->owner == live);
	wbuf_init(&w, 4096);
	state_save(&desc, 0, live, &w);
	rbuf_init(&r, w.data, w.len);
	if (state_decode(&desc, 0, &twin, &r, &again, NULL))
		abort();
	state_commit(again, &twin);
	if (twin.mode != live->mode || memcmp(twin.table, live->table, sizeof(twin.table)) ||
	    twin.deadline_ns != live->deadline_ns)
		abort();
	wbuf_fini(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sample live = {.mode = 1, .enabled = 1, .owner = &live};
	struct rbuf file, section;
	uint32_t sections;
	unsigned instance;
	char name[32];

	rbuf_init(&section, data, size);
	rbuf_init(&file, data, size);
	if (!state_file_open(&file, &sections, NULL)) {
		assert(sections <= size);
		section = file;
	}
	while (!state_peek(&section, name, sizeof(name), &instance, NULL)) {
		struct state_shadow *shadow;
		struct sample before = live;
		struct error err = {0};

		if (state_decode(&desc, 0, &live, &section, &shadow, &err)) {
			assert(err.text[0] && !memcmp(&before, &live, sizeof(live)));
			break;
		}
		check_accepted(shadow, &live);
	}
	return 0;
}
