/* p9_attr.c: what a share's files are: attributes, file system, link targets, extended attributes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "backend/p9_impl.h"

#define GETATTR_BASIC 0x7ffu

static void out_time(struct p9_out *out, const struct timespec *t)
{
	out_u64(out, (uint64_t)t->tv_sec);
	out_u64(out, (uint64_t)t->tv_nsec);
}

int p9_getattr(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	static const struct timespec never;
	uint32_t id = rbuf_u32(in);
	struct p9_fid *f;
	struct stat st;
	int r;

	rbuf_u64(in); /* what is wanted; it costs nothing to tell all */
	r = in->failed ? -EBADMSG : fid_get_path(s, id, &f);
	if (r)
		return r;
	if (fstat(f->fd, &st))
		return -errno;
	out_u64(out, GETATTR_BASIC);
	out_qid(out, s, &st);
	out_u32(out, st.st_mode);
	out_u32(out, st.st_uid);
	out_u32(out, st.st_gid);
	out_u64(out, st.st_nlink);
	out_u64(out, st.st_rdev);
	out_u64(out, (uint64_t)st.st_size);
	out_u64(out, (uint64_t)st.st_blksize);
	out_u64(out, (uint64_t)st.st_blocks);
	out_time(out, &st.st_atim);
	out_time(out, &st.st_mtim);
	out_time(out, &st.st_ctim);
	out_time(out, &never); /* when it was made, generation, data version: not told */
	out_u64(out, 0);
	out_u64(out, 0);
	return 0;
}

enum {
	SET_MODE = 1,
	SET_UID = 2,
	SET_GID = 4,
	SET_SIZE = 8,
	SET_ATIME = 0x10,
	SET_MTIME = 0x20,
	SET_CTIME = 0x40,
	SET_ATIME_TO = 0x80,
	SET_MTIME_TO = 0x100,
};

struct setattr {
	uint32_t valid, mode, uid, gid;
	uint64_t size;
	struct timespec times[2];
};

static void time_choose(struct timespec *t, _Bool set, _Bool to)
{
	if (!set)
		t->tv_nsec = UTIME_OMIT;
	else if (!to)
		t->tv_nsec = UTIME_NOW;
}

/* An ordinary user cannot give files away: then they stay this user's, as everything that the
 * guest makes does, and the guest's chown is not an error. */
static int set_owner(int fd, const struct setattr *a)
{
	uid_t uid = a->valid & SET_UID ? a->uid : (uid_t)-1;
	gid_t gid = a->valid & SET_GID ? a->gid : (gid_t)-1;

	if (uid == (uid_t)-1 && gid == (gid_t)-1)
		return 0;
	return fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) && errno != EPERM
		   ? -errno
		   : 0;
}

static int set_size(struct p9 *s, const struct p9_fid *f, const struct stat *st, uint64_t size)
{
	int fd, r;

	if (!S_ISREG(st->st_mode))
		return S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL;
	if (size > INT64_MAX)
		return -EFBIG;
	if (f->kind == FID_OPEN && (f->flags & O_ACCMODE) != O_RDONLY)
		return ftruncate(f->fd, (off_t)size) ? -errno : 0;
	fd = p9_reopen(s, f->fd, O_WRONLY);
	if (fd < 0)
		return fd;
	r = ftruncate(fd, (off_t)size) ? -errno : 0;
	close(fd);
	return r;
}

static int set_times(struct p9 *s, int fd, const struct stat *st, struct setattr *a)
{
	if (!(a->valid & (SET_ATIME | SET_MTIME)))
		return 0;
	time_choose(&a->times[0], a->valid & SET_ATIME, a->valid & SET_ATIME_TO);
	time_choose(&a->times[1], a->valid & SET_MTIME, a->valid & SET_MTIME_TO);
	return utimensat(s->proc, p9_link(fd).s, a->times, 0) ? -errno : 0;
}

static int set_all(struct p9 *s, struct p9_fid *f, struct setattr *a)
{
	struct stat st;
	int r = fstat(f->fd, &st) ? -errno : 0;

	if (!r && a->valid & SET_SIZE)
		r = set_size(s, f, &st, a->size);
	if (!r)
		r = set_owner(f->fd, a);
	if (!r && a->valid & SET_MODE) {
		mode_t mode = p9_mode(a->mode, S_ISDIR(st.st_mode));

		if (S_ISLNK(st.st_mode))
			r = -EOPNOTSUPP;
		else if (fchmodat(s->proc, p9_link(f->fd).s, mode, 0))
			r = -errno;
	}
	return r ? r : set_times(s, f->fd, &st, a);
}

int p9_setattr(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	struct setattr a = {.valid = rbuf_u32(in)};
	struct p9_fid *f;
	int r;

	a.mode = rbuf_u32(in);
	a.uid = rbuf_u32(in);
	a.gid = rbuf_u32(in);
	a.size = rbuf_u64(in);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t sec = rbuf_u64(in), nsec = rbuf_u64(in);

		a.times[i] = (struct timespec){(time_t)sec, (long)MIN(nsec, UINT64_C(999999999))};
	}
	r = in->failed ? -EBADMSG : fid_get_path(s, id, &f);
	return r ? r : set_all(s, f, &a);
}

