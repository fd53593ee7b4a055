/* net_impl.h: the network card's own struct, shared by its files. */
#ifndef DEV_VIRTIO_NET_IMPL_H
#define DEV_VIRTIO_NET_IMPL_H

#include "dev/virtio/net.h"
#include "dev/virtio/vhost_dev.h"

/* Feature bits (VIRTIO12 5.1.3). */
#define NET_F_CSUM		  BIT64(0)
#define NET_F_GUEST_CSUM	  BIT64(1)
#define NET_F_CTRL_GUEST_OFFLOADS BIT64(2)
#define NET_F_MTU		  BIT64(3)
#define NET_F_MAC		  BIT64(5)
#define NET_F_GUEST_TSO4	  BIT64(7)
#define NET_F_GUEST_TSO6	  BIT64(8)
#define NET_F_GUEST_ECN		  BIT64(9)
#define NET_F_HOST_TSO4		  BIT64(11)
#define NET_F_HOST_TSO6		  BIT64(12)
#define NET_F_HOST_ECN		  BIT64(13)
#define NET_F_MRG_RXBUF		  BIT64(15)
#define NET_F_STATUS		  BIT64(16)
#define NET_F_CTRL_VQ		  BIT64(17)
#define NET_F_CTRL_RX		  BIT64(18)
#define NET_F_CTRL_VLAN		  BIT64(19)
#define NET_F_CTRL_RX_EXTRA	  BIT64(20)
#define NET_F_MQ		  BIT64(22)
#define NET_F_CTRL_MAC_ADDR	  BIT64(23)
#define NET_F_GUEST_ALL		  (NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN)

/* Configuration space (5.1.4). */
enum {
	CFG_MAC = 0,
	CFG_STATUS = 6, /* bit 0: the link is up */
	CFG_PAIRS = 8,
	CFG_MTU = 10,
	CFG_SIZE = 12,
};

#define VNET_HDR_LEN   12 /* struct virtio_net_hdr with num_buffers (5.1.6) */
#define VNET_MACS_MAX  64 /* in the filter, unicast and multicast together */
#define VNET_MERGE_MAX 64 /* buffers that one frame may be spread over */
#define VNET_FLOWS     128

/* What of the traffic a driver wants (5.1.6.5.1, 5.1.6.5.2); 0 or 1 each. */
struct vnet_mode {
	uint8_t promisc, allmulti, alluni, nomulti, nouni, nobcast;
	uint8_t all_of_table[2]; /* unicast, multicast: too many to list, so all are taken */
};

struct vnet {
	struct virtio_dev vd;
	struct net *net;
	unsigned pairs_max;
	uint8_t own_mac[NET_MAC_LEN]; /* after a reset */

	/* saved */
	uint16_t pairs; /* in use */
	struct vnet_mode mode;
	uint16_t macs[2]; /* unicast ones, then multicast ones, in `table` */
	uint8_t table[VNET_MACS_MAX * NET_MAC_LEN];
	uint8_t vlans[4096 / 8];
	uint64_t guest_offloads; /* of NET_F_GUEST_ALL */

	_Bool live;		   /* the driver is ready, and its features were acted on */
	unsigned tx_turn;	   /* the pair whose frames are looked at first */
	uint8_t flows[VNET_FLOWS]; /* the pair that a flow was last sent on */
	struct vq_chain *merge;	   /* VNET_MERGE_MAX of them */
	struct timer ctrl_work;	   /* commands beyond those of a turn */

	_Bool outside; /* frames are moved by vh's back end; the control queue stays here */
	_Bool away;    /* which has gone */
	struct vhost_dev vh;
};

static inline struct vnet *vnet_of(struct virtio_dev *vd)
{
	return container_of(vd, struct vnet, vd);
}
static inline unsigned rx_queue(unsigned pair)
{
	return 2 * pair;
}
static inline unsigned tx_queue(unsigned pair)
{
	return 2 * pair + 1;
}
/* 5.1.2: behind the pairs that the driver knows of. */
static inline unsigned ctrl_queue(const struct vnet *n)
{
	return virtio_has(&n->vd, NET_F_MQ) ? 2 * n->pairs_max : 2;
}

/* How many queues carry frames. */
static inline unsigned data_queues(const struct vnet *n)
{
	return virtio_has(&n->vd, NET_F_MQ) ? 2 * n->pairs_max : 2;
}

/* net_data.c, under the device's lock. */
_Bool vnet_receive(struct vnet *n, const uint8_t *frame, size_t len, const struct net_offload *off);
/* Sends what the driver has made available. True: there may be more. */
_Bool vnet_transmit(struct vnet *n);

/* net_ctrl.c, under the device's lock. Runs a turn's worth of commands, and sees to the rest. */
void vnet_ctrl_run(struct vnet *n);
_Bool vnet_wants(const struct vnet *n, const uint8_t *frame, size_t len);
/* Tells the back end what may be left open on frames for the guest. */
void vnet_offloads_apply(struct vnet *n);

#endif
