/* vm_disc.c: the discs in a VM's CD drives: taken out by the guest or a person, and put in. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "vmm/vm_impl.h"

/* On any thread, under the drive's lock. */
void vm_disc_ejected(void *opaque)
{
	struct vm *vm = opaque;

	loop_post(vm->loop, &vm->disc_work);
}

static void disc_close(struct vm *vm, unsigned i, const char *by)
{
	char id[24];

	disk_free(vm->disk[i]);
	vm->disk[i] = NULL;
	vm_disk_watch_stop(vm, i);
	control_event(vm->control, "disc-ejected",
		      json_pack("{s:s, s:s}", "drive", vm_disk_id(vm, i, id), "by", by));
	vm->spec.disk[i].path = NULL;
	free(vm->disc_path[i]);
	vm->disc_path[i] = NULL;
}

/* Closes what guests have taken out since. */
static void discs_close_ejected(struct loop_work *work)
{
	struct vm *vm = work->opaque;

	for (unsigned i = 0; i < vm->spec.disk_count; i++)
		if (vm->spec.disk[i].cdrom && vm->disk[i] && machine_disc_none(vm->machine, i))
			disc_close(vm, i, "guest");
}

void vm_discs_init(struct vm *vm)
{
	vm->disc_work = (struct loop_work){.fn = discs_close_ejected, .opaque = vm};
}

void vm_discs_fini(struct vm *vm)
{
	if (vm->loop)
		loop_cancel(vm->loop, &vm->disc_work);
	for (unsigned i = 0; i < SPEC_MAX_DISKS; i++)
		free(vm->disc_path[i]);
}

/* The drive that is named, or the only one. -1 after an error. */
static int drive_find(struct vm *vm, const char *name, struct control_error *err)
{
	int found = -1;
	char id[24];

	for (unsigned i = 0; i < vm->spec.disk_count; i++) {
		if (name ? strcmp(vm_disk_id(vm, i, id), name) : !vm->spec.disk[i].cdrom)
			continue;
		if (found >= 0) {
			control_refuse(err, CONTROL_BAD_ARGUMENT,
				       "there are several CD drives; 'statistics' lists them");
			return -1;
		}
		found = (int)i;
	}
	if (found >= 0 && vm->spec.disk[found].cdrom)
		return found;
	if (found >= 0)
		control_refuse(err, CONTROL_BAD_ARGUMENT, "'%s' is not a CD drive", name);
	else if (name)
		control_refuse(err, CONTROL_BAD_ARGUMENT,
			       "there is no drive '%s'; 'statistics' lists them", name);
	else
		control_refuse(err, CONTROL_FAILED,
			       "the VM has no CD drive: it was started without --cdrom");
	return -1;
}

static int eject(struct vm *vm, unsigned i, _Bool force, struct control_error *err)
{
	if (machine_disc_eject(vm->machine, i, force)) {
		control_refuse(err, CONTROL_FAILED,
			       "the guest uses the disc, and was asked to let go of it; "
			       "force=true takes it all the same");
		return -1;
	}
	if (vm->disk[i])
		disc_close(vm, i, "host");
	return 0;
}

json_t *vm_disc_eject(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;
	int i = drive_find(vm, json_string_value(json_object_get(arguments, "drive")), err);
	char id[24];

	if (i < 0)
		return NULL;
	/* What the guest has done by itself is told as such. */
	discs_close_ejected(&vm->disc_work);
	if (eject(vm, (unsigned)i, json_is_true(json_object_get(arguments, "force")), err))
		return NULL;
	return json_pack("{s:s}", "drive", vm_disk_id(vm, (unsigned)i, id));
}

json_t *vm_disc_insert(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;
	const char *path = json_string_value(json_object_get(arguments, "path"));
	struct disk_raw_config cfg = {.read_only = 1};
	struct disk *disc;
	struct disk_info info;
	struct error why;
	char id[24];
	int i = drive_find(vm, json_string_value(json_object_get(arguments, "drive")), err);

	if (i < 0)
		return NULL;
	discs_close_ejected(&vm->disc_work);
	cfg.path = strdup(path);
	if (!cfg.path)
		return NULL;
	/* The new one is opened first: where it cannot be, the old one stays. */
	if (disk_raw_open(&disc, &cfg, &why)) {
		free((char *)cfg.path);
		return control_refuse(err, CONTROL_FAILED, "%s", why.text);
	}
	if (eject(vm, (unsigned)i, json_is_true(json_object_get(arguments, "force")), err)) {
		disk_free(disc);
		free((char *)cfg.path);
		return NULL;
	}
	vm->disc_path[i] = (char *)cfg.path;
	vm->spec.disk[i].path = vm->disc_path[i];
	vm->disk[i] = disc;
	vm_disk_watch_start(vm, (unsigned)i);
	machine_disc_insert(vm->machine, (unsigned)i, disc);
	disk_info(disc, &info);
	control_event(vm->control, "disc-inserted",
		      json_pack("{s:s}", "drive", vm_disk_id(vm, (unsigned)i, id)));
	return json_pack("{s:s, s:I}", "drive", id, "size_bytes", (json_int_t)info.size_bytes);
}
