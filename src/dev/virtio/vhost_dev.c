/* vhost_dev.c: a virtio device whose queues a back end outside serves. */
#include "dev/virtio/vhost_dev.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/log.h"

/* Until the first attempt to find a back end again, and between those that follow. */
#define RETRY_FIRST_NS 100000000
#define RETRY_NS       500000000
#define REPORTS_MAX    64 /* messages about a device */

static void dev_lock(struct vhost_dev *vh)
{
	lock_take(&vh->vd->pci.dev.lock);
}

static void dev_unlock(struct vhost_dev *vh)
{
	lock_drop(&vh->vd->pci.dev.lock);
}

static unsigned queues_of(const struct vhost_dev *vh)
{
	return vh->hooks->queues ? vh->hooks->queues(vh) : vh->rings.count;
}

static unsigned enabled_of(const struct vhost_dev *vh)
{
	return vh->hooks->enabled ? vh->hooks->enabled(vh) : queues_of(vh);
}

static unsigned in_flight(const struct vhost_dev *vh)
{
	unsigned n = 0;

	for (unsigned q = 0; q < vh->rings.count; q++)
		n += vh->rings.ring[q].in_flight;
	return n;
}

/* ---- both ways, under the device's lock ---- */

static void offer(struct vhost_dev *vh, unsigned q)
{
	struct relay *r = &vh->rings.ring[q];

	if (relay_offer(r))
		relay_kick(r);
}

void vhost_dev_notify(struct vhost_dev *vh, unsigned q)
{
	vhost_dev_status(vh); /* the driver may have been late with bus mastering */
	if (q >= queues_of(vh))
		return;
	if (vhost_dev_running(vh))
		offer(vh, q);
	else if (!vh->running && vh->hooks->away)
		vh->hooks->away(vh, q);
}

void vhost_dev_status(struct vhost_dev *vh)
{
	_Bool live = virtio_ready(vh->vd);

	if (live == vh->live)
		return;
	vh->live = live;
	vh->epoch++;
	loop_post(vh->loop, &vh->work);
}

void vhost_dev_config_written(struct vhost_dev *vh, unsigned offset, unsigned size)
{
	unsigned end = MIN(offset + size, vh->config_size), old = vh->write_at + vh->write_len;

	if (offset >= end)
		return;
	if (vh->write_len) {
		end = MAX(end, old);
		offset = MIN(offset, vh->write_at);
	}
	vh->write_at = offset;
	vh->write_len = end - offset;
	loop_post(vh->loop, &vh->work);
}

void vhost_dev_enabled(struct vhost_dev *vh)
{
	vh->recount = 1;
	loop_post(vh->loop, &vh->work);
}

static _Bool intercept(void *opaque, const struct vq_chain *c, uint32_t *written)
{
	struct vhost_dev *vh = opaque;

	return vh->hooks->intercept && vh->hooks->intercept(vh, c, written);
}

/* False: the back end broke the rules. */
static _Bool collect(struct vhost_dev *vh, unsigned q)
{
	return relay_collect(&vh->rings.ring[q]) >= 0;
}

static _Bool collect_all(struct vhost_dev *vh)
{
	_Bool good = 1;

	for (unsigned q = 0; q < vh->rings.count; q++)
		good &= collect(vh, q);
	return good;
}

/* ---- the thread: the back end's life ---- */

static void retry_arm(struct vhost_dev *vh, uint64_t ns)
{
	struct itimerspec when = {.it_value.tv_nsec = (long)ns};

	timerfd_settime(vh->retry.fd, 0, &when, NULL);
}

static void watch(struct vhost_dev *vh)
{
	int fds[VHOST_FDS];

	vhost_fds(vh->v, fds);
	for (unsigned i = 0; i < VHOST_FDS; i++) {
		if (fds[i] < 0 || vh->fd[i].added)
			continue;
		vh->fd[i].fd = fds[i];
		if (loop_fd_add(vh->loop, &vh->fd[i], EPOLLIN))
			log_error("%s: out of memory or descriptors for its back end",
				  vh->vd->pci.dev.id);
	}
}

/* A guest may know how to make a back end go; it cannot fill a log with that. */
static void report(struct vhost_dev *vh, const char *what, const char *more)
{
	if (vh->reports == REPORTS_MAX)
		return;
	vh->reports++;
	log_warn("%s: %s%s%s", vh->vd->pci.dev.id, what, more,
		 vh->reports == REPORTS_MAX ? "; no more is said about it" : "");
}

