/* vm_net.c: opens the back ends of a VM's network cards and gives the cards addresses. */
#include "vmm/vm_impl.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "backend/vhost.h"
#include "base/log.h"

/*
 * Addresses of cards that were given none. On a user network the card is alone, so that it can be
 * the same in every run, which guests like that remember their cards. A tap's follows from its name
 * for the same reason. On a switch there are others: random.
 */
static int make_mac(struct spec_net *net, unsigned index, struct error *err)
{
	uint32_t v = 0x123456 + index;

	if (net->kind == SPEC_NET_TAP || net->kind == SPEC_NET_VHOST_USER) {
		v = 2166136261u; /* FNV-1a */
		for (const char *c = net->kind == SPEC_NET_TAP ? net->name : net->path; *c; c++)
			v = (v ^ (uint8_t)*c) * 16777619;
	} else if (net->kind == SPEC_NET_SWITCH) {
		if (getrandom(&v, sizeof(v), 0) != sizeof(v))
			return error_set(err, -EIO, "the host gives no random numbers");
	}
	net->mac[0] = 0x52;
	net->mac[1] = 0x54;
	net->mac[2] = net->kind == SPEC_NET_USER ? 0 : (uint8_t)(v >> 24);
	net->mac[3] = (uint8_t)(v >> 16);
	net->mac[4] = (uint8_t)(v >> 8);
	net->mac[5] = (uint8_t)v;
	net->has_mac = 1;
	return 0;
}

static int publish_all(struct net *net, const struct vm_spec *spec, struct error *err)
{
	for (unsigned i = 0; i < spec->publish_count; i++) {
		const struct spec_publish *p = &spec->publish[i];
		const struct net_publish publish = {p->udp, p->addr, p->host_port, p->guest_port};
		int r = net_user_publish(net, &publish, err);

		if (r)
			return r;
	}
	return 0;
}

/* The guest's time, which stands still while the VM does. */
static uint64_t guest_now_ns(void *opaque)
{
	const struct vm *vm = opaque;

	return vm->machine ? clock_now_ns(machine_clock(vm->machine)) : 0;
}

/* The host's kernel moves the tap's frames where it can. */
static int open_tap(struct vm *vm, const struct spec_net *spec, struct net **net,
		    struct vhost **vhost, struct error *err)
{
	struct error why;
	int r = net_tap_new(net, vm->loop, spec->name, err);

	if (r || spec->vhost == SPEC_VHOST_OFF)
		return r;
	r = vhost_kernel_new(vhost, net_tap_fd(*net), NULL, err);
	if (r)
		return r;
	r = vhost_connect(*vhost, &why);
	if (!r) {
		net_tap_hand_over(*net);
		return 0;
	}
	if (spec->vhost == SPEC_VHOST_ON)
		return error_set(err, r, "tap interface '%s': %s", spec->name, why.text);
	if (!vm->spec.quiet)
		log_say("tap interface '%s' without vhost: %s", spec->name, why.text);
	vhost_free(*vhost);
	*vhost = NULL;
	return 0;
}

static int open_vhost_user(const struct spec_net *spec, struct net **net, struct vhost **vhost,
			   struct error *err)
{
	const struct vhost_user_config cfg = {.path = spec->path};
	int r = vhost_user_new(vhost, &cfg, err);

	if (!r)
		r = vhost_connect(*vhost, err);
	return r ? r : net_vhost_new(net, *vhost, err);
}

static int open_one(struct vm *vm, const struct spec_net *spec, struct net **net,
		    struct vhost **vhost, struct error *err)
{
	const struct net_user_config user = {.restricted = spec->restricted,
					     .mtu = spec->mtu,
					     .hostname = vm->spec.name ? vm->spec.name : "guest",
					     .now_ns = guest_now_ns,
					     .opaque = vm};

	switch (spec->kind) {
	case SPEC_NET_USER: return net_user_new(net, vm->loop, &user, err);
	case SPEC_NET_TAP: return open_tap(vm, spec, net, vhost, err);
	case SPEC_NET_VHOST_USER: return open_vhost_user(spec, net, vhost, err);
	case SPEC_NET_SWITCH: return net_switch_new(net, vm->loop, spec->name, NULL, err);
	case SPEC_NET_NONE: break;
	}
	return 0;
}

int vm_nets_open(struct vm *vm, struct error *err)
{
	_Bool published = 0;

	for (unsigned i = 0; i < vm->spec.net_count; i++) {
		struct spec_net *spec = &vm->spec.net[i];
		int r = spec->has_mac ? 0 : make_mac(spec, i, err);

		if (!r)
			r = open_one(vm, spec, &vm->net[i], &vm->vhost_net[i], err);
		if (!r && spec->kind == SPEC_NET_USER && !published) {
			r = publish_all(vm->net[i], &vm->spec, err);
			published = 1;
		}
		if (r)
			return r;
	}
	return 0;
}

void vm_nets_close(struct vm *vm)
{
	for (unsigned i = 0; i < SPEC_MAX_NETS; i++) {
		vhost_free(vm->vhost_net[i]);
		vm->vhost_net[i] = NULL;
		net_free(vm->net[i]);
		vm->net[i] = NULL;
	}
}
