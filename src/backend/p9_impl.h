/* p9_impl.h: the 9P server's own structs, shared by its files. */
#ifndef BACKEND_P9_IMPL_H
#define BACKEND_P9_IMPL_H

#include <limits.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "backend/p9.h"
#include "base/buf.h"
#include "base/lock.h"

/* Messages (9P2000.L; the answer's number is one higher). */
enum {
	P9_RLERROR = 7,
	P9_TSTATFS = 8,
	P9_TLOPEN = 12,
	P9_TLCREATE = 14,
	P9_TSYMLINK = 16,
	P9_TMKNOD = 18,
	P9_TRENAME = 20,
	P9_TREADLINK = 22,
	P9_TGETATTR = 24,
	P9_TSETATTR = 26,
	P9_TXATTRWALK = 30,
	P9_TXATTRCREATE = 32,
	P9_TREADDIR = 40,
	P9_TFSYNC = 50,
	P9_TLOCK = 52,
	P9_TGETLOCK = 54,
	P9_TLINK = 70,
	P9_TMKDIR = 72,
	P9_TRENAMEAT = 74,
	P9_TUNLINKAT = 76,
	P9_TVERSION = 100,
	P9_TAUTH = 102,
	P9_TATTACH = 104,
	P9_TFLUSH = 108,
	P9_TWALK = 110,
	P9_TREAD = 116,
	P9_TWRITE = 118,
	P9_TCLUNK = 120,
	P9_TREMOVE = 122,
};

#define P9_NOFID       UINT32_MAX
#define P9_HEADER      7
#define P9_IO_HEADER   (P9_HEADER + 4) /* of an answer to read and readdir */
#define P9_WALK_MAX    16
#define P9_MSIZE_MIN   4096
#define P9_BUCKETS     1024
#define P9_XATTR_BYTES 65536
#define P9_XATTRS_MAX  64

enum p9_kind {
	FID_PATH,   /* an O_PATH descriptor of anything */
	FID_OPEN,   /* a regular file or a directory, opened */
	FID_XATTR,  /* fd: of what it belongs to; a value being read */
	FID_XATTRW, /* ... a value being written */
	FID_LOST,   /* not found again after a load */
};

/* An extended attribute's value on its way. */
struct p9_xattr {
	uint32_t size, flags;
	char name[256];
	uint8_t value[P9_XATTR_BYTES];
};

struct p9_fid {
	uint32_t id;
	int fd;
	enum p9_kind kind;
	int flags; /* FID_OPEN: O_ACCMODE, O_APPEND ... */
	struct p9_xattr *xattr;
	struct p9_fid *next;
};

struct p9 {
	/* The directory, and /proc/self/fd: the way from an O_PATH descriptor to the same file
	 * opened. */
	int root, proc;
	dev_t root_dev;
	uint64_t root_qid; /* its qid's path */
	_Bool read_only, no_openat2;

	/* All below belong to the thread (or to whoever calls p9_handle without one). */
	uint32_t msize; /* 0: no session */
	struct p9_fid *fids, *free, *bucket[P9_BUCKETS];
	unsigned fid_count, fid_max, xattrs;

	atomic_bool reset_wanted;
	struct p9_client client;
	pthread_t thread;
	_Bool running;
	uint8_t *in, *out;
	struct lock lock; /* RANK_BACKEND: what follows */
	pthread_cond_t work, idle_cond;
	_Bool kicked, idle, stop;
};

/* An answer being written; what does not fit sets `failed`. */
struct p9_out {
	uint8_t *data;
	size_t len, max;
	_Bool failed;
};
void out_put(struct p9_out *o, const void *data, size_t len);
void out_u8(struct p9_out *o, uint8_t v);
void out_u16(struct p9_out *o, uint16_t v);
void out_u32(struct p9_out *o, uint32_t v);
void out_u64(struct p9_out *o, uint64_t v);
void out_str(struct p9_out *o, const char *s, size_t len);
void out_qid(struct p9_out *o, const struct p9 *s, const struct stat *st);
uint64_t p9_qid_path(const struct p9 *s, dev_t dev, ino_t ino);

/* One component of a path, checked: not empty, no slash, no zero byte, not "." and (but in a walk)
 * not "..". */
struct p9_name {
	char s[NAME_MAX + 1];
};
NODISCARD int in_name(struct rbuf *in, struct p9_name *name);
NODISCARD int in_walk_name(struct rbuf *in, struct p9_name *name);
/* Any text without a zero byte, shorter than `size`. */
NODISCARD int in_text(struct rbuf *in, char *text, size_t size);

/*
 * p9_fid.c: what the guest holds, and the only places where a name becomes a file. `fid_get` gives
 * -EBADF for unknown ones and -ESTALE for lost ones.
 */
NODISCARD int fid_get(struct p9 *s, uint32_t id, struct p9_fid **fid);
NODISCARD int fid_get_path(struct p9 *s, uint32_t id, struct p9_fid **fid); /* not an xattr */
NODISCARD int fid_get_open(struct p9 *s, uint32_t id, struct p9_fid **fid);
/* Takes over `fd`, also on failure. */
NODISCARD int fid_add(struct p9 *s, uint32_t id, int fd, struct p9_fid **fid);
struct p9_fid *fid_find(const struct p9 *s, uint32_t id); /* or NULL */
void fid_drop(struct p9 *s, struct p9_fid *fid);
void fid_drop_all(struct p9 *s);

/* A child of a directory, as an O_PATH descriptor, symbolic links themselves: or -errno. */
NODISCARD int p9_step(struct p9 *s, int dir, const char *name);
/* A path without "..", from the share's root. */
NODISCARD int p9_beneath(struct p9 *s, const char *path);
/* Where it is now, from the root ("" is the root): -ENOENT when that is nowhere in the share. */
NODISCARD int p9_path_of(struct p9 *s, int fd, char path[PATH_MAX]);
/* The directory that it is in, and its name there, as things are now. The root has none: -EBUSY. */
NODISCARD int p9_parent_of(struct p9 *s, int fd, int *parent, struct p9_name *name);
/* The same file opened: regular files and directories only. */
NODISCARD int p9_reopen(struct p9 *s, int fd, int flags);
/* "N" for a path relative to s->proc. */
struct p9_link {
	char s[16];
};
struct p9_link p9_link(int fd);

/* Handlers: 0 with the answer's body in `out`, or -errno. */
int p9_lopen(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_lcreate(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_read(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_write(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_readdir(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_fsync(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_lock(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_getlock(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_symlink(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_mknod(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_mkdir(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_link_to(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_rename(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_renameat(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_unlinkat(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_remove(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_getattr(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_setattr(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_statfs(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_readlink(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_xattrwalk(struct p9 *s, struct rbuf *in, struct p9_out *out);
int p9_xattrcreate(struct p9 *s, struct rbuf *in, struct p9_out *out);
/* An extended attribute's bytes; the last act of a written one. */
int p9_xattr_read(struct p9_fid *f, uint64_t offset, uint32_t count, struct p9_out *out);
int p9_xattr_write(struct p9_fid *f, uint64_t offset, const uint8_t *data, uint32_t count);
int p9_xattr_commit(struct p9 *s, struct p9_fid *f);

/* p9_msg.c: the device was reset: the guest holds nothing any more. */
void session_end_if_wanted(struct p9 *s);

/* A mode that the guest may give: no set-user-ID or set-group-ID programs on the host. */
static inline mode_t p9_mode(uint32_t mode, _Bool dir)
{
	return mode & (dir ? 03777 : 01777);
}

#endif