/* Under the lock. What is in flight stays, for who comes next. */
static void lost(struct vhost_dev *vh, const char *why)
{
	uint64_t wait_ns = vhost_connected(vh->v) ? RETRY_FIRST_NS : RETRY_NS;

	for (unsigned i = 0; i < VHOST_FDS; i++)
		loop_fd_del(vh->loop, &vh->fd[i]);
	if (vhost_connected(vh->v)) {
		vhost_disconnect(vh->v);
		if (!vh->told)
			report(vh, why, "; waiting for another one");
		vh->told = 1;
	}
	vh->running = 0;
	if (vh->hooks->lost)
		vh->hooks->lost(vh);
	retry_arm(vh, wait_ns);
}

/* Under the lock, which is dropped in between. */
static void stop(struct vhost_dev *vh)
{
	struct error err;
	int r;

	dev_unlock(vh);
	r = vhost_stop(vh->v, vh->rings.count, &err);
	dev_lock(vh);
	if (r)
		lost(vh, err.text);
	else if (!collect_all(vh))
		lost(vh, "its back end answered what it was not asked");
	vh->running = 0;
}

/* A new configuration from the back end. Without the lock. */
static int config_fetch(struct vhost_dev *vh, struct error *err)
{
	uint8_t config[VIRTIO_CONFIG_MAX];
	int r = vhost_config_get(vh->v, config, vh->config_size, err);

	if (r)
		return r;
	dev_lock(vh);
	if (memcmp(config, vh->config, vh->config_size)) {
		memcpy(vh->config, config, vh->config_size);
		if (vh->hooks->config)
			vh->hooks->config(vh, config);
	}
	dev_unlock(vh);
	return 0;
}

/* Without the lock: a back end in the place of one that was lost. */
static int connect_again(struct vhost_dev *vh, struct error *err)
{
	int r = vhost_connect(vh->v, err);

	if (!r && (vh->required & ~vhost_features(vh->v)))
		r = error_set(
		    err, -EINVAL,
		    "the back end that took the place of another one lacks features of it");
	if (!r && vh->config_size)
		r = config_fetch(vh, err);
	return r;
}

/* Tells a back end what the driver wrote. It may not want to know. */
static int config_put(struct vhost_dev *vh, unsigned at, const uint8_t *bytes, unsigned len,
		      struct error *err)
{
	int r = len ? vhost_config_set(vh->v, at, bytes, len, err) : 0;

	return r == -EREMOTEIO || r == -ENOTSUP ? 0 : r;
}

/* Starts a back end, and tells it what the driver has set: it may be another one than the one that
 * heard the driver. Without the lock, but to look at the configuration. */
static int start_with_settings(struct vhost_dev *vh, const struct vhost_plan *plan,
			       struct error *err)
{
	uint8_t config[VIRTIO_CONFIG_MAX];
	unsigned at = 0, len = 0;
	int r = vhost_start(vh->v, plan, err);

	if (r || !vh->hooks->settings)
		return r;
	dev_lock(vh);
	if (!vh->hooks->settings(vh, &at, &len))
		len = 0;
	memcpy(config, vh->vd->config + at, len);
	dev_unlock(vh);
	return config_put(vh, at, config, len, err);
}

/* Under the lock, which is dropped in between. */
static void start(struct vhost_dev *vh)
{
	struct vhost_ring ring[VHOST_RINGS_MAX];
	unsigned enabled = enabled_of(vh);
	struct vhost_plan plan = {
	    .region = vh->region, .regions = vh->regions, .ring = ring, .rings = queues_of(vh)};
	uint32_t epoch = vh->epoch;
	struct error err;
	int r = 0;

	plan.features = vh->vd->features;
	dev_unlock(vh);
	if (!vhost_connected(vh->v))
		r = connect_again(vh, &err);
	dev_lock(vh);
	/* The driver may have reset the device meanwhile. */
	if (!r && vh->epoch != epoch)
		return;
	if (!r) {
		plan.features &= vhost_features(vh->v);
		plan.features &= ~(VIRTIO_CORE_FEATURES & ~VIRTIO_F_VERSION_1);
		plan.features |= vhost_features(vh->v) & VIRTIO_F_INDIRECT_DESC;
		for (unsigned q = 0; q < plan.rings; q++) {
			relay_begin(&vh->rings.ring[q], !!(plan.features & VIRTIO_F_INDIRECT_DESC));
			ring[q] = relay_ring(&vh->rings.ring[q]);
			ring[q].enabled = q < enabled;
		}
		dev_unlock(vh);
		r = start_with_settings(vh, &plan, &err);
		dev_lock(vh);
	}
	if (r) {
		lost(vh, err.text);
		return;
	}
	watch(vh);
	if (vh->told)
		report(vh, "its back end is there again", "");
	vh->told = 0;
	vh->running = 1;
	vh->served = epoch;
	if (vh->epoch == epoch && vh->hooks->up)
		vh->hooks->up(vh);
	for (unsigned q = 0; q < plan.rings; q++) {
		if (vh->epoch == epoch)
			relay_offer(&vh->rings.ring[q]);
		relay_kick(&vh->rings.ring[q]); /* what is in the ring came before the descriptor */
	}
}

