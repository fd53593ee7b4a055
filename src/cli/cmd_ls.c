/* cmd_ls.c: "polyvisor ls": this user's running VMs. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "vmm/control_client.h"
#include "vmm/rundir.h"

struct listing {
	json_t *all;
	_Bool json;
	unsigned shown;
};

static void print_row(struct listing *l, const char *name, const json_t *status)
{
	const char *state = json_string_value(json_object_get(status, "state"));
	const char *engine = json_string_value(json_object_get(status, "engine"));

	if (!l->shown++)
		printf("%-20s %-10s %-7s %4s %9s %9s %s\n", "NAME", "STATE", "ENGINE", "CPUS",
		       "MEMORY", "UPTIME", "PID");
	printf("%-20s %-10s %-7s %4lld %5lld MiB %7lld s %lld\n", name, state ? state : "?",
	       engine ? engine : "?",
	       (long long)json_integer_value(json_object_get(status, "cpus")),
	       (long long)json_integer_value(json_object_get(status, "memory_bytes")) >> 20,
	       (long long)json_integer_value(json_object_get(status, "uptime_ns")) / 1000000000,
	       (long long)json_integer_value(json_object_get(status, "pid")));
}

static void say_why(const char *name, const char *why)
{
	fprintf(stderr, "polyvisor: '%s': %s\n", name, why ? why : "the VM's answer is no status");
}

/* A socket that nobody listens at belongs to a VM that was killed: it is passed over. */
static void list_vm(void *opaque, const char *name, const char *path)
{
	struct listing *l = opaque;
	struct control_client client;
	json_t *reply, *status;
	struct error err = {0};
	int rc = control_client_open(&client, path, &err);

	if (rc == -ECONNREFUSED || rc == -ENOENT)
		return;
	if (rc) {
		say_why(name, err.text);
		return;
	}
	reply = control_client_call(&client, "status", NULL, &err);
	status = json_object_get(reply, "result");
	if (!reply)
		say_why(name, err.text);
	else if (!status)
		say_why(name, json_string_value(
				  json_object_get(json_object_get(reply, "error"), "message")));
	else if (l->json)
		json_array_append(l->all, status);
	else
		print_row(l, name, status);
	json_decref(reply);
	control_client_close(&client);
}

int cmd_ls(int argc, char **argv)
{
	static const struct option options[] = {
	    {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	struct listing l = {0};
	struct error err;
	int code;

	opterr = 0;
	while ((code = getopt_long(argc, argv, ":jh", options, NULL)) != -1) {
		if (code == 'h') {
			puts("usage: polyvisor ls [--json]\n\n"
			     "Lists this user's running VMs that were started with --name.\n"
			     "Exit status: 0, or 1 when they cannot be listed.");
			return STATUS_OK;
		}
		if (code != 'j')
			return cli_usage_error("ls", "unknown option '%s'", argv[optind - 1]);
		l.json = 1;
	}
	if (optind < argc)
		return cli_usage_error("ls", "'%s': ls takes no arguments", argv[optind]);
	l.all = json_array();
	if (rundir_each(list_vm, &l, &err)) {
		fprintf(stderr, "polyvisor: %s\n", err.text);
		json_decref(l.all);
		return STATUS_HOST;
	}
	if (l.json) {
		json_dumpf(l.all, stdout, JSON_COMPACT);
		putchar('\n');
	}
	json_decref(l.all);
	return STATUS_OK;
}
