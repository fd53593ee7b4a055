/* seed.h: the NoCloud seed: a small read-only volume that tells a guest who it is. */
#ifndef BACKEND_SEED_H
#define BACKEND_SEED_H

#include "base/error.h"

/* Paths and texts may be NULL. What is not given is made: a meta-data with an instance-id that goes
 * with the content. */
struct seed_config {
	const char *user_data; /* file that becomes user-data */
	const char *meta_data; /* file that becomes meta-data */
	const char *ssh_key;   /* file of public keys, one a line; not with user_data */
	const char *hostname;  /* not with meta_data */
};
#define SEED_MAX_FILE (UINT32_C(1) << 20)

_Bool seed_wanted(const struct seed_config *cfg);

/*
 * Makes the volume (FAT, label CIDATA, files user-data and meta-data) in a file without a name; *fd
 * is the caller's. A missing or strange file, a name that is none: negative errno and a sentence.
 */
NODISCARD int seed_make(const struct seed_config *cfg, int *fd, struct error *err);

#endif
