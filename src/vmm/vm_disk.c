/* vm_disk.c: the disk images of a VM. */
#include "backend/disk.h"
#include "vmm/vm_impl.h"

int vm_disks_open(struct vm *vm, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; !r && i < vm->spec.disk_count; i++) {
		const struct spec_disk *spec = &vm->spec.disk[i];
		const struct disk_raw_config cfg = {
		    .path = spec->path,
		    .read_only = spec->read_only,
		    .discard = !spec->no_discard,
		    .direct = spec->direct,
		};

		r = disk_raw_open(&vm->disk[i], &cfg, err);
	}
	return r;
}

void vm_disks_close(struct vm *vm)
{
	for (unsigned i = 0; i < vm->spec.disk_count; i++)
		disk_free(vm->disk[i]);
}
