/* rundir.h: the directory in which a user's running VMs are found by name. */
#ifndef VMM_RUNDIR_H
#define VMM_RUNDIR_H

#include "base/error.h"

/*
 * $XDG_RUNTIME_DIR/polyvisor, or /tmp/polyvisor-UID where that variable names no directory of this
 * user's; mode 0700, made when missing. A VM named NAME has its control socket there as NAME.sock.
 */
#define RUNDIR_NAME_MAX 64

/* 1 to 64 letters, digits, '-', '_' and '.', not beginning with '.' or '-'. 0, or -EINVAL with a
 * sentence. */
NODISCARD int rundir_check_name(const char *name, struct error *err);

/* The socket of a name, whether there or not. `len` is that of a Unix socket's path. */
NODISCARD int rundir_socket(const char *name, char *path, size_t len, struct error *err);

/* Calls fn for every socket in the directory, stale ones too, in order of name. */
NODISCARD int rundir_each(void (*fn)(void *opaque, const char *name, const char *path),
			  void *opaque, struct error *err);

#endif
