/* vm_disk.c: the disk images of a VM, and its seed volume. */
#include <stdio.h>
#include <unistd.h>

#include "backend/disk.h"
#include "backend/seed.h"
#include "vmm/vm_impl.h"

/* The seed volume becomes the last disk. */
static int add_seed(struct vm *vm, int *fd, struct error *err)
{
	const struct seed_config cfg = {
	    .user_data = vm->spec.user_data,
	    .meta_data = vm->spec.meta_data,
	    .ssh_key = vm->spec.ssh_key,
	    .hostname = vm->spec.hostname,
	};
	int r;

	if (!seed_wanted(&cfg))
		return 0;
	r = seed_make(&cfg, fd, err);
	if (r)
		return r;
	snprintf(vm->seed_path, sizeof(vm->seed_path), "/proc/self/fd/%d", *fd);
	vm->spec.disk[vm->spec.disk_count++] = (struct spec_disk){
	    .path = vm->seed_path, .serial = "seed", .queues = 1, .read_only = 1};
	return 0;
}

int vm_disks_open(struct vm *vm, struct error *err)
{
	int seed = -1, r = add_seed(vm, &seed, err);

	for (unsigned i = 0; !r && i < vm->spec.disk_count; i++) {
		const struct spec_disk *spec = &vm->spec.disk[i];
		const struct disk_raw_config cfg = {
		    .path = spec->path,
		    .read_only = spec->read_only,
		    .discard = !spec->no_discard,
		    .direct = spec->direct,
		};

		r = spec->vhost_user || !spec->path ? 0 : disk_raw_open(&vm->disk[i], &cfg, err);
		if (!r && vm->disk[i])
			vm_disk_watch_start(vm, i);
	}
	if (seed >= 0)
		close(seed);
	return r;
}

void vm_disks_close(struct vm *vm)
{
	for (unsigned i = 0; i < vm->spec.disk_count; i++) {
		disk_free(vm->disk[i]);
		vm_disk_watch_stop(vm, i);
	}
}
