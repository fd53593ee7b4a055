/* p9_test.c: the 9P server as a client meets it. (p9_escape_test.c: as an enemy does.) */
#include "backend/p9_testing.h"

#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

/* ---- the session ---- */

static void a_version_is_agreed_on(void **state)
{
	struct p9t *t = p9t_new();

	assert_int_equal(p9t_version(t, 8192, "9P2000.L"), 0);
	assert_int_equal(load_le32(t->reply + 7), 8192);
	assert_memory_equal(t->reply + 11, "\10\0009P2000.L", 10);
	assert_int_equal(p9t_version(t, UINT32_MAX, "9P2000.L"), 0);
	assert_int_equal(load_le32(t->reply + 7), P9_MSG_MAX);
	assert_int_equal(p9t_version(t, 100, "9P2000.L"), -EMSGSIZE);
	assert_int_equal(p9t_version(t, 8192, "9P2000.u"), 0);
	assert_memory_equal(t->reply + 11, "\7\0unknown", 9);
	assert_int_equal(p9t_attach(t, 0, ""), -EPROTO);
	p9t_free(t);
}

static void a_new_version_and_a_reset_let_everything_go(void **state)
{
	struct p9t *t = p9t_new();

	assert_int_equal(p9t_walk(t, 0, 1, ""), 0);
	assert_int_equal(p9_fids(t->p9), 2);
	assert_int_equal(p9t_version(t, 8192, "9P2000.L"), 0);
	assert_int_equal(p9_fids(t->p9), 0);
	assert_int_equal(p9t_attach(t, 0, ""), 0);
	p9_reset(t->p9);
	assert_int_equal(p9t_getattr(t, 0), -EPROTO);
	assert_int_equal(p9_fids(t->p9), 0);
	p9t_free(t);
}

static void a_subdirectory_can_be_attached_to(void **state)
{
	struct p9t *t = p9t_new();

	p9t_host_mkdir(t, "share/a");
	p9t_host_mkdir(t, "share/a/b");
	p9t_host_write(t, "share/file", "x");
	assert_int_equal(p9t_attach(t, 1, "/a//b/"), 0);
	assert_int_equal(p9t_attach(t, 2, "/"), 0);
	assert_int_equal(p9t_attach(t, 3, "missing"), -ENOENT);
	assert_int_equal(p9t_attach(t, 3, "file"), -ENOTDIR);
	assert_int_equal(p9t_attach(t, 3, "a/../a"), -ENOENT);
	assert_int_equal(p9t_attach(t, 1, ""), -EBADF);
	p9t_free(t);
}

static void fids_are_bounded_and_known_by_their_numbers(void **state)
{
	struct rlimit before, lim;
	struct p9t *t;
	unsigned n = 1;
	int r;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	lim = before;
	lim.rlim_cur = 600;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
	t = p9t_new();
	while (!(r = p9t_walk(t, 0, n * 77, "")))
		n++;
	assert_int_equal(r, -EMFILE);
	assert_int_equal(n, 600 - 128);
	assert_int_equal(p9t_clunk(t, 77), 0);
	assert_int_equal(p9t_clunk(t, 77), -EBADF);
	assert_int_equal(p9t_walk(t, 0, 77, ""), 0);
	assert_int_equal(p9t_walk(t, 0, 2 * 77, ""), -EBADF);
	assert_int_equal(p9t_walk(t, 0, P9_NOFID, ""), -EBADF);
	p9t_free(t);
	setrlimit(RLIMIT_NOFILE, &before);
}

/* ---- files ---- */