int p9_statfs(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	struct statfs fs;
	struct p9_fid *f;
	uint64_t fsid;
	int r = in->failed ? -EBADMSG : fid_get_path(s, id, &f);

	if (r)
		return r;
	if (fstatfs(f->fd, &fs))
		return -errno;
	memcpy(&fsid, &fs.f_fsid, sizeof(fsid));
	out_u32(out, 0x01021997); /* V9FS_MAGIC */
	out_u32(out, (uint32_t)fs.f_bsize);
	out_u64(out, fs.f_blocks);
	out_u64(out, fs.f_bfree);
	out_u64(out, fs.f_bavail);
	out_u64(out, fs.f_files);
	out_u64(out, fs.f_ffree);
	out_u64(out, fsid);
	out_u32(out, (uint32_t)fs.f_namelen);
	return 0;
}

int p9_readlink(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	char target[PATH_MAX];
	struct p9_fid *f;
	ssize_t n;
	int r = in->failed ? -EBADMSG : fid_get_path(s, id, &f);

	if (r)
		return r;
	n = readlinkat(f->fd, "", target, sizeof(target));
	if (n < 0) /* not a link */
		return errno == ENOENT ? -EINVAL : -errno;
	out_str(out, target, (size_t)n);
	return 0;
}

/* ---- extended attributes: those of users only ---- */

/* The way through /proc, as the calls for extended attributes take no directory. */
struct xattr_path {
	char s[40];
};

static struct xattr_path xattr_path(int fd)
{
	struct xattr_path p;

	snprintf(p.s, sizeof(p.s), "/proc/self/fd/%d", fd);
	return p;
}

static _Bool xattr_ours(const char *name)
{
	return !strncmp(name, "user.", 5) && name[5];
}

/* Takes the other names out of a list. */
static uint32_t list_filter(uint8_t *list, size_t len)
{
	size_t at = 0, kept = 0;

	while (at < len) {
		size_t n = strnlen((char *)list + at, len - at) + 1;

		if (at + n <= len && xattr_ours((char *)list + at)) {
			memmove(list + kept, list + at, n);
			kept += n;
		}
		at += n;
	}
	return (uint32_t)kept;
}

static int xattr_make(struct p9 *s, struct p9_xattr **x)
{
	if (s->xattrs == P9_XATTRS_MAX)
		return -EMFILE;
	*x = calloc(1, sizeof(**x));
	if (!*x)
		return -ENOMEM;
	return 0;
}

static int xattr_fetch(int fd, const char *name, struct p9_xattr *x)
{
	struct xattr_path path = xattr_path(fd);
	ssize_t n;

	if (!name[0])
		n = listxattr(path.s, (char *)x->value, sizeof(x->value));
	else if (xattr_ours(name))
		n = getxattr(path.s, name, x->value, sizeof(x->value));
	else
		return -EOPNOTSUPP;
	if (n < 0)
		return -errno;
	x->size = name[0] ? (uint32_t)n : list_filter(x->value, (size_t)n);
	return 0;
}

int p9_xattrwalk(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), newid = rbuf_u32(in);
	struct p9_fid *f, *made;
	struct p9_xattr *x = NULL;
	char name[256];
	int r = in_text(in, name, sizeof(name));

	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get_path(s, id, &f);
	if (!r && fid_find(s, newid))
		r = -EBADF;
	if (!r)
		r = xattr_make(s, &x);
	if (!r)
		r = xattr_fetch(f->fd, name, x);
	if (!r)
		r = fid_add(s, newid, -1, &made);
	if (r) {
		free(x);
		return r;
	}
	s->xattrs++;
	made->kind = FID_XATTR;
	made->xattr = x;
	out_u64(out, x->size);
	return 0;
}

/* The fid stands for the value from now on; it is set when the fid is let go. */
int p9_xattrcreate(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), flags;
	struct p9_xattr *x;
	struct p9_fid *f;
	char name[256];
	uint64_t size;
	int r = in_text(in, name, sizeof(name));

	size = rbuf_u64(in);
	flags = rbuf_u32(in);
	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get(s, id, &f);
	if (r)
		return r;
	if (f->kind != FID_PATH)
		return -EBUSY;
	if (!xattr_ours(name))
		return -EOPNOTSUPP;
	if (size > P9_XATTR_BYTES)
		return -ENOSPC;
	if (flags & ~(uint32_t)(XATTR_CREATE | XATTR_REPLACE))
		return -EINVAL;
	r = xattr_make(s, &x);
	if (r)
		return r;
	s->xattrs++;
	strcpy(x->name, name);
	x->size = (uint32_t)size;
	x->flags = flags;
	f->kind = FID_XATTRW;
	f->xattr = x;
	return 0;
}

int p9_xattr_read(struct p9_fid *f, uint64_t offset, uint32_t count, struct p9_out *out)
{
	const struct p9_xattr *x = f->xattr;
	uint32_t n = offset < x->size ? (uint32_t)MIN((uint64_t)count, x->size - offset) : 0;

	out_u32(out, n);
	out_put(out, x->value + (n ? offset : 0), n);
	return 0;
}

int p9_xattr_write(struct p9_fid *f, uint64_t offset, const uint8_t *data, uint32_t count)
{
	struct p9_xattr *x = f->xattr;

	if (!range_fits(offset, count, x->size))
		return -ENOSPC;
	memcpy(x->value + offset, data, count);
	return 0;
}

int p9_xattr_commit(struct p9 *s, struct p9_fid *f)
{
	const struct p9_xattr *x = f->xattr;
	struct xattr_path path = xattr_path(f->fd);

	/* Linux's way to take an attribute away: replace it by nothing. An empty value is set
	 * without flags, or with the other one. */
	if (!x->size && x->flags == XATTR_REPLACE)
		return removexattr(path.s, x->name) ? -errno : 0;
	return setxattr(path.s, x->name, x->value, x->size, (int)x->flags) ? -errno : 0;
}
