/* engine.c: the KVM engine: one VM's creation, memory and dirty log, and the table of operations.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Four pages that Intel CPUs without unrestricted guests need for real mode. Between the local
 * APICs' window and the firmware's, where the board has nothing. */
#define REAL_MODE_MAP UINT64_C(0xfeffc000)
#define REAL_MODE_TSS 0xfeffd000ul

static int slot_map(struct kvm_engine *k, unsigned i, const struct gmem_slot *s)
{
	struct kvm_userspace_memory_region region = {
	    .slot = i,
	    .guest_phys_addr = s->base,
	    .memory_size = s->size,
	    .userspace_addr = (uintptr_t)s->host,
	};

	if (gmem_slot_flags(s) & GMEM_READONLY)
		region.flags |= KVM_MEM_READONLY;
	else if (k->logging)
		region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
	return kvm_ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int memory_map(struct kvm_engine *k, struct error *err)
{
	unsigned count;
	const struct gmem_slot *s = gmem_slots(k->engine.env->mem, &count);

	for (unsigned i = 0; i < count; i++) {
		int rc = slot_map(k, i, &s[i]);

		if (rc < 0)
			return error_set(err, rc,
					 "KVM cannot map %llu bytes of guest memory at 0x%llx: %s",
					 (unsigned long long)s[i].size,
					 (unsigned long long)s[i].base, strerror(-rc));
	}
	return 0;
}

static int slot_sync(struct kvm_engine *k, unsigned i, const struct gmem_slot *s);

/* KVM changes a slot's protection only by taking it away and putting it back. A vCPU that touches
 * it in between finds nobody there: as on a PC, whoever switches shadow RAM sees to it that no
 * other CPU uses it meanwhile. */
static int slot_protected(void *opaque, unsigned i)
{
	struct kvm_engine *k = opaque;
	unsigned count;
	const struct gmem_slot *s = &gmem_slots(k->engine.env->mem, &count)[i];
	struct kvm_userspace_memory_region gone = {.slot = i, .guest_phys_addr = s->base};
	int rc = 0;

	if (k->logging && gmem_slot_flags(s) & GMEM_READONLY)
		rc = slot_sync(k, i, s);
	if (rc >= 0)
		rc = kvm_ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &gone);
	if (rc >= 0)
		rc = slot_map(k, i, s);
	return rc;
}

static int vm_enable(struct kvm_engine *k, struct error *err)
{
	static const struct {
		struct kvm_enable_cap cap;
		const char *name;
	} wanted[] = {
	    {{.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {KVM_EOI_ROUTES}}, "KVM_CAP_SPLIT_IRQCHIP"},
	    {{.cap = KVM_CAP_X86_USER_SPACE_MSR,
	      .args = {KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN}},
	     "KVM_CAP_X86_USER_SPACE_MSR"},
	};
	uint64_t map = REAL_MODE_MAP;

	for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++) {
		struct kvm_enable_cap cap = wanted[i].cap;
		int rc = kvm_ioctl(k->vm_fd, KVM_ENABLE_CAP, &cap);

		if (rc < 0)
			return error_set(err, rc, "KVM refuses %s: %s", wanted[i].name,
					 strerror(-rc));
	}
	/* AMD's needs neither and may say so. */
	(void)kvm_ioctl(k->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &map);
	(void)kvm_ioctl_value(k->vm_fd, KVM_SET_TSS_ADDR, REAL_MODE_TSS);
	return 0;
}