static void a_file_is_made_written_read_and_removed(void **state)
{
	struct p9t *t = p9t_new();

	assert_int_equal(p9t_walk(t, 0, 1, ""), 0);
	assert_int_equal(p9t_lcreate(t, 1, "new", O_RDWR | O_CREAT | O_EXCL, 0100640), 0);
	assert_int_equal(p9t_write(t, 1, 3, "hello", 5), 5);
	assert_int_equal(p9t_read(t, 1, 0, 100), 8);
	assert_memory_equal(t->reply + P9_IO_HEADER, "\0\0\0hello", 8);
	assert_int_equal(p9t_read(t, 1, 8, 100), 0);
	assert_int_equal(p9t_getattr(t, 1), 0);
	assert_int_equal(p9t_mode(t), S_IFREG | 0640);
	assert_int_equal(p9t_size(t), 8);
	p9t_begin(t, P9_TFSYNC);
	p9t_u32(t, 1);
	p9t_u32(t, 0);
	assert_int_equal(p9t_call(t), 0);
	assert_int_equal(p9t_walk(t, 0, 2, "new"), 0);
	assert_int_equal(p9t_read(t, 2, 0, 1), -EBADF); /* not opened */
	assert_int_equal(p9t_lopen(t, 2, O_WRONLY | O_TRUNC), 0);
	assert_int_equal(p9t_lopen(t, 2, O_WRONLY), -EBUSY);
	assert_int_equal(p9t_read(t, 2, 0, 1), -EBADF);
	assert_int_equal(p9t_remove(t, 2), 0);
	assert_false(p9t_host_has(t, "share/new"));
	assert_int_equal(p9t_clunk(t, 2), -EBADF);
	/* Still held, and still there for its holder. */
	assert_int_equal(p9t_write(t, 1, 0, "x", 1), 1);
	assert_int_equal(p9t_remove(t, 1), -ENOENT);
	p9t_free(t);
}

static void an_answer_never_exceeds_its_room(void **state)
{
	struct p9t *t = p9t_new();

	p9t_host_write(t, "share/file", "0123456789");
	assert_int_equal(p9t_walk(t, 0, 1, "file"), 0);
	assert_int_equal(p9t_lopen(t, 1, O_RDONLY), 0);
	for (t->room = P9_REPLY_MIN; t->room < 24; t->room++) {
		assert_int_equal(p9t_read(t, 1, 0, UINT32_MAX), MIN(10, (int)t->room - 11));
		assert_int_equal(p9t_getattr(t, 0), -EMSGSIZE);
	}
	t->room = sizeof(t->reply);
	assert_int_equal(p9t_read(t, 1, INT64_MAX - 5, 100), 0);
	assert_int_equal(p9t_read(t, 1, UINT64_MAX, 100), -EINVAL);
	p9t_free(t);
}

static void an_existing_file_is_opened_by_create_unless_exclusive(void **state)
{
	struct p9t *t = p9t_new();

	p9t_host_write(t, "share/file", "old");
	assert_int_equal(p9t_walk(t, 0, 1, ""), 0);
	assert_int_equal(p9t_lcreate(t, 1, "file", O_RDWR | O_CREAT | O_EXCL, 0644), -EEXIST);
	assert_int_equal(p9t_lcreate(t, 1, "file", O_RDWR | O_CREAT, 0644), 0);
	assert_int_equal(p9t_read(t, 1, 0, 10), 3);
	p9t_free(t);
}

static void no_program_gets_another_users_rights(void **state)
{
	struct p9t *t = p9t_new();

	assert_int_equal(p9t_walk(t, 0, 1, ""), 0);
	assert_int_equal(p9t_lcreate(t, 1, "tool", O_WRONLY, 06755), 0);
	assert_int_equal(p9t_getattr(t, 1), 0);
	assert_int_equal(p9t_mode(t), S_IFREG | 0755);
	assert_int_equal(p9t_setattr(t, 1, 1, 07777, 0, 0, 0), 0);
	assert_int_equal(p9t_getattr(t, 1), 0);
	assert_int_equal(p9t_mode(t), S_IFREG | 01777);
	p9t_free(t);
}