/* Nothing serves the queues. Chains of a driver that has reset the device are dropped; for a save,
 * those of this one go back. Under the lock. */
static void tidy(struct vhost_dev *vh)
{
	for (unsigned q = 0; q < vh->rings.count; q++) {
		struct relay *r = &vh->rings.ring[q];

		if (vh->flight != vh->epoch) {
			relay_drop(r);
		} else if (vh->held && relay_rewind(r)) {
			virtio_broken(vh->vd,
				      "requests, some of which its back end has not answered");
			relay_drop(r);
		}
	}
	vh->flight = vh->epoch;
}

/* What the driver asked for besides. Under the lock, which is dropped in between. */
static void tell_changes(struct vhost_dev *vh)
{
	uint8_t config[VIRTIO_CONFIG_MAX];
	unsigned at = vh->write_at, len = vh->write_len, count = queues_of(vh);
	unsigned enabled = enabled_of(vh);
	_Bool recount = vh->recount;
	struct error err;
	int r;

	vh->write_len = 0;
	vh->recount = 0;
	memcpy(config, vh->vd->config + at, len);
	dev_unlock(vh);
	r = config_put(vh, at, config, len, &err);
	for (unsigned q = 0; !r && recount && q < count; q++)
		r = vhost_enable(vh->v, q, q < enabled, &err);
	dev_lock(vh);
	if (r)
		lost(vh, err.text);
}

/* Brings the back end to where the driver wants it. */
static void on_work(struct loop_work *work)
{
	struct vhost_dev *vh = work->opaque;

	dev_lock(vh);
	if (vh->running && (!vh->live || vh->held || vh->served != vh->epoch))
		stop(vh);
	if (!vh->running)
		tidy(vh);
	if (!vh->running && vh->live && !vh->held)
		start(vh);
	if (vhost_dev_running(vh) && (vh->write_len || vh->recount))
		tell_changes(vh);
	/* The lock was dropped meanwhile. */
	if (vh->running ? !vh->live || vh->held || vh->served != vh->epoch
			: vh->flight != vh->epoch || (vh->held && in_flight(vh)))
		loop_post(vh->loop, &vh->work);
	vh->resting = vh->held && !vh->running && !in_flight(vh);
	pthread_cond_broadcast(&vh->rest);
	dev_unlock(vh);
}

static void on_call(struct loop_fd *lfd, uint32_t events)
{
	struct vhost_dev *vh = lfd->opaque;
	unsigned q = (unsigned)(lfd - vh->call);
	uint64_t count;

	if (read(lfd->fd, &count, sizeof(count)) < 0)
		return;
	dev_lock(vh);
	if (vh->running) {
		if (!collect(vh, q))
			lost(vh, "its back end answered what it was not asked");
		else if (vhost_dev_running(vh) && q < queues_of(vh))
			offer(vh, q); /* there is room again */
	}
	dev_unlock(vh);
}

static void on_backend(struct loop_fd *lfd, uint32_t events)
{
	struct vhost_dev *vh = lfd->opaque;
	unsigned what = vhost_events(vh->v);
	struct error err;
	int r = 0;

	if (!(what & VHOST_LOST) && (what & VHOST_CONFIG) && vh->config_size)
		r = config_fetch(vh, &err);
	if (!(what & VHOST_LOST) && !r)
		return;
	dev_lock(vh);
	/* What it did before it went counts. */
	if (vh->running)
		(void)collect_all(vh);
	lost(vh, r ? err.text : "its back end has gone");
	dev_unlock(vh);
}

