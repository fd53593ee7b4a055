/* spec_share.c: parsing of shared directories. */
#include "proto/spec.h"

#include <errno.h>
#include <string.h>

static _Bool tag_good(const char *tag, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)tag[i] <= ' ' || tag[i] == 127 || tag[i] == ',')
			return 0;
	return len && len <= SPEC_MAX_SHARE_TAG;
}

/* The directory's own name, without slashes at its end. */
static int default_tag(const char *path, struct spec_share *share, struct error *err)
{
	size_t end = strlen(path), start;

	while (end && path[end - 1] == '/')
		end--;
	for (start = end; start && path[start - 1] != '/'; start--)
		;
	if (!tag_good(path + start, end - start) || path[start] == '.')
		return error_set(
		    err, -EINVAL,
		    "--share '%s': the directory's name cannot be the tag by which the "
		    "guest mounts it; give one: --share DIR:TAG",
		    path);
	memcpy(share->tag, path + start, end - start);
	share->tag[end - start] = 0;
	return 0;
}

int spec_parse_share(char *text, struct spec_share *out, struct error *err)
{
	struct spec_share share = {.path = text};
	char *colon = strrchr(text, ':');

	if (colon && !strcmp(colon, ":ro")) {
		share.read_only = 1;
		*colon = 0;
		colon = strrchr(text, ':');
	}
	/* A colon with a slash behind it belongs to the directory. */
	if (colon && !strchr(colon, '/')) {
		*colon++ = 0;
		if (!tag_good(colon, strlen(colon)))
			return error_set(
			    err, -EINVAL,
			    "--share: the tag '%s' does not have 1 to %d bytes without "
			    "spaces and commas",
			    colon, SPEC_MAX_SHARE_TAG);
		strcpy(share.tag, colon);
	}
	if (!text[0])
		return error_set(err, -EINVAL, "--share: the name of the directory is missing");
	if (!share.tag[0]) {
		int r = default_tag(text, &share, err);

		if (r)
			return r;
	}
	*out = share;
	return 0;
}

int spec_check_shares(const struct vm_spec *spec, struct error *err)
{
	for (unsigned i = 0; i < spec->share_count; i++)
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(spec->share[i].tag, spec->share[j].tag))
				return error_set(err, -EINVAL,
						 "two shares have the tag '%s'; give one of them "
						 "another: --share DIR:TAG",
						 spec->share[i].tag);
	return 0;
}