static void attributes_can_be_set(void **state)
{
	struct p9t *t = p9t_new();
	struct stat st;
	char path[512];

	p9t_host_write(t, "share/file", "0123456789");
	p9t_path(t, path, "share/file");
	assert_int_equal(p9t_walk(t, 0, 1, "file"), 0);
	assert_int_equal(p9t_setattr(t, 1, 1 | 8, 0600, 0, 4, 0), 0);
	assert_int_equal(p9t_setattr(t, 1, 0x10 | 0x20 | 0x80 | 0x100, 0, 0, 0, 12345), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	assert_int_equal(st.st_size, 4);
	assert_int_equal(st.st_mtime, 12345);
	assert_int_equal(st.st_atime, 12345);
	assert_int_equal(p9t_setattr(t, 1, 8, 0, 0, UINT64_MAX, 0), -EFBIG);
	assert_int_equal(p9t_setattr(t, 1, 2 | 4, 0, 12, 0, 0), 0); /* by root, or not at all */
	assert_int_equal(p9t_setattr(t, 0, 8, 0, 0, 0, 0), -EISDIR);
	p9t_free(t);
}

/* ---- directories ---- */

static void a_directory_is_listed_whole_in_small_pieces(void **state)
{
	struct p9t *t = p9t_new();
	unsigned seen[100] = {0}, dots = 0;
	uint64_t offset = 0;
	char name[40];
	int n;

	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "share/entry-%u", i);
		p9t_host_write(t, name, "");
	}
	assert_int_equal(p9t_walk(t, 0, 1, ""), 0);
	assert_int_equal(p9t_readdir(t, 1, 0, 4000), -EBADF);
	assert_int_equal(p9t_lopen(t, 1, O_RDONLY | O_DIRECTORY), 0);
	assert_int_equal(p9t_readdir(t, 1, 0, 10), -EINVAL);
	while ((n = p9t_readdir(t, 1, offset, 200)) > 0) {
		const uint8_t *p = t->reply + P9_IO_HEADER;

		while (p < t->reply + P9_IO_HEADER + n) {
			uint16_t len = load_le16(p + 22);
			unsigned i;

			offset = load_le64(p + 13);
			memcpy(name, p + 24, len);
			name[len] = 0;
			if (sscanf(name, "entry-%u", &i) == 1)
				seen[i]++;
			else
				dots++;
			p += 24 + len;
		}
		assert_ptr_equal(p, t->reply + P9_IO_HEADER + n);
	}
	assert_int_equal(n, 0);
	assert_int_equal(dots, 2);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(seen[i], 1);
	assert_int_equal(p9t_read(t, 1, 0, 10), -EISDIR);
	p9t_free(t);
}

static void names_are_made_renamed_and_removed(void **state)
{
	struct p9t *t = p9t_new();

	assert_int_equal(p9t_make(t, P9_TMKDIR, 0, "a", 0777), 0);
	assert_int_equal(p9t_make(t, P9_TMKDIR, 0, "a", 0777), -EEXIST);
	assert_int_equal(p9t_make(t, P9_TMKDIR, 0, "b", 0700), 0);
	assert_int_equal(p9t_walk(t, 0, 1, "a"), 0);
	assert_int_equal(p9t_getattr(t, 1), 0);
	assert_int_equal(p9t_mode(t), S_IFDIR | 0777);
	assert_int_equal(p9t_walk(t, 0, 2, "b"), 0);
	assert_int_equal(p9t_make(t, P9_TMKNOD, 1, "f", S_IFREG | 0644), 0);
	assert_int_equal(p9t_renameat(t, 1, "f", 2, "g"), 0);
	assert_int_equal(p9t_walk(t, 2, 3, "g"), 0);
	assert_int_equal(p9t_rename(t, 3, 0, "h"), 0);
	assert_true(p9t_host_has(t, "share/h"));
	/* The directory moves under those who hold it. */
	assert_int_equal(p9t_renameat(t, 0, "a", 2, "c"), 0);
	assert_int_equal(p9t_make(t, P9_TMKDIR, 1, "d", 0755), 0);
	assert_true(p9t_host_has(t, "share/b/c/d"));
	assert_int_equal(p9t_walk(t, 1, 4, ".."), 0);
	assert_int_equal(p9t_make(t, P9_TMKDIR, 4, "e", 0755), 0);
	assert_true(p9t_host_has(t, "share/b/e"));
	assert_int_equal(p9t_unlinkat(t, 0, "b", AT_REMOVEDIR), -ENOTEMPTY);
	assert_int_equal(p9t_unlinkat(t, 0, "b", 0), -EISDIR);
	assert_int_equal(p9t_unlinkat(t, 0, "h", 0), 0);
	assert_int_equal(p9t_unlinkat(t, 2, "e", AT_REMOVEDIR), 0);
	assert_int_equal(p9t_unlinkat(t, 2, "x", 0x400), -EINVAL);
	assert_int_equal(p9t_remove(t, 0), -EBUSY);
	p9t_free(t);
}

