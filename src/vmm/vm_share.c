/* vm_share.c: opens the directories that a VM shares. */
#include <sys/resource.h>

#include "vmm/vm_impl.h"

/* A guest may hold many files of a share, a descriptor each: the limit is raised as far as that
 * needs and as an ordinary user may. */
static void raise_limit(unsigned shares)
{
	struct rlimit lim;
	rlim_t want = (rlim_t)(shares + 1) * P9_FIDS_MAX;

	if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_cur >= want)
		return;
	lim.rlim_cur = lim.rlim_max == RLIM_INFINITY ? want : MIN(want, lim.rlim_max);
	setrlimit(RLIMIT_NOFILE, &lim);
}

int vm_shares_open(struct vm *vm, struct error *err)
{
	int r = 0;

	if (vm->spec.share_count)
		raise_limit(vm->spec.share_count);
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
