/* machine_state.c: the state of all CPUs and devices, as one blob that is taken whole or not at
 * all. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/vcpu_state.h"
#include "machine/internal.h"

/*
 * "PVMACHIN", version, number of CPUs, RAM size; then sections of state.h's kind: the clock, each
 * CPU, each device in the board's order.
 */
#define MACHINE_MAGIC	   UINT64_C(0x4e494843414d5650)
#define MACHINE_VERSION	   1
#define MACHINE_MAX_SHADOW 256

struct clock_state {
	uint64_t now_ns;
	uint64_t wall_base_ns;
};

static int clock_state_check(const void *shadow, struct error *err)
{
	const struct clock_state *s = shadow;

	if (s->now_ns > INT64_MAX || s->wall_base_ns > INT64_MAX)
		return error_set(err, -EINVAL, "saved state: the clock's time is out of range");
	return 0;
}

static const struct state_field clock_fields[] = {
    STATE_SCALAR(1, struct clock_state, now_ns),
    STATE_SCALAR(2, struct clock_state, wall_base_ns),
    STATE_END,
};

static const struct state_desc clock_desc = {
    .name = "clock",
    .fields = clock_fields,
    .size = sizeof(struct clock_state),
    .check = clock_state_check,
};

/* Edges that wait for the CPU are in its link: whichever engine there is, and after its get_state,
 * which may put one there. */
#define LINK_EDGES (CPU_EVENT_NMI | CPU_EVENT_INIT | CPU_EVENT_SIPI | CPU_EVENT_SMI)

static void edges_get(struct vcpu *vcpu, struct x86_state *s)
{
	uint32_t events = atomic_load(&vcpu->link.events);

	s->nmi_pending = !!(events & CPU_EVENT_NMI);
	s->init_pending = !!(events & CPU_EVENT_INIT);
	s->sipi_pending = !!(events & CPU_EVENT_SIPI);
	s->sipi_vector = atomic_load(&vcpu->link.sipi_vector);
}

static void edges_set(struct vcpu *vcpu, const struct x86_state *s)
{
	uint32_t events = (s->nmi_pending ? CPU_EVENT_NMI : 0) |
			  (s->init_pending ? CPU_EVENT_INIT : 0) |
			  (s->sipi_pending ? CPU_EVENT_SIPI : 0);

	cpu_link_clear(&vcpu->link, LINK_EDGES);
	atomic_store(&vcpu->link.sipi_vector, s->sipi_vector);
	if (events)
		cpu_link_raise(&vcpu->link, events);
}

static int save_cpus(struct machine *m, struct wbuf *out, struct error *err)
{
	struct x86_state *s = malloc(sizeof(*s));
	int r = s ? 0 : error_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; !r && i < m->env.cpus; i++) {
		r = m->engine->ops->get_state(m->vcpu[i], s);
		if (r) {
			error_set(err, r, "cannot read the state of CPU %u", i);
			break;
		}
		edges_get(m->vcpu[i], s);
		state_save(&x86_state_desc, i, s, out);
	}
	free(s);
	return r;
}

int machine_save(struct machine *m, struct wbuf *out, struct error *err)
{
	struct clock_state clock = {clock_now_ns(m->clock), (uint64_t)clock_wall_base_ns(m->clock)};
	int r;

	machine_quiesce(m);
	wbuf_u64(out, MACHINE_MAGIC);
	wbuf_u32(out, MACHINE_VERSION);
	wbuf_u32(out, m->env.cpus);
	wbuf_u64(out, m->layout.ram_bytes);
	state_save(&clock_desc, 0, &clock, out);
	r = save_cpus(m, out, err);
	if (r)
		return r;
	for (struct device *dev = m->devices; dev; dev = dev->next)
		device_save(dev, out);
	if (out->failed)
		return error_set(err, -ENOMEM, "the machine's state does not fit the space for it");
	return 0;
}

/* Everything decoded and checked, nothing live changed yet. */
struct loading {
	struct state_shadow *clock;
	struct clock_state clock_now;
	struct state_shadow *cpu[ENGINE_MAX_CPUS];
	struct x86_state *cpus; /* live copies that the shadows are committed to first */
	struct state_shadow *device[MACHINE_MAX_SHADOW];
	unsigned devices;
};

static void loading_free(struct loading *l)
{
	state_discard(l->clock);
	for (unsigned i = 0; i < ENGINE_MAX_CPUS; i++)
		state_discard(l->cpu[i]);
	for (unsigned i = 0; i < l->devices; i++)
		state_discard(l->device[i]);
	free(l->cpus);
	free(l);
}