static void a_walk_tells_how_far_it_came(void **state)
{
	struct p9t *t = p9t_new();

	p9t_host_mkdir(t, "share/a");
	assert_int_equal(p9t_walk(t, 0, 1, "a/missing/more"), -ENOENT);
	assert_int_equal(t->reply[4], P9_TWALK + 1);
	assert_int_equal(load_le16(t->reply + P9_HEADER), 1);
	assert_int_equal(p9t_getattr(t, 1), -EBADF);
	assert_int_equal(p9t_walk(t, 0, 1, "missing"), -ENOENT);
	assert_int_equal(t->reply[4], P9_RLERROR);
	assert_int_equal(p9t_walk(t, 0, 1, "a"), 0);
	assert_int_equal(p9t_walk(t, 1, 1, ".."), 0); /* the same fid moves */
	assert_int_equal(p9t_walk(t, 1, 2, "a"), 0);
	assert_int_equal(p9t_walk(t, 0, 3, "a/../a/../a/../a/../a/../a/../a/../a/../a"), -EINVAL);
	p9t_free(t);
}

static void links_are_text_and_hard_links_are_the_same_file(void **state)
{
	struct p9t *t = p9t_new();

	p9t_host_write(t, "share/file", "x");
	assert_int_equal(p9t_symlink(t, 0, "link", "/some/where"), 0);
	assert_int_equal(p9t_walk(t, 0, 1, "link"), 0);
	p9t_begin(t, P9_TREADLINK);
	p9t_u32(t, 1);
	assert_int_equal(p9t_call(t), 0);
	assert_memory_equal(t->reply + P9_HEADER, "\13\0/some/where", 13);
	assert_int_equal(p9t_walk(t, 0, 2, "file"), 0);
	p9t_begin(t, P9_TREADLINK);
	p9t_u32(t, 2);
	assert_int_equal(p9t_call(t), -EINVAL);
	assert_int_equal(p9t_link(t, 0, 2, "again"), 0);
	p9t_host_is(t, "share/again", "x");
	p9t_free(t);
}

static void devices_and_fifos_are_not_opened(void **state)
{
	struct p9t *t = p9t_new();
	char path[512];

	assert_int_equal(p9t_make(t, P9_TMKNOD, 0, "dev", S_IFCHR | 0666), -EPERM);
	assert_int_equal(p9t_make(t, P9_TMKNOD, 0, "blk", S_IFBLK | 0666), -EPERM);
	assert_int_equal(p9t_make(t, P9_TMKNOD, 0, "fifo", S_IFIFO | 0666), 0);
	assert_int_equal(p9t_make(t, P9_TMKNOD, 0, "sock", S_IFSOCK | 0666), 0);
	for (unsigned flags = 0; flags < 3; flags++) { /* none of them may block either */
		assert_int_equal(p9t_walk(t, 0, 1, "fifo"), 0);
		assert_int_equal(p9t_lopen(t, 1, flags), -ENXIO);
		assert_int_equal(p9t_clunk(t, 1), 0);
		assert_int_equal(p9t_walk(t, 0, 1, ""), 0);
		assert_int_equal(p9t_lcreate(t, 1, "fifo", flags | O_CREAT, 0644), -ENXIO);
		assert_int_equal(p9t_clunk(t, 1), 0);
	}
	assert_int_equal(p9t_walk(t, 0, 1, "fifo"), 0);
	assert_int_equal(p9t_setattr(t, 1, 8, 0, 0, 0, 0), -EINVAL);
	p9t_path(t, path, "share/null");
	if (!mknod(path, S_IFCHR | 0666, makedev(1, 3))) { /* root's tests only */
		assert_int_equal(p9t_walk(t, 0, 2, "null"), 0);
		assert_int_equal(p9t_lopen(t, 2, O_RDWR), -ENXIO);
	}
	p9t_free(t);
}

