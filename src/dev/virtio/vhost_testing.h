/* vhost_testing.h: a back end outside that does what a test tells it, for unit tests. */
#ifndef DEV_VIRTIO_VHOST_TESTING_H
#define DEV_VIRTIO_VHOST_TESTING_H

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "backend/vhost_impl.h"
#include "dev/virtio/testing.h"
#include "dev/virtio/vhost_dev.h"

/* Calls come on the device's thread; the test plays the rest on its own, once `starts` says that
 * it may. */
struct fake_vhost {
	struct vhost v; /* first */
	uint8_t config[VHOST_CONFIG_MAX];
	_Atomic uint64_t offers; /* features at the next connection */
	_Atomic int refuse;	 /* -errno for connect, or for start */
	atomic_uint connects, starts, stops, enables, writes, events;
	int bell; /* an eventfd that is watched as the connection */
	struct vhost_plan plan;
	struct vhost_ring ring[VHOST_RINGS_MAX];
	struct vhost_region region[VHOST_REGIONS_MAX];
	uint16_t avail[VHOST_RINGS_MAX], used[VHOST_RINGS_MAX];
	_Bool enabled[VHOST_RINGS_MAX];
	uint8_t written; /* the byte of the last write to the configuration */
	_Bool rung;	 /* ring 0's bell had been rung by then */
};

static inline struct fake_vhost *fake_of(struct vhost *v)
{
	return (struct fake_vhost *)v;
}

static inline int fake_connect(struct vhost *v, struct error *err)
{
	struct fake_vhost *f = fake_of(v);

	if (f->refuse)
		return error_set(err, f->refuse, "refused");
	v->features = f->offers;
	f->connects++;
	return 0;
}

static inline void fake_disconnect(struct vhost *v)
{
}

static inline int fake_config_get(struct vhost *v, uint8_t *config, unsigned size,
				  struct error *err)
{
	memcpy(config, fake_of(v)->config, size);
	return 0;
}

static inline int fake_config_set(struct vhost *v, unsigned offset, const uint8_t *config,
				  unsigned size, struct error *err)
{
	struct fake_vhost *f = fake_of(v);
	struct pollfd bell = {.fd = f->ring[0].kick, .events = POLLIN};

	f->written = config[0];
	f->rung = f->starts && poll(&bell, 1, 0) > 0;
	f->writes++;
	return 0;
}

static inline int fake_start(struct vhost *v, const struct vhost_plan *plan, struct error *err)
{
	struct fake_vhost *f = fake_of(v);

	f->plan = *plan;
	memcpy(f->ring, plan->ring, plan->rings * sizeof(*plan->ring));
	memcpy(f->region, plan->region, plan->regions * sizeof(*plan->region));
	memset(f->avail, 0, sizeof(f->avail));
	memset(f->used, 0, sizeof(f->used));
	for (unsigned i = 0; i < plan->rings; i++)
		f->enabled[i] = plan->ring[i].enabled;
	f->starts++;
	return 0;
}

static inline int fake_enable(struct vhost *v, unsigned ring, _Bool on, struct error *err)
{
	fake_of(v)->enabled[ring] = on;
	fake_of(v)->enables++;
	return 0;
}

static inline int fake_stop(struct vhost *v, unsigned rings, struct error *err)
{
	fake_of(v)->stops++;
	return 0;
}

static inline void fake_fds(const struct vhost *v, int fds[VHOST_FDS])
{
	fds[0] = ((const struct fake_vhost *)v)->bell;
}

static inline unsigned fake_events(struct vhost *v)
{
	eventfd_t n;

	eventfd_read(fake_of(v)->bell, &n);
	return atomic_exchange(&fake_of(v)->events, 0);
}

static inline void fake_free(struct vhost *v)
{
	close(fake_of(v)->bell);
	free(v);
}

static inline struct fake_vhost *fake_new(uint64_t offers, unsigned rings)
{
	static const struct vhost_ops ops = {
	    .connect = fake_connect,
	    .disconnect = fake_disconnect,
	    .config_get = fake_config_get,
	    .config_set = fake_config_set,
	    .start = fake_start,
	    .enable = fake_enable,
	    .stop = fake_stop,
	    .fds = fake_fds,
	    .events = fake_events,
	    .free = fake_free,
	};
	struct fake_vhost *f = calloc(1, sizeof(*f));

	f->v.ops = &ops;
	f->v.rings_max = rings;
	f->offers = offers | VIRTIO_F_VERSION_1;
	f->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(vhost_connect(&f->v, NULL), 0);
	return f;
}

/* Waits for what another thread does, without sleeping. */
#define until(condition)                                                                           \
	do {                                                                                       \
		time_t end_ = time(NULL) + 20;                                                     \
		while (!(condition)) {                                                             \
			assert_true(time(NULL) < end_);                                            \
			sched_yield();                                                             \
		}                                                                                  \
	} while (0)

static inline void fake_event(struct fake_vhost *f, unsigned event)
{
	atomic_fetch_or(&f->events, event);
	eventfd_write(f->bell, 1);
}

/* What a back end does with the rings that it was given. */
static inline uint8_t *fake_at(const struct fake_vhost *f, uint64_t addr, uint64_t len)
{
	for (unsigned i = 0; i < f->plan.regions; i++)
		if (addr >= f->region[i].guest &&
		    addr + len <= f->region[i].guest + f->region[i].size)
			return (uint8_t *)(uintptr_t)(f->region[i].user + addr -
						      f->region[i].guest);
	return NULL;
}

/* The next available head, or -1. */
static inline int fake_take(struct fake_vhost *f, unsigned q)
{
	const uint8_t *avail = (const uint8_t *)(uintptr_t)f->ring[q].avail;
	uint16_t idx =
	    __atomic_load_n((const uint16_t *)(const void *)(avail + 2), __ATOMIC_ACQUIRE);

	if (idx == f->avail[q])
		return -1;
	return load_le16(avail + 4 + 2 * (f->avail[q]++ % f->ring[q].size));
}

/* Piece i of a chain: its length, and where it is. */
static inline uint32_t fake_piece(const struct fake_vhost *f, unsigned q, unsigned head, unsigned i,
				  uint8_t **at, unsigned *flags)
{
	const uint8_t *table = (const uint8_t *)(uintptr_t)f->ring[q].desc, *d = table + 16 * head;

	if (load_le16(d + 12) & 4) {
		table = fake_at(f, load_le64(d), load_le32(d + 8));
		assert_non_null(table);
		d = table;
	}
	while (i--) {
		assert_true(load_le16(d + 12) & 1);
		d = table + 16 * load_le16(d + 14);
	}
	*flags = load_le16(d + 12) & 3;
	*at = fake_at(f, load_le64(d), load_le32(d + 8));
	assert_non_null(*at);
	return load_le32(d + 8);
}

static inline void fake_answer(struct fake_vhost *f, unsigned q, uint32_t head, uint32_t len)
{
	uint8_t *used = (uint8_t *)(uintptr_t)f->ring[q].used;
	uint8_t *entry = used + 4 + 8 * (f->used[q]++ % f->ring[q].size);

	store_le32(entry, head);
	store_le32(entry + 4, len);
	__atomic_store_n((uint16_t *)(void *)(used + 2), f->used[q], __ATOMIC_RELEASE);
}

static inline void fake_call(struct fake_vhost *f, unsigned q)
{
	eventfd_write(f->ring[q].call, 1);
}

/* Was it kicked since the last time this was asked? */
static inline _Bool fake_kicked(struct fake_vhost *f, unsigned q)
{
	eventfd_t n;

	return !eventfd_read(f->ring[q].kick, &n);
}

#endif
