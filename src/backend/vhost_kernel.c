/* vhost_kernel.c: the host's kernel moves a tap interface's frames (/dev/vhost-net,
 * <linux/vhost.h>). */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backend/vhost_impl.h"
#include "base/util.h"

/* Receive and transmit. A frame's header is the tap's (TUNSETVNETHDRSZ), so
 * VHOST_NET_F_VIRTIO_NET_HDR stays off. */
#define RINGS 2

struct vhost_kernel {
	struct vhost v;
	struct vhost_kernel_sys sys;
	int fd, tap; /* fd -1: not open */
};

static struct vhost_kernel *kernel_of(const struct vhost *v)
{
	return container_of(v, struct vhost_kernel, v);
}

static int real_open(void *opaque)
{
	int fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int real_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

static int call(struct vhost_kernel *k, unsigned long request, void *arg)
{
	return k->sys.ioctl(k->sys.opaque, k->fd, request, arg);
}

static int kernel_connect(struct vhost *v, struct error *err)
{
	struct vhost_kernel *k = kernel_of(v);
	uint64_t features = 0;
	int r = k->sys.open(k->sys.opaque);

	if (r == -ENOENT || r == -ENODEV || r == -ENXIO)
		return error_set(err, r,
				 "this host has no /dev/vhost-net (load the module vhost_net, or "
				 "leave out vhost)");
	if (r < 0)
		return error_set(err, r, "cannot open /dev/vhost-net: %s", strerror(-r));
	k->fd = r;
	r = call(k, VHOST_SET_OWNER, NULL);
	if (!r)
		r = call(k, VHOST_GET_FEATURES, &features);
	v->features = features & ~BIT64(VHOST_NET_F_VIRTIO_NET_HDR);
	v->rings_max = 1;
	return r ? error_set(err, r, "/dev/vhost-net does not work: %s", strerror(-r)) : 0;
}

static void kernel_disconnect(struct vhost *v)
{
	struct vhost_kernel *k = kernel_of(v);

	if (k->fd >= 0)
		close(k->fd);
	k->fd = -1;
}

static int set_memory(struct vhost_kernel *k, const struct vhost_plan *plan)
{
	_Alignas(struct vhost_memory)
	    uint8_t room[sizeof(struct vhost_memory) +
			 VHOST_REGIONS_MAX * sizeof(struct vhost_memory_region)];
	struct vhost_memory *table = (struct vhost_memory *)room;

	memset(room, 0, sizeof(room));
	table->nregions = plan->regions;
	for (unsigned i = 0; i < plan->regions; i++)
		table->regions[i] = (struct vhost_memory_region){
		    .guest_phys_addr = plan->region[i].guest,
		    .memory_size = plan->region[i].size,
		    .userspace_addr = plan->region[i].user,
		};
	return call(k, VHOST_SET_MEM_TABLE, table);
}

static int set_ring(struct vhost_kernel *k, unsigned i, const struct vhost_ring *ring)
{
	struct vhost_vring_state num = {i, ring->size}, base = {i, 0};
	struct vhost_vring_addr addr = {.index = i,
					.desc_user_addr = ring->desc,
					.used_user_addr = ring->used,
					.avail_user_addr = ring->avail};
	struct vhost_vring_file kick = {i, ring->kick}, ready = {i, ring->call};
	int r = call(k, VHOST_SET_VRING_NUM, &num);

	if (!r)
		r = call(k, VHOST_SET_VRING_BASE, &base);
	if (!r)
		r = call(k, VHOST_SET_VRING_ADDR, &addr);
	if (!r)
		r = call(k, VHOST_SET_VRING_KICK, &kick);
	return r ? r : call(k, VHOST_SET_VRING_CALL, &ready);
}

static int set_backend(struct vhost_kernel *k, unsigned ring, int fd)
{
	struct vhost_vring_file file = {ring, fd};

	return call(k, VHOST_NET_SET_BACKEND, &file);
}

static int kernel_start(struct vhost *v, const struct vhost_plan *plan, struct error *err)
{
	struct vhost_kernel *k = kernel_of(v);
	uint64_t features = plan->features;
	int r = plan->rings == RINGS ? 0 : -EINVAL;

	if (!r)
		r = call(k, VHOST_SET_FEATURES, &features);
	if (!r)
		r = set_memory(k, plan);
	for (unsigned i = 0; !r && i < RINGS; i++)
		r = set_ring(k, i, &plan->ring[i]);
	for (unsigned i = 0; !r && i < RINGS; i++)
		r = set_backend(k, i, k->tap);
	return r ? error_set(err, r, "/dev/vhost-net cannot serve the guest's queues: %s",
			     strerror(-r))
		 : 0;
}

/* A ring without a back end is at rest when the call returns. */
static int kernel_stop(struct vhost *v, unsigned rings, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; !r && i < RINGS; i++)
		r = set_backend(kernel_of(v), i, -1);
	return r ? error_set(err, r, "/dev/vhost-net does not let go of the guest's queues: %s",
			     strerror(-r))
		 : 0;
}

static void kernel_free(struct vhost *v)
{
	free(kernel_of(v));
}

static const struct vhost_ops kernel_ops = {
    .connect = kernel_connect,
    .disconnect = kernel_disconnect,
    .start = kernel_start,
    .stop = kernel_stop,
    .free = kernel_free,
};

int vhost_kernel_new(struct vhost **out, int tap, const struct vhost_kernel_sys *sys,
		     struct error *err)
{
	struct vhost_kernel *k = calloc(1, sizeof(*k));

	if (!k)
		return error_set(err, -ENOMEM, "out of memory");
	k->v.ops = &kernel_ops;
	k->sys = sys ? *sys : (struct vhost_kernel_sys){real_open, real_ioctl, NULL};
	k->fd = -1;
	k->tap = tap;
	*out = &k->v;
	return 0;
}