static void a_read_only_share_refuses_every_change(void **state)
{
	struct p9t *t = p9t_new();

	p9t_host_write(t, "share/file", "x");
	p9t_open(t, 1);
	assert_int_equal(p9t_walk(t, 0, 1, "file"), 0);
	assert_int_equal(p9t_lopen(t, 1, O_WRONLY), -EROFS);
	assert_int_equal(p9t_lopen(t, 1, O_RDWR), -EROFS);
	assert_int_equal(p9t_lopen(t, 1, O_RDONLY | O_TRUNC), -EROFS);
	assert_int_equal(p9t_setattr(t, 1, 1, 0600, 0, 0, 0), -EROFS);
	assert_int_equal(p9t_xattrcreate(t, 1, "user.a", 1, 0), -EROFS);
	assert_int_equal(p9t_write(t, 1, 0, "y", 1), -EROFS);
	assert_int_equal(p9t_lcreate(t, 0, "new", O_RDONLY, 0644), -EROFS);
	assert_int_equal(p9t_make(t, P9_TMKDIR, 0, "d", 0755), -EROFS);
	assert_int_equal(p9t_make(t, P9_TMKNOD, 0, "d", S_IFREG), -EROFS);
	assert_int_equal(p9t_symlink(t, 0, "l", "x"), -EROFS);
	assert_int_equal(p9t_link(t, 0, 1, "l"), -EROFS);
	assert_int_equal(p9t_renameat(t, 0, "file", 0, "l"), -EROFS);
	assert_int_equal(p9t_rename(t, 1, 0, "l"), -EROFS);
	assert_int_equal(p9t_unlinkat(t, 0, "file", 0), -EROFS);
	assert_int_equal(p9t_lopen(t, 1, O_RDONLY), 0);
	assert_int_equal(p9t_read(t, 1, 0, 10), 1);
	assert_int_equal(p9t_remove(t, 1), -EROFS);
	p9t_host_is(t, "share/file", "x");
	p9t_free(t);
}

/* ---- locks and extended attributes ---- */

static void locks_exclude_other_holders(void **state)
{
	struct p9t *t = p9t_new();

	p9t_host_write(t, "share/file", "x");
	for (uint32_t f = 1; f < 3; f++) {
		assert_int_equal(p9t_walk(t, 0, f, "file"), 0);
		assert_int_equal(p9t_lopen(t, f, O_RDWR), 0);
	}
	assert_int_equal(p9t_lock(t, 1, 1), 0);
	assert_int_equal(p9t_lock(t, 2, 0), 1); /* it would have to wait */
	p9t_begin(t, P9_TGETLOCK);
	p9t_u32(t, 2);
	p9t_u8(t, 1);
	p9t_u64(t, 0);
	p9t_u64(t, 0);
	p9t_u32(t, 9);
	p9t_str(t, "me");
	assert_int_equal(p9t_call(t), 0);
	assert_int_equal(t->reply[P9_HEADER], 1);
	assert_int_equal(p9t_lock(t, 1, 2), 0);
	assert_int_equal(p9t_lock(t, 2, 0), 0);
	assert_int_equal(p9t_lock(t, 2, 7), -EINVAL);
	p9t_free(t);
}

