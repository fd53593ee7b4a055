/* machine.c: builds the machine, starts and resets it, takes it apart. */
#include "machine/machine.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "dev/pc/acpi_pm.h"
#include "dev/pc/kvmclock.h"
#include "dev/pc/pic.h"
#include "dev/pc/ioapic.h"
#include "dev/pc/uart.h"
#include "machine/internal.h"

void machine_add(struct machine *m, struct device *dev)
{
	struct device **end = &m->devices;

	while (*end)
		end = &(*end)->next;
	*end = dev;
	dev->next = NULL;
	m->device_count++;
}

static int env_pic_ack(void *opaque)
{
	struct machine *m = opaque;

	return pic_ack_fn(m->pic);
}

static void env_eoi(void *opaque, unsigned vector)
{
	struct machine *m = opaque;

	ioapic_eoi(m->ioapic, vector);
}

static void env_event(void *opaque, enum engine_event event, unsigned cpu, const char *text)
{
	struct machine *m = opaque;

	m->cfg.event(m->cfg.opaque, event, cpu, text);
}

static int make_cpuid(struct machine *m, struct error *err)
{
	const struct engine_ops *ops = m->cfg.engine;
	enum cpuid_hypervisor hv =
	    m->cfg.spec->personality == PERSONALITY_KVM ? CPUID_HV_KVM : CPUID_HV_NONE;
	enum spec_feature avx512 = m->cfg.spec->avx512;
	struct cpuid_caps caps;
	int rc;

	memset(&caps, 0, sizeof(caps));
	ops->caps(&caps);
	if (avx512 == SPEC_FEATURE_OFF || (avx512 == SPEC_FEATURE_AUTO && caps.avx512_on_request))
		caps.avx512 = 0;
	rc = cpuid_policy_init(&m->cpuid, &caps, m->cfg.spec->cpus, ops->tsc_khz(), hv, err);
	if (!rc && avx512 == SPEC_FEATURE_ON && !cpuid_has(&m->cpuid, 7, 0, CPUID_EBX, 16))
		return error_set(err, -ENOTSUP,
				 "This host's CPU has no AVX-512 (F, BW, DQ and VL) for the guest: "
				 "leave +avx512 out.");
	return rc;
}

/* What SMBIOS says of the CPU, from the guest's own CPUID. */
static void make_ident(struct machine *m)
{
	struct x86_state *s = calloc(1, sizeof(*s));
	struct cpuid_regs r;

	if (getrandom(m->ident.uuid, sizeof(m->ident.uuid), 0) != sizeof(m->ident.uuid))
		memset(m->ident.uuid, 0x5a, sizeof(m->ident.uuid));
	m->ident.uuid[6] = (m->ident.uuid[6] & 0x0f) | 0x40; /* RFC 4122 4.4: random */
	m->ident.uuid[8] = (m->ident.uuid[8] & 0x3f) | 0x80;
	m->ident.cpu_mhz = m->cpuid.tsc_khz / 1000;
	if (!s)
		return;
	cpuid_query(&m->cpuid, s, 0, 1, 1, 0, &r);
	m->ident.cpu_signature = r.eax;
	m->ident.cpu_features = r.edx;
	for (unsigned i = 0; i < 3 && m->cpuid.max_extended >= 0x80000004; i++) {
		cpuid_query(&m->cpuid, s, 0, 1, 0x80000002 + i, 0, &r);
		memcpy(m->ident.cpu_brand + 16 * i, &r, 16);
	}
	free(s);
}

static int make_memory(struct machine *m, struct error *err)
{
	uint64_t cuts[BIOS_CUTS];
	const struct gmem_config cfg = {
	    .ram_bytes = m->cfg.spec->memory_bytes,
	    .low_limit = BOARD_LOW_LIMIT,
	    .huge = m->cfg.spec->huge_pages,
	    .cuts = cuts,
	    .cut_count = m->bios.data ? BIOS_CUTS : 0,
	};
	bios_cuts(cuts);
	int r = gmem_new(&m->mem, &cfg, err);

	if (!r && m->bios.data)
		r = bios_map(&m->bios, m->mem, err);
	if (r)
		return r;
	if (space_new(&m->ports, "ports", 65536) || space_new(&m->memory, "memory", BIT64(52)) ||
	    clock_new(&m->clock, m->cfg.clock))
		return error_set(err, -ENOMEM, "out of memory");
	return 0;
}

static void set_wall_clock(struct machine *m)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	clock_set_wall_base_ns(m->clock, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
}

static int make_cpus(struct machine *m, struct error *err)
{
	static const enum engine_options_soft soft[] = {
	    [SPEC_SOFT_INTERP] = SOFT_INTERP,
	    [SPEC_SOFT_TRANSLATE] = SOFT_TRANSLATE,
	    [SPEC_SOFT_LOCKSTEP] = SOFT_LOCKSTEP,
	    [SPEC_SOFT_DIRECT] = SOFT_DIRECT,
	    [SPEC_SOFT_DIRECT_ALWAYS] = SOFT_DIRECT_ALWAYS,
	};
	const struct engine_config cfg = {
	    .soft = soft[m->cfg.spec->soft],
	    .soft_named = m->cfg.spec->soft_named,
	    .trace = m->cfg.trace,
	};
	int r;

	m->env = (struct engine_env){
	    .mem = m->mem,
	    .ports = m->ports,
	    .memory = m->memory,
	    .doors = &m->doors,
	    .clock = m->clock,
	    .cpuid = &m->cpuid,
	    .cpus = m->cfg.spec->cpus,
	    .pic_ack = env_pic_ack,
	    .eoi = env_eoi,
	    .event = env_event,
	    .opaque = m,
	};
	r = m->cfg.engine->create(&m->engine, &m->env, &cfg, err);
	for (unsigned i = 0; !r && i < m->env.cpus; i++)
		r = m->cfg.engine->vcpu_create(m->engine, i, &m->vcpu[i], err);
	return r;
}

