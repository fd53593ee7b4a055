/* p9_fid.c: what a guest holds of a shared directory, and how names become files there. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "backend/p9_impl.h"

/*
 * How the share is kept closed. A fid is an O_PATH descriptor, which stands for one file whatever
 * happens to names. A new one is made in exactly one way, p9_step: one component, without a slash
 * and never "..", opened from a descriptor of a directory with O_PATH | O_NOFOLLOW. That gives a
 * child or a symbolic link itself, never what a link points to, so that there is no moment at which
 * a name could be swapped for something else; openat2 says the same once more to the kernel. Links
 * are for the guest to follow: it reads them and walks what it finds, from its own root.
 *
 * ".." is not asked of the kernel either: a directory may have been moved out of the share by
 * somebody on the host. The parent is found by the path that the descriptor has now, walked again
 * from the root.
 *
 * O_PATH opens nothing, so devices and FIFOs do not notice. Only regular files and directories are
 * opened for real, through /proc/self/fd: it is the same file, whatever its name leads to by now.
 * Files of /proc, which can lead to other processes' memory, are not given out.
 */

static unsigned bucket_of(uint32_t id)
{
	return (id * 0x9e3779b1u) >> 22;
}
_Static_assert(P9_BUCKETS == 1u << (32 - 22), "bucket_of");

struct p9_fid *fid_find(const struct p9 *s, uint32_t id)
{
	struct p9_fid *f = s->bucket[bucket_of(id)];

	while (f && f->id != id)
		f = f->next;
	return f;
}

int fid_get(struct p9 *s, uint32_t id, struct p9_fid **fid)
{
	struct p9_fid *f = fid_find(s, id);

	if (!f)
		return -EBADF;
	if (f->kind == FID_LOST)
		return -ESTALE;
	*fid = f;
	return 0;
}

int fid_get_path(struct p9 *s, uint32_t id, struct p9_fid **fid)
{
	int r = fid_get(s, id, fid);

	if (!r && (*fid)->kind != FID_PATH && (*fid)->kind != FID_OPEN)
		return -EBADF;
	return r;
}

int fid_get_open(struct p9 *s, uint32_t id, struct p9_fid **fid)
{
	int r = fid_get(s, id, fid);

	return !r && (*fid)->kind != FID_OPEN ? -EBADF : r;
}

int fid_add(struct p9 *s, uint32_t id, int fd, struct p9_fid **fid)
{
	struct p9_fid *f = s->free;
	int r = 0;

	if (id == P9_NOFID || fid_find(s, id))
		r = -EBADF;
	else if (!f)
		r = -EMFILE;
	if (r) {
		if (fd >= 0)
			close(fd);
		return r;
	}
	s->free = f->next;
	*f = (struct p9_fid){.id = id, .fd = fd, .next = s->bucket[bucket_of(id)]};
	s->bucket[bucket_of(id)] = f;
	s->fid_count++;
	*fid = f;
	return 0;
}

void fid_drop(struct p9 *s, struct p9_fid *fid)
{
	struct p9_fid **at = &s->bucket[bucket_of(fid->id)];

	while (*at != fid)
		at = &(*at)->next;
	*at = fid->next;
	if (fid->fd >= 0)
		close(fid->fd);
	if (fid->xattr) {
		free(fid->xattr);
		s->xattrs--;
	}
	*fid = (struct p9_fid){.fd = -1, .next = s->free};
	s->free = fid;
	s->fid_count--;
}

void fid_drop_all(struct p9 *s)
{
	for (unsigned b = 0; b < P9_BUCKETS; b++)
		while (s->bucket[b])
			fid_drop(s, s->bucket[b]);
}

unsigned p9_fids(const struct p9 *p9)
{
	return p9->fid_count;
}

/* ---- names ---- */

