/* vm_balloon.c: the balloon's command of the control socket. */
#include <errno.h>

#include "vmm/vm_impl.h"

static json_t *int_json(uint64_t v)
{
	return json_integer((json_int_t)MIN(v, (uint64_t)INT64_MAX));
}

/* What the guest tells of its memory; null until it has told something. */
static json_t *guest_json(const struct balloon_status *s)
{
	static const char *const names[BALLOON_STATS] = {
	    "swap_in_bytes",	   "swap_out_bytes",   "major_faults",	  "minor_faults",
	    "free_bytes",	   "total_bytes",      "available_bytes", "disk_cache_bytes",
	    "hugetlb_allocations", "hugetlb_failures",
	};
	json_t *r;

	if (!s->stats_known)
		return json_null();
	r = json_object();
	json_object_set_new(r, "age_ns", int_json(s->stats_age_ns));
	for (unsigned i = 0; i < BALLOON_STATS; i++)
		if (s->stats_known & BIT32(i))
			json_object_set_new(r, names[i], int_json(s->stat[i]));
	return r;
}

json_t *vm_balloon_json(struct vm *vm)
{
	struct balloon_status s;

	if (machine_balloon_get(vm->machine, &s))
		return NULL;
	return json_pack("{s:o, s:o, s:b, s:o, s:o, s:i, s:o}", "target_bytes",
			 int_json(s.target_bytes), "actual_bytes", int_json(s.actual_bytes),
			 "driver", s.driver, "inflated_bytes", int_json(s.inflated_bytes),
			 "reported_bytes", int_json(s.reported_bytes), "stats_interval",
			 (int)s.interval_s, "guest", guest_json(&s));
}

json_t *vm_balloon_command(void *opaque, json_t *arguments, struct control_error *err)
{
	struct vm *vm = opaque;
	int64_t target = control_integer(arguments, "bytes", -1);
	struct balloon_status s;
	int r = machine_balloon_get(vm->machine, &s);

	if (r)
		return control_refuse(err, CONTROL_FAILED,
				      "this VM was started without a balloon (--balloon none)");
	if (target > (int64_t)vm->spec.memory_bytes)
		return control_refuse(err, CONTROL_BAD_ARGUMENT,
				      "the guest has %llu bytes of memory and cannot lend %lld",
				      (unsigned long long)vm->spec.memory_bytes, (long long)target);
	if (target >= 0)
		r = machine_balloon_set(vm->machine, (uint64_t)target);
	if (!r)
		r = machine_balloon_poll(
		    vm->machine,
		    (unsigned)control_integer(arguments, "stats_interval", s.interval_s));
	if (r)
		return control_refuse(err, CONTROL_FAILED, "the balloon refuses");
	return vm_balloon_json(vm);
}
