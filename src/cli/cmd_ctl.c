/* cmd_ctl.c: "polyvisor ctl": commands for a running VM, through its control socket. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/unix_socket.h"
#include "cli/cli.h"
#include "proto/spec.h"
#include "vmm/control_client.h"
#include "vmm/rundir.h"

static const struct option options[] = {
    {"socket", required_argument, NULL, 's'},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_help(void)
{
	fputs(
	    "usage: polyvisor ctl [--json] NAME COMMAND [ARGUMENT=VALUE...]\n"
	    "       polyvisor ctl [--json] --socket PATH COMMAND [ARGUMENT=VALUE...]\n"
	    "\n"
	    "Sends a command to a VM that was started with --name NAME or --control PATH.\n"
	    "\n"
	    "  status             state, engine, size and clocks\n"
	    "  pause, resume      stops the CPUs and the guest's time; lets them go on\n"
	    "  power-button       presses the power button once\n"
	    "  stop [grace=N]     presses it, and ends the VM after N seconds if need be\n"
	    "  reset              resets the machine\n"
	    "  nmi [cpu=N]        sends a non-maskable interrupt (CPU 0)\n"
	    "  balloon [SIZE]     memory that the guest lends to the host: asks for SIZE (as for\n"
	    "                     -m; 0: give all back), and says how much it is now;\n"
	    "                     stats_interval=N asks for its figures every N seconds\n"
	    "  devices            the devices with their addresses\n"
	    "  resize DISK [SIZE] makes a disk (blk0) this large, for example 20G; without\n"
	    "                     SIZE it becomes as large as its image is now\n"
	    "  insert [DRIVE] FILE\n"
	    "                     puts a CD or DVD image into the drive (scsi0; the only one need\n"
	    "                     not be named), in place of the disc that is there\n"
	    "  eject [DRIVE]      takes the disc out; force=true even while the guest uses it\n"
	    "  statistics         counters, disks, network cards, memory and CPU time\n"
	    "  events             prints what happens until the VM ends\n"
	    "  commands           the commands that this VM knows\n"
	    "  quit               ends the VM at once\n"
	    "\n"
	    "  -s, --socket PATH  the control socket, instead of a name\n"
	    "  -j, --json         the answer as the protocol has it (docs/control-protocol.md)\n"
	    "\n"
	    "exit status: 0 done; 1 no such VM, or it could not; 2 wrong command line\n"
	    "\n"
	    "example:\n"
	    "  polyvisor ctl web1 stop grace=30\n"
	    "  polyvisor ctl web1 balloon 256M\n"
	    "  polyvisor ctl web1 insert second-disc.iso\n",
	    stdout);
}

static void print_scalar(const json_t *v)
{
	switch (json_typeof(v)) {
	case JSON_STRING: printf("%s", json_string_value(v)); break;
	case JSON_INTEGER: printf("%lld", (long long)json_integer_value(v)); break;
	case JSON_REAL: printf("%g", json_real_value(v)); break;
	case JSON_TRUE: printf("yes"); break;
	case JSON_FALSE: printf("no"); break;
	default: printf("-"); break;
	}
}

/* "name: value" lines; what is inside of something is indented. */
static void print_value(json_t *v, int indent)
{
	const char *key;
	json_t *member;
	size_t i;

	if (json_is_object(v)) {
		json_object_foreach(v, key, member)
		{
			_Bool nested = json_is_object(member) || json_is_array(member);

			printf("%*s%s:%s", indent, "", key, nested ? "\n" : " ");
			print_value(member, nested ? indent + 2 : 0);
		}
	} else if (json_is_array(v)) {
		json_array_foreach(v, i, member)
		{
			const char *id = json_string_value(json_object_get(member, "id"));

			if (id) /* what the rest is about */
				printf("%*s%s:\n", indent, "", id);
			print_value(member, id ? indent + 2 : indent);
		}
	} else {
		printf("%*s", indent, "");
		print_scalar(v);
		putchar('\n');
	}
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static long long number_of(const json_t *object, const char *key)
{
	return (long long)json_integer_value(json_object_get(object, key));
}

static void print_devices(const json_t *list)
{
	const json_t *d, *r;
	size_t i, j;

	json_array_foreach(list, i, d)
	{
		const json_t *ranges = json_object_get(d, "ranges");

		printf("%-12s %-12s %-8s", text_of(d, "id"), text_of(d, "kind"), text_of(d, "pci"));
		json_array_foreach(ranges, j, r)
		{
			unsigned long long base = strtoull(text_of(r, "base"), NULL, 16);

			printf("%s %s %#llx-%#llx", j ? "," : "", text_of(r, "space"), base,
			       base + (unsigned long long)number_of(r, "size") - 1);
		}
		putchar('\n');
	}
}

static void print_commands(const json_t *list)
{
	const json_t *c, *name;
	size_t i, j;

	json_array_foreach(list, i, c)
	{
		const json_t *arguments = json_object_get(c, "arguments");

		printf("%-14s %s", text_of(c, "command"), text_of(c, "summary"));
		json_array_foreach(arguments, j, name)
		    printf("%s%s", j ? ", " : "; arguments: ", json_string_value(name));
		putchar('\n');
	}
}

static void print_status(const json_t *s)
{
	double up = (double)number_of(s, "uptime_ns") / 1e9;
	double clock = (double)number_of(s, "guest_clock_ns") / 1e9;

	if (json_object_get(s, "name"))
		printf("name:        %s\n", text_of(s, "name"));
	printf("state:       %s%s\n", text_of(s, "state"),
	       json_is_true(json_object_get(s, "stopping")) ? ", asked to power off" : "");
	printf("engine:      %s\n", text_of(s, "engine"));
	printf("cpus:        %lld\n", number_of(s, "cpus"));
	printf("memory:      %lld MiB\n", number_of(s, "memory_bytes") >> 20);
	printf("uptime:      %.1f s\n", up);
	printf("guest clock: %.1f s\n", clock);
	printf("pid:         %lld\n", number_of(s, "pid"));
}

static void print_size(const char *what, const json_t *object, const char *key)
{
	if (json_object_get(object, key))
		printf("%-17s%.1f MiB\n", what, (double)number_of(object, key) / (1 << 20));
}

static void print_balloon(const json_t *b)
{
	const json_t *guest = json_object_get(b, "guest");

	print_size("asked for:", b, "target_bytes");
	print_size("in the balloon:", b, "actual_bytes");
	if (!json_is_true(json_object_get(b, "driver")))
		printf("the guest has no driver for it, or has not started it yet\n");
	print_size("freed, reported:", b, "reported_bytes");
	print_size("guest's total:", guest, "total_bytes");
	print_size("guest's free:", guest, "free_bytes");
	print_size("available:", guest, "available_bytes");
}

static void print_result(const char *command, json_t *result)
{
	if (!strcmp(command, "status"))
		print_status(result);
	else if (!strcmp(command, "devices"))
		print_devices(result);
	else if (!strcmp(command, "balloon"))
		print_balloon(result);
	else if (!strcmp(command, "commands"))
		print_commands(result);
	else
		print_value(result, 0);
}

static void print_json(const json_t *v)
{
	json_dumpf(v, stdout, JSON_COMPACT);
	putchar('\n');
}

/* One line an event: its name and what it says. */
static void print_event(json_t *event)
{
	const char *key;
	json_t *member;

	printf("%s", text_of(event, "event"));
	json_object_foreach(event, key, member)
	{
		if (!strcmp(key, "event") || json_is_object(member) || json_is_array(member))
			continue;
		printf(" %s=", key);
		print_scalar(member);
	}
	putchar('\n');
	fflush(stdout);
}

static int follow_events(struct control_client *c, _Bool json)
{
	struct error err;
	json_t *event;

	while ((event = control_client_event(c, &err))) {
		if (json) {
			print_json(event);
			fflush(stdout);
		} else {
			print_event(event);
		}
		json_decref(event);
	}
	if (err.code == -EPIPE) /* it has ended */
		return STATUS_OK;
	fprintf(stderr, "polyvisor: %s\n", err.text);
	return STATUS_HOST;
}

/* "balloon 256M" is what a person types for "balloon bytes=268435456". False after an error. */
static _Bool parse_size(const char *name, const char *text, json_t *arguments)
{
	uint64_t bytes;

	if (spec_parse_memory(text, &bytes, NULL)) {
		cli_usage_error("ctl", "'%s' is not a size such as 512M or 20G", text);
		return 0;
	}
	bytes = MIN(bytes, (uint64_t)INT64_MAX);
	return !json_object_set_new(arguments, name, json_integer((json_int_t)bytes));
}

/* A file of who asks is not one of the VM's directory. */
static _Bool parse_file(const char *name, const char *text, json_t *arguments)
{
	char *path = realpath(text, NULL);

	if (!path) {
		cli_usage_error("ctl", "'%s': %s", text, strerror(errno));
		return 0;
	}
	json_object_set_new(arguments, name, json_string(path));
	free(path);
	return 1;
}

/* "scsi0": what drives are called; ./scsi0 is a file. */
static _Bool is_drive(const char *word)
{
	return !strncmp(word, "scsi", 4) && word[4] &&
	       strspn(word + 4, "0123456789") == strlen(word + 4);
}

/* A word that is given without its name. */
static _Bool parse_bare(const char *command, int position, char *word, json_t *arguments)
{
	if (!strcmp(command, "balloon"))
		return parse_size("bytes", word, arguments);
	if (!strcmp(command, "resize") && position == 0) {
		json_object_set_new(arguments, "disk", json_string(word));
		return 1;
	}
	if (!strcmp(command, "resize") && position == 1)
		return parse_size("size", word, arguments);
	if ((!strcmp(command, "insert") || !strcmp(command, "eject")) && is_drive(word)) {
		json_object_set_new(arguments, "drive", json_string(word));
		return 1;
	}
	if (!strcmp(command, "insert"))
		return parse_file("path", word, arguments);
	cli_usage_error("ctl", "'%s' is not of the form ARGUMENT=VALUE", word);
	return 0;
}

/* "name=value" words: a value that is JSON (a number, true) is taken as such, else as text. */
static json_t *parse_arguments(const char *command, char **words, int count)
{
	json_t *arguments = json_object();

	for (int i = 0; i < count; i++) {
		char *value = strchr(words[i], '=');
		json_t *v;

		if (!value || value == words[i]) {
			if (parse_bare(command, i, words[i], arguments))
				continue;
			json_decref(arguments);
			return NULL;
		}
		*value++ = 0;
		v = json_loads(value, JSON_DECODE_ANY, NULL);
		if (!v)
			v = json_string(value);
		json_object_set_new(arguments, words[i], v);
	}
	return arguments;
}

static int report_refusal(const json_t *error)
{
	const char *code = text_of(error, "code");

	fprintf(stderr, "polyvisor: %s\n", text_of(error, "message"));
	return !strcmp(code, "unknown-command") || !strcmp(code, "bad-argument") ? STATUS_USAGE
										 : STATUS_HOST;
}

static int run_command(struct control_client *c, const char *command, json_t *arguments, _Bool json)
{
	struct error err;
	json_t *reply = control_client_call(c, command, arguments, &err), *error;
	int status = STATUS_OK;

	if (!reply) {
		fprintf(stderr, "polyvisor: %s\n", err.text);
		return STATUS_HOST;
	}
	error = json_object_get(reply, "error");
	if (error)
		status = report_refusal(error);
	else if (!strcmp(command, "events"))
		status = follow_events(c, json);
	else if (json)
		print_json(json_object_get(reply, "result"));
	else
		print_result(command, json_object_get(reply, "result"));
	json_decref(reply);
	return status;
}

static int find_socket(const char *name, char *path, size_t len)
{
	struct error err;

	if (!rundir_socket(name, path, len, &err))
		return 0;
	fprintf(stderr, "polyvisor: %s\n", err.text);
	return err.code == -EINVAL ? STATUS_USAGE : STATUS_HOST;
}

static int connect_to(struct control_client *c, const char *name, const char *path)
{
	struct error err;

	if (!control_client_open(c, path, &err))
		return 0;
	if (name && (err.code == -ENOENT || err.code == -ECONNREFUSED))
		fprintf(stderr,
			"polyvisor: no VM named '%s' is running; 'polyvisor ls' shows which are\n",
			name);
	else
		fprintf(stderr, "polyvisor: %s\n", err.text);
	return STATUS_HOST;
}

int cmd_ctl(int argc, char **argv)
{
	const char *socket = NULL, *name = NULL;
	char path[UNIX_PATH_MAX_LEN + 1];
	struct control_client client;
	json_t *arguments;
	_Bool json = 0;
	int code, status;

	opterr = 0;
	while ((code = getopt_long(argc, argv, ":s:jh", options, NULL)) != -1) {
		switch (code) {
		case 's': socket = optarg; break;
		case 'j': json = 1; break;
		case 'h': print_help(); return STATUS_OK;
		case ':':
			return cli_usage_error("ctl", "option '%s' needs a value",
					       argv[optind - 1]);
		default: return cli_usage_error("ctl", "unknown option '%s'", argv[optind - 1]);
		}
	}
	if (!socket && optind < argc)
		name = argv[optind++];
	if (!socket && !name)
		return cli_usage_error("ctl", "which VM? Give its name, or --socket PATH");
	if (optind == argc)
		return cli_usage_error("ctl", "which command?");
	arguments = parse_arguments(argv[optind], argv + optind + 1, argc - optind - 1);
	if (!arguments)
		return STATUS_USAGE;
	status = name ? find_socket(name, path, sizeof(path)) : 0;
	if (!status)
		status = connect_to(&client, name, name ? path : socket);
	if (status) {
		json_decref(arguments);
		return status;
	}
	status = run_command(&client, argv[optind], arguments, json);
	control_client_close(&client);
	return status;
}