static void on_retry(struct loop_fd *lfd, uint32_t events)
{
	struct vhost_dev *vh = lfd->opaque;
	uint64_t count;

	if (read(lfd->fd, &count, sizeof(count)) > 0)
		loop_post(vh->loop, &vh->work);
}

static void on_resume(void *opaque)
{
	struct vhost_dev *vh = opaque;

	dev_lock(vh);
	vh->held = 0;
	dev_unlock(vh);
	loop_post(vh->loop, &vh->work);
}

static void *thread_main(void *opaque)
{
	struct vhost_dev *vh = opaque;

	loop_run(vh->loop);
	return NULL;
}

/* ---- set-up, end, rest ---- */

void vhost_dev_quiesce(struct vhost_dev *vh)
{
	dev_lock(vh);
	vh->held = 1;
	vh->resting = 0;
	loop_post(vh->loop, &vh->work);
	while (!vh->resting)
		pthread_cond_wait(&vh->rest, &vh->vd->pci.dev.lock.mutex);
	dev_unlock(vh);
	timer_arm(&vh->resume, clock_now_ns(vh->resume.clock));
}

/* Signals are the main thread's. */
static int thread_start(struct vhost_dev *vh)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&vh->thread, NULL, thread_main, vh);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	vh->started = !r;
	return -r;
}

static int watches_make(struct vhost_dev *vh)
{
	int r;

	vh->retry =
	    (struct loop_fd){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK),
			     .fn = on_retry,
			     .opaque = vh};
	if (vh->retry.fd < 0)
		return -errno;
	r = loop_fd_add(vh->loop, &vh->retry, EPOLLIN);
	for (unsigned q = 0; !r && q < vh->rings.count; q++) {
		vh->call[q] =
		    (struct loop_fd){.fd = vh->rings.ring[q].call, .fn = on_call, .opaque = vh};
		r = loop_fd_add(vh->loop, &vh->call[q], EPOLLIN);
		vh->rings.ring[q].intercept = intercept;
		vh->rings.ring[q].opaque = vh;
	}
	for (unsigned i = 0; i < VHOST_FDS; i++)
		vh->fd[i] = (struct loop_fd){.fd = -1, .fn = on_backend, .opaque = vh};
	watch(vh);
	return r;
}

int vhost_dev_init(struct vhost_dev *vh, const struct vhost_dev_config *cfg, struct error *err)
{
	int r;

	vh->vd = cfg->vd;
	vh->v = cfg->v;
	vh->hooks = cfg->hooks;
	vh->config_size = cfg->config_size;
	vh->retry.fd = -1;
	vh->work = (struct loop_work){.fn = on_work, .opaque = vh};
	vh->required = (vhost_features(vh->v) & cfg->vd->offered) | VIRTIO_F_VERSION_1;
	vh->required |= vhost_features(vh->v) & VIRTIO_F_INDIRECT_DESC;
	pthread_cond_init(&vh->rest, NULL);
	timer_init(&vh->resume, cfg->clock, on_resume, vh);
	r = loop_new(&vh->loop, err);
	if (!r)
		r = relay_init(&vh->rings, cfg->vd, cfg->queues, err);
	if (!r && relay_regions(&vh->rings, cfg->vd->mem, vh->region, &vh->regions))
		r = error_set(err, -E2BIG, "guest memory is in more pieces than a back end takes");
	if (!r && vh->config_size)
		r = vhost_config_get(vh->v, vh->config, vh->config_size, err);
	if (!r && (watches_make(vh) || thread_start(vh)))
		r = error_set(err, -ENOMEM, "out of memory, descriptors or threads for a back end");
	return r;
}

void vhost_dev_fini(struct vhost_dev *vh)
{
	struct error err;

	if (!vh->vd)
		return;
	if (vh->started) {
		loop_stop(vh->loop, 0);
		pthread_join(vh->thread, NULL);
		if (vh->running && vhost_stop(vh->v, vh->rings.count, &err))
			log_warn("%s: %s", vh->vd->pci.dev.id, err.text);
	}
	timer_fini(&vh->resume);
	for (unsigned q = 0; q < vh->rings.count; q++)
		relay_drop(&vh->rings.ring[q]);
	vhost_disconnect(vh->v);
	if (vh->retry.fd >= 0)
		close(vh->retry.fd);
	relay_fini(&vh->rings);
	loop_free(vh->loop);
	pthread_cond_destroy(&vh->rest);
}
