/* vm_vhost.c: connections with the processes that serve a VM's devices. */
#include "backend/vhost.h"
#include "vmm/vm_impl.h"

static int open_one(struct vhost **v, const char *path, _Bool config, struct error *err)
{
	const struct vhost_user_config cfg = {.path = path, .wants_config = config};
	int r = vhost_user_new(v, &cfg, err);

	return r ? r : vhost_connect(*v, err);
}

int vm_vhosts_open(struct vm *vm, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; !r && i < vm->spec.disk_count; i++)
		if (vm->spec.disk[i].vhost_user)
			r = open_one(&vm->vhost_disk[i], vm->spec.disk[i].path, 1, err);
	for (unsigned i = 0; !r && i < vm->spec.fs_count; i++)
		r = open_one(&vm->vhost_fs[i], vm->spec.fs[i].path, 0, err);
	return r;
}

void vm_vhosts_close(struct vm *vm)
{
	for (unsigned i = 0; i < vm->spec.disk_count; i++)
		vhost_free(vm->vhost_disk[i]);
	for (unsigned i = 0; i < vm->spec.fs_count; i++)
		vhost_free(vm->vhost_fs[i]);
}