static int engine_open(struct kvm_engine *k, struct error *err)
{
	const struct kvm_cpuid_entry2 *d;
	int rc;

	k->sys_fd = kvm_open(err);
	if (k->sys_fd < 0)
		return k->sys_fd;
	rc = kvm_cap(k->sys_fd, KVM_CAP_MAX_VCPUS);
	if (rc > 0 && (unsigned)rc < k->engine.env->cpus)
		return error_set(err, -EINVAL, "this host's KVM runs at most %d CPUs, not %u", rc,
				 k->engine.env->cpus);
	k->supported = kvm_cpuid_supported(k->sys_fd);
	k->route = calloc(KVM_IRQFD_MAX, sizeof(*k->route));
	k->table = calloc(1, sizeof(*k->table) + (KVM_EOI_ROUTES + KVM_IRQFD_MAX) *
						     sizeof(struct kvm_irq_routing_entry));
	if (!k->supported || !k->route || !k->table)
		return error_set(err, -ENOMEM, "out of memory");
	d = kvm_cpuid_find(k->supported, 0xd, 0);
	k->xfeatures = d ? d->eax | (uint64_t)d->edx << 32 : 3;
	rc = kvm_signal_init();
	if (rc)
		return error_set(err, rc, "cannot set up a signal: %s", strerror(-rc));
	k->vm_fd = kvm_ioctl_value(k->sys_fd, KVM_CREATE_VM, 0);
	if (k->vm_fd < 0)
		return error_set(err, k->vm_fd, "KVM cannot create a VM: %s", strerror(-k->vm_fd));
	rc = vm_enable(k, err);
	return rc ? rc : memory_map(k, err);
}

static void engine_destroy(struct engine *engine)
{
	struct kvm_engine *k;

	if (!engine)
		return;
	k = kvm_engine_of(engine);
	gmem_set_protector(engine->env->mem, NULL, NULL);
	if (k->vm_fd >= 0)
		close(k->vm_fd);
	if (k->sys_fd >= 0)
		close(k->sys_fd);
	free(k->supported);
	free(k->route);
	free(k->table);
	lock_fini(&k->lock);
	free(k);
}

static int engine_create(struct engine **engine, const struct engine_env *env,
			 const struct engine_config *cfg, struct error *err)
{
	struct kvm_engine *k = calloc(1, sizeof(*k));
	int rc;

	if (!k)
		return error_set(err, -ENOMEM, "out of memory");
	k->engine = (struct engine){.ops = &engine_kvm, .env = env, .cfg = *cfg};
	k->sys_fd = k->vm_fd = -1;
	k->tsc_khz = MAX(kvm_tsc_khz(), 1u);
	lock_init(&k->lock, RANK_LAPIC);
	rc = engine_open(k, err);
	if (rc) {
		engine_destroy(&k->engine);
		return rc;
	}
	gmem_set_protector(env->mem, slot_protected, k);
	*engine = &k->engine;
	return 0;
}

