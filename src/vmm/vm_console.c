/* vm_console.c: the terminal or pipes behind COM1, and the keys after Ctrl-A. */
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

int vm_console_open(struct vm *vm, struct error *err)
{
	const struct term_config term = {
	    .in_fd = STDIN_FILENO, .out_fd = STDOUT_FILENO, .command = on_key, .opaque = vm};

	if (isatty(STDIN_FILENO))
		return chardev_term_new(&vm->console, vm->loop, &term, err);
	return chardev_fd_new(&vm->console, vm->loop, STDIN_FILENO, STDOUT_FILENO, err);
}
