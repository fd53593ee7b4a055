/* spec_virtio.c: parsing of ports, the balloon and the source of random numbers. */
#include "proto/spec.h"

#include <errno.h>
#include <string.h>

#define RATE_MAX (UINT64_C(1) << 30)

static _Bool name_fits(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < n; i++)
		if (name[i] <= ' ' || name[i] > '~' || name[i] == '/')
			return 0;
	return n && n <= SPEC_MAX_PORT_NAME && strcmp(name, ".") && strcmp(name, "..");
}

int spec_parse_port(char *text, struct spec_port *port, struct error *err)
{
	char *to = strchr(text, '=');

	if (!to || strncmp(to + 1, "unix:", 5) || !to[6])
		return error_set(err, -EINVAL, "--port '%s' is not of the form NAME=unix:PATH",
				 text);
	*to = 0;
	if (!name_fits(text))
		return error_set(err, -EINVAL,
				 "--port: the name '%s' does not have 1 to %d letters, digits and "
				 "signs other than '/'",
				 text, SPEC_MAX_PORT_NAME);
	*port = (struct spec_port){.name = text, .path = to + 6};
	return 0;
}

/* The next item of a list into `item`; false at its end. -E2BIG shows as an empty `item`. */
static _Bool next_item(const char **text, char item[64])
{
	size_t n;

	if (!*text)
		return 0;
	n = strcspn(*text, ",");
	item[0] = 0;
	if (n < 64) {
		memcpy(item, *text, n);
		item[n] = 0;
	}
	*text = (*text)[n] ? *text + n + 1 : NULL;
	return 1;
}

static int balloon_option(const char *item, _Bool first, struct spec_balloon *b, struct error *err)
{
	uint64_t n;
	int r;

	if (!strcmp(item, "deflate-on-oom")) {
		b->deflate_on_oom = 1;
	} else if (!strcmp(item, "free-page-reporting")) {
		b->free_page_reporting = 1;
	} else if (!strncmp(item, "stats=", 6)) {
		r = spec_parse_number("--balloon: stats", item + 6, 0, SPEC_MAX_INTERVAL, &n, err);
		if (r)
			return r;
		b->stats_seconds = (unsigned)n;
	} else if (first && *item >= '0' && *item <= '9') {
		return spec_parse_memory(item, &b->bytes, err);
	} else {
		return error_set(err, -EINVAL,
				 "--balloon: '%s' is not none, a size, or one of deflate-on-oom, "
				 "free-page-reporting, stats=SECONDS",
				 item);
	}
	return 0;
}

int spec_parse_balloon(const char *text, struct spec_balloon *balloon, struct error *err)
{
	struct spec_balloon b = {.stats_seconds = balloon->stats_seconds};
	_Bool first = 1;
	char item[64];
	int r = 0;

	if (!strcmp(text, "none")) {
		balloon->absent = 1;
		return 0;
	}
	for (; !r && next_item(&text, item); first = 0)
		r = balloon_option(item, first, &b, err);
	if (!r)
		*balloon = b;
	return r;
}

int spec_parse_rng(const char *text, struct spec_rng *rng, struct error *err)
{
	uint64_t rate;
	int r;

	if (!strcmp(text, "none")) {
		rng->absent = 1;
		return 0;
	}
	if (strncmp(text, "rate=", 5))
		return error_set(err, -EINVAL, "--rng '%s' is not none or rate=SIZE", text);
	r = spec_parse_memory(text + 5, &rate, NULL);
	if (r || !rate || rate > RATE_MAX)
		return error_set(err, -EINVAL,
				 "--rng: rate '%s' is not a size such as 64K, up to 1G, for each "
				 "second",
				 text + 5);
	*rng = (struct spec_rng){.rate = rate};
	return 0;
}

int spec_check_virtio(const struct vm_spec *spec, struct error *err)
{
	for (unsigned i = 0; i < spec->port_count; i++)
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(spec->port[i].name, spec->port[j].name))
				return error_set(err, -EINVAL, "--port: there are two named '%s'",
						 spec->port[i].name);
	if (spec->balloon.bytes > spec->memory_bytes)
		return error_set(err, -EINVAL,
				 "--balloon: %llu MiB are more than the guest's %llu MiB",
				 (unsigned long long)spec->balloon.bytes >> 20,
				 (unsigned long long)spec->memory_bytes >> 20);
	return 0;
}
