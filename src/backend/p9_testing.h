/* p9_testing.h: a small 9P client and a directory to share, for tests. */
#ifndef BACKEND_P9_TESTING_H
#define BACKEND_P9_TESTING_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "backend/p9_impl.h"
#include "base/le.h"

/* `dir` holds "share", which is shared, and "outside" with a file "secret", which nobody may reach.
 */
struct p9t {
	struct p9 *p9;
	char dir[64], share[80], outside[80];
	uint8_t msg[65536], reply[65536];
	size_t len, reply_len, room;
};

static inline void p9t_path(const struct p9t *t, char path[512], const char *name)
{
	snprintf(path, 512, "%s/%s", t->dir, name);
}

/* A file of the host's, by its path from `dir`. */
static inline void p9t_host_write(const struct p9t *t, const char *name, const char *text)
{
	char path[512];
	FILE *f;

	p9t_path(t, path, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static inline void p9t_host_is(const struct p9t *t, const char *name, const char *text)
{
	char path[512], got[256];
	size_t n;
	FILE *f;

	p9t_path(t, path, name);
	f = fopen(path, "r");
	assert_non_null(f);
	n = fread(got, 1, sizeof(got) - 1, f);
	got[n] = 0;
	fclose(f);
	assert_string_equal(got, text);
}

static inline _Bool p9t_host_has(const struct p9t *t, const char *name)
{
	struct stat st;
	char path[512];

	p9t_path(t, path, name);
	return !lstat(path, &st);
}

static inline void p9t_host_link(const struct p9t *t, const char *target, const char *name)
{
	char path[512];

	p9t_path(t, path, name);
	assert_int_equal(symlink(target, path), 0);
}

static inline void p9t_host_mkdir(const struct p9t *t, const char *name)
{
	char path[512];

	p9t_path(t, path, name);
	assert_int_equal(mkdir(path, 0755), 0);
}

/* ---- messages ---- */

static inline void p9t_begin(struct p9t *t, uint8_t type)
{
	memset(t->msg, 0, P9_HEADER);
	t->msg[4] = type;
	store_le16(t->msg + 5, 0x1234);
	t->len = P9_HEADER;
}

static inline void p9t_u8(struct p9t *t, uint8_t v)
{
	t->msg[t->len++] = v;
}

static inline void p9t_u16(struct p9t *t, uint16_t v)
{
	store_le16(t->msg + t->len, v);
	t->len += 2;
}

static inline void p9t_u32(struct p9t *t, uint32_t v)
{
	store_le32(t->msg + t->len, v);
	t->len += 4;
}

static inline void p9t_u64(struct p9t *t, uint64_t v)
{
	store_le64(t->msg + t->len, v);
	t->len += 8;
}

static inline void p9t_bytes(struct p9t *t, const void *data, size_t len)
{
	memcpy(t->msg + t->len, data, len);
	t->len += len;
}

static inline void p9t_str(struct p9t *t, const char *s)
{
	p9t_u16(t, (uint16_t)strlen(s));
	p9t_bytes(t, s, strlen(s));
}

/* Sends the message; 0 with the answer's body at reply + P9_HEADER, or -errno. The answer's shape
 * is checked. */
static inline int p9t_call(struct p9t *t)
{
	store_le32(t->msg, (uint32_t)t->len);
	t->reply_len = p9_handle(t->p9, t->msg, t->len, t->reply, t->room);
	assert_in_range(t->reply_len, P9_HEADER, t->room);
	assert_int_equal(load_le32(t->reply), t->reply_len);
	assert_int_equal(load_le16(t->reply + 5), load_le16(t->msg + 5));
	if (t->reply[4] == P9_RLERROR) {
		assert_int_equal(t->reply_len, P9_REPLY_MIN);
		assert_int_not_equal(load_le32(t->reply + P9_HEADER), 0);
		return -(int)load_le32(t->reply + P9_HEADER);
	}
	assert_int_equal(t->reply[4], t->msg[4] + 1);
	return 0;
}

static inline int p9t_version(struct p9t *t, uint32_t msize, const char *version)
{
	p9t_begin(t, P9_TVERSION);
	p9t_u32(t, msize);
	p9t_str(t, version);
	return p9t_call(t);
}

static inline int p9t_attach(struct p9t *t, uint32_t fid, const char *tree)
{
	p9t_begin(t, P9_TATTACH);
	p9t_u32(t, fid);
	p9t_u32(t, P9_NOFID);
	p9t_str(t, "root");
	p9t_str(t, tree);
	p9t_u32(t, 0);
	return p9t_call(t);
}

/* Walks a path of several names, "" for none; a walk that ends early is -ENOENT. */
static inline int p9t_walk(struct p9t *t, uint32_t fid, uint32_t newfid, const char *path)
{
	uint16_t count = 0;
	size_t at;
	int r;

	p9t_begin(t, P9_TWALK);
	p9t_u32(t, fid);
	p9t_u32(t, newfid);
	at = t->len;
	p9t_u16(t, 0);
	while (*path) {
		size_t n = strcspn(path, "/");

		p9t_u16(t, (uint16_t)n);
		p9t_bytes(t, path, n);
		path += n + (path[n] == '/');
		count++;
	}
	store_le16(t->msg + at, count);
	r = p9t_call(t);
	if (!r && load_le16(t->reply + P9_HEADER) != count)
		return -ENOENT;
	return r;
}

static inline int p9t_clunk(struct p9t *t, uint32_t fid)
{
	p9t_begin(t, P9_TCLUNK);
	p9t_u32(t, fid);
	return p9t_call(t);
}

static inline int p9t_lopen(struct p9t *t, uint32_t fid, uint32_t flags)
{
	p9t_begin(t, P9_TLOPEN);
	p9t_u32(t, fid);
	p9t_u32(t, flags);
	return p9t_call(t);
}

static inline int p9t_lcreate(struct p9t *t, uint32_t fid, const char *name, uint32_t flags,
			      uint32_t mode)
{
	p9t_begin(t, P9_TLCREATE);
	p9t_u32(t, fid);
	p9t_str(t, name);
	p9t_u32(t, flags);
	p9t_u32(t, mode);
	p9t_u32(t, 0);
	return p9t_call(t);
}

static inline int p9t_write(struct p9t *t, uint32_t fid, uint64_t offset, const void *data,
			    uint32_t len)
{
	int r;

	p9t_begin(t, P9_TWRITE);
	p9t_u32(t, fid);
	p9t_u64(t, offset);
	p9t_u32(t, len);
	p9t_bytes(t, data, len);
	r = p9t_call(t);
	return r ? r : (int)load_le32(t->reply + P9_HEADER);
}

/* The count, with the bytes at reply + P9_IO_HEADER. */
static inline int p9t_read(struct p9t *t, uint32_t fid, uint64_t offset, uint32_t len)
{
	int r;

	p9t_begin(t, P9_TREAD);
	p9t_u32(t, fid);
	p9t_u64(t, offset);
	p9t_u32(t, len);
	r = p9t_call(t);
	if (r)
		return r;
	assert_int_equal(t->reply_len, P9_IO_HEADER + load_le32(t->reply + P9_HEADER));
	return (int)load_le32(t->reply + P9_HEADER);
}

static inline int p9t_readdir(struct p9t *t, uint32_t fid, uint64_t offset, uint32_t len)
{
	int r;

	p9t_begin(t, P9_TREADDIR);
	p9t_u32(t, fid);
	p9t_u64(t, offset);
	p9t_u32(t, len);
	r = p9t_call(t);
	return r ? r : (int)load_le32(t->reply + P9_HEADER);
}

/* mkdir, and with `type` mknod. */
static inline int p9t_make(struct p9t *t, uint8_t type, uint32_t fid, const char *name,
			   uint32_t mode)
{
	p9t_begin(t, type);
	p9t_u32(t, fid);
	p9t_str(t, name);
	p9t_u32(t, mode);
	if (type == P9_TMKNOD) {
		p9t_u32(t, 1);
		p9t_u32(t, 3);
	}
	p9t_u32(t, 0);
	return p9t_call(t);
}

static inline int p9t_symlink(struct p9t *t, uint32_t fid, const char *name, const char *target)
{
	p9t_begin(t, P9_TSYMLINK);
	p9t_u32(t, fid);
	p9t_str(t, name);
	p9t_str(t, target);
	p9t_u32(t, 0);
	return p9t_call(t);
}

static inline int p9t_link(struct p9t *t, uint32_t dir, uint32_t fid, const char *name)
{
	p9t_begin(t, P9_TLINK);
	p9t_u32(t, dir);
	p9t_u32(t, fid);
	p9t_str(t, name);
	return p9t_call(t);
}

static inline int p9t_renameat(struct p9t *t, uint32_t from, const char *old, uint32_t to,
			       const char *new)
{
	p9t_begin(t, P9_TRENAMEAT);
	p9t_u32(t, from);
	p9t_str(t, old);
	p9t_u32(t, to);
	p9t_str(t, new);
	return p9t_call(t);
}

static inline int p9t_rename(struct p9t *t, uint32_t fid, uint32_t dir, const char *name)
{
	p9t_begin(t, P9_TRENAME);
	p9t_u32(t, fid);
	p9t_u32(t, dir);
	p9t_str(t, name);
	return p9t_call(t);
}

static inline int p9t_unlinkat(struct p9t *t, uint32_t dir, const char *name, uint32_t flags)
{
	p9t_begin(t, P9_TUNLINKAT);
	p9t_u32(t, dir);
	p9t_str(t, name);
	p9t_u32(t, flags);
	return p9t_call(t);
}

static inline int p9t_remove(struct p9t *t, uint32_t fid)
{
	p9t_begin(t, P9_TREMOVE);
	p9t_u32(t, fid);
	return p9t_call(t);
}

static inline int p9t_setattr(struct p9t *t, uint32_t fid, uint32_t valid, uint32_t mode,
			      uint32_t owner, uint64_t size, uint64_t seconds)
{
	p9t_begin(t, P9_TSETATTR);
	p9t_u32(t, fid);
	p9t_u32(t, valid);
	p9t_u32(t, mode);
	p9t_u32(t, owner);
	p9t_u32(t, owner);
	p9t_u64(t, size);
	for (unsigned i = 0; i < 2; i++) {
		p9t_u64(t, seconds);
		p9t_u64(t, 5);
	}
	return p9t_call(t);
}

static inline int p9t_getattr(struct p9t *t, uint32_t fid)
{
	p9t_begin(t, P9_TGETATTR);
	p9t_u32(t, fid);
	p9t_u64(t, UINT64_MAX);
	return p9t_call(t);
}

/* Of the last getattr. */
static inline uint32_t p9t_mode(const struct p9t *t)
{
	return load_le32(t->reply + P9_HEADER + 8 + 13);
}

static inline uint64_t p9t_size(const struct p9t *t)
{
	return load_le64(t->reply + P9_HEADER + 8 + 13 + 12 + 16);
}

static inline int p9t_xattrwalk(struct p9t *t, uint32_t fid, uint32_t newfid, const char *name)
{
	int r;

	p9t_begin(t, P9_TXATTRWALK);
	p9t_u32(t, fid);
	p9t_u32(t, newfid);
	p9t_str(t, name);
	r = p9t_call(t);
	return r ? r : (int)load_le64(t->reply + P9_HEADER);
}

static inline int p9t_xattrcreate(struct p9t *t, uint32_t fid, const char *name, uint64_t size,
				  uint32_t flags)
{
	p9t_begin(t, P9_TXATTRCREATE);
	p9t_u32(t, fid);
	p9t_str(t, name);
	p9t_u64(t, size);
	p9t_u32(t, flags);
	return p9t_call(t);
}

static inline int p9t_lock(struct p9t *t, uint32_t fid, uint8_t type)
{
	int r;

	p9t_begin(t, P9_TLOCK);
	p9t_u32(t, fid);
	p9t_u8(t, type);
	p9t_u32(t, 0);
	p9t_u64(t, 0);
	p9t_u64(t, 0);
	p9t_u32(t, 1);
	p9t_str(t, "guest");
	r = p9t_call(t);
	return r ? r : t->reply[P9_HEADER];
}

/* ---- the share ---- */

static inline void p9t_open(struct p9t *t, _Bool read_only)
{
	const struct p9_config cfg = {.path = t->share, .read_only = read_only};

	p9_free(t->p9);
	assert_int_equal(p9_open(&t->p9, &cfg, NULL), 0);
	assert_int_equal(p9t_version(t, 65536, "9P2000.L"), 0);
	assert_int_equal(p9t_attach(t, 0, ""), 0);
}

static inline struct p9t *p9t_new(void)
{
	struct p9t *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->room = sizeof(t->reply);
	strcpy(t->dir, "/tmp/p9_test.XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	snprintf(t->share, sizeof(t->share), "%s/share", t->dir);
	snprintf(t->outside, sizeof(t->outside), "%s/outside", t->dir);
	p9t_host_mkdir(t, "share");
	p9t_host_mkdir(t, "outside");
	p9t_host_write(t, "outside/secret", "secret");
	p9t_open(t, 0);
	return t;
}

static inline int p9t_delete(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	return remove(path);
}

static inline void p9t_free(struct p9t *t)
{
	p9_free(t->p9);
	assert_int_equal(nftw(t->dir, p9t_delete, 16, FTW_DEPTH | FTW_PHYS), 0);
	free(t);
}

#endif
