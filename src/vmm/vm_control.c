/* vm_control.c: the commands of the control socket: a table, and what each does to the VM. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host_time.h"
#include "base/unix_socket.h"
#include "vmm/rundir.h"
#include "vmm/vm_impl.h"

#define CONTROL_PROTOCOL 1

static json_t *int_json(uint64_t v)
{
	return json_integer((json_int_t)MIN(v, (uint64_t)INT64_MAX));
}

static json_t *state_json(const struct vm *vm)
{
	return json_pack("{s:s}", "state", vm_state_name(vm->state));
}

static json_t *cmd_status(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;
	const struct clock *clock = machine_clock(vm->machine);
	uint64_t uptime = vm->started_ns ? host_time_ns() - vm->started_ns : 0;
	json_t *r = json_object();

	if (vm->spec.name)
		json_object_set_new(r, "name", json_string(vm->spec.name));
	json_object_set_new(r, "pid", json_integer(getpid()));
	json_object_set_new(r, "protocol", json_integer(CONTROL_PROTOCOL));
	json_object_set_new(r, "state", json_string(vm_state_name(vm->state)));
	json_object_set_new(r, "stopping", json_boolean(vm->stopping));
	json_object_set_new(r, "engine", json_string(vm->ops->name));
	json_object_set_new(r, "cpus", json_integer(machine_cpus(vm->machine)));
	json_object_set_new(r, "memory_bytes", int_json(vm->spec.memory_bytes));
	json_object_set_new(r, "uptime_ns", int_json(uptime));
	json_object_set_new(r, "guest_clock_ns", int_json(clock_now_ns(clock)));
	json_object_set_new(r, "guest_unix_ns", json_integer(clock_wall_now_ns(clock)));
	return r;
}

static json_t *cmd_pause(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;

	vm_hold(vm, HOLD_USER);
	return state_json(vm);
}

static json_t *cmd_resume(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;

	vm_release(vm, HOLD_USER);
	return state_json(vm);
}

static json_t *cmd_power_button(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;
	_Bool noticed = machine_press_power(vm->machine);

	control_event(vm->control, "power-button", json_pack("{s:b}", "noticed", noticed));
	return json_pack("{s:b}", "noticed", noticed);
}

#define GRACE_MAX 86400
static const struct control_arg stop_args[] = {
    {"grace", CONTROL_INTEGER, 0, 0, GRACE_MAX},
    {NULL},
};

static json_t *cmd_stop(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;
	unsigned grace = (unsigned)control_integer(arguments, "grace", vm->spec.grace_seconds);
	_Bool noticed = vm_stop_gently(vm, grace, 0);

	return json_pack("{s:b, s:i}", "noticed", noticed, "grace", noticed ? (int)grace : 0);
}

static json_t *cmd_quit(void *opaque, json_t *arguments, struct control_error *err)
{
	vm_stop_now(opaque, 0);
	return json_object();
}

static json_t *cmd_reset(void *opaque, json_t *arguments, struct control_error *err)
{
	vm_request(opaque, REQ_RESET);
	return json_object();
}

static const struct control_arg nmi_args[] = {
    {"cpu", CONTROL_INTEGER, 0, 0, ENGINE_MAX_CPUS - 1},
    {NULL},
};

static json_t *cmd_nmi(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;
	unsigned cpu = (unsigned)control_integer(arguments, "cpu", 0);

	if (cpu >= machine_cpus(vm->machine))
		return control_refuse(err, CONTROL_BAD_ARGUMENT, "there is no CPU %u", cpu);
	cpu_link_raise(&machine_vcpu(vm->machine, cpu)->link, CPU_EVENT_NMI);
	return json_pack("{s:i}", "cpu", (int)cpu);
}

static void list_device(void *opaque, const struct machine_device *d)
{
	json_t *list = opaque, *ranges = json_array(), *row;

	for (unsigned i = 0; i < d->range_count; i++) {
		const struct machine_range *r = &d->range[i];
		char base[32];

		snprintf(base, sizeof(base), "0x%llx", (unsigned long long)r->base);
		json_array_append_new(ranges, json_pack("{s:s, s:s, s:s, s:o}", "space",
							r->port ? "port" : "memory", "name",
							r->name ? r->name : "", "base", base,
							"size", int_json(r->size)));
	}
	row = json_pack("{s:s, s:s, s:i, s:o}", "id", d->id, "kind", d->kind, "instance",
			(int)d->instance, "ranges", ranges);
	if (row && d->pci >= 0) {
		char text[16];

		snprintf(text, sizeof(text), "00:%02x.%x", (unsigned)d->pci >> 3, d->pci & 7);
		json_object_set_new(row, "pci", json_string(text));
	}
	json_array_append_new(list, row);
}

static json_t *cmd_devices(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;
	json_t *list = json_array();

	machine_each_device(vm->machine, list_device, list);
	return list;
}

/* "name value" lines to members of an object; a value that is no whole number stays text. */
static json_t *counters_json(char *text)
{
	json_t *r = json_object();
	char *rest = text, *line;

	while ((line = strsep(&rest, "\n"))) {
		char *value = strchr(line, ' '), *end;
		unsigned long long n;

		if (!value)
			continue;
		*value++ = 0;
		errno = 0;
		n = strtoull(value, &end, 10);
		json_object_set_new(
		    r, line, errno || *end || end == value ? json_string(value) : int_json(n));
	}
	return r;
}

