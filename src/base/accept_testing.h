/* accept_testing.h: an accept4 that fails for want of descriptors as often as a test says: for the
 * one test program that includes it. */
#ifndef BASE_ACCEPT_TESTING_H
#define BASE_ACCEPT_TESTING_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/host_time.h"

static _Atomic int accepts_denied; /* how many more fail */

int accept4(int fd, __SOCKADDR_ARG addr, socklen_t *len, int flags)
{
	if (atomic_load(&accepts_denied) > 0) {
		atomic_fetch_sub(&accepts_denied, 1);
		errno = EMFILE;
		return -1;
	}
	return (int)syscall(SYS_accept4, fd, addr.__sockaddr__, len, flags);
}

#endif
