/* p9_save.c: what a guest holds of a share, by paths: to be saved and held again. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "backend/p9_impl.h"

/*
 * u32 msize, u32 count, then per fid: u32 id, u8 kind (FID_PATH, FID_OPEN or FID_LOST), u8 zero,
 * u32 open flags, u16 length and the path from the share's root. Locks are not in it: a guest that
 * is restored may have lost them to somebody else by then.
 */
#define SAVED_FLAGS (O_ACCMODE | O_APPEND | O_DSYNC | O_SYNC | O_DIRECTORY)

/* Is there a path that leads to it? Not when it was removed, or moved out of the share. */
static _Bool found_again(struct p9 *s, int fd, char path[PATH_MAX])
{
	int again = p9_path_of(s, fd, path) ? -1 : p9_beneath(s, path);
	struct stat a, b;
	_Bool same;

	if (again < 0)
		return 0;
	same = !fstat(fd, &a) && !fstat(again, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
	close(again);
	return same;
}

static int save_one(struct p9 *s, const struct p9_fid *f, struct p9_out *out)
{
	char path[PATH_MAX] = "";
	enum p9_kind kind = f->kind;

	if (kind == FID_XATTR || kind == FID_XATTRW)
		return -EBUSY;
	if (kind != FID_LOST && !found_again(s, f->fd, path)) {
		kind = FID_LOST;
		path[0] = 0;
	}
	out_u32(out, f->id);
	out_u8(out, (uint8_t)kind);
	out_u8(out, 0);
	out_u32(out, kind == FID_OPEN ? (uint32_t)(f->flags & SAVED_FLAGS) : 0);
	out_str(out, path, strlen(path));
	return out->failed ? -E2BIG : 0;
}

int p9_save(struct p9 *s, uint8_t *data)
{
	struct p9_out out = {.data = data, .max = P9_SAVE_MAX};
	int r = 0;

	if (atomic_load(&s->reset_wanted)) {
		out_u64(&out, 0);
		return (int)out.len;
	}
	out_u32(&out, s->msize);
	out_u32(&out, s->fid_count);
	for (unsigned b = 0; b < P9_BUCKETS; b++)
		for (struct p9_fid *f = s->bucket[b]; !r && f; f = f->next)
			r = save_one(s, f, &out);
	return r ? r : (int)out.len;
}

struct saved {
	uint32_t id, flags;
	uint8_t kind;
	char path[PATH_MAX];
};

static _Bool take_one(struct rbuf *in, struct saved *one)
{
	uint8_t zero;
	int r;

	one->id = rbuf_u32(in);
	one->kind = rbuf_u8(in);
	zero = rbuf_u8(in);
	one->flags = rbuf_u32(in);
	r = in_text(in, one->path, sizeof(one->path));
	return !r && !in->failed && !zero && one->id != P9_NOFID &&
	       (one->kind == FID_PATH || one->kind == FID_OPEN || one->kind == FID_LOST) &&
	       !(one->flags & ~(uint32_t)SAVED_FLAGS) && (!one->flags || one->kind == FID_OPEN);
}

_Bool p9_saved_good(const uint8_t *data, size_t len)
{
	struct saved one;
	uint32_t msize, count;
	struct rbuf in;

	rbuf_init(&in, data, len);
	msize = rbuf_u32(&in);
	count = rbuf_u32(&in);
	if (in.failed || (msize && (msize < P9_MSIZE_MIN || msize > P9_MSG_MAX)) ||
	    count > P9_FIDS_MAX || (count && !msize))
		return 0;
	for (uint32_t i = 0; i < count; i++)
		if (!take_one(&in, &one))
			return 0;
	return !rbuf_left(&in);
}

static void load_one(struct p9 *s, const struct saved *one)
{
	int fd = one->kind == FID_LOST ? -ESTALE : p9_beneath(s, one->path), opened;
	struct p9_fid *f;

	if (fd >= 0 && one->kind == FID_OPEN) {
		opened = s->read_only && (one->flags & O_ACCMODE)
			     ? -EROFS
			     : p9_reopen(s, fd, (int)one->flags);
		close(fd);
		fd = opened;
	}
	if (fid_add(s, one->id, MAX(fd, -1), &f)) /* twice in the list, or too many */
		return;
	f->kind = fd < 0 ? FID_LOST : (enum p9_kind)one->kind;
	f->flags = (int)one->flags;
}

void p9_load(struct p9 *s, const uint8_t *data, size_t len)
{
	struct saved one;
	uint32_t count;
	struct rbuf in;

	atomic_store(&s->reset_wanted, 0);
	fid_drop_all(s);
	rbuf_init(&in, data, len);
	s->msize = rbuf_u32(&in);
	count = rbuf_u32(&in);
	for (uint32_t i = 0; i < count && take_one(&in, &one); i++)
		load_one(s, &one);
}