static void extended_attributes_of_users_are_kept(void **state)
{
	struct p9t *t = p9t_new();

	p9t_host_write(t, "share/file", "x");
	assert_int_equal(p9t_walk(t, 0, 1, "file"), 0);
	assert_int_equal(p9t_xattrcreate(t, 1, "security.capability", 4, 0), -EOPNOTSUPP);
	assert_int_equal(p9t_xattrcreate(t, 1, "user.big", 1 << 20, 0), -ENOSPC);
	assert_int_equal(p9t_xattrcreate(t, 1, "user.colour", 4, 0), 0);
	assert_int_equal(p9t_write(t, 1, 2, "ue", 2), 2);
	assert_int_equal(p9t_write(t, 1, 0, "bl", 2), 2);
	assert_int_equal(p9t_write(t, 1, 3, "xx", 2), -ENOSPC);
	if (p9t_clunk(t, 1) == -EOPNOTSUPP) { /* a tmpfs of an old host */
		p9t_free(t);
		skip();
	}
	assert_int_equal(p9t_walk(t, 0, 1, "file"), 0);
	assert_int_equal(p9t_xattrwalk(t, 1, 2, "user.colour"), 4);
	assert_int_equal(p9t_read(t, 2, 1, 100), 3);
	assert_memory_equal(t->reply + P9_IO_HEADER, "lue", 3);
	assert_int_equal(p9t_read(t, 2, UINT64_MAX, 100), 0);
	assert_int_equal(p9t_xattrwalk(t, 1, 3, ""), 12);
	assert_int_equal(p9t_read(t, 3, 0, 100), 12);
	assert_string_equal((char *)t->reply + P9_IO_HEADER, "user.colour");
	assert_int_equal(p9t_xattrwalk(t, 1, 4, "user.shape"), -ENODATA);
	assert_int_equal(p9t_xattrwalk(t, 1, 4, "security.selinux"), -EOPNOTSUPP);
	/* Nothing at all is a value; to replace by nothing is to take away (as Linux says it). */
	assert_int_equal(p9t_xattrcreate(t, 1, "user.colour", 0, 0), 0);
	assert_int_equal(p9t_clunk(t, 1), 0);
	assert_int_equal(p9t_walk(t, 0, 1, "file"), 0);
	assert_int_equal(p9t_xattrwalk(t, 1, 4, "user.colour"), 0);
	assert_int_equal(p9t_xattrcreate(t, 1, "user.shape", 0, XATTR_CREATE), 0);
	assert_int_equal(p9t_clunk(t, 1), 0);
	assert_int_equal(p9t_walk(t, 0, 1, "file"), 0);
	assert_int_equal(p9t_xattrwalk(t, 1, 5, "user.shape"), 0);
	assert_int_equal(p9t_xattrcreate(t, 1, "user.colour", 0, XATTR_REPLACE), 0);
	assert_int_equal(p9t_clunk(t, 1), 0);
	assert_int_equal(p9t_walk(t, 0, 1, "file"), 0);
	assert_int_equal(p9t_xattrwalk(t, 1, 6, "user.colour"), -ENODATA);
	assert_int_equal(p9t_xattrcreate(t, 1, "user.colour", 0, XATTR_REPLACE), 0);
	assert_int_equal(p9t_clunk(t, 1), -ENODATA);
	p9t_free(t);
}

/* ---- saved state ---- */

static void what_is_held_is_held_again(void **state)
{
	uint8_t *saved = malloc(P9_SAVE_MAX), *again = malloc(P9_SAVE_MAX);
	struct p9t *t = p9t_new();
	int len, len2;

	p9t_host_mkdir(t, "share/a");
	p9t_host_write(t, "share/a/file", "content");
	p9t_host_write(t, "share/gone", "x");
	assert_int_equal(p9t_walk(t, 0, 1, "a"), 0);
	assert_int_equal(p9t_walk(t, 0, 2, "a/file"), 0);
	assert_int_equal(p9t_lopen(t, 2, O_RDWR), 0);
	assert_int_equal(p9t_walk(t, 0, 3, "gone"), 0);
	assert_int_equal(p9t_unlinkat(t, 0, "gone", 0), 0);
	len = p9_save(t->p9, saved);
	assert_true(len > 0 && p9_saved_good(saved, (size_t)len));
	p9_free(t->p9);
	t->p9 = NULL;
	p9t_open(t, 0);
	p9_load(t->p9, saved, (size_t)len);
	assert_int_equal(p9_fids(t->p9), 4);
	assert_int_equal(p9t_read(t, 2, 0, 100), 7);
	assert_int_equal(p9t_write(t, 2, 0, "C", 1), 1);
	assert_int_equal(p9t_walk(t, 1, 5, "file"), 0);
	assert_int_equal(p9t_clunk(t, 5), 0);
	assert_int_equal(p9t_getattr(t, 3), -ESTALE);
	len2 = p9_save(t->p9, again);
	assert_int_equal(len, len2);
	assert_int_equal(p9t_clunk(t, 3), 0);
	assert_int_equal(p9t_xattrcreate(t, 1, "user.a", 2, 0), 0);
	assert_int_equal(p9_save(t->p9, again), -EBUSY);
	p9t_free(t);
	free(saved);
	free(again);
}

