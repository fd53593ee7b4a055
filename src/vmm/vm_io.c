/* vm_io.c: what a person or a program asks of disks and network cards: counters, a new size,
 * errors. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host_time.h"
#include "base/log.h"
#include "vmm/vm_impl.h"

/* A disk that fails fails often: one event and one line a second say it. */
#define ERROR_EVENT_NS UINT64_C(1000000000)

static json_t *int_json(uint64_t v)
{
	return json_integer((json_int_t)MIN(v, (uint64_t)INT64_MAX));
}

const char *vm_disk_id(const struct vm *vm, unsigned i, char id[24])
{
	snprintf(id, 24, "%s%u", vm->spec.disk[i].cdrom ? "scsi" : "blk", i);
	return id;
}

/* ---- errors ---- */

/* On a thread of the back end. */
static void disk_failed(void *opaque, enum disk_op op, uint64_t offset, int result)
{
	struct vm_disk_watch *w = opaque;

	lock_take(&w->lock);
	w->op = op;
	w->offset = offset;
	w->result = result;
	lock_drop(&w->lock);
	loop_post(w->vm->loop, &w->work);
}

/* On the loop's thread. */
static void disk_failed_say(struct loop_work *work)
{
	struct vm_disk_watch *w = container_of(work, struct vm_disk_watch, work);
	uint64_t now = host_time_ns(), offset;
	struct disk_counts counts;
	const char *op;
	char id[24];
	int result;

	if (w->said_ns && now - w->said_ns < ERROR_EVENT_NS)
		return;
	w->said_ns = now;
	lock_take(&w->lock);
	op = disk_op_name(w->op);
	offset = w->offset;
	result = w->result;
	lock_drop(&w->lock);
	disk_counts(w->vm->disk[w->index], &counts);
	vm_disk_id(w->vm, w->index, id);
	log_warn("%s (%s): a %s at byte %llu failed: %s", id, w->vm->spec.disk[w->index].path, op,
		 (unsigned long long)offset, strerror(-result));
	if (w->vm->control)
		control_event(w->vm->control, "disk-error",
			      json_pack("{s:s, s:s, s:o, s:s, s:o}", "disk", id, "operation", op,
					"offset", int_json(offset), "error", strerror(-result),
					"errors", int_json(MAX(counts.errors, 1u))));
}

void vm_disk_watch_start(struct vm *vm, unsigned i)
{
	struct vm_disk_watch *w = &vm->watch[i];

	w->vm = vm;
	w->index = i;
	w->work.fn = disk_failed_say;
	lock_init(&w->lock, RANK_BACKEND);
	disk_watch(vm->disk[i], disk_failed, w);
}

void vm_disk_watch_stop(struct vm *vm, unsigned i)
{
	struct vm_disk_watch *w = &vm->watch[i];

	if (!w->vm)
		return;
	loop_cancel(vm->loop, &w->work);
	lock_fini(&w->lock);
	w->vm = NULL;
}

/* ---- counters ---- */

static json_t *disk_json(struct vm *vm, unsigned i)
{
	struct disk *disk = vm->disk[i];
	struct disk_counts c;
	struct disk_info info;
	json_t *path = json_string(vm->spec.disk[i].path);
	char id[24];

	disk_info(disk, &info);
	disk_counts(disk, &c);
	return json_pack("{s:s, s:o, s:o, s:b, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i}", "id",
			 vm_disk_id(vm, i, id), "path", path ? path : json_null(), "size_bytes",
			 int_json(info.size_bytes), "read_only", info.read_only, "method",
			 disk_method(disk), "reads", int_json(c.reads), "read_bytes",
			 int_json(c.read_bytes), "writes", int_json(c.writes), "written_bytes",
			 int_json(c.written_bytes), "flushes", int_json(c.flushes), "discards",
			 int_json(c.discards), "errors", int_json(c.errors), "in_flight",
			 (int)c.in_flight);
}

json_t *vm_disks_json(struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->spec.disk_count; i++) {
		char id[24];

		if (vm->disk[i])
			json_array_append_new(list, disk_json(vm, i));
		else if (vm->spec.disk[i].cdrom)
			json_array_append_new(list, json_pack("{s:s, s:n, s:i}", "id",
							      vm_disk_id(vm, i, id), "path",
							      "size_bytes", 0));
	}
	return list;
}

