/* vm_stats.c: what was counted: exits by kind, and the engine's own counters. */
#include <stdio.h>

#include "vmm/vm_impl.h"

void vm_stats_write(struct vm *vm, struct wbuf *out)
{
	static const char *const kinds[EXIT_KINDS] = {"port",	  "mmio",      "eoi",
						      "msr_read", "msr_write", "hypercall"};

	for (unsigned i = 0; i < machine_cpus(vm->machine); i++) {
		struct vcpu *vcpu = machine_vcpu(vm->machine, i);

		for (unsigned k = 0; k < EXIT_KINDS; k++) {
			char line[80];
			int n = snprintf(line, sizeof(line), "cpu%u_exit_%s %llu\n", i, kinds[k],
					 (unsigned long long)atomic_load(&vcpu->exits[k]));
			wbuf_put(out, line, (size_t)n);
		}
	}
	if (vm->ops->stats)
		vm->ops->stats(machine_engine(vm->machine), out);
}

void vm_stats_print(struct vm *vm)
{
	struct wbuf out;

	wbuf_init(&out, 512 << 10);
	vm_stats_write(vm, &out);
	vm_io_stats_write(vm, &out);
	if (!out.failed)
		fprintf(stderr, "%.*s", (int)out.len, (const char *)out.data);
	wbuf_fini(&out);
}
