/* midio.c: a machine is saved again and again while its devices have requests under way, and goes
 * on as another machine: nothing is lost, and nothing is done twice.
 *
 * usage: midio IMAGE [SEED]
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/disk_impl.h"
#include "backend/net.h"
#include "base/le.h"
#include "machine/machine.h"

/*
 * The guest (load.c) submits numbered requests and checks what comes back. This side has disks that
 * take their time and finish in any order, and counts: each write and each frame is to arrive
 * exactly once, whichever machine was the one that sent it. Now and then the CPUs are stopped, and
 * machine state and RAM are carried to a new machine with new back ends, on the other kind of the
 * soft engine; the old one is then thrown away. Sometimes the old one goes on instead. As in a VM,
 * the thread that does all that is the one that runs the network's back end.
 *
 * CPUs are stopped after some work, so that there are as many stops however fast this host is; and
 * now and then after some time, for moments in which no work is done. Every other time a disk has
 * requests, which then do not end before the saving begins.
 */
#define DISK_OPS   400
#define BLOCKS	   40
#define BLOCK	   4096u
#define FRAMES	   600
#define FRAME	   200
#define CD_BLOCKS  64
#define CD_BLOCK   2048u
#define ETHER_TYPE 0xb588

#define CD_READS 300

#define DISKS	    2
#define CD	    DISKS
#define REQUESTS    (DISKS * 2 * DISK_OPS + CD_READS)
#define MOST_WORK   ((REQUESTS + 2 * FRAMES) / 12)
#define RAM	    (UINT64_C(32) << 20)
#define STATE_LIMIT (8u << 20)
#define PATIENCE_S  100
#define PENDING	    64

static void fail(const char *fmt, ...) PRINTF(1, 2);
static void fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	_Exit(1);
}
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			fail("%s:%d: %s", __FILE__, __LINE__, #x);                                 \
	} while (0)

static uint64_t mix(uint64_t number, uint64_t i)
{
	uint64_t v = (number + 1) * 0x9e3779b97f4a7c15 + i * 0xbf58476d1ce4e5b9;

	return v ^ v >> 29;
}

/* ---- disks that take their time ---- */

/* What outlives the machines: contents, and how often each write was done. */
struct platter {
	uint8_t data[BLOCKS * BLOCK];
	unsigned writes[DISK_OPS];
	unsigned reads;
};

struct slow_disk {
	struct disk disk; /* first */
	struct platter *platter;
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t more;
	struct disk_req *pending[PENDING];
	unsigned count;
	_Bool quit;
	const _Atomic _Bool *hold; /* nothing ends while it is set */
	_Atomic unsigned *ended;
	unsigned seed;
};

static void slow_submit(struct disk *disk, struct disk_req *req)
{
	struct slow_disk *s = (struct slow_disk *)disk;

	pthread_mutex_lock(&s->mutex);
	CHECK(s->count < PENDING);
	s->pending[s->count++] = req;
	pthread_cond_signal(&s->more);
	pthread_mutex_unlock(&s->mutex);
}

static void slow_kick(struct disk *disk)
{
}

static int slow_do(struct platter *p, struct disk_req *req)
{
	uint64_t at = req->offset, number;

	if (req->result || req->op == DISK_FLUSH)
		return req->result;
	CHECK(req->op == DISK_READ || req->op == DISK_WRITE);
	for (unsigned i = 0; i < req->iov_count; at += req->iov[i++].iov_len) {
		if (req->op == DISK_READ)
			memcpy(req->iov[i].iov_base, p->data + at, req->iov[i].iov_len);
		else
			memcpy(p->data + at, req->iov[i].iov_base, req->iov[i].iov_len);
	}
	if (req->op == DISK_READ) {
		p->reads++;
		return 0;
	}
	number = load_le64(p->data + req->offset);
	CHECK(number < DISK_OPS);
	p->writes[number]++;
	return 0;
}

static void *slow_thread(void *opaque)
{
	struct slow_disk *s = opaque;

	pthread_mutex_lock(&s->mutex);
	while (!s->quit || s->count) {
		struct timespec moment = {0};
		struct disk_req *req;
		unsigned i;

		if (!s->count) {
			pthread_cond_wait(&s->more, &s->mutex);
			continue;
		}
		pthread_mutex_unlock(&s->mutex);
		moment.tv_nsec = rand_r(&s->seed) % 300000;
		do {
			nanosleep(&moment, NULL);
		} while (atomic_load(s->hold));
		pthread_mutex_lock(&s->mutex);
		i = (unsigned)rand_r(&s->seed) % s->count;
		req = s->pending[i];
		s->pending[i] = s->pending[--s->count];
		pthread_mutex_unlock(&s->mutex);
		atomic_fetch_add(s->ended, 1);
		disk_complete(&s->disk, req, slow_do(s->platter, req));
		pthread_mutex_lock(&s->mutex);
	}
	pthread_mutex_unlock(&s->mutex);
	return NULL;
}

