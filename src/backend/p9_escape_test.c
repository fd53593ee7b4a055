/* p9_escape_test.c: a client that tries to leave the directory by every path that it can send. Each
 * test runs with openat2 and without it. */
#include "backend/p9_testing.h"

#include <pthread.h>
#include <stdatomic.h>

static struct p9t *start(void **state)
{
	struct p9t *t = p9t_new();

	if (*(_Bool *)*state)
		p9_without_openat2(t->p9);
	return t;
}

static void untouched(struct p9t *t)
{
	p9t_host_is(t, "outside/secret", "secret");
	assert_int_equal(p9_beneath(t->p9, "../outside/secret"), -ENOENT);
}

/* Every message that takes a name, with this one in each of its places. */
static void all_refuse(struct p9t *t, const char *name, _Bool walk_too)
{
	int r;

	if (walk_too) {
		p9t_begin(t, P9_TWALK);
		p9t_u32(t, 0);
		p9t_u32(t, 9);
		p9t_u16(t, 1);
		p9t_str(t, name);
		r = p9t_call(t);
		assert_true(r == -EINVAL || r == -ENAMETOOLONG);
	}
	assert_int_equal(p9t_walk(t, 0, 8, ""), 0);
	for (unsigned i = 0; i < 9; i++) {
		switch (i) {
		case 0: r = p9t_lcreate(t, 8, name, O_RDWR, 0644); break;
		case 1: r = p9t_make(t, P9_TMKDIR, 8, name, 0755); break;
		case 2: r = p9t_make(t, P9_TMKNOD, 8, name, S_IFREG); break;
		case 3: r = p9t_symlink(t, 8, name, "x"); break;
		case 4: r = p9t_link(t, 8, 1, name); break;
		case 5: r = p9t_renameat(t, 8, name, 8, "new"); break;
		case 6: r = p9t_renameat(t, 8, "file", 8, name); break;
		case 7: r = p9t_rename(t, 1, 8, name); break;
		default: r = p9t_unlinkat(t, 8, name, 0); break;
		}
		assert_true(r == -EINVAL || r == -ENAMETOOLONG);
	}
	assert_int_equal(p9t_clunk(t, 8), 0);
}

