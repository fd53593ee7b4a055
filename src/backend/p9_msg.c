/* p9_msg.c: 9P messages: taking them apart, the table of handlers, and the session's own ones. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "backend/p9_impl.h"
#include "base/le.h"
#include "base/trace.h"

/* ---- writing ---- */

void out_put(struct p9_out *o, const void *data, size_t len)
{
	if (o->failed || len > o->max - o->len) {
		o->failed = 1;
		return;
	}
	memcpy(o->data + o->len, data, len);
	o->len += len;
}

void out_u8(struct p9_out *o, uint8_t v)
{
	out_put(o, &v, 1);
}

void out_u16(struct p9_out *o, uint16_t v)
{
	uint8_t b[2];

	store_le16(b, v);
	out_put(o, b, 2);
}

void out_u32(struct p9_out *o, uint32_t v)
{
	uint8_t b[4];

	store_le32(b, v);
	out_put(o, b, 4);
}

void out_u64(struct p9_out *o, uint64_t v)
{
	uint8_t b[8];

	store_le64(b, v);
	out_put(o, b, 8);
}

void out_str(struct p9_out *o, const char *s, size_t len)
{
	out_u16(o, (uint16_t)len);
	out_put(o, s, len);
}

uint64_t p9_qid_path(const struct p9 *s, dev_t dev, ino_t ino)
{
	/* Other file systems mounted inside have inode numbers of their own. */
	return dev == s->root_dev ? ino : ino ^ ((uint64_t)dev * UINT64_C(0x9e3779b97f4a7c15));
}

void out_qid(struct p9_out *o, const struct p9 *s, const struct stat *st)
{
	out_u8(o, S_ISDIR(st->st_mode) ? 0x80 : S_ISLNK(st->st_mode) ? 0x02 : 0);
	out_u32(o, (uint32_t)(st->st_mtim.tv_nsec ^ st->st_mtime ^ st->st_size << 8));
	out_u64(o, p9_qid_path(s, st->st_dev, st->st_ino));
}

/* ---- reading ---- */

int in_text(struct rbuf *in, char *text, size_t size)
{
	uint16_t len = rbuf_u16(in);
	const uint8_t *p = rbuf_take(in, len);

	if (!p)
		return -EBADMSG;
	if (len >= size)
		return -ENAMETOOLONG;
	if (memchr(p, 0, len))
		return -EINVAL;
	memcpy(text, p, len);
	text[len] = 0;
	return 0;
}

int in_walk_name(struct rbuf *in, struct p9_name *name)
{
	int r = in_text(in, name->s, sizeof(name->s));

	if (!r && (!name->s[0] || strchr(name->s, '/') || !strcmp(name->s, ".")))
		return -EINVAL;
	return r;
}

int in_name(struct rbuf *in, struct p9_name *name)
{
	int r = in_walk_name(in, name);

	return !r && !strcmp(name->s, "..") ? -EINVAL : r;
}

/* ---- the session ---- */

static int do_version(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	static const char ours[] = "9P2000.L";
	uint32_t msize = rbuf_u32(in);
	char version[32];
	int r = in_text(in, version, sizeof(version));

	fid_drop_all(s);
	s->msize = 0;
	if (in->failed)
		return -EBADMSG;
	if (r || strcmp(version, ours)) {
		out_u32(out, MIN(msize, P9_MSG_MAX));
		out_str(out, "unknown", 7);
		return 0;
	}
	if (msize < P9_MSIZE_MIN)
		return -EMSGSIZE;
	s->msize = MIN(msize, P9_MSG_MAX);
	out_u32(out, s->msize);
	out_str(out, ours, sizeof(ours) - 1);
	return 0;
}

void session_end_if_wanted(struct p9 *s)
{
	if (!atomic_exchange(&s->reset_wanted, 0))
		return;
	fid_drop_all(s);
	s->msize = 0;
}

static int do_auth(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	return -EOPNOTSUPP; /* none is needed */
}

static int do_attach(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), afid = rbuf_u32(in);
	char user[256], tree[PATH_MAX];
	struct p9_fid *f;
	struct stat st;
	int r = in_text(in, user, sizeof(user)), fd;

	if (!r)
		r = in_text(in, tree, sizeof(tree));
	rbuf_u32(in); /* n_uname: whoever it is there, here it is this process's user */
	if (in->failed)
		return -EBADMSG;
	if (r)
		return r;
	if (afid != P9_NOFID)
		return -EOPNOTSUPP;
	fd = p9_beneath(s, tree);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) || !S_ISDIR(st.st_mode)) {
		close(fd);
		return -ENOTDIR;
	}
	r = fid_add(s, id, fd, &f);
	if (!r)
		out_qid(out, s, &st);
	return r;
}

static int do_flush(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	/* Requests are answered in order: the one that is meant has been. */
	rbuf_u16(in);
	return in->failed ? -EBADMSG : 0;
}