static const char *slow_method(const struct disk *disk)
{
	return "a test";
}

static void slow_free(struct disk *disk)
{
	struct slow_disk *s = (struct slow_disk *)disk;

	pthread_mutex_lock(&s->mutex);
	s->quit = 1;
	pthread_cond_signal(&s->more);
	pthread_mutex_unlock(&s->mutex);
	pthread_join(s->thread, NULL);
	pthread_cond_destroy(&s->more);
	pthread_mutex_destroy(&s->mutex);
	disk_fini(disk);
	free(s);
}

static const struct disk_ops slow_ops = {.submit = slow_submit,
					 .kick = slow_kick,
					 .refuse = slow_submit,
					 .method = slow_method,
					 .free = slow_free};

static struct disk *slow_new(struct platter *platter, uint64_t size, _Bool read_only, unsigned seed,
			     const _Atomic _Bool *hold, _Atomic unsigned *ended)
{
	struct slow_disk *s = calloc(1, sizeof(*s));

	CHECK(s);
	disk_init(&s->disk, &slow_ops);
	s->disk.info = (struct disk_info){.size_bytes = size,
					  .logical_block = 512,
					  .physical_block = 512,
					  .read_only = read_only};
	s->platter = platter;
	s->hold = hold;
	s->ended = ended;
	s->seed = seed;
	pthread_mutex_init(&s->mutex, NULL);
	pthread_cond_init(&s->more, NULL);
	CHECK(!pthread_create(&s->thread, NULL, slow_thread, s));
	return &s->disk;
}

static unsigned disk_waiting(struct disk *disk)
{
	unsigned n;

	lock_take(&disk->lock);
	n = disk->counts.in_flight;
	lock_drop(&disk->lock);
	return n;
}

/* ---- machines ---- */

struct world {
	const char *image;
	struct platter platter[DISKS + 1];
	uint32_t frames_out; /* numbers that came */
	uint32_t frames_in;  /* numbers that the guest took */
	unsigned machines;
	_Atomic unsigned ended; /* requests of disks */
	_Atomic _Bool hold;
	_Atomic int exit_code; /* -1: still running */
};

struct box {
	struct world *world;
	struct vm_spec spec;
	struct disk *disk[DISKS + 1];
	struct net *net;
	struct chardev *console;
	struct machine *m;
	uint32_t fed;	 /* frames given to this machine's back end */
	uint32_t before; /* frames_in when it was made */
};

static void on_power(void *opaque, enum power_request what, unsigned arg)
{
	struct box *b = opaque;

	atomic_store(&b->world->exit_code, what == POWER_EXIT ? (int)arg : 1000 + (int)what);
}

static void on_event(void *opaque, enum engine_event event, unsigned cpu, const char *text)
{
	fail("CPU %u: event %d: %s", cpu, (int)event, text ? text : "");
}

static struct box *box_new(struct world *w, enum spec_soft soft)
{
	struct box *b = calloc(1, sizeof(*b));
	struct machine_config cfg = {
	    .engine = &engine_soft, .clock = CLOCK_STOPPED, .event = on_event};
	struct error err;

	CHECK(b);
	b->world = w;
	b->before = w->frames_in;
	spec_init(&b->spec);
	b->spec.kernel = w->image;
	b->spec.append = "midio";
	b->spec.memory_bytes = RAM;
	b->spec.cpus = 2;
	b->spec.debug_exit = 1;
	b->spec.soft = soft;
	b->spec.disk_count = DISKS + 1;
	for (unsigned i = 0; i <= DISKS; i++) {
		b->spec.disk[i] = (struct spec_disk){.path = "none",
						     .queues = 1,
						     .read_only = i == CD,
						     .cdrom = i == CD,
						     .mmio = i == 1};
		b->disk[i] =
		    slow_new(&w->platter[i], i == CD ? CD_BLOCKS * CD_BLOCK : BLOCKS * BLOCK,
			     i == CD, ++w->machines, &w->hold, &w->ended);
		cfg.disk[i] = b->disk[i];
	}
	b->spec.net_count = 1;
	b->spec.net[0] = (struct spec_net){.queues = 1, .mac = {2, 0, 0, 0, 0, 1}, .has_mac = 1};
	CHECK(!net_mem_new(&b->net, 0));
	cfg.net[0] = b->net;
	CHECK(!chardev_mem_new(&b->console, 65536));
	cfg.console = b->console;
	cfg.spec = &b->spec;
	cfg.power = (struct power_sink){on_power, b};
	cfg.opaque = b;
	if (machine_new(&b->m, &cfg, &err) || machine_boot(b->m, RESET_POWER, NULL, &err))
		fail("%s", err.text);
	for (unsigned i = 0; i < machine_cpus(b->m); i++)
		CHECK(!vcpu_start(machine_vcpu(b->m, i), NULL));
	return b;
}

