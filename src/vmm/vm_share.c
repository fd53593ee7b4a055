/* vm_share.c: opens the directories that a VM shares. */
#include "vmm/vm_impl.h"

int vm_shares_open(struct vm *vm, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; !r && i < vm->spec.share_count; i++) {
		const struct p9_config cfg = {.path = vm->spec.share[i].path,
					      .read_only = vm->spec.share[i].read_only};

		r = p9_open(&vm->share[i], &cfg, err);
	}
	return r;
}

void vm_shares_close(struct vm *vm)
{
	for (unsigned i = 0; i < SPEC_MAX_SHARES; i++) {
		p9_free(vm->share[i]);
		vm->share[i] = NULL;
	}
}
