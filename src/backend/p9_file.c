/* p9_file.c: files and directories of a share: open, create, read, write, list, sync, lock. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "backend/p9_impl.h"
#include "base/le.h"

/* Flags that mean something here; 9P2000.L has the numbers of Linux on x86. */
#define OPEN_KEPT (O_ACCMODE | O_TRUNC | O_APPEND | O_DSYNC | O_SYNC | O_DIRECTORY)

static _Bool opens_for_writing(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
}

static void become_open(struct p9_fid *f, int fd, uint32_t flags)
{
	close(f->fd);
	f->fd = fd;
	f->kind = FID_OPEN;
	f->flags = (int)(flags & OPEN_KEPT & ~(uint32_t)O_TRUNC);
}

static int answer_open(struct p9 *s, int fd, struct p9_out *out)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	out_qid(out, s, &st);
	out_u32(out, 0); /* any size of read and write is fine */
	return 0;
}

int p9_lopen(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), flags = rbuf_u32(in);
	struct p9_fid *f;
	int r = in->failed ? -EBADMSG : fid_get(s, id, &f), fd;

	if (r)
		return r;
	if (f->kind != FID_PATH)
		return -EBUSY;
	if (s->read_only && opens_for_writing(flags))
		return -EROFS;
	fd = p9_reopen(s, f->fd, (int)(flags & OPEN_KEPT));
	if (fd < 0)
		return fd;
	become_open(f, fd, flags);
	return answer_open(s, fd, out);
}

/* Creates the file, or opens the one that is there: -errno or a descriptor. A name that exists is
 * looked at before it is opened: it may be a device, a FIFO or a link. */
static int create(struct p9 *s, int dir, const char *name, uint32_t flags, mode_t mode)
{
	int fd = openat(dir, name,
			(int)(flags & OPEN_KEPT & ~(uint32_t)O_DIRECTORY) | O_CREAT | O_EXCL |
			    O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
			mode & 0700);
	int there;

	if (fd >= 0) {
		if (fchmod(fd, mode)) { /* the guest has applied its own mask */
			int e = errno;

			close(fd);
			return -e;
		}
		return fd;
	}
	if (errno != EEXIST || flags & O_EXCL)
		return -errno;
	there = p9_step(s, dir, name);
	if (there < 0)
		return there;
	fd = p9_reopen(s, there, (int)(flags & OPEN_KEPT));
	close(there);
	return fd;
}

int p9_lcreate(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), flags, mode;
	struct p9_name name;
	struct p9_fid *f;
	int r = in_name(in, &name), fd;

	flags = rbuf_u32(in);
	mode = rbuf_u32(in);
	rbuf_u32(in); /* gid: as the host has it */
	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get(s, id, &f);
	if (r)
		return r;
	if (f->kind != FID_PATH)
		return -EBUSY;
	fd = create(s, f->fd, name.s, flags, p9_mode(mode, 0));
	if (fd < 0)
		return fd;
	become_open(f, fd, flags);
	return answer_open(s, fd, out);
}

/* ---- bytes ---- */

/* How many bytes of the count that was asked for may be answered. */
static uint32_t count_fit(const struct p9_out *out, uint32_t count)
{
	size_t room = out->max > P9_IO_HEADER ? out->max - P9_IO_HEADER : 0;

	return (uint32_t)MIN((size_t)count, room);
}

static int read_file(int fd, uint64_t offset, uint32_t count, struct p9_out *out)
{
	size_t at = out->len, done = 0;

	out_u32(out, 0);
	if (out->failed)
		return -EMSGSIZE;
	if (offset > (uint64_t)INT64_MAX - count)
		return offset > INT64_MAX ? -EINVAL : 0;
	while (done < count) {
		ssize_t n = pread(fd, out->data + out->len, count - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && !done)
			return -errno;
		if (n <= 0)
			break;
		out->len += (size_t)n;
		done += (size_t)n;
	}
	store_le32(out->data + at, (uint32_t)done);
	return 0;
}

int p9_read(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	uint64_t offset = rbuf_u64(in);
	uint32_t count = count_fit(out, rbuf_u32(in));
	struct p9_fid *f;
	int r = in->failed ? -EBADMSG : fid_get(s, id, &f);

	if (r)
		return r;
	if (f->kind == FID_XATTR)
		return p9_xattr_read(f, offset, count, out);
	return f->kind == FID_OPEN ? read_file(f->fd, offset, count, out) : -EBADF;
}

static int write_file(int fd, uint64_t offset, const uint8_t *data, uint32_t count, uint32_t *done)
{
	*done = 0;
	if (offset > (uint64_t)INT64_MAX - count)
		return -EFBIG;
	while (*done < count) {
		ssize_t n = pwrite(fd, data + *done, count - *done, (off_t)(offset + *done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && !*done)
			return -errno;
		if (n <= 0)
			break;
		*done += (uint32_t)n;
	}
	return 0;
}

int p9_write(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), count, done;
	uint64_t offset = rbuf_u64(in);
	const uint8_t *data;
	struct p9_fid *f;
	int r;

	count = rbuf_u32(in);
	data = rbuf_take(in, count);
	r = in->failed ? -EBADMSG : fid_get(s, id, &f);
	if (r)
		return r;
	if (f->kind == FID_XATTRW) {
		r = p9_xattr_write(f, offset, data, count);
		done = count;
	} else {
		r = f->kind == FID_OPEN ? write_file(f->fd, offset, data, count, &done) : -EBADF;
	}
	if (!r)
		out_u32(out, done);
	return r;
}