static void box_say(struct box *b)
{
	char text[4096];
	size_t n = chardev_mem_read(b->console, text, sizeof(text));

	fwrite(text, 1, n, stdout);
	fflush(stdout);
}

static void box_free(struct box *b)
{
	for (unsigned i = 0; i < machine_cpus(b->m); i++)
		vcpu_stop(machine_vcpu(b->m, i));
	box_say(b);
	machine_free(b->m);
	for (unsigned i = 0; i <= DISKS; i++)
		disk_free(b->disk[i]);
	net_free(b->net);
	chardev_free(b->console);
	free(b);
}

/* What left the machine is outside of it, whatever becomes of it. */
static void take_frames(struct box *b)
{
	uint8_t frame[2048];
	struct net_counts counts;
	size_t len;

	while ((len = net_mem_take(b->net, frame, sizeof(frame), NULL))) {
		uint32_t number = load_le32(frame + 16);

		CHECK(len == FRAME && load_le16(frame + 12) == ETHER_TYPE);
		if (number != b->world->frames_out)
			fail("frame %u came where %u was due", number, b->world->frames_out);
		for (unsigned i = 24; i < FRAME; i += 8)
			CHECK(load_le64(frame + i) == mix(number, i));
		b->world->frames_out++;
	}
	net_counts(b->net, &counts);
	b->world->frames_in = b->before + (uint32_t)counts.received;
}

/* Frames for the guest, once it has shown that its card is up: a few more than it has taken. */
static void feed_frames(struct box *b)
{
	if (!b->world->frames_out)
		return;
	while (b->before + b->fed < FRAMES && b->fed < b->world->frames_in - b->before + 3) {
		uint32_t number = b->before + b->fed++;
		uint8_t frame[FRAME] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};

		store_le16(frame + 12, ETHER_TYPE);
		store_le32(frame + 16, number);
		for (unsigned i = 24; i < FRAME; i += 8)
			store_le64(frame + i, mix(number, i));
		net_mem_feed(b->net, frame, sizeof(frame), NULL);
	}
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static unsigned busy_disks(struct box *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i <= DISKS; i++)
		n += disk_waiting(b->disk[i]) > 0;
	return n;
}

/* May the machine be stopped here? From now on disks hold what they have, if so. */
static _Bool box_may_stop(struct box *b, _Bool want_busy)
{
	unsigned ended = atomic_load(&b->world->ended);

	atomic_store(&b->world->hold, 1);
	if (!want_busy || !ended || ended == REQUESTS || busy_disks(b))
		return 1;
	atomic_store(&b->world->hold, 0);
	return 0;
}

static unsigned work_done(const struct world *w)
{
	return atomic_load(&w->ended) + w->frames_in + w->frames_out;
}

/* Lets it run for a while, and stops it wherever it is. Disks hold their requests then. */
static void box_run(struct box *b, uint64_t ns, unsigned work, _Bool want_busy)
{
	const struct timespec moment = {.tv_nsec = 50000};
	uint64_t end = now_ns() + ns;

	machine_time_go(b->m);
	for (unsigned i = 0; i < machine_cpus(b->m); i++)
		vcpu_resume(machine_vcpu(b->m, i));
	work += work_done(b->world);
	while (atomic_load(&b->world->exit_code) < 0) {
		feed_frames(b);
		net_mem_run(b->net);
		take_frames(b);
		if ((now_ns() >= end || work_done(b->world) >= work) && box_may_stop(b, want_busy))
			break;
		nanosleep(&moment, NULL);
	}
	for (unsigned i = 0; i < machine_cpus(b->m); i++)
		vcpu_pause_begin(machine_vcpu(b->m, i));
	for (unsigned i = 0; i < machine_cpus(b->m); i++)
		vcpu_pause_wait(machine_vcpu(b->m, i));
	machine_time_stop(b->m);
}