/* What the process and the guest's RAM hold of the host's memory. */
static json_t *memory_json(struct vm *vm)
{
	unsigned long long pages = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	struct stat st = {0};

	if (f) {
		if (fscanf(f, "%llu %llu", &pages, &resident) != 2)
			resident = 0;
		fclose(f);
	}
	if (fstat(gmem_fd(machine_mem(vm->machine)), &st))
		st.st_blocks = 0;
	return json_pack("{s:o, s:o, s:o}", "guest_bytes", int_json(vm->spec.memory_bytes),
			 "guest_allocated_bytes", int_json((uint64_t)st.st_blocks * 512),
			 "process_resident_bytes",
			 int_json(resident * (unsigned long long)sysconf(_SC_PAGESIZE)));
}

static uint64_t timeval_ns(const struct timeval *tv)
{
	return (uint64_t)tv->tv_sec * 1000000000 + (uint64_t)tv->tv_usec * 1000;
}

static json_t *cmd_statistics(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;
	struct rusage usage = {0};
	json_t *counters = NULL, *balloon = vm_balloon_json(vm);
	struct wbuf out;

	wbuf_init(&out, 512 << 10);
	/* The engine's counters belong to its threads, which stand still for a moment. */
	vm_pause_cpus(vm);
	vm_stats_write(vm, &out);
	vm_resume_cpus(vm);
	wbuf_u8(&out, 0);
	if (!out.failed)
		counters = counters_json((char *)out.data);
	wbuf_fini(&out);
	getrusage(RUSAGE_SELF, &usage);
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "counters", counters, "disks",
			 vm_disks_json(vm), "nets", vm_nets_json(vm), "memory", memory_json(vm),
			 "balloon", balloon ? balloon : json_null(), "cpu_user_ns",
			 int_json(timeval_ns(&usage.ru_utime)), "cpu_system_ns",
			 int_json(timeval_ns(&usage.ru_stime)));
}

static const struct control_arg balloon_args[] = {
    {"bytes", CONTROL_INTEGER, 0, 0, INT64_MAX},
    {"stats_interval", CONTROL_INTEGER, 0, 0, BALLOON_INTERVAL_MAX},
    {NULL},
};

#define SIZE_MAX_BYTES (INT64_C(1) << 56)
static const struct control_arg resize_args[] = {
    {"disk", CONTROL_STRING, 1, 0, 0},
    {"size", CONTROL_INTEGER, 0, 512, SIZE_MAX_BYTES},
    {NULL},
};

static json_t *cmd_resize(void *opaque, json_t *arguments, struct control_error *err)
{
	return vm_disk_resize(opaque, json_string_value(json_object_get(arguments, "disk")),
			      (uint64_t)control_integer(arguments, "size", 0), err);
}

static const struct control_arg eject_args[] = {
    {"drive", CONTROL_STRING, 0, 0, 0},
    {"force", CONTROL_BOOLEAN, 0, 0, 0},
    {NULL},
};
static const struct control_arg insert_args[] = {
    {"path", CONTROL_STRING, 1, 0, 0},
    {"drive", CONTROL_STRING, 0, 0, 0},
    {"force", CONTROL_BOOLEAN, 0, 0, 0},
    {NULL},
};

static const struct control_command commands[] = {
    {"status", "the VM's state, engine, size and clocks", NULL, cmd_status},
    {"pause", "stops the CPUs and the guest's time", NULL, cmd_pause},
    {"resume", "lets a paused VM go on", NULL, cmd_resume},
    {"power-button", "presses the power button once", NULL, cmd_power_button},
    {"stop", "presses the power button and ends the VM when the grace period is over", stop_args,
     cmd_stop},
    {"reset", "resets the machine, as its reset button", NULL, cmd_reset},
    {"nmi", "sends a non-maskable interrupt to a CPU", nmi_args, cmd_nmi},
    {"devices", "the devices with their addresses", NULL, cmd_devices},
    {"resize", "makes a disk larger, or as large as its image is now", resize_args, cmd_resize},
    {"eject", "takes the disc out of a CD drive", eject_args, vm_disc_eject},
    {"insert", "puts a disc into a CD drive, in place of the one that is there", insert_args,
     vm_disc_insert},
    {"statistics", "counters, disks, network cards, memory and CPU time", NULL, cmd_statistics},
    {"balloon", "memory that the guest lends to the host: how much it shall be, and is",
     balloon_args, vm_balloon_command},
    {"quit", "ends the VM at once", NULL, cmd_quit},
};

int vm_control_open(struct vm *vm, struct error *err)
{
	const struct control_table table = {commands, ARRAY_SIZE(commands), vm};
	char path[UNIX_PATH_MAX_LEN + 1];
	int rc = 0;

	if (vm->spec.control)
		return control_new(&vm->control, vm->loop, vm->spec.control, &table, err);
	if (!vm->spec.name)
		return 0;
	rc = rundir_socket(vm->spec.name, path, sizeof(path), err);
	if (!rc)
		rc = control_new(&vm->control, vm->loop, path, &table, err);
	if (rc == -EADDRINUSE)
		return error_set(err, rc, "a VM named '%s' is running already", vm->spec.name);
	return rc;
}

void vm_control_ended(struct vm *vm)
{
	static const char *const reasons[] = {
	    [VM_END_POWER_OFF] = "power-off", [VM_END_QUIT] = "quit",	[VM_END_SIGNAL] = "signal",
	    [VM_END_RESET] = "reset",	      [VM_END_PANIC] = "panic", [VM_END_CRASH] = "crash",
	    [VM_END_DEBUG_EXIT] = "exit",     [VM_END_ERROR] = "error",
	};
	json_t *text;

	if (!vm->control)
		return;
	text = json_string(vm->result->text);
	control_event(vm->control, "ended",
		      json_pack("{s:s, s:i, s:o}", "reason", reasons[vm->result->end], "code",
				(int)vm->result->code, "text", text ? text : json_null()));
	control_flush(vm->control, 500);
}