static void saved_nonsense_is_refused(void **state)
{
	uint8_t *saved = malloc(P9_SAVE_MAX);
	struct p9t *t = p9t_new();
	size_t len;

	assert_int_equal(p9t_make(t, P9_TMKDIR, 0, "a", 0755), 0);
	assert_int_equal(p9t_walk(t, 0, 1, "a"), 0);
	assert_int_equal(p9t_lopen(t, 1, O_RDONLY), 0);
	len = (size_t)p9_save(t->p9, saved);
	for (size_t i = 0; i < len; i++)
		assert_false(p9_saved_good(saved, i));
	for (size_t i = 0; i < len; i++)
		for (unsigned bit = 0; bit < 8; bit++) {
			saved[i] ^= (uint8_t)(1 << bit);
			if (p9_saved_good(saved, len)) /* then it can be loaded, whatever it is */
				p9_load(t->p9, saved, len);
			saved[i] ^= (uint8_t)(1 << bit);
		}
	p9t_free(t);
	free(saved);
}

/* ---- what cannot be shared ---- */

static int opens(const char *path, const char *words)
{
	const struct p9_config cfg = {.path = path};
	struct error err = {.text = ""};
	struct p9 *p9;
	int r = p9_open(&p9, &cfg, &err);

	assert_int_not_equal(r, 0);
	assert_non_null(strstr(err.text, words));
	return r;
}

static void what_cannot_be_shared_is_said(void **state)
{
	struct p9t *t = p9t_new();
	char path[512];

	p9t_path(t, path, "outside/secret");
	assert_int_equal(opens(path, "is not a directory"), -ENOTDIR);
	p9t_path(t, path, "missing");
	assert_int_equal(opens(path, "there is no directory"), -ENOENT);
	assert_int_equal(opens("/proc", "other processes"), -EINVAL);
	p9t_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_version_is_agreed_on),
	    cmocka_unit_test(a_new_version_and_a_reset_let_everything_go),
	    cmocka_unit_test(a_subdirectory_can_be_attached_to),
	    cmocka_unit_test(fids_are_bounded_and_known_by_their_numbers),
	    cmocka_unit_test(a_file_is_made_written_read_and_removed),
	    cmocka_unit_test(an_answer_never_exceeds_its_room),
	    cmocka_unit_test(an_existing_file_is_opened_by_create_unless_exclusive),
	    cmocka_unit_test(no_program_gets_another_users_rights),
	    cmocka_unit_test(attributes_can_be_set),
	    cmocka_unit_test(a_directory_is_listed_whole_in_small_pieces),
	    cmocka_unit_test(names_are_made_renamed_and_removed),
	    cmocka_unit_test(a_walk_tells_how_far_it_came),
	    cmocka_unit_test(links_are_text_and_hard_links_are_the_same_file),
	    cmocka_unit_test(devices_and_fifos_are_not_opened),
	    cmocka_unit_test(a_read_only_share_refuses_every_change),
	    cmocka_unit_test(locks_exclude_other_holders),
	    cmocka_unit_test(extended_attributes_of_users_are_kept),
	    cmocka_unit_test(what_is_held_is_held_again),
	    cmocka_unit_test(saved_nonsense_is_refused),
	    cmocka_unit_test(what_cannot_be_shared_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
