/* spec_vsock.c: parsing of the virtio socket device. */
#include "proto/spec.h"

#include <errno.h>
#include <string.h>

int spec_parse_vsock(char *text, struct spec_vsock *out, struct error *err)
{
	char *comma = strchr(text, ',');
	uint64_t cid;
	int r;

	if (!comma || strncmp(comma, ",unix:", 6) || !comma[6])
		return error_set(
		    err, -EINVAL,
		    "--vsock '%s' is not CID,unix:PATH: the guest's number and the Unix "
		    "socket that leads to it",
		    text);
	*comma = 0;
	r = spec_parse_number("--vsock: the guest's CID", text, 3, UINT32_MAX - 1, &cid, err);
	if (!r)
		*out = (struct spec_vsock){.cid = (uint32_t)cid, .path = comma + 6};
	return r;
}
