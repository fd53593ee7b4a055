/* vm_console.c: the terminal or pipes behind COM1 or the virtio console, and the keys after Ctrl-A.
 */
#include <unistd.h>

#include "base/log.h"
#include "vmm/vm_impl.h"

static void toggle_pause(struct vm *vm)
{
	if (vm->state == VM_RUNNING) {
		vm_hold(vm, HOLD_USER);
		log_say("paused; Ctrl-A P goes on");
	} else if (vm->state == VM_PAUSED) {
		vm_release(vm, HOLD_USER);
		log_say("%s", vm_state_name(vm->state));
	}
}

/* Keys after Ctrl-A, on the loop's thread. */
static void on_key(void *opaque, char key)
{
	struct vm *vm = opaque;

	switch (key) {
	case 'x': vm_stop_now(vm, 0); break;
	case 'r': vm_request(vm, REQ_RESET); break;
	case 'p': toggle_pause(vm); break;
	case 'b': machine_send_break(vm->machine); break;
	case 'o':
		machine_press_power(vm->machine);
		log_say("the power button was pressed");
		break;
	case 's':
		log_say("%s, %u CPU(s), engine %s", vm_state_name(vm->state),
			machine_cpus(vm->machine), vm->ops->name);
		break;
	default: break;
	}
}

static void on_resize(void *opaque, unsigned cols, unsigned rows)
{
	struct vm *vm = opaque;

	if (vm->machine)
		machine_console_resize(vm->machine, cols, rows);
}

int vm_ports_open(struct vm *vm, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; !r && i < vm->spec.port_count; i++)
		r = chardev_unix_new(&vm->port[i], vm->loop, vm->spec.port[i].path, err);
	return r;
}

void vm_ports_close(struct vm *vm)
{
	for (unsigned i = 0; i < SPEC_MAX_PORTS; i++) {
		chardev_free(vm->port[i]);
		vm->port[i] = NULL;
	}
}

int vm_console_open(struct vm *vm, struct error *err)
{
	const struct term_config term = {.in_fd = STDIN_FILENO,
					 .out_fd = STDOUT_FILENO,
					 .command = on_key,
					 .resized = on_resize,
					 .opaque = vm};

	if (isatty(STDIN_FILENO))
		return chardev_term_new(&vm->console, vm->loop, &term, err);
	return chardev_fd_new(&vm->console, vm->loop, STDIN_FILENO, STDOUT_FILENO, err);
}
