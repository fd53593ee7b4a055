/* net.c: virtio network card: features, configuration, life; VIRTIO12 5.1. */
#include "dev/virtio/net.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/le.h"
#include "dev/virtio/net_impl.h"

#define VNET_QUEUE_SIZE 256
#define VNET_CLASS_CODE 0x020000 /* Ethernet controller */
#define VNET_LINK_UP	1

/* ---- features ---- */

static uint64_t features_of(const struct vnet *n)
{
	static const struct {
		unsigned can;
		uint64_t host, guest;
	} map[] = {{NET_CAN_CSUM, NET_F_CSUM, NET_F_GUEST_CSUM},
		   {NET_CAN_TSO4, NET_F_HOST_TSO4, NET_F_GUEST_TSO4},
		   {NET_CAN_TSO6, NET_F_HOST_TSO6, NET_F_GUEST_TSO6},
		   {NET_CAN_ECN, NET_F_HOST_ECN, NET_F_GUEST_ECN}};
	uint64_t f = NET_F_MAC | NET_F_STATUS | NET_F_MRG_RXBUF | NET_F_CTRL_VQ | NET_F_CTRL_RX |
		     NET_F_CTRL_RX_EXTRA | NET_F_CTRL_VLAN | NET_F_CTRL_MAC_ADDR;

	for (size_t i = 0; i < ARRAY_SIZE(map); i++) {
		f |= net_caps(n->net) & map[i].can ? map[i].host : 0;
		f |= net_gives(n->net) & map[i].can ? map[i].guest : 0;
	}
	if (n->outside) {
		/* What filters by VLAN, and changes offloads in the middle, is not outside. */
		f &= ~NET_F_CTRL_VLAN;
		if (!(vhost_features(n->vh.v) & NET_F_MRG_RXBUF))
			f &= ~NET_F_MRG_RXBUF;
	} else if (f & NET_F_GUEST_ALL) {
		f |= NET_F_CTRL_GUEST_OFFLOADS;
	}
	if (net_mtu(n->net))
		f |= NET_F_MTU;
	return n->pairs_max > 1 ? f | NET_F_MQ : f;
}

/* What a bit needs to stand on (5.1.3.1): any of `any`. */
static _Bool vnet_features(struct virtio_dev *vd, uint64_t f)
{
	static const struct {
		uint64_t bit, any;
	} needs[] = {
	    {NET_F_GUEST_TSO4, NET_F_GUEST_CSUM},
	    {NET_F_GUEST_TSO6, NET_F_GUEST_CSUM},
	    {NET_F_GUEST_ECN, NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6},
	    {NET_F_HOST_TSO4, NET_F_CSUM},
	    {NET_F_HOST_TSO6, NET_F_CSUM},
	    {NET_F_HOST_ECN, NET_F_HOST_TSO4 | NET_F_HOST_TSO6},
	    {NET_F_CTRL_RX, NET_F_CTRL_VQ},
	    {NET_F_CTRL_RX_EXTRA, NET_F_CTRL_VQ},
	    {NET_F_CTRL_VLAN, NET_F_CTRL_VQ},
	    {NET_F_CTRL_MAC_ADDR, NET_F_CTRL_VQ},
	    {NET_F_CTRL_GUEST_OFFLOADS, NET_F_CTRL_VQ},
	    {NET_F_MQ, NET_F_CTRL_VQ},
	};

	for (size_t i = 0; i < ARRAY_SIZE(needs); i++)
		if (f & needs[i].bit && !(f & needs[i].any))
			return 0;
	return 1;
}

/* ---- what the transport and the driver ask for ---- */

static uint16_t link_status(const struct vnet *n)
{
	return net_link(n->net) && !n->away ? VNET_LINK_UP : 0;
}

static void link_tell(struct vnet *n)
{
	store_le16(n->vd.config + CFG_STATUS, link_status(n));
	virtio_config_changed(&n->vd);
}

static void config_fill(const struct vnet *n, uint8_t *c)
{
	memset(c, 0, CFG_SIZE);
	memcpy(c + CFG_MAC, n->own_mac, NET_MAC_LEN);
	store_le16(c + CFG_STATUS, link_status(n));
	store_le16(c + CFG_PAIRS, (uint16_t)n->pairs_max);
	store_le16(c + CFG_MTU, (uint16_t)net_mtu(n->net));
}

static void vnet_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	struct vnet *n = vnet_of(vd);

	config_fill(n, vd->config);
	n->pairs = 1;
	/* Until the driver says what it wants, it gets all (5.1.6.5.1.1). */
	n->mode = (struct vnet_mode){.promisc = 1};
	memset(n->macs, 0, sizeof(n->macs));
	memset(n->table, 0, sizeof(n->table));
	memset(n->vlans, 0, sizeof(n->vlans));
	memset(n->flows, 0, sizeof(n->flows));
	n->guest_offloads = 0;
	n->tx_turn = 0;
	n->live = 0;
	timer_cancel(&n->ctrl_work);
	vnet_offloads_apply(n);
}