int p9_fsync(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	_Bool data_only = rbuf_left(in) >= 4 && rbuf_u32(in); /* old clients do not send it */
	struct p9_fid *f;
	int r = in->failed ? -EBADMSG : fid_get_open(s, id, &f);

	if (r)
		return r;
	return (data_only ? fdatasync(f->fd) : fsync(f->fd)) ? -errno : 0;
}

/* ---- directories ---- */

/* False: no room for it. */
static _Bool put_entry(struct p9 *s, const struct dirent64 *d, const struct stat *dir,
		       struct p9_out *out, size_t end)
{
	size_t len = strlen(d->d_name);
	ino_t ino = d->d_ino;

	if (out->len + 13 + 8 + 1 + 2 + len > end)
		return 0;
	/* The share's root has no parent to tell of. */
	if (!strcmp(d->d_name, "..") && p9_qid_path(s, dir->st_dev, dir->st_ino) == s->root_qid)
		ino = dir->st_ino;
	out_u8(out, d->d_type == DT_DIR ? 0x80 : d->d_type == DT_LNK ? 0x02 : 0);
	out_u32(out, 0);
	out_u64(out, p9_qid_path(s, dir->st_dev, ino));
	out_u64(out, (uint64_t)d->d_off);
	out_u8(out, d->d_type);
	out_str(out, d->d_name, len);
	return 1;
}

static int list(struct p9 *s, int fd, const struct stat *dir, size_t end, struct p9_out *out)
{
	uint8_t buf[32768] __attribute__((aligned(8)));
	size_t start = out->len;

	for (;;) {
		ssize_t n = getdents64(fd, buf, sizeof(buf)), at = 0;

		if (n < 0)
			return out->len > start ? 0 : -errno;
		if (!n)
			return 0;
		while (at < n) {
			const struct dirent64 *d = (const void *)(buf + at);

			if (!put_entry(s, d, dir, out, end)) /* none at all: it cannot go on */
				return out->len > start ? 0 : -EINVAL;
			at += d->d_reclen;
		}
	}
}

int p9_readdir(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	uint64_t offset = rbuf_u64(in);
	uint32_t count = count_fit(out, rbuf_u32(in));
	size_t at = out->len;
	struct p9_fid *f;
	struct stat st;
	int r = in->failed ? -EBADMSG : fid_get_open(s, id, &f);

	if (r)
		return r;
	if (fstat(f->fd, &st))
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	if (lseek(f->fd, (off_t)offset, SEEK_SET) < 0)
		return -errno;
	out_u32(out, 0);
	if (out->failed)
		return -EMSGSIZE;
	r = list(s, f->fd, &st, out->len + count, out);
	store_le32(out->data + at, (uint32_t)(out->len - at - 4));
	return r;
}

/* ---- locks ---- */

enum { P9_LOCK_READ = 0, P9_LOCK_WRITE = 1, P9_LOCK_UNLOCK = 2 };
enum { P9_LOCK_SUCCESS = 0, P9_LOCK_BLOCKED = 1 };

static int range_of(uint8_t type, uint64_t start, uint64_t len, struct flock *lock)
{
	static const short types[] = {F_RDLCK, F_WRLCK, F_UNLCK};

	if (type > P9_LOCK_UNLOCK || start > INT64_MAX || len > INT64_MAX)
		return -EINVAL;
	*lock = (struct flock){.l_type = types[type],
			       .l_whence = SEEK_SET,
			       .l_start = (off_t)start,
			       .l_len = (off_t)len};
	return 0;
}

/* The host's own locks, one holder per opened file, so that other guests and programs see them.
 * Never waited for: a client that wants to wait asks again. */
int p9_lock(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	uint8_t type = rbuf_u8(in);
	struct flock lock;
	uint64_t start, len;
	struct p9_fid *f;
	int r;

	rbuf_u32(in); /* flags: "may block" changes nothing here */
	start = rbuf_u64(in);
	len = rbuf_u64(in);
	r = in->failed ? -EBADMSG : fid_get_open(s, id, &f);
	if (!r)
		r = range_of(type, start, len, &lock);
	if (r)
		return r;
	if (!fcntl(f->fd, F_OFD_SETLK, &lock))
		out_u8(out, P9_LOCK_SUCCESS);
	else if (errno == EAGAIN || errno == EACCES)
		out_u8(out, P9_LOCK_BLOCKED);
	else
		return -errno;
	return 0;
}

int p9_getlock(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), proc;
	uint8_t type = rbuf_u8(in);
	uint64_t start = rbuf_u64(in), len = rbuf_u64(in);
	char client[256];
	struct flock lock;
	struct p9_fid *f;
	int r;

	proc = rbuf_u32(in);
	r = in_text(in, client, sizeof(client));
	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get_open(s, id, &f);
	if (!r)
		r = type == P9_LOCK_UNLOCK ? -EINVAL : range_of(type, start, len, &lock);
	if (r)
		return r;
	if (fcntl(f->fd, F_OFD_GETLK, &lock))
		return -errno;
	out_u8(out, lock.l_type == F_UNLCK   ? P9_LOCK_UNLOCK
		    : lock.l_type == F_RDLCK ? P9_LOCK_READ
					     : P9_LOCK_WRITE);
	out_u64(out, lock.l_type == F_UNLCK ? start : (uint64_t)lock.l_start);
	out_u64(out, lock.l_type == F_UNLCK ? len : (uint64_t)lock.l_len);
	out_u32(out, proc);
	out_str(out, client, strlen(client));
	return 0;
}
