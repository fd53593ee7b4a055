/* vm_limit.c: what a VM asks of its process's limits. */
#include <sys/resource.h>

#include "vmm/vm_impl.h"

/*
 * A guest's connections and the files that it holds of a share take a descriptor each; 1024, the
 * usual limit, is for programs that use select(2), which nothing here does. Direct execution's
 * helpers inherit the limit, but can open nothing, and close what they inherit by range.
 */
void vm_limits_raise(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_cur == lim.rlim_max)
		return;
	lim.rlim_cur = lim.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &lim);
}
