/* net.h: the host's side of a network card: Ethernet frames both ways, with checksum and
 * segmentation left open where both ends can do it. */
#ifndef BACKEND_NET_H
#define BACKEND_NET_H

#include <sys/uio.h>
#include "base/loop.h"

#define NET_MAC_LEN   6
#define NET_FRAME_MIN 14
/* An IP packet of 64 KiB behind an Ethernet header with a VLAN tag. */
#define NET_FRAME_MAX (65535 + 18)
#define NET_IOV_MAX   258

/*
 * What is left to do on a frame, in the sense of VIRTIO12 5.1.6.2 (host byte order). The device
 * has checked it against the frame's length before net_send; a back end does before `receive`.
 */
enum net_offload_flags {
	NET_NEEDS_CSUM = 1, /* the sum from csum_start to the end is to be put at + csum_offset */
	NET_DATA_VALID = 2, /* checksums were verified */
};
enum net_gso {
	NET_GSO_NONE = 0,
	NET_GSO_TCP4 = 1,
	NET_GSO_UDP = 3,
	NET_GSO_TCP6 = 4,
	NET_GSO_ECN = 0x80, /* or-ed in: the segment has CWR set */
};
struct net_offload {
	uint8_t flags;
	uint8_t gso;
	uint16_t hdr_len;  /* a hint */
	uint16_t gso_size; /* payload bytes of a segment */
	uint16_t csum_start, csum_offset;
};

/* Kinds of open work that a receiver takes; for both directions. */
enum net_can {
	NET_CAN_CSUM = 1 << 0, /* needs to be there for all others */
	NET_CAN_TSO4 = 1 << 1,
	NET_CAN_TSO6 = 1 << 2,
	NET_CAN_ECN = 1 << 3,
};

/*
 * The device's side. All callbacks run on the event loop's thread with no lock held; each takes its
 * device's lock.
 * receive: a frame for the guest. False: there is no room now; the back end keeps the frame, and
 *   offers it again after net_kick. A device that drops the frame says true. The bytes are valid
 *   during the call only.
 * can_send: after net_want_send, and when a net_send that had no room may be repeated.
 * link_changed: net_link says how it is now.
 */
struct net_client {
	_Bool (*receive)(void *opaque, const uint8_t *frame, size_t len,
			 const struct net_offload *off);
	void (*can_send)(void *opaque);
	void (*link_changed)(void *opaque);
	void *opaque;
};

struct net;

/* Set-up, or on the loop's thread; NULL detaches: frames vanish. */
void net_attach(struct net *net, const struct net_client *client);

/*
 * On the loop's thread, also under the device's lock. Sends a frame, or drops it as networks do:
 * true. False: no room; can_send will be called. Of `off`, only what net_caps has may be open.
 * Receive is never called from inside.
 */
NODISCARD _Bool net_send(struct net *net, const struct iovec *iov, unsigned count,
			 const struct net_offload *off);
/* Asks for can_send on the loop's thread. Any thread, any lock below RANK_LOOP. */
void net_want_send(struct net *net);
/* The device has room again. Any thread, any lock below RANK_LOOP. */
void net_kick(struct net *net);

/* What open work net_send takes (enum net_can), and what `receive` may bring if the device wants
 * it. */
unsigned net_caps(const struct net *net);
unsigned net_gives(const struct net *net);
/* What open work `receive` takes from now on; nothing at first. Under the device's lock or none. */
void net_set_offloads(struct net *net, unsigned can);
_Bool net_link(const struct net *net);
/* Largest IP packet to tell the guest about, or 0: nothing to tell. */
unsigned net_mtu(const struct net *net);

struct net_counts {
	uint64_t sent, sent_bytes, received, received_bytes;
	uint64_t dropped; /* for want of room, both ways */
};
void net_counts(const struct net *net, struct net_counts *counts);
/* NULL is fine. The loop is not running, or this is its thread. */
void net_free(struct net *net);

/* ---- checksums, for back ends ---- */

/* Writes the checksum that `off` leaves open into a frame that lies in one piece; then it is
 * closed. False when it points outside the frame. */
NODISCARD _Bool net_csum_finish(uint8_t *frame, size_t len, struct net_offload *off);

/* ---- user mode: a private network behind this process, for which no right is needed ---- */

struct net_publish {
	_Bool udp;
	uint32_t addr; /* host byte order; where the host listens */
	uint16_t host_port, guest_port;
};

#define NET_USER_MTU_MIN     576
#define NET_USER_MTU_MAX     65520
#define NET_USER_MTU_DEFAULT 1500

/*
 * 10.0.2.0/24: the host is 10.0.2.2, DNS 10.0.2.3, the guest 10.0.2.15 by DHCP; fec0::/64 beside
 * it. `restricted`: the guest reaches nothing but what was published to it. `now_ns` is the time
 * that the guest sees (standing still while the VM does); NULL: the host's.
 */
struct net_user_config {
	_Bool restricted;
	unsigned mtu; /* 0: NET_USER_MTU_DEFAULT */
	const char *hostname;
	uint64_t (*now_ns)(void *opaque);
	void *opaque;
};
NODISCARD int net_user_new(struct net **net, struct loop *loop, const struct net_user_config *cfg,
			   struct error *err);
/* Connections to the host's port go to the guest's. -EADDRINUSE, -EACCES, ... with a sentence. */
NODISCARD int net_user_publish(struct net *net, const struct net_publish *publish,
			       struct error *err);

/* ---- a tap interface that exists and that this user may open ---- */
NODISCARD int net_tap_new(struct net **net, struct loop *loop, const char *name, struct error *err);
/* Somebody else (the host's kernel) moves the frames, by way of the descriptor: nothing is read or
 * sent here any more, only offloads are still set. */
void net_tap_hand_over(struct net *net);
int net_tap_fd(const struct net *net);

/* ---- frames that another process moves (vhost-user): only what it can do is known here ---- */
struct vhost;
NODISCARD int net_vhost_new(struct net **net, const struct vhost *vhost, struct error *err);

/* ---- a switch between VMs of one user: every port knows every other ---- */

/* `dir` is the directory of that switch, made when missing, for this user alone; NULL: the place
 * for `name` under the user's run-time directory. */
NODISCARD int net_switch_new(struct net **net, struct loop *loop, const char *name, const char *dir,
			     struct error *err);

/* For tests: for how long its ports may keep it waiting (net_switch.c). On the loop's thread. */
void net_switch_set_patience(struct net *net, uint64_t ns);

/* ---- for tests: frames that the device sent are kept; frames are offered by hand ---- */
struct net_mem;
NODISCARD int net_mem_new(struct net **net, unsigned caps);
/* As the loop would: runs can_send if it was asked for, offers what was fed. */
void net_mem_run(struct net *net);
/* Takes the oldest frame that was sent: its length, or 0. */
size_t net_mem_take(struct net *net, uint8_t *frame, size_t size, struct net_offload *off);
void net_mem_feed(struct net *net, const uint8_t *frame, size_t len, const struct net_offload *off);
/* How many frames net_send takes from now on before it says that there is no room. */
void net_mem_set_room(struct net *net, unsigned frames);
void net_mem_set_link(struct net *net, _Bool up);
unsigned net_mem_offloads(const struct net *net);

#endif