static int load_header(struct machine *m, struct rbuf *in, struct error *err)
{
	uint64_t magic = rbuf_u64(in);
	uint32_t version = rbuf_u32(in), cpus = rbuf_u32(in);
	uint64_t ram = rbuf_u64(in);

	if (in->failed || magic != MACHINE_MAGIC)
		return error_set(err, -EINVAL, "this is not a machine's saved state");
	if (version != MACHINE_VERSION)
		return error_set(err, -EINVAL, "saved state of version %u; this program knows %u",
				 version, MACHINE_VERSION);
	if (cpus != m->env.cpus || ram != m->layout.ram_bytes)
		return error_set(
		    err, -EINVAL,
		    "the saved machine has %u CPU(s) and %llu MiB of RAM, this one %u and %llu",
		    cpus, (unsigned long long)ram >> 20, m->env.cpus,
		    (unsigned long long)m->layout.ram_bytes >> 20);
	return 0;
}

static int load_decode(struct machine *m, struct loading *l, struct rbuf *in, struct error *err)
{
	int r = load_header(m, in, err);

	if (!r)
		r = state_decode(&clock_desc, 0, &l->clock_now, in, &l->clock, err);
	for (unsigned i = 0; !r && i < m->env.cpus; i++) {
		r = m->engine->ops->get_state(m->vcpu[i], &l->cpus[i]);
		if (r)
			return error_set(err, r, "cannot read the state of CPU %u", i);
		/* Older states do not have them. */
		l->cpus[i].nmi_pending = l->cpus[i].init_pending = l->cpus[i].sipi_pending = 0;
		l->cpus[i].sipi_vector = 0;
		r = state_decode(&x86_state_desc, i, &l->cpus[i], in, &l->cpu[i], err);
	}
	for (struct device *dev = m->devices; !r && dev; dev = dev->next) {
		assert(l->devices < MACHINE_MAX_SHADOW);
		r = device_decode(dev, in, &l->device[l->devices], err);
		l->devices += !r;
	}
	if (!r && (in->failed || rbuf_left(in)))
		r = error_set(err, -EINVAL, "saved state: %zu bytes too many at the end",
			      rbuf_left(in));
	return r;
}

/* CPUs first, into their copies: an engine may still refuse a CPU's state, and then the ones before
 * it are put back. */
static int commit_cpus(struct machine *m, struct loading *l, struct error *err)
{
	struct x86_state *before = malloc(sizeof(*before) * m->env.cpus);
	int r = before ? 0 : error_set(err, -ENOMEM, "out of memory");

	if (!r)
		memcpy(before, l->cpus, sizeof(*before) * m->env.cpus);
	for (unsigned i = 0; !r && i < m->env.cpus; i++) {
		state_commit(l->cpu[i], &l->cpus[i]);
		l->cpu[i] = NULL;
		r = m->engine->ops->set_state(m->vcpu[i], &l->cpus[i]);
		if (!r)
			continue;
		error_set(err, r, "the engine refuses the saved state of CPU %u", i);
		for (unsigned j = 0; j <= i; j++) {
			if (m->engine->ops->set_state(m->vcpu[j], &before[j]))
				error_set(err, r,
					  "the engine refuses the saved state of CPU %u, and its "
					  "old state as well",
					  i);
		}
	}
	free(before);
	return r;
}

int machine_load(struct machine *m, struct rbuf *in, struct error *err)
{
	struct loading *l = calloc(1, sizeof(*l));
	unsigned n = 0;
	int r;

	if (!l || !(l->cpus = calloc(m->env.cpus, sizeof(*l->cpus)))) {
		free(l);
		return error_set(err, -ENOMEM, "out of memory");
	}
	machine_quiesce(m);
	r = load_decode(m, l, in, err);
	if (!r)
		r = commit_cpus(m, l, err);
	for (unsigned i = 0; !r && i < m->env.cpus; i++)
		edges_set(m->vcpu[i], &l->cpus[i]);
	if (!r) {
		state_commit(l->clock, &l->clock_now);
		l->clock = NULL;
		clock_set_ns(m->clock, l->clock_now.now_ns);
		clock_set_wall_base_ns(m->clock, (int64_t)l->clock_now.wall_base_ns);
		for (struct device *dev = m->devices; dev; dev = dev->next, n++) {
			device_commit(dev, l->device[n]);
			l->device[n] = NULL;
		}
	}
	loading_free(l);
	return r;
}