static int open_child(struct p9 *s, int dir, const char *name)
{
	const struct open_how how = {
	    .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	if (s->no_openat2)
		return openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	do /* EAGAIN: something was renamed meanwhile */
		fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));
	while (fd < 0 && (errno == EAGAIN || errno == EINTR));
	return (int)fd;
}

int p9_step(struct p9 *s, int dir, const char *name)
{
	struct statfs fs;
	int fd = open_child(s, dir, name);

	if (fd < 0)
		return -errno;
	if (fstatfs(fd, &fs) || fs.f_type == PROC_SUPER_MAGIC) {
		close(fd);
		return -EACCES;
	}
	return fd;
}

int p9_beneath(struct p9 *s, const char *path)
{
	struct p9_name name;
	int fd = fcntl(s->root, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	while (*path) {
		size_t len = strcspn(path, "/");
		int next;

		if (len) {
			if (len > NAME_MAX || (len == 1 && path[0] == '.') ||
			    (len == 2 && path[0] == '.' && path[1] == '.')) {
				close(fd);
				return len > NAME_MAX ? -ENAMETOOLONG : -ENOENT;
			}
			memcpy(name.s, path, len);
			name.s[len] = 0;
			next = p9_step(s, fd, name.s);
			close(fd);
			if (next < 0)
				return next;
			fd = next;
		}
		path += len + (path[len] == '/');
	}
	return fd;
}

struct p9_link p9_link(int fd)
{
	struct p9_link l;

	snprintf(l.s, sizeof(l.s), "%d", fd);
	return l;
}

static int host_path(struct p9 *s, int fd, char path[PATH_MAX])
{
	ssize_t n = readlinkat(s->proc, p9_link(fd).s, path, PATH_MAX - 1);

	if (n < 0)
		return -errno;
	path[n] = 0;
	return path[0] == '/' ? 0 : -ENOENT;
}

int p9_path_of(struct p9 *s, int fd, char path[PATH_MAX])
{
	char root[PATH_MAX];
	size_t len;
	int r = host_path(s, s->root, root);

	if (!r)
		r = host_path(s, fd, path);
	if (r)
		return r;
	len = strlen(root);
	while (len && root[len - 1] == '/')
		len--;
	if (strncmp(path, root, len) || (path[len] && path[len] != '/'))
		return -ENOENT;
	while (path[len] == '/')
		len++;
	memmove(path, path + len, strlen(path + len) + 1);
	return 0;
}

/* Is that name in that directory this file? */
static _Bool is_there(int parent, const char *name, int fd)
{
	struct stat a, b;

	return !fstatat(parent, name, &a, AT_SYMLINK_NOFOLLOW) && !fstat(fd, &b) &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int p9_parent_of(struct p9 *s, int fd, int *parent, struct p9_name *name)
{
	char path[PATH_MAX], *last;
	int r = p9_path_of(s, fd, path), dir;

	if (r)
		return r;
	if (!path[0])
		return -EBUSY;
	last = strrchr(path, '/');
	if (strlen(last ? last + 1 : path) > NAME_MAX)
		return -ENOENT; /* "(deleted)" behind a long name */
	strcpy(name->s, last ? last + 1 : path);
	*(last ? last : path) = 0;
	dir = p9_beneath(s, path);
	if (dir < 0)
		return dir;
	if (!is_there(dir, name->s, fd)) {
		close(dir);
		return -ENOENT;
	}
	*parent = dir;
	return 0;
}

int p9_reopen(struct p9 *s, int fd, int flags)
{
	struct stat st;
	int r;

	if (fstat(fd, &st))
		return -errno;
	if (S_ISLNK(st.st_mode))
		return -ELOOP;
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return -ENXIO; /* opening it could block, or do something */
	if (S_ISDIR(st.st_mode) && (flags & (O_ACCMODE | O_TRUNC)))
		return -EISDIR;
	if (!S_ISDIR(st.st_mode) && (flags & O_DIRECTORY))
		return -ENOTDIR;
	r = openat(s->proc, p9_link(fd).s, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return r < 0 ? -errno : r;
}
