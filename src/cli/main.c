/* main.c: the command line's entry: which command. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct command commands[] = {
    {"run", "boot a virtual machine in this terminal", cmd_run},
    {"ls", "list the virtual machines that run under a name", cmd_ls},
    {"ctl", "send a command to a running virtual machine", cmd_ctl},
    {"doctor", "say what this host offers to virtual machines and what follows from it",
     cmd_doctor},
};

static void print_help(FILE *out)
{
	fputs("Polyvisor runs unmodified operating systems, with or without hardware "
	      "virtualization.\n"
	      "\n"
	      "usage: polyvisor COMMAND [OPTION...]\n"
	      "\n"
	      "commands:\n",
	      out);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].summary);
	fputs(
	    "\n"
	    "  polyvisor COMMAND --help   explains a command, with examples\n"
	    "  polyvisor --version        the version\n"
	    "\n"
	    "A first machine, with a kernel and an initial RAM disk at hand:\n"
	    "  polyvisor run --kernel vmlinuz --initrd initrd.img --append console=ttyS0\n"
	    "Its console is then this terminal: Ctrl-A X leaves, Ctrl-A H shows the other keys.\n",
	    out);
}

int cli_usage_error(const char *command, const char *fmt, ...)
{
	va_list ap;

	fputs("polyvisor: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry 'polyvisor %s%s--help'.\n", command, *command ? " " : "");
	return STATUS_USAGE;
}

/* Levenshtein's distance, for words of up to 31 letters. */
static unsigned edit_distance(const char *a, const char *b)
{
	unsigned row[32], la = (unsigned)strlen(a), lb = (unsigned)strlen(b);

	if (la > 31 || lb > 31)
		return 99;
	for (unsigned j = 0; j <= lb; j++)
		row[j] = j;
	for (unsigned i = 1; i <= la; i++) {
		unsigned diagonal = row[0];
		row[0] = i;
		for (unsigned j = 1; j <= lb; j++) {
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			best = MIN(best, row[j] + 1);
			row[j] = MIN(best, row[j - 1] + 1);
		}
	}
	return row[lb];
}

const char *cli_nearest(const char *typed, const char *const *names, unsigned count)
{
	const char *best = NULL;
	unsigned best_distance = 3;

	for (unsigned i = 0; i < count; i++) {
		unsigned d = edit_distance(typed, names[i]);
		if (d < best_distance) {
			best_distance = d;
			best = names[i];
		}
	}
	return best;
}

static int unknown_command(const char *typed)
{
	const char *names[ARRAY_SIZE(commands)];
	const char *near;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		names[i] = commands[i].name;
	near = cli_nearest(typed, names, ARRAY_SIZE(commands));
	if (near)
		return cli_usage_error("", "unknown command '%s'; did you mean '%s'?", typed, near);
	return cli_usage_error("", "unknown command '%s'", typed);
}

/* Output that could not be written (a full disk, a closed pipe) must not look like success. */
static int finish(int status)
{
	if (fflush(stdout) && status == STATUS_OK) {
		perror("polyvisor: cannot write the output");
		return STATUS_HOST;
	}
	return status;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		print_help(stderr);
		return STATUS_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_help(stdout);
		return finish(STATUS_OK);
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("polyvisor " POLYVISOR_VERSION);
		return finish(STATUS_OK);
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (!strcmp(argv[1], commands[i].name))
			return finish(commands[i].run(argc - 1, argv + 1));
	}
	if (argv[1][0] == '-')
		return cli_usage_error("", "unknown option '%s'", argv[1]);
	return unknown_command(argv[1]);
}