static void names_that_are_paths_are_refused_everywhere(void **state)
{
	static const char *const bad[] = {
	    "/",     "/etc",	    "../outside/secret", "a/b", "./file",
	    "file/", "outside/../", "../../../../etc",	 ".",	"",
	};
	struct p9t *t = start(state);
	char longer[400];

	p9t_host_write(t, "share/file", "x");
	assert_int_equal(p9t_walk(t, 0, 1, "file"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		all_refuse(t, bad[i], 1);
	all_refuse(t, "..", 0);
	memset(longer, 'x', sizeof(longer));
	longer[256] = 0;
	all_refuse(t, longer, 1);
	/* A zero byte would cut the name short for the kernel. */
	p9t_begin(t, P9_TMKDIR);
	p9t_u32(t, 0);
	p9t_u16(t, 3);
	p9t_bytes(t, "a\0b", 3);
	p9t_u32(t, 0755);
	p9t_u32(t, 0);
	assert_int_equal(p9t_call(t), -EINVAL);
	assert_false(p9t_host_has(t, "share/a"));
	untouched(t);
	p9t_free(t);
}

static void dot_dot_ends_at_the_root(void **state)
{
	struct p9t *t = start(state);
	uint8_t root[13];

	p9t_host_mkdir(t, "share/a");
	assert_int_equal(p9t_getattr(t, 0), 0);
	memcpy(root, t->reply + P9_HEADER + 8, sizeof(root));
	assert_int_equal(p9t_walk(t, 0, 1, ".."), 0);
	assert_int_equal(p9t_walk(t, 0, 2, "a/../../.."), 0);
	for (uint32_t f = 1; f < 3; f++) {
		assert_int_equal(p9t_getattr(t, f), 0);
		assert_memory_equal(root, t->reply + P9_HEADER + 8, sizeof(root));
		assert_int_equal(p9t_walk(t, f, 5, "outside"), -ENOENT);
	}
	assert_int_equal(p9t_attach(t, 3, "../outside"), -ENOENT);
	assert_int_equal(p9t_attach(t, 3, "a/../../outside"), -ENOENT);
	p9t_free(t);
}

static void links_lead_nowhere(void **state)
{
	static const char *const targets[] = {
	    "../outside", "/proc/self/root", "/proc/self/cwd", "/", "..", "../outside/secret", "a",
	};
	struct p9t *t = start(state);
	char absolute[96];

	snprintf(absolute, sizeof(absolute), "%s/outside", t->dir);
	p9t_host_mkdir(t, "share/a");
	for (size_t i = 0; i <= ARRAY_SIZE(targets); i++) {
		const char *target = i < ARRAY_SIZE(targets) ? targets[i] : absolute;

		assert_int_equal(p9t_symlink(t, 0, "link", target), 0);
		assert_int_equal(p9t_walk(t, 0, 1, "link/secret"), -ENOENT);
		assert_int_equal(p9t_getattr(t, 1), -EBADF);
		assert_int_equal(p9t_walk(t, 0, 1, "link/.."), -ENOENT);
		assert_int_equal(p9t_attach(t, 1, "link"), -ENOTDIR);
		assert_int_equal(p9t_walk(t, 0, 1, "link"), 0);
		for (unsigned flags = 0; flags < 3; flags++)
			assert_int_equal(p9t_lopen(t, 1, flags | O_TRUNC), -ELOOP);
		assert_int_equal(p9t_lopen(t, 1, O_DIRECTORY), -ELOOP);
		/* Nothing is made, changed or removed through it. */
		assert_int_equal(p9t_walk(t, 1, 2, ""), 0);
		assert_int_equal(p9t_lcreate(t, 2, "made", O_RDWR, 0644), -ENOTDIR);
		assert_int_equal(p9t_make(t, P9_TMKDIR, 1, "made", 0755), -ENOTDIR);
		assert_int_equal(p9t_make(t, P9_TMKNOD, 1, "made", S_IFREG), -ENOTDIR);
		assert_int_equal(p9t_symlink(t, 1, "made", "x"), -ENOTDIR);
		assert_int_equal(p9t_renameat(t, 1, "secret", 0, "stolen"), -ENOTDIR);
		assert_int_equal(p9t_renameat(t, 0, "a", 1, "given"), -ENOTDIR);
		assert_int_equal(p9t_unlinkat(t, 1, "secret", 0), -ENOTDIR);
		assert_int_equal(p9t_walk(t, 0, 3, ""), 0);
		assert_int_equal(p9t_lcreate(t, 3, "link", O_RDWR | O_CREAT | O_TRUNC, 0644),
				 -ELOOP);
		assert_int_equal(p9t_setattr(t, 1, 8, 0, 0, 0, 0), -EINVAL);
		assert_int_equal(p9t_setattr(t, 1, 1, 0777, 0, 0, 0), -EOPNOTSUPP);
		assert_int_equal(p9t_clunk(t, 3), 0);
		assert_int_equal(p9t_clunk(t, 2), 0);
		assert_int_equal(p9t_remove(t, 1), 0); /* the link itself */
		assert_true(p9t_host_has(t, "share/a"));
		untouched(t);
	}
	p9t_free(t);
}

static void a_links_target_keeps_its_attributes(void **state)
{
	struct p9t *t = start(state);
	struct stat before, after;
	char path[512];

	p9t_path(t, path, "outside/secret");
	assert_int_equal(stat(path, &before), 0);
	p9t_host_link(t, "../outside/secret", "share/link");
	assert_int_equal(p9t_walk(t, 0, 1, "link"), 0);
	assert_int_equal(p9t_getattr(t, 1), 0);
	assert_int_equal(p9t_mode(t) & S_IFMT, S_IFLNK);
	(void)p9t_setattr(t, 1, 0x1b0, 0, 0, 0, 77); /* the link's own times */
	(void)p9t_setattr(t, 1, 6, 0, 12, 0, 0);
	assert_int_equal(p9t_xattrwalk(t, 1, 2, "") > 0, 0);
	if (!p9t_xattrcreate(t, 1, "user.mark", 1, 0))
		(void)p9t_clunk(t, 1);
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(before.st_mtime, after.st_mtime);
	assert_int_equal(before.st_uid, after.st_uid);
	assert_int_equal(before.st_ctim.tv_nsec, after.st_ctim.tv_nsec);
	assert_int_equal(p9t_walk(t, 0, 5, "link"), 0);
	assert_int_equal(p9t_link(t, 0, 5, "hard"), 0); /* of the link, not of its target */
	assert_int_equal(p9t_walk(t, 0, 6, "hard"), 0);
	assert_int_equal(p9t_lopen(t, 6, O_RDONLY), -ELOOP);
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(after.st_nlink, 1);
	p9t_free(t);
}

static void a_directory_that_left_the_share_is_no_way_out(void **state)
{
	struct p9t *t = start(state);
	char from[512], to[512];

	p9t_host_mkdir(t, "share/a");
	p9t_host_mkdir(t, "share/a/b");
	assert_int_equal(p9t_walk(t, 0, 1, "a/b"), 0);
	assert_int_equal(p9t_walk(t, 0, 2, "a"), 0);
	p9t_path(t, from, "share/a");
	p9t_path(t, to, "outside/a");
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(p9t_walk(t, 1, 3, ".."), -ENOENT);
	assert_int_equal(p9t_walk(t, 2, 3, ".."), -ENOENT);
	assert_int_equal(p9t_walk(t, 1, 3, "../../secret"), -ENOENT);
	assert_int_equal(p9t_rename(t, 1, 0, "back"), -ENOENT);
	assert_int_equal(p9t_remove(t, 1), -ENOENT);
	assert_true(p9t_host_has(t, "outside/a/b"));
	/* A path that only begins like the share's. */
	p9t_path(t, from, "share-not");
	assert_int_equal(rename(to, from), 0);
	assert_int_equal(p9t_walk(t, 2, 3, ".."), -ENOENT);
	p9t_free(t);
}

static void a_directory_is_not_moved_into_itself(void **state)
{
	struct p9t *t = start(state);

	p9t_host_mkdir(t, "share/a");
	p9t_host_mkdir(t, "share/a/b");
	assert_int_equal(p9t_walk(t, 0, 1, "a/b"), 0);
	assert_int_equal(p9t_renameat(t, 0, "a", 1, "c"), -EINVAL);
	assert_int_equal(p9t_rename(t, 0, 1, "root"), -EBUSY);
	p9t_free(t);
}

static void other_processes_are_not_reached_through_proc(void **state)
{
	const struct p9_config cfg = {.path = "/", .read_only = 1};
	struct p9t *t = start(state);

	p9_free(t->p9);
	assert_int_equal(p9_open(&t->p9, &cfg, NULL), 0);
	if (*(_Bool *)*state)
		p9_without_openat2(t->p9);
	assert_int_equal(p9t_version(t, 65536, "9P2000.L"), 0);
	assert_int_equal(p9t_attach(t, 0, ""), 0);
	assert_int_equal(p9t_walk(t, 0, 1, "proc"), -EACCES);
	assert_int_equal(p9t_walk(t, 0, 1, "proc/self/mem"), -EACCES);
	assert_int_equal(p9t_attach(t, 1, "proc/self"), -EACCES);
	assert_int_equal(p9t_walk(t, 0, 1, "tmp"), 0);
	assert_int_equal(p9t_walk(t, 1, 2, "../.."), 0); /* the root's own root */
	p9t_free(t);
}

/* ---- against time ---- */

struct swapper {
	char a[512], b[512];
	atomic_bool stop;
	atomic_uint count;
};
#define SWAPS 200 /* at least, on however few CPUs */

/* The directory and a link to the outside change places all the time. */
static void *swap(void *opaque)
{
	struct swapper *s = opaque;

	while (!atomic_load(&s->stop))
		if (!renameat2(AT_FDCWD, s->a, AT_FDCWD, s->b, RENAME_EXCHANGE))
			atomic_fetch_add(&s->count, 1);
	return NULL;
}

static void one_try(struct p9t *t, unsigned *inside)
{
	if (!p9t_walk(t, 0, 1, "d/secret") && !p9t_lopen(t, 1, O_RDWR)) {
		assert_int_equal(p9t_read(t, 1, 0, 100), 6);
		assert_memory_equal(t->reply + P9_IO_HEADER, "public", 6);
		++*inside;
	}
	(void)p9t_clunk(t, 1);
	if (!p9t_walk(t, 0, 1, "d")) {
		(void)p9t_lcreate(t, 1, "made", O_RDWR | O_CREAT, 0644);
		(void)p9t_clunk(t, 1);
	}
	if (!p9t_walk(t, 0, 1, "d")) {
		(void)p9t_unlinkat(t, 1, "made", 0);
		(void)p9t_clunk(t, 1);
	}
	if (!p9t_attach(t, 2, "d/sub")) {
		assert_int_equal(p9t_walk(t, 2, 3, "only-inside"), 0);
		(void)p9t_clunk(t, 3);
		(void)p9t_clunk(t, 2);
	}
}

static void a_link_swapped_in_during_a_walk_is_not_followed(void **state)
{
	struct p9t *t = start(state);
	unsigned inside = 0;
	struct swapper s;
	pthread_t thread;

	p9t_host_mkdir(t, "share/d");
	p9t_host_mkdir(t, "share/d/sub");
	p9t_host_write(t, "share/d/sub/only-inside", "");
	p9t_host_mkdir(t, "outside/sub");
	p9t_host_write(t, "share/d/secret", "public");
	p9t_host_link(t, "../outside", "share/l");
	p9t_path(t, s.a, "share/d");
	p9t_path(t, s.b, "share/l");
	atomic_init(&s.stop, 0);
	atomic_init(&s.count, 0);
	assert_int_equal(pthread_create(&thread, NULL, swap, &s), 0);
	for (unsigned i = 0; i < 3000 || !inside || atomic_load(&s.count) < SWAPS; i++)
		one_try(t, &inside);
	atomic_store(&s.stop, 1);
	pthread_join(thread, NULL);
	assert_true(inside); /* so that something was tried */
	assert_false(p9t_host_has(t, "outside/made"));
	untouched(t);
	p9t_free(t);
}

static void a_file_swapped_for_a_link_is_not_opened(void **state)
{
	struct p9t *t = start(state);
	struct swapper s;
	pthread_t thread;

	p9t_host_write(t, "share/d", "public");
	p9t_host_link(t, "../outside/secret", "share/l");
	p9t_path(t, s.a, "share/d");
	p9t_path(t, s.b, "share/l");
	atomic_init(&s.stop, 0);
	atomic_init(&s.count, 0);
	assert_int_equal(pthread_create(&thread, NULL, swap, &s), 0);
	for (unsigned i = 0; i < 3000 || atomic_load(&s.count) < SWAPS; i++) {
		assert_int_equal(p9t_walk(t, 0, 1, ""), 0);
		if (!p9t_lcreate(t, 1, "d", O_RDWR | O_CREAT, 0644)) {
			assert_int_equal(p9t_read(t, 1, 0, 100), 6);
			assert_memory_equal(t->reply + P9_IO_HEADER, "public", 6);
		}
		assert_int_equal(p9t_clunk(t, 1), 0);
		assert_int_equal(p9t_walk(t, 0, 1, "d"), 0);
		(void)p9t_setattr(t, 1, 8, 0, 0, 6, 0);
		(void)p9t_setattr(t, 1, 1, 0666, 0, 0, 0);
		assert_int_equal(p9t_clunk(t, 1), 0);
	}
	atomic_store(&s.stop, 1);
	pthread_join(thread, NULL);
	untouched(t);
	p9t_free(t);
}

int main(void)
{
	static _Bool with = 0, without = 1;
#define BOTH(f) cmocka_unit_test_prestate(f, &with), cmocka_unit_test_prestate(f, &without)
	const struct CMUnitTest tests[] = {
	    BOTH(names_that_are_paths_are_refused_everywhere),
	    BOTH(dot_dot_ends_at_the_root),
	    BOTH(links_lead_nowhere),
	    BOTH(a_links_target_keeps_its_attributes),
	    BOTH(a_directory_that_left_the_share_is_no_way_out),
	    BOTH(a_directory_is_not_moved_into_itself),
	    BOTH(other_processes_are_not_reached_through_proc),
	    BOTH(a_link_swapped_in_during_a_walk_is_not_followed),
	    BOTH(a_file_swapped_for_a_link_is_not_opened),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
