/* vm_trace.c: the files that the translator writes about itself. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vmm/vm_impl.h"

/* The name is foreseeable and its directory everybody's: what is there already is not followed. */
static int perf_open(struct vm *vm, struct error *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0)
		vm->perf_map = fdopen(fd, "w");
	if (!vm->perf_map)
		return error_set(err, -errno, "--perf-map: cannot create '%s': %s", path,
				 strerror(errno));
	setvbuf(vm->perf_map, NULL, _IOLBF, 0);
	return 0;
}

int vm_trace_open(struct vm *vm, struct engine_trace *trace, struct error *err)
{
	const char *path = vm->spec.trace_blocks;

	trace->count = vm->spec.stats;
	trace->from = vm->spec.trace_from;
	trace->to = vm->spec.trace_to;
	if ((path || vm->spec.perf_map) &&
	    (vm->ops != &engine_soft || vm->spec.soft == SPEC_SOFT_INTERP))
		return error_set(err, -EINVAL,
				 "--trace-blocks and --perf-map tell of the translator: they need "
				 "--engine soft, and not --soft interp");
	if (path) {
		vm->trace_blocks = strcmp(path, "-") ? fopen(path, "we") : stderr;
		if (!vm->trace_blocks)
			return error_set(err, -errno, "--trace-blocks: cannot write '%s': %s", path,
					 strerror(errno));
	}
	trace->blocks = vm->trace_blocks;
	if (vm->spec.perf_map && perf_open(vm, err))
		return -EIO;
	trace->perf_map = vm->perf_map;
	return 0;
}

void vm_trace_close(struct vm *vm)
{
	if (vm->trace_blocks && vm->trace_blocks != stderr)
		fclose(vm->trace_blocks);
	if (vm->perf_map)
		fclose(vm->perf_map);
	vm->trace_blocks = vm->perf_map = NULL;
}