json_t *vm_nets_json(struct vm *vm)
{
	json_t *list = json_array();
	unsigned instance = 0;

	for (unsigned i = 0; i < vm->spec.net_count; i++) {
		const uint8_t *mac = vm->spec.net[i].mac;
		struct net_counts c;
		char id[24], address[24];

		if (!vm->net[i])
			continue;
		net_counts(vm->net[i], &c);
		snprintf(id, sizeof(id), "net%u", instance++);
		snprintf(address, sizeof(address), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
			 mac[2], mac[3], mac[4], mac[5]);
		json_array_append_new(
		    list, json_pack("{s:s, s:s, s:b, s:o, s:o, s:o, s:o, s:o}", "id", id, "mac",
				    address, "link", net_link(vm->net[i]), "sent", int_json(c.sent),
				    "sent_bytes", int_json(c.sent_bytes), "received",
				    int_json(c.received), "received_bytes",
				    int_json(c.received_bytes), "dropped", int_json(c.dropped)));
	}
	return list;
}

/* "name value" lines, as the engine's. */
void vm_io_stats_write(struct vm *vm, struct wbuf *out)
{
	char line[512], id[24];
	int n;

	for (unsigned i = 0; i < vm->spec.disk_count; i++) {
		struct disk_counts c;

		if (!vm->disk[i])
			continue;
		disk_counts(vm->disk[i], &c);
		vm_disk_id(vm, i, id);
		n = snprintf(line, sizeof(line),
			     "%s_reads %llu\n%s_read_bytes %llu\n%s_writes %llu\n"
			     "%s_written_bytes %llu\n%s_flushes %llu\n%s_errors %llu\n",
			     id, (unsigned long long)c.reads, id, (unsigned long long)c.read_bytes,
			     id, (unsigned long long)c.writes, id,
			     (unsigned long long)c.written_bytes, id, (unsigned long long)c.flushes,
			     id, (unsigned long long)c.errors);
		wbuf_put(out, line, (size_t)n);
	}
	for (unsigned i = 0, instance = 0; i < vm->spec.net_count; i++) {
		struct net_counts c;

		if (!vm->net[i])
			continue;
		net_counts(vm->net[i], &c);
		n = snprintf(line, sizeof(line),
			     "net%u_sent %llu\nnet%u_sent_bytes %llu\nnet%u_received %llu\n"
			     "net%u_received_bytes %llu\nnet%u_dropped %llu\n",
			     instance, (unsigned long long)c.sent, instance,
			     (unsigned long long)c.sent_bytes, instance,
			     (unsigned long long)c.received, instance,
			     (unsigned long long)c.received_bytes, instance,
			     (unsigned long long)c.dropped);
		instance++;
		wbuf_put(out, line, (size_t)n);
	}
}

/* ---- a new size ---- */

json_t *vm_disk_resize(struct vm *vm, const char *name, uint64_t size, struct control_error *err)
{
	struct disk_info before, after;
	struct error why;
	char id[24];
	unsigned i = 0;
	int r;

	while (i < vm->spec.disk_count && strcmp(vm_disk_id(vm, i, id), name))
		i++;
	if (i == vm->spec.disk_count)
		return control_refuse(err, CONTROL_BAD_ARGUMENT,
				      "there is no disk '%s'; 'statistics' lists them", name);
	if (!vm->disk[i])
		return control_refuse(err, CONTROL_FAILED,
				      "disk '%s' is another process's, which decides its size",
				      name);
	if (vm->spec.disk[i].cdrom)
		return control_refuse(err, CONTROL_FAILED, "'%s' is a CD, which keeps its size",
				      name);
	disk_info(vm->disk[i], &before);
	r = size ? disk_resize(vm->disk[i], size, &why) : disk_refresh(vm->disk[i], &why);
	if (r)
		return control_refuse(err, CONTROL_FAILED, "%s", why.text);
	disk_info(vm->disk[i], &after);
	if (after.size_bytes != before.size_bytes)
		control_event(
		    vm->control, "disk-resized",
		    json_pack("{s:s, s:o}", "disk", id, "size_bytes", int_json(after.size_bytes)));
	return json_pack("{s:s, s:o}", "disk", id, "size_bytes", int_json(after.size_bytes));
}