static int open_files(struct machine *m, struct error *err)
{
	static const enum boot_protocol protocols[] = {BOOT_AUTO, BOOT_LINUX64, BOOT_LINUX32,
						       BOOT_PVH, BOOT_MULTIBOOT};
	const struct vm_spec *spec = m->cfg.spec;
	if (!spec->kernel)
		return bios_open(&m->bios, spec->firmware, err);
	const struct boot_config cfg = {
	    .kernel = spec->kernel,
	    .initrds = spec->initrd,
	    .initrd_count = spec->initrd_count,
	    .cmdline = spec->append,
	    .protocol = protocols[spec->boot],
	    .unpack = spec->unpack == SPEC_UNPACK_HOST ? UNPACK_HOST : UNPACK_GUEST,
	};

	return boot_open(&m->files, &cfg, err);
}

int machine_new(struct machine **out, const struct machine_config *cfg, struct error *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return error_set(err, -ENOMEM, "out of memory");
	m->cfg = *cfg;
	lock_init(&m->wire_lock, RANK_WIRE);
	r = open_files(m, err);
	if (!r)
		r = make_cpuid(m, err);
	if (!r)
		r = board_layout_init(&m->layout, cfg->spec->memory_bytes, cfg->spec->cpus,
				      m->cpuid.phys_bits, err);
	if (!r)
		r = make_memory(m, err);
	if (!r) {
		make_ident(m);
		set_wall_clock(m);
		r = make_cpus(m, err);
	}
	if (!r)
		r = machine_add_devices(m, err);
	if (r) {
		machine_free(m);
		return r;
	}
	*out = m;
	return 0;
}

static void free_devices(struct machine *m)
{
	while (m->devices) {
		struct device **last = &m->devices;

		while ((*last)->next)
			last = &(*last)->next;
		device_free(*last);
		*last = NULL;
	}
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	free_devices(m);
	for (unsigned i = 0; i < ENGINE_MAX_CPUS; i++) {
		if (m->vcpu[i])
			m->cfg.engine->vcpu_destroy(m->vcpu[i]);
	}
	lapic_bus_free(m->lapics);
	if (m->engine)
		m->cfg.engine->destroy(m->engine);
	clock_free(m->clock);
	space_free(m->memory);
	space_free(m->ports);
	gmem_free(m->mem);
	boot_close(m->files);
	bios_close(&m->bios);
	lock_fini(&m->wire_lock);
	free(m);
}

/* All CPUs to power-on state, the boot CPU at the kernel's entry unless firmware will find one. */
static int boot_cpus(struct machine *m, uint64_t rsdp, char *what, struct error *err)
{
	struct x86_state *s = malloc(sizeof(*s));
	int r = s ? 0 : error_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; !r && i < m->env.cpus; i++) {
		x86_state_reset(s, i == 0);
		if (m->files)
			boot_state_common(&m->layout, s);
		if (i == 0 && m->files)
			r = boot_load(m->files, m->mem, &m->layout, rsdp, s, what, err);
		if (!r && m->engine->ops->reset)
			m->engine->ops->reset(m->vcpu[i]);
		if (!r && (r = m->engine->ops->set_state(m->vcpu[i], s)))
			error_set(err, r, "the engine refuses the power-on state of CPU %u", i);
	}
	free(s);
	return r;
}

void machine_quiesce(struct machine *m)
{
	for (struct device *dev = m->devices; dev; dev = dev->next)
		device_quiesce(dev);
}

int machine_boot(struct machine *m, enum reset_kind kind, char what[128], struct error *err)
{
	uint64_t rsdp = 0;
	int r;

	machine_quiesce(m);
	for (struct device *dev = m->devices; dev; dev = dev->next)
		device_reset(dev, kind);
	for (unsigned i = 0; m->files && i < m->env.cpus; i++)
		lapic_virtual_wire(m->lapic[i]);
	for (unsigned i = 0; i < m->env.cpus; i++)
		cpu_link_clear(&m->vcpu[i]->link,
			       CPU_EVENT_NMI | CPU_EVENT_SMI | CPU_EVENT_INIT | CPU_EVENT_SIPI);
	if (m->files)
		r = firmware_tables_load(m->mem, &m->layout, &m->ident, &rsdp, err);
	else
		r = bios_reset(&m->bios, m->mem, err);
	return r ? r : boot_cpus(m, rsdp, what, err);
}

_Bool machine_press_power(struct machine *m)
{
	return acpi_pm_power_button(m->pm);
}

void machine_send_break(struct machine *m)
{
	if (m->console_uart)
		uart_break(m->console_uart);
}

unsigned machine_cpus(const struct machine *m)
{
	return m->env.cpus;
}

struct vcpu *machine_vcpu(struct machine *m, unsigned index)
{
	assert(index < m->env.cpus);
	return m->vcpu[index];
}

struct engine *machine_engine(struct machine *m)
{
	return m->engine;
}

struct clock *machine_clock(struct machine *m)
{
	return m->clock;
}

struct gmem *machine_mem(struct machine *m)
{
	return m->mem;
}

void machine_time_stop(struct machine *m)
{
	clock_set_mode(m->clock, CLOCK_STOPPED);
	if (m->engine->ops->time)
		m->engine->ops->time(m->engine, 0);
}

void machine_time_go(struct machine *m)
{
	if (m->engine->ops->time)
		m->engine->ops->time(m->engine, 1);
	clock_set_mode(m->clock, CLOCK_REAL);
	if (m->kvmclock)
		kvmclock_resumed(m->kvmclock);
}
