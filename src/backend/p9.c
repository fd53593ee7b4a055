/* p9.c: a shared directory: opening it, and the thread that serves it. */
#include "backend/p9.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "backend/p9_impl.h"

/* Descriptors that are left to the rest of the process. */
#define FDS_SPARE 128

static int root_open(struct p9 *s, const char *path, struct error *err)
{
	struct statfs fs;
	struct stat st;

	s->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
	if (s->root < 0) {
		switch (errno) {
		case ENOENT:
			return error_set(err, -ENOENT, "there is no directory %s to share", path);
		case ENOTDIR:
			return error_set(err, -ENOTDIR,
					 "%s is not a directory; only directories are shared",
					 path);
		case EACCES:
			return error_set(err, -EACCES, "the directory %s may not be read", path);
		default:
			return error_set(err, -errno, "cannot share %s: %s", path, strerror(errno));
		}
	}
	if (faccessat(s->root, ".", R_OK | X_OK, AT_EACCESS))
		return error_set(err, -EACCES, "the directory %s may not be searched", path);
	if (fstat(s->root, &st) || fstatfs(s->root, &fs))
		return error_set(err, -errno, "cannot share %s: %s", path, strerror(errno));
	if (fs.f_type == PROC_SUPER_MAGIC)
		return error_set(err, -EINVAL, "%s is not shared: it leads to other processes",
				 path);
	s->root_dev = st.st_dev;
	s->root_qid = p9_qid_path(s, st.st_dev, st.st_ino);
	s->proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (s->proc < 0)
		return error_set(err, -errno, "sharing a directory needs /proc: %s",
				 strerror(errno));
	return 0;
}

static int tables_make(struct p9 *s, struct error *err)
{
	struct rlimit lim = {.rlim_cur = 1024};

	getrlimit(RLIMIT_NOFILE, &lim);
	s->fid_max = P9_FIDS_MAX;
	if (lim.rlim_cur < P9_FIDS_MAX + FDS_SPARE)
		s->fid_max = lim.rlim_cur > 2 * FDS_SPARE ? (unsigned)lim.rlim_cur - FDS_SPARE
							  : (unsigned)lim.rlim_cur / 2;
	s->fids = calloc(s->fid_max, sizeof(*s->fids));
	if (!s->fids)
		return error_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < s->fid_max; i++) {
		s->fids[i].next = s->free;
		s->free = &s->fids[i];
	}
	return 0;
}

int p9_open(struct p9 **out, const struct p9_config *cfg, struct error *err)
{
	struct p9 *s = calloc(1, sizeof(*s));
	int r, probe;

	if (!s)
		return error_set(err, -ENOMEM, "out of memory");
	s->root = s->proc = -1;
	s->read_only = cfg->read_only;
	lock_init(&s->lock, RANK_BACKEND);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->idle_cond, NULL);
	r = root_open(s, cfg->path, err);
	if (!r)
		r = tables_make(s, err);
	if (r) {
		p9_free(s);
		return r;
	}
	/* Old kernels do not have it, some containers refuse it. */
	probe = p9_step(s, s->root, ".");
	if (probe < 0)
		s->no_openat2 = 1;
	else
		close(probe);
	*out = s;
	return 0;
}

void p9_without_openat2(struct p9 *p9)
{
	p9->no_openat2 = 1;
}

void p9_free(struct p9 *s)
{
	if (!s)
		return;
	if (s->fids)
		fid_drop_all(s);
	free(s->fids);
	if (s->root >= 0)
		close(s->root);
	if (s->proc >= 0)
		close(s->proc);
	pthread_cond_destroy(&s->work);
	pthread_cond_destroy(&s->idle_cond);
	lock_fini(&s->lock);
	free(s);
}

/* ---- the thread ---- */

static void serve(struct p9 *s)
{
	size_t len, room;

	while ((len = s->client.fetch(s->client.opaque, s->in, &room)))
		s->client.answer(s->client.opaque, s->out,
				 p9_handle(s, s->in, len, s->out, MIN(room, P9_MSG_MAX)));
}

static void *thread_main(void *opaque)
{
	struct p9 *s = opaque;

	lock_take(&s->lock);
	while (!s->stop) {
		if (!s->kicked) {
			s->idle = 1;
			pthread_cond_broadcast(&s->idle_cond);
			pthread_cond_wait(&s->work, &s->lock.mutex);
			continue;
		}
		s->kicked = s->idle = 0;
		lock_drop(&s->lock);
		session_end_if_wanted(s);
		serve(s);
		lock_take(&s->lock);
	}
	s->idle = 1;
	pthread_cond_broadcast(&s->idle_cond);
	lock_drop(&s->lock);
	return NULL;
}

int p9_attach(struct p9 *s, const struct p9_client *client, struct error *err)
{
	sigset_t all, before;
	int r;

	s->client = *client;
	s->stop = 0;
	s->in = malloc(P9_MSG_MAX);
	s->out = malloc(P9_MSG_MAX);
	r = s->in && s->out ? 0 : ENOMEM;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (!r)
		r = pthread_create(&s->thread, NULL, thread_main, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r) {
		p9_detach(s);
		return error_set(err, -r, "cannot start a thread for a shared directory: %s",
				 strerror(r));
	}
	pthread_setname_np(s->thread, "share");
	s->running = 1;
	return 0;
}

void p9_detach(struct p9 *s)
{
	if (s->running) {
		lock_take(&s->lock);
		s->stop = 1;
		pthread_cond_signal(&s->work);
		lock_drop(&s->lock);
		pthread_join(s->thread, NULL);
		s->running = 0;
	}
	free(s->in);
	free(s->out);
	s->in = s->out = NULL;
}

void p9_kick(struct p9 *s)
{
	lock_take(&s->lock);
	s->kicked = 1;
	pthread_cond_signal(&s->work);
	lock_drop(&s->lock);
}

void p9_reset(struct p9 *s)
{
	atomic_store(&s->reset_wanted, 1);
	p9_kick(s); /* nobody may ask anything again, and others wait for what it has locked */
}

void p9_drain(struct p9 *s)
{
	lock_take(&s->lock);
	while (s->running && (s->kicked || !s->idle))
		pthread_cond_wait(&s->idle_cond, &s->lock.mutex);
	lock_drop(&s->lock);
}
