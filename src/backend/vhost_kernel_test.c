/* vhost_kernel_test.c: what /dev/vhost-net is told, by a kernel that only takes notes. */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "backend/vhost.h"
#include "base/util.h"

struct note {
	unsigned long request;
	union {
		uint64_t number;
		struct vhost_vring_state state;
		struct vhost_vring_file file;
		struct vhost_vring_addr addr;
		uint8_t memory[sizeof(struct vhost_memory) +
			       VHOST_REGIONS_MAX * sizeof(struct vhost_memory_region)];
	} arg;
};

struct kernel {
	int open; /* -errno of the next open */
	unsigned long fail;
	struct note note[64];
	unsigned notes;
};

static int notes_open(void *opaque)
{
	struct kernel *k = opaque;

	return k->open ? k->open : open("/dev/null", O_RDWR | O_CLOEXEC);
}

static int notes_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct kernel *k = opaque;
	struct note *n = &k->note[k->notes++];
	size_t size = _IOC_SIZE(request);

	if (request == k->fail)
		return -EINVAL;
	if (request == VHOST_GET_FEATURES)
		*(uint64_t *)arg = BIT64(32) | BIT64(28) | BIT64(27) | BIT64(15);
	n->request = request;
	if (request == VHOST_SET_MEM_TABLE) /* what follows has a length of its own */
		size += ((struct vhost_memory *)arg)->nregions * sizeof(struct vhost_memory_region);
	if (arg)
		memcpy(&n->arg, arg, MIN(size, sizeof(n->arg)));
	return 0;
}

static const struct note *find(const struct kernel *k, unsigned long request, unsigned nth)
{
	for (unsigned i = 0; i < k->notes; i++)
		if (k->note[i].request == request && !nth--)
			return &k->note[i];
	fail();
	return NULL;
}

static int start(struct vhost *v, unsigned rings)
{
	const struct vhost_region region[] = {{0, 0x1000, 0x7000000, 0, 5},
					      {0x100000, 0x2000, 0x7100000, 0x1000, 5}};
	const struct vhost_ring ring[] = {{256, 0x7100000, 0x7101000, 0x7102000, 8, 9, 1},
					  {256, 0x7110000, 0x7111000, 0x7112000, 10, 11, 1}};
	const struct vhost_plan plan = {BIT64(32) | BIT64(15), region, 2, ring, rings};

	return vhost_start(v, &plan, NULL);
}

static void the_kernel_is_told_all_that_it_needs(void **state)
{
	struct kernel k = {0};
	const struct vhost_kernel_sys sys = {notes_open, notes_ioctl, &k};
	const struct vhost_memory *memory;
	struct vhost *v;

	assert_int_equal(vhost_kernel_new(&v, 42, &sys, NULL), 0);
	assert_int_equal(vhost_connect(v, NULL), 0);
	/* The header is the tap's. */
	assert_int_equal(vhost_features(v), BIT64(32) | BIT64(28) | BIT64(15));
	assert_int_equal(k.note[0].request, VHOST_SET_OWNER);
	assert_int_equal(start(v, 2), 0);
	assert_int_equal(find(&k, VHOST_SET_FEATURES, 0)->arg.number, BIT64(32) | BIT64(15));
	memory = (const struct vhost_memory *)find(&k, VHOST_SET_MEM_TABLE, 0)->arg.memory;
	assert_int_equal(memory->nregions, 2);
	assert_int_equal(memory->regions[1].guest_phys_addr, 0x100000);
	assert_int_equal(memory->regions[1].userspace_addr, 0x7100000);
	assert_int_equal(find(&k, VHOST_SET_VRING_NUM, 1)->arg.state.num, 256);
	assert_int_equal(find(&k, VHOST_SET_VRING_BASE, 1)->arg.state.num, 0);
	assert_int_equal(find(&k, VHOST_SET_VRING_ADDR, 1)->arg.addr.index, 1);
	assert_int_equal(find(&k, VHOST_SET_VRING_ADDR, 1)->arg.addr.desc_user_addr, 0x7110000);
	assert_int_equal(find(&k, VHOST_SET_VRING_ADDR, 1)->arg.addr.avail_user_addr, 0x7111000);
	assert_int_equal(find(&k, VHOST_SET_VRING_ADDR, 1)->arg.addr.used_user_addr, 0x7112000);
	assert_int_equal(find(&k, VHOST_SET_VRING_KICK, 1)->arg.file.fd, 10);
	assert_int_equal(find(&k, VHOST_SET_VRING_CALL, 1)->arg.file.fd, 11);
	assert_int_equal(find(&k, VHOST_NET_SET_BACKEND, 1)->arg.file.index, 1);
	assert_int_equal(find(&k, VHOST_NET_SET_BACKEND, 1)->arg.file.fd, 42);
	assert_int_equal(vhost_stop(v, 2, NULL), 0);
	assert_int_equal(find(&k, VHOST_NET_SET_BACKEND, 3)->arg.file.fd, -1);
	vhost_free(v);
}

static void whatever_the_kernel_refuses_is_an_error(void **state)
{
	static const unsigned long requests[] = {
	    VHOST_SET_OWNER,	  VHOST_GET_FEATURES,	VHOST_SET_FEATURES,   VHOST_SET_MEM_TABLE,
	    VHOST_SET_VRING_NUM,  VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_KICK,
	    VHOST_SET_VRING_CALL, VHOST_NET_SET_BACKEND};

	for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
		struct kernel k = {.fail = requests[i]};
		const struct vhost_kernel_sys sys = {notes_open, notes_ioctl, &k};
		struct vhost *v;
		struct error err;
		int r;

		assert_int_equal(vhost_kernel_new(&v, 42, &sys, NULL), 0);
		r = vhost_connect(v, &err);
		assert_int_equal(r, i < 2 ? -EINVAL : 0);
		if (!r)
			assert_int_equal(start(v, 2), -EINVAL);
		vhost_free(v);
	}
}

static void a_host_without_it_gets_a_sentence(void **state)
{
	struct kernel k = {.open = -ENOENT};
	const struct vhost_kernel_sys sys = {notes_open, notes_ioctl, &k};
	struct vhost *v;
	struct error err;

	assert_int_equal(vhost_kernel_new(&v, 42, &sys, NULL), 0);
	assert_int_equal(vhost_connect(v, &err), -ENOENT);
	assert_non_null(strstr(err.text, "no /dev/vhost-net"));
	k.open = -EACCES;
	assert_int_equal(vhost_connect(v, &err), -EACCES);
	assert_int_equal(k.notes, 0);
	vhost_free(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_kernel_is_told_all_that_it_needs),
	    cmocka_unit_test(whatever_the_kernel_refuses_is_an_error),
	    cmocka_unit_test(a_host_without_it_gets_a_sentence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