static void vnet_status(struct virtio_dev *vd)
{
	struct vnet *n = vnet_of(vd);

	if (n->live != virtio_ready(vd)) {
		n->live = !n->live;
		if (n->live) {
			n->guest_offloads = vd->features & NET_F_GUEST_ALL;
			vnet_offloads_apply(n);
			net_kick(n->net);
		}
	}
	if (n->outside)
		vhost_dev_status(&n->vh);
}

static void vnet_notify(struct virtio_dev *vd, unsigned q)
{
	struct vnet *n = vnet_of(vd);

	if (q == ctrl_queue(n)) {
		vnet_ctrl_run(n);
	} else if (n->outside) {
		if (q < data_queues(n))
			vhost_dev_notify(&n->vh, q);
	} else if (q & 1) {
		vq_notify_disable(&vd->vq[q]);
		net_want_send(n->net);
	} else {
		net_kick(n->net);
	}
}

static void vnet_post_load(struct virtio_dev *vd)
{
	struct vnet *n = vnet_of(vd);

	if (load_le16(vd->config + CFG_STATUS) != link_status(n))
		link_tell(n); /* the link is this host's, not that of the one that saved */
	memset(n->flows, 0, sizeof(n->flows));
	n->tx_turn = 0;
	n->live = virtio_ready(vd);
	vnet_offloads_apply(n);
	net_want_send(n->net);
	net_kick(n->net);
}

static const struct virtio_ops vnet_ops = {
    .features = vnet_features,
    .status = vnet_status,
    .notify = vnet_notify,
    .reset = vnet_reset,
    .post_load = vnet_post_load,
};

/* ---- what the back end calls, on the loop's thread ---- */

static _Bool client_receive(void *opaque, const uint8_t *frame, size_t len,
			    const struct net_offload *off)
{
	struct vnet *n = opaque;
	_Bool taken;

	lock_take(&n->vd.pci.dev.lock);
	taken = vnet_receive(n, frame, len, off);
	lock_drop(&n->vd.pci.dev.lock);
	return taken;
}

static void client_can_send(void *opaque)
{
	struct vnet *n = opaque;
	_Bool more;

	lock_take(&n->vd.pci.dev.lock);
	more = vnet_transmit(n);
	lock_drop(&n->vd.pci.dev.lock);
	if (more)
		net_want_send(n->net);
}

static void ctrl_work_due(void *opaque)
{
	struct vnet *n = opaque;

	lock_take(&n->vd.pci.dev.lock);
	vnet_ctrl_run(n);
	lock_drop(&n->vd.pci.dev.lock);
}

static void client_link_changed(void *opaque)
{
	struct vnet *n = opaque;

	lock_take(&n->vd.pci.dev.lock);
	link_tell(n);
	lock_drop(&n->vd.pci.dev.lock);
}

/* ---- a back end outside, under the device's lock ---- */

static unsigned outside_queues(const struct vhost_dev *vh)
{
	return data_queues(container_of(vh, struct vnet, vh));
}

static unsigned outside_enabled(const struct vhost_dev *vh)
{
	return 2u * container_of(vh, struct vnet, vh)->pairs;
}

static void outside_set_away(struct vhost_dev *vh, _Bool away)
{
	struct vnet *n = container_of(vh, struct vnet, vh);

	if (n->away == away)
		return;
	n->away = away;
	link_tell(n);
}

static void outside_up(struct vhost_dev *vh)
{
	outside_set_away(vh, 0);
}

static void outside_lost(struct vhost_dev *vh)
{
	outside_set_away(vh, 1);
}

static const struct vhost_dev_hooks outside_hooks = {
    .queues = outside_queues,
    .enabled = outside_enabled,
    .up = outside_up,
    .lost = outside_lost,
};

static int outside_init(struct vnet *n, const struct vnet_config *cfg, struct error *err)
{
	const struct vhost_dev_config vh = {
	    .vd = &n->vd,
	    .v = cfg->vhost,
	    .queues = 2 * cfg->pairs,
	    .clock = cfg->clock,
	    .hooks = &outside_hooks,
	};

	return vhost_dev_init(&n->vh, &vh, err);
}

static int outside_check(const struct vnet_config *cfg, struct error *err)
{
	unsigned max = vhost_rings_max(cfg->vhost);

	if (!(vhost_features(cfg->vhost) & VIRTIO_F_VERSION_1))
		return error_set(err, -EINVAL,
				 "the network card's back end does not know virtio 1");
	if (cfg->pairs > max)
		return error_set(err, -EINVAL,
				 "the network card's back end has %u queue pairs, not %u", max,
				 cfg->pairs);
	return 0;
}

/* ---- the device's class ---- */

static void vnet_free(struct device *dev)
{
	struct vnet *n = vnet_of(virtio_of(dev));

	vhost_dev_fini(&n->vh);
	if (n->net)
		net_attach(n->net, NULL);
	timer_fini(&n->ctrl_work);
	virtio_fini(&n->vd);
	free(n->merge);
	free(n);
}

static void vnet_quiesce(struct device *dev)
{
	struct vnet *n = vnet_of(virtio_of(dev));

	if (n->outside)
		vhost_dev_quiesce(&n->vh);
}

