/* net_ctrl.c: the network card's control queue, and the filters that it sets. */
#include "dev/virtio/net_impl.h"

#include <string.h>

#include "base/le.h"

/* Commands (VIRTIO12 5.1.6.5). */
enum {
	CTRL_OK = 0,
	CTRL_ERR = 1,
	CTRL_RX = 0, /* 0 promisc, 1 allmulti, 2 alluni, 3 nomulti, 4 nouni, 5 nobcast */
	CTRL_MAC = 1,
	CTRL_MAC_TABLE_SET = 0,
	CTRL_MAC_ADDR_SET = 1,
	CTRL_VLAN = 2,
	CTRL_VLAN_ADD = 0,
	CTRL_VLAN_DEL = 1,
	CTRL_MQ = 4,
	CTRL_MQ_PAIRS_SET = 0,
	CTRL_OFFLOADS = 5,
	CTRL_OFFLOADS_SET = 0,
};
#define CTRL_BURST 64 /* commands in a turn */

/* ---- filters ---- */

static _Bool is_broadcast(const uint8_t *mac)
{
	static const uint8_t all[NET_MAC_LEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	return !memcmp(mac, all, NET_MAC_LEN);
}

static _Bool in_table(const struct vnet *n, const uint8_t *mac, _Bool multicast)
{
	unsigned first = multicast ? n->macs[0] : 0;

	for (unsigned i = first; i < first + n->macs[multicast]; i++)
		if (!memcmp(n->table + (size_t)i * NET_MAC_LEN, mac, NET_MAC_LEN))
			return 1;
	return 0;
}

_Bool vnet_wants(const struct vnet *n, const uint8_t *frame, size_t len)
{
	const struct vnet_mode *m = &n->mode;

	if (m->promisc) /* of all networks, whatever their tags */
		return 1;
	if (virtio_has(&n->vd, NET_F_CTRL_VLAN) && len >= 16 && frame[12] == 0x81 && !frame[13]) {
		unsigned vid = (frame[14] << 8 | frame[15]) & 0xfff;

		if (!(n->vlans[vid / 8] & 1 << vid % 8))
			return 0;
	}
	if (is_broadcast(frame))
		return !m->nobcast;
	if (frame[0] & 1) {
		if (m->nomulti)
			return 0;
		return m->allmulti || m->all_of_table[1] || in_table(n, frame, 1);
	}
	if (m->nouni)
		return 0;
	return m->alluni || m->all_of_table[0] || in_table(n, frame, 0) ||
	       !memcmp(frame, n->vd.config + CFG_MAC, NET_MAC_LEN);
}

/* ---- commands; each reads its own data behind class and command ---- */

static uint8_t rx_mode(struct vnet *n, unsigned cmd, const struct vq_chain *c)
{
	uint8_t *const flags[] = {&n->mode.promisc, &n->mode.allmulti, &n->mode.alluni,
				  &n->mode.nomulti, &n->mode.nouni,    &n->mode.nobcast};
	uint64_t need = cmd < 2 ? NET_F_CTRL_RX : NET_F_CTRL_RX_EXTRA;
	uint8_t on;

	if (cmd >= ARRAY_SIZE(flags) || !virtio_has(&n->vd, need) ||
	    chain_read(c, 2, &on, 1) != 1 || on > 1)
		return CTRL_ERR;
	*flags[cmd] = on;
	return CTRL_OK;
}

/* One of the two tables at `offset`; moves it on. Addresses beyond what is kept mean: take all. */
static _Bool table_read(const struct vq_chain *c, size_t *offset, uint8_t *to, unsigned room,
			uint16_t *count, uint8_t *all)
{
	uint8_t le[4];
	uint32_t entries;
	size_t bytes;

	if (chain_read(c, *offset, le, 4) != 4)
		return 0;
	entries = load_le32(le);
	*offset += 4;
	if (entries > c->out_bytes / NET_MAC_LEN)
		return 0;
	bytes = (size_t)entries * NET_MAC_LEN;
	if (bytes > c->out_bytes - *offset)
		return 0;
	*all = entries > room;
	*count = *all ? 0 : (uint16_t)entries;
	if (!*all && chain_read(c, *offset, to, bytes) != bytes)
		return 0;
	*offset += bytes;
	return 1;
}

static uint8_t mac_table_set(struct vnet *n, const struct vq_chain *c)
{
	uint8_t table[VNET_MACS_MAX * NET_MAC_LEN] = {0}, all[2];
	uint16_t macs[2];
	size_t at = 2;

	if (!table_read(c, &at, table, VNET_MACS_MAX, &macs[0], &all[0]) ||
	    !table_read(c, &at, table + (size_t)macs[0] * NET_MAC_LEN, VNET_MACS_MAX - macs[0],
			&macs[1], &all[1]))
		return CTRL_ERR;
	memcpy(n->table, table, sizeof(table));
	memcpy(n->macs, macs, sizeof(macs));
	memcpy(n->mode.all_of_table, all, sizeof(all));
	return CTRL_OK;
}

static uint8_t mac_command(struct vnet *n, unsigned cmd, const struct vq_chain *c)
{
	uint8_t mac[NET_MAC_LEN];

	if (cmd == CTRL_MAC_TABLE_SET && virtio_has(&n->vd, NET_F_CTRL_RX))
		return mac_table_set(n, c);
	if (cmd != CTRL_MAC_ADDR_SET || !virtio_has(&n->vd, NET_F_CTRL_MAC_ADDR) ||
	    chain_read(c, 2, mac, sizeof(mac)) != sizeof(mac))
		return CTRL_ERR;
	memcpy(n->vd.config + CFG_MAC, mac, sizeof(mac));
	return CTRL_OK;
}

static uint8_t vlan_command(struct vnet *n, unsigned cmd, const struct vq_chain *c)
{
	uint8_t le[2];
	unsigned vid;

	if (cmd > CTRL_VLAN_DEL || !virtio_has(&n->vd, NET_F_CTRL_VLAN) ||
	    chain_read(c, 2, le, 2) != 2)
		return CTRL_ERR;
	vid = load_le16(le);
	if (vid >= 4096)
		return CTRL_ERR;
	if (cmd == CTRL_VLAN_ADD)
		n->vlans[vid / 8] |= (uint8_t)(1 << vid % 8);
	else
		n->vlans[vid / 8] &= (uint8_t) ~(1 << vid % 8);
	return CTRL_OK;
}

static uint8_t pairs_command(struct vnet *n, unsigned cmd, const struct vq_chain *c)
{
	uint8_t le[2];
	unsigned pairs;

	if (cmd != CTRL_MQ_PAIRS_SET || !virtio_has(&n->vd, NET_F_MQ) ||
	    chain_read(c, 2, le, 2) != 2)
		return CTRL_ERR;
	pairs = load_le16(le);
	if (!pairs || pairs > n->pairs_max)
		return CTRL_ERR;
	n->pairs = (uint16_t)pairs;
	memset(n->flows, 0, sizeof(n->flows));
	if (n->outside)
		vhost_dev_enabled(&n->vh);
	net_want_send(n->net); /* of queues that come back into use */
	net_kick(n->net);
	return CTRL_OK;
}

static uint8_t offloads_command(struct vnet *n, unsigned cmd, const struct vq_chain *c)
{
	uint8_t le[8];
	uint64_t want;

	if (cmd != CTRL_OFFLOADS_SET || !virtio_has(&n->vd, NET_F_CTRL_GUEST_OFFLOADS) ||
	    chain_read(c, 2, le, 8) != 8)
		return CTRL_ERR;
	want = load_le64(le);
	/* 5.1.6.5.6.1: only what was negotiated; and nothing without checksums. */
	if (want & ~(n->vd.features & NET_F_GUEST_ALL) || (want && !(want & NET_F_GUEST_CSUM)))
		return CTRL_ERR;
	n->guest_offloads = want;
	vnet_offloads_apply(n);
	return CTRL_OK;
}

static uint8_t command_run(struct vnet *n, const struct vq_chain *c)
{
	uint8_t head[2];

	if (chain_read(c, 0, head, 2) != 2)
		return CTRL_ERR;
	switch (head[0]) {
	case CTRL_RX: return rx_mode(n, head[1], c);
	case CTRL_MAC: return mac_command(n, head[1], c);
	case CTRL_VLAN: return vlan_command(n, head[1], c);
	case CTRL_MQ: return pairs_command(n, head[1], c);
	case CTRL_OFFLOADS: return offloads_command(n, head[1], c);
	default: return CTRL_ERR;
	}
}

void vnet_ctrl_run(struct vnet *n)
{
	unsigned q = ctrl_queue(n), done = 0;
	struct vq_chain c;

	if (!virtio_has(&n->vd, NET_F_CTRL_VQ))
		return;
	while (virtio_pop(&n->vd, q, &c)) {
		uint8_t ack;

		if (done++ == CTRL_BURST) {
			/* The driver was not asked to notify: the rest comes by itself. */
			vq_unpop(&n->vd.vq[q], &c);
			timer_arm(&n->ctrl_work, clock_now_ns(n->ctrl_work.clock));
			break;
		}
		if (!c.in_bytes || c.out_bytes < 2) {
			virtio_broken(&n->vd, "a command without room for its status");
			virtio_drop(&n->vd, q, &c);
			return;
		}
		ack = command_run(n, &c);
		virtio_push(&n->vd, q, &c, (uint32_t)chain_write(n->vd.mem, &c, 0, &ack, 1));
	}
	virtio_interrupt(&n->vd, q);
}

void vnet_offloads_apply(struct vnet *n)
{
	static const struct {
		uint64_t feature;
		unsigned can;
	} map[] = {{NET_F_GUEST_CSUM, NET_CAN_CSUM},
		   {NET_F_GUEST_TSO4, NET_CAN_TSO4},
		   {NET_F_GUEST_TSO6, NET_CAN_TSO6},
		   {NET_F_GUEST_ECN, NET_CAN_ECN}};
	unsigned can = 0;

	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		can |= n->guest_offloads & map[i].feature ? map[i].can : 0;
	net_set_offloads(n->net, can);
}