/* A second descriptor of what a fid stands for, not opened. */
static int walk_start(struct p9 *s, const struct p9_fid *f)
{
	int fd = f->kind == FID_OPEN ? openat(s->proc, p9_link(f->fd).s, O_PATH | O_CLOEXEC)
				     : fcntl(f->fd, F_DUPFD_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

static int walk_up(struct p9 *s, int fd)
{
	struct p9_name name;
	struct stat st;
	int parent, r;

	if (fstat(fd, &st))
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	r = p9_parent_of(s, fd, &parent, &name);
	if (r == -EBUSY) { /* the root is its own parent */
		r = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		return r < 0 ? -errno : r;
	}
	return r ? r : parent;
}

static int walk_names(struct p9 *s, int *fd, const struct p9_name *names, unsigned count,
		      struct p9_out *out)
{
	for (unsigned i = 0; i < count; i++) {
		int next = strcmp(names[i].s, "..") ? p9_step(s, *fd, names[i].s) : walk_up(s, *fd);
		struct stat st;

		if (next < 0)
			return i ? (int)i : next;
		close(*fd);
		*fd = next;
		if (fstat(next, &st))
			return i ? (int)i : -errno;
		out_qid(out, s, &st);
	}
	return (int)count;
}

static int do_walk(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), newid = rbuf_u32(in);
	uint16_t count = rbuf_u16(in);
	struct p9_name names[P9_WALK_MAX];
	struct p9_fid *f, *made;
	size_t at = out->len;
	int r, fd, done;

	if (in->failed)
		return -EBADMSG;
	if (count > P9_WALK_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < count; i++) {
		r = in_walk_name(in, &names[i]);
		if (r)
			return r;
	}
	r = fid_get_path(s, id, &f);
	if (!r && newid != id && fid_find(s, newid))
		r = -EBADF;
	fd = r ? r : walk_start(s, f);
	if (fd < 0)
		return fd;
	out_u16(out, 0);
	done = walk_names(s, &fd, names, count, out);
	if (done != count) { /* the fid is not made; what was found is told */
		close(fd);
		if (done > 0)
			store_le16(out->data + at, (uint16_t)done);
		return done > 0 ? 0 : done;
	}
	store_le16(out->data + at, count);
	if (out->failed) {
		close(fd);
		return -EMSGSIZE;
	}
	if (newid == id)
		fid_drop(s, f);
	return fid_add(s, newid, fd, &made);
}

static int do_clunk(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	struct p9_fid *f;
	int r = 0;

	if (in->failed)
		return -EBADMSG;
	f = fid_find(s, id); /* a lost one too */
	if (!f)
		return -EBADF;
	if (f->kind == FID_XATTRW)
		r = p9_xattr_commit(s, f);
	fid_drop(s, f);
	return r;
}

/* ---- the table ---- */

struct handler {
	int (*fn)(struct p9 *s, struct rbuf *in, struct p9_out *out);
	_Bool writes; /* refused on a read-only share */
};

static const struct handler handlers[] = {
    [P9_TSTATFS] = {p9_statfs, 0},
    [P9_TLOPEN] = {p9_lopen, 0},
    [P9_TLCREATE] = {p9_lcreate, 1},
    [P9_TSYMLINK] = {p9_symlink, 1},
    [P9_TMKNOD] = {p9_mknod, 1},
    [P9_TRENAME] = {p9_rename, 1},
    [P9_TREADLINK] = {p9_readlink, 0},
    [P9_TGETATTR] = {p9_getattr, 0},
    [P9_TSETATTR] = {p9_setattr, 1},
    [P9_TXATTRWALK] = {p9_xattrwalk, 0},
    [P9_TXATTRCREATE] = {p9_xattrcreate, 1},
    [P9_TREADDIR] = {p9_readdir, 0},
    [P9_TFSYNC] = {p9_fsync, 0},
    [P9_TLOCK] = {p9_lock, 0},
    [P9_TGETLOCK] = {p9_getlock, 0},
    [P9_TLINK] = {p9_link_to, 1},
    [P9_TMKDIR] = {p9_mkdir, 1},
    [P9_TRENAMEAT] = {p9_renameat, 1},
    [P9_TUNLINKAT] = {p9_unlinkat, 1},
    [P9_TVERSION] = {do_version, 0},
    [P9_TAUTH] = {do_auth, 0},
    [P9_TATTACH] = {do_attach, 0},
    [P9_TFLUSH] = {do_flush, 0},
    [P9_TWALK] = {do_walk, 0},
    [P9_TREAD] = {p9_read, 0},
    [P9_TWRITE] = {p9_write, 1},
    [P9_TCLUNK] = {do_clunk, 0},
    [P9_TREMOVE] = {p9_remove, 0}, /* lets go of the fid even when it may not remove */
};

static int dispatch(struct p9 *s, uint8_t type, struct rbuf *in, struct p9_out *out)
{
	const struct handler *h = type < ARRAY_SIZE(handlers) ? &handlers[type] : NULL;

	if (!h || !h->fn)
		return -EOPNOTSUPP;
	if (!s->msize && type != P9_TVERSION)
		return -EPROTO;
	if (h->writes && s->read_only)
		return -EROFS;
	return h->fn(s, in, out);
}

size_t p9_handle(struct p9 *s, const uint8_t *msg, size_t len, uint8_t *reply, size_t room)
{
	struct p9_out out = {.data = reply, .max = MIN(room, P9_MSG_MAX)};
	uint32_t size;
	struct rbuf in;
	uint8_t type;
	uint16_t tag;
	int r;

	session_end_if_wanted(s);
	rbuf_init(&in, msg, len);
	size = rbuf_u32(&in);
	type = rbuf_u8(&in);
	tag = rbuf_u16(&in);
	if (s->msize && type != P9_TVERSION)
		out.max = MIN(out.max, s->msize);
	out.len = P9_HEADER;
	if (in.failed || size < P9_HEADER || size > len) {
		r = -EBADMSG;
	} else {
		in.len = size;
		r = dispatch(s, type, &in, &out);
	}
	trace(TRACE_IO, "9p: type %u, %zu bytes: %d", type, len, r);
	if (!r && out.failed)
		r = -EMSGSIZE;
	if (r) {
		out.len = P9_HEADER;
		out.failed = 0;
		out_u32(&out, (uint32_t)-r);
	}
	store_le32(reply, (uint32_t)out.len);
	reply[4] = (uint8_t)(r ? P9_RLERROR : type + 1);
	store_le16(reply + 5, tag);
	return out.len;
}