static int engine_dirty_log(struct engine *engine, _Bool on)
{
	struct kvm_engine *k = kvm_engine_of(engine);
	unsigned count;
	const struct gmem_slot *s = gmem_slots(engine->env->mem, &count);

	k->logging = on;
	for (unsigned i = 0; i < count; i++) {
		int rc = gmem_slot_flags(&s[i]) & GMEM_READONLY ? 0 : slot_map(k, i, &s[i]);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Marks a slot's set bits, neighbours in one call. */
static void dirty_push(struct gmem *mem, const struct gmem_slot *s, const uint64_t *bits)
{
	uint64_t pages = s->size >> GMEM_PAGE_SHIFT;

	for (uint64_t p = 0; p < pages;) {
		uint64_t n = 0;

		if (p % 64 == 0 && !bits[p / 64]) {
			p += 64;
			continue;
		}
		while (p + n < pages && bits[(p + n) / 64] >> ((p + n) % 64) & 1)
			n++;
		if (n)
			gmem_log_mark(mem, gpa(s->base + (p << GMEM_PAGE_SHIFT)),
				      n << GMEM_PAGE_SHIFT);
		p += n ? n : 1;
	}
}

static int slot_sync(struct kvm_engine *k, unsigned i, const struct gmem_slot *s)
{
	uint64_t words = ((s->size >> GMEM_PAGE_SHIFT) + 63) / 64;
	uint64_t *bits = calloc(words, sizeof(*bits));
	struct kvm_dirty_log log = {.slot = i, .dirty_bitmap = bits};
	int rc;

	if (!bits)
		return -ENOMEM;
	/* Reads, clears and write-protects in one step: no write falls in between. */
	rc = kvm_ioctl(k->vm_fd, KVM_GET_DIRTY_LOG, &log);
	if (rc >= 0)
		dirty_push(k->engine.env->mem, s, bits);
	free(bits);
	return rc < 0 ? rc : 0;
}

static int engine_dirty_sync(struct engine *engine)
{
	struct kvm_engine *k = kvm_engine_of(engine);
	unsigned count;
	const struct gmem_slot *s = gmem_slots(engine->env->mem, &count);
	int rc = 0;

	for (unsigned i = 0; k->logging && !rc && i < count; i++)
		if (!(gmem_slot_flags(&s[i]) & GMEM_READONLY))
			rc = slot_sync(k, i, &s[i]);
	return rc;
}

static const char *const reason_names[KVM_EXIT_REASONS] = {
    [KVM_EXIT_IO] = "port",
    [KVM_EXIT_MMIO] = "mmio",
    [KVM_EXIT_X86_RDMSR] = "rdmsr",
    [KVM_EXIT_X86_WRMSR] = "wrmsr",
    [KVM_EXIT_IOAPIC_EOI] = "ioapic_eoi",
    [KVM_EXIT_IRQ_WINDOW_OPEN] = "irq_window",
    [KVM_EXIT_INTR] = "intr",
    [KVM_EXIT_SHUTDOWN] = "shutdown",
};

static void stats_line(struct wbuf *out, const char *name, uint64_t value)
{
	char line[64];
	int len = snprintf(line, sizeof(line), "%s %llu\n", name, (unsigned long long)value);

	wbuf_put(out, line, (size_t)len);
}

static void engine_stats(struct engine *engine, struct wbuf *out)
{
	struct kvm_engine *k = kvm_engine_of(engine);
	uint64_t other = 0;
	char name[32];

	for (unsigned r = 0; r < KVM_EXIT_REASONS; r++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < ENGINE_MAX_CPUS; i++)
			if (k->vcpu[i])
				sum += atomic_load_explicit(&k->vcpu[i]->reasons[r],
							    memory_order_relaxed);
		if (!reason_names[r]) {
			other += sum;
			continue;
		}
		snprintf(name, sizeof(name), "kvm_exit_%s", reason_names[r]);
		stats_line(out, name, sum);
	}
	stats_line(out, "kvm_exit_other", other);
	stats_line(out, "kvm_msi_refused", atomic_load(&k->msi_refused));
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .probe = kvm_probe,
    .create = engine_create,
    .destroy = engine_destroy,
    .caps = kvm_caps,
    .vcpu_create = kvm_vcpu_create,
    .vcpu_destroy = kvm_vcpu_destroy,
    .run = kvm_vcpu_run,
    .runnable = kvm_vcpu_runnable,
    .kick = kvm_vcpu_kick,
    .get_state = kvm_get_state,
    .set_state = kvm_set_state,
    .reset = kvm_vcpu_reset,
    .debug = kvm_debug_set,
    .break_max = KVM_BREAK_MAX,
    .tsc_source = kvm_tsc_source,
    .tsc_khz = kvm_tsc_khz,
    .time = kvm_time,
    .own_apic = 1,
    .msi = kvm_msi,
    .extint = kvm_extint,
    .apic_get = kvm_apic_get,
    .apic_set = kvm_apic_set,
    .eoi_vectors = kvm_eoi_vectors,
    .doorbell = kvm_doorbell,
    .irqfd_add = kvm_irqfd_add,
    .irqfd_set = kvm_irqfd_set,
    .irqfd_del = kvm_irqfd_del,
    .dirty_log = engine_dirty_log,
    .dirty_sync = engine_dirty_sync,
    .stats = engine_stats,
};
