/* unix_socket.c: Unix sockets at a path. */
#include "base/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 8

static int make_address(struct sockaddr_un *addr, const char *path, struct error *err)
{
	size_t len = strlen(path);

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (!len)
		return error_set(err, -EINVAL, "the path of a Unix socket is empty");
	if (len > UNIX_PATH_MAX_LEN)
		return error_set(
		    err, -ENAMETOOLONG,
		    "the path of the Unix socket '%.40s...' is longer than %d characters", path,
		    UNIX_PATH_MAX_LEN);
	memcpy(addr->sun_path, path, len);
	return 0;
}

static int open_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

/*
 * Two processes that find the same stale socket must not remove each other's new one: whoever owns
 * the directory takes a lock on it around the look and the removal. In a directory of another user
 * (/tmp) nobody can be made to wait; there the lock is left out.
 */
static int lock_directory(const char *path)
{
	const char *slash = strrchr(path, '/');
	char dir[UNIX_PATH_MAX_LEN + 1];
	struct stat st;
	int fd;

	if (slash)
		snprintf(dir, sizeof(dir), "%.*s", (int)(slash == path ? 1 : slash - path), path);
	else
		snprintf(dir, sizeof(dir), ".");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && (fstat(fd, &st) || st.st_uid != geteuid() || flock(fd, LOCK_EX))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Removes a socket that nobody listens at. 0, or a negative errno with a sentence. */
static int remove_stale(const struct sockaddr_un *addr, struct error *err)
{
	const char *path = addr->sun_path;
	struct stat st;
	int fd, rc;

	if (lstat(path, &st))
		return errno == ENOENT ? 0
				       : error_set(err, -errno, "cannot listen at '%s': %s", path,
						   strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, -EADDRINUSE,
				 "cannot listen at '%s': it exists and is not a socket", path);
	fd = open_socket();
	if (fd < 0)
		return error_set(err, fd, "cannot make a socket: %s", strerror(-fd));
	/* Whoever has a queue full of clients listens, too: he is not waited for. */
	rc = fcntl(fd, F_SETFL, O_NONBLOCK) ||
		     connect(fd, (const struct sockaddr *)addr, sizeof(*addr))
		 ? errno
		 : 0;
	close(fd);
	if (rc != ECONNREFUSED)
		return error_set(err, -EADDRINUSE,
				 "cannot listen at '%s': another process listens there", path);
	if (unlink(path) && errno != ENOENT)
		return error_set(err, -errno, "cannot remove the stale socket '%s': %s", path,
				 strerror(errno));
	return 0;
}

static int bind_and_listen(int fd, const struct sockaddr_un *addr, struct error *err)
{
	/* The mode of the file that bind makes: nobody else can connect in between. */
	if (fchmod(fd, 0600) || fcntl(fd, F_SETFL, O_NONBLOCK) ||
	    bind(fd, (const struct sockaddr *)addr, sizeof(*addr)))
		return error_set(err, -errno, "cannot listen at '%s': %s", addr->sun_path,
				 strerror(errno));
	if (listen(fd, BACKLOG)) {
		int rc = -errno;

		unlink(addr->sun_path);
		return error_set(err, rc, "cannot listen at '%s': %s", addr->sun_path,
				 strerror(-rc));
	}
	return 0;
}

int unix_listen(struct unix_listener *l, const char *path, struct error *err)
{
	struct sockaddr_un addr;
	struct stat st = {0};
	int rc, fd, dir;

	l->fd = -1;
	rc = make_address(&addr, path, err);
	if (rc)
		return rc;
	fd = open_socket();
	if (fd < 0)
		return error_set(err, fd, "cannot make a socket: %s", strerror(-fd));
	dir = lock_directory(path);
	rc = remove_stale(&addr, err);
	if (!rc)
		rc = bind_and_listen(fd, &addr, err);
	if (dir >= 0)
		close(dir);
	if (rc) {
		close(fd);
		return rc;
	}
	if (!lstat(path, &st)) {
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
	l->fd = fd;
	snprintf(l->path, sizeof(l->path), "%s", path);
	return 0;
}

void unix_listener_close(struct unix_listener *l)
{
	struct stat st;

	if (l->fd < 0)
		return;
	if (!lstat(l->path, &st) && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
	close(l->fd);
	l->fd = -1;
}

int unix_accept(const struct unix_listener *l)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ||
	    (peer.uid != geteuid() && peer.uid != 0)) {
		close(fd);
		return -EPERM;
	}
	return fd;
}

int unix_connect(const char *path, unsigned patience_ms, struct error *err)
{
	const struct timeval patience = {.tv_sec = patience_ms / 1000,
					 .tv_usec = patience_ms % 1000 * 1000};
	struct sockaddr_un addr;
	int fd, rc = make_address(&addr, path, err);

	if (rc)
		return rc;
	fd = open_socket();
	if (fd < 0)
		return error_set(err, fd, "cannot make a socket: %s", strerror(-fd));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (!connect(fd, (const struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	rc = -errno;
	close(fd);
	if (rc == -ECONNREFUSED)
		return error_set(err, rc, "nobody listens at '%s' any more", path);
	if (rc == -EAGAIN)
		return error_set(err, -ETIMEDOUT, "nobody answers at '%s'", path);
	return error_set(err, rc, "cannot connect to '%s': %s", path, strerror(-rc));
}