/* ---- from one to the next ---- */

static void carry_ram(struct box *from, struct box *to)
{
	uint8_t *buf = malloc(1 << 20);
	const struct gmem_slot *slot;
	unsigned count;

	CHECK(buf);
	slot = gmem_slots(machine_mem(from->m), &count);
	for (unsigned i = 0; i < count; i++)
		for (uint64_t at = 0; at < slot[i].size;) {
			size_t n = MIN(slot[i].size - at, (uint64_t)1 << 20);

			CHECK(!gmem_read(machine_mem(from->m), gpa(slot[i].base + at), buf, n));
			CHECK(!gmem_load(machine_mem(to->m), gpa(slot[i].base + at), buf, n));
			at += n;
		}
	free(buf);
}

/* Saved, and used no further: that changes nothing. */
static void save_for_nothing(struct box *b)
{
	struct wbuf state;
	struct error err;

	wbuf_init(&state, STATE_LIMIT);
	if (machine_save(b->m, &state, &err))
		fail("%s", err.text);
	wbuf_fini(&state);
}

static struct box *carry(struct box *from)
{
	enum spec_soft soft =
	    from->spec.soft == SPEC_SOFT_TRANSLATE ? SPEC_SOFT_INTERP : SPEC_SOFT_TRANSLATE;
	struct wbuf state;
	struct error err;
	struct rbuf in;
	struct box *to;

	wbuf_init(&state, STATE_LIMIT);
	if (machine_save(from->m, &state, &err))
		fail("%s", err.text);
	take_frames(from);
	to = box_new(from->world, soft);
	carry_ram(from, to);
	rbuf_init(&in, state.data, state.len);
	if (machine_load(to->m, &in, &err))
		fail("%s", err.text);
	wbuf_fini(&state);
	box_free(from);
	return to;
}

static void check_world(const struct world *w)
{
	CHECK(w->frames_out == FRAMES && w->frames_in == FRAMES);
	for (unsigned d = 0; d < DISKS; d++) {
		for (unsigned n = 0; n < DISK_OPS; n++)
			if (w->platter[d].writes[n] != 1)
				fail("disk %u: write %u was done %u times", d, n,
				     w->platter[d].writes[n]);
		if (w->platter[d].reads != DISK_OPS)
			fail("disk %u: %u reads were done, not %u", d, w->platter[d].reads,
			     DISK_OPS);
	}
}

int main(int argc, char **argv)
{
	struct world *w = calloc(1, sizeof(*w));
	unsigned seed = argc > 2 ? (unsigned)atoi(argv[2]) : 1, saves = 0, busy = 0;
	uint64_t began = now_ns();
	struct box *b;

	CHECK(w && argc > 1);
	w->image = argv[1];
	atomic_init(&w->exit_code, -1);
	for (unsigned block = 0; block < CD_BLOCKS; block++)
		for (unsigned i = 0; i < CD_BLOCK; i += 8)
			store_le64(w->platter[CD].data + block * CD_BLOCK + i,
				   mix(1000 + block, i));
	b = box_new(w, SPEC_SOFT_INTERP);
	while (atomic_load(&w->exit_code) < 0) {
		if (saves % 3)
			box_run(b, PATIENCE_S * UINT64_C(1000000000),
				1 + (unsigned)rand_r(&seed) % MOST_WORK, saves % 2);
		else
			box_run(b, 2000000 + (uint64_t)(rand_r(&seed) % 20000000), UINT_MAX / 2,
				saves % 2);
		if (atomic_load(&w->exit_code) >= 0)
			break;
		if (now_ns() - began > PATIENCE_S * UINT64_C(1000000000)) {
			box_say(b);
			fail("no end in sight: %u frames out, %u in", w->frames_out, w->frames_in);
		}
		saves++;
		busy += busy_disks(b);
		atomic_store(&w->hold, 0);
		if (saves % 4)
			b = carry(b);
		else
			save_for_nothing(b);
	}
	box_free(b);
	printf("saved %u times, with %u busy disks; exit code 0x%x\n", saves, busy,
	       (unsigned)w->exit_code);
	if (w->exit_code != 0x10)
		fail("the guest found something wrong");
	check_world(w);
	/* Otherwise it was no test of what it says. */
	CHECK(saves >= 5 && busy >= 5);
	free(w);
	return 0;
}
