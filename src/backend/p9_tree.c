/* p9_tree.c: names of a share: made, linked, renamed, removed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/p9_impl.h"

/* The mode of something that was just made, whatever this process's mask is; then its qid. */
static int finish(struct p9 *s, int dir, const char *name, const mode_t *mode, struct p9_out *out)
{
	int fd = p9_step(s, dir, name), r = 0;
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) ||
	    (mode && !S_ISLNK(st.st_mode) && fchmodat(s->proc, p9_link(fd).s, *mode, 0)))
		r = -errno;
	else
		out_qid(out, s, &st);
	close(fd);
	return r;
}

int p9_mkdir(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	struct p9_name name;
	struct p9_fid *dir;
	int r = in_name(in, &name);
	mode_t mode = p9_mode(rbuf_u32(in), 1);

	rbuf_u32(in); /* gid */
	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get_path(s, id, &dir);
	if (r)
		return r;
	if (mkdirat(dir->fd, name.s, mode & 0700))
		return -errno;
	return finish(s, dir->fd, name.s, &mode, out);
}

int p9_symlink(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	char target[PATH_MAX];
	struct p9_name name;
	struct p9_fid *dir;
	int r = in_name(in, &name);

	if (!r)
		r = in_text(in, target, sizeof(target));
	rbuf_u32(in); /* gid */
	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get_path(s, id, &dir);
	if (r)
		return r;
	/* Any text may stand in a link: nothing here follows one. */
	if (symlinkat(target, dir->fd, name.s))
		return -errno;
	return finish(s, dir->fd, name.s, NULL, out);
}

/* FIFOs and sockets are only names, which the guest uses by itself; devices would be the host's. */
int p9_mknod(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), type;
	struct p9_name name;
	struct p9_fid *dir;
	int r = in_name(in, &name);
	mode_t mode;

	type = rbuf_u32(in);
	mode = p9_mode(type, 0);
	type &= S_IFMT;
	rbuf_u32(in); /* major */
	rbuf_u32(in); /* minor */
	rbuf_u32(in); /* gid */
	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get_path(s, id, &dir);
	if (r)
		return r;
	if (type && type != S_IFREG && type != S_IFIFO && type != S_IFSOCK)
		return -EPERM;
	if (mknodat(dir->fd, name.s, type | (mode & 0700), 0))
		return -errno;
	return finish(s, dir->fd, name.s, &mode, out);
}

int p9_link_to(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), from = rbuf_u32(in);
	struct p9_fid *dir, *f;
	struct p9_name name;
	int r = in_name(in, &name);

	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get_path(s, id, &dir);
	if (!r)
		r = fid_get_path(s, from, &f);
	if (r)
		return r;
	return linkat(s->proc, p9_link(f->fd).s, dir->fd, name.s, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

int p9_renameat(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t from = rbuf_u32(in), to;
	struct p9_fid *old_dir, *new_dir;
	struct p9_name old, new;
	int r = in_name(in, &old);

	to = rbuf_u32(in);
	if (!r)
		r = in_name(in, &new);
	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get_path(s, from, &old_dir);
	if (!r)
		r = fid_get_path(s, to, &new_dir);
	if (r)
		return r;
	return renameat(old_dir->fd, old.s, new_dir->fd, new.s) ? -errno : 0;
}

int p9_rename(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), to = rbuf_u32(in);
	struct p9_name new, old;
	struct p9_fid *f, *dir;
	int r = in_name(in, &new), parent;

	if (in->failed)
		return -EBADMSG;
	if (!r)
		r = fid_get_path(s, id, &f);
	if (!r)
		r = fid_get_path(s, to, &dir);
	if (!r)
		r = p9_parent_of(s, f->fd, &parent, &old);
	if (r)
		return r;
	r = renameat(parent, old.s, dir->fd, new.s) ? -errno : 0;
	close(parent);
	return r;
}

int p9_unlinkat(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in), flags;
	struct p9_name name;
	struct p9_fid *dir;
	int r = in_name(in, &name);

	flags = rbuf_u32(in);
	if (in->failed)
		return -EBADMSG;
	if (!r && flags & ~(uint32_t)AT_REMOVEDIR)
		r = -EINVAL;
	if (!r)
		r = fid_get_path(s, id, &dir);
	if (r)
		return r;
	return unlinkat(dir->fd, name.s, (int)flags) ? -errno : 0;
}

static int remove_it(struct p9 *s, int fd)
{
	struct p9_name name;
	struct stat st;
	int parent, r = s->read_only ? -EROFS : fstat(fd, &st) ? -errno : 0;

	if (!r)
		r = p9_parent_of(s, fd, &parent, &name);
	if (r)
		return r;
	r = unlinkat(parent, name.s, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) ? -errno : 0;
	close(parent);
	return r;
}

int p9_remove(struct p9 *s, struct rbuf *in, struct p9_out *out)
{
	uint32_t id = rbuf_u32(in);
	struct p9_fid *f;
	int r = in->failed ? -EBADMSG : fid_get_path(s, id, &f);

	if (r)
		return r;
	r = remove_it(s, f->fd);
	fid_drop(s, f); /* whatever came of it */
	return r;
}