static int vnet_check(const void *shadow, struct error *err)
{
	const struct vnet *n = shadow;
	const uint8_t *flags = (const uint8_t *)&n->mode;
	const char *id = n->vd.pci.dev.id;

	for (size_t i = 0; i < sizeof(n->mode); i++)
		if (flags[i] > 1)
			return error_set(err, -EINVAL,
					 "saved state of %s: a filter's flag is neither 0 nor 1",
					 id);
	if (!n->pairs || n->pairs > n->pairs_max)
		return error_set(err, -EINVAL, "saved state of %s: %u queue pairs of %u", id,
				 n->pairs, n->pairs_max);
	if (n->macs[0] > VNET_MACS_MAX || n->macs[1] > VNET_MACS_MAX - n->macs[0])
		return error_set(err, -EINVAL, "saved state of %s: too many addresses", id);
	if (n->guest_offloads & ~(n->vd.features & NET_F_GUEST_ALL))
		return error_set(err, -EINVAL,
				 "saved state of %s: offloads that were not negotiated", id);
	if (load_le16(n->vd.config + CFG_PAIRS) != n->pairs_max ||
	    load_le16(n->vd.config + CFG_MTU) != net_mtu(n->net))
		return error_set(err, -EINVAL, "saved state of %s: its network was of another kind",
				 id);
	return virtio_check(&n->vd, err);
}

static const struct state_field vnet_fields[] = {
    VIRTIO_STATE(struct vnet, vd),
    STATE_SCALAR(1, struct vnet, pairs),
    STATE_SCALAR(2, struct vnet, mode.promisc),
    STATE_SCALAR(3, struct vnet, mode.allmulti),
    STATE_SCALAR(4, struct vnet, mode.alluni),
    STATE_SCALAR(5, struct vnet, mode.nomulti),
    STATE_SCALAR(6, struct vnet, mode.nouni),
    STATE_SCALAR(7, struct vnet, mode.nobcast),
    STATE_ARRAY(8, struct vnet, mode.all_of_table, 2),
    STATE_ARRAY(9, struct vnet, macs, 2),
    STATE_ARRAY(10, struct vnet, table, VNET_MACS_MAX *NET_MAC_LEN),
    STATE_ARRAY(11, struct vnet, vlans, 512),
    STATE_SCALAR(12, struct vnet, guest_offloads),
    STATE_END,
};
static const struct state_desc vnet_state = {
    .name = "virtio-net",
    .fields = vnet_fields,
    .size = sizeof(struct vnet),
    .check = vnet_check,
};
static const struct device_class vnet_class = {
    .name = "virtio-net",
    .reset = virtio_device_reset,
    .free = vnet_free,
    .quiesce = vnet_quiesce,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
    .state = &vnet_state,
};

int vnet_new(struct device **dev, const struct vnet_config *cfg, struct error *err)
{
	uint16_t sizes[2 * VNET_PAIRS_MAX + 1];
	char name[24];
	struct virtio_setup setup = {
	    .cls = &vnet_class,
	    .ops = &vnet_ops,
	    .id = VIRTIO_ID_NET,
	    .name = name,
	    .class_code = VNET_CLASS_CODE,
	    .queues = 2 * cfg->pairs + 1,
	    .queue_sizes = sizes,
	    .config_size = CFG_SIZE,
	};
	struct vnet *n;
	int r = cfg->vhost ? outside_check(cfg, err) : 0;

	assert(cfg->pairs && cfg->pairs <= VNET_PAIRS_MAX);
	if (r)
		return r;
	n = calloc(1, sizeof(*n));
	if (!n)
		return error_set(err, -ENOMEM, "out of memory");
	n->outside = cfg->vhost != NULL;
	n->vh.v = cfg->vhost;
	n->net = cfg->net;
	n->pairs_max = cfg->pairs;
	n->pairs = 1;
	memcpy(n->own_mac, cfg->mac, NET_MAC_LEN);
	snprintf(name, sizeof(name), "net%u", cfg->place.instance);
	for (unsigned q = 0; q < setup.queues; q++)
		sizes[q] = VNET_QUEUE_SIZE;
	setup.features = features_of(n);
	if (n->outside) {
		setup.without = VIRTIO_F_RING_RESET;
		if (!(vhost_features(cfg->vhost) & VIRTIO_F_INDIRECT_DESC))
			setup.without |= VIRTIO_F_INDIRECT_DESC;
	}
	timer_init(&n->ctrl_work, cfg->clock, ctrl_work_due, n);
	n->merge = calloc(VNET_MERGE_MAX, sizeof(*n->merge));
	r = n->merge ? virtio_init(&n->vd, &cfg->place, &setup, err)
		     : error_set(err, -ENOMEM, "out of memory");
	if (r) {
		free(n->merge);
		free(n);
		return r;
	}
	const struct net_client client = {n->outside ? NULL : client_receive,
					  n->outside ? NULL : client_can_send, client_link_changed,
					  n};
	net_attach(n->net, &client);
	if (n->outside) {
		r = outside_init(n, cfg, err);
		if (r) {
			vnet_free(&n->vd.pci.dev);
			return r;
		}
	}
	*dev = &n->vd.pci.dev;
	return 0;
}
