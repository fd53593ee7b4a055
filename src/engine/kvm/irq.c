/* irq.c: interrupts under KVM: messages, irqfds, the PIC's output, EOIs that an IOAPIC waits for.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <string.h>

/*
 * With the split interrupt controller KVM has the local APICs only. A device's or an IOAPIC's
 * message goes in by KVM_SIGNAL_MSI. A level-triggered one must be followed by an EOI broadcast to
 * the IOAPIC, in user space; leaving guest code for every EOI would be dear, so KVM does it for the
 * vectors that it finds, with level trigger, in the routing table at the numbers set aside when the
 * split controller was made. So the 24 first routes mirror the IOAPIC's level-triggered vectors,
 * each addressed to all CPUs: which CPU will take it does not matter here. Nothing is ever sent
 * through these routes.
 */

#define MSI_BROADCAST 0xfee00000u | 0xffu << 12
#define MSI_LEVEL     (1u << 15 | 1u << 14)
#define MSI_WINDOW(a) (((a) & ~UINT64_C(0xfffff)) == 0xfee00000u)

static void route_put(struct kvm_engine *k, uint32_t gsi, uint64_t addr, uint32_t data)
{
	struct kvm_irq_routing_entry *e = &k->table->entries[k->table->nr++];

	memset(e, 0, sizeof(*e));
	e->gsi = gsi;
	e->type = KVM_IRQ_ROUTING_MSI;
	e->u.msi.address_lo = (uint32_t)addr;
	e->u.msi.address_hi = (uint32_t)(addr >> 32);
	e->u.msi.data = data;
}

/* Hands all routes to KVM. Under the engine's lock. */
static int routes_commit(struct kvm_engine *k)
{
	uint32_t gsi = 0;

	k->table->nr = 0;
	k->table->flags = 0;
	for (unsigned v = 0; v < 256 && gsi < KVM_EOI_ROUTES; v++)
		if (k->eoi_bitmap[v / 64] >> (v % 64) & 1)
			route_put(k, gsi++, MSI_BROADCAST, MSI_LEVEL | v);
	for (unsigned i = 0; i < KVM_IRQFD_MAX; i++)
		if (k->route[i].used)
			route_put(k, KVM_EOI_ROUTES + i, k->route[i].addr, k->route[i].data);
	return kvm_ioctl(k->vm_fd, KVM_SET_GSI_ROUTING, k->table);
}

void kvm_eoi_vectors(struct engine *engine, const uint64_t bitmap[4])
{
	struct kvm_engine *k = kvm_engine_of(engine);

	lock_take(&k->lock);
	if (memcmp(k->eoi_bitmap, bitmap, sizeof(k->eoi_bitmap)) != 0) {
		memcpy(k->eoi_bitmap, bitmap, sizeof(k->eoi_bitmap));
		/* KVM takes any such table; without memory for it, it keeps the one before. */
		(void)routes_commit(k);
	}
	lock_drop(&k->lock);
}

void kvm_msi(struct engine *engine, uint64_t addr, uint32_t data)
{
	struct kvm_engine *k = kvm_engine_of(engine);
	struct kvm_msi msi = {.address_lo = (uint32_t)addr, .data = data};

	if (!MSI_WINDOW(addr) || kvm_ioctl(k->vm_fd, KVM_SIGNAL_MSI, &msi) < 0)
		atomic_fetch_add_explicit(&k->msi_refused, 1, memory_order_relaxed);
}

/* The boot CPU looks at the line before it enters guest code; see run.c. */
void kvm_extint(struct engine *engine, _Bool level)
{
	struct kvm_engine *k = kvm_engine_of(engine);

	if (atomic_exchange(&k->extint, level) != level && level && k->vcpu[0])
		vcpu_wake(&k->vcpu[0]->vcpu.link);
}

int kvm_doorbell(struct engine *engine, _Bool port, uint64_t addr, unsigned size,
		 const uint64_t *value, int fd, _Bool add)
{
	struct kvm_ioeventfd arg = {
	    .addr = addr,
	    .len = size,
	    .fd = fd,
	    .datamatch = value ? *value : 0,
	    .flags = (port ? KVM_IOEVENTFD_FLAG_PIO : 0) |
		     (value ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
		     (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	return kvm_ioctl(kvm_engine_of(engine)->vm_fd, KVM_IOEVENTFD, &arg);
}

static int irqfd_assign(struct kvm_engine *k, unsigned i, _Bool add)
{
	struct kvm_irqfd arg = {
	    .fd = (uint32_t)k->route[i].fd,
	    .gsi = KVM_EOI_ROUTES + i,
	    .flags = add ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	return kvm_ioctl(k->vm_fd, KVM_IRQFD, &arg);
}

int kvm_irqfd_add(struct engine *engine, int fd, uint64_t addr, uint32_t data)
{
	struct kvm_engine *k = kvm_engine_of(engine);
	unsigned i = 0;
	int rc = -ENOSPC;

	if (!MSI_WINDOW(addr))
		return -EINVAL;
	lock_take(&k->lock);
	while (i < KVM_IRQFD_MAX && k->route[i].used)
		i++;
	if (i < KVM_IRQFD_MAX) {
		k->route[i] = (struct kvm_route){.used = 1, .fd = fd, .addr = addr, .data = data};
		rc = routes_commit(k);
		if (rc >= 0)
			rc = irqfd_assign(k, i, 1);
		if (rc < 0)
			k->route[i].used = 0;
	}
	lock_drop(&k->lock);
	return rc < 0 ? rc : (int)i;
}

int kvm_irqfd_set(struct engine *engine, int handle, uint64_t addr, uint32_t data)
{
	struct kvm_engine *k = kvm_engine_of(engine);
	struct kvm_route *r, old;
	int rc = -EINVAL;

	if (handle < 0 || handle >= KVM_IRQFD_MAX || !MSI_WINDOW(addr))
		return -EINVAL;
	lock_take(&k->lock);
	r = &k->route[handle];
	if (r->used) {
		old = *r;
		r->addr = addr;
		r->data = data;
		rc = old.addr == addr && old.data == data ? 0 : routes_commit(k);
		if (rc < 0)
			*r = old;
	}
	lock_drop(&k->lock);
	return rc;
}

void kvm_irqfd_del(struct engine *engine, int handle)
{
	struct kvm_engine *k = kvm_engine_of(engine);

	if (handle < 0 || handle >= KVM_IRQFD_MAX)
		return;
	lock_take(&k->lock);
	if (k->route[handle].used) {
		(void)irqfd_assign(k, (unsigned)handle, 0);
		k->route[handle].used = 0;
		(void)routes_commit(k);
	}
	lock_drop(&k->lock);
}
